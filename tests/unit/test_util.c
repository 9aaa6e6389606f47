/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checksums against published values, clocks, the thread's context, lists. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "child.h"
#include "util/ctx.h"
#include "util/list.h"
#include "util/util.h"

/* Values of reference gfs2-ondisk.md section 11.1. */
static void crc_known_values(void **state)
{
	assert_int_equal(gfs2_crc32(0, "123456789", 9), 0xcbf43926);
	assert_int_equal(gfs2_crc32c(~0u, "123456789", 9), 0x1cf96d7c);
	assert_int_equal(gfs2_crc32c_portable(~0u, "123456789", 9), 0x1cf96d7c);
	assert_int_equal(gfs2_crc32c(~0u, "", 0), ~0u);
	assert_int_equal(gfs2_disk_hash("123456789", 9), 0xcbf43926);
}

/* The processor's instruction and the tables agree for all lengths and alignments, in one piece and in two. */
static void crc32c_variants_agree(void **state)
{
	uint8_t buf[300];

	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = i * 37 + (i >> 3);
	for (unsigned off = 0; off < 8; off++)
		for (unsigned len = 0; len < 260; len++) {
			uint32_t whole = gfs2_crc32c(~0u, buf + off, len);
			uint32_t part = gfs2_crc32c(~0u, buf + off, len / 3);

			assert_int_equal(whole, gfs2_crc32c_portable(~0u, buf + off, len));
			assert_int_equal(whole,
					 gfs2_crc32c(part, buf + off + len / 3, len - len / 3));
		}
}

static void byte_order_and_rounding(void **state)
{
	uint32_t be = cpu_to_be32(0x01161970);

	assert_memory_equal(&be, "\x01\x16\x19\x70", 4);
	assert_int_equal(be32_to_cpu(be), 0x01161970);
	assert_int_equal(ALIGN_UP(4097, 4096), 8192);
	assert_int_equal(ALIGN_DOWN((uint64_t)0x100000fff, 4096), 0x100000000);
	assert_int_equal(DIV_ROUND_UP(4097, 4096), 2);
}

static void clocks(void **state)
{
	uint64_t a = now_ns(), b = now_ns();
	struct timespec t = current_time();

	assert_true(b >= a);
	assert_true(t.tv_sec > 1600000000 && t.tv_nsec < 1000000000);
}

static void *other_thread(void *arg)
{
	assert_ptr_not_equal(current_ctx(), arg);
	assert_int_equal(current_ctx()->req, 0);
	return NULL;
}

static void ctx_is_per_thread(void **state)
{
	struct gfs2_ctx *ctx = current_ctx();
	pthread_t t;

	assert_int_equal(ctx->req, 0);
	assert_int_equal(ctx->pid, getpid());
	ctx->req = 7;
	ctx->pid = 0; /* a caller of another pid namespace */
	assert_int_equal(current_ctx()->pid, 0);
	assert_int_equal(pthread_create(&t, NULL, other_thread, ctx), 0);
	pthread_join(t, NULL);
	assert_int_equal(current_ctx()->req, 7);
	*ctx = (struct gfs2_ctx){ 0 };
}

struct item {
	int n;
	struct list_head list;
};

static void lists(void **state)
{
	struct item a = { 1 }, b = { 2 }, c = { 3 }, *pos, *tmp;
	LIST_HEAD(h);
	LIST_HEAD(other);
	int sum = 0;

	list_add_tail(&b.list, &h);
	list_add(&a.list, &h);
	list_add_tail(&c.list, &other);
	list_splice_tail_init(&other, &h);
	assert_true(list_empty(&other));
	list_for_each_entry(pos, &h, list)
		sum = sum * 10 + pos->n;
	assert_int_equal(sum, 123);
	list_move_tail(&a.list, &h);
	assert_ptr_equal(list_last_entry(&h, struct item, list), &a);
	assert_ptr_equal(list_first_entry(&h, struct item, list), &b);
	list_for_each_entry_safe(pos, tmp, &h, list)
		list_del_init(&pos->list);
	assert_true(list_empty(&h) && list_empty(&a.list));
}

/* Messages go to stderr as one line each, with the volume's name, above the level not at all. */
static void messages(void **state)
{
	char text[256];
	int p[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	msg_set_prefix("cluster:vol");
	errno = ENOSPC;
	fs_warn("block %d\n", 5);
	assert_int_equal(errno, ENOSPC);
	msg_set_level(MSG_ERR);
	fs_info("not this one");
	msg_set_level(MSG_INFO);
	msg_set_prefix(NULL);
	fs_info("no name");
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(p[1]);
	n = read(p[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = 0;
	close(p[0]);
	assert_string_equal(text, "gfs2-fuse: fsid=cluster:vol: block 5\ngfs2-fuse: no name\n");
}

static void long_message_is_cut(void **state)
{
	char text[4096], big[3000];
	int p[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	fs_err("%s", big);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(p[1]);
	n = read(p[0], text, sizeof(text));
	close(p[0]);
	assert_true(n > 500 && n < (ssize_t)sizeof(big));
	assert_int_equal(text[n - 1], '\n');
}

/* --- who does not read what the daemon says --- */

/* As full as it gets; returns how much that was. */
static unsigned fill(int fd, const char *text)
{
	unsigned n = 0;

	while (send(fd, text, strlen(text), MSG_DONTWAIT) > 0)
		n++;
	return n;
}

/* Reads what is there; does the last of it say @text? */
static bool drained(int fd, const char *text)
{
	static char buf[1 << 20];
	bool found = false;
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT)) > 0) {
		buf[n] = 0;
		found |= strstr(buf, text) != NULL;
	}
	return found;
}

static void say_often(void *unused)
{
	struct msg_limit l = { 0 };

	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 1000; i++)
			if (msg_limit(&l))
				fs_err("round %u", round);
		/* As if those five seconds were over. */
		atomic_store(&l.since, now_ns() - 6000000000u);
	}
	msg_without_limits();
	for (unsigned i = 0; i < 20; i++)
		if (msg_limit(&l))
			fs_err("always");
	_exit(0);
}

