/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The glock machine, step by step: the tables, every phase x event, holders, demotions, what the lock module can
 * answer.  The module is answered by hand, so that every interleaving here is chosen, not met by luck
 * (test_glock_cluster.c is for luck).
 */
#include <signal.h>
#include <sys/wait.h>

#include "debug/event.h"
#include "glockfix.h"

/* --- the tables --- */

/* The rules of reference 1.2, put down once more. */
static bool model_may_grant(enum lm_state held, bool busy, enum lm_state current, bool current_scope,
			    enum lm_state want, unsigned flags)
{
	if (busy && current == EX && !(want == EX && current_scope && (flags & LM_FLAG_NODE_SCOPE)))
		return false;
	if (busy && current != EX && want != current)
		return false;
	if (held == want)
		return true;
	if (flags & GL_EXACT)
		return false;
	if (held == EX)
		return true;
	return (flags & LM_FLAG_ANY) && held != UN;
}

static void test_may_grant(void **state)
{
	static const enum lm_state wants[] = { EX, DF, SH };
	static const unsigned bits[] = { LM_FLAG_ANY, GL_EXACT, LM_FLAG_NODE_SCOPE, LM_FLAG_TRY };
	unsigned nr = 0;

	for (int held = 0; held < 4; held++)
	for (int cur = -1; cur < 3; cur++)
	for (int scope = 0; scope < 2; scope++)
	for (int want = 0; want < 3; want++)
	for (unsigned f = 0; f < 16; f++) {
		struct gfs2_glock gl = { .gl_state = held };
		struct gfs2_holder c = {
			.gh_state = cur >= 0 ? wants[cur] : UN,
			.gh_flags = scope ? LM_FLAG_NODE_SCOPE : 0,
		};
		struct gfs2_holder gh = { .gh_state = wants[want] };

		for (unsigned b = 0; b < 4; b++)
			if (f & 1u << b)
				gh.gh_flags |= bits[b];
		assert_int_equal(glock_may_grant(&gl, cur >= 0 ? &c : NULL, &gh),
				 model_may_grant(held, cur >= 0, c.gh_state, scope, wants[want],
						 gh.gh_flags));
		nr++;
	}
	assert_int_equal(nr, 4 * 4 * 2 * 3 * 16);
	assert_true(glock_compatible(SH, SH) && glock_compatible(DF, DF));
	assert_false(glock_compatible(SH, DF) || glock_compatible(DF, SH) ||
		     glock_compatible(EX, EX) || glock_compatible(EX, SH) ||
		     glock_compatible(SH, EX) || glock_compatible(EX, UN));
}

/* Rights of a transition follow from what each state may cache (reference 1.2, second table). */
static void test_rights(void **state)
{
	static const bool data[4] = { [EX] = true, [SH] = true };
	static const bool meta[4] = { [EX] = true, [SH] = true, [DF] = true };

	for (int from = 0; from < 4; from++) {
		for (int to = 0; to < 4; to++) {
			const struct glock_rights *r = &glock_rights[from][to];

			if (from == to)
				continue;
			assert_int_equal(r->write_data, from == EX);
			assert_int_equal(r->write_meta, from == EX);
			/* UN has nothing; everybody else loses what the new state may not have. */
			assert_int_equal(r->drop_meta, !meta[to]);
			assert_int_equal(r->drop_data, !data[to]);
			if (data[from] && !data[to])
				assert_true(r->drop_data);
		}
	}
}

#define I "IDLE"
#define S "SYNC"
#define W "WAIT"
static const struct {
	enum glock_event ev;
	const char *next[3]; /* from IDLE, SYNC, WAIT; NULL: must not happen */
} expected[] = {
	{ GLE_QUEUE, { I, S, W } },
	{ GLE_DEQUEUE, { I, S, W } },
	{ GLE_CANCEL, { I, S, W } },
	{ GLE_DEMAND, { I, S, W } },
	{ GLE_HOLD_OVER, { I, S, W } },
	{ GLE_WITHDRAW, { I, S, W } },
	{ GLE_START, { S, NULL, NULL } },
	{ GLE_SYNCED, { NULL, W, NULL } },
	{ GLE_ABANDON, { NULL, I, NULL } },
	{ GLE_SYNC_FAILED, { NULL, I, NULL } },
	{ GLE_REPLY_OK, { NULL, NULL, I } },
	{ GLE_REPLY_REFUSED, { NULL, NULL, I } },
	{ GLE_REPLY_CANCELED, { NULL, NULL, I } },
	{ GLE_REPLY_ERROR, { NULL, NULL, I } },
};
#undef I
#undef S
#undef W

/* A waiter that the state does not satisfy. */
static enum lm_state unsatisfied(enum lm_state s)
{
	return s == EX ? SH : EX; /* SH with GL_EXACT */
}

/* gl_lock held: waiter queued, phase as wanted. */
static void enter_phase(struct gfs2_glock *gl, enum gl_phase phase, struct gfs2_holder *gh)
{
	struct glock_arg start = {
		.step = { .why = GLY_PROMOTE, .target = unsatisfied(gl->gl_state) },
	};

	init_holder(gl, start.step.target, GL_EXACT, gh);
	list_add_tail(&gh->gh_list, &gl->gl_holders);
	atomic_store(&gh->gh_iflags, HIF_WAIT);
	if (phase >= GLP_SYNC)
		glock_fire(gl, GLE_START, &start);
	if (phase == GLP_WAIT)
		glock_fire(gl, GLE_SYNCED, NULL);
	assert_int_equal(gl->gl_phase, phase);
}

static void leave_phase(struct gfs2_glock *gl, struct gfs2_holder *gh)
{
	if (gl->gl_phase == GLP_SYNC)
		glock_fire(gl, GLE_ABANDON, NULL);
	if (gl->gl_phase == GLP_WAIT)
		glock_fire(gl, GLE_REPLY_CANCELED, &(struct glock_arg){ .reply = gl->gl_state });
	glock_unlock(gl);
	atomic_store(&lm.automatic, true);
	gfs2_glock_dq_uninit(gh);
	atomic_store(&lm.automatic, false);
}

/* Fire a pair that the table does not have: the process must dump the glock and end. */
static void check_trap(struct gfs2_glock *gl, enum gl_phase phase, enum glock_event ev,
		       const struct glock_arg *arg)
{
	char buf[4096] = "";
	size_t len = 0;
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		struct gfs2_holder gh;

		signal(SIGABRT, SIG_DFL);
		dup2(fds[1], STDERR_FILENO);
		rmutex_lock(&gl->gl_lock);
		enter_phase(gl, phase, &gh);
		glock_fire(gl, ev, arg);
		_exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], buf + len, sizeof(buf) - 1 - len)) > 0)
		len += n;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(buf, glock_event_name(ev)));
	assert_non_null(strstr(buf, "G:  s:"));
	assert_non_null(strstr(buf, " H: s:"));
}

static void check_pair(enum lm_state s, enum gl_phase phase, size_t row)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 100 + s, &plain_ops);
	const struct glock_transition *tr = &glock_machine[phase][expected[row].ev];
	struct glock_arg arg = { .wished = UN, .reply = s };
	struct gfs2_holder gh;
	const char *next = expected[row].next[phase];

	if (s != UN && state_of(gl) != s)
		cache_state(gl, s);
	assert_int_equal(!tr->action, !next);
	arg.step.target = unsatisfied(s);
	if (!next) {
		/* One state is enough for the traps: the table does not know states. */
		if (s == SH)
			check_trap(gl, phase, expected[row].ev, &arg);
	} else {
		bool ok;

		rmutex_lock(&gl->gl_lock);
		enter_phase(gl, phase, &gh);
		if (expected[row].ev == GLE_REPLY_OK)
			arg.reply = gl->gl_req;
		glock_fire(gl, expected[row].ev, &arg);
		ok = !strcmp(glock_phase_name(gl->gl_phase), next) &&
		     !(gl->gl_flags & FLAG(GLF_LOCK)) == (gl->gl_phase == GLP_IDLE) &&
		     (gl->gl_phase != GLP_IDLE || gl->gl_target == gl->gl_state);
		/* Only an answer changes the state. */
		if (expected[row].ev != GLE_REPLY_OK)
			ok = ok && gl->gl_state == s;
		else
			ok = ok && gl->gl_state == unsatisfied(s) && !holder_waits(&gh);
		if (expected[row].ev == GLE_DEMAND)
			ok = ok && (s == UN && phase == GLP_IDLE) == !(gl->gl_flags & FLAG(GLF_DEMOTE));
		leave_phase(gl, &gh);
		if (!ok)
			fail_msg("%s in %s", glock_event_name(expected[row].ev),
				 glock_phase_name(phase));
	}
	gfs2_glock_put(gl);
}

static void test_machine(void **state)
{
	assert_int_equal(ARRAY_SIZE(expected), GLE_NR);
	for (int s = 0; s < 4; s++)
		for (enum gl_phase phase = 0; phase < GLP_NR; phase++)
			for (size_t row = 0; row < GLE_NR; row++) {
				/* A table of its own: what one pair left behind must not help the next. */
				setup_manual(NULL);
				check_pair(s, phase, row);
				teardown(NULL);
			}
}

/* --- holders --- */

static void test_fifo(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b, c, d;

	queue(gl, SH, 0, &a);
	answer(gl, 1, SH, SH);
	assert_true(granted(&a));
	notes("sync lock:SH");
	queue(gl, EX, 0, &b);
	queue(gl, SH, 0, &c);
	queue(gl, SH, 0, &d);
	/* c would fit, but b came first; and while a is there nothing is asked. */
	assert_false(granted(&b) || granted(&c) || granted(&d));
	notes("");
	gfs2_glock_dq_uninit(&a);
	answer(gl, 2, EX, EX);
	assert_true(granted(&b));
	assert_false(granted(&c) || granted(&d));
	gfs2_glock_dq(&b);
	/* The cached EX serves both, at once and without the module. */
	assert_true(granted(&c) && granted(&d));
	assert_int_equal(state_of(gl), EX);
	notes("sync lock:EX");
	gfs2_holder_uninit(&b);
	gfs2_glock_dq_uninit(&c);
	gfs2_glock_dq_uninit(&d);
	gfs2_glock_put(gl);
}

struct waiter {
	struct gfs2_holder gh;
	pthread_t thread;
	atomic_bool done;
	int error;
};

static void *wait_thread(void *arg)
{
	struct waiter *w = arg;

	w->error = gfs2_glock_nq(&w->gh);
	atomic_store(&w->done, true);
	return NULL;
}

/* gfs2_glock_nq in a thread of its own. */
static void start_waiter(struct gfs2_glock *gl, enum lm_state s, unsigned flags, struct waiter *w)
{
	init_holder(gl, s, flags, &w->gh);
	atomic_store(&w->done, false);
	assert_int_equal(pthread_create(&w->thread, NULL, wait_thread, w), 0);
}

