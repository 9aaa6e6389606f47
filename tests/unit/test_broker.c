/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The broker of lock_local as its members see it: a process of its own, spoken to message by message.  Who is first, who waits, which journal
 * one gets, and above all: what a dead member held is nobody else's before its journal was replayed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/dlmconstants.h>

#include "lock/glock.h"
#include "lock/local_proto.h"
#include "util/util.h"

/* Long enough for any machine; only a failure takes that long. */
#define PATIENCE_MS 20000
/* How long "nothing comes" is looked at; more only makes a wrong message more likely to be seen. */
#define QUIET_MS 60

static char dir[] = "/tmp/gfs2-fuse-broker.XXXXXX", path[64];
static pid_t broker;
/* A broker that has nobody ends when it gets this: it is held until the first is there, as by whoever starts one. */
static int start_lock = -1;

static int start(void **state)
{
	int fds[2];
	char ok;

	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/b", dir);
	assert_int_equal(pipe(fds), 0);
	start_lock = lb_start_lock(path, true);
	assert_true(start_lock >= 0);
	broker = fork();
	if (!broker) {
		dup2(fds[1], LB_READY_FD);
		for (int fd = LB_READY_FD + 1; fd < 64; fd++)
			close(fd);
		_exit(lock_broker_main(path));
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &ok, 1), 1);
	close(fds[0]);
	return 0;
}

/* It ends by itself when nobody is connected, and takes its files along. */
static int ended(void **state)
{
	int status;

	assert_int_equal(waitpid(broker, &status, 0), broker);
	assert_int_equal(status, 0);
	assert_int_equal(rmdir(dir), 0);
	return 0;
}

static int join(uint32_t flags)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct lb_msg m = { .op = LB_HELLO, .version = LB_VERSION, .pid = 1, .flags = flags };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	if (start_lock >= 0)
		close(start_lock);
	start_lock = -1;
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
	return fd;
}

static struct lb_msg expect(int fd, enum lb_op op)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct lb_msg m;

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(recv(fd, &m, sizeof(m), 0), sizeof(m));
	assert_int_equal(m.op, op);
	return m;
}

static void quiet(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, QUIET_MS), 0);
}

static void welcome(int fd, uint32_t jid, bool first)
{
	struct lb_msg m = expect(fd, LB_WELCOME);

	assert_int_equal(m.jid, jid);
	assert_int_equal(m.flags & LB_FIRST, first ? LB_FIRST : 0);
}

static void say(int fd, const struct lb_msg *m)
{
	assert_int_equal(send(fd, m, sizeof(*m), MSG_NOSIGNAL), sizeof(*m));
}

static void ask(int fd, uint32_t handle, unsigned type, uint64_t number, int mode, uint32_t flags)
{
	struct lb_msg m = { .op = LB_LOCK, .handle = handle, .mode = mode, .flags = flags };

	lb_name(m.name, type, number);
	say(fd, &m);
}

static struct lb_msg answer(int fd, uint32_t handle, int status)
{
	struct lb_msg m = expect(fd, LB_AST);

	assert_int_equal(m.handle, handle);
	assert_int_equal(m.status, status);
	return m;
}

static void bast(int fd, uint32_t handle, int mode)
{
	struct lb_msg m = expect(fd, LB_BAST);

	assert_int_equal(m.handle, handle);
	assert_int_equal(m.mode, mode);
}

static void recovered(int fd, uint32_t jid, int status)
{
	assert_int_equal(expect(fd, LB_RECOVER).jid, jid);
	say(fd, &(struct lb_msg){ .op = LB_RECOVERED, .jid = jid, .status = status });
}

static void leave(int fd)
{
	struct lb_msg m;

	say(fd, &(struct lb_msg){ .op = LB_LEAVE });
	/* The broker closes when it has forgotten us. */
	assert_int_equal(recv(fd, &m, sizeof(m), 0), 0);
	close(fd);
}

