/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Readers: workers that read /dev/fuse themselves; readers.h has the contract.
 *
 * States of a reader:
 *
 *   READY  counted in `ready`: reader_read(), reader_fast(), request_run() of a brief request.  To BUSY with reader_unready(), before anything
 *          that may wait.  If more are ready than there should be it leaves (reader_spare()) and is a plain worker again.
 *   BUSY   not counted: request_run(), wait_for_device().  Back to READY with reader_return(), unless the rings read or
 *          enough others are ready: then it is a plain worker again, too.
 */
#include "fuse/readers.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "fuse/server.h"
#include "util/seeded.h"
#include "util/util.h"
#include "util/wait.h"

#define READERS_READY 4		/* so many stay in read(2) when there is nothing to do */
#define READERS_LONE 1		/* the same as long as a lone caller's requests are brief */
#define STIR_UP 16		/* so many brief requests of one caller make up for one that is not */
#define STIR_MAX 1024
#define READERS_DEEP 4		/* so many waiting for the device: the rings do that with fewer threads */
#define STOP_AGAIN_NS 5000000ull
#define READERS_SIGNAL SIGRTMIN

struct readers {
	struct server *s;
	int fd;			/* blocking, of their own; -1: no readers */
	struct rmutex lock;
	struct rcond left;	/* a reader left the list */
	struct list_head list;	/* rx_buf.list of every reader that has begun; `lock` */
	_Atomic(enum read_mode) mode; /* changed under `lock`, release; receive threads: acquire; else relaxed */
	atomic_uint ready;	/* acq_rel: see reader_unready() */
	atomic_uint waiting;	/* readers that wait for the device; relaxed */
	atomic_uint stir;	/* not 0: several readers are of use; relaxed, and lost updates do no harm */
	atomic_uint caller;	/* of the last request that had one; relaxed */
	bool begun;		/* `lock` */
	atomic_bool gone;	/* relaxed: the mount is */
};

/* Where this thread's answers go; -1: to the session's descriptor. */
static _Thread_local int reply_fd = -1;

ssize_t readers_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *out = iov->iov_base;
	const struct server *s = userdata;
	bool interrupt = out->unique & 1;	/* kernel: FUSE_INT_REQ_BIT */
	ssize_t n;

	/* A notification, for which the kernel may wait for other requests. */
	if (!out->unique)
		about_to_wait();
	n = writev(reply_fd >= 0 ? reply_fd : fd, iov, count);
	/*
	 * An INTERRUPT that libfuse had before its request goes back to the kernel with whatever request comes next (EAGAIN: send it again).  It is
	 * known where that request was read, which may be the other open file.
	 */
	if (n < 0 && errno == ENOENT && interrupt && s->readers->fd >= 0)
		n = writev(reply_fd >= 0 ? fd : s->readers->fd, iov, count);
	return n;
}

int readers_where(void)
{
	return reply_fd;
}

int readers_answer_at(int where)
{
	int before = reply_fd;

	reply_fd = where;
	return before;
}

void readers_reply(struct rx_buf *b, const void *reply, uint32_t len)
{
	/* -ENOENT: the caller was interrupted and is gone; else the mount is, as the next read will tell. */
	ssize_t n = write(b->s->readers->fd, reply, len);

	(void)n;
	b->replied = true;
}

/* --- who reads --- */

static void reader_run(struct work *w);

/* A reader more, ready from now on; false if there is no thread or no memory.  Lock held. */
static bool start_reader(struct readers *rd)
{
	struct rx_buf *b = rx_buf_reader(rd->s);

	if (!b)
		return false;
	list_init(&b->work.list);
	b->work.fn = reader_run;
	b->work.independent = b->work.patient = false;
	/* On its behalf: it will read whatever happens. */
	atomic_fetch_add_explicit(&rd->ready, 1, memory_order_acq_rel);
	if (pool_try_submit(rd->s->pool, &b->work))
		return true;
	atomic_fetch_sub_explicit(&rd->ready, 1, memory_order_acq_rel);
	rx_buf_release(b);
	return false;
}

enum verdict { STAY, RINGS, READERS };

