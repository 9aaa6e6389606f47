/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The direct-I/O engine; the contract is in dio.h.
 *
 * Where the kernel does the same: fs/gfs2/file.c:gfs2_file_direct_read, gfs2_file_direct_write,
 * gfs2_file_write_iter; fs/iomap/direct-io.c:__iomap_dio_rw.
 */
#include "dio/dio.h"

#include "debug/event.h"
#include "debug/stop.h"
#include "dio/rest.h"
#include "util/ctx.h"
#include "util/util.h"

/* How a walk over the extent map ended. */
enum dio_walk { WALK_ALL, WALK_HOLE, WALK_FULL, WALK_UNKNOWN };

/* --- statistics: relaxed, nothing is concluded from them --- */

static void count(atomic_uint_least64_t *c)
{
	atomic_fetch_add_explicit(c, 1, memory_order_relaxed);
}

const char *gfs2_dio_outcome_name(enum dio_outcome outcome)
{
	static const char *const names[DIO_NR_OUTCOMES] = { "direct", "hole", "eof", "stuffed", "jdata",
							    "misaligned", "demote" };

	return names[outcome];
}

const char *gfs2_dio_phase_name(enum dio_phase phase)
{
	static const char *const names[DIO_NR_PHASES] = { "lock", "map", "device", "buffered", "reply" };

	return names[phase];
}

void gfs2_dio_count(struct gfs2_inode *ip, enum dio_outcome outcome)
{
	count(&ip->i_sbd->sd_dio.outcome[outcome]);
	count(&ip->i_dio_outcome[outcome]);
}

/* A phase that began at @since ends now; returns now. */
static uint64_t phase_end(struct gfs2_sbd *sdp, enum dio_phase phase, uint64_t since)
{
	uint64_t now = now_ns();

	hist_add(&sdp->sd_dio.latency[phase], now - since);
	return now;
}

/* The same by the wall clock, which events need as well and which may have been set back. */
static void phase_took(struct gfs2_sbd *sdp, enum dio_phase phase, uint64_t since, uint64_t now)
{
	hist_add(&sdp->sd_dio.latency[phase], now > since ? now - since : 0);
}

void gfs2_dio_replied(struct gfs2_sbd *sdp, uint64_t done_ns)
{
	if (done_ns)
		phase_took(sdp, DIO_T_REPLY, done_ns, now_ns());
}

uint64_t gfs2_dio_latency(struct gfs2_sbd *sdp, enum dio_phase phase, unsigned bucket)
{
	struct gfs2_dio_counters *c = &sdp->sd_dio;
	uint64_t n = hist_get(&c->latency[phase], bucket);

	if (!bucket && (phase == DIO_T_LOCK || phase == DIO_T_MAP))
		n += atomic_load_explicit(&c->fast[0], memory_order_relaxed) +
		     atomic_load_explicit(&c->fast[1], memory_order_relaxed);
	return n;
}

/* gfs2_glock_nq_init() of a request, timed; a macro, so that the holder bears the caller's name. */
#define dio_nq(ip, state, gh)                                                                      \
	({                                                                                         \
		uint64_t _since = now_ns();                                                        \
		int _error = gfs2_glock_nq_init((ip)->i_gl, state, 0, gh);                         \
		phase_end((ip)->i_sbd, DIO_T_LOCK, _since);                                        \
		_error;                                                                            \
	})

int gfs2_dio_check_align(struct gfs2_sbd *sdp, uint64_t pos, uint32_t len)
{
	uint32_t align = io_align(sdp->sd_io);

	/* A store without a block size of its own (a buffered descriptor) is held to a sector. */
	if (align < 512)
		align = 512;
	return (pos | len) & (align - 1) ? -EINVAL : 0;
}

static void dio_event(const struct gfs2_dio *dio, enum gfs2_event_type type, uint64_t off,
		      uint64_t len, int64_t rc, const char *reason)
{
	ev_dio(type, dio->ip->i_no_addr, off, len, rc, reason);
}

