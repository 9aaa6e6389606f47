/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The metadata tree: file block -> device block, allocation, unstuffing, truncation (kernel:
 * bmap.c; reference section 4).
 */
#ifndef GFS2FUSE_BMAP_H
#define GFS2FUSE_BMAP_H

#include "fs/inode.h"
#include "fs/rgrp.h"

/*
 * What is at @lblock: a run of at most @max blocks, mapped or hole.  From the extent map, else
 * from the tree (then remembered).  Any holder on the inode, not stuffed.  Result satisfies:
 * lblock as asked, 1 <= len <= max, mapped blocks lie inside an rgrp. A pointer outside every
 * rgrp is a consistency error (-EIO).
 */
int gfs2_map_extent(struct gfs2_inode *ip, uint64_t lblock, uint64_t max, struct extent *out);
/*
 * The same from memory: the extent map, else the blocks of the tree that are cached.  Mapped blocks only (but a hole that the extent
 * map knows); false: not known without reading, or something is wrong, which gfs2_map_extent() will tell.  Never waits: for receive
 * threads.  Any holder.
 */
bool gfs2_map_extent_cached(struct gfs2_inode *ip, uint64_t lblock, uint64_t max, struct extent *out);

/*
 * Blocks of metadata that allocating @len blocks at @lblock may need, worst case (height growth
 * included).
 */
unsigned gfs2_alloc_meta_blocks(struct gfs2_inode *ip, uint64_t lblock, uint64_t len);
/*
 * How many it will be exactly for the one block @lblock, a hole: what is left of a volume that is nearly full must not be
 * refused because of the worst case.  Any holder, no transaction; reads the path.
 */
int gfs2_alloc_meta_missing(struct gfs2_inode *ip, uint64_t lblock, unsigned *missing);
/*
 * Before a transaction, EX, not stuffed: the blocks of the tree that allocating at @lblock will look at, each with a reference in @path
 * (GFS2_MAX_META_HEIGHT of them); as long as these are held gfs2_alloc_extent() reads nothing there.
 */
int gfs2_alloc_read_path(struct gfs2_inode *ip, uint64_t lblock, struct gfs2_bh **path, unsigned *nr);
/*
 * In a transaction with ap reserved, EX, not stuffed: allocate data blocks for the hole at
 * @lblock, up to *@len blocks (never across an indirect block); new pointers, dinode, i_blocks,
 * i_goal are logged; the extent map is updated.  *@pblock, *@len: what was allocated.  The caller
 * sees to the contents (ordered data) before gfs2_trans_end, also when a later call in the same transaction fails: what this one
 * has linked is committed then, too.  After an error there may be more indirect blocks, but no data block has been linked (-EIO, when a block of the tree
 * cannot be read) or the mount has withdrawn.
 */
int gfs2_alloc_extent(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t lblock, uint64_t *pblock,
		      unsigned *len);
/*
 * Blocks for holes of the file, with their contents first (alloc_filled.c).  EX, not stuffed, no transaction; @holes ascending.
 * From the first hole's first block on as many as come in one run, at most @max: @filler->fill() writes to the run
 * [bn, +n), which is nobody's yet, then one transaction makes it the file's, in which @filler->linked() (may be NULL) is called; it
 * may log the dinode.  *@done: how many blocks.  On error nothing has changed; -ENOSPC, -EIO, what fill() returned.
 */
struct gfs2_hole {
	uint64_t lblock, len;
};
struct gfs2_filler {
	int (*fill)(struct gfs2_filler *filler, uint64_t bn, unsigned n);
	int (*linked)(struct gfs2_filler *filler, unsigned n);
};
int gfs2_alloc_filled(struct gfs2_inode *ip, const struct gfs2_hole *holes, unsigned nr, uint64_t max,
		      struct gfs2_filler *filler, uint64_t *done);
