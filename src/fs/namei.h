/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names: lookup, create, link, unlink, rename (kernel: inode.c; reference gfs2-ondisk.md 4.1, 5.7,
 * 8.13; lock order: gfs2-locking-dio.md 4.1).  Each takes its glocks itself; the caller holds none.
 * Inodes returned carry one reference. Permission checks are the kernel's (default_permissions),
 * done before the request comes here. Each operation is one transaction.
 */
#ifndef GFS2FUSE_NAMEI_H
#define GFS2FUSE_NAMEI_H

#include "fs/dir.h"

/* -ENOENT, -ENAMETOOLONG (> 255), -ENOTDIR. @st: attributes, read under the child's SH. */
int gfs2_lookup(struct gfs2_inode *dip, const char *name, struct gfs2_inode **out, struct stat *st);
/*
 * The inode at an address that somebody has kept (a file handle; kernel: gfs2_lookup_by_inum): -ESTALE if there is none with a name
 * (any more), or one of the file system's own.  Whether it is the same as then its formal number tells.  Not with other nodes: what
 * is their own they have locked for good.
 */
int gfs2_lookup_by_addr(struct gfs2_sbd *sdp, uint64_t no_addr, struct gfs2_inode **out, struct stat *st);

struct gfs2_create_args {
	mode_t mode;		/* with type */
	mode_t umask;		/* taken off unless the directory has a default ACL */
	uid_t uid;
	gid_t gid;
	uint32_t major, minor;	/* device nodes */
	const char *symlink;	/* target, for S_IFLNK */
	bool excl;		/* regular files: -EEXIST instead of -ESTALE if there is something */
};
/*
 * Any type.  -EEXIST, -ENAMETOOLONG, -ENOSPC, -EMLINK ...  What exists is never returned: that a caller may open it has to be asked first
 * (-ESTALE, see there).
 */
int gfs2_create(struct gfs2_inode *dip, const char *name, const struct gfs2_create_args *a,
		struct gfs2_inode **out, struct stat *st);
int gfs2_link(struct gfs2_inode *ip, struct gfs2_inode *newdip, const char *name, struct stat *st);
int gfs2_unlink(struct gfs2_inode *dip, const char *name);	/* -EISDIR for directories */
int gfs2_rmdir(struct gfs2_inode *dip, const char *name);	/* -ENOTEMPTY, -ENOTDIR */
/* @flags: 0, RENAME_NOREPLACE, RENAME_EXCHANGE; else -EINVAL. */
int gfs2_rename(struct gfs2_inode *odip, const char *oname, struct gfs2_inode *ndip,
		const char *nname, unsigned flags);
/* Target into @buf (size @len, terminated). */
int gfs2_readlink(struct gfs2_inode *ip, char *buf, size_t len);

#endif
