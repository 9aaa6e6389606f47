/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dio240 FILE[,FILE...] sync|libaio|io_uring THREADS SIZE SEED
 *
 * Direct writes that are aligned to the sector but not to the file system's block, into holes, from
 * several threads at once, so that neighbours in one block are written by different threads: the case
 * of xfstests generic/240. A file system that fills the rest of a fresh block with zeros while
 * somebody else writes there destroys data.
 *
 * Several FILEs are names of one and the same file, on different mounts of a volume; writers and readers are spread over them.
 *
 * The file is cut into pieces of 1 to 9 sectors in random order; piece by piece goes to the next free
 * thread. Meanwhile two readers, one direct and one buffered, accept in each 8 bytes only zeros
 * or what is written there. Every write must return its full length; at the end the file must be complete,
 * read direct and buffered.
 */
#define _GNU_SOURCE
#include "engine.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define SECTOR 512
#define MAX_PIECE_SECTORS 9
#define READ_SECTORS 64

struct piece {
	uint64_t first;	/* sector */
	unsigned int count;
};

static char *paths[8];
static size_t path_count;
static const char *mode;
static uint64_t size, seed;
static struct piece *pieces;
static size_t piece_count;
static atomic_size_t next_piece;	/* relaxed: only hands out numbers */
static atomic_bool writers_done;	/* the readers' end; nothing is published by it */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* The 8 bytes that belong at an offset (a multiple of 8): never zero. */
static uint64_t word_at(uint64_t offset)
{
	return mix(seed ^ offset) | 1;
}

static void fill(void *memory, uint64_t offset, size_t length)
{
	uint64_t *word = memory;

	for (size_t i = 0; i < length / 8; i++)
		word[i] = word_at(offset + 8 * i);
}

/* Abort the program, from whatever thread, unless every word is right or (if allowed) zero. */
static void verify(const void *memory, uint64_t offset, size_t length, bool zeros, const char *who)
{
	const uint64_t *word = memory;

	for (size_t i = 0; i < length / 8; i++) {
		uint64_t want = word_at(offset + 8 * i);

		if (word[i] == want || (zeros && !word[i]))
			continue;
		errx(1, "%s: offset %llu: %016llx instead of %016llx", who,
		     (unsigned long long)(offset + 8 * i), (unsigned long long)word[i],
		     (unsigned long long)want);
	}
}

static void *aligned_memory(size_t length)
{
	void *memory = aligned_alloc(4096, (length + 4095) / 4096 * 4096);

	if (!memory)
		err(1, "memory");
	return memory;
}

static int open_file(size_t which, int flags)
{
	const char *path = paths[which % path_count];
	int fd = open(path, flags, 0644);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void cut_into_pieces(void)
{
	uint64_t sectors = size / SECTOR, at = 0, random = seed;

	pieces = calloc(sectors, sizeof(*pieces));
	while (at < sectors) {
		random = mix(random);
		unsigned int count = 1 + random % MAX_PIECE_SECTORS;

		if (count > sectors - at)
			count = sectors - at;
		pieces[piece_count++] = (struct piece){ at, count };
		at += count;
	}
	/* Neighbours stay near each other in time: shuffle within a window only. */
	for (size_t i = 0; i + 1 < piece_count; i++) {
		random = mix(random);
		size_t window = piece_count - i < 12 ? piece_count - i : 12;
		size_t other = i + random % window;
		struct piece swap = pieces[i];

		pieces[i] = pieces[other];
		pieces[other] = swap;
	}
}

/*
 * A write that is not all there.  On gfs2-fuse there is one thing to suspect: a request that ran into a hole and was not
 * finished.  The first thread that sees one speaks.
 */
static void give_up(const struct piece *p, long want, long result)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;
	unsigned long long offset = p->first * SECTOR;

	while (atomic_flag_test_and_set(&told))
		pause();
	if (result < 0)
		warnx("%s write of %ld bytes at %llu: %s", mode, want, offset, strerror((int)-result));
	else
		warnx("%s write of %ld bytes at %llu was short: %ld", mode, want, offset, result);
	warnx("What to look at: is a started part left alone at a hole (async), or the write failed (fail)?\n"
	      "  glockctl get short_dio\n"
	      "and in the requests' events a dio_hole at or after %llu whose request ends (dio_end) with fewer bytes\n"
	      "than it began with, with no dio_drain_begin and dio_upgrade between:\n"
	      "  glockctl trace -s 0 -t 0 -e dio_begin,dio_hole,dio_drain_begin,dio_upgrade,dio_end -g %s",
	      offset, paths[0]);
	exit(1);
}

static void check_result(struct engine *e, struct piece *in_flight, bool *busy)
{
	unsigned int tag;
	long result = engine_reap(e, &tag);
	long want = (long)in_flight[tag].count * SECTOR;

	if (result != want)
		give_up(&in_flight[tag], want, result);
	busy[tag] = false;
}

