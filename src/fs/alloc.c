/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Growing the metadata tree: allocation into holes, more height, unstuffing
 * (kernel: bmap.c:__gfs2_iomap_alloc, gfs2_unstuff_dinode; reference gfs2-ondisk.md 4.2, 4.3).
 *
 * Guarantees
 *  1. All of one call is in the caller's transaction: bitmaps, new indirect blocks, pointers,
 *     dinode.
 *  2. A tree that must become higher gets a chain of new indirect blocks under pointer 0, as many
 *     as levels, even if it was empty.
 *  3. The extent map knows the new blocks when a call returns.
 *
 * Needs from callers: EX, an open transaction with gfs2_alloc_trans_blocks() blocks and a
 * reservation for gfs2_alloc_meta_blocks() and the data.
 */
#include "fs/file.h"
#include "util/util.h"

/* Smallest height, at least the current one and 1, at which @lblock can be addressed. */
static unsigned height_for(const struct gfs2_inode *ip, uint64_t lblock)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned height = max_t(unsigned, ip->i_height, 1);

	while (height < sdp->sd_max_height &&
	       (sdp->sd_heightsize[height] >> sdp->sd_bsize_shift) <= lblock)
		height++;
	return height;
}

unsigned gfs2_alloc_meta_blocks(struct gfs2_inode *ip, uint64_t lblock, uint64_t len)
{
	uint64_t last = lblock + len - 1, blocks;
	unsigned height = height_for(ip, last), level;

	/* Unstuffing makes height 1 without an indirect block. */
	blocks = height - max_t(unsigned, ip->i_height, 1);
	for (level = 1; level < height; level++) {
		uint64_t covers = gfs2_span(ip->i_sbd, height, level - 1);

		blocks += last / covers - lblock / covers + 1;
	}
	return (unsigned)min_t(uint64_t, blocks, UINT32_MAX);
}

/* Blocks of metadata that are missing on the path from @bh (of @level in a tree of @height) down to @lblock. */
static int count_missing(struct gfs2_inode *ip, struct gfs2_bh *bh, unsigned height, unsigned level,
			 uint64_t lblock, unsigned *missing)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned grow = height - ip->i_height; /* levels that only come to be: the dinode is at @grow */

	buf_hold(bh);
	for (; level + 1 < height; level++) {
		unsigned idx = (unsigned)(lblock / gfs2_span(sdp, height, level) % sdp->sd_inptrs);
		struct gfs2_bh *next;
		uint64_t blkno = 0;
		int error;

		if (idx < gfs2_nr_metaptrs(sdp, level - grow))
			blkno = be64_to_cpu(gfs2_metaptrs(bh, level - grow)[idx]);
		if (!blkno)
			break;
		error = gfs2_check_pointer(ip, blkno);
		if (!error)
			error = gfs2_meta_read(sdp, ip->i_gl, blkno, GFS2_METATYPE_IN, &next);
		buf_put(bh);
		if (error)
			return error;
		bh = next;
	}
	buf_put(bh);
	*missing += height - 1 - level;
	return 0;
}

int gfs2_alloc_meta_missing(struct gfs2_inode *ip, uint64_t lblock, unsigned *missing)
{
	unsigned height = height_for(ip, lblock), old = max_t(unsigned, ip->i_height, 1), level;
	struct gfs2_bh *bh;
	int error;

	/* New levels: a chain under pointer 0. */
	*missing = height - old;
	for (level = 0; level < height - old; level++)
		if (lblock / gfs2_span(ip->i_sbd, height, level)) {
			*missing += height - 1 - level;
			return 0;
		}
	if (gfs2_is_stuffed(ip)) {
		*missing += height - 1 - level;
		return 0;
	}
	error = gfs2_meta_inode_buffer(ip, &bh);
	if (error)
		return error;
	error = count_missing(ip, bh, height, level, lblock, missing);
	buf_put(bh);
	return error;
}

int gfs2_alloc_read_path(struct gfs2_inode *ip, uint64_t lblock, struct gfs2_bh **path, unsigned *nr)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	int error = gfs2_meta_inode_buffer(ip, &path[0]);

	*nr = !error;
	/* In a tree that becomes higher all that leads there is new. */
	if (error || lblock >= sdp->sd_heightsize[ip->i_height] >> sdp->sd_bsize_shift)
		return error;
	for (unsigned level = 0; level + 1 < ip->i_height; level++) {
		uint64_t idx = lblock / gfs2_span(sdp, ip->i_height, level);
		uint64_t blkno = be64_to_cpu(gfs2_metaptrs(path[level], level)[level ? idx % sdp->sd_inptrs : idx]);

		if (!blkno)
			break;
		error = gfs2_check_pointer(ip, blkno);
		if (!error)
			error = gfs2_meta_read(sdp, ip->i_gl, blkno, GFS2_METATYPE_IN, &path[level + 1]);
		if (error)
			break;
		++*nr;
	}
	while (error && *nr)
		buf_put(path[--*nr]);
	return error;
}

