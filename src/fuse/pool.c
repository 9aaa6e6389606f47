/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Workers: threads that may block.
 *
 * Guarantee: work that is submitted starts at once, whatever the other workers wait for: when nobody is idle
 * a thread is added.  So a request that a demotion depends on always finds a thread, and a glock's
 * waiters can never use up the pool.  Idle threads beyond POOL_KEEP leave after POOL_IDLE_NS.
 *
 * The kernel bounds the number of requests, but not that of FORGETs, which it sends by the thousand when it is short of memory: of
 * these (work.patient) no more than POOL_PATIENT are begun at once.  One that has not begun holds nothing.
 *
 * When the system gives no thread, the work stays queued until a worker is free, and the rescuer, a thread that is there from
 * the start, tries again every RESCUE_NS.  Meanwhile it does what others may be waiting for: workers that drop pages of the
 * kernel's wait for READs and write-backs that own them, and these wait for nobody's request (work.independent).
 *
 * Locking: everything in struct pool is guarded by `lock`.
 */
#include "fuse/server.h"
#include "util/leave.h"
#include "util/util.h"

#define POOL_KEEP 4
#define POOL_PATIENT 32
#define POOL_IDLE_NS (10ull * 1000000000)
#define RESCUE_NS 10000000ull

struct pool {
	struct rmutex lock;
	struct rcond work_cond;	/* work was queued, or stopping */
	struct rcond exit_cond;	/* a thread left */
	struct rcond rescue_cond; /* starved, or stopping */
	struct list_head queue;
	unsigned queued, idle;
	struct list_head patient;	/* not in the queue yet, because there are */
	unsigned nr_patient;		/* POOL_PATIENT, in the queue or being done */
	unsigned threads;	/* that take work */
	unsigned live;		/* that still have a ring or memory: nothing may be torn down */
	struct leaver left;
	bool starved;		/* a thread could not be had */
	bool stopping;
};

static _Thread_local struct io_ring *thread_ring;
static _Thread_local char *thread_buffer;
static _Thread_local bool rescuer;
/*
 * Buffers that no request has.  They are kept here and not by the threads, of which those that are idle would have them all while the one that works
 * asks the system for a new one each time.  The first is the warm one.
 */
static _Atomic(char *) spare[POOL_KEEP];	/* acquire, release: whoever takes it owns it */

struct io_ring *pool_ring(struct gfs2_sbd *sdp)
{
	if (!thread_ring && io_ring_create(sdp->sd_io, 64, false, &thread_ring))
		return NULL;
	return thread_ring;
}

bool pool_rescues(void)
{
	return rescuer;
}

char *pool_buffer(void)
{
	for (unsigned i = 0; !thread_buffer && i < POOL_KEEP; i++)
		thread_buffer = atomic_exchange_explicit(&spare[i], NULL, memory_order_acquire);
	if (!thread_buffer)
		thread_buffer = aligned_alloc(RX_PAGE, RX_MEM_SIZE);
	return thread_buffer;
}

void pool_buffer_done(void)
{
	for (unsigned i = 0; thread_buffer && i < POOL_KEEP; i++) {
		char *none = NULL;

		if (atomic_compare_exchange_strong_explicit(&spare[i], &none, thread_buffer, memory_order_release,
							    memory_order_relaxed))
			thread_buffer = NULL;
	}
	free(thread_buffer);
	thread_buffer = NULL;
}

static void spare_free(void)
{
	for (unsigned i = 0; i < POOL_KEEP; i++)
		free(atomic_exchange_explicit(&spare[i], NULL, memory_order_acquire));
}

static void thread_resources_free(void)
{
	if (thread_ring)
		io_ring_destroy(thread_ring);
	thread_ring = NULL;
	pool_buffer_done();
}

/* Next piece of work; NULL when this thread should leave. */
static struct work *pool_next(struct pool *p)
{
	struct work *w = NULL;

	rmutex_lock(&p->lock);
	while (list_empty(&p->queue)) {
		bool timely;

		if (p->stopping)
			break;
		p->idle++;
		timely = rcond_wait_until(&p->work_cond, &p->lock, now_ns() + POOL_IDLE_NS);
		p->idle--;
		if (!timely && list_empty(&p->queue) && p->threads > POOL_KEEP)
			break;
	}
	if (!list_empty(&p->queue)) {
		w = list_first_entry(&p->queue, struct work, list);
		list_del_init(&w->list);
		p->queued--;
	} else {
		p->threads--;
	}
	rmutex_unlock(&p->lock);
	return w;
}

/* The next one's turn.  The caller goes on with the queue, so there is no need of another thread. */
static void patient_done(struct pool *p)
{
	rmutex_lock(&p->lock);
	if (list_empty(&p->patient)) {
		p->nr_patient--;
	} else {
		list_move_tail(p->patient.next, &p->queue);
		p->queued++;
	}
	rmutex_unlock(&p->lock);
}

bool pool_patient_begin(struct pool *p)
{
	bool may;

	rmutex_lock(&p->lock);
	may = p->nr_patient < POOL_PATIENT;
	p->nr_patient += may;
	rmutex_unlock(&p->lock);
	return may;
}

void pool_patient_end(struct pool *p)
{
	struct work *next = NULL;

	rmutex_lock(&p->lock);
	p->nr_patient--;
	if (!list_empty(&p->patient)) {
		next = list_first_entry(&p->patient, struct work, list);
		list_del_init(&next->list);
	}
	rmutex_unlock(&p->lock);
	if (next)
		pool_submit(p, next);
}

