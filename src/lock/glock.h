/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Glocks: the node's side of cluster locks, in the kernel's terms (reference gfs2-locking-dio.md
 * section 1).  This file is the contract of src/lock/; nothing here knows inodes or rgrps: what a
 * type protects is told through struct gfs2_glock_operations (fs/glops.c).
 *
 * States of the lock: UN, EX, DF, SH.  A holder is one request for a state.  The machine that moves
 * a glock is one table in machine.c (gl_phase x event -> action), driven by that table and walked by
 * the unit test.
 *
 * Threads: any thread may queue holders.  A lock module's answers arrive through gfs2_glock_complete()
 * from any thread, also from inside lm_lock (lock_nolock).  go_sync/go_inval run on the thread that caused the
 * transition if it may block, else on the glock workers; never with gl_lock held.
 * A receive thread may only use gfs2_glock_nq_fast() and gfs2_glock_dq(): both never block and never run go_*().
 */
#ifndef GFS2FUSE_GLOCK_H
#define GFS2FUSE_GLOCK_H

#include <linux/gfs2_ondisk.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include "io/buf.h"
#include "util/list.h"
#include "util/mutex.h"

/* Values as in the kernel's glock.h: they are part of debug output. */
enum lm_state { LM_ST_UNLOCKED = 0, LM_ST_EXCLUSIVE = 1, LM_ST_DEFERRED = 2, LM_ST_SHARED = 3 };

enum lm_type {
	LM_TYPE_NONDISK = 1, LM_TYPE_INODE = 2, LM_TYPE_RGRP = 3, LM_TYPE_META = 4,
	LM_TYPE_IOPEN = 5, LM_TYPE_FLOCK = 6, LM_TYPE_PLOCK = 7, LM_TYPE_QUOTA = 8,
	LM_TYPE_JOURNAL = 9,
};

/* NONDISK numbers (GFS2_MOUNT_LOCK, GFS2_LIVE_LOCK, ...): <linux/gfs2_ondisk.h>. */

/* Holder flags, values as the kernel's. */
enum {
	LM_FLAG_TRY = 0x0001, LM_FLAG_TRY_1CB = 0x0002, LM_FLAG_NOEXP = 0x0004, LM_FLAG_ANY = 0x0008,
	LM_FLAG_NODE_SCOPE = 0x0020, GL_ASYNC = 0x0040, GL_EXACT = 0x0080, GL_SKIP = 0x0100,
	GL_NOPID = 0x0200, GL_NOCACHE = 0x0400,
	/*
	 * Ours: what is read under this holder goes into the cache of somebody above us, the kernel's page cache, who keeps it until he is
	 * told (go_drain), and who waits for this holder when he is told.  Not with GL_ASYNC.  gh_priv is for go_drain.
	 */
	GL_FILL = 0x10000,
	/*
	 * Ours: waits for what this node does with the lock, but not for other nodes: if what it wants is not to be had from the cluster at
	 * once, GLR_TRYFAILED.
	 */
	GL_TRY_OTHERS = 0x20000,
	/*
	 * Ours: from init to uninit the caller has a reference to the glock (by an inode that he has a reference to, say), so the holder takes none
	 * of its own.  Counting it would be a third of what it costs to take and release a lock that is cached.
	 */
	GL_BORROWED = 0x40000,
};
#define GLR_TRYFAILED 13	/* positive: a try lock (LM_FLAG_TRY, LM_FLAG_TRY_1CB, GL_TRY_OTHERS) was not granted */

/* gl_flags: bit numbers as the kernel's GLF_*; letters are printed by gfs2_dump_glock. Under gl_lock. */
enum {
	GLF_LOCK = 1, GLF_INSTANTIATE_NEEDED = 2, GLF_DEMOTE = 3, GLF_PENDING_DEMOTE = 4,
	GLF_DEMOTE_IN_PROGRESS = 5, GLF_DIRTY = 6, GLF_LFLUSH = 7, GLF_INVALIDATE_IN_PROGRESS = 8,
	GLF_REPLY_PENDING = 9, GLF_INITIAL = 10, GLF_FROZEN = 11, GLF_INSTANTIATE_IN_PROG = 12,
	GLF_LRU = 13, GLF_OBJECT = 14, GLF_BLOCKING = 15, GLF_PENDING_DELETE = 17, GLF_FREEING = 18,
};

