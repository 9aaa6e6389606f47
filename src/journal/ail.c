/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The AIL: blocks whose newest committed image is in the log only, and their way home.
 *
 * A pass takes up to AIL_PASS_BLOCKS of them, copies their contents under l_lock, writes the copies in
 * place, and then ends the obligations of those that have no newer image in the log by now.
 *
 * Guarantees
 *  - Only committed contents go in place: a buffer is copied if it is in the AIL of a committed batch
 *    and not pinned, and pinning takes l_lock, so that nobody changes b_data during the copy.
 *  - A later change of the buffer cannot tear what is being written: the copy is.
 *  - One pass at a time: two writes of one block never overtake each other.
 */
#include "journal/log_internal.h"

struct ail_item {
	uint64_t blkno;
	struct gfs2_bh *bh;
	char *image;
	uint64_t seq;	/* batch and index + 1 of the entry when it was copied */
	uint32_t ail;
};

void log_ail_drop(struct gfs2_log *log, struct log_block *e)
{
	struct log_batch *b = log_batch(log, e->seq);
	struct log_pin *p = &b->ents[e->ail - 1];

	buf_clear_state(p->bh, B_AIL);
	/* Release, with the acquire in gfs2_ail_empty_gl(): who sees 0 may free the glock, we have done with it. */
	atomic_fetch_sub_explicit(&p->gl->gl_ail_count, 1, memory_order_release);
	p->bh = NULL;
	b->nr_ail--;
	atomic_fetch_sub_explicit(&log->l_nr_ail, 1, memory_order_relaxed);
	e->ail = 0;
}

static int cmp_items(const void *pa, const void *pb)
{
	const struct ail_item *a = pa, *b = pb;

	return a->blkno < b->blkno ? -1 : a->blkno > b->blkno;
}

/* l_lock: copy entry @i of batch @b if it may be written now. */
static bool collect_one(struct gfs2_log *log, struct log_batch *b, unsigned i,
			struct gfs2_glock *gl, struct ail_item *it, char *image)
{
	struct log_pin *p = &b->ents[i];

	if (!p->bh || (gl && p->gl != gl) || buf_test(p->bh, B_PINNED))
		return false;
	it->blkno = p->blkno;
	it->bh = buf_hold(p->bh);
	it->image = image;
	it->seq = b->seq;
	it->ail = i + 1;
	memcpy(image, p->bh->b_data, log->l_bsize);
	return true;
}

/*
 * Called and returns with l_lock, which is dropped now and then, so that transactions need not wait
 * long.  Meanwhile entries may go away (item_done() sees that) and batches may be retired.
 */
static unsigned collect(struct gfs2_log *log, struct gfs2_glock *gl, uint64_t upto,
			struct ail_item *items)
{
	uint64_t s = log->l_ring_first;
	unsigned i = 0, nr = 0;

	upto = min_t(uint64_t, upto, log_durable_seq(log));
	while (s <= upto && nr < AIL_PASS_BLOCKS) {
		struct log_batch *b = log_batch(log, s);

		if (i == b->nr || !b->nr_ail) {
			s++;
			i = 0;
			continue;
		}
		if (!collect_one(log, b, i++, gl, &items[nr], log->l_ail_mem + (size_t)nr * log->l_bsize))
			continue;
		if (++nr % AIL_COPIES_AT_ONCE)
			continue;
		rmutex_unlock(&log->l_lock);
		rmutex_lock(&log->l_lock);
		if (s < log->l_ring_first) {
			s = log->l_ring_first;
			i = 0;
		}
	}
	return nr;
}

static int write_items(struct gfs2_log *log, struct ail_item *items, unsigned nr)
{
	struct gfs2_bh *bhs[AIL_PASS_BLOCKS];
	char *images[AIL_PASS_BLOCKS];

	qsort(items, nr, sizeof(*items), cmp_items);
	for (unsigned i = 0; i < nr; i++) {
		bhs[i] = items[i].bh;
		images[i] = items[i].image;
	}
	return buf_write_images(log->l_bufs, bhs, images, nr);
}

