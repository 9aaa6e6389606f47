/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules (dlm_rules.h).  Where an order or a condition looks arbitrary it is the kernel's (fs/dlm/lock.c, named at the
 * functions), because what grants first and who is told decides how glocks behave.
 */
#include "lock/dlm_rules_i.h"

/* --- hashes --- */

static void *zalloc_array(size_t nr, size_t size)
{
	return xzalloc(nr * size);
}

struct lock *rules_find_lock(const struct dlm_rules *r, uint32_t lkid)
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

struct resource *rules_find_resource(const struct dlm_rules *r, const void *name, size_t len)
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
	struct resource *res = rules_find_resource(r, name, len);

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
void rules_complete(struct dlm_rules *r, struct lock *l, int status, bool lvb_read)
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
void rules_say_blocking(struct dlm_rules *r, struct lock *l, int mode)
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

bool rules_is_owner(struct dlm_owner wanted, struct dlm_owner o)
{
	return (!wanted.node || wanted.node == o.node) && (!wanted.pid || wanted.pid == o.pid);
}

static void drop_outputs(struct dlm_rules *r, struct dlm_owner owner)
{
	struct output *out, *tmp;

	list_for_each_entry_safe(out, tmp, &r->outputs, list)
		if (rules_is_owner(owner, out->o.owner))
			drop_output(out);
}

bool dlm_rules_next(struct dlm_rules *r, struct dlm_owner owner, struct dlm_output *o)
{
	struct output *out, *tmp;

	list_for_each_entry_safe(out, tmp, &r->outputs, list) {
		struct lock *l = out->lock;

		if (!rules_is_owner(owner, out->o.owner))
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
	rules_complete(r, l, -EAGAIN, false);
	if (l->exflags & DLM_LKF_NOQUEUEBAST) {
		rules_tell_blockers(r, l, DLM_STS_GRANTED);
		rules_tell_blockers(r, l, DLM_STS_CONVERT);
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
		return adopt(r, owner, rules_find_resource(r, name, len), ask, lkid);

	if (r->nr_locks >= r->lock_buckets)
		grow_locks(r);
	l = xzalloc(sizeof(*l));
	list_init(&l->on_queue);
	l->owner = owner;
	l->granted = IV;
	l->ast_mode = IV;
	do
		l->lkid = ++r->last_lkid;
	while (!l->lkid || rules_find_lock(r, l->lkid));
	l->res = get_resource(r, name, len);
	l->has_lvb = ask->lvb;
	take_ask(l, ask);
	hash_lock(r, l);
	r->nr_locks++;
	*lkid = l->lkid;

	if (rules_try_grant(l, true, false, &deadlock)) {
		rules_grant(r, l);
	} else if (can_queue(l)) {
		rules_enqueue(l, DLM_STS_WAITING);
		rules_tell_blockers(r, l, DLM_STS_GRANTED);
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

	if (rules_try_grant(l, true, false, &deadlock)) {
		rules_grant(r, l);
		rules_grant_pending(r, res);
		return;
	}
	if (deadlock && !(l->exflags & DLM_LKF_NODLCKWT)) {
		l->requested = IV;
		rules_complete(r, l, -EDEADLK, false);
		return;
	}
	if (l->sbflags & DLM_SBF_DEMOTED) {
		rules_grant_conversions(r, res, NULL);
		if (rules_grantable(l, true, false)) {
			rules_grant(r, l);
			rules_grant_pending(r, res);
			return;
		}
	}
	if (can_queue(l)) {
		rules_requeue(l, DLM_STS_CONVERT);
		rules_tell_blockers(r, l, DLM_STS_GRANTED);
		return;
	}
	refuse(r, l);
}

int dlm_rules_convert(struct dlm_rules *r, uint32_t lkid, const struct dlm_ask *ask)
{
	struct lock *l = rules_find_lock(r, lkid);

	if (!l || l->orphan)
		return -ENOENT;
	if (bad_ask(ask, true))
		return -EINVAL;
	if (l->status != DLM_STS_GRANTED)
		return -EBUSY;
	if ((ask->flags & DLM_LKF_QUECVT) && !rules_may_quecvt(l->granted, ask->mode))
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
		rules_write_lvb(l);
	l->requested = IV;
	remove_lock(r, l);
	rules_complete(r, l, -DLM_EUNLOCK, false);
	put_lock(l);
}

int dlm_rules_unlock(struct dlm_rules *r, uint32_t lkid, uint32_t flags, const void *lvb)
{
	struct lock *l = rules_find_lock(r, lkid);
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
	rules_grant_pending(r, res);
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
		rules_requeue(l, DLM_STS_GRANTED);
		rules_complete(r, l, -DLM_ECANCEL, false);
	} else {
		remove_lock(r, l);
		rules_complete(r, l, -DLM_ECANCEL, false);
		put_lock(l);
	}
	rules_grant_pending(r, res);
}

int dlm_rules_cancel(struct dlm_rules *r, uint32_t lkid)
{
	struct lock *l = rules_find_lock(r, lkid);
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
	return !l->orphan && rules_is_owner(*(const struct dlm_owner *)owner, l->owner);
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
	rules_grant_pending(r, res);
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
	struct resource *res = rules_find_resource(r, name, len);
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
		rules_grant_pending(r, res);
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
				rules_grant_pending(r, res);
			res->recover_grant = false;
			put_resource(r, res);
		}
	}
}

void dlm_rules_remaster(struct dlm_rules *r, const void *name, size_t len)
{
	struct resource *res = rules_find_resource(r, name, len);
	struct lock *l;

	if (!res)
		return;
	rules_recover_conversions(res);
	rules_recover_lvb(res);
	for (unsigned s = DLM_STS_WAITING; s <= DLM_STS_CONVERT; s++)
		list_for_each_entry(l, queue_of(res, s), on_queue)
			l->highbast = 0;
	res->recover_grant = true;
	rules_grant_pending(r, res);
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
