/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names on real volumes: what each operation leaves behind, what it refuses, and a long random
 * sequence whose every answer is compared with that of the host's file system.
 */
#include <linux/fs.h>
#include <sys/sysmacros.h>
#include "vol.h"
#include "fs/evict_later.h"
#include "fs/file.h"
#include "fs/icache.h"
#include "fs/namei.h"
#include "fs/rgrp.h"

static struct io_engine *engine;
static struct gfs2_sbd *sdp;
static struct gfs2_statfs_host fresh;

static void vol_up(void)
{
	engine = vol_open(false);
	assert_int_equal(gfs2_mount(engine, &vol_args, &sdp), 0);
	gfs2_statfs_get(sdp, &fresh);
}

static void vol_down(void)
{
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(engine);
	vol_fsck();
}

static uint64_t rnd_state = 88172645463325252ull;
static uint32_t rnd(uint32_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 16) % below);
}

/* --- operations by path --- */

/* The inode of @path ("": the root), +1 reference. */
static int walk(const char *path, struct gfs2_inode **out, struct stat *st)
{
	struct gfs2_inode *ip = gfs2_inode_hold(sdp->sd_root), *next;
	char copy[4096], *save = NULL, *w;
	int error = 0;

	snprintf(copy, sizeof(copy), "%s", path);
	for (w = strtok_r(copy, "/", &save); w && !error; w = strtok_r(NULL, "/", &save)) {
		/* Links lead nowhere here, as they do on the host. */
		error = S_ISLNK(ip->i_mode) ? -ENOENT : gfs2_lookup(ip, w, &next, st);
		gfs2_inode_put(ip);
		ip = error ? NULL : next;
	}
	if (!error)
		*out = ip;
	return error;
}

/* The directory of @path, +1 reference, and the last name. */
static int walk_parent(const char *path, struct gfs2_inode **dip, const char **name)
{
	const char *slash = strrchr(path, '/');
	char dir[4096];
	struct stat st;
	int error;

	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 0, path);
	*name = slash ? slash + 1 : path;
	error = walk(dir, dip, &st);
	if (!error && !S_ISDIR((*dip)->i_mode)) {
		error = S_ISLNK((*dip)->i_mode) ? -ENOENT : -ENOTDIR;
		gfs2_inode_put(*dip);
	}
	return error;
}

static int p_create_args(const char *path, const struct gfs2_create_args *a, struct stat *st)
{
	struct gfs2_inode *dip, *ip;
	const char *name;
	int error = walk_parent(path, &dip, &name);

	if (error)
		return error;
	error = gfs2_create(dip, name, a, &ip, st);
	if (!error)
		gfs2_inode_put(ip);
	gfs2_inode_put(dip);
	return error;
}

static int p_create(const char *path, mode_t mode)
{
	struct gfs2_create_args a = { .mode = mode, .excl = true, .symlink = "target",
				      .major = 300, .minor = 70000 };
	struct stat st;

	return p_create_args(path, &a, &st);
}

static int p_remove(const char *path, bool dir)
{
	struct gfs2_inode *dip;
	const char *name;
	int error = walk_parent(path, &dip, &name);

	if (error)
		return error;
	error = dir ? gfs2_rmdir(dip, name) : gfs2_unlink(dip, name);
	gfs2_inode_put(dip);
	return error;
}

static int p_link(const char *from, const char *to)
{
	struct gfs2_inode *dip, *ip;
	const char *name;
	struct stat st;
	int error = walk(from, &ip, &st);

	if (error)
		return error;
	error = walk_parent(to, &dip, &name);
	if (!error) {
		error = gfs2_link(ip, dip, name, &st);
		gfs2_inode_put(dip);
	}
	gfs2_inode_put(ip);
	return error;
}

static int p_rename(const char *from, const char *to, unsigned flags)
{
	struct gfs2_inode *odip, *ndip;
	const char *oname, *nname;
	int error = walk_parent(from, &odip, &oname);

	if (error)
		return error;
	error = walk_parent(to, &ndip, &nname);
	if (!error) {
		error = gfs2_rename(odip, oname, ndip, nname, flags);
		gfs2_inode_put(ndip);
	}
	gfs2_inode_put(odip);
	return error;
}

static struct stat p_stat(const char *path)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct stat st;

	assert_int_equal(walk(path, &ip, &st), 0);
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	gfs2_getattr(ip, &st);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	return st;
}

static bool p_exists(const char *path)
{
	struct gfs2_inode *ip;
	struct stat st;
	int error = walk(path, &ip, &st);

	if (!error)
		gfs2_inode_put(ip);
	return !error;
}

#define OK(x) assert_int_equal((x), 0)
#define FAILS(x, e) assert_int_equal((x), -(e))

/* --- creation --- */

