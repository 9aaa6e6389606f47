/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of src/journal/ share; nobody else includes it.
 *
 * Locks, in their order (util/mutex.h):
 *   l_flush_lock	one batch at a time is sealed and its payload written, held over that I/O: l_sequence, l_image
 *   l_header_lock	one header at a time, held over its I/O: l_hdr.  A flush takes it before it lets l_flush_lock go,
 *			so headers are written in the order of their batches, and the next batch's payload meanwhile
 *   l_gate		who may have a transaction open, log space, the thread's wishes
 *   l_ordered_lock	the lists of ordered mappings
 *   l_lock		pins, revokes, batches, the block table
 *
 * Positions in the log are counted upwards for ever (l_head, l_tail, log_batch.first); the journal's
 * logical block is the position modulo J.  So "how far is it" is a subtraction.
 *
 * A *batch* is the set of closed transactions that one flush writes.  There is one open batch (fields
 * o_*), and the ring of batches whose images are in the active region [tail, head): the newest of
 * these may be committing, i.e. its header is not durable yet.
 *
 * Obligation: a block's newest image in the log is in the entries of exactly one batch, and as long
 * as it is not in place (log_block.ail != 0) that batch holds the tail.  Sealing a batch moves the
 * obligations of its blocks to it: its header commits the newer images and the tail together.
 */
#ifndef GFS2FUSE_JOURNAL_LOG_INTERNAL_H
#define GFS2FUSE_JOURNAL_LOG_INTERNAL_H

#include <linux/gfs2_ondisk.h>
#include <pthread.h>
#include <stdatomic.h>
#include "journal/blktab.h"
#include "journal/log.h"
#include "util/util.h"

#define LOG_CHUNK_BYTES (1u << 20)	/* one log write is at most this long */
#define LOG_CHUNKS_KEPT 16		/* image memory that is not given back after a flush */
#define LOG_WRITES_AT_ONCE 32
#define ORDERED_AT_ONCE 256	/* files whose data are written together before a header */
#define AIL_PASS_BLOCKS 512		/* images copied and written in place in one go */
#define AIL_COPIES_AT_ONCE 64	/* of these under one hold of l_lock */
#define LOG_MAX_BATCH_BYTES (32u << 20)	/* pinned: the background thread flushes */
#define LOG_MIN_MEMORY 512		/* blocks, however little memory there is */
#define LOG_MAX_AIL_BYTES (64u << 20)	/* AIL: the background thread writes back */
/*
 * Free blocks that an admission must leave: one for the header of the open batch, one for a header
 * alone, which moves the tail after write-back.  (log.c: "Log space")
 */
#define LOG_RESERVE 2
#define LOG_MIN_BLOCKS 32		/* a smaller journal could hold no useful transaction */

struct log_pin {
	uint64_t blkno;
	struct gfs2_bh *bh;	/* in a batch's entries NULL: in place, or a newer batch's business */
	struct gfs2_glock *gl;
	bool jdata;
};

struct log_batch {
	uint64_t seq;
	uint64_t first;		/* position of the first descriptor */
	unsigned nr;		/* entries */
	unsigned nr_ail;	/* of these not yet in place */
	unsigned nr_hold;	/* freed by the open batch: holds the tail until that is committed */
	struct log_pin *ents;
};

/* The blocks of a flush in log order, in aligned pieces of LOG_CHUNK_BYTES. */
struct log_image {
	char **chunks;
	unsigned nr_chunks, cap_chunks;
	uint32_t nr;		/* blocks in use */
};

struct gfs2_log {
	/* constant after gfs2_log_create() */
	struct io_engine *l_engine;
	struct buf_cache *l_bufs;
	uint32_t l_bsize;
	const struct gfs2_jdesc *l_jd;
	struct gfs2_log_hooks l_hooks;
	uint32_t l_blocks;			/* J */
	uint32_t l_ldptrs, l_jdptrs, l_inptrs;	/* items per descriptor, continuation */
	unsigned l_pin_limit, l_ail_limit;	/* blocks: the thread starts to flush, to write back; l_gate */
	unsigned l_max_trans;

	/* First error. release: what led to it is visible to who sees it; never changes again. */
	atomic_int l_error;
	atomic_bool l_error_told;	/* hooks.withdraw was called (relaxed exchange: only who wins matters) */

