/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ranked mutexes.  THE LOCK ORDER IS WRITTEN HERE, ONCE: a thread may only take a mutex whose rank
 * is greater than that of every ranked mutex it holds (same rank: never nested).  Debug builds
 * assert it at every acquisition; release builds compile to plain pthread mutexes.
 *
 * Glocks come before all of these (a thread never waits for a glock while it holds a ranked mutex):
 *   rename glock -> inode glocks (parent before child, else by number) -> rgrp glocks
 *   -> open transaction -> the mutexes below.
 */
#ifndef GFS2FUSE_MUTEX_H
#define GFS2FUSE_MUTEX_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>

enum lock_rank {
	RANK_NONE = 0,
	RANK_ICACHE,	  /* fs/inode.c: inode hash and counts */
	RANK_EVICT,	  /* fs/evict_later.c: deleted inodes that wait to be freed */
	RANK_LOG_FLUSH,	  /* journal/log.c: one flush at a time */
	RANK_LOG_HEADER,  /* journal/log.c: one log header at a time, in the order of the batches */
	RANK_LOG_GATE,	  /* journal/log.c: open transactions, log space */
	RANK_EXTMAP,	  /* fs/extmap.c: one inode's in-memory extent map */
	RANK_RGRP_INDEX,  /* fs/rgrp.c: the tree of resource groups, goals, reservations */
	RANK_STATFS,	  /* fs/statfs.c: local and master counters */
	RANK_INODE,	  /* fs/inode.c: one inode's pending times and flags */
	RANK_ORDERED,	  /* journal/log.c: list of ordered mappings */
	RANK_LOG,	  /* journal/log.c: pins, AIL lists, revokes */
	RANK_MAPPING,	  /* io/buf.c: the buffers of one glock or inode */
	RANK_BUF_SHARD,	  /* io/buf.c: a shard of the buffer hash and its LRU */
	RANK_GLOCK_TABLE, /* lock/glock.c: a shard of the glock hash, LRU */
	RANK_GLOCK,	  /* lock/glock.c: one glock: state, holders */
	RANK_GLOCK_WORK,  /* lock/glock.c: work queue of demotions */
	RANK_LM,	  /* lock modules */
	RANK_DIO,	  /* dio/: deferred-time list */
	RANK_KDROP,	  /* fs/kdrop.c: what the kernel is to be told to drop */
	RANK_AHEAD,	  /* fs/ahead.c: windows read ahead */
	RANK_IO,	  /* io/io.c: fault rules, list of rings */
	RANK_CONTROL,	  /* debug/control.c: clients */
	RANK_STOP,	  /* debug/stop.c: breakpoints and what they hold */
	RANK_EVENT,	  /* debug/event.c */
	RANK_READERS,	  /* fuse/readers.c: who reads /dev/fuse; taken before a thread sleeps, under whatever it holds */
	RANK_POOL,	  /* fuse/pool.c: work queue, idle threads */
	RANK_WITHDRAW,	  /* fs/super.c: the log stays while it is stopped; gfs2_withdraw() may be called under any of the above */
	RANK_BUF_FREE,	  /* io/buf.c: free buffers; a leaf: buf_put() may be called under any lock */
	RANK_SLAB,	  /* util/slab.c: objects of one kind; a leaf, too */
	RANK_MAX
};

struct rmutex {
	pthread_mutex_t m;
	enum lock_rank rank;
};

void rmutex_init(struct rmutex *m, enum lock_rank rank);
void rmutex_destroy(struct rmutex *m);
void rmutex_lock(struct rmutex *m);
bool rmutex_trylock(struct rmutex *m); /* true: taken; allowed out of order, it cannot deadlock */
void rmutex_unlock(struct rmutex *m);
/* Debug builds: this thread holds @m. */
void rmutex_assert_held(struct rmutex *m);
/* Debug builds: this thread holds no ranked mutex at all (it is about to sleep on something else). */
void rmutex_assert_none(void);

struct rcond {
	pthread_cond_t c;
};
void rcond_init(struct rcond *c); /* CLOCK_MONOTONIC */
void rcond_destroy(struct rcond *c);
void rcond_wait(struct rcond *c, struct rmutex *m);
/* Until @deadline_ns (now_ns() clock); false when the time was over. */
bool rcond_wait_until(struct rcond *c, struct rmutex *m, unsigned long long deadline_ns);
void rcond_signal(struct rcond *c);
void rcond_broadcast(struct rcond *c);

/*
 * One thread that waits for one event, holding no ranked mutex.  Who is woken so finds no mutex taken, as one that waits for a condition
 * does, which is to be signalled with the mutex held if it may be gone as soon as the waiter knows.  Here it may be gone: rsem_post() makes no use
 * of it once the waiter can go on.  What was done before the post is visible after the wait.
 */
struct rsem {
	sem_t s;
};
void rsem_init(struct rsem *s);
void rsem_destroy(struct rsem *s);
void rsem_wait(struct rsem *s);
void rsem_post(struct rsem *s);

#endif
