/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Resource groups: which one, and which blocks of it (kernel: rgrp.c:gfs2_inplace_reserve,
 * gfs2_rbm_find, gfs2_alloc_blocks; reference gfs2-ondisk.md 3.4).
 *
 * Choice of the rgrp.  From the goal's rgrp upwards, around the end.  Hints (the number of free
 * blocks when last seen) save locking and reading rgrps that cannot do; an rgrp that was never read
 * may do.  The wishes get smaller from pass to pass: room beside what other writers have reserved
 * and a long run; room; at least min_target.  When all have failed and frees wait for the log, the
 * log is flushed and everything is tried again.
 *
 * Choice of the blocks.  Going on where the file ended costs no new extent, so that is taken
 * whenever it is free.  Otherwise the first run as long as the request, from the goal upwards; and
 * if there is none among the runs looked at, the longest of them.
 *
 * Reservations.  A file that grows gets the free run behind its last extent marked in memory, so that
 * other writers go elsewhere while there is an elsewhere.  They are a courtesy: never needed for
 * correctness, forgotten when there are too many, and overridden rather than answering ENOSPC.
 */
#include <inttypes.h>
#include "fs/rgrp_i.h"

#define SEARCH_RUNS 512		/* runs looked at before the longest one is good enough */
#define LONG_RUN 256		/* a run that makes an rgrp attractive for large requests */
#define RESV_MIN_REQUEST 8	/* requests from this size on, or that continue, reserve */
#define RESV_MIN 32
#define RESV_MAX 16384
#define RESV_PART 8		/* of an rgrp, at most */
#define RESV_AGE 256		/* allocations in the rgrp until a file that did not grow is forgotten */

/* --- reservations --- */

static uint32_t resv_of_others(const struct gfs2_rgrpd *rgd, uint64_t owner)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < rgd->rd_nr_resv; i++)
		if (rgd->rd_resv[i].owner != owner)
			sum += rgd->rd_resv[i].len;
	return sum;
}

static void resv_remove(struct gfs2_rgrpd *rgd, unsigned i)
{
	rgd->rd_resv[i] = rgd->rd_resv[--rgd->rd_nr_resv];
}

void rgrp_resv_forget(struct gfs2_rgrpd *rgd, uint64_t owner)
{
	for (unsigned i = 0; i < rgd->rd_nr_resv; i++)
		if (rgd->rd_resv[i].owner == owner) {
			resv_remove(rgd, i);
			return;
		}
}

static void resv_expire(struct gfs2_rgrpd *rgd)
{
	rgd->rd_resv_clock++;
	for (unsigned i = rgd->rd_nr_resv; i--;)
		if (rgd->rd_resv[i].stamp + RESV_AGE < rgd->rd_resv_clock)
			resv_remove(rgd, i);
}

/* [start, +len) is in use now: reservations keep what lies behind it. */
static void resv_cut(struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len)
{
	uint32_t end = start + len;

	for (unsigned i = rgd->rd_nr_resv; i--;) {
		struct rgrp_resv *r = &rgd->rd_resv[i];
		uint32_t r_end = r->start + r->len;

		if (r->start >= end || r_end <= start)
			continue;
		if (r_end <= end) {
			resv_remove(rgd, i);
			continue;
		}
		r->start = end;
		r->len = r_end - end;
	}
}

static void resv_set(struct gfs2_rgrpd *rgd, uint64_t owner, uint32_t start, uint32_t len)
{
	struct rgrp_resv *slot = NULL;

	rgrp_resv_forget(rgd, owner);
	if (!len)
		return;
	if (!rgd->rd_resv)
		rgd->rd_resv = xmalloc(RGRP_MAX_RESV * sizeof(*rgd->rd_resv));
	if (rgd->rd_nr_resv < RGRP_MAX_RESV) {
		slot = &rgd->rd_resv[rgd->rd_nr_resv++];
	} else {
		slot = &rgd->rd_resv[0];
		for (unsigned i = 1; i < RGRP_MAX_RESV; i++)
			if (rgd->rd_resv[i].stamp < slot->stamp)
				slot = &rgd->rd_resv[i];
	}
	*slot = (struct rgrp_resv){
		.owner = owner, .stamp = rgd->rd_resv_clock, .start = start, .len = len,
	};
}

/* --- searching --- */

struct run {
	uint32_t start, len;
};

struct search {
	const struct gfs2_rgrpd *rgd;
	uint64_t owner;		/* whose reservation does not count */
	bool respect;		/* keep out of the reservations of others */
	struct run promised;	/* that nobody else may take; len 0: none */
	uint32_t want;
};

