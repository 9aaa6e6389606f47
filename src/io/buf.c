/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The buffer cache: memory, hash, references, states.  Eviction and forgetting: evict.c; mappings
 * and write-back: mapping.c.  See buf.h for what it guarantees and cache.h for the locking.
 *
 * Life of a buffer
 *   free list -> bh_alloc() -> insert() by buf_get() -> ... -> buf_remove() by eviction, buf_forget(),
 *   mapping_invalidate() or the end of a write-back -> last buf_put() -> free list
 */
#include "io/cache.h"

#include <sched.h>
#include <sys/mman.h>

#define CHUNK_BYTES (1u << 20)
#define MAX_SHARDS 64
#define BLOCKS_PER_SHARD 64

/* --- memory --- */

/* Memory for some more buffers, no lock is held; NULL: there is none. */
static struct buf_chunk *chunk_new(const struct buf_cache *c)
{
	unsigned nr = CHUNK_BYTES / c->c_bsize;
	struct buf_chunk *chunk = calloc(1, sizeof(*chunk) + nr * sizeof(struct gfs2_bh));

	if (!chunk)
		return NULL;
	chunk->data = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (chunk->data == MAP_FAILED) {
		free(chunk);
		return NULL;
	}
	return chunk;
}

/* The free lock is held. */
static void chunk_add(struct buf_cache *c, struct buf_chunk *chunk)
{
	for (unsigned i = 0; i < CHUNK_BYTES / c->c_bsize; i++) {
		struct gfs2_bh *bh = &chunk->bhs[i];

		bh->b_data = chunk->data + (size_t)i * c->c_bsize;
		bh->b_free = bh->b_released = true;
		list_add_tail(&bh->b_lru, &c->c_free);
	}
	chunk->next = c->c_chunks;
	c->c_chunks = chunk;
}

/* One of those that are free, or NULL. */
static struct gfs2_bh *bh_take(struct buf_cache *c)
{
	struct gfs2_bh *bh = NULL;

	rmutex_lock(&c->c_free_lock);
	if (!list_empty(&c->c_free)) {
		bh = list_first_entry(&c->c_free, struct gfs2_bh, b_lru);
		list_del_init(&bh->b_lru);
		if (bh->b_released)
			c->c_resident++;
		bh->b_free = bh->b_released = false;
	}
	rmutex_unlock(&c->c_free_lock);
	return bh;
}

static struct gfs2_bh *bh_memory(struct buf_cache *c)
{
	struct buf_chunk *chunk;
	struct gfs2_bh *bh;

	if (EXACT_ALLOC) {
		bh = xzalloc(sizeof(*bh));
		bh->b_data = xaligned_alloc(min_t(size_t, c->c_bsize, 4096), c->c_bsize);
		return bh;
	}
	/* Without memory somebody else's buffer will do; those who give theirs back need the lock. */
	for (unsigned i = 0; !(bh = bh_take(c)); i++) {
		chunk = chunk_new(c);
		if (!chunk) {
			memory_wait(CHUNK_BYTES, i);
			continue;
		}
		rmutex_lock(&c->c_free_lock);
		chunk_add(c, chunk);
		rmutex_unlock(&c->c_free_lock);
	}
	return bh;
}

/* The free lock is held. */
static bool over_limit(const struct buf_cache *c)
{
	return c->c_resident > atomic_load_explicit(&c->c_limit, memory_order_relaxed);
}

/*
 * The free lock is held.  With more memory than the limit allows the page that @bh is in goes back to the system, as soon as all buffers in it
 * are free.
 */
static void page_release(struct buf_cache *c, struct gfs2_bh *bh)
{
	unsigned size = max_t(unsigned, c->c_bsize, 4096), resident = 0;
	struct gfs2_bh *first = bh - (uintptr_t)bh->b_data % size / c->c_bsize;

	if (!over_limit(c))
		return;
	for (unsigned i = 0; i < size / c->c_bsize; i++) {
		if (!first[i].b_free)
			return;
		resident += !first[i].b_released;
	}
	if (!resident || madvise(first->b_data, size, MADV_DONTNEED))
		return;
	for (unsigned i = 0; i < size / c->c_bsize; i++) {
		first[i].b_released = true;
		list_move_tail(&first[i].b_lru, &c->c_free);
	}
	c->c_resident -= resident;
}

