/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Holders: queueing, granting, waiting, releasing (kernel: glock.c: gfs2_glock_nq, may_grant, do_promote,
 * gfs2_instantiate, gfs2_glock_dq).  How the glock itself moves is machine.c.
 *
 * What it guarantees
 *  1. Holders are granted in the order of their arrival; a holder is granted only if it is compatible with
 *     those granted and the state held satisfies it.
 *  2. A holder's memory is not touched after its owner can know that it was granted or has failed: the last access is under
 *     gl_lock, and the owner takes gl_lock before it returns.  (With gh_granted: the last access is the call.)
 *  3. The object is instantiated once for all holders that need it, before any of them returns.
 *  4. gfs2_glock_nq_fast() and gfs2_glock_dq() never sleep (but for gl_lock, which nobody holds while he sleeps), allocate
 *     nothing and run nothing of the layers above.
 *
 * gl_holders: the granted holders, all of the same state, then the waiters.  So the first entry tells whether anything is
 * granted and the last one whether anybody waits.
 */
#include "lock/internal.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "debug/event.h"
#include "util/ctx.h"
#include "util/seeded.h"
#include "util/util.h"

#define FLAG(f) (1ul << (f))

static bool (*trans_active)(void);

void gfs2_glock_set_trans_check(bool (*active)(void))
{
	trans_active = active;
}

/* --- the queue; gl_lock held --- */

struct gfs2_holder *glock_first_holder(const struct gfs2_glock *gl)
{
	struct gfs2_holder *gh;

	if (list_empty(&gl->gl_holders))
		return NULL;
	gh = list_first_entry(&gl->gl_holders, struct gfs2_holder, gh_list);
	return holder_waits(gh) ? NULL : gh;
}

static bool somebody_waits(const struct gfs2_glock *gl)
{
	return !list_empty(&gl->gl_holders) &&
	       holder_waits(list_last_entry(&gl->gl_holders, struct gfs2_holder, gh_list));
}

struct gfs2_holder *glock_first_waiter(const struct gfs2_glock *gl)
{
	struct gfs2_holder *gh;

	if (!somebody_waits(gl))
		return NULL;
	list_for_each_entry(gh, &gl->gl_holders, gh_list)
		if (holder_waits(gh))
			break;
	return gh;
}

static void set_iflags(struct gfs2_holder *gh, unsigned iflags)
{
	/* Release: who polls without the lock and sees it also sees gh_error. */
	atomic_store_explicit(&gh->gh_iflags, iflags, memory_order_release);
}

static bool needs_finish(const struct gfs2_glock *gl, const struct gfs2_holder *gh)
{
	return !(gh->gh_flags & GL_SKIP) &&
	       (gl->gl_ops->go_held || (gl->gl_flags & FLAG(GLF_INSTANTIATE_NEEDED)));
}

static void note_granted(struct gfs2_glock *gl, const struct gfs2_holder *gh)
{
	if (gh->gh_flags & GL_FILL)
		atomic_fetch_add_explicit(&gl->gl_fills, 1, memory_order_relaxed);
	if (gh->gh_state != LM_ST_SHARED && !SEEDED_BUG("tenure-grant"))
		glock_tenure_ends(gl);
	gl->gl_used = true;
	gl->gl_flags &= ~FLAG(GLF_LRU);
}

/* gl_lock held: @what of @gh ended at @t_ns (0: nobody keeps time). */
static void note_time(struct gfs2_glock *gl, struct gfs2_holder *gh, enum glock_time what, uint64_t t_ns)
{
	/* Holders that began before anybody kept time have none; what is looked at before a lock is taken may be older. */
	uint64_t ns = t_ns > gh->gh_time_ns && gh->gh_time_ns ? t_ns - gh->gh_time_ns : 0;
	unsigned b = ns < 1024 ? 0 : (unsigned)(63 - __builtin_clzll(ns) - 10) / 2 + 1;

	gl->gl_times.n[what][min_t(unsigned, b, GLOCK_TIME_BUCKETS - 1)]++;
	gl->gl_times.sum_ns[what] += ns;
	if (ns > gl->gl_times.max_ns[what])
		gl->gl_times.max_ns[what] = ns;
	gh->gh_time_ns = t_ns;
}

