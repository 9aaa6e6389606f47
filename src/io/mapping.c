/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mappings: the buffers of one glock or one inode; reading, write-back, invalidation.
 *
 * Write-back of data.  mapping_write() takes dirty buffers that nobody is writing, in batches: B_DIRTY becomes
 * B_WRITEBACK under m_lock.  A buffer that is changed while it is being written becomes dirty again and stays on
 * m_dirty; it is not taken before its first write has ended, so the device never gets two versions at
 * once and the newer one last.  Every buffer remembers the number of the change that made it dirty; a call
 * writes what is not newer than the call, so it ends even when others keep writing.
 *
 * A transfer that fails leaves its buffers clean and its error with the mapping.
 */
#include "io/cache.h"

#include <limits.h>

#define BATCH_BLOCKS 1024
#define RUN_BYTES (1u << 20)
#define RUN_IOVS 256
#define RUNS 64			/* requests sent at once */

void mapping_init(struct gfs2_mapping *m, struct buf_cache *c, void *owner, bool is_data)
{
	memset(m, 0, sizeof(*m));
	m->m_cache = c;
	m->m_owner = owner;
	m->m_is_data = is_data;
	rmutex_init(&m->m_lock, RANK_MAPPING);
	rcond_init(&m->m_wait);
	list_init(&m->m_bufs);
	list_init(&m->m_dirty);
	list_init(&m->m_batches);
	list_init(&m->m_ordered);
}

void mapping_destroy(struct gfs2_mapping *m)
{
	/* Eviction may have taken the last buffer and be about to release the lock. */
	rmutex_lock(&m->m_lock);
	GFS2_BUG_ON(!list_empty(&m->m_bufs) || !list_empty(&m->m_batches));
	rmutex_unlock(&m->m_lock);
	rmutex_destroy(&m->m_lock);
	rcond_destroy(&m->m_wait);
}

static enum io_class mapping_class(const struct gfs2_mapping *m)
{
	return m->m_is_data ? IO_DATA : IO_META;
}

/* --- transfers of many --- */

static int vec_cmp(const void *a, const void *b)
{
	uint64_t x = ((const struct buf_vec *)a)->bh->b_blocknr;
	uint64_t y = ((const struct buf_vec *)b)->bh->b_blocknr;

	return x < y ? -1 : x > y;
}

void buf_vec_sort(struct buf_vec *v, unsigned nr)
{
	for (unsigned i = 1; i < nr; i++)
		if (v[i - 1].bh->b_blocknr > v[i].bh->b_blocknr) {
			qsort(v, nr, sizeof(*v), vec_cmp);
			return;
		}
}

/* How many buffers from v[0] on make one request; fills in @req. */
static unsigned vec_run(struct buf_cache *c, enum io_op op, enum io_class cls,
			const struct buf_vec *v, unsigned nr, struct iovec *iov, struct io_req *req)
{
	unsigned n = 1, nr_iov = 1;

	io_req_init(req, op, cls, NULL, 0, v[0].bh->b_blocknr * c->c_bsize);
	iov[0] = (struct iovec){ v[0].mem, c->c_bsize };
	while (n < nr && (n + 1) * c->c_bsize <= RUN_BYTES &&
	       v[n].bh->b_blocknr == v[n - 1].bh->b_blocknr + 1) {
		struct iovec *last = &iov[nr_iov - 1];

		if ((char *)last->iov_base + last->iov_len == v[n].mem) {
			last->iov_len += c->c_bsize;
		} else {
			if (nr_iov == RUN_IOVS)
				break;
			iov[nr_iov++] = (struct iovec){ v[n].mem, c->c_bsize };
		}
		n++;
	}
	req->iov = iov;
	req->nr_iov = nr_iov;
	return n;
}

