/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A timeline as a picture.
 *
 * Time runs to the right in one scale.  Where nothing happens for long compared with all the rest (somebody thinks at a breakpoint) the axis is
 * cut: otherwise microseconds could not be seen beside seconds.  What is narrower than a line is drawn as a line, and once.
 */
#include "timeline.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "glockctl.h"

enum { LEFT = 250, PLOT = 1120, RIGHT = 40, TOP = 128, STATE_H = 16, HOLDER_H = 7, DIO_H = 11, BREAK_H = 9, PAD = 7, LANE_MIN = 32 };
/* Rows of one kind that are drawn; what needs more is drawn over the last. */
enum { DRAWN_ROWS = 8 };

static const char *const state_colours[NR_STATES] = { "#dde2e8", "#e5786d", "#f6c344", "#86bbea" };
static const char *const state_meaning[NR_STATES] = { "unlocked", "exclusive", "deferred (direct I/O)", "shared" };
static const char *const phase_colours[NR_PHASES] = { "#1b998b", "#5f6b7a", "#c2185b", "#8d5a3b" };
#define WAIT_COLOUR "#7b3fa0"
#define HELD_COLOUR "#b9dfc0"
#define HAND_COLOUR "#3b5bdb"

/* A stretch of the axis with one scale. */
struct piece {
	long long t0, t1;
	double x0, x1;
	bool cut;
};

struct picture {
	const struct timeline *tl;
	FILE *out;
	struct piece *pieces;
	int nr_pieces;
	double scale;		/* pixels a nanosecond where nothing is cut */
	int *y;			/* of lanes; one more: the end */
	/* [lane][kind][which][row]: where the last was drawn that is no wider than a line */
	double (*last_x)[SPAN_HAND + 1][1 + NR_STATES][DRAWN_ROWS];
};

/* --- the axis --- */

static int by_length(const void *pa, const void *pb)
{
	const long long *a = pa, *b = pb;

	return (*a > *b) - (*a < *b);
}

/* Gaps from this length on are cut: the first that is a third of all shorter ones together, or more, with those beyond it. */
static long long cut_from(const long long *times, size_t nr)
{
	long long *gaps = calloc(nr + 1, sizeof(*gaps)), sum = 0, from = EVENT_TIME_MAX;
	size_t n = nr ? nr - 1 : 0, i;

	if (!gaps)
		die(EXIT_REFUSED, "out of memory");
	for (i = 0; i < n; i++)
		gaps[i] = times[i + 1] - times[i];
	qsort(gaps, n, sizeof(*gaps), by_length);
	for (i = 0; i < n; i++) {
		if (i >= n / 2 && gaps[i] / 3 >= sum / 8 && sum) {
			from = gaps[i];
			break;
		}
		sum += gaps[i];
	}
	free(gaps);
	return from;
}

static void add_piece(struct picture *p, long long t0, long long t1, bool cut)
{
	struct piece *last = p->nr_pieces ? &p->pieces[p->nr_pieces - 1] : NULL;

	if (last && !last->cut && !cut)
		last->t1 = t1;
	else
		p->pieces[p->nr_pieces++] = (struct piece){ .t0 = t0, .t1 = t1, .cut = cut };
}

