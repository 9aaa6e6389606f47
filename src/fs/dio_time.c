/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Times of direct writes that are not in the dinode yet (dio_mtime=deferred; design section 5).
 *
 * A direct write under DF may not change the dinode.  It leaves its time here; whoever changes
 * the dinode under EX next folds it in, and fsync, close, the timer and the last reference
 * publish it.  stat on this node shows it at once.  When another node wants the lock, it gets it
 * after a try for EX, under which the time is published (glock.h: gl_wants_ex).  That fails only
 * if another node holds DF as well; then the time stays here, the lock goes, and as soon as it has gone EX is asked for, once an
 * interval at most: so it is published after the others' turn, and two nodes that write and fill holes do not take EX from each
 * other each time.
 *
 * The timer tries (GL_TRY_OTHERS): alone, a node gets EX at once, every dio_mtime_interval.  While others hold DF, too, it is refused,
 * and comes back after ten intervals; then it asks, and all nodes publish what they have on the way.  fsync and the last reference
 * ask at once.  Who asks holds nothing meanwhile, but the node may have DF: two nodes whose requests run into each other go by UN
 * (lock/machine.c: GLY_UNLOCK).  close only tries: while other writes are under way the lock is theirs.
 *
 * The timer's thread also hunts for unlinked inodes (unlinked.c).  Whoever has the lock may be waiting for that, to find space: then the timer
 * takes its request back, and comes again after the hunt.
 *
 * Guarantees: a pending time is published once, and published times do not go backwards: a change
 * of the dinode that came later (its ctime says so, no program can set that) wins.  What a program sets as mtime (utimensat)
 * after the write is not changed by it: when that was is in the value block of the inode's lock, for the other nodes; if the
 * value block is lost (a node has died), so is that.
 */
#include <endian.h>
#include "fs/icache.h"
#include "util/seeded.h"
#include "util/util.h"

#define PUBLISH_BATCH 64
/* Intervals until the timer comes back to a file that other nodes write to as well. */
#define SHARED_INTERVALS 10

/* The value block of an inode's lock.  (The kernel's gfs2 has one, too, and makes no use of it.) */
#define INODE_LVB_MAGIC 0x6766756du
struct inode_lvb {
	uint32_t magic, nsec;	/* big endian */
	uint64_t sec;
};

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

uint64_t gfs2_mtime_interval(const struct gfs2_sbd *sdp)
{
	unsigned secs = atomic_load_explicit(&sdp->sd_dio_mtime_interval, memory_order_relaxed);

	return max_t(uint64_t, secs, 1) * 1000000000u;
}

void gfs2_utime_note(struct gfs2_inode *ip, const struct timespec *when)
{
	const struct inode_lvb lvb = { htobe32(INODE_LVB_MAGIC), htobe32((uint32_t)when->tv_nsec),
				       htobe64((uint64_t)when->tv_sec) };

	if (ip->i_sbd->sd_lm->lm_has_peers && !SEEDED_BUG("utime-not-noted"))
		memcpy(ip->i_gl->gl_lvb, &lvb, sizeof(lvb));
}

/* Any holder: has a program set mtime at @t or later? */
static bool utime_since(const struct gfs2_inode *ip, const struct timespec *t)
{
	struct inode_lvb lvb;
	struct timespec set;

	if (!ip->i_gl || !ip->i_sbd->sd_lm->lm_has_peers)
		return false;
	memcpy(&lvb, ip->i_gl->gl_lvb, sizeof(lvb));
	if (lvb.magic != htobe32(INODE_LVB_MAGIC))
		return false;
	set.tv_sec = (time_t)be64toh(lvb.sec);
	set.tv_nsec = be32toh(lvb.nsec);
	return !later(t, &set);
}

void gfs2_pending_mtime_set(struct gfs2_inode *ip, struct timespec t)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ip->i_lock);
	if (!ip->i_pending_mtime) {
		set_pending(ip, true);
		ip->i_pending_time = t;
		ip->i_pending_ask = false;
		ip->i_pending_due_ns = now_ns() + gfs2_mtime_interval(ip->i_sbd);
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

	if (!ip->i_pending_mtime || utime_since(ip, t))
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
		ip->i_published_ns = now_ns();
		rmutex_lock(&ic->pending_lock);
		list_del_init(&ip->i_pending_list);
		rmutex_unlock(&ic->pending_lock);
	}
	rmutex_unlock(&ip->i_lock);
	return was;
}

bool gfs2_pending_mtime_any(struct gfs2_inode *ip)
{
	bool pending;

	rmutex_lock(&ip->i_lock);
	pending = ip->i_pending_mtime;
	rmutex_unlock(&ip->i_lock);
	return pending;
}

/* Asks for EX until it is there or has been refused, or a hunt is wanted. */
struct asking {
	struct gfs2_icache *ic;
	bool over;	/* the cache's lock */
};

static void asking_over(struct gfs2_holder *gh)
{
	struct asking *a = gh->gh_priv;
	struct gfs2_icache *ic = a->ic;

	rmutex_lock(&ic->lock);
	a->over = true;
	rcond_broadcast(&ic->wait);
	rmutex_unlock(&ic->lock);
}

/* True: @gh has been answered. */
static bool asking_wait(struct asking *a, bool unless_hunt)
{
	bool over;

	rmutex_lock(&a->ic->lock);
	while (!a->over && !(unless_hunt && a->ic->hunt_wanted))
		rcond_wait(&a->ic->wait, &a->ic->lock);
	over = a->over;
	rmutex_unlock(&a->ic->lock);
	return over;
}

