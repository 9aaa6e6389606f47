/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * File contents on real volumes: random writes, truncates and reads against a copy in memory,
 * with the lock being taken away in between; durability, full volumes, attributes. 
 * GFS2_TEST_SEED repeats a run.
 */
#include "volfile.h"
#include "child.h"
#include <linux/fuse.h>
#include <linux/falloc.h>
#include "fs/falloc.h"
#include "fs/file.h"
#include "fs/fileattr.h"
#include "fs/icache.h"
#include "fs/rgrp_i.h"

#define MODEL_MAX (3u << 20)
#define IO_MAX (700u << 10)

/* A small cache, so that write-back and eviction happen; times that are pending are published when a test says so. */
static struct mounted mount_small(void)
{
	struct gfs2_args args = vol_args;

	args.ar_cache = 8 << 20;
	args.ar_dio_mtime_interval = 3600;
	return mount_with(&args);
}

static void set_jdata(struct gfs2_inode *ip)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_trans_begin(ip->i_sbd->sd_log, 1, 0), 0);
	ip->i_diskflags |= GFS2_DIF_JDATA;
	assert_int_equal(gfs2_dinode_log(ip), 0);
	gfs2_trans_end(ip->i_sbd->sd_log);
	gfs2_glock_dq_uninit(&gh);
}

static int64_t write_at(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t len)
{
	struct gfs2_holder gh;
	int64_t ret;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	ret = gfs2_file_write(ip, buf, pos, len, true);
	gfs2_glock_dq_uninit(&gh);
	return ret;
}

/* --- the model --- */

struct model {
	char *data;		/* MODEL_MAX; zero behind size */
	uint32_t size;
	struct gfs2_inode *ip;
	bool jdata;
	char name[16];
};

static char *io_buf, *src_buf;
static uint64_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

/* Small ones often, and ends that lie on blocks. */
static uint32_t rnd_len(uint32_t max)
{
	uint32_t n = 1 + rnd(rnd(3) ? 3000 : IO_MAX - 1);

	if (!rnd(3))
		n = ALIGN_UP(n, 512);
	return min_t(uint32_t, n, max);
}

static uint32_t rnd_pos(const struct model *f)
{
	uint32_t pos;

	switch (rnd(4)) {
	case 0:
		return min_t(uint32_t, f->size, MODEL_MAX - 1);
	case 1:
		pos = rnd(2) ? rnd(10000) : rnd(MODEL_MAX);
		break;
	default:
		pos = rnd(f->size + 100);
	}
	if (!rnd(3))
		pos = ALIGN_DOWN(pos, 512u);
	return min_t(uint32_t, pos, MODEL_MAX - 1);
}

static void do_write(struct model *f)
{
	uint32_t pos = rnd_pos(f), len = rnd_len(MODEL_MAX - pos);

	for (uint32_t i = 0; i < len; i++)
		src_buf[i] = (char)(seed >> (8 * (i & 7))) + (char)(i >> 9);
	/* jdata that looks like metadata must survive the log */
	if (len >= 8 && !rnd(4))
		*(__be32 *)src_buf = cpu_to_be32(GFS2_MAGIC);
	assert_int_equal(write_at(f->ip, src_buf, pos, len), len);
	memcpy(f->data + pos, src_buf, len);
	if (pos + len > f->size)
		f->size = pos + len;
}

static void do_truncate(struct model *f)
{
	uint32_t size = rnd(6) ? rnd_pos(f) : 0;

	assert_int_equal(gfs2_setattr_size(f->ip, size), 0);
	if (size < f->size)
		memset(f->data + size, 0, f->size - size);
	f->size = size;
}

