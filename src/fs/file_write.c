/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered writes (kernel: file.c:gfs2_file_buffered_write, bmap.c:gfs2_iomap_begin_write,
 * gfs2_iomap_end).
 *
 * A write is cut into chunks, each with at most one transaction: new blocks, size and times
 * together.  The data of ordinary files go into dirty buffers, and the file onto the list of
 * ordered data: before the transaction that makes them reachable commits they are on the device,
 * and data that were only overwritten get there within the commit interval (sync(2) does not
 * reach a FUSE daemon).  Data of journaled files are logged themselves.
 *
 * Guarantees
 *  1. What was never written reads as zero: new blocks are filled up with zeros, and what a crash
 *     or another program left behind EOF in the last block is zeroed before the file grows over it.
 *  2. A block is only read from the device if some of its old contents stay.
 *  3. Nobody is left with a size that includes blocks that could not be allocated.
 *  4. Size, times and mode change with the transaction that logs them, and not if that fails.
 *  5. A block that has become the file's is on the device with its new contents before that is committed, whatever goes wrong later in the
 *     transaction; what has been written before an error is a short write.
 *  6. The amount of dirty data is bounded: a writer that goes beyond its share writes back first.
 *
 * Needs from callers: EX on the inode, no transaction.
 */
#include "fs/file.h"
#include "util/seeded.h"
#include "debug/event.h"
#include "util/util.h"

#define CHUNK_BYTES (4u << 20)

struct write_op {
	struct gfs2_inode *ip;
	const char *src;	/* of @pos */
	uint64_t pos, end;	/* bytes; the chunk */
	uint64_t old_size;
	bool jdata, kill_priv;
	bool changed;		/* suid goes or a pending time is folded in: the dinode must be logged */

	/* the plan */
	uint64_t holes;		/* blocks to allocate */
	uint64_t hole_first, hole_end;
	struct gfs2_bh *pre[2];	/* buffers read ahead of the transaction, kept until its end */
};

static uint64_t op_first(const struct write_op *op)
{
	return op->pos >> op->ip->i_sbd->sd_bsize_shift;
}

static uint64_t op_end(const struct write_op *op)
{
	return ((op->end - 1) >> op->ip->i_sbd->sd_bsize_shift) + 1;
}

static struct gfs2_mapping *op_mapping(const struct write_op *op)
{
	/* Journaled data are pinned and written like metadata: they live with the glock's. */
	return op->jdata ? &op->ip->i_gl->gl_mapping : &op->ip->i_data;
}

/* --- the dinode --- */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Does the dinode need no transaction?  Not if its size and times stay as they are: clocks tick every few milliseconds only. */
static bool dinode_current(const struct write_op *op)
{
	struct gfs2_inode *ip = op->ip;
	struct timespec now = current_time();

	return !op->changed && op->end <= ip->i_size && same_time(&ip->i_mtime, &now) &&
	       same_time(&ip->i_ctime, &now);
}

/* In the transaction, with the dinode at hand (write_chunk()): nothing of this is undone. */
static void touch(struct write_op *op, uint64_t end)
{
	struct gfs2_inode *ip = op->ip;

	gfs2_pending_mtime_fold(ip);
	if (op->kill_priv)
		gfs2_kill_priv(ip);
	if (end > ip->i_size)
		ip->i_size = end;
	ip->i_mtime = ip->i_ctime = current_time();
	op->changed = false;
}

/* The same, and logged. */
static int update_dinode(struct write_op *op, uint64_t end)
{
	struct gfs2_inode *ip = op->ip;
	bool only_times = !op->holes && !op->jdata && end <= ip->i_size;

	touch(op, end);
	return only_times ? gfs2_dinode_log_times(ip) : gfs2_dinode_log(ip);
}

/* --- stuffed --- */

static int write_stuffed(struct write_op *op)
{
	struct gfs2_inode *ip = op->ip;
	struct gfs2_log *log = ip->i_sbd->sd_log;
	struct gfs2_bh *bh;
	char *payload;
	int error = gfs2_meta_inode_buffer(ip, &bh);

	if (error)
		return error;
	error = gfs2_trans_begin(log, 1, 0);
	if (error)
		goto out;
	gfs2_trans_add_meta(log, ip->i_gl, bh);
	payload = bh->b_data + sizeof(struct gfs2_dinode);
	if (op->pos > ip->i_size)
		memset(payload + ip->i_size, 0, op->pos - ip->i_size);
	memcpy(payload + op->pos, op->src, op->end - op->pos);
	touch(op, op->end);
	error = gfs2_dinode_log(ip);
	gfs2_trans_end(log);
out:
	buf_put(bh);
	return error;
}

