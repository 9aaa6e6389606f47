/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A timeline's spans and marks, made of its events: states, who waited and held, direct I/O and its phases, stops.
 */
#include "timeline.h"

#include <stdlib.h>
#include <string.h>

#include "glockctl.h"

/* Of a lane; more that have no end (a choice of events without them) are forgotten, the oldest first. */
#define MAX_OPEN 512

/* Of a lane, while it is built: spans without an end, oldest first. */
struct open_spans {
	struct span *s[MAX_OPEN];
	int nr;
};

struct builder {
	struct timeline *tl;
	struct open_spans *open; /* [lane] */
};

static struct span *add_span(struct builder *b, const struct event_of *x, enum span_kind kind, int value)
{
	struct timeline *tl = b->tl;
	struct open_spans *o = &b->open[x->lane];
	struct span *s = must(reallocarray(NULL, 1, sizeof(*s)));
	int old = 0;

	*s = (struct span){ .kind = kind, .lane = x->lane, .value = value, .open = true, .t = x->e.t, .end = tl->t1, .granted = -1,
			    .first = &x->e };
	tl->spans = grow(tl->spans, tl->nr_spans, sizeof(*tl->spans));
	tl->spans[tl->nr_spans++] = s;
	if (o->nr == MAX_OPEN) {
		old += o->s[0]->kind == SPAN_STATE;
		memmove(&o->s[old], &o->s[old + 1], (size_t)(--o->nr - old) * sizeof(o->s[0]));
	}
	o->s[o->nr++] = s;
	return s;
}

static void end_span(struct builder *b, struct span *s, const struct event *e)
{
	struct open_spans *o = &b->open[s->lane];

	for (int i = 0; i < o->nr; i++)
		if (o->s[i] == s)
			memmove(&o->s[i], &o->s[i + 1], (size_t)(--o->nr - i) * sizeof(o->s[0]));
	s->open = false;
	s->end = e->t;
	s->last = e;
}

/* The oldest open span of that kind which @fits. */
static struct span *find_open(struct builder *b, const struct event_of *x, enum span_kind kind,
			      bool (*fits)(const struct span *s, const struct event *e))
{
	struct open_spans *o = &b->open[x->lane];

	for (int i = 0; i < o->nr; i++)
		if (o->s[i]->kind == kind && (!fits || fits(o->s[i], &x->e)))
			return o->s[i];
	return NULL;
}

/* A lock is sometimes granted on a thread that does not know the process. */
static bool same_request(const struct span *s, const struct event *e)
{
	return s->first->req == e->req && (s->first->pid == e->pid || (e->req && (!e->pid || !s->first->pid)));
}

static bool waits_for(const struct span *s, const struct event *e)
{
	return s->granted < 0 && s->value == e->to && same_request(s, e);
}

/* A thread's own holder is granted on another thread, under that one's name. */
static bool may_wait_for(const struct span *s, const struct event *e)
{
	return s->granted < 0 && s->value == e->to && !s->first->req;
}

static bool holds(const struct span *s, const struct event *e)
{
	return s->granted >= 0 && s->value == e->to && same_request(s, e);
}

static bool may_hold(const struct span *s, const struct event *e)
{
	return s->granted >= 0 && s->value == e->to;
}

static bool same_stop(const struct span *s, const struct event *e)
{
	return same_request(s, e) && s->first->from == e->from && s->first->to == e->to && s->first->off == e->off &&
	       s->first->len == e->len;
}

static void build_holder(struct builder *b, const struct event_of *x)
{
	struct span *s;

	if (!strcmp(x->e.name, "glock_queue")) {
		add_span(b, x, SPAN_HOLDER, x->e.to);
	} else if (!strcmp(x->e.name, "glock_promote")) {
		s = find_open(b, x, SPAN_HOLDER, waits_for);
		if (!s)
			s = find_open(b, x, SPAN_HOLDER, may_wait_for);
		if (s)
			s->granted = x->e.t;
	} else {
		s = find_open(b, x, SPAN_HOLDER, holds);
		if (!s)
			s = find_open(b, x, SPAN_HOLDER, waits_for);
		if (!s)
			s = find_open(b, x, SPAN_HOLDER, may_hold);
		if (s)
			end_span(b, s, &x->e);
	}
}

static void build_state(struct builder *b, const struct event_of *x)
{
	struct span *s = find_open(b, x, SPAN_STATE, NULL);

	if (s)
		end_span(b, s, &x->e);
	s = add_span(b, x, SPAN_STATE, x->e.to);
	/* In front, where it is found at once and never forgotten. */
	memmove(&b->open[x->lane].s[1], &b->open[x->lane].s[0], (size_t)(b->open[x->lane].nr - 1) * sizeof(s));
	b->open[x->lane].s[0] = s;
}

/* The phase that a direct request is in ends, and the next begins. */
static void next_phase(struct builder *b, struct span *dio, const struct event_of *x, int phase)
{
	struct open_spans *o = &b->open[x->lane];

	for (int i = 0; i < o->nr; i++) {
		if (o->s[i]->kind == SPAN_PHASE && o->s[i]->parent == dio) {
			end_span(b, o->s[i], &x->e);
			break;
		}
	}
	if (phase >= 0)
		add_span(b, x, SPAN_PHASE, phase)->parent = dio;
}

