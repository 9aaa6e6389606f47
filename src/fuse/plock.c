/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fcntl(2) locks among the nodes that run this program.  The kernel's gfs2 hands them to dlm_controld; libdlm cannot, so this is a resource of
 * our own: type 7, the inode's number.
 *
 * Coarse: the node that has it in EX may have fcntl locks on that file, of whatever kind and range; in between its own processes the
 * ranges are kept exactly, here.  So processes on different nodes exclude each other even where they lock different ranges, or only for
 * reading.  It is given up with the node's last lock on the file; when others ask for it, processes that have no lock on the file here wait
 * until they have had their turn.
 * EDEADLK is found among the processes of one node only.
 */
#include <fcntl.h>
#include "fuse/locks_i.h"

enum plock_state {
	PLOCK_NONE,
	PLOCK_TRYING,	/* a worker tries to get it; not for long */
	PLOCK_ASKED,	/* another node has it; the callback will come */
	PLOCK_HELD,
};

struct range {
	struct list_head list;
	uint64_t owner;
	const struct gfs2_file *file;	/* it was set through; OFD locks end with it */
	uint64_t start, end;		/* inclusive */
	short type;			/* F_RDLCK, F_WRLCK */
	pid_t pid;
};

struct waiter {
	struct list_head list;
	fuse_req_t req;
	int where;			/* it was read */
	struct range r;
};

struct plock_inode {
	struct list_head list;
	struct file_locks *fl;
	uint64_t number;
	struct gfs2_glock *gl;
	unsigned users;			/* calls that work with it without fl->lock */
	enum plock_state state;
	struct gfs2_holder gh;
	struct list_head ranges;	/* held, in no order */
	struct list_head waiters;	/* in the order of arrival */
};

/* --- ranges; fl->lock held --- */

static bool overlap(const struct range *a, const struct range *b)
{
	return a->start <= b->end && b->start <= a->end;
}

static const struct range *conflict(const struct plock_inode *pi, const struct range *r)
{
	const struct range *o;

	list_for_each_entry(o, &pi->ranges, list)
		if (o->owner != r->owner && overlap(o, r) && (o->type == F_WRLCK || r->type == F_WRLCK))
			return o;
	return NULL;
}

static void add_range(struct plock_inode *pi, const struct range *r, uint64_t start, uint64_t end)
{
	struct range *n = xmalloc(sizeof(*n));

	*n = *r;
	n->start = start;
	n->end = end;
	list_add_tail(&n->list, &pi->ranges);
}

/* What the owner has of that range goes; what sticks out stays. */
static void clear_range(struct plock_inode *pi, const struct range *r)
{
	struct range *o, *tmp;

	list_for_each_entry_safe(o, tmp, &pi->ranges, list) {
		if (o->owner != r->owner || !overlap(o, r))
			continue;
		if (o->start < r->start && o->end > r->end) {
			add_range(pi, o, r->end + 1, o->end);
			o->end = r->start - 1;
		} else if (o->start < r->start) {
			o->end = r->start - 1;
		} else if (o->end > r->end) {
			o->start = r->end + 1;
		} else {
			list_del_init(&o->list);
			free(o);
		}
	}
}

static void set_range(struct plock_inode *pi, const struct range *r)
{
	struct range n = *r;
	struct range *o, *tmp;

	clear_range(pi, r);
	/* Neighbours of the same kind become one, or a file locked piece by piece would make a long list. */
	list_for_each_entry_safe(o, tmp, &pi->ranges, list) {
		if (o->owner != n.owner || o->type != n.type || o->file != n.file)
			continue;
		if ((o->end != UINT64_MAX && o->end + 1 == n.start) || (n.end != UINT64_MAX && n.end + 1 == o->start)) {
			n.start = min_t(uint64_t, n.start, o->start);
			n.end = max_t(uint64_t, n.end, o->end);
			list_del_init(&o->list);
			free(o);
		}
	}
	add_range(pi, &n, n.start, n.end);
}

static bool has_range(const struct plock_inode *pi, uint64_t owner)
{
	const struct range *o;

	list_for_each_entry(o, &pi->ranges, list)
		if (o->owner == owner)
			return true;
	return false;
}

/* Whom does a waiter of that owner wait for?  0: nobody of this node. */
static uint64_t waits_for(const struct file_locks *fl, uint64_t owner)
{
	const struct plock_inode *pi;
	const struct waiter *w;

	for (unsigned i = 0; i < LOCK_BUCKETS; i++)
		list_for_each_entry(pi, &fl->plocks[i], list)
			list_for_each_entry(w, &pi->waiters, list)
				if (w->r.owner == owner) {
					const struct range *o = conflict(pi, &w->r);

					return o ? o->owner : 0;
				}
	return 0;
}

