/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes that the kernel takes back, in a cluster.
 *
 * After an asynchronous write beyond the end of the file has failed, or was answered with less than all, the kernel cuts the file to the
 * size that it had (fuse_direct_IO(), fuse_do_truncate()): what had been written of it goes.  But that is the size that it *believes*
 * in, and what another node had appended by then must not go.  Its request cannot be told from an ftruncate(2), so it is
 * recognized by what came before: the same thread and open file, a write that failed, and exactly the size that the kernel believes in.  That one
 * is the size it was told last (i_told_size), or was when the write began, or the offset of its first piece.  An ftruncate() to
 * that size after a failed write means the same: away with what the write has left.
 *
 * A large write comes in pieces, asynchronous ones all at once, and several threads of ours write them in any order.  Each but the last has
 * as many pages as a request may have, which may be any number of bytes: buffers need not begin on a page, and vectors may be small
 * (kernel: fuse_get_user_pages()).  The kernel numbers its requests in the order of the offsets.  Writes that may be pieces of one are a *run*;
 * what is undone is what those have appended that begin where the kernel cuts, or behind it, unless somebody else has changed the file's size in
 * between.  So it does no harm to take several writes for one: whoever cuts the file to what it was before any of them gets just that.
 *
 * Appends go where the file ends when they get the lock.  If later pieces of the run got it first, this one goes before them, as long as nobody
 * else has appended in between; else it is an error, and undone.  (No other append of this node can be there: the kernel has one at a
 * time for an inode, and waits for all of its pieces.)
 *
 * Locking: server.files_lock for the runs.
 */
#include "fuse/ops.h"
#include "util/ctx.h"
#include "util/seeded.h"
#include "util/util.h"

#define UNDO_NS (10ull * 1000000000)
#define RUN_PIECES 64
/* What is moved at most to make room for an earlier piece. */
#define MAX_TAIL (64 * (uint64_t)RX_MAX_WRITE)
/* Pages of a full request, at least (fs.fuse.max_pages_limit may say less than our 256), and segments of a vector (UIO_MAXIOV). */
#define FULL_PAGES 32
#define MAX_SEGMENTS 1024

/* Has been written, or has failed. */
struct piece {
	uint64_t off, len;	/* as the kernel has it */
	uint64_t believed;	/* the size that the kernel believed in when it came */
	uint64_t from, to;	/* how long the file was before and after it; of an append: where it is */
	uint64_t grown;		/* to - from; not if it is several, and others are between them */
	unsigned count;		/* more than 1: several, to save room */
};

/* The last writes beyond the end by one thread that may be pieces of one. */
struct write_run {
	uint64_t id;		/* of this run among those of the file */
	pid_t pid;
	bool append;		/* O_APPEND */
	bool failed;		/* one of them, or a part of it */
	uint64_t when_ns;	/* of the last one; 0: none */
	/* The one with the highest offset that has come, and the number of its request */
	uint64_t last, last_len, last_req;
	unsigned nr;
	struct piece pieces[RUN_PIECES]; /* by offset */
};

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

/* May @w be a piece of the same write as those before it? */
static bool continues(const struct write_run *r, const struct written *w)
{
	if (!r->when_ns || now_ns() - r->when_ns >= UNDO_NS || r->pid != current_ctx()->pid || r->append != w->append)
		return false;
	if (w->off >= r->last + r->last_len)
		return current_ctx()->req > r->last_req;
	return w->off + w->size <= r->last && current_ctx()->req < r->last_req;
}

