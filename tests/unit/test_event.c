/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The event rings: exact output, order, overwriting, readers against writers, waiting, threads that come and go. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "debug/event.h"
#include "util/ctx.h"
#include "util/util.h"

static struct gfs2_glock fake_gl = { .gl_number = 0x35f8, .gl_type = LM_TYPE_INODE };

static int ring8(void **state)
{
	if (!fake_gl.gl_lock.rank)
		rmutex_init(&fake_gl.gl_lock, RANK_GLOCK);
	gfs2_event_init(3);
	*current_ctx() = (struct gfs2_ctx){ .req = 77, .pid = 4242 };
	return 0;
}

/* As small as it can be: writers and readers meet in the slots all the time. */
static int ring2(void **state)
{
	ring8(state);
	gfs2_event_exit();
	gfs2_event_init(1);
	return 0;
}

/* As the daemon's: nothing is lost of what the tests write. */
static int ring_large(void **state)
{
	ring8(state);
	gfs2_event_exit();
	gfs2_event_init(16);
	return 0;
}

/* Events of a glock are told under its lock. */
static void tell_glock(enum gfs2_event_type t, int from, int to, const char *reason)
{
	rmutex_lock(&fake_gl.gl_lock);
	ev_glock(t, &fake_gl, from, to, reason);
	rmutex_unlock(&fake_gl.gl_lock);
}

static int ring_exit(void **state)
{
	gfs2_event_exit();
	*current_ctx() = (struct gfs2_ctx){ 0 };
	return 0;
}

static struct gfs2_event last_event(void)
{
	uint64_t seq = gfs2_event_next_seq() - 1;
	struct gfs2_event e;

	assert_int_equal(gfs2_event_read(&seq, &e, 1), 1);
	return e;
}

static void test_names(void **state)
{
	static const char *const names[EV_NR] = {
		"glock_state", "glock_queue", "glock_promote", "glock_dequeue", "glock_demote_rq",
		"dlm_lock", "dlm_ast", "dlm_bast", "dio_begin", "dio_submit", "dio_hole",
		"dio_drain_begin", "dio_drain_end", "dio_upgrade", "dio_buffered", "dio_end",
		"log_flush", "map", "data_io", "break_hit", "break_go", "glock_hold",
	};

	for (int i = 0; i < EV_NR; i++)
		assert_string_equal(gfs2_event_name(i), names[i]);
	assert_string_equal(gfs2_event_name(EV_NR), "unknown");
}

static void check_output(const char *json, const char *text)
{
	struct gfs2_event e = last_event();
	char buf[512], small[10];
	int n;

	e.seq = 9;
	e.t_ns = 1700000000123456789ull;
	n = gfs2_event_json(&e, 3, buf, sizeof(buf));
	assert_string_equal(buf, json);
	assert_int_equal(n, strlen(json));
	/* Like snprintf: says what it would need, writes what fits. */
	assert_int_equal(gfs2_event_json(&e, 3, small, sizeof(small)), n);
	assert_memory_equal(small, json, 9);
	assert_int_equal(small[9], 0);
	n = gfs2_event_text(&e, buf, sizeof(buf));
	assert_string_equal(buf, text);
	assert_int_equal(n, strlen(text));
}