static void make_axis(struct picture *p, bool linear)
{
	const struct timeline *tl = p->tl;
	long long *times = calloc(tl->nr_events + 2, sizeof(*times)), from, sum = 0;
	double cut_width, x = LEFT;
	size_t nr = 0, i;
	int cuts = 0;

	p->pieces = calloc(2 * tl->nr_events + 4, sizeof(*p->pieces));
	if (!times || !p->pieces)
		die(EXIT_REFUSED, "out of memory");
	for (i = 0; i < tl->nr_events; i++)
		if (tl->events[i].lane >= 0)
			times[nr++] = tl->events[i].e.t;
	from = linear ? EVENT_TIME_MAX : cut_from(times, nr);
	/* A little room, so that the first and last can be seen. */
	add_piece(p, times[0], times[0], false);
	for (i = 0; i + 1 < nr; i++) {
		bool cut = times[i + 1] - times[i] >= from;

		add_piece(p, times[i], times[i + 1], cut);
		if (cut)
			add_piece(p, times[i + 1], times[i + 1], false);
		cuts += cut;
		sum += cut ? 0 : times[i + 1] - times[i];
	}
	if (sum < 100)
		sum = 100;
	/* Where a cut would end something, room is left on both sides. */
	for (int n = 0; n < p->nr_pieces; n++) {
		long long room = sum / 40 / (cuts + 1) + 1;

		if (p->pieces[n].cut)
			continue;
		p->pieces[n].t0 -= room;
		p->pieces[n].t1 += room;
		if (n)
			p->pieces[n - 1].t1 = p->pieces[n].t0;
		if (n + 1 < p->nr_pieces)
			p->pieces[n + 1].t0 = p->pieces[n].t1;
	}
	sum = 0;
	for (int n = 0; n < p->nr_pieces; n++)
		sum += p->pieces[n].cut ? 0 : p->pieces[n].t1 - p->pieces[n].t0;
	cut_width = cuts <= 0.4 * PLOT / 46 ? 46 : 0.4 * PLOT / cuts;
	p->scale = (PLOT - cuts * cut_width) / (double)sum;
	for (int n = 0; n < p->nr_pieces; n++) {
		struct piece *s = &p->pieces[n];

		s->x0 = x;
		x += s->cut ? cut_width : p->scale * (double)(s->t1 - s->t0);
		s->x1 = x;
	}
	free(times);
}

static double x_of(const struct picture *p, long long t)
{
	int lo = 0, hi = p->nr_pieces - 1;
	const struct piece *s;

	while (lo < hi) {
		int mid = (lo + hi) / 2;

		if (p->pieces[mid].t1 < t)
			lo = mid + 1;
		else
			hi = mid;
	}
	s = &p->pieces[lo];
	if (t <= s->t0)
		return s->x0;
	return t >= s->t1 ? s->x1 : s->x0 + (s->x1 - s->x0) * (double)(t - s->t0) / (double)(s->t1 - s->t0);
}

/* 1, 2 or 5 times a power of ten, at least @ns. */
static long long round_step(double ns)
{
	long long step = 1;

	while ((double)step < ns && step < EVENT_TIME_MAX / 10) {
		if ((double)step * 2 >= ns)
			return step * 2;
		if ((double)step * 5 >= ns)
			return step * 5;
		step *= 10;
	}
	return step;
}

static void text(struct picture *p, double x, double y, const char *attributes, const char *s)
{
	fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
	put_xml(p->out, s);
	fputs("</text>\n", p->out);
}

static void line(struct picture *p, double x, double y0, double y1, const char *attributes)
{
	fprintf(p->out, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" %s/>\n", x, x, y0, y1, attributes);
}

