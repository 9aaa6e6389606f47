/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hands of a scenario: file operations one by one, as told by lines (glockctl run; tests/progs/steps.c for tools/conform).
 *
 * A process of its own, since a step may be stopped for long.  What is no step ends it, with a message.
 *
 * A line is a step, its answer is a line: "= RESULT [NAME=VALUE]...", RESULT being what the call returned or
 * the errno as a negative number.  The process plays one application of one node: descriptors
 * (small numbers, H below) stay open from step to step, and an asynchronous request may be in flight between two.
 *
 *   open H PATH FLAGS      FLAGS: r w c(reat) x(exclusive) t(runcate) d(irect) a(ppend) s(ync) D(sync)
 *   close H
 *   pwrite H OFF LEN BYTE [MISALIGN]     aiow, uringw: the same through libaio and io_uring, waited for
 *   write H OFF LEN BYTE                 write(2): where it goes is the descriptor's business, OFF is ignored
 *   aiowq H OFF LEN BYTE COUNT           COUNT requests in a row in one io_submit, not waited for
 *   aiowait                              ... until they are done: how many, bytes=SUM
 *   pread H OFF LEN        aior: through libaio.  data=RUNS of what was read
 *   bench H w OFF LEN SECONDS            writes of 4 KiB one after the other, anywhere in that range, for so long; 0
 *   fsync H, fdatasync H, ftrunc H SIZE, fchmod H MODE, falloc H MODE OFF LEN
 *   forget H               no page of it stays cached
 *   fstat H, stat PATH     size= blocks= nlink= mtime=
 *   mkdir, unlink, readdir PATH; rename, link OLD NEW
 *   ino PATH               its inode number
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hands.h"

#define HANDLES 16
#define MAX_WORDS 8
#define MAX_IOCBS 64
#define BUFFER_BYTES (32u << 20)

static int fds[HANDLES];
static char *write_buf, *read_buf;
static io_context_t aio;
static struct io_uring ring;
static int queued;
/* What the step tells besides its result. */
static char more[4096];

struct step {
	char *word[MAX_WORDS];
	int nr;
};

static long number(const struct step *s, int i)
{
	return i < s->nr ? strtol(s->word[i], NULL, 0) : 0;
}

static int handle(const struct step *s)
{
	long h = number(s, 1);

	if (h < 0 || h >= HANDLES)
		errx(2, "no descriptor %ld", h);
	return fds[h];
}

static long result(long rc)
{
	return rc < 0 ? -errno : rc;
}

static size_t length(const struct step *s, long count)
{
	long len = number(s, 3);

	if (len < 0 || len * count > (long)BUFFER_BYTES)
		errx(2, "%ld bytes are too much", len * count);
	return (size_t)len;
}

static int open_flags(const char *letters)
{
	int flags = strchr(letters, 'w') ? strchr(letters, 'r') ? O_RDWR : O_WRONLY : O_RDONLY;
	static const struct {
		char letter;
		int flag;
	} table[] = { { 'c', O_CREAT }, { 'x', O_EXCL }, { 't', O_TRUNC }, { 'd', O_DIRECT },
		      { 'a', O_APPEND }, { 's', O_SYNC }, { 'D', O_DSYNC } };

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (strchr(letters, table[i].letter))
			flags |= table[i].flag;
	return flags;
}

static long do_open(const struct step *s)
{
	int fd;

	if (s->nr != 4 || number(s, 1) < 0 || number(s, 1) >= HANDLES)
		errx(2, "open H PATH FLAGS");
	fd = open(s->word[2], open_flags(s->word[3]), 0644);
	if (fd < 0)
		return -errno;
	fds[number(s, 1)] = fd;
	return 0;
}

static long do_close(const struct step *s)
{
	long rc = result(close(handle(s)));

	fds[number(s, 1)] = -1;
	return rc;
}

/* The bytes to write: LEN times BYTE, at an address that is as far off as the step wants. */
static char *source(const struct step *s, long count)
{
	char *from = write_buf + (s->nr > 5 && strcmp(s->word[0], "aiowq") ? number(s, 5) : 0);

	memset(from, s->nr > 4 ? s->word[4][0] : 'x', length(s, count));
	return from;
}

static long do_pwrite(const struct step *s)
{
	return result(pwrite(handle(s), source(s, 1), length(s, 1), number(s, 2)));
}

static long do_write(const struct step *s)
{
	return result(write(handle(s), source(s, 1), length(s, 1)));
}

static long aio_one(struct iocb *one)
{
	struct io_event event;
	int rc = io_submit(aio, 1, &one);

	if (rc != 1)
		return rc;
	do
		rc = io_getevents(aio, 1, 1, &event, NULL);
	while (rc == -EINTR);
	return rc == 1 ? (long)event.res : rc;
}

