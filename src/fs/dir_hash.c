/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hashed directories: the table of leaves, chains of leaves, growth and final deallocation
 * (kernel: dir.c; reference gfs2-ondisk.md 5.3-5.5, 4.8).
 *
 * States of a directory, each step made by dir_grow():
 *   linear --convert--> hashed, table in the dinode, one leaf
 *   leaf full, its depth < table's:   split (half of its slots get a new leaf)
 *   leaf full, its depth = table's:   double the table, then split
 *   leaf full at depth 17:            chain (append a leaf)
 *
 * Guarantees
 *  - The table in memory and on disk change together, inside one transaction, under EX.
 *  - A chain that runs in a circle, a leaf whose depth does not fit its slots, a table of the wrong
 *    size: gfs2_consist, -EIO.
 *
 * The table in memory is published with a compare-and-swap, because several holders of SH may read
 * it at the same time; the loser frees its copy.  It is replaced only under EX and dropped only
 * when nobody holds the glock.
 */
#include "fs/dirent.h"
#include "fs/namei_i.h"
#include "util/seeded.h"

static inline uint32_t table_bytes(unsigned depth)
{
	return (uint32_t)sizeof(__be64) << depth;
}

unsigned dir_table_blocks(const struct gfs2_sbd *sdp, unsigned depth, bool indirect)
{
	unsigned nr, above = 0, t;

	if (table_bytes(depth) <= sdp->sd_bsize - sizeof(struct gfs2_dinode))
		return 0;
	nr = DIV_ROUND_UP(table_bytes(depth), sdp->sd_jbsize);
	if (indirect) {
		for (t = nr; t > sdp->sd_diptrs; above += t)
			t = DIV_ROUND_UP(t, sdp->sd_inptrs);
	}
	return nr + above;
}

/*
 * In a transaction: the JD block @blkno, which holds the table's bytes from @start on, ready to be changed.  All that it holds is in @table: if it is
 * not in memory it is made anew, so nobody waits for the device, whose error would be the end of the mount here.
 */
static int table_block(struct gfs2_inode *dip, uint64_t blkno, const char *table, uint32_t start, struct gfs2_bh **out)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct gfs2_bh *bh = buf_get(&dip->i_gl->gl_mapping, blkno);
	int error = gfs2_check_owner(sdp, bh, &dip->i_gl->gl_mapping);

	if (error) {
		buf_put(bh);
		return error;
	}
	if (!buf_test(bh, B_UPTODATE)) {
		memset(bh->b_data, 0, sdp->sd_bsize);
		gfs2_metatype_set(bh, GFS2_METATYPE_JD, GFS2_FORMAT_JD);
		memcpy(bh->b_data + sizeof(struct gfs2_meta_header), table + start,
		       min_t(uint32_t, sdp->sd_jbsize, table_bytes(dip->i_depth) - start));
		buf_set_uptodate(bh);
	}
	*out = bh;
	return 0;
}

/*
 * Call for the hash table's bytes [pos, pos+len) in the dinode or JD blocks: copy from disk to
 * @table, or from @table, which is whole, to disk and log.
 */
static int table_transfer(struct gfs2_inode *dip, char *table, uint32_t pos, uint32_t len,
			  bool write)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct extent e = { 0, 0, 0 };
	struct gfs2_bh *bh;
	int error;

	while (len) {
		uint32_t off, n;

		if (gfs2_is_stuffed(dip)) {
			error = gfs2_meta_inode_buffer(dip, &bh);
			off = sizeof(struct gfs2_dinode) + pos;
			n = len;
		} else {
			uint64_t lblock = pos / sdp->sd_jbsize, blkno;

			if (lblock - e.lblock >= e.len) {
				error = gfs2_map_extent(dip, lblock, UINT32_MAX, &e);
				if (error)
					return error;
				if (!e.pblock)
					return gfs2_consist(sdp, dip->i_no_addr,
							    "hole in a directory's hash table");
			}
			blkno = e.pblock + (lblock - e.lblock);
			if (write)
				error = table_block(dip, blkno, table, pos - pos % sdp->sd_jbsize, &bh);
			else
				error = gfs2_meta_read(sdp, dip->i_gl, blkno, GFS2_METATYPE_JD, &bh);
			off = sizeof(struct gfs2_meta_header) + pos % sdp->sd_jbsize;
			n = min_t(uint32_t, len, sdp->sd_bsize - off);
		}
		if (error)
			return error;
		if (write) {
			gfs2_trans_add_meta(sdp->sd_log, dip->i_gl, bh);
			memcpy(bh->b_data + off, table + pos, n);
		} else {
			memcpy(table + pos, bh->b_data + off, n);
		}
		buf_put(bh);
		pos += n;
		len -= n;
	}
	return 0;
}

