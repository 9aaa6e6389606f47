/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of a log, its background thread, its errors.
 *
 * The thread does what nobody should have to wait for:
 *   - a batch is committed when its first transaction is commit_secs old, or when it has become large;
 *   - when more than half of the log is in use, or much memory is in the AIL, everything is written in
 *     place and the tail moved, before anybody runs out of log space;
 *   - at once when somebody did (l_want_drain), or memory is short (gfs2_log_wake);
 *   - a log that has been idle for commit_secs is emptied, so that there is nothing to recover.
 *
 * States: running -> (error) -> stopped.  After an error transactions can no longer begin, flushes
 * answer -EIO; open transactions may go on and end, what they pin is never written.
 */
#include "journal/log_internal.h"

#define NSEC_PER_SEC 1000000000ull

/* --- errors --- */

static void log_wake_all(struct gfs2_log *log)
{
	rcond_broadcast(&log->l_gate_wait);
	rcond_broadcast(&log->l_gate_closer);
	rcond_signal(&log->l_thread_wait);
}

/* Callers hold nothing above l_flush_lock. */
void log_set_error(struct gfs2_log *log, int error, const char *what)
{
	int expected = 0;

	if (!atomic_compare_exchange_strong_explicit(&log->l_error, &expected, error,
						     memory_order_acq_rel, memory_order_acquire))
		return;
	fs_err("log: error %d %s; nothing more is written", error, what);
	rmutex_lock(&log->l_gate);
	log_wake_all(log);
	rmutex_unlock(&log->l_gate);
}

void log_tell_error(struct gfs2_log *log)
{
	int error = log_error(log);

	if (!error || atomic_exchange_explicit(&log->l_error_told, true, memory_order_relaxed))
		return;
	log->l_hooks.withdraw(log->l_hooks.arg, error, "the journal cannot be written");
}

void gfs2_log_stop(struct gfs2_log *log)
{
	int expected = 0;

	/* Who stops it knows why. */
	atomic_store_explicit(&log->l_error_told, true, memory_order_relaxed);
	if (!atomic_compare_exchange_strong_explicit(&log->l_error, &expected, -EIO,
						     memory_order_acq_rel, memory_order_acquire))
		return;
	/*
	 * The caller may hold mutexes that come after l_gate.  If it cannot be taken the thread wakes
	 * the waiters at its next turn.
	 */
	if (!rmutex_trylock(&log->l_gate))
		return;
	log_wake_all(log);
	rmutex_unlock(&log->l_gate);
}

/* --- the thread --- */

enum { WORK_STOP = 1, WORK_FLUSH = 2, WORK_DRAIN = 4, WORK_DATA = 8 };

/* Under l_gate. */
static bool much_in_use(struct gfs2_log *log)
{
	return 2 * (log->l_head - log->l_tail) > log->l_blocks || log_nr_ail(log) > log->l_ail_limit;
}

/* Under l_gate: what is to be done now; *@deadline: when to look again. */
static unsigned thread_work(struct gfs2_log *log, uint64_t *deadline)
{
	uint64_t now = now_ns(), interval = log->l_commit_secs * NSEC_PER_SEC;
	uint64_t ordered = atomic_load_explicit(&log->l_ordered_ns, memory_order_relaxed);
	unsigned work = 0;

	if (log->l_stop)
		return WORK_STOP;
	/* At most a second: gfs2_log_stop() may have been unable to wake anybody. */
	*deadline = now + NSEC_PER_SEC;
	if (log_error(log)) {
		rcond_broadcast(&log->l_gate_wait);
		return 0;
	}
	if (log->l_want_drain || much_in_use(log))
		work |= WORK_DRAIN;
	if (log->l_want_flush)
		work |= WORK_FLUSH;
	if (log->l_batch_start_ns) {
		uint64_t due = log->l_batch_start_ns + interval;

		if (due <= now)
			work |= WORK_FLUSH;
		*deadline = min_t(uint64_t, *deadline, due);
	} else if (log->l_head - log->l_tail > 1 && log->l_flushed_ns + interval <= now) {
		work |= WORK_DRAIN;
		log->l_flushed_ns = now;
	}
	if (ordered) {
		/* Without a transaction, or before the first one of the batch; a flush writes them, too. */
		if (ordered + interval <= now)
			work |= WORK_DATA;
		*deadline = min_t(uint64_t, *deadline, ordered + interval);
	}
	log->l_want_drain = log->l_want_flush = false;
	return work;
}

