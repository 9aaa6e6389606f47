/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deleted inodes are freed a moment later, many in one transaction.
 *
 * The kernel forgets an inode (FORGET) right after its unlink, while the caller is about to send the next request.  To free it then
 * would take the processor from both, and each time the same blocks would be logged: the group's header and bitmap and the
 * counts.  So small inodes are put on a queue, and a thread frees what has come together: when none has come for GATHER_GAP_NS, when the first
 * has waited for GATHER_NS, when QUEUE_MAX are there, or when somebody wants the space or asks how much there is (gfs2_evict_hurry(),
 * gfs2_evict_wait()).
 *
 * Guarantees
 *  1. As evict.c: freed only under EX if the bitmap says UNLINKED, nlink is 0 and IOPEN is to be had in EX.
 *  2. Either all of an inode's blocks and its dinode are freed or none, in one transaction; a crash leaves unlinked inodes, which the next mount
 *     frees.  An unlink is as durable as it was: it is a transaction of its own, long before.
 *  3. An inode on the queue is dead: nobody finds it, who looks for it waits (icache.c).  None of its blocks can be allocated.
 *
 * A matter of their own, and freed by whoever drops the last reference: large files, hashed directories, what has xattrs.  In a cluster
 * all are: another node may have the inode in core, and that is waited for (evict.c).
 *
 * Locks: inode glocks in ascending order, each followed by its IOPEN glock, then rgrps.  Nobody holds a lock of a dead inode and waits for another.
 * `lock` (RANK_EVICT) guards the queue.
 */
#include "fs/evict_later.h"

#include <pthread.h>
#include <stdlib.h>
#include "fs/bmap.h"
#include "fs/rgrp.h"
#include "util/seeded.h"
#include "util/util.h"

#define GATHER_MAX 256		/* in one transaction */
#define QUEUE_MAX 2048
#define GATHER_GAP_NS 20000000ull
#define GATHER_NS 500000000ull
#define SMALL_BLOCKS 64		/* more are a matter of their own */
#define BATCH_EXTS 2048

struct gfs2_evict_queue {
	struct gfs2_sbd *sdp;
	pthread_t thread;
	struct rmutex lock;
	struct rcond more;	/* something to do, at once: the queue was empty, or is full, or there is a hurry */
	struct rcond done;	/* a batch is */
	struct list_head list;	/* gfs2_inode.i_evict */
	unsigned nr;
	uint64_t taken, freed;	/* inodes since the start */
	uint64_t wanted;	/* so many are to be freed without delay */
	bool going;		/* on until the queue is empty */
	bool stop;
};

/* One inode of a batch. */
struct eviction {
	struct gfs2_inode *ip;
	struct gfs2_holder gh, iopen_gh;
	unsigned first, nr;	/* its extents */
	uint32_t meta;		/* how many of its blocks may have images in the log */
	int result;
};

struct evict_ext {
	uint64_t start;
	uint32_t len;
};

struct batch {
	struct gfs2_sbd *sdp;
	struct gfs2_rgrp_list rlist;
	struct eviction evictions[GATHER_MAX];
	unsigned nr;
	struct evict_ext exts[BATCH_EXTS];
	unsigned nr_exts;
	uint32_t blocks, revokes;
};

/* --- freeing --- */

static int add_block(struct batch *b, struct eviction *ev, uint64_t blkno)
{
	struct evict_ext *last = ev->nr ? &b->exts[ev->first + ev->nr - 1] : NULL;
	int error = gfs2_check_pointer(ev->ip, blkno);

	if (error)
		return error;
	if (last && last->start + last->len == blkno) {
		last->len++;
		return 0;
	}
	GFS2_BUG_ON(b->nr_exts == BATCH_EXTS);
	b->exts[b->nr_exts++] = (struct evict_ext){ blkno, 1 };
	ev->nr++;
	return gfs2_rlist_add(b->sdp, &b->rlist, blkno);
}

/* EX: note the blocks of a file whose pointers are all in the dinode. */
static int collect(struct batch *b, struct eviction *ev)
{
	struct gfs2_inode *ip = ev->ip;
	uint32_t blocks = 0;
	struct gfs2_bh *dibh;
	int error = 0;

	ev->first = b->nr_exts;
	ev->nr = 0;
	if (!gfs2_is_stuffed(ip)) {
		const __be64 *ptrs;
		unsigned nr = gfs2_nr_metaptrs(b->sdp, 0);

		error = gfs2_meta_inode_buffer(ip, &dibh);
		if (error)
			return error;
		ptrs = gfs2_metaptrs(dibh, 0);
		for (unsigned i = 0; i < nr && !error && blocks < SMALL_BLOCKS; i++) {
			if (!ptrs[i])
				continue;
			blocks++;
			error = add_block(b, ev, be64_to_cpu(ptrs[i]));
		}
		buf_put(dibh);
	}
	if (!error && ip->i_blocks != 1 + (uint64_t)blocks)
		error = gfs2_consist(b->sdp, ip->i_no_addr, "di_blocks counts the blocks of the inode");
	if (!error)
		error = gfs2_rlist_add(b->sdp, &b->rlist, ip->i_no_addr);
	ev->meta = 1 + (gfs2_is_jdata(ip) || !S_ISREG(ip->i_mode) ? blocks : 0);
	b->blocks += 1 + blocks;
	b->revokes += ev->meta;
	return error;
}

