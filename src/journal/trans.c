/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transactions: getting in, announcing blocks, freeing blocks, getting out.
 *
 * Guarantees: see log.h.  Admission is here; the arithmetic behind it is in trans_need().
 *
 * Log space.  F is the number of blocks between head and tail that may be written (one always stays
 * free, so that a full log and an empty one differ).  X(j, m, r) is what a flush of j jdata blocks, m
 * metadata blocks and r revokes writes besides its header (log_flush_blocks).  A transaction is let
 * in if, with it,
 *	F >= X(j, m, r) + sum of need over the open transactions + LOG_RESERVE
 * where j, m, r count what is in the open batch now.  Claim: then the batch fits when it is sealed
 * (no transaction open) and LOG_RESERVE blocks are left, one for its header and one for another.
 *  - For all a, b >= 0: X(j + a, m + b, r + c) <= X(j, m, r) + trans_need(a + b, c), because
 *    ceil((j + a)/d) <= ceil(j/d) + ceil(a/d), likewise for metadata with l > d items per descriptor,
 *    ceil(a/d) + ceil(b/l) <= ceil((a + b)/d) + 1, and a revoke group of r + c <= that of r plus
 *    ceil(c/l), as continuation blocks hold more than descriptors.
 *  - So whatever the open transactions still do within what they asked for, the sealed batch has
 *    at most X(now) + sum of need.  Each of their steps only narrows what can still happen, and
 *    j, m, r never grow otherwise.  When one closes its need is dropped: what it did is in X.
 *  - A header alone is written only if it moves the tail by two or more (flush.c), so it never
 *    eats the reserve.
 * Progress: who waits for space is first in the queue, so nobody else gets in; the thread flushes the
 * batch, puts everything in place (nothing is pinned then) and writes a header whose tail is
 * itself: then all but that block is free, and trans_need() <= J - 4 was checked.
 */
#include "journal/log_internal.h"
#include "util/seeded.h"

_Thread_local struct gfs2_trans gfs2_current_trans;

static uint64_t trans_need(const struct gfs2_log *log, unsigned blocks, unsigned revokes)
{
	uint64_t need = DIV_ROUND_UP((uint64_t)revokes, log->l_ldptrs);

	if (blocks)
		need += blocks + DIV_ROUND_UP((uint64_t)blocks, log->l_jdptrs) + 1;
	return need;
}

unsigned gfs2_log_max_trans(const struct gfs2_log *log)
{
	return log->l_max_trans;
}

/* Under l_gate, first in the queue, gate open. */
static bool trans_fits(struct gfs2_log *log, uint64_t need)
{
	/* Memory: the batch is bounded, however large the journal. */
	if (log_nr_pins(log) >= 2 * log->l_pin_limit || log_ail_full(log))
		return false;
	return log_space(log) >= log_open_blocks(log) + log->l_need + need + LOG_RESERVE;
}

int gfs2_trans_begin(struct gfs2_log *log, unsigned blocks, unsigned revokes)
{
	struct gfs2_trans *tr = &gfs2_current_trans;
	uint64_t need = trans_need(log, blocks, revokes);
	uint64_t ticket;

	rmutex_assert_none();
	GFS2_BUG_ON(tr->tr_log);
	if (log_error(log))
		return -EIO;
	if (blocks > log->l_max_trans || need > log->l_blocks - 4)
		return -EFBIG;

	rmutex_lock(&log->l_gate);
	ticket = log->l_ticket++;
	while (!log_error(log)) {
		if (ticket == log->l_serving && !log->l_closed) {
			if (trans_fits(log, need))
				break;
			if (log_nr_pins(log) >= 2 * log->l_pin_limit)
				log->l_want_flush = true;
			else
				log->l_want_drain = true;
			rcond_signal(&log->l_thread_wait);
		}
		rcond_wait(&log->l_gate_wait, &log->l_gate);
	}
	log->l_serving++;
	if (log->l_ticket != log->l_serving)
		rcond_broadcast(&log->l_gate_wait);
	if (log_error(log)) {
		rmutex_unlock(&log->l_gate);
		return -EIO;
	}
	log->l_open++;
	log->l_need += need;
	rmutex_unlock(&log->l_gate);

	tr->tr_log = log;
	tr->tr_blocks = blocks;
	tr->tr_revokes = revokes;
	tr->tr_nr_pins = tr->tr_nr_revokes = 0;
	tr->tr_need = need;
	return 0;
}