int dir_hash_get(struct gfs2_inode *dip, const __be64 **out)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	__be64 *table, *none = NULL;
	uint32_t size;
	int error;

	/* acquire: pairs with the release below, the table's contents come with the pointer */
	table = __atomic_load_n(&dip->i_hash_cache, __ATOMIC_ACQUIRE);
	if (table) {
		*out = table;
		return 0;
	}
	if (dip->i_depth > GFS2_DIR_MAX_DEPTH || dip->i_size != table_bytes(dip->i_depth))
		return gfs2_consist(sdp, dip->i_no_addr,
				    "a hashed directory's size is not that of its table");
	size = table_bytes(dip->i_depth);
	if (gfs2_is_stuffed(dip) && size > gfs2_max_stuffed_size(dip))
		return gfs2_consist(sdp, dip->i_no_addr,
				    "a directory's hash table does not fit its dinode");
	table = xmalloc(size);
	error = table_transfer(dip, (char *)table, 0, size, false);
	if (error) {
		free(table);
		return error;
	}
	if (!__atomic_compare_exchange_n(&dip->i_hash_cache, &none, table, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE)) {
		free(table);
		table = none;
	}
	*out = table;
	return 0;
}

void gfs2_dir_hash_inval(struct gfs2_inode *ip)
{
	free(ip->i_hash_cache);
	ip->i_hash_cache = NULL;
}

/* In a transaction: let slots [start, start+nr) point at @leaf (0: nowhere). */
static int table_set(struct gfs2_inode *dip, uint32_t start, uint32_t nr, uint64_t leaf)
{
	uint32_t i;

	for (i = start; i < start + nr; i++)
		dip->i_hash_cache[i] = cpu_to_be64(leaf);
	return table_transfer(dip, (char *)dip->i_hash_cache, start * sizeof(__be64),
			      nr * sizeof(__be64), true);
}

/* --- chains --- */

void dir_chain_begin_at(struct dir_chain *c, struct gfs2_inode *dip, uint64_t leaf)
{
	*c = (struct dir_chain){ .dip = dip, .next = leaf, .limit = 1 };
}

int dir_chain_begin(struct dir_chain *c, struct gfs2_inode *dip, uint32_t hash)
{
	const __be64 *table;
	int error = dir_hash_get(dip, &table);

	dir_chain_begin_at(c, dip, error ? 0 : be64_to_cpu(table[dir_hash_index(dip, hash)]));
	if (!error && !c->next)
		error = gfs2_consist(dip->i_sbd, dip->i_no_addr, "empty slot in a hash table");
	return error;
}

int dir_chain_next(struct dir_chain *c)
{
	int error;

	if (!c->next)
		return 0;
	buf_put(c->bh);
	c->bh = NULL;
	if (c->next == c->check)
		return gfs2_consist(c->dip->i_sbd, c->next, "chain of leaves runs in a circle");
	if (++c->steps == c->limit) {
		c->check = c->next;
		c->limit *= 2;
		c->steps = 0;
	}
	error = gfs2_meta_read(c->dip->i_sbd, c->dip->i_gl, c->next, GFS2_METATYPE_LF, &c->bh);
	if (error) {
		c->bh = NULL;
		return error;
	}
	c->next = be64_to_cpu(dir_leaf(c->bh)->lf_next);
	return 1;
}

void dir_chain_end(struct dir_chain *c)
{
	buf_put(c->bh);
	c->bh = NULL;
}

int dir_leaf_range(struct gfs2_inode *dip, const struct gfs2_bh *bh, uint32_t index,
		   uint32_t *first, uint32_t *len)
{
	unsigned depth = be16_to_cpu(dir_leaf(bh)->lf_depth);
	const __be64 *table;
	uint32_t i;
	int error = dir_hash_get(dip, &table);

	if (error)
		return error;
	if (depth > dip->i_depth)
		return gfs2_consist(dip->i_sbd, bh->b_blocknr, "leaf deeper than its directory");
	*len = 1u << (dip->i_depth - depth);
	*first = index & ~(*len - 1);
	for (i = *first; i < *first + *len; i++)
		if (be64_to_cpu(table[i]) != bh->b_blocknr)
			return gfs2_consist(dip->i_sbd, bh->b_blocknr,
					    "leaf's depth does not fit its hash table slots");
	return 0;
}

