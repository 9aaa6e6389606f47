/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two nodes' glock tables on one lock manager that answers late and in any order, and threads that do everything a
 * caller may do, at random.  Each resource has a value on "disk" and in each node's cache, in two parts that are treated as
 * metadata and data are: whoever is granted a state must find there what the last writer anywhere has left.
 *
 * What is checked
 *  - holders of two nodes are never granted in incompatible states at the same time;
 *  - before a state is given up or lowered, what is dirty has been written and what may not be cached has been dropped;
 *  - no stale value is ever seen, by waiting holders, asynchronous ones, and those of the fast path;
 *  - every request is answered (the test ends), and in the end everything is on disk.
 *
 * The second test is the same with debuggers: threads that set breakpoints, step, let go, delete, go away, and play further nodes by
 * hand.  What they stop may take longer, and nothing else.
 */
#include "fakedlm.h"

#include <poll.h>
#include <sys/eventfd.h>

#include "debug/stop.h"

#define THREADS 3	/* per node */
#define ROUND 8		/* operations of each thread between two barriers */
#ifndef ROUNDS
#define ROUNDS 300
#endif

/* --- the resources --- */

static struct {
	atomic_ulong meta, data;	     /* on disk */
	atomic_ulong true_meta, true_data;   /* what it should be */
	atomic_int users[NODES][4];	     /* granted holders, by the state they work under */
} res[RESOURCES];

static struct cache {
	pthread_mutex_t lock;
	bool meta_valid, data_valid, dirty;
	unsigned long meta, data;
} caches[NODES][RESOURCES];

static pthread_barrier_t round_end;
static unsigned rounds;	/* of all threads; constant while they run */
static atomic_ulong done_ops;
static atomic_uint stats_fast, stats_callbacks, stats_try_failed, stats_inst;

/* Not cmocka's: these come from other threads. */
#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond);       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static struct cache *cache_of(const struct gfs2_glock *gl)
{
	return &caches[node_of(gl)][gl->gl_number];
}

static void write_back(struct cache *c, unsigned r)
{
	if (!c->dirty)
		return;
	atomic_store(&res[r].meta, c->meta);
	if (c->data_valid)
		atomic_store(&res[r].data, c->data);
	c->dirty = false;
}

static int c_sync(struct gfs2_glock *gl)
{
	struct cache *c = cache_of(gl);

	pthread_mutex_lock(&c->lock);
	write_back(c, gl->gl_number);
	pthread_mutex_unlock(&c->lock);
	return 0;
}

static void c_inval(struct gfs2_glock *gl, bool metadata)
{
	struct cache *c = cache_of(gl);

	pthread_mutex_lock(&c->lock);
	CHECK(!c->dirty);
	c->data_valid = false;
	if (metadata)
		c->meta_valid = false;
	pthread_mutex_unlock(&c->lock);
}

static int c_instantiate(struct gfs2_glock *gl)
{
	struct cache *c = cache_of(gl);

	pthread_mutex_lock(&c->lock);
	CHECK(!c->meta_valid);
	c->meta = atomic_load(&res[gl->gl_number].meta);
	c->meta_valid = true;
	pthread_mutex_unlock(&c->lock);
	atomic_fetch_add(&stats_inst, 1);
	return 0;
}

static void check_before_request(unsigned node, unsigned r, enum lm_state req)
{
	struct cache *c = &caches[node][r];

	pthread_mutex_lock(&c->lock);
	CHECK(!c->dirty);
	if (req == UN)
		CHECK(!c->meta_valid && !c->data_valid);
	if (req == DF)
		CHECK(!c->data_valid);
	for (int s = 0; s < 4; s++)
		CHECK(!atomic_load(&res[r].users[node][s]));
	pthread_mutex_unlock(&c->lock);
}

/* With a minimum hold time and without. */
static const struct gfs2_glock_operations ops[2] = {
	{ .go_type = LM_TYPE_INODE, .go_flags = GLOF_LRU, .go_sync = c_sync, .go_inval = c_inval,
	  .go_instantiate = c_instantiate },
	{ .go_type = LM_TYPE_RGRP, .go_flags = GLOF_LRU, .go_sync = c_sync, .go_inval = c_inval,
	  .go_instantiate = c_instantiate },
};

/* --- what holders do --- */