static void test_create_types(void **state)
{
	static const mode_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };
	struct stat st;
	char name[64];

	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		vol_make(bsize, 64, 1, "");
		vol_up();
		for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
			snprintf(name, sizeof(name), "t%u", i);
			OK(p_create(name, types[i] | 0751));
			FAILS(p_create(name, types[i] | 0751), EEXIST);
		}
		for (int again = 0; again < 2; again++) {
			for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
				snprintf(name, sizeof(name), "t%u", i);
				st = p_stat(name);
				assert_int_equal(st.st_mode, types[i] | 0751);
				assert_int_equal(st.st_nlink, S_ISDIR(types[i]) ? 2 : 1);
				assert_int_equal(st.st_size, S_ISLNK(types[i]) ? 6 :
					S_ISDIR(types[i]) ? bsize - 232 : 0);
				assert_int_equal(st.st_blocks, bsize / 512);
				if (S_ISCHR(types[i]) || S_ISBLK(types[i]))
					assert_int_equal(st.st_rdev, makedev(300, 70000));
			}
			assert_int_equal(p_stat("t1/.").st_ino, p_stat("t1").st_ino);
			assert_int_equal(p_stat("t1/..").st_ino, sdp->sd_root_addr);
			vol_down();
			vol_up();
		}
		FAILS(p_create("t0/x", S_IFREG | 0644), ENOTDIR);
		FAILS(p_create("nothing/x", S_IFREG | 0644), ENOENT);
		FAILS(p_create("", S_IFREG | 0644), ENOENT);
		FAILS(p_create(".", S_IFDIR | 0755), EEXIST);
		FAILS(p_create("..", S_IFDIR | 0755), EEXIST);
		FAILS(p_create("bad", 0644), EINVAL);
		vol_down();
	}
}

static void test_names(void **state)
{
	static const char bytes[] = "\xff\xfe \n\t%'\"\\\xc3";
	char name[300];

	vol_make(1024, 64, 1, "");
	vol_up();
	memset(name, 'n', sizeof(name));
	name[256] = 0;
	FAILS(p_create(name, S_IFREG | 0644), ENAMETOOLONG);
	assert_false(p_exists(name));
	name[255] = 0;
	OK(p_create(name, S_IFREG | 0644));
	assert_true(p_exists(name));
	OK(p_create(bytes, S_IFREG | 0600));
	OK(p_create("Case", S_IFREG | 0600));
	assert_false(p_exists("case"));
	vol_down();
	vol_up();
	assert_true(p_exists(name));
	assert_true(p_exists(bytes));
	vol_down();
}

static void test_symlink(void **state)
{
	char target[5000], back[5000];
	struct gfs2_create_args a = { .mode = S_IFLNK | 0777, .symlink = target };
	struct gfs2_inode *ip;
	struct stat st;

	memset(target, 't', sizeof(target));
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 8) {
		vol_make(bsize, 64, 1, "");
		vol_up();
		target[bsize - 232] = 0;
		FAILS(p_create_args("s", &a, &st), ENAMETOOLONG);
		target[bsize - 233] = 0;
		OK(p_create_args("s", &a, &st));
		assert_int_equal(st.st_size, bsize - 233);
		a.symlink = "";
		FAILS(p_create_args("e", &a, &st), ENOENT);
		a.symlink = target;
		OK(p_create("f", S_IFREG | 0644));
		vol_down();
		vol_up();
		OK(walk("s", &ip, &st));
		OK(gfs2_readlink(ip, back, sizeof(back)));
		assert_string_equal(back, target);
		FAILS(gfs2_readlink(ip, back, bsize - 233), ENAMETOOLONG);
		gfs2_inode_put(ip);
		OK(walk("f", &ip, &st));
		FAILS(gfs2_readlink(ip, back, sizeof(back)), EINVAL);
		gfs2_inode_put(ip);
		vol_down();
		memset(target, 't', sizeof(target));
	}
}

/* Set bits of di_flags through a transaction of our own. */
static void set_flags(const char *path, uint32_t flags)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct stat st;

	OK(walk(path, &ip, &st));
	OK(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh));
	OK(gfs2_trans_begin(sdp->sd_log, 1, 0));
	ip->i_diskflags = (ip->i_diskflags & (GFS2_DIF_JDATA | GFS2_DIF_EXHASH)) | flags;
	OK(gfs2_dinode_log(ip));
	gfs2_trans_end(sdp->sd_log);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
}

static uint32_t get_flags(const char *path)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct stat st;
	uint32_t flags;

	OK(walk(path, &ip, &st));
	OK(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh));
	flags = ip->i_diskflags;
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	return flags;
}