/*
 * Holder state bits (gh_iflags).  HIF_FINISH: granted, but a worker still has to instantiate the object and run go_held before
 * gh_granted is called.
 */
enum { HIF_HOLDER = 1u << 0, HIF_WAIT = 1u << 1, HIF_FINISH = 1u << 2 };

struct gfs2_glock;
struct gfs2_glock_table;
struct gfs2_holder;

struct gfs2_glock_operations {
	enum lm_type go_type;
	unsigned go_flags;
#define GLOF_ASPACE 1	/* has metadata buffers: gl_mapping is used */
#define GLOF_LVB 2
#define GLOF_LRU 4
#define GLOF_NONDISK 8
	/* Before every transition: write back what the new state does not allow to be dirty.  -errno: the lock is not given up. */
	int (*go_sync)(struct gfs2_glock *gl);
	/* Before going to UN (@metadata true) or DF (false): drop what may not be cached. */
	void (*go_inval)(struct gfs2_glock *gl, bool metadata);
	/*
	 * Before go_sync of a transition that go_inval belongs to, if there were GL_FILL holders since the last time: have dropped what was read
	 * under them.  Whoever drops it may wait for the owner of such a holder that is queued behind this very transition:
	 * gfs2_glock_admit() lets it in, and what is read then has to go, too.
	 */
	void (*go_drain)(struct gfs2_glock *gl);
	/* First use after a grant with GLF_INSTANTIATE_NEEDED (not with GL_SKIP): read the object. Runs without gl_lock, with the holder granted. */
	int (*go_instantiate)(struct gfs2_glock *gl);
	/* After each grant (not on the fast path, not with GL_SKIP): e.g. wait for direct I/O, resume a truncate. */
	int (*go_held)(struct gfs2_holder *gh);
	/* One "I:" or "R:" line for the dump; gl_lock not held. */
	void (*go_dump)(struct gfs2_glock *gl, FILE *out);
	/*
	 * A demote request arrived through gfs2_glock_cb() (runs on a glock worker; several may be told by one call; @remote: one of
	 * them was remote).  The demotion does not start before it has returned.
	 */
	void (*go_callback)(struct gfs2_glock *gl, bool remote);
};

struct gfs2_holder {
	struct gfs2_glock *gh_gl;
	struct list_head gh_list;	/* gl_holders, under gl_lock */
	uint64_t gh_owner;		/* request number; one owner never queues twice on a glock: asserted */
	pid_t gh_pid;			/* for whom, told by dumps and events; under gl_lock once it is queued */
	enum lm_state gh_state;
	unsigned gh_flags;
	int gh_error;			/* valid once HIF_WAIT is clear */
	atomic_uint gh_iflags;		/* HIF_*; release on change, acquire on read by the waiter */
	const char *gh_where;		/* name of the function that queued it, for the dump */
	/*
	 * GL_ASYNC: called once, without locks, when granted or failed (gh_error), from any thread, also from inside
	 * gfs2_glock_nq(); NULL: use gfs2_glock_wait.  The object is instantiated and go_held was run.  Must not block.
	 * Until then the holder belongs to the lock layer; the only way to get it back is gfs2_glock_cancel().
	 */
	void (*gh_granted)(struct gfs2_holder *gh);
	void *gh_priv;
	uint64_t gh_time_ns;		/* when it was queued, once granted: when it was; gfs2_event_time() */
	/* private, under gl_lock: who sleeps for this holder; callback to be made */
	struct rcond *gh_cond;
	struct list_head gh_done;
};

/*
 * How long holders waited and held: counts by duration, bucket b those under 1024 << 2b ns, the last one the others.  32 bits: a lock that is
 * taken a million times a second wraps after an hour, and is no mystery then.
 */
#define GLOCK_TIME_BUCKETS 13
enum glock_time { GLT_WAIT, GLT_HOLD, GLT_NR };
struct glock_times {
	uint32_t n[GLT_NR][GLOCK_TIME_BUCKETS];
	uint64_t sum_ns[GLT_NR], max_ns[GLT_NR];
};

