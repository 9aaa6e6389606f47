/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Freeing blocks of one inode piece by piece; shared by truncate.c and evict.c.
 *
 * A piece is a set of blocks together with the pointers to them.  gfs2_dealloc_add() collects,
 * gfs2_dealloc_commit() locks the rgrps concerned in ascending order, opens a transaction, zeroes
 * the pointers, frees the blocks and logs the dinode.  So at every moment the pointers on disk
 * and the bitmaps agree, and neither memory nor log space grow with the file.
 *
 * Needs from callers: EX on the inode, no transaction, no rgrp locked.
 */
#ifndef GFS2FUSE_DEALLOC_H
#define GFS2FUSE_DEALLOC_H

#include "fs/bmap.h"

#define DEALLOC_MAX_EXTS 1024
#define DEALLOC_MAX_CLEARS 128
#define DEALLOC_MAX_BLOCKS 65536
#define DEALLOC_MAX_REVOKES 8192 /* the kernel's GFS2_JTRUNC_REVOKES */

struct dealloc_ext {
	uint64_t start;
	uint32_t len;
	bool meta;		/* wiped from the journal, with revokes */
};
struct dealloc_clear {
	struct gfs2_bh *bh;	/* referenced */
	uint32_t off, len;	/* bytes to zero */
};

struct gfs2_dealloc {
	struct gfs2_inode *ip;
	struct gfs2_rgrp_list rlist;
	unsigned nr_exts, nr_clears;
	uint32_t blocks, meta_blocks;
	/* What one piece should not exceed by much: blocks logged, revokes. */
	unsigned log_limit, revoke_limit;
	/* Called inside each transaction before the dinode is logged; @last: all is free.  May change the
	 * dinode in core and its block @dibh, which is in the transaction.  An error ends what the transaction does. */
	int (*finish)(struct gfs2_dealloc *d, struct gfs2_bh *dibh, bool last);
	/* truncate.c */
	uint64_t new_size;
	struct dealloc_clear tail;	/* in the block that @new_size is in; bh NULL: nothing, or done */
	bool free_dinode;	/* the last transaction frees the dinode too */
	struct dealloc_ext exts[DEALLOC_MAX_EXTS];
	struct dealloc_clear clears[DEALLOC_MAX_CLEARS];
};

/* 40 KiB: on the heap.  NULL without memory. */
struct gfs2_dealloc *gfs2_dealloc_new(struct gfs2_inode *ip);
void gfs2_dealloc_free(struct gfs2_dealloc *d);
/*
 * One block, found through the 8-byte pointer at @off of @bh (NULL: the pointer is cleared by
 * ->finish).  The pointers of one @bh come in ascending or in descending order.  -EIO when the block
 * is in no rgrp.
 */
int gfs2_dealloc_add(struct gfs2_dealloc *d, struct gfs2_bh *bh, uint32_t off, uint64_t blkno,
		     bool meta);
/* Pointers in @bh need not be cleared: the block itself is freed in this piece. */
void gfs2_dealloc_drop_clears(struct gfs2_dealloc *d, const struct gfs2_bh *bh);
/* Is the piece large enough? */
bool gfs2_dealloc_full(const struct gfs2_dealloc *d);
int gfs2_dealloc_commit(struct gfs2_dealloc *d, bool last);

#endif