static void test_inherit(void **state)
{
	struct gfs2_create_args a = { .mode = S_IFDIR | S_ISGID | 0775, .uid = 1000, .gid = 77 };
	struct stat st;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(p_create_args("sg", &a, &st));
	a.gid = 1000;
	a.mode = S_IFDIR | 0755;
	OK(p_create_args("sg/d", &a, &st));
	assert_int_equal(st.st_gid, 77);
	assert_int_equal(st.st_uid, 1000);
	assert_int_equal(st.st_mode, S_IFDIR | S_ISGID | 0755);
	a.mode = S_IFREG | 0644;
	OK(p_create_args("sg/f", &a, &st));
	assert_int_equal(st.st_gid, 77);
	assert_int_equal(st.st_mode, S_IFREG | 0644);

	OK(p_create("jd", S_IFDIR | 0755));
	set_flags("jd", GFS2_DIF_INHERIT_JDATA | GFS2_DIF_TOPDIR | GFS2_DIF_NOATIME);
	OK(p_create("jd/f", S_IFREG | 0644));
	OK(p_create("jd/d", S_IFDIR | 0755));
	OK(p_create("jd/s", S_IFLNK | 0777));
	assert_int_equal(get_flags("jd/f"), GFS2_DIF_JDATA);
	assert_int_equal(get_flags("jd/d"), GFS2_DIF_JDATA | GFS2_DIF_INHERIT_JDATA);
	assert_int_equal(get_flags("jd/s"), 0);
	assert_int_equal(get_flags("sg/d"), GFS2_DIF_JDATA);
	assert_int_equal(get_flags("sg/f"), 0);

	OK(p_create("im", S_IFDIR | 0755));
	OK(p_create("im/f", S_IFREG | 0644));
	OK(p_create("f", S_IFREG | 0644));
	set_flags("im", GFS2_DIF_IMMUTABLE);
	FAILS(p_create("im/g", S_IFREG | 0644), EPERM);
	FAILS(p_remove("im/f", false), EPERM);
	FAILS(p_link("f", "im/l"), EPERM);
	FAILS(p_rename("im/f", "g", 0), EPERM);
	FAILS(p_rename("f", "im/g", 0), EPERM);
	set_flags("im", GFS2_DIF_APPENDONLY);
	OK(p_create("im/g", S_IFREG | 0644));
	FAILS(p_remove("im/g", false), EPERM);
	FAILS(p_rename("im/g", "im/h", 0), EPERM);
	set_flags("f", GFS2_DIF_IMMUTABLE);
	FAILS(p_link("f", "l"), EPERM);
	FAILS(p_remove("f", false), EPERM);
	vol_down();
}

static void test_open_existing(void **state)
{
	struct gfs2_create_args a = { .mode = S_IFREG | 0600 };
	struct gfs2_inode *one, *two;
	struct stat st;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(gfs2_create(sdp->sd_root, "f", &a, &one, &st));
	/* To the kernel an answer means a new file, for which nobody asks what the caller may. */
	FAILS(gfs2_create(sdp->sd_root, "f", &a, &two, &st), ESTALE);
	a.excl = true;
	FAILS(gfs2_create(sdp->sd_root, "f", &a, &two, &st), EEXIST);
	a.excl = false;
	OK(p_create("d", S_IFDIR | 0755));
	OK(p_create("s", S_IFLNK | 0777));
	FAILS(gfs2_create(sdp->sd_root, "d", &a, &two, &st), EISDIR);
	FAILS(gfs2_create(sdp->sd_root, "s", &a, &two, &st), ESTALE);
	gfs2_inode_put(one);
	vol_down();
}

/* --- links and removal --- */

static void assert_fresh(void)
{
	struct gfs2_statfs_host now, sum;

	gfs2_statfs_get(sdp, &now);
	assert_int_equal(now.free, fresh.free);
	assert_int_equal(now.dinodes, fresh.dinodes);
	OK(gfs2_rgrps_sum(sdp, &sum));
	assert_int_equal(sum.free, now.free);
	assert_int_equal(sum.dinodes, now.dinodes);
}

static void test_link_unlink(void **state)
{
	struct gfs2_inode *ip;
	struct timespec ctime;
	struct stat st;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(p_create("f", S_IFREG | 0644));
	OK(p_create("d", S_IFDIR | 0755));
	ctime = p_stat("f").st_ctim;
	OK(p_link("f", "d/l"));
	FAILS(p_link("f", "d/l"), EEXIST);
	FAILS(p_link("d", "d2"), EPERM);
	FAILS(p_link("d", "d/d"), EPERM);
	OK(walk("f", &ip, &st));
	FAILS(gfs2_link(ip, ip, "l", &st), ENOTDIR);
	FAILS(gfs2_rename(ip, "x", sdp->sd_root, "y", 0), ENOTDIR);
	FAILS(gfs2_rename(sdp->sd_root, "f", ip, "y", 0), ENOTDIR);
	FAILS(gfs2_unlink(ip, "x"), ENOTDIR);
	gfs2_inode_put(ip);
	FAILS(p_link("f", "."), EEXIST);
	assert_int_equal(p_stat("f").st_nlink, 2);
	assert_int_equal(p_stat("d/l").st_ino, p_stat("f").st_ino);
	assert_true(p_stat("f").st_ctim.tv_sec >= ctime.tv_sec);
	FAILS(p_remove("d", false), EISDIR);
	FAILS(p_remove("f", true), ENOTDIR);
	FAILS(p_remove("d", true), ENOTEMPTY);
	FAILS(p_remove("g", false), ENOENT);
	FAILS(p_remove("d/.", true), EINVAL);
	FAILS(p_remove("d/..", true), ENOTEMPTY);
	OK(p_remove("f", false));
	assert_int_equal(p_stat("d/l").st_nlink, 1);
	OK(p_remove("d/l", false));
	OK(p_remove("d", true));
	assert_fresh();
	vol_down();
}

