/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the protocol has and Debian 12's libfuse (3.14) does not: features agreed on in INIT, and
 * the fields of requests that come with them.
 *
 *  - FUSE_HANDLE_KILLPRIV_V2: the daemon takes suid, sgid and capabilities away from files that are
 *    written; requests say whether the caller has the right to keep them.  (Without it the kernel
 *    asks for security.capability before each write.)
 *  - FUSE_SETXATTR_EXT: requests say whether setting an ACL costs the setgid bit.
 *
 * libfuse goes on decoding requests and answering INIT; around it the flags are put in and taken out.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "fuse/server.h"
#include "util/ctx.h"
#include "util/util.h"

/* What libfuse wrote as its answer to INIT, with our flags, to the kernel. */
static int send_init(struct server *s, int pipe_fd, int fuse_fd, uint32_t offered)
{
	struct {
		struct fuse_out_header out;
		struct fuse_init_out init;
	} reply;
	ssize_t n = read(pipe_fd, &reply, sizeof(reply));

	if (n < (ssize_t)sizeof(reply.out))
		return -EIO;
	if (!reply.out.error && n == sizeof(reply)) {
		s->init_flags = offered & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT);
		reply.init.flags |= s->init_flags;
	}
	if (write(fuse_fd, &reply, (size_t)n) != n)
		return -errno;
	/* The kernel refuses every request from now on, and sends none. */
	return reply.out.error;
}

/*
 * libfuse writes its answer to the session's descriptor; so that is a pipe for that moment.  No
 * other thread uses the descriptor yet.
 */
int proto_answer_init(struct server *s, const struct fuse_buf *fb)
{
	const struct fuse_in_header *in = fb->mem;
	const struct fuse_init_in *init = (const void *)(in + 1);
	bool known = fb->size >= sizeof(*in) + 16 && in->opcode == FUSE_INIT;
	int fds[2], saved, error;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	saved = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
	if (saved < 0 || dup3(fds[1], s->fd, O_CLOEXEC) < 0) {
		error = -errno;
		goto out;
	}
	fuse_session_process_buf(s->se, fb);
	error = send_init(s, fds[0], saved, known ? init->flags : 0);
	if (dup3(saved, s->fd, O_CLOEXEC) < 0 && !error)
		error = -errno;
out:
	close(fds[0]);
	close(fds[1]);
	if (saved >= 0)
		close(saved);
	return error;
}

/* The extended header of SETXATTR, back to the short one that libfuse reads. */
static void shorten_setxattr(struct fuse_buf *fb)
{
	const size_t extra = sizeof(struct fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
	struct fuse_in_header *in = fb->mem;

	memmove((char *)fb->mem + extra, fb->mem, sizeof(*in) + FUSE_COMPAT_SETXATTR_IN_SIZE);
	fb->mem = (char *)fb->mem + extra;
	fb->size -= extra;
	in = fb->mem;
	in->len -= (uint32_t)extra;
}

void proto_request(struct server *s, struct fuse_buf *fb)
{
	const struct fuse_in_header *in = fb->mem;
	const void *arg = in + 1;
	size_t len = fb->size - sizeof(*in);
	uint32_t *flags = &current_ctx()->flags;

	switch (in->opcode) {
	case FUSE_READ:
		if (len >= sizeof(struct fuse_read_in))
			*flags = ((const struct fuse_read_in *)arg)->read_flags;
		break;
	case FUSE_WRITE:
		if (len >= sizeof(struct fuse_write_in))
			*flags = ((const struct fuse_write_in *)arg)->write_flags;
		break;
	case FUSE_SETATTR:
		if (len >= sizeof(struct fuse_setattr_in))
			*flags = ((const struct fuse_setattr_in *)arg)->valid;
		break;
	case FUSE_SETXATTR:
		if (!(s->init_flags & FUSE_SETXATTR_EXT) || len < sizeof(struct fuse_setxattr_in))
			break;
		*flags = ((const struct fuse_setxattr_in *)arg)->setxattr_flags;
		shorten_setxattr(fb);
		break;
	}
}

int proto_clone(struct server *s)
{
	uint32_t session = (uint32_t)s->fd;
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0 || !ioctl(fd, FUSE_DEV_IOC_CLONE, &session))
		return fd;
	close(fd);
	return -1;
}
