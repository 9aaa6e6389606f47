/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preloaded into User-Mode Linux on processors whose register state is larger than it knows (AMX).
 *
 * User-Mode Linux 6.1 reads and writes the vector registers of its processes with a buffer of fixed size. Reading then
 * gives the front part, which holds all that it needs (up to AVX-512 and protection keys); but the host's kernel takes only
 * the whole state, and User-Mode Linux panics. So what it writes is made whole here: the rest is in its
 * initial state, and the header says so.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define MAX_STATE 65536
#define HEADER 512		/* offset of the bits of what is not in its initial state */
#define KNOWN_FEATURES 0x2ffull	/* x87, SSE, AVX, MPX, AVX-512, PKRU */

long ptrace(enum __ptrace_request request, ...)
{
	static long (*real)(enum __ptrace_request, ...);
	static size_t whole_size;
	static char state[MAX_STATE] __attribute__((aligned(64)));
	struct iovec whole = { state, sizeof(state) }, *part;
	void *pid, *addr, *data;
	uint64_t features;
	va_list ap;

	va_start(ap, request);
	pid = va_arg(ap, void *);
	addr = va_arg(ap, void *);
	data = va_arg(ap, void *);
	va_end(ap);
	if (!real)
		real = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || addr != (void *)NT_X86_XSTATE)
		return real(request, pid, addr, data);
	if (!whole_size) {
		if (real(PTRACE_GETREGSET, pid, addr, &whole))
			return real(request, pid, addr, data);
		whole_size = whole.iov_len;
	}
	part = data;
	if (part->iov_len >= whole_size)
		return real(request, pid, addr, data);
	memcpy(state, part->iov_base, part->iov_len);
	memset(state + part->iov_len, 0, whole_size - part->iov_len);
	memcpy(&features, state + HEADER, sizeof(features));
	features &= KNOWN_FEATURES;
	memcpy(state + HEADER, &features, sizeof(features));
	whole.iov_len = whole_size;
	return real(request, pid, addr, &whole);
}
