/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an inode's glock protects, and what happens to it at each transition of the lock
 * (kernel: glops.c:inode_go_*; reference gfs2-locking-dio.md 1.9), and the count of direct I/O.
 *
 * Guarantees
 *  1. Before EX is given up: direct I/O in flight has completed, a pending time is in the dinode,
 *     dirty data are on the device, the journal has nothing of this glock that is not in place.
 *     Other states have nothing dirty.
 *  2. Before DF or UN: no data buffers remain; before UN: no metadata, no extents, no hash table
 *     either.
 *  3. Before DF or UN: the kernel has no pages of the file.  Pages that it has were read under this tenure of the lock.
 *  4. A grant other than DF that was waited for finds no direct I/O of this node in flight; the
 *     first EX grant finishes a truncate that a crash interrupted.
 *
 * A time that a direct write left pending under DF cannot be published in go_sync: that takes EX,
 * and a demotion must not wait for a glock.  So the lock layer tries for EX first (gl_wants_ex).  If
 * that fails it stays pending in core, stat shows it, and the
 * next EX of this node (fsync, close, timer, last reference) folds it in.  Under a cached EX lock
 * it needs a transaction only, which is opened here; that waits for log space at most, never for
 * a glock.
 *
 * The object: go_*() run on threads that own no reference.  gfs2_glops_begin() keeps the inode
 * from being freed meanwhile; a glock without an object has no data of its own any more (icache.c
 * wrote it), its metadata is handled all the same.
 */
#include <inttypes.h>
#include <dirent.h>
#include "fs/bmap.h"
#include "fs/dir.h"
#include "fs/file.h"
#include "fs/kdrop.h"
#include "util/seeded.h"
#include "util/util.h"

struct gfs2_inode *gfs2_glops_begin(struct gfs2_glock *gl)
{
	struct gfs2_inode *ip;

	rmutex_lock(&gl->gl_lock);
	ip = gl->gl_object;
	if (ip)
		ip->i_glops++;
	rmutex_unlock(&gl->gl_lock);
	return ip;
}

void gfs2_glops_end(struct gfs2_inode *ip)
{
	struct gfs2_glock *gl;

	if (!ip)
		return;
	gl = ip->i_gl;
	/*
	 * Once the count is zero and the lock dropped, @ip may be freed; the glock is the table's.
	 */
	rmutex_lock(&gl->gl_lock);
	if (!--ip->i_glops)
		rcond_broadcast(&gl->gl_wait);
	rmutex_unlock(&gl->gl_lock);
}

void gfs2_glops_wait(struct gfs2_inode *ip)
{
	struct gfs2_glock *gl = ip->i_gl;

	rmutex_lock(&gl->gl_lock);
	while (ip->i_glops)
		rcond_wait(&gl->gl_wait, &gl->gl_lock);
	rmutex_unlock(&gl->gl_lock);
}

static enum lm_state glock_state(struct gfs2_glock *gl)
{
	enum lm_state state;

	rmutex_lock(&gl->gl_lock);
	state = gl->gl_state;
	rmutex_unlock(&gl->gl_lock);
	return state;
}

/* EX is held by the node and, during the transition, by no holder. */
static int publish_under_ex(struct gfs2_inode *ip)
{
	return ip->i_valid && ip->i_nlink ? gfs2_pending_mtime_publish_held(ip) : 0;
}

/* --- the kernel's pages --- */

/*
 * How long the kernel may take to drop pages that nobody has locked as far as we know, before those who are in its way are let in.
 */
#define DROP_PATIENCE_NS 2000000ull
/* If it takes as many times as long we know nothing: everybody is let in. */
#define DROP_DESPAIR 50
#define DRAIN_RANGES 64

int gfs2_inode_nq_fill(struct gfs2_inode *ip, struct gfs2_range *range, struct gfs2_holder *gh)
{
	int error;

	gfs2_holder_init(ip->i_gl, LM_ST_SHARED, GL_FILL, gh, __func__);
	gh->gh_priv = range;
	error = gfs2_glock_nq(gh);
	if (error)
		gfs2_holder_uninit(gh);
	return error;
}

