/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules (dlm_rules.h).  Where an order or a condition looks arbitrary it is the kernel's (fs/dlm/lock.c, named at the
 * functions), because what grants first and who is told decides how glocks behave.
 */
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

/* [granted + 1][requested + 1] */
static const bool compat[7][7] = {
	/* IV NL CR CW PR PW EX */
	{ 1, 1, 1, 1, 1, 1, 1 }, /* IV: no lock */
	{ 1, 1, 1, 1, 1, 1, 1 }, /* NL */
	{ 1, 1, 1, 1, 1, 1, 0 }, /* CR */
	{ 1, 1, 1, 1, 0, 0, 0 }, /* CW */
	{ 1, 1, 1, 0, 1, 0, 0 }, /* PR */
	{ 1, 1, 1, 0, 0, 0, 0 }, /* PW */
	{ 1, 1, 0, 0, 0, 0, 0 }, /* EX */
};

/* Which conversions may be forced to queue: those that ask for more, PR and CW each being more than the other. */
static const bool may_quecvt[7][7] = {
	/* IV NL CR CW PR PW EX */
	{ 0, 0, 0, 0, 0, 0, 0 }, /* IV */
	{ 0, 0, 1, 1, 1, 1, 1 }, /* NL */
	{ 0, 0, 0, 1, 1, 1, 1 }, /* CR */
	{ 0, 0, 0, 0, 1, 1, 1 }, /* CW */
	{ 0, 0, 0, 1, 0, 1, 1 }, /* PR */
	{ 0, 0, 0, 0, 0, 0, 1 }, /* PW */
	{ 0, 0, 0, 0, 0, 0, 0 }, /* EX */
};

/* Value block on a grant: R to the owner, W to the resource (dlm_lvb_operations). */
enum { N, R, W };
static const unsigned char lvb_direction[7][7] = {
	/* IV NL CR CW PR PW EX */
	{ N, R, R, R, R, R, R }, /* IV: a new lock */
	{ N, R, R, R, R, R, R }, /* NL */
	{ N, N, R, R, R, R, R }, /* CR */
	{ N, N, N, R, R, R, R }, /* CW */
	{ N, N, N, N, R, R, R }, /* PR */
	{ N, W, W, W, W, W, R }, /* PW */
	{ N, W, W, W, W, W, W }, /* EX */
};

bool dlm_modes_compatible(int a, int b)
{
	return compat[a + 1][b + 1];
}

const char *dlm_mode_name(int mode)
{
	static const char *const names[] = { "IV", "NL", "CR", "CW", "PR", "PW", "EX" };

	return mode >= IV && mode <= DLM_LOCK_EX ? names[mode + 1] : "??";
}

/* --- hashes --- */

static void *zalloc_array(size_t nr, size_t size)
{
	return xzalloc(nr * size);
}

static struct lock *find_lock(const struct dlm_rules *r, uint32_t lkid)
{
	struct lock *l = r->locks[lkid & (r->lock_buckets - 1)];

	while (l && l->lkid != lkid)
		l = l->hash_next;
	return l;
}

static void hash_lock(struct dlm_rules *r, struct lock *l)
{
	struct lock **head = &r->locks[l->lkid & (r->lock_buckets - 1)];

	l->hash_next = *head;
	*head = l;
}

static void unhash_lock(struct dlm_rules *r, struct lock *l)
{
	struct lock **p = &r->locks[l->lkid & (r->lock_buckets - 1)];

	while (*p != l)
		p = &(*p)->hash_next;
	*p = l->hash_next;
	r->nr_locks--;
}

static unsigned name_hash(const void *name, size_t len)
{
	return gfs2_crc32(0, name, len);
}

static struct resource *find_resource(const struct dlm_rules *r, const void *name, size_t len)
{
	struct resource *res = r->resources[name_hash(name, len) & (r->resource_buckets - 1)];

	while (res && (res->len != len || memcmp(res->name, name, len)))
		res = res->hash_next;
	return res;
}

static void hash_resource(struct dlm_rules *r, struct resource *res)
{
	struct resource **head = &r->resources[name_hash(res->name, res->len) & (r->resource_buckets - 1)];

	res->hash_next = *head;
	*head = res;
}

static void grow_locks(struct dlm_rules *r)
{
	struct lock **old = r->locks, *l, *next;
	unsigned nr = r->lock_buckets;

	r->lock_buckets *= 2;
	r->locks = zalloc_array(r->lock_buckets, sizeof(*r->locks));
	for (unsigned i = 0; i < nr; i++)
		for (l = old[i]; l; l = next) {
			next = l->hash_next;
			hash_lock(r, l);
		}
	free(old);
}

static void grow_resources(struct dlm_rules *r)
{
	struct resource **old = r->resources, *res, *next;
	unsigned nr = r->resource_buckets;

	r->resource_buckets *= 2;
	r->resources = zalloc_array(r->resource_buckets, sizeof(*r->resources));
	for (unsigned i = 0; i < nr; i++)
		for (res = old[i]; res; res = next) {
			next = res->hash_next;
			hash_resource(r, res);
		}
	free(old);
}

