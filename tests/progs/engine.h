/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Three ways to write with O_DIRECT, behind one interface: synchronous, libaio, io_uring.
 *
 * An engine belongs to one thread. submit() hands a write over; reap() waits for one completion and
 * returns its tag and result (bytes or negative errno). At most ENGINE_DEPTH writes may be outstanding.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <err.h>
#include <errno.h>
#include <libaio.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENGINE_DEPTH 64

enum engine_kind { ENGINE_SYNC, ENGINE_LIBAIO, ENGINE_URING };

struct engine {
	enum engine_kind kind;
	unsigned int outstanding;
	io_context_t aio;
	struct iocb iocbs[ENGINE_DEPTH];
	struct io_uring ring;
	/* What a synchronous write returned, until it is reaped. */
	long results[ENGINE_DEPTH];
	unsigned int tags[ENGINE_DEPTH];
};

static inline void engine_start(struct engine *e, const char *name)
{
	int rc;

	memset(e, 0, sizeof(*e));
	if (!strcmp(name, "sync")) {
		e->kind = ENGINE_SYNC;
	} else if (!strcmp(name, "libaio")) {
		e->kind = ENGINE_LIBAIO;
		rc = io_setup(ENGINE_DEPTH, &e->aio);
		if (rc)
			errx(1, "io_setup: %s", strerror(-rc));
	} else if (!strcmp(name, "io_uring")) {
		e->kind = ENGINE_URING;
		rc = io_uring_queue_init(ENGINE_DEPTH, &e->ring, 0);
		if (rc)
			errx(1, "io_uring_queue_init: %s", strerror(-rc));
	} else {
		errx(2, "unknown way to write: %s (sync, libaio or io_uring)", name);
	}
}

static inline void engine_stop(struct engine *e)
{
	if (e->kind == ENGINE_LIBAIO)
		io_destroy(e->aio);
	else if (e->kind == ENGINE_URING)
		io_uring_queue_exit(&e->ring);
}

/* @tag: below ENGINE_DEPTH and not in use. */
static inline void engine_submit(struct engine *e, int fd, const void *data, size_t len, off_t off,
				 unsigned int tag)
{
	if (e->kind == ENGINE_SYNC) {
		ssize_t rc = pwrite(fd, data, len, off);

		e->results[e->outstanding] = rc < 0 ? -errno : rc;
		e->tags[e->outstanding] = tag;
	} else if (e->kind == ENGINE_LIBAIO) {
		struct iocb *one = &e->iocbs[tag];

		io_prep_pwrite(one, fd, (void *)data, len, off);
		one->data = (void *)(uintptr_t)tag;
		int rc = io_submit(e->aio, 1, &one);

		if (rc != 1)
			errx(1, "io_submit: %s", strerror(-rc));
	} else {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&e->ring);

		io_uring_prep_write(sqe, fd, data, len, off);
		io_uring_sqe_set_data64(sqe, tag);
		int rc = io_uring_submit(&e->ring);

		if (rc != 1)
			errx(1, "io_uring_submit: %s", strerror(-rc));
	}
	e->outstanding++;
}

static inline long engine_reap(struct engine *e, unsigned int *tag)
{
	long result;

	e->outstanding--;
	if (e->kind == ENGINE_SYNC) {
		*tag = e->tags[e->outstanding];
		return e->results[e->outstanding];
	}
	if (e->kind == ENGINE_LIBAIO) {
		struct io_event event;
		int rc;

		do
			rc = io_getevents(e->aio, 1, 1, &event, NULL);
		while (rc == -EINTR);
		if (rc != 1)
			errx(1, "io_getevents: %s", strerror(-rc));
		*tag = (unsigned int)(uintptr_t)event.data;
		return (long)event.res;
	}
	struct io_uring_cqe *cqe;
	int rc;

	do
		rc = io_uring_wait_cqe(&e->ring, &cqe);
	while (rc == -EINTR);
	if (rc)
		errx(1, "io_uring_wait_cqe: %s", strerror(-rc));
	*tag = (unsigned int)io_uring_cqe_get_data64(cqe);
	result = cqe->res;
	io_uring_cqe_seen(&e->ring, cqe);
	return result;
}

#endif
