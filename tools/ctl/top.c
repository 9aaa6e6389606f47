/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `top`: which locks are busy.
 *
 * Two sources: the stream of events, counted by lock, and once in an interval the dump, which says who holds and who waits.  When there are more events
 * than can be read some are missed, and their number is told: what was read stands for them then.
 */
#include "top.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define READ_AT_ONCE 20000	/* events, before keys and the clock are looked at */
#define PATHS_SECONDS 5

struct top_tally {
	char name[40];
	struct top_counts n;
};

const char *const top_sort_names[NR_SORTS] = { "requests", "transitions", "bounces", "waiters", "direct", "state", "name" };

double top_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- counting --- */

static size_t hash(const char *s)
{
	size_t h = 5381;

	while (*s)
		h = h * 33 + (unsigned char)*s++;
	return h;
}

/* The entry of that name, or the empty one where it would be. */
static struct top_tally *find_tally(struct top_tally *table, size_t size, const char *name)
{
	size_t at = hash(name) & (size - 1);

	while (table[at].name[0] && strcmp(table[at].name, name))
		at = (at + 1) & (size - 1);
	return &table[at];
}

static struct top_counts *tally(struct top *t, const char *name)
{
	struct top_tally *e;

	if (2 * (t->tally_nr + 1) > t->tally_size) {
		size_t size = t->tally_size ? 2 * t->tally_size : 1024;
		struct top_tally *table = must(calloc(size, sizeof(*table)));

		for (size_t i = 0; i < t->tally_size; i++)
			if (t->tally[i].name[0])
				*find_tally(table, size, t->tally[i].name) = t->tally[i];
		free(t->tally);
		t->tally = table;
		t->tally_size = size;
	}
	e = find_tally(t->tally, t->tally_size, name);
	if (!e->name[0]) {
		snprintf(e->name, sizeof(e->name), "%s", name);
		t->tally_nr++;
	}
	return &e->n;
}

static void count_event(struct top *t, const char *json)
{
	char event[24] = "", name[40], reason[32] = "";
	struct top_counts one = { 0 }, *n;
	long long seq = 0;

	json_number(json, "seq", &seq);
	if (t->last_seq && seq > t->last_seq + 1)
		t->missed += (unsigned long long)(seq - t->last_seq - 1);
	t->last_seq = seq;
	t->read++;
	json_get(json, "event", event, sizeof(event));
	if (!strcmp(event, "glock_promote")) {
		one.requests = 1;
	} else if (!strcmp(event, "glock_state")) {
		one.transitions = 1;
	} else if (!strcmp(event, "glock_demote_rq")) {
		one.bounces = json_get(json, "reason", reason, sizeof(reason)) && !strcmp(reason, "remote");
	} else if (!strcmp(event, "dio_begin")) {
		one.dio = 1;
	} else if (!strcmp(event, "dio_upgrade")) {
		one.fallback = 1;
	} else {
		return;
	}
	if (!json_get(json, "glock", name, sizeof(name)))
		return;
	n = tally(t, name);
	for (int i = 0; i < 2; i++, n = &t->counting) {
		n->requests += one.requests;
		n->transitions += one.transitions;
		n->bounces += one.bounces;
		n->dio += one.dio;
		n->fallback += one.fallback;
	}
}

void top_count(struct top *t)
{
	struct pollfd p = { .fd = t->events.fd, .events = POLLIN };

	for (int i = 0; i < READ_AT_ONCE && (conn_has_line(&t->events) || poll(&p, 1, 0) == 1); i++) {
		const char *line = conn_line(&t->events);

		if (!line || line[0] != ' ') {
			t->lost = !interrupted();
			return;
		}
		count_event(t, line + 1);
	}
}

/* --- rows --- */

static bool passes(const struct top *t, const struct top_row *r)
{
	unsigned long long number;
	char words[120];
	const char *path = t->paths ? paths_of_lock(t->paths, r->name) : NULL;

	if (!t->filter[0])
		return true;
	words[0] = 0;
	if (!strncmp(r->name, "2/", 2) && sscanf(r->name + 2, "%llx", &number) == 1)
		snprintf(words, sizeof(words), "inode:%llu", number);
	return strcasestr(r->name, t->filter) || strcasestr(words, t->filter) || !strcasecmp(r->state, t->filter) ||
	       strcasestr(top_type(r->name), t->filter) || (path && strcasestr(path, t->filter));
}