static struct resource *get_resource(struct dlm_rules *r, const void *name, size_t len)
{
	struct resource *res = find_resource(r, name, len);

	if (res)
		return res;
	if (r->nr_resources >= r->resource_buckets)
		grow_resources(r);
	res = xzalloc(sizeof(*res));
	for (unsigned i = 0; i < ARRAY_SIZE(res->queue); i++)
		list_init(&res->queue[i]);
	res->len = len;
	memcpy(res->name, name, len);
	hash_resource(r, res);
	r->nr_resources++;
	return res;
}

static void put_resource(struct dlm_rules *r, struct resource *res)
{
	struct resource **p;

	if (res->nr)
		return;
	p = &r->resources[name_hash(res->name, res->len) & (r->resource_buckets - 1)];
	while (*p != res)
		p = &(*p)->hash_next;
	*p = res->hash_next;
	r->nr_resources--;
	free(res);
}

static void put_lock(struct lock *l)
{
	if (l->gone && !l->nr_outputs)
		free(l);
}

/* --- outputs --- */

static struct output *add_output(struct dlm_rules *r, struct lock *l, enum dlm_output_type type)
{
	struct output *out;

	if (l->orphan || l->dead)
		return NULL;
	out = xzalloc(sizeof(*out));
	out->lock = l;
	out->o.type = type;
	out->o.owner = l->owner;
	out->o.lkid = l->lkid;
	out->o.cookie = l->cookie;
	list_add_tail(&out->list, &r->outputs);
	l->nr_outputs++;
	l->last_output = out;
	return out;
}

static void drop_output(struct output *out)
{
	struct lock *l = out->lock;

	list_del_init(&out->list);
	if (l->last_output == out)
		l->last_output = NULL;
	l->nr_outputs--;
	put_lock(l);
	free(out);
}

/* queue_cast() */
static void complete(struct dlm_rules *r, struct lock *l, int status, bool lvb_read)
{
	struct output *out = add_output(r, l, DLM_OUT_AST);

	if (!out)
		return;
	out->o.mode = l->granted;
	out->o.status = status;
	out->o.sbflags = l->sbflags;
	out->o.lvb_read = lvb_read;
	if (lvb_read)
		memcpy(out->o.lvb, l->lvb, sizeof(out->o.lvb));
}

/* queue_bast(), and what dlm_add_lkb_callback() suppresses: the same or less than was said just before. */
static void say_blocking(struct dlm_rules *r, struct lock *l, int mode)
{
	const struct output *last = l->last_output;
	struct output *out;

	if (last && last->o.type == DLM_OUT_BAST &&
	    (last->o.mode == mode || (last->o.mode > mode && last->o.mode > DLM_LOCK_PR)))
		return;
	out = add_output(r, l, DLM_OUT_BAST);
	if (out)
		out->o.mode = mode;
}

static bool is_owner(struct dlm_owner wanted, struct dlm_owner o)
{
	return (!wanted.node || wanted.node == o.node) && (!wanted.pid || wanted.pid == o.pid);
}

static void drop_outputs(struct dlm_rules *r, struct dlm_owner owner)
{
	struct output *out, *tmp;

	list_for_each_entry_safe(out, tmp, &r->outputs, list)
		if (is_owner(owner, out->o.owner))
			drop_output(out);
}

bool dlm_rules_next(struct dlm_rules *r, struct dlm_owner owner, struct dlm_output *o)
{
	struct output *out, *tmp;

	list_for_each_entry_safe(out, tmp, &r->outputs, list) {
		struct lock *l = out->lock;

		if (!is_owner(owner, out->o.owner))
			continue;
		/* dlm_rem_lkb_callback(): what the owner has learned meanwhile answers it. */
		if (out->o.type == DLM_OUT_BAST && l->had_ast &&
		    dlm_modes_compatible(out->o.mode, l->ast_mode)) {
			drop_output(out);
			continue;
		}
		if (out->o.type == DLM_OUT_AST) {
			l->had_ast = true;
			l->ast_mode = out->o.mode;
		}
		*o = out->o;
		drop_output(out);
		return true;
	}
	return false;
}

/* --- queues --- */

static struct list_head *queue_of(struct resource *res, enum dlm_lock_status status)
{
	return &res->queue[status];
}

static void enqueue(struct lock *l, enum dlm_lock_status status)
{
	/* The newest granted lock comes first (lkb_add_ordered() compares with requested modes, which granted locks have not). */
	if (status == DLM_STS_GRANTED || (l->exflags & DLM_LKF_HEADQUE))
		list_add(&l->on_queue, queue_of(l->res, status));
	else
		list_add_tail(&l->on_queue, queue_of(l->res, status));
	if (!l->status)
		l->res->nr++;
	l->status = status;
}

