/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The buffer cache: one buffer per cached block of the volume, found by block number.
 *
 * A buffer belongs to exactly one mapping: the metadata mapping of a glock (dinode, indirect,
 * leaf, bitmap ... blocks) or the data mapping of an inode (file data that is dirty, or was written
 * in part).  Dropping or writing a mapping walks its own list only.
 *
 * Who guards what
 *  - b_data: the glock that covers the block.  EX to change it, SH/DF/EX to read it.  Writers of
 *    log and in-place images additionally follow the pin rules of journal/log.h.
 *  - b_count, b_state: atomics.  B_DIRTY and the m_* lists: m_lock of the mapping.
 *    Hash and LRU: the shard's lock, inside buf.c.
 *  - b_pin*, b_ail*: the log's lock (journal/log.c).
 *
 * Guarantees
 *  - Two lookups of one block return the same buffer as long as either reference is held, or the buffer is dirty,
 *    pinned or in the AIL (such buffers are never evicted).
 *  - Memory is bounded by the limit given; clean unreferenced buffers are evicted, those
 *    not looked up for longest first (second chance).  When nothing is clean
 *    the pressure callback is told (log flush and write-back), never from inside a lock.
 */
#ifndef GFS2FUSE_BUF_H
#define GFS2FUSE_BUF_H

#include <stdatomic.h>
#include "io/io.h"
#include "util/list.h"
#include "util/mutex.h"

struct buf_cache;

struct gfs2_mapping {
	struct buf_cache *m_cache;
	struct rmutex m_lock;		/* guards all below except the atomics */
	struct rcond m_wait;		/* write-back finished */
	struct list_head m_bufs;	/* all buffers of the mapping */
	struct list_head m_dirty;	/* B_DIRTY data buffers */
	unsigned m_nr_dirty;
	unsigned m_nr_writeback;	/* data buffers being written now */
	int m_error;			/* first write error not yet reported by mapping_sync() */
	/* buf.c: how often something became dirty, writes that failed, writes under way */
	uint64_t m_dirty_seq, m_nr_errors;
	struct list_head m_batches;
	/* Number of buffers; read without m_lock by the direct-I/O fast path (relaxed: the inode's glock orders
	 * it against the buffered writers that change it). */
	atomic_uint m_nr;
	struct list_head m_ordered;	/* journal/log.c: the ordered list, under its lock */
	void *m_owner;			/* struct gfs2_glock (metadata) or struct gfs2_inode (data) */
	bool m_is_data;
};

enum {
	B_UPTODATE = 1u << 0,	/* b_data is what the block should contain */
	B_DIRTY = 1u << 1,	/* data: newer than the device, to be written in place */
	B_PARTIAL = 1u << 2,	/* data: keep after write-back, the next append will want it */
	B_JDATA = 1u << 3,	/* journaled data */
	B_PINNED = 1u << 4,	/* in the open or the committing transaction: not to be written in place */
	B_AIL = 1u << 5,	/* committed in the log, in-place copy older */
	B_DEAD = 1u << 6,	/* forgotten: not in the hash any more, freed with the last reference */
	/* io/buf.c's own */
	B_READING = 1u << 16,	/* somebody reads it from the device */
	B_WRITEBACK = 1u << 17,	/* somebody writes it in place: at most one at a time */
	B_WAITERS = 1u << 18,	/* somebody waits for one of these two to go */
};

struct gfs2_bh {
	/* What a look-up touches comes first, in one cache line. */
	uint64_t b_blocknr;
	struct gfs2_bh *b_hash;		/* shard lock */
	struct gfs2_mapping *b_map;	/* changes under the shard lock and m_lock; buf_is_of() */
	atomic_uint b_count;
	atomic_uint b_state;
	bool b_referenced;		/* shard lock: looked up since eviction last came by */
	char *b_data;			/* bsize bytes, aligned to min(bsize, 4096) */
	struct buf_cache *b_cache;
	struct list_head b_map_list;	/* m_bufs */
	struct list_head b_dirty_list;	/* m_dirty */
	uint64_t b_dirty_seq;		/* m_dirty_seq when it became dirty */
	/* buf.c, shard lock */
	struct list_head b_lru;
	/* buf.c, the lock of the free ones: on their list; its memory given back to the system */
	bool b_free, b_released;
	/* journal/log.c, log lock */
	struct list_head b_pin_list;
	struct list_head b_ail_list;
	struct gfs2_trans_batch *b_pin_batch;
	struct gfs2_trans_batch *b_ail_batch;
};