/* A breakpoint at @point, with the request at byte @from. */
static void dio_stop(const struct gfs2_dio *dio, enum stop_point point, uint32_t from)
{
	struct stop_site site = {
		.point = point,
		.gl_type = LM_TYPE_INODE,
		.gl_number = dio->ip->i_no_addr,
		.from = -1,
		.to = -1,
		.off = dio->pos + from,
		.len = dio->len - from,
		.sent = point == STOP_DIO_HOLE || point == STOP_DIO_DRAIN ? dio->sent : 0,
		.why = dio->write ? "write" : "read",
	};

	if (!stop_armed())
		return;
	site.req = current_ctx()->req;
	site.pid = current_ctx()->pid;
	stop_here(&site);
}

static void dio_prepare(struct gfs2_dio *dio)
{
	dio->want = dio->len;
	dio->sent = 0;
	dio->nr = 0;
	dio->wait = false;
	dio->in_place = false;
	atomic_init(&dio->ref, 1);
	atomic_init(&dio->drained, false);
	atomic_init(&dio->error, 0);
}

/* --- walking and sending --- */

static bool dio_map(struct gfs2_dio *dio, uint64_t lblock, uint64_t max, bool may_block,
		    struct extent *ext, int *error)
{
	*error = 0;
	if (!may_block)
		return gfs2_map_extent_cached(dio->ip, lblock, max, ext);
	*error = gfs2_map_extent(dio->ip, lblock, max, ext);
	return !*error;
}

/*
 * Turn [pos + sent, pos + want) into runs until a hole (writes), the end, or DIO_MAX_RUNS.  Nothing
 * is sent yet: a receive thread that meets something unknown must be able to leave.
 */
static enum dio_walk dio_walk(struct gfs2_dio *dio, bool may_block, int *error)
{
	struct gfs2_sbd *sdp = dio->ip->i_sbd;
	unsigned shift = sdp->sd_bsize_shift;

	while (dio->sent < dio->want) {
		uint64_t pos = dio->pos + dio->sent;
		uint32_t in_block = pos & (sdp->sd_bsize - 1);
		uint32_t left = dio->want - dio->sent;
		uint64_t max = ((uint64_t)in_block + left + sdp->sd_bsize - 1) >> shift;
		struct extent ext;
		uint64_t bytes;

		if (dio->nr == DIO_MAX_RUNS)
			return WALK_FULL;
		if (!dio_map(dio, pos >> shift, max, may_block, &ext, error))
			return WALK_UNKNOWN;
		bytes = (ext.len << shift) - in_block;
		if (bytes > left)
			bytes = left;
		if (!ext.pblock) {
			if (dio->write)
				return WALK_HOLE;
			dio_event(dio, EV_MAP, pos, bytes, 0, "hole");
			memset(dio->buf + dio->sent, 0, bytes);
		} else {
			struct io_req *run = &dio->runs[dio->nr++];
			uint32_t align = io_align(sdp->sd_io);
			/* At EOF the device still wants whole sectors; the buffer has room. */
			uint32_t io_bytes = (uint32_t)ALIGN_UP(bytes, (uint64_t)align);

			io_req_init(run, dio->write ? IO_WRITE : IO_READ, IO_DIO,
				    dio->buf + dio->sent, io_bytes,
				    (ext.pblock << shift) + in_block);
			run->buf_index = dio->buf_index;
			run->fua = dio->write && dio->dsync;
		}
		dio->sent += bytes;
	}
	return WALK_ALL;
}

static void dio_set_error(struct gfs2_dio *dio, int error)
{
	int none = 0;

	/* ERROR */
	atomic_compare_exchange_strong_explicit(&dio->error, &none, error, memory_order_relaxed,
						memory_order_relaxed);
}

/*
 * The fast path's end: nobody waits, the last completion gives everything back and answers.  The thread has read
 * other requests since: what happens now belongs to the one that took the holder.
 */
