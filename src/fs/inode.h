/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In-core inodes (kernel: incore.h, inode.c, glops.c, super.c:evict).
 *
 * One struct gfs2_inode per (no_addr); found through the icache.  References: kernel lookups
 * (i_nlookup), open files and whoever works with it.  While it is in core the node holds
 * IOPEN/no_addr in SH.
 *
 * Locking
 *  - Everything that mirrors the dinode (below "dinode"): the inode's glock, i_gl.  Read with any
 *    holder, change with EX. GLF_INSTANTIATE_NEEDED + go_instantiate (gfs2_inode_refresh) keep it
 *    current.
 *  - i_map (extent map): its own mutex (fs/bmap.h).
 *  - i_pending_*: i_lock.  - reference counts: the icache lock.
 */
#ifndef GFS2FUSE_INODE_H
#define GFS2FUSE_INODE_H

#include <sys/stat.h>
#include "fs/extmap.h"
#include "fs/super.h"
#include "util/seeded.h"

enum { CAPS_UNKNOWN, CAPS_NONE, CAPS_SOME };

struct gfs2_inode {
	struct gfs2_sbd *i_sbd;
	/*
	 * Set once, by the creator or by whoever reads the dinode first; 0: not known yet. See
	 * gfs2_formal_ino().
	 */
	uint64_t i_no_addr, i_no_formal_ino;
	struct gfs2_glock *i_gl;
	struct gfs2_glock *i_iopen_gl;
	struct gfs2_holder i_iopen_gh;

	/* dinode: guarded by i_gl (see above) */
	uint32_t i_mode, i_uid, i_gid, i_nlink;
	uint64_t i_size, i_blocks;
	struct timespec i_atime, i_mtime, i_ctime;
	uint32_t i_major, i_minor;
	/*
	 * The size that the kernel's FUSE client was told last: what it probably believes in.  Kept with peers only (fuse/undo.c); relaxed: a guess.
	 */
	atomic_uint_least64_t i_told_size;
	uint64_t i_goal;
	uint64_t i_generation;
	uint32_t i_diskflags;		/* GFS2_DIF_* */
	uint8_t i_height, i_depth;
	uint32_t i_entries;
	uint64_t i_eattr;
	/* CAPS_*: is there a security.capability?  Forgotten when the dinode is read (xattr.c). */
	atomic_int i_capability;
	/*
	 * i_uid and i_gid were set before; the kernel may believe in other ones (gfs2_caller_owns()). relaxed: whoever has to see it has
	 * found the object, or got the lock, after it was set.
	 */
	bool i_owner_known;
	atomic_bool i_owner_moved;
	/* dir.c: in-memory copy of the hash table, NULL if not read; dropped by go_inval */
	__be64 *i_hash_cache;
	/*
	 * Batch that last logged the dinode or its tree: fsync waits for it. atomic: fsync takes
	 * no glock.
	 */
	atomic_uint_least64_t i_log_seq;
	atomic_uint_least64_t i_datasync_seq; /* the same without mere time stamps: fdatasync */

	struct extmap i_map;
	struct gfs2_mapping i_data;	/* data buffers */
	/* file.c: where the last cached read ended, how far ahead it read; relaxed: guesses */
	atomic_uint_least64_t i_read_next;
	atomic_uint i_read_ahead;

