/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What io.c, ring.c, inmem.c and fault.c share; nobody else includes it.
 *
 * Locks
 *  - io_rings_lock (one for the process): every engine's list of rings and retired counters.  It is
 *    not the engine's because a thread that ends must be able to ask whether the engine still lives.
 *  - e_lock: fault rules.
 *  - A ring's other fields belong to its thread; its counters are read by others (relaxed).
 */
#ifndef GFS2FUSE_IO_ENGINE_H
#define GFS2FUSE_IO_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include "io/io.h"
#include "util/list.h"
#include "util/mutex.h"

enum { ST_OPS, ST_BYTES = 3, ST_ERRORS = 6, ST_INJECTED, ST_NR };

struct io_engine {
	int e_fd;
	bool e_ro, e_direct;		/* opened read-only */
	/* Relaxed: who writes has itself begun to; the others of a read-only mount have nothing to write. */
	atomic_bool e_refuses;		/* writes */
	atomic_uint e_may_write;	/* all the same: replays that are under way */
	atomic_bool e_stopped;		/* no writes, no discards.  relaxed: one that is being sent just now is as one under way */
	bool e_scheduled;		/* a device with an I/O scheduler, perhaps: see not_alone() in ring.c */
	bool e_memory;			/* the store is memory: see memory_transfer() in ring.c */
	char *e_map;			/* and mapped: inmem.c; NULL: it is not */
	uint64_t e_last_page;		/* of the mapping: where it begins */
	uint32_t e_align;
	uint64_t e_size;
	bool e_blockdev;		/* else a file; durable_call() in ring.c */
	uint64_t e_id;			/* never used twice: a thread's ring is found by it */
	/* The store refuses RWF_DSYNC: write, then flush (relaxed: each request checks for itself). */
	atomic_bool e_no_dsync;
	/* The first error of a flush; release and acquire: who does not see it was flushed before. */
	atomic_int e_flush_error;

	struct rmutex e_lock;
	struct list_head e_faults;
	atomic_bool e_has_faults;	/* relaxed: spares the lock; a rule acts on requests that come after it */

	/*
	 * For threads that get no ring of their own, for want of descriptors or memory: their I/O, maybe the log's, is no error for that, and
	 * to wait for one would be for ever if those that have one wait for them.  The lock is the ring's, while a thread has it; under any other.
	 */
	struct io_ring *e_reserve;
	pthread_mutex_t e_reserve_lock;
	atomic_bool e_no_rings;		/* relaxed: that there was none has been said */

	/* io_rings_lock */
	struct list_head e_rings;
	uint64_t e_retired[ST_NR];
};

struct cqe_copy {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
};

struct io_ring {
	struct io_uring r_uring;
	struct io_engine *r_engine;
	uint64_t r_engine_id;
	pthread_t r_thread;
	unsigned r_inflight;		/* io_reqs */
	unsigned r_max_inflight;	/* what the completion queue has room for */
	bool r_fixed_file, r_worker;
	bool r_transfer;		/* one is queued for the device, and not submitted yet */
	bool r_quick;			/* its thread must not be held up: a receive thread's */
	struct list_head r_called;	/* requests whose transfer is done, to be completed by io_ring_wait() */
	struct cqe_copy *r_stash;	/* completions taken out of the queue to make room */
	unsigned r_nr_stash, r_max_stash;
	atomic_uint_least64_t r_stats[ST_NR]; /* written by the ring's thread only */
	struct list_head r_engine_list;	/* io_rings_lock; off the list: the kernel's ring is gone */
	struct io_ring *r_next;		/* worker rings: the thread's list */
};

extern struct rmutex io_rings_lock;

static inline void ring_count(struct io_ring *r, unsigned what, uint64_t n)
{
	atomic_store_explicit(&r->r_stats[what],
			      atomic_load_explicit(&r->r_stats[what], memory_order_relaxed) + n,
			      memory_order_relaxed);
}

int ring_create(struct io_engine *e, unsigned entries, bool defer, bool worker,
		struct io_ring **out);
/* With io_rings_lock held: close the kernel's side, leave the engine's list. */
void ring_close_locked(struct io_ring *r);
void ring_free(struct io_ring *r);

/* inmem.c: map the store if it is memory. */
void inmem_open(struct io_engine *e);
void inmem_close(struct io_engine *e);
/* Bytes that were copied, all of them, or -1: it cannot be done this way. */
int64_t inmem_transfer(struct io_engine *e, enum io_op op, const struct iovec *iov, unsigned nr, uint64_t pos);
/* A read that copies nothing: bytes that are there. */
int64_t inmem_in_place(const struct io_engine *e, uint64_t pos, uint64_t len);

/* What the rules say about one request. */
struct fault_hit {
	int error;
	uint32_t short_bytes, delay_us;
};
bool fault_match(struct io_engine *e, const struct io_req *req, struct fault_hit *hit);

#endif