	struct rmutex l_flush_lock;
	uint64_t l_sequence;		/* of the next header */
	struct log_image l_image;

	struct rmutex l_header_lock;
	char *l_hdr;			/* memory of the header block */

	struct rmutex l_gate;
	struct rcond l_gate_wait;	/* gate opened, space, error: gfs2_trans_begin() */
	struct rcond l_gate_closer;	/* l_open became 0: the flush */
	struct rcond l_thread_wait;
	bool l_closed;
	unsigned l_open;		/* open transactions */
	uint64_t l_need;		/* log blocks reserved by them */
	uint64_t l_ticket, l_serving;	/* first come, first served: big transactions do not starve */
	uint64_t l_head;		/* position of the next block to be written */
	uint64_t l_tail;		/* position in the last durable header */
	uint64_t l_shown_sequence;	/* of the last durable header */
	uint64_t l_batch_start_ns;	/* a transaction closed first in the open batch; 0: none */
	uint64_t l_flushed_ns;
	unsigned l_commit_secs;
	bool l_want_flush, l_want_drain, l_stop;
	bool l_thread_runs;
	pthread_t l_thread;

	struct rmutex l_ordered_lock;
	struct rcond l_ordered_wait;	/* l_ordering_busy became false */
	struct list_head l_ordered;	/* of the open batch, if there is one (gfs2_mapping.m_ordered) */
	struct list_head l_ordering;	/* of the batch being flushed */
	bool l_ordering_busy;		/* from the seal until all of l_ordering is written */
	/* Since when there is something on l_ordered; 0: nothing. relaxed: the thread looks again before it is due */
	atomic_uint_least64_t l_ordered_ns;

	struct rmutex l_lock;
	struct blktab l_tab;
	struct log_batch **l_ring;	/* batch number s is in slot s & (l_ring_cap - 1) */
	unsigned l_ring_cap;
	uint64_t l_ring_first;		/* oldest batch in the ring; the ring ends before l_batch_seq */
	atomic_uint l_nr_ail;		/* changed under l_lock; relaxed: log_ail_full() */
	bool l_ail_busy;		/* an in-place pass is under way (one at a time) */
	uint64_t l_ail_passes;		/* passes begun */
	struct rcond l_ail_wait;	/* pass finished */
	char *l_ail_mem;		/* the pass' images */
	/* the open batch */
	struct log_pin *o_pins;
	uint64_t *o_revokes, *o_holds;	/* o_holds: batches that lost an entry to a free */
	unsigned o_cap_pins, o_cap_revokes, o_nr_holds, o_cap_holds;
	uint64_t o_wait_pass;		/* this pass may be writing a block that the batch frees */
	/*
	 * Pins by kind and revokes.  Changed under l_lock, read anywhere; relaxed: a reader under l_gate
	 * sees at least what closed transactions did (they took l_gate after it), and what open ones
	 * are doing is covered by l_need.
	 */
	atomic_uint o_nr_jdata, o_nr_meta, o_nr_rev;

	/* Open batch. release/acquire: changes with l_lock and the gate closed. */
	atomic_uint_least64_t l_batch_seq;
	atomic_uint_least64_t l_durable_seq;

	/* statistics: relaxed counters */
	atomic_uint_least64_t s_flushes, s_shared, s_blocks, s_revokes, s_ail_written;
};

/* The open transaction of this thread. */
struct gfs2_trans {
	struct gfs2_log *tr_log;	/* NULL: none */
	unsigned tr_blocks, tr_revokes;	/* asked for */
	unsigned tr_nr_pins, tr_nr_revokes; /* used */
	uint64_t tr_need;
};
extern _Thread_local struct gfs2_trans gfs2_current_trans;

static inline int log_error(struct gfs2_log *log)
{
	return atomic_load_explicit(&log->l_error, memory_order_acquire);
}

static inline unsigned log_nr_pins(struct gfs2_log *log)
{
	return atomic_load_explicit(&log->o_nr_jdata, memory_order_relaxed) +
	       atomic_load_explicit(&log->o_nr_meta, memory_order_relaxed);
}

static inline unsigned log_nr_ail(struct gfs2_log *log)
{
	return atomic_load_explicit(&log->l_nr_ail, memory_order_relaxed);
}

