/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_dlm inside: what its files share; nobody else but the unit test includes it.
 *
 * Threads of one mount
 *	reader	 reads the lock space's descriptor and the kernel log; moves glocks (gfs2_glock_complete, gfs2_glock_cb) and
 *		 frees them; never waits for anything but its poll().
 *	issuer	 unlocks and cancels: a write to the lock space can wait for the DLM's own recovery, which the reader must not.
 *	control	 after a change of members: publishes the generation, has journals replayed, ends blocking.
 * Requests are written by whoever asks (a worker, never a receive thread or the reader).
 *
 * Locking: dc_lock (RANK_LM) guards everything that changes after dlm_join() but the descriptors; it is never held over a call
 * into the DLM or the glock layer.
 */
#ifndef GFS2FUSE_LOCK_DLM_I_H
#define GFS2FUSE_LOCK_DLM_I_H

#include <pthread.h>
#include <stddef.h>
#include "lock/glock.h"

#define DLM_NAME_LEN 24		/* of a resource, without NUL (reference 2.1) */
#define DLM_LVB_LEN 32
#define DLM_MAX_JID 192		/* bits in CONTROL's value block */

/* DLM modes, as numbers on the wire. */
enum { DLMM_NL = 0, DLMM_CR = 1, DLMM_CW = 2, DLMM_PR = 3, DLMM_EX = 5 };

/* --- dlm_kmsg.c: what the kernel's DLM says in its log (reference 2.8) --- */
enum dlm_news_type {
	DLM_NEWS_NONE,		/* not about our lock space, or nothing that matters */
	DLM_NEWS_BEGIN,		/* recovery begins: members have changed */
	DLM_NEWS_REMOVE,	/* a member is gone */
	DLM_NEWS_SLOTS,		/* who has which slot */
	DLM_NEWS_DONE,		/* recovery is over, this is the new generation */
};

/* The kernel makes the list of slots in 127 bytes, the NUL among them, and keeps what fits of the pair that does not. */
#define DLM_SLOTS_TEXT 126

struct dlm_slots {
	unsigned nr, total;	/* known here; that there are */
	bool complete;		/* the line had room for all of them */
	struct {
		unsigned slot, nodeid;
		bool gone;	/* has been removed since */
	} at[DLM_MAX_JID];
};

struct dlm_news {
	enum dlm_news_type type;
	unsigned nodeid;	/* REMOVE */
	uint32_t generation;	/* SLOTS, DONE */
	struct dlm_slots slots;	/* SLOTS */
};
/* One record as read from /dev/kmsg, NUL-terminated. */
void dlm_kmsg_parse(const char *record, const char *lockspace, struct dlm_news *news);

/* --- CONTROL's value block (reference 2.4, 3.3) --- */
/*
 * While nodes of this program and kernel nodes cannot share a volume, the generation is not where the kernel looks: there it finds
 * the value that makes its mount fail with a message, as it was meant for clusters run by the old gfs_controld.
 */
#define CONTROL_POISON 0xffffffffu

enum control_owner { CONTROL_NOBODY, CONTROL_US, CONTROL_KERNEL };
struct control_lvb {
	enum control_owner owner;
	uint32_t generation;
	uint8_t bits[DLM_MAX_JID / 8];
};
void control_lvb_decode(const char lvb[DLM_LVB_LEN], struct control_lvb *c);
void control_lvb_encode(char lvb[DLM_LVB_LEN], const struct control_lvb *c);

static inline bool control_bit(const struct control_lvb *c, unsigned jid)
{
	return c->bits[jid / 8] & 1u << jid % 8;
}

/* --- one lock --- */
struct lm_dlm;
struct dlm_lock {
	struct lm_dlm *ctx;
	struct gfs2_glock *gl;	/* NULL: CONTROL or MOUNTED, or forgotten at unmount */
	char name[DLM_NAME_LEN + 1];
	/* dc_lock */
	uint32_t lkid;		/* 0: the DLM has no such lock */
	unsigned seq;		/* of the request under way */
	bool busy;		/* it has not been answered */
	bool unlock;		/* on dc_issue: to be unlocked, else cancelled */
	bool noexp;
	bool exists;		/* was granted once, at least NL: lkid stays */
	bool stepping;		/* the first half of a conversion between PR and CW has not been answered: down to CR */
	bool between;		/* it has, and so CR is what the DLM has of it, whatever held says */
	int reply;		/* on dc_kept: the answer */
	enum lm_state held, req;
	int status;		/* plain locks, and of the first half: of the last answer, -errno */
	char lvb[DLM_LVB_LEN];	/* plain locks */
	struct list_head list;	/* dc_kept, dc_issue, dc_dead or dc_zombies */
};

struct lm_dlm {
	struct gfs2_glock_table *dc_table;
	char dc_cluster[65], dc_name[65];
	void *dc_ls;		/* libdlm's handle */
	int dc_fd;		/* the same, to read */
	int dc_kmsg;
	unsigned dc_nodeid;
	bool dc_joined;
	int dc_wake;		/* eventfd for the reader */
	pthread_t dc_reader, dc_issuer, dc_control_thread;
	bool dc_has_reader, dc_has_issuer, dc_has_control;

