/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The world of one run: nodes with a glock table each, a lock manager, a device with a journal for each node, callers.
 *
 * A resource has two parts on the device, which are treated as metadata and as data are (glock_rights): `meta` is read by
 * go_instantiate and may stay cached under any lock, `data` is read by holders and may stay cached under EX and SH.  A writer under EX adds one
 * to both in its cache; go_sync first commits them to the node's journal, then writes them in place.  A writer under DF
 * adds one to `data` on the device, and leaves a time to be published under EX (fs/dio_time.c): the lock may not be given up without a
 * try for EX, which must not wait.  `truth` is what everybody must see; `committed` is what survives the death of a writer, and was
 * acknowledged by fsync.
 */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/time.h>
#include <unistd.h>

/* Where coroutines stop; part of the state's hash. */
enum label { L_START, L_PREEMPT, L_SLEEP, L_SYNC, L_SYNC_COMMIT, L_SYNC_DATA, L_SYNC_META, L_INST, L_USE, L_USE_DF,
	     L_READ, L_FSYNC, L_CALLBACK, L_ASYNC, L_HELD, L_REPLAY, L_REPLAY_META, L_REPLAYED, L_DONE };

struct version { unsigned meta, data; };

struct cache {
	bool meta_valid, data_valid, dirty;
	/* EX was tried for the time of a direct write (gl_wants_ex), for the request that comes next. */
	bool raise_tried;
	struct version v;
};

/* The module's side of one glock. */
struct simlock {
	struct gfs2_glock *gl;		/* NULL: none; until it is freed */
	uint32_t lkid;
	enum lm_state state, req;	/* last answer; what is asked for */
	unsigned flags;			/* of the request */
	bool busy, putting;
	bool try_asked;
	/* turns: when it was got, when somebody had it or waited for it; GLF_DEMOTE as of the last step */
	uint64_t granted_ns, busy_ns;
	bool demand_timed, demand_local, demoting;
	/* own demands between being noted and being made */
	unsigned demands_coming;
};

enum msg_type { MSG_LOCK, MSG_CANCEL, MSG_UNLOCK };
struct dlm_msg {
	enum msg_type type;
	int res, mode;
	bool halves;			/* by way of CR */
	uint32_t flags;
	uint8_t lvb[DLM_RULES_LVB];
};
#define MAX_MSGS 64

struct node {
	bool alive, sick;		/* sick: withdrew, and will die */
	bool dead_unrecovered;
	struct gfs2_glock_table *table;
	struct simlock locks[ALL_RES];
	struct cache caches[MAX_RES];
	struct { bool valid; struct version v; } journal[MAX_RES];
	struct dlm_msg outbox[MAX_MSGS];
	unsigned nr_out;
	struct dlm_output inbox[MAX_MSGS];
	unsigned nr_in;
	unsigned users[MAX_RES][4];
	unsigned workers;
	struct co *reader;
};

struct task {
	unsigned nr, pc;
	struct co *co;
	struct gfs2_holder ghs[MAX_OPS];
	struct gfs2_holder *waits;	/* being waited for */
	bool called, canceled, canceling, cancel_runs, finished;
	int results[MAX_OPS];
	unsigned nr_held;
};

static struct world {
	const struct program *p;
	struct node nodes[MAX_NODES];
	struct task tasks[MAX_TASKS];
	struct version disk[MAX_RES], truth[MAX_RES], committed[MAX_RES];
	unsigned truth_lvb[MAX_RES], lvb_counter;
	struct dlm_rules *dlm;
	uint64_t clock;
	unsigned deaths_left, fault_seen;
	unsigned step;
	uint64_t trace_hash;
} w;

static struct gfs2_glock_table *tables[MAX_NODES];	/* used by run after run */

bool sim_trace;
struct sim_stats sim_stats;
unsigned (*sim_luck)(unsigned n);
const char *(*sim_describe)(void);

static unsigned node_of(const struct gfs2_glock *gl)
{
	return (uintptr_t)gfs2_glock_table_private(gl->gl_table);
}

static unsigned res_of(const struct gfs2_glock *gl)
{
	return gl->gl_type == LM_TYPE_JOURNAL ? JOURNALS + gl->gl_number : gl->gl_number;
}

static struct simlock *lock_of(const struct gfs2_glock *gl)
{
	return &w.nodes[node_of(gl)].locks[res_of(gl)];
}

static uint64_t sim_clock(void)
{
	return w.clock;
}

/* --- saying --- */

void sim_say(const char *fmt, ...)
{
	va_list ap;

	if (!sim_trace)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void dump_world(void)
{
	for (unsigned n = 0; n < w.p->nodes; n++) {
		const struct node *nd = &w.nodes[n];

		printf("node %u%s%s: to the DLM %u, from it %u\n", n, nd->alive ? "" : " DEAD",
		       nd->sick ? " withdrawn" : "", nd->nr_out, nd->nr_in);
		for (unsigned r = 0; nd->alive && r < ALL_RES; r++) {
			if (!nd->locks[r].gl)
				continue;
			glock_dump_locked(stdout, nd->locks[r].gl);
			printf("   phase %s\n", glock_phase_name(nd->locks[r].gl->gl_phase));
		}
		for (unsigned r = 0; nd->alive && r < MAX_RES; r++)
			if (nd->caches[r].meta_valid || nd->caches[r].data_valid)
				printf("  cache %u: meta %u%s data %u%s%s\n", r, nd->caches[r].v.meta,
				       nd->caches[r].meta_valid ? "" : " (invalid)",
				       nd->caches[r].v.data,
				       nd->caches[r].data_valid ? "" : " (invalid)",
				       nd->caches[r].dirty ? " dirty" : "");
	}
	for (unsigned r = 0; r < MAX_RES; r++)
		if (w.truth[r].meta || w.truth[r].data)
			printf("resource %u: device %u/%u truth %u/%u committed %u/%u value block %u\n", r,
			       w.disk[r].meta, w.disk[r].data, w.truth[r].meta, w.truth[r].data,
			       w.committed[r].meta, w.committed[r].data, w.truth_lvb[r]);
	dlm_rules_dump(w.dlm, stdout);
	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].state != CO_FREE)
			printf("coroutine %s of node %d: %s at %u\n", fibres[i].name, fibres[i].node,
			       fibres[i].state == CO_READY ? "ready" : "asleep", fibres[i].label);
}

_Noreturn void sim_fail(const char *fmt, ...)
{
	va_list ap;

	printf("FAILED at step %u: ", w.step);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	if (w.p) {
		char text[1024];

		program_text(w.p, text, sizeof(text));
		printf("program: %s\n", text);
		if (sim_describe)
			printf("%s\n", sim_describe());
		if (sim_trace)
			dump_world();
	}
	fflush(stdout);
	_exit(SIM_FAILED);
}

static void note(unsigned a, unsigned b, unsigned c)
{
	w.trace_hash = (w.trace_hash ^ (a << 16 | b << 8 | c)) * 0x100000001b3ull;
}

/* --- the device and the glock types --- */

static bool luck(unsigned n)
{
	return w.p->faults && sim_luck && !sim_luck(n);
}

static void commit(unsigned n, unsigned r)
{
	struct cache *c = &w.nodes[n].caches[r];

	w.nodes[n].journal[r].valid = true;
	w.nodes[n].journal[r].v = c->v;
	w.committed[r] = c->v;
	sim_say("    node %u: %u/%u of resource %u committed", n, c->v.meta, c->v.data, r);
}

/* The time of a direct write.  It goes with the glock, as an inode keeps its own. */
static void set_pending(struct gfs2_glock *gl, bool pending)
{
	w.nodes[node_of(gl)].caches[res_of(gl)].raise_tried = false;
	atomic_store_explicit(&gl->gl_wants_ex, pending, memory_order_relaxed);
}

