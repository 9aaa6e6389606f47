/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine: the volume's descriptor, what is known about its store, and blocking I/O for any
 * thread.
 *
 * Rings of threads.  A thread that calls io_run() gets a ring of its own per engine, kept in a list that
 * only it walks.  Two things end such a ring: the thread's end (the key's destructor) and the engine's
 * (io_engine_close).  io_rings_lock decides between them; a ring whose engine is gone is an empty shell that its
 * thread frees the next time it looks.
 */
#include "io/engine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <sys/stat.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util/util.h"
#include "util/wait.h"

#define WORKER_ENTRIES 64
#define MIN_ALIGN 512
#define MAX_ALIGN 4096

struct rmutex io_rings_lock = { PTHREAD_MUTEX_INITIALIZER, RANK_IO };

/* --- opening --- */

/* A line of /sys/block/DEVICE/queue; empty: there is none.  A partition's is its disk's. */
static void queue_attribute(dev_t dev, const char *name, char *line, size_t size)
{
	static const char *const dirs[] = { "", "../" };
	char path[100];

	line[0] = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
		FILE *f;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev), minor(dev), dirs[i], name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (!fgets(line, (int)size, f))
			line[0] = 0;
		fclose(f);
		return;
	}
}

/* "[none] mq-deadline": certainly not.  One of a stack has none itself, but those below it may. */
static bool has_scheduler(dev_t dev)
{
	char line[256];

	queue_attribute(dev, "scheduler", line, sizeof(line));
	return !strstr(line, "[none]");
}

static int blockdev_facts(struct io_engine *e, dev_t dev)
{
	int ssz, protected;

	e->e_blockdev = true;
	/* A write-protected device can be opened for writing; the writes then fail. */
	if (!e->e_ro && !ioctl(e->e_fd, BLKROGET, &protected) && protected)
		return -EROFS;
	if (ioctl(e->e_fd, BLKGETSIZE64, &e->e_size) || ioctl(e->e_fd, BLKSSZGET, &ssz))
		return -errno;
	e->e_align = ssz;
	e->e_scheduled = has_scheduler(dev);
	return 0;
}

/* What the file's store says about direct I/O, if it says anything. */
static void file_facts(struct io_engine *e, const struct stat *st)
{
	struct statfs sfs;

	e->e_size = st->st_size;
	e->e_align = MIN_ALIGN;
	e->e_memory = !fstatfs(e->e_fd, &sfs) &&
		      (sfs.f_type == TMPFS_MAGIC || sfs.f_type == RAMFS_MAGIC);
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(e->e_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) || !(sx.stx_mask & STATX_DIOALIGN))
		return;
	/* 0: none at all, which the probe will find out. */
	e->e_align = max_t(uint32_t, e->e_align, sx.stx_dio_offset_align);
	e->e_align = max_t(uint32_t, e->e_align, sx.stx_dio_mem_align);
#endif
}

static int probe_read(struct io_engine *e, void *buf, uint32_t len)
{
	struct io_ring *r;
	struct io_req req;
	int error = ring_create(e, 4, false, false, &r);

	if (error)
		return error;
	io_req_init(&req, IO_READ, IO_META, buf, len, 0);
	e->e_align = len;
	io_ring_submit_req(r, &req);
	while (!error && io_ring_inflight(r))
		error = io_ring_wait(r, 1);
	io_ring_destroy(r);
	return error ? error : req.res;
}

/*
 * Find the smallest transfer that the store takes, starting with what it told.  EINVAL for all: no direct I/O here.
 * This is also where a kernel without io_uring shows.
 */
static int probe(struct io_engine *e)
{
	uint32_t len = e->e_align;
	int error = -EINVAL;
	void *buf;

	/* Smaller than that is no volume; the mount says so. */
	if (e->e_size < MAX_ALIGN)
		return 0;
	if (len < MIN_ALIGN || (len & (len - 1)))
		len = MIN_ALIGN;
	buf = aligned_alloc(MAX_ALIGN, MAX_ALIGN);
	if (!buf)
		return -ENOMEM;
	for (; len <= MAX_ALIGN; len *= 2) {
		error = probe_read(e, buf, len);
		if (error != -EINVAL)
			break;
	}
	free(buf);
	if (error == -EINVAL)
		return io_engine_set_buffered(e, "its store refuses direct I/O");
	/* A bad sector at the start is the mount's to report. */
	return error == -EIO ? 0 : error;
}

static int open_store(struct io_engine *e, const char *path)
{
	int flags = (e->e_ro ? O_RDONLY : O_RDWR) | O_CLOEXEC;
	struct stat st;

	/* Looked at before opening: opening a FIFO or a tape has effects. */
	if (stat(path, &st))
		return -errno;
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return -ENOTBLK;
	e->e_direct = true;
	e->e_fd = open(path, flags | O_DIRECT);
	if (e->e_fd < 0 && errno == EINVAL) {
		e->e_fd = open(path, flags);
		e->e_direct = false;
	}
	if (e->e_fd < 0)
		return -errno;
	if (fstat(e->e_fd, &st))
		return -errno;
	if (S_ISREG(st.st_mode))
		file_facts(e, &st);
	else if (!S_ISBLK(st.st_mode))
		return -ENOTBLK;
	else
		return blockdev_facts(e, st.st_rdev);
	return 0;
}

