/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Breakpoints (see stop.h).
 *
 * A stop is in one of two states: *held*, on its session's list; *gone*, off it, with the reason in `gone`.  Off the list it belongs to
 * whoever took it off: a sleeper finds that out and frees it, for a deferred one the taker calls `go` and frees it.
 */
#include "debug/stop.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "debug/event.h"
#include "util/ctx.h"
#include "util/list.h"
#include "util/seeded.h"
#include "util/util.h"

struct brk {
	struct list_head list;		/* stop_session.breaks, in the order of id */
	unsigned id;
	struct stop_spec spec;
	uint64_t hits;			/* how often it fitted */
};

struct stopped {
	struct list_head list;		/* stop_session.stops while held, in the order of id */
	unsigned id, brk_id;
	struct stop_site site;
	uint64_t since_ns, deadline_ns;
	const char *gone;		/* why it was let go; NULL: held */
	void (*go)(void *arg);		/* NULL: a sleeper, waiting for `cond` */
	void *arg;
	struct rcond cond;
};

struct stop_session {
	struct list_head list;		/* sessions */
	struct list_head breaks, stops;
	unsigned nr_breaks, last_break, last_stop;
	int notify_fd;
	pid_t client;			/* 0: not known */
};

atomic_uint stop_nr_breaks;

/* Constant between the first stop_init() and the last stop_exit() but for what is under the lock. */
static struct {
	struct rmutex lock;		/* RANK_STOP */
	struct list_head sessions;
	int timer_fd;
	uint64_t timer_ns;		/* when it goes off; 0: it does not */
	unsigned users;			/* stop_init() without stop_exit() */
	bool closed;
} st = { .timer_fd = -1 };

const char *stop_point_name(enum stop_point p)
{
	static const char *const names[STOP_NR] = {
		[STOP_TRANSITION] = "transition",   [STOP_DLM_REQUEST] = "dlm request",
		[STOP_DLM_AST] = "dlm ast",	    [STOP_DLM_BAST] = "dlm bast",
		[STOP_DIO_HOLE] = "dio hole",	    [STOP_DIO_DRAIN] = "dio drain",
		[STOP_DIO_UPGRADE] = "dio upgrade", [STOP_DIO_BUFFERED] = "dio buffered",
	};

	return (unsigned)p < STOP_NR ? names[p] : "?";
}

/* --- telling --- */

static void emit(enum gfs2_event_type type, const struct stop_site *site, const char *reason)
{
	struct gfs2_event e = {
		.type = type,
		.fields = EVF_GLOCK,
		.req = site->req,
		.pid = site->pid,
		.gl_type = site->gl_type,
		.gl_number = site->gl_number,
	};

	if (site->from >= 0) {
		e.from = (uint8_t)site->from;
		e.fields |= EVF_FROM;
	}
	if (site->to >= 0) {
		e.to = (uint8_t)site->to;
		e.fields |= EVF_TO;
	}
	if (site->len) {
		e.off = site->off;
		e.len = site->len;
		e.fields |= EVF_OFF | EVF_LEN;
	}
	gfs2_event_emit(&e, reason);
}

/* --- matching; st.lock held --- */

static bool fits(const struct stop_spec *spec, const struct stop_site *site)
{
	if (spec->other_node || !(spec->points & 1u << site->point))
		return false;
	if (!spec->any_glock && (spec->gl_type != site->gl_type || spec->gl_number != site->gl_number))
		return false;
	if (spec->pid && spec->pid != site->pid)
		return false;
	if (site->from >= 0 && !(spec->from & 1u << site->from))
		return false;
	return site->to < 0 || spec->to & 1u << site->to;
}

static void brk_free(struct stop_session *s, struct brk *b)
{
	list_del_init(&b->list);
	s->nr_breaks--;
	atomic_fetch_sub_explicit(&stop_nr_breaks, 1, memory_order_relaxed);
	free(b);
}

/* The breakpoint that stops @site, if any.  Every one that fits counts it. */
static struct brk *find_break(const struct stop_site *site, struct stop_session **session)
{
	struct stop_session *s;
	struct brk *b, *found = NULL;

	list_for_each_entry(s, &st.sessions, list)
		list_for_each_entry(b, &s->breaks, list) {
			if (!fits(&b->spec, site))
				continue;
			b->hits++;
			if (!found && b->hits >= b->spec.count) {
				found = b;
				*session = s;
			}
		}
	return found;
}

static void set_timer(uint64_t deadline)
{
	struct itimerspec its = { .it_value = { .tv_sec = deadline / 1000000000u, .tv_nsec = deadline % 1000000000u } };

	if (st.timer_ns && st.timer_ns <= deadline)
		return;
	st.timer_ns = deadline;
	GFS2_BUG_ON(timerfd_settime(st.timer_fd, TFD_TIMER_ABSTIME, &its, NULL));
}