	/*
	 * Direct I/O: number of requests in flight (the kernel's i_dio_count); demotions and EX
	 * holders wait for 0.
	 */
	atomic_uint i_dio_count;
	atomic_uint_least64_t i_dio_outcome[DIO_NR_OUTCOMES]; /* since it came into memory; relaxed, statistics */
	struct rmutex i_lock;		/* guards i_pending_*, i_dio_wait, i_rest* */
	struct rcond i_dio_wait;
	bool i_pending_mtime;		/* dio_mtime=deferred: times not yet in the dinode */
	struct timespec i_pending_time;
	/* when the timer looks at it (now_ns()), whether it asks for EX then or only tries; when a time was published last */
	uint64_t i_pending_due_ns, i_published_ns;
	bool i_pending_ask;
	struct list_head i_pending_list; /* the icache's pending lock */
	/* dio/rest.c: direct writes that fell back and wait to be finished; who is at it */
	struct list_head i_rest;
	struct gfs2_rest *i_rest_leader;
	uint16_t i_rest_expect;		/* so many were about lately */
	uint16_t i_rest_flushing;	/* written, not durable yet */
	uint32_t i_rest_took_us;	/* to make the last ones durable; 0: no device, or none yet */

	/* rgrp.c: where the next allocation of this inode should continue; guarded by i_gl EX */
	uint64_t i_res_next;
	uint32_t i_res_len;

	/* icache lock */
	uint64_t i_nlookup;
	unsigned i_refs, i_opens, i_cached_opens;
	uint32_t i_kfills;	/* how often i_kcached was set; may go round */
	atomic_uint i_storing;	/* open for reading and writing, cached: may be mapped and stored into; changed there, read without: relaxed */
	unsigned i_waiters;	/* lookups that wait for i_new or i_dead to end */
	bool i_new, i_dead;	/* being made or going away: found by nobody, lookups wait */
	bool i_unhashed;	/* out of the cache; the last waiter frees it */
	bool i_deleted;		/* went away because its blocks were freed */
	/* Set while mounting: the root, and files that the mount has open itself, some locked to its end. No entry leads there. */
	bool i_own;
	struct list_head i_doomed; /* the icache's list */
	struct list_head i_reap;
	struct list_head i_evict; /* dead: evict_later.c's queue */
	struct gfs2_inode *i_hash;
	struct list_head i_idle;

	/*
	 * The dinode was read at least once, so that i_mode and i_nlink mean something; guarded
	 * by i_gl.
	 */
	bool i_valid;
	/* go_*() calls that use this object just now; i_gl's gl_lock, changes wake gl_wait. */
	unsigned i_glops;

	/*
	 * Without other nodes: kernel page cache may hold pages of this file. Written under the icache lock, and true as long as
	 * i_cached_opens is not 0; read without, relaxed: it is true before the kernel hears of the open that makes it so.
	 */
	atomic_bool i_kcached;
};

/* May the kernel have pages of this file?  The caller has had a holder after those READs that he means. */
static inline bool gfs2_kernel_has_pages(struct gfs2_inode *ip)
{
	return atomic_load_explicit(&ip->i_kcached, memory_order_relaxed) || gfs2_glock_filled(ip->i_gl);
}

/*
 * May the kernel have pages that are dirty?  They are, as long as there is a shared mapping that can be written to; the last one writes them
 * back before it goes (fuse_vma_close()), and the file is open until then.
 */
static inline bool gfs2_kernel_has_stores(struct gfs2_inode *ip)
{
	return atomic_load_explicit(&ip->i_storing, memory_order_relaxed);
}

/*
 * Without a holder.  relaxed: a number that is not seen yet is as good as one that is not known
 * yet.
 */
static inline uint64_t gfs2_formal_ino(struct gfs2_inode *ip)
{
	return __atomic_load_n(&ip->i_no_formal_ino, __ATOMIC_RELAXED);
}

/* The inode's lock is held in EX, or nobody has known the number so far.  gfs2_formal_ino() may be asked meanwhile. */
static inline void gfs2_set_formal_ino(struct gfs2_inode *ip, uint64_t formal)
{
	__atomic_store_n(&ip->i_no_formal_ino, formal, __ATOMIC_RELAXED);
}

/*
 * What the kernel calls an inode (but the root): its block, and the low bits of its formal number, so that the next inode in this block is
 * another one to it.  Volumes are not larger than the bits that are left for the block (rindex.c).  See remnant.c.
 */
