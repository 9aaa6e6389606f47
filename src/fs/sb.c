/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The superblock and what follows from it (kernel: ops_fstype.c:gfs2_read_super, gfs2_check_sb,
 * gfs2_read_sb; reference gfs2-ondisk.md sections 1.2, 1.4, 4.3, 5.5).
 *
 * Guarantees: after gfs2_read_sb() returned 0 every geometry field of the sbd is set and the two
 * directory addresses lie on the device.  Nothing is ever written.  Each way in which a device is
 * not a volume that we can mount has a message of its own.
 */
#include <inttypes.h>
#include <stdio.h>
#include "fs/super.h"
#include "util/util.h"

#define SB_BYTES 4096 /* one read, aligned for every store */
#define SB_POS ((uint64_t)GFS2_SB_ADDR * GFS2_BASIC_BLOCK)
#define FS_FORMAT_MIN 1801
#define FS_FORMAT_MAX 1802
#define MIN_DIRENT_SIZE 48 /* head of 40 bytes, one character, rounded up to 8 */

/* Bytes that a tree of each height addresses; the last height is as good as unlimited. */
static void fill_heights(struct gfs2_sbd *sdp)
{
	unsigned x;

	sdp->sd_heightsize[0] = sdp->sd_bsize - sizeof(struct gfs2_dinode);
	sdp->sd_heightsize[1] = (uint64_t)sdp->sd_bsize * sdp->sd_diptrs;
	for (x = 2;; x++) {
		uint64_t space;

		if (__builtin_mul_overflow(sdp->sd_heightsize[x - 1], (uint64_t)sdp->sd_inptrs,
					   &space))
			break;
		sdp->sd_heightsize[x] = space;
	}
	GFS2_BUG_ON(x > GFS2_MAX_META_HEIGHT);
	sdp->sd_max_height = x;
	for (; x < ARRAY_SIZE(sdp->sd_heightsize); x++)
		sdp->sd_heightsize[x] = UINT64_MAX;
}

/* Worst case of one directory insert: a whole new hash table of the greatest depth and a split
 * at every depth (reference 5.5). */
static uint32_t max_dirres(const struct gfs2_sbd *sdp)
{
	uint32_t table = sizeof(uint64_t) << GFS2_DIR_MAX_DEPTH;
	uint32_t hash_blocks = DIV_ROUND_UP(table, sdp->sd_jbsize);
	uint32_t ind_blocks = 0;

	for (uint32_t n = hash_blocks; n > sdp->sd_diptrs;) {
		n = DIV_ROUND_UP(n, sdp->sd_inptrs);
		ind_blocks += n;
	}
	return hash_blocks + ind_blocks + 2 + GFS2_DIR_MAX_DEPTH;
}

static void fill_geometry(struct gfs2_sbd *sdp, uint32_t bsize)
{
	sdp->sd_bsize = bsize;
	sdp->sd_bsize_shift = (uint32_t)__builtin_ctz(bsize);
	sdp->sd_sb_block = SB_POS >> sdp->sd_bsize_shift;
	sdp->sd_diptrs = (bsize - sizeof(struct gfs2_dinode)) / sizeof(uint64_t);
	sdp->sd_inptrs = (bsize - sizeof(struct gfs2_meta_header)) / sizeof(uint64_t);
	sdp->sd_jbsize = bsize - sizeof(struct gfs2_meta_header);
	sdp->sd_hash_bsize = bsize / 2;
	sdp->sd_hash_bsize_shift = sdp->sd_bsize_shift - 1;
	sdp->sd_hash_ptrs = sdp->sd_hash_bsize / sizeof(uint64_t);
	sdp->sd_max_dents_per_leaf = (bsize - sizeof(struct gfs2_leaf)) / MIN_DIRENT_SIZE;
	sdp->sd_max_dirres = max_dirres(sdp);
	fill_heights(sdp);
}

/* The running fsck renames the lock protocol so that nobody mounts the volume meanwhile. */
static int check_not_fscked(const struct gfs2_sb *sb)
{
	if (strncmp(sb->sb_lockproto, "fsck_", 5) != 0)
		return 0;
	fs_err("the volume is being checked by fsck.gfs2 (or a check was interrupted: "
	       "run fsck.gfs2 again); not mounted");
	return -EBUSY;
}

static int check_block_size(struct io_engine *e, const struct gfs2_sb *sb)
{
	uint32_t bsize = be32_to_cpu(sb->sb_bsize);

	if (bsize < GFS2_BASIC_BLOCK || bsize > 4096 || (bsize & (bsize - 1))) {
		fs_err("bad block size %" PRIu32
		       " in the superblock (512, 1024, 2048 and 4096 are possible)",
		       bsize);
		return -EINVAL;
	}
	if (be32_to_cpu(sb->sb_bsize_shift) != (uint32_t)__builtin_ctz(bsize)) {
		fs_err("damaged superblock: block size %" PRIu32 " with shift %" PRIu32, bsize,
		       be32_to_cpu(sb->sb_bsize_shift));
		return -EINVAL;
	}
	if (bsize < io_align(e)) {
		fs_err("block size %" PRIu32 " is smaller than the device's logical block size %" PRIu32,
		       bsize, io_align(e));
		return -EINVAL;
	}
	return 0;
}