int buf_transfer(struct buf_cache *c, enum io_op op, enum io_class cls, struct buf_vec *v,
		 unsigned nr)
{
	struct iovec *iov = xmalloc(nr * sizeof(*iov));
	struct io_req reqs[RUNS];
	unsigned len[RUNS], next = 0;
	int error = 0;

	while (next < nr) {
		unsigned nr_reqs = 0, done = next;

		/* A run needs no more vectors than it has blocks: they never run out. */
		for (; next < nr && nr_reqs < RUNS; nr_reqs++) {
			len[nr_reqs] = vec_run(c, op, cls, v + next, nr - next, iov + next,
					       &reqs[nr_reqs]);
			next += len[nr_reqs];
		}
		io_run(c->c_engine, reqs, nr_reqs);
		for (unsigned i = 0; i < nr_reqs; i++) {
			if (reqs[i].res && !error)
				error = reqs[i].res;
			while (len[i]--)
				v[done++].error = reqs[i].res;
		}
	}
	free(iov);
	return error;
}

/* --- reading --- */

/* The right and the duty to read the buffer; false: it is up to date, or somebody else is reading it. */
static bool claim_read(struct gfs2_bh *bh)
{
	unsigned old;

	if (buf_test(bh, B_UPTODATE))
		return false;
	old = atomic_fetch_or_explicit(&bh->b_state, B_READING, memory_order_acq_rel);
	if (old & B_READING)
		return false;
	if (!(old & B_UPTODATE))
		return true;
	buf_end_state(bh, B_READING);
	return false;
}

static void end_read(struct gfs2_bh *bh, int error)
{
	if (!error)
		buf_set_uptodate(bh);
	buf_end_state(bh, B_READING);
}

int buf_read(struct gfs2_mapping *m, uint64_t blkno, struct gfs2_bh **out)
{
	struct buf_cache *c = m->m_cache;
	struct gfs2_bh *bh;
	int error = 0;

	if (blkno >= c->c_dev_blocks)
		return -EINVAL;
	bh = buf_get(m, blkno);
	/* Who waited for a read that failed tries for itself. */
	while (!buf_test(bh, B_UPTODATE) && !error) {
		if (claim_read(bh)) {
			error = io_read(c->c_engine, mapping_class(m), bh->b_data, c->c_bsize,
					blkno * c->c_bsize);
			end_read(bh, error);
		} else {
			buf_wait_state(bh, B_READING);
		}
	}
	if (error) {
		buf_put(bh);
		return error;
	}
	*out = bh;
	return 0;
}

void buf_readahead(struct gfs2_mapping *m, const uint64_t *blkno, unsigned nr)
{
	struct buf_cache *c = m->m_cache;
	uint64_t room = atomic_load_explicit(&c->c_limit, memory_order_relaxed) / 4;
	struct buf_vec *v;
	unsigned n = 0;

	/* Reading ahead must not push out what is needed now. */
	nr = min_t(uint64_t, min_t(uint64_t, nr, room), BATCH_BLOCKS);
	if (!nr)
		return;
	v = xmalloc(nr * sizeof(*v));
	for (unsigned i = 0; i < nr; i++) {
		struct gfs2_bh *bh;

		if (blkno[i] >= c->c_dev_blocks)
			continue;
		bh = buf_get(m, blkno[i]);
		if (claim_read(bh))
			v[n++] = (struct buf_vec){ bh, bh->b_data, 0 };
		else
			buf_put(bh);
	}
	if (n) {
		buf_vec_sort(v, n);
		buf_transfer(c, IO_READ, mapping_class(m), v, n);
	}
	for (unsigned i = 0; i < n; i++) {
		end_read(v[i].bh, v[i].error);
		buf_put(v[i].bh);
	}
	free(v);
}

/* --- write-back of data --- */

bool buf_mark_dirty(struct gfs2_mapping *m, struct gfs2_bh *bh)
{
	gfs2_assert_debug(m->m_is_data);
	rmutex_lock(&m->m_lock);
	/* @m's lock keeps it @m's, if it is. */
	if (!buf_is_of(bh, m)) {
		rmutex_unlock(&m->m_lock);
		return false;
	}
	buf_set_state(bh, B_UPTODATE | B_DIRTY);
	if (list_empty(&bh->b_dirty_list)) {
		bh->b_dirty_seq = ++m->m_dirty_seq;
		list_add_tail(&bh->b_dirty_list, &m->m_dirty);
		m->m_nr_dirty++;
		atomic_fetch_add_explicit(&bh->b_cache->c_dirty, 1, memory_order_relaxed);
	}
	rmutex_unlock(&m->m_lock);
	return true;
}

