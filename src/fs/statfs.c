/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Block counts of the whole volume (kernel: super.c:gfs2_statfs_*; reference gfs2-ondisk.md 2.2,
 * 2.3).
 *
 * Two records: the master file, shared by all nodes, and this node's own statfs_change file with what
 * has changed since it was last moved to the master ("synced").
 *
 * Guarantees
 *  - Master + all local records == sums over the rgrps, in every state that the journal can leave.
 *  - The local record is logged in the transaction that changes the counts, and stands in every
 *    log header.
 *  - A clean unmount leaves it zero: fsck looks at the master only.
 *
 * s_lock guards both in-core records and the bytes of the local dinode's buffer.  The buffer may be
 * changed by several open transactions at once: a flush waits for all of them.
 */
#include <inttypes.h>
#include "fs/inode.h"
#include "util/util.h"

struct gfs2_statfs {
	struct rmutex s_lock;
	struct gfs2_statfs_host s_master, s_local;
	struct gfs2_bh *s_sc_bh; /* dinode of statfs_change<jid>; its glock is held for the whole mount */
};

static void statfs_in(struct gfs2_statfs_host *s, const struct gfs2_bh *bh)
{
	struct gfs2_statfs_change sc;

	memcpy(&sc, bh->b_data + sizeof(struct gfs2_dinode), sizeof(sc));
	s->total = (int64_t)be64_to_cpu(sc.sc_total);
	s->free = (int64_t)be64_to_cpu(sc.sc_free);
	s->dinodes = (int64_t)be64_to_cpu(sc.sc_dinodes);
}

static void statfs_out(const struct gfs2_statfs_host *s, struct gfs2_bh *bh)
{
	struct gfs2_statfs_change sc = {
		.sc_total = cpu_to_be64(s->total),
		.sc_free = cpu_to_be64(s->free),
		.sc_dinodes = cpu_to_be64(s->dinodes),
	};

	memcpy(bh->b_data + sizeof(struct gfs2_dinode), &sc, sizeof(sc));
}

static bool statfs_is_zero(const struct gfs2_statfs_host *s)
{
	return !s->total && !s->free && !s->dinodes;
}

static void statfs_add(struct gfs2_statfs_host *to, const struct gfs2_statfs_host *s)
{
	to->total += s->total;
	to->free += s->free;
	to->dinodes += s->dinodes;
}

/*
 * A journal that fsck.gfs2 3.x has replayed: it corrected the master, but left the record of the node
 * as it was, and its header says so by having no v2 part (reference 2.3, 8.4).
 */
static bool replayed_by_fsck(const struct gfs2_log_header_host *head)
{
	return head->lh_flags == GFS2_LOG_HEAD_UNMOUNT && !head->lh_crc && !head->lh_statfs_addr;
}

/* Of either file.  The counts lie in the dinode's block, whatever the dinode says of it. */
static int check_dinode(struct gfs2_sbd *sdp, const struct gfs2_bh *bh)
{
	if (gfs2_holds_statfs((const struct gfs2_dinode *)bh->b_data))
		return 0;
	return gfs2_consist(sdp, bh->b_blocknr, "a file of block counts has them in its dinode");
}

static int read_master(struct gfs2_sbd *sdp, struct gfs2_statfs_host *out)
{
	struct gfs2_holder gh;
	struct gfs2_bh *bh;
	/*
	 * Who replays a dead node's journal changes the master on the device, under no lock: nobody may keep a copy.  Nor may a grant be kept
	 * back until the replay, which wants the lock itself, is over; the counts may be older than that.
	 */
	int err = gfs2_glock_nq_init(sdp->sd_statfs_inode->i_gl, LM_ST_SHARED,
				     sdp->sd_lm->lm_has_peers ? GL_NOCACHE | LM_FLAG_NOEXP : 0, &gh);

	if (err)
		return err;
	err = gfs2_meta_inode_buffer(sdp->sd_statfs_inode, &bh);
	if (!err) {
		err = check_dinode(sdp, bh);
		statfs_in(out, bh);
		buf_put(bh);
	}
	gfs2_glock_dq_uninit(&gh);
	return err;
}

/* Log the local record as it is in core. */
static int log_local(struct gfs2_sbd *sdp)
{
	struct gfs2_statfs *st = sdp->sd_statfs;
	int err = gfs2_trans_begin(sdp->sd_log, 1, 0);

	if (err)
		return err;
	gfs2_trans_add_meta(sdp->sd_log, sdp->sd_sc_inode->i_gl, st->s_sc_bh);
	rmutex_lock(&st->s_lock);
	statfs_out(&st->s_local, st->s_sc_bh);
	rmutex_unlock(&st->s_lock);
	gfs2_trans_end(sdp->sd_log);
	return 0;
}