#define GFS2_NODE_ADDR_BITS 48
static inline uint64_t gfs2_node_id(uint64_t no_addr, uint64_t formal)
{
	return no_addr | (SEEDED_BUG("node-untold") ? 0 : formal << GFS2_NODE_ADDR_BITS);
}
static inline uint64_t gfs2_node_addr(uint64_t node)
{
	return node & ((1ull << GFS2_NODE_ADDR_BITS) - 1);
}
#define S_ISJDATA(ip) ((ip)->i_diskflags & GFS2_DIF_JDATA)
static inline bool gfs2_is_stuffed(const struct gfs2_inode *ip) { return ip->i_height == 0; }
static inline bool gfs2_is_dir(const struct gfs2_inode *ip) { return S_ISDIR(ip->i_mode); }
static inline bool gfs2_is_jdata(const struct gfs2_inode *ip)
{
	return S_ISREG(ip->i_mode) && (ip->i_diskflags & GFS2_DIF_JDATA);
}
static inline uint32_t gfs2_max_stuffed_size(const struct gfs2_inode *ip)
{
	return ip->i_sbd->sd_bsize - sizeof(struct gfs2_dinode);
}

int gfs2_icache_create(struct gfs2_sbd *sdp);
/* At the end all references are gone: asserted.  The cache itself goes when no glock's worker is left. */
void gfs2_icache_check_empty(struct gfs2_sbd *sdp);
void gfs2_icache_destroy(struct gfs2_sbd *sdp);

/*
 * Find or create the in-core inode, +1 reference; takes IOPEN SH.  Does not read the dinode: that
 * happens at the first holder (go_instantiate).  @formal 0: unknown, taken from the dinode.
 * -ESTALE if a cached inode has another formal number.
 */
int gfs2_inode_lookup(struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t formal,
		      struct gfs2_inode **out);
/*
 * The same for a free block in which an inode is about to be made.  -EAGAIN: there is an object that is just being made or taken down, which may
 * take the resource group's lock, so who has that must not wait for it.
 */
int gfs2_inode_lookup_free(struct gfs2_sbd *sdp, uint64_t no_addr, struct gfs2_inode **out);
/*
 * The one that the kernel means, +1 reference; NULL: it never looked it up, or another node has deleted it.  May read the volume; no
 * glock held.
 */
struct gfs2_inode *gfs2_inode_by_node(struct gfs2_sbd *sdp, uint64_t node);
/* The one in this block, only if in core or known to the kernel; +1 reference.  As above. */
struct gfs2_inode *gfs2_inode_find(struct gfs2_sbd *sdp, uint64_t no_addr);
/* By what ids the kernel may know inodes of this block: the first one after @after, 0: no more. */
uint64_t gfs2_icache_next_node(struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t after);
/* Is it in core, and not just being made or going away?  Does not wait. */
bool gfs2_inode_in_core(struct gfs2_sbd *sdp, uint64_t no_addr);
struct gfs2_inode *gfs2_inode_hold(struct gfs2_inode *ip);
/*
 * Drop a reference.  The last one evicts: an inode with nlink 0 is deleted here (blocks; takes
 * glocks, opens transactions), so no glock may be held.
 */
void gfs2_inode_put(struct gfs2_inode *ip);
/* The kernel got an entry: +1 lookup (and a reference).  The dinode has been read or made: the formal number is known. */
void gfs2_inode_lookup_inc(struct gfs2_inode *ip);
void gfs2_inode_forget(struct gfs2_inode *ip, uint64_t n);	/* FORGET */
void gfs2_inode_forget_node(struct gfs2_sbd *sdp, uint64_t node, uint64_t n); /* the same by node id */
/*
 * Reduce inodes that only the kernel's lookups keep until there are no more than @keep, those idle longest first;
 * returns how many went.  No lock held.
 */
