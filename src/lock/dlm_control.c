/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may use the locks after a death: the kernel's protocol of CONTROL and MOUNTED (kernel: lock_dlm.c:control_mount,
 * control_first_done, gfs2_control_func; reference gfs2-locking-dio.md 3.3-3.6).
 *
 * CONTROL's value block holds a generation and a bit for every journal that has to be replayed.  MOUNTED is held PR by whoever has
 * the volume mounted, EX by the first mounter until it has replayed all journals.
 *
 *	member:	 BEGIN -> blocked; REMOVE -> dc_submit; DONE(gen) -> control thread:
 *		 CONTROL EX; what is new since the block's generation goes into its bits, what was replayed out of them; CONTROL NL;
 *		 bits left: replay those journals, again; none, and no news meanwhile: not blocked any more
 *	joiner:	 CONTROL EX, MOUNTED EX (first) or PR; not first: wait until no bit is left and the generation is the newest
 *
 * Every survivor tries every journal; the journal's own lock decides.  The generation is published after a mere join as well, or the
 * joiner would wait for ever.
 */
#include "lock/dlm_i.h"

#include <libdlm.h>
#include <signal.h>
#include <unistd.h>

#include "util/util.h"

#define RETRY_NS 1000000000ull	/* somebody else replays it */
#define NEWS_NS 100000000ull	/* another node knows of a recovery that is not in our log yet */
#define MOUNT_RETRY_US 100000
#define SAY_AFTER 50		/* attempts to mount, before it says what it waits for */

/* --- the log's news; dc_lock held, on the reader --- */

static unsigned slot_of(const struct lm_dlm *dc, unsigned nodeid)
{
	for (unsigned i = 0; i < dc->dc_slots.nr; i++)
		if (dc->dc_slots.at[i].nodeid == nodeid)
			return dc->dc_slots.at[i].slot;
	return 0;
}

/*
 * With many nodes the log does not show all slots.  One whose slot this node has never seen may have had any journal that is not a known
 * living node's: all those are looked at (see candidates()).
 */
static void member_gone(struct lm_dlm *dc, unsigned nodeid)
{
	bool known = false;

	for (unsigned i = 0; i < dc->dc_slots.nr; i++) {
		if (dc->dc_slots.at[i].nodeid != nodeid)
			continue;
		/* It may have come back since, with a slot that was not shown. */
		known = !dc->dc_slots.at[i].gone || dc->dc_slots.complete;
		dc->dc_slots.at[i].gone = true;
		/* One who has left has a clean journal, and looking at it does no harm. */
		dc->dc_submit[dc->dc_slots.at[i].slot - 1] = dc->dc_block + 1;
	}
	/* Before our own first slots: whoever was there then deals with it. */
	if (known || !dc->dc_slots.nr)
		return;
	fs_warn("node %u has gone, but its slot is not known: all journals that may be its will be looked at", nodeid);
	dc->dc_submit_unknown = dc->dc_block + 1;
}

/*
 * Nodes that are not in the new list stay known until somebody else has their slot: if this recovery is interrupted by another
 * one, their removal may be repeated.
 */
static void new_slots(struct lm_dlm *dc, const struct dlm_slots *slots)
{
	struct dlm_slots old = dc->dc_slots;

	if (!slots->complete && old.complete)
		fs_info("the list of slots in the kernel log is cut off: %u of %u are shown", slots->nr, slots->total);
	dc->dc_slots = *slots;
	for (unsigned i = 0; i < old.nr && dc->dc_slots.nr < DLM_MAX_JID; i++) {
		bool taken = false;

		for (unsigned j = 0; j < slots->nr; j++)
			taken |= slots->at[j].slot == old.at[i].slot ||
				 slots->at[j].nodeid == old.at[i].nodeid;
		if (!taken)
			dc->dc_slots.at[dc->dc_slots.nr++] = old.at[i];
	}
}

