/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * diow FILE sync|libaio|io_uring OFFSET LENGTH BYTE [dsync|sync|append|buffered]: one direct write, or a buffered one (O_DSYNC).
 *
 * Prints what the write returned: a number of bytes, or the name-less errno as a negative number. The
 * exit status is 0 if a write was made at all.
 */
#define _GNU_SOURCE
#include "engine.h"
#include <fcntl.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct engine e;
	unsigned int tag;
	int flags = O_RDWR;

	if (argc != 6 && argc != 7)
		errx(2, "usage: diow FILE sync|libaio|io_uring OFFSET LENGTH BYTE [dsync|sync|append|buffered]");
	if (argc == 7 && !strcmp(argv[6], "buffered"))
		flags |= O_DSYNC;
	else if (argc == 7)
		flags |= O_DIRECT | (!strcmp(argv[6], "dsync") ? O_DSYNC : !strcmp(argv[6], "sync") ? O_SYNC : O_APPEND);
	else
		flags |= O_DIRECT;
	off_t offset = strtoll(argv[3], NULL, 10);
	size_t length = strtoull(argv[4], NULL, 10);
	int fd = open(argv[1], flags);

	if (fd < 0)
		err(1, "%s", argv[1]);
	void *memory = aligned_alloc(4096, (length + 4095) / 4096 * 4096);

	if (!memory)
		err(1, "memory");
	memset(memory, argv[5][0], length);
	engine_start(&e, argv[2]);
	engine_submit(&e, fd, memory, length, offset, 0);
	printf("%ld\n", engine_reap(&e, &tag));
	engine_stop(&e);
	free(memory);
	return close(fd) ? 1 : 0;
}