static unsigned count(const char *text, const char *word)
{
	unsigned n = 0;

	for (; (text = strstr(text, word)); text++)
		n++;
	return n;
}

static void messages_have_a_limit(void **state)
{
	char text[4096];

	assert_int_equal(end_of_child(say_often, NULL, text, sizeof(text)), 0);
	assert_int_equal(count(text, "round 0\n"), 10);
	assert_int_equal(count(text, "round 1\n"), 10);
	assert_int_equal(count(text, "left out"), 2);
	assert_int_equal(count(text, "always\n"), 20);
}

static void nobody_reads_stderr(void *unused)
{
	int sv[2];

	alarm(60);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) || dup2(sv[1], STDERR_FILENO) < 0 || !fill(sv[1], "x"))
		_exit(2);
	fs_err("one");
	fs_err("two");
	if (drained(sv[0], "one"))
		_exit(3);
	fs_err("three");
	_exit(drained(sv[0], "three\ngfs2-fuse: 2 messages before the last one were lost: nobody took them\n") ? 0 : 4);
}

static void nobody_reads_syslog(void *dir)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int in = socket(AF_UNIX, SOCK_DGRAM, 0), out = socket(AF_UNIX, SOCK_DGRAM, 0);

	alarm(60);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/log", (char *)dir);
	if (bind(in, (struct sockaddr *)&addr, sizeof(addr)) || connect(out, (struct sockaddr *)&addr, sizeof(addr)))
		_exit(2);
	msg_use_syslog(addr.sun_path);
	fs_err("zero");
	if (!drained(in, "]: zero"))
		_exit(3);
	if (!fill(out, "x"))
		_exit(4);
	fs_err("one");
	fs_err("two");
	if (drained(in, "one"))
		_exit(5);
	fs_err("three");
	if (!drained(in, "2 messages before the last one were lost"))
		_exit(6);
	/* Nobody at all. */
	close(in);
	unlink(addr.sun_path);
	fs_err("four");
	_exit(0);
}

/* Locks are held while messages are given, and who should read them may be waiting for one: they are not waited for. */
static void unread_messages(void **state)
{
	char dir[] = "/tmp/test_util.XXXXXX", text[4096];

	assert_int_equal(end_of_child(nobody_reads_stderr, NULL, text, sizeof(text)), 0);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(end_of_child(nobody_reads_syslog, dir, text, sizeof(text)), 0);
	rmdir(dir);
}

/* --- deaths --- */

static int *volatile nowhere = (int *)(uintptr_t)16;

static void fault(void)
{
	*nowhere = 1;
}

static void bus_error(void)
{
	kill(getpid(), SIGBUS);
}

/* As the daemon's threads do that leave signals to the main thread. */
static void *dies(void *fn)
{
	sigset_t old;

	pthread_setname_np(pthread_self(), "culprit");
	block_all_but_faults(&old);
	((void (*)(void))(uintptr_t)fn)();
	return NULL;
}

static void has_a_thread_die(void *fn)
{
	pthread_t t;

	msg_say_fatal_signals();
	pthread_create(&t, NULL, dies, fn);
	pthread_join(t, NULL);
}

/* Has a child's thread die in @fn; what it said is in @text.  Returns the signal. */
static int death(void (*fn)(void), char *text, size_t size)
{
	int status = end_of_child(has_a_thread_die, (void *)(uintptr_t)fn, text, size);

	assert_true(WIFSIGNALED(status));
	return WTERMSIG(status);
}

static void deaths_are_told(void **state)
{
	char text[4096];

	assert_int_equal(death(fault, text, sizeof(text)), SIGSEGV);
	assert_non_null(strstr(text, "killed by SIGSEGV in thread "));
	assert_non_null(strstr(text, " (culprit) at offset 0x"));
	assert_non_null(strstr(text, ", address 0x10\n"));
	assert_int_equal(death(bus_error, text, sizeof(text)), SIGBUS);
	assert_non_null(strstr(text, "killed by SIGBUS in thread "));
	assert_int_equal(death(abort, text, sizeof(text)), SIGABRT);
	assert_non_null(strstr(text, "killed by SIGABRT in thread "));
	assert_non_null(strstr(text, "(culprit)"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_known_values),
		cmocka_unit_test(crc32c_variants_agree),
		cmocka_unit_test(byte_order_and_rounding),
		cmocka_unit_test(clocks),
		cmocka_unit_test(ctx_is_per_thread),
		cmocka_unit_test(lists),
		cmocka_unit_test(messages),
		cmocka_unit_test(long_message_is_cut),
		cmocka_unit_test(messages_have_a_limit),
		cmocka_unit_test(unread_messages),
		cmocka_unit_test(deaths_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
