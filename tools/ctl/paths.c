/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Paths of inodes: those that processes of this machine have open, or work in.
 *
 * The file system knows inodes; their names are known to who has opened them.  Nothing is asked of the mount, which may be what hangs: links of /proc
 * that lead below the mount point are looked up with what the kernel knows.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump.h"
#include "glockctl.h"

struct known_path {
	unsigned long long inode;
	char *path;
};

struct paths {
	struct known_path *known;
	size_t nr;
	const struct conn *c;
	struct statx mnt;
};

static void learn(struct paths *p, int dir, const char *name)
{
	char path[PATH_MAX];
	ssize_t len = readlinkat(dir, name, path, sizeof(path) - 1);
	size_t mnt = strlen(p->c->mountpoint);
	struct statx stx;

	if (len <= 0 || (size_t)len < mnt || strncmp(path, p->c->mountpoint, mnt) || (path[mnt] != '/' && (size_t)len != mnt))
		return;
	path[len] = 0;
	/* "(deleted)", or another mount on top: not that inode's path. */
	if (statx(dir, name, AT_STATX_DONT_SYNC, STATX_INO, &stx) || stx.stx_dev_major != p->mnt.stx_dev_major ||
	    stx.stx_dev_minor != p->mnt.stx_dev_minor)
		return;
	p->known = grow(p->known, p->nr, sizeof(*p->known));
	p->known[p->nr++] = (struct known_path){ stx.stx_ino, must(strdup(path)) };
}

static void learn_from(struct paths *p, int proc, const char *pid)
{
	int dir = openat(proc, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fds;
	struct dirent *de;
	DIR *d;

	if (dir < 0)
		return;
	learn(p, dir, "cwd");
	fds = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fds < 0 ? NULL : fdopendir(fds);
	while (d && (de = readdir(d)))
		if (de->d_name[0] != '.')
			learn(p, fds, de->d_name);
	if (d)
		closedir(d);
	else if (fds >= 0)
		close(fds);
	close(dir);
}

static int by_inode(const void *a, const void *b)
{
	const struct known_path *x = a, *y = b;

	return x->inode < y->inode ? -1 : x->inode > y->inode;
}

struct paths *paths_find(const struct conn *c)
{
	struct paths *p = must(calloc(1, sizeof(*p)));
	DIR *proc = opendir("/proc");
	struct dirent *de;

	p->c = c;
	if (proc && !statx(AT_FDCWD, c->mountpoint, AT_STATX_DONT_SYNC, STATX_INO, &p->mnt))
		while ((de = readdir(proc)))
			if (de->d_name[0] >= '1' && de->d_name[0] <= '9')
				learn_from(p, dirfd(proc), de->d_name);
	if (proc)
		closedir(proc);
	if (p->nr)
		qsort(p->known, p->nr, sizeof(*p->known), by_inode);
	return p;
}

const char *paths_of(const struct paths *p, unsigned long long inode)
{
	struct known_path key = { .inode = inode }, *found;

	found = p->nr ? bsearch(&key, p->known, p->nr, sizeof(key), by_inode) : NULL;
	return found ? found->path : NULL;
}

const char *paths_of_lock(const struct paths *p, const char *lock)
{
	unsigned long long inode;
	unsigned type;

	if (sscanf(lock, "%u/%llx", &type, &inode) != 2 || (type != 2 && (type < 5 || type > 7)))
		return NULL;
	return paths_of(p, inode);
}

void paths_free(struct paths *p)
{
	while (p && p->nr)
		free(p->known[--p->nr].path);
	if (p)
		free(p->known);
	free(p);
}
