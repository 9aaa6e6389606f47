/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The device engine on an image file: transfers, rings, threads, faults. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <cmocka.h>
#include <sys/file.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/engine.h"
#include "util/util.h"

#define SIZE (8u << 20)
#define BLK 4096u

static char path[256];
static int image;
static struct io_engine *e;
static struct io_ring *r;
static char *mem;	/* aligned, SIZE bytes */

static void fill(char *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i += 4) {
		seed = seed * 1664525 + 1013904223;
		memcpy(buf + i, &seed, 4);
	}
}

/* The image has no name from the start, so that nothing is left behind however the test ends. */
static int group_setup(void **state)
{
	const char *dir = getenv("TMPDIR");

	snprintf(path, sizeof(path), "%s/gfs2-fuse-test-io-XXXXXX", dir ? dir : "/var/tmp");
	image = mkstemp(path);
	if (image < 0 || unlink(path) || ftruncate(image, SIZE))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", image);
	mem = aligned_alloc(BLK, SIZE);
	return mem ? 0 : -1;
}

static int group_teardown(void **state)
{
	free(mem);
	return close(image);
}

static int setup(void **state)
{
	return io_engine_open(path, false, &e);
}

static int teardown(void **state)
{
	io_ring_destroy(r);
	r = NULL;
	io_engine_close(e);
	e = NULL;
	return 0;
}

static void open_errors(void **state)
{
	struct io_engine *x;
	char fifo[64];

	assert_int_equal(io_engine_open("/nonexistent/volume", false, &x), -ENOENT);
	assert_int_equal(io_engine_open("/", false, &x), -ENOTBLK);
	assert_int_equal(io_engine_open("/dev/null", false, &x), -ENOTBLK);
	snprintf(fifo, sizeof(fifo), "/tmp/gfs2-fuse-test-fifo-%d", getpid());
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(io_engine_open(fifo, true, &x), -ENOTBLK);
	unlink(fifo);
}

static void facts(void **state)
{
	uint32_t align = io_align(e);

	assert_int_equal(io_engine_size(e), SIZE);
	assert_int_equal(align & (align - 1), 0);
	if (io_engine_direct(e))
		assert_in_range(align, 512, 4096);
	else
		assert_int_equal(align, 1);
	assert_true(io_engine_fd(e) >= 0);
}

static void write_flush_read(void **state)
{
	struct io_req req;
	char *a = mem, *b = mem + SIZE / 2;

	fill(a, 1 << 20, 1);
	assert_int_equal(io_write(e, IO_DATA, a, 1 << 20, BLK), 0);
	assert_int_equal(io_flush(e, IO_LOG), 0);
	assert_int_equal(io_read(e, IO_META, b, 1 << 20, BLK), 0);
	assert_memory_equal(a, b, 1 << 20);

	fill(a, BLK, 2);
	io_req_init(&req, IO_WRITE, IO_LOG, a, BLK, 0);
	req.fua = true;
	assert_int_equal(io_run(e, &req, 1), 0);
	assert_int_equal(io_read(e, IO_LOG, b, BLK, 0), 0);
	assert_memory_equal(a, b, BLK);
}

static void refused(void **state)
{
	struct io_engine *ro;
	struct io_stats before, after;

	io_get_stats(e, &before);
	assert_int_equal(io_read(e, IO_DATA, mem, BLK, SIZE), -EIO);
	assert_int_equal(io_read(e, IO_DATA, mem, 2 * BLK, SIZE - BLK), -EIO);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, UINT64_MAX - BLK + 1), -EIO);
	assert_int_equal(io_read(e, IO_DATA, mem, 0, 0), 0);
	if (io_engine_direct(e)) {
		assert_int_equal(io_read(e, IO_DATA, mem + 1, BLK, 0), -EINVAL);
		assert_int_equal(io_read(e, IO_DATA, mem, BLK - 1, 0), -EINVAL);
		assert_int_equal(io_write(e, IO_DATA, mem, BLK, 100), -EINVAL);
	}
	io_get_stats(e, &after);
	assert_int_equal(after.bytes[IO_WRITE], before.bytes[IO_WRITE]);

	assert_int_equal(io_engine_open(path, true, &ro), 0);
	assert_int_equal(io_read(ro, IO_DATA, mem, BLK, 0), 0);
	assert_int_equal(io_write(ro, IO_DATA, mem, BLK, 0), -EROFS);
	io_engine_close(ro);
}

static void stopped(void **state)
{
	struct io_stats before, after;

	fill(mem, BLK, 5);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, 0), 0);
	io_get_stats(e, &before);
	io_engine_stop_writes(e, true);
	fill(mem, BLK, 6);
	for (int cls = 0; cls < IO_NR_CLASSES; cls++)
		assert_int_equal(io_write(e, cls, mem, BLK, 0), -EIO);
	assert_int_equal(io_discard(e, 0, BLK), -EIO);
	io_get_stats(e, &after);
	assert_int_equal(after.bytes[IO_WRITE], before.bytes[IO_WRITE]);
	fill(mem + BLK, BLK, 5);
	assert_int_equal(io_read(e, IO_DATA, mem, BLK, 0), 0);
	assert_memory_equal(mem, mem + BLK, BLK);
	io_engine_stop_writes(e, false);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, 0), 0);
}

