/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Directory cookies: readdir DIR seek|change
 *
 * seek	  reads DIR, then goes to every cookie again, last first, and expects the name that followed it.
 * change reads DIR in small pieces; between two reads it removes a name "go*" and creates "new*".
 *	  Every name "stay*" must be listed exactly once, no other more than once.
 *
 * getdents64 is called directly: the C library would read ahead and hide what the cookies do.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_NAMES 20000

struct entry {
	char name[256];
	off_t cookie;	/* where the entry after this one starts */
};

static struct entry entries[MAX_NAMES];
static unsigned int entry_count;
/* Small enough that a listing takes many calls. */
static char buffer[512] __attribute__((aligned(8)));

/* Append what one getdents64 call returns; false at the end of the directory. */
static bool read_some(int fd)
{
	long length = syscall(SYS_getdents64, fd, buffer, sizeof(buffer));
	long at = 0;

	if (length < 0)
		err(1, "getdents64");
	while (at < length) {
		struct dirent64 *d = (struct dirent64 *)(buffer + at);

		if (entry_count == MAX_NAMES)
			errx(1, "the listing does not end");
		snprintf(entries[entry_count].name, 256, "%s", d->d_name);
		entries[entry_count++].cookie = d->d_off;
		at += d->d_reclen;
	}
	return length > 0;
}

static void seek_all(int fd)
{
	while (read_some(fd))
		;
	unsigned int count = entry_count;

	for (unsigned int i = count; i-- > 1; ) {
		entry_count = count;
		if (lseek(fd, entries[i - 1].cookie, SEEK_SET) != entries[i - 1].cookie)
			err(1, "lseek to %jd", (intmax_t)entries[i - 1].cookie);
		if (!read_some(fd))
			errx(1, "nothing after %s", entries[i - 1].name);
		if (strcmp(entries[count].name, entries[i].name))
			errx(1, "after %s came %s, and now %s", entries[i - 1].name, entries[i].name,
			     entries[count].name);
	}
	entry_count = count;
	if (lseek(fd, entries[count - 1].cookie, SEEK_SET) < 0)
		err(1, "lseek to the end");
	if (read_some(fd))
		errx(1, "something after the end: %s", entries[count].name);
	if (lseek(fd, 0, SEEK_SET) || (entry_count = 0, !read_some(fd)))
		errx(1, "no way back to the start");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void change(int fd)
{
	char name[300];
	unsigned int turn = 0, stayed = 0;

	while (read_some(fd)) {
		snprintf(name, sizeof(name), "go%u", turn);
		if (unlinkat(fd, name, 0))
			err(1, "unlink %s", name);
		/* Of different lengths, so that holes in the directory do and do not fit them. */
		snprintf(name, sizeof(name), "new%u-%0*u", turn, 1 + (int)(turn * 7 % 200), 0);
		if (mknodat(fd, name, 0100644, 0))
			err(1, "create %s", name);
		turn++;
	}
	qsort(entries, entry_count, sizeof(entries[0]), by_name);
	for (unsigned int i = 0; i < entry_count; i++) {
		if (i && !strcmp(entries[i].name, entries[i - 1].name))
			errx(1, "listed twice: %s", entries[i].name);
		stayed += !strncmp(entries[i].name, "stay", 4);
	}
	if (stayed != 1000)
		errx(1, "%u of 1000 names that stayed were listed", stayed);
	printf("%u changes during the listing\n", turn);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: readdir DIR seek|change");
	int fd = open(argv[1], O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		err(1, "%s", argv[1]);
	if (!strcmp(argv[2], "seek"))
		seek_all(fd);
	else if (!strcmp(argv[2], "change"))
		change(fd);
	else
		errx(2, "unknown: %s", argv[2]);
	return 0;
}
