/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Breakpoints and locks kept by hand, step by step: what is stopped, what is not, what lets go.  (Under load: glock_cluster.)
 */
#include "glockfix.h"

#include <poll.h>
#include <sys/eventfd.h>

#include "debug/event.h"
#include "debug/stop.h"

static struct stop_session *s;
static int fd;
static unsigned last_hit;	/* of this session */

static void new_session(void)
{
	s = stop_session_new(fd, 0);
	last_hit = 0;
}

static int setup(void **state)
{
	gfs2_event_init(12);
	assert_int_equal(stop_init(), 0);
	fd = eventfd(0, EFD_NONBLOCK);
	new_session();
	assert_non_null(s);
	return setup_manual(state);
}

static int end(void **state)
{
	int error;

	stop_session_free(s);
	stop_shutdown();
	error = teardown(state);
	stop_exit();
	close(fd);
	gfs2_event_exit();
	return error;
}

static const struct stop_spec any = { .points = 1u << STOP_TRANSITION, .any_glock = true, .from = 0xf, .to = 0xf,
				      .timeout_ns = STOP_TIMEOUT_NS };

/* Waits for the next stop; its number. */
static unsigned hit(struct stop_site *site)
{
	unsigned brk;

	await(stop_next_hit(s, &last_hit, &brk, site));
	return last_hit;
}

static bool any_stop(void)
{
	struct stop_site site;
	unsigned after = 0, brk;

	return stop_next_hit(s, &after, &brk, &site);
}

static void test_transition(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops), *other = gfs2_glock_get(table, 8, &plain_ops);
	struct stop_spec spec = any;
	struct gfs2_holder gh, gh2;
	struct stop_site site;
	eventfd_t n;

	spec.any_glock = false;
	spec.gl_type = LM_TYPE_RGRP;
	spec.gl_number = 7;
	spec.from = 1u << UN;
	spec.to = 1u << EX;
	assert_int_equal(stop_break(s, &spec), 1);
	queue(gl, EX, 0, &gh);
	hit(&site);
	assert_int_equal(eventfd_read(fd, &n), 0);
	assert_int_equal(site.point, STOP_TRANSITION);
	assert_int_equal(site.from, UN);
	assert_int_equal(site.to, EX);
	assert_int_equal(site.req, gh.gh_owner);
	assert_string_equal(site.why, "promotion");
	/* Nothing has been done for it, the rest of the system goes on. */
	assert_int_equal(atomic_load(&lm.requests), 0);
	notes("");
	queue(other, EX, 0, &gh2);
	answer(other, 1, EX, EX);
	await(granted(&gh2));
	assert_false(gfs2_glock_poll(&gh));

	assert_int_equal(stop_continue(s, 0), 1);
	answer(gl, 2, EX, EX);
	await(granted(&gh));
	/* On the way down it is another transition. */
	gfs2_glock_dq_uninit(&gh);
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 3, UN, UN);
	await(state_of(gl) == UN);
	assert_false(any_stop());
	gfs2_glock_dq_uninit(&gh2);
	gfs2_glock_put(gl);
	gfs2_glock_put(other);
}

/* The waiter goes away while its transition is stopped: nobody asks for it any more. */
static void test_waiter_leaves(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct gfs2_holder gh;
	struct stop_site site;

	stop_break(s, &any);
	queue(gl, SH, 0, &gh);
	hit(&site);
	gfs2_glock_dq_uninit(&gh);
	stop_continue(s, 0);
	await(phase_of(gl) == GLP_IDLE);
	assert_int_equal(state_of(gl), UN);
	assert_int_equal(atomic_load(&lm.requests), 0);
	gfs2_glock_put(gl);
}

