/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inode cache: at most one struct gfs2_inode per dinode block.
 *
 * Guarantees
 *  1. Who has a reference has an inode that is found by nobody in a half-made or half-dead state:
 *     a lookup that meets one waits until it has settled.  If it was deleted and the caller asked
 *     for that very one (formal number), the answer is -ESTALE.
 *  2. While an inode is in core the node holds IOPEN in SH.
 *  3. Nothing is lost with the last reference: dirty data are written, pending times published.
 *     nlink 0 means deletion.
 *  4. Memory is bounded by the references: an unreferenced inode is freed at once.  (What is
 *     worth keeping, its metadata buffers and its lock, stays with the glock.)
 *  5. References of the kernel's lookups alone do not keep the object: gfs2_icache_trim() reduces those that have been
 *     idle longest to a remnant, which has what cannot be read from the volume (how often the kernel looked it up).
 *     Whoever asks for the inode then gets a new object with these lookups.  Not inodes without a name: their end is the
 *     last reference's.
 *  6. In a cluster the IOPEN lock tells the other nodes that the inode is in core, so that is done when another node, which has removed
 *     the last name, asks for that lock (gfs2_inode_let_go()).  What is in use then is deleted here when it is no more
 *     (gfs2_icache_reap()).  Nothing keeps the dinode of a remnant from being deleted, and its block from being used again.
 *  7. A request means the inode that the kernel has looked up, never another one that is in its place by now: gfs2_inode_by_node() gives
 *     the one or nothing, which is ESTALE, and FORGET is counted for the right one.
 *
 * How node ids do that: remnant.c.
 *
 * States, all changes under the cache's lock:
 *   new (i_new)    -> live      lookup_setup() has the glocks
 *   new            -> unhashed  no glock
 *   live           -> dead      gfs2_inode_put(): last reference, nothing left to write; gfs2_icache_trim()
 *   dead (i_dead)  -> unhashed  icache_destroy_inode(), for a deleted one perhaps by evict_later.c's thread; freed by it or by the last
 *                               waiter (i_unhashed)
 * Kernel: inode.c:gfs2_inode_lookup, super.c:gfs2_evict_inode, the VFS's I_NEW and I_FREEING.
 */
#include <inttypes.h>
#include <limits.h>
#include "fs/dir.h"
#include "fs/evict_later.h"
#include "fs/icache.h"
#include "fs/rgrp.h"
#include "util/seeded.h"
#include "util/util.h"

#define ICACHE_MIN_BUCKETS 1024

static struct gfs2_inode **bucket(struct gfs2_icache *ic, uint64_t no_addr)
{
	return &ic->buckets[(no_addr * 0x9e3779b97f4a7c15ull >> 32) & (ic->nr_buckets - 1)];
}

struct gfs2_inode *icache_find(struct gfs2_icache *ic, uint64_t no_addr)
{
	struct gfs2_inode *ip = *bucket(ic, no_addr);

	while (ip && ip->i_no_addr != no_addr)
		ip = ip->i_hash;
	return ip;
}

/* Twice the buckets once there are twice as many inodes; without memory the chains get longer. */
static void hash_grow(struct gfs2_icache *ic)
{
	unsigned old_nr = ic->nr_buckets;
	struct gfs2_inode **old = ic->buckets, **new;

	if (ic->nr < 2 * old_nr)
		return;
	new = calloc(2 * old_nr, sizeof(*new));
	if (!new)
		return;
	ic->buckets = new;
	ic->nr_buckets = 2 * old_nr;
	for (unsigned i = 0; i < old_nr; i++) {
		while (old[i]) {
			struct gfs2_inode *ip = old[i], **head = bucket(ic, ip->i_no_addr);

			old[i] = ip->i_hash;
			ip->i_hash = *head;
			*head = ip;
		}
	}
	free(old);
}

