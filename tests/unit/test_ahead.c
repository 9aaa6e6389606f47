/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading ahead (fs/ahead.h) on a real volume: whatever is done to a file between the moment when a window is read and the one when it would be
 * used, a READ answers what the file contains; errors, bounds, and what is read in vain.
 *
 * The READs are the test's own, made as fuse/rw.c makes them.  io_run() is wrapped: the thread that reads windows can be stopped when it has read one
 * and has not told anybody yet, or be given an error; write-back of data can be kept from the device.  So is gfs2_ahead_trim(), which the maintenance
 * thread calls: how long a test takes makes no difference.
 *
 * Then the same tests with one bug after the other (SEEDED_BUG): each must make one fail.
 */
#include "volfile.h"
#include "child.h"
#include <linux/falloc.h>
#include <semaphore.h>
#include <stdarg.h>
#include "dio/dio.h"
#include "fs/ahead.h"
#include "fs/falloc.h"
#include "fs/file.h"
#include "fs/fileattr.h"

#define BS 4096u
#define KIB 1024u
#define READ (512u * KIB)
#define WINDOW (512u * KIB)	/* ahead.c's */
#define PROOF (2048u * KIB)
#define FILE_BYTES (8u << 20)

static struct mounted m;
static const char *bug;		/* the one that is to be noticed */
static char *io_buf, *back;
static uint64_t seed = 1;

static void __attribute__((format(printf, 1, 2), noreturn)) wrong(const char *fmt, ...)
{
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (bug) {
		dprintf(STDERR_FILENO, "  %s: %s\n", bug, text);
		end_now(1);
	}
	fail_msg("%s", text);
	abort();
}
#define must(cond) ((cond) ? (void)0 : wrong("line %d: not %s", __LINE__, #cond))

/* --- the device --- */

static _Thread_local bool ours;		/* a thread of the test, */
static _Thread_local bool getting;	/* in gfs2_ahead_get(): reads a window that nobody has begun to read */
static atomic_bool stop_ahead, fail_ahead, keep_unwritten;
static sem_t arrived, go_on;

int __real_io_run(struct io_engine *e, struct io_req *reqs, unsigned nr);
int __wrap_io_run(struct io_engine *e, struct io_req *reqs, unsigned nr);
int __wrap_io_run(struct io_engine *e, struct io_req *reqs, unsigned nr)
{
	int error;

	while (!ours && nr && reqs[0].op == IO_WRITE && reqs[0].cls == IO_DATA && atomic_load(&keep_unwritten))
		usleep(1000);
	error = __real_io_run(e, reqs, nr);
	if ((ours && !getting) || !nr || reqs[0].op != IO_READ || reqs[0].cls != IO_DATA)
		return error;
	if (atomic_load(&fail_ahead))
		return -EIO;
	if (atomic_load(&stop_ahead)) {
		sem_post(&arrived);
		sem_wait(&go_on);
	}
	return error;
}

void __real_gfs2_ahead_trim(struct gfs2_sbd *sdp, bool all);
void __wrap_gfs2_ahead_trim(struct gfs2_sbd *sdp, bool all);
void __wrap_gfs2_ahead_trim(struct gfs2_sbd *sdp, bool all)
{
	if (ours)
		__real_gfs2_ahead_trim(sdp, all);
}

/* --- a file, what is in it, and who reads it --- */

struct file {
	struct gfs2_inode *ip;
	char *data;
	uint64_t size;
	char name[24];
};

struct reader {
	struct file *f;
	struct gfs2_stream stream;
	uint64_t pos, planned;
};

static void fill_random(char *p, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(p + i, &seed, 8);
	}
}

static int64_t write_at(struct gfs2_inode *ip, const char *buf, uint64_t pos, uint32_t len)
{
	struct gfs2_holder gh;
	int64_t ret;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	ret = gfs2_file_write(ip, buf, pos, len, false);
	gfs2_glock_dq_uninit(&gh);
	return ret;
}

/* A block that was written in part has one also when it has been written back. */
static void drop_buffers(struct gfs2_inode *ip)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	must(!gfs2_file_flush_inval(ip));
	gfs2_glock_dq_uninit(&gh);
	must(!gfs2_file_has_buffers(ip));
}

