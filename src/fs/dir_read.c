/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listing a directory (kernel: dir.c:dir_e_read, do_filldir_main; reference gfs2-ondisk.md 5.8).
 *
 * One hash range (the leaf chain behind a run of table slots) at a time is collected, sorted and
 * handed out, so memory is bounded by the longest chain, and the order depends on names only:
 * inserts, splits and doublings between two calls neither repeat nor hide an entry that lives
 * throughout.
 *
 * Cookies: bits 31..62 are (hash >> 1) + 1, as the kernel's order wants it.  Bits 0..30 tell apart
 * names that collide there: they are taken from a second, independent checksum of the name, so that
 * they too do not depend on the other names.  Only names equal in both (61 bits) are numbered by
 * position, and only those could move while a listing is under way.
 */
#include "fs/dirent.h"

#define COOKIE_LOW_BITS 31
#define COOKIE_LOW_MASK ((1ull << COOKIE_LOW_BITS) - 1)
/* Leaves that are read ahead together. */
#define READ_AHEAD_LEAVES 16

struct dir_item {
	uint64_t cookie;
	const struct gfs2_dirent *d;
};

/*
 * All entries of one hash range; the buffers stay referenced, under the caller's holder their
 * contents do not change.
 */
struct dir_batch {
	struct dir_item *items;
	unsigned nr, space;
	struct gfs2_bh **bhs;
	unsigned nr_bhs, space_bhs;
};

static void *grow_array(void *p, unsigned *space, size_t size)
{
	unsigned n = *space ? 2 * *space : 64;
	void *q = reallocarray(p, n, size);

	if (q)
		*space = n;
	return q;
}

static int batch_hold(struct dir_batch *b, struct gfs2_bh *bh)
{
	if (b->nr_bhs == b->space_bhs) {
		void *p = grow_array(b->bhs, &b->space_bhs, sizeof(*b->bhs));

		if (!p)
			return -ENOMEM;
		b->bhs = p;
	}
	b->bhs[b->nr_bhs++] = buf_hold(bh);
	return 0;
}

static int batch_add(struct dir_batch *b, const struct gfs2_dirent *d)
{
	if (b->nr == b->space) {
		void *p = grow_array(b->items, &b->space, sizeof(*b->items));

		if (!p)
			return -ENOMEM;
		b->items = p;
	}
	b->items[b->nr].d = d;
	b->items[b->nr++].cookie =
		((uint64_t)(dirent_hash(d) >> 1) + 1) << COOKIE_LOW_BITS |
		(gfs2_crc32c(~0u, dirent_name(d), dirent_name_len(d)) & COOKIE_LOW_MASK);
	return 0;
}

static void batch_reset(struct dir_batch *b)
{
	unsigned i;

	for (i = 0; i < b->nr_bhs; i++)
		buf_put(b->bhs[i]);
	b->nr = b->nr_bhs = 0;
}

/* Entries of @area whose hash is in [lo, hi]; @live: all of them. */
static int batch_collect(struct gfs2_inode *dip, struct dir_batch *b, struct gfs2_bh *bh,
			 const struct dirent_area *area, uint32_t lo, uint32_t hi, unsigned *live)
{
	const struct gfs2_dirent *d;
	struct dirent_walk w;
	int error = batch_hold(b, bh);

	*live = 0;
	dirent_walk_init(&w, area);
	while (!error && (d = dirent_next(&w))) {
		if (dirent_is_sentinel(d))
			continue;
		if (dirent_hash(d) < lo || dirent_hash(d) > hi)
			return gfs2_consist(dip->i_sbd, bh->b_blocknr,
					    "name in a leaf that its hash does not lead to");
		/* No caller could name it; the kernel would refuse the listing without a word about where. */
		if (memchr(dirent_name(d), '/', dirent_name_len(d)) || memchr(dirent_name(d), 0, dirent_name_len(d)))
			return gfs2_consist(dip->i_sbd, bh->b_blocknr, "directory entry has a name with a slash or a zero byte");
		++*live;
		error = batch_add(b, d);
	}
	if (w.rule)
		return gfs2_consist(dip->i_sbd, bh->b_blocknr, w.rule);
	return error;
}

static int item_cmp(const void *pa, const void *pb)
{
	const struct dir_item *a = pa, *b = pb;
	uint32_t la, lb;

	if (a->cookie != b->cookie)
		return a->cookie < b->cookie ? -1 : 1;
	la = dirent_name_len(a->d);
	lb = dirent_name_len(b->d);
	if (la != lb)
		return la < lb ? -1 : 1;
	return memcmp(dirent_name(a->d), dirent_name(b->d), la);
}

