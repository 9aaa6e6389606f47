/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clusterops: what the processes of one node do to the files that all nodes share, and a log of it.
 *
 *   clusterops make DIR                                     the files, once
 *   clusterops work DIR LOG BASE WORKER WORKERS SEED SECONDS [flush]
 *                                                           one process: random operations until the time is over (or SIGTERM);
 *                                                           BASE: of its numbers, if such a worker was there before
 *   clusterops clock                                        the time, as in the logs
 *   clusterops look DIR LOG                                 everything that can be looked at, in every way, once
 *
 * The log has two lines for an operation, with the times right before and right after the system call:
 *
 *   < ID TIME NAME OBJECT ARGUMENTS...
 *   > ID TIME RESULT...
 *
 * tests/lib/history.py knows what they mean and judges them.  TIME is the processor's time stamp counter where there is one: User-Mode
 * Linux runs its processes on the host's processors, so all nodes and the host read the same clock (where the counters of all processors
 * agree: no_common_clock() there).  An operation without a second line
 * was under way when its node died; `flush` writes every line at once for that.
 *
 * Every 8 bytes that are written tell who wrote them, when, and where they belong (see word()), so a reader can say what it saw, and bytes of
 * another file, place or time are noticed.  What is unpredictable anyhow is left out: two direct writes of the same bytes never run at
 * the same time, each worker writes its own blocks (or sectors) directly; buffered ones go anywhere.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libaio.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BLOCK 4096u
#define SECTOR 512u
#define SECTORS (BLOCK / SECTOR)
#define AIO_DEPTH 4
#define TAIL_BYTES (64u << 10)
#define RECORD_MAX 8192u
#define XATTRS 3

/* Which sectors a worker may write directly. */
enum lane { LANE_BLOCKS, LANE_SECTORS };

struct file {
	const char *name;
	unsigned blocks;	/* at most, if it is cut */
	enum lane lane;
	bool sparse, cut;
	int ro, rw, direct;
	uint8_t *map;		/* of files that are never cut */
};

static struct file files[] = {
	{ "full", 8, LANE_BLOCKS, false, false, -1, -1, -1, NULL },
	{ "holes", 24, LANE_BLOCKS, true, false, -1, -1, -1, NULL },
	{ "lanes", 2, LANE_SECTORS, true, false, -1, -1, -1, NULL },
	{ "cut", 8, LANE_BLOCKS, true, true, -1, -1, -1, NULL },
};

struct log {
	const char *name;
	unsigned unit;		/* records are multiples of this */
	int ro, rw, append, direct;
	off_t seen;		/* where the next look begins */
};

static struct log logs[] = { { "log", 1, -1, -1, -1, -1, 0 }, { "dlog", SECTOR, -1, -1, -1, -1, 0 } };

static const char *const dirs[] = { "p", "q" };
static const char *const names[] = { "a", "b", "c", "d", "e" };
static const char *const subdirs[] = { "A", "B", "C" };
static const char *const attrs[] = { "at0", "at1" };

static unsigned worker, workers;
static uint64_t rng_state, serial;
static FILE *out;
static bool flush_all;
static uint8_t *buffer, *aio_buffer[AIO_DEPTH];
static io_context_t aio;
static volatile sig_atomic_t stop;