static int s_sync(struct gfs2_glock *gl)
{
	unsigned n = node_of(gl), r = res_of(gl);
	struct cache *c = &w.nodes[n].caches[r];

	co_yield(L_SYNC, r);
	if (gl->gl_state == EX)
		set_pending(gl, false);
	if (!c->dirty || SEEDED_BUG("sim-no-writeback"))
		return 0;
	if (w.nodes[n].sick) {
		/* What is not in the journal is lost, what is there is for those who replay it: until then nobody may have the lock. */
		c->dirty = false;
		w.truth[r] = w.committed[r];
		return 0;
	}
	if (luck(6)) {
		sim_say("    node %u: write-back of resource %u fails", n, r);
		sim_stats.faults++;
		w.fault_seen |= 1u << n;
		w.nodes[n].sick = true;
		return -EIO;
	}
	commit(n, r);
	co_yield(L_SYNC_COMMIT, r);
	w.disk[r].data = c->v.data;
	co_yield(L_SYNC_DATA, r);
	w.disk[r].meta = c->v.meta;
	w.nodes[n].journal[r].valid = false;
	c->dirty = false;
	sim_say("    node %u: resource %u written back, %u/%u", n, r, c->v.meta, c->v.data);
	co_yield(L_SYNC_META, r);
	return 0;
}

static void s_inval(struct gfs2_glock *gl, bool metadata)
{
	unsigned n = node_of(gl), r = res_of(gl);
	struct cache *c = &w.nodes[n].caches[r];

	if (c->dirty)
		sim_fail("node %u: go_inval of resource %u finds dirty data", n, r);
	c->data_valid = false;
	if (metadata)
		c->meta_valid = false;
}

static int s_instantiate(struct gfs2_glock *gl)
{
	unsigned n = node_of(gl), r = res_of(gl), meta = w.disk[r].meta;
	struct cache *c = &w.nodes[n].caches[r];

	if (c->meta_valid)
		sim_fail("node %u: resource %u is instantiated twice", n, r);
	co_yield(L_INST, r);
	if (luck(30)) {
		sim_say("    node %u: reading resource %u fails", n, r);
		/* The holder is dropped, and with GL_NOCACHE the lock. */
		lock_of(gl)->demand_local = true;
		sim_stats.faults++;
		w.fault_seen |= 1u << n;
		return -EIO;
	}
	c->v.meta = meta;
	c->meta_valid = true;
	return 0;
}

static int s_held(struct gfs2_holder *gh)
{
	co_yield(L_HELD, res_of(gh->gh_gl));
	return 0;
}

static void s_callback(struct gfs2_glock *gl, bool remote)
{
	co_yield(L_CALLBACK, res_of(gl));
}

/* Inode with a minimum hold time and value block; resource group; inode whose type wants to be told and asked. */
static const struct gfs2_glock_operations types[MAX_RES + 1] = {
	{ .go_type = LM_TYPE_INODE, .go_flags = GLOF_LRU | GLOF_LVB, .go_sync = s_sync, .go_inval = s_inval,
	  .go_instantiate = s_instantiate },
	{ .go_type = LM_TYPE_RGRP, .go_flags = GLOF_LRU | GLOF_LVB, .go_sync = s_sync, .go_inval = s_inval,
	  .go_instantiate = s_instantiate },
	{ .go_type = LM_TYPE_INODE, .go_flags = GLOF_LRU, .go_sync = s_sync, .go_inval = s_inval,
	  .go_instantiate = s_instantiate, .go_held = s_held, .go_callback = s_callback },
	{ .go_type = LM_TYPE_JOURNAL, .go_flags = GLOF_NONDISK },
};

/* --- the lock module: messages to and from the rules --- */

static int mode_of(enum lm_state s)
{
	static const int modes[4] = {
		[UN] = DLM_LOCK_NL, [EX] = DLM_LOCK_EX, [DF] = DLM_LOCK_CW, [SH] = DLM_LOCK_PR,
	};

	return modes[s];
}

static struct dlm_owner owner_of(unsigned n)
{
	return (struct dlm_owner){ .node = n + 1, .pid = 100 + n };
}

static struct dlm_msg *post(unsigned n, enum msg_type type, unsigned r)
{
	struct node *nd = &w.nodes[n];
	struct dlm_msg *m = &nd->outbox[nd->nr_out++];

	if (nd->nr_out > MAX_MSGS)
		sim_fail("too many messages to the DLM");
	memset(m, 0, sizeof(*m));
	m->type = type;
	m->res = r;
	return m;
}

static unsigned users_of(const struct node *nd, unsigned r)
{
	return nd->users[r][EX] + nd->users[r][DF] + nd->users[r][SH];
}

/* The state is about to change: what may not be in the caches then? */
static void check_request(unsigned n, unsigned r, enum lm_state req, bool try)
{
	const struct node *nd = &w.nodes[n];
	const struct simlock *l = &nd->locks[r];
	const struct cache *c;

	if (l->busy)
		sim_fail("node %u: two requests for resource %u at a time", n, r);
	if (r >= MAX_RES)
		return;
	c = &nd->caches[r];
	if (c->dirty)
		sim_fail("node %u: asks for %s while resource %u is dirty", n, glock_state_name(req), r);
	if (req == UN && (c->meta_valid || c->data_valid))
		sim_fail("node %u: gives up resource %u and keeps its cache", n, r);
	if (req == DF && c->data_valid)
		sim_fail("node %u: goes to DF with data of resource %u cached", n, r);
	if (users_of(nd, r))
		sim_fail("node %u: changes the lock of resource %u under a holder", n, r);
	if (l->gl->gl_why == GLY_RAISE && !try)
		sim_fail("node %u: waits for EX on resource %u, which it holds in %s", n, r, glock_state_name(l->state));
	if (atomic_load(&l->gl->gl_wants_ex) && l->state != UN && req != EX && l->gl->gl_why != GLY_UNLOCK &&
	    !c->raise_tried && !try && !nd->sick && !gfs2_glock_table_dying(l->gl->gl_table))
		sim_fail("node %u: gives resource %u up with a time that nobody else can see, and has not tried for EX", n, r);
}

/* Own demands know no turns. */
static void local_demand_begins(struct simlock *l)
{
	l->demand_local = true;
	l->demands_coming++;
}

static void local_demand_made(struct simlock *l)
{
	l->demands_coming--;
}

static void sim_lm_lock(struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	unsigned n = node_of(gl), r = res_of(gl);
	struct simlock *l = lock_of(gl);
	struct dlm_msg *m;

	check_request(n, r, req, flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB));
	/* A try counts for the one request that follows. */
	if (r < MAX_RES)
		w.nodes[n].caches[r].raise_tried = gl->gl_why == GLY_RAISE;
	note(1, n, r * 4 + req);
	sim_say("    node %u: asks for %u %s%s", n, r, glock_state_name(req),
		flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB) ? " (try)" : "");
	l->busy = true;
	l->req = req;
	l->flags = flags;
	if (gl->gl_why == GLY_DEMOTE)
		sim_stats.demotes++;
	m = post(n, MSG_LOCK, r);
	m->mode = mode_of(req);
	m->halves = w.p->halves && !gl->gl_lost &&
		    ((l->state == SH && req == DF) || (l->state == DF && req == SH));
	m->flags = DLM_LKF_PERSISTENT;
	if (gl->gl_ops->go_flags & GLOF_LVB)
		m->flags |= DLM_LKF_VALBLK;
	if (flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB))
		m->flags |= DLM_LKF_NOQUEUE;
	if (flags & LM_FLAG_TRY_1CB)
		m->flags |= DLM_LKF_NOQUEUEBAST;
	if (gl->gl_flags & 1ul << GLF_BLOCKING)
		m->flags |= DLM_LKF_QUECVT;
	memcpy(m->lvb, gl->gl_lvb, sizeof(m->lvb));
}

static void sim_lm_cancel(struct gfs2_glock *gl)
{
	note(2, node_of(gl), res_of(gl));
	sim_say("    node %u: takes its request for %u back", node_of(gl), res_of(gl));
	sim_stats.cancels++;
	post(node_of(gl), MSG_CANCEL, res_of(gl));
}

