/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A debugger at the machine: breakpoints (debug/stop.h) at the places where a glock may be stopped, and a node that is played by hand.
 *
 * What is stopped keeps its phase: SYNC before anything was done for it, or WAIT.  So nothing else can happen to the glock that could not
 * happen while a write-back or an answer takes its time.  The transition's reference keeps the glock; a blocking callback takes one.
 *
 * Everything here is called with gl_lock held, but for gfs2_glock_foreign_*() and what a breakpoint calls to let go.
 */
#include "lock/internal.h"

#include "debug/event.h"
#include "debug/stop.h"
#include "util/util.h"

#define UN LM_ST_UNLOCKED
#define EX LM_ST_EXCLUSIVE

enum { GLS_TRANSITION = 1, GLS_REQUEST = 2, GLS_REPLY = 4, GLS_DEMAND = 8 };

static const char *why_text(const struct gfs2_glock *gl)
{
	static const char *const words[] = {
		[GLY_PROMOTE] = "promotion", [GLY_DEMOTE] = "demotion", [GLY_UNLOCK] = "way out of a deadlock",
		[GLY_RAISE] = "publication of times",
	};

	return words[gl->gl_why];
}

/* Whom a stop at @point is for: the first waiter, unless the lock goes down for another node. */
static struct stop_site stop_site(const struct gfs2_glock *gl, enum stop_point point)
{
	const struct gfs2_holder *gh = gl->gl_why == GLY_DEMOTE || point == STOP_DLM_BAST ? NULL : glock_first_waiter(gl);
	struct stop_site site = {
		.point = point,
		.gl_type = gl->gl_type,
		.gl_number = gl->gl_number,
		.from = (int8_t)gl->gl_state,
		.to = (int8_t)gl->gl_req,
		.why = point == STOP_DLM_BAST ? "blocking callback" : why_text(gl),
	};

	if (gh && !(gh->gh_owner & OWNER_THREAD))
		site.req = gh->gh_owner;
	if (gh)
		site.pid = gh->gh_pid;
	return site;
}

/* Let go: a worker goes on where the glock was stopped. */
static void stop_go(struct gfs2_glock *gl, unsigned what)
{
	rmutex_lock(&gl->gl_lock);
	gl->gl_resume |= what;
	glock_queue_work(gl, GLW_RESUME, 0);
	glock_unlock(gl);
}

#define STOP_GO(name, what)                                                                        \
	static void name(void *gl)                                                                 \
	{                                                                                          \
		stop_go(gl, what);                                                                 \
	}
STOP_GO(go_transition, GLS_TRANSITION)
STOP_GO(go_request, GLS_REQUEST)
STOP_GO(go_reply, GLS_REPLY)
STOP_GO(go_demand, GLS_DEMAND)

/* gl_lock held: is @gl stopped at @point? */
static bool stop_glock_at(struct gfs2_glock *gl, const struct stop_site *site, unsigned what)
{
	void (*go)(void *) = what == GLS_TRANSITION ? go_transition : what == GLS_REQUEST ? go_request :
			     what == GLS_REPLY ? go_reply : go_demand;

	return !atomic_load_explicit(&gl->gl_table->t_destroying, memory_order_relaxed) && stop_defer(site, go, gl);
}

static bool stop_glock(struct gfs2_glock *gl, enum stop_point point, unsigned what)
{
	const struct stop_site site = stop_site(gl, point);

	return stop_glock_at(gl, &site, what);
}

/* A try request is never made to wait: its caller may be inside a transaction. */
bool glock_stop_transition(struct gfs2_glock *gl)
{
	return !(gl->gl_req_flags & TRY_FLAGS) && stop_glock(gl, STOP_TRANSITION, GLS_TRANSITION);
}

bool glock_stop_request(struct gfs2_glock *gl)
{
	if (stop_armed() && !(gl->gl_req_flags & TRY_FLAGS) && !(gl->gl_stopped & GLS_REQUEST) &&
	    stop_glock(gl, STOP_DLM_REQUEST, GLS_REQUEST)) {
		gl->gl_stopped |= GLS_REQUEST;
		return true;
	}
	gl->gl_stopped &= ~(unsigned)GLS_REQUEST;
	return false;
}

bool glock_stop_reply(struct gfs2_glock *gl, int ret)
{
	if (!gl->gl_table->t_lm->lm_has_peers || (gl->gl_req_flags & TRY_FLAGS) ||
	    !stop_glock(gl, STOP_DLM_AST, GLS_REPLY))
		return false;
	gl->gl_stop_reply = ret;
	return true;
}

/* With those that came before. */
bool glock_stop_demand(struct gfs2_glock *gl, enum lm_state wished)
{
	struct stop_site site;

	if (gl->gl_stopped & GLS_DEMAND) {
		if (gl->gl_stop_wished != wished)
			gl->gl_stop_wished = UN;
		return true;
	}
	if (!stop_armed())
		return false;
	site = stop_site(gl, STOP_DLM_BAST);
	site.to = (int8_t)wished;
	if (!stop_glock_at(gl, &site, GLS_DEMAND))
		return false;
	gl->gl_stopped |= GLS_DEMAND;
	gl->gl_stop_wished = wished;
	gfs2_glock_hold(gl);
	return true;
}

bool glock_demand_stopped(const struct gfs2_glock *gl)
{
	return gl->gl_stopped & GLS_DEMAND;
}

void glock_resume(struct gfs2_glock *gl)
{
	unsigned what = gl->gl_resume;

	gl->gl_resume = 0;
	if (what & GLS_DEMAND) {
		gl->gl_stopped &= ~(unsigned)GLS_DEMAND;
		glock_take_demand(gl, gl->gl_stop_wished, true);
		/* Who waits for a demotion need not, if nothing is in the other node's way any more. */
		rcond_broadcast(&gl->gl_wait);
		gl->gl_puts++;
	}
	if (what & GLS_TRANSITION) {
		glock_run_transition(gl);
	} else if (what & GLS_REQUEST) {
		/* glock_ask_module() sees that it has been stopped once. */
		glock_ask_module(gl, false);
	} else if (what & GLS_REPLY) {
		glock_take_reply(gl, gl->gl_stop_reply);
	}
}

/* --- playing another node --- */

int gfs2_glock_foreign_hold(struct gfs2_glock *gl, enum lm_state state)
{
	/* What this node may keep beside it. */
	enum lm_state wished = state == EX ? UN : state;
	int error = 0;

	GFS2_BUG_ON(state == UN);
	rmutex_lock(&gl->gl_lock);
	if (gl->gl_foreign != UN) {
		error = -EBUSY;
	} else {
		gl->gl_foreign = state;
		/* The lock lives as long as somebody has it. */
		gfs2_glock_hold(gl);
		ev_glock(EV_GLOCK_HOLD, gl, -1, state, "by hand");
	}
	rmutex_unlock(&gl->gl_lock);
	if (!error)
		gfs2_glock_cb(gl, wished, true);
	return error;
}

void gfs2_glock_foreign_release(struct gfs2_glock *gl, const char *reason)
{
	rmutex_lock(&gl->gl_lock);
	GFS2_BUG_ON(gl->gl_foreign == UN);
	gl->gl_foreign = UN;
	ev_glock(EV_GLOCK_HOLD, gl, -1, UN, reason);
	glock_run(gl, GLR_NO_STEP);
	gl->gl_puts++;
	glock_unlock(gl);
}
