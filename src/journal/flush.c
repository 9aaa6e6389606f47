/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A log flush (reference 8.7): seal the open batch, write it, make it durable.
 *
 *   seal	gate closed until the open transactions are through; images copied, obligations moved
 *		to the new batch, a new open batch begins; gate open.  No I/O, except that of the
 *		transactions that are waited for.
 *   write	ordered data; JDATA, METADATA and REVOKE groups; wait for all of it
 *   barrier	flush: payload, ordered data and all in-place writes that the new tail relies on
 *   header	one write that is durable when it completes (FUA), after that of the batch before.  Meanwhile the next
 *		batch is sealed, written and flushed: a device serves two flushes at once in the time of one
 *   done	the batch is committed: its blocks may be written in place, its freed blocks may be
 *		used again, who waits for it goes on; what the new tail has passed is forgotten
 *
 * After an error nothing more is written: the batches stay as they are, later calls get -EIO.
 */
#include "journal/log_internal.h"

struct flush {
	uint64_t seq;		/* batch, if there is one */
	uint64_t first;		/* position of its first block */
	uint32_t nr;		/* its blocks; 0: only a header */
	uint32_t flags;
	uint64_t sequence;	/* of its header */
	uint64_t tail;		/* in its header */
	uint64_t old_tail;	/* that of the last durable header, at most; space before it is free */
	uint64_t wait_pass;
	int64_t local[3];
};

uint64_t log_space(struct gfs2_log *log)
{
	return log->l_blocks - 1 - (log->l_head - log->l_tail);
}

uint64_t log_open_blocks(struct gfs2_log *log)
{
	struct log_geometry g = { log->l_ldptrs, log->l_jdptrs, log->l_inptrs };

	return log_flush_blocks(&g, atomic_load_explicit(&log->o_nr_jdata, memory_order_relaxed),
				atomic_load_explicit(&log->o_nr_meta, memory_order_relaxed),
				atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed));
}

/* --- batches in the active region --- */

struct log_batch *log_batch(struct gfs2_log *log, uint64_t seq)
{
	gfs2_assert_debug(seq >= log->l_ring_first && seq < log_batch_seq(log));
	return log->l_ring[seq & (log->l_ring_cap - 1)];
}

/* The open batch's number becomes that of @b; the caller counts on. */
void log_ring_push(struct gfs2_log *log, struct log_batch *b)
{
	if (b->seq - log->l_ring_first == log->l_ring_cap) {
		unsigned cap = log->l_ring_cap * 2;
		struct log_batch **ring = xmalloc(cap * sizeof(*ring));

		for (uint64_t s = log->l_ring_first; s < b->seq; s++)
			ring[s & (cap - 1)] = log->l_ring[s & (log->l_ring_cap - 1)];
		free(log->l_ring);
		log->l_ring = ring;
		log->l_ring_cap = cap;
	}
	log->l_ring[b->seq & (log->l_ring_cap - 1)] = b;
}

uint64_t log_compute_tail(struct gfs2_log *log, uint64_t pos)
{
	for (uint64_t s = log->l_ring_first; s < log_batch_seq(log); s++) {
		struct log_batch *b = log_batch(log, s);

		if (b->nr_ail || b->nr_hold)
			return b->first;
	}
	return pos;
}

void log_retire(struct gfs2_log *log, uint64_t tail)
{
	while (log->l_ring_first < log_batch_seq(log)) {
		struct log_batch *b = log_batch(log, log->l_ring_first);

		if (b->first >= tail)
			return;
		GFS2_BUG_ON(b->nr_ail || b->nr_hold);
		for (unsigned i = 0; i < b->nr; i++) {
			struct log_block *e = blktab_find(&log->l_tab, b->ents[i].blkno);

			if (e && e->seq == b->seq) {
				e->seq = 0;
				blktab_gc(&log->l_tab, e);
			}
		}
		free(b->ents);
		free(b);
		log->l_ring_first++;
	}
}

/* --- sealing: flush lock held, gate closed, no transaction open --- */

/* l_lock: the obligation for @p's block moves to batch @b, whose header will commit a newer image. */
static void seal_pin(struct gfs2_log *log, struct log_batch *b, unsigned i)
{
	struct log_pin *p = &b->ents[i];
	struct log_block *e = blktab_find(&log->l_tab, p->blkno);

	gfs2_assert_debug(!e->rev);
	if (e->ail) {
		GFS2_BUG_ON(log_batch(log, e->seq)->ents[e->ail - 1].bh != p->bh);
		log_ail_drop(log, e);
	}
	e->pin = 0;
	e->seq = b->seq;
	e->ail = i + 1;
	e->glkey = glock_key(p->gl);
	b->nr_ail++;
	atomic_fetch_add_explicit(&log->l_nr_ail, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->gl->gl_ail_count, 1, memory_order_relaxed);
	/* At no moment neither: such a buffer may be evicted. */
	buf_set_state(p->bh, B_AIL);
	buf_clear_state(p->bh, B_PINNED);
}

