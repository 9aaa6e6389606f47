/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A timeline in the trace event format of Chrome's viewer, which ui.perfetto.dev reads, and text for both kinds of output.
 *
 * What the importer demands: process and thread numbers of 32 bits that are not 0 (0 is the idle process), a thread in one process only and with no
 * process's number but its own (that is a main thread), times in microseconds, slices of a thread nested, names as metadata.  There are versions that
 * take displayTimeUnit for the unit of the times, or complain of it, and such that do not know \u in an event's own strings; there is neither.
 */
#include "timeline.h"

#include <stdlib.h>
#include <string.h>

#include "glockctl.h"

/* How long the UTF-8 character at @s is; 0: it is none. */
static int utf8_length(const char *s)
{
	unsigned char c = (unsigned char)*s;
	int n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;

	for (int i = 1; i < n; i++)
		if (((unsigned char)s[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong, surrogates, beyond the last. */
	if ((c == 0xe0 && (unsigned char)s[1] < 0xa0) || (c == 0xed && (unsigned char)s[1] > 0x9f) ||
	    (c == 0xef && (unsigned char)s[1] == 0xbf && (unsigned char)s[2] >= 0xbe) ||
	    (c == 0xf0 && (unsigned char)s[1] < 0x90) || (c == 0xf4 && (unsigned char)s[1] > 0x8f))
		return 0;
	return n;
}

static void put_text(FILE *out, const char *s, const char *(*escape)(char c))
{
	while (*s) {
		int n = utf8_length(s);
		const char *e = escape(*s);

		if (!n || (unsigned char)*s < ' ' || *s == 0x7f)
			fputc('?', out);
		else if (e)
			fputs(e, out);
		else
			fwrite(s, 1, (size_t)n, out);
		s += n ? n : 1;
	}
}

static const char *xml_escape(char c)
{
	return c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : NULL;
}

static const char *json_escape(char c)
{
	return c == '"' ? "\\\"" : c == '\\' ? "\\\\" : NULL;
}

void put_xml(FILE *out, const char *s)
{
	put_text(out, s, xml_escape);
}

/* --- for the trace viewer --- */

/* Threads of a lock: 0 its state, then rows.  No process has such a number. */
#define THREADS 1000
#define FIRST_THREAD (1 << 24)

static long long thread_at(int lane, int row)
{
	return FIRST_THREAD + (long long)lane * THREADS + row;
}

static long long thread_of(const struct span *s)
{
	static const int first[] = { [SPAN_STATE] = 0, [SPAN_HOLDER] = 100, [SPAN_HAND] = 100, [SPAN_DIO] = 300, [SPAN_PHASE] = 300,
				     [SPAN_BREAK] = 500 };

	return thread_at(s->lane, first[s->kind] + s->row);
}

struct slice {
	long long t, dur, pid, tid;
	char ph;
	const char *name;
	char text[256];
};

static int by_begin(const void *pa, const void *pb)
{
	const struct slice *a = pa, *b = pb;

	if (a->t != b->t)
		return a->t < b->t ? -1 : 1;
	return a->dur > b->dur ? -1 : a->dur < b->dur;
}

static void json_name(FILE *out, const char *what, long long pid, long long tid, const char *name, const char *more)
{
	fprintf(out, "{\"ph\":\"M\",\"name\":\"%s\",\"pid\":%lld,\"tid\":%lld,\"args\":{\"name\":\"", what, pid, tid);
	put_text(out, name, json_escape);
	put_text(out, more, json_escape);
	fputs("\"}},\n", out);
}

static void json_names(const struct timeline *tl, FILE *out)
{
	static const struct {
		int first, class;
		const char *name;
	} rows[] = { { 100, ROWS_HOLDERS, " holders" }, { 300, ROWS_DIO, " direct I/O" }, { 500, ROWS_BREAK, " stopped" } };

	for (int i = 0; i < tl->nr_nodes; i++)
		json_name(out, "process_name", tl->nodes[i].pid, tl->nodes[i].pid, tl->nodes[i].name, "");
	for (int i = 0; i < tl->nr_lanes; i++) {
		const struct lane *l = &tl->lanes[i];
		long long pid = tl->nodes[l->node].pid, tid = thread_at(i, 0);

		json_name(out, "thread_name", pid, tid, l->name, "");
		for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
			for (int row = 0; row < l->rows[rows[r].class]; row++)
				json_name(out, "thread_name", pid, tid + rows[r].first + row, l->name, rows[r].name);
	}
	/* The viewer sorts by name without this. */
	for (int i = 0; i < tl->nr_lanes; i++)
		for (int row = 0; row < THREADS; row++) {
			const struct lane *l = &tl->lanes[i];
			bool used = !row;

			for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
				used |= row >= rows[r].first && row < rows[r].first + l->rows[rows[r].class];
			if (used)
				fprintf(out, "{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":%lld,\"tid\":%lld,\"args\":{\"sort_index\":%lld}},\n",
					tl->nodes[l->node].pid, thread_at(i, row), 1 + (long long)i * THREADS + row);
		}
}

static struct slice *add_slice(struct slice **all, size_t *nr, long long t, long long end)
{
	struct slice *x;

	*all = grow(*all, *nr, sizeof(**all));
	x = &(*all)[(*nr)++];
	*x = (struct slice){ .t = t, .dur = end > t ? end - t : 0, .ph = 'X' };
	return x;
}

static const char *slice_name(const struct span *s)
{
	static const char *const names[] = { [SPAN_DIO] = "direct I/O", [SPAN_BREAK] = "breakpoint", [SPAN_HAND] = "held by hand" };

	if (s->kind == SPAN_STATE)
		return s->value < 0 ? "?" : state_names[s->value];
	return s->kind == SPAN_PHASE ? phase_names[s->value] : names[s->kind];
}

static void span_slices(const struct timeline *tl, const struct span *s, struct slice **all, size_t *nr)
{
	long long wait_end = s->granted < 0 ? s->end : s->granted;
	struct slice *x;

	for (int part = 0; part < (s->kind == SPAN_HOLDER ? 2 : 1); part++) {
		if (s->kind != SPAN_HOLDER)
			x = add_slice(all, nr, s->t, s->end);
		else if (!part)
			x = wait_end > s->t ? add_slice(all, nr, s->t, wait_end) : NULL;
		else
			x = s->granted >= 0 ? add_slice(all, nr, wait_end, s->end) : NULL;
		if (!x)
			continue;
		x->pid = tl->nodes[tl->lanes[s->lane].node].pid;
		x->tid = thread_of(s);
		x->name = s->kind != SPAN_HOLDER ? slice_name(s) : part ? "held" : "waits";
		describe_span(s, x->text, sizeof(x->text));
	}
}

void timeline_json(const struct timeline *tl, FILE *out)
{
	struct slice *all = NULL, *x;
	size_t nr = 0;

	for (size_t i = 0; i < tl->nr_spans; i++)
		span_slices(tl, tl->spans[i], &all, &nr);
	for (size_t i = 0; i < tl->nr_marks; i++) {
		const struct mark *m = &tl->marks[i];

		x = add_slice(&all, &nr, m->e->t, m->e->t);
		x->ph = 'i';
		x->pid = tl->nodes[tl->lanes[m->lane].node].pid;
		x->tid = m->dio ? thread_of(m->dio) : thread_at(m->lane, 0);
		x->name = m->e->name;
		describe_event(m->e, x->text, sizeof(x->text));
	}
	for (int i = 0; i < tl->nr_gaps; i++) {
		x = add_slice(&all, &nr, tl->gaps[i].t, tl->gaps[i].t);
		x->ph = 'i';
		x->pid = x->tid = tl->nodes[tl->gaps[i].node].pid;
		x->name = "events were missed";
		snprintf(x->text, sizeof(x->text), "%lld events were missed", tl->gaps[i].missed);
	}
	if (nr)
		qsort(all, nr, sizeof(*all), by_begin);
	fprintf(out, "{\"otherData\":{\"start_ns\":\"%lld\"},\"traceEvents\":[\n", tl->t0);
	json_names(tl, out);
	for (size_t i = 0; i < nr; i++) {
		long long t;

		x = &all[i];
		t = x->t - tl->t0;
		fprintf(out, "{\"ph\":\"%c\",\"name\":\"", x->ph);
		put_text(out, x->name, json_escape);
		fprintf(out, "\",\"pid\":%lld,\"tid\":%lld,\"ts\":%lld.%03lld", x->pid, x->tid, t / 1000, t % 1000);
		if (x->ph == 'X')
			fprintf(out, ",\"dur\":%lld.%03lld", x->dur / 1000, x->dur % 1000);
		else
			fprintf(out, ",\"s\":\"%s\"", x->tid != x->pid ? "t" : "p");
		fputs(",\"args\":{\"what\":\"", out);
		put_text(out, x->text, json_escape);
		fprintf(out, "\"}}%s\n", i + 1 < nr ? "," : "");
	}
	fputs("]}\n", out);
	free(all);
}