static void trans_check_usage(const struct gfs2_trans *tr)
{
	if (tr->tr_nr_pins <= tr->tr_blocks && tr->tr_nr_revokes <= tr->tr_revokes)
		return;
	/* A flush that does not fit any more withdraws instead of running over the tail. */
	fs_warn("log: a transaction used %u blocks and %u revokes, but asked for %u and %u",
		tr->tr_nr_pins, tr->tr_nr_revokes, tr->tr_blocks, tr->tr_revokes);
	gfs2_assert_debug(!"transaction larger than asked for");
}

void gfs2_trans_end(struct gfs2_log *log)
{
	struct gfs2_trans *tr = &gfs2_current_trans;

	GFS2_BUG_ON(tr->tr_log != log);
	trans_check_usage(tr);
	tr->tr_log = NULL;

	rmutex_lock(&log->l_gate);
	log->l_open--;
	log->l_need -= tr->tr_need;
	if (!log->l_open && log->l_closed)
		rcond_signal(&log->l_gate_closer);
	if (!log->l_batch_start_ns && log_open_blocks(log)) {
		/* The commit interval begins. */
		log->l_batch_start_ns = now_ns();
		rcond_signal(&log->l_thread_wait);
	}
	if (!log->l_want_flush && log_nr_pins(log) >= log->l_pin_limit) {
		log->l_want_flush = true;
		rcond_signal(&log->l_thread_wait);
	}
	if (log->l_ticket != log->l_serving)
		rcond_broadcast(&log->l_gate_wait);
	rmutex_unlock(&log->l_gate);
}

bool gfs2_trans_active(void)
{
	return gfs2_current_trans.tr_log != NULL;
}

uint64_t gfs2_trans_batch_seq(struct gfs2_log *log)
{
	return log_batch_seq(log);
}

uint64_t gfs2_log_durable_seq(struct gfs2_log *log)
{
	return log_durable_seq(log);
}

/* --- revokes of the open batch; l_lock held --- */

void log_revoke_add(struct gfs2_log *log, struct log_block *e)
{
	unsigned nr = atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed);

	if (e->rev)
		return;
	log->o_revokes = grow_array(log->o_revokes, nr, &log->o_cap_revokes, sizeof(uint64_t));
	log->o_revokes[nr] = e->blkno;
	e->rev = nr + 1;
	atomic_store_explicit(&log->o_nr_rev, nr + 1, memory_order_relaxed);
	gfs2_current_trans.tr_nr_revokes++;
}

static void revoke_remove(struct gfs2_log *log, struct log_block *e)
{
	unsigned last = atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed) - 1;

	log->o_revokes[e->rev - 1] = log->o_revokes[last];
	blktab_find(&log->l_tab, log->o_revokes[last])->rev = e->rev;
	e->rev = 0;
	atomic_store_explicit(&log->o_nr_rev, last, memory_order_relaxed);
}

void gfs2_trans_remove_revoke(struct gfs2_log *log, uint64_t blkno, uint32_t len)
{
	/* The usual case; nobody else may add a revoke for blocks that are free until now. */
	if (!atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed))
		return;
	rmutex_lock(&log->l_lock);
	for (uint64_t b = blkno; b < blkno + len; b++) {
		struct log_block *e = b ? blktab_find(&log->l_tab, b) : NULL;

		if (e && e->rev) {
			revoke_remove(log, e);
			blktab_gc(&log->l_tab, e);
		}
	}
	rmutex_unlock(&log->l_lock);
}

/* --- pins --- */

static atomic_uint *pin_counter(struct gfs2_log *log, bool jdata)
{
	return jdata ? &log->o_nr_jdata : &log->o_nr_meta;
}