static void file_make(struct file *f, uint64_t size)
{
	static unsigned nr;

	*f = (struct file){ .size = size };
	f->data = calloc(1, FILE_BYTES + WINDOW);
	snprintf(f->name, sizeof(f->name), "file%u", nr++);
	f->ip = make_file(m.sdp, f->name);
	fill_random(f->data, ALIGN_UP(size, 8));
	memset(f->data + size, 0, FILE_BYTES + WINDOW - size);
	for (uint64_t pos = 0; pos < size; pos += READ)
		must(write_at(f->ip, f->data + pos, pos, (uint32_t)min_t(uint64_t, READ, size - pos)) > 0);
	must(!gfs2_fsync(f->ip, false));
	drop_buffers(f->ip);
}

static void file_end(struct file *f)
{
	gfs2_inode_put(f->ip);
	must(!gfs2_unlink(m.sdp->sd_root, f->name));
	free(f->data);
}

static void reader_open(struct reader *r, struct file *f)
{
	memset(r, 0, sizeof(*r));
	r->f = f;
	gfs2_stream_init(&r->stream);
}

static void reader_close(struct reader *r)
{
	gfs2_stream_close(m.sdp, &r->stream);
}

/* As read_stream() in fuse/rw.c; the answer is in @to.  True: it was read ahead. */
static bool read_into(struct reader *r, char *to, uint64_t pos, uint32_t size, int64_t *ret)
{
	struct gfs2_inode *ip = r->f->ip;
	struct gfs2_ahead_hit hit = { .nr = 0 };
	struct gfs2_ahead_plan plan = { .nr = 0 };
	struct gfs2_holder gh;
	bool runs = gfs2_stream_note(m.sdp, &r->stream, pos, size), got = false;
	uint32_t skip = 0;

	lock(ip, LM_ST_SHARED, &gh);
	getting = true;
	if (runs)
		got = gfs2_ahead_get(ip, &r->stream, pos, size, &hit);
	getting = false;
	if (!got)
		*ret = gfs2_file_read(ip, to, pos, size, &skip);
	else
		*ret = 0;
	if (runs)
		gfs2_ahead_plan(ip, &r->stream, size, &plan);
	for (unsigned i = 0; i < hit.nr; i++) {
		memcpy(to + *ret, hit.iov[i].iov_base, hit.iov[i].iov_len);
		*ret += hit.iov[i].iov_len;
	}
	if (!got && *ret > 0)
		memmove(to, to + skip, (size_t)*ret);
	r->planned += plan.nr;
	gfs2_ahead_start(ip, &plan);
	gfs2_glock_dq_uninit(&gh);
	gfs2_ahead_put(m.sdp, &hit);
	return got;
}

static bool read_at(struct reader *r, uint64_t pos, uint32_t size)
{
	const struct file *f = r->f;
	uint64_t want = pos < f->size ? min_t(uint64_t, size, f->size - pos) : 0;
	int64_t ret;
	bool got = read_into(r, back, pos, size, &ret);

	if (ret != (int64_t)want)
		wrong("%" PRId64 " bytes at %" PRIu64 " instead of %" PRIu64, ret, pos, want);
	for (uint64_t i = 0; i < want && memcmp(back, f->data + pos, want); i++)
		if (back[i] != f->data[pos + i])
			wrong("byte %" PRIu64 " (read%s at %" PRIu64 ") is not what the file contains", pos + i, got ? " ahead" : "", pos);
	return got;
}

/* On from where it is. */
static unsigned read_on(struct reader *r, uint64_t end)
{
	unsigned hits = 0;

	for (; r->pos < end; r->pos += READ)
		hits += read_at(r, r->pos, READ);
	return hits;
}

static struct gfs2_ahead_stats stats(void)
{
	struct gfs2_ahead_stats st;

	gfs2_ahead_stats(m.sdp, &st);
	return st;
}

static uint64_t windows_before;

/* Everything that was planned has been read. */
static void settle(const struct reader *r)
{
	while (stats().windows - windows_before < r->planned)
		usleep(200);
}

