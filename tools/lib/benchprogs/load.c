/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The load of tools/bench's rows of a cluster; runs in the nodes, on their mounts.
 *
 * usage: bench-load write|read|sync FILE THREADS MILLISECONDS BLOCKS
 *	write, read: requests of 4 KiB at random blocks, O_DIRECT; sync: buffered writes, each followed by fsync.
 *	Says "ready", begins with the next line of input, prints "REQUESTS SECONDS P50 P99.9 MAX" (latencies in us).
 *        bench-load turns FILE
 *	For each line of input one direct write of block 0; prints how long it took in us.
 */
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define MAX_THREADS 64

enum kind { WRITE, READ, SYNC };

struct thread {
	pthread_t id;
	unsigned seed;
	size_t nr, space;
	uint32_t *us;
};

static enum kind kind;
static const char *path;
static unsigned long blocks;
static uint64_t until;

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void *buffer(void)
{
	void *p;

	if (posix_memalign(&p, BLOCK, BLOCK))
		errx(1, "no memory");
	memset(p, 'x', BLOCK);
	return p;
}

static void request(int fd, void *data, off_t at)
{
	ssize_t n = kind == READ ? pread(fd, data, BLOCK, at) : pwrite(fd, data, BLOCK, at);

	if (n != BLOCK)
		err(1, "%s: %zd bytes at %lld", path, n, (long long)at);
	if (kind == SYNC && fsync(fd))
		err(1, "fsync %s", path);
}

static void *work(void *arg)
{
	int fd = open(path, O_RDWR | (kind == SYNC ? 0 : O_DIRECT));
	struct thread *t = arg;
	void *data = buffer();

	if (fd < 0)
		err(1, "%s", path);
	for (uint64_t begin = now_us(); begin < until;) {
		off_t at = (off_t)((unsigned)rand_r(&t->seed) % blocks) * BLOCK;
		uint64_t end;

		request(fd, data, at);
		end = now_us();
		if (t->nr == t->space) {
			t->space = t->space ? t->space * 2 : 4096;
			t->us = realloc(t->us, t->space * sizeof(*t->us));
			if (!t->us)
				errx(1, "no memory");
		}
		t->us[t->nr++] = (uint32_t)(end - begin);
		begin = end;
	}
	close(fd);
	free(data);
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int load(unsigned threads, unsigned long ms)
{
	struct thread t[MAX_THREADS] = { 0 };
	uint64_t began;
	size_t nr = 0;
	uint32_t *us;
	char line[64];

	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	began = now_us();
	until = began + ms * 1000;
	for (unsigned i = 0; i < threads; i++) {
		t[i].seed = i + (unsigned)getpid();
		if (pthread_create(&t[i].id, NULL, work, &t[i]))
			errx(1, "no thread");
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(t[i].id, NULL);
		nr += t[i].nr;
	}
	began = now_us() - began;
	us = calloc(nr + 1, sizeof(*us));
	if (!us)
		errx(1, "no memory");
	nr = 0;
	for (unsigned i = 0; i < threads; i++) {
		memcpy(us + nr, t[i].us, t[i].nr * sizeof(*us));
		nr += t[i].nr;
	}
	qsort(us, nr, sizeof(*us), ascending);
	printf("%zu %.3f %u %u %u\n", nr, (double)began / 1e6, us[nr / 2], us[nr - (nr + 999) / 1000], us[nr ? nr - 1 : 0]);
	return 0;
}

static int turns(void)
{
	int fd = open(path, O_RDWR | O_DIRECT);
	void *data = buffer();
	char line[64];

	if (fd < 0)
		err(1, "%s", path);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t begin = now_us();

		request(fd, data, 0);
		printf("%llu\n", (unsigned long long)(now_us() - begin));
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "turns")) {
		path = argv[2];
		return turns();
	}
	if (argc != 6)
		errx(2, "usage: bench-load write|read|sync FILE THREADS MILLISECONDS BLOCKS | turns FILE");
	kind = !strcmp(argv[1], "read") ? READ : !strcmp(argv[1], "sync") ? SYNC : WRITE;
	path = argv[2];
	blocks = strtoul(argv[5], NULL, 10);
	return load((unsigned)atoi(argv[3]) % (MAX_THREADS + 1), strtoul(argv[4], NULL, 10));
}
