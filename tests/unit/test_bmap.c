/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The metadata tree on real volumes: the worked example of reference 11.6, heights, truncation,
 * deletion.
 */
#include "volfile.h"
#include "child.h"
#include <pthread.h>
#include "fs/evict_later.h"
#include "fs/file.h"
#include "fs/icache.h"
#include "util/ctx.h"

static void write_at(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t len)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_write(ip, buf, pos, len, false), len);
	gfs2_glock_dq_uninit(&gh);
}

static int64_t free_blocks(struct gfs2_sbd *sdp)
{
	struct gfs2_statfs_host st;

	gfs2_evict_wait(sdp);
	gfs2_statfs_get(sdp, &st);
	return st.free;
}

/* Pointer @idx of the block at @blkno, from the store. */
static uint64_t disk_ptr(uint32_t bsize, uint64_t blkno, uint32_t head, unsigned idx)
{
	__be64 p;

	vol_read(&p, sizeof(p), blkno * bsize + head + 8ull * idx);
	return be64_to_cpu(p);
}

/*
 * One block at byte 2,048,000,000 of an empty file, 4 KiB blocks: height 3, path 1, 473, 162, and
 * a chain under pointer 0.
 */
static void test_example(void **state)
{
	char data[4096], back[4096];
	struct gfs2_inode *ip;
	struct mounted m;
	uint64_t addr, in1, in2, c1, c2, bn;

	memset(data, 'x', sizeof(data));
	vol_make(4096, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "h3");
	write_at(ip, data, 2048000000, 4096);
	assert_int_equal(ip->i_height, 3);
	assert_int_equal(ip->i_blocks, 6);
	assert_int_equal(ip->i_size, 2048004096);
	addr = ip->i_no_addr;
	gfs2_inode_put(ip);
	do_unmount(&m);

	in1 = disk_ptr(4096, addr, 232, 1);
	in2 = disk_ptr(4096, in1, 24, 473);
	bn = disk_ptr(4096, in2, 24, 162);
	c1 = disk_ptr(4096, addr, 232, 0);
	c2 = disk_ptr(4096, c1, 24, 0);
	assert_true(in1 && in2 && bn && c1 && c2);
	for (unsigned i = 0; i < 509; i++) {
		assert_int_equal(disk_ptr(4096, in1, 24, i), i == 473 ? in2 : 0);
		assert_int_equal(disk_ptr(4096, in2, 24, i), i == 162 ? bn : 0);
		assert_int_equal(disk_ptr(4096, c1, 24, i), i == 0 ? c2 : 0);
		assert_int_equal(disk_ptr(4096, c2, 24, i), 0);
		if (i >= 2 && i < 483)
			assert_int_equal(disk_ptr(4096, addr, 232, i), 0);
	}
	vol_read(back, sizeof(back), bn * 4096);
	assert_memory_equal(back, data, sizeof(data));
}

/*
 * The map, run by run, says what the pointers on disk say, also when it was read from disk again.
 */
static void test_map(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		static const uint64_t blocks[] = { 0, 1, 2, 34, 35, 36, 500, 501, 60000, 1u << 20 };
		struct gfs2_inode *ip;
		struct gfs2_holder gh;
		struct mounted m;
		char *data = calloc(1, bsize);

		vol_make(bsize, 64, 1, "");
		for (int pass = 0; pass < 2; pass++) {
			uint64_t l = 0;
			unsigned seen = 0;

			m = do_mount();
			ip = pass ? open_file(m.sdp, "f") : make_file(m.sdp, "f");
			for (unsigned i = 0; !pass && i < ARRAY_SIZE(blocks); i++)
				write_at(ip, data, blocks[i] * bsize, bsize);
			lock(ip, LM_ST_SHARED, &gh);
			while (l < (1u << 20) + 100) {
				struct extent e, one;

				assert_int_equal(gfs2_map_extent(ip, l, UINT64_MAX, &e), 0);
				assert_true(e.lblock == l && e.len > 0);
				assert_int_equal(gfs2_map_extent(ip, l, 1, &one), 0);
				assert_int_equal(one.len, 1);
				assert_int_equal(one.pblock, e.pblock);
				for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
					if (blocks[i] >= l && blocks[i] < l + e.len) {
						assert_true(e.pblock != 0);
						seen++;
					}
				l += e.len;
			}
			assert_int_equal(seen, ARRAY_SIZE(blocks));
			gfs2_glock_dq_uninit(&gh);
			gfs2_inode_put(ip);
			do_unmount(&m);
		}
		free(data);
	}
}

