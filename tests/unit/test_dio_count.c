/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The completion count of direct I/O (dio.h) with completions on other threads than the submitter's, under load: for the thread sanitizer.
 *
 * In the daemon a request's completions come on the thread that has sent it.  The count does not rely on that; here they do not: what
 * dio.c sends goes to one of several threads, each with a ring of its own, and completes there, late, out of order, short, or with an
 * error.  The submitter looks at nothing but the request, so the orderings of the count are all that orders the two: with one of
 * them relaxed the sanitizer finds `wait` or the results unordered.
 */
#include <pthread.h>
#include <sched.h>
#include "diofix.h"

#define BLOCKS 24		/* of a file; every one an extent */
#define AWAY 3
#define SUBMITTERS 3

/* --- completions elsewhere --- */

/* What has been said about a request on its way; relaxed, so that it orders nothing. */
struct truth {
	atomic_bool failed;
	atomic_uint done;
};

struct away {
	struct io_req *req;
	void (*done)(struct io_req *req);
	void *priv;
	struct truth *truth;
	struct list_head list;
};

static struct completer {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct list_head queue;
	bool stop;
} completers[AWAY];

static _Thread_local struct io_ring *away_ring;	/* what is sent to it goes away */
static _Thread_local struct truth *away_truth;
static _Thread_local struct away *away_next;
static _Thread_local unsigned away_seed;

void __real_io_ring_submit_req(struct io_ring *r, struct io_req *req);
void __wrap_io_ring_submit_req(struct io_ring *r, struct io_req *req);
int __real_io_ring_wait(struct io_ring *r, unsigned nr);
int __wrap_io_ring_wait(struct io_ring *r, unsigned nr);

static void away_done(struct io_req *req)
{
	struct away *a = req->priv;

	if (req->res)
		atomic_store_explicit(&a->truth->failed, true, memory_order_relaxed);
	atomic_fetch_add_explicit(&a->truth->done, 1, memory_order_relaxed);
	req->priv = a->priv;
	/* The last use of any of them. */
	a->done(req);
}

void __wrap_io_ring_submit_req(struct io_ring *r, struct io_req *req)
{
	struct completer *c;
	struct away *a;

	if (!away_ring || r != away_ring) {
		__real_io_ring_submit_req(r, req);
		return;
	}
	c = &completers[rand_r(&away_seed) % AWAY];
	a = away_next++;
	*a = (struct away){ .req = req, .done = req->done, .priv = req->priv, .truth = away_truth };
	req->done = away_done;
	req->priv = a;
	pthread_mutex_lock(&c->lock);
	list_add_tail(&a->list, &c->queue);
	pthread_cond_signal(&c->wake);
	pthread_mutex_unlock(&c->lock);
}

int __wrap_io_ring_wait(struct io_ring *r, unsigned nr)
{
	if (!away_ring || r != away_ring)
		return __real_io_ring_wait(r, nr);
	sched_yield();
	return 0;
}

static void *complete(void *arg)
{
	struct completer *c = arg;
	struct io_ring *ring;
	bool stop;

	assert_int_equal(io_ring_create(engine, 64, false, &ring), 0);
	do {
		struct list_head taken;

		list_init(&taken);
		pthread_mutex_lock(&c->lock);
		while (list_empty(&c->queue) && !c->stop && !io_ring_inflight(ring))
			pthread_cond_wait(&c->wake, &c->lock);
		stop = c->stop;
		list_splice_tail_init(&c->queue, &taken);
		pthread_mutex_unlock(&c->lock);
		while (!list_empty(&taken)) {
			struct away *a = list_first_entry(&taken, struct away, list);

			list_del_init(&a->list);
			io_ring_submit_req(ring, a->req);
		}
		if (io_ring_inflight(ring))
			io_ring_wait(ring, 1);
	} while (!stop || io_ring_inflight(ring));
	io_ring_destroy(ring);
	return NULL;
}

static void completers_start(void)
{
	for (unsigned i = 0; i < AWAY; i++) {
		struct completer *c = &completers[i];

		pthread_mutex_init(&c->lock, NULL);
		pthread_cond_init(&c->wake, NULL);
		list_init(&c->queue);
		c->stop = false;
		assert_int_equal(pthread_create(&c->thread, NULL, complete, c), 0);
	}
}

static void completers_end(void)
{
	for (unsigned i = 0; i < AWAY; i++) {
		struct completer *c = &completers[i];

		pthread_mutex_lock(&c->lock);
		c->stop = true;
		pthread_cond_signal(&c->wake);
		pthread_mutex_unlock(&c->lock);
		pthread_join(c->thread, NULL);
	}
}

/* --- requests --- */

struct submitter {
	pthread_t thread;
	struct gfs2_inode *ip;
	unsigned number, requests, fast, failed, holes;
	const char *wrong;
};

struct request {
	struct gfs2_dio dio;
	struct truth truth;
	struct away away[2 * BLOCKS];
	atomic_bool answered;	/* release: the answer before it */
	int64_t ret;
};

static void answered(struct gfs2_dio *dio, int64_t ret)
{
	struct request *r = container_of(dio, struct request, dio);

	r->ret = ret;
	atomic_store_explicit(&r->answered, true, memory_order_release);
}

