/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a glock costs, for tools/bench; runs in a node that has joined a cluster, in a lock space of its own.
 *
 * usage: bench-locks CLUSTER MILLISECONDS | bench-locks
 * prints: nanoseconds for DF->EX->DF of one glock that nobody else wants; for the same two conversions asked of the DLM itself, by
 * libdlm with the flags that lock_dlm uses; for acquire and release of a glock that is held in the right state already; for lock and
 * unlock of a mutex.  The last two are the least of several rounds: both take less than what an interrupt takes.
 * Without arguments no cluster is needed, and it prints the last two, and the first of them once more with the event rings on, as they are in the
 * daemon: three events, and the clock twice.  (Under User-Mode Linux a look at the clock is a system call.)
 */
#include <err.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <libdlm.h>

#include "debug/event.h"
#include "lock/glock.h"
#include "util/util.h"

#define ROUNDS 9
#define PAIRS 20000
#define EVENTS_ORDER 13 /* the daemon's */

static const struct gfs2_glock_operations ops = { .go_type = LM_TYPE_FLOCK, .go_flags = GLOF_LRU };

/* EXACT: EX would do for DF, too, and nobody would ask the DLM. */
static void conversion(struct gfs2_glock *gl, enum lm_state state)
{
	struct gfs2_holder gh;
	int error = gfs2_glock_nq_init(gl, state, GL_EXACT, &gh);

	if (error)
		errx(1, "glock: %s", strerror(-error));
	gfs2_glock_dq_uninit(&gh);
}

static double glock_conversions(struct gfs2_glock *gl, uint64_t ns)
{
	uint64_t began = now_ns(), now;
	unsigned long nr = 0;

	do {
		conversion(gl, LM_ST_EXCLUSIVE);
		conversion(gl, LM_ST_DEFERRED);
		nr++;
		now = now_ns();
	} while (now - began < ns);
	return (double)(now - began) / (double)nr;
}

static void convert(dlm_lshandle_t ls, struct dlm_lksb *lksb, uint32_t mode, uint32_t flags)
{
	if (dlm_ls_lock_wait(ls, mode, lksb, flags, "bench", 5, 0, NULL, NULL, NULL) || lksb->sb_status)
		err(1, "the DLM");
}

static double raw_conversions(uint64_t ns)
{
	dlm_lshandle_t ls = dlm_new_lockspace("benchraw", 0600, 0);
	struct dlm_lksb lksb = { 0 };
	uint64_t began, now;
	unsigned long nr = 0;

	if (!ls || dlm_ls_pthread_init(ls))
		err(1, "a lock space for the DLM alone");
	convert(ls, &lksb, LKM_CWMODE, LKF_PERSISTENT);
	began = now_ns();
	do {
		convert(ls, &lksb, LKM_EXMODE, LKF_CONVERT | LKF_QUECVT | LKF_PERSISTENT);
		convert(ls, &lksb, LKM_CWMODE, LKF_CONVERT | LKF_PERSISTENT);
		nr++;
		now = now_ns();
	} while (now - began < ns);
	dlm_ls_unlock_wait(ls, lksb.sb_lkid, 0, &lksb);
	dlm_release_lockspace("benchraw", ls, 1);
	return (double)(now - began) / (double)nr;
}

/* As a receive thread does it. */
static void fast(struct gfs2_glock *gl)
{
	struct gfs2_holder gh;

	gfs2_holder_init(gl, LM_ST_EXCLUSIVE, GL_BORROWED, &gh, __func__);
	if (!gfs2_glock_nq_fast(&gh))
		errx(1, "the glock is not cached");
	gfs2_glock_dq_uninit(&gh);
}

static double cached_glock(struct gfs2_glock *gl)
{
	double least = 1e18;

	conversion(gl, LM_ST_EXCLUSIVE);
	for (unsigned r = 0; r < ROUNDS; r++) {
		uint64_t began = now_ns();

		for (unsigned i = 0; i < PAIRS; i++)
			fast(gl);
		least = min_t(double, least, (double)(now_ns() - began) / PAIRS);
	}
	return least;
}

static double mutex_pair(void)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	double least = 1e18;

	for (unsigned r = 0; r < ROUNDS; r++) {
		uint64_t began = now_ns();

		for (unsigned i = 0; i < PAIRS; i++) {
			pthread_mutex_lock(&m);
			pthread_mutex_unlock(&m);
		}
		least = min_t(double, least, (double)(now_ns() - began) / PAIRS);
	}
	return least;
}

static void alone(void)
{
	struct gfs2_glock_table *t;
	struct gfs2_glock *gl;
	double cached, mutex, told;

	if (gfs2_glock_table_create(&lm_nolock, NULL, 1, NULL, &t))
		errx(1, "no lock table");
	gl = gfs2_glock_get(t, 1, &ops);
	mutex = mutex_pair();
	cached = cached_glock(gl);
	mutex = min_t(double, mutex, mutex_pair());
	gfs2_event_init(EVENTS_ORDER);
	told = cached_glock(gl);
	gfs2_glock_put(gl);
	gfs2_glock_table_destroy(t);
	gfs2_event_exit();
	printf("%.1f %.1f %.1f\n", cached, mutex, told);
}

static void in_cluster(const char *cluster, uint64_t ns)
{
	struct gfs2_glock_table *t;
	char table[80];
	bool first;
	unsigned jid;
	struct gfs2_glock *gl;
	double ours, raw, cached, mutex;

	snprintf(table, sizeof(table), "%.60s:benchours", cluster);
	if (gfs2_glock_table_create(&lm_dlm, NULL, 1, NULL, &t) || lm_dlm.lm_mount(t, table, &jid, &first))
		errx(1, "no lock table");
	if (first)
		lm_dlm.lm_first_done(t);
	gl = gfs2_glock_get(t, 1, &ops);
	conversion(gl, LM_ST_DEFERRED);
	/* In turns, so that what disturbs one disturbs the other. */
	ours = glock_conversions(gl, ns / 2);
	raw = raw_conversions(ns);
	ours = (ours + glock_conversions(gl, ns / 2)) / 2;
	mutex = mutex_pair();
	cached = cached_glock(gl);
	mutex = min_t(double, mutex, mutex_pair());
	gfs2_glock_put(gl);
	lm_dlm.lm_stop_recovery(t);
	gfs2_glock_table_destroy(t);
	printf("%.0f %.0f %.1f %.1f\n", ours, raw, cached, mutex);
}

int main(int argc, char **argv)
{
	if (argc != 1 && argc != 3)
		errx(2, "usage: bench-locks CLUSTER MILLISECONDS | bench-locks");
	if (argc == 1)
		alone();
	else
		in_cluster(argv[1], strtoull(argv[2], NULL, 10) * 1000000);
	return 0;
}
