/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Directories: search, insert, remove (kernel: dir.c; reference gfs2-ondisk.md section 5).
 *
 * A directory is linear (entries in the dinode block) or hashed (leaves found through a table,
 * dir_hash.c).  All blocks of it, the table too, are metadata under its glock.
 *
 * Guarantees
 *  - Whatever the blocks contain, nothing outside of them is read and every walk ends; what breaks
 *    a rule of the format is gfs2_consist and -EIO.
 *  - gfs2_diradd_alloc_required() plays the insertion through on paper: it asks for new blocks only
 *    if there is no room, and for as many as the splits of this very leaf will take, so that one
 *    transaction is always enough.
 *  - Entries, leaf counts, i_entries, times and nlink change in the caller's transaction together.
 */
#include "fs/dirent.h"
#include "util/seeded.h"

/* Where an entry is: its block and the walk that found it. */
struct dir_slot {
	struct gfs2_bh *bh;	/* reference held */
	struct dirent_walk walk;
	bool leaf;		/* @bh is a leaf, else the dinode */
};

static int dir_find_linear(struct gfs2_inode *dip, const struct gfs2_qname *q, struct dir_slot *slot)
{
	struct dirent_area area;
	int error = gfs2_meta_inode_buffer(dip, &slot->bh);

	if (error)
		return error;
	area = dir_linear_area(dip, slot->bh);
	slot->leaf = false;
	if (dirent_find(&slot->walk, &area, q))
		return 0;
	buf_put(slot->bh);
	if (slot->walk.rule)
		return gfs2_consist(dip->i_sbd, dip->i_no_addr, slot->walk.rule);
	return -ENOENT;
}

/* 0 and @slot (the caller drops slot->bh), -ENOENT, -EIO. */
static int dir_find(struct gfs2_inode *dip, const struct gfs2_qname *q, struct dir_slot *slot)
{
	struct dir_chain c;
	int error;

	if (!dir_is_exhash(dip))
		return dir_find_linear(dip, q, slot);
	slot->leaf = true;
	error = dir_chain_begin(&c, dip, q->hash);
	while (!error && (error = dir_chain_next(&c)) > 0) {
		struct dirent_area area = dir_leaf_area(dip, c.bh);

		error = 0;
		if (dirent_find(&slot->walk, &area, q)) {
			slot->bh = buf_hold(c.bh);
			dir_chain_end(&c);
			return 0;
		}
		if (slot->walk.rule)
			error = gfs2_consist(dip->i_sbd, c.bh->b_blocknr, slot->walk.rule);
	}
	dir_chain_end(&c);
	return error ? error : -ENOENT;
}

int gfs2_dir_search(struct gfs2_inode *dip, const struct gfs2_qname *q,
		    struct gfs2_inum_host *inum, unsigned *type)
{
	struct dir_slot slot;
	int error;

	gfs2_assert_held(dip->i_gl, false);
	if (!gfs2_is_dir(dip))
		return -ENOTDIR;
	error = dir_find(dip, q, &slot);
	if (error)
		return error;
	if (inum) {
		inum->no_formal_ino = be64_to_cpu(slot.walk.cur->de_inum.no_formal_ino);
		inum->no_addr = be64_to_cpu(slot.walk.cur->de_inum.no_addr);
	}
	if (type)
		*type = be16_to_cpu(slot.walk.cur->de_type);
	buf_put(slot.bh);
	return 0;
}

int gfs2_dir_hold(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_bh **bhs, unsigned max, unsigned *nr)
{
	struct dir_chain c;
	int error;

	gfs2_assert_held(dip->i_gl, false);
	if (!dir_is_exhash(dip))
		return 0;
	error = dir_chain_begin(&c, dip, q->hash);
	while (!error && *nr < max && (error = dir_chain_next(&c)) > 0) {
		bhs[(*nr)++] = buf_hold(c.bh);
		error = 0;
	}
	dir_chain_end(&c);
	return error;
}

/* --- what an insertion needs --- */

/* The entries of a leaf, as far as splitting is concerned. */
struct dir_sim {
	unsigned nr;
	uint32_t used;
	struct {
		uint32_t hash, size;
	} ent[4096 / sizeof(struct gfs2_dirent)];
};