static void test_output(void **state)
{
#define J(rest) "{\"event\":" rest "}"
#define HEAD "\"seq\":9,\"t_ns\":1700000000123456789,\"node\":3,\"pid\":4242,\"req\":77"
#define T "1700000000.123456 pid 4242: "
	tell_glock(EV_GLOCK_STATE, LM_ST_SHARED, LM_ST_EXCLUSIVE, "holder");
	check_output(J("\"glock_state\"," HEAD ",\"glock\":\"2/35f8\",\"from\":\"SH\",\"to\":\"EX\","
		       "\"reason\":\"holder\""),
		     T "gfs2_glock_state_change: glock 2:13816 state PR to EX holder req:77");
	tell_glock(EV_GLOCK_QUEUE, -1, LM_ST_DEFERRED, NULL);
	check_output(J("\"glock_queue\"," HEAD ",\"glock\":\"2/35f8\",\"to\":\"DF\""),
		     T "gfs2_glock_queue: glock 2:13816 queue CW req:77");
	tell_glock(EV_GLOCK_PROMOTE, -1, LM_ST_DEFERRED, NULL);
	check_output(J("\"glock_promote\"," HEAD ",\"glock\":\"2/35f8\",\"to\":\"DF\""),
		     T "gfs2_promote: glock 2:13816 promote CW req:77");
	tell_glock(EV_GLOCK_DEQUEUE, -1, LM_ST_SHARED, NULL);
	check_output(J("\"glock_dequeue\"," HEAD ",\"glock\":\"2/35f8\",\"to\":\"SH\""),
		     T "gfs2_glock_queue: glock 2:13816 dequeue PR req:77");
	tell_glock(EV_GLOCK_DEMOTE_RQ, LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, "remote");
	check_output(J("\"glock_demote_rq\"," HEAD ",\"glock\":\"2/35f8\",\"from\":\"EX\","
		       "\"to\":\"UN\",\"reason\":\"remote\""),
		     T "gfs2_demote_rq: glock 2:13816 demote EX to NL remote req:77");
	rmutex_lock(&fake_gl.gl_lock);
	ev_dlm_lock(&fake_gl, LM_ST_SHARED, 0x1 | 0x4 | 0x8 | 0x80 | 0x800, "try");
	rmutex_unlock(&fake_gl.gl_lock);
	check_output(J("\"dlm_lock\"," HEAD ",\"glock\":\"2/35f8\",\"from\":\"UN\",\"to\":\"SH\","
		       "\"flags\":\"NOQUEUE|CONVERT|VALBLK|PERSISTENT|NOQUEUEBAST\",\"reason\":\"try\""),
		     T "dlm_lock: glock 2:13816 NL to PR NOQUEUE|CONVERT|VALBLK|PERSISTENT|NOQUEUEBAST try req:77");
	ev_dio(EV_DIO_HOLE, 13816, 4096, 512, -15, "hole \"x\"\n");
	check_output(J("\"dio_hole\"," HEAD ",\"glock\":\"2/35f8\",\"off\":4096,\"len\":512,"
		       "\"rc\":-15,\"reason\":\"hole \\\"x\\\"\\u000a\""),
		     T "dio_hole: inode 13816 4096/512 rc:-15 hole \"x\"\n req:77");
#undef J
#undef HEAD
#undef T
}

/* Who asks is taken from the thread, unless the event says so itself; a reason that is too long is cut. */
static void test_fields(void **state)
{
	struct gfs2_event e = { .type = EV_LOG_FLUSH, .req = 5, .pid = 6 };
	struct gfs2_event got;
	char buf[256];

	uint64_t before = wall_ns();

	gfs2_event_emit(&e, NULL);
	got = last_event();
	assert_int_equal(got.req, 5);
	assert_int_equal(got.pid, 6);
	assert_int_equal(got.fields, 0);
	/* The wall clock's time, but for how long looking at two clocks takes. */
	assert_true(got.t_ns + 10000000 > before && got.t_ns < wall_ns() + 10000000);
	gfs2_event_emit(&(struct gfs2_event){ .type = EV_BREAK_HIT, .fields = EVF_OFF | EVF_LEN | EVF_TO, .off = 7, .len = 8, .to = 3 }, "hit");
	got = last_event();
	assert_int_equal(got.type, EV_BREAK_HIT);
	assert_int_equal(got.req, 77);
	assert_int_equal(got.fields, EVF_OFF | EVF_LEN | EVF_TO | EVF_REASON);
	assert_true(got.off == 7 && got.len == 8 && got.to == 3);
	assert_string_equal(got.reason, "hit");
	tell_glock(EV_GLOCK_STATE, -1, -1, "0123456789012345678901234567890123456789");
	got = last_event();
	assert_string_equal(got.reason, "0123456789012345678901234567");
	*current_ctx() = (struct gfs2_ctx){ .pid = 4242 };
	e = (struct gfs2_event){ .type = EV_LOG_FLUSH, .seq = 1, .t_ns = 2 };
	gfs2_event_json(&e, 0, buf, sizeof(buf));
	assert_string_equal(buf, "{\"event\":\"log_flush\",\"seq\":1,\"t_ns\":2,\"node\":0}");
}

