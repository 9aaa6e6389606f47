/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading file contents, and making them durable (kernel: file.c:gfs2_file_read_iter, gfs2_fsync).
 *
 * gfs2_file_read(): straight from the device into the caller's buffer; clean file data are not
 * kept here (the kernel's page cache has them). A cached buffer, dirty data or a journaled block
 * not yet in place, is newer than the device and wins.
 *
 * gfs2_file_read_cached(): for files whose pages the kernel may not cache. Their clean data are
 * buffers of the inode's data mapping: bounded with all other buffers, dropped with the glock
 * (inode_go_inval) and before direct I/O (gfs2_file_flush_inval). Who reads on where the last
 * read ended finds more and more read ahead.
 *
 * Needs from callers: gfs2_file_read any holder, which keeps writers of this and other nodes
 * away; the rest as in file.h.
 */
#include "fs/file.h"
#include "util/seeded.h"
#include "debug/event.h"
#include "util/util.h"

struct read_op {
	struct gfs2_inode *ip;
	char *buf;		/* where file block @first goes */
	uint64_t first;
	uint64_t pos;		/* what was asked for, in bytes: for events */
	uint32_t size;
	bool cached;		/* some blocks may be in the buffer cache */
	struct gfs2_pieces *pieces; /* not NULL: runs stay where they are, and this says where */
	unsigned nr;
	struct io_req reqs[GFS2_READ_PIECES]; /* runs in flight at once */
};

static int read_flush(struct read_op *op)
{
	int error;

	if (!op->nr)
		return 0;
	error = io_run(op->ip->i_sbd->sd_io, op->reqs, op->nr);
	ev_dio(EV_DATA_IO, op->ip->i_no_addr, op->pos, op->size, error, "read");
	op->nr = 0;
	return error;
}

/* The next piece of the answer; -E2BIG: there are too many. */
static int add_piece(struct read_op *op, const void *p, uint64_t len)
{
	struct gfs2_pieces *to = op->pieces;

	if (to->nr == GFS2_READ_PIECES)
		return -E2BIG;
	to->iov[to->nr++] = (struct iovec){ (void *)(uintptr_t)p, len };
	return 0;
}

static int read_device(struct read_op *op, uint64_t lblock, uint64_t pblock, uint64_t len)
{
	unsigned shift = op->ip->i_sbd->sd_bsize_shift;
	int error = op->nr == GFS2_READ_PIECES ? read_flush(op) : 0;
	struct io_req *req;

	if (error || !len)
		return error;
	req = &op->reqs[op->nr++];
	io_req_init(req, IO_READ, IO_DATA, op->buf + ((lblock - op->first) << shift), (uint32_t)(len << shift),
		    pblock << shift);
	if (!op->pieces)
		return 0;
	req->in_place = true;
	return add_piece(op, io_in_place(op->ip->i_sbd->sd_io, req->pos), len << shift);
}

static int read_hole(struct read_op *op, uint64_t lblock, uint64_t len)
{
	unsigned shift = op->ip->i_sbd->sd_bsize_shift;
	char *to = op->buf + ((lblock - op->first) << shift);

	memset(to, 0, len << shift);
	return op->pieces ? add_piece(op, to, len << shift) : 0;
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
		ev_dio(EV_MAP, op->ip->i_no_addr, lblock << shift, e.len << shift, 0,
		       e.pblock ? "mapped" : "hole");
		error = e.pblock ? read_run(op, &e) : read_hole(op, lblock, e.len);
		lblock += e.len;
	}
	if (error)
		op->nr = 0;
	return error ? error : read_flush(op);
}

/* relaxed: only writers under EX put some there, and we have a holder */
bool gfs2_file_has_buffers(struct gfs2_inode *ip)
{
	return gfs2_is_jdata(ip) || atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed);
}

static void read_op_init(struct read_op *op, struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size)
{
	op->ip = ip;
	op->buf = buf;
	op->first = pos >> ip->i_sbd->sd_bsize_shift;
	op->pos = pos;
	op->size = size;
	op->cached = gfs2_file_has_buffers(ip);
	op->pieces = NULL;
	op->nr = 0;
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
	if (gfs2_is_stuffed(ip)) {
		ev_dio(EV_MAP, ip->i_no_addr, 0, ip->i_size, 0, "inline");
		return gfs2_internal_read(ip, buf, pos, size);
	}
	read_op_init(&op, ip, buf, pos, size);
	*skip = pos & (sdp->sd_bsize - 1);
	error = read_blocks(&op, ((pos + size - 1) >> sdp->sd_bsize_shift) + 1);
	return error ? error : (int64_t)size;
}

