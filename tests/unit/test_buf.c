/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The buffer cache on an image file: identity, eviction, write-back, forgetting, and all at once by many threads. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/buf.h"
#include "util/util.h"

#define BSIZE 4096u
#define BLOCKS 4096u
#define LIMIT 64u	/* blocks; so few that the cache has one shard and one LRU */

static char path[256];
static int image;
static struct io_engine *e;
static struct buf_cache *c;
static struct gfs2_mapping data, data2, meta;

/* The image has no name from the start, so that nothing is left behind however the test ends. */
static int group_setup(void **state)
{
	const char *dir = getenv("TMPDIR");

	snprintf(path, sizeof(path), "%s/gfs2-fuse-test-buf-XXXXXX", dir ? dir : "/var/tmp");
	image = mkstemp(path);
	if (image < 0 || unlink(path) || ftruncate(image, (off_t)BLOCKS * BSIZE + 100))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", image);
	return 0;
}

static int group_teardown(void **state)
{
	return close(image);
}

static int setup(void **state)
{
	if (io_engine_open(path, false, &e) || buf_cache_create(e, BSIZE, LIMIT * BSIZE, &c))
		return -1;
	mapping_init(&data, c, &data, true);
	mapping_init(&data2, c, &data2, true);
	mapping_init(&meta, c, &meta, false);
	return 0;
}

static int teardown(void **state)
{
	buf_cache_set_pressure(c, NULL, NULL);
	mapping_invalidate(&data);
	mapping_invalidate(&data2);
	mapping_invalidate(&meta);
	mapping_destroy(&data);
	mapping_destroy(&data2);
	mapping_destroy(&meta);
	buf_cache_destroy(c);
	io_engine_close(e);
	return 0;
}

static void fault(const char *text)
{
	struct io_fault f;

	assert_int_equal(io_fault_parse(text, &f), 0);
	assert_int_equal(io_fault_add(e, &f), 0);
}

static uint64_t ops(enum io_op op)
{
	struct io_stats st;

	io_get_stats(e, &st);
	return st.ops[op];
}

/* Byte by which a block on the device is recognised. */
static int on_device(uint64_t blk)
{
	char *buf = aligned_alloc(BSIZE, BSIZE);
	int byte;

	assert_int_equal(io_read(e, IO_DIO, buf, BSIZE, blk * BSIZE), 0);
	byte = (unsigned char)buf[BSIZE / 2];
	for (unsigned i = 0; i < BSIZE; i++)
		assert_int_equal((unsigned char)buf[i], byte);
	free(buf);
	return byte;
}

static void to_device(uint64_t blk, int byte)
{
	char *buf = aligned_alloc(BSIZE, BSIZE);

	memset(buf, byte, BSIZE);
	assert_int_equal(io_write(e, IO_DIO, buf, BSIZE, blk * BSIZE), 0);
	free(buf);
}

static struct gfs2_bh *dirty(struct gfs2_mapping *m, uint64_t blk, int byte)
{
	struct gfs2_bh *bh = buf_get(m, blk);

	memset(bh->b_data, byte, BSIZE);
	assert_true(buf_mark_dirty(m, bh));
	return bh;
}

static bool cached(uint64_t blk)
{
	struct gfs2_bh *bh = buf_find(c, blk);

	buf_put(bh);
	return bh != NULL;
}

static unsigned in_writeback(struct gfs2_mapping *m)
{
	unsigned nr;

	rmutex_lock(&m->m_lock);
	nr = m->m_nr_writeback;
	rmutex_unlock(&m->m_lock);
	return nr;
}

/* --- identity and reading --- */

static void one_buffer_per_block(void **state)
{
	struct gfs2_bh *a, *b;

	assert_null(buf_find(c, 7));
	a = buf_get(&data, 7);
	assert_int_equal(a->b_blocknr, 7);
	assert_false(buf_test(a, B_UPTODATE));
	assert_int_equal((uintptr_t)a->b_data % BSIZE, 0);
	b = buf_get(&data, 7);
	assert_ptr_equal(a, b);
	buf_put(b);
	b = buf_find(c, 7);
	assert_ptr_equal(a, b);
	buf_put(b);
	assert_int_equal(atomic_load(&data.m_nr), 1);
	assert_int_equal(buf_cache_used(c), BSIZE);
	buf_put(a);
	buf_put(NULL);
}

static void reading(void **state)
{
	struct gfs2_bh *bh;
	uint64_t before;

	to_device(9, 'r');
	before = ops(IO_READ);
	assert_int_equal(buf_read(&meta, 9, &bh), 0);
	assert_true(buf_test(bh, B_UPTODATE));
	assert_int_equal(bh->b_data[100], 'r');
	buf_put(bh);
	assert_int_equal(buf_read(&meta, 9, &bh), 0);
	buf_put(bh);
	assert_int_equal(ops(IO_READ), before + 1);
	/* The last 100 bytes of the image are no block. */
	assert_int_equal(buf_read(&meta, BLOCKS, &bh), -EINVAL);
	assert_int_equal(buf_read(&meta, UINT64_MAX, &bh), -EINVAL);
	fault("op=read,cls=meta,error=5,count=1");
	assert_int_equal(buf_read(&meta, 10, &bh), -EIO);
	assert_int_equal(buf_read(&meta, 10, &bh), 0);
	buf_put(bh);
}

static void *read_20(void *arg)
{
	struct gfs2_bh *bh;
	int error = buf_read(&data, 20, &bh);

	if (!error) {
		error = bh->b_data[0] != 's';
		buf_put(bh);
	}
	return (void *)(uintptr_t)error;
}