static int others(unsigned node, unsigned r, enum lm_state s)
{
	int nr = 0;

	for (unsigned n = 0; n < NODES; n++)
		if (n != node)
			nr += atomic_load(&res[r].users[n][s]);
	return nr;
}

static void load_data(struct cache *c, unsigned r)
{
	if (c->data_valid)
		return;
	c->data = atomic_load(&res[r].data);
	c->data_valid = true;
}

static void use_exclusive(struct cache *c, unsigned r)
{
	load_data(c, r);
	CHECK(c->meta == atomic_load(&res[r].true_meta));
	CHECK(c->data == atomic_load(&res[r].true_data));
	c->meta++;
	c->data++;
	c->dirty = true;
	atomic_fetch_add(&res[r].true_meta, 1);
	atomic_fetch_add(&res[r].true_data, 1);
}

/* Direct I/O: past the cache, which an EX lock may have filled.  Others may write at the same time. */
static void use_deferred(struct cache *c, unsigned r)
{
	write_back(c, r);
	c->data_valid = false;
	atomic_fetch_add(&res[r].data, 1);
	atomic_fetch_add(&res[r].true_data, 1);
}

static void use(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;
	unsigned node = node_of(gl), r = gl->gl_number;
	enum lm_state held, as = gh->gh_state;
	struct cache *c = cache_of(gl);

	rmutex_lock(&gl->gl_lock);
	held = gl->gl_state;
	rmutex_unlock(&gl->gl_lock);
	CHECK(held != UN);
	CHECK(gfs2_holder_queued(gh) && gfs2_glock_poll(gh));
	/* LM_FLAG_ANY: it runs under what is held. */
	if (held != EX && held != as) {
		CHECK(gh->gh_flags & LM_FLAG_ANY);
		as = held;
	}
	atomic_fetch_add(&res[r].users[node][as], 1);
	CHECK(!others(node, r, EX));
	if (as != SH)
		CHECK(!others(node, r, SH));
	if (as != DF)
		CHECK(!others(node, r, DF));

	pthread_mutex_lock(&c->lock);
	if (!(gh->gh_flags & GL_SKIP)) {
		CHECK(c->meta_valid);
		CHECK(c->meta == atomic_load(&res[r].true_meta));
		if (gh->gh_state == EX) {
			use_exclusive(c, r);
		} else if (gh->gh_state == DF && as == DF) {
			use_deferred(c, r);
		} else if (as == SH) {
			load_data(c, r);
			CHECK(c->data == atomic_load(&res[r].true_data));
		}
	}
	pthread_mutex_unlock(&c->lock);
	if (!rnd(8))
		sched_yield();
	atomic_fetch_sub(&res[r].users[node][as], 1);
}

/* --- threads --- */

struct async {
	struct gfs2_holder gh;
	atomic_int state;	/* 0, then 1: called */
};

static void on_granted(struct gfs2_holder *gh)
{
	struct async *a = gh->gh_priv;

	/* Any thread may call this: give it a seed. */
	if (!rnd_state)
		rnd_state = (uintptr_t)a | 1;
	atomic_fetch_add(&stats_callbacks, 1);
	if (!gh->gh_error) {
		use(gh);
		gfs2_glock_dq(gh);
	}
	/* The last access: then the owner frees it. */
	atomic_store(&a->state, 1);
}

static void op_callback(struct gfs2_glock *gl, enum lm_state s, unsigned flags)
{
	struct async *a = xzalloc(sizeof(*a));
	bool cancelled = false;

	gfs2_holder_init(gl, s, flags | GL_ASYNC, &a->gh, "callback");
	a->gh.gh_granted = on_granted;
	a->gh.gh_priv = a;
	CHECK(!gfs2_glock_nq(&a->gh));
	if (!rnd(3)) {
		for (unsigned i = rnd(20); i; i--)
			sched_yield();
		cancelled = gfs2_glock_cancel(&a->gh);
	}
	while (!cancelled && !atomic_load(&a->state))
		usleep(50);
	gfs2_holder_uninit(&a->gh);
	free(a);
}

static void op_async(struct gfs2_glock *gl, enum lm_state s, unsigned flags)
{
	struct gfs2_holder gh;
	int error = 1;

	gfs2_holder_init(gl, s, flags | GL_ASYNC, &gh, "async");
	CHECK(!gfs2_glock_nq(&gh));
	/* Either wait, or give up after a while, granted or not. */
	if (rnd(3)) {
		error = gfs2_glock_wait(&gh);
		CHECK(!error || error == GLR_TRYFAILED);
	} else {
		for (unsigned i = rnd(30); i; i--)
			sched_yield();
	}
	if (!error)
		use(&gh);
	gfs2_glock_dq_uninit(&gh);
}

