/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers for open files: open, read, write, sync, close.
 *
 * What the kernel may cache (design section 4).  lock_nolock: pages of files opened without O_DIRECT; they are dropped when
 * the file is written directly.  Files opened with O_DIRECT get FOPEN_DIRECT_IO and FOPEN_PARALLEL_DIRECT_WRITES.
 * With other nodes: pages of files opened for reading only (and what is mapped privately), for as long as the glock is held in SH or EX: they
 * are read under GL_FILL holders and dropped before it is given up (inode_go_drain()), and before this node itself changes the file
 * (gfs2_inode_nq_change()).
 * Notifications are sent while no glock is held: they wait for page locks that a READ of ours may own.
 */
#include <fcntl.h>
#include "fs/kdrop.h"
#include "fs/namei.h"
#include "fuse/locks.h"
#include "fuse/ops.h"
#include "util/ctx.h"
#include "util/seeded.h"
#include "util/util.h"

static void reply_err(fuse_req_t req, int64_t error)
{
	fuse_reply_err(req, (int)-error);
}

/* --- the kernel's pages --- */

void inval_pages(struct server *s, struct gfs2_inode *ip, uint64_t off, uint64_t len)
{
	if (gfs2_kernel_has_pages(ip) && !SEEDED_BUG("own-pages-kept"))
		fuse_lowlevel_notify_inval_inode(s->se, server_node(s, ip), (off_t)off, (off_t)len);
}

void stores_first(struct server *s, struct gfs2_inode *ip, uint64_t off, uint64_t len)
{
	if (stores_come_first(s, ip))
		fuse_lowlevel_notify_inval_inode(s->se, server_node(s, ip), (off_t)off, (off_t)len);
}

/*
 * Are these data for the page cache?  Reads past it, read(2) with FOPEN_DIRECT_IO, name the owner of locks (kernel: fuse_send_read());
 * who faults in a mapped page does not, however the file was opened.
 */
static bool fills_page(void)
{
	return !read_past_cache(current_ctx()->flags);
}

void inval_mode(struct server *s, struct gfs2_inode *ip)
{
	fuse_lowlevel_notify_inval_inode(s->se, server_node(s, ip), -1, 0);
}

/* May the caller of this WRITE not keep suid and sgid bits? */
static bool write_kills_suidgid(void)
{
	return current_ctx()->flags & FUSE_WRITE_KILL_SUIDGID;
}

/* --- open, create --- */

/* libfuse 3.14 has no field for FOPEN_PARALLEL_DIRECT_WRITES, so the reply is written by hand. */
static struct fuse_open_out open_out(const struct gfs2_file *f)
{
	struct fuse_open_out out = { .fh = (uint64_t)(uintptr_t)f };

	out.open_flags = f->f_direct ? FOPEN_DIRECT_IO : FOPEN_KEEP_CACHE;
	if (f->f_parallel)
		out.open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
	/*
	 * close(2) of a file with ordinary writes, which have their times, has nothing to tell us.  A round trip less; in a
	 * cluster it is also the moment at which locks of the file's owner go.
	 */
	if (!f->f_direct && !f->f_inode->i_sbd->sd_lm->lm_has_peers)
		out.open_flags |= FOPEN_NOFLUSH;
	/* The last use before RELEASE may come. */
	handle_out((void *)(uintptr_t)f);
	return out;
}

/* From now on the inode is in use, until file_close(). */
static void file_used(struct server *s, struct gfs2_file *f)
{
	gfs2_inode_open_inc(f->f_inode, !f->f_direct, f->f_rdwr);
	pthread_mutex_lock(&s->files_lock);
	list_add_tail(&f->f_list, &s->files);
	pthread_mutex_unlock(&s->files_lock);
}