/* EX for the maintenance thread: -EAGAIN, it is to hunt first. */
static int nq_unless_hunt(struct gfs2_inode *ip, unsigned flags, struct gfs2_holder *gh)
{
	struct asking a = { .ic = ip->i_sbd->sd_icache };
	int error;

	gfs2_holder_init(ip->i_gl, LM_ST_EXCLUSIVE, flags | GL_ASYNC, gh, __func__);
	gh->gh_granted = asking_over;
	gh->gh_priv = &a;
	error = gfs2_glock_nq(gh);
	if (!error) {
		if (!asking_wait(&a, true) && gfs2_glock_cancel(gh)) {
			error = -EAGAIN;
		} else {
			/* The call may still be on its way. */
			asking_wait(&a, false);
			error = gh->gh_error;
		}
	}
	if (error)
		gfs2_holder_uninit(gh);
	return error;
}

int gfs2_pending_mtime_publish_held(struct gfs2_inode *ip)
{
	struct gfs2_bh *dibh;
	int error;

	if (!gfs2_pending_mtime_any(ip))
		return 0;
	error = gfs2_dinode_trans_begin(ip, 1, &dibh);
	if (error)
		return error;
	gfs2_pending_mtime_fold(ip);
	error = gfs2_dinode_log_times(ip);
	gfs2_dinode_trans_end(ip, dibh);
	return error;
}

/* @timer: on the maintenance thread. */
static int publish(struct gfs2_inode *ip, unsigned flags, bool timer)
{
	struct gfs2_holder gh;
	int error;

	if (!ip->i_sbd->sd_log || ip->i_sbd->sd_ro || !gfs2_pending_mtime_any(ip))
		return 0;
	error = timer ? nq_unless_hunt(ip, flags, &gh) : gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, flags, &gh);
	if (error)
		return error;
	error = gfs2_pending_mtime_publish_held(ip);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

int gfs2_pending_mtime_publish(struct gfs2_inode *ip)
{
	return publish(ip, 0, false);
}

int gfs2_pending_mtime_publish_try(struct gfs2_inode *ip)
{
	int error = publish(ip, LM_FLAG_TRY, false);

	return error == GLR_TRYFAILED ? 0 : error;
}

void gfs2_pending_mtime_left(struct gfs2_inode *ip)
{
	bool left;

	rmutex_lock(&ip->i_lock);
	left = ip->i_pending_mtime && ip->i_sbd->sd_lm->lm_has_peers;
	if (left) {
		ip->i_pending_ask = true;
		ip->i_pending_due_ns = ip->i_published_ns ? ip->i_published_ns + gfs2_mtime_interval(ip->i_sbd) : 0;
	}
	rmutex_unlock(&ip->i_lock);
	if (left && !SEEDED_BUG("time-left-behind"))
		gfs2_maint_wake(ip->i_sbd);
}

/* Is it due? Then: with which flags for the holder?  Else @next is when it will be. */
static bool is_due(struct gfs2_inode *ip, uint64_t now, unsigned *flags, uint64_t *next)
{
	bool due;

	rmutex_lock(&ip->i_lock);
	due = ip->i_pending_mtime && ip->i_pending_due_ns <= now;
	if (due)
		*flags = ip->i_pending_ask ? 0 : GL_TRY_OTHERS;
	else if (ip->i_pending_mtime)
		*next = min_t(uint64_t, *next, ip->i_pending_due_ns);
	rmutex_unlock(&ip->i_lock);
	return due;
}

/* Other nodes write to it, too; or it cannot be done now. */
static void put_off(struct gfs2_inode *ip, uint64_t now, uint64_t *next)
{
	rmutex_lock(&ip->i_lock);
	ip->i_pending_ask = true;
	ip->i_pending_due_ns = now + SHARED_INTERVALS * gfs2_mtime_interval(ip->i_sbd);
	*next = min_t(uint64_t, *next, ip->i_pending_due_ns);
	rmutex_unlock(&ip->i_lock);
}

/* @timer: only what is due, and trying first. */
static void publish_one(struct gfs2_inode *ip, bool timer, uint64_t *next)
{
	uint64_t now = now_ns();
	unsigned flags = 0;
	int error;

	if (timer && !is_due(ip, now, &flags, next))
		return;
	error = publish(ip, flags, timer);
	if (error == -EAGAIN) {
		*next = now;
		return;
	}
	if (error)
		put_off(ip, now, next);
	if (error && error != GLR_TRYFAILED)
		fs_err("inode %llu: cannot publish the times of direct writes", (unsigned long long)ip->i_no_addr);
}

/*
 * Addresses first, inodes then: the list holds no references, and the cache's lock comes before
 * the list's.  One pass over what is pending now: an inode that is written all the time must not
 * keep us here.  Returns when the next of them is due.
 */
static uint64_t publish_list(struct gfs2_sbd *sdp, bool timer)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	uint64_t addrs[PUBLISH_BATCH];
	struct gfs2_inode *ip;
	unsigned total = 0, nr, i;
	uint64_t next = UINT64_MAX;

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
			break;
		for (i = 0; i < nr; i++) {
			ip = gfs2_inode_find(sdp, addrs[i]);
			if (ip)
				publish_one(ip, timer, &next);
			gfs2_inode_put(ip);
		}
		total -= nr;
	}
	return next;
}

void gfs2_pending_mtime_publish_all(struct gfs2_sbd *sdp)
{
	publish_list(sdp, false);
}

uint64_t gfs2_pending_mtime_timer(struct gfs2_sbd *sdp)
{
	return publish_list(sdp, true);
}