void file_writes(struct server *s, struct gfs2_file *f, struct written *w)
{
	struct write_run *r, *new = NULL;
	/* Within the file, as far as the kernel knows it: it would not undo that. */
	bool begins = w->append || w->off + w->size > told_size(f->f_inode);

	w->run = 0;
	w->placed = false;
	/*
	 * An append begins where the kernel believes the end to be.  If more has been told, it is the answer to a later piece of this very
	 * write, which the kernel takes for the size when all have been answered.
	 */
	w->believed = w->append ? min_t(uint64_t, told_size(f->f_inode), w->off) : told_size(f->f_inode);
	w->eof[0] = w->eof[1] = UINT64_MAX;
	pthread_mutex_lock(&s->files_lock);
	if (!f->f_run && begins) {
		pthread_mutex_unlock(&s->files_lock);
		new = xzalloc(sizeof(*new));
		pthread_mutex_lock(&s->files_lock);
		if (!f->f_run) {
			f->f_run = new;
			new = NULL;
		}
	}
	r = f->f_run;
	if (!r)
		goto out;
	if (!continues(r, w)) {
		if (!begins)
			goto out;
		r->id++;
		r->pid = current_ctx()->pid;
		r->append = w->append;
		r->failed = false;
		r->last = r->last_len = r->last_req = 0;
		r->nr = 0;
	}
	if (current_ctx()->req > r->last_req) {
		r->last = w->off;
		r->last_len = w->size;
		r->last_req = current_ctx()->req;
	}
	r->when_ns = now_ns();
	w->run = r->id;
out:
	pthread_mutex_unlock(&s->files_lock);
	free(new);
}

/* Two become one: the lowest that are next to each other, or else the lowest. */
static void join_two(struct write_run *r)
{
	struct piece *p = r->pieces, *q;

	for (unsigned i = 0; i + 1 < r->nr; i++) {
		if (p[i].off + p[i].len == p[i + 1].off && p[i].to == p[i + 1].from) {
			p += i;
			break;
		}
	}
	q = p + 1;
	if (!p->grown) {
		p->from = q->from;
		p->to = q->to;
	} else if (q->grown) {
		p->from = min_t(uint64_t, p->from, q->from);
		p->to = max_t(uint64_t, p->to, q->to);
	}
	p->len = q->off + q->len - p->off;
	p->grown += q->grown;
	p->count += q->count;
	r->nr--;
	memmove(q, q + 1, (size_t)(r->pieces + r->nr - q) * sizeof(*q));
}

/* The first one behind @off. */
static unsigned piece_behind(const struct write_run *r, uint64_t off)
{
	unsigned i = r->nr;

	while (i && r->pieces[i - 1].off > off)
		i--;
	return i;
}

/* @w has taken the file from a length to another one.  The piece's index. */
static unsigned add_piece(struct write_run *r, const struct written *w, uint64_t from, uint64_t to)
{
	unsigned i;

	if (r->nr == RUN_PIECES)
		join_two(r);
	i = piece_behind(r, w->off);
	memmove(r->pieces + i + 1, r->pieces + i, (r->nr - i) * sizeof(r->pieces[0]));
	r->nr++;
	r->pieces[i] = (struct piece){ .off = w->off, .len = w->size, .believed = w->believed, .from = from, .to = to,
				       .grown = to - from, .count = 1 };
	return i;
}

void file_written(struct server *s, struct gfs2_file *f, const struct written *w)
{
	struct write_run *r;

	pthread_mutex_lock(&s->files_lock);
	r = f->f_run;
	if (w->run && w->run == r->id) {
		r->when_ns = now_ns();
		r->failed |= w->ret != w->size;
		if (!w->placed)
			add_piece(r, w, w->eof[0], w->eof[1]);
	}
	pthread_mutex_unlock(&s->files_lock);
}

/* Where the pieces from index @i on begin, which go on to the end of the file, at @size, without anything between them; @size: there are none. */
static int64_t pieces_begin(const struct write_run *r, unsigned i, uint64_t size)
{
	uint64_t begin = size, end = size;
	bool any = false;

	for (; i < r->nr; i++) {
		const struct piece *p = r->pieces + i;

		if (!p->grown)
			continue;
		if (!any)
			begin = p->from;
		else if (p->from != end)
			return -EIO;
		if (p->to - p->from != p->grown)
			return -EIO;
		end = p->to;
		any = true;
	}
	return end == size && size - begin <= MAX_TAIL ? (int64_t)begin : -EIO;
}

