/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of src/lock share with each other and with the unit test; nobody else includes this.
 */
#ifndef GFS2FUSE_LOCK_INTERNAL_H
#define GFS2FUSE_LOCK_INTERNAL_H

#include <pthread.h>
#include "lock/glock.h"
#include "util/leave.h"
#include "util/slab.h"

/* --- table.c --- */
#define GLOCK_SHARDS 64
#define GLOCK_BUCKETS 1024	/* per shard */

struct glock_shard {
	struct rmutex lock;	/* guards the chains and the list, not what is in the glocks */
	struct rcond freed;	/* a glock of this shard is gone */
	struct gfs2_glock **buckets;
	struct list_head lru;	/* glocks of GLOF_LRU types, the shrinker looks at the front first */
};

struct gfs2_glock_table {
	const struct lm_lockops *t_lm;
	struct buf_cache *t_bufs;
	void *t_private;
	const struct lm_recovery_ops *t_recovery;
	void *t_lm_private;	/* the module's */
	int t_volume_fd;
	bool t_keep_locks;
	/* gfs2_glock_table_set_min_hold(); GLOCK_HOLD_AUTO: turns.  relaxed: from the next question on */
	atomic_uint_least64_t t_min_hold_ns;
	uint64_t (*t_clock)(void);
	/* Set once.  Release; read under the gl_lock of glocks that were visited after setting it, so relaxed is enough there. */
	atomic_bool t_withdrawn, t_destroying;
	/*
	 * Transitions in phase SYNC, and: none may begin.  seq_cst: who begins counts itself before it looks, who forbids it looks at the count
	 * after, so one of them sees the other.
	 */
	atomic_uint t_syncing;
	atomic_bool t_held;
	struct rcond t_quiet_cond;	/* t_syncing became 0 while t_held, or t_nr became 0; with t_work_lock */
	struct glock_shard t_shards[GLOCK_SHARDS];
	struct slab_cache t_slab;	/* the glocks */
	unsigned t_nr;		/* glocks in the table; t_work_lock */
	struct glock_times t_times[LM_TYPE_JOURNAL + 1]; /* of glocks that are gone; t_work_lock */
	unsigned t_shrink_cursor; /* t_work_lock */

	/* work.c */
	struct rmutex t_work_lock;
	struct rcond t_work_cond;
	struct list_head t_work;	/* to be run now */
	struct list_head t_delayed;	/* to be run at gl_work_ns */
	unsigned t_workers_min, t_workers, t_workers_idle;
	struct leaver t_worker_left;
	bool t_work_stop;
};

static inline uint64_t glock_now(const struct gfs2_glock *gl)
{
	return gl->gl_table->t_clock();
}

/* Reference unless it is being freed. */
bool glock_hold_live(struct gfs2_glock *gl);
/* One less in t_syncing. */
void glock_synced(struct gfs2_glock_table *t);

/* --- work.c: threads for what the current one may not do --- */
enum { GLW_RUN = 1, GLW_HOLD = 2, GLW_CALLBACK = 4, GLW_FINISH = 8, GLW_RESUME = 16 };

int glock_workers_start(struct gfs2_glock_table *t, unsigned nr);
void glock_workers_stop(struct gfs2_glock_table *t);	/* all work done and all threads gone */
/* Under gl_lock: @flags to be done at @at_ns (0: now).  Takes a reference. */
void glock_queue_work(struct gfs2_glock *gl, unsigned flags, uint64_t at_ns);

/* --- states.c --- */
/* What may stay in the caches is a matter of the state; what a transition must do follows (reference 1.9). */
struct glock_rights {
	bool write_data, write_meta;	/* dirty things must be written (go_sync) */
	bool drop_data, drop_meta;	/* cached things must be dropped (go_inval) */
};
extern const struct glock_rights glock_rights[4][4]; /* [from][to] */
extern const bool glock_demote_needed[4][4];	     /* [held][wished by another node] */
/* gl_lock held: what has been read under SH may not be what is there from now on. */
static inline void glock_tenure_ends(struct gfs2_glock *gl)
{
	atomic_store_explicit(&gl->gl_tenure, atomic_load_explicit(&gl->gl_tenure, memory_order_relaxed) + 1, memory_order_relaxed);
}
bool glock_may_grant(const struct gfs2_glock *gl, const struct gfs2_holder *current,
		     const struct gfs2_holder *gh);

