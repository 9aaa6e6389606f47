/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stores that are memory: an image on tmpfs.
 *
 * There is no device to wait for, a transfer is a copy.  The volume is mapped, so that it is a plain one: pread and
 * pwrite on tmpfs cost several times as much for a block, and half as much again for a megabyte.  And what is read can be
 * handed to the kernel where it lies (io_in_place()), without a copy at all on our side.
 *
 * Only direct I/O goes through the mapping, and large reads for the kernel's pages, which give it back piece by piece (io_in_place_done()).  What
 * has been touched there counts as resident memory of the process, though the pages are the image's; all other work stays within
 * cache=, also for who looks at that number.
 *
 * Guarantees
 *  - An image that is cut short under us, or a tmpfs without space for a page, ends no process: the copy is given up at the
 *    SIGBUS, and pread or pwrite says what is wrong.  What a transfer says that began after the image was cut is never the
 *    zeros that the last page of a mapping has behind the end of its file.
 *  - The mapping is one more way to the same pages: it is coherent with pread, pwrite and other processes.
 *
 * Memory has no sectors: a process that is killed in the middle of a copy leaves the sector that it was at old in one part and new in the
 * other.  pwrite would not (the kernel ends the page that it is at), but takes the lock of the file, which leaves 0.7 of the rate at 4 KiB and
 * half of it at 1 MiB.  It concerns data only that nobody has been told to be written.
 *
 * Two transfers of overlapping ranges may copy at once, as two writes to a device may: applications do such things.  The
 * bytes are then a mixture, which is their affair; so the copy is kept from the thread sanitizer.
 *
 * Locking: none but for the handler.  The mapping lives as long as the engine; the guard belongs to its thread.
 */
#include "io/engine.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/util.h"

#if defined(__SANITIZE_THREAD__)
#define COPY_UNSEEN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define COPY_UNSEEN 1
#endif
#endif

#define FAULT_AROUND ((uintptr_t)64 << 10)	/* what the kernel maps at once: fault_around_bytes */

/* --- the guard --- */

static _Thread_local sigjmp_buf *volatile guard;
static _Thread_local bool guard_ready;
static struct sigaction before_us;	/* written under io_rings_lock, before ours can be called */

static void guard_hit(int sig, siginfo_t *info, void *context)
{
	/* From the kernel, for what this thread did: not sent by anybody. */
	if (guard && info->si_code > 0)
		siglongjmp(*guard, 1);
	sigaction(SIGBUS, &before_us, NULL);
	/* A fault comes again by itself. */
	if (info->si_code <= 0)
		raise(sig);
}

static void guard_install(void)
{
	struct sigaction sa = { .sa_sigaction = guard_hit, .sa_flags = SA_SIGINFO }, now;

	rmutex_lock(&io_rings_lock);
	if (!sigaction(SIGBUS, NULL, &now) && now.sa_sigaction != guard_hit) {
		before_us = now;
		sigaction(SIGBUS, &sa, NULL);
	}
	rmutex_unlock(&io_rings_lock);
}

/*
 * A fault while SIGBUS is blocked would end the process: many of our threads block all signals, and after the jump out of the
 * handler it is still blocked.
 */
static void guard_thread(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	guard_ready = true;
}

#ifdef COPY_UNSEEN
__attribute__((no_sanitize("thread"))) static void copy_bytes(void *to, const void *from, size_t len)
{
	volatile uint64_t *t = to;
	const volatile uint64_t *f = from;
	size_t i;

	for (i = 0; i < len / 8; i++)
		t[i] = f[i];
	for (i *= 8; i < len; i++)
		((volatile char *)to)[i] = ((const volatile char *)from)[i];
}