static int file_open(struct server *s, struct gfs2_inode *ip, int flags, struct gfs2_file **out)
{
	struct gfs2_file *f;
	bool direct = flags & O_DIRECT, uncached = direct;
	struct gfs2_holder gh;
	uint32_t fills;
	int error = gfs2_inode_nq_any(ip, &gh);

	if (error)
		return error;
	if ((flags & O_ACCMODE) != O_RDONLY &&
	    (ip->i_diskflags & GFS2_DIF_IMMUTABLE ||
	     (ip->i_diskflags & GFS2_DIF_APPENDONLY && !(flags & O_APPEND))))
		error = -EPERM;
	else if (direct && gfs2_is_jdata(ip))
		error = -EINVAL; /* as gfs2: journaled data have no direct I/O */
	/* Nobody would ask us before a shared mapping changes what is there: there must be none. */
	if ((flags & O_ACCMODE) != O_RDONLY && ip->i_diskflags & GFS2_DIF_APPENDONLY)
		uncached = true;
	/* With other nodes nobody may write to the kernel's pages, by write(2) or through a shared mapping: we would be asked too late. */
	if ((flags & O_ACCMODE) != O_RDONLY && s->sdp->sd_lm->lm_has_peers)
		uncached = true;
	gfs2_glock_dq_uninit(&gh);
	if (error)
		return error;
	f = xzalloc(sizeof(*f));
	f->f_inode = ip;
	gfs2_stream_init(&f->f_stream);
	f->f_direct = uncached;
	f->f_parallel = direct;
	f->f_sync = flags & O_DSYNC;	/* O_SYNC contains it */
	f->f_rdwr = (flags & O_ACCMODE) == O_RDWR;
	atomic_init(&f->f_errors, mapping_errors(&ip->i_data));
	file_used(s, f);
	/* If nobody can put pages there any more: drop them once and direct writes need not care.  (In a cluster the lock knows: GL_FILL.) */
	if (uncached && gfs2_kernel_has_pages(ip) && gfs2_inode_uncache_begin(ip, &fills)) {
		fuse_lowlevel_notify_inval_inode(s->se, server_node(s, ip), 0, 0);
		gfs2_inode_uncache_end(ip, fills);
	}
	*out = f;
	return 0;
}

static void file_close(struct server *s, struct gfs2_file *f)
{
	pthread_mutex_lock(&s->files_lock);
	list_del_init(&f->f_list);
	pthread_mutex_unlock(&s->files_lock);
	gfs2_stream_close(s->sdp, &f->f_stream);
	gfs2_inode_open_dec(f->f_inode, !f->f_direct, f->f_rdwr);
	free(f->f_run);
	free(f);
}

uint64_t dir_opened(struct server *s, struct gfs2_inode *ip)
{
	struct gfs2_file *f = xzalloc(sizeof(*f));

	f->f_inode = ip;
	gfs2_stream_init(&f->f_stream);
	f->f_direct = true;
	file_used(s, f);
	handle_out(f);
	return (uint64_t)(uintptr_t)f;
}

void dir_closed(struct server *s, uint64_t fh)
{
	struct gfs2_file *f = (struct gfs2_file *)(uintptr_t)fh;

	handle_in(f);
	file_close(s, f);
}

void server_close_files(struct server *s)
{
	while (!list_empty(&s->files))
		file_close(s, list_first_entry(&s->files, struct gfs2_file, f_list));
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	struct fuse_open_out out;
	struct gfs2_file *f;
	int error = ip ? file_open(s, ip, fi->flags, &f) : -ESTALE;

	gfs2_inode_put(ip);
	if (error) {
		reply_err(req, error);
		return;
	}
	out = open_out(f);
	if (fuse_reply_buf(req, (char *)&out, sizeof(out)))
		file_close(s, f);
}

static uint32_t frac(double t)
{
	return (uint32_t)((t - (double)(uint64_t)t) * 1e9);
}

