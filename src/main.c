/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gfs2-fuse: the daemon's life from the command line to the clean journal.
 *
 *   options -> lock the volume -> mount it (journal recovery) -> control socket -> mount the FUSE
 *   file system -> tell the parent that all is well -> serve -> unmount the volume -> release the lock
 *
 * Exit codes are mount(8)'s: 1 usage, 2 system error, 8 interrupted, 32 mount failure.  In the background the parent returns
 * only when the mount is usable or has failed; if it is interrupted or killed before, there will be no mount.
 */
#include <fcntl.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "claim.h"
#include "debug/control.h"
#include "debug/event.h"
#include "fuse/server.h"
#include "fuse/warden.h"
#include "lock/local_proto.h"
#include "options.h"
#include "remount.h"
#include "supervisor.h"
#include "util/seeded.h"
#include "util/util.h"

#define DESCRIPTORS 128
#define MOUNT_PATIENCE_SECS 5	/* for memory */
#define STACK_BYTES (8u << 20)	/* Linux's usual limit */
#define STACK_LEAST (512u << 10)	/* as a worker's: fuse/pool.c */

enum { EX_OK_ = 0, EX_USAGE_ = 1, EX_SYSERR_ = 2, EX_USER_ = 8, EX_FAIL_ = 32 };

#define EVENT_RING_ORDER 13

/* --- --wait --- */

static int wait_for_volume(const struct options *o)
{
	uint64_t deadline = now_ns() + (uint64_t)o->wait_seconds * 1000000000;
	int fd = open(o->device, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		fprintf(stderr, "gfs2-fuse: %s: %s\n", o->device, strerror(errno));
		return EX_SYSERR_;
	}
	if (o->wait_forever) {
		while (flock(fd, LOCK_EX) && errno == EINTR)
			;
	} else {
		/* flock has no time limit; the lock is looked at often enough for a person or a script */
		while (flock(fd, LOCK_EX | LOCK_NB)) {
			if (now_ns() >= deadline) {
				close(fd);
				return 1;
			}
			usleep(10000);
		}
	}
	close(fd);
	return 0;
}

/* --- background --- */

static void stop_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

static volatile pid_t background_pid;
static volatile sig_atomic_t interrupted;

static void hand_on(int sig)
{
	interrupted = 1;
	kill(background_pid, SIGTERM);
}

/* Ctrl-C is for both of us: the child, which is in a session of its own, gives up, too. */
static void hand_signals_on(pid_t pid)
{
	static const int sigs[] = { SIGTERM, SIGINT, SIGHUP };
	struct sigaction sa = { .sa_handler = hand_on }, old;
	sigset_t set;

	background_pid = pid;
	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		if (!sigaction(sigs[i], NULL, &old) && old.sa_handler != SIG_IGN)
			sigaction(sigs[i], &sa, NULL);
	stop_signals(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static _Noreturn void wait_in_foreground(int fd, pid_t pid)
{
	unsigned char code;
	siginfo_t died = { 0 };
	ssize_t n;

	hand_signals_on(pid);
	while ((n = read(fd, &code, 1)) < 0 && errno == EINTR)
		;
	if (n == 1 && !interrupted)
		_exit(code);
	/* It died without a word, or is about to.  Not buried: as long as we hand signals on the number must be its own. */
	while (waitid(P_PID, (id_t)pid, &died, WEXITED | WNOWAIT) < 0 && errno == EINTR)
		;
	if (interrupted) {
		fprintf(stderr, "gfs2-fuse: interrupted: nothing is mounted\n");
		_exit(EX_USER_);
	}
	_exit(died.si_code == CLD_EXITED && died.si_status ? died.si_status : EX_FAIL_);
}

/* Parent: wait for the child's word and exit with it.  Child: returns the descriptor to report on. */
static int go_to_background(void)
{
	sigset_t set;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	/* None of them gets lost before the parent handles them; the child reads them later. */
	stop_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid) {
		close(fds[1]);
		wait_in_foreground(fds[0], pid);
	}
	close(fds[0]);
	setsid();
	return fds[1];
}

static bool told_to_stop(void)
{
	sigset_t set;

	return !sigpending(&set) &&
	       (sigismember(&set, SIGTERM) || sigismember(&set, SIGINT) || sigismember(&set, SIGHUP));
}

/* To whoever started us as a service of type "notify" (sd_notify(3)). */
static void notify_service_manager(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path ? strlen(path) : 0;
	int fd;

	if (!len || len >= sizeof(addr.sun_path) || !strchr("/@", path[0]))
		return;
	memcpy(addr.sun_path, path, len);
	if (path[0] == '@')
		addr.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&addr,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) != 7)
		fs_warn("the service manager cannot be told that the mount is usable: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* The mount is usable.  -EINTR if nobody wants it any more. */
static int report_ready(int fd)
{
	unsigned char code = EX_OK_;
	int null, error = 0;

	if (told_to_stop())
		return -EINTR;
	if (fd < 0) {
		notify_service_manager();
		return 0;
	}
	if (write(fd, &code, 1) != 1) {
		fs_warn("who wanted the mount has been killed: unmounting");
		error = -EINTR;
	}
	close(fd);
	if (error)
		return error;
	msg_use_syslog(NULL);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		close(null);
	}
	return 0;
}