static unsigned read_by_many(void)
{
	unsigned failed = 0;
	pthread_t t[8];
	void *error;

	for (unsigned i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, read_20, NULL);
	for (unsigned i = 0; i < 8; i++) {
		pthread_join(t[i], &error);
		failed += error != NULL;
	}
	return failed;
}

static void concurrent_readers_read_once(void **state)
{
	uint64_t before;

	to_device(20, 's');
	before = ops(IO_READ);
	fault("op=read,delay_us=50000");
	assert_int_equal(read_by_many(), 0);
	assert_int_equal(ops(IO_READ), before + 1);

	/* After a read that failed the next one tries again. */
	io_fault_clear(e);
	mapping_invalidate(&data);
	fault("op=read,delay_us=50000,error=5,count=1");
	assert_int_equal(read_by_many(), 1);
	assert_int_equal(ops(IO_READ), before + 3);
}

static void reading_ahead(void **state)
{
	uint64_t blk[] = { 103, 101, 100, 102, BLOCKS, 200, UINT64_MAX, 101, 150 };
	uint64_t before;
	struct gfs2_bh *bh;

	for (unsigned i = 100; i < 104; i++)
		to_device(i, i);
	dirty(&data, 150, 'k');
	before = ops(IO_READ);
	buf_readahead(&data, blk, ARRAY_SIZE(blk));
	/* 100..103 together, 200. */
	assert_int_equal(ops(IO_READ), before + 2);
	for (unsigned i = 100; i < 104; i++) {
		assert_int_equal(buf_read(&data, i, &bh), 0);
		assert_int_equal(bh->b_data[5], i);
		buf_put(bh);
	}
	assert_int_equal(ops(IO_READ), before + 2);
	bh = buf_find(c, 150);
	assert_int_equal(bh->b_data[0], 'k');
	buf_put(bh);
	buf_put(bh);
	/* Failing is nobody's error before the block is wanted. */
	fault("op=read,error=5");
	blk[0] = 300;
	buf_readahead(&data, blk, 1);
	io_fault_clear(e);
	assert_int_equal(buf_read(&data, 300, &bh), 0);
	buf_put(bh);
	mapping_write(&data);
}

/* --- eviction --- */

static void read_range(struct gfs2_mapping *m, uint64_t from, uint64_t to)
{
	for (uint64_t blk = from; blk < to; blk++) {
		struct gfs2_bh *bh;

		assert_int_equal(buf_read(m, blk, &bh), 0);
		buf_put(bh);
	}
}

static void cold_ones_are_evicted_first(void **state)
{
	read_range(&data, 0, LIMIT);
	assert_int_equal(buf_cache_used(c), LIMIT * BSIZE);
	assert_true(cached(0));	/* which gives it a second chance */
	read_range(&data, LIMIT, LIMIT + 2);
	assert_int_equal(buf_cache_used(c), LIMIT * BSIZE);
	assert_true(cached(0));
	assert_false(cached(1));
	assert_true(cached(LIMIT - 1));
	assert_true(cached(LIMIT + 1));
	read_range(&data, 1000, 1000 + 3 * LIMIT);
	assert_false(cached(0));
	assert_true(buf_cache_used(c) <= LIMIT * BSIZE);
	assert_int_equal(atomic_load(&data.m_nr) * BSIZE, buf_cache_used(c));
}

static void what_is_in_use_stays(void **state)
{
	struct gfs2_bh *ref = buf_get(&data, 1), *pinned = buf_get(&meta, 2);
	struct gfs2_bh *ail = buf_get(&meta, 3), *d = dirty(&data, 4, 'd');

	buf_set_state(pinned, B_PINNED);
	buf_set_state(ail, B_AIL);
	buf_put(pinned);
	buf_put(ail);
	buf_put(d);
	read_range(&data, 100, 100 + 4 * LIMIT);
	assert_true(buf_cache_used(c) <= LIMIT * BSIZE);
	assert_ptr_equal(buf_find(c, 1), ref);
	assert_ptr_equal(buf_find(c, 2), pinned);
	assert_ptr_equal(buf_find(c, 3), ail);
	assert_ptr_equal(buf_find(c, 4), d);
	buf_put(ref);
	buf_put(ref);
	buf_put(pinned);
	buf_put(ail);
	buf_put(d);
	buf_clear_state(pinned, B_PINNED);
	buf_clear_state(ail, B_AIL);
	assert_int_equal(mapping_write(&data), 0);
	read_range(&data, 100, 100 + 4 * LIMIT);
	for (unsigned i = 1; i <= 4; i++)
		assert_false(cached(i));
}

static atomic_uint told;
static atomic_bool grown;

static void write_everything(void *arg)
{
	while (!atomic_load(&grown))
		sched_yield();
	mapping_write(arg);
	atomic_fetch_add(&told, 1);
}

/* Nothing is clean: the cache grows, tells, and comes down again. */
static void pressure(void **state)
{
	atomic_store(&told, 0);
	atomic_store(&grown, false);
	buf_cache_set_pressure(c, write_everything, &data);
	for (unsigned i = 0; i < LIMIT; i++)
		buf_put(dirty(&data, i, 'p'));
	assert_int_equal(buf_cache_dirty(c), LIMIT * BSIZE);
	assert_int_equal(atomic_load(&told), 0);
	for (unsigned i = LIMIT; i < LIMIT + 40; i++)
		buf_put(dirty(&data, i, 'p'));
	assert_int_equal(buf_cache_used(c), (LIMIT + 40) * BSIZE);
	atomic_store(&grown, true);
	while (!atomic_load(&told))
		sched_yield();
	buf_cache_set_pressure(c, NULL, NULL);
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(buf_cache_dirty(c), 0);
	assert_int_equal(buf_cache_used(c), 0);
	for (unsigned i = 0; i < LIMIT + 40; i++)
		assert_int_equal(on_device(i), 'p');
}

