/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The load of tools/bench's rows of small files: what the file system takes, with as little of the caller's own time as can be.
 *
 * usage: bench-files create|list|remove DIRECTORY FILES BYTES
 *	create: FILES files of BYTES bytes, 1000 in each subdirectory of DIRECTORY, which is made; list: every subdirectory is listed and
 *	each file looked at with lstat(2), in the order of the listing; remove: the files, in the order in which they were made.
 *	Prints "FILES SECONDS".
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PER_DIRECTORY 1000

static const char *top;
static unsigned long files, bytes;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* "DIRECTORY/3", "DIRECTORY/3/file3141" */
static const char *directory_of(unsigned long number)
{
	static char path[4096];

	snprintf(path, sizeof(path), "%s/%lu", top, number / PER_DIRECTORY);
	return path;
}

static const char *file(unsigned long number)
{
	static char path[4096];

	snprintf(path, sizeof(path), "%s/%lu/file%lu", top, number / PER_DIRECTORY, number);
	return path;
}

static unsigned long create(void)
{
	char *data = calloc(1, bytes + 1);

	if (!data)
		errx(1, "no memory");
	if (mkdir(top, 0755))
		err(1, "%s", top);
	for (unsigned long i = 0; i < files; i++) {
		int fd;

		if (i % PER_DIRECTORY == 0 && mkdir(directory_of(i), 0755))
			err(1, "%s", directory_of(i));
		fd = open(file(i), O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes || close(fd))
			err(1, "%s", file(i));
	}
	free(data);
	return files;
}

static unsigned long list_one(const char *path)
{
	unsigned long seen = 0;
	DIR *dir = opendir(path);
	struct dirent *entry;
	struct stat st;

	if (!dir)
		err(1, "%s", path);
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW))
			err(1, "%s/%s", path, entry->d_name);
		if ((unsigned long)st.st_size != bytes)
			errx(1, "%s/%s: %lld bytes", path, entry->d_name, (long long)st.st_size);
		seen++;
	}
	closedir(dir);
	return seen;
}

static unsigned long list(void)
{
	unsigned long seen = 0;

	for (unsigned long i = 0; i < files; i += PER_DIRECTORY)
		seen += list_one(directory_of(i));
	return seen;
}

static unsigned long remove_all(void)
{
	for (unsigned long i = 0; i < files; i++)
		if (unlink(file(i)))
			err(1, "%s", file(i));
	return files;
}

int main(int argc, char **argv)
{
	unsigned long (*work)(void) = NULL;
	unsigned long done;
	double began;

	if (argc == 5) {
		work = !strcmp(argv[1], "create") ? create : !strcmp(argv[1], "list") ? list : !strcmp(argv[1], "remove") ? remove_all : NULL;
		top = argv[2];
		files = strtoul(argv[3], NULL, 10);
		bytes = strtoul(argv[4], NULL, 10);
	}
	if (!work)
		errx(2, "usage: %s create|list|remove DIRECTORY FILES BYTES", argv[0]);
	began = now();
	done = work();
	printf("%lu %.6f\n", done, now() - began);
	return 0;
}