static int end_waiter(struct waiter *w)
{
	pthread_join(w->thread, NULL);
	gfs2_glock_dq_uninit(&w->gh);
	return w->error;
}

static void test_blocking(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct waiter a, b;

	start_waiter(gl, EX, 0, &a);
	await(atomic_load(&lm.requests) == 1);
	assert_false(atomic_load(&a.done));
	gfs2_glock_complete(gl, EX);
	await(atomic_load(&a.done));
	start_waiter(gl, EX, 0, &b);
	await(({
		rmutex_lock(&gl->gl_lock);
		bool two = gl->gl_holders.next->next != &gl->gl_holders;
		rmutex_unlock(&gl->gl_lock);
		two;
	}));
	assert_false(atomic_load(&b.done));
	assert_int_equal(end_waiter(&a), 0);
	await(atomic_load(&b.done));
	assert_int_equal(end_waiter(&b), 0);
	notes("sync lock:EX");
	gfs2_glock_put(gl);
}

static void test_any_exact(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;

	cache_state(gl, DF);
	queue(gl, SH, LM_FLAG_ANY, &a);
	assert_true(granted(&a));
	/* The lock is DF: somebody who wants to cache must not follow. */
	queue(gl, SH, 0, &b);
	assert_false(granted(&b));
	gfs2_glock_dq_uninit(&a);
	answer(gl, 1, SH, SH);
	assert_true(granted(&b));
	gfs2_glock_dq_uninit(&b);
	notes("sync lock:SH");

	cache_state(gl, EX);
	queue(gl, SH, GL_EXACT, &a);
	answer(gl, 1, SH, SH);
	assert_true(granted(&a));
	gfs2_glock_dq_uninit(&a);
	notes("sync lock:SH");
	gfs2_glock_put(gl);
}

static void test_node_scope(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b, c;

	queue(gl, EX, LM_FLAG_NODE_SCOPE, &a);
	queue(gl, EX, LM_FLAG_NODE_SCOPE, &b);
	queue(gl, EX, 0, &c);
	/* GL_ASYNC: a worker asks. */
	await(granted(&a) && granted(&b));
	assert_false(granted(&c));
	gfs2_glock_dq_uninit(&a);
	assert_false(granted(&c));
	gfs2_glock_dq_uninit(&b);
	assert_true(granted(&c));
	gfs2_glock_dq_uninit(&c);
	gfs2_glock_put(gl);
}

/* SH -> DF drops data, DF -> UN everything, nothing on the way up; always in this order. */
static void test_caches(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder gh;

	queue(gl, SH, GL_SKIP, &gh);
	answer(gl, 1, SH, SH);
	gfs2_glock_dq_uninit(&gh);
	queue(gl, DF, GL_SKIP, &gh);
	answer(gl, 2, DF, DF);
	gfs2_glock_dq_uninit(&gh);
	queue(gl, EX, GL_SKIP, &gh);
	answer(gl, 3, EX, EX);
	gfs2_glock_dq_uninit(&gh);
	notes("sync lock:SH sync inval:data lock:DF sync lock:EX");
	gfs2_glock_cb(gl, SH, true);
	answer(gl, 4, SH, SH);
	notes("sync lock:SH");
	gfs2_glock_cb(gl, DF, true);
	answer(gl, 5, DF, DF);
	notes("sync inval:data lock:DF");
	gfs2_glock_cb(gl, UN, true);
	answer(gl, 6, UN, UN);
	notes("sync inval:all lock:UN");
	assert_true(flags_of(gl) & FLAG(GLF_INSTANTIATE_NEEDED));
	gfs2_glock_put(gl);
}

static void test_nocache(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;

	atomic_store(&lm.automatic, true);
	queue(gl, SH, GL_NOCACHE, &a);
	await(granted(&a));
	queue(gl, SH, 0, &b);
	gfs2_glock_dq_uninit(&a);
	/* b still uses it. */
	assert_int_equal(state_of(gl), SH);
	assert_false(gfs2_glock_wait_demoted(gl, 1000000));
	gfs2_glock_dq_uninit(&b);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	assert_int_equal(state_of(gl), UN);
	gfs2_glock_put(gl);
}

/* Whoever lets go of it for good makes the transition himself: a table without workers has nobody else. */
static void test_nocache_at_once(void **state)
{
	struct gfs2_glock_table *t;
	struct gfs2_glock *gl;
	struct gfs2_holder a, b;

	assert_int_equal(gfs2_glock_table_create(&lm_manual, NULL, 0, NULL, &t), 0);
	gl = gfs2_glock_get(t, 1, &plain_ops);
	atomic_store(&lm.automatic, true);
	queue(gl, SH, 0, &a);
	while (gfs2_glock_work_run_one(t))
		;
	queue(gl, SH, 0, &b);
	notes("sync");
	gfs2_glock_dq_uninit_nocache(&a);
	/* b still uses it, and the wish is not forgotten. */
	assert_int_equal(state_of(gl), SH);
	gfs2_glock_dq_uninit_nocache(&b);
	assert_int_equal(state_of(gl), UN);
	assert_int_equal(gfs2_glock_work_due(t), UINT64_MAX);
	notes("sync inval:all");
	gfs2_glock_put(gl);
	gfs2_glock_table_destroy(t);
}

/* --- try requests --- */

static int try_nq(struct gfs2_glock *gl, enum lm_state s, unsigned flags)
{
	struct gfs2_holder gh;
	int error;

	init_holder(gl, s, flags, &gh);
	error = gfs2_glock_nq(&gh);
	assert_int_equal(gfs2_holder_queued(&gh), !error);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

static void test_try(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b;
	struct waiter w;

	/* One question to the module, with the flag, and its refusal is final. */
	start_waiter(gl, SH, LM_FLAG_TRY | GL_SKIP, &w);
	await(atomic_load(&lm.requests) == 1);
	assert_int_equal(atomic_load(&lm.flags), LM_FLAG_TRY);
	gfs2_glock_complete(gl, UN);
	assert_int_equal(end_waiter(&w), GLR_TRYFAILED);
	notes("sync lock:SH:try");

	/* DF makes caches go; the request that it is for survives that. */
	cache_state(gl, SH);
	start_waiter(gl, DF, LM_FLAG_TRY_1CB | GL_SKIP, &w);
	await(atomic_load(&lm.requests) == 1);
	assert_int_equal(atomic_load(&lm.flags), LM_FLAG_TRY_1CB);
	gfs2_glock_complete(gl, SH);
	assert_int_equal(end_waiter(&w), GLR_TRYFAILED);
	assert_int_equal(state_of(gl), SH);
	notes("sync inval:data lock:DF");

	/* Behind a holder, behind a waiter; granted when it fits. */
	queue(gl, SH, GL_SKIP, &a);
	assert_int_equal(try_nq(gl, EX, LM_FLAG_TRY), GLR_TRYFAILED);
	assert_int_equal(try_nq(gl, SH, LM_FLAG_TRY | GL_SKIP), 0);
	queue(gl, EX, GL_SKIP, &b);
	assert_int_equal(try_nq(gl, SH, LM_FLAG_TRY), GLR_TRYFAILED);
	/* Behind a request of somebody else. */
	gfs2_glock_dq_uninit(&a);
	await(atomic_load(&lm.requests) == 2);
	assert_int_equal(try_nq(gl, SH, LM_FLAG_TRY), GLR_TRYFAILED);
	gfs2_glock_complete(gl, EX);
	assert_true(granted(&b));
	/* A demotion is wanted: it will not be waited for. */
	gfs2_glock_cb(gl, UN, false);
	assert_int_equal(try_nq(gl, SH, LM_FLAG_TRY), GLR_TRYFAILED);
	gfs2_glock_dq_uninit(&b);
	answer(gl, 3, UN, UN);
	gfs2_glock_put(gl);
}

/* Neither while caches are written or dropped. */
static void test_try_sync(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);

	cache_state(gl, EX);
	atomic_store(&ty.sync_started, false);
	atomic_store(&ty.sync_slow, true);
	gfs2_glock_cb(gl, UN, false);
	await(atomic_load(&ty.sync_started));
	assert_true(flags_of(gl) & FLAG(GLF_INVALIDATE_IN_PROGRESS));
	assert_int_equal(try_nq(gl, EX, LM_FLAG_TRY), GLR_TRYFAILED);
	atomic_store(&ty.sync_slow, false);
	answer(gl, 1, UN, UN);
	assert_false(flags_of(gl) & FLAG(GLF_INVALIDATE_IN_PROGRESS));
	gfs2_glock_put(gl);
}

/* Try requests may wait for one another's answer, but not for that of a plain one. */
/* What can be written under EX only: one try for EX before each transition that gives DF or SH up, which keeps nobody waiting. */
static void test_raise(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder gh;

	cache_state(gl, DF);
	atomic_store(&gl->gl_wants_ex, true);
	gfs2_glock_cb(gl, SH, false);
	await(atomic_load(&lm.requests) == 1);
	assert_int_equal(atomic_load(&lm.flags), LM_FLAG_TRY);
	/* Others have it in DF, too: SH could not be had from there, so it goes down altogether. */
	answer(gl, 1, EX, DF);
	answer(gl, 2, UN, UN);
	assert_int_equal(atomic_load(&lm.flags), 0);
	notes("sync lock:EX:try sync inval:all lock:UN");

	/* Granted: go_sync has EX before it goes.  A holder is served by that. */
	cache_state(gl, DF);
	gfs2_glock_cb(gl, SH, false);
	answer(gl, 1, EX, EX);
	answer(gl, 2, SH, SH);
	assert_int_equal(state_of(gl), SH);
	queue(gl, DF, GL_SKIP, &gh);
	answer(gl, 3, EX, EX);
	assert_true(granted(&gh));
	gfs2_glock_dq_uninit(&gh);
	notes("sync lock:EX:try sync lock:SH sync lock:EX:try");
	assert_int_equal(atomic_load(&lm.requests), 3);

	/* An error is no reason to try for ever, and nothing to try for none to try at all. */
	cache_state(gl, SH);
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 1, EX, SH | LM_OUT_ERROR);
	answer(gl, 2, UN, UN);
	cache_state(gl, DF);
	atomic_store(&gl->gl_wants_ex, false);
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 1, UN, UN);
	gfs2_glock_put(gl);
}

/* GL_TRY_OTHERS: holders of this node are waited for, other nodes are not. */
static void test_try_others(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b, c;

	cache_state(gl, DF);
	queue(gl, DF, GL_SKIP, &b);
	queue(gl, EX, GL_TRY_OTHERS | GL_SKIP, &a);
	assert_false(gfs2_glock_poll(&a));
	gfs2_glock_dq_uninit(&b);
	await(atomic_load(&lm.requests) == 1);
	assert_int_equal(atomic_load(&lm.flags), LM_FLAG_TRY);
	/* Who comes later is served afterwards, and may wait. */
	queue(gl, EX, GL_SKIP, &c);
	answer(gl, 1, EX, DF);
	assert_int_equal(gfs2_glock_wait(&a), GLR_TRYFAILED);
	await(atomic_load(&lm.requests) == 2);
	assert_int_equal(atomic_load(&lm.flags), 0);
	/* One who does not want to wait takes no part in a request that may. */
	gfs2_holder_uninit(&a);
	queue(gl, EX, GL_TRY_OTHERS | GL_SKIP, &a);
	gfs2_glock_dq(&c);
	answer(gl, 2, EX, DF | LM_OUT_CANCELED);
	gfs2_holder_uninit(&c);
	await(atomic_load(&lm.requests) == 3);
	assert_int_equal(atomic_load(&lm.flags), LM_FLAG_TRY);
	answer(gl, 3, EX, EX);
	assert_true(granted(&a));
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_put(gl);
}