/* So far that windows are there, or, if @in_flight, one has been read, but nobody has been told. */
static void run_up(struct reader *r, struct file *f, bool in_flight)
{
	windows_before = stats().windows;
	reader_open(r, f);
	if (!in_flight) {
		must(read_on(r, PROOF + 2 * READ) == 2);
		settle(r);
		return;
	}
	atomic_store(&stop_ahead, true);
	must(read_on(r, PROOF) == 0);
	must(r->planned == 1);
	sem_wait(&arrived);
}

static void land(bool in_flight)
{
	if (!in_flight)
		return;
	atomic_store(&stop_ahead, false);
	sem_post(&go_on);
}

/* --- what can happen to a file; all of it right behind @pos --- */

static void to_write(struct file *f, uint64_t pos)
{
	fill_random(f->data + pos, READ);
	must(write_at(f->ip, f->data + pos, pos, READ) == READ);
}

static void to_write_and_sync(struct file *f, uint64_t pos)
{
	to_write(f, pos);
	must(!gfs2_fsync(f->ip, false));
}

static struct io_ring *ring;

static int64_t dio(struct file *f, uint64_t pos, uint32_t len)
{
	struct gfs2_dio d = { .ip = f->ip, .buf = io_buf, .buf_index = -1, .write = true, .pos = pos, .len = len };

	d.ring = ring;
	return gfs2_dio_run(&d);
}

static void to_write_directly(struct file *f, uint64_t pos)
{
	fill_random(io_buf, READ);
	must(dio(f, pos, READ) == READ);
	memcpy(f->data + pos, io_buf, READ);
}

static void to_cut(struct file *f, uint64_t pos)
{
	must(!gfs2_setattr_size(f->ip, pos + 1000));
	must(!gfs2_setattr_size(f->ip, f->size));
	memset(f->data + pos + 1000, 0, f->size - pos - 1000);
}

static void to_punch(struct file *f, uint64_t pos)
{
	must(!gfs2_fallocate(f->ip, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos + 100, READ - 200, false));
	memset(f->data + pos + 100, 0, READ - 200);
}

/* The blocks become another file's, and are written there. */
static void to_lose_blocks(struct file *f, uint64_t pos)
{
	struct file other;

	must(!gfs2_setattr_size(f->ip, pos));
	file_make(&other, FILE_BYTES);
	must(!gfs2_setattr_size(f->ip, f->size));
	memset(f->data + pos, 0, f->size - pos);
	file_end(&other);
}

static void to_fill(struct file *f, uint64_t pos)
{
	struct gfs2_fill fill = { io_buf, pos, READ };
	struct gfs2_holder gh;
	uint64_t seq;

	to_punch(f, pos);
	must(!gfs2_fallocate(f->ip, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, READ, false));
	fill_random(io_buf, READ);
	lock(f->ip, LM_ST_EXCLUSIVE, &gh);
	must(!gfs2_file_fill(f->ip, &fill, 1, &seq));
	gfs2_glock_dq_uninit(&gh);
	memcpy(f->data + pos, io_buf, READ);
}

static void to_journal(struct file *f, uint64_t pos)
{
	must(!gfs2_fileattr_set(f->ip, FS_JOURNAL_DATA_FL));
	to_write(f, pos);
}

/* Another node gets the lock and writes, without asking anybody. */
static void by_another_node(struct file *f, uint64_t pos)
{
	struct gfs2_holder gh;
	struct extent e[READ / BS];
	unsigned nr = 0;

	lock(f->ip, LM_ST_SHARED, &gh);
	for (uint64_t at = pos; at < pos + READ; at += e[nr++].len * BS)
		must(!gfs2_map_extent(f->ip, at / BS, (pos + READ - at) / BS, &e[nr]));
	gfs2_glock_dq_uninit(&gh);
	gfs2_glock_cb(f->ip->i_gl, LM_ST_UNLOCKED, true);
	must(gfs2_glock_wait_demoted(f->ip->i_gl, 20000000000ull));
	fill_random(f->data + pos, READ);
	for (unsigned i = 0; i < nr; i++) {
		memcpy(io_buf, f->data + e[i].lblock * BS, e[i].len * BS);
		must(!io_write(m.e, IO_DATA, io_buf, (uint32_t)(e[i].len * BS), e[i].pblock * BS));
	}
}

