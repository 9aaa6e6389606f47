/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dinodes: bytes of a real one (reference gfs2-ondisk.md 11.5), of fresh volumes, and what is
 * refused (4.1).
 */
#include "vol.h"
#include "fs/inode.h"

/* `small`: "hello gfs2\n", two links, one xattr block. */
static const uint32_t example[] = {
	0x01161970, 0x00000004, 0x00000000, 0x00000000,
	0x00000190, 0x00000000, 0x00000000, 0x00000001,
	0x00000000, 0x00001231, 0x000081a4, 0x00000000,
	0x00000000, 0x00000002, 0x00000000, 0x0000000b,
	0x00000000, 0x00000002, 0x00000000, 0x6b0289ad,
	0x00000000, 0x6b0289ad, 0x00000000, 0x6b0289ae,
	0x00000000, 0x00000000, 0x00000000, 0x000012e9,
	0x00000000, 0x000012e9, 0x00000000, 0x00000001,
	0, 0, 0, 0, 0, 0, 0, 0,
	0x00000000, 0x00000000, 0x00000000, 0x000012e9,
	0x27838b6b, 0x27838b6b, 0x1804676b, 0x00000000,
};
#define EXAMPLE_ADDR 4657

struct fixture {
	struct gfs2_sbd sdp;
	struct gfs2_inode ip;
	struct gfs2_bh bh;
	char block[4096];
};

static struct gfs2_dinode *fixture_init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->sdp.sd_bsize = 4096;
	f->sdp.sd_max_height = 6;
	f->sdp.sd_hash_ptrs = 256;
	f->sdp.sd_ro = true;	/* inconsistencies are told, nothing is withdrawn */
	f->ip.i_sbd = &f->sdp;
	f->ip.i_no_addr = EXAMPLE_ADDR;
	f->bh.b_data = f->block;
	for (unsigned i = 0; i < ARRAY_SIZE(example); i++)
		((__be32 *)f->block)[i] = cpu_to_be32(example[i]);
	memcpy(f->block + 232, "hello gfs2\n", 11);
	return (struct gfs2_dinode *)f->block;
}

static void test_decode(void **state)
{
	struct fixture f;
	const struct gfs2_inode *ip = &f.ip;

	fixture_init(&f);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
	assert_true(ip->i_valid);
	assert_int_equal(ip->i_no_formal_ino, 1);
	assert_int_equal(ip->i_mode, 0100644);
	assert_int_equal(ip->i_uid, 0);
	assert_int_equal(ip->i_gid, 0);
	assert_int_equal(ip->i_nlink, 2);
	assert_int_equal(ip->i_size, 11);
	assert_int_equal(ip->i_blocks, 2);
	assert_int_equal(ip->i_atime.tv_sec, 0x6b0289ad);
	assert_int_equal(ip->i_atime.tv_nsec, 0x27838b6b);
	assert_int_equal(ip->i_mtime.tv_sec, 0x6b0289ad);
	assert_int_equal(ip->i_mtime.tv_nsec, 0x27838b6b);
	assert_int_equal(ip->i_ctime.tv_sec, 0x6b0289ae);
	assert_int_equal(ip->i_ctime.tv_nsec, 0x1804676b);
	assert_int_equal(ip->i_goal, 4841);
	assert_int_equal(ip->i_generation, 1);
	assert_int_equal(ip->i_diskflags, 0);
	assert_int_equal(ip->i_height, 0);
	assert_int_equal(ip->i_depth, 0);
	assert_int_equal(ip->i_entries, 0);
	assert_int_equal(ip->i_eattr, 4841);
}

/* Written over anything: the same 232 bytes; the payload and mh_jid are not touched. */
static void test_encode(void **state)
{
	struct fixture f;
	char out[4096];

	fixture_init(&f);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
	memset(out, 0xa5, sizeof(out));
	gfs2_dinode_out(&f.ip, out);
	assert_int_equal(((struct gfs2_dinode *)out)->di_header.mh_jid, 0xa5a5a5a5);
	((struct gfs2_dinode *)out)->di_header.mh_jid = 0;
	assert_memory_equal(out, f.block, 232);
	for (unsigned i = 232; i < sizeof(out); i++)
		assert_int_equal((unsigned char)out[i], 0xa5);
}