static void *log_thread(void *arg)
{
	struct gfs2_log *log = arg;
	uint64_t deadline;
	unsigned work;

	rmutex_lock(&log->l_gate);
	for (;;) {
		work = thread_work(log, &deadline);
		if (work & WORK_STOP)
			break;
		if (!work) {
			rcond_wait_until(&log->l_thread_wait, &log->l_gate, deadline);
			continue;
		}
		rmutex_unlock(&log->l_gate);
		if (work & WORK_DRAIN)
			gfs2_ail_flush(log);
		else if (work & WORK_FLUSH)
			gfs2_log_flush(log, GFS2_LOG_HEAD_FLUSH_NORMAL | GFS2_LFC_LOGD_JFLUSH_REQD);
		if (work & WORK_DATA)
			log_write_data(log);
		rmutex_lock(&log->l_gate);
	}
	rmutex_unlock(&log->l_gate);
	return NULL;
}

void gfs2_log_wake(struct gfs2_log *log)
{
	rmutex_lock(&log->l_gate);
	log->l_want_drain = true;
	rcond_signal(&log->l_thread_wait);
	rmutex_unlock(&log->l_gate);
}

void gfs2_log_set_commit_secs(struct gfs2_log *log, unsigned secs)
{
	rmutex_lock(&log->l_gate);
	log->l_commit_secs = secs ? secs : 1;
	rcond_signal(&log->l_thread_wait);
	rmutex_unlock(&log->l_gate);
}

static void stop_thread(struct gfs2_log *log)
{
	if (!log->l_thread_runs)
		return;
	rmutex_lock(&log->l_gate);
	log->l_stop = true;
	rcond_signal(&log->l_thread_wait);
	rcond_broadcast(&log->l_gate_wait);
	rmutex_unlock(&log->l_gate);
	pthread_join(log->l_thread, NULL);
	log->l_thread_runs = false;
}

/* --- life --- */

void gfs2_log_set_memory(struct gfs2_log *log, uint64_t bytes)
{
	uint64_t blocks = max_t(uint64_t, bytes / log->l_bsize, LOG_MIN_MEMORY);

	rmutex_lock(&log->l_gate);
	/* The kernel's 2/5, but memory is bounded too. */
	log->l_pin_limit = min_t(uint64_t, min_t(uint64_t, blocks / 4, LOG_MAX_BATCH_BYTES / log->l_bsize),
				 (uint64_t)log->l_blocks * 2 / 5);
	log->l_ail_limit = min_t(uint64_t, blocks / 8 * 3, LOG_MAX_AIL_BYTES / log->l_bsize);
	rcond_signal(&log->l_thread_wait);
	rmutex_unlock(&log->l_gate);
}

static void init_limits(struct gfs2_log *log)
{
	struct log_geometry g = log_geometry(log->l_bsize);
	uint64_t half = log->l_blocks / 2;

	log->l_ldptrs = g.ldptrs;
	log->l_jdptrs = g.jdptrs;
	log->l_inptrs = g.inptrs;
	gfs2_log_set_memory(log, 4 * (uint64_t)LOG_MAX_AIL_BYTES);
	/* Half of the log with its descriptors: so that nobody has to wait for all of it to be empty. */
	log->l_max_trans = (half - 4) * g.jdptrs / (g.jdptrs + 1) - 2;
}

