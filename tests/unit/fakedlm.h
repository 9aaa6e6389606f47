/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A lock manager in the process, for the glock tests: NODES tables share it.  Requests, answers and demands are messages that
 * two threads deliver in random order, so answers come late and from other threads, and demands come before the
 * grant they are about, after the demotion they ask for, or twice.  Its rules are the DLM's (reference 2.3): compatibility, one
 * queue in the order of arrival, down-conversions at once, conversion deadlock refused, NOQUEUE, cancel.
 *
 * A demand is sent once for each pair of a waiting and a blocking lock: if the glock layer loses one, somebody waits for ever.
 */
#ifndef FAKEDLM_H
#define FAKEDLM_H

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "lock/internal.h"
#include "util/util.h"

#define UN LM_ST_UNLOCKED
#define EX LM_ST_EXCLUSIVE
#define DF LM_ST_DEFERRED
#define SH LM_ST_SHARED

#define NODES 2
#define RESOURCES 4
#define MAX_MSGS 65536

enum msg_type { M_REQUEST, M_CANCEL, M_PUT, M_AST, M_BAST };

struct dlm_lock {
	struct gfs2_glock *gl;		/* NULL: no lock */
	unsigned res;
	enum lm_state granted;
	int wanted;			/* -1: nothing in progress */
	unsigned flags;
	uint64_t ticket;		/* 0: not queued */
	unsigned delivering;		/* calls into the glock layer under way */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct dlm_lock locks[RESOURCES][NODES];
	struct { enum msg_type type; struct dlm_lock *l; int arg; } msgs[MAX_MSGS];
	unsigned nr_msgs;
	uint64_t next_ticket;
	bool stop;
	pthread_t threads[2];
	struct gfs2_glock_table *tables[NODES];
	atomic_ullong clock;
	atomic_uint stats_deadlock, stats_cancel, stats_refused, stats_early;
} dlm = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

/* Called by the test's lm_lock: what may not be true when the state is about to change. */
static void check_before_request(unsigned node, unsigned res, enum lm_state req);

static _Thread_local uint64_t rnd_state;
static unsigned rnd(unsigned n)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (rnd_state >> 20) % n;
}

static uint64_t dlm_clock(void)
{
	return atomic_load(&dlm.clock);
}

/* The DLM's own idea of it, not the glock layer's. */
static bool modes_conflict(enum lm_state a, enum lm_state b)
{
	if (a == UN || b == UN)
		return false;
	return a != b || a == EX;
}

static void send_msg(enum msg_type type, struct dlm_lock *l, int arg)
{
	if (dlm.nr_msgs == MAX_MSGS)
		abort();
	dlm.msgs[dlm.nr_msgs].type = type;
	dlm.msgs[dlm.nr_msgs].l = l;
	dlm.msgs[dlm.nr_msgs++].arg = arg;
	pthread_cond_signal(&dlm.cond);
}

static struct dlm_lock *queue_head(unsigned res)
{
	struct dlm_lock *head = NULL;

	for (int n = 0; n < NODES; n++) {
		struct dlm_lock *l = &dlm.locks[res][n];

		if (l->ticket && (!head || l->ticket < head->ticket))
			head = l;
	}
	return head;
}

static bool fits(const struct dlm_lock *l, enum lm_state mode)
{
	for (int n = 0; n < NODES; n++) {
		const struct dlm_lock *o = &dlm.locks[l->res][n];

		if (o != l && modes_conflict(o->granted, mode))
			return false;
	}
	return true;
}

static void send_bast(struct dlm_lock *blocker, enum lm_state wanted)
{
	send_msg(M_BAST, blocker, wanted == EX ? UN : wanted);
}

static void finish(struct dlm_lock *l, int ret)
{
	l->wanted = -1;
	l->ticket = 0;
	send_msg(M_AST, l, ret);
}

static void grant(struct dlm_lock *l)
{
	l->granted = l->wanted;
	finish(l, l->granted);
	for (int n = 0; n < NODES; n++) {
		struct dlm_lock *o = &dlm.locks[l->res][n];

		if (o->ticket && modes_conflict(l->granted, o->wanted)) {
			atomic_fetch_add(&dlm.stats_early, 1);
			send_bast(l, o->wanted);
		}
	}
}

static void serve_queue(unsigned res)
{
	struct dlm_lock *head;

	while ((head = queue_head(res)) && fits(head, head->wanted))
		grant(head);
}

static void dlm_request(struct dlm_lock *l)
{
	enum lm_state from = l->granted, to = l->wanted;

	if (to == UN || from == EX || (fits(l, to) && !queue_head(l->res))) {
		grant(l);
		serve_queue(l->res);
		return;
	}
	if (l->flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB)) {
		atomic_fetch_add(&dlm.stats_refused, 1);
		finish(l, from);
		return;
	}
	for (int n = 0; n < NODES; n++) {
		struct dlm_lock *o = &dlm.locks[l->res][n];

		if (o != l && o->ticket && modes_conflict(from, o->wanted)) {
			atomic_fetch_add(&dlm.stats_deadlock, 1);
			finish(l, from);
			return;
		}
	}
	l->ticket = ++dlm.next_ticket;
	for (int n = 0; n < NODES; n++) {
		struct dlm_lock *o = &dlm.locks[l->res][n];

		if (o != l && modes_conflict(o->granted, to))
			send_bast(o, to);
	}
}

static void dlm_cancel(struct dlm_lock *l)
{
	if (!l->ticket)
		return; /* too late */
	atomic_fetch_add(&dlm.stats_cancel, 1);
	finish(l, l->granted | LM_OUT_CANCELED);
	serve_queue(l->res);
}

