/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine that moves a glock (kernel: glock.c: run_queue, do_xmote, finish_xmote, state_change).
 *
 * What it is.  A glock is in one of three phases (gl_phase); what happens to it is one of GLE_NR events.  The table
 * glock_machine[][] below says for every pair which action runs and which phase follows; everything that changes a glock
 * goes through glock_fire(), and a pair that is not in the table stops the daemon with a dump of the glock.
 *
 *	IDLE   no transition; holders come and go as gl_state allows
 *	  | START: gl_target, gl_req, gl_why are set; nothing is granted, and nothing will be until the phase is IDLE again
 *	SYNC   go_drain, go_sync and go_inval run without gl_lock, on one thread; gl_state is still held in the cluster
 *	  | SYNCED                       | ABANDON, SYNC_FAILED: back to IDLE in the old state
 *	WAIT   the lock module has the request
 *	  | REPLY_*: gl_state is what the answer says; IDLE
 *
 * Guarantees
 *  1. A state is given up only after go_sync, and go_inval where glock_rights says that caches must go, have returned.
 *  2. A holder is granted only in phase IDLE and if glock_may_grant() says so; in the order of arrival.  The one exception are
 *     GL_FILL holders that go_drain admits: out of turn, under the state that is still held, and gone before go_sync.
 *  3. After the answer to a promotion everything that it can serve is granted once, even if a demote request came in
 *     between (else two nodes could take a lock from each other for ever without using it); later holders wait for the demotion.
 *  4. A demote request is never lost: whatever the phase when it comes, it is looked at on every return to IDLE.
 *  5. No transition refers to a holder: a waiter may go away at any time.
 *  6. A state that the module had to let go of on the way to another one, which it then did not get (LM_OUT_LOST), is granted to nobody, and is
 *     given up like one that another node asks for, caches and all, before anything else is asked for.
 *
 * Callers hold gl_lock and a reference.  Actions never release gl_lock; what needs that (callbacks, dropping references)
 * is left in gl_done and gl_puts for glock_unlock().
 */
#include "lock/internal.h"

#include "debug/event.h"
#include "debug/stop.h"
#include "util/seeded.h"
#include "util/util.h"

#define FLAG(f) (1ul << (f))
/* Whom the cluster may refuse. */
#define REFUSABLE (TRY_FLAGS | GL_TRY_OTHERS)

#define UN LM_ST_UNLOCKED
#define EX LM_ST_EXCLUSIVE

/* The glock whose lm_lock this thread is in: its answer may come from inside, and then this thread goes on with it. */
static _Thread_local struct gfs2_glock *asking;

struct gfs2_glock **glock_asking(void)
{
	return &asking;
}

static bool frozen_by_withdraw(const struct gfs2_glock *gl)
{
	const struct gfs2_glock_table *t = gl->gl_table;

	return atomic_load_explicit(&t->t_withdrawn, memory_order_relaxed) &&
	       !(gl->gl_ops->go_flags & GLOF_NONDISK) &&
	       !atomic_load_explicit(&t->t_destroying, memory_order_relaxed) &&
	       !SEEDED_BUG("glock-withdrawn-gives-up");
}

bool glock_blocked_by_withdraw(const struct gfs2_glock *gl, unsigned flags)
{
	return frozen_by_withdraw(gl) && !(flags & LM_FLAG_NOEXP);
}

bool glock_demote_due(const struct gfs2_glock *gl)
{
	return (gl->gl_flags & FLAG(GLF_DEMOTE)) &&
	       glock_demote_needed[gl->gl_state][gl->gl_demote_state] && !frozen_by_withdraw(gl);
}

/*
 * --- turns ---
 * Another node asks for a lock.  If nobody here uses it, it goes at once: nodes that work alternately never wait.  If it is
 * busy, every hand-over is time in which nobody works, so the node first has a turn, counted from when it got the lock: some times as
 * long as giving the lock up has taken lately (write-back included; what it costs the others to get it back is about as much), so most of
 * the time is worked in whatever the device is like, but never so long that it shows (the kernel: 40 to 200 ms, the longer the
 * more somebody here has had to wait).  A turn ends early when the lock has been idle for a part of it.
 *
 * Busy is a lock with holders or users (gl_users: what is done with it goes on without a holder).  One process that makes one call after the
 * other leaves gaps, and most questions would come in one.  Whether that is so shows afterwards: if somebody here asks for the lock
 * within the time for which it may be idle after it has gone, it should have stayed (gl_gap), and the next time it does, for that long;
 * until nobody comes in it.
 *
 * With a fixed time (t_min_hold_ns) a busy lock is kept for so long, be it idle in between, and an idle one goes at once: for who wants to see what that does.
 */
static bool busy(const struct gfs2_glock *gl)
{
	return !list_empty(&gl->gl_holders) || gl->gl_users;
}

static uint64_t idle_time(const struct gfs2_glock *gl)
{
	return gl->gl_hold_ns / GLOCK_TURN_IDLE;
}