/* Without a lock: of a buffer that one has a reference to and a lock for, only somebody who has the same block changes the answer. */
static inline bool buf_is_of(const struct gfs2_bh *bh, const struct gfs2_mapping *m)
{
	return __atomic_load_n(&bh->b_map, __ATOMIC_RELAXED) == m;
}

static inline bool buf_test(const struct gfs2_bh *bh, unsigned bits)
{
	return atomic_load_explicit(&bh->b_state, memory_order_acquire) & bits;
}

/*
 * -EINVAL for an impossible @bsize.  A @bsize smaller than io_align() makes the engine a buffered one
 * (io_engine_set_buffered), so ask for io_align() afterwards.
 */
int buf_cache_create(struct io_engine *e, uint32_t bsize, uint64_t limit_bytes,
		     struct buf_cache **out);
void buf_cache_destroy(struct buf_cache *c); /* everything must be clean and unreferenced: asserted */
void buf_cache_set_limit(struct buf_cache *c, uint64_t limit_bytes);
uint64_t buf_cache_used(struct buf_cache *c); /* bytes */
/* Bytes of memory that buffers have: those in use, and free ones whose memory is kept for the next (within the limit). */
uint64_t buf_cache_resident(struct buf_cache *c);
uint64_t buf_cache_dirty(struct buf_cache *c); /* bytes of B_DIRTY data */
/*
 * Called by a thread of the cache's own (so without any lock or transaction) when more than the limit is used and
 * nothing is clean.  @fn NULL: no more calls, none is running at return.
 */
int buf_cache_set_pressure(struct buf_cache *c, void (*fn)(void *), void *arg);
uint64_t buf_cache_limit(struct buf_cache *c);	/* bytes of block contents */
uint32_t buf_bsize(const struct buf_cache *c);
struct io_engine *buf_engine(const struct buf_cache *c);

void mapping_init(struct gfs2_mapping *m, struct buf_cache *c, void *owner, bool is_data);
void mapping_destroy(struct gfs2_mapping *m);	/* must be empty: asserted */

/* Cached buffer or NULL; +1 reference. */
struct gfs2_bh *buf_find(struct buf_cache *c, uint64_t blkno);
/*
 * Cached or new buffer of @m, +1 reference; a new one is not B_UPTODATE.  If the block is cached under
 * another mapping (a block reused for something else whose old buffer is clean) it is moved to @m.  One with contents that the
 * device does not have (dirty, pinned, in the AIL) stays where it is, and is returned: whoever wants to change it, or is to believe it, has to ask
 * buf_is_of().  Only on a volume on which two have the same block is it somebody else's: what is freed leaves the cache in the transaction that
 * frees it, whatever its state (gfs2_journal_wipe), and a lock's or an inode's buffers are clean or gone when it is given up.
 */
struct gfs2_bh *buf_get(struct gfs2_mapping *m, uint64_t blkno);
/* buf_get + read when not B_UPTODATE.  -EIO, -EINVAL if outside of the device.  Concurrent readers of one block
 * read it once. */
int buf_read(struct gfs2_mapping *m, uint64_t blkno, struct gfs2_bh **out);
/* Start of many: read-ahead of up to @nr blocks in one go; errors are left to the later buf_read. */
void buf_readahead(struct gfs2_mapping *m, const uint64_t *blkno, unsigned nr);
/* Lock-free: allowed under any lock.  b_count includes one reference of the cache's own. */
struct gfs2_bh *buf_hold(struct gfs2_bh *bh);	/* one more reference */
void buf_put(struct gfs2_bh *bh);		/* NULL allowed */
void buf_set_uptodate(struct gfs2_bh *bh);
void buf_set_state(struct gfs2_bh *bh, unsigned bits);
/* Whoever takes away the last of B_PINNED and B_AIL without a reference must not touch the buffer again. */
void buf_clear_state(struct gfs2_bh *bh, unsigned bits);

