/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unlink and rmdir (kernel: inode.c:gfs2_unlink; reference gfs2-ondisk.md 3.6, 5.7, 8.13).
 *
 * The entry goes, the link count drops and, with the last link, the bitmap says UNLINKED: one
 * transaction.  The blocks are freed when the last reference to the inode is dropped
 * (gfs2_inode_put), which may be right at the end of this call. Locks: parent EX -> child EX ->
 * rgrp EX of the child's dinode.
 */
#include "fs/namei_i.h"

int namei_drop_link(struct gfs2_inode *ip)
{
	int error;

	if (!ip->i_nlink)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, "named inode without links");
	ip->i_ctime = current_time();
	if (gfs2_is_dir(ip)) {
		ip->i_nlink = 0;
		ip->i_entries = 0;
	} else {
		ip->i_nlink--;
	}
	error = gfs2_dinode_log(ip);
	if (!error && !ip->i_nlink)
		error = gfs2_unlink_di(ip->i_sbd, ip->i_no_addr);
	if (!error && !ip->i_nlink)
		gfs2_inode_doom(ip);
	return error;
}

/* @dip and @ip held EX. */
static int unlink_locked(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_inode *ip)
{
	struct gfs2_inode *both[] = { dip, ip };
	struct namei_held held = { .nr = 0 };
	struct gfs2_sbd *sdp = dip->i_sbd;
	struct gfs2_rgrp_list rl;
	struct gfs2_bh *dibh[2];
	int error;

	error = namei_read(both, 2, dibh);
	if (error)
		return error;
	gfs2_rlist_init(&rl);
	error = namei_hold(&held, dip, q);
	if (!error && (gfs2_is_dir(ip) || ip->i_nlink == 1)) {
		error = gfs2_rlist_add(sdp, &rl, ip->i_no_addr);
		if (!error)
			error = gfs2_rlist_lock(sdp, &rl);
	}
	if (error)
		goto out;
	/* the entry's block, both dinodes */
	error = gfs2_trans_begin(sdp->sd_log, 3 + gfs2_rlist_blocks(&rl, 1), 0);
	if (error)
		goto out;
	error = gfs2_dir_del(dip, q, gfs2_is_dir(ip));
	if (!error)
		error = namei_drop_link(ip);
	error = namei_trans_end(sdp, error, "unlink");
out:
	gfs2_rlist_free(&rl);
	namei_held_end(&held);
	namei_read_end(dibh, 2);
	return error;
}

static int unlink_common(struct gfs2_inode *dip, const char *name, bool dir)
{
	struct gfs2_inode *ip = NULL;
	struct gfs2_holder dgh, gh;
	struct gfs2_qname q;
	int error;

	if (dip->i_sbd->sd_ro)
		return -EROFS;
	error = namei_qname(name, true, &q);
	if (error)
		return error;
	error = gfs2_glock_nq_init(dip->i_gl, LM_ST_EXCLUSIVE, 0, &dgh);
	if (error)
		return error;
	error = namei_find(dip, &q, &ip, NULL);
	if (!error)
		error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (!error) {
		if (dir && !gfs2_is_dir(ip))
			error = -ENOTDIR;
		else if (!dir && gfs2_is_dir(ip))
			error = -EISDIR;
		else
			error = namei_may_remove(dip, ip);
		if (!error && dir)
			error = namei_dir_empty(ip);
		if (!error)
			error = unlink_locked(dip, &q, ip);
		gfs2_glock_dq_uninit(&gh);
	}
	gfs2_glock_dq_uninit(&dgh);
	if (ip)
		gfs2_inode_put(ip);
	return error;
}

int gfs2_unlink(struct gfs2_inode *dip, const char *name)
{
	return unlink_common(dip, name, false);
}

int gfs2_rmdir(struct gfs2_inode *dip, const char *name)
{
	/* What rmdir(2) answers for these. */
	if (!strcmp(name, "."))
		return -EINVAL;
	if (!strcmp(name, ".."))
		return -ENOTEMPTY;
	return unlink_common(dip, name, true);
}
