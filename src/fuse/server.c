/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The FUSE session: mounting, INIT, serving, unmounting.
 *
 * States: mounted (INIT answered) -> running (receive threads) -> stopping -> unmounted.
 * A file system unmounted by somebody else (umount, fusermount3 -u) shows as ENODEV on the receive
 * threads; SIGTERM, SIGINT and SIGHUP detach the mount first, then the receive threads are stopped,
 * then the workers finish what they have.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/kdrop.h"
#include "fuse/locks.h"
#include "fuse/ops.h"
#include "fuse/readers.h"
#include "fuse/warden.h"
#include "util/util.h"

/* lock_nolock: nobody else changes the volume, so what the kernel caches stays true. */
#define NOLOCK_TIMEOUT 86400.0
#define READAHEAD_KB 256u
#define READAHEAD_DEVICE_KB 512u

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct server *s = userdata;

	s->kernel_minor = conn->proto_minor;
	conn->max_write = RX_MAX_WRITE;
	conn->max_read = RX_MAX_WRITE; /* as in the mount options, or libfuse refuses */
	conn->max_readahead = RX_MAX_WRITE;
	conn->max_background = 256;
	conn->congestion_threshold = 192;
	/* Data must be in our aligned buffers. */
	conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	/* HANDLE_KILLPRIV_V2 is better: proto.c.  The kernel truncates before an open with O_TRUNC. */
	conn->want &= ~(unsigned)(FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_ATOMIC_O_TRUNC);
	/* The daemon tells the kernel what to drop; times that move must not throw away pages. */
	conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
	conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
				       FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
				       FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPLICIT_INVAL_DATA |
				       FUSE_CAP_EXPORT_SUPPORT);
	/* Permission checks follow ACLs, and a default ACL takes the place of the umask. */
	if (!s->sdp->sd_args.ar_noacl)
		conn->want |= conn->capable & (FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
	/* Names and attributes are not believed for any time in a cluster; and another node may free an inode before we have read it. */
	if (s->sdp->sd_lm->lm_has_peers)
		conn->want &= ~(unsigned)(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPORT_SUPPORT);
	/* Alone, the kernel's own locks are all that is needed. */
	if (!s->locks)
		conn->want &= ~(unsigned)(FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_POSIX_LOCKS);
	/*
	 * Nor may READs be background requests: these wait in the kernel, with their pages locked, when there are too many of them, asynchronous
	 * direct I/O for one, which may wait for the very lock that cannot be given up before the pages are dropped.
	 */
	if (s->sdp->sd_lm->lm_has_peers)
		conn->want &= ~(unsigned)FUSE_CAP_ASYNC_READ;
	/* Offsets in directories are 64 bit for us; the kernel hands them through. */
}

/* --- mounting --- */

static int mount_args(const struct server_config *cfg, struct fuse_args *args)
{
	char *opts = NULL, *fsname = NULL, max_read[32];
	int error = -ENOMEM;

	snprintf(max_read, sizeof(max_read), "max_read=%u", RX_MAX_WRITE);
	/* The device's name may contain commas. */
	if (asprintf(&fsname, "fsname=%s", cfg->fsname) < 0)
		return -ENOMEM;
	if (!fuse_opt_add_opt_escaped(&opts, fsname) &&
	    (!cfg->subtype || !fuse_opt_add_opt(&opts, "subtype=gfs2-fuse")) &&
	    !fuse_opt_add_opt(&opts, max_read) &&
	    !fuse_opt_add_opt(&opts, "allow_other,default_permissions,noatime") &&
	    /* libfuse's default is nosuid,nodev; root's file systems have both unless asked otherwise */
	    (geteuid() || !fuse_opt_add_opt(&opts, "dev,suid")) &&
	    (!cfg->ro || !fuse_opt_add_opt(&opts, "ro")) &&
	    (!cfg->fuse_opts || !fuse_opt_add_opt(&opts, cfg->fuse_opts)) &&
	    !fuse_opt_add_arg(args, "gfs2-fuse") && !fuse_opt_add_arg(args, "-o") &&
	    !fuse_opt_add_arg(args, opts))
		error = 0;
	free(fsname);
	free(opts);
	return error;
}

static ssize_t session_read(int fd, void *buf, size_t len, void *userdata)
{
	return read(fd, buf, len);
}

/* A reader's answers go to the descriptor that it read from. */
static const struct fuse_custom_io session_io = { .writev = readers_writev, .read = session_read };

/* The kernel's first request; nothing else is sent before it is answered. */
static int answer_init(struct server *s)
{
	struct fuse_buf fb = { 0 };
	int res, error;

	do {
		res = fuse_session_receive_buf(s->se, &fb);
	} while (res == -EINTR || res == -EAGAIN);
	if (res <= 0) {
		free(fb.mem);
		return res ? res : -ENODEV;
	}
	error = proto_answer_init(s, &fb);
	free(fb.mem);
	return error;
}

