/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an inode's glock protects, and what happens to it at each transition of the lock
 * (kernel: glops.c:inode_go_*; reference gfs2-locking-dio.md 1.9), and the count of direct I/O.
 *
 * Guarantees
 *  1. Before EX is given up: direct I/O in flight has completed, a pending time is in the dinode,
 *     dirty data are on the device, the journal has nothing of this glock that is not in place.
 *     Other states have nothing dirty.
 *  2. Before DF or UN: no data buffers remain; before UN: no metadata, no extents, no hash table
 *     either.
 *  3. A grant other than DF that was waited for finds no direct I/O of this node in flight; the
 *     first EX grant finishes a truncate that a crash interrupted.
 *
 * A time that a direct write left pending under DF cannot be published in go_sync: that takes EX,
 * and a demotion must not wait for a glock.  It stays pending in core, stat shows it, and the
 * next EX of this node (fsync, close, timer, last reference) folds it in.  Under a cached EX lock
 * it needs a transaction only, which is opened here; that waits for log space at most, never for
 * a glock.
 *
 * The object: go_*() run on threads that own no reference.  gfs2_glops_begin() keeps the inode
 * from being freed meanwhile; a glock without an object has no data of its own any more (icache.c
 * wrote it), its metadata is handled all the same.
 */
#include <inttypes.h>
#include <dirent.h>
#include "fs/bmap.h"
#include "fs/dir.h"
#include "util/util.h"

struct gfs2_inode *gfs2_glops_begin(struct gfs2_glock *gl)
{
	struct gfs2_inode *ip;

	rmutex_lock(&gl->gl_lock);
	ip = gl->gl_object;
	if (ip)
		ip->i_glops++;
	rmutex_unlock(&gl->gl_lock);
	return ip;
}

void gfs2_glops_end(struct gfs2_inode *ip)
{
	struct gfs2_glock *gl;

	if (!ip)
		return;
	gl = ip->i_gl;
	/*
	 * Once the count is zero and the lock dropped, @ip may be freed; the glock is the table's.
	 */
	rmutex_lock(&gl->gl_lock);
	if (!--ip->i_glops)
		rcond_broadcast(&gl->gl_wait);
	rmutex_unlock(&gl->gl_lock);
}

void gfs2_glops_wait(struct gfs2_inode *ip)
{
	struct gfs2_glock *gl = ip->i_gl;

	rmutex_lock(&gl->gl_lock);
	while (ip->i_glops)
		rcond_wait(&gl->gl_wait, &gl->gl_lock);
	rmutex_unlock(&gl->gl_lock);
}

static enum lm_state glock_state(struct gfs2_glock *gl)
{
	enum lm_state state;

	rmutex_lock(&gl->gl_lock);
	state = gl->gl_state;
	rmutex_unlock(&gl->gl_lock);
	return state;
}

/* EX is held by the node and, during the transition, by no holder. */
static int publish_under_ex(struct gfs2_inode *ip)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	bool pending;
	int error;

	rmutex_lock(&ip->i_lock);
	pending = ip->i_pending_mtime;
	rmutex_unlock(&ip->i_lock);
	if (!pending || !ip->i_valid || !ip->i_nlink)
		return 0;
	error = gfs2_trans_begin(log, 1, 0);
	if (error)
		return error;
	gfs2_pending_mtime_fold(ip);
	error = gfs2_dinode_log_times(ip);
	gfs2_trans_end(log);
	return error;
}

int inode_go_sync(struct gfs2_glock *gl)
{
	struct gfs2_sbd *sdp = glock_sbd(gl);
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	int error = 0, error2;

	if (ip)
		inode_dio_wait(ip);
	/* Only EX allows dirty data and metadata. */
	if (glock_state(gl) != LM_ST_EXCLUSIVE || !sdp->sd_log || gfs2_withdrawn(sdp))
		goto out;
	if (ip) {
		error = publish_under_ex(ip);
		/* What cannot be written is lost, whoever has the lock then; fsync is to tell it. */
		mapping_write(&ip->i_data);
	}
	error2 = gfs2_ail_empty_gl(sdp->sd_log, gl, sdp->sd_lm->lm_has_peers);
	if (!error)
		error = error2;
out:
	gfs2_glops_end(ip);
	return error;
}

void inode_go_inval(struct gfs2_glock *gl, bool metadata)
{
	struct gfs2_inode *ip = gfs2_glops_begin(gl);

	if (metadata) {
		mapping_invalidate(&gl->gl_mapping);
		rmutex_lock(&gl->gl_lock);
		gl->gl_flags |= 1ul << GLF_INSTANTIATE_NEEDED;
		rmutex_unlock(&gl->gl_lock);
	}
	if (ip) {
		mapping_invalidate(&ip->i_data);
		if (metadata) {
			extmap_clear(&ip->i_map);
			gfs2_dir_hash_inval(ip);
		}
	}
	gfs2_glops_end(ip);
}

int inode_go_instantiate(struct gfs2_glock *gl)
{
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	struct gfs2_bh *bh;
	int error;

	if (!ip)
		return 0;
	error = gfs2_meta_inode_buffer(ip, &bh);
	if (!error) {
		error = gfs2_dinode_in(ip, bh);
		buf_put(bh);
	}
	gfs2_glops_end(ip);
	return error;
}

int inode_go_held(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	int error = 0;

	if (!ip)
		return 0;
	if (gh->gh_state != LM_ST_DEFERRED)
		inode_dio_wait(ip);
	if (gh->gh_state == LM_ST_EXCLUSIVE && !(gh->gh_flags & GL_SKIP) && ip->i_valid &&
	    (ip->i_diskflags & GFS2_DIF_TRUNC_IN_PROG) && ip->i_sbd->sd_log &&
	    glock_state(gl) == LM_ST_EXCLUSIVE)
		error = gfs2_truncate_resume(ip);
	gfs2_glops_end(ip);
	return error;
}

void inode_go_dump(struct gfs2_glock *gl, FILE *out)
{
	struct gfs2_inode *ip = gfs2_glops_begin(gl);

	/* Without a holder: numbers that are just being changed may be shown, as in the kernel. */
	if (ip)
		fprintf(out, " I: n:%" PRIu64 "/%" PRIu64 " t:%u f:0x00 d:0x%08x s:%" PRIu64 " p:%u\n",
			ip->i_no_formal_ino, ip->i_no_addr, IFTODT(ip->i_mode), ip->i_diskflags,
			ip->i_size, atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed));
	gfs2_glops_end(ip);
}

/* --- direct I/O in flight --- */

void inode_dio_begin(struct gfs2_inode *ip)
{
	/*
	 * relaxed: the submitter has a holder, and whoever waits has excluded new ones through
	 * the glock
	 */
	atomic_fetch_add_explicit(&ip->i_dio_count, 1, memory_order_relaxed);
}

void inode_dio_end(struct gfs2_inode *ip)
{
	/* release: what the I/O did is visible to who sees the count drop */
	if (atomic_fetch_sub_explicit(&ip->i_dio_count, 1, memory_order_release) != 1)
		return;
	rmutex_lock(&ip->i_lock);
	rcond_broadcast(&ip->i_dio_wait);
	rmutex_unlock(&ip->i_lock);
}

void inode_dio_wait(struct gfs2_inode *ip)
{
	if (!atomic_load_explicit(&ip->i_dio_count, memory_order_acquire))
		return;
	rmutex_lock(&ip->i_lock);
	while (atomic_load_explicit(&ip->i_dio_count, memory_order_acquire))
		rcond_wait(&ip->i_dio_wait, &ip->i_lock);
	rmutex_unlock(&ip->i_lock);
}
