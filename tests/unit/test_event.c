/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The event ring: exact output, overwriting, readers against writers, sleeping. */
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
	gfs2_event_init(3);
	*current_ctx() = (struct gfs2_ctx){ .req = 77, .pid = 4242 };
	return 0;
}

/* As small as it can be: writers and readers meet in the slots all the time. */
static int ring2(void **state)
{
	gfs2_event_init(1);
	return 0;
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
	ev_glock(EV_GLOCK_STATE, &fake_gl, LM_ST_SHARED, LM_ST_EXCLUSIVE, "holder");
	check_output(J("\"glock_state\"," HEAD ",\"glock\":\"2/35f8\",\"from\":\"SH\",\"to\":\"EX\","
		       "\"reason\":\"holder\""),
		     T "gfs2_glock_state_change: glock 2:13816 state PR to EX holder req:77");
	ev_glock(EV_GLOCK_QUEUE, &fake_gl, -1, LM_ST_DEFERRED, NULL);
	check_output(J("\"glock_queue\"," HEAD ",\"glock\":\"2/35f8\",\"to\":\"DF\""),
		     T "gfs2_glock_queue: glock 2:13816 queue CW req:77");
	ev_glock(EV_GLOCK_PROMOTE, &fake_gl, -1, LM_ST_DEFERRED, NULL);
	check_output(J("\"glock_promote\"," HEAD ",\"glock\":\"2/35f8\",\"to\":\"DF\""),
		     T "gfs2_promote: glock 2:13816 promote CW req:77");
	ev_glock(EV_GLOCK_DEQUEUE, &fake_gl, -1, LM_ST_SHARED, NULL);
	check_output(J("\"glock_dequeue\"," HEAD ",\"glock\":\"2/35f8\",\"to\":\"SH\""),
		     T "gfs2_glock_queue: glock 2:13816 dequeue PR req:77");
	ev_glock(EV_GLOCK_DEMOTE_RQ, &fake_gl, LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, "remote");
	check_output(J("\"glock_demote_rq\"," HEAD ",\"glock\":\"2/35f8\",\"from\":\"EX\","
		       "\"to\":\"UN\",\"reason\":\"remote\""),
		     T "gfs2_demote_rq: glock 2:13816 demote EX to NL remote req:77");
	ev_dlm_lock(&fake_gl, LM_ST_SHARED, 0x1 | 0x4 | 0x8 | 0x80 | 0x800, "try");
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

	gfs2_event_emit(&e);
	got = last_event();
	assert_int_equal(got.req, 5);
	assert_int_equal(got.pid, 6);
	assert_true(got.t_ns > 1500000000000000000ull);
	ev_glock(EV_GLOCK_STATE, &fake_gl, -1, -1, "0123456789012345678901234567890123456789");
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

/* Whatever an event has to tell: most are kept in a shorter form. */
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
	uint64_t seq = 1;

	ev_glock_at(EV_GLOCK_QUEUE, &fake_gl, -1, LM_ST_DEFERRED, "me", 5);
	ev_glock_at(EV_GLOCK_PROMOTE, &fake_gl, -1, LM_ST_DEFERRED, "fast", 5);
	ev_dio_at(EV_DIO_BEGIN, 13816, 4096, 512, 0, "write", 6);
	ev_dio_at(EV_DIO_SUBMIT, 13816, 4096, 512, 0, NULL, 6);
	ev_glock_granted(&fake_gl, LM_ST_DEFERRED, "me", "fast", 5);
	ev_dio_begun(13816, 4096, 512, "write", 6);
	assert_int_equal(gfs2_event_read(&seq, got, 8), 8);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(got[i + 4].seq, i + 5);
		got[i + 4].seq = got[i].seq;
		assert_memory_equal(&got[i], &got[i + 4], sizeof(got[i]));
	}
}

static void test_overwrite(void **state)
{
	struct gfs2_event got[16];
	uint64_t seq = 0;

	assert_int_equal(gfs2_event_read(&seq, got, 16), 0);
	assert_int_equal(gfs2_event_next_seq(), 1);
	for (int i = 1; i <= 20; i++)
		emit_len(i);
	assert_int_equal(gfs2_event_next_seq(), 21);
	/* Eight slots: 13..20 are left. */
	assert_int_equal(gfs2_event_read(&seq, got, 3), 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(got[i].seq, 13 + i);
		assert_int_equal(got[i].len, 13 + i);
	}
	assert_int_equal(seq, 16);
	assert_int_equal(gfs2_event_read(&seq, got, 16), 5);
	assert_int_equal(got[4].seq, 20);
	assert_int_equal(gfs2_event_read(&seq, got, 16), 0);
	assert_int_equal(seq, 21);
	/* In the future: nothing, and it stays there. */
	seq = 30;
	assert_int_equal(gfs2_event_read(&seq, got, 16), 0);
	assert_int_equal(seq, 30);
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
	assert_false(gfs2_event_wait(1, 0));
}

/* --- threads --- */

#define WRITERS 3
#define PER_WRITER 100000

static atomic_uint writers_left;

static void *writer(void *arg)
{
	for (uint64_t i = 1; i <= PER_WRITER; i++)
		/* In both forms. */
		emit_len((i & 1 ? 1ull << 40 : 0) | (uint64_t)(uintptr_t)arg << 20 | i);
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

/* Ping-pong through two sleepers: a lost wake-up would hang it. */
#define ROUNDS 2000

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
		cmocka_unit_test_setup_teardown(test_wait, ring8, ring_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
