/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Freeing the contents of files: truncate, punched holes, deletion of the tree
 * (kernel: bmap.c:do_shrink, do_grow, punch_hole, gfs2_truncatei_resume; reference gfs2-ondisk.md
 * 4.5, 4.8).
 *
 * How a tree is cut: depth first, in file order, from the first block to go to the last.  An indirect
 * block that lies wholly in the range is freed itself once everything below it is collected.  What
 * was collected becomes one transaction whenever there is enough of it, so a small file goes in a
 * single transaction and a huge one in many of bounded size.
 *
 * Crash safety of a truncate: the first transaction sets the new size, zeroes what is behind it in its block and, unless it is also the
 * last, sets TRUNC_IN_PROG; the last one clears the flag.  In between the tree is consistent, only too
 * large; gfs2_truncate_resume() goes on from there.  A truncate that fails before its first transaction has changed nothing.
 *
 * Needs from callers: EX on the inode, no transaction.
 */
#include "fs/dealloc.h"
#include "fs/file.h"
#include "util/seeded.h"
#include "util/util.h"

#define PUNCH_READAHEAD 32

/* --- pieces (dealloc.h) --- */

struct gfs2_dealloc *gfs2_dealloc_new(struct gfs2_inode *ip)
{
	struct gfs2_dealloc *d = xmalloc(sizeof(*d));
	uint32_t ldptrs = (ip->i_sbd->sd_bsize - sizeof(struct gfs2_log_descriptor)) / 8;

	memset(d, 0, offsetof(struct gfs2_dealloc, exts));
	d->ip = ip;
	d->log_limit = max_t(unsigned, gfs2_log_max_trans(ip->i_sbd->sd_log) / 8, 16);
	d->revoke_limit = min_t(uint32_t, DEALLOC_MAX_REVOKES, d->log_limit / 2 * ldptrs);
	gfs2_rlist_init(&d->rlist);
	return d;
}

static void dealloc_reset(struct gfs2_dealloc *d)
{
	for (unsigned i = 0; i < d->nr_clears; i++)
		buf_put(d->clears[i].bh);
	d->nr_clears = d->nr_exts = 0;
	d->blocks = d->meta_blocks = 0;
	gfs2_rlist_free(&d->rlist);
	gfs2_rlist_init(&d->rlist);
}

void gfs2_dealloc_free(struct gfs2_dealloc *d)
{
	dealloc_reset(d);
	gfs2_rlist_free(&d->rlist);
	if (d->tail.bh)
		buf_put(d->tail.bh);
	free(d);
}

static struct dealloc_clear *find_clear(struct gfs2_dealloc *d, const struct gfs2_bh *bh)
{
	/* Backwards: it is the newest, or that of a parent whose children were added since. */
	for (unsigned i = d->nr_clears; i > 0; i--)
		if (d->clears[i - 1].bh == bh)
			return &d->clears[i - 1];
	return NULL;
}

static bool all_zero(const char *p, uint32_t len)
{
	return !len || (!*p && !memcmp(p, p + 1, len - 1));
}

static int add_clear(struct gfs2_dealloc *d, struct gfs2_bh *bh, uint32_t off)
{
	struct dealloc_clear *c = find_clear(d, bh);
	uint32_t end = off + sizeof(__be64);

	if (c && off < c->off + c->len && end > c->off)
		return gfs2_consist(d->ip->i_sbd, bh->b_blocknr, "two pointers lead to one block");
	/* Between pointers that follow each other are zeros; between those of two xattrs is a name. */
	if (c && off >= c->off + c->len &&
	    all_zero(bh->b_data + c->off + c->len, off - (c->off + c->len))) {
		c->len = end - c->off;
	} else if (c && end <= c->off && all_zero(bh->b_data + end, c->off - end)) {
		c->len += c->off - off;
		c->off = off;
	} else {
		d->clears[d->nr_clears++] =
			(struct dealloc_clear){ buf_hold(bh), off, sizeof(__be64) };
	}
	return 0;
}

