/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-memory extent map of an inode.
 *
 * What it is: a sorted array of runs, found by binary search.  It is knowledge that can be read
 * again from the metadata tree at any time, so every shortage (too many runs, no memory) is
 * answered by forgetting, never by an error.
 *
 * Guarantees
 *  1. Runs are sorted by lblock, do not overlap and are never empty.
 *  2. Neighbours that continue each other (hole after hole, or the next device block) are one run.
 *  3. At most m->max runs are kept.
 *
 * Needs from callers: nothing but that what they insert is true under the glock they hold.
 */
#include "fs/extmap.h"
#include "util/util.h"

#define EXTMAP_MAX 8192		/* 192 KiB of runs for one inode */

static inline uint64_t ext_end(const struct extent *e)
{
	return e->lblock + e->len;
}

void extmap_init(struct extmap *m)
{
	memset(m, 0, sizeof(*m));
	rmutex_init(&m->lock, RANK_EXTMAP);
	m->max = EXTMAP_MAX;
}

void extmap_destroy(struct extmap *m)
{
	free(m->ext);
	m->ext = NULL;
	m->nr = m->space = 0;
	rmutex_destroy(&m->lock);
}

/* Index of the first run that ends behind @lblock; m->nr if there is none. */
static unsigned extmap_find(const struct extmap *m, uint64_t lblock)
{
	unsigned lo = 0, hi = m->nr;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (ext_end(&m->ext[mid]) > lblock)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static bool lookup_locked(const struct extmap *m, uint64_t lblock, struct extent *out)
{
	unsigned i = extmap_find(m, lblock);
	uint64_t skip;

	if (i == m->nr || m->ext[i].lblock > lblock)
		return false;
	skip = lblock - m->ext[i].lblock;
	out->lblock = lblock;
	out->len = m->ext[i].len - skip;
	out->pblock = m->ext[i].pblock ? m->ext[i].pblock + skip : 0;
	return true;
}

bool extmap_lookup(struct extmap *m, uint64_t lblock, struct extent *out)
{
	bool found;

	rmutex_lock(&m->lock);
	found = lookup_locked(m, lblock, out);
	rmutex_unlock(&m->lock);
	return found;
}

bool extmap_lookup_try(struct extmap *m, uint64_t lblock, struct extent *out)
{
	bool found;

	if (!rmutex_trylock(&m->lock))
		return false;
	found = lookup_locked(m, lblock, out);
	rmutex_unlock(&m->lock);
	return found;
}

bool extmap_crowded(struct extmap *m, unsigned nr)
{
	bool crowded;

	rmutex_lock(&m->lock);
	crowded = m->nr + nr > m->max;
	rmutex_unlock(&m->lock);
	return crowded;
}

/* Make room for one run at @i.  False (and an empty map): no memory, or the limit is reached. */
static bool open_gap(struct extmap *m, unsigned i)
{
	if (m->nr >= m->max) {
		m->nr = 0;
		return false;
	}
	if (m->nr == m->space) {
		unsigned space = m->space ? m->space * 2 : 4;
		struct extent *ext = realloc(m->ext, space * sizeof(*ext));

		if (!ext) {
			m->nr = 0;
			return false;
		}
		m->ext = ext;
		m->space = space;
	}
	memmove(&m->ext[i + 1], &m->ext[i], (m->nr - i) * sizeof(*m->ext));
	m->nr++;
	return true;
}

static void remove_runs(struct extmap *m, unsigned first, unsigned end)
{
	if (first == end)
		return;
	memmove(&m->ext[first], &m->ext[end], (m->nr - end) * sizeof(*m->ext));
	m->nr -= end - first;
}

/* Drop the first @n blocks of a run. */
static void cut_head(struct extent *e, uint64_t n)
{
	e->lblock += n;
	e->len -= n;
	if (e->pblock)
		e->pblock += n;
}

static void forget_locked(struct extmap *m, uint64_t lblock, uint64_t len)
{
	uint64_t end = len > UINT64_MAX - lblock ? UINT64_MAX : lblock + len;
	unsigned i, j;

	if (!len)
		return;
	i = extmap_find(m, lblock);
	if (i < m->nr && m->ext[i].lblock < lblock) {
		if (ext_end(&m->ext[i]) > end) {
			struct extent right = m->ext[i];

			cut_head(&right, end - right.lblock);
			m->ext[i].len = lblock - m->ext[i].lblock;
			if (open_gap(m, i + 1))
				m->ext[i + 1] = right;
			return;
		}
		m->ext[i].len = lblock - m->ext[i].lblock;
		i++;
	}
	for (j = i; j < m->nr && ext_end(&m->ext[j]) <= end; j++)
		;
	if (j < m->nr && m->ext[j].lblock < end)
		cut_head(&m->ext[j], end - m->ext[j].lblock);
	remove_runs(m, i, j);
}

/* Does @b go on where @a ends, on the file's side and on the device's? */
static bool continues(const struct extent *a, const struct extent *b)
{
	if (ext_end(a) != b->lblock)
		return false;
	return a->pblock ? a->pblock + a->len == b->pblock : !b->pblock;
}

void extmap_insert(struct extmap *m, const struct extent *e)
{
	unsigned i;

	if (!e->len)
		return;
	GFS2_BUG_ON(e->len > UINT64_MAX - e->lblock);
	rmutex_lock(&m->lock);
	forget_locked(m, e->lblock, e->len);
	i = extmap_find(m, e->lblock);
	if (i > 0 && continues(&m->ext[i - 1], e)) {
		m->ext[i - 1].len += e->len;
		if (i < m->nr && continues(&m->ext[i - 1], &m->ext[i])) {
			m->ext[i - 1].len += m->ext[i].len;
			remove_runs(m, i, i + 1);
		}
	} else if (i < m->nr && continues(e, &m->ext[i])) {
		m->ext[i].lblock = e->lblock;
		m->ext[i].len += e->len;
		m->ext[i].pblock = e->pblock;
	} else {
		if (!open_gap(m, i)) {
			i = 0;
			if (!open_gap(m, i))
				goto out;
		}
		m->ext[i] = *e;
	}
out:
	rmutex_unlock(&m->lock);
}

void extmap_forget(struct extmap *m, uint64_t lblock, uint64_t len)
{
	rmutex_lock(&m->lock);
	forget_locked(m, lblock, len);
	rmutex_unlock(&m->lock);
}

void extmap_clear(struct extmap *m)
{
	rmutex_lock(&m->lock);
	m->nr = 0;
	rmutex_unlock(&m->lock);
}

unsigned extmap_copy(struct extmap *m, uint64_t lblock, struct extent *out, unsigned max)
{
	unsigned i, n = 0;

	rmutex_lock(&m->lock);
	for (i = extmap_find(m, lblock); i < m->nr && n < max; i++)
		out[n++] = m->ext[i];
	rmutex_unlock(&m->lock);
	return n;
}