static void forget(struct simlock *l)
{
	struct gfs2_glock *gl = l->gl;
	bool preempt = co_preempt;

	/* Whoever dies in between would leave it in the table, where nobody looks for it. */
	co_preempt = false;
	*l = (struct simlock){ .demands_coming = l->demands_coming };
	gfs2_glock_free(gl);
	co_preempt = preempt;
}

static void sim_lm_put(struct gfs2_glock *gl)
{
	struct simlock *l = lock_of(gl);

	if (!l->gl)
		sim_fail("node %u: a glock is put that nobody got", node_of(gl));
	if (!l->lkid) {
		forget(l);
		return;
	}
	l->putting = true;
	post(node_of(gl), MSG_UNLOCK, res_of(gl));
}

static const struct lm_lockops lm_sim = {
	.lm_proto_name = "lock_sim",
	.lm_lock = sim_lm_lock,
	.lm_cancel = sim_lm_cancel,
	.lm_put_lock = sim_lm_put,
	.lm_has_peers = true,
};

/* What the rules have to say goes to the nodes' inboxes at once: later means more chances, not fewer messages. */
static void drain_dlm(void)
{
	struct dlm_output out;

	while (dlm_rules_next(w.dlm, (struct dlm_owner){ 0 }, &out)) {
		unsigned n = out.owner.node - 1;
		struct node *nd = &w.nodes[n];

		if (!nd->alive)
			continue;
		/* The first half: what follows is on its way. */
		if (out.type == DLM_OUT_AST && out.mode == DLM_LOCK_CR && !out.status)
			continue;
		if (nd->nr_in == MAX_MSGS)
			sim_fail("too many messages from the DLM");
		if (out.type == DLM_OUT_AST) {
			sim_stats.deadlocks += out.status == -EDEADLK;
			sim_stats.refused += out.status == -EAGAIN;
			sim_stats.granted += !out.status;
		}
		nd->inbox[nd->nr_in++] = out;
	}
}

static void mark_locked(const struct dlm_lock_info *info, void *arg)
{
	((bool *)arg)[(uintptr_t)info->cookie - 1] = true;
}

/* With its last lock a resource goes, and its value block. */
static void forget_unlocked(void)
{
	bool locked[ALL_RES] = { false };

	dlm_rules_for_each(w.dlm, mark_locked, locked);
	for (unsigned r = 0; r < MAX_RES; r++)
		if (!locked[r])
			w.truth_lvb[r] = 0;
}

static void dlm_take(unsigned n)
{
	struct node *nd = &w.nodes[n];
	struct dlm_msg m = nd->outbox[0];
	struct simlock *l = &nd->locks[m.res];
	struct dlm_ask ask = {
		.mode = m.mode, .flags = m.flags, .bast = true, .lvb = m.lvb,
		.cookie = (void *)(uintptr_t)(m.res + 1),
	};
	char name[25];
	int error = 0;

	memmove(nd->outbox, nd->outbox + 1, --nd->nr_out * sizeof(nd->outbox[0]));
	switch (m.type) {
	case MSG_LOCK:
		if (l->lkid) {
			struct dlm_ask down = ask;

			down.mode = DLM_LOCK_CR;
			down.flags = DLM_LKF_PERSISTENT;
			if (m.halves)
				error = dlm_rules_convert(w.dlm, l->lkid, &down);
			if (!error)
				error = dlm_rules_convert(w.dlm, l->lkid, &ask);
			break;
		}
		ask.flags &= ~DLM_LKF_QUECVT;
		snprintf(name, sizeof(name), "%8x%16x", l->gl->gl_type, (unsigned)l->gl->gl_number);
		error = dlm_rules_lock(w.dlm, owner_of(n), name, 24, &ask, &l->lkid);
		break;
	case MSG_CANCEL:
		if (l->lkid)
			error = dlm_rules_cancel(w.dlm, l->lkid);
		/* A request that was refused meanwhile has left no lock. */
		if (error == -ENOENT)
			error = 0;
		break;
	case MSG_UNLOCK:
		error = dlm_rules_unlock(w.dlm, l->lkid, 0, NULL);
		forget_unlocked();
		break;
	}
	if (error)
		sim_fail("the DLM refuses a request of node %u for %u: %d", n, m.res, error);
	drain_dlm();
}

static bool recovering(void)
{
	for (unsigned n = 0; n < w.p->nodes; n++)
		if (w.nodes[n].dead_unrecovered && !w.p->kill_process)
			return true;
	return false;
}

static unsigned res_of_output(const struct dlm_output *o)
{
	return (uintptr_t)o->cookie - 1;
}

/* Grants wait until the journals of the dead are replayed; a process's orphaned locks need no gate. */
static bool gated(const struct node *nd, const struct dlm_output *o)
{
	const struct simlock *l = &nd->locks[res_of_output(o)];

	return recovering() && o->type == DLM_OUT_AST && !o->status && l->req != UN &&
	       res_of_output(o) < MAX_RES && !(l->flags & LM_FLAG_NOEXP) && !SEEDED_BUG("sim-no-gate");
}

/* May this message be the next that the node sees? */
static bool deliverable(const struct node *nd, unsigned i)
{
	const struct dlm_output *o = &nd->inbox[i];

	if (gated(nd, o)) {
		sim_stats.gated++;
		return false;
	}
	for (unsigned j = 0; j < i; j++)
		if (nd->inbox[j].cookie == o->cookie && (!w.p->reorder || nd->inbox[j].type == o->type))
			return false;
	return true;
}

static void take_ast(struct simlock *l, const struct dlm_output *o)
{
	struct gfs2_glock *gl = l->gl;
	enum lm_state state = l->state;
	int bits = 0;

	if (o->status == -DLM_EUNLOCK) {
		forget(l);
		return;
	}
	l->busy = false;
	if (o->mode == DLM_LOCK_IV) {
		l->lkid = 0;
		state = UN;
	}
	if (o->status == -DLM_ECANCEL)
		bits = LM_OUT_CANCELED;
	else if (!o->status)
		state = l->req;
	if (o->status && o->mode == DLM_LOCK_CR) {
		sim_stats.lost++;
		/* There is nothing left to have a turn with. */
		l->demand_timed = false;
		bits |= LM_OUT_LOST;
	}
	if (o->lvb_read)
		memcpy(gl->gl_lvb, o->lvb, sizeof(gl->gl_lvb));
	if ((o->sbflags & DLM_SBF_VALNOTVALID) && !SEEDED_BUG("sim-stale-value-block"))
		memset(gl->gl_lvb, 0, sizeof(gl->gl_lvb));
	if (state != l->state) {
		l->granted_ns = w.clock;
		l->demand_timed = false;
	}
	l->state = state;
	gfs2_glock_complete(gl, (int)state | bits);
	if (l->gl && !(l->gl->gl_flags & (1ul << GLF_DEMOTE | 1ul << GLF_PENDING_DEMOTE)) && !l->demands_coming)
		l->demand_local = false;
}

static void take_bast(struct simlock *l, const struct dlm_output *o)
{
	enum lm_state wished = o->mode == DLM_LOCK_PR ? SH : o->mode == DLM_LOCK_CW ? DF : UN;
	bool preempt = co_preempt;

	if (!l->gl || l->putting || l->lkid != o->lkid)
		return;
	if (l->busy)
		sim_stats.early_basts++;
	/*
	 * As in the kernel: the time is for those who are there when the demand comes, the last one counts, and a demand that
	 * comes while an earlier one is being followed is followed with it.
	 */
	l->demand_timed = l->gl->gl_type == LM_TYPE_INODE && !list_empty(&l->gl->gl_holders) &&
			  l->gl->gl_phase == GLP_IDLE && !(l->gl->gl_flags & 1ul << GLF_DEMOTE);
	/* Else somebody could leave between the look at the holders and the demand. */
	co_preempt = false;
	gfs2_glock_cb(l->gl, wished, true);
	co_preempt = preempt;
}