static void emit_len(uint64_t n)
{
	ev_dio(EV_DIO_SUBMIT, n, n, n, n, NULL);
}

/* Whatever an event has to tell. */
static void test_large(void **state)
{
	static const struct {
		uint64_t len;
		int64_t rc;
	} cases[] = { { UINT32_MAX, INT32_MAX }, { 1ull << 32, 0 }, { 0, 1ll << 31 }, { 1, INT32_MIN }, { 2, INT32_MIN - 1ll } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct gfs2_event e;

		ev_dio(EV_DIO_END, UINT64_MAX - i, UINT64_MAX - 1, cases[i].len, cases[i].rc, "large");
		e = last_event();
		assert_int_equal(e.seq, i + 1);
		assert_int_equal(e.type, EV_DIO_END);
		assert_int_equal(e.fields, EVF_GLOCK | EVF_OFF | EVF_LEN | EVF_RC | EVF_REASON);
		assert_int_equal(e.gl_type, LM_TYPE_INODE);
		assert_true(e.gl_number == UINT64_MAX - i && e.off == UINT64_MAX - 1);
		assert_true(e.len == cases[i].len && e.rc == cases[i].rc);
		assert_int_equal(e.req, 77);
		assert_int_equal(e.pid, 4242);
		assert_string_equal(e.reason, "large");
	}
}

/* Two that are told together are the same two as one by one. */
static void test_together(void **state)
{
	struct gfs2_event got[8];
	uint64_t seq = 1, t_ns = gfs2_event_time();

	rmutex_lock(&fake_gl.gl_lock);
	ev_glock_at(EV_GLOCK_QUEUE, &fake_gl, -1, LM_ST_DEFERRED, "me", t_ns);
	ev_glock_at(EV_GLOCK_PROMOTE, &fake_gl, -1, LM_ST_DEFERRED, "fast", t_ns);
	ev_dio_at(EV_DIO_BEGIN, 13816, 4096, 512, 0, "write", t_ns);
	assert_int_equal(gfs2_event_read(&seq, got, 8), 3);
	ev_dio_at(EV_DIO_SUBMIT, 13816, 4096, 512, 0, NULL, t_ns);
	ev_glock_granted(&fake_gl, LM_ST_DEFERRED, "me", "fast", t_ns);
	ev_dio_begun(13816, 4096, 512, "write", t_ns);
	rmutex_unlock(&fake_gl.gl_lock);
	assert_int_equal(gfs2_event_read(&seq, got + 3, 5), 5);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(got[i].seq, i + 1);
		/* One look at the clock, and yet one after the other. */
		assert_int_equal(got[i].t_ns, got[0].t_ns + (uint64_t)i);
	}
	for (int i = 0; i < 4; i++) {
		got[i + 4].seq = got[i].seq;
		got[i + 4].t_ns = got[i].t_ns;
		assert_memory_equal(&got[i], &got[i + 4], sizeof(got[i]));
	}
}