int gfs2_dealloc_add(struct gfs2_dealloc *d, struct gfs2_bh *bh, uint32_t off, uint64_t blkno,
		     bool meta)
{
	struct dealloc_ext *last = d->nr_exts ? &d->exts[d->nr_exts - 1] : NULL;
	int error = gfs2_check_pointer(d->ip, blkno);

	if (error)
		return error;
	GFS2_BUG_ON(d->nr_exts == DEALLOC_MAX_EXTS || d->nr_clears == DEALLOC_MAX_CLEARS);
	/* Blocks that follow each other are in one rgrp: between two there is a header. */
	if (last && last->meta == meta && last->start + last->len == blkno) {
		last->len++;
	} else {
		error = gfs2_rlist_add(d->ip->i_sbd, &d->rlist, blkno);
		if (error)
			return error;
		d->exts[d->nr_exts++] = (struct dealloc_ext){ blkno, 1, meta };
	}
	d->blocks++;
	d->meta_blocks += meta;
	return bh ? add_clear(d, bh, off) : 0;
}

void gfs2_dealloc_drop_clears(struct gfs2_dealloc *d, const struct gfs2_bh *bh)
{
	unsigned i, n = 0;

	for (i = 0; i < d->nr_clears; i++) {
		if (d->clears[i].bh == bh)
			buf_put(d->clears[i].bh);
		else
			d->clears[n++] = d->clears[i];
	}
	d->nr_clears = n;
}

bool gfs2_dealloc_full(const struct gfs2_dealloc *d)
{
	/* One entry is kept for the dinode or the block that holds the last pointer. */
	return d->nr_exts >= DEALLOC_MAX_EXTS - 1 || d->nr_clears >= DEALLOC_MAX_CLEARS - 1 ||
	       d->blocks >= DEALLOC_MAX_BLOCKS || d->meta_blocks >= d->revoke_limit ||
	       d->nr_clears + gfs2_rlist_blocks(&d->rlist, d->blocks) >= d->log_limit;
}

/* In the transaction. */
static int dealloc_apply(struct gfs2_dealloc *d, bool last)
{
	struct gfs2_inode *ip = d->ip;
	struct gfs2_sbd *sdp = ip->i_sbd;
	bool free_dinode = last && d->free_dinode;
	struct gfs2_bh *dibh;
	unsigned i;
	int error = gfs2_meta_inode_buffer(ip, &dibh);

	if (error)
		return error;
	for (i = 0; i < d->nr_clears; i++) {
		struct dealloc_clear *c = &d->clears[i];

		if (free_dinode && c->bh == dibh)
			continue;
		gfs2_trans_add_meta(sdp->sd_log, ip->i_gl, c->bh);
		memset(c->bh->b_data + c->off, 0, c->len);
	}
	for (i = 0; i < d->nr_exts && !error; i++)
		error = gfs2_free_blocks(sdp, d->exts[i].start, d->exts[i].len);
	ip->i_blocks -= d->blocks;
	if (!error && free_dinode) {
		error = gfs2_free_di(sdp, ip->i_no_addr);
	} else if (!error) {
		gfs2_trans_add_meta(sdp->sd_log, ip->i_gl, dibh);
		if (d->finish)
			error = d->finish(d, dibh, last);
		if (!error)
			error = gfs2_dinode_log(ip);
	}
	buf_put(dibh);
	return error;
}

int gfs2_dealloc_commit(struct gfs2_dealloc *d, bool last)
{
	struct gfs2_inode *ip = d->ip;
	struct gfs2_log *log = ip->i_sbd->sd_log;
	bool free_dinode = last && d->free_dinode;
	int error = 0;

	if (free_dinode && ip->i_blocks != 1 + (uint64_t)d->blocks)
		error = gfs2_consist(ip->i_sbd, ip->i_no_addr,
				     "di_blocks counts the blocks of the inode");
	if (!error && ip->i_blocks < 1 + (uint64_t)d->blocks)
		error = gfs2_consist(ip->i_sbd, ip->i_no_addr,
				     "an inode has not more blocks than di_blocks");
	if (!error && free_dinode)
		error = gfs2_rlist_add(ip->i_sbd, &d->rlist, ip->i_no_addr);
	if (!error)
		error = gfs2_rlist_lock(ip->i_sbd, &d->rlist);
	if (!error)
		/* dinode, statfs, a journaled tail, and the bitmaps, for the dinode itself, too */
		error = gfs2_trans_begin(log,
					 2 + !!d->tail.bh + d->nr_clears +
						 gfs2_rlist_blocks(&d->rlist, (uint64_t)d->blocks + free_dinode),
					 d->meta_blocks + free_dinode);
	if (!error) {
		error = dealloc_apply(d, last);
		gfs2_trans_end(log);
	}
	dealloc_reset(d);
	return error;
}

/* --- cutting the tree --- */