/* An event about a holder names the holder's request, on whosever thread it happens. */
static void ev_holder(enum gfs2_event_type t, struct gfs2_glock *gl,
		      const struct gfs2_holder *gh, const char *reason, uint64_t t_ns)
{
	struct gfs2_ctx *ctx = current_ctx(), saved = *ctx;

	if (!(gh->gh_owner & OWNER_THREAD)) {
		ctx->req = gh->gh_owner;
		ctx->pid = gh->gh_pid;
	}
	ev_glock_at(t, gl, -1, gh->gh_state, reason, t_ns);
	*ctx = saved;
}

void glock_grant(struct gfs2_glock *gl, struct gfs2_holder *gh)
{
	unsigned iflags = HIF_HOLDER;
	uint64_t t_ns = gfs2_event_time();

	note_granted(gl, gh);
	note_time(gl, gh, GLT_WAIT, t_ns);
	ev_holder(EV_GLOCK_PROMOTE, gl, gh, gl->gl_phase == GLP_SYNC ? "drain" : NULL, t_ns);
	gh->gh_error = 0;
	if (gh->gh_granted && needs_finish(gl, gh)) {
		iflags |= HIF_FINISH;
		gl->gl_nr_finish++;
		glock_queue_work(gl, GLW_FINISH, 0);
	} else if (gh->gh_granted) {
		list_add_tail(&gh->gh_done, &gl->gl_done);
	}
	if (gh->gh_cond)
		rcond_signal(gh->gh_cond);
	set_iflags(gh, iflags);
}

static void idle_turn(struct gfs2_glock *gl)
{
	gl->gl_idle_ns = glock_now(gl);
	glock_queue_work(gl, GLW_HOLD, glock_turn_ends(gl));
}

/* Somebody has left.  If nobody is there any more, the turn that another node waits for may end early. */
static inline void note_idle(struct gfs2_glock *gl)
{
	if (unlikely(gl->gl_flags & FLAG(GLF_PENDING_DEMOTE)) && list_empty(&gl->gl_holders) && !gl->gl_users)
		idle_turn(gl);
}

/* Off the queue with @error; wakes whoever waits for it. */
void glock_fail(struct gfs2_glock *gl, struct gfs2_holder *gh, int error)
{
	ev_holder(EV_GLOCK_DEQUEUE, gl, gh, error == GLR_TRYFAILED ? "try failed" : "error",
		  gfs2_event_time());
	list_del_init(&gh->gh_list);
	note_idle(gl);
	gh->gh_error = error;
	if (gh->gh_granted)
		list_add_tail(&gh->gh_done, &gl->gl_done);
	if (gh->gh_cond)
		rcond_signal(gh->gh_cond);
	set_iflags(gh, 0);
}

/*
 * One owner that queues twice would wait for itself.  FLOCK: owners are open files; GL_NOPID: long-lived, the owner is whoever mounted.
 */
static struct gfs2_holder *find_same_owner(struct gfs2_glock *gl, const struct gfs2_holder *gh)
{
	struct gfs2_holder *gh2;

	if (gl->gl_type == LM_TYPE_FLOCK || (gh->gh_flags & GL_NOPID))
		return NULL;
	list_for_each_entry(gh2, &gl->gl_holders, gh_list)
		if (gh2->gh_owner == gh->gh_owner && !(gh2->gh_flags & GL_NOPID))
			return gh2;
	return NULL;
}

/*
 * A try request may be granted now, or cost one question to the lock module; it never waits for another holder, nor for caches to be
 * written back or dropped.  (The kernel lets it wait for some of that; a caller inside a transaction must not, since
 * write-back may wait for the transaction to end.)
 */
