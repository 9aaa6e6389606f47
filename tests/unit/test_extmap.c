/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The extent map against a model that has one entry per block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include "fs/extmap.h"
#include "util/util.h"

#define BLOCKS 400
#define UNKNOWN UINT64_MAX

static uint64_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

/* Sorted, no overlap, nothing empty, neighbours merged, not more than allowed. */
static void check_shape(struct extmap *m)
{
	assert_true(m->nr <= m->max);
	for (unsigned i = 0; i < m->nr; i++) {
		const struct extent *e = &m->ext[i], *p = i ? e - 1 : NULL;

		assert_true(e->len > 0);
		if (!p)
			continue;
		assert_true(p->lblock + p->len <= e->lblock);
		if (p->lblock + p->len == e->lblock)
			assert_true(p->pblock ? p->pblock + p->len != e->pblock : e->pblock);
	}
}

static void check_lookup(struct extmap *m, const uint64_t *model, uint64_t l)
{
	struct extent e, t;

	if (model[l] == UNKNOWN) {
		assert_false(extmap_lookup(m, l, &e));
		return;
	}
	assert_true(extmap_lookup(m, l, &e));
	assert_true(extmap_lookup_try(m, l, &t));
	assert_memory_equal(&e, &t, sizeof(e));
	assert_int_equal(e.lblock, l);
	assert_true(e.len > 0 && l + e.len <= BLOCKS);
	for (uint64_t i = 0; i < e.len; i++)
		assert_int_equal(model[l + i], e.pblock ? e.pblock + i : 0);
	/* as long as it can be */
	if (l + e.len < BLOCKS)
		assert_true(model[l + e.len] == UNKNOWN ||
			    model[l + e.len] != (e.pblock ? e.pblock + e.len : 0));
}

static void test_random(void **state)
{
	for (unsigned round = 0; round < 200; round++) {
		uint64_t model[BLOCKS];
		struct extmap m;

		seed = round + 1;
		extmap_init(&m);
		for (unsigned i = 0; i < BLOCKS; i++)
			model[i] = UNKNOWN;
		for (unsigned step = 0; step < 300; step++) {
			struct extent e = { rnd(BLOCKS), 1 + rnd(20), 0 };

			if (e.lblock + e.len > BLOCKS)
				e.len = BLOCKS - e.lblock;
			/* Few distinct places, so that runs meet and merge. */
			if (rnd(3))
				e.pblock = 1000 * (1 + rnd(3)) + e.lblock;
			if (rnd(4)) {
				extmap_insert(&m, &e);
				for (uint64_t i = 0; i < e.len; i++)
					model[e.lblock + i] = e.pblock ? e.pblock + i : 0;
			} else {
				if (!rnd(10)) {
					extmap_forget(&m, e.lblock, UINT64_MAX);
					e.len = BLOCKS - e.lblock;
				} else {
					extmap_forget(&m, e.lblock, e.len);
				}
				for (uint64_t i = 0; i < e.len; i++)
					model[e.lblock + i] = UNKNOWN;
			}
			check_shape(&m);
			for (unsigned i = 0; i < 8; i++)
				check_lookup(&m, model, rnd(BLOCKS));
		}
		for (uint64_t l = 0; l < BLOCKS; l++)
			check_lookup(&m, model, l);
		extmap_clear(&m);
		assert_false(extmap_lookup(&m, 0, &(struct extent){ 0 }));
		extmap_destroy(&m);
	}
}

/* More runs than allowed: everything is forgotten but the newest, which stays true. */
static void test_bounded(void **state)
{
	struct extent e, out;
	struct extmap m;

	extmap_init(&m);
	m.max = 16;
	for (uint64_t i = 0; i < 1000; i++) {
		e = (struct extent){ 2 * i, 1, 5000 + i * 3 };
		extmap_insert(&m, &e);
		check_shape(&m);
		assert_true(extmap_lookup(&m, 2 * i, &out));
		assert_memory_equal(&e, &out, sizeof(e));
	}
	/* Cutting a hole into a run when no further run may be had. */
	extmap_clear(&m);
	for (uint64_t i = 0; i < 16; i++) {
		e = (struct extent){ 100 * i, 50, 0 };
		extmap_insert(&m, &e);
	}
	extmap_forget(&m, 110, 10);
	check_shape(&m);
	assert_false(extmap_lookup(&m, 115, &out));
	extmap_destroy(&m);
}

static void test_copy(void **state)
{
	struct extent out[4];
	struct extmap m;

	extmap_init(&m);
	for (uint64_t i = 0; i < 5; i++)
		extmap_insert(&m, &(struct extent){ 10 * i, 5, 1000 * (i + 1) });
	assert_int_equal(extmap_copy(&m, 0, out, 4), 4);
	assert_int_equal(out[3].lblock, 30);
	assert_int_equal(extmap_copy(&m, 24, out, 4), 3);
	assert_int_equal(out[0].lblock, 20);
	assert_int_equal(extmap_copy(&m, 25, out, 4), 2);
	assert_int_equal(extmap_copy(&m, 99, out, 4), 0);
	extmap_destroy(&m);
}

/* The end of the number space. */
static void test_edges(void **state)
{
	struct extent e = { UINT64_MAX - 10, 10, 0 }, out;
	struct extmap m;

	extmap_init(&m);
	extmap_insert(&m, &e);
	assert_true(extmap_lookup(&m, UINT64_MAX - 1, &out));
	assert_int_equal(out.len, 1);
	extmap_forget(&m, UINT64_MAX - 5, UINT64_MAX);
	assert_false(extmap_lookup(&m, UINT64_MAX - 5, &out));
	assert_true(extmap_lookup(&m, UINT64_MAX - 6, &out));
	e.len = 0;
	extmap_insert(&m, &e);
	extmap_forget(&m, 0, 0);
	assert_int_equal(m.nr, 1);
	extmap_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_bounded),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_edges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
