/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal's blocks as bytes: the worked examples of the on-disk reference, and the journals that
 * mkfs.gfs2 writes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "journal/log_internal.h"

/* Reference 11.9: a header of a kernel, in a volume with 4096-byte blocks. */
static const uint32_t header_words[32] = {
	0x01161970, 0x00000008, 0x00000000, 0x00000000, 0x00000320, 0x00000000, 0x00000000, 0x000009c4,
	0x00001002, 0x00000533, 0x00000295, 0x398bcb6a, 0x6f44b790, 0x054fcb5b, 0x00000000, 0x6b028ac8,
	0x00000000, 0x000002ad, 0x00000000, 0x00000012, 0x00000000, 0x00001027, 0x00000000, 0x00001028,
	0x00000000, 0x00000000, 0xffffffff, 0xffffff64, 0x00000000, 0x0000000f, 0x00000000, 0x00000000,
};

static void example_block(char block[4096])
{
	memset(block, 0, 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(header_words); i++)
		((__be32 *)block)[i] = cpu_to_be32(header_words[i]);
}

static const struct gfs2_log_header_args example_args = {
	.sequence = 2500,
	.jinode = 18,
	.statfs_addr = 0x1027,
	.quota_addr = 0x1028,
	.addr = 685,
	.flags = GFS2_LOG_HEAD_FLUSH_NORMAL | GFS2_LFC_AIL_FLUSH,
	.tail = 1331,
	.blkno = 661,
	.jid = 0,
	.local = { 0, -156, 15 },
	.time = { .tv_sec = 0x6b028ac8, .tv_nsec = 0x054fcb5b },
};

static void header_example(void **state)
{
	struct gfs2_log_header_host lh;
	char want[4096], got[4096];

	example_block(want);
	memset(got, 0x55, sizeof(got));
	gfs2_log_header_encode(got, 4096, &example_args);
	assert_memory_equal(got, want, 4096);

	assert_int_equal(gfs2_log_header_decode(want, 4096, &lh), 0);
	assert_int_equal(lh.lh_sequence, 2500);
	assert_int_equal(lh.lh_flags, 0x1002);
	assert_int_equal(lh.lh_tail, 1331);
	assert_int_equal(lh.lh_blkno, 661);
	assert_int_equal(lh.lh_crc, 0x6f44b790);
	assert_int_equal(lh.lh_statfs_addr, 0x1027);
	assert_true(lh.lh_local_total == 0 && lh.lh_local_free == -156 && lh.lh_local_dinodes == 15);
}

/* Any flipped bit is noticed, except in the bytes that no checksum covers (mh_jid and pad are in lh_hash). */
static void header_damage(void **state)
{
	struct gfs2_log_header_host lh;
	char block[4096];

	for (unsigned i = 0; i < 4096; i++) {
		example_block(block);
		block[i] ^= 0x10;
		assert_int_equal(gfs2_log_header_decode(block, 4096, &lh), -EINVAL);
	}
	/* A version 1 header: nothing from byte 48 on. */
	example_block(block);
	memset(block + 48, 0, 4096 - 48);
	assert_int_equal(gfs2_log_header_decode(block, 4096, &lh), 0);
	assert_int_equal(lh.lh_crc, 0);
	assert_true(lh.lh_local_free == 0);
	/* A block of another type. */
	example_block(block);
	block[7] = 9;
	assert_int_equal(gfs2_log_header_decode(block, 4096, &lh), -EINVAL);
}

static uint32_t word(const char *block, unsigned off)
{
	return be32_to_cpu(*(const __be32 *)(block + off));
}