/* As the kernel's posix_locks_deadlock(): a chain that comes back to who asks; a long one is not followed. */
static bool would_deadlock(const struct file_locks *fl, const struct plock_inode *pi, const struct range *r)
{
	const struct range *o = conflict(pi, r);
	uint64_t owner = o ? o->owner : 0;

	for (unsigned i = 0; owner && i < 10; i++) {
		owner = waits_for(fl, owner);
		if (owner == r->owner)
			return true;
	}
	return false;
}

/* --- the node's lock; fl->lock held --- */

static struct plock_inode *find_inode(struct file_locks *fl, uint64_t number)
{
	struct plock_inode *pi;

	list_for_each_entry(pi, &fl->plocks[number % LOCK_BUCKETS], list)
		if (pi->number == number)
			return pi;
	return NULL;
}

static struct plock_inode *get_inode(struct file_locks *fl, uint64_t number)
{
	struct plock_inode *pi = find_inode(fl, number);

	if (!pi) {
		pi = xzalloc(sizeof(*pi));
		pi->fl = fl;
		pi->number = number;
		pi->gl = gfs2_glock_get(fl->sdp->sd_glocks, number, &gfs2_plock_glops);
		list_init(&pi->ranges);
		list_init(&pi->waiters);
		list_add_tail(&pi->list, &fl->plocks[number % LOCK_BUCKETS]);
	}
	pi->users++;
	return pi;
}

static void answer_waiter(struct waiter *w, int error)
{
	list_del_init(&w->list);
	answer_later(w->req, w->where, error);
	free(w);
}

/* PLOCK_HELD.  @yield: others of this node only as far as they have locks here, because another node waits for the file. */
static void serve_waiters(struct plock_inode *pi, bool yield)
{
	struct waiter *w, *tmp;

	GFS2_BUG_ON(pi->state != PLOCK_HELD);
	list_for_each_entry_safe(w, tmp, &pi->waiters, list) {
		if (conflict(pi, &w->r) || (yield && !has_range(pi, w->r.owner)))
			continue;
		set_range(pi, &w->r);
		answer_waiter(w, 0);
	}
}

/* Whom the dump names of all those of this node: who has had a lock the longest, or waits the longest. */
static void name_owner(struct plock_inode *pi)
{
	if (pi->state == PLOCK_HELD && !list_empty(&pi->ranges))
		gfs2_holder_set_pid(&pi->gh, list_first_entry(&pi->ranges, struct range, list)->pid);
	else if (pi->state == PLOCK_ASKED && !list_empty(&pi->waiters))
		gfs2_holder_set_pid(&pi->gh, list_first_entry(&pi->waiters, struct waiter, list)->r.pid);
}

static void free_unused(struct plock_inode *pi)
{
	if (pi->users || pi->state != PLOCK_NONE || !list_empty(&pi->waiters))
		return;
	list_del_init(&pi->list);
	gfs2_glock_put(pi->gl);
	free(pi);
}

/* Any thread; nothing is held but, when it comes from inside ask(), fl->lock. */
static void plock_granted(struct gfs2_holder *gh)
{
	struct plock_inode *pi = gh->gh_priv;
	struct file_locks *fl = pi->fl;

	pthread_mutex_lock(&fl->lock);
	if (gh->gh_error) {
		gfs2_holder_uninit(gh);
		pi->state = PLOCK_NONE;
		while (!list_empty(&pi->waiters))
			answer_waiter(list_first_entry(&pi->waiters, struct waiter, list), EIO);
	} else {
		pi->state = PLOCK_HELD;
		/* The first one, whom the holder is named after, gets his in any case: there are no ranges yet. */
		serve_waiters(pi, false);
		/* All of them were interrupted meanwhile. */
		if (list_empty(&pi->ranges)) {
			gfs2_glock_dq_uninit(gh);
			pi->state = PLOCK_NONE;
		}
	}
	pthread_cond_broadcast(&fl->cond);
	free_unused(pi);
	pthread_mutex_unlock(&fl->lock);
}

static void ask(struct plock_inode *pi)
{
	pi->state = PLOCK_ASKED;
	gfs2_holder_init(pi->gl, LM_ST_EXCLUSIVE, HOLDER_FLAGS | GL_ASYNC, &pi->gh, __func__);
	name_owner(pi);
	pi->gh.gh_granted = plock_granted;
	pi->gh.gh_priv = pi;
	gfs2_glock_nq(&pi->gh);
}

