/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the control socket is: its directory, its name, its file (see control_i.h).
 *
 * A socket appears under its name only when it listens, so a socket file that refuses connections
 * is dead, whoever finds it, and may be removed.  Nobody but its user can ever open it.
 */
#include <dirent.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "debug/control_i.h"
#include "gfs2-fuse/control.h"
#include "util/util.h"

int ctl_dir(char *dir, size_t size)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	if (geteuid() == 0 || !run || run[0] != '/')
		snprintf(dir, size, "%s", GFS2_CTL_DIR);
	else if ((size_t)snprintf(dir, size, "%s/gfs2-fuse", run) >= size)
		return -ENAMETOOLONG;
	if (mkdir(dir, 0755) && errno != EEXIST) {
		fs_err("control socket: cannot make %s: %s", dir, strerror(errno));
		return -errno;
	}
	if (lstat(dir, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022) {
		fs_err("control socket: %s is not a directory that only uid %u can write%s", dir, (unsigned)geteuid(),
		       geteuid() ? ": set XDG_RUNTIME_DIR, or use -o control=PATH" : "");
		return -EPERM;
	}
	return 0;
}

int ctl_socket_path(const char *mountpoint, unsigned attempt, char *path, size_t size)
{
	char dir[128], name[256];
	size_t n = 0;
	int error = ctl_dir(dir, sizeof(dir));
	const char *s;

	if (error)
		return error;
	for (s = mountpoint + (*mountpoint == '/'); *s && n < sizeof(name) - 1; s++)
		name[n++] = *s == '/' ? '-' : (unsigned char)*s <= ' ' || *s == 0x7f ? '_' : *s;
	name[n] = 0;
	if (!attempt && (size_t)snprintf(path, size, "%s/%s.sock", dir, n ? name : "root") < size)
		return 0;
	/* Too long, or of another mount: /a/b and /a-b have one name, and so have two mounts on one directory. */
	if (attempt < 2 && (size_t)snprintf(path, size, "%s/%.40s-%08x.sock", dir, name,
					    gfs2_crc32(0, mountpoint, strlen(mountpoint))) < size)
		return 0;
	if ((size_t)snprintf(path, size, "%s/%.40s-%d.sock", dir, name, (int)getpid()) < size)
		return 0;
	return -ENAMETOOLONG;
}

/* Does a daemon listen on the socket @path?  One that was killed has left a file that refuses. */
static bool socket_answers(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	size_t len = strlen(path);
	bool answers;
	int fd;

	if (len >= sizeof(addr.sun_path))
		return false; /* nobody can listen there */
	memcpy(addr.sun_path, path, len + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	answers = fd >= 0 && (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
			      errno != ECONNREFUSED);
	if (fd >= 0)
		close(fd);
	return answers;
}

void ctl_socket_sweep(const char *path)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)], file[sizeof(dir) + 256];
	struct dirent *de;
	struct stat st;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s", path);
	*strrchr(dir, '/') = 0;
	d = opendir(dir);
	while (d && (de = readdir(d))) {
		size_t len = strlen(de->d_name);

		snprintf(file, sizeof(file), "%s/%s", dir, de->d_name);
		if (len > 5 && !strcmp(de->d_name + len - 5, ".sock") && !lstat(file, &st) &&
		    S_ISSOCK(st.st_mode) && !socket_answers(file))
			unlink(file);
	}
	if (d)
		closedir(d);
}

/* @tmp, which listens, gets its name @path; a dead socket there is replaced. */
static int publish_socket(const char *tmp, const char *path)
{
	struct stat st;

	if (!link(tmp, path))
		return 0;
	if (errno != EEXIST || lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return -errno;
	if (socket_answers(path))
		return -EADDRINUSE;
	if (unlink(path) || link(tmp, path))
		return -errno;
	return 0;
}

int ctl_socket_make(struct gfs2_control *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const char *slash = strrchr(c->path, '/');
	struct stat st;
	int error;

	if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "%.*s.ctl%d",
			     slash ? (int)(slash + 1 - c->path) : 0, c->path, (int)getpid()) >=
	    sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listen_fd < 0)
		return -errno;
	/* The process id is ours: what is there was left by an earlier owner of it. */
	unlink(addr.sun_path);
	/*
	 * The file gets the mode of the socket: it is never open to others, not even for a moment.
	 */
	if (fchmod(c->listen_fd, 0600) ||
	    bind(c->listen_fd, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	if (chmod(addr.sun_path, 0600) || lstat(addr.sun_path, &st) || listen(c->listen_fd, 16))
		error = -errno;
	else
		error = publish_socket(addr.sun_path, c->path);
	if (!error) {
		c->sock_dev = st.st_dev;
		c->sock_ino = st.st_ino;
	}
	unlink(addr.sun_path);
	return error;
}

void ctl_socket_remove(struct gfs2_control *c)
{
	struct stat st;

	if (c->sock_ino && !lstat(c->path, &st) && st.st_dev == c->sock_dev &&
	    st.st_ino == c->sock_ino)
		unlink(c->path);
}
