/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes on while a volume is mounted: withdrawing from it, and the maintenance thread
 * (kernel: util.c:gfs2_withdraw, gfs2_consist_i; quota.c:gfs2_quotad for the statfs part).
 *
 * Withdraw.  Once sd_withdrawn is set the log commits nothing more, so that a half-made transaction
 * never gets out, the engine takes no more writes, and everybody is answered -EIO.  It can happen anywhere, inside transactions and
 * under mutexes; so it only sets flags and wakes.
 *
 * Maintenance thread.  Sleeps in poll() until one of its works is due.  It holds no lock while it
 * sleeps, and takes glocks like any request.  Memory pressure is the business of the buffer
 * cache's own thread, which calls relieve_pressure().
 */
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "fs/inode.h"
#include "fs/rgrp.h"
#include "util/util.h"

#define NS_PER_SEC 1000000000ull
#define STATFS_QUANTUM (30 * NS_PER_SEC)	/* the kernel's gt_statfs_quantum */
#define SHRINK_INTERVAL (5 * NS_PER_SEC)

/* --- withdraw --- */

/* False: there is none. */
static bool stop_log(struct gfs2_sbd *sdp)
{
	bool found;

	rmutex_lock(&sdp->sd_log_lock);
	found = sdp->sd_log;
	if (found)
		gfs2_log_stop(sdp->sd_log);
	rmutex_unlock(&sdp->sd_log_lock);
	return found;
}

int gfs2_withdraw(struct gfs2_sbd *sdp, const char *fmt, ...)
{
	bool had_log;
	char text[512];
	va_list ap;

	/* acq_rel: who sees it set sees what led to it; who wins the exchange gives the message. */
	if (atomic_exchange_explicit(&sdp->sd_withdrawn, true, memory_order_acq_rel))
		return -EIO;
	/* Whoever has not looked at the flag: another node may have replayed our journal by now, and use what was ours. */
	if (sdp->sd_io)
		io_engine_stop_writes(sdp->sd_io, true);
	had_log = stop_log(sdp);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fs_err("%s", text);
	/* Where others have the volume mounted and go on, fsck.gfs2 would damage it. */
	if (had_log)
		fs_err("withdrawn: nothing is written any more; unmount, %s, mount again",
		       sdp->sd_lm->lm_has_peers ? "find out why (no fsck.gfs2 while a node has the volume mounted)" :
						  "run fsck.gfs2");
	if (sdp->sd_glocks)
		gfs2_glock_table_withdraw(sdp->sd_glocks);
	return -EIO;
}

int gfs2_consist_(struct gfs2_sbd *sdp, uint64_t blkno, const char *func, const char *rule)
{
	if (!sdp->sd_ro)
		return gfs2_withdraw(sdp,
				     "fatal: file system consistency error: block %" PRIu64
				     ": %s (found by %s)", blkno, rule, func);
	/* Nothing keeps anybody from coming across it again and again. */
	fs_err_limited("file system consistency error: block %" PRIu64 ": %s (found by %s)", blkno, rule, func);
	return -EIO;
}

/* --- maintenance --- */

struct gfs2_maint {
	struct gfs2_sbd *sdp;
	pthread_t thread;
	int event;	/* eventfd: readable when there is something to do before its time */
	atomic_bool stop;	/* release before the event is written, acquire after it was read */
	atomic_bool woken;	/* an event is on its way; relaxed: it only spares writing another one */
	uint64_t statfs_due, mtime_due, shrink_due;	/* the thread's own */
	bool handed_over;	/* the same */
	bool runs;		/* who mounts and unmounts */
};

/*
 * The buffer cache is over its limit and finds nothing clean: dirty data and metadata become so.  On a thread of the
 * cache that holds nothing.
 */
static void relieve_pressure(void *arg)
{
	struct gfs2_sbd *sdp = arg;

	if (sdp->sd_log && !gfs2_withdrawn(sdp)) {
		int err = gfs2_ail_flush(sdp->sd_log);

		if (err)
			fs_err("cannot write back under memory pressure: %s", strerror(-err));
	}
	gfs2_rgrps_shrink(sdp);
}

/* Unlinked inodes of a crash that somebody came across. */
static void reclaim_seen(struct gfs2_sbd *sdp)
{
	int err;

	if (sdp->sd_ro || gfs2_withdrawn(sdp))
		return;
	err = gfs2_inodes_hunt(sdp);
	if (err)
		fs_err("cannot free all unlinked inodes: %s", strerror(-err));
}

/*
 * Somebody waits for memory (util/memory.c), perhaps under a lock that giving back takes; then he is in the way only until
 * he gets some of the reserve, which is why that is filled first.
 */
static void relieve_shortage(struct gfs2_sbd *sdp)
{
	bool was = memory_is_short();

	memory_reserve_fill();
	if (was)
		gfs2_budget_relieve(sdp);
}

static void maint_works(struct gfs2_maint *mt, uint64_t now)
{
	struct gfs2_sbd *sdp = mt->sdp;

	relieve_shortage(sdp);
	if (now >= mt->shrink_due) {
		gfs2_budget_balance(sdp);
		mt->shrink_due = now + SHRINK_INTERVAL;
		reclaim_seen(sdp);
		gfs2_icache_reap(sdp);
	}
	if (sdp->sd_ro || gfs2_withdrawn(sdp))
		return;
	if (now >= mt->mtime_due) {
		uint64_t due = gfs2_pending_mtime_timer(sdp);

		mt->mtime_due = min_t(uint64_t, now + gfs2_mtime_interval(sdp), due);
	}
	if (now >= mt->statfs_due) {
		int err = gfs2_statfs_sync(sdp);

		if (err)
			fs_err("cannot write the block counts: %s", strerror(-err));
		mt->statfs_due = now + STATFS_QUANTUM;
	}
}