static void dio_finish_async(struct gfs2_dio *dio)
{
	int64_t ret = atomic_load_explicit(&dio->error, memory_order_relaxed);
	struct gfs2_ctx *ctx = current_ctx(), saved = *ctx;
	uint64_t t_ns = now_ns();

	if (!ret)
		ret = dio->want;
	/* Cached reads come this way too, under SH; they are no direct I/O. */
	dio->done_ns = 0;
	if (dio->gh.gh_state == LM_ST_DEFERRED) {
		dio->done_ns = t_ns;
		phase_took(dio->ip->i_sbd, DIO_T_DEVICE, dio->sent_ns, t_ns);
		gfs2_dio_count(dio->ip, DIO_DIRECT);
	}
	ctx->req = dio->gh.gh_owner;
	ctx->pid = dio->gh.gh_pid;
	inode_dio_end(dio->ip);
	gfs2_glock_dq_uninit_at(&dio->gh, t_ns);
	ev_dio_at(EV_DIO_END, dio->ip->i_no_addr, dio->pos, dio->len, ret, dio->write ? "write" : "read", t_ns);
	*ctx = saved;
	dio->done(dio, ret);
}

/* Drop one reference; the last one decides by `wait` who goes on (see dio.h for the orderings). */
static void dio_put(struct gfs2_dio *dio)
{
	/* DROP */
	if (atomic_fetch_sub_explicit(&dio->ref, 1, memory_order_acq_rel) != 1)
		return;
	/* DECIDE */
	if (dio->wait)
		/* DRAINED: from here on the request is the waiter's */
		atomic_store_explicit(&dio->drained, true, memory_order_release);
	else
		/* FINISH */
		dio_finish_async(dio);
}

static void dio_run_done(struct io_req *run)
{
	struct gfs2_dio *dio = run->priv;

	if (run->res)
		dio_set_error(dio, run->res);
	dio_put(dio);
}

/* @t_ns: gfs2_event_time(); 0: the events have been told */
static void dio_send(struct gfs2_dio *dio, uint64_t t_ns)
{
	for (unsigned i = 0; i < dio->nr; i++) {
		struct io_req *run = &dio->runs[i];

		run->in_place = dio->in_place;
		/* Not what the kernel reads into its page cache, under SH. */
		run->mapped = dio->gh.gh_state == LM_ST_DEFERRED;
		run->done = dio_run_done;
		run->priv = dio;
		/* COUNT; relaxed: the submitter's own reference keeps the count above zero */
		atomic_fetch_add_explicit(&dio->ref, 1, memory_order_relaxed);
		if (t_ns)
			ev_dio_at(EV_DIO_SUBMIT, dio->ip->i_no_addr,
				  dio->pos + (uint64_t)((char *)run->iov1.iov_base - dio->buf), run->iov1.iov_len, 0,
				  NULL, t_ns);
		io_ring_submit_req(dio->ring, run);
	}
}

/* Workers: publish that we wait, drop the submitter's reference, reap until all runs are done. */
static int dio_drain(struct gfs2_dio *dio)
{
	int error;

	/* PUBLISH */
	dio->wait = true;
	dio_put(dio);
	while (!atomic_load_explicit(&dio->drained, memory_order_acquire)) {
		error = io_ring_wait(dio->ring, 1);
		GFS2_BUG_ON(error && error != -EINTR && error != -EAGAIN);
	}
	/* RESULT */
	return atomic_load_explicit(&dio->error, memory_order_relaxed);
}

/* The next round of a long walk uses the same object. */
static void dio_rearm(struct gfs2_dio *dio)
{
	dio->nr = 0;
	dio->wait = false;
	atomic_store_explicit(&dio->ref, 1, memory_order_relaxed);
	atomic_store_explicit(&dio->drained, false, memory_order_relaxed);
}

/* --- time stamps --- */

