/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who reads requests (fuse/readers.h): the real receive threads, readers and workers on a FIFO instead of /dev/fuse.
 *
 * A FIFO does for what is tested: messages stay whole, its readers wait in an exclusive queue or poll, and it can be
 * opened twice, once to block and once not to.  libfuse and the fast path are played here: what a request does is its
 * opcode.
 *
 * What must hold: every request is read, whatever those read before wait for, while the two ways of reading change
 * places as often as possible.  The bugs of a list are switched on one after the other, each in a process of its own:
 * a request must then lie unread.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "fuse/readers.h"
#include "fuse/server.h"
#include "util/seeded.h"
#include "util/util.h"
#include "util/wait.h"

enum {
	OP_PLAIN = FUSE_GETATTR,	/* goes to a handler, which returns at once */
	OP_WAIT = FUSE_LOOKUP,		/* its handler waits for the request whose number is in nodeid */
	OP_FAST = FUSE_STATFS,		/* fast path, done at once */
	OP_DEVICE = FUSE_FSYNC,		/* fast path, done when the device has */
	OP_INDEPENDENT = FUSE_READ,	/* as OP_PLAIN */
	OP_PATIENT = FUSE_FORGET,	/* as OP_WAIT */
};

#define CLIENTS 4
#define SLOTS 1024
#define DEVICE_US "100"
#define DEEP 8
#define STALL_NS 100000000000ull	/* a machine may be busy */
#define SEEDED_STALL_NS 500000000ull

static char fifo[64], image[64];
static struct gfs2_sbd sb;
static struct server server;
static int to_server;

/* What has been answered, by number; every number is used once. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;
static uint64_t next_unique = 1;
static bool done[SLOTS];		/* by unique % SLOTS: the last one with it; `lock` */
static uint64_t stall_ns = STALL_NS;
static atomic_uint patient_now, patient_most;	/* handlers of OP_PATIENT that have begun */
static atomic_uint follow;		/* so many requests are still to be sent, each from within the answer to another */

/* --- threads that cannot be had --- */

static atomic_bool no_threads;

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return atomic_load(&no_threads) ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

/* --- the kernel that is answered, and memory --- */

static int cloned;			/* the readers' descriptor */
static int known_at = -1;		/* the one through which the request was read */
static atomic_uint waits_for_memory;

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);
void *__wrap_xmalloc(size_t size);
void *__real_xmalloc(size_t size);

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count)
{
	if (fd == known_at)
		return (ssize_t)iov->iov_len;
	errno = ENOENT;
	return -1;
}

void *__wrap_xmalloc(size_t size)
{
	waits_for_memory++;
	return __real_xmalloc(size);
}

/* --- readers, from when they are counted until they have gone --- */

static struct rx_buf *readers_bufs[SLOTS];	/* `lock` */

struct rx_buf *__real_rx_buf_reader(struct server *s);
struct rx_buf *__wrap_rx_buf_reader(struct server *s);
void __real_rx_buf_release(struct rx_buf *b);
void __wrap_rx_buf_release(struct rx_buf *b);

static void replace_reader(struct rx_buf *old, struct rx_buf *new)
{
	unsigned i = 0;

	pthread_mutex_lock(&lock);
	while (readers_bufs[i] != old)
		if (++i == ARRAY_SIZE(readers_bufs))
			abort();
	readers_bufs[i] = new;
	pthread_mutex_unlock(&lock);
}

struct rx_buf *__wrap_rx_buf_reader(struct server *s)
{
	struct rx_buf *b = __real_rx_buf_reader(s);

	if (b)
		replace_reader(NULL, b);
	return b;
}

void __wrap_rx_buf_release(struct rx_buf *b)
{
	if (b->reader)
		replace_reader(b, NULL);
	__real_rx_buf_release(b);
}

/* Whoever has answered is back in read(2), or has gone: an answer is there before that.  No request is under way. */
static void until_all_read(void)
{
	bool all;

	do {
		all = true;
		pthread_mutex_lock(&lock);
		for (unsigned i = 0; i < ARRAY_SIZE(readers_bufs); i++)
			if (readers_bufs[i] && !atomic_load(&readers_bufs[i]->in_read))
				all = false;
		pthread_mutex_unlock(&lock);
		if (!all)
			usleep(100);
	} while (!all);
}

/* --- instead of libfuse, proto.c and fast.c --- */

static void answer(uint64_t unique)
{
	pthread_mutex_lock(&lock);
	done[unique % SLOTS] = true;
	pthread_cond_broadcast(&answered);
	pthread_mutex_unlock(&lock);
}

