/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The receive loop: one io_uring per receive thread, through which it reads /dev/fuse, sends the
 * fast path's device I/O and writes the fast path's replies.
 *
 * Guarantees
 *  - The thread sleeps in one place only, io_ring_wait(): its own completions are never stranded.
 *  - A WRITE's payload lies on a page boundary in registered memory, so it goes to the device without a copy.
 *  - While readers read (readers.h) no reads are posted, and the thread sleeps.
 *  - Several requests are read in one system call when several come at once: as many reads are kept posted as lately
 *    found something together.  Two at least, which tell whether requests come together; every posted read is woken by
 *    every request.
 *  - What is for a device is sent when RX_SEND requests have been found, before more are read.  Callers who keep many under way get all
 *    their answers at once, and then send all at once again: if all of these were read before the first was sent, the device would stand
 *    still meanwhile, and then the callers.  A store that is memory has no device that could stand still; there larger
 *    batches wake the callers less often.
 *
 * Buffers: RX_REGISTERED of them per thread are registered with the ring, their first RX_REGISTERED_PAYLOAD bytes: registered
 * memory is locked for good.  When all are in use, further ones are made; up to RX_KEEP_EXTRA of these stay for the next time.
 * What lies behind goes back to the system after use, unless few buffers have any (RX_KEEP_LARGE in all threads).  /dev/fuse is read with plain READ (it refuses registered buffers).
 *
 * Locking: `lock` guards the list of free buffers, which workers return to.  Everything else belongs to the thread.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "fuse/readers.h"
#include "fuse/server.h"
#include "util/ctx.h"
#include "util/util.h"

#define RX_REGISTERED 48
#define RX_KEEP_EXTRA 32
#define RX_KEEP_LARGE 8
#define RX_MIN_READS 2
#define RX_MAX_READS 16		/* a store that is memory */
#define RX_MAX_READS_DEVICE 4
#define RX_SEND 2
#define BRIEF_BYTES (64u << 10)
#define RX_FUSE_SLOT 1		/* 0 is the volume: io/ring.c */
#define RX_LONE_HITS 16		/* so many requests one by one: the fewest reads are enough */
#define RX_CALM 64		/* so many requests that readers would rather have had: let them read */
#define RX_CALM_INFLIGHT 2

struct rx {
	struct server *s;
	struct io_ring *ring;
	pthread_t thread;
	bool started;
	char *slab;
	struct rx_buf *bufs;

	pthread_mutex_t lock;	/* leaf: nothing is taken under it; guards the free lists */
	struct list_head free, free_extra;
	unsigned nr_free_extra;
	atomic_uint nr_large;	/* buffers with memory behind the registered payload; relaxed, any thread */

	/* the receive thread's own */
	struct io_handler wake_h;
	bool wake_armed, gone;
	int wake_fd;		/* eventfd: look at `stopping` and at who reads */
	int fuse_fd;		/* as SQEs name it: slot RX_FUSE_SLOT of the ring's files, or the descriptor */
	unsigned fuse_flags;	/* IOSQE_FIXED_FILE with the slot */
	struct list_head reading; /* buffers with a read posted */
	unsigned reads;		/* how many these are */
	unsigned want;		/* and how many there should be: RX_MIN_READS to max_reads */
	unsigned max_reads;
	bool rings;		/* who reads are the rings; as last looked at */
	unsigned hits, fast;	/* requests found by this wait; how many of these took the fast path */
	unsigned unsent;	/* found for a device, and not sent yet */
	unsigned lone;		/* looks in a row that found just one */
	unsigned calm;		/* requests in a row that readers would rather have had: rx_calm() */
	unsigned replies;	/* under way */
};

/*
 * A request that is not a WRITE is short: it goes to the worker as a copy, the big buffer stays.  Without memory for the copy
 * the buffer goes, as it does with a WRITE: no request is lost (a FORGET or RELEASE could not even be refused).
 */
struct request_copy {
	struct work w;
	struct server *s;
	uint32_t size;
	_Alignas(8) char copy[];
};