static int reserve_open(struct io_engine *e)
{
	int error = ring_create(e, WORKER_ENTRIES, false, true, &e->e_reserve);

	/* The slot would be this thread's. */
	if (!error)
		io_uring_unregister_ring_fd(&e->e_reserve->r_uring);
	return error;
}

int io_engine_open(const char *path, bool ro, struct io_engine **out)
{
	static atomic_uint_least64_t ids;
	struct io_engine *e = xzalloc(sizeof(*e));
	int error;

	e->e_fd = -1;
	e->e_ro = ro;
	e->e_id = atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) + 1;
	rmutex_init(&e->e_lock, RANK_IO);
	pthread_mutex_init(&e->e_reserve_lock, NULL);
	list_init(&e->e_faults);
	list_init(&e->e_rings);

	error = open_store(e, path);
	if (!error)
		error = e->e_direct ? probe(e) :
				      io_engine_set_buffered(e, "its store refuses direct I/O");
	if (!error)
		error = reserve_open(e);
	if (error) {
		io_engine_close(e);
		return error;
	}
	inmem_open(e);
	/* The probe's read is nobody's business. */
	memset(e->e_retired, 0, sizeof(e->e_retired));
	*out = e;
	return 0;
}

int io_engine_set_buffered(struct io_engine *e, const char *why)
{
	int flags = fcntl(e->e_fd, F_GETFL);

	if (flags < 0 || fcntl(e->e_fd, F_SETFL, flags & ~O_DIRECT))
		return -errno;
	e->e_direct = false;
	e->e_align = 1;
	fs_warn("WARNING: the volume is used through the page cache, because %s: slower, and what other "
		"nodes or programs write to it may not be seen",
		why);
	return 0;
}

void io_engine_close(struct io_engine *e)
{
	struct io_ring *r, *tmp;

	if (!e)
		return;
	rmutex_lock(&io_rings_lock);
	list_for_each_entry_safe(r, tmp, &e->e_rings, r_engine_list) {
		/* Receive threads close theirs before; a worker that still waits for I/O would be torn out. */
		GFS2_BUG_ON(!r->r_worker || r->r_inflight);
		ring_close_locked(r);
	}
	rmutex_unlock(&io_rings_lock);
	if (e->e_reserve)
		ring_free(e->e_reserve);
	pthread_mutex_destroy(&e->e_reserve_lock);
	inmem_close(e);
	io_fault_clear(e);
	rmutex_destroy(&e->e_lock);
	if (e->e_fd >= 0) {
		/* Rings are taken apart in the background and may keep the open file a little longer. */
		flock(e->e_fd, LOCK_UN);
		close(e->e_fd);
	}
	free(e);
}

void io_engine_set_readonly(struct io_engine *e)
{
	atomic_store_explicit(&e->e_refuses, true, memory_order_relaxed);
}

void io_engine_writes_begin(struct io_engine *e)
{
	atomic_fetch_add_explicit(&e->e_may_write, 1, memory_order_relaxed);
}

void io_engine_writes_end(struct io_engine *e)
{
	atomic_fetch_sub_explicit(&e->e_may_write, 1, memory_order_relaxed);
}

void io_engine_stop_writes(struct io_engine *e, bool stop)
{
	atomic_store_explicit(&e->e_stopped, stop, memory_order_relaxed);
}

int io_engine_fd(const struct io_engine *e)
{
	return e->e_fd;
}

uint64_t io_engine_size(const struct io_engine *e)
{
	return e->e_size;
}

uint32_t io_align(const struct io_engine *e)
{
	return e->e_align;
}

bool io_engine_direct(const struct io_engine *e)
{
	return e->e_direct;
}

/* --- rings of threads --- */

static pthread_key_t thread_key;
static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;
/* This thread's rings; the key's value points here, so that the destructor finds them. */
static _Thread_local struct io_ring *thread_rings;

/* Unlink and free this thread's rings: those without engine, or @all. */
static void thread_rings_purge(struct io_ring **head, bool all)
{
	rmutex_lock(&io_rings_lock);
	for (struct io_ring **pp = head; *pp;) {
		struct io_ring *r = *pp;

		if (!list_empty(&r->r_engine_list)) {
			if (!all) {
				pp = &r->r_next;
				continue;
			}
			ring_close_locked(r);
		}
		*pp = r->r_next;
		ring_free(r);
	}
	rmutex_unlock(&io_rings_lock);
}

static void thread_end(void *value)
{
	thread_rings_purge(value, true);
}

