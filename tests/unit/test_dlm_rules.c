/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules: what the reference (2.3, 2.4, 2.7) says step by step, and long random runs of four processes on three nodes against
 * an observer that knows only what completions say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "lock/dlm_rules.h"
#include "util/util.h"

#define NL DLM_LOCK_NL
#define CR DLM_LOCK_CR
#define CW DLM_LOCK_CW
#define PR DLM_LOCK_PR
#define PW DLM_LOCK_PW
#define EX DLM_LOCK_EX

#define NAME "       2            3346"

static const struct dlm_owner A = { 1, 10 }, B = { 2, 20 }, C = { 3, 30 }, ANY = { 0, 0 };

static struct dlm_rules *rules;
static uint8_t block[DLM_RULES_LVB];	/* what the next request carries */

static int setup(void **state)
{
	rules = dlm_rules_create();
	memset(block, 0, sizeof(block));
	return 0;
}

static int teardown(void **state)
{
	dlm_rules_destroy(rules);
	rules = NULL;
	return 0;
}

static void check(void)
{
	const char *wrong = dlm_rules_check(rules);

	if (wrong) {
		dlm_rules_dump(rules, stderr);
		fail_msg("%s", wrong);
	}
}

static uint32_t ask(struct dlm_owner owner, int mode, uint32_t flags)
{
	struct dlm_ask a = { .mode = mode, .flags = flags, .bast = true, .lvb = block };
	uint32_t lkid = 0;

	assert_int_equal(dlm_rules_lock(rules, owner, NAME, 24, &a, &lkid), 0);
	assert_true(lkid);
	check();
	return lkid;
}

static int try_convert(uint32_t lkid, int mode, uint32_t flags)
{
	struct dlm_ask a = { .mode = mode, .flags = flags, .bast = true, .lvb = block };
	int error = dlm_rules_convert(rules, lkid, &a);

	check();
	return error;
}

static void change(uint32_t lkid, int mode, uint32_t flags)
{
	assert_int_equal(try_convert(lkid, mode, flags), 0);
}

static struct dlm_output got;

static void ast(uint32_t lkid, int status, int mode)
{
	assert_true(dlm_rules_next(rules, ANY, &got));
	assert_int_equal(got.type, DLM_OUT_AST);
	assert_int_equal(got.lkid, lkid);
	assert_int_equal(got.status, status);
	assert_int_equal(got.mode, mode);
}

static void bast(uint32_t lkid, int mode)
{
	assert_true(dlm_rules_next(rules, ANY, &got));
	assert_int_equal(got.type, DLM_OUT_BAST);
	assert_int_equal(got.lkid, lkid);
	assert_int_equal(got.mode, mode);
}

static void nothing(void)
{
	assert_false(dlm_rules_next(rules, ANY, &got));
}

static uint32_t granted(struct dlm_owner owner, int mode, uint32_t flags)
{
	uint32_t lkid = ask(owner, mode, flags);

	ast(lkid, 0, mode);
	return lkid;
}

static void drop(uint32_t lkid, uint32_t flags)
{
	assert_int_equal(dlm_rules_unlock(rules, lkid, flags, block), 0);
	check();
}

/* Reference 2.1. */
static void test_modes(void **state)
{
	static const char *const rows[] = { "++++++", "+++++-", "+++---", "++-+--", "++----", "+-----" };

	for (int a = NL; a <= EX; a++)
		for (int b = NL; b <= EX; b++) {
			uint32_t first, second;

			assert_int_equal(dlm_modes_compatible(a, b), rows[a][b] == '+');
			first = granted(A, a, 0);
			second = ask(B, b, DLM_LKF_NOQUEUE);
			ast(second, rows[a][b] == '+' ? 0 : -EAGAIN, rows[a][b] == '+' ? b : DLM_LOCK_IV);
			nothing();
			drop(first, 0);
			ast(first, -DLM_EUNLOCK, DLM_LOCK_IV);
			if (rows[a][b] == '+') {
				drop(second, 0);
				ast(second, -DLM_EUNLOCK, DLM_LOCK_IV);
			}
			assert_int_equal(dlm_rules_count(rules, ANY), 0);
		}
}

