/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket's server: who may connect, lines in, lines out (see control.h; protocol:
 * include/gfs2-fuse/control.h).
 *
 * Guarantees
 *  1. Only the daemon's user and root get in: the socket's mode and directory (control_socket.c),
 *     and SO_PEERCRED.
 *  2. A client that is slow, silent or dead occupies its own thread and nothing else.  Answers are
 *     collected in memory while locks are held and sent afterwards.  Who does not read for
 *     CTL_STALL_MS is disconnected.
 *  3. Whatever a client sends is answered; a line that is too long ends the connection.
 *  4. gfs2_control_stop() ends every thread: all waits include the stop eventfd.
 *  5. When all places are taken, somebody who only asks who has them, or ends one of those, still gets in.
 *
 * States of a connection: greeting -> (line -> command -> answer)* -> closed.  Its struct is freed
 * by the listener, or by gfs2_control_stop(), after joining its thread.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "debug/control_i.h"
#include "gfs2-fuse/control.h"
#include "util/util.h"

#define CONTROL_MAX_CLIENTS 32
/* Places for who comes when all are taken, to see who has them and to end one: few commands, and not for long. */
#define CONTROL_SPARE_CLIENTS 4
#define CTL_SPARE_MS 3000
#define CTL_STALL_MS 60000
#define CTL_MAX_ARGS 64

/* --- sending --- */

int ctl_rest(struct ctl_conn *conn, uint64_t ns)
{
	/* Not POLLIN of the client: it may have sent its next request already. */
	struct pollfd p[2] = { { .fd = conn->fd }, { .fd = conn->ctl->stop_fd, .events = POLLIN } };
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	return ppoll(p, 2, &ts, NULL) > 0 && (p[0].revents & (POLLHUP | POLLERR) || p[1].revents) ? CTL_GONE : 0;
}

bool ctl_gone(struct ctl_conn *conn)
{
	return ctl_rest(conn, 0) == CTL_GONE;
}

static int conn_send(struct ctl_conn *conn, const char *buf, size_t len)
{
	struct pollfd p[2] = { { .fd = conn->fd, .events = POLLOUT },
			       { .fd = conn->ctl->stop_fd, .events = POLLIN } };

	while (len) {
		ssize_t n = send(conn->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			buf += n;
			len -= n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || poll(p, 2, CTL_STALL_MS) <= 0 || p[1].revents)
			return CTL_GONE;
	}
	return 0;
}

/* Every line of @text with a blank before it. */
static int send_output(struct ctl_conn *conn, const char *text, size_t len)
{
	const char *end = text + len, *nl;
	size_t lines = 1;
	char *buf, *to;
	int error;

	if (!len)
		return 0;
	for (nl = text; (nl = memchr(nl, '\n', (size_t)(end - nl))); nl++)
		lines++;
	buf = to = malloc(len + lines + 1);
	if (!buf)
		return CTL_GONE;
	for (; text < end; text = nl + 1) {
		nl = memchr(text, '\n', (size_t)(end - text));
		if (!nl)
			nl = end;
		*to++ = ' ';
		to = mempcpy(to, text, (size_t)(nl - text));
		*to++ = '\n';
	}
	error = conn_send(conn, buf, (size_t)(to - buf));
	free(buf);
	return error;
}

/* The memory behind call->out: kept beside the call so that ctl_flush() can empty it. */
struct call_buf {
	struct ctl_call call;	/* first: ctl_flush() casts */
	char *text;
	size_t len;
};

int ctl_flush(struct ctl_call *call)
{
	struct call_buf *cb = container_of(call, struct call_buf, call);
	int error;

	fflush(call->out);
	error = send_output(call->conn, cb->text, cb->len);
	rewind(call->out);
	return error;
}

int ctl_fail(struct ctl_call *call, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(call->why, sizeof(call->why), fmt, ap);
	va_end(ap);
	return error;
}