static void requeue(struct lock *l, enum dlm_lock_status status)
{
	list_del_init(&l->on_queue);
	enqueue(l, status);
}

/* The lock does not exist any more; its resource may still. */
static void remove_lock(struct dlm_rules *r, struct lock *l)
{
	if (l->status) {
		list_del_init(&l->on_queue);
		l->res->nr--;
		l->status = 0;
	}
	unhash_lock(r, l);
	l->granted = IV;
	l->gone = true;
	/* Who calls this still completes it and then calls put_lock(). */
}

static bool queue_conflict(struct resource *res, enum dlm_lock_status status, const struct lock *l)
{
	const struct lock *o;

	list_for_each_entry(o, queue_of(res, status), on_queue)
		if (o != l && !dlm_modes_compatible(o->granted, l->requested))
			return true;
	return false;
}

static bool first_on(const struct lock *l, enum dlm_lock_status status)
{
	return l->res->queue[status].next == &l->on_queue;
}

static bool can_queue(const struct lock *l)
{
	return !(l->exflags & DLM_LKF_NOQUEUE);
}

/* _can_be_granted() */
static bool grantable(const struct lock *l, bool now, bool recover)
{
	struct resource *res = l->res;
	bool conv = l->granted != IV;
	bool none_converts = list_empty(queue_of(res, DLM_STS_CONVERT));

	if (l->exflags & DLM_LKF_EXPEDITE)
		return true;
	if (queue_conflict(res, DLM_STS_GRANTED, l) || queue_conflict(res, DLM_STS_CONVERT, l))
		return false;
	/* The queue's order was lost with the old master. */
	if (conv && recover)
		return true;
	if (conv && now)
		return !(l->exflags & DLM_LKF_QUECVT) || none_converts;
	if (l->exflags & DLM_LKF_NOORDER)
		return true;
	if (conv)
		return first_on(l, DLM_STS_CONVERT);
	if (!none_converts)
		return false;
	return now ? list_empty(queue_of(res, DLM_STS_WAITING)) : first_on(l, DLM_STS_WAITING);
}

/* Would @l, if it queued, wait for somebody who waits for what @l holds?  (conversion_deadlock_detect()) */
static bool conversion_deadlock(const struct lock *l)
{
	const struct lock *o;
	bool ahead = false;

	list_for_each_entry(o, queue_of(l->res, DLM_STS_CONVERT), on_queue) {
		if (o == l) {
			ahead = true;
			continue;
		}
		if (dlm_modes_compatible(l->granted, o->requested))
			continue;
		if (!ahead || !dlm_modes_compatible(o->granted, l->requested))
			return true;
	}
	return false;
}

/* can_be_granted(): may change the granted mode (CONVDEADLK) or the requested one (ALTPR, ALTCW). */
static bool try_grant(struct lock *l, bool now, bool recover, bool *deadlock)
{
	int alt = IV, requested = l->requested;

	*deadlock = false;
	if (grantable(l, now, recover))
		return true;
	if (l->granted != IV && can_queue(l) && conversion_deadlock(l)) {
		if (l->exflags & DLM_LKF_CONVDEADLK) {
			l->granted = DLM_LOCK_NL;
			l->sbflags |= DLM_SBF_DEMOTED;
		} else {
			*deadlock = true;
		}
		return false;
	}
	if (requested != DLM_LOCK_PR && (l->exflags & DLM_LKF_ALTPR))
		alt = DLM_LOCK_PR;
	else if (requested != DLM_LOCK_CW && (l->exflags & DLM_LKF_ALTCW))
		alt = DLM_LOCK_CW;
	if (alt == IV)
		return false;
	l->requested = alt;
	if (grantable(l, now, false)) {
		l->sbflags |= DLM_SBF_ALTMODE;
		return true;
	}
	l->requested = requested;
	return false;
}

/* --- value blocks --- */

static void write_lvb(struct lock *l)
{
	struct resource *res = l->res;

	if (l->exflags & DLM_LKF_IVVALBLK) {
		res->invalid = true;
		return;
	}
	if (!l->has_lvb || !(l->exflags & DLM_LKF_VALBLK))
		return;
	memcpy(res->lvb, l->lvb, sizeof(res->lvb));
	res->has_lvb = true;
	res->invalid = false;
	l->lvbseq = ++res->lvbseq;
}

/* set_lvb_lock(): @l goes from granted to requested.  True: its own block was read. */
static bool transfer_lvb(struct lock *l)
{
	struct resource *res = l->res;
	bool read = false;

	switch (lvb_direction[l->granted + 1][l->requested + 1]) {
	case R:
		/* A resource without a block says nothing at all, not even that it is invalid. */
		if (!l->has_lvb || !(l->exflags & DLM_LKF_VALBLK) || !res->has_lvb)
			return false;
		memcpy(l->lvb, res->lvb, sizeof(l->lvb));
		l->lvbseq = res->lvbseq;
		read = true;
		break;
	case W:
		write_lvb(l);
		if (!(l->exflags & DLM_LKF_VALBLK) || (l->exflags & DLM_LKF_IVVALBLK))
			return false;
		break;
	}
	if (res->invalid)
		l->sbflags |= DLM_SBF_VALNOTVALID;
	return read;
}