/* Put @x on the list of who stops it; false: nobody does. */
static bool hold(struct stopped *x, const struct stop_site *site)
{
	struct stop_session *s = NULL;
	struct brk *b = st.closed ? NULL : find_break(site, &s);

	if (!b)
		return false;
	x->id = ++s->last_stop;
	x->brk_id = b->id;
	x->site = *site;
	x->since_ns = now_ns();
	x->deadline_ns = x->since_ns + b->spec.timeout_ns;
	list_add_tail(&x->list, &s->stops);
	emit(EV_BREAK_HIT, site, stop_point_name(site->point));
	if (b->spec.once)
		brk_free(s, b);
	/* A sleeper looks after its own time. */
	if (x->go)
		set_timer(x->deadline_ns);
	if (s->notify_fd >= 0)
		GFS2_BUG_ON(eventfd_write(s->notify_fd, 1));
	return true;
}

/* --- letting go --- */

/* Off the list; what is deferred goes to @gone, to be run without the lock. */
static void take_off(struct stopped *x, const char *why, struct list_head *gone)
{
	list_del_init(&x->list);
	x->gone = why;
	emit(EV_BREAK_GO, &x->site, why);
	if (x->go)
		list_add_tail(&x->list, gone);
	else
		rcond_signal(&x->cond);
}

static void run_gone(struct list_head *gone)
{
	while (!list_empty(gone)) {
		struct stopped *x = list_first_entry(gone, struct stopped, list);

		list_del_init(&x->list);
		x->go(x->arg);
		if (SEEDED_BUG("stop-goes-twice"))
			x->go(x->arg);
		free(x);
	}
}

static void take_all_off(struct stop_session *s, const char *why, struct list_head *gone)
{
	struct stopped *x, *tmp;

	list_for_each_entry_safe(x, tmp, &s->stops, list)
		take_off(x, why, gone);
}

static void delete_all(struct stop_session *s)
{
	struct brk *b, *tmp;

	list_for_each_entry_safe(b, tmp, &s->breaks, list)
		brk_free(s, b);
}

/* --- on the way --- */

bool stop_defer(const struct stop_site *site, void (*go)(void *arg), void *arg)
{
	struct stopped *x = calloc(1, sizeof(*x));
	bool held;

	/* Without memory nothing is stopped. */
	if (!x)
		return false;
	x->go = go;
	x->arg = arg;
	rmutex_lock(&st.lock);
	held = hold(x, site);
	rmutex_unlock(&st.lock);
	if (!held)
		free(x);
	return held;
}

void stop_here(const struct stop_site *site)
{
	struct stopped x = { 0 };
	LIST_HEAD(none);

	rmutex_assert_none();
	rmutex_lock(&st.lock);
	if (!hold(&x, site)) {
		rmutex_unlock(&st.lock);
		return;
	}
	rcond_init(&x.cond);
	while (!x.gone)
		if (!rcond_wait_until(&x.cond, &st.lock, x.deadline_ns) && !x.gone)
			take_off(&x, "timeout", &none);
	rmutex_unlock(&st.lock);
	rcond_destroy(&x.cond);
}

/* --- sessions --- */

struct stop_session *stop_session_new(int notify_fd, pid_t client)
{
	struct stop_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->notify_fd = notify_fd;
	s->client = client;
	list_init(&s->breaks);
	list_init(&s->stops);
	rmutex_lock(&st.lock);
	if (st.closed) {
		free(s);
		s = NULL;
	} else {
		list_add_tail(&s->list, &st.sessions);
	}
	rmutex_unlock(&st.lock);
	return s;
}

void stop_session_free(struct stop_session *s)
{
	LIST_HEAD(gone);

	if (!s)
		return;
	rmutex_lock(&st.lock);
	delete_all(s);
	if (!SEEDED_BUG("stop-client-leaves-it"))
		take_all_off(s, "client gone", &gone);
	list_del_init(&s->list);
	rmutex_unlock(&st.lock);
	run_gone(&gone);
	free(s);
}

bool stop_session_any(struct stop_session *s)
{
	bool any;

	rmutex_lock(&st.lock);
	any = !list_empty(&s->breaks) || !list_empty(&s->stops);
	rmutex_unlock(&st.lock);
	return any;
}

void stop_session_clear(struct stop_session *s, const char *reason)
{
	LIST_HEAD(gone);

	rmutex_lock(&st.lock);
	delete_all(s);
	take_all_off(s, reason, &gone);
	rmutex_unlock(&st.lock);
	run_gone(&gone);
}

int stop_break(struct stop_session *s, const struct stop_spec *spec)
{
	struct brk *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return -ENOMEM;
	GFS2_BUG_ON(!spec->timeout_ns || spec->timeout_ns > STOP_TIMEOUT_MAX_NS);
	rmutex_lock(&st.lock);
	if (st.closed) {
		ret = -ESHUTDOWN;
	} else if (s->nr_breaks == STOP_MAX_BREAKS) {
		ret = -ENOSPC;
	} else {
		b->spec = *spec;
		b->id = ret = (int)++s->last_break;
		list_add_tail(&b->list, &s->breaks);
		s->nr_breaks++;
		atomic_fetch_add_explicit(&stop_nr_breaks, 1, memory_order_relaxed);
	}
	rmutex_unlock(&st.lock);
	if (ret < 0)
		free(b);
	return ret;
}