static bool try_is_futile(const struct gfs2_glock *gl)
{
	const struct gfs2_holder *gh;

	if (gl->gl_phase == GLP_SYNC || glock_demote_due(gl))
		return true;
	list_for_each_entry(gh, &gl->gl_holders, gh_list)
		if (holder_waits(gh) && !(gh->gh_flags & TRY_FLAGS))
			return true;
	return false; /* promote() decides, then the lock module */
}

static void enqueue(struct gfs2_glock *gl, struct gfs2_holder *gh)
{
	const struct gfs2_holder *same = find_same_owner(gl, gh);

	if (unlikely(same || !list_empty(&gh->gh_list))) {
		fs_err("glock %u/%llx: %s queues a holder twice; the first one is %s's", gl->gl_type,
		       (unsigned long long)gl->gl_number, gh->gh_where,
		       same ? same->gh_where : gh->gh_where);
		glock_bug(gl, "recursive holder");
	}
	gh->gh_error = 0;
	gh->gh_time_ns = gfs2_event_time();
	ev_glock_at(EV_GLOCK_QUEUE, gl, -1, gh->gh_state, gh->gh_where, gh->gh_time_ns);
	if (gl->gl_gone_ns)
		glock_note_asked(gl);
	list_add_tail(&gh->gh_list, &gl->gl_holders);
	set_iflags(gh, HIF_WAIT);
	if ((gh->gh_flags & TRY_FLAGS) && try_is_futile(gl))
		glock_fail(gl, gh, GLR_TRYFAILED);
	else
		glock_fire(gl, GLE_QUEUE, NULL);
}

/* --- waiting --- */

/* Returns gh_error once @gh does not wait any more; *@instantiate: there may be something to read. */
static int wait_queued(struct gfs2_holder *gh, bool *instantiate)
{
	struct gfs2_glock *gl = gh->gh_gl;

	/* Who was granted on the way, and is still to be told, may be the one to wait for. */
	if (holder_waits(gh) && (gl->gl_puts || !list_empty(&gl->gl_done))) {
		glock_unlock(gl);
		rmutex_lock(&gl->gl_lock);
	}
	if (holder_waits(gh)) {
		struct rcond cond;

		rcond_init(&cond);
		gh->gh_cond = &cond;
		while (holder_waits(gh))
			rcond_wait(&cond, &gl->gl_lock);
		/* Signals are sent under gl_lock: none can come any more. */
		gh->gh_cond = NULL;
		rcond_destroy(&cond);
	}
	*instantiate = !gh->gh_error && !(gh->gh_flags & GL_SKIP) &&
		       (gl->gl_flags & FLAG(GLF_INSTANTIATE_NEEDED));
	return gh->gh_error;
}

/* The caller has a granted holder, so nothing can make the object stale meanwhile. */
static int instantiate(struct gfs2_glock *gl)
{
	int error = 0;

	rmutex_lock(&gl->gl_lock);
	while (gl->gl_flags & FLAG(GLF_INSTANTIATE_NEEDED)) {
		if (gl->gl_flags & FLAG(GLF_INSTANTIATE_IN_PROG)) {
			/* If that one fails, the next one tries for itself. */
			rcond_wait(&gl->gl_wait, &gl->gl_lock);
			continue;
		}
		gl->gl_flags |= FLAG(GLF_INSTANTIATE_IN_PROG);
		rmutex_unlock(&gl->gl_lock);
		error = gl->gl_ops->go_instantiate(gl);
		rmutex_lock(&gl->gl_lock);
		gl->gl_flags &= ~FLAG(GLF_INSTANTIATE_IN_PROG);
		if (!error)
			gl->gl_flags &= ~FLAG(GLF_INSTANTIATE_NEEDED);
		rcond_broadcast(&gl->gl_wait);
		if (error)
			break;
	}
	rmutex_unlock(&gl->gl_lock);
	return error;
}

