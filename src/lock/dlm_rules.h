/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules, without the DLM: the resources of one lockspace as one pure, single-threaded object.  Requests go in, a
 * list of outputs (completions and blocking callbacks) comes out; no threads, no I/O, no time.  The broker of lock_local
 * and the simulator run on it; it behaves as the kernel's fs/dlm/lock.c does on the node that masters the resource
 * (reference gfs2-locking-dio.md 2.3, 2.4, 2.7).
 *
 * What it guarantees
 *  1. Two granted locks (or converting ones, by their granted mode) of one resource are always compatible.
 *  2. Every accepted request, conversion and unlock gets exactly one completion, unless its owner dies; a cancel gets
 *     none of its own: what it cancels completes with -DLM_ECANCEL.
 *  3. The outputs of one call are queued in the order in which the DLM sends them: first the completion of the operation, then
 *     what it made possible.  A blocking callback for a lock never overtakes that lock's own earlier outputs.
 *  4. Memory: one small object (xzalloc) for each lock, each resource that has locks, and each output that was not taken yet;
 *     nothing is left after dlm_rules_destroy().
 *
 * What is not modelled: several masters (a resource has one and it survives, but see dlm_rules_remaster()), the time that an unused
 * resource lingers (an invalid mark on its value block is forgotten with the last lock), timeouts, lookup.
 *
 * Locking: none; the caller serialises.  Errors: negative errno values, as the kernel's entry points return them.
 */
#ifndef GFS2FUSE_DLM_RULES_H
#define GFS2FUSE_DLM_RULES_H

#include <linux/dlmconstants.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define DLM_RULES_LVB 32

/* Status flags of a completion; <linux/dlm.h> has them with other things that clash with libdlm.h. */
#ifndef DLM_SBF_DEMOTED
#define DLM_SBF_DEMOTED 0x01
#define DLM_SBF_VALNOTVALID 0x02
#define DLM_SBF_ALTMODE 0x04
#endif

struct dlm_rules;

/* Who owns a lock: a process on a node.  Node ids and pids are whatever the caller uses; 0 is no node and no process. */
struct dlm_owner {
	uint32_t node;
	uint32_t pid;
};

/* A request or conversion. */
struct dlm_ask {
	int mode;		/* DLM_LOCK_NL ... DLM_LOCK_EX */
	uint32_t flags;		/* DLM_LKF_* */
	bool bast;		/* the owner wants blocking callbacks for this lock */
	const void *lvb;	/* 32 bytes: the owner's value block (a new request only looks whether there is one); may be NULL */
	void *cookie;		/* comes back with every output */
};

enum dlm_output_type { DLM_OUT_AST = 1, DLM_OUT_BAST };

struct dlm_output {
	enum dlm_output_type type;
	struct dlm_owner owner;
	uint32_t lkid;
	void *cookie;
	int mode;		/* AST: granted mode now, DLM_LOCK_IV if there is no lock; BAST: the mode that is blocked */
	int status;		/* AST: 0, -EAGAIN, -EDEADLK, -DLM_ECANCEL, -DLM_EUNLOCK */
	uint32_t sbflags;	/* AST: DLM_SBF_* */
	bool lvb_read;		/* AST: @lvb was read from the resource (may be stale bytes with DLM_SBF_VALNOTVALID) */
	uint8_t lvb[DLM_RULES_LVB];
};

struct dlm_rules *dlm_rules_create(void);
void dlm_rules_destroy(struct dlm_rules *r);

/*
 * A new lock (no DLM_LKF_CONVERT).  0 and *@lkid (never 0, not used again while the lockspace lives, but for a wrap); the answer is an
 * AST.  A request that is refused (-EAGAIN) or cancelled leaves no lock: *@lkid is invalid after that AST.
 * With DLM_LKF_ORPHAN: adopt the lock that a dead process left on this resource in this mode; no AST.  -ENOENT: there is none; -EAGAIN:
 * only in other modes.  (The kernel looks for orphans of the caller's own node only, and so does this.)
 */
int dlm_rules_lock(struct dlm_rules *r, struct dlm_owner owner, const void *name, size_t len,
		   const struct dlm_ask *ask, uint32_t *lkid);