/* The first forbidden range that overlaps [s, e); false: none. */
static bool first_obstacle(const struct search *s, uint32_t start, uint32_t end, struct run *out)
{
	const struct gfs2_rgrpd *rgd = s->rgd;

	*out = (struct run){ NO_BLOCK, 0 };
	if (s->promised.len && s->promised.start < end &&
	    s->promised.start + s->promised.len > start)
		*out = s->promised;
	for (unsigned i = 0; s->respect && i < rgd->rd_nr_resv; i++) {
		const struct rgrp_resv *r = &rgd->rd_resv[i];

		if (r->owner == s->owner || r->start >= end || r->start + r->len <= start)
			continue;
		if (r->start < out->start)
			*out = (struct run){ r->start, r->len };
	}
	return out->start != NO_BLOCK;
}

/* The first run at or after @from that may be taken; len 0: none up to the end. */
static struct run next_run(const struct search *s, uint32_t from)
{
	uint32_t data = s->rgd->rd_data, start = from;
	struct run obstacle;

	for (;;) {
		uint32_t end;

		start = rgrp_next(s->rgd, start, true);
		if (start >= data)
			return (struct run){ data, 0 };
		end = rgrp_next(s->rgd, start, false);
		if (!first_obstacle(s, start, end, &obstacle))
			return (struct run){ start, end - start };
		if (obstacle.start > start)
			return (struct run){ start, obstacle.start - start };
		start = obstacle.start + obstacle.len;
	}
}

/* *@best <- a run of at least s->want, or the longest seen.  *@complete: all runs were looked at. */
static void search_runs(const struct search *s, uint32_t from, struct run *best, bool *complete)
{
	uint32_t pos = from;
	bool wrapped = false;

	*best = (struct run){ 0, 0 };
	*complete = false;
	for (unsigned seen = 0; seen < SEARCH_RUNS || !best->len;) {
		struct run r = next_run(s, pos);

		if (!r.len || (wrapped && r.start >= from)) {
			if (wrapped || !from) {
				*complete = true;
				return;
			}
			wrapped = true;
			pos = 0;
			continue;
		}
		seen++;
		if (r.len > best->len)
			*best = r;
		if (r.len >= s->want)
			return;
		pos = r.start + r.len;
	}
}

/*
 * Where the search begins, and whether a run there would continue the file.  An inode whose goal is
 * its own block has no data yet.
 */
static uint32_t search_start(const struct gfs2_rgrpd *rgd, const struct gfs2_inode *ip,
			     const struct gfs2_alloc *ap, bool dinode, bool *continues)
{
	uint64_t end = rgd->rd_data0 + rgd->rd_data;
	uint64_t goal = ap->goal;

	*continues = !dinode && (goal || ip->i_res_next || ip->i_goal != ip->i_no_addr);
	if (!goal && !dinode && ip->i_res_next >= rgd->rd_data0 && ip->i_res_next < end)
		goal = ip->i_res_next;
	if (!goal)
		goal = ip->i_goal;
	if (goal >= rgd->rd_data0 && goal < end)
		return (uint32_t)(goal - rgd->rd_data0);
	*continues = false;
	return rgd->rd_last_alloc;
}

/* Blocks for a request of @want; false: nothing at all is free. */
static bool find_blocks(struct gfs2_rgrpd *rgd, const struct gfs2_inode *ip,
			const struct gfs2_alloc *ap, bool dinode, uint32_t want, struct run *out)
{
	struct search s = {
		.rgd = rgd, .owner = dinode ? 0 : ip->i_no_addr, .respect = true,
		.want = want,
	};
	bool continues, complete;
	uint32_t from = search_start(rgd, ip, ap, dinode, &continues);

	if (ap->peeked && !dinode)
		s.promised = (struct run){ ap->peeked - 1, ap->peeked_len };
	if (continues) {
		/* The goal may be the last block of the file or the one behind it. */
		*out = next_run(&s, from);
		if (out->len && out->start <= from + 1)
			return true;
	}
	search_runs(&s, from, out, &complete);
	if (!out->len) {
		s.respect = false;
		search_runs(&s, from, out, &complete);
	}
	if (complete && out->len < want && !rgd->rd_nr_resv)
		rgd->rd_longest = out->len;
	return out->len != 0;
}

/* --- choosing an rgrp --- */

enum reserve_pass { PASS_GOOD, PASS_ROOM, PASS_MINIMUM, PASS_NR };

struct reserve {
	struct gfs2_inode *ip;
	struct gfs2_alloc *ap;
	unsigned start;		/* index of the first rgrp to try */
	enum reserve_pass pass;
	bool pending;		/* an rgrp would do if its frees were durable */
	bool unread;		/* an rgrp was passed by for what its value block says */
	bool read_all;		/* none is */
};

