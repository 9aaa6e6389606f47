/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finishing direct writes that fell back; the contract is in rest.h.
 */
#include "dio/rest.h"

#include "debug/event.h"
#include "debug/stop.h"
#include "dio/dio.h"
#include "util/ctx.h"
#include "util/util.h"

#define TOGETHER_MAX 32		/* writes that one leader takes */

static int rest_mode(const struct gfs2_inode *ip)
{
	return atomic_load_explicit(&ip->i_sbd->sd_dio_rest, memory_order_relaxed);
}

/* An event of this request, on whosever thread. */
static void rest_event(const struct gfs2_inode *ip, const struct gfs2_rest *r, enum gfs2_event_type type,
		       int64_t rc, const char *reason)
{
	struct gfs2_ctx *ctx = current_ctx(), saved = *ctx;

	*ctx = r->ctx;
	ev_dio(type, ip->i_no_addr, r->fill.pos, r->fill.len, rc, reason);
	*ctx = saved;
}

/* EX is there: a breakpoint may hold it before anything is allocated and written. */
static void rest_stop(const struct gfs2_inode *ip, const struct gfs2_rest *r)
{
	struct gfs2_ctx *ctx = current_ctx(), saved = *ctx;
	struct stop_site site = {
		.point = STOP_DIO_BUFFERED, .gl_type = LM_TYPE_INODE, .gl_number = ip->i_no_addr, .from = -1,
		.to = -1, .off = r->fill.pos, .len = r->fill.len, .why = "write",
	};

	if (!stop_armed())
		return;
	site.req = r->ctx.req;
	site.pid = r->ctx.pid;
	*ctx = r->ctx;
	stop_here(&site);
	*ctx = saved;
}

/* Written, and to be made durable yet. */
static void rest_written(const struct gfs2_inode *ip, const struct gfs2_rest *r)
{
	rest_event(ip, r, EV_DIO_BUFFERED, r->error ? r->error : (int64_t)r->fill.len, r->why);
}

static int rest_nq(struct gfs2_inode *ip, struct gfs2_holder *gh)
{
	uint64_t since = now_ns();
	int error;

	gfs2_holder_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, gh, "dio_fall_back");
	error = gfs2_glock_nq(gh);
	hist_add(&ip->i_sbd->sd_dio.latency[DIO_T_LOCK], now_ns() - since);
	if (error)
		gfs2_holder_uninit(gh);
	return error;
}

/* EX held; what is written has still to be made durable. */
static int write_buffered(struct gfs2_inode *ip, const struct gfs2_fill *f)
{
	int64_t ret = gfs2_file_write(ip, f->buf, f->pos, f->len, false);

	if (ret < 0)
		return (int)ret;
	/* A short answer would become EIO for asynchronous callers. */
	return ret == f->len ? 0 : -ENOSPC;
}

static int rest_buffered(struct gfs2_inode *ip, struct gfs2_rest *r)
{
	struct gfs2_holder gh;
	int error = rest_nq(ip, &gh);

	if (error)
		return error;
	rest_stop(ip, r);
	r->eof[0] = ip->i_size;
	r->error = write_buffered(ip, &r->fill);
	r->eof[1] = ip->i_size;
	gfs2_glock_dq_uninit(&gh);
	rest_written(ip, r);
	return r->error ? r->error : gfs2_file_sync(ip, true);
}

/* --- together --- */

struct batch {
	struct gfs2_rest *of[TOGETHER_MAX];	/* ascending */
	unsigned nr;
	uint64_t seq;		/* of the log's batch that makes what was filled durable */
	bool buffered;		/* something lies in buffers */
};

static void batch_add(struct batch *b, struct gfs2_rest *r)
{
	unsigned i = b->nr++;

	for (; i && b->of[i - 1]->fill.pos > r->fill.pos; i--)
		b->of[i] = b->of[i - 1];
	b->of[i] = r;
}

static bool overlaps(const struct batch *b, const struct gfs2_rest *r)
{
	for (unsigned i = 0; i < b->nr; i++) {
		const struct gfs2_fill *f = &b->of[i]->fill;

		if (f->pos < r->fill.pos + r->fill.len && r->fill.pos < f->pos + f->len)
			return true;
	}
	return false;
}

/* Take @own and what waits behind it. */
static void batch_take(struct gfs2_inode *ip, struct gfs2_rest *own, struct batch *b)
{
	struct gfs2_rest *r, *next;

	b->nr = 0;
	b->seq = 0;
	b->buffered = false;
	rmutex_lock(&ip->i_lock);
	list_del_init(&own->list);
	batch_add(b, own);
	list_for_each_entry_safe(r, next, &ip->i_rest, list) {
		if (b->nr == TOGETHER_MAX)
			break;
		if (overlaps(b, r))
			continue;
		list_del_init(&r->list);
		batch_add(b, r);
	}
	rmutex_unlock(&ip->i_lock);
}

static void filled(const struct gfs2_inode *ip, const struct gfs2_rest *r)
{
	rest_event(ip, r, EV_MAP, r->error, "mapped");
	rest_event(ip, r, EV_DATA_IO, r->error, "write");
}