static void bh_free(struct gfs2_bh *bh)
{
	struct buf_cache *c = bh->b_cache;

	atomic_fetch_sub_explicit(&c->c_used, 1, memory_order_relaxed);
	if (EXACT_ALLOC) {
		free(bh->b_data);
		free(bh);
		return;
	}
	rmutex_lock(&c->c_free_lock);
	bh->b_free = true;
	list_add(&bh->b_lru, &c->c_free);
	page_release(c, bh);
	rmutex_unlock(&c->c_free_lock);
}

void buf_release_free(struct buf_cache *c)
{
	struct buf_chunk *chunk;

	rmutex_lock(&c->c_free_lock);
	/* Chunks stay, and new ones come first.  Mostly there is nothing to do. */
	for (chunk = c->c_chunks; chunk && over_limit(c); chunk = chunk->next) {
		for (unsigned i = 0; i < CHUNK_BYTES / c->c_bsize; i += max_t(unsigned, 4096 / c->c_bsize, 1))
			page_release(c, &chunk->bhs[i]);
		/* Others wait for the lock, and this takes a system call for each page. */
		rmutex_unlock(&c->c_free_lock);
		rmutex_lock(&c->c_free_lock);
	}
	rmutex_unlock(&c->c_free_lock);
}

static struct gfs2_bh *bh_alloc(struct gfs2_mapping *m, uint64_t blkno)
{
	struct buf_cache *c = m->m_cache;
	uint64_t used = atomic_fetch_add_explicit(&c->c_used, 1, memory_order_relaxed) + 1;
	struct gfs2_bh *bh;

	if (used > atomic_load_explicit(&c->c_limit, memory_order_relaxed))
		buf_reclaim(c, buf_shard(c, blkno));
	bh = bh_memory(c);
	bh->b_cache = c;
	bh->b_blocknr = blkno;
	/* The cache's and the caller's; published by the shard's lock. */
	atomic_store_explicit(&bh->b_count, 2, memory_order_relaxed);
	atomic_store_explicit(&bh->b_state, 0, memory_order_relaxed);
	bh->b_map = m;
	bh->b_hash = NULL;
	bh->b_referenced = false;
	bh->b_pin_batch = bh->b_ail_batch = NULL;
	list_init(&bh->b_map_list);
	list_init(&bh->b_dirty_list);
	list_init(&bh->b_lru);
	list_init(&bh->b_pin_list);
	list_init(&bh->b_ail_list);
	return bh;
}

struct gfs2_bh *buf_hold(struct gfs2_bh *bh)
{
	/* relaxed: the caller has a reference or a state that keeps the buffer */
	atomic_fetch_add_explicit(&bh->b_count, 1, memory_order_relaxed);
	return bh;
}

void buf_put(struct gfs2_bh *bh)
{
	/*
	 * release: what this user did comes before the buffer's reuse; acquire: for the one who frees.
	 * Zero is only reached outside of the cache, as the cache has a reference too.
	 */
	if (bh && atomic_fetch_sub_explicit(&bh->b_count, 1, memory_order_acq_rel) == 1)
		bh_free(bh);
}

/* --- hash; all with the shard's lock held --- */

static struct gfs2_bh **bucket(struct buf_shard *s, uint64_t blkno)
{
	/* The lowest bits chose the shard. */
	return &s->s_buckets[(buf_hash(blkno) >> 6) & s->s_mask];
}

struct gfs2_bh *buf_lookup(struct buf_shard *s, uint64_t blkno)
{
	struct gfs2_bh *bh = *bucket(s, blkno);

	while (bh && bh->b_blocknr != blkno)
		bh = bh->b_hash;
	return bh;
}

static struct gfs2_bh *use(struct gfs2_bh *bh)
{
	/* Not moved in the LRU: that would touch its neighbours there, and this is the hottest path. */
	bh->b_referenced = true;
	return buf_hold(bh);
}

