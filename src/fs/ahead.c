/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading ahead on a device: ahead.h.
 *
 * Life of a window
 *   FREE -> gfs2_ahead_plan(): MAPPING -> gfs2_ahead_start(): QUEUED -> thread: READING -> READY or FAILED -> FREE
 * It belongs to its stream until it is dropped: read to its end, stale, failed, in the way, or its file closed.  Whoever uses its memory keeps
 * it from being free: the owner of the states MAPPING and READING, and READs (w_users).
 *
 * A READ waits for windows that are MAPPING or READING with its holder in SH (one that is QUEUED it reads itself, so that other streams do not hold it
 * up).  That is no deadlock: the former is another READ's thread, which has its own holder already and waits for nothing but metadata from the
 * device, and who reads a window needs no glock for it.
 *
 * How much is read in vain is bounded: a stream begins with one window after PROOF_BYTES in sequence, and each READ that is answered from windows allows one more, up
 * to GFS2_AHEAD_DEPTH.  When something had become stale, or was not what was asked for, it begins anew.
 */
#include "fs/ahead.h"

#include <sys/mman.h>

#include "debug/event.h"
#include "fs/bmap.h"
#include "fs/file.h"
#include "util/seeded.h"
#include "util/util.h"
#include "util/wait.h"

#define WINDOW_BYTES (512u << 10)
#define WINDOWS 16
#define CACHE_SHARE 32		/* a 32nd of cache= */
#define RUNS 32			/* more pieces than that are not read ahead */
#define PROOF_BYTES (2u << 20)	/* so much has to be read in sequence first */
#define READ_MIN (64u << 10)	/* smaller READs are not the kernel's read-ahead */
#define NEAR_BYTES (2u << 20)	/* READs that overtake each other begin and end no farther apart */
#define LOST_NS 200000000ull	/* a stream that has not read for so long has to give its windows to others */
#define IDLE_NS 5000000000ull	/* and then the memory to the system */

enum window_state { W_FREE, W_MAPPING, W_QUEUED, W_READING, W_READY, W_FAILED };

struct gfs2_window {
	enum window_state w_state;
	char *w_data;			/* NULL: no memory yet */
	struct gfs2_stream *w_stream;	/* NULL: nobody will ask for it */
	struct list_head w_list;	/* the stream's, or the free ones' */
	struct list_head w_queue;
	unsigned w_users;		/* READs that wait for it, or are being answered from it */
	uint64_t w_pos, w_tenure;
	uint64_t w_no_addr;		/* for events */
	uint32_t w_len, w_left;		/* w_left: of it nobody has read yet */
	/* its present owner's */
	unsigned w_nr;
	struct io_req w_reqs[RUNS];
};

struct gfs2_ahead {
	struct gfs2_sbd *sdp;
	struct rmutex lock;
	struct rcond work, done;	/* queued, or stop; a window is READY or FAILED */
	struct list_head free, queue, streams;
	struct gfs2_window windows[WINDOWS];
	unsigned nr_memory;		/* windows that have memory */
	unsigned nr_streams;
	bool stop, running, broken;	/* the thread */
	struct gfs2_ahead_stats stats;
	pthread_t thread;
};

/* --- windows; the lock is held --- */

static void window_free(struct gfs2_ahead *a, struct gfs2_window *w)
{
	w->w_state = W_FREE;
	/* The warm one first. */
	list_add(&w->w_list, &a->free);
}

static bool window_at_rest(const struct gfs2_window *w)
{
	return (w->w_state == W_READY || w->w_state == W_FAILED) && (!w->w_users || SEEDED_BUG("ahead-in-use"));
}

/* Nobody is to find it any more. */
static void window_drop(struct gfs2_ahead *a, struct gfs2_window *w)
{
	struct gfs2_stream *s = w->w_stream;

	list_del_init(&w->w_list);
	w->w_stream = NULL;
	if (!--s->s_nr) {
		list_del_init(&s->s_list);
		a->nr_streams--;
	}
	if (w->w_state == W_QUEUED && !w->w_users) {
		list_del_init(&w->w_queue);
		window_free(a, w);
	} else if (window_at_rest(w)) {
		window_free(a, w);
	}
}

static void stream_drop(struct gfs2_ahead *a, struct gfs2_stream *s)
{
	struct gfs2_window *w, *tmp;

	list_for_each_entry_safe(w, tmp, &s->s_windows, w_list)
		window_drop(a, w);
}

/* By who has used it, or read it. */
static void window_rest(struct gfs2_ahead *a, struct gfs2_window *w)
{
	if (!w->w_stream && window_at_rest(w))
		window_free(a, w);
}

