/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The REPL: commands one after another on one connection, so that breakpoints live; hits are shown as they happen, also while a line is edited.
 *
 * Line editing, history and the terminal are readline's.  It is driven by callbacks, because two things are waited for: the terminal and the
 * daemon.  Ctrl-C drops the line, or ends what is running (trace, wait).  Where commands come from a pipe or a file the same two are waited for, so that a
 * program that drives the session is told hits, and the daemon's end, at once.
 */
#include "repl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <readline/history.h>
#include <readline/readline.h>

#define PROMPT "glockctl> "
#define HISTORY_LINES 1000

static struct {
	struct session s;
	bool tty;
	char history[PATH_MAX];
} rp;

static void on_line(char *line)
{
	if (!line) {
		rp.s.end = true;
		putchar('\n');
		return;
	}
	if (*line) {
		add_history(line);
		/* Output goes where the line was; the prompt comes back afterwards. */
		rl_callback_handler_remove();
		session_run(&rp.s, line);
		if (!rp.s.end)
			rl_callback_handler_install(PROMPT, on_line);
	}
	free(line);
}

/* readline is not to be called in a signal handler: the loop hears of it. */
static int resize_fd = -1;

static void on_resize(int sig)
{
	int saved = errno;

	(void)!eventfd_write(resize_fd, 1);
	errno = saved;
}

static void take_resize(void)
{
	eventfd_t n;

	if (!eventfd_read(resize_fd, &n))
		rl_resize_terminal();
}

/* The daemon says something while a line is edited: above the line, which stays as it is. */
static bool take_notices(void)
{
	bool shown = false;

	do {
		char *line = conn_line(rp.s.c);

		if (!line)
			return false;
		if (!shown && rp.tty) {
			rl_clear_visible_line();
			shown = true;
		}
		print_notice(stdout, line, false);
	} while (conn_has_line(rp.s.c));
	fflush(stdout);
	if (shown) {
		rl_on_new_line();
		rl_redisplay();
	}
	return true;
}

static void drop_line(void)
{
	interrupt_clear();
	rl_free_line_state();
	rl_callback_sigcleanup();
	rl_replace_line("", 0);
	puts("^C");
	rl_on_new_line();
	rl_redisplay();
}

static void open_history(void)
{
	const char *home = getenv("HOME");

	using_history();
	stifle_history(HISTORY_LINES);
	if (home && (size_t)snprintf(rp.history, sizeof(rp.history), "%s/.glockctl_history", home) < sizeof(rp.history))
		read_history(rp.history);
	else
		rp.history[0] = 0;
}

static void save_history(void)
{
	mode_t mask = umask(077);

	if (rp.history[0] && write_history(rp.history) && errno != ENOENT)
		complain("%s: %s", rp.history, strerror(errno));
	umask(mask);
}

static void interactive(void)
{
	struct sigaction resize = { .sa_handler = on_resize, .sa_flags = SA_RESTART };
	struct pollfd p[4] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = rp.s.c->fd, .events = POLLIN } };

	completion_init(rp.s.c);
	rl_catch_signals = 0;
	interrupt_catch();
	terminal_keys();
	p[2] = (struct pollfd){ .fd = interrupt_fd(), .events = POLLIN };
	resize_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (resize_fd < 0)
		die(EXIT_REFUSED, "eventfd: %s", strerror(errno));
	p[3] = (struct pollfd){ .fd = resize_fd, .events = POLLIN };
	sigaction(SIGWINCH, &resize, NULL);
	open_history();
	if (!rp.s.json)
		printf("glockctl " GFS2_FUSE_VERSION " on %s; `help` lists the commands\n", rp.s.c->mountpoint);
	rl_callback_handler_install(PROMPT, on_line);
	while (!rp.s.end) {
		int n = poll(p, 4, conn_has_line(rp.s.c) ? 0 : -1);

		if (interrupt_ended())
			break;
		if (interrupted()) {
			drop_line();
			continue;
		}
		if (n < 0)
			continue;
		if ((p[1].revents || conn_has_line(rp.s.c)) && !take_notices()) {
			rl_callback_handler_remove();
			complain("the daemon has closed the connection");
			rp.s.status = EXIT_REFUSED;
			break;
		}
		if (p[3].revents)
			take_resize();
		if (p[0].revents)
			rl_callback_read_char();
	}
	rl_callback_handler_remove();
	save_history();
}

/* What a script has said and was not run yet. */
struct input {
	char *text;
	size_t len, room;
	bool ended;
};

/* Run its first line; false: there is no whole one. */
static bool run_first_line(struct input *in)
{
	char *nl = in->len ? memchr(in->text, '\n', in->len) : NULL;
	size_t used;

	/* The last line needs no end. */
	if (!nl && !(in->ended && in->len))
		return false;
	used = nl ? (size_t)(nl + 1 - in->text) : in->len;
	in->text[nl ? used - 1 : used] = 0;
	session_run(&rp.s, in->text);
	in->len -= used;
	memmove(in->text, in->text + used, in->len);
	return true;
}

static void read_input(struct input *in)
{
	ssize_t n;

	/* With a byte to spare, for the end of the last line. */
	if (in->room - in->len < 2)
		in->text = must(realloc(in->text, in->room = 2 * in->room + 4096));
	n = read(STDIN_FILENO, in->text + in->len, in->room - in->len - 1);
	if (n > 0)
		in->len += (size_t)n;
	else if (!n || errno != EINTR)
		in->ended = true;
}

/* From a pipe or a file: no prompt, nothing to edit; the first failure ends it. */
static void script(void)
{
	struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = rp.s.c->fd, .events = POLLIN } };
	struct input in = { 0 };

	while (!rp.s.end && !rp.s.status) {
		if (run_first_line(&in))
			continue;
		if (in.ended)
			break;
		if (poll(p, 2, conn_has_line(rp.s.c) ? 0 : -1) < 0)
			continue;
		if ((p[1].revents || conn_has_line(rp.s.c)) && !take_notices()) {
			complain("the daemon has closed the connection");
			rp.s.status = EXIT_REFUSED;
		} else if (p[0].revents) {
			read_input(&in);
		}
	}
	free(in.text);
}

int repl(struct conn *c, bool json)
{
	char *notified;

	rp.s = (struct session){ .c = c, .json = json };
	rp.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	if (json)
		hits_as_json();
	notified = ask(c, false, "notify", "on", NULL);
	if (!notified)
		return EXIT_REFUSED;
	free(notified);
	if (rp.tty)
		interactive();
	else
		script();
	return rp.s.status;
}
