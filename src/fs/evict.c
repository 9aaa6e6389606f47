/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of an inode that has no name any more (kernel: super.c:gfs2_evict_inode,
 * evict_should_delete; reference gfs2-ondisk.md 3.6, 4.8, gfs2-locking-dio.md 4.3).
 *
 * Guarantees
 *  1. An inode is freed only if, under its EX lock, its block is UNLINKED in the bitmap, its
 *     nlink on disk is 0, and no other node has it in core (IOPEN in EX).
 *  2. Every transaction on the way leaves a consistent volume: a crash leaves an unlinked inode
 *     with fewer blocks, which the next mount frees.
 *
 * Order: leaves of a hashed directory, xattrs, then the tree together with the dinode.
 */
#include <inttypes.h>
#include "fs/dealloc.h"
#include "fs/dir.h"
#include "fs/evict_later.h"
#include "fs/icache.h"
#include "fs/xattr.h"
#include "util/util.h"
#include "util/wait.h"

/*
 * How long to wait for other nodes that have the inode in core.  The kernel waits 5 s; those who have been asked before are not asked
 * again by the DLM and say nothing, and a worker waits meanwhile.
 */
#define IOPEN_PATIENCE_NS 1000000000ull

/* --- may it go? --- */

static bool must_instantiate(struct gfs2_glock *gl)
{
	bool needed;

	rmutex_lock(&gl->gl_lock);
	needed = gl->gl_flags & 1ul << GLF_INSTANTIATE_NEEDED;
	rmutex_unlock(&gl->gl_lock);
	return needed;
}

/*
 * EX held with GL_SKIP: nothing of the dinode's block may be believed before the bitmap says that
 * it is one.
 */
static int should_delete(struct gfs2_inode *ip)
{
	struct gfs2_inode_lvb *lvb = (void *)ip->i_gl->gl_lvb;
	int error;

	if (be32_to_cpu(lvb->ri_magic) == GFS2_MAGIC &&
	    be64_to_cpu(lvb->ri_generation_deleted) >= ip->i_no_formal_ino)
		return 0;
	error = gfs2_get_block_type(ip->i_sbd, ip->i_no_addr);
	if (error != GFS2_BLKST_UNLINKED_)
		return error < 0 ? error : 0;
	if (must_instantiate(ip->i_gl)) {
		error = inode_go_instantiate(ip->i_gl);
		if (error)
			return error;
	}
	return ip->i_nlink == 0;
}

/*
 * Later lookups of this very inode, by a node that still remembers it, must fail (kernel:
 * gfs2_inode_remember_delete).
 */
static void remember_delete(struct gfs2_inode *ip)
{
	struct gfs2_inode_lvb *lvb = (void *)ip->i_gl->gl_lvb;

	if (!ip->i_sbd->sd_lm->lm_has_peers)
		return;
	lvb->ri_magic = cpu_to_be32(GFS2_MAGIC);
	lvb->ri_generation_deleted = cpu_to_be64(ip->i_no_formal_ino);
}

/*
 * Other nodes have the inode in core and have been asked to let it go.  Wait until all of them have, or one says, by asking for
 * the inode's own lock, that it is in use, or nobody says anything.
 */
static int await_iopen(struct gfs2_inode *ip, struct gfs2_holder *gh)
{
	/* At unmount it is soon left to them; the next first mounter takes what nobody has freed. */
	bool hurry = atomic_load_explicit(&ip->i_sbd->sd_unmounting, memory_order_relaxed);
	int error;

	gfs2_holder_init(ip->i_iopen_gl, LM_ST_EXCLUSIVE, GL_ASYNC | GL_NOCACHE, gh, __func__);
	error = gfs2_glock_nq_unless_wanted(gh, ip->i_gl, hurry ? IOPEN_PATIENCE_NS / 10 : IOPEN_PATIENCE_NS);
	if (error)
		gfs2_holder_uninit(gh);
	return error;
}

/*
 * IOPEN from SH to EX (kernel: gfs2_upgrade_iopen_glock; reference 4.3).  GLR_TRYFAILED: another node has the inode in
 * core, and the last of them will delete it.
 */
static int upgrade_iopen(struct gfs2_inode *ip, struct gfs2_holder *gh)
{
	const bool peers = ip->i_sbd->sd_lm->lm_has_peers;
	int error;

	if (gfs2_holder_queued(&ip->i_iopen_gh)) {
		/* Others may be waiting for it as we will: not to give it up first would be in each other's way. */
		if (peers) {
			gfs2_glock_dq_uninit_nocache(&ip->i_iopen_gh);
			gfs2_glock_wait_demoted(ip->i_iopen_gl, IOPEN_PATIENCE_NS);
		} else {
			gfs2_glock_dq_uninit(&ip->i_iopen_gh);
		}
	}
	error = gfs2_glock_nq_init(ip->i_iopen_gl, LM_ST_EXCLUSIVE, LM_FLAG_TRY_1CB | GL_NOCACHE, gh);
	if (error == GLR_TRYFAILED && peers && icache_ask(ip))
		error = await_iopen(ip, gh);
	return error;
}