/* What is told while a ring has room; what is lost has numbers, too. */
static void test_overwrite(void **state)
{
	struct gfs2_event got[64];
	uint64_t seq = 0, other = 1;

	assert_int_equal(gfs2_event_read(&seq, got, 16), 0);
	assert_int_equal(gfs2_event_next_seq(), 1);
	for (int i = 1; i <= 20; i++)
		emit_len(i);
	/* Of eight slots one could be being written. */
	assert_int_equal(gfs2_event_next_seq(), 21);
	assert_int_equal(gfs2_event_read(&seq, got, 3), 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(got[i].seq, 14 + i);
		assert_int_equal(got[i].len, 14 + i);
	}
	assert_int_equal(seq, 17);
	assert_int_equal(gfs2_event_read(&seq, got, 16), 4);
	assert_int_equal(got[3].seq, 20);
	assert_int_equal(gfs2_event_read(&seq, got, 16), 0);
	assert_int_equal(seq, 21);
	/* In the future: nothing, and it stays there. */
	seq = 30;
	assert_int_equal(gfs2_event_read(&seq, got, 16), 0);
	assert_int_equal(seq, 30);
	/* Read in time, all that the log has room for is there: four times a ring. */
	for (int i = 21; i <= 60; i++) {
		emit_len(i);
		if (i % 7 == 0)
			gfs2_event_next_seq();
	}
	assert_int_equal(gfs2_event_next_seq(), 61);
	assert_int_equal(gfs2_event_read(&other, got, 64), 32);
	for (int i = 0; i < 32; i++)
		assert_true(got[i].seq == 29u + (unsigned)i && got[i].len == got[i].seq);
	assert_int_equal(other, 61);
}

static void test_switched_off(void **state)
{
	uint64_t next;

	emit_len(1);
	next = gfs2_event_next_seq();
	gfs2_event_set_on(false);
	emit_len(2);
	ev_dio(EV_DIO_BEGIN, 1, 0, 1, 0, NULL);
	assert_int_equal(gfs2_event_next_seq(), next);
	/* Holders' times need the clock all the same. */
	assert_true(gfs2_event_time());
	gfs2_event_set_on(true);
	emit_len(3);
	assert_int_equal(gfs2_event_next_seq(), next + 1);
}

static void test_without_ring(void **state)
{
	uint64_t seq = 0;
	struct gfs2_event e;

	emit_len(1);
	assert_int_equal(gfs2_event_read(&seq, &e, 1), 0);
	assert_int_equal(gfs2_event_next_seq(), 1);
	assert_false(gfs2_event_wait(1, 0));
	gfs2_event_set_on(true);
	assert_false(gfs2_event_on());
}

/* --- threads --- */

#define WRITERS 3
/* So many that a reader meets a writer in a slot: events of some nanoseconds. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define PER_WRITER 100000
#define TOLD 3000
#else
#define PER_WRITER 1000000
#define TOLD 20000
#endif

static atomic_uint writers_left;

static void *writer(void *arg)
{
	for (uint64_t i = 1; i <= PER_WRITER; i++)
		emit_len((uint64_t)(uintptr_t)arg << 20 | i);
	atomic_fetch_sub(&writers_left, 1);
	return NULL;
}

/* Every record is whole, numbers grow, and each writer's own events come in its order. */
static void read_all(void)
{
	uint64_t seq = 1, prev = 0, last[WRITERS + 1] = { 0 }, nr = 0;
	struct gfs2_event got[32];

	for (;;) {
		bool done = !atomic_load(&writers_left);
		unsigned n = gfs2_event_read(&seq, got, 32);

		for (unsigned i = 0; i < n; i++) {
			const struct gfs2_event *e = &got[i];
			unsigned w = e->len >> 20 & 15;

			assert_true(e->seq > prev);
			prev = e->seq;
			assert_true(e->len == e->off && e->len == e->gl_number &&
				    (int64_t)e->len == e->rc);
			assert_true(w >= 1 && w <= WRITERS);
			assert_true((e->len & 0xfffff) > last[w]);
			last[w] = e->len & 0xfffff;
			nr++;
		}
		if (!n && done)
			break;
		if (!n)
			gfs2_event_wait(seq, 1);
	}
	assert_int_equal(gfs2_event_next_seq(), (uint64_t)WRITERS * PER_WRITER + 1);
	assert_true(nr > 0);
}

static void *reader(void *arg)
{
	read_all();
	return NULL;
}