/* --- buffers --- */

static struct rx_buf *rx_buf_extra(struct rx *rx)
{
	struct rx_buf *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->mem = mmap(NULL, RX_MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->mem == MAP_FAILED) {
		free(b);
		return NULL;
	}
	b->rx = rx;
	b->s = rx->s;
	b->index = -1;
	list_init(&b->list);
	return b;
}

static struct rx_buf *rx_buf_get(struct rx *rx)
{
	struct rx_buf *b = NULL;

	pthread_mutex_lock(&rx->lock);
	if (!list_empty(&rx->free)) {
		b = list_first_entry(&rx->free, struct rx_buf, list);
	} else if (!list_empty(&rx->free_extra)) {
		b = list_first_entry(&rx->free_extra, struct rx_buf, list);
		rx->nr_free_extra--;
	}
	if (b)
		list_del_init(&b->list);
	pthread_mutex_unlock(&rx->lock);
	return b ? b : rx_buf_extra(rx);
}

void rx_buf_used(struct rx_buf *b, size_t payload)
{
	if (payload <= RX_REGISTERED_PAYLOAD || b->large)
		return;
	b->large = true;
	atomic_fetch_add_explicit(&b->rx->nr_large, 1, memory_order_relaxed);
}

static void rx_buf_free(struct rx_buf *b)
{
	if (b->large)
		atomic_fetch_sub_explicit(&b->rx->nr_large, 1, memory_order_relaxed);
	munmap(b->mem, RX_MEM_SIZE);
	free(b);
}

struct rx_buf *rx_buf_reader(struct server *s)
{
	struct rx_buf *b = rx_buf_get(s->rx[0]);

	if (b)
		b->reader = true;
	return b;
}

void rx_buf_trim(struct rx_buf *b)
{
	struct rx *rx = b->rx;

	if (b->large && atomic_load_explicit(&rx->nr_large, memory_order_relaxed) >
				max_t(unsigned, RX_KEEP_LARGE / rx->s->nr_rx, 2)) {
		size_t used = RX_PAGE + RX_REGISTERED_PAYLOAD + RX_PAGE;

		madvise(b->mem + used, RX_MEM_SIZE - used, MADV_DONTNEED);
		b->large = false;
		atomic_fetch_sub_explicit(&rx->nr_large, 1, memory_order_relaxed);
	}
}

void rx_buf_release(struct rx_buf *b)
{
	struct rx *rx = b->rx;
	bool keep = true;

	/* Ours alone until it is on the list. */
	rx_buf_trim(b);
	b->reader = false;
	pthread_mutex_lock(&rx->lock);
	/* LIFO: the warm one first */
	if (b->index >= 0) {
		list_add(&b->list, &rx->free);
	} else if (rx->nr_free_extra < RX_KEEP_EXTRA) {
		list_add(&b->list, &rx->free_extra);
		rx->nr_free_extra++;
	} else {
		keep = false;
	}
	pthread_mutex_unlock(&rx->lock);
	if (!keep)
		rx_buf_free(b);
}

/* --- handing over to workers --- */

/*
 * libfuse refuses a request with ENOMEM when it finds no memory for it.  What nobody would repeat waits until there is some: so
 * much that malloc does not keep it back for other sizes.
 */
static void wait_for_memory(const struct fuse_in_header *in)
{
	switch (in->opcode) {
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
	case FUSE_FSYNC:
	case FUSE_WRITE:
		free(xmalloc(RX_PAGE));
	}
}

void request_run(struct server *s, void *mem, uint32_t size)
{
	struct fuse_buf fb = { .size = size, .mem = mem };

	/* The request's number for events and holders; the fast path used the same. */
	current_ctx()->req = ((const struct fuse_in_header *)fb.mem)->unique;
	wait_for_memory(mem);
	proto_request(s, &fb);
	fuse_session_process_buf(s->se, &fb);
	*current_ctx() = (struct gfs2_ctx){ 0 };
}

