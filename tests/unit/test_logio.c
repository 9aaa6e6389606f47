/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The running log and slow, failing and concurrent I/O: ordered data, in-place writes under way while
 * blocks are changed or freed, errors, group commit.
 */
#include "logfix.h"
#include <semaphore.h>

/* --- ordered data --- */

static void ordered(void **state)
{
	struct io_fault fault = { .op = IO_WRITE, .cls = IO_DATA, .error = EIO, .count = 1 };
	struct gfs2_mapping data;
	struct gfs2_bh *bh;
	char *img;

	begin(512, 100, 20);
	mapping_init(&data, f.bufs, &gl, true);
	for (unsigned i = 0; i < 2; i++) {
		bh = buf_get(&data, f.home + 15);
		memset(bh->b_data, 'd', 512);
		assert_true(buf_mark_dirty(&data, bh));
		buf_put(bh);
		assert_int_equal(gfs2_trans_begin(f.log, 1, 0), 0);
		change_meta(&f, &gl, f.home, i);
		gfs2_ordered_add(f.log, &data);
		gfs2_ordered_add(f.log, &data);
		gfs2_trans_end(f.log);
		if (i)
			assert_int_equal(io_fault_add(f.e, &fault), 0);
		flush();
		/* The log goes on, the file's fsync tells. */
		assert_int_equal(mapping_sync(&data), i ? -EIO : 0);
		img = fix_read_all(&f);
		assert_int_equal(img[(f.home + 15) * 512], 'd');
		free(img);
	}
	gfs2_ordered_add(f.log, &data);
	gfs2_ordered_del(f.log, &data);
	gfs2_ordered_del(f.log, &data);
	trans_meta(&f, &gl, f.home, 9);
	flush();
	mapping_invalidate(&data);
	mapping_destroy(&data);
	assert_int_equal(f.withdrawn, 0);
	end();
}

static void dirty_data(struct gfs2_mapping *m, uint64_t blkno);

static bool on_device(uint64_t blkno, char what)
{
	char *img = fix_read_all(&f);
	bool yes = img[blkno * f.bsize] == what;

	free(img);
	return yes;
}

static void stop_log(void *arg)
{
	gfs2_log_stop(f.log);
}

/* The node is no longer part of the cluster while the first data are being written: the others are not. */
static void ordered_stopped(void **state)
{
	enum { FILES = 2 * ORDERED_AT_ONCE };
	static struct gfs2_mapping data[FILES];
	unsigned written = 0;
	char *img;

	fix_start(&f, 512, 100, FILES + 1, true);
	glock_start(&f, &gl, 1000);
	glock_start(&f, &gl2, 2000);
	for (unsigned i = 0; i < FILES; i++) {
		mapping_init(&data[i], f.bufs, &gl, true);
		dirty_data(&data[i], f.home + 1 + i);
	}
	trans_meta(&f, &gl, f.home, 1);
	dev.event = stop_log;
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), -EIO);
	dev.event = NULL;
	img = fix_read_all(&f);
	for (unsigned i = 0; i < FILES; i++) {
		written += img[(f.home + 1 + i) * f.bsize] == 'd';
		gfs2_ordered_del(f.log, &data[i]);
		assert_int_equal(mapping_sync(&data[i]), 0);
		mapping_invalidate(&data[i]);
		mapping_destroy(&data[i]);
	}
	free(img);
	assert_in_range(written, 1, ORDERED_AT_ONCE);
	end();
}

/* Overwritten data have no transaction that would take them along. */
static void ordered_alone(void **state)
{
	struct gfs2_mapping data;
	struct io_stats before, after;

	begin(512, 100, 20);
	mapping_init(&data, f.bufs, &gl, true);
	dirty_data(&data, f.home + 15);
	flush();
	assert_false(on_device(f.home + 15, 'd'));
	io_get_stats(f.e, &before);
	gfs2_log_set_commit_secs(f.log, 1);
	while (!on_device(f.home + 15, 'd'))
		usleep(1000);
	do {
		usleep(1000);
		io_get_stats(f.e, &after);
	} while (after.ops[IO_FLUSH] == before.ops[IO_FLUSH]);
	assert_int_equal(gfs2_log_durable_seq(f.log), 0);
	/* Before the interval is over a batch takes them, or the end does. */
	gfs2_log_set_commit_secs(f.log, 3600);
	dirty_data(&data, f.home + 14);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	assert_true(on_device(f.home + 14, 'd'));
	dirty_data(&data, f.home + 13);
	assert_int_equal(gfs2_log_shutdown(f.log), 0);
	assert_true(on_device(f.home + 13, 'd'));
	gfs2_ordered_del(f.log, &data);
	mapping_invalidate(&data);
	mapping_destroy(&data);
	assert_int_equal(f.withdrawn, 0);
	end();
}

