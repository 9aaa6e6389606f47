/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The FUSE side of the daemon: receive threads (loop.c), workers (pool.c), workers that read for themselves (readers.c),
 * request handlers (ops.c, rw.c, dir.c).
 *
 * A request's way: it is read from /dev/fuse into a receive buffer, by a reader, or by a receive thread when many are at the
 * device (readers.h says when).  READ and WRITE are tried there (fast.c).  Whatever could block, and everything else, a
 * reader does in place, where libfuse decodes it and calls the handlers; a receive thread hands it over to a worker.
 *
 * Receive threads never sleep but in their ring (design section 3), so a handler that may wait for a glock, the
 * log or memory must not run on one.
 */
#ifndef GFS2FUSE_SERVER_H
#define GFS2FUSE_SERVER_H

#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include "dio/dio.h"
#include "fs/ahead.h"
#include "fs/super.h"

struct server_config {
	const char *mountpoint;
	const char *fsname;
	unsigned rx_threads;	/* 0: by the number of CPUs */
	bool subtype;		/* show as fuse.gfs2-fuse */
	bool ro;
	const char *fuse_opts;	/* further options for libfuse, comma separated, or NULL */
	bool debug;
	/* The mount is to end, or is gone: called before any request is waited for; NULL: nothing */
	void (*ending)(void *arg);
	void *ending_arg;
};

struct server;

/* What an open file is on our side (fuse_file_info.fh). */
struct gfs2_file {
	struct gfs2_inode *f_inode;
	struct list_head f_list;	/* server.files, under files_lock */
	bool f_direct;		/* the reply said FOPEN_DIRECT_IO: opened with O_DIRECT, or must not be mapped */
	bool f_parallel;	/* and FOPEN_PARALLEL_DIRECT_WRITES */
	bool f_sync;		/* opened with O_DSYNC or O_SYNC */
	bool f_rdwr;		/* for reading and writing */
	atomic_uint_least64_t f_errors; /* mapping_errors() that its fsync has told, or that came before it was opened; relaxed */
	struct write_run *f_run; /* undo.c; server.files_lock; NULL: none yet */
	struct gfs2_stream f_stream;
};

/*
 * Receive buffer.  Layout of mem: one page whose last REQ_HEADROOM bytes take the request header, so that a WRITE's payload
 * begins on a page; then the payload area.  The first page also holds the reply of the fast path.
 */
#define RX_PAGE 4096u
#define RX_HEADROOM (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define RX_MAX_WRITE (1u << 20)
#define RX_MEM_SIZE (RX_PAGE + RX_MAX_WRITE + 2 * RX_PAGE)
/* Payloads up to this length use the registered part; the rest of a buffer is memory only while it is used. */
#define RX_REGISTERED_PAYLOAD (64u << 10)

struct pool;
struct work {
	struct list_head list;
	struct pool *pool;		/* pool_try_submit() */
	void (*fn)(struct work *w);
	bool independent;		/* waits for no other request: pool.c */
	bool patient;			/* nobody waits for it, and there may be any number of them: pool.c */
};

struct rx;
struct rx_buf {
	struct io_handler read_h;	/* completion of the read from /dev/fuse */
	struct io_handler reply_h;	/* completion of the reply */
	struct rx *rx;
	struct server *s;
	struct list_head list;		/* rx->free, under rx->lock; a reader's: readers.list */
	char *mem;
	int index;			/* registered buffer, -1: extra one */
	uint32_t size;			/* bytes of the request */
	bool unregistered;		/* registering was tried and failed */
	bool large;			/* memory behind the registered payload was used */
	/* A reader's (readers.c) */
	bool reader;			/* it has the buffer: the ring that knows it is not its own */
	bool replied;			/* the fast path has */
	atomic_bool in_read;		/* relaxed: says only who needs a signal */
	pthread_t thread;
	struct gfs2_dio dio;		/* fast path */
	struct work work;		/* handed over as it is */
};

static inline char *rx_request(struct rx_buf *b)
{
	return b->mem + RX_PAGE - RX_HEADROOM;
}

static inline const struct fuse_in_header *rx_header(const struct rx_buf *b)
{
	return (const struct fuse_in_header *)(const void *)(b->mem + RX_PAGE - RX_HEADROOM);
}

static inline char *rx_payload(struct rx_buf *b)
{
	return b->mem + RX_PAGE;
}

/*
 * Does a WRITE come past the kernel's page cache?  Its O_DIRECT does not tell: the kernel reads the flag when it makes the request,
 * and fcntl(F_SETFL) may have set it after it had decided to go through pages; and what a short direct write has left
 * goes through pages with the flag set.  Only the way past the cache names a lock owner (fuse_send_write).
 * The others own their pages until they are answered: asking for these to be dropped before would wait for ever.
 */
static inline bool write_past_cache(uint32_t write_flags)
{
	return write_flags & FUSE_WRITE_LOCKOWNER;
}

/* The same of a READ (fuse_send_read). */
static inline bool read_past_cache(uint32_t read_flags)
{
	return read_flags & FUSE_READ_LOCKOWNER;
}