unsigned gfs2_icache_trim(struct gfs2_sbd *sdp, unsigned keep);
/*
 * Another node wants to delete the inode (IOPEN).  True: it is not in core any more; if the kernel knows it, a remnant is left.  False:
 * it is in use.  No lock held; waits for nobody.
 */
bool gfs2_inode_let_go(struct gfs2_sbd *sdp, uint64_t no_addr);
/* Those that were in use then and are no more: delete them, and try again what could not be deleted.  The maintenance thread's. */
void gfs2_icache_reap(struct gfs2_sbd *sdp);
/* From so many on, each further inode wakes the maintenance thread, which trims. */
void gfs2_icache_set_many(struct gfs2_sbd *sdp, unsigned nr);
void gfs2_icache_count(struct gfs2_sbd *sdp, unsigned *objects, unsigned *remnants);
/*
 * Open files; @cached: the kernel may cache its pages through this one; alone, i_kcached is true from now on.  @rdwr: for reading and
 * writing, so if cached it may be mapped and stored into.
 */
void gfs2_inode_open_inc(struct gfs2_inode *ip, bool cached, bool rdwr);
void gfs2_inode_open_dec(struct gfs2_inode *ip, bool cached, bool rdwr);
/* Alone: the kernel is about to get a page through an open that does not cache (a private mapping).  Before the holder under which it is read. */
void gfs2_inode_kernel_fills(struct gfs2_inode *ip);
/*
 * i_kcached becomes false again in three steps: nothing is open through which the kernel could cache pages (true, and *@fills), then the
 * caller has all pages dropped, and if nothing has been opened meanwhile that is it.  Until then direct writes drop what there may be.
 */
bool gfs2_inode_uncache_begin(struct gfs2_inode *ip, uint32_t *fills);
void gfs2_inode_uncache_end(struct gfs2_inode *ip, uint32_t fills);
/* Before unmount: forget all kernel lookups. */
void gfs2_icache_forget_all(struct gfs2_sbd *sdp);

/* Before unmount: inodes whose deletion failed. -EIO: some still cannot be deleted. */
int gfs2_icache_delete_again(struct gfs2_sbd *sdp);

/* In-core <- block (checks: reference 4.1); block <- in-core (all 232 bytes but the payload). */
int gfs2_dinode_in(struct gfs2_inode *ip, const struct gfs2_bh *bh);
void gfs2_dinode_out(const struct gfs2_inode *ip, void *block);
/* The dinode's buffer (any holder). */
int gfs2_meta_inode_buffer(struct gfs2_inode *ip, struct gfs2_bh **out);
/*
 * In a transaction, EX: log the dinode as it is in core.  Fails if the dinode has to be read and cannot be: whoever changes the inode before that
 * keeps the dinode's buffer from before the transaction on (gfs2_dinode_trans_begin()), has it in the transaction already, or withdraws after
 * an error (namei_trans_end()).
 */
int gfs2_dinode_log(struct gfs2_inode *ip);
int gfs2_dinode_log_times(struct gfs2_inode *ip); /* the same when only time stamps changed: fdatasync does not wait */
/*
 * EX: a transaction of @blocks with the dinode at hand: a device that cannot read it fails the call before anything has been changed in core or in
 * the log.  *@dibh is for gfs2_dinode_trans_end().  (When the mount withdraws meanwhile gfs2_dinode_log() fails all the same.)
 */
int gfs2_dinode_trans_begin(struct gfs2_inode *ip, unsigned blocks, struct gfs2_bh **dibh);
void gfs2_dinode_trans_end(struct gfs2_inode *ip, struct gfs2_bh *dibh);
/*
 * Note that the current transaction changed @ip (fsync); @only_times: fdatasync need not wait for
 * it.
 */
void gfs2_inode_note_log(struct gfs2_inode *ip, bool only_times);

