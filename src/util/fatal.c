/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that dies by a signal says so first: nobody sees the standard error of a daemon, where the C library puts its last words,
 * and a memory image is often not kept.
 *
 * Only what a signal handler may call is called here: it may have interrupted malloc, or syslog(3), which locks and allocates.  So
 * the message goes to syslog's socket by hand (as all others do, see util.c).  Then everything is as without a handler: the fault comes
 * again by itself, abort() goes on, and what another process has sent is sent again.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <syslog.h>
#include <ucontext.h>
#include <unistd.h>
#include "util/util.h"

static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS };

extern const char __executable_start[], etext[];

struct text {
	char at[256];
	size_t len;
};

static void put(struct text *t, const char *s)
{
	while (*s && t->len < sizeof(t->at) - 1)
		t->at[t->len++] = *s++;
}

static void put_number(struct text *t, uint64_t n, unsigned base)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;

	digits[at] = 0;
	do
		digits[--at] = "0123456789abcdef"[n % base];
	while (n /= base);
	put(t, digits + at);
}

static const char *name_of(int sig)
{
	switch (sig) {
	case SIGSEGV: return "SIGSEGV";
	case SIGBUS: return "SIGBUS";
	case SIGILL: return "SIGILL";
	case SIGFPE: return "SIGFPE";
	case SIGABRT: return "SIGABRT";
	case SIGTRAP: return "SIGTRAP";
	default: return "SIGSYS";
	}
}

static uintptr_t program_counter(const void *context)
{
#if defined(__x86_64__)
	return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
	return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.pc;
#else
	(void)context;
	return 0;
#endif
}

static void describe(struct text *t, int sig, const siginfo_t *info, const void *context)
{
	const uintptr_t pc = program_counter(context), start = (uintptr_t)__executable_start;
	char name[17] = "";

	prctl(PR_GET_NAME, name);
	put(t, "killed by ");
	put(t, name_of(sig));
	put(t, " in thread ");
	put_number(t, (uint64_t)syscall(SYS_gettid), 10);
	put(t, " (");
	put(t, name);
	put(t, ")");
	if (info->si_code <= 0 && info->si_pid != getpid()) {
		put(t, ", sent by process ");
		put_number(t, (uint64_t)info->si_pid, 10);
		return;
	}
	/* For addr2line -e gfs2-fuse; what is in a library has its address in the memory image only. */
	if (pc >= start && pc < (uintptr_t)etext) {
		put(t, " at offset 0x");
		put_number(t, pc - start, 16);
	}
	if (info->si_code > 0 && (sig == SIGSEGV || sig == SIGBUS)) {
		put(t, ", address 0x");
		put_number(t, (uintptr_t)info->si_addr, 16);
	}
}

bool msg_to_syslog(const char *path, int priority, const char *words, size_t len, int wait_ms)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct text head = { .len = 0 };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool took = fd >= 0;

	strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
	put(&head, "<");
	put_number(&head, (uint64_t)(LOG_DAEMON | priority), 10);
	put(&head, ">gfs2-fuse[");
	put_number(&head, (uint64_t)getpid(), 10);
	put(&head, "]: ");
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		struct iovec iov[2] = { { head.at, head.len }, { (char *)words, len } };

		took = msg_send(fd, iov, 2, wait_ms) >= 0 || errno != EAGAIN;
	}
	if (fd >= 0)
		close(fd);
	return took;
}

ssize_t msg_send(int fd, struct iovec *iov, unsigned nr, int wait_ms)
{
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = nr };
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };

	for (;;) {
		ssize_t n = sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0 || (errno != EAGAIN && errno != EINTR))
			return n;
		if (errno == EAGAIN && poll(&pfd, 1, wait_ms) <= 0) {
			errno = EAGAIN;
			return -1;
		}
	}
}

static void hit(int sig, siginfo_t *info, void *context)
{
	struct text t = { .len = 0 };
	int saved_errno = errno;

	describe(&t, sig, info, context);
	/* Who does not listen does not hold up the end. */
	if (msg_is_to_syslog())
		msg_to_syslog("/dev/log", LOG_CRIT, t.at, t.len, 0);
	put(&t, "\n");
	if (write(STDERR_FILENO, "gfs2-fuse: ", 11) == 11)
		errno = write(STDERR_FILENO, t.at, t.len) < 0 ? errno : saved_errno;
	/* SA_RESETHAND has put the default action back.  abort() raises it once more anyway, and a fault comes again. */
	if (info->si_code <= 0)
		syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig);
	errno = saved_errno;
}

void msg_say_fatal_signals(void)
{
	struct sigaction sa = { .sa_sigaction = hit, .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND | SA_NODEFER) }, now;

	/* Others than the default are a sanitizer's, which says more, or a test's. */
	for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
		if (!sigaction(fatal[i], NULL, &now) && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL)
			sigaction(fatal[i], &sa, NULL);
}

void block_all_but_faults(sigset_t *old)
{
	sigset_t set;

	sigfillset(&set);
	for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
		sigdelset(&set, fatal[i]);
	pthread_sigmask(SIG_BLOCK, &set, old);
}
