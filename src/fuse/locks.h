/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flock(2) and fcntl(2) locks that other nodes' processes see.  Only where there are other nodes: alone, the kernel keeps them itself
 * and never asks.
 *
 * Guarantees
 *  1. Two locks that conflict are never held at the same time, on whatever nodes.
 *  2. A lock that was given up can be had by a try on another node when the call that gave it up has returned.
 *  3. Who waits can be interrupted, and takes no thread of ours.
 *  4. Locks end with the open file (flock, OFD locks), with any close by the process (fcntl), with the death of the process, and with the
 *     death of the node once its journal has been replayed.
 */
#ifndef GFS2FUSE_LOCKS_H
#define GFS2FUSE_LOCKS_H

#include "fuse/server.h"

struct file_locks;

struct file_locks *locks_create(struct gfs2_sbd *sdp);
/* The mount ends: whoever waits gets an error, and who comes need not wait. */
void locks_stop(struct file_locks *fl);
/* No request is handled any more. */
void locks_destroy(struct file_locks *fl);

void op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op);
void op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep);

/* A process has closed a descriptor of that inode: its fcntl locks go, whatever descriptor they were set through. */
void locks_flush(struct file_locks *fl, uint64_t no_addr, uint64_t owner);
/* The open file goes. */
void locks_release(struct file_locks *fl, const struct gfs2_file *f);

#endif