/* @ip has lost its last name (EX). */
void gfs2_inode_doom(struct gfs2_inode *ip);
/*
 * For who found no space: deleted files whose blocks are about to come back, because nobody has them open and the
 * kernel has only to forget them, are worth waiting for, for a moment; one that is being freed, for longer.  Was @gone (gfs2_inodes_gone() before the
 * search) left behind?  Then there may be space now.  @ip: the caller's own, which is not waited for.  The caller may hold inode
 * glocks, but no rgrp and no transaction.
 *
 * The same for unlinked inodes that are not in core here, which a crash has left: whoever read their resource groups has seen them
 * (the search has read all groups), and the maintenance thread frees them.
 */
uint64_t gfs2_inodes_gone(struct gfs2_sbd *sdp);
bool gfs2_inodes_wait_gone(struct gfs2_inode *ip, uint64_t gone);
/* For who wants to see the blocks of what was deleted before: until these are free, as long as that is worth waiting for.  No lock held. */
void gfs2_inodes_wait_doomed(struct gfs2_sbd *sdp);
/* Maintenance thread: free the unlinked inodes that were seen (kernel: rgrp.c:try_rgrp_unlink); in a cluster if it is wanted. */
int gfs2_inodes_hunt(struct gfs2_sbd *sdp);

/* --- attributes --- */
/*
 * Hold @ip in any state that allows reading the dinode: joins direct I/O under way rather than wait
 * for its end.  The caller keeps his reference to @ip for as long (GL_BORROWED).
 */
int gfs2_inode_nq_any(struct gfs2_inode *ip, struct gfs2_holder *gh);
/* Any holder.  Includes pending direct-I/O times. */
void gfs2_getattr(struct gfs2_inode *ip, struct stat *st);
/*
 * FUSE_SET_ATTR_* (= FATTR_* of <linux/fuse.h>) in @valid except size; takes EX and one
 * transaction. chown clears suid/sgid as in the kernel unless the mode comes with it; an access ACL
 * follows the mode; ctime becomes now.  -EPERM for immutable and append-only inodes.
 */
int gfs2_setattr(struct gfs2_inode *ip, const struct stat *attr, int valid);
/*
 * For what only the owner may do, EX held.  The kernel has asked its own copy of the attributes, which may be older: an open file's are
 * not read again first.  If another node has changed owner or group since the inode came into core, that counts for nothing, and -EPERM is
 * for everybody but the owner and root: capabilities are not in a request (kernel: setattr_prepare() under the lock).
 */
int gfs2_caller_owns(const struct gfs2_inode *ip);
/* The same for a setgid bit, which only somebody of the group may set; other groups than the caller's first one are not in a request. */
bool gfs2_may_setgid(const struct gfs2_inode *ip);
/*
 * Truncate to @size; takes EX (fs/truncate.c). -EISDIR, -EINVAL (not a regular file), -EPERM,
 * -EFBIG, -ENOSPC.
 */
int gfs2_setattr_size(struct gfs2_inode *ip, uint64_t size);
/*
 * A write of this node that failed had found the file @before bytes long and left it with @after (not UINT64_MAX): back to @size, but not below
 * @before, and nothing at all if it has grown since, or is shorter.
 */
int gfs2_setattr_size_undo(struct gfs2_inode *ip, uint64_t size, uint64_t before, uint64_t after);
int gfs2_fsync(struct gfs2_inode *ip, bool datasync);

/* --- deletion (evict) --- */
/*
 * The last reference to an inode with nlink 0 is gone (called by gfs2_inode_put; no glock held,
 * nobody finds @ip any more): free its blocks if this node may.  1: freed; 0: left to another
 * node, or it lives; -errno: still UNLINKED on disk.
 */
int gfs2_evict_unlinked(struct gfs2_inode *ip);
/* Mount: free an inode found in state UNLINKED. */
int gfs2_reclaim_unlinked(struct gfs2_sbd *sdp, uint64_t blkno);
/* Later: the same, unless it is in core or another node is busy with it. */
int gfs2_reclaim_left(struct gfs2_sbd *sdp, uint64_t blkno);