/* @gh was granted: make the glock usable for it; on error it is released. */
static int finish_grant(struct gfs2_holder *gh, bool inst)
{
	struct gfs2_glock *gl = gh->gh_gl;
	int error = 0;

	if (inst)
		error = instantiate(gl);
	if (!error && gl->gl_ops->go_held && !(gh->gh_flags & GL_SKIP))
		error = gl->gl_ops->go_held(gh);
	if (error) {
		if (!SEEDED_BUG("glock-holder-kept-on-error"))
			gfs2_glock_dq(gh);
		gh->gh_error = error;
	}
	return error;
}

/* On a worker: holders with gh_granted that were granted, one by one, as if their owners waited here. */
void glock_finish_async(struct gfs2_glock *gl)
{
	struct gfs2_ctx *ctx = current_ctx(), saved = *ctx;
	struct gfs2_holder *gh;

	rmutex_lock(&gl->gl_lock);
	while (gl->gl_nr_finish) {
		list_for_each_entry(gh, &gl->gl_holders, gh_list)
			if (atomic_load_explicit(&gh->gh_iflags, memory_order_relaxed) & HIF_FINISH)
				break;
		if (&gh->gh_list == &gl->gl_holders)
			glock_bug(gl, "holder to finish not found");
		gl->gl_nr_finish--;
		set_iflags(gh, HIF_HOLDER);
		ctx->req = gh->gh_owner;
		ctx->pid = gh->gh_pid;
		rmutex_unlock(&gl->gl_lock);
		finish_grant(gh, !(gh->gh_flags & GL_SKIP));
		*ctx = saved;
		gh->gh_granted(gh);
		rmutex_lock(&gl->gl_lock);
	}
	glock_unlock(gl);
}

/* --- the interface --- */

static uint64_t owner_token(const struct gfs2_ctx *ctx)
{
	static _Thread_local uint64_t self;

	if (ctx->req)
		return ctx->req;
	if (!self)
		self = OWNER_THREAD | (uint64_t)syscall(SYS_gettid);
	return self;
}

uint64_t glock_owner_token(void)
{
	return owner_token(current_ctx());
}

void gfs2_holder_init(struct gfs2_glock *gl, enum lm_state state, unsigned flags,
		      struct gfs2_holder *gh, const char *where)
{
	const struct gfs2_ctx *ctx = current_ctx();

	GFS2_BUG_ON(state == LM_ST_UNLOCKED);
	gh->gh_gl = flags & GL_BORROWED ? gl : gfs2_glock_hold(gl);
	list_init(&gh->gh_list);
	gh->gh_owner = owner_token(ctx);
	gh->gh_pid = flags & GL_NOPID ? 0 : ctx->pid;
	gh->gh_state = state;
	gh->gh_flags = flags;
	gh->gh_error = 0;
	atomic_init(&gh->gh_iflags, 0);
	gh->gh_where = where;
	gh->gh_granted = NULL;
	gh->gh_priv = NULL;
	gh->gh_time_ns = 0;
	gh->gh_cond = NULL;
	list_init(&gh->gh_done);
}

void gfs2_holder_set_pid(struct gfs2_holder *gh, pid_t pid)
{
	rmutex_lock(&gh->gh_gl->gl_lock);
	gh->gh_pid = pid;
	rmutex_unlock(&gh->gh_gl->gl_lock);
}

void gfs2_holder_uninit(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;

	GFS2_BUG_ON(!list_empty(&gh->gh_list));
	gh->gh_gl = NULL;
	if (!(gh->gh_flags & GL_BORROWED))
		gfs2_glock_put(gl);
	else
		gfs2_assert_debug(atomic_load_explicit(&gl->gl_ref, memory_order_relaxed));
}

