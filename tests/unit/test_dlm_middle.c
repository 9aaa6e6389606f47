/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_dlm between PR and CW: by way of CR, in every order in which the answers of the two halves, cancels, blocking callbacks, a recovery
 * and the end can come.  libdlm is the test's: requests are put down, answers are sent by hand, through the real reader to real glocks.
 */
#include <fcntl.h>
#include <linux/dlm_device.h>
#include <linux/dlmconstants.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "glockfix.h"
#include "lock/dlm_i.h"

#define FLAGS_DOWN (DLM_LKF_PERSISTENT | DLM_LKF_CONVERT)
#define FLAGS_UP (FLAGS_DOWN | DLM_LKF_QUECVT)
#define ECANCEL_ 0x10001	/* as in dlm_reader.c: the kernel's, not libdlm's */
#define EUNLOCK_ 0x10002

static struct {
	pthread_mutex_t lock;
	int fd;				/* where answers are written */
	unsigned requests, cancels;
	int fail;			/* errno for the next request */
	int mode;
	uint32_t flags;
	void *param;
	bool by_itself;			/* grant at once */
	bool open;			/* not answered */
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct lm_dlm *dc;

static void send_result(void *addr, int status, int bast_mode)
{
	struct dlm_lock_result res = {
		.user_astaddr = addr, .user_astparam = fake.param,
		.lksb = { .sb_status = status, .sb_lkid = 77 }, .bast_mode = (__u8)bast_mode,
	};

	fake.open &= addr != (void *)dlm_ast_address;
	assert_int_equal(send(fake.fd, &res, sizeof(res), 0), sizeof(res));
}

/* In place of the library's; struct dlm_lksb is the kernel's, which has the same layout. */
int dlm_ls_lock(void *ls, uint32_t mode, struct dlm_lksb *lksb, uint32_t flags, const void *name, unsigned namelen,
		uint32_t parent, void (*astaddr)(void *arg), void *astarg, void (*bastaddr)(void *arg), void *range);
int dlm_ls_unlock(void *ls, uint32_t lkid, uint32_t flags, struct dlm_lksb *lksb, void *astarg);

int dlm_ls_lock(void *ls, uint32_t mode, struct dlm_lksb *lksb, uint32_t flags, const void *name, unsigned namelen,
		uint32_t parent, void (*astaddr)(void *arg), void *astarg, void (*bastaddr)(void *arg), void *range)
{
	int error;

	pthread_mutex_lock(&fake.lock);
	error = fake.fail;
	fake.fail = 0;
	fake.requests++;
	fake.mode = (int)mode;
	fake.flags = flags;
	fake.param = astarg;
	assert_int_equal(lksb->sb_lkid, flags & DLM_LKF_CONVERT ? 77 : 0);
	lksb->sb_lkid = 77;
	fake.open = !error;
	if (!error && fake.by_itself)
		send_result((void *)dlm_ast_address, 0, 0);
	pthread_mutex_unlock(&fake.lock);
	errno = error;
	return error ? -1 : 0;
}

int dlm_ls_unlock(void *ls, uint32_t lkid, uint32_t flags, struct dlm_lksb *lksb, void *astarg)
{
	pthread_mutex_lock(&fake.lock);
	assert_int_equal(lkid, 77);
	if (flags) {
		assert_int_equal(flags, DLM_LKF_CANCEL);
		fake.cancels++;
	} else {
		fake.param = astarg;
		send_result((void *)dlm_ast_address, -EUNLOCK_, 0);
	}
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static unsigned of_fake(const unsigned *what)
{
	unsigned n;

	pthread_mutex_lock(&fake.lock);
	n = *what;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

/* The @nth request is for @mode. */
static void asked(unsigned nth, int mode, uint32_t flags)
{
	await(of_fake(&fake.requests) >= nth);
	pthread_mutex_lock(&fake.lock);
	assert_int_equal(fake.requests, nth);
	assert_int_equal(fake.mode, mode);
	assert_int_equal(fake.flags, flags);
	pthread_mutex_unlock(&fake.lock);
}

static void answered(int status)
{
	pthread_mutex_lock(&fake.lock);
	send_result((void *)dlm_ast_address, status, 0);
	pthread_mutex_unlock(&fake.lock);
}

static void demanded(int mode)
{
	pthread_mutex_lock(&fake.lock);
	send_result((void *)dlm_bast_address, 0, mode);
	pthread_mutex_unlock(&fake.lock);
}

static void fail_next(int error)
{
	pthread_mutex_lock(&fake.lock);
	fake.fail = error;
	pthread_mutex_unlock(&fake.lock);
}

static int setup(void **state)
{
	int fds[2];

	setup_lm(&lm_dlm);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	fake.fd = fds[1];
	dc = dlm_create(table);
	dc->dc_blocked = false;
	dc->dc_fd = fds[0];
	assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
	/* A log in which nothing is said. */
	dc->dc_kmsg = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	gfs2_glock_table_set_lm_private(table, dc);
	assert_int_equal(dlm_reader_start(dc), 0);
	assert_int_equal(dlm_issuer_start(dc), 0);
	return 0;
}

static void by_itself(bool yes)
{
	pthread_mutex_lock(&fake.lock);
	fake.by_itself = yes;
	fake.requests = fake.cancels = 0;
	pthread_mutex_unlock(&fake.lock);
}

static int end(void **state)
{
	int fd = dc->dc_fd;

	by_itself(true);
	/* A test that failed half-way. */
	pthread_mutex_lock(&fake.lock);
	if (fake.open)
		send_result((void *)dlm_ast_address, 0, 0);
	pthread_mutex_unlock(&fake.lock);
	gfs2_glock_table_destroy(table);
	close(fd);
	close(fake.fd);
	return 0;
}

/* Cached in @s, nothing under way. */
static struct gfs2_glock *cached(enum lm_state s)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder gh;

	by_itself(true);
	init_holder(gl, s, GL_EXACT | GL_SKIP, &gh);
	assert_int_equal(gfs2_glock_nq(&gh), 0);
	gfs2_glock_dq_uninit(&gh);
	await(phase_of(gl) == GLP_IDLE);
	assert_int_equal(state_of(gl), s);
	by_itself(false);
	clear_notes();
	return gl;
}

static void idle_in(struct gfs2_glock *gl, enum lm_state s)
{
	await(phase_of(gl) == GLP_IDLE && state_of(gl) == s);
}

static const struct { enum lm_state from, to; int mode; } ways[] = { { SH, DF, DLMM_CW }, { DF, SH, DLMM_PR } };

static void test_two_halves(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct gfs2_glock *gl = cached(ways[i].from);
		struct gfs2_holder gh;

		queue(gl, ways[i].to, GL_SKIP, &gh);
		asked(1, DLMM_CR, FLAGS_DOWN);
		usleep(20000);
		/* One after the other. */
		asked(1, DLMM_CR, FLAGS_DOWN);
		answered(0);
		asked(2, ways[i].mode, FLAGS_UP);
		assert_false(gfs2_glock_poll(&gh));
		answered(0);
		assert_int_equal(gfs2_glock_wait(&gh), 0);
		assert_int_equal(state_of(gl), ways[i].to);
		gfs2_glock_dq_uninit(&gh);
		notes(i ? "sync" : "sync inval:data");
		/* And from there on as always. */
		gfs2_glock_cb(gl, UN, false);
		asked(3, DLMM_NL, FLAGS_DOWN);
		answered(0);
		idle_in(gl, UN);
		gfs2_glock_put(gl);
	}
}

/* All others are one request. */
static void test_others_are_direct(void **state)
{
	static const struct { enum lm_state from, to; int mode; uint32_t flags; } others[] = {
		{ SH, EX, DLMM_EX, FLAGS_UP }, { DF, EX, DLMM_EX, FLAGS_UP },
		{ EX, SH, DLMM_PR, FLAGS_DOWN }, { EX, DF, DLMM_CW, FLAGS_DOWN },
		{ EX, UN, DLMM_NL, FLAGS_DOWN }, { SH, UN, DLMM_NL, FLAGS_DOWN },
	};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		struct gfs2_glock *gl = cached(others[i].from);
		struct gfs2_holder gh;

		if (others[i].to == UN)
			gfs2_glock_cb(gl, UN, false);
		else
			queue(gl, others[i].to, GL_SKIP | GL_EXACT, &gh);
		asked(1, others[i].mode, others[i].flags);
		answered(0);
		idle_in(gl, others[i].to);
		if (others[i].to != UN)
			gfs2_glock_dq_uninit(&gh);
		gfs2_glock_put(gl);
	}
}

