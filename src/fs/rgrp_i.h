/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Resource groups in core: shared by rgrp.c, rindex.c, rgrp_alloc.c and rgrp_free.c only.
 *
 * Two views of a bitmap.  The block itself says what is in use once the newest transaction is
 * durable.  A block of it that was freed in a transaction that is not durable yet may not be
 * handed out again; so while there are such blocks ("pending"), the bitmap has a clone in which
 * they are still in use, and allocation looks at the clone.  Pending frees are remembered with the
 * number of their log batch, and once gfs2_log_durable_seq() has reached it, are carried over.
 *
 * Who guards what: struct gfs2_rgrpd and its bitmaps belong to rd_gl (EX to change, any holder to
 * read), the rd_hint_* fields are relaxed atomics that only guide the search, and the array of
 * rgrps and the geometry do not change while the volume is mounted.
 */
#ifndef GFS2FUSE_RGRP_I_H
#define GFS2FUSE_RGRP_I_H

#include "fs/inode.h"
#include "fs/rgrp.h"
#include "util/util.h"

#define NO_BLOCK UINT32_MAX
#define HINT_UNKNOWN UINT32_MAX
#define RGRP_DISK_FLAGS 0x0fffffffu /* the other four are the kernel's in-core ones */
#define RGRP_MAX_RESV 16
#define RGRP_MAX_PENDING 4096

/* One block of bitmap.  Indexes of blocks count from rd_data0. */
struct gfs2_rbitmap {
	struct gfs2_bh *bi_bh;	/* referenced while the rgrp is instantiated */
	uint8_t *bi_clone;	/* bi_bytes; NULL: the block itself says what may be allocated */
	uint32_t bi_offset;	/* where the bitmap starts in the block */
	uint32_t bi_bytes;
	uint32_t bi_start, bi_blocks;
	uint32_t bi_free;	/* blocks that may be allocated */
};

struct rgrp_pending {
	uint64_t seq;		/* log batch of the free */
	uint32_t start, len;
};

/* A run of free blocks that a growing file will probably want next. */
struct rgrp_resv {
	uint64_t owner;		/* no_addr of the inode */
	uint64_t stamp;		/* rd_resv_clock when it was used: the oldest is forgotten first */
	uint32_t start, len;
};

struct gfs2_rgrpd {
	struct gfs2_sbd *rd_sbd;
	struct gfs2_glock *rd_gl;
	uint64_t rd_addr, rd_data0;
	uint32_t rd_length, rd_data, rd_bitbytes;
	unsigned rd_index;
	struct gfs2_rbitmap *rd_bits;	/* rd_length of them; there while the rgrp is instantiated */

	/* instantiated */
	atomic_bool rd_valid;		/* bitmaps are here; relaxed: rd_gl orders it, else a hint */
	uint32_t rd_flags, rd_free, rd_dinodes;
	uint32_t rd_unlinked;		/* of those; counted when it was read, for the value block */
	uint64_t rd_igeneration;
	uint32_t rd_free_clone;		/* may be allocated now */
	uint32_t rd_last_alloc;		/* where to go on when there is no goal here */
	uint32_t rd_longest;		/* no run is longer than this; NO_BLOCK: not known */

	struct rgrp_pending *rd_pending; /* ascending seq */
	unsigned rd_nr_pending, rd_pending_space;
	uint64_t rd_pending_all;	/* too many to list: all settle with this batch; 0: no */

	struct rgrp_resv *rd_resv;	/* RGRP_MAX_RESV; NULL until there is one: a large volume has many rgrps */
	unsigned rd_nr_resv;
	uint64_t rd_resv_clock;		/* counts allocations */

	/* Reserved by gfs2_inplace_reserve and not yet taken; only matters in the window in which
	 * rgrp_lock() gives up a lock to keep the lock order.  Relaxed: rd_gl orders it. */
	atomic_uint rd_claimed;
	atomic_uint rd_hint_free;	/* rd_free when last seen, or HINT_UNKNOWN */
	atomic_bool rd_hint_lvb;	/* rd_hint_free is what another node's value block said */
	atomic_bool rd_used;		/* since gfs2_rgrps_shrink() came by */
	atomic_bool rd_unlinked_seen;	/* had unlinked dinodes when it was read: gfs2_reclaim_seen() */
};