/* --- one mount --- */

/*
 * A daemon that was killed is gone before its io_uring has let the volume go (the kernel takes rings apart in the
 * background), and one that was unmounted may still be writing: who mounts again at once should not be refused.
 */
#define LOCK_PATIENCE_NS (2ull * 1000000000)

/* Will the volume be used by other daemons of this machine, too?  What is no volume at all is found out later. */
static bool volume_is_shared(struct io_engine *e, const char *lockproto)
{
	const off_t at = GFS2_SB_ADDR * (off_t)GFS2_BASIC_BLOCK;
	struct gfs2_sb *sb;
	bool shared = false;

	if (lockproto)
		return !strcmp(lockproto, lm_local.lm_proto_name);
	sb = aligned_alloc(4096, 4096);
	if (sb && pread(io_engine_fd(e), sb, 4096, at) == 4096)
		shared = !strncmp(sb->sb_lockproto, lm_local.lm_proto_name, sizeof(sb->sb_lockproto));
	free(sb);
	return shared;
}

static int lock_volume(struct io_engine *e, const char *device, int how)
{
	uint64_t deadline = now_ns() + LOCK_PATIENCE_NS;

	while (flock(io_engine_fd(e), how | LOCK_NB)) {
		int error = -errno;

		if (error != -EWOULDBLOCK || now_ns() >= deadline) {
			fs_err("%s is in use by another gfs2-fuse (or fsck): %s", device,
			       strerror(-error));
			return error;
		}
		usleep(10000);
	}
	return 0;
}

/*
 * A read-only mount replays a dirty journal first, as the kernel's does, if the volume can be written at all; after that
 * the engine refuses writes.
 */
static int open_volume(const struct options *o, struct io_engine **e)
{
	int error = io_engine_open(o->device, false, e);

	if (o->args.ar_ro && (error == -EROFS || error == -EACCES || error == -EPERM))
		error = io_engine_open(o->device, true, e);
	return error;
}

static void let_go(void *control)
{
	gfs2_control_let_go(control);
}

static int serve(struct gfs2_sbd *sdp, const struct options *o, int report_fd)
{
	struct server_config cfg = {
		.mountpoint = o->dir, .fsname = o->device, .rx_threads = o->rx_threads,
		.subtype = o->subtype, .ro = o->args.ar_ro, .fuse_opts = o->fuse_opts,
		.debug = o->debug, .ending = let_go,
	};
	struct gfs2_control *control = NULL;
	struct server *s = NULL;
	int error;

	/* First the socket, so that who sees the mount finds it. */
	error = gfs2_control_start(sdp, o->dir, o->device, o->control, &control);
	if (error)
		return error;
	cfg.ending_arg = control;
	error = server_mount(sdp, &cfg, &s);
	if (!error)
		error = report_ready(report_fd);
	if (!error) {
		memory_wait_for(0);
		fs_info("%s mounted on %s%s", o->device, o->dir, sdp->sd_ro ? " read-only" : "");
		server_run(s);
	}
	gfs2_control_stop(control);
	server_destroy(s);
	return error;
}

/* For a member of a cluster.  The superblock is looked at without a lock, only to know whether this will be one. */
static int start_supervisor(struct supervisor *sv, const struct options *o, struct io_engine *e)
{
	const char *proto = o->args.ar_lockproto, *table = o->args.ar_locktable;
	struct gfs2_sbd *sdp = xzalloc(sizeof(*sdp));
	int error = 0;

	sv->word = -1;
	/* What is wrong with it the mount will say. */
	if ((!proto || !table) && io_engine_size(e) && !gfs2_peek_lock_names(e, sdp)) {
		proto = proto ? proto : sdp->sd_lockproto;
		table = table ? table : sdp->sd_locktable;
	}
	if (proto && table && !strcmp(proto, lm_dlm.lm_proto_name)) {
		error = supervisor_start(sv, o->device, o->dir, table);
		if (error)
			fs_err("cannot start the supervisor: %s", strerror(-error));
	}
	free(sdp);
	return error;
}

/*
 * An image can be larger than the files that we may write (ulimit -f). Better no mount than one whose writes fail one day.
 */
