/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading file contents, and making them durable (kernel: file.c:gfs2_file_read_iter, gfs2_fsync).
 *
 * Reads go straight from the device into the caller's buffer; clean file data are not kept here
 * (the kernel's page cache has them). A cached buffer, dirty data or a journaled block not yet in
 * place, is newer than the device and wins.
 *
 * Needs from callers: gfs2_file_read any holder, which keeps writers of this and other nodes
 * away; the rest as in file.h.
 */
#include "fs/file.h"
#include "util/seeded.h"
#include "util/util.h"

#define READ_MAX_REQS 32	/* runs in flight at once */

struct read_op {
	struct gfs2_inode *ip;
	char *buf;		/* where file block @first goes */
	uint64_t first;
	bool cached;		/* some blocks may be in the buffer cache */
	unsigned nr;
	struct io_req reqs[READ_MAX_REQS];
};

static int read_flush(struct read_op *op)
{
	int error = op->nr ? io_run(op->ip->i_sbd->sd_io, op->reqs, op->nr) : 0;

	op->nr = 0;
	return error;
}

static int read_device(struct read_op *op, uint64_t lblock, uint64_t pblock, uint64_t len)
{
	unsigned shift = op->ip->i_sbd->sd_bsize_shift;
	int error = op->nr == READ_MAX_REQS ? read_flush(op) : 0;

	if (!error && len)
		io_req_init(&op->reqs[op->nr++], IO_READ, IO_DATA,
			    op->buf + ((lblock - op->first) << shift), (uint32_t)(len << shift),
			    pblock << shift);
	return error;
}

/* Copy the block from the cache if it is there. */
static bool read_cached(struct read_op *op, uint64_t lblock, uint64_t pblock)
{
	const struct gfs2_sbd *sdp = op->ip->i_sbd;
	struct gfs2_bh *bh = buf_find(sdp->sd_bufs, pblock);
	bool found = bh && buf_test(bh, B_UPTODATE);

	if (found)
		memcpy(op->buf + ((lblock - op->first) << sdp->sd_bsize_shift), bh->b_data,
		       sdp->sd_bsize);
	buf_put(bh);
	return found;
}

/* A mapped run: what is cached from the cache, what lies between from the device. */
static int read_run(struct read_op *op, const struct extent *e)
{
	uint64_t i, start = 0;
	int error;

	if (!op->cached)
		return read_device(op, e->lblock, e->pblock, e->len);
	for (i = 0; i < e->len; i++) {
		if (!read_cached(op, e->lblock + i, e->pblock + i))
			continue;
		error = read_device(op, e->lblock + start, e->pblock + start, i - start);
		if (error)
			return error;
		start = i + 1;
	}
	return read_device(op, e->lblock + start, e->pblock + start, i - start);
}

static int read_blocks(struct read_op *op, uint64_t end)
{
	unsigned shift = op->ip->i_sbd->sd_bsize_shift;
	uint64_t lblock = op->first;
	int error = 0;

	while (!error && lblock < end) {
		struct extent e;

		error = gfs2_map_extent(op->ip, lblock, end - lblock, &e);
		if (error)
			break;
		if (e.pblock)
			error = read_run(op, &e);
		else
			memset(op->buf + ((lblock - op->first) << shift), 0, e.len << shift);
		lblock += e.len;
	}
	if (error)
		op->nr = 0;
	return error ? error : read_flush(op);
}

int64_t gfs2_file_read(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size, uint32_t *skip)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	struct read_op op;
	int error;

	gfs2_assert_held(ip->i_gl, false);
	*skip = 0;
	if (pos >= ip->i_size)
		return 0;
	size = min_t(uint64_t, size, ip->i_size - pos);
	if (!size)
		return 0;
	if (gfs2_is_stuffed(ip))
		return gfs2_internal_read(ip, buf, pos, size);
	op.ip = ip;
	op.buf = buf;
	op.first = pos >> sdp->sd_bsize_shift;
	op.nr = 0;
	/* relaxed: only writers under EX put buffers there, and we have a holder */
	op.cached = gfs2_is_jdata(ip) ||
		    atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed);
	*skip = pos & (sdp->sd_bsize - 1);
	error = read_blocks(&op, ((pos + size - 1) >> sdp->sd_bsize_shift) + 1);
	return error ? error : (int64_t)size;
}

int gfs2_file_flush_inval(struct gfs2_inode *ip)
{
	int error;

	if (!atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed) || SEEDED_BUG("dio-no-flush"))
		return 0;
	error = mapping_sync(&ip->i_data);
	mapping_invalidate(&ip->i_data);
	return error;
}

int gfs2_file_sync(struct gfs2_inode *ip, bool datasync)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_log *log = sdp->sd_log;
	uint64_t seq;
	bool flushed;
	int error, error2;

	if (!log)
		return 0;
	if (gfs2_withdrawn(sdp))
		return -EIO;
	error = mapping_sync(&ip->i_data);
	seq = atomic_load_explicit(datasync ? &ip->i_datasync_seq : &ip->i_log_seq,
				   memory_order_acquire);
	/*
	 * The flush of a batch that is still open begins after the data have been written, so its
	 * device flush covers them.  Of any other it is not known, and direct writes have had
	 * none at all; nor is there one for an empty batch.
	 */
	flushed = gfs2_trans_batch_seq(log) == seq;
	error2 = gfs2_log_flush_seq(log, seq, GFS2_LOG_HEAD_FLUSH_NORMAL);
	flushed &= gfs2_log_durable_seq(log) >= seq;
	if (!error)
		error = error2;
	if (!flushed) {
		error2 = io_flush(sdp->sd_io, IO_DATA);
		if (!error)
			error = error2;
	}
	return error;
}

int gfs2_fsync(struct gfs2_inode *ip, bool datasync)
{
	int error = datasync ? 0 : gfs2_pending_mtime_publish(ip);
	int error2 = gfs2_file_sync(ip, datasync);

	return error ? error : error2;
}
