/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changing extended attributes (kernel: xattr.c:ea_set_i, ea_set_simple, ea_set_block, ea_init,
 * gfs2_xattr_remove; reference gfs2-ondisk.md 6.5).
 *
 * Where a new record goes: in place if the old one is long enough; else the first unused record or
 * slack that is; else a new EA block.  The second EA block brings the indirect block with it.
 * (The kernel never writes in place: it needs room for old and new at once.)
 */
#include <errno.h>
#include <sys/xattr.h>
#include "fs/bmap.h"
#include "fs/eattr.h"
#include "fs/xattr.h"
#include "util/seeded.h"

static struct gfs2_ea_header *ea_at(const struct gfs2_bh *bh, uint32_t off)
{
	return (struct gfs2_ea_header *)(bh->b_data + off);
}

static uint32_t off_of(const struct gfs2_bh *bh, const struct gfs2_ea_header *ea)
{
	return (uint32_t)((const char *)ea - bh->b_data);
}

/* --- what to do --- */

/* The ED blocks of @ea will be freed. */
static int free_later(struct ea_change *c, struct gfs2_ea_header *ea)
{
	for (unsigned i = 0; i < ea->ea_num_ptrs; i++) {
		uint64_t blkno = be64_to_cpu(ea_ptrs(ea)[i]);
		int error;

		if (!blkno)
			continue;
		error = gfs2_check_pointer(c->ip, blkno);
		if (!error)
			error = gfs2_rlist_add(c->ip->i_sbd, &c->rlist, blkno);
		if (error)
			return error;
		c->free[c->nr_free++] = blkno;
	}
	return 0;
}

/* Look through one block for the attribute and, if @need, for room.  True: nothing left to look for. */
static bool look_through(struct ea_change *c, struct gfs2_bh *bh, uint32_t need, const char **rule)
{
	struct gfs2_ea_header *ea;
	struct ea_walk w;

	ea_walk_init(&w, c->ip->i_sbd, bh->b_data);
	while ((ea = ea_next(&w))) {
		if (!c->old_bh && ea_is(ea, c->type, c->name, c->namel)) {
			c->old_bh = buf_hold(bh);
			c->old_off = off_of(bh, ea);
			/* the first choice, whatever else there is */
			if (need && ea_rec_len(ea) >= need) {
				buf_put(c->room_bh);
				c->room_bh = buf_hold(bh);
				c->room_off = c->old_off;
			}
		} else if (need && !c->room_bh && ea_rec_len(ea) - ea_used(ea) >= need) {
			c->room_bh = buf_hold(bh);
			c->room_off = off_of(bh, ea);
		}
		if (c->old_bh && (c->room_bh || !need))
			break;
	}
	*rule = w.rule;
	return c->old_bh && (c->room_bh || !need);
}

/* Find the attribute and a place for it (@need 0: none is wanted). */
static int look(struct ea_change *c, uint32_t need)
{
	struct gfs2_inode *ip = c->ip;
	struct ea_iter it;
	const char *rule;
	int error = ea_iter_begin(&it, ip), more;

	while (!error && (more = ea_iter_next(&it))) {
		if (more < 0) {
			error = more;
			break;
		}
		if (look_through(c, it.bh, need, &rule))
			break;
		if (rule)
			error = ea_damaged(ip, it.bh, rule);
	}
	/* One block more will be entered there, or there is no room. */
	if (!error && need && !c->room_bh && it.ind_bh) {
		c->ind_bh = buf_hold(it.ind_bh);
		c->ind_slot = it.next;
	}
	ea_iter_end(&it);
	return error;
}

static int check_flags(const struct ea_change *c, int flags)
{
	if (!c->old_bh && (!c->value || flags & XATTR_REPLACE))
		return -ENODATA;
	if (c->old_bh && flags & XATTR_CREATE)
		return -EEXIST;
	return 0;
}

/* Which blocks are needed and which become free. */
static int plan(struct ea_change *c)
{
	struct gfs2_inode *ip = c->ip;
	bool in_place = c->room_bh && c->room_bh == c->old_bh && c->room_off == c->old_off;
	int error = c->old_bh ? free_later(c, ea_at(c->old_bh, c->old_off)) : 0;

	if (!c->value)
		return error;
	c->nr_new = c->nr_ptrs;
	if (c->room_bh) {
		struct gfs2_ea_header *ea = ea_at(c->room_bh, c->room_off);

		/* A crash of a kernel in the middle of a change leaves pointers in an unused record. */
		if (!error && !in_place && ea_unused(ea))
			error = free_later(c, ea);
		return error;
	}
	if (c->ind_bh && c->ind_slot == ip->i_sbd->sd_inptrs)
		return -ENOSPC;
	c->nr_new += ip->i_eattr && !c->ind_bh ? 2 : 1;
	return error;
}

