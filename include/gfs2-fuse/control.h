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
 * There are 32 places for clients.  Who comes when all are taken gets the greeting, and for three seconds answers to disconnect, breaks, stops, holds, get and
 * help; other commands are "error EBUSY" with who has the places.  Of these four at most; then, instead of the greeting, "error EBUSY" and the same.
 * A client that is too slow loses events (a gap in `seq`), never blocks the file system.
 *
 * A GLOCK is "TYPE/NUMBER" (number in hexadecimal, as in the kernel's dumps), "inode:NUMBER" (decimal: what stat(2) gives as
 * st_ino) or "rgrp:BLOCK" (decimal: the resource group that a block of the volume, an inode's number for instance, is in).  Commands, options before operands:
 *   dump [GLOCK]...		the kernel's `glocks` format: a "G:" line each, then its " H:", " I:", " R:" lines; sorted by type and number
 *   map [--json] GLOCK		an inode's extents: first a line about the inode, then those of the tree on disk ("disk"), then those known
 *				in memory ("memory"); units: file system blocks.  JSON: one object per line, pblock 0 is a hole
 *   dio [--json] GLOCK		an inode's direct I/O since it came into memory: requests in flight, and counts of what became of them
 *				(direct, hole, eof, stuffed, jdata, misaligned; demote), as "NAME VALUE" lines or one JSON object
 *   demote [--json] GLOCK UN|SH|DF [SECONDS]
 *				ask this node to give the lock up, as another node would; "error EBUSY" and a dump of the glock if it was still
 *				held after SECONDS (10)
 *   trace [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK] [-p PID] [-r REQUEST] [-s SEQ] [--text]
 *				events from now on, or from number SEQ on as far as the ring still has them; --text: in the words of the
 *				kernel's tracepoints
 *   stats [--json] [GLOCK]...	how long holders waited and held, by lock type (all since the mount) or of these locks (since they came into memory), as
 *				histograms: "TYPE|GLOCK wait|hold nr N mean_ns N max_ns N <BOUND:COUNT... more:COUNT", or one JSON object a line
 *   get [--json] [NAME]	one value, or all, as "NAME VALUE" lines; NAME `stats`: counters, read-only, `stats.COUNTER`: one.  dio_PHASE_ns is a histogram:
 *				"dio_PHASE_ns.BOUND COUNT" lines (JSON: an object), BOUND a power of two that COUNT of them took less than
 *   set [-s] NAME VALUE | -u	-s: until the connection ends, or `set -u` comes, then the old value again. short_dio, dio_mtime, dio_mtime_interval, commit, cache, data_events, fault (adds a rule; `none` removes all)
 *   help			the synopses
 *
 * Commands that hold things.  What they set up belongs to the connection, and ends with it: its breakpoints are gone, what they stopped goes on, locks
 * that it kept are released.
 *   break [-c COUNT] [-p PID] [-n NODE] [-t SECONDS] [-1] WHAT	stop WHAT; answers "break N".  WHAT is one of
 *	GLOCK|any FROM->TO			a transition of a glock, before caches are written back or dropped for it; FROM, TO: a state,
 *						several with |, or * for all
 *	dio hole|drain|upgrade|buffered [GLOCK]	that point of a direct write
 *	dlm request|ast|bast [GLOCK]		before the lock module is asked; before its answer, or another node's demand, is taken notice of
 *				-c: from the COUNTth on; -p: only for this process; -n: only on the node with this
 *				number (the same can be sent to all); -t: how long a stop lasts (else `timeout`); -1: once only.
 *				Try requests are never stopped (they may be made inside a transaction).
 *   breaks [--json] [all]	this connection's breakpoints; all: any connection's
 *   delete BREAK|all		delete breakpoints; what they have stopped stays stopped
 *   stops [--json] [all]	what is stopped; all: by any connection
 *   wait [--json] [SECONDS]	until something is stopped that was not told yet, and tell it; "error ETIMEDOUT" after SECONDS (60)
 *   continue [--json] [STOP|all]	let go (all); says if nothing is stopped (JSON: nothing).  Another client's stop is refused ("error EPERM"), and it is said whose it is; so with `step`
 *   step [STOP]		stop at the next transition of that lock, or point of a direct write on it, then let go
 *   timeout [--json] [SECONDS]	how long stops of new breakpoints last (60), and locks are kept by `hold` once the client's process is stopped
 *   notify on|off		tell stops as they happen: between answers, lines "* {json}" like those of `stops --json`, without held and left
 *   hold [--json] GLOCK EX|DF|SH [SECONDS]	play another node: ask for the lock in that state, and keep it; "error EBUSY" and a dump of the glock if
 *				this node still used it after SECONDS (10).  This node's requests that do not go with it wait, try requests fail.
				If a stop of this client's own is in the way the answer comes at once and names it: the lock is held once that
				has gone on.
 *   release GLOCK		what `hold` holds
 *   holds [--json] [all]	what is held; all: by any connection
 *   disconnect PID	end the connections of client PID, with all that is theirs
 *
 * JSON of a stop: stop, break (numbers), at ("transition", "dio hole", "dlm ast"...), glock, from, to, req, pid, comm, off, len (what is left of a
 * direct write), sent (its bytes that are on their way to the device), why; those that apply.  With `stops` also held and left, seconds.
 * Where everybody's are shown, `client`: the process whose connection it is.  Numbers of breakpoints and stops are those of its connection.
 */
#ifndef GFS2_FUSE_CONTROL_H
#define GFS2_FUSE_CONTROL_H

#define GFS2_CTL_VERSION 1
#define GFS2_CTL_MAX_LINE 65536
#define GFS2_CTL_DIR "/run/gfs2-fuse"

#endif
