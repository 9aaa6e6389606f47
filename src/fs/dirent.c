/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Directory entries inside one block (see dirent.h; kernel: dir.c:gfs2_dirent_scan, dirent_del,
 * gfs2_init_dirent).
 *
 * Unlike the kernel an insertion brings scattered free space together before it gives up, so a leaf
 * is split only when it is really full.  Nothing outside remembers a record's offset: cookies
 * depend on names only.
 */
#include "fs/dirent.h"

#define DIRENT_HEAD ((uint32_t)sizeof(struct gfs2_dirent))

void dirent_walk_init(struct dirent_walk *w, const struct dirent_area *area)
{
	*w = (struct dirent_walk){ .area = *area, .off = area->start };
}

/*
 * The rule that the record at @off breaks, or NULL.  @room: bytes from @off to the end of the area.
 */
static const char *dirent_check(const struct gfs2_dirent *d, uint32_t room, bool first)
{
	uint32_t rec_len, name_len;

	if (room < DIRENT_HEAD)
		return "directory entry reaches past the block";
	rec_len = dirent_rec_len(d);
	if (rec_len < DIRENT_HEAD)
		return "directory entry is too small";
	if (rec_len & 7)
		return "directory entry is misaligned";
	if (rec_len > room)
		return "directory entry reaches past the block";
	if (dirent_is_sentinel(d))
		return first ? NULL : "unused directory entry inside a block";
	name_len = dirent_name_len(d);
	if (name_len == 0 || name_len > GFS2_FNAMESIZE)
		return "directory entry has a name of impossible length";
	if (DIRENT_HEAD + name_len > rec_len)
		return "directory entry is shorter than its name";
	return NULL;
}

struct gfs2_dirent *dirent_next(struct dirent_walk *w)
{
	struct gfs2_dirent *d = (struct gfs2_dirent *)(w->area.block + w->off);

	if (w->off == w->area.end)
		return NULL;
	w->rule = dirent_check(d, w->area.end - w->off, w->off == w->area.start);
	if (w->rule)
		return NULL;
	w->prev = w->cur;
	w->cur = d;
	w->off += dirent_rec_len(d);
	return d;
}

struct gfs2_dirent *dirent_find(struct dirent_walk *w, const struct dirent_area *area,
				const struct gfs2_qname *q)
{
	struct gfs2_dirent *d;

	dirent_walk_init(w, area);
	while ((d = dirent_next(w)))
		if (!dirent_is_sentinel(d) && dirent_hash(d) == q->hash &&
		    dirent_name_len(d) == q->len && memcmp(dirent_name(d), q->name, q->len) == 0)
			return d;
	return NULL;
}

uint32_t dirent_used(const struct dirent_area *area, unsigned *live, const char **rule)
{
	const struct gfs2_dirent *d;
	struct dirent_walk w;
	uint32_t used = 0;

	*live = 0;
	dirent_walk_init(&w, area);
	while ((d = dirent_next(&w))) {
		if (dirent_is_sentinel(d))
			continue;
		used += dirent_size(dirent_name_len(d));
		++*live;
	}
	*rule = w.rule;
	return used;
}

void dirent_init_empty(const struct dirent_area *area)
{
	struct gfs2_dirent *d = (struct gfs2_dirent *)(area->block + area->start);

	memset(d, 0, area->end - area->start);
	d->de_rec_len = cpu_to_be16(area->end - area->start);
}

unsigned dirent_copy(const struct dirent_area *from, const struct dirent_area *to, uint64_t lo,
		     uint64_t hi, const char **rule)
{
	struct gfs2_dirent *last = NULL;
	const struct gfs2_dirent *d;
	uint32_t off = to->start;
	struct dirent_walk w;
	unsigned nr = 0;

	dirent_init_empty(to);
	dirent_walk_init(&w, from);
	while ((d = dirent_next(&w))) {
		uint32_t size = dirent_size(dirent_name_len(d));

		if (dirent_is_sentinel(d) || dirent_hash(d) < lo || dirent_hash(d) >= hi)
			continue;
		last = (struct gfs2_dirent *)(to->block + off);
		memcpy(last, d, DIRENT_HEAD + dirent_name_len(d));
		last->de_rec_len = cpu_to_be16(size);
		off += size;
		nr++;
	}
	if (last)
		last->de_rec_len = cpu_to_be16(dirent_rec_len(last) + to->end - off);
	*rule = w.rule;
	return nr;
}

/* Move all free space behind the last entry. */
static void dirent_compact(const struct dirent_area *area)
{
	char buf[4096] __attribute__((aligned(8)));
	struct dirent_area tmp = { buf, area->start, area->end };
	const char *rule;

	GFS2_BUG_ON(area->end > sizeof(buf));
	dirent_copy(area, &tmp, 0, UINT64_MAX, &rule);
	memcpy(area->block + area->start, buf + area->start, area->end - area->start);
}

/* A record of @area with @size bytes to spare, its own need taken off. */
static struct gfs2_dirent *dirent_find_space(const struct dirent_area *area, uint32_t size,
					     const char **rule)
{
	struct gfs2_dirent *d;
	struct dirent_walk w;

	dirent_walk_init(&w, area);
	while ((d = dirent_next(&w))) {
		uint32_t own = dirent_is_sentinel(d) ? 0 : dirent_size(dirent_name_len(d));

		if (dirent_rec_len(d) >= own + size)
			return d;
	}
	*rule = w.rule;
	return NULL;
}

struct gfs2_dirent *dirent_insert(const struct dirent_area *area, const struct gfs2_qname *q,
				  const char **rule)
{
	uint32_t size = dirent_size(q->len), rec_len, own;
	struct gfs2_dirent *d;
	unsigned live;

	*rule = NULL;
	d = dirent_find_space(area, size, rule);
	if (!d) {
		if (*rule || dirent_used(area, &live, rule) + size > area->end - area->start ||
		    *rule)
			return NULL;
		dirent_compact(area);
		d = dirent_find_space(area, size, rule);
		GFS2_BUG_ON(!d);
	}
	rec_len = dirent_rec_len(d);
	if (!dirent_is_sentinel(d)) {
		own = dirent_size(dirent_name_len(d));
		d->de_rec_len = cpu_to_be16(own);
		d = (struct gfs2_dirent *)((char *)d + own);
		rec_len -= own;
	}
	memset(d, 0, size);
	d->de_hash = cpu_to_be32(q->hash);
	d->de_rec_len = cpu_to_be16(rec_len);
	d->de_name_len = cpu_to_be16(q->len);
	memcpy(dirent_name(d), q->name, q->len);
	return d;
}

void dirent_remove(struct dirent_walk *w)
{
	struct gfs2_dirent *d = w->cur;

	if (w->prev) {
		w->prev->de_rec_len = cpu_to_be16(dirent_rec_len(w->prev) + dirent_rec_len(d));
		return;
	}
	/* Both halves: either alone makes a sentinel, but fsck expects them to agree. */
	d->de_inum.no_addr = 0;
	d->de_inum.no_formal_ino = 0;
}