/* --- granting --- */

static void grant(struct dlm_rules *r, struct lock *l)
{
	bool read = transfer_lvb(l);

	if (l->granted != l->requested) {
		l->granted = l->requested;
		if (l->status)
			requeue(l, DLM_STS_GRANTED);
		else
			enqueue(l, DLM_STS_GRANTED);
	} else if (l->status == DLM_STS_CONVERT) {
		/* What a new master believes that it holds may be what it asks for (recover_conversions()). */
		requeue(l, DLM_STS_GRANTED);
	}
	l->requested = IV;
	l->highbast = 0;
	complete(r, l, 0, read);
}

/* grant_pending_convert(): returns the highest mode that still waits, IV if none does. */
static int grant_conversions(struct dlm_rules *r, struct resource *res, bool *cw)
{
	bool granted, demoted, again = true;
	struct lock *l, *tmp;
	int high;

	do {
		granted = demoted = false;
		high = IV;
		list_for_each_entry_safe(l, tmp, queue_of(res, DLM_STS_CONVERT), on_queue) {
			bool was_demoted = l->sbflags & DLM_SBF_DEMOTED, deadlock;

			if (try_grant(l, false, res->recover_grant, &deadlock)) {
				grant(r, l);
				granted = true;
				continue;
			}
			if (!was_demoted && (l->sbflags & DLM_SBF_DEMOTED)) {
				demoted = true;
				continue;
			}
			if (deadlock) {
				if ((l->exflags & DLM_LKF_NODLCKWT) && l->highbast < l->requested) {
					say_blocking(r, l, l->requested);
					l->highbast = l->requested;
				}
				continue;
			}
			if (l->requested > high)
				high = l->requested;
			if (cw && l->requested == DLM_LOCK_CW)
				*cw = true;
		}
		/* What was demoted may be in nobody's way now, but only once. */
		if (!granted && demoted) {
			granted = again;
			again = false;
		}
	} while (granted);
	return high;
}

static int grant_waiting(struct dlm_rules *r, struct resource *res, int high, bool *cw)
{
	struct lock *l, *tmp;

	list_for_each_entry_safe(l, tmp, queue_of(res, DLM_STS_WAITING), on_queue) {
		bool deadlock;

		if (try_grant(l, false, false, &deadlock)) {
			grant(r, l);
			continue;
		}
		if (l->requested > high)
			high = l->requested;
		if (l->requested == DLM_LOCK_CW)
			*cw = true;
	}
	return high;
}

/* lock_requires_bast(): PR and CW are not ordered, so "higher" does not find a CW request behind PR holders. */
static bool blocks_high(const struct lock *l, int high, bool cw)
{
	if (l->granted == DLM_LOCK_PR && cw)
		return l->highbast < DLM_LOCK_EX;
	return l->highbast < high && !dlm_modes_compatible(l->granted, high);
}

/* grant_pending_locks() */
static void grant_pending(struct dlm_rules *r, struct resource *res)
{
	struct lock *l;
	bool cw = false;
	int high;

	high = grant_conversions(r, res, &cw);
	high = grant_waiting(r, res, high, &cw);
	if (high == IV)
		return;
	list_for_each_entry(l, queue_of(res, DLM_STS_GRANTED), on_queue) {
		if (!l->bast || !blocks_high(l, high, cw))
			continue;
		if (cw && high == DLM_LOCK_PR && l->granted == DLM_LOCK_PR)
			say_blocking(r, l, DLM_LOCK_CW);
		else
			say_blocking(r, l, high);
		l->highbast = high;
	}
}

/* modes_require_bast() */
static bool blocks(const struct lock *o, const struct lock *l)
{
	if ((o->granted == DLM_LOCK_PR && l->requested == DLM_LOCK_CW) ||
	    (o->granted == DLM_LOCK_CW && l->requested == DLM_LOCK_PR))
		return o->highbast < DLM_LOCK_EX;
	return o->highbast < l->requested && !dlm_modes_compatible(o->granted, l->requested);
}

static void tell_blockers(struct dlm_rules *r, struct lock *l, enum dlm_lock_status status)
{
	struct lock *o;

	list_for_each_entry(o, queue_of(l->res, status), on_queue) {
		if (o == l || !o->bast || !blocks(o, l))
			continue;
		say_blocking(r, o, l->requested);
		o->highbast = l->requested;
	}
}

/* --- operations --- */