static void test_concurrent(void **state)
{
	pthread_t w[WRITERS], r;

	atomic_store(&writers_left, WRITERS);
	assert_int_equal(pthread_create(&r, NULL, reader, NULL), 0);
	for (uintptr_t i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&w[i], NULL, writer, (void *)(i + 1)), 0);
	read_all();
	for (int i = 0; i < WRITERS; i++)
		pthread_join(w[i], NULL);
	pthread_join(r, NULL);
}

static atomic_bool stop_writing;

static void *endless_writer(void *arg)
{
	for (uint64_t i = 1; !atomic_load_explicit(&stop_writing, memory_order_relaxed); i++) {
		emit_len(i);
		/* Two that are told at once, for the same slots. */
		i++;
		ev_dio_begun(i, i, (uint32_t)i, NULL, 0);
	}
	return NULL;
}

/* A reader that is always at what is just being overwritten: whole records. */
static void test_whole(void **state)
{
	uint64_t seq = 1;
	struct gfs2_event e;
	pthread_t t;

	atomic_store(&stop_writing, false);
	assert_int_equal(pthread_create(&t, NULL, endless_writer, NULL), 0);
	for (unsigned i = 0; i < 10 * TOLD; i++) {
		if (!gfs2_event_read(&seq, &e, 1))
			continue;
		assert_true(e.gl_number == e.off && (uint32_t)e.gl_number == (uint32_t)e.len && (e.rc == 0 || e.gl_number == (uint64_t)e.rc));
		assert_int_equal(e.rc == 0, e.type == EV_DIO_BEGIN || (e.type == EV_DIO_SUBMIT && e.gl_number % 2 == 0));
	}
	atomic_store(&stop_writing, true);
	pthread_join(t, NULL);
	assert_int_equal(last_event().seq + 1, gfs2_event_next_seq());
}

/* --- order --- */

#define TURNS 30000u

static atomic_uint turn;
static bool by_lock;

/*
 * Two ways to come after somebody else: by the glock's lock, having looked at the clock at any time before; and by an atomic, looking at the
 * clock since.  The request's number says whose turn it was.
 */
static void *taker(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, rnd = me * 7919u + 1;
	uint64_t old = gfs2_event_time();

	for (;;) {
		unsigned now;

		if (by_lock) {
			uint64_t t_ns = rnd & 64 ? gfs2_event_time() : old;

			rmutex_lock(&fake_gl.gl_lock);
			now = atomic_fetch_add_explicit(&turn, 1, memory_order_relaxed) + 1;
			*current_ctx() = (struct gfs2_ctx){ .req = now, .pid = (int)me };
			if (now <= TURNS)
				ev_glock_at(EV_GLOCK_PROMOTE, &fake_gl, -1, LM_ST_SHARED, NULL, t_ns);
			rmutex_unlock(&fake_gl.gl_lock);
		} else {
			now = atomic_load_explicit(&turn, memory_order_acquire);
			if (now < TURNS && now % WRITERS != me - 1) {
				sched_yield();
				continue;
			}
			*current_ctx() = (struct gfs2_ctx){ .req = ++now, .pid = (int)me };
			if (now <= TURNS) {
				ev_dio(EV_DIO_END, 1, 2, 3, 4, NULL);
				atomic_store_explicit(&turn, now, memory_order_release);
			}
		}
		if (now > TURNS)
			break;
		rnd = rnd * 1103515245u + 12345u;
		for (unsigned i = rnd >> 24; i; i--)
			atomic_signal_fence(memory_order_seq_cst);
	}
	atomic_fetch_sub(&writers_left, 1);
	return NULL;
}