static void test_try_queue(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b, c;

	cache_state(gl, SH);
	gfs2_glock_cb(gl, UN, false);
	await(phase_of(gl) == GLP_WAIT);
	assert_int_equal(try_nq(gl, EX, LM_FLAG_TRY), GLR_TRYFAILED);
	answer(gl, 1, UN, UN);
	queue(gl, EX, LM_FLAG_TRY, &a);
	await(phase_of(gl) == GLP_WAIT);
	queue(gl, SH, LM_FLAG_TRY, &b);
	queue(gl, SH, 0, &c);
	assert_false(gfs2_glock_poll(&a) || gfs2_glock_poll(&b) || gfs2_glock_poll(&c));
	answer(gl, 2, EX, UN);
	assert_int_equal(gfs2_glock_wait(&a), GLR_TRYFAILED);
	assert_int_equal(gfs2_glock_wait(&b), GLR_TRYFAILED);
	answer(gl, 3, SH, SH);
	assert_true(granted(&c));
	gfs2_holder_uninit(&a);
	gfs2_holder_uninit(&b);
	gfs2_glock_dq_uninit(&c);
	gfs2_glock_put(gl);
}

/* --- demote requests --- */

static void test_bast_before_grant(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;

	queue(gl, EX, 0, &a);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_cb(gl, SH, true);
	answer(gl, 1, EX, EX);
	/* Used once, although others want it already; later ones wait. */
	assert_true(granted(&a));
	queue(gl, SH, 0, &b);
	assert_false(granted(&b));
	gfs2_glock_dq_uninit(&a);
	answer(gl, 2, SH, SH);
	assert_true(granted(&b));
	assert_false(flags_of(gl) & FLAG(GLF_DEMOTE));
	gfs2_glock_dq_uninit(&b);
	notes("sync lock:EX sync lock:SH");
	gfs2_glock_put(gl);
}

static void test_bast_merge(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a;

	/* Two wishes that differ: nothing less than UN serves both. */
	cache_state(gl, EX);
	queue(gl, EX, 0, &a);
	gfs2_glock_cb(gl, SH, true);
	gfs2_glock_cb(gl, SH, true);
	gfs2_glock_cb(gl, DF, true);
	gfs2_glock_cb(gl, SH, true);
	gfs2_glock_dq_uninit(&a);
	answer(gl, 1, UN, UN);
	notes("sync inval:all lock:UN");

	/* UN is asked for while the way to SH is under way. */
	cache_state(gl, EX);
	gfs2_glock_cb(gl, SH, true);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_cb(gl, UN, true);
	answer(gl, 1, SH, SH);
	answer(gl, 2, UN, UN);
	notes("sync lock:SH sync inval:all lock:UN");

	/* Late ones: what they complain about is gone. */
	gfs2_glock_cb(gl, UN, true);
	gfs2_glock_cb(gl, SH, true);
	cache_state(gl, SH);
	gfs2_glock_cb(gl, SH, true);
	assert_int_equal(flags_of(gl) & (FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE)), 0);
	notes("");
	gfs2_glock_put(gl);
}

/* A waiter and a demote request: the other node first, then the waiter, from UN. */
static void test_demote_then_promote(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;

	cache_state(gl, SH);
	queue(gl, SH, 0, &a);
	gfs2_glock_cb(gl, UN, true);
	queue(gl, SH, 0, &b);
	assert_false(granted(&b));
	gfs2_glock_dq_uninit(&a);
	answer(gl, 1, UN, UN);
	answer(gl, 2, SH, SH);
	assert_true(granted(&b));
	gfs2_glock_dq_uninit(&b);
	notes("sync inval:all lock:UN sync lock:SH");
	gfs2_glock_put(gl);
}

static uint64_t test_time;
static uint64_t test_clock(void)
{
	return __atomic_load_n(&test_time, __ATOMIC_SEQ_CST);
}

static void set_time(uint64_t ns)
{
	__atomic_store_n(&test_time, ns, __ATOMIC_SEQ_CST);
	gfs2_glock_table_tick(table);
}

static uint64_t turn_ends(struct gfs2_glock *gl)
{
	uint64_t ends;

	rmutex_lock(&gl->gl_lock);
	ends = glock_turn_ends(gl);
	rmutex_unlock(&gl->gl_lock);
	return ends;
}

static uint64_t hold_of(struct gfs2_glock *gl)
{
	uint64_t ns;

	rmutex_lock(&gl->gl_lock);
	ns = gl->gl_hold_ns;
	rmutex_unlock(&gl->gl_lock);
	return ns;
}

/* The lock is given up, which takes that long. */
static void give_up(struct gfs2_glock *gl, unsigned nr, uint64_t from, uint64_t cost)
{
	await(phase_of(gl) == GLP_WAIT);
	set_time(from + cost);
	answer(gl, nr, UN, UN);
	await(phase_of(gl) == GLP_IDLE);
}

/* The tunable: as long as it says, idle or not; an idle lock goes at once. */
static void test_min_hold(void **state)
{
	const uint64_t ms = 1000000;
	const unsigned long wanted = FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE);
	struct gfs2_glock *gl;
	struct gfs2_holder a;

	set_time(1000 * ms);
	gfs2_glock_table_set_clock(table, test_clock);
	assert_true(gfs2_glock_table_min_hold(table) == GLOCK_HOLD_AUTO);
	gfs2_glock_table_set_min_hold(table, 200 * ms);
	gl = gfs2_glock_get(table, 1, &inode_ops);
	cache_state(gl, EX);
	rmutex_lock(&gl->gl_lock);
	gl->gl_gap = true;
	assert_int_equal(glock_hold_left(gl, 1000 * ms), 0);
	gl->gl_gap = false;
	rmutex_unlock(&gl->gl_lock);
	queue(gl, EX, GL_SKIP, &a);
	set_time(1001 * ms);
	gfs2_glock_cb(gl, UN, true);
	gfs2_glock_dq_uninit(&a);
	assert_int_equal(flags_of(gl) & wanted, FLAG(GLF_PENDING_DEMOTE));
	assert_int_equal(turn_ends(gl), 1200 * ms);
	set_time(1199 * ms);
	assert_int_equal(flags_of(gl) & wanted, FLAG(GLF_PENDING_DEMOTE));
	set_time(1200 * ms);
	give_up(gl, 1, 1200 * ms, 0);
	/* Back to what was measured; 0 is not. */
	gfs2_glock_table_set_min_hold(table, GLOCK_HOLD_AUTO);
	rmutex_lock(&gl->gl_lock);
	assert_int_equal(glock_turn(gl), ms);
	rmutex_unlock(&gl->gl_lock);
	gfs2_glock_table_set_min_hold(table, 0);
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 2, EX, EX);
	gfs2_glock_cb(gl, UN, true);
	assert_int_equal(flags_of(gl) & wanted, FLAG(GLF_DEMOTE));
	gfs2_glock_dq_uninit(&a);
	answer(gl, 3, UN, UN);
	gfs2_glock_put(gl);
}

static void test_turn(void **state)
{
	const uint64_t us = 1000, ms = 1000000;
	const unsigned long wanted = FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE);
	uint64_t now = 5115 * ms;
	struct gfs2_glock *gl, *plain;
	struct gfs2_holder a, b;

	set_time(1000 * ms);
	gfs2_glock_table_set_clock(table, test_clock);
	gl = gfs2_glock_get(table, 1, &inode_ops);
	plain = gfs2_glock_get(table, 2, &plain_ops);
	cache_state(gl, EX);

	rmutex_lock(&gl->gl_lock);
	assert_int_equal(glock_hold_left(gl, 1000 * ms), 0); /* idle: goes at once */
	rmutex_unlock(&gl->gl_lock);
	queue(gl, EX, GL_SKIP, &a);
	rmutex_lock(&gl->gl_lock);
	assert_int_equal(glock_hold_left(gl, 1000 * ms), 5 * ms);
	assert_int_equal(glock_hold_left(gl, 1003 * ms), 2 * ms);
	assert_int_equal(glock_hold_left(gl, 1005 * ms), 0);
	rmutex_unlock(&gl->gl_lock);

	set_time(1001 * ms);
	gfs2_glock_cb(gl, UN, true);
	assert_int_equal(flags_of(gl) & wanted, FLAG(GLF_PENDING_DEMOTE));
	assert_int_equal(turn_ends(gl), 1005 * ms);
	/* Idle: not much longer, unless somebody comes. */
	gfs2_glock_dq_uninit(&a);
	assert_int_equal(turn_ends(gl), 1001 * ms + 625 * us);
	set_time(1001 * ms + 500 * us);
	queue(gl, SH, GL_SKIP, &b);
	assert_true(granted(&b));
	assert_int_equal(turn_ends(gl), 1005 * ms);
	set_time(1004 * ms + 900 * us);
	assert_int_equal(flags_of(gl) & wanted, FLAG(GLF_PENDING_DEMOTE));
	set_time(1005 * ms);
	await(flags_of(gl) & FLAG(GLF_DEMOTE));
	assert_false(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	/* Turns are as long as what they cost wants it: four times, from the first one on. */
	gfs2_glock_dq_uninit(&b);
	give_up(gl, 1, 1005 * ms, 3 * ms);
	assert_int_equal(hold_of(gl), 12 * ms);

	/* Before the grant: the time starts with the grant. */
	queue(gl, EX, GL_SKIP, &a);
	await(phase_of(gl) == GLP_WAIT);
	set_time(4000 * ms);
	gfs2_glock_cb(gl, UN, true);
	set_time(5000 * ms);
	answer(gl, 2, EX, EX);
	assert_true(granted(&a));
	assert_int_equal(turn_ends(gl), 5012 * ms);
	set_time(5011 * ms);
	gfs2_glock_dq_uninit(&a);
	/* The end of the turn is the end, idle or not. */
	assert_int_equal(turn_ends(gl), 5012 * ms);
	assert_true(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	assert_int_equal(phase_of(gl), GLP_IDLE);
	set_time(5012 * ms);
	/* They are smoothed, and do not grow beyond what somebody who waits would notice. */
	give_up(gl, 3, 5012 * ms, 100 * ms);
	assert_int_equal(hold_of(gl), 20 * ms);

	/* Nobody comes any more: the end comes early, by itself. */
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 4, EX, EX);
	gfs2_glock_cb(gl, UN, true);
	gfs2_glock_dq_uninit(&a);
	assert_int_equal(flags_of(gl) & wanted, FLAG(GLF_PENDING_DEMOTE));
	set_time(5112 * ms + 2500 * us);
	for (unsigned nr = 5; nr < 45; nr++) {
		give_up(gl, nr, now, 0);
		/* Long after. */
		set_time(now += 500 * ms);
		queue(gl, EX, GL_SKIP, &a);
		answer(gl, ++nr, EX, EX);
		gfs2_glock_dq_uninit(&a);
		gfs2_glock_cb(gl, UN, true);
	}
	give_up(gl, 45, now, 0);
	/* Nor do they become so short that nothing is done in them. */
	assert_int_equal(hold_of(gl), 1 * ms);

	/* What is to be done now is not held up by what is to be done later. */
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 46, EX, EX);
	gfs2_glock_cb(gl, UN, true);
	gfs2_glock_dq_uninit(&a);
	assert_true(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 47, UN, UN);
	assert_int_equal(flags_of(gl) & wanted, 0);

	/* Other types, and requests of our own, have none. */
	cache_state(plain, EX);
	queue(plain, EX, 0, &a);
	gfs2_glock_cb(plain, UN, true);
	assert_true(flags_of(plain) & FLAG(GLF_DEMOTE));
	gfs2_glock_dq_uninit(&a);
	answer(plain, 1, UN, UN);
	cache_state(gl, EX);
	queue(gl, EX, GL_SKIP, &a);
	gfs2_glock_cb(gl, UN, false);
	assert_true(flags_of(gl) & FLAG(GLF_DEMOTE));
	gfs2_glock_dq_uninit(&a);
	answer(gl, 1, UN, UN);
	gfs2_glock_put(gl);
	gfs2_glock_put(plain);
}