static struct dlm_output delivering[MAX_NODES];

static void reader_fn(struct co *co, void *arg)
{
	unsigned n = (uintptr_t)arg;
	const struct dlm_output *o = &delivering[n];
	struct simlock *l = &w.nodes[n].locks[res_of_output(o)];

	if (o->type == DLM_OUT_AST)
		take_ast(l, o);
	else
		take_bast(l, o);
	w.nodes[n].reader = NULL;
}

static void deliver(unsigned n, unsigned i)
{
	struct node *nd = &w.nodes[n];
	const struct dlm_output *o = &nd->inbox[i];
	unsigned r = res_of_output(o);

	delivering[n] = *o;
	memmove(nd->inbox + i, nd->inbox + i + 1, (--nd->nr_in - i) * sizeof(nd->inbox[0]));
	o = &delivering[n];
	note(3, n, r * 8 + (o->type == DLM_OUT_BAST ? 7 : o->mode + 1));
	sim_say("    node %u: %s for %u: %s, status %d", n, o->type == DLM_OUT_AST ? "answer" : "demand", r,
		dlm_mode_name(o->mode), o->status);
	nd->reader = co_start(n, "reader", reader_fn, (void *)(uintptr_t)n, 0);
	/* It may be over, and nd->reader NULL, when this returns. */
	co_resume(nd->reader);
}

/* --- callers --- */

static struct gfs2_glock *get_glock(unsigned n, unsigned r)
{
	struct node *nd = &w.nodes[n];
	struct gfs2_glock *gl = gfs2_glock_get(nd->table, r < MAX_RES ? r : r - JOURNALS,
					       &types[r < MAX_RES ? r : MAX_RES]);

	nd->locks[r].gl = gl;
	return gl;
}

static unsigned lvb_value(const struct gfs2_glock *gl)
{
	unsigned v;

	memcpy(&v, gl->gl_lvb, sizeof(v));
	return v;
}

static void check_neighbours(unsigned n, unsigned r, enum lm_state as)
{
	for (unsigned m = 0; m < w.p->nodes; m++) {
		const unsigned *users = w.nodes[m].users[r];

		if (m == n || !w.nodes[m].alive)
			continue;
		if (users[EX] || (as != SH && users[SH]) || (as != DF && users[DF]))
			sim_fail("nodes %u and %u use resource %u together, the first as %s", n, m, r,
				 glock_state_name(as));
	}
}

static void use_exclusive(struct task *t, struct gfs2_glock *gl, const struct op *op)
{
	unsigned n = node_of(gl), r = res_of(gl);
	struct cache *c = &w.nodes[n].caches[r];

	if (!c->data_valid) {
		c->v.data = w.disk[r].data;
		c->data_valid = true;
	}
	if (c->v.data != w.truth[r].data)
		sim_fail("node %u reads %u in resource %u under EX, not %u", n, c->v.data, r,
			 w.truth[r].data);
	co_yield(L_USE, r);
	set_pending(gl, false);
	w.truth[r].meta = ++c->v.meta;
	w.truth[r].data = ++c->v.data;
	c->dirty = true;
	if (gl->gl_ops->go_flags & GLOF_LVB) {
		w.truth_lvb[r] = ++w.lvb_counter;
		memcpy(gl->gl_lvb, &w.truth_lvb[r], sizeof(w.truth_lvb[r]));
	}
	if (op->fsync) {
		co_yield(L_FSYNC, r);
		commit(n, r);
	}
}

/* Direct I/O.  Under an EX lock the cache must be dealt with here: nobody else did. */
static void use_deferred(struct gfs2_glock *gl)
{
	unsigned n = node_of(gl), r = res_of(gl);
	struct cache *c = &w.nodes[n].caches[r];

	if (c->dirty) {
		commit(n, r);
		w.disk[r] = c->v;
		w.nodes[n].journal[r].valid = false;
		c->dirty = false;
	}
	c->data_valid = false;
	co_yield(L_USE_DF, r);
	w.committed[r].data = ++w.truth[r].data;
	w.disk[r].data++;
	set_pending(gl, true);
}

static void use(struct task *t, struct gfs2_holder *gh, const struct op *op)
{
	struct gfs2_glock *gl = gh->gh_gl;
	unsigned n = node_of(gl), r = res_of(gl);
	enum lm_state held = gl->gl_state, as = gh->gh_state;
	struct cache *c = &w.nodes[n].caches[r];

	note(4, t->nr, r * 4 + as);
	sim_say("    node %u: caller %u has %u as %s (%s is held)", n, t->nr, r, glock_state_name(as),
		glock_state_name(held));
	if (held == UN || !gfs2_holder_queued(gh))
		sim_fail("node %u: granted, but nothing is held", n);
	if (held != EX && held != as) {
		if (!(gh->gh_flags & LM_FLAG_ANY))
			sim_fail("node %u: a holder for %s runs under %s", n, glock_state_name(as),
				 glock_state_name(held));
		as = held;
	}
	w.nodes[n].users[r][as]++;
	check_neighbours(n, r, as);
	if (gh->gh_flags & GL_SKIP) {
		co_yield(L_USE, r);
	} else {
		gfs2_assert_held(gl, gh->gh_state == EX);
		if (!c->meta_valid)
			sim_fail("node %u: resource %u is used and was not read", n, r);
		if (c->v.meta != w.truth[r].meta)
			sim_fail("node %u sees %u in resource %u, not %u", n, c->v.meta, r,
				 w.truth[r].meta);
		if ((gl->gl_ops->go_flags & GLOF_LVB) && lvb_value(gl) != w.truth_lvb[r])
			sim_fail("node %u: value block %u of resource %u, not %u", n, lvb_value(gl), r,
				 w.truth_lvb[r]);
		if (gh->gh_state == EX) {
			use_exclusive(t, gl, op);
		} else if (gh->gh_state == DF && (as == DF || held == EX)) {
			use_deferred(gl);
		} else if (as == SH) {
			if (!c->data_valid) {
				unsigned data = w.disk[r].data;

				co_yield(L_READ, r);
				c->v.data = data;
				c->data_valid = true;
			} else {
				co_yield(L_USE, r);
			}
			if (c->v.data != w.truth[r].data)
				sim_fail("node %u reads %u in resource %u, not %u", n, c->v.data, r,
					 w.truth[r].data);
		} else {
			co_yield(L_USE, r);
		}
	}
	check_neighbours(n, r, as);
	w.nodes[n].users[r][as]--;
}

static void granted_cb(struct gfs2_holder *gh)
{
	struct task *t = gh->gh_priv;

	sim_say("    caller %u is told", t->nr);
	if (t->called)
		sim_fail("caller %u: gh_granted is called twice", t->nr);
	if (t->canceled)
		sim_fail("caller %u: gh_granted is called after the holder was taken back", t->nr);
	t->called = true;
	if (t->co->label == L_ASYNC)
		co_wake(t->co);
}

static int wait_callback(struct task *t, struct gfs2_holder *gh)
{
	int error;

	gh->gh_granted = granted_cb;
	gh->gh_priv = t;
	t->called = t->canceled = false;
	t->co->label = L_START;
	error = gfs2_glock_nq(gh);
	if (error)
		return error;
	while (!t->called && !t->canceled)
		co_block(L_ASYNC);
	t->co->label = L_START;
	return t->canceled ? -ECANCELED : gh->gh_error;
}