static void test_module(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct stop_spec spec = any;
	struct gfs2_holder gh;
	struct stop_site site;

	spec.points = 1u << STOP_DLM_REQUEST | 1u << STOP_DLM_AST | 1u << STOP_DLM_BAST;
	stop_break(s, &spec);
	queue(gl, EX, 0, &gh);
	hit(&site);
	assert_int_equal(site.point, STOP_DLM_REQUEST);
	assert_int_equal(phase_of(gl), GLP_WAIT);
	assert_int_equal(atomic_load(&lm.requests), 0);
	stop_continue(s, 0);

	answer(gl, 1, EX, EX);
	hit(&site);
	assert_int_equal(site.point, STOP_DLM_AST);
	assert_int_equal(state_of(gl), UN);
	assert_false(gfs2_glock_poll(&gh));
	stop_continue(s, 0);
	await(granted(&gh));

	gfs2_glock_cb(gl, SH, true);
	hit(&site);
	assert_int_equal(site.point, STOP_DLM_BAST);
	assert_int_equal(site.to, SH);
	/* A second one is heard with it; different wishes together are UN. */
	gfs2_glock_cb(gl, DF, true);
	assert_false(gfs2_glock_demote_wanted(gl));
	stop_delete(s, 0);
	stop_continue(s, 0);
	await(gfs2_glock_demote_wanted(gl));
	gfs2_glock_dq_uninit(&gh);
	answer(gl, 2, UN, UN);
	await(state_of(gl) == UN);
	gfs2_glock_put(gl);
}

static void test_conditions(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct stop_spec spec = any;
	struct stop_site site = { .point = STOP_TRANSITION, .from = SH, .to = EX, .pid = 12 };

	atomic_store(&lm.automatic, true);
	/* The second one, once. */
	spec.count = 2;
	spec.once = true;
	spec.from = 1u << UN;
	assert_int_equal(stop_break(s, &spec), 1);
	cache_state(gl, SH);
	atomic_store(&lm.automatic, true);
	gfs2_glock_cb(gl, UN, false);
	await(state_of(gl) == UN);
	assert_false(any_stop());
	struct gfs2_holder gh;
	queue(gl, SH, 0, &gh);
	await(any_stop());
	assert_false(stop_armed());
	stop_continue(s, 0);
	await(granted(&gh));
	gfs2_glock_dq_uninit(&gh);

	/* Another process's, another state's. */
	spec = any;
	spec.pid = 11;
	stop_break(s, &spec);
	spec.pid = 12;
	spec.to = 1u << DF;
	stop_break(s, &spec);
	stop_here(&site);
	assert_int_equal(stop_delete(s, 77), -ENOENT);
	assert_int_equal(stop_continue(s, 77), -ENOENT);
	for (int i = 2; i < STOP_MAX_BREAKS; i++)
		assert_true(stop_break(s, &spec) > 0);
	assert_int_equal(stop_break(s, &spec), -ENOSPC);
	gfs2_glock_put(gl);
}

/* A try request is not stopped. */
static void test_try(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct stop_spec spec = any;
	struct gfs2_holder gh;

	spec.points = 1u << STOP_TRANSITION | 1u << STOP_DLM_REQUEST | 1u << STOP_DLM_AST;
	stop_break(s, &spec);
	atomic_store(&lm.automatic, true);
	init_holder(gl, EX, LM_FLAG_TRY, &gh);
	assert_int_equal(gfs2_glock_nq(&gh), 0);
	gfs2_glock_dq_uninit(&gh);
	assert_false(any_stop());
	stop_delete(s, 0);
	gfs2_glock_put(gl);
}

static void *sleeper(void *arg)
{
	const struct stop_site site = { .point = STOP_DIO_HOLE, .from = -1, .to = -1, .len = 1 };

	stop_here(&site);
	atomic_store((atomic_bool *)arg, true);
	return NULL;
}

static void add_hits(pid_t client, unsigned id, const struct stop_spec *spec, uint64_t hits, void *arg)
{
	*(uint64_t *)arg += hits;
}