static void drop_pages(void *priv, uint64_t no_addr, const struct gfs2_range *r)
{
	struct server *s = priv;

	/* It may still know others that have been in this block. */
	for (uint64_t node = 0; (node = gfs2_icache_next_node(s->sdp, no_addr, node));)
		fuse_lowlevel_notify_inval_inode(s->se, node, (off_t)r->start,
						 r->end == UINT64_MAX ? 0 : (off_t)(r->end - r->start));
}

/*
 * The kernel reads ahead 128 KiB, in requests of that size, whatever FUSE_INIT says.  Twice that makes a third more of a sequential read; twice
 * again a fifth more where there is a device to wait for, which a store in memory has not.  Not even more: at random in a mapped file that much is
 * read around each of the first hundred misses (docs/performance.md).  In a cluster reading ahead is not asynchronous, and what is under way is waited for
 * before a lock is given up.  Only a wish: without /sys, or the right to write there, it stays as it is.
 */
static void wish_readahead(const struct server *s)
{
	char path[64], value[16];
	struct statx sx;
	int fd, len;

	/* From what the kernel knows: nothing is asked of us. */
	if (statx(AT_FDCWD, s->mountpoint, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &sx))
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", sx.stx_dev_major, sx.stx_dev_minor);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	len = snprintf(value, sizeof(value), "%u\n",
		       io_can_in_place(s->sdp->sd_io) || s->sdp->sd_lm->lm_has_peers ? READAHEAD_KB : READAHEAD_DEVICE_KB);
	if (write(fd, value, (size_t)len) != len)
		fs_dbg("%s: %s", path, strerror(errno));
	close(fd);
}

/* Of what is mounted there, without a request to it; 0: not known. */
static dev_t device_at(const char *dir)
{
	struct statx st;

	return statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &st) ? 0 : makedev(st.stx_dev_major, st.stx_dev_minor);
}

int server_mount(struct gfs2_sbd *sdp, const struct server_config *cfg, struct server **out)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct server *s = xzalloc(sizeof(*s));
	int error = mount_args(cfg, &args);
	const char *why = NULL;

	s->sdp = sdp;
	s->wake_fd = -1;
	pthread_mutex_init(&s->files_lock, NULL);
	list_init(&s->files);
	if (sdp->sd_lm->lm_has_peers)
		s->locks = locks_create(sdp);
	/* What other nodes can change is asked for each time. */
	s->timeout = sdp->sd_lm->lm_has_peers ? 0 : NOLOCK_TIMEOUT;
	s->mountpoint = strdup(cfg->mountpoint);
	s->nr_rx = cfg->rx_threads;
	s->ending = cfg->ending;
	s->ending_arg = cfg->ending_arg;
	if (!s->nr_rx) {
		long cpus = sysconf(_SC_NPROCESSORS_ONLN);

		s->nr_rx = cpus < 4 ? 1 : cpus > 16 ? 8 : (unsigned)cpus / 2;
	}
	if (error)
		goto fail;
	error = -EINVAL;
	s->se = fuse_session_new(&args, &gfs2_fuse_ops, sizeof(gfs2_fuse_ops), s);
	if (!s->se)
		goto fail;
	error = -EIO;
	if (fuse_session_mount(s->se, cfg->mountpoint)) {
		why = "libfuse or fusermount3 has said why";
		goto fail;
	}
	s->fd = fuse_session_fd(s->se);
	s->dev = device_at(s->mountpoint);
	error = fuse_session_custom_io(s->se, &session_io, s->fd);
	if (error)
		goto fail;
	error = answer_init(s);
	if (!error && fcntl(s->fd, F_SETFL, fcntl(s->fd, F_GETFL) | O_NONBLOCK))
		error = -errno;
	if (!error && (s->wake_fd = eventfd(0, EFD_CLOEXEC)) < 0)
		error = -errno;
	if (!error)
		readers_create(s);
	if (!error)
		error = pool_create(&s->pool);
	if (!error && sdp->sd_lm->lm_has_peers)
		error = gfs2_kdrops_attach(sdp, drop_pages, s);
	s->rx = xzalloc(s->nr_rx * sizeof(*s->rx));
	for (unsigned i = 0; !error && i < s->nr_rx; i++) {
		error = rx_create(s, &s->rx[i]);
		if (!error)
			error = rx_start(s->rx[i]);
	}
	if (error)
		goto fail;
	readers_begin(s);
	fuse_opt_free_args(&args);
	if (sdp->sd_lm->lm_has_peers)
		s->warden = warden_start(cfg->mountpoint);
	else
		wish_readahead(s);
	*out = s;
	return 0;
fail:
	fs_err("cannot mount on %s: %s", cfg->mountpoint, why ? why : strerror(-error));
	fuse_opt_free_args(&args);
	server_destroy(s);
	return error;
}

/* --- running --- */

