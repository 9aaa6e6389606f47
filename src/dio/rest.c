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
#include "util/wait.h"

#define TOGETHER_MAX 32			/* writes that one flush makes durable */
#define ENOUGH_BYTES (512u << 10)	/* or so much: a device is busy with it meanwhile */
#define COMPANY_MAX_US 20000		/* nobody waits longer for company */

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
	int error = gfs2_inode_nq_change(ip, gh, "dio_fall_back");

	hist_add(&ip->i_sbd->sd_dio.latency[DIO_T_LOCK], now_ns() - since);
	return error;
}

/* @through: the data are written under EX, so that they can be taken back. */
static int rest_buffered(struct gfs2_inode *ip, struct gfs2_rest *r, bool through)
{
	struct gfs2_holder gh;
	uint64_t errors;
	int error = rest_nq(ip, &gh);

	if (error)
		return error;
	rest_stop(ip, r);
	r->eof[0] = ip->i_size;
	errors = mapping_errors(&ip->i_data);
	/* A short answer would become EIO for asynchronous callers. */
	r->error = through ? gfs2_file_write_through(ip, &r->fill, 1) :
			     gfs2_file_write_all(ip, r->fill.buf, r->fill.pos, r->fill.len);
	r->eof[1] = ip->i_size;
	gfs2_glock_dq_uninit(&gh);
	rest_written(ip, r);
	error = gfs2_file_sync(ip, true);
	if (!error && !through)
		error = mapping_failed_since(&ip->i_data, errors);
	return r->error ? r->error : error;
}

/* --- together --- */

/* What a leader takes in one go. */
struct batch {
	struct gfs2_rest *of[TOGETHER_MAX];	/* ascending */
	unsigned nr;
};

