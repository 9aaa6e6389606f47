/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of glocks: finding them, their life, giving up what is not used (kernel: glock.c: gfs2_glock_get, gfs2_glock_put,
 * gfs2_scan_glock_lru, gfs2_gl_hash_clear).
 *
 * Life.  A glock is referenced by whoever found it, by its holders, by a running transition, by queued work, and by the fact that
 * its state is not UN: what the cluster thinks we hold is never forgotten.  When the last reference goes the glock is dead:
 * nobody finds it any more, the lock module is told (lm_put_lock) and answers with gfs2_glock_free(), maybe later.  Until then the same
 * name cannot be used again (the module may still be unlocking it): gfs2_glock_get() waits.
 *
 * Dying is decided by the reference count alone: lookups take a reference only if there is one, so no lock is needed to drop the last one.
 */
#include "lock/internal.h"

#include "util/util.h"

#define FLAG(f) (1ul << (f))
/* At the end: if so many looks in a row find all glocks that are left at rest, and nothing has happened between them, they have been leaked. */
#define LEAK_LOOKS 50
#define LEAK_LOOK_NS 100000000ull

int gfs2_glock_table_create(const struct lm_lockops *lm, struct buf_cache *bufs, unsigned workers,
			    void *private, struct gfs2_glock_table **out)
{
	struct gfs2_glock_table *t = xzalloc(sizeof(*t));
	int error;

	t->t_lm = lm;
	t->t_bufs = bufs;
	t->t_private = private;
	t->t_volume_fd = -1;
	rcond_init(&t->t_quiet_cond);
	slab_init(&t->t_slab, sizeof(struct gfs2_glock));
	t->t_clock = now_ns;
	atomic_init(&t->t_min_hold_ns, GLOCK_HOLD_AUTO);
	error = glock_workers_start(t, workers);
	if (error) {
		slab_destroy(&t->t_slab);
		free(t);
		return error;
	}
	for (unsigned i = 0; i < GLOCK_SHARDS; i++) {
		struct glock_shard *sh = &t->t_shards[i];

		rmutex_init(&sh->lock, RANK_GLOCK_TABLE);
		rcond_init(&sh->freed);
		list_init(&sh->lru);
		sh->buckets = xzalloc(GLOCK_BUCKETS * sizeof(*sh->buckets));
	}
	*out = t;
	return 0;
}

void *gfs2_glock_table_private(const struct gfs2_glock_table *t)
{
	return t->t_private;
}

void gfs2_glock_table_set_recovery(struct gfs2_glock_table *t, const struct lm_recovery_ops *ops)
{
	t->t_recovery = ops;
}

void gfs2_glock_table_set_volume(struct gfs2_glock_table *t, int fd, bool keep_locks)
{
	t->t_volume_fd = fd;
	t->t_keep_locks = keep_locks;
}

int gfs2_glock_table_volume(const struct gfs2_glock_table *t, bool *keep_locks)
{
	*keep_locks = t->t_keep_locks;
	return t->t_volume_fd;
}

void gfs2_glock_table_set_min_hold(struct gfs2_glock_table *t, uint64_t ns)
{
	atomic_store_explicit(&t->t_min_hold_ns, ns, memory_order_relaxed);
}

uint64_t gfs2_glock_table_min_hold(const struct gfs2_glock_table *t)
{
	return atomic_load_explicit(&t->t_min_hold_ns, memory_order_relaxed);
}

void gfs2_glock_table_set_lm_private(struct gfs2_glock_table *t, void *lm_private)
{
	t->t_lm_private = lm_private;
}

void *gfs2_glock_table_lm_private(const struct gfs2_glock_table *t)
{
	return t->t_lm_private;
}

int gfs2_glock_table_recover_journal(struct gfs2_glock_table *t, unsigned jid)
{
	if (!t->t_recovery)
		return LM_RD_GAVEUP;
	return t->t_recovery->lm_recover_journal(t->t_private, jid);
}