/* In the transaction. */
static int free_one(struct batch *b, struct eviction *ev)
{
	int error = 0;

	for (unsigned i = 0; i < ev->nr && !error; i++)
		error = gfs2_free_blocks(b->sdp, b->exts[ev->first + i].start, b->exts[ev->first + i].len);
	return error ? error : gfs2_free_di(b->sdp, ev->ip->i_no_addr);
}

static unsigned log_blocks(const struct batch *b)
{
	/* the counts, headers and bitmaps */
	return 1 + gfs2_rlist_blocks(&b->rlist, b->blocks);
}

static void commit(struct batch *b)
{
	int error = gfs2_rlist_lock(b->sdp, &b->rlist);

	if (!error) {
		error = gfs2_trans_begin(b->sdp->sd_log, log_blocks(b), b->revokes);
		if (!error) {
			for (unsigned i = 0; i < b->nr && !error; i++)
				error = free_one(b, &b->evictions[i]);
			gfs2_trans_end(b->sdp->sd_log);
		}
	}
	gfs2_rlist_free(&b->rlist);
	for (unsigned i = 0; i < b->nr; i++)
		b->evictions[i].result = error ? error : 1;
}

static void batch_init(struct batch *b)
{
	gfs2_rlist_init(&b->rlist);
	b->nr = b->nr_exts = 0;
	b->blocks = b->revokes = 0;
}

static void batch_commit(struct batch *b)
{
	if (b->nr)
		commit(b);
	else
		gfs2_rlist_free(&b->rlist);
	for (unsigned i = 0; i < b->nr; i++) {
		struct eviction *ev = &b->evictions[i];

		if (ev->result < 0)
			mapping_sync(&ev->ip->i_data);
		gfs2_evict_end(&ev->gh, &ev->iopen_gh);
		gfs2_inode_evicted(ev->ip, ev->result);
	}
	batch_init(b);
}

static bool batch_full(const struct batch *b)
{
	unsigned limit = max_t(unsigned, gfs2_log_max_trans(b->sdp->sd_log) / 8, 16);

	return b->nr == GATHER_MAX || b->nr_exts + SMALL_BLOCKS > BATCH_EXTS || log_blocks(b) >= limit ||
	       b->revokes + SMALL_BLOCKS > limit / 2 * (b->sdp->sd_bsize - sizeof(struct gfs2_log_descriptor)) / 8;
}

static void batch_add(struct batch *b, struct gfs2_inode *ip)
{
	struct eviction *ev;
	int ret;

	if (batch_full(b))
		batch_commit(b);
	ev = &b->evictions[b->nr];
	ev->ip = ip;
	ret = gfs2_evict_begin(ip, &ev->gh, &ev->iopen_gh);
	if (ret > 0) {
		ret = collect(b, ev);
		if (!ret) {
			b->nr++;
			return;
		}
		gfs2_evict_end(&ev->gh, &ev->iopen_gh);
		b->nr_exts = ev->first;
	}
	gfs2_inode_evicted(ip, ret);
}

/* --- the thread --- */

static int by_number(const void *a, const void *b)
{
	const struct gfs2_inode *const *x = a, *const *y = b;

	return (*x)->i_no_addr < (*y)->i_no_addr ? -1 : 1;
}

static bool due(const struct gfs2_evict_queue *q)
{
	return q->stop || q->nr >= QUEUE_MAX || q->freed < q->wanted;
}

/* Lock held, let go of while waiting: until there is a reason to begin. */
static void gather(struct gfs2_evict_queue *q)
{
	unsigned long long until = 0, now;
	uint64_t seen;

	while (!q->nr && !q->stop)
		rcond_wait(&q->more, &q->lock);
	do {
		now = now_ns();
		if (!until)
			until = now + GATHER_NS;
		seen = q->taken;
		while (!due(q) && rcond_wait_until(&q->more, &q->lock, min_t(uint64_t, until, now + GATHER_GAP_NS)))
			;
	} while (!due(q) && q->taken != seen && now_ns() < until);
}

