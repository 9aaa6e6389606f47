/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Resource groups: locks, bitmaps, headers, and what is asked about them from outside
 * (kernel: rgrp.c, glops.c:rgrp_go_*; reference gfs2-ondisk.md section 3).  rgrp.h has the
 * guarantees, rgrp_i.h the structures and who guards them.
 *
 * The lock of an rgrp.  An operation may need the same rgrp twice (a rename that frees a dinode
 * and allocates a leaf), and several rgrps found one after the other.  So the rgrps that the
 * running operation holds are kept in a list of the thread, the highest address first.  A lock that
 * would violate the order of addresses is not simply waited for: the higher ones are released and
 * taken again.  That is allowed because all of this happens before the transaction is opened, when
 * nothing of what the locks protect has been used yet, except for the claim on free blocks, which
 * is kept in rd_claimed.
 */
#include <inttypes.h>
#include "fs/rgrp_i.h"

/* --- locks --- */

struct rgrp_held {
	struct rgrp_held *next;
	struct gfs2_rgrpd *rgd;
	struct gfs2_holder gh;
	unsigned refs;
	uint32_t claimed;
};

static __thread struct rgrp_held *held_rgrps;

static struct rgrp_held *find_held(const struct gfs2_rgrpd *rgd)
{
	for (struct rgrp_held *h = held_rgrps; h; h = h->next)
		if (h->rgd == rgd)
			return h;
	return NULL;
}

bool rgrp_is_mine(const struct gfs2_rgrpd *rgd)
{
	return find_held(rgd) != NULL;
}

bool rgrp_any_is_mine(void)
{
	return held_rgrps != NULL;
}

/* Take the locks of @h and of what precedes it in the list, in ascending order. */
static int nq_upwards(struct rgrp_held *h)
{
	struct rgrp_held *p;
	int err;

	for (;;) {
		err = gfs2_glock_nq_init(h->rgd->rd_gl, LM_ST_EXCLUSIVE, 0, &h->gh);
		if (err)
			return err;
		atomic_store_explicit(&h->rgd->rd_used, true, memory_order_relaxed);
		if (h->claimed > h->rgd->rd_free_clone)
			return -ENOSPC;
		if (h == held_rgrps)
			return 0;
		for (p = held_rgrps; p->next != h; p = p->next)
			;
		h = p;
	}
}

int rgrp_lock(struct gfs2_rgrpd *rgd)
{
	struct rgrp_held *h = find_held(rgd), **pos = &held_rgrps;
	int err;

	GFS2_BUG_ON(gfs2_trans_active());
	if (h) {
		h->refs++;
		return 0;
	}
	h = xzalloc(sizeof(*h));
	h->rgd = rgd;
	h->refs = 1;
	for (; *pos && (*pos)->rgd->rd_addr > rgd->rd_addr; pos = &(*pos)->next)
		if ((*pos)->gh.gh_gl)
			gfs2_glock_dq_uninit(&(*pos)->gh);
	h->next = *pos;
	*pos = h;
	err = nq_upwards(h);
	if (err)
		rgrp_unlock(rgd);
	return err;
}

void rgrp_unlock(struct gfs2_rgrpd *rgd)
{
	struct rgrp_held *h = find_held(rgd), **pos = &held_rgrps;

	GFS2_BUG_ON(!h);
	if (--h->refs)
		return;
	while (*pos != h)
		pos = &(*pos)->next;
	*pos = h->next;
	/* No glock: taking it again failed. */
	if (h->gh.gh_gl)
		gfs2_glock_dq_uninit(&h->gh);
	free(h);
}

void rgrp_claim(struct gfs2_rgrpd *rgd, uint32_t n)
{
	find_held(rgd)->claimed += n;
	atomic_fetch_add_explicit(&rgd->rd_claimed, n, memory_order_relaxed);
}

void rgrp_unclaim(struct gfs2_rgrpd *rgd, uint32_t n)
{
	struct rgrp_held *h = find_held(rgd);

	gfs2_assert_debug(h->claimed >= n);
	h->claimed -= n;
	atomic_fetch_sub_explicit(&rgd->rd_claimed, n, memory_order_relaxed);
}

/* --- bitmaps: two bits per block, the lowest block in the least significant ones --- */

