/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between the server (control.c: sockets, threads, lines) and the commands (commands.c: what they
 * mean).
 */
#ifndef GFS2FUSE_CONTROL_I_H
#define GFS2FUSE_CONTROL_I_H

#include <pthread.h>
#include <stdio.h>
#include "debug/control.h"
#include "debug/stop.h"
#include "util/list.h"

#define CTL_MAX_FAULTS 16	/* texts of fault rules remembered for `get fault` */

struct gfs2_control {
	struct gfs2_sbd *sdp;
	char *mountpoint, *device, *path;
	int listen_fd;
	int stop_fd;		/* eventfd: readable once everything has to end */
	pthread_t listener;
	uint64_t sock_dev, sock_ino; /* of the socket file: only our own is removed */

	pthread_mutex_t set_lock; /* one `set` at a time, so that an undo compares and sets in one; taken before any ranked mutex */
	struct rmutex lock;	/* RANK_CONTROL; guards all below */
	struct list_head clients;
	unsigned nr_clients, nr_spare; /* on ordinary places, on spare ones */
	bool ending;		/* nothing is kept by hand any more */
	char *faults[CTL_MAX_FAULTS];
	unsigned nr_faults;
};

/* One connection; belongs to its thread. */
struct ctl_conn {
	struct gfs2_control *ctl;
	int fd;
	pthread_t thread;
	struct list_head list;	/* ctl->clients */
	bool spare;		/* constant: all places were taken; until now_ns() reaches leave_ns */
	uint64_t leave_ns;
	bool done;		/* thread is about to end: can be joined. Under ctl->lock */
	char *in;		/* GFS2_CTL_MAX_LINE bytes of input */
	size_t in_len;
	/* break_commands.c: breakpoints, locks kept by hand */
	struct stop_session *session; /* NULL: none yet */
	int hit_fd;		/* eventfd: something was stopped; -1: no session */
	unsigned last_hit;	/* stop that was told last */
	uint64_t timeout_ns;	/* for new breakpoints */
	bool notify;		/* tell stops without being asked */
	struct list_head holds; /* under ctl->lock */
	struct list_head undo;	/* tunables.c: what `set -s` has set; the connection's thread only */
	pid_t peer;		/* who has connected */
	uint64_t still_since;	/* the peer is seen stopped while it keeps locks since then; 0: it is not */
};

/*
 * What a command gets.  It prints its answer to @out, a memory stream: nothing of it reaches the
 * client before the command has let go of every lock.  Each line is sent with the blank that marks
 * output.  @why: reason for an error or usage.
 */
struct ctl_call {
	struct gfs2_control *ctl;
	struct ctl_conn *conn;
	int argc;
	char **argv;		/* argv[0]: the command */
	FILE *out;
	char why[256];
};

#define CTL_USAGE 1		/* not understood: call->why is the synopsis */
#define CTL_GONE 2		/* the client went away or the mount ends */

/* 0, -errno with call->why, CTL_USAGE, CTL_GONE. */
int ctl_run(struct ctl_call *call);
int ctl_fail(struct ctl_call *call, int error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

struct glock_name {
	enum lm_type type;
	uint64_t number;
};
/* "2/35f8" (type, hexadecimal number) or "inode:13816" (decimal). CTL_USAGE. */
int ctl_parse_glock(struct ctl_call *call, const char *s, struct glock_name *name);
bool ctl_parse_u64(const char *s, int base, uint64_t *val);
/* Is --json the first word after the command?  Then it is taken out. */
bool ctl_take_json(struct ctl_call *call);

struct ctl_command {
	const char *name;	/* NULL ends a list */
	int (*fn)(struct ctl_call *call);
	const char *synopsis;
};
extern const struct ctl_command ctl_break_commands[];
/* Everything that the connection holds is let go. */
void ctl_conn_end(struct ctl_conn *conn);
/* Lets go what a stopped process keeps by hand.  In how many milliseconds to look again; -1: nothing is kept.  The connection's thread. */
int ctl_holds_watch(struct ctl_conn *conn);
/* The mount comes to its end: nothing is kept by hand any more.  Any thread. */
void ctl_holds_drop(struct gfs2_control *c);
/* One line of JSON for each stop that was not told yet; conn->session is not NULL. */
void ctl_tell_hits(struct ctl_conn *conn, FILE *out);

/* `get` and `set` (tunables.c). */
int ctl_tunables_get(struct ctl_call *call);
int ctl_tunables_set(struct ctl_call *call);
/* What the connection has set for its own time gets the value back that it had, unless somebody has set it since. */
void ctl_tunables_undo(struct ctl_conn *conn);

/*
 * Send what is in call->out so far and empty it (trace). 0 or CTL_GONE. The caller holds no lock.
 */
int ctl_flush(struct ctl_call *call);
/* Has the client closed, or is the mount coming to its end? */
bool ctl_gone(struct ctl_conn *conn);
/* The same after @ns, or as soon as it is so: 0 or CTL_GONE. */
int ctl_rest(struct ctl_conn *conn, uint64_t ns);

/* --- control_socket.c --- */
/*
 * The directory for sockets of this user (/run/gfs2-fuse, or in $XDG_RUNTIME_DIR), made if missing.  It must be ours alone
 * to write. -errno with a message.
 */
int ctl_dir(char *dir, size_t size);
/*
 * The default path: DIR/NAME.sock, NAME being the mount point in one word, shortened if it would
 * not fit a socket address. Makes the directory. -errno with a message.  @attempt: 0, then 1 and 2, for other names when the
 * one before is another mount's.
 */
int ctl_socket_path(const char *mountpoint, unsigned attempt, char *path, size_t size);
/* Remove what killed daemons have left in the directory of @path, the default one. */
void ctl_socket_sweep(const char *path);
/*
 * Listen on c->path: fills listen_fd, sock_dev, sock_ino. -EADDRINUSE if somebody answers there,
 * -EEXIST if it is no socket.
 */
int ctl_socket_make(struct gfs2_control *c);
void ctl_socket_remove(struct gfs2_control *c);

/*
 * JSON string with quotes; bytes that are not UTF-8 become lone surrogates U+DC80..U+DCFF, as
 * Python does.
 */
void ctl_json_string(FILE *out, const char *s);

#endif
