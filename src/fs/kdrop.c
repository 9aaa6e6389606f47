/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that tell the kernel what to drop: kdrop.h.
 */
#include <signal.h>
#include "fs/kdrop.h"
#include "util/util.h"

/*
 * A job waits for READs of its own inode only, and these for nobody's job: one thread would do.  Some more keep a slow READ of one file
 * from holding up the others.
 */
#define KDROP_THREADS 4

struct gfs2_kdrops {
	struct rmutex lock;
	struct rcond work, done;
	struct list_head queue;
	bool attached;
	unsigned nr_threads;
	pthread_t threads[KDROP_THREADS];
	void (*fn)(void *priv, uint64_t no_addr, const struct gfs2_range *r);
	void *priv;
};

static void *kdrop_thread(void *arg)
{
	struct gfs2_kdrops *k = arg;

	pthread_setname_np(pthread_self(), "gfs2-kdrop");
	rmutex_lock(&k->lock);
	for (;;) {
		struct gfs2_kdrop *d;

		if (list_empty(&k->queue)) {
			if (!k->attached)
				break;
			rcond_wait(&k->work, &k->lock);
			continue;
		}
		d = list_first_entry(&k->queue, struct gfs2_kdrop, list);
		list_del_init(&d->list);
		rmutex_unlock(&k->lock);
		for (unsigned i = 0; i < d->nr; i++)
			k->fn(k->priv, d->no_addr, &d->ranges[i]);
		rmutex_lock(&k->lock);
		d->done = true;
		rcond_broadcast(&k->done);
	}
	rmutex_unlock(&k->lock);
	return NULL;
}

int gfs2_kdrops_create(struct gfs2_sbd *sdp)
{
	struct gfs2_kdrops *k = xzalloc(sizeof(*k));

	rmutex_init(&k->lock, RANK_KDROP);
	rcond_init(&k->work);
	rcond_init(&k->done);
	list_init(&k->queue);
	sdp->sd_kdrops = k;
	return 0;
}

void gfs2_kdrops_destroy(struct gfs2_sbd *sdp)
{
	struct gfs2_kdrops *k = sdp->sd_kdrops;

	if (!k)
		return;
	GFS2_BUG_ON(k->attached || k->nr_threads);
	rcond_destroy(&k->work);
	rcond_destroy(&k->done);
	rmutex_destroy(&k->lock);
	free(k);
	sdp->sd_kdrops = NULL;
}

int gfs2_kdrops_attach(struct gfs2_sbd *sdp, void (*fn)(void *priv, uint64_t no_addr, const struct gfs2_range *r),
		       void *priv)
{
	struct gfs2_kdrops *k = sdp->sd_kdrops;
	sigset_t old;
	int error = 0;

	k->fn = fn;
	k->priv = priv;
	rmutex_lock(&k->lock);
	k->attached = true;
	rmutex_unlock(&k->lock);
	/* Signals are for the main thread. */
	block_all_but_faults(&old);
	while (!error && k->nr_threads < KDROP_THREADS) {
		error = pthread_create(&k->threads[k->nr_threads], NULL, kdrop_thread, k);
		if (!error)
			k->nr_threads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (error)
		gfs2_kdrops_detach(sdp);
	return -error;
}

void gfs2_kdrops_detach(struct gfs2_sbd *sdp)
{
	struct gfs2_kdrops *k = sdp->sd_kdrops;

	rmutex_lock(&k->lock);
	k->attached = false;
	rcond_broadcast(&k->work);
	rmutex_unlock(&k->lock);
	while (k->nr_threads)
		pthread_join(k->threads[--k->nr_threads], NULL);
}

void gfs2_kdrop_start(struct gfs2_sbd *sdp, struct gfs2_kdrop *d)
{
	struct gfs2_kdrops *k = sdp->sd_kdrops;

	list_init(&d->list);
	d->done = false;
	rmutex_lock(&k->lock);
	if (k->attached) {
		list_add_tail(&d->list, &k->queue);
		rcond_signal(&k->work);
	} else {
		d->done = true;
	}
	rmutex_unlock(&k->lock);
}

bool gfs2_kdrop_wait(struct gfs2_sbd *sdp, struct gfs2_kdrop *d, uint64_t deadline_ns)
{
	struct gfs2_kdrops *k = sdp->sd_kdrops;
	bool done, in_time = true;

	rmutex_lock(&k->lock);
	while (!d->done && in_time) {
		if (deadline_ns == UINT64_MAX)
			rcond_wait(&k->done, &k->lock);
		else
			in_time = rcond_wait_until(&k->done, &k->lock, deadline_ns);
	}
	done = d->done;
	rmutex_unlock(&k->lock);
	return done;
}