static void check_read(struct model *f, uint32_t pos, uint32_t len)
{
	struct gfs2_holder gh;
	uint32_t want = pos < f->size ? min_t(uint32_t, len, f->size - pos) : 0, skip;
	static const enum lm_state states[] = { LM_ST_SHARED, LM_ST_DEFERRED, LM_ST_EXCLUSIVE };
	enum lm_state state = states[rnd(3)];
	bool cached = state != LM_ST_DEFERRED && rnd(2);

	lock(f->ip, state, &gh);
	assert_int_equal(f->ip->i_size, f->size);
	memset(io_buf, 0x77, len);
	if (cached)
		assert_int_equal(gfs2_file_read_cached(f->ip, io_buf, pos, len, &skip), want);
	else
		assert_int_equal(gfs2_file_read(f->ip, io_buf, pos, len, &skip), want);
	assert_memory_equal(io_buf + skip, f->data + pos, want);
	gfs2_glock_dq_uninit(&gh);
}

/* As another node's wish would. */
static void do_demote(struct model *f)
{
	static const enum lm_state states[] = { LM_ST_UNLOCKED, LM_ST_SHARED, LM_ST_DEFERRED };

	gfs2_glock_cb(f->ip->i_gl, states[rnd(3)], true);
	assert_true(gfs2_glock_wait_demoted(f->ip->i_gl, 60000000000ull));
}

static void do_fallocate(struct model *f)
{
	uint32_t pos = rnd_pos(f), len = rnd_len(MODEL_MAX - pos);
	bool punch = rnd(2), keep = punch || rnd(2);
	int mode = (punch ? FALLOC_FL_PUNCH_HOLE : 0) | (keep ? FALLOC_FL_KEEP_SIZE : 0);
	int error = gfs2_fallocate(f->ip, mode, pos, len, false);

	if (f->jdata) {
		assert_int_equal(error, -EOPNOTSUPP);
		return;
	}
	assert_int_equal(error, 0);
	if (punch)
		memset(f->data + pos, 0, len);
	else if (!keep && pos + len > f->size)
		f->size = pos + len;
}

/* What is said to be a hole is one; the walk over all of the file ends at its end. */
static void check_seek(struct model *f)
{
	int64_t pos = 0;

	while (pos < f->size) {
		int64_t data = gfs2_seek(f->ip, (uint64_t)pos, true), hole;

		if (data == -ENXIO)
			data = f->size;
		assert_true(data >= pos && data <= f->size);
		for (int64_t i = pos; i < data; i++)
			assert_int_equal(f->data[i], 0);
		if (data == f->size)
			break;
		hole = gfs2_seek(f->ip, (uint64_t)data, false);
		assert_true(hole > data && hole <= f->size);
		pos = hole;
	}
	assert_int_equal(gfs2_seek(f->ip, f->size, false), -ENXIO);
}

static void flip_jdata(struct model *f)
{
	uint32_t flags;

	assert_int_equal(gfs2_fileattr_get(f->ip, &flags), 0);
	assert_int_equal(!!(flags & FS_JOURNAL_DATA_FL), f->jdata);
	assert_int_equal(gfs2_fileattr_set(f->ip, flags ^ FS_JOURNAL_DATA_FL), 0);
	f->jdata = !f->jdata;
}

static void step(struct model *f)
{
	switch (rnd(20)) {
	case 16:
	case 17:
	case 18:
		do_fallocate(f);
		break;
	case 19:
		check_seek(f);
		if (!rnd(4))
			flip_jdata(f);
		break;
	case 0:
		do_truncate(f);
		break;
	case 1:
		do_demote(f);
		break;
	case 2:
		assert_int_equal(gfs2_fsync(f->ip, rnd(2)), 0);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
		check_read(f, rnd_pos(f), rnd_len(IO_MAX));
		break;
	default:
		do_write(f);
	}
}

static void random_files(unsigned bsize, unsigned steps)
{
	struct model files[3] = { 0 };
	struct mounted m;

	vol_make(bsize, 64, 1, "");
	m = mount_small();
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		struct model *f = &files[i];

		snprintf(f->name, sizeof(f->name), "f%u", i);
		f->data = calloc(1, MODEL_MAX);
		f->ip = make_file(m.sdp, f->name);
		if (i == 2)
			flip_jdata(f);
	}
	for (unsigned s = 0; s < steps; s++) {
		step(&files[rnd(ARRAY_SIZE(files))]);
		if (rnd(300))
			continue;
		for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
			gfs2_inode_put(files[i].ip);
		if (rnd(2)) {
			do_unmount(&m);
			m = mount_small();
		}
		for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
			files[i].ip = open_file(m.sdp, files[i].name);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
		gfs2_inode_put(files[i].ip);
	do_unmount(&m);
	m = mount_small();
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		struct model *f = &files[i];

		f->ip = open_file(m.sdp, f->name);
		for (uint32_t pos = 0; pos < f->size; pos += IO_MAX / 2)
			check_read(f, pos, IO_MAX / 2);
		assert_int_equal(gfs2_unlink(m.sdp->sd_root, f->name), 0);
		gfs2_inode_put(f->ip);
		free(f->data);
	}
	do_unmount(&m);
}