static unsigned window_limit(struct gfs2_ahead *a)
{
	uint64_t cache = atomic_load_explicit(&a->sdp->sd_cache, memory_order_relaxed);

	return (unsigned)min_t(uint64_t, cache / CACHE_SHARE / WINDOW_BYTES, WINDOWS);
}

/* Memory for it; the lock is held, but there is nothing to wait for. */
static bool window_memory(struct gfs2_ahead *a, struct gfs2_window *w)
{
	void *p;

	if (w->w_data)
		return true;
	if (a->nr_memory >= window_limit(a))
		return false;
	p = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return false;
	w->w_data = p;
	a->nr_memory++;
	return true;
}

static struct gfs2_window *window_take(struct gfs2_ahead *a, struct gfs2_stream *s)
{
	struct gfs2_window *w;

	if (list_empty(&a->free))
		return NULL;
	w = list_first_entry(&a->free, struct gfs2_window, w_list);
	if (!window_memory(a, w))
		return NULL;
	list_del_init(&w->w_list);
	w->w_state = W_MAPPING;
	w->w_stream = s;
	w->w_users = 0;
	if (!s->s_nr++) {
		list_add_tail(&s->s_list, &a->streams);
		a->nr_streams++;
	}
	list_add_tail(&w->w_list, &s->s_windows);
	return w;
}

/* Streams that have come to a halt give their windows to one that goes on. */
static void rob_the_idle(struct gfs2_ahead *a, uint64_t now, uint64_t idle_ns)
{
	struct gfs2_stream *s, *tmp;

	list_for_each_entry_safe(s, tmp, &a->streams, s_list)
		if (now - s->s_used_ns >= idle_ns)
			stream_drop(a, s);
}

static struct gfs2_window *window_new(struct gfs2_ahead *a, struct gfs2_stream *s)
{
	struct gfs2_window *w = window_take(a, s);

	if (w)
		return w;
	rob_the_idle(a, now_ns(), LOST_NS);
	return window_take(a, s);
}

static struct gfs2_window *window_find(struct gfs2_stream *s, uint64_t at)
{
	struct gfs2_window *w;

	list_for_each_entry(w, &s->s_windows, w_list)
		if (at >= w->w_pos && at < w->w_pos + w->w_len)
			return w;
	return NULL;
}

/* --- reading them --- */

/* Lock held, let go of meanwhile: a window that is QUEUED no more. */
static void window_read(struct gfs2_ahead *a, struct gfs2_window *w)
{
	int error;

	w->w_state = W_READING;
	rmutex_unlock(&a->lock);
	error = io_run(a->sdp->sd_io, w->w_reqs, w->w_nr);
	ev_dio(EV_DATA_IO, w->w_no_addr, w->w_pos, w->w_len, error, "ahead");
	rmutex_lock(&a->lock);
	w->w_state = error ? W_FAILED : W_READY;
	a->stats.windows++;
	a->stats.failed += !!error;
	rcond_broadcast(&a->done);
	window_rest(a, w);
}

static void *ahead_thread(void *arg)
{
	struct gfs2_ahead *a = arg;

	pthread_setname_np(pthread_self(), "gfs2-ahead");
	rmutex_lock(&a->lock);
	while (!a->stop) {
		struct gfs2_window *w;

		if (list_empty(&a->queue)) {
			rcond_wait(&a->work, &a->lock);
			continue;
		}
		w = list_first_entry(&a->queue, struct gfs2_window, w_queue);
		list_del_init(&w->w_queue);
		window_read(a, w);
	}
	rmutex_unlock(&a->lock);
	return NULL;
}

/* The lock is held.  It begins when it is needed first; without it nothing is read ahead. */
static bool have_thread(struct gfs2_ahead *a)
{
	sigset_t old;

	if (a->running || a->broken)
		return a->running;
	/* Signals are for the main thread. */
	block_all_but_faults(&old);
	a->running = !pthread_create(&a->thread, NULL, ahead_thread, a);
	a->broken = !a->running;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return a->running;
}

/* --- streams --- */

void gfs2_stream_init(struct gfs2_stream *s)
{
	atomic_init(&s->s_next, 0);
	atomic_init(&s->s_run, 0);
	s->s_end = s->s_used_ns = 0;
	s->s_nr = 0;
	s->s_depth = 1;
	list_init(&s->s_windows);
	list_init(&s->s_list);
}