int gfs2_glock_nq(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;
	bool inst;
	int error;

	rmutex_assert_none();
	gfs2_assert_debug((gh->gh_flags & TRY_FLAGS) || !trans_active || !trans_active());
	GFS2_BUG_ON(gh->gh_granted && !(gh->gh_flags & GL_ASYNC));
	GFS2_BUG_ON((gh->gh_flags & GL_FILL) && (gh->gh_flags & GL_ASYNC));

	rmutex_lock(&gl->gl_lock);
	if (unlikely(glock_blocked_by_withdraw(gl, gh->gh_flags))) {
		rmutex_unlock(&gl->gl_lock);
		gh->gh_error = -EIO;
		return -EIO;
	}
	enqueue(gl, gh);
	if (gh->gh_flags & GL_ASYNC) {
		/* Returns at once: write-back is for a worker. */
		glock_run(gl, GLR_NO_STEP);
		glock_unlock(gl);
		return 0;
	}
	if (gh->gh_flags & GL_FILL)
		/* Who drops what was read waits for this thread. */
		glock_run(gl, gfs2_glock_filled(gl) ? GLR_NO_STEP : GLR_ONE_STEP);
	else
		glock_run(gl, gh->gh_flags & TRY_FLAGS ? GLR_ONE_STEP : GLR_ALL_STEPS);
	error = wait_queued(gh, &inst);
	glock_unlock(gl);
	return error ? error : finish_grant(gh, inst);
}

int gfs2_glock_wait(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;
	bool inst;
	int error;

	rmutex_assert_none();
	GFS2_BUG_ON(gh->gh_granted);
	rmutex_lock(&gl->gl_lock);
	error = wait_queued(gh, &inst);
	glock_unlock(gl);
	return error ? error : finish_grant(gh, inst);
}

int gfs2_glock_poll(struct gfs2_holder *gh)
{
	return !(atomic_load_explicit(&gh->gh_iflags, memory_order_acquire) & HIF_WAIT);
}

/* Holders of gl_lock are short of work: a few looks cost less than handing the request to another thread. */
static bool try_gl_lock(struct gfs2_glock *gl)
{
	for (int i = 0; i < 40; i++) {
		if (rmutex_trylock(&gl->gl_lock))
			return true;
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#endif
	}
	return false;
}

bool gfs2_glock_nq_fast(struct gfs2_holder *gh)
{
	const unsigned long demote = FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE);
	struct gfs2_glock *gl = gh->gh_gl;
	/* The clock is the slow part; events under the lock come in its order whatever it said (debug/event.c). */
	uint64_t t_ns = gfs2_event_time();
	bool ok;

	if (!try_gl_lock(gl))
		return false;
	ok = (gl->gl_phase == GLP_IDLE || SEEDED_BUG("glock-fast-grant-in-transition")) &&
	     !(gl->gl_flags & demote) && !somebody_waits(gl) &&
	     ((gh->gh_flags & GL_SKIP) || !(gl->gl_flags & FLAG(GLF_INSTANTIATE_NEEDED))) &&
	     glock_may_grant(gl, glock_first_holder(gl), gh) &&
	     likely(!glock_blocked_by_withdraw(gl, gh->gh_flags));
	if (ok) {
		gfs2_assert_debug(list_empty(&gh->gh_list) && !find_same_owner(gl, gh));
		note_granted(gl, gh);
		/* Has not waited. */
		gl->gl_times.n[GLT_WAIT][0]++;
		gh->gh_time_ns = t_ns;
		gh->gh_error = 0;
		list_add_tail(&gh->gh_list, &gl->gl_holders);
		set_iflags(gh, HIF_HOLDER);
		ev_glock_granted(gl, gh->gh_state, gh->gh_where, "fast", t_ns);
	}
	rmutex_unlock(&gl->gl_lock);
	return ok;
}