static uint32_t wanted(const struct reserve *rs)
{
	return rs->pass == PASS_MINIMUM ? rs->ap->min_target : rs->ap->target;
}

static unsigned start_rgrp(struct gfs2_sbd *sdp, struct gfs2_inode *ip, struct gfs2_alloc *ap)
{
	const uint64_t goals[] = { ap->goal, ip->i_res_next, ip->i_goal, ip->i_no_addr };
	struct gfs2_rgrps *rgs = sdp->sd_rgrps;
	struct gfs2_rgrpd *rgd = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(goals) && !rgd; i++)
		if (goals[i])
			rgd = gfs2_blk2rgrpd(sdp, goals[i]);
	if (!ap->spread)
		return rgd ? rgd->rd_index : 0;
	/* relaxed: any number will do */
	return ((rgd ? rgd->rd_index : 0) + 1 +
		atomic_fetch_add_explicit(&rgs->spread, 1, memory_order_relaxed)) % rgs->nr;
}

/* From hints only: is @rgd worth a lock? */
static bool rgrp_promising(struct gfs2_sbd *sdp, struct reserve *rs, struct gfs2_rgrpd *rgd)
{
	uint32_t hint = atomic_load_explicit(&rgd->rd_hint_free, memory_order_relaxed);

	if (rs->pass == PASS_GOOD) {
		/* Several nodes: each has rgrps of its own, to spare the others' locks. */
		if (sdp->sd_lm->lm_has_peers && rgd->rd_index != rs->start &&
		    rgd->rd_index % sdp->sd_nr_journals != sdp->sd_jid)
			return false;
		/* A new part of the tree wants room to grow. */
		if (rs->ap->spread && hint != HINT_UNKNOWN && hint < rgd->rd_data / 4)
			return false;
	}
	if (hint == HINT_UNKNOWN || hint >= wanted(rs))
		return true;
	/* The last word is the header's. */
	if (!atomic_load_explicit(&rgd->rd_hint_lvb, memory_order_relaxed))
		return false;
	rs->unread = true;
	return rs->read_all;
}

/* The locked @rgd: does it do?  How many blocks can be had? */
static uint32_t rgrp_offer(struct reserve *rs, struct gfs2_rgrpd *rgd)
{
	uint32_t claimed = atomic_load_explicit(&rgd->rd_claimed, memory_order_relaxed);
	uint32_t free, want = wanted(rs);

	if (rgd->rd_flags & GFS2_RGF_NOALLOC)
		return 0;
	rgrp_pending_settle(rgd);
	if (rgd->rd_free_clone < want + claimed && rgd->rd_free >= want + claimed)
		rs->pending = true;
	free = rgd->rd_free_clone > claimed ? rgd->rd_free_clone - claimed : 0;
	if (rs->pass == PASS_GOOD) {
		uint32_t others = resv_of_others(rgd, rs->ip->i_no_addr);

		if (free < others || free - others < want)
			return 0;
		if (rgd->rd_longest < min_t(uint32_t, want, LONG_RUN) / 2)
			return 0;
	}
	return free < want ? 0 : min_t(uint32_t, free, rs->ap->target);
}

static int try_rgrps(struct gfs2_sbd *sdp, struct reserve *rs)
{
	struct gfs2_rgrps *rgs = sdp->sd_rgrps;

	for (unsigned i = 0; i < rgs->nr; i++) {
		struct gfs2_rgrpd *rgd = &rgs->rg[(rs->start + i) % rgs->nr];
		uint32_t offer;
		int err;

		if (!rgrp_promising(sdp, rs, rgd))
			continue;
		err = rs->read_all ? 0 : rgrp_look_at_lvb(rgd);
		if (err)
			return err;
		if (!rgrp_promising(sdp, rs, rgd))
			continue;
		err = rgrp_lock(rgd);
		if (err)
			return err;
		offer = rgrp_offer(rs, rgd);
		if (offer) {
			rs->ap->rgd = rgd;
			rs->ap->allowed = offer;
			rgrp_claim(rgd, offer);
			return 0;
		}
		rgrp_unlock(rgd);
	}
	return -ENOSPC;
}

