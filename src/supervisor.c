/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The supervisor (see supervisor.h).  It runs the daemon's own program afresh, so that it shares neither memory nor open files
 * with it: but for the read end of a pipe whose write end only the daemon has.
 */
#include "supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/super.h"
#include "util/util.h"

/* A killed daemon's I/O ends by itself; if the volume is locked for longer, a new daemon has it, and has done our work. */
#define IO_PATIENCE_NS (60ull * 1000000000)

int supervisor_start(struct supervisor *sv, const char *device, const char *dir, const char *table)
{
	int fds[2], error;
	char fd[16];
	pid_t pid;

	sv->word = -1;
	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	snprintf(fd, sizeof(fd), "%d", fds[0]);
	pid = fork();
	if (pid < 0) {
		error = -errno;
		close(fds[0]);
		close(fds[1]);
		return error;
	}
	if (!pid) {
		/* What ends the daemon by way of its terminal must not end the one who cleans up. */
		setsid();
		fcntl(fds[0], F_SETFD, 0);
		execl("/proc/self/exe", "gfs2-fuse", SUPERVISE_WORD, fd, device, dir, table, (char *)NULL);
		_exit(127);
	}
	close(fds[0]);
	sv->word = fds[1];
	return 0;
}

void supervisor_dismiss(struct supervisor *sv)
{
	if (sv->word < 0)
		return;
	if (write(sv->word, "q", 1) != 1)
		fs_warn("the supervisor is gone");
	close(sv->word);
	sv->word = -1;
}

/* The kernel's side of a mount whose daemon is dead answers ENOTCONN. */
static void unmount_dead(const char *dir)
{
	struct stat st;

	if (stat(dir, &st) && errno == ENOTCONN && umount2(dir, MNT_DETACH))
		fs_err("cannot unmount %s: %s", dir, strerror(errno));
}

static int lock_when_idle(struct io_engine *e)
{
	uint64_t deadline = now_ns() + IO_PATIENCE_NS;

	while (flock(io_engine_fd(e), LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			return -errno;
		if (now_ns() >= deadline)
			return -EBUSY;
		usleep(10000);
	}
	return 0;
}

static int clean_up(const char *device, const char *table)
{
	struct io_engine *e;
	int error = io_engine_open(device, false, &e);

	if (error)
		return error;
	error = lock_when_idle(e);
	if (!error)
		error = gfs2_recover_dead(e, table);
	io_engine_close(e);
	return error;
}

int supervisor_main(char **argv)
{
	const char *device = argv[3], *dir = argv[4], *table = argv[5];
	int fd = atoi(argv[2]), null, error;
	char word;
	ssize_t n;

	prctl(PR_SET_NAME, "gfs2-supervisor");
	/* Whoever reads the output of the mount command waits for its end. */
	null = open("/dev/null", O_RDWR);
	for (int i = 0; null >= 0 && i < 3; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	do {
		n = read(fd, &word, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		return 0;
	msg_set_prefix(table);
	msg_use_syslog(NULL);
	msg_say_fatal_signals();
	msg_set_level(MSG_INFO);
	fs_err("the daemon of %s has died: cleaning up", dir);
	error = clean_up(device, table);
	if (error)
		fs_err("%s: not cleaned up: %s", device, strerror(-error));
	unmount_dead(dir);
	return error ? 1 : 0;
}
