/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * File block -> device block: reading the metadata tree (kernel: bmap.c; reference gfs2-ondisk.md
 * 4.3).
 *
 * Guarantees
 *  1. What gfs2_map_extent returns is legal: it starts where it was asked for, is not empty, and
 *     its device blocks lie in the data area of an rgrp.  Anything else in the tree is a
 *     consistency error.
 *  2. A walk remembers all it has seen on its way: the runs that follow in the last indirect
 *     block, and whole empty subtrees as one hole.  Of a file in very many pieces it remembers the long ones: for the others the
 *     cached blocks of the tree are as good, and the map would do nothing but forget and learn again.
 *
 * Needs from callers: any holder on the inode's glock.
 */
#include "fs/bmap.h"
#include "util/util.h"

#define WALK_MAX_RUNS 64	/* remembered by one walk */
#define WALK_READAHEAD 8	/* indirect blocks */
#define WALK_LONG_RUN 64	/* blocks: remembered in any case */

int gfs2_check_pointer(struct gfs2_inode *ip, uint64_t blkno)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	bool ok;

	/* System files are read before the index of rgrps is there. */
	if (ip->i_diskflags & GFS2_DIF_SYSTEM)
		ok = !sb_is_system_range(sdp, blkno);
	else
		ok = gfs2_blk_in_rgrp(sdp, blkno);
	return ok ? 0 : gfs2_consist(sdp, ip->i_no_addr, "block pointers lie inside an rgrp");
}

/* Zero pointers from @first on. */
static unsigned count_zero(const __be64 *ptrs, unsigned first, unsigned nr)
{
	unsigned i = first;

	while (i < nr && !ptrs[i])
		i++;
	return i - first;
}

static void note_hole(struct gfs2_inode *ip, uint64_t lblock, uint64_t start, uint64_t end,
		      struct extent *out)
{
	struct extent hole = { start, end - start, 0 };

	extmap_insert(&ip->i_map, &hole);
	*out = (struct extent){ lblock, end - lblock, 0 };
}

/* The pointer for @lblock in @ptrs[@idx] of level @level is zero: how much is? */
static void map_hole(struct gfs2_inode *ip, const __be64 *ptrs, unsigned idx, unsigned level,
		     uint64_t lblock, struct extent *out)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned nr = gfs2_nr_metaptrs(sdp, level);
	unsigned zeros = count_zero(ptrs, idx, nr);
	uint64_t span = gfs2_span(sdp, ip->i_height, level);
	uint64_t start = lblock - lblock % span, end = start + zeros * span;

	/* Behind the dinode's last pointer there is nothing. */
	if (level == 0 && idx + zeros == nr)
		end = gfs2_max_lblock(sdp);
	note_hole(ip, lblock, start, min_t(uint64_t, end, gfs2_max_lblock(sdp)), out);
}

/* @ptrs[@idx] is @lblock's data block: remember it and the runs that follow. */
static int map_data(struct gfs2_inode *ip, const __be64 *ptrs, unsigned idx, unsigned nr,
		    uint64_t lblock, struct extent *out)
{
	bool crowded = extmap_crowded(&ip->i_map, WALK_MAX_RUNS);
	unsigned runs = 0;

	while (idx < nr && runs < WALK_MAX_RUNS) {
		struct extent e = { lblock, 0, be64_to_cpu(ptrs[idx]) };

		if (!e.pblock) {
			e.len = count_zero(ptrs, idx, nr);
		} else {
			while (idx + e.len < nr &&
			       be64_to_cpu(ptrs[idx + e.len]) == e.pblock + e.len) {
				int error = gfs2_check_pointer(ip, e.pblock + e.len);

				if (error)
					return error;
				e.len++;
			}
		}
		if (!crowded || e.len >= WALK_LONG_RUN)
			extmap_insert(&ip->i_map, &e);
		if (!runs++)
			*out = e;
		if (crowded)
			break;
		idx += e.len;
		lblock += e.len;
	}
	return 0;
}

/* Somebody enters the first of several indirect blocks at its start: probably reads on. */
static void meta_readahead(struct gfs2_inode *ip, const __be64 *ptrs, unsigned idx, unsigned nr)
{
	uint64_t blocks[WALK_READAHEAD];
	unsigned n = 0;

	for (; idx < nr && n < WALK_READAHEAD; idx++) {
		uint64_t b = be64_to_cpu(ptrs[idx]);

		if (b && !sb_is_system_range(ip->i_sbd, b))
			blocks[n++] = b;
	}
	if (n > 1)
		buf_readahead(&ip->i_gl->gl_mapping, blocks, n);
}

