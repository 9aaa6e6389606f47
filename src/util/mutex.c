/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ranked mutexes and condition variables.
 *
 * Debug builds keep, per thread, the list of ranked mutexes held and compare the rank of each
 * acquisition with all of them.  A violation names both ranks and ends the process: the deadlock it
 * could become is rare, the order that allows it is not.  Release builds have none of this.
 *
 * Everything else is pthread's; errors of pthread calls are programmer's errors.
 */
#include "util/mutex.h"

#include "util/util.h"
#include "util/wait.h"

#ifdef GFS2_DEBUG_CHECKS

#define MAX_HELD 16

static _Thread_local struct rmutex *held[MAX_HELD];
static _Thread_local unsigned nr_held;

static const char *rank_name(enum lock_rank rank)
{
#define R(r) [r] = #r
	static const char *const names[RANK_MAX] = {
		R(RANK_NONE),	     R(RANK_POOL),	 R(RANK_ICACHE),     R(RANK_LOG_FLUSH),
		R(RANK_LOG_GATE),    R(RANK_EXTMAP),	 R(RANK_RGRP_INDEX), R(RANK_STATFS),
		R(RANK_INODE),	     R(RANK_ORDERED),	 R(RANK_MAPPING),    R(RANK_BUF_SHARD),
		R(RANK_LOG),	     R(RANK_GLOCK_TABLE), R(RANK_GLOCK),     R(RANK_GLOCK_WORK),
		R(RANK_LM),	     R(RANK_DIO),	 R(RANK_IO),	     R(RANK_CONTROL),
		R(RANK_EVENT),	     R(RANK_READERS),	 R(RANK_BUF_FREE),   R(RANK_EVICT),
		R(RANK_SLAB),	     R(RANK_WITHDRAW),
	};
#undef R
	return rank > RANK_NONE && rank < RANK_MAX && names[rank] ? names[rank] : "unknown rank";
}

static _Noreturn void order_bug(const char *what, const struct rmutex *m, const struct rmutex *h)
{
	fs_err("lock order: %s %s (rank %d) while holding %s (rank %d)", what, rank_name(m->rank),
	       m->rank, rank_name(h->rank), h->rank);
	abort();
}

static void check_order(const struct rmutex *m)
{
	for (unsigned i = 0; i < nr_held; i++)
		if (held[i]->rank >= m->rank)
			order_bug(held[i] == m ? "taking again" : "taking", m, held[i]);
}

static void push(struct rmutex *m)
{
	GFS2_BUG_ON(nr_held == MAX_HELD);
	held[nr_held++] = m;
}

static void pop(struct rmutex *m)
{
	for (unsigned i = nr_held; i-- > 0;) {
		if (held[i] != m)
			continue;
		memmove(&held[i], &held[i + 1], (nr_held - i - 1) * sizeof(held[0]));
		nr_held--;
		return;
	}
	fs_err("lock order: releasing %s (rank %d), which this thread does not hold",
	       rank_name(m->rank), m->rank);
	abort();
}

void rmutex_assert_held(struct rmutex *m)
{
	for (unsigned i = 0; i < nr_held; i++)
		if (held[i] == m)
			return;
	fs_err("lock order: %s (rank %d) should be held", rank_name(m->rank), m->rank);
	abort();
}

void rmutex_assert_none(void)
{
	if (!nr_held)
		return;
	fs_err("lock order: about to sleep while holding %s (rank %d)",
	       rank_name(held[nr_held - 1]->rank), held[nr_held - 1]->rank);
	abort();
}

#else

static inline void check_order(const struct rmutex *m) {}
static inline void push(struct rmutex *m) {}
static inline void pop(struct rmutex *m) {}
void rmutex_assert_held(struct rmutex *m) {}
void rmutex_assert_none(void) {}

#endif

void rmutex_init(struct rmutex *m, enum lock_rank rank)
{
	GFS2_BUG_ON(rank <= RANK_NONE || rank >= RANK_MAX);
	m->rank = rank;
	GFS2_BUG_ON(pthread_mutex_init(&m->m, NULL));
}

void rmutex_destroy(struct rmutex *m)
{
	GFS2_BUG_ON(pthread_mutex_destroy(&m->m));
}

