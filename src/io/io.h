/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device engine: every read, write and flush of the volume goes through io_uring here, and
 * nowhere else.
 *
 * One io_engine per volume: the O_DIRECT descriptor (or a buffered one, with a loud message, where
 * the store refuses O_DIRECT), its size and logical block size, and the fault rules.  One io_ring
 * per thread that does I/O: a thread only ever touches its own ring, so rings need no lock.
 *
 * Guarantees
 *  - A request is all or an error: short transfers are continued inside; res is 0 or -errno.
 *    A read or write past the end of the device is -EIO, never short.
 *  - Memory, offset and length handed to an O_DIRECT engine must be aligned to io_align(); the
 *    buffer cache and the receive slabs are.  Misaligned requests get -EINVAL and are not sent.
 *  - io_run() may be called by any thread; it creates the calling thread's ring when needed.  Threads that get none (descriptors, memory) use
 *    the engine's reserve, one after the other.
 *  - Fault rules are looked at once per request, before it is sent; delays do not block the ring.
 *  - An engine and its rings belong to the process that opened it: no fork() in between (daemons
 *    fork first).  A ring belongs to the thread that created it.
 *
 * Two kinds of ring: the receive threads' (SINGLE_ISSUER|DEFER_TASKRUN: such a thread may sleep only in
 * io_ring_wait) and workers' (no DEFER_TASKRUN, made by io_run on demand, closed at thread exit).
 */
#ifndef GFS2FUSE_IO_H
#define GFS2FUSE_IO_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "util/list.h"

struct io_engine;
struct io_ring;

enum io_op { IO_READ, IO_WRITE, IO_FLUSH };
/* What the bytes are: for fault rules, statistics and (later) write recording. */
enum io_class { IO_DATA, IO_META, IO_LOG, IO_DIO, IO_NR_CLASSES };

/* Base of everything whose address is an SQE's user_data. Called on the ring's own thread. */
struct io_handler {
	void (*complete)(struct io_handler *h, struct io_ring *r, int32_t res, uint32_t flags);
};

struct io_req {
	struct io_handler h;	/* private to io.c */
	enum io_op op;
	enum io_class cls;
	bool fua;		/* write is durable at completion (RWF_DSYNC) */
	bool mapped;		/* direct I/O: where the store is mapped, copy from or to there (inmem.c says why nothing else does) */
	bool in_place;		/* a read that moves nothing: see io_in_place() */
	int buf_index;		/* registered buffer of the submitting ring that holds iov[0], or -1 */
	uint64_t pos;		/* byte offset on the volume */
	struct iovec *iov;	/* may point at iov1; io.c does not modify the caller's array */
	unsigned nr_iov;
	struct iovec iov1;
	int res;		/* 0 or -errno, valid in done() and after io_run() */
	void (*done)(struct io_req *req); /* NULL with io_run() */
	void *priv;
	/* private to io.c */
	struct io_ring *ring;
	uint64_t done_bytes;
	uint64_t total;
	struct iovec *cont_iov;	/* what is left of iov, when it is not iov itself; owned */
	struct __kernel_timespec delay;
	struct list_head called_list; /* waits for io_ring_wait(): a system call or a copy has done it, this is its result: */
	int32_t called_res;
	int inject;		/* -errno to end with instead of going on */
	uint32_t short_bytes;	/* the next transfer is cut to that much (a fault rule) */
	uint8_t phase, retries;
	bool sent_dsync, need_flush;
	int dsync_error;	/* RWF_DSYNC has failed with that: the write, or its flush? */
	bool alone;		/* nothing else is to be done by its thread until it is */
};

/* @req for one contiguous buffer. */
void io_req_init(struct io_req *req, enum io_op op, enum io_class cls, void *buf, uint32_t len,
		 uint64_t pos);

/*
 * Open @path.  Errors: -errno of open, -ENOTBLK if neither a block device nor a regular file.
 * *@ro: in: wanted; out: unchanged.  The descriptor is also what the volume's flock is taken on.
 */
int io_engine_open(const char *path, bool ro, struct io_engine **out);
void io_engine_close(struct io_engine *e);
/*
 * From now on writes get -EROFS, but for those between begin and end: a read-only member of a cluster replays a dead node's journal. Where the
 * store itself was opened read-only nothing can be written.
 */
void io_engine_set_readonly(struct io_engine *e);
void io_engine_writes_begin(struct io_engine *e);
void io_engine_writes_end(struct io_engine *e);
/* From now on writes and discards get -EIO, whoever asks; those under way may still end.  From any thread, under any mutex. */
void io_engine_stop_writes(struct io_engine *e, bool stop);
int io_engine_fd(const struct io_engine *e);
uint64_t io_engine_size(const struct io_engine *e);	/* bytes */
uint32_t io_align(const struct io_engine *e);		/* logical block size: 512..4096, 1 if buffered */
bool io_engine_direct(const struct io_engine *e);
/*
 * Give up O_DIRECT, with a loud message saying @why: for a volume whose blocks are smaller than
 * io_align().  Same descriptor (locks on it stay).  Nothing may be in flight.
 */