static long do_aiow(const struct step *s)
{
	struct iocb one;

	io_prep_pwrite(&one, handle(s), source(s, 1), length(s, 1), number(s, 2));
	return aio_one(&one);
}

/* "A*4096,B*512": what a buffer holds; \xNN for what is not a letter. */
static void runs(const char *data, long len)
{
	size_t at = (size_t)snprintf(more, sizeof(more), " data=");

	for (long i = 0, j; i < len && at + 32 < sizeof(more); i = j) {
		unsigned char c = (unsigned char)data[i];

		for (j = i; j < len && data[j] == data[i]; j++)
			;
		at += (size_t)snprintf(more + at, sizeof(more) - at,
				       c > 32 && c < 127 ? "%s%c*%ld" : "%s\\x%02x*%ld",
				       i ? "," : "", c, j - i);
	}
}

static long do_aior(const struct step *s)
{
	struct iocb one;
	long rc;

	io_prep_pread(&one, handle(s), read_buf, length(s, 1), number(s, 2));
	rc = aio_one(&one);
	if (rc > 0)
		runs(read_buf, rc);
	return rc;
}

static long do_pread(const struct step *s)
{
	long rc = result(pread(handle(s), read_buf, length(s, 1), number(s, 2)));

	if (rc > 0)
		runs(read_buf, rc);
	return rc;
}

static long do_uringw(const struct step *s)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	struct io_uring_cqe *cqe;
	long rc;

	io_uring_prep_write(sqe, handle(s), source(s, 1), (unsigned)length(s, 1),
			    (unsigned long)number(s, 2));
	rc = io_uring_submit(&ring);
	if (rc != 1)
		return rc;
	do
		rc = io_uring_wait_cqe(&ring, &cqe);
	while (rc == -EINTR);
	if (rc)
		return rc;
	rc = cqe->res;
	io_uring_cqe_seen(&ring, cqe);
	return rc;
}

static long do_aiowq(const struct step *s)
{
	static struct iocb iocbs[MAX_IOCBS];
	struct iocb *list[MAX_IOCBS];
	long count = number(s, 5), rc;
	size_t len = length(s, 1);

	if (count < 1 || count > MAX_IOCBS || queued)
		errx(2, "1 to %d requests, and none before", MAX_IOCBS);
	source(s, 1);
	for (long i = 0; i < count; i++) {
		io_prep_pwrite(&iocbs[i], handle(s), write_buf, len, number(s, 2) + i * (long)len);
		list[i] = &iocbs[i];
	}
	rc = io_submit(aio, count, list);
	queued = rc > 0 ? (int)rc : 0;
	return rc;
}

static long do_aiowait(const struct step *s)
{
	struct io_event events[MAX_IOCBS];
	long bytes = 0;
	int rc = 0, done = queued;

	(void)s;
	while (queued) {
		rc = io_getevents(aio, 1, queued, events, NULL);
		if (rc == -EINTR)
			continue;
		if (rc < 0)
			return rc;
		for (int i = 0; i < rc; i++)
			bytes += (long)events[i].res;
		queued -= rc;
	}
	snprintf(more, sizeof(more), " bytes=%ld", bytes);
	return done;
}

