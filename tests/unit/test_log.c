/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The running log: what it writes where and when, log space, revokes, write-back, the thread.
 * Slow and failing I/O: test_logio.c; what a crash leaves: test_crash.c.
 */
#include <sched.h>
#include "logfix.h"

static uint32_t be32_at(const char *p, unsigned off)
{
	return be32_to_cpu(*(const __be32 *)(p + off));
}

static uint64_t be64_at(const char *p, unsigned off)
{
	return be64_to_cpu(*(const __be64 *)(p + off));
}

static void change_jdata(uint64_t blkno, uint64_t tag)
{
	struct gfs2_bh *bh = buf_get(&gl2.gl_mapping, blkno);

	gfs2_trans_add_jdata(f.log, &gl2, bh);
	fill_jdata(bh->b_data, f.bsize, tag);
	buf_set_uptodate(bh);
	buf_put(bh);
}

/* Groups, order, tables, escaping, header: byte by byte. */
static void layout(void **state)
{
	struct gfs2_log_header_host h;
	char want[1024];
	char *b, *img;

	fix_on_disk = true;
	begin(1024, 64, 32);
	fix_on_disk = false;
	atomic_store(&f.stat_free, -7);
	assert_int_equal(gfs2_trans_begin(f.log, 5, 0), 0);
	change_meta(&f, &gl, f.home + 9, 1);
	change_meta(&f, &gl, f.home + 2, 2);
	change_meta(&f, &gl, f.home + 9, 3);
	change_jdata(f.home + 5, 3); /* escaped */
	change_jdata(f.home + 4, 5); /* not */
	gfs2_trans_end(f.log);
	assert_int_equal(gfs2_trans_batch_seq(f.log), 1);
	flush();
	assert_int_equal(gfs2_log_durable_seq(f.log), 1);
	assert_int_equal(atomic_load(&gl.gl_ail_count), 2);

	img = fix_read_all(&f);
	b = jblock(img, 0);
	assert_int_equal(be32_at(b, 4), GFS2_METATYPE_LD);
	assert_int_equal(be32_at(b, 24), GFS2_LOG_DESC_JDATA);
	assert_int_equal(be32_at(b, 28), 3);
	assert_int_equal(be32_at(b, 32), 2);
	assert_int_equal(be64_at(b, 72), f.home + 4);
	assert_int_equal(be64_at(b, 80), 0);
	assert_int_equal(be64_at(b, 88), f.home + 5);
	assert_int_equal(be64_at(b, 96), 1);
	for (unsigned i = 104; i < 1024; i++)
		assert_int_equal(b[i], 0);
	fill_jdata(want, 1024, 5);
	assert_memory_equal(jblock(img, 1), want, 1024);
	fill_jdata(want, 1024, 3);
	memset(want, 0, 4);
	assert_memory_equal(jblock(img, 2), want, 1024);
	b = jblock(img, 3);
	assert_int_equal(be32_at(b, 24), GFS2_LOG_DESC_METADATA);
	assert_int_equal(be32_at(b, 28), 3);
	assert_int_equal(be32_at(b, 32), 2);
	assert_int_equal(be64_at(b, 72), f.home + 2);
	assert_int_equal(be64_at(b, 80), f.home + 9);
	assert_int_equal(be32_at(jblock(img, 4), 20), 3); /* mh_jid */
	assert_int_equal(((uint64_t *)jblock(img, 5))[3], tag_word(3));

	assert_int_equal(gfs2_log_header_decode(jblock(img, 6), 1024, &h), 0);
	assert_int_equal(h.lh_sequence, f.head.lh_sequence + 1);
	assert_int_equal(h.lh_flags, FLUSH);
	assert_int_equal(h.lh_blkno, (f.head.lh_blkno + 7) % 64);
	assert_int_equal(h.lh_tail, (f.head.lh_blkno + 1) % 64);
	assert_int_equal(h.lh_statfs_addr, f.local);
	assert_true(h.lh_local_free == -7 && h.lh_local_total == 0);
	assert_int_equal(be64_at(jblock(img, 6), 64), (jblock(img, 6) - img) / 1024);
	/* Nothing in place yet. */
	assert_int_equal(img_word(&f, img, f.home + 9), 0);
	free(img);

	/* Nothing to do: nothing is written. */
	flush();
	assert_int_equal(head_now().lh_sequence, h.lh_sequence);

	/* In place, and the tail is the header itself. */
	assert_int_equal(gfs2_ail_flush(f.log), 0);
	assert_int_equal(atomic_load(&gl.gl_ail_count), 0);
	h = head_now();
	assert_int_equal(h.lh_tail, h.lh_blkno);
	img = fix_read_all(&f);
	assert_int_equal(img_word(&f, img, f.home + 9), tag_word(3));
	fill_jdata(want, 1024, 3);
	assert_memory_equal(img + (f.home + 5) * 1024, want, 1024);
	free(img);
	atomic_store(&f.stat_free, 0);
	assert_int_equal(gfs2_log_shutdown(f.log), 0);
	h = head_now();
	assert_int_equal(h.lh_flags, 0x101);
	assert_int_equal(h.lh_tail, h.lh_blkno);
	end();
}