/* Reference 11.10 */
static void descriptor_examples(void **state)
{
	struct log_geometry g = log_geometry(4096);
	char block[4096];

	log_descriptor_encode(block, 4096, GFS2_LOG_DESC_JDATA, 10, 9);
	static const uint32_t want[] = { 0x01161970, 9, 0, 0, 0x384, 0, 0x12e, 0xa, 9, 0 };
	for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
		assert_int_equal(word(block, 4 * i), want[i]);
	for (unsigned i = sizeof(want); i < 4096; i++)
		assert_int_equal(block[i], 0);

	log_descriptor_encode(block, 4096, GFS2_LOG_DESC_METADATA, 6, 5);
	assert_int_equal(word(block, 24), 300);
	assert_int_equal(word(block, 28), 6);
	assert_int_equal(word(block, 32), 5);

	/* 700 revokes: 503 in the descriptor, 197 in one continuation. */
	assert_int_equal(g.ldptrs, 503);
	assert_int_equal(g.inptrs, 509);
	assert_int_equal(log_revoke_blocks(&g, 700), 2);
	log_continuation_encode(block, 4096);
	assert_int_equal(word(block, 4), 12);
	assert_int_equal(word(block, 16), 1000);
}

/* Reference 1.2, 8.8 */
static void geometry(void **state)
{
	static const struct {
		uint32_t bsize, ldptrs, inptrs;
	} want[] = { { 512, 55, 61 }, { 1024, 119, 125 }, { 2048, 247, 253 }, { 4096, 503, 509 } };

	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		struct log_geometry g = log_geometry(want[i].bsize);

		assert_int_equal(g.ldptrs, want[i].ldptrs);
		assert_int_equal(g.jdptrs, want[i].ldptrs / 2);
		assert_int_equal(g.inptrs, want[i].inptrs);
		assert_int_equal(log_revoke_blocks(&g, 0), 0);
		assert_int_equal(log_revoke_blocks(&g, g.ldptrs), 1);
		assert_int_equal(log_revoke_blocks(&g, g.ldptrs + 1), 2);
		assert_int_equal(log_revoke_blocks(&g, g.ldptrs + g.inptrs), 2);
		assert_int_equal(log_revoke_blocks(&g, g.ldptrs + g.inptrs + 1), 3);
		assert_int_equal(log_flush_blocks(&g, 0, 0, 0), 0);
		assert_int_equal(log_flush_blocks(&g, 1, 1, 1), 5);
		assert_int_equal(log_flush_blocks(&g, g.jdptrs + 1, g.ldptrs + 1, 0),
				 g.jdptrs + 3 + g.ldptrs + 3);
	}
}

/* The claim in trans.c, for all small values at the steps of the functions. */
static void reservation_is_enough(void **state)
{
	struct log_geometry g = log_geometry(512);
	unsigned v[] = { 0, 1, 26, 27, 28, 53, 54, 55, 56, 60, 61, 62, 109, 110, 111, 116, 117, 200 };
	unsigned n = ARRAY_SIZE(v);

	for (unsigned i = 0; i < n * n * n; i++) {
		unsigned j = v[i % n], m = v[i / n % n], r = v[i / n / n];
		uint32_t before = log_flush_blocks(&g, j, m, r);

		for (unsigned k = 0; k < n * n * n; k++) {
			unsigned a = v[k % n], b = v[k / n % n], c = v[k / n / n];
			uint32_t need = (c + g.ldptrs - 1) / g.ldptrs;

			if (a + b)
				need += a + b + (a + b + g.jdptrs - 1) / g.jdptrs + 1;
			if (log_flush_blocks(&g, j + a, m + b, r + c) > before + need)
				fail_msg("%u+%u %u+%u %u+%u", j, a, m, b, r, c);
		}
	}
}

static void mapping(void **state)
{
	struct gfs2_journal_extent x[] = { { 0, 3, 100 }, { 3, 1, 50 }, { 4, 6, 200 } };
	struct gfs2_jdesc jd = { .jd_blocks = 10, .jd_nr_extents = 3, .jd_extents = x };
	static const uint64_t want[] = { 100, 101, 102, 50, 200, 201, 202, 203, 204, 205 };
	static const uint32_t left[] = { 3, 2, 1, 1, 6, 5, 4, 3, 2, 1 };
	uint32_t len;

	for (uint32_t i = 0; i < 10; i++) {
		assert_int_equal(gfs2_journal_map(&jd, i), want[i]);
		assert_int_equal(journal_map_run(&jd, i, &len), want[i]);
		assert_int_equal(len, left[i]);
	}
}