/* The second half fails: what is left is given up, and nobody has it meanwhile.  Then it is asked for as from nothing. */
static void test_no_way_back(void **state)
{
	static const int statuses[] = { -EDEADLK, -ENOMEM };

	for (size_t i = 0; i < ARRAY_SIZE(ways) * ARRAY_SIZE(statuses); i++) {
		enum lm_state from = ways[i % 2].from, to = ways[i % 2].to;
		int status = statuses[i / 2];
		struct gfs2_glock *gl = cached(from);
		struct gfs2_holder a, b;

		queue(gl, to, GL_SKIP, &a);
		asked(1, DLMM_CR, FLAGS_DOWN);
		queue(gl, from, GL_SKIP, &b);
		answered(0);
		asked(2, ways[i % 2].mode, FLAGS_UP);
		answered(status);
		asked(3, DLMM_NL, FLAGS_DOWN);
		if (status == -EDEADLK) {
			assert_false(gfs2_glock_poll(&a) || gfs2_glock_poll(&b));
			answered(0);
			asked(4, ways[i % 2].mode, FLAGS_UP);
			answered(0);
			assert_int_equal(gfs2_glock_wait(&a), 0);
			gfs2_glock_dq_uninit(&a);
			asked(5, DLMM_CR, FLAGS_DOWN);
			answered(0);
			asked(6, dlm_mode(from), FLAGS_UP);
			answered(0);
			assert_int_equal(gfs2_glock_wait(&b), 0);
			gfs2_glock_dq_uninit(&b);
		} else {
			/* An answer that is none: an error for whoever waits. */
			assert_int_equal(gfs2_glock_wait(&a), -EIO);
			assert_int_equal(gfs2_glock_wait(&b), -EIO);
			gfs2_holder_uninit(&a);
			gfs2_holder_uninit(&b);
			answered(0);
			idle_in(gl, UN);
		}
		gfs2_glock_put(gl);
	}
}