static void limit_can_change(void **state)
{
	buf_cache_set_limit(c, 500 * BSIZE);
	read_range(&data, 0, 500);
	assert_int_equal(buf_cache_used(c), 500 * BSIZE);
	buf_cache_set_limit(c, 10 * BSIZE);
	assert_int_equal(buf_cache_used(c), 10 * BSIZE);
	assert_true(cached(499));
	assert_false(cached(489));
	buf_cache_set_limit(c, 300 * BSIZE);
	read_range(&data, 0, 300);
	assert_int_equal(buf_cache_used(c), 300 * BSIZE);
}

/* Memory of free buffers is kept for the next ones, as much as the limit allows, and counted. */
static void free_buffers_within_the_limit(void **state)
{
	buf_cache_set_limit(c, 500 * BSIZE);
	read_range(&data, 0, 500);
	assert_int_equal(buf_cache_resident(c), 500 * BSIZE);
	buf_forget(c, 0, 500);
	assert_int_equal(buf_cache_used(c), 0);
	assert_int_equal(buf_cache_resident(c), EXACT_ALLOC ? 0 : 500 * BSIZE);
	buf_cache_set_limit(c, 100 * BSIZE);
	assert_int_equal(buf_cache_resident(c), EXACT_ALLOC ? 0 : 100 * BSIZE);
	/* Those that still have memory come first. */
	read_range(&data, 0, 100);
	assert_int_equal(buf_cache_resident(c), 100 * BSIZE);
	for (unsigned i = 0; i < 100; i++)
		assert_true(cached(i));
	/* The next take the memory of those that go for them. */
	read_range(&data, 100, 150);
	assert_in_range(buf_cache_resident(c), buf_cache_used(c), 100 * BSIZE);
}