static void test_first_and_others(void **state)
{
	int a = join(0), b, c;

	welcome(a, 0, true);
	b = join(0);
	c = join(0);
	quiet(b);
	quiet(c);
	say(a, &(struct lb_msg){ .op = LB_FIRST_DONE });
	welcome(b, 1, false);
	welcome(c, 2, false);
	leave(b);
	b = join(0);
	welcome(b, 1, false); /* the journal is free again */
	leave(a);
	leave(c);
	leave(b);
}

/* The first mounter dies while he recovers: the next one begins again. */
static void test_first_dies(void **state)
{
	int a = join(0), b;

	welcome(a, 0, true);
	b = join(0);
	quiet(b);
	close(a);
	welcome(b, 0, true);
	a = join(0);
	quiet(a);
	leave(b); /* gives up cleanly */
	welcome(a, 0, true);
	leave(a);
}

static void test_locks(void **state)
{
	int a = join(0), b;
	struct lb_msg m = { .op = LB_LOCK, .handle = 5, .mode = DLM_LOCK_NL, .flags = DLM_LKF_VALBLK };

	welcome(a, 0, true);
	say(a, &(struct lb_msg){ .op = LB_FIRST_DONE });
	b = join(0);
	welcome(b, 1, false);
	/* a value block goes over */
	ask(a, 5, 2, 0x3346, DLM_LOCK_EX, DLM_LKF_VALBLK);
	answer(a, 5, 0);
	ask(b, 900, 2, 0x3346, DLM_LOCK_PR, DLM_LKF_VALBLK);
	bast(a, 5, DLM_LOCK_PR);
	quiet(b);
	memset(m.lvb, 0x42, sizeof(m.lvb));
	say(a, &m);
	answer(a, 5, 0);
	m = answer(b, 900, 0);
	assert_true(m.lvb_read);
	assert_int_equal(m.lvb[31], 0x42);
	/* refused, cancelled, freed and used again */
	ask(a, 5, 2, 0x3346, DLM_LOCK_EX, DLM_LKF_NOQUEUE);
	answer(a, 5, -EAGAIN);
	ask(a, 5, 2, 0x3346, DLM_LOCK_EX, DLM_LKF_QUECVT);
	bast(b, 900, DLM_LOCK_EX);
	say(a, &(struct lb_msg){ .op = LB_CANCEL, .handle = 5 });
	answer(a, 5, -DLM_ECANCEL);
	say(a, &(struct lb_msg){ .op = LB_UNLOCK, .handle = 5 });
	answer(a, 5, -DLM_EUNLOCK);
	ask(a, 5, 2, 0x9999, DLM_LOCK_EX, 0);
	answer(a, 5, 0);
	/* nonsense gets an answer, too */
	say(a, &(struct lb_msg){ .op = LB_UNLOCK, .handle = 77 });
	answer(a, 77, -ENOENT);
	leave(a);
	leave(b);
}

static void test_death(void **state)
{
	int a = join(0), b, c;

	welcome(a, 0, true);
	say(a, &(struct lb_msg){ .op = LB_FIRST_DONE });
	b = join(0);
	welcome(b, 1, false);
	c = join(0);
	welcome(c, 2, false);
	ask(b, 0, LM_TYPE_INODE, 7, DLM_LOCK_EX, 0);
	answer(b, 0, 0);
	ask(b, 1, LM_TYPE_JOURNAL, 1, DLM_LOCK_EX, 0);
	answer(b, 1, 0);
	ask(b, 2, LM_TYPE_NONDISK, 1, DLM_LOCK_EX, 0);
	answer(b, 2, 0);
	ask(a, 0, LM_TYPE_INODE, 7, DLM_LOCK_PR, 0);
	bast(b, 0, DLM_LOCK_PR);
	close(b);
	/* One is asked, gives up, then another; the journal's and the protocol's locks are free for that, nothing else is. */
	recovered(a, 1, LM_RD_GAVEUP);
	assert_int_equal(expect(c, LB_RECOVER).jid, 1);
	ask(c, 0, LM_TYPE_JOURNAL, 1, DLM_LOCK_EX, DLM_LKF_NOQUEUE);
	answer(c, 0, 0);
	ask(c, 1, LM_TYPE_NONDISK, 1, DLM_LOCK_EX, DLM_LKF_NOQUEUE);
	answer(c, 1, 0);
	ask(c, 2, LM_TYPE_INODE, 7, DLM_LOCK_PR, DLM_LKF_NOQUEUE);
	answer(c, 2, -EAGAIN);
	quiet(a);
	/* Its journal is not given to anybody meanwhile. */
	b = join(0);
	welcome(b, 3, false);
	say(c, &(struct lb_msg){ .op = LB_RECOVERED, .jid = 1, .status = LM_RD_SUCCESS });
	answer(a, 0, 0);
	leave(b);
	b = join(0);
	welcome(b, 1, false);
	leave(a);
	leave(b);
	leave(c);
}