/* As many links and entries as their fields can count.  Set in core only: nothing of it is ever logged. */
static void test_count_limits(void **state)
{
	struct gfs2_inode *file, *dir;
	struct stat st;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(p_create("f", S_IFREG | 0644));
	OK(p_create("d", S_IFDIR | 0755));
	OK(p_create("e", S_IFDIR | 0755));
	OK(p_create("e/d", S_IFDIR | 0755));
	OK(walk("f", &file, &st));
	OK(walk("d", &dir, &st));
	file->i_nlink = dir->i_nlink = UINT32_MAX;
	FAILS(p_link("f", "l"), EMLINK);
	FAILS(p_create("d/d", S_IFDIR | 0755), EMLINK);
	FAILS(p_rename("e/d", "d/d", 0), EMLINK);
	FAILS(p_rename("e/d", "d/d", RENAME_NOREPLACE), EMLINK);
	file->i_nlink = 1;
	dir->i_nlink = 2;
	dir->i_entries = UINT32_MAX;
	FAILS(p_create("d/f", S_IFREG | 0644), EFBIG);
	FAILS(p_link("f", "d/f"), EFBIG);
	FAILS(p_rename("f", "d/f", 0), EFBIG);
	dir->i_entries = 2;
	gfs2_inode_put(file);
	gfs2_inode_put(dir);
	OK(p_link("f", "d/f"));
	OK(p_rename("e/d", "d/d", 0));
	assert_int_equal(p_stat("f").st_nlink, 2);
	assert_int_equal(p_stat("d").st_nlink, 3);
	vol_down();
}

/*
 * The last name of an inode in use: it stays until the last reference goes, and cannot be linked
 * again.
 */
static void test_unlink_in_use(void **state)
{
	struct gfs2_inode *file, *dir, *ip;
	struct gfs2_create_args a = { .mode = S_IFREG | 0600, .excl = true };
	struct stat st;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(p_create("f", S_IFREG | 0644));
	OK(p_create("d", S_IFDIR | 0755));
	OK(walk("f", &file, &st));
	OK(walk("d", &dir, &st));
	OK(p_remove("f", false));
	OK(p_remove("d", true));
	assert_int_equal(gfs2_get_block_type(sdp, file->i_no_addr), GFS2_BLKST_UNLINKED_);
	FAILS(gfs2_link(file, sdp->sd_root, "again", &st), ENOENT);
	FAILS(gfs2_create(dir, "x", &a, &ip, &st), ENOENT);
	FAILS(gfs2_rename(dir, "x", sdp->sd_root, "y", 0), ENOENT);
	gfs2_inode_put(file);
	gfs2_inode_put(dir);
	assert_fresh();
	vol_down();
}

/* As if the time had come: what could not be deleted is tried again. */
static void delete_again(void)
{
	rmutex_lock(&sdp->sd_icache->lock);
	sdp->sd_icache->undeleted_due_ns = 0;
	rmutex_unlock(&sdp->sd_icache->lock);
	gfs2_icache_reap(sdp);
}

/* The last reference goes while an indirect block cannot be read, and again not. */
static void fail_to_delete(void)
{
	struct io_fault fault;
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(io_fault_parse("op=read,cls=meta,error=5", &fault), 0);
	OK(walk("f", &ip, &st));
	OK(p_remove("f", false));
	assert_int_equal(io_fault_add(engine, &fault), 0);
	gfs2_inode_put(ip);
	delete_again();
	assert_int_equal(sdp->sd_icache->nr_undeleted, 1);
	io_fault_clear(engine);
}

/* An inode that could not be deleted keeps its blocks no longer than the device fails. */
static void test_deleted_again(void **state)
{
	static const char data[4096] = "x";
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct stat st;
	uint64_t no_addr;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(p_create("f", S_IFREG | 0644));
	OK(walk("f", &ip, &st));
	no_addr = ip->i_no_addr;
	OK(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh));
	assert_int_equal(gfs2_file_write(ip, data, 32 << 20, sizeof(data), 0), sizeof(data));
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	vol_down();

	vol_up();
	assert_int_equal(vol_times_said(fail_to_delete, "cannot be deleted"), 1);
	assert_int_equal(gfs2_get_block_type(sdp, no_addr), GFS2_BLKST_UNLINKED_);
	delete_again();
	assert_int_equal(gfs2_get_block_type(sdp, no_addr), GFS2_BLKST_FREE_);
	assert_int_equal(sdp->sd_icache->nr_undeleted, 0);
	vol_down();
}

/* --- freed later --- */

/*
 * As the kernel knows it: created, looked up.  Returns its node id, which is all that the kernel has: the object may be reduced
 * whenever nobody has a reference.
 */
static uint64_t known(const char *path, mode_t mode, uint32_t bytes)
{
	static char data[256 * 1024];
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct stat st;
	uint64_t node;

	OK(p_create(path, mode));
	OK(walk(path, &ip, &st));
	if (bytes) {
		assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
		assert_int_equal(gfs2_file_write(ip, data, 0, bytes, 0), bytes);
		gfs2_glock_dq_uninit(&gh);
	}
	gfs2_inode_lookup_inc(ip);
	node = gfs2_node_id(ip->i_no_addr, ip->i_no_formal_ino);
	gfs2_inode_put(ip);
	return node;
}