struct punch {
	struct gfs2_dealloc *d;
	uint64_t lstart, lend;	/* file blocks to go */
	bool data_meta;		/* data blocks are journaled (or a directory's) */
};

static int piece_if_full(struct gfs2_dealloc *d)
{
	return gfs2_dealloc_full(d) ? gfs2_dealloc_commit(d, false) : 0;
}

static void punch_readahead(struct gfs2_inode *ip, const __be64 *ptrs, unsigned idx, unsigned nr)
{
	uint64_t blocks[PUNCH_READAHEAD];
	unsigned n = 0, i;

	for (i = idx; i < nr && i < idx + PUNCH_READAHEAD; i++) {
		uint64_t b = be64_to_cpu(ptrs[i]);

		if (b && !sb_is_system_range(ip->i_sbd, b))
			blocks[n++] = b;
	}
	if (n > 1)
		buf_readahead(&ip->i_gl->gl_mapping, blocks, n);
}

static int punch_block(struct punch *p, struct gfs2_bh *bh, unsigned level, uint64_t base);

/* What is below the pointer at @off of @bh, which is to an indirect block of @level + 1. */
static int punch_child(struct punch *p, struct gfs2_bh *bh, uint32_t off, unsigned level,
		       uint64_t base)
{
	struct gfs2_inode *ip = p->d->ip;
	uint64_t blkno = be64_to_cpu(*(__be64 *)(bh->b_data + off));
	struct gfs2_bh *child;
	int error = gfs2_check_pointer(ip, blkno);

	if (!error)
		error = gfs2_meta_read(ip->i_sbd, ip->i_gl, blkno, GFS2_METATYPE_IN, &child);
	if (error)
		return error;
	error = punch_block(p, child, level + 1, base);
	if (!error && base >= p->lstart &&
	    gfs2_span(ip->i_sbd, ip->i_height, level) <= p->lend - base) {
		gfs2_dealloc_drop_clears(p->d, child);
		error = gfs2_dealloc_add(p->d, bh, off, blkno, true);
	}
	buf_put(child);
	return error;
}

/*
 * Collect everything in [p->lstart, p->lend) below @bh, which is of @level and begins with file block
 * @base.
 */
static int punch_block(struct punch *p, struct gfs2_bh *bh, unsigned level, uint64_t base)
{
	struct gfs2_inode *ip = p->d->ip;
	const struct gfs2_sbd *sdp = ip->i_sbd;
	__be64 *ptrs = gfs2_metaptrs(bh, level);
	unsigned nr = gfs2_nr_metaptrs(sdp, level), idx = 0, ra = 0;
	uint64_t span = gfs2_span(sdp, ip->i_height, level);
	bool data = level + 1 == ip->i_height;
	int error = 0;

	if (p->lstart > base)
		idx = (unsigned)min_t(uint64_t, (p->lstart - base) / span, nr);
	for (; idx < nr && base + idx * span < p->lend && !error; idx++) {
		uint32_t off = (uint32_t)((char *)&ptrs[idx] - bh->b_data);

		if (!ptrs[idx])
			continue;
		if (data) {
			error = gfs2_dealloc_add(p->d, bh, off, be64_to_cpu(ptrs[idx]),
						 p->data_meta);
		} else {
			if (idx >= ra) {
				punch_readahead(ip, ptrs, idx, nr);
				ra = idx + PUNCH_READAHEAD;
			}
			error = punch_child(p, bh, off, level, base + idx * span);
		}
		if (!error)
			error = piece_if_full(p->d);
	}
	return error;
}

/*
 * Free [lstart, lend); whatever the last transaction does happens even if there is nothing to free.
 */
static int punch(struct gfs2_dealloc *d, uint64_t lstart, uint64_t lend)
{
	struct gfs2_inode *ip = d->ip;
	struct punch p = { d, lstart, lend, S_ISJDATA(ip) || !S_ISREG(ip->i_mode) };
	int error = 0;

	if (lstart < lend)
		extmap_forget(&ip->i_map, lstart, lend == UINT64_MAX ? lend : lend - lstart);
	if (lstart < lend && !gfs2_is_stuffed(ip)) {
		struct gfs2_bh *dibh;

		error = gfs2_meta_inode_buffer(ip, &dibh);
		if (error)
			return error;
		error = punch_block(&p, dibh, 0, 0);
		buf_put(dibh);
	}
	return error ? error : gfs2_dealloc_commit(d, true);
}