/* Where a stretch begins: the time since the beginning; within it, since that. */
static void draw_axis(struct picture *p)
{
	double bottom = p->y[p->tl->nr_lanes], free_from = 0;
	long long origin = p->pieces[0].t0, step = round_step(78 / p->scale);
	char s[40], d[32];

	for (int i = 0; i < p->nr_pieces; i++) {
		const struct piece *piece = &p->pieces[i];

		if (piece->cut) {
			double mid = (piece->x0 + piece->x1) / 2;

			fprintf(p->out, "<rect class=\"cut\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%.1f\" fill=\"#f1f1ee\"/>\n", piece->x0, TOP,
				piece->x1 - piece->x0, bottom - TOP);
			fprintf(p->out, "<path d=\"M%.1f %d l-3 -5 l6 -4 l-3 -5\" fill=\"none\" stroke=\"#777\"/>\n", mid, TOP);
			if (piece->x1 - piece->x0 >= 40)
				text(p, mid, TOP - 18, "class=\"small\" text-anchor=\"middle\"",
				     duration(piece->t1 - piece->t0, d, sizeof(d)));
			continue;
		}
		if (piece->x0 >= free_from) {
			snprintf(s, sizeof(s), "%s", i ? duration(piece->t0 - origin, d, sizeof(d)) : "0");
			text(p, piece->x0, TOP - 30, "class=\"tick\" font-weight=\"bold\"", s);
			line(p, piece->x0, TOP - 28, bottom, "stroke=\"#bbb\"");
			free_from = piece->x0 + 60;
		}
		for (long long t = step; piece->t0 + t <= piece->t1; t += step) {
			double x = x_of(p, piece->t0 + t);

			line(p, x, TOP - 5, bottom, "stroke=\"#e6e6e6\"");
			snprintf(s, sizeof(s), "+%s", duration(t, d, sizeof(d)));
			text(p, x, TOP - 8, "class=\"tick\" text-anchor=\"middle\"", s);
		}
	}
	fprintf(p->out, "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"#555\"/>\n", LEFT, LEFT + PLOT, TOP, TOP);
}

/* --- the legend --- */

struct legend {
	struct picture *p;
	double x, y;
};

/* As far as the letters are about that wide. */
static void legend_text(struct legend *l, const char *s, const char *attributes)
{
	text(l->p, l->x, l->y, attributes, s);
	l->x += (strstr(attributes, "bold") ? 7 : 6.1) * (double)strlen(s) + 14;
}

static void legend_box(struct legend *l, const char *fill, const char *s)
{
	fprintf(l->p->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"10\" fill=\"%s\" stroke=\"#777\" stroke-width=\"0.5\"/>\n", l->x,
		l->y - 9, fill);
	l->x += 18;
	legend_text(l, s, "class=\"tick\"");
}

static void draw_glyph(struct picture *p, double x, double y, const char *event)
{
	if (!strcmp(event, "dio_submit"))
		fprintf(p->out, "<path d=\"M%.1f %.1f l-3 6 h6 z\" fill=\"#111\"", x, y);
	else if (!strcmp(event, "dio_hole"))
		fprintf(p->out, "<path d=\"M%.1f %.1f l4 5 l-4 5 l-4 -5 z\" fill=\"#fff\" stroke=\"#c00\" stroke-width=\"1.5\"", x, y);
	else
		fprintf(p->out, "<path d=\"M%.1f %.1f l-4 -7 h8 z\" fill=\"%s\" stroke=\"#111\"", x, y, strcmp(event, "dlm_bast") ? "#111" : "#fff");
}

static void legend_glyph(struct legend *l, const char *event, double dy, const char *s)
{
	draw_glyph(l->p, l->x + 5, l->y + dy, event);
	fputs("/>\n", l->p->out);
	l->x += 14;
	legend_text(l, s, "class=\"tick\"");
}

static void draw_legend(struct picture *p)
{
	static const int order[NR_STATES] = { 0, 3, 2, 1 };
	struct legend l = { p, 12, 46 };
	char s[64];

	fputs("<g id=\"legend\">\n", p->out);
	legend_text(&l, "State", "class=\"tick\" font-weight=\"bold\"");
	for (int i = 0; i < NR_STATES; i++) {
		snprintf(s, sizeof(s), "%s %s", state_names[order[i]], state_meaning[order[i]]);
		legend_box(&l, state_colours[order[i]], s);
	}
	legend_box(&l, "#fff", "not known");
	legend_glyph(&l, "glock_demote_rq", 0, "asked back");
	legend_glyph(&l, "dlm_bast", 0, "another node's demand");
	l.x = 12;
	l.y = 64;
	legend_text(&l, "Holders", "class=\"tick\" font-weight=\"bold\"");
	legend_box(&l, WAIT_COLOUR, "waits for the lock");
	legend_box(&l, HELD_COLOUR, "holds it");
	legend_box(&l, HAND_COLOUR, "held by hand");
	legend_text(&l, "Direct I/O", "class=\"tick\" font-weight=\"bold\"");
	for (int i = 0; i < NR_PHASES; i++)
		legend_box(&l, phase_colours[i], phase_names[i]);
	legend_glyph(&l, "dio_submit", -7, "request to the device");
	legend_glyph(&l, "dio_hole", -9, "hole");
	legend_text(&l, "Debugger", "class=\"tick\" font-weight=\"bold\"");
	legend_box(&l, "url(#hatch)", "stopped at a breakpoint");
	fputs("</g>\n", p->out);
}

/* --- lanes --- */

static int drawn(const struct lane *l, enum row_class class)
{
	return l->rows[class] < DRAWN_ROWS ? l->rows[class] : DRAWN_ROWS;
}

static const int heights[NR_ROWS] = { HOLDER_H + 1, DIO_H + 1, BREAK_H + 1 };

/* From top to bottom: breakpoints, the state, direct I/O, holders. */
static double row_y(const struct picture *p, int lane, enum row_class class, int row)
{
	const struct lane *l = &p->tl->lanes[lane];
	double y = p->y[lane] + PAD;

	if (row >= DRAWN_ROWS)
		row = DRAWN_ROWS - 1;
	if (class != ROWS_BREAK)
		y += drawn(l, ROWS_BREAK) * heights[ROWS_BREAK] + STATE_H + 2;
	if (class == ROWS_HOLDERS)
		y += drawn(l, ROWS_DIO) * heights[ROWS_DIO];
	return y + row * heights[class];
}

static double state_y(const struct picture *p, int lane)
{
	return row_y(p, lane, ROWS_DIO, 0) - STATE_H - 2;
}

static void place_lanes(struct picture *p)
{
	const struct timeline *tl = p->tl;
	int y = TOP + 4;

	p->y = calloc((size_t)tl->nr_lanes + 1, sizeof(*p->y));
	p->last_x = calloc((size_t)tl->nr_lanes, sizeof(*p->last_x));
	if (!p->y || !p->last_x)
		die(EXIT_REFUSED, "out of memory");
	for (int i = 0; i < tl->nr_lanes; i++) {
		int height = STATE_H + 2;

		for (int class = 0; class < NR_ROWS; class++)
			height += drawn(&tl->lanes[i], class) * heights[class];
		p->y[i] = y;
		y += (height < LANE_MIN ? LANE_MIN : height) + 2 * PAD;
	}
	p->y[tl->nr_lanes] = y;
}

/* Of a long mount point its end, where names differ. */
static void node_name(const char *name, char *buf, size_t size)
{
	const char *dir = strchr(name, '/'), *end = name + strlen(name);
	enum { ROOM = 16 };

	if (!dir || end - dir <= ROOM) {
		snprintf(buf, size, "%.60s", name);
		return;
	}
	end -= ROOM - 1;
	/* Not within a character. */
	while (((unsigned char)*end & 0xc0) == 0x80)
		end++;
	snprintf(buf, size, "%.*s…%s", (int)(dir - name), name, end);
}

static void draw_lane(struct picture *p, int lane)
{
	static const struct {
		enum row_class class;
		const char *name;
	} rows[] = { { ROWS_BREAK, "stopped" }, { ROWS_DIO, "direct I/O" }, { ROWS_HOLDERS, "holders" } };
	const struct lane *l = &p->tl->lanes[lane];
	int y = p->y[lane], below = p->y[lane + 1];
	char name[64];

	fprintf(p->out, "<g class=\"lane\"><rect x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", y, LEFT - 4, below - y,
		lane % 2 ? "#fff" : "#f7f8fa");
	fputs("<title>", p->out);
	put_xml(p->out, l->name);
	fputc(' ', p->out);
	put_xml(p->out, p->tl->nodes[l->node].name);
	fputs("</title>\n", p->out);
	text(p, 12, y + PAD + 12, "class=\"name\"", l->name);
	node_name(p->tl->nodes[l->node].name, name, sizeof(name));
	text(p, 12, y + PAD + 26, "class=\"small\"", name);
	text(p, LEFT - 8, state_y(p, lane) + 12, "class=\"small\" text-anchor=\"end\"", "state");
	for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
		if (l->rows[rows[r].class])
			text(p, LEFT - 8, row_y(p, lane, rows[r].class, 0) + heights[rows[r].class] / 2 + 3,
			     "class=\"small\" text-anchor=\"end\"", rows[r].name);
	fputs("</g>\n", p->out);
	fprintf(p->out, "<line x1=\"0\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"#ccc\"/>\n", LEFT + PLOT, below, below);
}

/* @which: of several of a kind; each is seen at least once, however narrow. */
static void bar(struct picture *p, const struct span *s, int which, long long t, long long end, double y, int height, const char *attributes)
{
	double x = x_of(p, t), width = x_of(p, end) - x;
	double *last = &p->last_x[s->lane][s->kind][which][s->row < DRAWN_ROWS ? s->row : DRAWN_ROWS - 1];
	char what[256];

	if (width < 1.2) {
		if (x < *last + 1)
			return;
		*last = x;
		width = 1.2;
	}
	describe_span(s, what, sizeof(what));
	fprintf(p->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" %s><title>", x, y, width, height, attributes);
	put_xml(p->out, what);
	fputs("</title></rect>\n", p->out);
}

static void draw_state(struct picture *p, const struct span *s)
{
	double x = x_of(p, s->t), width = x_of(p, s->end) - x, y = state_y(p, s->lane);
	char attributes[160];

	snprintf(attributes, sizeof(attributes), "class=\"state %s\" fill=\"%s\" stroke=\"#888\" stroke-width=\"0.4\"%s",
		 s->value < 0 ? "unknown" : state_names[s->value], s->value < 0 ? "#fff" : state_colours[s->value],
		 s->value < 0 ? " stroke-dasharray=\"3 2\"" : "");
	bar(p, s, s->value + 1, s->t, s->end, y, STATE_H, attributes);
	if (s->value >= 0 && width > 20)
		text(p, x + width / 2, y + 12, "class=\"in\" text-anchor=\"middle\"", state_names[s->value]);
}

static void draw_span(struct picture *p, const struct span *s)
{
	char attributes[128];
	double y;

	switch (s->kind) {
	case SPAN_STATE:
		draw_state(p, s);
		break;
	case SPAN_HOLDER:
		y = row_y(p, s->lane, ROWS_HOLDERS, s->row);
		if (s->granted >= 0)
			bar(p, s, 1, s->granted, s->end, y, HOLDER_H, "class=\"held\" fill=\"" HELD_COLOUR "\" stroke=\"#7db58a\" stroke-width=\"0.4\"");
		if (s->granted < 0 || s->granted > s->t)
			bar(p, s, 0, s->t, s->granted < 0 ? s->end : s->granted, y, HOLDER_H, "class=\"wait\" fill=\"" WAIT_COLOUR "\"");
		break;
	case SPAN_HAND:
		bar(p, s, 0, s->t, s->end, row_y(p, s->lane, ROWS_HOLDERS, s->row), HOLDER_H, "class=\"hand\" fill=\"" HAND_COLOUR "\"");
		break;
	case SPAN_DIO:
		break;		/* its phases are drawn */
	case SPAN_PHASE:
		snprintf(attributes, sizeof(attributes), "class=\"dio %s\" fill=\"%s\"", phase_names[s->value], phase_colours[s->value]);
		bar(p, s, s->value, s->t, s->end, row_y(p, s->lane, ROWS_DIO, s->row), DIO_H, attributes);
		break;
	case SPAN_BREAK:
		fprintf(p->out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"url(#hatch)\" fill-opacity=\"0.35\" pointer-events=\"none\"/>\n",
			x_of(p, s->t), p->y[s->lane] + 1, x_of(p, s->end) - x_of(p, s->t), p->y[s->lane + 1] - p->y[s->lane] - 2);
		bar(p, s, 0, s->t, s->end, row_y(p, s->lane, ROWS_BREAK, s->row), BREAK_H, "class=\"break\" fill=\"url(#hatch)\" stroke=\"#333\" stroke-width=\"0.8\"");
	}
}

/* Once a pixel for each lane and kind. */
static void draw_marks(struct picture *p)
{
	static const char *const kinds[] = { "dio_submit", "dio_hole", "glock_demote_rq", "dlm_bast" };
	double *last = calloc((size_t)p->tl->nr_lanes * 4, sizeof(*last));
	char what[256];

	if (!last)
		die(EXIT_REFUSED, "out of memory");
	for (size_t i = 0; i < p->tl->nr_marks; i++) {
		const struct mark *m = &p->tl->marks[i];
		double x = x_of(p, m->e->t), y = state_y(p, m->lane) + 4;
		int kind = 0;

		while (kind < 3 && strcmp(kinds[kind], m->e->name))
			kind++;
		if (x < last[4 * m->lane + kind] + 1)
			continue;
		last[4 * m->lane + kind] = x;
		if (kind < 2)
			y = row_y(p, m->lane, ROWS_DIO, m->dio ? m->dio->row : 0) + (kind ? 0 : DIO_H - 6);
		draw_glyph(p, x, y, m->e->name);
		describe_event(m->e, what, sizeof(what));
		fprintf(p->out, " class=\"%s\"><title>", m->e->name);
		put_xml(p->out, what);
		fputs("</title></path>\n", p->out);
	}
	free(last);
}

static void draw_gaps(struct picture *p)
{
	char s[80];

	for (int i = 0; i < p->tl->nr_gaps; i++) {
		const struct gap *g = &p->tl->gaps[i];

		fprintf(p->out, "<g class=\"gap\"><title>%lld events were missed here on ", g->missed);
		put_xml(p->out, p->tl->nodes[g->node].name);
		fputs("</title>\n", p->out);
		line(p, x_of(p, g->t), TOP, p->y[p->tl->nr_lanes], "stroke=\"#d00\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"");
		snprintf(s, sizeof(s), "%lld missed", g->missed);
		text(p, x_of(p, g->t) + 3, p->y[p->tl->nr_lanes] + 12, "class=\"small\" fill=\"#d00\"", s);
		fputs("</g>\n", p->out);
	}
}

static void draw_title(struct picture *p)
{
	const struct timeline *tl = p->tl;
	time_t seconds = (time_t)(p->pieces[0].t0 / 1000000000);
	char when[64] = "", all[200], d[32];
	struct tm tm;

	if (gmtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(all, sizeof(all), "Locks of %d node%s from %s.%06lld UTC, %s, %zu events%s", tl->nr_nodes, tl->nr_nodes == 1 ? "" : "s", when,
		 p->pieces[0].t0 / 1000 % 1000000, duration(p->pieces[p->nr_pieces - 1].t1 - p->pieces[0].t0, d, sizeof(d)), tl->nr_events,
		 tl->left_out ? " (quiet locks are left out)" : "");
	text(p, 12, 22, "class=\"title\"", all);
}

void timeline_svg(const struct timeline *tl, bool linear, FILE *out)
{
	struct picture p = { .tl = tl, .out = out };
	int height;

	make_axis(&p, linear);
	place_lanes(&p);
	height = p.y[tl->nr_lanes] + 20;
	fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
		     "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\">\n",
		LEFT + PLOT + RIGHT, height, LEFT + PLOT + RIGHT, height);
	fputs("<style>.title{font-size:15px;font-weight:bold}.tick,.name,.in{font-size:11px}.small{font-size:10px;fill:#555}"
	      ".name{font-weight:bold}.in{pointer-events:none}</style>\n"
	      "<defs><pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
	      "<line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" stroke=\"#333\" stroke-width=\"2.4\"/></pattern></defs>\n"
	      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
	      out);
	draw_title(&p);
	draw_legend(&p);
	draw_axis(&p);
	for (int i = 0; i < tl->nr_lanes; i++)
		draw_lane(&p, i);
	for (size_t i = 0; i < tl->nr_spans; i++)
		if (tl->spans[i]->kind != SPAN_BREAK)
			draw_span(&p, tl->spans[i]);
	draw_marks(&p);
	for (size_t i = 0; i < tl->nr_spans; i++)
		if (tl->spans[i]->kind == SPAN_BREAK)
			draw_span(&p, tl->spans[i]);
	draw_gaps(&p);
	fputs("</svg>\n", out);
	free(p.pieces);
	free(p.y);
	free(p.last_x);
}