static int map_from_tree(struct gfs2_inode *ip, uint64_t lblock, struct extent *out)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned height = ip->i_height, level;
	uint64_t capacity = sdp->sd_heightsize[height] >> sdp->sd_bsize_shift;
	struct gfs2_bh *bh, *next;
	int error;

	if (lblock >= capacity) {
		note_hole(ip, lblock, capacity, gfs2_max_lblock(sdp), out);
		return 0;
	}
	error = gfs2_meta_inode_buffer(ip, &bh);
	for (level = 0; !error; level++) {
		const __be64 *ptrs = gfs2_metaptrs(bh, level);
		uint64_t span = gfs2_span(sdp, height, level);
		unsigned nr = gfs2_nr_metaptrs(sdp, level);
		/* The height says that the dinode's index is in range, whatever the remainder. */
		unsigned idx = (unsigned)(level ? lblock / span % nr : lblock / span);

		if (!ptrs[idx]) {
			map_hole(ip, ptrs, idx, level, lblock, out);
			break;
		}
		if (level == height - 1) {
			error = gfs2_check_pointer(ip, be64_to_cpu(ptrs[idx]));
			if (!error)
				error = map_data(ip, ptrs, idx, nr, lblock, out);
			break;
		}
		if (lblock % span == 0 && level + 2 == height)
			meta_readahead(ip, ptrs, idx, nr);
		error = gfs2_check_pointer(ip, be64_to_cpu(ptrs[idx]));
		if (!error)
			error = gfs2_meta_read(sdp, ip->i_gl, be64_to_cpu(ptrs[idx]),
					       GFS2_METATYPE_IN, &next);
		if (!error) {
			buf_put(bh);
			bh = next;
		}
	}
	buf_put(bh);
	return error;
}

/* A cached block of the metadata tree, or NULL. */
static struct gfs2_bh *find_indirect(const struct gfs2_inode *ip, uint64_t blkno)
{
	struct gfs2_bh *bh = buf_find(ip->i_sbd->sd_bufs, blkno);
	const struct gfs2_meta_header *mh;

	if (!bh)
		return NULL;
	mh = (const void *)bh->b_data;
	if (buf_test(bh, B_UPTODATE) && mh->mh_magic == cpu_to_be32(GFS2_MAGIC) &&
	    mh->mh_type == cpu_to_be32(GFS2_METATYPE_IN))
		return bh;
	buf_put(bh);
	return NULL;
}

/* The run that begins at @ptrs[0], of at most @max blocks; 0: a hole, or not legal. */
static uint64_t run_length(const struct gfs2_inode *ip, const __be64 *ptrs, uint64_t max)
{
	uint64_t first = be64_to_cpu(ptrs[0]), n = 0;

	while (n < max && first && be64_to_cpu(ptrs[n]) == first + n &&
	       gfs2_blk_in_rgrp(ip->i_sbd, first + n))
		n++;
	return n;
}

static bool map_from_cached_tree(struct gfs2_inode *ip, uint64_t lblock, uint64_t max, struct extent *out)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned height = ip->i_height, level;
	struct gfs2_bh *bh, *next;

	/* System files' blocks may lie elsewhere. */
	if (!height || ip->i_diskflags & GFS2_DIF_SYSTEM ||
	    lblock >= sdp->sd_heightsize[height] >> sdp->sd_bsize_shift)
		return false;
	bh = buf_find(sdp->sd_bufs, ip->i_no_addr);
	if (!bh || !buf_test(bh, B_UPTODATE)) {
		buf_put(bh);
		return false;
	}
	out->len = 0;
	for (level = 0; bh; level++) {
		const __be64 *ptrs = gfs2_metaptrs(bh, level);
		uint64_t span = gfs2_span(sdp, height, level);
		unsigned nr = gfs2_nr_metaptrs(sdp, level);
		unsigned idx = (unsigned)(level ? lblock / span % nr : lblock / span);

		if (level == height - 1) {
			*out = (struct extent){ lblock, run_length(ip, ptrs + idx, min_t(uint64_t, max, nr - idx)),
						be64_to_cpu(ptrs[idx]) };
			break;
		}
		next = find_indirect(ip, be64_to_cpu(ptrs[idx]));
		buf_put(bh);
		bh = next;
	}
	buf_put(bh);
	return out->len;
}