/*
 * The end of every call, fl->lock held and given up: a lock of the node that it does not need goes, one that is waited for is asked for, and
 * who is not used any more is freed.
 */
static void put_inode(struct plock_inode *pi)
{
	struct file_locks *fl = pi->fl;

	/* If no other node waits, the next one here need not ask. */
	if (pi->state == PLOCK_HELD && list_empty(&pi->ranges) && !gfs2_glock_demote_wanted(pi->gl))
		serve_waiters(pi, false);
	if (pi->state == PLOCK_HELD && list_empty(&pi->ranges)) {
		/* Nobody else touches the holder in this state. */
		pi->state = PLOCK_TRYING;
		pthread_mutex_unlock(&fl->lock);
		locks_drop(&pi->gh);
		pthread_mutex_lock(&fl->lock);
		pi->state = PLOCK_NONE;
		pthread_cond_broadcast(&fl->cond);
	}
	if (pi->state == PLOCK_NONE && !list_empty(&pi->waiters)) {
		ask(pi);
	} else if (pi->state == PLOCK_ASKED && list_empty(&pi->waiters) && gfs2_glock_cancel(&pi->gh)) {
		gfs2_holder_uninit(&pi->gh);
		pi->state = PLOCK_NONE;
	}
	name_owner(pi);
	pi->users--;
	free_unused(pi);
	pthread_mutex_unlock(&fl->lock);
}

/* fl->lock held, given up meanwhile. 0: this node has the lock; -EAGAIN: another node has; -EIO. */
static int try_to_have(struct plock_inode *pi)
{
	struct file_locks *fl = pi->fl;
	int error;

	while (pi->state == PLOCK_TRYING)
		pthread_cond_wait(&fl->cond, &fl->lock);
	if (pi->state != PLOCK_NONE)
		return pi->state == PLOCK_HELD ? 0 : -EAGAIN;
	pi->state = PLOCK_TRYING;
	pthread_mutex_unlock(&fl->lock);
	error = locks_try(pi->gl, LM_ST_EXCLUSIVE, &pi->gh);
	pthread_mutex_lock(&fl->lock);
	pi->state = error ? PLOCK_NONE : PLOCK_HELD;
	pthread_cond_broadcast(&fl->cond);
	return error;
}

/* --- the calls: workers --- */

static void plock_interrupted(fuse_req_t req, void *data)
{
	struct file_locks *fl = data;
	struct plock_inode *pi;
	struct waiter *w;

	pthread_mutex_lock(&fl->lock);
	for (unsigned i = 0; i < LOCK_BUCKETS; i++)
		list_for_each_entry(pi, &fl->plocks[i], list)
			list_for_each_entry(w, &pi->waiters, list)
				if (w->req == req) {
					pi->users++;
					answer_waiter(w, EINTR);
					put_inode(pi);
					return;
				}
	pthread_mutex_unlock(&fl->lock);
}

static struct range range_of(const struct fuse_file_info *fi, const struct flock *lock)
{
	struct range r = { .owner = fi->lock_owner, .file = fi_key(fi), .start = (uint64_t)lock->l_start,
			   .end = UINT64_MAX, .type = lock->l_type, .pid = lock->l_pid };

	if (lock->l_len)
		r.end = r.start + (uint64_t)lock->l_len - 1;
	return r;
}

void op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
	struct file_locks *fl = op_begin(req)->locks;
	struct range r = range_of(fi, lock);
	struct plock_inode *pi;
	const struct range *o;
	int error;

	pthread_mutex_lock(&fl->lock);
	pi = get_inode(fl, fi_view(fi).inode->i_no_addr);
	error = try_to_have(pi);
	o = error ? NULL : conflict(pi, &r);
	if (o) {
		lock->l_type = o->type;
		lock->l_start = (off_t)o->start;
		lock->l_len = o->end == UINT64_MAX ? 0 : (off_t)(o->end - o->start + 1);
		lock->l_pid = o->pid;
	} else if (error == -EAGAIN) {
		/* Whose and what is not known here. */
		lock->l_type = F_WRLCK;
		lock->l_start = lock->l_len = 0;
		lock->l_pid = 0;
	} else {
		lock->l_type = F_UNLCK;
	}
	put_inode(pi);
	if (error && error != -EAGAIN)
		fuse_reply_err(req, -error);
	else
		fuse_reply_lock(req, lock);
}