#define LOW_BITS 0x5555555555555555ULL

/* Word @w of a bitmap of @bytes bytes; what lies behind its end is not free. */
static inline uint64_t load_word(const uint8_t *p, uint32_t bytes, uint32_t w)
{
	uint32_t off = w * 8;
	uint64_t v = UINT64_MAX;

	memcpy(&v, p + off, bytes - off >= 8 ? 8 : bytes - off);
	return le64toh(v);
}

/* The even bit of each pair that is 00. */
static inline uint64_t free_pairs(uint64_t w)
{
	return ~(w | w >> 1) & LOW_BITS;
}

static uint32_t rbit_next(const struct gfs2_rbitmap *bi, uint32_t i, bool want_free)
{
	const uint8_t *p = rbit_view(bi);
	uint32_t words = DIV_ROUND_UP(bi->bi_bytes, 8), w = i / 32;
	uint64_t mask = UINT64_MAX << (i % 32 * 2);

	for (; w < words; w++, mask = UINT64_MAX) {
		uint64_t hit = free_pairs(load_word(p, bi->bi_bytes, w));

		if (!want_free)
			hit = ~hit & LOW_BITS;
		hit &= mask;
		if (hit) {
			i = w * 32 + (uint32_t)__builtin_ctzll(hit) / 2;
			return i < bi->bi_blocks ? i : bi->bi_blocks;
		}
	}
	return bi->bi_blocks;
}

uint32_t rgrp_next(const struct gfs2_rgrpd *rgd, uint32_t i, bool want_free)
{
	if (i >= rgd->rd_data)
		return rgd->rd_data;
	for (unsigned b = rgrp_bit_index(rgd, i); b < rgd->rd_length; b++) {
		const struct gfs2_rbitmap *bi = &rgd->rd_bits[b];
		uint32_t rel = i > bi->bi_start ? i - bi->bi_start : 0;

		if (want_free ? bi->bi_free == 0 : bi->bi_free == bi->bi_blocks)
			continue;
		rel = rbit_next(bi, rel, want_free);
		if (rel < bi->bi_blocks)
			return bi->bi_start + rel;
	}
	return rgd->rd_data;
}

static inline unsigned get_pair(const uint8_t *bytes, uint32_t i)
{
	return bytes[i / 4] >> (i % 4 * 2) & 3;
}

unsigned rgrp_state(const struct gfs2_rgrpd *rgd, uint32_t i)
{
	const struct gfs2_rbitmap *bi = &rgd->rd_bits[rgrp_bit_index(rgd, i)];

	return get_pair(rbit_bytes(bi), i - bi->bi_start);
}

static bool rbit_all(const uint8_t *bytes, uint32_t start, uint32_t len, unsigned state)
{
	uint32_t end = start + len;

	for (; start < end && start % 4; start++)
		if (get_pair(bytes, start) != state)
			return false;
	for (; start + 4 <= end; start += 4)
		if (bytes[start / 4] != state * 0x55)
			return false;
	for (; start < end; start++)
		if (get_pair(bytes, start) != state)
			return false;
	return true;
}

bool rgrp_all(const struct gfs2_rgrpd *rgd, uint32_t start, uint32_t len, unsigned state)
{
	while (len) {
		const struct gfs2_rbitmap *bi = &rgd->rd_bits[rgrp_bit_index(rgd, start)];
		uint32_t rel = start - bi->bi_start;
		uint32_t n = min_t(uint32_t, len, bi->bi_blocks - rel);

		if (!rbit_all(rbit_bytes(bi), rel, n, state))
			return false;
		start += n;
		len -= n;
	}
	return true;
}

static void set_pair(uint8_t *bytes, uint32_t i, unsigned state)
{
	unsigned shift = i % 4 * 2;

	bytes[i / 4] = (uint8_t)((bytes[i / 4] & ~(3u << shift)) | state << shift);
}

void rbit_set(uint8_t *bytes, uint32_t start, uint32_t len, unsigned state)
{
	uint32_t end = start + len;

	for (; start < end && start % 4; start++)
		set_pair(bytes, start, state);
	if (end - start >= 4) {
		memset(bytes + start / 4, (int)(state * 0x55), (end - start) / 4);
		start += ALIGN_DOWN(end - start, 4u);
	}
	for (; start < end; start++)
		set_pair(bytes, start, state);
}