/* Every field at its extreme survives a round trip; times before 1970 too. */
static void test_round_trip(void **state)
{
	struct fixture f, g;
	struct gfs2_inode *ip = &f.ip;

	fixture_init(&f);
	fixture_init(&g);
	assert_int_equal(gfs2_dinode_in(ip, &f.bh), 0);
	ip->i_mode = S_IFBLK | 07777;
	ip->i_uid = ip->i_gid = UINT32_MAX;
	ip->i_nlink = UINT32_MAX;
	ip->i_size = INT64_MAX;
	ip->i_blocks = UINT64_MAX - 1;
	ip->i_atime = (struct timespec){ -1, 999999999 };
	ip->i_mtime = (struct timespec){ INT64_MIN, 1 };
	ip->i_ctime = (struct timespec){ INT64_MAX, 0 };
	ip->i_major = 0xfff;
	ip->i_minor = 300000;
	ip->i_goal = ip->i_generation = ip->i_eattr = 0x0123456789abcdefull;
	ip->i_diskflags = 0xe00007fbu & ~GFS2_DIF_EXHASH;
	ip->i_height = 6;
	ip->i_depth = 17;
	ip->i_entries = UINT32_MAX;
	gfs2_dinode_out(ip, g.block);
	assert_int_equal(gfs2_dinode_in(&g.ip, &g.bh), 0);
	assert_int_equal(g.ip.i_mode, ip->i_mode);
	assert_int_equal(g.ip.i_uid, ip->i_uid);
	assert_int_equal(g.ip.i_gid, ip->i_gid);
	assert_int_equal(g.ip.i_nlink, ip->i_nlink);
	assert_int_equal(g.ip.i_size, ip->i_size);
	assert_true(g.ip.i_blocks == ip->i_blocks);
	assert_memory_equal(&g.ip.i_atime, &ip->i_atime, sizeof(struct timespec));
	assert_memory_equal(&g.ip.i_mtime, &ip->i_mtime, sizeof(struct timespec));
	assert_memory_equal(&g.ip.i_ctime, &ip->i_ctime, sizeof(struct timespec));
	assert_int_equal(g.ip.i_major, ip->i_major);
	assert_int_equal(g.ip.i_minor, ip->i_minor);
	assert_true(g.ip.i_goal == ip->i_goal && g.ip.i_generation == ip->i_generation);
	assert_true(g.ip.i_eattr == ip->i_eattr);
	assert_int_equal(g.ip.i_diskflags, ip->i_diskflags);
	assert_int_equal(g.ip.i_height, 6);
	assert_int_equal(g.ip.i_depth, 17);
	assert_int_equal(g.ip.i_entries, ip->i_entries);
}

static void test_payload_format(void **state)
{
	struct fixture f;
	struct gfs2_dinode *di = fixture_init(&f);

	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
	f.ip.i_mode = S_IFDIR | 0755;
	gfs2_dinode_out(&f.ip, di);
	assert_int_equal(be32_to_cpu(di->di_payload_format), GFS2_FORMAT_DE);
	f.ip.i_diskflags = GFS2_DIF_EXHASH;
	gfs2_dinode_out(&f.ip, di);
	assert_int_equal(di->di_payload_format, 0);
	/* No goal: its own address, fsck wants a real one. */
	f.ip.i_goal = 0;
	gfs2_dinode_out(&f.ip, di);
	assert_int_equal(be64_to_cpu(di->di_goal_meta), EXAMPLE_ADDR);
	assert_int_equal(be64_to_cpu(di->di_goal_data), EXAMPLE_ADDR);
}

static void break_magic(struct gfs2_dinode *di) { di->di_header.mh_magic = 0; }
static void break_type(struct gfs2_dinode *di) { di->di_header.mh_type = cpu_to_be32(5); }
static void break_addr(struct gfs2_dinode *di) { di->di_num.no_addr = cpu_to_be64(4658); }
static void break_formal(struct gfs2_dinode *di) { di->di_num.no_formal_ino = 0; }
static void break_mode(struct gfs2_dinode *di) { di->di_mode = cpu_to_be32(0644); }
static void break_mode2(struct gfs2_dinode *di) { di->di_mode = cpu_to_be32(0170644); }
static void break_height(struct gfs2_dinode *di) { di->di_height = cpu_to_be16(7); }
static void break_height2(struct gfs2_dinode *di) { di->di_height = cpu_to_be16(256); }
static void break_depth(struct gfs2_dinode *di) { di->di_depth = cpu_to_be16(18); }
static void break_exhash(struct gfs2_dinode *di)
{
	di->di_flags = cpu_to_be32(GFS2_DIF_EXHASH);
	di->di_depth = cpu_to_be16(7);
}
static void break_stuffed(struct gfs2_dinode *di) { di->di_size = cpu_to_be64(4096 - 232 + 1); }
static void break_size(struct gfs2_dinode *di)
{
	di->di_height = cpu_to_be16(1);
	di->di_size = cpu_to_be64(1ull << 63);
}

