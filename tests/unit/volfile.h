/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files on a volume of vol.h that is mounted inside of the test: mount and unmount (which checks with fsck.gfs2), and
 * files of the root directory under their locks.  Everything asserts that it works.
 */
#ifndef GFS2FUSE_TESTS_VOLFILE_H
#define GFS2FUSE_TESTS_VOLFILE_H

#include "vol.h"
#include "fs/namei.h"

struct mounted {
	struct io_engine *e;
	struct gfs2_sbd *sdp;
};

static inline struct mounted mount_with(const struct gfs2_args *args)
{
	struct mounted m = { vol_open(false), NULL };

	assert_int_equal(gfs2_mount(m.e, args, &m.sdp), 0);
	return m;
}

static inline struct mounted do_mount(void)
{
	return mount_with(&vol_args);
}

static inline void do_unmount(struct mounted *m)
{
	assert_int_equal(gfs2_unmount(m->sdp), 0);
	io_engine_close(m->e);
	vol_fsck();
}

static inline struct gfs2_inode *make_file(struct gfs2_sbd *sdp, const char *name)
{
	const struct gfs2_create_args a = { .mode = S_IFREG | 0644, .excl = true };
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(gfs2_create(sdp->sd_root, name, &a, &ip, &st), 0);
	return ip;
}

static inline struct gfs2_inode *open_file(struct gfs2_sbd *sdp, const char *name)
{
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(gfs2_lookup(sdp->sd_root, name, &ip, &st), 0);
	return ip;
}

static inline void lock(struct gfs2_inode *ip, enum lm_state state, struct gfs2_holder *gh)
{
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, state, 0, gh), 0);
}

#endif
