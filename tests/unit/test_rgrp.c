/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Resource groups: bitmaps, header images, and the allocator on real volumes against a model that
 * knows the state of every block and the batch in which it was freed.
 */
#include <pthread.h>
#include "vol.h"
#include "fs/inode.h"
#include "fs/rgrp_i.h"

/* --- bitmaps, without a volume --- */

static uint32_t rnd_state = 1;

static uint32_t rnd(uint32_t below)
{
	rnd_state = rnd_state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)rnd_state * below >> 32);
}

/* An rgrp with two bitmap blocks of odd lengths, in memory only. */
#define FIRST_BYTES 61
#define SECOND_BYTES 43
#define FAKE_BLOCKS ((FIRST_BYTES + SECOND_BYTES) * 4)

struct fake {
	char block[2][512];
	struct gfs2_bh bh[2];
	struct gfs2_rbitmap bits[2];
	struct gfs2_rgrpd rgd;
};

static void fake_init(struct fake *f)
{
	memset(f, 0, sizeof(*f));
	for (int b = 0; b < 2; b++) {
		f->bh[b].b_data = f->block[b];
		f->bits[b].bi_bh = &f->bh[b];
	}
	f->bits[0].bi_offset = sizeof(struct gfs2_rgrp);
	f->bits[0].bi_bytes = FIRST_BYTES;
	f->bits[0].bi_blocks = FIRST_BYTES * 4;
	f->bits[1].bi_offset = sizeof(struct gfs2_meta_header);
	f->bits[1].bi_bytes = SECOND_BYTES;
	f->bits[1].bi_start = FIRST_BYTES * 4;
	f->bits[1].bi_blocks = SECOND_BYTES * 4;
	f->rgd.rd_bits = f->bits;
	f->rgd.rd_length = 2;
	f->rgd.rd_data = FAKE_BLOCKS;
}

static void fake_set(struct fake *f, uint32_t i, unsigned state)
{
	struct gfs2_rbitmap *bi = &f->bits[rgrp_bit_index(&f->rgd, i)];

	rbit_set(rbit_bytes(bi), i - bi->bi_start, 1, state);
}

static void fake_count(struct fake *f, struct rbit_counts *all)
{
	memset(all, 0, sizeof(*all));
	for (int b = 0; b < 2; b++) {
		struct rbit_counts c = { 0 };

		rbit_count(rbit_bytes(&f->bits[b]), f->bits[b].bi_bytes, &c);
		f->bits[b].bi_free = c.free;
		rbit_count(rbit_bytes(&f->bits[b]), f->bits[b].bi_bytes, all);
	}
}

static void test_bitmap(void **state)
{
	uint8_t model[FAKE_BLOCKS];
	struct rbit_counts c;
	struct fake f;

	for (int round = 0; round < 200; round++) {
		uint32_t counts[4] = { 0 }, density = 1 + rnd(60);

		fake_init(&f);
		/* What lies around the bitmaps must not matter. */
		memset(f.block, round & 1 ? 0xff : 0x00, sizeof(f.block));
		for (uint32_t i = 0; i < FAKE_BLOCKS; i++) {
			model[i] = rnd(density) ? 0 : (uint8_t)rnd(4);
			if (round % 3 == 0)
				model[i] = model[i] ? 0 : 1;
			fake_set(&f, i, model[i]);
			counts[model[i]]++;
		}
		fake_count(&f, &c);
		assert_int_equal(c.free, counts[0]);
		assert_int_equal(c.used, counts[1]);
		assert_int_equal(c.unlinked, counts[2]);
		assert_int_equal(c.dinodes, counts[3]);
		for (uint32_t i = 0; i < FAKE_BLOCKS; i++) {
			uint32_t free = i, used = i, len = 1 + rnd(FAKE_BLOCKS - i), n = 0;

			assert_int_equal(rgrp_state(&f.rgd, i), model[i]);
			while (free < FAKE_BLOCKS && model[free])
				free++;
			while (used < FAKE_BLOCKS && !model[used])
				used++;
			assert_int_equal(rgrp_next(&f.rgd, i, true), free);
			assert_int_equal(rgrp_next(&f.rgd, i, false), used);
			while (n < len && model[i + n] == model[i])
				n++;
			assert_int_equal(rgrp_all(&f.rgd, i, len, model[i]), n == len);
		}
	}
}

static void test_bit_runs(void **state)
{
	uint8_t bytes[64], model[256];

	memset(bytes, 0, sizeof(bytes));
	memset(model, 0, sizeof(model));
	for (int round = 0; round < 2000; round++) {
		uint32_t start = rnd(256), len = 1 + rnd(256 - start);
		unsigned s = rnd(4);

		rbit_set(bytes, start, len, s);
		memset(model + start, (int)s, len);
		for (uint32_t i = 0; i < 256; i++)
			assert_int_equal(bytes[i / 4] >> (i % 4 * 2) & 3, model[i]);
	}
}

/* --- header image: reference 11.4 --- */