static void op_sync(struct gfs2_glock *gl, enum lm_state s, unsigned flags)
{
	struct gfs2_holder gh;
	int error;

	gfs2_holder_init(gl, s, flags, &gh, "sync");
	error = gfs2_glock_nq(&gh);
	if (!error)
		use(&gh);
	else
		atomic_fetch_add(&stats_try_failed, 1);
	CHECK(!error || (error == GLR_TRYFAILED && (flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB))));
	gfs2_glock_dq(&gh);
	/* Again, while it may still be there. */
	if (gfs2_glock_nq_fast(&gh)) {
		atomic_fetch_add(&stats_fast, 1);
		use(&gh);
		gfs2_glock_dq(&gh);
	}
	gfs2_holder_uninit(&gh);
}

static unsigned random_flags(enum lm_state s, bool quiet)
{
	switch (rnd(quiet ? 20 : 10)) {
	case 0:
		return LM_FLAG_TRY;
	case 1:
		return LM_FLAG_TRY_1CB;
	case 2:
		return GL_EXACT;
	case 3:
		return GL_NOCACHE;
	case 4:
		return s != EX ? LM_FLAG_ANY : 0;
	case 5:
		return GL_SKIP;
	default:
		return 0;
	}
}

/* @quiet: nothing that makes a node give up a lock unless it is asked to. */
static void one_op(struct gfs2_glock_table *t, bool quiet)
{
	static const enum lm_state states[] = { SH, SH, DF, DF, EX };
	static const enum lm_state wishes[] = { UN, SH, DF };
	unsigned r = rnd(RESOURCES);
	struct gfs2_glock *gl = gfs2_glock_get(t, r, &ops[r % 2]);
	enum lm_state s = states[rnd(ARRAY_SIZE(states))];
	unsigned flags = random_flags(s, quiet);

	if (quiet)
		flags &= ~(GL_NOCACHE | GL_EXACT);
	switch (quiet ? 2 + rnd(14) : rnd(16)) {
	case 0:
		gfs2_glock_cb(gl, wishes[rnd(3)], false);
		break;
	case 1:
		gfs2_glock_shrink(t, 1);
		break;
	case 2:
	case 3:
	case 4:
		op_async(gl, s, flags);
		break;
	case 5:
	case 6:
	case 7:
		op_callback(gl, s, flags);
		break;
	default:
		op_sync(gl, s, flags);
	}
	gfs2_glock_put(gl);
}

static void *node_thread(void *arg)
{
	uintptr_t id = (uintptr_t)arg;
	struct gfs2_glock_table *t = dlm.tables[id % NODES];

	rnd_state = (now_ns() ^ id << 40) | 1;
	for (unsigned i = 0; i < rounds; i++) {
		for (int j = 0; j < ROUND; j++) {
			one_op(t, i % 2);
			atomic_fetch_add(&done_ops, 1);
		}
		/* A demand that was lost shows when nobody else stirs the lock any more. */
		pthread_barrier_wait(&round_end);
	}
	return NULL;
}

static void dump_one(struct gfs2_glock *gl, void *arg)
{
	fprintf(stderr, "node %u: ", node_of(gl));
	gfs2_dump_glock(stderr, gl);
}

/* Ends the test with dumps when nothing has happened for long. */
static void await_threads(void)
{
	unsigned long last = 0, now;
	uint64_t since = now_ns();

	while ((now = atomic_load(&done_ops)) < (unsigned long)NODES * THREADS * rounds * ROUND) {
		if (now != last) {
			last = now;
			since = now_ns();
		} else if (now_ns() - since > 30000000000ull) {
			for (int n = 0; n < NODES; n++)
				gfs2_glock_table_for_each(dlm.tables[n], dump_one, NULL);
			CHECK(!"somebody is not answered");
		}
		usleep(1000);
	}
}

/* --- debuggers --- */

#define DEBUGGERS 3

static struct {
	atomic_bool end;
	atomic_uint hits[STOP_NR], steps, gone_with_stops, timeouts, played, refused;
} dbg;

