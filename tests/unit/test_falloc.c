/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fallocate on volumes whose blocks are full of junk: what was never written is zero whatever happens;
 * punched holes give their blocks back; a full volume is full to the block; inode flags.
 */
#include "volfile.h"
#include "child.h"
#include <linux/falloc.h>
#include "fs/falloc.h"
#include "fs/fileattr.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define IO_MAX (1u << 20)

static char *io_buf;

/* A volume of junk. */
static void make(unsigned bsize, unsigned mib)
{
	snprintf(vol_path, sizeof(vol_path), "%s/volume", vol_dir);
	assert_int_equal(vol_sh("rm -f %s && head -c %uM /dev/zero | tr '\\0' '\\245' >%s && "
				"mkfs.gfs2 -O -q -K -p lock_nolock -b %u -j 1 -J 8 %s",
				vol_path, mib, vol_path, bsize, vol_path), 0);
}

static struct stat stat_of(struct gfs2_inode *ip)
{
	struct gfs2_holder gh;
	struct stat st;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	gfs2_getattr(ip, &st);
	gfs2_glock_dq_uninit(&gh);
	return st;
}

static uint64_t blocks_of(struct gfs2_inode *ip)
{
	return (uint64_t)stat_of(ip).st_blocks * 512 / ip->i_sbd->sd_bsize;
}

static int64_t write_at(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t len)
{
	struct gfs2_holder gh;
	int64_t ret;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	ret = gfs2_file_write(ip, buf, pos, len, true);
	gfs2_glock_dq_uninit(&gh);
	return ret;
}

static void expect(struct gfs2_inode *ip, uint64_t pos, uint64_t len, char c)
{
	while (len) {
		uint32_t n = (uint32_t)min_t(uint64_t, len, IO_MAX), skip;
		struct gfs2_holder gh;

		assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
		assert_int_equal(gfs2_file_read(ip, io_buf, pos, n, &skip), n);
		gfs2_glock_dq_uninit(&gh);
		for (uint32_t i = 0; i < n; i++)
			assert_int_equal(io_buf[skip + i], c);
		pos += n;
		len -= n;
	}
}

static uint64_t free_blocks(struct gfs2_sbd *sdp)
{
	struct gfs2_statfs_host st;

	gfs2_statfs_get(sdp, &st);
	return (uint64_t)st.free;
}

/* --- preallocation --- */

static void test_prealloc(void **state)
{
	for (unsigned bs = 512; bs <= 4096; bs *= 2) {
		struct mounted m;
		struct gfs2_inode *ip;
		uint64_t free, blocks;

		make(bs, 64);
		m = do_mount();
		ip = make_file(m.sdp, "f");
		free = free_blocks(m.sdp);
		/* Stuffed contents survive; unaligned ends. */
		assert_int_equal(write_at(ip, "abc", 0, 3), 3);
		assert_int_equal(gfs2_fallocate(ip, 0, 100, 20000000, false), 0);
		assert_int_equal(ip->i_size, 20000100);
		expect(ip, 3, 20000097, 0);
		expect(ip, 0, 1, 'a');
		blocks = blocks_of(ip);
		assert_true(blocks > 20000100 / bs);
		assert_int_equal(free - free_blocks(m.sdp), blocks - 1);
		assert_int_equal(gfs2_seek(ip, 0, false), 20000100);
		/* Behind the end, size kept: a later growth finds zeros. */
		assert_int_equal(gfs2_fallocate(ip, FALLOC_FL_KEEP_SIZE, 21000000, 1000000, false), 0);
		assert_int_equal(ip->i_size, 20000100);
		assert_true(blocks_of(ip) > blocks + 1000000 / bs);
		assert_int_equal(gfs2_setattr_size(ip, 25000000), 0);
		expect(ip, 20000100, 4999900, 0);
		assert_int_equal(gfs2_seek(ip, 20500000, true), ALIGN_DOWN(21000000, bs));
		/* What is allocated stays what it is. */
		memset(io_buf, 'x', 100000);
		assert_int_equal(write_at(ip, io_buf, 5000, 100000), 100000);
		blocks = blocks_of(ip);
		assert_int_equal(gfs2_fallocate(ip, 0, 0, 20000000, false), 0);
		assert_int_equal(blocks_of(ip), blocks);
		expect(ip, 5000, 100000, 'x');
		assert_int_equal(gfs2_seek(ip, 5001, true), 5001);
		assert_int_equal(gfs2_seek(ip, 20500001, false), 20500001);
		/* Far away: height grows. */
		assert_int_equal(gfs2_fallocate(ip, 0, 1ull << 40, 3 * bs, false), 0);
		expect(ip, 1ull << 40, 3 * bs, 0);
		expect(ip, 5000, 100000, 'x');
		gfs2_inode_put(ip);
		do_unmount(&m);
		m = do_mount();
		ip = open_file(m.sdp, "f");
		expect(ip, 105000, 19000000, 0);
		expect(ip, 1ull << 40, 3 * bs, 0);
		assert_int_equal(gfs2_unlink(m.sdp->sd_root, "f"), 0);
		gfs2_inode_put(ip);
		assert_int_equal(free_blocks(m.sdp), free + 1);
		do_unmount(&m);
	}
}

