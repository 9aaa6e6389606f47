/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_dlm: glocks as locks of the kernel's DLM, through libdlm (kernel: lock_dlm.c; reference gfs2-locking-dio.md section 2).
 * Names, modes, flags and value blocks on the wire are those of the kernel's gfs2.
 *
 * What differs, because we are a process
 *  1. Every request and conversion says PERSISTENT: if the daemon dies its locks stay with its node, as orphans, until its journal has
 *     been replayed (2.7).  The DLM looks at the last operation only, so all must say it.
 *  2. A lock is converted to NL before it is unlocked: libdlm cannot pass a value block with an unlock (2.6, trap 3).  The
 *     machine does that anyway: a glock that goes away is in UN, which is NL.
 *  3. At unmount locks are not unlocked one by one; leaving the lock space drops them, and their value blocks have been
 *     written by the conversion to NL.
 *
 * And one thing because the DLM has a fault: between PR and CW a lock goes by way of CR (DLM: lock.c, recover.c).
 *	Of a conversion that is under way when the lock's master dies, the granted mode is rebuilt from what the node itself has, and the
 *	conversion is asked for again (dlm_recover_waiters_pre(), _post()).  Between PR and CW, of which neither includes the other, that would not
 *	do: the master may have granted CW, and others CW beside it.  Linux 6.1 means to find out from the others' locks (recover_conversion()), but
 *	whoever becomes the new master, it goes wrong.
 *	  Another node: it gets the lock without a granted mode (IV).  Nothing sets one, and a conversion from there is neither granted nor asked for
 *	    again: no answer, ever.  What the master has of it keeps nobody away either, so another node may be granted EX beside it.
 *	  This node: the granted mode may become the one that was asked for.  Then the grant leaves the lock on the queue of conversions: it is
 *	    granted, and answered, again and again, and whatever is asked of it later is refused as busy.
 *	Afterwards it cannot be put right: a late answer looks like a false one, and the machine's old state is worth nothing from the DLM's
 *	recovery on, long before it can hear of that.
 *	CR is less than both, and keeps away EX only.  The first half goes down, which a node does by itself and only tells the master: never
 *	under way.  The second half goes up, as from NL; the DLM recovers that well, since CR is what the node has in any case.  In between others
 *	may get what the old state kept away, but not EX: what is cached of the metadata stays right, as it does in a direct conversion.
 *	Data are not cached then: from PR go_inval has run, from CW there are none.  Nobody has a holder, and direct I/O has been drained.
 *	The price is one more request of this node to its own kernel.  What it also saves is the deadlock of two nodes that both go from PR to CW.
 *	If the second half fails (refused, cancelled, a deadlock) there may be no way back: then the answer says LM_OUT_LOST, and the machine gives
 *	up what is left.  Kernel nodes would notice nothing: a request that CR is in the way of is for EX.
 */
#include "lock/dlm_i.h"
#include "lock/internal.h"

#include <fcntl.h>
#include <libdlm.h>
#include <linux/dlmconstants.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/util.h"

/* The join and its first recovery are over in no time once dlm_new_lockspace() has returned. */
#define LOG_PATIENCE_NS (10ull * 1000000000)

int dlm_mode(enum lm_state state)
{
	static const int modes[] = {
		[LM_ST_UNLOCKED] = DLMM_NL, [LM_ST_EXCLUSIVE] = DLMM_EX,
		[LM_ST_DEFERRED] = DLMM_CW, [LM_ST_SHARED] = DLMM_PR,
	};

	return modes[state];
}

void dlm_resource_name(char name[DLM_NAME_LEN + 1], unsigned type, uint64_t number)
{
	snprintf(name, DLM_NAME_LEN + 1, "%8x%16llx", type, (unsigned long long)number);
}

/* --- asking --- */

static int send_cancel(struct dlm_lock *dl, uint32_t lkid)
{
	struct dlm_lksb lksb = { .sb_lkid = lkid };

	/* Too late, or on its way already: then there is nothing to be cancelled. */
	return dlm_ls_unlock(dl->ctx->dc_ls, lkid, LKF_CANCEL, &lksb, dl);
}