static const uint8_t example_header[72] = {
	0x01, 0x16, 0x19, 0x70, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0xc8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x74, 0x99,
	0, 0, 0x76, 0xe7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x76, 0xde,
	0, 0, 0, 0, 0, 0, 0x10, 0x27, 0, 0, 0xef, 0xd8, 0, 0, 0x3b, 0xf6,
	0x38, 0xa9, 0x46, 0x39, 0, 0, 0, 0,
};

static void test_header_image(void **state)
{
	struct gfs2_glock gl = { .gl_type = LM_TYPE_RGRP };
	struct gfs2_sbd sdp = { .sd_bsize = 512 };
	struct gfs2_rgrps rgs = { .nr = 3 };
	struct gfs2_rgrpd array[3] = { 0 };
	struct gfs2_rgrpd *rgd = &array[2];
	struct gfs2_rgrp_lvb lvb;
	struct fake f;

	fake_init(&f);
	rgs.rg = array;
	sdp.sd_rgrps = &rgs;
	rgd->rd_sbd = &sdp;
	rgd->rd_gl = &gl;
	rgd->rd_index = 2;
	rgd->rd_bits = f.bits;
	rgd->rd_addr = 4131;
	rgd->rd_data0 = 4135;
	rgd->rd_data = 61400;
	rgd->rd_bitbytes = 15350;
	rgd->rd_free = 29849;
	rgd->rd_dinodes = 30439;
	rgd->rd_igeneration = 30430;
	/* The reserved area is cleared before the checksum, the header stays as it was set. */
	memset(f.block[0] + 68, 0xee, 60);
	gfs2_metatype_set(&f.bh[0], GFS2_METATYPE_RG, GFS2_FORMAT_RG);
	rgrp_out(rgd, 5);
	assert_memory_equal(f.block[0], example_header, sizeof(example_header));
	for (int i = 68; i < 128; i++)
		assert_int_equal(f.block[0][i], 0);
	memcpy(&lvb, gl.gl_lvb, sizeof(lvb));
	assert_int_equal(be32_to_cpu(lvb.rl_magic), GFS2_MAGIC);
	assert_int_equal(be32_to_cpu(lvb.rl_free), 29849);
	assert_int_equal(be32_to_cpu(lvb.rl_dinodes), 30439);
	assert_int_equal(be64_to_cpu(lvb.rl_igeneration), 30430);
	assert_int_equal(be32_to_cpu(lvb.rl_unlinked), 5);
	/* Not the last one: the distance to the next. */
	rgd->rd_index = 1;
	array[1] = *rgd;
	array[2].rd_addr = 4131 + 1000;
	rgrp_out(&array[1], 0);
	assert_int_equal(be32_to_cpu(((struct gfs2_rgrp *)f.block[0])->rg_skip), 1000);
}

/* --- volumes --- */

static struct io_engine *engine;
static struct gfs2_sbd *sdp;

static void vol_mount(void)
{
	engine = vol_open(false);
	assert_int_equal(gfs2_mount(engine, &vol_args, &sdp), 0);
	/* It would free what the tests unlink, which has no dinode, whenever a group is read again. */
	gfs2_maint_stop(sdp);
}

static void vol_unmount(void)
{
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(engine);
}

static void check_sums(void)
{
	struct gfs2_statfs_host sum, st;

	assert_int_equal(gfs2_rgrps_sum(sdp, &sum), 0);
	gfs2_statfs_get(sdp, &st);
	assert_int_equal(st.total, sum.total);
	assert_int_equal(st.free, sum.free);
	assert_int_equal(st.dinodes, sum.dinodes);
}

/* Every header on the store: checksum, and counters against its bitmap (512 to 4096 bytes). */
static void check_headers(unsigned bsize, uint64_t addr, uint32_t length, uint32_t bitbytes)
{
	char *buf = malloc((size_t)length * bsize);
	struct gfs2_rgrp *rg = (void *)buf;
	struct rbit_counts c = { 0 };
	uint32_t crc, left = bitbytes;

	vol_read(buf, (size_t)length * bsize, addr * bsize);
	crc = be32_to_cpu(rg->rg_crc);
	rg->rg_crc = 0;
	assert_int_equal(crc, gfs2_crc32(0, rg, sizeof(*rg)));
	for (uint32_t b = 0; b < length; b++) {
		uint32_t off = b ? 24 : 128, n = min_t(uint32_t, left, bsize - off);

		rbit_count((uint8_t *)buf + b * bsize + off, n, &c);
		left -= n;
	}
	assert_int_equal(c.free, be32_to_cpu(rg->rg_free));
	assert_int_equal(c.dinodes + c.unlinked, be32_to_cpu(rg->rg_dinodes));
	free(buf);
}

/* --- the model --- */

enum { M_FREE, M_USED, M_UNLINKED, M_DINODE, M_SYSTEM };

struct model {
	uint64_t blocks;
	uint8_t *state;		/* what our allocations made; M_SYSTEM: not ours */
	uint64_t *freed;	/* batch of the last free */
	uint64_t *generation;	/* last formal number, per block */
};