void dlm_control_news(struct lm_dlm *dc, const struct dlm_news *news)
{
	switch (news->type) {
	case DLM_NEWS_NONE:
		break;
	case DLM_NEWS_BEGIN:
		dc->dc_block = dc->dc_start;
		dc->dc_recovering = true;
		if (dc->dc_mount_done && !dc->dc_first && !dc->dc_control_stopped)
			dc->dc_blocked = true;
		break;
	case DLM_NEWS_REMOVE:
		member_gone(dc, news->nodeid);
		break;
	case DLM_NEWS_SLOTS:
		new_slots(dc, &news->slots);
		break;
	case DLM_NEWS_DONE:
		dc->dc_start = news->generation;
		dc->dc_recovering = false;
		if (!dc->dc_mount) {
			unsigned slot = slot_of(dc, dc->dc_nodeid);

			if (slot) {
				dc->dc_mount = news->generation;
				dc->dc_jid = slot - 1;
			}
		}
		dc->dc_retry_ns = 0;
		memset(dc->dc_failed, 0, sizeof(dc->dc_failed));
		rcond_broadcast(&dc->dc_cond);
		break;
	}
}

/* --- replaying --- */

static bool recover_jid(struct lm_dlm *dc, unsigned jid, uint32_t gen)
{
	int result = LM_RD_SUCCESS;
	uint64_t retry = RETRY_NS;
	bool again, success;

	rmutex_lock(&dc->dc_lock);
	/* The same was said the last time. */
	again = dc->dc_failed[jid];
	rmutex_unlock(&dc->dc_lock);
	if (!again)
		fs_info("recover generation %u jid %u", gen, jid);
	/* Ours: set by one who does not know whose it is. */
	if (jid != dc->dc_jid || gfs2_glock_table_withdrawn(dc->dc_table))
		result = gfs2_glock_table_recover_journal(dc->dc_table, jid);
	success = result == LM_RD_SUCCESS;
	if (!again || result != LM_RD_FAILED)
		fs_info("recover jid %u result %s", jid, success ? "success" : result == LM_RD_FAILED ? "failed" : "busy");
	rmutex_lock(&dc->dc_lock);
	dc->dc_recovered[jid] |= success;
	if (result == LM_RD_FAILED) {
		retry = lm_retry_ns(RETRY_NS, dc->dc_failed[jid]);
		dc->dc_failed[jid] += dc->dc_failed[jid] < UINT8_MAX;
	} else {
		dc->dc_failed[jid] = 0;
	}
	/* News that came meanwhile do not wait, nor does the one of several that is to be asked for soonest. */
	if (!success && gen == dc->dc_start && (!dc->dc_retry_ns || now_ns() + retry < dc->dc_retry_ns))
		dc->dc_retry_ns = now_ns() + retry;
	rmutex_unlock(&dc->dc_lock);
	return success;
}

static bool is_stopped(struct lm_dlm *dc)
{
	bool stop;

	rmutex_lock(&dc->dc_lock);
	stop = dc->dc_stop_control;
	rmutex_unlock(&dc->dc_lock);
	return stop;
}

void dlm_control_recover(struct lm_dlm *dc, const struct control_lvb *c, uint32_t gen)
{
	bool done[DLM_MAX_JID] = { false };
	unsigned nr = 0;

	for (unsigned jid = 0; jid < DLM_MAX_JID; jid++)
		nr += control_bit(c, jid);
	/* Mostly it is one, and need not be read once more. */
	for (unsigned jid = 0; nr > 1 && jid < DLM_MAX_JID && !is_stopped(dc); jid++) {
		if (!control_bit(c, jid) || !gfs2_glock_table_comes_first(dc->dc_table, jid))
			continue;
		done[jid] = recover_jid(dc, jid, gen);
		if (!done[jid])
			return;
	}
	for (unsigned jid = 0; jid < DLM_MAX_JID && !is_stopped(dc); jid++)
		if (control_bit(c, jid) && !done[jid])
			recover_jid(dc, jid, gen);
}