/* set_lock_args() */
static bool bad_ask(const struct dlm_ask *ask, bool convert)
{
	uint32_t f = ask->flags;

	return ask->mode < DLM_LOCK_NL || ask->mode > DLM_LOCK_EX || (f & DLM_LKF_CANCEL) ||
	       (!convert && (f & (DLM_LKF_QUECVT | DLM_LKF_CONVDEADLK))) ||
	       ((f & DLM_LKF_CONVDEADLK) && (f & DLM_LKF_NOQUEUE)) ||
	       ((f & DLM_LKF_EXPEDITE) &&
		(convert || (f & DLM_LKF_NOQUEUE) || ask->mode != DLM_LOCK_NL)) ||
	       ((f & DLM_LKF_VALBLK) && !ask->lvb);
}

static void take_ask(struct lock *l, const struct dlm_ask *ask)
{
	l->exflags = ask->flags;
	l->sbflags = 0;
	l->bast = ask->bast;
	l->cookie = ask->cookie;
	l->requested = ask->mode;
}

/* NOQUEUE, and it cannot be granted. */
static void refuse(struct dlm_rules *r, struct lock *l)
{
	complete(r, l, -EAGAIN, false);
	if (l->exflags & DLM_LKF_NOQUEUEBAST) {
		tell_blockers(r, l, DLM_STS_GRANTED);
		tell_blockers(r, l, DLM_STS_CONVERT);
	}
	l->requested = IV;
}

static int adopt(struct dlm_rules *r, struct dlm_owner owner, struct resource *res,
		 const struct dlm_ask *ask, uint32_t *lkid)
{
	bool other_mode = false;

	for (unsigned s = DLM_STS_WAITING; res && s <= DLM_STS_CONVERT; s++) {
		struct lock *l;

		list_for_each_entry(l, queue_of(res, s), on_queue) {
			if (!l->orphan || l->owner.node != owner.node)
				continue;
			if (l->granted != ask->mode) {
				other_mode = true;
				continue;
			}
			l->orphan = false;
			l->owner = owner;
			l->exflags = ask->flags;
			l->bast = ask->bast;
			l->cookie = ask->cookie;
			*lkid = l->lkid;
			return 0;
		}
	}
	return other_mode ? -EAGAIN : -ENOENT;
}

int dlm_rules_lock(struct dlm_rules *r, struct dlm_owner owner, const void *name, size_t len,
		   const struct dlm_ask *ask, uint32_t *lkid)
{
	bool deadlock;
	struct lock *l;

	if (!len || len > DLM_RESNAME_MAXLEN || (ask->flags & DLM_LKF_CONVERT) || bad_ask(ask, false))
		return -EINVAL;
	if (ask->flags & DLM_LKF_ORPHAN)
		return adopt(r, owner, find_resource(r, name, len), ask, lkid);

	if (r->nr_locks >= r->lock_buckets)
		grow_locks(r);
	l = xzalloc(sizeof(*l));
	list_init(&l->on_queue);
	l->owner = owner;
	l->granted = IV;
	l->ast_mode = IV;
	do
		l->lkid = ++r->last_lkid;
	while (!l->lkid || find_lock(r, l->lkid));
	l->res = get_resource(r, name, len);
	l->has_lvb = ask->lvb;
	take_ask(l, ask);
	hash_lock(r, l);
	r->nr_locks++;
	*lkid = l->lkid;

	if (try_grant(l, true, false, &deadlock)) {
		grant(r, l);
	} else if (can_queue(l)) {
		enqueue(l, DLM_STS_WAITING);
		tell_blockers(r, l, DLM_STS_GRANTED);
	} else {
		struct resource *res = l->res;

		refuse(r, l);
		remove_lock(r, l);
		put_lock(l);
		put_resource(r, res);
	}
	return 0;
}

/* do_convert() and do_convert_effects() */
static void convert(struct dlm_rules *r, struct lock *l)
{
	struct resource *res = l->res;
	bool deadlock;

	if (try_grant(l, true, false, &deadlock)) {
		grant(r, l);
		grant_pending(r, res);
		return;
	}
	if (deadlock && !(l->exflags & DLM_LKF_NODLCKWT)) {
		l->requested = IV;
		complete(r, l, -EDEADLK, false);
		return;
	}
	if (l->sbflags & DLM_SBF_DEMOTED) {
		grant_conversions(r, res, NULL);
		if (grantable(l, true, false)) {
			grant(r, l);
			grant_pending(r, res);
			return;
		}
	}
	if (can_queue(l)) {
		requeue(l, DLM_STS_CONVERT);
		tell_blockers(r, l, DLM_STS_GRANTED);
		return;
	}
	refuse(r, l);
}

int dlm_rules_convert(struct dlm_rules *r, uint32_t lkid, const struct dlm_ask *ask)
{
	struct lock *l = find_lock(r, lkid);

	if (!l || l->orphan)
		return -ENOENT;
	if (bad_ask(ask, true))
		return -EINVAL;
	if (l->status != DLM_STS_GRANTED)
		return -EBUSY;
	if ((ask->flags & DLM_LKF_QUECVT) && !may_quecvt[l->granted + 1][ask->mode + 1])
		return -EINVAL;
	take_ask(l, ask);
	if (ask->flags & DLM_LKF_VALBLK)
		l->has_lvb = true;
	if (ask->lvb && l->has_lvb)
		memcpy(l->lvb, ask->lvb, sizeof(l->lvb));
	convert(r, l);
	return 0;
}

