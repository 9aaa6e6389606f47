/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Workers: threads that may block.
 *
 * Guarantee: work that is submitted starts at once, whatever the other workers wait for: when nobody is idle
 * a thread is added.  So a request that a demotion depends on always finds a thread, and a glock's
 * waiters can never use up the pool.  Idle threads beyond POOL_KEEP leave after POOL_IDLE_NS.
 *
 * Locking: everything in struct pool is guarded by `lock`.
 */
#include "fuse/server.h"
#include "util/util.h"

#define POOL_KEEP 4
#define POOL_IDLE_NS (10ull * 1000000000)

struct pool {
	struct rmutex lock;
	struct rcond work_cond;	/* work was queued, or stopping */
	struct rcond exit_cond;	/* a thread left */
	struct list_head queue;
	unsigned queued, idle;
	unsigned threads;	/* that take work */
	unsigned live;		/* that still have a ring or memory: nothing may be torn down */
	bool stopping;
};

static _Thread_local struct io_ring *thread_ring;
static _Thread_local char *thread_buffer;
static atomic_uint nr_buffers;	/* of all threads; relaxed: decides only what is kept */

struct io_ring *pool_ring(struct gfs2_sbd *sdp)
{
	if (!thread_ring && io_ring_create(sdp->sd_io, 64, false, &thread_ring))
		return NULL;
	return thread_ring;
}

char *pool_buffer(void)
{
	if (!thread_buffer) {
		thread_buffer = aligned_alloc(RX_PAGE, RX_MEM_SIZE);
		if (thread_buffer)
			atomic_fetch_add_explicit(&nr_buffers, 1, memory_order_relaxed);
	}
	return thread_buffer;
}

static void buffer_free(void)
{
	if (!thread_buffer)
		return;
	free(thread_buffer);
	thread_buffer = NULL;
	atomic_fetch_sub_explicit(&nr_buffers, 1, memory_order_relaxed);
}

/* Many workers would be many buffers: only some keep theirs for the next request. */
static void buffer_done(void)
{
	if (atomic_load_explicit(&nr_buffers, memory_order_relaxed) > POOL_KEEP)
		buffer_free();
}

static void thread_resources_free(void)
{
	if (thread_ring)
		io_ring_destroy(thread_ring);
	thread_ring = NULL;
	buffer_free();
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

static void *pool_thread(void *arg)
{
	struct pool *p = arg;
	struct work *w;

	pthread_setname_np(pthread_self(), "gfs2-worker");
	while ((w = pool_next(p))) {
		w->fn(w);
		buffer_done();
	}
	thread_resources_free();
	rmutex_lock(&p->lock);
	p->live--;
	rcond_broadcast(&p->exit_cond);
	rmutex_unlock(&p->lock);
	return NULL;
}

static int pool_add_thread(struct pool *p)
{
	pthread_attr_t attr;
	pthread_t t;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 512 * 1024);
	error = pthread_create(&t, &attr, pool_thread, p);
	pthread_attr_destroy(&attr);
	return -error;
}

void pool_submit(struct pool *p, struct work *w)
{
	bool grow;

	rmutex_lock(&p->lock);
	list_add_tail(&w->list, &p->queue);
	p->queued++;
	grow = p->queued > p->idle;
	if (grow)
		p->threads++, p->live++;
	rmutex_unlock(&p->lock);
	/* Without the lock, which the woken thread wants at once; the pool outlives all who submit. */
	if (!grow)
		rcond_signal(&p->work_cond);
	if (grow && pool_add_thread(p)) {
		/* No thread to be had: those that exist will come to it. */
		rmutex_lock(&p->lock);
		p->threads--, p->live--;
		rcond_signal(&p->work_cond);
		rmutex_unlock(&p->lock);
	}
}

unsigned pool_threads(struct pool *p)
{
	unsigned n;

	rmutex_lock(&p->lock);
	n = p->threads;
	rmutex_unlock(&p->lock);
	return n;
}

int pool_create(struct pool **out)
{
	struct pool *p = xzalloc(sizeof(*p));
	int error;

	rmutex_init(&p->lock, RANK_POOL);
	rcond_init(&p->work_cond);
	rcond_init(&p->exit_cond);
	list_init(&p->queue);
	for (unsigned i = 0; i < POOL_KEEP; i++) {
		p->threads++, p->live++;
		error = pool_add_thread(p);
		if (error) {
			p->threads--, p->live--;
			pool_drain_destroy(p);
			return error;
		}
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
	while (p->live)
		rcond_wait(&p->exit_cond, &p->lock);
	rmutex_unlock(&p->lock);
	rcond_destroy(&p->work_cond);
	rcond_destroy(&p->exit_cond);
	rmutex_destroy(&p->lock);
	free(p);
}