/* What gl_phase can be: is a transition running, and where is it? */
enum gl_phase {
	GLP_IDLE,	/* none; gl_state is what we hold */
	GLP_SYNC,	/* go_sync/go_inval running for gl_target; still hold gl_state */
	GLP_WAIT,	/* request gl_req is with the lock module */
	GLP_NR
};

struct gfs2_glock {
	uint64_t gl_number;
	enum lm_type gl_type;
	struct gfs2_glock_table *gl_table;
	const struct gfs2_glock_operations *gl_ops;
	struct rmutex gl_lock;		/* guards everything below but the atomics and gl_mapping */
	struct rcond gl_wait;		/* a holder was granted or failed; instantiate finished */
	enum gl_phase gl_phase;
	enum lm_state gl_state, gl_target, gl_demote_state, gl_req;
	int gl_reply;			/* last answer of the lock module */
	unsigned long gl_flags;		/* 1 << GLF_* */
	struct list_head gl_holders;	/* granted ones first, then waiters in arrival order */
	uint64_t gl_tchange_ns;		/* last change of gl_state */
	uint64_t gl_demote_ns;		/* when the demote request came */
	/* machine.c, turns: how long a busy lock is kept; what it cost lately to give it up; when it became idle, with a demotion pending */
	uint64_t gl_hold_ns, gl_cost_ns, gl_idle_ns;
	uint64_t gl_gone_ns;		/* it was idle and went at once; 0: not, or somebody has asked for it since */
	unsigned gl_users;		/* gfs2_glock_use() */
	bool gl_gap;			/* if idle now, it will not be for long */
	uint64_t gl_start_ns;		/* of the demotion that runs */
	atomic_uint gl_ref;
	/* The in-core object (struct gfs2_inode, struct gfs2_rgrpd); set and cleared under gl_lock. */
	void *gl_object;
	struct gfs2_mapping gl_mapping;	/* metadata buffers */
	/*
	 * The object knows something that can be written under EX only (times of direct writes).  Before DF or SH is given
	 * up, or one changed to the other, EX is tried, so that go_sync can write it when that goes.  Set by who has a
	 * holder.  relaxed: gl_lock, taken to release the holder, orders it
	 */
	atomic_bool gl_wants_ex;
	/* Revokes outstanding and AIL buffers, for the dump; kept by the journal (relaxed counters). */
	atomic_int gl_ail_count, gl_revokes;
	/*
	 * The state in which a node that is played by hand has it (gfs2_glock_foreign_hold); UN: none.  What that does not allow is not asked for.
	 */
	enum lm_state gl_foreign;
	/*
	 * Breakpoints (stops.c; GLS_*): a demand that is held, a request that was held once; what has been let go; what it needs then.
	 */
	unsigned gl_stopped, gl_resume;
	int gl_stop_reply;
	enum lm_state gl_stop_wished;
	uint64_t gl_stamp;		/* debug/event.c: of the last event about it */
	struct glock_times gl_times;	/* since the glock came into memory */
	char gl_lvb[32];		/* value block; valid while held */
	void *gl_lm_priv;		/* the lock module's own */
	/* table.c, under the hash shard's lock: hash chain, list of glocks that may be shrunk */
	struct gfs2_glock *gl_hash;
	struct list_head gl_lru;
	/* work.c, under the work lock */
	struct list_head gl_work;
	unsigned gl_work_flags;
	uint64_t gl_work_ns;
	/* machine.c and glock.c, under gl_lock */
	unsigned gl_why;		/* enum glock_why: what the running transition is for */
	unsigned gl_req_flags;		/* flags of the request gl_req */
	uint64_t gl_runner;		/* owner token of the thread inside go_sync/go_inval */
	bool gl_unlock_first;		/* conversion deadlock: go to UN before asking again */
	bool gl_lost;			/* LM_OUT_LOST: gl_state is good for nothing but to be given up */
	bool gl_raise_tried;		/* EX was tried for the transition that comes next (GLY_RAISE) */
	uint32_t gl_request;		/* number of the running transition's request */
	bool gl_asked;			/* its lm_lock has returned: lm_cancel may be called */
	bool gl_canceled;		/* it is to be taken back: lm_cancel was called, or will be once it may */
	bool gl_cb_wanted, gl_cb_running, gl_cb_remote; /* go_callback to be run, running, its argument */
	bool gl_used;			/* since the shrinker last looked */
	unsigned gl_nr_finish;		/* holders with HIF_FINISH */
	/*
	 * GL_FILL holders granted so far, and how many of them go_drain has been called for since.  Changed under gl_lock; read without it
	 * (relaxed) by who has had a holder after those that he wants to know of.
	 */
	atomic_uint_least64_t gl_fills, gl_drained;
	/*
	 * Changes of what the lock protects may have begun: holders in EX or DF granted, caches dropped.  Changed under gl_lock; read without it (relaxed) by
	 * who has a holder.
	 */
	atomic_uint_least64_t gl_tenure;
	unsigned gl_puts;		/* references to drop once gl_lock is released */
	struct list_head gl_done;	/* holders whose gh_granted is to be called then */
};

