/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the glock tests: a lock module that is answered by hand, a glock type that writes down what is called, and
 * waiting for conditions.
 */
#ifndef GLOCKFIX_H
#define GLOCKFIX_H

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "lock/internal.h"
#include "util/ctx.h"
#include "util/util.h"

#define UN LM_ST_UNLOCKED
#define EX LM_ST_EXCLUSIVE
#define DF LM_ST_DEFERRED
#define SH LM_ST_SHARED

#define FLAG(f) (1ul << (f))

/* Conditions, not times: the limit only ends a test that hangs. */
#define await(cond)                                                                                \
	do {                                                                                       \
		uint64_t _end = now_ns() + 60000000000ull;                                         \
		while (!(cond)) {                                                                  \
			if (now_ns() > _end)                                                       \
				fail_msg("never: %s", #cond);                                      \
			usleep(100);                                                               \
		}                                                                                  \
	} while (0)

/* --- what was called, in order; by whatever thread --- */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[4096];

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *fmt, ...)
{
	va_list ap;
	size_t len;

	pthread_mutex_lock(&log_lock);
	len = strlen(log_text);
	if (len && len < sizeof(log_text) - 1)
		log_text[len++] = ' ';
	va_start(ap, fmt);
	vsnprintf(log_text + len, sizeof(log_text) - len, fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&log_lock);
}

static void clear_notes(void)
{
	pthread_mutex_lock(&log_lock);
	log_text[0] = 0;
	pthread_mutex_unlock(&log_lock);
}

static void check_notes(const char *file, int line, const char *expected)
{
	bool same;

	pthread_mutex_lock(&log_lock);
	same = !strcmp(log_text, expected);
	if (!same)
		print_error("%s:%d: \"%s\" should be \"%s\"\n", file, line, log_text, expected);
	log_text[0] = 0;
	pthread_mutex_unlock(&log_lock);
	if (!same)
		fail();
}
/* Compare with what was called since the last time. */
#define notes(expected) check_notes(__FILE__, __LINE__, expected)

/* --- the lock module --- */
static struct {
	atomic_uint requests, cancels, puts; /* how many */
	atomic_int req;			     /* the last one */
	atomic_uint flags;
	atomic_bool automatic;		     /* answer "granted" from inside, as lock_nolock */
	atomic_bool keep;		     /* put: do not free yet */
	atomic_bool slow;		     /* lm_lock takes its time, from being asked until this is reset */
} lm;

/* Was a request taken by manual_lock() that nobody has answered? In gl_lm_priv, which is the module's. */
static void set_open(struct gfs2_glock *gl, bool open)
{
	__atomic_store_n(&gl->gl_lm_priv, open ? &lm : NULL, __ATOMIC_SEQ_CST);
}

static void manual_lock(struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	if (atomic_load(&lm.automatic)) {
		gfs2_glock_complete(gl, req);
		return;
	}
	set_open(gl, true);
	note("lock:%s%s", glock_state_name(req), flags & LM_FLAG_TRY ? ":try" : "");
	atomic_store(&lm.req, req);
	atomic_store(&lm.flags, flags);
	atomic_fetch_add(&lm.requests, 1);
	while (atomic_load(&lm.slow))
		usleep(100);
}

/* The tests' answers. */
static void manual_complete(struct gfs2_glock *gl, int ret)
{
	set_open(gl, false);
	gfs2_glock_complete(gl, ret);
}
#define gfs2_glock_complete manual_complete

static void manual_cancel(struct gfs2_glock *gl)
{
	note("cancel");
	atomic_fetch_add(&lm.cancels, 1);
}

static void manual_put(struct gfs2_glock *gl)
{
	atomic_fetch_add(&lm.puts, 1);
	if (!atomic_load(&lm.keep))
		gfs2_glock_free(gl);
}

static const struct lm_lockops lm_manual = {
	.lm_proto_name = "lock_manual",
	.lm_lock = manual_lock,
	.lm_cancel = manual_cancel,
	.lm_put_lock = manual_put,
	.lm_has_peers = true,
};

/* --- the glock type --- */
static struct {
	atomic_int sync_error, inst_error, held_error;
	atomic_uint inst_calls;
	atomic_bool inst_slow, inst_started; /* go_instantiate waits until inst_slow is false */
	atomic_bool sync_slow, sync_started;
	pthread_t inst_thread;
} ty;

static int t_sync(struct gfs2_glock *gl)
{
	note("sync");
	atomic_store(&ty.sync_started, true);
	while (atomic_load(&ty.sync_slow))
		usleep(100);
	return atomic_load(&ty.sync_error);
}

static void t_inval(struct gfs2_glock *gl, bool metadata)
{
	note(metadata ? "inval:all" : "inval:data");
}

static int t_instantiate(struct gfs2_glock *gl)
{
	note("inst");
	ty.inst_thread = pthread_self();
	atomic_fetch_add(&ty.inst_calls, 1);
	atomic_store(&ty.inst_started, true);
	while (atomic_load(&ty.inst_slow))
		usleep(100);
	return atomic_load(&ty.inst_error);
}

