/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fast path: READ and WRITE requests that need nothing but the device, from the receive buffer,
 * on the thread that read them, without libfuse.  Never blocks; what it cannot take goes the other way.
 */
#include <fcntl.h>
#include "fuse/ops.h"
#include "fuse/server.h"
#include "util/ctx.h"
#include "util/util.h"

static void fast_ctx(const struct fuse_in_header *in)
{
	struct gfs2_ctx *c = current_ctx();

	c->req = in->unique;
	c->pid = (pid_t)in->pid;
	c->uid = in->uid;
	c->gid = in->gid;
}

static void fast_write_done(struct gfs2_dio *dio, int64_t ret)
{
	struct rx_buf *b = dio->priv;
	struct fuse_write_out *out = (void *)(b->mem + sizeof(struct fuse_out_header));

	if (ret < 0) {
		rx_reply(b, (int)ret, NULL, 0);
		return;
	}
	tell_written(dio->ip, dio->pos + (uint64_t)ret);
	*out = (struct fuse_write_out){ .size = (uint32_t)ret };
	rx_reply(b, 0, NULL, sizeof(*out));
}

static void fast_read_done(struct gfs2_dio *dio, int64_t ret)
{
	struct rx_buf *b = dio->priv;

	if (ret < 0)
		rx_reply(b, (int)ret, NULL, 0);
	else
		rx_reply(b, 0, dio->buf, (size_t)ret);
}

static void fast_dio_init(struct rx_buf *b, struct io_ring *ring, struct gfs2_inode *ip,
			  uint64_t pos, uint32_t len)
{
	struct gfs2_dio *dio = &b->dio;

	dio->ip = ip;
	dio->ring = ring;
	dio->buf = rx_payload(b);
	dio->buf_index = b->reader || b->unregistered || len > RX_REGISTERED_PAYLOAD ? -1 : b->index;
	dio->pos = pos;
	dio->len = len;
	dio->priv = b;
}

static bool fast_write(struct rx_buf *b, struct io_ring *ring)
{
	const struct fuse_in_header *in = (const void *)rx_request(b);
	const struct fuse_write_in *w = (const void *)(in + 1);
	struct gfs2_inode *ip;
	struct gfs2_file *f = (struct gfs2_file *)(uintptr_t)w->fh;

	handle_in(f);
	ip = f->f_inode;
	handle_out(f);
	if (b->size != RX_HEADROOM + w->size || !(w->flags & O_DIRECT) ||
	    !write_past_cache(w->write_flags) || !w->size)
		return false;
	if (gfs2_dio_check_align(ip->i_sbd, w->offset, w->size) || w->size > io_quick_max(ip->i_sbd->sd_io))
		return false;
	/* Where the end is only the inode's lock tells. */
	if (w->flags & O_APPEND && ip->i_sbd->sd_lm->lm_has_peers)
		return false;
	fast_dio_init(b, ring, ip, w->offset, w->size);
	b->dio.write = true;
	b->dio.dsync = w->flags & O_DSYNC; /* O_SYNC contains it */
	b->dio.kill_suidgid = w->write_flags & FUSE_WRITE_KILL_SUIDGID;
	b->dio.done = fast_write_done;
	return gfs2_dio_fast(&b->dio);
}

/* The reply's data are read straight into the request's own buffer. */
static bool fast_read(struct rx_buf *b, struct io_ring *ring)
{
	const struct fuse_in_header *in = (const void *)rx_request(b);
	const struct fuse_read_in *r = (const void *)(in + 1);
	struct gfs2_inode *ip;
	bool uncached, fill, peers, runs = false;
	struct gfs2_file *f = (struct gfs2_file *)(uintptr_t)r->fh;

	handle_in(f);
	ip = f->f_inode;
	uncached = f->f_direct;
	if (!uncached && !(r->flags & O_DIRECT))
		runs = gfs2_stream_note(ip->i_sbd, &f->f_stream, r->offset, r->size);
	handle_out(f);
	/* That may block. */
	if (runs)
		return false;
	/* See fills_page(). */
	fill = !read_past_cache(r->read_flags);
	peers = ip->i_sbd->sd_lm->lm_has_peers;
	if (!fill && stores_come_first(b->s, ip))
		return false;
	/* A private mapping, which op_read() takes note of. */
	if (fill && uncached && !peers)
		return false;
	/* What the kernel does not cache is cached here, and that may block. */
	if (uncached && !fill && !(r->flags & O_DIRECT))
		return false;
	if (b->size < sizeof(*in) + sizeof(*r) || r->size > RX_MAX_WRITE || !r->size)
		return false;
	if (gfs2_dio_check_align(ip->i_sbd, r->offset, r->size) || r->size > io_quick_max(ip->i_sbd->sd_io))
		return false;
	fast_dio_init(b, ring, ip, r->offset, r->size);
	rx_buf_used(b, r->size);
	b->dio.write = false;
	b->dio.dsync = false;
	b->dio.done = fast_read_done;
	return r->flags & O_DIRECT && !fill ? gfs2_dio_fast(&b->dio) :
					      gfs2_dio_fast_read_cached(&b->dio, fill && peers);
}

bool fast_request(struct rx_buf *b, struct io_ring *ring)
{
	const struct fuse_in_header *in = (const void *)rx_request(b);

	if (in->opcode != FUSE_WRITE && in->opcode != FUSE_READ)
		return false;
	fast_ctx(in);
	return in->opcode == FUSE_WRITE ? fast_write(b, ring) : fast_read(b, ring);
}