/*
 * A journal that cannot be replayed is asked for ever less often: after 200 ms, 400, ... (measured from below only).  Who comes new is asked
 * at once: when he is welcome, before anything that he says then is answered.
 */
static void test_failed_recovery(void **state)
{
	int a = join(0), b, c;
	uint64_t began = 0, alone;

	welcome(a, 0, true);
	say(a, &(struct lb_msg){ .op = LB_FIRST_DONE });
	b = join(0);
	welcome(b, 1, false);
	close(b);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(expect(a, LB_RECOVER).jid, 1);
		/* The broker's clock starts when it is told, which may be long before we go on. */
		if (!i)
			began = now_ns();
		say(a, &(struct lb_msg){ .op = LB_RECOVERED, .jid = 1, .status = LM_RD_FAILED });
	}
	alone = now_ns() - began;
	c = join(0);
	welcome(c, 2, false);
	say(c, &(struct lb_msg){ .op = LB_UNLOCK, .handle = 77 });
	recovered(c, 1, LM_RD_SUCCESS);
	answer(c, 77, -ENOENT);
	leave(a);
	leave(c);
	assert_true(alone >= (200 + 400 + 800 + 1600) * 1000000ull);
}

/* Who was asked dies, too; the last one recovers both. */
static bool held_by_the_dead(int fd, uint32_t jid, uint64_t number)
{
	struct lb_msg m = { .op = LB_WHO, .jid = jid };

	lb_name(m.name, LM_TYPE_INODE, number);
	say(fd, &m);
	m = expect(fd, LB_WHO_IS);
	assert_int_equal(m.jid, jid);
	return m.status;
}

/* A recovery needs a lock: is it the dead one's, or a living one's, or is another dead one's recovery to come first? */
static void test_who_holds(void **state)
{
	int fd[4];

	for (unsigned i = 0; i < 4; i++) {
		fd[i] = join(0);
		welcome(fd[i], i, !i);
		if (!i)
			say(fd[i], &(struct lb_msg){ .op = LB_FIRST_DONE });
	}
	/* Two that die hold it shared, and so does one that lives. */
	for (unsigned i = 1; i < 4; i++) {
		ask(fd[i], 0, LM_TYPE_INODE, 7, DLM_LOCK_PR, 0);
		answer(fd[i], 0, 0);
	}
	assert_false(held_by_the_dead(fd[0], 1, 7)); /* alive */
	ask(fd[1], 1, LM_TYPE_INODE, 8, DLM_LOCK_NL, 0);
	answer(fd[1], 1, 0);
	close(fd[1]);
	assert_int_equal(expect(fd[0], LB_RECOVER).jid, 1);
	close(fd[2]);
	assert_int_equal(expect(fd[0], LB_RECOVER).jid, 2);
	assert_false(held_by_the_dead(fd[3], 1, 7)); /* was not asked to recover it */
	assert_false(held_by_the_dead(fd[0], 2, 7)); /* the other one's turn */
	assert_false(held_by_the_dead(fd[0], 1, 8)); /* known, but not held */
	assert_true(held_by_the_dead(fd[0], 1, 7));
	say(fd[0], &(struct lb_msg){ .op = LB_RECOVERED, .jid = 1, .status = LM_RD_SUCCESS });
	assert_true(held_by_the_dead(fd[0], 2, 7));
	say(fd[0], &(struct lb_msg){ .op = LB_RECOVERED, .jid = 2, .status = LM_RD_SUCCESS });
	/* Now only a living one has it. */
	assert_false(held_by_the_dead(fd[0], 2, 7));
	ask(fd[0], 0, LM_TYPE_INODE, 7, DLM_LOCK_EX, DLM_LKF_NOQUEUE);
	answer(fd[0], 0, -EAGAIN);
	ask(fd[0], 0, LM_TYPE_INODE, 7, DLM_LOCK_PR, DLM_LKF_NOQUEUE);
	answer(fd[0], 0, 0);
	leave(fd[3]);
	leave(fd[0]);
}

