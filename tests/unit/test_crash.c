/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a crash at any moment leaves.
 *
 * Threads run random transactions on blocks of their own and on shared ones; blocks become metadata,
 * journaled data, plain data written in place, free, and again something else; glocks are given up
 * and "another node" changes their blocks.  At random requests to the device the power fails
 * (logfix.h): the crash image is recovered and every block compared with what a model says for the
 * last transaction in it.  Required: whole batches, none missing that was said to be durable.
 *
 * Deliberate breakages of src/journal/ with which this file, test_log.c, test_logio.c or
 * test_recovery.c was seen to fail:
 *   the tail does not wait for blocks that are not in place; it is computed after the flush; a free ends
 *   its block's hold on the tail at once
 *   no revoke when a block is freed; none when a glock is given up; a pending revoke stays when the block is
 *   logged again
 *   no escaping of journaled data
 *   header without a flush before it; header not forced; batch called durable before its header is
 *   a pinned buffer is written in place; the end of an in-place write ends a newer image's obligation
 *   ordered data not written; a free drops data that a committing batch still has to write
 *   images copied after the gate is open again; local statfs read when the header is written
 *   reservation too small
 *   recovery: revokes without regard to order, to the wrap; first instead of last image; no local statfs
 */
#include "logfix.h"

#define MAX_THREADS 4
#define OWN 24			/* blocks of each thread */
#define SHARED 3		/* blocks that all threads change */

enum kind { FREE, META, JDATA, DATA };

/* One change of one block. @batch 0: another node's, durable at once. */
struct change {
	uint64_t batch, trans, tag;
	uint32_t block;		/* index into the home blocks */
	enum kind kind;
};

struct history {
	struct change *c;
	unsigned nr, cap;
};

struct worker {
	unsigned id;
	pthread_t thread;
	struct gfs2_glock gl;
	struct gfs2_mapping data;	/* jdata and ordered data */
	enum kind kind[OWN];
	uint64_t freed_in[OWN];		/* batch that freed the block */
	uint64_t nr_trans;
	struct history h;		/* world_lock */
	struct change now[64];		/* of the open transaction */
	unsigned nr_now;
};

static struct worker workers[MAX_THREADS];
static unsigned nr_workers;
static struct gfs2_glock shared_gl;
static pthread_mutex_t shared_ex = PTHREAD_MUTEX_INITIALIZER; /* is the shared blocks' EX holder */
static struct history shared_h;
static uint64_t shared_count;
/* Histories are complete up to the transactions that are closed. */
static pthread_mutex_t world_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint crashes, replays, crash_one_in;

static uint64_t home(unsigned block)
{
	return f.home + block;
}

static unsigned own_block(const struct worker *w, unsigned i)
{
	return SHARED + w->id * OWN + i;
}

/* --- model --- */

static void history_add(struct history *h, const struct change *c)
{
	if (h->nr == h->cap) {
		h->cap = h->cap ? 2 * h->cap : 256;
		h->c = realloc(h->c, h->cap * sizeof(*c));
	}
	h->c[h->nr++] = *c;
}

static void expect_contents(char *want, const struct change *c)
{
	struct gfs2_bh bh = { .b_data = want };

	memset(want, 0, f.bsize);
	if (c->kind == META) {
		fill_meta(&bh, f.bsize, c->tag);
		((struct gfs2_meta_header *)want)->mh_jid = cpu_to_be32(f.jd.jd_jid);
	} else {
		fill_jdata(want, f.bsize, c->tag);
	}
}

static void check_block(const char *img, unsigned block, const struct change *c, uint64_t batch)
{
	char want[4096];
	static const char *const names[] = { "free", "metadata", "jdata", "data" };

	if (!c || c->kind == FREE)
		return;
	expect_contents(want, c);
	if (!memcmp(want, img + home(block) * f.bsize, f.bsize))
		return;
	print_message("block %u (%s, changed in batch %llu) is wrong after recovery to batch %llu\n",
		      block, names[c->kind], (unsigned long long)c->batch, (unsigned long long)batch);
	abort();
}

static void check_history(const char *img, const struct history *h, uint64_t batch)
{
	const struct change *last[SHARED + MAX_THREADS * OWN] = { NULL };

	for (unsigned i = 0; i < h->nr; i++)
		if (h->c[i].batch <= batch)
			last[h->c[i].block] = &h->c[i];
	for (unsigned b = 0; b < ARRAY_SIZE(last); b++)
		check_block(img, b, last[b], batch);
}

/*
 * Which batch is the last one in @img?  Every transaction increments the local statfs values, so the
 * master record tells the number of transactions: it must be that at the end of a batch.
 */
