/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who else on this machine uses the store?  The lock on the volume itself (flock, main.c) is seen by other
 * gfs2-fuse daemons that opened the same thing.  One volume can be reached as two things, though: an image file and a loop
 * device over it; and the kernel, which mounts block devices, takes no flock.
 *
 * What a claim does
 *  - a block device: opened O_EXCL, so that the kernel, mkfs or fsck do not use it at the same time
 *    (if @shared only for a moment, to see that nobody does: other daemons of this machine are to use it, too);
 *  - a loop device: flock on the file behind it, as the daemon that mounts that file would take it;
 *  - a file: refused if a loop device over it is in use.  (One that is set up or mounted by the kernel later cannot be
 *    prevented.)
 *  - with @shared, the way to the file: all who share a volume have opened it itself, or the same loop device over it.
 */
#ifndef GFS2FUSE_CLAIM_H
#define GFS2FUSE_CLAIM_H

#include <stdbool.h>

struct claim {
	int excl_fd, backing_fd;	/* -1: not needed */
};

#define CLAIM_NONE { -1, -1 }

/*
 * Claim what @fd (opened from @path) is, waiting up to @patience_ns for one who is about to leave.  -EBUSY with a message when
 * it is in use.  What cannot be found out (no /sys) is no reason to fail.
 */
int claim_take(struct claim *c, int fd, const char *path, bool shared, unsigned long long patience_ns);
/* Mounted with a lock protocol by which others may use it, too: as if taken with @shared. */
void claim_share(struct claim *c);
void claim_drop(struct claim *c);

#endif