static void test_refused(void **state)
{
	static const int modes[] = { FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE,
				     FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE,
				     FALLOC_FL_UNSHARE_RANGE, FALLOC_FL_NO_HIDE_STALE };
	struct mounted m;
	struct gfs2_inode *ip;

	make(4096, 64);
	m = do_mount();
	ip = make_file(m.sdp, "f");
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++)
		assert_int_equal(gfs2_fallocate(ip, modes[i], 0, 4096, false), -EOPNOTSUPP);
	assert_int_equal(gfs2_fallocate(ip, 0, 0, 0, false), -EINVAL);
	assert_int_equal(gfs2_fallocate(ip, 0, INT64_MAX, 1, false), -EFBIG);
	assert_int_equal(gfs2_fallocate(m.sdp->sd_root, 0, 0, 4096, false), -EISDIR);
	assert_int_equal(blocks_of(ip), 1);
	/* The last byte that a file can have. */
	assert_int_equal(gfs2_fallocate(ip, 0, INT64_MAX - 1, 1, false), 0);
	assert_int_equal(ip->i_size, INT64_MAX);
	assert_int_equal(gfs2_fallocate(ip, PUNCH, INT64_MAX - 10000, 10000, false), 0);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* The device fails while blocks are zeroed: fewer blocks, but never one that is not zero. */