static void raw_attr(struct fuse_attr *a, const struct stat *st)
{
	*a = (struct fuse_attr){
		.ino = st->st_ino, .size = (uint64_t)st->st_size, .blocks = (uint64_t)st->st_blocks,
		.atime = (uint64_t)st->st_atim.tv_sec, .mtime = (uint64_t)st->st_mtim.tv_sec,
		.ctime = (uint64_t)st->st_ctim.tv_sec,
		.atimensec = (uint32_t)st->st_atim.tv_nsec, .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)st->st_ctim.tv_nsec,
		.mode = st->st_mode, .nlink = (uint32_t)st->st_nlink, .uid = st->st_uid,
		.gid = st->st_gid, .rdev = (uint32_t)st->st_rdev, .blksize = (uint32_t)st->st_blksize,
	};
}

static void reply_create(fuse_req_t req, struct server *s, struct gfs2_inode *ip,
			 const struct stat *st, struct gfs2_file *f)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { .open = open_out(f) };

	out.entry.nodeid = server_node(s, ip);
	out.entry.generation = ip->i_no_formal_ino;
	out.entry.entry_valid = out.entry.attr_valid = (uint64_t)s->timeout;
	out.entry.entry_valid_nsec = out.entry.attr_valid_nsec = frac(s->timeout);
	raw_attr(&out.entry.attr, st);
	gfs2_inode_lookup_inc(ip);
	if (fuse_reply_buf(req, (char *)&out, sizeof(out))) {
		file_close(s, f);
		gfs2_inode_forget(ip, 1);
	}
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	const struct fuse_ctx *fc = fuse_req_ctx(req);
	struct gfs2_create_args a = { .mode = S_IFREG | (mode & 07777), .umask = fc->umask, .uid = fc->uid,
				      .gid = fc->gid, .excl = fi->flags & O_EXCL };
	struct gfs2_inode *dip = server_inode(s, parent), *ip = NULL;
	struct gfs2_file *f;
	struct stat st;
	int error = dip ? gfs2_create(dip, name, &a, &ip, &st) : -ESTALE;

	gfs2_inode_put(dip);
	if (!error) {
		error = file_open(s, ip, fi->flags, &f);
		if (!error)
			reply_create(req, s, ip, &st, f);
		gfs2_inode_put(ip);
	}
	if (error)
		reply_err(req, error);
}

/* close(2) reports write-back errors that it can know of; the data themselves go out in the background. */
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct gfs2_inode *ip = fi_view(fi).inode;

	locks_flush(op_begin(req)->locks, ip->i_no_addr, fi->lock_owner);
	reply_err(req, gfs2_pending_mtime_publish_try(ip));
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);

	gfs2_pending_mtime_publish_try(fi_view(fi).inode);
	locks_release(s->locks, fi_file(fi));
	file_close(s, fi_file(fi));
	fuse_reply_err(req, 0);
}

/* As the kernel's errseq_t: everyone who had the file open is told once that data could not be written, whoever was told first. */
static bool file_error_untold(struct gfs2_file *f)
{
	uint64_t now = mapping_errors(&f->f_inode->i_data);

	return atomic_exchange_explicit(&f->f_errors, now, memory_order_relaxed) != now;
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	int error = ip ? gfs2_fsync(ip, datasync) : -ESTALE;

	if (ip && file_error_untold(fi_file(fi)) && !error)
		error = -EIO;
	gfs2_inode_put(ip);
	reply_err(req, error);
}

/* The directory may be one that has not been read since it was a remnant, and its handle is one only with other nodes. */
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	int error = ip ? gfs2_fsync(ip, datasync) : -ESTALE;

	gfs2_inode_put(ip);
	reply_err(req, error);
}

/* --- read --- */

static void dio_init(struct gfs2_dio *dio, struct server *s, struct gfs2_inode *ip, bool write,
		     char *buf, uint64_t pos, size_t size, int flags)
{
	dio->ip = ip;
	dio->ring = pool_ring(s->sdp);
	dio->buf = buf;
	dio->buf_index = -1; /* registered with the receive thread's ring, not with ours */
	dio->write = write;
	dio->dsync = flags & O_DSYNC;
	dio->kill_suidgid = write && write_kills_suidgid();
	dio->pos = pos;
	dio->len = (uint32_t)size;
	dio->send = NULL;
}

