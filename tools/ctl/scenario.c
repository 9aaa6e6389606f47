/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a scenario.  tools/lib/conform/scenario.py reads the same; tests/mount/73-scenarios.py has both read all that there are.
 */
#include "scenario.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "glockctl.h"
#include "hands.h"

struct reader {
	struct scenario *s;
	const char *path;
	unsigned line_nr;
	bool body;		/* the empty line was there: steps from here on */
	double pause;		/* before the next step */
	struct line **next_prepare, **next_step, **next_content;
	struct line *last;	/* the step that outcomes belong to */
};

static bool mistake(const struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool mistake(const struct reader *r, const char *fmt, ...)
{
	char why[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	complain("%s:%u: %s", r->path, r->line_nr, why);
	return false;
}

/* A line of its own, its words cut out of a copy of @text. */
static struct line *new_line(const struct reader *r, const char *text)
{
	struct line *l = must(calloc(1, sizeof(*l)));
	char *copy = must(strdup(text)), *save = NULL;

	l->line_nr = r->line_nr;
	l->text = must(strdup(text));
	for (char *w = strtok_r(copy, " \t", &save); w; w = strtok_r(NULL, " \t", &save)) {
		if (l->nr < SCENARIO_WORDS)
			l->words[l->nr] = must(strdup(w));
		l->nr++;
	}
	free(copy);
	return l;
}

static void free_lines(struct line *l)
{
	while (l) {
		struct line *next = l->next;

		for (int i = 0; i < l->nr && i < SCENARIO_WORDS; i++)
			free(l->words[i]);
		for (size_t i = 0; i < l->nr_outcomes; i++)
			free(l->outcomes[i].text);
		free(l->outcomes);
		free(l->text);
		free(l);
		l = next;
	}
}

void scenario_free(struct scenario *s)
{
	if (!s)
		return;
	free_lines(s->prepare);
	free_lines(s->steps);
	free_lines(s->content);
	free(s->name);
	free(s->about);
	free(s);
}

/* --- numbers and words --- */

static bool whole_number(const char *s, unsigned long *n)
{
	char *end;

	errno = 0;
	*n = strtoul(s, &end, 10);
	return *s >= '0' && *s <= '9' && !*end && !errno;
}

/* "20ms", or seconds without a unit. */
static bool seconds(const char *s, double unit, double *out)
{
	char *end;

	*out = strtod(s, &end);
	if (end == s || *out < 0 || *out > 3600e3)
		return false;
	if (!strcmp(end, "ms"))
		*out /= 1000;
	else if (!*end)
		*out *= unit;
	else
		return false;
	return *out <= 3600;
}

static bool is_state(const char *s, bool cached)
{
	static const char *const states[] = { "UN", "SH", "DF", "EX" };

	for (size_t i = 0; i < 4; i++)
		if (!strncmp(s, states[i], 2) && (!s[2] || (cached && !strcmp(s + 2, "p"))))
			return true;
	return false;
}

/* OFF+LEN */
static bool is_range(const char *s)
{
	char tail;
	unsigned long a, b;

	return *s >= '0' && *s <= '9' && sscanf(s, "%lu+%lu%c", &a, &b, &tail) == 2 && b;
}

/* --- steps --- */

/* What a scenario may ask the daemon: all that comes to an end by itself. */
static bool is_control(const char *word)
{
	static const char *const words[] = { "break",  "delete", "step", "continue", "hold", "release", "demote", "set",
					     "get",    "dio",	 "dump", "map",	     "stats", "breaks", "stops", "holds", "timeout" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(word, words[i]))
			return true;
	return false;
}

/* Whoever runs a scenario that somebody sent him must not have to read it first. */
static bool stays_inside(const struct reader *r, const char *path)
{
	return hands_inside(path) || mistake(r, "%s: this leads out of the scenario's directory", path);
}

static void drop_word(struct line *l, int i)
{
	free(l->words[i]);
	memmove(l->words + i, l->words + i + 1, (size_t)(l->nr - i - 1) * sizeof(l->words[0]));
	l->nr--;
}

static bool read_step(struct reader *r, struct line *l)
{
	unsigned long node = 0;
	const char *outside;
	int least;

	if (!strcmp(l->words[0], "&")) {
		l->together = true;
		drop_word(l, 0);
	}
	if (l->nr && l->words[l->nr - 1][0] == '@') {
		if (!seconds(l->words[l->nr - 1] + 1, 0.001, &l->later))
			return mistake(r, "%s: how much later?", l->words[l->nr - 1]);
		drop_word(l, l->nr - 1);
	}
	if (l->nr < 2 || !whole_number(l->words[0], &node) || !node || node > r->s->nodes)
		return mistake(r, "a step is a node from 1 to %u and what it does", r->s->nodes);
	l->node = (unsigned)node;
	drop_word(l, 0);
	l->control = is_control(l->words[0]);
	/* `bench`, many writes in a row, is in recordings of two nodes only, and not done here. */
	least = 2;
	if (!l->control && !hands_know(l->words[0], &least) && strcmp(l->words[0], "bench"))
		return mistake(r, "%s: there is no such step", l->words[0]);
	if (!l->control && l->nr < least)
		return mistake(r, "%s: too few words", l->words[0]);
	outside = l->control ? NULL : hands_outside(l->words, l->nr);
	if (outside)
		return stays_inside(r, outside);
	if (l->together && (l->control || !r->last))
		return mistake(r, "this cannot be done at the same time as what is before");
	return true;
}

static bool add_step(struct reader *r, struct line *l)
{
	if (!read_step(r, l))
		return false;
	l->prep = PREP_STEP;
	if (!r->body) {
		*r->next_prepare = l;
		r->next_prepare = &l->next;
		return true;
	}
	l->pause = r->pause;
	r->pause = 0;
	r->last = l;
	*r->next_step = l;
	r->next_step = &l->next;
	return true;
}

static struct outcome *add_outcome(struct reader *r, struct line *l, enum outcome_kind kind, unsigned node, const char *text)
{
	struct outcome *o;

	l->outcomes = must(reallocarray(l->outcomes, l->nr_outcomes + 1, sizeof(*o)));
	o = &l->outcomes[l->nr_outcomes++];
	*o = (struct outcome){ .kind = kind, .node = node, .line_nr = r->line_nr, .text = must(strdup(text)) };
	return o;
}

static bool content_words(const char *text)
{
	char name[64], range[64], runs[4096];

	return sscanf(text, "%63s %63s %4095s", name, range, runs) == 3 && is_range(range) && hands_inside(name);
}

/* A line that begins with two blanks: what comes of the step. */
static bool read_outcome(struct reader *r, const char *text)
{
	static const struct {
		const char *word;
		enum outcome_kind kind;
		bool alone;	/* needs nothing behind it */
	} known[] = {
		{ "=", OUT_RESULT, false }, { ":", OUT_RECORDED, true },    { "stop", OUT_STOP, false },       { "waits", OUT_WAITS, true },
		{ "expect", OUT_EXPECT, true }, { "says", OUT_SAYS, false }, { "meanwhile", OUT_RECORDED, false },
	};
	unsigned long node = 0;
	char first[16];
	size_t len;

	if (!r->last)
		return mistake(r, "there is no step that this could come of");
	len = strcspn(text, " ");
	snprintf(first, sizeof(first), "%.*s", (int)(len < sizeof(first) ? len : sizeof(first) - 1), text);
	if (whole_number(first, &node)) {
		if (!node || node > r->s->nodes)
			return mistake(r, "there is no node %s", first);
		text += len + strspn(text + len, " ");
		len = strcspn(text, " ");
	}
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		const char *rest = text + len + strspn(text + len, " ");

		if (strlen(known[i].word) != len || strncmp(text, known[i].word, len))
			continue;
		if (!*rest && !known[i].alone)
			return mistake(r, "%s: something is missing", known[i].word);
		if (known[i].kind == OUT_SAYS && !r->last->control)
			return mistake(r, "only what the daemon was asked says something");
		add_outcome(r, r->last, known[i].kind, (unsigned)node, rest);
		return true;
	}
	return mistake(r, "%.*s: no outcome is called that", (int)len, text);
}

/* --- preparations --- */

static bool prepare(struct reader *r, struct line *l, enum prepare_kind kind)
{
	if (r->body)
		return mistake(r, "%s belongs before the first step", l->words[0]);
	l->prep = kind;
	*r->next_prepare = l;
	r->next_prepare = &l->next;
	return true;
}

static bool read_file(struct reader *r, struct line *l)
{
	unsigned long n;
	char letter, tail;
	int i;

	for (i = 2; i < l->nr && strcmp(l->words[i], "size"); i++)
		if (sscanf(l->words[i], "%lu+%lu=%c%c", &n, &n, &letter, &tail) != 3)
			return mistake(r, "%s: OFFSET+LENGTH=LETTER", l->words[i]);
	if (l->nr < 2 || (i < l->nr && (i + 2 != l->nr || !whole_number(l->words[i + 1], &n))))
		return mistake(r, "file NAME [OFFSET+LENGTH=LETTER]... [size BYTES]");
	return stays_inside(r, l->words[1]) && prepare(r, l, PREP_FILE);
}

/* `direct H F [append] [sync]`, `buffered H F` as the step that it is. */
static bool read_descriptor(struct reader *r, struct line *l, const char *base)
{
	char flags[16];

	if (l->nr < 3)
		return mistake(r, "%s DESCRIPTOR NAME", l->words[0]);
	snprintf(flags, sizeof(flags), "%s", base);
	for (int i = 3; i < l->nr; i++) {
		if (base[2] != 'd' || (strcmp(l->words[i], "append") && strcmp(l->words[i], "sync")) || i > 4)
			return mistake(r, "%s: append or sync", l->words[i]);
		strcat(flags, l->words[i][0] == 'a' ? "a" : "s");
	}
	while (l->nr > 3)
		drop_word(l, 3);
	free(l->words[0]);
	l->words[0] = must(strdup("open"));
	l->words[l->nr++] = must(strdup(flags));
	return stays_inside(r, l->words[2]) && prepare(r, l, PREP_OPEN);
}

static bool read_hold(struct reader *r, struct line *l)
{
	unsigned long node;

	if (l->nr != 4 || !whole_number(l->words[1], &node) || !node || node > r->s->nodes || !is_state(l->words[3], true))
		return mistake(r, "hold NODE NAME UN|SH|DF|EX, or with p behind the state");
	l->node = (unsigned)node;
	return prepare(r, l, PREP_HOLD);
}

/* What is said once, about the whole. */
static bool read_header(struct reader *r, struct line *l)
{
	const char *word = l->words[0], *value = l->nr == 2 ? l->words[1] : "";
	unsigned long n;

	if (!strcmp(word, "times") && (!strcmp(value, "strict") || !strcmp(value, "deferred")))
		r->s->strict = value[0] == 's';
	else if (!strcmp(word, "nodes") && whole_number(value, &n) && n && n <= SCENARIO_NODES)
		r->s->nodes = (unsigned)n;
	else if (!strcmp(word, "disk") && seconds(value, 1, &r->s->disk))
		;
	else if (!strcmp(word, "pause") && seconds(value, 1, &r->pause))
		;
	else
		return mistake(r, "%s: this cannot be understood", l->text);
	return true;
}

static bool read_words(struct reader *r, struct line *l, bool *kept)
{
	const char *word = l->words[0];

	*kept = true;
	if (*word == '&' || (*word >= '0' && *word <= '9'))
		return add_step(r, l);
	if (!strcmp(word, "file"))
		return read_file(r, l);
	if (!strcmp(word, "direct"))
		return read_descriptor(r, l, "rwd");
	if (!strcmp(word, "buffered"))
		return read_descriptor(r, l, "rw");
	if (!strcmp(word, "hold"))
		return read_hold(r, l);
	if (!strcmp(word, "directory") && l->nr > 1) {
		for (int i = 1; i < l->nr; i++)
			if (!stays_inside(r, l->words[i]))
				return false;
		return prepare(r, l, PREP_DIRECTORY);
	}
	if (!strcmp(word, "name") && l->nr == 3)
		return stays_inside(r, l->words[2]) && prepare(r, l, PREP_NAME);
	if (!strcmp(word, "set") && l->nr == 3)
		return prepare(r, l, PREP_SET);
	if (!strcmp(word, "content") && content_words(l->text + 8)) {
		add_outcome(r, l, OUT_CONTENT, 0, l->text + 8);
		l->node = 1;
		*r->next_content = l;
		r->next_content = &l->next;
		return true;
	}
	*kept = false;
	return read_header(r, l);
}

static bool read_line(struct reader *r, char *text)
{
	struct line *l;
	bool kept, ok;

	if (text[0] == '#') {
		char *more;

		text += 1 + strspn(text + 1, " ");
		if (asprintf(&more, "%s%s%s", r->s->about, *r->s->about && *text ? " " : "", text) < 0)
			die(EXIT_REFUSED, "out of memory");
		free(r->s->about);
		r->s->about = more;
		return true;
	}
	if (!strncmp(text, "  ", 2))
		return !text[strspn(text, " ")] || read_outcome(r, text + strspn(text, " "));
	l = new_line(r, text);
	if (!l->nr) {
		r->body = true;
		free_lines(l);
		return true;
	}
	if (l->nr > SCENARIO_WORDS) {
		/* A file may be made of many pieces, but not of so many. */
		free_lines(l);
		return mistake(r, "too many words");
	}
	ok = read_words(r, l, &kept);
	/* What was understood is in a list, and freed with that. */
	if (!ok || !kept)
		free_lines(l);
	return ok;
}

static char *name_of(const char *path)
{
	const char *base = strrchr(path, '/');
	char *name = must(strdup(base ? base + 1 : path)), *dot = strrchr(name, '.');

	if (dot && dot != name && !strcmp(dot, ".txt"))
		*dot = 0;
	return name;
}

struct scenario *scenario_read(const char *path)
{
	struct reader r = { .path = path };
	char *text = NULL;
	size_t room = 0;
	bool ok = true;
	FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;

	if (!f) {
		complain("%s: %s", path, strerror(errno));
		return NULL;
	}
	r.s = must(calloc(1, sizeof(*r.s)));
	*r.s = (struct scenario){ .name = strcmp(path, "-") ? name_of(path) : must(strdup("scenario")), .about = must(strdup("")),
				  .strict = true, .nodes = 1 };
	r.next_prepare = &r.s->prepare;
	r.next_step = &r.s->steps;
	r.next_content = &r.s->content;
	while (ok && getline(&text, &room, f) > 0) {
		r.line_nr++;
		text[strcspn(text, "\n")] = 0;
		ok = read_line(&r, text);
	}
	if (ok && ferror(f)) {
		complain("%s: %s", path, strerror(errno));
		ok = false;
	}
	if (ok && !r.s->steps)
		ok = mistake(&r, "nothing is done");
	free(text);
	if (f != stdin)
		fclose(f);
	if (!ok) {
		scenario_free(r.s);
		return NULL;
	}
	return r.s;
}