/* Nobody reads requests any more. */
static void stop_rx(struct server *s)
{
	atomic_store_explicit(&s->stopping, true, memory_order_release);
	for (unsigned i = 0; s->rx && i < s->nr_rx; i++)
		if (s->rx[i])
			rx_stop_wait(s->rx[i]);
	readers_stop(s);
}

/* Nobody has told the daemon to end. */
static void say_why_it_ends(struct server *s)
{
	int error = atomic_load_explicit(&s->unread, memory_order_relaxed);

	/* 0: a receive thread has said it. */
	if (error == -ENODEV)
		fs_info("unmounted");
	else if (error == -ECONNABORTED)
		fs_warn("the connection to the kernel has been aborted (umount -f, or /sys/fs/fuse): unmounting");
	else if (error)
		fs_err("requests cannot be read: %s: unmounting", strerror(-error));
}

/* Returns with the signal number, or 0 when the receive threads found the mount gone. */
static int wait_for_end(struct server *s)
{
	struct pollfd fds[2];
	sigset_t set;
	int sig = 0;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	fds[0] = (struct pollfd){ .fd = signalfd(-1, &set, SFD_CLOEXEC), .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = s->wake_fd, .events = POLLIN };
	while (poll(fds, 2, -1) < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOMEM))
		;
	if (fds[0].revents & POLLIN) {
		struct signalfd_siginfo si;

		if (read(fds[0].fd, &si, sizeof(si)) == sizeof(si))
			sig = (int)si.ssi_signo;
	}
	close(fds[0].fd);
	return sig;
}

/*
 * Pages that were changed through shared mappings are known to the kernel only, and who has them mapped keeps a mount that is
 * only detached: they would be lost when we leave.
 *
 * A process without our descriptors asks for them.  Its requests to this mount may wait for ever, for a lock that another
 * node does not give, and nothing ends such a wait but the end of the connection: a thread of ours in it would keep
 * the connection open, and the daemon could not even be killed.
 */
static void fetch_mapped_pages(struct server *s)
{
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		int fd;

		close_range(3, ~0U, 0);
		fd = open(s->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
		_exit(fd >= 0 && syncfs(fd) ? errno & 0xff : 0);
	}
	if (pid < 0) {
		fs_warn("writing back what is mapped: %s", strerror(errno));
		return;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status))
		fs_warn("writing back what is mapped: %s", strerror(WEXITSTATUS(status)));
}

int server_run(struct server *s)
{
	int sig = wait_for_end(s);

	/* What a debugger holds may be what requests wait for, which are waited for now. */
	if (s->ending)
		s->ending(s->ending_arg);
	if (sig) {
		fs_warn("signal %d (%s): unmounting", sig, strsignal(sig));
		s->covered = device_at(s->mountpoint) != s->dev;
		if (s->covered)
			fs_warn("%s does not lead to our mount any more: what is there stays", s->mountpoint);
		else
			fetch_mapped_pages(s);
		/* Processes that still have files open keep the detached mount; they get ENOTCONN when we leave. */
		s->detached = !s->covered && !umount2(s->mountpoint, MNT_DETACH);
	} else {
		say_why_it_ends(s);
	}
	/* First: a thread that reads requests may be the one that waits. */
	locks_stop(s->locks);
	/* While there is still somebody who answers the READs that it may wait for. */
	gfs2_kdrops_detach(s->sdp);
	stop_rx(s);
	pool_drain_destroy(s->pool);
	s->pool = NULL;
	/* Nobody tells the kernel anything any more. */
	warden_dismiss(s->warden);
	s->warden = 0;
	return 0;
}

/*
 * The mount point is free already, or another file system is on it, but libfuse, which has memory to free, would unmount and complain; unless its descriptor
 * shows an error, as it does after an abort.
 */
static void show_as_aborted(struct server *s)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return;
	close(fds[0]);
	dup3(fds[1], s->fd, O_CLOEXEC);
	close(fds[1]);
}

void server_destroy(struct server *s)
{
	if (!s)
		return;
	gfs2_kdrops_detach(s->sdp);
	stop_rx(s);
	pool_drain_destroy(s->pool);
	warden_dismiss(s->warden);
	/* Whoever still waits for a lock is answered where the request was read. */
	locks_destroy(s->locks);
	readers_destroy(s);
	for (unsigned i = 0; s->rx && i < s->nr_rx; i++)
		rx_destroy(s->rx[i]);
	free(s->rx);
	server_close_files(s);
	pthread_mutex_destroy(&s->files_lock);
	if (s->se) {
		if (s->detached || s->covered)
			show_as_aborted(s);
		fuse_session_unmount(s->se);
		fuse_session_destroy(s->se);
	}
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	free(s->mountpoint);
	free(s);
}

const struct fuse_lowlevel_ops gfs2_fuse_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.statfs = op_statfs,
	.open = op_open,
	.create = op_create,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = op_fsyncdir,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.ioctl = op_ioctl,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.setxattr = op_setxattr,
	.removexattr = op_removexattr,
	.flock = op_flock,
	.getlk = op_getlk,
	.setlk = op_setlk,
};