/*
 * In a transaction with 1 block reserved (if size > 0), EX: move stuffed data to a block
 * (directories: hash table, JD block).
 */
int gfs2_unstuff(struct gfs2_inode *ip, struct gfs2_alloc *ap);
/* The same with a transaction and a reservation of its own (file_write.c). */
int gfs2_unstuff_trans(struct gfs2_inode *ip);

/*
 * EX held, no transaction: cut to @size (own transactions; crash-safe with
 * GFS2_DIF_TRUNC_IN_PROG; reference 4.5), or grow.
 */
int gfs2_truncate(struct gfs2_inode *ip, uint64_t size);
/* EX held: finish a truncate that a crash interrupted (go_held): nothing is left behind the end, and an empty file is stuffed. */
int gfs2_truncate_resume(struct gfs2_inode *ip);
/*
 * EX held, own transactions: free all data/indirect blocks of [lstart, end of file): deletion and
 * truncate. @jdata/dir blocks are wiped with revokes.
 */
int gfs2_punch_from(struct gfs2_inode *ip, uint64_t lstart);
/*
 * EX held, own transactions: free what is in file blocks [lstart, lend); indirect blocks go when all they can point at is in
 * there.  Sets mtime and ctime, also when nothing is to be freed.
 */
int gfs2_punch_blocks(struct gfs2_inode *ip, uint64_t lstart, uint64_t lend);

/*
 * How many blocks a transaction may log that allocates: the dinode, @meta indirect blocks, bitmaps for
 * @blocks (data and metadata) and statfs.
 */
unsigned gfs2_alloc_trans_blocks(const struct gfs2_alloc *ap, unsigned meta, unsigned blocks);

/*
 * EX, no transaction, not stuffed: zero the rest of the block that contains byte @size, if it is allocated
 * (ordered data; own transaction for journaled data).
 */
int gfs2_zero_tail(struct gfs2_inode *ip, uint64_t size);
/* The same for the @len bytes from @pos on, inside one block. */
int gfs2_zero_in_block(struct gfs2_inode *ip, uint64_t pos, uint32_t len);
/*
 * EX, no transaction, deletion: all of the tree and, in the last transaction, the dinode itself
 * (2 -> 0).
 */
int gfs2_free_tree_and_dinode(struct gfs2_inode *ip);

/*
 * Raw reads of file contents of internal files (rindex, journals' maps, statfs): any holder;
 * short at EOF.
 */
int gfs2_internal_read(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size);
/* All extents of a file without holes (journals); -EIO if it has holes. */
int gfs2_map_journal_extents(struct gfs2_inode *ip, struct gfs2_jdesc *jd);


/* --- shared by bmap.c, alloc.c and truncate.c --- */

/* Is @blkno something that a pointer of @ip may name?  Consistency error (-EIO) if not. */
int gfs2_check_pointer(struct gfs2_inode *ip, uint64_t blkno);

/* Level 0 is the dinode; level i_height - 1 points at data. */
static inline __be64 *gfs2_metaptrs(const struct gfs2_bh *bh, unsigned level)
{
	return (__be64 *)(bh->b_data + (level ? sizeof(struct gfs2_meta_header) :
						sizeof(struct gfs2_dinode)));
}
static inline unsigned gfs2_nr_metaptrs(const struct gfs2_sbd *sdp, unsigned level)
{
	return level ? sdp->sd_inptrs : sdp->sd_diptrs;
}
/* Data blocks below one pointer of @level in a tree of @height. */
static inline uint64_t gfs2_span(const struct gfs2_sbd *sdp, unsigned height, unsigned level)
{
	uint64_t span = 1;

	while (++level < height)
		span *= sdp->sd_inptrs;
	return span;
}
/* First file block that no file can have. */
static inline uint64_t gfs2_max_lblock(const struct gfs2_sbd *sdp)
{
	return ((uint64_t)INT64_MAX >> sdp->sd_bsize_shift) + 1;
}

#endif