/* Each height in turn; then cut it down in steps, and everything is free again. */
static void test_heights(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		struct gfs2_inode *ip;
		struct mounted m;
		int64_t before;
		char data[64];

		memset(data, 'h', sizeof(data));
		vol_make(bsize, 64, 1, "");
		m = do_mount();
		ip = make_file(m.sdp, "f");
		before = free_blocks(m.sdp);
		for (unsigned h = 1; h <= m.sdp->sd_max_height; h++) {
			uint64_t pos = h == 1 ? bsize : m.sdp->sd_heightsize[h - 1] + 5;

			if (pos + sizeof(data) > INT64_MAX)
				break;
			write_at(ip, data, pos, sizeof(data));
			assert_int_equal(ip->i_height, h);
		}
		for (unsigned h = ip->i_height; h > 1; h--) {
			assert_int_equal(gfs2_setattr_size(ip, m.sdp->sd_heightsize[h - 1]), 0);
			assert_int_equal(ip->i_size, m.sdp->sd_heightsize[h - 1]);
		}
		assert_int_equal(gfs2_setattr_size(ip, 0), 0);
		assert_int_equal(ip->i_height, 0);
		assert_int_equal(ip->i_blocks, 1);
		assert_int_equal(free_blocks(m.sdp), before);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

/* Growing by setattr: stuffed as long as it fits, then a tree without blocks. */
static void test_truncate_up(void **state)
{
	struct gfs2_inode *ip;
	struct mounted m;
	uint32_t skip;
	char *buf = aligned_alloc(4096, 65536);
	struct gfs2_holder gh;

	vol_make(1024, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "empty");
	assert_int_equal(gfs2_setattr_size(ip, 792), 0);
	assert_int_equal(ip->i_height, 0);
	assert_int_equal(gfs2_setattr_size(ip, 1000000), 0);
	assert_int_equal(ip->i_height, 1);
	assert_int_equal(ip->i_blocks, 2); /* 792 zeros had to go somewhere */
	gfs2_inode_put(ip);
	ip = make_file(m.sdp, "sparse");
	assert_int_equal(gfs2_setattr_size(ip, 1000000), 0);
	assert_int_equal(ip->i_height, 1);
	assert_int_equal(ip->i_blocks, 1);
	assert_int_equal(gfs2_setattr_size(ip, 1ull << 63), -EFBIG);
	gfs2_inode_put(ip);
	ip = make_file(m.sdp, "data");
	write_at(ip, "hello", 0, 5);
	assert_int_equal(gfs2_setattr_size(ip, 3), 0);
	assert_int_equal(gfs2_setattr_size(ip, 2000), 0);
	assert_int_equal(ip->i_blocks, 2);
	lock(ip, LM_ST_SHARED, &gh);
	assert_int_equal(gfs2_file_read(ip, buf, 0, 4096, &skip), 2000);
	assert_memory_equal(buf, "hel\0\0", 5);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	do_unmount(&m);
	free(buf);
}

/* What is cut off inside a block is zero on the store: others may grow the file without looking. */
static void test_tail(void **state)
{
	struct gfs2_inode *ip;
	struct mounted m;
	char data[10000], back[1024];
	struct extent e;
	struct gfs2_holder gh;

	memset(data, 't', sizeof(data));
	vol_make(1024, 64, 1, "");
	for (int jdata = 0; jdata < 2; jdata++) {
		m = do_mount();
		ip = make_file(m.sdp, jdata ? "j" : "f");
		if (jdata) {
			lock(ip, LM_ST_EXCLUSIVE, &gh);
			assert_int_equal(gfs2_trans_begin(m.sdp->sd_log, 1, 0), 0);
			ip->i_diskflags |= GFS2_DIF_JDATA;
			assert_int_equal(gfs2_dinode_log(ip), 0);
			gfs2_trans_end(m.sdp->sd_log);
			gfs2_glock_dq_uninit(&gh);
		}
		write_at(ip, data, 0, sizeof(data));
		assert_int_equal(gfs2_setattr_size(ip, 5000), 0);
		lock(ip, LM_ST_SHARED, &gh);
		assert_int_equal(gfs2_map_extent(ip, 4, 1, &e), 0);
		gfs2_glock_dq_uninit(&gh);
		gfs2_inode_put(ip);
		do_unmount(&m);
		vol_read(back, sizeof(back), e.pblock * 1024);
		for (unsigned i = 0; i < sizeof(back); i++)
			assert_int_equal(back[i], i < 5000 - 4 * 1024 ? 't' : 0);
	}
}

/* Files and directories without names and without users: their blocks come back. */
static void test_delete(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 8) {
		struct mounted m;
		struct gfs2_inode *ip;
		int64_t before;
		char *data = calloc(1, 1 << 20);

		vol_make(bsize, 128, 1, "");
		m = do_mount();
		before = free_blocks(m.sdp);
		ip = make_file(m.sdp, "big");
		for (unsigned i = 0; i < 40; i++)
			write_at(ip, data, (uint64_t)i << 20, 1 << 20);
		write_at(ip, data, 1ull << 40, 100);
		assert_true(free_blocks(m.sdp) < before - (40 << 20) / bsize);
		assert_int_equal(gfs2_unlink(m.sdp->sd_root, "big"), 0);
		/* Still in use: still there. */
		write_at(ip, data, 5, 10);
		assert_true(free_blocks(m.sdp) < before - (40 << 20) / bsize);
		gfs2_inode_put(ip);
		assert_int_equal(free_blocks(m.sdp), before);
		/* Nobody can get it back. */
		assert_null(gfs2_inode_find(m.sdp, 12345));
		ip = make_file(m.sdp, "small");
		write_at(ip, "x", 0, 1);
		assert_int_equal(gfs2_unlink(m.sdp->sd_root, "small"), 0);
		gfs2_inode_put(ip);
		assert_int_equal(free_blocks(m.sdp), before);
		do_unmount(&m);
		free(data);
	}
}