bool gfs2_map_extent_cached(struct gfs2_inode *ip, uint64_t lblock, uint64_t max, struct extent *out)
{
	gfs2_assert_held(ip->i_gl, false);
	if (!extmap_lookup_try(&ip->i_map, lblock, out))
		return map_from_cached_tree(ip, lblock, max, out);
	if (out->len > max)
		out->len = max;
	return true;
}

int gfs2_map_extent(struct gfs2_inode *ip, uint64_t lblock, uint64_t max, struct extent *out)
{
	int error;

	gfs2_assert_held(ip->i_gl, false);
	GFS2_BUG_ON(gfs2_is_stuffed(ip) || !max);
	if (lblock >= gfs2_max_lblock(ip->i_sbd))
		return -EFBIG;
	if (!extmap_lookup(&ip->i_map, lblock, out)) {
		error = map_from_tree(ip, lblock, out);
		if (error)
			return error;
	}
	if (out->len > max)
		out->len = max;
	GFS2_BUG_ON(out->lblock != lblock || !out->len);
	return 0;
}

/* Journaled data live among the metadata buffers: they are pinned and written like them. */
static struct gfs2_mapping *data_mapping(struct gfs2_inode *ip)
{
	return gfs2_is_jdata(ip) ? &ip->i_gl->gl_mapping : &ip->i_data;
}

static int read_stuffed(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size)
{
	struct gfs2_bh *bh;
	int error = gfs2_meta_inode_buffer(ip, &bh);

	if (error)
		return error;
	memcpy(buf, bh->b_data + sizeof(struct gfs2_dinode) + pos, size);
	buf_put(bh);
	return (int)size;
}

int gfs2_internal_read(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	uint32_t done = 0;

	gfs2_assert_held(ip->i_gl, false);
	if (pos >= ip->i_size)
		return 0;
	size = min_t(uint64_t, min_t(uint64_t, size, ip->i_size - pos), INT32_MAX);
	if (gfs2_is_stuffed(ip))
		return read_stuffed(ip, buf, pos, size);
	while (done < size) {
		uint32_t off = (pos + done) & (sdp->sd_bsize - 1);
		uint32_t n = min_t(uint32_t, size - done, sdp->sd_bsize - off);
		struct gfs2_bh *bh;
		struct extent e;
		int error = gfs2_map_extent(ip, (pos + done) >> sdp->sd_bsize_shift, 1, &e);

		if (error)
			return error;
		if (e.pblock) {
			error = buf_read(data_mapping(ip), e.pblock, &bh);
			if (error)
				return error;
			memcpy((char *)buf + done, bh->b_data + off, n);
			buf_put(bh);
		} else {
			memset((char *)buf + done, 0, n);
		}
		done += n;
	}
	return (int)done;
}

int gfs2_map_journal_extents(struct gfs2_inode *ip, struct gfs2_jdesc *jd)
{
	uint64_t blocks = ip->i_size >> ip->i_sbd->sd_bsize_shift, lblock = 0;
	struct gfs2_journal_extent *last = NULL;
	unsigned nr = 0, space = 0;

	gfs2_assert_held(ip->i_gl, false);
	if (gfs2_is_stuffed(ip) || !blocks || blocks > UINT32_MAX)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, "a journal has a sensible size");
	jd->jd_extents = NULL;
	while (lblock < blocks) {
		struct extent e;
		int error = gfs2_map_extent(ip, lblock, blocks - lblock, &e);

		if (!error && !e.pblock)
			error = gfs2_consist(ip->i_sbd, ip->i_no_addr, "a journal has no holes");
		if (!error && nr == space && (!last || last->dblock + last->blocks != e.pblock)) {
			unsigned want = space ? 2 * space : 8;
			void *p = realloc(jd->jd_extents, want * sizeof(*last));

			if (!p)
				error = -ENOMEM;
			else
				jd->jd_extents = p;
			space = want;
		}
		if (error) {
			free(jd->jd_extents);
			jd->jd_extents = NULL;
			return error;
		}
		last = nr ? &jd->jd_extents[nr - 1] : NULL;
		if (last && last->dblock + last->blocks == e.pblock) {
			last->blocks += (uint32_t)e.len;
		} else {
			last = &jd->jd_extents[nr++];
			*last = (struct gfs2_journal_extent){ (uint32_t)lblock, (uint32_t)e.len,
							      e.pblock };
		}
		lblock += e.len;
	}
	jd->jd_nr_extents = nr;
	jd->jd_blocks = (uint32_t)blocks;
	return 0;
}