bool gfs2_glock_table_comes_first(struct gfs2_glock_table *t, unsigned jid)
{
	return t->t_recovery && t->t_recovery->lm_comes_first && t->t_recovery->lm_comes_first(t->t_private, jid);
}

unsigned gfs2_glock_table_nr_journals(struct gfs2_glock_table *t)
{
	return t->t_recovery ? t->t_recovery->lm_nr_journals(t->t_private) : 0;
}

void gfs2_glock_table_lost(struct gfs2_glock_table *t, const char *why)
{
	if (t->t_recovery)
		t->t_recovery->lm_lost(t->t_private, why);
}

bool gfs2_glock_table_withdrawn(const struct gfs2_glock_table *t)
{
	return atomic_load_explicit(&t->t_withdrawn, memory_order_acquire);
}

bool gfs2_glock_table_dying(const struct gfs2_glock_table *t)
{
	return atomic_load_explicit(&t->t_destroying, memory_order_relaxed);
}

/* --- finding --- */

static uint64_t hash_name(enum lm_type type, uint64_t number)
{
	/* Fibonacci hashing; numbers are block addresses, often with a stride. */
	return (number ^ (uint64_t)type << 56) * 0x9e3779b97f4a7c15ull;
}

static struct glock_shard *shard_of(struct gfs2_glock_table *t, enum lm_type type, uint64_t number,
				    struct gfs2_glock ***bucket)
{
	uint64_t h = hash_name(type, number);
	struct glock_shard *sh = &t->t_shards[(h >> 58) % GLOCK_SHARDS];

	*bucket = &sh->buckets[(h >> 40) % GLOCK_BUCKETS];
	return sh;
}

static struct gfs2_glock *find_in(struct gfs2_glock *gl, enum lm_type type, uint64_t number)
{
	while (gl && (gl->gl_number != number || gl->gl_type != type))
		gl = gl->gl_hash;
	return gl;
}

static struct gfs2_glock *glock_alloc(struct gfs2_glock_table *t, uint64_t number,
				      const struct gfs2_glock_operations *ops)
{
	struct gfs2_glock *gl = slab_zalloc(&t->t_slab);

	gl->gl_number = number;
	gl->gl_type = ops->go_type;
	gl->gl_table = t;
	gl->gl_ops = ops;
	rmutex_init(&gl->gl_lock, RANK_GLOCK);
	rcond_init(&gl->gl_wait);
	gl->gl_state = gl->gl_target = gl->gl_req = LM_ST_UNLOCKED;
	gl->gl_demote_state = LM_ST_EXCLUSIVE;
	if (ops->go_instantiate)
		gl->gl_flags = FLAG(GLF_INSTANTIATE_NEEDED);
	list_init(&gl->gl_holders);
	gl->gl_tchange_ns = t->t_clock();
	gl->gl_hold_ns = GLOCK_TURN_FIRST_NS;
	atomic_init(&gl->gl_ref, 1);
	if (ops->go_flags & GLOF_ASPACE)
		mapping_init(&gl->gl_mapping, t->t_bufs, gl, false);
	atomic_init(&gl->gl_ail_count, 0);
	atomic_init(&gl->gl_revokes, 0);
	list_init(&gl->gl_lru);
	list_init(&gl->gl_work);
	list_init(&gl->gl_done);
	return gl;
}

struct gfs2_glock *gfs2_glock_get(struct gfs2_glock_table *t, uint64_t number,
				  const struct gfs2_glock_operations *ops)
{
	struct gfs2_glock **bucket, *gl;
	struct glock_shard *sh = shard_of(t, ops->go_type, number, &bucket);

	rmutex_lock(&sh->lock);
	while ((gl = find_in(*bucket, ops->go_type, number))) {
		if (glock_hold_live(gl))
			goto out;
		rcond_wait(&sh->freed, &sh->lock);
	}
	gl = glock_alloc(t, number, ops);
	gl->gl_hash = *bucket;
	*bucket = gl;
	if (ops->go_flags & GLOF_LRU)
		list_add_tail(&gl->gl_lru, &sh->lru);
	rmutex_lock(&t->t_work_lock);
	t->t_nr++;
	rmutex_unlock(&t->t_work_lock);
out:
	rmutex_unlock(&sh->lock);
	GFS2_BUG_ON(gl->gl_ops != ops);
	return gl;
}