static bool adaptive(const struct gfs2_glock *gl)
{
	return gfs2_glock_table_min_hold(gl->gl_table) == GLOCK_HOLD_AUTO;
}

uint64_t glock_turn(const struct gfs2_glock *gl)
{
	uint64_t fixed = gfs2_glock_table_min_hold(gl->gl_table);

	return fixed == GLOCK_HOLD_AUTO ? gl->gl_hold_ns : fixed;
}

uint64_t glock_hold_left(const struct gfs2_glock *gl, uint64_t now)
{
	uint64_t over = gl->gl_tchange_ns + glock_turn(gl);

	if (!gl->gl_table->t_lm->lm_has_peers || gl->gl_type != LM_TYPE_INODE ||
	    !(busy(gl) || (gl->gl_gap && adaptive(gl))) || SEEDED_BUG("glock-min-hold-ignored"))
		return 0;
	/* Not granted yet: the time counts from the answer. */
	if (gl->gl_phase != GLP_IDLE)
		return glock_turn(gl);
	if (!busy(gl))
		over = min_t(uint64_t, over, now + idle_time(gl));
	return over > now ? over - now : 0;
}

/* Somebody asks for the lock here: had it better not been given away a moment ago? */
void glock_note_asked(struct gfs2_glock *gl)
{
	gl->gl_gap = glock_now(gl) - gl->gl_gone_ns < idle_time(gl);
	gl->gl_gone_ns = 0;
}

uint64_t glock_turn_ends(const struct gfs2_glock *gl)
{
	uint64_t over = gl->gl_tchange_ns + glock_turn(gl);

	if (busy(gl) || !adaptive(gl))
		return over;
	return min_t(uint64_t, over, max_t(uint64_t, gl->gl_idle_ns, gl->gl_tchange_ns) + idle_time(gl));
}

/* A demotion has been made. */
static void measure_cost(struct gfs2_glock *gl)
{
	uint64_t now = glock_now(gl), ns = now > gl->gl_start_ns ? now - gl->gl_start_ns : 0;

	gl->gl_cost_ns = gl->gl_cost_ns ? (3 * gl->gl_cost_ns + ns) / 4 : ns;
	gl->gl_hold_ns = min_t(uint64_t, max_t(uint64_t, GLOCK_TURN_COSTS * gl->gl_cost_ns, GLOCK_TURN_MIN_NS),
			       GLOCK_TURN_MAX_NS);
}

/* --- what actions are made of --- */

static void set_state(struct gfs2_glock *gl, enum lm_state state, const char *reason)
{
	ev_glock(EV_GLOCK_STATE, gl, gl->gl_state, state, reason);
	/* A lock that the cluster knows of keeps its glock in core. */
	if (gl->gl_state == UN && state != UN)
		gfs2_glock_hold(gl);
	else if (gl->gl_state != UN && state == UN)
		gl->gl_puts++;
	gl->gl_state = state;
	gl->gl_tchange_ns = glock_now(gl);
}

/*
 * An answer that is not the state asked for: what is held now.  If the old state has been lost on the way (LM_OUT_LOST), it goes down at
 * once, as if another node had asked: what it let be cached must go with it, and nobody is to be granted it meanwhile (glock_may_grant()).
 */
static void set_state_kept(struct gfs2_glock *gl, int reply, const char *reason)
{
	set_state(gl, reply & LM_OUT_ST_MASK, reason);
	gl->gl_lost = reply & LM_OUT_LOST && gl->gl_state != UN && !SEEDED_BUG("glock-lost-is-kept");
	if (likely(!gl->gl_lost))
		return;
	gl->gl_flags &= ~FLAG(GLF_PENDING_DEMOTE);
	gl->gl_flags |= FLAG(GLF_DEMOTE);
	gl->gl_demote_state = UN;
	gl->gl_demote_ns = glock_now(gl);
}

static void demote_done(struct gfs2_glock *gl)
{
	gl->gl_flags &= ~(FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE));
	gl->gl_demote_state = EX;
	rcond_broadcast(&gl->gl_wait);
}

/* Fail the waiters that have one of @flags (0: all), except @keep. */
static void fail_waiters(struct gfs2_glock *gl, unsigned flags, int error,
			 const struct gfs2_holder *keep)
{
	struct gfs2_holder *gh, *tmp;

	list_for_each_entry_safe(gh, tmp, &gl->gl_holders, gh_list)
		if (holder_waits(gh) && gh != keep && (!flags || (gh->gh_flags & flags)))
			glock_fail(gl, gh, error);
}

static void fail_withdrawn(struct gfs2_glock *gl)
{
	struct gfs2_holder *gh, *tmp;

	list_for_each_entry_safe(gh, tmp, &gl->gl_holders, gh_list)
		if (holder_waits(gh) && glock_blocked_by_withdraw(gl, gh->gh_flags))
			glock_fail(gl, gh, -EIO);
}