static void set_break(struct stop_session *s)
{
	struct stop_spec spec = {
		.points = rnd(3) ? 1u << STOP_TRANSITION : 1u << rnd(STOP_DLM_BAST + 1),
		.any_glock = !rnd(3),
		.gl_number = rnd(RESOURCES),
		.from = rnd(2) ? 0xf : 1u << rnd(4),
		.to = rnd(2) ? 0xf : 1u << rnd(4),
		.count = rnd(5),
		.once = rnd(2),
		.timeout_ns = (1 + rnd(200)) * 100000u,
	};

	spec.gl_type = ops[spec.gl_number % 2].go_type;
	CHECK(stop_break(s, &spec) > 0);
}

/* As the command `step` does. */
static void step(struct stop_session *s, unsigned id)
{
	struct stop_spec spec = { .points = 1u << STOP_TRANSITION, .from = 0xf, .to = 0xf, .once = true,
				  .timeout_ns = 20000000 };
	struct stop_site site;
	int brk;

	if (stop_get(s, &id, &site))
		return;
	spec.gl_type = site.gl_type;
	spec.gl_number = site.gl_number;
	brk = stop_break(s, &spec);
	CHECK(brk > 0);
	/* Its time was over: the breakpoint may have been hit by another since. */
	if (stop_continue(s, id) < 0)
		stop_delete(s, (unsigned)brk);
	atomic_fetch_add(&dbg.steps, 1);
}

static void play_node(void)
{
	static const enum lm_state states[] = { EX, DF, SH };
	unsigned n = rnd(NODES), r = rnd(RESOURCES);
	struct gfs2_glock *gl = gfs2_glock_get(dlm.tables[n], r, &ops[r % 2]);
	enum lm_state s = states[rnd(3)];

	if (gfs2_glock_foreign_hold(gl, s)) {
		atomic_fetch_add(&dbg.refused, 1);
	} else {
		if (gfs2_glock_wait_demoted(gl, (1 + rnd(20)) * 1000000u)) {
			atomic_fetch_add(&dbg.played, 1);
			for (int i = 0; i < 20; i++) {
				CHECK(!atomic_load(&res[r].users[n][EX]));
				CHECK(s == SH || !atomic_load(&res[r].users[n][SH]));
				CHECK(s == DF || !atomic_load(&res[r].users[n][DF]));
				sched_yield();
			}
		}
		gfs2_glock_foreign_release(gl, "by hand");
	}
	gfs2_glock_put(gl);
}

/* Is it still there?  Its time may be over. */
static void count_stop(pid_t client, unsigned id, unsigned brk_id, const struct stop_site *site, uint64_t since_ns, uint64_t left_ns, void *arg)
{
	++*(unsigned *)arg;
}

static void debug_once(int fd)
{
	struct stop_session *s = stop_session_new(fd, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	unsigned last = 0, brk_id, held = 0;
	struct stop_site site;
	eventfd_t n;

	CHECK(s);
	for (unsigned i = rnd(4) + 1; i; i--)
		set_break(s);
	for (unsigned i = rnd(30); i; i--) {
		if (!rnd(20))
			play_node();
		if (poll(&p, 1, 5) == 1)
			eventfd_read(fd, &n);
		while (stop_next_hit(s, &last, &brk_id, &site)) {
			atomic_fetch_add(&dbg.hits[site.point], 1);
			switch (rnd(4)) {
			case 0:
				stop_continue(s, last);
				break;
			case 1:
				step(s, last);
				break;
			case 2:
				stop_delete(s, brk_id);
				break;
			}
		}
		if (!rnd(4))
			stop_continue(s, 0);
		if (!rnd(10))
			stop_delete(s, 0);
		if (!rnd(6))
			set_break(s);
	}
	stop_for_each(s, NULL, count_stop, &held);
	atomic_fetch_add(&dbg.gone_with_stops, held);
	stop_session_free(s);
}

static void *debugger(void *arg)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	CHECK(fd >= 0);
	rnd_state = (now_ns() ^ (uintptr_t)arg << 50) | 1;
	while (!atomic_load(&dbg.end))
		debug_once(fd);
	close(fd);
	return NULL;
}

/* As the control socket's listener does. */
static void *timer(void *arg)
{
	struct pollfd p = { .fd = stop_timer_fd(), .events = POLLIN };

	while (!atomic_load(&dbg.end))
		if (poll(&p, 1, 10) == 1) {
			atomic_fetch_add(&dbg.timeouts, 1);
			stop_expire();
		}
	return NULL;
}