/* A granted holder leaves; true: nobody has to do anything about it. */
static bool dq_granted(struct gfs2_glock *gl, struct gfs2_holder *gh)
{
	if (gh->gh_flags & GL_NOCACHE)
		glock_fire(gl, GLE_DEMAND, &(struct glock_arg){ .wished = LM_ST_UNLOCKED });
	list_del_init(&gh->gh_list);
	/* Who drains waits for his guests. */
	if (unlikely(gl->gl_phase == GLP_SYNC && !glock_first_holder(gl)))
		rcond_broadcast(&gl->gl_wait);
	if (list_empty(&gl->gl_holders) && (gl->gl_ops->go_flags & GLOF_LRU))
		gl->gl_flags |= FLAG(GLF_LRU);
	note_idle(gl);
	if (likely(!(gl->gl_flags & FLAG(GLF_DEMOTE)) && !somebody_waits(gl)))
		return true;
	glock_fire(gl, GLE_DEQUEUE, NULL);
	return false;
}

bool glock_fire_cancel(struct gfs2_glock *gl, enum glock_event event)
{
	bool canceled = gl->gl_canceled;

	glock_fire(gl, event, NULL);
	return gl->gl_phase == GLP_WAIT && gl->gl_asked && gl->gl_canceled && !canceled;
}

/* A waiter leaves; the request that was made for it may have to be taken back. */
static void dq_waiting_and_unlock(struct gfs2_glock *gl, struct gfs2_holder *gh)
{
	bool first = gl->gl_holders.next == &gh->gh_list, cancel;

	list_del_init(&gh->gh_list);
	note_idle(gl);
	gh->gh_error = -ECANCELED;
	if (gh->gh_cond && !SEEDED_BUG("glock-cancel-wakes-nobody"))
		rcond_signal(gh->gh_cond);
	cancel = glock_fire_cancel(gl, first ? GLE_CANCEL : GLE_DEQUEUE);
	/* After the call somebody who sleeps for it must find a consistent holder, so this comes last. */
	set_iflags(gh, 0);
	glock_run(gl, GLR_NO_STEP);
	if (cancel)
		gfs2_glock_hold(gl);
	glock_unlock(gl);
	if (cancel) {
		gl->gl_table->t_lm->lm_cancel(gl);
		gfs2_glock_put(gl);
	}
}

/* @how: what of the steps that become possible is done here, and not by a worker. */
static void dequeue_and_unlock(struct gfs2_holder *gh, uint64_t t_ns, enum glock_run how)
{
	struct gfs2_glock *gl = gh->gh_gl;
	unsigned iflags = atomic_load_explicit(&gh->gh_iflags, memory_order_relaxed);

	ev_glock_at(EV_GLOCK_DEQUEUE, gl, -1, gh->gh_state, NULL, t_ns);
	if (iflags & HIF_WAIT) {
		dq_waiting_and_unlock(gl, gh);
		return;
	}
	if (iflags & HIF_FINISH)
		gl->gl_nr_finish--;
	note_time(gl, gh, GLT_HOLD, t_ns);
	set_iflags(gh, 0);
	if (!dq_granted(gl, gh))
		glock_run(gl, how);
	glock_unlock(gl);
}

static void dq_at(struct gfs2_holder *gh, uint64_t t_ns)
{
	struct gfs2_glock *gl = gh->gh_gl;

	rmutex_lock(&gl->gl_lock);
	if (list_empty(&gh->gh_list)) {
		rmutex_unlock(&gl->gl_lock);
		return;
	}
	/* gh_granted is still to come: see gfs2_glock_cancel(). */
	gfs2_assert_debug(!gh->gh_granted || !(atomic_load(&gh->gh_iflags) & (HIF_WAIT | HIF_FINISH)));
	dequeue_and_unlock(gh, t_ns, GLR_NO_STEP);
}

void gfs2_glock_dq(struct gfs2_holder *gh)
{
	dq_at(gh, gfs2_event_time());
}