static void (*const changes[])(struct file *f, uint64_t pos) = {
	to_write, to_write_and_sync, to_write_directly, to_cut, to_punch, to_lose_blocks, to_fill, to_journal, by_another_node,
};

static void change(unsigned i, bool in_flight)
{
	uint64_t stale = stats().stale;
	struct reader r;
	struct file f;

	file_make(&f, FILE_BYTES);
	run_up(&r, &f, in_flight);
	changes[i](&f, r.pos);
	land(in_flight);
	must(!read_at(&r, r.pos, READ));
	r.pos += READ;
	must(stats().stale > stale || bug);
	read_on(&r, FILE_BYTES);
	reader_close(&r);
	file_end(&f);
}

static void changed_afterwards(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++)
		change(i, false);
}

static void changed_meanwhile(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++)
		change(i, true);
}

/* --- more --- */

/* What has been written, but is not on the device yet, is not read from there. */
static void unwritten_data(void **state)
{
	struct reader r;
	struct file f;

	file_make(&f, FILE_BYTES);
	atomic_store(&keep_unwritten, true);
	to_write(&f, PROOF + READ);
	reader_open(&r, &f);
	read_on(&r, PROOF + READ);
	must(!read_at(&r, r.pos, READ));
	must(read_on(&r, FILE_BYTES) > 0);
	atomic_store(&keep_unwritten, false);
	/* Now it is. */
	must(!gfs2_fsync(f.ip, false));
	r.pos = 0;
	must(read_on(&r, FILE_BYTES) > 4);
	reader_close(&r);
	file_end(&f);
}

/* The end of a file that does not fill its last block, and one that grows. */
static void end_of_file(void **state)
{
	uint64_t end = PROOF + READ + 5000;
	struct reader r;
	struct file f;

	file_make(&f, end);
	run_up(&r, &f, false);
	reader_close(&r);
	run_up(&r, &f, true);
	fill_random(f.data + f.size, 3 * BS);
	must(write_at(f.ip, f.data + f.size, f.size, 3 * BS) == 3 * BS);
	must(!gfs2_fsync(f.ip, false));
	f.size += 3 * BS;
	land(true);
	must(read_on(&r, f.size) == 0);
	must(!read_at(&r, r.pos, READ));
	reader_close(&r);
	file_end(&f);
}

static void holes(void **state)
{
	struct reader r;
	struct file f;

	file_make(&f, FILE_BYTES);
	for (uint64_t pos = BS; pos < FILE_BYTES; pos += 64 * KIB) {
		must(!gfs2_fallocate(f.ip, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, 2 * BS, false));
		memset(f.data + pos, 0, 2 * BS);
	}
	must(!gfs2_fallocate(f.ip, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FILE_BYTES - 2 * READ, READ, false));
	memset(f.data + FILE_BYTES - 2 * READ, 0, READ);
	reader_open(&r, &f);
	must(read_on(&r, FILE_BYTES) == FILE_BYTES / READ - PROOF / READ);
	reader_close(&r);
	file_end(&f);
}

/* A window that fails is no READ that fails. */
static void errors(void **state)
{
	uint64_t failed = stats().failed;
	struct reader r;
	struct file f;

	file_make(&f, FILE_BYTES);
	reader_open(&r, &f);
	atomic_store(&fail_ahead, true);
	read_on(&r, FILE_BYTES);
	atomic_store(&fail_ahead, false);
	must(stats().failed > failed);
	reader_close(&r);
	file_end(&f);
}

