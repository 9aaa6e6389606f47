/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preallocation, punched holes, and where the data and the holes are (kernel: file.c:gfs2_fallocate,
 * fallocate_chunk, bmap.c:__gfs2_punch_hole, inode.c:gfs2_seek_data; reference gfs2-ondisk.md 4.6).
 *
 * GFS2 has no "allocated but unwritten": preallocated blocks are zeros on the device.
 *
 * Guarantees
 *  1. A block is zeroed before the transaction that makes it reachable is opened: neither a crash nor
 *     an error of the device in the middle lets anybody see what was there before.
 *  2. Each piece (a run of blocks with the metadata that leads to it) is one transaction, so a fallocate
 *     that ends early, because the volume is full or the device fails, leaves a whole file with fewer
 *     blocks, of the size it had.
 *  3. Nobody waits for the device inside a transaction.
 *
 * Not copied: the kernel of 6.1 makes a file grow when a hole is punched behind its end.
 */
#include <linux/falloc.h>
#include "debug/event.h"
#include "fs/falloc.h"
#include "fs/rgrp.h"
#include "util/util.h"

#define PIECE_BYTES (16u << 20)
#define ZERO_BYTES (1u << 20)
#define ZERO_REQS 8

/* Never written to. */
static _Alignas(4096) char zeros[ZERO_BYTES];

static int zero_device(struct gfs2_sbd *sdp, uint64_t bn, unsigned nr)
{
	uint64_t pos = bn << sdp->sd_bsize_shift, end = (bn + nr) << sdp->sd_bsize_shift;
	struct io_req reqs[ZERO_REQS];
	int error = 0;

	while (!error && pos < end) {
		unsigned n = 0;

		for (; n < ZERO_REQS && pos < end; n++) {
			uint32_t len = (uint32_t)min_t(uint64_t, end - pos, ZERO_BYTES);

			io_req_init(&reqs[n], IO_WRITE, IO_DATA, zeros, len, pos);
			pos += len;
		}
		error = io_run(sdp->sd_io, reqs, n);
	}
	return error;
}

/* --- preallocation --- */

struct zero_filler {
	struct gfs2_filler filler;
	struct gfs2_inode *ip;
};

static int zero_run(struct gfs2_filler *filler, uint64_t bn, unsigned n)
{
	struct gfs2_inode *ip = container_of(filler, struct zero_filler, filler)->ip;
	int error = zero_device(ip->i_sbd, bn, n);

	ev_dio(EV_DATA_IO, ip->i_no_addr, 0, (uint64_t)n << ip->i_sbd->sd_bsize_shift, error, "zero");
	return error;
}

/* Blocks in [lblock, end) that are to be allocated; counted until there are more than @max. */
static int count_holes(struct gfs2_inode *ip, uint64_t lblock, uint64_t end, uint64_t max, uint64_t *holes)
{
	*holes = 0;
	while (lblock < end && *holes <= max) {
		struct extent e;
		int error = gfs2_map_extent(ip, lblock, end - lblock, &e);

		if (error)
			return error;
		if (!e.pblock)
			*holes += e.len;
		lblock += e.len;
	}
	return 0;
}

/*
 * A request that cannot succeed must not fill the volume first, but what is on its way is waited for, as by all who
 * find no space.  Only a guess when other nodes allocate and free, so then there is none.
 */
static int check_room(struct gfs2_inode *ip, uint64_t lblock, uint64_t end)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_statfs_host sc;
	uint64_t holes, gone;
	int error;

	if (sdp->sd_lm->lm_has_peers)
		return 0;
	gfs2_statfs_get(sdp, &sc);
	error = count_holes(ip, lblock, end, (uint64_t)sc.total, &holes);
	if (error || holes <= (uint64_t)sc.free)
		return error;
	if (holes > (uint64_t)sc.total)
		return -ENOSPC;
	error = gfs2_rgrps_look(sdp);
	while (!error) {
		/* First: what goes after the count is a reason to count again. */
		gone = gfs2_inodes_gone(sdp);
		gfs2_statfs_get(sdp, &sc);
		if (holes <= (uint64_t)sc.free)
			return 0;
		if (!gfs2_inodes_wait_gone(ip, gone))
			error = -ENOSPC;
	}
	return error;
}

static int fill_holes(struct gfs2_inode *ip, uint64_t lblock, uint64_t end)
{
	uint64_t max = PIECE_BYTES >> ip->i_sbd->sd_bsize_shift;
	struct zero_filler zero = { { .fill = zero_run }, ip };
	int error = gfs2_is_stuffed(ip) ? gfs2_unstuff_trans(ip) : 0;

	if (!error)
		error = check_room(ip, lblock, end);
	while (!error && lblock < end) {
		struct gfs2_hole hole;
		struct extent e;
		uint64_t done;

		error = gfs2_map_extent(ip, lblock, end - lblock, &e);
		if (error)
			break;
		done = e.len;
		hole = (struct gfs2_hole){ lblock, e.len };
		if (!e.pblock)
			error = gfs2_alloc_filled(ip, &hole, 1, max, &zero.filler, &done);
		lblock += done;
	}
	return error;
}