static int ask(struct dlm_lock *dl, int mode, unsigned dlm_flags, uint32_t lkid, struct dlm_lksb *lksb)
{
	lksb->sb_lkid = lkid;
	/* Busy: a cancel that came too late is still being dealt with. */
	while (dlm_ls_lock(dl->ctx->dc_ls, (uint32_t)mode, lksb, dlm_flags, dl->name, DLM_NAME_LEN, 0,
			   dlm_ast_address, dl, dlm_bast_address, NULL)) {
		int error = -errno;

		if (error != -EBUSY && error != -EINTR) {
			fs_err("lock %s: the DLM refuses to be asked for mode %d with flags %x: %s",
			       dl->name, mode, dlm_flags, strerror(-error));
			return error;
		}
		usleep(20000);
		lksb->sb_lkid = lkid;
	}
	return 0;
}

static bool middle_conversion(const struct dlm_lock *dl, enum lm_state req)
{
	return dl->exists && !dl->between && ((dl->held == LM_ST_SHARED && req == LM_ST_DEFERRED) ||
					      (dl->held == LM_ST_DEFERRED && req == LM_ST_SHARED));
}

/*
 * The first half; dl->stepping is set.  Waits for the answer, which comes before the request has returned: the two must not be mixed
 * up.  The reader, who takes it, waits for nobody.
 */
static int step_down(struct dlm_lock *dl, uint32_t lkid)
{
	struct lm_dlm *dc = dl->ctx;
	char block[DLM_LVB_LEN] = { 0 };
	struct dlm_lksb lksb = { .sb_lvbptr = block };
	int error = ask(dl, DLMM_CR, LKF_PERSISTENT | LKF_CONVERT, lkid, &lksb);

	rmutex_lock(&dc->dc_lock);
	if (error) {
		dl->stepping = false;
	} else {
		while (dl->stepping)
			rcond_wait(&dc->dc_cond, &dc->dc_lock);
		error = dl->status;
	}
	rmutex_unlock(&dc->dc_lock);
	return error;
}

int dlm_issue(struct dlm_lock *dl, enum lm_state req, unsigned dlm_flags, const char *lvb)
{
	struct lm_dlm *dc = dl->ctx;
	char block[DLM_LVB_LEN] = { 0 };
	struct dlm_lksb lksb = { .sb_lvbptr = block };
	bool step;
	uint32_t lkid;
	unsigned seq;
	int error;

	if (lvb)
		memcpy(block, lvb, DLM_LVB_LEN);
	rmutex_lock(&dc->dc_lock);
	seq = ++dl->seq;
	dl->req = req;
	dl->busy = true;
	dl->stepping = step = middle_conversion(dl, req);
	lkid = dl->exists ? dl->lkid : 0;
	rmutex_unlock(&dc->dc_lock);

	if (step) {
		error = step_down(dl, lkid);
		if (error)
			return error;
	}
	dlm_flags |= LKF_PERSISTENT;
	if (lkid)
		dlm_flags |= LKF_CONVERT;
	else
		dlm_flags &= ~(unsigned)LKF_QUECVT;
	error = ask(dl, dlm_mode(req), dlm_flags, lkid, &lksb);
	if (error)
		return error;
	rmutex_lock(&dc->dc_lock);
	/* The answer may have been faster. */
	if (dl->seq == seq && dl->busy)
		dl->lkid = lksb.sb_lkid;
	rmutex_unlock(&dc->dc_lock);
	return 0;
}

int dlm_sync_lock(struct dlm_lock *dl, enum lm_state req, unsigned dlm_flags)
{
	struct lm_dlm *dc = dl->ctx;
	char lvb[DLM_LVB_LEN];
	int error;

	memcpy(lvb, dl->lvb, sizeof(lvb));
	error = dlm_issue(dl, req, dlm_flags, lvb);
	if (error)
		return error;
	rmutex_lock(&dc->dc_lock);
	while (dl->busy)
		rcond_wait(&dc->dc_cond, &dc->dc_lock);
	error = dl->status;
	rmutex_unlock(&dc->dc_lock);
	if (error && error != -EAGAIN) {
		fs_err("lock %s: the DLM answers %d", dl->name, error);
		error = -EIO;
	}
	return error;
}

static struct dlm_lock *lock_of(struct gfs2_glock *gl)
{
	struct dlm_lock *dl = gl->gl_lm_priv;

	if (dl)
		return dl;
	dl = xzalloc(sizeof(*dl));
	dl->ctx = gfs2_glock_table_lm_private(gl->gl_table);
	dl->gl = gl;
	list_init(&dl->list);
	dlm_resource_name(dl->name, gl->gl_type, gl->gl_number);
	gl->gl_lm_priv = dl;
	return dl;
}