/*
 * Grant what can be granted.  A demote request that is due keeps new holders out, unless this is the answer that they
 * waited for (@answer, guarantee 3).
 */
static void promote(struct gfs2_glock *gl, bool answer)
{
	struct gfs2_holder *current, *gh, *next;

	/*
	 * Nobody is let in any more, even if the withdraw has not come to this glock yet: what was dropped for a demotion that it has called
	 * off is in a journal that others have to replay.
	 */
	if (unlikely(frozen_by_withdraw(gl)) && !SEEDED_BUG("glock-withdrawn-lets-in"))
		fail_withdrawn(gl);
	current = glock_first_holder(gl);
	gh = glock_first_waiter(gl);
	if (!gh) {
		gl->gl_unlock_first = false;
		return;
	}
	if (answer || !glock_demote_due(gl)) {
		for (; &gh->gh_list != &gl->gl_holders; gh = next) {
			next = list_entry(gh->gh_list.next, struct gfs2_holder, gh_list);
			if (!glock_may_grant(gl, current, gh))
				break;
			glock_grant(gl, gh);
			gl->gl_unlock_first = false;
			if (!current)
				current = gh;
		}
	}
	/* Whoever still waits does so for a granted holder to leave: not what try requests do. */
	if (current && !SEEDED_BUG("glock-try-waits-for-holder"))
		fail_waiters(gl, TRY_FLAGS, GLR_TRYFAILED, NULL);
}

/* The transition is over: back to rest. */
static void settle(struct gfs2_glock *gl)
{
	gl->gl_target = gl->gl_state;
	gl->gl_flags &= ~FLAG(GLF_DEMOTE_IN_PROGRESS);
	gl->gl_puts++; /* act_start's */
	if (gl->gl_state == UN)
		gl->gl_unlock_first = false;
	if (!(gl->gl_flags & (FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE)))) {
		rcond_broadcast(&gl->gl_wait);
		return;
	}
	if (!glock_demote_needed[gl->gl_state][gl->gl_demote_state])
		demote_done(gl);
	else if ((gl->gl_flags & FLAG(GLF_PENDING_DEMOTE)) && !SEEDED_BUG("glock-hold-timer-not-set"))
		glock_queue_work(gl, GLW_HOLD, glock_turn_ends(gl));
}

/* --- actions --- */

static void act_none(struct gfs2_glock *gl, const struct glock_arg *arg)
{
}

static void act_promote(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	promote(gl, false);
}

static void act_demand(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	const unsigned long wanted = FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE);
	uint64_t now, left;

	if (gl->gl_phase != GLP_IDLE && SEEDED_BUG("glock-demand-lost-in-transition"))
		return;
	/* A late one: we hold nothing that is in the way.  During a transition nobody knows yet. */
	if (gl->gl_phase == GLP_IDLE && !(gl->gl_flags & wanted) &&
	    !glock_demote_needed[gl->gl_state][arg->wished])
		return;
	now = glock_now(gl);
	left = arg->remote ? glock_hold_left(gl, now) : 0;
	gl->gl_flags |= left ? FLAG(GLF_PENDING_DEMOTE) : FLAG(GLF_DEMOTE);
	if (gl->gl_demote_state == EX) {
		gl->gl_demote_state = arg->wished;
		gl->gl_demote_ns = now;
	} else if (gl->gl_demote_state != arg->wished && !SEEDED_BUG("glock-second-wish-lost")) {
		gl->gl_demote_state = UN;
	}
	ev_glock(EV_GLOCK_DEMOTE_RQ, gl, gl->gl_state, arg->wished,
		 arg->remote ? "remote" : "local");
	if (left && gl->gl_phase == GLP_IDLE)
		glock_queue_work(gl, GLW_HOLD, now + left);
	if (!busy(gl)) {
		if (left)
			gl->gl_idle_ns = now;
		else if (arg->remote && gl->gl_type == LM_TYPE_INODE)
			gl->gl_gone_ns = now;
	}
	/* gfs2_glock_nq_unless_wanted() */
	rcond_broadcast(&gl->gl_wait);
}

static void act_hold_over(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	uint64_t ends = glock_turn_ends(gl);

	if (!(gl->gl_flags & FLAG(GLF_PENDING_DEMOTE)))
		return;
	/* The state may have changed since the timer was set, holders have come or gone. */
	if (glock_now(gl) < ends) {
		glock_queue_work(gl, GLW_HOLD, ends);
		return;
	}
	gl->gl_flags &= ~FLAG(GLF_PENDING_DEMOTE);
	/* Nobody has come. */
	if (!busy(gl) && ends < gl->gl_tchange_ns + glock_turn(gl))
		gl->gl_gap = false;
	if (!SEEDED_BUG("glock-pending-demote-dropped"))
		gl->gl_flags |= FLAG(GLF_DEMOTE);
}