/* A request lay unread, or its handler did not get on: end at once, nothing can be taken down any more. */
static void await(uint64_t unique)
{
	uint64_t end = now_ns() + stall_ns;
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += (long)(stall_ns % 1000000000);
	ts.tv_sec += (time_t)(stall_ns / 1000000000) + ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	pthread_mutex_lock(&lock);
	while (!done[unique % SLOTS]) {
		if (pthread_cond_timedwait(&answered, &lock, &ts) && now_ns() >= end) {
			int unread = 0;

			ioctl(to_server, FIONREAD, &unread);
			fprintf(stderr, "request %llu is not answered; %d bytes are unread\n",
				(unsigned long long)unique, unread);
			end_now(unread ? 3 : 4);
		}
	}
	pthread_mutex_unlock(&lock);
}

void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
	const struct fuse_in_header *in = buf->mem;
	uint64_t unique = in->unique;

	if (in->opcode == OP_PATIENT) {
		unsigned now = atomic_fetch_add(&patient_now, 1) + 1, most = atomic_load(&patient_most);

		while (now > most && !atomic_compare_exchange_weak(&patient_most, &most, now))
			;
	}
	if (in->opcode == OP_WAIT || in->opcode == OP_PATIENT) {
		about_to_wait();	/* as every place in the daemon where a handler may wait */
		await(in->nodeid);
	}
	if (in->opcode == OP_PATIENT)
		atomic_fetch_sub(&patient_now, 1);
	answer(unique);
}

void proto_request(struct server *s, struct fuse_buf *fb)
{
}

int proto_clone(struct server *s)
{
	return cloned = open(fifo, O_RDWR | O_CLOEXEC);
}

static void fast_done(struct rx_buf *b)
{
	answer(((struct fuse_in_header *)rx_request(b))->unique);
	if (b->reader)
		b->replied = true;
	else
		rx_buf_release(b);
}

static void device_done(struct io_req *req)
{
	fast_done(req->priv);
}

static void send_follower(void);

bool fast_request(struct rx_buf *b, struct io_ring *ring)
{
	const struct fuse_in_header *in = (void *)rx_request(b);
	struct io_req *req = &b->dio.runs[0];

	b->dio.done_ns = 0;
	if (in->opcode == OP_FAST) {
		fast_done(b);
		send_follower();
		return true;
	}
	if (in->opcode != OP_DEVICE)
		return false;
	io_req_init(req, IO_READ, IO_DIO, rx_payload(b), 4096, 0);
	req->done = device_done;
	req->priv = b;
	io_ring_submit_req(ring, req);
	return true;
}

/* --- the kernel's side --- */

static uint64_t number(void)
{
	uint64_t n;

	pthread_mutex_lock(&lock);
	n = next_unique++;
	done[n % SLOTS] = false;
	pthread_mutex_unlock(&lock);
	return n;
}

static void send_as(uint64_t unique, uint32_t opcode, uint64_t nodeid)
{
	struct fuse_in_header in = { .len = sizeof(in), .opcode = opcode, .unique = unique, .nodeid = nodeid };

	if (write(to_server, &in, sizeof(in)) != sizeof(in))
		abort();
}

static void lone_of(uint32_t opcode, uint32_t caller)
{
	uint64_t n = number();
	struct fuse_in_header in = { .len = sizeof(in), .opcode = opcode, .unique = n, .pid = caller };

	if (write(to_server, &in, sizeof(in)) != sizeof(in))
		abort();
	await(n);
}

static uint64_t send_request(uint32_t opcode, uint64_t nodeid)
{
	uint64_t n = number();

	send_as(n, opcode, nodeid);
	return n;
}

static void send_follower(void)
{
	unsigned left = atomic_load(&follow);

	while (left && !atomic_compare_exchange_weak(&follow, &left, left - 1))
		;
	if (left)
		send_request(OP_FAST, 0);
}

static void lone(uint32_t opcode, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		await(send_request(opcode, 0));
}

/* Each waits for the one that is sent after it; the last is there before. */
static void chain(unsigned length, uint32_t last)
{
	uint64_t n[16];

	for (unsigned i = 0; i <= length; i++)
		n[i] = number();
	for (unsigned i = 0; i < length; i++)
		send_as(n[i], OP_WAIT, n[i + 1]);
	send_as(n[length], last, 0);
	for (unsigned i = 0; i <= length; i++)
		await(n[i]);
}

static void deep(unsigned rounds)
{
	uint64_t n[DEEP];

	for (unsigned r = 0; r < rounds; r++) {
		for (unsigned i = 0; i < DEEP; i++)
			n[i] = send_request(OP_DEVICE, 0);
		for (unsigned i = 0; i < DEEP; i++)
			await(n[i]);
	}
}

