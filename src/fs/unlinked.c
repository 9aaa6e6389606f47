/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inodes that are to be deleted: who waits for their blocks, who looks for what a crash or another node has left.
 *
 * Guarantees
 *  1. An unlinked inode that this node has in core is deleted when the last reference goes (icache.c); one that was left to another node is
 *     looked at again: at once, after LET_GO_NS, or before unmount; one whose deletion failed, after AGAIN_NS, then twice as long,
 *     up to AGAIN_MAX_NS, and before unmount.  What does not fit into the two small tables the next mount finds.
 *  2. Who found no space waits for those that are on their way, and for one hunt through what was seen unlinked, but not for ever.
 *
 * Locking: the cache's lock guards the lists and tables; it is let go of for everything that may sleep.
 * Kernel: rgrp.c:try_rgrp_unlink, glock.c:delete_work_func.
 */
#include <inttypes.h>
#include "fs/icache.h"
#include "fs/evict_later.h"
#include "fs/rgrp.h"
#include "util/util.h"

#define DOOMED_WAIT_NS 1000000000ull
#define FREE_WAIT_NS 10000000000ull	/* large files take a while; whoever is in the way in a cluster, too */
#define LET_GO_NS 5000000000ull
#define AGAIN_NS 5000000000ull
#define AGAIN_MAX_NS 300000000000ull	/* reading from a device that fails may take long, and says so each time */

/*
 * Another node leaves the end of what is in this block to us, or is about to free it and may not live to do it: to be looked at, at once or in
 * LET_GO_NS.
 */
void icache_note_let_go(struct gfs2_sbd *sdp, uint64_t no_addr, bool at_once)
{
	uint64_t when = at_once ? 0 : now_ns() + LET_GO_NS;
	struct gfs2_icache *ic = sdp->sd_icache;
	unsigned at = 0;

	rmutex_lock(&ic->lock);
	while (at < ic->nr_let_go && ic->let_go[at].no_addr != no_addr)
		at++;
	if (at == ARRAY_SIZE(ic->let_go)) {
		at = 0;
		for (unsigned i = 1; i < ARRAY_SIZE(ic->let_go); i++)
			if (ic->let_go[i].due_ns < ic->let_go[at].due_ns)
				at = i;
		ic->let_go[at].due_ns = when;
	} else if (at == ic->nr_let_go) {
		ic->nr_let_go++;
		ic->let_go[at].due_ns = when;
	}
	ic->let_go[at].no_addr = no_addr;
	ic->let_go[at].due_ns = min_t(uint64_t, ic->let_go[at].due_ns, when);
	rmutex_unlock(&ic->lock);
	if (at_once)
		gfs2_maint_wake(sdp);
}

void gfs2_inode_doom(struct gfs2_inode *ip)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;

	rmutex_lock(&ic->lock);
	if (list_empty(&ip->i_doomed))
		list_add_tail(&ip->i_doomed, &ic->doomed);
	rmutex_unlock(&ic->lock);
}

uint64_t gfs2_inodes_gone(struct gfs2_sbd *sdp)
{
	/* acquire: who sees the number sees what the inode's end has freed, once he has the rgrp's lock */
	return atomic_load_explicit(&sdp->sd_icache->gone, memory_order_acquire);
}

/*
 * Cache lock held: how long are those on their way, but for @but, worth waiting for?  One whose end has begun is freed for certain, which takes as
 * long as it is large; the others have only to be forgotten by the kernel, unless somebody keeps them.  0: there are none.
 */
static uint64_t patience(struct gfs2_icache *ic, const struct gfs2_inode *but)
{
	struct gfs2_inode *ip;
	uint64_t ns = 0;

	list_for_each_entry(ip, &ic->doomed, i_doomed) {
		if (ip->i_opens || ip == but)
			continue;
		if (ip->i_dead)
			return FREE_WAIT_NS;
		ns = DOOMED_WAIT_NS;
	}
	return ns;
}

/*
 * Cache lock held: the number of the hunt that goes through all that was seen unlinked until now; it is asked for if it has not begun.  Only that
 * one is waited for: where other nodes have unlinked inodes open there is always something to be seen.
 */
