/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inode cache's own data, for icache.c and dio_time.c only.
 */
#ifndef GFS2FUSE_ICACHE_H
#define GFS2FUSE_ICACHE_H

#include "fs/inode.h"

struct gfs2_icache {
	struct rmutex lock;	/* RANK_ICACHE: everything but the pending list */
	struct rcond wait;	/* an i_new or i_dead inode settled */
	struct gfs2_inode **buckets;
	unsigned nr_buckets;	/* power of two */
	unsigned nr;
	/* Inodes whose deletion failed: tried again at unmount.  Bounded: the next mount finds the rest. */
	uint64_t undeleted[64];
	unsigned nr_undeleted;

	struct rmutex pending_lock; /* RANK_DIO; taken inside i_lock */
	struct list_head pending; /* inodes with i_pending_mtime, oldest first; no reference is held */
};

#endif