/* More vectors than one system call takes. */
static void many_vectors(void **state)
{
	enum { NR = 1500 };
	static struct iovec iov[NR], copy[NR];
	struct io_req req;

	fill(mem, NR * 512, 3);
	for (unsigned i = 0; i < NR; i++)
		iov[i] = (struct iovec){ mem + (size_t)(i * 7 % NR) * 512, 512 };
	memcpy(copy, iov, sizeof(iov));
	if (io_align(e) > 512)
		skip();
	io_req_init(&req, IO_WRITE, IO_DATA, NULL, 0, 512);
	req.iov = iov;
	req.nr_iov = NR;
	assert_int_equal(io_run(e, &req, 1), 0);
	assert_memory_equal(copy, iov, sizeof(iov));
	assert_int_equal(io_read(e, IO_DATA, mem + SIZE / 2, NR * 512, 512), 0);
	for (unsigned i = 0; i < NR; i++)
		assert_memory_equal(mem + SIZE / 2 + i * 512, iov[i].iov_base, 512);
}

/* More requests than a ring has entries, in one call. */
static void many_requests(void **state)
{
	unsigned nr = SIZE / 2 / BLK;
	struct io_req *reqs = calloc(nr, sizeof(*reqs));

	fill(mem, SIZE / 2, 4);
	for (unsigned i = 0; i < nr; i++)
		io_req_init(&reqs[i], IO_WRITE, IO_DATA, mem + (size_t)i * BLK, BLK,
			    (uint64_t)(nr - 1 - i) * BLK);
	/* One of them is wrong: the others are done all the same. */
	reqs[nr / 2].pos = SIZE;
	assert_int_equal(io_run(e, reqs, nr), -EIO);
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(reqs[i].res, i == nr / 2 ? -EIO : 0);
	assert_int_equal(io_read(e, IO_DATA, mem + SIZE / 2, SIZE / 2, 0), 0);
	for (unsigned i = 0; i < nr; i++)
		if (i != nr / 2)
			assert_memory_equal(mem + SIZE / 2 + (size_t)(nr - 1 - i) * BLK,
					    mem + (size_t)i * BLK, BLK);
	free(reqs);
}

/* --- faults --- */

static void add_fault(const char *text)
{
	struct io_fault f;

	assert_int_equal(io_fault_parse(text, &f), 0);
	assert_int_equal(io_fault_add(e, &f), 0);
}

static void count_done(struct io_req *req)
{
	(*(unsigned *)req->priv)++;
}

/* For a device with a scheduler at least three requests are submitted at once; those that do nothing count as nothing. */
static void company_for_lone_transfers(void **state)
{
	struct io_req reqs[5];

	e->e_scheduled = true;
	for (int defer = 0; defer < 2; defer++) {
		assert_int_equal(io_ring_create(e, 16, defer, &r), 0);
		for (unsigned turn = 0; turn < 40; turn++) {
			const unsigned nr = turn % ARRAY_SIZE(reqs) + 1, before = io_ring_raw(r)->sq.sqe_tail;
			unsigned done = 0;

			for (unsigned i = 0; i < nr; i++) {
				io_req_init(&reqs[i], turn & 8 ? IO_WRITE : IO_READ, IO_DATA, mem + i * BLK, BLK, i * BLK);
				reqs[i].done = count_done;
				reqs[i].priv = &done;
				io_ring_submit_req(r, &reqs[i]);
			}
			assert_int_equal(io_ring_wait(r, nr), 0);
			assert_int_equal(done, nr);
			assert_int_equal(io_ring_inflight(r), 0);
			if (io_ring_raw(r)->features & IORING_FEAT_CQE_SKIP)
				assert_int_equal(io_ring_raw(r)->sq.sqe_tail - before, nr < 3 ? 3 : nr);
			assert_int_equal(io_ring_wait(r, 0), 0);
		}
		io_ring_destroy(r);
		r = NULL;
	}
}

static void fault_texts(void **state)
{
	static const char *const bad[] = {
		"", "error", "error=", "error=x", "error=-5", "error=5000", "op=erase,error=5",
		"cls=foo,error=5", "op=read", "error=5,colour=red", "delay_us=4294967296",
		"pos=18446744073709551615,len=2,error=5", "error=5 ",
	};
	struct io_fault f;

	assert_int_equal(io_fault_parse("op=write,cls=data,error=5,delay_us=100,pos=0x1000,len=8192,"
					"skip=2,count=3,short=512", &f), 0);
	assert_int_equal(f.op, IO_WRITE);
	assert_int_equal(f.cls, IO_DATA);
	assert_int_equal(f.error, 5);
	assert_int_equal(f.delay_us, 100);
	assert_int_equal(f.pos, 0x1000);
	assert_int_equal(f.len, 8192);
	assert_int_equal(f.skip, 2);
	assert_int_equal(f.count, 3);
	assert_int_equal(f.short_bytes, 512);
	assert_int_equal(io_fault_parse("op=any,error=28", &f), 0);
	assert_int_equal(f.op, -1);
	assert_int_equal(f.cls, -1);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (io_fault_parse(bad[i], &f) != -EINVAL)
			fail_msg("\"%s\" was accepted", bad[i]);
}