static void build_dio(struct builder *b, const struct event_of *x)
{
	struct span *dio = find_open(b, x, SPAN_DIO, same_request);
	const char *what = x->e.name + strlen("dio_");

	if (!strcmp(what, "begin")) {
		/* Begun on one thread, and again by one that may wait: still one request. */
		if (!dio)
			next_phase(b, add_span(b, x, SPAN_DIO, 0), x, PHASE_DIRECT);
	} else if (!dio) {
		return;
	} else if (!strcmp(what, "end")) {
		next_phase(b, dio, x, -1);
		end_span(b, dio, &x->e);
	} else if (!strcmp(what, "drain_begin")) {
		next_phase(b, dio, x, PHASE_DRAIN);
	} else if (!strcmp(what, "drain_end")) {
		next_phase(b, dio, x, PHASE_DIRECT);
	} else if (!strcmp(what, "upgrade")) {
		next_phase(b, dio, x, PHASE_UPGRADE);
	} else if (!strcmp(what, "buffered")) {
		next_phase(b, dio, x, PHASE_BUFFERED);
	}
}

static void add_mark(struct builder *b, const struct event_of *x)
{
	struct timeline *tl = b->tl;

	tl->marks = grow(tl->marks, tl->nr_marks, sizeof(*tl->marks));
	tl->marks[tl->nr_marks++] = (struct mark){ .lane = x->lane, .e = &x->e, .dio = find_open(b, x, SPAN_DIO, same_request) };
}

static void build_event(struct builder *b, const struct event_of *x)
{
	const char *name = x->e.name;
	struct span *s;

	if (!strcmp(name, "glock_queue") || !strcmp(name, "glock_promote") || !strcmp(name, "glock_dequeue")) {
		build_holder(b, x);
	} else if (!strcmp(name, "glock_state")) {
		build_state(b, x);
	} else if (!strcmp(name, "break_hit")) {
		add_span(b, x, SPAN_BREAK, 0);
	} else if (!strcmp(name, "glock_hold") || !strcmp(name, "break_go")) {
		s = *name == 'g' ? find_open(b, x, SPAN_HAND, NULL) : find_open(b, x, SPAN_BREAK, same_stop);
		if (s)
			end_span(b, s, &x->e);
		if (*name == 'g' && x->e.to > 0)
			add_span(b, x, SPAN_HAND, x->e.to);
	} else if (!strcmp(name, "glock_demote_rq") || !strcmp(name, "dlm_bast")) {
		add_mark(b, x);
	} else if (!strncmp(name, "dio_", 4)) {
		if (!strcmp(name, "dio_submit") || !strcmp(name, "dio_hole"))
			add_mark(b, x);
		build_dio(b, x);
	}
}

/* What a lock was in before its first transition, or all the time. */
static void first_states(struct builder *b)
{
	struct timeline *tl = b->tl;
	bool *seen = must(reallocarray(NULL, (size_t)tl->nr_lanes + 1, sizeof(*seen)));

	memset(seen, 0, ((size_t)tl->nr_lanes + 1) * sizeof(*seen));
	for (size_t i = 0; i < tl->nr_events; i++) {
		struct event_of *x = &tl->events[i];
		struct event_of begin = *x;
		struct span *s;

		if (x->lane < 0 || seen[x->lane] || strcmp(x->e.name, "glock_state"))
			continue;
		seen[x->lane] = true;
		begin.e.t = tl->t0;
		s = add_span(b, &begin, SPAN_STATE, x->e.from);
		s->first = NULL;
	}
	for (int i = 0; i < tl->nr_lanes; i++) {
		struct event_of begin = { .e = { .t = tl->t0 }, .lane = i };

		if (!seen[i])
			add_span(b, &begin, SPAN_STATE, -1)->first = NULL;
	}
	free(seen);
}

/* Each in the first row of its kind that is free. */
static void assign_rows(struct timeline *tl)
{
	static const int class_of[] = { [SPAN_HOLDER] = ROWS_HOLDERS, [SPAN_HAND] = ROWS_HOLDERS, [SPAN_DIO] = ROWS_DIO, [SPAN_BREAK] = ROWS_BREAK };

	long long (*row_end)[NR_ROWS][MAX_ROWS] = calloc((size_t)tl->nr_lanes + 1, sizeof(*row_end));

	if (!row_end)
		die(EXIT_REFUSED, "out of memory");
	for (size_t i = 0; i < tl->nr_spans; i++) {
		struct span *s = tl->spans[i];
		struct lane *l = &tl->lanes[s->lane];
		int class, row = 0;

		if (s->kind == SPAN_STATE || s->kind == SPAN_PHASE) {
			s->row = s->parent ? s->parent->row : 0;
			continue;
		}
		class = class_of[s->kind];
		while (row < l->rows[class] && row_end[s->lane][class][row] > s->t)
			row++;
		if (row == MAX_ROWS)
			row--;
		else if (row == l->rows[class])
			l->rows[class]++;
		s->row = row;
		row_end[s->lane][class][row] = s->end;
	}
	free(row_end);
}

void timeline_build(struct timeline *tl)
{
	struct builder b = { .tl = tl };

	b.open = calloc((size_t)tl->nr_lanes + 1, sizeof(*b.open));
	if (!b.open)
		die(EXIT_REFUSED, "out of memory");
	first_states(&b);
	for (size_t i = 0; i < tl->nr_events; i++)
		if (tl->events[i].lane >= 0)
			build_event(&b, &tl->events[i]);
	free(b.open);
	assign_rows(tl);
}