/* Shards lose all they have, and go on waking those who wait for a block of theirs (when they did not: for ever). */
static void emptied_shards_wake_their_waiters(void **state)
{
	teardown(state);
	assert_int_equal(io_engine_open(path, false, &e), 0);
	assert_int_equal(buf_cache_create(e, BSIZE, 8192ull * BSIZE, &c), 0);
	mapping_init(&data, c, &data, true);
	mapping_init(&data2, c, &data2, true);
	mapping_init(&meta, c, &meta, false);
	to_device(20, 's');
	fault("op=read,delay_us=5000,pos=81920,len=1");	/* block 20 */
	for (unsigned i = 1; i <= 24; i++) {
		assert_int_equal(read_by_many(), 0);
		/* each time other shards have more than their share */
		read_range(&data, 21, 21 + 20 * i);
		buf_cache_set_limit(c, BSIZE);
		assert_in_range(buf_cache_used(c), 0, BSIZE);
		buf_cache_set_limit(c, 8192ull * BSIZE);
	}
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
#define ADDRESS_SPACE_CAN_END 1
#endif
#endif

#ifdef ADDRESS_SPACE_CAN_END
static atomic_bool full;

static void *get_one(void *arg)
{
	while (!atomic_load(&full))
		sched_yield();
	return buf_get(&data, 5000);
}
#endif

/* Who waits for memory gets what others give back, and does not keep them from it. */
static void memory_of_others_will_do(void **state)
{
#ifdef ADDRESS_SPACE_CAN_END
	struct gfs2_bh *held[(1 << 20) / BSIZE], *got;	/* all that there is memory for */
	struct rlimit all, none;
	unsigned long long pages;
	void *result;
	pthread_t t;
	FILE *file;

	buf_cache_set_limit(c, 10000ull * BSIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(held); i++)
		held[i] = buf_get(&data, i);
	assert_false(memory_is_short());	/* and there is no reserve */
	assert_int_equal(getrlimit(RLIMIT_AS, &all), 0);
	file = fopen("/proc/self/statm", "re");
	assert_non_null(file);
	none = all;
	atomic_store(&full, false);
	alarm(60);	/* a thread that waits with the lock cannot be got rid of */
	assert_int_equal(fscanf(file, "%llu", &pages), 1);
	fclose(file);
	none.rlim_cur = (pages + 4096) * (rlim_t)sysconf(_SC_PAGESIZE);
	assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
	assert_int_equal(pthread_create(&t, NULL, get_one, NULL), 0);
	/* It has its stack; what is left of that goes to nobody else. */
	for (size_t len = 64 << 20; len >= 4096; len /= 2)
		while (mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
			;
	atomic_store(&full, true);
	while (!memory_is_short())
		sched_yield();
	for (unsigned i = 0; i < ARRAY_SIZE(held); i++)
		buf_put(held[i]);
	buf_forget(c, 0, ARRAY_SIZE(held));
	assert_int_equal(pthread_join(t, &result), 0);
	alarm(0);
	assert_int_equal(setrlimit(RLIMIT_AS, &all), 0);
	memory_reserve_fill();
	got = result;
	assert_int_equal(got->b_blocknr, 5000);
	buf_put(got);
#else
	skip();
#endif
}

/* --- write-back --- */

static void neighbours_in_one_request(void **state)
{
	uint64_t before = ops(IO_WRITE);

	buf_cache_set_limit(c, 2000 * BSIZE);
	/* 512 blocks in a strange order: two requests of a megabyte; three single ones. */
	for (unsigned i = 0; i < 512; i++)
		buf_put(dirty(&data, 1000 + (i * 77) % 512, 'n'));
	buf_put(dirty(&data, 1, '1'));
	buf_put(dirty(&data, 3, '3'));
	buf_put(dirty(&data, 4000, '4'));
	assert_int_equal(data.m_nr_dirty, 515);
	assert_int_equal(buf_cache_dirty(c), 515 * BSIZE);
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(ops(IO_WRITE), before + 5);
	assert_int_equal(data.m_nr_dirty, 0);
	assert_int_equal(buf_cache_dirty(c), 0);
	for (unsigned i = 1000; i < 1512; i += 37)
		assert_int_equal(on_device(i), 'n');
	assert_int_equal(on_device(1), '1');
	assert_int_equal(on_device(4000), '4');
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(ops(IO_WRITE), before + 5);

	/* More than a batch, all apart. */
	for (unsigned i = 0; i < 1300; i++)
		buf_put(dirty(&data, i * 3, 'a'));
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(ops(IO_WRITE), before + 5 + 1300);
	assert_int_equal(on_device(3 * 1299), 'a');
}

static void clean_data_is_dropped(void **state)
{
	struct gfs2_bh *tail = dirty(&data, 5, 't'), *held = dirty(&data, 6, 'h');

	buf_put(dirty(&data, 4, 'x'));
	buf_set_state(tail, B_PARTIAL);
	buf_put(tail);
	assert_int_equal(mapping_write(&data), 0);
	assert_false(cached(4));
	assert_ptr_equal(buf_find(c, 5), tail);
	assert_ptr_equal(buf_find(c, 6), held);
	assert_false(buf_test(tail, B_DIRTY));
	assert_int_equal(atomic_load(&data.m_nr), 2);
	buf_put(tail);
	buf_put(held);
	buf_put(held);
}

static void pinned_data_is_not_written(void **state)
{
	struct gfs2_bh *bh;

	to_device(5, 'o');
	bh = dirty(&data, 5, 'n');
	buf_set_state(bh, B_PINNED | B_JDATA);
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(on_device(5), 'o');
	buf_clear_state(bh, B_PINNED);
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(on_device(5), 'n');
	buf_put(bh);
}

static void errors_stick_until_told(void **state)
{
	fault("op=write,cls=data,error=28,pos=0,len=4096,count=1");
	buf_put(dirty(&data, 0, 'e'));
	buf_put(dirty(&data, 9, 'e'));
	assert_int_equal(mapping_write(&data), -ENOSPC);
	assert_int_equal(on_device(9), 'e');
	/* Another writer has nothing to do with it, the one who syncs has. */
	buf_put(dirty(&data, 9, 'f'));
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(mapping_sync(&data), -ENOSPC);
	assert_int_equal(mapping_sync(&data), 0);
	assert_int_equal(data.m_nr_dirty, 0);
}

/*
 * A write that lasts: until somebody waits for it, or, which would be wrong, has not done so and is over.  It is held up before the device has it, or
 * after, with nobody told.
 */
static enum { FREELY, BEFORE, AFTER } hold;	/* the next write */
static sem_t begun;
static atomic_bool somebody_waits, over;
static atomic_uint writing, writing_most;	/* at once */

void __real_rcond_wait(struct rcond *cond, struct rmutex *m);
void __wrap_rcond_wait(struct rcond *cond, struct rmutex *m);
void __wrap_rcond_wait(struct rcond *cond, struct rmutex *m)
{
	/* With the lock that tells it that the write has ended. */
	atomic_store(&somebody_waits, true);
	__real_rcond_wait(cond, m);
}

static void last(void)
{
	sem_post(&begun);
	while (!atomic_load(&somebody_waits) && !atomic_load(&over))
		usleep(100);
}

int __real_io_run(struct io_engine *engine, struct io_req *reqs, unsigned nr);
int __wrap_io_run(struct io_engine *engine, struct io_req *reqs, unsigned nr);
int __wrap_io_run(struct io_engine *engine, struct io_req *reqs, unsigned nr)
{
	int how = FREELY, error;
	unsigned now, most;

	if (reqs[0].op != IO_WRITE)
		return __real_io_run(engine, reqs, nr);
	now = atomic_fetch_add(&writing, 1) + 1;
	most = atomic_load(&writing_most);
	while (now > most && !atomic_compare_exchange_weak(&writing_most, &most, now))
		;
	/* The thread that is to be held up was made after `hold` was set, and the next one after it has begun. */
	if (hold) {
		how = hold;
		hold = FREELY;
	}
	if (how == BEFORE)
		last();
	error = __real_io_run(engine, reqs, nr);
	if (how == AFTER)
		last();
	atomic_fetch_sub(&writing, 1);
	return error;
}

/* Returns when it has begun. */
static pthread_t start_held(int how, void *(*fn)(void *), void *arg)
{
	pthread_t t;

	sem_init(&begun, 0, 0);
	atomic_store(&somebody_waits, false);
	atomic_store(&over, false);
	atomic_store(&writing_most, 0);
	hold = how;
	assert_int_equal(pthread_create(&t, NULL, fn, arg), 0);
	sem_wait(&begun);
	return t;
}

/* What was to wait for it has returned. */
static void *end_held(pthread_t t)
{
	void *ret;

	atomic_store(&over, true);
	pthread_join(t, &ret);
	return ret;
}

static void *write_mapping(void *m)
{
	return (void *)(intptr_t)mapping_write(m);
}

/* A buffer that changes while it is being written is written again, after the first write. */
static void changed_in_flight(void **state)
{
	uint64_t before = ops(IO_WRITE);
	pthread_t first, second;
	struct gfs2_bh *bh;
	void *ret;

	bh = dirty(&data, 33, 'a');
	first = start_held(AFTER, write_mapping, &data);
	assert_int_equal(in_writeback(&data), 1);
	assert_false(buf_test(bh, B_DIRTY));
	memset(bh->b_data, 'b', BSIZE);
	assert_true(buf_mark_dirty(&data, bh));
	buf_put(bh);
	assert_int_equal(data.m_nr_dirty, 1);
	pthread_create(&second, NULL, write_mapping, &data);
	pthread_join(second, &ret);
	assert_null(ret);
	assert_null(end_held(first));
	assert_int_equal(ops(IO_WRITE), before + 2);
	assert_int_equal(atomic_load(&writing_most), 1);
	assert_int_equal(data.m_nr_dirty, 0);
	assert_int_equal(on_device(33), 'b');
	assert_false(cached(33));
}

/* What others have under way is waited for, and its error is told. */
static void waits_for_others(void **state)
{
	uint64_t before = ops(IO_WRITE);
	pthread_t t;

	fault("op=write,cls=data,count=1,error=5");
	buf_put(dirty(&data, 33, 'a'));
	t = start_held(AFTER, write_mapping, &data);
	assert_int_equal(mapping_write(&data), -EIO);
	assert_int_equal(ops(IO_WRITE), before + 1);
	assert_int_equal(in_writeback(&data), 0);
	assert_int_equal((intptr_t)end_held(t), -EIO);
	assert_int_equal(mapping_sync(&data), -EIO);
}

/* Files side by side are one request; who loses data is told, nobody else; and nothing is left that was dirty at the call. */
static void many_at_once(void **state)
{
	enum { NR = 40, BIG = 30, BIG_BLOCKS = 1500 };
	struct gfs2_mapping map[NR], *maps[NR];
	uint64_t before = ops(IO_WRITE);
	struct gfs2_bh *bh;
	pthread_t t;

	for (unsigned i = 0; i < NR; i++) {
		mapping_init(&map[i], c, &map[i], true);
		maps[i] = &map[i];
	}
	mapping_write_many(maps, NR);
	assert_int_equal(ops(IO_WRITE), before);
	/* In an order that is not that of the device; every fifth has nothing to write. */
	for (unsigned i = 0; i < NR; i++)
		if (i % 5)
			for (unsigned k = 0; k < 2; k++)
				buf_put(dirty(&map[i], 100 + 2 * (NR - i) + k, (char)('A' + i)));
	mapping_write_many(maps, NR);
	/* What lies between the gaps. */
	assert_int_equal(ops(IO_WRITE), before + NR / 5);
	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(map[i].m_nr_dirty, 0);
		if (i % 5)
			assert_int_equal(on_device(101 + 2 * (NR - i)), 'A' + i);
	}

	/* Apart on the device, one of them fails. */
	fault("op=write,cls=data,error=28,pos=495616,len=4096,count=1"); /* block 121 */
	for (unsigned i = 0; i < NR; i++)
		buf_put(dirty(&map[i], 100 + 3 * i, 'f'));
	mapping_write_many(maps, NR);
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(mapping_sync(&map[i]), i == 7 ? -ENOSPC : 0);

	/* One that does not fit, in the middle. */
	for (unsigned i = 0; i < NR; i++)
		buf_put(dirty(&map[i], 100 + 3 * i, (char)('a' + i % 26)));
	for (unsigned i = 0; i < BIG_BLOCKS; i++)
		buf_put(dirty(&map[BIG], 300 + i, 'B'));
	mapping_write_many(maps, NR);
	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(map[i].m_nr_dirty, 0);
		assert_int_equal(on_device(100 + 3 * i), 'a' + i % 26);
	}
	assert_int_equal(on_device(300 + BIG_BLOCKS - 1), 'B');

	/* Somebody else is writing one of them: that is waited for, and what has changed since is written. */
	bh = dirty(&map[3], 109, 'x');
	t = start_held(AFTER, write_mapping, &map[3]);
	memset(bh->b_data, 'y', BSIZE);
	assert_true(buf_mark_dirty(&map[3], bh));
	buf_put(bh);
	buf_put(dirty(&map[4], 112, 'z'));
	mapping_write_many(maps, NR);
	assert_int_equal(on_device(109), 'y');
	assert_int_equal(on_device(112), 'z');
	assert_null(end_held(t));
	for (unsigned i = 0; i < NR; i++) {
		mapping_invalidate(&map[i]);
		mapping_destroy(&map[i]);
	}
}