/* One who makes one call after the other: between two of them the lock is idle, and no question should find it so. */
static void test_gap(void **state)
{
	const uint64_t us = 1000, ms = 1000000;
	struct gfs2_glock *gl;
	struct gfs2_holder a;

	set_time(1000 * ms);
	gfs2_glock_table_set_clock(table, test_clock);
	gl = gfs2_glock_get(table, 1, &inode_ops);
	cache_state(gl, EX);

	/* Asked for again so soon that it had better been kept for an eighth of the turn. */
	gfs2_glock_cb(gl, UN, true);
	give_up(gl, 1, 1000 * ms, 3 * ms);
	assert_int_equal(hold_of(gl), 12 * ms);
	set_time(1001 * ms);
	queue(gl, EX, GL_SKIP, &a);
	set_time(1004 * ms);
	answer(gl, 2, EX, EX);
	gfs2_glock_dq_uninit(&a);
	/* So now it is. */
	set_time(1005 * ms);
	gfs2_glock_cb(gl, UN, true);
	assert_true(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	assert_int_equal(turn_ends(gl), 1006 * ms + 500 * us);
	set_time(1006 * ms);
	queue(gl, EX, GL_SKIP, &a);
	assert_true(granted(&a));
	assert_int_equal(turn_ends(gl), 1016 * ms);
	gfs2_glock_dq_uninit(&a);
	assert_int_equal(turn_ends(gl), 1007 * ms + 500 * us);
	/* Until nobody comes. */
	set_time(1007 * ms + 500 * us);
	give_up(gl, 3, 1007 * ms + 500 * us, 3 * ms);
	set_time(1011 * ms);
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 4, EX, EX);
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_cb(gl, UN, true);
	assert_false(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	give_up(gl, 5, 1011 * ms, 3 * ms);

	/* Too late: whoever else has it meanwhile has not kept us waiting. */
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 6, EX, EX);
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_cb(gl, UN, true);
	assert_false(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	give_up(gl, 7, 1014 * ms, 3 * ms);

	/* In use without a holder. */
	set_time(1020 * ms);
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 8, EX, EX);
	gfs2_glock_use(gl);
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_cb(gl, UN, true);
	assert_true(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	assert_int_equal(turn_ends(gl), 1032 * ms);
	set_time(1022 * ms);
	gfs2_glock_unuse(gl);
	assert_int_equal(turn_ends(gl), 1023 * ms + 500 * us);
	gfs2_glock_use(gl);
	assert_int_equal(turn_ends(gl), 1032 * ms);
	/* The end of the turn is the end. */
	set_time(1032 * ms);
	give_up(gl, 9, 1032 * ms, 3 * ms);
	gfs2_glock_unuse(gl);
	gfs2_glock_put(gl);
}

/* --- what the module can answer --- */

static void test_deadlock(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a;

	cache_state(gl, SH);
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 1, EX, SH); /* -EDEADLK: still SH */
	answer(gl, 2, UN, UN);
	assert_true(flags_of(gl) & FLAG(GLF_INSTANTIATE_NEEDED));
	answer(gl, 3, EX, EX);
	assert_true(granted(&a));
	notes("sync lock:EX sync inval:all lock:UN sync lock:EX");
	gfs2_glock_dq_uninit(&a);

	/* A demotion that is refused goes all the way. */
	cache_state(gl, SH);
	gfs2_glock_cb(gl, DF, true);
	answer(gl, 1, DF, SH);
	answer(gl, 2, UN, UN);
	notes("sync inval:data lock:DF sync inval:all lock:UN");

	/* Refused without anything held: simply again. */
	queue(gl, EX, GL_SKIP, &a);
	answer(gl, 3, EX, UN);
	answer(gl, 4, EX, EX);
	assert_true(granted(&a));
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_put(gl);
}

static void test_cancel(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;
	struct waiter w;

	/* Cancelled in time. */
	queue(gl, EX, 0, &a);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_dq(&a);
	assert_int_equal(a.gh_error, -ECANCELED);
	await(atomic_load(&lm.cancels) == 1);
	answer(gl, 1, EX, UN | LM_OUT_CANCELED);
	assert_int_equal(phase_of(gl), GLP_IDLE);
	assert_int_equal(state_of(gl), UN);
	/* The grant was faster. */
	assert_int_equal(gfs2_glock_nq(&a), 0);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_dq_uninit(&a);
	await(atomic_load(&lm.cancels) == 2);
	answer(gl, 2, EX, EX);
	assert_int_equal(state_of(gl), EX);
	notes("sync lock:EX cancel sync lock:EX cancel");

	/* The next waiter can use the answer: not cancelled.  A waiter that is not first just goes. */
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 3, UN, UN);
	clear_notes();
	queue(gl, EX, 0, &a);
	await(phase_of(gl) == GLP_WAIT);
	queue(gl, SH, 0, &b);
	gfs2_glock_dq_uninit(&a);
	answer(gl, 4, EX, EX);
	assert_true(granted(&b));
	queue(gl, EX, 0, &a);
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_dq_uninit(&b);
	notes("sync lock:EX");

	/* The next one wants something else: it is asked for after the cancel. */
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 5, UN, UN);
	queue(gl, SH, 0, &a);
	await(phase_of(gl) == GLP_WAIT);
	queue(gl, EX, 0, &b);
	clear_notes();
	gfs2_glock_dq_uninit(&a);
	await(atomic_load(&lm.cancels) == 3);
	answer(gl, 6, SH, UN | LM_OUT_CANCELED);
	answer(gl, 7, EX, EX);
	assert_true(granted(&b));
	notes("cancel sync lock:EX");
	gfs2_glock_dq_uninit(&b);

	/* A module that cancels by itself: the waiter is still there, so it is asked again. */
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 8, UN, UN);
	queue(gl, SH, 0, &a);
	answer(gl, 9, SH, UN | LM_OUT_CANCELED);
	answer(gl, 10, SH, SH);
	assert_true(granted(&a));
	gfs2_glock_dq_uninit(&a);

	/* A thread that sleeps for it. */
	start_waiter(gl, EX, 0, &w);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_dq(&w.gh);
	assert_int_equal(end_waiter(&w), -ECANCELED);
	answer(gl, 11, EX, SH | LM_OUT_CANCELED);
	assert_int_equal(state_of(gl), SH);
	gfs2_glock_put(gl);
}

/* Cancelled before the module has been asked, or has done so: it is told when it has something to take back, and only then. */
static void test_cancel_early(void **state)
{
	for (unsigned answered = 0; answered < 2; answered++) {
		struct gfs2_glock *gl = gfs2_glock_get(table, answered + 1, &plain_ops);
		unsigned requests = atomic_load(&lm.requests);
		struct gfs2_holder a;

		atomic_store(&lm.slow, true);
		queue(gl, EX, 0, &a);
		await(atomic_load(&lm.requests) == requests + 1);
		gfs2_glock_dq_uninit(&a);
		assert_int_equal(atomic_load(&lm.cancels), 0);
		/* The answer is faster than the request's return: nothing is left to be taken back. */
		if (answered)
			gfs2_glock_complete(gl, EX);
		atomic_store(&lm.slow, false);
		if (!answered) {
			await(atomic_load(&lm.cancels) == 1);
			gfs2_glock_complete(gl, UN | LM_OUT_CANCELED);
		}
		await(phase_of(gl) == GLP_IDLE);
		assert_int_equal(state_of(gl), answered ? EX : UN);
		notes(answered ? "sync lock:EX" : "sync lock:EX cancel");
		atomic_store(&lm.cancels, 0);
		gfs2_glock_put(gl);
	}
}

/* Cancelled while go_sync runs: nothing is asked at all. */
static void test_abandon(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a;

	cache_state(gl, SH);
	atomic_store(&ty.sync_started, false);
	atomic_store(&ty.sync_slow, true);
	queue(gl, EX, 0, &a);
	await(atomic_load(&ty.sync_started));
	gfs2_glock_dq_uninit(&a);
	atomic_store(&ty.sync_slow, false);
	await(phase_of(gl) == GLP_IDLE);
	assert_int_equal(state_of(gl), SH);
	notes("sync");
	gfs2_glock_put(gl);
}

static void test_errors(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;

	queue(gl, EX, 0, &a);
	queue(gl, SH, 0, &b);
	answer(gl, 1, EX, UN | LM_OUT_ERROR);
	assert_int_equal(gfs2_glock_wait(&a), -EIO);
	assert_int_equal(gfs2_glock_wait(&b), -EIO);
	gfs2_holder_uninit(&a);
	gfs2_holder_uninit(&b);

	/* What cannot be written is not given up. */
	cache_state(gl, EX);
	atomic_store(&ty.sync_error, -ENOSPC);
	gfs2_glock_cb(gl, UN, true);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	assert_int_equal(state_of(gl), EX);
	notes("sync");
	queue(gl, SH, GL_EXACT, &a);
	await(gfs2_glock_poll(&a));
	assert_int_equal(gfs2_glock_wait(&a), -EIO);
	assert_int_equal(state_of(gl), EX);
	atomic_store(&ty.sync_error, 0);
	gfs2_holder_uninit(&a);
	notes("sync");
	gfs2_glock_put(gl);
}

