/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include "remount.h"
#include "util/util.h"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

static const struct {
	const char *name;
	unsigned long flag;
	bool set;
} words[] = {
	{ "nosuid", MS_NOSUID, true }, { "suid", MS_NOSUID, false },
	{ "nodev", MS_NODEV, true },   { "dev", MS_NODEV, false },
	{ "noexec", MS_NOEXEC, true }, { "exec", MS_NOEXEC, false },
	{ "sync", MS_SYNCHRONOUS, true }, { "dirsync", MS_DIRSYNC, true },
};

static unsigned long flags_of(const struct options *o)
{
	/* As at the mount; the kernel starts from nothing. */
	unsigned long flags = MS_NOATIME | (o->args.ar_ro ? MS_RDONLY : 0);
	char *copy = o->fuse_opts ? xstrdup(o->fuse_opts) : NULL, *p = copy, *one;

	while ((one = strsep(&p, ",")))
		for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
			if (!strcmp(one, words[i].name))
				flags = words[i].set ? flags | words[i].flag : flags & ~words[i].flag;
	free(copy);
	return flags;
}

static int complain(const struct options *o, const char *what, int error)
{
	fprintf(stderr, "gfs2-fuse: %s: %s: %s\n", o->dir, what, strerror(error));
	return -error;
}

/*
 * Does the daemon itself refuse all changes?  It says so before it looks whether there is an attribute of that name to
 * take away; there is none.
 */
static bool daemon_is_ro(const char *dir)
{
	return removexattr(dir, "user.gfs2-fuse.none") && errno == EROFS;
}

int remount(const struct options *o)
{
	unsigned long flags = flags_of(o);
	struct statfs st;
	int fd, error = 0;

	if (statfs(o->dir, &st))
		return complain(o, "remount", errno);
	if (st.f_type != FUSE_SUPER_MAGIC)
		return complain(o, "not a mount of gfs2-fuse", EINVAL);
	if (mount(NULL, o->dir, NULL, MS_REMOUNT | flags, NULL))
		return complain(o, "remount", errno);
	if (!(flags & MS_RDONLY)) {
		if (!daemon_is_ro(o->dir))
			return 0;
		mount(NULL, o->dir, NULL, MS_REMOUNT | MS_RDONLY | flags, NULL);
		return complain(o, "mounted read-only: unmount, and mount again", EROFS);
	}
	/* Nobody can write any more; fsync of the root commits everything (gfs2_fsync()). */
	fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		error = complain(o, "fsync", errno);
	if (fd >= 0)
		close(fd);
	return error;
}