/* Length of the UTF-8 sequence at @s, 0 if it is none. */
static unsigned utf8_len(const unsigned char *s)
{
	unsigned n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 :
		     s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0, i;

	for (i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* overlong forms, surrogates, above U+10FFFF */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

void ctl_json_string(FILE *out, const char *str)
{
	const unsigned char *s = (const unsigned char *)str;

	fputc('"', out);
	while (*s) {
		unsigned n = utf8_len(s);

		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (*s < 0x20 || *s == 0x7f)
			fprintf(out, "\\u%04x", *s);
		else if (n)
			fwrite(s, 1, n, out);
		else
			fprintf(out, "\\udc%02x", *s);
		s += n ? n : 1;
	}
	fputc('"', out);
}

/* --- one connection --- */

static int send_greeting(struct ctl_conn *conn)
{
	struct gfs2_control *c = conn->ctl;
	struct gfs2_sbd *sdp = c->sdp;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	int error;

	if (!f)
		return CTL_GONE;
	fprintf(f, "gfs2-fuse-control %d {\"mountpoint\":", GFS2_CTL_VERSION);
	ctl_json_string(f, c->mountpoint);
	fprintf(f, ",\"device\":");
	ctl_json_string(f, c->device);
	fprintf(f, ",\"locktable\":");
	ctl_json_string(f, sdp->sd_locktable);
	fprintf(f, ",\"lockproto\":");
	ctl_json_string(f, sdp->sd_lockproto);
	fprintf(f, ",\"node\":%u,\"pid\":%d,\"version\":\"%s\"}\n", sdp->sd_jid, (int)getpid(),
		GFS2_FUSE_VERSION);
	fclose(f);
	error = conn_send(conn, text, len);
	free(text);
	return error;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 :
	       c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* %41 -> A, in place.  false: not an escape, or %00. */
static bool decode_arg(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == '%') {
			int hi = hex_digit(s[1]), lo = hi < 0 ? -1 : hex_digit(s[2]);

			if (lo < 0 || !(hi | lo))
				return false;
			*to++ = (char)(hi << 4 | lo);
			s += 2;
		} else {
			*to++ = *s;
		}
	}
	*to = 0;
	return true;
}

/* Cut @line into words.  Their number, or -1. */
static int split_line(char *line, char **argv)
{
	char *save = NULL, *w;
	int argc = 0;

	for (w = strtok_r(line, " \t\r", &save); w; w = strtok_r(NULL, " \t\r", &save)) {
		if (argc == CTL_MAX_ARGS || !decode_arg(w))
			return -1;
		argv[argc++] = w;
	}
	argv[argc] = NULL;
	return argc;
}

static int send_status(struct ctl_conn *conn, int status, const char *why)
{
	char line[400];
	char *p;

	if (status == 0)
		snprintf(line, sizeof(line), "ok\n");
	else if (status == CTL_USAGE)
		snprintf(line, sizeof(line), "usage %s\n", why);
	else
		snprintf(line, sizeof(line), "error %s %s\n", strerrorname_np(-status),
			 *why ? why : strerror(-status));
	/* One line, whatever is quoted in it. */
	for (p = line; p[0] && p[1]; p++)
		if ((unsigned char)*p < 0x20)
			*p = '?';
	return conn_send(conn, line, strlen(line));
}

/* Who has the places: "12 of pid 4711 [python3], 20 of pid 88 [sh]", the most first, as far as there is room. */
static void who_is_here(struct gfs2_control *c, char *buf, size_t size)
{
	struct { pid_t pid; unsigned nr; } who[CONTROL_MAX_CLIENTS + CONTROL_SPARE_CLIENTS];
	unsigned nr = 0, i;
	struct ctl_conn *conn;
	size_t len = 0;
	char comm[32];

	rmutex_lock(&c->lock);
	list_for_each_entry(conn, &c->clients, list) {
		if (conn->done || conn->spare)
			continue;
		for (i = 0; i < nr && who[i].pid != conn->peer; i++)
			;
		if (i == nr) {
			if (nr == ARRAY_SIZE(who))
				break;
			who[nr].pid = conn->peer;
			who[nr++].nr = 0;
		}
		who[i].nr++;
	}
	rmutex_unlock(&c->lock);
	buf[0] = 0;
	while (nr && len + 60 < size) {
		unsigned most = 0;

		for (i = 1; i < nr; i++)
			if (who[i].nr > who[most].nr)
				most = i;
		command_of(who[most].pid, comm, sizeof(comm));
		len += (size_t)snprintf(buf + len, size - len, "%s%u of pid %d [%s]", len ? ", " : "", who[most].nr, (int)who[most].pid, comm);
		who[most] = who[--nr];
	}
}

/* On a spare place only what ends at once, and shows or ends others. */
static bool spare_may(const char *command)
{
	static const char *const may[] = { "disconnect", "breaks", "stops", "holds", "help", "get" };

	for (size_t i = 0; i < ARRAY_SIZE(may); i++)
		if (!strcmp(may[i], command))
			return true;
	return false;
}

static int refuse_spare(struct ctl_conn *conn)
{
	char who[150], why[300];

	who_is_here(conn->ctl, who, sizeof(who));
	snprintf(why, sizeof(why), "all %d places for clients are taken, %s: `disconnect PID` ends one", CONTROL_MAX_CLIENTS, who);
	return send_status(conn, -EBUSY, why);
}

static int run_line(struct ctl_conn *conn, char *line)
{
	char *argv[CTL_MAX_ARGS + 1];
	struct call_buf cb = { .call = { .ctl = conn->ctl, .conn = conn, .argv = argv } };
	int status;

	cb.call.argc = split_line(line, argv);
	if (cb.call.argc < 0)
		return send_status(conn, CTL_USAGE, "too many words or a bad percent escape");
	if (!cb.call.argc)
		return send_status(conn, CTL_USAGE, "COMMAND [ARGUMENT]...; see `help`");
	if (conn->spare && !spare_may(argv[0]))
		return refuse_spare(conn);
	cb.call.out = open_memstream(&cb.text, &cb.len);
	if (!cb.call.out)
		return send_status(conn, -ENOMEM, "");
	status = ctl_run(&cb.call);
	if (status != CTL_GONE && ctl_flush(&cb.call))
		status = CTL_GONE;
	fclose(cb.call.out);
	free(cb.text);
	return status == CTL_GONE ? CTL_GONE : send_status(conn, status, cb.call.why);
}

/* Run the complete lines of the input.  0: more is needed. */
static int run_input(struct ctl_conn *conn)
{
	char *nl;
	int error;

	while ((nl = memchr(conn->in, '\n', conn->in_len))) {
		size_t used = nl + 1 - conn->in;

		*nl = 0;
		/* A zero byte inside ends the line early: the rest of it is ignored. */
		error = run_line(conn, conn->in);
		if (error)
			return error;
		conn->in_len -= used;
		memmove(conn->in, conn->in + used, conn->in_len);
	}
	if (conn->in_len < GFS2_CTL_MAX_LINE)
		return 0;
	send_status(conn, -E2BIG, "line too long");
	return CTL_GONE;
}

/* What breakpoints have stopped, untold so far: "* {json}" lines. */
static int tell_hits(struct ctl_conn *conn)
{
	char *text = NULL, *line, *save = NULL;
	size_t len;
	FILE *f;
	int error = 0;
	eventfd_t n;

	if (eventfd_read(conn->hit_fd, &n) && errno != EAGAIN)
		return CTL_GONE;
	f = open_memstream(&text, &len);
	if (!f)
		return CTL_GONE;
	ctl_tell_hits(conn, f);
	fclose(f);
	for (line = strtok_r(text, "\n", &save); line && !error; line = strtok_r(NULL, "\n", &save)) {
		error = conn_send(conn, "* ", 2);
		if (!error)
			error = conn_send(conn, line, strlen(line));
		if (!error)
			error = conn_send(conn, "\n", 1);
	}
	free(text);
	return error;
}

/* How long until there is something to be looked at, ms, -1: nothing; 0 on a spare place: its time is over. */
static int conn_patience(struct ctl_conn *conn)
{
	uint64_t now = now_ns();

	if (!conn->spare)
		return ctl_holds_watch(conn);
	return now < conn->leave_ns ? (int)((conn->leave_ns - now) / 1000000) + 1 : 0;
}

static void *conn_main(void *arg)
{
	struct ctl_conn *conn = arg;
	struct gfs2_control *c = conn->ctl;
	struct pollfd p[3] = { { .fd = conn->fd, .events = POLLIN },
			       { .fd = c->stop_fd, .events = POLLIN },
			       { .fd = -1, .events = POLLIN } };
	int error = send_greeting(conn);

	while (!error) {
		int patience = conn_patience(conn);
		ssize_t n;

		if (!patience)
			break;
		p[2].fd = conn->notify ? conn->hit_fd : -1;
		if (poll(p, 3, patience) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		if (p[2].fd >= 0 && p[2].revents && tell_hits(conn))
			break;
		n = recv(conn->fd, conn->in + conn->in_len, GFS2_CTL_MAX_LINE - conn->in_len,
			 MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			break;
		conn->in_len += n;
		error = run_input(conn);
	}
	ctl_conn_end(conn);
	shutdown(conn->fd, SHUT_RDWR);
	rmutex_lock(&c->lock);
	conn->done = true;
	rmutex_unlock(&c->lock);
	return NULL;
}

/* --- listening --- */

static void conn_free(struct ctl_conn *conn)
{
	close(conn->fd);
	free(conn->in);
	free(conn);
}

/* Join the threads that have ended, or, at the end, all. */
static void reap(struct gfs2_control *c, bool all)
{
	struct ctl_conn *conn, *tmp;
	LIST_HEAD(ended);

	rmutex_lock(&c->lock);
	list_for_each_entry_safe(conn, tmp, &c->clients, list) {
		if (!all && !conn->done)
			continue;
		list_move_tail(&conn->list, &ended);
		if (conn->spare)
			c->nr_spare--;
		else
			c->nr_clients--;
	}
	rmutex_unlock(&c->lock);
	list_for_each_entry_safe(conn, tmp, &ended, list) {
		pthread_join(conn->thread, NULL);
		conn_free(conn);
	}
}

static void refuse(int fd, const char *line)
{
	if (send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		fs_dbg("control socket: a refused client has gone already");
	close(fd);
}

static bool peer_allowed(int fd, pid_t *pid)
{
	struct ucred cred = { .pid = 0 };
	socklen_t len = sizeof(cred);
	bool allowed = !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) &&
		       (cred.uid == 0 || cred.uid == geteuid());

	*pid = cred.pid;
	return allowed;
}

static void accept_one(struct gfs2_control *c)
{
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ctl_conn *conn;
	unsigned nr, spare;
	pid_t peer;
	char *in;

	if (fd < 0) {
		struct pollfd p = { .fd = c->stop_fd, .events = POLLIN };

		/*
		 * Out of descriptors, most likely: the connection stays queued, try again a little
		 * later.
		 */
		poll(&p, 1, 100);
		return;
	}
	reap(c, false);
	if (!peer_allowed(fd, &peer)) {
		refuse(fd, "error EPERM only the daemon's user and root may connect\n");
		return;
	}
	rmutex_lock(&c->lock);
	nr = c->nr_clients;
	spare = c->nr_spare;
	rmutex_unlock(&c->lock);
	if (nr >= CONTROL_MAX_CLIENTS && spare >= CONTROL_SPARE_CLIENTS) {
		char who[150], line[300];

		who_is_here(c, who, sizeof(who));
		snprintf(line, sizeof(line), "error EBUSY all %d places for clients are taken, %s\n", CONTROL_MAX_CLIENTS, who);
		refuse(fd, line);
		return;
	}
	conn = calloc(1, sizeof(*conn));
	in = malloc(GFS2_CTL_MAX_LINE);
	if (!conn || !in) {
		free(conn);
		free(in);
		refuse(fd, "error ENOMEM no memory for another client\n");
		return;
	}
	conn->ctl = c;
	conn->fd = fd;
	conn->peer = peer;
	conn->in = in;
	conn->spare = nr >= CONTROL_MAX_CLIENTS;
	conn->leave_ns = now_ns() + CTL_SPARE_MS * 1000000ull;
	conn->hit_fd = -1;
	conn->timeout_ns = STOP_TIMEOUT_NS;
	list_init(&conn->holds);
	list_init(&conn->undo);
	/* On the list before it runs, under the lock, so that whoever sees it can join it. */
	rmutex_lock(&c->lock);
	if (pthread_create(&conn->thread, NULL, conn_main, conn)) {
		rmutex_unlock(&c->lock);
		conn_free(conn);
		return;
	}
	list_add_tail(&conn->list, &c->clients);
	if (conn->spare)
		c->nr_spare++;
	else
		c->nr_clients++;
	rmutex_unlock(&c->lock);
}

static void *listen_main(void *arg)
{
	struct gfs2_control *c = arg;
	struct pollfd p[3] = { { .fd = c->listen_fd, .events = POLLIN },
			       { .fd = c->stop_fd, .events = POLLIN },
			       { .fd = stop_timer_fd(), .events = POLLIN } };

	for (;;) {
		if (poll(p, 3, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		if (p[2].revents)
			stop_expire();
		if (p[0].revents)
			accept_one(c);
	}
	return NULL;
}

/* --- start and stop --- */

static void control_free(struct gfs2_control *c)
{
	unsigned i;

	ctl_socket_remove(c);
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->stop_fd >= 0)
		close(c->stop_fd);
	for (i = 0; i < c->nr_faults; i++)
		free(c->faults[i]);
	stop_exit();
	pthread_mutex_destroy(&c->set_lock);
	rmutex_destroy(&c->lock);
	free(c->mountpoint);
	free(c->device);
	free(c->path);
	free(c);
}

#define CTL_PATH_MAX sizeof(((struct sockaddr_un *)0)->sun_path)

/* Listen on @given, or under the first default name that no other mount has; c->path and @path: the last one tried. */
static int listen_somewhere(struct gfs2_control *c, const char *given, char *path)
{
	int error = given && strlen(given) >= CTL_PATH_MAX ? -ENAMETOOLONG : -EADDRINUSE;

	for (unsigned attempt = 0; attempt < (given ? 1 : 3) && error == -EADDRINUSE; attempt++) {
		error = 0;
		if (given)
			snprintf(path, CTL_PATH_MAX, "%s", given);
		else
			error = ctl_socket_path(c->mountpoint, attempt, path, CTL_PATH_MAX);
		if (error)
			break;
		if (!given && !attempt)
			ctl_socket_sweep(path);
		free(c->path);
		c->path = strdup(path);
		error = c->path ? ctl_socket_make(c) : -ENOMEM;
		if (error && c->listen_fd >= 0) {
			close(c->listen_fd);
			c->listen_fd = -1;
		}
	}
	return error;
}

int gfs2_control_start(struct gfs2_sbd *sdp, const char *mountpoint, const char *device,
		       const char *path_or_null, struct gfs2_control **out)
{
	char path[CTL_PATH_MAX] = "";
	struct gfs2_control *c;
	int error = 0;

	*out = NULL;
	error = stop_init();
	if (error) {
		fs_err("control socket: no timer: %s", strerror(-error));
		return error;
	}
	c = xzalloc(sizeof(*c));
	c->sdp = sdp;
	c->mountpoint = strdup(mountpoint);
	c->device = strdup(device);
	c->listen_fd = -1;
	list_init(&c->clients);
	pthread_mutex_init(&c->set_lock, NULL);
	rmutex_init(&c->lock, RANK_CONTROL);
	c->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (!c->mountpoint || !c->device)
		error = -ENOMEM;
	else if (c->stop_fd < 0)
		error = -errno;
	if (!error)
		error = listen_somewhere(c, path_or_null, path);
	if (!error)
		error = -pthread_create(&c->listener, NULL, listen_main, c);
	if (error) {
		fs_err("control socket %s: %s", path_or_null ? path_or_null : *path ? path : mountpoint, strerror(-error));
		control_free(c);
		return error;
	}
	*out = c;
	return 0;
}

void gfs2_control_let_go(struct gfs2_control *c)
{
	stop_shutdown();
	ctl_holds_drop(c);
}

void gfs2_control_stop(struct gfs2_control *c)
{
	if (!c)
		return;
	GFS2_BUG_ON(eventfd_write(c->stop_fd, 1));
	/* What is held may be what somebody waits for. */
	gfs2_control_let_go(c);
	pthread_join(c->listener, NULL);
	reap(c, true);
	control_free(c);
}

const char *gfs2_control_path(const struct gfs2_control *c)
{
	return c->path;
}
