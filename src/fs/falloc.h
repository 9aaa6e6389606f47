/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fallocate and lseek's SEEK_DATA and SEEK_HOLE (falloc.c).
 */
#ifndef GFS2FUSE_FALLOC_H
#define GFS2FUSE_FALLOC_H

#include "fs/file.h"

/*
 * Takes EX and transactions; durable at return with @sync and for files with that flag.  @mode: 0 or FALLOC_FL_KEEP_SIZE: every hole in the range becomes blocks of
 * zeros; FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE: whole blocks are freed, the rest is zeroed.
 * -EOPNOTSUPP for every other mode and for files with journaled data, as gfs2; -EPERM (immutable,
 * append-only), -ENOSPC, -EFBIG, -EINVAL, -EISDIR, -ENODEV, -EROFS, -EIO.
 */
int gfs2_fallocate(struct gfs2_inode *ip, int mode, uint64_t offset, uint64_t len, bool sync);

/*
 * Takes SH.  The first byte at or after @offset that is data (@data) or in a hole; the end of the file is a hole.  Allocated
 * blocks are data, preallocated ones too.  -ENXIO: @offset is behind the end, or no data follow.
 */
int64_t gfs2_seek(struct gfs2_inode *ip, uint64_t offset, bool data);

#endif