void rbit_count(const uint8_t *bytes, uint32_t nr_bytes, struct rbit_counts *c)
{
	for (uint32_t w = 0; w < DIV_ROUND_UP(nr_bytes, 8); w++) {
		uint64_t v = load_word(bytes, nr_bytes, w);
		uint64_t low = v & LOW_BITS, high = v >> 1 & LOW_BITS;

		/* Pairs behind the end of the bitmap look like dinodes. */
		if ((w + 1) * 8 > nr_bytes) {
			uint64_t mask = ~(UINT64_MAX << (nr_bytes % 8 * 8));

			low &= mask;
			high &= mask;
			c->free -= 32 - nr_bytes % 8 * 4;
		}
		c->free += 32 - (uint32_t)__builtin_popcountll(low | high);
		c->used += (uint32_t)__builtin_popcountll(low & ~high);
		c->unlinked += (uint32_t)__builtin_popcountll(high & ~low);
		c->dinodes += (uint32_t)__builtin_popcountll(high & low);
	}
}

/* --- header --- */

void rgrp_pin_header(struct gfs2_rgrpd *rgd)
{
	gfs2_trans_add_meta(rgd->rd_sbd->sd_log, rgd->rd_gl, rgd->rd_bits[0].bi_bh);
}

/*
 * The value block that other nodes may look at instead of the header (reference 3.7).  The flags are those of the header's image, which a
 * kernel node with rgrplvb compares bit for bit.
 */
static void lvb_out(struct gfs2_rgrpd *rgd)
{
	const struct gfs2_rgrp *rg = (const void *)rgd->rd_bits[0].bi_bh->b_data;
	struct gfs2_rgrp_lvb lvb = {
		.rl_magic = cpu_to_be32(GFS2_MAGIC),
		.rl_flags = rg->rg_flags,
		.rl_free = cpu_to_be32(rgd->rd_free),
		.rl_dinodes = cpu_to_be32(rgd->rd_dinodes),
		.rl_igeneration = cpu_to_be64(rgd->rd_igeneration),
		.rl_unlinked = cpu_to_be32(rgd->rd_unlinked),
	};

	memcpy(rgd->rd_gl->gl_lvb, &lvb, sizeof(lvb));
}

static bool lvb_is_there(const struct gfs2_rgrpd *rgd)
{
	struct gfs2_rgrp_lvb lvb;

	memcpy(&lvb, rgd->rd_gl->gl_lvb, sizeof(lvb));
	return lvb.rl_magic == cpu_to_be32(GFS2_MAGIC);
}

/* Does the value block say what the header says?  (kernel: gfs2_rgrp_lvb_valid) */
static bool lvb_fits(const struct gfs2_rgrpd *rgd)
{
	const struct gfs2_rgrp *rg = (const void *)rgd->rd_bits[0].bi_bh->b_data;
	struct gfs2_rgrp_lvb lvb;

	memcpy(&lvb, rgd->rd_gl->gl_lvb, sizeof(lvb));
	return lvb.rl_magic == cpu_to_be32(GFS2_MAGIC) && lvb.rl_flags == rg->rg_flags &&
	       lvb.rl_free == rg->rg_free && lvb.rl_dinodes == rg->rg_dinodes &&
	       lvb.rl_igeneration == rg->rg_igeneration;
}

int rgrp_look_at_lvb(struct gfs2_rgrpd *rgd)
{
	struct gfs2_rgrp_lvb lvb;
	struct gfs2_holder gh;
	int err;

	if (!rgd->rd_sbd->sd_rgrplvb || atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed) ||
	    atomic_load_explicit(&rgd->rd_hint_free, memory_order_relaxed) != HINT_UNKNOWN)
		return 0;
	/* Not against the order of addresses: the list begins with the highest one. */
	if (held_rgrps && held_rgrps->rgd->rd_addr >= rgd->rd_addr)
		return 0;
	/* The state that is needed if there is room; without reading anything. */
	err = gfs2_glock_nq_init(rgd->rd_gl, LM_ST_EXCLUSIVE, GL_SKIP, &gh);
	if (err)
		return err;
	memcpy(&lvb, rgd->rd_gl->gl_lvb, sizeof(lvb));
	if (lvb.rl_magic == cpu_to_be32(GFS2_MAGIC) &&
	    !atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed)) {
		atomic_store_explicit(&rgd->rd_hint_lvb, true, memory_order_relaxed);
		atomic_store_explicit(&rgd->rd_hint_free, be32_to_cpu(lvb.rl_free), memory_order_relaxed);
	}
	gfs2_glock_dq_uninit(&gh);
	return 0;
}