static bool same_tick(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Holding any state on the inode: would a direct write now change mtime or ctime of the dinode? */
static bool times_are_current(struct gfs2_inode *ip, const struct timespec *now)
{
	return same_tick(&ip->i_mtime, now) && same_tick(&ip->i_ctime, now);
}

/* dio_mtime=strict: as the kernel, EX and a transaction before DF whenever the tick has changed. */
static int dio_update_time_strict(struct gfs2_inode *ip)
{
	struct timespec now = current_time();
	struct gfs2_holder gh;
	struct gfs2_bh *dibh;
	int error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);

	if (error)
		return error;
	if (!times_are_current(ip, &now)) {
		error = gfs2_dinode_trans_begin(ip, 1, &dibh);
		if (!error) {
			ip->i_mtime = ip->i_ctime = now;
			error = gfs2_dinode_log(ip);
			gfs2_inode_note_log(ip, true);
			gfs2_dinode_trans_end(ip, dibh);
		}
	}
	gfs2_glock_dq_uninit(&gh);
	return error;
}

static bool mtime_is_strict(struct gfs2_sbd *sdp)
{
	return atomic_load_explicit(&sdp->sd_dio_mtime, memory_order_relaxed) == DIO_MTIME_STRICT;
}

/* --- the fast path --- */

/*
 * Are there cached data that a worker has to see to?  Asked before the lock is touched, so that no transition shows in a
 * trace that the worker will then make anyway, and again with the holder granted, when the answer counts.
 */
static bool dio_cached(const struct gfs2_dio *dio)
{
	struct gfs2_inode *ip = dio->ip;

	if (atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed))
		return true;
	/* The kernel's page cache has to be told of a write, which may block. */
	return dio->write && gfs2_kernel_has_pages(ip);
}

/* Is there anything about this inode that needs a worker?  Called with the holder granted. */
static bool dio_fast_ok(struct gfs2_dio *dio)
{
	struct gfs2_inode *ip = dio->ip;
	struct gfs2_sbd *sdp = ip->i_sbd;

	if (gfs2_is_stuffed(ip) || gfs2_is_jdata(ip) || dio_cached(dio))
		return false;
	if (!dio->write)
		return true;
	if (dio->pos + dio->len > ip->i_size || sdp->sd_ro)
		return false;
	/* +a and +S are looked after by the worker. */
	if (ip->i_diskflags & (GFS2_DIF_APPENDONLY | GFS2_DIF_SYNC))
		return false;
	if (gfs2_has_privs(ip, dio->kill_suidgid, false))
		return false;
	/* O_DSYNC also waits for the transaction that allocated the blocks. */
	if (dio->dsync && atomic_load_explicit(&ip->i_datasync_seq, memory_order_acquire) >
				  gfs2_log_durable_seq(sdp->sd_log))
		return false;
	if (mtime_is_strict(sdp)) {
		struct timespec now = current_time();

		return times_are_current(ip, &now);
	}
	return true;
}

/*
 * Without the glock the map proves nothing, but when it has a hole the lock need not be touched (and nothing shows in a trace that the
 * worker will then do anyway).
 */
static bool dio_hole_known(const struct gfs2_dio *dio)
{
	unsigned shift = dio->ip->i_sbd->sd_bsize_shift;
	uint64_t lblock = dio->pos >> shift, end = (dio->pos + dio->len - 1) >> shift;
	struct extent ext;

	for (; lblock <= end && extmap_lookup_try(&dio->ip->i_map, lblock, &ext); lblock += ext.len)
		if (!ext.pblock)
			return true;
	return false;
}