static void take_turns(bool lossless)
{
	uint64_t seq = 1, prev_req = 0, prev_seq = 0, nr = 0;
	pthread_t w[WRITERS];
	struct gfs2_event got[32];

	atomic_store(&turn, 0);
	atomic_store(&writers_left, WRITERS);
	for (uintptr_t i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&w[i], NULL, taker, (void *)(i + 1)), 0);
	for (;;) {
		bool done = !atomic_load(&writers_left);
		/* What has been told by now has a number then. */
		unsigned told = by_lock ? 0 : atomic_load_explicit(&turn, memory_order_acquire);
		unsigned n;

		assert_true(gfs2_event_next_seq() > told);
		n = gfs2_event_read(&seq, got, 32);
		for (unsigned i = 0; i < n; i++, nr++) {
			if (got[i].req <= prev_req || got[i].seq <= prev_seq)
				fail_msg("turn %llu after %llu, as %llu after %llu", (unsigned long long)got[i].req,
					 (unsigned long long)prev_req, (unsigned long long)got[i].seq, (unsigned long long)prev_seq);
			prev_req = got[i].req;
			prev_seq = got[i].seq;
		}
		if (!n && done)
			break;
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(w[i], NULL);
	assert_int_equal(gfs2_event_next_seq(), TURNS + 1);
	assert_true(nr > 0);
	if (lossless)
		assert_int_equal(nr, TURNS);
}

static void test_order_by_lock(void **state)
{
	by_lock = true;
	take_turns(true);
}

static void test_order_by_atomic(void **state)
{
	by_lock = false;
	take_turns(true);
}

static void test_order_with_losses(void **state)
{
	by_lock = true;
	take_turns(false);
}

static void *tell_one(void *arg)
{
	tell_glock(EV_GLOCK_PROMOTE, -1, LM_ST_SHARED, arg);
	return NULL;
}

/* Whatever the clock said, events of a glock are in the order of its lock. */
static void test_stale(void **state)
{
	static const char *const words[] = { "first", "second", "third", "fourth" };
	uint64_t seq = 1, t_ns = gfs2_event_time();
	struct gfs2_event got[8];
	pthread_t t;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&t, NULL, tell_one, (void *)(uintptr_t)words[2 * i]), 0);
		pthread_join(t, NULL);
		rmutex_lock(&fake_gl.gl_lock);
		ev_glock_at(EV_GLOCK_DEQUEUE, &fake_gl, -1, LM_ST_SHARED, words[2 * i + 1], t_ns);
		rmutex_unlock(&fake_gl.gl_lock);
	}
	assert_int_equal(gfs2_event_read(&seq, got, 8), 4);
	for (int i = 0; i < 4; i++)
		assert_string_equal(got[i].reason, words[i]);
}

static atomic_bool stop_laggards;

/* @arg: looks at the clock some time before it tells something; else it has a clock that stands. */
static void *laggard(void *arg)
{
	uint64_t t_ns = gfs2_event_time();

	while (!atomic_load(&stop_laggards)) {
		if (arg)
			t_ns = gfs2_event_time();
		for (int i = 0; arg && i < 300; i++)
			atomic_signal_fence(memory_order_seq_cst);
		ev_dio_at(EV_DIO_SUBMIT, 1, 2, 3, 4, NULL, t_ns);
	}
	return NULL;
}

/* What this thread has told is numbered when it asks, though others tell what is older meanwhile. */
static void told_is_numbered(bool clock)
{
	struct gfs2_event got[32];
	uint64_t seq, end;
	pthread_t t;

	atomic_store(&stop_laggards, false);
	assert_int_equal(pthread_create(&t, NULL, laggard, clock ? (void *)1 : NULL), 0);
	for (uint64_t i = 1; i <= TOLD; i++) {
		bool found = false;

		seq = gfs2_event_next_seq();
		ev_dio(EV_DIO_END, i, 0, 0, 0, NULL);
		end = gfs2_event_next_seq();
		while (seq < end && !found) {
			unsigned n = gfs2_event_read(&seq, got, 32);

			for (unsigned k = 0; k < n && !found; k++)
				found = got[k].seq < end && got[k].type == EV_DIO_END && got[k].gl_number == i;
		}
		assert_true(found);
	}
	atomic_store(&stop_laggards, true);
	pthread_join(t, NULL);
}

static void test_told_is_numbered(void **state)
{
	told_is_numbered(true);
	told_is_numbered(false);
}

/* --- threads that come and go --- */

#define CROWD 300u

static pthread_barrier_t crowd_there, crowd_leaves;

