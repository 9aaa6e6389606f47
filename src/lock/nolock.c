/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_nolock: this node is alone, every request is granted at once, on the thread that asks (kernel: glock.c with
 * nolock_ops, which have no lm_lock).  Nobody ever asks for a lock back.
 */
#include "lock/glock.h"

static int nolock_mount(struct gfs2_glock_table *t, const char *table, unsigned *jid, bool *first)
{
	*jid = 0;
	*first = true;
	return 0;
}

static void nolock_first_done(struct gfs2_glock_table *t)
{
}

static void nolock_unmount(struct gfs2_glock_table *t)
{
}

static void nolock_lock(struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	gfs2_glock_complete(gl, req);
}

/* Comes too late by design: the request that is to be cancelled is answered while it is made. */
static void nolock_cancel(struct gfs2_glock *gl)
{
}

static void nolock_put_lock(struct gfs2_glock *gl)
{
	gfs2_glock_free(gl);
}

const struct lm_lockops lm_nolock = {
	.lm_proto_name = "lock_nolock",
	.lm_mount = nolock_mount,
	.lm_first_done = nolock_first_done,
	.lm_unmount = nolock_unmount,
	.lm_lock = nolock_lock,
	.lm_cancel = nolock_cancel,
	.lm_put_lock = nolock_put_lock,
	.lm_has_peers = false,
};