static int check_size_limit(const struct options *o, struct io_engine *e)
{
	struct rlimit most;
	struct stat st;

	if (o->args.ar_ro || getrlimit(RLIMIT_FSIZE, &most) || most.rlim_cur == RLIM_INFINITY || fstat(io_engine_fd(e), &st) ||
	    !S_ISREG(st.st_mode) || io_engine_size(e) <= most.rlim_cur)
		return 0;
	fs_err("%s is larger than the limit on the size of files (ulimit -f) allows to be written", o->device);
	return -EFBIG;
}

/*
 * A thread that finds no descriptor for its ring would fail requests later. 46 are in use at the busiest, and 32 clients of the control
 * socket are possible.
 */
static int check_descriptors(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur >= DESCRIPTORS)
		return 0;
	fs_err("%d descriptors are needed, and the limit (ulimit -n) is %llu", DESCRIPTORS, (unsigned long long)files.rlim_cur);
	return -EMFILE;
}

static int run(const struct options *o, int report_fd)
{
	struct claim claim = CLAIM_NONE;
	struct supervisor sv = { .word = -1 };
	struct io_engine *e;
	bool shared;
	struct gfs2_sbd *sdp;
	int error, unmounted;

	error = check_descriptors();
	if (error)
		return error;
	error = open_volume(o, &e);
	if (error) {
		fs_err("%s: %s", o->device,
		       error == -ENOTBLK ? "neither a block device nor a regular file"
		       : error == -EROFS || ((error == -EACCES || error == -EPERM) && !access(o->device, R_OK))
			       ? "write-protected (mount it with -o ro)"
			       : strerror(-error));
		return error;
	}
	/*
	 * Exclusive while mounting, unless others may use it by lock_local: nobody else on this machine uses the volume now.  Then only
	 * lock_nolock keeps it that way; a daemon that died is noticed by its lock being gone.
	 */
	shared = volume_is_shared(e, o->args.ar_lockproto);
	error = check_size_limit(o, e);
	if (!error)
		error = lock_volume(e, o->device, shared ? LOCK_SH : LOCK_EX);
	if (!error)
		error = claim_take(&claim, io_engine_fd(e), o->device, shared, LOCK_PATIENCE_NS);
	if (!error)
		error = start_supervisor(&sv, o, e);
	if (!error && o->has_fault)
		error = io_fault_add(e, &o->fault_rule);
	if (!error) {
		error = gfs2_mount(e, &o->args, &sdp);
		if (error)
			fs_err("%s cannot be mounted: %s", o->device, strerror(-error));
	}
	if (!error) {
		if (sdp->sd_lm == &lm_dlm)
			claim_share(&claim);
		if (sdp->sd_lm == &lm_dlm && flock(io_engine_fd(e), LOCK_SH))
			fs_warn("%s: the lock on the volume cannot be shared: %s", o->device,
				strerror(errno));
		if (o->args.ar_ro)
			io_engine_set_readonly(e);
		error = serve(sdp, o, report_fd);
		unmounted = gfs2_unmount(sdp);
		if (!error)
			error = unmounted;
	}
	claim_drop(&claim);
	supervisor_dismiss(&sv);
	io_engine_close(e);
	return error;
}

/* Absolute names: a daemon's directory is /. */
static int resolve_paths(struct options *o)
{
	char *device = realpath(o->device, NULL), *dir;
	struct stat st;

	if (!device) {
		fprintf(stderr, "gfs2-fuse: %s: %s\n", o->device, strerror(errno));
		return -EINVAL;
	}
	errno = 0;
	dir = realpath(o->dir, NULL);
	if (!dir || stat(dir, &st) || !S_ISDIR(st.st_mode)) {
		const char *why = dir && !errno ? "not a directory" : strerror(errno);

		/* What a killed daemon leaves behind. */
		fprintf(stderr, "gfs2-fuse: %s: %s%s\n", o->dir, why,
			errno == ENOTCONN || errno == ECONNABORTED ? " (umount it first)" : "");
		free(device);
		free(dir);
		return -EINVAL;
	}
	free(o->device);
	free(o->dir);
	o->device = device;
	o->dir = dir;
	if (o->control && *o->control != '/') {
		char *cwd = getcwd(NULL, 0), *path = NULL;

		if (!cwd || asprintf(&path, "%s/%s", cwd, o->control) < 0) {
			free(cwd);
			return -ENOMEM;
		}
		free(cwd);
		free(o->control);
		o->control = path;
	}
	return 0;
}

/* As high as we may. */
static void raise_limit(int what, rlim_t to)
{
	struct rlimit most = { to, to };

	if (setrlimit(what, &most) && !getrlimit(what, &most)) {
		most.rlim_cur = most.rlim_max;
		setrlimit(what, &most);
	}
}

