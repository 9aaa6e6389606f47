/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See claim.h. */
#include "claim.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "util/util.h"

/* 0, -EBUSY when @deadline is over, or another error: nobody can say. */
static int open_excl(const char *path, uint64_t deadline, int *out)
{
	for (;;) {
		*out = open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
		if (*out >= 0)
			return 0;
		if (errno != EBUSY || now_ns() >= deadline)
			return -errno;
		usleep(10000);
	}
}

static int flock_until(int fd, int how, uint64_t deadline)
{
	while (flock(fd, how | LOCK_NB)) {
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK || now_ns() >= deadline)
			return -errno;
		usleep(10000);
	}
	return 0;
}

/* The file behind a loop device, from @dir of sysfs; false: none that can be seen. */
static bool backing_path(const char *dir, char *path, size_t size)
{
	char name[PATH_MAX];
	ssize_t n;
	int fd;

	snprintf(name, sizeof(name), "%s/loop/backing_file", dir);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, path, size - 1);
	close(fd);
	if (n <= 1)
		return false;
	path[n] = 0;
	if (path[n - 1] == '\n')
		path[n - 1] = 0;
	return true;
}

/* Names can lie (renamed, deleted, of another mount namespace): is @st what the loop device @fd is over? */
static bool is_behind(int fd, const struct stat *st, uint64_t *offset)
{
	struct loop_info64 info;

	if (ioctl(fd, LOOP_GET_STATUS64, &info))
		return false;
	*offset = info.lo_offset;
	return info.lo_inode == st->st_ino && (dev_t)info.lo_device == st->st_dev;
}

/* --- by one way only --- */

static bool locked_between(int fd, off_t from, off_t len)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = from, .l_len = len };

	return !fcntl(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK;
}

/* Bytes far behind every volume, and apart from those that lock_local has for journals. */
#define WAYS (1ll << 61)
#define WAYS_NR (1ll << 32)

/*
 * Daemons that share a volume find each other's locks by what they have opened: the file, or one loop device over it.  Each keeps
 * a read lock on the byte of the file that stands for its way, first, and then nobody may have one anywhere else.
 */
static int claim_way(int fd, off_t way, const char *path, uint64_t deadline)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = WAYS + way, .l_len = 1 };

	while (fcntl(fd, F_OFD_SETLK, &l)) {
		if (errno != EAGAIN && errno != EACCES)
			return 0;
		if (now_ns() >= deadline)
			goto busy;
		usleep(10000);
	}
	while ((way && locked_between(fd, WAYS, way)) || locked_between(fd, WAYS + way + 1, WAYS_NR - way - 1)) {
		if (now_ns() >= deadline)
			goto busy;
		usleep(10000);
	}
	return 0;
busy:
	fs_err("%s is in use: its file, or a loop device over that, is mounted by another way", path);
	return -EBUSY;
}

/* --- a loop device: the file behind it --- */

static int claim_backing(struct claim *c, int fd, const struct stat *dev, const char *path, bool shared,
			 uint64_t deadline)
{
	char dir[64], whole[80], file[PATH_MAX];
	uint64_t offset = 0;
	struct stat st;
	bool part;
	int error;

	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", major(dev->st_rdev), minor(dev->st_rdev));
	snprintf(whole, sizeof(whole), "%s/..", dir);
	part = !backing_path(dir, file, sizeof(file));
	if (part && !backing_path(whole, file, sizeof(file)))
		return 0;
	c->backing_fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (c->backing_fd < 0 || fstat(c->backing_fd, &st) || (!part && !is_behind(fd, &st, &offset))) {
		fs_dbg("%s: the file behind it, %s, cannot be looked at", path, file);
		return 0;
	}
	/* Several volumes may be in one file: then they only keep away who mounts all of it. */
	error = flock_until(c->backing_fd, shared || part || offset ? LOCK_SH : LOCK_EX, deadline);
	if (error == -EWOULDBLOCK) {
		fs_err("%s is in use: the file behind it, %s, or another loop device over that is mounted",
		       path, file);
		return -EBUSY;
	}
	return shared && !part && !offset ? claim_way(c->backing_fd, 1 + minor(dev->st_rdev), path, deadline) : 0;
}

/* --- a file: the loop devices over it --- */

/* Is @name over the file @st, and in use? */
static bool loop_in_use(const char *name, const struct stat *st, uint64_t deadline)
{
	char dir[300], file[PATH_MAX], dev[300];
	uint64_t offset;
	bool over;
	int fd, error;

	snprintf(dir, sizeof(dir), "/sys/block/%s", name);
	if (!backing_path(dir, file, sizeof(file)))
		return false;
	snprintf(dev, sizeof(dev), "/dev/%s", name);
	fd = open(dev, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	over = is_behind(fd, st, &offset);
	close(fd);
	if (!over)
		return false;
	error = open_excl(dev, deadline, &fd);
	if (!error)
		close(fd);
	return error == -EBUSY;
}

static int check_loops(const struct stat *st, const char *path, uint64_t deadline)
{
	DIR *d = opendir("/sys/block");
	struct dirent *de;
	int error = 0;

	while (d && !error && (de = readdir(d)))
		if (!strncmp(de->d_name, "loop", 4) && loop_in_use(de->d_name, st, deadline)) {
			fs_err("%s is in use: /dev/%s, a loop device over it, is mounted", path,
			       de->d_name);
			error = -EBUSY;
		}
	if (d)
		closedir(d);
	return error;
}

/* --- the interface --- */

int claim_take(struct claim *c, int fd, const char *path, bool shared, unsigned long long patience_ns)
{
	uint64_t deadline = now_ns() + patience_ns;
	struct stat st;
	int error = 0;

	*c = (struct claim)CLAIM_NONE;
	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		if (open_excl(path, deadline, &c->excl_fd) == -EBUSY) {
			fs_err("%s is in use: mounted by the kernel, or opened exclusively by another program", path);
			return -EBUSY;
		}
		if (shared && c->excl_fd >= 0) {
			close(c->excl_fd);
			c->excl_fd = -1;
		}
		error = claim_backing(c, fd, &st, path, shared, deadline);
	} else {
		error = check_loops(&st, path, deadline);
		if (!error && shared) {
			c->backing_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
			error = c->backing_fd < 0 ? -errno : claim_way(c->backing_fd, 0, path, deadline);
		}
	}
	if (error)
		claim_drop(c);
	return error;
}

void claim_share(struct claim *c)
{
	if (c->excl_fd >= 0)
		close(c->excl_fd);
	c->excl_fd = -1;
	if (c->backing_fd >= 0)
		flock(c->backing_fd, LOCK_SH);
}

void claim_drop(struct claim *c)
{
	if (c->excl_fd >= 0)
		close(c->excl_fd);
	if (c->backing_fd >= 0)
		close(c->backing_fd);
	*c = (struct claim)CLAIM_NONE;
}
