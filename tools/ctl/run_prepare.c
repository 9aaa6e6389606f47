/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a scenario begins with: files, descriptors, tunables, the state of locks.
 */
#include "run.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How a lock gets into a state: what is read. */
#define FIRST_BYTES 4096
#define CACHED_BYTES (4 << 20)	/* all of the file */
#define OWN_HANDLE 15		/* of the hands: for making files */

static bool prepare_file(struct run *r, struct node *n, const struct line *l)
{
	const char *name = l->words[1];

	if (!run_do_step(r, n, l, "open %d %s rwcx\n", OWN_HANDLE, name))
		return false;
	for (int i = 2; i < l->nr; i++) {
		unsigned long off, len;
		char letter;

		if (sscanf(l->words[i], "%lu+%lu=%c", &off, &len, &letter) == 3) {
			if (!run_do_step(r, n, l, "pwrite %d %lu %lu %c\n", OWN_HANDLE, off, len, letter))
				return false;
		} else if (!run_do_step(r, n, l, "ftrunc %d %s\n", OWN_HANDLE, l->words[++i])) {
			return false;
		}
	}
	return run_do_step(r, n, l, "fsync %d\n", OWN_HANDLE) && run_do_step(r, n, l, "close %d\n", OWN_HANDLE) && run_call(r, n, name, name);
}

/* The words as a step for the hands. */
char *run_step_text(const struct line *l)
{
	char *text = NULL;
	size_t len;
	FILE *f = must(open_memstream(&text, &len));

	for (int i = 0; i < l->nr; i++)
		fprintf(f, "%s%s", i ? " " : "", l->words[i]);
	fputc('\n', f);
	fclose(f);
	return must(text);
}

static bool prepare_step(struct run *r, struct node *n, const struct line *l)
{
	char *text = run_step_text(l);
	bool ok = run_do_step(r, n, l, "%s", text);
	const char *mtime = strstr(n->result, "mtime=");

	free(text);
	if (ok && mtime)
		snprintf(r->last_mtime, sizeof(r->last_mtime), "%.*s", (int)strcspn(mtime, " "), mtime);
	return ok;
}

/* Neither a lock nor a page of the file is kept; then the lock is brought into the state. */
static bool prepare_hold(struct run *r, struct node *n, const struct line *l)
{
	const char *state = l->words[3];
	const struct object *o = run_object(r, l->words[2], strlen(l->words[2]));
	char path[2 * PATH_MAX], lock[40];
	int fd;

	if (!o)
		return run_broken(r, "line %u: nothing is called %s", l->line_nr, l->words[2]);
	snprintf(path, sizeof(path), "%s/%s", n->dir, o->name);
	snprintf(lock, sizeof(lock), "inode:%llu", o->inode);
	if (!run_do_step(r, n, l, "fsync 2\n"))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
	}
	if (!run_told(run_tell_words(r, n, "demote", lock, "UN", NULL)))
		return false;
	if (!strncmp(state, "EX", 2)) {
		if (!run_do_step(r, n, l, "fchmod 2 0640\n") || !run_do_step(r, n, l, "fsync 2\n"))
			return false;
	} else if (!strcmp(state, "SH")) {
		if (!run_told(run_tell_words(r, n, "map", lock, NULL)))
			return false;
	} else if (!strcmp(state, "DF") && !run_do_step(r, n, l, "pread 1 0 %d\n", FIRST_BYTES)) {
		return false;
	}
	return !strchr(state, 'p') || run_do_step(r, n, l, "pread 2 0 %d\n", CACHED_BYTES);
}

bool run_control(struct run *r, struct node *n, const struct line *l)
{
	char words[SCENARIO_WORDS][120], *argv[SCENARIO_WORDS];

	for (int i = 0; i < l->nr; i++) {
		if (!run_lock_word(r, n, l->words[i], words[i], sizeof(words[i])))
			return false;
		argv[i] = words[i];
	}
	/* What is set during a scenario is set back, too. */
	if (!strcmp(l->words[0], "set") && l->nr == 3)
		return run_set_tunable(r, n, l->words[1], l->words[2]);
	free(r->said);
	r->said = run_tell(r, n, l->nr, argv, false);
	return r->said;
}

static bool prepare_line(struct run *r, const struct line *l)
{
	struct node *n = &r->nodes[l->node ? l->node - 1 : 0];

	switch (l->prep) {
	case PREP_FILE:
		return prepare_file(r, n, l);
	case PREP_DIRECTORY:
		for (int i = 1; i < l->nr; i++)
			if (!run_do_step(r, n, l, "mkdir %s\n", l->words[i]) || !run_call(r, n, l->words[i], l->words[i]))
				return false;
		return true;
	case PREP_OPEN:
		for (unsigned i = 0; i < r->s->nodes; i++)
			if (!run_do_step(r, &r->nodes[i], l, "open %s %s %s\n", l->words[1], l->words[2], l->words[3]))
				return false;
		return true;
	case PREP_NAME:
		return run_call(r, n, l->words[1], l->words[2]);
	case PREP_STEP:
		return l->control ? run_control(r, n, l) : prepare_step(r, n, l);
	case PREP_SET:
	case PREP_HOLD:
		break;
	}
	return true;
}

static bool prepare_tunables(struct run *r, struct node *n)
{
	char rule[80];

	if (!run_set_tunable(r, n, "dio_mtime", r->s->strict ? "strict" : "deferred") ||
	    /* Times are published by those who ask for them, not by the clock. */
	    !run_set_tunable(r, n, "dio_mtime_interval", "3600") ||
	    /* The kernel's way; ours writes the same bytes, before EX is let go. */
	    !run_set_tunable(r, n, "dio_rest", "buffered") || !run_set_tunable(r, n, "data_events", "on"))
		return false;
	for (const struct line *l = r->s->prepare; l; l = l->next)
		if (l->prep == PREP_SET && !run_set_tunable(r, n, l->words[1], l->words[2]))
			return false;
	if (r->s->disk <= 0)
		return true;
	snprintf(rule, sizeof(rule), "op=write,cls=dio,delay_us=%d", (int)(r->s->disk * 1e6));
	return run_set_tunable(r, n, "fault", rule);
}

bool run_prepare(struct run *r)
{
	char limit[16];

	for (const struct line *l = r->s->prepare; l; l = l->next)
		if (!prepare_line(r, l))
			return false;
	for (unsigned i = 0; i < r->s->nodes; i++)
		if (!prepare_tunables(r, &r->nodes[i]))
			return false;
	for (const struct line *l = r->s->prepare; l; l = l->next)
		if (l->prep == PREP_HOLD && !prepare_hold(r, &r->nodes[l->node - 1], l))
			return false;
	run_await_release(r);
	/* What is stopped stays so until the scenario lets it go. */
	snprintf(limit, sizeof(limit), "%d", 2 * LIMIT_SECONDS);
	for (unsigned i = 0; i < r->s->nodes; i++) {
		struct node *n = &r->nodes[i];

		if (!run_told(run_tell_words(r, n, "timeout", limit, NULL)) || !run_told(run_tell_words(r, n, "notify", "on", NULL)) || !run_read_events(r, n))
			return false;
		n->line_start = n->nr_events;
		n->busy = NULL;
	}
	return true;
}