static void test_broken(void **state)
{
	void (*const all[])(struct gfs2_dinode *) = {
		break_magic, break_type, break_addr, break_formal, break_mode, break_mode2, break_height,
		break_height2, break_depth, break_exhash, break_stuffed, break_size,
	};
	struct fixture f;
	struct gfs2_dinode *di;

	msg_set_level((enum msg_level)-1);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		di = fixture_init(&f);
		all[i](di);
		assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), -EIO);
		assert_false(f.ip.i_valid);
	}
	/* The type of a cached inode, and another inode in its place. */
	di = fixture_init(&f);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
	di->di_mode = cpu_to_be32(S_IFLNK | 0777);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), -EIO);
	di = fixture_init(&f);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
	di->di_num.no_formal_ino = cpu_to_be64(2);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), -ESTALE);
	msg_set_level(MSG_INFO);
	/* What is allowed at the edge. */
	di = fixture_init(&f);
	di->di_size = cpu_to_be64(4096 - 232);
	di->di_depth = cpu_to_be16(8);
	di->di_flags = cpu_to_be32(GFS2_DIF_EXHASH);
	assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
}

/* What mkfs wrote comes out of a round trip as it was: root and master of each block size. */
static void test_mkfs(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		struct fixture f;
		struct io_engine *e;
		uint64_t addrs[2];

		vol_make(bsize, 64, 1, "");
		memset(&f, 0, sizeof(f));
		e = vol_open(true);
		assert_int_equal(gfs2_read_sb(e, &f.sdp), 0);
		io_engine_close(e);
		f.sdp.sd_ro = true;
		addrs[0] = f.sdp.sd_root_addr;
		addrs[1] = f.sdp.sd_master_addr;
		for (unsigned i = 0; i < 2; i++) {
			char out[4096];

			memset(&f.ip, 0, sizeof(f.ip));
			f.ip.i_sbd = &f.sdp;
			f.ip.i_no_addr = addrs[i];
			f.bh.b_data = f.block;
			vol_read(f.block, bsize, addrs[i] * bsize);
			assert_int_equal(gfs2_dinode_in(&f.ip, &f.bh), 0);
			assert_true(S_ISDIR(f.ip.i_mode));
			/* The one field that is not kept: mkfs has another goal for data. */
			((struct gfs2_dinode *)f.block)->di_goal_data =
				((struct gfs2_dinode *)f.block)->di_goal_meta;
			memcpy(out, f.block, bsize);
			memset(out + 24, 0x5a, 232 - 24);
			gfs2_dinode_out(&f.ip, out);
			assert_memory_equal(out, f.block, bsize);
		}
	}
}

/* A volume that is mounted read-only says it each time, but not in the log: the first one names the block, and there is an end to it. */
static void test_said_again(void **state)
{
	int p[2], saved = dup(STDERR_FILENO);
	static char text[65536];
	struct fixture f;
	unsigned lines = 0;
	ssize_t n;

	fixture_init(&f);
	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	/* What the pipe holds, if all are said. */
	for (unsigned i = 0; i < 300; i++)
		gfs2_consist(&f.sdp, 4711, "on purpose");
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(p[1]);
	n = read(p[0], text, sizeof(text) - 1);
	close(p[0]);
	assert_true(n > 0);
	text[n] = 0;
	for (const char *at = text; (at = strchr(at, '\n')); at++)
		lines++;
	assert_in_range(lines, 1, 11);
	*strchr(text, '\n') = 0;
	assert_non_null(strstr(text, "block 4711: on purpose"));
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_said_again),
		cmocka_unit_test(test_decode),
		cmocka_unit_test(test_encode),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_payload_format),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_mkfs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return vol_main(run);
}
