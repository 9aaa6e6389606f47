/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Timelines: what recordings tell, as a picture or for a trace viewer.
 *
 * Events of all recordings are merged by their time (the nodes' clocks are as good as they are).  What belongs together becomes a span:
 * a state of a lock; a holder from its queueing until it was granted, and until it let go; a direct read or write with its phases; a
 * breakpoint's stop.  A recording may begin and end anywhere, and have gaps: what has no beginning is left out, but for a state, which its end tells;
 * what has no end lasts until the recordings' end and says so.
 *
 * The trace viewer's format is Chrome's JSON: one process a node; a lock is a thread for its state and one for each row of holders,
 * of direct I/O and of breakpoints, as the viewer wants the slices of a thread nested.
 */
#include "timeline.h"

#include <errno.h>
#include <search.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "glockctl.h"

#define MAX_LANES 40
/* A viewer can fold; but more is not looked at. */
#define MAX_JSON_LANES 1000
/* Of a lane; more that have no end (a choice of events without them) are forgotten, the oldest first. */
#define MAX_OPEN 512

const char *const phase_names[NR_PHASES] = { "direct", "drain", "upgrade", "buffered" };

static void *xrealloc(void *p, size_t nr, size_t size)
{
	p = reallocarray(p, nr, size);
	if (!p)
		die(EXIT_REFUSED, "out of memory");
	return p;
}

/* Room for one more; arrays grow by doubling. */
static void *grow(void *p, size_t nr, size_t size)
{
	return nr & (nr - 1) ? p : xrealloc(p, nr ? nr * 2 : 1, size);
}

/* --- words --- */

const char *duration(long long ns, char *buf, size_t size)
{
	if (ns < 1000)
		snprintf(buf, size, "%lld ns", ns);
	else if (ns < 1000000)
		snprintf(buf, size, "%.4g µs", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(buf, size, "%.4g ms", (double)ns / 1e6);
	else
		snprintf(buf, size, "%.4g s", (double)ns / 1e9);
	return buf;
}

struct words {
	char *buf;
	size_t size, len;
};

static void __attribute__((format(printf, 2, 3))) say(struct words *w, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(w->buf + w->len, w->size - w->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		w->len = w->len + (size_t)n < w->size ? w->len + (size_t)n : w->size - 1;
}

static void say_who(struct words *w, const struct event *e)
{
	if (e->has_off && e->has_len)
		say(w, ", bytes %lld+%lld", e->off, e->len);
	if (e->pid)
		say(w, ", pid %lld", e->pid);
	if (e->req)
		say(w, ", req %lld", e->req);
}

static const char *state_word(int state)
{
	return state < 0 ? "not known" : state_names[state];
}

void describe_event(const struct event *e, char *buf, size_t size)
{
	struct words w = { buf, size, 0 };

	say(&w, "%s", e->name);
	if (e->from >= 0)
		say(&w, " %s", state_names[e->from]);
	if (e->to >= 0)
		say(&w, " %s%s", e->from >= 0 ? "to " : "", state_names[e->to]);
	if (e->has_reason)
		say(&w, " (%s)", e->reason);
	say_who(&w, e);
}

static void describe_holder(struct words *w, const struct span *s)
{
	char t[32];

	say(w, "holder %s%s%s%s", state_word(s->value), s->first->has_reason ? " (" : "", s->first->reason, s->first->has_reason ? ")" : "");
	say_who(w, s->first);
	if (s->granted < 0) {
		say(w, ": waits %s, %s", duration(s->end - s->t, t, sizeof(t)), s->open ? "not granted yet" : "not granted");
		return;
	}
	say(w, ": waited %s", duration(s->granted - s->t, t, sizeof(t)));
	say(w, ", held %s%s", duration(s->end - s->granted, t, sizeof(t)), s->open ? " and on" : "");
}

void describe_span(const struct span *s, char *buf, size_t size)
{
	struct words w = { buf, size, 0 };
	char t[32];

	switch (s->kind) {
	case SPAN_HOLDER:
		describe_holder(&w, s);
		return;
	case SPAN_STATE:
		say(&w, "state %s", state_word(s->value));
		if (s->first && s->first->has_reason)
			say(&w, " (%s)", s->first->reason);
		break;
	case SPAN_DIO:
		say(&w, "direct %s", s->first->has_reason ? s->first->reason : "I/O");
		say_who(&w, s->first);
		if (s->last && s->last->has_rc)
			say(&w, ", rc %lld", s->last->rc);
		break;
	case SPAN_PHASE:
		say(&w, "%s", phase_names[s->value]);
		if (s->first->has_reason && s->value != PHASE_DIRECT)
			say(&w, " (%s)", s->first->reason);
		say_who(&w, s->first);
		break;
	case SPAN_BREAK:
		say(&w, "breakpoint: %s", s->first->reason);
		if (s->first->from >= 0 && s->first->to >= 0)
			say(&w, " %s->%s", state_names[s->first->from], state_names[s->first->to]);
		say_who(&w, s->first);
		if (s->last)
			say(&w, ", let go: %s", s->last->reason);
		break;
	case SPAN_HAND:
		say(&w, "held %s by hand", state_word(s->value));
	}
	say(&w, ": %s%s", duration(s->end - s->t, t, sizeof(t)), s->open ? " and on" : "");
}

/* --- reading --- */

/* A daemon that was recorded twice is one node. */
static int find_node(struct timeline *tl, const char *greeting)
{
	char mountpoint[100] = "?";
	const char *known = strstr(greeting, "\"mountpoint\""), *key = known ? known : greeting;
	struct node *n;
	int i;

	for (i = 0; i < tl->nr_nodes; i++)
		if (!strcmp(tl->nodes[i].key, key))
			return i;
	tl->nodes = grow(tl->nodes, (size_t)tl->nr_nodes, sizeof(*tl->nodes));
	n = &tl->nodes[tl->nr_nodes++];
	*n = (struct node){ .key = strdup(key) };
	if (!n->key)
		die(EXIT_REFUSED, "out of memory");
	json_number(greeting, "node", &n->id);
	json_get(greeting, "mountpoint", mountpoint, sizeof(mountpoint));
	snprintf(n->name, sizeof(n->name), "node %lld %s", n->id, mountpoint);
	n->pid = n->id;
	for (i = 0; i < tl->nr_nodes - 1; i++)
		if (tl->nodes[i].pid == n->pid)
			n->pid = 100000 + tl->nr_nodes;
	return tl->nr_nodes - 1;
}

static int read_recording(struct timeline *tl, const char *path)
{
	struct recording r;
	struct event_of *x;
	int node, status = recording_open(&r, path);
	long long missed = 0;

	if (status)
		return status;
	node = find_node(tl, r.line);
	while (recording_line(&r)) {
		tl->events = grow(tl->events, tl->nr_events, sizeof(*tl->events));
		x = &tl->events[tl->nr_events];
		x->node = node;
		x->lane = -1;
		if (!recording_event(&r, &x->e))
			break;
		if (x->e.gap) {
			missed = x->e.gap;
			continue;
		}
		tl->nr_events++;
		if (missed) {
			tl->gaps = grow(tl->gaps, (size_t)tl->nr_gaps, sizeof(*tl->gaps));
			tl->gaps[tl->nr_gaps++] = (struct gap){ node, x->e.t, missed };
			missed = 0;
		}
	}
	status = r.failed ? EXIT_REFUSED : EXIT_DONE;
	recording_close(&r);
	return status;
}

static int by_number(const void *pa, const void *pb)
{
	const struct event_of *a = pa, *b = pb;

	if (a->node != b->node)
		return a->node < b->node ? -1 : 1;
	return a->e.seq < b->e.seq ? -1 : a->e.seq > b->e.seq;
}

static int by_time(const void *pa, const void *pb)
{
	const struct event_of *a = pa, *b = pb;

	if (a->e.t != b->e.t)
		return a->e.t < b->e.t ? -1 : 1;
	return by_number(pa, pb);
}

/* Two recordings of one node may overlap. */
static void merge(struct timeline *tl)
{
	size_t i, n = 0;

	qsort(tl->events, tl->nr_events, sizeof(*tl->events), by_number);
	for (i = 0; i < tl->nr_events; i++)
		if (!n || by_number(&tl->events[n - 1], &tl->events[i]))
			tl->events[n++] = tl->events[i];
	tl->nr_events = n;
	qsort(tl->events, n, sizeof(*tl->events), by_time);
	tl->t0 = tl->events[0].e.t;
	tl->t1 = tl->events[n - 1].e.t;
}

/* --- lanes --- */

static int same_lock(const struct lane *a, const struct lane *b)
{
	if (a->gl_type != b->gl_type)
		return a->gl_type < b->gl_type ? -1 : 1;
	return a->gl_number < b->gl_number ? -1 : a->gl_number > b->gl_number;
}

static int same_lane(const void *pa, const void *pb)
{
	const struct lane *a = pa, *b = pb;
	int diff = same_lock(a, b);

	return diff ? diff : (a->node > b->node) - (a->node < b->node);
}

/* What is interesting first, then the busiest; a lock's nodes stay together. */
static int by_business(const void *pa, const void *pb)
{
	const struct lane *a = pa, *b = pb;

	if (a->interesting != b->interesting)
		return a->interesting ? -1 : 1;
	if (a->lock_events != b->lock_events)
		return a->lock_events > b->lock_events ? -1 : 1;
	return same_lane(pa, pb);
}

static bool wanted(const struct lane *l, char *const *glocks, int nr_glocks)
{
	unsigned long long number;
	unsigned type;

	if (!nr_glocks)
		return l->interesting;
	for (int i = 0; i < nr_glocks; i++) {
		if (!strncmp(glocks[i], "inode:", 6)) {
			type = 2;
			number = strtoull(glocks[i] + 6, NULL, 10);
		} else {
			type = (unsigned)(glocks[i][0] - '0');
			number = strtoull(glocks[i] + 2, NULL, 16);
		}
		if (type == l->gl_type && number == l->gl_number)
			return true;
	}
	return false;
}

static bool interests(const struct event *e)
{
	return !strcmp(e->name, "glock_state") || !strncmp(e->name, "dio_", 4) || !strncmp(e->name, "break_", 6) ||
	       !strcmp(e->name, "glock_hold");
}

static void name_lane(struct lane *l)
{
	int n = snprintf(l->name, sizeof(l->name), "%u/%llx", l->gl_type, l->gl_number);

	if (l->gl_type == 2)
		snprintf(l->name + n, sizeof(l->name) - (size_t)n, " inode:%llu", l->gl_number);
}

/* One array entry for each lock of each node, from a tree of keys. */
static void collect_lanes(struct timeline *tl)
{
	struct lane **all = NULL, *key = NULL, **found;
	void *tree = NULL;
	int n = 0;

	for (size_t i = 0; i < tl->nr_events; i++) {
		struct event_of *x = &tl->events[i];

		if (!x->e.has_glock)
			continue;
		if (!key)
			key = xrealloc(NULL, 1, sizeof(*key));
		*key = (struct lane){ .node = x->node, .gl_type = x->e.gl_type, .gl_number = x->e.gl_number };
		found = tsearch(key, &tree, same_lane);
		if (!found)
			die(EXIT_REFUSED, "out of memory");
		if (*found == key) {
			all = grow(all, (size_t)n, sizeof(*all));
			all[n++] = key;
			key = NULL;
		}
		(*found)->events++;
		(*found)->interesting |= interests(&x->e);
	}
	free(key);
	tl->lanes = n ? xrealloc(NULL, (size_t)n, sizeof(*tl->lanes)) : NULL;
	tl->nr_lanes = n;
	for (int i = 0; i < n; i++) {
		tl->lanes[i] = *all[i];
		name_lane(&tl->lanes[i]);
	}
	for (int i = 0; i < n; i++) {
		tdelete(all[i], &tree, same_lane);
		free(all[i]);
	}
	free(all);
}

static void choose_lanes(struct timeline *tl, char *const *glocks, int nr_glocks, int limit)
{
	int n = 0;

	if (!tl->nr_lanes)
		return;
	qsort(tl->lanes, (size_t)tl->nr_lanes, sizeof(*tl->lanes), same_lane);
	for (int i = 0, j; i < tl->nr_lanes; i = j) {
		unsigned events = 0;
		bool interesting = false;

		for (j = i; j < tl->nr_lanes && !same_lock(&tl->lanes[i], &tl->lanes[j]); j++) {
			events += tl->lanes[j].events;
			interesting |= tl->lanes[j].interesting;
		}
		for (int k = i; k < j; k++) {
			tl->lanes[k].lock_events = events;
			tl->lanes[k].interesting = interesting;
		}
	}
	qsort(tl->lanes, (size_t)tl->nr_lanes, sizeof(*tl->lanes), by_business);
	for (int i = 0; i < tl->nr_lanes; i++)
		if (wanted(&tl->lanes[i], glocks, nr_glocks))
			tl->lanes[n++] = tl->lanes[i];
	tl->left_out = n > limit ? (unsigned)(n - limit) : 0;
	tl->nr_lanes = n > limit ? limit : n;
}

static void assign_lanes(struct timeline *tl)
{
	struct lane **found;
	void *tree = NULL;

	for (int i = 0; i < tl->nr_lanes; i++)
		if (!tsearch(&tl->lanes[i], &tree, same_lane))
			die(EXIT_REFUSED, "out of memory");
	for (size_t i = 0; i < tl->nr_events; i++) {
		struct event_of *x = &tl->events[i];
		struct lane key = { .node = x->node, .gl_type = x->e.gl_type, .gl_number = x->e.gl_number };

		found = x->e.has_glock ? tfind(&key, &tree, same_lane) : NULL;
		x->lane = found ? (int)(*found - tl->lanes) : -1;
	}
	for (int i = 0; i < tl->nr_lanes; i++)
		tdelete(&tl->lanes[i], &tree, same_lane);
}

/* --- spans --- */

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
	struct span *s = xrealloc(NULL, 1, sizeof(*s));
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
	bool *seen = xrealloc(NULL, (size_t)tl->nr_lanes + 1, sizeof(*seen));

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

static void build(struct timeline *tl)
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

/* --- output --- */

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

/* Threads of a lock: 0 its state, then rows. */
#define THREADS 1000
static long long thread_of(const struct span *s)
{
	static const int first[] = { [SPAN_STATE] = 0, [SPAN_HOLDER] = 100, [SPAN_HAND] = 100, [SPAN_DIO] = 300, [SPAN_PHASE] = 300,
				     [SPAN_BREAK] = 500 };

	return 1 + (long long)s->lane * THREADS + first[s->kind] + s->row;
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
		json_name(out, "process_name", tl->nodes[i].pid, 0, tl->nodes[i].name, "");
	for (int i = 0; i < tl->nr_lanes; i++) {
		const struct lane *l = &tl->lanes[i];
		long long pid = tl->nodes[l->node].pid, tid = 1 + (long long)i * THREADS;

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
					tl->nodes[l->node].pid, 1 + (long long)i * THREADS + row, 1 + (long long)i * THREADS + row);
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

static void timeline_json(const struct timeline *tl, FILE *out)
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
		x->tid = m->dio ? thread_of(m->dio) : 1 + (long long)m->lane * THREADS;
		x->name = m->e->name;
		describe_event(m->e, x->text, sizeof(x->text));
	}
	for (int i = 0; i < tl->nr_gaps; i++) {
		x = add_slice(&all, &nr, tl->gaps[i].t, tl->gaps[i].t);
		x->ph = 'i';
		x->pid = tl->nodes[tl->gaps[i].node].pid;
		x->name = "events were missed";
		snprintf(x->text, sizeof(x->text), "%lld events were missed", tl->gaps[i].missed);
	}
	if (nr)
		qsort(all, nr, sizeof(*all), by_begin);
	fprintf(out, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"start_ns\":\"%lld\"},\"traceEvents\":[\n", tl->t0);
	json_names(tl, out);
	for (size_t i = 0; i < nr; i++) {
		long long t;

		x = &all[i];
		t = x->t - tl->t0;
		fprintf(out, "{\"ph\":\"%c\",\"name\":\"%s\",\"pid\":%lld,\"tid\":%lld,\"ts\":%lld.%03lld", x->ph, x->name, x->pid, x->tid, t / 1000,
			t % 1000);
		if (x->ph == 'X')
			fprintf(out, ",\"dur\":%lld.%03lld", x->dur / 1000, x->dur % 1000);
		else
			fprintf(out, ",\"s\":\"%s\"", x->tid ? "t" : "p");
		fputs(",\"args\":{\"what\":\"", out);
		put_text(out, x->text, json_escape);
		fprintf(out, "\"}}%s\n", i + 1 < nr ? "," : "");
	}
	fputs("]}\n", out);
	free(all);
}

/* --- the command --- */

static int write_out(const struct timeline *tl, const char *path, bool json, bool linear)
{
	FILE *out = path && strcmp(path, "-") ? fopen(path, "we") : stdout;

	if (out && json)
		timeline_json(tl, out);
	else if (out)
		timeline_svg(tl, linear, out);
	if (!out || fflush(out) || ferror(out) || (out != stdout && fclose(out))) {
		complain("%s: %s", path ? path : "cannot write", strerror(errno));
		return EXIT_REFUSED;
	}
	if (tl->left_out)
		complain("%u more locks are left out, the quietest; choose with -g", tl->left_out);
	return EXIT_DONE;
}

static void timeline_free(struct timeline *tl)
{
	for (size_t i = 0; i < tl->nr_spans; i++)
		free(tl->spans[i]);
	free(tl->spans);
	free(tl->marks);
	free(tl->gaps);
	free(tl->lanes);
	free(tl->events);
	for (int i = 0; i < tl->nr_nodes; i++)
		free(tl->nodes[i].key);
	free(tl->nodes);
}

static int draw(struct timeline *tl, char **glocks, int nr_glocks, const char *path, bool json, bool linear)
{
	if (!tl->nr_events) {
		complain("nothing was recorded: there are no events");
		return EXIT_REFUSED;
	}
	merge(tl);
	collect_lanes(tl);
	choose_lanes(tl, glocks, nr_glocks, json ? MAX_JSON_LANES : MAX_LANES);
	if (!tl->nr_lanes) {
		complain(nr_glocks ? "nothing was recorded of that lock" : "no lock has changed its state, and there was no direct I/O");
		return EXIT_REFUSED;
	}
	assign_lanes(tl);
	build(tl);
	return write_out(tl, path, json, linear);
}

int cmd_timeline(struct conn *c, int argc, char **argv, bool json)
{
	struct timeline tl = { 0 };
	const char *out = NULL;
	bool linear = false, good = true;
	int files = 0, glocks = 0, status = EXIT_DONE;
	char **glock = xrealloc(NULL, (size_t)argc + 1, sizeof(*glock));

	(void)c;
	for (int i = 0; i < argc && good; i++) {
		if (!strcmp(argv[i], "-o") && i + 1 < argc)
			out = argv[++i];
		else if (!strcmp(argv[i], "-g") && i + 1 < argc && is_glock(argv[i + 1]))
			glock[glocks++] = argv[++i];
		else if (!strcmp(argv[i], "--linear"))
			linear = true;
		else if (argv[i][0] == '-' && argv[i][1])
			good = false;
		else
			argv[files++] = argv[i];
	}
	if (!good || !files) {
		complain("usage: %s", find_command("timeline")->synopsis);
		status = EXIT_USAGE;
	}
	for (int i = 0; i < files && !status; i++)
		status = read_recording(&tl, argv[i]);
	if (!status)
		status = draw(&tl, glock, glocks, out, json, linear);
	timeline_free(&tl);
	free(glock);
	return status;
}
