/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Coroutines on one thread, and what src/lock believes to be threads' business: mutexes, condition variables, the end of the
 * process.  The linker replaces the calls (ld --wrap), so the code under test is compiled as it is.
 *
 * A mutex is never contended: a coroutine is left only while it holds none.  So critical sections are atomic, and what can be
 * interleaved is everything between them, as with real threads.
 */
#include "sim.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define STACK_SIZE (256u << 10)
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)0)
#define STACK_SIZE (64u << 10)
#endif

struct co fibres[MAX_COS];
struct co *co_now;
bool co_preempt;
static ucontext_t driver;
static unsigned nr_mutexes;

static void switch_to_driver(void)
{
	struct co *co = co_now;

	if (nr_mutexes)
		sim_fail("%s: leaves the processor with %u mutexes held", co->name, nr_mutexes);
	co->asking = *glock_asking();
	co->req = current_ctx()->req;
	swapcontext(co->uc, &driver);
}

static void trampoline(void)
{
	struct co *co = co_now;

	co->fn(co, co->fn_arg);
	if (nr_mutexes)
		sim_fail("%s: ends with %u mutexes held", co->name, nr_mutexes);
	co->state = CO_FREE;
	setcontext(&driver);
	abort();
}

struct co *co_start(int node, const char *name, void (*fn)(struct co *co, void *arg), void *arg,
		    uint64_t req)
{
	struct co *co = fibres;

	while (co < fibres + MAX_COS && co->state != CO_FREE)
		co++;
	if (co == fibres + MAX_COS)
		sim_fail("too many coroutines");
	if (!co->stack) {
		co->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				 -1, 0);
		GFS2_BUG_ON(co->stack == MAP_FAILED);
		co->uc = xmalloc(sizeof(ucontext_t));
	}
	/* The last user of the stack may have been cut off in the middle. */
	ASAN_UNPOISON_MEMORY_REGION(co->stack, STACK_SIZE);
	getcontext(co->uc);
	((ucontext_t *)co->uc)->uc_stack.ss_sp = co->stack;
	((ucontext_t *)co->uc)->uc_stack.ss_size = STACK_SIZE;
	((ucontext_t *)co->uc)->uc_link = NULL;
	makecontext(co->uc, trampoline, 0);
	co->state = CO_READY;
	co->node = node;
	co->label = co->arg = co->task = 0;
	co->cond = NULL;
	co->name = name;
	co->fn = fn;
	co->fn_arg = arg;
	co->req = req;
	co->asking = NULL;
	return co;
}

void co_resume(struct co *co)
{
	GFS2_BUG_ON(co_now || co->state != CO_READY);
	co_now = co;
	current_ctx()->req = co->req;
	*glock_asking() = co->asking;
	swapcontext(&driver, co->uc);
	co_now = NULL;
	*glock_asking() = NULL;
	current_ctx()->req = 0;
}

void co_yield(unsigned label, unsigned arg)
{
	co_now->label = label;
	co_now->arg = arg;
	switch_to_driver();
}

void co_block(unsigned label)
{
	co_now->state = CO_BLOCKED;
	co_yield(label, 0);
}

void co_wake(struct co *co)
{
	if (co->state == CO_BLOCKED)
		co->state = CO_READY;
	co->cond = NULL;
}

void co_kill_node(int node)
{
	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].node == node)
			fibres[i].state = CO_FREE;
}

void co_kill_all(void)
{
	for (unsigned i = 0; i < MAX_COS; i++)
		fibres[i].state = CO_FREE;
}

/* --- instead of util/mutex.c --- */

void __real_rmutex_lock(struct rmutex *m);
bool __real_rmutex_trylock(struct rmutex *m);
void __real_rmutex_unlock(struct rmutex *m);
void __wrap_rmutex_lock(struct rmutex *m);
bool __wrap_rmutex_trylock(struct rmutex *m);
void __wrap_rmutex_unlock(struct rmutex *m);
void __wrap_rcond_wait(struct rcond *c, struct rmutex *m);
bool __wrap_rcond_wait_until(struct rcond *c, struct rmutex *m, unsigned long long deadline_ns);
void __wrap_rcond_signal(struct rcond *c);
void __wrap_rcond_broadcast(struct rcond *c);

void __wrap_rmutex_lock(struct rmutex *m)
{
	if (co_now && co_preempt && !nr_mutexes && sim_luck && !sim_luck(4))
		co_yield(1, 0);
	__real_rmutex_lock(m);
	nr_mutexes++;
}

bool __wrap_rmutex_trylock(struct rmutex *m)
{
	bool ok = __real_rmutex_trylock(m);

	nr_mutexes += ok;
	return ok;
}

void __wrap_rmutex_unlock(struct rmutex *m)
{
	nr_mutexes--;
	__real_rmutex_unlock(m);
}

void __wrap_rcond_wait(struct rcond *c, struct rmutex *m)
{
	if (!co_now)
		sim_fail("the driver would sleep");
	__wrap_rmutex_unlock(m);
	co_now->cond = c;
	co_block(2);
	/* Not the wrapper: between waking up and having the mutex there is nothing to see. */
	__real_rmutex_lock(m);
	nr_mutexes++;
}

/* Nothing in the simulator waits with a limit. */
bool __wrap_rcond_wait_until(struct rcond *c, struct rmutex *m, unsigned long long deadline_ns)
{
	sim_fail("wait with a time limit");
}

void __wrap_rcond_signal(struct rcond *c)
{
	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].state == CO_BLOCKED && fibres[i].cond == c) {
			co_wake(&fibres[i]);
			return;
		}
}

void __wrap_rcond_broadcast(struct rcond *c)
{
	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].state == CO_BLOCKED && fibres[i].cond == c)
			co_wake(&fibres[i]);
}

/* --- instead of util/util.c --- */

_Noreturn void __wrap_gfs2_bug(const char *expr, const char *file, int line, const char *func);
_Noreturn void __wrap_gfs2_bug(const char *expr, const char *file, int line, const char *func)
{
	const char *base = strrchr(file, '/');

	sim_fail("%s:%d: %s", base ? base + 1 : file, line, expr);
}

void __wrap_msg(enum msg_level level, const char *fmt, ...);
void __wrap_msg(enum msg_level level, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!sim_trace)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	sim_say("    message: %s", text);
}