/* As dlm_issue() completes them.  Only the request under way changes what is looked at, and gl_lock lets there be one at a time. */
static uint32_t dlm_request_flags_op(const struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	const struct dlm_lock *dl = gl->gl_lm_priv;
	uint32_t dlm_flags = LKF_PERSISTENT;

	if (flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB))
		dlm_flags |= LKF_NOQUEUE;
	if (flags & LM_FLAG_TRY_1CB)
		dlm_flags |= LKF_NOQUEUEBAST;
	if (gl->gl_ops->go_flags & GLOF_LVB)
		dlm_flags |= LKF_VALBLK;
	if (!dl || !dl->exists)
		return dlm_flags;
	dlm_flags |= LKF_CONVERT;
	/* A conversion upwards waits its turn behind others'. */
	if (req != LM_ST_UNLOCKED && dl->held != LM_ST_EXCLUSIVE && !(dlm_flags & LKF_NOQUEUE))
		dlm_flags |= LKF_QUECVT;
	return dlm_flags;
}

static void dlm_lock_op(struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	struct dlm_lock *dl = lock_of(gl);
	uint32_t dlm_flags = dlm_request_flags_op(gl, req, flags);

	dl->noexp = flags & LM_FLAG_NOEXP;
	/*
	 * Another node wants it, and nobody here has said that he will: all the way down.  So it went before, too, when the other one came from the
	 * same mode (a deadlock of conversions), and DF would let this node go on with times that the other one has not published.
	 */
	if (gl->gl_why == GLY_DEMOTE && middle_conversion(dl, req)) {
		gfs2_glock_complete(gl, (int)dl->held);
		return;
	}
	if (dlm_issue(dl, req, dlm_flags, dlm_flags & LKF_VALBLK ? gl->gl_lvb : NULL)) {
		int reply;

		rmutex_lock(&dl->ctx->dc_lock);
		dl->busy = false;
		reply = (int)dl->held | LM_OUT_ERROR | (dl->between ? LM_OUT_LOST : 0);
		rmutex_unlock(&dl->ctx->dc_lock);
		gfs2_glock_complete(gl, reply);
	}
}

/* --- taking back, giving up --- */

static void *issuer(void *arg)
{
	struct lm_dlm *dc = arg;

	rmutex_lock(&dc->dc_lock);
	for (;;) {
		struct dlm_lock *dl;
		struct dlm_lksb lksb = { 0 };
		bool unlock;

		if (list_empty(&dc->dc_issue)) {
			if (dc->dc_stop)
				break;
			rcond_wait(&dc->dc_cond, &dc->dc_lock);
			continue;
		}
		dl = list_first_entry(&dc->dc_issue, struct dlm_lock, list);
		list_del_init(&dl->list);
		lksb.sb_lkid = dl->lkid;
		unlock = dl->unlock;
		rmutex_unlock(&dc->dc_lock);
		if (!unlock) {
			struct gfs2_glock *gl = dl->gl;

			send_cancel(dl, lksb.sb_lkid);
			gfs2_glock_put(gl);
		} else {
			while (dlm_ls_unlock(dc->dc_ls, lksb.sb_lkid, 0, &lksb, dl)) {
				if (errno != EBUSY && errno != EINTR) {
					fs_err("lock %s: cannot be unlocked: %s", dl->name,
					       strerror(errno));
					rmutex_lock(&dc->dc_lock);
					list_add_tail(&dl->list, &dc->dc_dead);
					rmutex_unlock(&dc->dc_lock);
					dlm_reader_kick(dc);
					break;
				}
				usleep(20000);
			}
		}
		rmutex_lock(&dc->dc_lock);
	}
	rmutex_unlock(&dc->dc_lock);
	return NULL;
}

static void dlm_cancel_op(struct gfs2_glock *gl)
{
	struct dlm_lock *dl = gl->gl_lm_priv;
	struct lm_dlm *dc;

	if (!dl)
		return;
	dc = dl->ctx;
	rmutex_lock(&dc->dc_lock);
	/* Otherwise the answer was faster. */
	if (dl->busy && list_empty(&dl->list)) {
		gfs2_glock_hold(gl);
		dl->unlock = false;
		list_add_tail(&dl->list, &dc->dc_issue);
		rcond_broadcast(&dc->dc_cond);
	}
	rmutex_unlock(&dc->dc_lock);
}