/* A try is refused; NOQUEUE is for the second half only. */
static void test_try(void **state)
{
	struct gfs2_glock *gl = cached(SH);
	struct gfs2_holder gh;

	queue(gl, DF, LM_FLAG_TRY | GL_SKIP, &gh);
	asked(1, DLMM_CR, FLAGS_DOWN);
	answered(0);
	asked(2, DLMM_CW, FLAGS_DOWN | DLM_LKF_NOQUEUE);
	answered(-EAGAIN);
	assert_int_equal(gfs2_glock_wait(&gh), GLR_TRYFAILED);
	gfs2_holder_uninit(&gh);
	asked(3, DLMM_NL, FLAGS_DOWN);
	answered(0);
	idle_in(gl, UN);
	gfs2_glock_put(gl);
}

/* One of the halves cannot even be asked for. */
static void test_cannot_ask(void **state)
{
	struct gfs2_glock *gl = cached(SH);
	struct gfs2_holder gh;

	/* The first: nothing has happened, and SH is held as before. */
	fail_next(ENOMEM);
	queue(gl, DF, GL_SKIP, &gh);
	assert_int_equal(gfs2_glock_wait(&gh), -EIO);
	gfs2_holder_uninit(&gh);
	idle_in(gl, SH);
	asked(1, DLMM_CR, FLAGS_DOWN);
	init_holder(gl, SH, GL_SKIP, &gh);
	assert_true(gfs2_glock_nq_fast(&gh));
	gfs2_glock_dq_uninit(&gh);
	/* Busy is no error. */
	fail_next(EBUSY);
	queue(gl, DF, GL_SKIP, &gh);
	asked(3, DLMM_CR, FLAGS_DOWN);
	/* The second: it is lost, and the way down fails at first, too. */
	fail_next(ENOMEM);
	answered(0);
	assert_int_equal(gfs2_glock_wait(&gh), -EIO);
	gfs2_holder_uninit(&gh);
	asked(5, DLMM_NL, FLAGS_DOWN);
	answered(-ENOMEM);
	await(phase_of(gl) == GLP_IDLE);
	init_holder(gl, SH, GL_SKIP, &gh);
	assert_false(gfs2_glock_nq_fast(&gh));
	gfs2_holder_uninit(&gh);
	queue(gl, SH, GL_SKIP, &gh);
	asked(6, DLMM_NL, FLAGS_DOWN);
	answered(0);
	asked(7, DLMM_PR, FLAGS_UP);
	answered(0);
	assert_int_equal(gfs2_glock_wait(&gh), 0);
	gfs2_glock_dq_uninit(&gh);
	gfs2_glock_put(gl);
}