static void test_random(void **state)
{
	const char *s = getenv("GFS2_TEST_SEED"), *n = getenv("GFS2_TEST_STEPS");

	seed = s ? strtoull(s, NULL, 0) : now_ns();
	print_message("GFS2_TEST_SEED=%" PRIu64 "\n", seed);
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2)
		random_files(bsize, n ? (unsigned)atoi(n) : 600);
}

/* --- durability --- */

/* In a child that dies: what was synced is there after the replay. */
static void crash_child(void)
{
	struct mounted m = mount_small();
	struct gfs2_inode *a = make_file(m.sdp, "a"), *b = make_file(m.sdp, "b");
	struct gfs2_inode *j = make_file(m.sdp, "j"), *o = make_file(m.sdp, "o");

	set_jdata(j);
	memset(src_buf, 'a', 300000);
	write_at(a, src_buf, 0, 300000);
	write_at(j, src_buf, 0, 300000);
	write_at(b, "short", 0, 5);
	gfs2_fsync(a, false);
	gfs2_fsync(b, true);
	gfs2_fsync(j, true);
	/* An overwrite has no transaction of its own worth waiting for, but it has data. */
	memset(src_buf, 'b', 5000);
	write_at(a, src_buf, 10000, 5000);
	/* Nobody asks for this one: but it is committed with what comes after it, and with its size go its data. */
	memset(src_buf, 'o', 100000);
	write_at(o, src_buf, 0, 3000);
	write_at(o, src_buf, 3000, 97000);
	gfs2_setattr_size(j, 100000);
	memset(src_buf, 'b', 5000);
	gfs2_fsync(a, true);
	gfs2_fsync(j, false);
	/* Data alone. */
	write_at(a, src_buf, 30000, 5000);
	gfs2_fsync(a, true);
	write_at(a, src_buf, 300000, 5000);
	/* What a process leaves behind when it is killed: nothing is written any more. */
	end_now(0);
}

static void expect(const char *name, uint64_t size_min, uint64_t pos, unsigned len, char c,
		   struct gfs2_sbd *sdp)
{
	struct gfs2_inode *ip = open_file(sdp, name);
	struct gfs2_holder gh;
	uint32_t skip;

	lock(ip, LM_ST_SHARED, &gh);
	assert_true(ip->i_size >= size_min);
	assert_int_equal(gfs2_file_read(ip, io_buf, pos, len, &skip), len);
	for (unsigned i = 0; i < len; i++)
		assert_int_equal(io_buf[skip + i], c);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
}