/* --- nq_fast --- */

static bool fast(struct gfs2_glock *gl, enum lm_state s, unsigned flags)
{
	struct gfs2_holder gh;
	bool ok;

	init_holder(gl, s, flags, &gh);
	ok = gfs2_glock_nq_fast(&gh);
	assert_int_equal(gfs2_holder_queued(&gh), ok);
	gfs2_glock_dq_uninit(&gh);
	return ok;
}

/*
 * The module has lost the old state on the way to the new one: nobody is granted it, what it let be cached goes, and it is given up before
 * anything else is asked for.
 */
static void test_lost(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b;

	/* Refused; one who wants the old state waits behind, and is not to get it. */
	cache_state(gl, SH);
	queue(gl, DF, GL_SKIP, &a);
	await(phase_of(gl) == GLP_WAIT);
	queue(gl, SH, GL_SKIP, &b);
	answer(gl, 1, DF, SH | LM_OUT_LOST);
	await(atomic_load(&lm.requests) == 2);
	assert_false(gfs2_glock_poll(&a) || gfs2_glock_poll(&b) || fast(gl, SH, GL_SKIP));
	answer(gl, 2, UN, UN);
	answer(gl, 3, DF, DF);
	assert_true(granted(&a) && !gfs2_glock_poll(&b));
	gfs2_glock_dq_uninit(&a);
	answer(gl, 4, SH, SH);
	assert_true(granted(&b));
	gfs2_glock_dq_uninit(&b);
	notes("sync inval:data lock:DF sync inval:all lock:UN sync inval:data lock:DF sync lock:SH");

	/* The one who wants it has come first. */
	cache_state(gl, SH);
	gfs2_glock_cb(gl, DF, false);
	await(phase_of(gl) == GLP_WAIT);
	queue(gl, SH, GL_SKIP, &b);
	answer(gl, 1, DF, SH | LM_OUT_LOST);
	await(atomic_load(&lm.requests) == 2);
	assert_false(gfs2_glock_poll(&b));
	answer(gl, 2, UN, UN);
	answer(gl, 3, SH, SH);
	assert_true(granted(&b));
	gfs2_glock_dq_uninit(&b);

	/* Taken back, and nobody else is there. */
	cache_state(gl, DF);
	queue(gl, SH, GL_SKIP, &a);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_dq_uninit(&a);
	answer(gl, 1, SH, DF | LM_OUT_CANCELED | LM_OUT_LOST);
	answer(gl, 2, UN, UN);
	assert_int_equal(state_of(gl), UN);
	notes("sync lock:SH cancel sync inval:all lock:UN");

	/* Who only tried. */
	cache_state(gl, SH);
	queue(gl, DF, LM_FLAG_TRY | GL_SKIP, &a);
	answer(gl, 1, DF, SH | LM_OUT_LOST);
	assert_int_equal(gfs2_glock_wait(&a), GLR_TRYFAILED);
	gfs2_holder_uninit(&a);
	answer(gl, 2, UN, UN);

	/* Errors; when the way down fails, too, it is not tried for ever, but before the next one gets anything. */
	cache_state(gl, SH);
	queue(gl, DF, GL_SKIP, &a);
	answer(gl, 1, DF, SH | LM_OUT_ERROR | LM_OUT_LOST);
	assert_int_equal(gfs2_glock_wait(&a), -EIO);
	gfs2_holder_uninit(&a);
	answer(gl, 2, UN, SH | LM_OUT_ERROR | LM_OUT_LOST);
	assert_int_equal(phase_of(gl), GLP_IDLE);
	assert_false(fast(gl, SH, GL_SKIP));
	clear_notes();
	queue(gl, SH, GL_SKIP, &a);
	answer(gl, 3, UN, UN);
	answer(gl, 4, SH, SH);
	assert_true(granted(&a));
	gfs2_glock_dq_uninit(&a);
	assert_true(fast(gl, SH, GL_SKIP));
	notes("sync inval:all lock:UN sync lock:SH");
	gfs2_glock_put(gl);
}

/* What can be written under EX only is tried before; EX is worth as much from there. */
static void test_lost_with_a_time_to_publish(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a;

	for (unsigned raised = 0; raised < 2; raised++) {
		cache_state(gl, DF);
		atomic_store(&gl->gl_wants_ex, true);
		queue(gl, SH, GL_SKIP, &a);
		answer(gl, 1, EX, DF);
		answer(gl, 2, SH, DF | LM_OUT_LOST);
		answer(gl, 3, EX, raised ? (int)EX : (int)DF | LM_OUT_LOST);
		assert_false(gfs2_glock_poll(&a));
		answer(gl, 4, UN, UN);
		answer(gl, 5, SH, SH);
		assert_true(granted(&a));
		notes("sync lock:EX:try sync lock:SH sync lock:EX:try sync inval:all lock:UN sync lock:SH");
		atomic_store(&gl->gl_wants_ex, false);
		gfs2_glock_dq_uninit(&a);
	}
	gfs2_glock_put(gl);
}

/* Nothing is given up after a withdraw, and this is held by nobody any more, not even by who goes on through a recovery. */
static void test_lost_and_withdrawn(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a;

	cache_state(gl, SH);
	gfs2_glock_cb(gl, DF, true);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_table_withdraw(table);
	queue(gl, SH, LM_FLAG_NOEXP, &a);
	answer(gl, 1, DF, SH | LM_OUT_LOST);
	assert_int_equal(gfs2_glock_wait(&a), -EIO);
	gfs2_holder_uninit(&a);
	assert_false(fast(gl, SH, LM_FLAG_NOEXP));
	assert_int_equal(try_nq(gl, SH, LM_FLAG_NOEXP), -EIO);
	assert_int_equal(try_nq(gl, SH, LM_FLAG_NOEXP | LM_FLAG_TRY), -EIO);
	assert_int_equal(atomic_load(&lm.requests), 1);
	gfs2_glock_put(gl);
	/* teardown: it is dropped, without the module. */
}

static void test_fast(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b;

	assert_false(fast(gl, SH, 0)); /* nothing held */
	notes("");
	cache_state(gl, EX);	       /* that instantiated the object */
	assert_true(fast(gl, EX, 0) && fast(gl, DF, 0) && fast(gl, SH, 0));
	assert_false(fast(gl, SH, GL_EXACT));
	notes("");		       /* not even go_held */

	init_holder(gl, DF, 0, &a);
	assert_true(gfs2_glock_nq_fast(&a));
	assert_true(fast(gl, DF, 0));
	assert_false(fast(gl, SH, 0) || fast(gl, EX, 0));
	queue(gl, EX, 0, &b);
	assert_false(fast(gl, DF, 0)); /* somebody waits */
	gfs2_glock_dq(&b);
	assert_true(fast(gl, DF, 0));
	gfs2_glock_cb(gl, UN, true);
	assert_true(flags_of(gl) & FLAG(GLF_PENDING_DEMOTE));
	assert_false(fast(gl, DF, 0)); /* a demotion is pending */
	gfs2_glock_cb(gl, UN, false);
	assert_false(fast(gl, DF, 0));
	gfs2_glock_dq_uninit(&a);
	await(phase_of(gl) == GLP_WAIT);
	assert_false(fast(gl, EX, 0)); /* running */
	answer(gl, 1, UN, UN);
	gfs2_holder_uninit(&b);

	queue(gl, SH, GL_SKIP, &a);
	answer(gl, 2, SH, SH);
	assert_false(fast(gl, SH, 0)); /* the object has not been read */
	assert_true(fast(gl, SH, GL_SKIP));
	/* Somebody has the lock of the glock itself. */
	rmutex_lock(&gl->gl_lock);
	init_holder(gl, SH, GL_SKIP, &b);
	assert_false(gfs2_glock_nq_fast(&b));
	rmutex_unlock(&gl->gl_lock);
	gfs2_holder_uninit(&b);
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_put(gl);
}

/* A holder on the caller's reference leaves the count alone, whatever becomes of it. */
static void test_borrowed(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b;
	unsigned refs;

	cache_state(gl, EX);
	refs = atomic_load(&gl->gl_ref);
	init_holder(gl, DF, GL_BORROWED, &a);
	assert_int_equal(atomic_load(&gl->gl_ref), refs);
	assert_true(gfs2_glock_nq_fast(&a));
	assert_int_equal(atomic_load(&gl->gl_ref), refs);

	/* Waits, and is taken back. */
	queue(gl, EX, GL_BORROWED, &b);
	assert_false(gfs2_glock_poll(&b));
	gfs2_glock_dq_uninit(&b);
	/* Does not even wait. */
	init_holder(gl, EX, GL_BORROWED | LM_FLAG_TRY, &b);
	assert_int_equal(gfs2_glock_nq(&b), GLR_TRYFAILED);
	gfs2_holder_uninit(&b);
	assert_int_equal(atomic_load(&gl->gl_ref), refs);
	/* Keeps its glock where it is, by what the cluster has granted. */
	gfs2_glock_dq_uninit(&a);
	assert_int_equal(atomic_load(&gl->gl_ref), refs);
	assert_int_equal(state_of(gl), EX);
	notes("");
	gfs2_glock_put(gl);
}

/* --- instantiate, go_held, gh_granted --- */

static void test_instantiate(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct waiter w[3];

	atomic_store(&lm.automatic, true);
	assert_int_equal(try_nq(gl, SH, GL_SKIP), 0);
	assert_int_equal(atomic_load(&ty.inst_calls), 0);
	/* Three want it: one reads, all wait for that. */
	atomic_store(&ty.inst_slow, true);
	for (int i = 0; i < 3; i++)
		start_waiter(gl, SH, 0, &w[i]);
	await(atomic_load(&ty.inst_started));
	assert_true(flags_of(gl) & FLAG(GLF_INSTANTIATE_IN_PROG));
	assert_false(atomic_load(&w[0].done) || atomic_load(&w[1].done) || atomic_load(&w[2].done));
	atomic_store(&ty.inst_slow, false);
	for (int i = 0; i < 3; i++)
		assert_int_equal(end_waiter(&w[i]), 0);
	assert_int_equal(atomic_load(&ty.inst_calls), 1);
	assert_int_equal(try_nq(gl, SH, 0), 0);
	assert_int_equal(atomic_load(&ty.inst_calls), 1);

	/* A failure is the holder's, and the next one tries for himself. */
	gfs2_glock_cb(gl, UN, false);
	gfs2_glock_wait_demoted(gl, 60000000000ull);
	atomic_store(&ty.inst_error, -ESTALE);
	assert_int_equal(try_nq(gl, SH, 0), -ESTALE);
	assert_true(flags_of(gl) & FLAG(GLF_INSTANTIATE_NEEDED));
	atomic_store(&ty.inst_error, 0);
	assert_int_equal(try_nq(gl, SH, 0), 0);
	assert_int_equal(atomic_load(&ty.inst_calls), 3);
	atomic_store(&ty.held_error, -EIO);
	assert_int_equal(try_nq(gl, SH, 0), -EIO);
	atomic_store(&ty.held_error, 0);
	gfs2_glock_put(gl);
}

