/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The direct-I/O engine on a real volume, without FUSE: results, contents, lock states and events
 * for a request that meets data, holes, the end of the file, stuffed files; the five behaviours;
 * device errors in the part under way; the fast path's refusals.
 */
#include <pthread.h>
#include <sched.h>
#include "diofix.h"
#include "util/ctx.h"

#define IMAGE_MIB 96

static struct gfs2_inode *ip;
static struct io_ring *ring;
static char *buf, *back;
static unsigned file_number;

static int mount_volume(void **state)
{
	buf = aligned_alloc(BS, 2u << 20);
	back = aligned_alloc(BS, 2u << 20);
	if (dio_mount(IMAGE_MIB, SHORT_DIO_DRAIN))
		return -1;
	return io_ring_create(engine, 64, false, &ring);
}

static int unmount_volume(void **state)
{
	io_ring_destroy(ring);
	free(buf);
	free(back);
	return dio_unmount();
}

/* An empty one, for each test. */
static int new_file(void **state)
{
	char name[32];

	snprintf(name, sizeof(name), "file%u", file_number++);
	io_fault_clear(engine);
	atomic_store(&sdp->sd_short_dio, SHORT_DIO_DRAIN);
	atomic_store(&sdp->sd_dio_rest, DIO_REST_DIRECT);
	ip = make_file(sdp, name);
	return 0;
}

static int drop_file(void **state)
{
	gfs2_inode_put(ip);
	ip = NULL;
	return 0;
}

/* Data in the blocks for which @blocks says so ('x'), holes elsewhere. */
static void layout(const char *blocks)
{
	size_t n = strlen(blocks);

	memset(buf, 'd', BS);
	assert_int_equal(gfs2_setattr_size(ip, n * BS), 0);
	for (size_t i = 0; i < n; i++)
		if (blocks[i] == 'x')
			write_block(ip, i, buf);
	assert_int_equal(gfs2_fsync(ip, false), 0);
}

static int64_t dio(bool write, uint64_t pos, uint32_t len, char fill)
{
	struct gfs2_dio d = { .ip = ip, .ring = ring, .buf = write ? buf : back, .buf_index = -1,
			      .write = write, .pos = pos, .len = len };

	if (write)
		memset(buf, fill, len);
	return gfs2_dio_run(&d);
}

/* Contents as the page cache's reader would see them: one letter a block, '.' for zeros. */
static void contents(const char *want)
{
	uint32_t n = (uint32_t)strlen(want), skip;
	struct gfs2_holder gh;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(gfs2_file_read(ip, back, 0, n * BS, &skip), n * BS);
	gfs2_glock_dq_uninit(&gh);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < BS; k++)
			assert_int_equal(back[skip + i * BS + k], want[i] == '.' ? 0 : want[i]);
}

static uint64_t mark;

static unsigned events(enum gfs2_event_type type, int to)
{
	struct gfs2_event ev[512];
	uint64_t seq = mark;
	unsigned n, found = 0;

	while ((n = gfs2_event_read(&seq, ev, 512)))
		for (unsigned i = 0; i < n; i++)
			if (ev[i].type == type && (to < 0 || ev[i].to == to) &&
			    ev[i].gl_number == ip->i_no_addr && ev[i].gl_type == LM_TYPE_INODE)
				found++;
	return found;
}

static void test_mapped_stays_deferred(void **state)
{
	layout("xxxx");
	mark = gfs2_event_next_seq();
	assert_int_equal(dio(true, BS, 2 * BS, 'A'), 2 * BS);
	assert_int_equal(events(EV_DIO_SUBMIT, -1), 1);
	assert_int_equal(events(EV_GLOCK_PROMOTE, LM_ST_DEFERRED), 1);
	assert_int_equal(events(EV_GLOCK_PROMOTE, LM_ST_EXCLUSIVE), 0);
	assert_int_equal(events(EV_DIO_BUFFERED, -1), 0);
	contents("dAAd");
}

static void test_hole_drains_then_exclusive(void **state)
{
	layout("xx..xx");
	mark = gfs2_event_next_seq();
	assert_int_equal(dio(true, 0, 6 * BS, 'B'), 6 * BS);
	assert_int_equal(events(EV_DIO_HOLE, -1), 1);
	assert_int_equal(events(EV_DIO_DRAIN_BEGIN, -1), 1);
	assert_int_equal(events(EV_DIO_DRAIN_END, -1), 1);
	assert_int_equal(events(EV_GLOCK_PROMOTE, LM_ST_DEFERRED), 1);
	assert_int_equal(events(EV_GLOCK_PROMOTE, LM_ST_EXCLUSIVE), 1);
	assert_int_equal(events(EV_DIO_BUFFERED, -1), 1);
	contents("BBBBBB");
}

