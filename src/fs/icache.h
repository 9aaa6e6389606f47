/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inode cache's own data, for icache.c and dio_time.c only.
 */
#ifndef GFS2FUSE_ICACHE_H
#define GFS2FUSE_ICACHE_H

#include "fs/inode.h"
#include "util/slab.h"

/* What is left of an inode that only the kernel knows; see icache.c. */
struct gfs2_remnant {
	struct gfs2_remnant *r_next;
	uint64_t r_no_addr, r_formal;
	uint64_t r_nlookup : 63;
	uint64_t r_kcached : 1;
};

struct gfs2_icache {
	struct rmutex lock;	/* RANK_ICACHE: everything but the pending list */
	struct rcond wait;	/* an i_new or i_dead inode settled */
	struct gfs2_inode **buckets;
	unsigned nr_buckets;	/* power of two */
	unsigned nr;
	/* Inodes whose deletion failed: tried again at unmount.  Bounded: the next mount finds the rest. */
	uint64_t undeleted[64];
	unsigned nr_undeleted;
	atomic_uint many;	/* more than that are a reason to call for gfs2_icache_trim(); relaxed */
	struct list_head idle;	/* inodes that were left to the kernel's lookups, oldest first; some are in use again */
	/* Inodes that were let go for another node to delete: did it?  If there are too many, the next mount finds the others. */
	struct {
		uint64_t no_addr, due_ns;
	} let_go[64];
	unsigned nr_let_go;
	struct list_head reap;	/* inodes that another node has wanted to delete while they were in use here */
	struct gfs2_remnant **remnants;
	unsigned remnant_buckets, nr_remnants;
	struct slab_cache inode_slab, remnant_slab;	/* have their own locks */
	struct list_head doomed; /* inodes that lost their last name, until they are gone */
	atomic_uint_least64_t gone; /* how many inodes were deleted; changed under the lock, read without (acquire) */
	bool hunting;		/* gfs2_inodes_hunt() is under way */
	bool hunt_wanted;	/* somebody waits for one */

	struct rmutex pending_lock; /* RANK_DIO; taken inside i_lock */
	struct list_head pending; /* inodes with i_pending_mtime, oldest first; no reference is held */
};

#endif