static void seal_revokes(struct gfs2_log *log)
{
	unsigned nr = atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed);

	for (unsigned i = 0; i < nr; i++) {
		struct log_block *e = blktab_find(&log->l_tab, log->o_revokes[i]);

		/* All its images are cancelled: none is active any more. */
		GFS2_BUG_ON(e->pin || e->ail);
		e->rev = 0;
		e->seq = 0;
		blktab_gc(&log->l_tab, e);
	}
	for (unsigned i = 0; i < log->o_nr_holds; i++)
		log_batch(log, log->o_holds[i])->nr_hold--;
	log->o_nr_holds = 0;
	atomic_store_explicit(&log->o_nr_rev, 0, memory_order_relaxed);
}

static void seal_ordered(struct gfs2_log *log)
{
	rmutex_lock(&log->l_ordered_lock);
	list_splice_tail_init(&log->l_ordered, &log->l_ordering);
	log->l_ordering_busy = true;
	atomic_store_explicit(&log->l_ordered_ns, 0, memory_order_relaxed);
	rmutex_unlock(&log->l_ordered_lock);
}

static void seal_batch(struct gfs2_log *log, struct flush *fl)
{
	struct log_batch *b = xzalloc(sizeof(*b));

	rmutex_lock(&log->l_lock);
	b->seq = fl->seq = log_batch_seq(log);
	b->first = fl->first;
	b->nr = log_nr_pins(log);
	b->ents = log->o_pins;
	log->o_pins = NULL;
	log->o_cap_pins = 0;
	atomic_fetch_add_explicit(&log->s_blocks, b->nr, memory_order_relaxed);
	atomic_fetch_add_explicit(&log->s_revokes,
				  atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed),
				  memory_order_relaxed);
	log_ring_push(log, b);
	/* Revokes first: they refer to images of older batches. */
	seal_revokes(log);
	for (unsigned i = 0; i < b->nr; i++)
		seal_pin(log, b, i);
	fl->wait_pass = log->o_wait_pass;
	log->o_wait_pass = 0;
	atomic_store_explicit(&log->o_nr_jdata, 0, memory_order_relaxed);
	atomic_store_explicit(&log->o_nr_meta, 0, memory_order_relaxed);
	atomic_store_explicit(&log->l_batch_seq, b->seq + 1, memory_order_release);
	rmutex_unlock(&log->l_lock);

	seal_ordered(log);
}

/* Would a header alone set more blocks free than the one that it takes? */
static bool tail_can_move(struct gfs2_log *log, uint64_t pos)
{
	uint64_t tail;

	rmutex_lock(&log->l_lock);
	tail = log_compute_tail(log, pos);
	rmutex_unlock(&log->l_lock);
	/* l_tail: only who writes a header changes it, and we have the header lock. */
	return tail - log->l_tail >= 2;
}

/* 1: @fl is to be written; 0: nothing to do; -EIO. */
static int seal_closed(struct gfs2_log *log, struct flush *fl, enum log_flush_mode mode)
{
	int rc;

	if (fl->nr + 1 + fl->first - fl->old_tail > log->l_blocks - 1) {
		fs_err("log: %u blocks do not fit into the journal", fl->nr);
		return -EIO;
	}
	if (!fl->nr && (mode == LOG_FLUSH_BATCH ||
			(mode == LOG_FLUSH_TAIL && !tail_can_move(log, fl->first))))
		return 0;
	/* Now, while no transaction is open: the values that belong to what is committed. */
	log->l_hooks.local_statfs(log->l_hooks.arg, fl->local);
	if (!fl->nr)
		return 1;
	rc = log_build(log);
	if (rc)
		return rc;
	GFS2_BUG_ON(log->l_image.nr != fl->nr);
	seal_batch(log, fl);
	return 1;
}

static int log_seal(struct gfs2_log *log, struct flush *fl, enum log_flush_mode mode)
{
	int rc;

	rmutex_lock(&log->l_gate);
	if (mode == LOG_FLUSH_BATCH && !log_open_blocks(log)) {
		log->l_batch_start_ns = 0;
		rmutex_unlock(&log->l_gate);
		return 0;
	}
	log->l_closed = true;
	while (log->l_open)
		rcond_wait(&log->l_gate_closer, &log->l_gate);
	fl->first = log->l_head;
	fl->old_tail = log->l_tail;
	fl->nr = log_open_blocks(log);
	rmutex_unlock(&log->l_gate);

	rc = seal_closed(log, fl, mode);
	/* While the gate is closed: the open batch is half sealed (log_build() has sorted its pins), no transaction may begin in it. */
	if (rc < 0)
		log_set_error(log, rc, "writing the journal");

	rmutex_lock(&log->l_gate);
	if (rc > 0) {
		log->l_head += fl->nr + 1;
		log->l_batch_start_ns = 0;
	}
	log->l_closed = false;
	rcond_broadcast(&log->l_gate_wait);
	rmutex_unlock(&log->l_gate);
	return rc;
}