struct gfs2_glock *gfs2_glock_find(struct gfs2_glock_table *t, enum lm_type type, uint64_t number)
{
	struct gfs2_glock **bucket, *gl;
	struct glock_shard *sh = shard_of(t, type, number, &bucket);

	rmutex_lock(&sh->lock);
	gl = find_in(*bucket, type, number);
	if (gl && !glock_hold_live(gl))
		gl = NULL;
	rmutex_unlock(&sh->lock);
	return gl;
}

/* --- references --- */

struct gfs2_glock *gfs2_glock_hold(struct gfs2_glock *gl)
{
	/* Relaxed: the caller has a reference, so nothing is decided here. */
	unsigned old = atomic_fetch_add_explicit(&gl->gl_ref, 1, memory_order_relaxed);

	GFS2_BUG_ON(!old);
	return gl;
}

bool glock_hold_live(struct gfs2_glock *gl)
{
	unsigned ref = atomic_load_explicit(&gl->gl_ref, memory_order_relaxed);

	/* Relaxed: what the glock contains is read under its gl_lock. */
	while (ref)
		if (atomic_compare_exchange_weak_explicit(&gl->gl_ref, &ref, ref + 1,
							  memory_order_relaxed,
							  memory_order_relaxed))
			return true;
	return false;
}

void gfs2_glock_put(struct gfs2_glock *gl)
{
	/* Release: our accesses come before the freeing; acquire: everybody's come before ours. */
	unsigned old = atomic_fetch_sub_explicit(&gl->gl_ref, 1, memory_order_acq_rel);

	GFS2_BUG_ON(!old);
	if (old > 1)
		return;
	if (gl->gl_state != LM_ST_UNLOCKED || gl->gl_phase != GLP_IDLE ||
	    !list_empty(&gl->gl_holders))
		glock_bug(gl, "last reference of a glock in use");
	gl->gl_table->t_lm->lm_put_lock(gl);
}

static void add_times(struct glock_times *to, const struct glock_times *t)
{
	for (unsigned what = 0; what < GLT_NR; what++) {
		for (unsigned b = 0; b < GLOCK_TIME_BUCKETS; b++)
			to->n[what][b] += t->n[what][b];
		to->sum_ns[what] += t->sum_ns[what];
		to->max_ns[what] = max_t(uint64_t, to->max_ns[what], t->max_ns[what]);
	}
}

void gfs2_glock_times(struct gfs2_glock *gl, struct glock_times *out)
{
	rmutex_lock(&gl->gl_lock);
	*out = gl->gl_times;
	rmutex_unlock(&gl->gl_lock);
}

static void sum_times(struct gfs2_glock *gl, void *arg)
{
	struct glock_times t;

	gfs2_glock_times(gl, &t);
	add_times((struct glock_times *)arg + gl->gl_type, &t);
}

void gfs2_glock_table_times(struct gfs2_glock_table *t, struct glock_times out[LM_TYPE_JOURNAL + 1])
{
	rmutex_lock(&t->t_work_lock);
	memcpy(out, t->t_times, sizeof(t->t_times));
	rmutex_unlock(&t->t_work_lock);
	gfs2_glock_table_for_each(t, sum_times, out);
}

void gfs2_glock_free(struct gfs2_glock *gl)
{
	struct gfs2_glock_table *t = gl->gl_table;
	struct gfs2_glock **p;
	struct glock_shard *sh = shard_of(t, gl->gl_type, gl->gl_number, &p);

	rmutex_lock(&sh->lock);
	while (*p != gl)
		p = &(*p)->gl_hash;
	*p = gl->gl_hash;
	list_del_init(&gl->gl_lru);
	rcond_broadcast(&sh->freed);
	rmutex_unlock(&sh->lock);

	rmutex_lock(&t->t_work_lock);
	add_times(&t->t_times[gl->gl_type], &gl->gl_times);
	rmutex_unlock(&t->t_work_lock);
	if (gl->gl_ops->go_flags & GLOF_ASPACE)
		mapping_destroy(&gl->gl_mapping);
	rcond_destroy(&gl->gl_wait);
	rmutex_destroy(&gl->gl_lock);
	slab_free(&t->t_slab, gl);

	/* The last access: when the count is zero the table may go. */
	rmutex_lock(&t->t_work_lock);
	if (!--t->t_nr)
		rcond_broadcast(&t->t_quiet_cond);
	rmutex_unlock(&t->t_work_lock);
}

