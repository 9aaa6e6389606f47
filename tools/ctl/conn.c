/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection to a daemon, and which one.
 */
#include "glockctl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Until there is something to read (or the greeting's time is over: read() says so); false: interrupted. */
static bool await_input(struct conn *c)
{
	struct pollfd p[2] = { { .fd = c->fd, .events = POLLIN }, { .fd = interrupt_fd(), .events = POLLIN } };

	if (c->greeted)
		while (!interrupted() && poll(p, 2, -1) < 0 && errno == EINTR)
			;
	return !interrupted();
}

char *conn_line(struct conn *c)
{
	char *line = c->buf + c->used, *nl;

	while (!(nl = memchr(line, '\n', c->len - c->used))) {
		ssize_t n;

		c->len -= c->used;
		memmove(c->buf, line, c->len);
		c->used = 0;
		line = c->buf;
		if (c->len == GFS2_CTL_MAX_LINE)
			return NULL;
		if (!await_input(c))
			return NULL;
		n = read(c->fd, c->buf + c->len, GFS2_CTL_MAX_LINE - c->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL;
		c->len += (size_t)n;
	}
	*nl = 0;
	c->used = (size_t)(nl + 1 - c->buf);
	return line;
}

bool conn_has_line(const struct conn *c)
{
	return memchr(c->buf + c->used, '\n', c->len - c->used);
}

bool json_get(const char *json, const char *key, char *out, size_t size)
{
	char pat[64];
	const char *s;
	size_t n = 0;

	snprintf(pat, sizeof(pat), "\"%s\":\"", key);
	s = strstr(json, pat);
	if (!s)
		return false;
	for (s += strlen(pat); *s && *s != '"' && n + 1 < size; s++) {
		unsigned code;

		if (*s == '\\' && s[1] == 'u' && sscanf(s + 2, "%4x", &code) == 1) {
			/*
			 * only control characters and single bytes (U+DC80..U+DCFF) are written so
			 */
			out[n++] = (char)(code & 0xff);
			s += 5;
		} else {
			s += *s == '\\' && s[1];
			out[n++] = *s;
		}
	}
	out[n] = 0;
	return true;
}

bool json_number(const char *json, const char *key, long long *out)
{
	char pat[64];
	const char *s;

	snprintf(pat, sizeof(pat), "\"%s\":", key);
	s = strstr(json, pat);
	return s && sscanf(s + strlen(pat), "%lld", out) == 1;
}

bool json_double(const char *json, const char *key, double *out)
{
	char pat[64];
	const char *s;

	snprintf(pat, sizeof(pat), "\"%s\":", key);
	s = strstr(json, pat);
	return s && sscanf(s + strlen(pat), "%lf", out) == 1;
}

/*
 * How long a daemon may take for its greeting, which needs no lock and no device: those that are
 * stopped or hang must not keep us from the others.
 */
#define GREETING_SECONDS 5

static void conn_timeout(const struct conn *c, time_t seconds)
{
	struct timeval tv = { .tv_sec = seconds };

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

void conn_patience(struct conn *c, int seconds)
{
	conn_timeout(c, seconds);
	c->greeted = false;
}

/* Reads the greeting; 0 or -errno with the reason in c->why. */
static int conn_greet(struct conn *c)
{
	char *line;
	int version;

	c->buf = malloc(GFS2_CTL_MAX_LINE + 1);
	if (!c->buf) {
		snprintf(c->why, sizeof(c->why), "out of memory");
		return -ENOMEM;
	}
	errno = 0;
	line = conn_line(c);
	if (!line && errno == EAGAIN) {
		snprintf(c->why, sizeof(c->why), "no answer for %d seconds", GREETING_SECONDS);
		return -ETIMEDOUT;
	}
	if (line && !strncmp(line, "error ", 6)) {
		snprintf(c->why, sizeof(c->why), "%s", line + 6);
		return -EPROTO;
	}
	if (!line || sscanf(line, "gfs2-fuse-control %d", &version) != 1) {
		snprintf(c->why, sizeof(c->why), "not the control socket of a gfs2-fuse");
		return -EPROTO;
	}
	if (version != GFS2_CTL_VERSION) {
		snprintf(c->why, sizeof(c->why), "speaks version %d of the protocol, this is for %d",
			 version, GFS2_CTL_VERSION);
		return -EPROTO;
	}
	snprintf(c->greeting, sizeof(c->greeting), "%s", strchr(line, '{') ? strchr(line, '{') : "{}");
	json_get(line, "mountpoint", c->mountpoint, sizeof(c->mountpoint));
	return 0;
}

int conn_open(const char *path, struct conn *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int error = 0;

	*c = (struct conn){ .fd = -1 };
	if (strlen(path) >= sizeof(addr.sun_path)) {
		error = -ENAMETOOLONG;
	} else {
		strcpy(addr.sun_path, path);
		strcpy(c->path, path);
		c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (c->fd >= 0)
			conn_timeout(c, GREETING_SECONDS);
		if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)))
			error = -errno;
	}
	if (error)
		snprintf(c->why, sizeof(c->why), "%s", strerror(-error));
	else
		error = conn_greet(c);
	if (error) {
		if (c->fd >= 0)
			close(c->fd);
		free(c->buf);
		return error;
	}
	conn_timeout(c, 0);
	c->greeted = true;
	return 0;
}