/* Stuffed data that will not fit any more move to a block; without any, none is needed. */
int gfs2_unstuff_trans(struct gfs2_inode *ip)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	struct gfs2_alloc ap = { .target = 1 };
	unsigned blocks = 1;
	int error = ip->i_size ? gfs2_inplace_reserve(ip, &ap) : 0;

	if (error)
		return error;
	if (ap.rgd)
		blocks = gfs2_alloc_trans_blocks(&ap, 0, 1) + gfs2_is_jdata(ip);
	error = gfs2_trans_begin(log, blocks, 0);
	if (!error) {
		error = gfs2_unstuff(ip, &ap);
		gfs2_trans_end(log);
	}
	gfs2_inplace_release(ip, &ap);
	return error;
}

/* --- copying into buffers --- */

/*
 * The buffer of file block @lblock = device block @pblock, ready to be written to.  @fresh: what
 * the device has there must not be seen (just allocated, or wholly behind the old EOF).
 */
static int get_buffer(struct write_op *op, uint64_t lblock, uint64_t pblock, bool fresh,
		      struct gfs2_bh **out)
{
	const struct gfs2_sbd *sdp = op->ip->i_sbd;
	uint64_t start = lblock << sdp->sd_bsize_shift, stop = start + sdp->sd_bsize;
	bool whole = op->pos <= start && (op->end >= stop || op->end >= op->old_size);

	if (fresh || whole) {
		*out = buf_get(op_mapping(op), pblock);
		return 0;
	}
	return buf_read(op_mapping(op), pblock, out);
}

static int copy_block(struct write_op *op, uint64_t lblock, uint64_t pblock, bool is_new)
{
	const struct gfs2_sbd *sdp = op->ip->i_sbd;
	uint64_t start = lblock << sdp->sd_bsize_shift;
	uint32_t from = op->pos > start ? (uint32_t)(op->pos - start) : 0;
	uint32_t to = min_t(uint64_t, op->end - start, sdp->sd_bsize);
	bool fresh = is_new || start >= op->old_size;
	uint32_t keep = fresh ? 0 : min_t(uint64_t, op->old_size - start, sdp->sd_bsize);
	struct gfs2_bh *bh;
	int error = get_buffer(op, lblock, pblock, fresh, &bh);

	if (error)
		return error;
	error = gfs2_check_owner(op->ip->i_sbd, bh, op_mapping(op));
	if (error)
		goto out;
	if (op->jdata)
		gfs2_trans_add_jdata(sdp->sd_log, op->ip->i_gl, bh);
	/* Bytes [keep, bsize) are nobody's: not written yet, or behind the old EOF. */
	if (keep < from && !SEEDED_BUG("write-stale-head"))
		memset(bh->b_data + keep, 0, from - keep);
	memcpy(bh->b_data + from, op->src + (start + from - op->pos), to - from);
	if (max_t(uint32_t, keep, to) < sdp->sd_bsize)
		memset(bh->b_data + max_t(uint32_t, keep, to), 0,
		       sdp->sd_bsize - max_t(uint32_t, keep, to));
	buf_set_uptodate(bh);
	if (!op->jdata) {
		/* The last block of a file that grows: the next append needs it again. */
		if (to < sdp->sd_bsize && start + to >= op->old_size)
			buf_set_state(bh, B_PARTIAL);
		else
			buf_clear_state(bh, B_PARTIAL);
		error = gfs2_data_dirty(op->ip, bh);
	}
out:
	buf_put(bh);
	return error;
}

/* *@lblock: the next one. */
static int copy_run(struct write_op *op, uint64_t *lblock, uint64_t pblock, uint64_t len,
		    bool is_new)
{
	int error = 0;

	for (uint64_t i = 0; i < len && !error; i++) {
		error = copy_block(op, *lblock, pblock + i, is_new);
		*lblock += !error;
	}
	return error;
}

/* --- chunks --- */

