/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls for programs that use src/ without FUSE: one thread, one volume, paths.
 *
 * Each returns what the system call would: 0, a number of bytes, or -errno.
 */
#ifndef GFS2FUSE_TESTS_FSOPS_H
#define GFS2FUSE_TESTS_FSOPS_H

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "debug/event.h"
#include "dio/dio.h"
#include "fs/dir.h"
#include "fs/file.h"
#include "fs/namei.h"
#include "util/util.h"

#define FSO_UNUSED __attribute__((unused))
#define FSO_BUF_BYTES (1u << 20)

struct fso {
	struct io_engine *e;
	struct gfs2_sbd *sdp;
	struct io_ring *ring;
	char *buf;		/* FSO_BUF_BYTES and what gfs2_file_read() wants beside it */
};

FSO_UNUSED static int fso_mount(struct fso *f, const char *path, bool ro)
{
	const struct gfs2_args args = {
		.ar_ro = ro, .ar_dio_mtime_interval = 3600, .ar_cache = 16u << 20, .ar_commit = 3600,
	};
	int err = io_engine_open(path, ro, &f->e);

	if (err)
		return err;
	err = gfs2_mount(f->e, &args, &f->sdp);
	if (!err)
		err = io_ring_create(f->e, 64, false, &f->ring);
	if (err) {
		io_engine_close(f->e);
		f->e = NULL;
		f->sdp = NULL;
		return err;
	}
	if (!f->buf)
		f->buf = aligned_alloc(4096, FSO_BUF_BYTES + 4 * 4096);
	return 0;
}

FSO_UNUSED static int fso_unmount(struct fso *f)
{
	int err;

	io_ring_destroy(f->ring);
	err = gfs2_unmount(f->sdp);
	io_engine_close(f->e);
	f->ring = NULL;
	f->sdp = NULL;
	f->e = NULL;
	return err;
}

/* The inode of @path ("" is the root), +1 reference. */
static int fso_walk(struct fso *f, const char *path, struct gfs2_inode **out)
{
	struct gfs2_inode *ip = gfs2_inode_hold(f->sdp->sd_root), *next;
	char name[GFS2_FNAMESIZE + 2];
	struct stat st;
	int err;

	while (*path) {
		size_t n = strcspn(path, "/");

		snprintf(name, sizeof(name), "%.*s", (int)n, path);
		path += n + (path[n] == '/');
		err = gfs2_lookup(ip, name, &next, &st);
		gfs2_inode_put(ip);
		if (err)
			return err;
		ip = next;
	}
	*out = ip;
	return 0;
}

/* The directory of @path, and the last component. */
static int fso_parent(struct fso *f, const char *path, struct gfs2_inode **out, const char **name)
{
	const char *slash = strrchr(path, '/');
	char dir[1024];

	*name = slash ? slash + 1 : path;
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 0, path);
	return fso_walk(f, dir, out);
}

FSO_UNUSED static int fso_make(struct fso *f, const char *path, mode_t mode, const char *symlink)
{
	struct gfs2_create_args a = { .mode = mode, .symlink = symlink, .excl = true,
				      .major = S_ISCHR(mode) ? 1 : 0, .minor = S_ISCHR(mode) ? 3 : 0 };
	struct gfs2_inode *dip, *ip = NULL;
	const char *name;
	struct stat st;
	int err = fso_parent(f, path, &dip, &name);

	if (err)
		return err;
	err = gfs2_create(dip, name, &a, &ip, &st);
	gfs2_inode_put(dip);
	if (!err)
		gfs2_inode_put(ip);
	return err;
}

FSO_UNUSED static int fso_remove(struct fso *f, const char *path, bool dir)
{
	struct gfs2_inode *dip;
	const char *name;
	int err = fso_parent(f, path, &dip, &name);

	if (err)
		return err;
	err = dir ? gfs2_rmdir(dip, name) : gfs2_unlink(dip, name);
	gfs2_inode_put(dip);
	return err;
}

FSO_UNUSED static int fso_rename(struct fso *f, const char *from, const char *to, unsigned flags)
{
	struct gfs2_inode *odip, *ndip;
	const char *oname, *nname;
	int err = fso_parent(f, from, &odip, &oname);

	if (err)
		return err;
	err = fso_parent(f, to, &ndip, &nname);
	if (!err) {
		err = gfs2_rename(odip, oname, ndip, nname, flags);
		gfs2_inode_put(ndip);
	}
	gfs2_inode_put(odip);
	return err;
}