int io_engine_set_buffered(struct io_engine *e, const char *why);

/*
 * Stores that are memory and mapped.  An IO_READ with in_place is checked, delayed, failed and counted as any other, but copies
 * nothing: when it is done, io_in_place() says where its bytes lie.  That is for system calls only (write, writev), which answer
 * EFAULT if the store has been cut short meanwhile; who looks there himself may get a SIGBUS.  What is there is the volume
 * itself: the lock that the read was made under must be held until the bytes have been used.
 */
bool io_can_in_place(const struct io_engine *e);
const void *io_in_place(const struct io_engine *e, uint64_t pos);
/*
 * The bytes at @p, which may lie in the store or elsewhere, have been used and will hardly be again: they count no more as the process's memory.  (For
 * the store nothing happens.)
 */
void io_in_place_done(const struct io_engine *e, const void *p, uint64_t len);

/* --- blocking use: any thread except a receive thread --- */
/* Submit all, wait for all.  Returns the first error in array order, each req->res is set. */
int io_run(struct io_engine *e, struct io_req *reqs, unsigned nr);
int io_read(struct io_engine *e, enum io_class cls, void *buf, uint32_t len, uint64_t pos);
int io_write(struct io_engine *e, enum io_class cls, const void *buf, uint32_t len, uint64_t pos);
/*
 * Everything completed before is on stable media.  A device tells once that it could not write what it had in its cache, and nobody knows what it was: after
 * that every flush fails, and whoever relies on one (fsync, the log for its tail) goes no further.
 */
int io_flush(struct io_engine *e, enum io_class cls);
/* 0, or what the device said to a flush, or to the flush that a durable write ends in. */
int io_flush_error(const struct io_engine *e);

/*
 * [pos, +len), whole blocks of the volume, hold nothing that is needed: the store may give their room to others and return anything when they are
 * read.  A system call, no request: no fault rules, no statistics.  -EOPNOTSUPP: the store cannot; -EIO, -EROFS.
 */
int io_discard(struct io_engine *e, uint64_t pos, uint64_t len);
/* Less than so many bytes at once give the store no room back; a power of two, at least 512. */
uint32_t io_discard_granularity(const struct io_engine *e);

/* --- a ring of one's own: receive threads --- */
/* Requests up to this length do not hold up who submits them: a store that is memory has no device that does the copying. */
uint32_t io_quick_max(const struct io_engine *e);
/* To be called by the thread that will use the ring. */
int io_ring_create(struct io_engine *e, unsigned entries, bool defer_taskrun, struct io_ring **out);
/* By its own thread, or after that thread has ended; waits for the ring's io_reqs first. */
void io_ring_destroy(struct io_ring *r);
/* Slot 0 of the registered files is the volume; slots 1..3 are free for io_uring_register_files_update(). */
struct io_uring *io_ring_raw(struct io_ring *r);
/* Register fixed buffers; -errno leaves the ring usable without. */
int io_ring_register_buffers(struct io_ring *r, const struct iovec *iov, unsigned nr);
/* An SQE, submitting what is queued when the queue is full. Never NULL. */
struct io_uring_sqe *io_ring_sqe(struct io_ring *r);
/* Queue @req (no system call); req->done runs from io_ring_wait(). */
void io_ring_submit_req(struct io_ring *r, struct io_req *req);
/*
 * Submit what is queued, wait for at least @nr completions (0: none), dispatch all. 0 or -errno.
 * A signal ends the wait early, with 0.  Handlers may queue requests, not wait.
 */
int io_ring_wait(struct io_ring *r, unsigned nr);
/* Submit what is queued, as far as that goes; dispatch nothing.  io_ring_wait() does the rest. */
void io_ring_send(struct io_ring *r);
unsigned io_ring_inflight(const struct io_ring *r); /* io_reqs sent and not completed */

/*
 * Fault and delay injection.  A rule is hit by requests of @op/@cls (-1: any) that overlap
 * [pos, pos+len) (len 0: everywhere), after @skip earlier hits, @count times (0: for ever).
 */
struct io_fault {
	int op, cls;
	uint64_t pos, len;
	uint32_t skip, count;
	int error;		/* errno to fail with, 0: none */
	/* Complete only that much once (io.c must continue by itself); with @error: then fail. */
	uint32_t short_bytes;
	uint32_t delay_us;
};
int io_fault_add(struct io_engine *e, const struct io_fault *f);
void io_fault_clear(struct io_engine *e);
/*
 * "op=write,cls=data,error=5,short=512,delay_us=100,pos=..,len=..,skip=..,count=.."; op: read, write, flush, any;
 * cls: data, meta, log, dio, any; numbers decimal or 0x.  -EINVAL if not understood.
 */
int io_fault_parse(const char *text, struct io_fault *f);

struct io_stats {
	uint64_t ops[3], bytes[3], errors, injected;
};
void io_get_stats(struct io_engine *e, struct io_stats *st);

#endif