void conn_close(struct conn *c)
{
	close(c->fd);
	free(c->buf);
}

/* --- finding the mount --- */

struct finder {
	const char *dir;	/* -m, absolute; NULL: any */
	bool by_dev;		/* the mount of a path; with dir: if nothing is mounted there itself */
	dev_t dev;
	char near[PATH_MAX];	/* a mount point of @dev; empty: not known */
	void (*each)(struct conn *c, void *arg); /* NULL: find one */
	void *arg;
	struct conn found;
	unsigned nr;
	char *names;		/* of those that could be meant */
	size_t names_len;
	bool failed;		/* some socket could not be used; the last one: */
	char error_path[PATH_MAX];
	char why[PATH_MAX];
};

/* The device number comes without a request: a mount that hangs is not to stop the search. */
static bool finder_wants(const struct finder *f, const struct conn *c)
{
	struct statx stx;

	if (f->dir && !f->by_dev)
		return !strcmp(f->dir, c->mountpoint);
	/* Where nothing is mounted (any more, or in this namespace) it is another file system's directory. */
	return !f->by_dev || (!statx(AT_FDCWD, c->mountpoint, AT_STATX_DONT_SYNC, 0, &stx) &&
			      (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT) &&
			      makedev(stx.stx_dev_major, stx.stx_dev_minor) == f->dev);
}

static void remember(struct finder *f, const char *name)
{
	size_t len = strlen(name) + 3;

	f->names = must(realloc(f->names, f->names_len + len + 1));
	f->names_len += (size_t)sprintf(f->names + f->names_len, "\n  %s", name);
}

/*
 * Is @name what a daemon would call the socket of the mount that is wanted?  (ctl_socket_path(): the mount point in one word, at least 40
 * characters of it.)  So other daemons are not asked, of which one that is stopped or hangs would let us wait for its greeting.
 */
static bool may_be_wanted(const struct finder *f, const char *name)
{
	const char *mountpoint = f->by_dev ? f->near : f->dir ? f->dir : "";
	size_t n = 0;

	for (const char *s = mountpoint + (*mountpoint == '/'); *s && n < 40; s++, n++) {
		char want = *s == '/' ? '-' : (unsigned char)*s <= ' ' || *s == 0x7f ? '_' : *s;

		if (name[n] != want)
			return false;
	}
	return true;
}

static int is_socket_name(const struct dirent *de)
{
	size_t len = strlen(de->d_name);

	return len >= 6 && !strcmp(de->d_name + len - 5, ".sock");
}

static void search_dir(struct finder *f, const char *dir)
{
	struct dirent **names, *de;
	int nr = scandir(dir, &names, is_socket_name, alphasort);

	for (int i = 0; i < nr; free(de), i++) {
		char path[PATH_MAX];
		struct conn c;
		int error;

		de = names[i];
		if (!may_be_wanted(f, de->d_name))
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, de->d_name) >= sizeof(path))
			continue;
		error = conn_open(path, &c);
		if (error) {
			/* ECONNREFUSED: left behind by a daemon that was killed */
			if (error != -ECONNREFUSED && error != -ENOENT) {
				f->failed = true;
				strcpy(f->error_path, path);
				strcpy(f->why, c.why);
			}
			continue;
		}
		if (f->each) {
			f->each(&c, f->arg);
			f->nr++;
		}
		if (f->each || !finder_wants(f, &c)) {
			conn_close(&c);
			continue;
		}
		remember(f, c.mountpoint);
		if (f->nr++)
			conn_close(&c);
		else
			f->found = c;
	}
	if (nr >= 0)
		free(names);
}

