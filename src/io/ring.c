/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One io_uring and the life of a request on it.
 *
 * A request has at most one SQE under way.  Its phase says what that SQE is:
 *
 *   PH_DELAY  a timer, because a fault rule delays the request        -> PH_IO, or its end
 *   PH_IO     the transfer, or what earlier transfers left of it      -> PH_IO, PH_FLUSH, or its end
 *   (a store that is memory has no SQE in PH_IO and PH_FLUSH: memory_transfer(); nor has what makes durable and is waited for
 *   by itself: durable_call())
 *   PH_FLUSH  a flush: the request itself, or instead of RWF_DSYNC    -> its end
 *   PH_END    a no-op that carries the result of a request that was refused: done() always runs from
 *             io_ring_wait(), never from within io_ring_submit_req()
 *
 * Everything here runs on the ring's own thread, so there are no locks.
 *
 * The kernel keeps completions that find no room in the completion queue, but may refuse new submissions until
 * they have been fetched; then they are moved to r_stash and dispatched by the next io_ring_wait().
 */
#include "io/engine.h"

#include <limits.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/util.h"
#include "util/wait.h"

enum { PH_DELAY, PH_IO, PH_FLUSH, PH_END };

/* Of one SQE; the kernel itself stops a page short of 2 GiB. */
#define MAX_TRANSFER (1u << 30)
#define MAX_RETRIES 100

static void req_complete(struct io_handler *h, struct io_ring *r, int32_t res, uint32_t flags);

/* --- rings --- */

static int try_setup(struct io_ring *r, unsigned entries, unsigned flags)
{
	struct io_uring_params p = {
		.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		.cq_entries = entries * 4,
	};

	int error = io_uring_queue_init_params(entries, &r->r_uring, &p);

	/* A child that has closed our descriptors would still have the rings, and with them what is registered there: the volume, /dev/fuse. */
	if (!error)
		io_uring_ring_dontfork(&r->r_uring);
	return error;
}