/* Many laps; every block ends where it should, every header counts on. */
static void wrap_around(void **state)
{
	uint64_t tags[40] = { 0 };
	struct gfs2_log_header_host h;
	char *img;

	for (uint32_t bsize = 512; bsize <= 4096; bsize *= 2) {
		fix_on_disk = bsize == 4096;
		begin(bsize, 97, 40);
		fix_on_disk = false;
		memset(tags, 0, sizeof(tags));
		for (unsigned i = 1; i <= 400; i++) {
			unsigned n = 1 + rnd(12);

			assert_int_equal(gfs2_trans_begin(f.log, n, 0), 0);
			while (n--) {
				unsigned b = rnd(40);

				change_meta(&f, &gl, f.home + b, tags[b] = i * 100 + n);
			}
			gfs2_trans_end(f.log);
			if (!rnd(3))
				flush();
			if (!rnd(20))
				assert_int_equal(gfs2_ail_flush(f.log), 0);
		}
		assert_int_equal(gfs2_log_shutdown(f.log), 0);
		h = head_now();
		assert_int_equal(h.lh_flags, 0x101);
		img = fix_read_all(&f);
		for (unsigned b = 0; b < 40; b++)
			assert_int_equal(img_word(&f, img, f.home + b), tag_word(tags[b]));
		free(img);
		assert_int_equal(f.withdrawn, 0);
		end();
	}
}

