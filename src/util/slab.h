/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many objects of one size, of which most go some time: locks, inodes, remnants.
 *
 * Between objects of other kinds and ages in malloc's arenas, those that are left keep most pages from going back to the system: after the
 * reduction of nine tenths of all inodes a third of the heap was holes.  So each kind has pages of its own, new objects go
 * where most are already, and pages that nothing is left on are given back at once.
 *
 * Guarantees: an object is aligned to 16 bytes.  Memory that is given back can be had again (the address space is kept), and what
 * is kept beyond the objects is at most one empty slab and the holes in those that are not.
 *
 * Locking: the cache's own mutex (RANK_SLAB, a leaf), so it may be called under any lock.  An allocation that cannot fail waits
 * for memory without it.
 *
 * Under the address sanitizer each object is an allocation of its own.  Kernel: kmem_cache_create(), kmem_cache_alloc().
 */
#ifndef GFS2FUSE_SLAB_H
#define GFS2FUSE_SLAB_H

#include <stddef.h>
#include <stdint.h>
#include "util/list.h"
#include "util/mutex.h"

struct slab_region;

struct slab_cache {
	struct rmutex lock;	/* guards all below */
	size_t size;		/* of an object */
	unsigned per_slab;
	/* Slabs with room: half full and more, less than that, with nothing in them (given back to the system, but for one). */
	struct list_head dense, sparse, empty;
	struct slab_region *regions;
	unsigned nr, nr_slabs;	/* objects; slabs that have memory */
};

void slab_init(struct slab_cache *c, size_t size);
void slab_destroy(struct slab_cache *c);	/* all objects must be free: asserted */
/* Zeroed. */
void *slab_zalloc(struct slab_cache *c) __attribute__((malloc, returns_nonnull));
/* Not zeroed; NULL without memory. */
void *slab_alloc(struct slab_cache *c) __attribute__((malloc));
void slab_free(struct slab_cache *c, void *object);
/* Bytes that the system has given for them. */
size_t slab_bytes(struct slab_cache *c);

#endif