/* Holders that wait for nobody. */
#define TRY_FLAGS (LM_FLAG_TRY | LM_FLAG_TRY_1CB)

/* --- machine.c --- */
enum glock_event {
	GLE_QUEUE,		/* a holder was appended */
	GLE_DEQUEUE,		/* a granted holder, or a waiter that was not first, was removed */
	GLE_CANCEL,		/* the first waiter was removed and nothing is granted */
	GLE_DEMAND,		/* somebody wants us to step down */
	GLE_HOLD_OVER,		/* the turn may be over */
	GLE_WITHDRAW,		/* the file system was withdrawn */
	GLE_START,		/* a transition begins */
	GLE_SYNCED,		/* go_sync and go_inval are done, ask the lock module */
	GLE_ABANDON,		/* they are done, but nobody wants the new state any more */
	GLE_SYNC_FAILED,	/* go_sync failed */
	GLE_REPLY_OK,		/* the lock module's answer: as requested */
	GLE_REPLY_REFUSED,	/* no: try request, or conversion deadlock */
	GLE_REPLY_CANCELED,
	GLE_REPLY_ERROR,
	GLE_NR
};

/* What a transition is for. */
enum glock_why {
	GLY_PROMOTE,		/* the first waiter */
	GLY_DEMOTE,		/* a demote request (GLF_DEMOTE_IN_PROGRESS) */
	GLY_UNLOCK,		/* the way down after a conversion deadlock */
	GLY_RAISE,		/* EX, if that is to be had at once, before DF or SH is given up (gl_wants_ex) */
};

struct glock_step {
	enum glock_why why;
	enum lm_state target;
	unsigned flags;		/* of the holder it is for: LM_FLAG_TRY, _TRY_1CB, _NOEXP */
};

/* What comes with an event; only the fields of that event are set. */
struct glock_arg {
	enum lm_state wished;	/* DEMAND */
	bool remote;		/* DEMAND */
	struct glock_step step;	/* START */
	int reply;		/* REPLY_*: as given to gfs2_glock_complete */
	int error;		/* SYNC_FAILED */
};

struct glock_transition {
	void (*action)(struct gfs2_glock *gl, const struct glock_arg *arg);
	enum gl_phase next;
};
/* A pair without action is a bug in the program. */
extern const struct glock_transition glock_machine[GLP_NR][GLE_NR];
const char *glock_event_name(enum glock_event ev);
const char *glock_phase_name(enum gl_phase p);

/* All with gl_lock held. */
void glock_fire(struct gfs2_glock *gl, enum glock_event ev, const struct glock_arg *arg);
/* The same where a request may have to be taken back: true: the caller calls lm_cancel once it has released gl_lock. */
bool glock_fire_cancel(struct gfs2_glock *gl, enum glock_event event);
/*
 * Run the transitions that are needed until the glock is at rest or waits for an answer.  A step may block in go_sync, and releases
 * gl_lock in between.  What may not be run here is left to a worker.
 */