static void model_init(struct model *m)
{
	m->blocks = sdp->sd_device_blocks;
	m->state = calloc(m->blocks, 1);
	m->freed = calloc(m->blocks, sizeof(uint64_t));
	m->generation = calloc(m->blocks, sizeof(uint64_t));
	memset(m->state, M_SYSTEM, m->blocks);
	for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++) {
		struct gfs2_rgrpd *rgd = &sdp->sd_rgrps->rg[r];

		for (uint32_t i = 0; i < rgd->rd_data; i++) {
			int type = gfs2_get_block_type(sdp, rgd->rd_data0 + i);

			assert_true(type >= 0);
			if (!type)
				m->state[rgd->rd_data0 + i] = M_FREE;
		}
	}
}

static void model_exit(struct model *m)
{
	free(m->state);
	free(m->freed);
	free(m->generation);
}

static void model_check(const struct model *m)
{
	for (uint64_t b = 0; b < m->blocks; b++)
		if (m->state[b] != M_SYSTEM)
			assert_int_equal(gfs2_get_block_type(sdp, b), m->state[b]);
}

/* @n blocks were handed out: they were free, and durably so. */
static void model_take(struct model *m, uint64_t bn, unsigned n, bool dinode, uint64_t generation)
{
	uint64_t durable = gfs2_log_durable_seq(sdp->sd_log);

	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(m->state[bn + i], M_FREE);
		assert_true(m->freed[bn + i] <= durable);
		m->state[bn + i] = M_USED;
	}
	if (dinode) {
		m->state[bn] = M_DINODE;
		assert_true(generation > m->generation[bn]);
		m->generation[bn] = generation;
	}
}

/* An operation of @ip that allocates up to @want blocks; 0 or -ENOSPC. */
static int do_alloc(struct model *m, struct gfs2_inode *ip, uint32_t want, bool dinode, bool partial)
{
	struct gfs2_alloc ap = { .target = want, .min_target = partial ? 1 : 0 };
	uint64_t bn, peeked = 0, generation = 0;
	struct gfs2_holder gh;
	int err;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	err = gfs2_inplace_reserve(ip, &ap);
	if (err) {
		gfs2_glock_dq_uninit(&gh);
		return err;
	}
	assert_true(ap.allowed && ap.allowed <= want && (partial || ap.allowed == want));
	if (dinode)
		assert_int_equal(gfs2_alloc_peek(ip, &ap, &peeked), 0);
	assert_int_equal(gfs2_trans_begin(sdp->sd_log, gfs2_rg_blocks(&ap, ap.allowed) + 1, 0), 0);
	for (uint32_t got = 0; got < ap.allowed;) {
		unsigned n = ap.allowed - got;

		/* Other blocks first: what was promised stays free. */
		bool first = dinode && got + 1 == ap.allowed;

		if (dinode && !first)
			n--;
		assert_int_equal(gfs2_alloc_blocks(ip, &ap, &bn, &n, first, &generation), 0);
		model_take(m, bn, n, first, generation);
		if (first)
			assert_int_equal(bn, peeked);
		got += n;
	}
	gfs2_trans_end(sdp->sd_log);
	gfs2_inplace_release(ip, &ap);
	gfs2_glock_dq_uninit(&gh);
	return 0;
}

enum change { CH_FREE, CH_UNLINK, CH_FREE_DI };

static void do_change(struct model *m, uint64_t bn, uint32_t len, enum change ch, bool meta)
{
	struct gfs2_rgrp_list rl;
	int err;

	gfs2_rlist_init(&rl);
	assert_int_equal(gfs2_rlist_add(sdp, &rl, bn), 0);
	assert_int_equal(gfs2_rlist_add(sdp, &rl, bn), 0);
	assert_int_equal(rl.rl_rgrps, 1);
	assert_int_equal(gfs2_rlist_lock(sdp, &rl), 0);
	assert_int_equal(gfs2_trans_begin(sdp->sd_log, gfs2_rlist_blocks(&rl, len) + 1,
					  meta ? len : 0), 0);
	if (ch == CH_FREE)
		err = gfs2_free_blocks(sdp, bn, len);
	else if (ch == CH_UNLINK)
		err = gfs2_unlink_di(sdp, bn);
	else
		err = gfs2_free_di(sdp, bn);
	assert_int_equal(err, 0);
	for (uint32_t i = 0; i < len; i++) {
		m->state[bn + i] = ch == CH_UNLINK ? M_UNLINKED : M_FREE;
		if (ch != CH_UNLINK)
			m->freed[bn + i] = gfs2_trans_batch_seq(sdp->sd_log);
	}
	gfs2_trans_end(sdp->sd_log);
	gfs2_rlist_free(&rl);
}

/* The first block of ours in @state at or after a random place, and how many follow it. */
static bool pick(const struct model *m, uint8_t state, uint64_t *bn, uint32_t *len)
{
	uint64_t start = rnd((uint32_t)m->blocks);

	for (uint64_t i = 0; i < m->blocks; i++) {
		uint64_t b = (start + i) % m->blocks;
		struct gfs2_rgrpd *rgd;

		if (m->state[b] != state)
			continue;
		rgd = gfs2_blk2rgrpd(sdp, b);
		for (*len = 1; b + *len < rgd->rd_data0 + rgd->rd_data &&
			       m->state[b + *len] == state; ++*len)
			;
		*bn = b;
		return true;
	}
	return false;
}