static void fault_errors(void **state)
{
	struct io_stats st;

	fill(mem, BLK, 5);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, 0), 0);
	/* The second and third write of data that touch block 0. */
	add_fault("op=write,cls=data,pos=0,len=4096,error=28,skip=1,count=2");
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, 0), 0);
	fill(mem + BLK, BLK, 6);
	assert_int_equal(io_write(e, IO_META, mem, BLK, 0), 0);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, BLK), 0);
	assert_int_equal(io_read(e, IO_DATA, mem + 2 * BLK, BLK, 0), 0);
	assert_int_equal(io_write(e, IO_DATA, mem + BLK, BLK, 0), -ENOSPC);
	assert_int_equal(io_write(e, IO_DATA, mem, 2 * BLK, 0), -ENOSPC);
	/* It was not sent. */
	assert_int_equal(io_read(e, IO_DATA, mem + 2 * BLK, BLK, 0), 0);
	assert_memory_equal(mem, mem + 2 * BLK, BLK);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, 0), 0);

	add_fault("op=flush,error=5,count=1");
	assert_int_equal(io_flush(e, IO_LOG), -EIO);
	add_fault("error=5");
	assert_int_equal(io_read(e, IO_DIO, mem, BLK, 0), -EIO);
	io_fault_clear(e);
	assert_int_equal(io_read(e, IO_DIO, mem, BLK, 0), 0);
	io_get_stats(e, &st);
	assert_int_equal(st.injected, 4);
	assert_int_equal(st.errors, 4);
}

/* A transfer that comes short is continued, wherever in the vector it ended. */
static void fault_short(void **state)
{
	struct iovec iov[5];
	struct io_req req;
	uint32_t unit = io_engine_direct(e) ? io_align(e) : 512;
	char *in = mem + SIZE / 2;
	struct io_stats st;
	unsigned total = 0;

	fill(mem, 64 * BLK, 7);
	for (unsigned i = 0; i < 5; i++) {
		iov[i] = (struct iovec){ mem + total, (i + 1) * BLK };
		total += iov[i].iov_len;
	}
	for (uint32_t cut = unit; cut < total; cut += 3 * unit) {
		struct io_fault f = { .op = -1, .cls = -1, .short_bytes = cut + 17, .count = 2 };

		memset(in, 0, total);
		io_fault_add(e, &f);
		io_req_init(&req, IO_WRITE, IO_DATA, NULL, 0, 8 * BLK);
		req.iov = iov;
		req.nr_iov = 5;
		req.fua = cut & unit;
		assert_int_equal(io_run(e, &req, 1), 0);
		assert_int_equal(io_read(e, IO_DATA, in, total, 8 * BLK), 0);
		assert_memory_equal(in, mem, total);
		io_fault_clear(e);
	}
	io_get_stats(e, &st);
	assert_int_equal(st.errors, 0);

	/* Cut, then fail: the first part has reached the device, the rest has not. */
	fill(mem + 64 * BLK, 4 * BLK, 8);
	add_fault("op=write,short=4096,error=5");
	assert_int_equal(io_write(e, IO_DATA, mem + 64 * BLK, 4 * BLK, 8 * BLK), -EIO);
	io_fault_clear(e);
	assert_int_equal(io_read(e, IO_DATA, in, 4 * BLK, 8 * BLK), 0);
	assert_memory_equal(in, mem + 64 * BLK, BLK);
	assert_memory_equal(in + BLK, mem + BLK, 3 * BLK);
}

/* --- rings --- */

struct seen {
	unsigned nr;
	uint64_t order[256];
	int res[256];
	struct io_req *again;
};

static void note(struct io_req *req)
{
	struct seen *s = req->priv;

	s->order[s->nr] = req->pos / BLK;
	s->res[s->nr++] = req->res;
	/* Sent from within a completion. */
	if (s->again) {
		struct io_req *again = s->again;

		s->again = NULL;
		io_ring_submit_req(req->ring, again);
	}
}

static void noted_req(struct io_req *req, struct seen *s, enum io_op op, unsigned blk)
{
	io_req_init(req, op, IO_DIO, mem + (size_t)blk * BLK, BLK, (uint64_t)blk * BLK);
	req->done = note;
	req->priv = s;
}

/* A continued request is more than one completion to io_ring_wait(). */
static void drain(void)
{
	while (io_ring_inflight(r))
		assert_int_equal(io_ring_wait(r, 1), 0);
}

static void ring_modes(void **state)
{
	for (int defer = 0; defer < 2; defer++) {
		struct seen s = { 0 };
		struct io_req reqs[100], extra;
	
		assert_int_equal(io_ring_create(e, 8, defer, &r), 0);
		assert_int_equal(io_ring_wait(r, 0), 0);
		noted_req(&extra, &s, IO_WRITE, 120);
		s.again = &extra;
		/* More than there are entries. */
		for (unsigned i = 0; i < 100; i++) {
			noted_req(&reqs[i], &s, IO_WRITE, i);
			io_ring_submit_req(r, &reqs[i]);
		}
		/* done() is only called from io_ring_wait. */
		assert_int_equal(s.nr, 0);
		assert_int_equal(io_ring_inflight(r), 100);
		assert_int_equal(io_ring_wait(r, 100), 0);
		assert_true(s.nr >= 100);
		drain();
		assert_int_equal(s.nr, 101);
		for (unsigned i = 0; i < s.nr; i++)
			assert_int_equal(s.res[i], 0);

		/* A refused request ends like any other, not inside io_ring_submit_req. */
		noted_req(&extra, &s, IO_READ, SIZE / BLK);
		io_ring_submit_req(r, &extra);
		assert_int_equal(s.nr, 101);
		assert_int_equal(io_ring_wait(r, 1), 0);
		assert_int_equal(s.nr, 102);
		assert_int_equal(s.res[101], -EIO);

		/* Completions also come when nobody waits for any. */
		noted_req(&extra, &s, IO_READ, 1);
		io_ring_submit_req(r, &extra);
		while (s.nr < 103)
			assert_int_equal(io_ring_wait(r, 0), 0);
		assert_int_equal(s.res[102], 0);
		io_ring_destroy(r);
		r = NULL;
	}
}