/*
 * On a glock worker: another node has unlinked the inode and wants to free it.  If it is in use here, say so: by asking for its lock, which the
 * other one holds (kernel: delete_work_func, gfs2_glock_poke).  What only the kernel remembers, because nobody has looked at
 * the name since, is not in use.
 */
void iopen_go_callback(struct gfs2_glock *gl, bool remote)
{
	struct gfs2_sbd *sdp = glock_sbd(gl);
	struct gfs2_glock *inode_gl;
	struct gfs2_holder gh;

	/* No reference to the inode: the last one deletes, which cannot be done before this has returned. */
	if (!remote || gfs2_withdrawn(sdp) || gfs2_inode_let_go(sdp, gl->gl_number))
		return;
	inode_gl = gfs2_glock_find(sdp->sd_glocks, LM_TYPE_INODE, gl->gl_number);
	if (!inode_gl)
		return;
	if (!gfs2_glock_nq_init(inode_gl, LM_ST_SHARED, LM_FLAG_TRY_1CB | LM_FLAG_ANY | GL_SKIP, &gh))
		gfs2_glock_dq_uninit(&gh);
	gfs2_glock_put(inode_gl);
}

static int delete_all(struct gfs2_inode *ip)
{
	int error = 0;

	if (gfs2_is_dir(ip) && ip->i_diskflags & GFS2_DIF_EXHASH)
		error = gfs2_dir_exhash_dealloc(ip);
	if (!error && ip->i_eattr)
		error = gfs2_ea_dealloc(ip);
	if (!error)
		error = gfs2_free_tree_and_dinode(ip);
	if (!error)
		remember_delete(ip);
	return error;
}

int gfs2_evict_begin(struct gfs2_inode *ip, struct gfs2_holder *gh, struct gfs2_holder *iopen_gh)
{
	int ret = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, GL_SKIP, gh), error;
	bool ours;

	if (ret)
		return ret < 0 ? ret : -EIO;
	ret = should_delete(ip);
	ours = ret > 0;
	if (ours) {
		error = upgrade_iopen(ip, iopen_gh);
		if (!error)
			return 1;
		ret = error < 0 ? error : 0;
	}
	/* It goes on living somewhere: what was written here must not be lost. */
	error = mapping_sync(&ip->i_data);
	/* Else it is not known what the block is, or the dinode has not been read. */
	if (!error && ours)
		error = gfs2_pending_mtime_publish_held(ip);
	gfs2_glock_dq_uninit(gh);
	return error && !ret ? error : ret;
}

void gfs2_evict_end(struct gfs2_holder *gh, struct gfs2_holder *iopen_gh)
{
	gfs2_glock_dq_uninit_nocache(iopen_gh);
	gfs2_glock_dq_uninit(gh);
}

int gfs2_evict_unlinked(struct gfs2_inode *ip)
{
	struct gfs2_holder gh, iopen_gh;
	int ret, error;

	/* It may take as long as the inode is large. */
	about_to_wait();
	ret = gfs2_evict_begin(ip, &gh, &iopen_gh);
	if (ret <= 0)
		return ret;
	error = delete_all(ip);
	if (error)
		mapping_sync(&ip->i_data);
	gfs2_evict_end(&gh, &iopen_gh);
	return error ? error : 1;
}

static int reclaim(struct gfs2_sbd *sdp, uint64_t blkno, unsigned flags)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	bool unlinked;
	int error;

	error = gfs2_inode_lookup(sdp, blkno, 0, &ip);
	if (error)
		return error;
	if (ip->i_own) {
		fs_warn("inode %" PRIu64 " is unlinked in the bitmap but a system file: left alone", blkno);
		gfs2_inode_put(ip);
		return 0;
	}
	/*
	 * Reading the dinode is all that has to be done: the last reference to an inode with
	 * nlink 0 deletes it.  But somebody may have done that since the bitmap was looked at, and
	 * then the block is anything.
	 */
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, GL_SKIP | flags, &gh);
	if (!error) {
		error = gfs2_get_block_type(sdp, blkno);
		unlinked = error == GFS2_BLKST_UNLINKED_;
		if (error > 0)
			error = unlinked && must_instantiate(ip->i_gl) ? inode_go_instantiate(ip->i_gl) : 0;
		if (!error && unlinked && ip->i_valid && ip->i_nlink)
			fs_warn("inode %" PRIu64 " is unlinked in the bitmap but has %u links: left alone",
				blkno, ip->i_nlink);
		gfs2_glock_dq_uninit(&gh);
	}
	gfs2_inode_put(ip);
	return error;
}

int gfs2_reclaim_unlinked(struct gfs2_sbd *sdp, uint64_t blkno)
{
	return reclaim(sdp, blkno, 0);
}

int gfs2_reclaim_left(struct gfs2_sbd *sdp, uint64_t blkno)
{
	int error;

	/* Its last reference frees it. */
	if (gfs2_inode_in_core(sdp, blkno))
		return 0;
	/* Another node may be waiting for space with the lock held, and for its own hunt, which waits for ours. */
	error = reclaim(sdp, blkno, sdp->sd_lm->lm_has_peers ? LM_FLAG_TRY_1CB : 0);
	return error == GLR_TRYFAILED ? 0 : error;
}
