/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules (dlm_rules.h): looking inside, and the invariants.
 */
#include "lock/dlm_rules_i.h"

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
	const struct lock *l = rules_find_lock(r, lkid);

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

	c->nr += rules_is_owner(c->owner, info->owner);
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
	const struct resource *res = rules_find_resource(r, name, len);

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
			if (s != DLM_STS_GRANTED && rules_grantable(l, false, false))
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