/*
 * A lock module.  lm_lock: ask for @req (LM_ST_UNLOCKED: go to NL); never waits for another node; the answer comes through
 * gfs2_glock_complete(gl, ret), where ret is the state now held, or'ed with LM_OUT_ERROR or LM_OUT_CANCELED; a try
 * request that is refused and a conversion deadlock answer with the state still held.
 * Asks and bids of other nodes come through gfs2_glock_cb(gl, state).
 *
 * When a node dies (reference 3.4-3.6) the cluster grants what it held before its journal has been replayed.  So from that moment
 * until all such journals are clean the module is *blocked*: answers that grant a state are kept back, except to requests
 * with LM_FLAG_NOEXP (the journals' own locks); answers to requests for LM_ST_UNLOCKED, refusals and errors pass.
 * A module also begins blocked, until lm_mount() returns.  On a thread of its own that may sleep it calls
 * lm_recover_journal() for every journal that may need it, again after a while if that gave up (lm_retry_ns()), and ends blocking when
 * all nodes agree that none is left.
 */
#define LM_OUT_ST_MASK 3
#define LM_OUT_ERROR 4
#define LM_OUT_CANCELED 8
/*
 * With one of them, or a refusal: the answer's state is not held any more.  What is, still keeps other nodes from EX, but nobody may use
 * it, and it goes to LM_ST_UNLOCKED before anything else is asked for.  (lock_dlm: a conversion between SH and DF that got half-way.)
 */
#define LM_OUT_LOST 16

/* Outcome of a recovery; values as the kernel's recover_status. */
#define LM_RD_GAVEUP 308	/* somebody else has the journal's lock, or another one that is needed: ask again */
#define LM_RD_SUCCESS 309	/* the journal is clean and was not in use */
#define LM_RD_FAILED 310	/* ours: it cannot be replayed here, as things are: ask again, but ever less often */
#define LM_RETRY_MAX_NS 15000000000ull

/* When to ask again after @failed failures in a row: @first_ns, for each twice as long, up to LM_RETRY_MAX_NS or six doublings. */
static inline uint64_t lm_retry_ns(uint64_t first_ns, unsigned failed)
{
	uint64_t ns = first_ns << (failed < 6 ? failed : 6);

	return ns < LM_RETRY_MAX_NS ? ns : LM_RETRY_MAX_NS;
}

/* What a module needs of the file system; registered before lm_mount(), called without ranked mutexes. */
struct lm_recovery_ops {
	/* Replay journal @jid unless a living node owns it.  May take glocks (with LM_FLAG_NOEXP). Returns LM_RD_*. */
	int (*lm_recover_journal)(void *private, unsigned jid);
	/*
	 * Before one of several is replayed, where what the dead held is free at once: does journal @jid have to be clean before any of the
	 * others?  (It has a copy of something that the recovery of each changes.)  Reads the journal.
	 */
	bool (*lm_comes_first)(void *private, unsigned jid);
	/* Of the volume, as this node knows it. */
	unsigned (*lm_nr_journals)(void *private);
	/* The node has lost its place in the cluster (lock space, broker): withdraw.  Any thread; does not sleep. */
	void (*lm_lost)(void *private, const char *why);
};