/* l_lock: @it is in place.  True: the log's reference to the buffer is to be put. */
static bool item_done(struct gfs2_log *log, struct ail_item *it)
{
	struct log_block *e = blktab_find(&log->l_tab, it->blkno);

	/* A newer image took the obligation over, or the block was freed. */
	if (!e || e->seq != it->seq || e->ail != it->ail)
		return false;
	log_ail_drop(log, e);
	return !e->pin;
}

/* Number of blocks written, or -EIO. */
static int ail_pass(struct gfs2_log *log, struct gfs2_glock *gl, uint64_t upto, struct ail_item *items)
{
	bool put[AIL_PASS_BLOCKS] = { false };
	unsigned nr;
	int rc = 0;

	rmutex_lock(&log->l_lock);
	while (log->l_ail_busy)
		rcond_wait(&log->l_ail_wait, &log->l_lock);
	/* Before the first copy: a free that follows it waits for this pass. */
	log->l_ail_busy = true;
	log->l_ail_passes++;
	nr = collect(log, gl, upto, items);
	rmutex_unlock(&log->l_lock);

	rc = log_error(log) ? -EIO : nr ? write_items(log, items, nr) : 0;
	if (rc)
		log_set_error(log, rc, "writing metadata in place");

	rmutex_lock(&log->l_lock);
	for (unsigned i = 0; i < nr && !rc; i++)
		put[i] = item_done(log, &items[i]);
	log->l_ail_busy = false;
	rcond_broadcast(&log->l_ail_wait);
	rmutex_unlock(&log->l_lock);

	for (unsigned i = 0; i < nr; i++) {
		buf_put(items[i].bh);
		if (put[i])
			buf_put(items[i].bh);
	}
	atomic_fetch_add_explicit(&log->s_ail_written, rc ? 0 : nr, memory_order_relaxed);
	rmutex_lock(&log->l_gate);
	if (!log_ail_full(log))
		rcond_broadcast(&log->l_gate_wait);
	rmutex_unlock(&log->l_gate);
	return rc ? -EIO : (int)nr;
}

int log_ail_write(struct gfs2_log *log, struct gfs2_glock *gl, uint64_t upto)
{
	struct ail_item *items = xmalloc(AIL_PASS_BLOCKS * sizeof(*items));
	int n;

	do
		n = ail_pass(log, gl, upto, items);
	while (n > 0);
	free(items);
	return n;
}

/* --- a glock is given up --- */

/* The batch that must be durable before @gl's blocks can be in place; 0: none. */
static uint64_t glock_batch(struct gfs2_log *log, struct gfs2_glock *gl)
{
	uint64_t open, seq = 0;

	rmutex_lock(&log->l_lock);
	open = log_batch_seq(log);
	for (unsigned i = 0, nr = log_nr_pins(log); i < nr && !seq; i++)
		if (log->o_pins[i].gl == gl)
			seq = open;
	/* The newest batch may be on its way into the log. */
	if (!seq && open - 1 > log_durable_seq(log) &&
	    atomic_load_explicit(&gl->gl_ail_count, memory_order_relaxed))
		seq = open - 1;
	rmutex_unlock(&log->l_lock);
	return seq;
}

/* Log blocks of @gl that have a (superfluous) image in the active region; *@nr of them. */
static uint64_t *glock_images(struct gfs2_log *log, struct gfs2_glock *gl, unsigned *nr)
{
	uint64_t *blocks = NULL, key = glock_key(gl);
	unsigned cap = 0;

	*nr = 0;
	rmutex_lock(&log->l_lock);
	for (unsigned i = 0; i < 1u << log->l_tab.bits; i++) {
		const struct log_block *e = &log->l_tab.slots[i];

		if (!e->blkno || !e->seq || e->glkey != key || e->pin || e->ail || e->rev)
			continue;
		blocks = grow_array(blocks, *nr, &cap, sizeof(*blocks));
		blocks[(*nr)++] = e->blkno;
	}
	rmutex_unlock(&log->l_lock);
	return blocks;
}