static bool dio_fast_start(struct gfs2_dio *dio, enum lm_state state, unsigned flags)
{
	struct gfs2_inode *ip = dio->ip;
	uint64_t t_ns;
	int error;

	if (gfs2_withdrawn(ip->i_sbd))
		return false;
	/* A look before the leap. */
	if (dio_cached(dio) || (dio->write && dio_hole_known(dio)))
		return false;
	/* The file is open, and with it the inode there, until the request is answered; that comes after the holder has gone. */
	gfs2_holder_init(ip->i_gl, state, flags | GL_BORROWED, &dio->gh, dio->write ? "gfs2_dio_write" : "gfs2_dio_read");
	if (!gfs2_glock_nq_fast(&dio->gh)) {
		gfs2_holder_uninit(&dio->gh);
		return false;
	}
	dio_prepare(dio);
	if (!dio_fast_ok(dio))
		goto slow;
	if (!dio->write) {
		if (dio->pos >= ip->i_size)
			dio->want = 0;
		else if (dio->pos + dio->len > ip->i_size)
			dio->want = (uint32_t)(ip->i_size - dio->pos);
	}
	if (dio_walk(dio, false, &error) != WALK_ALL)
		goto slow;
	if (dio->write && !mtime_is_strict(ip->i_sbd))
		gfs2_pending_mtime_set(ip, current_time());
	if (state == LM_ST_DEFERRED)
		count(&ip->i_sbd->sd_dio.fast[dio->write]);
	/* It began when the lock was granted: one look at the clock. */
	t_ns = dio->gh.gh_time_ns;
	dio->sent_ns = t_ns ? t_ns : now_ns();
	inode_dio_begin(ip);
	if (dio->nr == 1 && dio->runs[0].iov1.iov_len == dio->len) {
		ev_dio_begun(ip->i_no_addr, dio->pos, dio->len, dio->write ? "write" : "read", t_ns);
		t_ns = 0;
	} else {
		ev_dio_at(EV_DIO_BEGIN, ip->i_no_addr, dio->pos, dio->len, 0, dio->write ? "write" : "read", t_ns);
	}
	dio_send(dio, t_ns);
	dio_put(dio);
	return true;
slow:
	gfs2_glock_dq_uninit(&dio->gh);
	return false;
}

bool gfs2_dio_fast(struct gfs2_dio *dio)
{
	return dio_fast_start(dio, LM_ST_DEFERRED, 0);
}

bool gfs2_dio_fast_read_cached(struct gfs2_dio *dio, bool fill)
{
	GFS2_BUG_ON(dio->write);
	/* The device wants whole sectors at both ends; anything else goes through gfs2_file_read(). */
	if (gfs2_dio_check_align(dio->ip->i_sbd, dio->pos, dio->len))
		return false;
	return dio_fast_start(dio, LM_ST_SHARED, fill ? GL_FILL : 0);
}

/* --- workers: reads --- */

/* May the answer be sent from where the store has the data?  After the walk: all of it is in dio->runs. */
static bool dio_can_send(const struct gfs2_dio *dio)
{
	return dio->send && dio->nr && io_can_in_place(dio->ip->i_sbd->sd_io);
}

/* The runs are done, and the lock is held. */
static int dio_send_in_place(struct gfs2_dio *dio)
{
	const struct io_engine *e = dio->ip->i_sbd->sd_io;
	struct iovec iov[DIO_MAX_VECTOR];
	uint32_t at = 0;
	unsigned nr = 0;
	int error;

	for (unsigned i = 0; i <= dio->nr; i++) {
		const struct io_req *run = &dio->runs[i];
		uint32_t start = dio->want;

		if (i < dio->nr)
			start = (uint32_t)((char *)run->iov1.iov_base - dio->buf);
		if (start > at)
			iov[nr++] = (struct iovec){ dio->buf + at, start - at };
		if (i == dio->nr)
			break;
		/* The last one may have been rounded up to the device's sector. */
		at = min_t(uint32_t, start + run->iov1.iov_len, dio->want);
		iov[nr++] = (struct iovec){ (void *)(uintptr_t)io_in_place(e, run->pos), at - start };
	}
	dio->was_sent = true;
	error = dio->send(dio, iov, nr);
	/* -EFAULT: the store was cut short, and the kernel made an error of the answer. */
	return error == -EFAULT ? -EIO : error;
}