static void test_hole_first(void **state)
{
	layout("..xx");
	mark = gfs2_event_next_seq();
	assert_int_equal(dio(true, BS, 2 * BS, 'C'), 2 * BS);
	assert_int_equal(events(EV_DIO_SUBMIT, -1), 0);
	contents(".CCd");
}

static void test_past_eof_is_buffered(void **state)
{
	struct gfs2_holder gh;
	struct stat st;

	layout("xx");
	mark = gfs2_event_next_seq();
	assert_int_equal(dio(true, BS, 2 * BS, 'D'), 2 * BS);
	assert_int_equal(events(EV_DIO_SUBMIT, -1), 0);
	assert_int_equal(events(EV_GLOCK_PROMOTE, LM_ST_EXCLUSIVE), 1);
	contents("dDD");
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	gfs2_getattr(ip, &st);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(st.st_size, 3 * BS);
	mark = gfs2_event_next_seq();
	assert_int_equal(dio(true, 2 * BS, BS, 'E'), BS); /* ends exactly at EOF */
	assert_int_equal(events(EV_DIO_SUBMIT, -1), 1);
	contents("dDE");
}

static void test_sector_in_block(void **state)
{
	layout("x.");
	memset(buf, 'S', 512);
	assert_int_equal(dio(true, 512, 512, 'S'), 512);
	assert_int_equal(dio(true, BS + 1024, 512, 'T'), 512); /* into the hole: rest must be zeros */
	assert_int_equal(dio(false, 0, 2 * BS, 0), 2 * BS);
	for (unsigned i = 0; i < 2 * BS; i++)
		assert_int_equal(back[i], i >= 512 && i < 1024			? 'S'
					  : i < BS				? 'd'
					  : i >= BS + 1024 && i < BS + 1536	? 'T'
										: 0);
	assert_int_equal(gfs2_dio_check_align(sdp, 100, 512), -EINVAL);
	assert_int_equal(gfs2_dio_check_align(sdp, 512, 100), -EINVAL);
}

static void test_stuffed(void **state)
{
	struct gfs2_holder gh;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	memset(buf, 's', 1000);
	assert_int_equal(gfs2_file_write(ip, buf, 0, 1000, false), 1000);
	gfs2_glock_dq_uninit(&gh);
	assert_true(gfs2_is_stuffed(ip));
	assert_int_equal(dio(false, 0, BS, 0), 1000);
	assert_int_equal(back[999], 's');
	assert_int_equal(dio(true, 0, 512, 'U'), 512);
	assert_int_equal(dio(false, 0, BS, 0), 1000);
	assert_int_equal(back[511], 'U');
	assert_int_equal(back[512], 's');
}

static void test_read_short_only_at_eof(void **state)
{
	layout("x.x");
	assert_int_equal(gfs2_setattr_size(ip, 2 * BS + 100), 0);
	memset(back, 1, 4 * BS);
	assert_int_equal(dio(false, 0, 4 * BS, 0), 2 * BS + 100);
	assert_int_equal(back[0], 'd');
	assert_int_equal(back[BS], 0);
	assert_int_equal(back[2 * BS + 99], 'd');
	assert_int_equal(dio(false, 4 * BS, BS, 0), 0);
}

static void test_behaviours(void **state)
{
	layout("x.");
	atomic_store(&sdp->sd_short_dio, SHORT_DIO_ASYNC);
	assert_int_equal(dio(true, 0, 2 * BS, 'a'), BS);
	contents("a.");
	atomic_store(&sdp->sd_short_dio, SHORT_DIO_FAIL);
	assert_int_equal(dio(true, 0, 2 * BS, 'f'), -EIO);
	contents("f.");
	atomic_store(&sdp->sd_short_dio, SHORT_DIO_PRECHECK);
	mark = gfs2_event_next_seq();
	assert_int_equal(dio(true, 0, 2 * BS, 'p'), 2 * BS);
	assert_int_equal(events(EV_DIO_SUBMIT, -1), 0);
	contents("pp");
}

static void test_error_under_way(void **state)
{
	struct io_fault f = { .op = IO_WRITE, .cls = IO_DIO, .count = 1, .error = EIO };

	layout("x.");
	assert_int_equal(io_fault_add(engine, &f), 0);
	assert_int_equal(dio(true, 0, 2 * BS, 'X'), -EIO); /* the buffered part must not hide it */
	io_fault_clear(engine);
	assert_int_equal(dio(true, 0, 2 * BS, 'Y'), 2 * BS);
	contents("YY");
}

