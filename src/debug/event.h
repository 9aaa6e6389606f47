/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event rings: what happened, cheap enough to be always on.
 *
 * Questions it must answer (design section 7): which transition did a lock make, why, how long after the request; what did a direct
 * write do, phase by phase, and what was in flight; when did the log become durable.
 *
 * Writers never block, take no lock and share nothing: each thread has a ring of its own.  Who reads merges the rings into a log, where
 * events get their numbers; what was overwritten before shows as a gap in `seq`, and no record is ever torn.  event.c has the
 * rules of the order and why they hold.
 */
#ifndef GFS2FUSE_EVENT_H
#define GFS2FUSE_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "lock/glock.h"

/*
 * Names are the contract's (design section 9): gfs2_event_name().  Beyond the contract, and only after gfs2_event_set_data(true): `map`, what a read or a buffered write found
 * (the kernel's gfs2_iomap_end; a direct write tells it by dio_submit and dio_hole), and `data_io`, file data of a buffered request
 * were read from or written to the device.  `break_hit`, `break_go`: a breakpoint has stopped something, has let it go (debug/stop.h);
 * `glock_hold`: a lock is kept for a node that is played by hand (to: its state), or not any more (UN).
 */
enum gfs2_event_type {
	EV_GLOCK_STATE, EV_GLOCK_QUEUE, EV_GLOCK_PROMOTE, EV_GLOCK_DEQUEUE, EV_GLOCK_DEMOTE_RQ,
	EV_DLM_LOCK, EV_DLM_AST, EV_DLM_BAST,
	EV_DIO_BEGIN, EV_DIO_SUBMIT, EV_DIO_HOLE, EV_DIO_DRAIN_BEGIN, EV_DIO_DRAIN_END,
	EV_DIO_UPGRADE, EV_DIO_BUFFERED, EV_DIO_END, EV_LOG_FLUSH,
	EV_MAP, EV_DATA_IO,
	EV_BREAK_HIT, EV_BREAK_GO, EV_GLOCK_HOLD,
	EV_NR
};

/* Which fields apply: printed only if the bit is set. */
enum { EVF_GLOCK = 1, EVF_FROM = 2, EVF_TO = 4, EVF_OFF = 8, EVF_LEN = 16, EVF_RC = 32, EVF_REASON = 64, EVF_FLAGS = 128 };

struct gfs2_event {
	uint64_t seq;		/* 1, 2, ... per mount, in the order of their stamps; those that are missing were lost */
	uint64_t t_ns;		/* CLOCK_REALTIME, so that nodes can be merged; grows with each event of a thread and of a glock */
	uint64_t req;
	uint64_t gl_number;
	uint64_t off, len;	/* with EVF_FLAGS, off: the DLM's flags of a request */
	int64_t rc;
	int32_t pid;
	uint16_t type;		/* enum gfs2_event_type */
	uint16_t fields;
	uint8_t gl_type, from, to; /* lm_state */
	char reason[29];	/* short word: "hole", "eof", "remote", ... */
};

void gfs2_event_init(unsigned order);	/* rings of 1 << order records, and smaller ones for threads that come later */
void gfs2_event_exit(void);
const char *gfs2_event_name(enum gfs2_event_type t);

/* Here and in all that follow, @reason lives as long as the process: a literal, or NULL.  What is about a glock is told under its gl_lock. */
/* pid and req are taken from current_ctx() unless req != 0 in @e; seq, t_ns and reason are not looked at. */
void gfs2_event_emit(const struct gfs2_event *e, const char *reason);
void ev_glock(enum gfs2_event_type t, struct gfs2_glock *gl, int from, int to, const char *reason);
/* On hot paths: one look at the clock (now_ns()) for several events, or before a lock is taken.  0 before gfs2_event_init(). */
uint64_t gfs2_event_time(void);
void ev_glock_tell(enum gfs2_event_type t, struct gfs2_glock *gl, int from, int to, const char *reason,
		   uint64_t t_ns);
void ev_glock_tell_granted(struct gfs2_glock *gl, int to, const char *where, const char *how, uint64_t t_ns);
/* Any thread: shall events be recorded?  On at first; off is for measuring what they cost, and shows nobody anything. */
void gfs2_event_set_on(bool on);
extern atomic_bool gfs2_event_recorded; /* event.c's own; relaxed: whoever switches it waits for nothing */
static inline bool gfs2_event_on(void)
{
	return __builtin_expect(atomic_load_explicit(&gfs2_event_recorded, memory_order_relaxed), 1);
}
static inline void ev_glock_at(enum gfs2_event_type t, struct gfs2_glock *gl, int from, int to, const char *reason, uint64_t t_ns)
{
	if (gfs2_event_on())
		ev_glock_tell(t, gl, from, to, reason, t_ns);
}
/* A holder that is granted at once: glock_queue (reason: @where) and glock_promote (@how). */
static inline void ev_glock_granted(struct gfs2_glock *gl, int to, const char *where, const char *how, uint64_t t_ns)
{
	if (gfs2_event_on())
		ev_glock_tell_granted(gl, to, where, how, t_ns);
}
/* A request to the lock manager: from gl_state to @to, with the DLM's @flags. */
void ev_dlm_lock(struct gfs2_glock *gl, enum lm_state to, uint32_t flags, const char *reason);
/* Any thread: shall `map` and `data_io` be told? Off at first. */
void gfs2_event_set_data(bool on);
bool gfs2_event_data(void);
void ev_dio(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc,
	    const char *reason);
void ev_dio_at(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc,
	       const char *reason, uint64_t t_ns);	/* 0: now */
/* A direct request that is sent to the device in one piece: dio_begin (reason: @what) and dio_submit. */
void ev_dio_begun(uint64_t ino, uint64_t off, uint32_t len, const char *what, uint64_t t_ns);

/*
 * Reading, on any thread.  The number of the next event to come: all that have been told have lower ones.  Copy up to @nr events starting with
 * *@seq (moved on; those that were lost are skipped); returns how many.
 */
uint64_t gfs2_event_next_seq(void);
unsigned gfs2_event_read(uint64_t *seq, struct gfs2_event *out, unsigned nr);
/* Wait until an event with number >= @seq exists or @timeout_ms is over (-1: for ever); it looks every few milliseconds. */
bool gfs2_event_wait(uint64_t seq, int timeout_ms);
/* One JSON object, no newline. */
int gfs2_event_json(const struct gfs2_event *e, unsigned node, char *buf, size_t size);
/* The kernel's tracepoint wording (reference 7.3). */
int gfs2_event_text(const struct gfs2_event *e, char *buf, size_t size);

#endif
