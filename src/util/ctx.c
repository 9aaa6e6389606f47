/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The context of the current thread; thread-local, so it needs no lock. */
#include "util/ctx.h"

#include <unistd.h>

struct gfs2_ctx *current_ctx(void)
{
	static _Thread_local struct gfs2_ctx ctx;
	static _Thread_local pid_t self; /* a system call each time would be felt */

	/*
	 * The daemon's own work carries the daemon's pid.  (pid 0 in a request is a caller of
	 * another pid namespace and stays as it is.)
	 */
	if (!ctx.req && !ctx.pid) {
		if (!self)
			self = getpid();
		ctx.pid = self;
	}
	return &ctx;
}