static void nothing(struct io_handler *h, struct io_ring *ring, int32_t res, uint32_t flags)
{
}

/* A delayed request does not hold up those behind it: its delay does not end before we say so. */
static void delay_does_not_block_the_ring(void **state)
{
	struct io_handler ended = { .complete = nothing };
	struct seen s = { 0 };
	struct io_uring_sqe *sqe;
	struct io_req a, b, c;

	add_fault("op=write,pos=0,len=4096,delay_us=4000000000");
	add_fault("op=write,pos=4096,len=4096,delay_us=1000,error=5");
	assert_int_equal(io_ring_create(e, 8, true, &r), 0);
	noted_req(&a, &s, IO_WRITE, 0);
	noted_req(&b, &s, IO_WRITE, 1);
	noted_req(&c, &s, IO_WRITE, 2);
	io_ring_submit_req(r, &a);
	io_ring_submit_req(r, &b);
	io_ring_submit_req(r, &c);
	while (s.nr < 2)
		assert_int_equal(io_ring_wait(r, 1), 0);
	assert_int_equal(s.order[0] + s.order[1], 1 + 2);
	sqe = io_ring_sqe(r);
	io_uring_prep_timeout_remove(sqe, (uintptr_t)&a.h, 0);
	io_uring_sqe_set_data(sqe, &ended);
	while (s.nr < 3)
		assert_int_equal(io_ring_wait(r, 1), 0);
	assert_int_equal(s.order[2], 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(s.res[i], s.order[i] == 1 ? -EIO : 0);
}

static void fixed_buffers(void **state)
{
	struct iovec iov = { mem, SIZE / 2 };
	struct seen s = { 0 };
	struct io_req req;

	assert_int_equal(io_ring_create(e, 8, true, &r), 0);
	if (io_ring_register_buffers(r, &iov, 1)) {
		print_message("skipped: no registered buffers here\n");
		skip();
	}
	fill(mem, 16 * BLK, 9);
	add_fault("op=write,short=8192,count=1");
	io_req_init(&req, IO_WRITE, IO_DIO, mem, 16 * BLK, 16 * BLK);
	req.buf_index = 0;
	req.fua = true;
	req.done = note;
	req.priv = &s;
	io_ring_submit_req(r, &req);
	drain();
	assert_int_equal(s.res[0], 0);
	assert_int_equal(io_read(e, IO_DIO, mem + SIZE / 2, 16 * BLK, 16 * BLK), 0);
	assert_memory_equal(mem, mem + SIZE / 2, 16 * BLK);

	memset(mem, 0, 16 * BLK);
	req.op = IO_READ;
	io_ring_submit_req(r, &req);
	drain();
	assert_int_equal(s.res[1], 0);
	assert_memory_equal(mem, mem + SIZE / 2, 16 * BLK);
	/* Memory outside of the registered buffer is refused by the kernel. */
	req.iov1.iov_base = mem + SIZE / 2;
	io_ring_submit_req(r, &req);
	drain();
	assert_int_equal(s.nr, 3);
	assert_int_equal(s.res[2], -EFAULT);
}

struct pipe_handler {
	struct io_handler h;
	char c;
	int got;
};

static void pipe_complete(struct io_handler *h, struct io_ring *ring, int32_t res, uint32_t flags)
{
	((struct pipe_handler *)h)->got = res;
}

/* Other descriptors can be waited for on the same ring, as the receive threads do with their requests. */
static void foreign_sqes(void **state)
{
	struct pipe_handler ph = { .h.complete = pipe_complete };
	struct seen s = { 0 };
	struct io_uring_sqe *sqe;
	struct io_req req;
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(io_ring_create(e, 8, true, &r), 0);
	sqe = io_ring_sqe(r);
	io_uring_prep_read(sqe, p[0], &ph.c, 1, 0);
	io_uring_sqe_set_data(sqe, &ph.h);
	noted_req(&req, &s, IO_READ, 3);
	io_ring_submit_req(r, &req);
	while (!s.nr)
		assert_int_equal(io_ring_wait(r, 1), 0);
	assert_int_equal(ph.got, 0);
	assert_int_equal(io_ring_inflight(r), 0);
	assert_int_equal(write(p[1], "x", 1), 1);
	while (!ph.got)
		assert_int_equal(io_ring_wait(r, 1), 0);
	assert_int_equal(ph.got, 1);
	assert_int_equal(ph.c, 'x');
	close(p[0]);
	close(p[1]);
}

/* --- threads --- */

static void *thread_io(void *arg)
{
	unsigned id = (uintptr_t)arg;
	char *buf = aligned_alloc(BLK, 2 * BLK);
	uintptr_t bad = 0;

	for (unsigned i = 0; i < 50; i++) {
		uint64_t pos = (uint64_t)(id * 50 + i) * BLK;

		fill(buf, BLK, id * 1000 + i);
		bad |= io_write(e, IO_DATA, buf, BLK, pos);
		bad |= io_read(e, IO_DATA, buf + BLK, BLK, pos);
		bad |= memcmp(buf, buf + BLK, BLK);
	}
	free(buf);
	return (void *)bad;
}

static void threads_have_their_own_rings(void **state)
{
	struct io_stats st;
	pthread_t t[4];
	void *bad;

	for (unsigned round = 0; round < 3; round++) {
		for (uintptr_t i = 0; i < 4; i++)
			pthread_create(&t[i], NULL, thread_io, (void *)i);
		for (unsigned i = 0; i < 4; i++) {
			pthread_join(t[i], &bad);
			assert_null(bad);
		}
	}
	/* What ended threads did is counted. */
	io_get_stats(e, &st);
	assert_int_equal(st.ops[IO_WRITE], 3 * 4 * 50);
	assert_int_equal(st.bytes[IO_READ], 3 * 4 * 50 * BLK);
}

static pthread_barrier_t barrier;

static void *outlives_the_engine(void *arg)
{
	char *buf = aligned_alloc(BLK, BLK);
	uintptr_t bad = io_read(e, IO_DATA, buf, BLK, 0);

	pthread_barrier_wait(&barrier);	/* now the engine is closed ... */
	pthread_barrier_wait(&barrier);	/* ... and another one is there */
	bad |= io_read(e, IO_DATA, buf, BLK, 0);
	free(buf);
	return (void *)bad;
}

static void threads_outlive_engines(void **state)
{
	pthread_t t;
	void *bad;

	pthread_barrier_init(&barrier, NULL, 2);
	pthread_create(&t, NULL, outlives_the_engine, NULL);
	pthread_barrier_wait(&barrier);
	assert_int_equal(io_read(e, IO_DATA, mem, BLK, 0), 0);
	io_engine_close(e);
	assert_int_equal(io_engine_open(path, false, &e), 0);
	pthread_barrier_wait(&barrier);
	pthread_join(t, &bad);
	assert_null(bad);
	pthread_barrier_destroy(&barrier);
}

static unsigned ring_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned found = 0;
	char line[512];

	while (maps && fgets(line, sizeof(line), maps))
		found += strstr(line, "[io_uring]") != NULL;
	if (maps)
		fclose(maps);
	return found;
}

