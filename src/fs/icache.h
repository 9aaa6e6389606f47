/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inode cache from inside: for icache.c (objects and references), remnant.c (what is left of them, node ids), icache_trim.c (who makes
 * one of the other), unlinked.c (what is to be deleted), and dio_time.c, whose list is here.  Others: fs/inode.h.
 */
#ifndef GFS2FUSE_ICACHE_H
#define GFS2FUSE_ICACHE_H

#include "fs/inode.h"
#include "util/slab.h"

/* What is left of an inode that only the kernel knows; see remnant.c. */
struct gfs2_remnant {
	struct gfs2_remnant *r_next;
	uint64_t r_no_addr, r_formal;
	uint64_t r_nlookup : 63;
	uint64_t r_kcached : 1;
};

struct gfs2_icache {
	struct rmutex lock;	/* RANK_ICACHE: everything but the pending list */
	struct rcond wait;	/* an i_new or i_dead inode settled; a hunt is wanted, or over; the timer's request is */
	struct gfs2_inode **buckets;
	unsigned nr_buckets;	/* power of two */
	unsigned nr;
	/* Inodes whose deletion failed: tried again (unlinked.c).  Bounded: the next mount finds the rest. */
	struct {
		uint64_t no_addr;
		bool failed;	/* since it was tried last */
	} undeleted[64];
	unsigned nr_undeleted;
	uint64_t undeleted_due_ns, undeleted_wait_ns;	/* when they are tried next; how long after the last time */
	atomic_uint many;	/* more than that are a reason to call for gfs2_icache_trim(); relaxed */
	/* Made since then; relaxed: one more or less.  As many are, too: where they go at once, being deleted, their locks stay. */
	atomic_uint made;
	struct list_head idle;	/* inodes that were left to the kernel's lookups, oldest first; some are in use again */
	/* Inodes that were let go for another node to delete: did it?  If there are too many, the next mount finds the others. */
	struct {
		uint64_t no_addr, due_ns;
	} let_go[64];
	unsigned nr_let_go;
	/* Inodes that other nodes were asked to let go, hashed by no_addr; a newer one takes an older one's place. */
	struct {
		uint64_t no_addr, formal;
	} asked[1024];
	struct list_head reap;	/* inodes that another node has wanted to delete while they were in use here */
	struct gfs2_remnant **remnants;
	unsigned remnant_buckets, nr_remnants;
	struct slab_cache inode_slab, remnant_slab;	/* have their own locks */
	struct list_head doomed; /* inodes that lost their last name, until they are gone */
	atomic_uint_least64_t gone; /* how many inodes were deleted; changed under the lock, read without (acquire) */
	uint64_t hunts, hunted;	/* how many gfs2_inodes_hunt() have begun, and are over */
	bool hunt_wanted;	/* somebody waits for the next one */

	struct rmutex pending_lock; /* RANK_DIO; taken inside i_lock */
	struct list_head pending; /* inodes with i_pending_mtime, oldest first; no reference is held */
};

/* --- icache.c --- */
/* Lock held.  In any state. */
struct gfs2_inode *icache_find(struct gfs2_icache *ic, uint64_t no_addr);
/* May anything be written to the volume? */
bool icache_writable(struct gfs2_sbd *sdp);
/* Would something be lost with the object? */
bool icache_must_write(struct gfs2_inode *ip);
/* Lock held, nobody but the kernel's lookups has @ip: is it to be deleted before these are forgotten? */
bool icache_must_reap(const struct gfs2_inode *ip);
/* No lock held.  The caller has made @ip dead: nobody else has a reference. */
void icache_destroy_inode(struct gfs2_inode *ip);

/* --- remnant.c; lock held --- */
/* What the kernel calls it; 0: its formal number is not known yet, so the kernel has never been told of it. */
uint64_t icache_node_of(struct gfs2_inode *ip);
/* The one of this node id, to be handed to remnant_take() or remnant_drop(); NULL: there is none. */
struct gfs2_remnant **remnant_slot(struct gfs2_icache *ic, uint64_t node);
/* Alone: of the inode that is in this block. */
struct gfs2_remnant **remnant_at(struct gfs2_icache *ic, uint64_t no_addr);
/* @ip's lookups are counted by a remnant, too, from now on; the caller takes them from @ip.  False: no memory, nothing has happened. */
bool remnant_add(struct gfs2_icache *ic, struct gfs2_inode *ip);
/* The lookups come back to the object, which has a reference of its own. */
void remnant_take(struct gfs2_icache *ic, struct gfs2_remnant **slot, struct gfs2_inode *ip);
/* The same for one that has been in core meanwhile, if there is a remnant. */
void remnant_join(struct gfs2_icache *ic, struct gfs2_inode *ip);
void remnant_drop(struct gfs2_icache *ic, struct gfs2_remnant **slot);
void remnant_drop_all(struct gfs2_icache *ic);
/* The smallest node id of this block that is larger than @after, if it is smaller than @next (0: anything is); else @next. */
uint64_t remnant_next(struct gfs2_icache *ic, uint64_t no_addr, uint64_t after, uint64_t next);

/* --- unlinked.c; no lock held --- */
/*
 * Another node leaves the end of what is in this block to us (@at_once), or is about to free it and may not live to do it: to be looked at, at once
 * or some seconds later.
 */
void icache_note_let_go(struct gfs2_sbd *sdp, uint64_t no_addr, bool at_once);
/* Look at what is due @then (now_ns(); UINT64_MAX: all). */
void icache_check_let_go(struct gfs2_sbd *sdp, uint64_t then);
/* It could not be deleted, which is said once; it will be tried again. */
void icache_note_undeleted(struct gfs2_sbd *sdp, uint64_t no_addr, int error);
/* Try again what could not be deleted, if it is time @then (now_ns(); UINT64_MAX: all). */
void icache_delete_undeleted(struct gfs2_sbd *sdp, uint64_t then);
/*
 * May the other nodes that have @ip in core say something if they are asked to let it go?  Once: whoever keeps it is not asked by the DLM again,
 * and is silent.
 */
bool icache_ask(struct gfs2_inode *ip);

#endif
