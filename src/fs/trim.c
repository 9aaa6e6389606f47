/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fstrim: free blocks are told to the store (kernel: rgrp.c:gfs2_fitrim, gfs2_rgrp_send_discards).
 *
 * What may be discarded is what may be allocated: blocks that are free on the volume for good (rgrp_next(), which looks at the clone where
 * frees are not durable yet).  While it is done the group's glock is held EX, so that nobody on any node allocates one of
 * them and writes to it before the discard is over.
 *
 * Beside the kernel: only what lies in the range asked for is discarded (the kernel takes whole groups), deletions under way are waited for and the log is
 * flushed before, so that what was removed a moment ago counts, and a group is marked as done only if all of its free blocks were told: not if the range covers
 * a part, runs were left out as shorter than was asked for, or frees are pending.
 */
#include "fs/rgrp_i.h"

/* In blocks of the volume. */
struct range {
	uint64_t start, end, minlen;
	bool all;	/* minlen is no more than what the store can make use of */
};

/* The part of @rgd's data area that is asked for: indexes; false: none. */
static bool part_of(const struct gfs2_rgrpd *rgd, const struct range *r, uint32_t *from, uint32_t *to)
{
	uint64_t start = max_t(uint64_t, r->start, rgd->rd_data0);
	uint64_t end = min_t(uint64_t, r->end, rgd->rd_data0 + rgd->rd_data);

	if (start >= end)
		return false;
	*from = (uint32_t)(start - rgd->rd_data0);
	*to = (uint32_t)(end - rgd->rd_data0);
	return true;
}

static int discard_free(struct gfs2_rgrpd *rgd, uint32_t from, uint32_t to, uint64_t minlen, struct gfs2_trim *t)
{
	struct gfs2_sbd *sdp = rgd->rd_sbd;
	uint32_t i, end;

	for (i = rgrp_next(rgd, from, true); i < to; i = rgrp_next(rgd, end, true)) {
		int err;

		end = min_t(uint32_t, rgrp_next(rgd, i, false), to);
		if (end - i < minlen)
			continue;
		err = io_discard(sdp->sd_io, (rgd->rd_data0 + i) << sdp->sd_bsize_shift,
				 (uint64_t)(end - i) << sdp->sd_bsize_shift);
		if (err)
			return err;
		t->trimmed += (uint64_t)(end - i) << sdp->sd_bsize_shift;
	}
	return 0;
}

static int mark_trimmed(struct gfs2_rgrpd *rgd)
{
	struct gfs2_log *log = rgd->rd_sbd->sd_log;
	int err = gfs2_trans_begin(log, 1, 0);

	if (err)
		return err;
	rgrp_pin_header(rgd);
	rgd->rd_flags |= GFS2_RGF_TRIMMED;
	rgrp_out(rgd, 0);
	gfs2_trans_end(log);
	return 0;
}

/* @rgd locked. */
static int trim_locked(struct gfs2_rgrpd *rgd, const struct range *r, uint32_t from, uint32_t to, struct gfs2_trim *t)
{
	int err;

	if (rgd->rd_flags & GFS2_RGF_TRIMMED)
		return 0;
	rgrp_pending_settle(rgd);
	err = discard_free(rgd, from, to, r->minlen, t);
	if (err || !r->all || from || to < rgd->rd_data || rgd->rd_nr_pending)
		return err;
	return mark_trimmed(rgd);
}

static int trim_rgrp(struct gfs2_rgrpd *rgd, const struct range *r, struct gfs2_trim *t)
{
	bool cached = atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed);
	uint32_t from, to;
	int err;

	if (!part_of(rgd, r, &from, &to))
		return 0;
	if (t->stop && t->stop(t->arg))
		return -EINTR;
	err = rgrp_lock(rgd);
	if (err)
		return err;
	err = trim_locked(rgd, r, from, to, t);
	rgrp_unlock(rgd);
	/* Who walks over all of them leaves those that were not in memory as they were: look_in_passing() in rgrp.c. */
	if (!cached) {
		gfs2_glock_cb(rgd->rd_gl, LM_ST_UNLOCKED, false);
		gfs2_glock_wait_demoted(rgd->rd_gl, UINT64_MAX / 2);
	}
	return err;
}

/* What is asked for in blocks; -EINVAL. */
static int range_of(struct gfs2_sbd *sdp, const struct gfs2_trim *t, struct range *r)
{
	const struct gfs2_rgrps *rgs = sdp->sd_rgrps;
	const struct gfs2_rgrpd *last = &rgs->rg[rgs->nr - 1];
	uint32_t least = max_t(uint32_t, sdp->sd_bsize, io_discard_granularity(sdp->sd_io));
	uint64_t blocks = t->len >> sdp->sd_bsize_shift, largest = 0;

	for (unsigned i = 0; i < rgs->nr; i++)
		largest = max_t(uint64_t, largest, rgs->rg[i].rd_data);
	r->start = t->start >> sdp->sd_bsize_shift;
	/* fstrim(8) asks for UINT64_MAX. */
	r->end = blocks > UINT64_MAX - r->start ? UINT64_MAX : r->start + blocks;
	r->minlen = max_t(uint64_t, t->minlen, least) >> sdp->sd_bsize_shift;
	r->all = t->minlen <= least;
	return r->end <= r->start || r->minlen > largest || r->start >= last->rd_data0 + last->rd_data ? -EINVAL : 0;
}

int gfs2_fitrim(struct gfs2_sbd *sdp, struct gfs2_trim *t)
{
	struct range r;
	int err;

	t->trimmed = 0;
	if (sdp->sd_ro)
		return -EROFS;
	if (gfs2_withdrawn(sdp))
		return -EIO;
	err = range_of(sdp, t, &r);
	if (err)
		return err;
	gfs2_inodes_wait_doomed(sdp);
	err = gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL);
	for (unsigned i = 0; i < sdp->sd_rgrps->nr && !err; i++)
		err = trim_rgrp(&sdp->sd_rgrps->rg[i], &r, t);
	return err;
}