/* Look into the directories that daemons put their sockets in. */
static void search(struct finder *f)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	char buf[PATH_MAX];

	search_dir(f, GFS2_CTL_DIR);
	if (run && (size_t)snprintf(buf, sizeof(buf), "%s/gfs2-fuse", run) < sizeof(buf) && strcmp(buf, GFS2_CTL_DIR))
		search_dir(f, buf);
}

bool each_mount(void (*fn)(struct conn *c, void *arg), void *arg)
{
	struct finder *f = calloc(1, sizeof(*f));
	bool good;

	if (!f)
		die(EXIT_REFUSED, "out of memory");
	f->each = fn;
	f->arg = arg;
	search(f);
	if (f->failed)
		complain("%s: %s", f->error_path, f->why);
	good = f->nr || !f->failed;
	free(f);
	return good;
}

static int choose(struct finder *f, const char *path, struct conn *c)
{
	if (f->nr == 1) {
		*c = f->found;
		return EXIT_DONE;
	}
	if (f->nr)
		conn_close(&f->found);
	if (f->nr && f->dir) {
		complain("%u mounts on %s, one over the other: choose one with -s SOCKET", f->nr, f->dir);
		return EXIT_USAGE;
	}
	if (f->nr) {
		complain("%u mounts, choose one with -m DIR:%s", f->nr, f->names);
		return EXIT_USAGE;
	}
	if (f->failed)
		complain("%s: %s", f->error_path, f->why);
	else if (f->dir || f->by_dev)
		complain("%s is not on a gfs2-fuse mount with a control socket", f->dir ? f->dir : path);
	else
		complain("no gfs2-fuse mount with a control socket is there");
	return EXIT_REFUSED;
}

/* Where the file system @f->dev is mounted as a whole. */
static void find_near(struct finder *f)
{
	FILE *in = fopen("/proc/self/mountinfo", "re");
	unsigned major, minor, code;
	char *line = NULL;
	size_t room = 0;

	while (in && !*f->near && getline(&line, &room, in) > 0) {
		int at = 0;
		char *to = f->near;

		if (sscanf(line, "%*d %*d %u:%u / %n", &major, &minor, &at) != 2 || !at || makedev(major, minor) != f->dev)
			continue;
		for (char *s = line + at; *s && *s != ' ' && to < f->near + sizeof(f->near) - 1; s++)
			if (*s == '\\' && sscanf(s + 1, "%3o", &code) == 1) {
				*to++ = (char)code;
				s += 3;
			} else {
				*to++ = *s;
			}
		*to = 0;
	}
	if (in)
		fclose(in);
	free(line);
}

static bool choose_device(struct finder *f, const char *path)
{
	struct statx stx;

	f->by_dev = !statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, &stx);
	if (f->by_dev) {
		f->dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
		find_near(f);
	}
	return f->by_dev;
}

/* Of several: the one that the working directory is on, if it is on any. */
static void prefer_here(struct finder *all)
{
	struct finder *here = must(calloc(1, sizeof(*here)));

	if (choose_device(here, "."))
		search(here);
	if (here->nr == 1) {
		conn_close(&all->found);
		all->found = here->found;
		all->nr = 1;
	} else if (here->nr) {
		conn_close(&here->found);
	}
	free(here->names);
	free(here);
}

int find_mount(const char *dir, const char *path, struct conn *c)
{
	struct finder *f = calloc(1, sizeof(*f));
	char real[PATH_MAX];
	int status;

	if (!f)
		die(EXIT_REFUSED, "out of memory");
	if (dir) {
		if (!realpath(dir, real)) {
			complain("%s: %s", dir, strerror(errno));
			free(f);
			return EXIT_REFUSED;
		}
		f->dir = real;
	} else if (path) {
		choose_device(f, path);
	}
	search(f);
	/* Moved since it was mounted: any. */
	if (f->by_dev && !f->nr && *f->near) {
		*f->near = 0;
		search(f);
	}
	/* A bind mount, or a place below; and who stands in one of several mounts means that one. */
	if (f->dir && !f->nr && choose_device(f, dir))
		search(f);
	else if (!f->dir && !f->by_dev && f->nr > 1)
		prefer_here(f);
	status = choose(f, path, c);
	free(f->names);
	free(f);
	return status;
}