/* False: another open transaction was faster, or it is not @gl's buffer. */
static bool trans_pin(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh, bool jdata)
{
	struct log_block *e;
	unsigned nr;

	rmutex_lock(&log->l_lock);
	/*
	 * From here on no in-place write copies b_data (ail.c looks at this bit and copies under
	 * l_lock), so the caller may change it.
	 */
	if (!buf_pin(&gl->gl_mapping, bh, jdata ? B_JDATA : 0)) {
		rmutex_unlock(&log->l_lock);
		log->l_hooks.used_twice(log->l_hooks.arg, bh->b_blocknr);
		return false;
	}
	nr = log_nr_pins(log);
	e = blktab_get(&log->l_tab, bh->b_blocknr);
	if (e->pin) {
		/* Not another buffer of the same block: what is pinned is in the cache, and so is this one. */
		GFS2_BUG_ON(log->o_pins[e->pin - 1].bh != bh);
		rmutex_unlock(&log->l_lock);
		return false;
	}
	/* In a flush the revokes follow the images: it would kill the new image (reference 8.6). */
	if (e->rev)
		revoke_remove(log, e);
	/* The log has one reference as long as the buffer is pinned or in the AIL. */
	if (!e->ail)
		buf_hold(bh);
	log->o_pins = grow_array(log->o_pins, nr, &log->o_cap_pins, sizeof(struct log_pin));
	log->o_pins[nr] = (struct log_pin){ bh->b_blocknr, bh, gl, jdata };
	e->pin = nr + 1;
	atomic_fetch_add_explicit(pin_counter(log, jdata), 1, memory_order_relaxed);
	rmutex_unlock(&log->l_lock);
	gfs2_current_trans.tr_nr_pins++;
	return true;
}

/*
 * Already pinned?  If so no lock is needed: within a transaction the batch cannot be sealed, and only who
 * has the glock in EX (the caller) frees the block.  If not, somebody else may be about to pin it: a glock that is
 * held once for the whole mount has many users (the statfs record, which has a mutex for its contents).
 */
static bool trans_add(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh, bool jdata)
{
	GFS2_BUG_ON(gfs2_current_trans.tr_log != log);
	if (buf_test(bh, B_PINNED) && likely(buf_is_of(bh, &gl->gl_mapping)))
		return false;
	return trans_pin(log, gl, bh, jdata);
}

void gfs2_trans_add_meta(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh)
{
	struct gfs2_meta_header *mh = (struct gfs2_meta_header *)bh->b_data;

	if (!trans_add(log, gl, bh, false))
		return;
	mh->__pad0 = 0;
	mh->mh_jid = cpu_to_be32(log->l_jd->jd_jid);
}

void gfs2_trans_add_jdata(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh)
{
	trans_add(log, gl, bh, true);
}

/* l_lock: take @e out of the open batch; the buffer stays referenced by the log. */
static struct gfs2_bh *unpin(struct gfs2_log *log, struct log_block *e)
{
	struct log_pin *p = &log->o_pins[e->pin - 1];
	struct log_pin *last = &log->o_pins[log_nr_pins(log) - 1];
	struct gfs2_bh *bh = p->bh;

	atomic_fetch_sub_explicit(pin_counter(log, p->jdata), 1, memory_order_relaxed);
	*p = *last;
	blktab_find(&log->l_tab, p->blkno)->pin = e->pin;
	e->pin = 0;
	buf_clear_state(bh, B_PINNED);
	return bh;
}

/* --- ordered data --- */

void gfs2_ordered_add(struct gfs2_log *log, struct gfs2_mapping *m)
{
	rmutex_lock(&log->l_ordered_lock);
	if (list_empty(&m->m_ordered)) {
		if (list_empty(&log->l_ordered))
			atomic_store_explicit(&log->l_ordered_ns, now_ns(), memory_order_relaxed);
		list_add_tail(&m->m_ordered, &log->l_ordered);
	}
	rmutex_unlock(&log->l_ordered_lock);
}

static void ordered_wait(struct gfs2_log *log)
{
	rmutex_lock(&log->l_ordered_lock);
	while (log->l_ordering_busy)
		rcond_wait(&log->l_ordered_wait, &log->l_ordered_lock);
	rmutex_unlock(&log->l_ordered_lock);
}

void gfs2_ordered_del(struct gfs2_log *log, struct gfs2_mapping *m)
{
	rmutex_lock(&log->l_ordered_lock);
	/* The flush is writing it, or still has to. */
	while (log->l_ordering_busy)
		rcond_wait(&log->l_ordered_wait, &log->l_ordered_lock);
	list_del_init(&m->m_ordered);
	rmutex_unlock(&log->l_ordered_lock);
}

/* --- freeing --- */