static uint64_t free_now(void)
{
	struct gfs2_statfs_host sc;

	gfs2_statfs_get(sdp, &sc);
	return (uint64_t)sc.free;
}

/* Every kind of inode, some freed together, some alone; what each had comes back, not before the kernel has forgotten it. */
static void test_freed_later(void **state)
{
	static uint64_t nodes[SCALE(4000)];
	const unsigned nr = ARRAY_SIZE(nodes);
	char name[64];
	uint64_t before;

	vol_make(4096, 128, 1, "");
	vol_up();
	for (unsigned turn = 0; turn < 2; turn++) {
		for (unsigned i = 0; i < nr; i++) {
			mode_t mode = i % 7 == 3 ? S_IFLNK | 0777 : i % 7 == 5 ? S_IFDIR | 0755 : S_IFREG | 0644;

			snprintf(name, sizeof(name), "f%u", i);
			/* in the dinode, one block, several, more than are freed together */
			nodes[i] = known(name, mode, !S_ISREG(mode) ? 0 : i % 5 ? i % 3 * 5000 : i % 100 ? 20000 : 200000);
		}
		for (unsigned i = 0; i < nr; i++) {
			snprintf(name, sizeof(name), "f%u", i);
			OK(p_remove(name, i % 7 == 5));
		}
		before = free_now();
		for (unsigned i = 0; i < nr; i++)
			gfs2_inode_forget_node(sdp, nodes[i], 1);
		if (turn) {
			gfs2_evict_wait(sdp);
			assert_true(free_now() >= before + nr);
			assert_fresh();
		}
		/* The first time what is still on the queue is freed by who unmounts, and the counts are right. */
		vol_down();
		vol_up();
	}
	assert_fresh();
	vol_down();
}

/* Who asks how much is free is told when all that was deleted before is, however little that is. */
static void test_counted_when_freed(void **state)
{
	vol_make(4096, 64, 1, "");
	vol_up();
	for (unsigned turn = 0; turn < 50; turn++) {
		const unsigned nr = 1 + turn % 5;
		uint64_t nodes[5];
		uint64_t before = free_now();
		char name[16];

		for (unsigned i = 0; i < nr; i++) {
			snprintf(name, sizeof(name), "f%u", i);
			nodes[i] = known(name, S_IFREG | 0644, 5000);
		}
		assert_int_equal(free_now(), before - 3 * nr);
		for (unsigned i = 0; i < nr; i++) {
			uint64_t node = nodes[i];

			snprintf(name, sizeof(name), "f%u", i);
			OK(p_remove(name, false));
			gfs2_inode_forget_node(sdp, node, 1);
		}
		gfs2_evict_wait(sdp);
		assert_int_equal(free_now(), before);
	}
	assert_fresh();
	vol_down();
}

/* What waits to be freed is there for whoever finds no space. */
static void test_space_freed_later(void **state)
{
	uint64_t nodes[64];
	char name[64];

	vol_make(4096, 16, 1, "");
	vol_up();
	OK(p_create("d", S_IFDIR | 0755));
	for (unsigned turn = 0; turn < 8; turn++) {
		unsigned nr = 0;
		int error = 0;

		for (; nr < ARRAY_SIZE(nodes); nr++) {
			snprintf(name, sizeof(name), "d/f%u", nr);
			nodes[nr] = known(name, S_IFREG | 0644, 30000);
		}
		for (unsigned i = 0; !error; i++) {
			snprintf(name, sizeof(name), "d/full%u", i);
			error = p_create(name, S_IFREG | 0644);
		}
		FAILS(error, ENOSPC);
		for (unsigned i = 0; i < nr; i++) {
			snprintf(name, sizeof(name), "d/f%u", i);
			OK(p_remove(name, false));
			gfs2_inode_forget_node(sdp, nodes[i], 1);
		}
		OK(p_create("d/now", S_IFREG | 0644));
		OK(p_remove("d/now", false));
		for (unsigned i = 0;; i++) {
			snprintf(name, sizeof(name), "d/full%u", i);
			if (!p_exists(name))
				break;
			OK(p_remove(name, false));
		}
	}
	OK(p_remove("d", true));
	gfs2_evict_wait(sdp);
	assert_fresh();
	vol_down();
}

struct churn {
	pthread_t t;
	unsigned number;
};

static void *churn_main(void *arg)
{
	struct churn *c = arg;
	uint64_t nodes[50];
	char name[64];

	for (unsigned turn = 0; turn < SCALE(40); turn++) {
		for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++) {
			snprintf(name, sizeof(name), "%u/f%u", c->number, i);
			nodes[i] = known(name, S_IFREG | 0644, i % 3 * 3000);
		}
		for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++) {
			uint64_t node = nodes[i];

			snprintf(name, sizeof(name), "%u/f%u", c->number, i);
			OK(p_remove(name, false));
			gfs2_inode_forget_node(sdp, node, 1);
			/* Somebody has an old file handle. */
			if (i % 8 == 0) {
				struct gfs2_inode *ip = gfs2_inode_by_node(sdp, node);

				gfs2_inode_put(ip);
			}
		}
		if (turn % 4 == c->number)
			gfs2_evict_wait(sdp);
	}
	return NULL;
}