/* EX: @offset + @len <= INT64_MAX. */
static int preallocate(struct gfs2_inode *ip, uint64_t offset, uint64_t len, bool keep_size)
{
	unsigned shift = ip->i_sbd->sd_bsize_shift;
	uint64_t end = offset + len;
	int error = fill_holes(ip, offset >> shift, ((end - 1) >> shift) + 1);

	if (error)
		return error;
	/* The size last, with the times; a size that stays leaves the times to be set. */
	return gfs2_truncate(ip, keep_size ? ip->i_size : max_t(uint64_t, ip->i_size, end));
}

/* --- holes --- */

static int punch_stuffed(struct gfs2_inode *ip, uint64_t offset, uint64_t end)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	struct gfs2_bh *bh;
	int error = gfs2_meta_inode_buffer(ip, &bh);

	if (error)
		return error;
	error = gfs2_trans_begin(log, 1, 0);
	if (!error) {
		gfs2_trans_add_meta(log, ip->i_gl, bh);
		end = min_t(uint64_t, end, ip->i_size);
		if (offset < end)
			memset(bh->b_data + sizeof(struct gfs2_dinode) + offset, 0, end - offset);
		gfs2_pending_mtime_fold(ip);
		ip->i_mtime = ip->i_ctime = current_time();
		error = gfs2_dinode_log(ip);
		gfs2_trans_end(log);
	}
	buf_put(bh);
	return error;
}

/* EX: @offset + @len <= INT64_MAX. */
static int punch(struct gfs2_inode *ip, uint64_t offset, uint64_t len)
{
	uint32_t bsize = ip->i_sbd->sd_bsize;
	uint64_t end = offset + len;
	uint64_t first = ALIGN_UP(offset, (uint64_t)bsize), last = ALIGN_DOWN(end, (uint64_t)bsize);
	int error = 0;

	if (gfs2_is_stuffed(ip))
		return punch_stuffed(ip, offset, end);
	/* first > last: both ends lie in one block. */
	if (offset < first)
		error = gfs2_zero_in_block(ip, offset,
					   (uint32_t)(min_t(uint64_t, first, end) - offset));
	if (!error && last < end && first <= last)
		error = gfs2_zero_in_block(ip, last, (uint32_t)(end - last));
	if (error)
		return error;
	return gfs2_punch_blocks(ip, first >> ip->i_sbd->sd_bsize_shift,
				 last >> ip->i_sbd->sd_bsize_shift);
}

/* kernel: fs/open.c:vfs_fallocate, which cannot see these flags of ours, then gfs2_fallocate */
static int may_fallocate(const struct gfs2_inode *ip, int mode)
{
	if (S_ISDIR(ip->i_mode))
		return -EISDIR;
	if (!S_ISREG(ip->i_mode))
		return -ENODEV;
	if (ip->i_diskflags & GFS2_DIF_IMMUTABLE)
		return -EPERM;
	if (ip->i_diskflags & GFS2_DIF_APPENDONLY && mode & ~FALLOC_FL_KEEP_SIZE)
		return -EPERM;
	return gfs2_is_jdata(ip) ? -EOPNOTSUPP : 0;
}

int gfs2_fallocate(struct gfs2_inode *ip, int mode, uint64_t offset, uint64_t len, bool sync)
{
	struct gfs2_holder gh;
	int error;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) || mode == FALLOC_FL_PUNCH_HOLE)
		return -EOPNOTSUPP;
	if (!len || offset > INT64_MAX)
		return -EINVAL;
	if (len > INT64_MAX - offset)
		return -EFBIG;
	if (ip->i_sbd->sd_ro)
		return -EROFS;
	if (gfs2_withdrawn(ip->i_sbd))
		return -EIO;
	error = mode & FALLOC_FL_PUNCH_HOLE ? gfs2_inode_nq_change(ip, &gh, __func__) : gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	error = may_fallocate(ip, mode);
	if (!error && mode & FALLOC_FL_PUNCH_HOLE)
		error = punch(ip, offset, len);
	else if (!error)
		error = preallocate(ip, offset, len, mode & FALLOC_FL_KEEP_SIZE);
	sync |= !!(ip->i_diskflags & GFS2_DIF_SYNC);
	gfs2_glock_dq_uninit(&gh);
	return !error && sync ? gfs2_file_sync(ip, false) : error;
}

/* --- SEEK_DATA, SEEK_HOLE --- */

static int64_t seek_blocks(struct gfs2_inode *ip, uint64_t offset, bool data)
{
	unsigned shift = ip->i_sbd->sd_bsize_shift;
	uint64_t lblock = offset >> shift, end = ((ip->i_size - 1) >> shift) + 1;

	while (lblock < end) {
		struct extent e;
		int error = gfs2_map_extent(ip, lblock, end - lblock, &e);

		if (error)
			return error;
		if (!!e.pblock == data)
			return (int64_t)max_t(uint64_t, offset, lblock << shift);
		lblock += e.len;
	}
	/* There always is a hole at the end. */
	return data ? -ENXIO : (int64_t)ip->i_size;
}

int64_t gfs2_seek(struct gfs2_inode *ip, uint64_t offset, bool data)
{
	struct gfs2_holder gh;
	int64_t ret = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);

	if (ret)
		return ret;
	if (!S_ISREG(ip->i_mode))
		ret = -EINVAL;
	else if (offset >= ip->i_size)
		ret = -ENXIO;
	else if (gfs2_is_stuffed(ip))
		ret = data ? (int64_t)offset : (int64_t)ip->i_size;
	else
		ret = seek_blocks(ip, offset, data);
	gfs2_glock_dq_uninit(&gh);
	return ret;
}