static int ring_setup(struct io_ring *r, unsigned entries, bool defer)
{
	/* Best first; older kernels refuse what they do not know with EINVAL. */
	static const unsigned modes[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int error = -EINVAL;

	for (unsigned i = defer ? 0 : 1; i < ARRAY_SIZE(modes) && error == -EINVAL; i++)
		error = try_setup(r, entries, modes[i]);
	return error;
}

int ring_create(struct io_engine *e, unsigned entries, bool defer, bool worker,
		struct io_ring **out)
{
	/* Slot 0 is the volume, the others are the owner's. */
	int files[4] = { e->e_fd, -1, -1, -1 };
	struct io_ring *r = xzalloc(sizeof(*r));
	int error = ring_setup(r, entries, defer);

	if (error) {
		if (!atomic_exchange_explicit(&e->e_no_rings, true, memory_order_relaxed))
			fs_err("cannot set up io_uring: %s", strerror(-error));
		free(r);
		return error;
	}
	r->r_engine = e;
	r->r_engine_id = e->e_id;
	r->r_thread = pthread_self();
	r->r_worker = worker;
	r->r_quick = defer;
	list_init(&r->r_engine_list);
	list_init(&r->r_called);
	r->r_max_inflight = r->r_uring.cq.ring_entries;
	/* Both only spare the kernel a look-up per call. */
	r->r_fixed_file = !io_uring_register_files(&r->r_uring, files, ARRAY_SIZE(files));
	io_uring_register_ring_fd(&r->r_uring);

	rmutex_lock(&io_rings_lock);
	list_add_tail(&r->r_engine_list, &e->e_rings);
	rmutex_unlock(&io_rings_lock);
	*out = r;
	return 0;
}

int io_ring_create(struct io_engine *e, unsigned entries, bool defer_taskrun, struct io_ring **out)
{
	return ring_create(e, entries, defer_taskrun, false, out);
}

void ring_close_locked(struct io_ring *r)
{
	struct io_engine *e = r->r_engine;

	rmutex_assert_held(&io_rings_lock);
	for (unsigned i = 0; i < ST_NR; i++)
		e->e_retired[i] += atomic_load_explicit(&r->r_stats[i], memory_order_relaxed);
	list_del_init(&r->r_engine_list);

	/*
	 * The kernel takes a ring apart in the background; what it must give back before we go on is
	 * the descriptor of the volume (somebody may wait for the device to be unused).
	 */
	if (r->r_fixed_file)
		io_uring_unregister_files(&r->r_uring);
	/*
	 * A registered ring descriptor is a slot of its own thread: another thread would give back a
	 * slot of its own instead, maybe one in use.  The slot dies with its thread.
	 */
	if (!pthread_equal(r->r_thread, pthread_self()))
		r->r_uring.int_flags = 0;
	io_uring_queue_exit(&r->r_uring);
}

void ring_free(struct io_ring *r)
{
	free(r->r_stash);
	free(r);
}

void io_ring_destroy(struct io_ring *r)
{
	if (!r)
		return;
	while (r->r_inflight)
		GFS2_BUG_ON(io_ring_wait(r, 1));
	rmutex_lock(&io_rings_lock);
	ring_close_locked(r);
	rmutex_unlock(&io_rings_lock);
	ring_free(r);
}

struct io_uring *io_ring_raw(struct io_ring *r)
{
	return &r->r_uring;
}

unsigned io_ring_inflight(const struct io_ring *r)
{
	return r->r_inflight;
}

int io_ring_register_buffers(struct io_ring *r, const struct iovec *iov, unsigned nr)
{
	return io_uring_register_buffers(&r->r_uring, iov, nr);
}

static unsigned take_cqes(struct io_ring *r, struct cqe_copy *to, unsigned max)
{
	struct io_uring_cqe *cqe;
	unsigned head, nr = 0;

	io_uring_for_each_cqe(&r->r_uring, head, cqe) {
		if (nr == max)
			break;
		to[nr++] = (struct cqe_copy){ cqe->user_data, cqe->res, cqe->flags };
	}
	if (nr)
		io_uring_cq_advance(&r->r_uring, nr);
	return nr;
}

/* The kernel takes nothing before completions have been fetched, or is out of memory for now. */
static void make_room(struct io_ring *r, int error)
{
	unsigned room = r->r_uring.cq.ring_entries;

	/* Requests are queued whose memory the caller believes to be in use: no way to go on. */
	GFS2_BUG_ON(error != -EBUSY && error != -EAGAIN && error != -ENOMEM && error != -EINTR);
	if (r->r_max_stash - r->r_nr_stash < room) {
		r->r_max_stash = r->r_nr_stash + room;
		r->r_stash = xrealloc(r->r_stash, r->r_max_stash * sizeof(*r->r_stash));
	}
	r->r_nr_stash += take_cqes(r, r->r_stash + r->r_nr_stash, room);
	io_uring_get_events(&r->r_uring);
	sched_yield();
}

struct io_uring_sqe *io_ring_sqe(struct io_ring *r)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&r->r_uring))) {
		int ret = io_uring_submit(&r->r_uring);

		if (ret < 0)
			make_room(r, ret);
	}
	return sqe;
}

static void dispatch_copies(struct io_ring *r, const struct cqe_copy *c, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		struct io_handler *h = (struct io_handler *)(uintptr_t)c[i].user_data;

		if (h)
			h->complete(h, r, c[i].res, c[i].flags);
	}
}

/* Everything that is there.  Handlers may queue SQEs, and so add to the stash. */
static unsigned dispatch(struct io_ring *r)
{
	struct cqe_copy batch[32];
	unsigned nr, total = 0;

	while (!list_empty(&r->r_called)) {
		struct io_req *req = list_first_entry(&r->r_called, struct io_req, called_list);

		list_del_init(&req->called_list);
		req_complete(&req->h, r, req->called_res, 0);
		total++;
	}
	while (r->r_nr_stash) {
		struct cqe_copy *stash = r->r_stash;

		nr = r->r_nr_stash;
		r->r_stash = NULL;
		r->r_nr_stash = r->r_max_stash = 0;
		dispatch_copies(r, stash, nr);
		free(stash);
		total += nr;
	}
	/* Taken out of the queue before handlers run: a slow handler does not keep it full. */
	while ((nr = take_cqes(r, batch, ARRAY_SIZE(batch)))) {
		dispatch_copies(r, batch, nr);
		total += nr;
	}
	return total;
}

/*
 * A lone transfer to a device with an I/O scheduler does not go to the device at once: the kernel (blk_mq_submit_bio(), 6.1) leaves that to a
 * kernel thread, a task switch more and as much delay, unless the task has a plug, whose end dispatches.  A file system's direct I/O has one,
 * io_uring only for more than two requests in one submission.  So two that do nothing, and complete without a word, keep it company.
 */
