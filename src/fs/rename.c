/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rename and exchange (kernel: inode.c:gfs2_rename, gfs2_exchange; reference gfs2-ondisk.md 5.7,
 * 8.13, gfs2-locking-dio.md 4.1, 4.5).
 *
 * Steps, each repeated from the start when the names have changed in between:
 *   1. find    the two inodes, under SH of one directory after the other
 *   2. check   directories differ: RENAME EX, then up from the parents to the root, one SH at a
 *      time: the source may not be above its new parent, nor the target above the old one
 *   3. lock    up to four inodes EX
 *   4. verify  that the names still mean the same inodes
 *   5. change  everything in one transaction
 *
 * No deadlock: all others wait for a child only while they hold its parent.  The inodes here may
 * stand in any relation to each other, and siblings and cross-directory parents break every total
 * order that also respects the tree; so no inode glock is waited for while another is held.  The
 * set is tried; what was refused is waited for alone and tried first in the next round.  RENAME is
 * above all of them.
 *
 * References taken in step 1 are dropped when no glock is held: they may delete the target.
 */
#include <linux/fs.h>
#include <sched.h>
#include "fs/namei_i.h"
#include "util/seeded.h"

enum { R_ODIR, R_NDIR, R_OLD, R_NEW, R_NR };

struct rename_ctx {
	struct gfs2_sbd *sdp;
	struct gfs2_inode *odip, *ndip;
	struct gfs2_qname oq, nq;
	bool exchange, noreplace;
	struct gfs2_inode *ip, *nip;	/* references held; nip NULL: the new name is free */
	unsigned type, ntype;		/* DT_*, as the directories say */
	struct gfs2_holder ghs[R_NR];
	unsigned nr_ghs;
};

/* --- 1: find --- */

static int find_one(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_inode **out,
		    unsigned *type)
{
	struct gfs2_holder gh;
	int error = gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, 0, &gh);

	if (error)
		return error;
	error = gfs2_is_dir(dip) ? namei_find(dip, q, out, type) : -ENOTDIR;
	gfs2_glock_dq_uninit(&gh);
	return error;
}

static int rename_find(struct rename_ctx *r)
{
	int error = find_one(r->odip, &r->oq, &r->ip, &r->type);

	if (error)
		return error;
	error = find_one(r->ndip, &r->nq, &r->nip, &r->ntype);
	if (error == -ENOENT && !r->exchange)
		error = 0;
	return error;
}

/* --- 2: check --- */

/* RENAME held: -ELOOP if @ip is @dip or above it. */
static int not_above(struct gfs2_sbd *sdp, const struct gfs2_inode *ip, struct gfs2_inode *dip)
{
	struct gfs2_qname dotdot = gfs2_qname("..");
	struct gfs2_inode *up;
	uint64_t check = 0;
	unsigned steps = 0, limit = 1;
	int error = 0;

	gfs2_inode_hold(dip);
	while (dip != ip && dip->i_no_addr != sdp->sd_root_addr && !error) {
		/* Brent: ".." of a damaged volume may lead in a circle */
		if (dip->i_no_addr == check) {
			error = gfs2_consist(sdp, check, "\"..\" leads in a circle");
			break;
		}
		if (++steps == limit) {
			check = dip->i_no_addr;
			limit *= 2;
			steps = 0;
		}
		up = NULL;
		error = find_one(dip, &dotdot, &up, NULL);
		gfs2_inode_put(dip);
		dip = up;
		if (!up)
			return error;
	}
	if (!error && dip == ip)
		error = -ELOOP;
	gfs2_inode_put(dip);
	return error;
}

static int rename_check_tree(struct rename_ctx *r)
{
	int error = 0;

	if (r->type == DT_DIR)
		error = not_above(r->sdp, r->ip, r->ndip);
	if (error)
		return error == -ELOOP ? -EINVAL : error;
	if (r->nip && r->ntype == DT_DIR)
		error = not_above(r->sdp, r->nip, r->odip);
	if (error == -ELOOP)
		return r->exchange ? -EINVAL : -ENOTEMPTY;
	return error;
}

/* --- 3: lock --- */