struct lm_lockops {
	const char *lm_proto_name;
	/*
	 * Join.  *@jid: our journal.  *@first: nobody else has the volume mounted, nor can he until lm_first_done(): the caller
	 * replays all journals in between.  On error a message has been given.
	 */
	int (*lm_mount)(struct gfs2_glock_table *t, const char *table, unsigned *jid, bool *first);
	void (*lm_first_done)(struct gfs2_glock_table *t);
	/*
	 * Our journal is closed, the way out: at return no recovery runs, none will begin, and nothing is kept back any
	 * more.  Only releases follow.  NULL: there never are recoveries.
	 */
	void (*lm_stop_recovery)(struct gfs2_glock_table *t);
	/* Leave; all glocks have been put.  Also after a failed lm_mount(), or without one. */
	void (*lm_unmount)(struct gfs2_glock_table *t);
	/* One request at a time; answered by gfs2_glock_complete(), maybe before this returns.  May sleep. */
	void (*lm_lock)(struct gfs2_glock *gl, enum lm_state req, unsigned flags);
	/* The DLM's flags (LKF_*) that lm_lock with these arguments would ask with, for the event.  NULL: there is no DLM. */
	uint32_t (*lm_request_flags)(const struct gfs2_glock *gl, enum lm_state req, unsigned flags);
	/* Take the request back if it waits; it is answered all the same.  Its lm_lock has returned; its answer may be there, too: then nothing. */
	void (*lm_cancel)(struct gfs2_glock *gl);
	/* The glock goes away; calls gfs2_glock_free(gl) when the module has forgotten it (maybe later). */
	void (*lm_put_lock)(struct gfs2_glock *gl);
	/*
	 * From inside lm_recover_journal(@jid), after a try request for @gl was refused: is it the dead node itself that has it, which it will
	 * until this recovery is over?  Then nobody else gets it meanwhile, and the recovery may go on as if it had it.  NULL: the dead hold
	 * nothing.
	 */
	bool (*lm_dead_holds)(struct gfs2_glock *gl, unsigned jid);
	/*
	 * The same, for a module that keeps grants back: has this node itself been granted @gl exclusively, for a request that will not hear of
	 * it before this recovery is over?  Then, too, nobody has it or gets it meanwhile.  (All nodes may be waiting for one lock, and
	 * nobody but the one that is first can have it.)  NULL: nothing is kept back.
	 */
	bool (*lm_keeps_back)(struct gfs2_glock *gl);
	bool lm_has_peers;	/* other nodes can ask: turns and value blocks matter */
};
extern const struct lm_lockops lm_nolock, lm_local, lm_dlm;

/* --- life --- */
/*
 * @workers threads run demotions that no requester runs; 0: the caller does, with gfs2_glock_work_run_one().  @private is handed to
 * nobody here, only kept (gfs2_glock_table_private).
 */
int gfs2_glock_table_create(const struct lm_lockops *lm, struct buf_cache *bufs, unsigned workers,
			    void *private, struct gfs2_glock_table **out);
void *gfs2_glock_table_private(const struct gfs2_glock_table *t);
/* Before lm_mount. */
void gfs2_glock_table_set_recovery(struct gfs2_glock_table *t, const struct lm_recovery_ops *ops);
/*
 * Before lm_mount: the open volume, for modules that need to know which one it is.  @keep_locks: lock_local is to treat the death of
 * this process as a cluster does, not as the death of its node (mount option local_death=process).
 */
void gfs2_glock_table_set_volume(struct gfs2_glock_table *t, int fd, bool keep_locks);
/*
 * Time as turns (machine.c) see it (default: now_ns).  With a clock of one's own, turns that are over are noticed by
 * gfs2_glock_table_tick() only.  For the simulator and the tests; before the first glock is used.
 */
void gfs2_glock_table_set_clock(struct gfs2_glock_table *t, uint64_t (*clock)(void));
void gfs2_glock_table_tick(struct gfs2_glock_table *t);
/*
 * For a table without workers: run one piece of the work that is due, as a worker would (it may block in go_*(), and may be called
 * again meanwhile); false: nothing is due.  _due: when something will be by the table's clock, not later than now if
 * something is; UINT64_MAX: there is no work.
 */
