/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FIEMAP for the programs of xfstests (LD_PRELOAD): the kernel's FUSE client refuses it and asks nobody, so here it is
 * answered with what glockctl says of the file on disk. Everything else goes to the kernel.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FUSE_MAGIC 0x65735546

/* Where the file system of this device is mounted, or NULL. */
static char *mount_of(dev_t dev)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[4096], dir[1024], *found = NULL;
	unsigned major, minor;

	while (f && !found && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*u %*u %u:%u / %1023s", &major, &minor, dir) == 3 && makedev(major, minor) == dev &&
		    strstr(line, " - fuse.gfs2-fuse "))
			found = strdup(dir);
	if (f)
		fclose(f);
	return found;
}

/* The control socket of the daemon that serves this mount, behind its greeting (include/gfs2-fuse/control.h). */
static FILE *daemon_of(const char *mount)
{
	static const char sockets[] = "/run/gfs2-fuse";
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char line[4096], want[1100];
	DIR *dir = opendir(sockets);
	struct dirent *de;
	FILE *f = NULL;
	int fd;

	snprintf(want, sizeof(want), "\"%s\"", mount);
	while (dir && !f && (de = readdir(dir))) {
		if (*de->d_name == '.' ||
		    snprintf(to.sun_path, sizeof(to.sun_path), "%s/%s", sockets, de->d_name) >= (int)sizeof(to.sun_path))
			continue;
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		f = fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) ? NULL : fdopen(fd, "r");
		if (f && fgets(line, sizeof(line), f) && strstr(line, want))
			break;
		if (f)
			fclose(f);
		else if (fd >= 0)
			close(fd);
		f = NULL;
	}
	if (dir)
		closedir(dir);
	return f;
}

static FILE *ask(const struct stat *st)
{
	char *mount = mount_of(st->st_dev);
	FILE *f = mount ? daemon_of(mount) : NULL;

	if (f)
		dprintf(fileno(f), "map inode:%llu\n", (unsigned long long)st->st_ino);
	free(mount);
	return f;
}

static void add(struct fiemap *fm, const struct fiemap_extent *e)
{
	if (e->fe_logical + e->fe_length <= fm->fm_start ||
	    (fm->fm_length <= ~0ull - fm->fm_start && e->fe_logical >= fm->fm_start + fm->fm_length))
		return;
	if (fm->fm_extent_count && fm->fm_mapped_extents == fm->fm_extent_count)
		return;
	if (fm->fm_extent_count)
		fm->fm_extents[fm->fm_mapped_extents] = *e;
	fm->fm_mapped_extents++;
}

static int fiemap(int fd, struct fiemap *fm)
{
	unsigned long long start, len, block, size = 0, bsize = 4096;
	struct fiemap_extent last = { 0 }, e;
	char line[256], inlined[8] = "no";
	bool ok = false;
	struct stat st;
	FILE *f;

	if (fm->fm_flags & ~(__u32)FIEMAP_FLAG_SYNC) {
		fm->fm_flags &= ~(__u32)FIEMAP_FLAG_SYNC;
		errno = EBADR;
		return -1;
	}
	if (!fm->fm_length) {
		errno = EINVAL;
		return -1;
	}
	/* What is in memory only is nowhere on disk yet. */
	fsync(fd);
	fm->fm_mapped_extents = 0;
	f = fstat(fd, &st) ? NULL : ask(&st);
	while (f && fgets(line, sizeof(line), f)) {
		if (*line != ' ') {
			ok = !strcmp(line, "ok\n");
			break;
		}
		sscanf(line, " inode %*u formal %*u size %llu blocks %*u height %*u block_size %llu stuffed %7s", &size, &bsize, inlined);
		if (sscanf(line, " disk %llu+%llu -> %llu", &start, &len, &block) != 3)
			continue;
		e = (struct fiemap_extent){ .fe_logical = start * bsize, .fe_length = len * bsize, .fe_physical = block * bsize,
					    .fe_flags = FIEMAP_EXTENT_MERGED };
		if (last.fe_length && last.fe_logical + last.fe_length == e.fe_logical &&
		    last.fe_physical + last.fe_length == e.fe_physical) {
			last.fe_length += e.fe_length;
			continue;
		}
		if (last.fe_length)
			add(fm, &last);
		last = e;
	}
	if (f)
		fclose(f);
	if (!ok) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (!strcmp(inlined, "yes") && size)
		last = (struct fiemap_extent){ .fe_length = size, .fe_physical = st.st_ino * bsize + 232,
					       .fe_flags = FIEMAP_EXTENT_MERGED | FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED };
	if (last.fe_length) {
		last.fe_flags |= FIEMAP_EXTENT_LAST;
		add(fm, &last);
	}
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int, unsigned long, ...);
	struct statfs st;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == FS_IOC_FIEMAP && !fstatfs(fd, &st) && st.f_type == FUSE_MAGIC)
		return fiemap(fd, arg);
	if (!real)
		real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	return real(fd, request, arg);
}