/*
 * One has died whose slot is not known.  A journal that was not its, and nobody's, is clean; a living node that this one does not know
 * the slot of takes its own journal's bit away itself (recover_jid()).
 */
static void candidates(const struct lm_dlm *dc, struct control_lvb *c, unsigned nr_journals)
{
	for (unsigned jid = 0; jid < nr_journals && jid < DLM_MAX_JID; jid++) {
		bool living = jid == dc->dc_jid;

		for (unsigned i = 0; i < dc->dc_slots.nr; i++)
			living |= dc->dc_slots.at[i].slot == jid + 1 && !dc->dc_slots.at[i].gone;
		if (!living)
			c->bits[jid / 8] |= (uint8_t)(1u << jid % 8);
	}
}

bool dlm_control_merge(struct lm_dlm *dc, struct control_lvb *c, unsigned nr_journals)
{
	uint32_t start = dc->dc_start;
	bool changed = false;

	/* A newer one: news of our own will come soon. */
	if (c->generation > start)
		return false;
	/* Who publishes a generation speaks for all: not before it can say everything.  Another node may be quicker. */
	if (dc->dc_submit_unknown && c->generation < start && !nr_journals)
		return false;
	for (unsigned i = 0; i < DLM_MAX_JID; i++) {
		if (dc->dc_recovered[i] && control_bit(c, i)) {
			c->bits[i / 8] &= (uint8_t) ~(1u << i % 8);
			changed = true;
		}
		dc->dc_recovered[i] = false;
	}
	for (unsigned i = 0; i < DLM_MAX_JID; i++) {
		uint32_t since = dc->dc_submit[i] - 1;

		if (!dc->dc_submit[i] || since >= start)
			continue;
		dc->dc_submit[i] = 0;
		/* Whoever has published this generation knew of it, too. */
		if (c->generation < start)
			c->bits[i / 8] |= (uint8_t)(1u << i % 8);
	}
	if (dc->dc_submit_unknown && dc->dc_submit_unknown - 1 < start) {
		dc->dc_submit_unknown = 0;
		if (c->generation < start)
			candidates(dc, c, nr_journals);
	}
	if (c->generation < start || c->owner != CONTROL_US) {
		c->generation = start;
		c->owner = CONTROL_US;
		changed = true;
	}
	return changed;
}

static bool any_bit(const struct control_lvb *c)
{
	for (unsigned i = 0; i < sizeof(c->bits); i++)
		if (c->bits[i])
			return true;
	return false;
}

/* One round of the control thread, for the generation that is the newest now. */
static void control_round(struct lm_dlm *dc)
{
	struct control_lvb c;
	uint32_t start, block;
	bool write = false, current, thaw = false;
	unsigned nr_journals = gfs2_glock_table_nr_journals(dc->dc_table);

	rmutex_lock(&dc->dc_lock);
	start = dc->dc_start;
	block = dc->dc_block;
	dc->dc_retry_ns = 0;
	rmutex_unlock(&dc->dc_lock);

	if (dlm_sync_lock(&dc->dc_control, LM_ST_EXCLUSIVE, LKF_VALBLK)) {
		gfs2_glock_table_lost(dc->dc_table, "the control lock cannot be had");
		return;
	}
	control_lvb_decode(dc->dc_control.lvb, &c);
	rmutex_lock(&dc->dc_lock);
	current = start == dc->dc_start && block == dc->dc_block;
	if (current)
		write = dlm_control_merge(dc, &c, nr_journals);
	rmutex_unlock(&dc->dc_lock);
	if (write)
		control_lvb_encode(dc->dc_control.lvb, &c);
	/* The block is written by the conversion from EX, if VALBLK is given. */
	dlm_sync_lock(&dc->dc_control, LM_ST_UNLOCKED, write ? LKF_VALBLK : 0);
	if (!current)
		return;
	if (c.generation != start) {
		rmutex_lock(&dc->dc_lock);
		dc->dc_retry_ns = now_ns() + NEWS_NS;
		rmutex_unlock(&dc->dc_lock);
		return;
	}
	if (any_bit(&c)) {
		dlm_control_recover(dc, &c, start);
		return;
	}
	rmutex_lock(&dc->dc_lock);
	if (start == dc->dc_start && block == dc->dc_block && c.generation == start) {
		dc->dc_blocked = false;
		thaw = true;
	}
	rmutex_unlock(&dc->dc_lock);
	if (thaw) {
		fs_info("recover generation %u done", start);
		dlm_thaw(dc);
	}
}

