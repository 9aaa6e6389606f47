/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Direct I/O without FUSE: one volume of volfile.h for all tests of a group, and files with data in chosen blocks. */
#ifndef GFS2FUSE_TESTS_DIOFIX_H
#define GFS2FUSE_TESTS_DIOFIX_H

#include "volfile.h"
#include "dio/dio.h"

#define BS 4096u

static struct io_engine *engine;
static struct gfs2_sbd *sdp;

/* For the setup and the teardown of a group. */
static inline int dio_mount(unsigned mib, enum short_dio short_dio)
{
	/* No times are published meanwhile, which takes EX: tests count who takes which lock. */
	const struct gfs2_args args = { .ar_dio_mtime_interval = 3600, .ar_cache = 32u << 20, .ar_commit = 30,
					.ar_short_dio = short_dio };
	struct mounted m;

	/* More than vol_main() has: tests look for the events of many requests. */
	gfs2_event_exit();
	gfs2_event_init(12);
	vol_make(BS, mib, 1, "");
	m = mount_with(&args);
	engine = m.e;
	sdp = m.sdp;
	return 0;
}

static inline int dio_unmount(void)
{
	struct mounted m = { engine, sdp };

	do_unmount(&m);
	return 0;
}

/* Through the buffers: @data is BS bytes. */
static inline void write_block(struct gfs2_inode *ip, uint64_t lblock, const char *data)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_write(ip, data, lblock * BS, BS, false), BS);
	gfs2_glock_dq_uninit(&gh);
}

#endif