/* A process that the daemon leaves behind keeps neither the volume nor /dev/fuse, which are registered in rings, once it has closed what it has. */
static void children_have_no_rings(void **state)
{
	int status;
	pid_t pid;

	assert_int_equal(io_ring_create(e, 8, false, &r), 0);
	assert_int_equal(io_read(e, IO_DATA, mem, BLK, 0), 0);
	assert_true(ring_mappings());
	pid = fork();
	if (!pid)
		_exit(ring_mappings() != 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void *writes_and_reads(void *arg)
{
	char *buf = aligned_alloc(BLK, 2 * BLK);
	const uint64_t pos = (uintptr_t)arg * BLK;
	uintptr_t bad = !buf;

	for (unsigned i = 0; !bad && i < 50; i++) {
		fill(buf, BLK, (unsigned)(pos + i));
		bad |= io_write(e, IO_DATA, buf, BLK, pos) != 0;
		bad |= io_flush(e, IO_LOG) != 0;
		bad |= io_read(e, IO_DATA, buf + BLK, BLK, pos) != 0;
		bad |= memcmp(buf, buf + BLK, BLK) != 0;
	}
	free(buf);
	return (void *)bad;
}

/* Threads that get no ring of their own share one: it was an error of their I/O, and of the log's the end of the mount. */
static void no_descriptors_for_rings(void **state)
{
	struct rlimit before, none;
	pthread_t t[6];
	void *bad;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, writes_and_reads, (void *)(uintptr_t)(i + 1)), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		pthread_join(t[i], &bad);
		assert_null(bad);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

/* Closing gives back a lock on the volume at once, although rings end in the background. */
static void close_releases_the_lock(void **state)
{
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(flock(io_engine_fd(e), LOCK_EX | LOCK_NB), 0);
		assert_int_equal(io_read(e, IO_DATA, mem, BLK, 0), 0);
		io_engine_close(e);
		assert_int_equal(io_engine_open(path, false, &e), 0);
	}
}

static void buffered_engine(void **state)
{
	assert_int_equal(flock(io_engine_fd(e), LOCK_EX | LOCK_NB), 0);
	assert_int_equal(io_engine_set_buffered(e, "the test wants it"), 0);
	assert_false(io_engine_direct(e));
	assert_int_equal(io_align(e), 1);
	fill(mem, BLK, 10);
	assert_int_equal(io_write(e, IO_DATA, mem + 1, 100, 77), 0);
	assert_int_equal(io_flush(e, IO_DATA), 0);
	assert_int_equal(io_read(e, IO_DATA, mem + 2 * BLK + 3, 100, 77), 0);
	assert_memory_equal(mem + 1, mem + 2 * BLK + 3, 100);
	add_fault("short=13,count=2");
	assert_int_equal(io_write(e, IO_DATA, mem, 300, 5), 0);
	assert_int_equal(io_read(e, IO_DATA, mem + BLK, 300, 5), 0);
	assert_memory_equal(mem, mem + BLK, 300);
}

/* The store loses its end: an error, not a short or an endless transfer. */
static void truncated_store(void **state)
{
	assert_int_equal(truncate(path, SIZE / 2), 0);
	assert_int_equal(io_read(e, IO_DATA, mem, 4 * BLK, SIZE / 2 - BLK), -EIO);
	assert_int_equal(io_read(e, IO_DATA, mem, BLK, SIZE - BLK), -EIO);
	assert_int_equal(truncate(path, SIZE), 0);
}

/* --- what makes durable and is waited for by itself: system calls --- */

/* Counted and, once, failed.  Atomics: other tests flush from several threads. */
static struct {
	atomic_uint flushes, writes;
	atomic_int fail_flush, fail_write;
	const char *written;	/* the block that has to be at 0 when a flush is made */
} calls;

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int nr, off_t pos, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int nr, off_t pos, int flags);