#define COMPANY 3u

static void not_alone(struct io_ring *r)
{
	if (!r->r_transfer)
		return;
	r->r_transfer = false;
	for (unsigned nr = io_uring_sq_ready(&r->r_uring); nr && nr < COMPANY; nr++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&r->r_uring);

		if (!sqe)
			return;
		io_uring_prep_nop(sqe);
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		io_uring_sqe_set_data(sqe, NULL);
	}
}

/* Is there anything that only a system call would bring forward? */
static bool must_enter(struct io_ring *r)
{
	return io_uring_sq_ready(&r->r_uring) ||
	       (r->r_uring.flags & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN) &&
		!(r->r_uring.flags & IORING_SETUP_TASKRUN_FLAG)) ||
	       (IO_URING_READ_ONCE(*r->r_uring.sq.kflags) &
		(IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN));
}

int io_ring_wait(struct io_ring *r, unsigned nr)
{
	unsigned got = r->r_nr_stash || !list_empty(&r->r_called) ? dispatch(r) : 0;

	gfs2_assert_debug(pthread_equal(r->r_thread, pthread_self()) || !r->r_inflight);
	do {
		int ret = 0;

		not_alone(r);
		if (got < nr) {
			about_to_wait();
			ret = io_uring_submit_and_wait(&r->r_uring, nr - got);
		} else if (must_enter(r)) {
			/* Not submit(): it would not run what DEFER_TASKRUN has deferred. */
			ret = io_uring_submit_and_get_events(&r->r_uring);
		}
		got += dispatch(r);
		if (ret == -EINTR)
			return 0;
		if (ret == -EBUSY || ret == -EAGAIN || ret == -ENOMEM)
			make_room(r, ret);
		else if (ret < 0)
			return ret;
	} while (got < nr || r->r_nr_stash || !list_empty(&r->r_called));
	return 0;
}

void io_ring_send(struct io_ring *r)
{
	not_alone(r);
	/* What is refused stays queued. */
	io_uring_submit(&r->r_uring);
}

/* --- requests --- */

void io_req_init(struct io_req *req, enum io_op op, enum io_class cls, void *buf, uint32_t len,
		 uint64_t pos)
{
	memset(req, 0, sizeof(*req));
	req->op = op;
	req->cls = cls;
	req->buf_index = -1;
	req->pos = pos;
	req->iov1 = (struct iovec){ buf, len };
	req->iov = &req->iov1;
	req->nr_iov = op == IO_FLUSH ? 0 : 1;
}

/* What is wrong with the request, before anything is sent. */
static int req_check(struct io_req *req)
{
	const struct io_engine *e = req->ring->r_engine;
	uintptr_t bits = req->pos;

	req->total = 0;
	if (req->op == IO_FLUSH)
		return 0;
	if (req->op == IO_WRITE && (e->e_ro || (atomic_load_explicit(&e->e_refuses, memory_order_relaxed) &&
						!atomic_load_explicit(&e->e_may_write, memory_order_relaxed))))
		return -EROFS;
	if (req->op == IO_WRITE && atomic_load_explicit(&e->e_stopped, memory_order_relaxed))
		return -EIO;
	for (unsigned i = 0; i < req->nr_iov; i++) {
		bits |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
		req->total += req->iov[i].iov_len;
	}
	if (bits & (e->e_align - 1))
		return -EINVAL;
	if (req->pos > e->e_size || req->total > e->e_size - req->pos)
		return -EIO;
	return 0;
}

/*
 * The part of the request that goes into the next SQE, as a vector: the caller's own array if that is
 * exactly it, else a copy that starts at done_bytes and ends at @max bytes or IOV_MAX elements.
 */
static int req_vector(struct io_req *req, uint64_t max, struct iovec **iov, unsigned *nr)
{
	uint64_t skip = req->done_bytes;
	unsigned n = 0;

	*iov = req->iov;
	*nr = min_t(unsigned, req->nr_iov, IOV_MAX);
	if (!skip && max >= req->total)
		return 0;
	/* Half of it is done: an error for want of a few bytes could cost dirty data, or the log. */
	if (!req->cont_iov)
		req->cont_iov = xmalloc(*nr * sizeof(struct iovec));
	for (unsigned i = 0; i < req->nr_iov && n < *nr && max; i++) {
		const struct iovec *v = &req->iov[i];
		uint64_t len = v->iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len = min_t(uint64_t, len - skip, max);
		req->cont_iov[n++] = (struct iovec){ (char *)v->iov_base + skip, len };
		max -= len;
		skip = 0;
	}
	*iov = req->cont_iov;
	*nr = n;
	return 0;
}