struct gfs2_rgrps {
	struct gfs2_rgrpd *rg;		/* ascending addresses */
	unsigned nr;
	atomic_uint spread;		/* counts new directories that are to be spread */
	atomic_bool unlinked_seen;	/* some rd_unlinked_seen is set */
};

/* --- rgrp.c: the lock of an rgrp, held by this thread for the operation under way --- */
/* EX on @rgd; nests.  No transaction is open.  Keeps the order of addresses: locks of higher rgrps
 * that this thread holds are given up and taken again; -ENOSPC if another node took the blocks that
 * were claimed there meanwhile. */
int rgrp_lock(struct gfs2_rgrpd *rgd);
void rgrp_unlock(struct gfs2_rgrpd *rgd);
/*
 * With rgrplvb, before rgrp_lock(): if nothing is known of @rgd, let the value block of its lock say how much is free (rd_hint_free), so that
 * a full one need not be read.  Takes the lock for a moment; does nothing where that would be against the order of locks.
 */
int rgrp_look_at_lvb(struct gfs2_rgrpd *rgd);
bool rgrp_is_mine(const struct gfs2_rgrpd *rgd);
bool rgrp_any_is_mine(void);
/* Locked: this operation will allocate @n blocks / has no claim on @n of them any more. */
void rgrp_claim(struct gfs2_rgrpd *rgd, uint32_t n);
void rgrp_unclaim(struct gfs2_rgrpd *rgd, uint32_t n);

struct gfs2_rgrpd *gfs2_blk2rgrpd(struct gfs2_sbd *sdp, uint64_t blkno); /* data area; NULL */

/* --- rgrp.c: bitmaps --- */
static inline unsigned rgrp_bit_index(const struct gfs2_rgrpd *rgd, uint32_t i)
{
	uint32_t first = rgd->rd_bits[0].bi_blocks;

	return i < first ? 0 : 1 + (i - first) / rgd->rd_bits[1].bi_blocks;
}

static inline uint8_t *rbit_bytes(const struct gfs2_rbitmap *bi)
{
	return (uint8_t *)bi->bi_bh->b_data + bi->bi_offset;
}

static inline const uint8_t *rbit_view(const struct gfs2_rbitmap *bi)
{
	return bi->bi_clone ? bi->bi_clone : rbit_bytes(bi);
}

unsigned rgrp_state(const struct gfs2_rgrpd *rgd, uint32_t i);
/* First index >= @i that may (@want_free) or may not be allocated; rd_data if there is none. */
uint32_t rgrp_next(const struct gfs2_rgrpd *rgd, uint32_t i, bool want_free);
/* Are all blocks of [start, start+len) in @state? */
bool rgrp_all(const struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len, unsigned state);
void rbit_set(uint8_t *bytes, uint32_t start, uint32_t len, unsigned state);
struct rbit_counts {
	uint32_t free, used, unlinked, dinodes;
};
void rbit_count(const uint8_t *bytes, uint32_t nr_bytes, struct rbit_counts *c);

/* --- rindex.c: make rd_bits: which bytes of which block have the bits (reference 3.1) --- */
void rgrp_make_bits(struct gfs2_rgrpd *rgd);

/* --- rgrp.c: header --- */
/* In a transaction, EX: pin the header block. */
void rgrp_pin_header(struct gfs2_rgrpd *rgd);
/* Header image, checksum, value block and hint <- in-core counters; @unlinked: change of the number
 * of unlinked dinodes, which only the value block has. */
void rgrp_out(struct gfs2_rgrpd *rgd, int unlinked);
/* Nothing of @rgd is cached any more. */
void rgrp_release(struct gfs2_rgrpd *rgd);

/* --- rgrp_free.c: frees that are not durable yet --- */
void rgrp_pending_add(struct gfs2_rgrpd *rgd, uint64_t seq, uint32_t start, uint32_t len);
/* Carry over what has become durable. */
void rgrp_pending_settle(struct gfs2_rgrpd *rgd);
void rgrp_pending_drop(struct gfs2_rgrpd *rgd);

/* --- rgrp_alloc.c --- */
void rgrp_resv_forget(struct gfs2_rgrpd *rgd, uint64_t owner);

#endif
