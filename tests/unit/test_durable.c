/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is durable at return, and how many flushes of the device that takes.
 *
 * Every request to the device is seen on its way (a wrapper of io_ring_submit_req) and noted with the moments at which it was sent and at which it
 * had ended.  From these follows what a device with a volatile cache would keep if the power failed now: a block's last write has to have been
 * forced (FUA), or a flush has to have begun after it had ended, and to have ended; and so for the log's header, before it and itself, when the block
 * was allocated.  That is asked at the return of each operation that promises to be durable, of one thread and of many at once.
 *
 * The numbers are exact where nobody else is at work: one flush for any number of direct writes before an fsync; none, but forced writes, for
 * O_DSYNC; one flush and one forced header for each group of writes into holes.
 *
 * Deliberate breakages with which this file was seen to fail: fsync believes any log flush to have covered the direct writes, or one that began before
 * them; O_DSYNC writes are not forced; O_DSYNC does not wait for the transaction that allocated the blocks, on a worker or on the fast path; the log's header
 * without a flush before it; a header that is not forced; a root's fsync that flushes the log only; one flush more than is needed by fsync or by O_DSYNC.
 */
#include "volfile.h"
#include <pthread.h>
#include <sched.h>
#include "dio/dio.h"
#include "fs/file.h"
#include "journal/log.h"

#define BS 4096u
#define BLOCKS 64u
#define THREADS 8u

/* --- the device --- */

struct entry {
	struct io_req *req;		/* NULL: it has ended */
	void (*done)(struct io_req *req);
	enum io_op op;
	enum io_class cls;
	bool fua, failed;
	uint64_t pos, len;
	uint64_t sent, ended;		/* moments; 0: not yet */
};

static struct {
	pthread_mutex_t lock;
	struct entry *e;
	unsigned nr, cap;
	uint64_t moment;
} device = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool checked_payload;	/* some header's has been found */

void __real_io_ring_submit_req(struct io_ring *r, struct io_req *req);
void __wrap_io_ring_submit_req(struct io_ring *r, struct io_req *req);

static void noted_done(struct io_req *req)
{
	void (*done)(struct io_req *req) = NULL;

	pthread_mutex_lock(&device.lock);
	for (unsigned i = device.nr; i--;) {
		struct entry *e = &device.e[i];

		if (e->req != req)
			continue;
		e->req = NULL;
		e->ended = ++device.moment;
		e->failed = req->res;
		done = e->done;
		break;
	}
	pthread_mutex_unlock(&device.lock);
	req->done = done;
	if (done)
		done(req);
}

void __wrap_io_ring_submit_req(struct io_ring *r, struct io_req *req)
{
	if (req->op != IO_READ) {
		pthread_mutex_lock(&device.lock);
		if (device.nr == device.cap) {
			device.cap = device.cap ? 2 * device.cap : 1024;
			device.e = xrealloc(device.e, device.cap * sizeof(*device.e));
		}
		device.e[device.nr] = (struct entry){ .req = req, .done = req->done, .op = req->op, .cls = req->cls, .fua = req->fua,
						      .pos = req->pos, .sent = ++device.moment };
		for (unsigned i = 0; req->op == IO_WRITE && i < req->nr_iov; i++)
			device.e[device.nr].len += req->iov[i].iov_len;
		device.nr++;
		pthread_mutex_unlock(&device.lock);
		req->done = noted_done;
	}
	__real_io_ring_submit_req(r, req);
}

/* From now on the notes are these alone.  Nothing is under way. */
static void forget_notes(void)
{
	unsigned under_way = 0;

	pthread_mutex_lock(&device.lock);
	for (unsigned i = 0; i < device.nr; i++)
		under_way += device.e[i].req != NULL;
	device.nr = 0;
	pthread_mutex_unlock(&device.lock);
	assert_int_equal(under_way, 0);
}

static unsigned requests(enum io_op op, int cls, bool fua)
{
	unsigned nr = 0;

	pthread_mutex_lock(&device.lock);
	for (unsigned i = 0; i < device.nr; i++)
		nr += device.e[i].op == op && (cls < 0 || (int)device.e[i].cls == cls) && device.e[i].fua == fua;
	pthread_mutex_unlock(&device.lock);
	return nr;
}