void gfs2_stream_close(struct gfs2_sbd *sdp, struct gfs2_stream *s)
{
	struct gfs2_ahead *a = sdp->sd_ahead;

	if (!a)
		return;
	rmutex_lock(&a->lock);
	stream_drop(a, s);
	rmutex_unlock(&a->lock);
}

bool gfs2_stream_note(struct gfs2_sbd *sdp, struct gfs2_stream *s, uint64_t pos, uint32_t size)
{
	uint64_t next, run, end = pos + size;

	if (!sdp->sd_ahead)
		return false;
	run = atomic_load_explicit(&s->s_run, memory_order_relaxed);
	if (size < READ_MIN)
		return run >= PROOF_BYTES;
	next = atomic_load_explicit(&s->s_next, memory_order_relaxed);
	if (pos == next) {
		run = min_t(uint64_t, run + size, 4 * PROOF_BYTES);
	} else if (pos <= next + NEAR_BYTES && next <= pos + NEAR_BYTES) {
		/* Overtaken, or overtaking, perhaps. */
		run -= run / 4;
		end = max_t(uint64_t, end, next);
	} else {
		run = 0;
	}
	atomic_store_explicit(&s->s_next, end, memory_order_relaxed);
	atomic_store_explicit(&s->s_run, run, memory_order_relaxed);
	return run >= PROOF_BYTES;
}

bool gfs2_stream_runs(struct gfs2_stream *s)
{
	return atomic_load_explicit(&s->s_run, memory_order_relaxed) >= PROOF_BYTES;
}

/* --- READs --- */

static void hit_put(struct gfs2_ahead *a, struct gfs2_ahead_hit *hit, bool used)
{
	for (unsigned i = 0; i < hit->nr; i++) {
		struct gfs2_window *w = hit->windows[i];

		w->w_users--;
		if (used) {
			w->w_left -= min_t(uint32_t, w->w_left, hit->iov[i].iov_len);
			if (!w->w_left && w->w_stream)
				window_drop(a, w);
		}
		window_rest(a, w);
	}
	hit->nr = 0;
}

/* What was read ahead is of no use: first prove again that more will be. */
static void begin_anew(struct gfs2_stream *s)
{
	s->s_depth = 1;
	atomic_store_explicit(&s->s_run, 0, memory_order_relaxed);
}

static void drop_stale(struct gfs2_ahead *a, struct gfs2_stream *s, uint64_t tenure)
{
	struct gfs2_window *w, *tmp;

	list_for_each_entry_safe(w, tmp, &s->s_windows, w_list) {
		if (w->w_tenure == tenure || SEEDED_BUG("ahead-stale"))
			continue;
		a->stats.stale++;
		window_drop(a, w);
		begin_anew(s);
	}
}

/* The reader has gone past them; those READs that are late by no more than NEAR_BYTES may come yet. */
static void drop_behind(struct gfs2_ahead *a, struct gfs2_stream *s, uint64_t next)
{
	struct gfs2_window *w, *tmp;

	list_for_each_entry_safe(w, tmp, &s->s_windows, w_list)
		if (w->w_pos + w->w_len + NEAR_BYTES <= next)
			window_drop(a, w);
}

/* @w, which the caller uses, is READY or has FAILED. */
static void wait_for_window(struct gfs2_ahead *a, struct gfs2_window *w)
{
	if (w->w_state < W_READY)
		/* For a device: nobody is to wait for that before he hands over what he has promised. */
		about_to_wait();
	if (w->w_state == W_QUEUED) {
		list_del_init(&w->w_queue);
		window_read(a, w);
	}
	while (w->w_state < W_READY)
		rcond_wait(&a->done, &a->lock);
}

static bool collect(struct gfs2_ahead *a, struct gfs2_stream *s, uint64_t pos, uint64_t end, struct gfs2_ahead_hit *hit)
{
	while (pos < end) {
		struct gfs2_window *w = window_find(s, pos);
		uint64_t at, len;

		if (!w || hit->nr == GFS2_AHEAD_HIT)
			return false;
		at = pos - w->w_pos;
		len = min_t(uint64_t, end - pos, w->w_len - at);
		hit->windows[hit->nr] = w;
		hit->iov[hit->nr++] = (struct iovec){ w->w_data + at, len };
		w->w_users++;
		wait_for_window(a, w);
		if (w->w_state != W_READY)
			return false;
		pos += len;
	}
	return true;
}