/* The end of every thread. */
static void *pool_leave(struct pool *p)
{
	struct leaver before;

	thread_resources_free();
	rmutex_lock(&p->lock);
	p->live--;
	before = leave(&p->left);
	rcond_broadcast(&p->exit_cond);
	rmutex_unlock(&p->lock);
	leaver_join(before);
	return NULL;
}

static void *pool_work(struct pool *p, struct work *w)
{
	pthread_setname_np(pthread_self(), "gfs2-worker");
	for (; w; w = pool_next(p)) {
		bool patient = w->patient;

		w->fn(w);
		pool_buffer_done();
		if (patient)
			patient_done(p);
	}
	return pool_leave(p);
}

static void *pool_thread(void *arg)
{
	return pool_work(arg, pool_next(arg));
}

/* The thread was made for this work. */
static void *pool_thread_for(void *arg)
{
	struct work *w = arg;

	return pool_work(w->pool, w);
}

/* p->lock held. */
static struct work *independent_work(struct pool *p)
{
	struct work *w;

	list_for_each_entry(w, &p->queue, list)
		if (w->independent)
			return w;
	return NULL;
}

static int pool_add_thread(void *arg, void *(*fn)(void *));

/* p->lock held, released and retaken. */
static void try_thread(struct pool *p)
{
	int error;

	p->threads++, p->live++;
	rmutex_unlock(&p->lock);
	error = pool_add_thread(p, pool_thread);
	rmutex_lock(&p->lock);
	if (error)
		p->threads--, p->live--;
}

static void *rescue_thread(void *arg)
{
	struct pool *p = arg;
	struct work *w;

	pthread_setname_np(pthread_self(), "gfs2-rescue");
	rescuer = true;
	rmutex_lock(&p->lock);
	while (!p->stopping) {
		if (p->queued <= p->idle)
			p->starved = false;
		if (!p->starved) {
			rcond_wait(&p->rescue_cond, &p->lock);
			continue;
		}
		w = independent_work(p);
		if (w) {
			list_del_init(&w->list);
			p->queued--;
			rmutex_unlock(&p->lock);
			w->fn(w);
			pool_buffer_done();
			rmutex_lock(&p->lock);
			continue;
		}
		try_thread(p);
		rcond_wait_until(&p->rescue_cond, &p->lock, now_ns() + RESCUE_NS);
	}
	rmutex_unlock(&p->lock);
	return pool_leave(p);
}

static int pool_add_thread(void *arg, void *(*fn)(void *))
{
	pthread_attr_t attr;
	pthread_t t;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 512 * 1024);
	error = pthread_create(&t, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	return -error;
}

void pool_submit(struct pool *p, struct work *w)
{
	bool grow;

	rmutex_lock(&p->lock);
	if (w->patient && p->nr_patient == POOL_PATIENT) {
		list_add_tail(&w->list, &p->patient);
		rmutex_unlock(&p->lock);
		return;
	}
	p->nr_patient += w->patient;
	list_add_tail(&w->list, &p->queue);
	p->queued++;
	grow = p->queued > p->idle;
	if (grow)
		p->threads++, p->live++;
	rmutex_unlock(&p->lock);
	/* Without the lock, which the woken thread wants at once; the pool outlives all who submit. */
	if (!grow)
		rcond_signal(&p->work_cond);
	if (grow && pool_add_thread(p, pool_thread)) {
		/* No thread to be had: those that exist will come to it, or the rescuer. */
		rmutex_lock(&p->lock);
		p->threads--, p->live--;
		p->starved = true;
		rcond_signal(&p->work_cond);
		rcond_signal(&p->rescue_cond);
		rmutex_unlock(&p->lock);
	}
}

bool pool_try_submit(struct pool *p, struct work *w)
{
	bool idle;

	rmutex_lock(&p->lock);
	idle = p->queued < p->idle;
	if (idle) {
		list_add_tail(&w->list, &p->queue);
		p->queued++;
	} else {
		p->threads++, p->live++;
	}
	rmutex_unlock(&p->lock);
	if (idle) {
		rcond_signal(&p->work_cond);
		return true;
	}
	/* Not through the queue: another thread's work might be what the new one finds there. */
	w->pool = p;
	if (!pool_add_thread(w, pool_thread_for))
		return true;
	rmutex_lock(&p->lock);
	p->threads--, p->live--;
	rmutex_unlock(&p->lock);
	return false;
}

int pool_create(struct pool **out)
{
	struct pool *p = xzalloc(sizeof(*p));
	int error;

	rmutex_init(&p->lock, RANK_POOL);
	rcond_init(&p->work_cond);
	rcond_init(&p->exit_cond);
	rcond_init(&p->rescue_cond);
	list_init(&p->queue);
	list_init(&p->patient);
	p->live++;
	error = pool_add_thread(p, rescue_thread);
	if (error)
		p->live--;
	for (unsigned i = 0; !error && i < POOL_KEEP; i++) {
		p->threads++, p->live++;
		error = pool_add_thread(p, pool_thread);
		if (error)
			p->threads--, p->live--;
	}
	if (error) {
		pool_drain_destroy(p);
		return error;
	}
	*out = p;
	return 0;
}

void pool_drain_destroy(struct pool *p)
{
	if (!p)
		return;
	rmutex_lock(&p->lock);
	p->stopping = true;
	rcond_broadcast(&p->work_cond);
	rcond_broadcast(&p->rescue_cond);
	while (p->live)
		rcond_wait(&p->exit_cond, &p->lock);
	rmutex_unlock(&p->lock);
	leaver_join(p->left);
	rcond_destroy(&p->work_cond);
	rcond_destroy(&p->exit_cond);
	rcond_destroy(&p->rescue_cond);
	rmutex_destroy(&p->lock);
	spare_free();
	free(p);
}
