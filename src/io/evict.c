/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffers leave the cache: because room is needed (eviction, and pressure when nothing can be
 * evicted), or because their block is somebody else's now (forgetting).
 *
 * Eviction takes buffers from the cold end of a shard's LRU that nobody references and whose contents the device
 * has.  Those that were looked up since it last met them get a second chance at the warm end; those it must skip go there too,
 * so that the next one does not meet them again.  When nothing can be
 * evicted the cache grows beyond its limit (the caller may be in the transaction whose end would
 * make buffers clean) and the pressure thread is told.
 */
#include "io/cache.h"

#include <sched.h>
#include <signal.h>

#define EVICT_BATCH 8  /* at most evicted at once, so that not every new buffer has to */
#define EVICT_SCAN 32  /* looked at per shard, when in a hurry */
#define PRESSURE_PAUSE_NS 10000000u

/* --- eviction --- */

/* The shard's lock is held. */
static bool try_evict(struct buf_shard *s, struct gfs2_bh *bh)
{
	struct gfs2_mapping *m = bh->b_map;
	bool free = false;

	if (atomic_load_explicit(&bh->b_count, memory_order_relaxed) != 1 || buf_test(bh, B_KEEP))
		return false;
	if (!rmutex_trylock(&m->m_lock))
		return false;
	/* acquire: see what the last user did, its state bits included, before looking at them */
	if (atomic_load_explicit(&bh->b_count, memory_order_acquire) == 1 && !buf_test(bh, B_KEEP)) {
		buf_remove(s, bh);
		free = true;
	}
	rmutex_unlock(&m->m_lock);
	return free;
}

/* Evict up to @want of the coldest, looking at no more than @scan. */
static unsigned evict(struct buf_shard *s, unsigned want, unsigned scan)
{
	struct gfs2_bh *victims = NULL, *bh;
	unsigned nr = 0;

	rmutex_lock(&s->s_lock);
	/* The first round may only take second chances away. */
	scan = min_t(unsigned, scan, 2 * s->s_nr);
	while (scan-- && nr < want && !list_empty(&s->s_lru)) {
		bh = list_last_entry(&s->s_lru, struct gfs2_bh, b_lru);
		if (!bh->b_referenced && try_evict(s, bh)) {
			bh->b_hash = victims;
			victims = bh;
			nr++;
		} else {
			bh->b_referenced = false;
			list_del_init(&bh->b_lru);
			list_add(&bh->b_lru, &s->s_lru);
		}
	}
	rmutex_unlock(&s->s_lock);

	for (bh = victims; bh; bh = victims) {
		victims = bh->b_hash;
		buf_put(bh);
	}
	return nr;
}

/* Blocks above the limit. */
static uint64_t excess(struct buf_cache *c)
{
	uint64_t used = atomic_load_explicit(&c->c_used, memory_order_relaxed);
	uint64_t limit = atomic_load_explicit(&c->c_limit, memory_order_relaxed);

	return used > limit ? used - limit : 0;
}

/* The same share from every shard, again until the limit is met or nothing can go. */
static void evict_all_over(struct buf_cache *c, unsigned scan)
{
	unsigned got;

	do {
		uint64_t share = DIV_ROUND_UP(excess(c), c->c_shard_mask + 1);

		got = 0;
		for (unsigned i = 0; i <= c->c_shard_mask && excess(c); i++) {
			unsigned hand = atomic_fetch_add_explicit(&c->c_hand, 1, memory_order_relaxed);

			got += evict(&c->c_shards[hand & c->c_shard_mask],
				     min_t(uint64_t, share, UINT32_MAX), scan);
		}
	} while (got && excess(c));
}

static void tell_pressure(struct buf_cache *c)
{
	if (atomic_exchange_explicit(&c->c_pressure_due, true, memory_order_relaxed))
		return;
	rmutex_lock(&c->c_pressure_lock);
	if (c->c_pressure)
		rcond_signal(&c->c_pressure_wait);
	else
		atomic_store_explicit(&c->c_pressure_due, false, memory_order_relaxed);
	rmutex_unlock(&c->c_pressure_lock);
}

void buf_reclaim(struct buf_cache *c, struct buf_shard *own)
{
	uint64_t limit = atomic_load_explicit(&c->c_limit, memory_order_relaxed);

	/* No large share of a small cache at once. */
	evict(own, min_t(uint64_t, limit / 64 + 1, EVICT_BATCH), EVICT_SCAN);
	/* While help is on its way another search would only find what this one found. */
	if (!excess(c) || atomic_load_explicit(&c->c_pressure_due, memory_order_relaxed))
		return;
	evict_all_over(c, EVICT_SCAN);
	if (excess(c))
		evict_all_over(c, UINT32_MAX);
	if (excess(c))
		tell_pressure(c);
}

static void *pressure_main(void *arg)
{
	struct buf_cache *c = arg;

	rmutex_lock(&c->c_pressure_lock);
	while (!c->c_pressure_stop) {
		void (*fn)(void *) = c->c_pressure;
		void *fn_arg = c->c_pressure_arg;

		if (!atomic_load_explicit(&c->c_pressure_due, memory_order_relaxed)) {
			rcond_wait(&c->c_pressure_wait, &c->c_pressure_lock);
			continue;
		}
		rmutex_unlock(&c->c_pressure_lock);
		fn(fn_arg);
		rmutex_lock(&c->c_pressure_lock);
		/* What was asked for takes its time; searches for clean buffers in the meantime are in vain. */
		if (!c->c_pressure_stop)
			rcond_wait_until(&c->c_pressure_wait, &c->c_pressure_lock,
					 now_ns() + PRESSURE_PAUSE_NS);
		/* Who comes next and finds nothing clean asks again. */
		atomic_store_explicit(&c->c_pressure_due, false, memory_order_relaxed);
	}
	rmutex_unlock(&c->c_pressure_lock);
	return NULL;
}