/* What a READ is being answered with stays what it is, whoever wants memory. */
static void in_use(void **state)
{
	struct gfs2_ahead_hit hit;
	struct gfs2_holder gh;
	struct reader r, r2;
	struct file f, f2;

	file_make(&f, FILE_BYTES);
	file_make(&f2, FILE_BYTES);
	run_up(&r, &f, false);
	lock(f.ip, LM_ST_SHARED, &gh);
	must(gfs2_ahead_get(f.ip, &r.stream, r.pos, READ, &hit));
	gfs2_glock_dq_uninit(&gh);
	reader_close(&r);
	gfs2_ahead_trim(m.sdp, true);
	reader_open(&r2, &f2);
	read_on(&r2, FILE_BYTES);
	must(!memcmp(hit.iov[0].iov_base, f.data + r.pos, hit.iov[0].iov_len));
	gfs2_ahead_put(m.sdp, &hit);
	reader_close(&r2);
	file_end(&f);
	file_end(&f2);
}

/* Nothing is read ahead that will probably not be asked for. */
static void in_vain(void **state)
{
	struct gfs2_ahead_stats a = stats(), b;
	unsigned hits = 0, jumps = 0;
	struct reader r;
	struct file f;

	file_make(&f, FILE_BYTES);
	reader_open(&r, &f);
	/* At random, backwards, with gaps, a little at a time. */
	for (unsigned i = 0; i < 60; i++)
		read_at(&r, i * 37 % 16 * READ, READ);
	for (unsigned i = 16; i > 0; i--)
		read_at(&r, (i - 1) * READ, READ);
	for (uint64_t pos = 0; pos < FILE_BYTES; pos += 2 * 64 * KIB)
		read_at(&r, pos, 64 * KIB);
	for (uint64_t pos = 0; pos < FILE_BYTES / 4; pos += BS)
		read_at(&r, pos, BS);
	must(stats().windows == a.windows);
	/* Runs that end: as much in vain as was of use, and one window for each. */
	for (unsigned len = 1; len < 12; len++) {
		jumps++;
		r.pos = len % 4 * 3 * BS;
		hits += read_on(&r, len * READ);
	}
	b = stats();
	must(b.hits - a.hits == hits && hits > 10);
	must(r.planned <= 2 * hits + jumps);
	reader_close(&r);
	file_end(&f);
}

/* READs that overtake each other. */
static void out_of_order(void **state)
{
	struct reader r;
	struct file f;
	unsigned hits;

	file_make(&f, FILE_BYTES);
	reader_open(&r, &f);
	hits = read_on(&r, PROOF + 4 * READ);
	must(hits == 4);
	must(read_at(&r, r.pos + READ, READ));
	must(read_at(&r, r.pos, READ));
	r.pos += 2 * READ;
	must(read_on(&r, FILE_BYTES) > 0);
	reader_close(&r);
	file_end(&f);
}

/* Many at once share what memory there is, and give it back. */
static void bounds(void **state)
{
	struct reader r[12];
	uint64_t most = 0;
	struct file f;

	file_make(&f, FILE_BYTES);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		reader_open(&r[i], &f);
	for (uint64_t end = READ; end <= FILE_BYTES; end += READ)
		for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
			read_on(&r[i], end);
			most = max_t(uint64_t, most, gfs2_ahead_bytes(m.sdp));
		}
	must(most && most <= vol_args.ar_cache / 32);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		reader_close(&r[i]);
	while (gfs2_ahead_bytes(m.sdp))	/* the last window may be on its way */
		gfs2_ahead_trim(m.sdp, true);
	file_end(&f);
}

/* Readers that go round, and one who writes: each block has a number that only grows. */
#define RACERS 3
static struct file raced;
static atomic_uint_least64_t committed[FILE_BYTES / BS];
static atomic_bool race_over;

static void *race_reader(void *arg)
{
	char *to = aligned_alloc(BS, READ + 2 * BS);
	struct reader r;
	int64_t ret;

	ours = true;
	reader_open(&r, &raced);
	while (!atomic_load(&race_over)) {
		uint64_t seen[READ / BS];

		for (unsigned i = 0; i < READ / BS; i++)
			seen[i] = atomic_load(&committed[r.pos / BS + i]);
		read_into(&r, to, r.pos, READ, &ret);
		for (unsigned i = 0; i < READ / BS; i++) {
			uint64_t number = *(uint64_t *)(to + i * BS);

			if (number < seen[i] || ret != READ)
				wrong("block %" PRIu64 ": %" PRIu64 " read, %" PRIu64 " had been written", r.pos / BS + i, number, seen[i]);
		}
		r.pos = (r.pos + READ) % FILE_BYTES;
	}
	reader_close(&r);
	free(to);
	return NULL;
}