static void hash_insert(struct gfs2_icache *ic, struct gfs2_inode *ip)
{
	struct gfs2_inode **head;

	hash_grow(ic);
	head = bucket(ic, ip->i_no_addr);
	ip->i_hash = *head;
	*head = ip;
	ic->nr++;
}

static void hash_remove(struct gfs2_icache *ic, struct gfs2_inode *ip)
{
	struct gfs2_inode **p = bucket(ic, ip->i_no_addr);

	while (*p != ip)
		p = &(*p)->i_hash;
	*p = ip->i_hash;
	ic->nr--;
}

int gfs2_icache_create(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = xzalloc(sizeof(*ic));

	ic->buckets = calloc(ICACHE_MIN_BUCKETS, sizeof(*ic->buckets));
	if (!ic->buckets) {
		free(ic);
		return -ENOMEM;
	}
	ic->nr_buckets = ICACHE_MIN_BUCKETS;
	rmutex_init(&ic->lock, RANK_ICACHE);
	rcond_init(&ic->wait);
	rmutex_init(&ic->pending_lock, RANK_DIO);
	list_init(&ic->pending);
	list_init(&ic->idle);
	list_init(&ic->reap);
	atomic_init(&ic->many, UINT_MAX);
	atomic_init(&ic->made, 0);
	list_init(&ic->doomed);
	slab_init(&ic->inode_slab, sizeof(struct gfs2_inode));
	slab_init(&ic->remnant_slab, sizeof(struct gfs2_remnant));
	sdp->sd_icache = ic;
	return 0;
}

void gfs2_icache_check_empty(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;

	rmutex_lock(&ic->lock);
	for (unsigned i = 0; i < ic->nr_buckets; i++) {
		for (struct gfs2_inode *ip = ic->buckets[i]; ip; ip = ip->i_hash)
			fs_err("inode %" PRIu64 " still has %u references, %u opens, %" PRIu64
			       " lookups",
			       ip->i_no_addr, ip->i_refs, ip->i_opens, ip->i_nlookup);
	}
	GFS2_BUG_ON(ic->nr || ic->nr_remnants);
	rmutex_unlock(&ic->lock);
}

void gfs2_icache_destroy(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;

	if (!ic)
		return;
	slab_destroy(&ic->inode_slab);
	slab_destroy(&ic->remnant_slab);
	free(ic->remnants);
	rmutex_destroy(&ic->pending_lock);
	rcond_destroy(&ic->wait);
	rmutex_destroy(&ic->lock);
	free(ic->buckets);
	free(ic);
	sdp->sd_icache = NULL;
}

/* --- making an inode --- */

static struct gfs2_inode *inode_alloc(struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t formal)
{
	struct gfs2_inode *ip = slab_zalloc(&sdp->sd_icache->inode_slab);

	ip->i_sbd = sdp;
	ip->i_no_addr = no_addr;
	ip->i_no_formal_ino = formal;
	ip->i_refs = 1;
	ip->i_new = true;
	extmap_init(&ip->i_map);
	mapping_init(&ip->i_data, sdp->sd_bufs, ip, true);
	rmutex_init(&ip->i_lock, RANK_INODE);
	rcond_init(&ip->i_dio_wait);
	list_init(&ip->i_pending_list);
	list_init(&ip->i_rest);
	list_init(&ip->i_idle);
	list_init(&ip->i_reap);
	list_init(&ip->i_evict);
	list_init(&ip->i_doomed);
	list_init(&ip->i_iopen_gh.gh_list);
	/*
	 * An object for this inode that went away before may have left changes in the open batch: as far as
	 * fsync can know they are its.
	 */
	if (sdp->sd_log) {
		uint64_t seq = gfs2_trans_batch_seq(sdp->sd_log);

		atomic_init(&ip->i_log_seq, seq);
		atomic_init(&ip->i_datasync_seq, seq);
	}
	return ip;
}

