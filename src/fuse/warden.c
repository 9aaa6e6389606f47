/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The warden: warden.h.
 */
#include "fuse/warden.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/util.h"

#define CONNECTIONS "/sys/fs/fuse/connections"
#define GRACE_US 300000

/* Device number of what is mounted on @dir, without asking the one who has mounted it; 0: nothing of ours. */
static unsigned mounted_device(const char *dir)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, where[4096], kind[64];
	unsigned minor, found = 0;
	size_t size = 0;

	/* The last one is the uppermost.  Names with octal escapes are not found; then there is no warden. */
	while (mounts && getline(&line, &size, mounts) > 0) {
		const char *rest = strstr(line, " - ");

		if (rest && sscanf(line, "%*u %*u 0:%u %*s %4095s", &minor, where) == 2 &&
		    sscanf(rest, " - %63s", kind) == 1 && !strcmp(where, dir))
			found = !strncmp(kind, "fuse", 4) ? minor : 0;
	}
	free(line);
	if (mounts)
		fclose(mounts);
	return found;
}

static sigset_t block_usr1(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return set;
}

pid_t warden_start(const char *dir)
{
	char number[16], parent[16], *real = realpath(dir, NULL);
	unsigned device = real ? mounted_device(real) : 0;
	pid_t pid = 0;

	snprintf(number, sizeof(number), "%u", device);
	snprintf(parent, sizeof(parent), "%d", getpid());
	if (device)
		pid = fork();
	if (device && !pid) {
		/* What ends the daemon by way of its terminal must not end this one. */
		setsid();
		block_usr1();
		prctl(PR_SET_PDEATHSIG, SIGUSR1);
		execl("/proc/self/exe", "gfs2-fuse", WARDEN_WORD, number, parent, (char *)NULL);
		_exit(127);
	}
	free(real);
	if (pid <= 0)
		fs_warn("no warden for %s: should the daemon be killed, its end may have to be forced with umount -f", dir);
	return pid > 0 ? pid : 0;
}

void warden_dismiss(pid_t pid)
{
	if (!pid)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static bool abort_connection(const char *number)
{
	char path[64];
	int fd;
	bool done;

	snprintf(path, sizeof(path), CONNECTIONS "/%s/abort", number);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	done = fd >= 0 && write(fd, "1", 1) == 1;
	if (fd >= 0)
		close(fd);
	return done;
}

int warden_main(char **argv)
{
	const char *number = argv[2];
	const pid_t daemon = atoi(argv[3]);
	bool private = false;
	sigset_t set;
	int sig;

	prctl(PR_SET_NAME, "gfs2-warden");
	close_range(3, ~0U, 0);
	if (chdir("/"))
		return 1;
	set = block_usr1();
	/* exec(2) keeps the wish, but a death before it was made is not told any more. */
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	if (getppid() == daemon)
		while (sigwait(&set, &sig))
			;
	/*
	 * As long as a thread of it is left, it is our parent.  Usually none is, a moment later.  One that still is keeps the connection open, so the
	 * number is not yet another mount's.
	 */
	usleep(GRACE_US);
	while (getppid() == daemon) {
		if (!abort_connection(number) && !private) {
			/* Not mounted here?  Then in a place that nobody else sees. */
			private = true;
			if (!unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
			    !mount("fusectl", CONNECTIONS, "fusectl", 0, NULL))
				continue;
		}
		usleep(GRACE_US);
	}
	return 0;
}