/* One batch under way; on m_batches, under m_lock. */
struct wb_batch {
	struct list_head list;
	uint64_t min_seq;
	unsigned nr, max;
	int error;		/* mapping_write_many() */
	struct buf_vec *v;
};

/* m_lock held: take what is dirty, not newer than @target, and not being written. */
static void batch_collect(struct gfs2_mapping *m, struct wb_batch *b, uint64_t target)
{
	struct gfs2_bh *bh, *tmp;

	b->nr = 0;
	list_for_each_entry_safe(bh, tmp, &m->m_dirty, b_dirty_list) {
		unsigned old;

		if (bh->b_dirty_seq > target || b->nr == b->max)
			break;
		if (buf_test(bh, B_PINNED))
			continue;
		old = atomic_fetch_or_explicit(&bh->b_state, B_WRITEBACK, memory_order_acq_rel);
		if (old & B_WRITEBACK)
			continue;
		if (!b->nr)
			b->min_seq = bh->b_dirty_seq;
		buf_hold(bh);
		buf_undirty(bh);
		b->v[b->nr++] = (struct buf_vec){ bh, bh->b_data, 0 };
	}
	if (!b->nr)
		return;
	m->m_nr_writeback += b->nr;
	list_add_tail(&b->list, &m->m_batches);
}

/* m_lock held: the buffer is clean; drop it if nobody wants it. Puts the batch's reference. */
static void end_write(struct gfs2_bh *bh)
{
	struct buf_shard *s = buf_shard(bh->b_cache, bh->b_blocknr);
	bool drop = false;

	buf_end_state(bh, B_WRITEBACK);
	/* bh->b_map: forgetting waits for the write, and so does invalidation. */
	if (!buf_test(bh, B_KEEP | B_PARTIAL)) {
		rmutex_lock(&s->s_lock);
		/* The cache's and ours: with both locks held nobody can add one. */
		drop = atomic_load_explicit(&bh->b_count, memory_order_acquire) == 2 &&
		       !buf_test(bh, B_KEEP | B_PARTIAL | B_DEAD);
		if (drop)
			buf_remove(s, bh);
		rmutex_unlock(&s->s_lock);
	}
	if (drop)
		buf_put(bh);
	buf_put(bh);
}

/* m_lock held */
static void batch_end(struct gfs2_mapping *m, struct wb_batch *b, int error)
{
	if (error) {
		m->m_nr_errors++;
		atomic_fetch_add_explicit(&m->m_cache->c_write_errors, 1, memory_order_relaxed);
		if (!m->m_error)
			m->m_error = error;
	}
	for (unsigned i = 0; i < b->nr; i++)
		end_write(b->v[i].bh);
	m->m_nr_writeback -= b->nr;
	list_del_init(&b->list);
	rcond_broadcast(&m->m_wait);
}

/* m_lock held: a dirty buffer not newer than @target that could not be taken, +1 reference. */
static struct gfs2_bh *find_busy(struct gfs2_mapping *m, uint64_t target)
{
	struct gfs2_bh *bh;

	list_for_each_entry(bh, &m->m_dirty, b_dirty_list) {
		if (bh->b_dirty_seq > target)
			break;
		if (!buf_test(bh, B_PINNED))
			return buf_hold(bh);
	}
	return NULL;
}

/* m_lock held, given up while waiting: true if there was something to wait for. */
static bool wait_for_others(struct gfs2_mapping *m, uint64_t target)
{
	struct gfs2_bh *bh = find_busy(m, target);
	struct wb_batch *b;

	if (bh) {
		rmutex_unlock(&m->m_lock);
		buf_wait_state(bh, B_WRITEBACK);
		buf_put(bh);
		rmutex_lock(&m->m_lock);
		return true;
	}
	list_for_each_entry(b, &m->m_batches, list)
		if (b->min_seq <= target) {
			rcond_wait(&m->m_wait, &m->m_lock);
			return true;
		}
	return false;
}

