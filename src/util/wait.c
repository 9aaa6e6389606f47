/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See wait.h; thread-local, so it needs no lock. */
#include "util/wait.h"

_Thread_local struct before_wait *before_wait;

void before_wait_set(struct before_wait *bw)
{
	before_wait = bw;
}

void about_to_wait(void)
{
	struct before_wait *bw = before_wait;

	if (!bw)
		return;
	before_wait = NULL;
	bw->fn(bw);
}
