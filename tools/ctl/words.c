/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events as words, and comparing them.
 */
#include "words.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "glockctl.h"

/* A direct request. */
struct request {
	long long req;
	bool read, moving;	/* moving: it has I/O under way */
};

struct map_word {
	long long off;
	char word[48];
};

struct line_of {
	FILE *out;
	char last[80];		/* the same word twice in a row is told once */
	bool quiet;		/* before the line begins */
	struct request *requests;
	size_t nr_requests;
	struct map_word maps[64]; /* what the map said lately: told in the order of the file */
	size_t nr_maps;
};

static struct request *find_request(struct line_of *l, long long req)
{
	for (size_t i = 0; i < l->nr_requests; i++)
		if (l->requests[i].req == req)
			return &l->requests[i];
	l->requests = must(reallocarray(l->requests, l->nr_requests + 1, sizeof(*l->requests)));
	l->requests[l->nr_requests] = (struct request){ .req = req };
	return &l->requests[l->nr_requests++];
}

static void put(struct line_of *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct line_of *l, const char *fmt, ...)
{
	char word[80];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(word, sizeof(word), fmt, ap);
	va_end(ap);
	if (l->quiet || !strcmp(word, l->last))
		return;
	fprintf(l->out, "%s%s", *l->last ? " " : "", word);
	strcpy(l->last, word);
}

static int by_offset(const void *a, const void *b)
{
	const struct map_word *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static void put_maps(struct line_of *l)
{
	qsort(l->maps, l->nr_maps, sizeof(l->maps[0]), by_offset);
	for (size_t i = 0; i < l->nr_maps; i++)
		put(l, "%s", l->maps[i].word);
	l->nr_maps = 0;
}

static void add_map(struct line_of *l, const struct event *e, const char *word)
{
	if (l->nr_maps == sizeof(l->maps) / sizeof(l->maps[0]))
		put_maps(l);
	l->maps[l->nr_maps].off = e->off;
	snprintf(l->maps[l->nr_maps++].word, sizeof(l->maps[0].word), "map=%s", word);
}

static void moved(struct line_of *l, long long req)
{
	struct request *r = find_request(l, req);

	if (r->moving)
		put(l, r->read ? "io:R" : "io:W");
	r->moving = false;
}

static void put_map_event(struct line_of *l, const struct event *e)
{
	char word[40];
	const char *what = !strcmp(e->reason, "hole") ? "HOLE" : !strcmp(e->reason, "inline") ? "INLINE" : "MAPPED";

	if (e->has_rc && e->rc)
		snprintf(word, sizeof(word), "%s,rc=%lld", what, e->rc);
	else
		snprintf(word, sizeof(word), "%s", what);
	add_map(l, e, word);
}

static const char *state(int s)
{
	return s < 0 ? "?" : state_names[s];
}

static void put_event(struct line_of *l, const struct event *e, const char *name)
{
	char prefix[40] = "";

	if (strcmp(e->name, "map") && strcmp(e->name, "dio_submit"))
		put_maps(l);
	if (strcmp(name, "F"))
		snprintf(prefix, sizeof(prefix), "%s:", name);
	if (!strcmp(e->name, "glock_dequeue")) {
		moved(l, e->req);
		put(l, "%s-%s", prefix, state(e->to));
	} else if (!strcmp(e->name, "glock_queue")) {
		put(l, "%s?%s", prefix, state(e->to));
	} else if (!strcmp(e->name, "glock_promote")) {
		put(l, "%s+%s", prefix, state(e->to));
	} else if (!strcmp(e->name, "glock_state")) {
		put(l, "%s[%s->%s]", prefix, state(e->from), state(e->to));
	} else if (!strcmp(e->name, "glock_demote_rq")) {
		put(l, "%sdemote(%s->%s %s)", prefix, state(e->from), state(e->to), e->reason);
	} else if (!strcmp(e->name, "dio_begin")) {
		find_request(l, e->req)->read = !strcmp(e->reason, "read");
	} else if (!strcmp(e->name, "dio_submit")) {
		add_map(l, e, "MAPPED");
		find_request(l, e->req)->moving = true;
	} else if (!strcmp(e->name, "dio_hole")) {
		put(l, "map=HOLE,rc=-15");
	} else if (!strcmp(e->name, "dio_drain_end") || !strcmp(e->name, "dio_end")) {
		moved(l, e->req);
	} else if (!strcmp(e->name, "map")) {
		put_map_event(l, e);
	} else if (!strcmp(e->name, "data_io")) {
		put(l, !strcmp(e->reason, "read") ? "io:R" : "io:W");
	}
}

/*
 * Requests that run at the same time are told one after the other.  What the daemon itself does to a lock belongs to what happened to it last.
 */
static long long *groups_of(const struct event *events, size_t nr)
{
	long long *group = must(calloc(nr ? nr : 1, sizeof(*group)));

	for (size_t i = 0; i < nr; i++) {
		group[i] = events[i].req;
		for (size_t j = i; !group[i] && j-- > 0;)
			if (events[j].gl_type == events[i].gl_type && events[j].gl_number == events[i].gl_number) {
				group[i] = group[j];
				break;
			}
	}
	return group;
}

static void put_line(struct line_of *l, const struct event *events, size_t nr, lock_namer name, void *arg)
{
	long long *group = groups_of(events, nr);
	bool *told = must(calloc(nr ? nr : 1, sizeof(*told)));

	for (size_t i = 0; i < nr; i++)
		for (size_t j = i; !told[i] && j < nr; j++) {
			const char *called = told[j] || group[j] != group[i] ? NULL : name(&events[j], arg);

			if (called)
				put_event(l, &events[j], called);
			if (j != i && group[j] == group[i])
				told[j] = true;
		}
	put_maps(l);
	free(told);
	free(group);
}

char *words_of_events(const struct event *events, size_t nr, size_t from, lock_namer name, void *arg)
{
	struct line_of l = { .quiet = true };
	char *text = NULL;
	size_t len;

	l.out = must(open_memstream(&text, &len));
	put_line(&l, events, from, name, arg);
	l.quiet = false;
	put_line(&l, events + from, nr - from, name, arg);
	fclose(l.out);
	free(l.requests);
	return must(text);
}

/* --- comparing --- */

static size_t word_length(const char *s)
{
	return strcspn(s, " ");
}

static const char *next_word(const char *s)
{
	s += word_length(s);
	return s + strspn(s, " ");
}

static bool match(const char *pattern, const char *words, bool unfinished)
{
	size_t len;

	pattern += strspn(pattern, " ");
	words += strspn(words, " ");
	if (!*words && unfinished)
		return true;
	if (!*pattern)
		return !*words;
	len = word_length(pattern);
	if (len == 3 && !strncmp(pattern, "...", 3)) {
		for (const char *at = words;; at = next_word(at)) {
			if (match(next_word(pattern), at, unfinished))
				return true;
			if (!*at)
				return false;
		}
	}
	return *words && word_length(words) == len && !strncmp(pattern, words, len) &&
	       match(next_word(pattern), next_word(words), unfinished);
}

bool words_match(const char *pattern, const char *words)
{
	return match(pattern, words, false);
}

bool words_may_match(const char *pattern, const char *words)
{
	return match(pattern, words, true);
}
