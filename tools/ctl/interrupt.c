/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ctrl-C as something that can be waited for: the handler makes a descriptor readable.
 */
#include "glockctl.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static volatile sig_atomic_t taken;
static int fd = -1;

static void on_signal(int sig)
{
	int saved = errno;

	taken = 1;
	/* It can only fail by being readable already. */
	if (eventfd_write(fd, 1))
		taken = 1;
	errno = saved;
}

bool interrupted(void)
{
	return taken;
}

void interrupt_clear(void)
{
	eventfd_t n;

	/* In this order: a signal in between leaves both set, or none. */
	if (fd >= 0 && eventfd_read(fd, &n) && errno != EAGAIN)
		die(EXIT_REFUSED, "eventfd: %s", strerror(errno));
	taken = 0;
}

void interrupt_catch(void)
{
	struct sigaction sa = { .sa_handler = on_signal };

	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		die(EXIT_REFUSED, "eventfd: %s", strerror(errno));
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

int interrupt_fd(void)
{
	return fd;
}
