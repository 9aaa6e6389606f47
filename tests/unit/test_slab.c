/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Slabs: objects are what was asked for and nobody else's, memory goes back when they go, address space does not grow. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

#include "util/slab.h"
#include "util/util.h"

#define SIZE 800
#define MANY 20000

static struct slab_cache cache;
static unsigned char *objects[MANY];

static int setup(void **state)
{
	slab_init(&cache, SIZE);
	return 0;
}

static int teardown(void **state)
{
	/* What a failed test has left would only hide why it failed. */
	if (!cache.nr)
		slab_destroy(&cache);
	return 0;
}

/* Under the address sanitizer there are no slabs. */
static bool has_slabs(void)
{
	void *object = slab_zalloc(&cache);
	bool has = cache.regions;

	slab_free(&cache, object);
	return has;
}

static size_t resident(void)
{
	unsigned long long size, pages;
	FILE *file = fopen("/proc/self/statm", "re");

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%llu %llu", &size, &pages), 2);
	fclose(file);
	return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void take(unsigned first, unsigned end)
{
	for (unsigned i = first; i < end; i++) {
		objects[i] = slab_zalloc(&cache);
		assert_int_equal((uintptr_t)objects[i] % 16, 0);
		for (unsigned j = 0; j < SIZE; j++)
			assert_int_equal(objects[i][j], 0);
		memset(objects[i], (int)(i % 251) + 1, SIZE);
	}
}

static void give(unsigned i)
{
	for (unsigned j = 0; j < SIZE; j++)
		assert_int_equal(objects[i][j], i % 251 + 1);
	memset(objects[i], 0xff, SIZE);
	slab_free(&cache, objects[i]);
	objects[i] = NULL;
}

static unsigned count_regions(void)
{
	unsigned nr = 0;

	for (void *region = cache.regions; region; region = *(void **)region)
		nr++;
	return nr;
}

/* Zeroed, apart from each other, and as they were left. */
static void objects_are_their_owners(void **state)
{
	take(0, MANY);
	for (unsigned i = 0; i < MANY; i += 3)
		give(i);
	for (unsigned i = 0; i < MANY; i += 3)
		take(i, i + 1);
	for (unsigned i = 0; i < MANY; i++)
		give(i);
}

/* The oldest go, as with inodes: their memory is the system's again, and can be had again. */
static void memory_goes_back(void **state)
{
	size_t before, most, after;
	unsigned regions;

	if (!has_slabs())
		skip();
	take(0, MANY);
	regions = count_regions();
	most = resident();
	assert_true(slab_bytes(&cache) >= MANY * SIZE);
	assert_true(slab_bytes(&cache) <= MANY * SIZE / 50 * 51);
	for (unsigned i = 0; i < MANY / 10 * 9; i++)
		give(i);
	after = resident();
	assert_true(slab_bytes(&cache) <= MANY * SIZE / 10 + 4 * (64 << 10));
	assert_true(after + MANY * SIZE / 10 * 8 < most);
	for (unsigned round = 0; round < 5; round++) {
		take(0, MANY / 10 * 9);
		for (unsigned i = 0; i < MANY / 10 * 9; i++)
			give(i);
	}
	assert_int_equal(count_regions(), regions);
	before = slab_bytes(&cache);
	for (unsigned i = MANY / 10 * 9; i < MANY; i++)
		give(i);
	assert_true(slab_bytes(&cache) < before);
	/* One is kept, so that an object that comes and goes costs no system call. */
	assert_int_equal(cache.nr_slabs, 1);
}

/* New objects go where most are already, so that the other slabs become empty. */
static void the_fuller_slab_first(void **state)
{
	unsigned per = cache.per_slab, kept;

	if (!has_slabs())
		skip();
	/* Ten full slabs: of the even ones a tenth is left, of the odd ones nine tenths. */
	take(0, 10 * per);
	for (unsigned i = 0; i < 10 * per; i++)
		if (i / per % 2 ? i % 10 == 0 : i % 10 != 0)
			give(i);
	kept = cache.nr_slabs;
	assert_int_equal(kept, 10);
	/* Half a slab's objects have room in the fuller ones, whose pages they share. */
	for (unsigned i = 0; i < per / 4; i++) {
		unsigned char *object = slab_zalloc(&cache), *neighbour = NULL;

		for (unsigned j = 0; j < 10 * per && !neighbour; j++)
			if (j / per % 2 && objects[j] &&
			    (uintptr_t)objects[j] / (64 << 10) == (uintptr_t)object / (64 << 10))
				neighbour = objects[j];
		assert_non_null(neighbour);
		objects[10 * per + i] = object;
		memset(object, (int)((10 * per + i) % 251) + 1, SIZE);
	}
	/* So the emptier ones go when their last objects do. */
	for (unsigned i = 0; i < 10 * per; i++)
		if (objects[i] && i / per % 2 == 0)
			give(i);
	assert_true(cache.nr_slabs <= 6);
	for (unsigned i = 0; i < 10 * per + per / 4; i++)
		if (objects[i])
			give(i);
}

static void *churn(void *arg)
{
	unsigned seed = *(unsigned *)arg, nr = 0;
	unsigned char *mine[500];

	for (unsigned step = 0; step < 30000; step++) {
		if (nr < ARRAY_SIZE(mine) && (!nr || rand_r(&seed) % 100 < 50)) {
			unsigned char *object = slab_zalloc(&cache);

			GFS2_BUG_ON(object[0] || object[SIZE - 1]);
			object[0] = object[SIZE - 1] = (unsigned char)*(unsigned *)arg;
			mine[nr++] = object;
		} else {
			unsigned at = (unsigned)rand_r(&seed) % nr;

			GFS2_BUG_ON(mine[at][0] != (unsigned char)*(unsigned *)arg || mine[at][SIZE - 1] != mine[at][0]);
			slab_free(&cache, mine[at]);
			mine[at] = mine[--nr];
		}
	}
	while (nr)
		slab_free(&cache, mine[--nr]);
	return NULL;
}

static void many_threads(void **state)
{
	unsigned seeds[4] = { 1, 2, 3, 4 };
	pthread_t threads[4];

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, &seeds[i]), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(cache.nr, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(objects_are_their_owners, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_goes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(the_fuller_slab_first, setup, teardown),
		cmocka_unit_test_setup_teardown(many_threads, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