static atomic_uint granted_calls;
static void on_granted(struct gfs2_holder *gh)
{
	note("granted:%d", gh->gh_error);
	atomic_fetch_add(&granted_calls, 1);
}

static void test_granted_callback(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b;

	atomic_store(&granted_calls, 0);
	init_holder(gl, EX, GL_ASYNC, &a);
	a.gh_granted = on_granted;
	assert_int_equal(gfs2_glock_nq(&a), 0);
	await(phase_of(gl) == GLP_WAIT);
	assert_int_equal(atomic_load(&granted_calls), 0);
	gfs2_glock_complete(gl, EX);
	await(atomic_load(&granted_calls) == 1);
	/* The object was read, and not by the thread that brought the answer. */
	assert_false(pthread_equal(ty.inst_thread, pthread_self()));
	notes("sync lock:EX inst held:EX granted:0");
	assert_false(gfs2_glock_cancel(&a));

	/* Behind it: dq makes the next one's call.  GL_SKIP needs no worker. */
	init_holder(gl, SH, GL_ASYNC | GL_SKIP, &b);
	b.gh_granted = on_granted;
	assert_int_equal(gfs2_glock_nq(&b), 0);
	gfs2_glock_dq_uninit(&a);
	assert_int_equal(atomic_load(&granted_calls), 2);
	notes("granted:0");

	/* Taken back while it waits: no call. */
	init_holder(gl, EX, GL_ASYNC, &a);
	a.gh_granted = on_granted;
	assert_int_equal(gfs2_glock_nq(&a), 0);
	assert_true(gfs2_glock_cancel(&a));
	gfs2_holder_uninit(&a);
	gfs2_glock_dq_uninit(&b);
	notes("");

	/* Failures are told as well: of the request, and of go_instantiate. */
	gfs2_glock_cb(gl, UN, false);
	answer(gl, 2, UN, UN);
	clear_notes();
	init_holder(gl, EX, GL_ASYNC | LM_FLAG_TRY, &a);
	a.gh_granted = on_granted;
	assert_int_equal(gfs2_glock_nq(&a), 0);
	answer(gl, 3, EX, UN);
	assert_int_equal(a.gh_error, GLR_TRYFAILED);
	notes("sync lock:EX:try granted:13");
	atomic_store(&ty.inst_error, -ESTALE);
	assert_int_equal(gfs2_glock_nq(&a), 0);
	answer(gl, 4, EX, EX);
	await(atomic_load(&granted_calls) == 4);
	assert_int_equal(a.gh_error, -ESTALE);
	assert_false(gfs2_holder_queued(&a));
	notes("sync lock:EX:try inst granted:-116");
	gfs2_holder_uninit(&a);
	gfs2_glock_put(gl);
}

static atomic_bool callback_slow;

static void on_callback(struct gfs2_glock *gl, bool remote)
{
	note("callback:%d", remote);
	while (atomic_load(&callback_slow))
		usleep(100);
}

/* go_callback comes before the demotion that was asked for, whoever would have run that. */
static void test_go_callback(void **state)
{
	static const struct gfs2_glock_operations ops = {
		.go_type = LM_TYPE_IOPEN,
		.go_sync = t_sync,
		.go_callback = on_callback,
	};
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &ops);
	struct waiter w;

	cache_state(gl, SH);
	atomic_store(&callback_slow, true);
	gfs2_glock_cb(gl, UN, true);
	start_waiter(gl, EX, 0, &w);
	await(({
		rmutex_lock(&gl->gl_lock);
		bool asleep = w.gh.gh_cond;
		rmutex_unlock(&gl->gl_lock);
		asleep;
	}));
	assert_int_equal(phase_of(gl), GLP_IDLE);
	atomic_store(&callback_slow, false);
	answer(gl, 1, UN, UN);
	answer(gl, 2, EX, EX);
	assert_int_equal(end_waiter(&w), 0);
	notes("callback:1 sync lock:UN sync lock:EX");
	gfs2_glock_put(gl);
}

/* --- the table --- */

static void *get_thread(void *arg)
{
	return gfs2_glock_get(table, 7, &plain_ops);
}

static void count_glock(struct gfs2_glock *gl, void *arg)
{
	*(unsigned *)arg += gl->gl_number;
}

static void test_life(void **state)
{
	struct gfs2_glock *a, *b;
	pthread_t thread;
	unsigned sum = 0;

	assert_null(gfs2_glock_find(table, LM_TYPE_RGRP, 7));
	a = gfs2_glock_get(table, 7, &plain_ops);
	assert_ptr_equal(gfs2_glock_get(table, 7, &plain_ops), a);
	assert_ptr_equal(gfs2_glock_find(table, LM_TYPE_RGRP, 7), a);
	assert_null(gfs2_glock_find(table, LM_TYPE_INODE, 7));
	b = gfs2_glock_get(table, 7, &inode_ops);
	assert_ptr_not_equal(a, b);
	gfs2_glock_table_for_each(table, count_glock, &sum);
	assert_int_equal(sum, 14);
	gfs2_glock_put(a);
	gfs2_glock_put(a);
	gfs2_glock_put(b);
	assert_int_equal(atomic_load(&lm.puts), 1);

	/* Held by the cluster lock alone; gone with it. */
	cache_state(a, SH);
	gfs2_glock_put(a);
	assert_int_equal(atomic_load(&lm.puts), 1);
	assert_ptr_equal(gfs2_glock_find(table, LM_TYPE_RGRP, 7), a);
	gfs2_glock_put(a);

	/* While the module still has it, the name is taken. */
	atomic_store(&lm.keep, true);
	gfs2_glock_cb(a, UN, true);
	answer(a, 1, UN, UN);
	await(atomic_load(&lm.puts) == 2);
	assert_null(gfs2_glock_find(table, LM_TYPE_RGRP, 7));
	gfs2_glock_cb(a, UN, true); /* a late one is harmless */
	assert_int_equal(pthread_create(&thread, NULL, get_thread, NULL), 0);
	atomic_store(&lm.keep, false);
	gfs2_glock_free(a);
	pthread_join(thread, (void **)&b);
	gfs2_glock_put(b);
	assert_int_equal(atomic_load(&lm.puts), 3);
	assert_ptr_equal(gfs2_glock_table_private(table), &table);
}

static void test_shrink(void **state)
{
	struct gfs2_glock *gl[8], *rg = gfs2_glock_get(table, 50, &nondisk_ops);
	struct gfs2_holder held;
	unsigned nr = 0;

	for (int i = 0; i < 8; i++) {
		gl[i] = gfs2_glock_get(table, i, &plain_ops);
		cache_state(gl[i], SH);
	}
	cache_state(rg, SH);
	queue(gl[3], SH, 0, &held);
	atomic_store(&lm.automatic, true);
	assert_true(flags_of(gl[0]) & FLAG(GLF_LRU));
	assert_false(flags_of(gl[3]) & FLAG(GLF_LRU));
	assert_int_equal(gfs2_glock_shrink(table, 2), 2);
	/* Not the held one, not the type that is never shrunk. */
	assert_int_equal(gfs2_glock_shrink(table, 100), 5);
	for (int i = 0; i < 8; i++) {
		assert_true(gfs2_glock_wait_demoted(gl[i], 60000000000ull));
		nr += state_of(gl[i]) == UN;
	}
	assert_int_equal(nr, 7);
	assert_int_equal(state_of(gl[3]), SH);
	assert_int_equal(state_of(rg), SH);
	assert_int_equal(gfs2_glock_shrink(table, 100), 0);
	gfs2_glock_dq_uninit(&held);
	for (int i = 0; i < 8; i++)
		gfs2_glock_put(gl[i]);
	gfs2_glock_put(rg);
}

/* Those that cover no buffers go first, in whatever order they were used; the others when these do not suffice. */
static void test_shrink_empty_first(void **state)
{
	struct gfs2_glock *gl[64];
	unsigned empty = 0, full = 0;

	for (int i = 0; i < 64; i++) {
		gl[i] = gfs2_glock_get(table, i, &plain_ops);
		cache_state(gl[i], SH);
		atomic_store(&gl[i]->gl_mapping.m_nr, i % 2);
	}
	atomic_store(&lm.automatic, true);
	assert_int_equal(gfs2_glock_shrink(table, 32), 32);
	for (int i = 0; i < 64; i += 2) {
		assert_true(gfs2_glock_wait_demoted(gl[i], 60000000000ull));
		empty += state_of(gl[i]) == UN;
		full += state_of(gl[i + 1]) == UN;
	}
	assert_int_equal(empty, 32);
	assert_int_equal(full, 0);
	assert_int_equal(gfs2_glock_shrink(table, 40), 32);
	for (int i = 0; i < 64; i++) {
		assert_true(gfs2_glock_wait_demoted(gl[i], 60000000000ull));
		assert_int_equal(state_of(gl[i]), UN);
		atomic_store(&gl[i]->gl_mapping.m_nr, 0);
		gfs2_glock_put(gl[i]);
	}
}

static void test_multi(void **state)
{
	struct gfs2_glock *gl[3];
	struct gfs2_holder gh[3], blocker;

	atomic_store(&lm.automatic, true);
	for (int i = 0; i < 3; i++) {
		gl[i] = gfs2_glock_get(table, 30 - i, &plain_ops);
		init_holder(gl[i], EX, LM_FLAG_TRY, &gh[i]);
	}
	assert_int_equal(gfs2_glock_nq_m(3, gh), 0);
	for (int i = 0; i < 3; i++)
		assert_true(granted(&gh[i]));
	gfs2_glock_dq_m(3, gh);
	/* All or none; gl[0] has the largest number and so comes last. */
	queue(gl[0], SH, 0, &blocker);
	assert_int_equal(gfs2_glock_nq_m(3, gh), GLR_TRYFAILED);
	for (int i = 0; i < 3; i++)
		assert_false(gfs2_holder_queued(&gh[i]));
	gfs2_glock_dq_uninit(&blocker);
	for (int i = 0; i < 3; i++) {
		gfs2_holder_uninit(&gh[i]);
		gfs2_glock_put(gl[i]);
	}
}

static void test_withdraw(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_glock *live = gfs2_glock_get(table, 1, &nondisk_ops);
	struct gfs2_holder a, b;

	cache_state(gl, SH);
	queue(gl, SH, 0, &a);
	queue(gl, EX, 0, &b);
	gfs2_glock_table_withdraw(table);
	assert_int_equal(gfs2_glock_wait(&b), -EIO);
	assert_true(granted(&a));
	gfs2_holder_uninit(&b);
	assert_int_equal(try_nq(gl, SH, 0), -EIO);
	assert_false(fast(gl, SH, 0));
	assert_int_equal(try_nq(gl, SH, LM_FLAG_NOEXP), 0);
	gfs2_glock_dq_uninit(&a);
	/* Others must not see it free. */
	gfs2_glock_cb(gl, UN, true);
	assert_false(gfs2_glock_wait_demoted(gl, 1000000));
	assert_int_equal(state_of(gl), SH);
	/* The protocol's own locks go on. */
	atomic_store(&lm.automatic, true);
	assert_int_equal(try_nq(live, SH, 0), 0);
	atomic_store(&lm.automatic, false);
	notes("");
	gfs2_glock_put(live);
	gfs2_glock_put(gl);
	/* teardown: the table can be destroyed, with caches dropped and the module not asked. */
}