/* --- growth --- */

/* In a transaction: a new empty leaf, +1 reference. */
static int leaf_new(struct gfs2_inode *dip, struct gfs2_alloc *ap, unsigned depth, uint32_t dist,
		    struct gfs2_bh **out)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct timespec now = current_time();
	struct dirent_area area;
	struct gfs2_leaf *lf;
	struct gfs2_bh *bh;
	unsigned n = 1;
	uint64_t bn;
	int error;

	GFS2_BUG_ON(!ap);
	error = gfs2_alloc_blocks(dip, ap, &bn, &n, false, NULL);
	if (error)
		return error;
	error = gfs2_meta_new(sdp, dip->i_gl, bn, GFS2_METATYPE_LF, GFS2_FORMAT_LF, &bh);
	if (error)
		return error;
	lf = dir_leaf(bh);
	lf->lf_depth = cpu_to_be16(depth);
	lf->lf_dirent_format = cpu_to_be32(GFS2_FORMAT_DE);
	lf->lf_inode = cpu_to_be64(dip->i_no_addr);
	lf->lf_dist = cpu_to_be32(dist);
	lf->lf_nsec = cpu_to_be32(now.tv_nsec);
	lf->lf_sec = cpu_to_be64(now.tv_sec);
	area = dir_leaf_area(dip, bh);
	dirent_init_empty(&area);
	dip->i_blocks++;
	*out = bh;
	return 0;
}

/*
 * Linear -> hashed: all entries into one leaf of depth 0, the table with bs / 16 slots into the
 * dinode.
 */
static int dir_convert(struct gfs2_inode *dip, struct gfs2_alloc *ap)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct gfs2_bh *dibh, *bh;
	struct dirent_area from, to;
	const char *rule = NULL;
	__be64 *table;
	unsigned nr;
	int error;

	table = xzalloc(sdp->sd_bsize / 2);
	error = gfs2_meta_inode_buffer(dip, &dibh);
	if (error)
		goto out_free;
	error = leaf_new(dip, ap, 0, 1, &bh);
	if (error)
		goto out_put;
	from = dir_linear_area(dip, dibh);
	to = dir_leaf_area(dip, bh);
	nr = dirent_copy(&from, &to, 0, UINT64_MAX, &rule);
	if (!rule && nr != dip->i_entries)
		rule = "wrong number of entries in a directory";
	if (rule) {
		error = gfs2_consist(sdp, dip->i_no_addr, rule);
		goto out_put_leaf;
	}
	dir_leaf(bh)->lf_entries = cpu_to_be16(nr);

	gfs2_trans_add_meta(sdp->sd_log, dip->i_gl, dibh);
	memset(dibh->b_data + sizeof(struct gfs2_dinode), 0, gfs2_max_stuffed_size(dip));
	free(dip->i_hash_cache);
	dip->i_hash_cache = table;
	table = NULL;
	dip->i_diskflags |= GFS2_DIF_EXHASH;
	dip->i_depth = sdp->sd_bsize_shift - 4;
	dip->i_size = sdp->sd_bsize / 2;
	error = table_set(dip, 0, 1u << dip->i_depth, bh->b_blocknr);
	if (!error)
		error = gfs2_dinode_log(dip);
out_put_leaf:
	buf_put(bh);
out_put:
	buf_put(dibh);
out_free:
	free(table);
	return error;
}

/* In a transaction: JD blocks [have, want) of the table; contents follow. */
static int table_extend(struct gfs2_inode *dip, struct gfs2_alloc *ap, unsigned have, unsigned want)
{
	struct gfs2_sbd *sdp = dip->i_sbd;

	while (have < want) {
		unsigned len = want - have, i;
		uint64_t bn;
		int error = gfs2_alloc_extent(dip, ap, have, &bn, &len);

		if (error)
			return error;
		for (i = 0; i < len; i++) {
			struct gfs2_bh *bh;

			error = gfs2_meta_new(sdp, dip->i_gl, bn + i, GFS2_METATYPE_JD, GFS2_FORMAT_JD, &bh);
			if (error)
				return error;
			buf_put(bh);
		}
		have += len;
	}
	return 0;
}