static uint64_t recovered_batch(const char *img, uint64_t durable, const uint64_t *trans_of, unsigned nr)
{
	const __be64 *rec = (const __be64 *)(img + f.master * f.bsize + sizeof(struct gfs2_dinode));
	const __be64 *local = (const __be64 *)(img + f.local * f.bsize + sizeof(struct gfs2_dinode));
	uint64_t n = be64_to_cpu(rec[2]) - MASTER_DINODES;

	CHECK(rec[0] == 0 && local[0] == 0 && local[1] == 0 && local[2] == 0);
	CHECK(MASTER_FREE - be64_to_cpu(rec[1]) == n);
	/* What recovery notes for itself behind the record is gone when it is over. */
	for (unsigned i = 3; i < (f.bsize - sizeof(struct gfs2_dinode)) / 8; i++)
		CHECK(rec[i] == 0);
	for (uint64_t b = durable; b < nr; b++)
		if (trans_of[b] == n)
			return b;
	print_message("%llu transactions after recovery: not the end of a batch from %llu on\n",
		      (unsigned long long)n, (unsigned long long)durable);
	abort();
}

/* world_lock held: number of transactions in batches up to b, for every b. */
static uint64_t *count_transactions(unsigned *nr)
{
	unsigned batches = gfs2_trans_batch_seq(f.log) + 2;
	uint64_t *n = calloc(batches, sizeof(*n));

	for (unsigned w = 0; w < nr_workers; w++) {
		const struct history *h = &workers[w].h;

		for (unsigned i = 0; i < h->nr; i++)
			if (h->c[i].batch && h->c[i].batch < batches &&
			    (i + 1 == h->nr || h->c[i + 1].trans != h->c[i].trans))
				n[h->c[i].batch]++;
	}
	for (unsigned b = 1; b < batches; b++)
		n[b] += n[b - 1];
	*nr = batches;
	return n;
}

static void crash_now(void)
{
	struct gfs2_recovery_result res;
	uint64_t durable, batch, *trans_of;
	unsigned nr;
	char *img;

	pthread_mutex_lock(&world_lock);
	/* The log's thread may come when all is over, and the next header would say that nothing has happened (world_end). */
	if (!atomic_load(&crash_one_in)) {
		pthread_mutex_unlock(&world_lock);
		return;
	}
	img = aligned_alloc(4096, f.nr_blocks * f.bsize);
	durable = gfs2_log_durable_seq(f.log);
	device_crash(img);
	CHECK(fix_recover(&f, img, &res) == 0);
	trans_of = count_transactions(&nr);
	if (res.dirty) {
		batch = recovered_batch(img, durable, trans_of, nr);
		for (unsigned w = 0; w < nr_workers; w++)
			check_history(img, &workers[w].h, batch);
		check_history(img, &shared_h, batch);
		atomic_fetch_add(&replays, 1);
	} else {
		CHECK(durable == 0);
	}
	pthread_mutex_unlock(&world_lock);
	atomic_fetch_add(&crashes, 1);
	free(trans_of);
	free(img);
}

static void device_event(void *arg)
{
	unsigned one_in = atomic_load_explicit(&crash_one_in, memory_order_relaxed);

	if (one_in && !rnd(one_in))
		crash_now();
}

/* --- the workers' transactions --- */

static uint64_t new_tag(struct worker *w)
{
	return (w->nr_trans * 64 + w->nr_now) * MAX_THREADS + w->id;
}

static void note(struct worker *w, unsigned block, enum kind kind, uint64_t tag)
{
	struct change *c = &w->now[w->nr_now++];

	*c = (struct change){ .trans = w->nr_trans, .block = block, .kind = kind, .tag = tag };
}

static void change_own(struct worker *w, unsigned i, enum kind kind)
{
	uint64_t tag = new_tag(w);
	unsigned block = own_block(w, i);
	struct gfs2_bh *bh;

	if (kind == META) {
		change_meta(&f, &w->gl, home(block), tag);
	} else {
		bh = buf_get(&w->gl.gl_mapping, home(block));
		gfs2_trans_add_jdata(f.log, &w->gl, bh);
		fill_jdata(bh->b_data, f.bsize, tag);
		buf_set_uptodate(bh);
		buf_put(bh);
	}
	w->kind[i] = kind;
	note(w, block, kind, tag);
}

