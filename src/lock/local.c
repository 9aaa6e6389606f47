/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_local: several mounts on one machine share locks through a broker (design section 6).  Modes, flags and value blocks are
 * those of the kernel's lock_dlm (reference gfs2-locking-dio.md 2.1-2.5): UN is an NL lock that is kept, SH is PR, DF is CW.
 *
 * Threads.  Any thread asks (lm_lock sends a message and returns); the reader, one thread, takes the answers and the demands of the
 * others and hands them to the glock layer; it never waits but for the broker.  Recoveries that the broker asks for
 * run on a thread of their own, because they wait for the device and take glocks, whose answers the reader delivers.
 *
 * What is not needed here: keeping back grants while a dead node's journal is dirty (glock.h, "blocked").  The broker keeps the dead
 * node's locks where they are until it is clean.
 *
 * The fence.  A killed process is gone before the kernel has finished what it had asked the device for, and the broker sees its socket
 * close at once.  So every mount locks a byte of the volume (beyond its end, one for each journal) with its open file description, which
 * the kernel lets go only after the last of that process's I/O.  Who recovers a journal waits for its byte first.
 *
 * When the broker is gone nobody knows any more who holds what: everything that waits fails, the mount withdraws.
 *
 * ll->lock (RANK_LM) guards everything below it; messages are sent under it, so that a cancel follows its request.
 */
#include <fcntl.h>
#include <stdio.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/dlmconstants.h>

#include "lock/dlm_rules.h"
#include "lock/glock.h"
#include "lock/local_proto.h"
#include "util/util.h"

#define FENCE_BASE (1ull << 62)
#define FENCE_PATIENCE_NS (10ull * 1000000000)
#define MAX_JOURNALS 65536u
#define WHO_ASKED (-1)

enum busy { BUSY_NO, BUSY_LOCK, BUSY_UNLOCK };

struct local_lock {
	struct gfs2_glock *gl;
	uint32_t handle;
	bool exists;		/* the broker has a lock for it */
	enum busy busy;
	enum lm_state held, asked;
	bool in_callback;	/* the reader is in gfs2_glock_cb() for it */
	bool forgotten;		/* free it after that */
};

struct local {
	struct gfs2_glock_table *table;
	int fd, volume;
	uint32_t jid;
	struct rmutex lock;
	struct rcond cond;	/* something for the recovery thread; lost */
	struct local_lock **locks;	/* by handle */
	uint32_t nr_locks, room;
	uint32_t *free_handles, nr_free;
	bool lost, leaving, stop_recovery;
	bool reader_runs, recovery_runs;
	uint32_t *wanted, nr_wanted;	/* journals to recover */
	uint32_t told_not_ended;	/* recovery's: journal + 1 */
	int who;		/* LB_WHO_IS: the answer; WHO_ASKED: it has not come */
	pthread_t reader, recovery;
	char path[128];
};

static struct local *local_of(const struct gfs2_glock *gl)
{
	return gfs2_glock_table_lm_private(gl->gl_table);
}

static int mode_of(enum lm_state state)
{
	static const int modes[] = {
		[LM_ST_UNLOCKED] = DLM_LOCK_NL, [LM_ST_EXCLUSIVE] = DLM_LOCK_EX,
		[LM_ST_DEFERRED] = DLM_LOCK_CW, [LM_ST_SHARED] = DLM_LOCK_PR,
	};

	return modes[state];
}

/* --- the fence --- */

static int fence(int fd, int cmd, short type, uint64_t jid, uint64_t nr)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET,
			    .l_start = (off_t)(FENCE_BASE + jid), .l_len = (off_t)nr };

	if (fcntl(fd, cmd, &fl))
		return -errno;
	return cmd == F_OFD_GETLK && fl.l_type != F_UNLCK ? -EAGAIN : 0;
}

/* Until no process that owned one of these journals can still be writing. */
static int fence_wait(const struct local *ll, uint64_t jid, uint64_t nr)
{
	uint64_t deadline = now_ns() + FENCE_PATIENCE_NS;
	int error;

	while ((error = fence(ll->volume, F_OFD_GETLK, F_WRLCK, jid, nr)) == -EAGAIN &&
	       now_ns() < deadline)
		usleep(2000);
	return error == -EBADF ? 0 : error; /* not a volume but a test */
}

/* --- handles; ll->lock held --- */

static struct local_lock *new_lock(struct local *ll, struct gfs2_glock *gl)
{
	struct local_lock *l = xzalloc(sizeof(*l));