/* --- writing --- */

/*
 * Errors stay with the mapping and are told by the fsync of that file (as in the kernel): they are
 * no reason to keep everybody else's metadata out of the log.
 */
static void write_ordered(struct gfs2_log *log)
{
	rmutex_lock(&log->l_ordered_lock);
	while (!list_empty(&log->l_ordering)) {
		struct gfs2_mapping *maps[ORDERED_AT_ONCE];
		unsigned nr = 0;

		/* The mappings stay: gfs2_ordered_del() waits for us. */
		while (nr < ORDERED_AT_ONCE && !list_empty(&log->l_ordering)) {
			maps[nr] = list_first_entry(&log->l_ordering, struct gfs2_mapping, m_ordered);
			list_del_init(&maps[nr++]->m_ordered);
		}
		rmutex_unlock(&log->l_ordered_lock);
		/* Not after a withdraw: another node may use the blocks by now. */
		if (!log_error(log))
			mapping_write_many(maps, nr);
		rmutex_lock(&log->l_ordered_lock);
	}
	log->l_ordering_busy = false;
	rcond_broadcast(&log->l_ordered_wait);
	rmutex_unlock(&log->l_ordered_lock);
}

/*
 * What a transaction that is open has made reachable is on the list again, or will be, once it has changed it (gfs2_ordered_add): it loses
 * nothing by being written before.
 */
int log_write_data(struct gfs2_log *log)
{
	int rc;

	rmutex_assert_none();
	rmutex_lock(&log->l_flush_lock);
	rc = log_error(log) ? -EIO : 0;
	if (!rc) {
		seal_ordered(log);
		write_ordered(log);
	}
	rmutex_unlock(&log->l_flush_lock);
	if (!rc) {
		rc = io_flush(log->l_engine, IO_DATA);
		/* The device tells it once.  Nobody waits here who could be told, and the fsync that comes later would find nothing to do. */
		if (rc)
			log_set_error(log, rc, "flushing data");
	}
	log_tell_error(log);
	return rc;
}

/*
 * A copy of a block that this batch frees may be on its way to the device.  Once the batch is
 * committed the block can be given to somebody else, whose contents it must not hit.
 */
static void wait_for_pass(struct gfs2_log *log, uint64_t pass)
{
	rmutex_lock(&log->l_lock);
	while (log->l_ail_busy && log->l_ail_passes <= pass)
		rcond_wait(&log->l_ail_wait, &log->l_lock);
	rmutex_unlock(&log->l_lock);
}

static void log_committed(struct gfs2_log *log, const struct flush *fl)
{
	rmutex_lock(&log->l_lock);
	if (fl->nr)
		atomic_store_explicit(&log->l_durable_seq, fl->seq, memory_order_release);
	log_retire(log, fl->tail);
	rmutex_unlock(&log->l_lock);
	atomic_fetch_add_explicit(&log->s_flushes, 1, memory_order_relaxed);

	rmutex_lock(&log->l_gate);
	log->l_tail = fl->tail;
	log->l_shown_sequence = fl->sequence;
	log->l_flushed_ns = now_ns();
	if (2 * (log->l_head - log->l_tail) > log->l_blocks)
		rcond_signal(&log->l_thread_wait);
	rcond_broadcast(&log->l_gate_wait);
	rmutex_unlock(&log->l_gate);
}

/* The flush lock held: all but the header, on stable media. */
static int write_payload(struct gfs2_log *log, struct flush *fl)
{
	int rc;

	if (fl->nr) {
		write_ordered(log);
		rc = log_write_image(log, fl->first);
		if (rc)
			return rc;
		wait_for_pass(log, fl->wait_pass);
	}
	/*
	 * Before the flush: it covers the in-place writes that have completed by now, on which
	 * this tail relies.
	 */
	rmutex_lock(&log->l_lock);
	fl->tail = log_compute_tail(log, fl->first);
	rmutex_unlock(&log->l_lock);
	if (log_error(log))
		return -EIO;
	return io_flush(log->l_engine, IO_LOG);
}

static void tell_flush(struct gfs2_log *log, const struct flush *fl, bool start)
{
	if (log->l_hooks.flush_event)
		log->l_hooks.flush_event(log->l_hooks.arg, start, fl->sequence, fl->flags);
}