static void hash_grow(struct buf_shard *s)
{
	struct gfs2_bh **old = s->s_buckets;
	unsigned old_nr = s->s_mask + 1;
	struct gfs2_bh **buckets = calloc(old_nr * 2, sizeof(*buckets));

	/* Longer chains are no reason to fail. */
	if (!buckets)
		return;
	s->s_buckets = buckets;
	s->s_mask = old_nr * 2 - 1;
	for (unsigned i = 0; i < old_nr; i++)
		for (struct gfs2_bh *bh = old[i], *next; bh; bh = next) {
			struct gfs2_bh **b = bucket(s, bh->b_blocknr);

			next = bh->b_hash;
			bh->b_hash = *b;
			*b = bh;
		}
	free(old);
}

/* m_lock held too. */
static void insert(struct buf_shard *s, struct gfs2_bh *bh)
{
	struct gfs2_bh **b;

	if (s->s_nr > s->s_mask)
		hash_grow(s);
	b = bucket(s, bh->b_blocknr);
	bh->b_hash = *b;
	*b = bh;
	s->s_nr++;
	list_add(&bh->b_lru, &s->s_lru);
	list_add_tail(&bh->b_map_list, &bh->b_map->m_bufs);
	atomic_fetch_add_explicit(&bh->b_map->m_nr, 1, memory_order_relaxed);
}

void buf_undirty(struct gfs2_bh *bh)
{
	if (list_empty(&bh->b_dirty_list))
		return;
	list_del_init(&bh->b_dirty_list);
	bh->b_map->m_nr_dirty--;
	atomic_fetch_sub_explicit(&bh->b_cache->c_dirty, 1, memory_order_relaxed);
	buf_clear_state(bh, B_DIRTY);
}

void buf_remove(struct buf_shard *s, struct gfs2_bh *bh)
{
	struct gfs2_bh **pp = bucket(s, bh->b_blocknr);

	buf_undirty(bh);
	while (*pp != bh)
		pp = &(*pp)->b_hash;
	*pp = bh->b_hash;
	s->s_nr--;
	list_del_init(&bh->b_lru);
	list_del_init(&bh->b_map_list);
	atomic_fetch_sub_explicit(&bh->b_map->m_nr, 1, memory_order_relaxed);
	__atomic_store_n(&bh->b_map, NULL, __ATOMIC_RELAXED);
	buf_set_state(bh, B_DEAD);
}

/* --- looking up --- */

struct gfs2_bh *buf_find(struct buf_cache *c, uint64_t blkno)
{
	struct buf_shard *s = buf_shard(c, blkno);
	struct gfs2_bh *bh;

	rmutex_lock(&s->s_lock);
	bh = buf_lookup(s, blkno);
	if (bh)
		use(bh);
	rmutex_unlock(&s->s_lock);
	return bh;
}

/*
 * @bh belongs to another mapping.  Called with the shard's lock, which is given up.
 * Returns the buffer with a reference, @m's or not, or NULL: look again.
 */
static struct gfs2_bh *move(struct buf_shard *s, struct gfs2_bh *bh, struct gfs2_mapping *m)
{
	struct gfs2_mapping *old = bh->b_map;

	/* Somebody's, and not on the device yet: his it remains (see buf_get() in buf.h). */
	if (buf_test(bh, B_PINNED | B_AIL))
		goto leave;
	if (!rmutex_trylock(&old->m_lock))
		goto again;
	if (!rmutex_trylock(&m->m_lock)) {
		rmutex_unlock(&old->m_lock);
		goto again;
	}
	if (buf_test(bh, B_READING | B_WRITEBACK)) {
		buf_hold(bh);
		rmutex_unlock(&m->m_lock);
		rmutex_unlock(&old->m_lock);
		rmutex_unlock(&s->s_lock);
		buf_wait_state(bh, B_READING | B_WRITEBACK);
		buf_put(bh);
		return NULL;
	}
	if (!list_empty(&bh->b_dirty_list)) {
		rmutex_unlock(&m->m_lock);
		rmutex_unlock(&old->m_lock);
		goto leave;
	}
	/* What it held was covered by another glock: others may have changed the block since. */
	if (atomic_load_explicit(&bh->b_count, memory_order_acquire) == 1)
		buf_clear_state(bh, B_UPTODATE | B_PARTIAL | B_JDATA);
	list_move_tail(&bh->b_map_list, &m->m_bufs);
	atomic_fetch_sub_explicit(&old->m_nr, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&m->m_nr, 1, memory_order_relaxed);
	__atomic_store_n(&bh->b_map, m, __ATOMIC_RELAXED);
	use(bh);
	rmutex_unlock(&m->m_lock);
	rmutex_unlock(&old->m_lock);
	rmutex_unlock(&s->s_lock);
	return bh;
leave:
	use(bh);
	rmutex_unlock(&s->s_lock);
	return bh;
again:
	rmutex_unlock(&s->s_lock);
	sched_yield();
	return NULL;
}

