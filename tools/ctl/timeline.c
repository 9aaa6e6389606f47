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
#include <limits.h>
#include <sys/stat.h>

#include "glockctl.h"

#define MAX_LANES 40
/* A viewer can fold; but more is not looked at. */
#define MAX_JSON_LANES 1000

const char *const phase_names[NR_PHASES] = { "direct", "drain", "upgrade", "buffered" };

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
	/* A number that a viewer can take, whatever the recording says. */
	n->pid = n->id >= 0 && n->id < 100000 ? n->id + 1 : 100000 + tl->nr_nodes;
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
			key = must(reallocarray(NULL, 1, sizeof(*key)));
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
	tl->lanes = n ? must(reallocarray(NULL, (size_t)n, sizeof(*tl->lanes))) : NULL;
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

/* The picture must not take the place of what it is drawn from. */
static bool is_one_of(const char *out, char *const *files, int nr)
{
	struct stat a, b;

	if (!out || stat(out, &a) || !S_ISREG(a.st_mode))
		return false;
	for (int i = 0; i < nr; i++)
		if (!stat(files[i], &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
			return true;
	return false;
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

/* Is @path, without links, a file of a mount that was recorded, as its recording names it? */
static bool on_recorded_mount(const struct timeline *tl, const char *path)
{
	char mountpoint[PATH_MAX];

	for (int i = 0; i < tl->nr_nodes; i++) {
		size_t len;

		if (!json_get(tl->nodes[i].key, "mountpoint", mountpoint, sizeof(mountpoint)))
			continue;
		len = strlen(mountpoint);
		if (!strncmp(path, mountpoint, len) && (!path[len] || path[len] == '/'))
			return true;
	}
	return false;
}

/* Paths become the locks of their inodes. */
static int resolve_paths(const struct timeline *tl, char **glocks, int nr)
{
	for (int i = 0; i < nr; i++) {
		char real[PATH_MAX];
		struct stat st;

		if (is_glock(glocks[i]))
			continue;
		if (!realpath(glocks[i], real) || stat(real, &st)) {
			complain("%s: %s", glocks[i], strerror(errno));
			return EXIT_REFUSED;
		}
		if (!on_recorded_mount(tl, real)) {
			complain("%s is on no mount that was recorded: name its lock, like inode:%llu", glocks[i], (unsigned long long)st.st_ino);
			return EXIT_REFUSED;
		}
		free(glocks[i]);
		if (asprintf(&glocks[i], "inode:%llu", (unsigned long long)st.st_ino) < 0)
			die(EXIT_REFUSED, "out of memory");
	}
	return EXIT_DONE;
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
	timeline_build(tl);
	return write_out(tl, path, json, linear);
}

int cmd_timeline(struct conn *c, int argc, char **argv, bool json)
{
	struct timeline tl = { 0 };
	const char *out = NULL;
	bool linear = false, good = true;
	int files = 0, glocks = 0, status = EXIT_DONE;
	char **glock = must(reallocarray(NULL, (size_t)argc + 1, sizeof(*glock)));

	(void)c;
	for (int i = 0; i < argc && good; i++) {
		if (!strcmp(argv[i], "-o") && i + 1 < argc)
			out = argv[++i];
		else if (!strcmp(argv[i], "-g") && i + 1 < argc)
			glock[glocks++] = must(strdup(argv[++i]));
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
	if (!status && is_one_of(out, argv, files)) {
		complain("%s is a recording: it would be overwritten", out);
		status = EXIT_REFUSED;
	}
	for (int i = 0; i < files && !status; i++)
		status = read_recording(&tl, argv[i]);
	if (!status)
		status = resolve_paths(&tl, glock, glocks);
	if (!status)
		status = draw(&tl, glock, glocks, out, json, linear);
	timeline_free(&tl);
	while (glocks)
		free(glock[--glocks]);
	free(glock);
	return status;
}
