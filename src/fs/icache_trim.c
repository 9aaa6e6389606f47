/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Objects that only the kernel's lookups keep: what reduces them to remnants (remnant.c), to save memory or because another node wants to
 * delete the inode.
 *
 * Guarantees
 *  1. Only what nobody uses is reduced, and nothing is lost with it: dirty data and pending times keep an object.
 *  2. gfs2_inode_let_go() waits for nobody: it is called while another node waits for the IOPEN lock.
 *
 * Locking: all decisions are made under the cache's lock; whoever has made an object dead there takes it down without it.
 */
#include "fs/icache.h"
#include "util/seeded.h"
#include "util/util.h"

/* Cache lock held: nothing would be lost with the object, and nobody uses it. */
static bool reducible(struct gfs2_inode *ip)
{
	/* i_valid and i_nlink do not change: who changes them has a reference, and there is none. */
	return ip->i_valid && ip->i_nlink && !icache_must_write(ip);
}

unsigned gfs2_icache_trim(struct gfs2_sbd *sdp, unsigned keep)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	unsigned done = 0, look;

	if (sdp->sd_lm->lm_has_peers)
		return 0;
	rmutex_lock(&ic->lock);
	/* Each of them once: those in use leave the queue, those that have something to write get another turn. */
	for (look = ic->nr; look && ic->nr > keep && !list_empty(&ic->idle); look--) {
		struct gfs2_inode *ip = list_first_entry(&ic->idle, struct gfs2_inode, i_idle);

		list_del_init(&ip->i_idle);
		if (ip->i_refs != 1 || !ip->i_nlookup || ip->i_dead)
			continue;
		if (!reducible(ip) || !remnant_add(ic, ip)) {
			list_add_tail(&ip->i_idle, &ic->idle);
			continue;
		}
		ip->i_nlookup = 0;
		ip->i_dead = true;
		rmutex_unlock(&ic->lock);
		icache_destroy_inode(ip);
		done++;
		rmutex_lock(&ic->lock);
	}
	rmutex_unlock(&ic->lock);
	return done;
}

bool gfs2_inode_let_go(struct gfs2_sbd *sdp, uint64_t no_addr)
{
	struct gfs2_icache *ic = sdp->sd_icache;
	struct gfs2_inode *ip;
	bool gone = true, wake = false;

	rmutex_lock(&ic->lock);
	ip = icache_find(ic, no_addr);
	/* A dead one has left its IOPEN lock or is about to; a new one has asked for it after the other node. */
	if (ip && !ip->i_new && !ip->i_dead) {
		bool idle = ip->i_refs == 1 && ip->i_nlookup && !SEEDED_BUG("iopen-kept");

		gone = idle && !icache_must_write(ip) && remnant_add(ic, ip);
		if (gone) {
			ip->i_nlookup = 0;
			ip->i_dead = true;
		} else if (idle && list_empty(&ip->i_reap)) {
			list_add_tail(&ip->i_reap, &ic->reap);
			wake = true;
		}
	} else {
		ip = NULL;
	}
	rmutex_unlock(&ic->lock);
	if (ip && gone) {
		icache_destroy_inode(ip);
		icache_note_let_go(sdp, no_addr, false);
	}
	if (wake)
		gfs2_maint_wake(sdp);
	return gone;
}

void gfs2_icache_reap(struct gfs2_sbd *sdp)
{
	struct gfs2_icache *ic = sdp->sd_icache;

	rmutex_lock(&ic->lock);
	while (!list_empty(&ic->reap)) {
		struct gfs2_inode *ip = list_first_entry(&ic->reap, struct gfs2_inode, i_reap);

		list_del_init(&ip->i_reap);
		if (ip->i_refs != 1 || !ip->i_nlookup || ip->i_dead || !icache_must_reap(ip) || !remnant_add(ic, ip))
			continue;
		/* The lookups' reference becomes ours. */
		ip->i_nlookup = 0;
		rmutex_unlock(&ic->lock);
		gfs2_inode_put(ip);
		rmutex_lock(&ic->lock);
	}
	rmutex_unlock(&ic->lock);
	icache_check_let_go(sdp, now_ns());
	icache_delete_undeleted(sdp, now_ns());
}

void gfs2_icache_set_many(struct gfs2_sbd *sdp, unsigned nr)
{
	atomic_store_explicit(&sdp->sd_icache->many, nr, memory_order_relaxed);
	atomic_store_explicit(&sdp->sd_icache->made, 0, memory_order_relaxed);
}

void gfs2_icache_count(struct gfs2_sbd *sdp, unsigned *objects, unsigned *remnants)
{
	struct gfs2_icache *ic = sdp->sd_icache;

	rmutex_lock(&ic->lock);
	*objects = ic->nr;
	*remnants = ic->nr_remnants;
	rmutex_unlock(&ic->lock);
}
