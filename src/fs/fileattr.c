/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inode flags (kernel: file.c:gfs2_fileattr_get, gfs2_fileattr_set, do_gfs2_set_flags;
 * fs/ioctl.c:fileattr_fill_*; reference gfs2-ondisk.md 4.4).
 *
 * A file whose data begin or cease to be journaled has none of them under way when the flag changes: plain
 * data are on the device and forgotten; journaled data are in place and their images in the log are
 * revoked, so that no replay brings them back over what is written outside of the log later.
 *
 * Different from the kernel: FS_INDEX_FL of a hashed directory, which chattr hands back as it got it, is
 * accepted as long as it does not change (the kernel answers EINVAL, so that such a directory cannot be
 * made immutable).
 */
#include "fs/file.h"
#include "fs/fileattr.h"
#include "util/util.h"

static const struct {
	uint32_t fs, gfs2;
} table[] = {
	{ FS_SYNC_FL, GFS2_DIF_SYNC },
	{ FS_IMMUTABLE_FL, GFS2_DIF_IMMUTABLE },
	{ FS_APPEND_FL, GFS2_DIF_APPENDONLY },
	{ FS_NOATIME_FL, GFS2_DIF_NOATIME },
	{ FS_INDEX_FL, GFS2_DIF_EXHASH },
	{ FS_TOPDIR_FL, GFS2_DIF_TOPDIR },
	{ FS_JOURNAL_DATA_FL, GFS2_DIF_JDATA | GFS2_DIF_INHERIT_JDATA },
};

#define SETTABLE_FILE \
	(GFS2_DIF_SYNC | GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY | GFS2_DIF_NOATIME | GFS2_DIF_JDATA)
#define SETTABLE_DIR                                                                      \
	(GFS2_DIF_SYNC | GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY | GFS2_DIF_NOATIME | \
	 GFS2_DIF_TOPDIR | GFS2_DIF_INHERIT_JDATA)

static const struct {
	uint32_t fs, x;
} xtable[] = {
	{ FS_SYNC_FL, FS_XFLAG_SYNC },
	{ FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE },
	{ FS_APPEND_FL, FS_XFLAG_APPEND },
	{ FS_NODUMP_FL, FS_XFLAG_NODUMP },
	{ FS_NOATIME_FL, FS_XFLAG_NOATIME },
	{ FS_DAX_FL, FS_XFLAG_DAX },
	{ FS_PROJINHERIT_FL, FS_XFLAG_PROJINHERIT },
};

uint32_t gfs2_flags_to_xflags(uint32_t flags)
{
	uint32_t xflags = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(xtable); i++)
		if (flags & xtable[i].fs)
			xflags |= xtable[i].x;
	return xflags;
}

int gfs2_fsxattr_to_flags(const struct fsxattr *fa, uint32_t now, uint32_t *flags)
{
	uint32_t xflags = fa->fsx_xflags;

	*flags = now;
	for (unsigned i = 0; i < ARRAY_SIZE(xtable); i++) {
		*flags &= ~xtable[i].fs;
		if (xflags & xtable[i].x)
			*flags |= xtable[i].fs;
		xflags &= ~xtable[i].x;
	}
	return xflags || fa->fsx_extsize || fa->fsx_projid || fa->fsx_cowextsize ? -EOPNOTSUPP : 0;
}

static bool has_flags(const struct gfs2_inode *ip)
{
	return S_ISREG(ip->i_mode) || S_ISDIR(ip->i_mode);
}

int gfs2_fileattr_get(struct gfs2_inode *ip, uint32_t *flags)
{
	struct gfs2_holder gh;
	uint32_t have;
	int error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, LM_FLAG_ANY, &gh);

	if (error)
		return error;
	*flags = 0;
	/* Every directory has JDATA: what users can see is what its new files will be. */
	have = ip->i_diskflags &
	       ~(uint32_t)(S_ISDIR(ip->i_mode) ? GFS2_DIF_JDATA : GFS2_DIF_INHERIT_JDATA);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (have & table[i].gfs2)
			*flags |= table[i].fs;
	if (!has_flags(ip))
		error = -ENOTTY;
	gfs2_glock_dq_uninit(&gh);
	return error;
}

/* What @flags make of the inode's own; -EINVAL if that cannot be. */
static int new_diskflags(const struct gfs2_inode *ip, uint32_t flags, uint32_t *diskflags)
{
	uint32_t want = 0, settable = S_ISDIR(ip->i_mode) ? SETTABLE_DIR : SETTABLE_FILE;

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		if (!(flags & table[i].fs))
			continue;
		flags &= ~table[i].fs;
		/* The two faces of FS_JOURNAL_DATA_FL: each type has one. */
		want |= table[i].fs == FS_JOURNAL_DATA_FL ? table[i].gfs2 & settable : table[i].gfs2;
	}
	if (want & GFS2_DIF_EXHASH & ip->i_diskflags)
		want &= ~(uint32_t)GFS2_DIF_EXHASH;
	if (flags || want & ~settable)
		return -EINVAL;
	*diskflags = (ip->i_diskflags & ~settable) | want;
	return 0;
}

/* EX, no transaction: no data of @ip are under way, in memory or in the log. */
static int settle_data(struct gfs2_inode *ip)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	int error = gfs2_file_flush_inval(ip);

	if (error)
		return error;
	gfs2_ordered_del(log, &ip->i_data);
	if (!gfs2_is_jdata(ip))
		return 0;
	error = gfs2_ail_empty_gl(log, ip->i_gl, true);
	/* The dinode goes with them and is read again. */
	if (!error)
		mapping_invalidate(&ip->i_gl->gl_mapping);
	return error;
}

/* EX held. */
static int set_flags(struct gfs2_inode *ip, uint32_t flags)
{
	struct gfs2_bh *dibh;
	uint32_t diskflags = 0;
	int error = has_flags(ip) ? new_diskflags(ip, flags, &diskflags) : -ENOTTY;

	if (!error)
		error = gfs2_caller_owns(ip);
	if (error || diskflags == ip->i_diskflags)
		return error;
	if (S_ISREG(ip->i_mode) && (diskflags ^ ip->i_diskflags) & GFS2_DIF_JDATA)
		error = settle_data(ip);
	if (!error)
		error = gfs2_dinode_trans_begin(ip, 1, &dibh);
	if (error)
		return error;
	gfs2_pending_mtime_fold(ip);
	ip->i_diskflags = diskflags;
	ip->i_ctime = current_time();
	error = gfs2_dinode_log(ip);
	gfs2_dinode_trans_end(ip, dibh);
	return error;
}

int gfs2_fileattr_set(struct gfs2_inode *ip, uint32_t flags)
{
	struct gfs2_holder gh;
	int error;

	if (ip->i_sbd->sd_ro)
		return -EROFS;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	error = set_flags(ip, flags);
	gfs2_glock_dq_uninit(&gh);
	return error;
}