static void check_result(const struct task *t, const struct op *op, int error)
{
	unsigned n = w.p->tasks[t->nr].node;

	switch (error) {
	case 0:
		return;
	case GLR_TRYFAILED:
		sim_stats.try_failed++;
		if (!(op->flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB | GL_TRY_OTHERS)))
			sim_fail("caller %u: \"try failed\" for a request that waits", t->nr);
		if (w.p->nr_tasks == 1 && w.p->tasks[0].nr_ops == 1)
			sim_fail("caller %u: nobody is in the way of a try request", t->nr);
		return;
	case -ECANCELED:
		if (!t->canceling)
			sim_fail("caller %u: nobody took it back", t->nr);
		return;
	case -EIO:
		if (!(w.fault_seen & 1u << n))
			sim_fail("caller %u: an error without a cause", t->nr);
		return;
	}
	sim_fail("caller %u: error %d", t->nr, error);
}

static int lock_op(struct task *t, const struct op *op, struct gfs2_holder *gh)
{
	unsigned n = w.p->tasks[t->nr].node;
	struct gfs2_glock *gl = get_glock(n, op->res);
	unsigned async = op->how == HOW_ASYNC || op->how == HOW_CALLBACK ? GL_ASYNC : 0;
	int error = 0;

	gfs2_holder_init(gl, op->state, op->flags | async, gh, "caller");
	gfs2_glock_put(gl);
	t->waits = gh;
	t->canceling = false;
	switch ((enum op_how)op->how) {
	case HOW_FAST:
		error = gfs2_glock_nq_fast(gh) ? 0 : -EAGAIN;
		sim_stats.fast += !error;
		break;
	case HOW_SYNC:
		error = gfs2_glock_nq(gh);
		break;
	case HOW_ASYNC:
		error = gfs2_glock_nq(gh);
		if (error)
			break;
		co_yield(L_ASYNC, 1);
		error = gfs2_glock_wait(gh);
		break;
	case HOW_CALLBACK:
		error = wait_callback(t, gh);
		break;
	}
	t->waits = NULL;
	/* The holder is there as long as somebody is taking it back. */
	while (t->cancel_runs)
		co_yield(L_DONE, 1);
	if (op->how != HOW_FAST)
		check_result(t, op, error);
	if (error)
		gfs2_holder_uninit(gh);
	return error;
}

static void release_all(struct task *t)
{
	while (t->nr_held) {
		struct gfs2_holder *gh = &t->ghs[--t->nr_held];

		struct simlock *l = lock_of(gh->gh_gl);

		if (gh->gh_flags & GL_NOCACHE)
			local_demand_begins(l);
		gfs2_glock_dq_uninit(gh);
		if (gh->gh_flags & GL_NOCACHE)
			local_demand_made(l);
	}
}

static void lock_and_use(struct task *t, const struct op *op)
{
	struct gfs2_holder *gh = &t->ghs[t->nr_held];
	int error = lock_op(t, op, gh);

	t->results[t->pc] = error;
	sim_say("    node %u: caller %u: %s of %u gives %d", w.p->tasks[t->nr].node, t->nr,
		glock_state_name(op->state), op->res, error);
	if (!error) {
		t->nr_held++;
		use(t, gh, op);
	}
	if (error || !op->nest)
		release_all(t);
}

static void demote_op(unsigned n, const struct op *op)
{
	struct gfs2_glock *gl = get_glock(n, op->res);

	local_demand_begins(&w.nodes[n].locks[op->res]);
	gfs2_glock_cb(gl, op->state, false);
	local_demand_made(&w.nodes[n].locks[op->res]);
	gfs2_glock_put(gl);
}

static void task_fn(struct co *co, void *arg)
{
	struct task *t = arg;
	unsigned n = w.p->tasks[t->nr].node;

	for (t->pc = 0; t->pc < w.p->tasks[t->nr].nr_ops; t->pc++) {
		const struct op *op = &w.p->tasks[t->nr].ops[t->pc];

		if (t->pc)
			co_yield(L_DONE, 0);
		switch ((enum op_kind)op->kind) {
		case OP_LOCK:
			lock_and_use(t, op);
			break;
		case OP_DEMOTE:
			demote_op(n, op);
			break;
		case OP_SHRINK:
			for (unsigned r = 0; r < ALL_RES; r++)
				local_demand_begins(&w.nodes[n].locks[r]);
			gfs2_glock_shrink(w.nodes[n].table, 1);
			for (unsigned r = 0; r < ALL_RES; r++)
				local_demand_made(&w.nodes[n].locks[r]);
			break;
		case OP_END:
			break;
		}
	}
	release_all(t);
	t->finished = true;
}

static void worker_fn(struct co *co, void *arg)
{
	struct node *nd = &w.nodes[(uintptr_t)arg];

	gfs2_glock_work_run_one(nd->table);
	nd->workers--;
}

static bool can_cancel(const struct task *t)
{
	unsigned iflags;

	if (!t->waits || t->canceling || t->finished || !w.p->tasks[t->nr].ops[t->pc].cancel)
		return false;
	iflags = atomic_load(&t->waits->gh_iflags);
	return iflags & HIF_WAIT || (t->waits->gh_granted && iflags & HIF_FINISH);
}

static void cancel_fn(struct co *co, void *arg)
{
	struct task *t = arg;
	struct simlock *l;
	bool nocache;

	if (!can_cancel(t))
		return;
	l = lock_of(t->waits->gh_gl);
	nocache = t->waits->gh_flags & GL_NOCACHE;
	t->canceling = t->cancel_runs = true;
	/* It may have been granted already, and go with the lock. */
	if (nocache)
		local_demand_begins(l);
	if (!t->waits->gh_granted) {
		gfs2_glock_dq(t->waits);
	} else if (gfs2_glock_cancel(t->waits)) {
		t->canceled = true;
		co_wake(t->co);
	}
	if (nocache)
		local_demand_made(l);
	t->cancel_runs = false;
}

/* --- death and recovery --- */

static void replay(unsigned dead)
{
	struct node *nd = &w.nodes[dead];

	for (unsigned r = 0; r < MAX_RES; r++) {
		if (!nd->journal[r].valid)
			continue;
		co_yield(L_REPLAY, r);
		w.disk[r].data = nd->journal[r].v.data;
		co_yield(L_REPLAY_META, r);
		w.disk[r].meta = nd->journal[r].v.meta;
		nd->journal[r].valid = false;
	}
	co_yield(L_REPLAYED, dead);
	nd->dead_unrecovered = false;
	sim_stats.recoveries++;
	sim_say("    the journal of node %u is replayed", dead);
}

/* Every survivor tries every journal; the one that gets its lock first replays it. */
static void recover_fn(struct co *co, void *arg)
{
	unsigned me = (uintptr_t)arg / MAX_NODES, dead = (uintptr_t)arg % MAX_NODES;
	struct gfs2_glock *gl = get_glock(me, JOURNALS + dead);
	struct gfs2_holder gh;
	int error;

	gfs2_holder_init(gl, EX, LM_FLAG_NOEXP | GL_NOCACHE, &gh, "recover");
	gfs2_glock_put(gl);
	error = gfs2_glock_nq(&gh);
	if (!error && w.nodes[dead].dead_unrecovered)
		replay(dead);
	gfs2_glock_dq_uninit(&gh);
}

static void supervisor_fn(struct co *co, void *arg)
{
	unsigned dead = (uintptr_t)arg;

	if (!SEEDED_BUG("sim-purge-first"))
		replay(dead);
	dlm_rules_purge(w.dlm, owner_of(dead));
	forget_unlocked();
	drain_dlm();
	if (w.nodes[dead].dead_unrecovered)
		replay(dead);
}

static void free_glocks(struct node *nd)
{
	for (unsigned r = 0; r < ALL_RES; r++) {
		struct gfs2_glock *gl = nd->locks[r].gl;

		if (!gl)
			continue;
		list_del_init(&gl->gl_work);
		memset(&nd->locks[r], 0, sizeof(nd->locks[r]));
		gfs2_glock_free(gl);
	}
	list_init(&nd->table->t_work);
	list_init(&nd->table->t_delayed);
	atomic_store(&nd->table->t_withdrawn, false);
	atomic_store(&nd->table->t_destroying, false);
}

