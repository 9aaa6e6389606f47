/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The supervisor of a lock_dlm mount: a process that does nothing until the daemon has died without a word.  Then it waits until
 * the dead daemon's I/O is over, replays its journal, drops its locks, leaves the lock space and unmounts lazily, so that neither
 * the cluster nor the mount point wait for somebody to restart it (reference gfs2-locking-dio.md 2.7).
 */
#ifndef GFS2FUSE_SUPERVISOR_H
#define GFS2FUSE_SUPERVISOR_H

struct supervisor {
	int word;	/* we write a byte here at the orderly end; -1: none */
};

/* Before any thread was started.  -errno. */
int supervisor_start(struct supervisor *sv, const char *device, const char *dir, const char *table);
/* All is well, or there is nothing to clean up. */
void supervisor_dismiss(struct supervisor *sv);
/* The process: argv is what supervisor_start() made of it. */
int supervisor_main(char **argv);
#define SUPERVISE_WORD "--supervise"
#define SUPERVISE_ARGC 6

#endif