void rgrp_out(struct gfs2_rgrpd *rgd, int unlinked)
{
	const struct gfs2_rgrps *rgs = rgd->rd_sbd->sd_rgrps;
	struct gfs2_rgrp *rg = (void *)rgd->rd_bits[0].bi_bh->b_data;

	rg->rg_flags = cpu_to_be32(rgd->rd_flags);
	rg->rg_free = cpu_to_be32(rgd->rd_free);
	rg->rg_dinodes = cpu_to_be32(rgd->rd_dinodes);
	/* The last one keeps what it has, as in the kernel (gfs2_rgrp_out). */
	if (rgd->rd_index + 1 < rgs->nr)
		rg->rg_skip = cpu_to_be32((uint32_t)(rgd[1].rd_addr - rgd->rd_addr));
	else if (rgs->nr == 1)
		rg->rg_skip = 0;
	rg->rg_igeneration = cpu_to_be64(rgd->rd_igeneration);
	rg->rg_data0 = cpu_to_be64(rgd->rd_data0);
	rg->rg_data = cpu_to_be32(rgd->rd_data);
	rg->rg_bitbytes = cpu_to_be32(rgd->rd_bitbytes);
	memset(rg->rg_reserved, 0, sizeof(rg->rg_reserved));
	rg->rg_crc = 0;
	rg->rg_crc = cpu_to_be32(gfs2_crc32(0, rg, sizeof(*rg)));
	rgd->rd_unlinked += (uint32_t)unlinked;
	lvb_out(rgd);
	atomic_store_explicit(&rgd->rd_hint_free, rgd->rd_free, memory_order_relaxed);
}

/* --- glops --- */

static struct gfs2_rgrpd *gl2rgd(struct gfs2_glock *gl)
{
	struct gfs2_rgrpd *rgd;

	rmutex_lock(&gl->gl_lock);
	rgd = gl->gl_object;
	rmutex_unlock(&gl->gl_lock);
	return rgd;
}

static void release_bitmaps(struct gfs2_rgrpd *rgd)
{
	atomic_store_explicit(&rgd->rd_valid, false, memory_order_relaxed);
	for (unsigned b = 0; rgd->rd_bits && b < rgd->rd_length; b++)
		buf_put(rgd->rd_bits[b].bi_bh);
	free(rgd->rd_bits);
	rgd->rd_bits = NULL;
}

void rgrp_release(struct gfs2_rgrpd *rgd)
{
	rgrp_pending_drop(rgd);
	release_bitmaps(rgd);
	rgd->rd_nr_resv = 0;
	/* Alone, nobody changes what we do not look at. */
	if (rgd->rd_sbd->sd_lm->lm_has_peers) {
		atomic_store_explicit(&rgd->rd_hint_free, HINT_UNKNOWN, memory_order_relaxed);
		atomic_store_explicit(&rgd->rd_hint_lvb, false, memory_order_relaxed);
	}
}

int rgrp_go_sync(struct gfs2_glock *gl)
{
	struct gfs2_sbd *sdp = glock_sbd(gl);
	struct gfs2_rgrpd *rgd = gl2rgd(gl);

	/* What the next holder will be told; nothing, if it was not valid when a read lock became a write lock. */
	gfs2_assert_debug(!rgd || !atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed) ||
			  !lvb_is_there(rgd) || lvb_fits(rgd));
	if (!sdp->sd_log || gfs2_withdrawn(sdp))
		return 0;
	return gfs2_ail_empty_gl(sdp->sd_log, gl, sdp->sd_lm->lm_has_peers);
}

void rgrp_go_inval(struct gfs2_glock *gl, bool metadata)
{
	struct gfs2_rgrpd *rgd = gl2rgd(gl);

	/* rgrp_go_sync() has flushed the log: nothing is pending any more. */
	if (rgd)
		rgrp_release(rgd);
	mapping_invalidate(&gl->gl_mapping);
	rmutex_lock(&gl->gl_lock);
	gl->gl_flags |= 1ul << GLF_INSTANTIATE_NEEDED;
	rmutex_unlock(&gl->gl_lock);
}

