/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a thread has to do before it sleeps.
 *
 * Most requests are handled without waiting for anybody.  Who has promised something that only holds as long as he
 * runs (a reader of /dev/fuse: to take the next request, fuse/readers.c) leaves word here how to hand it over, and
 * every place where a thread may sleep calls about_to_wait(): condition variables and contended mutexes (util/mutex.c), the io_uring
 * (io/ring.c), notifications to the kernel, messages, the wait for memory.  Mutexes and condition variables are first waited for
 * during WAIT_GRACE_NS: most often what is waited for is a thread that has nearly done, and to hand over takes longer than that.
 *
 * It is called under any mutex, so it may only take those of the highest ranks (util/mutex.h).
 */
#ifndef GFS2FUSE_WAIT_H
#define GFS2FUSE_WAIT_H

#include <stdbool.h>
#include <stddef.h>

#define WAIT_GRACE_NS 1000000u

struct before_wait {
	void (*fn)(struct before_wait *bw);
};

/* For this thread, once: it is forgotten before it is called.  NULL: nothing is to be done. */
void before_wait_set(struct before_wait *bw);
void about_to_wait(void);
/* Would about_to_wait() do anything?  Asked for each mutex that is taken. */
extern _Thread_local struct before_wait *before_wait; /* wait.c's own */
static inline bool before_wait_is_set(void)
{
	return before_wait;
}

#endif