/* Nobody waits for it who could be told, and the next flush of the device says that all is well: so nothing goes on. */
static void flush_alone_fails(void **state)
{
	struct io_fault fault = { .op = IO_FLUSH, .cls = IO_DATA, .error = EIO, .count = 1 };
	struct gfs2_mapping data;

	begin(512, 100, 20);
	msg_set_level(-1);
	mapping_init(&data, f.bufs, &gl, true);
	assert_int_equal(io_fault_add(f.e, &fault), 0);
	dirty_data(&data, f.home + 15);
	gfs2_log_set_commit_secs(f.log, 1);
	while (!atomic_load(&f.withdrawn))
		usleep(1000);
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), -EIO);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 0), -EIO);
	assert_int_equal(gfs2_log_shutdown(f.log), -EIO);
	io_fault_clear(f.e);
	gfs2_ordered_del(f.log, &data);
	mapping_invalidate(&data);
	mapping_destroy(&data);
	assert_int_equal(f.withdrawn, 1);
	msg_set_level(MSG_ERR);
	end();
}

static void *flush_thread(void *arg)
{
	CHECK(gfs2_log_flush(f.log, FLUSH) == 0);
	return NULL;
}

static void dirty_data(struct gfs2_mapping *m, uint64_t blkno)
{
	struct gfs2_bh *bh = buf_get(m, blkno);

	memset(bh->b_data, 'd', f.bsize);
	assert_true(buf_mark_dirty(m, bh));
	buf_put(bh);
	gfs2_ordered_add(f.log, m);
}

/*
 * Data that a batch makes reachable are freed by the next one while the flush has not come to them
 * yet: they must arrive all the same, a crash between the two commits would show what was there before.
 */
static void free_of_ordered(void **state)
{
	struct io_fault fault = { .op = IO_WRITE, .cls = IO_DATA, .delay_us = 200000, .count = 1 };
	struct gfs2_mapping data[2];
	pthread_t t;
	char *img;

	begin(512, 100, 20);
	mapping_init(&data[0], f.bufs, &gl, true);
	mapping_init(&data[1], f.bufs, &gl, true);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 0), 0);
	change_meta(&f, &gl, f.home, 1);
	dirty_data(&data[0], f.home + 10);
	dirty_data(&data[1], f.home + 11);
	gfs2_trans_end(f.log);
	assert_int_equal(io_fault_add(f.e, &fault), 0);
	assert_int_equal(pthread_create(&t, NULL, flush_thread, NULL), 0);
	while (gfs2_trans_batch_seq(f.log) < 2)
		usleep(100);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 1), 0);
	change_meta(&f, &gl, f.home, 2);
	gfs2_journal_wipe(f.log, f.home + 11, 1);
	gfs2_trans_end(f.log);
	pthread_join(t, NULL);
	img = fix_read_all(&f);
	assert_int_equal(img[(f.home + 10) * 512], 'd');
	assert_int_equal(img[(f.home + 11) * 512], 'd');
	free(img);
	for (unsigned i = 0; i < 2; i++) {
		gfs2_ordered_del(f.log, &data[i]);
		mapping_invalidate(&data[i]);
		mapping_destroy(&data[i]);
	}
	end();
}

/*
 * Freed by the open batch while the one before it is being written: a crash between the two must still
 * find the block's older image, whose place nobody has written.
 */
static void free_while_committing(void **state)
{
	struct io_fault fault = { .op = IO_WRITE, .cls = IO_LOG, .delay_us = 200000, .count = 1 };
	struct gfs2_recovery_result res;
	pthread_t t;
	char *img;

	begin(512, 100, 20);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	trans_meta(&f, &gl, f.home + 1, 2);
	assert_int_equal(io_fault_add(f.e, &fault), 0);
	assert_int_equal(pthread_create(&t, NULL, flush_thread, NULL), 0);
	while (gfs2_trans_batch_seq(f.log) < 3)
		usleep(100);
	assert_int_equal(gfs2_trans_begin(f.log, 0, 1), 0);
	gfs2_journal_wipe(f.log, f.home, 1);
	gfs2_trans_end(f.log);
	pthread_join(t, NULL);
	assert_int_equal(gfs2_log_durable_seq(f.log), 2);
	img = fix_read_all(&f);
	assert_int_equal(fix_recover(&f, img, &res), 0);
	assert_int_equal(img_word(&f, img, f.home), tag_word(1));
	assert_int_equal(img_word(&f, img, f.home + 1), tag_word(2));
	free(img);
	flush();
	img = fix_read_all(&f);
	assert_int_equal(fix_recover(&f, img, &res), 0);
	assert_int_equal(img_word(&f, img, f.home), 0);
	free(img);
	end();
}