/*
 * Their contents are in place and another node may change them now: a replay of our journal must
 * not bring the old ones back (reference 8.6).  The flush makes the places durable before the revokes.
 */
static int revoke_images(struct gfs2_log *log, struct gfs2_glock *gl)
{
	unsigned nr;
	uint64_t *blocks = glock_images(log, gl, &nr);
	int rc = 0;

	if (!nr)
		return 0;
	rc = gfs2_trans_begin(log, 0, nr);
	if (rc)
		goto out;
	rmutex_lock(&log->l_lock);
	for (unsigned i = 0; i < nr; i++) {
		struct log_block *e = blktab_find(&log->l_tab, blocks[i]);

		/* The tail may have passed it meanwhile. */
		if (e && e->seq && !e->pin && !e->ail)
			log_revoke_add(log, e);
	}
	rmutex_unlock(&log->l_lock);
	atomic_fetch_add_explicit(&gl->gl_revokes, (int)nr, memory_order_relaxed);
	gfs2_trans_end(log);
	rc = gfs2_log_flush(log, GFS2_LOG_HEAD_FLUSH_NORMAL | GFS2_LFC_AIL_EMPTY_GL);
	atomic_fetch_sub_explicit(&gl->gl_revokes, (int)nr, memory_order_relaxed);
out:
	free(blocks);
	return rc;
}

/*
 * Nothing of @gl's could be written in place: on a damaged volume a block belongs to somebody else, too, who has it in the open batch.  With that
 * it becomes his alone.
 */
static int hand_on(struct gfs2_log *log, struct gfs2_glock *gl, int count)
{
	int rc = gfs2_log_flush(log, GFS2_LOG_HEAD_FLUSH_NORMAL | GFS2_LFC_AIL_EMPTY_GL);

	if (rc || atomic_load_explicit(&gl->gl_ail_count, memory_order_acquire) < count)
		return rc;
	log_set_error(log, -EIO, "looking for the blocks of a lock");
	log_tell_error(log);
	return -EIO;
}

int gfs2_ail_empty_gl(struct gfs2_log *log, struct gfs2_glock *gl, bool revoke)
{
	uint64_t seq;
	int rc, count;

	for (;;) {
		if (log_error(log))
			return -EIO;
		seq = glock_batch(log, gl);
		if (seq) {
			rc = gfs2_log_flush_seq(log, seq, GFS2_LOG_HEAD_FLUSH_NORMAL |
							  GFS2_LFC_AIL_EMPTY_GL);
			if (rc)
				return rc;
		}
		count = atomic_load_explicit(&gl->gl_ail_count, memory_order_acquire);
		if (!count)
			break;
		rc = log_ail_write(log, gl, UINT64_MAX);
		log_tell_error(log);
		if (!rc && atomic_load_explicit(&gl->gl_ail_count, memory_order_acquire) >= count)
			rc = hand_on(log, gl, count);
		if (rc)
			return rc;
	}
	return revoke ? revoke_images(log, gl) : 0;
}

/* --- everything --- */

static bool outstanding(struct gfs2_log *log, uint64_t upto)
{
	bool yes = false;

	rmutex_lock(&log->l_lock);
	for (uint64_t s = log->l_ring_first; s <= upto && s < log_batch_seq(log) && !yes; s++)
		yes = log_batch(log, s)->nr_ail || log_batch(log, s)->nr_hold;
	rmutex_unlock(&log->l_lock);
	return yes;
}

int gfs2_ail_flush(struct gfs2_log *log)
{
	uint32_t flags = GFS2_LOG_HEAD_FLUSH_SYNC | GFS2_LFC_AIL_FLUSH;
	uint64_t upto;
	int rc = gfs2_log_flush(log, flags);

	upto = log_durable_seq(log);
	while (!rc) {
		rc = log_ail_write(log, NULL, upto);
		if (rc || !outstanding(log, upto))
			break;
		/* What is left is pinned or freed by the open batch, which takes it over. */
		rc = gfs2_log_flush(log, flags);
	}
	log_tell_error(log);
	if (!rc)
		rc = log_flush(log, 0, flags, LOG_FLUSH_TAIL);
	return rc;
}
