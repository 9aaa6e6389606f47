/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What buf.c and mapping.c share; nobody else includes it.
 *
 * A buffer in the cache is in its shard's hash and LRU, on its mapping's m_bufs, and has one reference that is
 * the cache's own.  So b_count == 1, seen with the shard's lock and m_lock held, means that nobody uses it
 * and nobody can start to: new references come from look-ups (shard lock), from the mapping's lists
 * (m_lock), or from the log, which then has set B_PINNED or B_AIL.
 *
 * Lock order: m_lock before the shard's lock.  Who comes from the hash (eviction, forgetting, moving) has the
 * shard's lock first and may only try m_lock; the shard's lock keeps b_map, and so the mapping, alive.
 */
#ifndef GFS2FUSE_IO_CACHE_H
#define GFS2FUSE_IO_CACHE_H

#include "io/buf.h"
#include "util/util.h"

/* In these states a buffer holds something that the device does not have (yet). */
#define B_KEEP (B_DIRTY | B_PINNED | B_AIL | B_WRITEBACK)

struct buf_shard {
	struct rmutex s_lock;
	struct rcond s_wait;		/* B_READING or B_WRITEBACK of a buffer was cleared */
	struct gfs2_bh **s_buckets;
	unsigned s_mask, s_nr;
	struct list_head s_lru;		/* most recently used first */
} __attribute__((aligned(64)));

struct buf_chunk {
	struct buf_chunk *next;
	char *data;
	struct gfs2_bh bhs[];
};

struct buf_cache {
	struct io_engine *c_engine;
	uint32_t c_bsize;
	uint64_t c_dev_blocks;
	struct buf_shard *c_shards;
	unsigned c_shard_mask;
	/* Blocks; relaxed counters, exact only at rest. */
	atomic_uint_least64_t c_limit, c_used, c_dirty;
	atomic_uint_least64_t c_write_errors; /* batches of write-back that failed; relaxed: whoever asks has waited for them */
	atomic_uint c_hand;		/* next shard to evict from */

	struct rmutex c_free_lock;	/* guards the next four */
	struct list_head c_free;	/* through b_lru; those whose memory was given back at the end */
	struct buf_chunk *c_chunks;
	uint64_t c_resident;		/* buffers with memory behind them */

	struct rmutex c_pressure_lock;	/* guards the rest but the atomic */
	struct rcond c_pressure_wait;
	void (*c_pressure)(void *);
	void *c_pressure_arg;
	pthread_t c_pressure_thread;
	bool c_pressure_started, c_pressure_stop;
	atomic_bool c_pressure_due;	/* set by whoever finds nothing clean, taken back by the thread */
};

static inline uint64_t buf_hash(uint64_t blkno)
{
	uint64_t h = blkno * 0x9e3779b97f4a7c15u;

	return h ^ h >> 32;
}

static inline struct buf_shard *buf_shard(struct buf_cache *c, uint64_t blkno)
{
	return &c->c_shards[buf_hash(blkno) & c->c_shard_mask];
}

/* Memory of free buffers beyond the limit goes back to the system.  No lock is held. */
void buf_release_free(struct buf_cache *c);
/* With the shard's lock held: the buffer or NULL, no reference. */
struct gfs2_bh *buf_lookup(struct buf_shard *s, uint64_t blkno);
/* The limit is exceeded: make room, from @own first. No buffer lock is held. */
void buf_reclaim(struct buf_cache *c, struct buf_shard *own);
/* With the shard's lock and m_lock held: out of hash, LRU and mapping. The caller puts the cache's reference. */
void buf_remove(struct buf_shard *s, struct gfs2_bh *bh);
/* m_lock held: not dirty any more, whether written or not. */
void buf_undirty(struct gfs2_bh *bh);

/* Wait until none of @bits (B_READING, B_WRITEBACK) is set; the caller has a reference and no buffer lock. */
void buf_wait_state(struct gfs2_bh *bh, unsigned bits);
/* Clear @bits, wake who waits for it. */
void buf_end_state(struct gfs2_bh *bh, unsigned bits);

/* A buffer in a transfer, the memory to use, and how it went. */
struct buf_vec {
	struct gfs2_bh *bh;
	char *mem;
	int error;
};
void buf_vec_sort(struct buf_vec *v, unsigned nr);
/* Transfer sorted buffers, neighbours together. Returns the first error. */
int buf_transfer(struct buf_cache *c, enum io_op op, enum io_class cls, struct buf_vec *v,
		 unsigned nr);

#endif
