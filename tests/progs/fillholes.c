// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fillholes PATH1,PATH2,PATH3 SECONDS SEED: one file (empty, or there is none) on three nodes.  The first node fills its holes, the second one writes to what is allocated, the
 * third one reads; directly, in whole sectors, synchronously and asynchronously at once, and some through the caches.
 *
 * Every other chunk of the file is a hole to begin with.  A sector has one writer only, and each write a higher number: its words are the sector's
 * number and the write's.  Readers know which writes of a sector had returned before they began, and which had been begun when they returned, and
 * accept nothing but these: no older one, nothing that was never written there (what the block had before it was allocated), zeros
 * only as long as nothing was written.  A sector may be seen half written, as each word is one of these.
 *
 * Fillers also own the last block in front of each hole, so that some of their writes begin in allocated space and run into the hole.
 *
 * Exit 0: all is well, with a line of numbers.  Nobody waits for time: it ends when all holes have been filled, or after SECONDS if enough
 * has been done that it shows something.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include "engine.h"

#define SECTOR 512u
#define BLOCK_SECTORS 8u
#define CHUNK 64u		/* sectors */
#define CHUNKS 192u
#define SECTORS (CHUNK * CHUNKS)
#define DEPTH 4u
#define ENOUGH 200u		/* fills and writes, of about 700 fills in all */

/* Of each sector: the last write that was begun, and that had returned. */
static _Atomic uint32_t begun[SECTORS], ended[SECTORS];
static atomic_bool stop;
static atomic_uint fillers;	/* that are not done yet */
static atomic_ulong writes, fills, reads, zeros, mixed;

struct task {
	pthread_t thread;
	const char *path, *engine;
	bool fills;
	unsigned first, step;	/* its chunks */
	unsigned seed;
};

static uint64_t word(unsigned sector, uint32_t number)
{
	return (uint64_t)(sector + 1) << 32 | number;
}

static unsigned below(unsigned *seed, unsigned limit)
{
	*seed = *seed * 1103515245 + 12345;
	return (unsigned)(((uint64_t)(*seed >> 8) * limit) >> 24);
}

static void *buffer(void)
{
	void *mem;

	if (posix_memalign(&mem, 4096, 2 * CHUNK * SECTOR))
		err(1, "memory");
	return mem;
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

/* --- writing --- */

struct write {
	uint64_t *data;
	unsigned first, count;	/* 0: not under way */
	unsigned chunk;
};

static void write_begin(struct engine *e, int fd, struct write *w, unsigned tag)
{
	for (unsigned s = 0; s < w->count; s++) {
		unsigned sector = w->first + s;
		uint32_t number = atomic_load(&begun[sector]) + 1;

		for (unsigned i = 0; i < SECTOR / 8; i++)
			w->data[s * (SECTOR / 8) + i] = word(sector, number);
		atomic_store(&begun[sector], number);
	}
	engine_submit(e, fd, w->data, w->count * SECTOR, (off_t)w->first * SECTOR, tag);
}

static void write_end(struct engine *e, struct write *all)
{
	unsigned tag;
	long rc = engine_reap(e, &tag);
	struct write *w = &all[tag];

	if (rc != (long)(w->count * SECTOR))
		errx(1, "write of %u sectors at %u: %ld", w->count, w->first, rc);
	for (unsigned s = 0; s < w->count; s++)
		atomic_store(&ended[w->first + s], atomic_load(&begun[w->first + s]));
	w->count = 0;
	atomic_fetch_add(&writes, 1);
}

/* How much of a hole is left. */
static unsigned unwritten(unsigned chunk)
{
	unsigned n = 0;

	for (unsigned s = 0; s < CHUNK; s++)
		n += !atomic_load(&begun[chunk * CHUNK + s]);
	return n;
}

/* Where to write next, in this task's chunk @chunk. */
static void choose(const struct task *t, unsigned *seed, struct write *w, unsigned chunk)
{
	unsigned base = chunk * CHUNK;

	if (!t->fills) {
		/* Not the last block: see above. */
		w->first = below(seed, CHUNK - BLOCK_SECTORS);
		w->count = 1 + below(seed, CHUNK - BLOCK_SECTORS - w->first);
		w->first += base;
		return;
	}
	w->first = base - BLOCK_SECTORS + below(seed, CHUNK + BLOCK_SECTORS);
	w->count = 1 + below(seed, below(seed, 3) ? 2 * BLOCK_SECTORS : CHUNK);
	if (w->first + w->count > base + CHUNK)
		w->count = base + CHUNK - w->first;
	for (unsigned s = 0; s < w->count; s++) {
		if (!atomic_load(&begun[w->first + s])) {
			atomic_fetch_add(&fills, 1);
			return;
		}
	}
}

static bool taken(const struct write *all, unsigned chunk)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (all[i].count && all[i].chunk == chunk)
			return true;
	return false;
}