/* --- extended attributes, as the kernel lays them out --- */

static uint64_t alloc_one(struct gfs2_inode *ip, struct gfs2_alloc *ap)
{
	unsigned n = 1;
	uint64_t bn;

	assert_int_equal(gfs2_alloc_blocks(ip, ap, &bn, &n, false, NULL), 0);
	ip->i_blocks++;
	return bn;
}

/* One EA block: a value inline, one in @nr_ed blocks, an unused rest. */
static uint64_t make_ea(struct gfs2_inode *ip, struct gfs2_alloc *ap, unsigned nr_ed, char c)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	uint64_t bn = alloc_one(ip, ap);
	struct gfs2_ea_header *ea;
	struct gfs2_bh *bh;
	__be64 *ptrs;
	char *name;

	assert_int_equal(gfs2_meta_new(sdp, ip->i_gl, bn, GFS2_METATYPE_EA, GFS2_FORMAT_EA, &bh), 0);
	ea = (void *)(bh->b_data + 24);
	name = (char *)(ea + 1);
	ea->ea_rec_len = cpu_to_be32(24);
	ea->ea_data_len = cpu_to_be32(3);
	ea->ea_name_len = 2;
	ea->ea_type = GFS2_EATYPE_USR;
	name[0] = c, name[1] = 'i';
	ea = (void *)((char *)ea + 24);
	name = (char *)(ea + 1);
	ea->ea_rec_len = cpu_to_be32(sdp->sd_bsize - 48);
	ea->ea_data_len = cpu_to_be32(min_t(uint32_t, nr_ed * sdp->sd_jbsize, GFS2_EA_MAX_DATA_LEN));
	ea->ea_name_len = 9;
	ea->ea_type = GFS2_EATYPE_USR;
	ea->ea_flags = GFS2_EAFLAG_LAST;
	ea->ea_num_ptrs = (uint8_t)nr_ed;
	memset(name, c, 9);
	ptrs = (__be64 *)(name + 16);
	for (unsigned i = 0; i < nr_ed; i++) {
		uint64_t ed = alloc_one(ip, ap);
		struct gfs2_bh *data;

		assert_int_equal(gfs2_meta_new(sdp, ip->i_gl, ed, GFS2_METATYPE_ED, GFS2_FORMAT_ED, &data), 0);
		buf_put(data);
		ptrs[i] = cpu_to_be64(ed);
	}
	buf_put(bh);
	return bn;
}

static void add_xattrs(struct gfs2_inode *ip, unsigned nr_ea, unsigned nr_ed)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_alloc ap = { .target = 1 + nr_ea * (1 + nr_ed) };
	struct gfs2_holder gh;
	struct gfs2_bh *bh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_inplace_reserve(ip, &ap), 0);
	assert_int_equal(gfs2_trans_begin(sdp->sd_log, gfs2_alloc_trans_blocks(&ap, ap.target, ap.target),
					  0), 0);
	if (nr_ea == 1) {
		ip->i_eattr = make_ea(ip, &ap, nr_ed, 'a');
	} else {
		ip->i_eattr = alloc_one(ip, &ap);
		ip->i_diskflags |= GFS2_DIF_EA_INDIRECT;
		assert_int_equal(gfs2_meta_new(sdp, ip->i_gl, ip->i_eattr, GFS2_METATYPE_IN, GFS2_FORMAT_IN, &bh), 0);
		for (unsigned i = 0; i < nr_ea; i++)
			gfs2_metaptrs(bh, 1)[i] =
				cpu_to_be64(make_ea(ip, &ap, nr_ed, (char)('a' + i)));
		buf_put(bh);
	}
	assert_int_equal(gfs2_dinode_log(ip), 0);
	gfs2_trans_end(sdp->sd_log);
	gfs2_inplace_release(ip, &ap);
	gfs2_glock_dq_uninit(&gh);
}

static void test_delete_xattrs(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 8) {
		struct mounted m;
		struct gfs2_inode *ip;
		char name[16];
		int64_t before;

		vol_make(bsize, 64, 1, "");
		m = do_mount();
		before = free_blocks(m.sdp);
		/* Twenty EA blocks with forty ED blocks each: more than one transaction frees. */
		for (unsigned i = 0; i < 3; i++) {
			snprintf(name, sizeof(name), "f%u", i);
			ip = make_file(m.sdp, name);
			write_at(ip, "data", 10000, 4);
			add_xattrs(ip, i == 2 ? 20 : 1, 40 * !!i);
			gfs2_inode_put(ip);
		}
		do_unmount(&m);
		m = do_mount();
		assert_true(free_blocks(m.sdp) < before - 20 * 40);
		for (unsigned i = 0; i < 3; i++) {
			snprintf(name, sizeof(name), "f%u", i);
			assert_int_equal(gfs2_unlink(m.sdp->sd_root, name), 0);
		}
		assert_int_equal(free_blocks(m.sdp), before);
		do_unmount(&m);
	}
}

