/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A recording played up to a moment: what the node's locks were then.
 *
 * What was before the recording's begin is not known: a holder from then is learnt of when he goes, a state when it changes.
 */
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "dump.h"
#include "glockctl.h"
#include "recording.h"

/* Locks by name: where they are in node.locks, which moves. */
struct place {
	char name[40];
	size_t at;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct place *)a)->name, ((const struct place *)b)->name);
}

static struct lock *lock_of(struct node *n, void **places, const struct event *e)
{
	struct place key, *p, **found;
	struct lock *l;

	snprintf(key.name, sizeof(key.name), "%u/%llx", e->gl_type, e->gl_number);
	found = tfind(&key, places, by_name);
	if (found)
		return &n->locks[(*found)->at];
	p = must(malloc(sizeof(*p)));
	*p = key;
	p->at = n->nr;
	must(tsearch(p, places, by_name));
	l = add_lock(n, key.name);
	strcpy(l->state, "?");
	strcpy(l->target, "?");
	return l;
}

static void set_flag(struct lock *l, char flag, bool on)
{
	char *at = strchr(l->flags, flag);

	if (on && !at && strlen(l->flags) + 1 < sizeof(l->flags))
		strncat(l->flags, &flag, 1);
	if (!on && at)
		memmove(at, at + 1, strlen(at));
}

static const char *state(int s)
{
	return s < 0 ? "?" : state_names[s];
}

/*
 * The holder that the event is about, one that waits (@waits) or holds rather than another; NULL: it came before the recording.  Who is served by a worker,
 * or lets go of what another has taken (an inode that is forgotten), has another request in the event: the oldest of the same state is meant.
 */
static struct holder *holder_of(struct lock *l, const struct event *e, bool waits)
{
	struct holder *best = NULL;
	int best_rank = 0;

	for (unsigned i = 0; i < l->nr; i++) {
		struct holder *h = &l->holders[i];
		int rank = 1 + (h->waits == waits) + 2 * (h->req == e->req && h->pid == e->pid);

		if (!strcmp(h->state, state(e->to)) && rank > best_rank) {
			best = h;
			best_rank = rank;
		}
	}
	return best;
}

static struct holder *new_holder(struct lock *l, const struct event *e)
{
	struct holder *h;

	l->holders = grow(l->holders, l->nr, sizeof(*h));
	h = &l->holders[l->nr++];
	*h = (struct holder){ .pid = (long)e->pid, .req = e->req, .waits = true };
	strcpy(h->state, state(e->to));
	snprintf(h->where, sizeof(h->where), "%s", e->has_reason ? e->reason : "?");
	return h;
}

static void play_holder(struct lock *l, const struct event *e)
{
	struct holder *h = NULL;

	if (!strcmp(e->name, "glock_queue")) {
		new_holder(l, e);
	} else if (!strcmp(e->name, "glock_promote")) {
		h = holder_of(l, e, true);
		if (!h)
			h = new_holder(l, e);
		h->waits = false;
	} else {
		h = holder_of(l, e, false);
		if (h)
			memmove(h, h + 1, (size_t)(&l->holders[--l->nr] - h) * sizeof(*h));
	}
}

/* As `stops` tells it, as far as it was recorded: "at dio hole 131072/65536, pid 12". */
static char *stop_words(const struct event *e)
{
	char *text = NULL;
	size_t len;
	FILE *f = must(open_memstream(&text, &len));

	fprintf(f, "at %s", e->has_reason ? e->reason : "a breakpoint");
	if (e->from >= 0 && e->to >= 0)
		fprintf(f, " %s -> %s", state(e->from), state(e->to));
	if (e->has_off && e->has_len)
		fprintf(f, " %lld/%lld", e->off, e->len);
	if (e->pid)
		fprintf(f, ", pid %lld", e->pid);
	fclose(f);
	return must(text);
}

static void play(struct lock *l, const struct event *e)
{
	if (!strcmp(e->name, "glock_queue") || !strcmp(e->name, "glock_promote") || !strcmp(e->name, "glock_dequeue")) {
		play_holder(l, e);
	} else if (!strcmp(e->name, "glock_state")) {
		strcpy(l->state, state(e->to));
		strcpy(l->target, state(e->to));
		set_flag(l, 'l', false);
		set_flag(l, 'D', false);
	} else if (!strcmp(e->name, "glock_demote_rq")) {
		snprintf(l->demote, sizeof(l->demote), "%s", state(e->to));
		set_flag(l, 'D', true);
	} else if (!strcmp(e->name, "dlm_lock") && strcmp(e->reason, "try")) {
		strcpy(l->target, state(e->to));
		set_flag(l, 'l', true);
	} else if (!strcmp(e->name, "dlm_ast")) {
		set_flag(l, 'l', false);
	} else if (!strcmp(e->name, "glock_hold")) {
		snprintf(l->kept, sizeof(l->kept), "%s", e->to > 0 ? state(e->to) : "");
	} else if (!strcmp(e->name, "break_hit") || !strcmp(e->name, "break_go")) {
		free(l->stop);
		l->stop = e->name[6] == 'h' ? stop_words(e) : NULL;
	}
}

long long recording_begin(const char *path)
{
	struct recording r;
	struct event e;
	long long t = -1;

	if (recording_open(&r, path))
		return -1;
	while (t < 0 && recording_line(&r) && recording_event(&r, &e))
		if (!e.gap)
			t = e.t;
	if (t < 0 && !r.failed)
		complain("%s: there are no events", path);
	recording_close(&r);
	return t;
}

int read_recording(const char *path, long long until, struct node *n)
{
	void *places = NULL;
	struct recording r;
	struct event e;
	int status = recording_open(&r, path);

	if (status)
		return status;
	n->name = path;
	while (recording_line(&r) && recording_event(&r, &e)) {
		if (e.gap)
			continue;
		if (e.t > until)
			break;
		if (e.has_glock)
			play(lock_of(n, &places, &e), &e);
	}
	status = r.failed ? EXIT_REFUSED : EXIT_DONE;
	recording_close(&r);
	tdestroy(places, free);
	return status;
}