static int run_punch(struct gfs2_inode *ip, uint64_t lstart, uint64_t lend, bool free_dinode,
		     int (*finish)(struct gfs2_dealloc *d, struct gfs2_bh *dibh, bool last))
{
	struct gfs2_dealloc *d = gfs2_dealloc_new(ip);
	int error;

	gfs2_assert_held(ip->i_gl, true);
	d->free_dinode = free_dinode;
	d->finish = finish;
	error = punch(d, lstart, lend);
	gfs2_dealloc_free(d);
	return error;
}

int gfs2_punch_from(struct gfs2_inode *ip, uint64_t lstart)
{
	return run_punch(ip, lstart, UINT64_MAX, false, NULL);
}

int gfs2_free_tree_and_dinode(struct gfs2_inode *ip)
{
	return run_punch(ip, 0, UINT64_MAX, true, NULL);
}

static void set_times(struct gfs2_inode *ip)
{
	gfs2_pending_mtime_fold(ip);
	ip->i_mtime = ip->i_ctime = current_time();
}

static int punch_finish(struct gfs2_dealloc *d, struct gfs2_bh *dibh, bool last)
{
	set_times(d->ip);
	return 0;
}

int gfs2_punch_blocks(struct gfs2_inode *ip, uint64_t lstart, uint64_t lend)
{
	return run_punch(ip, lstart, lend, false, punch_finish);
}

/* --- zeros in a block that stays --- */

/* What of [pos, pos+len), which lies in one block, is to become zeros: @z->bh referenced, NULL: nothing. */
static int zero_prepare(struct gfs2_inode *ip, uint64_t pos, uint32_t len, struct dealloc_clear *z)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_mapping *m = gfs2_is_jdata(ip) ? &ip->i_gl->gl_mapping : &ip->i_data;
	struct gfs2_bh *bh;
	struct extent e;
	int error;

	*z = (struct dealloc_clear){ NULL, pos & (sdp->sd_bsize - 1), len };
	GFS2_BUG_ON(len > sdp->sd_bsize - z->off);
	if (!len)
		return 0;
	error = gfs2_map_extent(ip, pos >> sdp->sd_bsize_shift, 1, &e);
	if (error || !e.pblock)
		return error;
	error = buf_read(m, e.pblock, &bh);
	if (error)
		return error;
	error = gfs2_check_owner(sdp, bh, m);
	if (error || all_zero(bh->b_data + z->off, len))
		buf_put(bh);
	else
		z->bh = bh;
	return error;
}

/* Journaled data: in a transaction with a block for it.  Others: written before the transaction that is open, or the next one. */
static int zero_apply(struct gfs2_inode *ip, struct dealloc_clear *z)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	int error = 0;

	if (!z->bh)
		return 0;
	if (gfs2_is_jdata(ip))
		gfs2_trans_add_jdata(log, ip->i_gl, z->bh);
	memset(z->bh->b_data + z->off, 0, z->len);
	if (gfs2_is_jdata(ip)) {
		gfs2_inode_note_log(ip, false);
	} else {
		error = gfs2_data_dirty(ip, z->bh);
		gfs2_ordered_add(log, &ip->i_data);
	}
	buf_put(z->bh);
	z->bh = NULL;
	return error;
}

int gfs2_zero_in_block(struct gfs2_inode *ip, uint64_t pos, uint32_t len)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	struct dealloc_clear z;
	int error = zero_prepare(ip, pos, len, &z);

	if (error || !z.bh)
		return error;
	if (gfs2_is_jdata(ip)) {
		error = gfs2_trans_begin(log, 1, 0);
		if (error) {
			buf_put(z.bh);
			return error;
		}
	}
	error = zero_apply(ip, &z);
	if (gfs2_is_jdata(ip))
		gfs2_trans_end(log);
	return error;
}

/* From @size to the end of its block. */
static uint32_t tail_bytes(const struct gfs2_inode *ip, uint64_t size)
{
	uint32_t off = size & (ip->i_sbd->sd_bsize - 1);

	return off && !SEEDED_BUG("truncate-tail") ? ip->i_sbd->sd_bsize - off : 0;
}

int gfs2_zero_tail(struct gfs2_inode *ip, uint64_t size)
{
	return gfs2_zero_in_block(ip, size, tail_bytes(ip, size));
}

/* --- truncate --- */