static void inode_free(struct gfs2_inode *ip)
{
	gfs2_dir_hash_inval(ip);
	rcond_destroy(&ip->i_dio_wait);
	rmutex_destroy(&ip->i_lock);
	mapping_destroy(&ip->i_data);
	extmap_destroy(&ip->i_map);
	slab_free(&ip->i_sbd->sd_icache->inode_slab, ip);
}

/* What the cached lock knows was read for an earlier object. */
static void need_instantiate(struct gfs2_glock *gl)
{
	rmutex_lock(&gl->gl_lock);
	gl->gl_flags |= 1ul << GLF_INSTANTIATE_NEEDED;
	rmutex_unlock(&gl->gl_lock);
}

static void drop_glocks(struct gfs2_inode *ip)
{
	/* Do not keep a lock that keeps others from deleting the inode. */
	if (gfs2_holder_queued(&ip->i_iopen_gh))
		gfs2_glock_dq_uninit_nocache(&ip->i_iopen_gh);
	if (ip->i_iopen_gl) {
		glock_clear_object(ip->i_iopen_gl, ip);
		gfs2_glock_put(ip->i_iopen_gl);
	}
	if (ip->i_gl) {
		glock_clear_object(ip->i_gl, ip);
		gfs2_glops_wait(ip);
		gfs2_glock_put(ip->i_gl);
	}
}

static int take_glocks(struct gfs2_inode *ip)
{
	struct gfs2_sbd *sdp = ip->i_sbd;

	ip->i_gl = gfs2_glock_get(sdp->sd_glocks, ip->i_no_addr, &gfs2_inode_glops);
	ip->i_iopen_gl = gfs2_glock_get(sdp->sd_glocks, ip->i_no_addr, &gfs2_iopen_glops);
	if (!ip->i_gl || !ip->i_iopen_gl)
		return -ENOMEM;
	need_instantiate(ip->i_gl);
	glock_set_object(ip->i_gl, ip);
	glock_set_object(ip->i_iopen_gl, ip);
	return gfs2_glock_nq_init(ip->i_iopen_gl, LM_ST_SHARED, GL_EXACT | GL_NOPID,
				  &ip->i_iopen_gh);
}

/* The inode leaves the cache; whoever waited for it looks again. */
static void unhash_and_free(struct gfs2_icache *ic, struct gfs2_inode *ip)
{
	bool waited_for;

	rmutex_lock(&ic->lock);
	hash_remove(ic, ip);
	list_del_init(&ip->i_idle);
	list_del_init(&ip->i_reap);
	ip->i_new = ip->i_dead = false;
	ip->i_unhashed = true;
	list_del_init(&ip->i_doomed);
	/* release: see gfs2_inodes_gone() */
	if (ip->i_deleted)
		atomic_fetch_add_explicit(&ic->gone, 1, memory_order_release);
	waited_for = ip->i_waiters;
	rcond_broadcast(&ic->wait);
	rmutex_unlock(&ic->lock);
	if (!waited_for)
		inode_free(ip);
}

/*
 * In a cluster: is what is in this place the inode that @ip stands for (-ESTALE: no), or, if that has not been known, which one is it?  The IOPEN
 * lock is held: what is there stays.  Takes the inode's lock and its resource group's; the caller holds neither.
 */
static int identify(struct gfs2_inode *ip)
{
	const struct gfs2_inode_lvb *lvb = (const void *)ip->i_gl->gl_lvb;
	uint64_t formal = gfs2_formal_ino(ip);
	struct gfs2_holder gh;
	bool unlinked;
	int error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, GL_SKIP, &gh);

	if (error)
		return error < 0 ? error : -EIO;
	/* Nothing of the block may be believed before the bitmap says that it is a dinode. */
	error = gfs2_get_block_type(ip->i_sbd, ip->i_no_addr);
	unlinked = error == GFS2_BLKST_UNLINKED_;
	if (error >= 0)
		error = error == GFS2_BLKST_DINODE_ || unlinked ? 0 : -ESTALE;
	if (!error && formal && be32_to_cpu(lvb->ri_magic) == GFS2_MAGIC && be64_to_cpu(lvb->ri_generation_deleted) >= formal)
		error = -ESTALE;
	gfs2_glock_dq_uninit(&gh);
	if (!error) {
		/* gfs2_dinode_in() compares. */
		error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, LM_FLAG_ANY, &gh);
		if (!error)
			gfs2_glock_dq_uninit(&gh);
	}
	/* Another node that was about to delete what is there has taken our asking for a use of it, and has left it to us. */
	if (error && unlinked && !SEEDED_BUG("mistaken-use"))
		icache_note_let_go(ip->i_sbd, ip->i_no_addr, true);
	return error > 0 ? -EIO : error;
}