int __wrap_fdatasync(int fd)
{
	int error = atomic_exchange(&calls.fail_flush, 0);
	char found[BLK];

	atomic_fetch_add(&calls.flushes, 1);
	if (calls.written) {
		assert_int_equal(pread(image, found, BLK, 0), BLK);
		assert_memory_equal(found, calls.written, BLK);
	}
	errno = error;
	return error ? -1 : __real_fdatasync(fd);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int nr, off_t pos, int flags)
{
	int error = atomic_exchange(&calls.fail_write, 0);

	assert_int_equal(flags, RWF_DSYNC);
	atomic_fetch_add(&calls.writes, 1);
	errno = error;
	return error ? -1 : __real_pwritev64v2(fd, iov, nr, pos, flags);
}

/* A durable write of one block at 0 that makes so many calls. */
static void durable_write(int expect, unsigned writes, unsigned flushes)
{
	static unsigned seed = 1000;
	struct io_req req;

	fill(mem, BLK, seed++);
	calls.written = expect ? NULL : mem;
	atomic_store(&calls.writes, 0);
	atomic_store(&calls.flushes, 0);
	io_req_init(&req, IO_WRITE, IO_LOG, mem, BLK, 0);
	req.fua = true;
	assert_int_equal(io_run(e, &req, 1), expect);
	calls.written = NULL;
	assert_int_equal(calls.writes, writes);
	assert_int_equal(calls.flushes, flushes);
	if (expect)
		return;
	assert_int_equal(io_read(e, IO_LOG, mem + BLK, BLK, 0), 0);
	assert_memory_equal(mem, mem + BLK, BLK);
}

static void durable_calls(void **state)
{
	struct io_req reqs[2];
	struct statfs sfs;

	/* Nothing is durable there. */
	if (fstatfs(image, &sfs) || sfs.f_type == TMPFS_MAGIC)
		skip();
	atomic_store(&calls.flushes, 0);
	assert_int_equal(io_flush(e, IO_LOG), 0);
	assert_int_equal(calls.flushes, 1);
	atomic_store(&calls.fail_flush, EINTR);
	assert_int_equal(io_flush(e, IO_LOG), 0);
	assert_int_equal(calls.flushes, 3);

	durable_write(0, 1, 0);
	atomic_store(&calls.fail_write, EINTR);
	durable_write(0, 2, 0);
	if (io_align(e) == 512) {
		add_fault("op=write,short=512,count=1");
		durable_write(0, 2, 0);
		io_fault_clear(e);
	}
	add_fault("op=write,delay_us=1000,count=1");
	durable_write(0, 1, 0);
	io_fault_clear(e);

	/* Several at once go to the ring, which has them under way together. */
	atomic_store(&calls.writes, 0);
	for (unsigned i = 0; i < 2; i++) {
		io_req_init(&reqs[i], IO_WRITE, IO_LOG, mem, BLK, i * BLK);
		reqs[i].fua = true;
	}
	assert_int_equal(io_run(e, reqs, 2), 0);
	assert_int_equal(calls.writes, 0);

	/* A store that does not know it: it is flushed, once what was written is there. */
	atomic_store(&calls.fail_write, EOPNOTSUPP);
	durable_write(0, 1, 1);
	durable_write(0, 0, 1);
	atomic_store(&calls.fail_flush, EIO);
	durable_write(-EIO, 0, 1);
}

static void another_engine(void)
{
	io_engine_close(e);
	assert_int_equal(io_engine_open(path, false, &e), 0);
	assert_int_equal(io_flush_error(e), 0);
}