	l->gl = gl;
	if (ll->nr_free) {
		l->handle = ll->free_handles[--ll->nr_free];
	} else {
		if (ll->nr_locks == ll->room) {
			ll->room = ll->room ? 2 * ll->room : 256;
			ll->locks = xrealloc(ll->locks, ll->room * sizeof(*ll->locks));
			ll->free_handles = xrealloc(ll->free_handles, ll->room * sizeof(*ll->free_handles));
		}
		l->handle = ll->nr_locks++;
	}
	ll->locks[l->handle] = l;
	gl->gl_lm_priv = l;
	return l;
}

/* The broker has nothing under this handle any more. */
static void release_handle(struct local *ll, struct local_lock *l)
{
	ll->locks[l->handle] = NULL;
	ll->free_handles[ll->nr_free++] = l->handle;
}

/* --- requests --- */

static void send_msg(struct local *ll, const struct lb_msg *m)
{
	/* The broker always reads.  If it is gone, the reader sees that too. */
	while (send(ll->fd, m, sizeof(*m), MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

static uint32_t request_flags(const struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	const struct local_lock *l = gl->gl_lm_priv;
	uint32_t f = 0;

	if (gl->gl_ops->go_flags & GLOF_LVB)
		f |= DLM_LKF_VALBLK;
	if (flags & LM_FLAG_TRY)
		f |= DLM_LKF_NOQUEUE;
	if (flags & LM_FLAG_TRY_1CB)
		f |= DLM_LKF_NOQUEUE | DLM_LKF_NOQUEUEBAST;
	/* A conversion that may have to wait: in turn with the others. */
	if (l && l->exists && req != LM_ST_UNLOCKED && l->held != LM_ST_EXCLUSIVE && l->held != req &&
	    !(f & DLM_LKF_NOQUEUE))
		f |= DLM_LKF_QUECVT;
	return f;
}

/* The broker knows itself what is a conversion. */
static uint32_t local_request_flags(const struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	const struct local_lock *l = gl->gl_lm_priv;

	return request_flags(gl, req, flags) | (l && l->exists ? DLM_LKF_CONVERT : 0);
}

static void local_lock(struct gfs2_glock *gl, enum lm_state req, unsigned flags)
{
	struct local *ll = local_of(gl);
	struct local_lock *l;
	struct lb_msg m = { .op = LB_LOCK, .mode = mode_of(req) };

	rmutex_lock(&ll->lock);
	l = gl->gl_lm_priv;
	if (!l)
		l = new_lock(ll, gl);
	GFS2_BUG_ON(l->busy != BUSY_NO);
	if (ll->lost) {
		enum lm_state held = l->held;

		if (req == LM_ST_UNLOCKED)
			l->held = LM_ST_UNLOCKED;
		rmutex_unlock(&ll->lock);
		gfs2_glock_complete(gl, req == LM_ST_UNLOCKED ? (int)req : (int)held | LM_OUT_ERROR);
		return;
	}
	l->busy = BUSY_LOCK;
	l->asked = req;
	m.handle = l->handle;
	m.flags = request_flags(gl, req, flags);
	lb_name(m.name, gl->gl_type, gl->gl_number);
	if (m.flags & DLM_LKF_VALBLK)
		memcpy(m.lvb, gl->gl_lvb, sizeof(m.lvb));
	send_msg(ll, &m);
	rmutex_unlock(&ll->lock);
}

static void local_cancel(struct gfs2_glock *gl)
{
	struct local *ll = local_of(gl);
	struct local_lock *l;

	rmutex_lock(&ll->lock);
	l = gl->gl_lm_priv;
	/* Otherwise the answer was faster. */
	if (l && l->busy == BUSY_LOCK)
		send_msg(ll, &(struct lb_msg){ .op = LB_CANCEL, .handle = l->handle });
	rmutex_unlock(&ll->lock);
}

/*
 * Does the end of the connection let go of the lock?  Where that is a clean one value blocks would not be kept.  After a withdraw it is a death, and
 * what this node had must not be free before its journal has been replayed.
 */
static bool goes_with_the_connection(const struct gfs2_glock *gl)
{
	const struct gfs2_glock_table *t = gl->gl_table;

	return gfs2_glock_table_dying(t) && (!(gl->gl_ops->go_flags & GLOF_LVB) || gfs2_glock_table_withdrawn(t));
}

static void local_put_lock(struct gfs2_glock *gl)
{
	struct local *ll = local_of(gl);
	struct local_lock *l;
	bool now = false;

	if (!ll) {
		gfs2_glock_free(gl); /* lm_mount failed or was never called */
		return;
	}
	rmutex_lock(&ll->lock);
	l = gl->gl_lm_priv;
	if (!l) {
		now = true;
	} else if (l->exists && !ll->lost && !goes_with_the_connection(gl)) {
		l->busy = BUSY_UNLOCK;
		send_msg(ll, &(struct lb_msg){ .op = LB_UNLOCK, .handle = l->handle });
	} else {
		/* Nothing to unlock; or the end of the connection does it, and its handle is not used again before. */
		if (l->exists)
			ll->locks[l->handle] = NULL;
		else
			release_handle(ll, l);
		now = !l->in_callback;
		if (now)
			free(l);
		else
			l->forgotten = true;
	}
	rmutex_unlock(&ll->lock);
	if (now)
		gfs2_glock_free(gl);
}

/* --- answers: the reader --- */

static void got_ast(struct local *ll, const struct lb_msg *m)
{
	struct local_lock *l;
	struct gfs2_glock *gl;
	int ret;

	rmutex_lock(&ll->lock);
	l = m->handle < ll->nr_locks ? ll->locks[m->handle] : NULL;
	if (!l || l->busy == BUSY_NO) {
		rmutex_unlock(&ll->lock);
		fs_err("lock_local: an answer that nobody asked for (handle %u)", m->handle);
		return;
	}
	gl = l->gl;
	if (l->busy == BUSY_UNLOCK) {
		release_handle(ll, l);
		rmutex_unlock(&ll->lock);
		free(l);
		gfs2_glock_free(gl);
		return;
	}
	l->busy = BUSY_NO;
	if (gl->gl_ops->go_flags & GLOF_LVB) {
		if (m->flags & DLM_SBF_VALNOTVALID)
			memset(gl->gl_lvb, 0, sizeof(gl->gl_lvb));
		else if (m->lvb_read)
			memcpy(gl->gl_lvb, m->lvb, sizeof(gl->gl_lvb));
	}
	switch (m->status) {
	case 0:
		l->held = l->asked;
		l->exists = true;
		ret = l->held;
		break;
	case -EAGAIN:
	case -EDEADLK:
		ret = l->held;
		break;
	case -DLM_ECANCEL:
		ret = l->held | LM_OUT_CANCELED;
		break;
	default:
		ret = l->held | LM_OUT_ERROR;
	}
	rmutex_unlock(&ll->lock);
	gfs2_glock_complete(gl, ret);
}

static void got_bast(struct local *ll, const struct lb_msg *m)
{
	struct local_lock *l;
	struct gfs2_glock *gl;
	bool forgotten;

	rmutex_lock(&ll->lock);
	l = m->handle < ll->nr_locks ? ll->locks[m->handle] : NULL;
	if (!l || l->busy == BUSY_UNLOCK) {
		rmutex_unlock(&ll->lock);
		return;
	}
	gl = l->gl;
	l->in_callback = true;
	rmutex_unlock(&ll->lock);
	gfs2_glock_cb(gl, m->mode == DLM_LOCK_PR ? LM_ST_SHARED :
			  m->mode == DLM_LOCK_CW ? LM_ST_DEFERRED : LM_ST_UNLOCKED, true);
	rmutex_lock(&ll->lock);
	l->in_callback = false;
	forgotten = l->forgotten;
	rmutex_unlock(&ll->lock);
	if (forgotten) {
		free(l);
		gfs2_glock_free(gl);
	}
}

static void got_recover(struct local *ll, uint32_t jid)
{
	rmutex_lock(&ll->lock);
	ll->wanted = xrealloc(ll->wanted, (ll->nr_wanted + 1) * sizeof(*ll->wanted));
	ll->wanted[ll->nr_wanted++] = jid;
	rcond_broadcast(&ll->cond);
	rmutex_unlock(&ll->lock);
}

static void got_who(struct local *ll, const struct lb_msg *m)
{
	rmutex_lock(&ll->lock);
	ll->who = m->status;
	rcond_broadcast(&ll->cond);
	rmutex_unlock(&ll->lock);
}

/* The connection is gone: whatever waits for an answer gets one. */
static void answer_all(struct local *ll)
{
	rmutex_lock(&ll->lock);
	for (uint32_t h = 0; h < ll->nr_locks; h++) {
		struct local_lock *l = ll->locks[h];
		struct gfs2_glock *gl = l ? l->gl : NULL;
		int ret;

		if (!l || l->busy == BUSY_NO)
			continue;
		if (l->busy == BUSY_UNLOCK) {
			release_handle(ll, l);
			rmutex_unlock(&ll->lock);
			free(l);
			gfs2_glock_free(gl);
		} else {
			l->busy = BUSY_NO;
			if (l->asked == LM_ST_UNLOCKED)
				l->held = LM_ST_UNLOCKED;
			ret = l->held | (l->asked == LM_ST_UNLOCKED ? 0 : LM_OUT_ERROR);
			rmutex_unlock(&ll->lock);
			gfs2_glock_complete(gl, ret);
		}
		rmutex_lock(&ll->lock);
	}
	rmutex_unlock(&ll->lock);
}

static void connection_ended(struct local *ll)
{
	bool lost;

	rmutex_lock(&ll->lock);
	lost = !ll->leaving;
	ll->lost = true;
	rcond_broadcast(&ll->cond);
	rmutex_unlock(&ll->lock);
	if (lost)
		gfs2_glock_table_lost(ll->table, "the lock broker of lock_local is gone");
	answer_all(ll);
}

static void *reader(void *arg)
{
	struct local *ll = arg;
	struct lb_msg m;

	pthread_setname_np(pthread_self(), "lock_local");
	for (;;) {
		ssize_t n = recv(ll->fd, &m, sizeof(m), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(m))
			break;
		switch (m.op) {
		case LB_AST:
			got_ast(ll, &m);
			break;
		case LB_BAST:
			got_bast(ll, &m);
			break;
		case LB_WHO_IS:
			got_who(ll, &m);
			break;
		case LB_RECOVER:
			got_recover(ll, m.jid);
			break;
		default:
			fs_err("lock_local: unknown message %u from the broker", m.op);
		}
	}
	connection_ended(ll);
	return NULL;
}

/* --- recovery --- */

/* Only the recovery's thread asks. */
static bool local_dead_holds(struct gfs2_glock *gl, unsigned jid)
{
	struct local *ll = local_of(gl);
	struct lb_msg m = { .op = LB_WHO, .jid = jid };
	bool yes;

	lb_name(m.name, gl->gl_type, gl->gl_number);
	rmutex_lock(&ll->lock);
	ll->who = WHO_ASKED;
	send_msg(ll, &m);
	while (ll->who == WHO_ASKED && !ll->lost)
		rcond_wait(&ll->cond, &ll->lock);
	yes = !ll->lost && ll->who;
	rmutex_unlock(&ll->lock);
	return yes;
}

static void recover_one(struct local *ll, uint32_t jid)
{
	struct lb_msg m = { .op = LB_RECOVERED, .jid = jid, .status = LM_RD_GAVEUP };
	int error = fence_wait(ll, jid, 1);

	if (error && ll->told_not_ended != jid + 1)
		fs_warn("lock_local: the process that owned journal %u has not ended (%s): not replayed",
			jid, strerror(-error));
	ll->told_not_ended = error ? jid + 1 : 0;
	if (!error)
		m.status = gfs2_glock_table_recover_journal(ll->table, jid);
	rmutex_lock(&ll->lock);
	send_msg(ll, &m);
	rmutex_unlock(&ll->lock);
}

static void *recovery(void *arg)
{
	struct local *ll = arg;

	pthread_setname_np(pthread_self(), "gfs2_recovery");
	rmutex_lock(&ll->lock);
	while (!ll->stop_recovery) {
		uint32_t jid;

		if (!ll->nr_wanted) {
			rcond_wait(&ll->cond, &ll->lock);
			continue;
		}
		jid = ll->wanted[0];
		memmove(ll->wanted, ll->wanted + 1, --ll->nr_wanted * sizeof(*ll->wanted));
		rmutex_unlock(&ll->lock);
		recover_one(ll, jid);
		rmutex_lock(&ll->lock);
	}
	rmutex_unlock(&ll->lock);
	return NULL;
}

static void local_stop_recovery(struct gfs2_glock_table *t)
{
	struct local *ll = gfs2_glock_table_lm_private(t);

	if (!ll || !ll->recovery_runs)
		return;
	rmutex_lock(&ll->lock);
	ll->stop_recovery = true;
	rcond_broadcast(&ll->cond);
	rmutex_unlock(&ll->lock);
	pthread_join(ll->recovery, NULL);
	ll->recovery_runs = false;
}

/* --- coming and going --- */

static int start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t old;
	int error;

	block_all_but_faults(&old);
	error = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -error;
}

static int say_hello(struct local *ll, bool keep_locks, bool *first)
{
	struct lb_msg m = { .op = LB_HELLO, .version = LB_VERSION, .pid = (uint32_t)getpid(),
			      .flags = keep_locks ? LB_KEEP_LOCKS : 0 };
	ssize_t n;

	send_msg(ll, &m);
	/* The answer comes when we may mount: another mount may be recovering the volume just now. */
	while ((n = recv(ll->fd, &m, sizeof(m), 0)) < 0 && errno == EINTR)
		;
	if (n != (ssize_t)sizeof(m) || m.op != LB_WELCOME || m.version != LB_VERSION) {
		fs_err("lock_local: the lock broker did not let this mount in");
		return -EIO;
	}
	ll->jid = m.jid;
	*first = m.flags & LB_FIRST;
	return 0;
}

/* Our own byte; the first mounter waits for everybody's, since he will replay all journals. */
static int take_fence(struct local *ll, bool first)
{
	int error = first ? fence_wait(ll, 0, MAX_JOURNALS) : 0;

	if (!error)
		error = fence(ll->volume, F_OFD_SETLK, F_WRLCK, ll->jid, 1);
	/* Who cannot write need not be waited for. */
	if (error == -EBADF)
		error = 0;
	if (error)
		fs_err("lock_local: another process still uses a journal of this volume: %s",
		       strerror(-error));
	return error;
}

static int local_mount(struct gfs2_glock_table *t, const char *table, unsigned *jid, bool *first)
{
	struct local *ll = xzalloc(sizeof(*ll));
	bool keep_locks;
	int error;

	ll->table = t;
	ll->volume = gfs2_glock_table_volume(t, &keep_locks);
	rmutex_init(&ll->lock, RANK_LM);
	rcond_init(&ll->cond);
	gfs2_glock_table_set_lm_private(t, ll);
	ll->fd = lb_connect(ll->volume, table, ll->path, sizeof(ll->path));
	if (ll->fd < 0)
		return ll->fd;
	error = say_hello(ll, keep_locks, first);
	if (!error)
		error = take_fence(ll, *first);
	if (!error)
		error = start_thread(&ll->reader, reader, ll);
	if (error)
		return error;
	ll->reader_runs = true;
	error = start_thread(&ll->recovery, recovery, ll);
	ll->recovery_runs = !error;
	*jid = ll->jid;
	return error;
}

static void local_first_done(struct gfs2_glock_table *t)
{
	struct local *ll = gfs2_glock_table_lm_private(t);

	rmutex_lock(&ll->lock);
	send_msg(ll, &(struct lb_msg){ .op = LB_FIRST_DONE });
	rmutex_unlock(&ll->lock);
}

static void local_unmount(struct gfs2_glock_table *t)
{
	struct local *ll = gfs2_glock_table_lm_private(t);

	if (!ll)
		return;
	local_stop_recovery(t);
	if (ll->reader_runs) {
		rmutex_lock(&ll->lock);
		ll->leaving = true;
		/* A journal that was not closed is for others to replay: that is what the end of the connection without a word means. */
		if (gfs2_glock_table_withdrawn(t))
			shutdown(ll->fd, SHUT_RDWR);
		else
			send_msg(ll, &(struct lb_msg){ .op = LB_LEAVE });
		rmutex_unlock(&ll->lock);
		/* The broker closes when it has forgotten us, so that the next mount finds our journal free. */
		pthread_join(ll->reader, NULL);
	}
	if (ll->fd >= 0)
		close(ll->fd);
	rcond_destroy(&ll->cond);
	rmutex_destroy(&ll->lock);
	for (uint32_t h = 0; h < ll->nr_locks; h++)
		free(ll->locks[h]);
	free(ll->locks);
	free(ll->free_handles);
	free(ll->wanted);
	free(ll);
	gfs2_glock_table_set_lm_private(t, NULL);
}

const struct lm_lockops lm_local = {
	.lm_proto_name = "lock_local",
	.lm_mount = local_mount,
	.lm_first_done = local_first_done,
	.lm_stop_recovery = local_stop_recovery,
	.lm_unmount = local_unmount,
	.lm_lock = local_lock,
	.lm_request_flags = local_request_flags,
	.lm_cancel = local_cancel,
	.lm_put_lock = local_put_lock,
	.lm_dead_holds = local_dead_holds,
	.lm_has_peers = true,
};
