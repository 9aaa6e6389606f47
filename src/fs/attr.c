/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attributes: stat, and setting mode, owner, times and size (kernel: inode.c:gfs2_getattr,
 * gfs2_setattr; fs/attr.c).
 *
 * Permission to change was checked by the kernel (default_permissions).  What it cannot know of is
 * checked here: the immutable and append-only flags, and an owner that another node has changed.
 */
#include <linux/fuse.h>
#include <sys/sysmacros.h>
#include "fs/acl.h"
#include "fs/bmap.h"
#include "fs/file.h"
#include "fs/namei_i.h"
#include "util/ctx.h"
#include "util/util.h"

#define FATTR_TIMES (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)

int gfs2_inode_nq_any(struct gfs2_inode *ip, struct gfs2_holder *gh)
{
	/* A shared holder does not go together with deferred ones, but their state is as good for this. */
	static const enum lm_state fast[] = { LM_ST_SHARED, LM_ST_DEFERRED };

	for (unsigned i = 0; i < ARRAY_SIZE(fast); i++) {
		gfs2_holder_init(ip->i_gl, fast[i], LM_FLAG_ANY | GL_BORROWED, gh, __func__);
		if (gfs2_glock_nq_fast(gh))
			return 0;
		gfs2_holder_uninit(gh);
	}
	return gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, LM_FLAG_ANY, gh);
}

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

/* Bits that chown and writing take away; kernel: should_remove_suid(). */
static uint32_t kill_bits(uint32_t mode)
{
	uint32_t kill = mode & S_ISUID;

	if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
		kill |= S_ISGID;
	return kill;
}

bool gfs2_kill_priv(struct gfs2_inode *ip)
{
	uint32_t kill = S_ISREG(ip->i_mode) ? kill_bits(ip->i_mode) : 0;

	gfs2_assert_held(ip->i_gl, true);
	ip->i_mode &= ~kill;
	return kill;
}

bool gfs2_has_privs(struct gfs2_inode *ip, bool suidgid, bool may_block)
{
	gfs2_assert_held(ip->i_gl, false);
	if (!S_ISREG(ip->i_mode))
		return false;
	if (suidgid && kill_bits(ip->i_mode))
		return true;
	if (!ip->i_eattr)
		return false;
	/* relaxed: see gfs2_has_capability() */
	if (!may_block)
		return atomic_load_explicit(&ip->i_capability, memory_order_relaxed) != CAPS_NONE;
	return gfs2_has_capability(ip);
}

int gfs2_remove_privs_locked(struct gfs2_inode *ip, bool suidgid)
{
	struct gfs2_bh *dibh;
	int error = 0;

	if (!gfs2_has_privs(ip, suidgid, true))
		return 0;
	if (ip->i_eattr && gfs2_has_capability(ip))
		error = gfs2_remove_capability(ip);
	if (error || !suidgid || !kill_bits(ip->i_mode))
		return error ? error : 1;
	/* Its mode cannot change, so who would have to change it cannot write. */
	if (ip->i_diskflags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY))
		return -EPERM;
	error = gfs2_dinode_trans_begin(ip, 1, &dibh);
	if (error)
		return error;
	gfs2_pending_mtime_fold(ip);
	gfs2_kill_priv(ip);
	ip->i_ctime = current_time();
	error = gfs2_dinode_log(ip);
	gfs2_dinode_trans_end(ip, dibh);
	return error ? error : 1;
}