/* Plain data, through the cache and the ordered list, or straight to the device like direct I/O. */
static void alloc_data(struct worker *w, unsigned i)
{
	uint64_t tag = new_tag(w);
	unsigned block = own_block(w, i);
	struct gfs2_bh *bh;

	if (rnd(2)) {
		bh = buf_get(&w->data, home(block));
		fill_jdata(bh->b_data, f.bsize, tag);
		assert_true(buf_mark_dirty(&w->data, bh));
		buf_put(bh);
		gfs2_ordered_add(f.log, &w->data);
	} else {
		char *data = aligned_alloc(4096, 4096);

		fill_jdata(data, f.bsize, tag);
		CHECK(io_write(f.e, IO_DATA, data, f.bsize, home(block) * f.bsize) == 0);
		free(data);
	}
	w->kind[i] = DATA;
	note(w, block, DATA, tag);
}

static void own_step(struct worker *w)
{
	unsigned i = 1 + rnd(OWN - 1);

	switch (w->kind[i]) {
	case FREE:
		/* Reference 3.4: not before the free is durable. */
		if (gfs2_log_durable_seq(f.log) < w->freed_in[i])
			return;
		if (rnd(2)) {
			alloc_data(w, i);
		} else {
			gfs2_trans_remove_revoke(f.log, home(own_block(w, i)), 1);
			change_own(w, i, rnd(3) ? META : JDATA);
		}
		break;
	case META:
	case JDATA:
		if (rnd(3)) {
			change_own(w, i, w->kind[i]);
			break;
		}
		/* fall through */
	case DATA:
		gfs2_journal_wipe(f.log, home(own_block(w, i)), 1);
		w->kind[i] = FREE;
		w->freed_in[i] = gfs2_trans_batch_seq(f.log);
		note(w, own_block(w, i), FREE, 0);
		break;
	}
}

/* The shared blocks: changed by everybody, as resource groups are. */
static void shared_step(struct worker *w)
{
	unsigned b = rnd(SHARED);
	struct change c = { .batch = gfs2_trans_batch_seq(f.log), .block = b, .kind = META };

	c.tag = ++shared_count;
	change_meta(&f, &shared_gl, home(b), c.tag);
	pthread_mutex_lock(&world_lock);
	history_add(&shared_h, &c);
	pthread_mutex_unlock(&world_lock);
}

static void one_transaction(struct worker *w)
{
	unsigned steps = 1 + rnd(8);
	bool shared = !rnd(3);

	if (shared)
		pthread_mutex_lock(&shared_ex);
	CHECK(gfs2_trans_begin(f.log, steps + 1, steps) == 0);
	w->nr_trans++;
	w->nr_now = 0;
	/* Each transaction leaves something in its batch, as the counts of statfs do in reality. */
	change_own(w, 0, META);
	if (shared)
		shared_step(w);
	while (--steps)
		own_step(w);
	pthread_mutex_lock(&world_lock);
	for (unsigned i = 0; i < w->nr_now; i++) {
		w->now[i].batch = gfs2_trans_batch_seq(f.log);
		history_add(&w->h, &w->now[i]);
	}
	atomic_fetch_sub(&f.stat_free, 1);
	atomic_fetch_add(&f.stat_dinodes, 1);
	pthread_mutex_unlock(&world_lock);
	gfs2_trans_end(f.log);
	if (shared)
		pthread_mutex_unlock(&shared_ex);
}

/* The glock goes to another node, which changes a block in place (and durably), and comes back. */
static void other_node(struct worker *w)
{
	unsigned i = rnd(OWN);
	struct change c = { .block = own_block(w, i), .kind = w->kind[i], .tag = w->nr_trans * 64 + 63 };
	char *data = aligned_alloc(4096, 4096);

	CHECK(gfs2_ail_empty_gl(f.log, &w->gl, true) == 0);
	mapping_write(&w->data);
	mapping_invalidate(&w->gl.gl_mapping);
	mapping_invalidate(&w->data);
	if (c.kind == META || c.kind == JDATA) {
		struct io_req req;

		expect_contents(data, &c);
		io_req_init(&req, IO_WRITE, IO_META, data, f.bsize, home(c.block) * f.bsize);
		pthread_mutex_lock(&world_lock);
		CHECK(__real_io_run(f.e, &req, 1) == 0);
		pthread_mutex_lock(&dev.lock);
		/* The shared device has one cache: a write replaces what it had of the block. */
		for (unsigned k = 0; k < dev.nr_pend; k++) {
			struct pending *p = &dev.pend[k];

			if (req.pos >= p->pos && req.pos < p->pos + p->len)
				memcpy(p->data + (req.pos - p->pos), data, f.bsize);
		}
		memcpy(dev.media + req.pos, data, f.bsize);
		pthread_mutex_unlock(&dev.lock);
		history_add(&w->h, &c);
		pthread_mutex_unlock(&world_lock);
	}
	free(data);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	rnd_state += w->id * 7919 + 13;
	for (unsigned n = 0; n < 150; n++) {
		one_transaction(w);
		switch (rnd(24)) {
		case 0:
			CHECK(gfs2_log_flush(f.log, FLUSH) == 0);
			break;
		case 1:
			CHECK(gfs2_ail_flush(f.log) == 0);
			break;
		case 2:
			CHECK(gfs2_ail_empty_gl(f.log, &w->gl, rnd(2)) == 0);
			break;
		case 3:
			other_node(w);
			break;
		case 4:
			CHECK(log_ail_write(f.log, NULL, UINT64_MAX) == 0);
			break;
		}
	}
	/* As when an inode leaves the cache. */
	mapping_write(&w->data);
	gfs2_ordered_del(f.log, &w->data);
	return NULL;
}