/* --- in-place writes under way --- */

static _Thread_local bool to_be_held, tester;
static atomic_bool waited_for, pass_over;
static sem_t pass_begun;

static void *ail_thread(void *arg)
{
	to_be_held = true;
	CHECK(log_ail_write(f.log, NULL, UINT64_MAX) == 0);
	return NULL;
}

void __real_rcond_wait(struct rcond *c, struct rmutex *m);
void __wrap_rcond_wait(struct rcond *c, struct rmutex *m);

void __wrap_rcond_wait(struct rcond *c, struct rmutex *m)
{
	if (tester)
		atomic_store(&waited_for, true);
	__real_rcond_wait(c, m);
}

/* The first write of the pass lasts until somebody waits for it, or the test has come to the end of what it does meanwhile. */
static void hold_pass(void *arg)
{
	if (!to_be_held)
		return;
	to_be_held = false;
	sem_post(&pass_begun);
	while (!atomic_load(&waited_for) && !atomic_load(&pass_over))
		usleep(100);
}

static void begin_with_pass(pthread_t *t)
{
	fix_start(&f, 4096, 100, 10, true);
	glock_start(&f, &gl, 1000);
	glock_start(&f, &gl2, 2000);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	tester = true;
	atomic_store(&waited_for, false);
	atomic_store(&pass_over, false);
	sem_init(&pass_begun, 0, 0);
	dev.event = hold_pass;
	assert_int_equal(pthread_create(t, NULL, ail_thread, NULL), 0);
	sem_wait(&pass_begun);
}

static void end_pass(pthread_t t)
{
	atomic_store(&pass_over, true);
	pthread_join(t, NULL);
	dev.event = NULL;
	tester = false;
}

/* Changed while its committed image is being written: the image arrives untorn, the change stays out. */
static void change_during_write(void **state)
{
	pthread_t t;
	char *img;

	begin_with_pass(&t);
	trans_meta(&f, &gl, f.home, 2);
	end_pass(t);
	img = fix_read_all(&f);
	for (unsigned i = 3; i < 512; i++)
		assert_int_equal(((uint64_t *)(img + f.home * 4096))[i], 1000003 + i);
	free(img);
	/* Its obligation has ended, the new one begins with the flush. */
	assert_int_equal(atomic_load(&gl.gl_ail_count), 0);
	flush();
	assert_int_equal(atomic_load(&gl.gl_ail_count), 1);
	end();
}

/* Freed while its image is on its way: the free is not durable before the image has landed. */
static void free_during_write(void **state)
{
	char *data = aligned_alloc(4096, 4096), *img;
	pthread_t t;

	begin_with_pass(&t);
	assert_int_equal(gfs2_trans_begin(f.log, 0, 1), 0);
	gfs2_journal_wipe(f.log, f.home, 1);
	gfs2_trans_end(f.log);
	flush();
	/* Durable, so the block is somebody else's now. */
	memset(data, 'n', 4096);
	assert_int_equal(io_write(f.e, IO_DATA, data, 4096, f.home * 4096), 0);
	end_pass(t);
	img = fix_read_all(&f);
	assert_memory_equal(img + f.home * 4096, data, 4096);
	free(img);
	free(data);
	end();
}

/* --- errors --- */

static void *wait_for_space(void *arg)
{
	int rc;

	/* Until the log is full; ends with the error. */
	for (unsigned i = 0; !(rc = gfs2_trans_begin(f.log, 20, 0)); i++) {
		for (unsigned b = 0; b < 20; b++)
			change_meta(&f, &gl2, f.home + 20 + (i * 20 + b) % 100, i);
		gfs2_trans_end(f.log);
	}
	return (void *)(intptr_t)rc;
}

static void log_write_fails(void **state)
{
	struct io_fault fault = { .op = IO_WRITE, .cls = IO_LOG, .error = EIO };
	pthread_t t;
	void *ret;
	char *before, *after;

	begin(512, 100, 200);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	before = fix_read_all(&f);
	fault.skip = rnd(3);
	assert_int_equal(io_fault_add(f.e, &fault), 0);
	assert_int_equal(pthread_create(&t, NULL, wait_for_space, NULL), 0);
	pthread_join(t, &ret);
	assert_int_equal((intptr_t)ret, -EIO);
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), -EIO);
	assert_int_equal(gfs2_ail_flush(f.log), -EIO);
	assert_int_equal(gfs2_ail_empty_gl(f.log, &gl, true), -EIO);
	assert_int_equal(gfs2_log_flush_seq(f.log, 1, FLUSH), 0);
	/* The thread that met it tells; it may be about to. */
	while (!atomic_load(&f.withdrawn))
		usleep(1000);
	assert_int_equal(f.withdrawn, 1);
	io_fault_clear(f.e);
	assert_int_equal(gfs2_log_shutdown(f.log), -EIO);
	after = fix_read_all(&f);
	/* Nothing went in place, and the journal is still what it was: dirty, with the first flush. */
	assert_memory_equal(after + f.home * 512, before + f.home * 512, 200 * 512);
	assert_int_equal(head_now().lh_sequence, f.head.lh_sequence + 1);
	free(before);
	free(after);
	end();
}