static bool ended_well(const struct entry *e)
{
	return e->ended && !e->failed;
}

/* Would the device have @e's bytes if the power failed now? */
static bool on_media(const struct entry *e)
{
	if (!ended_well(e))
		return false;
	if (e->fua)
		return true;
	for (unsigned i = 0; i < device.nr; i++) {
		const struct entry *f = &device.e[i];

		if (f->op == IO_FLUSH && f->sent > e->ended && ended_well(f))
			return true;
	}
	return false;
}

/* The last write of the block at @pos. */
static bool block_on_media(uint64_t pos)
{
	bool found = false;

	pthread_mutex_lock(&device.lock);
	for (unsigned i = device.nr; i-- && !found;) {
		const struct entry *e = &device.e[i];

		if (e->op != IO_WRITE || pos < e->pos || pos >= e->pos + e->len)
			continue;
		found = true;
		if (!on_media(e)) {
			found = false;
			break;
		}
	}
	pthread_mutex_unlock(&device.lock);
	return found;
}

/* A header is sent when a flush has ended that began when what lies before it in the log, all of its batch, was there.  (Payload of the next batch may be, too.) */
static bool header_is_safe(unsigned header)
{
	const struct entry *h = &device.e[header];
	uint64_t end = h->pos;

	for (unsigned i = header; i--;) {
		const struct entry *e = &device.e[i];
		bool flushed = false;

		if (e->op != IO_WRITE || e->cls != IO_LOG || e->fua || e->pos + e->len != end)
			continue;
		for (unsigned k = i + 1; k < header; k++) {
			const struct entry *f = &device.e[k];

			flushed |= f->op == IO_FLUSH && f->sent > e->ended && ended_well(f) && f->ended < h->sent;
		}
		if (!flushed || !ended_well(e))
			return false;
		end = e->pos;
		i = header;
	}
	checked_payload |= end != h->pos;
	return true;
}

static void check_log(void)
{
	bool safe = true;

	pthread_mutex_lock(&device.lock);
	for (unsigned i = 0; i < device.nr; i++)
		if (device.e[i].op == IO_WRITE && device.e[i].cls == IO_LOG && device.e[i].fua)
			safe &= header_is_safe(i);
	pthread_mutex_unlock(&device.lock);
	assert_true(safe);
}

/* --- a volume --- */

static struct mounted m;
static struct gfs2_inode *ip;
static unsigned file_number;

static int mount_volume(void **state)
{
	struct gfs2_args args = vol_args;

	/* Nobody writes anything but us. */
	args.ar_commit = 3600;
	args.ar_dio_mtime_interval = 3600;
	vol_make(BS, 96, 1, "");
	m = mount_with(&args);
	return 0;
}

static int unmount_volume(void **state)
{
	do_unmount(&m);
	free(device.e);
	device.e = NULL;
	device.nr = device.cap = 0;
	return 0;
}

static void fsync_file(bool datasync)
{
	assert_int_equal(gfs2_fsync(ip, datasync), 0);
}

/* @nr blocks that are allocated, written and durable, and as many holes behind. */
static int new_file(void **state)
{
	char name[32], *data = aligned_alloc(BS, BLOCKS * BS);
	struct gfs2_holder gh;

	memset(data, 'd', BLOCKS * BS);
	io_fault_clear(m.e);
	snprintf(name, sizeof(name), "file%u", file_number++);
	ip = make_file(m.sdp, name);
	assert_int_equal(gfs2_setattr_size(ip, 2 * BLOCKS * BS), 0);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_write(ip, data, 0, BLOCKS * BS, false), BLOCKS * BS);
	gfs2_glock_dq_uninit(&gh);
	fsync_file(false);
	assert_int_equal(gfs2_file_flush_inval(ip), 0);
	free(data);
	forget_notes();
	return 0;
}

static int drop_file(void **state)
{
	io_fault_clear(m.e);
	gfs2_inode_put(ip);
	ip = NULL;
	return 0;
}

struct request {
	bool dsync, fast;
	unsigned block, nr;
};

static void fast_done(struct gfs2_dio *dio, int64_t ret)
{
	*(int64_t *)dio->priv = ret;
}