struct gfs2_bh *buf_get(struct gfs2_mapping *m, uint64_t blkno)
{
	struct buf_cache *c = m->m_cache;
	struct buf_shard *s = buf_shard(c, blkno);
	struct gfs2_bh *bh, *new = NULL;

	for (;;) {
		rmutex_lock(&s->s_lock);
		bh = buf_lookup(s, blkno);
		if (likely(bh && bh->b_map == m)) {
			use(bh);
			rmutex_unlock(&s->s_lock);
			break;
		}
		if (bh) {
			bh = move(s, bh, m);
			if (bh)
				break;
			continue;
		}
		rmutex_unlock(&s->s_lock);

		if (!new)
			new = bh_alloc(m, blkno);
		rmutex_lock(&m->m_lock);
		rmutex_lock(&s->s_lock);
		bh = buf_lookup(s, blkno);
		if (!bh)
			insert(s, new);
		rmutex_unlock(&s->s_lock);
		rmutex_unlock(&m->m_lock);
		if (!bh)
			return new;
	}
	/* Somebody else was faster. */
	if (new)
		bh_free(new);
	return bh;
}

/* --- states --- */

void buf_set_uptodate(struct gfs2_bh *bh)
{
	buf_set_state(bh, B_UPTODATE);
}

void buf_set_state(struct gfs2_bh *bh, unsigned bits)
{
	/* release: who sees the bit (buf_test acquires) sees what was done before, the data above all */
	atomic_fetch_or_explicit(&bh->b_state, bits, memory_order_release);
}

void buf_clear_state(struct gfs2_bh *bh, unsigned bits)
{
	/* release: eviction sees the bit gone and frees after all that its owner did */
	atomic_fetch_and_explicit(&bh->b_state, ~bits, memory_order_release);
}

bool buf_pin(struct gfs2_mapping *m, struct gfs2_bh *bh, unsigned more)
{
	struct buf_shard *s = buf_shard(bh->b_cache, bh->b_blocknr);
	bool is_of;

	/* It is moved and dropped under this lock. */
	rmutex_lock(&s->s_lock);
	is_of = buf_is_of(bh, m);
	if (is_of)
		buf_set_state(bh, B_PINNED | more);
	rmutex_unlock(&s->s_lock);
	return is_of;
}

void buf_wait_state(struct gfs2_bh *bh, unsigned bits)
{
	struct buf_shard *s = buf_shard(bh->b_cache, bh->b_blocknr);

	rmutex_lock(&s->s_lock);
	/*
	 * One atomic operation says "I wait" and asks "is it still set?": whoever clears the bit either sees B_WAITERS
	 * and then needs the lock to wake us, so we sleep by then, or was before us.
	 */
	while (atomic_fetch_or_explicit(&bh->b_state, B_WAITERS, memory_order_acq_rel) & bits)
		rcond_wait(&s->s_wait, &s->s_lock);
	rmutex_unlock(&s->s_lock);
}

void buf_end_state(struct gfs2_bh *bh, unsigned bits)
{
	struct buf_shard *s = buf_shard(bh->b_cache, bh->b_blocknr);
	unsigned old = atomic_fetch_and_explicit(&bh->b_state, ~(bits | B_WAITERS),
						 memory_order_acq_rel);

	if (!(old & B_WAITERS))
		return;
	rmutex_lock(&s->s_lock);
	rcond_broadcast(&s->s_wait);
	rmutex_unlock(&s->s_lock);
}

/* --- the cache --- */

int buf_cache_create(struct io_engine *e, uint32_t bsize, uint64_t limit_bytes,
		     struct buf_cache **out)
{
	uint64_t limit = limit_bytes / max_t(uint32_t, bsize, 1);
	unsigned nr_shards = 1, buckets = 16;
	struct buf_cache *c;