unsigned gfs2_alloc_trans_blocks(const struct gfs2_alloc *ap, unsigned meta, unsigned blocks)
{
	const unsigned dinode = 1, statfs = 1;

	return dinode + meta + gfs2_rg_blocks(ap, blocks) + statfs;
}

/* One new indirect block, empty, +1 reference. */
static int new_indirect(struct gfs2_inode *ip, struct gfs2_alloc *ap, struct gfs2_bh **out)
{
	unsigned n = 1;
	uint64_t bn;
	int error = gfs2_alloc_blocks(ip, ap, &bn, &n, false, NULL);

	if (error)
		return error;
	ip->i_blocks++;
	return gfs2_meta_new(ip->i_sbd, ip->i_gl, bn, GFS2_METATYPE_IN, GFS2_FORMAT_IN, out);
}

/*
 * One more level: all that the dinode points at moves to a new indirect block under its pointer 0.
 */
static int grow_height(struct gfs2_inode *ip, struct gfs2_alloc *ap, struct gfs2_bh *dibh)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	size_t bytes = gfs2_max_stuffed_size(ip);
	__be64 *ptrs = gfs2_metaptrs(dibh, 0);
	struct gfs2_bh *bh;
	int error = new_indirect(ip, ap, &bh);

	if (error)
		return error;
	memcpy(gfs2_metaptrs(bh, 1), ptrs, sdp->sd_diptrs * sizeof(*ptrs));
	memset(ptrs, 0, bytes);
	ptrs[0] = cpu_to_be64(bh->b_blocknr);
	ip->i_height++;
	buf_put(bh);
	return 0;
}

/* Indexes of the path to @lblock; idx[level] is used in the block of that level. */
static void find_path(const struct gfs2_inode *ip, uint64_t lblock, unsigned *idx)
{
	unsigned level = ip->i_height;

	while (--level) {
		idx[level] = (unsigned)(lblock % ip->i_sbd->sd_inptrs);
		lblock /= ip->i_sbd->sd_inptrs;
	}
	idx[0] = (unsigned)lblock;
}

/*
 * Walk to the last level, making the indirect blocks that are missing.  *@bh: in: the dinode,
 * already in the transaction; out: the last indirect block (or the dinode), the reference of the
 * other is dropped.
 */
static int fill_path(struct gfs2_inode *ip, struct gfs2_alloc *ap, const unsigned *idx,
		     struct gfs2_bh **bhp)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned level;

	for (level = 0; level + 1 < ip->i_height; level++) {
		struct gfs2_bh *bh = *bhp, *next;
		__be64 *ptr = &gfs2_metaptrs(bh, level)[idx[level]];
		int error;

		if (*ptr) {
			error = gfs2_check_pointer(ip, be64_to_cpu(*ptr));
			if (!error)
				error = gfs2_meta_read(sdp, ip->i_gl, be64_to_cpu(*ptr),
						       GFS2_METATYPE_IN, &next);
		} else {
			error = new_indirect(ip, ap, &next);
			if (!error) {
				gfs2_trans_add_meta(sdp->sd_log, ip->i_gl, bh);
				*ptr = cpu_to_be64(next->b_blocknr);
			}
		}
		if (error)
			return error;
		buf_put(bh);
		*bhp = next;
	}
	return 0;
}

/* Data blocks for the zero pointers from @idx on. */
static int fill_pointers(struct gfs2_inode *ip, struct gfs2_alloc *ap, struct gfs2_bh *bh,
			 unsigned idx, uint64_t *pblock, unsigned *len)
{
	unsigned level = ip->i_height - 1, nr = gfs2_nr_metaptrs(ip->i_sbd, level), n = 0, i;
	__be64 *ptrs = gfs2_metaptrs(bh, level);
	int error;

	while (n < *len && idx + n < nr && !ptrs[idx + n])
		n++;
	if (!n)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, "what is allocated was a hole");
	error = gfs2_alloc_data(ip, ap, pblock, &n);
	if (error)
		return error;
	gfs2_trans_add_meta(ip->i_sbd->sd_log, ip->i_gl, bh);
	for (i = 0; i < n; i++)
		ptrs[idx + i] = cpu_to_be64(*pblock + i);
	ip->i_blocks += n;
	*len = n;
	return 0;
}