/* --- text --- */

static void check_dump(struct gfs2_glock *gl, const char *expected_text)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	gfs2_dump_glock(f, gl);
	fclose(f);
	assert_string_equal(text, expected_text);
	free(text);
}

static void test_dump(void **state)
{
	struct gfs2_glock *gl;
	struct gfs2_holder a, b, c;
	char text[512], comm[32] = "";
	FILE *f = fopen("/proc/self/comm", "r");

	assert_non_null(fgets(comm, sizeof(comm), f));
	fclose(f);
	comm[strcspn(comm, "\n")] = 0;
	set_time(1000000000);
	gfs2_glock_table_set_clock(table, test_clock);
	gl = gfs2_glock_get(table, 0x3346, &inode_ops);
	check_dump(gl, "G:  s:UN n:2/3346 f:n t:UN d:EX/0 a:0 v:0 r:1 m:1 p:0\n");
	glock_set_object(gl, &table);
	cache_state(gl, SH);
	check_dump(gl, "G:  s:SH n:2/3346 f:ILob t:SH d:EX/0 a:0 v:0 r:2 m:1 p:0\n I: object\n");

	queue(gl, SH, GL_NOPID | LM_FLAG_NOEXP | GL_EXACT | GL_NOCACHE, &a);
	a.gh_where = "gfs2_fill_super";
	current_ctx()->pid = 0x7ffffffe; /* nobody */
	queue(gl, SH, LM_FLAG_ANY | GL_SKIP, &b);
	current_ctx()->pid = getpid();
	queue(gl, EX, LM_FLAG_NODE_SCOPE, &c);
	atomic_store(&gl->gl_ail_count, 4);
	atomic_store(&gl->gl_revokes, 2);
	snprintf(text, sizeof(text),
		 "G:  s:SH n:2/3346 f:Iqob t:SH d:EX/0 a:4 v:2 r:5 m:1 p:0\n"
		 " H: s:SH f:eaEcH e:0 p:0 [(none)] gfs2_fill_super\n"
		 " H: s:SH f:AaHs e:0 p:2147483646 [(ended)] test\n"
		 " H: s:EX f:naW e:0 p:%d [%s] test\n"
		 " I: object\n", getpid(), comm);
	check_dump(gl, text);
	gfs2_glock_cb(gl, DF, false);
	set_time(1000123999);
	gfs2_glock_dq_uninit(&c);
	gfs2_glock_dq_uninit(&b);
	check_dump(gl, "G:  s:SH n:2/3346 f:DIqob t:SH d:DF/123 a:4 v:2 r:3 m:1 p:0\n"
		       " H: s:SH f:eaEcH e:0 p:0 [(none)] gfs2_fill_super\n I: object\n");
	gfs2_glock_dq_uninit(&a);
	await(phase_of(gl) == GLP_WAIT);
	await(atomic_load(&gl->gl_ref) == 3); /* ours, the state's, the transition's */
	check_dump(gl, "G:  s:SH n:2/3346 f:lDpILon t:UN d:UN/123 a:4 v:2 r:3 m:1 p:0\n I: object\n");
	answer(gl, 1, UN, UN);
	glock_clear_object(gl, &table);
	queue(gl, DF, GL_NOPID | LM_FLAG_TRY_1CB, &a);
	await(phase_of(gl) == GLP_WAIT);
	await(atomic_load(&gl->gl_ref) == 3); /* ours, the holder's, the transition's */
	check_dump(gl, "G:  s:UN n:2/3346 f:lIqLn t:DF d:EX/0 a:4 v:2 r:3 m:0 p:0\n"
		       " H: s:DF f:TaW e:0 p:0 [(none)] test\n");
	answer(gl, 2, DF, UN);
	assert_int_equal(gfs2_glock_wait(&a), GLR_TRYFAILED);
	gfs2_holder_uninit(&a);
	gfs2_glock_put(gl);
}

static void test_state_names(void **state)
{
	assert_string_equal(glock_state_name(UN), "UN");
	assert_string_equal(glock_state_name(EX), "EX");
	assert_string_equal(glock_state_name(DF), "DF");
	assert_string_equal(glock_state_name(SH), "SH");
	assert_int_equal(glock_state_parse("UN"), UN);
	assert_int_equal(glock_state_parse("nl"), UN);
	assert_int_equal(glock_state_parse("EX"), EX);
	assert_int_equal(glock_state_parse("df"), DF);
	assert_int_equal(glock_state_parse("CW"), DF);
	assert_int_equal(glock_state_parse("SH"), SH);
	assert_int_equal(glock_state_parse("PR"), SH);
	assert_int_equal(glock_state_parse("IV"), -EINVAL);
	assert_int_equal(glock_state_parse(""), -EINVAL);
}

/* The events of a life, as one line of names and states. */
static void check_events(uint64_t from, const char *expected_text)
{
	struct gfs2_event e[64];
	unsigned n = gfs2_event_read(&from, e, 64);
	char text[1024] = "";

	for (unsigned i = 0; i < n; i++) {
		size_t len = strlen(text);

		snprintf(text + len, sizeof(text) - len, "%s%s:%s%s%s", i ? " " : "",
			 gfs2_event_name(e[i].type),
			 e[i].fields & EVF_FROM ? glock_state_name(e[i].from) : "",
			 e[i].fields & EVF_FROM ? ">" : "", glock_state_name(e[i].to));
		assert_int_equal(e[i].gl_number, 1);
	}
	assert_string_equal(text, expected_text);
}

static void test_events(void **state)
{
	struct gfs2_glock *gl;
	struct gfs2_holder a;
	uint64_t start;

	gfs2_event_init(10);
	setup_manual(NULL);
	gl = gfs2_glock_get(table, 1, &plain_ops);
	start = gfs2_event_next_seq();
	queue(gl, EX, 0, &a);
	await(phase_of(gl) == GLP_WAIT);
	gfs2_glock_cb(gl, SH, true);
	answer(gl, 1, EX, EX);
	gfs2_glock_dq_uninit(&a);
	answer(gl, 2, SH, SH);
	check_events(start, "glock_queue:EX dlm_lock:UN>EX dlm_bast:UN>SH glock_demote_rq:UN>SH "
			    "dlm_ast:EX glock_state:UN>EX glock_promote:EX glock_dequeue:EX "
			    "dlm_lock:EX>SH dlm_ast:SH glock_state:EX>SH");
	gfs2_glock_put(gl);
	teardown(NULL);

	/* Alone: no module worth naming. */
	setup_nolock(NULL);
	gl = gfs2_glock_get(table, 1, &plain_ops);
	start = gfs2_event_next_seq();
	init_holder(gl, SH, 0, &a);
	assert_int_equal(gfs2_glock_nq(&a), 0);
	gfs2_glock_dq(&a);
	assert_true(gfs2_glock_nq_fast(&a));
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_cb(gl, UN, false);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	check_events(start, "glock_queue:SH glock_state:UN>SH glock_promote:SH glock_dequeue:SH "
			    "glock_queue:SH glock_promote:SH glock_dequeue:SH "
			    "glock_demote_rq:SH>UN glock_state:SH>UN");
	gfs2_glock_put(gl);
	teardown(NULL);
	gfs2_event_exit();
}

/* --- lock_nolock --- */

static void test_nolock(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &inode_ops);
	struct gfs2_holder a, b;
	unsigned jid = 9;
	bool first = false;

	assert_string_equal(lm_nolock.lm_proto_name, "lock_nolock");
	assert_int_equal(lm_nolock.lm_mount(table, "", &jid, &first), 0);
	assert_true(jid == 0 && first);
	/* All on this thread. */
	init_holder(gl, SH, 0, &a);
	assert_int_equal(gfs2_glock_nq(&a), 0);
	notes("sync inst held:SH");
	assert_true(pthread_equal(ty.inst_thread, pthread_self()));
	init_holder(gl, EX, LM_FLAG_TRY, &b);
	assert_int_equal(gfs2_glock_nq(&b), GLR_TRYFAILED);
	gfs2_glock_dq(&a);
	assert_int_equal(gfs2_glock_nq(&b), 0);
	notes("sync held:EX");
	/* No minimum hold time: nobody else wants it. */
	gfs2_glock_cb(gl, UN, true);
	assert_true(flags_of(gl) & FLAG(GLF_DEMOTE));
	gfs2_glock_dq_uninit(&b);
	gfs2_holder_uninit(&a);
	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	notes("sync inval:all");
	gfs2_glock_put(gl);
}

/* --- assertions of debug builds --- */

static bool always(void)
{
	return true;
}

static void dies(void (*fn)(struct gfs2_glock *), struct gfs2_glock *gl)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGABRT, SIG_DFL);
		fclose(stderr);
		close(STDERR_FILENO);
		fn(gl);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void nq_twice(struct gfs2_glock *gl)
{
	struct gfs2_holder a, b;

	gfs2_holder_init(gl, SH, GL_ASYNC, &a, "a");
	gfs2_holder_init(gl, SH, GL_ASYNC, &b, "b");
	gfs2_glock_nq(&a);
	gfs2_glock_nq(&b);
}

#ifdef GFS2_DEBUG_CHECKS
static void nq_in_trans(struct gfs2_glock *gl)
{
	gfs2_glock_set_trans_check(always);
	try_nq(gl, SH, 0);
}

static void read_unheld(struct gfs2_glock *gl)
{
	gfs2_assert_held(gl, false);
}

static void write_shared(struct gfs2_glock *gl)
{
	struct gfs2_holder a;

	gfs2_holder_init(gl, SH, 0, &a, "a");
	gfs2_glock_nq(&a);
	gfs2_assert_held(gl, true);
}
#endif

static void test_assertions(void **state)
{
	struct gfs2_glock *gl = gfs2_glock_get(table, 1, &plain_ops);
	struct gfs2_holder a, b;

	dies(nq_twice, gl);
#ifdef GFS2_DEBUG_CHECKS
	dies(nq_in_trans, gl);
	dies(read_unheld, gl);
	dies(write_shared, gl);
#endif
	gfs2_glock_set_trans_check(always);
	assert_int_equal(try_nq(gl, SH, LM_FLAG_TRY), 0);
	gfs2_glock_set_trans_check(NULL);
	gfs2_holder_init(gl, EX, 0, &a, "a");
	assert_int_equal(gfs2_glock_nq(&a), 0);
	gfs2_assert_held(gl, true);
	gfs2_glock_dq_uninit(&a);
	/* The mount's holders are nobody's and everybody's, and may be several. */
	gfs2_holder_init(gl, SH, GL_NOPID, &a, "a");
	gfs2_holder_init(gl, SH, GL_NOPID, &b, "b");
	assert_int_equal(gfs2_glock_nq(&a), 0);
	assert_int_equal(gfs2_glock_nq(&b), 0);
	current_ctx()->req = 4711;
	gfs2_assert_held(gl, false);
	current_ctx()->req = 0;
	gfs2_glock_dq_uninit(&a);
	gfs2_glock_dq_uninit(&b);
	gfs2_glock_put(gl);
}

