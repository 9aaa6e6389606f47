/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket: how glockctl and other tools look into a running daemon (protocol:
 * include/gfs2-fuse/control.h).
 *
 * Threads: one that listens, one per connected client (at most CONTROL_MAX_CLIENTS, and few more for a moment).  None of them
 * is ever waited for by a file system request: they take glock, extent map and log locks only as
 * long as any other thread would, never while they write to a client.
 */
#ifndef GFS2FUSE_CONTROL_SERVER_H
#define GFS2FUSE_CONTROL_SERVER_H

#include "fs/super.h"

struct gfs2_control;

/*
 * Listen for the mount @sdp.  @mountpoint and @device are shown to clients and name the socket;
 * @path_or_null: the socket to make (option control=PATH), NULL: the default place, in a directory
 * made with mode 0755.  The socket has mode 0600. A socket file nobody listens on is replaced; one
 * that is answered is -EADDRINUSE.  Errors: -errno, with a message. Call it in the process that
 * stays (threads do not survive a fork).
 */
int gfs2_control_start(struct gfs2_sbd *sdp, const char *mountpoint, const char *device,
		       const char *path_or_null, struct gfs2_control **out);
/*
 * The mount comes to its end: what breakpoints have stopped goes on, what is kept by hand is released, and neither is done any more. Clients
 * may go on looking.  For an end that would wait for what is held (a signal: requests are waited for).
 */
void gfs2_control_let_go(struct gfs2_control *c);
/*
 * Disconnects all clients, ends the threads, removes the socket.  Before gfs2_unmount().  NULL
 * allowed.
 */
void gfs2_control_stop(struct gfs2_control *c);
/* Where it listens, valid until gfs2_control_stop(). */
const char *gfs2_control_path(const struct gfs2_control *c);

#endif