static void run_copy(struct work *w)
{
	struct request_copy *rc = container_of(w, struct request_copy, w);

	request_run(rc->s, rc->copy, rc->size);
	free(rc);
}

static void run_buffer(struct work *w)
{
	struct rx_buf *b = container_of(w, struct rx_buf, work);

	request_run(b->rx->s, rx_request(b), b->size);
	rx_buf_release(b);
}

/* Requests that own pages of the kernel's, and are done without anybody else's request (pool.c). */
static bool independent(const struct fuse_in_header *in)
{
	const struct fuse_write_in *write = (const void *)(in + 1);
	const struct fuse_read_in *rd = (const void *)(in + 1);

	/* Past the cache nothing is owned, and dirty pages may have to be waited for: stores_first(). */
	return (in->opcode == FUSE_READ && !(in->len >= sizeof(*in) + sizeof(*rd) && read_past_cache(rd->read_flags))) ||
	       (in->opcode == FUSE_WRITE && in->len >= sizeof(*in) + sizeof(*write) &&
		!write_past_cache(write->write_flags));
}

bool request_is_patient(const struct rx_buf *b)
{
	uint32_t opcode = rx_header(b)->opcode;

	return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET;
}

bool request_is_brief(const struct rx_buf *b)
{
	const struct fuse_in_header *in = rx_header(b);
	const struct fuse_setattr_in *setattr = (const void *)(in + 1);
	const struct fuse_read_in *rd = (const void *)(in + 1);

	if (b->s->sdp->sd_lm->lm_has_peers)
		return false;
	switch (in->opcode) {
	case FUSE_LOOKUP:
	case FUSE_FORGET:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_OPEN:
	case FUSE_CREATE:
	case FUSE_RELEASE:
	case FUSE_GETXATTR:
	case FUSE_SETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_RELEASEDIR:
	case FUSE_STATFS:
		return true;
	/* To copy more takes longer than to hand over, and two processors copy at once. */
	case FUSE_READ:
		return in->len >= sizeof(*in) + sizeof(*rd) && rd->size <= BRIEF_BYTES;
	case FUSE_WRITE:
		return in->len <= BRIEF_BYTES + RX_PAGE;
	case FUSE_SETATTR:
		return in->len >= sizeof(*in) + sizeof(*setattr) && !(setattr->valid & FATTR_SIZE);
	default:
		return false;
	}
}

static void submit(struct server *s, struct work *w, void (*fn)(struct work *), const struct rx_buf *b)
{
	list_init(&w->list);
	w->fn = fn;
	w->independent = independent(rx_header(b));
	w->patient = request_is_patient(b);
	pool_submit(s->pool, w);
}

bool request_submit_copy(struct server *s, const struct rx_buf *b)
{
	struct request_copy *rc = malloc(sizeof(*rc) + b->size);

	if (!rc)
		return false;
	rc->s = s;
	rc->size = b->size;
	memcpy(rc->copy, rx_header(b), b->size);
	submit(s, &rc->w, run_copy, b);
	return true;
}

static void rx_hand_over(struct rx *rx, struct rx_buf *b)
{
	if (rx_header(b)->opcode != FUSE_WRITE && request_submit_copy(rx->s, b))
		rx_buf_release(b);
	else
		submit(rx->s, &b->work, run_buffer, b);
}

/* --- replies of the fast path --- */

static void rx_reply_done(struct io_handler *h, struct io_ring *r, int32_t res, uint32_t flags)
{
	struct rx_buf *b = container_of(h, struct rx_buf, reply_h);

	/* -ENOENT: the caller was interrupted and is gone; anything else means that the mount is gone. */
	b->rx->replies--;
	gfs2_dio_replied(b->rx->s->sdp, b->dio.done_ns);
	rx_buf_release(b);
}

