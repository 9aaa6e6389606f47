/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How readline gets keys, so that Ctrl-C is never waited for behind a read.
 *
 * Ctrl-C throws away what was typed before it.  So a terminal that had something to read a moment ago may have nothing, and who reads
 * then waits for the next key, with the interrupt in his hands: readline's own function would try again.  Here the terminal answers at once (VMIN 0),
 * and what is waited for is a key or an interrupt, which comes as the key that the terminal would have sent, bound to nothing.
 */
#include "glockctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include <readline/readline.h>

#define KEY_INTERRUPT 3		/* Ctrl-C */

static int get_key(FILE *in)
{
	struct pollfd p[2] = { { .fd = fileno(in), .events = POLLIN }, { .fd = interrupt_fd(), .events = POLLIN } };
	unsigned char key;
	ssize_t n;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return EOF;
		if (interrupted())
			return KEY_INTERRUPT;
		n = read(p[0].fd, &key, 1);
		if (n == 1)
			return key;
		/* Nothing: thrown away, or there will never be anything again. */
		if ((!n && p[0].revents & (POLLHUP | POLLERR)) || (n < 0 && errno != EINTR && errno != EAGAIN))
			return EOF;
	}
}

static int no_key(int count, int key)
{
	return 0;
}

static void prepare(int meta)
{
	struct termios t;

	rl_prep_terminal(meta);
	if (tcgetattr(STDIN_FILENO, &t))
		return;
	t.c_cc[VMIN] = 0;
	t.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
}

void terminal_keys(void)
{
	rl_getc_function = get_key;
	rl_prep_term_function = prepare;
	rl_bind_key(KEY_INTERRUPT, no_key);
}