static void test_dirty_data_first(void **state)
{
	struct gfs2_holder gh;

	layout("xx");
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	memset(buf, 'n', BS);
	assert_int_equal(gfs2_file_write(ip, buf, 0, BS, false), BS);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(dio(false, 0, BS, 0), BS);
	assert_int_equal(back[0], 'n');
	assert_int_equal(dio(true, 0, BS, 'o'), BS);
	contents("od");
}

static int64_t fast_result;

static void fast_done(struct gfs2_dio *d, int64_t ret)
{
	fast_result = ret;
}

static bool fast(bool write, uint64_t pos, uint32_t len)
{
	struct gfs2_dio d = { .ip = ip, .ring = ring, .buf = write ? buf : back, .buf_index = -1,
			      .write = write, .pos = pos, .len = len, .done = fast_done };

	fast_result = 1;
	if (!gfs2_dio_fast(&d))
		return false;
	while (fast_result == 1)
		io_ring_wait(ring, 1);
	return true;
}

static void test_fast_path(void **state)
{
	layout("xx.x");
	extmap_clear(&ip->i_map);
	assert_int_equal(gfs2_file_flush_inval(ip), 0);
	assert_true(fast(true, 0, BS));		/* the map is not in memory, but the tree is */
	assert_int_equal(fast_result, BS);
	gfs2_glock_cb(ip->i_gl, LM_ST_UNLOCKED, false);
	assert_true(gfs2_glock_wait_demoted(ip->i_gl, 60000000000ull));
	assert_false(fast(true, 0, BS));	/* nothing is */
	assert_int_equal(dio(true, 0, BS, 'g'), BS);
	memset(buf, 'h', 2 * BS);
	assert_true(fast(true, 0, 2 * BS));
	assert_int_equal(fast_result, 2 * BS);
	assert_false(fast(true, BS, 2 * BS));	/* hole */
	assert_false(fast(true, 3 * BS, 2 * BS)); /* past EOF */
	assert_int_equal(dio(false, 0, 4 * BS, 0), 4 * BS); /* loads the rest of the map */
	assert_true(fast(false, 0, 4 * BS));
	assert_int_equal(fast_result, 4 * BS);
	assert_int_equal(back[2 * BS], 0);
	assert_int_equal(atomic_load(&ip->i_dio_count), 0);
	atomic_store(&ip->i_kcached, true);
	assert_false(fast(true, 0, BS));	/* the kernel's pages must be told: may block */
	contents("hh.d");
}

/* Events of one kind on the inode that name @req as theirs. */
static unsigned events_of(enum gfs2_event_type type, uint64_t req, int32_t pid)
{
	struct gfs2_event ev[64];
	uint64_t seq = mark;
	unsigned n, found = 0;

	while ((n = gfs2_event_read(&seq, ev, 64)))
		for (unsigned i = 0; i < n; i++)
			found += ev[i].type == type && ev[i].gl_number == ip->i_no_addr &&
				 ev[i].req == req && ev[i].pid == pid;
	return found;
}

/* The receive thread has read another request by the time the write is through. */
static void test_end_names_its_request(void **state)
{
	struct gfs2_dio d = { .ring = ring, .buf = buf, .buf_index = -1, .write = true, .len = BS,
			      .done = fast_done };

	layout("xx");
	assert_int_equal(dio(true, 0, BS, 'p'), BS);
	d.ip = ip;
	mark = gfs2_event_next_seq();
	*current_ctx() = (struct gfs2_ctx){ .req = 4711, .pid = 1234 };
	fast_result = 1;
	assert_true(gfs2_dio_fast(&d));
	*current_ctx() = (struct gfs2_ctx){ .req = 4712, .pid = 1235 };
	while (fast_result == 1)
		io_ring_wait(ring, 1);
	assert_int_equal(fast_result, BS);
	assert_int_equal(current_ctx()->req, 4712);
	assert_int_equal(current_ctx()->pid, 1235);
	*current_ctx() = (struct gfs2_ctx){ 0 };
	assert_int_equal(events_of(EV_DIO_BEGIN, 4711, 1234), 1);
	assert_int_equal(events_of(EV_GLOCK_DEQUEUE, 4711, 1234), 1);
	assert_int_equal(events_of(EV_DIO_END, 4711, 1234), 1);
	assert_int_equal(events_of(EV_GLOCK_DEQUEUE, 4712, 1235) + events_of(EV_DIO_END, 4712, 1235), 0);
}