static void forget_msgs(const struct dlm_lock *l)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < dlm.nr_msgs; i++)
		if (dlm.msgs[i].l != l)
			dlm.msgs[kept++] = dlm.msgs[i];
	dlm.nr_msgs = kept;
}

/* dlm.lock held; released around calls into the glock layer. */
static void deliver(unsigned i)
{
	struct dlm_lock *l = dlm.msgs[i].l;
	enum msg_type type = dlm.msgs[i].type;
	struct gfs2_glock *gl = l->gl;
	int arg = dlm.msgs[i].arg;

	/* Freeing waits for calls that use the glock; the message stays. */
	if (type == M_PUT && l->delivering) {
		pthread_mutex_unlock(&dlm.lock);
		sched_yield();
		pthread_mutex_lock(&dlm.lock);
		return;
	}
	dlm.msgs[i] = dlm.msgs[--dlm.nr_msgs];
	switch (type) {
	case M_REQUEST:
		dlm_request(l);
		return;
	case M_CANCEL:
		dlm_cancel(l);
		return;
	case M_PUT:
		if (l->granted != UN || l->wanted >= 0)
			abort();
		forget_msgs(l);
		l->gl = NULL;
		pthread_mutex_unlock(&dlm.lock);
		gfs2_glock_free(gl);
		pthread_mutex_lock(&dlm.lock);
		return;
	case M_AST:
	case M_BAST:
		l->delivering++;
		pthread_mutex_unlock(&dlm.lock);
		if (type == M_AST)
			gfs2_glock_complete(gl, arg);
		else
			gfs2_glock_cb(gl, arg, true);
		pthread_mutex_lock(&dlm.lock);
		l->delivering--;
		return;
	}
}

/* Time passes with what happens, and slowly while nothing does, so that hold times end. */
static void *dlm_thread(void *arg)
{
	rnd_state = 0x1234567 + (uintptr_t)arg * 7919;
	pthread_mutex_lock(&dlm.lock);
	while (!dlm.stop) {
		bool tick = !dlm.nr_msgs || !rnd(8);

		if (dlm.nr_msgs)
			deliver(rnd(dlm.nr_msgs));
		atomic_fetch_add(&dlm.clock, dlm.nr_msgs ? 2000000 : 20000000);
		for (int n = 0; tick && n < NODES; n++)
			if (dlm.tables[n])
				gfs2_glock_table_tick(dlm.tables[n]);
		if (!dlm.nr_msgs && !dlm.stop) {
			struct timespec ts;

			clock_gettime(CLOCK_REALTIME, &ts);
			ts.tv_nsec += 300000;
			if (ts.tv_nsec >= 1000000000) {
				ts.tv_nsec -= 1000000000;
				ts.tv_sec++;
			}
			pthread_cond_timedwait(&dlm.cond, &dlm.lock, &ts);
		}
	}
	pthread_mutex_unlock(&dlm.lock);
	return NULL;
}

static unsigned node_of(const struct gfs2_glock *gl)
{
	return (uintptr_t)gfs2_glock_table_private(gl->gl_table);
}

static void fake_lock(struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	unsigned node = node_of(gl), res = gl->gl_number;
	struct dlm_lock *l = &dlm.locks[res][node];

	check_before_request(node, res, req);
	pthread_mutex_lock(&dlm.lock);
	if ((l->gl && l->gl != gl) || l->wanted >= 0)
		abort(); /* -EBUSY: one request at a time */
	l->gl = gl;
	l->wanted = req;
	l->flags = flags;
	send_msg(M_REQUEST, l, 0);
	pthread_mutex_unlock(&dlm.lock);
}

static void fake_cancel(struct gfs2_glock *gl)
{
	pthread_mutex_lock(&dlm.lock);
	send_msg(M_CANCEL, &dlm.locks[gl->gl_number][node_of(gl)], 0);
	pthread_mutex_unlock(&dlm.lock);
}

static void fake_put(struct gfs2_glock *gl)
{
	struct dlm_lock *l = &dlm.locks[gl->gl_number][node_of(gl)];

	pthread_mutex_lock(&dlm.lock);
	l->gl = gl;
	send_msg(M_PUT, l, 0);
	pthread_mutex_unlock(&dlm.lock);
}

static const struct lm_lockops lm_fake = {
	.lm_proto_name = "lock_fake",
	.lm_lock = fake_lock,
	.lm_cancel = fake_cancel,
	.lm_put_lock = fake_put,
	.lm_has_peers = true,
};

static void dlm_start(void)
{
	dlm.stop = false;
	for (unsigned r = 0; r < RESOURCES; r++)
		for (int n = 0; n < NODES; n++)
			dlm.locks[r][n] = (struct dlm_lock){ .res = r, .wanted = -1 };
	for (uintptr_t n = 0; n < NODES; n++) {
		assert_int_equal(gfs2_glock_table_create(&lm_fake, NULL, 2, (void *)n,
							 &dlm.tables[n]), 0);
		gfs2_glock_table_set_clock(dlm.tables[n], dlm_clock);
	}
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&dlm.threads[i], NULL, dlm_thread, (void *)i);
}

/* Everybody is gone: the tables end while answers still have to be delivered. */
static void dlm_stop(void)
{
	for (int n = 0; n < NODES; n++) {
		struct gfs2_glock_table *t = dlm.tables[n];

		pthread_mutex_lock(&dlm.lock);
		dlm.tables[n] = NULL;
		pthread_mutex_unlock(&dlm.lock);
		gfs2_glock_table_destroy(t);
	}
	pthread_mutex_lock(&dlm.lock);
	dlm.stop = true;
	pthread_cond_broadcast(&dlm.cond);
	pthread_mutex_unlock(&dlm.lock);
	for (int i = 0; i < 2; i++)
		pthread_join(dlm.threads[i], NULL);
}

#endif
