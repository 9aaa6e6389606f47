/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The DLM's rules (dlm_rules.h): modes, queues, what can be granted, who is told, and value blocks.
 */
#include "lock/dlm_rules_i.h"

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

bool rules_may_quecvt(int granted, int requested)
{
	return may_quecvt[granted + 1][requested + 1];
}

bool dlm_modes_compatible(int a, int b)
{
	return compat[a + 1][b + 1];
}

const char *dlm_mode_name(int mode)
{
	static const char *const names[] = { "IV", "NL", "CR", "CW", "PR", "PW", "EX" };

	return mode >= IV && mode <= DLM_LOCK_EX ? names[mode + 1] : "??";
}

/* --- queues --- */

void rules_enqueue(struct lock *l, enum dlm_lock_status status)
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

void rules_requeue(struct lock *l, enum dlm_lock_status status)
{
	list_del_init(&l->on_queue);
	rules_enqueue(l, status);
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

/* _can_be_granted() */
bool rules_grantable(const struct lock *l, bool now, bool recover)
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
bool rules_try_grant(struct lock *l, bool now, bool recover, bool *deadlock)
{
	int alt = IV, requested = l->requested;

	*deadlock = false;
	if (rules_grantable(l, now, recover))
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
	if (rules_grantable(l, now, false)) {
		l->sbflags |= DLM_SBF_ALTMODE;
		return true;
	}
	l->requested = requested;
	return false;
}

/* --- value blocks --- */

void rules_write_lvb(struct lock *l)
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
		rules_write_lvb(l);
		if (!(l->exflags & DLM_LKF_VALBLK) || (l->exflags & DLM_LKF_IVVALBLK))
			return false;
		break;
	}
	if (res->invalid)
		l->sbflags |= DLM_SBF_VALNOTVALID;
	return read;
}

/* --- granting --- */

void rules_grant(struct dlm_rules *r, struct lock *l)
{
	bool read = transfer_lvb(l);

	if (l->granted != l->requested) {
		l->granted = l->requested;
		if (l->status)
			rules_requeue(l, DLM_STS_GRANTED);
		else
			rules_enqueue(l, DLM_STS_GRANTED);
	} else if (l->status == DLM_STS_CONVERT) {
		/* What a new master believes that it holds may be what it asks for (recover_conversions()). */
		rules_requeue(l, DLM_STS_GRANTED);
	}
	l->requested = IV;
	l->highbast = 0;
	rules_complete(r, l, 0, read);
}

/* grant_pending_convert(): returns the highest mode that still waits, IV if none does. */
int rules_grant_conversions(struct dlm_rules *r, struct resource *res, bool *cw)
{
	bool granted, demoted, again = true;
	struct lock *l, *tmp;
	int high;

	do {
		granted = demoted = false;
		high = IV;
		list_for_each_entry_safe(l, tmp, queue_of(res, DLM_STS_CONVERT), on_queue) {
			bool was_demoted = l->sbflags & DLM_SBF_DEMOTED, deadlock;

			if (rules_try_grant(l, false, res->recover_grant, &deadlock)) {
				rules_grant(r, l);
				granted = true;
				continue;
			}
			if (!was_demoted && (l->sbflags & DLM_SBF_DEMOTED)) {
				demoted = true;
				continue;
			}
			if (deadlock) {
				if ((l->exflags & DLM_LKF_NODLCKWT) && l->highbast < l->requested) {
					rules_say_blocking(r, l, l->requested);
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

		if (rules_try_grant(l, false, false, &deadlock)) {
			rules_grant(r, l);
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
void rules_grant_pending(struct dlm_rules *r, struct resource *res)
{
	struct lock *l;
	bool cw = false;
	int high;

	high = rules_grant_conversions(r, res, &cw);
	high = grant_waiting(r, res, high, &cw);
	if (high == IV)
		return;
	list_for_each_entry(l, queue_of(res, DLM_STS_GRANTED), on_queue) {
		if (!l->bast || !blocks_high(l, high, cw))
			continue;
		if (cw && high == DLM_LOCK_PR && l->granted == DLM_LOCK_PR)
			rules_say_blocking(r, l, DLM_LOCK_CW);
		else
			rules_say_blocking(r, l, high);
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

void rules_tell_blockers(struct dlm_rules *r, struct lock *l, enum dlm_lock_status status)
{
	struct lock *o;

	list_for_each_entry(o, queue_of(l->res, status), on_queue) {
		if (o == l || !o->bast || !blocks(o, l))
			continue;
		rules_say_blocking(r, o, l->requested);
		o->highbast = l->requested;
	}
}

/* --- a new master --- */

/* recover_lvb() on a new master: the locks that are left know the block best. */
void rules_recover_lvb(struct resource *res)
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
void rules_recover_conversions(struct resource *res)
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