FSO_UNUSED static int fso_link(struct fso *f, const char *from, const char *to)
{
	struct gfs2_inode *ip, *dip;
	const char *name;
	struct stat st;
	int err = fso_walk(f, from, &ip);

	if (err)
		return err;
	err = fso_parent(f, to, &dip, &name);
	if (!err) {
		err = gfs2_link(ip, dip, name, &st);
		gfs2_inode_put(dip);
	}
	gfs2_inode_put(ip);
	return err;
}

FSO_UNUSED static int fso_stat(struct fso *f, const char *path, struct stat *st)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	int err = fso_walk(f, path, &ip);

	if (err)
		return err;
	err = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);
	if (!err) {
		gfs2_getattr(ip, st);
		gfs2_glock_dq_uninit(&gh);
	}
	gfs2_inode_put(ip);
	return err;
}

static int64_t fso_iread(struct fso *f, struct gfs2_inode *ip, uint64_t pos, uint32_t len,
			 const char **data)
{
	struct gfs2_holder gh;
	uint32_t skip = 0;
	int64_t n = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);

	if (n)
		return n;
	/* What op_read() is asked for by the kernel: regular files only. */
	n = S_ISREG(ip->i_mode) ? gfs2_file_read(ip, f->buf, pos, len, &skip) : -EINVAL;
	gfs2_glock_dq_uninit(&gh);
	*data = f->buf + skip;
	return n;
}

FSO_UNUSED static int64_t fso_read(struct fso *f, const char *path, uint64_t pos, uint32_t len,
				   const char **data)
{
	struct gfs2_inode *ip;
	int64_t n = fso_walk(f, path, &ip);

	if (n)
		return n;
	n = fso_iread(f, ip, pos, len, data);
	gfs2_inode_put(ip);
	return n;
}

static int64_t fso_iwrite(struct gfs2_inode *ip, uint64_t pos, const void *data, uint32_t len)
{
	struct gfs2_holder gh;
	int64_t n = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);

	if (n)
		return n;
	n = S_ISREG(ip->i_mode) ? gfs2_file_write(ip, data, pos, len, false) : -EINVAL;
	gfs2_glock_dq_uninit(&gh);
	return n;
}

FSO_UNUSED static int64_t fso_write(struct fso *f, const char *path, uint64_t pos, const void *data,
				    uint32_t len)
{
	struct gfs2_inode *ip;
	int64_t n = fso_walk(f, path, &ip);

	if (n)
		return n;
	n = fso_iwrite(ip, pos, data, len);
	gfs2_inode_put(ip);
	return n;
}

/* O_DIRECT; @pos and @len are multiples of what the store wants. */
FSO_UNUSED static int64_t fso_direct(struct fso *f, const char *path, bool write, uint64_t pos,
				     const void *data, uint32_t len)
{
	struct gfs2_dio d = { .ring = f->ring, .buf = f->buf, .buf_index = -1, .write = write,
			      .pos = pos, .len = len };
	int64_t n = fso_walk(f, path, &d.ip);

	if (n)
		return n;
	if (write)
		memcpy(f->buf, data, len);
	n = gfs2_dio_run(&d);
	gfs2_inode_put(d.ip);
	return n;
}

FSO_UNUSED static int fso_truncate(struct fso *f, const char *path, uint64_t size)
{
	struct gfs2_inode *ip;
	int err = fso_walk(f, path, &ip);

	if (err)
		return err;
	err = gfs2_setattr_size(ip, size);
	gfs2_inode_put(ip);
	return err;
}

FSO_UNUSED static int fso_fsync(struct fso *f, const char *path)
{
	struct gfs2_inode *ip;
	int err = fso_walk(f, path, &ip);

	if (err)
		return err;
	err = gfs2_fsync(ip, false);
	gfs2_inode_put(ip);
	return err;
}

/* A stream of numbers from a seed. */
static inline uint64_t fso_rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}
static inline uint64_t fso_below(uint64_t *state, uint64_t n)
{
	return n ? fso_rnd(state) % n : 0;
}

#endif
