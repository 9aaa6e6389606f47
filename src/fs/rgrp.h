/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Resource groups: the allocator (kernel: rgrp.c; reference gfs2-ondisk.md section 3).
 *
 * Guarantees
 *  - Only the permitted bitmap transitions happen; anything else on disk is a consistency error.
 *  - A block freed in a transaction is not handed out before that transaction is durable (clone bitmaps that lag behind, by
 *    gfs2_trans_batch_seq/gfs2_log_durable_seq).
 *  - rg_free, rg_dinodes, rg_igeneration, rg_crc, local statfs and the value block follow every change in the same transaction.
 *
 * Locking: an rgrp's bitmaps and counters belong to its glock (EX to change).  One request never waits for a second rgrp
 * glock with a smaller address than one it holds (rgrp.c keeps the order, by thread: reserve/lock and release/free of one
 * operation happen on one thread).  The index of rgrps does not change while mounted; hints are atomics.
 *
 * Policy: start at the goal's rgrp; new directories of the root are spread; large requests take long free runs (a file
 * that grows by big writes comes out in long extents); several writers keep out of each other's way (per-inode
 * reservation: after an allocation the run that follows is remembered for that inode).
 */
#ifndef GFS2FUSE_RGRP_H
#define GFS2FUSE_RGRP_H

#include "fs/super.h"

enum { GFS2_BLKST_FREE_ = 0, GFS2_BLKST_USED_ = 1, GFS2_BLKST_UNLINKED_ = 2, GFS2_BLKST_DINODE_ = 3 };

/* Read the rindex file of sdp->sd_rindex (holds it SH) and build the index; checks geometry and order. */
int gfs2_rindex_read(struct gfs2_sbd *sdp);
void gfs2_rgrps_destroy(struct gfs2_sbd *sdp);

/*
 * What an operation may allocate.  Lives on the caller's stack between reserve and release.
 * The rgrp's glock is held EX in between; allocation happens inside one transaction in between.
 */
struct gfs2_alloc {
	uint32_t target;	/* in: blocks wanted */
	uint32_t min_target;	/* in: 0 = all or nothing; else fewer are acceptable, at least this many */
	uint32_t allowed;	/* out: blocks that may be allocated */
	uint64_t goal;		/* in: start near this block (0: the inode's goal) */
	bool spread;		/* in: choose another rgrp than the goal's (new directory below the root) */
	/* private */
	struct gfs2_rgrpd *rgd;
	uint32_t taken;
	uint32_t peeked;	/* index of the first block that gfs2_alloc_peek*() promised, +1; 0: none */
	uint32_t peeked_len;
};
/*
 * Choose and lock an rgrp.  -ENOSPC when no rgrp has min_target (after a log flush, if freed blocks
 * wait for it).  Called with the inode's glock EX, without transaction; the thread may hold a locked
 * gfs2_rgrp_list, and may lock one afterwards (the order of rgrps is kept inside).  -EROFS, -EIO.
 */
int gfs2_inplace_reserve(struct gfs2_inode *ip, struct gfs2_alloc *ap);
void gfs2_inplace_release(struct gfs2_inode *ip, struct gfs2_alloc *ap);
/* Bitmap blocks + header that a transaction may log for one allocation of @blocks in the reserved rgrp. */
unsigned gfs2_rg_blocks(const struct gfs2_alloc *ap, unsigned blocks);

/*
 * In a transaction: allocate an extent of up to *@n blocks (first one a dinode when @dinode: then *@n is dinode + following
 * USED blocks).  *@bn first block, *@n how many.  @generation: new formal inode number (dinode only).  Updates rgrp, statfs,
 * the inode's i_goal (the caller logs the dinode), removes pending revokes of the blocks.
 */
int gfs2_alloc_blocks(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n,
		      bool dinode, uint64_t *generation);

/*
 * The block that gfs2_alloc_blocks(@dinode true) will take under this reservation: the creator takes the new inode's glock
 * (EX, TRY, GL_SKIP) before it opens the transaction, since nobody may wait for a glock inside one.
 */
int gfs2_alloc_peek(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn);

/*
 * The run of at most *@n data blocks that gfs2_alloc_data() will hand out first under this reservation; *@bn, *@n: the run.
 * What is free here is durably free, so the caller may write to these blocks (zeros) before its transaction.
 */
int gfs2_alloc_peek_run(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n);
/* As gfs2_alloc_blocks, for file data: from the promised run if there is one. */
int gfs2_alloc_data(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n);

/*
 * Freeing: first collect which rgrps a set of blocks lies in, lock them (ascending), then, in one transaction, free.
 */