/* --- server.c --- */
/* Mount on the directory; INIT is answered when this returns. -errno, with a message. */
int server_mount(struct gfs2_sbd *sdp, const struct server_config *cfg, struct server **out);
/* Serve until unmounted or told to stop by a signal. */
int server_run(struct server *s);
/* Unmount if still mounted, free. */
void server_destroy(struct server *s);

struct server {
	struct gfs2_sbd *sdp;
	struct fuse_session *se;
	int fd;
	struct pool *pool;
	struct readers *readers;
	unsigned nr_rx;
	struct rx **rx;
	char *mountpoint;
	dev_t dev;		/* st_dev of the mount, 0: not known */
	pid_t warden;		/* warden.h; 0: none */
	void (*ending)(void *arg);	/* as configured */
	void *ending_arg;
	int wake_fd;		/* eventfd: a receive thread ended */
	atomic_int unread;	/* relaxed: why requests cannot be read any more (-errno), the first reason; 0: they can */
	atomic_bool no_memory;	/* relaxed: that reading a request has failed for want of memory has been said */
	bool detached;		/* the mount point is free already */
	bool covered;		/* something else is mounted over ours, which no path leads to then */
	pthread_mutex_t files_lock; /* leaf */
	struct list_head files;	/* open ones: the kernel need not close them before a forced end */
	atomic_bool stopping;	/* release by server_run, acquire by the receive threads */
	unsigned kernel_minor;	/* of the protocol, 7.x */
	uint32_t init_flags;	/* FUSE_* that were agreed on beside libfuse's: proto.c */
	struct file_locks *locks; /* NULL: the kernel keeps its own (alone) */
	double timeout;		/* entries and attributes, seconds */
};

extern const struct fuse_lowlevel_ops gfs2_fuse_ops;

/* --- proto.c: what libfuse does not know of the protocol --- */
/* Answers INIT. */
int proto_answer_init(struct server *s, const struct fuse_buf *fb);
/* Before libfuse decodes a request: notes its flags in the thread's context; may move fb->mem. */
void proto_request(struct server *s, struct fuse_buf *fb);
/* Another open file of the connection, blocking; -1 with errno. */
int proto_clone(struct server *s);

/* --- rw.c: at the end, when nobody handles requests any more --- */
void server_close_files(struct server *s);

/* --- loop.c --- */
int rx_create(struct server *s, struct rx **out);
int rx_start(struct rx *rx);
void rx_stop_wait(struct rx *rx);	/* after server.stopping was set */
void rx_destroy(struct rx *rx);
/* Any thread: the buffer is not needed any more. */
void rx_buf_release(struct rx_buf *b);
/* For a reader, or NULL. */
struct rx_buf *rx_buf_reader(struct server *s);
/* A reader goes on with the buffer: give back the memory of a large request if others have much, too. */
void rx_buf_trim(struct rx_buf *b);
/* Its owner: @payload bytes of the payload area have been or will be written to. */
void rx_buf_used(struct rx_buf *b, size_t payload);
/* Who reads has changed (readers.h): have a look. */
void rx_mode_changed(struct server *s);
/* Threads that may block: handle a request and answer it. */
void request_run(struct server *s, void *mem, uint32_t size);
/* May it wait, since nobody waits for it? (work.patient) */
bool request_is_patient(const struct rx_buf *b);
/* Does it hardly ever wait, and go through about_to_wait() when it does? */
bool request_is_brief(const struct rx_buf *b);
/* A copy of a short request goes to a worker; false without memory for it. */
bool request_submit_copy(struct server *s, const struct rx_buf *b);
/* Fast path: answer from the ring; the buffer is released when the reply is out (a reader keeps it). */
void rx_reply(struct rx_buf *b, int error, const void *data_in_place, size_t len);

/* --- fast.c: true if the request was taken --- */
bool fast_request(struct rx_buf *b, struct io_ring *ring);

/* --- pool.c --- */
int pool_create(struct pool **out);
/* Run @w on a worker; never blocks, never refuses: the pool grows when nobody is idle. */
void pool_submit(struct pool *p, struct work *w);
/* The same, if a thread is idle or can be made; false: nothing has happened.  Takes no longer than making a thread does. */
bool pool_try_submit(struct pool *p, struct work *w);
/*
 * Patient work that the caller has in hand and would do itself: false if it is not its turn, so that it has to be submitted.  When
 * it is done the caller goes its own way, and the next one is submitted.
 */
bool pool_patient_begin(struct pool *p);
void pool_patient_end(struct pool *p);
void pool_drain_destroy(struct pool *p);
/* The calling worker's own ring and its aligned scratch buffer (RX_MEM_SIZE). */
struct io_ring *pool_ring(struct gfs2_sbd *sdp);
char *pool_buffer(void);
/* After a request whose handler may have used it: many threads would be many buffers. */
void pool_buffer_done(void);
/* Is the calling thread the rescuer, which must do nothing that may wait for other requests? */
bool pool_rescues(void);

#endif