/* 200 blocks of 512 bytes: 55 revokes in the descriptor, then 61 in each continuation. */
static void revokes(void **state)
{
	struct gfs2_recovery_result res;
	struct gfs2_log_stats st;
	char *b, *img;

	begin(512, 1000, 300);
	assert_int_equal(gfs2_trans_begin(f.log, 201, 0), 0);
	for (unsigned i = 0; i < 201; i++)
		change_meta(&f, &gl, f.home + i, i);
	gfs2_trans_end(f.log);
	flush(); /* 4 descriptors, 201 images, header */
	assert_int_equal(gfs2_trans_begin(f.log, 0, 200), 0);
	gfs2_journal_wipe(f.log, f.home, 200);
	gfs2_trans_end(f.log);
	assert_null(buf_find(f.bufs, f.home + 7));
	assert_int_equal(atomic_load(&gl.gl_ail_count), 1);
	flush();

	img = fix_read_all(&f);
	b = jblock(img, 206);
	assert_int_equal(be32_at(b, 24), GFS2_LOG_DESC_REVOKE);
	assert_int_equal(be32_at(b, 28), 4);
	assert_int_equal(be32_at(b, 32), 200);
	assert_int_equal(be64_at(b, 72), f.home);
	assert_int_equal(be64_at(b, 504), f.home + 54);
	b = jblock(img, 207);
	assert_int_equal(be32_at(b, 4), GFS2_METATYPE_LB);
	assert_int_equal(be64_at(b, 24), f.home + 55);
	b = jblock(img, 209);
	assert_int_equal(be64_at(b, 24), f.home + 55 + 2 * 61);
	assert_int_equal(be64_at(b, 24 + 8 * 22), f.home + 199);
	assert_int_equal(be64_at(b, 24 + 8 * 23), 0);

	assert_int_equal(fix_recover(&f, img, &res), 0);
	assert_int_equal(res.revokes, 200);
	assert_int_equal(res.blocks_found, 201);
	assert_int_equal(res.blocks_replayed, 1);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(img_word(&f, img, f.home + i), 0);
	assert_int_equal(img_word(&f, img, f.home + 200), tag_word(200));
	free(img);

	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 200);
	assert_int_equal(st.ail, 1);
	/* Freed again while the revoke still counts: nothing to do. */
	assert_int_equal(gfs2_trans_begin(f.log, 0, 200), 0);
	gfs2_journal_wipe(f.log, f.home, 200);
	gfs2_trans_end(f.log);
	flush();
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 200);
	end();
}

/* Free and reuse inside one batch, and what never was in the log. */
static void free_in_batch(void **state)
{
	struct gfs2_recovery_result res;
	struct gfs2_log_stats st;
	char *img;

	begin(512, 200, 10);
	/* Only pinned: leaves the batch without a trace. */
	trans_meta(&f, &gl, f.home, 1);
	assert_int_equal(gfs2_trans_begin(f.log, 0, 1), 0);
	gfs2_journal_wipe(f.log, f.home, 1);
	gfs2_trans_end(f.log);
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.pinned, 0);
	flush();
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.flushes, 0);

	/* In the log and pinned again: revoke. */
	trans_meta(&f, &gl, f.home + 1, 2);
	flush();
	trans_meta(&f, &gl, f.home + 1, 3);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 1), 0);
	gfs2_journal_wipe(f.log, f.home + 1, 1);
	change_meta(&f, &gl, f.home + 2, 4);
	gfs2_trans_end(f.log);
	flush();
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 1);
	assert_int_equal(st.blocks_logged, 2);

	/* Freed, then metadata again before the flush: image, no revoke. */
	assert_int_equal(gfs2_trans_begin(f.log, 1, 1), 0);
	gfs2_journal_wipe(f.log, f.home + 2, 1);
	change_meta(&f, &gl, f.home + 2, 5);
	gfs2_trans_end(f.log);
	/* The same through gfs2_trans_remove_revoke(). */
	trans_meta(&f, &gl, f.home + 3, 6);
	flush();
	assert_int_equal(gfs2_trans_begin(f.log, 1, 1), 0);
	gfs2_journal_wipe(f.log, f.home + 3, 1);
	gfs2_trans_remove_revoke(f.log, f.home + 3, 1);
	change_meta(&f, &gl, f.home + 3, 7);
	gfs2_trans_end(f.log);
	flush();
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 1);

	img = fix_read_all(&f);
	assert_int_equal(fix_recover(&f, img, &res), 0);
	assert_int_equal(img_word(&f, img, f.home), 0);
	assert_int_equal(img_word(&f, img, f.home + 1), 0);
	assert_int_equal(img_word(&f, img, f.home + 2), tag_word(5));
	assert_int_equal(img_word(&f, img, f.home + 3), tag_word(7));
	free(img);
	end();
}