int gfs2_remove_privs(struct gfs2_inode *ip, bool suidgid)
{
	struct gfs2_holder gh;
	bool some;
	int error = gfs2_inode_nq_any(ip, &gh);

	if (error)
		return error;
	some = gfs2_has_privs(ip, suidgid, true);
	gfs2_glock_dq_uninit(&gh);
	if (!some)
		return 0;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	error = gfs2_remove_privs_locked(ip, suidgid);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

/* Nothing to set: chown(-1, -1), or what the kernel sends before a write, for which only the bits that these take away count. */
static bool takes_rights(const struct gfs2_inode *ip, int valid)
{
	return !valid && !S_ISDIR(ip->i_mode) && kill_bits(ip->i_mode);
}

int gfs2_caller_owns(const struct gfs2_inode *ip)
{
	const struct gfs2_ctx *ctx = current_ctx();

	gfs2_assert_held(ip->i_gl, true);
	if (!atomic_load_explicit(&ip->i_owner_moved, memory_order_relaxed))
		return 0;
	return !ctx->uid || ctx->uid == ip->i_uid ? 0 : -EPERM;
}

bool gfs2_may_setgid(const struct gfs2_inode *ip)
{
	const struct gfs2_ctx *ctx = current_ctx();

	return !atomic_load_explicit(&ip->i_owner_moved, memory_order_relaxed) || !ctx->uid || ctx->gid == ip->i_gid;
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
			/* Other requests come from who need not be the owner, or on behalf of a write. */
			if (gfs2_caller_owns(ip))
				return -EPERM;
		}
	}
	if (valid & FATTR_TIMES && flags & GFS2_DIF_IMMUTABLE)
		return -EPERM;
	/* The mode changes; kernel: gfs2_setattr(), which looks once more when notify_change() has added ATTR_MODE */
	if (takes_rights(ip, valid) && flags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY))
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
		ip->i_mode = (ip->i_mode & S_IFMT) | (attr->st_mode & (gfs2_may_setgid(ip) ? 07777 : 05777));
	else if ((valid & (FATTR_UID | FATTR_GID) || !valid) && !S_ISDIR(ip->i_mode))
		ip->i_mode &= ~kill_bits(ip->i_mode);
	if (valid & FATTR_ATIME_NOW)
		ip->i_atime = now;
	else if (valid & FATTR_ATIME)
		ip->i_atime = attr->st_atim;
	if (valid & FATTR_MTIME_NOW)
		ip->i_mtime = now;
	else if (valid & FATTR_MTIME)
		ip->i_mtime = attr->st_mtim;
	ip->i_ctime = valid & FATTR_CTIME ? attr->st_ctim : now;
	if (valid & FATTR_MTIME && !(valid & FATTR_MTIME_NOW))
		gfs2_utime_note(ip, &now);
}

/* EX held. */
static int setattr_locked(struct gfs2_inode *ip, const struct stat *attr, int valid)
{
	const struct gfs2_ctx *ctx = current_ctx();
	struct gfs2_sbd *sdp = ip->i_sbd;
	char acl[ACL_MAX_SIZE];
	struct gfs2_bh *dibh = NULL;
	struct ea_change c;
	int error = may_change(ip, valid), has_acl = 0;

	/*
	 * The kernel asks nobody whether a chown that names no owner may take rights away; to others than the owner it would have
	 * refused that.  Here it could as well be the request before a write by somebody who may write, and must not be refused:
	 * so nothing is done, and the write itself takes them.
	 */
	if (!error && takes_rights(ip, valid) && ctx->uid && ctx->uid != ip->i_uid)
		return 0;
	if (!error && valid & FATTR_MODE) {
		has_acl = gfs2_acl_chmod_begin(ip, attr->st_mode, &c, acl);
		if (has_acl < 0)
			error = has_acl;
	}
	if (error)
		return error;
	/* What cannot be read is an error of the call; in the transaction it would be the end of the mount. */
	error = gfs2_meta_inode_buffer(ip, &dibh);
	if (!error)
		error = gfs2_trans_begin(sdp->sd_log, 1 + (has_acl ? c.trans : 0), has_acl ? c.revokes : 0);
	if (!error) {
		apply_attr(ip, attr, valid);
		if (has_acl)
			error = ea_change_apply(&c);
		if (!error)
			error = gfs2_dinode_log(ip);
		error = namei_trans_end(sdp, error, "setattr");
	}
	buf_put(dibh);
	if (has_acl)
		ea_change_end(&c);
	return error;
}

int gfs2_setattr(struct gfs2_inode *ip, const struct stat *attr, int valid)
{
	struct gfs2_holder gh;
	int error;

	if (ip->i_sbd->sd_ro)
		return -EROFS;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	error = setattr_locked(ip, attr, valid);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

static int setattr_size(struct gfs2_inode *ip, uint64_t size, uint64_t before, uint64_t after)
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
	else if (after == UINT64_MAX)
		error = gfs2_truncate(ip, size);
	else if (ip->i_size <= after && ip->i_size > max_t(uint64_t, size, before))
		error = gfs2_truncate(ip, max_t(uint64_t, size, before));
	gfs2_glock_dq_uninit(&gh);
	return error;
}

int gfs2_setattr_size(struct gfs2_inode *ip, uint64_t size)
{
	return setattr_size(ip, size, 0, UINT64_MAX);
}

int gfs2_setattr_size_undo(struct gfs2_inode *ip, uint64_t size, uint64_t before, uint64_t after)
{
	return setattr_size(ip, size, before, after);
}