/* The answer to a read, from where the store has the data. */
static int read_send(struct gfs2_dio *dio, const struct iovec *iov, unsigned nr)
{
	int error = fuse_reply_iov((fuse_req_t)dio->priv, iov, (int)nr);

	/* The caller was interrupted and wants no answer. */
	return error == -ENOENT ? 0 : error;
}

/* *@answered: the request is, whatever comes back. */
static int64_t read_direct(fuse_req_t req, struct server *s, struct gfs2_inode *ip, char *buf, uint64_t pos,
			   size_t size, int flags, uint64_t *done_ns, bool *answered)
{
	struct gfs2_dio dio;
	int64_t ret = gfs2_dio_check_align(s->sdp, pos, (uint32_t)size);

	if (ret) {
		gfs2_dio_count(ip, DIO_MISALIGNED);
		return ret;
	}
	dio_init(&dio, s, ip, false, buf, pos, size, flags);
	if (!dio.ring)
		return -ENOMEM;
	/* The file may be closed as soon as the answer is out; then the last reference is ours, and letting it go may take long. */
	if (!pool_rescues())
		dio.send = read_send;
	dio.priv = req;
	gfs2_inode_hold(ip);
	ret = gfs2_dio_run(&dio);
	gfs2_inode_put(ip);
	*done_ns = dio.done_ns;
	*answered = dio.was_sent;
	return ret;
}

static int64_t read_buffered(struct file_view f, char *buf, uint64_t pos, size_t size,
			     uint32_t *skip, bool fill)
{
	struct gfs2_inode *ip = f.inode;
	struct gfs2_holder gh;
	struct gfs2_range range = { pos, pos + size };
	int64_t ret = fill && ip->i_sbd->sd_lm->lm_has_peers ?
			      gfs2_inode_nq_fill(ip, &range, &gh) :
			      gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);

	if (ret)
		return ret;
	/* Cached once: by the kernel where it may, else here. */
	if (f.direct && !fill)
		ret = gfs2_file_read_cached(ip, buf, pos, (uint32_t)size, skip);
	else
		ret = gfs2_file_read(ip, buf, pos, (uint32_t)size, skip);
	gfs2_glock_dq_uninit(&gh);
	return ret;
}

/*
 * Alone, for the kernel's pages, and large: if the store is memory the answer is sent from there.  Its lock is held until it has been;
 * the file may be closed then.
 */
static int64_t read_pages(fuse_req_t req, struct server *s, struct gfs2_inode *ip, char *buf, uint64_t pos, size_t size,
			  bool *answered)
{
	struct gfs2_pieces pieces;
	struct gfs2_holder gh;
	int64_t ret = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);

	if (ret)
		return ret;
	gfs2_inode_hold(ip);
	ret = gfs2_file_read_pieces(ip, buf, pos, (uint32_t)size, &pieces);
	if (ret >= 0) {
		/* The caller may have been interrupted, and want no answer; of a store that has been cut short the kernel makes an error. */
		fuse_reply_iov(req, pieces.iov, (int)pieces.nr);
		*answered = true;
	}
	gfs2_glock_dq_uninit(&gh);
	/* From now on the kernel has them. */
	for (unsigned i = 0; pieces.in_store && i < pieces.nr; i++)
		io_in_place_done(s->sdp->sd_io, pieces.iov[i].iov_base, pieces.iov[i].iov_len);
	gfs2_inode_put(ip);
	return ret;
}