/* 0: done; -EINPROGRESS: it waits, and will be answered; else the error. */
static int set_lock(struct plock_inode *pi, fuse_req_t req, const struct range *r, bool sleep)
{
	int error = try_to_have(pi);
	struct waiter *w;

	if (!error && !conflict(pi, r) &&
	    !(sleep && !has_range(pi, r->owner) && !list_empty(&pi->ranges) && gfs2_glock_demote_wanted(pi->gl))) {
		set_range(pi, r);
		/* It may have made less of what it had. */
		serve_waiters(pi, gfs2_glock_demote_wanted(pi->gl));
		return 0;
	}
	if (error && error != -EAGAIN)
		return error;
	if (!sleep)
		return -EAGAIN;
	if (would_deadlock(pi->fl, pi, r))
		return -EDEADLK;
	if (pi->fl->stopping)
		return -EIO;
	if (fuse_req_interrupted(req))
		return -EINTR;
	w = xmalloc(sizeof(*w));
	w->req = req;
	w->where = readers_where();
	w->r = *r;
	list_add_tail(&w->list, &pi->waiters);
	return -EINPROGRESS;
}

void op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
	struct file_locks *fl = op_begin(req)->locks;
	struct range r = range_of(fi, lock);
	struct plock_inode *pi;
	int error = 0;

	if (sleep)
		fuse_req_interrupt_func(req, plock_interrupted, fl);
	pthread_mutex_lock(&fl->lock);
	pi = get_inode(fl, fi_view(fi).inode->i_no_addr);
	if (lock->l_type == F_UNLCK) {
		clear_range(pi, &r);
		/* Else they wait for another node; whoever unlocks has none here. */
		if (pi->state == PLOCK_HELD)
			serve_waiters(pi, gfs2_glock_demote_wanted(pi->gl));
	} else {
		error = set_lock(pi, req, &r, sleep);
	}
	/* Before the answer: what was given up can be had elsewhere when the caller knows. */
	put_inode(pi);
	if (error != -EINPROGRESS)
		fuse_reply_err(req, -error);
}

/* --- ends --- */

static void drop_ranges(struct file_locks *fl, uint64_t number, bool (*match)(const struct range *r, const void *arg),
			const void *arg)
{
	struct plock_inode *pi;
	struct range *r, *tmp;

	pthread_mutex_lock(&fl->lock);
	pi = find_inode(fl, number);
	if (!pi) {
		pthread_mutex_unlock(&fl->lock);
		return;
	}
	pi->users++;
	list_for_each_entry_safe(r, tmp, &pi->ranges, list)
		if (match(r, arg)) {
			list_del_init(&r->list);
			free(r);
		}
	if (pi->state == PLOCK_HELD)
		serve_waiters(pi, gfs2_glock_demote_wanted(pi->gl));
	put_inode(pi);
}

static bool is_owners(const struct range *r, const void *owner)
{
	return r->owner == *(const uint64_t *)owner;
}

static bool is_files(const struct range *r, const void *file)
{
	return r->file == file;
}

static bool is_any(const struct range *r, const void *unused)
{
	return true;
}

void locks_flush(struct file_locks *fl, uint64_t no_addr, uint64_t owner)
{
	if (fl)
		drop_ranges(fl, no_addr, is_owners, &owner);
}

void plock_release(struct file_locks *fl, const struct gfs2_file *f)
{
	drop_ranges(fl, f->f_inode->i_no_addr, is_files, f);
}

void plocks_stop(struct file_locks *fl)
{
	struct plock_inode *pi;

	pthread_mutex_lock(&fl->lock);
	/* Whoever is in a call, or the callback that comes, deals with the rest. */
	for (unsigned i = 0; i < LOCK_BUCKETS; i++)
		list_for_each_entry(pi, &fl->plocks[i], list)
			while (!list_empty(&pi->waiters))
				answer_waiter(list_first_entry(&pi->waiters, struct waiter, list), EIO);
	pthread_mutex_unlock(&fl->lock);
}

void plocks_end(struct file_locks *fl)
{
	for (unsigned i = 0; i < LOCK_BUCKETS; i++) {
		pthread_mutex_lock(&fl->lock);
		while (!list_empty(&fl->plocks[i])) {
			struct plock_inode *pi = list_first_entry(&fl->plocks[i], struct plock_inode, list);
			uint64_t number = pi->number;

			while (!list_empty(&pi->waiters))
				answer_waiter(list_first_entry(&pi->waiters, struct waiter, list), EIO);
			pthread_mutex_unlock(&fl->lock);
			drop_ranges(fl, number, is_any, NULL);
			pthread_mutex_lock(&fl->lock);
			/* Still there: its callback is on the way. */
			if (find_inode(fl, number))
				pthread_cond_wait(&fl->cond, &fl->lock);
		}
		pthread_mutex_unlock(&fl->lock);
	}
}