bool mapping_dirty(struct gfs2_mapping *m)
{
	bool dirty;

	rmutex_lock(&m->m_lock);
	dirty = m->m_nr_dirty;
	rmutex_unlock(&m->m_lock);
	return dirty;
}

uint64_t mapping_errors(struct gfs2_mapping *m)
{
	uint64_t nr;

	rmutex_lock(&m->m_lock);
	nr = m->m_nr_errors;
	rmutex_unlock(&m->m_lock);
	return nr;
}

int mapping_failed_since(struct gfs2_mapping *m, uint64_t errors)
{
	return mapping_errors(m) == errors ? 0 : -EIO;
}

/*
 * Who waits for the data is told; but nobody may be waiting, or ever ask (fsync): data that are lost are told to the log, too.
 * m_lock not held; @v: sorted, as buf_transfer() has left it
 */
static void say_lost(const struct buf_vec *v, unsigned nr)
{
	unsigned first = nr, lost = 0;

	for (unsigned i = nr; i--;)
		if (v[i].error) {
			first = i;
			lost++;
		}
	if (lost)
		fs_err_limited("cannot write block %" PRIu64 " (%u of file data in all): %s; what was written there is lost",
			       v[first].bh->b_blocknr, lost, strerror(-v[first].error));
}

int mapping_write(struct gfs2_mapping *m)
{
	struct wb_batch b = { .max = 0 };
	uint64_t target, errors;
	int error = 0;

	rmutex_lock(&m->m_lock);
	target = m->m_dirty_seq;
	errors = m->m_nr_errors;
	for (;;) {
		int e;

		if (!b.v && m->m_nr_dirty) {
			b.max = min_t(unsigned, m->m_nr_dirty, BATCH_BLOCKS);
			b.v = xmalloc(b.max * sizeof(*b.v));
		}
		b.nr = 0;
		if (b.v)
			batch_collect(m, &b, target);
		if (!b.nr) {
			if (wait_for_others(m, target))
				continue;
			break;
		}
		rmutex_unlock(&m->m_lock);
		buf_vec_sort(b.v, b.nr);
		e = buf_transfer(m->m_cache, IO_WRITE, mapping_class(m), b.v, b.nr);
		if (e)
			say_lost(b.v, b.nr);
		if (!error)
			error = e;
		rmutex_lock(&m->m_lock);
		batch_end(m, &b, e);
	}
	/* A batch of somebody else's that we waited for. */
	if (!error && m->m_nr_errors != errors)
		error = m->m_error ? m->m_error : -EIO;
	rmutex_unlock(&m->m_lock);
	free(b.v);
	return error;
}

/* m_lock not held.  What failed is remembered with its mapping. */
static void write_together(struct wb_batch *b, struct gfs2_mapping **maps, unsigned nr, struct buf_vec *all, unsigned nr_all)
{
	int error;

	buf_vec_sort(all, nr_all);
	error = buf_transfer(maps[0]->m_cache, IO_WRITE, IO_DATA, all, nr_all);
	if (error)
		say_lost(all, nr_all);
	/* Before the first batch ends, and with it its buffers.  b_map: what is being written is not forgotten. */
	for (unsigned i = 0; error && i < nr; i++)
		for (unsigned k = 0; !b[i].error && k < nr_all; k++)
			if (all[k].bh->b_map == maps[i])
				b[i].error = all[k].error;
	for (unsigned i = 0; i < nr; i++) {
		if (!b[i].nr)
			continue;
		rmutex_lock(&maps[i]->m_lock);
		batch_end(maps[i], &b[i], b[i].error);
		rmutex_unlock(&maps[i]->m_lock);
	}
}