bool gfs2_glock_work_run_one(struct gfs2_glock_table *t);
uint64_t gfs2_glock_work_due(struct gfs2_glock_table *t);
/*
 * How to ask whether the current thread has an open transaction (the journal registers gfs2_trans_active once, before any
 * glock is used; src/lock does not link to it).  Debug builds: nobody waits for a glock inside of one.
 */
void gfs2_glock_set_trans_check(bool (*active)(void));
/* Drops every glock (demote to UN, put); all holders must be gone: asserted after a dump. */
void gfs2_glock_table_destroy(struct gfs2_glock_table *t);

/* Find or create; +1 reference. */
struct gfs2_glock *gfs2_glock_get(struct gfs2_glock_table *t, uint64_t number,
				  const struct gfs2_glock_operations *ops);
struct gfs2_glock *gfs2_glock_find(struct gfs2_glock_table *t, enum lm_type type, uint64_t number);
struct gfs2_glock *gfs2_glock_hold(struct gfs2_glock *gl);
void gfs2_glock_put(struct gfs2_glock *gl);
void gfs2_glock_free(struct gfs2_glock *gl);
void glock_set_object(struct gfs2_glock *gl, void *object);
void glock_clear_object(struct gfs2_glock *gl, void *object);

/* --- holders --- */
void gfs2_holder_init(struct gfs2_glock *gl, enum lm_state state, unsigned flags,
		      struct gfs2_holder *gh, const char *where);
void gfs2_holder_uninit(struct gfs2_holder *gh);
/* For whom it is, to be told: of GL_NOPID, which has no process of its own.  Any time between init and uninit. */
void gfs2_holder_set_pid(struct gfs2_holder *gh, pid_t pid);
/*
 * Queue and, unless GL_ASYNC, wait until granted.  0; GLR_TRYFAILED for try requests; -EIO after an error of the module or of
 * instantiate; -EINTR is never returned.  The caller holds no ranked mutex and has no open transaction (asserted).
 */
int gfs2_glock_nq(struct gfs2_holder *gh);
int gfs2_glock_wait(struct gfs2_holder *gh);	/* for GL_ASYNC without gh_granted */
int gfs2_glock_poll(struct gfs2_holder *gh);	/* true: no longer waiting; the result is gfs2_glock_wait()'s */
/*
 * Receive threads: grant only if that needs nothing but adding the holder (held state fits, no demotion pending or
 * running, nobody waiting, object instantiated).  Never blocks (gl_lock is only tried); false: nothing was queued.
 */
bool gfs2_glock_nq_fast(struct gfs2_holder *gh);
/*
 * Granted or waiting (then cancelled: a thread that sleeps in nq/wait for it gets -ECANCELED); nothing if not queued.
 * With GL_NOCACHE a demotion to UN follows: gfs2_glock_wait_demoted() if it matters when.
 */
void gfs2_glock_dq(struct gfs2_holder *gh);
/*
 * Take back a GL_ASYNC holder with gh_granted.  True: it is not queued any more and gh_granted will not be called; false: it
 * was called or is being called now (then the callback's side must dq).
 */
bool gfs2_glock_cancel(struct gfs2_holder *gh);
#define gfs2_glock_nq_init(gl, state, flags, gh)                                                   \
	({                                                                                         \
		gfs2_holder_init(gl, state, flags, gh, __func__);                                  \
		int _e = gfs2_glock_nq(gh);                                                        \
		if (_e)                                                                            \
			gfs2_holder_uninit(gh);                                                    \
		_e;                                                                                \
	})
