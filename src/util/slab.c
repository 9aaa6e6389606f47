/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Slabs: see slab.h.
 *
 * A region is SLAB_REGION bytes, aligned to that, so that an object's address leads to it.  Its first page describes its slabs, and is there
 * until slab_destroy(); the first page of each other slab is never touched, so that all slabs are alike.  A slab hands out its free objects
 * first, which are linked through their first word, then those that it has never handed out: nobody has to touch a slab that begins anew.
 *
 * Which list a slab is on follows from how many of its objects are in use (slab_list()): none, less than half, more, all (no list).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "util/slab.h"
#include "util/util.h"

#define SLAB_REGION (1u << 20)
#define SLAB_BYTES (64u << 10)
#define SLAB_HEAD 4096u		/* of a region */
#define SLAB_NR (SLAB_REGION / SLAB_BYTES)
#define SLAB_ALIGN 16u

struct slab {
	struct list_head list;	/* dense, sparse or empty; on none when full */
	void *free;
	unsigned used;		/* objects that are in use */
	unsigned begun;		/* objects that have been in use since the slab was given memory */
	bool resident;
};

struct slab_region {
	struct slab_region *next;
	struct slab slabs[SLAB_NR];
};

_Static_assert(sizeof(struct slab_region) <= SLAB_HEAD, "the description of a region is a page");

void slab_init(struct slab_cache *c, size_t size)
{
	GFS2_BUG_ON(size < sizeof(void *) || size > SLAB_BYTES / 4);
	memset(c, 0, sizeof(*c));
	rmutex_init(&c->lock, RANK_SLAB);
	c->size = (size + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
	c->per_slab = (unsigned)((SLAB_BYTES - SLAB_HEAD) / c->size);
	list_init(&c->dense);
	list_init(&c->sparse);
	list_init(&c->empty);
}

void slab_destroy(struct slab_cache *c)
{
	GFS2_BUG_ON(c->nr);
	while (c->regions) {
		struct slab_region *region = c->regions;

		c->regions = region->next;
		free(region);
	}
	rmutex_destroy(&c->lock);
}

/* Of an object, or of a slab's description. */
static struct slab_region *region_of(void *p)
{
	return (struct slab_region *)((char *)p - ((uintptr_t)p & (SLAB_REGION - 1)));
}

static struct slab *slab_of(void *object)
{
	return &region_of(object)->slabs[((uintptr_t)object & (SLAB_REGION - 1)) / SLAB_BYTES];
}

static char *slab_base(struct slab *s)
{
	struct slab_region *region = region_of(s);

	return (char *)region + (size_t)(s - region->slabs) * SLAB_BYTES + SLAB_HEAD;
}

static struct list_head *slab_list(struct slab_cache *c, unsigned used)
{
	if (used == c->per_slab)
		return NULL;
	if (!used)
		return &c->empty;
	return used * 2 >= c->per_slab ? &c->dense : &c->sparse;
}

/* The lock is held; it has @used objects from now on. */
static void slab_set_used(struct slab_cache *c, struct slab *s, unsigned used)
{
	struct list_head *old = slab_list(c, s->used), *new = slab_list(c, used);

	s->used = used;
	if (old == new)
		return;
	list_del_init(&s->list);
	if (new)
		list_add(&s->list, new);
}

/* With the lock, which is let go of meanwhile: more slabs.  False without memory. */
static bool region_add(struct slab_cache *c)
{
	struct slab_region *region;

	rmutex_unlock(&c->lock);
	region = aligned_alloc(SLAB_REGION, SLAB_REGION);
	rmutex_lock(&c->lock);
	if (!region)
		return false;
	memset(region, 0, sizeof(*region));
	for (unsigned i = SLAB_NR; i--;)
		list_add_tail(&region->slabs[i].list, &c->empty);
	region->next = c->regions;
	c->regions = region;
	return true;
}

/* The lock is held. */
static void *slab_take(struct slab_cache *c, struct slab *s)
{
	char *object = s->free;

	if (object)
		s->free = *(void **)object;
	else
		object = slab_base(s) + (size_t)s->begun++ * c->size;
	if (!s->resident) {
		s->resident = true;
		c->nr_slabs++;
	}
	slab_set_used(c, s, s->used + 1);
	c->nr++;
	return object;
}

void *slab_alloc(struct slab_cache *c)
{
	void *object = NULL;
	struct list_head *from;

	if (EXACT_ALLOC)
		return malloc(c->size);
	rmutex_lock(&c->lock);
	for (;;) {
		from = !list_empty(&c->dense) ? &c->dense : !list_empty(&c->sparse) ? &c->sparse : &c->empty;
		if (!list_empty(from)) {
			object = slab_take(c, list_first_entry(from, struct slab, list));
			break;
		}
		if (!region_add(c))
			break;
	}
	rmutex_unlock(&c->lock);
	return object;
}

void *slab_zalloc(struct slab_cache *c)
{
	void *object;

	for (unsigned i = 0; !(object = slab_alloc(c)); i++)
		memory_wait(EXACT_ALLOC ? c->size : SLAB_REGION, i);
	return memset(object, 0, c->size);
}

/* The lock is held and nothing is left in @s: its memory goes, unless it is the only empty one. */
static void slab_release(struct slab_cache *c, struct slab *s)
{
	struct list_head *next = s->list.next;

	s->free = NULL;
	s->begun = 0;
	/* It is the first one.  One that has memory comes before those that have none. */
	if (next == &c->empty || !container_of(next, struct slab, list)->resident ||
	    madvise(slab_base(s), SLAB_BYTES - SLAB_HEAD, MADV_DONTNEED))
		return;
	s->resident = false;
	c->nr_slabs--;
	list_move_tail(&s->list, &c->empty);
}

void slab_free(struct slab_cache *c, void *object)
{
	struct slab *s;

	if (EXACT_ALLOC) {
		free(object);
		return;
	}
	s = slab_of(object);
	rmutex_lock(&c->lock);
	*(void **)object = s->free;
	s->free = object;
	c->nr--;
	slab_set_used(c, s, s->used - 1);
	if (!s->used)
		slab_release(c, s);
	rmutex_unlock(&c->lock);
}

size_t slab_bytes(struct slab_cache *c)
{
	size_t bytes;

	rmutex_lock(&c->lock);
	bytes = (size_t)c->nr_slabs * (SLAB_BYTES - SLAB_HEAD);
	rmutex_unlock(&c->lock);
	return bytes;
}