/* The request is for somebody who has left: take it back, unless the next one can use the answer too. */
static void act_cancel(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	const struct gfs2_holder *gh = glock_first_waiter(gl);
	bool patient = gh && (!(gh->gh_flags & GL_TRY_OTHERS) || (gl->gl_req_flags & TRY_FLAGS));

	if (gl->gl_why != GLY_PROMOTE || gl->gl_canceled ||
	    (patient && glock_satisfies(gl->gl_req, gh->gh_state, gh->gh_flags)))
		return;
	/* Whoever did this calls lm_cancel once it has released gl_lock, or glock_ask_module() does. */
	gl->gl_canceled = true;
}

static void act_withdraw(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	fail_withdrawn(gl);
	/* Nobody need wait for a demotion that will not come. */
	rcond_broadcast(&gl->gl_wait);
}

static void act_start(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	const struct glock_step *step = &arg->step;
	const struct glock_rights *r = &glock_rights[gl->gl_state][step->target];
	bool try = step->flags & TRY_FLAGS;

	if (gl->gl_state == step->target || glock_first_holder(gl))
		glock_bug(gl, "transition without need or under a holder");
	gfs2_glock_hold(gl);
	gl->gl_why = step->why;
	gl->gl_target = gl->gl_req = step->target;
	gl->gl_req_flags = step->flags;
	gl->gl_raise_tried = step->why == GLY_RAISE;
	gl->gl_request++;
	gl->gl_asked = gl->gl_canceled = false;
	if (step->why == GLY_DEMOTE) {
		gl->gl_flags |= FLAG(GLF_DEMOTE_IN_PROGRESS);
		gl->gl_start_ns = glock_now(gl);
	}
	if (step->target == UN || gl->gl_state == EX || try)
		gl->gl_flags &= ~FLAG(GLF_BLOCKING);
	else
		gl->gl_flags |= FLAG(GLF_BLOCKING);
	if (gl->gl_ops->go_inval && (r->drop_data || r->drop_meta))
		gl->gl_flags |= FLAG(GLF_INVALIDATE_IN_PROGRESS);
	/* This will take time, which try requests have not; but for the one that it is done for. */
	if (!try || (gl->gl_flags & FLAG(GLF_INVALIDATE_IN_PROGRESS)))
		fail_waiters(gl, TRY_FLAGS, GLR_TRYFAILED,
			     step->why == GLY_PROMOTE ? glock_first_waiter(gl) : NULL);
}

/* Whoever it was begun for may have left meanwhile; the next one may not want to wait for other nodes. */
static void act_synced(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	const struct gfs2_holder *gh = glock_first_waiter(gl);

	if (gl->gl_why != GLY_PROMOTE || !gh || !(gh->gh_flags & GL_TRY_OTHERS) || SEEDED_BUG("glock-try-others-waits"))
		return;
	gl->gl_req_flags |= LM_FLAG_TRY;
	gl->gl_flags &= ~FLAG(GLF_BLOCKING);
}

static void act_abandon(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	settle(gl);
	promote(gl, false);
}

/*
 * What was dirty could not be written.  The lock must not be given up, so the demote request is forgotten; the layer above will have
 * withdrawn, or the other node asks again.
 */
static void act_sync_failed(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	fs_err("glock %u/%llx: cannot write back (error %d), %s is kept", gl->gl_type,
	       (unsigned long long)gl->gl_number, arg->error, glock_state_name(gl->gl_state));
	if (gl->gl_why == GLY_DEMOTE)
		demote_done(gl);
	settle(gl);
	fail_waiters(gl, 0, -EIO, NULL);
}

static void act_got(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	static const char *const why[] = {
		[GLY_PROMOTE] = "holder", [GLY_DEMOTE] = "demote", [GLY_UNLOCK] = "deadlock",
		[GLY_RAISE] = "publish",
	};

	set_state(gl, gl->gl_req, why[gl->gl_why]);
	gl->gl_lost = false;
	if (gl->gl_why == GLY_DEMOTE)
		measure_cost(gl);
	if (gl->gl_state != UN && gl->gl_table->t_lm->lm_has_peers)
		gl->gl_flags |= FLAG(GLF_INITIAL);
	settle(gl);
	promote(gl, gl->gl_why == GLY_PROMOTE);
}

/* The state is unchanged (or lost altogether, if the module had to). */
static void act_refused(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	set_state_kept(gl, arg->reply, "refused");
	switch ((enum glock_why)gl->gl_why) {
	case GLY_RAISE:
		/*
		 * Others hold it too.  What is to be written stays with the object.  A conversion between DF and SH would run into the
		 * others', so a demotion goes all the way down at once.
		 */
		if (gl->gl_flags & (FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE)))
			gl->gl_demote_state = UN;
		break;
	case GLY_DEMOTE:
		/* A conversion between SH and DF ran into another node's: all the way down resolves it. */
		gl->gl_demote_state = UN;
		break;
	case GLY_PROMOTE:
	case GLY_UNLOCK:
		if (gl->gl_req_flags & TRY_FLAGS)
			fail_waiters(gl, REFUSABLE, GLR_TRYFAILED, NULL);
		else if (!SEEDED_BUG("glock-deadlock-asks-again"))
			gl->gl_unlock_first = true;
		break;
	}
	settle(gl);
	promote(gl, false);
}