static uint64_t switches(void)
{
	return atomic_load(&sb.sd_receive.to_rings);
}

static void until_readers(void)
{
	while (readers_rings_read(&server))
		lone(OP_PLAIN, 1);
}

static void until_rings(void)
{
	while (!readers_rings_read(&server))
		deep(1);
}

/* From readers to rings and back, with requests that wait for others on both sides of both changes. */
static void to_and_fro(unsigned seed)
{
	deep(1 + seed % 3);
	if (seed % 2)
		chain(1 + seed % 7, OP_PLAIN);
	until_readers();
	chain(1 + seed % 6, seed % 3 ? OP_PLAIN : OP_FAST);
	lone(OP_PLAIN, seed % 4);
}

static uint64_t wanted;

static void *client(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (switches() < wanted)
		to_and_fro(seed += 7);
	return NULL;
}

/* --- life --- */

static void name_files(pid_t pid)
{
	snprintf(fifo, sizeof(fifo), "/tmp/test_readers.%d.fifo", pid);
	snprintf(image, sizeof(image), "/tmp/test_readers.%d.image", pid);
}

static int start(void **state)
{
	struct io_fault delay;
	int fd;

	name_files(getpid());
	unlink(fifo);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	fd = open(image, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	memset(&sb, 0, sizeof(sb));
	memset(&server, 0, sizeof(server));
	assert_int_equal(io_engine_open(image, false, &sb.sd_io), 0);
	assert_int_equal(io_fault_parse("op=read,cls=dio,delay_us=" DEVICE_US, &delay), 0);
	assert_int_equal(io_fault_add(sb.sd_io, &delay), 0);
	sb.sd_lm = &lm_nolock;
	server.sdp = &sb;
	server.fd = open(fifo, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	server.wake_fd = eventfd(0, EFD_CLOEXEC);
	to_server = open(fifo, O_WRONLY | O_CLOEXEC);
	/* Messages stay whole. */
	assert_int_equal(fcntl(to_server, F_SETFL, O_DIRECT), 0);
	assert_true(fcntl(to_server, F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
	readers_create(&server);
	assert_int_equal(pool_create(&server.pool), 0);
	server.nr_rx = 1;
	server.rx = xzalloc(sizeof(*server.rx));
	assert_int_equal(rx_create(&server, &server.rx[0]), 0);
	assert_int_equal(rx_start(server.rx[0]), 0);
	return 0;
}

static void stop_reading(void)
{
	atomic_store(&server.stopping, true);
	rx_stop_wait(server.rx[0]);
	readers_stop(&server);
}

static int end(void **state)
{
	stop_reading();
	pool_drain_destroy(server.pool);
	readers_destroy(&server);
	rx_destroy(server.rx[0]);
	free(server.rx);
	io_engine_close(sb.sd_io);
	close(server.fd);
	close(server.wake_fd);
	close(to_server);
	unlink(fifo);
	unlink(image);
	return 0;
}

/* --- tests --- */

static void each_way(void **state)
{
	assert_true(readers_rings_read(&server));
	lone(OP_PLAIN, 100);
	/* Not before it is said. */
	assert_true(readers_rings_read(&server));
	readers_begin(&server);
	assert_false(readers_rings_read(&server));
	assert_int_equal(sb.sd_receive.to_readers, 1);
	assert_int_equal(sb.sd_receive.started, 1);
	lone(OP_PLAIN, 100);
	assert_int_equal(switches(), 0);
	lone(OP_FAST, 100);
	until_rings();
	assert_true(switches() >= 1);
	until_readers();
	assert_true(sb.sd_receive.to_readers >= 2);
}

/*
 * A lone caller who is quicker than the receive thread: his next request is always there before that has to sleep.  After
 * others have made the rings read, the readers get him all the same.
 */
static void a_quick_lone_caller(void **state)
{
	uint64_t before;

	readers_begin(&server);
	until_rings();
	before = sb.sd_receive.to_readers;
	atomic_store(&follow, 1000);
	send_request(OP_FAST, 0);
	while (atomic_load(&follow))
		usleep(1000);
	assert_true(sb.sd_receive.to_readers > before);
}

static void requests_that_wait_for_others(void **state)
{
	readers_begin(&server);
	for (unsigned i = 0; i < 200; i++)
		chain(1 + i % 15, i % 2 ? OP_PLAIN : OP_FAST);
	assert_int_equal(switches(), 0);
	until_rings();
	for (unsigned i = 0; i < 20; i++)
		chain(15, OP_DEVICE);
}

static void run_clients(void)
{
	pthread_t t[CLIENTS];

	for (unsigned i = 0; i < CLIENTS; i++)
		if (__real_pthread_create(&t[i], NULL, client, (void *)(uintptr_t)(i * 1000)))
			abort();
	for (unsigned i = 0; i < CLIENTS; i++)
		pthread_join(t[i], NULL);
}

/* GFS2_TEST_FULL: thousands of times. */
static void to_and_fro_under_load(void **state)
{
	wanted = getenv("GFS2_TEST_FULL") ? 5000 : 150;
	readers_begin(&server);
	run_clients();
	assert_true(switches() >= wanted);
	assert_true(sb.sd_receive.to_readers >= wanted);
}

/*
 * All readers and workers wait for a request, and there is no thread for it: the rings read it, and the rescuer does it,
 * or a thread that can be had again.
 */
static void no_thread_to_be_had(void **state)
{
	uint64_t n[40], last;

	readers_begin(&server);
	for (unsigned i = 0; i < 3; i++) {
		atomic_store(&no_threads, true);
		last = number();
		for (unsigned k = 0; k < 40; k++)
			n[k] = send_request(OP_WAIT, last);
		send_as(last, i == 2 ? OP_PLAIN : OP_INDEPENDENT, 0);
		if (i == 2) {
			while (!readers_rings_read(&server))
				usleep(1000);
			atomic_store(&no_threads, false);
		}
		await(last);
		assert_true(switches() > 0);
		atomic_store(&no_threads, false);
		for (unsigned k = 0; k < 40; k++)
			await(n[k]);
		until_readers();
	}
}

static unsigned started(void)
{
	return (unsigned)atomic_load(&sb.sd_receive.started);
}

/*
 * A lone caller has one reader, so the first of its requests that waits finds nobody else ready.  After that there are several
 * for a while, and several callers have several all the time.
 */
static void one_reader_for_a_lone_caller(void **state)
{
	readers_begin(&server);
	for (unsigned i = 0; i < 10; i++) {
		unsigned before;

		/* Those that are too many leave when they have had a request; the last chain is forgotten, too. */
		lone(OP_PLAIN, 400);
		until_all_read();
		before = started();
		chain(1, OP_PLAIN);
		assert_true(started() > before);
		until_all_read();
	}
	chain(4, OP_PLAIN);
	for (unsigned i = 0; i < 10; i++) {
		unsigned before;

		until_all_read();
		before = started();
		chain(1, OP_PLAIN);
		lone_of(OP_PLAIN, 1);
		lone_of(OP_PLAIN, 2);
		assert_int_equal(started(), before);
	}
}

static bool brief(uint32_t opcode, uint32_t size)
{
	static _Alignas(8) char mem[RX_PAGE];
	struct rx_buf b = { .mem = mem, .s = &server };
	struct fuse_in_header *in = (void *)rx_request(&b);
	struct fuse_read_in *rd = (void *)(in + 1);

	memset(mem, 0, sizeof(mem));
	in->opcode = opcode;
	in->len = sizeof(*in) + sizeof(*rd);
	if (opcode == FUSE_READ)
		rd->size = size;
	else
		in->len = (uint32_t)(RX_HEADROOM + size);
	return request_is_brief(&b);
}

/* Who copies much lets another one read meanwhile: with one reader for all, large transfers went at half the rate. */
static void large_transfers_are_not_brief(void **state)
{
	static const uint32_t small[] = { 1, 4096, 64 << 10 }, large[] = { (64 << 10) + 4096, 128 << 10, 1 << 20 };

	for (size_t i = 0; i < ARRAY_SIZE(small); i++) {
		assert_true(brief(FUSE_READ, small[i]));
		assert_true(brief(FUSE_WRITE, small[i]));
	}
	for (size_t i = 0; i < ARRAY_SIZE(large); i++) {
		assert_false(brief(FUSE_READ, large[i]));
		assert_false(brief(FUSE_WRITE, large[i]));
	}
	/* Who waits for other nodes is never brief. */
	sb.sd_lm = &(struct lm_lockops){ .lm_has_peers = true };
	assert_false(brief(FUSE_READ, 4096));
	sb.sd_lm = &lm_nolock;
	assert_true(brief(FUSE_READ, 4096));
}

/* FORGETs come in any number: they do not get a thread each, and keep nobody from reading. */
static void patience(void **state)
{
	uint64_t n[600], last = number();

	atomic_store(&patient_most, 0);
	readers_begin(&server);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++)
		n[i] = send_request(OP_PATIENT, last);
	lone(OP_PLAIN, 10);
	send_as(last, OP_PLAIN, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++)
		await(n[i]);
	assert_true(atomic_load(&patient_most) > 4);
	assert_true(atomic_load(&patient_most) <= 40);
}

/* Readers in read(2), on the way there, at the device, in a handler: what was read is done, nobody stays. */
static void stopped_at_any_moment(void **state)
{
	for (unsigned i = 0; i < 60; i++) {
		uint64_t n[3] = { number(), number(), number() };

		readers_begin(&server);
		send_as(n[0], OP_WAIT, n[2]);
		send_as(n[1], OP_DEVICE, 0);
		send_as(n[2], OP_PLAIN, 0);
		/* Else it may lie unread for good, and with it what waits for it. */
		await(n[2]);
		if (i % 2)
			lone(OP_PLAIN, i % 7);
		end(state);
		start(state);
	}
}

/* Want of memory and a caller who was interrupted do not end a mount; the first of the other reasons is kept, to be told. */
static void what_ends_a_mount(void **state)
{
	static const int passing[] = { EINTR, ENOENT, ECANCELED, EAGAIN, ENOMEM, ENOMEM }, ends[] = { ENODEV, ECONNABORTED, EIO, EFAULT };

	for (unsigned i = 0; i < ARRAY_SIZE(passing); i++)
		assert_false(readers_cannot_read(&server, -passing[i]));
	assert_int_equal(server.unread, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		server.unread = 0;
		assert_true(readers_cannot_read(&server, -ends[i]));
		assert_true(readers_cannot_read(&server, -ENODEV));
		assert_int_equal(server.unread, -ends[i]);
	}
	server.unread = 0;
}

/*
 * An INTERRUPT that came before its request is sent back by the thread that has the next one, wherever that was read; other answers belong to
 * where their request was.  And it is not lost for want of memory: nobody interrupts twice.
 */
static void interrupts_are_not_lost(void **state)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = -EAGAIN };
	struct iovec iov = { &out, sizeof(out) };
	static _Alignas(8) struct fuse_in_header in = { .len = sizeof(in), .opcode = FUSE_INTERRUPT };
	const int fds[] = { server.fd, cloned };

	for (unsigned at = 0; at < 2; at++)
		for (unsigned known = 0; known < 2; known++) {
			readers_answer_at(at ? cloned : -1);
			known_at = fds[known];
			for (out.unique = 6; out.unique <= 7; out.unique++)
				assert_int_equal(readers_writev(server.fd, &iov, 1, &server),
						 at == known || out.unique == 7 ? (int)sizeof(out) : -1);
		}
	readers_answer_at(-1);
	known_at = -1;
	in.unique = number();
	waits_for_memory = 0;
	request_run(&server, &in, sizeof(in));
	assert_int_equal(waits_for_memory, 1);
}

/* --- bugs --- */

static const char *const bugs[] = { "readers-unread", "readers-untold", "readers-none", "readers-brief" };

static int with_bug(const char *name)
{
	gfs2_seeded_select(name);
	stall_ns = SEEDED_STALL_NS;
	wanted = 100000;
	start(NULL);
	readers_begin(&server);
	run_clients();
	return 0;
}

static void bugs_are_found(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bugs); i++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			alarm(100);
			execl("/proc/self/exe", "test_readers", "--bug", bugs[i], NULL);
			_exit(127);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		/* It ends in the middle. */
		name_files(pid);
		unlink(fifo);
		unlink(image);
		if (!WIFEXITED(status) || (WEXITSTATUS(status) != 3 && WEXITSTATUS(status) != 4))
			fail_msg("%s was not found: status %x", bugs[i], status);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_way, start, end),
		cmocka_unit_test_setup_teardown(a_quick_lone_caller, start, end),
		cmocka_unit_test_setup_teardown(requests_that_wait_for_others, start, end),
		cmocka_unit_test_setup_teardown(to_and_fro_under_load, start, end),
		cmocka_unit_test_setup_teardown(no_thread_to_be_had, start, end),
		cmocka_unit_test_setup_teardown(one_reader_for_a_lone_caller, start, end),
		cmocka_unit_test_setup_teardown(large_transfers_are_not_brief, start, end),
		cmocka_unit_test_setup_teardown(patience, start, end),
		cmocka_unit_test_setup_teardown(stopped_at_any_moment, start, end),
		cmocka_unit_test_setup_teardown(interrupts_are_not_lost, start, end),
		cmocka_unit_test(what_ends_a_mount),
		cmocka_unit_test(bugs_are_found),
	};

	if (argc == 3 && !strcmp(argv[1], "--bug"))
		return with_bug(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