static uint64_t outcome(enum dio_outcome which)
{
	return atomic_load(&ip->i_dio_outcome[which]);
}

static void test_outcomes_are_counted(void **state)
{
	uint64_t mount_direct = atomic_load(&sdp->sd_dio.outcome[DIO_DIRECT]);

	layout("xx.x");
	assert_int_equal(dio(true, 0, 2 * BS, 'k'), 2 * BS);
	assert_int_equal(dio(false, 0, 4 * BS, 0), 4 * BS); /* holes are no obstacle to a read */
	assert_int_equal(outcome(DIO_DIRECT), 2);
	assert_true(fast(true, 0, BS));
	assert_int_equal(outcome(DIO_DIRECT), 3);
	assert_int_equal(dio(true, BS, 2 * BS, 'l'), 2 * BS);
	assert_int_equal(dio(true, 3 * BS, 2 * BS, 'm'), 2 * BS);
	assert_int_equal(outcome(DIO_DIRECT), 3);
	assert_int_equal(outcome(DIO_HOLE), 1);
	assert_int_equal(outcome(DIO_EOF), 1);
	assert_int_equal(outcome(DIO_DEMOTE), 0);
	assert_int_equal(atomic_load(&sdp->sd_dio.outcome[DIO_DIRECT]), mount_direct + 3);
	assert_int_equal(hist_bucket(0), 0);
	assert_int_equal(hist_bucket(1), 1);
	assert_int_equal(hist_bucket(1023), 10);
	assert_int_equal(hist_bucket(1024), 11);
	assert_int_equal(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

static void *write_beside(void *result)
{
	struct io_ring *own;
	struct gfs2_dio d = { .ip = ip, .buf = buf, .buf_index = -1, .write = true, .len = BS };

	if (io_ring_create(engine, 8, false, &own))
		return NULL;
	d.ring = own;
	*(int64_t *)result = gfs2_dio_run(&d);
	io_ring_destroy(own);
	return NULL;
}

/* The lock is held and has been asked back: a write that comes now waits for the demotion, and is counted. */
static void test_demote_pending_is_counted(void **state)
{
	struct gfs2_holder gh;
	int64_t result = 0;
	pthread_t t;

	layout("xx");
	memset(buf, 'w', BS);
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_DEFERRED, 0, &gh), 0);
	gfs2_glock_cb(ip->i_gl, LM_ST_UNLOCKED, true);
	assert_int_equal(pthread_create(&t, NULL, write_beside, &result), 0);
	while (!outcome(DIO_DEMOTE))
		sched_yield();
	assert_int_equal(outcome(DIO_DIRECT), 0);
	gfs2_glock_dq_uninit(&gh);
	pthread_join(t, NULL);
	assert_int_equal(result, BS);
	assert_int_equal(outcome(DIO_DEMOTE), 1);
	assert_int_equal(outcome(DIO_DIRECT), 1);
	contents("wd");
}

/* More runs than the map may have: every write is direct all the same, and the map is not emptied again and again. */
static void test_many_runs(void **state)
{
	enum { RUNS = 300, MAX = 128 };
	char blocks[RUNS + 1] = "";
	struct gfs2_holder gh;
	struct extent e, cached;

	for (unsigned i = 0; i < RUNS; i++)
		blocks[i] = i % 2 ? '.' : 'x';
	layout(blocks);
	memset(buf, 'd', BS);
	for (unsigned i = 1; i < RUNS; i += 2)
		assert_int_equal(dio(true, i * BS, BS, 'd'), BS);
	gfs2_glock_cb(ip->i_gl, LM_ST_UNLOCKED, false);
	assert_true(gfs2_glock_wait_demoted(ip->i_gl, 60000000000ull));
	ip->i_map.max = MAX;
	assert_int_equal(dio(true, 0, BS, 'd'), BS);
	assert_in_range(ip->i_map.nr, 1, MAX);
	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < RUNS; i++) {
			uint64_t lblock = i * 77 % RUNS;
			unsigned before = ip->i_map.nr;

			assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_DEFERRED, 0, &gh), 0);
			assert_true(gfs2_map_extent_cached(ip, lblock, 4, &cached));
			assert_int_equal(gfs2_map_extent(ip, lblock, 4, &e), 0);
			gfs2_glock_dq_uninit(&gh);
			assert_int_equal(e.lblock, lblock);
			assert_int_equal(e.len, 1);
			assert_memory_equal(&e, &cached, sizeof(e));
			assert_true(ip->i_map.nr >= before);
			assert_true(fast(true, lblock * BS, BS));
			assert_int_equal(fast_result, BS);
		}
	assert_int_equal(outcome(DIO_HOLE), RUNS / 2);
}