static void test_eio(void **state)
{
	struct io_fault f = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO, .count = 1 };

	for (unsigned skip = 0; skip < 4; skip++) {
		struct mounted m;
		struct gfs2_inode *ip;
		uint64_t free;

		make(1024, 48);
		m = do_mount();
		ip = make_file(m.sdp, "f");
		assert_int_equal(gfs2_setattr_size(ip, 20 << 20), 0);
		free = free_blocks(m.sdp);
		/* a piece is 16 requests: the last one fails in the second piece */
		f.skip = skip * 6;
		assert_int_equal(io_fault_add(m.e, &f), 0);
		assert_int_equal(gfs2_fallocate(ip, 0, 1000, 20 << 20, false), -EIO);
		io_fault_clear(m.e);
		assert_int_equal(ip->i_size, 20 << 20);
		assert_int_equal(free - free_blocks(m.sdp), blocks_of(ip) - 1);
		assert_true(skip * 6 < 16 ? blocks_of(ip) < 1000 : blocks_of(ip) > 16000);
		expect(ip, 0, 20 << 20, 0);
		gfs2_inode_put(ip);
		do_unmount(&m);
		m = do_mount();
		ip = open_file(m.sdp, "f");
		expect(ip, 0, 20 << 20, 0);
		assert_int_equal(gfs2_fallocate(ip, 0, 0, 20 << 20, false), 0);
		expect(ip, 0, 20 << 20, 0);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

/* Killed at any moment: zeros. */
static void test_killed(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;
	int status;
	pid_t pid;

	make(2048, 64);
	pid = fork();
	if (!pid) {
		m = do_mount();
		ip = make_file(m.sdp, "f");
		for (unsigned i = 0; i < 300; i++) {
			gfs2_fallocate(ip, i & 1, i * 100000ull, 50000, false);
			if (i % 10 == 0)
				gfs2_log_flush(m.sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL);
		}
		end_now(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	m = do_mount();
	ip = open_file(m.sdp, "f");
	assert_true(ip->i_size > 20000000);
	expect(ip, 0, ip->i_size, 0);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* --- holes --- */

static void test_punch(void **state)
{
	for (unsigned bs = 512; bs <= 4096; bs *= 2) {
		const uint32_t size = 6 << 20;
		struct mounted m;
		struct gfs2_inode *ip;
		uint64_t free, full;
		unsigned height;

		make(bs, 32);
		m = do_mount();
		ip = make_file(m.sdp, "f");
		/* stuffed */
		memset(io_buf, 'a', IO_MAX);
		assert_int_equal(write_at(ip, io_buf, 0, 200), 200);
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 50, 100, false), 0);
		expect(ip, 0, 50, 'a');
		expect(ip, 50, 100, 0);
		expect(ip, 150, 50, 'a');
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 190, 5000, false), 0);
		assert_int_equal(ip->i_size, 200);
		expect(ip, 190, 10, 0);
		free = free_blocks(m.sdp);
		for (uint32_t pos = 0; pos < size; pos += IO_MAX)
			assert_int_equal(write_at(ip, memset(io_buf, 'a', IO_MAX), pos, IO_MAX), IO_MAX);
		full = blocks_of(ip);
		height = ip->i_height;
		/* inside of one block; two ends in two blocks; nothing whole is freed */
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 10 * bs + 10, bs - 20, false), 0);
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 20 * bs + 10, bs, false), 0);
		assert_int_equal(blocks_of(ip), full);
		expect(ip, 10 * bs, 10, 'a');
		expect(ip, 10 * bs + 10, bs - 20, 0);
		expect(ip, 11 * bs - 10, 10 + 9 * bs + 10, 'a');
		expect(ip, 20 * bs + 10, bs, 0);
		expect(ip, 21 * bs + 10, 100 * bs, 'a');
		/* blocks and ends */
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 200 * bs - 5, 3 * bs + 10, false), 0);
		assert_int_equal(blocks_of(ip), full - 3);
		expect(ip, 200 * bs - 5, 3 * bs + 10, 0);
		expect(ip, 203 * bs + 5, 1000, 'a');
		assert_int_equal(gfs2_seek(ip, 0, false), 200 * bs);
		assert_int_equal(gfs2_seek(ip, 200 * bs, true), 203 * bs);
		/* The whole of the middle: metadata goes, too. */
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 1000, size - 2000, false), 0);
		assert_int_equal(ip->i_size, size);
		assert_int_equal(ip->i_height, height);
		/* what is left: both ends and the ways to them */
		assert_true(blocks_of(ip) <= 1 + 2 * (height - 1) + 2 * (1000 / bs + 1));
		expect(ip, 0, 1000, 'a');
		expect(ip, 1000, size - 2000, 0);
		expect(ip, size - 1000, 1000, 'a');
		assert_int_equal(free - free_blocks(m.sdp), blocks_of(ip) - 1);
		/* behind the end: nothing, and the file does not grow */
		assert_int_equal(gfs2_fallocate(ip, PUNCH, size - 500, 1 << 20, false), 0);
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 1ull << 50, 1ull << 40, false), 0);
		assert_int_equal(ip->i_size, size);
		expect(ip, size - 1000, 500, 'a');
		expect(ip, size - 500, 500, 0);
		/* preallocated behind the end, punched again */
		assert_int_equal(gfs2_fallocate(ip, FALLOC_FL_KEEP_SIZE, 10 << 20, 2 << 20, false), 0);
		full = blocks_of(ip);
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 10 << 20, 2 << 20, false), 0);
		assert_true(blocks_of(ip) <= full - (2 << 20) / bs);
		/* what is punched can be written again */
		memset(io_buf, 'b', 3 * bs);
		assert_int_equal(write_at(ip, io_buf, 300 * bs, 3 * bs), 3 * bs);
		expect(ip, 300 * bs, 3 * bs, 'b');
		expect(ip, 303 * bs, 10000, 0);
		gfs2_inode_put(ip);
		do_unmount(&m);
		m = do_mount();
		ip = open_file(m.sdp, "f");
		expect(ip, 300 * bs, 3 * bs, 'b');
		expect(ip, 1000, 300 * bs - 1000, 0);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