static const enum verdict table[READ_NR_MODES][READ_NR_EVENTS] = {
	[READ_RINGS] = { [READ_CALM] = READERS, [READ_DEEP] = STAY, [READ_UNREAD] = STAY },
	[READ_READERS] = { [READ_CALM] = STAY, [READ_DEEP] = RINGS, [READ_UNREAD] = READERS },
};

void readers_event(struct server *s, enum read_event event)
{
	struct readers *rd = s->readers;
	struct gfs2_receive_counters *count = &s->sdp->sd_receive;
	enum verdict verdict;
	enum read_mode mode;

	if (rd->fd < 0)
		return;
	rmutex_lock(&rd->lock);
	mode = atomic_load_explicit(&rd->mode, memory_order_relaxed);
	verdict = table[mode][event];
	if (!rd->begun || atomic_load_explicit(&s->stopping, memory_order_acquire) ||
	    atomic_load_explicit(&rd->gone, memory_order_relaxed))
		verdict = STAY;
	if (verdict == READERS && !atomic_load_explicit(&rd->ready, memory_order_acquire) &&
	    !SEEDED_BUG("readers-none")) {
		if (start_reader(rd))
			atomic_fetch_add_explicit(&count->started, 1, memory_order_relaxed);
		else
			verdict = RINGS;
	}
	if (verdict == RINGS && mode == READ_READERS) {
		atomic_store_explicit(&rd->mode, READ_RINGS, memory_order_release);
		atomic_fetch_add_explicit(&count->to_rings, 1, memory_order_relaxed);
	} else if (verdict == READERS && mode == READ_RINGS) {
		atomic_store_explicit(&rd->mode, READ_READERS, memory_order_release);
		atomic_fetch_add_explicit(&count->to_readers, 1, memory_order_relaxed);
	} else {
		verdict = STAY;
	}
	rmutex_unlock(&rd->lock);
	if (verdict != STAY && !SEEDED_BUG("readers-untold"))
		rx_mode_changed(s);
}

bool readers_rings_read(struct server *s)
{
	return atomic_load_explicit(&s->readers->mode, memory_order_acquire) == READ_RINGS;
}

/* --- a reader --- */

static bool readers_read(struct readers *rd)
{
	return atomic_load_explicit(&rd->mode, memory_order_relaxed) == READ_READERS;
}

/*
 * Not ready any more.  The count tells whether this was the last one; what is to be done then is decided under the lock: a
 * change to "readers" either saw the subtraction and started one, or is seen here.  So the mode is not looked at before.
 */
static void reader_unready(struct readers *rd)
{
	if (atomic_fetch_sub_explicit(&rd->ready, 1, memory_order_acq_rel) == 1 && !SEEDED_BUG("readers-unread"))
		readers_event(rd->s, READ_UNREAD);
}

static unsigned readers_wanted(struct readers *rd)
{
	return atomic_load_explicit(&rd->stir, memory_order_relaxed) ? READERS_READY : READERS_LONE;
}

/* After each request: what does it say about how many readers there should be? */
static void note_stir(struct readers *rd, const struct rx_buf *b, bool brief)
{
	unsigned stir = atomic_load_explicit(&rd->stir, memory_order_relaxed);
	uint32_t caller = rx_header(b)->pid;

	/* FORGET and RELEASE are nobody's. */
	if (caller && caller != atomic_load_explicit(&rd->caller, memory_order_relaxed)) {
		atomic_store_explicit(&rd->caller, caller, memory_order_relaxed);
		brief = false;
	}
	if (!brief && stir == STIR_MAX)
		return;
	if (!brief)
		stir = min_t(unsigned, stir + STIR_UP, STIR_MAX);
	else if (stir)
		stir--;
	else
		return;
	atomic_store_explicit(&rd->stir, stir, memory_order_relaxed);
}

/* Are more ready than there should be?  Then this one is no more. */
static bool reader_spare(struct readers *rd)
{
	unsigned ready = atomic_load_explicit(&rd->ready, memory_order_relaxed), wanted = readers_wanted(rd);

	while (ready > wanted)
		if (atomic_compare_exchange_weak_explicit(&rd->ready, &ready, ready - 1, memory_order_acq_rel,
							  memory_order_relaxed))
			return true;
	return false;
}

