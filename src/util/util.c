/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages, clocks, assertions.
 *
 * A message is formatted into one buffer and leaves in one write, so that lines of different
 * threads do not mix.  Nothing here takes a lock that a caller could hold: msg() may be called from
 * anywhere, also under ranked mutexes.
 */
#include "util/util.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <syslog.h>
#include <unistd.h>
#include "util/wait.h"

#define MSG_MAX 1024

/* Set before threads exist (mount), read by all; the level may be changed at run time (relaxed: a hint). */
static char msg_prefix[128] = "gfs2-fuse: ";
static atomic_int msg_max_level = MSG_INFO;
static atomic_bool msg_syslog;

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

void msg_use_syslog(void)
{
	openlog("gfs2-fuse", LOG_PID, LOG_DAEMON);
	atomic_store_explicit(&msg_syslog, true, memory_order_release);
}

bool msg_is_to_syslog(void)
{
	return atomic_load_explicit(&msg_syslog, memory_order_acquire);
}

static void msg_write(const char *text, size_t len)
{
	about_to_wait();
	while (len) {
		ssize_t n = write(STDERR_FILENO, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		len -= n;
	}
}

void msg(enum msg_level level, const char *fmt, ...)
{
	static const int prio[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	int saved_errno = errno;
	char text[MSG_MAX];
	size_t prefix;
	va_list ap;
	int n;

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

	if (msg_is_to_syslog()) {
		text[n] = 0;
		syslog(prio[level], "%s", text + strlen("gfs2-fuse: "));
	}
	text[n++] = '\n';
	msg_write(text, n);
	errno = saved_errno;
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