/* --- the thread --- */

/* dc_lock held */
static bool work_due(const struct lm_dlm *dc)
{
	return dc->dc_mount_done && !dc->dc_first && !dc->dc_finishing && dc->dc_blocked && !dc->dc_recovering &&
	       dc->dc_block != dc->dc_start && now_ns() >= dc->dc_retry_ns;
}

static void *control(void *arg)
{
	struct lm_dlm *dc = arg;

	rmutex_lock(&dc->dc_lock);
	while (!dc->dc_stop_control) {
		if (work_due(dc)) {
			rmutex_unlock(&dc->dc_lock);
			control_round(dc);
			rmutex_lock(&dc->dc_lock);
		} else if (dc->dc_retry_ns > now_ns()) {
			rcond_wait_until(&dc->dc_cond, &dc->dc_lock, dc->dc_retry_ns);
		} else {
			rcond_wait(&dc->dc_cond, &dc->dc_lock);
		}
	}
	rmutex_unlock(&dc->dc_lock);
	return NULL;
}

int dlm_control_start(struct lm_dlm *dc)
{
	sigset_t old;
	int error;

	block_all_but_faults(&old);
	error = -pthread_create(&dc->dc_control_thread, NULL, control, dc);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!error) {
		dc->dc_has_control = true;
		pthread_setname_np(dc->dc_control_thread, "dlm_control");
	}
	return error;
}

void dlm_control_stop(struct lm_dlm *dc)
{
	if (!dc->dc_has_control)
		return;
	rmutex_lock(&dc->dc_lock);
	dc->dc_stop_control = true;
	rcond_broadcast(&dc->dc_cond);
	rmutex_unlock(&dc->dc_lock);
	pthread_join(dc->dc_control_thread, NULL);
	dc->dc_has_control = false;
}

/* --- mounting --- */

static bool interrupted(void)
{
	sigset_t pending;

	/* They are blocked in all threads; who waits for a mount may still want to stop it. */
	sigpending(&pending);
	return sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM);
}

/* What a second node still waits for; NULL: nothing. */
static const char *not_yet(struct lm_dlm *dc, const struct control_lvb *c)
{
	const char *why = NULL;

	rmutex_lock(&dc->dc_lock);
	if (any_bit(c))
		why = "the other nodes to replay the journal of a dead one";
	else if (c->owner == CONTROL_NOBODY || c->generation < dc->dc_mount)
		why = "the other nodes to notice this one";
	else if (c->generation != dc->dc_start)
		why = "the other nodes to notice a change of members";
	else if (dc->dc_block == dc->dc_start || dc->dc_recovering)
		why = "the DLM's recovery";
	if (!why) {
		dc->dc_blocked = false;
		dc->dc_mount_done = true;
		memset(dc->dc_submit, 0, sizeof(dc->dc_submit));
		dc->dc_submit_unknown = 0;
		memset(dc->dc_recovered, 0, sizeof(dc->dc_recovered));
	}
	rmutex_unlock(&dc->dc_lock);
	return why;
}

