/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Volumes for unit tests: made by mkfs.gfs2 in a directory of the test's own, checked by fsck.gfs2.
 *
 * vol_main() runs the tests in a child and removes the directory (in /var/tmp, or where vol_main_in() is told) when the child has
 * ended, however it did.  Without the tools the test says so and is skipped (exit status 77).
 */
#ifndef GFS2FUSE_TESTS_VOL_H
#define GFS2FUSE_TESTS_VOL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "debug/event.h"
#include "fs/super.h"
#include "util/seeded.h"
#include "util/util.h"

/* Under the thread sanitizer everything takes ten times as long; less of it will do there. */
#if defined(__SANITIZE_THREAD__)
#define SCALE(n) ((n) / 8)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SCALE(n) ((n) / 8)
#endif
#endif
#ifndef SCALE
#define SCALE(n) (n)
#endif

static char vol_dir[88];
static char vol_path[128];

/* Exit status of a shell command, output thrown away unless it fails. */
__attribute__((unused)) static int vol_sh(const char *fmt, ...)
{
	char cmd[1024], full[1400];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	snprintf(full, sizeof(full), "{ %s; } >%s/out 2>&1 </dev/null", cmd, vol_dir);
	status = system(full);
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
	if (status) {
		fprintf(stderr, "%s: exit %d\n", cmd, status);
		snprintf(full, sizeof(full), "cat %s/out >&2", vol_dir);
		if (system(full))
			fprintf(stderr, "(no output)\n");
	}
	return status;
}

/* A fresh volume in vol_path; @extra: more options for mkfs.gfs2. */
__attribute__((unused)) static void vol_make(unsigned bsize, unsigned mib, unsigned journals,
					     const char *extra)
{
	snprintf(vol_path, sizeof(vol_path), "%s/volume", vol_dir);
	assert_int_equal(vol_sh("rm -f %s && truncate -s %uM %s && "
				"mkfs.gfs2 -O -q -p lock_nolock -b %u -j %u -J 8 %s %s",
				vol_path, mib, vol_path, bsize, journals, extra, vol_path), 0);
}

__attribute__((unused)) static void vol_fsck(void)
{
	assert_int_equal(vol_sh("fsck.gfs2 -n %s", vol_path), 0);
}

/* Bytes of the volume as they are on the store now. */
__attribute__((unused)) static void vol_read(void *buf, size_t len, uint64_t pos)
{
	int fd = open(vol_path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, (off_t)pos), len);
	close(fd);
}

__attribute__((unused)) static void vol_write(const void *buf, size_t len, uint64_t pos)
{
	int fd = open(vol_path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, buf, len, (off_t)pos), len);
	close(fd);
}

/* How often @what is said, on stderr, while @fn is at work. */
__attribute__((unused)) static unsigned vol_times_said(void (*fn)(void), const char *what)
{
	int fd = open(vol_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), saved = dup(STDERR_FILENO);
	unsigned n = 0;
	char *text;
	off_t len;

	assert_true(fd >= 0 && saved >= 0);
	dup2(fd, STDERR_FILENO);
	fn();
	dup2(saved, STDERR_FILENO);
	close(saved);
	len = lseek(fd, 0, SEEK_END);
	assert_true(len >= 0);
	text = calloc(1, (size_t)len + 1);
	assert_int_equal(pread(fd, text, (size_t)len, 0), len);
	close(fd);
	for (const char *p = text; (p = strstr(p, what)); p++)
		n++;
	free(text);
	return n;
}

__attribute__((unused)) static struct io_engine *vol_open(bool ro)
{
	struct io_engine *e;

	assert_int_equal(io_engine_open(vol_path, ro, &e), 0);
	return e;
}

__attribute__((unused)) static const struct gfs2_args vol_args = {
	.ar_dio_mtime_interval = 1, .ar_cache = 64 << 20, .ar_commit = 30,
};

static int vol_missing(void)
{
	if (vol_sh("command -v mkfs.gfs2 && command -v fsck.gfs2") == 0)
		return 0;
	fprintf(stderr, "SKIP: mkfs.gfs2 and fsck.gfs2 (package gfs2-utils) are needed\n");
	return 77;
}

static pid_t vol_child;

/* Asked to end: the child ends, the parent tidies up. */
static void vol_stop(int sig)
{
	kill(vol_child, SIGKILL);
}

static int vol_main_in(const char *directory, int (*tests)(void))
{
	const struct sigaction stop = { .sa_handler = vol_stop, .sa_flags = SA_RESTART };
	char cmd[128];
	int status;

	snprintf(vol_dir, sizeof(vol_dir), "%s/gfs2-unit-XXXXXX", directory);
	if (!mkdtemp(vol_dir)) {
		perror(vol_dir);
		return 1;
	}
	status = vol_missing();
	if (!status) {
		vol_child = fork();
		if (!vol_child) {
			gfs2_event_init(10);
#ifdef GFS2_SEEDED_BUGS
			gfs2_seeded_select(getenv("GFS2_SEEDED_BUG"));
#endif
			status = tests();
			gfs2_event_exit();
			exit(status);
		}
		sigaction(SIGTERM, &stop, NULL);
		sigaction(SIGINT, &stop, NULL);
		if (waitpid(vol_child, &status, 0) != vol_child)
			status = 1;
		else
			status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	snprintf(cmd, sizeof(cmd), "rm -rf %s", vol_dir);
	if (system(cmd))
		fprintf(stderr, "%s could not be removed\n", vol_dir);
	return status;
}

__attribute__((unused)) static int vol_main(int (*tests)(void))
{
	return vol_main_in("/var/tmp", tests);
}

#endif