static struct timespec grace_end(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += WAIT_GRACE_NS;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	return ts;
}

/* Whoever has it may be sleeping with it. */
static void lock_in_grace(struct rmutex *m)
{
	struct timespec ts = grace_end();
	int error;

	error = pthread_mutex_timedlock(&m->m, &ts);
	GFS2_BUG_ON(error && error != ETIMEDOUT);
	if (error) {
		about_to_wait();
		GFS2_BUG_ON(pthread_mutex_lock(&m->m));
	}
}

void rmutex_lock(struct rmutex *m)
{
	/* Before the lock is taken: a violation is reported, not a hang. */
	check_order(m);
	if (!before_wait_is_set())
		GFS2_BUG_ON(pthread_mutex_lock(&m->m));
	else if (pthread_mutex_trylock(&m->m))
		lock_in_grace(m);
	push(m);
}

bool rmutex_trylock(struct rmutex *m)
{
	int error = pthread_mutex_trylock(&m->m);

	GFS2_BUG_ON(error && error != EBUSY);
	if (error)
		return false;
	push(m);
	return true;
}

void rmutex_unlock(struct rmutex *m)
{
	pop(m);
	GFS2_BUG_ON(pthread_mutex_unlock(&m->m));
}

void rcond_init(struct rcond *c)
{
	pthread_condattr_t attr;

	GFS2_BUG_ON(pthread_condattr_init(&attr));
	GFS2_BUG_ON(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC));
	GFS2_BUG_ON(pthread_cond_init(&c->c, &attr));
	pthread_condattr_destroy(&attr);
}

void rcond_destroy(struct rcond *c)
{
	GFS2_BUG_ON(pthread_cond_destroy(&c->c));
}

static int wait_until(struct rcond *c, struct rmutex *m, unsigned long long deadline_ns)
{
	struct timespec ts = {
		.tv_sec = deadline_ns / 1000000000u,
		.tv_nsec = deadline_ns % 1000000000u,
	};
	int error;

	pop(m);
	check_order(m);
	error = pthread_cond_timedwait(&c->c, &m->m, &ts);
	GFS2_BUG_ON(error && error != ETIMEDOUT);
	push(m);
	return error;
}

/* After the grace the caller has to look again: what he waits for may have come just then. */
static void wait_in_grace(struct rcond *c, struct rmutex *m)
{
	if (wait_until(c, m, now_ns() + WAIT_GRACE_NS))
		about_to_wait();
}

void rcond_wait(struct rcond *c, struct rmutex *m)
{
	if (before_wait_is_set()) {
		wait_in_grace(c, m);
		return;
	}
	/* @m leaves and re-enters the list of held mutexes: when waking up, others must not be above it. */
	pop(m);
	check_order(m);
	GFS2_BUG_ON(pthread_cond_wait(&c->c, &m->m));
	push(m);
}

bool rcond_wait_until(struct rcond *c, struct rmutex *m, unsigned long long deadline_ns)
{
	if (before_wait_is_set() && now_ns() + WAIT_GRACE_NS < deadline_ns) {
		wait_in_grace(c, m);
		return true;
	}
	return !wait_until(c, m, deadline_ns);
}

void rcond_signal(struct rcond *c)
{
	GFS2_BUG_ON(pthread_cond_signal(&c->c));
}

void rcond_broadcast(struct rcond *c)
{
	GFS2_BUG_ON(pthread_cond_broadcast(&c->c));
}

void rsem_init(struct rsem *s)
{
	GFS2_BUG_ON(sem_init(&s->s, 0, 0));
}

void rsem_destroy(struct rsem *s)
{
	GFS2_BUG_ON(sem_destroy(&s->s));
}

void rsem_wait(struct rsem *s)
{
	rmutex_assert_none();
	if (before_wait_is_set()) {
		struct timespec ts = grace_end();

		if (!sem_timedwait(&s->s, &ts))
			return;
		about_to_wait();
	}
	while (sem_wait(&s->s))
		GFS2_BUG_ON(errno != EINTR);
}

void rsem_post(struct rsem *s)
{
	GFS2_BUG_ON(sem_post(&s->s));
}
