/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The reader of lock_dlm: the lock space's descriptor and the kernel log.
 *
 * We read the descriptor ourselves: libdlm's dispatcher drops the mode of a blocking callback and overwrites the status of a
 * lock that may be in use (reference 2.6, traps 1, 2, 5).
 *
 * The causal log gate.  The DLM logs that members change before it grants anything that a dead node held.  So after an answer was
 * read, and before anybody may use it, the log is read to its end: if there are such news, dlm_control_news() blocks, and a
 * grant is kept back until dlm_thaw().  An answer that overtook its news cannot exist.
 */
/* The kernel's own header; libdlm.h, which has another struct dlm_lksb, must not come with it. */
#include <linux/dlm_device.h>

#include "lock/dlm_i.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/util.h"

#define DLM_ECANCEL_ 0x10001
#define DLM_EUNLOCK_ 0x10002

struct answer {
	struct dlm_lock_result res;
	char lvb[DLM_LVB_LEN];
};

/* Never called: the kernel hands the addresses back, and they say what a result is. Not the same function twice. */
void dlm_ast_address(void *arg)
{
	GFS2_BUG_ON(arg);
}

void dlm_bast_address(void *arg)
{
	GFS2_BUG_ON(!arg);
}

/* --- the log --- */

static void read_log(struct lm_dlm *dc)
{
	char record[8193];
	struct dlm_news news;
	ssize_t n;

	for (;;) {
		n = read(dc->dc_kmsg, record, sizeof(record) - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPIPE) {
			/* What was overwritten may have been a death: nothing may be granted any more. */
			rmutex_lock(&dc->dc_lock);
			dc->dc_blocked = true;
			rmutex_unlock(&dc->dc_lock);
			gfs2_glock_table_lost(dc->dc_table,
					      "kernel log messages were overwritten before they could be read");
			continue;
		}
		if (n <= 0)
			return;
		record[n] = 0;
		dlm_kmsg_parse(record, dc->dc_name, &news);
		if (news.type == DLM_NEWS_NONE)
			continue;
		rmutex_lock(&dc->dc_lock);
		dlm_control_news(dc, &news);
		rmutex_unlock(&dc->dc_lock);
	}
}

/* --- answers --- */

static void answer_plain(struct dlm_lock *dl, const struct answer *a)
{
	struct lm_dlm *dc = dl->ctx;
	int status = a->res.lksb.sb_status;

	rmutex_lock(&dc->dc_lock);
	dl->status = status;
	dl->busy = false;
	if (!status) {
		dl->held = dl->req;
		dl->lkid = a->res.lksb.sb_lkid;
		dl->exists = true;
		if (a->res.lvb_offset)
			memcpy(dl->lvb, a->lvb, DLM_LVB_LEN);
	}
	rcond_broadcast(&dc->dc_cond);
	rmutex_unlock(&dc->dc_lock);
}

/* dc_lock held.  What gfs2_glock_complete() is to be told (reference 2.5). */
static int reply_of(struct dlm_lock *dl, int status)
{
	int still = (int)dl->held | (dl->between ? LM_OUT_LOST : 0);

	switch (status) {
	case 0:
		return dl->req;
	case -DLM_ECANCEL_:
		return still | LM_OUT_CANCELED;
	case -EAGAIN:
	case -EDEADLK:
		return still;
	default:
		fs_err("lock %s: the DLM answers %d", dl->name, status);
		return still | LM_OUT_ERROR;
	}
}

/* Was it the answer to the first half of a conversion between PR and CW (dlm.c)? */
static bool answer_step(struct dlm_lock *dl, int status)
{
	struct lm_dlm *dc = dl->ctx;
	bool step;

	rmutex_lock(&dc->dc_lock);
	step = dl->stepping;
	if (step) {
		if (status)
			fs_err("lock %s: the DLM answers %d to a conversion downwards", dl->name, status);
		dl->status = status;
		dl->stepping = false;
		dl->between = !status;
		rcond_broadcast(&dc->dc_cond);
	}
	rmutex_unlock(&dc->dc_lock);
	return step;
}

static void answer_unlock(struct dlm_lock *dl)
{
	struct gfs2_glock *gl = dl->gl;

	gl->gl_lm_priv = NULL;
	free(dl);
	gfs2_glock_free(gl);
}

static void answer_lock(struct dlm_lock *dl, const struct answer *a)
{
	int status = a->res.lksb.sb_status, reply;
	struct gfs2_glock *gl = dl->gl;
	struct lm_dlm *dc = dl->ctx;
	bool keep;

	if (answer_step(dl, status))
		return;
	/* The request under way is what makes gl_lvb ours to change: nobody holds the glock. */
	if (a->res.lksb.sb_flags & DLM_SBF_VALNOTVALID)
		memset(gl->gl_lvb, 0, sizeof(gl->gl_lvb));
	else if (!status && a->res.lvb_offset)
		memcpy(gl->gl_lvb, a->lvb, DLM_LVB_LEN);

	rmutex_lock(&dc->dc_lock);
	reply = reply_of(dl, status);
	dl->busy = false;
	if (!status) {
		dl->lkid = a->res.lksb.sb_lkid;
		dl->held = dl->req;
		dl->exists = true;
		dl->between = false;
	} else if (!dl->exists) {
		/* A first request that failed has left nothing. */
		dl->lkid = 0;
	}
	keep = dc->dc_blocked && !status && dl->req != LM_ST_UNLOCKED && !dl->noexp;
	if (keep) {
		dl->reply = reply;
		list_add_tail(&dl->list, &dc->dc_kept);
	}
	rmutex_unlock(&dc->dc_lock);
	if (!keep)
		gfs2_glock_complete(gl, reply);
}

