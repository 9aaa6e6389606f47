/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of `run`: nodes (run_nodes.c), what is prepared (run_prepare.c), what is judged (run_judge.c), steps and the whole (run.c).
 *
 * Whatever cannot go on says why in run.why, once, and everybody comes to an end; functions that return bool are false then.
 */
#ifndef GLOCKCTL_RUN_H
#define GLOCKCTL_RUN_H

#include <limits.h>
#include <sys/types.h>

#include "glockctl.h"
#include "scenario.h"
#include "words.h"

/* For what does not come. */
#define LIMIT_SECONDS 60

struct object {
	char *name;
	unsigned long long inode;
	struct object *next;
};

struct node {
	struct conn conn;
	char *dir;		/* the scenario's, on this mount */
	/* the hands */
	pid_t pid;
	int to, from;
	char answer[8192];
	size_t answer_len;
	const struct line *busy; /* the step that they do; NULL: none */
	bool ended;		/* busy has ended, and its answer is in result */
	bool queued;		/* requests are under way that no step waits for */
	char result[8192];
	/* stops that were told and not judged yet, the oldest first */
	char *stops[64];
	unsigned nr_stops;
	bool asked;		/* the daemon, and it has not answered yet */
	/* events */
	struct event *events;
	size_t nr_events, line_start;
	long long next_seq;
};

struct run {
	const struct scenario *s;
	bool json, keep;
	struct node *nodes;
	struct object *objects;
	char last_mtime[80];
	char *said;		/* the answer to the last control step */
	unsigned judged, failed;
	char why[512];		/* it cannot go on */
};

/* --- run_nodes.c --- */

/* It cannot go on, and why; false. */
bool run_broken(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Seconds of the monotonic clock. */
double run_now(void);
/* False: interrupted. */
bool run_pause(double seconds);

/* What the scenario calls @name (@len bytes); NULL: nothing. */
struct object *run_object(const struct run *r, const char *name, size_t len);
/* Call what is at @path, below the scenario's directory, @name from here on. */
bool run_call(struct run *r, struct node *n, const char *name, const char *path);
/* What an event's lock is called (F.iopen: the other lock of an inode), NULL: it is none of the scenario's.  @arg: the run. */
const char *run_lock_name(const struct event *e, void *arg);
/* A word for the daemon: F, F.iopen and D/a as locks, others as they are. */
bool run_lock_word(struct run *r, struct node *n, const char *word, char *out, size_t size);

/* Ask the daemon: its answer, to be freed; NULL: refused, with the reason in run.why.  Stops that it tells meanwhile are kept. */
char *run_tell(struct run *r, struct node *n, int argc, char **argv, bool json);
char *run_tell_words(struct run *r, struct node *n, const char *first, ...) __attribute__((sentinel));
/* The same where only its success counts. */
bool run_told(char *answer);
/* It is set back when the run ends. */
bool run_set_tunable(struct run *r, struct node *n, const char *name, const char *value);

/* What has happened to the scenario's locks since the last look. */
bool run_read_events(struct run *r, struct node *n);
/* That, since the line began, in words; to be freed. */
char *run_words(struct run *r, struct node *n);

/* The process that does node @number's steps. */
void run_start_hands(struct run *r, struct node *n, unsigned number);
/* The words of a step as a line for them; to be freed. */
char *run_step_text(const struct line *l);
/* Begin a step. */
bool run_begin(struct run *r, struct node *n, const struct line *l, const char *text);
/* Do a step of the preparations, which nothing may stop, and which must not fail. */
bool run_do_step(struct run *r, struct node *n, const struct line *l, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Wait until something happens: a step ends, somebody is stopped; at most @ms. */
bool run_await(struct run *r, int ms);
/* A lock may be let go a moment after the answer: when the steps have ended, until it is. */
void run_await_release(struct run *r);
/* Does the node's process hold the lock, or wait for it (@want: "W", or "" for both), in @state ("": any)? */
bool run_in_queue(struct run *r, struct node *n, const char *lock, const char *want, const char *state);
/* Was somebody stopped that the scenario has not looked at? */
bool run_any_stops(const struct run *r);

/* --- run_prepare.c --- */

/* Make what the scenario begins with, and set tunables. */
bool run_prepare(struct run *r);
/* Ask the daemon what the line says; the answer is in run.said. */
bool run_control(struct run *r, struct node *n, const struct line *l);

/* --- run_judge.c --- */

/* One thing that has come of a line. */
void run_tell_of(const struct run *r, const struct line *l, const char *what, unsigned node, const char *text);
/* The node's step has ended, and its result is told and in @got.  False: it was stopped instead, which @got says, or cannot go on. */
bool run_await_end(struct run *r, const struct line *l, struct node *n, char *got, size_t size);
/* Take the oldest stop that was not looked at, of @node or (0) any; false: there is none. */
bool run_next_stop(struct run *r, unsigned node, char *got, size_t size);
void run_judge(struct run *r, const struct line *l, const struct outcome *o);
void run_judge_content(struct run *r, const struct outcome *o);

#endif