/* Hand the batch out.  false: the caller has had enough. */
static bool batch_emit(struct dir_batch *b, uint64_t after,
		       bool (*fn)(void *arg, const struct gfs2_dir_entry *e), void *arg)
{
	uint64_t prev = 0;
	unsigned i;

	if (b->nr)
		qsort(b->items, b->nr, sizeof(*b->items), item_cmp);
	for (i = 0; i < b->nr; i++) {
		const struct gfs2_dirent *d = b->items[i].d;
		struct gfs2_dir_entry e = {
			.cookie = max_t(uint64_t, b->items[i].cookie, prev + 1),
			.inum = { be64_to_cpu(d->de_inum.no_formal_ino),
				  be64_to_cpu(d->de_inum.no_addr) },
			.type = be16_to_cpu(d->de_type),
			.len = dirent_name_len(d),
			.name = dirent_name(d),
		};

		prev = e.cookie;
		if (e.cookie > after && !fn(arg, &e))
			return false;
	}
	return true;
}

static int read_linear(struct gfs2_inode *dip, struct dir_batch *b, uint64_t after,
		       bool (*fn)(void *arg, const struct gfs2_dir_entry *e), void *arg)
{
	struct dirent_area area;
	struct gfs2_bh *bh;
	unsigned live;
	int error;

	error = gfs2_meta_inode_buffer(dip, &bh);
	if (error)
		return error;
	area = dir_linear_area(dip, bh);
	error = batch_collect(dip, b, bh, &area, 0, UINT32_MAX, &live);
	if (!error && live != dip->i_entries)
		error = gfs2_consist(dip->i_sbd, dip->i_no_addr,
				     "wrong number of entries in a directory");
	if (!error)
		batch_emit(b, after, fn, arg);
	buf_put(bh);
	return error;
}

/* Collect the chain that slot @index leads to; *@next: the slot after its range. */
static int collect_chain(struct gfs2_inode *dip, struct dir_batch *b, uint32_t index, uint32_t *next)
{
	unsigned shift = 32 - dip->i_depth, live;
	uint32_t first = 0, len = 0;
	struct dir_chain c;
	int error;

	error = dir_chain_begin(&c, dip, index << shift);
	while (!error && (error = dir_chain_next(&c)) > 0) {
		struct dirent_area area = dir_leaf_area(dip, c.bh);

		error = len ? 0 : dir_leaf_range(dip, c.bh, index, &first, &len);
		if (error)
			break;
		error = batch_collect(dip, b, c.bh, &area, first << shift,
				      (uint32_t)(((uint64_t)(first + len) << shift) - 1), &live);
		if (!error && live != be16_to_cpu(dir_leaf(c.bh)->lf_entries))
			error = gfs2_consist(dip->i_sbd, c.bh->b_blocknr,
					     "wrong number of entries in a leaf");
	}
	dir_chain_end(&c);
	*next = first + len;
	return error;
}

/* Ask for the next leaves from slot @index on; returns the slot from where to ask again. */
static uint32_t read_ahead(struct gfs2_inode *dip, const __be64 *table, uint32_t index)
{
	uint64_t blocks[READ_AHEAD_LEAVES];
	uint32_t nr_slots = 1u << dip->i_depth;
	unsigned nr = 0;

	for (; index < nr_slots; index++) {
		uint64_t leaf = be64_to_cpu(table[index]);

		if (nr && blocks[nr - 1] == leaf)
			continue;
		if (nr == READ_AHEAD_LEAVES)
			break;
		blocks[nr++] = leaf;
	}
	buf_readahead(&dip->i_gl->gl_mapping, blocks, nr);
	return index;
}

static int read_exhash(struct gfs2_inode *dip, struct dir_batch *b, uint64_t after,
		       bool (*fn)(void *arg, const struct gfs2_dir_entry *e), void *arg)
{
	uint64_t high = after >> COOKIE_LOW_BITS;
	uint32_t index = 0, ahead = 0, nr;
	const __be64 *table;
	int error;

	error = dir_hash_get(dip, &table);
	if (error)
		return error;
	if (high > (uint64_t)UINT32_MAX / 2 + 1)
		return 0;
	if (high)
		index = dir_hash_index(dip, (uint32_t)(high - 1) << 1);
	nr = 1u << dip->i_depth;
	while (!error && index < nr) {
		if (index >= ahead)
			ahead = read_ahead(dip, table, index);
		error = collect_chain(dip, b, index, &index);
		if (!error && !batch_emit(b, after, fn, arg))
			break;
		batch_reset(b);
	}
	return error;
}

int gfs2_dir_read(struct gfs2_inode *dip, uint64_t after,
		  bool (*fn)(void *arg, const struct gfs2_dir_entry *e), void *arg)
{
	struct dir_batch b = { 0 };
	int error;

	gfs2_assert_held(dip->i_gl, false);
	if (!gfs2_is_dir(dip))
		return -ENOTDIR;
	/*
	 * A removed directory that is still open has nothing in it, although "." and ".." are still
	 * there on disk.
	 */
	if (!dip->i_nlink)
		return 0;
	if (dir_is_exhash(dip))
		error = read_exhash(dip, &b, after, fn, arg);
	else
		error = read_linear(dip, &b, after, fn, arg);
	batch_reset(&b);
	free(b.items);
	free(b.bhs);
	return error;
}