/* The lock goes, from whatever queue; @l is invalid afterwards, its resource is not yet put. */
static void unlock(struct dlm_rules *r, struct lock *l)
{
	if (l->granted >= DLM_LOCK_PW)
		write_lvb(l);
	l->requested = IV;
	remove_lock(r, l);
	complete(r, l, -DLM_EUNLOCK, false);
	put_lock(l);
}

int dlm_rules_unlock(struct dlm_rules *r, uint32_t lkid, uint32_t flags, const void *lvb)
{
	struct lock *l = find_lock(r, lkid);
	struct resource *res;

	if (!l || l->orphan)
		return -ENOENT;
	if (flags & ~(DLM_LKF_VALBLK | DLM_LKF_IVVALBLK | DLM_LKF_FORCEUNLOCK))
		return -EINVAL;
	if (lvb && l->has_lvb)
		memcpy(l->lvb, lvb, sizeof(l->lvb));
	l->exflags |= flags;
	l->sbflags = 0;
	res = l->res;
	unlock(r, l);
	grant_pending(r, res);
	put_resource(r, res);
	return 0;
}

/* revert_lock() of something on a queue; a waiting request leaves no lock. */
static void revert(struct dlm_rules *r, struct lock *l)
{
	struct resource *res = l->res;

	l->requested = IV;
	l->sbflags = 0;
	if (l->status == DLM_STS_CONVERT) {
		requeue(l, DLM_STS_GRANTED);
		complete(r, l, -DLM_ECANCEL, false);
	} else {
		remove_lock(r, l);
		complete(r, l, -DLM_ECANCEL, false);
		put_lock(l);
	}
	grant_pending(r, res);
}

int dlm_rules_cancel(struct dlm_rules *r, uint32_t lkid)
{
	struct lock *l = find_lock(r, lkid);
	struct resource *res;

	if (!l || l->orphan)
		return -ENOENT;
	/* The flag stays until the next request. */
	if (l->exflags & DLM_LKF_CANCEL)
		return -EINVAL;
	if (l->status == DLM_STS_GRANTED)
		return 0;
	l->exflags |= DLM_LKF_CANCEL;
	res = l->res;
	revert(r, l);
	put_resource(r, res);
	return 0;
}

/* --- deaths --- */

/* Calls @fn for every lock; @fn may remove that lock and change others of its resource. */
static void for_locks(struct dlm_rules *r, bool (*match)(const struct lock *l, const void *arg),
		      void (*fn)(struct dlm_rules *r, struct lock *l), const void *arg)
{
	/* Granting never creates or removes a lock, so the chain changes only where we are. */
	for (unsigned i = 0; i < r->lock_buckets; i++) {
		struct lock *l, *next;

		for (l = r->locks[i]; l; l = next) {
			next = l->hash_next;
			if (match(l, arg))
				fn(r, l);
		}
	}
}

static bool alive_of(const struct lock *l, const void *owner)
{
	return !l->orphan && is_owner(*(const struct dlm_owner *)owner, l->owner);
}

static bool orphan_of(const struct lock *l, const void *owner)
{
	const struct dlm_owner *o = owner;

	return l->orphan && o->node == l->owner.node && (!o->pid || o->pid == l->owner.pid);
}

/* unlock_proc_lock() */
static void kill_lock(struct dlm_rules *r, struct lock *l)
{
	struct resource *res = l->res;

	l->dead = true;
	l->exflags |= DLM_LKF_FORCEUNLOCK | DLM_LKF_IVVALBLK;
	unlock(r, l);
	grant_pending(r, res);
	put_resource(r, res);
}

/* orphan_proc_lock() */
static void orphan_lock(struct dlm_rules *r, struct lock *l)
{
	struct resource *res = l->res;

	l->orphan = true;
	if (l->status != DLM_STS_GRANTED)
		revert(r, l);
	put_resource(r, res);
}

static void leave_lock(struct dlm_rules *r, struct lock *l)
{
	if (l->exflags & DLM_LKF_PERSISTENT)
		orphan_lock(r, l);
	else
		kill_lock(r, l);
}

void dlm_rules_process_died(struct dlm_rules *r, struct dlm_owner owner)
{
	GFS2_BUG_ON(!owner.node);
	for_locks(r, alive_of, leave_lock, &owner);
	drop_outputs(r, owner);
}

void dlm_rules_process_orphaned(struct dlm_rules *r, struct dlm_owner owner)
{
	GFS2_BUG_ON(!owner.node);
	for_locks(r, alive_of, orphan_lock, &owner);
	drop_outputs(r, owner);
}