void glock_set_object(struct gfs2_glock *gl, void *object)
{
	rmutex_lock(&gl->gl_lock);
	if (gl->gl_object)
		glock_bug(gl, "object is set already");
	gl->gl_object = object;
	rmutex_unlock(&gl->gl_lock);
}

void glock_clear_object(struct gfs2_glock *gl, void *object)
{
	rmutex_lock(&gl->gl_lock);
	/* Somebody who found the glock may have given it a new object already. */
	if (gl->gl_object == object)
		gl->gl_object = NULL;
	rmutex_unlock(&gl->gl_lock);
}

/* --- all of them --- */

/* References to all live glocks of a shard. */
static struct gfs2_glock **shard_glocks(struct glock_shard *sh, size_t *nr)
{
	struct gfs2_glock **gls, *gl;
	size_t room = 0;

	*nr = 0;
	rmutex_lock(&sh->lock);
	for (unsigned b = 0; b < GLOCK_BUCKETS; b++)
		for (gl = sh->buckets[b]; gl; gl = gl->gl_hash)
			room++;
	gls = xmalloc(room * sizeof(*gls));
	for (unsigned b = 0; b < GLOCK_BUCKETS; b++)
		for (gl = sh->buckets[b]; gl; gl = gl->gl_hash)
			if (glock_hold_live(gl))
				gls[(*nr)++] = gl;
	rmutex_unlock(&sh->lock);
	return gls;
}

void gfs2_glock_table_for_each(struct gfs2_glock_table *t,
			       void (*fn)(struct gfs2_glock *gl, void *arg), void *arg)
{
	for (unsigned i = 0; i < GLOCK_SHARDS; i++) {
		size_t nr;
		struct gfs2_glock **gls = shard_glocks(&t->t_shards[i], &nr);

		for (size_t j = 0; j < nr; j++) {
			fn(gls[j], arg);
			gfs2_glock_put(gls[j]);
		}
		free(gls);
	}
}

static void withdraw_one(struct gfs2_glock *gl, void *arg)
{
	rmutex_lock(&gl->gl_lock);
	glock_fire(gl, GLE_WITHDRAW, NULL);
	glock_run(gl, GLR_NO_STEP);
	glock_unlock(gl);
}

void gfs2_glock_table_withdraw(struct gfs2_glock_table *t)
{
	atomic_store_explicit(&t->t_withdrawn, true, memory_order_release);
	gfs2_glock_table_for_each(t, withdraw_one, NULL);
}

/* --- a time without transitions --- */

void glock_synced(struct gfs2_glock_table *t)
{
	if (atomic_fetch_sub(&t->t_syncing, 1) != 1 || likely(!atomic_load(&t->t_held)))
		return;
	rmutex_lock(&t->t_work_lock);
	rcond_broadcast(&t->t_quiet_cond);
	rmutex_unlock(&t->t_work_lock);
}

void gfs2_glock_table_hold(struct gfs2_glock_table *t)
{
	rmutex_assert_none();
	atomic_store(&t->t_held, true);
	rmutex_lock(&t->t_work_lock);
	while (atomic_load(&t->t_syncing))
		rcond_wait(&t->t_quiet_cond, &t->t_work_lock);
	rmutex_unlock(&t->t_work_lock);
}

static void run_one(struct gfs2_glock *gl, void *arg)
{
	rmutex_lock(&gl->gl_lock);
	glock_run(gl, GLR_NO_STEP);
	glock_unlock(gl);
}