static void dlm_put_lock_op(struct gfs2_glock *gl)
{
	struct dlm_lock *dl = gl->gl_lm_priv;
	struct lm_dlm *dc;

	if (!dl) {
		gfs2_glock_free(gl);
		return;
	}
	dc = dl->ctx;
	rmutex_lock(&dc->dc_lock);
	if (!dl->exists || gfs2_glock_table_dying(gl->gl_table)) {
		/* A callback for it may be on its way: the reader knows when it is not. */
		list_add_tail(&dl->list, &dc->dc_dead);
		rmutex_unlock(&dc->dc_lock);
		dlm_reader_kick(dc);
		return;
	}
	dl->unlock = true;
	list_add_tail(&dl->list, &dc->dc_issue);
	rcond_broadcast(&dc->dc_cond);
	rmutex_unlock(&dc->dc_lock);
}

void dlm_thaw(struct lm_dlm *dc)
{
	rmutex_lock(&dc->dc_lock);
	while (!list_empty(&dc->dc_kept) && !dc->dc_blocked) {
		struct dlm_lock *dl = list_first_entry(&dc->dc_kept, struct dlm_lock, list);
		int reply = dl->reply;

		list_del_init(&dl->list);
		rmutex_unlock(&dc->dc_lock);
		gfs2_glock_complete(dl->gl, reply);
		rmutex_lock(&dc->dc_lock);
	}
	rmutex_unlock(&dc->dc_lock);
}

/* Only the control thread asks, and no other one thaws while that runs. */
static bool dlm_keeps_back_op(struct gfs2_glock *gl)
{
	struct lm_dlm *dc = gfs2_glock_table_lm_private(gl->gl_table);
	struct dlm_lock *dl;
	bool yes = false;

	rmutex_lock(&dc->dc_lock);
	list_for_each_entry(dl, &dc->dc_kept, list)
		yes |= dl->gl == gl && dl->held == LM_ST_EXCLUSIVE;
	rmutex_unlock(&dc->dc_lock);
	return yes;
}

/* --- joining and leaving --- */

int dlm_issuer_start(struct lm_dlm *dc)
{
	sigset_t old;
	int error;

	block_all_but_faults(&old);
	error = -pthread_create(&dc->dc_issuer, NULL, issuer, dc);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!error) {
		dc->dc_has_issuer = true;
		pthread_setname_np(dc->dc_issuer, "dlm_issuer");
	}
	return error;
}

static int join(struct lm_dlm *dc)
{
	int error;

	/* NEWEXCL: what is there already belongs to somebody else on this node, who has its slot. */
	dc->dc_ls = dlm_new_lockspace(dc->dc_name, 0600, DLM_LSFL_NEWEXCL);
	if (!dc->dc_ls) {
		error = errno ? -errno : -EIO;
		dlm_explain_join(dc, error);
		return error;
	}
	dc->dc_joined = true;
	dc->dc_fd = dlm_ls_get_fd(dc->dc_ls);
	error = fcntl(dc->dc_fd, F_SETFL, fcntl(dc->dc_fd, F_GETFL) | O_NONBLOCK) ? -errno : 0;
	if (!error)
		error = dlm_reader_start(dc);
	if (!error)
		error = dlm_issuer_start(dc);
	if (error)
		fs_err("cannot listen to the lock space: %s", strerror(-error));
	return error;
}

/* Our slot is in the log that the join has left. */
static int await_slot(struct lm_dlm *dc)
{
	uint64_t deadline = now_ns() + LOG_PATIENCE_NS;
	int error = 0;

	rmutex_lock(&dc->dc_lock);
	while (!dc->dc_mount && rcond_wait_until(&dc->dc_cond, &dc->dc_lock, deadline))
		;
	if (!dc->dc_mount)
		error = -ENODATA;
	if (error && dc->dc_slots.nr && !dc->dc_slots.complete)
		fs_err("the kernel log shows only %u of the %u slots of lock space '%s', and not this node's: which journal is "
		       "its cannot be known (small nodeids in corosync.conf make room for more)", dc->dc_slots.nr,
		       dc->dc_slots.total, dc->dc_name);
	else if (error)
		fs_err("the kernel log does not show this node's slot in lock space '%s'", dc->dc_name);
	rmutex_unlock(&dc->dc_lock);
	return error;
}