struct gfs2_rgrp_list {
	unsigned rl_rgrps, rl_space;
	struct gfs2_rgrpd **rl_rgd;	/* ascending */
	bool rl_locked;
};
void gfs2_rlist_init(struct gfs2_rgrp_list *rl);
int gfs2_rlist_add(struct gfs2_sbd *sdp, struct gfs2_rgrp_list *rl, uint64_t blkno); /* -EIO + consist if in no rgrp */
int gfs2_rlist_lock(struct gfs2_sbd *sdp, struct gfs2_rgrp_list *rl);	/* EX on all */
/*
 * Headers and bitmaps that a transaction may log when it changes the state of @blocks blocks of them: all there are, or fewer if there are fewer blocks.
 * (A group can have more bitmaps than a small journal has room for a few of them.)
 */
unsigned gfs2_rlist_blocks(const struct gfs2_rgrp_list *rl, uint64_t blocks);
void gfs2_rlist_free(struct gfs2_rgrp_list *rl);	/* unlocks */

/* In a transaction, rgrp held EX: free [bstart, +blen) of one rgrp.  Images in the log are revoked (counted against the
 * transaction's revokes: metadata and jdata have some), buffers are dropped.  Updates statfs. */
int gfs2_free_blocks(struct gfs2_sbd *sdp, uint64_t bstart, uint32_t blen);
int gfs2_free_di(struct gfs2_sbd *sdp, uint64_t blkno);	/* 2->0 (3->0 after a failed create) */
int gfs2_unlink_di(struct gfs2_sbd *sdp, uint64_t blkno);	/* 3->2 */

/* State of one block (takes its rgrp SH unless this request holds it). 0..3 or -errno. */
int gfs2_get_block_type(struct gfs2_sbd *sdp, uint64_t blkno);
/* Is the block inside the data area of an rgrp? For pointer checks; no lock on the rgrp needed. */
bool gfs2_blk_in_rgrp(struct gfs2_sbd *sdp, uint64_t blkno);
/* The address, and so the glock's number, of the resource group that it is in; 0: none. */
uint64_t gfs2_rgrp_of_block(struct gfs2_sbd *sdp, uint64_t blkno);
/* Call @fn for every block in state UNLINKED, outside of any lock.  Ends early only when the mount withdraws; the first error. */
int gfs2_for_each_unlinked(struct gfs2_sbd *sdp, int (*fn)(struct gfs2_sbd *, uint64_t blkno));
/* The same for those rgrps only that had some when they were read for another reason, since the last call. */
int gfs2_for_each_unlinked_seen(struct gfs2_sbd *sdp, int (*fn)(struct gfs2_sbd *, uint64_t blkno));
/* Are there such rgrps? */
bool gfs2_unlinked_seen(const struct gfs2_sbd *sdp);
/* Read those rgrps that nothing is known of, so that their unlinked inodes have been seen.  No rgrp held, no transaction. */
int gfs2_rgrps_look(struct gfs2_sbd *sdp);
/* What reading all bitmaps would mean. */
uint64_t gfs2_rgrps_bitmap_bytes(const struct gfs2_sbd *sdp);
/* Sums over all rgrps (reads every header): free, dinodes, data blocks. */
int gfs2_rgrps_sum(struct gfs2_sbd *sdp, struct gfs2_statfs_host *out);

/*
 * fstrim (kernel: gfs2_fitrim): tell the store which blocks in [start, +len) are free, in runs of at least minlen bytes.  Only what is durably
 * free: the log is flushed before.  A group in which nothing was freed since it was done as a whole is left out
 * (GFS2_RGF_TRIMMED).  -EOPNOTSUPP: the store knows no discard; -EROFS, -EINVAL (beyond the end; minlen larger than any group), -EINTR, -EIO.
 * No lock held; may take long, each group's glock is held EX for its own part of it.
 */
struct gfs2_trim {
	uint64_t start, len, minlen;	/* bytes */
	bool (*stop)(void *arg);	/* asked between groups: is that enough? */
	void *arg;
	uint64_t trimmed;		/* out, bytes; also with an error */
};
int gfs2_fitrim(struct gfs2_sbd *sdp, struct gfs2_trim *t);

/* Memory is short: give up rgrps that have not been used for a while.  No lock held. */
void gfs2_rgrps_shrink(struct gfs2_sbd *sdp);

/* glops of the type */
int rgrp_go_sync(struct gfs2_glock *gl);
void rgrp_go_inval(struct gfs2_glock *gl, bool metadata);
int rgrp_go_instantiate(struct gfs2_glock *gl);
void rgrp_go_dump(struct gfs2_glock *gl, FILE *out);

#endif