int gfs2_alloc_extent(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t lblock, uint64_t *pblock,
		      unsigned *len)
{
	unsigned idx[GFS2_MAX_META_HEIGHT], height = height_for(ip, lblock);
	struct gfs2_bh *bh;
	int error, error2;

	gfs2_assert_held(ip->i_gl, true);
	GFS2_BUG_ON(gfs2_is_stuffed(ip) || !*len || lblock >= gfs2_max_lblock(ip->i_sbd));
	error = gfs2_meta_inode_buffer(ip, &bh);
	if (error)
		return error;
	gfs2_trans_add_meta(ip->i_sbd->sd_log, ip->i_gl, bh);
	while (!error && ip->i_height < height)
		error = grow_height(ip, ap, bh);
	if (error)
		goto out;
	find_path(ip, lblock, idx);
	error = fill_path(ip, ap, idx, &bh);
	if (!error)
		error = fill_pointers(ip, ap, bh, idx[ip->i_height - 1], pblock, len);
	if (!error) {
		struct extent e = { lblock, *len, *pblock };

		extmap_insert(&ip->i_map, &e);
	}
out:
	/*
	 * Also when an indirect block could not be read: what has been made until then, a higher tree above all, is in the transaction, and the
	 * dinode has to agree.  It is pinned: this does not fail but after a withdraw.
	 */
	error2 = gfs2_dinode_log(ip);
	buf_put(bh);
	return error ? error : error2;
}

/* The contents of a stuffed inode into its new block 0. */
static int fill_unstuffed(struct gfs2_inode *ip, uint64_t bn, const char *data)
{
	struct gfs2_mapping *m = gfs2_is_jdata(ip) ? &ip->i_gl->gl_mapping : &ip->i_data;
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_bh *bh;
	int error;

	if (!S_ISREG(ip->i_mode)) {
		/* A directory's hash table: JD block. */
		error = gfs2_meta_new(sdp, ip->i_gl, bn, GFS2_METATYPE_JD, GFS2_FORMAT_JD, &bh);
		if (error)
			return error;
		memcpy(bh->b_data + sizeof(struct gfs2_meta_header), data, ip->i_size);
		buf_put(bh);
		return 0;
	}
	bh = buf_get(m, bn);
	error = gfs2_check_owner(sdp, bh, m);
	if (error)
		goto out;
	if (gfs2_is_jdata(ip))
		gfs2_trans_add_jdata(sdp->sd_log, ip->i_gl, bh);
	memcpy(bh->b_data, data, ip->i_size);
	memset(bh->b_data + ip->i_size, 0, sdp->sd_bsize - ip->i_size);
	buf_set_uptodate(bh);
	if (!gfs2_is_jdata(ip)) {
		buf_set_state(bh, B_PARTIAL);
		error = gfs2_data_dirty(ip, bh);
		gfs2_ordered_add(sdp->sd_log, &ip->i_data);
	}
out:
	buf_put(bh);
	return error;
}

int gfs2_unstuff(struct gfs2_inode *ip, struct gfs2_alloc *ap)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_bh *bh;
	unsigned n = 1;
	uint64_t bn = 0;
	char *payload;
	int error;

	gfs2_assert_held(ip->i_gl, true);
	GFS2_BUG_ON(!gfs2_is_stuffed(ip));
	error = gfs2_meta_inode_buffer(ip, &bh);
	if (error)
		return error;
	payload = bh->b_data + sizeof(struct gfs2_dinode);
	if (ip->i_size) {
		error = gfs2_alloc_blocks(ip, ap, &bn, &n, false, NULL);
		if (error)
			goto out;
		error = fill_unstuffed(ip, bn, payload);
		if (error)
			goto out;
		ip->i_blocks++;
	}
	gfs2_trans_add_meta(sdp->sd_log, ip->i_gl, bh);
	memset(payload, 0, gfs2_max_stuffed_size(ip));
	extmap_clear(&ip->i_map);
	if (bn) {
		struct extent e = { 0, 1, bn };

		*(__be64 *)payload = cpu_to_be64(bn);
		extmap_insert(&ip->i_map, &e);
	}
	ip->i_height = 1;
	error = gfs2_dinode_log(ip);
out:
	buf_put(bh);
	return error;
}