static void *one_of_a_crowd(void *arg)
{
	emit_len((uintptr_t)arg);
	pthread_barrier_wait(&crowd_there);
	pthread_barrier_wait(&crowd_leaves);
	return NULL;
}

static void *one_alone(void *arg)
{
	emit_len((uintptr_t)arg);
	return NULL;
}

/* Memory is bounded, and what cannot be told is counted; who comes when others have left has a ring. */
static void test_crowd(void **state)
{
	bool seen[CROWD + 1] = { false };
	struct gfs2_event got[CROWD];
	uint64_t seq = 1;
	pthread_t t[CROWD];
	unsigned n;

	pthread_barrier_init(&crowd_there, NULL, CROWD + 1);
	pthread_barrier_init(&crowd_leaves, NULL, CROWD + 1);
	for (uintptr_t i = 0; i < CROWD; i++)
		assert_int_equal(pthread_create(&t[i], NULL, one_of_a_crowd, (void *)(i + 1)), 0);
	pthread_barrier_wait(&crowd_there);
	assert_int_equal(gfs2_event_next_seq(), CROWD + 1);
	n = gfs2_event_read(&seq, got, CROWD);
	assert_int_equal(n, 256);
	for (unsigned i = 0; i < n; i++) {
		assert_true(got[i].len >= 1 && got[i].len <= CROWD && !seen[got[i].len]);
		seen[got[i].len] = true;
	}
	pthread_barrier_wait(&crowd_leaves);
	for (unsigned i = 0; i < CROWD; i++)
		pthread_join(t[i], NULL);
	for (uintptr_t i = 1; i <= 2 * CROWD; i++) {
		pthread_t one;

		assert_int_equal(pthread_create(&one, NULL, one_alone, (void *)i), 0);
		pthread_join(one, NULL);
		assert_int_equal(gfs2_event_read(&seq, got, CROWD), 1);
		assert_true(got[0].seq == CROWD + i && got[0].len == i);
	}
	pthread_barrier_destroy(&crowd_there);
	pthread_barrier_destroy(&crowd_leaves);
}

/* --- waiting --- */

#define ROUNDS 500

static void *ponger(void *arg)
{
	for (uint64_t i = 0; i < ROUNDS; i++) {
		assert_true(gfs2_event_wait(2 * i + 1, -1));
		emit_len(2 * i + 2);
	}
	return NULL;
}

static void test_wait(void **state)
{
	pthread_t t;

	assert_false(gfs2_event_wait(1, 0));
	assert_false(gfs2_event_wait(1, 2));
	assert_int_equal(pthread_create(&t, NULL, ponger, NULL), 0);
	for (uint64_t i = 0; i < ROUNDS; i++) {
		emit_len(2 * i + 1);
		assert_true(gfs2_event_wait(2 * i + 2, -1));
	}
	pthread_join(t, NULL);
	assert_true(gfs2_event_wait(1, 0));
	assert_int_equal(gfs2_event_next_seq(), 2 * ROUNDS + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test_setup_teardown(test_switched_off, ring8, ring_exit),
		cmocka_unit_test(test_without_ring),
		cmocka_unit_test_setup_teardown(test_output, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_fields, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_large, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_together, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_overwrite, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_concurrent, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_concurrent, ring2, ring_exit),
		cmocka_unit_test_setup_teardown(test_whole, ring2, ring_exit),
		cmocka_unit_test_setup_teardown(test_order_by_lock, ring_large, ring_exit),
		cmocka_unit_test_setup_teardown(test_order_by_atomic, ring_large, ring_exit),
		cmocka_unit_test_setup_teardown(test_order_with_losses, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_order_with_losses, ring2, ring_exit),
		cmocka_unit_test_setup_teardown(test_stale, ring8, ring_exit),
		cmocka_unit_test_setup_teardown(test_told_is_numbered, ring_large, ring_exit),
		cmocka_unit_test_setup_teardown(test_crowd, ring_large, ring_exit),
		cmocka_unit_test_setup_teardown(test_wait, ring8, ring_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