int gfs2_inplace_reserve(struct gfs2_inode *ip, struct gfs2_alloc *ap)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct reserve rs = { .ip = ip, .ap = ap };
	int err;

	ap->rgd = NULL;
	ap->taken = ap->allowed = ap->peeked = 0;
	GFS2_BUG_ON(!ap->target || ap->min_target > ap->target);
	if (sdp->sd_ro)
		return -EROFS;
	if (gfs2_withdrawn(sdp))
		return -EIO;
	rs.start = start_rgrp(sdp, ip, ap);
	for (;;) {
		uint64_t gone = gfs2_inodes_gone(sdp);

		rs.pending = rs.unread = false;
		for (rs.pass = PASS_GOOD; rs.pass < PASS_NR; rs.pass++) {
			if (rs.pass == PASS_MINIMUM && !ap->min_target)
				break;
			err = try_rgrps(sdp, &rs);
			if (err != -ENOSPC)
				return err;
		}
		if (rs.unread && !rs.read_all) {
			rs.read_all = true;
			continue;
		}
		if (!rs.pending) {
			/* Those who free would wait for our rgrps. */
			if (rgrp_any_is_mine() || !gfs2_inodes_wait_gone(ip, gone))
				return -ENOSPC;
			continue;
		}
		/* Ends: a flush makes everything that is pending now durable, and whoever
		 * takes the space meanwhile leaves less of it. */
		err = gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL |
						  GFS2_LFC_INPLACE_RESERVE);
		if (err)
			return err;
	}
}

void gfs2_inplace_release(struct gfs2_inode *ip, struct gfs2_alloc *ap)
{
	if (!ap->rgd)
		return;
	if (ap->taken < ap->allowed)
		rgrp_unclaim(ap->rgd, ap->allowed - ap->taken);
	rgrp_unlock(ap->rgd);
	ap->rgd = NULL;
}

unsigned gfs2_rg_blocks(const struct gfs2_alloc *ap, unsigned blocks)
{
	return blocks < ap->rgd->rd_length ? blocks + 1 : ap->rgd->rd_length;
}

/* --- allocating --- */

int gfs2_alloc_peek(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn)
{
	struct run run;

	GFS2_BUG_ON(!ap->rgd);
	if (!find_blocks(ap->rgd, ip, ap, true, 1, &run))
		return gfs2_consist(ip->i_sbd, ap->rgd->rd_addr,
				    "reserved blocks are not free in the bitmap");
	ap->peeked = run.start + 1;
	ap->peeked_len = 1;
	*bn = ap->rgd->rd_data0 + run.start;
	return 0;
}

int gfs2_alloc_peek_run(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n)
{
	struct run run;

	GFS2_BUG_ON(!ap->rgd || !*n || ap->peeked);
	if (!find_blocks(ap->rgd, ip, ap, false, *n, &run))
		return gfs2_consist(ip->i_sbd, ap->rgd->rd_addr,
				    "reserved blocks are not free in the bitmap");
	ap->peeked = run.start + 1;
	ap->peeked_len = min_t(uint32_t, run.len, *n);
	*bn = ap->rgd->rd_data0 + run.start;
	*n = ap->peeked_len;
	return 0;
}

/* What was promised: for a dinode also what is free behind it. */
static bool find_promised(const struct gfs2_rgrpd *rgd, const struct gfs2_alloc *ap, bool dinode,
			  struct run *run)
{
	run->start = ap->peeked - 1;
	if (rgrp_next(rgd, run->start, true) != run->start)
		return false;
	run->len = rgrp_next(rgd, run->start, false) - run->start;
	if (!dinode)
		run->len = min_t(uint32_t, run->len, ap->peeked_len);
	return true;
}

/* Mark [start, +len) in use, in the block and in the clone; the first one as a dinode. */
static void take_bits(struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len, bool dinode)
{
	uint32_t first = start;

	while (len) {
		struct gfs2_rbitmap *bi = &rgd->rd_bits[rgrp_bit_index(rgd, start)];
		uint32_t rel = start - bi->bi_start;
		uint32_t n = min_t(uint32_t, len, bi->bi_blocks - rel);
		uint8_t *bytes = rbit_bytes(bi);

		gfs2_trans_add_meta(rgd->rd_sbd->sd_log, rgd->rd_gl, bi->bi_bh);
		rbit_set(bytes, rel, n, GFS2_BLKST_USED_);
		if (dinode && start == first)
			rbit_set(bytes, rel, 1, GFS2_BLKST_DINODE_);
		if (bi->bi_clone)
			rbit_set(bi->bi_clone, rel, n, GFS2_BLKST_USED_);
		bi->bi_free -= n;
		start += n;
		len -= n;
	}
}

/* The next formal inode number of the rgrp; 0 is not one (reference 2.6). */
static uint64_t next_generation(struct gfs2_rgrpd *rgd)
{
	if (!rgd->rd_igeneration)
		rgd->rd_igeneration = 1;
	return rgd->rd_igeneration++;
}