static void test_bad_arguments(void **state)
{
	struct dlm_ask a = { .mode = PR, .flags = DLM_LKF_QUECVT };
	uint32_t lkid, l;

	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &a, &lkid), -EINVAL);
	a.flags = DLM_LKF_CONVDEADLK;
	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &a, &lkid), -EINVAL);
	a.flags = DLM_LKF_VALBLK; /* and no block */
	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &a, &lkid), -EINVAL);
	a.flags = DLM_LKF_EXPEDITE;
	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &a, &lkid), -EINVAL);
	a.flags = 0;
	a.mode = EX + 1;
	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &a, &lkid), -EINVAL);
	assert_int_equal(dlm_rules_count(rules, ANY), 0);
	assert_int_equal(try_convert(7, PR, 0), -ENOENT);
	assert_int_equal(dlm_rules_cancel(rules, 7), -ENOENT);
	assert_int_equal(dlm_rules_unlock(rules, 7, 0, NULL), -ENOENT);

	l = granted(A, EX, 0);
	assert_int_equal(try_convert(l, NL, DLM_LKF_QUECVT), -EINVAL);
	assert_int_equal(dlm_rules_unlock(rules, l, DLM_LKF_NOQUEUE, NULL), -EINVAL);
	ask(B, EX, 0);
	assert_int_equal(dlm_rules_cancel(rules, l), 0);
	bast(l, EX);
	nothing(); /* there was nothing to cancel */
}

static void test_bast_modes(void **state)
{
	uint32_t a = granted(A, PR, 0), b = granted(B, PR, 0), c = ask(C, CW, 0), d;

	bast(b, CW);
	bast(a, CW);
	/* PR and CW are not ordered, so this cannot be known to be no news */
	d = ask(A, CW, 0);
	bast(b, CW);
	bast(a, CW);
	/* but EX is more, and is told once */
	ask(A, EX, 0);
	bast(b, EX);
	bast(a, EX);
	ask(C, EX, 0);
	nothing();
	change(a, NL, 0);
	ast(a, 0, NL);
	nothing();
	change(b, CW, 0);
	ast(b, 0, CW);
	ast(c, 0, CW);
	ast(d, 0, CW);
	/* all three are in the way of EX, which is not news for none of them */
	bast(d, EX);
	bast(c, EX);
	bast(b, EX);
	nothing();
}

/* PR wanted, CW waits too: PR holders hear of the CW. */
static void test_bast_pr_behind_cw(void **state)
{
	uint32_t a = granted(A, PR, 0), b = ask(B, CW, 0), c = ask(C, PR, 0), e;

	bast(a, CW);
	nothing(); /* c waits because b does, not for a */
	e = ask(A, NL, 0);
	change(a, CW, 0);
	ast(a, 0, CW);
	ast(b, 0, CW);
	bast(b, PR);
	bast(a, PR);
	nothing();
	drop(b, 0);
	ast(b, -DLM_EUNLOCK, DLM_LOCK_IV);
	change(a, NL, 0);
	ast(a, 0, NL);
	ast(c, 0, PR);
	ast(e, 0, NL); /* even NL queues behind others */
	nothing();
}

