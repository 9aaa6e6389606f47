/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ctrl-C, SIGTERM and a terminal that is gone (SIGHUP) as something that can be waited for: the handler makes a descriptor readable.
 */
#include "glockctl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int fd = -1;
static volatile sig_atomic_t ended;

static void on_signal(int sig)
{
	int saved = errno;

	if (sig != SIGINT)
		ended = 1;
	/* It could only fail by being readable already, and errno is put back. */
	(void)!eventfd_write(fd, 1);
	errno = saved;
}

/* The descriptor is all the state there is: what is looked at and what is waited for cannot differ. */
bool interrupted(void)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return fd >= 0 && poll(&p, 1, 0) == 1;
}

bool interrupt_ended(void)
{
	return ended;
}

void interrupt_clear(void)
{
	eventfd_t n;

	if (fd >= 0 && eventfd_read(fd, &n) && errno != EAGAIN)
		die(EXIT_REFUSED, "eventfd: %s", strerror(errno));
}

void interrupt_catch(void)
{
	struct sigaction sa = { .sa_handler = on_signal };

	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		die(EXIT_REFUSED, "eventfd: %s", strerror(errno));
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

int interrupt_fd(void)
{
	return fd;
}