struct drain {
	struct gfs2_range cached[DRAIN_RANGES];	 /* what the kernel may have */
	struct gfs2_range blocked[DRAIN_RANGES]; /* READs that wait */
	struct gfs2_range pieces[2 * DRAIN_RANGES]; /* cached, but not blocked: to be dropped now */
	struct gfs2_range admitted[DRAIN_RANGES]; /* READs that were let in meanwhile */
	unsigned nr_cached, nr_blocked, nr_pieces, nr_admitted, waited;
};

/* Let nobody in, but remember him. */
static bool note_blocked(const struct gfs2_holder *gh, void *arg)
{
	const struct gfs2_range *r = gh->gh_priv;
	struct drain *d = arg;
	unsigned i;

	/* In order. Of too many, those that are not noted will be in the way and be let in. */
	if (d->nr_blocked == DRAIN_RANGES)
		return false;
	for (i = d->nr_blocked++; i > 0 && d->blocked[i - 1].start > r->start; i--)
		d->blocked[i] = d->blocked[i - 1];
	d->blocked[i] = *r;
	return false;
}

/* Is he in the way? */
static bool admit(const struct gfs2_holder *gh, void *arg)
{
	const struct gfs2_range *r = gh->gh_priv;
	struct drain *d = arg;
	bool in = d->waited > DROP_DESPAIR;

	for (unsigned i = 0; !in && i < d->nr_pieces; i++)
		in = r->start < d->pieces[i].end && d->pieces[i].start < r->end;
	if (!in || SEEDED_BUG("gate-shut"))
		return false;
	if (d->nr_admitted == DRAIN_RANGES)
		d->admitted[0] = (struct gfs2_range){ 0, UINT64_MAX };
	else
		d->admitted[d->nr_admitted++] = *r;
	return true;
}

static void cut_out_blocked(struct drain *d)
{
	d->nr_pieces = 0;
	for (unsigned i = 0; i < d->nr_cached; i++) {
		struct gfs2_range c = d->cached[i];

		for (unsigned k = 0; k < d->nr_blocked && c.start < c.end; k++) {
			const struct gfs2_range *b = &d->blocked[k];

			if (b->end <= c.start || b->start >= c.end)
				continue;
			if (b->start > c.start && d->nr_pieces < ARRAY_SIZE(d->pieces) - 1)
				d->pieces[d->nr_pieces++] = (struct gfs2_range){ c.start, b->start };
			else if (b->start > c.start)
				continue; /* no room: it will be in the way */
			c.start = b->end;
		}
		if (c.start >= c.end)
			continue;
		if (d->nr_pieces == ARRAY_SIZE(d->pieces))
			d->pieces[0] = (struct gfs2_range){ 0, UINT64_MAX };
		else
			d->pieces[d->nr_pieces++] = c;
	}
}

/*
 * The gate of reference 6.7.  The kernel, told to drop pages, waits for those that are locked: by READs, which wait for this lock.  But a
 * page that is locked has not been read yet, so there is nothing to be dropped.  Hence all is dropped but what the READs that wait are
 * about.  One that comes at the wrong moment, or has not yet come to the lock, and stops the kernel, is let in, under the state that is still
 * held; what it has read is dropped in the next round.  The others wait for the lock like everybody, so readers that never
 * stop cannot go on for ever: sooner or later all of them wait.
 */