/* A block at @pos; with @count it must take what was foretold, in a file that is a tree already. */
static void write_counted(struct gfs2_inode *ip, uint64_t pos, bool count)
{
	uint64_t before = blocks_of(ip);
	struct gfs2_holder gh;
	unsigned missing = 0;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	if (count)
		assert_int_equal(gfs2_alloc_meta_missing(ip, pos / ip->i_sbd->sd_bsize, &missing), 0);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(write_at(ip, "data", pos, 4), 4);
	if (count)
		assert_int_equal(blocks_of(ip) - before, missing + 1);
}

/* A tree of the greatest height with a block here and there: holes over everything but one. */
static void test_punch_high(void **state)
{
	for (unsigned bs = 512; bs <= 4096; bs *= 8) {
		static const uint64_t at[] = { 0, 1 << 20, 1ull << 30, 1ull << 36, 1ull << 42, 1ull << 50,
					       1ull << 60, INT64_MAX - 5000 };
		struct mounted m;
		struct gfs2_inode *ip;

		make(bs, 32);
		m = do_mount();
		ip = make_file(m.sdp, "f");
		for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
			/* the way to there, and to a block a little further on */
			write_counted(ip, at[i], i > 1);
			if (i > 1 && i + 1 < ARRAY_SIZE(at)) {
				write_counted(ip, at[i] + 100 * bs, true);
				write_counted(ip, at[i] + (5ull << 20), true);
				assert_int_equal(gfs2_fallocate(ip, PUNCH, at[i] + bs, 6 << 20, false), 0);
			}
		}
		for (unsigned i = 0; i + 1 < ARRAY_SIZE(at); i++) {
			assert_int_equal(gfs2_seek(ip, at[i] + bs, true), ALIGN_DOWN(at[i + 1], bs));
			assert_int_equal(gfs2_fallocate(ip, PUNCH, at[i], at[i + 1] - at[i], false), 0);
			expect(ip, at[i], 4, 0);
			expect(ip, at[i + 1], 1, 'd');
		}
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 0, INT64_MAX, false), 0);
		/* the dinode and the way to the last block that can be */
		assert_true(blocks_of(ip) <= ip->i_height);
		assert_int_equal(gfs2_seek(ip, 0, true), -ENXIO);
		assert_int_equal(ip->i_size, INT64_MAX - 5000 + 4);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

/* --- full --- */

/* What statfs says is free can be used: by writes in blocks, and by preallocation. */
static void test_exact(void **state)
{
	for (unsigned bs = 512; bs <= 4096; bs *= 8) {
		struct mounted m;
		struct gfs2_inode *ip, *small;
		uint64_t pos = 0, before;
		struct gfs2_holder gh;
		unsigned missing;
		int64_t ret;

		make(bs, 32);
		m = do_mount();
		small = make_file(m.sdp, "small");
		ip = make_file(m.sdp, "fill");
		memset(io_buf, 'f', IO_MAX);
		while ((ret = write_at(ip, io_buf, pos, IO_MAX)) > 0)
			pos += ret;
		assert_int_equal(ret, -ENOSPC);
		/* Nothing is left but what the next block would need for its indirect blocks. */
		assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
		assert_int_equal(gfs2_alloc_meta_missing(ip, pos / bs, &missing), 0);
		gfs2_glock_dq_uninit(&gh);
		assert_true(missing < ip->i_height);
		assert_true(free_blocks(m.sdp) <= missing);
		/* a hole whose path is there: each freed block can be had again */
		assert_int_equal(gfs2_fallocate(ip, PUNCH, 3 * bs, 5 * bs, false), 0);
		before = free_blocks(m.sdp);
		assert_true(before >= 5);
		assert_int_equal(write_at(ip, io_buf, 3 * bs, 2 * bs), 2 * bs);
		assert_int_equal(gfs2_fallocate(ip, 0, 5 * bs, 3 * bs, false), 0);
		assert_int_equal(free_blocks(m.sdp), before - 5);
		/* more than there is: nothing is taken, and the size stays */
		assert_int_equal(gfs2_setattr_size(ip, 0), 0);
		before = free_blocks(m.sdp);
		assert_int_equal(gfs2_fallocate(small, 0, 0, 64 << 20, false), -ENOSPC);
		assert_int_equal(free_blocks(m.sdp), before);
		assert_int_equal(small->i_size, 0);
		/* take all at once */
		while (pos && gfs2_fallocate(small, 0, 0, pos, false) == -ENOSPC)
			pos -= min_t(uint64_t, pos, 8 * bs);
		assert_true(pos / bs > before * 97 / 100);
		expect(small, 0, pos, 0);
		gfs2_inode_put(ip);
		gfs2_inode_put(small);
		do_unmount(&m);
	}
}