/* One of the task's own; one that fills prefers what is not full. */
static unsigned next_chunk(const struct task *t, unsigned *seed, const struct write *all)
{
	for (;;) {
		unsigned chunk = t->first + t->step * below(seed, (CHUNKS - t->first + t->step - 1) / t->step);

		if (taken(all, chunk) || (t->fills && !unwritten(chunk) && below(seed, 8)))
			continue;
		return chunk;
	}
}

static bool all_filled(const struct task *t)
{
	for (unsigned chunk = t->first; chunk < CHUNKS; chunk += t->step)
		if (unwritten(chunk))
			return false;
	return true;
}

static void *write_main(void *arg)
{
	const struct task *t = arg;
	struct write all[DEPTH] = { { 0 } };
	int fd = open_file(t->path, O_RDWR | O_DIRECT);
	bool sync = !strcmp(t->engine, "sync");
	unsigned seed = t->seed;
	struct engine e;

	engine_start(&e, t->engine);
	for (unsigned i = 0; i < DEPTH; i++)
		all[i].data = buffer();
	while (!atomic_load(&stop) && !(t->fills && all_filled(t))) {
		unsigned i;

		/* The readers shall see holes. */
		if (t->fills && atomic_load(&fills) > 4 * (atomic_load(&reads) + 1)) {
			if (e.outstanding)
				write_end(&e, all);
			else
				nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
			continue;
		}
		for (i = 0; i < DEPTH && all[i].count; i++)
			;
		all[i].chunk = next_chunk(t, &seed, all);
		choose(t, &seed, &all[i], all[i].chunk);
		write_begin(&e, fd, &all[i], i);
		if (sync || e.outstanding == DEPTH)
			write_end(&e, all);
	}
	while (e.outstanding)
		write_end(&e, all);
	if (t->fills && atomic_fetch_sub(&fillers, 1) == 1)
		atomic_store(&stop, true);
	engine_stop(&e);
	for (unsigned i = 0; i < DEPTH; i++)
		free(all[i].data);
	close(fd);
	return NULL;
}

/* --- reading --- */

struct look {
	uint64_t *data;
	unsigned first, count;
	uint32_t before[2 * CHUNK];
};

static void look_begin(struct look *l, unsigned *seed)
{
	l->count = 1 + below(seed, 2 * CHUNK);
	l->first = below(seed, SECTORS - l->count + 1);
	for (unsigned s = 0; s < l->count; s++)
		l->before[s] = atomic_load(&ended[l->first + s]);
	memset(l->data, 0xee, l->count * SECTOR);
}

static void look_end(const char *how, struct look *l, long rc)
{
	bool some_zero = false;

	if (rc != (long)(l->count * SECTOR))
		errx(1, "%s read of %u sectors at %u: %ld", how, l->count, l->first, rc);
	for (unsigned s = 0; s < l->count; s++) {
		const uint64_t *w = l->data + s * (SECTOR / 8);
		unsigned sector = l->first + s;
		uint32_t after = atomic_load(&begun[sector]);

		for (unsigned i = 0; i < SECTOR / 8; i++) {
			uint32_t number = (uint32_t)w[i];

			some_zero |= !w[i];
			if (w[i] && w[i] >> 32 != sector + 1)
				errx(1, "%s read: sector %u word %u: %016llx was never written there", how, sector, i,
				     (unsigned long long)w[i]);
			if (number < l->before[s] || number > after)
				errx(1, "%s read: sector %u word %u: write %u; %u had returned before, the last one was %u", how, sector,
				     i, number, l->before[s], after);
			if (i && w[i] != w[0])
				atomic_fetch_add(&mixed, 1);
		}
	}
	l->count = 0;
	atomic_fetch_add(&reads, 1);
	atomic_fetch_add(&zeros, some_zero);
}

static void *read_main(void *arg)
{
	const struct task *t = arg;
	bool direct = !strcmp(t->engine, "direct");
	int fd = open_file(t->path, direct ? O_RDONLY | O_DIRECT : !strcmp(t->engine, "cached") ? O_RDWR : O_RDONLY);
	struct look l = { .data = buffer() };
	unsigned seed = t->seed;

	while (!atomic_load(&stop)) {
		look_begin(&l, &seed);
		look_end(t->engine, &l, pread(fd, l.data, l.count * SECTOR, (off_t)l.first * SECTOR));
	}
	free(l.data);
	close(fd);
	return NULL;
}