/* Every slot twice. */
static int dir_double(struct gfs2_inode *dip, struct gfs2_alloc *ap)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	uint32_t nr = 1u << dip->i_depth, i;
	const __be64 *old;
	__be64 *table;
	int error;

	error = dir_hash_get(dip, &old);
	if (error)
		return error;
	table = xmalloc(table_bytes(dip->i_depth + 1));
	for (i = 0; i < nr; i++)
		table[2 * i] = table[2 * i + 1] = old[i];

	if (gfs2_is_stuffed(dip) && dir_table_blocks(sdp, dip->i_depth + 1, false))
		error = gfs2_unstuff(dip, ap);
	if (!error && !gfs2_is_stuffed(dip))
		error = table_extend(dip, ap, DIV_ROUND_UP(table_bytes(dip->i_depth), sdp->sd_jbsize),
				     dir_table_blocks(sdp, dip->i_depth + 1, false));
	if (error) {
		free(table);
		return error;
	}
	free(dip->i_hash_cache);
	dip->i_hash_cache = table;
	dip->i_depth++;
	dip->i_size = table_bytes(dip->i_depth);
	error = table_transfer(dip, (char *)table, 0, table_bytes(dip->i_depth), true);
	return error ? error : gfs2_dinode_log(dip);
}

/*
 * The leaf @bh (head of its chain, no others in it) covers slots [first, first+len): a new leaf
 * takes the lower half of them and the entries that hash there.  Both are packed anew.
 */
static int dir_split(struct gfs2_inode *dip, struct gfs2_bh *bh, uint32_t first, uint32_t len,
		     struct gfs2_alloc *ap)
{
	uint64_t divider = (uint64_t)(first + len / 2) << (32 - dip->i_depth);
	unsigned depth = be16_to_cpu(dir_leaf(bh)->lf_depth) + 1, low, high;
	struct dirent_area area = dir_leaf_area(dip, bh), low_area, high_area;
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct gfs2_bh *nbh;
	const char *rule;
	char *tmp;
	int error;

	tmp = xmalloc(sdp->sd_bsize);
	error = leaf_new(dip, ap, depth, 1, &nbh);
	if (error)
		goto out_free;
	low_area = dir_leaf_area(dip, nbh);
	high_area = (struct dirent_area){ tmp, area.start, area.end };
	low = dirent_copy(&area, &low_area, 0, divider, &rule);
	if (!rule)
		high = dirent_copy(&area, &high_area, divider, UINT64_MAX, &rule);
	if (!rule && low + high != be16_to_cpu(dir_leaf(bh)->lf_entries))
		rule = "wrong number of entries in a leaf";
	if (rule) {
		error = gfs2_consist(sdp, bh->b_blocknr, rule);
		goto out_put;
	}
	gfs2_trans_add_meta(sdp->sd_log, dip->i_gl, bh);
	memcpy(bh->b_data + area.start, tmp + area.start, area.end - area.start);
	dir_leaf(bh)->lf_depth = cpu_to_be16(depth);
	dir_leaf(bh)->lf_entries = cpu_to_be16(high);
	dir_leaf(nbh)->lf_entries = cpu_to_be16(low);
	if (!SEEDED_BUG("hash-split-table"))
		error = table_set(dip, first, len / 2, nbh->b_blocknr);
	if (!error)
		error = gfs2_dinode_log(dip);
out_put:
	buf_put(nbh);
out_free:
	free(tmp);
	return error;
}

/* Append a leaf to the chain of @hash. */
static int dir_chain_append(struct gfs2_inode *dip, uint32_t hash, struct gfs2_alloc *ap)
{
	struct gfs2_bh *nbh, *last = NULL;
	struct dir_chain c;
	uint32_t dist = 1;
	int error;

	error = dir_chain_begin(&c, dip, hash);
	while (!error && (error = dir_chain_next(&c)) > 0) {
		buf_put(last);
		last = buf_hold(c.bh);
		dist++;
		error = 0;
	}
	dir_chain_end(&c);
	if (!error)
		error = leaf_new(dip, ap, be16_to_cpu(dir_leaf(last)->lf_depth), dist, &nbh);
	if (!error) {
		gfs2_trans_add_meta(dip->i_sbd->sd_log, dip->i_gl, last);
		dir_leaf(last)->lf_next = cpu_to_be64(nbh->b_blocknr);
		buf_put(nbh);
		error = gfs2_dinode_log(dip);
	}
	buf_put(last);
	return error;
}