/* --- the rest of a write that met a hole (dio/rest.h) --- */

static uint64_t device_bytes(void)
{
	struct io_stats st;

	io_get_stats(engine, &st);
	return st.bytes[IO_WRITE];
}

static uint64_t log_flushes(void)
{
	struct gfs2_log_stats st;

	gfs2_log_get_stats(sdp->sd_log, &st);
	return st.flushes;
}

/* Holes and mapped blocks in turns, either way: contents, durable, and nothing left in buffers. */
static void test_rest_both_ways(void **state)
{
	for (int way = DIO_REST_DIRECT; way <= DIO_REST_BUFFERED; way++) {
		uint64_t flushes;
		unsigned dirty;

		layout("x..x.xx...");
		atomic_store(&sdp->sd_dio_rest, way);
		flushes = log_flushes();
		mark = gfs2_event_next_seq();
		assert_int_equal(dio(true, 0, 9 * BS, 'R'), 9 * BS);
		assert_int_equal(events(EV_DIO_BUFFERED, -1), 1);
		assert_int_equal(log_flushes(), flushes + 1);
		rmutex_lock(&ip->i_data.m_lock);
		dirty = ip->i_data.m_nr_dirty;
		rmutex_unlock(&ip->i_data.m_lock);
		assert_int_equal(dirty, 0);
		contents("RRRRRRRRR.");
		/* Without a buffer in between: what the device has. */
		assert_int_equal(gfs2_file_flush_inval(ip), 0);
		contents("RRRRRRRRR.");
		drop_file(state);
		new_file(state);
	}
}

/* Not copied into buffers: the direct way makes none, the buffered one does; both write the data once. */
static void test_rest_direct_uses_no_buffers(void **state)
{
	uint64_t before;

	layout("....");
	mark = gfs2_event_next_seq();
	before = device_bytes();
	assert_int_equal(dio(true, 0, 4 * BS, 'N'), 4 * BS);
	/* Data, and a commit of some blocks. */
	assert_in_range(device_bytes() - before, 4 * BS, 16 * BS);
	assert_int_equal(atomic_load(&ip->i_data.m_nr), 0);
	contents("NNNN");
}

/* The device fails in the rest: a hole stays a hole, nobody sees what its block held before. */
static void test_rest_error_leaves_the_hole(void **state)
{
	struct io_fault f = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO };

	/* Blocks full of something, given back. */
	layout("xxxxxxxxxxxxxxxx");
	drop_file(state);
	new_file(state);
	layout("x...x.");
	assert_int_equal(io_fault_add(engine, &f), 0);
	assert_int_equal(dio(true, 0, 6 * BS, 'X'), -EIO);
	io_fault_clear(engine);
	contents("X...d.");
	assert_int_equal(dio(true, 0, 6 * BS, 'Y'), 6 * BS);
	contents("YYYYYY");
}

static void test_rest_grows_the_file(void **state)
{
	struct gfs2_holder gh;
	struct stat st;

	layout("x.");
	assert_int_equal(dio(true, BS, 3 * BS, 'G'), 3 * BS);	/* hole, then past the end */
	assert_int_equal(dio(true, 4 * BS, 2 * BS, 'H'), 2 * BS);
	assert_int_equal(dio(true, 8 * BS, BS, 'I'), BS);	/* leaves a hole behind */
	contents("dGGGHH..I");
	assert_int_equal(gfs2_setattr_size(ip, 9 * BS + 100), 0);
	assert_int_equal(dio(true, 10 * BS, BS, 'J'), BS);	/* the end is within a block */
	contents("dGGGHH..I.J");
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	gfs2_getattr(ip, &st);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(st.st_size, 11 * BS);
}

struct beside {
	pthread_t thread;
	uint64_t pos;
	uint32_t len;
	int64_t result;
	char *memory;
};

static void *write_hole(void *arg)
{
	struct beside *b = arg;
	struct io_ring *own;
	struct gfs2_dio d = { .ip = ip, .buf = b->memory, .buf_index = -1, .write = true, .pos = b->pos,
			      .len = b->len };

	*current_ctx() = (struct gfs2_ctx){ .req = 100 + b->pos / BS };
	if (io_ring_create(engine, 8, false, &own))
		return NULL;
	d.ring = own;
	b->result = gfs2_dio_run(&d);
	io_ring_destroy(own);
	return NULL;
}