static int lookup_setup(struct gfs2_icache *ic, struct gfs2_inode *ip, bool unsure)
{
	int error = take_glocks(ip);

	if (!error && unsure)
		error = identify(ip);
	if (error) {
		drop_glocks(ip);
		rmutex_lock(&ic->lock);
		/* The kernel still has its lookups; without memory for them it gets ESTALE from now on. */
		if (ip->i_nlookup)
			remnant_add(ic, ip);
		ip->i_nlookup = 0;
		rmutex_unlock(&ic->lock);
		unhash_and_free(ic, ip);
		return error < 0 ? error : -EIO;
	}
	rmutex_lock(&ic->lock);
	ip->i_new = false;
	rcond_broadcast(&ic->wait);
	rmutex_unlock(&ic->lock);
	return 0;
}

/*
 * Cache lock held (let go of while waiting): wait until @ip is neither new nor dead.  0: look
 * again; -ESTALE: it was the inode with the number @formal, and it was deleted.
 */
static int wait_settled(struct gfs2_icache *ic, struct gfs2_inode *ip, uint64_t formal)
{
	int error = 0;

	ip->i_waiters++;
	while (ip->i_new || ip->i_dead)
		rcond_wait(&ic->wait, &ic->lock);
	if (ip->i_deleted && formal && gfs2_formal_ino(ip) == formal)
		error = -ESTALE;
	if (!--ip->i_waiters && ip->i_unhashed) {
		rmutex_unlock(&ic->lock);
		inode_free(ip);
		rmutex_lock(&ic->lock);
	}
	return error;
}

/* Cache lock held, let go of: an object for what is not in core, with the lookups of @slot. */
static int make(struct gfs2_icache *ic, struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t formal,
		struct gfs2_remnant **slot, bool unsure, struct gfs2_inode **out)
{
	unsigned many = atomic_load_explicit(&ic->many, memory_order_relaxed);
	struct gfs2_inode *ip;
	int error;

	if (ic->nr > many || atomic_fetch_add_explicit(&ic->made, 1, memory_order_relaxed) >= many)
		gfs2_maint_wake(sdp);
	ip = inode_alloc(sdp, no_addr, formal);
	if (slot)
		remnant_take(ic, slot, ip);
	hash_insert(ic, ip);
	rmutex_unlock(&ic->lock);
	error = lookup_setup(ic, ip, unsure);
	if (!error)
		*out = ip;
	return error;
}

