/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Breakpoints: hold one transition, or one phase of a direct write, while everything else goes on (design section 7).
 *
 * A *breakpoint* says what to stop; it belongs to a *session*, the connection of who set it.  What it stops is a *stop*: one transition
 * of one glock, or one thread in the middle of a direct write.  A stop is let go by its session, when its time is over, or when the session ends:
 * nobody can leave one behind.  Each stop, and what let it go, is an event (`break_hit`, `break_go`).
 *
 * Two ways to be held:
 *	stop_here()	the calling thread sleeps (workers in the middle of a direct write; they grow in number as needed)
 *	stop_defer()	nobody sleeps: the caller leaves its work, and @go is called once, later, by whoever lets the stop go.  For glocks,
 *			whose machine is driven from threads that may not sleep
 *
 * Cost: with no breakpoint in the process, stop_armed() is one relaxed load.
 *
 * Threads: any.  All state is under one lock (RANK_STOP), which is taken under gl_lock and under which nothing is waited for; @go is called without
 * it.  One set of breakpoints per process, as there is one mount.
 */
#ifndef GFS2FUSE_STOP_H
#define GFS2FUSE_STOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum stop_point {
	STOP_TRANSITION,	/* a glock is about to leave a state: before caches are written back or dropped */
	STOP_DLM_REQUEST,	/* before the lock module is asked */
	STOP_DLM_AST,		/* its answer has come, and is not taken notice of */
	STOP_DLM_BAST,		/* another node asks for the lock, and is not heard */
	STOP_DIO_HOLE,		/* a direct write has found a hole; what is mapped before it is under way */
	STOP_DIO_DRAIN,		/* it is about to wait for that */
	STOP_DIO_UPGRADE,	/* it has given DF up and is about to ask for EX */
	STOP_DIO_BUFFERED,	/* it has EX and is about to allocate and write */
	STOP_NR
};
/* "transition", "dlm request", "dio hole"... */
const char *stop_point_name(enum stop_point p);

/* Where somebody is. */
struct stop_site {
	enum stop_point point;
	uint8_t gl_type;
	int8_t from, to;	/* lm_state; -1: does not apply */
	uint64_t gl_number;
	uint64_t req;		/* of the request it is for; 0: nobody's */
	pid_t pid;
	uint64_t off, len;	/* dio: what is left of the request */
	uint64_t sent;		/* dio hole, drain: bytes before @off that are on their way to the device */
	const char *why;	/* static text: what the transition is for */
};

/* What to stop. */
struct stop_spec {
	uint32_t points;	/* bit per enum stop_point */
	bool any_glock;
	uint8_t gl_type;
	uint64_t gl_number;
	uint8_t from, to;	/* transition: bit per lm_state */
	pid_t pid;		/* 0: any */
	bool other_node;	/* meant for another node: stops nothing here */
	uint64_t count;		/* stop at this hit and later ones; 0 and 1: at the first */
	bool once;		/* deleted when it has stopped something */
	uint64_t timeout_ns;	/* how long a stop lasts at most; not 0 */
};

#define STOP_MAX_BREAKS 64	/* of one session */
#define STOP_TIMEOUT_NS 60000000000ull /* unless told otherwise */
#define STOP_TIMEOUT_MAX_NS 3600000000000ull

/* --- on the way of requests --- */

extern atomic_uint stop_nr_breaks;

/* Is there any breakpoint?  Relaxed: who has just been told "ok" for a breakpoint may see a transition that was already under way pass. */
static inline bool stop_armed(void)
{
	return __builtin_expect(atomic_load_explicit(&stop_nr_breaks, memory_order_relaxed) != 0, 0);
}

/*
 * Is this to be stopped?  True: it is, and @go(@arg) will be called once, from another thread or from inside a later call of this module,
 * without ranked mutexes.  The caller may hold gl_lock.
 */
bool stop_defer(const struct stop_site *site, void (*go)(void *arg), void *arg);
/* Sleep here if this is to be stopped.  The caller may hold glocks, but no ranked mutex and no transaction. */
void stop_here(const struct stop_site *site);

/* --- for the control socket --- */

struct stop_session;

/* NULL: no memory, or the mount is coming to its end.  @notify_fd: an eventfd to be written when something was stopped; -1: none.  @client: whose, 0: not known. */
struct stop_session *stop_session_new(int notify_fd, pid_t client);
/* Deletes its breakpoints and lets go what they hold.  NULL allowed. */
void stop_session_free(struct stop_session *s);
/* Has it breakpoints, or is anything stopped by one it had? */
bool stop_session_any(struct stop_session *s);
/* Breakpoints are gone, what they stopped goes on; the session stays.  @reason: a constant, for the events. */
void stop_session_clear(struct stop_session *s, const char *reason);
/* Number of the new breakpoint (1, 2, ...), -ENOSPC after STOP_MAX_BREAKS, -ENOMEM, -ESHUTDOWN. */
int stop_break(struct stop_session *s, const struct stop_spec *spec);
/* @id 0: all.  What the breakpoint has stopped stays stopped.  -ENOENT. */
int stop_delete(struct stop_session *s, unsigned id);
/* Let go stop @id, 0: all; returns how many, or -ENOENT for a number that is not stopped. */
int stop_continue(struct stop_session *s, unsigned id);
/* Stop @id, 0: the only one.  -ENOENT, -EINVAL: there are several.  Copies where it is and its number. */
int stop_get(struct stop_session *s, unsigned *id, struct stop_site *site);
/*
 * Tell @brk of each breakpoint and @stopped of each stop, in the order of their numbers; under the lock: they only print.  @s NULL: of all sessions.
 */
void stop_for_each(struct stop_session *s,
		   void (*brk)(pid_t client, unsigned id, const struct stop_spec *spec, uint64_t hits, void *arg),
		   void (*stopped)(pid_t client, unsigned id, unsigned brk_id, const struct stop_site *site, uint64_t since_ns,
				   uint64_t left_ns, void *arg),
		   void *arg);
/* Is anything stopped whose number is greater than *@after?  Then that is its number and @site where it is. */
bool stop_next_hit(struct stop_session *s, unsigned *after, unsigned *brk_id, struct stop_site *site);

/*
 * For one thread that waits with poll(): readable when a deferred stop's time is over, then stop_expire() is to be called.  Made by stop_init().
 */
int stop_timer_fd(void);
void stop_expire(void);

/* -errno.  Main thread; may be called once more for each stop_exit(): a control socket that cannot be had, beside one that is. */
int stop_init(void);
/* The mount comes to its end: let everything go, take no more breakpoints.  Sessions may still be freed. */
void stop_shutdown(void);
/* All sessions are gone. */
void stop_exit(void);

#endif