static int check_sb(struct io_engine *e, const struct gfs2_sb *sb)
{
	uint32_t format = be32_to_cpu(sb->sb_fs_format);
	uint32_t multi = be32_to_cpu(sb->sb_multihost_format);

	if (be32_to_cpu(sb->sb_header.mh_magic) != GFS2_MAGIC) {
		fs_err("not a GFS2 volume: no superblock at byte %" PRIu64, SB_POS);
		return -EINVAL;
	}
	if (be32_to_cpu(sb->sb_header.mh_type) != GFS2_METATYPE_SB) {
		fs_err("damaged superblock: a metadata block of type %" PRIu32 " is in its place",
		       be32_to_cpu(sb->sb_header.mh_type));
		return -EINVAL;
	}
	if (format < FS_FORMAT_MIN || format > FS_FORMAT_MAX) {
		fs_err("unsupported file system format %" PRIu32 " (%d to %d are supported)", format,
		       FS_FORMAT_MIN, FS_FORMAT_MAX);
		return -EINVAL;
	}
	if (multi != GFS2_FORMAT_MULTI) {
		fs_err("unsupported multihost format %" PRIu32 " (%d is supported)", multi,
		       GFS2_FORMAT_MULTI);
		return -EINVAL;
	}
	return check_block_size(e, sb);
}

/* An address that must be a block of the file system proper. */
static int check_dir_addr(const struct gfs2_sbd *sdp, const char *what, uint64_t addr)
{
	if (addr >= sdp->sd_device_blocks) {
		fs_err("the device is smaller than the file system: the %s directory is in block "
		       "%" PRIu64 " of %" PRIu64, what, addr, sdp->sd_device_blocks);
		return -EINVAL;
	}
	if (addr <= sdp->sd_sb_block) {
		fs_err("damaged superblock: the %s directory is in block %" PRIu64, what, addr);
		return -EINVAL;
	}
	return 0;
}

/* Lock names are padded with zeros, and not always terminated. */
static void copy_lockname(char *dst, size_t size, const char *src)
{
	size_t len = strnlen(src, GFS2_LOCKNAME_LEN);

	if (len >= size)
		len = size - 1;
	memcpy(dst, src, len);
	dst[len] = 0;
}

int gfs2_peek_lock_names(struct io_engine *e, struct gfs2_sbd *sdp)
{
	struct gfs2_sb *sb;
	int err;

	if (io_engine_size(e) < SB_POS + SB_BYTES)
		return -EINVAL;
	sb = aligned_alloc(SB_BYTES, SB_BYTES);
	if (!sb)
		return -ENOMEM;
	err = io_read(e, IO_META, sb, SB_BYTES, SB_POS);
	if (!err) {
		copy_lockname(sdp->sd_lockproto, sizeof(sdp->sd_lockproto), sb->sb_lockproto);
		copy_lockname(sdp->sd_locktable, sizeof(sdp->sd_locktable), sb->sb_locktable);
	}
	free(sb);
	return err;
}

int gfs2_read_sb(struct io_engine *e, struct gfs2_sbd *sdp)
{
	struct gfs2_sb *sb;
	int err;

	if (io_engine_size(e) < SB_POS + SB_BYTES) {
		fs_err("not a GFS2 volume: the device has %" PRIu64 " bytes only",
		       io_engine_size(e));
		return -EINVAL;
	}
	sb = aligned_alloc(SB_BYTES, SB_BYTES);
	if (!sb)
		return -ENOMEM;
	err = io_read(e, IO_META, sb, SB_BYTES, SB_POS);
	if (err) {
		fs_err("cannot read the superblock: %s", strerror(-err));
		goto out;
	}
	err = check_sb(e, sb);
	if (!err)
		err = check_not_fscked(sb);
	if (err)
		goto out;

	fill_geometry(sdp, be32_to_cpu(sb->sb_bsize));
	sdp->sd_io = e;
	sdp->sd_device_blocks = io_engine_size(e) >> sdp->sd_bsize_shift;
	sdp->sd_fs_format = be32_to_cpu(sb->sb_fs_format);
	sdp->sd_master_addr = be64_to_cpu(sb->sb_master_dir.no_addr);
	sdp->sd_root_addr = be64_to_cpu(sb->sb_root_dir.no_addr);
	copy_lockname(sdp->sd_lockproto, sizeof(sdp->sd_lockproto), sb->sb_lockproto);
	copy_lockname(sdp->sd_locktable, sizeof(sdp->sd_locktable), sb->sb_locktable);
	memcpy(sdp->sd_uuid, sb->sb_uuid, sizeof(sdp->sd_uuid));
	err = check_dir_addr(sdp, "master", sdp->sd_master_addr);
	if (!err)
		err = check_dir_addr(sdp, "root", sdp->sd_root_addr);
out:
	free(sb);
	return err;
}
