/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each type of glock protects (kernel: glops.c; reference gfs2-locking-dio.md 1.3, 1.9).
 *
 * The functions are with what they work on: inodes in inode_go_*, rgrps in rgrp.c.  Types without
 * functions protect nothing that this node caches.
 */
#include "fs/inode.h"
#include "fs/rgrp.h"

struct gfs2_sbd *glock_sbd(const struct gfs2_glock *gl)
{
	return gfs2_glock_table_private(gl->gl_table);
}

/* Dinode, its metadata tree and attributes (gl_mapping), and the file's data (i_data). */
const struct gfs2_glock_operations gfs2_inode_glops = {
	.go_type = LM_TYPE_INODE,
	.go_flags = GLOF_ASPACE | GLOF_LRU | GLOF_LVB,
	.go_sync = inode_go_sync,
	.go_inval = inode_go_inval,
	.go_instantiate = inode_go_instantiate,
	.go_held = inode_go_held,
	.go_drain = inode_go_drain,
	.go_dump = inode_go_dump,
};

/* Bitmaps and counters of one resource group. */
const struct gfs2_glock_operations gfs2_rgrp_glops = {
	.go_type = LM_TYPE_RGRP,
	.go_flags = GLOF_ASPACE | GLOF_LVB,
	.go_sync = rgrp_go_sync,
	.go_inval = rgrp_go_inval,
	.go_instantiate = rgrp_go_instantiate,
	.go_dump = rgrp_go_dump,
};

/* "Some node has this inode in core." */
const struct gfs2_glock_operations gfs2_iopen_glops = {
	.go_type = LM_TYPE_IOPEN,
	.go_flags = GLOF_LRU | GLOF_NONDISK,
	.go_callback = iopen_go_callback,
	.go_dump = iopen_go_dump,
};

/* flock(2), with the kernel's nodes; fcntl(2) locks, among ours (src/fuse/plock.c). */
const struct gfs2_glock_operations gfs2_flock_glops = {
	.go_type = LM_TYPE_FLOCK,
	.go_flags = GLOF_LRU | GLOF_NONDISK,
};

const struct gfs2_glock_operations gfs2_plock_glops = {
	.go_type = LM_TYPE_PLOCK,
	.go_flags = GLOF_LRU | GLOF_NONDISK,
};

/* MOUNT, LIVE, RENAME: the protocol between nodes. */
const struct gfs2_glock_operations gfs2_nondisk_glops = {
	.go_type = LM_TYPE_NONDISK,
	.go_flags = GLOF_NONDISK,
};

/* Number 0: reading the superblock at mount. */
const struct gfs2_glock_operations gfs2_meta_glops = {
	.go_type = LM_TYPE_META,
	.go_flags = GLOF_NONDISK,
};

/* Whose journal it is; held by a node as long as it lives. */
const struct gfs2_glock_operations gfs2_journal_glops = {
	.go_type = LM_TYPE_JOURNAL,
	.go_flags = GLOF_NONDISK,
};

/* Held SH by everybody who may write. */
const struct gfs2_glock_operations gfs2_freeze_glops = {
	.go_type = LM_TYPE_NONDISK,
	.go_flags = GLOF_NONDISK,
};