/*
 * The clock algorithm: an rgrp that nobody looked at since the last round is given up, so that its
 * bitmaps can leave the cache.
 */
void gfs2_rgrps_shrink(struct gfs2_sbd *sdp)
{
	for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++) {
		struct gfs2_rgrpd *rgd = &sdp->sd_rgrps->rg[r];

		if (atomic_exchange_explicit(&rgd->rd_used, false, memory_order_relaxed))
			continue;
		if (atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed))
			gfs2_glock_cb(rgd->rd_gl, LM_ST_UNLOCKED, false);
	}
}

static int read_bitmaps(struct gfs2_rgrpd *rgd)
{
	uint64_t *blocks = xmalloc(rgd->rd_length * sizeof(*blocks));
	int err = 0;

	rgrp_make_bits(rgd);
	for (unsigned b = 0; b < rgd->rd_length; b++)
		blocks[b] = rgd->rd_addr + b;
	if (rgd->rd_length > 1)
		buf_readahead(&rgd->rd_gl->gl_mapping, blocks, rgd->rd_length);
	for (unsigned b = 0; b < rgd->rd_length && !err; b++)
		err = gfs2_meta_read(rgd->rd_sbd, rgd->rd_gl, blocks[b],
				     b ? GFS2_METATYPE_RB : GFS2_METATYPE_RG,
				     &rgd->rd_bits[b].bi_bh);
	free(blocks);
	return err;
}

/* Counters <- header, and they must be what the bitmaps say. */
static int header_in(struct gfs2_rgrpd *rgd)
{
	const struct gfs2_rgrp *rg = (const void *)rgd->rd_bits[0].bi_bh->b_data;
	struct rbit_counts all = { 0 };

	rgd->rd_flags = be32_to_cpu(rg->rg_flags) & RGRP_DISK_FLAGS;
	rgd->rd_free = be32_to_cpu(rg->rg_free);
	rgd->rd_dinodes = be32_to_cpu(rg->rg_dinodes);
	rgd->rd_igeneration = be64_to_cpu(rg->rg_igeneration);
	for (unsigned b = 0; b < rgd->rd_length; b++) {
		struct gfs2_rbitmap *bi = &rgd->rd_bits[b];
		uint32_t before = all.free;

		rbit_count(rbit_bytes(bi), bi->bi_bytes, &all);
		bi->bi_free = all.free - before;
	}
	if (rgd->rd_free != all.free)
		return gfs2_consist(rgd->rd_sbd, rgd->rd_addr,
				    "rg_free differs from the free blocks in the bitmap");
	if (rgd->rd_dinodes != all.dinodes + all.unlinked)
		return gfs2_consist(rgd->rd_sbd, rgd->rd_addr,
				    "rg_dinodes differs from the dinodes in the bitmap");
	rgd->rd_free_clone = rgd->rd_free;
	rgd->rd_longest = NO_BLOCK;
	/* A value block may be older than the header if its writer has died: then the header is right.  (The kernel withdraws.) */
	if (rgd->rd_sbd->sd_rgrplvb && lvb_is_there(rgd) && !lvb_fits(rgd))
		fs_warn("resource group %" PRIu64 ": the value block is not what the header says", rgd->rd_addr);
	rgd->rd_unlinked = all.unlinked;
	lvb_out(rgd);
	if (all.unlinked) {
		/* relaxed: who misses it looks again a moment later */
		atomic_store_explicit(&rgd->rd_unlinked_seen, true, memory_order_relaxed);
		atomic_store_explicit(&rgd->rd_sbd->sd_rgrps->unlinked_seen, true, memory_order_relaxed);
	}
	return 0;
}

int rgrp_go_instantiate(struct gfs2_glock *gl)
{
	struct gfs2_rgrpd *rgd = gl2rgd(gl);
	int err;

	if (!rgd || atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed))
		return 0;
	err = read_bitmaps(rgd);
	if (!err)
		err = header_in(rgd);
	if (err) {
		release_bitmaps(rgd);
		return err;
	}
	atomic_store_explicit(&rgd->rd_hint_free, rgd->rd_free, memory_order_relaxed);
	atomic_store_explicit(&rgd->rd_hint_lvb, false, memory_order_relaxed);
	atomic_store_explicit(&rgd->rd_valid, true, memory_order_relaxed);
	return 0;
}

