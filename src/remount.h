/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mount -o remount: the mount helper changes the flags of the kernel's mount (ro, rw, nosuid, nodev, noexec, sync, dirsync
 * and their opposites); the daemon goes on as it is.
 *
 * Guarantees: after a remount to ro nothing of the mount can be changed, and all that was changed before is durable.  A
 * mount whose daemon was started with ro stays so: rw is refused.
 */
#ifndef GFS2FUSE_REMOUNT_H
#define GFS2FUSE_REMOUNT_H

#include "options.h"

/* 0, or -errno after a message on stderr. */
int remount(const struct options *o);

#endif