void inode_go_drain(struct gfs2_glock *gl)
{
	struct gfs2_sbd *sdp = glock_sbd(gl);
	struct drain *d = xmalloc(sizeof(*d));
	struct gfs2_kdrop job = { .no_addr = gl->gl_number, .ranges = d->pieces };

	d->cached[0] = (struct gfs2_range){ 0, UINT64_MAX };
	d->nr_cached = 1;
	while (d->nr_cached && !SEEDED_BUG("gate-no-drop")) {
		d->nr_blocked = d->nr_admitted = d->waited = 0;
		gfs2_glock_admit(gl, note_blocked, d);
		cut_out_blocked(d);
		job.nr = d->nr_pieces;
		gfs2_kdrop_start(sdp, &job);
		while (!gfs2_kdrop_wait(sdp, &job, now_ns() + DROP_PATIENCE_NS)) {
			d->waited++;
			gfs2_glock_admit(gl, admit, d);
		}
		if (d->nr_admitted)
			gfs2_glock_wait_guests(gl);
		memcpy(d->cached, d->admitted, d->nr_admitted * sizeof(d->cached[0]));
		d->nr_cached = SEEDED_BUG("gate-one-round") ? 0 : d->nr_admitted;
	}
	free(d);
}

/* A READ that came too late to be left out is in the way: so often it is let in.  Then what it has read goes after the change only. */
#define CHANGE_TRIES 8

/*
 * The kernel's pages of @ip, before who holds it in EX changes what they show: whoever reads past them would see the change, and they not yet.  The
 * READs that wait have not read; nobody is let in, as in inode_go_drain(), since EX is held by somebody.  False: somebody is in the way.
 */
static bool dropped_under_ex(struct gfs2_inode *ip, struct gfs2_kdrop *job, struct drain *d)
{
	d->cached[0] = (struct gfs2_range){ 0, UINT64_MAX };
	d->nr_cached = 1;
	d->nr_blocked = 0;
	gfs2_glock_admit(ip->i_gl, note_blocked, d);
	cut_out_blocked(d);
	job->nr = d->nr_pieces;
	gfs2_kdrop_start(ip->i_sbd, job);
	return gfs2_kdrop_wait(ip->i_sbd, job, now_ns() + DROP_PATIENCE_NS);
}

int gfs2_inode_nq_change(struct gfs2_inode *ip, struct gfs2_holder *gh, const char *who)
{
	struct gfs2_kdrop job = { .no_addr = ip->i_no_addr };
	struct drain *d = NULL;
	int error;

	gfs2_holder_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, gh, who);
	for (unsigned tries = 0;; tries++) {
		error = gfs2_glock_nq(gh);
		if (error || !ip->i_sbd->sd_lm->lm_has_peers || !gfs2_glock_filled(ip->i_gl) || tries == CHANGE_TRIES ||
		    SEEDED_BUG("own-pages-kept"))
			break;
		if (!d)
			d = xmalloc(sizeof(*d));
		job.ranges = d->pieces;
		if (dropped_under_ex(ip, &job, d)) {
			gfs2_glock_drained(ip->i_gl);
			break;
		}
		gfs2_glock_dq(gh);
		gfs2_kdrop_wait(ip->i_sbd, &job, UINT64_MAX);
	}
	free(d);
	if (error)
		gfs2_holder_uninit(gh);
	return error;
}

int inode_go_sync(struct gfs2_glock *gl)
{
	struct gfs2_sbd *sdp = glock_sbd(gl);
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	int error = 0, error2;

	if (ip)
		inode_dio_wait(ip);
	/* Only EX allows dirty data and metadata. */
	if (glock_state(gl) != LM_ST_EXCLUSIVE || !sdp->sd_log || gfs2_withdrawn(sdp))
		goto out;
	if (ip) {
		error = publish_under_ex(ip);
		/* What cannot be written is lost, whoever has the lock then; fsync is to tell it. */
		gfs2_file_write_back(ip);
	}
	error2 = gfs2_ail_empty_gl(sdp->sd_log, gl, sdp->sd_lm->lm_has_peers);
	if (!error)
		error = error2;
out:
	gfs2_glops_end(ip);
	return error;
}

void inode_go_inval(struct gfs2_glock *gl, bool metadata)
{
	struct gfs2_inode *ip = gfs2_glops_begin(gl);

	/* That the dinode has to be read again is noted by the lock layer. */
	if (metadata && !SEEDED_BUG("metadata-kept"))
		mapping_invalidate(&gl->gl_mapping);
	if (ip) {
		if (metadata)
			gfs2_pending_mtime_left(ip);
		if (!SEEDED_BUG("data-kept"))
			mapping_invalidate(&ip->i_data);
		if (metadata && !SEEDED_BUG("map-kept"))
			extmap_clear(&ip->i_map);
		if (metadata && !SEEDED_BUG("dir-hash-kept"))
			gfs2_dir_hash_inval(ip);
	}
	gfs2_glops_end(ip);
}