/*
 * Under l_gate.  So many blocks wait to be written in place that new transactions wait for that: memory is bounded, however
 * slow the device is.  Who gets below wakes them (ail_pass()); at the end nobody would.
 */
static inline bool log_ail_full(struct gfs2_log *log)
{
	return log_nr_ail(log) > log->l_ail_limit / 2 * 3 && !log->l_stop;
}

static inline uint64_t log_batch_seq(struct gfs2_log *log)
{
	return atomic_load_explicit(&log->l_batch_seq, memory_order_acquire);
}

static inline uint64_t log_durable_seq(struct gfs2_log *log)
{
	return atomic_load_explicit(&log->l_durable_seq, memory_order_acquire);
}

static inline uint64_t glock_key(const struct gfs2_glock *gl)
{
	return gl->gl_number << 4 | gl->gl_type;
}

/* --- format.c --- */
struct log_geometry {
	uint32_t ldptrs, jdptrs, inptrs;
};
struct log_geometry log_geometry(uint32_t bsize);
/* Log blocks that a revoke group of @n takes. */
uint32_t log_revoke_blocks(const struct log_geometry *g, uint32_t n);
/* Log blocks of a whole flush but the header. */
uint32_t log_flush_blocks(const struct log_geometry *g, uint32_t jdata, uint32_t meta, uint32_t revokes);
/* Fill a descriptor's block but for its table. */
void log_descriptor_encode(void *block, uint32_t bsize, uint32_t type, uint32_t length, uint32_t items);
void log_continuation_encode(void *block, uint32_t bsize);
/* Device block of @lblock and how many journal blocks follow it on the device without a gap (it included). */
uint64_t journal_map_run(const struct gfs2_jdesc *jd, uint32_t lblock, uint32_t *len);

/* --- log.c, flush.c --- */
void log_set_error(struct gfs2_log *log, int error, const char *what);
void log_tell_error(struct gfs2_log *log);	/* hooks.withdraw if not yet done; no ranked mutex held */
/* What a flush writes when the batch is empty. */
enum log_flush_mode {
	LOG_FLUSH_BATCH,	/* nothing */
	LOG_FLUSH_TAIL,		/* a header if it sets blocks free */
	LOG_FLUSH_UNMOUNT,	/* the last header */
};
int log_flush(struct gfs2_log *log, uint64_t seq, uint32_t flags, enum log_flush_mode mode);
/* The data that are on l_ordered now, made durable without a batch.  An error of writing them is the file's, as in a flush; no ranked mutex held. */
int log_write_data(struct gfs2_log *log);
/* Under l_gate: log blocks of the open batch as it is, without its header. */
uint64_t log_open_blocks(struct gfs2_log *log);
uint64_t log_space(struct gfs2_log *log);	/* under l_gate: free blocks */

/* --- batches: under l_lock --- */
struct log_batch *log_batch(struct gfs2_log *log, uint64_t seq);
void log_ring_push(struct gfs2_log *log, struct log_batch *b);
void log_retire(struct gfs2_log *log, uint64_t tail);	/* durable: forget batches before it */
/* Position where replay must start if a header were written now, or @pos if nothing needs replay. */
uint64_t log_compute_tail(struct gfs2_log *log, uint64_t pos);

/* --- log_write.c: the flush lock held --- */
/* Copy the open batch (gate closed) into l_image. -EIO: a metadata block without header (message given). */
int log_build(struct gfs2_log *log);
int log_write_image(struct gfs2_log *log, uint64_t pos);
/* l_header_lock held. */
int log_write_header(struct gfs2_log *log, uint64_t sequence, uint64_t pos, uint64_t tail, uint32_t flags,
		     const int64_t local[3]);
void log_image_trim(struct log_image *img, unsigned keep);

/* --- trans.c: l_lock held --- */
void log_revoke_add(struct gfs2_log *log, struct log_block *e);
/* Forget every pin and AIL entry; nobody else uses the log. */
void log_forget(struct gfs2_log *log);

/* --- ail.c --- */
/*
 * Write in place what is committed in batches up to @upto (of @gl only, if not NULL) and not
 * pinned.  Waits for writes of others.  After 0 whatever is left is pinned or not committed.
 */
int log_ail_write(struct gfs2_log *log, struct gfs2_glock *gl, uint64_t upto);
void log_ail_drop(struct gfs2_log *log, struct log_block *e);	/* l_lock: the image need not be put in place */

#endif
