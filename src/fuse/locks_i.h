/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What flock.c and plock.c share; nobody else includes it.
 *
 * Locking: fl->lock, a leaf but for what the glock layer and libfuse take inside.  It is recursive: holders are queued and taken back under
 * it, and grants may be told from inside of that; what can change in such a call is not looked at after it.  Nobody sleeps under it.
 *
 * Interrupts: libfuse marks the request, then calls back.  Who queues a request sets the callback first and looks at the mark under
 * fl->lock, where the callback looks for the request: one of them sees the other.
 */
#ifndef GFS2FUSE_LOCKS_I_H
#define GFS2FUSE_LOCKS_I_H

#include "fuse/locks.h"
#include "fuse/ops.h"
#include "fuse/readers.h"

#define LOCK_BUCKETS 251

struct file_locks {
	struct gfs2_sbd *sdp;
	pthread_mutex_t lock;
	bool stopping;			/* nobody waits any more */
	pthread_cond_t cond;		/* a try has ended, a callback has come */
	struct list_head flocks[LOCK_BUCKETS];	/* struct flock_file, by open file */
	struct list_head plocks[LOCK_BUCKETS];	/* struct plock_inode, by number */
};

/* The open file as a key: it is not looked into. */
static inline const struct gfs2_file *fi_key(const struct fuse_file_info *fi)
{
	return (const struct gfs2_file *)(uintptr_t)fi->fh;
}

/* They may outlive who has asked, by a descriptor that is handed on: no process's own, but dumps tell who that was, or `explain` could not find a circle. */
#define HOLDER_FLAGS (GL_EXACT | GL_NOPID | GL_NOCACHE)

/*
 * Ask for @gh without waiting for a holder on another node: 0, -EAGAIN, -EIO.  May sleep for some milliseconds, since a node that
 * only has the lock cached needs them to give it up.  Not under fl->lock.
 */
int locks_try(struct gfs2_glock *gl, enum lm_state state, struct gfs2_holder *gh);
/* Give it up; at return it is no longer this node's (unless another file of this node has it).  Not under fl->lock. */
void locks_drop(struct gfs2_holder *gh);

/* Any thread: @where is what readers_where() said to the one that had the request. */
static inline void answer_later(fuse_req_t req, int where, int error)
{
	int before = readers_answer_at(where);

	fuse_reply_err(req, error);
	readers_answer_at(before);
}

/* flock.c */
void flocks_stop(struct file_locks *fl);
void flocks_end(struct file_locks *fl);
void flock_release(struct file_locks *fl, const struct gfs2_file *f);
/* plock.c */
void plocks_stop(struct file_locks *fl);
void plocks_end(struct file_locks *fl);
void plock_release(struct file_locks *fl, const struct gfs2_file *f);

#endif
