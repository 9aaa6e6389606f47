/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Something that is meant to end a process, tried in a child; and a process that ends in the middle of its work.
 */
#ifndef GFS2FUSE_TESTS_CHILD_H
#define GFS2FUSE_TESTS_CHILD_H

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/util.h"

/*
 * The end of a process whose threads are at work, as if it were killed, but with a status.  Nobody looks at what it leaves behind: for ThreadSanitizer,
 * in _exit(), a glock worker that has ended is a leak until the next one joins it, and the status another one.
 */
static inline void __attribute__((noreturn)) end_now(int status)
{
	for (;;)
		syscall(SYS_exit_group, status);
}

/*
 * @fn(@arg) in a child, in which no signal is caught and which leaves no core; 0 is its exit status if @fn returns.  What it says on the standard error
 * output is in @text.  Returns what waitpid() tells.
 */
static inline int end_of_child(void (*fn)(void *arg), void *arg, char *text, size_t size)
{
	size_t len = 0;
	ssize_t n;
	int p[2], status;
	pid_t pid;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		const int sigs[] = { SIGSEGV, SIGBUS, SIGABRT };
		struct rlimit no_core = { 0, 0 };

		setrlimit(RLIMIT_CORE, &no_core);
		for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
			signal(sigs[i], SIG_DFL);
		dup2(p[1], STDERR_FILENO);
		fn(arg);
		_exit(0);
	}
	close(p[1]);
	while ((n = read(p[0], text + len, size - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = 0;
	close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

#endif