/* How much of the chunk has to be allocated? */
static int plan(struct write_op *op)
{
	uint64_t lblock = op_first(op), end = op_end(op);

	op->holes = 0;
	if (gfs2_is_stuffed(op->ip)) {
		op->hole_first = lblock;
		op->hole_end = end;
		op->holes = end - lblock;
		return 0;
	}
	while (lblock < end) {
		struct extent e;
		int error = gfs2_map_extent(op->ip, lblock, end - lblock, &e);

		if (error)
			return error;
		lblock += e.len;
		if (e.pblock)
			continue;
		if (!op->holes)
			op->hole_first = e.lblock;
		op->hole_end = lblock;
		op->holes += e.len;
	}
	return 0;
}

/* Cut the chunk down to the blocks up to file block @lblock (not included). */
static void shorten(struct write_op *op, uint64_t lblock)
{
	op->end = min_t(uint64_t, op->end, lblock << op->ip->i_sbd->sd_bsize_shift);
}

static unsigned trans_blocks(const struct write_op *op, const struct gfs2_alloc *ap, unsigned meta)
{
	unsigned data = (unsigned)op->holes;

	return gfs2_alloc_trans_blocks(ap, meta, meta + data) +
	       (op->jdata ? (unsigned)(op_end(op) - op_first(op)) : 0);
}

/*
 * Read the partly written blocks at both ends before the transaction, so that nobody waits in it
 * for the device.
 */
static int preread(struct write_op *op)
{
	uint64_t ends[2] = { op_first(op), op_end(op) - 1 };

	for (int i = 0; i < 2; i++) {
		uint64_t start = ends[i] << op->ip->i_sbd->sd_bsize_shift;
		struct extent e;
		int error;

		if (gfs2_is_stuffed(op->ip) || start >= op->old_size || (i && ends[0] == ends[1]))
			continue;
		error = gfs2_map_extent(op->ip, ends[i], 1, &e);
		if (!error && e.pblock)
			error = get_buffer(op, ends[i], e.pblock, false, &op->pre[i]);
		if (error)
			return error;
	}
	return 0;
}

static void preread_end(struct write_op *op)
{
	buf_put(op->pre[0]);
	buf_put(op->pre[1]);
	op->pre[0] = op->pre[1] = NULL;
}

/*
 * The chunk cannot go on at file block @lblock, because of @error.  What has been copied is the file's, to be logged as if no more had been asked for;
 * the error will be there again for who asks for the rest.  After a withdraw nothing is logged any more.
 */
static int end_early(struct write_op *op, uint64_t lblock, int error)
{
	if (lblock == op_first(op) || gfs2_withdrawn(op->ip->i_sbd))
		return error;
	shorten(op, lblock);
	return 0;
}

static int copy_mapped(struct write_op *op)
{
	uint64_t lblock = op_first(op), end = op_end(op);
	int error = 0;

	while (!error && lblock < end) {
		struct extent e;

		error = gfs2_map_extent(op->ip, lblock, end - lblock, &e);
		if (!error)
			error = copy_run(op, &lblock, e.pblock, e.len, false);
	}
	return error ? end_early(op, lblock, error) : 0;
}

/*
 * No allocation: the data, and a transaction if the dinode changes or the data are journaled
 * (then around both).
 */
static int write_mapped(struct write_op *op)
{
	struct gfs2_inode *ip = op->ip;
	struct gfs2_log *log = ip->i_sbd->sd_log;
	unsigned jblocks = op->jdata ? (unsigned)(op_end(op) - op_first(op)) : 0;
	int error = op->jdata ? preread(op) : copy_mapped(op);

	if (!op->jdata)
		gfs2_ordered_add(log, &ip->i_data);
	if (error || (!op->jdata && dinode_current(op)))
		goto out;
	error = gfs2_trans_begin(log, 1 + jblocks, 0);
	if (error)
		goto out;
	if (op->jdata)
		error = copy_mapped(op);
	else
		gfs2_ordered_add(log, &ip->i_data);
	if (!error)
		error = update_dinode(op, op->end);
	gfs2_trans_end(log);
out:
	preread_end(op);
	return error;
}