void dlm_rules_purge(struct dlm_rules *r, struct dlm_owner owner)
{
	for_locks(r, orphan_of, kill_lock, &owner);
}

unsigned dlm_rules_purge_resource(struct dlm_rules *r, struct dlm_owner owner, const void *name,
				  size_t len)
{
	struct resource *res = find_resource(r, name, len);
	struct lock *l, *tmp;
	unsigned nr = 0;

	if (!res)
		return 0;
	/* An orphan waits for nothing, so all of them are granted. */
	list_for_each_entry_safe(l, tmp, queue_of(res, DLM_STS_GRANTED), on_queue) {
		if (!orphan_of(l, &owner))
			continue;
		nr++;
		l->dead = true;
		l->exflags |= DLM_LKF_FORCEUNLOCK | DLM_LKF_IVVALBLK;
		unlock(r, l);
	}
	if (nr)
		grant_pending(r, res);
	put_resource(r, res);
	return nr;
}

static bool of_node(const struct lock *l, const void *owner)
{
	return l->owner.node == ((const struct dlm_owner *)owner)->node;
}

/* purge_dead_list() */
static void lose_lock(struct dlm_rules *r, struct lock *l)
{
	struct resource *res = l->res;

	if ((l->exflags & DLM_LKF_VALBLK) && l->granted >= DLM_LOCK_PW)
		res->lost = true;
	res->recover_grant = true;
	l->dead = true;
	remove_lock(r, l);
	put_lock(l);
	/* Not put yet: the dead must all be gone before anything is granted. */
}

void dlm_rules_node_died(struct dlm_rules *r, uint32_t node)
{
	struct dlm_owner owner = { .node = node };

	GFS2_BUG_ON(!node);
	drop_outputs(r, owner);
	for_locks(r, of_node, lose_lock, &owner);
	for (unsigned i = 0; i < r->resource_buckets; i++) {
		struct resource *res, *next;

		for (res = r->resources[i]; res; res = next) {
			next = res->hash_next;
			if (res->lost)
				res->invalid = true;
			res->lost = false;
			if (res->recover_grant)
				grant_pending(r, res);
			res->recover_grant = false;
			put_resource(r, res);
		}
	}
}

/* recover_lvb() on a new master: the locks that are left know the block best. */
static void recover_lvb(struct resource *res)
{
	const struct lock *l, *best = NULL;
	bool any = false, sure = false;

	res->has_lvb = res->invalid = false;
	for (int q = 0; q < 2 && !sure; q++)
		list_for_each_entry(l, queue_of(res, q ? DLM_STS_CONVERT : DLM_STS_GRANTED), on_queue) {
			if (!(l->exflags & DLM_LKF_VALBLK))
				continue;
			any = true;
			if (l->granted > DLM_LOCK_CR) {
				best = l;
				sure = true;
				break;
			}
			if (!best || (int32_t)(l->lvbseq - best->lvbseq) >= 0)
				best = l;
		}
	if (!any)
		return;
	res->has_lvb = true;
	res->invalid = !sure;
	res->lvbseq = best->lvbseq;
	memcpy(res->lvb, best->lvb, sizeof(res->lvb));
}

static bool middle_conversion(const struct lock *l)
{
	return (l->granted == DLM_LOCK_PR && l->requested == DLM_LOCK_CW) ||
	       (l->granted == DLM_LOCK_CW && l->requested == DLM_LOCK_PR);
}

/* recover_conversion(): what did they hold?  What the granted ones hold, else what they want. */
static void recover_conversions(struct resource *res)
{
	struct lock *l;
	int mode = IV;

	list_for_each_entry(l, queue_of(res, DLM_STS_GRANTED), on_queue)
		if (l->granted == DLM_LOCK_PR || l->granted == DLM_LOCK_CW) {
			mode = l->granted;
			break;
		}
	list_for_each_entry(l, queue_of(res, DLM_STS_CONVERT), on_queue)
		if (middle_conversion(l))
			l->granted = mode == IV ? l->requested : mode;
}

void dlm_rules_remaster(struct dlm_rules *r, const void *name, size_t len)
{
	struct resource *res = find_resource(r, name, len);
	struct lock *l;

	if (!res)
		return;
	recover_conversions(res);
	recover_lvb(res);
	for (unsigned s = DLM_STS_WAITING; s <= DLM_STS_CONVERT; s++)
		list_for_each_entry(l, queue_of(res, s), on_queue)
			l->highbast = 0;
	res->recover_grant = true;
	grant_pending(r, res);
	res->recover_grant = false;
}

/* --- life --- */

struct dlm_rules *dlm_rules_create(void)
{
	struct dlm_rules *r = xzalloc(sizeof(*r));

	r->lock_buckets = r->resource_buckets = 64;
	r->locks = zalloc_array(r->lock_buckets, sizeof(*r->locks));
	r->resources = zalloc_array(r->resource_buckets, sizeof(*r->resources));
	list_init(&r->outputs);
	return r;
}