static void race(void **state)
{
	uint64_t until = now_ns() + 500000000u, number = 1;
	struct gfs2_ahead_stats a = stats();
	pthread_t threads[RACERS];
	unsigned i;

	file_make(&raced, FILE_BYTES);
	for (i = 0; i < FILE_BYTES / BS; i++) {
		*(uint64_t *)(raced.data + i * BS) = 1;
		atomic_store(&committed[i], 1);
	}
	for (uint64_t pos = 0; pos < FILE_BYTES; pos += READ)
		must(write_at(raced.ip, raced.data + pos, pos, READ) == READ);
	must(!gfs2_fsync(raced.ip, false));
	for (i = 0; i < RACERS; i++)
		must(!pthread_create(&threads[i], NULL, race_reader, NULL));
	/* However slow it is here: until there has been enough of it. */
	while (now_ns() < until || stats().hits == a.hits || stats().stale == a.stale) {
		uint64_t pos = number * 7919 % (FILE_BYTES / BS) * BS;

		number++;
		memset(io_buf, 0, BS);
		*(uint64_t *)io_buf = number;
		if (number % 3) {
			must(dio(&raced, pos, BS) == BS);
		} else {
			must(write_at(raced.ip, io_buf, pos, BS) == BS);
			must(!gfs2_fsync(raced.ip, false));
		}
		atomic_store(&committed[pos / BS], number);
		/* Long enough for a reader to prove himself. */
		usleep(number % 16 ? 300 : 20000);
	}
	atomic_store(&race_over, true);
	for (i = 0; i < RACERS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&race_over, false);
	file_end(&raced);
}

static int setup(void **state)
{
	vol_make(BS, 64, 1, "");
	m = do_mount();
	/* Also if the test's directory is memory. */
	if (!m.sdp->sd_ahead)
		gfs2_ahead_create(m.sdp);
	must(!io_ring_create(m.e, 8, false, &ring));
	return 0;
}

static int teardown(void **state)
{
	io_ring_destroy(ring);
	do_unmount(&m);
	return 0;
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changed_afterwards),
		cmocka_unit_test(changed_meanwhile),
		cmocka_unit_test(unwritten_data),
		cmocka_unit_test(end_of_file),
		cmocka_unit_test(holes),
		cmocka_unit_test(errors),
		cmocka_unit_test(in_use),
		cmocka_unit_test(in_vain),
		cmocka_unit_test(out_of_order),
		cmocka_unit_test(bounds),
		cmocka_unit_test(race),
	};

	ours = true;
	io_buf = aligned_alloc(BS, READ + 2 * BS);
	back = aligned_alloc(BS, READ + 2 * BS);
	sem_init(&arrived, 0, 0);
	sem_init(&go_on, 0, 0);
	return cmocka_run_group_tests(tests, setup, teardown);
}

static int all(void)
{
	static const struct {
		const char *name, *test;
	} bugs[] = {
		{ "tenure-grant", "changed_afterwards" }, { "tenure-grant", "changed_meanwhile" },
		{ "tenure-inval", "changed_afterwards" }, { "tenure-inval", "changed_meanwhile" },
		{ "ahead-stale", "changed_afterwards" }, { "ahead-dirty", "unwritten_data" }, { "ahead-in-use", "in_use" },
	};
	int missed = 0, status;

	for (unsigned i = 0; i < ARRAY_SIZE(bugs); i++) {
		pid_t pid = fork();

		if (!pid) {
			bug = bugs[i].name;
			gfs2_seeded_select(bug);
			cmocka_set_test_filter(bugs[i].test);
			if (!freopen("/dev/null", "w", stdout))
				_exit(0);
			_exit(run());
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 1) {
			fprintf(stderr, "%s: not noticed by %s (status %x)\n", bugs[i].name, bugs[i].test, status);
			missed++;
		}
	}
	return run() + missed;
}

int main(void)
{
	return vol_main(all);
}