/* The kernel's line (reference 7.1); requested and reserved are what waits and what is kept. */
void rgrp_go_dump(struct gfs2_glock *gl, FILE *out)
{
	struct gfs2_rgrpd *rgd = gl2rgd(gl);

	if (!rgd)
		return;
	fprintf(out, " R: n:%" PRIu64 " f:%02x b:%u/%u i:%u q:%u r:%u e:%u\n", rgd->rd_addr,
		rgd->rd_flags, rgd->rd_free, rgd->rd_free_clone, rgd->rd_dinodes,
		atomic_load_explicit(&rgd->rd_claimed, memory_order_relaxed), rgd->rd_nr_resv,
		rgd->rd_longest == NO_BLOCK ? rgd->rd_data : rgd->rd_longest);
}

/* --- questions --- */

struct gfs2_rgrpd *gfs2_blk2rgrpd(struct gfs2_sbd *sdp, uint64_t blkno)
{
	struct gfs2_rgrps *rgs = sdp->sd_rgrps;
	unsigned lo = 0, hi = rgs ? rgs->nr : 0;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		struct gfs2_rgrpd *rgd = &rgs->rg[mid];

		if (blkno < rgd->rd_data0)
			hi = mid;
		else if (blkno >= rgd->rd_data0 + rgd->rd_data)
			lo = mid + 1;
		else
			return rgd;
	}
	return NULL;
}

bool gfs2_blk_in_rgrp(struct gfs2_sbd *sdp, uint64_t blkno)
{
	return gfs2_blk2rgrpd(sdp, blkno) != NULL;
}

uint64_t gfs2_rgrp_of_block(struct gfs2_sbd *sdp, uint64_t blkno)
{
	const struct gfs2_rgrpd *rgd = gfs2_blk2rgrpd(sdp, blkno);

	return rgd ? rgd->rd_addr : 0;
}

/* A holder to look at @rgd; @gh stays unused when the running operation has it anyway. */
static int look_at(struct gfs2_rgrpd *rgd, unsigned flags, struct gfs2_holder *gh)
{
	memset(gh, 0, sizeof(*gh));
	if (rgrp_is_mine(rgd))
		return 0;
	atomic_store_explicit(&rgd->rd_used, true, memory_order_relaxed);
	return gfs2_glock_nq_init(rgd->rd_gl, LM_ST_SHARED, flags, gh);
}

/*
 * Who walks over all of them leaves those that were not in memory as they were: the bitmaps of a large volume do not fit
 * into the cache, and what is instantiated cannot leave it.
 */
static int look_in_passing(struct gfs2_rgrpd *rgd, struct gfs2_holder *gh)
{
	bool cached = atomic_load_explicit(&rgd->rd_valid, memory_order_relaxed);

	return look_at(rgd, cached ? 0 : GL_NOCACHE, gh);
}

static void looked(struct gfs2_rgrpd *rgd, struct gfs2_holder *gh)
{
	bool in_passing = gh->gh_flags & GL_NOCACHE;

	if (rgrp_is_mine(rgd))
		return;
	gfs2_glock_dq_uninit(gh);
	if (in_passing)
		gfs2_glock_wait_demoted(rgd->rd_gl, UINT64_MAX / 2);
}

int gfs2_get_block_type(struct gfs2_sbd *sdp, uint64_t blkno)
{
	struct gfs2_rgrpd *rgd = gfs2_blk2rgrpd(sdp, blkno);
	struct gfs2_holder gh;
	int ret;

	if (!rgd)
		return -EINVAL;
	ret = look_at(rgd, 0, &gh);
	if (ret)
		return ret;
	ret = (int)rgrp_state(rgd, (uint32_t)(blkno - rgd->rd_data0));
	looked(rgd, &gh);
	return ret;
}