	struct rmutex dc_lock;
	struct rcond dc_cond;	/* generations, plain locks' answers, work for the issuer and the control thread */
	bool dc_stop;		/* reader, issuer */
	bool dc_stop_control;
	struct list_head dc_kept;	/* grants kept back while blocked */
	struct list_head dc_issue;	/* to be unlocked or cancelled */
	struct list_head dc_dead;	/* glocks to be freed by the reader, which callbacks may be on the way for */
	struct list_head dc_zombies;	/* their locks: the DLM keeps the address until the lock space is closed */

	/* Names as in the reference, 3.3: generation of the last recovery, of the last one before it was blocked, of our join. */
	uint32_t dc_start, dc_block, dc_mount;
	bool dc_recovering;	/* the DLM is between BEGIN and DONE */
	bool dc_blocked;	/* grants are kept back */
	bool dc_first;		/* first mounter, others cannot be mounted */
	bool dc_finishing;	/* first mounter, is giving CONTROL back */
	bool dc_mount_done;
	bool dc_control_stopped; /* unmounting: nothing is kept back any more */
	struct dlm_slots dc_slots;
	unsigned dc_jid;
	uint32_t dc_submit[DLM_MAX_JID]; /* journals of dead nodes: generation before the death, plus one; 0: none */
	uint32_t dc_submit_unknown; /* the same, if one has died whose slot is not known */
	bool dc_recovered[DLM_MAX_JID];
	uint8_t dc_failed[DLM_MAX_JID]; /* how often in a row it could not be replayed here since the last recovery of the DLM */
	uint64_t dc_retry_ns;	/* when the control thread looks again, 0: when something happens */

	struct dlm_lock dc_control, dc_mounted;
};

/* --- dlm_env.c: are all parts there?  A message says what is missing. --- */
/* Split CLUSTER:FS and check everything that a join needs; fills dc_cluster, dc_name, dc_nodeid, dc_kmsg. */
int dlm_env_check(struct lm_dlm *dc, const char *table);
/* 1: the lock space exists on this node and was made by a process (a daemon like us, dead or alive); 2: by the kernel; 0: no. */
int dlm_lockspace_exists(const char *name);
/* Why dlm_new_lockspace() failed. */
void dlm_explain_join(const struct lm_dlm *dc, int error);

/* --- dlm.c --- */
/* What lm_mount begins with: nothing is joined yet, grants are kept back.  Ends with lm_unmount. */
struct lm_dlm *dlm_create(struct gfs2_glock_table *t);
int dlm_issuer_start(struct lm_dlm *dc);
int dlm_mode(enum lm_state state);
/* Ask the DLM; the answer comes to the reader. -errno if it could not even be asked. */
int dlm_issue(struct dlm_lock *dl, enum lm_state req, unsigned dlm_flags, const char *lvb);
/* For CONTROL and MOUNTED: ask and wait.  0, -EAGAIN, or another -errno with a message. Flags: LKF_NOQUEUE, LKF_VALBLK. */
int dlm_sync_lock(struct dlm_lock *dl, enum lm_state req, unsigned dlm_flags);
void dlm_resource_name(char name[DLM_NAME_LEN + 1], unsigned type, uint64_t number);
/* Deliver what was kept back (dc_lock not held). */
void dlm_thaw(struct lm_dlm *dc);

/* --- dlm_reader.c --- */
int dlm_reader_start(struct lm_dlm *dc);
void dlm_reader_stop(struct lm_dlm *dc);
void dlm_reader_kick(struct lm_dlm *dc);
/* Without a reader: the status of the next completion for that parameter; -ETIMEDOUT. */
int dlm_await_answer(int fd, void *astparam, uint64_t patience_ns);
/* Addresses that tell completions from blocking callbacks; never called. */
void dlm_ast_address(void *arg);
void dlm_bast_address(void *arg);

/* --- dlm_control.c --- */
/* What the log said; dc_lock held, on the reader. */
void dlm_control_news(struct lm_dlm *dc, const struct dlm_news *news);
/*
 * Under CONTROL in EX, dc_lock held: what is new since the block's generation goes into its bits, what was replayed out of them.
 * True: the block has changed.  @nr_journals: of the volume.
 */
bool dlm_control_merge(struct lm_dlm *dc, struct control_lvb *c, unsigned nr_journals);
/* Replay, or try to, what has a bit in @c: in the order that lm_comes_first demands. dc_recovered tells what is clean now. */
void dlm_control_recover(struct lm_dlm *dc, const struct control_lvb *c, uint32_t gen);
int dlm_control_mount(struct lm_dlm *dc, bool *first);
void dlm_control_first_done(struct lm_dlm *dc);
int dlm_control_start(struct lm_dlm *dc);
void dlm_control_stop(struct lm_dlm *dc);

#endif