static void init_plain(struct lm_dlm *dc, struct dlm_lock *dl, unsigned number)
{
	dl->ctx = dc;
	list_init(&dl->list);
	dlm_resource_name(dl->name, LM_TYPE_NONDISK, number);
}

struct lm_dlm *dlm_create(struct gfs2_glock_table *t)
{
	struct lm_dlm *dc = xzalloc(sizeof(*dc));

	dc->dc_table = t;
	dc->dc_fd = dc->dc_kmsg = -1;
	dc->dc_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rmutex_init(&dc->dc_lock, RANK_LM);
	rcond_init(&dc->dc_cond);
	list_init(&dc->dc_kept);
	list_init(&dc->dc_issue);
	list_init(&dc->dc_dead);
	list_init(&dc->dc_zombies);
	dc->dc_blocked = true;
	init_plain(dc, &dc->dc_control, GFS2_CONTROL_LOCK);
	init_plain(dc, &dc->dc_mounted, GFS2_MOUNTED_LOCK);
	return dc;
}

static int dlm_mount_op(struct gfs2_glock_table *t, const char *table, unsigned *jid, bool *first)
{
	struct lm_dlm *dc = dlm_create(t);
	int error;

	gfs2_glock_table_set_lm_private(t, dc);
	if (dc->dc_wake < 0)
		return -errno;
	error = dlm_env_check(dc, table);
	if (!error)
		error = join(dc);
	if (!error)
		error = await_slot(dc);
	if (!error)
		error = dlm_control_mount(dc, first);
	if (!error)
		error = dlm_control_start(dc);
	if (!error)
		*jid = dc->dc_jid;
	return error;
}

static void dlm_first_done_op(struct gfs2_glock_table *t)
{
	dlm_control_first_done(gfs2_glock_table_lm_private(t));
}

static void dlm_stop_recovery_op(struct gfs2_glock_table *t)
{
	struct lm_dlm *dc = gfs2_glock_table_lm_private(t);

	if (!dc)
		return;
	dlm_control_stop(dc);
	rmutex_lock(&dc->dc_lock);
	dc->dc_control_stopped = true;
	dc->dc_blocked = false;
	rmutex_unlock(&dc->dc_lock);
	dlm_thaw(dc);
}

static void stop_issuer(struct lm_dlm *dc)
{
	if (!dc->dc_has_issuer)
		return;
	rmutex_lock(&dc->dc_lock);
	dc->dc_stop = true;
	rcond_broadcast(&dc->dc_cond);
	rmutex_unlock(&dc->dc_lock);
	pthread_join(dc->dc_issuer, NULL);
	dc->dc_has_issuer = false;
}

static void dlm_unmount_op(struct gfs2_glock_table *t)
{
	struct lm_dlm *dc = gfs2_glock_table_lm_private(t);
	struct dlm_lock *dl, *tmp;

	if (!dc)
		return;
	dlm_control_stop(dc);
	/* All glocks are gone, so nothing waits for an answer. */
	stop_issuer(dc);
	dlm_reader_stop(dc);
	if (dc->dc_joined && dlm_release_lockspace(dc->dc_name, dc->dc_ls, 1))
		fs_err("cannot leave lock space '%s': %s", dc->dc_name, strerror(errno));
	list_for_each_entry_safe(dl, tmp, &dc->dc_zombies, list)
		free(dl);
	if (dc->dc_kmsg >= 0)
		close(dc->dc_kmsg);
	if (dc->dc_wake >= 0)
		close(dc->dc_wake);
	rcond_destroy(&dc->dc_cond);
	rmutex_destroy(&dc->dc_lock);
	gfs2_glock_table_set_lm_private(t, NULL);
	free(dc);
}

const struct lm_lockops lm_dlm = {
	.lm_proto_name = "lock_dlm",
	.lm_mount = dlm_mount_op,
	.lm_first_done = dlm_first_done_op,
	.lm_stop_recovery = dlm_stop_recovery_op,
	.lm_unmount = dlm_unmount_op,
	.lm_lock = dlm_lock_op,
	.lm_request_flags = dlm_request_flags_op,
	.lm_cancel = dlm_cancel_op,
	.lm_put_lock = dlm_put_lock_op,
	.lm_keeps_back = dlm_keeps_back_op,
	.lm_has_peers = true,
};