void rx_reply(struct rx_buf *b, int error, const void *data_in_place, size_t len)
{
	const struct fuse_in_header *in = (const void *)rx_request(b);
	uint64_t unique = in->unique;
	struct fuse_out_header *out;
	struct io_uring_sqe *sqe;

	/* Data to be sent lie at the payload; the header goes directly in front of them. */
	if (data_in_place)
		out = (struct fuse_out_header *)((char *)data_in_place - sizeof(*out));
	else
		out = (struct fuse_out_header *)b->mem;
	out->len = (uint32_t)(sizeof(*out) + len);
	out->error = error;
	out->unique = unique;
	if (b->reader) {
		readers_reply(b, out, out->len);
		return;
	}
	b->reply_h.complete = rx_reply_done;
	b->rx->replies++;
	sqe = io_ring_sqe(b->rx->ring);
	io_uring_prep_write(sqe, b->rx->fuse_fd, out, out->len, -1);
	sqe->flags |= b->rx->fuse_flags;
	io_uring_sqe_set_data(sqe, &b->reply_h);
}

/* --- reading --- */

static bool rx_has_device(const struct rx *rx)
{
	return io_quick_max(rx->s->sdp->sd_io) == UINT32_MAX;
}

/* A request has been queued for the device. */
static void rx_send(struct rx *rx)
{
	if (rx_has_device(rx) && ++rx->unsent >= RX_SEND) {
		rx->unsent = 0;
		io_ring_send(rx->ring);
	}
}

static void rx_read_done(struct io_handler *h, struct io_ring *r, int32_t res, uint32_t flags)
{
	struct rx_buf *b = container_of(h, struct rx_buf, read_h);
	struct rx *rx = b->rx;

	rx->reads--;
	list_del_init(&b->list);
	if (res <= 0) {
		if (readers_cannot_read(rx->s, res))
			rx->gone = true;
		rx_buf_release(b);
		return;
	}
	rx->hits++;
	b->size = (uint32_t)res;
	rx_buf_used(b, b->size);
	if (fast_request(b, rx->ring)) {
		rx->fast++;
		rx_send(rx);
	} else {
		rx_hand_over(rx, b);
	}
}

static void rx_wake_done(struct io_handler *h, struct io_ring *r, int32_t res, uint32_t flags)
{
	struct rx *rx = container_of(h, struct rx, wake_h);
	eventfd_t value;

	/* What is written from now on wakes us again; what was written up to now is looked at next. */
	eventfd_read(rx->wake_fd, &value);
	rx->wake_armed = false;
}

static void rx_watch(struct rx *rx)
{
	struct io_uring_sqe *sqe;

	if (rx->wake_armed)
		return;
	rx->wake_armed = true;
	sqe = io_ring_sqe(rx->ring);
	io_uring_prep_poll_add(sqe, rx->wake_fd, POLLIN);
	io_uring_sqe_set_data(sqe, &rx->wake_h);
}

static void rx_post_reads(struct rx *rx)
{
	while (rx->reads < rx->want) {
		struct rx_buf *b = rx_buf_get(rx);
		struct io_uring_sqe *sqe;

		if (!b)
			break;
		b->read_h.complete = rx_read_done;
		sqe = io_ring_sqe(rx->ring);
		io_uring_prep_read(sqe, rx->fuse_fd, rx_request(b), RX_MEM_SIZE - RX_PAGE, -1);
		sqe->flags |= rx->fuse_flags;
		io_uring_sqe_set_data(sqe, &b->read_h);
		list_add_tail(&b->list, &rx->reading);
		rx->reads++;
	}
}

/* Take back all posted reads but @keep; each still completes, with a request or with -ECANCELED. */
static void rx_cancel_reads(struct rx *rx, unsigned keep)
{
	struct rx_buf *b;

	list_for_each_entry(b, &rx->reading, list) {
		struct io_uring_sqe *sqe;

		if (keep) {
			keep--;
			continue;
		}
		sqe = io_ring_sqe(rx->ring);
		io_uring_prep_cancel(sqe, &b->read_h, 0);
		io_uring_sqe_set_data(sqe, NULL);
	}
}

/*
 * Requests that are handed over, and those that come one by one with hardly anything at the device, are better off with
 * readers.  Fewer at the device than make readers give way (READ_DEEP): so that it does not go to and fro.  Whether we had to
 * sleep until one came tells nothing: a lone caller's next request may be there before we look.
 */
