/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flock(2) as a holder of the inode's FLOCK glock, one for each open file (kernel: file.c:do_flock; reference gfs2-locking-dio.md 1.3): LOCK_SH
 * is SH, LOCK_EX is EX, exactly.  So it excludes the kernel's nodes as well.
 *
 * What differs: the lock is given up with the last holder (GL_NOCACHE), and the call returns when it is.  The kernel keeps it cached, so a
 * LOCK_NB on another node may be refused for a lock that nobody has.
 */
#include <sys/file.h>
#include "fuse/locks_i.h"
#include "util/ctx.h"

/* A try is repeated with pauses of 1, 2, 4 ... ms: the kernel's way, and longer, since there are slower nodes. */
#define TRY_PAUSES 6

enum flock_state {
	FLOCK_TRYING,	/* a worker is at it, and nobody else touches it */
	FLOCK_ASKED,	/* @req waits */
	FLOCK_HELD,
};

struct flock_file {
	struct list_head list;
	struct file_locks *fl;
	const struct gfs2_file *file;
	enum flock_state state;
	fuse_req_t req;
	int where;		/* it was read */
	struct gfs2_holder gh;
};

int locks_try(struct gfs2_glock *gl, enum lm_state state, struct gfs2_holder *gh)
{
	unsigned flags = LM_FLAG_TRY_1CB;
	int error;

	for (unsigned i = 0;; i++) {
		gfs2_holder_init(gl, state, HOLDER_FLAGS | flags, gh, __func__);
		gfs2_holder_set_pid(gh, current_ctx()->pid);
		error = gfs2_glock_nq(gh);
		if (!error)
			return 0;
		gfs2_holder_uninit(gh);
		if (error != GLR_TRYFAILED || i == TRY_PAUSES)
			break;
		/* The demand has been made once. */
		flags = LM_FLAG_TRY;
		usleep(1000u << i);
	}
	return error == GLR_TRYFAILED ? -EAGAIN : error;
}

void locks_drop(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gfs2_glock_hold(gh->gh_gl);

	gfs2_glock_dq_uninit(gh);
	gfs2_glock_wait_demoted(gl, 1000000000);
	gfs2_glock_put(gl);
}

struct file_locks *locks_create(struct gfs2_sbd *sdp)
{
	struct file_locks *fl = xzalloc(sizeof(*fl));
	pthread_mutexattr_t attr;

	fl->sdp = sdp;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&fl->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&fl->cond, NULL);
	for (unsigned i = 0; i < LOCK_BUCKETS; i++) {
		list_init(&fl->flocks[i]);
		list_init(&fl->plocks[i]);
	}
	return fl;
}

void locks_stop(struct file_locks *fl)
{
	if (!fl)
		return;
	pthread_mutex_lock(&fl->lock);
	fl->stopping = true;
	pthread_mutex_unlock(&fl->lock);
	flocks_stop(fl);
	plocks_stop(fl);
}

void locks_destroy(struct file_locks *fl)
{
	if (!fl)
		return;
	flocks_end(fl);
	plocks_end(fl);
	pthread_cond_destroy(&fl->cond);
	pthread_mutex_destroy(&fl->lock);
	free(fl);
}

void locks_release(struct file_locks *fl, const struct gfs2_file *f)
{
	if (!fl)
		return;
	flock_release(fl, f);
	plock_release(fl, f);
}

/* --- fl->lock held --- */

static struct list_head *bucket_of(struct file_locks *fl, const struct gfs2_file *file)
{
	return &fl->flocks[((uintptr_t)file >> 4) % LOCK_BUCKETS];
}

static struct flock_file *find_file(struct file_locks *fl, const struct gfs2_file *file)
{
	struct flock_file *ff;

	list_for_each_entry(ff, bucket_of(fl, file), list)
		if (ff->file == file)
			return ff;
	return NULL;
}