static int reserve(struct ea_change *c)
{
	struct gfs2_inode *ip = c->ip;
	int error;

	/* the old block and the one with the new record, or the indirect block */
	c->trans = 2;
	if (c->nr_new) {
		c->ap.target = c->nr_new;
		error = gfs2_inplace_reserve(ip, &c->ap);
		if (error)
			return error;
		c->reserved = true;
		c->trans += c->nr_new + gfs2_rg_blocks(&c->ap, c->nr_new);
	}
	if (c->nr_free) {
		error = gfs2_rlist_lock(ip->i_sbd, &c->rlist);
		if (error)
			return error;
		c->revokes = c->nr_free;
		c->trans += gfs2_rlist_blocks(&c->rlist, c->nr_free);
	}
	if (c->nr_new || c->nr_free)
		c->trans++;	/* the local statfs record */
	return 0;
}

int ea_change_begin(struct ea_change *c, struct gfs2_inode *ip, unsigned type, const char *name,
		    const void *value, size_t size, int flags)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	uint32_t need = 0;
	int error;

	gfs2_assert_held(ip->i_gl, true);
	memset(c, 0, sizeof(*c));
	c->ip = ip;
	c->type = type;
	c->name = name;
	c->namel = strlen(name);
	c->value = value;
	c->size = size;
	gfs2_rlist_init(&c->rlist);
	if (c->namel > GFS2_EA_MAX_NAME_LEN)
		return -ERANGE;
	if (value) {
		if (size > GFS2_EA_MAX_DATA_LEN)
			return -ERANGE;
		need = ea_need(sdp, c->namel, size, &c->nr_ptrs);
		if (need > sdp->sd_jbsize)
			return -ERANGE;
	}
	error = look(c, need);
	if (!error)
		error = check_flags(c, flags);
	if (!error)
		error = plan(c);
	if (!error)
		error = reserve(c);
	if (error)
		ea_change_end(c);
	return error;
}

void ea_change_end(struct ea_change *c)
{
	gfs2_rlist_free(&c->rlist);
	if (c->reserved)
		gfs2_inplace_release(c->ip, &c->ap);
	c->reserved = false;
	buf_put(c->old_bh);
	buf_put(c->room_bh);
	buf_put(c->ind_bh);
	c->old_bh = c->room_bh = c->ind_bh = NULL;
}

/* --- doing it --- */

static int alloc_all(struct ea_change *c, uint64_t *blocks)
{
	unsigned done = 0;

	while (done < c->nr_new) {
		unsigned n = c->nr_new - done;
		uint64_t bn;
		int error = gfs2_alloc_blocks(c->ip, &c->ap, &bn, &n, false, NULL);

		if (error)
			return error;
		while (n--)
			blocks[done++] = bn++;
	}
	c->ip->i_blocks += done;
	return 0;
}

static int free_all(struct ea_change *c)
{
	struct gfs2_inode *ip = c->ip;

	if (ip->i_blocks <= c->nr_free)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, "di_blocks counts the blocks of the inode");
	for (unsigned i = 0, n; i < c->nr_free; i += n) {
		int error;

		for (n = 1; i + n < c->nr_free && c->free[i + n] == c->free[i] + n; n++)
			;
		error = gfs2_free_blocks(ip->i_sbd, c->free[i], n);
		if (error)
			return error;
	}
	ip->i_blocks -= c->nr_free;
	return 0;
}

/* The value into the ED blocks @blocks. */
static int write_data(struct ea_change *c, const uint64_t *blocks)
{
	struct gfs2_sbd *sdp = c->ip->i_sbd;

	for (unsigned i = 0; i < c->nr_ptrs; i++) {
		size_t done = (size_t)i * sdp->sd_jbsize;
		struct gfs2_bh *bh;
		int error = gfs2_meta_new(sdp, c->ip->i_gl, blocks[i], GFS2_METATYPE_ED, GFS2_FORMAT_ED, &bh);

		if (error)
			return error;
		if (SEEDED_BUG("xattr-data"))
			done = 0;
		memcpy(bh->b_data + sizeof(struct gfs2_meta_header), (const char *)c->value + done,
		       min_t(size_t, c->size - done, sdp->sd_jbsize));
		buf_put(bh);
	}
	return 0;
}

static int new_ea_block(struct gfs2_inode *ip, uint64_t blkno, struct gfs2_bh **out)
{
	int error = gfs2_meta_new(ip->i_sbd, ip->i_gl, blkno, GFS2_METATYPE_EA, GFS2_FORMAT_EA, out);

	if (!error)
		ea_block_init(ip->i_sbd, (*out)->b_data);
	return error;
}

static int new_ind_block(struct gfs2_inode *ip, uint64_t blkno, struct gfs2_bh **out)
{
	return gfs2_meta_new(ip->i_sbd, ip->i_gl, blkno, GFS2_METATYPE_IN, GFS2_FORMAT_IN, out);
}