int inode_go_instantiate(struct gfs2_glock *gl)
{
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	struct gfs2_bh *bh;
	int error;

	if (!ip)
		return 0;
	error = gfs2_meta_inode_buffer(ip, &bh);
	if (!error) {
		error = gfs2_dinode_in(ip, bh);
		buf_put(bh);
	}
	gfs2_glops_end(ip);
	return error;
}

int inode_go_held(struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gh->gh_gl;
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	int error = 0;

	if (!ip)
		return 0;
	if (gh->gh_state != LM_ST_DEFERRED)
		inode_dio_wait(ip);
	if (gh->gh_state == LM_ST_EXCLUSIVE && !(gh->gh_flags & GL_SKIP) && ip->i_valid &&
	    (ip->i_diskflags & GFS2_DIF_TRUNC_IN_PROG) && ip->i_sbd->sd_log &&
	    glock_state(gl) == LM_ST_EXCLUSIVE)
		error = gfs2_truncate_resume(ip);
	gfs2_glops_end(ip);
	return error;
}

struct inode_numbers {
	uint64_t formal, size;
	uint32_t mode, diskflags;
};

/* Without a holder: numbers that are just being changed may be shown, as in the kernel, of which the thread sanitizer need not tell. */
static __attribute__((noinline, no_sanitize("thread"))) struct inode_numbers look_without_lock(const struct gfs2_inode *ip)
{
	return (struct inode_numbers){ ip->i_no_formal_ino, ip->i_size, ip->i_mode, ip->i_diskflags };
}

void inode_go_dump(struct gfs2_glock *gl, FILE *out)
{
	struct gfs2_inode *ip = gfs2_glops_begin(gl);
	struct inode_numbers is;

	if (ip) {
		is = look_without_lock(ip);
		fprintf(out, " I: n:%" PRIu64 "/%" PRIu64 " t:%u f:0x00 d:0x%08x s:%" PRIu64 " p:%u\n",
			is.formal, ip->i_no_addr, IFTODT(is.mode), is.diskflags, is.size,
			atomic_load_explicit(&ip->i_data.m_nr, memory_order_relaxed));
	}
	gfs2_glops_end(ip);
}

void iopen_go_dump(struct gfs2_glock *gl, FILE *out)
{
	struct gfs2_glock *inode = gfs2_glock_find(gl->gl_table, LM_TYPE_INODE, gl->gl_number);

	if (!inode)
		return;
	inode_go_dump(inode, out);
	gfs2_glock_put(inode);
}

/* --- direct I/O in flight --- */

void inode_dio_begin(struct gfs2_inode *ip)
{
	/*
	 * relaxed: the submitter has a holder, and whoever waits has excluded new ones through
	 * the glock
	 */
	atomic_fetch_add_explicit(&ip->i_dio_count, 1, memory_order_relaxed);
}

void inode_dio_end(struct gfs2_inode *ip)
{
	/* release: what the I/O did is visible to who sees the count drop */
	if (atomic_fetch_sub_explicit(&ip->i_dio_count, 1, memory_order_release) != 1)
		return;
	rmutex_lock(&ip->i_lock);
	rcond_broadcast(&ip->i_dio_wait);
	rmutex_unlock(&ip->i_lock);
}

void inode_dio_wait(struct gfs2_inode *ip)
{
	if (!atomic_load_explicit(&ip->i_dio_count, memory_order_acquire))
		return;
	rmutex_lock(&ip->i_lock);
	while (atomic_load_explicit(&ip->i_dio_count, memory_order_acquire))
		rcond_wait(&ip->i_dio_wait, &ip->i_lock);
	rmutex_unlock(&ip->i_lock);
}