int dir_grow(struct gfs2_inode *dip, uint32_t hash, struct gfs2_alloc *ap)
{
	struct dir_chain c;
	uint32_t first, len;
	unsigned depth;
	int error;

	if (!dir_is_exhash(dip))
		return dir_convert(dip, ap);
	error = dir_chain_begin(&c, dip, hash);
	if (!error)
		error = dir_chain_next(&c);
	if (error < 0)
		goto out;
	error = dir_leaf_range(dip, c.bh, dir_hash_index(dip, hash), &first, &len);
	if (error)
		goto out;
	depth = be16_to_cpu(dir_leaf(c.bh)->lf_depth);
	if (c.next || depth == GFS2_DIR_MAX_DEPTH) {
		/* Splitting the head of a longer chain would hide what follows it. */
		error = dir_chain_append(dip, hash, ap);
		goto out;
	}
	if (depth == dip->i_depth) {
		error = dir_double(dip, ap);
		if (error)
			goto out;
		first *= 2;
		len = 2;
	}
	error = dir_split(dip, c.bh, first, len, ap);
out:
	dir_chain_end(&c);
	return error;
}

/* --- deallocation --- */

/* Leaves freed in one transaction: bounds its revokes and the rgrps it locks. */
#define DEALLOC_BATCH 128

/*
 * Free up to DEALLOC_BATCH leaves from the head @leaf of slots [first, first+len); *@next: the leaf
 * that is now the head, 0 when the chain is gone.  @last: with the whole chain the directory
 * becomes a regular file, so that nobody walks an empty table again after a crash.
 */
static int dealloc_chain(struct gfs2_inode *dip, uint64_t leaf, uint32_t first, uint32_t len,
			 bool last, uint64_t *next)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	uint64_t blocks[DEALLOC_BATCH];
	struct gfs2_rgrp_list rl;
	struct dir_chain c;
	unsigned nr = 0, i;
	int error = 0;

	gfs2_rlist_init(&rl);
	dir_chain_begin_at(&c, dip, leaf);
	while (nr < DEALLOC_BATCH && (error = dir_chain_next(&c)) > 0) {
		blocks[nr++] = c.bh->b_blocknr;
		error = gfs2_rlist_add(sdp, &rl, c.bh->b_blocknr);
		if (error)
			break;
	}
	*next = c.next;
	dir_chain_end(&c);
	if (error < 0)
		goto out;
	error = gfs2_rlist_lock(sdp, &rl);
	if (error)
		goto out;
	error = gfs2_trans_begin(sdp->sd_log,
				 gfs2_rlist_blocks(&rl, nr) + 2 + 1 +
					 DIV_ROUND_UP(len * sizeof(__be64), sdp->sd_jbsize) + 1,
				 nr);
	if (error)
		goto out;
	for (i = 0; i < nr && !error; i++) {
		error = gfs2_free_blocks(sdp, blocks[i], 1);
		dip->i_blocks--;
	}
	if (!error)
		error = table_set(dip, first, len, *next);
	if (!*next && last)
		dip->i_mode = (dip->i_mode & ~(uint32_t)S_IFMT) | S_IFREG;
	if (!error)
		error = gfs2_dinode_log(dip);
	/* Blocks that are free, and in the table all the same, must not be committed. */
	error = namei_trans_end(sdp, error, "freeing a directory");
out:
	gfs2_rlist_free(&rl);
	return error;
}

int gfs2_dir_exhash_dealloc(struct gfs2_inode *dip)
{
	uint32_t nr = 1u << dip->i_depth, index = 0, first, len;
	const __be64 *table;
	int error;

	error = dir_hash_get(dip, &table);
	while (!error && index < nr) {
		uint64_t leaf = be64_to_cpu(table[index]);
		struct gfs2_bh *bh;

		if (!leaf) {	/* freed before a crash */
			index++;
			continue;
		}
		error = gfs2_meta_read(dip->i_sbd, dip->i_gl, leaf, GFS2_METATYPE_LF, &bh);
		if (error)
			break;
		error = dir_leaf_range(dip, bh, index, &first, &len);
		buf_put(bh);
		while (!error && leaf)
			error = dealloc_chain(dip, leaf, first, len, first + len == nr, &leaf);
		index = first + len;
	}
	return error;
}
