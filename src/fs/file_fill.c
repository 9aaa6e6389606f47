/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing whole blocks of a file past the buffer cache, holes or not, several writes at once.
 *
 * The data go from the callers' memory to the device, into blocks that the file has and into ones that the allocator has
 * promised, all in parallel; then a transaction makes the promised ones the file's.  Nothing is copied, no
 * buffer is made; the log flush that makes the transaction durable covers the data.
 *
 * Guarantees
 *  1. When the log has committed the transaction of batch *@seq, every byte is durable: all data have been written before
 *     that transaction was closed, and its commit flushes the device.
 *  2. After an error a hole is a hole or holds the new data; nobody sees what a block held before.
 *  3. The size grows only over what has been written, and after an error the file is as long as it was: who appends tries again at
 *     its end, and must not have there what he was told had failed.
 *
 * Needs from callers: EX on the inode, no transaction.
 */
#include "fs/file.h"
#include "util/util.h"

#define PIECE_BYTES (8u << 20)	/* in one transaction */
#define REQS_AT_ONCE 256	/* sent at once */

/* Where data go; in blocks that the file has, or (@pblock 0) in a hole. */
struct target {
	const char *src;
	uint64_t lblock, len, pblock;
};

struct fill_op {
	struct gfs2_filler filler;
	struct gfs2_inode *ip;
	/* in the order of the file; mapped ones are sent with the first run of a hole, or alone */
	struct target *mapped, *holes;
	unsigned nr_mapped, cap_mapped, nr_holes, cap_holes;
	struct gfs2_hole *left;	/* what has to be allocated yet: left[hole] and on, its first block moves */
	unsigned hole;
	uint64_t size;		/* of the file with everything in place */
};

static void add_target(struct target **to, unsigned *nr, unsigned *cap, struct target t)
{
	if (*nr == *cap) {
		*cap = *cap ? 2 * *cap : 16;
		*to = xrealloc(*to, *cap * sizeof(t));
	}
	(*to)[(*nr)++] = t;
}

bool gfs2_file_may_fill(const struct gfs2_sbd *sdp, uint64_t pos, uint32_t len)
{
	return len && !((pos | len) & (sdp->sd_bsize - 1)) && pos + len <= INT64_MAX;
}

/* Sort the blocks of one write into mapped ones and holes; -ENOTBLK: not for us. */
static int plan_write(struct fill_op *op, const struct gfs2_fill *f)
{
	struct gfs2_inode *ip = op->ip;
	unsigned shift = ip->i_sbd->sd_bsize_shift;
	uint64_t first = f->pos >> shift, lblock = first, end = (f->pos + f->len) >> shift;
	uint64_t size_blocks = (ip->i_size + ip->i_sbd->sd_bsize - 1) >> shift;

	/* The bytes between the old end and the write are the buffered path's to look after. */
	if (f->pos > op->size)
		return -ENOTBLK;
	while (lblock < end) {
		struct extent e;
		struct target t;
		int error = gfs2_map_extent(ip, lblock, end - lblock, &e);

		if (error)
			return error;
		t = (struct target){ f->buf + ((lblock - first) << shift), lblock, e.len, e.pblock };
		/* Behind the end all is zeros: an error after writing there would leave something else. */
		if (e.pblock && lblock + e.len > size_blocks)
			return -ENOTBLK;
		if (e.pblock)
			add_target(&op->mapped, &op->nr_mapped, &op->cap_mapped, t);
		else
			add_target(&op->holes, &op->nr_holes, &op->cap_holes, t);
		lblock += e.len;
	}
	op->size = max_t(uint64_t, op->size, f->pos + f->len);
	return 0;
}

/* --- to the device --- */

struct sender {
	struct gfs2_sbd *sdp;
	struct io_req *reqs;
	unsigned nr;
	int error;
};

static void send_flush(struct sender *s)
{
	if (s->nr && !s->error)
		s->error = io_run(s->sdp->sd_io, s->reqs, s->nr);
	s->nr = 0;
}

static void send_one(struct sender *s, const char *src, uint64_t pblock, uint64_t len)
{
	unsigned shift = s->sdp->sd_bsize_shift;

	if (s->nr == REQS_AT_ONCE)
		send_flush(s);
	io_req_init(&s->reqs[s->nr], IO_WRITE, IO_DATA, (char *)(uintptr_t)src,
		    (uint32_t)(len << shift), pblock << shift);
	s->reqs[s->nr++].mapped = true;
}

