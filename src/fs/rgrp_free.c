/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Resource groups: freeing, and the frees that are not durable yet (kernel: rgrp.c:
 * gfs2_rlist_*, __gfs2_free_blocks, gfs2_free_di, gfs2_unlink_di; lops.c:maybe_release_space;
 * reference gfs2-ondisk.md 3.4, 3.5).
 *
 * Guarantees: a block is free in the bitmap block as soon as the transaction says so, and free for
 * the allocator when that transaction is durable.  Only permitted transitions are made; anything
 * else found in a bitmap withdraws.  All functions that change bits run inside a transaction with
 * the rgrp locked by the caller's gfs2_rgrp_list or gfs2_alloc.
 */
#include <inttypes.h>
#include "fs/rgrp_i.h"
#include "util/seeded.h"

/* --- pending frees --- */

static void bit_clone(struct gfs2_rbitmap *bi)
{
	if (bi->bi_clone)
		return;
	bi->bi_clone = xmalloc(bi->bi_bytes);
	memcpy(bi->bi_clone, rbit_bytes(bi), bi->bi_bytes);
}

/* Before the bits are cleared in the block: keep the old view for the allocator. */
static void clone_range(struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len)
{
	unsigned last = rgrp_bit_index(rgd, start + len - 1);

	for (unsigned b = rgrp_bit_index(rgd, start); b <= last; b++)
		bit_clone(&rgd->rd_bits[b]);
}

static void drop_clones(struct gfs2_rgrpd *rgd)
{
	for (unsigned b = 0; rgd->rd_bits && b < rgd->rd_length; b++) {
		free(rgd->rd_bits[b].bi_clone);
		rgd->rd_bits[b].bi_clone = NULL;
	}
	rgd->rd_nr_pending = 0;
	rgd->rd_pending_all = 0;
}

void rgrp_pending_drop(struct gfs2_rgrpd *rgd)
{
	drop_clones(rgd);
}

static bool merge_pending(struct rgrp_pending *p, uint64_t seq, uint32_t start, uint32_t len)
{
	if (p->seq != seq)
		return false;
	if (p->start + p->len == start) {
		p->len += len;
		return true;
	}
	if (start + len == p->start) {
		p->start = start;
		p->len += len;
		return true;
	}
	return false;
}

void rgrp_pending_add(struct gfs2_rgrpd *rgd, uint64_t seq, uint32_t start, uint32_t len)
{
	unsigned nr = rgd->rd_nr_pending;

	clone_range(rgd, start, len);
	if (rgd->rd_pending_all) {
		rgd->rd_pending_all = seq;
		return;
	}
	if (nr && merge_pending(&rgd->rd_pending[nr - 1], seq, start, len))
		return;
	if (nr == RGRP_MAX_PENDING) {
		/* Bounded memory: from here on everything waits for the newest of them. */
		rgd->rd_pending_all = seq;
		return;
	}
	if (nr == rgd->rd_pending_space) {
		rgd->rd_pending_space = nr ? nr * 2 : 16;
		rgd->rd_pending = xrealloc(rgd->rd_pending,
					   rgd->rd_pending_space * sizeof(*rgd->rd_pending));
	}
	rgd->rd_pending[rgd->rd_nr_pending++] =
		(struct rgrp_pending){ .seq = seq, .start = start, .len = len };
}

/* [start, +len) is durably free: the allocator may see it. */
static void settle_range(struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len)
{
	rgd->rd_free_clone += len;
	while (len) {
		struct gfs2_rbitmap *bi = &rgd->rd_bits[rgrp_bit_index(rgd, start)];
		uint32_t rel = start - bi->bi_start;
		uint32_t n = min_t(uint32_t, len, bi->bi_blocks - rel);

		rbit_set(bi->bi_clone, rel, n, GFS2_BLKST_FREE_);
		bi->bi_free += n;
		start += n;
		len -= n;
	}
	rgd->rd_longest = NO_BLOCK;
}

static void settle_all(struct gfs2_rgrpd *rgd)
{
	drop_clones(rgd);
	for (unsigned b = 0; b < rgd->rd_length; b++) {
		struct gfs2_rbitmap *bi = &rgd->rd_bits[b];
		struct rbit_counts c = { 0 };

		rbit_count(rbit_bytes(bi), bi->bi_bytes, &c);
		bi->bi_free = c.free;
	}
	rgd->rd_free_clone = rgd->rd_free;
	rgd->rd_longest = NO_BLOCK;
}