/* The kernel's last word on a deleted file comes a moment after unlink. */
static void *forget_later(void *arg)
{
	struct gfs2_inode *ip = arg;

	/* time for the other one to find that nothing is free; it need not be enough */
	usleep(100000);
	gfs2_inode_forget(ip, 1);
	return NULL;
}

static void deleted_space(bool preallocate)
{
	const uint64_t len = 16 << 20;
	struct mounted m;
	struct gfs2_inode *a, *b, *held;
	pthread_t thread;

	make(4096, 32);
	m = do_mount();
	held = make_file(m.sdp, "held");
	assert_int_equal(write_at(held, io_buf, 0, 5000), 5000);
	assert_int_equal(gfs2_unlink(m.sdp->sd_root, "held"), 0);
	a = make_file(m.sdp, "a");
	assert_int_equal(gfs2_fallocate(a, 0, 0, len, false), 0);
	gfs2_inode_lookup_inc(a);
	b = make_file(m.sdp, "b");
	/* An open file is not waited for, and what is in use as somebody's directory only once. */
	assert_int_equal(gfs2_fallocate(b, 0, 0, 30 << 20, false), -ENOSPC);
	assert_int_equal(gfs2_unlink(m.sdp->sd_root, "a"), 0);
	assert_int_equal(pthread_create(&thread, NULL, forget_later, a), 0);
	gfs2_inode_put(a);
	if (preallocate)
		assert_int_equal(gfs2_fallocate(b, 0, 0, len, false), 0);
	memset(io_buf, 'n', IO_MAX);
	for (uint64_t pos = 0; pos < len; pos += IO_MAX)
		assert_int_equal(write_at(b, io_buf, pos, IO_MAX), IO_MAX);
	pthread_join(thread, NULL);
	gfs2_inode_put(held);
	gfs2_inode_put(b);
	do_unmount(&m);
}

static void test_deleted_space(void **state)
{
	deleted_space(false);
}

static void test_deleted_space_preallocated(void **state)
{
	deleted_space(true);
}

/* Small files that the kernel has forgotten and that wait to be freed together. */
static void test_queued_space(void **state)
{
	enum { FILES = 200, BLOCKS = 14 };
	struct gfs2_inode *files[FILES], *ip;
	struct mounted m;
	uint64_t free;
	char name[16];

	make(4096, 32);
	m = do_mount();
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		files[i] = make_file(m.sdp, name);
		gfs2_inode_lookup_inc(files[i]);
		gfs2_inode_put(files[i]);
		assert_int_equal(write_at(files[i], io_buf, 0, BLOCKS * 4096), BLOCKS * 4096);
	}
	ip = make_file(m.sdp, "f");
	free = free_blocks(m.sdp);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(gfs2_unlink(m.sdp->sd_root, name), 0);
		gfs2_inode_forget(files[i], 1);
	}
	assert_int_equal(gfs2_fallocate(ip, 0, 0, (free + FILES / 2 * BLOCKS) * 4096, false), 0);
	expect(ip, 0, ip->i_size, 0);
	/* More than all of it is more than there is, and nothing is taken. */
	free = free_blocks(m.sdp);
	assert_int_equal(gfs2_fallocate(ip, 0, ip->i_size, (free + 1) * 4096, false), -ENOSPC);
	assert_int_equal(free_blocks(m.sdp), free);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* --- flags --- */

