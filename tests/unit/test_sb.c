/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The superblock: what follows from it, and what is refused (reference gfs2-ondisk.md 1.2, 1.4). */
#include "vol.h"

#define SB_POS 65536

static int read_sb(struct gfs2_sbd *sdp)
{
	struct io_engine *e = vol_open(true);
	int err;

	memset(sdp, 0, sizeof(*sdp));
	err = gfs2_read_sb(e, sdp);
	io_engine_close(e);
	return err;
}

/* The table of reference 1.2, heights of 4.3, reservation of 5.5. */
struct geometry {
	uint32_t bsize, shift, diptrs, inptrs, jbsize, hash_ptrs, dents, max_height, dirres;
	uint64_t sb_block, h1, h3;
};

static const struct geometry geometries[] = {
	{ 512, 9, 35, 61, 488, 32, 8, 10, 2205, 128, 17920, 66680320 },
	{ 1024, 10, 99, 125, 1000, 64, 19, 8, 1077, 64, 101376, 1584000000 },
	{ 2048, 11, 227, 253, 2024, 128, 40, 7, 541, 32, 464896, 29757528064 },
	{ 4096, 12, 483, 509, 4072, 256, 83, 6, 277, 16, 1978368, 512557559808 },
};

static void test_geometry(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(geometries); i++) {
		const struct geometry *g = &geometries[i];
		struct gfs2_sbd s;

		vol_make(g->bsize, 64, 1, "-t cluster:vol -o format=1801");
		assert_int_equal(read_sb(&s), 0);
		assert_int_equal(s.sd_bsize, g->bsize);
		assert_int_equal(s.sd_bsize_shift, g->shift);
		assert_int_equal(s.sd_diptrs, g->diptrs);
		assert_int_equal(s.sd_inptrs, g->inptrs);
		assert_int_equal(s.sd_jbsize, g->jbsize);
		assert_int_equal(s.sd_hash_ptrs, g->hash_ptrs);
		assert_int_equal(s.sd_hash_bsize, g->bsize / 2);
		assert_int_equal(1u << s.sd_hash_bsize_shift, s.sd_hash_bsize);
		assert_int_equal(s.sd_max_dents_per_leaf, g->dents);
		assert_int_equal(s.sd_max_height, g->max_height);
		assert_int_equal(s.sd_max_dirres, g->dirres);
		assert_int_equal(s.sd_sb_block, g->sb_block);
		assert_int_equal(s.sd_heightsize[0], g->bsize - 232);
		assert_int_equal(s.sd_heightsize[1], g->h1);
		assert_int_equal(s.sd_heightsize[3], g->h3);
		assert_true(s.sd_heightsize[g->max_height - 1] < UINT64_MAX);
		assert_true(s.sd_heightsize[g->max_height] == UINT64_MAX);
		assert_int_equal(s.sd_device_blocks, (64 << 20) / g->bsize);
		assert_int_equal(s.sd_fs_format, 1801);
		assert_string_equal(s.sd_lockproto, "lock_nolock");
		assert_string_equal(s.sd_locktable, "cluster:vol");
		assert_true(s.sd_root_addr && s.sd_master_addr);
	}
}

/* Bytes that make the superblock unacceptable, and with what answer. */
struct damage {
	unsigned off, len;
	const char *bytes;
	int err;
};

static const struct damage damages[] = {
	{ 0, 4, "\1\2\3\4", -EINVAL },			/* magic */
	{ 4, 4, "\0\0\0\4", -EINVAL },			/* a dinode in its place */
	{ 24, 4, "\0\0\x07\x08", -EINVAL },		/* format 1800 */
	{ 24, 4, "\0\0\x07\x0b", -EINVAL },		/* format 1803 */
	{ 28, 4, "\0\0\0\0", -EINVAL },			/* multihost */
	{ 36, 4, "\0\0\x20\0", -EINVAL },		/* bsize 8192 */
	{ 36, 4, "\0\0\x0f\0", -EINVAL },		/* not a power of two */
	{ 36, 4, "\0\0\0\0", -EINVAL },
	{ 40, 4, "\0\0\0\x09", -EINVAL },		/* shift */
	{ 56, 8, "\0\0\0\0\0\0\0\0", -EINVAL },		/* master directory */
	{ 88, 8, "\xff\xff\xff\xff\xff\xff\xff\xff", -EINVAL },
	{ 96, 5, "fsck_", -EBUSY },
};

static void test_damage(void **state)
{
	char good[512], bad[512];
	struct gfs2_sbd s;

	vol_make(4096, 64, 1, "");
	vol_read(good, sizeof(good), SB_POS);
	assert_int_equal(read_sb(&s), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(damages); i++) {
		const struct damage *d = &damages[i];

		memcpy(bad, good, sizeof(bad));
		memcpy(bad + d->off, d->bytes, d->len);
		vol_write(bad, sizeof(bad), SB_POS);
		assert_int_equal(read_sb(&s), d->err);
	}
	vol_write(good, sizeof(good), SB_POS);
	assert_int_equal(read_sb(&s), 0);
}

static void test_too_small(void **state)
{
	struct gfs2_sbd s;

	vol_make(4096, 64, 1, "");
	assert_int_equal(vol_sh("truncate -s 65536 %s", vol_path), 0);
	assert_int_equal(read_sb(&s), -EINVAL);
	/* The superblock is there, the root directory is not. */
	vol_make(4096, 64, 1, "");
	assert_int_equal(vol_sh("truncate -s 1M %s", vol_path), 0);
	assert_int_equal(read_sb(&s), -EINVAL);
	assert_int_equal(vol_sh("truncate -s 0 %s && truncate -s 1M %s", vol_path, vol_path), 0);
	assert_int_equal(read_sb(&s), -EINVAL);
}

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(test_geometry),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_too_small),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}

int main(void)
{
	return vol_main(tests);
}