/* Whole blocks have been found; of the first and the last one less may have been asked for. */
static void trim_pieces(struct gfs2_pieces *to, uint32_t skip, uint64_t size)
{
	struct iovec *v = to->iov;

	v->iov_base = (char *)v->iov_base + skip;
	v->iov_len -= skip;
	for (; v->iov_len < size; v++)
		size -= v->iov_len;
	v->iov_len = size;
	to->nr = (unsigned)(v - to->iov) + 1;
}

int64_t gfs2_file_read_pieces(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size, struct gfs2_pieces *to)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	struct read_op op;
	uint32_t skip;
	int64_t ret;

	gfs2_assert_held(ip->i_gl, false);
	to->nr = 0;
	to->in_store = io_can_in_place(sdp->sd_io) && !gfs2_is_stuffed(ip) && !gfs2_file_has_buffers(ip) && pos < ip->i_size && size;
	if (to->in_store) {
		size = (uint32_t)min_t(uint64_t, size, ip->i_size - pos);
		read_op_init(&op, ip, buf, pos, size);
		op.pieces = to;
		ret = read_blocks(&op, ((pos + size - 1) >> sdp->sd_bsize_shift) + 1);
		if (!ret)
			trim_pieces(to, pos & (sdp->sd_bsize - 1), size);
		if (ret != -E2BIG)
			return ret ? ret : (int64_t)size;
		to->in_store = false;
	}
	ret = gfs2_file_read(ip, buf, pos, size, &skip);
	to->iov[0] = (struct iovec){ (char *)buf + skip, ret > 0 ? (size_t)ret : 0 };
	to->nr = 1;
	return ret;
}

#define READ_AHEAD_MIN (128u << 10)
#define READ_AHEAD_MAX (1u << 20)
#define READ_AHEAD_BLOCKS 1024u

/* Where reading ahead should end for a read of [pos, pos + size). */
static uint64_t read_ahead_end(struct gfs2_inode *ip, uint64_t pos, uint32_t size)
{
	/* relaxed: a guess; readers of one file that get into each other's way read ahead less */
	uint64_t next = atomic_exchange_explicit(&ip->i_read_next, pos + size, memory_order_relaxed);
	unsigned window = atomic_load_explicit(&ip->i_read_ahead, memory_order_relaxed);

	if (next != pos)
		window = 0;
	else
		window = min_t(unsigned, max_t(unsigned, 2 * window, READ_AHEAD_MIN), READ_AHEAD_MAX);
	atomic_store_explicit(&ip->i_read_ahead, window, memory_order_relaxed);
	return min_t(uint64_t, pos + size + window, ip->i_size);
}

/* Bring the blocks [lblock, end) into the mapping in one go; what fails is found out by who needs it. */
static int read_into_mapping(struct gfs2_inode *ip, uint64_t lblock, uint64_t end)
{
	uint64_t *blocks;
	unsigned nr = 0;
	int error = 0;

	end = min_t(uint64_t, end, lblock + READ_AHEAD_BLOCKS);
	blocks = xmalloc((end - lblock) * sizeof(*blocks));
	while (!error && lblock < end) {
		struct extent e;

		error = gfs2_map_extent(ip, lblock, end - lblock, &e);
		if (error)
			break;
		for (uint64_t i = 0; e.pblock && i < e.len; i++)
			blocks[nr++] = e.pblock + i;
		lblock += e.len;
	}
	if (!error)
		buf_readahead(&ip->i_data, blocks, nr);
	if (nr)
		ev_dio(EV_DATA_IO, ip->i_no_addr, 0, 0, error, "read");
	free(blocks);
	return error;
}

/* An uptodate buffer of the block, which is file block @lblock. */
static int cached_block(struct gfs2_inode *ip, uint64_t lblock, uint64_t pblock, uint64_t ahead,
			struct gfs2_bh **out)
{
	struct gfs2_bh *bh = buf_find(ip->i_sbd->sd_bufs, pblock);
	int error;

	if (bh && buf_test(bh, B_UPTODATE)) {
		*out = bh;
		return 0;
	}
	buf_put(bh);
	error = read_into_mapping(ip, lblock, max_t(uint64_t, ahead, lblock + 1));
	return error ? error : buf_read(&ip->i_data, pblock, out);
}