/* The request is done: read on? */
static bool reader_return(struct readers *rd)
{
	if (!readers_read(rd) || atomic_load_explicit(&rd->ready, memory_order_relaxed) >= readers_wanted(rd))
		return false;
	atomic_fetch_add_explicit(&rd->ready, 1, memory_order_acq_rel);
	return true;
}

/*
 * ENOENT: the caller was interrupted while his request was copied.  ENOMEM: the copy had no memory; its caller has been told, and there will be
 * memory again: no reason to leave the others without a file system.
 */
bool readers_cannot_read(struct server *s, int error)
{
	int none = 0;

	switch (error) {
	case -EINTR:
	case -ENOENT:
	case -ECANCELED:
	case -EAGAIN:
		return false;
	case -ENOMEM:
		if (!atomic_exchange_explicit(&s->no_memory, true, memory_order_relaxed))
			fs_warn("no memory to read a request");
		return false;
	}
	atomic_compare_exchange_strong_explicit(&s->unread, &none, error ? error : -EPIPE, memory_order_relaxed, memory_order_relaxed);
	return true;
}

/* The next request; false: none will come. */
static bool reader_read(struct readers *rd, struct rx_buf *b)
{
	struct server *s = rd->s;
	ssize_t n;

	do {
		/* Relaxed: who missed the signal gets the next one. */
		atomic_store_explicit(&b->in_read, true, memory_order_relaxed);
		if (atomic_load_explicit(&s->stopping, memory_order_acquire)) {
			n = 0;
			break;
		}
		n = read(rd->fd, rx_request(b), RX_MEM_SIZE - RX_PAGE);
	} while (n < 0 && !readers_cannot_read(s, -errno));
	atomic_store_explicit(&b->in_read, false, memory_order_relaxed);
	if (n > 0) {
		b->size = (uint32_t)n;
		rx_buf_used(b, b->size);
		return true;
	}
	if (n < 0) {
		atomic_store_explicit(&rd->gone, true, memory_order_relaxed);
		eventfd_write(s->wake_fd, 1);
	}
	return false;
}

/* Wait for the device, as one of many? */
static void wait_for_device(struct readers *rd, struct rx_buf *b, struct io_ring *ring)
{
	unsigned n = atomic_fetch_add_explicit(&rd->waiting, 1, memory_order_relaxed) + 1;

	if (n >= READERS_DEEP && readers_read(rd))
		readers_event(rd->s, READ_DEEP);
	while (!b->replied) {
		int error = io_ring_wait(ring, 1);

		GFS2_BUG_ON(error && error != -EINTR && error != -EAGAIN);
	}
	atomic_fetch_sub_explicit(&rd->waiting, 1, memory_order_relaxed);
}

enum reader_state { READER_READY, READER_BUSY };

/*
 * The fast path: what needs nothing but the device.  A store that is memory has done it before anybody waits, and the
 * reader has been ready all the time.  False: it is not for the fast path.
 */
static bool reader_fast(struct readers *rd, struct rx_buf *b, enum reader_state *state)
{
	struct io_ring *ring = pool_ring(rd->s->sdp);
	int error;

	b->replied = false;
	if (!ring || !fast_request(b, ring))
		return false;
	error = io_ring_wait(ring, 0);
	GFS2_BUG_ON(error && error != -EINTR && error != -EAGAIN);
	if (!b->replied) {
		*state = READER_BUSY;
		reader_unready(rd);
		wait_for_device(rd, b, ring);
	}
	gfs2_dio_replied(rd->s->sdp, b->dio.done_ns);
	return true;
}

/* A brief request after all has to wait. */
struct brief {
	struct before_wait bw;
	struct readers *rd;
	enum reader_state state;
};

static void brief_waits(struct before_wait *bw)
{
	struct brief *brief = container_of(bw, struct brief, bw);

	if (SEEDED_BUG("readers-brief"))
		return;
	brief->state = READER_BUSY;
	reader_unready(brief->rd);
}

static enum reader_state run_brief(struct readers *rd, struct rx_buf *b)
{
	struct brief brief = { .bw.fn = brief_waits, .rd = rd, .state = READER_READY };