static void unlock_set(struct rename_ctx *r)
{
	unsigned i;

	for (i = 0; i < r->nr_ghs; i++)
		gfs2_glock_dq_uninit(&r->ghs[i]);
	r->nr_ghs = 0;
}

/* Parents first, then children, each by number; no inode twice. */
static unsigned lock_order(const struct rename_ctx *r, struct gfs2_inode *set[R_NR])
{
	struct gfs2_inode *all[R_NR] = { r->odip, r->ndip, r->ip, r->nip }, *t;
	unsigned nr = 0, i, j;

	for (i = 0; i < R_NR; i += 2) {
		if (all[i + 1] && all[i]->i_no_addr > all[i + 1]->i_no_addr) {
			t = all[i];
			all[i] = all[i + 1];
			all[i + 1] = t;
		}
	}
	for (i = 0; i < R_NR; i++) {
		for (j = 0; j < nr && set[j] != all[i]; j++)
			;
		if (all[i] && j == nr)
			set[nr++] = all[i];
	}
	return nr;
}

static int lock_set(struct rename_ctx *r)
{
	struct gfs2_inode *set[R_NR], *refused;
	unsigned nr = lock_order(r, set), i, round;
	int error;

	for (round = 0;; round++) {
		for (i = 0; i < nr; i++) {
			/* Only the first is waited for, and then nothing else is held. */
			error = gfs2_glock_nq_init(set[i]->i_gl, LM_ST_EXCLUSIVE,
						   i ? LM_FLAG_TRY_1CB : 0, &r->ghs[i]);
			if (error)
				break;
			r->nr_ghs++;
		}
		if (i == nr)
			return 0;
		unlock_set(r);
		if (error != GLR_TRYFAILED)
			return error;
		refused = set[i];
		memmove(&set[1], &set[0], i * sizeof(set[0]));
		set[0] = refused;
		if (round > 2)
			sched_yield();
	}
}

/* --- 4: verify --- */

/* Does @q in @dip (held) still mean @ip (NULL: nothing)?  -EAGAIN if not. */
static int verify_one(struct gfs2_inode *dip, const struct gfs2_qname *q, const struct gfs2_inode *ip)
{
	struct gfs2_inum_host inum;
	int error = gfs2_dir_search(dip, q, &inum, NULL);

	if (error == -ENOENT)
		return ip ? -EAGAIN : 0;
	if (error)
		return error;
	return ip && inum.no_addr == ip->i_no_addr && inum.no_formal_ino == ip->i_no_formal_ino ?
		       0 :
		       -EAGAIN;
}

static int rename_verify(struct rename_ctx *r)
{
	int error = verify_one(r->odip, &r->oq, r->ip);

	return error ? error : verify_one(r->ndip, &r->nq, r->nip);
}

/* The types decided what was checked in step 2. */
static int rename_check_types(struct rename_ctx *r)
{
	if ((r->type == DT_DIR) != gfs2_is_dir(r->ip))
		return gfs2_consist(r->sdp, r->ip->i_no_addr, "directory entry of another type");
	if (r->nip && (r->ntype == DT_DIR) != gfs2_is_dir(r->nip))
		return gfs2_consist(r->sdp, r->nip->i_no_addr, "directory entry of another type");
	return 0;
}

/* May the entry of @ip in @from go, and one for it appear in @to? */
static int may_move(struct gfs2_inode *from, struct gfs2_inode *to, struct gfs2_inode *ip,
		    bool entry_stays)
{
	int error = namei_may_remove(from, ip);

	if (error)
		return error;
	error = namei_may_add(to, gfs2_is_dir(ip) && from != to);
	/* No new entry: a full directory is no hindrance. */
	return error == -EFBIG && entry_stays ? 0 : error;
}