static void world_start(unsigned threads, uint32_t bsize, uint32_t jblocks)
{
	nr_workers = threads;
	dev.event = device_event;
	fix_start(&f, bsize, jblocks, SHARED + MAX_THREADS * OWN, true);
	glock_start(&f, &shared_gl, 1);
	for (unsigned i = 0; i < threads; i++) {
		struct worker *w = &workers[i];

		memset(w, 0, sizeof(*w));
		w->id = i;
		glock_start(&f, &w->gl, 100 + i);
		mapping_init(&w->data, f.bufs, w, true);
	}
	shared_count = 0;
}

/* Everything is in place now, and the journal clean. */
static void world_end(void)
{
	struct gfs2_log_header_host h;
	char *img;

	/* The log's thread may be in a crash just now, which copies the whole fixture. */
	pthread_mutex_lock(&world_lock);
	atomic_store(&f.stat_free, 0);
	atomic_store(&f.stat_dinodes, 0);
	atomic_store(&crash_one_in, 0);
	pthread_mutex_unlock(&world_lock);
	for (unsigned i = 0; i < nr_workers; i++)
		mapping_write(&workers[i].data);
	assert_int_equal(gfs2_log_shutdown(f.log), 0);
	assert_int_equal(gfs2_find_jhead(f.e, f.bsize, &f.jd, &h), 0);
	assert_int_equal(h.lh_flags, GFS2_LOG_HEAD_UNMOUNT | GFS2_LFC_SHUTDOWN);
	img = fix_read_all(&f);
	for (unsigned i = 0; i < nr_workers; i++) {
		struct worker *w = &workers[i];

		check_history(img, &w->h, UINT64_MAX);
		glock_end(&w->gl);
		mapping_invalidate(&w->data);
		mapping_destroy(&w->data);
		free(w->h.c);
	}
	check_history(img, &shared_h, UINT64_MAX);
	glock_end(&shared_gl);
	free(img);
	free(shared_h.c);
	memset(&shared_h, 0, sizeof(shared_h));
	assert_int_equal(f.withdrawn, 0);
	fix_end(&f);
}

static void run_world(unsigned threads, uint32_t bsize, uint32_t jblocks, uint64_t seed)
{
	rnd_state = seed;
	world_start(threads, bsize, jblocks);
	if (threads == 1) {
		worker_main(&workers[0]);
	} else {
		for (unsigned i = 0; i < threads; i++)
			assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_main,
							&workers[i]), 0);
		for (unsigned i = 0; i < threads; i++)
			pthread_join(workers[i].thread, NULL);
	}
	world_end();
}

/* TEST_SEED repeats one run; TEST_ROUNDS makes more of them. */
static void run_worlds(unsigned threads, unsigned rounds)
{
	const char *seed = getenv("TEST_SEED"), *more = getenv("TEST_ROUNDS");
	static const uint32_t journals[] = { 64, 100, 180, 400 };

	rounds = seed ? 1 : more ? (unsigned)atoi(more) : rounds;
	atomic_store(&crashes, 0);
	atomic_store(&replays, 0);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t s = seed ? strtoull(seed, NULL, 0) : i + 1;

		atomic_store(&crash_one_in, threads == 1 ? 8 : 25);
		run_world(threads, 512u << s % 4, journals[s / 4 % 4], s);
	}
	print_message("%u crashes, %u journals replayed\n", atomic_load(&crashes), atomic_load(&replays));
	assert_true(atomic_load(&replays) > 10 * rounds);
}

static void crash_one_thread(void **state)
{
	run_worlds(1, 12);
}

static void crash_many_threads(void **state)
{
	run_worlds(MAX_THREADS, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crash_one_thread),
		cmocka_unit_test(crash_many_threads),
	};

	return cmocka_run_group_tests_name("crash", tests, NULL, NULL);
}