/* @settled: the caller must not wait for those who make or take down an object. */
static int lookup(struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t formal, bool settled, struct gfs2_inode **out)
{
	const bool peers = sdp->sd_lm->lm_has_peers;
	struct gfs2_icache *ic = sdp->sd_icache;
	struct gfs2_remnant **slot;
	struct gfs2_inode *ip;
	int error = 0;

	*out = NULL;
	/* From a damaged directory; the kernel's node ids have no such numbers. */
	if (no_addr != gfs2_node_addr(no_addr))
		return gfs2_consist(sdp, no_addr, "pointer to a block outside the file system");
	rmutex_lock(&ic->lock);
	while ((ip = icache_find(ic, no_addr)) && (ip->i_new || ip->i_dead)) {
		error = settled ? -EAGAIN : wait_settled(ic, ip, formal);
		if (error)
			goto out_unlock;
	}
	if (ip) {
		uint64_t known = gfs2_formal_ino(ip);

		if (formal && known && known != formal) {
			error = -ESTALE;
			goto out_unlock;
		}
		ip->i_refs++;
		remnant_join(ic, ip);
		*out = ip;
		goto out_unlock;
	}
	slot = !peers ? remnant_at(ic, no_addr) : formal ? remnant_slot(ic, gfs2_node_id(no_addr, formal)) : NULL;
	if (slot && formal && (*slot)->r_formal != formal && (!peers || (*slot)->r_formal > formal)) {
		error = -ESTALE;
		goto out_unlock;
	}
	if (slot && !formal)
		formal = (*slot)->r_formal;
	return make(ic, sdp, no_addr, formal, slot, false, out);
out_unlock:
	rmutex_unlock(&ic->lock);
	return error;
}

int gfs2_inode_lookup(struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t formal,
		      struct gfs2_inode **out)
{
	return lookup(sdp, no_addr, formal, false, out);
}

int gfs2_inode_lookup_free(struct gfs2_sbd *sdp, uint64_t no_addr, struct gfs2_inode **out)
{
	return lookup(sdp, no_addr, 0, true, out);
}

struct gfs2_inode *gfs2_inode_by_node(struct gfs2_sbd *sdp, uint64_t node)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	struct gfs2_remnant **slot;
	struct gfs2_inode *ip;
	int error = 0;

	rmutex_lock(&ic->lock);
	/* One that is going away leaves a remnant, or the kernel has forgotten it. */
	while ((ip = icache_find(ic, gfs2_node_addr(node))) && (ip->i_new || (ip->i_dead && remnant_slot(ic, node))))
		wait_settled(ic, ip, 0);
	if (ip && !ip->i_dead && icache_node_of(ip) == node) {
		ip->i_refs++;
		remnant_join(ic, ip);
		rmutex_unlock(&ic->lock);
		return ip;
	}
	slot = remnant_slot(ic, node);
	if (!slot || (ip && icache_node_of(ip))) {
		rmutex_unlock(&ic->lock);
		return NULL;
	}
	if (!ip) {
		make(ic, sdp, gfs2_node_addr(node), (*slot)->r_formal, slot,
		     sdp->sd_lm->lm_has_peers && !SEEDED_BUG("remnant-believed"), &ip);
		return ip;
	}
	ip->i_refs++;
	rmutex_unlock(&ic->lock);
	error = identify(ip);
	if (!error && icache_node_of(ip) == node) {
		rmutex_lock(&ic->lock);
		remnant_join(ic, ip);
		rmutex_unlock(&ic->lock);
		return ip;
	}
	gfs2_inode_put(ip);
	return NULL;
}

/* Cache lock held: the smallest of the node ids of this block that the kernel knows that are larger than @after; 0: none. */
static uint64_t next_node(struct gfs2_icache *ic, uint64_t no_addr, uint64_t after)
{
	struct gfs2_inode *ip = icache_find(ic, no_addr);
	uint64_t next = ip && ip->i_nlookup && icache_node_of(ip) > after ? icache_node_of(ip) : 0;

	return remnant_next(ic, no_addr, after, next);
}

uint64_t gfs2_icache_next_node(struct gfs2_sbd *sdp, uint64_t no_addr, uint64_t after)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	uint64_t next;

	rmutex_lock(&ic->lock);
	next = next_node(ic, no_addr, after);
	rmutex_unlock(&ic->lock);
	return next;
}