/* A directory that has grown and is empty again. */
static void test_delete_dir(void **state)
{
	const struct gfs2_create_args a = { .mode = S_IFDIR | 0755 };
	struct gfs2_inode *dip, *ip;
	struct mounted m;
	struct stat st;
	int64_t before;
	char name[32];

	vol_make(512, 64, 1, "");
	m = do_mount();
	before = free_blocks(m.sdp);
	assert_int_equal(gfs2_create(m.sdp->sd_root, "dir", &a, &dip, &st), 0);
	for (int pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < 2000; i++) {
			const struct gfs2_create_args f = { .mode = S_IFREG | 0644, .excl = true };

			snprintf(name, sizeof(name), "some file %u", i);
			if (pass) {
				assert_int_equal(gfs2_unlink(dip, name), 0);
			} else {
				assert_int_equal(gfs2_create(dip, name, &f, &ip, &st), 0);
				gfs2_inode_put(ip);
			}
		}
	}
	assert_true(dip->i_height > 0);
	assert_int_equal(gfs2_rmdir(m.sdp->sd_root, "dir"), 0);
	assert_true(free_blocks(m.sdp) < before);
	gfs2_inode_put(dip);
	assert_int_equal(free_blocks(m.sdp), before);
	do_unmount(&m);
}

/* --- crashes --- */

#define CUT_BLOCKS 6000u	/* of 512 bytes: height 3 */

/*
 * Two files, each block of one followed by one of the other: no run is longer than a block, so
 * freeing takes many transactions.
 */
static void make_fragmented(struct gfs2_sbd *sdp)
{
	struct gfs2_inode *a = make_file(sdp, "a"), *b = make_file(sdp, "b");
	char data[512];

	memset(data, 'c', sizeof(data));
	for (unsigned i = 2 * CUT_BLOCKS; i--;)
		write_at(i & 1 ? a : b, data, i / 2 * 512ull, 512);
	gfs2_inode_put(a);
	gfs2_inode_put(b);
}

/* The last-level indirect block for file block CUT_BLOCKS / 2 of the inode at @addr. */
static uint64_t middle_indirect(uint64_t addr)
{
	unsigned l = CUT_BLOCKS / 2 / 61;
	uint64_t top = disk_ptr(512, addr, 232, l / 61);

	return disk_ptr(512, top, 24, l % 61);
}

/*
 * Truncating or deleting stops half-way, because an indirect block cannot be read; what was done
 * becomes durable, and the node dies.
 */
static void interrupted_child(uint64_t bad, bool delete)
{
	const struct io_fault fault = { .op = IO_READ, .cls = -1, .pos = bad * 512, .len = 512,
					.error = EIO };
	struct mounted m = do_mount();
	struct gfs2_inode *a = open_file(m.sdp, "a");

	if (io_fault_add(m.e, &fault))
		end_now(1);
	msg_set_level((enum msg_level)-1);
	if (delete) {
		if (gfs2_unlink(m.sdp->sd_root, "a"))
			end_now(2);
		gfs2_inode_put(a);
	} else if (gfs2_setattr_size(a, 1000) != -EIO) {
		end_now(3);
	}
	if (gfs2_withdrawn(m.sdp) || gfs2_log_flush(m.sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL))
		end_now(4);
	end_now(0);
}

static void check_cut(struct mounted *m)
{
	struct gfs2_inode *ip = open_file(m->sdp, "a");
	struct gfs2_holder gh;

	lock(ip, LM_ST_SHARED, &gh);
	assert_int_equal(ip->i_size, 1000);
	assert_true(ip->i_diskflags & GFS2_DIF_TRUNC_IN_PROG);
	assert_true(ip->i_blocks > CUT_BLOCKS / 3 && ip->i_blocks < CUT_BLOCKS);
	gfs2_glock_dq_uninit(&gh);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	/* dinode, two levels of indirect blocks, two blocks */
	assert_int_equal(ip->i_blocks, 5);
	assert_false(ip->i_diskflags & GFS2_DIF_TRUNC_IN_PROG);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	assert_int_equal(gfs2_unlink(m->sdp->sd_root, "a"), 0);
}

static void test_interrupted(void **state)
{
	for (int delete = 0; delete < 2; delete++) {
		struct mounted m;
		int64_t before;
		uint64_t addr;
		struct gfs2_inode *ip;
		int status;
		pid_t pid;

		vol_make(512, 64, 1, "");
		m = do_mount();
		before = free_blocks(m.sdp);
		make_fragmented(m.sdp);
		ip = open_file(m.sdp, "a");
		addr = ip->i_no_addr;
		assert_int_equal(ip->i_height, 3);
		gfs2_inode_put(ip);
		do_unmount(&m);
		pid = fork();
		if (!pid)
			interrupted_child(middle_indirect(addr), delete);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		/* The mount reclaims what has no name. */
		m = do_mount();
		if (!delete)
			check_cut(&m);
		assert_int_equal(gfs2_unlink(m.sdp->sd_root, "b"), 0);
		assert_int_equal(free_blocks(m.sdp), before);
		do_unmount(&m);
	}
}

