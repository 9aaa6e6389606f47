/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What came of a step: told, and compared with what the scenario expects.
 */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LATE_SECONDS 20		/* what the daemon does after its answer */
#define CONTENT_BYTES (64 << 20) /* at most, to be compared */

/* --- telling --- */

static const char *const outcome_words[] = {
	[OUT_RESULT] = "result", [OUT_RECORDED] = "recorded", [OUT_STOP] = "stop",	 [OUT_WAITS] = "waits",
	[OUT_EXPECT] = "expect", [OUT_SAYS] = "says",	      [OUT_CONTENT] = "content",
};

/* What was expected, and what there is. */
static void judge(struct run *r, const struct outcome *o, bool ok, const char *got)
{
	r->judged++;
	r->failed += !ok;
	if (r->json) {
		printf("{\"line\":%u,\"judged\":\"%s\",\"ok\":%s,\"wanted\":", o->line_nr, outcome_words[o->kind], ok ? "true" : "false");
		put_json_string(o->text);
		printf(",\"got\":");
		put_json_string(got);
		printf("}\n");
	} else if (ok) {
		printf("    ok      %s %s\n", outcome_words[o->kind], o->text);
	} else {
		printf("    FAILED  line %u: %s %s\n            got: %s\n", o->line_nr, outcome_words[o->kind], o->text, got);
	}
	fflush(stdout);
}

void run_tell_of(const struct run *r, const struct line *l, const char *what, unsigned node, const char *text)
{
	if (r->json) {
		printf("{\"line\":%u,\"node\":%u,\"%s\":", l->line_nr, node, what);
		put_json_string(text);
		printf("}\n");
	} else if (node != l->node) {
		printf("    %-7s node %u: %s\n", what, node, text);
	} else {
		printf("    %-7s %s\n", what, text);
	}
	fflush(stdout);
}

/* A stop as `stop` lines have it: dio hole F 32768+16384, F DF->EX. */
static void stop_words(struct run *r, const char *json, char *out, size_t size)
{
	char at[32] = "?", glock[40] = "", from[8] = "?", to[8] = "?";
	struct event e = { .has_glock = true };
	long long off, len;
	const char *name = glock;
	size_t n;

	json_get(json, "at", at, sizeof(at));
	if (json_get(json, "glock", glock, sizeof(glock)) && sscanf(glock, "%u/%llx", &e.gl_type, &e.gl_number) == 2 && run_lock_name(&e, r))
		name = run_lock_name(&e, r);
	if (!strcmp(at, "transition")) {
		json_get(json, "from", from, sizeof(from));
		json_get(json, "to", to, sizeof(to));
		snprintf(out, size, "%s %s->%s", name, from, to);
		return;
	}
	n = (size_t)snprintf(out, size, "%s %s", at, name);
	if (n < size && json_number(json, "off", &off) && json_number(json, "len", &len))
		snprintf(out + n, size - n, " %lld+%lld", off, len);
}

/* --- judging --- */

/* The result in the words of the scenarios: a time is told as changed or not. */
static void canonical_result(struct run *r, const char *answer, char *out, size_t size)
{
	char *copy = must(strdup(answer)), *save = NULL;
	size_t n = 0;

	out[0] = 0;
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		const char *word = w;

		if (!strncmp(w, "mtime=", 6)) {
			word = !*r->last_mtime ? "" : strcmp(w, r->last_mtime) ? "mtime=changed" : "mtime=same";
			snprintf(r->last_mtime, sizeof(r->last_mtime), "%s", w);
		}
		if (*word && n < size)
			n += (size_t)snprintf(out + n, size - n, "%s%s", n ? " " : "", word);
	}
	free(copy);
}

static bool all_ended(const struct run *r)
{
	for (unsigned i = 0; i < r->s->nodes; i++)
		if (r->nodes[i].busy && !r->nodes[i].ended)
			return false;
	return true;
}