/* The store says once that it has lost something; every flush says so afterwards. */
static void flush_errors_stay(void **state)
{
	struct rlimit limit, none;
	struct statfs sfs;

	msg_set_level(-1);
	add_fault("op=flush,cls=data,error=28,count=1");
	assert_int_equal(io_flush(e, IO_DATA), -ENOSPC);
	assert_int_equal(io_flush(e, IO_LOG), -ENOSPC);
	assert_int_equal(io_flush_error(e), -ENOSPC);
	assert_int_equal(io_write(e, IO_DATA, mem, BLK, 0), 0);
	another_engine();
	if (fstatfs(image, &sfs) || sfs.f_type == TMPFS_MAGIC) {
		msg_set_level(MSG_ERR);
		return;
	}
	atomic_store(&calls.fail_flush, EIO);
	assert_int_equal(io_flush(e, IO_LOG), -EIO);
	assert_int_equal(io_flush(e, IO_LOG), -EIO);
	another_engine();
	/* Not done, but nothing is lost. */
	atomic_store(&calls.fail_flush, ENOMEM);
	assert_int_equal(io_flush(e, IO_LOG), -ENOMEM);
	assert_int_equal(io_flush(e, IO_LOG), 0);

	/* Of a durable write: it could be written, so it was the flush ... */
	atomic_store(&calls.fail_write, EIO);
	durable_write(-EIO, 1, 0);
	assert_int_equal(io_flush_error(e), -EIO);
	assert_int_equal(io_read(e, IO_LOG, mem + BLK, BLK, 0), 0);
	assert_memory_equal(mem, mem + BLK, BLK);
	assert_int_equal(io_flush(e, IO_LOG), -EIO);
	another_engine();
	/* ... and here it could not. */
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	none = (struct rlimit){ 0, limit.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	durable_write(-EFBIG, 1, 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(io_flush(e, IO_LOG), 0);
	msg_set_level(MSG_ERR);
}

/* --- stores that are memory (inmem.c) --- */

static int memory;	/* the store: a file on tmpfs without a name */

static int memory_setup(void **state)
{
	char name[64];

	memory = memfd_create("store", MFD_CLOEXEC);
	if (memory < 0 || ftruncate(memory, SIZE))
		return -1;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", memory);
	return io_engine_open(name, false, &e);
}

static int memory_teardown(void **state)
{
	close(memory);
	return teardown(state);
}

/* cmocka has handlers of its own for each test. */
static void take_sigbus(void)
{
	struct io_engine *x;
	char name[64];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", memory);
	assert_int_equal(io_engine_open(name, false, &x), 0);
	io_engine_close(x);
}

static int direct_io(enum io_op op, char *buf, uint32_t len, uint64_t pos)
{
	struct io_req req;

	io_req_init(&req, op, IO_DIO, buf, len, pos);
	req.mapped = true;
	return io_run(e, &req, 1);
}

static void memory_transfers(void **state)
{
	char *in = mem + SIZE / 2;
	struct io_stats st;

	assert_true(io_can_in_place(e));
	fill(mem, SIZE / 4, 21);
	for (uint32_t len = BLK; len <= SIZE / 4; len *= 4) {
		uint64_t pos = SIZE - len - BLK;

		assert_int_equal(direct_io(IO_WRITE, mem, len, pos), 0);
		assert_int_equal(pread(memory, in, len, (off_t)pos), len);
		assert_memory_equal(in, mem, len);
		/* Somebody else's change is seen, and the mapping is no copy. */
		assert_int_equal(pwrite(memory, "else", 4, (off_t)pos), 4);
		assert_int_equal(direct_io(IO_READ, in, len, pos), 0);
		assert_memory_equal(in, "else", 4);
		assert_memory_equal(in + 4, mem + 4, len - 4);
	}
	assert_int_equal(io_flush(e, IO_DIO), 0);
	io_get_stats(e, &st);
	assert_int_equal(st.errors, 0);
}

/* What does not lie on tmpfs is not mapped. */
static void disk_is_not_mapped(void **state)
{
	struct statfs sfs;

	if (fstatfs(image, &sfs) || sfs.f_type == TMPFS_MAGIC)
		skip();
	assert_false(io_can_in_place(e));
	assert_int_equal(io_quick_max(e), UINT32_MAX);
}

static int read_in_place(uint64_t pos, uint32_t len)
{
	struct io_req req;

	io_req_init(&req, IO_READ, IO_DIO, mem, len, pos);
	req.in_place = true;
	return io_run(e, &req, 1);
}

/* Checked, failed, cut, delayed and counted like any other read; nothing is copied. */
static void memory_in_place(void **state)
{
	struct io_stats st, before;
	struct timespec start, end;

	fill(mem, SIZE / 2, 22);
	assert_int_equal(direct_io(IO_WRITE, mem, SIZE / 2, SIZE / 2), 0);
	memset(mem, 0, SIZE);
	io_get_stats(e, &before);
	assert_int_equal(read_in_place(SIZE / 2, SIZE / 2), 0);
	io_get_stats(e, &st);
	assert_int_equal(st.ops[IO_READ], before.ops[IO_READ] + 1);
	assert_int_equal(st.bytes[IO_READ], before.bytes[IO_READ] + SIZE / 2);
	assert_int_equal(mem[0], 0);
	fill(mem, SIZE / 2, 22);
	assert_memory_equal(io_in_place(e, SIZE / 2), mem, SIZE / 2);

	assert_int_equal(read_in_place(SIZE - BLK, 2 * BLK), -EIO);
	if (io_align(e) > 1)
		assert_int_equal(read_in_place(1, BLK), -EINVAL);
	add_fault("op=read,cls=dio,error=5,count=1");
	assert_int_equal(read_in_place(0, SIZE / 2), -EIO);
	io_fault_clear(e);
	add_fault("op=read,cls=dio,short=4096,count=1");
	assert_int_equal(read_in_place(0, SIZE / 2), 0);
	io_fault_clear(e);
	add_fault("op=read,cls=dio,short=4096,error=5,count=1");
	assert_int_equal(read_in_place(0, SIZE / 2), -EIO);
	io_fault_clear(e);
	add_fault("op=read,cls=dio,delay_us=20000,count=1");
	clock_gettime(CLOCK_MONOTONIC, &start);
	assert_int_equal(read_in_place(0, BLK), 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_true((end.tv_sec - start.tv_sec) * 1000000000ll + end.tv_nsec - start.tv_nsec >= 20000000);
	io_get_stats(e, &before);
	assert_int_equal(before.injected, st.injected + 4);
}

/* The image ends where it should not: an error, never a signal, and never zeros that nobody wrote. */
static void memory_cut_short(void **state)
{
	take_sigbus();
	fill(mem, SIZE / 2, 23);
	assert_int_equal(direct_io(IO_WRITE, mem, SIZE / 2, 0), 0);
	assert_int_equal(direct_io(IO_WRITE, mem, SIZE / 2, SIZE / 2), 0);
	assert_int_equal(ftruncate(memory, SIZE / 4 + 512), 0);
	/* The last page is there for its first 512 bytes; then there is nothing at all. */
	assert_int_equal(direct_io(IO_READ, mem, BLK, SIZE / 4), -EIO);
	assert_int_equal(direct_io(IO_READ, mem, BLK, SIZE / 2), -EIO);
	assert_int_equal(direct_io(IO_READ, mem, SIZE / 2, 0), -EIO);
	assert_int_equal(read_in_place(SIZE / 4, BLK), -EIO);
	assert_int_equal(read_in_place(SIZE / 2, SIZE / 4), -EIO);
	assert_int_equal(direct_io(IO_READ, mem, BLK, 0), 0);
	/* What is written there is there. */
	fill(mem, BLK, 24);
	assert_int_equal(direct_io(IO_WRITE, mem, BLK, SIZE / 2), 0);
	assert_int_equal(direct_io(IO_READ, mem + BLK, BLK, SIZE / 2), 0);
	assert_memory_equal(mem, mem + BLK, BLK);
	assert_int_equal(direct_io(IO_READ, mem, BLK, SIZE / 2 + BLK), -EIO);
}

/* So that the mapping has all its pages, but the file not all that is in the last one. */
static void memory_cut_in_the_last_page(void **state)
{
	take_sigbus();
	fill(mem, SIZE / 2, 25);
	assert_int_equal(direct_io(IO_WRITE, mem, SIZE / 2, SIZE / 2), 0);
	assert_int_equal(ftruncate(memory, SIZE - BLK + 512), 0);
	assert_int_equal(direct_io(IO_READ, mem + SIZE / 2, BLK, SIZE - BLK), -EIO);
	assert_int_equal(direct_io(IO_READ, mem + SIZE / 2, SIZE / 2, SIZE / 2), -EIO);
	assert_int_equal(direct_io(IO_READ, mem + SIZE / 2, SIZE / 2 - BLK, SIZE / 2), 0);
	assert_memory_equal(mem + SIZE / 2, mem, SIZE / 2 - BLK);
	/* Just without its last page: the one before is whole, and then it is not. */
	assert_int_equal(ftruncate(memory, SIZE - BLK), 0);
	assert_int_equal(direct_io(IO_READ, mem + SIZE / 2, BLK, SIZE - 2 * BLK), 0);
	assert_memory_equal(mem + SIZE / 2, mem + SIZE / 2 - 2 * BLK, BLK);
	assert_int_equal(ftruncate(memory, SIZE - BLK - 512), 0);
	assert_int_equal(direct_io(IO_READ, mem, BLK, SIZE - 2 * BLK), -EIO);
}

struct cutter {
	atomic_bool stop;
	unsigned cuts;
};

static void *cut_again_and_again(void *arg)
{
	struct cutter *c = arg;

	for (; !atomic_load(&c->stop); c->cuts++)
		if (ftruncate(memory, BLK) || ftruncate(memory, SIZE))
			abort();
	return NULL;
}

static void *transfer_again_and_again(void *arg)
{
	char *own = aligned_alloc(BLK, SIZE / 4);
	sigset_t all;
	unsigned *errors = arg;

	/* As the daemon's threads do. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	memset(own, 1, SIZE / 4);
	for (unsigned i = 0; i < 300; i++) {
		int ret = i % 2 ? direct_io(IO_READ, own, SIZE / 4, SIZE / 2) :
				  direct_io(IO_WRITE, own, SIZE / 4, SIZE / 2);

		if (ret && ret != -EIO)
			abort();
		*errors += ret != 0;
	}
	free(own);
	return NULL;
}

/* Cut in the middle of copies: nobody dies. */
static void memory_cut_meanwhile(void **state)
{
	struct cutter cutter = { .stop = false };
	pthread_t t, cut;
	unsigned errors = 0;

	take_sigbus();

	assert_int_equal(pthread_create(&cut, NULL, cut_again_and_again, &cutter), 0);
	assert_int_equal(pthread_create(&t, NULL, transfer_again_and_again, &errors), 0);
	pthread_join(t, NULL);
	atomic_store(&cutter.stop, true);
	pthread_join(cut, NULL);
	assert_true(cutter.cuts > 0);
	assert_int_equal(ftruncate(memory, SIZE), 0);
	assert_int_equal(direct_io(IO_WRITE, mem, BLK, 0), 0);
}

/* A fault that is not ours, and a signal that somebody sends, end the process as they always did. */
static void other_faults_are_fatal(void **state)
{
	for (int sent = 0; sent < 2; sent++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			struct rlimit none = { 0, 0 };
			char *beyond = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, memory, 0);

			signal(SIGBUS, SIG_DFL);
			take_sigbus();
			setrlimit(RLIMIT_CORE, &none);
			if (sent)
				raise(SIGBUS);
			else if (!ftruncate(memory, 0))
				(void)*(volatile char *)beyond;
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
#else
		/* The sanitizer reports it and ends the process. */
		assert_false(WIFEXITED(status) && !WEXITSTATUS(status));
#endif
	}
}

#define M(fn) cmocka_unit_test_setup_teardown(fn, memory_setup, memory_teardown)
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(open_errors),
		T(facts),
		T(write_flush_read),
		T(refused),
		T(stopped),
		T(many_vectors),
		T(many_requests),
		M(memory_transfers), T(disk_is_not_mapped), M(memory_in_place), M(memory_cut_short), M(memory_cut_in_the_last_page),
		M(memory_cut_meanwhile), M(other_faults_are_fatal),
		cmocka_unit_test(fault_texts),
		T(fault_errors),
		T(fault_short),
		T(ring_modes),
		T(delay_does_not_block_the_ring),
		T(fixed_buffers),
		T(foreign_sqes),
		T(company_for_lone_transfers),
		T(threads_have_their_own_rings),
		T(threads_outlive_engines),
		T(children_have_no_rings), T(no_descriptors_for_rings),
		T(close_releases_the_lock),
		T(buffered_engine),
		T(truncated_store),
		T(durable_calls), T(flush_errors_stay),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