/*
 * In the transaction: allocate and copy; the chunk ends where the reservation does, or where the tree cannot be read.  What was linked before
 * is committed all the same.  So nothing may be linked without its data: copying to new blocks reads nothing and waits for memory, so it
 * fails only if a block turns out to be somebody else's, and then nothing is committed.
 */
static int fill_chunk(struct write_op *op, struct gfs2_alloc *ap, uint64_t avail)
{
	struct gfs2_inode *ip = op->ip;
	uint64_t lblock = op_first(op), end = op_end(op);
	int error = 0;

	while (!error && lblock < end) {
		struct extent e;
		bool is_new;

		error = gfs2_map_extent(ip, lblock, end - lblock, &e);
		if (error)
			break;
		is_new = !e.pblock;
		if (is_new) {
			unsigned n = (unsigned)min_t(uint64_t, e.len, avail);

			if (!n)
				break;
			error = gfs2_alloc_extent(ip, ap, lblock, &e.pblock, &n);
			if (error)
				break;
			e.len = n;
			avail -= n;
		}
		error = copy_run(op, &lblock, e.pblock, e.len, is_new);
		gfs2_assert_debug(!error || !is_new || gfs2_withdrawn(ip->i_sbd));
	}
	if (error)
		return end_early(op, lblock, error);
	shorten(op, lblock);
	return 0;
}

/* @meta of the reserved blocks are for metadata, @worst blocks of it may be logged. */
static int alloc_trans(struct write_op *op, struct gfs2_alloc *ap, unsigned worst, unsigned meta)
{
	struct gfs2_inode *ip = op->ip;
	struct gfs2_log *log = ip->i_sbd->sd_log;
	int error = preread(op);

	if (!error)
		error = gfs2_trans_begin(log, trans_blocks(op, ap, worst), 0);
	if (error)
		return error;
	/* Empty: becomes a tree without a block. */
	if (gfs2_is_stuffed(ip))
		error = gfs2_unstuff(ip, NULL);
	if (!error)
		error = fill_chunk(op, ap, min_t(uint64_t, op->holes, ap->allowed - meta));
	/* Whatever the error: what has become the file's is committed, and must have its data then. */
	if (!op->jdata)
		gfs2_ordered_add(log, &ip->i_data);
	if (!error)
		error = update_dinode(op, op->end);
	gfs2_trans_end(log);
	return error;
}

/*
 * The chunk was too much for the log (@error 0) or the volume: how much of it to try next?
 * False: no less makes sense.
 */
static bool try_less(struct write_op *op, int error)
{
	uint64_t first = op_first(op), end = op_end(op);

	if (!error)
		shorten(op, first + (end - first) / 2);
	else if (end > op->hole_first + 1)
		/* fewer indirect blocks: perhaps one block can still be had */
		shorten(op, op->hole_first + 1);
	else if (op->hole_first > first)
		shorten(op, op->hole_first);
	else
		return false;
	return true;
}

/*
 * Blocks for the chunk: @ap reserved, *@meta of them for metadata.  The last hole that fits is found by
 * what it takes exactly, not at worst.
 */
static int reserve(struct write_op *op, struct gfs2_alloc *ap, unsigned *meta)
{
	struct gfs2_inode *ip = op->ip;
	unsigned exact;
	int error;

	*ap = (struct gfs2_alloc){ .target = *meta + (uint32_t)op->holes, .min_target = *meta + 1 };
	error = gfs2_inplace_reserve(ip, ap);
	if (error != -ENOSPC || op->holes != 1)
		return error;
	error = gfs2_alloc_meta_missing(ip, op->hole_first, &exact);
	if (error || exact >= *meta)
		return error ? error : -ENOSPC;
	*meta = exact;
	*ap = (struct gfs2_alloc){ .target = exact + 1 };
	return gfs2_inplace_reserve(ip, ap);
}

static int write_alloc(struct write_op *op)
{
	struct gfs2_inode *ip = op->ip;
	unsigned limit = gfs2_log_max_trans(ip->i_sbd->sd_log) / 2;
	int error;

	do {
		unsigned worst = gfs2_alloc_meta_blocks(ip, op->hole_first,
							op->hole_end - op->hole_first);
		unsigned meta = worst;
		struct gfs2_alloc ap;

		error = reserve(op, &ap, &meta);
		if (error && error != -ENOSPC)
			return error;
		if (!error) {
			/* Indirect blocks that are there already are logged, too. */
			bool fits = trans_blocks(op, &ap, worst) <= limit ||
				    op_end(op) - op_first(op) == 1;

			if (fits)
				error = alloc_trans(op, &ap, worst, meta);
			preread_end(op);
			gfs2_inplace_release(ip, &ap);
			if (fits)
				return error;
		}
		if (!try_less(op, error))
			return error;
		error = plan(op);
	} while (!error && op->holes);
	return error ? error : write_mapped(op);
}