static void answer(struct flock_file *ff, int error)
{
	fuse_req_t req = ff->req;

	ff->req = NULL;
	answer_later(req, ff->where, error);
}

/* Gone from the list: whoever has it now owns it. */
static void forget(struct flock_file *ff)
{
	list_del_init(&ff->list);
	free(ff);
}

/* --- callbacks --- */

/* Any thread; nothing is held. */
static void flock_granted(struct gfs2_holder *gh)
{
	struct flock_file *ff = gh->gh_priv;
	struct file_locks *fl = ff->fl;
	int error = gh->gh_error;

	pthread_mutex_lock(&fl->lock);
	if (error) {
		gfs2_holder_uninit(gh);
		answer(ff, EIO);
		forget(ff);
	} else {
		ff->state = FLOCK_HELD;
		answer(ff, 0);
	}
	pthread_cond_broadcast(&fl->cond);
	pthread_mutex_unlock(&fl->lock);
}

/* True: it was waiting, and does not any more. */
static bool take_back(struct flock_file *ff, int error)
{
	struct file_locks *fl = ff->fl;

	if (ff->state != FLOCK_ASKED || !gfs2_glock_cancel(&ff->gh))
		return false;
	gfs2_holder_uninit(&ff->gh);
	answer(ff, error);
	forget(ff);
	pthread_cond_broadcast(&fl->cond);
	return true;
}

/* libfuse: the caller got a signal.  If the grant is on its way already, it has come too late. */
static void flock_interrupted(fuse_req_t req, void *data)
{
	struct file_locks *fl = data;
	struct flock_file *ff;

	pthread_mutex_lock(&fl->lock);
	for (unsigned i = 0; i < LOCK_BUCKETS; i++)
		list_for_each_entry(ff, &fl->flocks[i], list)
			if (ff->req == req) {
				take_back(ff, EINTR);
				goto out;
			}
out:
	pthread_mutex_unlock(&fl->lock);
}

/* --- the calls: workers --- */

/*
 * The calls for an open file take turns, as in the kernel's gfs2 (f_fl_mutex): who has one finds its entry in FLOCK_HELD, or puts one into the
 * list, and is alone with it in FLOCK_TRYING.  fl->lock is held, and given up meanwhile.  With @cancel whoever waits for the lock gets an error.
 */
static struct flock_file *wait_for_turn(struct file_locks *fl, const struct gfs2_file *file, bool cancel)
{
	struct flock_file *ff;

	while ((ff = find_file(fl, file)) && ff->state != FLOCK_HELD)
		if (!(cancel || fl->stopping) || !take_back(ff, EIO))
			pthread_cond_wait(&fl->cond, &fl->lock);
	return ff;
}

static void end_turn(struct flock_file *ff, bool held)
{
	struct file_locks *fl = ff->fl;

	pthread_mutex_lock(&fl->lock);
	if (held)
		ff->state = FLOCK_HELD;
	else
		forget(ff);
	pthread_cond_broadcast(&fl->cond);
	pthread_mutex_unlock(&fl->lock);
}

/* What the file has is given up. */
static void drop(struct file_locks *fl, const struct gfs2_file *file, bool cancel)
{
	struct flock_file *ff;

	pthread_mutex_lock(&fl->lock);
	ff = wait_for_turn(fl, file, cancel);
	if (ff)
		ff->state = FLOCK_TRYING;
	pthread_mutex_unlock(&fl->lock);
	if (!ff)
		return;
	locks_drop(&ff->gh);
	end_turn(ff, false);
}

/* For a lock in @state, with the turn; NULL: it has that already.  A conversion gives up what there is first, as flock(2) says. */
static struct flock_file *begin_turn(struct file_locks *fl, const struct gfs2_file *file, enum lm_state state)
{
	struct flock_file *ff, *new = xzalloc(sizeof(*new));
	bool had;