static void free_all(struct model *m)
{
	uint64_t bn;
	uint32_t len;

	while (pick(m, M_USED, &bn, &len))
		do_change(m, bn, len, CH_FREE, false);
	while (pick(m, M_DINODE, &bn, &len))
		do_change(m, bn, 1, CH_UNLINK, true);
	while (pick(m, M_UNLINKED, &bn, &len))
		do_change(m, bn, 1, CH_FREE_DI, true);
}

static void random_step(struct model *m, struct gfs2_inode *const *writers)
{
	uint64_t bn;
	uint32_t len;

	switch (rnd(10)) {
	case 0:
	case 1:
	case 2:
		do_alloc(m, writers[rnd(2)], 1 + rnd(400), false, rnd(2));
		break;
	case 3:
	case 4:
		do_alloc(m, writers[rnd(2)], 1 + rnd(3), true, false);
		break;
	case 5:
	case 6:
		if (pick(m, M_USED, &bn, &len))
			do_change(m, bn, 1 + rnd(len), CH_FREE, rnd(2));
		break;
	case 7:
		if (pick(m, M_DINODE, &bn, &len))
			do_change(m, bn, 1, CH_UNLINK, true);
		break;
	case 8:
		if (pick(m, M_UNLINKED, &bn, &len))
			do_change(m, bn, 1, CH_FREE_DI, true);
		else if (pick(m, M_DINODE, &bn, &len))
			do_change(m, bn, 1, CH_FREE_DI, true); /* a create that failed */
		break;
	case 9:
		if (!rnd(4))
			assert_int_equal(gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL), 0);
		else
			check_sums();
		break;
	}
}

static void test_random(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		struct gfs2_inode *writers[2];
		uint64_t addr[8];
		uint32_t length[8], bitbytes[8];
		unsigned nr;
		struct model m;

		vol_make(bsize, bsize == 4096 ? 80 : 24, 1, bsize == 4096 ? "-r 32" : "");
		vol_mount();
		writers[0] = sdp->sd_rindex;
		writers[1] = sdp->sd_statfs_inode;
		model_init(&m);
		for (int i = 0; i < 3000; i++)
			random_step(&m, writers);
		model_check(&m);
		free_all(&m);
		model_check(&m);
		check_sums();
		nr = min_t(unsigned, sdp->sd_rgrps->nr, ARRAY_SIZE(addr));
		for (unsigned r = 0; r < nr; r++) {
			addr[r] = sdp->sd_rgrps->rg[r].rd_addr;
			length[r] = sdp->sd_rgrps->rg[r].rd_length;
			bitbytes[r] = sdp->sd_rgrps->rg[r].rd_bitbytes;
		}
		model_exit(&m);
		vol_unmount();
		for (unsigned r = 0; r < nr; r++)
			check_headers(bsize, addr[r], length[r], bitbytes[r]);
		vol_fsck();
	}
}

/* To the last block, all of it freed, and again: what was freed comes back after a flush at most. */
static void test_enospc(void **state)
{
	struct gfs2_statfs_host st;
	struct model m;

	vol_make(1024, 32, 1, "");
	vol_mount();
	model_init(&m);
	for (int round = 0; round < 3; round++) {
		while (!do_alloc(&m, sdp->sd_rindex, 777, false, true))
			;
		gfs2_statfs_get(sdp, &st);
		assert_int_equal(st.free, 0);
		assert_int_equal(do_alloc(&m, sdp->sd_rindex, 1, false, false), -ENOSPC);
		assert_int_equal(do_alloc(&m, sdp->sd_rindex, 1, true, true), -ENOSPC);
		check_sums();
		free_all(&m);
	}
	model_exit(&m);
	vol_unmount();
	vol_fsck();
}

/* More frees in a batch than are listed one by one. */
static void test_many_pending(void **state)
{
	struct gfs2_statfs_host before, st;
	struct model m;
	unsigned freed = 0;

	vol_make(4096, 128, 1, "");
	vol_mount();
	model_init(&m);
	gfs2_statfs_get(sdp, &before);
	while (!do_alloc(&m, sdp->sd_rindex, 4000, false, true))
		;
	assert_int_equal(gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL), 0);
	for (uint64_t b = 0; b < m.blocks; b += 2)
		if (m.state[b] == M_USED) {
			do_change(&m, b, 1, CH_FREE, false);
			freed++;
		}
	assert_true(freed > RGRP_MAX_PENDING);
	gfs2_statfs_get(sdp, &st);
	assert_int_equal(st.free, freed);
	/* Each run is one block; all of them are found. */
	while (!do_alloc(&m, sdp->sd_rindex, 100, false, true))
		;
	gfs2_statfs_get(sdp, &st);
	assert_int_equal(st.free, 0);
	free_all(&m);
	gfs2_statfs_get(sdp, &st);
	assert_int_equal(st.free, before.free);
	model_exit(&m);
	vol_unmount();
	vol_fsck();
}

