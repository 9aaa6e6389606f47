/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Allocation of blocks that have their contents before they are the file's: fallocate's zeros (falloc.c), and direct
 * writes that meet holes (file_fill.c).
 *
 * The allocator promises a run of durably free blocks (gfs2_alloc_peek_run), the caller writes to it, and only then a
 * transaction is opened that makes it the file's.
 *
 * Guarantees
 *  1. Neither a crash nor an error of the device in the middle lets anybody see what was in a block before: if the contents cannot be
 *     written the hole stays a hole.
 *  2. Each piece (one run, all metadata that leads to it) is one transaction.
 *  3. Nobody waits for the device inside a transaction, and no commit waits for the contents: the tree is read before.
 *
 * The price: the resource group is held EX while the contents are written.
 *
 * Needs from callers: EX, not stuffed, no transaction.
 */
#include "fs/bmap.h"
#include "util/util.h"

struct piece {
	struct gfs2_inode *ip;
	const struct gfs2_hole *holes;
	unsigned nr;		/* of them */
	uint64_t len;		/* blocks, from the first hole's first on */
	unsigned worst, meta;	/* blocks of metadata: that may be logged; that are reserved */
	struct gfs2_alloc ap;
	struct gfs2_bh **held;	/* of the tree */
	unsigned nr_held, cap_held;
};

/*
 * Keep what the transaction will look at of the tree: if some of it could not be read only then, the blocks before would be the file's already,
 * behind its end perhaps.
 */
static int hold_tree(struct piece *p)
{
	uint32_t inptrs = p->ip->i_sbd->sd_inptrs;
	uint64_t left = p->len, last = UINT64_MAX;
	int error = 0;

	for (unsigned i = 0; left && !error; i++) {
		uint64_t l = p->holes[i].lblock, n = min_t(uint64_t, left, p->holes[i].len), end = l + n;

		for (; l < end && !error; l += inptrs - l % inptrs) {
			unsigned nr;

			if (l / inptrs == last)
				continue;
			last = l / inptrs;
			if (p->nr_held + GFS2_MAX_META_HEIGHT > p->cap_held) {
				p->cap_held = 2 * p->cap_held + GFS2_MAX_META_HEIGHT;
				p->held = xrealloc(p->held, p->cap_held * sizeof(*p->held));
			}
			error = gfs2_alloc_read_path(p->ip, l, p->held + p->nr_held, &nr);
			p->nr_held += nr;
		}
		left -= n;
	}
	return error;
}

static void let_go_tree(struct piece *p)
{
	while (p->nr_held)
		buf_put(p->held[--p->nr_held]);
	free(p->held);
}

/* Metadata that the first p->len blocks may need at worst. */
static unsigned piece_meta(const struct piece *p)
{
	uint64_t sum = 0, left = p->len, end = 0;

	for (unsigned i = 0; left; i++) {
		uint64_t n = min_t(uint64_t, left, p->holes[i].len);

		sum += gfs2_alloc_meta_blocks(p->ip, p->holes[i].lblock, n);
		end = p->holes[i].lblock + n;
		left -= n;
	}
	/* What lies between the holes counts at most once. */
	return (unsigned)min_t(uint64_t, sum, gfs2_alloc_meta_blocks(p->ip, p->holes[0].lblock,
								      end - p->holes[0].lblock));
}

static unsigned piece_trans_blocks(const struct piece *p)
{
	return gfs2_alloc_trans_blocks(&p->ap, p->worst, p->worst + (unsigned)p->len);
}

/* Less and less, until the volume and the log can do it. */
static int piece_reserve(struct piece *p)
{
	unsigned limit = gfs2_log_max_trans(p->ip->i_sbd->sd_log) / 2;
	int error;

	for (;;) {
		p->worst = p->meta = piece_meta(p);
		p->ap = (struct gfs2_alloc){ .target = p->meta + (uint32_t)p->len,
					     .min_target = p->meta + 1 };
		error = gfs2_inplace_reserve(p->ip, &p->ap);
		if (!error && (p->len == 1 || piece_trans_blocks(p) <= limit))
			return 0;
		gfs2_inplace_release(p->ip, &p->ap);
		if (error && error != -ENOSPC)
			return error;
		if (p->len == 1)
			break;
		p->len = error ? 1 : p->len / 2;
	}
	/* The worst case does not fit; and what it takes exactly? */
	error = gfs2_alloc_meta_missing(p->ip, p->holes[0].lblock, &p->meta);
	if (error)
		return error;
	if (p->meta >= p->worst)
		return -ENOSPC;
	p->ap = (struct gfs2_alloc){ .target = p->meta + 1 };
	return gfs2_inplace_reserve(p->ip, &p->ap);
}

/* In the transaction: the run [bn, +p->len) becomes the file's. */
static int piece_link(struct piece *p, uint64_t bn)
{
	uint64_t done = 0, in_hole = 0;
	unsigned i = 0;

	while (done < p->len) {
		unsigned n = (unsigned)min_t(uint64_t, p->len - done, p->holes[i].len - in_hole);
		uint64_t got;
		int error = gfs2_alloc_extent(p->ip, &p->ap, p->holes[i].lblock + in_hole, &got, &n);

		if (error)
			return error;
		/* Anything else has not been written to. */
		GFS2_BUG_ON(got != bn + done);
		done += n;
		in_hole += n;
		if (in_hole == p->holes[i].len) {
			in_hole = 0;
			i++;
		}
	}
	return 0;
}

/*
 * The run is going to be written to past the cache.  Nothing of it is there, unless somebody has a block that the bitmap wrongly calls free: what
 * he has changed would be written over what the file gets, and what is old would be read instead.
 */
static int check_nobodys(struct gfs2_sbd *sdp, uint64_t bn, unsigned n)
{
	uint64_t twice = buf_forget_clean(sdp->sd_bufs, bn, n);

	return twice ? gfs2_consist(sdp, twice, "the block is used, and free in the bitmap") : 0;
}

int gfs2_alloc_filled(struct gfs2_inode *ip, const struct gfs2_hole *holes, unsigned nr, uint64_t max,
		      struct gfs2_filler *filler, uint64_t *done)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct piece p = { .ip = ip, .holes = holes, .nr = nr };
	uint64_t bn;
	unsigned n;
	int error;

	for (unsigned i = 0; i < nr && p.len < max; i++)
		p.len = min_t(uint64_t, p.len + holes[i].len, max);
	error = hold_tree(&p);
	if (!error)
		error = piece_reserve(&p);
	if (error) {
		let_go_tree(&p);
		return error;
	}
	n = (unsigned)min_t(uint64_t, p.len, p.ap.allowed - p.meta);
	error = gfs2_alloc_peek_run(ip, &p.ap, &bn, &n);
	p.len = n;
	if (!error)
		error = check_nobodys(sdp, bn, n);
	if (!error)
		error = filler->fill(filler, bn, n);
	if (!error)
		error = gfs2_trans_begin(sdp->sd_log, piece_trans_blocks(&p), 0);
	if (!error) {
		error = piece_link(&p, bn);
		if (!error && filler->linked)
			error = filler->linked(filler, n);
		gfs2_trans_end(sdp->sd_log);
	}
	gfs2_inplace_release(ip, &p.ap);
	let_go_tree(&p);
	if (!error)
		*done = n;
	return error;
}