static atomic_bool stop;

static void *keep_dirty(void *arg)
{
	for (unsigned i = 0; !atomic_load(&stop); i++)
		buf_put(dirty(&data, 500 + i % 8, i));
	return NULL;
}

/* A call ends although somebody never stops making buffers dirty. */
static void write_back_ends(void **state)
{
	pthread_t t;

	atomic_store(&stop, false);
	/* Slow enough for something to be dirty again after every write. */
	fault("op=write,cls=data,delay_us=20000");
	pthread_create(&t, NULL, keep_dirty, NULL);
	for (unsigned i = 0; i < 5; i++) {
		buf_put(dirty(&data, 600, i));
		assert_int_equal(mapping_write(&data), 0);
		assert_int_equal(on_device(600), i);
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	assert_int_equal(mapping_sync(&data), 0);
}

static void images(void **state)
{
	struct gfs2_bh *bhs[300];
	char *imgs[300] = { NULL };
	uint64_t before = ops(IO_WRITE);

	buf_cache_set_limit(c, 2000 * BSIZE);
	for (unsigned i = 0; i < 300; i++) {
		/* 40..339 from behind */
		bhs[i] = buf_get(&meta, 339 - i);
		memset(bhs[i]->b_data, 'm', BSIZE);
		buf_set_state(bhs[i], B_UPTODATE | B_AIL);
		buf_put(bhs[i]);
	}
	imgs[10] = aligned_alloc(BSIZE, BSIZE);
	memset(imgs[10], 'i', BSIZE);
	assert_int_equal(buf_write_images(c, bhs, imgs, 300), 0);
	assert_int_equal(ops(IO_WRITE), before + 2);
	assert_int_equal(on_device(339 - 10), 'i');
	assert_int_equal(on_device(339 - 11), 'm');
	assert_int_equal(on_device(40), 'm');
	fault("op=write,cls=meta,error=5,count=1");
	assert_int_equal(buf_write_images(c, bhs, NULL, 300), -EIO);
	assert_int_equal(buf_write_images(c, bhs, NULL, 300), 0);
	assert_int_equal(on_device(339 - 10), 'm');
	assert_int_equal(buf_write_images(c, NULL, NULL, 0), 0);
	free(imgs[10]);
	for (unsigned i = 0; i < 300; i++)
		buf_clear_state(bhs[i], B_AIL);
}

/* --- leaving the cache --- */

static void invalidation(void **state)
{
	struct gfs2_bh *pinned = buf_get(&meta, 1), *ail = buf_get(&meta, 2), *held, *other;

	buf_set_state(pinned, B_PINNED);
	buf_set_state(ail, B_AIL);
	assert_int_equal(buf_read(&meta, 3, &held), 0);
	read_range(&meta, 4, 20);
	read_range(&data, 100, 110);
	mapping_invalidate(&meta);
	assert_int_equal(atomic_load(&meta.m_nr), 2);
	assert_int_equal(atomic_load(&data.m_nr), 10);
	assert_true(cached(1) && cached(2) && cached(105));
	assert_false(cached(3) || cached(10));
	/* Somebody still looks at it; who asks now gets another one. */
	assert_true(buf_test(held, B_DEAD));
	assert_int_equal(buf_read(&meta, 3, &other), 0);
	assert_ptr_not_equal(held, other);
	buf_put(held);
	buf_put(other);
	buf_put(pinned);
	buf_put(ail);
	buf_clear_state(pinned, B_PINNED);
	buf_clear_state(ail, B_AIL);
}

static void forgetting(void **state)
{
	struct gfs2_bh *held = buf_get(&data, 50);

	to_device(51, 'o');
	buf_put(dirty(&data, 51, 'n'));
	read_range(&data, 49, 50);
	read_range(&data, 60, 61);
	buf_forget(c, 50, 3);
	assert_true(cached(49) && cached(60));
	assert_false(cached(50) || cached(51));
	assert_true(buf_test(held, B_DEAD));
	buf_put(held);
	assert_int_equal(data.m_nr_dirty, 0);
	assert_int_equal(buf_cache_dirty(c), 0);
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(on_device(51), 'o');

	/* Ranges larger than the cache. */
	read_range(&data, 200, 240);
	buf_forget(c, 61, UINT64_MAX / 2);
	assert_int_equal(atomic_load(&data.m_nr), 2);
	buf_forget(c, 0, BLOCKS);
	assert_int_equal(atomic_load(&data.m_nr), 0);
	assert_int_equal(buf_cache_used(c), 0);
}

/* The block belongs to another after the return: an older write must not come after that. */
static void forgetting_waits_for_the_write(void **state)
{
	uint64_t before = ops(IO_WRITE);
	pthread_t t;

	buf_put(dirty(&data, 33, 'a'));
	t = start_held(BEFORE, write_mapping, &data);
	buf_forget(c, 33, 1);
	assert_int_equal(ops(IO_WRITE), before + 1);
	assert_false(cached(33));
	to_device(33, 'z');
	assert_null(end_held(t));
	assert_int_equal(on_device(33), 'z');
}

static void *write_image_33(void *arg)
{
	struct gfs2_bh *bh = arg;

	return (void *)(intptr_t)buf_write_images(c, &bh, NULL, 1);
}

static void invalidation_waits_for_the_write(void **state)
{
	uint64_t before = ops(IO_WRITE);
	struct gfs2_bh *bh = buf_get(&meta, 33);
	pthread_t t;

	memset(bh->b_data, 'a', BSIZE);
	buf_set_state(bh, B_UPTODATE);
	t = start_held(BEFORE, write_image_33, bh);
	assert_true(buf_test(bh, B_WRITEBACK));
	mapping_invalidate(&meta);
	assert_int_equal(ops(IO_WRITE), before + 1);
	assert_true(buf_test(bh, B_DEAD));
	assert_null(end_held(t));
	buf_put(bh);
}

static void moving(void **state)
{
	struct gfs2_bh *bh, *held, *pinned;

	to_device(70, 'o');
	read_range(&data, 70, 71);
	to_device(70, 'n');
	/* Clean and unused: it is the new mapping's, and read again, as its old glock may have been elsewhere. */
	assert_int_equal(buf_read(&data2, 70, &bh), 0);
	assert_ptr_equal(bh->b_map, &data2);
	assert_int_equal(bh->b_data[0], 'n');
	assert_int_equal(atomic_load(&data.m_nr), 0);
	assert_int_equal(atomic_load(&data2.m_nr), 1);
	/* In use: the contents stay. */
	held = buf_get(&meta, 70);
	assert_ptr_equal(held, bh);
	assert_ptr_equal(bh->b_map, &meta);
	assert_true(buf_test(bh, B_UPTODATE));
	buf_put(held);
	buf_put(bh);
	/* In the log: it stays where it is. */
	pinned = buf_get(&meta, 71);
	buf_set_state(pinned, B_PINNED);
	bh = buf_get(&data, 71);
	assert_ptr_equal(bh, pinned);
	assert_ptr_equal(bh->b_map, &meta);
	/* And nobody drops it. */
	assert_int_equal(buf_forget(c, 71, 1), 71);
	assert_int_equal(buf_forget(c, 71, UINT64_MAX / 2), 71);
	assert_true(cached(71));
	buf_clear_state(pinned, B_PINNED);
	buf_put(bh);
	buf_put(pinned);
	/* Nobody pins what is not his. */
	assert_false(buf_pin(&data, pinned, B_JDATA));
	assert_false(buf_test(pinned, B_PINNED));
	assert_true(buf_pin(&meta, pinned, B_JDATA));
	assert_true(buf_test(pinned, B_PINNED) && buf_test(pinned, B_JDATA));
	buf_clear_state(pinned, B_PINNED | B_JDATA);
	/* Two files on one block: the first one's data are not lost, and nobody marks the other's buffer. */
	buf_put(dirty(&data, 72, 'd'));
	bh = buf_get(&data2, 72);
	assert_true(buf_is_of(bh, &data));
	assert_false(buf_mark_dirty(&data2, bh));
	assert_int_equal(data2.m_nr_dirty, 0);
	buf_put(bh);
	assert_int_equal(mapping_write(&data), 0);
	assert_int_equal(on_device(72), 'd');
	/* One that has been forgotten meanwhile. */
	bh = buf_get(&data, 73);
	buf_forget(c, 73, 1);
	assert_false(buf_mark_dirty(&data, bh));
	buf_put(bh);
}

static void small_blocks(void **state)
{
	struct gfs2_mapping m;
	struct buf_cache *small;
	struct gfs2_bh *bh;

	assert_int_equal(buf_cache_create(e, 1000, 1 << 20, &small), -EINVAL);
	assert_int_equal(buf_cache_create(e, 256, 1 << 20, &small), -EINVAL);
	assert_int_equal(buf_cache_create(e, 512, 1 << 20, &small), 0);
	mapping_init(&m, small, NULL, true);
	for (unsigned i = 0; i < 3000; i++) {
		bh = buf_get(&m, i);
		assert_int_equal((uintptr_t)bh->b_data % 512, 0);
		memset(bh->b_data, i, 512);
		assert_true(buf_mark_dirty(&m, bh));
		buf_put(bh);
	}
	assert_int_equal(mapping_sync(&m), 0);
	for (unsigned i = 0; i < 3000; i += 111) {
		assert_int_equal(buf_read(&m, i, &bh), 0);
		assert_int_equal((unsigned char)bh->b_data[511], i & 0xff);
		buf_put(bh);
	}
	mapping_invalidate(&m);
	/* Their memory goes back to the system in whole pages. */
	if (!EXACT_ALLOC) {
		buf_cache_set_limit(small, 3000 * 512);
		for (unsigned i = 0; i < 2048; i++)
			buf_put(buf_get(&m, i));
		bh = buf_get(&m, 7);
		memset(bh->b_data, '7', 512);
		buf_forget(small, 0, 7);
		buf_forget(small, 8, 2040);
		buf_cache_set_limit(small, 512);
		assert_int_equal(buf_cache_resident(small), 4096);
		assert_int_equal(bh->b_data[511], '7');
		buf_put(bh);
		buf_forget(small, 7, 1);
		assert_int_equal(buf_cache_resident(small), 0);
	}
	mapping_destroy(&m);
	buf_cache_destroy(small);
}

/* --- all at once --- */

/*
 * Four mappings with blocks of their own, each under a reader-writer lock that plays the glock.  Threads read, change,
 * write, drop and overwrite blocks; every block carries a number that is also kept beside it.  One thread
 * writes back without any lock, as the log does with ordered data.  The cache is far too small.
 */
#define NR_MAPS 4u
#define PER_MAP 100u
#define ROUNDS 4000u

static struct stress {
	pthread_rwlock_t glock;
	struct gfs2_mapping map;
	uint64_t value[PER_MAP];
} stress[NR_MAPS];
static atomic_uint wrong;

static uint64_t stress_blk(unsigned m, unsigned i)
{
	/* Runs of ten, interleaved. */
	return 1000 + (i / 10) * 10 * NR_MAPS + m * 10 + i % 10;
}

static uint64_t stamp_of(const char *buf)
{
	uint64_t first, last;

	memcpy(&first, buf, 8);
	memcpy(&last, buf + BSIZE - 8, 8);
	return first == last ? first : UINT64_MAX;
}

static void stamp(char *buf, uint64_t v)
{
	for (unsigned i = 0; i < BSIZE; i += 8)
		memcpy(buf + i, &v, 8);
}

static void stress_read(struct stress *s, unsigned m, unsigned i)
{
	struct gfs2_bh *bh;

	if (buf_read(&s->map, stress_blk(m, i), &bh)) {
		atomic_fetch_add(&wrong, 1);
		return;
	}
	if (stamp_of(bh->b_data) != s->value[i])
		atomic_fetch_add(&wrong, 1);
	buf_put(bh);
}

static void stress_change(struct stress *s, unsigned m, unsigned i, uint64_t v)
{
	struct gfs2_bh *bh = buf_get(&s->map, stress_blk(m, i));

	stamp(bh->b_data, v);
	s->value[i] = v;
	if (v % 5 == 0)
		buf_set_state(bh, B_PARTIAL);
	assert_true(buf_mark_dirty(&s->map, bh));
	buf_put(bh);
}

static void stress_direct(struct stress *s, unsigned m, unsigned i, uint64_t v, char *buf)
{
	buf_forget(c, stress_blk(m, i), 1);
	stamp(buf, v);
	if (io_write(e, IO_DIO, buf, BSIZE, stress_blk(m, i) * BSIZE))
		atomic_fetch_add(&wrong, 1);
	s->value[i] = v;
}

static void *stress_thread(void *arg)
{
	unsigned seed = (uintptr_t)arg;
	char *buf = aligned_alloc(BSIZE, BSIZE);

	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned what = rand_r(&seed) % 20, m = rand_r(&seed) % NR_MAPS;
		unsigned i = rand_r(&seed) % PER_MAP;
		uint64_t v = (uint64_t)(uintptr_t)arg << 32 | round;
		struct stress *s = &stress[m];

		if (what < 10) {
			uint64_t ahead[5];

			pthread_rwlock_rdlock(&s->glock);
			for (unsigned k = 0; k < 5; k++)
				ahead[k] = stress_blk(m, (i + k) % PER_MAP);
			if (what == 0)
				buf_readahead(&s->map, ahead, 5);
			stress_read(s, m, i);
		} else {
			pthread_rwlock_wrlock(&s->glock);
			if (what < 16) {
				for (unsigned k = 0; k < 3; k++)
					stress_change(s, m, (i + k) % PER_MAP, v);
			} else if (what < 18) {
				stress_direct(s, m, i, v, buf);
			} else if (what == 18) {
				if (mapping_write(&s->map))
					atomic_fetch_add(&wrong, 1);
			} else {
				if (mapping_sync(&s->map))
					atomic_fetch_add(&wrong, 1);
				mapping_invalidate(&s->map);
			}
		}
		pthread_rwlock_unlock(&s->glock);
	}
	free(buf);
	return NULL;
}