/* EX held. */
static void batch_write_one(struct gfs2_inode *ip, struct batch *b, struct gfs2_rest *r)
{
	uint64_t seq;

	r->error = gfs2_file_fill(ip, &r->fill, 1, &seq);
	if (r->error != -ENOTBLK) {
		b->seq = max_t(uint64_t, b->seq, seq);
		filled(ip, r);
		return;
	}
	r->error = write_buffered(ip, &r->fill);
	b->buffered = true;
}

/* EX held: what a write under DF looks at first (dio.c). */
static int admit(struct gfs2_inode *ip, struct gfs2_rest *r)
{
	int error;

	if (!r->unseen)
		return 0;
	if (ip->i_diskflags & GFS2_DIF_APPENDONLY && r->fill.pos < ip->i_size)
		return -EPERM;
	error = gfs2_remove_privs_locked(ip, r->kill_suidgid);
	r->killed = error > 0;
	return min_t(int, error, 0);
}

static void batch_write(struct gfs2_inode *ip, struct batch *b)
{
	struct gfs2_fill fills[TOGETHER_MAX];
	struct gfs2_rest *of[TOGETHER_MAX];
	unsigned nr = 0;

	for (unsigned i = 0; i < b->nr; i++) {
		struct gfs2_rest *r = b->of[i];

		r->error = admit(ip, r);
		if (r->error)
			continue;
		of[nr] = r;
		fills[nr++] = r->fill;
	}
	if (nr > 1 && !gfs2_file_fill(ip, fills, nr, &b->seq)) {
		for (unsigned i = 0; i < nr; i++)
			filled(ip, of[i]);
		return;
	}
	for (unsigned i = 0; i < nr; i++)
		batch_write_one(ip, b, of[i]);
}

static int batch_sync(struct gfs2_inode *ip, const struct batch *b)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	int error = b->seq ? gfs2_log_flush_seq(log, b->seq, GFS2_LOG_HEAD_FLUSH_NORMAL) : 0;
	int error2 = b->buffered ? gfs2_file_sync(ip, true) : 0;

	return error ? error : error2;
}

/* The next one leads, if there is one. */
static void hand_on(struct gfs2_inode *ip)
{
	rmutex_lock(&ip->i_lock);
	ip->i_rest_led = !list_empty(&ip->i_rest);
	if (ip->i_rest_led) {
		struct gfs2_rest *r = list_first_entry(&ip->i_rest, struct gfs2_rest, list);

		r->lead = true;
		rcond_signal(&r->cond);
	}
	rmutex_unlock(&ip->i_lock);
}

static void lead(struct gfs2_inode *ip, struct gfs2_rest *own)
{
	struct gfs2_holder gh;
	struct batch b;
	uint64_t eof;
	int error = rest_nq(ip, &gh);

	if (error) {
		rmutex_lock(&ip->i_lock);
		list_del_init(&own->list);
		rmutex_unlock(&ip->i_lock);
		hand_on(ip);
		own->error = error;
		return;
	}
	batch_take(ip, own, &b);
	for (unsigned i = 0; i < b.nr; i++)
		rest_stop(ip, b.of[i]);
	eof = ip->i_size;
	batch_write(ip, &b);
	for (unsigned i = 0; i < b.nr; i++) {
		b.of[i]->eof[0] = eof;
		b.of[i]->eof[1] = ip->i_size;
	}
	gfs2_glock_dq_uninit(&gh);
	hand_on(ip);
	for (unsigned i = 0; i < b.nr; i++)
		rest_written(ip, b.of[i]);
	error = batch_sync(ip, &b);
	rmutex_lock(&ip->i_lock);
	for (unsigned i = 0; i < b.nr; i++) {
		struct gfs2_rest *r = b.of[i];

		if (!r->error)
			r->error = error;
		r->done = true;
		rcond_signal(&r->cond);
	}
	rmutex_unlock(&ip->i_lock);
}

bool gfs2_rest_join(struct gfs2_inode *ip, uint64_t pos, uint32_t len)
{
	struct extent e;
	bool led;

	if (!gfs2_file_may_fill(ip->i_sbd, pos, len))
		return false;
	rmutex_lock(&ip->i_lock);
	led = ip->i_rest_led;
	rmutex_unlock(&ip->i_lock);
	/* Without a lock the map proves nothing; the leader looks again. */
	return led && extmap_lookup(&ip->i_map, pos >> ip->i_sbd->sd_bsize_shift, &e) && !e.pblock;
}

int gfs2_rest_write(struct gfs2_inode *ip, struct gfs2_rest *r)
{
	r->ctx = *current_ctx();
	r->done = r->lead = r->killed = false;
	r->eof[0] = r->eof[1] = UINT64_MAX;
	if (!r->unseen && (rest_mode(ip) == DIO_REST_BUFFERED ||
			   !gfs2_file_may_fill(ip->i_sbd, r->fill.pos, r->fill.len)))
		return rest_buffered(ip, r);
	rcond_init(&r->cond);
	rmutex_lock(&ip->i_lock);
	list_add_tail(&r->list, &ip->i_rest);
	if (!ip->i_rest_led)
		ip->i_rest_led = r->lead = true;
	while (!r->done && !r->lead)
		rcond_wait(&r->cond, &ip->i_lock);
	rmutex_unlock(&ip->i_lock);
	if (!r->done)
		lead(ip, r);
	rcond_destroy(&r->cond);
	return r->error;
}