void rgrp_pending_settle(struct gfs2_rgrpd *rgd)
{
	uint64_t durable;
	unsigned n = 0;

	if (!rgd->rd_nr_pending)
		return;
	durable = gfs2_log_durable_seq(rgd->rd_sbd->sd_log);
	if (rgd->rd_pending_all) {
		if (rgd->rd_pending_all <= durable)
			settle_all(rgd);
		return;
	}
	for (; n < rgd->rd_nr_pending && rgd->rd_pending[n].seq <= durable; n++)
		settle_range(rgd, rgd->rd_pending[n].start, rgd->rd_pending[n].len);
	rgd->rd_nr_pending -= n;
	memmove(rgd->rd_pending, rgd->rd_pending + n,
		rgd->rd_nr_pending * sizeof(*rgd->rd_pending));
	if (!rgd->rd_nr_pending)
		drop_clones(rgd);
	gfs2_assert_debug(rgd->rd_nr_pending || rgd->rd_free_clone == rgd->rd_free);
}

/* --- which rgrps --- */

void gfs2_rlist_init(struct gfs2_rgrp_list *rl)
{
	memset(rl, 0, sizeof(*rl));
}

int gfs2_rlist_add(struct gfs2_sbd *sdp, struct gfs2_rgrp_list *rl, uint64_t blkno)
{
	struct gfs2_rgrpd *rgd = gfs2_blk2rgrpd(sdp, blkno);
	unsigned pos = rl->rl_rgrps;

	GFS2_BUG_ON(rl->rl_locked);
	if (!rgd)
		return gfs2_consist(sdp, blkno, "block to be freed is in no resource group");
	while (pos && rl->rl_rgd[pos - 1]->rd_addr > rgd->rd_addr)
		pos--;
	if (pos && rl->rl_rgd[pos - 1] == rgd)
		return 0;
	if (rl->rl_rgrps == rl->rl_space) {
		unsigned space = rl->rl_space ? rl->rl_space * 2 : 8;

		rl->rl_rgd = xrealloc(rl->rl_rgd, space * sizeof(*rl->rl_rgd));
		rl->rl_space = space;
	}
	memmove(&rl->rl_rgd[pos + 1], &rl->rl_rgd[pos],
		(rl->rl_rgrps - pos) * sizeof(*rl->rl_rgd));
	rl->rl_rgd[pos] = rgd;
	rl->rl_rgrps++;
	return 0;
}

int gfs2_rlist_lock(struct gfs2_sbd *sdp, struct gfs2_rgrp_list *rl)
{
	unsigned i;
	int err;

	if (sdp->sd_ro)
		return -EROFS;
	for (i = 0; i < rl->rl_rgrps; i++) {
		err = rgrp_lock(rl->rl_rgd[i]);
		if (err)
			goto out_unlock;
	}
	rl->rl_locked = true;
	return 0;

out_unlock:
	while (i--)
		rgrp_unlock(rl->rl_rgd[i]);
	return err;
}

unsigned gfs2_rlist_blocks(const struct gfs2_rgrp_list *rl, uint64_t blocks)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < rl->rl_rgrps; i++)
		all += rl->rl_rgd[i]->rd_length;
	return (unsigned)min_t(uint64_t, all, rl->rl_rgrps + blocks);
}

void gfs2_rlist_free(struct gfs2_rgrp_list *rl)
{
	for (unsigned i = rl->rl_locked ? rl->rl_rgrps : 0; i--;)
		rgrp_unlock(rl->rl_rgd[i]);
	free(rl->rl_rgd);
	memset(rl, 0, sizeof(*rl));
}

/* --- bits --- */