int stop_delete(struct stop_session *s, unsigned id)
{
	struct brk *b, *tmp;
	int ret = id ? -ENOENT : 0;

	rmutex_lock(&st.lock);
	list_for_each_entry_safe(b, tmp, &s->breaks, list)
		if (!id || b->id == id) {
			brk_free(s, b);
			ret = 0;
		}
	rmutex_unlock(&st.lock);
	return ret;
}

int stop_continue(struct stop_session *s, unsigned id)
{
	struct stopped *x, *tmp;
	int ret = 0;
	LIST_HEAD(gone);

	rmutex_lock(&st.lock);
	list_for_each_entry_safe(x, tmp, &s->stops, list)
		if (!id || x->id == id) {
			take_off(x, "continue", &gone);
			ret++;
		}
	rmutex_unlock(&st.lock);
	run_gone(&gone);
	return ret || !id ? ret : -ENOENT;
}

int stop_get(struct stop_session *s, unsigned *id, struct stop_site *site)
{
	struct stopped *x;
	int ret = -ENOENT;

	rmutex_lock(&st.lock);
	list_for_each_entry(x, &s->stops, list) {
		if (*id && x->id != *id)
			continue;
		if (!*id && x->list.next != &s->stops) {
			ret = -EINVAL;
			break;
		}
		*id = x->id;
		*site = x->site;
		ret = 0;
		break;
	}
	rmutex_unlock(&st.lock);
	return ret;
}

void stop_for_each(struct stop_session *s,
		   void (*brk)(pid_t client, unsigned id, const struct stop_spec *spec, uint64_t hits, void *arg),
		   void (*stopped)(pid_t client, unsigned id, unsigned brk_id, const struct stop_site *site, uint64_t since_ns,
				   uint64_t left_ns, void *arg),
		   void *arg)
{
	uint64_t now = now_ns();
	struct stop_session *each;
	struct stopped *x;
	struct brk *b;

	rmutex_lock(&st.lock);
	list_for_each_entry(each, &st.sessions, list) {
		if (s && each != s)
			continue;
		if (brk)
			list_for_each_entry(b, &each->breaks, list)
				brk(each->client, b->id, &b->spec, b->hits, arg);
		if (stopped)
			list_for_each_entry(x, &each->stops, list)
				stopped(each->client, x->id, x->brk_id, &x->site, now > x->since_ns ? now - x->since_ns : 0,
					x->deadline_ns > now ? x->deadline_ns - now : 0, arg);
	}
	rmutex_unlock(&st.lock);
}

bool stop_next_hit(struct stop_session *s, unsigned *after, unsigned *brk_id, struct stop_site *site)
{
	struct stopped *x;
	bool found = false;

	rmutex_lock(&st.lock);
	list_for_each_entry(x, &s->stops, list)
		if (x->id > *after) {
			*after = x->id;
			*brk_id = x->brk_id;
			*site = x->site;
			found = true;
			break;
		}
	rmutex_unlock(&st.lock);
	return found;
}

/* --- time --- */

int stop_timer_fd(void)
{
	return st.timer_fd;
}

void stop_expire(void)
{
	uint64_t now = now_ns(), next = 0, n;
	struct stop_session *s;
	struct stopped *x, *tmp;
	LIST_HEAD(gone);

	if (read(st.timer_fd, &n, sizeof(n)) < 0)
		GFS2_BUG_ON(errno != EAGAIN && errno != EINTR);
	rmutex_lock(&st.lock);
	list_for_each_entry(s, &st.sessions, list)
		list_for_each_entry_safe(x, tmp, &s->stops, list) {
			if (!x->go)
				continue;
			if (x->deadline_ns <= now && !SEEDED_BUG("stop-no-timeout"))
				take_off(x, "timeout", &gone);
			else if (!next || x->deadline_ns < next)
				next = x->deadline_ns;
		}
	st.timer_ns = 0;
	if (next)
		set_timer(next);
	rmutex_unlock(&st.lock);
	run_gone(&gone);
}

/* --- life --- */

int stop_init(void)
{
	if (st.users++)
		return 0;
	st.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (st.timer_fd < 0) {
		st.users = 0;
		return -errno;
	}
	rmutex_init(&st.lock, RANK_STOP);
	list_init(&st.sessions);
	st.timer_ns = 0;
	st.closed = false;
	return 0;
}

void stop_shutdown(void)
{
	struct stop_session *s;
	LIST_HEAD(gone);

	rmutex_lock(&st.lock);
	st.closed = true;
	list_for_each_entry(s, &st.sessions, list) {
		delete_all(s);
		take_all_off(s, "unmount", &gone);
	}
	rmutex_unlock(&st.lock);
	run_gone(&gone);
}

void stop_exit(void)
{
	if (--st.users)
		return;
	GFS2_BUG_ON(!list_empty(&st.sessions));
	rmutex_destroy(&st.lock);
	close(st.timer_fd);
	st.timer_fd = -1;
}