/* --- direct I/O accounting and pending times (used by dio/ and glops) --- */
void inode_dio_begin(struct gfs2_inode *ip);
void inode_dio_end(struct gfs2_inode *ip);
void inode_dio_wait(struct gfs2_inode *ip);	/* no ranked mutex held */
void gfs2_pending_mtime_set(struct gfs2_inode *ip, struct timespec t);
/*
 * EX: fold a pending time into the dinode in core; true if there was one (the caller logs the
 * dinode).
 */
bool gfs2_pending_mtime_fold(struct gfs2_inode *ip);
bool gfs2_pending_mtime_any(struct gfs2_inode *ip); /* is there one? */
/* Takes EX + a transaction if there is a pending time (fsync, close, timer). */
int gfs2_pending_mtime_publish(struct gfs2_inode *ip);
/* The same under EX that is the caller's, or the node's in a transition (no holder); no transaction. */
int gfs2_pending_mtime_publish_held(struct gfs2_inode *ip);
/* The same if EX is to be had at once; else it is left to the timer, or to who wants the lock.  For close. */
int gfs2_pending_mtime_publish_try(struct gfs2_inode *ip);
/* The same for every inode that has one (timer, unmount). No glock held. */
void gfs2_pending_mtime_publish_all(struct gfs2_sbd *sdp);
/* dio_mtime_interval, in ns. */
uint64_t gfs2_mtime_interval(const struct gfs2_sbd *sdp);
/* The timer: publish what is due; returns when there will be something to do next (now_ns()). */
uint64_t gfs2_pending_mtime_timer(struct gfs2_sbd *sdp);
/* The lock is given up although there is a pending time: the timer is to see to it. */
void gfs2_pending_mtime_left(struct gfs2_inode *ip);
/* EX, another time than the current one was set as mtime at @when: pending ones of other nodes must not come after it. */
void gfs2_utime_note(struct gfs2_inode *ip, const struct timespec *when);
/* Under any holder: the times that stat shows. */
void gfs2_pending_mtime_peek(struct gfs2_inode *ip, struct timespec *mtime, struct timespec *ctime);

/* SH for what goes into the kernel's pages of this range, which it may keep.  @gh and @range stay where they are. */
struct gfs2_range;
int gfs2_inode_nq_fill(struct gfs2_inode *ip, struct gfs2_range *range, struct gfs2_holder *gh);
/*
 * EX for @who, who is going to change data of @ip: with other nodes this node's kernel has none of them in its pages then, and gets
 * none until the holder is given up, so readers past the page cache are no further than those of it.  (If READs are in the way all the time it may
 * have some, and they have to be dropped afterwards.)  May sleep as gfs2_glock_nq(); after an error, which is its, there is no holder.
 */
int gfs2_inode_nq_change(struct gfs2_inode *ip, struct gfs2_holder *gh, const char *who);

/* glops of the type */
int inode_go_sync(struct gfs2_glock *gl);
void inode_go_inval(struct gfs2_glock *gl, bool metadata);
int inode_go_instantiate(struct gfs2_glock *gl);
int inode_go_held(struct gfs2_holder *gh);
void inode_go_drain(struct gfs2_glock *gl);
void inode_go_dump(struct gfs2_glock *gl, FILE *out);

/* Another node wants to free the inode. */
void iopen_go_callback(struct gfs2_glock *gl, bool remote);
void iopen_go_dump(struct gfs2_glock *gl, FILE *out);

/* gl's inode, safe from being freed until gfs2_glops_end(); NULL: none is in core. */
struct gfs2_inode *gfs2_glops_begin(struct gfs2_glock *gl);
void gfs2_glops_end(struct gfs2_inode *ip);
/* Wait until no go_*() uses @ip; its object has been cleared. */
void gfs2_glops_wait(struct gfs2_inode *ip);

#endif