static enum top_sort sort_by;

static int descending(unsigned long long a, unsigned long long b)
{
	return a < b ? 1 : a > b ? -1 : 0;
}

static int by_name(const struct top_row *a, const struct top_row *b)
{
	unsigned long long x = 0, y = 0;
	unsigned s = 0, t = 0;

	sscanf(a->name, "%u/%llx", &s, &x);
	sscanf(b->name, "%u/%llx", &t, &y);
	return s != t ? (s < t ? -1 : 1) : x < y ? -1 : x > y;
}

static int state_rank(const struct top_row *r)
{
	static const char *const order[] = { "EX", "DF", "SH", "UN" };

	for (int i = 0; i < 4; i++)
		if (!strcmp(r->state, order[i]))
			return i;
	return 4;
}

static int compare_rows(const void *x, const void *y)
{
	const struct top_row *a = x, *b = y;
	int d = 0;

	switch (sort_by) {
	case SORT_REQUESTS:
		break;
	case SORT_TRANSITIONS:
		d = descending(a->n.transitions, b->n.transitions);
		break;
	case SORT_BOUNCES:
		d = descending(a->n.bounces, b->n.bounces);
		break;
	case SORT_WAITERS:
		d = descending(a->waiters, b->waiters);
		break;
	case SORT_DIO:
		d = descending(a->n.dio, b->n.dio);
		break;
	case SORT_STATE:
		d = state_rank(a) - state_rank(b);
		break;
	case SORT_NAME:
	case NR_SORTS:
		return by_name(a, b);
	}
	if (!d)
		d = descending(a->n.requests, b->n.requests);
	if (!d)
		d = descending(a->waiters, b->waiters);
	return d ? d : by_name(a, b);
}

/* Of all rows, those that pass come first: `nr` of them, sorted. */
void top_arrange(struct top *t)
{
	t->nr = 0;
	for (size_t i = 0; i < t->locks; i++)
		if (passes(t, &t->rows[i])) {
			struct top_row r = t->rows[i];

			t->rows[i] = t->rows[t->nr];
			t->rows[t->nr++] = r;
		}
	sort_by = t->sort;
	if (t->nr)
		qsort(t->rows, t->nr, sizeof(*t->rows), compare_rows);
}

static void fill_row(struct top *t, struct top_row *r, const struct lock *l)
{
	static const char *const states[] = { "UN", "SH", "DF", "EX" };
	struct top_tally *e = t->tally_size ? find_tally(t->tally, t->tally_size, l->name) : NULL;

	*r = (struct top_row){ .n = e ? e->n : (struct top_counts){ 0 } };
	strcpy(r->name, l->name);
	strcpy(r->state, l->state);
	strcpy(r->target, l->target);
	strcpy(r->flags, l->flags);
	for (unsigned h = 0; h < l->nr; h++)
		if (l->holders[h].waits)
			r->waiters++;
		else
			r->holders++;
	t->waiters += r->waiters;
	t->stops += !!l->stop;
	for (size_t s = 0; s < 4; s++)
		t->states[s] += !strcmp(l->state, states[s]);
}

static void refresh_paths(struct top *t)
{
	static double last;

	if (t->paths && top_clock() < last + PATHS_SECONDS)
		return;
	paths_free(t->paths);
	t->paths = paths_find(t->c);
	last = top_clock();
}

bool top_refresh(struct top *t)
{
	struct node n = { 0 };
	double now;

	top_count(t);
	if (t->lost || read_conn(t->c, &n, true)) {
		t->lost = t->lost || !interrupted();
		free_node(&n);
		return false;
	}
	now = top_clock();
	t->seconds = now > t->since ? now - t->since : 1e-6;
	t->since = now;
	t->waiters = t->stops = 0;
	memset(t->states, 0, sizeof(t->states));
	refresh_paths(t);
	free(t->rows);
	t->rows = must(calloc(n.nr ? n.nr : 1, sizeof(*t->rows)));
	for (size_t i = 0; i < n.nr; i++)
		fill_row(t, &t->rows[i], &n.locks[i]);
	t->locks = n.nr;
	free_node(&n);
	t->sum = t->counting;
	t->counting = (struct top_counts){ 0 };
	if (t->tally_size)
		memset(t->tally, 0, t->tally_size * sizeof(*t->tally));
	t->tally_nr = 0;
	t->share = t->read > t->read_then ? 1 + (double)(t->missed - t->missed_then) / (double)(t->read - t->read_then) : 1;
	t->read_then = t->read;
	t->missed_then = t->missed;
	top_arrange(t);
	return true;
}