static void test_flags(void **state)
{
	const uint32_t all = FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NOATIME_FL;
	struct fsxattr fa = { .fsx_xflags = FS_XFLAG_APPEND };
	struct mounted m;
	struct gfs2_inode *ip;
	uint32_t flags;
	struct stat st;

	make(4096, 32);
	m = do_mount();
	ip = make_file(m.sdp, "f");
	assert_int_equal(gfs2_fileattr_get(ip, &flags), 0);
	assert_int_equal(flags, 0);
	assert_int_equal(gfs2_fileattr_get(m.sdp->sd_root, &flags), 0);
	assert_int_equal(flags, 0);
	assert_int_equal(gfs2_fileattr_set(ip, FS_TOPDIR_FL), -EINVAL);
	assert_int_equal(gfs2_fileattr_set(ip, FS_INDEX_FL), -EINVAL);
	assert_int_equal(gfs2_fileattr_set(ip, FS_NODUMP_FL), -EINVAL);
	assert_int_equal(gfs2_fileattr_set(ip, FS_COMPR_FL), -EINVAL);
	assert_int_equal(gfs2_fileattr_set(ip, all | FS_JOURNAL_DATA_FL), 0);
	assert_int_equal(ip->i_diskflags, GFS2_DIF_SYNC | GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY |
						  GFS2_DIF_NOATIME | GFS2_DIF_JDATA);
	assert_int_equal(gfs2_fileattr_get(ip, &flags), 0);
	assert_int_equal(flags, all | FS_JOURNAL_DATA_FL);
	assert_int_equal(gfs2_unlink(m.sdp->sd_root, "f"), -EPERM);
	assert_int_equal(gfs2_rename(m.sdp->sd_root, "f", m.sdp->sd_root, "g", 0), -EPERM);
	assert_int_equal(gfs2_link(ip, m.sdp->sd_root, "g", &st), -EPERM);
	assert_int_equal(gfs2_setattr_size(ip, 10), -EPERM);
	assert_int_equal(gfs2_fallocate(ip, 0, 0, 10, false), -EPERM);
	assert_int_equal(gfs2_fileattr_set(ip, FS_APPEND_FL), 0);
	assert_int_equal(gfs2_fallocate(ip, PUNCH, 0, 10, false), -EPERM);
	assert_int_equal(gfs2_fallocate(ip, 0, 0, 10, false), 0);
	assert_int_equal(gfs2_fileattr_set(ip, 0), 0);
	assert_int_equal(ip->i_diskflags, 0);
	/* directories: another face of the same flag */
	assert_int_equal(gfs2_fileattr_set(m.sdp->sd_root, FS_JOURNAL_DATA_FL | FS_TOPDIR_FL), 0);
	assert_int_equal(m.sdp->sd_root->i_diskflags,
			 GFS2_DIF_JDATA | GFS2_DIF_INHERIT_JDATA | GFS2_DIF_TOPDIR);
	gfs2_inode_put(ip);
	ip = make_file(m.sdp, "j");
	assert_int_equal(ip->i_diskflags, GFS2_DIF_JDATA);
	assert_int_equal(gfs2_fileattr_set(m.sdp->sd_root, FS_APPEND_FL), 0);
	assert_int_equal(gfs2_unlink(m.sdp->sd_root, "j"), -EPERM);
	assert_int_equal(gfs2_link(ip, m.sdp->sd_root, "k", &st), 0);
	assert_int_equal(gfs2_fileattr_set(m.sdp->sd_root, FS_IMMUTABLE_FL), 0);
	assert_int_equal(gfs2_link(ip, m.sdp->sd_root, "l", &st), -EPERM);
	assert_int_equal(gfs2_fileattr_set(m.sdp->sd_root, 0), 0);
	gfs2_inode_put(ip);
	/* the other view */
	assert_int_equal(gfs2_fsxattr_to_flags(&fa, FS_IMMUTABLE_FL | FS_JOURNAL_DATA_FL, &flags), 0);
	assert_int_equal(flags, FS_APPEND_FL | FS_JOURNAL_DATA_FL);
	assert_int_equal(gfs2_flags_to_xflags(flags), FS_XFLAG_APPEND);
	fa.fsx_projid = 1;
	assert_int_equal(gfs2_fsxattr_to_flags(&fa, 0, &flags), -EOPNOTSUPP);
	do_unmount(&m);
}