/* What one flush makes durable. */
struct group {
	struct gfs2_rest *of[TOGETHER_MAX];
	unsigned nr;
	uint64_t bytes;
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

/* Take @own, unless it was taken before, and what waits behind it; no more than @max. */
static void batch_take(struct gfs2_inode *ip, struct gfs2_rest *own, unsigned max, struct batch *b)
{
	struct gfs2_rest *r, *next;
	uint64_t bytes = 0;

	b->nr = 0;
	rmutex_lock(&ip->i_lock);
	if (!list_empty(&own->list)) {
		list_del_init(&own->list);
		batch_add(b, own);
	}
	for (unsigned i = 0; i < b->nr; i++)
		bytes += b->of[i]->fill.len;
	list_for_each_entry_safe(r, next, &ip->i_rest, list) {
		if (b->nr == max || bytes >= ENOUGH_BYTES)
			break;
		if (overlaps(b, r))
			continue;
		list_del_init(&r->list);
		batch_add(b, r);
		bytes += r->fill.len;
	}
	rmutex_unlock(&ip->i_lock);
}

static void filled(const struct gfs2_inode *ip, const struct gfs2_rest *r)
{
	rest_event(ip, r, EV_MAP, r->error, "mapped");
	rest_event(ip, r, EV_DATA_IO, r->error, "write");
}

/* EX held.  False: not without buffers. */
static bool batch_write_one(struct gfs2_inode *ip, struct group *g, struct gfs2_rest *r)
{
	uint64_t seq;

	r->error = gfs2_file_fill(ip, &r->fill, 1, &seq);
	if (r->error == -ENOTBLK)
		return false;
	g->seq = max_t(uint64_t, g->seq, seq);
	filled(ip, r);
	return true;
}

/* EX held: those that need buffers; if not all can be written each is tried by itself. */
static void batch_write_through(struct gfs2_inode *ip, struct group *g, struct gfs2_rest **of, unsigned nr)
{
	struct gfs2_fill fills[TOGETHER_MAX];
	int error;

	if (!nr)
		return;
	g->buffered = true;
	for (unsigned i = 0; i < nr; i++)
		fills[i] = of[i]->fill;
	error = gfs2_file_write_through(ip, fills, nr);
	for (unsigned i = 0; i < nr; i++)
		of[i]->error = error;
	for (unsigned i = 0; error && nr > 1 && i < nr; i++)
		of[i]->error = gfs2_file_write_through(ip, &fills[i], 1);
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

/* EX held. */
static void batch_write(struct gfs2_inode *ip, struct group *g, struct batch *b)
{
	struct gfs2_fill fills[TOGETHER_MAX];
	struct gfs2_rest *of[TOGETHER_MAX], *buffered[TOGETHER_MAX];
	unsigned nr = 0, nr_buffered = 0;
	uint64_t seq;

	for (unsigned i = 0; i < b->nr; i++) {
		struct gfs2_rest *r = b->of[i];

		r->error = admit(ip, r);
		if (r->error)
			continue;
		of[nr] = r;
		fills[nr++] = r->fill;
	}
	if (nr > 1 && !gfs2_file_fill(ip, fills, nr, &seq)) {
		g->seq = max_t(uint64_t, g->seq, seq);
		for (unsigned i = 0; i < nr; i++)
			filled(ip, of[i]);
		return;
	}
	for (unsigned i = 0; i < nr; i++)
		if (!batch_write_one(ip, g, of[i]))
			buffered[nr_buffered++] = of[i];
	batch_write_through(ip, g, buffered, nr_buffered);
}

/* EX, and what waits is written, not durable yet.  An error if there is no EX; then nothing was taken. */
static int group_write(struct gfs2_inode *ip, struct gfs2_rest *own, struct group *g)
{
	struct gfs2_holder gh;
	struct batch b;
	uint64_t eof;
	int error = rest_nq(ip, &gh);

	if (error)
		return error;
	batch_take(ip, own, TOGETHER_MAX - g->nr, &b);
	for (unsigned i = 0; i < b.nr; i++)
		rest_stop(ip, b.of[i]);
	eof = ip->i_size;
	batch_write(ip, g, &b);
	for (unsigned i = 0; i < b.nr; i++) {
		b.of[i]->eof[0] = eof;
		b.of[i]->eof[1] = ip->i_size;
		g->of[g->nr++] = b.of[i];
		g->bytes += b.of[i]->fill.len;
	}
	gfs2_glock_dq_uninit(&gh);
	for (unsigned i = 0; i < b.nr; i++)
		rest_written(ip, b.of[i]);
	return 0;
}

static int group_sync(struct gfs2_inode *ip, const struct group *g)
{
	struct gfs2_log *log = ip->i_sbd->sd_log;
	int error = g->seq ? gfs2_log_flush_seq(log, g->seq, GFS2_LOG_HEAD_FLUSH_NORMAL) : 0;
	int error2 = g->buffered ? gfs2_file_sync(ip, true) : 0;

	return error ? error : error2;
}

/* A store that is memory has everything done before anybody could come. */
static bool has_device(const struct gfs2_inode *ip)
{
	return io_quick_max(ip->i_sbd->sd_io) == UINT32_MAX;
}

/*
 * Is more to be written before the group is made durable?  If it is smaller than lately its leader waits for company: as long as others are
 * being made durable, who are likely to come back, and then as long as a flush takes.  Callers who keep several writes
 * under way would else be taken in small groups, each with flushes of its own.  A lone caller never waits: one is what he did lately.
 */
static bool group_grows(struct gfs2_inode *ip, struct gfs2_rest *own, const struct group *g)
{
	bool timely = true, more = false;
	uint64_t until = 0;

	rmutex_lock(&ip->i_lock);
	own->gathers = true;
	while (g->nr < TOGETHER_MAX && g->bytes < ENOUGH_BYTES) {
		more = !list_empty(&ip->i_rest);
		if (more || !timely || g->nr >= ip->i_rest_expect || !ip->i_rest_took_us)
			break;
		if (ip->i_rest_flushing) {
			rcond_wait(&own->company, &ip->i_lock);
			continue;
		}
		if (!until)
			until = now_ns() + ip->i_rest_took_us * 1000ull;
		timely = rcond_wait_until(&own->company, &ip->i_lock, until);
	}
	own->gathers = false;
	rmutex_unlock(&ip->i_lock);
	return more;
}

/* i_lock held: there is something new for the leader. */
static void tell_gatherer(struct gfs2_inode *ip)
{
	if (ip->i_rest_leader && ip->i_rest_leader->gathers)
		rcond_signal(&ip->i_rest_leader->company);
}

/* The next one leads, if there is one; @g is written. */
static void hand_on(struct gfs2_inode *ip, const struct group *g)
{
	struct gfs2_rest *r, *next = NULL;
	unsigned known = g->nr;

	rmutex_lock(&ip->i_lock);
	list_for_each_entry(r, &ip->i_rest, list)
		if (++known == TOGETHER_MAX)
			break;
	ip->i_rest_expect = (uint16_t)min_t(unsigned, known + ip->i_rest_flushing, TOGETHER_MAX);
	ip->i_rest_flushing += (uint16_t)g->nr;
	ip->i_rest_leader = NULL;
	if (!list_empty(&ip->i_rest)) {
		ip->i_rest_leader = list_first_entry(&ip->i_rest, struct gfs2_rest, list);
		ip->i_rest_leader->lead = true;
		next = ip->i_rest_leader;
	}
	rmutex_unlock(&ip->i_lock);
	/* It is there until it has led. */
	if (next)
		rsem_post(&next->called);
}

static void lead(struct gfs2_inode *ip, struct gfs2_rest *own)
{
	struct group g = { .nr = 0 };
	uint64_t since;
	int error;

	do {
		error = group_write(ip, own, &g);
	} while (!error && group_grows(ip, own, &g));
	/* No EX, as when withdrawn: what has been written is still to be told, the others find out themselves. */
	if (error && !g.nr) {
		rmutex_lock(&ip->i_lock);
		list_del_init(&own->list);
		rmutex_unlock(&ip->i_lock);
		own->error = error;
	}
	hand_on(ip, &g);
	if (!g.nr)
		return;
	since = now_ns();
	error = group_sync(ip, &g);
	rmutex_lock(&ip->i_lock);
	if (has_device(ip))
		ip->i_rest_took_us = (uint32_t)min_t(uint64_t, (now_ns() - since) / 1000, COMPANY_MAX_US);
	ip->i_rest_flushing -= (uint16_t)g.nr;
	tell_gatherer(ip);
	rmutex_unlock(&ip->i_lock);
	for (unsigned i = 0; i < g.nr; i++) {
		struct gfs2_rest *r = g.of[i];

		if (!r->error)
			r->error = error;
		/* The last use. */
		if (r != own)
			rsem_post(&r->called);
	}
}

bool gfs2_rest_join(struct gfs2_inode *ip, uint64_t pos, uint32_t len)
{
	struct extent e;
	bool led;

	if (!gfs2_file_may_fill(ip->i_sbd, pos, len))
		return false;
	rmutex_lock(&ip->i_lock);
	led = ip->i_rest_leader || ip->i_rest_flushing;
	rmutex_unlock(&ip->i_lock);
	/* Without a lock the map proves nothing; the leader looks again. */
	return led && extmap_lookup(&ip->i_map, pos >> ip->i_sbd->sd_bsize_shift, &e) && !e.pblock;
}

int gfs2_rest_write(struct gfs2_inode *ip, struct gfs2_rest *r)
{
	bool lead_now;

	r->ctx = *current_ctx();
	r->lead = r->gathers = r->killed = false;
	r->eof[0] = r->eof[1] = UINT64_MAX;
	if (!r->unseen && rest_mode(ip) == DIO_REST_BUFFERED)
		return rest_buffered(ip, r, false);
	if (!r->unseen && !gfs2_file_may_fill(ip->i_sbd, r->fill.pos, r->fill.len))
		return rest_buffered(ip, r, true);
	rsem_init(&r->called);
	rcond_init(&r->company);
	/* For the device, whoever it is that waits: the next request is to be read at once, it may be company. */
	if (has_device(ip))
		about_to_wait();
	rmutex_lock(&ip->i_lock);
	list_add_tail(&r->list, &ip->i_rest);
	lead_now = !ip->i_rest_leader;
	if (lead_now)
		ip->i_rest_leader = r;
	else
		tell_gatherer(ip);
	rmutex_unlock(&ip->i_lock);
	if (!lead_now)
		rsem_wait(&r->called);
	if (lead_now || r->lead)
		lead(ip, r);
	rcond_destroy(&r->company);
	rsem_destroy(&r->called);
	return r->error;
}