static void init_locks(struct gfs2_log *log)
{
	rmutex_init(&log->l_flush_lock, RANK_LOG_FLUSH);
	rmutex_init(&log->l_header_lock, RANK_LOG_HEADER);
	rmutex_init(&log->l_gate, RANK_LOG_GATE);
	rcond_init(&log->l_gate_wait);
	rcond_init(&log->l_gate_closer);
	rcond_init(&log->l_thread_wait);
	rmutex_init(&log->l_ordered_lock, RANK_ORDERED);
	rcond_init(&log->l_ordered_wait);
	rmutex_init(&log->l_lock, RANK_LOG);
	rcond_init(&log->l_ail_wait);
	list_init(&log->l_ordered);
	list_init(&log->l_ordering);
}

static int init_memory(struct gfs2_log *log)
{
	void *mem;

	log->l_ring_cap = 64;
	log->l_ring = calloc(log->l_ring_cap, sizeof(*log->l_ring));
	if (!log->l_ring || posix_memalign(&mem, 4096, 4096))
		return -ENOMEM;
	log->l_hdr = mem;
	if (posix_memalign(&mem, 4096, (size_t)AIL_PASS_BLOCKS * log->l_bsize))
		return -ENOMEM;
	log->l_ail_mem = mem;
	return 0;
}

static struct gfs2_log *log_alloc(const struct gfs2_log_config *cfg)
{
	struct gfs2_log *log = xzalloc(sizeof(*log));

	log->l_engine = cfg->engine;
	log->l_bufs = cfg->bufs;
	log->l_bsize = cfg->bsize;
	log->l_jd = cfg->jd;
	log->l_blocks = cfg->jd->jd_blocks;
	log->l_hooks = cfg->hooks;
	log->l_commit_secs = cfg->commit_secs ? cfg->commit_secs : 1;
	log->l_sequence = cfg->head.lh_sequence + 1;
	log->l_head = log->l_tail = (uint64_t)cfg->head.lh_blkno + 1;
	log->l_flushed_ns = now_ns();
	log->l_ring_first = 1;
	atomic_init(&log->l_batch_seq, 1);
	init_locks(log);
	init_limits(log);
	blktab_init(&log->l_tab);
	return log;
}

int gfs2_log_create(const struct gfs2_log_config *cfg, struct gfs2_log **out)
{
	struct gfs2_log *log;
	int rc;

	if (cfg->jd->jd_blocks < LOG_MIN_BLOCKS) {
		fs_err("log: a journal of %u blocks is too small", cfg->jd->jd_blocks);
		return -EINVAL;
	}
	if (!(cfg->head.lh_flags & GFS2_LOG_HEAD_UNMOUNT) || cfg->head.lh_blkno >= cfg->jd->jd_blocks) {
		fs_err("log: journal %u is not clean", cfg->jd->jd_jid);
		return -EINVAL;
	}
	log = log_alloc(cfg);
	rc = init_memory(log);
	if (!rc)
		rc = -pthread_create(&log->l_thread, NULL, log_thread, log);
	if (rc) {
		gfs2_log_destroy(log);
		return rc;
	}
	log->l_thread_runs = true;
	*out = log;
	return 0;
}

/* The last header: nothing to replay, and nothing that recovery would have to add to statfs. */
static int write_unmount(struct gfs2_log *log)
{
	int64_t local[3];

	log->l_hooks.local_statfs(log->l_hooks.arg, local);
	if (local[0] || local[1] || local[2]) {
		/* Left dirty, recovery puts it right. */
		fs_err("log: statfs was not synced before unmount, the journal stays dirty");
		gfs2_assert_debug(!"statfs not synced");
		return -EIO;
	}
	return log_flush(log, 0, GFS2_LOG_HEAD_UNMOUNT | GFS2_LFC_SHUTDOWN, LOG_FLUSH_UNMOUNT);
}

