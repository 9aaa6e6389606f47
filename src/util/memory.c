/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that cannot fail, as the kernel's __GFP_NOFAIL: what is in the middle of a change of the volume cannot stop there, so it
 * waits until there is memory.
 *
 * When the system has none
 *  1. the reserve goes back to it, from which small objects can be had at once;
 *  2. the callback is told (memory_on_shortage()): it wakes somebody who gives back what is only cached;
 *  3. the caller naps and tries again, for as long as it takes; but as long as there is no mount yet it ends the process after a while.
 * A shortage ends when the reserve can be filled again (memory_reserve_fill()).  It is said once, and again only after SAY_NS.
 *
 * Locking: none is taken here, as callers may hold any.  For the same reason the callback only wakes.  Who gives memory back may
 * have to wait for a lock whose holder waits for memory here: the reserve is there for that.
 */
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "util/util.h"
#include "util/wait.h"

#define RESERVE_BYTES (4u << 20)
#define NAP_MIN_NS 1000000u
#define NAP_MAX_NS 50000000u
#define SAY_NS 60000000000ull
#define EXIT_NO_MEMORY 32	/* mount(8): mount failure */

static _Atomic(void *) reserve;			/* acq_rel exchanges: whoever takes it owns it */
static atomic_bool shortage;			/* relaxed: only decides what is said and done, and when */
static atomic_uint_least64_t said_ns;		/* relaxed: two messages at once do no harm */
static _Atomic(void (*)(void)) callback;	/* with `inside`, seq_cst: see memory_on_shortage() */
static atomic_uint patience;			/* seconds, 0: without end; relaxed: a nap too many does no harm */
static atomic_uint inside;			/* threads that may be in the callback */

static void nap(uint32_t ns)
{
	about_to_wait();
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

void memory_on_shortage(void (*fn)(void))
{
	atomic_store(&callback, fn);
	/* Who has read the old one counted himself before, and does not stay long. */
	while (atomic_load(&inside))
		nap(NAP_MIN_NS);
}

static void call_for_help(void)
{
	void (*fn)(void);

	atomic_fetch_add(&inside, 1);
	fn = atomic_load(&callback);
	if (fn)
		fn();
	atomic_fetch_sub(&inside, 1);
}

static bool reserve_release(void)
{
	void *mem = atomic_exchange_explicit(&reserve, NULL, memory_order_acq_rel);

	if (mem)
		munmap(mem, RESERVE_BYTES);
	return mem;
}

void memory_reserve_fill(void)
{
	void *mem, *none = NULL;

	if (!atomic_load_explicit(&reserve, memory_order_relaxed)) {
		mem = mmap(NULL, RESERVE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mem == MAP_FAILED)
			return;
		if (!atomic_compare_exchange_strong_explicit(&reserve, &none, mem, memory_order_acq_rel,
							     memory_order_relaxed))
			munmap(mem, RESERVE_BYTES);
	}
	atomic_store_explicit(&shortage, false, memory_order_relaxed);
}

bool memory_is_short(void)
{
	return atomic_load_explicit(&shortage, memory_order_relaxed);
}

static void say(size_t size)
{
	uint64_t now = now_ns(), last = atomic_load_explicit(&said_ns, memory_order_relaxed);

	if (last && now - last < SAY_NS)
		return;
	atomic_store_explicit(&said_ns, now, memory_order_relaxed);
	fs_warn("out of memory: waiting for %zu bytes", size);
}

void memory_wait_for(unsigned secs)
{
	atomic_store_explicit(&patience, secs, memory_order_relaxed);
}

/* How long have we napped?  About: the first naps are shorter, and any may take longer than asked. */
static void lose_patience(size_t size, unsigned attempt)
{
	unsigned secs = atomic_load_explicit(&patience, memory_order_relaxed);

	if (!secs || (uint64_t)attempt * NAP_MAX_NS < secs * 1000000000ull)
		return;
	fs_err("not enough memory to mount: %zu bytes are not to be had (ulimit -v?)", size);
	_exit(EXIT_NO_MEMORY);
}

void memory_wait(size_t size, unsigned attempt)
{
	/* No such object is possible: waiting for it would be forever. */
	GFS2_BUG_ON(size > PTRDIFF_MAX);
	if (!atomic_exchange_explicit(&shortage, true, memory_order_relaxed))
		say(size);
	lose_patience(size, attempt);
	call_for_help();
	if (!reserve_release())
		nap(min_t(uint32_t, NAP_MIN_NS << min_t(unsigned, attempt, 6), NAP_MAX_NS));
}

void *xmalloc(size_t size)
{
	void *p;

	for (unsigned i = 0; !(p = malloc(size ? size : 1)); i++)
		memory_wait(size, i);
	return p;
}

void *xzalloc(size_t size)
{
	void *p;

	for (unsigned i = 0; !(p = calloc(1, size ? size : 1)); i++)
		memory_wait(size, i);
	return p;
}

void *xrealloc(void *old, size_t size)
{
	void *p;

	for (unsigned i = 0; !(p = realloc(old, size ? size : 1)); i++)
		memory_wait(size, i);
	return p;
}

void *xaligned_alloc(size_t align, size_t size)
{
	void *p;

	for (unsigned i = 0; posix_memalign(&p, align, size); i++)
		memory_wait(size, i);
	return p;
}

char *xstrdup(const char *text)
{
	size_t size = strlen(text) + 1;

	return memcpy(xmalloc(size), text, size);
}