/*
 * The main thread's stack grows as far as the limit (ulimit -s) is now.  Other threads get what the limit was when the program began, whatever that was,
 * unless they are told.
 */
static int stack_setup(void)
{
	struct rlimit most;
	pthread_attr_t attr;

	if (!getrlimit(RLIMIT_STACK, &most) && most.rlim_cur < STACK_BYTES) {
		most.rlim_cur = STACK_BYTES;
		if (most.rlim_max >= STACK_BYTES)
			setrlimit(RLIMIT_STACK, &most);
		else
			raise_limit(RLIMIT_STACK, STACK_BYTES);
	}
	if (!getrlimit(RLIMIT_STACK, &most) && most.rlim_cur < STACK_LEAST) {
		/* Without a format, which takes a stack. */
		fputs("gfs2-fuse: stacks of 512 KiB are needed, and the limit (ulimit -s) is lower\n", stderr);
		return -ENOMEM;
	}
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
	return 0;
}

static void process_setup(void)
{
	sigset_t set;

	/* Registered buffers are locked memory. Without privilege the limit stays, with a message later. */
	raise_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
	raise_limit(RLIMIT_NOFILE, 65536);
	/* An image is a file. What stays of a limit on those is said at the mount; meeting it must be an error, not our end. */
	raise_limit(RLIMIT_FSIZE, RLIM_INFINITY);
	signal(SIGXFSZ, SIG_IGN);
#ifdef PR_SET_IO_FLUSHER
	/* Our memory allocations must not wait for write-back that waits for us. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
#endif
	/* Where every touched page may become one of 2 MiB (Debian's default) cache= would mean little. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
#ifdef __GLIBC__
	/* What one thread frees another can use: memory is bounded for the process, not for each of its threads. */
	mallopt(M_ARENA_MAX, 4);
	/* Large pieces come from the system and go back to it; left to itself malloc soon keeps them all, with holes between. */
	mallopt(M_MMAP_THRESHOLD, 256 << 10);
#endif
	signal(SIGPIPE, SIG_IGN);
	msg_say_fatal_signals();
	stop_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	umask(0);
}

static int mount_main(struct options *o)
{
	int report_fd = -1, error;

	if (stack_setup() || resolve_paths(o))
		return EX_FAIL_;
	if (o->fake)
		return EX_OK_;
	if (o->remount)
		return remount(o) ? EX_FAIL_ : EX_OK_;
	if (!o->foreground) {
		report_fd = go_to_background();
		if (report_fd < 0) {
			fprintf(stderr, "gfs2-fuse: %s\n", strerror(-report_fd));
			return EX_SYSERR_;
		}
	}
	msg_set_level(o->debug ? MSG_DEBUG : o->foreground ? MSG_INFO : MSG_WARN);
	if (chdir("/"))
		return EX_SYSERR_;
	process_setup();
	gfs2_event_init(EVENT_RING_ORDER);
	error = run(o, report_fd);
	gfs2_event_exit();
	return error ? EX_FAIL_ : EX_OK_;
}

/* Descriptors 0 to 2 are open, so that no file of ours gets one of these numbers. */
static void open_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct options o;
	int code;

	open_standard_fds();
#ifdef GFS2_SEEDED_BUGS
	gfs2_seeded_select(getenv("GFS2_SEEDED_BUG"));
#endif
	if (argc == SUPERVISE_ARGC && !strcmp(argv[1], SUPERVISE_WORD))
		return supervisor_main(argv);
	if (argc == WARDEN_ARGC && !strcmp(argv[1], WARDEN_WORD))
		return warden_main(argv);
	/* How a mount with lock_local starts its lock broker. */
	if (argc == 3 && !strcmp(argv[1], "--lock-broker"))
		return lock_broker_main(argv[2]);
	lb_broker_program = "/proc/self/exe";
	/* Until there is a mount, whose users can wait. */
	memory_wait_for(MOUNT_PATIENCE_SECS);
	if (options_parse(&o, argc, argv)) {
		options_free(&o);
		return EX_USAGE_;
	}
	switch (o.action) {
	case OPT_HELP:
		options_usage("gfs2-fuse");
		code = 0;
		break;
	case OPT_VERSION:
		printf("gfs2-fuse %s\n", GFS2_FUSE_VERSION);
		code = 0;
		break;
	case OPT_WAIT:
		code = wait_for_volume(&o);
		break;
	default:
		code = mount_main(&o);
	}
	options_free(&o);
	if (!code && (fflush(stdout) || ferror(stdout))) {
		fprintf(stderr, "gfs2-fuse: standard output: %s\n", strerror(errno));
		code = EX_SYSERR_;
	}
	return code;
}
