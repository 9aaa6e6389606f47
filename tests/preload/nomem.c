/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that runs out.  A shared object, preloaded into the daemon: malloc and its like fail as often as the test says.
 *
 * NOMEM_CONTROL names a file of three 32-bit numbers: one of how many allocations is to fail (0: none), written by the test, how many
 * have failed, written here, and whether those fail that libfuse makes for its first request, FUSE_INIT.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t nr, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static struct control {
	_Atomic uint32_t one_of, failed, init;
} nothing, *control = &nothing;
static atomic_uint count;
static _Thread_local int in_init;

struct fuse_session;
struct fuse_buf;

/* libfuse's; the daemon calls it for each request. */
void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *buf);
void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
	static void (*_Atomic real)(struct fuse_session *, const struct fuse_buf *);
	int first = !real;

	if (first)
		real = (void (*)(struct fuse_session *, const struct fuse_buf *))dlsym(RTLD_NEXT, "fuse_session_process_buf");
	in_init = first && control->init;
	real(se, buf);
	in_init = 0;
}

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("NOMEM_CONTROL");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *mem;

	if (fd < 0)
		return;
	mem = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (mem != MAP_FAILED)
		control = mem;
}

static int fails(void)
{
	uint32_t one_of = in_init ? 1 : control->one_of, x;

	if (!one_of)
		return 0;
	/* Not every Nth, which a loop of N allocations would meet always at the same place. */
	x = (atomic_fetch_add(&count, 1) + (uint32_t)getpid() * 7919u) * 2654435761u;
	x ^= x >> 15;
	x *= 2246822519u;
	x ^= x >> 13;
	if (x % one_of)
		return 0;
	atomic_fetch_add(&control->failed, 1);
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t nr, size_t size)
{
	return fails() ? NULL : __libc_calloc(nr, size);
}

void *realloc(void *old, size_t size)
{
	return fails() ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	return fails() ? NULL : __libc_memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size)
{
	void *mem = fails() ? NULL : __libc_memalign(align, size);

	if (!mem)
		return ENOMEM;
	*out = mem;
	return 0;
}