/* Send everything that is mapped, in as many rounds as it takes; *@walk says why it ended. */
static int dio_send_all(struct gfs2_dio *dio, enum dio_walk *walk)
{
	struct gfs2_sbd *sdp = dio->ip->i_sbd;
	int error = 0, drained;
	uint64_t since;
	bool drain, first;

	inode_dio_begin(dio->ip);
	do {
		dio_rearm(dio);
		since = now_ns();
		first = !dio->sent;
		*walk = dio_walk(dio, true, &error);
		since = phase_end(sdp, DIO_T_MAP, since);
		dio->in_place = first && *walk == WALK_ALL && dio_can_send(dio);
		dio_send(dio, gfs2_event_time());
		/* short_dio=async: what was started completes by itself and is the answer; that is no drain. */
		drain = *walk == WALK_HOLE && (dio->behaviour != SHORT_DIO_ASYNC || !dio->sent);
		if (*walk == WALK_HOLE)
			dio_event(dio, EV_DIO_HOLE, dio->pos + dio->sent, dio->want - dio->sent, 0,
				  NULL);
		if (*walk == WALK_HOLE)
			dio_stop(dio, STOP_DIO_HOLE, dio->sent);
		if (drain) {
			dio_event(dio, EV_DIO_DRAIN_BEGIN, dio->pos, dio->sent, 0,
				  dio->behaviour == SHORT_DIO_BLOCKDEV ? "result!=count" : NULL);
			dio_stop(dio, STOP_DIO_DRAIN, dio->sent);
		}
		drained = dio_drain(dio);
		if (dio->nr)
			phase_end(sdp, DIO_T_DEVICE, since);
		if (drain)
			dio_event(dio, EV_DIO_DRAIN_END, dio->pos, dio->sent, drained, NULL);
		if (!error)
			error = drained;
	} while (!error && *walk == WALK_FULL);
	if (!error && dio->in_place)
		error = dio_send_in_place(dio);
	inode_dio_end(dio->ip);
	return error;
}

static int64_t dio_read(struct gfs2_dio *dio)
{
	struct gfs2_inode *ip = dio->ip;
	enum dio_walk walk;
	int64_t ret = dio_nq(ip, LM_ST_DEFERRED, &dio->gh);
	enum dio_outcome outcome = DIO_DIRECT;
	uint32_t skip;

	dio->behaviour = SHORT_DIO_DRAIN;	/* reads: holes are zeros */
	if (ret)
		return ret;
	dio_prepare(dio);
	if (dio->pos >= ip->i_size)
		goto out;
	if (dio->pos + dio->len > ip->i_size)
		dio->want = (uint32_t)(ip->i_size - dio->pos);
	if (gfs2_is_stuffed(ip) || gfs2_is_jdata(ip)) {
		outcome = gfs2_is_jdata(ip) ? DIO_JDATA : DIO_STUFFED;
		ret = gfs2_file_read(ip, dio->buf, dio->pos, dio->want, &skip);
		if (ret > 0 && skip)
			memmove(dio->buf, dio->buf + skip, (size_t)ret);
		goto out;
	}
	if (atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed))
		ret = gfs2_file_flush_inval(ip);
	if (!ret)
		ret = dio_send_all(dio, &walk);
	if (!ret)
		ret = dio->want;
out:
	if (ret >= 0)
		gfs2_dio_count(ip, outcome);
	gfs2_glock_dq_uninit(&dio->gh);
	return ret;
}

/* --- workers: writes --- */

/* The rest of a write, from byte @from of the request on (rest.h).  @unseen: all of it, nothing was looked at under DF. */
static int64_t dio_rest(struct gfs2_dio *dio, uint32_t from, enum dio_outcome why, bool unseen)
{
	struct gfs2_inode *ip = dio->ip;
	struct gfs2_rest r = { .fill = { dio->buf + from, dio->pos + from, dio->len - from },
			       .why = gfs2_dio_outcome_name(why), .unseen = unseen,
			       .kill_suidgid = dio->kill_suidgid };
	uint64_t since;
	int error;

	gfs2_dio_count(ip, why);
	if (ip->i_sbd->sd_args.ar_dio_strict)
		return -EINVAL;
	dio_event(dio, EV_DIO_UPGRADE, r.fill.pos, r.fill.len, 0, r.why);
	dio_stop(dio, STOP_DIO_UPGRADE, from);
	since = now_ns();
	error = gfs2_rest_write(ip, &r);
	phase_end(ip->i_sbd, DIO_T_BUFFERED, since);
	dio->killed |= r.killed;
	dio->eof[0] = r.eof[0];
	dio->eof[1] = r.eof[1];
	return error ? error : (int64_t)dio->len;
}