/* --- the inode cache --- */

#define RACE_THREADS 4
#define RACE_ROUNDS 500

struct race {
	struct gfs2_sbd *sdp;
	unsigned nr;
	unsigned trimmed;
};

static const char race_text[] = "what every file in this test contains from end to end; ";
#define RACE_LEN 2800	/* more than fits into a dinode */

/* Empty, or complete: nothing that was written is lost with the last reference. */
static void race_check(struct gfs2_inode *ip)
{
	char *buf = aligned_alloc(4096, 8192);
	struct gfs2_holder gh;
	uint32_t skip;

	lock(ip, LM_ST_SHARED, &gh);
	if (ip->i_size) {
		GFS2_BUG_ON(gfs2_file_read(ip, buf, 0, RACE_LEN, &skip) != RACE_LEN);
		for (unsigned i = 0; i < RACE_LEN; i++)
			GFS2_BUG_ON(buf[skip + i] != race_text[i % 55]);
	}
	gfs2_glock_dq_uninit(&gh);
	free(buf);
}

/* Everybody makes, finds, uses and removes the same two names. */
static void *race_thread(void *arg)
{
	struct race *r = arg;
	const struct gfs2_create_args a = { .mode = S_IFREG | 0644 };
	unsigned seed = r->nr;
	char text[RACE_LEN];
	uint64_t node;

	for (unsigned i = 0; i < RACE_LEN; i++)
		text[i] = race_text[i % 55];
	current_ctx()->req = 1000 + r->nr;
	for (unsigned i = 0; i < RACE_ROUNDS; i++) {
		const char *name = rand_r(&seed) & 64 ? "x" : "y";
		struct gfs2_inode *ip = NULL;
		struct stat st;
		int error;

		switch (rand_r(&seed) / 64 % 4) {
		case 0:
			error = gfs2_unlink(r->sdp->sd_root, name);
			GFS2_BUG_ON(error && error != -ENOENT);
			continue;
		case 1:
			error = gfs2_lookup(r->sdp->sd_root, name, &ip, &st);
			GFS2_BUG_ON(error && error != -ENOENT && error != -ESTALE);
			break;
		default:
			error = gfs2_create(r->sdp->sd_root, name, &a, &ip, &st);
			GFS2_BUG_ON(error && error != -ESTALE);
		}
		if (!ip)
			continue;
		gfs2_inode_lookup_inc(ip);
		node = gfs2_node_id(ip->i_no_addr, ip->i_no_formal_ino);
		gfs2_inode_put(ip);
		/* Perhaps another object then, but never none. */
		r->trimmed += gfs2_icache_trim(r->sdp, 0);
		ip = gfs2_inode_by_node(r->sdp, node);
		GFS2_BUG_ON(!ip);
		race_check(ip);
		if (rand_r(&seed) & 64)
			write_at(ip, text, 0, RACE_LEN);
		gfs2_inode_put(ip);
		gfs2_inode_forget_node(r->sdp, node, 1);
	}
	return NULL;
}

static void test_races(void **state)
{
	pthread_t threads[RACE_THREADS];
	unsigned trimmed = 0;
	struct race races[RACE_THREADS];
	struct mounted m;
	int64_t before;

	vol_make(512, 64, 1, "");
	m = do_mount();
	before = free_blocks(m.sdp);
	for (unsigned i = 0; i < RACE_THREADS; i++) {
		races[i] = (struct race){ .sdp = m.sdp, .nr = i };
		assert_int_equal(pthread_create(&threads[i], NULL, race_thread, &races[i]), 0);
	}
	for (unsigned i = 0; i < RACE_THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < RACE_THREADS; i++)
		trimmed += races[i].trimmed;
	assert_true(trimmed);
	gfs2_unlink(m.sdp->sd_root, "x");
	gfs2_unlink(m.sdp->sd_root, "y");
	assert_int_equal(free_blocks(m.sdp), before);
	do_unmount(&m);
}

static _Thread_local struct gfs2_inode *open_then;

void __real_rmutex_unlock(struct rmutex *m);
void __wrap_rmutex_unlock(struct rmutex *m);

/* Whoever waited for this mutex comes next: another thread that opens the file. */
void __wrap_rmutex_unlock(struct rmutex *m)
{
	struct gfs2_inode *ip = open_then;

	__real_rmutex_unlock(m);
	open_then = NULL;
	if (ip)
		gfs2_inode_open_inc(ip, true, false);
}