/* Freed by one thread while others allocate in the same groups, look for the dead, and wait for the space. */
static void test_freed_under_load(void **state)
{
	struct churn c[4];

	vol_make(4096, 64, 1, "");
	vol_up();
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		char name[8];

		c[i].number = i;
		snprintf(name, sizeof(name), "%u", i);
		OK(p_create(name, S_IFDIR | 0755));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
		assert_int_equal(pthread_create(&c[i].t, NULL, churn_main, &c[i]), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		char name[8];

		pthread_join(c[i].t, NULL);
		snprintf(name, sizeof(name), "%u", i);
		OK(p_remove(name, true));
	}
	gfs2_evict_wait(sdp);
	assert_fresh();
	vol_down();
}

/* --- rename --- */

/* A directory that was removed and is still in use leads nowhere: what its ".." names has been freed. */
static void test_removed_dir(void **state)
{
	struct gfs2_inode *ip;
	struct stat st;

	vol_make(4096, 64, 1, "");
	vol_up();
	OK(p_create("a", S_IFDIR | 0755));
	OK(p_create("a/b", S_IFDIR | 0755));
	OK(p_create("d", S_IFDIR | 0755));
	OK(walk("a/b", &ip, &st));
	OK(p_remove("a/b", true));
	OK(p_remove("a", true));
	FAILS(gfs2_rename(sdp->sd_root, "d", ip, "x", 0), ENOENT);
	FAILS(gfs2_rename(ip, "x", sdp->sd_root, "y", 0), ENOENT);
	FAILS(gfs2_unlink(ip, "x"), ENOENT);
	gfs2_inode_put(ip);
	assert_false(gfs2_withdrawn(sdp));
	OK(p_remove("d", true));
	assert_fresh();
	vol_down();
}

static void test_rename(void **state)
{
	uint64_t a, b;

	vol_make(1024, 64, 1, "");
	vol_up();
	OK(p_create("f", S_IFREG | 0644));
	OK(p_create("g", S_IFREG | 0644));
	OK(p_create("d", S_IFDIR | 0755));
	OK(p_create("e", S_IFDIR | 0755));
	OK(p_create("e/sub", S_IFDIR | 0755));
	a = p_stat("f").st_ino;

	/* one directory */
	OK(p_rename("f", "f", 0));
	OK(p_rename("f", "h", 0));
	assert_false(p_exists("f"));
	assert_int_equal(p_stat("h").st_ino, a);
	FAILS(p_rename("h", "g", RENAME_NOREPLACE), EEXIST);
	OK(p_rename("h", "g", 0));
	assert_int_equal(p_stat("g").st_ino, a);
	assert_int_equal(p_stat("").st_nlink, 4);

	/* across, with ".." and link counts */
	OK(p_rename("e/sub", "d/sub", 0));
	assert_int_equal(p_stat("d/sub/..").st_ino, p_stat("d").st_ino);
	assert_int_equal(p_stat("d").st_nlink, 3);
	assert_int_equal(p_stat("e").st_nlink, 2);
	FAILS(p_rename("d", "d/sub/d", 0), EINVAL);
	FAILS(p_rename("d", "d/x", 0), EINVAL);
	FAILS(p_rename("d/sub", "d", 0), ENOTEMPTY);
	FAILS(p_rename("g", "e", 0), EISDIR);
	FAILS(p_rename("e", "g", 0), ENOTDIR);
	FAILS(p_rename("e", "d", 0), ENOTEMPTY);
	FAILS(p_rename("nix", "d/x", 0), ENOENT);
	FAILS(p_rename("g", "g/x", 0), ENOTDIR);
	FAILS(p_rename("g", "..", 0), EINVAL);
	FAILS(p_rename("g", "x", RENAME_WHITEOUT), EINVAL);
	OK(p_rename("d/sub", "e", 0));	/* over an empty directory */
	assert_int_equal(p_stat("").st_nlink, 4);
	assert_int_equal(p_stat("d").st_nlink, 2);
	assert_int_equal(p_stat("e/..").st_ino, sdp->sd_root_addr);
	OK(p_rename("d", "e", 0));
	assert_int_equal(p_stat("").st_nlink, 3);

	/* two names of one file */
	OK(p_link("g", "e/g2"));
	OK(p_rename("g", "e/g2", 0));
	assert_int_equal(p_stat("g").st_nlink, 2);

	/* exchange */
	OK(p_create("d", S_IFDIR | 0755));
	OK(p_create("d/in", S_IFREG | 0755));
	a = p_stat("d").st_ino;
	b = p_stat("e/g2").st_ino;
	FAILS(p_rename("d", "e/none", RENAME_EXCHANGE), ENOENT);
	FAILS(p_rename("e", "e/g2", RENAME_EXCHANGE), EINVAL);
	FAILS(p_rename("e/g2", "e", RENAME_EXCHANGE), EINVAL);
	OK(p_rename("d", "e/g2", RENAME_EXCHANGE));
	assert_int_equal(p_stat("e/g2").st_ino, a);
	assert_int_equal(p_stat("d").st_ino, b);
	assert_int_equal(p_stat("e/g2/..").st_ino, p_stat("e").st_ino);
	assert_int_equal(p_stat("e").st_nlink, 3);
	assert_int_equal(p_stat("").st_nlink, 3);
	OK(p_rename("d", "e", RENAME_EXCHANGE));
	assert_int_equal(p_stat("d/g2/in").st_nlink, 1);
	vol_down();
}