/* The step that @l is, or is about, has ended.  False: it was stopped instead, or cannot go on. */
bool run_await_end(struct run *r, const struct line *l, struct node *n, char *got, size_t size)
{
	double end = run_now() + LIMIT_SECONDS;

	while (n->busy && !n->ended) {
		if (run_any_stops(r)) {
			for (unsigned i = 0; i < r->s->nodes; i++)
				if (r->nodes[i].nr_stops) {
					char words[200];

					stop_words(r, r->nodes[i].stops[0], words, sizeof(words));
					snprintf(got, size, "it was stopped: %s", words);
				}
			return false;
		}
		if (!run_await(r, 1000))
			return false;
		if (run_now() > end) {
			snprintf(got, size, "it has not ended within %d seconds", LIMIT_SECONDS);
			return false;
		}
	}
	if (!n->busy) {
		snprintf(got, size, "node %u is not doing anything", l->node);
		return false;
	}
	canonical_result(r, n->result, got, size);
	run_tell_of(r, n->busy, "result", (unsigned)(n - r->nodes) + 1, got);
	n->busy = NULL;
	return true;
}

static void judge_result(struct run *r, const struct line *l, const struct outcome *o)
{
	struct node *n = &r->nodes[(o->node ? o->node : l->node) - 1];
	char got[8192] = "";
	bool ok = run_await_end(r, l, n, got, sizeof(got));

	if (!*r->why)
		judge(r, o, ok && !strcmp(got, o->text), got);
}

/* The oldest stop that was not looked at, of any node or of one; false: there is none. */
bool run_next_stop(struct run *r, unsigned node, char *got, size_t size)
{
	for (unsigned i = 0; i < r->s->nodes; i++) {
		struct node *n = &r->nodes[i];

		if (!n->nr_stops || (node && node != i + 1))
			continue;
		stop_words(r, n->stops[0], got, size);
		free(n->stops[0]);
		memmove(n->stops, n->stops + 1, --n->nr_stops * sizeof(n->stops[0]));
		return true;
	}
	return false;
}

static void judge_stop(struct run *r, const struct outcome *o)
{
	double end = run_now() + LIMIT_SECONDS;
	bool looked = false;
	char got[200] = "";

	while (!run_next_stop(r, o->node, got, sizeof(got))) {
		if (looked || run_now() > end) {
			snprintf(got, sizeof(got), "nothing was stopped");
			break;
		}
		/* When every step has ended nothing more can be stopped: what was is told before this answer. */
		looked = all_ended(r);
		if (looked) {
			for (unsigned i = 0; i < r->s->nodes; i++)
				free(run_tell_words(r, &r->nodes[i], "timeout", NULL));
		} else if (!run_await(r, 1000)) {
			return;
		}
		if (*r->why)
			return;
	}
	/* What is not asked for need not be said: `stop dio hole`. */
	judge(r, o, !strncmp(got, o->text, strlen(o->text)) && strchr(" ", got[strlen(o->text)]), got);
}

static void judge_waits(struct run *r, const struct line *l, const struct outcome *o)
{
	struct node *n = &r->nodes[(o->node ? o->node : l->node) - 1];
	char name[64] = "F", state[8] = "", lock[120], got[80];
	double end = run_now() + LIMIT_SECONDS;

	sscanf(o->text, "%63s %7s", name, state);
	snprintf(got, sizeof(got), "it waits");
	if (!run_lock_word(r, n, name, lock, sizeof(lock)))
		return;
	while (!run_in_queue(r, n, lock, "W", state)) {
		if (*r->why)
			return;
		if (!n->busy || n->ended || run_now() > end) {
			snprintf(got, sizeof(got), n->busy && !n->ended ? "it does not wait for that" : "it has ended");
			judge(r, o, false, got);
			return;
		}
		if (!run_await(r, 20))
			return;
	}
	judge(r, o, true, got);
}

static void judge_expect(struct run *r, const struct line *l, const struct outcome *o)
{
	struct node *n = &r->nodes[(o->node ? o->node : l->node) - 1];
	double end = run_now() + LATE_SECONDS;
	char *words = NULL;
	bool ok;

	/* What the daemon does after its answer comes a little later. */
	do {
		free(words);
		if (!run_read_events(r, n))
			return;
		words = run_words(r, n);
		ok = words_match(o->text, words);
	} while (!ok && words_may_match(o->text, words) && run_now() < end && run_pause(0.005));
	judge(r, o, ok, words);
	free(words);
}

static void judge_says(struct run *r, const struct outcome *o)
{
	char *got = must(strdup(r->said ? r->said : ""));
	bool ok = strstr(got, o->text);

	for (char *c = got; *c; c++)
		if (*c == '\n')
			*c = c[1] ? ';' : 0;
	judge(r, o, ok, got);
	free(got);
}