/* A write by whoever calls; with a ring of its own. */
static int64_t direct_write(const struct request *rq)
{
	char *data = aligned_alloc(BS, rq->nr * BS);
	struct gfs2_dio d = { .ip = ip, .buf = data, .buf_index = -1, .write = true, .dsync = rq->dsync,
			      .pos = (uint64_t)rq->block * BS, .len = rq->nr * BS, .done = fast_done };
	int64_t ret = 1;

	d.priv = &ret;
	memset(data, 'w', rq->nr * BS);
	assert_int_equal(io_ring_create(m.e, 8, false, &d.ring), 0);
	if (!rq->fast) {
		ret = gfs2_dio_run(&d);
	} else {
		assert_true(gfs2_dio_fast(&d));
		while (ret == 1)
			io_ring_wait(d.ring, 1);
	}
	io_ring_destroy(d.ring);
	free(data);
	return ret;
}

static void write_blocks(unsigned block, unsigned nr, bool dsync)
{
	assert_int_equal(direct_write(&(struct request){ .dsync = dsync, .block = block, .nr = nr }), nr * BS);
}

static uint64_t device_pos(unsigned block)
{
	struct gfs2_holder gh;
	struct extent e;

	lock(ip, LM_ST_SHARED, &gh);
	assert_int_equal(gfs2_map_extent(ip, block, 1, &e), 0);
	gfs2_glock_dq_uninit(&gh);
	assert_true(e.pblock);
	return e.pblock * BS;
}

static bool allocation_durable(void)
{
	return atomic_load(&ip->i_datasync_seq) <= gfs2_log_durable_seq(m.sdp->sd_log);
}

static void check_durable(unsigned block, unsigned nr)
{
	assert_true(allocation_durable());
	for (unsigned i = 0; i < nr; i++)
		assert_true(block_on_media(device_pos(block + i)));
	check_log();
}

/* All that has been sent since the last time: flushes, and forced writes. */
static void cost(unsigned flushes, unsigned data_forced, unsigned log_forced)
{
	assert_int_equal(requests(IO_FLUSH, -1, false), flushes);
	assert_int_equal(requests(IO_WRITE, IO_DIO, true), data_forced);
	assert_int_equal(requests(IO_WRITE, IO_LOG, true), log_forced);
	forget_notes();
}

/* --- one at a time --- */

static void test_writes_then_fdatasync(void **state)
{
	for (unsigned i = 0; i < 8; i++)
		write_blocks(7 * i, 1, false);
	assert_int_equal(requests(IO_FLUSH, -1, false), 0);
	/* The oracle is no yes-man. */
	assert_false(block_on_media(device_pos(7)));
	fsync_file(true);
	for (unsigned i = 0; i < 8; i++)
		check_durable(7 * i, 1);
	cost(1, 0, 0);
	/* Nobody knows whether something has been written since. */
	fsync_file(true);
	cost(1, 0, 0);
}

/* The file's times are published by a transaction; the flush of that one covers the data. */
static void test_writes_then_fsync(void **state)
{
	for (unsigned i = 0; i < 8; i++)
		write_blocks(7 * i, 1, false);
	fsync_file(false);
	for (unsigned i = 0; i < 8; i++)
		check_durable(7 * i, 1);
	cost(1, 0, 1);
}

static void test_dsync(void **state)
{
	write_blocks(3, 4, true);
	check_durable(3, 4);
	cost(0, 1, 0);
	assert_int_equal(direct_write(&(struct request){ .dsync = true, .fast = true, .block = 9, .nr = 2 }), 2 * BS);
	check_durable(9, 2);
	cost(0, 1, 0);
}

/* Nothing is written by these but the data: they are ordered, and the blocks are where they were. */
static void test_hole(void **state)
{
	for (unsigned dsync = 0; dsync < 2; dsync++) {
		write_blocks(BLOCKS + 4 * dsync, 2, dsync);
		check_durable(BLOCKS + 4 * dsync, 2);
		cost(1, 0, 1);
	}
	assert_true(checked_payload);
	/* Half of it has blocks. */
	write_blocks(BLOCKS, 4, true);
	check_durable(BLOCKS, 4);
	assert_int_equal(requests(IO_FLUSH, -1, false), 1);
	assert_int_equal(requests(IO_WRITE, IO_LOG, true), 1);
}