struct gfs2_inode *gfs2_inode_find(struct gfs2_sbd *sdp, uint64_t no_addr)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	struct gfs2_inode *ip;

	rmutex_lock(&ic->lock);
	while ((ip = icache_find(ic, no_addr)) && ip->i_new)
		wait_settled(ic, ip, 0);
	if (ip && !ip->i_dead)
		ip->i_refs++;
	else
		ip = NULL;
	rmutex_unlock(&ic->lock);
	/* If it is only just being reduced, this waits. */
	for (uint64_t node = 0; !ip && (node = gfs2_icache_next_node(sdp, no_addr, node));)
		ip = gfs2_inode_by_node(sdp, node);
	return ip;
}

bool gfs2_inode_in_core(struct gfs2_sbd *sdp, uint64_t no_addr)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	struct gfs2_inode *ip;
	bool found;

	rmutex_lock(&ic->lock);
	ip = icache_find(ic, no_addr);
	found = ip && !ip->i_new && !ip->i_dead;
	rmutex_unlock(&ic->lock);
	return found;
}

struct gfs2_inode *gfs2_inode_hold(struct gfs2_inode *ip)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	GFS2_BUG_ON(!ip->i_refs || ip->i_dead);
	ip->i_refs++;
	rmutex_unlock(&ic->lock);
	return ip;
}

/* --- the last reference --- */

bool icache_writable(struct gfs2_sbd *sdp)
{
	return sdp->sd_log && !sdp->sd_ro && !gfs2_withdrawn(sdp);
}

/*
 * Dirty data of an inode that nobody can write any more: the volume was withdrawn or the device
 * failed.
 */
static void discard_dirty(struct gfs2_inode *ip)
{
	struct gfs2_mapping *m = &ip->i_data;
	unsigned lost = 0;

	for (;;) {
		uint64_t blkno = 0;

		rmutex_lock(&m->m_lock);
		if (!list_empty(&m->m_dirty))
			blkno = list_first_entry(&m->m_dirty, struct gfs2_bh,
						 b_dirty_list)->b_blocknr;
		rmutex_unlock(&m->m_lock);
		if (!blkno)
			break;
		buf_forget(m->m_cache, blkno, 1);
		lost++;
	}
	if (lost)
		fs_err("inode %" PRIu64 ": %u blocks of data could not be written and are lost",
		       ip->i_no_addr, lost);
}

/* The caller's is the last reference and @ip is dead. */
void icache_destroy_inode(struct gfs2_inode *ip)
{
	struct gfs2_sbd *sdp = ip->i_sbd;

	if (sdp->sd_log)
		gfs2_ordered_del(sdp->sd_log, &ip->i_data);
	discard_dirty(ip);
	mapping_invalidate(&ip->i_data);
	gfs2_pending_mtime_fold(ip);
	drop_glocks(ip);
	unhash_and_free(sdp->sd_icache, ip);
}

/*
 * Write what only this object knows.  The caller still has its reference, so the inode is alive.
 * Afterwards there is nothing left that was there before, written or, after an error, given up.
 */
static void write_back(struct gfs2_inode *ip)
{
	int error = gfs2_pending_mtime_publish(ip);

	if (error) {
		fs_err("inode %" PRIu64 ": times of direct writes are lost: %s", ip->i_no_addr,
		       strerror(-error));
		gfs2_pending_mtime_fold(ip);
	}
	error = mapping_sync(&ip->i_data);
	if (error)
		fs_err("inode %" PRIu64 ": cannot write its data: %s", ip->i_no_addr,
		       strerror(-error));
}

/*
 * Our nlink may be old news: who asks for IOPEN is another node that has removed the last name and leaves the rest to the
 * last user, which may be us (kernel: gfs2_drop_inode).  gfs2_evict_unlinked() looks at the dinode itself.
 */
static bool wanted_gone(const struct gfs2_inode *ip)
{
	return ip->i_sbd->sd_lm->lm_has_peers && ip->i_iopen_gl && gfs2_glock_demote_wanted(ip->i_iopen_gl);
}

/* Cache lock held, nobody but the kernel's lookups has @ip: is it to be deleted before these are forgotten? */
bool icache_must_reap(const struct gfs2_inode *ip)
{
	return icache_writable(ip->i_sbd) && wanted_gone(ip);
}