void gfs2_glock_dq_uninit(struct gfs2_holder *gh);
/* By who has looked at the clock just now: gfs2_event_time(). */
void gfs2_glock_dq_uninit_at(struct gfs2_holder *gh, uint64_t t_ns);
/* May there still be something that was read under GL_FILL holders? */
static inline bool gfs2_glock_filled(struct gfs2_glock *gl)
{
	return atomic_load_explicit(&gl->gl_fills, memory_order_relaxed) !=
	       atomic_load_explicit(&gl->gl_drained, memory_order_relaxed);
}
/* By who has the only holder, in EX: what has been read under GL_FILL holders is dropped. */
void gfs2_glock_drained(struct gfs2_glock *gl);
/*
 * By who has a holder in SH (without LM_FLAG_ANY).  If it was the same under an earlier one, nobody on this node has had a holder in EX or DF since
 * then, and no other node can have had the lock in these.
 */
static inline uint64_t gfs2_glock_tenure(struct gfs2_glock *gl)
{
	return atomic_load_explicit(&gl->gl_tenure, memory_order_relaxed);
}
/*
 * From go_drain: grant those GL_FILL holders that wait at this moment and for which @want says so (it must not sleep; gh_priv is the
 * owner's).  _wait_guests: until those that were granted have gone.  A @want that only looks may be called for at any time.
 */
void gfs2_glock_admit(struct gfs2_glock *gl, bool (*want)(const struct gfs2_holder *gh, void *arg), void *arg);
void gfs2_glock_wait_guests(struct gfs2_glock *gl);
/*
 * The same for a granted holder, as if it had GL_NOCACHE.  The demotion is made (with other nodes: asked for) by the caller, who may block
 * as in gfs2_glock_nq(): a worker would have to be woken for each inode that goes.
 */
void gfs2_glock_dq_uninit_nocache(struct gfs2_holder *gh);
static inline bool gfs2_holder_queued(const struct gfs2_holder *gh)
{
	/* Not gh_list: the neighbours in the queue change it under a gl_lock that the caller does not have. */
	return gh->gh_gl && atomic_load_explicit(&((struct gfs2_holder *)gh)->gh_iflags,
						 memory_order_acquire);
}
/*
 * Queue @gh (GL_ASYNC) and wait until it is granted (0) or has failed (-errno), but no longer than until somebody asks for @other, which
 * the caller holds, or @timeout_ns is over: then GLR_TRYFAILED, and @gh is not queued any more.
 */
int gfs2_glock_nq_unless_wanted(struct gfs2_holder *gh, struct gfs2_glock *other, uint64_t timeout_ns);
/* Several at once, sorted by (number, type), duplicates not allowed; all or none. */
int gfs2_glock_nq_m(unsigned nr, struct gfs2_holder *ghs);
void gfs2_glock_dq_m(unsigned nr, struct gfs2_holder *ghs);

/* Debug builds: the current request (current_ctx()->req, or this thread) has a granted holder on @gl whose state allows
 * reading (@write false) or changing what the glock protects. */
void gfs2_assert_held(struct gfs2_glock *gl, bool write);

/*
 * --- from the lock module and the debugger ---
 * A module calls these without any ranked mutex and only with glocks that it has not given back with gfs2_glock_free(): until
 * then the memory is valid, even if the last reference is gone.
 */
void gfs2_glock_complete(struct gfs2_glock *gl, int ret);
/* Another node wants @wished (UN, DF or SH left to us); also `glockctl demote`. */
void gfs2_glock_cb(struct gfs2_glock *gl, enum lm_state wished, bool remote);
/*
 * Play the other node: it asks for @gl in @state (not UN), and when this node has let go, keeps it so until it is released.  This node's
 * requests for what that does not allow wait; try requests fail.  Returns at once; gfs2_glock_wait_demoted() waits until it is so.
 * -EBUSY: somebody plays already.  For debugging: real other nodes know nothing of it.
 */