void dlm_rules_destroy(struct dlm_rules *r)
{
	if (!r)
		return;
	drop_outputs(r, (struct dlm_owner){ 0 });
	for (unsigned i = 0; i < r->lock_buckets; i++)
		while (r->locks[i]) {
			struct lock *l = r->locks[i];
			struct resource *res = l->res;

			remove_lock(r, l);
			put_lock(l);
			put_resource(r, res);
		}
	free(r->locks);
	free(r->resources);
	free(r);
}

/* --- looking inside --- */

static void fill_info(const struct lock *l, struct dlm_lock_info *info)
{
	*info = (struct dlm_lock_info){
		.owner = l->owner, .lkid = l->lkid, .status = l->status, .granted = l->granted,
		.requested = l->requested, .orphan = l->orphan, .cookie = l->cookie,
		.name = l->res->name, .len = l->res->len,
	};
}

void dlm_rules_for_each(const struct dlm_rules *r,
			void (*fn)(const struct dlm_lock_info *info, void *arg), void *arg)
{
	static const enum dlm_lock_status order[] = { DLM_STS_GRANTED, DLM_STS_CONVERT, DLM_STS_WAITING };
	struct dlm_lock_info info;

	for (unsigned i = 0; i < r->resource_buckets; i++)
		for (struct resource *res = r->resources[i]; res; res = res->hash_next)
			for (unsigned q = 0; q < ARRAY_SIZE(order); q++) {
				const struct lock *l;

				list_for_each_entry(l, queue_of(res, order[q]), on_queue) {
					fill_info(l, &info);
					fn(&info, arg);
				}
			}
}

bool dlm_rules_get(const struct dlm_rules *r, uint32_t lkid, struct dlm_lock_info *info)
{
	const struct lock *l = find_lock(r, lkid);

	if (l)
		fill_info(l, info);
	return l;
}

struct counting {
	struct dlm_owner owner;
	unsigned nr;
};

static void count_one(const struct dlm_lock_info *info, void *arg)
{
	struct counting *c = arg;

	c->nr += is_owner(c->owner, info->owner);
}

unsigned dlm_rules_count(const struct dlm_rules *r, struct dlm_owner owner)
{
	struct counting c = { .owner = owner };

	dlm_rules_for_each(r, count_one, &c);
	return c.nr;
}

bool dlm_rules_lvb(const struct dlm_rules *r, const void *name, size_t len, uint8_t lvb[DLM_RULES_LVB],
		   bool *valid)
{
	const struct resource *res = find_resource(r, name, len);

	if (!res || !res->has_lvb)
		return false;
	memcpy(lvb, res->lvb, DLM_RULES_LVB);
	*valid = !res->invalid;
	return true;
}

static const char *check_resource(struct resource *res)
{
	unsigned nr = 0;

	for (unsigned s = DLM_STS_WAITING; s <= DLM_STS_CONVERT; s++) {
		const struct lock *l, *o;

		list_for_each_entry(l, queue_of(res, s), on_queue) {
			nr++;
			if (l->status != s || l->res != res)
				return "lock on the wrong queue";
			if ((l->granted == IV) != (s == DLM_STS_WAITING) ||
			    (l->requested == IV) != (s == DLM_STS_GRANTED))
				return "modes do not fit the queue";
			if (l->orphan && s != DLM_STS_GRANTED)
				return "an orphan waits";
			for (unsigned s2 = DLM_STS_GRANTED; s2 <= DLM_STS_CONVERT; s2++)
				list_for_each_entry(o, queue_of(res, s2), on_queue)
					if (o != l && !dlm_modes_compatible(l->granted, o->granted))
						return "incompatible locks are granted";
			if (s != DLM_STS_GRANTED && grantable(l, false, false))
				return "a grantable lock waits";
		}
	}
	if (nr != res->nr)
		return "wrong number of locks";
	return nr ? NULL : "resource without locks";
}

const char *dlm_rules_check(const struct dlm_rules *r)
{
	for (unsigned i = 0; i < r->resource_buckets; i++)
		for (struct resource *res = r->resources[i]; res; res = res->hash_next) {
			const char *what = check_resource(res);

			if (what)
				return what;
		}
	return NULL;
}

static void dump_one(const struct dlm_lock_info *info, void *arg)
{
	static const char *const status[] = { "?", "waiting", "granted", "converting" };

	fprintf(arg, "\"%.*s\" lkid %x node %u pid %u %s %s", (int)info->len, (const char *)info->name,
		info->lkid, info->owner.node, info->owner.pid, status[info->status],
		dlm_mode_name(info->granted));
	if (info->requested != IV)
		fprintf(arg, "->%s", dlm_mode_name(info->requested));
	fprintf(arg, "%s\n", info->orphan ? " orphan" : "");
}

void dlm_rules_dump(const struct dlm_rules *r, FILE *out)
{
	dlm_rules_for_each(r, dump_one, out);
}