static int prep_transfer(struct io_req *req, struct io_uring_sqe *sqe, int fd)
{
	uint64_t pos = req->pos + req->done_bytes;
	uint64_t max = req->short_bytes ? req->short_bytes : MAX_TRANSFER;
	struct iovec *iov;
	unsigned nr;

	if (req->nr_iov == 1) {
		char *buf = (char *)req->iov[0].iov_base + req->done_bytes;
		unsigned len = min_t(uint64_t, req->total - req->done_bytes, max);

		if (req->buf_index >= 0 && req->op == IO_READ)
			io_uring_prep_read_fixed(sqe, fd, buf, len, pos, req->buf_index);
		else if (req->buf_index >= 0)
			io_uring_prep_write_fixed(sqe, fd, buf, len, pos, req->buf_index);
		else if (req->op == IO_READ)
			io_uring_prep_read(sqe, fd, buf, len, pos);
		else
			io_uring_prep_write(sqe, fd, buf, len, pos);
		return 0;
	}
	if (req_vector(req, max, &iov, &nr))
		return -ENOMEM;
	if (req->op == IO_READ)
		io_uring_prep_readv(sqe, fd, iov, nr, pos);
	else
		io_uring_prep_writev(sqe, fd, iov, nr, pos);
	return 0;
}

/*
 * A store that is memory (tmpfs) cannot be asked without blocking, so io_uring hands every transfer to a kernel
 * thread of its own: two task switches for one memcpy, and there is no device to wait for.  So the ring's thread copies, and
 * io_ring_wait() completes the request as if it had come from the queue.  Only a receive thread does that with
 * small ones alone; the large ones are better left to a thread that may wait (io_quick_max()).
 */
#define MEMORY_INLINE_MAX (64u << 10)

uint32_t io_quick_max(const struct io_engine *e)
{
	return e->e_memory ? MEMORY_INLINE_MAX : UINT32_MAX;
}

/*
 * A dirty data buffer may change while it is being written, as a page of the kernel's page cache may: it is dirty again then, and
 * written once more.  The bare system call keeps the thread sanitizer from seeing a race in that; everything else that is written
 * (metadata and log images, direct writes) may not change, and is seen.
 */
static ssize_t write_changing(int fd, const struct iovec *iov, unsigned nr, uint64_t pos)
{
	return syscall(SYS_pwritev, (long)fd, iov, (long)nr, (long)pos, 0L);
}

static void memory_transfer(struct io_req *req)
{
	struct io_engine *e = req->ring->r_engine;
	uint64_t pos = req->pos + req->done_bytes;
	uint64_t max = req->short_bytes ? req->short_bytes : MAX_TRANSFER;
	struct iovec *iov;
	unsigned nr;
	ssize_t n;

	if (req->in_place) {
		n = inmem_in_place(e, pos, min_t(uint64_t, req->total - req->done_bytes, max));
	} else if (req->phase == PH_FLUSH) {
		n = fdatasync(e->e_fd);
	} else if (req_vector(req, max, &iov, &nr)) {
		n = -1;
		errno = ENOMEM;
	} else if (req->mapped && (n = inmem_transfer(e, req->op, iov, nr, pos)) >= 0) {
		/* copied */
	} else if (req->op == IO_READ) {
		n = preadv(e->e_fd, iov, (int)nr, (off_t)pos);
	} else if (req->cls == IO_DATA) {
		n = write_changing(e->e_fd, iov, nr, pos);
	} else {
		n = pwritev(e->e_fd, iov, (int)nr, (off_t)pos);
	}
	req->called_res = n < 0 ? -errno : (int32_t)n;
	list_add_tail(&req->called_list, &req->ring->r_called);
}