int gfs2_glock_foreign_hold(struct gfs2_glock *gl, enum lm_state state);
/* @reason: static text, for the event. */
void gfs2_glock_foreign_release(struct gfs2_glock *gl, const char *reason);
/* The module's own, NULL at first; set in lm_mount before any glock is used. */
void gfs2_glock_table_set_lm_private(struct gfs2_glock_table *t, void *lm_private);
void *gfs2_glock_table_lm_private(const struct gfs2_glock_table *t);
int gfs2_glock_table_volume(const struct gfs2_glock_table *t, bool *keep_locks);
/* LM_RD_GAVEUP if nobody registered. */
int gfs2_glock_table_recover_journal(struct gfs2_glock_table *t, unsigned jid);
bool gfs2_glock_table_comes_first(struct gfs2_glock_table *t, unsigned jid); /* false if nobody registered */
unsigned gfs2_glock_table_nr_journals(struct gfs2_glock_table *t); /* 0 if nobody registered */
void gfs2_glock_table_lost(struct gfs2_glock_table *t, const char *why);
/*
 * Tunable: how long a busy inode glock is kept, from its grant on, when another node asks for it (kernel: gl_hold_time).  GLOCK_HOLD_AUTO, the
 * default: turns as long as the hand-overs want them (machine.c).  Any thread; holds from the next question on.
 */
#define GLOCK_HOLD_AUTO UINT64_MAX
void gfs2_glock_table_set_min_hold(struct gfs2_glock_table *t, uint64_t ns);
uint64_t gfs2_glock_table_min_hold(const struct gfs2_glock_table *t);
/* gfs2_glock_table_destroy() is under way: what is at rest may be forgotten without a word to the cluster. */
bool gfs2_glock_table_dying(const struct gfs2_glock_table *t);
/*
 * What is done with the lock goes on without a holder (data are made durable): until gfs2_glock_unuse() the glock counts as busy, so a turn does
 * not end early.  It may go all the same, when the turn is over.
 */
void gfs2_glock_use(struct gfs2_glock *gl);
void gfs2_glock_unuse(struct gfs2_glock *gl);
/* Has anybody asked for it to be given up (at once or after the hold time), without that having happened yet? */
bool gfs2_glock_demote_wanted(struct gfs2_glock *gl);
/*
 * Wait until no demotion is pending or running on @gl, at most @timeout_ns.  False: there still is one; at once, when after a
 * withdraw it will not come.
 */
bool gfs2_glock_wait_demoted(struct gfs2_glock *gl, uint64_t timeout_ns);
/* Is a demotion pending or running just now?  May have changed by the time of the answer: for statistics. */
bool gfs2_glock_demote_asked(struct gfs2_glock *gl);
/*
 * Demote up to @nr LRU glocks that nobody holds and that have no object to UN (memory), those without buffers first; returns how many
 * were started.
 */
unsigned gfs2_glock_shrink(struct gfs2_glock_table *t, unsigned nr);
/* After withdraw: new holders without LM_FLAG_NOEXP on disk types get -EIO, nothing is given up any more. */
void gfs2_glock_table_withdraw(struct gfs2_glock_table *t);
/*
 * No glock begins to write back or to drop caches from now on; at return none is at it.  Requests wait.  For the time in which the log
 * ends: other nodes may ask for locks at any moment.  The caller holds no ranked mutex.
 */
void gfs2_glock_table_hold(struct gfs2_glock_table *t);
void gfs2_glock_table_release(struct gfs2_glock_table *t);
bool gfs2_glock_table_withdrawn(const struct gfs2_glock_table *t);

/* --- dump: the kernel's `glocks` format (reference section 7.1) --- */
void gfs2_dump_glock(FILE *out, struct gfs2_glock *gl);
/* A copy; of the table: for each lm_type the sum over its locks, those that are not in memory any more included. */
void gfs2_glock_times(struct gfs2_glock *gl, struct glock_times *out);
void gfs2_glock_table_times(struct gfs2_glock_table *t, struct glock_times out[LM_TYPE_JOURNAL + 1]);
void gfs2_glock_table_for_each(struct gfs2_glock_table *t,
			       void (*fn)(struct gfs2_glock *gl, void *arg), void *arg);
const char *glock_state_name(enum lm_state s);	/* "UN" "EX" "DF" "SH" */
int glock_state_parse(const char *s);		/* also NL PR CW, IV not; -EINVAL */

/* --- the tables, for tests and documentation --- */
/* May a request for @want be granted while holders of state @have run? (no NODE_SCOPE) */
bool glock_compatible(enum lm_state have, enum lm_state want);
/* Does holding @have satisfy @want when nobody holds it locally? */
bool glock_satisfies(enum lm_state have, enum lm_state want, unsigned flags);

#endif