/* --- fstrim --- */

#define TRIM_BS 4096
#define POISON 0xa5

static void poison_free(const struct model *m)
{
	static char block[TRIM_BS];
	int fd = open(vol_path, O_WRONLY | O_CLOEXEC);

	memset(block, POISON, sizeof(block));
	for (uint64_t b = 0; b < m->blocks; b++)
		if (m->state[b] == M_FREE)
			assert_int_equal(pwrite(fd, block, TRIM_BS, (off_t)(b * TRIM_BS)), TRIM_BS);
	assert_int_equal(close(fd), 0);
}

static bool is_poisoned(uint64_t b)
{
	static char block[TRIM_BS];

	vol_read(block, TRIM_BS, b * TRIM_BS);
	return block[0] == (char)POISON && block[TRIM_BS - 1] == (char)POISON;
}

struct late_free {
	struct model *m;
	uint64_t bn;
	uint32_t len;	/* 0: nothing is to be freed */
};

/* Between the flush and the groups: something more is freed, and not durable. */
static bool free_late(void *arg)
{
	struct late_free *late = arg;

	if (late->len)
		do_change(late->m, late->bn, late->len, CH_FREE, false);
	late->len = 0;
	return false;
}

static bool enough(void *arg)
{
	return true;
}

static struct gfs2_rgrpd *rgrp_at(uint64_t bn)
{
	return gfs2_blk2rgrpd(sdp, bn);
}

/* The free blocks of groups that are not marked, and of @only if it is not NULL. */
static uint64_t free_unmarked(const struct model *m, const struct gfs2_rgrpd *only)
{
	uint64_t nr = 0;

	for (uint64_t b = 0; b < m->blocks; b++)
		if (m->state[b] == M_FREE && !(rgrp_at(b)->rd_flags & GFS2_RGF_TRIMMED) && (!only || rgrp_at(b) == only))
			nr++;
	return nr;
}

static uint64_t first_of(const struct model *m, unsigned state, uint64_t from)
{
	while (from < m->blocks && m->state[from] != state)
		from++;
	assert_true(from < m->blocks);
	return from;
}

int __real_io_discard(struct io_engine *e, uint64_t pos, uint64_t len);
int __wrap_io_discard(struct io_engine *e, uint64_t pos, uint64_t len);

/* Or somebody could allocate these blocks and write to them before it is over. */
int __wrap_io_discard(struct io_engine *e, uint64_t pos, uint64_t len)
{
	struct gfs2_rgrpd *rgd = rgrp_at(pos / TRIM_BS);

	assert_true(rgrp_is_mine(rgd));
	assert_true(pos + len <= (rgd->rd_data0 + rgd->rd_data) * TRIM_BS);
	return __real_io_discard(e, pos, len);
}

/* Exactly what is durably free is discarded, and a group is marked as done only when all that is free in it has been. */
static void test_trim(void **state)
{
	struct gfs2_trim t = { .len = UINT64_MAX };
	struct late_free late = { 0 };
	struct gfs2_rgrpd *rgd;
	struct model m;
	uint64_t used, want;

	vol_make(TRIM_BS, 96, 1, "-r 32");
	vol_mount();
	assert_true(sdp->sd_rgrps->nr > 1);
	model_init(&m);
	poison_free(&m);
	for (int i = 0; i < 8; i++)
		assert_int_equal(do_alloc(&m, sdp->sd_rindex, 777, false, true), 0);
	used = first_of(&m, M_USED, 0);
	rgd = rgrp_at(used);
	/* Free for good, and free in memory only. */
	do_change(&m, used, 40, CH_FREE, false);
	late = (struct late_free){ .m = &m, .bn = first_of(&m, M_USED, used + 60), .len = 30 };
	assert_ptr_equal(rgrp_at(late.bn), rgd);

	t.stop = enough;
	assert_int_equal(gfs2_fitrim(sdp, &t), -EINTR);
	assert_int_equal(t.trimmed, 0);
	assert_true(is_poisoned(used));

	want = free_unmarked(&m, NULL);
	t.stop = free_late;
	t.arg = &late;
	used = late.bn;
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_int_equal(t.trimmed, want * TRIM_BS);
	for (uint64_t b = 0; b < m.blocks; b++) {
		if (m.state[b] == M_FREE)
			assert_int_equal(is_poisoned(b), b >= used && b < used + 30);
		else if (m.state[b] == M_USED)
			assert_true(is_poisoned(b));
	}
	for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++)
		assert_int_equal(!(sdp->sd_rgrps->rg[r].rd_flags & GFS2_RGF_TRIMMED), &sdp->sd_rgrps->rg[r] == rgd);

	/* What was pending is durable now; the others are left out. */
	want = free_unmarked(&m, rgd);
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_int_equal(t.trimmed, want * TRIM_BS);
	assert_false(is_poisoned(used));
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_int_equal(t.trimmed, 0);

	/* One block is freed: its group again; not if less is asked for than all of it. */
	used = first_of(&m, M_USED, 0);
	do_change(&m, used, 1, CH_FREE, false);
	assert_false(rgrp_at(used)->rd_flags & GFS2_RGF_TRIMMED);
	t.start = (used - 1) * TRIM_BS;
	t.len = 3 * TRIM_BS;
	t.minlen = 0;
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_true(t.trimmed >= TRIM_BS && t.trimmed <= 2 * TRIM_BS);
	assert_false(is_poisoned(used));
	assert_true(is_poisoned(used + 1));
	assert_false(rgrp_at(used)->rd_flags & GFS2_RGF_TRIMMED);
	do_change(&m, used + 1, 18, CH_FREE, false);
	t.start = (used + 5) * TRIM_BS;
	t.len = 10 * TRIM_BS;
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_int_equal(t.trimmed, 10 * TRIM_BS);
	for (uint64_t b = used + 1; b < used + 19; b++)
		assert_int_equal(is_poisoned(b), b < used + 5 || b >= used + 15);
	t.len = UINT64_MAX;
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_true(is_poisoned(used + 4) && !is_poisoned(used + 15));
	assert_false(rgrp_at(used)->rd_flags & GFS2_RGF_TRIMMED);
	t.start = 0;
	t.minlen = 1 << 20;
	assert_int_equal(gfs2_fitrim(sdp, &t), 0);
	assert_false(rgrp_at(used)->rd_flags & GFS2_RGF_TRIMMED);
	assert_true(t.trimmed % TRIM_BS == 0 && t.trimmed < free_unmarked(&m, NULL) * TRIM_BS);

	t.minlen = UINT64_MAX;
	assert_int_equal(gfs2_fitrim(sdp, &t), -EINVAL);
	t.minlen = 0;
	t.start = m.blocks * TRIM_BS;
	assert_int_equal(gfs2_fitrim(sdp, &t), -EINVAL);
	t.start = 0;
	t.len = TRIM_BS - 1;
	assert_int_equal(gfs2_fitrim(sdp, &t), -EINVAL);

	check_sums();
	model_check(&m);
	free_all(&m);
	model_exit(&m);
	vol_unmount();
	vol_fsck();
}