static int64_t dio_fall_back(struct gfs2_dio *dio, uint32_t from, enum dio_outcome why)
{
	return dio_rest(dio, from, why, false);
}

/* short_dio=precheck and dio=strict: is there a hole anywhere in the range? */
static int dio_find_hole(struct gfs2_dio *dio)
{
	unsigned shift = dio->ip->i_sbd->sd_bsize_shift;
	uint64_t lblock = dio->pos >> shift, end = (dio->pos + dio->len - 1) >> shift;

	while (lblock <= end) {
		struct extent ext;
		int error = gfs2_map_extent(dio->ip, lblock, end - lblock + 1, &ext);

		if (error)
			return error;
		if (!ext.pblock)
			return 1;
		lblock += ext.len;
	}
	return 0;
}

/* Under DF: must the whole request go buffered?  -1: no. */
static int dio_whole_fallback(struct gfs2_dio *dio)
{
	struct gfs2_inode *ip = dio->ip;

	if (gfs2_is_jdata(ip))
		return DIO_JDATA;
	if (gfs2_is_stuffed(ip))
		return DIO_STUFFED;
	return dio->pos + dio->len > ip->i_size ? DIO_EOF : -1;
}

/* What the application gets for a write that ran into a hole after @dio->sent bytes (design 5). */
static int64_t dio_hole(struct gfs2_dio *dio)
{
	switch (dio->behaviour) {
	case SHORT_DIO_ASYNC:
		if (!dio->sent)
			break;
		gfs2_dio_count(dio->ip, DIO_HOLE);
		return dio->sent;
	case SHORT_DIO_FAIL:
		gfs2_dio_count(dio->ip, DIO_HOLE);
		return -EIO;
	case SHORT_DIO_DRAIN:
	case SHORT_DIO_PRECHECK:
	case SHORT_DIO_BLOCKDEV:
		break;
	}
	return dio_fall_back(dio, dio->sent, DIO_HOLE);
}

/*
 * DF for a write.  Rights that the file loses by being written need EX first, as the kernel's
 * file_remove_privs() does.
 */
static int dio_write_lock(struct gfs2_dio *dio)
{
	struct gfs2_inode *ip = dio->ip;
	int error;

	for (;;) {
		error = dio_nq(ip, LM_ST_DEFERRED, &dio->gh);
		if (error || !gfs2_has_privs(ip, dio->kill_suidgid, true))
			return error;
		gfs2_glock_dq_uninit(&dio->gh);
		error = gfs2_remove_privs(ip, dio->kill_suidgid);
		if (error < 0)
			return error;
		dio->killed = true;
	}
}

/* Others are just filling holes, and this one begins in a hole: under DF it would learn nothing else. */
static bool dio_may_join(const struct gfs2_dio *dio)
{
	struct gfs2_sbd *sdp = dio->ip->i_sbd;

	return dio->behaviour != SHORT_DIO_FAIL && !sdp->sd_args.ar_dio_strict && !mtime_is_strict(sdp) &&
	       atomic_load_explicit(&sdp->sd_dio_rest, memory_order_relaxed) == DIO_REST_DIRECT &&
	       gfs2_rest_join(dio->ip, dio->pos, dio->len);
}