/* Taken back during the first half, when there is nothing to cancel: the DLM is told when there is. Or too late. */
static void test_cancel(void **state)
{
	for (unsigned late = 0; late < 2; late++) {
		struct gfs2_glock *gl = cached(SH);
		struct gfs2_holder gh;

		queue(gl, DF, GL_SKIP, &gh);
		asked(1, DLMM_CR, FLAGS_DOWN);
		gfs2_glock_dq_uninit(&gh);
		answered(0);
		asked(2, DLMM_CW, FLAGS_UP);
		await(of_fake(&fake.cancels) == 1);
		answered(late ? 0 : -ECANCEL_);
		if (late) {
			idle_in(gl, DF);
			gfs2_glock_cb(gl, UN, false);
		}
		asked(3, DLMM_NL, FLAGS_DOWN);
		answered(0);
		idle_in(gl, UN);
		gfs2_glock_put(gl);
	}
}

/* Another node's wish for EX that comes half-way. */
static void test_demand(void **state)
{
	for (unsigned second = 0; second < 2; second++) {
		struct gfs2_glock *gl = cached(DF);
		struct gfs2_holder gh;

		queue(gl, SH, GL_SKIP, &gh);
		asked(1, DLMM_CR, FLAGS_DOWN);
		if (!second)
			demanded(DLMM_EX);
		answered(0);
		asked(2, DLMM_PR, FLAGS_UP);
		if (second)
			demanded(DLMM_EX);
		answered(0);
		assert_int_equal(gfs2_glock_wait(&gh), 0);
		gfs2_glock_dq_uninit(&gh);
		asked(3, DLMM_NL, FLAGS_DOWN);
		answered(0);
		idle_in(gl, UN);
		gfs2_glock_put(gl);
	}
}

/* For another node it goes all the way down at once. */
static void test_demotion(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct gfs2_glock *gl = cached(ways[i].from);

		gfs2_glock_cb(gl, ways[i].to, true);
		asked(1, DLMM_NL, FLAGS_DOWN);
		answered(0);
		idle_in(gl, UN);
		gfs2_glock_put(gl);
	}
}

/* Grants are kept back while a journal has to be replayed; the first half grants nothing. */
static void test_blocked(void **state)
{
	struct gfs2_glock *gl = cached(SH);
	struct gfs2_holder gh;

	queue(gl, DF, GL_SKIP, &gh);
	asked(1, DLMM_CR, FLAGS_DOWN);
	rmutex_lock(&dc->dc_lock);
	dc->dc_blocked = true;
	rmutex_unlock(&dc->dc_lock);
	answered(0);
	asked(2, DLMM_CW, FLAGS_UP);
	answered(0);
	await(({ rmutex_lock(&dc->dc_lock); bool kept = !list_empty(&dc->dc_kept); rmutex_unlock(&dc->dc_lock); kept; }));
	assert_false(gfs2_glock_poll(&gh));
	rmutex_lock(&dc->dc_lock);
	dc->dc_blocked = false;
	rmutex_unlock(&dc->dc_lock);
	dlm_thaw(dc);
	assert_int_equal(gfs2_glock_wait(&gh), 0);
	gfs2_glock_dq_uninit(&gh);
	gfs2_glock_put(gl);
}

/* The table ends, or the file system is withdrawn, half-way; teardown waits for what is under way. */
static void test_end_half_way(void **state)
{
	struct gfs2_glock *gl = cached(SH);
	struct gfs2_holder gh;

	queue(gl, DF, GL_SKIP, &gh);
	asked(1, DLMM_CR, FLAGS_DOWN);
	answered(0);
	asked(2, DLMM_CW, FLAGS_UP);
	gfs2_glock_dq_uninit(&gh);
	gfs2_glock_put(gl);
	answered(-EDEADLK);
}

static void test_withdrawn_half_way(void **state)
{
	struct gfs2_glock *gl = cached(SH);
	struct gfs2_holder gh;

	queue(gl, DF, GL_SKIP, &gh);
	asked(1, DLMM_CR, FLAGS_DOWN);
	gfs2_glock_table_withdraw(table);
	assert_int_equal(gfs2_glock_wait(&gh), -EIO);
	gfs2_holder_uninit(&gh);
	answered(0);
	asked(2, DLMM_CW, FLAGS_UP);
	answered(-EDEADLK);
	await(phase_of(gl) == GLP_IDLE);
	/* It keeps others from EX until its journal has been replayed. */
	asked(2, DLMM_CW, FLAGS_UP);
	gfs2_glock_put(gl);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, end)
	const struct CMUnitTest tests[] = {
		T(test_two_halves), T(test_others_are_direct), T(test_no_way_back), T(test_try), T(test_cannot_ask), T(test_cancel),
		T(test_demand), T(test_demotion), T(test_blocked), T(test_end_half_way), T(test_withdrawn_half_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