	new->fl = fl;
	new->file = file;
	pthread_mutex_lock(&fl->lock);
	ff = wait_for_turn(fl, file, false);
	had = ff;
	if (!had) {
		ff = new;
		list_add_tail(&ff->list, bucket_of(fl, file));
	} else if (ff->gh.gh_state == state) {
		ff = NULL;
	}
	if (ff)
		ff->state = FLOCK_TRYING;
	pthread_mutex_unlock(&fl->lock);
	if (had)
		free(new);
	if (had && ff)
		locks_drop(&ff->gh);
	return ff;
}

/* Without a worker: the callback answers. */
static void wait_for_grant(struct flock_file *ff, struct gfs2_glock *gl, enum lm_state state, fuse_req_t req)
{
	struct file_locks *fl = ff->fl;

	fuse_req_interrupt_func(req, flock_interrupted, fl);
	pthread_mutex_lock(&fl->lock);
	ff->req = req;
	ff->where = readers_where();
	if (fl->stopping || fuse_req_interrupted(req)) {
		answer(ff, fl->stopping ? EIO : EINTR);
		forget(ff);
		pthread_cond_broadcast(&fl->cond);
	} else {
		/* An interrupt that comes from now on will find it in the list. */
		ff->state = FLOCK_ASKED;
		gfs2_holder_init(gl, state, HOLDER_FLAGS | GL_ASYNC, &ff->gh, __func__);
		gfs2_holder_set_pid(&ff->gh, current_ctx()->pid);
		ff->gh.gh_granted = flock_granted;
		ff->gh.gh_priv = ff;
		gfs2_glock_nq(&ff->gh);
	}
	pthread_mutex_unlock(&fl->lock);
}

static void take(struct file_locks *fl, fuse_req_t req, struct flock_file *ff, uint64_t number, enum lm_state state, bool sleep)
{
	struct gfs2_glock *gl = gfs2_glock_get(fl->sdp->sd_glocks, number, &gfs2_flock_glops);
	int error = locks_try(gl, state, &ff->gh);

	if (error == -EAGAIN && sleep) {
		wait_for_grant(ff, gl, state, req);
	} else {
		end_turn(ff, !error);
		fuse_reply_err(req, -error);
	}
	gfs2_glock_put(gl);
}

void op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
	struct file_locks *fl = op_begin(req)->locks;
	const struct gfs2_file *file = fi_key(fi);
	uint64_t number = fi_view(fi).inode->i_no_addr;
	enum lm_state state = (op & ~LOCK_NB) == LOCK_EX ? LM_ST_EXCLUSIVE : LM_ST_SHARED;
	struct flock_file *ff = NULL;

	if ((op & ~LOCK_NB) == LOCK_UN)
		drop(fl, file, false);
	else
		ff = begin_turn(fl, file, state);
	if (ff)
		take(fl, req, ff, number, state, !(op & LOCK_NB));
	else
		fuse_reply_err(req, 0);
}

void flock_release(struct file_locks *fl, const struct gfs2_file *f)
{
	drop(fl, f, true);
}

void flocks_stop(struct file_locks *fl)
{
	struct flock_file *ff, *tmp;

	pthread_mutex_lock(&fl->lock);
	for (unsigned i = 0; i < LOCK_BUCKETS; i++)
		list_for_each_entry_safe(ff, tmp, &fl->flocks[i], list)
			take_back(ff, EIO);
	pthread_cond_broadcast(&fl->cond);
	pthread_mutex_unlock(&fl->lock);
}

void flocks_end(struct file_locks *fl)
{
	for (unsigned i = 0; i < LOCK_BUCKETS; i++) {
		pthread_mutex_lock(&fl->lock);
		while (!list_empty(&fl->flocks[i])) {
			const struct gfs2_file *file = list_first_entry(&fl->flocks[i], struct flock_file, list)->file;

			pthread_mutex_unlock(&fl->lock);
			drop(fl, file, true);
			pthread_mutex_lock(&fl->lock);
		}
		pthread_mutex_unlock(&fl->lock);
	}
}
