/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preloaded into User-Mode Linux where measurements want a disk that takes its time: each write to a disk lasts longer by as many microseconds
 * as the first four bytes of the file $GFS2_FUSE_DISK_DELAY say at that moment.  One write at a time for each node, as its block driver has one
 * thread; whoever asks for it, the kernel's gfs2 or gfs2-fuse.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile uint32_t *delay;
static ssize_t (*real)(int, const void *, size_t, off64_t);

static void __attribute__((constructor)) begin(void)
{
	const char *path = getenv("GFS2_FUSE_DISK_DELAY");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *p;

	real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
	if (fd < 0)
		return;
	p = mmap(NULL, sizeof(*delay), PROT_READ, MAP_SHARED, fd, 0);
	if (p != MAP_FAILED)
		delay = p;
	close(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
	ssize_t result = real(fd, data, size, at);
	int error = errno;

	if (delay && *delay) {
		struct timespec left = { .tv_sec = *delay / 1000000, .tv_nsec = *delay % 1000000 * 1000 };

		/* Not through the library: User-Mode Linux's threads are not its. */
		while (syscall(SYS_nanosleep, &left, &left) && errno == EINTR)
			;
	}
	errno = error;
	return result;
}