struct writer {
	struct gfs2_inode *ip;
	uint64_t next;
	unsigned extents;
};

static void grow(struct model *m, struct writer *w, uint32_t want)
{
	struct gfs2_alloc ap = { .target = want };
	struct gfs2_holder gh;

	assert_int_equal(gfs2_glock_nq_init(w->ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	assert_int_equal(gfs2_inplace_reserve(w->ip, &ap), 0);
	assert_int_equal(gfs2_trans_begin(sdp->sd_log, gfs2_rg_blocks(&ap, want) + 1, 0), 0);
	for (uint32_t got = 0; got < want;) {
		unsigned n = want - got;
		uint64_t bn;

		assert_int_equal(gfs2_alloc_blocks(w->ip, &ap, &bn, &n, false, NULL), 0);
		model_take(m, bn, n, false, 0);
		w->extents += bn != w->next;
		w->next = bn + n;
		w->ip->i_blocks += n;
		got += n;
	}
	gfs2_trans_end(sdp->sd_log);
	gfs2_inplace_release(w->ip, &ap);
	gfs2_glock_dq_uninit(&gh);
}

/* Two files that grow at the same time, small files made in between: extents stay long. */
static void test_long_extents(void **state)
{
	struct writer a = { 0 }, b = { 0 };
	struct model m;

	vol_make(4096, 256, 1, "");
	vol_mount();
	model_init(&m);
	a.ip = sdp->sd_rindex;
	b.ip = sdp->sd_statfs_inode;
	for (int i = 0; i < 60; i++) {
		grow(&m, &a, 256);
		grow(&m, &b, 16);
		assert_int_equal(do_alloc(&m, sdp->sd_root, 1, true, false), 0);
	}
	/* 15360 and 960 blocks. */
	assert_true(a.extents <= 12);
	assert_true(b.extents <= 12);
	free_all(&m);
	model_exit(&m);
	vol_unmount();
	vol_fsck();
}

/* An rgrp that must not be used is not used; one freed block clears the "trimmed" flag. */
static void test_flags(void **state)
{
	struct gfs2_rgrpd *rgd;
	struct gfs2_holder gh;
	uint64_t addr = 0;
	struct model m;
	__be32 flags;
	char head[128];

	vol_make(4096, 128, 1, "-r 32");
	vol_mount();
	for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++) {
		struct gfs2_rgrpd *x = &sdp->sd_rgrps->rg[r];

		if (x->rd_data > 4000 && !addr)
			addr = x->rd_addr;
	}
	vol_unmount();
	vol_read(head, sizeof(head), addr * 4096);
	flags = cpu_to_be32(GFS2_RGF_NOALLOC | GFS2_RGF_TRIMMED);
	memcpy(head + 24, &flags, 4);
	memset(head + 64, 0, 4);
	vol_write(head, sizeof(head), addr * 4096);

	vol_mount();
	model_init(&m);
	rgd = gfs2_blk2rgrpd(sdp, addr + 10);
	assert_non_null(rgd);
	while (!do_alloc(&m, sdp->sd_rindex, 500, false, true))
		;
	for (uint32_t i = 0; i < rgd->rd_data; i++)
		assert_int_not_equal(m.state[rgd->rd_data0 + i], M_USED);
	free_all(&m);
	model_exit(&m);
	vol_unmount();
	vol_fsck();

	/* Now it may be used again, and what is in it is freed. */
	flags = cpu_to_be32(GFS2_RGF_TRIMMED);
	memcpy(head + 24, &flags, 4);
	vol_write(head, sizeof(head), addr * 4096);
	vol_mount();
	model_init(&m);
	rgd = gfs2_blk2rgrpd(sdp, addr + 10);
	while (!do_alloc(&m, sdp->sd_rindex, 500, false, true))
		;
	assert_int_equal(gfs2_glock_nq_init(rgd->rd_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(rgd->rd_flags, GFS2_RGF_TRIMMED);
	gfs2_glock_dq_uninit(&gh);
	free_all(&m);
	assert_int_equal(gfs2_glock_nq_init(rgd->rd_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(rgd->rd_flags, 0);
	gfs2_glock_dq_uninit(&gh);
	model_exit(&m);
	vol_unmount();
	vol_fsck();
}

/* What the bitmap forbids withdraws and changes nothing on the store. */
static void test_forbidden(void **state)
{
	struct gfs2_rgrp_list rl;

	vol_make(4096, 64, 1, "");
	for (int what = 0; what < 4; what++) {
		uint64_t di, err;

		vol_mount();
		di = sdp->sd_root_addr;
		gfs2_rlist_init(&rl);
		assert_int_equal(gfs2_rlist_add(sdp, &rl, di), 0);
		assert_int_equal(gfs2_rlist_lock(sdp, &rl), 0);
		assert_int_equal(gfs2_trans_begin(sdp->sd_log, gfs2_rlist_blocks(&rl, 1) + 1, 1), 0);
		switch (what) {
		case 0: /* a dinode is not data */
			err = (uint64_t)gfs2_free_blocks(sdp, di, 1);
			break;
		case 1: /* free already */
			err = (uint64_t)gfs2_free_di(sdp, rl.rl_rgd[0]->rd_data0 +
							  rl.rl_rgd[0]->rd_data - 1);
			break;
		case 2: /* free blocks cannot be unlinked */
			err = (uint64_t)gfs2_unlink_di(sdp, rl.rl_rgd[0]->rd_data0 +
							    rl.rl_rgd[0]->rd_data - 1);
			break;
		default: /* no resource group there */
			err = (uint64_t)gfs2_free_blocks(sdp, sdp->sd_sb_block, 1);
			break;
		}
		assert_int_equal((int)err, -EIO);
		assert_true(gfs2_withdrawn(sdp));
		gfs2_trans_end(sdp->sd_log);
		gfs2_rlist_free(&rl);
		assert_int_equal(gfs2_unmount(sdp), -EIO);
		io_engine_close(engine);
	}
	vol_mount();
	vol_unmount();
	vol_fsck();
}

/* Locks of several rgrps in whatever order, the same one twice: all held, all released. */
static void *lock_in_any_order(void *arg)
{
	struct gfs2_rgrps *rgs = sdp->sd_rgrps;
	uint32_t seed = (uint32_t)(uintptr_t)arg;

	for (int round = 0; round < 2000; round++) {
		unsigned idx[6];

		for (unsigned i = 0; i < ARRAY_SIZE(idx); i++) {
			seed = seed * 1664525 + 1013904223;
			idx[i] = (seed >> 16) % rgs->nr;
			if (rgrp_lock(&rgs->rg[idx[i]]))
				return "rgrp_lock";
			for (unsigned j = 0; j <= i; j++) {
				if (!rgrp_is_mine(&rgs->rg[idx[j]]))
					return "not mine";
				gfs2_assert_held(rgs->rg[idx[j]].rd_gl, true);
			}
		}
		for (unsigned i = 0; i < ARRAY_SIZE(idx); i++)
			rgrp_unlock(&rgs->rg[idx[i]]);
		for (unsigned i = 0; i < rgs->nr; i++)
			if (rgrp_is_mine(&rgs->rg[i]))
				return "still mine";
	}
	return NULL;
}

static void test_lock_order(void **state)
{
	pthread_t threads[3];

	vol_make(4096, 256, 1, "-r 32");
	vol_mount();
	assert_true(sdp->sd_rgrps->nr >= 4);
	/* A deadlock ends the program. */
	alarm(60);
	for (uintptr_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, lock_in_any_order, (void *)(i + 1)),
				 0);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
		void *failure;

		pthread_join(threads[i], &failure);
		if (failure)
			fail_msg("thread %u: %s", i, (char *)failure);
	}
	alarm(0);
	vol_unmount();
	vol_fsck();
}

/* Given up and read again, in the middle of everything. */
static void test_shrink(void **state)
{
	struct gfs2_inode *writers[2];
	struct model m;

	vol_make(2048, 64, 1, "-r 32");
	vol_mount();
	writers[0] = sdp->sd_rindex;
	writers[1] = sdp->sd_statfs_inode;
	model_init(&m);
	for (int i = 0; i < 1000; i++) {
		random_step(&m, writers);
		if (i % 20)
			continue;
		gfs2_rgrps_shrink(sdp);
		gfs2_rgrps_shrink(sdp);
		for (unsigned r = 0; r < sdp->sd_rgrps->nr; r++)
			assert_true(gfs2_glock_wait_demoted(sdp->sd_rgrps->rg[r].rd_gl,
							    60000000000ull));
	}
	model_check(&m);
	free_all(&m);
	model_exit(&m);
	check_sums();
	vol_unmount();
	vol_fsck();
}

/* Several threads at once: no block twice, counters right in the end. */
#define THREAD_STEPS 300
#define THREAD_RUNS 16

struct worker {
	pthread_t thread;
	struct gfs2_inode *ip;
	atomic_uchar *owned;
	uint32_t seed;
	struct run_of_blocks {
		uint64_t bn;
		unsigned n;
	} runs[THREAD_RUNS];
	const char *failure;
};

static void worker_alloc(struct worker *w, struct run_of_blocks *r)
{
	struct gfs2_alloc ap = { .target = 1 + (w->seed >> 16) % 64, .min_target = 1 };
	struct gfs2_holder gh;

	if (gfs2_glock_nq_init(w->ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh))
		w->failure = "lock";
	if (gfs2_inplace_reserve(w->ip, &ap))
		w->failure = "reserve";
	if (gfs2_trans_begin(sdp->sd_log, gfs2_rg_blocks(&ap, ap.allowed) + 1, 0))
		w->failure = "begin";
	r->n = ap.allowed;
	if (gfs2_alloc_blocks(w->ip, &ap, &r->bn, &r->n, false, NULL))
		w->failure = "alloc";
	gfs2_trans_end(sdp->sd_log);
	for (unsigned i = 0; i < r->n; i++)
		if (atomic_exchange(&w->owned[r->bn + i], 1))
			w->failure = "block handed out twice";
	gfs2_inplace_release(w->ip, &ap);
	gfs2_glock_dq_uninit(&gh);
}

static void worker_free(struct worker *w, struct run_of_blocks *r)
{
	struct gfs2_rgrp_list rl;

	gfs2_rlist_init(&rl);
	if (gfs2_rlist_add(sdp, &rl, r->bn) || gfs2_rlist_lock(sdp, &rl))
		w->failure = "rlist";
	if (gfs2_trans_begin(sdp->sd_log, gfs2_rlist_blocks(&rl, r->n) + 1, 0))
		w->failure = "begin";
	for (unsigned i = 0; i < r->n; i++)
		atomic_store(&w->owned[r->bn + i], 0);
	if (gfs2_free_blocks(sdp, r->bn, r->n))
		w->failure = "free";
	gfs2_trans_end(sdp->sd_log);
	gfs2_rlist_free(&rl);
	r->n = 0;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < THREAD_STEPS && !w->failure; i++) {
		struct run_of_blocks *r;

		w->seed = w->seed * 1664525 + 1013904223;
		r = &w->runs[(w->seed >> 8) % THREAD_RUNS];
		if (r->n)
			worker_free(w, r);
		else
			worker_alloc(w, r);
		if (i % 50 == 0 && gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL))
			w->failure = "flush";
		if (i % 64 == 0 && gfs2_statfs_sync(sdp))
			w->failure = "statfs";
	}
	for (unsigned i = 0; i < THREAD_RUNS && !w->failure; i++)
		if (w->runs[i].n)
			worker_free(w, &w->runs[i]);
	return NULL;
}

static void test_threads(void **state)
{
	struct worker workers[4] = { 0 };
	atomic_uchar *owned;

	vol_make(4096, 128, 1, "-r 32");
	vol_mount();
	owned = calloc(sdp->sd_device_blocks, sizeof(*owned));
	/* Glocks of inodes that nobody needs; the fourth shares one with the first. */
	workers[0].ip = sdp->sd_rindex;
	workers[1].ip = sdp->sd_root;
	workers[2].ip = sdp->sd_master;
	workers[3].ip = sdp->sd_rindex;
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++) {
		workers[i].owned = owned;
		workers[i].seed = i + 7;
		assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]),
				 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++) {
		pthread_join(workers[i].thread, NULL);
		if (workers[i].failure)
			fail_msg("thread %u: %s", i, workers[i].failure);
	}
	check_sums();
	free(owned);
	vol_unmount();
	vol_fsck();
}

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(test_bitmap),
		cmocka_unit_test(test_bit_runs),
		cmocka_unit_test(test_header_image),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_enospc),
		cmocka_unit_test(test_many_pending),
		cmocka_unit_test(test_trim),
		cmocka_unit_test(test_long_extents),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_forbidden),
		cmocka_unit_test(test_lock_order),
		cmocka_unit_test(test_shrink),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}

int main(void)
{
	return vol_main(tests);
}
