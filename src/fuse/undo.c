/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes that the kernel takes back, in a cluster.
 *
 * After an asynchronous write beyond the end of the file has failed, or was answered with less than all, the kernel cuts the file to the
 * size that it had (fuse_direct_IO(), fuse_do_truncate()): what had been written of it goes.  But that is the size that it *believes*
 * in, and what another node had appended by then must not go.  Its request cannot be told from an ftruncate(2), so it is
 * recognized by what came before: the same thread and open file, a write that failed, and exactly the size that the kernel believes in.  That one
 * is the size it was told last (i_told_size), or was when the write began, or the offset of one of the run's pieces.  An ftruncate() to
 * that size after a failed write means the same: away with what the write has left.
 *
 * A large write comes in pieces of RX_MAX_WRITE, asynchronous ones all at once, and several threads of ours write them in any order.
 * Writes that may be pieces of one are a *run*; what is undone is what a run has appended, unless somebody else has changed the file's
 * size in between.  So it does no harm to take several writes for one: whoever cuts the file to what it was before any of them
 * gets just that.
 *
 * Appends go where the file ends when they get the lock.  If a later piece of a run got it first, this one goes before it, as long as nobody
 * else has appended in between; else it is an error, and undone.
 *
 * Locking: server.files_lock for the runs.
 */
#include "fuse/ops.h"
#include "util/ctx.h"
#include "util/seeded.h"
#include "util/util.h"

#define UNDO_NS (10ull * 1000000000)
#define RUN_ANCHOR 32

static uint64_t told_size(const struct gfs2_inode *ip)
{
	return atomic_load_explicit(&ip->i_told_size, memory_order_relaxed);
}

void tell_size(struct gfs2_inode *ip, uint64_t size)
{
	if (ip->i_sbd->sd_lm->lm_has_peers)
		atomic_store_explicit(&ip->i_told_size, size, memory_order_relaxed);
}

void tell_written(struct gfs2_inode *ip, uint64_t end)
{
	if (ip->i_sbd->sd_lm->lm_has_peers && told_size(ip) < end)
		atomic_store_explicit(&ip->i_told_size, end, memory_order_relaxed);
}

/*
 * May @w be a piece of the same write as those before it?  Only the last one is not of full size; and the kernel numbers its requests in the
 * order in which it sends them.
 */
static bool continues(const struct write_run *r, const struct written *w)
{
	if (!r->when_ns || now_ns() - r->when_ns >= UNDO_NS || r->pid != current_ctx()->pid)
		return false;
	if (w->off > r->last)
		return (w->off - r->last) % RX_MAX_WRITE == 0 && r->last_len == RX_MAX_WRITE && current_ctx()->req > r->last_req;
	return w->off != r->last && (r->last - w->off) % RX_MAX_WRITE == 0 && w->size == RX_MAX_WRITE && current_ctx()->req < r->last_req;
}

void file_writes(struct server *s, struct gfs2_file *f, struct written *w, bool append)
{
	struct write_run *r = &f->f_run;
	uint64_t told = told_size(f->f_inode);

	w->run = 0;
	w->eof[0] = w->eof[1] = UINT64_MAX;
	pthread_mutex_lock(&s->files_lock);
	if (!continues(r, w)) {
		/* Within the file, as far as the kernel knows it: it would not undo that. */
		if (!append && w->off + w->size <= told)
			goto out;
		*r = (struct write_run){ .id = r->id + 1, .pid = current_ctx()->pid, .first = w->off, .last = w->off,
					 .last_len = w->size, .last_req = current_ctx()->req, .believed = told, .eof = { UINT64_MAX, 0 } };
	}
	if (w->off < r->first)
		r->first = w->off;
	if (w->off > r->last) {
		r->last = w->off;
		r->last_len = w->size;
		r->last_req = current_ctx()->req;
	}
	r->when_ns = now_ns();
	w->run = r->id;
out:
	pthread_mutex_unlock(&s->files_lock);
}

void file_written(struct server *s, struct gfs2_file *f, const struct written *w)
{
	struct write_run *r = &f->f_run;

	pthread_mutex_lock(&s->files_lock);
	if (w->run && w->run == r->id) {
		r->when_ns = now_ns();
		r->failed |= w->ret != w->size;
		/* How the file has grown; whoever got the lock first, the sum is the same. */
		if (w->eof[0] != UINT64_MAX) {
			r->eof[0] = min_t(uint64_t, r->eof[0], w->eof[0]);
			r->eof[1] = max_t(uint64_t, r->eof[1], w->eof[1]);
			r->grown += w->eof[1] - w->eof[0];
		}
	}
	pthread_mutex_unlock(&s->files_lock);
}

/* Bit of @placed; 64: too far. */
static unsigned piece_bit(const struct write_run *r, const struct written *w)
{
	int64_t n = (int64_t)(w->off - r->anchor) / RX_MAX_WRITE + RUN_ANCHOR;

	return n < 0 || n > 63 ? 64 : (unsigned)n;
}

int64_t append_where(struct server *s, struct gfs2_file *f, const struct written *w, uint64_t size, uint64_t *tail)
{
	struct write_run *r = &f->f_run;
	int64_t where = (int64_t)size;
	unsigned bit;

	*tail = 0;
	pthread_mutex_lock(&s->files_lock);
	if (!w->run || w->run != r->id)
		goto out;
	bit = piece_bit(r, w);
	if (!r->placed || (w->off > r->top && (bit == 64 || size != r->base + r->bytes))) {
		/* In order; but what comes before this one can go before it only if it is the first. */
		r->floor = r->placed ? w->off : 0;
		r->anchor = w->off;
		r->base = size;
		r->placed = r->bytes = 0;
	} else if (w->off < r->top && (bit == 64 || w->off < r->floor || size != r->base + r->bytes)) {
		where = -EIO;
	} else if (w->off < r->top) {
		where = (int64_t)(r->base + (uint64_t)__builtin_popcountll(r->placed & ((1ull << bit) - 1)) * RX_MAX_WRITE);
		*tail = size - (uint64_t)where;
	}
out:
	pthread_mutex_unlock(&s->files_lock);
	return where;
}

void append_placed(struct server *s, struct gfs2_file *f, const struct written *w)
{
	struct write_run *r = &f->f_run;

	pthread_mutex_lock(&s->files_lock);
	if (w->run && w->run == r->id) {
		r->placed |= 1ull << piece_bit(r, w);
		r->bytes += w->size;
		r->top = max_t(uint64_t, r->top, w->off);
	}
	pthread_mutex_unlock(&s->files_lock);
}

bool file_undoes(struct server *s, struct gfs2_file *f, uint64_t size, uint64_t eof[2])
{
	struct write_run *r = &f->f_run;
	bool yes;

	pthread_mutex_lock(&s->files_lock);
	yes = r->failed && now_ns() - r->when_ns < UNDO_NS && r->pid == current_ctx()->pid &&
	      (size == r->believed || size == told_size(f->f_inode) ||
	       (size >= r->first && size <= r->last && (size - r->first) % RX_MAX_WRITE == 0)) && !SEEDED_BUG("undo-cuts");
	/* Nothing is undone that is not known to be its own. */
	eof[0] = r->eof[0];
	eof[1] = r->eof[1] - r->eof[0] == r->grown ? r->eof[1] : 0;
	if (r->pid == current_ctx()->pid)
		*r = (struct write_run){ .id = r->id };
	pthread_mutex_unlock(&s->files_lock);
	return yes;
}