/* Renames inside a hashed directory, to names of all lengths: old and new leaf, splits. */
static void test_rename_hashed(void **state)
{
	char from[300], to[300];

	vol_make(512, 64, 1, "");
	vol_up();
	OK(p_create("d", S_IFDIR | 0755));
	OK(p_create("f", S_IFREG | 0644));
	for (int i = 0; i < 400; i++) {
		snprintf(from, sizeof(from), "d/%d", i);
		OK(p_link("f", from));
	}
	for (int i = 0; i < 400; i++) {
		snprintf(from, sizeof(from), "d/%d", i);
		snprintf(to, sizeof(to), "d/%d-%0*d", i, 1 + (int)rnd(200), 0);
		OK(p_rename(from, to, 0));
		assert_false(p_exists(from));
		OK(p_rename(to, from, RENAME_NOREPLACE));
		OK(p_rename(from, to, 0));
	}
	vol_down();
}

/* --- against the host's file system --- */

static char host[96];

static int h_path(char *buf, const char *path)
{
	return snprintf(buf, 704, "%s/%s", host, path);
}

#define RET(x) ((x) ? -errno : 0)

static int h_create(const char *path, mode_t mode)
{
	char p[704];
	int fd;

	h_path(p, path);
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return RET(mkdir(p, mode & 0777));
	case S_IFLNK:
		return RET(symlink("target", p));
	case S_IFREG:
		fd = open(p, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode & 0777);
		if (fd >= 0)
			close(fd);
		return RET(fd < 0);
	}
	return RET(mknod(p, mode, 0));
}

static int h_remove(const char *path, bool dir)
{
	char p[704];

	h_path(p, path);
	return RET(dir ? rmdir(p) : unlink(p));
}

static int h_link(const char *from, const char *to)
{
	char p[704], q[704];

	h_path(p, from);
	h_path(q, to);
	return RET(linkat(AT_FDCWD, p, AT_FDCWD, q, 0));
}

static int h_rename(const char *from, const char *to, unsigned flags)
{
	char p[704], q[704];

	h_path(p, from);
	h_path(q, to);
	return RET(renameat2(AT_FDCWD, p, AT_FDCWD, q, flags));
}

/* A path of one to four parts out of few names, so that operations meet. */
static void random_path(char *buf)
{
	static const char *const names[] = { "a", "b", "c", "d", "e" };
	int parts = 1 + rnd(rnd(3) ? 2 : 4);

	*buf = 0;
	while (parts--)
		buf += sprintf(buf, "%s%s", names[rnd(5)], parts ? "/" : "");
}

struct tree_arg {
	struct gfs2_inode *dip;
	const char *path;
	unsigned nr;
	char names[64][32];
};

static bool tree_fn(void *arg, const struct gfs2_dir_entry *e)
{
	struct tree_arg *t = arg;

	assert_true(t->nr < 64 && e->len < 32);
	memcpy(t->names[t->nr], e->name, e->len);
	t->names[t->nr++][e->len] = 0;
	return true;
}

/*
 * Every entry of the volume below @path is on the host too, with the same type and link count, and
 * not more there.
 */
static void compare_tree(const char *path)
{
	struct tree_arg *t = calloc(1, sizeof(*t));
	char p[704], sub[600];
	struct gfs2_holder gh;
	struct stat st, hst;
	unsigned nr_host = 0;
	struct dirent *de;
	DIR *d;

	OK(walk(path, &t->dip, &st));
	OK(gfs2_glock_nq_init(t->dip->i_gl, LM_ST_SHARED, 0, &gh));
	OK(gfs2_dir_read(t->dip, 0, tree_fn, t));
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(t->dip);
	h_path(p, path);
	d = opendir(p);
	assert_non_null(d);
	while ((de = readdir(d)))
		nr_host++;
	closedir(d);
	assert_int_equal(t->nr, nr_host);
	for (unsigned i = 0; i < t->nr; i++) {
		if (t->names[i][0] == '.')
			continue;
		snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "/" : "", t->names[i]);
		st = p_stat(sub);
		h_path(p, sub);
		assert_int_equal(lstat(p, &hst), 0);
		assert_int_equal(st.st_mode & S_IFMT, hst.st_mode & S_IFMT);
		assert_int_equal(st.st_nlink, hst.st_nlink);
		if (S_ISDIR(st.st_mode))
			compare_tree(sub);
	}
	free(t);
}