static void thread_key_make(void)
{
	GFS2_BUG_ON(pthread_key_create(&thread_key, thread_end));
}

static int thread_ring(struct io_engine *e, struct io_ring **out)
{
	struct io_ring *r;
	int error;

	for (r = thread_rings; r; r = r->r_next)
		if (likely(r->r_engine_id == e->e_id)) {
			*out = r;
			return 0;
		}
	pthread_once(&thread_key_once, thread_key_make);
	thread_rings_purge(&thread_rings, false);
	error = ring_create(e, WORKER_ENTRIES, false, true, &r);
	if (error)
		return error;
	r->r_next = thread_rings;
	thread_rings = r;
	GFS2_BUG_ON(pthread_setspecific(thread_key, &thread_rings));
	*out = r;
	return 0;
}

/* --- blocking use --- */

static struct io_ring *reserve_get(struct io_engine *e)
{
	about_to_wait();
	pthread_mutex_lock(&e->e_reserve_lock);
	e->e_reserve->r_thread = pthread_self();
	return e->e_reserve;
}

int io_run(struct io_engine *e, struct io_req *reqs, unsigned nr)
{
	struct io_ring *r = NULL;
	bool reserve = thread_ring(e, &r);
	int error = 0;

	if (reserve)
		r = reserve_get(e);
	for (unsigned i = 0; i < nr; i++) {
		/* More than that and the kernel would have to keep completions for us. */
		while (r->r_inflight >= r->r_max_inflight)
			GFS2_BUG_ON(io_ring_wait(r, 1));
		reqs[i].alone = nr == 1;
		io_ring_submit_req(r, &reqs[i]);
	}
	/* One system call submits all and waits for all; only continuations need another. */
	while (r->r_inflight)
		GFS2_BUG_ON(io_ring_wait(r, r->r_inflight));
	if (reserve)
		pthread_mutex_unlock(&e->e_reserve_lock);
	for (unsigned i = 0; i < nr && !error; i++)
		error = reqs[i].res;
	return error;
}

int io_read(struct io_engine *e, enum io_class cls, void *buf, uint32_t len, uint64_t pos)
{
	struct io_req req;

	io_req_init(&req, IO_READ, cls, buf, len, pos);
	return io_run(e, &req, 1);
}

int io_write(struct io_engine *e, enum io_class cls, const void *buf, uint32_t len, uint64_t pos)
{
	struct io_req req;

	io_req_init(&req, IO_WRITE, cls, (void *)buf, len, pos);
	return io_run(e, &req, 1);
}

int io_flush(struct io_engine *e, enum io_class cls)
{
	struct io_req req;

	io_req_init(&req, IO_FLUSH, cls, NULL, 0, 0);
	return io_run(e, &req, 1);
}

int io_flush_error(const struct io_engine *e)
{
	return atomic_load_explicit(&e->e_flush_error, memory_order_acquire);
}

/* --- discarding --- */

int io_discard(struct io_engine *e, uint64_t pos, uint64_t len)
{
	uint64_t range[2] = { pos, len };
	int ret;

	if (e->e_ro)
		return -EROFS;
	if (atomic_load_explicit(&e->e_stopped, memory_order_relaxed))
		return -EIO;
	if (pos > e->e_size || len > e->e_size - pos)
		return -EIO;
	do {
		if (e->e_blockdev)
			ret = ioctl(e->e_fd, BLKDISCARD, range);
		else
			ret = fallocate(e->e_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)pos, (off_t)len);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

uint32_t io_discard_granularity(const struct io_engine *e)
{
	char line[32] = "";
	struct stat st;
	unsigned long bytes;

	if (fstat(e->e_fd, &st))
		return MIN_ALIGN;
	bytes = (unsigned long)st.st_blksize;
	if (S_ISBLK(st.st_mode)) {
		queue_attribute(st.st_rdev, "discard_granularity", line, sizeof(line));
		bytes = strtoul(line, NULL, 10);
	}
	/* Nonsense is no reason to discard nothing. */
	return bytes >= MIN_ALIGN && bytes <= UINT32_MAX / 2 && !(bytes & (bytes - 1)) ? (uint32_t)bytes : MIN_ALIGN;
}

void io_get_stats(struct io_engine *e, struct io_stats *st)
{
	uint64_t sum[ST_NR];
	struct io_ring *r;

	rmutex_lock(&io_rings_lock);
	memcpy(sum, e->e_retired, sizeof(sum));
	list_for_each_entry(r, &e->e_rings, r_engine_list)
		for (unsigned i = 0; i < ST_NR; i++)
			sum[i] += atomic_load_explicit(&r->r_stats[i], memory_order_relaxed);
	rmutex_unlock(&io_rings_lock);
	memcpy(st->ops, &sum[ST_OPS], sizeof(st->ops));
	memcpy(st->bytes, &sum[ST_BYTES], sizeof(st->bytes));
	st->errors = sum[ST_ERRORS];
	st->injected = sum[ST_INJECTED];
}