/* Runs of the same byte: A*4096,~*512. */
static void put_runs(FILE *out, const unsigned char *data, const bool *hole, size_t len)
{
	for (size_t i = 0, j; i < len; i = j) {
		for (j = i; j < len && hole[j] == hole[i] && data[j] == data[i]; j++)
			;
		if (i)
			fputc(',', out);
		if (hole[i])
			fprintf(out, "~*%zu", j - i);
		else if (data[i] >= 33 && data[i] < 127)
			fprintf(out, "%c*%zu", data[i], j - i);
		else
			fprintf(out, "\\x%02x*%zu", data[i], j - i);
	}
}

/* What the device holds for a range of a file, by the tree on disk. */
static bool device_content(struct run *r, unsigned long long inode, size_t off, size_t len, FILE *out)
{
	struct node *n = &r->nodes[0];
	unsigned char *data = must(calloc(1, len));
	bool *hole = must(malloc(len * sizeof(*hole)));
	char device[PATH_MAX] = "", lock[40], *text, *line, *save = NULL;
	struct statvfs fs;
	int fd;

	memset(hole, true, len * sizeof(*hole));
	snprintf(lock, sizeof(lock), "inode:%llu", inode);
	text = run_tell_words(r, n, "map", lock, NULL);
	json_get(n->conn.greeting, "device", device, sizeof(device));
	fd = text ? open(device, O_RDONLY | O_CLOEXEC) : -1;
	if (text && (fd < 0 || statvfs(n->dir, &fs)))
		run_broken(r, "%s: %s", device, strerror(errno));
	for (line = text ? strtok_r(text, "\n", &save) : NULL; line && fd >= 0; line = strtok_r(NULL, "\n", &save)) {
		long long first, blocks, where;

		if (!strstr(line, "\"map\":\"disk\"") || !json_number(line, "lblock", &first) || !json_number(line, "len", &blocks) ||
		    !json_number(line, "pblock", &where) || !where)
			continue;
		for (size_t at = off; at < off + len; at++) {
			size_t block = at / fs.f_bsize, run = fs.f_bsize - at % fs.f_bsize;

			if (run > off + len - at)
				run = off + len - at;
			if ((long long)block >= first && (long long)block < first + blocks) {
				off_t pos = (off_t)(((size_t)where + block - (size_t)first) * fs.f_bsize + at % fs.f_bsize);

				if (pread(fd, data + (at - off), run, pos) != (ssize_t)run)
					run_broken(r, "%s: cannot be read", device);
				memset(hole + (at - off), false, run * sizeof(*hole));
			}
			at += run - 1;
		}
	}
	if (fd >= 0)
		close(fd);
	free(text);
	put_runs(out, data, hole, len);
	free(data);
	free(hole);
	return !*r->why;
}

void run_judge_content(struct run *r, const struct outcome *o)
{
	char name[64] = "", range[64] = "", *got = NULL;
	const char *wanted = strrchr(o->text, ' ');
	const struct object *obj;
	unsigned long off, len;
	size_t room;
	FILE *f;

	if (sscanf(o->text, "%63s %63s", name, range) != 2 || sscanf(range, "%lu+%lu", &off, &len) != 2 || len > CONTENT_BYTES) {
		run_broken(r, "line %u: more than %d bytes", o->line_nr, CONTENT_BYTES);
		return;
	}
	obj = run_object(r, name, strlen(name));
	if (!obj) {
		run_broken(r, "line %u: nothing is called %s", o->line_nr, name);
		return;
	}
	f = must(open_memstream(&got, &room));
	if (device_content(r, obj->inode, off, len, f)) {
		fflush(f);
		judge(r, o, wanted && !strcmp(got, wanted + 1), got);
	}
	fclose(f);
	free(got);
}

void run_judge(struct run *r, const struct line *l, const struct outcome *o)
{
	switch (o->kind) {
	case OUT_RESULT:
		judge_result(r, l, o);
		break;
	case OUT_STOP:
		judge_stop(r, o);
		break;
	case OUT_WAITS:
		judge_waits(r, l, o);
		break;
	case OUT_EXPECT:
		judge_expect(r, l, o);
		break;
	case OUT_SAYS:
		judge_says(r, o);
		break;
	case OUT_RECORDED:
		/* The kernel's words: tools/conform knows which differences are meant. */
	case OUT_CONTENT:
		/* Only at the end. */
		break;
	}
}