/*
 * l_lock: block @e is being freed.  Returns the buffer whose reference the log gives up, or NULL.
 *
 * An image that is not in place loses its buffer, but not its hold on the tail: until the free is
 * committed a crash must find the image.  The batch keeps a hold, given back when this batch is
 * sealed (whose header commits revoke and tail together).
 */
static struct gfs2_bh *wipe_one(struct gfs2_log *log, struct log_block *e)
{
	struct gfs2_bh *bh = NULL;

	if (e->pin) {
		bh = unpin(log, e);
		if (gfs2_current_trans.tr_nr_pins)
			gfs2_current_trans.tr_nr_pins--;
	}
	if (e->ail) {
		struct log_batch *b = log_batch(log, e->seq);

		bh = b->ents[e->ail - 1].bh;
		log_ail_drop(log, e);
		b->nr_hold++;
		log->o_holds = grow_array(log->o_holds, log->o_nr_holds, &log->o_cap_holds,
					  sizeof(uint64_t));
		log->o_holds[log->o_nr_holds++] = b->seq;
		/* Its copy may be on the way: the free is not committed before it has arrived. */
		if (log->l_ail_busy)
			log->o_wait_pass = log->l_ail_passes;
	}
	if (e->seq && !SEEDED_BUG("lost-revoke"))
		log_revoke_add(log, e);
	blktab_gc(&log->l_tab, e);
	return bh;
}

void gfs2_journal_wipe(struct gfs2_log *log, uint64_t bstart, uint32_t blen)
{
	struct gfs2_bh *put[64];
	uint64_t b = bstart, end = bstart + blen, twice;

	GFS2_BUG_ON(gfs2_current_trans.tr_log != log);
	while (b < end) {
		/* Buffers are put without l_lock (lock order), and it is not held for long: in pieces. */
		uint64_t piece = min_t(uint64_t, end, b + 1024);
		unsigned nr = 0;

		rmutex_lock(&log->l_lock);
		for (; b < piece && nr < ARRAY_SIZE(put); b++) {
			struct log_block *e = log->l_tab.nr ? blktab_find(&log->l_tab, b) : NULL;
			struct gfs2_bh *bh = e ? wipe_one(log, e) : NULL;

			if (bh)
				put[nr++] = bh;
		}
		rmutex_unlock(&log->l_lock);
		while (nr)
			buf_put(put[--nr]);
	}
	/*
	 * Data that the batch before this one made reachable must be on the device when that is committed,
	 * although this batch frees them: a crash may come in between.
	 */
	ordered_wait(log);
	twice = buf_forget(log->l_bufs, bstart, blen);
	/* It has been pinned since. */
	if (twice)
		log->l_hooks.used_twice(log->l_hooks.arg, twice);
}

/* --- the end --- */

void log_forget(struct gfs2_log *log)
{
	unsigned nr = log_nr_pins(log);

	/* One thread only: the references may be put at once. */
	for (unsigned i = 0; i < nr; i++) {
		struct gfs2_bh *bh = log->o_pins[i].bh;
		struct log_block *e = blktab_find(&log->l_tab, log->o_pins[i].blkno);

		e->pin = 0;
		buf_clear_state(bh, B_PINNED);
		if (!e->ail)
			buf_put(bh);
	}
	for (uint64_t s = log->l_ring_first; s < log_batch_seq(log); s++) {
		struct log_batch *b = log_batch(log, s);

		for (unsigned i = 0; i < b->nr; i++) {
			struct gfs2_bh *bh = b->ents[i].bh;

			if (!bh)
				continue;
			atomic_fetch_sub_explicit(&b->ents[i].gl->gl_ail_count, 1, memory_order_relaxed);
			buf_clear_state(bh, B_AIL);
			buf_put(bh);
		}
		free(b->ents);
		free(b);
	}
	log->l_ring_first = log_batch_seq(log);
	atomic_store_explicit(&log->l_nr_ail, 0, memory_order_relaxed);
	atomic_store_explicit(&log->o_nr_jdata, 0, memory_order_relaxed);
	atomic_store_explicit(&log->o_nr_meta, 0, memory_order_relaxed);
	atomic_store_explicit(&log->o_nr_rev, 0, memory_order_relaxed);
	log->o_nr_holds = 0;
	blktab_free(&log->l_tab);
	blktab_init(&log->l_tab);
}