void mapping_write_many(struct gfs2_mapping **maps, unsigned nr)
{
	struct wb_batch *b = xmalloc(nr * sizeof(*b));
	struct buf_vec *v = xmalloc(2 * BATCH_BLOCKS * sizeof(*v)), *all = v + BATCH_BLOCKS;

	for (unsigned first = 0, end; first < nr; first = end) {
		unsigned n = 0;

		for (end = first; end < nr && n < BATCH_BLOCKS; end++) {
			struct gfs2_mapping *m = maps[end];

			b[end] = (struct wb_batch){ .v = v + n, .max = BATCH_BLOCKS - n };
			rmutex_lock(&m->m_lock);
			batch_collect(m, &b[end], m->m_dirty_seq);
			rmutex_unlock(&m->m_lock);
			n += b[end].nr;
		}
		if (!n)
			continue;
		memcpy(all, v, n * sizeof(*v));
		write_together(b + first, maps + first, end - first, all, n);
	}
	free(v);
	free(b);
	/* What did not fit, and what others are writing. */
	for (unsigned i = 0; i < nr; i++)
		mapping_write(maps[i]);
}

uint64_t buf_cache_write_errors(const struct buf_cache *c)
{
	return atomic_load_explicit(&c->c_write_errors, memory_order_relaxed);
}

int mapping_sync(struct gfs2_mapping *m)
{
	int error = mapping_write(m);

	rmutex_lock(&m->m_lock);
	if (m->m_error)
		error = m->m_error;
	m->m_error = 0;
	rmutex_unlock(&m->m_lock);
	return error;
}

/* --- invalidation --- */

/* m_lock held. Returns false if it had to be given up to wait for a write: start again. */
static bool drop_one(struct gfs2_mapping *m, struct gfs2_bh *bh)
{
	struct buf_shard *s = buf_shard(bh->b_cache, bh->b_blocknr);

	if (buf_test(bh, B_WRITEBACK)) {
		buf_hold(bh);
		rmutex_unlock(&m->m_lock);
		buf_wait_state(bh, B_WRITEBACK);
		buf_put(bh);
		rmutex_lock(&m->m_lock);
		return false;
	}
	rmutex_lock(&s->s_lock);
	buf_remove(s, bh);
	rmutex_unlock(&s->s_lock);
	buf_put(bh);
	return true;
}

void mapping_invalidate(struct gfs2_mapping *m)
{
	struct gfs2_bh *bh, *tmp;
	bool again;

	rmutex_lock(&m->m_lock);
	do {
		again = false;
		list_for_each_entry_safe(bh, tmp, &m->m_bufs, b_map_list) {
			if (buf_test(bh, B_PINNED | B_AIL))
				continue;
			GFS2_BUG_ON(buf_test(bh, B_DIRTY));
			if (!drop_one(m, bh)) {
				again = true;
				break;
			}
		}
	} while (again);
	rmutex_unlock(&m->m_lock);
}

/* --- in-place images of the log --- */

static int write_images(struct buf_cache *c, struct buf_vec *v, unsigned nr)
{
	int error;

	/* In block order, so that two callers cannot wait for each other. */
	for (unsigned i = 0; i < nr; i++) {
		buf_hold(v[i].bh);
		while (atomic_fetch_or_explicit(&v[i].bh->b_state, B_WRITEBACK,
						memory_order_acq_rel) & B_WRITEBACK)
			buf_wait_state(v[i].bh, B_WRITEBACK);
	}
	error = buf_transfer(c, IO_WRITE, IO_META, v, nr);
	for (unsigned i = 0; i < nr; i++) {
		buf_end_state(v[i].bh, B_WRITEBACK);
		buf_put(v[i].bh);
	}
	return error;
}

int buf_write_images(struct buf_cache *c, struct gfs2_bh **bhs, char **images, unsigned nr)
{
	struct buf_vec *v;
	int error = 0;

	if (!nr)
		return 0;
	v = xmalloc(nr * sizeof(*v));
	for (unsigned i = 0; i < nr; i++)
		v[i] = (struct buf_vec){ bhs[i], images && images[i] ? images[i] : bhs[i]->b_data, 0 };
	buf_vec_sort(v, nr);
	/* The second of two equal ones would wait for the first for ever. */
	for (unsigned i = 1; i < nr; i++)
		GFS2_BUG_ON(v[i].bh == v[i - 1].bh);
	for (unsigned i = 0; i < nr; i += BATCH_BLOCKS) {
		int e = write_images(c, v + i, min_t(unsigned, nr - i, BATCH_BLOCKS));

		if (!error)
			error = e;
	}
	free(v);
	return error;
}