static bool must_delete(const struct gfs2_inode *ip)
{
	return ip->i_valid && icache_writable(ip->i_sbd) && (!ip->i_nlink || wanted_gone(ip));
}

bool icache_must_write(struct gfs2_inode *ip)
{
	bool dirty;

	if (!icache_writable(ip->i_sbd))
		return false;
	rmutex_lock(&ip->i_lock);
	dirty = ip->i_pending_mtime;
	rmutex_unlock(&ip->i_lock);
	rmutex_lock(&ip->i_data.m_lock);
	dirty |= ip->i_data.m_nr_dirty || ip->i_data.m_nr_writeback;
	rmutex_unlock(&ip->i_data.m_lock);
	return dirty;
}

void gfs2_inode_evicted(struct gfs2_inode *ip, int result)
{
	if (result < 0)
		icache_note_undeleted(ip->i_sbd, ip->i_no_addr, result);
	/* read by waiters after i_dead is cleared under the lock */
	ip->i_deleted = result > 0;
	icache_destroy_inode(ip);
}

/* @later: the caller does not need what a deleted inode had. */
static void inode_put(struct gfs2_inode *ip, bool later)
{
	struct gfs2_icache *ic;
	struct gfs2_sbd *sdp;
	bool delete, reap = false;

	if (!ip)
		return;
	sdp = ip->i_sbd;
	ic = sdp->sd_icache;
	for (;;) {
		rmutex_lock(&ic->lock);
		GFS2_BUG_ON(!ip->i_refs);
		if (ip->i_refs > 1) {
			/* Only the kernel knows it now: to the end of the queue of those that gfs2_icache_trim() takes. */
			if (--ip->i_refs == 1 && ip->i_nlookup) {
				list_del_init(&ip->i_idle);
				list_add_tail(&ip->i_idle, &ic->idle);
				/* Not here: the caller may hold locks. */
				reap = list_empty(&ip->i_reap) && icache_must_reap(ip) && !SEEDED_BUG("iopen-kept");
				if (reap)
					list_add_tail(&ip->i_reap, &ic->reap);
			}
			rmutex_unlock(&ic->lock);
			if (reap)
				gfs2_maint_wake(sdp);
			return;
		}
		/* Nobody else can change these: they all need a reference. */
		delete = must_delete(ip);
		if (delete || !icache_must_write(ip))
			break;
		rmutex_unlock(&ic->lock);
		/* Meanwhile somebody may find it, write to it and be gone again. */
		write_back(ip);
	}
	GFS2_BUG_ON(ip->i_nlookup || ip->i_opens);
	ip->i_dead = true;
	rmutex_unlock(&ic->lock);
	/* The same as in identify(), if it was never read. */
	if (!ip->i_valid && icache_writable(sdp) && wanted_gone(ip))
		icache_note_let_go(sdp, ip->i_no_addr, false);
	if (!delete)
		icache_destroy_inode(ip);
	else if (!later || !gfs2_evict_later(ip))
		gfs2_inode_evicted(ip, gfs2_evict_unlinked(ip));
}

void gfs2_inode_put(struct gfs2_inode *ip)
{
	inode_put(ip, false);
}

/* --- counts of the kernel's lookups and of open files --- */

void gfs2_inode_lookup_inc(struct gfs2_inode *ip)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	GFS2_BUG_ON(!gfs2_formal_ino(ip));
	rmutex_lock(&ic->lock);
	remnant_join(ic, ip);
	if (!ip->i_nlookup++)
		ip->i_refs++;
	rmutex_unlock(&ic->lock);
}

/* Cache lock held, let go of: @n lookups less, and the reference of all of them with the last one. */
static void forget(struct gfs2_icache *ic, struct gfs2_inode *ip, uint64_t n)
{
	bool last;

	n = min_t(uint64_t, n, ip->i_nlookup);
	ip->i_nlookup -= n;
	last = n && !ip->i_nlookup;
	rmutex_unlock(&ic->lock);
	if (last)
		inode_put(ip, true);
}