static int rename_permitted(struct rename_ctx *r)
{
	int error;

	error = may_move(r->odip, r->ndip, r->ip, r->nip || r->odip == r->ndip);
	if (error || !r->nip)
		return error;
	if (r->exchange)
		return may_move(r->ndip, r->odip, r->nip, true);
	error = namei_may_remove(r->ndip, r->nip);
	if (error)
		return error;
	if (gfs2_is_dir(r->ip) && !gfs2_is_dir(r->nip))
		return -ENOTDIR;
	if (!gfs2_is_dir(r->ip) && gfs2_is_dir(r->nip))
		return -EISDIR;
	return gfs2_is_dir(r->nip) ? namei_dir_empty(r->nip) : 0;
}

/* --- 5: change, in a transaction --- */

static unsigned inode_type(const struct gfs2_inode *ip)
{
	return ip->i_mode >> 12 & 15;
}

/* @ip has moved from @from to @to. */
static int update_moved(struct gfs2_inode *ip, const struct gfs2_inode *from,
			const struct gfs2_inode *to)
{
	struct gfs2_inum_host parent = { to->i_no_formal_ino, to->i_no_addr };
	struct gfs2_qname dotdot = gfs2_qname("..");

	if (gfs2_is_dir(ip) && from != to)
		return gfs2_dir_mvino(ip, &dotdot, &parent, DT_DIR);
	ip->i_ctime = current_time();
	return gfs2_dinode_log(ip);
}

/*
 * Blocks that every rename may log besides those of an insertion: entries' blocks and dinodes of
 * both directories, the moved inodes with the blocks of their "..".
 */
#define RENAME_BLOCKS 8

static int rename_to_free(struct rename_ctx *r)
{
	struct namei_room room;
	int error;

	error = namei_reserve(r->ndip, &r->nq, 0, false, &room);
	if (error)
		return error;
	error = gfs2_trans_begin(r->sdp->sd_log, room.trans + RENAME_BLOCKS, 0);
	if (error)
		goto out;
	/* Remove first: in one directory that may be the room the new name takes. */
	error = gfs2_dir_del(r->odip, &r->oq, gfs2_is_dir(r->ip));
	if (!error)
		error = gfs2_dir_add(r->ndip, &r->nq, r->ip, &room.ap);
	if (!error)
		error = update_moved(r->ip, r->odip, r->ndip);
	error = namei_trans_end(r->sdp, error, "rename");
out:
	namei_release(r->ndip, &room);
	return error;
}

/* The target's entry is pointed at the source: no room is needed. */
static int rename_over(struct rename_ctx *r)
{
	struct gfs2_inum_host to = { r->ip->i_no_formal_ino, r->ip->i_no_addr };
	struct gfs2_rgrp_list rl;
	int error;

	gfs2_rlist_init(&rl);
	error = gfs2_rlist_add(r->sdp, &rl, r->nip->i_no_addr);
	if (!error)
		error = gfs2_rlist_lock(r->sdp, &rl);
	if (error)
		goto out;
	error = gfs2_trans_begin(r->sdp->sd_log, RENAME_BLOCKS + gfs2_rlist_blocks(&rl, 1), 0);
	if (error)
		goto out;
	/* A directory that replaces a directory leaves ndip's link count alone. */
	error = gfs2_dir_mvino(r->ndip, &r->nq, &to, inode_type(r->ip));
	if (!error)
		error = gfs2_dir_del(r->odip, &r->oq, gfs2_is_dir(r->ip));
	if (!error)
		error = update_moved(r->ip, r->odip, r->ndip);
	if (!error)
		error = namei_drop_link(r->nip);
	error = namei_trans_end(r->sdp, error, "rename");
out:
	gfs2_rlist_free(&rl);
	return error;
}

static int rename_exchange(struct rename_ctx *r)
{
	struct gfs2_inum_host o = { r->ip->i_no_formal_ino, r->ip->i_no_addr };
	struct gfs2_inum_host n = { r->nip->i_no_formal_ino, r->nip->i_no_addr };
	int shift = (int)gfs2_is_dir(r->ip) - (int)gfs2_is_dir(r->nip), error;

	error = gfs2_trans_begin(r->sdp->sd_log, RENAME_BLOCKS, 0);
	if (error)
		return error;
	if (r->odip != r->ndip && !SEEDED_BUG("exchange-nlink")) {
		r->odip->i_nlink -= shift;
		r->ndip->i_nlink += shift;
	}
	error = gfs2_dir_mvino(r->odip, &r->oq, &n, inode_type(r->nip));
	if (!error)
		error = gfs2_dir_mvino(r->ndip, &r->nq, &o, inode_type(r->ip));
	if (!error)
		error = update_moved(r->ip, r->odip, r->ndip);
	if (!error)
		error = update_moved(r->nip, r->ndip, r->odip);
	return namei_trans_end(r->sdp, error, "exchange");
}