double top_rate(const struct top *t, unsigned long long n)
{
	return (double)n * t->share / t->seconds;
}

const char *top_number(double n, char *buf, size_t size)
{
	static const char units[] = " kMG";
	int u = 0;

	while (n >= 9999.5 && u < 3) {
		n /= 1000;
		u++;
	}
	if (u)
		snprintf(buf, size, "%.*f%c", n < 99.95 ? 1 : 0, n, units[u]);
	else
		snprintf(buf, size, "%.*f", n > 0 && n < 9.95 ? 1 : 0, n);
	return buf;
}

int top_direct(const struct top_counts *n)
{
	if (!n->dio)
		return n->fallback ? 0 : -1;
	return n->fallback >= n->dio ? 0 : (int)((n->dio - n->fallback) * 100 / n->dio);
}

const char *top_type(const char *name)
{
	static const char *const types[] = { "", "nondisk", "inode", "rgrp", "meta", "iopen", "flock", "plock", "quota", "journal" };

	return name[0] >= '1' && name[0] <= '9' && name[1] == '/' ? types[name[0] - '0'] : "";
}

/* --- for programs, and pipes --- */

static void put_row_json(const struct top *t, const struct top_row *r)
{
	const char *path = paths_of_lock(t->paths, r->name);

	printf("{\"glock\":\"%s\",\"type\":\"%s\",\"state\":\"%s\",\"target\":\"%s\",\"flags\":\"%s\",\"holders\":%u,\"waiters\":%u", r->name,
	       top_type(r->name), r->state, r->target, r->flags, r->holders, r->waiters);
	printf(",\"requests\":%.1f,\"transitions\":%.1f,\"bounces\":%.1f,\"dio\":%.1f,\"fallback\":%.1f", top_rate(t, r->n.requests),
	       top_rate(t, r->n.transitions), top_rate(t, r->n.bounces), top_rate(t, r->n.dio), top_rate(t, r->n.fallback));
	if (path) {
		printf(",\"path\":");
		put_json_string(path);
	}
	putchar('}');
}

static void put_json_interval(const struct top *t, size_t max)
{
	printf("{\"seconds\":%.3f,\"locks\":%zu,\"UN\":%zu,\"SH\":%zu,\"DF\":%zu,\"EX\":%zu,\"waiters\":%zu,\"stops\":%zu", t->seconds, t->locks,
	       t->states[0], t->states[1], t->states[2], t->states[3], t->waiters, t->stops);
	printf(",\"requests\":%.1f,\"transitions\":%.1f,\"bounces\":%.1f,\"dio\":%.1f,\"fallback\":%.1f,\"missed\":%llu,\"top\":[",
	       top_rate(t, t->sum.requests), top_rate(t, t->sum.transitions), top_rate(t, t->sum.bounces), top_rate(t, t->sum.dio),
	       top_rate(t, t->sum.fallback), t->missed_then);
	for (size_t i = 0; i < t->nr && i < max; i++) {
		if (i)
			putchar(',');
		put_row_json(t, &t->rows[i]);
	}
	printf("]}\n");
}

static void put_text_interval(const struct top *t, size_t max)
{
	char a[16], b[16], c[16], direct[16];

	printf("locks %zu  EX %zu  DF %zu  SH %zu  UN %zu  waiters %zu  stops %zu  missed %llu\n", t->locks, t->states[3], t->states[2],
	       t->states[1], t->states[0], t->waiters, t->stops, t->missed_then);
	printf("%-14s %-7s %-6s %4s %4s %8s %8s %8s %6s\n", "GLOCK", "TYPE", "STATE", "HOLD", "WAIT", "REQ/s", "TRANS/s", "BOUNC/s", "DIRECT");
	for (size_t i = 0; i < t->nr && i < max; i++) {
		const struct top_row *r = &t->rows[i];
		const char *path = paths_of_lock(t->paths, r->name);
		int d = top_direct(&r->n);

		snprintf(direct, sizeof(direct), d < 0 ? "-" : "%d%%", d);
		printf("%-14s %-7s %s%s%s %4u %4u %8s %8s %8s %6s ", r->name, top_type(r->name), r->state,
		       strcmp(r->state, r->target) ? ">" : "", strcmp(r->state, r->target) ? r->target : "   ", r->holders, r->waiters,
		       top_number(top_rate(t, r->n.requests), a, sizeof(a)), top_number(top_rate(t, r->n.transitions), b, sizeof(b)),
		       top_number(top_rate(t, r->n.bounces), c, sizeof(c)), direct);
		put_plain(path ? path : "");
		putchar('\n');
	}
}