void gfs2_inode_forget(struct gfs2_inode *ip, uint64_t n)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	forget(ic, ip, n);
}

void gfs2_inode_forget_node(struct gfs2_sbd *sdp, uint64_t node, uint64_t n)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	struct gfs2_remnant **slot;
	struct gfs2_inode *ip;

	rmutex_lock(&ic->lock);
	slot = remnant_slot(ic, node);
	if (slot) {
		uint64_t here = min_t(uint64_t, n, (*slot)->r_nlookup);

		n -= here;
		(*slot)->r_nlookup -= here;
		if (!(*slot)->r_nlookup)
			remnant_drop(ic, slot);
	}
	ip = n ? icache_find(ic, gfs2_node_addr(node)) : NULL;
	/* One that is just being made or going away, too: as long as it has lookups it has a reference for them. */
	if (ip && icache_node_of(ip) == node)
		forget(ic, ip, n);
	else
		rmutex_unlock(&ic->lock);
}

void gfs2_inode_open_inc(struct gfs2_inode *ip, bool cached, bool rdwr)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	ip->i_opens++;
	ip->i_cached_opens += cached;
	atomic_fetch_add_explicit(&ip->i_storing, cached && rdwr, memory_order_relaxed);
	if (cached && !ip->i_sbd->sd_lm->lm_has_peers) {
		ip->i_kfills++;
		atomic_store_explicit(&ip->i_kcached, true, memory_order_relaxed);
	}
	ip->i_refs++;
	rmutex_unlock(&ic->lock);
}

void gfs2_inode_open_dec(struct gfs2_inode *ip, bool cached, bool rdwr)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	GFS2_BUG_ON(!ip->i_opens || (cached && !ip->i_cached_opens));
	ip->i_opens--;
	ip->i_cached_opens -= cached;
	atomic_fetch_sub_explicit(&ip->i_storing, cached && rdwr, memory_order_relaxed);
	rmutex_unlock(&ic->lock);
	inode_put(ip, true);
}

void gfs2_inode_kernel_fills(struct gfs2_inode *ip)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	ip->i_kfills++;
	atomic_store_explicit(&ip->i_kcached, true, memory_order_relaxed);
	rmutex_unlock(&ic->lock);
}

bool gfs2_inode_uncache_begin(struct gfs2_inode *ip, uint32_t *fills)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;
	bool begun;

	rmutex_lock(&ic->lock);
	begun = !ip->i_cached_opens && atomic_load_explicit(&ip->i_kcached, memory_order_relaxed);
	*fills = ip->i_kfills;
	rmutex_unlock(&ic->lock);
	return begun;
}

void gfs2_inode_uncache_end(struct gfs2_inode *ip, uint32_t fills)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	if (!ip->i_cached_opens && ip->i_kfills == fills)
		atomic_store_explicit(&ip->i_kcached, false, memory_order_relaxed);
	rmutex_unlock(&ic->lock);
}

void gfs2_icache_forget_all(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	unsigned i = 0;

	rmutex_lock(&ic->lock);
	while (i < ic->nr_buckets) {
		struct gfs2_inode *ip = ic->buckets[i];

		while (ip && !ip->i_nlookup && !ip->i_dead)
			ip = ip->i_hash;
		if (!ip) {
			i++;
			continue;
		}
		/* Another node wants it gone, and a worker is about it: the cache is not empty before that has ended. */
		if (ip->i_dead) {
			wait_settled(ic, ip, 0);
			continue;
		}
		ip->i_nlookup = 0;
		rmutex_unlock(&ic->lock);
		gfs2_inode_put(ip);
		rmutex_lock(&ic->lock);
	}
	remnant_drop_all(ic);
	rmutex_unlock(&ic->lock);
}