/* Lock held, let go of while waiting: the next ones, in the order of their locks; 0: there will be none. */
static unsigned next_inodes(struct gfs2_evict_queue *q, struct gfs2_inode *inodes[GATHER_MAX])
{
	unsigned n = 0;

	if (!q->going)
		gather(q);
	for (; n < GATHER_MAX && !list_empty(&q->list); n++) {
		inodes[n] = list_first_entry(&q->list, struct gfs2_inode, i_evict);
		list_del_init(&inodes[n]->i_evict);
	}
	q->nr -= n;
	q->going = q->nr;
	return n;
}

static void *evict_thread(void *arg)
{
	struct gfs2_evict_queue *q = arg;
	struct gfs2_inode *inodes[GATHER_MAX];
	struct batch *b = xmalloc(sizeof(*b));
	unsigned n;

	pthread_setname_np(pthread_self(), "gfs2-evict");
	b->sdp = q->sdp;
	batch_init(b);
	rmutex_lock(&q->lock);
	while ((n = next_inodes(q, inodes))) {
		rmutex_unlock(&q->lock);
		qsort(inodes, n, sizeof(inodes[0]), by_number);
		for (unsigned i = 0; i < n; i++)
			batch_add(b, inodes[i]);
		batch_commit(b);
		rmutex_lock(&q->lock);
		q->freed += n;
		rcond_broadcast(&q->done);
	}
	rmutex_unlock(&q->lock);
	free(b);
	return NULL;
}

/* --- for others --- */

/* Nobody else has @ip. */
static bool small(const struct gfs2_inode *ip)
{
	return ip->i_valid && ip->i_height <= 1 && ip->i_blocks <= SMALL_BLOCKS && !ip->i_eattr &&
	       !(gfs2_is_dir(ip) && ip->i_diskflags & GFS2_DIF_EXHASH);
}

bool gfs2_evict_later(struct gfs2_inode *ip)
{
	struct gfs2_evict_queue *q = ip->i_sbd->sd_evict_queue;
	bool take, wake;

	if (!q || !small(ip))
		return false;
	rmutex_lock(&q->lock);
	take = !q->stop;
	if (take) {
		list_add_tail(&ip->i_evict, &q->list);
		q->nr++;
		q->taken++;
	}
	wake = take && (q->nr == 1 || q->nr == QUEUE_MAX);
	rmutex_unlock(&q->lock);
	if (wake)
		rcond_signal(&q->more);
	return take;
}

void gfs2_evict_hurry(struct gfs2_sbd *sdp)
{
	struct gfs2_evict_queue *q = sdp->sd_evict_queue;

	if (!q)
		return;
	rmutex_lock(&q->lock);
	q->wanted = q->taken;
	rcond_signal(&q->more);
	rmutex_unlock(&q->lock);
}

void gfs2_evict_wait(struct gfs2_sbd *sdp)
{
	struct gfs2_evict_queue *q = sdp->sd_evict_queue;
	uint64_t all;

	if (!q)
		return;
	rmutex_lock(&q->lock);
	q->wanted = all = q->taken;
	if (q->freed < all)
		rcond_signal(&q->more);
	while (q->freed < all && !SEEDED_BUG("statfs-early"))
		rcond_wait(&q->done, &q->lock);
	rmutex_unlock(&q->lock);
}

int gfs2_evict_later_start(struct gfs2_sbd *sdp)
{
	struct gfs2_evict_queue *q;
	int error;

	if (sdp->sd_ro || sdp->sd_lm->lm_has_peers)
		return 0;
	q = xzalloc(sizeof(*q));
	q->sdp = sdp;
	rmutex_init(&q->lock, RANK_EVICT);
	rcond_init(&q->more);
	rcond_init(&q->done);
	list_init(&q->list);
	error = -pthread_create(&q->thread, NULL, evict_thread, q);
	if (!error) {
		sdp->sd_evict_queue = q;
		return 0;
	}
	rcond_destroy(&q->done);
	rcond_destroy(&q->more);
	rmutex_destroy(&q->lock);
	free(q);
	return error;
}

void gfs2_evict_later_stop(struct gfs2_sbd *sdp)
{
	struct gfs2_evict_queue *q = sdp->sd_evict_queue;

	if (!q)
		return;
	rmutex_lock(&q->lock);
	q->stop = true;
	rcond_signal(&q->more);
	rmutex_unlock(&q->lock);
	pthread_join(q->thread, NULL);
	sdp->sd_evict_queue = NULL;
	rcond_destroy(&q->done);
	rcond_destroy(&q->more);
	rmutex_destroy(&q->lock);
	free(q);
}