static void *read_async_main(void *arg)
{
	const struct task *t = arg;
	int fd = open_file(t->path, O_RDONLY | O_DIRECT);
	struct look all[DEPTH] = { { 0 } };
	struct iocb cbs[DEPTH];
	io_context_t aio = NULL;
	unsigned seed = t->seed, under_way = 0;

	if (io_setup(DEPTH, &aio))
		errx(1, "io_setup");
	for (unsigned i = 0; i < DEPTH; i++)
		all[i].data = buffer();
	for (;;) {
		struct io_event event;
		unsigned i;

		while (under_way < DEPTH && !atomic_load(&stop)) {
			struct iocb *one;

			for (i = 0; all[i].count; i++)
				;
			look_begin(&all[i], &seed);
			io_prep_pread(&cbs[i], fd, all[i].data, all[i].count * SECTOR, (long long)all[i].first * SECTOR);
			cbs[i].data = &all[i];
			one = &cbs[i];
			if (io_submit(aio, 1, &one) != 1)
				errx(1, "io_submit");
			under_way++;
		}
		if (!under_way)
			break;
		if (io_getevents(aio, 1, 1, &event, NULL) == 1) {
			look_end("async", event.data, (long)event.res);
			under_way--;
		}
	}
	io_destroy(aio);
	for (unsigned i = 0; i < DEPTH; i++)
		free(all[i].data);
	close(fd);
	return NULL;
}

/* --- the whole --- */

static bool enough(void)
{
	return atomic_load(&fills) >= ENOUGH && atomic_load(&writes) >= 2 * ENOUGH && atomic_load(&reads) && atomic_load(&zeros);
}

static void make(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	uint64_t *data = buffer();

	if (fd < 0 || ftruncate(fd, SECTORS * SECTOR))
		err(1, "%s", path);
	for (unsigned chunk = 0; chunk < CHUNKS; chunk += 2) {
		for (unsigned s = 0; s < CHUNK; s++) {
			for (unsigned i = 0; i < SECTOR / 8; i++)
				data[s * (SECTOR / 8) + i] = word(chunk * CHUNK + s, 1);
			begun[chunk * CHUNK + s] = ended[chunk * CHUNK + s] = 1;
		}
		if (pwrite(fd, data, CHUNK * SECTOR, (off_t)chunk * CHUNK * SECTOR) != CHUNK * SECTOR)
			err(1, "%s", path);
	}
	if (fsync(fd))
		err(1, "%s", path);
	close(fd);
	free(data);
}

int main(int argc, char **argv)
{
	struct task tasks[] = {
		/* Odd chunks are holes. */
		{ .path = NULL, .engine = "sync", .fills = true, .first = 1, .step = 4 },
		{ .path = NULL, .engine = "libaio", .fills = true, .first = 3, .step = 4 },
		{ .path = NULL, .engine = "sync", .first = 0, .step = 4 },
		{ .path = NULL, .engine = "io_uring", .first = 2, .step = 4 },
		{ .engine = "direct" }, { .engine = "async" },
		/* In the kernel's cache, in the daemon's; the latter also where others write directly. */
		{ .engine = "buffered" }, { .engine = "cached" }, { .engine = "cached" },
	};
	const unsigned nr = sizeof(tasks) / sizeof(tasks[0]);
	const char *paths[3];
	struct timespec now;
	time_t end;

	if (argc != 4)
		errx(2, "usage: fillholes PATH1,PATH2,PATH3 SECONDS SEED");
	for (unsigned i = 0; i < 3; i++) {
		paths[i] = strtok(i ? NULL : argv[1], ",");
		if (!paths[i])
			errx(2, "three paths");
	}
	make(paths[0]);
	atomic_store(&fillers, 2);
	for (unsigned i = 0; i < nr; i++) {
		struct task *t = &tasks[i];

		t->path = paths[i == nr - 1 ? 1 : i / 2 < 3 ? i / 2 : 2];
		t->seed = (unsigned)atoi(argv[3]) * 31 + i;
		if (pthread_create(&t->thread, NULL, i < 4 ? write_main : i == 5 ? read_async_main : read_main, t))
			errx(1, "pthread_create");
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	end = now.tv_sec + atoi(argv[2]);
	while (!atomic_load(&stop)) {
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec >= end && enough())
			atomic_store(&stop, true);
	}
	for (unsigned i = 0; i < nr; i++)
		pthread_join(tasks[i].thread, NULL);

	/* In the end all see the last write of each sector. */
	for (unsigned node = 0; node < 3; node++) {
		int fd = open_file(paths[node], O_RDONLY);
		struct look l = { .data = buffer(), .count = CHUNK };

		for (l.first = 0; l.first < SECTORS; l.first += CHUNK) {
			l.count = CHUNK;
			for (unsigned s = 0; s < CHUNK; s++)
				l.before[s] = ended[l.first + s];
			look_end("last", &l, pread(fd, l.data, CHUNK * SECTOR, (off_t)l.first * SECTOR));
		}
		free(l.data);
		close(fd);
	}
	printf("writes %lu fills %lu reads %lu zeros %lu mixed %lu\n", atomic_load(&writes), atomic_load(&fills), atomic_load(&reads),
	       atomic_load(&zeros), atomic_load(&mixed));
	return 0;
}