/* The ".." that update_moved() will change: it is there, and stays in memory. */
static int find_dotdot(struct gfs2_inode *ip, struct namei_held *held)
{
	struct gfs2_qname dotdot = gfs2_qname("..");
	int error = gfs2_dir_search(ip, &dotdot, NULL, NULL);

	if (error == -ENOENT)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, "directory without \"..\"");
	return error ? error : namei_hold(held, ip, &dotdot);
}

static int hold_names(struct rename_ctx *r, struct namei_held *held)
{
	int error = namei_hold(held, r->odip, &r->oq);

	if (!error)
		error = namei_hold(held, r->ndip, &r->nq);
	if (r->odip == r->ndip)
		return error;
	if (!error && gfs2_is_dir(r->ip))
		error = find_dotdot(r->ip, held);
	if (!error && r->exchange && gfs2_is_dir(r->nip))
		error = find_dotdot(r->nip, held);
	return error;
}

/* All inodes EX. */
static int rename_locked(struct rename_ctx *r)
{
	struct gfs2_inode *all[R_NR] = { r->odip, r->ndip, r->ip, r->nip };
	struct namei_held held = { .nr = 0 };
	struct gfs2_bh *dibh[R_NR];
	int error = rename_verify(r);

	if (!error)
		error = rename_check_types(r);
	if (!error)
		error = rename_permitted(r);
	if (!error)
		error = namei_read(all, R_NR, dibh);
	if (error)
		return error;
	error = hold_names(r, &held);
	if (!error && r->exchange)
		error = rename_exchange(r);
	else if (!error)
		error = r->nip ? rename_over(r) : rename_to_free(r);
	namei_held_end(&held);
	namei_read_end(dibh, R_NR);
	return error;
}

static int rename_once(struct rename_ctx *r)
{
	int error = rename_find(r);

	if (error)
		return error;
	if (r->nip && r->noreplace)
		return -EEXIST;
	if (r->ip == r->nip)	/* two links of one file: POSIX wants nothing done */
		return 0;
	if (r->odip != r->ndip) {
		error = rename_check_tree(r);
		if (error)
			return error;
	}
	error = lock_set(r);
	if (error)
		return error;
	error = rename_locked(r);
	unlock_set(r);
	return error;
}

int gfs2_rename(struct gfs2_inode *odip, const char *oname, struct gfs2_inode *ndip,
		const char *nname, unsigned flags)
{
	struct rename_ctx r = {
		.sdp = odip->i_sbd,
		.odip = odip,
		.ndip = ndip,
		.exchange = flags & RENAME_EXCHANGE,
		.noreplace = flags & RENAME_NOREPLACE,
	};
	struct gfs2_holder rename_gh;
	int error;

	if (flags & ~(RENAME_EXCHANGE | RENAME_NOREPLACE) || (r.exchange && r.noreplace))
		return -EINVAL;
	if (r.sdp->sd_ro)
		return -EROFS;
	error = namei_qname(oname, true, &r.oq);
	if (!error)
		error = namei_qname(nname, true, &r.nq);
	if (error)
		return error;
	do {
		r.ip = r.nip = NULL;
		if (odip != ndip) {
			error = gfs2_glock_nq_init(r.sdp->sd_rename_gl, LM_ST_EXCLUSIVE, 0,
						   &rename_gh);
			if (error)
				return error;
		}
		error = rename_once(&r);
		if (odip != ndip)
			gfs2_glock_dq_uninit(&rename_gh);
		if (r.ip)
			gfs2_inode_put(r.ip);
		if (r.nip)
			gfs2_inode_put(r.nip);
	} while (error == -EAGAIN);
	return error;
}
