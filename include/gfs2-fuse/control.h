/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control protocol between the daemon and its tools, version 1.
 *
 * Transport: a Unix stream socket, mode 0600, owned by who started the daemon; one per mount, in /run/gfs2-fuse/ (root) or
 * $XDG_RUNTIME_DIR/gfs2-fuse/, named after the mount point, or where `-o control=PATH` says.  The peer's uid must be the daemon's or 0.
 *
 * Framing: every message is one line of UTF-8 text, ended by '\n', at most GFS2_CTL_MAX_LINE bytes.
 * Greeting (daemon): "gfs2-fuse-control 1 {json}\n" where json has mountpoint, device, locktable, lockproto, node, pid, version.
 * Request (client): "COMMAND ARG ARG...\n"; an argument with blanks or control characters is percent-encoded (%20).
 * Reply (daemon): zero or more lines starting with ' ' (a line of output follows the blank), then "ok\n" or
 * "error ERRNO-NAME text\n" or, when the request was not understood, "usage text\n".
 * `trace` replies with an endless sequence of output lines (one JSON object each) until the client closes or its
 * count or time is reached, then "ok".
 * A client that is too slow loses events (a gap in `seq`), never blocks the file system.
 *
 * A GLOCK is "TYPE/NUMBER" (number in hexadecimal, as in the kernel's dumps) or "inode:NUMBER" (decimal: what stat(2) gives as
 * st_ino).  Commands, options before operands:
 *   dump [GLOCK]...		the kernel's `glocks` format: a "G:" line each, then its " H:", " I:", " R:" lines; sorted by type and number
 *   map [--json] GLOCK		an inode's extents: first a line about the inode, then those of the tree on disk ("disk"), then those known
 *				in memory ("memory"); units: file system blocks.  JSON: one object per line, pblock 0 is a hole
 *   dio [--json] GLOCK		an inode's direct I/O since it came into memory: requests in flight, and counts of what became of them
 *				(direct, hole, eof, stuffed, jdata, misaligned; demote), as "NAME VALUE" lines or one JSON object
 *   demote GLOCK UN|SH|DF [SECONDS]
 *				ask this node to give the lock up, as another node would; "error EBUSY" and a dump of the glock if it was still
 *				held after SECONDS (10)
 *   trace [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK] [-p PID] [-r REQUEST] [-s SEQ] [--text]
 *				events from now on, or from number SEQ on as far as the ring still has them; --text: in the words of the
 *				kernel's tracepoints
 *   get [--json] [NAME]	one value, or all, as "NAME VALUE" lines; NAME `stats`: counters, read-only.  dio_PHASE_ns is a histogram:
 *				"dio_PHASE_ns.BOUND COUNT" lines (JSON: an object), BOUND a power of two that COUNT of them took less than
 *   set NAME VALUE		short_dio, dio_mtime, dio_mtime_interval, commit, cache, data_events, fault (adds a rule; `none` removes all)
 *   help			the synopses
 */
#ifndef GFS2_FUSE_CONTROL_H
#define GFS2_FUSE_CONTROL_H

#define GFS2_CTL_VERSION 1
#define GFS2_CTL_MAX_LINE 65536
#define GFS2_CTL_DIR "/run/gfs2-fuse"

#endif
