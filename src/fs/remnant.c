/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is left of inodes that only the kernel knows, and how the kernel names inodes.
 *
 * A remnant counts the lookups of an inode that has no object (or had none when they were counted).  They are found by node id.
 *
 * Node ids, by which the kernel names inodes, are therefore made of the dinode's block and of the inode's formal number, which no other inode
 * of this block has (gfs2_node_id(): the low 16 bits of it; st_ino is the block alone, the entry's generation the whole formal number).
 *  - Both numbers are known wherever a node id is given out: that comes with attributes, so the dinode has been read or just made.
 *  - They are on the volume, so a file handle, which has the node id in it, is good after a remount as well.
 *  - Of one block there is one object at most, but any number of remnants: one for each inode there that the kernel has not forgotten.
 *    They are as many as the kernel has inodes, and each of these takes it far more memory than the remnant takes us.
 *  - While an object has the IOPEN lock nobody frees its dinode.  So an object whose formal number is known is that inode for good; who
 *    comes with another node id of the same block comes too late.  One without was looked up by its block alone, and is
 *    read first (identify()).
 *  - A remnant becomes an object only after a look at the volume, at the dinode itself (identify()), if the kernel's request is all
 *    that speaks for it; who comes from a directory entry, under the directory's lock, knows that it is there.
 *  - Lookups may be counted by an object and by a remnant of the same node id at once: when the object was looked up by the block, or
 *    somebody came for it while it was being reduced.  FORGET takes from both; the next one who finds the object by node id or by name joins them.
 *  - Two inodes whose formal numbers differ by a multiple of 65536 share a node id.  Then their lookups are counted together, and a request
 *    for the old one finds the new one: as if both had been one to the kernel.  It tells them apart by the generation, and gives the old one
 *    up, as soon as it looks up the new one.
 *  - Without other nodes nobody deletes what only a remnant knows: it is of the inode that is there, whoever asks.
 *
 * Locking: everything here is called with the cache's lock held (struct gfs2_icache.lock).
 */
#include "fs/icache.h"
#include "util/util.h"

#define REMNANT_MIN_BUCKETS 1024

static struct gfs2_remnant **remnants_of(struct gfs2_icache *ic, uint64_t no_addr)
{
	return &ic->remnants[(no_addr * 0x9e3779b97f4a7c15ull >> 32) & (ic->remnant_buckets - 1)];
}

static uint64_t remnant_node(const struct gfs2_remnant *r)
{
	return gfs2_node_id(r->r_no_addr, r->r_formal);
}

struct gfs2_remnant **remnant_slot(struct gfs2_icache *ic, uint64_t node)
{
	struct gfs2_remnant **p;

	if (!ic->nr_remnants)
		return NULL;
	p = remnants_of(ic, gfs2_node_addr(node));
	while (*p && remnant_node(*p) != node)
		p = &(*p)->r_next;
	return *p ? p : NULL;
}

/* Alone: of the inode that is there. */
struct gfs2_remnant **remnant_at(struct gfs2_icache *ic, uint64_t no_addr)
{
	struct gfs2_remnant **p;

	if (!ic->nr_remnants)
		return NULL;
	p = remnants_of(ic, no_addr);
	while (*p && (*p)->r_no_addr != no_addr)
		p = &(*p)->r_next;
	return *p ? p : NULL;
}

/* What the kernel calls it; 0: its formal number is not known yet, so it has never been told of it. */
uint64_t icache_node_of(struct gfs2_inode *ip)
{
	uint64_t formal = gfs2_formal_ino(ip);

	return formal ? gfs2_node_id(ip->i_no_addr, formal) : 0;
}

static void remnants_grow(struct gfs2_icache *ic)
{
	unsigned old_nr = ic->remnant_buckets, nr = old_nr ? 2 * old_nr : REMNANT_MIN_BUCKETS;
	struct gfs2_remnant **old = ic->remnants, **new;

	if (ic->nr_remnants < old_nr)
		return;
	new = calloc(nr, sizeof(struct gfs2_remnant *));
	if (!new)
		return;
	ic->remnants = new;
	ic->remnant_buckets = nr;
	for (unsigned i = 0; i < old_nr; i++) {
		while (old[i]) {
			struct gfs2_remnant *r = old[i], **head;

			old[i] = r->r_next;
			head = &new[(r->r_no_addr * 0x9e3779b97f4a7c15ull >> 32) & (nr - 1)];
			r->r_next = *head;
			*head = r;
		}
	}
	free(old);
}

bool remnant_add(struct gfs2_icache *ic, struct gfs2_inode *ip)
{
	bool kcached = atomic_load_explicit(&ip->i_kcached, memory_order_relaxed);
	struct gfs2_remnant *r, **head, **slot = remnant_slot(ic, icache_node_of(ip));

	if (slot) {
		(*slot)->r_formal = gfs2_formal_ino(ip);
		(*slot)->r_nlookup += ip->i_nlookup;
		(*slot)->r_kcached |= kcached;
		return true;
	}
	remnants_grow(ic);
	r = ic->remnants ? slab_alloc(&ic->remnant_slab) : NULL;
	if (!r)
		return false;
	r->r_no_addr = ip->i_no_addr;
	r->r_formal = gfs2_formal_ino(ip);
	r->r_nlookup = ip->i_nlookup;
	r->r_kcached = kcached;
	head = remnants_of(ic, r->r_no_addr);
	r->r_next = *head;
	*head = r;
	ic->nr_remnants++;
	return true;
}

void remnant_drop(struct gfs2_icache *ic, struct gfs2_remnant **slot)
{
	struct gfs2_remnant *r = *slot;

	*slot = r->r_next;
	ic->nr_remnants--;
	slab_free(&ic->remnant_slab, r);
}

/* The lookups come back to the object, which has a reference of its own. */
void remnant_take(struct gfs2_icache *ic, struct gfs2_remnant **slot, struct gfs2_inode *ip)
{
	struct gfs2_remnant *r = *slot;

	/* All lookups together own one reference. */
	if (!ip->i_nlookup)
		ip->i_refs++;
	ip->i_nlookup += r->r_nlookup;
	/* Nobody knows what was told. */
	atomic_store_explicit(&ip->i_owner_moved, ip->i_sbd->sd_lm->lm_has_peers, memory_order_relaxed);
	if (r->r_kcached)
		atomic_store_explicit(&ip->i_kcached, true, memory_order_relaxed);
	remnant_drop(ic, slot);
}

/* The same for one that has been in core meanwhile. */
void remnant_join(struct gfs2_icache *ic, struct gfs2_inode *ip)
{
	struct gfs2_remnant **slot = remnant_slot(ic, icache_node_of(ip));

	if (slot)
		remnant_take(ic, slot, ip);
}

uint64_t remnant_next(struct gfs2_icache *ic, uint64_t no_addr, uint64_t after, uint64_t next)
{
	if (!ic->nr_remnants)
		return next;
	for (struct gfs2_remnant *r = *remnants_of(ic, no_addr); r; r = r->r_next)
		if (r->r_no_addr == no_addr && remnant_node(r) > after && (!next || remnant_node(r) < next))
			next = remnant_node(r);
	return next;
}

void remnant_drop_all(struct gfs2_icache *ic)
{
	for (unsigned i = 0; i < ic->remnant_buckets; i++)
		while (ic->remnants[i])
			remnant_drop(ic, &ic->remnants[i]);
}