static void pressure_stop(struct buf_cache *c)
{
	if (!c->c_pressure_started)
		return;
	rmutex_lock(&c->c_pressure_lock);
	c->c_pressure_stop = true;
	rcond_signal(&c->c_pressure_wait);
	rmutex_unlock(&c->c_pressure_lock);
	pthread_join(c->c_pressure_thread, NULL);
	c->c_pressure_started = c->c_pressure_stop = false;
}

int buf_cache_set_pressure(struct buf_cache *c, void (*fn)(void *), void *arg)
{
	sigset_t old;
	int error;

	pressure_stop(c);
	rmutex_lock(&c->c_pressure_lock);
	c->c_pressure = fn;
	c->c_pressure_arg = arg;
	atomic_store_explicit(&c->c_pressure_due, false, memory_order_relaxed);
	rmutex_unlock(&c->c_pressure_lock);
	if (!fn)
		return 0;
	/* Signals are for the daemon's main thread. */
	block_all_but_faults(&old);
	error = -pthread_create(&c->c_pressure_thread, NULL, pressure_main, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	c->c_pressure_started = !error;
	return error;
}

/* --- forgetting --- */

/* False: it is in one of the states @keep. */
static bool forget_one(struct buf_cache *c, uint64_t blkno, unsigned keep)
{
	struct buf_shard *s = buf_shard(c, blkno);
	struct gfs2_mapping *m;
	struct gfs2_bh *bh;

	for (;;) {
		rmutex_lock(&s->s_lock);
		bh = buf_lookup(s, blkno);
		if (!bh) {
			rmutex_unlock(&s->s_lock);
			return true;
		}
		m = bh->b_map;
		if (!rmutex_trylock(&m->m_lock)) {
			rmutex_unlock(&s->s_lock);
			sched_yield();
			continue;
		}
		/* It becomes dirty under m_lock. */
		if (buf_test(bh, keep)) {
			rmutex_unlock(&m->m_lock);
			rmutex_unlock(&s->s_lock);
			return false;
		}
		/* New write-backs of data start under m_lock, those of the log only with B_AIL. */
		if (!buf_test(bh, B_WRITEBACK))
			break;
		buf_hold(bh);
		rmutex_unlock(&m->m_lock);
		rmutex_unlock(&s->s_lock);
		buf_wait_state(bh, B_WRITEBACK);
		buf_put(bh);
	}
	buf_remove(s, bh);
	rmutex_unlock(&m->m_lock);
	rmutex_unlock(&s->s_lock);
	buf_put(bh);
	return true;
}

/* Block numbers in [blkno, blkno + nr) that a shard has, up to @max. */
static unsigned shard_range(struct buf_shard *s, uint64_t blkno, uint64_t nr, uint64_t *found,
			    unsigned max)
{
	struct gfs2_bh *bh;
	unsigned n = 0;

	rmutex_lock(&s->s_lock);
	list_for_each_entry(bh, &s->s_lru, b_lru) {
		if (bh->b_blocknr - blkno < nr)
			found[n++] = bh->b_blocknr;
		if (n == max)
			break;
	}
	rmutex_unlock(&s->s_lock);
	return n;
}

static uint64_t forget(struct buf_cache *c, uint64_t blkno, uint64_t nr, unsigned keep)
{
	uint64_t used = atomic_load_explicit(&c->c_used, memory_order_relaxed);
	uint64_t found[128];
	unsigned n;

	if (!used)
		return 0;
	if (nr <= max_t(uint64_t, used, c->c_shard_mask)) {
		for (uint64_t i = 0; i < nr; i++)
			if (!forget_one(c, blkno + i, keep))
				return blkno + i;
		return 0;
	}
	/* More blocks than the cache has: go by the cache's. */
	for (unsigned i = 0; i <= c->c_shard_mask; i++)
		while ((n = shard_range(&c->c_shards[i], blkno, nr, found, ARRAY_SIZE(found))))
			while (n)
				if (!forget_one(c, found[--n], keep))
					return found[n];
	return 0;
}

uint64_t buf_forget(struct buf_cache *c, uint64_t blkno, uint64_t nr)
{
	return forget(c, blkno, nr, B_PINNED | B_AIL);
}

uint64_t buf_forget_clean(struct buf_cache *c, uint64_t blkno, uint64_t nr)
{
	return forget(c, blkno, nr, B_PINNED | B_AIL | B_DIRTY);
}

/* --- the limit --- */

void buf_cache_set_limit(struct buf_cache *c, uint64_t limit_bytes)
{
	atomic_store_explicit(&c->c_limit, max_t(uint64_t, limit_bytes / c->c_bsize, 1),
			      memory_order_relaxed);
	evict_all_over(c, UINT32_MAX);
	buf_release_free(c);
	if (excess(c))
		tell_pressure(c);
}