static unsigned waiting(void)
{
	struct list_head *pos;
	unsigned n = 0;

	rmutex_lock(&ip->i_lock);
	for (pos = ip->i_rest.next; pos != &ip->i_rest; pos = pos->next)
		n++;
	rmutex_unlock(&ip->i_lock);
	return n;
}

#define BESIDE 8

/* From block @first on. */
static void together(unsigned first, const struct io_fault *fault, const int64_t *wanted, unsigned exclusive)
{
	struct beside b[BESIDE];
	struct gfs2_holder gh;

	/* The first one meets the hole and asks for EX, which a holder of ours keeps from it; the others join in. */
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_DEFERRED, 0, &gh), 0);
	mark = gfs2_event_next_seq();
	for (unsigned i = 0; i < BESIDE; i++) {
		/* Not in the order of the file. */
		b[i] = (struct beside){ .pos = (first + i * 5 % BESIDE) * BS, .len = BS, .result = 1 };
		b[i].memory = aligned_alloc(BS, BS);
		memset(b[i].memory, 'A' + (int)(b[i].pos / BS - first), BS);
		assert_int_equal(pthread_create(&b[i].thread, NULL, write_hole, &b[i]), 0);
		while (waiting() <= i)
			sched_yield();
	}
	if (fault)
		assert_int_equal(io_fault_add(engine, fault), 0);
	gfs2_glock_dq_uninit(&gh);
	for (unsigned i = 0; i < BESIDE; i++) {
		pthread_join(b[i].thread, NULL);
		assert_int_equal(b[i].result, wanted[b[i].pos / BS - first]);
		free(b[i].memory);
	}
	io_fault_clear(engine);
	assert_int_equal(events(EV_GLOCK_PROMOTE, LM_ST_EXCLUSIVE), exclusive);
	assert_int_equal(events(EV_DIO_BUFFERED, -1), BESIDE);
	assert_null(ip->i_rest_leader);
}

/* Eight writes into holes: EX once, one transaction, one flush; each has its own request's name on its events. */
static void test_rest_together(void **state)
{
	static const int64_t all[BESIDE] = { BS, BS, BS, BS, BS, BS, BS, BS };
	uint64_t flushes;

	layout("........");
	flushes = log_flushes();
	together(0, NULL, all, 1);
	assert_int_equal(log_flushes(), flushes + 1);
	assert_int_equal(events_of(EV_DIO_BUFFERED, 103, 0), 1);
	assert_int_equal(events_of(EV_DIO_BUFFERED, 107, 0), 1);
	contents("ABCDEFGH");
}

/* The device fails: together, and then alone for one of them; the others get what they asked for. */
static void test_rest_one_error_of_many(void **state)
{
	static const int64_t third[BESIDE] = { BS, BS, -EIO, BS, BS, BS, BS, BS };
	/* Eight together, one of which fails; then one by one the third one does. */
	struct io_fault once = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO, .count = 1 };
	struct io_fault later = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO, .skip = 10, .count = 1 };

	layout("........");
	assert_int_equal(io_fault_add(engine, &once), 0);
	together(0, &later, third, 1);
	contents("AB.DEFGH");
}

/* The same through buffers, since there is a gap before them: what is written together is taken back together. */
static void test_rest_undone(void **state)
{
	static const int64_t third[BESIDE] = { BS, BS, -EIO, BS, BS, BS, BS, BS };
	struct io_fault once = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO, .count = 1 };
	struct io_fault later = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO, .skip = 3, .count = 1 };
	struct gfs2_holder gh;
	struct extent e;

	layout("x");
	/* Who joins in knows from the map that it is a hole. */
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(gfs2_map_extent(ip, 1, 64, &e), 0);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(io_fault_add(engine, &once), 0);
	together(2, &later, third, 1);
	contents("d.AB.DEFGH");
	/* The dinode, and no block for what failed. */
	assert_int_equal(ip->i_blocks, 1 + 1 + 7);
}

#define ERRORS 300
static atomic_bool syncing;

static void *sync_always(void *arg)
{
	while (atomic_load(&syncing))
		gfs2_file_sync(ip, true);
	return NULL;
}