/* What is mapped, if that has not been sent yet, and @n blocks of holes to the run [bn, +n). */
static int send_data(struct fill_op *op, uint64_t bn, unsigned n)
{
	unsigned shift = op->ip->i_sbd->sd_bsize_shift;
	unsigned max = min_t(unsigned, op->nr_mapped + op->nr_holes - op->hole, REQS_AT_ONCE);
	struct sender s = { .sdp = op->ip->i_sbd, .reqs = xmalloc(max * sizeof(struct io_req)) };

	for (unsigned i = 0; i < op->nr_mapped; i++)
		send_one(&s, op->mapped[i].src, op->mapped[i].pblock, op->mapped[i].len);
	for (unsigned i = op->hole; n; i++) {
		const struct gfs2_hole *h = &op->left[i];
		unsigned len = (unsigned)min_t(uint64_t, n, h->len);

		send_one(&s, op->holes[i].src + ((h->lblock - op->holes[i].lblock) << shift), bn, len);
		bn += len;
		n -= len;
	}
	send_flush(&s);
	free(s.reqs);
	if (!s.error)
		op->nr_mapped = 0;
	return s.error;
}

static int fill_run(struct gfs2_filler *filler, uint64_t bn, unsigned n)
{
	return send_data(container_of(filler, struct fill_op, filler), bn, n);
}

/* --- in the transaction --- */

static int log_dinode(struct fill_op *op, uint64_t size, bool only_times)
{
	struct gfs2_inode *ip = op->ip;

	gfs2_pending_mtime_fold(ip);
	if (size > ip->i_size)
		ip->i_size = size;
	ip->i_mtime = ip->i_ctime = current_time();
	return only_times ? gfs2_dinode_log_times(ip) : gfs2_dinode_log(ip);
}

static int run_linked(struct gfs2_filler *filler, unsigned n)
{
	struct fill_op *op = container_of(filler, struct fill_op, filler);
	uint64_t end = 0;

	while (n) {
		struct gfs2_hole *h = &op->left[op->hole];
		unsigned len = (unsigned)min_t(uint64_t, n, h->len);

		end = h->lblock + len;
		h->lblock += len;
		h->len -= len;
		n -= len;
		if (!h->len)
			op->hole++;
	}
	end <<= op->ip->i_sbd->sd_bsize_shift;
	return log_dinode(op, op->hole == op->nr_holes ? op->size : min_t(uint64_t, end, op->size), false);
}

/* No hole: somebody else has filled them meanwhile. */
static int write_mapped_only(struct fill_op *op)
{
	struct gfs2_bh *dibh;
	int error = send_data(op, 0, 0);

	if (!error)
		error = gfs2_dinode_trans_begin(op->ip, 1, &dibh);
	if (error)
		return error;
	error = log_dinode(op, op->size, op->size <= op->ip->i_size);
	gfs2_dinode_trans_end(op->ip, dibh);
	return error;
}

static int fill_holes(struct fill_op *op)
{
	uint64_t max = PIECE_BYTES >> op->ip->i_sbd->sd_bsize_shift, done;
	int error = 0;

	op->left = xmalloc(op->nr_holes * sizeof(*op->left));
	for (unsigned i = 0; i < op->nr_holes; i++)
		op->left[i] = (struct gfs2_hole){ op->holes[i].lblock, op->holes[i].len };
	while (!error && op->hole < op->nr_holes)
		error = gfs2_alloc_filled(op->ip, op->left + op->hole, op->nr_holes - op->hole, max,
					  &op->filler, &done);
	free(op->left);
	return error;
}

/* Some pieces were written and linked before the one that failed. */
static void cut_back(struct gfs2_inode *ip, uint64_t size)
{
	if (ip->i_size > size && !gfs2_withdrawn(ip->i_sbd) && gfs2_truncate(ip, size))
		fs_err("inode %llu: what a failed write has appended cannot be taken back", (unsigned long long)ip->i_no_addr);
}

int gfs2_file_fill(struct gfs2_inode *ip, const struct gfs2_fill *fills, unsigned nr, uint64_t *seq)
{
	uint64_t size = ip->i_size;
	struct fill_op op = { .filler = { fill_run, run_linked }, .ip = ip };
	int error = 0;

	gfs2_assert_held(ip->i_gl, true);
	if (gfs2_withdrawn(ip->i_sbd))
		return -EIO;
	if (gfs2_is_stuffed(ip) || gfs2_is_jdata(ip))
		return -ENOTBLK;
	op.size = size;
	for (unsigned i = 0; i < nr && !error; i++)
		error = plan_write(&op, &fills[i]);
	/* Buffers of these blocks would be written over the data, or be read instead of them. */
	if (!error)
		error = gfs2_file_flush_inval(ip);
	if (!error)
		error = op.nr_holes ? fill_holes(&op) : write_mapped_only(&op);
	if (error)
		cut_back(ip, size);
	free(op.mapped);
	free(op.holes);
	/* Under EX: nobody else can have logged the inode since. */
	*seq = atomic_load_explicit(&ip->i_log_seq, memory_order_relaxed);
	return error;
}
