/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finding or starting the broker of lock_local.
 *
 * One broker for each lock table and volume; its socket's name is made of both.  Starting and ending one happens under the flock of a
 * file next to the socket, so that there is never more than one, and nobody connects to one that is about to end.  The one that ends
 * removes both files; who waited for the lock of a removed file sees that and begins again.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "debug/control_i.h"
#include "lock/local_proto.h"
#include "util/util.h"

const char *lb_broker_program;

void lb_name(uint8_t name[LB_NAME], unsigned type, uint64_t number)
{
	char text[LB_NAME + 1];

	snprintf(text, sizeof(text), "%8x%16llx", type, (unsigned long long)number);
	memcpy(name, text, LB_NAME);
}

int lb_lock_name(const char *socket, char *out, unsigned size)
{
	return (unsigned)snprintf(out, size, "%s.lock", socket) < size ? 0 : -ENAMETOOLONG;
}

int lb_start_lock(const char *socket, bool wait)
{
	char path[160];
	int error = lb_lock_name(socket, path, sizeof(path));

	if (error)
		return error;
	for (;;) {
		struct stat ours, there;
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		if (fd < 0)
			return -errno;
		while (flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB)))
			if (errno != EINTR) {
				error = -errno;
				close(fd);
				return error;
			}
		if (!fstat(fd, &ours) && !stat(path, &there) && ours.st_ino == there.st_ino &&
		    ours.st_dev == there.st_dev)
			return fd;
		close(fd); /* a broker ended meanwhile and took the file along */
	}
}

/* Its lock is held. */
static void remove_start_lock(const char *socket)
{
	char path[160];

	if (!lb_lock_name(socket, path, sizeof(path)))
		unlink(path);
}

static int socket_name(int fd, const char *table, char *path, unsigned size)
{
	unsigned long long dev, ino;
	char dir[80];
	struct stat st;
	int error;

	if (fstat(fd, &st))
		return -errno;
	/* A block device is the same whatever its node is called. */
	dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	ino = S_ISBLK(st.st_mode) ? 0 : st.st_ino;
	error = ctl_dir(dir, sizeof(dir));
	if (error)
		return error;
	if ((unsigned)snprintf(path, size, "%s/%08x-%llx-%llx.broker", dir,
			       gfs2_crc32(0, table, strlen(table)), dev, ino) >= size)
		return -ENAMETOOLONG;
	return 0;
}

static int try_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		if (errno != EINTR) {
			error = -errno;
			close(fd);
			return error;
		}
	return fd;
}

/* In the child of a process with threads: only what is safe there. */
static _Noreturn void become_broker(int ready, const char *path)
{
	char *const argv[] = { (char *)"gfs2-fuse", (char *)"--lock-broker", (char *)(uintptr_t)path, NULL };
	int null;

	/* The grandchild is nobody's child, so nobody has to wait for it. */
	if (fork())
		_exit(0);
	setsid();
	null = open("/dev/null", O_RDWR);
	if (ready == LB_READY_FD) {
		fcntl(ready, F_SETFD, 0);
	} else if (dup2(ready, LB_READY_FD) < 0) {
		_exit(1);
	}
	/* It outlives us: whoever reads our output must not wait for it. */
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
	}
	execv(lb_broker_program, argv);
	_exit(1);
}

static int start_broker(const char *path)
{
	int fds[2], status;
	char ok = 0;
	pid_t pid;

	if (!lb_broker_program)
		return -ENOENT;
	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid < 0) {
		int error = -errno;

		close(fds[0]);
		close(fds[1]);
		return error;
	}
	if (!pid)
		become_broker(fds[1], path);
	close(fds[1]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	while (read(fds[0], &ok, 1) < 0 && errno == EINTR)
		;
	close(fds[0]);
	return ok ? 0 : -EIO;
}

int lb_connect(int vol_fd, const char *table, char *path, unsigned size)
{
	int error = socket_name(vol_fd, table, path, size), lock, fd;

	if (error)
		return error;
	lock = lb_start_lock(path, true);
	if (lock < 0) {
		fs_err("lock_local: cannot lock %s.lock: %s", path, strerror(-lock));
		return lock;
	}
	fd = try_connect(path);
	if (fd == -ECONNREFUSED || fd == -ENOENT) {
		unlink(path); /* of one that was killed */
		error = start_broker(path);
		fd = error ? error : try_connect(path);
		if (fd < 0)
			fs_err("lock_local: cannot start the lock broker: %s", strerror(-fd));
	} else if (fd < 0) {
		fs_err("lock_local: cannot connect to the lock broker %s: %s", path, strerror(-fd));
	}
	/* Where there is no broker nothing is left behind; who waits for the lock makes a new file. */
	if (fd < 0)
		remove_start_lock(path);
	close(lock);
	return fd;
}