/* A block whose committed image is not in place is changed again: its place waits, so does the tail. */
static void pinned_again(void **state)
{
	struct gfs2_log_stats st;
	char *img;

	begin(512, 100, 10);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	trans_meta(&f, &gl2, f.home + 1, 1);
	trans_meta(&f, &gl, f.home, 2);
	assert_int_equal(log_ail_write(f.log, NULL, UINT64_MAX), 0);
	img = fix_read_all(&f);
	assert_int_equal(img_word(&f, img, f.home), 0);
	free(img);
	rmutex_lock(&f.log->l_lock);
	assert_int_equal(log_compute_tail(f.log, 1000000), f.log->l_tail);
	rmutex_unlock(&f.log->l_lock);
	flush();
	/* Now the newer batch is responsible, and its header has moved the tail. */
	assert_true(f.log->l_tail > (uint64_t)f.head.lh_blkno + 1);
	assert_int_equal(log_ail_write(f.log, NULL, UINT64_MAX), 0);
	img = fix_read_all(&f);
	assert_int_equal(img_word(&f, img, f.home), tag_word(2));
	free(img);
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.ail, 0);
	assert_int_equal(gfs2_log_shutdown(f.log), 0);
	end();
}

/* The largest transactions that are admitted, one after the other, with revokes, in a small log. */
static void log_space_suffices(void **state)
{
	struct gfs2_log_stats st;
	unsigned max;

	begin(512, 128, 400);
	max = gfs2_log_max_trans(f.log);
	assert_true(max > 40 && max < 64);
	assert_int_equal(gfs2_trans_begin(f.log, max + 1, 0), -EFBIG);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 100000), -EFBIG);
	for (unsigned i = 0; i < 100; i++) {
		unsigned n = i % 3 ? max : 1 + rnd(max);

		assert_int_equal(gfs2_trans_begin(f.log, n, 60), 0);
		if (i % 5 == 4)
			gfs2_journal_wipe(f.log, f.home + 60 + i * 7 % 200, 60);
		for (unsigned b = 0; b < n; b++)
			change_meta(&f, &gl, f.home + (i * 7 + b) % 300 + 60, i);
		gfs2_trans_end(f.log);
		gfs2_log_get_stats(f.log, &st);
		assert_true(st.blocks_free <= st.blocks_total);
	}
	assert_int_equal(gfs2_log_shutdown(f.log), 0);
	assert_int_equal(f.withdrawn, 0);
	end();
}

/* --- giving up a glock --- */

static void empty_gl(void **state)
{
	struct gfs2_recovery_result res;
	struct gfs2_log_stats st;
	char *img;

	begin(512, 200, 20);
	for (unsigned i = 0; i < 5; i++)
		trans_meta(&f, &gl, f.home + i, i);
	trans_meta(&f, &gl2, f.home + 10, 10);
	flush();
	trans_meta(&f, &gl, f.home + 5, 5);
	assert_int_equal(gfs2_ail_empty_gl(f.log, &gl, false), 0);
	assert_int_equal(atomic_load(&gl.gl_ail_count), 0);
	assert_int_equal(atomic_load(&gl2.gl_ail_count), 1);
	img = fix_read_all(&f);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(img_word(&f, img, f.home + i), tag_word(i));
	assert_int_equal(img_word(&f, img, f.home + 10), 0);
	free(img);
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 0);

	/* Others will change these blocks: their images must not come back.  Evicted buffers count too. */
	mapping_invalidate(&gl.gl_mapping);
	assert_int_equal(gfs2_ail_empty_gl(f.log, &gl, true), 0);
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 6);
	assert_int_equal(gfs2_ail_empty_gl(f.log, &gl, true), 0);
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.revokes_logged, 6);
	img = fix_read_all(&f);
	memset(img + f.home * 512, 0, 6 * 512);
	assert_int_equal(fix_recover(&f, img, &res), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(img_word(&f, img, f.home + i), 0);
	assert_int_equal(img_word(&f, img, f.home + 10), tag_word(10));
	free(img);
	end();
}

/* --- the thread --- */