/* The last block of the file is a hole, and stays one: short_dio=fail. */
static void one(struct submitter *s, struct io_ring *ring, char *mem)
{
	struct request *r = xzalloc(sizeof(*r));
	unsigned first = (unsigned)rand_r(&away_seed) % BLOCKS, n = 1 + (unsigned)rand_r(&away_seed) % (BLOCKS - first);
	bool hole = first + n == BLOCKS, fast;

	r->dio = (struct gfs2_dio){ .ip = s->ip, .ring = ring, .buf = mem, .buf_index = -1, .write = true, .done = answered,
				    .pos = (uint64_t)first * BS, .len = n * BS };
	away_ring = ring;
	away_truth = &r->truth;
	away_next = r->away;
	fast = gfs2_dio_fast(&r->dio);
	if (fast)
		while (!atomic_load_explicit(&r->answered, memory_order_acquire))
			sched_yield();
	else
		r->ret = gfs2_dio_run(&r->dio);
	away_ring = NULL;
	s->requests++;
	s->fast += fast;
	s->holes += hole;
	s->failed += atomic_load_explicit(&r->truth.failed, memory_order_relaxed);
	if (atomic_load_explicit(&r->truth.done, memory_order_relaxed) != (unsigned)(away_next - r->away))
		s->wrong = "it is told to be done, and is not";
	else if (r->ret != (hole || atomic_load_explicit(&r->truth.failed, memory_order_relaxed) ? -EIO : (int64_t)r->dio.len))
		s->wrong = "not what has become of its runs";
	memset(r, 0xee, sizeof(*r));
	free(r);
}

#define REQUESTS (SCALE(8) == 8 ? 1200 : 400)

static void *submit(void *arg)
{
	struct submitter *s = arg;
	char *mem = aligned_alloc(BS, BLOCKS * BS);
	struct io_ring *ring;

	assert_int_equal(io_ring_create(engine, 8, false, &ring), 0);
	away_seed = s->number + 1;
	memset(mem, 'A' + (int)s->number, BLOCKS * BS);
	while (s->requests < REQUESTS && !s->wrong)
		one(s, ring, mem);
	io_ring_destroy(ring);
	free(mem);
	return NULL;
}

/* --- the volume --- */

static struct gfs2_inode *new_file(unsigned number)
{
	struct gfs2_inode *ip;
	char name[32], data[BS];

	snprintf(name, sizeof(name), "file%u", number);
	ip = make_file(sdp, name);
	assert_int_equal(gfs2_setattr_size(ip, BLOCKS * BS), 0);
	memset(data, 'd', BS);
	/* First the even ones: none follows its neighbour on the device. */
	for (unsigned odd = 0; odd < 2; odd++)
		for (unsigned i = odd; i < BLOCKS - 1; i += 2)
			write_block(ip, i, data);
	assert_int_equal(gfs2_fsync(ip, false), 0);
	return ip;
}

static int mount_volume(void **state)
{
	return dio_mount(64, SHORT_DIO_FAIL);
}

static int unmount_volume(void **state)
{
	return dio_unmount();
}

/* No two of them hit the same run. */
static const struct io_fault faults[] = {
	{ .op = IO_WRITE, .cls = IO_DIO, .delay_us = 200, .count = 3 },
	{ .op = IO_WRITE, .cls = IO_DIO, .short_bytes = 1024, .count = 2, .skip = 5 },
	{ .op = IO_WRITE, .cls = IO_DIO, .error = EIO, .count = 1, .skip = 11 },
	{ .op = IO_WRITE, .cls = IO_DIO, .error = EIO, .short_bytes = 512, .count = 1, .skip = 17 },
	{ .op = IO_WRITE, .cls = IO_DIO, .error = EIO, .delay_us = 500, .count = 1, .skip = 26 },
};
#define HITS 8

/* Again when all have hit. */
static void faults_again(uint64_t *until)
{
	struct io_stats st;

	io_get_stats(engine, &st);
	if (st.injected < *until)
		return;
	*until = st.injected + HITS;
	io_fault_clear(engine);
	for (unsigned i = 0; i < ARRAY_SIZE(faults); i++)
		assert_int_equal(io_fault_add(engine, &faults[i]), 0);
}

static void test_completions_elsewhere(void **state)
{
	struct submitter s[SUBMITTERS];
	unsigned requests = 0, fast = 0, failed = 0, holes = 0;
	uint64_t until = 0;

	completers_start();
	faults_again(&until);
	for (unsigned i = 0; i < SUBMITTERS; i++) {
		s[i] = (struct submitter){ .ip = new_file(i), .number = i };
		assert_int_equal(pthread_create(&s[i].thread, NULL, submit, &s[i]), 0);
	}
	for (unsigned i = 0; i < SUBMITTERS; i++) {
		while (pthread_tryjoin_np(s[i].thread, NULL)) {
			faults_again(&until);
			usleep(500);
		}
		requests += s[i].requests;
		fast += s[i].fast;
		failed += s[i].failed;
		holes += s[i].holes;
	}
	io_fault_clear(engine);
	completers_end();
	for (unsigned i = 0; i < SUBMITTERS; i++) {
		assert_string_equal(s[i].wrong ? s[i].wrong : "right", "right");
		assert_int_equal(atomic_load(&s[i].ip->i_dio_count), 0);
		gfs2_inode_put(s[i].ip);
	}
	print_message("%u requests: %u without a waiter, %u of them failed on the device, %u met the hole\n", requests, fast, failed, holes);
	/* All ways to end have been gone. */
	assert_true(fast && fast < requests && failed && holes);
}

static int all_tests(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_completions_elsewhere) };

	return cmocka_run_group_tests(tests, mount_volume, unmount_volume);
}

int main(void)
{
	return vol_main_in("/dev/shm", all_tests);
}
