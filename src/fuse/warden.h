/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that ends the connection to the kernel when the daemon has been killed.
 *
 * Usually that happens by itself, when the last descriptor of /dev/fuse is closed.  But a thread that tells the kernel to drop pages
 * (fs/kdrop.h) sleeps in there, uninterruptibly, until a READ is answered that nobody answers any more, and with it stay the
 * process, its descriptors and its lock on the volume.  The warden is told by the kernel when the thread that started it ends
 * (PR_SET_PDEATHSIG), whatever the others are doing, and, if one of them stays, aborts the connection.
 */
#ifndef GFS2FUSE_WARDEN_H
#define GFS2FUSE_WARDEN_H

#include <sys/types.h>

/* On the main thread, once @dir is mounted.  Without a warden a mount works as well, so errors are only told.  0: there is none. */
pid_t warden_start(const char *dir);
void warden_dismiss(pid_t pid);
/* The process: argv is what warden_start() made of it. */
int warden_main(char **argv);
#define WARDEN_WORD "--warden"
#define WARDEN_ARGC 4

#endif