/* How much a growing file may want next: about as much as it has. */
static uint32_t resv_wish(const struct gfs2_rgrpd *rgd, const struct gfs2_inode *ip, uint32_t got)
{
	uint64_t wish = max_t(uint64_t, ip->i_blocks, 2 * (uint64_t)got);
	uint32_t most = min_t(uint32_t, RESV_MAX, rgd->rd_data / RESV_PART);

	return (uint32_t)min_t(uint64_t, max_t(uint64_t, wish, RESV_MIN), most);
}

/* Remember where @ip will want to go on, and keep others out of there if it is really growing. */
static void remember_next(struct gfs2_rgrpd *rgd, struct gfs2_inode *ip, const struct run *run,
			  uint32_t request)
{
	uint64_t bn = rgd->rd_data0 + run->start;
	bool grows = ip->i_res_next == bn || request >= RESV_MIN_REQUEST;
	uint32_t next = run->start + run->len;
	struct search s = {
		.rgd = rgd, .owner = ip->i_no_addr, .respect = true,
	};

	ip->i_res_next = bn + run->len;
	ip->i_res_len = 0;
	if (grows && S_ISREG(ip->i_mode)) {
		struct run free = next_run(&s, next);

		if (free.len && free.start == next)
			ip->i_res_len = min_t(uint32_t, resv_wish(rgd, ip, run->len), free.len);
	}
	resv_set(rgd, ip->i_no_addr, next, ip->i_res_len);
}

/* In core counters, header image and everything else that follows a change of bits. */
static void account_taken(struct gfs2_rgrpd *rgd, struct gfs2_alloc *ap, const struct run *run,
			  bool dinode)
{
	struct gfs2_sbd *sdp = rgd->rd_sbd;
	uint32_t claimed = ap->allowed - ap->taken;

	rgd->rd_free -= run->len;
	rgd->rd_free_clone -= run->len;
	rgd->rd_dinodes += dinode;
	rgd->rd_last_alloc = run->start + run->len - 1;
	rgrp_unclaim(rgd, min_t(uint32_t, run->len, claimed));
	ap->taken += min_t(uint32_t, run->len, claimed);
	rgrp_out(rgd, 0);
	gfs2_statfs_change(sdp, 0, -(int64_t)run->len, dinode);
	gfs2_trans_remove_revoke(sdp->sd_log, rgd->rd_data0 + run->start, run->len);
}

static int alloc_blocks(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n,
			bool dinode, bool promised, uint64_t *generation)
{
	struct gfs2_rgrpd *rgd = ap->rgd;
	uint32_t request = *n;
	struct run run;
	bool found;

	GFS2_BUG_ON(!rgd || !request || !rgrp_is_mine(rgd));
	gfs2_assert_held(rgd->rd_gl, true);
	gfs2_assert_debug(ap->taken + request <= ap->allowed);
	resv_expire(rgd);
	if (promised)
		found = find_promised(rgd, ap, dinode, &run);
	else
		found = find_blocks(rgd, ip, ap, dinode, request, &run);
	if (!found)
		return gfs2_consist(ip->i_sbd, rgd->rd_addr,
				    "reserved blocks are not free in the bitmap");
	run.len = min_t(uint32_t, run.len, request);
	if (!rgrp_all(rgd, run.start, run.len, GFS2_BLKST_FREE_) || rgd->rd_free < run.len)
		return gfs2_consist(ip->i_sbd, rgd->rd_addr, "free blocks and rg_free differ");

	rgrp_pin_header(rgd);
	take_bits(rgd, run.start, run.len, dinode);
	if (dinode)
		*generation = next_generation(rgd);
	if (promised) {
		ap->peeked_len -= min_t(uint32_t, run.len, ap->peeked_len);
		ap->peeked = ap->peeked_len ? ap->peeked + run.len : 0;
	}
	resv_cut(rgd, run.start, run.len);
	account_taken(rgd, ap, &run, dinode);
	*bn = rgd->rd_data0 + run.start;
	*n = run.len;
	if (!dinode) {
		ip->i_goal = *bn + run.len - 1;
		remember_next(rgd, ip, &run, request);
	}
	return 0;
}

int gfs2_alloc_blocks(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n,
		      bool dinode, uint64_t *generation)
{
	return alloc_blocks(ip, ap, bn, n, dinode, dinode && ap->peeked, generation);
}

int gfs2_alloc_data(struct gfs2_inode *ip, struct gfs2_alloc *ap, uint64_t *bn, unsigned *n)
{
	return alloc_blocks(ip, ap, bn, n, false, ap->peeked, NULL);
}
