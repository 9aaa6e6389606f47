/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ranked mutexes: what is allowed works; in debug builds what is not allowed ends the process and says why. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <unistd.h>
#include "child.h"

#include "util/mutex.h"
#include "util/util.h"
#include "util/wait.h"

static struct rmutex inode, mapping, mapping2, event;
static struct rcond cond;
static int turn;

static int setup(void **state)
{
	rmutex_init(&inode, RANK_INODE);
	rmutex_init(&mapping, RANK_MAPPING);
	rmutex_init(&mapping2, RANK_MAPPING);
	rmutex_init(&event, RANK_EVENT);
	rcond_init(&cond);
	turn = 0;
	return 0;
}

static int teardown(void **state)
{
	rmutex_destroy(&inode);
	rmutex_destroy(&mapping);
	rmutex_destroy(&mapping2);
	rmutex_destroy(&event);
	rcond_destroy(&cond);
	return 0;
}

static void ascending_order(void **state)
{
	rmutex_assert_none();
	rmutex_lock(&inode);
	rmutex_lock(&mapping);
	rmutex_assert_held(&inode);
	rmutex_assert_held(&mapping);
	/* Released in any order; a rank that is free again may be taken again. */
	rmutex_unlock(&mapping);
	rmutex_lock(&mapping2);
	rmutex_lock(&event);
	rmutex_unlock(&mapping2);
	rmutex_unlock(&event);
	rmutex_lock(&mapping);
	rmutex_unlock(&mapping);
	rmutex_unlock(&inode);
	rmutex_assert_none();
}

static void trylock_out_of_order(void **state)
{
	rmutex_lock(&mapping);
	assert_true(rmutex_trylock(&inode));
	assert_true(rmutex_trylock(&mapping2));
	rmutex_assert_held(&inode);
	rmutex_lock(&event);
	rmutex_unlock(&event);
	rmutex_unlock(&mapping2);
	rmutex_unlock(&inode);
	rmutex_unlock(&mapping);
	rmutex_assert_none();
}

static void *try_it(void *taken)
{
	*(bool *)taken = rmutex_trylock(&mapping);
	if (*(bool *)taken)
		rmutex_unlock(&mapping);
	return NULL;
}

static void trylock_of_a_held_one_fails(void **state)
{
	bool taken = true;
	pthread_t t;

	rmutex_lock(&mapping);
	pthread_create(&t, NULL, try_it, &taken);
	pthread_join(t, NULL);
	assert_false(taken);
	rmutex_unlock(&mapping);
}

static void *pong(void *arg)
{
	rmutex_lock(&mapping);
	while (turn != 1)
		rcond_wait(&cond, &mapping);
	turn = 2;
	rcond_broadcast(&cond);
	rmutex_unlock(&mapping);
	return NULL;
}

static void conditions(void **state)
{
	pthread_t t;

	pthread_create(&t, NULL, pong, NULL);
	rmutex_lock(&mapping);
	turn = 1;
	rcond_broadcast(&cond);
	while (turn != 2)
		rcond_wait(&cond, &mapping);
	/* A deadline that has passed: false, and the mutex is held again. */
	assert_false(rcond_wait_until(&cond, &mapping, now_ns() - 1));
	rmutex_assert_held(&mapping);
	rmutex_unlock(&mapping);
	pthread_join(t, NULL);
	rmutex_assert_none();
}

struct called {
	struct rsem sem;
	int said;
};

static void *call(void *arg)
{
	struct called *c = arg;

	c->said = 1;
	rsem_post(&c->sem);
	return NULL;
}

/* Until the waiter has handed over. */
static pthread_mutex_t late = PTHREAD_MUTEX_INITIALIZER;
static unsigned handed_over;

static void hand_over(struct before_wait *bw)
{
	handed_over++;
	pthread_mutex_unlock(&late);
}