static void rx_calm(struct rx *rx)
{
	if (rx->fast && (rx->hits > 1 || io_ring_inflight(rx->ring) > RX_CALM_INFLIGHT))
		rx->calm = 0;
	else
		rx->calm += rx->hits;
	if (rx->calm < RX_CALM || !rx->rings)
		return;
	rx->calm = 0;
	readers_event(rx->s, READ_CALM);
}

/* How many reads should be posted?  Twice what was found together; the least after a lone caller's requests. */
static void rx_adapt(struct rx *rx)
{
	if (rx->hits > 1) {
		rx->lone = 0;
		if (rx->hits >= rx->want)
			rx->want = min_t(unsigned, 2 * rx->want, rx->max_reads);
	} else if (rx->hits == 1 && rx->want > RX_MIN_READS && ++rx->lone >= RX_LONE_HITS) {
		rx->lone = 0;
		rx->want = RX_MIN_READS;
		rx_cancel_reads(rx, RX_MIN_READS);
	}
	rx_calm(rx);
	rx->hits = rx->fast = rx->unsent = 0;
}

/* Post what reads there should be, or withdraw them all, once, since the readers read. */
static void rx_follow_mode(struct rx *rx)
{
	bool rings = readers_rings_read(rx->s);

	if (rx->rings && !rings) {
		rx_cancel_reads(rx, 0);
		rx->want = RX_MIN_READS;
		rx->lone = 0;
	}
	rx->rings = rings;
	if (rings)
		rx_post_reads(rx);
}

/*
 * Submit what is queued and handle what is there; sleep only if that is nothing, and never without a posted read, if the
 * rings read (those that were there may just have come back cancelled), nor without an armed wake_fd: the look without
 * sleeping may have used it up, and who wants us to look at something writes there once.
 */
static int rx_wait(struct rx *rx)
{
	int error = io_ring_wait(rx->ring, 0);
	bool sleep = !error && !rx->hits && (rx->reads || !rx->rings) && rx->wake_armed && !rx->gone;

	if (sleep)
		error = io_ring_wait(rx->ring, 1);
	rx_adapt(rx);
	return error;
}

static void *rx_thread(void *arg)
{
	struct rx *rx = arg;
	int error;

	pthread_setname_np(pthread_self(), "gfs2-rx");
	/* The ring is single-issuer: it must be made by the thread that uses it. */
	while (!rx->gone && !atomic_load_explicit(&rx->s->stopping, memory_order_acquire)) {
		rx_follow_mode(rx);
		rx_watch(rx);
		error = rx_wait(rx);
		if (error && error != -EINTR && error != -EAGAIN && error != -EBUSY) {
			fs_err("receive ring: %s", strerror(-error));
			break;
		}
	}
	/* What was sent must come back before the ring's memory may go. */
	rx_cancel_reads(rx, 0);
	while (io_ring_inflight(rx->ring) || rx->replies || rx->reads)
		if (io_ring_wait(rx->ring, 1) == -EBADF)
			break;
	eventfd_write(rx->s->wake_fd, 1);
	return NULL;
}

/* The ring's creator must be its user (SINGLE_ISSUER), so setting up happens on the thread. */
struct rx_startup {
	struct rx *rx;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int result; /* 1: not known yet */
};

static int rx_ring_setup(struct rx *rx)
{
	struct iovec iov[RX_REGISTERED];
	int error = io_ring_create(rx->s->sdp->sd_io, 256, true, &rx->ring);

	if (error)
		return error;
	/* Spares the kernel a look-up per request. */
	rx->fuse_fd = rx->s->fd;
	if (io_uring_register_files_update(io_ring_raw(rx->ring), RX_FUSE_SLOT, &rx->s->fd, 1) == 1) {
		rx->fuse_fd = RX_FUSE_SLOT;
		rx->fuse_flags = IOSQE_FIXED_FILE;
	}
	for (unsigned i = 0; i < RX_REGISTERED; i++)
		iov[i] = (struct iovec){ rx->bufs[i].mem,
					  RX_PAGE + RX_REGISTERED_PAYLOAD };
	error = io_ring_register_buffers(rx->ring, iov, RX_REGISTERED);
	if (error) {
		fs_warn("receive buffers could not be registered (%s): slower direct I/O; raise the "
			"locked-memory limit",
			strerror(-error));
		/* The buffers are all right, only not known to the ring. */
		for (unsigned i = 0; i < RX_REGISTERED; i++)
			rx->bufs[i].unregistered = true;
	}
	return 0;
}