static void *stress_flusher(void *arg)
{
	for (unsigned i = 0; !atomic_load(&stop); i++)
		if (mapping_write(&stress[i % NR_MAPS].map))
			atomic_fetch_add(&wrong, 1);
	return NULL;
}

static void many_threads(void **state)
{
	pthread_t t[4], flusher;
	char *buf = aligned_alloc(BSIZE, BSIZE);

	atomic_store(&stop, false);
	atomic_store(&wrong, 0);
	memset(buf, 0, BSIZE);
	for (unsigned m = 0; m < NR_MAPS; m++) {
		pthread_rwlock_init(&stress[m].glock, NULL);
		mapping_init(&stress[m].map, c, NULL, true);
		memset(stress[m].value, 0, sizeof(stress[m].value));
		for (unsigned i = 0; i < PER_MAP; i++)
			io_write(e, IO_DIO, buf, BSIZE, stress_blk(m, i) * BSIZE);
	}
	pthread_create(&flusher, NULL, stress_flusher, NULL);
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, stress_thread, (void *)(i + 1));
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	atomic_store(&stop, true);
	pthread_join(flusher, NULL);
	assert_int_equal(atomic_load(&wrong), 0);
	for (unsigned m = 0; m < NR_MAPS; m++) {
		assert_int_equal(mapping_sync(&stress[m].map), 0);
		mapping_invalidate(&stress[m].map);
		mapping_destroy(&stress[m].map);
		pthread_rwlock_destroy(&stress[m].glock);
		for (unsigned i = 0; i < PER_MAP; i++) {
			assert_int_equal(io_read(e, IO_DIO, buf, BSIZE, stress_blk(m, i) * BSIZE), 0);
			assert_int_equal(stamp_of(buf), stress[m].value[i]);
		}
	}
	assert_int_equal(buf_cache_dirty(c), 0);
	free(buf);
}

