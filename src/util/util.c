/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages, clocks, assertions.
 *
 * A message is formatted into one buffer and leaves in one write, so that lines of different
 * threads do not mix.  Nothing here takes a lock that a caller could hold: msg() may be called from
 * anywhere, also under ranked mutexes and glocks.  So a receiver that does not read, syslog's or the journal's, is not waited for (syslog(3) would):
 * he may be about to write his own file, on this mount, which waits for the caller.
 */
#include "util/util.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>
#include "util/wait.h"

#define MSG_MAX 1024
#define PATIENCE_MS 200
#define LIMIT_NS 5000000000u
#define LIMIT_NR 10

/* Set before threads exist (mount), read by all; the level may be changed at run time (relaxed: a hint). */
static char msg_prefix[128] = "gfs2-fuse: ";
static atomic_int msg_max_level = MSG_INFO;
static atomic_bool msg_no_limits; /* relaxed: set before threads exist */
static const char *msg_syslog_path; /* before msg_syslog is */
static atomic_bool msg_syslog;
/* What nobody has taken since somebody last did; nothing is waited for then. relaxed: counters */
static atomic_uint lost_syslog, lost_stderr;

void msg_set_prefix(const char *fsname)
{
	if (fsname && *fsname)
		snprintf(msg_prefix, sizeof(msg_prefix), "gfs2-fuse: fsid=%s: ", fsname);
	else
		snprintf(msg_prefix, sizeof(msg_prefix), "gfs2-fuse: ");
}

void msg_set_level(enum msg_level max)
{
	atomic_store_explicit(&msg_max_level, max, memory_order_relaxed);
}

void msg_use_syslog(const char *path)
{
	msg_syslog_path = path ? path : "/dev/log";
	atomic_store_explicit(&msg_syslog, true, memory_order_release);
}

bool msg_is_to_syslog(void)
{
	return atomic_load_explicit(&msg_syslog, memory_order_acquire);
}

static int patience(atomic_uint *lost)
{
	return atomic_load_explicit(lost, memory_order_relaxed) ? 0 : PATIENCE_MS;
}

static bool write_syslog(int priority, const char *text)
{
	/* It has a name and lines of its own. */
	text += strlen("gfs2-fuse: ");
	return msg_to_syslog(msg_syslog_path, priority, text, strlen(text) - 1, patience(&lost_syslog));
}

/* A socket is the journal's, or another reader's like it; a terminal, a pipe or a file is somebody's who looks on, and is waited for. */
static bool write_stderr(int priority, const char *text)
{
	size_t len = strlen(text);

	(void)priority;
	while (len) {
		struct iovec iov = { (char *)text, len };
		ssize_t n = msg_send(STDERR_FILENO, &iov, 1, patience(&lost_stderr));

		if (n < 0 && errno == ENOTSOCK)
			n = write(STDERR_FILENO, text, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 || errno != EAGAIN;
		text += n;
		len -= n;
	}
	return true;
}

static void deliver(bool (*write_to)(int priority, const char *text), atomic_uint *lost, int priority, const char *text)
{
	char note[sizeof(msg_prefix) + 80];
	unsigned n;

	if (!write_to(priority, text)) {
		atomic_fetch_add_explicit(lost, 1, memory_order_relaxed);
		return;
	}
	n = atomic_exchange_explicit(lost, 0, memory_order_relaxed);
	if (!n)
		return;
	snprintf(note, sizeof(note), "%s%u messages before the last one were lost: nobody took them\n", msg_prefix, n);
	write_to(LOG_WARNING, note);
}

static _Thread_local bool msg_hushed;

void msg_hush(bool hush)
{
	msg_hushed = hush;
}

void msg(enum msg_level level, const char *fmt, ...)
{
	static const int prio[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	int saved_errno = errno;
	char text[MSG_MAX];
	size_t prefix;
	va_list ap;
	int n;

	if (msg_hushed)
		level = MSG_DEBUG;
	if ((int)level > atomic_load_explicit(&msg_max_level, memory_order_relaxed))
		return;

	prefix = strlen(msg_prefix);
	memcpy(text, msg_prefix, prefix);
	va_start(ap, fmt);
	n = vsnprintf(text + prefix, sizeof(text) - prefix - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;
	n = min_t(size_t, prefix + n, sizeof(text) - 2);
	/* Callers may or may not end their text with a newline; the line has exactly one. */
	while (n && text[n - 1] == '\n')
		n--;

	text[n++] = '\n';
	text[n] = 0;
	about_to_wait();
	if (msg_is_to_syslog())
		deliver(write_syslog, &lost_syslog, prio[level], text);
	deliver(write_stderr, &lost_stderr, prio[level], text);
	errno = saved_errno;
}

void msg_without_limits(void)
{
	atomic_store_explicit(&msg_no_limits, true, memory_order_relaxed);
}

bool msg_limit(struct msg_limit *l)
{
	uint64_t now = now_ns(), since = atomic_load_explicit(&l->since, memory_order_relaxed);
	unsigned nr;

	if (atomic_load_explicit(&msg_no_limits, memory_order_relaxed))
		return true;
	/* relaxed: whoever loses a race here counts for the other window */
	if ((!since || now - since >= LIMIT_NS) &&
	    atomic_compare_exchange_strong_explicit(&l->since, &since, now, memory_order_relaxed, memory_order_relaxed))
		atomic_store_explicit(&l->nr, 0, memory_order_relaxed);
	nr = atomic_fetch_add_explicit(&l->nr, 1, memory_order_relaxed);
	if (nr == LIMIT_NR)
		fs_warn("more messages like the last ones are left out for some seconds");
	return nr < LIMIT_NR;
}

_Noreturn void gfs2_bug(const char *expr, const char *file, int line, const char *func)
{
	fs_err("BUG: %s at %s:%d in %s()", expr, file, line, func);
	abort();
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

bool command_of(pid_t pid, char *buf, size_t size)
{
	char path[32];
	bool found;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	f = pid > 0 ? fopen(path, "re") : NULL;
	found = f && fgets(buf, (int)size, f);
	if (f)
		fclose(f);
	if (!found)
		buf[0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	for (; *buf; buf++)
		if ((unsigned char)*buf < ' ' || *buf == 0x7f)
			*buf = '?';
	return found;
}

struct timespec current_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return ts;
}