static void test_sync(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	uint32_t skip;
	int status;
	pid_t pid;

	vol_make(1024, 64, 1, "");
	pid = fork();
	if (!pid)
		crash_child();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	m = mount_small();
	expect("a", 300000, 0, 10000, 'a', m.sdp);
	expect("a", 300000, 10000, 5000, 'b', m.sdp);
	expect("a", 300000, 15000, 15000, 'a', m.sdp);
	expect("a", 300000, 30000, 5000, 'b', m.sdp);
	expect("a", 300000, 35000, 265000, 'a', m.sdp);
	expect("j", 100000, 0, 100000, 'a', m.sdp);
	expect("o", 100000, 0, 100000, 'o', m.sdp);
	ip = open_file(m.sdp, "b");
	lock(ip, LM_ST_SHARED, &gh);
	assert_int_equal(gfs2_file_read(ip, io_buf, 0, 100, &skip), 5);
	assert_memory_equal(io_buf + skip, "short", 5);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* Not 0: the clock stands there. */
static _Atomic(time_t) clock_stands;

struct timespec __real_current_time(void);
struct timespec __wrap_current_time(void);
struct timespec __wrap_current_time(void)
{
	time_t at = atomic_load(&clock_stands);

	return at ? (struct timespec){ at, 0 } : __real_current_time();
}

/*
 * What is overwritten within a tick of the clock changes nothing but data.  Blocks are counted and not flushes: the log's thread writes a header
 * of its own when half of the log is used.
 */
static void test_sync_overwritten(void **state)
{
	struct gfs2_log_stats before, after;
	struct gfs2_inode *ip;
	struct mounted m;
	time_t now;

	vol_make(4096, 64, 1, "");
	m = mount_small();
	ip = make_file(m.sdp, "over");
	memset(src_buf, 'o', 100000);
	write_at(ip, src_buf, 0, 100000);
	/* So that the maintenance thread has none to write in the middle. */
	assert_int_equal(gfs2_statfs_sync(m.sdp), 0);
	assert_int_equal(gfs2_log_sync(m.sdp->sd_log), 0);
	now = ip->i_mtime.tv_sec;
	for (unsigned i = 0; i < 60; i++) {
		bool ticks = i % 3 == 0;

		now += ticks;
		atomic_store(&clock_stands, now);
		gfs2_log_get_stats(m.sdp->sd_log, &before);
		write_at(ip, src_buf + i % 100, 4096 * (i % 20), 4096);
		assert_int_equal(gfs2_fsync(ip, false), 0);
		gfs2_log_get_stats(m.sdp->sd_log, &after);
		assert_int_equal(ip->i_mtime.tv_sec, now);
		if (ticks)
			assert_true(after.blocks_logged > before.blocks_logged);
		else
			assert_int_equal(after.blocks_logged, before.blocks_logged);
	}
	atomic_store(&clock_stands, 0);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* --- data that the kernel does not cache --- */

static uint64_t read_pieces(struct gfs2_inode *ip, uint32_t from, uint32_t to, uint32_t piece, const char *data)
{
	struct io_stats before, after;
	struct gfs2_holder gh;
	uint32_t skip;

	io_get_stats(ip->i_sbd->sd_io, &before);
	for (uint32_t pos = from; pos < to; pos += piece) {
		lock(ip, LM_ST_SHARED, &gh);
		assert_int_equal(gfs2_file_read_cached(ip, io_buf, pos, piece, &skip),
				 min_t(uint32_t, piece, to - pos));
		assert_memory_equal(io_buf + skip, data + pos, min_t(uint32_t, piece, to - pos));
		gfs2_glock_dq_uninit(&gh);
	}
	io_get_stats(ip->i_sbd->sd_io, &after);
	return after.ops[IO_READ] - before.ops[IO_READ];
}

static void test_read_cached(void **state)
{
	enum { SIZE = 3 * (1 << 20) + 777 };
	char *data = malloc(SIZE);
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct mounted m;
	uint64_t reads;
	uint32_t skip;

	for (unsigned i = 0; i < SIZE; i++)
		data[i] = (char)(i / 7 + i / 4096);
	vol_make(4096, 64, 1, "");
	m = mount_small();
	gfs2_budget_set(m.sdp, 256 << 20); /* room for all of it */
	ip = make_file(m.sdp, "cached");
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	for (uint32_t pos = 0; pos < SIZE; pos += 1 << 20)
		assert_int_equal(gfs2_file_write(ip, data + pos, pos, min_t(uint32_t, SIZE - pos, 1 << 20), false),
				 min_t(uint32_t, SIZE - pos, 1 << 20));
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(gfs2_file_sync(ip, false), 0);
	mapping_invalidate(&ip->i_data);

	/* One after the other: read ahead in larger and larger steps, the contents once. */
	reads = read_pieces(ip, 0, SIZE, 1000, data);
	assert_in_range(reads, 3, 60);
	assert_int_equal(read_pieces(ip, 0, SIZE, 100000, data), 0);
	/* Somebody else changes it: the lock goes, and all that it covered. */
	gfs2_glock_cb(ip->i_gl, LM_ST_UNLOCKED, false);
	assert_true(gfs2_glock_wait_demoted(ip->i_gl, 60000000000ull));
	assert_int_equal(atomic_load(&ip->i_data.m_nr), 0);
	/* Here and there: no more than was asked for (and the dinode and the map). */
	reads = read_pieces(ip, 2000000, 2004096, 4096, data);
	assert_in_range(reads, 1, 6);
	assert_in_range(atomic_load(&ip->i_data.m_nr), 1, 2);
	/* Written through the same buffers. */
	read_pieces(ip, 0, SIZE, 4096, data);
	memset(data + 5000, 'x', 100000);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_write(ip, data + 5000, 5000, 100000, false), 100000);
	gfs2_glock_dq_uninit(&gh);
	read_pieces(ip, 0, SIZE, 4096, data);
	assert_int_equal(gfs2_file_sync(ip, false), 0);
	read_pieces(ip, 0, SIZE, 4096, data);
	/* In the deferred state nothing is cached. */
	gfs2_glock_cb(ip->i_gl, LM_ST_DEFERRED, false);
	assert_true(gfs2_glock_wait_demoted(ip->i_gl, 60000000000ull));
	lock(ip, LM_ST_DEFERRED, &gh);
	assert_int_equal(atomic_load(&ip->i_data.m_nr), 0);
	assert_int_equal(gfs2_file_read(ip, io_buf, 4096, 8192, &skip), 8192);
	assert_memory_equal(io_buf + skip, data + 4096, 8192);
	gfs2_glock_dq_uninit(&gh);
	/* Cut and grown: zeros, not what the cache had. */
	read_pieces(ip, 0, SIZE, 4096, data);
	assert_int_equal(gfs2_setattr_size(ip, 10000), 0);
	assert_int_equal(gfs2_setattr_size(ip, SIZE), 0);
	memset(data + 10000, 0, SIZE - 10000);
	read_pieces(ip, 0, SIZE, 4096, data);
	gfs2_inode_put(ip);
	do_unmount(&m);
	free(data);
}

/* --- limits --- */

/* A full volume: short, then ENOSPC; nothing is broken, and what is freed can be used again. */
static void test_nospace(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 8) {
		struct mounted m;
		struct gfs2_inode *ip;
		struct gfs2_statfs_host st;
		uint64_t pos = 0;
		int64_t ret;

		vol_make(bsize, 32, 1, "");
		m = mount_small();
		ip = make_file(m.sdp, "fill");
		memset(src_buf, 'f', IO_MAX);
		while ((ret = write_at(ip, src_buf, pos, IO_MAX)) > 0)
			pos += ret;
		assert_int_equal(ret, -ENOSPC);
		assert_int_equal(ip->i_size, pos);
		gfs2_statfs_get(m.sdp, &st);
		assert_true(st.free * bsize < 64 << 10);
		expect("fill", pos, pos - 1000, 1000, 'f', m.sdp);
		/* What is there can be overwritten, the rest of that write cannot be had. */
		ret = write_at(ip, src_buf, pos - 20000, 300000);
		assert_true(ret >= 20000 && ret < 300000);
		assert_true(ip->i_size == pos - 20000 + (uint64_t)ret);
		assert_int_equal(gfs2_setattr_size(ip, pos / 2), 0);
		assert_int_equal(write_at(ip, src_buf, pos / 2, 100000), 100000);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

static void test_limits(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;

	vol_make(512, 64, 1, "");
	m = mount_small();
	ip = make_file(m.sdp, "f");
	assert_int_equal(write_at(ip, "x", INT64_MAX, 1), -EFBIG);
	assert_int_equal(write_at(ip, "xyz", INT64_MAX - 1, 3), 1);
	assert_int_equal(ip->i_size, INT64_MAX);
	assert_int_equal(write_at(ip, "x", 0, 0), 0);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* --- attributes --- */

static void test_attr(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct stat st, set = { 0 };
	struct timespec t;

	vol_make(4096, 64, 1, "");
	m = mount_small();
	ip = make_file(m.sdp, "f");
	set.st_mode = 06755;
	assert_int_equal(gfs2_setattr(ip, &set, FATTR_MODE), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 06755);
	set.st_uid = 1000;
	set.st_gid = 1001;
	assert_int_equal(gfs2_setattr(ip, &set, FATTR_UID | FATTR_GID), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 0755);
	set.st_mode = 06644;
	assert_int_equal(gfs2_setattr(ip, &set, FATTR_MODE), 0);
	assert_int_equal(write_at(ip, "x", 0, 1), 1);
	/* sgid without group execution is for mandatory locks: it stays */
	assert_int_equal(ip->i_mode, S_IFREG | 02644);
	set.st_atim = (struct timespec){ -5, 7 };
	set.st_mtim = (struct timespec){ 1ll << 33, 999999999 };
	assert_int_equal(gfs2_setattr(ip, &set, FATTR_ATIME | FATTR_MTIME), 0);

	/* A direct write's time: seen at once, wins over the older one, published once. */
	t = current_time();
	t.tv_sec += 10;
	gfs2_pending_mtime_set(ip, t);
	lock(ip, LM_ST_SHARED, &gh);
	gfs2_getattr(ip, &st);
	assert_int_equal(st.st_mtim.tv_sec, t.tv_sec);
	assert_int_equal(st.st_ctim.tv_sec, t.tv_sec);
	assert_int_equal(ip->i_mtime.tv_sec, 1ll << 33);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(gfs2_fsync(ip, false), 0);
	assert_int_equal(ip->i_mtime.tv_sec, t.tv_sec);
	assert_false(ip->i_pending_mtime);
	/* With the lock's loss, and with the last reference. */
	t.tv_sec += 10;
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	gfs2_glock_dq_uninit(&gh);
	gfs2_pending_mtime_set(ip, t);
	gfs2_glock_cb(ip->i_gl, LM_ST_UNLOCKED, true);
	assert_true(gfs2_glock_wait_demoted(ip->i_gl, 60000000000ull));
	assert_false(ip->i_pending_mtime);
	t.tv_sec += 10;
	gfs2_pending_mtime_set(ip, t);
	gfs2_inode_put(ip);
	do_unmount(&m);

	m = mount_small();
	ip = open_file(m.sdp, "f");
	lock(ip, LM_ST_SHARED, &gh);
	gfs2_getattr(ip, &st);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(st.st_atim.tv_sec, -5);
	assert_int_equal(st.st_atim.tv_nsec, 7);
	assert_int_equal(st.st_mtim.tv_sec, t.tv_sec);
	assert_int_equal(st.st_mtim.tv_nsec, t.tv_nsec);
	assert_int_equal(st.st_uid, 1000);
	assert_int_equal(st.st_gid, 1001);
	assert_int_equal(st.st_mode, S_IFREG | 02644);
	assert_int_equal(st.st_blocks, 8);
	assert_int_equal(st.st_size, 1);
	assert_int_equal(gfs2_setattr_size(m.sdp->sd_root, 0), -EISDIR);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* The timer publishes for all. */
static void test_publish_all(void **state)
{
	struct gfs2_inode *ip[150];
	struct timespec t = current_time();
	struct mounted m;
	char name[16];

	vol_make(512, 64, 1, "");
	m = mount_small();
	t.tv_sec += 100;
	for (unsigned i = 0; i < ARRAY_SIZE(ip); i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ip[i] = make_file(m.sdp, name);
		gfs2_pending_mtime_set(ip[i], current_time());
		gfs2_pending_mtime_set(ip[i], t);
	}
	gfs2_pending_mtime_publish_all(m.sdp);
	for (unsigned i = 0; i < ARRAY_SIZE(ip); i++) {
		assert_false(ip[i]->i_pending_mtime);
		assert_int_equal(ip[i]->i_mtime.tv_sec, t.tv_sec);
		gfs2_inode_put(ip[i]);
	}
	gfs2_pending_mtime_publish_all(m.sdp);
	do_unmount(&m);
}

static unsigned holders(struct gfs2_glock *gl)
{
	struct list_head *pos;
	unsigned n = 0;

	rmutex_lock(&gl->gl_lock);
	for (pos = gl->gl_holders.next; pos != &gl->gl_holders; pos = pos->next)
		n++;
	rmutex_unlock(&gl->gl_lock);
	return n;
}

static bool is_pending(struct gfs2_inode *ip)
{
	bool pending;

	rmutex_lock(&ip->i_lock);
	pending = ip->i_pending_mtime;
	rmutex_unlock(&ip->i_lock);
	return pending;
}

/*
 * A writer that has left a time and finds no space waits, with the lock, for the hunt through unlinked inodes: the thread that does that is
 * just asking for the lock, to publish the time.
 */
static void test_hunt_before_times(void **state)
{
	struct gfs2_icache *ic;
	struct mounted m;
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	uint64_t hunted, gone;

	vol_make(4096, 64, 1, "");
	m = mount_small();
	ic = m.sdp->sd_icache;
	ip = make_file(m.sdp, "f");
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	gfs2_pending_mtime_set(ip, current_time());
	rmutex_lock(&ip->i_lock);
	ip->i_pending_due_ns = 0;
	rmutex_unlock(&ip->i_lock);
	gfs2_maint_wake(m.sdp);
	while (holders(ip->i_gl) < 2)
		sched_yield();
	gone = gfs2_inodes_gone(m.sdp);
	atomic_store(&m.sdp->sd_rgrps->unlinked_seen, true);
	rmutex_lock(&ic->lock);
	hunted = ic->hunted;
	rmutex_unlock(&ic->lock);
	assert_false(gfs2_inodes_wait_gone(ip, gone));
	rmutex_lock(&ic->lock);
	assert_true(ic->hunted > hunted);
	rmutex_unlock(&ic->lock);
	assert_true(is_pending(ip));
	gfs2_glock_dq_uninit(&gh);
	while (is_pending(ip))
		sched_yield();
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* After a withdraw: errors, no hang, nothing is written, and memory that cannot be written is given back. */
static void test_withdrawn(void **state)
{
	struct mounted m;
	struct gfs2_inode *ip, *gone;
	struct io_stats before, after;

	vol_make(4096, 64, 1, "");
	m = mount_small();
	ip = make_file(m.sdp, "f");
	gone = make_file(m.sdp, "gone");
	memset(src_buf, 'w', 100000);
	assert_int_equal(write_at(ip, src_buf, 0, 100000), 100000);
	assert_int_equal(write_at(gone, src_buf, 0, 100000), 100000);
	assert_int_equal(gfs2_unlink(m.sdp->sd_root, "gone"), 0);
	gfs2_pending_mtime_set(ip, current_time());
	msg_set_level((enum msg_level)-1);
	gfs2_withdraw(m.sdp, "on purpose");
	io_get_stats(m.e, &before);
	assert_int_equal(mapping_sync(&ip->i_data), -EIO);
	assert_int_equal(gfs2_fsync(ip, false), -EIO);
	assert_int_equal(gfs2_setattr_size(ip, 0), -EIO);
	gfs2_inode_put(ip);
	gfs2_inode_put(gone);
	assert_int_equal(gfs2_unmount(m.sdp), -EIO);
	msg_set_level(MSG_INFO);
	io_get_stats(m.e, &after);
	assert_int_equal(after.bytes[IO_WRITE], before.bytes[IO_WRITE]);
	io_engine_close(m.e);
	/* The next mount finds a volume that is whole. */
	m = mount_small();
	do_unmount(&m);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_publish_all),
		cmocka_unit_test(test_hunt_before_times),
		cmocka_unit_test(test_withdrawn),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_sync),
		cmocka_unit_test(test_sync_overwritten),
		cmocka_unit_test(test_read_cached),
		cmocka_unit_test(test_nospace),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_attr),
	};
	int failed;

	io_buf = aligned_alloc(4096, IO_MAX + 3 * 4096);
	src_buf = malloc(IO_MAX);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	free(io_buf);
	free(src_buf);
	return failed;
}

int main(void)
{
	return vol_main(run);
}
