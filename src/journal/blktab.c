/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "journal/blktab.h"

#include "util/util.h"

#define BLKTAB_MIN_BITS 8

static unsigned slot_of(const struct blktab *t, uint64_t blkno)
{
	/* Fibonacci hashing: neighbours, the usual case, spread over the table. */
	return (blkno * 0x9e3779b97f4a7c15ull) >> (64 - t->bits);
}

static struct log_block *slots_new(unsigned bits)
{
	return xzalloc(sizeof(struct log_block) << bits);
}

void blktab_init(struct blktab *t)
{
	t->bits = BLKTAB_MIN_BITS;
	t->nr = 0;
	t->slots = slots_new(t->bits);
}

void blktab_free(struct blktab *t)
{
	free(t->slots);
	t->slots = NULL;
	t->nr = 0;
}

/* The slot that holds @blkno, or the free one where it would go. */
static struct log_block *probe(const struct blktab *t, uint64_t blkno)
{
	unsigned mask = (1u << t->bits) - 1;
	unsigned i = slot_of(t, blkno);

	while (t->slots[i].blkno && t->slots[i].blkno != blkno)
		i = (i + 1) & mask;
	return &t->slots[i];
}

struct log_block *blktab_find(const struct blktab *t, uint64_t blkno)
{
	struct log_block *b = probe(t, blkno);

	return b->blkno ? b : NULL;
}

static void blktab_grow(struct blktab *t)
{
	struct log_block *old = t->slots;
	unsigned n = 1u << t->bits;

	t->bits++;
	t->slots = slots_new(t->bits);
	for (unsigned i = 0; i < n; i++)
		if (old[i].blkno)
			*probe(t, old[i].blkno) = old[i];
	free(old);
}

struct log_block *blktab_get(struct blktab *t, uint64_t blkno)
{
	struct log_block *b;

	gfs2_assert_debug(blkno);
	b = probe(t, blkno);
	if (b->blkno)
		return b;
	if (2 * (t->nr + 1) > 1u << t->bits) {
		blktab_grow(t);
		b = probe(t, blkno);
	}
	t->nr++;
	b->blkno = blkno;
	return b;
}

void blktab_gc(struct blktab *t, struct log_block *b)
{
	unsigned mask = (1u << t->bits) - 1;
	unsigned hole = b - t->slots;

	if (b->seq || b->pin || b->rev)
		return;
	t->nr--;
	/* Move later members of the probe chain up, so that no lookup stops at the hole. */
	for (unsigned i = (hole + 1) & mask; t->slots[i].blkno; i = (i + 1) & mask) {
		unsigned home = slot_of(t, t->slots[i].blkno);

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		t->slots[hole] = t->slots[i];
		hole = i;
	}
	memset(&t->slots[hole], 0, sizeof(t->slots[hole]));
}

void *grow_array(void *array, unsigned nr, unsigned *cap, size_t size)
{
	if (nr < *cap)
		return array;
	*cap = *cap ? *cap * 2 : 64;
	return xrealloc(array, *cap * size);
}