static uint64_t hunt_for_seen(struct gfs2_icache *ic, struct gfs2_sbd *sdp)
{
	if (gfs2_withdrawn(sdp) || !gfs2_maint_runs(sdp))
		return 0;
	if (gfs2_unlinked_seen(sdp)) {
		ic->hunt_wanted = true;
		/* The thread may be asking for a lock that the caller has (dio_time.c). */
		rcond_broadcast(&ic->wait);
		gfs2_maint_wake(sdp);
	}
	return ic->hunts + ic->hunt_wanted;
}

bool gfs2_inodes_wait_gone(struct gfs2_inode *ip, uint64_t gone)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;
	unsigned long long began = now_ns();
	struct gfs2_inode *other, *next;
	uint64_t hunt;

	gfs2_evict_hurry(ip->i_sbd);
	rmutex_lock(&ic->lock);
	hunt = hunt_for_seen(ic, ip->i_sbd);
	while (gfs2_inodes_gone(ip->i_sbd) == gone) {
		bool hunting = ic->hunted < hunt && !gfs2_withdrawn(ip->i_sbd);
		uint64_t ns = hunting ? FREE_WAIT_NS : patience(ic, ip);

		if (!ns)
			break;
		/* Nobody is woken when an end begins: what is worth more time then is asked again. */
		if (now_ns() < began + ns) {
			rcond_wait_until(&ic->wait, &ic->lock, began + ns);
			continue;
		}
		/* Somebody's working directory, or the like: not waited for again. */
		list_for_each_entry_safe(other, next, &ic->doomed, i_doomed)
			if (!hunting && !other->i_opens)
				list_del_init(&other->i_doomed);
		break;
	}
	rmutex_unlock(&ic->lock);
	return gfs2_inodes_gone(ip->i_sbd) != gone;
}

void gfs2_inodes_wait_doomed(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	unsigned long long began = now_ns();
	struct gfs2_inode *ip;
	uint64_t all, ns;

	gfs2_evict_hurry(sdp);
	rmutex_lock(&ic->lock);
	all = gfs2_inodes_gone(sdp);
	list_for_each_entry(ip, &ic->doomed, i_doomed)
		all += !ip->i_opens;
	/* As many, whichever: where files come and go there are always some. */
	while (gfs2_inodes_gone(sdp) < all && (ns = patience(ic, NULL)) && now_ns() < began + ns)
		rcond_wait_until(&ic->wait, &ic->lock, began + ns);
	rmutex_unlock(&ic->lock);
}

int gfs2_inodes_hunt(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	bool go;
	int error = 0;

	rmutex_lock(&ic->lock);
	/* In a cluster what is unlinked is mostly in use on some node: it is asked only for a reason. */
	go = ic->hunt_wanted || !sdp->sd_lm->lm_has_peers;
	ic->hunts += go;
	ic->hunt_wanted = false;
	rmutex_unlock(&ic->lock);
	if (!go)
		return 0;
	error = gfs2_for_each_unlinked_seen(sdp, gfs2_reclaim_left);
	rmutex_lock(&ic->lock);
	ic->hunted = ic->hunts;
	rcond_broadcast(&ic->wait);
	rmutex_unlock(&ic->lock);
	return error;
}

bool icache_ask(struct gfs2_inode *ip)
{
	struct gfs2_icache *ic = ip->i_sbd->sd_icache;
	unsigned slot = ip->i_no_addr % ARRAY_SIZE(ic->asked);
	bool again;

	rmutex_lock(&ic->lock);
	again = ic->asked[slot].no_addr == ip->i_no_addr && ic->asked[slot].formal == ip->i_no_formal_ino;
	ic->asked[slot].no_addr = ip->i_no_addr;
	ic->asked[slot].formal = ip->i_no_formal_ino;
	rmutex_unlock(&ic->lock);
	return !again;
}