/* A file on a device that is read in sequence, for the kernel's pages?  (The rescuer of the workers never waits for others' I/O.) */
static bool reads_stream(struct server *s, const struct fuse_file_info *fi)
{
	struct gfs2_file *f = fi_file(fi);
	bool yes = s->sdp->sd_ahead && !(fi->flags & O_DIRECT) && !f->f_direct && !pool_rescues() && gfs2_stream_runs(&f->f_stream);

	handle_out(f);
	return yes;
}

/* What comes next is read ahead. */
static int64_t read_stream(fuse_req_t req, struct server *s, struct gfs2_file *f, char *buf, uint64_t pos, size_t size, bool *answered)
{
	struct gfs2_inode *ip = f->f_inode;
	struct gfs2_ahead_plan plan;
	struct gfs2_ahead_hit hit;
	struct gfs2_holder gh;
	uint32_t skip;
	int64_t ret = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);

	if (ret) {
		handle_out(f);
		return ret;
	}
	gfs2_inode_hold(ip);
	if (!gfs2_ahead_get(ip, &f->f_stream, pos, (uint32_t)size, &hit))
		ret = gfs2_file_read(ip, buf, pos, (uint32_t)size, &skip);
	gfs2_ahead_plan(ip, &f->f_stream, (uint32_t)size, &plan);
	/* The file may be closed as soon as the answer is out. */
	handle_out(f);
	if (hit.nr)
		fuse_reply_iov(req, hit.iov, (int)hit.nr);
	else if (ret >= 0)
		fuse_reply_buf(req, buf + skip, (size_t)ret);
	else
		reply_err(req, ret);
	gfs2_ahead_start(ip, &plan);
	gfs2_glock_dq_uninit(&gh);
	gfs2_ahead_put(s->sdp, &hit);
	gfs2_inode_put(ip);
	*answered = true;
	return ret;
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = fi_view(fi).inode;
	char *buf = pool_buffer();
	uint64_t done_ns = 0;
	uint32_t skip = 0;
	bool answered = false, fill = fills_page();
	int64_t ret;

	if (size > RX_MAX_WRITE)
		size = RX_MAX_WRITE;
	if (off >= 0 && !fill)
		stores_first(s, ip, (uint64_t)off, size);
	/* A private mapping: direct writes did not know. */
	if (fill && fi_view(fi).direct && !s->sdp->sd_lm->lm_has_peers)
		gfs2_inode_kernel_fills(ip);
	if (!buf)
		ret = -ENOMEM;
	else if (off < 0)
		ret = -EINVAL;
	else if (!(fi->flags & O_DIRECT) && !s->sdp->sd_lm->lm_has_peers && !fi_view(fi).direct &&
		 size > io_quick_max(s->sdp->sd_io) && !pool_rescues())
		ret = read_pages(req, s, ip, buf, (uint64_t)off, size, &answered);
	else if (reads_stream(s, fi))
		ret = read_stream(req, s, fi_file(fi), buf, (uint64_t)off, size, &answered);
	else if (fi->flags & O_DIRECT && !fill)
		ret = read_direct(req, s, ip, buf, (uint64_t)off, size, fi->flags, &done_ns, &answered);
	else
		ret = read_buffered(fi_view(fi), buf, (uint64_t)off, size, &skip, fill);
	if (!answered && ret < 0)
		reply_err(req, ret);
	else if (!answered)
		fuse_reply_buf(req, buf + skip, (size_t)ret);
	gfs2_dio_replied(s->sdp, done_ns);
}

/* --- write --- */

static int64_t write_direct(struct server *s, struct gfs2_inode *ip, const char *buf, uint64_t pos,
			    size_t size, int flags, uint64_t eof[2], uint64_t *done_ns)
{
	struct gfs2_dio dio;
	int64_t ret = gfs2_dio_check_align(s->sdp, pos, (uint32_t)size);

	if (ret) {
		gfs2_dio_count(ip, DIO_MISALIGNED);
		return ret;
	}
	/* Writes only read from the buffer. */
	dio_init(&dio, s, ip, true, (char *)(uintptr_t)buf, pos, size, flags);
	if (!dio.ring)
		return -ENOMEM;
	ret = gfs2_dio_run(&dio);
	*done_ns = dio.done_ns;
	eof[0] = dio.eof[0];
	eof[1] = dio.eof[1];
	if (dio.killed)
		inval_mode(s, ip);
	/* Also when a part of it failed. */
	inval_pages(s, ip, pos, size);
	return ret;
}