__attribute__((no_sanitize("thread"))) static void touch(const void *p)
{
	(void)*(const volatile char *)p;
}
#else
static void copy_bytes(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

static void touch(const void *p)
{
	(void)*(const volatile char *)p;
}
#endif

/* @last: a byte that is looked at first; what has been cut off there is not copied. */
static bool copy_guarded(void *to, const void *from, size_t len, const void *last)
{
	sigjmp_buf env;

	if (unlikely(!guard_ready))
		guard_thread();
	if (sigsetjmp(env, 0)) {
		guard = NULL;
		guard_thread();
		return false;
	}
	guard = &env;
	atomic_signal_fence(memory_order_seq_cst);
	touch(last);
	copy_bytes(to, from, len);
	atomic_signal_fence(memory_order_seq_cst);
	guard = NULL;
	return true;
}

/* --- the mapping --- */

void inmem_open(struct io_engine *e)
{
	int prot = PROT_READ | (e->e_ro ? 0 : PROT_WRITE);
	void *map;

	e->e_map = NULL;
	if (!e->e_memory || !e->e_size)
		return;
	map = mmap(NULL, e->e_size, prot, MAP_SHARED, e->e_fd, 0);
	/* Without one (a limit on the address space): as with any other store. */
	if (map == MAP_FAILED)
		return;
	madvise(map, e->e_size, MADV_DONTDUMP);
	madvise(map, e->e_size, MADV_DONTFORK);
	guard_install();
	e->e_map = map;
	e->e_last_page = ALIGN_DOWN(e->e_size - 1, (uint64_t)sysconf(_SC_PAGESIZE));
}

void inmem_close(struct io_engine *e)
{
	if (e->e_map)
		munmap(e->e_map, e->e_size);
	e->e_map = NULL;
}

/* Is the image still as long as that? */
static bool whole(const struct io_engine *e, uint64_t end)
{
	struct stat st;

	return !fstat(e->e_fd, &st) && (uint64_t)st.st_size >= end;
}

/*
 * To ask how long the file is takes as long as to copy a block.  But the pages of a mapping go with the file's: while the last one is
 * there, all before it are whole, and that a touch tells (copy_guarded()).  Only for what is in the last one itself the length counts.
 */
int64_t inmem_transfer(struct io_engine *e, enum io_op op, const struct iovec *iov, unsigned nr, uint64_t pos)
{
	uint64_t start = pos, len = 0;
	const char *last;

	if (!e->e_map)
		return -1;
	for (unsigned i = 0; i < nr; i++)
		len += iov[i].iov_len;
	if (pos + len > e->e_last_page && !whole(e, pos + len))
		return -1;
	last = e->e_map + e->e_last_page;
	for (unsigned i = 0; i < nr; i++) {
		char *there = e->e_map + pos;
		bool ok = op == IO_READ ? copy_guarded(iov[i].iov_base, there, iov[i].iov_len, last) :
					  copy_guarded(there, iov[i].iov_base, iov[i].iov_len, last);

		if (!ok)
			return -1;
		pos += iov[i].iov_len;
	}
	return (int64_t)(pos - start);
}

int64_t inmem_in_place(const struct io_engine *e, uint64_t pos, uint64_t len)
{
	/* As pread would have it: nothing behind the end. */
	return whole(e, pos + len) ? (int64_t)len : 0;
}

bool io_can_in_place(const struct io_engine *e)
{
	return e->e_map;
}

const void *io_in_place(const struct io_engine *e, uint64_t pos)
{
	return e->e_map + pos;
}

void io_in_place_done(const struct io_engine *e, const void *p, uint64_t len)
{
	uintptr_t map = (uintptr_t)e->e_map, start, end;

	if ((uintptr_t)p < map || (uintptr_t)p - map >= e->e_size)
		return;
	/* A fault brings its neighbours, too. */
	start = max_t(uintptr_t, ALIGN_DOWN((uintptr_t)p, FAULT_AROUND), map);
	end = min_t(uintptr_t, ALIGN_UP((uintptr_t)p + len, FAULT_AROUND), map + e->e_size);
	madvise((void *)start, end - start, MADV_DONTNEED);
}