static uint64_t rnd(void)
{
	/* splitmix64 */
	uint64_t z = rng_state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static unsigned below(unsigned n)
{
	return rnd() % n;
}

static uint64_t now(void)
{
#ifdef __x86_64__
	/* Neither the system call before nor the one behind may pass it. */
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
#else
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
#endif
}

/* ---- the log ---- */

static uint64_t op_begin(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void op_end(uint64_t id, const char *format, ...) __attribute__((format(printf, 2, 3)));

static uint64_t op_begin(const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	fprintf(out, "< %" PRIu64 " %" PRIu64 " %s\n", ++serial, now(), text);
	if (flush_all)
		fflush(out);
	return serial;
}

/* The time is taken by whoever called, right behind the system call: a result may take long to be put into words. */
static uint64_t ended;

static long done(long result)
{
	int error = errno;

	ended = now();
	return result < 0 ? -error : result;
}

static void op_end(uint64_t id, const char *format, ...)
{
	va_list ap;

	fprintf(out, "> %" PRIu64 " %" PRIu64 " ", id, ended);
	va_start(ap, format);
	vfprintf(out, format, ap);
	va_end(ap);
	fputc('\n', out);
	if (flush_all)
		fflush(out);
}

/* What calls end with when the daemon behind the mount has died: the rest is nobody's fault. */
static void may_be_gone(long result)
{
	if (result == -ENOTCONN || result == -ECONNABORTED || result == -EIO || result == -ESHUTDOWN) {
		fprintf(out, "! %" PRIu64 " %ld\n", now(), result);
		fclose(out);
		exit(result == -EIO ? 3 : 4);
	}
}

/* ---- data that says where it comes from ---- */

/* 16 bits of place, 8 of the writer, 40 of a number. */
static uint64_t word(unsigned file, unsigned sector, uint64_t tag)
{
	return (uint64_t)(file << 12 | sector) << 48 | tag;
}

static uint64_t new_tag(void)
{
	return (uint64_t)(worker + 1) << 40 | ++serial;
}

static void fill(uint8_t *at, unsigned file, unsigned sector, unsigned count, uint64_t tag)
{
	for (unsigned s = 0; s < count; s++)
		for (unsigned i = 0; i < SECTOR / 8; i++, at += 8)
			memcpy(at, &(uint64_t){ word(file, sector + s, tag) }, 8);
}

/* What a sector holds: tags in the order seen, "0" for zeros, "X..." for what was never written there. */
static int describe_sector(char *text, size_t size, const uint8_t *at, unsigned file, unsigned sector)
{
	uint64_t last = 0;
	int n = 0, kinds = 0;

	for (unsigned i = 0; i < SECTOR / 8; i++, at += 8) {
		uint64_t w;

		memcpy(&w, at, 8);
		if (i && w == last)
			continue;
		last = w;
		if (kinds++ == 4)
			break;
		if (!w)
			n += snprintf(text + n, size - n, "%s0", n ? "/" : "");
		else if (w >> 48 == (file << 12 | sector))
			n += snprintf(text + n, size - n, "%s%" PRIx64, n ? "/" : "", w & 0xffffffffffffu);
		else
			n += snprintf(text + n, size - n, "%sX%" PRIx64, n ? "/" : "", w);
	}
	return n;
}

/* "COUNT*TAG" and the like, separated by commas. */
static void describe(char *text, size_t size, const uint8_t *at, unsigned file, unsigned sector, unsigned count)
{
	char last[128] = "", one[128];
	unsigned same = 0;
	int n = 0;

	for (unsigned s = 0; s <= count; s++) {
		if (s < count)
			describe_sector(one, sizeof(one), at + s * SECTOR, file, sector + s);
		if (s && (s == count || strcmp(one, last))) {
			n += snprintf(text + n, size - n, "%s%u*%s", n ? "," : "", same, last);
			same = 0;
		}
		same++;
		strcpy(last, one);
	}
	if (!count)
		strcpy(text, "-");
}

/* ---- blocks ---- */

static bool mine(const struct file *f, unsigned sector)
{
	if (f->lane == LANE_BLOCKS)
		return sector / SECTORS % workers == worker % workers;
	return sector % SECTORS * workers / SECTORS == worker;
}

/* A run of sectors that this worker may write directly; 0: there is none. */
static unsigned own_run(const struct file *f, unsigned *start)
{
	unsigned sectors = f->blocks * SECTORS, at = below(sectors), n = 0;

	for (unsigned i = 0; i < sectors && !mine(f, at); i++)
		at = (at + 1) % sectors;
	if (!mine(f, at))
		return 0;
	if (f->lane == LANE_BLOCKS && below(4))
		at -= at % SECTORS;
	while (n < SECTORS && at + n < sectors && mine(f, at + n) && (at + n) / SECTORS == at / SECTORS)
		n++;
	*start = at;
	return below(3) ? n : 1 + below(n);
}

static void write_direct(unsigned nr)
{
	struct file *f = &files[nr];
	unsigned at, n = own_run(f, &at);
	uint64_t tag = new_tag(), id;
	long rc;

	if (!n)
		return;
	fill(buffer, nr, at, n, tag);
	id = op_begin("wd %s %u %u %" PRIx64, f->name, at, n, tag);
	rc = done(pwrite(f->direct, buffer, n * SECTOR, (off_t)at * SECTOR));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

/* One completion; the signal that ends the work may come while it is waited for. */
static void next_event(struct io_event *ev)
{
	int rc;

	do
		rc = io_getevents(aio, 1, 1, ev, NULL);
	while (rc == -EINTR);
	if (rc != 1)
		errx(1, "io_getevents: %s", strerror(-rc));
	ended = now();
}

/* Several at once, each of other blocks. */
static void write_aio(unsigned nr)
{
	struct file *f = &files[nr];
	struct iocb cb[AIO_DEPTH], *list[AIO_DEPTH];
	struct io_event ev;
	uint64_t id[AIO_DEPTH];
	unsigned block[AIO_DEPTH], count = 0, wanted = 1 + below(AIO_DEPTH);

	for (unsigned i = 0; i < wanted; i++) {
		unsigned at, n = own_run(f, &at);
		bool twice = false;

		for (unsigned k = 0; k < count; k++)
			twice |= block[k] == at / SECTORS;
		if (!n || twice)
			continue;
		uint64_t tag = new_tag();

		block[count] = at / SECTORS;
		fill(aio_buffer[count], nr, at, n, tag);
		io_prep_pwrite(&cb[count], f->direct, aio_buffer[count], n * SECTOR, (off_t)at * SECTOR);
		cb[count].data = (void *)(uintptr_t)count;
		list[count] = &cb[count];
		id[count++] = op_begin("wd %s %u %u %" PRIx64, f->name, at, n, tag);
	}
	for (unsigned i = 0; i < count; i++) {
		int rc = io_submit(aio, 1, &list[i]);

		if (rc != 1) {
			may_be_gone(rc);
			errx(1, "io_submit: %s", strerror(-rc));
		}
	}
	for (unsigned i = 0; i < count; i++) {
		next_event(&ev);
		may_be_gone((long)ev.res);
		op_end(id[(uintptr_t)ev.data], "%ld", (long)ev.res);
	}
}

static void write_buffered(unsigned nr)
{
	struct file *f = &files[nr];
	unsigned sectors = f->blocks * SECTORS, at = below(sectors), n = 1 + below(below(4) ? SECTORS : 3 * SECTORS);
	uint64_t tag = new_tag(), id;
	long rc;

	if (n > sectors - at)
		n = sectors - at;
	fill(buffer, nr, at, n, tag);
	id = op_begin("wb %s %u %u %" PRIx64, f->name, at, n, tag);
	rc = done(pwrite(f->rw, buffer, n * SECTOR, (off_t)at * SECTOR));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static const char *const read_ways[] = { "ro", "rw", "direct", "aio", "map", "new" };

static long read_by(struct file *f, const char *way, unsigned block)
{
	off_t at = (off_t)block * BLOCK;
	struct iocb cb, *list = &cb;
	struct io_event ev;
	long rc;
	int fd;

	if (!strcmp(way, "ro"))
		return done(pread(f->ro, buffer, BLOCK, at));
	if (!strcmp(way, "rw"))
		return done(pread(f->rw, buffer, BLOCK, at));
	if (!strcmp(way, "direct"))
		return done(pread(f->direct, buffer, BLOCK, at));
	if (!strcmp(way, "map")) {
		memcpy(buffer, f->map + at, BLOCK);
		return done(BLOCK);
	}
	if (!strcmp(way, "new")) {
		fd = open(f->name, O_RDONLY);
		if (fd < 0)
			return done(-1);
		rc = done(pread(fd, buffer, BLOCK, at));
		close(fd);
		return rc;
	}
	io_prep_pread(&cb, f->direct, buffer, BLOCK, at);
	rc = io_submit(aio, 1, &list);
	if (rc != 1)
		return rc;
	next_event(&ev);
	return (long)ev.res;
}

static void read_block_by(unsigned nr, const char *way, unsigned block)
{
	struct file *f = &files[nr];
	char text[2048];
	uint64_t id;
	long rc;

	if (!strcmp(way, "map") && !f->map)
		return;
	id = op_begin("r %s %u %s", f->name, block, way);
	memset(buffer, 0xee, BLOCK);
	rc = read_by(f, way, block);
	/*
	 * The kernel decides by the size that it remembers, having asked for it; but it drops the answer if it has just been told to drop pages
	 * (another node wants the lock, if only to publish a time).  A second time says whether it stays with the old one.
	 */
	if (rc >= 0 && rc < BLOCK && (!strcmp(way, "ro") || !strcmp(way, "new")))
		rc = read_by(f, way, block);
	may_be_gone(rc);
	if (rc < 0) {
		op_end(id, "%ld -", rc);
		return;
	}
	describe(text, sizeof(text), buffer, nr, block * SECTORS, rc / SECTOR);
	op_end(id, "%ld %s", rc, text);
}

static void read_block(unsigned nr)
{
	read_block_by(nr, read_ways[below(ARRAY_SIZE(read_ways))], below(files[nr].blocks));
}

static void punch(unsigned nr)
{
	struct file *f = &files[nr];
	unsigned at = below(f->blocks), n = 1 + below(3);
	uint64_t id;
	long rc;

	if (!f->sparse)
		return;
	if (n > f->blocks - at)
		n = f->blocks - at;
	id = op_begin("pu %s %u %u", f->name, at * SECTORS, n * SECTORS);
	rc = done(fallocate(f->rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at * BLOCK, (off_t)n * BLOCK));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void allocate(unsigned nr)
{
	struct file *f = &files[nr];
	unsigned at = below(f->blocks), n = 1 + below(3);
	uint64_t id;
	long rc;

	if (n > f->blocks - at)
		n = f->blocks - at;
	id = op_begin("fa %s %u %u", f->name, at * SECTORS, n * SECTORS);
	rc = done(fallocate(f->rw, FALLOC_FL_KEEP_SIZE, (off_t)at * BLOCK, (off_t)n * BLOCK));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void cut(unsigned nr)
{
	struct file *f = &files[nr];
	unsigned sectors = below(f->blocks * SECTORS + 1);
	uint64_t id;
	long rc;

	if (!f->cut)
		return;
	id = op_begin("tr %s %u", f->name, sectors);
	rc = done(below(2) ? ftruncate(f->rw, (off_t)sectors * SECTOR) : truncate(f->name, (off_t)sectors * SECTOR));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void size_of_by(unsigned nr, unsigned way)
{
	struct file *f = &files[nr];
	static const char *const ways[] = { "seek", "fstat", "stat" };
	uint64_t id = op_begin("sz %s %s", f->name, ways[way]);
	struct stat st;
	long rc, size;

	if (way == 0) {
		/* As in read_block_by(). */
		lseek(f->ro, 0, SEEK_END);
		size = rc = done(lseek(f->ro, 0, SEEK_END));
	} else {
		rc = done(way == 1 ? fstat(f->rw, &st) : stat(f->name, &st));
		size = rc < 0 ? rc : st.st_size;
	}
	may_be_gone(rc);
	op_end(id, "%ld", size);
}

static void size_of(unsigned nr)
{
	size_of_by(nr, below(3));
}

static void sync_file(unsigned nr)
{
	struct file *f = &files[nr];
	uint64_t id = op_begin("fs %s", f->name);
	long rc = done(fsync(below(2) ? f->rw : f->ro));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

/* ---- logs ---- */

/* The one that everybody calls CRC-32. */
static uint32_t sum(const uint8_t *data, size_t length)
{
	static uint32_t table[256];
	uint32_t crc = ~0u;

	if (!table[1])
		for (unsigned i = 0; i < 256; i++) {
			uint32_t c = i;

			for (unsigned bit = 0; bit < 8; bit++)
				c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
			table[i] = c;
		}
	while (length--)
		crc = crc >> 8 ^ table[(crc ^ *data++) & 0xff];
	return ~crc;
}

/* A record: its length, its tag, and bytes that depend on both. */
static void append(unsigned nr, bool direct)
{
	struct log *l = &logs[nr];
	unsigned length = l->unit == 1 ? 16 + below(below(5) ? 600 : RECORD_MAX - 16) : SECTOR * (1 + below(RECORD_MAX / SECTOR));
	uint64_t tag = new_tag(), id;
	int fd = direct ? l->direct : l->append;
	long rc;

	memcpy(buffer, &(uint64_t){ length }, 8);
	memcpy(buffer + 8, &tag, 8);
	for (unsigned i = 16; i < length; i++)
		buffer[i] = (tag + i) * 31 >> 3;
	id = op_begin("ap %s %u %" PRIx64 "%s", l->name, length, tag, direct ? " direct" : "");
	rc = done(write(fd, buffer, length));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void append_some(unsigned nr)
{
	append(nr, logs[nr].unit > 1 && below(2));
}

/* What has come since this worker looked last; sometimes a part that it has seen again. */
static void tail(unsigned nr)
{
	struct log *l = &logs[nr];
	off_t from = below(4) ? l->seen : (off_t)(l->seen ? rnd() % l->seen : 0);
	bool cached = below(2);
	uint64_t id = op_begin("ta %s %ld %s", l->name, (long)from, cached ? "ro" : "rw");
	long rc = done(pread(cached ? l->ro : l->rw, buffer, TAIL_BYTES, from));

	may_be_gone(rc);
	op_end(id, "%ld %x", rc, rc > 0 ? sum(buffer, rc) : 0);
	if (rc > 0 && from + rc > l->seen)
		l->seen = from + rc;
}

static void log_size(unsigned nr)
{
	struct stat st;
	uint64_t id = op_begin("ls %s", logs[nr].name);
	long rc = done(below(2) ? fstat(logs[nr].ro, &st) : stat(logs[nr].name, &st));

	may_be_gone(rc);
	op_end(id, "%ld", rc < 0 ? rc : (long)st.st_size);
}

static void sync_log(unsigned nr)
{
	uint64_t id = op_begin("fs %s", logs[nr].name);
	long rc = done(fsync(logs[nr].append));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

/* ---- names ---- */

static const char *some_path(bool directory)
{
	static char paths[4][16];
	static unsigned turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", dirs[below(2)],
		 directory ? subdirs[below(ARRAY_SIZE(subdirs))] : names[below(ARRAY_SIZE(names))]);
	return path;
}

static void create(void)
{
	const char *path = some_path(false);
	uint64_t id = op_begin("cr names %s", path);
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
	long rc = done(fd < 0 ? -1 : 0);
	struct stat st;

	may_be_gone(rc);
	if (fd >= 0) {
		rc = fstat(fd, &st) ? -errno : (long)st.st_ino;
		may_be_gone(rc);
		if (rc < 0)
			errx(1, "fstat of the new file %s: %s", path, strerror(-rc));
		close(fd);
	}
	op_end(id, "%ld", rc);
}

static void make_directory(void)
{
	const char *path = some_path(true);
	uint64_t id = op_begin("mk names %s", path);
	long rc = done(mkdir(path, 0755));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void simple(const char *name, const char *path, int (*call)(const char *))
{
	uint64_t id = op_begin("%s names %s", name, path);
	long rc = done(call(path));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void move(const char *from, const char *to)
{
	uint64_t id = op_begin("mv names %s %s", from, to);
	long rc = done(rename(from, to));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

/* A name more for an inode: which one is said by number, for between looking a path up and linking it may become another's. */
static void add_link(void)
{
	const char *from = some_path(false), *to = some_path(false);
	int fd = open(from, O_PATH);
	struct stat st;
	uint64_t id;
	long rc;

	if (fd < 0)
		return;
	if (!fstat(fd, &st)) {
		id = op_begin("ln names %ld %s", (long)st.st_ino, to);
		rc = done(linkat(fd, "", AT_FDCWD, to, AT_EMPTY_PATH));
		may_be_gone(rc);
		op_end(id, "%ld", rc);
	}
	close(fd);
}

static void look_up(const char *path, bool by_open)
{
	uint64_t id = op_begin("st names %s", path);
	struct stat st = { 0 };
	int fd = -1;
	long rc;

	if (by_open) {
		fd = open(path, O_RDONLY);
		rc = fd < 0 ? -1 : fstat(fd, &st);
	} else {
		rc = stat(path, &st);
	}
	rc = done(rc);
	may_be_gone(rc);
	if (fd >= 0)
		close(fd);
	op_end(id, "%ld %ld %ld %s", rc, (long)st.st_ino, (long)st.st_nlink, by_open ? "open" : "path");
}

struct entry {
	uint64_t ino, off;
	uint16_t length;
	uint8_t type;
	char name[];
};

static int open_dir(unsigned nr)
{
	int fd = open(dirs[nr], O_RDONLY | O_DIRECTORY);

	if (fd < 0) {
		may_be_gone(-errno);
		err(1, "%s", dirs[nr]);
	}
	return fd;
}

/*
 * One system call, which is one READDIR: a directory of so few names is read as a whole.  Unless a signal is there while the answer is
 * copied: then Linux 6.1 returns the first entry only (fs/readdir.c:filldir64).  The one that ends the work has to wait.
 */
static void list(unsigned nr)
{
	sigset_t term, before;
	uint64_t id;
	char text[1024] = "";
	int fd = open_dir(nr), n = 0;
	long rc;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, &before);
	id = op_begin("li names %s", dirs[nr]);
	rc = done(syscall(SYS_getdents64, fd, buffer, RECORD_MAX));
	sigprocmask(SIG_SETMASK, &before, NULL);
	may_be_gone(rc);
	for (long at = 0; at < rc;) {
		const struct entry *e = (const struct entry *)(buffer + at);

		if (e->name[0] != '.')
			n += snprintf(text + n, sizeof(text) - n, " %s", e->name);
		at += e->length;
	}
	close(fd);
	op_end(id, "%ld%s", rc < 0 ? rc : 0, text);
}

static void sync_dir(void)
{
	int fd = open_dir(below(2));
	uint64_t id = op_begin("fs names");
	long rc = done(fsync(fd));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
	close(fd);
}

static void work_names(unsigned what)
{
	if (what < 18)
		create();
	else if (what < 32)
		simple("un", some_path(false), unlink);
	else if (what < 42)
		add_link();
	else if (what < 58)
		move(some_path(false), some_path(false));
	else if (what < 62)
		make_directory();
	else if (what < 65)
		simple("rd", some_path(true), rmdir);
	else if (what < 69)
		move(some_path(true), some_path(true));
	else if (what < 84)
		look_up(some_path(!below(4)), false);
	else if (what < 90)
		look_up(some_path(false), true);
	else if (what < 98)
		list(below(2));
	else
		sync_dir();
}

/* ---- attributes ---- */

struct acl {
	uint32_t version;
	struct {
		uint16_t tag, perm;
		uint32_t id;
	} e[5];
};

static void set_acl(const char *file)
{
	unsigned user = 1000 + below(1000), perm = below(8);
	struct acl a = { 2, { { 1, 6, ~0u }, { 2, perm, user }, { 4, 4, ~0u }, { 16, 7, ~0u }, { 32, 0, ~0u } } };
	uint64_t id = op_begin("sa %s.acl %u:%u", file, user, perm);
	char path[16];
	long rc;

	snprintf(path, sizeof(path), "%s.acl", file);
	rc = done(setxattr(path, "system.posix_acl_access", &a, sizeof(a), 0));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void get_acl(const char *file)
{
	struct acl a = { 0 };
	uint64_t id = op_begin("ga %s.acl", file);
	char path[16], text[64] = "-";
	long rc;

	snprintf(path, sizeof(path), "%s.acl", file);
	rc = done(getxattr(path, "system.posix_acl_access", &a, sizeof(a)));
	may_be_gone(rc);
	for (unsigned i = 0; rc > 0 && i < ARRAY_SIZE(a.e); i++)
		if (a.e[i].tag == 2)
			snprintf(text, sizeof(text), "%u:%u", a.e[i].id, a.e[i].perm);
	op_end(id, "%ld %s", rc > 0 ? 0 : rc, text);
}

static void set_xattr(const char *file)
{
	char name[16], object[32];
	uint64_t tag = new_tag(), id, value[400];
	unsigned k = below(XATTRS), size = below(3) ? 1 + below(8) : 1 + below(ARRAY_SIZE(value));
	long rc;

	snprintf(name, sizeof(name), "user.x%u", k);
	snprintf(object, sizeof(object), "%s.x%u", file, k);
	for (unsigned i = 0; i < size; i++)
		value[i] = tag + i;
	id = op_begin("sx %s %" PRIx64 " %u", object, tag, size);
	rc = done(setxattr(file, name, value, size * 8, 0));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void get_xattr(const char *file, unsigned k)
{
	char name[16], object[32];
	uint64_t id, value[400];
	bool torn = false;
	long rc;

	snprintf(name, sizeof(name), "user.x%u", k);
	snprintf(object, sizeof(object), "%s.x%u", file, k);
	id = op_begin("gx %s", object);
	rc = done(getxattr(file, name, value, sizeof(value)));
	may_be_gone(rc);
	for (long i = 1; i < rc / 8; i++)
		torn |= value[i] != value[0] + i;
	if (rc < 0)
		op_end(id, "%ld", rc);
	else
		op_end(id, "0 %s%" PRIx64 " %ld", torn ? "X" : "", value[0], rc / 8);
}

static void remove_xattr(const char *file)
{
	char name[16], object[32];
	unsigned k = below(XATTRS);
	uint64_t id;
	long rc;

	snprintf(name, sizeof(name), "user.x%u", k);
	snprintf(object, sizeof(object), "%s.x%u", file, k);
	id = op_begin("rx %s", object);
	rc = done(removexattr(file, name));
	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void set_mode(const char *file)
{
	unsigned mode = below(01000);
	uint64_t id = op_begin("cm %s.mode %u", file, mode);
	long rc = done(chmod(file, mode));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void set_time(const char *file)
{
	long ns = (long)(rnd() >> 4);
	struct timespec ts = { ns / 1000000000, ns % 1000000000 }, both[2] = { ts, ts };
	uint64_t id = op_begin("ut %s.mtime %ld", file, ns);
	long rc = done(utimensat(AT_FDCWD, file, both, 0));

	may_be_gone(rc);
	op_end(id, "%ld", rc);
}

static void get_attributes(const char *file)
{
	uint64_t id = op_begin("gm %s.mode", file), id2 = op_begin("gt %s.mtime", file);
	struct stat st;
	long rc = done(stat(file, &st));

	may_be_gone(rc);
	op_end(id, "%ld %u", rc, st.st_mode & 07777);
	op_end(id2, "%ld %ld", rc, st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
}

static void work_attributes(unsigned what)
{
	const char *file = attrs[below(ARRAY_SIZE(attrs))];

	if (what < 12)
		set_mode(file);
	else if (what < 22)
		set_time(file);
	else if (what < 34)
		set_xattr(file);
	else if (what < 40)
		remove_xattr(file);
	else if (what < 50)
		set_acl(file);
	else if (what < 62)
		get_acl(file);
	else if (what < 82)
		get_xattr(file, below(XATTRS));
	else
		get_attributes(file);
}

/* ---- all of it ---- */

static void open_all(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		struct file *f = &files[i];

		f->ro = open(f->name, O_RDONLY);
		f->rw = open(f->name, O_RDWR);
		f->direct = open(f->name, O_RDWR | O_DIRECT);
		if (f->ro < 0 || f->rw < 0 || f->direct < 0)
			err(1, "%s", f->name);
		if (f->cut)
			continue;
		f->map = mmap(NULL, f->blocks * BLOCK, PROT_READ, MAP_SHARED, f->ro, 0);
		if (f->map == MAP_FAILED)
			err(1, "mmap %s", f->name);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(logs); i++) {
		struct log *l = &logs[i];

		l->ro = open(l->name, O_RDONLY);
		l->rw = open(l->name, O_RDWR);
		l->append = open(l->name, O_WRONLY | O_APPEND);
		l->direct = open(l->name, O_WRONLY | O_APPEND | O_DIRECT);
		if (l->ro < 0 || l->rw < 0 || l->append < 0 || l->direct < 0)
			err(1, "%s", l->name);
	}
	if (io_setup(AIO_DEPTH, &aio))
		errx(1, "io_setup");
	if (posix_memalign((void **)&buffer, BLOCK, TAIL_BYTES))
		err(1, "memory");
	for (unsigned i = 0; i < AIO_DEPTH; i++)
		if (posix_memalign((void **)&aio_buffer[i], BLOCK, BLOCK))
			err(1, "memory");
}

static void work_blocks(unsigned nr, unsigned what)
{
	if (what < 22)
		write_direct(nr);
	else if (what < 30)
		write_aio(nr);
	else if (what < 42)
		write_buffered(nr);
	else if (what < 82)
		read_block(nr);
	else if (what < 87)
		punch(nr);
	else if (what < 90)
		allocate(nr);
	else if (what < 94)
		cut(nr);
	else if (what < 98)
		size_of(nr);
	else
		sync_file(nr);
}

static void work_log(unsigned nr, unsigned what)
{
	if (what < 55)
		append_some(nr);
	else if (what < 85)
		tail(nr);
	else if (what < 98)
		log_size(nr);
	else
		sync_log(nr);
}

static void step(void)
{
	/* Sometimes all do the same for a while, which is when they meet. */
	static unsigned favour, left;
	unsigned area;

	if (!left--) {
		left = 20 + below(200);
		favour = below(16);
	}
	area = below(3) ? favour : below(16);
	if (area < 8)
		work_blocks(area % ARRAY_SIZE(files), below(100));
	else if (area < 10)
		work_log(area % 2, below(100));
	else if (area < 13)
		work_names(below(100));
	else
		work_attributes(below(100));
}

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void work(unsigned long seconds)
{
	uint64_t end = 0;
	struct timespec ts;

	open_all();
	signal(SIGTERM, on_term);
	puts("ready");
	fflush(stdout);
	do {
		for (unsigned i = 0; i < 8 && !stop; i++)
			step();
		clock_gettime(CLOCK_MONOTONIC, &ts);
		if (!end)
			end = ts.tv_sec + seconds;
	} while ((uint64_t)ts.tv_sec < end && !stop);
}

static void look(void)
{
	workers = 1;
	open_all();
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		for (unsigned way = 0; way < 3; way++)
			size_of_by(i, way);
		for (unsigned block = 0; block < files[i].blocks; block++)
			for (unsigned way = 0; way < ARRAY_SIZE(read_ways); way++)
				read_block_by(i, read_ways[way], block);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(logs); i++)
		log_size(i);
	for (unsigned d = 0; d < ARRAY_SIZE(dirs); d++) {
		char path[16];

		list(d);
		for (unsigned n = 0; n < ARRAY_SIZE(names); n++) {
			snprintf(path, sizeof(path), "%s/%s", dirs[d], names[n]);
			look_up(path, false);
			look_up(path, true);
		}
		for (unsigned n = 0; n < ARRAY_SIZE(subdirs); n++) {
			snprintf(path, sizeof(path), "%s/%s", dirs[d], subdirs[n]);
			look_up(path, false);
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(attrs); i++) {
		get_attributes(attrs[i]);
		get_acl(attrs[i]);
		for (unsigned k = 0; k < XATTRS; k++)
			get_xattr(attrs[i], k);
	}
}

static void make(void)
{
	char path[32];
	int fd;

	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		fd = open(files[i].name, O_RDWR | O_CREAT | O_EXCL, 0644);
		if (fd < 0 || ftruncate(fd, files[i].cut ? 0 : files[i].blocks * BLOCK))
			err(1, "%s", files[i].name);
		if (!files[i].sparse && fallocate(fd, 0, 0, files[i].blocks * BLOCK))
			err(1, "%s", files[i].name);
		fsync(fd);
		close(fd);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdir(dirs[i], 0755))
			err(1, "%s", dirs[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(logs) + 2 * ARRAY_SIZE(attrs); i++) {
		const char *name = i < ARRAY_SIZE(logs) ? logs[i].name : attrs[i % ARRAY_SIZE(attrs)];

		snprintf(path, sizeof(path), "%s%s", name, i < ARRAY_SIZE(logs) + ARRAY_SIZE(attrs) ? "" : ".acl");
		fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);
		if (fd < 0)
			err(1, "%s", path);
		fchmod(fd, 0644);
		futimens(fd, (struct timespec[2]){ { 1, 0 }, { 1, 0 } });
		fsync(fd);
		close(fd);
	}
	fd = open(".", O_RDONLY);
	fsync(fd);
}

int main(int argc, char **argv)
{
	const char *how = argc > 2 ? argv[1] : "";

	if (argc == 2 && !strcmp(argv[1], "clock")) {
		printf("%" PRIu64 "\n", now());
		return 0;
	}
	if (!strcmp(how, "make")) {
		if (chdir(argv[2]))
			err(1, "%s", argv[2]);
		make();
		return 0;
	}
	if ((strcmp(how, "work") || argc < 9) && (strcmp(how, "look") || argc < 4))
		errx(2, "see the top of the source");
	flush_all = argc > 9;
	/* Survives the node: written through to the host at once. */
	int fd = open(argv[3], O_WRONLY | O_CREAT | O_EXCL | (flush_all ? O_DSYNC : 0), 0644);

	if (fd < 0 || !(out = fdopen(fd, "w")))
		err(1, "%s", argv[3]);
	setvbuf(out, NULL, _IOFBF, 1 << 16);
	if (chdir(argv[2]))
		err(1, "%s", argv[2]);
	if (!strcmp(how, "look")) {
		look();
	} else {
		serial = strtoull(argv[4], NULL, 10) << 24;
		worker = strtoul(argv[5], NULL, 10);
		workers = strtoul(argv[6], NULL, 10);
		rng_state = strtoull(argv[7], NULL, 10) * 1000003 + worker + serial;
		work(strtoul(argv[8], NULL, 10));
	}
	if (fclose(out))
		err(1, "%s", argv[3]);
	return 0;
}
