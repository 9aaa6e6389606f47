/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Glock workers: threads that run what the thread at hand may not (a receive thread, a lock module's callback) or what is due
 * later (a demotion at the end of a turn).
 *
 * A glock is on at most one of the two queues, with flags that say what is to be done; queueing again adds flags, and
 * "now" beats "later".  A queued glock is referenced.  While a worker has it, it may be queued again and taken by another
 * worker: the machine decides under gl_lock what is left to do.
 *
 * A worker may wait for I/O, for the log, and in go_held of asynchronous holders even for other glocks.  So the number of
 * workers grows when nobody is idle: what a worker waits for always finds a thread, also what is due only later (the end of a turn).
 * The extra ones leave when another one is idle.
 *
 * A table made with no workers has none: whoever made it is the workers, by gfs2_glock_work_run_one() (the simulator).
 */
#include "lock/internal.h"

#include <signal.h>

#include "util/util.h"

#define MAX_WORKERS 64

void glock_queue_work(struct gfs2_glock *gl, unsigned flags, uint64_t at_ns)
{
	struct gfs2_glock_table *t = gl->gl_table;

	rmutex_assert_held(&gl->gl_lock);
	rmutex_lock(&t->t_work_lock);
	gl->gl_work_flags |= flags;
	/* Queued as early as that already: whoever is to take it knows. */
	if (!list_empty(&gl->gl_work) && gl->gl_work_ns <= at_ns) {
		rmutex_unlock(&t->t_work_lock);
		return;
	}
	if (list_empty(&gl->gl_work)) {
		gfs2_glock_hold(gl);
		gl->gl_work_ns = at_ns;
		list_add_tail(&gl->gl_work, at_ns ? &t->t_delayed : &t->t_work);
	} else {
		gl->gl_work_ns = at_ns;
		if (!at_ns)
			list_move_tail(&gl->gl_work, &t->t_work);
	}
	/* Also for later work: somebody has to sleep no longer than that. */
	rcond_signal(&t->t_work_cond);
	rmutex_unlock(&t->t_work_lock);
}

/* The callback of the type first (once at a time per glock), then what the machine wants. */
static void run_callback(struct gfs2_glock *gl)
{
	if (gl->gl_cb_running)
		return;
	gl->gl_cb_running = true;
	while (gl->gl_cb_wanted) {
		bool remote = gl->gl_cb_remote;

		gl->gl_cb_wanted = gl->gl_cb_remote = false;
		glock_unlock(gl);
		gl->gl_ops->go_callback(gl, remote);
		rmutex_lock(&gl->gl_lock);
	}
	gl->gl_cb_running = false;
}

static void do_work(struct gfs2_glock *gl, unsigned flags)
{
	if (flags & GLW_FINISH)
		glock_finish_async(gl);
	rmutex_lock(&gl->gl_lock);
	if (flags & GLW_CALLBACK)
		run_callback(gl);
	if (flags & GLW_RESUME)
		glock_resume(gl);
	if (flags & GLW_HOLD)
		glock_fire(gl, GLE_HOLD_OVER, NULL);
	glock_run(gl, GLR_ALL_STEPS);
	glock_unlock(gl);
}

/* t_work_lock held.  The next glock whose time has come, or NULL and when to look again (0: never). */
static struct gfs2_glock *next_work(struct gfs2_glock_table *t, uint64_t *next_ns)
{
	struct gfs2_glock *gl;
	uint64_t now;

	*next_ns = 0;
	if (!list_empty(&t->t_work))
		return list_first_entry(&t->t_work, struct gfs2_glock, gl_work);
	if (list_empty(&t->t_delayed))
		return NULL;
	now = t->t_clock();
	list_for_each_entry(gl, &t->t_delayed, gl_work) {
		if (gl->gl_work_ns <= now || t->t_work_stop)
			return gl;
		if (!*next_ns || gl->gl_work_ns < *next_ns)
			*next_ns = gl->gl_work_ns;
	}
	return NULL;
}

static void *worker(void *arg);

static int spawn(struct gfs2_glock_table *t)
{
	sigset_t old;
	pthread_t thread;
	int error;

	/* Signals are for the main thread. */
	block_all_but_faults(&old);
	error = pthread_create(&thread, NULL, worker, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -error;
}

/* t_work_lock held; released and retaken.  Without another thread things only take longer, so failing is no error. */
static void grow(struct gfs2_glock_table *t)
{
	t->t_workers++;
	rmutex_unlock(&t->t_work_lock);
	if (spawn(t)) {
		rmutex_lock(&t->t_work_lock);
		t->t_workers--;
		return;
	}
	rmutex_lock(&t->t_work_lock);
}

static void take_and_run(struct gfs2_glock_table *t, struct gfs2_glock *gl)
{
	unsigned flags = gl->gl_work_flags;

	list_del_init(&gl->gl_work);
	gl->gl_work_flags = 0;
	gl->gl_work_ns = 0;
	/* Somebody has to be there for what comes due while all others wait, perhaps for that. */
	if (!t->t_workers_idle && t->t_workers_min && t->t_workers < MAX_WORKERS)
		grow(t);
	rmutex_unlock(&t->t_work_lock);
	do_work(gl, flags);
	gfs2_glock_put(gl);
	rmutex_lock(&t->t_work_lock);
}

static void *worker(void *arg)
{
	struct gfs2_glock_table *t = arg;
	struct leaver before;

	pthread_setname_np(pthread_self(), "glock_worker");
	rmutex_lock(&t->t_work_lock);
	for (;;) {
		uint64_t next_ns;
		struct gfs2_glock *gl = next_work(t, &next_ns);

		if (gl) {
			take_and_run(t, gl);
			continue;
		}
		if (t->t_work_stop || (t->t_workers > t->t_workers_min && t->t_workers_idle))
			break;
		t->t_workers_idle++;
		/* Another clock cannot be waited for: gfs2_glock_table_tick() wakes us. */
		if (next_ns && t->t_clock == now_ns)
			rcond_wait_until(&t->t_work_cond, &t->t_work_lock, next_ns);
		else
			rcond_wait(&t->t_work_cond, &t->t_work_lock);
		t->t_workers_idle--;
	}
	t->t_workers--;
	before = leave(&t->t_worker_left);
	rcond_broadcast(&t->t_work_cond);
	rmutex_unlock(&t->t_work_lock);
	leaver_join(before);
	return NULL;
}

uint64_t gfs2_glock_work_due(struct gfs2_glock_table *t)
{
	struct gfs2_glock *gl;
	uint64_t next_ns, now = t->t_clock();

	rmutex_lock(&t->t_work_lock);
	gl = next_work(t, &next_ns);
	rmutex_unlock(&t->t_work_lock);
	if (gl)
		return now;
	return next_ns ? next_ns : UINT64_MAX;
}

bool gfs2_glock_work_run_one(struct gfs2_glock_table *t)
{
	struct gfs2_glock *gl;
	uint64_t next_ns;

	rmutex_assert_none();
	rmutex_lock(&t->t_work_lock);
	gl = next_work(t, &next_ns);
	if (gl)
		take_and_run(t, gl);
	rmutex_unlock(&t->t_work_lock);
	return gl;
}

int glock_workers_start(struct gfs2_glock_table *t, unsigned nr)
{
	rmutex_init(&t->t_work_lock, RANK_GLOCK_WORK);
	rcond_init(&t->t_work_cond);
	list_init(&t->t_work);
	list_init(&t->t_delayed);
	t->t_workers_min = nr;
	for (unsigned i = 0; i < nr; i++) {
		int error;

		rmutex_lock(&t->t_work_lock);
		t->t_workers++;
		rmutex_unlock(&t->t_work_lock);
		error = spawn(t);
		if (error) {
			rmutex_lock(&t->t_work_lock);
			t->t_workers--;
			rmutex_unlock(&t->t_work_lock);
			glock_workers_stop(t);
			return error;
		}
	}
	return 0;
}

void glock_workers_stop(struct gfs2_glock_table *t)
{
	rmutex_lock(&t->t_work_lock);
	t->t_work_stop = true;
	rcond_broadcast(&t->t_work_cond);
	while (t->t_workers)
		rcond_wait(&t->t_work_cond, &t->t_work_lock);
	rmutex_unlock(&t->t_work_lock);
	leaver_join(t->t_worker_left);
	rcond_destroy(&t->t_work_cond);
	rmutex_destroy(&t->t_work_lock);
}

void gfs2_glock_table_set_clock(struct gfs2_glock_table *t, uint64_t (*clock)(void))
{
	rmutex_lock(&t->t_work_lock);
	t->t_clock = clock;
	rmutex_unlock(&t->t_work_lock);
}

void gfs2_glock_table_tick(struct gfs2_glock_table *t)
{
	rmutex_lock(&t->t_work_lock);
	rcond_broadcast(&t->t_work_cond);
	rmutex_unlock(&t->t_work_lock);
}
