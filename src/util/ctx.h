/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who is asking: the FUSE request that the current thread works for (or the daemon itself).
 * Glock holders take their owner from it, events their pid and request number, creation its ids.
 */
#ifndef GFS2FUSE_CTX_H
#define GFS2FUSE_CTX_H

#include <stdint.h>
#include <sys/types.h>

struct gfs2_ctx {
	uint64_t req;	/* request number, unique per mount; 0: the daemon's own work */
	pid_t pid;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	uint32_t flags;	/* of the request's own kind, where libfuse does not hand them on (fuse/proto.c) */
};

/* The current thread's context, never NULL. */
struct gfs2_ctx *current_ctx(void);

#endif