bool gfs2_glock_cancel(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;

	GFS2_BUG_ON(!gh->gh_granted);
	rmutex_lock(&gl->gl_lock);
	if (!(atomic_load_explicit(&gh->gh_iflags, memory_order_relaxed) &
	      (HIF_WAIT | HIF_FINISH))) {
		rmutex_unlock(&gl->gl_lock);
		return false;
	}
	dequeue_and_unlock(gh, gfs2_event_time(), GLR_NO_STEP);
	return true;
}

void gfs2_glock_dq_uninit_nocache(struct gfs2_holder *gh)
{
	uint64_t t_ns = gfs2_event_time();

	rmutex_assert_none();
	gfs2_assert_debug(!trans_active || !trans_active());
	GFS2_BUG_ON(!gfs2_holder_queued(gh));
	rmutex_lock(&gh->gh_gl->gl_lock);
	gh->gh_flags |= GL_NOCACHE;
	dequeue_and_unlock(gh, t_ns, GLR_ALL_STEPS);
	gfs2_holder_uninit(gh);
}

void gfs2_glock_dq_uninit(struct gfs2_holder *gh)
{
	gfs2_glock_dq_uninit_at(gh, gfs2_event_time());
}

void gfs2_glock_dq_uninit_at(struct gfs2_holder *gh, uint64_t t_ns)
{
	dq_at(gh, t_ns);
	gfs2_holder_uninit(gh);
}

void gfs2_glock_use(struct gfs2_glock *gl)
{
	if (!gl->gl_table->t_lm->lm_has_peers)
		return;
	rmutex_lock(&gl->gl_lock);
	gl->gl_users++;
	rmutex_unlock(&gl->gl_lock);
}

void gfs2_glock_unuse(struct gfs2_glock *gl)
{
	if (!gl->gl_table->t_lm->lm_has_peers)
		return;
	rmutex_lock(&gl->gl_lock);
	gl->gl_users--;
	note_idle(gl);
	rmutex_unlock(&gl->gl_lock);
}

bool gfs2_glock_demote_wanted(struct gfs2_glock *gl)
{
	bool wanted;

	rmutex_lock(&gl->gl_lock);
	wanted = gl->gl_flags & (FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE));
	rmutex_unlock(&gl->gl_lock);
	return wanted;
}

/* The volume is withdrawn, and no transition runs any more: none will. */
static bool glock_stays(const struct gfs2_glock *gl)
{
	return gl->gl_phase == GLP_IDLE && glock_blocked_by_withdraw(gl, 0);
}

bool gfs2_glock_demote_asked(struct gfs2_glock *gl)
{
	bool asked;

	rmutex_lock(&gl->gl_lock);
	asked = gl->gl_flags & (FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE) | FLAG(GLF_DEMOTE_IN_PROGRESS));
	rmutex_unlock(&gl->gl_lock);
	return asked;
}

bool gfs2_glock_wait_demoted(struct gfs2_glock *gl, uint64_t timeout_ns)
{
	const unsigned long demote =
		FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE) | FLAG(GLF_DEMOTE_IN_PROGRESS);
	uint64_t deadline = now_ns() + timeout_ns;
	bool in_time = true, done;

	rmutex_assert_none();
	rmutex_lock(&gl->gl_lock);
	while (((gl->gl_flags & demote) || glock_demand_stopped(gl)) && in_time && !glock_stays(gl))
		in_time = rcond_wait_until(&gl->gl_wait, &gl->gl_lock, deadline);
	done = !(gl->gl_flags & demote) && !glock_demand_stopped(gl);
	rmutex_unlock(&gl->gl_lock);
	return done;
}

/* Both ends of a wait meet at the gl_lock of the other glock. */
struct unless_wanted {
	struct gfs2_glock *other;
	bool over;
};