/* An EX lock with a value block dies with its holder's value. */
static void lose_value_block(const struct dlm_lock_info *info, void *arg)
{
	unsigned r = (uintptr_t)info->cookie - 1;

	if (info->owner.node == *(unsigned *)arg + 1 && info->granted == DLM_LOCK_EX && r < MAX_RES)
		w.truth_lvb[r] = 0;
}

static void die(unsigned n)
{
	struct node *nd = &w.nodes[n];

	nd->alive = false;
	nd->dead_unrecovered = true;
	sim_stats.deaths++;
	co_kill_node(n);
	nd->reader = NULL;
	nd->nr_in = nd->nr_out = nd->workers = 0;
	memset(nd->users, 0, sizeof(nd->users));
	for (unsigned r = 0; r < MAX_RES; r++)
		if (nd->caches[r].dirty)
			w.truth[r] = w.committed[r];
	memset(nd->caches, 0, sizeof(nd->caches));
	dlm_rules_for_each(w.dlm, lose_value_block, &n);
	free_glocks(nd);
	if (w.p->kill_process) {
		dlm_rules_process_orphaned(w.dlm, owner_of(n));
		sim_stats.orphaned++;
		co_start(-1, "supervisor", supervisor_fn, (void *)(uintptr_t)n, 0);
	} else {
		dlm_rules_node_died(w.dlm, n + 1);
		forget_unlocked();
		for (uintptr_t m = 0; m < w.p->nodes; m++)
			for (unsigned d = 0; w.nodes[m].alive && d < w.p->nodes; d++)
				if (w.nodes[d].dead_unrecovered)
					co_start(m, "recovery", recover_fn,
						 (void *)(m * MAX_NODES + d), 0x10000 + w.step);
	}
	drain_dlm();
}

static void withdraw_fn(struct co *co, void *arg)
{
	gfs2_glock_table_withdraw(w.nodes[(uintptr_t)arg].table);
}

/* --- checks --- */

static bool is_try(const struct gfs2_holder *gh)
{
	return gh->gh_flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB);
}

/* A turn ends early only when nobody has wanted the lock for a while. */
static void check_turn(unsigned n, unsigned r, struct simlock *l)
{
	bool demoting = l->gl->gl_flags & 1ul << GLF_DEMOTE;

	if (demoting && !l->demoting && l->demand_timed && !l->demand_local &&
	    w.clock < l->granted_ns + GLOCK_TURN_MIN_NS && w.clock < l->busy_ns + GLOCK_TURN_MIN_NS / GLOCK_TURN_IDLE)
		sim_fail("node %u: gives up resource %u before its turn is over", n, r);
	l->demoting = demoting;
	if (!list_empty(&l->gl->gl_holders))
		l->busy_ns = w.clock;
}

static void check_glock(unsigned n, unsigned r, const struct simlock *l)
{
	const struct gfs2_glock *gl = l->gl;
	const struct gfs2_holder *gh, *first = glock_first_holder(gl);
	struct dlm_lock_info info;
	int mode = DLM_LOCK_NL;
	bool in_dlm_queue = false;

	if (l->lkid && dlm_rules_get(w.dlm, l->lkid, &info)) {
		mode = info.granted == DLM_LOCK_IV ? DLM_LOCK_NL : info.granted;
		in_dlm_queue = info.status != DLM_STS_GRANTED;
	}
	if (!l->busy && !l->putting && mode != (gl->gl_lost ? DLM_LOCK_CR : mode_of(gl->gl_state)) && !w.nodes[n].reader)
		sim_fail("node %u believes it has %s on %u, the DLM says %s", n,
			 glock_state_name(gl->gl_state), r, dlm_mode_name(mode));
	if (gl->gl_phase != GLP_IDLE && first)
		sim_fail("node %u: %u has a holder and a transition", n, r);
	list_for_each_entry(gh, &gl->gl_holders, gh_list)
		if (first && holder_waits(gh) && is_try(gh) && gl->gl_phase == GLP_IDLE)
			sim_fail("node %u: a try request waits for a holder on %u", n, r);
		else if (holder_waits(gh) && is_try(gh) && in_dlm_queue && !gl->gl_canceled)
			sim_fail("node %u: a try request waits for the DLM on %u", n, r);
	gh = glock_first_waiter(gl);
	if (gh && (gh->gh_flags & GL_TRY_OTHERS) && in_dlm_queue && gl->gl_why == GLY_PROMOTE && !gl->gl_canceled)
		sim_fail("node %u: who does not want to wait for others does so on %u", n, r);
}

/* What is cached without being looked at must be right as well: the fast path would use it. */
static void check_cache(unsigned n, unsigned r, const struct simlock *l)
{
	const struct cache *c = &w.nodes[n].caches[r];
	enum lm_state state = l->gl ? l->gl->gl_state : UN;

	if (w.nodes[n].sick || (l->gl && l->gl->gl_phase != GLP_IDLE))
		return;
	if (c->dirty && state != EX)
		sim_fail("node %u: resource %u is dirty under %s", n, r, glock_state_name(state));
	if (state == UN && (c->meta_valid || c->data_valid))
		sim_fail("node %u: resource %u is cached without a lock", n, r);
	if (state == DF && c->data_valid)
		sim_fail("node %u: data of resource %u are cached under DF", n, r);
	if (c->meta_valid && c->v.meta != w.truth[r].meta)
		sim_fail("node %u: has cached %u of resource %u, the truth is %u", n, c->v.meta, r,
			 w.truth[r].meta);
	if (c->data_valid && c->v.data != w.truth[r].data)
		sim_fail("node %u: has cached data %u of resource %u, the truth is %u", n, c->v.data, r,
			 w.truth[r].data);
}

static void check_dlm_lock(const struct dlm_lock_info *info, void *arg)
{
	const struct simlock *l = &w.nodes[info->owner.node - 1].locks[(uintptr_t)info->cookie - 1];

	if (info->status != DLM_STS_GRANTED && w.nodes[info->owner.node - 1].alive &&
	    (l->flags & (LM_FLAG_TRY | LM_FLAG_TRY_1CB)))
		sim_fail("node %u: a try request waits in the DLM", info->owner.node - 1);
}

/*
 * After every step:
 *  - the DLM's own rules; a try request never waits there;
 *  - what a node believes to hold is what it was granted; no holder during a transition; no try request behind a holder;
 *  - what is cached is allowed by the state and is the truth.
 *  - a turn was over, or the lock idle for a while, before it is to be given up.
 * At requests (check_request): dirty things were written, caches dropped, nobody uses the lock.
 * At uses (use): holders of different nodes are compatible; metadata, data and value block are the truth.
 * At the end (check_end): everybody was answered, with an error only if there was a cause; everything can be given up, and is on the device.
 */
static void check_step(void)
{
	const char *wrong = dlm_rules_check(w.dlm);

	if (wrong)
		sim_fail("the rules of the DLM: %s", wrong);
	dlm_rules_for_each(w.dlm, check_dlm_lock, NULL);
	for (unsigned n = 0; n < w.p->nodes; n++) {
		struct node *nd = &w.nodes[n];

		if (!nd->alive)
			continue;
		for (unsigned r = 0; r < ALL_RES; r++) {
			if (nd->locks[r].gl) {
				check_glock(n, r, &nd->locks[r]);
				check_turn(n, r, &nd->locks[r]);
			}
			if (r < MAX_RES)
				check_cache(n, r, &nd->locks[r]);
		}
	}
}

/* --- what can happen next --- */

static unsigned add(struct action *acts, unsigned nr, enum act_kind kind, int a, int b)
{
	GFS2_BUG_ON(nr == MAX_ACTIONS);
	acts[nr] = (struct action){ kind, a, b };
	return nr + 1;
}

static uint64_t next_due(void)
{
	uint64_t due = UINT64_MAX;

	for (unsigned n = 0; n < w.p->nodes; n++)
		if (w.nodes[n].alive)
			due = min_t(uint64_t, due, gfs2_glock_work_due(w.nodes[n].table));
	return due;
}

