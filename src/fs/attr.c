/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attributes: stat, and setting mode, owner, times and size (kernel: inode.c:gfs2_getattr,
 * gfs2_setattr; fs/attr.c).
 *
 * Permission to change was checked by the kernel (default_permissions).  What it cannot know of,
 * the immutable and append-only flags, is checked here.
 */
#include <linux/fuse.h>
#include <sys/sysmacros.h>
#include "fs/bmap.h"
#include "fs/file.h"
#include "util/util.h"

#define FATTR_TIMES (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)

void gfs2_getattr(struct gfs2_inode *ip, struct stat *st)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;

	gfs2_assert_held(ip->i_gl, false);
	memset(st, 0, sizeof(*st));
	st->st_ino = ip->i_no_addr;
	st->st_mode = ip->i_mode;
	st->st_nlink = ip->i_nlink;
	st->st_uid = ip->i_uid;
	st->st_gid = ip->i_gid;
	st->st_size = (off_t)ip->i_size;
	st->st_blksize = sdp->sd_bsize;
	st->st_blocks = (blkcnt_t)(ip->i_blocks << (sdp->sd_bsize_shift - 9));
	if (S_ISCHR(ip->i_mode) || S_ISBLK(ip->i_mode))
		st->st_rdev = makedev(ip->i_major, ip->i_minor);
	st->st_atim = ip->i_atime;
	gfs2_pending_mtime_peek(ip, &st->st_mtim, &st->st_ctim);
}

/* kernel: should_remove_suid() */
bool gfs2_kill_priv(struct gfs2_inode *ip)
{
	uint32_t kill = ip->i_mode & S_ISUID;

	gfs2_assert_held(ip->i_gl, true);
	if (!S_ISREG(ip->i_mode))
		return false;
	if ((ip->i_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
		kill |= S_ISGID;
	ip->i_mode &= ~kill;
	return kill;
}

/* kernel: may_setattr() */
static int may_change(const struct gfs2_inode *ip, int valid)
{
	uint32_t flags = ip->i_diskflags;

	if (valid & (FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_ATIME | FATTR_MTIME)) {
		bool explicit_times = (valid & FATTR_ATIME && !(valid & FATTR_ATIME_NOW)) ||
				      (valid & FATTR_MTIME && !(valid & FATTR_MTIME_NOW));

		if (explicit_times || valid & (FATTR_MODE | FATTR_UID | FATTR_GID)) {
			if (flags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY))
				return -EPERM;
		}
	}
	if (valid & FATTR_TIMES && flags & GFS2_DIF_IMMUTABLE)
		return -EPERM;
	return 0;
}

static void apply_attr(struct gfs2_inode *ip, const struct stat *attr, int valid)
{
	struct timespec now = current_time();

	gfs2_pending_mtime_fold(ip);
	if (valid & FATTR_UID)
		ip->i_uid = attr->st_uid;
	if (valid & FATTR_GID)
		ip->i_gid = attr->st_gid;
	if (valid & FATTR_MODE)
		ip->i_mode = (ip->i_mode & S_IFMT) | (attr->st_mode & 07777);
	else if (valid & (FATTR_UID | FATTR_GID) && !S_ISDIR(ip->i_mode))
		gfs2_kill_priv(ip);
	if (valid & FATTR_ATIME_NOW)
		ip->i_atime = now;
	else if (valid & FATTR_ATIME)
		ip->i_atime = attr->st_atim;
	if (valid & FATTR_MTIME_NOW)
		ip->i_mtime = now;
	else if (valid & FATTR_MTIME)
		ip->i_mtime = attr->st_mtim;
	ip->i_ctime = valid & FATTR_CTIME ? attr->st_ctim : now;
}

int gfs2_setattr(struct gfs2_inode *ip, const struct stat *attr, int valid)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_holder gh;
	int error;

	if (sdp->sd_ro)
		return -EROFS;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	error = may_change(ip, valid);
	if (error)
		goto out;
	error = gfs2_trans_begin(sdp->sd_log, 1, 0);
	if (error)
		goto out;
	apply_attr(ip, attr, valid);
	error = gfs2_dinode_log(ip);
	gfs2_trans_end(sdp->sd_log);
out:
	gfs2_glock_dq_uninit(&gh);
	return error;
}

int gfs2_setattr_size(struct gfs2_inode *ip, uint64_t size)
{
	struct gfs2_holder gh;
	int error;

	if (ip->i_sbd->sd_ro)
		return -EROFS;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	if (S_ISDIR(ip->i_mode))
		error = -EISDIR;
	else if (!S_ISREG(ip->i_mode))
		error = -EINVAL;
	else if (ip->i_diskflags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY))
		error = -EPERM;
	else
		error = gfs2_truncate(ip, size);
	gfs2_glock_dq_uninit(&gh);
	return error;
}