int64_t gfs2_file_read_cached(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size,
			      uint32_t *skip)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	uint64_t at = pos, end, ahead;
	bool told = false;

	gfs2_assert_held(ip->i_gl, false);
	if (gfs2_is_stuffed(ip) || gfs2_is_jdata(ip) || pos >= ip->i_size || !size)
		return gfs2_file_read(ip, buf, pos, size, skip);
	*skip = 0;
	size = (uint32_t)min_t(uint64_t, size, ip->i_size - pos);
	end = pos + size;
	ahead = ((read_ahead_end(ip, pos, size) - 1) >> sdp->sd_bsize_shift) + 1;
	while (at < end) {
		uint64_t lblock = at >> sdp->sd_bsize_shift;
		uint32_t off = at & (sdp->sd_bsize - 1);
		uint32_t len = (uint32_t)min_t(uint64_t, sdp->sd_bsize - off, end - at);
		char *to = (char *)buf + (at - pos);
		struct gfs2_bh *bh;
		struct extent e;
		int error = gfs2_map_extent(ip, lblock, 1, &e);

		if (error)
			return error;
		/* Once for each run of blocks. */
		if (at == pos || told != !e.pblock)
			ev_dio(EV_MAP, ip->i_no_addr, at, len, 0, e.pblock ? "mapped" : "hole");
		told = !e.pblock;
		if (e.pblock) {
			error = cached_block(ip, lblock, e.pblock, ahead, &bh);
			if (error)
				return error;
			memcpy(to, bh->b_data + off, len);
			buf_put(bh);
		} else {
			memset(to, 0, len);
		}
		at += len;
	}
	return size;
}

int gfs2_data_dirty(struct gfs2_inode *ip, struct gfs2_bh *bh)
{
	if (buf_mark_dirty(&ip->i_data, bh))
		return 0;
	return gfs2_consist(ip->i_sbd, bh->b_blocknr, "the block is used twice");
}

int gfs2_file_data_sync(struct gfs2_inode *ip)
{
	bool told = gfs2_event_data() && mapping_dirty(&ip->i_data);
	int error = mapping_sync(&ip->i_data);

	if (told)
		ev_dio(EV_DATA_IO, ip->i_no_addr, 0, 0, error, "write");
	return error;
}

void gfs2_file_write_back(struct gfs2_inode *ip)
{
	bool told = gfs2_event_data() && mapping_dirty(&ip->i_data);

	mapping_write(&ip->i_data);
	if (told)
		ev_dio(EV_DATA_IO, ip->i_no_addr, 0, 0, 0, "write");
}

int gfs2_file_flush_inval(struct gfs2_inode *ip)
{
	int error;

	if (!atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed) || SEEDED_BUG("dio-no-flush"))
		return 0;
	error = gfs2_file_data_sync(ip);
	mapping_invalidate(&ip->i_data);
	return error;
}

static int file_sync(struct gfs2_inode *ip, bool datasync)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_log *log = sdp->sd_log;
	uint64_t seq;
	bool flushed;
	int error, error2;

	error = gfs2_file_data_sync(ip);
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
		/* Metadata on their way home may be lost with it, of which nobody would be told: only the log has them, as long as its tail stays. */
		if (io_flush_error(sdp->sd_io))
			gfs2_withdraw(sdp, "the device has lost what it had been given: %s", strerror(-io_flush_error(sdp->sd_io)));
		if (!error)
			error = error2;
	}
	return error;
}

int gfs2_file_sync_blocks(struct gfs2_inode *ip)
{
	if (gfs2_withdrawn(ip->i_sbd))
		return -EIO;
	return gfs2_log_flush_seq(ip->i_sbd->sd_log, atomic_load_explicit(&ip->i_datasync_seq, memory_order_acquire),
				  GFS2_LOG_HEAD_FLUSH_NORMAL);
}

int gfs2_file_sync(struct gfs2_inode *ip, bool datasync)
{
	int error;

	if (!ip->i_sbd->sd_log)
		return 0;
	if (gfs2_withdrawn(ip->i_sbd))
		return -EIO;
	gfs2_glock_use(ip->i_gl);
	error = file_sync(ip, datasync);
	gfs2_glock_unuse(ip->i_gl);
	return error;
}

/* Of the whole mount.  Data that could not be written, now or since the last time, are an error: once, as with syncfs(2). */
static int sync_fs(struct gfs2_sbd *sdp)
{
	uint64_t errors;
	int error;

	if (!sdp->sd_log)
		return 0;
	if (gfs2_withdrawn(sdp))
		return -EIO;
	gfs2_pending_mtime_publish_all(sdp);
	error = gfs2_log_sync(sdp->sd_log);
	errors = buf_cache_write_errors(sdp->sd_bufs);
	if (atomic_exchange_explicit(&sdp->sd_errors_told, errors, memory_order_relaxed) != errors && !error)
		error = -EIO;
	return error;
}

int gfs2_fsync(struct gfs2_inode *ip, bool datasync)
{
	int error, error2;

	if (ip->i_no_addr == ip->i_sbd->sd_root_addr)
		return sync_fs(ip->i_sbd);
	error = datasync ? 0 : gfs2_pending_mtime_publish(ip);
	error2 = gfs2_file_sync(ip, datasync);
	return error ? error : error2;
}