static struct {
	pthread_t threads[DEBUGGERS], timer;
} dbg_threads;

static void start_debuggers(void)
{
	memset(&dbg, 0, sizeof(dbg));
	assert_int_equal(stop_init(), 0);
	assert_int_equal(pthread_create(&dbg_threads.timer, NULL, timer, NULL), 0);
	for (uintptr_t i = 0; i < DEBUGGERS; i++)
		assert_int_equal(pthread_create(&dbg_threads.threads[i], NULL, debugger, (void *)(i + 1)), 0);
}

static void end_debuggers(void)
{
	atomic_store(&dbg.end, true);
	for (int i = 0; i < DEBUGGERS; i++)
		pthread_join(dbg_threads.threads[i], NULL);
	pthread_join(dbg_threads.timer, NULL);
	stop_shutdown();
	stop_exit();
}

/* --- the tests --- */

static void run_cluster(unsigned nr_rounds, void (*begin)(void), void (*end)(void))
{
	pthread_t threads[NODES * THREADS];

	rounds = nr_rounds;
	atomic_store(&done_ops, 0);
	memset(res, 0, sizeof(res));
	memset(caches, 0, sizeof(caches));
	for (int n = 0; n < NODES; n++)
		for (int r = 0; r < RESOURCES; r++)
			pthread_mutex_init(&caches[n][r].lock, NULL);
	pthread_barrier_init(&round_end, NULL, NODES * THREADS);
	dlm_start();
	if (begin)
		begin();
	for (uintptr_t i = 0; i < NODES * THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, node_thread, (void *)i), 0);
	await_threads();
	for (int i = 0; i < NODES * THREADS; i++)
		pthread_join(threads[i], NULL);
	if (end)
		end();
	dlm_stop();
	pthread_barrier_destroy(&round_end);
	for (int r = 0; r < RESOURCES; r++) {
		assert_int_equal(atomic_load(&res[r].meta), atomic_load(&res[r].true_meta));
		assert_int_equal(atomic_load(&res[r].data), atomic_load(&res[r].true_data));
	}
}

static void test_cluster(void **state)
{
	run_cluster(ROUNDS, NULL, NULL);
	print_message("conversion deadlocks %u, cancels %u, refused %u, demands with the grant %u, "
		      "fast %u, callbacks %u, try failed %u, instantiated %u\n",
		      atomic_load(&dlm.stats_deadlock), atomic_load(&dlm.stats_cancel),
		      atomic_load(&dlm.stats_refused), atomic_load(&dlm.stats_early),
		      atomic_load(&stats_fast), atomic_load(&stats_callbacks),
		      atomic_load(&stats_try_failed), atomic_load(&stats_inst));
	/* A run that did not meet the cases it is for proves nothing. */
	assert_true(atomic_load(&dlm.stats_deadlock) && atomic_load(&dlm.stats_cancel) &&
		    atomic_load(&dlm.stats_refused) && atomic_load(&dlm.stats_early) &&
		    atomic_load(&stats_fast) && atomic_load(&stats_callbacks));
}

static void test_breakpoints(void **state)
{
	run_cluster(ROUNDS / 2, start_debuggers, end_debuggers);
	print_message("stopped: transitions %u, requests %u, answers %u, callbacks %u; steps %u, left behind %u, timer %u, "
		      "played %u, refused %u\n",
		      atomic_load(&dbg.hits[STOP_TRANSITION]), atomic_load(&dbg.hits[STOP_DLM_REQUEST]),
		      atomic_load(&dbg.hits[STOP_DLM_AST]), atomic_load(&dbg.hits[STOP_DLM_BAST]), atomic_load(&dbg.steps),
		      atomic_load(&dbg.gone_with_stops), atomic_load(&dbg.timeouts), atomic_load(&dbg.played),
		      atomic_load(&dbg.refused));
	for (int p = STOP_TRANSITION; p <= STOP_DLM_BAST; p++)
		assert_true(atomic_load(&dbg.hits[p]));
	assert_true(atomic_load(&dbg.steps) && atomic_load(&dbg.gone_with_stops) && atomic_load(&dbg.timeouts) &&
		    atomic_load(&dbg.played));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_cluster),
					    cmocka_unit_test(test_breakpoints) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