	if (bsize < 512 || bsize > 65536 || (bsize & (bsize - 1)))
		return -EINVAL;
	if (bsize % io_align(e) && io_engine_set_buffered(e, "its blocks are smaller than the "
							     "sectors of its store"))
		return -EINVAL;
	while (nr_shards < MAX_SHARDS && nr_shards * BLOCKS_PER_SHARD * 2 <= limit)
		nr_shards *= 2;
	while (buckets < limit / nr_shards && buckets < 65536)
		buckets *= 2;

	c = xzalloc(sizeof(*c));
	c->c_engine = e;
	c->c_bsize = bsize;
	c->c_dev_blocks = io_engine_size(e) / bsize;
	c->c_shard_mask = nr_shards - 1;
	atomic_init(&c->c_limit, max_t(uint64_t, limit, 1));
	rmutex_init(&c->c_free_lock, RANK_BUF_FREE);
	list_init(&c->c_free);
	rmutex_init(&c->c_pressure_lock, RANK_BUF_SHARD);
	rcond_init(&c->c_pressure_wait);
	c->c_shards = xaligned_alloc(64, nr_shards * sizeof(struct buf_shard));
	for (unsigned i = 0; i < nr_shards; i++) {
		struct buf_shard *s = &c->c_shards[i];

		memset(s, 0, sizeof(*s));
		rmutex_init(&s->s_lock, RANK_BUF_SHARD);
		rcond_init(&s->s_wait);
		list_init(&s->s_lru);
		s->s_mask = buckets - 1;
		s->s_buckets = xzalloc(buckets * sizeof(*s->s_buckets));
	}
	*out = c;
	return 0;
}

void buf_cache_destroy(struct buf_cache *c)
{
	struct gfs2_bh *bh, *tmp;

	if (!c)
		return;
	buf_cache_set_pressure(c, NULL, NULL);
	for (unsigned i = 0; i <= c->c_shard_mask; i++) {
		struct buf_shard *s = &c->c_shards[i];

		list_for_each_entry_safe(bh, tmp, &s->s_lru, b_lru) {
			if (atomic_load(&bh->b_count) != 1 || buf_test(bh, B_KEEP))
				fs_err("block %llu: still in use at the end (count %u, state %x)",
				       (unsigned long long)bh->b_blocknr,
				       atomic_load(&bh->b_count), atomic_load(&bh->b_state));
			GFS2_BUG_ON(atomic_load(&bh->b_count) != 1 || buf_test(bh, B_KEEP));
			/* No thread uses the cache any more: no lock is needed. */
			buf_remove(s, bh);
			buf_put(bh);
		}
		rmutex_destroy(&s->s_lock);
		rcond_destroy(&s->s_wait);
		free(s->s_buckets);
	}
	/* Buffers that have left the cache but not their users. */
	GFS2_BUG_ON(atomic_load(&c->c_used));
	while (c->c_chunks) {
		struct buf_chunk *chunk = c->c_chunks;

		c->c_chunks = chunk->next;
		munmap(chunk->data, CHUNK_BYTES);
		free(chunk);
	}
	rmutex_destroy(&c->c_free_lock);
	rmutex_destroy(&c->c_pressure_lock);
	rcond_destroy(&c->c_pressure_wait);
	free(c->c_shards);
	free(c);
}

uint64_t buf_cache_used(struct buf_cache *c)
{
	return atomic_load_explicit(&c->c_used, memory_order_relaxed) * c->c_bsize;
}

uint64_t buf_cache_resident(struct buf_cache *c)
{
	uint64_t nr;

	if (EXACT_ALLOC)
		return buf_cache_used(c);
	rmutex_lock(&c->c_free_lock);
	nr = c->c_resident;
	rmutex_unlock(&c->c_free_lock);
	return nr * c->c_bsize;
}

uint64_t buf_cache_dirty(struct buf_cache *c)
{
	return atomic_load_explicit(&c->c_dirty, memory_order_relaxed) * c->c_bsize;
}

uint64_t buf_cache_limit(struct buf_cache *c)
{
	return atomic_load_explicit(&c->c_limit, memory_order_relaxed) * c->c_bsize;
}

uint32_t buf_bsize(const struct buf_cache *c)
{
	return c->c_bsize;
}

struct io_engine *buf_engine(const struct buf_cache *c)
{
	return c->c_engine;
}