int gfs2_statfs_init(struct gfs2_sbd *sdp, const struct gfs2_log_header_host *head)
{
	struct gfs2_statfs *st = xzalloc(sizeof(*st));
	int err;

	rmutex_init(&st->s_lock, RANK_STATFS);
	err = read_master(sdp, &st->s_master);
	if (!err)
		err = gfs2_meta_inode_buffer(sdp->sd_sc_inode, &st->s_sc_bh);
	if (!err) {
		err = check_dinode(sdp, st->s_sc_bh);
		if (err)
			buf_put(st->s_sc_bh);
	}
	if (err) {
		rmutex_destroy(&st->s_lock);
		free(st);
		return err;
	}
	statfs_in(&st->s_local, st->s_sc_bh);
	sdp->sd_statfs = st;
	if (!statfs_is_zero(&st->s_local) && replayed_by_fsck(head)) {
		fs_info("journal %u was replayed by fsck.gfs2: its block counts are counted already",
			sdp->sd_jid);
		st->s_local = (struct gfs2_statfs_host){ 0 };
		if (sdp->sd_log)
			return log_local(sdp);
	}
	return 0;
}

void gfs2_statfs_exit(struct gfs2_sbd *sdp)
{
	struct gfs2_statfs *st = sdp->sd_statfs;

	if (!st)
		return;
	sdp->sd_statfs = NULL;
	buf_put(st->s_sc_bh);
	rmutex_destroy(&st->s_lock);
	free(st);
}

void gfs2_statfs_change(struct gfs2_sbd *sdp, int64_t total, int64_t free, int64_t dinodes)
{
	const struct gfs2_statfs_host change = { total, free, dinodes };
	struct gfs2_statfs *st = sdp->sd_statfs;

	gfs2_trans_add_meta(sdp->sd_log, sdp->sd_sc_inode->i_gl, st->s_sc_bh);
	rmutex_lock(&st->s_lock);
	statfs_add(&st->s_local, &change);
	statfs_out(&st->s_local, st->s_sc_bh);
	rmutex_unlock(&st->s_lock);
}

void gfs2_statfs_get(struct gfs2_sbd *sdp, struct gfs2_statfs_host *out)
{
	struct gfs2_statfs *st = sdp->sd_statfs;

	rmutex_lock(&st->s_lock);
	*out = st->s_master;
	statfs_add(out, &st->s_local);
	rmutex_unlock(&st->s_lock);
	out->total = max_t(int64_t, out->total, 0);
	out->free = min_t(int64_t, max_t(int64_t, out->free, 0), out->total);
	out->dinodes = max_t(int64_t, out->dinodes, 0);
}

/* EX on the master: the transaction that moves the local record. */
static int move_local(struct gfs2_sbd *sdp, struct gfs2_bh *m_bh)
{
	struct gfs2_statfs *st = sdp->sd_statfs;
	int err = gfs2_trans_begin(sdp->sd_log, 2, 0);

	if (err)
		return err;
	gfs2_trans_add_meta(sdp->sd_log, sdp->sd_statfs_inode->i_gl, m_bh);
	gfs2_trans_add_meta(sdp->sd_log, sdp->sd_sc_inode->i_gl, st->s_sc_bh);
	rmutex_lock(&st->s_lock);
	statfs_in(&st->s_master, m_bh);
	statfs_add(&st->s_master, &st->s_local);
	st->s_local = (struct gfs2_statfs_host){ 0 };
	statfs_out(&st->s_master, m_bh);
	statfs_out(&st->s_local, st->s_sc_bh);
	rmutex_unlock(&st->s_lock);
	gfs2_trans_end(sdp->sd_log);
	return 0;
}

int gfs2_statfs_sync(struct gfs2_sbd *sdp)
{
	struct gfs2_statfs *st = sdp->sd_statfs;
	struct gfs2_holder gh;
	struct gfs2_bh *m_bh;
	bool zero;
	int err;

	if (!st || !sdp->sd_log || gfs2_withdrawn(sdp))
		return 0;
	rmutex_lock(&st->s_lock);
	zero = statfs_is_zero(&st->s_local);
	rmutex_unlock(&st->s_lock);
	if (zero)
		return 0;
	/* Other nodes need the lock for the same, so they get it at once. */
	err = gfs2_glock_nq_init(sdp->sd_statfs_inode->i_gl, LM_ST_EXCLUSIVE,
				 sdp->sd_lm->lm_has_peers ? GL_NOCACHE : 0, &gh);
	if (err)
		return err;
	err = gfs2_meta_inode_buffer(sdp->sd_statfs_inode, &m_bh);
	if (!err) {
		err = move_local(sdp, m_bh);
		buf_put(m_bh);
	}
	gfs2_glock_dq_uninit(&gh);
	return err;
}

void gfs2_statfs_local(void *arg, int64_t vals[3])
{
	struct gfs2_statfs *st = ((struct gfs2_sbd *)arg)->sd_statfs;

	vals[0] = vals[1] = vals[2] = 0;
	if (!st)
		return;
	rmutex_lock(&st->s_lock);
	vals[0] = st->s_local.total;
	vals[1] = st->s_local.free;
	vals[2] = st->s_local.dinodes;
	rmutex_unlock(&st->s_lock);
}