/* 0 and *@first, -EAGAIN: once more after a while (*@why), or an error. */
static int try_mount(struct lm_dlm *dc, bool *first, const char **why)
{
	struct control_lvb c;
	int error;

	*why = "another node that is mounting";
	if (dc->dc_mounted.held != LM_ST_UNLOCKED) {
		error = dlm_sync_lock(&dc->dc_mounted, LM_ST_UNLOCKED, 0);
		if (error)
			return error;
	}
	error = dlm_sync_lock(&dc->dc_control, LM_ST_EXCLUSIVE, LKF_NOQUEUE | LKF_VALBLK);
	if (error)
		return error;
	error = dlm_sync_lock(&dc->dc_mounted, LM_ST_EXCLUSIVE, LKF_NOQUEUE);
	if (!error) {
		rmutex_lock(&dc->dc_lock);
		dc->dc_blocked = false;
		dc->dc_first = dc->dc_mount_done = true;
		rmutex_unlock(&dc->dc_lock);
		*first = true;
		return 0;
	}
	if (error != -EAGAIN)
		return error;
	*first = false;
	error = dlm_sync_lock(&dc->dc_mounted, LM_ST_SHARED, LKF_NOQUEUE);
	if (error) {
		fs_err("the mounted lock cannot be shared: %s", strerror(-error));
		return -EIO;
	}
	control_lvb_decode(dc->dc_control.lvb, &c);
	error = dlm_sync_lock(&dc->dc_control, LM_ST_UNLOCKED, 0);
	if (error)
		return error;
	if (c.owner == CONTROL_KERNEL) {
		fs_err("the volume is mounted by the kernel's gfs2 on another node: kernel nodes and "
		       "gfs2-fuse cannot share a volume yet, only take turns");
		return -EBUSY;
	}
	*why = not_yet(dc, &c);
	return *why ? -EAGAIN : 0;
}

int dlm_control_mount(struct lm_dlm *dc, bool *first)
{
	const char *why;
	int error;

	error = dlm_sync_lock(&dc->dc_control, LM_ST_UNLOCKED, LKF_VALBLK);
	if (!error)
		error = dlm_sync_lock(&dc->dc_mounted, LM_ST_UNLOCKED, 0);
	for (unsigned n = 1; !error; n++) {
		error = try_mount(dc, first, &why);
		if (error != -EAGAIN)
			break;
		error = interrupted() ? -EINTR : 0;
		if (!error && n % SAY_AFTER == 0)
			fs_warn("waiting for %s", why);
		usleep(MOUNT_RETRY_US);
	}
	if (!error)
		fs_info("joined '%s' as journal %u%s, generation %u", dc->dc_name, dc->dc_jid,
			*first ? ", first mounter" : "", dc->dc_start);
	return error;
}

void dlm_control_first_done(struct lm_dlm *dc)
{
	struct control_lvb c = { .owner = CONTROL_US };

	rmutex_lock(&dc->dc_lock);
	/* Who has died meanwhile was not mounted. */
	while (dc->dc_recovering || dc->dc_start == dc->dc_block)
		rcond_wait(&dc->dc_cond, &dc->dc_lock);
	/* From now on deaths count, but CONTROL is ours to use until it has been given back. */
	dc->dc_first = false;
	dc->dc_finishing = true;
	memset(dc->dc_submit, 0, sizeof(dc->dc_submit));
	dc->dc_submit_unknown = 0;
	memset(dc->dc_recovered, 0, sizeof(dc->dc_recovered));
	c.generation = dc->dc_start;
	rmutex_unlock(&dc->dc_lock);
	control_lvb_encode(dc->dc_control.lvb, &c);
	/* In this order: who gets CONTROL must find MOUNTED shared. */
	if (dlm_sync_lock(&dc->dc_mounted, LM_ST_SHARED, 0) ||
	    dlm_sync_lock(&dc->dc_control, LM_ST_UNLOCKED, LKF_VALBLK))
		gfs2_glock_table_lost(dc->dc_table, "the control lock cannot be given back");
	rmutex_lock(&dc->dc_lock);
	dc->dc_finishing = false;
	rcond_broadcast(&dc->dc_cond);
	rmutex_unlock(&dc->dc_lock);
}