/*
 * A flush blocks, so io_uring hands it to a kernel thread, and a durable write to a file on a device without FUA ends in another one, which
 * flushes: each is woken, sleeps for the device, and wakes us.  Who waits for this request alone (the log) had better sleep for the
 * device himself.  Not for a durable write to a block device: there the block layer flushes without a thread's help (or uses FUA), and the system
 * call, unlike io_uring, flushes once more.
 */
static void durable_call(struct io_req *req)
{
	int fd = req->ring->r_engine->e_fd;
	uint64_t max = req->short_bytes ? req->short_bytes : MAX_TRANSFER;
	struct iovec *iov;
	unsigned nr;
	ssize_t n;

	about_to_wait();
	if (req->phase == PH_FLUSH) {
		n = fdatasync(fd);
	} else if (req_vector(req, max, &iov, &nr)) {
		n = -1;
		errno = ENOMEM;
	} else {
		n = pwritev2(fd, iov, (int)nr, (off_t)(req->pos + req->done_bytes), RWF_DSYNC);
	}
	req->called_res = n < 0 ? -errno : (int32_t)n;
	list_add_tail(&req->called_list, &req->ring->r_called);
}

/* Queue the SQE of the request's phase. */
static void req_issue(struct io_req *req)
{
	struct io_ring *r = req->ring;
	struct io_engine *e = r->r_engine;
	struct io_uring_sqe *sqe;
	int fd = r->r_fixed_file ? 0 : e->e_fd;

	if (e->e_memory && (req->phase == PH_IO || req->phase == PH_FLUSH) &&
	    (!r->r_quick || req->total <= MEMORY_INLINE_MAX)) {
		memory_transfer(req);
		return;
	}
	req->sent_dsync = req->phase == PH_IO && req->op == IO_WRITE && req->fua && !req->dsync_error &&
			  !atomic_load_explicit(&e->e_no_dsync, memory_order_relaxed);
	if (req->phase == PH_IO && req->fua && !req->sent_dsync && !req->dsync_error)
		req->need_flush = true;
	if (req->alone && (req->phase == PH_FLUSH || (req->sent_dsync && !e->e_blockdev))) {
		durable_call(req);
		return;
	}
	sqe = io_ring_sqe(r);
	switch (req->phase) {
	case PH_DELAY:
		io_uring_prep_timeout(sqe, &req->delay, 0, 0);
		break;
	case PH_FLUSH:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case PH_IO:
		if (!prep_transfer(req, sqe, fd)) {
			sqe->rw_flags = req->sent_dsync ? RWF_DSYNC : 0;
			break;
		}
		req->phase = PH_END;
		req->inject = -ENOMEM;
		/* fall through */
	default:
		io_uring_prep_nop(sqe);
	}
	if (req->phase == PH_IO || req->phase == PH_FLUSH) {
		if (r->r_fixed_file)
			sqe->flags |= IOSQE_FIXED_FILE;
		/* It has been refused once because it would have blocked: not a second time. */
		if (req->retries)
			sqe->flags |= IOSQE_ASYNC;
		else if (req->phase == PH_IO && e->e_scheduled && r->r_uring.features & IORING_FEAT_CQE_SKIP)
			r->r_transfer = true;
	}
	io_uring_sqe_set_data(sqe, &req->h);
}

static void req_apply_faults(struct io_req *req)
{
	struct io_engine *e = req->ring->r_engine;
	struct fault_hit hit;

	if (likely(!atomic_load_explicit(&e->e_has_faults, memory_order_relaxed)))
		return;
	if (!fault_match(e, req, &hit))
		return;
	ring_count(req->ring, ST_INJECTED, 1);
	req->inject = -hit.error;
	if (hit.short_bytes && hit.short_bytes < req->total)
		req->short_bytes = max_t(uint32_t, ALIGN_DOWN(hit.short_bytes, e->e_align), e->e_align);
	if (hit.delay_us) {
		req->delay.tv_sec = hit.delay_us / 1000000;
		req->delay.tv_nsec = hit.delay_us % 1000000 * 1000;
		req->phase = PH_DELAY;
	} else if (hit.error && !req->short_bytes) {
		req->phase = PH_END;
	}
}