int64_t append_where(struct server *s, struct gfs2_file *f, const struct written *w, uint64_t size, uint64_t *tail)
{
	struct write_run *r;
	int64_t where = (int64_t)size;
	unsigned i;

	pthread_mutex_lock(&s->files_lock);
	r = f->f_run;
	if (w->run && w->run == r->id) {
		i = piece_behind(r, w->off);
		where = pieces_begin(r, i, size);
		/* In the middle of several. */
		if (i && r->pieces[i - 1].off + r->pieces[i - 1].len > w->off)
			where = -EIO;
	}
	*tail = where < 0 ? 0 : size - (uint64_t)where;
	pthread_mutex_unlock(&s->files_lock);
	return where;
}

void append_placed(struct server *s, struct gfs2_file *f, struct written *w, uint64_t where, uint64_t tail, uint64_t grown)
{
	struct write_run *r;
	unsigned i;

	pthread_mutex_lock(&s->files_lock);
	r = f->f_run;
	if (w->run && w->run == r->id) {
		/* Moving the others has failed half way: what the file has grown by is the last one's. */
		bool half = tail && grown != w->size;

		i = add_piece(r, w, where, where + (half ? 0 : grown));
		for (unsigned n = i + 1; n < r->nr; n++) {
			r->pieces[n].from += half ? 0 : grown;
			r->pieces[n].to += half ? 0 : grown;
		}
		for (unsigned n = r->nr; half && n-- > i + 1; ) {
			if (r->pieces[n].grown) {
				r->pieces[n].to += grown;
				r->pieces[n].grown += grown;
				break;
			}
		}
		w->placed = true;
	}
	pthread_mutex_unlock(&s->files_lock);
}

/* How many segments of a vector these need if they are full requests: each has two pages at most that are not full. */
static int64_t segments(const struct piece *p)
{
	int64_t n = ((int64_t)p->count * FULL_PAGES - (int64_t)(p->len / 4096)) / 2 - p->count;

	return max_t(int64_t, n, 0);
}

/* Is @size what the kernel believed in before the last write, whichever pieces were its?  *@begin: from that offset on. */
static bool write_began(const struct write_run *r, uint64_t size, uint64_t *begin)
{
	int64_t room = MAX_SEGMENTS;
	bool found = false;

	for (unsigned i = r->nr; i--; ) {
		const struct piece *p = r->pieces + i;

		/* All but the last one are full. */
		room -= i + 1 < r->nr ? segments(p) : 0;
		if (p->count > 1 && size > p->off && size < p->off + p->len) {
			*begin = size;
			return true;
		}
		if (room < 0)
			break;
		/* Later pieces of the write may have been believed to come at the same size. */
		if (size == p->off || size == p->believed) {
			*begin = r->append ? p->off : size;
			found = true;
		}
	}
	return found;
}

/* What those from @begin on have made of the file's size. */
static void grown_from(const struct write_run *r, uint64_t begin, uint64_t eof[2])
{
	uint64_t from = UINT64_MAX, to = 0, grown = 0;
	bool own = true;

	for (unsigned i = 0; i < r->nr; i++) {
		const struct piece *p = r->pieces + i;
		/* Of several appends. */
		uint64_t before = r->append && p->off < begin ? begin - p->off : 0;

		if (p->off + p->len <= begin || !p->grown)
			continue;
		own &= !before || (p->grown == p->len && p->to - p->from == p->grown);
		from = min_t(uint64_t, from, p->from + before);
		to = max_t(uint64_t, to, p->to);
		grown += p->grown - before;
	}
	/* Nothing is undone that is not known to be its own. */
	eof[0] = from;
	eof[1] = own && to - from == grown ? to : 0;
}

bool file_undoes(struct server *s, struct gfs2_file *f, uint64_t size, uint64_t eof[2])
{
	struct write_run *r;
	uint64_t begin = 0;
	bool yes = false;

	pthread_mutex_lock(&s->files_lock);
	r = f->f_run;
	if (r && r->pid == current_ctx()->pid) {
		if (r->failed && now_ns() - r->when_ns < UNDO_NS && !SEEDED_BUG("undo-cuts")) {
			yes = write_began(r, size, &begin);
			if (!yes && size == told_size(f->f_inode)) {
				begin = r->append ? 0 : size;
				yes = true;
			}
		}
		grown_from(r, begin, eof);
		r->when_ns = 0;
		r->failed = false;
		r->id++;
	}
	pthread_mutex_unlock(&s->files_lock);
	return yes;
}