static void *call_late(void *arg)
{
	pthread_mutex_lock(&late);
	call(arg);
	pthread_mutex_unlock(&late);
	return NULL;
}

/* Posted before it is waited for, and after, by somebody who does not come within the grace. */
static void semaphores(void **state)
{
	struct before_wait bw = { .fn = hand_over };
	struct called c = { .said = 0 };
	pthread_t t;

	rsem_init(&c.sem);
	before_wait_set(&bw);
	rsem_post(&c.sem);
	rsem_wait(&c.sem);
	assert_int_equal(handed_over, 0);
	assert_int_equal(pthread_mutex_lock(&late), 0);
	assert_int_equal(pthread_create(&t, NULL, call_late, &c), 0);
	rsem_wait(&c.sem);
	assert_int_equal(handed_over, 1);
	assert_int_equal(c.said, 1);
	pthread_join(t, NULL);
	c.said = 0;
	assert_int_equal(pthread_create(&t, NULL, call, &c), 0);
	rsem_wait(&c.sem);
	assert_int_equal(c.said, 1);
	pthread_join(t, NULL);
	rsem_destroy(&c.sem);
}

#ifdef GFS2_DEBUG_CHECKS

static void call_it(void *fn)
{
	((void (*)(void))(uintptr_t)fn)();
}

/* Run @fn in a child: it must abort, and have said both. */
static void assert_aborts(void (*fn)(void), const char *words, const char *more)
{
	char text[2048];
	int status = end_of_child(call_it, (void *)(uintptr_t)fn, text, sizeof(text));

	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
		fail_msg("not aborted, status %x, said: %s", status, text);
	if (!strstr(text, words) || !strstr(text, more))
		fail_msg("expected \"%s\" and \"%s\", got: %s", words, more, text);
}

static void descending(void)
{
	rmutex_lock(&mapping);
	rmutex_lock(&inode);
}

static void same_rank(void)
{
	rmutex_lock(&mapping);
	rmutex_lock(&mapping2);
}

static void below_a_tried_one(void)
{
	rmutex_lock(&inode);
	if (rmutex_trylock(&event))
		rmutex_lock(&mapping);
}

static void twice(void)
{
	rmutex_lock(&mapping);
	rmutex_lock(&mapping);
}

static void not_held(void)
{
	rmutex_assert_held(&mapping);
}

static void release_of_others(void)
{
	rmutex_unlock(&mapping);
}

static void sleeping(void)
{
	rmutex_lock(&mapping);
	rmutex_assert_none();
}

static void wait_below_another(void)
{
	rmutex_lock(&mapping);
	rmutex_lock(&event);
	rcond_wait_until(&cond, &mapping, 0);
}

static void violations(void **state)
{
	assert_aborts(descending, "taking RANK_INODE (rank ", "while holding RANK_MAPPING (rank ");
	assert_aborts(same_rank, "taking RANK_MAPPING", "while holding RANK_MAPPING");
	assert_aborts(below_a_tried_one, "taking RANK_MAPPING", "while holding RANK_EVENT");
	assert_aborts(twice, "taking again RANK_MAPPING", "");
	assert_aborts(not_held, "RANK_MAPPING", "should be held");
	assert_aborts(release_of_others, "releasing RANK_MAPPING", "does not hold");
	assert_aborts(sleeping, "about to sleep", "while holding RANK_MAPPING");
	assert_aborts(wait_below_another, "taking RANK_MAPPING", "while holding RANK_EVENT");
}

#else

static void violations(void **state)
{
	print_message("skipped: lock order is checked in builds with debug checks only\n");
	skip();
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ascending_order, setup, teardown),
		cmocka_unit_test_setup_teardown(trylock_out_of_order, setup, teardown),
		cmocka_unit_test_setup_teardown(trylock_of_a_held_one_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(conditions, setup, teardown),
		cmocka_unit_test(semaphores),
		cmocka_unit_test_setup_teardown(violations, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
