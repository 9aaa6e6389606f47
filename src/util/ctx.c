/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The context of the current thread; thread-local, so it needs no lock. */
#include "util/ctx.h"

#include <unistd.h>

static __attribute__((noinline)) pid_t own_pid(void)
{
	static _Thread_local pid_t self; /* a system call each time would be felt */

	if (!self)
		self = getpid();
	return self;
}

struct gfs2_ctx *current_ctx(void)
{
	static _Thread_local struct gfs2_ctx ctx;

	/*
	 * The daemon's own work carries the daemon's pid.  (pid 0 in a request is a caller of
	 * another pid namespace and stays as it is.)
	 */
	if (!ctx.req && !ctx.pid)
		ctx.pid = own_pid();
	return &ctx;
}