static int batch(struct top *t, long count, size_t max, bool json)
{
	struct pollfd p[2] = { { .fd = t->events.fd, .events = POLLIN }, { .fd = interrupt_fd(), .events = POLLIN } };
	double next = top_clock() + t->interval;

	while (count && !interrupted() && !t->lost) {
		double left = next - top_clock();

		if (left > 0) {
			if (conn_has_line(&t->events) || poll(p, 2, (int)(left * 1000) + 1) > 0)
				top_count(t);
			continue;
		}
		if (!top_refresh(t))
			break;
		next = top_clock() + t->interval;
		count -= count > 0;
		if (json)
			put_json_interval(t, max);
		else
			put_text_interval(t, max);
		if (fflush(stdout))
			return EXIT_REFUSED;
	}
	return EXIT_DONE;
}

/* --- the command --- */

static int usage(void)
{
	complain("usage: %s", find_command("top")->synopsis);
	return EXIT_USAGE;
}

static bool parse_sort(const char *word, enum top_sort *sort)
{
	for (int i = 0; i < NR_SORTS; i++)
		if (!strncmp(top_sort_names[i], word, strlen(word)) && *word) {
			*sort = (enum top_sort)i;
			return true;
		}
	return false;
}

int cmd_top(struct conn *c, int argc, char **argv, bool json)
{
	struct top t = { .interval = 1 };
	long count = -1, rows = 20;
	bool text = json;
	int status;

	for (int i = 0; i < argc; i++) {
		char *end = NULL;

		if (!strcmp(argv[i], "--once")) {
			text = true;
			count = 1;
		} else if (!strcmp(argv[i], "--batch")) {
			text = true;
		} else if (i + 1 == argc) {
			return usage();
		} else if (!strcmp(argv[i], "-d")) {
			t.interval = strtod(argv[++i], &end);
			if (*end || t.interval < 0.1 || t.interval > 3600)
				return usage();
		} else if (!strcmp(argv[i], "-n") || !strcmp(argv[i], "-l")) {
			long *n = argv[i][1] == 'n' ? &count : &rows;

			*n = strtol(argv[++i], &end, 10);
			if (*end || *n < 1 || *n > 1000000)
				return usage();
		} else if (!strcmp(argv[i], "-k")) {
			if (!parse_sort(argv[++i], &t.sort))
				return usage();
		} else if (!strcmp(argv[i], "-f")) {
			snprintf(t.filter, sizeof(t.filter), "%s", argv[++i]);
		} else {
			return usage();
		}
	}
	if (!text && (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))) {
		complain("no terminal: --once, --batch or --json");
		return EXIT_USAGE;
	}
	/* Not the session's: what its breakpoints stop is told there, and not in the middle of the screen. */
	if (conn_open(c->path, &t.questions)) {
		complain("%s: %s", c->path, t.questions.why);
		return EXIT_REFUSED;
	}
	if (conn_open(c->path, &t.events)) {
		complain("%s: %s", c->path, t.events.why);
		conn_close(&t.questions);
		return EXIT_REFUSED;
	}
	t.c = &t.questions;
	status = send_request(&t.events, "trace", 0, NULL, true);
	t.since = top_clock();
	if (!status)
		status = text ? batch(&t, count, (size_t)rows, json) : top_screen(&t);
	if (t.lost) {
		complain("the daemon has closed the connection");
		status = EXIT_REFUSED;
	}
	conn_close(&t.events);
	conn_close(&t.questions);
	paths_free(t.paths);
	free(t.tally);
	free(t.rows);
	return status;
}