int gfs2_log_sync(struct gfs2_log *log)
{
	int rc = gfs2_log_flush(log, GFS2_LOG_HEAD_FLUSH_NORMAL | GFS2_LFC_SYNC_FS);

	/* The log's flush covers neither data that have no transaction nor direct writes that ended after it. */
	return rc ? rc : log_write_data(log);
}

int gfs2_log_shutdown(struct gfs2_log *log)
{
	int rc = gfs2_log_flush(log, GFS2_LOG_HEAD_FLUSH_SHUTDOWN | GFS2_LFC_MAKE_FS_RO);

	/* There may have been no batch to write it with. */
	if (!rc && atomic_load_explicit(&log->l_ordered_ns, memory_order_relaxed))
		rc = log_write_data(log);
	if (!rc)
		rc = gfs2_ail_flush(log);
	stop_thread(log);
	if (!rc)
		rc = write_unmount(log);
	/* Whatever comes now does not reach the journal. */
	gfs2_log_stop(log);
	return rc;
}

void gfs2_log_abandon(struct gfs2_log *log)
{
	gfs2_log_stop(log);
	stop_thread(log);
	/* Flushes and passes under way end. */
	rmutex_lock(&log->l_flush_lock);
	rmutex_lock(&log->l_header_lock);
	rmutex_unlock(&log->l_header_lock);
	rmutex_unlock(&log->l_flush_lock);
	rmutex_lock(&log->l_lock);
	while (log->l_ail_busy)
		rcond_wait(&log->l_ail_wait, &log->l_lock);
	rmutex_unlock(&log->l_lock);
	log_forget(log);
}

void gfs2_log_destroy(struct gfs2_log *log)
{
	if (!log)
		return;
	gfs2_log_abandon(log);
	while (!list_empty(&log->l_ordered))
		list_del_init(log->l_ordered.next);
	while (!list_empty(&log->l_ordering))
		list_del_init(log->l_ordering.next);
	log_image_trim(&log->l_image, 0);
	free(log->l_image.chunks);
	free(log->o_pins);
	free(log->o_revokes);
	free(log->o_holds);
	free(log->l_ring);
	free(log->l_hdr);
	free(log->l_ail_mem);
	blktab_free(&log->l_tab);
	rcond_destroy(&log->l_ail_wait);
	rmutex_destroy(&log->l_lock);
	rcond_destroy(&log->l_ordered_wait);
	rmutex_destroy(&log->l_ordered_lock);
	rcond_destroy(&log->l_thread_wait);
	rcond_destroy(&log->l_gate_closer);
	rcond_destroy(&log->l_gate_wait);
	rmutex_destroy(&log->l_gate);
	rmutex_destroy(&log->l_header_lock);
	rmutex_destroy(&log->l_flush_lock);
	free(log);
}

void gfs2_log_get_stats(struct gfs2_log *log, struct gfs2_log_stats *st)
{
	memset(st, 0, sizeof(*st));
	st->flushes = atomic_load_explicit(&log->s_flushes, memory_order_relaxed);
	st->batches_shared = atomic_load_explicit(&log->s_shared, memory_order_relaxed);
	st->blocks_logged = atomic_load_explicit(&log->s_blocks, memory_order_relaxed);
	st->revokes_logged = atomic_load_explicit(&log->s_revokes, memory_order_relaxed);
	st->ail_written = atomic_load_explicit(&log->s_ail_written, memory_order_relaxed);
	st->durable_seq = log_durable_seq(log);
	st->blocks_total = log->l_blocks;
	rmutex_lock(&log->l_gate);
	st->blocks_free = log_space(log);
	st->sequence = log->l_shown_sequence;
	rmutex_lock(&log->l_lock);
	st->pinned = log_nr_pins(log);
	st->ail = log_nr_ail(log);
	rmutex_unlock(&log->l_lock);
	rmutex_unlock(&log->l_gate);
}