bool gfs2_ahead_get(struct gfs2_inode *ip, struct gfs2_stream *s, uint64_t pos, uint32_t size, struct gfs2_ahead_hit *hit)
{
	struct gfs2_ahead *a = ip->i_sbd->sd_ahead;
	uint64_t end = min_t(uint64_t, pos + size, ip->i_size), tenure = gfs2_glock_tenure(ip->i_gl);
	bool got = false;

	gfs2_assert_held(ip->i_gl, false);
	hit->nr = 0;
	if (!a || pos >= end)
		return false;
	rmutex_lock(&a->lock);
	s->s_used_ns = now_ns();
	drop_stale(a, s, tenure);
	if (window_find(s, pos)) {
		got = collect(a, s, pos, end, hit);
		/* Nobody has been granted more than SH while we have that. */
		gfs2_assert_debug(gfs2_glock_tenure(ip->i_gl) == tenure);
		if (!got)
			hit_put(a, hit, false);
		/* More is asked for, or the device has failed. */
		if (!got) {
			stream_drop(a, s);
			begin_anew(s);
		}
		s->s_depth = min_t(unsigned, s->s_depth + got, GFS2_AHEAD_DEPTH);
		a->stats.hits += got;
	}
	rmutex_unlock(&a->lock);
	return got;
}

void gfs2_ahead_put(struct gfs2_sbd *sdp, struct gfs2_ahead_hit *hit)
{
	struct gfs2_ahead *a = sdp->sd_ahead;

	if (!hit->nr)
		return;
	rmutex_lock(&a->lock);
	hit_put(a, hit, true);
	rmutex_unlock(&a->lock);
}

/* How many windows the stream may have now. */
static unsigned stream_share(struct gfs2_ahead *a, const struct gfs2_stream *s)
{
	unsigned streams = a->nr_streams + !s->s_nr;

	return min_t(unsigned, s->s_depth, max_t(unsigned, window_limit(a) / streams, 1));
}

void gfs2_ahead_plan(struct gfs2_inode *ip, struct gfs2_stream *s, uint32_t size, struct gfs2_ahead_plan *plan)
{
	unsigned least = DIV_ROUND_UP(size, WINDOW_BYTES);
	struct gfs2_ahead *a = ip->i_sbd->sd_ahead;
	uint64_t next = atomic_load_explicit(&s->s_next, memory_order_relaxed);
	uint64_t eof = ALIGN_UP(ip->i_size, (uint64_t)ip->i_sbd->sd_bsize);

	gfs2_assert_held(ip->i_gl, false);
	plan->nr = 0;
	if (!a || !gfs2_stream_runs(s) || next & (ip->i_sbd->sd_bsize - 1) || next >= eof || gfs2_is_stuffed(ip) || gfs2_is_jdata(ip))
		return;
	rmutex_lock(&a->lock);
	drop_behind(a, s, next);
	/* It goes on somewhere else. */
	if (next != s->s_end && !window_find(s, next))
		stream_drop(a, s);
	if (!s->s_nr)
		s->s_end = next;
	/* Half of what the next READ asks for is of no use. */
	s->s_depth = max_t(unsigned, s->s_depth, least);
	if (stream_share(a, s) < least)
		s->s_depth = 0;
	while (plan->nr < GFS2_AHEAD_DEPTH && s->s_end < eof && s->s_nr < stream_share(a, s)) {
		struct gfs2_window *w = have_thread(a) ? window_new(a, s) : NULL;

		if (!w)
			break;
		w->w_pos = s->s_end;
		w->w_len = (uint32_t)min_t(uint64_t, WINDOW_BYTES, eof - s->s_end);
		w->w_left = (uint32_t)min_t(uint64_t, w->w_len, ip->i_size - w->w_pos);
		w->w_tenure = gfs2_glock_tenure(ip->i_gl);
		w->w_no_addr = ip->i_no_addr;
		s->s_end += w->w_len;
		plan->windows[plan->nr++] = w;
	}
	rmutex_unlock(&a->lock);
}

/* Does any of these blocks have a buffer?  What has none is on the device, as it is for gfs2_file_read(): only who has EX can change that. */
static bool buffered(struct gfs2_inode *ip, const struct extent *e)
{
	struct gfs2_bh *bh = NULL;

	for (uint64_t i = 0; i < e->len && !bh; i++)
		bh = buf_find(ip->i_sbd->sd_bufs, e->pblock + i);
	buf_put(bh);
	return bh;
}