static void commit_interval(void **state)
{
	struct gfs2_log_stats st;

	begin(512, 100, 10);
	gfs2_log_set_commit_secs(f.log, 1);
	trans_meta(&f, &gl, f.home, 1);
	while (gfs2_log_durable_seq(f.log) < 1)
		usleep(1000);
	/* Idle: nothing is left to be recovered. */
	do {
		usleep(1000);
		gfs2_log_get_stats(f.log, &st);
	} while (st.ail || st.blocks_free < st.blocks_total - 2);
	end();
}

static void wake_writes_back(void **state)
{
	begin(512, 100, 10);
	trans_meta(&f, &gl, f.home, 1);
	gfs2_log_wake(f.log);
	while (gfs2_log_durable_seq(f.log) < 1 || atomic_load(&gl.gl_ail_count))
		usleep(1000);
	end();
}

/*
 * The statfs record's glock is held once, and every transaction that allocates changes its buffer: the first ones after a
 * flush pin it at the same moment.
 */
#define SHARERS 3
#define SHARED_ROUNDS 4000

struct sharers {
	struct gfs2_bh *bh;
	atomic_uint arrived;	/* all together, SHARERS a meeting */
	pthread_mutex_t lock;	/* guards the buffer's contents */
	uint64_t count;
};

/* Spins: who sleeps in a barrier wakes one after the other.  True for the last one to arrive. */
static bool meet(struct sharers *s)
{
	unsigned mine = atomic_fetch_add(&s->arrived, 1), all = mine - mine % SHARERS + SHARERS;

	for (unsigned n = 1; atomic_load(&s->arrived) < all; n++)
		if (n % 1000 == 0)
			sched_yield();
	return mine == all - 1;
}

static void *share(void *arg)
{
	struct sharers *s = arg;

	for (unsigned i = 0; i < SHARED_ROUNDS; i++) {
		CHECK(gfs2_trans_begin(f.log, 1, 0) == 0);
		meet(s);
		gfs2_trans_add_meta(f.log, &gl, s->bh);
		pthread_mutex_lock(&s->lock);
		((uint64_t *)s->bh->b_data)[3] = ++s->count;
		pthread_mutex_unlock(&s->lock);
		gfs2_trans_end(f.log);
		/* The next round begins with a buffer that is not pinned. */
		if (meet(s))
			CHECK(gfs2_log_flush(f.log, FLUSH) == 0);
		meet(s);
	}
	return NULL;
}

static void shared_buffer(void **state)
{
	struct sharers s = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct gfs2_log_stats st;
	pthread_t t[SHARERS];
	char *img;

	begin(512, 64, 32);
	s.bh = buf_get(&gl.gl_mapping, f.home);
	fill_meta(s.bh, f.bsize, 1);
	buf_set_uptodate(s.bh);
	for (unsigned i = 0; i < SHARERS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, share, &s), 0);
	for (unsigned i = 0; i < SHARERS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(s.count, SHARERS * SHARED_ROUNDS);
	/* Once in every flush, however many asked. */
	gfs2_log_get_stats(f.log, &st);
	assert_int_equal(st.blocks_logged, SHARED_ROUNDS);
	assert_int_equal(gfs2_ail_flush(f.log), 0);
	buf_put(s.bh);
	img = fix_read_all(&f);
	assert_int_equal(img_word(&f, img, f.home), s.count);
	free(img);
	end();
}