static void *writer(void *which)
{
	struct engine e;
	struct piece in_flight[ENGINE_DEPTH];
	bool busy[ENGINE_DEPTH] = { false };
	char *memory = aligned_memory(ENGINE_DEPTH * MAX_PIECE_SECTORS * SECTOR);
	int fd = open_file((size_t)which, O_RDWR | O_DIRECT);
	size_t number;

	engine_start(&e, mode);
	while ((number = atomic_fetch_add_explicit(&next_piece, 1, memory_order_relaxed)) < piece_count) {
		unsigned int tag = 0;

		if (e.outstanding == (e.kind == ENGINE_SYNC ? 1 : 16))
			check_result(&e, in_flight, busy);
		while (busy[tag])
			tag++;
		char *data = memory + (size_t)tag * MAX_PIECE_SECTORS * SECTOR;

		in_flight[tag] = pieces[number];
		busy[tag] = true;
		fill(data, pieces[number].first * SECTOR, (size_t)pieces[number].count * SECTOR);
		engine_submit(&e, fd, data, (size_t)pieces[number].count * SECTOR,
			      (off_t)(pieces[number].first * SECTOR), tag);
	}
	while (e.outstanding)
		check_result(&e, in_flight, busy);
	engine_stop(&e);
	close(fd);
	free(memory);
	return NULL;
}

static void *reader(void *which)
{
	bool direct = (size_t)which % 2;
	char *memory = aligned_memory(READ_SECTORS * SECTOR);
	int fd = open_file((size_t)which / 2, direct ? O_RDONLY | O_DIRECT : O_RDONLY);
	const char *who = direct ? "direct reader" : "buffered reader";
	uint64_t random = seed + (direct ? 1 : 2);

	while (!atomic_load_explicit(&writers_done, memory_order_relaxed)) {
		size_t done = atomic_load_explicit(&next_piece, memory_order_relaxed);
		uint64_t offset;

		/* Where the writers are, sometimes anywhere. */
		random = mix(random);
		if (done >= piece_count || random % 4 == 0)
			offset = random / 4 % (size / SECTOR) * SECTOR;
		else
			offset = pieces[done].first / READ_SECTORS * READ_SECTORS * SECTOR;
		ssize_t got = pread(fd, memory, READ_SECTORS * SECTOR, (off_t)offset);

		if (got < 0)
			err(1, "%s at %llu", who, (unsigned long long)offset);
		verify(memory, offset, (size_t)got, true, who);
	}
	close(fd);
	free(memory);
	return NULL;
}

static void verify_all(size_t which, int flags, const char *who)
{
	char *memory = aligned_memory(1 << 20);
	int fd = open_file(which, flags);

	for (uint64_t offset = 0; offset < size; ) {
		ssize_t got = pread(fd, memory, 1 << 20, (off_t)offset);

		if (got <= 0)
			errx(1, "%s: read at %llu gave %zd", who, (unsigned long long)offset, got);
		verify(memory, offset, (size_t)got, false, who);
		offset += (uint64_t)got;
	}
	close(fd);
	free(memory);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: dio240 FILE[,FILE...] sync|libaio|io_uring THREADS SIZE SEED");
	for (char *name = strtok(argv[1], ","); name && path_count < 8; name = strtok(NULL, ","))
		paths[path_count++] = name;
	if (!path_count)
		errx(2, "no file");
	mode = argv[2];
	size_t threads = strtoul(argv[3], NULL, 10);

	size = strtoull(argv[4], NULL, 10) / SECTOR * SECTOR;
	seed = mix(strtoull(argv[5], NULL, 10));
	if (!threads || threads > 64 || !size)
		errx(2, "1 to 64 threads and a size of a sector or more");
	cut_into_pieces();

	int fd = open_file(0, O_RDWR | O_CREAT | O_TRUNC);

	if (ftruncate(fd, (off_t)size))
		err(1, "truncate");
	close(fd);

	pthread_t writers[64], readers[16];

	for (size_t i = 0; i < 2 * path_count; i++)
		if (pthread_create(&readers[i], NULL, reader, (void *)i))
			errx(1, "no thread");
	for (size_t i = 0; i < threads; i++)
		if (pthread_create(&writers[i], NULL, writer, (void *)i))
			errx(1, "no thread");
	for (size_t i = 0; i < threads; i++)
		pthread_join(writers[i], NULL);
	atomic_store_explicit(&writers_done, true, memory_order_relaxed);
	for (size_t i = 0; i < 2 * path_count; i++)
		pthread_join(readers[i], NULL);
	for (size_t i = 0; i < path_count; i++) {
		verify_all(i, O_RDONLY | O_DIRECT, "direct, at the end");
		verify_all(i, O_RDONLY, "buffered, at the end");
	}
	printf("%zu pieces\n", piece_count);
	return 0;
}