/* Where its bytes are; false: it is not to be read ahead. */
static bool window_map(struct gfs2_inode *ip, struct gfs2_window *w)
{
	unsigned shift = ip->i_sbd->sd_bsize_shift;
	uint64_t lblock = w->w_pos >> shift, end = (w->w_pos + w->w_len) >> shift;
	bool buffers = gfs2_file_has_buffers(ip) && !SEEDED_BUG("ahead-dirty");
	char *to = w->w_data;
	struct extent e;

	w->w_nr = 0;
	for (; lblock < end; lblock += e.len, to += e.len << shift) {
		if (gfs2_map_extent(ip, lblock, end - lblock, &e))
			return false;
		if (!e.pblock) {
			memset(to, 0, e.len << shift);
			continue;
		}
		if (w->w_nr == RUNS || (buffers && buffered(ip, &e)))
			return false;
		io_req_init(&w->w_reqs[w->w_nr++], IO_READ, IO_DATA, to, (uint32_t)(e.len << shift), e.pblock << shift);
	}
	return true;
}

void gfs2_ahead_start(struct gfs2_inode *ip, struct gfs2_ahead_plan *plan)
{
	struct gfs2_ahead *a = ip->i_sbd->sd_ahead;

	for (unsigned i = 0; i < plan->nr; i++) {
		struct gfs2_window *w = plan->windows[i];
		bool mapped = window_map(ip, w);

		rmutex_lock(&a->lock);
		if (mapped && w->w_nr && w->w_stream && !a->stop) {
			w->w_state = W_QUEUED;
			list_add_tail(&w->w_queue, &a->queue);
			rcond_signal(&a->work);
		} else {
			w->w_state = mapped && !w->w_nr ? W_READY : W_FAILED;
			rcond_broadcast(&a->done);
			window_rest(a, w);
		}
		rmutex_unlock(&a->lock);
	}
}

/* --- memory --- */

uint64_t gfs2_ahead_bytes(struct gfs2_sbd *sdp)
{
	struct gfs2_ahead *a = sdp->sd_ahead;
	uint64_t bytes;

	if (!a)
		return 0;
	rmutex_lock(&a->lock);
	bytes = (uint64_t)a->nr_memory * WINDOW_BYTES;
	rmutex_unlock(&a->lock);
	return bytes;
}

void gfs2_ahead_trim(struct gfs2_sbd *sdp, bool all)
{
	struct gfs2_ahead *a = sdp->sd_ahead;
	struct gfs2_window *w;

	if (!a)
		return;
	rmutex_lock(&a->lock);
	rob_the_idle(a, now_ns(), all ? 0 : IDLE_NS);
	list_for_each_entry(w, &a->free, w_list) {
		if (!w->w_data || (!all && a->nr_streams && a->nr_memory <= window_limit(a)))
			continue;
		munmap(w->w_data, WINDOW_BYTES);
		w->w_data = NULL;
		a->nr_memory--;
	}
	rmutex_unlock(&a->lock);
}

void gfs2_ahead_stats(struct gfs2_sbd *sdp, struct gfs2_ahead_stats *st)
{
	struct gfs2_ahead *a = sdp->sd_ahead;

	memset(st, 0, sizeof(*st));
	if (!a)
		return;
	rmutex_lock(&a->lock);
	*st = a->stats;
	rmutex_unlock(&a->lock);
}

bool gfs2_ahead_wanted(const struct gfs2_sbd *sdp)
{
	return !io_can_in_place(sdp->sd_io) && io_engine_direct(sdp->sd_io) && !sdp->sd_lm->lm_has_peers;
}

void gfs2_ahead_create(struct gfs2_sbd *sdp)
{
	struct gfs2_ahead *a;

	a = xzalloc(sizeof(*a));
	a->sdp = sdp;
	rmutex_init(&a->lock, RANK_AHEAD);
	rcond_init(&a->work);
	rcond_init(&a->done);
	list_init(&a->free);
	list_init(&a->queue);
	list_init(&a->streams);
	for (unsigned i = 0; i < WINDOWS; i++) {
		list_init(&a->windows[i].w_queue);
		list_add_tail(&a->windows[i].w_list, &a->free);
	}
	sdp->sd_ahead = a;
}

void gfs2_ahead_destroy(struct gfs2_sbd *sdp)
{
	struct gfs2_ahead *a = sdp->sd_ahead;

	if (!a)
		return;
	rmutex_lock(&a->lock);
	GFS2_BUG_ON(!list_empty(&a->streams));
	a->stop = true;
	rcond_broadcast(&a->work);
	rmutex_unlock(&a->lock);
	if (a->running)
		pthread_join(a->thread, NULL);
	for (unsigned i = 0; i < WINDOWS; i++)
		if (a->windows[i].w_data)
			munmap(a->windows[i].w_data, WINDOW_BYTES);
	rcond_destroy(&a->done);
	rcond_destroy(&a->work);
	rmutex_destroy(&a->lock);
	free(a);
	sdp->sd_ahead = NULL;
}