/* Each transaction of a shrinking truncate (see the top of the file). */
static int truncate_finish(struct gfs2_dealloc *d, struct gfs2_bh *dibh, bool last)
{
	struct gfs2_inode *ip = d->ip;
	int error = zero_apply(ip, &d->tail);

	set_times(ip);
	ip->i_size = d->new_size;
	if (!last) {
		ip->i_diskflags |= GFS2_DIF_TRUNC_IN_PROG;
		return error;
	}
	ip->i_diskflags &= ~(uint32_t)GFS2_DIF_TRUNC_IN_PROG;
	if (ip->i_size)
		return error;
	/* An empty file is stuffed again. */
	ip->i_height = 0;
	ip->i_goal = ip->i_no_addr;
	memset(dibh->b_data + sizeof(struct gfs2_dinode), 0, gfs2_max_stuffed_size(ip));
	extmap_clear(&ip->i_map);
	return error;
}

static int cut(struct gfs2_inode *ip, uint64_t size)
{
	uint64_t lstart = DIV_ROUND_UP(size, (uint64_t)ip->i_sbd->sd_bsize);
	struct gfs2_dealloc *d = gfs2_dealloc_new(ip);
	int error = 0;

	gfs2_assert_held(ip->i_gl, true);
	d->new_size = size;
	d->finish = truncate_finish;
	/* Of a truncate that goes on the tail is zeros already. */
	if (size < ip->i_size)
		error = zero_prepare(ip, size, tail_bytes(ip, size), &d->tail);
	if (!error)
		error = punch(d, lstart, UINT64_MAX);
	gfs2_dealloc_free(d);
	return error;
}

static int truncate_stuffed(struct gfs2_inode *ip, uint64_t size)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	uint64_t old = ip->i_size;
	struct gfs2_bh *bh;
	int error = gfs2_meta_inode_buffer(ip, &bh);

	if (error)
		return error;
	error = gfs2_trans_begin(log, 1, 0);
	if (!error) {
		gfs2_trans_add_meta(log, ip->i_gl, bh);
		if (size < old)
			memset(bh->b_data + sizeof(struct gfs2_dinode) + size, 0,
			       gfs2_max_stuffed_size(ip) - size);
		ip->i_size = size;
		set_times(ip);
		error = size == old ? gfs2_dinode_log_times(ip) : gfs2_dinode_log(ip);
		gfs2_trans_end(log);
	}
	buf_put(bh);
	return error;
}

/* Larger than what fits into the dinode: the contents move to a block, if there are any. */
static int grow_unstuff(struct gfs2_inode *ip, uint64_t size)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	struct gfs2_alloc ap = { .target = 1 };
	bool alloc = ip->i_size;
	unsigned blocks = 1;
	int error = alloc ? gfs2_inplace_reserve(ip, &ap) : 0;

	if (error)
		return error;
	if (alloc)
		blocks = gfs2_alloc_trans_blocks(&ap, 0, 1) + gfs2_is_jdata(ip);
	error = gfs2_trans_begin(log, blocks, 0);
	if (!error) {
		error = gfs2_unstuff(ip, &ap);
		if (!error) {
			ip->i_size = size;
			set_times(ip);
			error = gfs2_dinode_log(ip);
		}
		gfs2_trans_end(log);
	}
	if (alloc)
		gfs2_inplace_release(ip, &ap);
	return error;
}

static int grow(struct gfs2_inode *ip, uint64_t size)
{
	bool times_only = size == ip->i_size;
	struct gfs2_bh *dibh;
	int error;

	if (gfs2_is_stuffed(ip))
		return size > gfs2_max_stuffed_size(ip) ? grow_unstuff(ip, size) :
							  truncate_stuffed(ip, size);
	error = times_only ? 0 : gfs2_zero_tail(ip, ip->i_size);
	if (!error)
		error = gfs2_dinode_trans_begin(ip, 1, &dibh);
	if (error)
		return error;
	ip->i_size = size;
	set_times(ip);
	error = times_only ? gfs2_dinode_log_times(ip) : gfs2_dinode_log(ip);
	gfs2_dinode_trans_end(ip, dibh);
	return error;
}

int gfs2_truncate(struct gfs2_inode *ip, uint64_t size)
{
	gfs2_assert_held(ip->i_gl, true);
	if (size > INT64_MAX)
		return -EFBIG;
	if (size >= ip->i_size)
		return grow(ip, size);
	return gfs2_is_stuffed(ip) ? truncate_stuffed(ip, size) : cut(ip, size);
}

int gfs2_truncate_resume(struct gfs2_inode *ip)
{
	gfs2_assert_held(ip->i_gl, true);
	return cut(ip, ip->i_size);
}