/* Somebody else syncs the file all the time, and so writes what we have left in buffers, and hears of our errors: we do, too. */
static void rest_error_told(int rest)
{
	struct io_fault fault = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO };
	pthread_t thread;

	atomic_store(&sdp->sd_dio_rest, rest);
	assert_int_equal(gfs2_setattr_size(ip, ERRORS * BS), 0);
	assert_int_equal(gfs2_fsync(ip, false), 0);
	assert_int_equal(io_fault_add(engine, &fault), 0);
	atomic_store(&syncing, true);
	assert_int_equal(pthread_create(&thread, NULL, sync_always, NULL), 0);
	for (unsigned i = 0; i < ERRORS; i++) {
		assert_int_equal(dio(true, i * BS + 512, 1024, 'P'), -EIO);
		if (rest == DIO_REST_DIRECT)
			assert_int_equal(ip->i_blocks, 1);
	}
	atomic_store(&syncing, false);
	pthread_join(thread, NULL);
	io_fault_clear(engine);
	if (rest == DIO_REST_DIRECT)
		contents("....");
}

static void test_rest_error_told(void **state)
{
	rest_error_told(DIO_REST_DIRECT);
}

static void test_rest_error_told_buffered(void **state)
{
	rest_error_told(DIO_REST_BUFFERED);
}

static unsigned written(void)
{
	return events(EV_DIO_BUFFERED, -1);
}

/*
 * Fewer than lately: they come one after the other, each when the one before has been written, and are made durable together when all
 * are there.  Without waiting for company there would be a flush for each.
 */
static void test_rest_waits_for_company(void **state)
{
	struct beside b[BESIDE];
	uint64_t flushes;

	layout("........");
	flushes = log_flushes();
	ip->i_rest_expect = BESIDE;
	ip->i_rest_took_us = 600u * 1000000;
	mark = gfs2_event_next_seq();
	for (unsigned i = 0; i < BESIDE; i++) {
		b[i] = (struct beside){ .pos = i * BS, .len = BS, .memory = aligned_alloc(BS, BS) };
		memset(b[i].memory, 'A' + (int)i, BS);
		assert_int_equal(pthread_create(&b[i].thread, NULL, write_hole, &b[i]), 0);
		while (written() <= i)
			sched_yield();
		if (i < BESIDE - 1)
			assert_int_equal(log_flushes(), flushes);
	}
	for (unsigned i = 0; i < BESIDE; i++) {
		pthread_join(b[i].thread, NULL);
		assert_int_equal(b[i].result, BS);
		free(b[i].memory);
	}
	assert_int_equal(log_flushes(), flushes + 1);
	assert_null(ip->i_rest_leader);
	assert_int_equal(ip->i_rest_flushing, 0);
	contents("ABCDEFGH");
}

/* Nobody comes: the first one is durable all the same, and the next one does not wait at all. */
static void test_rest_company_does_not_come(void **state)
{
	layout("....");
	ip->i_rest_expect = BESIDE;
	ip->i_rest_took_us = 1000;
	assert_int_equal(dio(true, 0, BS, 'A'), BS);
	assert_int_equal(ip->i_rest_expect, 1);
	ip->i_rest_took_us = UINT32_MAX;
	assert_int_equal(dio(true, BS, BS, 'B'), BS);
	contents("AB..");
}

/* --- answers from where the store has the data --- */

static struct {
	unsigned calls, nr;
	size_t len;
	bool held;
	int error;
} answer;

static int take_answer(struct gfs2_dio *d, const struct iovec *iov, unsigned nr)
{
	answer.calls++;
	answer.nr = nr;
	answer.len = 0;
	/* Nobody else may have what is being looked at: the lock is held, and the inode counts a request. */
	answer.held = gfs2_holder_queued(&d->gh) && d->gh.gh_state == LM_ST_DEFERRED &&
		      atomic_load(&ip->i_dio_count);
	memset(back, '?', 64 * BS);
	for (unsigned i = 0; i < nr; i++) {
		memcpy(back + answer.len, iov[i].iov_base, iov[i].iov_len);
		answer.len += iov[i].iov_len;
	}
	return answer.error;
}

/* -EBADMSG: it was not answered this way. */
static int64_t dio_answer(uint64_t pos, uint32_t len)
{
	struct gfs2_dio d = { .ip = ip, .ring = ring, .buf = buf, .buf_index = -1, .pos = pos, .len = len,
			      .send = take_answer };
	int64_t ret;

	memset(&answer.calls, 0, offsetof(__typeof__(answer), error));
	memset(buf, '!', len);
	ret = gfs2_dio_run(&d);
	assert_int_equal(d.was_sent, answer.calls);
	assert_int_equal(atomic_load(&ip->i_dio_count), 0);
	return answer.calls || ret < 0 ? ret : -EBADMSG;
}

