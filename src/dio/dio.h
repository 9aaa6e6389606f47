/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Direct I/O (design section 5; reference gfs2-locking-dio.md section 5): one struct gfs2_dio is
 * one FUSE READ or WRITE of a file opened O_DIRECT.
 *
 * A write takes the inode's glock in DF, walks the extent map and sends every mapped run to the
 * ring.  The first hole ends the walk: the runs under way are drained, DF is dropped, EX taken, and
 * the rest is written and made durable (rest.h).  Past the end of file, into a stuffed file or a
 * journaled one that is all of it.
 *
 * Guarantees
 *  1. The answer is the full length or an error (short_dio=async aside); reads are short only at EOF.
 *  2. The DF holder is kept until the last run has completed: who gets the glock in another state
 *     finds no direct I/O of this node in flight.
 *     That includes bytes that are sent from where the store has them (dio->send): the holder is kept until they are out.
 *  3. What was written into allocated space is on the device at return, what fell back is durable.
 *
 * Both entries, gfs2_dio_fast() on a receive thread and gfs2_dio_run() on a worker, send through
 * the same functions and end in the same completion.
 *
 * The completion count (reference 5.6): `ref` starts at 1, the submitter's; every run adds one
 * before it is sent.  `wait` is plain memory: the submitter stores it before it drops its reference
 * and whoever drops the last one reads it afterwards.  Both drops are acq_rel: release orders the
 * submitter's store before its drop, acquire orders the last dropper's load after it.
 * tests/model/dio_count.pml is this for Spin, and shows that every one of these orderings is needed; its
 * steps are named in dio.c: COUNT, ERROR, PUBLISH, DROP, DECIDE, FINISH, DRAINED, RESULT.
 */
#ifndef GFS2FUSE_DIO_H
#define GFS2FUSE_DIO_H

#include "fs/file.h"

#define DIO_MAX_RUNS 16 /* in flight per request; a walk with more goes on when these are done */
#define DIO_MAX_VECTOR (2 * DIO_MAX_RUNS + 1) /* runs and holes */

struct gfs2_dio {
	/* set by the caller */
	struct gfs2_inode *ip;
	struct io_ring *ring;	/* the calling thread's */
	char *buf;		/* aligned to io_align(); reads: room for @len */
	int buf_index;		/* registered buffer of @ring, or -1 */
	bool write;
	bool dsync;		/* O_DSYNC or O_SYNC on the open file */
	bool kill_suidgid;	/* writes: the caller may not keep the file's suid and sgid bits */
	bool killed;		/* out, gfs2_dio_run(): rights were taken away */
	uint64_t eof[2];	/* out: a write that fell back found the file that long, and left it that long; else UINT64_MAX */
	uint64_t done_ns;	/* out: when the result was there (now_ns()), for gfs2_dio_replied(); 0: not to be told */
	uint64_t pos;
	uint32_t len;
	/*
	 * gfs2_dio_run(), reads, may be NULL: answer with these bytes, which lie in the store itself (io_in_place()) or, where the file
	 * has holes, in @buf.  Called instead of reading into @buf where the store can do that, for requests that need no second
	 * round; the lock is held.  0 or -errno.  The caller has a reference to the inode: after the answer nobody else need have one.
	 */
	int (*send)(struct gfs2_dio *dio, const struct iovec *iov, unsigned nr);
	bool was_sent;		/* out: send() has been called, the request is answered */
	/* Fast path only: the request is complete; @ret bytes or -errno.  Runs on the ring's thread. */
	void (*done)(struct gfs2_dio *dio, int64_t ret);
	void *priv;

	/* private to dio.c */
	struct gfs2_holder gh;
	enum short_dio behaviour; /* gfs2_dio_run() */
	atomic_uint ref;
	bool wait;
	bool in_place;		/* the runs copy nothing; send() will */
	atomic_bool drained;	/* release: results before it; acquire: by the drainer */
	atomic_int error;	/* first one wins (cmpxchg, relaxed: ordered by ref) */
	uint32_t want;		/* bytes to transfer: len, cut at EOF for reads */
	uint32_t sent;
	uint64_t sent_ns;	/* fast path; now_ns() */
	unsigned nr;
	struct io_req runs[DIO_MAX_RUNS];
};

/* -EINVAL when offset or length are not multiples of the store's logical block size. */
int gfs2_dio_check_align(struct gfs2_sbd *sdp, uint64_t pos, uint32_t len);

/*
 * Receive threads: start the request if that cannot block: glock in hand, no cached buffers, every block of the range in the
 * in-memory extent map or found through blocks of the metadata tree that are cached.  true: dio->done will be called from the
 * ring (also with an error); false: nothing happened, use gfs2_dio_run() on a worker.
 */
bool gfs2_dio_fast(struct gfs2_dio *dio);

/* The same entry for cached reads, under SH: clean data straight from the device.  @fill: into the kernel's page cache (GL_FILL). */
bool gfs2_dio_fast_read_cached(struct gfs2_dio *dio, bool fill);

/* Workers: the whole request, may block.  Bytes or -errno. */
int64_t gfs2_dio_run(struct gfs2_dio *dio);

/* Statistics, of the mount and of the inode.  The caller counts what it refuses (DIO_MISALIGNED) and times its answer. */
void gfs2_dio_count(struct gfs2_inode *ip, enum dio_outcome outcome);
void gfs2_dio_replied(struct gfs2_sbd *sdp, uint64_t done_ns);
const char *gfs2_dio_outcome_name(enum dio_outcome outcome);
const char *gfs2_dio_phase_name(enum dio_phase phase);
/* A bucket of a histogram; on the fast path nothing is waited for and the map is in memory: these are 0 ns by definition. */
uint64_t gfs2_dio_latency(struct gfs2_sbd *sdp, enum dio_phase phase, unsigned bucket);

#endif