static const char *sim_load(struct dir_sim *sim, const struct dirent_area *area)
{
	const struct gfs2_dirent *d;
	struct dirent_walk w;

	sim->nr = sim->used = 0;
	dirent_walk_init(&w, area);
	while ((d = dirent_next(&w))) {
		if (dirent_is_sentinel(d))
			continue;
		sim->ent[sim->nr].hash = dirent_hash(d);
		sim->ent[sim->nr].size = dirent_size(dirent_name_len(d));
		sim->used += sim->ent[sim->nr++].size;
	}
	return w.rule;
}

/* Split on hash bit @bit (0: highest): keep the half that @hash is in. */
static void sim_split(struct dir_sim *sim, unsigned bit, uint32_t hash)
{
	unsigned i, nr = 0;

	sim->used = 0;
	for (i = 0; i < sim->nr; i++) {
		if ((sim->ent[i].hash ^ hash) & (1u << (31 - bit)))
			continue;
		sim->ent[nr] = sim->ent[i];
		sim->used += sim->ent[nr++].size;
	}
	sim->nr = nr;
}

/* Is the tree of the table's blocks as low as it can be?  Then it has the indirect blocks that dir_table_blocks() counts, and keeps them as it grows. */
static bool dir_table_is_low(const struct gfs2_inode *dip)
{
	const struct gfs2_sbd *sdp = dip->i_sbd;
	uint64_t blocks = dir_table_blocks(sdp, dip->i_depth, false);

	return dip->i_height == 1 || sdp->sd_heightsize[dip->i_height - 1] >> sdp->sd_bsize_shift < blocks;
}

/*
 * Blocks that making room for @q in a leaf of depth @depth takes, as dir_grow() will do it, to the block (of a table that somebody has
 * made higher than it need be: at most); @leaves already needed.
 */
static void sim_run(const struct gfs2_inode *dip, struct dir_sim *sim, const struct gfs2_qname *q,
		    unsigned depth, unsigned di_depth, unsigned leaves, unsigned *blocks,
		    unsigned *trans)
{
	const struct gfs2_sbd *sdp = dip->i_sbd;
	uint32_t room = sdp->sd_bsize - sizeof(struct gfs2_leaf) - dirent_size(q->len);
	unsigned start_depth = di_depth, slots = 1u << (di_depth - depth), table;

	while (sim->used > room) {
		leaves++;
		if (depth == GFS2_DIR_MAX_DEPTH)
			break;
		if (depth == di_depth)
			di_depth++;
		sim_split(sim, depth++, q->hash);
	}
	*blocks = leaves;
	if (di_depth > start_depth) {
		table = dir_table_blocks(sdp, di_depth, true);
		*blocks += table;
		if (!gfs2_is_stuffed(dip))
			*blocks -= dir_table_blocks(sdp, start_depth, dir_table_is_low(dip));
	} else {
		table = DIV_ROUND_UP(slots * sizeof(__be64), sdp->sd_jbsize) + 1;
	}
	/* dinode, the full leaf, the new ones, the table */
	*trans = 1 + 1 + leaves + table;
}

static int required_linear(struct gfs2_inode *dip, const struct gfs2_qname *q, unsigned *blocks,
			   unsigned *trans)
{
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct dirent_area area;
	struct dir_sim sim;
	struct gfs2_bh *bh;
	const char *rule;
	int error;

	error = gfs2_meta_inode_buffer(dip, &bh);
	if (error)
		return error;
	area = dir_linear_area(dip, bh);
	rule = sim_load(&sim, &area);
	buf_put(bh);
	if (rule)
		return gfs2_consist(sdp, dip->i_no_addr, rule);
	*blocks = 0;
	*trans = 1;
	if (sim.used + dirent_size(q->len) > area.end - area.start)
		sim_run(dip, &sim, q, 0, sdp->sd_bsize_shift - 4, 1, blocks, trans);
	return 0;
}

