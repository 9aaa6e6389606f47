/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deleted inodes are freed a moment later, many in one transaction; see evict_later.c.
 */
#ifndef GFS2FUSE_EVICT_LATER_H
#define GFS2FUSE_EVICT_LATER_H

#include "fs/inode.h"

/* The thread; not for nodes of a cluster nor read-only mounts.  stop: everything that was given it is freed, later ones are refused. */
int gfs2_evict_later_start(struct gfs2_sbd *sdp);
void gfs2_evict_later_stop(struct gfs2_sbd *sdp);
/*
 * Take over @ip, which is dead (icache.c) and to be deleted.  False: the caller has to do it, because there is no thread or the inode is
 * a matter of its own.
 */
bool gfs2_evict_later(struct gfs2_inode *ip);
/* Do not wait for more to come. */
void gfs2_evict_hurry(struct gfs2_sbd *sdp);
/* What was taken over before is freed when this returns.  No lock held. */
void gfs2_evict_wait(struct gfs2_sbd *sdp);

/* evict.c: EX on @ip's lock and IOPEN for whoever deletes it.  1: both are held; 0: left alone, none is; -errno. */
int gfs2_evict_begin(struct gfs2_inode *ip, struct gfs2_holder *gh, struct gfs2_holder *iopen_gh);
void gfs2_evict_end(struct gfs2_holder *gh, struct gfs2_holder *iopen_gh);
/* icache.c: that is what became of it (gfs2_evict_unlinked()); @ip is gone afterwards. */
void gfs2_inode_evicted(struct gfs2_inode *ip, int result);

#endif