static unsigned possible_actions(struct action *acts)
{
	unsigned nr = 0;
	uint64_t due;

	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].state == CO_READY)
			nr = add(acts, nr, ACT_RUN, i, 0);
	for (unsigned n = 0; n < w.p->nodes; n++) {
		struct node *nd = &w.nodes[n];

		if (!nd->alive)
			continue;
		if (nd->workers < MAX_WORKERS && gfs2_glock_work_due(nd->table) <= w.clock)
			nr = add(acts, nr, ACT_WORK, n, 0);
		if (nd->nr_out)
			nr = add(acts, nr, ACT_DLM, n, 0);
		for (unsigned i = 0; i < nd->nr_in; i++) {
			if (nd->reader)
				break;
			if (!deliverable(nd, i))
				continue;
			nr = add(acts, nr, ACT_DELIVER, n, i);
			if (!w.p->reorder)
				break;
		}
		if (nd->sick || w.deaths_left)
			nr = add(acts, nr, ACT_DIE, n, 0);
	}
	for (unsigned i = 0; i < w.p->nr_tasks; i++)
		if (w.nodes[w.p->tasks[i].node].alive && can_cancel(&w.tasks[i]))
			nr = add(acts, nr, ACT_CANCEL, i, 0);
	due = next_due();
	if (due > w.clock && due != UINT64_MAX)
		nr = add(acts, nr, ACT_TICK, 0, 0);
	return nr;
}

void action_text(const struct action *act, char *buf, size_t size)
{
	switch (act->kind) {
	case ACT_RUN:
		snprintf(buf, size, "%s of node %d goes on", fibres[act->a].name, fibres[act->a].node);
		return;
	case ACT_WORK:
		snprintf(buf, size, "a worker of node %d", act->a);
		return;
	case ACT_DLM:
		snprintf(buf, size, "the DLM takes a message of node %d", act->a);
		return;
	case ACT_DELIVER:
		snprintf(buf, size, "node %d gets message %d", act->a, act->b);
		return;
	case ACT_TICK:
		snprintf(buf, size, "time passes");
		return;
	case ACT_CANCEL:
		snprintf(buf, size, "caller %d gives up", act->a);
		return;
	case ACT_DIE:
		snprintf(buf, size, "node %d dies", act->a);
		return;
	default:
		snprintf(buf, size, "?");
	}
}

static void perform(const struct action *act)
{
	bool preempt = co_preempt;

	switch (act->kind) {
	case ACT_RUN:
		co_resume(&fibres[act->a]);
		break;
	case ACT_WORK:
		w.nodes[act->a].workers++;
		co_resume(co_start(act->a, "worker", worker_fn, (void *)(uintptr_t)act->a, 0));
		break;
	case ACT_DLM:
		dlm_take(act->a);
		break;
	case ACT_DELIVER:
		deliver(act->a, act->b);
		break;
	case ACT_TICK:
		w.clock = next_due();
		break;
	case ACT_CANCEL:
		/* Whoever takes back a holder that a thread sleeps for must know that it still sleeps. */
		co_preempt = co_preempt && w.tasks[act->a].waits->gh_granted;
		co_resume(co_start(w.p->tasks[act->a].node, "cancel", cancel_fn, &w.tasks[act->a], 0));
		co_preempt = preempt;
		break;
	case ACT_DIE:
		if (!w.nodes[act->a].sick)
			w.deaths_left--;
		die(act->a);
		break;
	default:
		break;
	}
	/* Whose disk failed stops at once, and is dead for the others a little later. */
	for (unsigned n = 0; n < w.p->nodes; n++)
		if (w.nodes[n].alive && w.nodes[n].sick &&
		    !atomic_load(&w.nodes[n].table->t_withdrawn)) {
			atomic_store(&w.nodes[n].table->t_withdrawn, true);
			co_start(n, "withdraw", withdraw_fn, (void *)(uintptr_t)n, 0);
		}
}

/* --- the hash --- */

static uint64_t mix(uint64_t h, uint64_t v)
{
	h ^= v + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2);
	h *= 0xff51afd7ed558ccdull;
	return h ^ h >> 29;
}

static uint64_t hash_holder(uint64_t h, const struct gfs2_holder *gh)
{
	h = mix(h, gh->gh_owner);
	h = mix(h, (uint64_t)gh->gh_flags << 16 | gh->gh_state << 8 | atomic_load(&gh->gh_iflags));
	return h;
}

static uint64_t hash_glock(uint64_t h, const struct simlock *l)
{
	const struct gfs2_glock *gl = l->gl;
	const struct gfs2_holder *gh;
	uint64_t over;

	h = mix(h, l->lkid != 0);
	h = mix(h, l->state | l->req << 4 | l->busy << 8 | l->putting << 9 | l->demand_timed << 10 |
			   l->demand_local << 11 | l->demoting << 12 | l->demands_coming << 13);
	h = mix(h, l->flags);
	if (!gl)
		return mix(h, 77);
	over = gl->gl_tchange_ns + gl->gl_hold_ns;
	h = mix(h, gl->gl_phase | gl->gl_state << 2 | gl->gl_target << 4 | gl->gl_demote_state << 6 |
			   gl->gl_req << 8 | gl->gl_why << 10 | gl->gl_unlock_first << 12 |
			   gl->gl_canceled << 13 | gl->gl_cb_wanted << 14 | gl->gl_cb_running << 15 |
			   gl->gl_cb_remote << 16 | gl->gl_used << 17 | gl->gl_raise_tried << 18 |
			   atomic_load(&gl->gl_wants_ex) << 19 | gl->gl_lost << 20 | gl->gl_asked << 21);
	h = mix(h, gl->gl_flags);
	h = mix(h, (uint64_t)gl->gl_req_flags << 32 | atomic_load(&gl->gl_ref));
	h = mix(h, over > w.clock ? over - w.clock : 0);
	h = mix(h, gl->gl_hold_ns);
	h = mix(h, gl->gl_cost_ns);
	h = mix(h, gl->gl_flags & 1ul << GLF_PENDING_DEMOTE && list_empty(&gl->gl_holders) ? w.clock - gl->gl_idle_ns : 0);
	h = mix(h, gl->gl_gap | (gl->gl_gone_ns ? min_t(uint64_t, w.clock - gl->gl_gone_ns, GLOCK_TURN_MAX_NS) : GLOCK_TURN_MAX_NS + 1) << 1);
	h = mix(h, gl->gl_phase != GLP_IDLE && gl->gl_why == GLY_DEMOTE ? w.clock - gl->gl_start_ns : 0);
	h = mix(h, l->demand_timed ? min_t(uint64_t, w.clock - l->busy_ns, GLOCK_TURN_MIN_NS) : 0);
	h = mix(h, gl->gl_work_flags | (uint64_t)!list_empty(&gl->gl_work) << 8);
	h = mix(h, gl->gl_work_ns > w.clock ? gl->gl_work_ns - w.clock : 0);
	h = mix(h, lvb_value(gl));
	list_for_each_entry(gh, &gl->gl_holders, gh_list)
		h = hash_holder(h, gh);
	return h;
}

static void hash_dlm_lock(const struct dlm_lock_info *info, void *arg)
{
	uint64_t *h = arg;

	*h = mix(*h, (uint64_t)(uintptr_t)info->cookie << 32 | info->owner.node << 24 |
			     info->status << 16 | (info->granted & 15) << 8 | (info->requested & 15) << 4 |
			     info->orphan);
}

