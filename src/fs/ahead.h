/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading ahead of the kernel: a file on a device that is read in sequence, through the kernel's page cache.
 *
 * The kernel asks for two windows at most, of which one is being copied, and our data bypass the page cache of the store; so the device
 * stands still whenever the reader has the processor.  Here the next windows of such a file are read into memory of our own before they
 * are asked for, and the READ that comes for them is answered from there, once: nothing is kept for who reads it again.
 *
 * Nothing of it may ever be stale.  What the device has of a file changes only while somebody has a holder in EX or DF of the inode's glock, or
 * while the lock is not ours; the glock counts that (gfs2_glock_tenure()).  A window is mapped to blocks under a holder in SH, if none of these has
 * a buffer, which may be newer than the device; it notes the count, and is read without any lock.  A READ takes it under its own holder in SH, if the count is still the
 * same; then no holder in EX or DF has been granted since, nor is there one now.  That covers all writers alike: whoever may change a file's data, its
 * size or its blocks must have such a holder (fs/inode.h), and blocks that have gone to another file went from this one under EX.
 * So nobody who writes has to know of windows.
 *
 * A window that fails is forgotten: the READ does its own I/O and has its own error.
 *
 * Only where nothing else reads ahead and no other node can ask for the lock: not for a store in memory, nor one without O_DIRECT, nor with
 * lock_dlm and lock_local (their READs under GL_FILL would do, but the kernel does not read ahead there).
 *
 * Locking: everything is guarded by the lock of struct gfs2_ahead (RANK_AHEAD), but a stream's two guesses.
 */
#ifndef GFS2FUSE_AHEAD_H
#define GFS2FUSE_AHEAD_H

#include <sys/uio.h>
#include "fs/inode.h"

struct gfs2_window;

/* Of an open file. */
struct gfs2_stream {
	/* Where the next READ should begin; bytes read in sequence so far, less what was not.  relaxed: guesses */
	atomic_uint_least64_t s_next, s_run;
	uint64_t s_end;			/* so far it is read ahead, or about to be */
	uint64_t s_used_ns;
	unsigned s_nr, s_depth;		/* windows; how many it has proved worth of */
	struct list_head s_windows;
	struct list_head s_list;	/* those that have windows */
};

#define GFS2_AHEAD_DEPTH 8		/* windows of a stream */
#define GFS2_AHEAD_HIT 4		/* windows that one READ may need */

/* What a READ is answered with. */
struct gfs2_ahead_hit {
	struct iovec iov[GFS2_AHEAD_HIT];
	struct gfs2_window *windows[GFS2_AHEAD_HIT];
	unsigned nr;
};

/* Windows that are to be read. */
struct gfs2_ahead_plan {
	struct gfs2_window *windows[GFS2_AHEAD_DEPTH];
	unsigned nr;
};

struct gfs2_ahead_stats {
	uint64_t windows;	/* read from the device, or failed */
	uint64_t hits;		/* READs answered from them */
	uint64_t stale;		/* windows that something had changed */
	uint64_t failed;
};

/* Is this such a volume?  Else sdp->sd_ahead stays NULL. */
bool gfs2_ahead_wanted(const struct gfs2_sbd *sdp);
void gfs2_ahead_create(struct gfs2_sbd *sdp);
/* All streams are closed. */
void gfs2_ahead_destroy(struct gfs2_sbd *sdp);
/* Memory of windows just now. */
uint64_t gfs2_ahead_bytes(struct gfs2_sbd *sdp);
/* What no stream has used lately goes; @all: everything that nobody is using. */
void gfs2_ahead_trim(struct gfs2_sbd *sdp, bool all);
void gfs2_ahead_stats(struct gfs2_sbd *sdp, struct gfs2_ahead_stats *st);

void gfs2_stream_init(struct gfs2_stream *s);
void gfs2_stream_close(struct gfs2_sbd *sdp, struct gfs2_stream *s);
/* Each READ, once, before it is done; never waits.  Is the file being read in sequence? */
bool gfs2_stream_note(struct gfs2_sbd *sdp, struct gfs2_stream *s, uint64_t pos, uint32_t size);
bool gfs2_stream_runs(struct gfs2_stream *s); /* the same, again */

/*
 * SH held.  Is all that a READ of [pos, pos + size) answers there?  May wait for the device.  Then it is in @hit->iov until gfs2_ahead_put(), which may
 * come when the holder and the file are gone.
 */
bool gfs2_ahead_get(struct gfs2_inode *ip, struct gfs2_stream *s, uint64_t pos, uint32_t size, struct gfs2_ahead_hit *hit);
void gfs2_ahead_put(struct gfs2_sbd *sdp, struct gfs2_ahead_hit *hit);
/*
 * SH held.  What is to be read ahead now, after a READ of @size bytes; _start begins it, under the same holder, but @s may be closed by then (so the READ can
 * be answered in between).
 */
void gfs2_ahead_plan(struct gfs2_inode *ip, struct gfs2_stream *s, uint32_t size, struct gfs2_ahead_plan *plan);
void gfs2_ahead_start(struct gfs2_inode *ip, struct gfs2_ahead_plan *plan);

#endif