/* The rgrp and the index of @blkno, which must be locked by the running operation. */
static int locate(struct gfs2_sbd *sdp, uint64_t blkno, uint32_t len, struct gfs2_rgrpd **rgd,
		  uint32_t *start)
{
	*rgd = gfs2_blk2rgrpd(sdp, blkno);
	if (!*rgd)
		return gfs2_consist(sdp, blkno, "block to be freed is in no resource group");
	GFS2_BUG_ON(!rgrp_is_mine(*rgd));
	gfs2_assert_held((*rgd)->rd_gl, true);
	*start = (uint32_t)(blkno - (*rgd)->rd_data0);
	if (len > (*rgd)->rd_data - *start)
		return gfs2_consist(sdp, blkno, "run to be freed leaves its resource group");
	return 0;
}

/* Set [start, +len) in the block, not in the clone. */
static void set_bits(struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len, unsigned state)
{
	while (len) {
		struct gfs2_rbitmap *bi = &rgd->rd_bits[rgrp_bit_index(rgd, start)];
		uint32_t rel = start - bi->bi_start;
		uint32_t n = min_t(uint32_t, len, bi->bi_blocks - rel);

		gfs2_trans_add_meta(rgd->rd_sbd->sd_log, rgd->rd_gl, bi->bi_bh);
		rbit_set(rbit_bytes(bi), rel, n, state);
		start += n;
		len -= n;
	}
}

static void free_bits(struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len)
{
	rgrp_pending_add(rgd, gfs2_trans_batch_seq(rgd->rd_sbd->sd_log), start, len);
	set_bits(rgd, start, len, GFS2_BLKST_FREE_);
	if (!SEEDED_BUG("rgrp-free-count"))
		rgd->rd_free += len;
	rgd->rd_flags &= ~(uint32_t)GFS2_RGF_TRIMMED;
}

int gfs2_free_blocks(struct gfs2_sbd *sdp, uint64_t bstart, uint32_t blen)
{
	struct gfs2_rgrpd *rgd;
	uint32_t start = 0;
	int err = locate(sdp, bstart, blen, &rgd, &start);

	if (err)
		return err;
	if (!rgrp_all(rgd, start, blen, GFS2_BLKST_USED_))
		return gfs2_consist(sdp, bstart, "block to be freed is not in use as data");
	rgrp_pin_header(rgd);
	free_bits(rgd, start, blen);
	rgrp_out(rgd, 0);
	if (!SEEDED_BUG("statfs-free"))
		gfs2_statfs_change(sdp, 0, blen, 0);
	/* Plain data too: what the committing batch made reachable must get to the device before it is forgotten. */
	gfs2_journal_wipe(sdp->sd_log, bstart, blen);
	return 0;
}

int gfs2_free_di(struct gfs2_sbd *sdp, uint64_t blkno)
{
	struct gfs2_rgrpd *rgd;
	uint32_t start = 0;
	unsigned state;
	int err = locate(sdp, blkno, 1, &rgd, &start);

	if (err)
		return err;
	state = rgrp_state(rgd, start);
	if (state != GFS2_BLKST_UNLINKED_ && state != GFS2_BLKST_DINODE_)
		return gfs2_consist(sdp, blkno, "dinode to be freed is not a dinode");
	if (!rgd->rd_dinodes)
		return gfs2_consist(sdp, rgd->rd_addr, "more dinodes than rg_dinodes");
	rgrp_pin_header(rgd);
	free_bits(rgd, start, 1);
	rgd->rd_dinodes--;
	rgrp_out(rgd, state == GFS2_BLKST_UNLINKED_ ? -1 : 0);
	rgrp_resv_forget(rgd, blkno);
	gfs2_statfs_change(sdp, 0, 1, -1);
	gfs2_journal_wipe(sdp->sd_log, blkno, 1);
	return 0;
}

int gfs2_unlink_di(struct gfs2_sbd *sdp, uint64_t blkno)
{
	struct gfs2_rgrpd *rgd;
	uint32_t start = 0;
	int err = locate(sdp, blkno, 1, &rgd, &start);

	if (err)
		return err;
	if (rgrp_state(rgd, start) != GFS2_BLKST_DINODE_)
		return gfs2_consist(sdp, blkno, "dinode to be unlinked is not in use");
	rgrp_pin_header(rgd);
	set_bits(rgd, start, 1, GFS2_BLKST_UNLINKED_);
	/* The clone keeps "dinode": both mean that it cannot be allocated. */
	rgrp_out(rgd, 1);
	return 0;
}