/* EX held.  A direct write is all or nothing, as in dio/rest.c. */
static int64_t write_locked(struct gfs2_inode *ip, const char *buf, uint64_t pos, size_t size, bool direct)
{
	const struct gfs2_fill fill = { buf, pos, (uint32_t)size };
	int error;

	if (!direct || atomic_load_explicit(&ip->i_sbd->sd_dio_rest, memory_order_relaxed) == DIO_REST_BUFFERED)
		return gfs2_file_write(ip, buf, pos, (uint32_t)size, false);
	error = gfs2_file_write_through(ip, &fill, 1);
	return error ? error : (int64_t)size;
}

/* EX held: at @pos, and the @tail bytes that are there behind it.  All of it, or an error. */
static int64_t write_before(struct gfs2_inode *ip, const char *buf, uint64_t pos, size_t size, uint64_t tail, bool direct)
{
	char *all = malloc(size + tail), *piece = aligned_alloc(4096, RX_MAX_WRITE + 4 * 4096);
	int64_t ret = all && piece ? 0 : -ENOMEM;
	uint32_t skip;

	for (uint64_t done = 0; done < tail && ret >= 0; done += (uint64_t)ret) {
		ret = gfs2_file_read(ip, piece, pos + done, (uint32_t)min_t(uint64_t, tail - done, RX_MAX_WRITE), &skip);
		if (!ret)
			ret = -EIO;
		if (ret > 0)
			memcpy(all + size + done, piece + skip, (size_t)ret);
	}
	if (ret >= 0) {
		memcpy(all, buf, size);
		if (direct)
			ret = write_locked(ip, all, pos, size + tail, true);
		else
			ret = gfs2_file_write_all(ip, all, pos, (uint32_t)(size + tail));
		if (ret >= 0)
			ret = (int64_t)size;
	}
	free(piece);
	free(all);
	return ret;
}

/* EX held, and the caller's rights are.  *@where: there. */
static int64_t append_locked(struct server *s, struct gfs2_file *f, struct written *w, struct gfs2_inode *ip, const char *buf,
			     uint64_t *where, bool direct)
{
	uint64_t tail, size = ip->i_size;
	int64_t ret = append_where(s, f, w, size, &tail);

	if (ret < 0)
		return ret;
	*where = (uint64_t)ret;
	ret = tail ? write_before(ip, buf, *where, w->size, tail, direct) : write_locked(ip, buf, *where, w->size, direct);
	append_placed(s, f, w, *where, tail, ip->i_size - size);
	return ret;
}

/*
 * @writepage: a page of a shared mapping; nobody calls write(2), so no rights are lost.  @append: at the end of the file, and *@where
 * becomes that.  @w: its eof becomes how long the file was before and is after it.
 */
static int64_t write_buffered(struct server *s, struct gfs2_inode *ip, const char *buf,
			      uint64_t *where, size_t size, int flags, struct gfs2_file *append, bool writepage,
			      struct written *w)
{
	uint64_t pos;
	bool sync = flags & O_DSYNC, full_sync = flags & (O_SYNC & ~O_DSYNC);
	struct gfs2_holder gh;
	uint64_t errors;
	int64_t ret;
	bool killed;

