/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the journal knows about single blocks: a hash table from block number to a small record.
 *
 * The running log has one record per block that is pinned, waits for a revoke or has an image in
 * the active region of the log; it outlives the block's buffer.  Recovery keeps revokes and newest
 * images in one.  Open addressing with linear probing: one cache line per lookup, and no
 * allocation but for growing.
 *
 * No locking: the owner's lock.  A pointer to a record is valid until the next blktab_get() or
 * blktab_gc() of the same table.
 */
#ifndef GFS2FUSE_JOURNAL_BLKTAB_H
#define GFS2FUSE_JOURNAL_BLKTAB_H

#include <stddef.h>
#include <stdint.h>

struct log_block {
	uint64_t blkno;	/* 0: free slot; block 0 is never journaled */
	uint64_t seq;	/* batch of the newest image in the active region, 0: none */
	uint64_t glkey;	/* glock of that image */
	/* Indexes + 1, 0: none. */
	uint32_t pin;	/* in the open batch's pins */
	uint32_t ail;	/* in the entries of batch seq: the image is not in place yet */
	uint32_t rev;	/* in the open batch's revokes */
};

struct blktab {
	struct log_block *slots;
	unsigned bits;	/* 1 << bits slots */
	unsigned nr;
};

void blktab_init(struct blktab *t);
void blktab_free(struct blktab *t);
/* The record of @blkno (not 0), NULL if there is none. */
struct log_block *blktab_find(const struct blktab *t, uint64_t blkno);
/* The same, made when missing (all zero but blkno). */
struct log_block *blktab_get(struct blktab *t, uint64_t blkno);
/* Remove @b if it says nothing any more (no image, pin, revoke). */
void blktab_gc(struct blktab *t, struct log_block *b);

/*
 * Arrays that grow: room for one more element in @array of @nr (capacity *@cap, element size
 * @size).  Does not fail: the program stops with a message before anything wrong is written.
 */
void *grow_array(void *array, unsigned nr, unsigned *cap, size_t size);

#endif
