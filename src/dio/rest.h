/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rest of a direct write, from where it met a hole or left the file: EX, and durable at return.
 *
 * Two ways (mount option dio_rest=):
 *   buffered	the kernel's: each by itself into the buffer cache, then the data and the log to the device
 *		(gfs2_file_write_iter sets IOCB_DSYNC for it).
 *   direct	whole blocks go from the request's own buffer to the device, holes and mapped ones alike (fs/file_fill.c).
 *		Those that come at the same time are finished together: one of them *leads*, takes EX for all that wait, which share a
 *		transaction, and again for those that have come meanwhile; then one log flush makes the *group* durable.  While it flushes
 *		the next one leads already.  How long a leader waits for company: group_grows().
 * What is not whole blocks, or needs more than that (gfs2_file_fill() says so), is written buffered with either.
 *
 * Guarantees
 *  1. Whoever is told success is told so when his data and the blocks that hold them are durable.
 *  2. One's error is not another's: if several cannot be finished together each is tried by itself.
 *  3. Who waits for the leader holds no glock; the leader waits for EX holding nothing.
 *
 * Locking: i_rest and what is beside it in the inode by its i_lock; a struct gfs2_rest on i_rest is on its owner's stack, which
 * the leader may use until it has posted `called`.
 */
#ifndef GFS2FUSE_DIO_REST_H
#define GFS2FUSE_DIO_REST_H

#include "fs/file.h"
#include "util/ctx.h"

struct gfs2_rest {
	struct gfs2_fill fill;
	const char *why;	/* for the event */
	bool unseen;		/* nothing has been looked at under DF: what is looked for there is still to be done */
	bool kill_suidgid;	/* @unseen: the caller may not keep the file's suid and sgid bits */
	bool killed;		/* out, @unseen: rights were taken away */
	uint64_t eof[2];	/* out: how long it found the file, and left it; UINT64_MAX: it did not come so far */

	/* private to rest.c */
	struct list_head list;	/* i_rest */
	struct rsem called;	/* it is done, or (lead) to lead */
	struct rcond company;	/* the leader's: others have come, or are durable */
	bool lead, gathers;
	int error;
	struct gfs2_ctx ctx;	/* whose it is */
};

/* Workers, no glock held.  0: all of it; or -errno. */
int gfs2_rest_write(struct gfs2_inode *ip, struct gfs2_rest *r);
/*
 * Is somebody filling holes of @ip just now, so that a write of whole blocks that begins in a hole had better join in at once (@unseen)?  A
 * guess; taking DF would only make it wait for the leader's EX.
 */
bool gfs2_rest_join(struct gfs2_inode *ip, uint64_t pos, uint32_t len);

#endif