static void unless_wanted_over(struct gfs2_holder *gh)
{
	struct unless_wanted *w = gh->gh_priv;
	struct gfs2_glock *other = w->other;

	rmutex_lock(&other->gl_lock);
	w->over = true;
	rcond_broadcast(&other->gl_wait);
	rmutex_unlock(&other->gl_lock);
}

int gfs2_glock_nq_unless_wanted(struct gfs2_holder *gh, struct gfs2_glock *other, uint64_t timeout_ns)
{
	const unsigned long demote = FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE);
	struct unless_wanted w = { .other = other };
	uint64_t deadline = now_ns() + timeout_ns;
	bool over, in_time = true;
	int error;

	gh->gh_granted = unless_wanted_over;
	gh->gh_priv = &w;
	error = gfs2_glock_nq(gh);
	if (error)
		return error;
	rmutex_lock(&other->gl_lock);
	while (!w.over && !(other->gl_flags & demote) && in_time)
		in_time = rcond_wait_until(&other->gl_wait, &other->gl_lock, deadline);
	over = w.over;
	rmutex_unlock(&other->gl_lock);
	if (!over && gfs2_glock_cancel(gh)) {
		gh->gh_error = GLR_TRYFAILED;
		return GLR_TRYFAILED;
	}
	/* Answered; the call may still be on its way. */
	rmutex_lock(&other->gl_lock);
	while (!w.over)
		rcond_wait(&other->gl_wait, &other->gl_lock);
	rmutex_unlock(&other->gl_lock);
	gh->gh_granted = NULL;
	return gh->gh_error;
}

/* --- several --- */

static int cmp_holders(const void *a, const void *b)
{
	const struct gfs2_glock *ga = (*(struct gfs2_holder *const *)a)->gh_gl;
	const struct gfs2_glock *gb = (*(struct gfs2_holder *const *)b)->gh_gl;

	if (ga->gl_number != gb->gl_number)
		return ga->gl_number < gb->gl_number ? -1 : 1;
	return (int)ga->gl_type - (int)gb->gl_type;
}

int gfs2_glock_nq_m(unsigned nr, struct gfs2_holder *ghs)
{
	struct gfs2_holder **sorted;
	int error = 0;
	unsigned i;

	if (!nr)
		return 0;
	sorted = malloc(nr * sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	for (i = 0; i < nr; i++)
		sorted[i] = &ghs[i];
	qsort(sorted, nr, sizeof(*sorted), cmp_holders);
	for (i = 1; i < nr; i++)
		GFS2_BUG_ON(sorted[i]->gh_gl == sorted[i - 1]->gh_gl);
	for (i = 0; i < nr; i++) {
		error = gfs2_glock_nq(sorted[i]);
		if (error)
			break;
	}
	while (error && i-- > 0)
		gfs2_glock_dq(sorted[i]);
	free(sorted);
	return error;
}

void gfs2_glock_dq_m(unsigned nr, struct gfs2_holder *ghs)
{
	while (nr-- > 0)
		gfs2_glock_dq(&ghs[nr]);
}

/* --- debugging --- */

void gfs2_assert_held(struct gfs2_glock *gl, bool write)
{
#ifdef GFS2_DEBUG_CHECKS
	uint64_t me = glock_owner_token();
	const struct gfs2_holder *gh;
	bool ok;

	rmutex_lock(&gl->gl_lock);
	/* Inside go_sync and go_inval nobody is granted; the thread that runs them has it all to itself. */
	ok = gl->gl_runner == me && (!write || gl->gl_state == LM_ST_EXCLUSIVE);
	list_for_each_entry(gh, &gl->gl_holders, gh_list)
		if (!holder_waits(gh) && (gh->gh_owner == me || (gh->gh_flags & GL_NOPID)) &&
		    (!write || gh->gh_state == LM_ST_EXCLUSIVE))
			ok = true;
	if (!ok)
		glock_bug(gl, write ? "changed without holding it EX" : "used without holding it");
	rmutex_unlock(&gl->gl_lock);
#endif
}