static int next_timeout_ms(const struct gfs2_maint *mt, uint64_t now)
{
	uint64_t due = mt->shrink_due;

	if (!mt->sdp->sd_ro) {
		due = min_t(uint64_t, due, mt->mtime_due);
		due = min_t(uint64_t, due, mt->statfs_due);
	}
	return due <= now ? 0 : (int)DIV_ROUND_UP(due - now, 1000000);
}

/*
 * A withdrawn node of a cluster keeps its locks, so that nobody sees what its journal may still change, and the others wait.
 * So it goes: it unmounts like at any other end, but leaves its journal as it is, and the others replay that.
 */
static void hand_over(struct gfs2_maint *mt)
{
	if (mt->sdp->sd_lm != &lm_dlm || mt->handed_over)
		return;
	mt->handed_over = true;
	fs_err("withdrawn: leaving the cluster, so that another node can replay the journal");
	kill(getpid(), SIGTERM);
}

static void *maint_thread(void *arg)
{
	struct gfs2_maint *mt = arg;
	struct pollfd pfd = { .fd = mt->event, .events = POLLIN };
	uint64_t now = now_ns();

	mt->statfs_due = now + STATFS_QUANTUM;
	mt->mtime_due = now + gfs2_mtime_interval(mt->sdp);
	mt->shrink_due = now + SHRINK_INTERVAL;
	for (;;) {
		bool event = poll(&pfd, 1, next_timeout_ms(mt, now)) > 0;

		now = now_ns();
		if (event) {
			eventfd_t n;

			GFS2_BUG_ON(eventfd_read(mt->event, &n));
			/* Before the work: who wakes us from here on has seen less of it. */
			atomic_store_explicit(&mt->woken, false, memory_order_relaxed);
			if (atomic_load_explicit(&mt->stop, memory_order_acquire))
				break;
			mt->shrink_due = mt->mtime_due = now;
		}
		/* Nothing is due any more after a withdraw, and it must not be a busy loop. */
		if (gfs2_withdrawn(mt->sdp)) {
			mt->mtime_due = mt->statfs_due = now + STATFS_QUANTUM;
			hand_over(mt);
		}
		maint_works(mt, now);
	}
	return NULL;
}

/* It stays until nobody asks for it any more, also without its thread. */
static struct gfs2_maint *maint_of(struct gfs2_sbd *sdp)
{
	/* acquire: what gfs2_maint_start() has made of it */
	return __atomic_load_n(&sdp->sd_maint, __ATOMIC_ACQUIRE);
}

void gfs2_maint_wake(struct gfs2_sbd *sdp)
{
	struct gfs2_maint *mt = maint_of(sdp);

	if (mt && !atomic_exchange_explicit(&mt->woken, true, memory_order_relaxed))
		eventfd_write(mt->event, 1);
}

bool gfs2_maint_runs(struct gfs2_sbd *sdp)
{
	struct gfs2_maint *mt = maint_of(sdp);

	return mt && !atomic_load_explicit(&mt->stop, memory_order_relaxed);
}

/*
 * The volume of the process, for memory.c, which knows none: set before the callback is, and cleared after nobody is in
 * it any more.
 */
static _Atomic(struct gfs2_sbd *) volume;

static void memory_short(void)
{
	gfs2_maint_wake(atomic_load(&volume));
}

int gfs2_maint_start(struct gfs2_sbd *sdp)
{
	struct gfs2_maint *mt = xzalloc(sizeof(*mt));
	int err;

	mt->sdp = sdp;
	mt->event = eventfd(0, EFD_CLOEXEC);
	if (mt->event < 0) {
		err = -errno;
		free(mt);
		return err;
	}
	/* Before the thread, which may call gfs2_maint_wake(). */
	__atomic_store_n(&sdp->sd_maint, mt, __ATOMIC_RELEASE);
	err = -pthread_create(&mt->thread, NULL, maint_thread, mt);
	if (err)
		return err;
	mt->runs = true;
	gfs2_budget_balance(sdp);
	atomic_store(&volume, sdp);
	memory_reserve_fill();
	memory_on_shortage(memory_short);
	err = buf_cache_set_pressure(sdp->sd_bufs, relieve_pressure, sdp);
	if (err)
		gfs2_maint_stop(sdp);
	return err;
}

void gfs2_maint_stop(struct gfs2_sbd *sdp)
{
	struct gfs2_maint *mt = sdp->sd_maint;

	if (!mt || !mt->runs)
		return;
	buf_cache_set_pressure(sdp->sd_bufs, NULL, NULL);
	memory_on_shortage(NULL);
	atomic_store_explicit(&mt->stop, true, memory_order_release);
	GFS2_BUG_ON(eventfd_write(mt->event, 1));
	pthread_join(mt->thread, NULL);
	mt->runs = false;
}

void gfs2_maint_free(struct gfs2_sbd *sdp)
{
	struct gfs2_maint *mt = sdp->sd_maint;

	if (!mt)
		return;
	sdp->sd_maint = NULL;
	close(mt->event);
	free(mt);
}