/* Blocks that have been allocated by a transaction which is not durable: an O_DSYNC write to them has to see to that. */
static void test_dsync_into_new_blocks(void **state)
{
	char *data = aligned_alloc(BS, BS);
	struct gfs2_holder gh;

	memset(data, 'n', BS);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_write(ip, data, BLOCKS * BS, BS, false), BS);
	gfs2_glock_dq_uninit(&gh);
	free(data);
	assert_false(allocation_durable());
	write_blocks(BLOCKS, 1, false);
	assert_false(allocation_durable());
	forget_notes();
	/* A receive thread may not wait, and leaves it to a worker. */
	assert_false(gfs2_dio_fast(&(struct gfs2_dio){ .ip = ip, .write = true, .dsync = true, .pos = BLOCKS * BS, .len = BS }));
	write_blocks(BLOCKS, 1, true);
	check_durable(BLOCKS, 1);
	assert_int_equal(requests(IO_WRITE, IO_LOG, true), 1);
	assert_in_range(requests(IO_FLUSH, -1, false), 1, 2);
}

static void overwrite_buffered(unsigned block)
{
	char *data = aligned_alloc(BS, BS);
	struct gfs2_holder gh;

	memset(data, 'o', BS);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_write(ip, data, (uint64_t)block * BS, BS, false), BS);
	gfs2_glock_dq_uninit(&gh);
	free(data);
}

/* fsync of the root is one of the whole mount: also of what is overwritten within a tick of the clock, which changes nothing but data. */
static void test_root(void **state)
{
	struct gfs2_log_stats before, after;

	write_blocks(2, 3, false);
	overwrite_buffered(9);
	assert_int_equal(gfs2_fsync(m.sdp->sd_root, false), 0);
	check_durable(2, 3);
	check_durable(9, 1);
	do {
		forget_notes();
		gfs2_log_get_stats(m.sdp->sd_log, &before);
		overwrite_buffered(20);
		assert_int_equal(gfs2_fsync(m.sdp->sd_root, false), 0);
		check_durable(20, 1);
		gfs2_log_get_stats(m.sdp->sd_log, &after);
	} while (after.flushes != before.flushes);
}

static void test_errors_are_told(void **state)
{
	struct io_fault forced = { .op = IO_WRITE, .cls = IO_DIO, .error = EIO };

	assert_int_equal(io_fault_add(m.e, &forced), 0);
	assert_int_equal(direct_write(&(struct request){ .dsync = true, .nr = 1 }), -EIO);
	io_fault_clear(m.e);
	assert_false(gfs2_withdrawn(m.sdp));
}

/* What nobody has asked for may be lost with it: metadata on their way home, other files' data.  So the log's tail stays, and nobody is told that all is well. */
static void test_flush_fails(void **state)
{
	struct io_fault flush = { .op = IO_FLUSH, .cls = IO_DATA, .error = EIO };

	write_blocks(0, 1, false);
	msg_set_level(-1);
	assert_int_equal(io_fault_add(m.e, &flush), 0);
	assert_int_equal(gfs2_fsync(ip, true), -EIO);
	io_fault_clear(m.e);
	assert_true(gfs2_withdrawn(m.sdp));
	assert_int_equal(gfs2_fsync(m.sdp->sd_root, false), -EIO);
	assert_int_equal(gfs2_fsync(ip, true), -EIO);
	msg_set_level(MSG_ERR);
}

/* The log has all there was. */
static int unmount_withdrawn(void **state)
{
	msg_set_level(-1);
	assert_int_equal(gfs2_unmount(m.sdp), -EIO);
	msg_set_level(MSG_ERR);
	io_engine_close(m.e);
	m = do_mount();
	return unmount_volume(state);
}

/* --- beside others --- */

static void *flush_log(void *arg)
{
	*(int *)arg = gfs2_log_flush(m.sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL);
	return NULL;
}

/*
 * The log is being flushed, its flush of the device has been sent; now a direct write, and fdatasync.  That flush is over when fdatasync returns, and the
 * batch that the file's last transaction was in is durable: but the write came too late for both.
 */