static int64_t dio_write(struct gfs2_dio *dio)
{
	struct gfs2_inode *ip = dio->ip;
	struct gfs2_sbd *sdp = ip->i_sbd;
	enum dio_walk walk;
	int64_t ret = 0;
	int whole;

	/* Once per request: it may be set to something else meanwhile. */
	dio->behaviour = atomic_load_explicit(&sdp->sd_short_dio, memory_order_relaxed);
	if (sdp->sd_ro)
		return -EROFS;
	if (dio_may_join(dio))
		return dio_rest(dio, 0, DIO_HOLE, true);
	if (mtime_is_strict(sdp))
		ret = dio_update_time_strict(ip);
	if (!ret)
		ret = dio_write_lock(dio);
	if (ret)
		return ret;
	if (ip->i_diskflags & GFS2_DIF_APPENDONLY && dio->pos < ip->i_size) {
		gfs2_glock_dq_uninit(&dio->gh);
		return -EPERM;
	}
	if (ip->i_diskflags & GFS2_DIF_SYNC)
		dio->dsync = true;
	dio_prepare(dio);
	whole = dio_whole_fallback(dio);
	if (whole < 0 && (dio->behaviour == SHORT_DIO_PRECHECK || sdp->sd_args.ar_dio_strict)) {
		ret = dio_find_hole(dio);
		if (ret > 0) {
			/* Nothing was started: all of it is left. */
			whole = DIO_HOLE;
			dio_event(dio, EV_DIO_HOLE, dio->pos, dio->len, 0, "precheck");
			dio_stop(dio, STOP_DIO_HOLE, 0);
		}
	}
	if (whole == DIO_STUFFED && dio->pos + dio->len <= ip->i_size)
		dio_event(dio, EV_MAP, dio->pos, dio->len, -ENOTBLK, "inline");
	if (whole >= 0 || ret < 0) {
		/* The old helper's other reason not to return before the I/O has ended; here there is none under way. */
		if (whole == DIO_EOF && dio->behaviour == SHORT_DIO_BLOCKDEV) {
			dio_event(dio, EV_DIO_DRAIN_BEGIN, dio->pos, 0, 0, "end>EOF");
			dio_event(dio, EV_DIO_DRAIN_END, dio->pos, 0, 0, NULL);
		}
		gfs2_glock_dq_uninit(&dio->gh);
		return ret < 0 ? ret : dio_fall_back(dio, 0, (enum dio_outcome)whole);
	}
	/* A DF holder under a cached EX lock: nobody else wrote our dirty data back. */
	if (atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed))
		ret = gfs2_file_flush_inval(ip);
	if (!ret) {
		if (!mtime_is_strict(sdp))
			gfs2_pending_mtime_set(ip, current_time());
		ret = dio_send_all(dio, &walk);
	}
	gfs2_glock_dq_uninit(&dio->gh);
	if (ret)
		return ret;
	if (walk == WALK_HOLE)
		return dio_hole(dio);
	if (dio->dsync)
		ret = gfs2_file_sync_blocks(ip);
	if (!ret)
		gfs2_dio_count(ip, DIO_DIRECT);
	return ret ? ret : dio->len;
}

int64_t gfs2_dio_run(struct gfs2_dio *dio)
{
	int64_t ret;

	dio->done_ns = 0;
	dio->was_sent = false;
	if (gfs2_withdrawn(dio->ip->i_sbd))
		return -EIO;
	if (!dio->len)
		return 0;
	dio->killed = false;
	dio->eof[0] = dio->eof[1] = UINT64_MAX;
	count(&dio->ip->i_sbd->sd_dio.worker[dio->write]);
	if (gfs2_glock_demote_asked(dio->ip->i_gl))
		gfs2_dio_count(dio->ip, DIO_DEMOTE);
	dio_event(dio, EV_DIO_BEGIN, dio->pos, dio->len, 0, dio->write ? "write" : "read");
	ret = dio->write ? dio_write(dio) : dio_read(dio);
	dio->done_ns = now_ns();
	dio_event(dio, EV_DIO_END, dio->pos, dio->len, ret, dio->write ? "write" : "read");
	return ret;
}