/* Direct writes know that the kernel may have pages as long as it may: also if that open comes while another one finds that there is none. */
static void test_opens(void **state)
{
	struct gfs2_inode *ip;
	struct mounted m;
	uint32_t fills;

	vol_make(512, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "f");
	gfs2_inode_open_inc(ip, true, false);
	gfs2_inode_open_dec(ip, true, false);
	assert_true(gfs2_kernel_has_pages(ip));
	open_then = ip;
	assert_true(gfs2_inode_uncache_begin(ip, &fills));
	assert_null(open_then);
	gfs2_inode_uncache_end(ip, fills);
	assert_true(gfs2_kernel_has_pages(ip));
	assert_false(gfs2_inode_uncache_begin(ip, &fills));
	gfs2_inode_open_dec(ip, true, false);
	/* Opened, read and closed before the end. */
	assert_true(gfs2_inode_uncache_begin(ip, &fills));
	gfs2_inode_open_inc(ip, true, false);
	gfs2_inode_open_dec(ip, true, false);
	gfs2_inode_uncache_end(ip, fills);
	assert_true(gfs2_kernel_has_pages(ip));
	/* And just after it. */
	assert_true(gfs2_inode_uncache_begin(ip, &fills));
	open_then = ip;
	gfs2_inode_uncache_end(ip, fills);
	assert_true(gfs2_kernel_has_pages(ip));
	gfs2_inode_open_dec(ip, true, false);
	assert_true(gfs2_inode_uncache_begin(ip, &fills));
	gfs2_inode_uncache_end(ip, fills);
	assert_false(gfs2_kernel_has_pages(ip));
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* Counts, hashing and identity; the dinodes are never looked at. */
static void test_cache(void **state)
{
	enum { NR = 3000, FIRST = 10000 };
	struct gfs2_inode *ip, *again;
	struct mounted m;

	vol_make(512, 64, 1, "");
	m = do_mount();
	for (uint64_t i = 0; i < NR; i++) {
		assert_int_equal(gfs2_inode_lookup(m.sdp, FIRST + i, i + 1, &ip), 0);
		assert_int_equal(ip->i_no_addr, FIRST + i);
		gfs2_inode_lookup_inc(ip);
		gfs2_inode_lookup_inc(ip);
		gfs2_inode_put(ip);
	}
	for (uint64_t i = 0; i < NR; i++) {
		ip = gfs2_inode_find(m.sdp, FIRST + i);
		assert_non_null(ip);
		assert_int_equal(gfs2_inode_lookup(m.sdp, FIRST + i, i + 1, &again), 0);
		assert_ptr_equal(ip, again);
		gfs2_inode_put(again);
		/* Somebody else in the same block. */
		assert_int_equal(gfs2_inode_lookup(m.sdp, FIRST + i, i + 2, &again), -ESTALE);
		assert_int_equal(gfs2_inode_lookup(m.sdp, FIRST + i, 0, &again), 0);
		gfs2_inode_put(gfs2_inode_hold(again));
		gfs2_inode_put(again);
		gfs2_inode_forget(ip, 1);
		if (i & 1)
			gfs2_inode_forget(ip, 1);
		gfs2_inode_put(ip);
	}
	for (uint64_t i = 0; i < NR; i++) {
		ip = gfs2_inode_find(m.sdp, FIRST + i);
		if (i & 1) {
			assert_null(ip);
			continue;
		}
		assert_non_null(ip);
		gfs2_inode_open_inc(ip, false, false);
		gfs2_inode_open_inc(ip, true, false);
		gfs2_inode_open_dec(ip, false, false);
		gfs2_inode_open_dec(ip, true, false);
		gfs2_inode_put(ip);
	}
	gfs2_icache_forget_all(m.sdp);
	for (uint64_t i = 0; i < NR; i++)
		assert_null(gfs2_inode_find(m.sdp, FIRST + i));
	gfs2_inode_put(NULL);
	do_unmount(&m);
}

struct detain {
	struct gfs2_sbd *sdp;
	uint64_t no_addr;
	atomic_bool done;
};

static void *let_go(void *arg)
{
	struct detain *d = arg;

	assert_true(gfs2_inode_let_go(d->sdp, d->no_addr));
	return NULL;
}

static void *forget_all(void *arg)
{
	struct detain *d = arg;

	gfs2_icache_forget_all(d->sdp);
	atomic_store(&d->done, true);
	return NULL;
}

/* Whoever unmounts waits for an inode that a worker is just taking down, because another node wants it gone: the cache is to be empty then. */
static void test_forget_waits(void **state)
{
	struct mounted m;
	struct gfs2_icache *ic;
	struct gfs2_inode *ip;
	struct gfs2_glock *gl;
	struct detain d;
	pthread_t worker, unmount;
	bool waits = false, early;

	vol_make(4096, 64, 1, "");
	m = do_mount();
	ic = m.sdp->sd_icache;
	ip = make_file(m.sdp, "f");
	d = (struct detain){ .sdp = m.sdp, .no_addr = ip->i_no_addr };
	gfs2_inode_lookup_inc(ip);
	/* The worker waits for this half-way. */
	gl = ip->i_gl;
	rmutex_lock(&gl->gl_lock);
	ip->i_glops++;
	rmutex_unlock(&gl->gl_lock);
	gfs2_inode_put(ip);
	assert_int_equal(pthread_create(&worker, NULL, let_go, &d), 0);
	while (gfs2_inode_in_core(m.sdp, d.no_addr))
		sched_yield();
	assert_int_equal(pthread_create(&unmount, NULL, forget_all, &d), 0);
	while (!waits && !atomic_load(&d.done)) {
		sched_yield();
		rmutex_lock(&ic->lock);
		waits = ip->i_waiters;
		rmutex_unlock(&ic->lock);
	}
	early = atomic_load(&d.done);
	rmutex_lock(&gl->gl_lock);
	ip->i_glops--;
	rcond_broadcast(&gl->gl_wait);
	rmutex_unlock(&gl->gl_lock);
	pthread_join(worker, NULL);
	pthread_join(unmount, NULL);
	assert_false(early);
	do_unmount(&m);
}

static void read_text(struct gfs2_inode *ip, char *text, uint32_t len)
{
	char *buf = aligned_alloc(4096, 8192);
	struct gfs2_holder gh;
	uint32_t skip;

	lock(ip, LM_ST_SHARED, &gh);
	assert_int_equal(gfs2_file_read(ip, buf, 0, len, &skip), len);
	memcpy(text, buf + skip, len);
	gfs2_glock_dq_uninit(&gh);
	free(buf);
}

/* Inodes that only the kernel knows are reduced, and nobody can tell. */
static void test_trim(void **state)
{
	enum { NR = 200 };
	struct gfs2_inode *ip, *open_ip;
	uint64_t addr[NR], formal[NR];
	unsigned objects, remnants;
	struct mounted m;
	char name[16], text[16], longer[320] = "does not fit into a dinode: lies in a block of its own";
	struct stat st;

	vol_make(512, 64, 1, "");
	m = do_mount();
	for (unsigned i = 0; i < NR; i++) {
		snprintf(name, sizeof(name), "f%03u", i);
		ip = make_file(m.sdp, name);
		write_at(ip, name, 0, 4);
		addr[i] = ip->i_no_addr;
		formal[i] = ip->i_no_formal_ino;
		gfs2_inode_lookup_inc(ip);
		gfs2_inode_lookup_inc(ip);
		atomic_store(&ip->i_kcached, i & 1);
		gfs2_inode_put(ip);
	}
	/* In use, without a name, and with dirty data: these stay. */
	open_ip = gfs2_inode_find(m.sdp, addr[0]);
	assert_int_equal(gfs2_unlink(m.sdp->sd_root, "f001"), 0);
	ip = gfs2_inode_find(m.sdp, addr[2]);
	write_at(ip, longer, 0, sizeof(longer));
	gfs2_inode_put(ip);
	assert_int_equal(gfs2_log_flush(m.sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL), 0);
	ip = gfs2_inode_find(m.sdp, addr[2]);
	write_at(ip, "A", 0, 1);
	gfs2_inode_put(ip);
	gfs2_icache_trim(m.sdp, 0);
	gfs2_icache_count(m.sdp, &objects, &remnants);
	assert_int_equal(remnants, NR - 3);
	assert_ptr_equal(gfs2_inode_find(m.sdp, addr[0]), open_ip);
	gfs2_inode_put(open_ip);

	for (unsigned i = 3; i < NR; i++) {
		ip = gfs2_inode_find(m.sdp, addr[i]);
		assert_non_null(ip);
		assert_int_equal(ip->i_nlookup, 2);
		assert_int_equal(ip->i_no_formal_ino, formal[i]);
		assert_int_equal(atomic_load(&ip->i_kcached), i & 1);
		snprintf(name, sizeof(name), "f%03u", i);
		read_text(ip, text, 4);
		assert_memory_equal(text, name, 4);
		gfs2_inode_put(ip);
		/* Known by another formal number: that was another inode. */
		gfs2_icache_trim(m.sdp, 0);
		assert_int_equal(gfs2_inode_lookup(m.sdp, addr[i], formal[i] + 1, &ip), -ESTALE);
		gfs2_inode_forget_node(m.sdp, gfs2_node_id(addr[i], formal[i]), 1);
		if (i % 3 == 0) {
			/* Unlinked while it was reduced; lives until it is forgotten. */
			assert_int_equal(gfs2_unlink(m.sdp->sd_root, name), 0);
			gfs2_icache_trim(m.sdp, 0);
			ip = gfs2_inode_find(m.sdp, addr[i]);
			assert_non_null(ip);
			gfs2_inode_put(ip);
			assert_int_equal(gfs2_get_block_type(m.sdp, addr[i]), GFS2_BLKST_UNLINKED_);
		} else {
			assert_int_equal(gfs2_lookup(m.sdp->sd_root, name, &ip, &st), 0);
			assert_int_equal(ip->i_nlookup, 1);
			gfs2_inode_put(ip);
			gfs2_icache_trim(m.sdp, 0);
		}
		gfs2_inode_forget_node(m.sdp, gfs2_node_id(addr[i], formal[i]), 1);
		assert_null(gfs2_inode_find(m.sdp, addr[i]));
		gfs2_evict_wait(m.sdp);
		if (i % 3 == 0)
			assert_int_equal(gfs2_get_block_type(m.sdp, addr[i]), GFS2_BLKST_FREE_);
	}
	gfs2_icache_count(m.sdp, &objects, &remnants);
	assert_int_equal(remnants, 0);
	gfs2_inode_put(open_ip);
	/* Reduced ones at the end are no obstacle. */
	gfs2_icache_trim(m.sdp, 0);
	do_unmount(&m);
}

static void *dio_thread(void *arg)
{
	for (int i = 0; i < 3; i++)
		inode_dio_end(arg);
	return NULL;
}

/* Who wants the lock in another state waits for direct I/O in flight. */
static void test_dio_wait(void **state)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct mounted m;
	pthread_t thread;

	vol_make(512, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "f");
	for (int i = 0; i < 200; i++) {
		for (int n = 0; n < 3; n++)
			inode_dio_begin(ip);
		assert_int_equal(pthread_create(&thread, NULL, dio_thread, ip), 0);
		if (i & 1) {
			gfs2_glock_cb(ip->i_gl, LM_ST_UNLOCKED, true);
			lock(ip, LM_ST_EXCLUSIVE, &gh);
			gfs2_glock_dq_uninit(&gh);
		} else {
			inode_dio_wait(ip);
		}
		assert_int_equal(atomic_load(&ip->i_dio_count), 0);
		pthread_join(thread, NULL);
	}
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/*
 * A truncate that a crash interrupted: the flag is set by hand, the next exclusive lock finishes
 * it.
 */
static void test_resume(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;
	struct gfs2_dinode *di;
	struct gfs2_holder gh;
	char block[1024], *data = malloc(100000);
	uint64_t addr;

	memset(data, 'r', 100000);
	vol_make(1024, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "f");
	write_at(ip, data, 0, 100000);
	addr = ip->i_no_addr;
	gfs2_inode_put(ip);
	do_unmount(&m);

	vol_read(block, sizeof(block), addr * 1024);
	di = (struct gfs2_dinode *)block;
	di->di_size = cpu_to_be64(5000);
	di->di_flags |= cpu_to_be32(GFS2_DIF_TRUNC_IN_PROG);
	vol_write(block, sizeof(block), addr * 1024);

	m = do_mount();
	ip = open_file(m.sdp, "f");
	assert_true(ip->i_blocks > 90);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(ip->i_size, 5000);
	assert_int_equal(ip->i_blocks, 6);
	assert_false(ip->i_diskflags & GFS2_DIF_TRUNC_IN_PROG);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	do_unmount(&m);
	free(data);
}

/* A pointer to nowhere is an error, not a read or a write somewhere. */
static void test_bad_pointer(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct extent e;
	char data[20000] = { 1 };
	static const uint64_t bad[] = { 1, 64, 1ull << 40, UINT64_MAX };
	uint64_t addr;
	__be64 good;

	vol_make(1024, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "f");
	write_at(ip, data, 0, sizeof(data));
	addr = ip->i_no_addr;
	gfs2_inode_put(ip);
	do_unmount(&m);
	vol_read(&good, sizeof(good), addr * 1024 + 232 + 8 * 7);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct gfs2_args args = vol_args;
		__be64 p = cpu_to_be64(bad[i]);

		args.ar_ro = true;
		vol_write(&p, sizeof(p), addr * 1024 + 232 + 8 * 7);
		m.e = vol_open(true);
		assert_int_equal(gfs2_mount(m.e, &args, &m.sdp), 0);
		ip = open_file(m.sdp, "f");
		lock(ip, LM_ST_SHARED, &gh);
		msg_set_level((enum msg_level)-1);
		assert_int_equal(gfs2_map_extent(ip, 7, 1, &e), -EIO);
		msg_set_level(MSG_INFO);
		assert_int_equal(gfs2_map_extent(ip, 8, 1, &e), 0);
		gfs2_glock_dq_uninit(&gh);
		gfs2_inode_put(ip);
		assert_int_equal(gfs2_unmount(m.sdp), 0);
		io_engine_close(m.e);
	}
	vol_write(&good, sizeof(good), addr * 1024 + 232 + 8 * 7);
	vol_fsck();
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_example),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_heights),
		cmocka_unit_test(test_truncate_up),
		cmocka_unit_test(test_tail),
		cmocka_unit_test(test_delete),
		cmocka_unit_test(test_delete_xattrs),
		cmocka_unit_test(test_delete_dir),
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_races),
		cmocka_unit_test(test_opens),
		cmocka_unit_test(test_cache),
		cmocka_unit_test(test_forget_waits),
		cmocka_unit_test(test_trim),
		cmocka_unit_test(test_dio_wait),
		cmocka_unit_test(test_resume),
		cmocka_unit_test(test_bad_pointer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return vol_main(run);
}