/* Addresses of all unlinked dinodes of @rgd, in memory of the caller. */
static int collect_unlinked(struct gfs2_rgrpd *rgd, uint64_t **list, unsigned *nr)
{
	struct gfs2_holder gh;
	uint32_t unlinked;
	int err = look_in_passing(rgd, &gh);

	*list = NULL;
	*nr = 0;
	if (err)
		return err;
	unlinked = rgd->rd_unlinked;
	if (unlinked)
		*list = xmalloc(unlinked * sizeof(**list));
	for (uint32_t i = 0; i < rgd->rd_data && *nr < unlinked; i++)
		if (rgrp_state(rgd, i) == GFS2_BLKST_UNLINKED_)
			(*list)[(*nr)++] = rgd->rd_data0 + i;
	looked(rgd, &gh);
	return 0;
}

/* One that cannot be read is no reason to leave the others. */
static int each_unlinked(struct gfs2_rgrpd *rgd, int (*fn)(struct gfs2_sbd *, uint64_t blkno))
{
	uint64_t *list;
	unsigned nr;
	int err = collect_unlinked(rgd, &list, &nr);

	for (unsigned i = 0; i < nr && !gfs2_withdrawn(rgd->rd_sbd); i++) {
		int e = fn(rgd->rd_sbd, list[i]);

		if (!err)
			err = e;
	}
	free(list);
	return err;
}

int gfs2_for_each_unlinked(struct gfs2_sbd *sdp, int (*fn)(struct gfs2_sbd *, uint64_t blkno))
{
	int err = 0;

	for (unsigned r = 0; r < sdp->sd_rgrps->nr && !gfs2_withdrawn(sdp); r++) {
		int e = each_unlinked(&sdp->sd_rgrps->rg[r], fn);

		if (!err)
			err = e;
		atomic_store_explicit(&sdp->sd_rgrps->rg[r].rd_unlinked_seen, false,
				      memory_order_relaxed);
	}
	return err;
}

int gfs2_for_each_unlinked_seen(struct gfs2_sbd *sdp, int (*fn)(struct gfs2_sbd *, uint64_t blkno))
{
	int err = 0;

	if (!atomic_exchange_explicit(&sdp->sd_rgrps->unlinked_seen, false, memory_order_relaxed))
		return 0;
	for (unsigned r = 0; r < sdp->sd_rgrps->nr && !gfs2_withdrawn(sdp); r++) {
		struct gfs2_rgrpd *rgd = &sdp->sd_rgrps->rg[r];
		int e = 0;

		if (atomic_exchange_explicit(&rgd->rd_unlinked_seen, false, memory_order_relaxed))
			e = each_unlinked(rgd, fn);
		if (!err)
			err = e;
	}
	return err;
}

bool gfs2_unlinked_seen(const struct gfs2_sbd *sdp)
{
	/* relaxed: who has read the group set it himself */
	return atomic_load_explicit(&sdp->sd_rgrps->unlinked_seen, memory_order_relaxed);
}

int gfs2_rgrps_look(struct gfs2_sbd *sdp)
{
	int err = 0;

	for (unsigned r = 0; r < sdp->sd_rgrps->nr && !err; r++) {
		struct gfs2_rgrpd *rgd = &sdp->sd_rgrps->rg[r];
		struct gfs2_holder gh;

		if (atomic_load_explicit(&rgd->rd_hint_free, memory_order_relaxed) != HINT_UNKNOWN)
			continue;
		err = look_in_passing(rgd, &gh);
		if (!err)
			looked(rgd, &gh);
	}
	return err;
}

uint64_t gfs2_rgrps_bitmap_bytes(const struct gfs2_sbd *sdp)
{
	uint64_t bytes = 0;

	for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++)
		bytes += sdp->sd_rgrps->rg[r].rd_bitbytes;
	return bytes;
}

int gfs2_rgrps_sum(struct gfs2_sbd *sdp, struct gfs2_statfs_host *out)
{
	*out = (struct gfs2_statfs_host){ 0 };
	for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++) {
		struct gfs2_rgrpd *rgd = &sdp->sd_rgrps->rg[r];
		struct gfs2_holder gh;
		int err = look_in_passing(rgd, &gh);

		if (err)
			return err;
		out->total += rgd->rd_data;
		out->free += rgd->rd_free;
		out->dinodes += rgd->rd_dinodes;
		looked(rgd, &gh);
	}
	return 0;
}