static uint64_t hash_node(uint64_t h, const struct node *nd)
{
	h = mix(h, nd->alive | nd->sick << 1 | nd->dead_unrecovered << 2);
	for (unsigned r = 0; r < ALL_RES; r++)
		h = hash_glock(h, &nd->locks[r]);
	for (unsigned r = 0; r < MAX_RES; r++) {
		const struct cache *c = &nd->caches[r];

		h = mix(h, c->meta_valid | c->data_valid << 1 | c->dirty << 2 |
				   nd->journal[r].valid << 3 | c->raise_tried << 4 | (uint64_t)c->v.meta << 8 |
				   (uint64_t)c->v.data << 16 | (uint64_t)nd->journal[r].v.meta << 24 |
				   (uint64_t)nd->journal[r].v.data << 32);
		h = mix(h, nd->users[r][EX] | nd->users[r][DF] << 8 | nd->users[r][SH] << 16);
	}
	for (unsigned i = 0; i < nd->nr_out; i++)
		h = mix(h, nd->outbox[i].type | nd->outbox[i].res << 4 | nd->outbox[i].mode << 8 |
				   (uint64_t)nd->outbox[i].flags << 16);
	for (unsigned i = 0; i < nd->nr_in; i++) {
		h = mix(h, nd->inbox[i].type | (uintptr_t)nd->inbox[i].cookie << 4 |
				   (nd->inbox[i].mode & 15) << 8 | nd->inbox[i].lvb_read << 12 |
				   (uint64_t)(unsigned)nd->inbox[i].status << 16);
		h = mix(h, (uint64_t)nd->inbox[i].lvb[0] << 8 | nd->inbox[i].sbflags);
	}
	return h;
}

/*
 * Time counts only as what is left of it.  The rules' memory of the blocking callbacks that were sent is in the messages that are
 * under way and in the demote requests they became, so it is not looked at.
 */
uint64_t state_hash(void)
{
	uint64_t h = w.deaths_left, sum = 0;

	for (unsigned n = 0; n < w.p->nodes; n++)
		h = hash_node(h, &w.nodes[n]);
	for (unsigned r = 0; r < MAX_RES; r++) {
		h = mix(h, (uint64_t)w.disk[r].meta | (uint64_t)w.disk[r].data << 16 |
				   (uint64_t)w.truth[r].meta << 32 | (uint64_t)w.truth[r].data << 48);
		h = mix(h, (uint64_t)w.committed[r].meta | (uint64_t)w.committed[r].data << 16 |
				   (uint64_t)w.truth_lvb[r] << 32);
	}
	for (unsigned i = 0; i < w.p->nr_tasks; i++) {
		const struct task *t = &w.tasks[i];

		h = mix(h, t->pc | t->called << 4 | t->canceled << 5 | t->canceling << 6 |
				   t->finished << 7 | t->nr_held << 8 | (t->waits != NULL) << 12);
	}
	dlm_rules_for_each(w.dlm, hash_dlm_lock, &h);
	/* Workers of a node are like each other. */
	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].state != CO_FREE)
			sum += mix(mix(fibres[i].task, fibres[i].name[0] | fibres[i].state << 8),
				   (unsigned)(fibres[i].node + 1) << 24 | fibres[i].label << 8 | fibres[i].arg);
	return mix(h, sum);
}

/* --- a run --- */

static void world_start(const struct program *p)
{
	memset(&w, 0, sizeof(w));
	w.p = p;
	w.clock = 1000000000;
	w.deaths_left = p->deaths;
	w.trace_hash = 0xcbf29ce484222325ull;
	w.dlm = dlm_rules_create();
	co_preempt = p->preempt;
	for (uintptr_t n = 0; n < p->nodes; n++) {
		if (!tables[n]) {
			GFS2_BUG_ON(gfs2_glock_table_create(&lm_sim, NULL, 0, (void *)n, &tables[n]));
			gfs2_glock_table_set_clock(tables[n], sim_clock);
		}
		w.nodes[n].table = tables[n];
		w.nodes[n].alive = true;
	}
	for (unsigned i = 0; i < p->nr_tasks; i++) {
		struct task *t = &w.tasks[i];

		t->nr = i;
		t->co = co_start(p->tasks[i].node, "caller", task_fn, t, i + 1);
		t->co->task = i + 1;
	}
}

static void world_end(void)
{
	co_kill_all();
	for (unsigned n = 0; n < w.p->nodes; n++) {
		free_glocks(&w.nodes[n]);
		GFS2_BUG_ON(w.nodes[n].table->t_nr);
		w.nodes[n].table->t_shrink_cursor = 0;
	}
	dlm_rules_destroy(w.dlm);
	w.p = NULL;
}

static void one_step(const struct action *act)
{
	if (sim_trace) {
		char text[128];

		action_text(act, text, sizeof(text));
		sim_say("%u: %s", w.step, text);
	}
	note(act->kind, act->a, act->b);
	perform(act);
	check_step();
	w.step++;
}

static void everything_down_fn(struct co *co, void *arg)
{
	unsigned n = (uintptr_t)arg;

	for (unsigned r = 0; r < ALL_RES; r++) {
		struct gfs2_glock *gl = w.nodes[n].locks[r].gl;

		if (!gl || w.nodes[n].locks[r].putting)
			continue;
		local_demand_begins(&w.nodes[n].locks[r]);
		gfs2_glock_cb(gl, UN, false);
		local_demand_made(&w.nodes[n].locks[r]);
	}
}

static void check_end(void)
{
	struct action acts[MAX_ACTIONS];
	unsigned survivors = 0, nr;

	for (unsigned i = 0; i < w.p->nr_tasks; i++)
		if (w.nodes[w.p->tasks[i].node].alive && !w.tasks[i].finished)
			sim_fail("caller %u of node %u waits for ever", i, w.p->tasks[i].node);
	for (unsigned i = 0; i < MAX_COS; i++)
		if (fibres[i].state != CO_FREE)
			sim_fail("%s of node %d is never woken up", fibres[i].name, fibres[i].node);
	for (uintptr_t n = 0; n < w.p->nodes; n++) {
		if (w.nodes[n].alive && w.nodes[n].nr_in)
			sim_fail("node %u: an answer is held back for ever", (unsigned)n);
		if (w.nodes[n].alive)
			co_start(n, "unmount", everything_down_fn, (void *)n, 0x20000);
	}
	/* The rest of the deaths and faults is spared. */
	w.deaths_left = 0;
	co_preempt = false;
	while ((nr = possible_actions(acts))) {
		if (w.step > 2 * MAX_STEPS)
			sim_fail("unmounting does not end");
		one_step(&acts[0]);
	}
	for (unsigned n = 0; n < w.p->nodes; n++) {
		survivors += w.nodes[n].alive;
		for (unsigned r = 0; w.nodes[n].alive && r < ALL_RES; r++)
			if (w.nodes[n].locks[r].gl)
				sim_fail("node %u: the glock of %u is still there after the unmount", n, r);
	}
	for (unsigned r = 0; survivors && r < MAX_RES; r++)
		if (memcmp(&w.disk[r], &w.truth[r], sizeof(w.disk[r])))
			sim_fail("resource %u: %u/%u is on the device in the end, not %u/%u", r, w.disk[r].meta,
				 w.disk[r].data, w.truth[r].meta, w.truth[r].data);
}

void run_program(const struct program *p, chooser_fn choose, void *arg, struct run_result *res)
{
	/* It takes a thousandth of that; in the process's own time, for the machine may be busy.  SIGPROF ends what hangs. */
	const struct itimerval most = { .it_value.tv_sec = 20 };
	struct action acts[MAX_ACTIONS];
	unsigned nr;
	int i;

	GFS2_BUG_ON(setitimer(ITIMER_PROF, &most, NULL));
	world_start(p);
	res->cut = false;
	while ((nr = possible_actions(acts))) {
		i = choose(arg, acts, nr);
		if (i < 0) {
			res->cut = true;
			break;
		}
		if (w.step == MAX_STEPS)
			sim_fail("not finished after %u steps: somebody starves", w.step);
		if (w.p->preempt || w.p->reorder)
			w.clock += GLOCK_TURN_MIN_NS / 40;
		one_step(&acts[i]);
	}
	if (!res->cut)
		check_end();
	res->steps = w.step;
	res->trace_hash = w.trace_hash;
	sim_stats.runs++;
	sim_stats.steps += w.step;
	world_end();
}