static int t_held(struct gfs2_holder *gh)
{
	note("held:%s", glock_state_name(gh->gh_state));
	return atomic_load(&ty.held_error);
}

static void t_dump(struct gfs2_glock *gl, FILE *out)
{
	fprintf(out, " I: object\n");
}

/* Type INODE has a minimum hold time; RGRP is the same without. */
static const struct gfs2_glock_operations inode_ops = {
	.go_type = LM_TYPE_INODE,
	.go_flags = GLOF_LRU | GLOF_ASPACE,
	.go_sync = t_sync,
	.go_inval = t_inval,
	.go_instantiate = t_instantiate,
	.go_held = t_held,
	.go_dump = t_dump,
};
static const struct gfs2_glock_operations plain_ops = {
	.go_type = LM_TYPE_RGRP,
	.go_flags = GLOF_LRU,
	.go_sync = t_sync,
	.go_inval = t_inval,
};
static const struct gfs2_glock_operations nondisk_ops = {
	.go_type = LM_TYPE_NONDISK,
	.go_flags = GLOF_NONDISK,
};

static struct gfs2_glock_table *table;

static int setup_lm(const struct lm_lockops *ops)
{
	memset(&lm, 0, sizeof(lm));
	memset(&ty, 0, sizeof(ty));
	clear_notes();
	return gfs2_glock_table_create(ops, NULL, 2, &table, &table);
}

static __attribute__((unused)) int setup_manual(void **state)
{
	return setup_lm(&lm_manual);
}

static __attribute__((unused)) int setup_nolock(void **state)
{
	return setup_lm(&lm_nolock);
}

/* --- looking at a glock --- */
static enum lm_state state_of(struct gfs2_glock *gl)
{
	enum lm_state s;

	rmutex_lock(&gl->gl_lock);
	s = gl->gl_state;
	rmutex_unlock(&gl->gl_lock);
	return s;
}

static enum gl_phase phase_of(struct gfs2_glock *gl)
{
	enum gl_phase p;

	rmutex_lock(&gl->gl_lock);
	p = gl->gl_phase;
	rmutex_unlock(&gl->gl_lock);
	return p;
}

static __attribute__((unused)) unsigned long flags_of(struct gfs2_glock *gl)
{
	unsigned long f;

	rmutex_lock(&gl->gl_lock);
	f = gl->gl_flags;
	rmutex_unlock(&gl->gl_lock);
	return f;
}

/*
 * A test that failed half-way leaves requests without answer; the table must end nevertheless.  Not by the phase: a worker may
 * just be on its way to a module that answers by itself.
 */
static void answer_open(struct gfs2_glock *gl, void *arg)
{
	if (__atomic_load_n(&gl->gl_lm_priv, __ATOMIC_SEQ_CST) == &lm)
		gfs2_glock_complete(gl, gl->gl_req);
}

static __attribute__((unused)) int teardown(void **state)
{
	atomic_store(&lm.automatic, true);
	gfs2_glock_table_for_each(table, answer_open, NULL);
	gfs2_glock_table_destroy(table);
	return 0;
}

/* --- holders, each with an owner of its own --- */
static void init_holder(struct gfs2_glock *gl, enum lm_state s, unsigned flags,
			struct gfs2_holder *gh)
{
	static atomic_uint next_req = 1000;
	uint64_t saved = current_ctx()->req;

	current_ctx()->req = atomic_fetch_add(&next_req, 1);
	gfs2_holder_init(gl, s, flags, gh, "test");
	current_ctx()->req = saved;
}

/* Queued without waiting. */
static void queue(struct gfs2_glock *gl, enum lm_state s, unsigned flags, struct gfs2_holder *gh)
{
	init_holder(gl, s, flags | GL_ASYNC, gh);
	assert_int_equal(gfs2_glock_nq(gh), 0);
}

static __attribute__((unused)) bool granted(struct gfs2_holder *gh)
{
	return gfs2_glock_poll(gh) && gfs2_holder_queued(gh);
}

/* The next request of the module is for @req; answer it with @ret. */
static __attribute__((unused)) void answer(struct gfs2_glock *gl, unsigned nth, enum lm_state req, int ret)
{
	await(atomic_load(&lm.requests) >= nth);
	assert_int_equal(atomic_load(&lm.requests), nth);
	assert_int_equal(atomic_load(&lm.req), req);
	gfs2_glock_complete(gl, ret);
}

/* Take the glock to @s and drop the holder, so that it is cached. */
static __attribute__((unused)) void cache_state(struct gfs2_glock *gl, enum lm_state s)
{
	struct gfs2_holder gh;

	atomic_store(&lm.automatic, true);
	init_holder(gl, s, GL_EXACT, &gh);
	assert_int_equal(gfs2_glock_nq(&gh), 0);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(state_of(gl), s);
	atomic_store(&lm.automatic, false);
	atomic_store(&lm.requests, 0);
	clear_notes();
}

#endif
