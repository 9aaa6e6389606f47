/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The deterministic simulator of two and three nodes: the real src/lock, several tables of it in one process, with a lock module
 * on the real rules of the DLM (lock/dlm_rules.h), a device and callers of its own.  Nothing runs by itself: there is one list
 * of what could happen next, and whoever drives the run chooses from it, so a run is its program and its choices and nothing else.
 *
 *	co.c       coroutines; condition variables and mutexes of src/lock end up here (ld --wrap), so that its blocking
 *	           paths are run as they are
 *	world.c    device, what the glock types do, lock module, death and recovery, the checks
 *	program.c  what callers do: programs as text, at random, one after the other
 *	explore.c  all choices (with the states that were seen), random choices, shrinking
 *	main.c     the command line
 *
 * What is checked, after every step, is listed at check_step() in world.c.
 */
#ifndef SIM_H
#define SIM_H

#include "lock/dlm_rules.h"
#include "lock/internal.h"
#include "util/ctx.h"
#include "util/seeded.h"
#include "util/util.h"

#define UN LM_ST_UNLOCKED
#define EX LM_ST_EXCLUSIVE
#define DF LM_ST_DEFERRED
#define SH LM_ST_SHARED

#define MAX_NODES 3
#define MAX_RES 3
#define JOURNALS MAX_RES		/* resource number of node 0's journal lock */
#define ALL_RES (MAX_RES + MAX_NODES)
#define MAX_TASKS 10
#define MAX_OPS 8
#define MAX_WORKERS 3			/* of each node, at the same time */

/* --- co.c --- */
enum co_state { CO_FREE, CO_READY, CO_BLOCKED };

struct co {
	enum co_state state;
	int node;			/* -1: no node's (it survives all deaths) */
	unsigned label, arg;		/* where it stands, for the hash of the state */
	unsigned task;			/* + 1; 0: not a task's */
	struct rcond *cond;		/* blocked on */
	const char *name;
	void (*fn)(struct co *co, void *arg);
	void *fn_arg;
	uint64_t req;			/* its current_ctx()->req */
	/* private */
	void *stack, *uc;
	struct gfs2_glock *asking;
};
#define MAX_COS 40
extern struct co fibres[MAX_COS];
extern struct co *co_now;		/* NULL: the driver */
extern bool co_preempt;			/* also before every mutex that is taken first */

struct co *co_start(int node, const char *name, void (*fn)(struct co *co, void *arg), void *arg,
		    uint64_t req);
void co_resume(struct co *co);
void co_yield(unsigned label, unsigned arg);
void co_block(unsigned label);		/* until co_wake() */
void co_wake(struct co *co);
void co_kill_node(int node);
void co_kill_all(void);

/* --- program.c --- */
enum op_kind { OP_END, OP_LOCK, OP_DEMOTE, OP_SHRINK };
enum op_how { HOW_SYNC, HOW_ASYNC, HOW_CALLBACK, HOW_FAST };

struct op {
	uint8_t kind, res, state, how;
	uint32_t flags;			/* LM_FLAG_*, GL_* */
	bool cancel;			/* may be taken back while it waits */
	bool fsync;			/* EX: log and acknowledge */
	bool nest;			/* kept until the next one was done */
};

struct program {
	unsigned nr_tasks;
	struct { uint8_t node, nr_ops; struct op ops[MAX_OPS]; } tasks[MAX_TASKS];
	unsigned nodes;
	unsigned deaths;		/* how many nodes may die */
	bool kill_process;		/* the deaths are of the daemon, its locks stay: a supervisor recovers */
	bool faults;			/* EIO in go_sync, go_instantiate, the lock module */
	bool reorder;			/* answers and demands overtake each other */
	bool preempt;			/* see co_preempt */
	bool halves;			/* between PR and CW by way of CR, as lock_dlm; else directly, as lock_local */
};

void program_text(const struct program *p, char *buf, size_t size);
bool program_parse(const char *text, struct program *p);
void program_random(uint64_t seed, unsigned nodes, struct program *p);

/* --- world.c --- */
enum act_kind { ACT_RUN, ACT_WORK, ACT_DLM, ACT_DELIVER, ACT_TICK, ACT_CANCEL, ACT_DIE, ACT_RECOVER,
		ACT_PURGE };
struct action { enum act_kind kind; int a, b; };
#define MAX_ACTIONS 128

/* Which of @nr actions; -1: end the run here. */
typedef int (*chooser_fn)(void *arg, const struct action *acts, unsigned nr);

struct run_result {
	unsigned steps;
	bool cut;			/* the chooser ended it */
	uint64_t trace_hash;
};

#define MAX_STEPS 20000
extern bool sim_trace;			/* print what happens */
extern struct sim_stats {
	unsigned long runs, steps, deadlocks, cancels, refused, deaths, recoveries, early_basts,
		try_failed, fast, faults, gated, granted, demotes, held_back, orphaned, lost;
} sim_stats;

/* Ends the process with status SIM_FAILED if something is wrong, after printing what; by SIGPROF if it does not come to an end. */
#define SIM_FAILED 3
void run_program(const struct program *p, chooser_fn choose, void *arg, struct run_result *res);
_Noreturn void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void sim_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Fingerprint of all that decides what can happen from here on. */
uint64_t state_hash(void);
void action_text(const struct action *act, char *buf, size_t size);
/* Is random luck (of the run's seed) with a fault of probability 1/@n?  Never in exhaustive runs. */
extern unsigned (*sim_luck)(unsigned n);
/* What the run is, printed when it fails. */
extern const char *(*sim_describe)(void);

/* --- explore.c --- */
struct explored { unsigned long programs, runs, states, steps; };
int explore_all(unsigned level, struct explored *sum);
void explore_program(const struct program *p, struct explored *sum);
void random_run(uint64_t seed, const struct program *given, struct run_result *res);
/* The choices as a failing explore_program() prints them; the first one wherever they have ended. */
void path_run(const struct program *p, const char *choices, struct run_result *res);
void random_program_of(uint64_t seed, struct program *p);

#endif