void gfs2_glock_table_release(struct gfs2_glock_table *t)
{
	atomic_store(&t->t_held, false);
	gfs2_glock_table_for_each(t, run_one, NULL);
}

/* --- giving up what is not used --- */

/* A lock whose object is in core would be asked for again at once, and what it covers read again. */
static bool shrinkable(const struct gfs2_glock *gl)
{
	return !gl->gl_object && gl->gl_state != LM_ST_UNLOCKED && gl->gl_phase == GLP_IDLE &&
	       list_empty(&gl->gl_holders) &&
	       !(gl->gl_flags &
		 (FLAG(GLF_DEMOTE) | FLAG(GLF_PENDING_DEMOTE) | FLAG(GLF_LFLUSH)));
}

/*
 * Once round the list: those that were used since the last look get another round, the others are taken.  Keeping the list in
 * the order of use would cost every holder a shared lock.  @empty: only those that cover no buffer, or only those that do.
 */
static unsigned scan_shard(struct glock_shard *sh, struct gfs2_glock **found, unsigned room, bool empty)
{
	struct list_head *last;
	unsigned nr = 0;

	rmutex_lock(&sh->lock);
	last = sh->lru.prev;
	while (nr < room && !list_empty(&sh->lru)) {
		struct gfs2_glock *gl = list_first_entry(&sh->lru, struct gfs2_glock, gl_lru);
		bool end = &gl->gl_lru == last;

		list_move_tail(&gl->gl_lru, &sh->lru);
		if (rmutex_trylock(&gl->gl_lock)) {
			/* relaxed: only what is given up first depends on it */
			if (empty == !atomic_load_explicit(&gl->gl_mapping.m_nr, memory_order_relaxed)) {
				if (shrinkable(gl) && !gl->gl_used && glock_hold_live(gl))
					found[nr++] = gl;
				gl->gl_used = false;
			}
			rmutex_unlock(&gl->gl_lock);
		}
		if (end)
			break;
	}
	rmutex_unlock(&sh->lock);
	return nr;
}

static unsigned scan_all(struct gfs2_glock_table *t, unsigned cursor, struct gfs2_glock **found, unsigned room, bool empty)
{
	unsigned nr = 0;

	/* Twice, since the first look at a glock may only have found it used. */
	for (unsigned i = 0; i < 2 * GLOCK_SHARDS && nr < room; i++)
		nr += scan_shard(&t->t_shards[(cursor + i) % GLOCK_SHARDS], found + nr, room - nr, empty);
	return nr;
}

static int cmp_number(const void *a, const void *b)
{
	const struct gfs2_glock *ga = *(struct gfs2_glock *const *)a;
	const struct gfs2_glock *gb = *(struct gfs2_glock *const *)b;

	return ga->gl_number < gb->gl_number ? -1 : ga->gl_number > gb->gl_number;
}

unsigned gfs2_glock_shrink(struct gfs2_glock_table *t, unsigned nr)
{
	const struct glock_arg give_up = { .wished = LM_ST_UNLOCKED };
	unsigned started = 0, found, cursor;
	struct gfs2_glock **gls;

	if (!nr)
		return 0;
	nr = min_t(unsigned, nr, 4096);
	gls = xmalloc(nr * sizeof(*gls));
	rmutex_lock(&t->t_work_lock);
	cursor = t->t_shrink_cursor++;
	rmutex_unlock(&t->t_work_lock);
	/* Locks of inodes that were removed come before those without which metadata of live ones would have to be read again. */
	found = scan_all(t, cursor, gls, nr, true);
	found += scan_all(t, cursor, gls + found, nr - found, false);
	/* In the order of the device, since most of them have something to write there. */
	qsort(gls, found, sizeof(*gls), cmp_number);
	for (unsigned i = 0; i < found; i++) {
		struct gfs2_glock *gl = gls[i];

		rmutex_lock(&gl->gl_lock);
		if (shrinkable(gl)) {
			glock_fire(gl, GLE_DEMAND, &give_up);
			glock_run(gl, GLR_NO_STEP);
			started++;
		}
		glock_unlock(gl);
		gfs2_glock_put(gl);
	}
	free(gls);
	return started;
}