/* Time over; session ended; mount ended: a sleeper and a deferred one each. */
static void test_let_go(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct stop_spec spec = any;
	struct pollfd p = { .fd = stop_timer_fd(), .events = POLLIN };
	struct stop_site site;

	spec.points = 1u << STOP_TRANSITION | 1u << STOP_DIO_HOLE;
	for (int how = 0; how < 3; how++) {
		atomic_bool woken = false;
		struct gfs2_holder gh;
		pthread_t thread;

		atomic_store(&lm.automatic, true);
		spec.timeout_ns = how == 0 ? 1000000 : STOP_TIMEOUT_NS;
		assert_true(stop_break(s, &spec) > 0);
		queue(gl, SH, 0, &gh);
		hit(&site);
		assert_int_equal(pthread_create(&thread, NULL, sleeper, &woken), 0);
		/* With a millisecond the sleeper may be gone before anybody looks. */
		if (how)
			hit(&site);
		switch (how) {
		case 0:
			assert_int_equal(poll(&p, 1, 60000), 1);
			/* Early by a rounding: then it goes off again. */
			while (!granted(&gh)) {
				stop_expire();
				usleep(100);
			}
			break;
		case 1:
			assert_false(atomic_load(&woken));
			stop_session_free(s);
			new_session();
			break;
		case 2:
			stop_shutdown();
			assert_int_equal(stop_break(s, &spec), -ESHUTDOWN);
			assert_null(stop_session_new(fd, 0));
			break;
		}
		await(granted(&gh));
		pthread_join(thread, NULL);
		assert_true(atomic_load(&woken));
		if (how == 0) {
			uint64_t hits = 0;

			stop_for_each(s, add_hits, NULL, &hits);
			assert_int_equal(hits, 2);
		}
		stop_delete(s, 0);
		gfs2_glock_dq_uninit(&gh);
		gfs2_glock_cb(gl, UN, false);
		await(state_of(gl) == UN);
	}
	gfs2_glock_put(gl);
}

/* --- playing another node --- */

static void test_foreign(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct gfs2_holder gh, gh2;

	cache_state(gl, EX);
	atomic_store(&lm.automatic, true);
	assert_int_equal(gfs2_glock_foreign_hold(gl, SH), 0);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	assert_int_equal(state_of(gl), SH);
	assert_int_equal(gfs2_glock_foreign_hold(gl, EX), -EBUSY);
	/* What goes with it is granted, what does not waits, who tries is refused. */
	queue(gl, SH, 0, &gh);
	await(granted(&gh));
	gfs2_glock_dq_uninit(&gh);
	init_holder(gl, EX, LM_FLAG_TRY, &gh);
	assert_int_equal(gfs2_glock_nq(&gh), GLR_TRYFAILED);
	gfs2_holder_uninit(&gh);
	queue(gl, EX, 0, &gh);
	queue(gl, SH, 0, &gh2);
	assert_false(gfs2_glock_poll(&gh));
	assert_int_equal(phase_of(gl), GLP_IDLE);
	gfs2_glock_foreign_release(gl, "by hand");
	await(granted(&gh));
	gfs2_glock_dq_uninit(&gh);
	await(granted(&gh2));
	gfs2_glock_dq_uninit(&gh2);

	/* EX: nothing goes with it, not even EX. */
	assert_int_equal(gfs2_glock_foreign_hold(gl, EX), 0);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	assert_int_equal(state_of(gl), UN);
	queue(gl, EX, 0, &gh);
	assert_false(gfs2_glock_poll(&gh));
	/* Who waits may leave. */
	gfs2_glock_dq_uninit(&gh);
	gfs2_glock_foreign_release(gl, "by hand");
	gfs2_glock_put(gl);
}

/* In use: it is given up when the holder leaves. */
static void test_foreign_waits(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 7, &plain_ops);
	struct gfs2_holder gh;

	atomic_store(&lm.automatic, true);
	queue(gl, DF, 0, &gh);
	await(granted(&gh));
	assert_int_equal(gfs2_glock_foreign_hold(gl, DF), 0);
	assert_true(gfs2_glock_wait_demoted(gl, 0));
	gfs2_glock_foreign_release(gl, "by hand");
	assert_int_equal(gfs2_glock_foreign_hold(gl, SH), 0);
	assert_false(gfs2_glock_wait_demoted(gl, 1000));
	assert_int_equal(state_of(gl), DF);
	gfs2_glock_dq_uninit(&gh);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	assert_int_equal(state_of(gl), SH);
	gfs2_glock_foreign_release(gl, "by hand");
	gfs2_glock_put(gl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_transition, setup, end),
		cmocka_unit_test_setup_teardown(test_waiter_leaves, setup, end),
		cmocka_unit_test_setup_teardown(test_module, setup, end),
		cmocka_unit_test_setup_teardown(test_conditions, setup, end),
		cmocka_unit_test_setup_teardown(test_try, setup, end),
		cmocka_unit_test_setup_teardown(test_let_go, setup, end),
		cmocka_unit_test_setup_teardown(test_foreign, setup, end),
		cmocka_unit_test_setup_teardown(test_foreign_waits, setup, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
