/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a mount with lock_local and the broker say to each other, over a SOCK_SEQPACKET socket: every message is one struct
 * lb_msg.  Both ends are the same program on the same machine, so byte order and sizes are the machine's.
 *
 * A mount numbers its locks itself (handles, dense from 0); the broker keeps a DLM lock for each.  For one handle there is at most one
 * LB_LOCK or LB_UNLOCK without its LB_AST; LB_CANCEL has no answer of its own.
 */
#ifndef GFS2FUSE_LOCAL_PROTO_H
#define GFS2FUSE_LOCAL_PROTO_H

#include <stdbool.h>
#include <stdint.h>

#define LB_VERSION 2
#define LB_NAME 24
#define LB_LVB 32

enum lb_op {
	/* mount -> broker */
	LB_HELLO = 1,	/* version; flags: LB_KEEP_LOCKS; pid; name: unused */
	LB_FIRST_DONE,	/* the first mounter has replayed all journals */
	LB_LOCK,	/* handle, name, mode, flags (DLM_LKF_*), lvb: a new lock, or a conversion of the handle's */
	LB_CANCEL,	/* handle */
	LB_UNLOCK,	/* handle */
	LB_RECOVERED,	/* jid, status: LM_RD_* */
	LB_WHO,		/* name, jid: does the dead node of that journal keep us from that lock? */
	LB_LEAVE,	/* unmounted cleanly: the broker closes the connection */
	/* broker -> mount */
	LB_WELCOME,	/* version, node, jid; flags: LB_FIRST */
	LB_AST,		/* handle, status, flags (DLM_SBF_*), mode; lvb if lvb_read */
	LB_BAST,	/* handle, mode */
	LB_WHO_IS,	/* jid, status: 1: yes, and no other dead one is to be waited for before */
	LB_RECOVER,	/* jid: replay it, nobody else gets what its node held before */
};

#define LB_KEEP_LOCKS 1u	/* LB_HELLO: when this process dies only its locks stay, nobody is asked to recover */
#define LB_FIRST 1u		/* LB_WELCOME */

struct lb_msg {
	uint32_t op;
	uint32_t handle;
	uint32_t flags;
	uint32_t version;
	uint32_t node, jid, pid;
	int32_t mode, status;
	uint8_t lvb_read;
	uint8_t lvb[LB_LVB];
	uint8_t name[LB_NAME];
};

/* The 24 bytes that name a lock, as the kernel's lock_dlm writes them. */
void lb_name(uint8_t name[LB_NAME], unsigned type, uint64_t number);

/* --- local_connect.c --- */
/*
 * Connect to the broker of @table on the volume @fd, starting one if there is none.  A descriptor, or -errno with a message.  @path gets
 * the socket's name.
 */
int lb_connect(int fd, const char *table, char *path, unsigned size);
/* Give the start lock's name for a socket's: @out has room for @size. */
int lb_lock_name(const char *socket, char *out, unsigned size);
/* Take the lock under which brokers start and end; -EWOULDBLOCK with @wait false.  A descriptor to close. */
int lb_start_lock(const char *socket, bool wait);
/*
 * The program that becomes the broker when called with "--lock-broker SOCKET" and a pipe to write to on descriptor 3.  NULL (none) unless
 * main() has said that it is one.
 */
extern const char *lb_broker_program;

/* --- broker.c --- */
#define LB_READY_FD 3
/* The broker's life: serve on @socket until the last connection is gone.  Exit code. */
int lock_broker_main(const char *socket);

#endif