static void test_a_flush_that_began_before(void **state)
{
	struct io_fault slow = { .op = IO_FLUSH, .cls = IO_LOG, .delay_us = 50000 };
	const struct timespec later = { 1700000000, 0 };
	struct gfs2_holder gh;
	pthread_t t;
	int error;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_trans_begin(m.sdp->sd_log, 1, 0), 0);
	ip->i_mtime = later;
	assert_int_equal(gfs2_dinode_log(ip), 0);
	gfs2_inode_note_log(ip, true);
	gfs2_trans_end(m.sdp->sd_log);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(io_fault_add(m.e, &slow), 0);
	assert_int_equal(pthread_create(&t, NULL, flush_log, &error), 0);
	while (!requests(IO_FLUSH, IO_LOG, false))
		sched_yield();
	write_blocks(5, 1, false);
	fsync_file(true);
	check_durable(5, 1);
	pthread_join(t, NULL);
	assert_int_equal(error, 0);
	assert_int_equal(requests(IO_FLUSH, IO_LOG, false), 1);
	assert_int_equal(requests(IO_FLUSH, IO_DATA, false), 1);
}

struct worker {
	pthread_t id;
	unsigned first, step;		/* blocks, one in each @step */
	bool dsync, sync, datasync;
	const char *wrong;
};

#define EACH 6u

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < EACH && !w->wrong; i++) {
		unsigned block = w->first + i * w->step;

		if (direct_write(&(struct request){ .dsync = w->dsync, .block = block, .nr = 1 }) != BS)
			w->wrong = "write";
		else if (w->sync && gfs2_fsync(ip, w->datasync))
			w->wrong = "fsync";
		else if (!allocation_durable() && w->sync)
			w->wrong = "transaction";
		else if (!block_on_media(device_pos(block)))
			w->wrong = "block";
	}
	return NULL;
}

/* Each has blocks of its own, one after the other in turns. */
static void all_together(const struct worker *like)
{
	struct worker w[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = *like;
		w[i].first += i;
		w[i].step = THREADS;
		assert_int_equal(pthread_create(&w[i].id, NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(w[i].id, NULL);
		assert_null(w[i].wrong);
	}
	check_log();
}

/* A forced write each, no flush. */
static void test_many_dsync(void **state)
{
	all_together(&(struct worker){ .dsync = true });
	cost(0, THREADS * EACH, 0);
}

/* A flush each: they are not shared. */
static void test_many_fdatasync(void **state)
{
	all_together(&(struct worker){ .sync = true, .datasync = true });
	cost(THREADS * EACH, 0, 0);
}

/* Times, too: a batch each, or one for several; who finds his own in a batch that is under way flushes by himself. */
static void test_many_fsync(void **state)
{
	unsigned headers, flushes;

	all_together(&(struct worker){ .sync = true });
	headers = requests(IO_WRITE, IO_LOG, true);
	flushes = requests(IO_FLUSH, IO_LOG, false);
	assert_in_range(headers, 1, THREADS * EACH);
	assert_int_equal(flushes, headers);
	assert_in_range(requests(IO_FLUSH, IO_DATA, false), 0, THREADS * EACH);
}

/* Into holes: groups share a flush and a header. */
static void test_many_holes(void **state)
{
	unsigned headers;

	all_together(&(struct worker){ .first = BLOCKS });
	headers = requests(IO_WRITE, IO_LOG, true);
	assert_in_range(headers, EACH, THREADS * EACH);
	assert_int_equal(requests(IO_FLUSH, -1, false), headers);
	assert_int_equal(requests(IO_WRITE, IO_DIO, true), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, new_file, drop_file)

static int tests(void)
{
	const struct CMUnitTest all[] = {
		TEST(test_writes_then_fdatasync), TEST(test_writes_then_fsync), TEST(test_dsync), TEST(test_hole),
		TEST(test_dsync_into_new_blocks), TEST(test_a_flush_that_began_before), TEST(test_many_dsync),
		TEST(test_many_fdatasync), TEST(test_many_fsync), TEST(test_many_holes), TEST(test_root), TEST(test_errors_are_told),
	};

	const struct CMUnitTest last[] = { TEST(test_flush_fails) };

	return cmocka_run_group_tests(all, mount_volume, unmount_volume) ||
	       cmocka_run_group_tests(last, mount_volume, unmount_withdrawn);
}

int main(void)
{
	return vol_main(tests);
}