static long do_stat(const struct step *s)
{
	struct stat st;
	long rc = result(s->word[0][0] == 'f' ? fstat(handle(s), &st) : stat(s->word[1], &st));

	if (!rc)
		snprintf(more, sizeof(more), " size=%ld blocks=%ld nlink=%lu mtime=%ld.%09ld",
			 (long)st.st_size, (long)st.st_blocks, (unsigned long)st.st_nlink,
			 (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return rc;
}

static long do_ino(const struct step *s)
{
	struct stat st;

	return stat(s->word[1], &st) ? -errno : (long)st.st_ino;
}

static long do_readdir(const struct step *s)
{
	DIR *dir = opendir(s->word[1]);
	long entries = 0;

	if (!dir)
		return -errno;
	while (readdir(dir))
		entries++;
	closedir(dir);
	return entries;
}

static long do_fsync(const struct step *s) { return result(fsync(handle(s))); }
static long do_fdatasync(const struct step *s) { return result(fdatasync(handle(s))); }
static long do_ftrunc(const struct step *s) { return result(ftruncate(handle(s), number(s, 2))); }
static long do_fchmod(const struct step *s) { return result(fchmod(handle(s), (mode_t)number(s, 2))); }
static long do_mkdir(const struct step *s) { return result(mkdir(s->word[1], 0755)); }
static long do_unlink(const struct step *s) { return result(unlink(s->word[1])); }
static long do_rename(const struct step *s) { return result(rename(s->word[1], s->word[2])); }
static long do_link(const struct step *s) { return result(link(s->word[1], s->word[2])); }

static long do_forget(const struct step *s)
{
	return -posix_fadvise(handle(s), 0, 0, POSIX_FADV_DONTNEED);
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static long do_bench(const struct step *s)
{
	enum { PIECE = 4096 };
	long off = number(s, 3), pieces = number(s, 4) / PIECE;
	double end = seconds() + strtod(s->word[5], NULL);
	unsigned random = 1;

	if (strcmp(s->word[2], "w") || pieces < 1)
		errx(2, "bench H w OFF LEN SECONDS");
	memset(write_buf, 'a', PIECE);
	do {
		random = random * 1103515245 + 12345;
		if (pwrite(handle(s), write_buf, PIECE, off + (long)(random >> 8) % pieces * PIECE) != PIECE)
			return -errno;
	} while (seconds() < end);
	return 0;
}

static long do_falloc(const struct step *s)
{
	return result(fallocate(handle(s), (int)number(s, 2), number(s, 3), number(s, 4)));
}

static const struct {
	const char *name;
	int words;	/* at least, the name included */
	long (*run)(const struct step *s);
} commands[] = {
	{ "open", 4, do_open }, { "close", 2, do_close }, { "pwrite", 5, do_pwrite },
	{ "write", 5, do_write }, { "aiow", 5, do_aiow }, { "uringw", 5, do_uringw },
	{ "aiowq", 6, do_aiowq }, { "aiowait", 1, do_aiowait }, { "pread", 4, do_pread },
	{ "aior", 4, do_aior }, { "fsync", 2, do_fsync }, { "fdatasync", 2, do_fdatasync },
	{ "ftrunc", 3, do_ftrunc }, { "fchmod", 3, do_fchmod }, { "falloc", 5, do_falloc },
	{ "fstat", 2, do_stat }, { "stat", 2, do_stat }, { "mkdir", 2, do_mkdir },
	{ "unlink", 2, do_unlink }, { "readdir", 2, do_readdir }, { "rename", 3, do_rename },
	{ "link", 3, do_link }, { "ino", 2, do_ino },
	{ "forget", 2, do_forget }, { "bench", 6, do_bench },
};

static long run(const struct step *s)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, s->word[0])) {
			if (s->nr < commands[i].words)
				errx(2, "%s: too few words", s->word[0]);
			return commands[i].run(s);
		}
	errx(2, "unknown step: %s", s->word[0]);
}

bool hands_know(const char *name, int *words)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name)) {
			*words = commands[i].words;
			return true;
		}
	return false;
}

/* No root of its own, no way back up. */
bool hands_inside(const char *path)
{
	for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
		if (!strncmp(p, "..", 2) && (!p[2] || p[2] == '/'))
			return false;
	return *path != '/';
}

const char *hands_outside(char *const *words, int nr)
{
	/* Which words are paths: so many, from that one on. */
	static const struct {
		const char *name;
		int first, nr;
	} paths[] = {
		{ "open", 2, 1 },    { "stat", 1, 1 },	 { "mkdir", 1, 1 }, { "unlink", 1, 1 },
		{ "readdir", 1, 1 }, { "rename", 1, 2 }, { "link", 1, 2 },  { "ino", 1, 1 },
	};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		for (int w = paths[i].first; !strcmp(paths[i].name, words[0]) && w < paths[i].first + paths[i].nr; w++)
			if (w < nr && !hands_inside(words[w]))
				return words[w];
	return NULL;
}

int hands_run(FILE *in, FILE *out)
{
	char line[1024];

	write_buf = mmap(NULL, 2 * (BUFFER_BYTES + 4096), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (write_buf == MAP_FAILED)
		err(1, "mmap");
	read_buf = write_buf + BUFFER_BYTES + 4096;
	for (int i = 0; i < HANDLES; i++)
		fds[i] = -1;
	if (io_setup(MAX_IOCBS, &aio) || io_uring_queue_init(8, &ring, 0))
		errx(1, "no asynchronous I/O");
	while (fgets(line, sizeof(line), in)) {
		struct step s = { .nr = 0 };

		for (char *w = strtok(line, " \n"); w && s.nr < MAX_WORDS; w = strtok(NULL, " \n"))
			s.word[s.nr++] = w;
		if (!s.nr)
			continue;
		more[0] = 0;
		fprintf(out, "= %ld", run(&s));
		fprintf(out, "%s\n", more);
		fflush(out);
	}
	return 0;
}