/* Change the mode of a granted lock (DLM_LKF_CONVERT is implied).  -ENOENT: no such lock; -EBUSY: an operation is in progress. */
int dlm_rules_convert(struct dlm_rules *r, uint32_t lkid, const struct dlm_ask *ask);
/*
 * @flags: DLM_LKF_VALBLK, IVVALBLK, FORCEUNLOCK.  Answer: an AST with -DLM_EUNLOCK.  As in the kernel VALBLK also counts if only the
 * last operation had it; @lvb NULL then writes what the lock's own copy holds.
 */
int dlm_rules_unlock(struct dlm_rules *r, uint32_t lkid, uint32_t flags, const void *lvb);
/*
 * Take back a request or conversion that waits.  0 also if there is nothing (any more) to take back: then no AST comes.  -EINVAL: the
 * last operation was taken back already.
 */
int dlm_rules_cancel(struct dlm_rules *r, uint32_t lkid);

/*
 * The process is gone: operations in progress are cancelled; locks whose last operation had DLM_LKF_PERSISTENT stay as orphans, the others
 * are unlocked, and a value block that they could have changed becomes invalid.  Outputs that it has not taken yet are dropped.
 */
void dlm_rules_process_died(struct dlm_rules *r, struct dlm_owner owner);
/* As if all locks of the process were persistent: everything granted stays until dlm_rules_purge(). */
void dlm_rules_process_orphaned(struct dlm_rules *r, struct dlm_owner owner);
/* Unlock orphans of @owner.node (pid 0: all), value blocks as for a death. */
void dlm_rules_purge(struct dlm_rules *r, struct dlm_owner owner);
/* Unlock the orphans of @owner.node on one resource only; returns how many there were. */
unsigned dlm_rules_purge_resource(struct dlm_rules *r, struct dlm_owner owner, const void *name,
				  size_t len);
/*
 * The node is gone and DLM recovery is complete: its locks, orphans too, are dropped; value blocks that it held in PW or EX with VALBLK
 * are invalid; what waits is granted by the rules of recovery (conversions in any order).
 */
void dlm_rules_node_died(struct dlm_rules *r, uint32_t node);
/*
 * The node that kept this resource is gone, too, and another one has rebuilt it from the locks that remain (after
 * dlm_rules_node_died): the value block is what the best of them knows, invalid if only NL and CR locks are left; a conversion between PR and CW
 * has forgotten what it was granted.  Grants what can be granted.
 */
void dlm_rules_remaster(struct dlm_rules *r, const void *name, size_t len);

/* The oldest output of this owner (node 0: of anybody; pid 0: of the node), false if there is none.  Skips blocking callbacks that are pointless now. */
bool dlm_rules_next(struct dlm_rules *r, struct dlm_owner owner, struct dlm_output *out);

/* --- looking inside: tests, checkers, `status` --- */
enum dlm_lock_status { DLM_STS_WAITING = 1, DLM_STS_GRANTED = 2, DLM_STS_CONVERT = 3 };

struct dlm_lock_info {
	struct dlm_owner owner;
	uint32_t lkid;
	enum dlm_lock_status status;
	int granted, requested;	/* DLM_LOCK_IV: none */
	bool orphan;
	void *cookie;
	const void *name;
	size_t len;
};

/* All locks: resources in no order; in each the granted ones, then converting, then waiting, in the order of the queues. @fn may not change anything. */
void dlm_rules_for_each(const struct dlm_rules *r,
			void (*fn)(const struct dlm_lock_info *info, void *arg), void *arg);
bool dlm_rules_get(const struct dlm_rules *r, uint32_t lkid, struct dlm_lock_info *info);
unsigned dlm_rules_count(const struct dlm_rules *r, struct dlm_owner owner);
/* The value block of a resource: false if it has none. */
bool dlm_rules_lvb(const struct dlm_rules *r, const void *name, size_t len, uint8_t lvb[DLM_RULES_LVB],
		   bool *valid);
/* Invariants (guarantee 1, order of queues, nothing grantable left waiting); NULL or what is wrong. */
const char *dlm_rules_check(const struct dlm_rules *r);
/* One line for each lock. */
void dlm_rules_dump(const struct dlm_rules *r, FILE *out);

bool dlm_modes_compatible(int a, int b);
const char *dlm_mode_name(int mode);

#endif