enum glock_run {
	GLR_NO_STEP,	/* the thread must not block */
	GLR_ONE_STEP,	/* a try request, maybe inside a transaction: its own step, nobody else's */
	GLR_ALL_STEPS,
};
void glock_run(struct gfs2_glock *gl, enum glock_run how);
/* What a breakpoint has held and let go; releases and retakes gl_lock. */
void glock_resume(struct gfs2_glock *gl);
/* Release gl_lock, then make callbacks and drop references that became due while it was held. */
void glock_unlock_and_settle(struct gfs2_glock *gl);
static inline void glock_unlock(struct gfs2_glock *gl)
{
	if (__builtin_expect(!gl->gl_puts && list_empty(&gl->gl_done), 1))
		rmutex_unlock(&gl->gl_lock);
	else
		glock_unlock_and_settle(gl);
}
/* Is a demotion wanted that the state does not satisfy yet? */
bool glock_demote_due(const struct gfs2_glock *gl);
/* Nanoseconds that a remote demote request arriving at @now has to wait, at most; 0: none. */
uint64_t glock_hold_left(const struct gfs2_glock *gl, uint64_t now);
/* The glock whose lm_lock this thread is in; for the simulator, whose threads are not threads and must keep it apart. */
struct gfs2_glock **glock_asking(void);
_Noreturn void glock_bug(struct gfs2_glock *gl, const char *what);

/*
 * For stops.c, with gl_lock held: what comes next after a stop at a transition, a request (@forget: the module is not told), an answer, and a
 * demand (with a reference).  The first three release gl_lock and take it again.
 */
void glock_run_transition(struct gfs2_glock *gl);
void glock_ask_module(struct gfs2_glock *gl, bool forget);
void glock_take_reply(struct gfs2_glock *gl, int ret);
void glock_take_demand(struct gfs2_glock *gl, enum lm_state wished, bool remote);

/* --- stops.c: is @gl stopped here?  Then glock_resume() goes on where it was (GLW_RESUME). --- */
bool glock_stop_transition(struct gfs2_glock *gl);
bool glock_stop_request(struct gfs2_glock *gl);
bool glock_stop_reply(struct gfs2_glock *gl, int ret);
bool glock_stop_demand(struct gfs2_glock *gl, enum lm_state wished);
/* Does a breakpoint keep a demand, which will be one only later? */
bool glock_demand_stopped(const struct gfs2_glock *gl);

/*
 * A turn, see machine.c: as many hand-overs long, but within these bounds; before one was measured; the part of it for which a lock may be
 * idle without being given up.
 */
#define GLOCK_TURN_COSTS 4
#define GLOCK_TURN_MAX_NS 20000000u
#define GLOCK_TURN_MIN_NS 1000000u
#define GLOCK_TURN_FIRST_NS 5000000u
#define GLOCK_TURN_IDLE 8
/* How long it is, from the grant on. */
uint64_t glock_turn(const struct gfs2_glock *gl);
/* When is a pending demotion to be looked at again?  After the turn, or, if nobody has the lock, when it has been idle for long enough. */
uint64_t glock_turn_ends(const struct gfs2_glock *gl);
/* gl_gone_ns is set, and a holder is queued. */
void glock_note_asked(struct gfs2_glock *gl);

/* --- glock.c --- */
/* The first granted holder, the first waiter, or NULL. */
struct gfs2_holder *glock_first_holder(const struct gfs2_glock *gl);
struct gfs2_holder *glock_first_waiter(const struct gfs2_glock *gl);
void glock_grant(struct gfs2_glock *gl, struct gfs2_holder *gh);
void glock_fail(struct gfs2_glock *gl, struct gfs2_holder *gh, int error);
/* Work of GLW_FINISH; takes and releases gl_lock. */
void glock_finish_async(struct gfs2_glock *gl);
/* Requests are numbered from 1; the top bit keeps the daemon's own threads apart. */
#define OWNER_THREAD (1ull << 63)
uint64_t glock_owner_token(void);
bool glock_blocked_by_withdraw(const struct gfs2_glock *gl, unsigned flags);

static inline bool holder_waits(const struct gfs2_holder *gh)
{
	/* Under gl_lock: whoever changed it had the lock. */
	return atomic_load_explicit(&((struct gfs2_holder *)gh)->gh_iflags, memory_order_relaxed) &
	       HIF_WAIT;
}

/* --- dump.c --- */
void glock_dump_locked(FILE *out, struct gfs2_glock *gl); /* gl_lock held; no I:/R: line */

#endif