/* Whoever created a new inode in this place had to free the old one first. */
static void delete_if_unlinked(struct gfs2_sbd *sdp, uint64_t no_addr)
{
	int error = gfs2_get_block_type(sdp, no_addr);

	if (error == GFS2_BLKST_UNLINKED_)
		error = gfs2_reclaim_unlinked(sdp, no_addr);
	if (error < 0)
		icache_note_undeleted(sdp, no_addr, error);
}

/*
 * Whoever wanted to delete an inode may have given up since, or died (kernel: delete_work_func, which looks again after 5 s).
 * What is due @then; all of it that is unlinked by now and in nobody's core goes.
 */
void icache_check_let_go(struct gfs2_sbd *sdp, uint64_t then)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	unsigned i = 0;

	rmutex_lock(&ic->lock);
	while (i < ic->nr_let_go) {
		uint64_t no_addr = ic->let_go[i].no_addr;

		if (ic->let_go[i].due_ns > then) {
			i++;
			continue;
		}
		ic->let_go[i] = ic->let_go[--ic->nr_let_go];
		rmutex_unlock(&ic->lock);
		if (icache_writable(sdp))
			delete_if_unlinked(sdp, no_addr);
		rmutex_lock(&ic->lock);
		i = 0;
	}
	rmutex_unlock(&ic->lock);
}

/* Cache lock held. */
static unsigned find_undeleted(const struct gfs2_icache *ic, uint64_t no_addr)
{
	unsigned i = 0;

	while (i < ic->nr_undeleted && ic->undeleted[i].no_addr != no_addr)
		i++;
	return i;
}

void icache_note_undeleted(struct gfs2_sbd *sdp, uint64_t no_addr, int error)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	bool known;
	unsigned i;

	rmutex_lock(&ic->lock);
	i = find_undeleted(ic, no_addr);
	known = i < ic->nr_undeleted;
	if (!ic->nr_undeleted) {
		ic->undeleted_wait_ns = AGAIN_NS;
		ic->undeleted_due_ns = now_ns() + AGAIN_NS;
	}
	if (i < ARRAY_SIZE(ic->undeleted)) {
		ic->undeleted[i].no_addr = no_addr;
		ic->undeleted[i].failed = true;
		ic->nr_undeleted += !known;
	}
	rmutex_unlock(&ic->lock);
	/* After a withdrawal that was said already, and there may be many. */
	if (!known && !gfs2_withdrawn(sdp))
		fs_err("inode %" PRIu64 ": cannot be deleted: %s", no_addr, strerror(-error));
}

void icache_delete_undeleted(struct gfs2_sbd *sdp, uint64_t then)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	uint64_t again[ARRAY_SIZE(ic->undeleted)];
	unsigned nr = 0;

	rmutex_lock(&ic->lock);
	if (ic->nr_undeleted && ic->undeleted_due_ns <= then && icache_writable(sdp)) {
		nr = ic->nr_undeleted;
		ic->undeleted_wait_ns = min_t(uint64_t, 2 * ic->undeleted_wait_ns, AGAIN_MAX_NS);
		ic->undeleted_due_ns = now_ns() + ic->undeleted_wait_ns;
	}
	for (unsigned i = 0; i < nr; i++) {
		again[i] = ic->undeleted[i].no_addr;
		ic->undeleted[i].failed = false;
	}
	rmutex_unlock(&ic->lock);
	for (unsigned i = 0; i < nr; i++) {
		unsigned at;

		delete_if_unlinked(sdp, again[i]);
		rmutex_lock(&ic->lock);
		at = find_undeleted(ic, again[i]);
		if (at < ic->nr_undeleted && !ic->undeleted[at].failed)
			ic->undeleted[at] = ic->undeleted[--ic->nr_undeleted];
		rmutex_unlock(&ic->lock);
	}
}

int gfs2_icache_delete_again(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	unsigned left;

	icache_check_let_go(sdp, UINT64_MAX);
	icache_delete_undeleted(sdp, UINT64_MAX);
	rmutex_lock(&ic->lock);
	left = ic->nr_undeleted;
	rmutex_unlock(&ic->lock);
	if (left)
		fs_err("%u deleted inodes still have their blocks: the next mount frees them", left);
	return left ? -EIO : 0;
}