/* A withdraw marks the table first and visits the glocks then; a worker may come in between. */
static void test_withdraw_window(void **state)
{
	struct gfs2_glock_table *t;
	struct gfs2_holder a, b, c;
	struct gfs2_glock *gl;

	memset(&lm, 0, sizeof(lm));
	clear_notes();
	assert_int_equal(gfs2_glock_table_create(&lm_manual, NULL, 0, NULL, &t), 0);
	gl = gfs2_glock_get(t, 5, &plain_ops);
	atomic_store(&lm.automatic, true);
	queue(gl, EX, 0, &a);
	while (gfs2_glock_work_run_one(t))
		;
	assert_true(granted(&a));
	/* A demotion that waits for the holder keeps the others waiting. */
	gfs2_glock_cb(gl, UN, true);
	queue(gl, EX, 0, &b);
	queue(gl, EX, LM_FLAG_NOEXP, &c);
	gfs2_glock_dq_uninit(&a);
	assert_false(gfs2_glock_poll(&b));
	atomic_store(&t->t_withdrawn, true);
	while (gfs2_glock_work_run_one(t))
		;
	assert_int_equal(gfs2_glock_wait(&b), -EIO);
	assert_true(granted(&c));
	assert_int_equal(state_of(gl), EX);
	gfs2_holder_uninit(&b);
	gfs2_glock_dq_uninit(&c);
	atomic_store(&t->t_withdrawn, false);
	gfs2_glock_cb(gl, UN, false);
	while (gfs2_glock_work_run_one(t))
		;
	assert_int_equal(state_of(gl), UN);
	gfs2_glock_put(gl);
	gfs2_glock_table_destroy(t);
}

static int withdraw_in_sync(struct gfs2_glock *gl)
{
	atomic_store(&gl->gl_table->t_withdrawn, true);
	return 0;
}

/* A transition for a local holder that has begun when the file system is withdrawn must not lower the lock. */
static void test_withdraw_in_promotion(void **state)
{
	static const struct gfs2_glock_operations ops = {
		.go_type = LM_TYPE_RGRP, .go_sync = withdraw_in_sync,
	};
	struct gfs2_glock_table *t;
	struct gfs2_holder a, b;
	struct gfs2_glock *gl;

	memset(&lm, 0, sizeof(lm));
	clear_notes();
	assert_int_equal(gfs2_glock_table_create(&lm_manual, NULL, 0, NULL, &t), 0);
	gl = gfs2_glock_get(t, 6, &ops);
	atomic_store(&lm.automatic, true);
	queue(gl, EX, LM_FLAG_NOEXP, &a);
	while (gfs2_glock_work_run_one(t))
		;
	assert_true(granted(&a));
	gfs2_glock_dq_uninit(&a);
	atomic_store(&t->t_withdrawn, false);
	queue(gl, DF, GL_EXACT, &b);
	while (gfs2_glock_work_run_one(t))
		;
	assert_int_equal(gfs2_glock_wait(&b), -EIO);
	assert_int_equal(state_of(gl), EX);
	gfs2_holder_uninit(&b);
	atomic_store(&t->t_destroying, true);
	gfs2_glock_cb(gl, UN, false);
	while (gfs2_glock_work_run_one(t))
		;
	assert_int_equal(state_of(gl), UN);
	gfs2_glock_put(gl);
	gfs2_glock_table_destroy(t);
}

static atomic_uint told;

static void count_told(struct gfs2_holder *gh)
{
	atomic_fetch_add(&told, 1);
}

static void *lock_shared(void *arg)
{
	struct gfs2_holder *gh = arg;

	assert_int_equal(gfs2_glock_nq(gh), 0);
	gfs2_glock_dq(gh);
	return NULL;
}

/* A thread that goes to sleep for its holder has to call first those whom its own step has granted. */
static void test_told_before_sleep(void **state)
{
	struct gfs2_holder a, b, c;
	struct gfs2_glock_table *t;
	struct gfs2_glock *gl;
	pthread_t thread;

	memset(&lm, 0, sizeof(lm));
	memset(&ty, 0, sizeof(ty));
	atomic_store(&told, 0);
	clear_notes();
	assert_int_equal(gfs2_glock_table_create(&lm_manual, NULL, 0, NULL, &t), 0);
	gl = gfs2_glock_get(t, 7, &plain_ops);
	cache_state(gl, EX);
	atomic_store(&lm.automatic, true);
	init_holder(gl, DF, GL_ASYNC | GL_EXACT, &a);
	init_holder(gl, EX, GL_ASYNC, &b);
	init_holder(gl, SH, 0, &c);
	a.gh_granted = b.gh_granted = count_told;
	assert_int_equal(gfs2_glock_nq(&a), 0);
	assert_int_equal(gfs2_glock_nq(&b), 0);
	atomic_store(&ty.sync_started, false);
	atomic_store(&ty.sync_slow, true);
	assert_int_equal(pthread_create(&thread, NULL, lock_shared, &c), 0);
	await(atomic_load(&ty.sync_started));
	/* Then nobody wants DF any more, and @b gets what is there. */
	assert_true(gfs2_glock_cancel(&a));
	atomic_store(&ty.sync_slow, false);
	await(atomic_load(&told) == 1);
	gfs2_glock_dq_uninit(&b);
	while (gfs2_glock_work_run_one(t))
		;
	pthread_join(thread, NULL);
	gfs2_holder_uninit(&a);
	gfs2_holder_uninit(&c);
	gfs2_glock_cb(gl, UN, false);
	while (gfs2_glock_work_run_one(t))
		;
	gfs2_glock_put(gl);
	gfs2_glock_table_destroy(t);
}

/* --- the end of a table --- */

static void *let_go_late(void *arg)
{
	struct gfs2_glock **gls = arg;

	await(atomic_load(&ty.sync_slow) ? atomic_load(&ty.sync_started) : atomic_load(&lm.requests));
	/* For longer than a leak takes to be called one. */
	usleep(6500000);
	if (atomic_load(&ty.sync_slow))
		atomic_store(&ty.sync_slow, false);
	else
		gfs2_glock_complete(gls[0], UN);
	/* As one who has just brought a glock to rest, on a busy machine. */
	usleep(300000);
	gfs2_glock_put(gls[1]);
	return NULL;
}

enum ending { END_LEAK, END_MODULE_BUSY, END_WORKER_BUSY, ENDINGS };

/* In a process of its own: ends a table with a glock that is at rest and referenced. */
static _Noreturn void end_table(enum ending how)
{
	struct gfs2_glock_table *t;
	struct gfs2_glock *gls[2];
	struct gfs2_holder gh;
	pthread_t thread;

	signal(SIGABRT, SIG_DFL);
	close(STDERR_FILENO);
	GFS2_BUG_ON(gfs2_glock_table_create(&lm_manual, NULL, 2, NULL, &t));
	for (unsigned i = 0; i < ARRAY_SIZE(gls); i++)
		gls[i] = gfs2_glock_get(t, i, &plain_ops);
	if (how != END_LEAK) {
		atomic_store(&lm.automatic, true);
		init_holder(gls[0], EX, 0, &gh);
		GFS2_BUG_ON(gfs2_glock_nq(&gh));
		gfs2_glock_dq_uninit(&gh);
		atomic_store(&lm.automatic, how == END_WORKER_BUSY);
		atomic_store(&ty.sync_slow, how == END_WORKER_BUSY);
		GFS2_BUG_ON(pthread_create(&thread, NULL, let_go_late, gls));
	}
	gfs2_glock_put(gls[0]);
	gfs2_glock_table_destroy(t);
	if (how != END_LEAK)
		pthread_join(thread, NULL);
	_exit(0);
}

/* Who leaks is told; but what only takes its time, as on a busy machine or with a slow lock module, does not end the daemon. */
static void test_end(void **state)
{
	pid_t pids[ENDINGS];

	memset(&lm, 0, sizeof(lm));
	memset(&ty, 0, sizeof(ty));
	clear_notes();
	for (int how = 0; how < ENDINGS; how++) {
		pids[how] = fork();
		if (!pids[how])
			end_table((enum ending)how);
	}
	for (int how = 0; how < ENDINGS; how++) {
		int status;

		assert_int_equal(waitpid(pids[how], &status, 0), pids[how]);
		if (how == END_LEAK)
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		else
			assert_int_equal(status, 0);
	}
}

int main(void)
{
#define MANUAL(t) cmocka_unit_test_setup_teardown(t, setup_manual, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_told_before_sleep),
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_withdraw_window),
		cmocka_unit_test(test_withdraw_in_promotion),
		cmocka_unit_test(test_may_grant),
		cmocka_unit_test(test_rights),
		cmocka_unit_test(test_machine),
		cmocka_unit_test(test_state_names),
		cmocka_unit_test(test_events),
		MANUAL(test_fifo),
		MANUAL(test_blocking),
		MANUAL(test_any_exact),
		cmocka_unit_test_setup_teardown(test_node_scope, setup_nolock, teardown),
		MANUAL(test_caches),
		MANUAL(test_nocache),
		MANUAL(test_nocache_at_once),
		MANUAL(test_try),
		MANUAL(test_raise),
		MANUAL(test_lost),
		MANUAL(test_lost_with_a_time_to_publish),
		MANUAL(test_lost_and_withdrawn),
		MANUAL(test_try_sync),
		MANUAL(test_try_others),
		MANUAL(test_try_queue),
		MANUAL(test_bast_before_grant),
		MANUAL(test_bast_merge),
		MANUAL(test_demote_then_promote),
		MANUAL(test_turn),
		MANUAL(test_min_hold),
		MANUAL(test_gap),
		MANUAL(test_deadlock),
		MANUAL(test_cancel),
		MANUAL(test_cancel_early),
		MANUAL(test_abandon),
		MANUAL(test_errors),
		MANUAL(test_fast),
		MANUAL(test_borrowed),
		MANUAL(test_instantiate),
		MANUAL(test_granted_callback),
		MANUAL(test_go_callback),
		MANUAL(test_life),
		MANUAL(test_shrink), MANUAL(test_shrink_empty_first),
		MANUAL(test_multi),
		MANUAL(test_withdraw),
		MANUAL(test_dump),
		cmocka_unit_test_setup_teardown(test_nolock, setup_nolock, teardown),
		cmocka_unit_test_setup_teardown(test_assertions, setup_nolock, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