void io_ring_submit_req(struct io_ring *r, struct io_req *req)
{
	int error;

	req->h.complete = req_complete;
	req->ring = r;
	req->res = 0;
	req->done_bytes = 0;
	req->cont_iov = NULL;
	req->inject = 0;
	req->short_bytes = 0;
	req->retries = 0;
	req->sent_dsync = req->need_flush = false;
	req->dsync_error = 0;
	req->phase = req->op == IO_FLUSH ? PH_FLUSH : PH_IO;
	r->r_inflight++;

	error = req_check(req);
	if (unlikely(error || (!req->total && req->op != IO_FLUSH))) {
		req->phase = PH_END;
		req->inject = error;
	} else {
		req_apply_faults(req);
	}
	req_issue(req);
}

/* Not asked is not failed. */
static bool of_the_device(int error)
{
	return error != -EAGAIN && error != -EINTR && error != -ENOMEM && error != -ECANCELED;
}

/* What a flush's @error is to its caller: that of the first one that failed. */
static int flush_result(struct io_engine *e, int error)
{
	int first = 0;

	if (!error || !of_the_device(error))
		return error ? error : io_flush_error(e);
	if (atomic_compare_exchange_strong_explicit(&e->e_flush_error, &first, error, memory_order_acq_rel, memory_order_acquire))
		fs_err("the store could not write what it had been given: %s", strerror(-error));
	return error;
}

/* The request is the owner's again as soon as done() is called. */
static void req_end(struct io_req *req, int error)
{
	struct io_ring *r = req->ring;

	if (req->op == IO_FLUSH || req->phase == PH_FLUSH)
		error = flush_result(r->r_engine, error);
	ring_count(r, ST_OPS + req->op, 1);
	if (error)
		ring_count(r, ST_ERRORS, 1);
	else
		ring_count(r, ST_BYTES + req->op, req->total);
	free(req->cont_iov);
	req->cont_iov = NULL;
	req->res = error;
	r->r_inflight--;
	if (req->done)
		req->done(req);
}

static bool may_retry(struct io_req *req, int res)
{
	if (res != -EAGAIN && res != -EINTR)
		return false;
	if (req->retries == MAX_RETRIES)
		return false;
	req->retries++;
	return true;
}

/* A transfer that moved something. */
static void req_transferred(struct io_req *req, uint32_t bytes)
{
	const struct io_engine *e = req->ring->r_engine;

	req->done_bytes += bytes;
	if (req->done_bytes < req->total) {
		/* Direct I/O cannot go on in the middle of a sector: that one is done again. */
		bytes -= req->done_bytes & (e->e_align - 1);
		req->done_bytes = ALIGN_DOWN(req->done_bytes, e->e_align);
		if (!bytes) {
			req_end(req, -EIO);
			return;
		}
	}
	if (req->short_bytes && req->inject) {
		req_end(req, req->inject);
		return;
	}
	req->short_bytes = 0;
	req->retries = 0;
	if (req->done_bytes >= req->total) {
		if (req->dsync_error) {
			req_end(req, flush_result(req->ring->r_engine, req->dsync_error));
			return;
		}
		if (!req->need_flush) {
			req_end(req, 0);
			return;
		}
		req->phase = PH_FLUSH;
	}
	req_issue(req);
}

static void req_complete(struct io_handler *h, struct io_ring *r, int32_t res, uint32_t flags)
{
	struct io_req *req = container_of(h, struct io_req, h);

	switch (req->phase) {
	case PH_DELAY:
		req->phase = req->op == IO_FLUSH ? PH_FLUSH : PH_IO;
		if (req->inject && !req->short_bytes)
			req_end(req, req->inject);
		else
			req_issue(req);
		return;
	case PH_END:
		req_end(req, req->inject);
		return;
	case PH_FLUSH:
		if (may_retry(req, res))
			req_issue(req);
		else
			req_end(req, res < 0 ? res : 0);
		return;
	}
	if (res == -EOPNOTSUPP && req->sent_dsync) {
		if (!atomic_exchange_explicit(&r->r_engine->e_no_dsync, true, memory_order_relaxed))
			fs_info("the store does not know RWF_DSYNC: durable writes flush instead");
		req_issue(req);
	} else if (may_retry(req, res)) {
		req_issue(req);
	} else if (res < 0 && req->sent_dsync && of_the_device(res)) {
		/* Written again without: what fails now is the caller's alone, else it was the flush. */
		req->dsync_error = res;
		req_issue(req);
	} else if (res > 0) {
		req_transferred(req, res);
	} else {
		/* Nothing at all: the store ends before the size it had when it was opened. */
		req_end(req, res ? res : -EIO);
	}
}