static void *rx_main(void *arg)
{
	struct rx_startup *st = arg;
	struct rx *rx = st->rx;
	int error = rx_ring_setup(rx);

	pthread_mutex_lock(&st->lock);
	st->result = error;
	pthread_cond_signal(&st->cond);
	pthread_mutex_unlock(&st->lock);
	if (error)
		return NULL;
	rx_thread(rx);
	io_ring_destroy(rx->ring);
	return NULL;
}

int rx_start(struct rx *rx)
{
	struct rx_startup st = { .rx = rx, .result = 1 };
	int error;

	pthread_mutex_init(&st.lock, NULL);
	pthread_cond_init(&st.cond, NULL);
	error = -pthread_create(&rx->thread, NULL, rx_main, &st);
	if (!error) {
		pthread_mutex_lock(&st.lock);
		while (st.result > 0)
			pthread_cond_wait(&st.cond, &st.lock);
		error = st.result;
		pthread_mutex_unlock(&st.lock);
		if (error)
			pthread_join(rx->thread, NULL);
	}
	rx->started = !error;
	pthread_cond_destroy(&st.cond);
	pthread_mutex_destroy(&st.lock);
	return error;
}

int rx_create(struct server *s, struct rx **out)
{
	struct rx *rx = xzalloc(sizeof(*rx));

	rx->s = s;
	rx->want = RX_MIN_READS;
	rx->max_reads = rx_has_device(rx) ? RX_MAX_READS_DEVICE : RX_MAX_READS;
	list_init(&rx->reading);
	rx->wake_h.complete = rx_wake_done;
	pthread_mutex_init(&rx->lock, NULL);
	list_init(&rx->free);
	list_init(&rx->free_extra);
	rx->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rx->slab = mmap(NULL, (size_t)RX_REGISTERED * RX_MEM_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rx->wake_fd < 0 || rx->slab == MAP_FAILED) {
		int error = -errno;

		if (rx->wake_fd >= 0)
			close(rx->wake_fd);
		free(rx);
		return error;
	}
	rx->bufs = xzalloc(RX_REGISTERED * sizeof(*rx->bufs));
	for (unsigned i = 0; i < RX_REGISTERED; i++) {
		struct rx_buf *b = &rx->bufs[i];

		b->rx = rx;
		b->s = rx->s;
		b->mem = rx->slab + (size_t)i * RX_MEM_SIZE;
		b->index = (int)i;
		list_add_tail(&b->list, &rx->free);
	}
	*out = rx;
	return 0;
}

void rx_stop_wait(struct rx *rx)
{
	if (!rx->started)
		return;
	eventfd_write(rx->wake_fd, 1);
	pthread_join(rx->thread, NULL);
	rx->started = false;
}

void rx_mode_changed(struct server *s)
{
	for (unsigned i = 0; i < s->nr_rx; i++)
		eventfd_write(s->rx[i]->wake_fd, 1);
}

/* After the pool is gone: no buffer is out any more. */
void rx_destroy(struct rx *rx)
{
	struct rx_buf *b, *tmp;

	if (!rx)
		return;
	list_for_each_entry_safe(b, tmp, &rx->free_extra, list)
		rx_buf_free(b);
	munmap(rx->slab, (size_t)RX_REGISTERED * RX_MEM_SIZE);
	free(rx->bufs);
	close(rx->wake_fd);
	pthread_mutex_destroy(&rx->lock);
	free(rx);
}