	ret = gfs2_inode_nq_change(ip, &gh, __func__);
	if (ret)
		return ret;
	w->eof[0] = ip->i_size;
	errors = mapping_errors(&ip->i_data);
	if (append && !SEEDED_BUG("append-where-believed"))
		*where = ip->i_size;
	pos = *where;
	/* O_APPEND may have been taken away with F_SETFL, which the kernel would refuse if it knew. */
	if (ip->i_diskflags & GFS2_DIF_APPENDONLY && pos < ip->i_size && !writepage)
		ret = -EPERM;
	else if (!writepage)
		ret = gfs2_remove_privs_locked(ip, write_kills_suidgid());
	killed = ret > 0;
	if (ret >= 0)
		ret = append && pos == ip->i_size ? append_locked(s, append, w, ip, buf, where, flags & O_DIRECT)
						  : write_locked(ip, buf, pos, size, false);
	/* The kernel does not look how many bytes of its pages have been written: who calls fsync is to be told that not all have. */
	if (writepage && ret >= 0 && (uint64_t)ret < size)
		ret = gfs2_file_write_all(ip, buf + ret, pos + (uint64_t)ret, (uint32_t)(size - (size_t)ret));
	if (writepage && !ret)
		ret = (int64_t)size;
	if (ip->i_diskflags & GFS2_DIF_SYNC && !writepage)
		sync = full_sync = true;
	w->eof[1] = ip->i_size;
	gfs2_glock_dq_uninit(&gh);
	if (killed)
		inval_mode(s, ip);
	if (ret > 0 && sync) {
		int error = gfs2_file_sync(ip, !full_sync);

		if (!error)
			error = mapping_failed_since(&ip->i_data, errors);
		if (error)
			ret = error;
	}
	return ret;
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	      struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	uint64_t pos = (uint64_t)off;
	struct written w = { .off = pos, .size = (uint32_t)size, .append = fi->flags & O_APPEND };
	/* The kernel's offset is the end that it believes in, and it takes back what fails. */
	struct gfs2_file *with_peers = s->sdp->sd_lm->lm_has_peers && !fi->writepage ? fi_file(fi) : NULL;
	bool direct = fi->flags & O_DIRECT && write_past_cache(current_ctx()->flags);
	struct gfs2_inode *ip;
	uint64_t done_ns = 0;
	int64_t ret;

	/* Write-back of shared mappings comes with any file handle of the inode. */
	ip = fi->writepage ? server_inode(s, ino) : gfs2_inode_hold(fi_view(fi).inode);
	if (!ip) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	if (off >= 0 && write_past_cache(current_ctx()->flags))
		stores_first(s, ip, pos, size);
	if (with_peers)
		file_writes(s, with_peers, &w);
	if (s->sdp->sd_ro)
		ret = -EROFS;
	else if (off < 0)
		ret = -EINVAL;
	else if (with_peers && fi->flags & O_APPEND)
		/* Past the end nothing is written directly; but durable it is. */
		ret = write_buffered(s, ip, buf, &pos, size, fi->flags | (fi->flags & O_DIRECT ? O_DSYNC : 0), with_peers, false, &w);
	else if (direct)
		ret = write_direct(s, ip, buf, (uint64_t)off, size, fi->flags, w.eof, &done_ns);
	else
		ret = write_buffered(s, ip, buf, &pos, size, fi->flags, NULL, fi->writepage, &w);
	/* Went past the kernel's pages: older kernels leave stale ones there. */
	if (ret && !direct && write_past_cache(current_ctx()->flags))
		inval_pages(s, ip, pos, size);
	if (with_peers) {
		/* Went before later pieces, which somebody may have read where they were. */
		if (fi->flags & O_APPEND && ret > 0 && pos < w.eof[0])
			inval_pages(s, ip, pos, 0);
		w.ret = ret;
		file_written(s, with_peers, &w);
		handle_out(with_peers);
		if (ret > 0)
			tell_written(ip, (uint64_t)off + (uint64_t)ret);
	}
	gfs2_inode_put(ip);
	if (ret < 0)
		reply_err(req, ret);
	else
		fuse_reply_write(req, (size_t)ret);
	gfs2_dio_replied(s->sdp, done_ns);
}