/* However slow the device is, and however large the journal: what must stay in memory is bounded. */
static void memory_is_bounded(void **state)
{
	enum { BLOCKS = 3000, PINS = LOG_MIN_MEMORY / 4, AIL = LOG_MIN_MEMORY / 8 * 3 };
	struct gfs2_log_stats st;
	struct io_fault slow;
	unsigned pinned = 0, ail = 0;
	char *img;

	begin(512, 16384, BLOCKS);
	gfs2_log_set_memory(f.log, 0);
	assert_int_equal(io_fault_parse("op=write,delay_us=2000", &slow), 0);
	assert_true(io_fault_add(f.e, &slow) >= 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		trans_meta(&f, &gl, f.home + i, i);
		gfs2_log_get_stats(f.log, &st);
		pinned = max_t(unsigned, pinned, st.pinned);
		ail = max_t(unsigned, ail, st.ail);
	}
	io_fault_clear(f.e);
	/* The flush that makes it too many, and the next one, which had begun. */
	if (pinned > 2 * PINS || ail > AIL / 2 * 3 + 4 * PINS)
		fail_msg("%u pinned, %u not in place", pinned, ail);
	/* And it was about something. */
	assert_true(pinned > PINS && ail > AIL);
	assert_int_equal(gfs2_ail_flush(f.log), 0);
	img = fix_read_all(&f);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(img_word(&f, img, f.home + i), tag_word(i));
	free(img);
	end();
}

/*
 * Two have the same block: what is not (any more) the lock's is not pinned, and both can end.  (It was pinned in the mapping of the other one, which
 * then was not empty at its end.)
 */
static void block_of_two(void **state)
{
	struct gfs2_mapping data;
	struct gfs2_bh *bh, *same;

	/* Moved after the caller has made sure that it is his. */
	begin(1024, 64, 32);
	mapping_init(&data, f.bufs, &data, true);
	bh = buf_get(&gl.gl_mapping, f.home + 3);
	fill_meta(bh, f.bsize, 1);
	buf_set_uptodate(bh);
	assert_int_equal(gfs2_trans_begin(f.log, 1, 0), 0);
	same = buf_get(&data, f.home + 3);
	assert_ptr_equal(same, bh);
	buf_put(same);
	gfs2_trans_add_meta(f.log, &gl, bh);
	assert_false(buf_test(bh, B_PINNED));
	assert_int_equal(f.used_twice, f.home + 3);
	gfs2_trans_end(f.log);
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), -EIO);
	mapping_invalidate(&data);
	mapping_destroy(&data);
	buf_put(bh);
	end();

	/* Forgotten by somebody who has found it free: there may be another buffer, and that may be pinned. */
	begin(1024, 64, 32);
	bh = buf_get(&gl.gl_mapping, f.home + 4);
	fill_meta(bh, f.bsize, 1);
	buf_set_uptodate(bh);
	assert_int_equal(buf_forget(f.bufs, f.home + 4, 1), 0);
	assert_int_equal(gfs2_trans_begin(f.log, 2, 0), 0);
	change_meta(&f, &gl2, f.home + 4, 2);
	assert_int_equal(f.used_twice, 0);
	gfs2_trans_add_meta(f.log, &gl, bh);
	assert_int_equal(f.used_twice, f.home + 4);
	buf_put(bh);
	/* Pinned for the other lock. */
	f.used_twice = 0;
	bh = buf_get(&gl.gl_mapping, f.home + 4);
	assert_true(buf_is_of(bh, &gl2.gl_mapping));
	gfs2_trans_add_meta(f.log, &gl, bh);
	assert_int_equal(f.used_twice, f.home + 4);
	gfs2_trans_end(f.log);
	buf_put(bh);
	end();

	/* Committed for the other lock, and not in place yet. */
	begin(512, 100, 20);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	assert_int_equal(f.used_twice, 0);
	trans_meta(&f, &gl2, f.home, 2);
	assert_int_equal(f.used_twice, f.home);
	assert_int_equal(atomic_load(&gl.gl_ail_count), 1);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_bounded),
		cmocka_unit_test(layout),
		cmocka_unit_test(wrap_around),
		cmocka_unit_test(revokes),
		cmocka_unit_test(free_in_batch),
		cmocka_unit_test(pinned_again),
		cmocka_unit_test(log_space_suffices),
		cmocka_unit_test(empty_gl),
		cmocka_unit_test(commit_interval),
		cmocka_unit_test(wake_writes_back),
		cmocka_unit_test(shared_buffer),
		cmocka_unit_test(block_of_two),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
