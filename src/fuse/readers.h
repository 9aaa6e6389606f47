/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who reads /dev/fuse: the receive threads' rings (loop.c), or readers.
 *
 * A ring finds many requests with one system call and has any number of them at the device at once.  But a request
 * that is not for the fast path goes on to a worker: a wake-up and a task switch more than it need.  So as long as no
 * more than a few requests are under way, they are read by the threads that handle them (leader and followers): a
 * reader is a worker (pool.c) that blocks in read(2), handles in place what it gets, answers, and reads on.
 *
 * A store that is memory has no device: whoever read a request has done it before he could wait, and there is nothing to be had at once.  So
 * readers stay, on as many processors as there are; a ring's thread would do all the copying on one.
 *
 * Guarantee: at every moment somebody is about to take the next request, and nothing that another request brings about
 * has to happen first.  That is a reader that is `ready` (in read(2), on the way there, on the fast path, which
 * waits for nothing, or in a brief request that has not had to wait yet), or the rings.  A reader stops being ready before it
 * waits for anything; the last one first sees to it that there is another, or else that the rings read again.
 *
 * Brief requests (request_is_brief()) hardly ever wait and are done in some microseconds.  The reader stays ready, and stops
 * being it in about_to_wait() (util/wait.h), which every place where it could sleep calls, some after a millisecond.  In a cluster there are more places
 * to sleep (libdlm, another node's time) and no request is brief.
 *
 * How many are ready.  The kernel wakes the reader that has waited longest, on any processor.  A lone caller whose requests are
 * brief is best off with a single reader: with two, the FORGET and the request that follow an unlink wake both, the scheduler spreads them over the
 * processors, and from then on each request and each answer wakes a sleeping processor, which takes several times as long as handling it.  As soon as
 * requests come from several callers, or have to wait, or are for the fast path, up to READERS_READY are kept; `stir` remembers for how long.
 *
 * Who reads follows a table (readers.c); every change is made under `lock`:
 *
 *   event        who says so, and what                                rings read      readers read
 *   READ_CALM    a receive thread: one request at a time, few I/Os    -> readers      -
 *   READ_DEEP    a reader: many wait for the device                   -               -> rings
 *   READ_UNREAD  a reader: no reader is ready any more                -               another one, else -> rings
 *
 * "-> readers" makes sure that one is ready before the rings stop; if none is to be had (no thread, no memory) they go
 * on.  "-> rings": readers that are in read(2) stay there, take one request more each, and leave.  The receive threads
 * are told by their eventfd, after the change; they look at the mode after they have taken what it says: no change
 * is missed.  While readers read, the rings' reads are withdrawn: each would be woken by every request, to find
 * nothing.  Rings are what is always there: receive threads wait for nothing, and hand over to a pool with a rescuer.
 *
 * Descriptors: readers block, the rings must not, so readers have an open file of their own (FUSE_DEV_IOC_CLONE).  The
 * kernel knows a request only in the open file through which it was read; there an answer has to go, also one that
 * libfuse sends (readers_writev()).  So a request is answered by the thread that read it, before that reads on.
 *
 * In the kernel (fs/fuse/dev.c) readers are exclusive waiters: a request wakes the one that has waited longest, and
 * who was woken takes a request even if a signal comes.  Polls, as of rings, are not exclusive.
 *
 * End: a reader that finds the mount gone tells the main thread.  readers_stop() gets the others out of read(2) with
 * a signal that does nothing else, again and again until all are out, since it may come just before the read.
 *
 * Locking: `lock` (RANK_READERS, high: whoever is about to wait may hold anything) guards changes and the list of readers; the
 * counts are atomics.
 */
#ifndef GFS2FUSE_READERS_H
#define GFS2FUSE_READERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct rx_buf;
struct server;
struct readers;

enum read_mode { READ_RINGS, READ_READERS, READ_NR_MODES };
enum read_event { READ_CALM, READ_DEEP, READ_UNREAD, READ_NR_EVENTS };

/*
 * Before there are threads; the rings read at first.  Without an open file of their own (told in a message) there will
 * never be readers.
 */
void readers_create(struct server *s);
/* When the pool and all receive threads are there. */
void readers_begin(struct server *s);
/* Any thread; takes no longer than making a thread does. */
void readers_event(struct server *s, enum read_event event);
/* Receive threads: are reads to be posted? */
bool readers_rings_read(struct server *s);
/* When server.stopping is set: returns when nobody reads any more. */
void readers_stop(struct server *s);
/* Anybody's attempt to read a request has failed with @error: is that the end (server.unread)?  If not, he is to try again. */
bool readers_cannot_read(struct server *s, int error);
/* When the pool has gone. */
void readers_destroy(struct server *s);

/*
 * For a request that another thread will answer, later: where it was read (a descriptor, or -1), by the thread that has it; and to answer
 * there, around the answer.  Returns what was set before.
 */
int readers_where(void);
int readers_answer_at(int where);
/* What libfuse sends from this thread. */
ssize_t readers_writev(int fd, struct iovec *iov, int count, void *userdata);
/* The answer to the request in @b, which a reader has; from its own ring. */
void readers_reply(struct rx_buf *b, const void *reply, uint32_t len);

#endif