	before_wait_set(&brief.bw);
	request_run(rd->s, rx_request(b), b->size);
	before_wait_set(NULL);
	return brief.state;
}

/*
 * What may wait.  Nobody waits for FORGETs, which come by the thousand: when many are being done already it is left to the
 * pool which is when.
 */
static enum reader_state reader_slow(struct readers *rd, struct rx_buf *b)
{
	struct server *s = rd->s;
	bool patient = request_is_patient(b), turn = patient && pool_patient_begin(s->pool);
	enum reader_state state = READER_BUSY;

	if (patient && !turn && request_submit_copy(s, b))
		return READER_READY;
	if (request_is_brief(b)) {
		state = run_brief(rd, b);
	} else {
		reader_unready(rd);
		request_run(s, rx_request(b), b->size);
	}
	pool_buffer_done();
	if (turn)
		pool_patient_end(s->pool);
	note_stir(rd, b, state == READER_READY);
	return state;
}

/* Handle what was read; the state in which this left the reader. */
static enum reader_state reader_handle(struct readers *rd, struct rx_buf *b)
{
	enum reader_state state = READER_READY;

	if (reader_fast(rd, b, &state))
		note_stir(rd, b, false);
	else
		state = reader_slow(rd, b);
	rx_buf_trim(b);
	return state;
}

static void reader_loop(struct readers *rd, struct rx_buf *b)
{
	while (reader_read(rd, b)) {
		if (reader_handle(rd, b) == READER_BUSY) {
			if (!reader_return(rd))
				return;
		} else if (reader_spare(rd)) {
			return;
		} else if (!readers_read(rd)) {
			break;
		}
	}
	reader_unready(rd);
}

static void reader_run(struct work *w)
{
	struct rx_buf *b = container_of(w, struct rx_buf, work);
	struct readers *rd = b->s->readers;

	b->thread = pthread_self();
	rmutex_lock(&rd->lock);
	list_add_tail(&b->list, &rd->list);
	rmutex_unlock(&rd->lock);
	reply_fd = rd->fd;
	reader_loop(rd, b);
	reply_fd = -1;
	rmutex_lock(&rd->lock);
	list_del_init(&b->list);
	rcond_signal(&rd->left);
	rmutex_unlock(&rd->lock);
	rx_buf_release(b);
}

/* --- life --- */

static void nothing(int sig)
{
}

void readers_create(struct server *s)
{
	struct sigaction sa = { .sa_handler = nothing };
	struct readers *rd = xzalloc(sizeof(*rd));
	sigset_t set;

	rd->s = s;
	rmutex_init(&rd->lock, RANK_READERS);
	rcond_init(&rd->left);
	list_init(&rd->list);
	/* No SA_RESTART: it is to end a read(2).  Threads made from now on do not block it, whatever we were started with. */
	sigemptyset(&set);
	sigaddset(&set, READERS_SIGNAL);
	sigaction(READERS_SIGNAL, &sa, NULL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	rd->fd = proto_clone(s);
	if (rd->fd < 0)
		fs_warn("no second descriptor of /dev/fuse (%s): requests take longer", strerror(errno));
	s->readers = rd;
}

void readers_begin(struct server *s)
{
	rmutex_lock(&s->readers->lock);
	s->readers->begun = true;
	rmutex_unlock(&s->readers->lock);
	readers_event(s, READ_CALM);
}

void readers_stop(struct server *s)
{
	struct readers *rd = s->readers;
	struct rx_buf *b;

	if (!rd)
		return;
	rmutex_lock(&rd->lock);
	while (!list_empty(&rd->list)) {
		list_for_each_entry(b, &rd->list, list)
			if (atomic_load_explicit(&b->in_read, memory_order_relaxed))
				pthread_kill(b->thread, READERS_SIGNAL);
		rcond_wait_until(&rd->left, &rd->lock, now_ns() + STOP_AGAIN_NS);
	}
	rmutex_unlock(&rd->lock);
}

void readers_destroy(struct server *s)
{
	struct readers *rd = s->readers;

	if (!rd)
		return;
	if (rd->fd >= 0)
		close(rd->fd);
	rcond_destroy(&rd->left);
	rmutex_destroy(&rd->lock);
	free(rd);
	s->readers = NULL;
}
