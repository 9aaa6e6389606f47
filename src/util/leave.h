/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that come and go while others do, and one who waits until all have left.
 *
 * A thread that has said that it leaves is not gone yet: what it has registered to be done at its end takes locks (its rings, its events), which a
 * fork() would find taken for ever, and its stack is there.  So whoever leaves joins who has left before, and whoever ends the group the last
 * one, with which all are gone.  No thread stays unjoined but the last that left.
 */
#ifndef GFS2FUSE_LEAVE_H
#define GFS2FUSE_LEAVE_H

#include <pthread.h>
#include <stdbool.h>

/* In the group's structure, guarded by the lock that guards the number of its threads. */
struct leaver {
	pthread_t thread;
	bool any;	/* zeroes: none has left */
};

/* The caller, a thread of the group, leaves; the lock is held.  Returned is whom it has to join once it has released that. */
static inline struct leaver leave(struct leaver *last)
{
	struct leaver before = *last;

	*last = (struct leaver){ pthread_self(), true };
	return before;
}

/* Without the lock. */
static inline void leaver_join(struct leaver l)
{
	if (l.any)
		pthread_join(l.thread, NULL);
}

#endif