static int write_chunk_held(struct write_op *op)
{
	struct gfs2_inode *ip = op->ip;
	uint32_t bsize = ip->i_sbd->sd_bsize;
	uint64_t max = CHUNK_BYTES;
	int error;

	op->old_size = ip->i_size;
	if (gfs2_is_stuffed(ip)) {
		if (op->end <= gfs2_max_stuffed_size(ip))
			return write_stuffed(op);
		if (ip->i_size) {
			error = gfs2_unstuff_trans(ip);
			if (error)
				return error;
		}
	}
	if (op->jdata)
		max = min_t(uint64_t, max,
			    (uint64_t)(gfs2_log_max_trans(ip->i_sbd->sd_log) / 4) * bsize);
	/* Chunks end with blocks, except the last one. */
	if (op->end - op->pos > max)
		op->end = max_t(uint64_t, ALIGN_DOWN(op->pos + max, (uint64_t)bsize),
				ALIGN_DOWN(op->pos, (uint64_t)bsize) + bsize);
	error = plan(op);
	if (error)
		return error;
	return op->holes ? write_alloc(op) : write_mapped(op);
}

/*
 * One chunk from op->pos; op->end says how far it came.  The dinode's buffer is kept all the time: if it cannot be read, nothing has been
 * done yet, and in the transactions gfs2_dinode_log() need not read.
 */
static int write_chunk(struct write_op *op)
{
	struct gfs2_bh *dibh;
	int error = gfs2_meta_inode_buffer(op->ip, &dibh);

	if (error)
		return error;
	error = write_chunk_held(op);
	buf_put(dibh);
	return error;
}

static void throttle(struct gfs2_inode *ip)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	uint64_t dirty = buf_cache_dirty(sdp->sd_bufs);
	uint64_t limit = buf_cache_limit(sdp->sd_bufs);

	/* Begin early in the background; a writer who is faster than that does its own work. */
	if (dirty > limit / 4)
		gfs2_log_wake(sdp->sd_log);
	/* An error sticks to the mapping and is told by fsync. */
	if (dirty > limit / 2)
		mapping_write(&ip->i_data);
}

int64_t gfs2_file_write(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t size,
			bool kill_priv)
{
	struct write_op op = { .ip = ip, .jdata = gfs2_is_jdata(ip), .kill_priv = kill_priv };
	uint64_t end;
	uint32_t done = 0;
	int error = 0;

	gfs2_assert_held(ip->i_gl, true);
	if (!size)
		return 0;
	if (pos >= INT64_MAX)
		return -EFBIG;
	if (gfs2_withdrawn(ip->i_sbd))
		return -EIO;
	end = min_t(uint64_t, pos + size, INT64_MAX);
	if (pos > ip->i_size && !gfs2_is_stuffed(ip))
		error = gfs2_zero_tail(ip, ip->i_size);
	op.changed = gfs2_pending_mtime_any(ip) || (kill_priv && gfs2_has_privs(ip, true, false));
	while (!error && pos + done < end) {
		op.src = (const char *)buf + done;
		op.pos = pos + done;
		op.end = end;
		error = write_chunk(&op);
		ev_dio(EV_MAP, ip->i_no_addr, op.pos, op.end - op.pos, error,
		       gfs2_is_stuffed(ip) ? "inline" : "mapped");
		if (!error)
			done = (uint32_t)(op.end - pos);
	}
	throttle(ip);
	return error && !done ? error : (int64_t)done;
}

int gfs2_file_write_all(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t size)
{
	for (uint32_t done = 0; done < size;) {
		int64_t ret = gfs2_file_write(ip, (const char *)buf + done, pos + done, size - done, false);

		if (ret <= 0)
			return ret ? (int)ret : -EIO;
		done += (uint32_t)ret;
	}
	return 0;
}