static void *mover(void *arg)
{
	unsigned seed = (uintptr_t)arg;

	for (unsigned i = 0; i < 20000; i++) {
		struct gfs2_mapping *m = rand_r(&seed) % 2 ? &data : &data2;
		struct gfs2_bh *bh = buf_get(m, rand_r(&seed) % 100);

		if (i % 64 == 0)
			mapping_invalidate(m);
		if (i % 33 == 0)
			buf_forget(c, rand_r(&seed) % 100, 2);
		buf_put(bh);
	}
	return NULL;
}

/* Buffers between two mappings, with eviction and invalidation of both: counts and lists stay right. */
static void moving_by_many_threads(void **state)
{
	pthread_t t[3];

	for (uintptr_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, mover, (void *)(i + 1));
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal((atomic_load(&data.m_nr) + atomic_load(&data2.m_nr)) * BSIZE,
			 buf_cache_used(c));
	mapping_invalidate(&data);
	mapping_invalidate(&data2);
	assert_int_equal(buf_cache_used(c), 0);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_buffer_per_block),
		T(reading),
		T(concurrent_readers_read_once),
		T(reading_ahead),
		T(cold_ones_are_evicted_first),
		T(what_is_in_use_stays),
		T(pressure),
		T(limit_can_change),
		T(free_buffers_within_the_limit),
		T(emptied_shards_wake_their_waiters),
		T(memory_of_others_will_do),
		T(neighbours_in_one_request),
		T(clean_data_is_dropped),
		T(pinned_data_is_not_written),
		T(errors_stick_until_told),
		T(changed_in_flight),
		T(waits_for_others),
		T(many_at_once),
		T(write_back_ends),
		T(images),
		T(invalidation),
		T(forgetting),
		T(forgetting_waits_for_the_write),
		T(invalidation_waits_for_the_write),
		T(moving),
		T(small_blocks),
		T(many_threads),
		T(moving_by_many_threads),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
