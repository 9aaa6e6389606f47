/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules inside: what dlm_rules.c (objects, requests, deaths), dlm_rules_grant.c (who is granted what, value blocks) and
 * dlm_rules_look.c share; nobody else includes it.
 */
#ifndef GFS2FUSE_DLM_RULES_I_H
#define GFS2FUSE_DLM_RULES_I_H

#include "lock/dlm_rules.h"
#include "util/list.h"
#include "util/util.h"

#define IV DLM_LOCK_IV

struct resource {
	struct resource *hash_next;
	struct list_head queue[DLM_STS_CONVERT + 1];	/* by enum dlm_lock_status */
	unsigned nr;					/* locks on all queues */
	bool has_lvb, invalid;				/* res_lvbptr, RSB_VALNOTVALID */
	bool lost;					/* somebody who could write the value block died: RECOVER_LVB_INVAL */
	bool recover_grant;				/* conversions may be granted out of order */
	uint32_t lvbseq;
	uint8_t lvb[DLM_RULES_LVB];
	size_t len;
	uint8_t name[DLM_RESNAME_MAXLEN];
};

struct lock {
	struct lock *hash_next;
	struct list_head on_queue;
	struct resource *res;
	struct dlm_owner owner;
	void *cookie;
	uint32_t lkid;
	enum dlm_lock_status status;		/* 0: on no queue (yet) */
	int granted, requested, highbast;
	uint32_t exflags, sbflags, lvbseq;
	bool bast, has_lvb;
	bool orphan, dead, gone;		/* dead: outputs go nowhere; gone: only outputs still know it */
	bool had_ast;
	int ast_mode;				/* of the last completion that was taken */
	unsigned nr_outputs;
	struct output *last_output;		/* the newest one that was not taken, if it is this lock's */
	uint8_t lvb[DLM_RULES_LVB];
};

struct output {
	struct list_head list;
	struct lock *lock;
	struct dlm_output o;
};

struct dlm_rules {
	struct lock **locks;		/* by lkid */
	struct resource **resources;	/* by name */
	unsigned lock_buckets, nr_locks, resource_buckets, nr_resources;
	uint32_t last_lkid;
	struct list_head outputs;
};

static inline struct list_head *queue_of(struct resource *res, enum dlm_lock_status status)
{
	return &res->queue[status];
}

static inline bool can_queue(const struct lock *l)
{
	return !(l->exflags & DLM_LKF_NOQUEUE);
}

/* --- dlm_rules.c --- */
struct lock *rules_find_lock(const struct dlm_rules *r, uint32_t lkid);
struct resource *rules_find_resource(const struct dlm_rules *r, const void *name, size_t len);
/* Completion and blocking callback, into the list of outputs. */
void rules_complete(struct dlm_rules *r, struct lock *l, int status, bool lvb_read);
void rules_say_blocking(struct dlm_rules *r, struct lock *l, int mode);
bool rules_is_owner(struct dlm_owner wanted, struct dlm_owner o);

/* --- dlm_rules_grant.c --- */
bool rules_may_quecvt(int granted, int requested);
void rules_enqueue(struct lock *l, enum dlm_lock_status status);
void rules_requeue(struct lock *l, enum dlm_lock_status status);
/* @now: as it arrives, else from its queue; @recover: the order of conversions was lost with the old master. */
bool rules_grantable(const struct lock *l, bool now, bool recover);
/* May change the granted mode (CONVDEADLK) or the requested one (ALTPR, ALTCW). */
bool rules_try_grant(struct lock *l, bool now, bool recover, bool *deadlock);
void rules_grant(struct dlm_rules *r, struct lock *l);
/* The highest mode that still waits to be converted to, IV if none does; @cw (may be NULL): somebody waits for CW. */
int rules_grant_conversions(struct dlm_rules *r, struct resource *res, bool *cw);
/* Everything that can be granted, and those are told who are in the way of the rest. */
void rules_grant_pending(struct dlm_rules *r, struct resource *res);
/* Those on that queue that are in the way of @l. */
void rules_tell_blockers(struct dlm_rules *r, struct lock *l, enum dlm_lock_status status);
/* The lock's block goes to the resource, if its flags say so. */
void rules_write_lvb(struct lock *l);
/* On a new master. */
void rules_recover_lvb(struct resource *res);
void rules_recover_conversions(struct resource *res);

#endif