/* --- the end --- */

static void clear_one(struct gfs2_glock *gl, void *arg)
{
	bool cancel;

	rmutex_lock(&gl->gl_lock);
	if (!list_empty(&gl->gl_holders))
		glock_bug(gl, "held at unmount");
	/*
	 * A withdraw has sent away who waited, but not taken back the request: whoever has the lock may be waiting for one that this node keeps
	 * until it has gone.
	 */
	cancel = gfs2_glock_table_withdrawn(gl->gl_table) && glock_fire_cancel(gl, GLE_CANCEL);
	glock_fire(gl, GLE_DEMAND, &(struct glock_arg){ .wished = LM_ST_UNLOCKED });
	/* Even if there is nothing to do: work that waits for its time has a reference. */
	glock_queue_work(gl, GLW_RUN, 0);
	glock_unlock(gl);
	if (cancel)
		gl->gl_table->t_lm->lm_cancel(gl);
}

static void dump_one(struct gfs2_glock *gl, void *arg)
{
	gfs2_dump_glock(stderr, gl);
}

static void count_at_rest(struct gfs2_glock *gl, void *arg)
{
	rmutex_lock(&gl->gl_lock);
	*(unsigned *)arg += gl->gl_state == LM_ST_UNLOCKED && gl->gl_phase == GLP_IDLE;
	rmutex_unlock(&gl->gl_lock);
}

/*
 * t_work_lock held; released and retaken.  A glock at rest is in somebody's hands as long as a worker has work, or the lock module has yet to
 * answer for any: who has just brought it there lets go of it a moment later, and on a busy machine a moment may be long.
 */
static bool all_at_rest(struct gfs2_glock_table *t)
{
	unsigned nr = t->t_nr, at_rest = 0;

	if (t->t_workers_idle < t->t_workers || !list_empty(&t->t_work) || !list_empty(&t->t_delayed))
		return false;
	rmutex_unlock(&t->t_work_lock);
	gfs2_glock_table_for_each(t, count_at_rest, &at_rest);
	rmutex_lock(&t->t_work_lock);
	return at_rest == nr;
}

/*
 * What takes long may be the lock module or a write-back; but glocks that are at rest, with nobody who could be about to let go of them, will
 * be so for ever.  Looks are counted and not time, which goes on while the process is stopped.
 */
static void await_empty(struct gfs2_glock_table *t)
{
	unsigned looks = 0, before = 0;

	/* Not t_work_cond: who signals that means a worker, and only one. */
	rmutex_lock(&t->t_work_lock);
	while (t->t_nr) {
		bool event = rcond_wait_until(&t->t_quiet_cond, &t->t_work_lock, now_ns() + LEAK_LOOK_NS);
		unsigned nr = t->t_nr;

		looks = !event && nr && nr == before && all_at_rest(t) ? looks + 1 : 0;
		before = nr;
		if (looks < LEAK_LOOKS)
			continue;
		rmutex_unlock(&t->t_work_lock);
		gfs2_glock_table_for_each(t, dump_one, NULL);
		gfs2_bug("glocks still referenced at unmount", __FILE__, __LINE__, __func__);
	}
	rmutex_unlock(&t->t_work_lock);
}

void gfs2_glock_table_destroy(struct gfs2_glock_table *t)
{
	atomic_store_explicit(&t->t_destroying, true, memory_order_release);
	gfs2_glock_table_for_each(t, clear_one, NULL);
	await_empty(t);
	if (t->t_lm->lm_unmount)
		t->t_lm->lm_unmount(t);
	glock_workers_stop(t);
	rcond_destroy(&t->t_quiet_cond);
	for (unsigned i = 0; i < GLOCK_SHARDS; i++) {
		rmutex_destroy(&t->t_shards[i].lock);
		rcond_destroy(&t->t_shards[i].freed);
		free(t->t_shards[i].buckets);
	}
	slab_destroy(&t->t_slab);
	free(t);
}