/* One EA block more: the first, the second (then @blocks[1] becomes the indirect block), or later. */
static int add_block(struct ea_change *c, const uint64_t *blocks)
{
	struct gfs2_inode *ip = c->ip;
	struct gfs2_log *log = ip->i_sbd->sd_log;
	int error = new_ea_block(ip, blocks[0], &c->room_bh);

	if (error)
		return error;
	c->room_off = EA_FIRST;
	if (!ip->i_eattr) {
		ip->i_eattr = blocks[0];
		return 0;
	}
	if (c->ind_bh) {
		gfs2_trans_add_meta(log, ip->i_gl, c->ind_bh);
	} else {
		error = new_ind_block(ip, blocks[1], &c->ind_bh);
		if (error)
			return error;
		gfs2_metaptrs(c->ind_bh, 1)[c->ind_slot++] = cpu_to_be64(ip->i_eattr);
		ip->i_eattr = blocks[1];
		ip->i_diskflags |= GFS2_DIF_EA_INDIRECT;
	}
	gfs2_metaptrs(c->ind_bh, 1)[c->ind_slot] = cpu_to_be64(blocks[0]);
	return 0;
}

/* What is in @bh has been looked at before the transaction: if it has become somebody else's since (a damaged volume), that is not true any more. */
static int change_block(struct ea_change *c, struct gfs2_bh *bh)
{
	struct gfs2_glock *gl = c->ip->i_gl;

	gfs2_trans_add_meta(c->ip->i_sbd->sd_log, gl, bh);
	return gfs2_check_owner(c->ip->i_sbd, bh, &gl->gl_mapping);
}

int ea_change_apply(struct ea_change *c)
{
	struct gfs2_inode *ip = c->ip;
	struct gfs2_sbd *sdp = ip->i_sbd;
	bool in_place = c->room_bh && c->room_bh == c->old_bh && c->room_off == c->old_off;
	uint64_t blocks[EA_MAX_PTRS + 2];
	struct gfs2_ea_header *ea;
	int error = alloc_all(c, blocks);

	if (!error && c->nr_free)
		error = free_all(c);
	if (error)
		return error;
	if (c->value) {
		error = write_data(c, blocks);
		if (!error && c->room_bh)
			error = change_block(c, c->room_bh);
		else if (!error)
			error = add_block(c, blocks + c->nr_ptrs);
		if (error)
			return error;
		ea = ea_at(c->room_bh, c->room_off);
		if (!in_place && !ea_unused(ea))
			ea = ea_split(ea);
		ea_fill(ea, c->type, c->name, c->namel, c->value, c->size, blocks, c->nr_ptrs);
	}
	if (c->old_bh && !in_place) {
		error = change_block(c, c->old_bh);
		if (error)
			return error;
		ea_erase(sdp, c->old_bh->b_data, ea_at(c->old_bh, c->old_off));
	}
	return 0;
}

/* --- new inodes --- */

static uint32_t new_need(const struct gfs2_sbd *sdp, const struct ea_new *new)
{
	unsigned ptrs;
	uint32_t need = ea_need(sdp, strlen(new->name), new->size, &ptrs);

	GFS2_BUG_ON(ptrs || need > sdp->sd_jbsize);
	return need;
}

unsigned ea_new_blocks(const struct gfs2_sbd *sdp, const struct ea_new *new, unsigned nr)
{
	uint32_t need = 0;

	for (unsigned i = 0; i < nr; i++)
		need += new_need(sdp, &new[i]);
	/* two blocks and the indirect block above them */
	return !nr ? 0 : need <= sdp->sd_jbsize ? 1 : 3;
}

int ea_new_write(struct gfs2_inode *ip, const struct ea_new *new, unsigned nr,
		 const uint64_t *blocks)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	unsigned nr_blocks = ea_new_blocks(sdp, new, nr);
	struct gfs2_bh *bh = NULL;
	int error;

	if (nr_blocks == 3) {
		error = new_ind_block(ip, blocks[0], &bh);
		if (error)
			return error;
		gfs2_metaptrs(bh, 1)[0] = cpu_to_be64(blocks[1]);
		gfs2_metaptrs(bh, 1)[1] = cpu_to_be64(blocks[2]);
		ip->i_diskflags |= GFS2_DIF_EA_INDIRECT;
		buf_put(bh);
		bh = NULL;
	}
	for (unsigned i = 0; i < nr; i++) {
		struct gfs2_ea_header *ea;

		if (!bh || nr_blocks == 3) {
			buf_put(bh);
			error = new_ea_block(ip, nr_blocks == 3 ? blocks[1 + i] : blocks[0], &bh);
			if (error)
				return error;
			ea = ea_at(bh, EA_FIRST);
		} else {
			ea = ea_split(ea_at(bh, EA_FIRST));
		}
		ea_fill(ea, new[i].type, new[i].name, strlen(new[i].name), new[i].value,
			new[i].size, NULL, 0);
	}
	buf_put(bh);
	ip->i_eattr = blocks[0];
	ip->i_blocks += nr_blocks;
	return 0;
}