/* In the chain of @q: a leaf with room (+1 reference), NULL if there is none. */
static int dir_find_room(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_bh **out)
{
	uint32_t size = dirent_size(q->len);
	struct dir_chain c;
	int error;

	*out = NULL;
	error = dir_chain_begin(&c, dip, q->hash);
	while (!error && !*out && (error = dir_chain_next(&c)) > 0) {
		struct dirent_area area = dir_leaf_area(dip, c.bh);
		const char *rule;
		unsigned live;
		uint32_t used = dirent_used(&area, &live, &rule);

		error = 0;
		if (!rule && live != be16_to_cpu(dir_leaf(c.bh)->lf_entries))
			rule = "wrong number of entries in a leaf";
		if (rule)
			error = gfs2_consist(dip->i_sbd, c.bh->b_blocknr, rule);
		else if (used + size <= area.end - area.start)
			*out = buf_hold(c.bh);
	}
	dir_chain_end(&c);
	return error;
}

static int required_exhash(struct gfs2_inode *dip, const struct gfs2_qname *q, unsigned *blocks,
			   unsigned *trans)
{
	struct dirent_area area;
	uint32_t first, len;
	struct dir_chain c;
	struct dir_sim sim;
	struct gfs2_bh *bh;
	const char *rule;
	int error;

	*blocks = 0;
	*trans = 2;
	error = dir_find_room(dip, q, &bh);
	if (error || bh) {
		buf_put(bh);
		return error;
	}
	error = dir_chain_begin(&c, dip, q->hash);
	if (!error)
		error = dir_chain_next(&c);
	if (error < 0)
		goto out;
	error = dir_leaf_range(dip, c.bh, dir_hash_index(dip, q->hash), &first, &len);
	if (error)
		goto out;
	if (c.next) {
		*blocks = 1;
		*trans = 1 + 1 + 1;
		goto out;
	}
	area = dir_leaf_area(dip, c.bh);
	rule = sim_load(&sim, &area);
	if (rule)
		error = gfs2_consist(dip->i_sbd, c.bh->b_blocknr, rule);
	else
		sim_run(dip, &sim, q, be16_to_cpu(dir_leaf(c.bh)->lf_depth), dip->i_depth, 0, blocks,
			trans);
out:
	dir_chain_end(&c);
	return error;
}

int gfs2_diradd_alloc_required(struct gfs2_inode *dip, const struct gfs2_qname *q, unsigned *blocks,
			       unsigned *trans)
{
	gfs2_assert_held(dip->i_gl, true);
	if (!dir_is_exhash(dip))
		return required_linear(dip, q, blocks, trans);
	return required_exhash(dip, q, blocks, trans);
}

/* --- changes --- */

/* The entry or leaf count of @bh (a leaf already in the transaction) changed. */
static void leaf_touch(struct gfs2_bh *bh, int entries)
{
	struct gfs2_leaf *lf = dir_leaf(bh);
	struct timespec now = current_time();

	lf->lf_entries = cpu_to_be16(be16_to_cpu(lf->lf_entries) + entries);
	lf->lf_nsec = cpu_to_be32(now.tv_nsec);
	lf->lf_sec = cpu_to_be64(now.tv_sec);
}

static int dir_touch(struct gfs2_inode *dip)
{
	dip->i_mtime = dip->i_ctime = current_time();
	return gfs2_dinode_log(dip);
}

static void dirent_set_child(struct gfs2_dirent *d, const struct gfs2_inum_host *inum,
			     unsigned type, bool rahead)
{
	d->de_inum.no_formal_ino = cpu_to_be64(inum->no_formal_ino);
	d->de_inum.no_addr = cpu_to_be64(inum->no_addr);
	d->de_type = cpu_to_be16(type);
	d->de_rahead = cpu_to_be16(rahead);
}

/* The block that has room for @q now, +1 reference; NULL: none. */
static int dir_room(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_bh **out)
{
	struct dirent_area area;
	const char *rule;
	unsigned live;
	int error;

	if (dir_is_exhash(dip))
		return dir_find_room(dip, q, out);
	error = gfs2_meta_inode_buffer(dip, out);
	if (error)
		return error;
	area = dir_linear_area(dip, *out);
	if (dirent_used(&area, &live, &rule) + dirent_size(q->len) <= area.end - area.start && !rule)
		return 0;
	buf_put(*out);
	*out = NULL;
	return rule ? gfs2_consist(dip->i_sbd, dip->i_no_addr, rule) : 0;
}

