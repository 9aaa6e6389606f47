/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Times of direct writes that are not in the dinode yet (dio_mtime=deferred; design section 5).
 *
 * A direct write under DF may not change the dinode.  It leaves its time here; whoever changes
 * the dinode under EX next folds it in, and fsync, close, the timer and the last reference
 * publish it.  stat on this node shows it at once.  When another node wants the lock, it gets it
 * after a try for EX, under which the time is published (glock.h: gl_wants_ex).  That fails only
 * if another node holds DF as well; then the time stays here, and is published by the next of these.
 *
 * fsync, the timer and the last reference wait for EX, and hold nothing meanwhile; two nodes whose
 * waits run into each other go by UN (lock/machine.c: GLY_UNLOCK).  close only tries: while other
 * writes are under way the lock is theirs.
 *
 * Guarantees: a pending time is published once, and published times do not go backwards: a change
 * of the dinode that came later (its ctime says so, no program can set that) wins.
 */
#include "fs/icache.h"
#include "util/util.h"

#define PUBLISH_BATCH 64

static bool later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* i_lock held.  The lock is not given up without a try to publish (lock/glock.h). */
static void set_pending(struct gfs2_inode *ip, bool pending)
{
	ip->i_pending_mtime = pending;
	if (ip->i_gl)
		atomic_store_explicit(&ip->i_gl->gl_wants_ex, pending, memory_order_relaxed);
}

void gfs2_pending_mtime_set(struct gfs2_inode *ip, struct timespec t)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ip->i_lock);
	if (!ip->i_pending_mtime) {
		set_pending(ip, true);
		ip->i_pending_time = t;
		rmutex_lock(&ic->pending_lock);
		list_add_tail(&ip->i_pending_list, &ic->pending);
		rmutex_unlock(&ic->pending_lock);
	} else if (later(&t, &ip->i_pending_time)) {
		ip->i_pending_time = t;
	}
	rmutex_unlock(&ip->i_lock);
}

/* i_lock held: let *@mtime and *@ctime be what they are with the pending time. */
static void apply(const struct gfs2_inode *ip, struct timespec *mtime, struct timespec *ctime)
{
	const struct timespec *t = &ip->i_pending_time;

	if (!ip->i_pending_mtime)
		return;
	if (later(t, ctime)) {
		*mtime = *ctime = *t;
	} else if (later(t, mtime)) {
		*mtime = *t;
	}
}

void gfs2_pending_mtime_peek(struct gfs2_inode *ip, struct timespec *mtime, struct timespec *ctime)
{
	*mtime = ip->i_mtime;
	*ctime = ip->i_ctime;
	rmutex_lock(&ip->i_lock);
	apply(ip, mtime, ctime);
	rmutex_unlock(&ip->i_lock);
}

bool gfs2_pending_mtime_fold(struct gfs2_inode *ip)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;
	bool was;

	rmutex_lock(&ip->i_lock);
	was = ip->i_pending_mtime;
	if (was) {
		apply(ip, &ip->i_mtime, &ip->i_ctime);
		set_pending(ip, false);
		rmutex_lock(&ic->pending_lock);
		list_del_init(&ip->i_pending_list);
		rmutex_unlock(&ic->pending_lock);
	}
	rmutex_unlock(&ip->i_lock);
	return was;
}

static bool is_pending(struct gfs2_inode *ip)
{
	bool pending;

	rmutex_lock(&ip->i_lock);
	pending = ip->i_pending_mtime;
	rmutex_unlock(&ip->i_lock);
	return pending;
}

static int publish(struct gfs2_inode *ip, unsigned flags)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	struct gfs2_holder gh;
	int error;

	if (!log || ip->i_sbd->sd_ro || !is_pending(ip))
		return 0;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, flags, &gh);
	if (error)
		return error;
	if (is_pending(ip)) {
		error = gfs2_trans_begin(log, 1, 0);
		if (!error) {
			gfs2_pending_mtime_fold(ip);
			error = gfs2_dinode_log_times(ip);
			gfs2_trans_end(log);
		}
	}
	gfs2_glock_dq_uninit(&gh);
	return error;
}

int gfs2_pending_mtime_publish(struct gfs2_inode *ip)
{
	return publish(ip, 0);
}

int gfs2_pending_mtime_publish_try(struct gfs2_inode *ip)
{
	int error = publish(ip, LM_FLAG_TRY);

	return error == GLR_TRYFAILED ? 0 : error;
}

/*
 * Addresses first, inodes then: the list holds no references, and the cache's lock comes before
 * the list's.  One pass over what is pending now: an inode that is written all the time must not
 * keep us here.
 */
void gfs2_pending_mtime_publish_all(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	uint64_t addrs[PUBLISH_BATCH];
	struct gfs2_inode *ip;
	unsigned total = 0, nr, i;

	rmutex_lock(&ic->pending_lock);
	list_for_each_entry(ip, &ic->pending, i_pending_list)
		total++;
	rmutex_unlock(&ic->pending_lock);
	while (total) {
		nr = 0;
		rmutex_lock(&ic->pending_lock);
		while (nr < total && nr < PUBLISH_BATCH && !list_empty(&ic->pending)) {
			ip = list_first_entry(&ic->pending, struct gfs2_inode, i_pending_list);
			addrs[nr++] = ip->i_no_addr;
			list_move_tail(&ip->i_pending_list, &ic->pending);
		}
		rmutex_unlock(&ic->pending_lock);
		if (!nr)
			return;
		for (i = 0; i < nr; i++) {
			ip = gfs2_inode_find(sdp, addrs[i]);
			if (ip && gfs2_pending_mtime_publish(ip))
				fs_err("inode %llu: cannot publish the times of direct writes",
				       (unsigned long long)addrs[i]);
			gfs2_inode_put(ip);
		}
		total -= nr;
	}
}