/*
 * B_PINNED and @more, if the buffer is @m's (the log's lock is held).  False, and nothing is done: it is not, or not any more (see buf_get()).  From
 * here on it is, and stays in the cache, until that state and B_AIL are gone.
 */
bool buf_pin(struct gfs2_mapping *m, struct gfs2_bh *bh, unsigned more);
/*
 * Data buffers of @m: contents changed by the caller (EX on the inode), to be written in place.  False: the buffer is not, or not any more,
 * @m's (see buf_get()), and nothing is done.
 */
bool buf_mark_dirty(struct gfs2_mapping *m, struct gfs2_bh *bh);
/*
 * Drop a buffer whatever its data state: the block was freed or is going to be overwritten by direct I/O.  Waits for a write-back of it
 * that is under way.  Consumes no reference.  0, or the block whose buffer is in the log (pinned, AIL): it stays, and what has not been
 * dropped before it.  Who has taken the blocks out of the log, or has the inode to himself, sees that only where somebody else has the block, too.
 */
uint64_t buf_forget(struct buf_cache *c, uint64_t blkno, uint64_t nr);
/* The same for blocks that nobody has (the bitmap): what the device does not have stays, too. */
uint64_t buf_forget_clean(struct buf_cache *c, uint64_t blkno, uint64_t nr);

/* Is there anything for mapping_write() to do?  As of now: writers may add more. */
bool mapping_dirty(struct gfs2_mapping *m);
/*
 * Write all data buffers that are dirty at the call (sorted, neighbours in one request), wait for them and for those
 * that others have under way.  What becomes dirty meanwhile, also again, is left to the next call.  Pinned
 * buffers are not written.  Buffers without B_PARTIAL are dropped when clean: the kernel's page cache has the data.
 * Returns the first error of these writes; errors stick to the mapping (m_error) and are returned once by
 * mapping_sync().  A buffer whose write failed is clean afterwards, like a page of the kernel's.
 */
int mapping_write(struct gfs2_mapping *m);
/*
 * mapping_write() of each of several mappings of data, at the same time: what lies side by side on the device is one request, and the device
 * has many.  All of one cache.  Errors stay with the mappings.
 */
void mapping_write_many(struct gfs2_mapping **maps, unsigned nr);
int mapping_sync(struct gfs2_mapping *m);	/* mapping_write + collect and clear m_error */
/* How many writes have failed, of all mappings. */
uint64_t buf_cache_write_errors(const struct buf_cache *c);
/* How many writes have failed. */
uint64_t mapping_errors(struct gfs2_mapping *m);
/*
 * For who may not miss an error of his own data: somebody else who syncs the file may write them, and collect the error, so that mapping_sync()
 * finds neither.  @errors: mapping_errors() from before the data were put into buffers (EX).  To be asked after mapping_sync().
 * -EIO: a write has failed since then, of whosever data; or 0.
 */
int mapping_failed_since(struct gfs2_mapping *m, uint64_t errors);
/*
 * Drop every clean, unpinned, non-AIL buffer; one that is still referenced leaves the cache too and is freed with its
 * last reference.  Dirty data must have been written before (asserted).
 */
void mapping_invalidate(struct gfs2_mapping *m);
/* Write the in-place images in @bhs (sorted by the caller or not): contiguous ones in one request.  @images[i] is the
 * memory to write (a stable copy) or NULL for bh->b_data.  Returns the first error.  The caller's references or
 * B_AIL keep the buffers; of two writers of one buffer the second waits for the first, but which image is the newer one is
 * the callers' to know. */
int buf_write_images(struct buf_cache *c, struct gfs2_bh **bhs, char **images, unsigned nr);

#endif