static void bast(struct dlm_lock *dl, int mode)
{
	enum lm_state wished;

	if (!dl->gl)
		return;
	switch (mode) {
	case DLMM_CW:
		wished = LM_ST_DEFERRED;
		break;
	case DLMM_PR:
		wished = LM_ST_SHARED;
		break;
	default:
		/* EX; others are never asked for by a gfs2 node, and all the way down suits everybody. */
		wished = LM_ST_UNLOCKED;
	}
	gfs2_glock_cb(dl->gl, wished, true);
}

static void read_answer(struct lm_dlm *dc)
{
	struct answer a;
	struct dlm_lock *dl;
	ssize_t n;

	memset(&a, 0, sizeof(a));
	n = read(dc->dc_fd, &a, sizeof(a));
	if (n < (ssize_t)sizeof(a.res)) {
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			gfs2_glock_table_lost(dc->dc_table, strerror(errno));
		return;
	}
	dl = a.res.user_astparam;
	if (a.res.user_astaddr == (void *)dlm_bast_address) {
		bast(dl, a.res.bast_mode);
		return;
	}
	/* The gate: first the answer, then the log, then whoever waits for the answer. */
	read_log(dc);
	if (a.res.lksb.sb_status == -DLM_EUNLOCK_)
		answer_unlock(dl);
	else if (dl->gl)
		answer_lock(dl, &a);
	else
		answer_plain(dl, &a);
}

int dlm_await_answer(int fd, void *astparam, uint64_t patience_ns)
{
	uint64_t deadline = now_ns() + patience_ns;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		uint64_t now = now_ns();
		struct answer a = { 0 };
		ssize_t n;

		if (now >= deadline)
			return -ETIMEDOUT;
		if (poll(&p, 1, (int)((deadline - now) / 1000000) + 1) <= 0)
			continue;
		n = read(fd, &a, sizeof(a));
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (n >= (ssize_t)sizeof(a.res) && a.res.user_astparam == astparam &&
		    a.res.user_astaddr == (void *)dlm_ast_address)
			return a.res.lksb.sb_status;
	}
}

/* Glocks that were given up at unmount without a word to the DLM: late callbacks for them end here. */
static void free_dead(struct lm_dlm *dc)
{
	rmutex_lock(&dc->dc_lock);
	while (!list_empty(&dc->dc_dead)) {
		struct dlm_lock *dl = list_first_entry(&dc->dc_dead, struct dlm_lock, list);
		struct gfs2_glock *gl = dl->gl;

		list_del_init(&dl->list);
		dl->gl = NULL;
		list_add_tail(&dl->list, &dc->dc_zombies);
		rmutex_unlock(&dc->dc_lock);
		gfs2_glock_free(gl);
		rmutex_lock(&dc->dc_lock);
	}
	rmutex_unlock(&dc->dc_lock);
}

static bool stopping(struct lm_dlm *dc)
{
	bool stop;

	rmutex_lock(&dc->dc_lock);
	stop = dc->dc_stop;
	rmutex_unlock(&dc->dc_lock);
	return stop;
}

static void *reader(void *arg)
{
	struct lm_dlm *dc = arg;
	struct pollfd fds[3] = {
		{ .fd = dc->dc_fd, .events = POLLIN },
		{ .fd = dc->dc_kmsg, .events = POLLIN },
		{ .fd = dc->dc_wake, .events = POLLIN },
	};
	uint64_t count;

	while (!stopping(dc)) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR && errno != EAGAIN && errno != ENOMEM) {
			gfs2_glock_table_lost(dc->dc_table, strerror(errno));
			break;
		}
		if (fds[2].revents & POLLIN && read(dc->dc_wake, &count, sizeof(count)) < 0)
			fs_warn("dlm reader: %s", strerror(errno));
		/* Not only with answers: the control thread is to begin at once. */
		if (fds[1].revents)
			read_log(dc);
		/* One: more are rare, and asking in vain costs as much as being told. */
		if (fds[0].revents)
			read_answer(dc);
		free_dead(dc);
	}
	return NULL;
}

int dlm_reader_start(struct lm_dlm *dc)
{
	sigset_t old;
	int error;

	block_all_but_faults(&old);
	error = -pthread_create(&dc->dc_reader, NULL, reader, dc);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!error) {
		dc->dc_has_reader = true;
		pthread_setname_np(dc->dc_reader, "dlm_reader");
	}
	return error;
}

void dlm_reader_kick(struct lm_dlm *dc)
{
	uint64_t one = 1;

	GFS2_BUG_ON(write(dc->dc_wake, &one, sizeof(one)) != sizeof(one));
}

void dlm_reader_stop(struct lm_dlm *dc)
{
	if (!dc->dc_has_reader)
		return;
	rmutex_lock(&dc->dc_lock);
	dc->dc_stop = true;
	rmutex_unlock(&dc->dc_lock);
	dlm_reader_kick(dc);
	pthread_join(dc->dc_reader, NULL);
	dc->dc_has_reader = false;
}
