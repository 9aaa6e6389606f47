/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inode flags as chattr and lsattr know them (FS_*_FL of <linux/fs.h>); fileattr.c.
 *
 * Who may change them (the owner; CAP_LINUX_IMMUTABLE for immutable and append-only) is checked by the kernel
 * before it sends the request.
 */
#ifndef GFS2FUSE_FILEATTR_H
#define GFS2FUSE_FILEATTR_H

#include <linux/fs.h>
#include "fs/inode.h"

/* Takes SH.  -ENOTTY: neither a regular file nor a directory. */
int gfs2_fileattr_get(struct gfs2_inode *ip, uint32_t *flags);
/*
 * Takes EX and a transaction.  Changing FS_JOURNAL_DATA_FL of a file first brings everything of it into place.
 * -EINVAL: a flag that gfs2 does not have or cannot change; -ENOTTY, -EROFS, -EIO.
 */
int gfs2_fileattr_set(struct gfs2_inode *ip, uint32_t flags);

/* FS_IOC_FSGETXATTR's view of the same, which has fewer. */
uint32_t gfs2_flags_to_xflags(uint32_t flags);
/* As FS_IOC_FSSETXATTR wants it: the new flags, given those of now.  -EOPNOTSUPP for what only others have. */
int gfs2_fsxattr_to_flags(const struct fsxattr *fa, uint32_t now, uint32_t *flags);

#endif