/* The owner has gone down before he takes the callback: it says nothing to him any more. */
static void test_pointless_bast(void **state)
{
	uint32_t a = granted(A, EX, 0), b = ask(B, PR, 0);

	change(a, NL, 0);
	assert_true(dlm_rules_next(rules, B, &got));
	assert_int_equal(got.lkid, b);
	assert_int_equal(got.status, 0);
	/* queued before the completion, so it still comes first */
	assert_true(dlm_rules_next(rules, A, &got));
	assert_int_equal(got.type, DLM_OUT_BAST);
	assert_true(dlm_rules_next(rules, A, &got));
	assert_int_equal(got.type, DLM_OUT_AST);
	nothing();

	/* the same mode twice, nobody looking: once */
	a = granted(C, CR, 0);
	ask(B, EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
	ask(B, EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
	assert_true(dlm_rules_next(rules, C, &got));
	assert_int_equal(got.type, DLM_OUT_BAST);
	assert_false(dlm_rules_next(rules, C, &got));
}

static void test_noqueue(void **state)
{
	uint32_t a = granted(A, PR, 0), b = granted(B, PR, 0), t;

	change(a, EX, DLM_LKF_NOQUEUE);
	ast(a, -EAGAIN, PR);
	nothing(); /* TRY asks nobody */
	change(a, EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
	ast(a, -EAGAIN, PR);
	bast(b, EX);
	nothing();
	t = ask(C, EX, DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST);
	ast(t, -EAGAIN, DLM_LOCK_IV);
	bast(a, EX); /* b has heard that */
	nothing();
	assert_int_equal(dlm_rules_unlock(rules, t, 0, NULL), -ENOENT);
	assert_int_equal(dlm_rules_count(rules, C), 0);
}

static void test_order(void **state)
{
	uint32_t a = granted(A, EX, 0), b = granted(B, NL, 0), c = ask(C, PR, 0), d, e;

	bast(a, PR);
	change(b, PR, 0);
	nothing();
	d = ask(C, NL, 0);
	nothing();
	/* conversions come before those who wait, whoever came first */
	change(a, PR, 0);
	ast(a, 0, PR);
	ast(b, 0, PR);
	ast(c, 0, PR);
	ast(d, 0, NL);
	nothing();

	/* A conversion that fits overtakes the queue, unless it is told to queue. */
	change(d, EX, 0);
	bast(c, EX);
	bast(b, EX);
	bast(a, EX);
	e = ask(A, PR, 0);
	nothing();
	change(c, NL, 0);
	ast(c, 0, NL);
	change(c, PR, 0);
	ast(c, 0, PR);
	bast(c, EX);
	change(c, NL, 0);
	ast(c, 0, NL);
	change(c, PR, DLM_LKF_QUECVT);
	nothing();
	change(a, NL, 0);
	ast(a, 0, NL);
	change(b, NL, 0);
	ast(b, 0, NL);
	ast(d, 0, EX);
	bast(d, PR);
	nothing();
	drop(d, 0);
	ast(d, -DLM_EUNLOCK, DLM_LOCK_IV);
	ast(c, 0, PR);
	ast(e, 0, PR);
	nothing();
}

static void test_conversion_deadlock(void **state)
{
	uint32_t a = granted(A, PR, 0), b = granted(B, PR, 0);

	change(a, EX, DLM_LKF_QUECVT);
	bast(b, EX);
	change(b, EX, DLM_LKF_QUECVT);
	ast(b, -EDEADLK, PR);
	nothing();
	assert_int_equal(try_convert(a, NL, 0), -EBUSY);
	/* gfs2's way out */
	change(b, NL, 0);
	ast(b, 0, NL);
	ast(a, 0, EX);
	change(b, EX, DLM_LKF_QUECVT);
	bast(a, EX);
	change(a, NL, 0);
	ast(a, 0, NL);
	ast(b, 0, EX);
	nothing();

	/* the same with CONVDEADLK: the second one loses its mode and waits */
	change(b, PR, 0);
	ast(b, 0, PR);
	change(a, PR, 0);
	ast(a, 0, PR);
	change(a, EX, DLM_LKF_QUECVT);
	bast(b, EX);
	change(b, EX, DLM_LKF_QUECVT | DLM_LKF_CONVDEADLK);
	ast(a, 0, EX);
	bast(a, EX);
	nothing();
	change(a, NL, 0);
	ast(a, 0, NL);
	ast(b, 0, EX);
	assert_int_equal(got.sbflags, DLM_SBF_DEMOTED);
	nothing();
}

/* PR -> CW and CW -> PR at the same time block each other too. */
static void test_sideways_deadlock(void **state)
{
	uint32_t a = granted(A, PR, 0), b = granted(B, PR, 0), c;

	change(a, CW, DLM_LKF_QUECVT);
	bast(b, CW);
	change(b, CW, DLM_LKF_QUECVT);
	ast(b, -EDEADLK, PR);
	nothing();
	c = ask(C, PR, DLM_LKF_ALTCW);
	nothing();
	change(b, NL, 0);
	ast(b, 0, NL);
	ast(a, 0, CW);
	ast(c, 0, CW);
	assert_int_equal(got.sbflags, DLM_SBF_ALTMODE);
	nothing();
}

static void test_cancel(void **state)
{
	uint32_t a = granted(A, PR, 0), b = granted(B, PR, 0), c = ask(C, EX, 0), d;

	bast(b, EX);
	bast(a, EX);
	d = ask(C, PR, 0);
	assert_int_equal(dlm_rules_cancel(rules, c), 0);
	check();
	ast(c, -DLM_ECANCEL, DLM_LOCK_IV);
	ast(d, 0, PR);
	assert_int_equal(dlm_rules_cancel(rules, c), -ENOENT);
	/* no second callback for EX: they have heard it */
	change(a, EX, DLM_LKF_QUECVT);
	bast(d, EX);
	assert_int_equal(dlm_rules_cancel(rules, a), 0);
	check();
	ast(a, -DLM_ECANCEL, PR);
	/* the real one refuses that until something else was asked for */
	assert_int_equal(dlm_rules_cancel(rules, a), -EINVAL);
	nothing();
	change(b, NL, 0);
	ast(b, 0, NL);
}

static void put_block(uint8_t first)
{
	memset(block, first, sizeof(block));
}

/* Every pair of modes: who reads, who writes (reference 2.4, typed in again here). */
static void test_lvb_matrix(void **state)
{
	static const char *const rows[] = { "RRRRRR", ".RRRRR", "..RRRR", "...RRR", "WWWWWR", "WWWWWW" };

	for (int from = NL; from <= EX; from++)
		for (int to = NL; to <= EX; to++) {
			uint32_t keep, l;
			uint8_t now[DLM_RULES_LVB];
			bool valid;

			/* keep: an NL lock, so that the resource stays; it has a block of 0x11. */
			put_block(0x11);
			keep = granted(A, EX, DLM_LKF_VALBLK);
			change(keep, NL, DLM_LKF_VALBLK);
			ast(keep, 0, NL);
			put_block(0);
			l = granted(B, from, DLM_LKF_VALBLK);
			assert_true(got.lvb_read);
			assert_int_equal(got.lvb[5], 0x11);
			put_block(0x22);
			change(l, to, DLM_LKF_VALBLK);
			ast(l, 0, to);
			assert_int_equal(got.lvb_read, rows[from][to] == 'R');
			if (got.lvb_read)
				assert_int_equal(got.lvb[31], 0x11);
			assert_true(dlm_rules_lvb(rules, NAME, 24, now, &valid));
			assert_true(valid);
			assert_int_equal(now[0], rows[from][to] == 'W' ? 0x22 : 0x11);
			/* unlocking writes from PW and EX only */
			put_block(0x33);
			drop(l, DLM_LKF_VALBLK);
			ast(l, -DLM_EUNLOCK, DLM_LOCK_IV);
			assert_true(dlm_rules_lvb(rules, NAME, 24, now, &valid));
			assert_int_equal(now[0], to >= PW ? 0x33 : rows[from][to] == 'W' ? 0x22 : 0x11);
			drop(keep, 0);
			ast(keep, -DLM_EUNLOCK, DLM_LOCK_IV);
			assert_false(dlm_rules_lvb(rules, NAME, 24, now, &valid));
		}
}

static void test_lvb_validity(void **state)
{
	uint32_t a, b, c;

	/* never written: nothing is read and nothing is said */
	a = granted(A, NL, DLM_LKF_VALBLK);
	assert_false(got.lvb_read);
	b = granted(B, EX, DLM_LKF_VALBLK);
	assert_false(got.lvb_read);
	dlm_rules_process_died(rules, B);
	check();
	change(a, PR, DLM_LKF_VALBLK);
	ast(a, 0, PR);
	assert_false(got.lvb_read);
	assert_int_equal(got.sbflags, 0);

	/* written, then a writer dies: stale bytes, and a flag, until the next write */
	change(a, EX, DLM_LKF_VALBLK);
	ast(a, 0, EX);
	put_block(0x44);
	change(a, NL, DLM_LKF_VALBLK);
	ast(a, 0, NL);
	b = granted(B, EX, DLM_LKF_VALBLK);
	assert_int_equal(got.lvb[0], 0x44);
	assert_int_equal(got.sbflags, 0);
	c = ask(C, PR, DLM_LKF_VALBLK);
	bast(b, PR);
	dlm_rules_process_died(rules, B);
	check();
	ast(c, 0, PR);
	assert_true(got.lvb_read);
	assert_int_equal(got.lvb[0], 0x44);
	assert_int_equal(got.sbflags, DLM_SBF_VALNOTVALID);
	drop(c, 0);
	ast(c, -DLM_EUNLOCK, DLM_LOCK_IV);
	change(a, EX, DLM_LKF_VALBLK);
	ast(a, 0, EX);
	assert_int_equal(got.sbflags, DLM_SBF_VALNOTVALID);
	put_block(0x55);
	change(a, PR, DLM_LKF_VALBLK);
	ast(a, 0, PR);
	assert_int_equal(got.sbflags, 0);
	/* a reader's death harms nothing; IVVALBLK does */
	c = granted(C, PR, DLM_LKF_VALBLK);
	dlm_rules_process_died(rules, C);
	change(a, NL, DLM_LKF_VALBLK);
	ast(a, 0, NL);
	c = granted(C, EX, DLM_LKF_VALBLK);
	assert_int_equal(got.sbflags, 0);
	change(c, NL, DLM_LKF_IVVALBLK);
	ast(c, 0, NL);
	change(a, PR, DLM_LKF_VALBLK);
	ast(a, 0, PR);
	assert_int_equal(got.sbflags, DLM_SBF_VALNOTVALID);
	nothing();
}

static void test_process_death(void **state)
{
	uint32_t a = granted(A, EX, DLM_LKF_PERSISTENT), b = ask(B, PR, 0), c, d;
	struct dlm_ask again = { .mode = PR, .flags = DLM_LKF_ORPHAN };

	bast(a, PR);
	dlm_rules_process_died(rules, A);
	check();
	nothing();
	/* nobody's lock still blocks, and hears nothing */
	c = ask(C, EX, 0);
	nothing();
	assert_int_equal(try_convert(a, NL, 0), -ENOENT);
	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &again, &d), -EAGAIN);
	again.mode = EX;
	assert_int_equal(dlm_rules_lock(rules, B, NAME, 24, &again, &d), -ENOENT);
	assert_int_equal(dlm_rules_lock(rules, A, NAME, 24, &again, &d), 0);
	assert_int_equal(d, a);
	nothing();
	dlm_rules_process_orphaned(rules, A);
	dlm_rules_purge(rules, (struct dlm_owner){ 1, 11 }); /* another process's */
	nothing();
	assert_int_equal(dlm_rules_purge_resource(rules, A, "x", 1), 0);
	assert_int_equal(dlm_rules_purge_resource(rules, A, NAME, 24), 1);
	check();
	ast(b, 0, PR);
	bast(b, EX);
	nothing();
	drop(b, 0);
	ast(b, -DLM_EUNLOCK, DLM_LOCK_IV);
	ast(c, 0, EX);
	nothing();
}

/* A conversion in flight is taken back, a request vanishes. */
static void test_orphan_in_flight(void **state)
{
	uint32_t a = granted(A, PR, DLM_LKF_PERSISTENT), b = granted(B, PR, 0), c, d;
	struct dlm_lock_info info;

	change(a, EX, DLM_LKF_QUECVT | DLM_LKF_PERSISTENT);
	bast(b, EX);
	c = ask(A, EX, DLM_LKF_PERSISTENT);
	d = ask(C, PR, 0);
	nothing();
	dlm_rules_process_died(rules, A);
	check();
	ast(d, 0, PR);
	nothing();
	assert_true(dlm_rules_get(rules, a, &info));
	assert_int_equal(info.granted, PR);
	assert_true(info.orphan);
	assert_false(dlm_rules_get(rules, c, &info));
	/* The flags of the last operation count: an unlocked-by-death one is no orphan. */
	change(b, PR, 0);
	ast(b, 0, PR);
	dlm_rules_process_died(rules, B);
	assert_false(dlm_rules_get(rules, b, &info));
	dlm_rules_purge(rules, (struct dlm_owner){ 1, 0 });
	assert_false(dlm_rules_get(rules, a, &info));
	check();
}

static void test_node_death(void **state)
{
	uint32_t a, b, c, d;

	put_block(0x66);
	d = granted(C, EX, DLM_LKF_VALBLK);
	change(d, NL, DLM_LKF_VALBLK);
	ast(d, 0, NL);
	a = granted(A, EX, DLM_LKF_VALBLK | DLM_LKF_PERSISTENT);
	b = granted(B, NL, DLM_LKF_VALBLK);
	change(b, PR, DLM_LKF_VALBLK | DLM_LKF_QUECVT);
	bast(a, PR);
	change(d, PR, DLM_LKF_VALBLK | DLM_LKF_QUECVT);
	c = ask(A, PR, 0);
	dlm_rules_process_died(rules, A);
	dlm_rules_node_died(rules, A.node);
	check();
	ast(b, 0, PR);
	assert_int_equal(got.sbflags, DLM_SBF_VALNOTVALID);
	assert_int_equal(got.lvb[0], 0x66);
	ast(d, 0, PR);
	assert_int_equal(got.sbflags, DLM_SBF_VALNOTVALID);
	nothing();
	assert_int_equal(dlm_rules_count(rules, (struct dlm_owner){ 1, 0 }), 0);
	(void)c;
}

static void test_remaster(void **state)
{
	uint32_t a, b, c;

	put_block(0x77);
	a = granted(A, EX, DLM_LKF_VALBLK);
	change(a, PR, DLM_LKF_VALBLK);
	ast(a, 0, PR);
	b = granted(B, PR, DLM_LKF_VALBLK);
	dlm_rules_remaster(rules, NAME, 24);
	check();
	change(a, NL, DLM_LKF_VALBLK);
	ast(a, 0, NL);
	c = granted(C, NL, DLM_LKF_VALBLK);
	assert_int_equal(got.lvb[0], 0x77);
	assert_int_equal(got.sbflags, 0);
	/* a conversion that nobody knows what from: the granted PR tells */
	change(a, PR, DLM_LKF_VALBLK);
	ast(a, 0, PR);
	change(a, CW, DLM_LKF_VALBLK | DLM_LKF_QUECVT);
	bast(b, CW);
	dlm_rules_remaster(rules, NAME, 24);
	check();
	bast(b, CW);
	dlm_rules_node_died(rules, B.node);
	check();
	ast(a, 0, CW);
	change(a, NL, DLM_LKF_VALBLK);
	ast(a, 0, NL);
	/* only NL left: the bytes are a guess */
	dlm_rules_remaster(rules, NAME, 24);
	check();
	change(c, PR, DLM_LKF_VALBLK);
	ast(c, 0, PR);
	assert_int_equal(got.lvb[0], 0x77);
	assert_int_equal(got.sbflags, DLM_SBF_VALNOTVALID);
}

/* --- random --- */

#define PROCS 4
#define NAMES 3
#define LOCKS 40

static const struct dlm_owner procs[PROCS] = { { 1, 1 }, { 1, 2 }, { 2, 1 }, { 3, 1 } };

/* What an observer knows of a lock from requests and completions alone. */
struct seen {
	uint32_t lkid;		/* 0: free slot */
	unsigned proc, name;
	int mode;		/* DLM_LOCK_IV: never granted */
	bool asking, unlocking, persistent, noqueue;
	int wants;
	unsigned basts;
};

static struct seen seen[LOCKS];
static uint64_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

static struct seen *find_seen(uint32_t lkid)
{
	for (unsigned i = 0; i < LOCKS; i++)
		if (seen[i].lkid == lkid)
			return &seen[i];
	fail_msg("output for unknown lock %u", lkid);
	return NULL;
}

static void take_output(const struct dlm_output *o)
{
	struct seen *s = find_seen(o->lkid);

	assert_int_equal(o->owner.node, procs[s->proc].node);
	assert_int_equal(o->owner.pid, procs[s->proc].pid);
	assert_ptr_equal(o->cookie, s);
	if (o->type == DLM_OUT_BAST) {
		/* never for a lock that is not in the way, as far as its owner knows */
		assert_false(dlm_modes_compatible(s->mode, o->mode));
		s->basts++;
		return;
	}
	switch (o->status) {
	case 0:
		assert_true(s->asking);
		assert_int_equal(o->mode, s->wants);
		s->mode = o->mode;
		break;
	case -EAGAIN:
		assert_true(s->asking && s->noqueue);
		assert_int_equal(o->mode, s->mode);
		break;
	case -EDEADLK:
		assert_true(s->asking && !s->noqueue && s->mode > NL);
		assert_int_equal(o->mode, s->mode);
		break;
	case -DLM_ECANCEL:
		assert_true(s->asking);
		assert_int_equal(o->mode, s->mode);
		break;
	case -DLM_EUNLOCK:
		assert_true(s->unlocking);
		s->mode = DLM_LOCK_IV;
		break;
	default:
		fail_msg("status %d", o->status);
	}
	s->asking = s->unlocking = false;
	if (s->mode == DLM_LOCK_IV)
		s->lkid = 0;
}

static void take_outputs(struct dlm_owner owner, unsigned max)
{
	struct dlm_output o;

	while (max-- && dlm_rules_next(rules, owner, &o))
		take_output(&o);
}

static void random_request(struct seen *s)
{
	struct dlm_ask a = { .bast = true, .lvb = block, .cookie = s };
	char name[8];

	*s = (struct seen){ .proc = rnd(PROCS), .name = rnd(NAMES), .mode = DLM_LOCK_IV };
	s->wants = a.mode = rnd(EX + 1);
	s->noqueue = !rnd(4);
	s->persistent = rnd(2);
	s->asking = true;
	a.flags = (s->noqueue ? DLM_LKF_NOQUEUE | (rnd(2) ? DLM_LKF_NOQUEUEBAST : 0) : 0) |
		  (s->persistent ? DLM_LKF_PERSISTENT : 0) | (rnd(2) ? DLM_LKF_VALBLK : 0);
	snprintf(name, sizeof(name), "res%u", s->name);
	assert_int_equal(dlm_rules_lock(rules, procs[s->proc], name, strlen(name), &a, &s->lkid), 0);
}

static void random_convert(struct seen *s)
{
	struct dlm_ask a = { .bast = true, .lvb = block, .cookie = s };
	int error;

	s->wants = a.mode = rnd(EX + 1);
	s->noqueue = !rnd(4);
	a.flags = (s->noqueue ? DLM_LKF_NOQUEUE : 0) | (s->persistent ? DLM_LKF_PERSISTENT : 0) |
		  (rnd(2) ? DLM_LKF_VALBLK : 0);
	if (!s->noqueue && a.mode > s->mode)
		a.flags |= rnd(2) ? DLM_LKF_QUECVT : 0;
	error = dlm_rules_convert(rules, s->lkid, &a);
	assert_int_equal(error, 0);
	s->asking = true;
}

static void random_cancel(struct seen *s)
{
	struct dlm_lock_info info;
	int error = dlm_rules_cancel(rules, s->lkid);

	/* taken back already */
	if (error == -EINVAL)
		return;
	/* gone already, and its owner has not heard of it? */
	assert_int_equal(error, s->mode == DLM_LOCK_IV && !dlm_rules_get(rules, s->lkid, &info) && error ?
				-ENOENT : 0);
}

static void forget_proc(unsigned p)
{
	for (unsigned i = 0; i < LOCKS; i++)
		if (seen[i].lkid && seen[i].proc == p)
			seen[i].lkid = 0;
}

static void random_death(void)
{
	unsigned p = rnd(PROCS), least = 0, most = 0, left;
	struct dlm_owner node = { procs[p].node, 0 };
	bool kill_node = rnd(2);

	if (kill_node) {
		dlm_rules_node_died(rules, procs[p].node);
		for (unsigned q = 0; q < PROCS; q++)
			if (procs[q].node == procs[p].node)
				forget_proc(q);
		assert_int_equal(dlm_rules_count(rules, node), 0);
		return;
	}
	dlm_rules_purge(rules, node); /* so that the count is this one's */
	take_outputs(ANY, UINT32_MAX);
	for (unsigned i = 0; i < LOCKS; i++)
		if (seen[i].lkid && seen[i].proc == p && seen[i].persistent) {
			least += seen[i].mode != DLM_LOCK_IV;
			most++;
		}
	dlm_rules_process_died(rules, procs[p]);
	forget_proc(p);
	/* One that waits may be granted by the death of its own process's other locks, before it is looked at. */
	left = dlm_rules_count(rules, procs[p]);
	assert_in_range(left, least, most);
}

static void everything_ends(void)
{
	for (unsigned p = 0; p < PROCS; p++) {
		for (unsigned i = 0; i < LOCKS; i++) {
			if (!seen[i].lkid || seen[i].proc != p)
				continue;
			take_outputs(ANY, UINT32_MAX);
			if (!seen[i].lkid)
				continue;
			if (seen[i].asking)
				assert_int_equal(dlm_rules_cancel(rules, seen[i].lkid), 0);
			take_outputs(ANY, UINT32_MAX);
			assert_false(seen[i].asking);
			if (!seen[i].lkid)
				continue;
			seen[i].unlocking = true;
			drop(seen[i].lkid, 0);
			take_outputs(ANY, UINT32_MAX);
			assert_int_equal(seen[i].lkid, 0);
		}
		dlm_rules_purge(rules, (struct dlm_owner){ procs[p].node, 0 });
		take_outputs(ANY, UINT32_MAX);
	}
	assert_int_equal(dlm_rules_count(rules, ANY), 0);
	assert_null(dlm_rules_check(rules));
}

static void test_random(void **state)
{
	unsigned waits = 0;

	for (unsigned round = 0; round < 60; round++) {
		seed = round + 1;
		memset(seen, 0, sizeof(seen));
		for (unsigned step = 0; step < 600; step++) {
			struct seen *s = &seen[rnd(LOCKS)];

			if (!s->lkid)
				random_request(s);
			else if (s->asking && !rnd(4))
				random_cancel(s);
			else if (s->asking || s->unlocking)
				waits++;
			else if (!rnd(4)) {
				s->unlocking = true;
				assert_int_equal(dlm_rules_unlock(rules, s->lkid, 0, block), 0);
			} else
				random_convert(s);
			if (!rnd(40))
				random_death();
			check();
			/* sometimes late, so that callbacks pile up */
			if (rnd(3))
				take_outputs(procs[rnd(PROCS)], rnd(5));
		}
		everything_ends();
	}
	assert_true(waits > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_arguments, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bast_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bast_pr_behind_cw, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pointless_bast, setup, teardown),
		cmocka_unit_test_setup_teardown(test_noqueue, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_conversion_deadlock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sideways_deadlock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lvb_matrix, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lvb_validity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_process_death, setup, teardown),
		cmocka_unit_test_setup_teardown(test_orphan_in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(test_node_death, setup, teardown),
		cmocka_unit_test_setup_teardown(test_remaster, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