/* Journaled, then not, then written past all caches: nothing of the journaled time is left in memory. */
static void test_jdata_direct(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct extent e;

	make(4096, 32);
	m = do_mount();
	ip = make_file(m.sdp, "f");
	assert_int_equal(gfs2_fileattr_set(ip, FS_JOURNAL_DATA_FL), 0);
	assert_int_equal(write_at(ip, memset(io_buf, 'j', 8192), 0, 8192), 8192);
	assert_int_equal(gfs2_fileattr_set(ip, 0), 0);
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_DEFERRED, 0, &gh), 0);
	assert_int_equal(gfs2_map_extent(ip, 0, 2, &e), 0);
	assert_int_equal(io_write(m.e, IO_DIO, memset(io_buf, 'd', 4096), 4096, e.pblock * 4096), 0);
	gfs2_glock_dq_uninit(&gh);
	expect(ip, 0, 4096, 'd');
	assert_int_equal(gfs2_fileattr_set(ip, FS_JOURNAL_DATA_FL), 0);
	expect(ip, 0, 4096, 'd');
	expect(ip, 4096, 4096, 'j');
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/*
 * Journaled, then not, then written outside of the log, then a crash: the old images must not come
 * back.  And the other way round.
 */
static void test_jdata_crash(void **state)
{
	const uint32_t len = 100000;
	struct mounted m;
	struct gfs2_inode *ip;
	int status;
	pid_t pid;

	make(1024, 32);
	pid = fork();
	if (!pid) {
		struct gfs2_inode *other;

		m = do_mount();
		ip = make_file(m.sdp, "f");
		other = make_file(m.sdp, "g");
		gfs2_fileattr_set(ip, FS_JOURNAL_DATA_FL);
		write_at(ip, memset(io_buf, 'j', len), 0, len);
		write_at(other, memset(io_buf, 'p', len), 0, len);
		gfs2_file_sync(ip, false);
		gfs2_fileattr_set(ip, 0);
		gfs2_fileattr_set(other, FS_JOURNAL_DATA_FL);
		write_at(ip, memset(io_buf, 'p', len), 0, len);
		write_at(other, memset(io_buf, 'j', len), 0, len);
		gfs2_file_sync(ip, false);
		gfs2_file_sync(other, false);
		/* freed and used again, as the one and the other */
		gfs2_setattr_size(ip, len / 2);
		gfs2_setattr_size(other, len / 2);
		gfs2_log_flush(m.sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL);
		end_now(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	m = do_mount();
	ip = open_file(m.sdp, "f");
	expect(ip, 0, len / 2, 'p');
	gfs2_inode_put(ip);
	ip = open_file(m.sdp, "g");
	assert_int_equal(ip->i_diskflags, GFS2_DIF_JDATA);
	expect(ip, 0, len / 2, 'j');
	gfs2_inode_put(ip);
	do_unmount(&m);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prealloc),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_eio),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_punch),
		cmocka_unit_test(test_punch_high),
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_deleted_space),
		cmocka_unit_test(test_deleted_space_preallocated),
		cmocka_unit_test(test_queued_space),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_jdata_direct),
		cmocka_unit_test(test_jdata_crash),
	};
	int failed;

	io_buf = aligned_alloc(4096, IO_MAX + 3 * 4096);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	free(io_buf);
	return failed;
}

int main(void)
{
	return vol_main(run);
}
