/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dropping what the kernel's FUSE client has cached of a file, from inside a lock transition (reference gfs2-locking-dio.md 6.7).
 *
 * The kernel, when told to drop pages, waits for those that a READ has locked.  So it is told by threads that do nothing else and hold
 * nothing: whoever wants pages dropped leaves a job and may look after the READs meanwhile (inode_go_drain()).
 *
 * The object lives as long as the volume is mounted, the threads while there is somebody to be told: between attach and detach.
 * Otherwise jobs are done at once.
 *
 * Locking: everything in struct gfs2_kdrops is guarded by `lock`, a leaf (RANK_KDROP).
 */
#ifndef GFS2FUSE_KDROP_H
#define GFS2FUSE_KDROP_H

#include "fs/super.h"

struct gfs2_range {
	uint64_t start, end;	/* bytes; end UINT64_MAX: everything behind start */
};

struct gfs2_kdrop {
	uint64_t no_addr;
	const struct gfs2_range *ranges;
	unsigned nr;
	/* private */
	struct list_head list;
	bool done;
};

int gfs2_kdrops_create(struct gfs2_sbd *sdp);
void gfs2_kdrops_destroy(struct gfs2_sbd *sdp);

/*
 * @fn tells the kernel; it may sleep until the READs that are in its way have been answered.  detach waits until none is told any more;
 * READs must still be served until then.
 */
int gfs2_kdrops_attach(struct gfs2_sbd *sdp, void (*fn)(void *priv, uint64_t no_addr, const struct gfs2_range *r),
		       void *priv);
void gfs2_kdrops_detach(struct gfs2_sbd *sdp);

/* Never sleeps.  @d and its ranges stay where they are until gfs2_kdrop_wait() has returned true. */
void gfs2_kdrop_start(struct gfs2_sbd *sdp, struct gfs2_kdrop *d);
/* Until @deadline_ns (now_ns(); UINT64_MAX: for ever). False: it is not done yet. */
bool gfs2_kdrop_wait(struct gfs2_sbd *sdp, struct gfs2_kdrop *d, uint64_t deadline_ns);

#endif