/*
 * While the lock that keeps the next batch away is still held: its header must not be written after one that is missing, or the journal could
 * not be replayed, and what it made durable would be lost.
 */
static int flush_failed(struct gfs2_log *log, const struct flush *fl, int rc)
{
	log_set_error(log, rc, "writing the journal");
	tell_flush(log, fl, false);
	return rc;
}

/* The flush lock held.  1: @fl needs its header; 0: nothing to do; -errno. */
static int flush_begin(struct gfs2_log *log, struct flush *fl, enum log_flush_mode mode)
{
	int rc;

	if (log_error(log))
		return -EIO;
	rc = log_seal(log, fl, mode);
	if (rc <= 0)
		return rc;
	fl->sequence = log->l_sequence++;
	tell_flush(log, fl, true);
	rc = write_payload(log, fl);
	log_image_trim(&log->l_image, LOG_CHUNKS_KEPT);
	if (rc)
		return flush_failed(log, fl, rc);
	GFS2_BUG_ON(mode == LOG_FLUSH_UNMOUNT && fl->tail != fl->first + fl->nr);
	return 1;
}

/* The header lock held since before the next batch could be sealed: the batch before this one is committed, or there was an error. */
static int flush_end(struct gfs2_log *log, const struct flush *fl)
{
	int rc = log_error(log) ? -EIO : 0;

	if (!rc)
		rc = log_write_header(log, fl->sequence, fl->first + fl->nr, fl->tail, fl->flags, fl->local);
	if (rc)
		return flush_failed(log, fl, rc);
	log_committed(log, fl);
	tell_flush(log, fl, false);
	return 0;
}

/* Wait until every header whose batch is sealed has been written, or has failed. */
static void wait_for_headers(struct gfs2_log *log)
{
	rmutex_lock(&log->l_header_lock);
	rmutex_unlock(&log->l_header_lock);
}

/*
 * Batch @seq is sealed: whoever does that has the header lock, or has it already given back.  Others wait for him
 * without the flush lock, which the next batch needs.
 */
static int flush_share(struct gfs2_log *log, uint64_t seq)
{
	rmutex_unlock(&log->l_flush_lock);
	atomic_fetch_add_explicit(&log->s_shared, 1, memory_order_relaxed);
	if (log_durable_seq(log) < seq)
		wait_for_headers(log);
	return log_durable_seq(log) >= seq ? 0 : -EIO;
}

static int flush_batch(struct gfs2_log *log, uint32_t flags)
{
	struct flush fl = { .flags = flags };
	int rc = flush_begin(log, &fl, LOG_FLUSH_BATCH);

	if (rc > 0)
		rmutex_lock(&log->l_header_lock);
	rmutex_unlock(&log->l_flush_lock);
	if (rc > 0) {
		rc = flush_end(log, &fl);
		rmutex_unlock(&log->l_header_lock);
	} else if (!rc) {
		/* The caller's transactions may be in a batch whose header is on its way. */
		wait_for_headers(log);
		rc = log_error(log) ? -EIO : 0;
	}
	return rc;
}

/* The log's tail, or its end: alone. */
static int flush_header_only(struct gfs2_log *log, uint32_t flags, enum log_flush_mode mode)
{
	struct flush fl = { .flags = flags };
	int rc;

	rmutex_lock(&log->l_header_lock);
	rc = flush_begin(log, &fl, mode);
	if (rc > 0)
		rc = flush_end(log, &fl);
	rmutex_unlock(&log->l_header_lock);
	rmutex_unlock(&log->l_flush_lock);
	return rc;
}

int log_flush(struct gfs2_log *log, uint64_t seq, uint32_t flags, enum log_flush_mode mode)
{
	int rc;

	rmutex_assert_none();
	GFS2_BUG_ON(gfs2_trans_active());
	rmutex_lock(&log->l_flush_lock);
	if (mode != LOG_FLUSH_BATCH) {
		rc = flush_header_only(log, flags, mode);
	} else if (seq < log_batch_seq(log)) {
		/* Somebody else's flush took our transactions along while we waited for the lock. */
		rc = flush_share(log, seq);
	} else {
		rc = flush_batch(log, flags);
	}
	log_tell_error(log);
	return rc ? -EIO : 0;
}

int gfs2_log_flush_seq(struct gfs2_log *log, uint64_t seq, uint32_t flags)
{
	if (log_durable_seq(log) >= seq)
		return 0;
	return log_flush(log, seq, flags, LOG_FLUSH_BATCH);
}

int gfs2_log_flush(struct gfs2_log *log, uint32_t flags)
{
	/*
	 * The open batch has the caller's transactions, or an older one (then this may wait for a
	 * little more than it must).
	 */
	if (log_error(log))
		return -EIO;
	return log_flush(log, log_batch_seq(log), flags, LOG_FLUSH_BATCH);
}