static void in_back(const char *want, size_t len)
{
	assert_int_equal(answer.len, len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(back[i], want[i / BS] == '.' ? 0 : want[i / BS]);
}

static void test_answer_in_place(void **state)
{
	if (!io_can_in_place(engine)) {
		layout("xxxx");
		assert_int_equal(dio_answer(0, 4 * BS), -EBADMSG);
		return;
	}
	layout("x.xx..xx");
	assert_int_equal(dio(true, 2 * BS, 2 * BS, 'e'), 2 * BS);
	assert_int_equal(dio_answer(0, 8 * BS), 8 * BS);
	in_back("d.ee..dd", 8 * BS);
	assert_true(answer.held);
	assert_true(answer.nr >= 5);
	assert_int_equal(outcome(DIO_DIRECT), 2);
	/* A hole at either end; sectors; nothing but a hole needs no store. */
	assert_int_equal(dio_answer(BS, 4 * BS), 4 * BS);
	in_back(".ee.", 4 * BS);
	assert_int_equal(dio_answer(3 * BS + 512, 512), 512);
	in_back("e", 512);
	assert_int_equal(dio_answer(4 * BS, 2 * BS), -EBADMSG);
	/* The end of the file, in the middle of a sector. */
	assert_int_equal(gfs2_setattr_size(ip, 7 * BS + 100), 0);
	assert_int_equal(dio_answer(6 * BS, 8 * BS), BS + 100);
	in_back("dd", BS + 100);
	assert_int_equal(dio_answer(8 * BS, BS), -EBADMSG);
	/* It is nobody's business what happens to the answer, except when the store has gone. */
	answer.error = -EFAULT;
	assert_int_equal(dio_answer(0, BS), -EIO);
	answer.error = 0;
}

/* An error of the device comes before the answer; more runs than one round are read into the buffer. */
static void test_answer_needs_all(void **state)
{
	struct io_fault f = { .op = IO_READ, .cls = IO_DIO, .error = EIO, .skip = 1 };

	layout("x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.");
	assert_int_equal(dio_answer(0, 36 * BS), -EBADMSG);
	assert_int_equal(buf[0], 'd');
	assert_int_equal(buf[BS], 0);
	assert_int_equal(buf[34 * BS], 'd');
	assert_int_equal(io_fault_add(engine, &f), 0);
	assert_int_equal(dio_answer(0, 4 * BS), -EIO);
	assert_int_equal(answer.calls, 0);
	io_fault_clear(engine);
	f = (struct io_fault){ .op = IO_READ, .cls = IO_DIO, .short_bytes = 512 };
	assert_int_equal(io_fault_add(engine, &f), 0);
	if (io_can_in_place(engine)) {
		assert_int_equal(dio_answer(0, 4 * BS), 4 * BS);
		in_back("d.d.", 4 * BS);
	}
	io_fault_clear(engine);
}

#define T(f) cmocka_unit_test_setup_teardown(f, new_file, drop_file)

static int all_tests(void)
{
	const struct CMUnitTest tests[] = {
		T(test_mapped_stays_deferred), T(test_hole_drains_then_exclusive), T(test_hole_first),
		T(test_past_eof_is_buffered), T(test_sector_in_block), T(test_stuffed),
		T(test_read_short_only_at_eof), T(test_behaviours), T(test_error_under_way),
		T(test_dirty_data_first), T(test_fast_path),
		T(test_end_names_its_request), T(test_outcomes_are_counted), T(test_demote_pending_is_counted),
		T(test_many_runs), T(test_rest_both_ways), T(test_rest_direct_uses_no_buffers), T(test_rest_error_leaves_the_hole),
		T(test_rest_grows_the_file), T(test_rest_together), T(test_rest_one_error_of_many), T(test_rest_undone), T(test_rest_error_told), T(test_rest_error_told_buffered), T(test_rest_waits_for_company),
		T(test_rest_company_does_not_come),
		T(test_answer_in_place), T(test_answer_needs_all),
	};

	return cmocka_run_group_tests_name(vol_dir, tests, mount_volume, unmount_volume);
}

/* On a disk, and in memory, where the engine does its transfers another way. */
int main(void)
{
	const char *disk = getenv("TMPDIR");
	int on_disk = vol_main_in(disk ? disk : "/var/tmp", all_tests), in_memory = vol_main_in("/dev/shm", all_tests);

	return on_disk ? on_disk : in_memory;
}