static void test_against_host(void **state)
{
	static const mode_t types[] = { S_IFREG, S_IFDIR, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO };
	static const unsigned flags[] = { 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	unsigned done = 0;

	snprintf(host, sizeof(host), "%s/host", vol_dir);
	assert_int_equal(mkdir(host, 0755), 0);
	vol_make(1024, 64, 1, "");
	vol_up();
	for (unsigned i = 0; i < SCALE(16000); i++) {
		char p[64], q[64];
		int ours, theirs;
		unsigned fl = flags[rnd(ARRAY_SIZE(flags))];
		bool dir = rnd(2);
		mode_t mode = types[rnd(ARRAY_SIZE(types))] | 0755;
		const char *what;

		random_path(p);
		random_path(q);
		switch (rnd(10)) {
		case 0: case 1: case 2:
			what = "create";
			ours = p_create(p, mode);
			theirs = h_create(p, mode);
			break;
		case 3:
			what = dir ? "rmdir" : "unlink";
			ours = p_remove(p, dir);
			theirs = h_remove(p, dir);
			break;
		case 4:
			what = "link";
			ours = p_link(p, q);
			theirs = h_link(p, q);
			break;
		default:
			what = "rename";
			ours = p_rename(p, q, fl);
			theirs = h_rename(p, q, fl);
		}
		/*
		 * The kernel's VFS looks for the new name before it looks at what is to be linked.
		 */
		if (ours != theirs && !(ours == -EPERM && theirs == -EEXIST))
			fail_msg("step %u: %s %s %s flags %u: %d, host says %d", i, what, p, q, fl,
				 ours, theirs);
		done += !ours;
		if (i % 2000 == 0)
			compare_tree("");
	}
	compare_tree("");
	assert_true(done > SCALE(2000));
	vol_down();
	vol_up();
	compare_tree("");
	vol_down();
}

/* --- several at once --- */

struct worker {
	pthread_t t;
	uint64_t seed;
	unsigned done;
};

static uint32_t worker_rnd(struct worker *w, uint32_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return (uint32_t)((w->seed >> 16) % below);
}

static void worker_path(struct worker *w, char *buf)
{
	int parts = 1 + worker_rnd(w, 3);

	while (parts--)
		buf += sprintf(buf, "%c%s", 'a' + (char)worker_rnd(w, 4), parts ? "/" : "");
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < SCALE(4800); i++) {
		char p[64], q[64];
		int error;

		worker_path(w, p);
		worker_path(w, q);
		switch (worker_rnd(w, 8)) {
		case 0:
			error = p_create(p, S_IFDIR | 0755);
			break;
		case 1:
			error = p_create(p, S_IFREG | 0644);
			break;
		case 2:
			error = p_remove(p, true);
			break;
		case 3:
			error = p_remove(p, false);
			break;
		case 4:
			error = p_link(p, q);
			break;
		case 5:
			error = p_rename(p, q, RENAME_EXCHANGE);
			break;
		default:
			error = p_rename(p, q, 0);
		}
		assert_int_not_equal(error, -EIO);
		w->done += !error;
	}
	return NULL;
}

/* Renames in all directions against each other: no deadlock, no loop, nothing lost. */
static void test_threads(void **state)
{
	struct worker w[6];
	unsigned done = 0;

	vol_make(4096, 64, 1, "");
	vol_up();
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
		w[i] = (struct worker){ .seed = 12345 + 7919 * i };
		assert_int_equal(pthread_create(&w[i].t, NULL, worker_main, &w[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
		pthread_join(w[i].t, NULL);
		done += w[i].done;
	}
	assert_true(done > SCALE(1600));
	assert_false(gfs2_withdrawn(sdp));
	vol_down();
}

/* A full volume: ENOSPC leaves nothing half done. */
static void test_full(void **state)
{
	char name[64];
	int error = 0;
	unsigned nr;

	vol_make(512, 16, 1, "");
	vol_up();
	OK(p_create("d", S_IFDIR | 0755));
	for (nr = 0; !error; nr++) {
		snprintf(name, sizeof(name), "d/some-longer-name-for-file-%u", nr);
		error = p_create(name, S_IFREG | 0644);
	}
	FAILS(error, ENOSPC);
	assert_false(p_exists(name));
	for (unsigned i = 0; i < nr - 1; i++) {
		snprintf(name, sizeof(name), "d/some-longer-name-for-file-%u", i);
		OK(p_remove(name, false));
	}
	OK(p_create("d/again", S_IFREG | 0644));
	OK(p_remove("d/again", false));
	OK(p_remove("d", true));
	assert_fresh();
	vol_down();
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_types),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_symlink),
		cmocka_unit_test(test_inherit),
		cmocka_unit_test(test_open_existing),
		cmocka_unit_test(test_link_unlink),
		cmocka_unit_test(test_count_limits),
		cmocka_unit_test(test_unlink_in_use),
		cmocka_unit_test(test_deleted_again),
		cmocka_unit_test(test_freed_later),
		cmocka_unit_test(test_counted_when_freed),
		cmocka_unit_test(test_space_freed_later),
		cmocka_unit_test(test_freed_under_load),
		cmocka_unit_test(test_removed_dir),
		cmocka_unit_test(test_rename),
		cmocka_unit_test(test_rename_hashed),
		cmocka_unit_test(test_against_host),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_full),
	};

	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return vol_main(run);
}