static void test_deaths(void **state)
{
	unsigned jids = 0;
	int fd[3];

	for (unsigned i = 0; i < 3; i++) {
		fd[i] = join(0);
		welcome(fd[i], i, !i);
		if (!i)
			say(fd[i], &(struct lb_msg){ .op = LB_FIRST_DONE });
	}
	ask(fd[2], 0, LM_TYPE_INODE, 7, DLM_LOCK_EX, 0);
	answer(fd[2], 0, 0);
	ask(fd[0], 0, LM_TYPE_INODE, 8, DLM_LOCK_EX, 0);
	answer(fd[0], 0, 0);
	close(fd[2]);
	assert_int_equal(expect(fd[0], LB_RECOVER).jid, 2);
	close(fd[0]);
	/* in either order */
	for (unsigned i = 0; i < 2; i++)
		jids |= 1u << expect(fd[1], LB_RECOVER).jid;
	assert_int_equal(jids, 1u << 0 | 1u << 2);
	for (unsigned i = 0; i < 2; i++) {
		ask(fd[1], 9, LM_TYPE_INODE, i ? 8 : 7, DLM_LOCK_PR, DLM_LKF_NOQUEUE);
		answer(fd[1], 9, -EAGAIN);
		say(fd[1], &(struct lb_msg){ .op = LB_RECOVERED, .jid = i ? 0 : 2, .status = LM_RD_SUCCESS });
	}
	ask(fd[1], 9, LM_TYPE_INODE, 7, DLM_LOCK_EX, DLM_LKF_NOQUEUE);
	answer(fd[1], 9, 0);
	leave(fd[1]);
}

static void test_keep_locks(void **state)
{
	int a = join(LB_KEEP_LOCKS), b, c;

	welcome(a, 0, true);
	say(a, &(struct lb_msg){ .op = LB_FIRST_DONE });
	b = join(0);
	welcome(b, 1, false);
	ask(a, 0, LM_TYPE_INODE, 7, DLM_LOCK_EX, 0);
	answer(a, 0, 0);
	ask(b, 0, LM_TYPE_INODE, 7, DLM_LOCK_PR, 0);
	bast(a, 0, DLM_LOCK_PR);
	close(a);
	quiet(b);
	c = join(0);
	welcome(c, 2, false);
	recovered(c, 0, LM_RD_SUCCESS);
	answer(b, 0, 0);
	leave(b);
	leave(c);
}

/* Somebody who does not speak the language is shown the door, and harms nobody. */
static void test_stranger(void **state)
{
	int a = join(0), b = join(0);
	struct lb_msg m = { .op = LB_LOCK };

	welcome(a, 0, true);
	say(b, &m); /* not welcome yet */
	assert_int_equal(recv(b, &m, sizeof(m), 0), 0);
	close(b);
	b = join(0);
	assert_int_equal(send(b, "x", 1, 0), 1);
	assert_int_equal(recv(b, &m, sizeof(m), 0), 0);
	close(b);
	leave(a);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, start, ended)
	const struct CMUnitTest tests[] = {
		TEST(test_first_and_others), TEST(test_first_dies), TEST(test_locks), TEST(test_death),
		TEST(test_first_and_others), TEST(test_first_dies), TEST(test_locks), TEST(test_failed_recovery),
		TEST(test_deaths), TEST(test_who_holds), TEST(test_keep_locks), TEST(test_stranger),
	};

	/* A failure leaves connections open, and the broker waits for them. */
	alarm(100);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