static void act_canceled(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	set_state_kept(gl, SEEDED_BUG("glock-cancel-taken-for-grant") ? (int)gl->gl_req : arg->reply, "canceled");
	settle(gl);
	promote(gl, false);
}

static void act_error(struct gfs2_glock *gl, const struct glock_arg *arg)
{
	bool last = atomic_load_explicit(&gl->gl_table->t_destroying, memory_order_relaxed);

	fs_err("glock %u/%llx: the lock manager failed a request for %s", gl->gl_type,
	       (unsigned long long)gl->gl_number, glock_state_name(gl->gl_req));
	/* At unmount there is nobody who could try again. */
	set_state_kept(gl, last ? (int)UN : arg->reply, "error");
	if (gl->gl_why == GLY_DEMOTE)
		demote_done(gl);
	settle(gl);
	fail_waiters(gl, 0, -EIO, NULL);
}

/* THE table.  Columns are phases, so that an event can be followed through all of them in one line. */
#define ROW(ev, idle, idle_next, sync, sync_next, wait, wait_next)                                 \
	[GLP_IDLE][GLE_##ev] = { idle, GLP_##idle_next },                                          \
	[GLP_SYNC][GLE_##ev] = { sync, GLP_##sync_next },                                          \
	[GLP_WAIT][GLE_##ev] = { wait, GLP_##wait_next }
#define BUG NULL, IDLE

const struct glock_transition glock_machine[GLP_NR][GLE_NR] = {
#define PAIR(...) ROW(__VA_ARGS__)
	/*   event	     in IDLE		  in SYNC		 in WAIT */
	PAIR(QUEUE,	     act_promote, IDLE,	  act_none, SYNC,	 act_none, WAIT),
	PAIR(DEQUEUE,	     act_promote, IDLE,	  act_none, SYNC,	 act_none, WAIT),
	PAIR(CANCEL,	     act_promote, IDLE,	  act_none, SYNC,	 act_cancel, WAIT),
	PAIR(DEMAND,	     act_demand, IDLE,	  act_demand, SYNC,	 act_demand, WAIT),
	PAIR(HOLD_OVER,	     act_hold_over, IDLE, act_none, SYNC,	 act_none, WAIT),
	PAIR(WITHDRAW,	     act_withdraw, IDLE,  act_withdraw, SYNC,	 act_withdraw, WAIT),
	PAIR(START,	     act_start, SYNC,	  BUG,			 BUG),
	PAIR(SYNCED,	     BUG,		  act_synced, WAIT,	 BUG),
	PAIR(ABANDON,	     BUG,		  act_abandon, IDLE,	 BUG),
	PAIR(SYNC_FAILED,    BUG,		  act_sync_failed, IDLE, BUG),
	PAIR(REPLY_OK,	     BUG,		  BUG,			 act_got, IDLE),
	PAIR(REPLY_REFUSED,  BUG,		  BUG,			 act_refused, IDLE),
	PAIR(REPLY_CANCELED, BUG,		  BUG,			 act_canceled, IDLE),
	PAIR(REPLY_ERROR,    BUG,		  BUG,			 act_error, IDLE),
};
#undef PAIR
#undef BUG
#undef ROW

const char *glock_event_name(enum glock_event ev)
{
	static const char *const names[GLE_NR] = {
		"QUEUE",       "DEQUEUE",  "CANCEL",	     "DEMAND",	       "HOLD_OVER",
		"WITHDRAW",    "START",	   "SYNCED",	     "ABANDON",	       "SYNC_FAILED",
		"REPLY_OK",    "REPLY_REFUSED", "REPLY_CANCELED", "REPLY_ERROR",
	};

	return ev < GLE_NR ? names[ev] : "?";
}

const char *glock_phase_name(enum gl_phase p)
{
	static const char *const names[GLP_NR] = { "IDLE", "SYNC", "WAIT" };

	return p < GLP_NR ? names[p] : "?";
}

_Noreturn void glock_bug(struct gfs2_glock *gl, const char *what)
{
	fs_err("glock %u/%llx: %s (phase %s)", gl->gl_type, (unsigned long long)gl->gl_number, what,
	       glock_phase_name(gl->gl_phase));
	glock_dump_locked(stderr, gl);
	fflush(stderr);
	gfs2_bug(what, __FILE__, __LINE__, __func__);
}

void glock_fire(struct gfs2_glock *gl, enum glock_event ev, const struct glock_arg *arg)
{
	const struct glock_transition *tr = &glock_machine[gl->gl_phase][ev];

	rmutex_assert_held(&gl->gl_lock);
	if (unlikely(!tr->action)) {
		fs_err("glock machine: event %s is not possible here", glock_event_name(ev));
		glock_bug(gl, "event that the table does not have");
	}
	gl->gl_phase = tr->next;
	if (tr->next == GLP_IDLE)
		gl->gl_flags &= ~FLAG(GLF_LOCK);
	else
		gl->gl_flags |= FLAG(GLF_LOCK);
	tr->action(gl, arg);
}

/* --- transitions --- */

/* Does a node that is played by hand keep the lock from going to @state? */
static bool foreign_forbids(const struct gfs2_glock *gl, enum lm_state state)
{
	return unlikely(gl->gl_foreign != UN) && (state == EX || state != gl->gl_foreign);
}

/*
 * Before @step: is there something that must be written under EX first, and may that be possible?  One try for each transition, and
 * never by waiting: two nodes that hold DF and wait for EX wait for each other.  A request for another try is not made to take longer.
 */
static bool raise_first(struct gfs2_glock *gl, struct glock_step *step)
{
	if ((gl->gl_state != LM_ST_DEFERRED && gl->gl_state != LM_ST_SHARED) || step->target == EX ||
	    step->target == gl->gl_state || step->why == GLY_UNLOCK || (step->flags & TRY_FLAGS) ||
	    gl->gl_raise_tried || !gl->gl_table->t_lm->lm_has_peers || frozen_by_withdraw(gl) ||
	    atomic_load_explicit(&gl->gl_table->t_destroying, memory_order_relaxed) ||
	    foreign_forbids(gl, EX) || !atomic_load_explicit(&gl->gl_wants_ex, memory_order_relaxed))
		return false;
	*step = (struct glock_step){ .why = GLY_RAISE, .target = EX,
				     .flags = SEEDED_BUG("glock-raise-waits") ? 0 : LM_FLAG_TRY };
	return true;
}

/* In phase IDLE: which transition is needed? */
static bool transition_needed(struct gfs2_glock *gl, struct glock_step *step)
{
	const struct gfs2_holder *gh;

	*step = (struct glock_step){ 0 };
	if (glock_first_holder(gl))
		return false;
	if (glock_demote_due(gl)) {
		/* go_callback comes first; its worker calls glock_run() afterwards. */
		if (gl->gl_cb_wanted || gl->gl_cb_running)
			return false;
		step->why = GLY_DEMOTE;
		step->target = gl->gl_demote_state;
		return true;
	}
	if (gl->gl_unlock_first && frozen_by_withdraw(gl)) {
		gl->gl_unlock_first = false;
		fail_waiters(gl, 0, -EIO, NULL);
	}
	/* A withdraw has called off the demotion that kept them waiting. */
	if (frozen_by_withdraw(gl)) {
		/* That one was for good. */
		if (gl->gl_lost)
			fail_waiters(gl, 0, -EIO, NULL);
		promote(gl, false);
		if (glock_first_holder(gl))
			return false;
	}
	gh = glock_first_waiter(gl);
	if (!gh)
		return false;
	/* Lost: when it could not be given up at once, whoever comes next tries. */
	if (gl->gl_unlock_first || gl->gl_lost) {
		step->why = GLY_UNLOCK;
		step->target = UN;
		return true;
	}
	if (foreign_forbids(gl, gh->gh_state)) {
		/* Who tries is not kept waiting; with the first gone the next may be one that can go on. */
		fail_waiters(gl, REFUSABLE, GLR_TRYFAILED, NULL);
		return false;
	}
	step->why = GLY_PROMOTE;
	step->target = gh->gh_state;
	step->flags = gh->gh_flags & (TRY_FLAGS | LM_FLAG_NOEXP);
	if (gh->gh_flags & GL_TRY_OTHERS && !SEEDED_BUG("glock-try-others-waits"))
		step->flags |= LM_FLAG_TRY;
	if (SEEDED_BUG("glock-try-waits-in-dlm"))
		step->flags &= ~TRY_FLAGS;
	return true;
}

/* And which one comes next? */
static bool next_step(struct gfs2_glock *gl, struct glock_step *step)
{
	if (!transition_needed(gl, step)) {
		/* Whoever the lock was raised for may have gone; the next transition is another. */
		gl->gl_raise_tried = false;
		return false;
	}
	if (!SEEDED_BUG("glock-raise-forgotten"))
		raise_first(gl, step);
	return true;
}

/* Caches are ready for the new state: is it still wanted, and may the old one be given up? */
static bool still_wanted(const struct gfs2_glock *gl)
{
	const struct gfs2_holder *gh = glock_first_waiter(gl);

	switch ((enum glock_why)gl->gl_why) {
	case GLY_DEMOTE:
	case GLY_RAISE:
		return !frozen_by_withdraw(gl);
	case GLY_UNLOCK:
		return gh && !frozen_by_withdraw(gl);
	case GLY_PROMOTE:
		break;
	}
	/* Also for a holder of this node nothing is lowered that could not be written. */
	if (gh && glock_blocked_by_withdraw(gl, gh->gh_flags))
		return false;
	return gh && glock_satisfies(gl->gl_req, gh->gh_state, gh->gh_flags);
}

void glock_ask_module(struct gfs2_glock *gl, bool forget)
{
	const struct lm_lockops *lm = gl->gl_table->t_lm;
	struct gfs2_glock *outer = asking;
	enum lm_state req = gl->gl_req;
	unsigned flags = gl->gl_req_flags;
	uint32_t nr = gl->gl_request;

	if (lm->lm_has_peers && !forget) {
		if (glock_stop_request(gl))
			return;
		ev_dlm_lock(gl, req, lm->lm_request_flags ? lm->lm_request_flags(gl, req, flags) : 0,
			    flags & TRY_FLAGS ? "try" : NULL);
	}
	glock_unlock(gl);
	asking = gl;
	if (forget)
		gfs2_glock_complete(gl, req);
	else
		lm->lm_lock(gl, req, flags);
	asking = outer;
	rmutex_lock(&gl->gl_lock);
	if (gl->gl_phase != GLP_WAIT || gl->gl_request != nr)
		return;
	gl->gl_asked = true;
	/* Meanwhile, when there was nothing yet that could have been taken back. */
	if (gl->gl_canceled) {
		glock_unlock(gl);
		lm->lm_cancel(gl);
		rmutex_lock(&gl->gl_lock);
	}
}

/* May a transition begin?  Then it is counted, and glock_synced() ends that (gfs2_glock_table_hold). */
static bool may_sync(struct gfs2_glock_table *t)
{
	atomic_fetch_add(&t->t_syncing, 1);
	if (likely(!atomic_load(&t->t_held)))
		return true;
	glock_synced(t);
	return false;
}

void gfs2_glock_admit(struct gfs2_glock *gl, bool (*want)(const struct gfs2_holder *gh, void *arg), void *arg)
{
	struct gfs2_holder *gh, *tmp;

	rmutex_lock(&gl->gl_lock);
	list_for_each_entry_safe(gh, tmp, &gl->gl_holders, gh_list) {
		if (!holder_waits(gh) || !(gh->gh_flags & GL_FILL) || gl->gl_lost ||
		    !glock_satisfies(gl->gl_state, gh->gh_state, gh->gh_flags) || !want(gh, arg))
			continue;
		/* Granted ones come first. */
		list_del_init(&gh->gh_list);
		list_add(&gh->gh_list, &gl->gl_holders);
		glock_grant(gl, gh);
	}
	glock_unlock(gl);
}

void gfs2_glock_wait_guests(struct gfs2_glock *gl)
{
	rmutex_lock(&gl->gl_lock);
	while (glock_first_holder(gl))
		rcond_wait(&gl->gl_wait, &gl->gl_lock);
	rmutex_unlock(&gl->gl_lock);
}

void gfs2_glock_drained(struct gfs2_glock *gl)
{
	rmutex_lock(&gl->gl_lock);
	atomic_store_explicit(&gl->gl_drained, atomic_load_explicit(&gl->gl_fills, memory_order_relaxed),
			      memory_order_relaxed);
	rmutex_unlock(&gl->gl_lock);
}

/*
 * Phase SYNC: what was read under GL_FILL holders goes.  A holder is released before what was read under it has got to whoever keeps
 * it; until then that is locked there, and who drops it waits.
 */
static void drain(struct gfs2_glock *gl)
{
	gl->gl_ops->go_drain(gl);
	gfs2_glock_wait_guests(gl);
	/* Not before: who asks meanwhile, gfs2_glock_filled(), must think that it is all still there. */
	gfs2_glock_drained(gl);
}

/* Phase SYNC: prepare the caches, then ask.  Releases and retakes gl_lock. */
void glock_run_transition(struct gfs2_glock *gl)
{
	const struct glock_rights *r = &glock_rights[gl->gl_state][gl->gl_req];
	const struct gfs2_glock_operations *ops = gl->gl_ops;
	struct gfs2_glock_table *t = gl->gl_table;
	bool inval = gl->gl_flags & FLAG(GLF_INVALIDATE_IN_PROGRESS);
	bool last = atomic_load_explicit(&t->t_destroying, memory_order_relaxed);
	/* At unmount after a withdraw others must not see the lock free before they have replayed our journal. */
	bool forget = last && atomic_load_explicit(&t->t_withdrawn, memory_order_relaxed) &&
		      !(ops->go_flags & GLOF_NONDISK);
	int error = 0;

	gl->gl_runner = glock_owner_token();
	glock_unlock(gl);
	if (inval && ops->go_drain && !forget && gfs2_glock_filled(gl) && !SEEDED_BUG("gate-left-open"))
		drain(gl);
	if (ops->go_sync && !forget &&
	    !(SEEDED_BUG("glock-no-sync-to-shared") && gl->gl_req == LM_ST_SHARED))
		error = ops->go_sync(gl);
	if (error && last) {
		forget = true;
		error = 0;
	}
	if (inval && !error &&
	    !(SEEDED_BUG("glock-no-inval-to-deferred") && gl->gl_req == LM_ST_DEFERRED))
		ops->go_inval(gl, r->drop_meta);
	glock_synced(t);
	rmutex_lock(&gl->gl_lock);
	gl->gl_runner = 0;
	gl->gl_flags &= ~FLAG(GLF_INVALIDATE_IN_PROGRESS);
	if (inval && !SEEDED_BUG("tenure-inval"))
		glock_tenure_ends(gl);
	if (inval && !error && r->drop_meta && ops->go_instantiate &&
	    !SEEDED_BUG("glock-not-instantiated-again"))
		gl->gl_flags |= FLAG(GLF_INSTANTIATE_NEEDED);

	if (error) {
		glock_fire(gl, GLE_SYNC_FAILED, &(struct glock_arg){ .error = error });
	} else if (!still_wanted(gl)) {
		glock_fire(gl, GLE_ABANDON, NULL);
	} else {
		glock_fire(gl, GLE_SYNCED, NULL);
		glock_ask_module(gl, forget);
	}
}

void glock_run(struct gfs2_glock *gl, enum glock_run how)
{
	struct glock_arg arg = { 0 };

	while (gl->gl_phase == GLP_IDLE && next_step(gl, &arg.step)) {
		if (how == GLR_NO_STEP) {
			if (asking != gl)
				glock_queue_work(gl, GLW_RUN, 0);
			return;
		}
		if (how == GLR_ONE_STEP)
			how = GLR_NO_STEP;
		/* gfs2_glock_table_release() comes back to it. */
		if (!may_sync(gl->gl_table))
			return;
		glock_fire(gl, GLE_START, &arg);
		if (stop_armed() && glock_stop_transition(gl))
			return;
		glock_run_transition(gl);
	}
}

/* The module's answer takes effect; gl_lock held, released and retaken. */
void glock_take_reply(struct gfs2_glock *gl, int ret)
{
	const struct glock_arg arg = { .reply = ret };
	enum glock_event ev;
	const char *word;

	if (ret & LM_OUT_ERROR) {
		ev = GLE_REPLY_ERROR;
		word = "error";
	} else if ((ret & LM_OUT_ST_MASK) == (int)gl->gl_req) {
		/* Also if it was cancelled too late. */
		ev = GLE_REPLY_OK;
		word = NULL;
	} else if (ret & LM_OUT_CANCELED) {
		ev = GLE_REPLY_CANCELED;
		word = "canceled";
	} else {
		ev = GLE_REPLY_REFUSED;
		word = "refused";
	}
	gl->gl_reply = ret;
	if (gl->gl_table->t_lm->lm_has_peers)
		ev_glock(EV_DLM_AST, gl, -1, ret & LM_OUT_ST_MASK, word);
	glock_fire(gl, ev, &arg);
	glock_run(gl, GLR_NO_STEP);
}

void gfs2_glock_complete(struct gfs2_glock *gl, int ret)
{
	rmutex_lock(&gl->gl_lock);
	if (!stop_armed() || !glock_stop_reply(gl, ret))
		glock_take_reply(gl, ret);
	glock_unlock(gl);
}

void glock_take_demand(struct gfs2_glock *gl, enum lm_state wished, bool remote)
{
	if (remote && gl->gl_table->t_lm->lm_has_peers)
		ev_glock(EV_DLM_BAST, gl, gl->gl_state, wished, NULL);
	glock_fire(gl, GLE_DEMAND, &(struct glock_arg){ .wished = wished, .remote = remote });
	if (gl->gl_ops->go_callback) {
		gl->gl_cb_wanted = true;
		gl->gl_cb_remote |= remote;
		glock_queue_work(gl, GLW_CALLBACK, 0);
	}
	glock_run(gl, GLR_NO_STEP);
}

void gfs2_glock_cb(struct gfs2_glock *gl, enum lm_state wished, bool remote)
{
	GFS2_BUG_ON(wished == EX);
	rmutex_lock(&gl->gl_lock);
	/* A request that crosses the last put has nothing to ask for. */
	if (!glock_hold_live(gl)) {
		rmutex_unlock(&gl->gl_lock);
		return;
	}
	if (!remote || !glock_stop_demand(gl, wished))
		glock_take_demand(gl, wished, remote);
	gl->gl_puts++;
	glock_unlock(gl);
}

void glock_unlock_and_settle(struct gfs2_glock *gl)
{
	LIST_HEAD(done);
	unsigned puts = gl->gl_puts;

	gl->gl_puts = 0;
	list_splice_tail_init(&gl->gl_done, &done);
	rmutex_unlock(&gl->gl_lock);
	while (!list_empty(&done)) {
		struct gfs2_holder *gh = list_first_entry(&done, struct gfs2_holder, gh_done);

		/* Not ours any more once it was called. */
		list_del_init(&gh->gh_done);
		gh->gh_granted(gh);
	}
	while (puts--)
		gfs2_glock_put(gl);
}