static void stop_in_transaction(void **state)
{
	begin(512, 100, 10);
	trans_meta(&f, &gl, f.home, 1);
	assert_int_equal(gfs2_trans_begin(f.log, 2, 1), 0);
	change_meta(&f, &gl, f.home, 2);
	gfs2_log_stop(f.log);
	change_meta(&f, &gl, f.home + 1, 2);
	gfs2_journal_wipe(f.log, f.home, 1);
	gfs2_trans_end(f.log);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 0), -EIO);
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), -EIO);
	assert_int_equal(f.withdrawn, 0);
	gfs2_log_abandon(f.log);
	assert_int_equal(head_now().lh_sequence, f.head.lh_sequence);
	end();
}

static bool gate_closed;
void __real_log_set_error(struct gfs2_log *log, int error, const char *what);
void __wrap_log_set_error(struct gfs2_log *log, int error, const char *what);

void __wrap_log_set_error(struct gfs2_log *log, int error, const char *what)
{
	gate_closed = log->l_closed;
	__real_log_set_error(log, error, what);
}

/*
 * A block changed as metadata without a header would make the journal unreplayable.  The batch has been taken apart when that is found: no
 * transaction gets into it any more.
 */
static void no_header(void **state)
{
	struct gfs2_bh *bh;

	begin(512, 100, 10);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 0), 0);
	bh = buf_get(&gl.gl_mapping, f.home);
	gfs2_trans_add_meta(f.log, &gl, bh);
	buf_put(bh);
	gfs2_trans_end(f.log);
	msg_set_level(-1);
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), -EIO);
	msg_set_level(MSG_ERR);
	assert_true(gate_closed);
	assert_int_equal(f.withdrawn, 1);
	end();
}

/* --- group commit --- */

#define SYNCERS 8
#define SYNCS 20

static void *syncer(void *arg)
{
	struct gfs2_glock own;
	unsigned me = (uintptr_t)arg;

	glock_start(&f, &own, 5000 + me);
	for (unsigned i = 0; i < SYNCS; i++) {
		uint64_t seq;

		CHECK(gfs2_trans_begin(f.log, 1, 0) == 0);
		change_meta(&f, &own, f.home + me, i);
		seq = gfs2_trans_batch_seq(f.log);
		gfs2_trans_end(f.log);
		CHECK(gfs2_log_flush_seq(f.log, seq, FLUSH) == 0);
		CHECK(gfs2_log_durable_seq(f.log) >= seq);
	}
	CHECK(gfs2_ail_empty_gl(f.log, &own, false) == 0);
	glock_end(&own);
	return NULL;
}

static void group_commit(void **state)
{
	struct io_fault fault = { .op = IO_WRITE, .cls = IO_LOG, .delay_us = 500 };
	struct gfs2_log_stats st;
	pthread_t t[SYNCERS];

	begin(512, 2000, 20);
	assert_int_equal(io_fault_add(f.e, &fault), 0);
	for (uintptr_t i = 0; i < SYNCERS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, syncer, (void *)i), 0);
	for (unsigned i = 0; i < SYNCERS; i++)
		pthread_join(t[i], NULL);
	gfs2_log_get_stats(f.log, &st);
	assert_true(st.batches_shared > 0);
	assert_true(st.flushes < SYNCERS * SYNCS);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ordered),
		cmocka_unit_test(ordered_stopped),
		cmocka_unit_test(ordered_alone),
		cmocka_unit_test(flush_alone_fails),
		cmocka_unit_test(free_of_ordered),
		cmocka_unit_test(free_while_committing),
		cmocka_unit_test(change_during_write),
		cmocka_unit_test(free_during_write),
		cmocka_unit_test(log_write_fails),
		cmocka_unit_test(stop_in_transaction),
		cmocka_unit_test(no_header),
		cmocka_unit_test(group_commit),
	};

	return cmocka_run_group_tests_name("log and I/O", tests, NULL, NULL);
}