static void block_table(void **state)
{
	struct blktab t;
	uint64_t seed = 12345;
	static uint32_t model[4096];

	blktab_init(&t);
	for (unsigned i = 0; i < 200000; i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		unsigned b = 1 + (seed >> 33) % (ARRAY_SIZE(model) - 1);
		struct log_block *e = blktab_find(&t, b);

		assert_int_equal(e ? e->rev : 0, model[b]);
		if (e && seed >> 62) {
			e->rev = model[b] = 0;
			blktab_gc(&t, e);
			assert_null(blktab_find(&t, b));
		} else {
			blktab_get(&t, b)->rev = model[b] = i + 1;
		}
	}
	unsigned nr = 0;
	for (unsigned b = 1; b < ARRAY_SIZE(model); b++) {
		nr += !!model[b];
		assert_int_equal(!!blktab_find(&t, b), !!model[b]);
	}
	assert_int_equal(t.nr, nr);
	blktab_free(&t);
}

/* Every header in a journal of mkfs.gfs2 can be decoded, and encoded again to the same bytes. */
static void mkfs_journal(uint32_t bsize)
{
	char dir[] = "/tmp/test_format.XXXXXX", path[64], cmd[256];
	uint64_t prev_addr = 0, prev_seq = 0;
	unsigned headers = 0, steps = 0;
	char *block = malloc(bsize), *again = malloc(bsize);
	FILE *f;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/img", dir);
	snprintf(cmd, sizeof(cmd), "truncate -s 64M %s && mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 8 -b %u %s >/dev/null",
		 path, bsize, path);
	int rc = system(cmd);
	f = fopen(path, "r");
	unlink(path);
	rmdir(dir);
	assert_int_equal(rc, 0);
	assert_non_null(f);
	for (uint64_t b = 0; fread(block, bsize, 1, f) == 1; b++) {
		const struct gfs2_log_header *lh = (void *)block;
		struct gfs2_log_header_host h;

		if (gfs2_log_header_decode(block, bsize, &h))
			continue;
		assert_int_equal(h.lh_flags, GFS2_LOG_HEAD_UNMOUNT | GFS2_LOG_HEAD_USERSPACE);
		assert_int_equal(be64_to_cpu(lh->lh_addr), b);
		assert_int_not_equal(h.lh_crc, 0);
		if (headers)
			assert_int_equal(b, prev_addr + 1);
		steps += headers && h.lh_sequence != prev_seq + 1;
		assert_int_equal(h.lh_blkno, headers);
		prev_addr = b;
		prev_seq = h.lh_sequence;
		headers++;
		struct gfs2_log_header_args a = {
			.sequence = h.lh_sequence,
			.flags = h.lh_flags,
			.tail = h.lh_tail,
			.blkno = h.lh_blkno,
			.addr = b,
			.jinode = be64_to_cpu(lh->lh_jinode),
		};
		gfs2_log_header_encode(again, bsize, &a);
		assert_memory_equal(block, again, bsize);
	}
	fclose(f);
	assert_int_equal(headers, (8u << 20) / bsize);
	assert_true(steps <= 1);
	free(block);
	free(again);
}

static void mkfs_journals(void **state)
{
	if (system("command -v mkfs.gfs2 >/dev/null 2>&1")) {
		print_message("SKIPPED: mkfs.gfs2 is not installed\n");
		skip();
	}
	for (uint32_t bsize = 512; bsize <= 4096; bsize *= 2)
		mkfs_journal(bsize);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_example),
		cmocka_unit_test(header_damage),
		cmocka_unit_test(descriptor_examples),
		cmocka_unit_test(geometry),
		cmocka_unit_test(reservation_is_enough),
		cmocka_unit_test(mapping),
		cmocka_unit_test(block_table),
		cmocka_unit_test(mkfs_journals),
	};

	return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