int gfs2_dir_add(struct gfs2_inode *dip, const struct gfs2_qname *q, const struct gfs2_inode *child,
		 struct gfs2_alloc *ap)
{
	struct gfs2_inum_host inum = { child->i_no_formal_ino, child->i_no_addr };
	/*
	 * A hint for readers: the child's xattr block follows its dinode (kernel:
	 * gfs2_inode_ra_len).
	 */
	bool rahead = child->i_eattr && child->i_eattr == child->i_no_addr + 1;
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct gfs2_dirent *d;
	struct dirent_area area;
	struct gfs2_bh *bh;
	const char *rule;
	int error;

	gfs2_assert_held(dip->i_gl, true);
	for (;;) {
		error = dir_room(dip, q, &bh);
		if (error)
			return error;
		if (bh)
			break;
		error = dir_grow(dip, q->hash, ap);
		if (error)
			return error;
	}
	gfs2_trans_add_meta(sdp->sd_log, dip->i_gl, bh);
	area = dir_is_exhash(dip) ? dir_leaf_area(dip, bh) : dir_linear_area(dip, bh);
	d = dirent_insert(&area, q, &rule);
	/* dir_room() has just walked this block under the same EX: then somebody else has it, too, and has changed it. */
	if (!d) {
		error = gfs2_consist(sdp, bh->b_blocknr, "a leaf has room where there was some");
		buf_put(bh);
		return error;
	}
	dirent_set_child(d, &inum, child->i_mode >> 12 & 15, rahead);
	if (dir_is_exhash(dip))
		leaf_touch(bh, 1);
	buf_put(bh);
	dip->i_entries++;
	if (gfs2_is_dir(child))
		dip->i_nlink++;
	return dir_touch(dip);
}

int gfs2_dir_del(struct gfs2_inode *dip, const struct gfs2_qname *q, bool child_is_dir)
{
	struct dir_slot slot;
	int error;

	gfs2_assert_held(dip->i_gl, true);
	error = dir_find(dip, q, &slot);
	if (error)
		return error;
	if (slot.leaf && !dir_leaf(slot.bh)->lf_entries) {
		error = gfs2_consist(dip->i_sbd, slot.bh->b_blocknr,
				     "wrong number of entries in a leaf");
		buf_put(slot.bh);
		return error;
	}
	if (!dip->i_entries || (child_is_dir && dip->i_nlink < 3)) {
		buf_put(slot.bh);
		return gfs2_consist(dip->i_sbd, dip->i_no_addr,
				    "wrong number of entries or links in a directory");
	}
	gfs2_trans_add_meta(dip->i_sbd->sd_log, dip->i_gl, slot.bh);
	dirent_remove(&slot.walk);
	if (slot.leaf)
		leaf_touch(slot.bh, -1);
	buf_put(slot.bh);
	if (!SEEDED_BUG("dir-entry-count"))
		dip->i_entries--;
	if (child_is_dir)
		dip->i_nlink--;
	return dir_touch(dip);
}

int gfs2_dir_mvino(struct gfs2_inode *dip, const struct gfs2_qname *q, const struct gfs2_inum_host *to,
		   unsigned new_type)
{
	struct dir_slot slot;
	int error;

	gfs2_assert_held(dip->i_gl, true);
	error = dir_find(dip, q, &slot);
	if (error == -ENOENT && q->len == 2 && memcmp(q->name, "..", 2) == 0)
		return gfs2_consist(dip->i_sbd, dip->i_no_addr, "directory without \"..\"");
	if (error)
		return error;
	gfs2_trans_add_meta(dip->i_sbd->sd_log, dip->i_gl, slot.bh);
	dirent_set_child(slot.walk.cur, to, new_type, false);
	buf_put(slot.bh);
	return dir_touch(dip);
}

void gfs2_dir_init(struct gfs2_sbd *sdp, void *block, const struct gfs2_inum_host *self,
		   const struct gfs2_inum_host *parent)
{
	struct dirent_area area = { block, sizeof(struct gfs2_dinode), sdp->sd_bsize };
	struct gfs2_qname dot = gfs2_qname("."), dotdot = gfs2_qname("..");
	const char *rule;

	dirent_init_empty(&area);
	dirent_set_child(dirent_insert(&area, &dot, &rule), self, DT_DIR, false);
	dirent_set_child(dirent_insert(&area, &dotdot, &rule), parent, DT_DIR, false);
}
