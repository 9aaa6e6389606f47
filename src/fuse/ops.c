/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers for names and attributes.  Node ids are gfs2_node_id() (the root's is FUSE_ROOT_ID); an id is only believed while the
 * kernel holds a lookup on it, and means the inode that was looked up: if another one is in its block now the answer is ESTALE.
 */
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include "fs/evict_later.h"
#include "fs/file.h"
#include "fs/namei.h"
#include "fuse/ops.h"
#include "util/ctx.h"
#include "util/util.h"

struct server *op_begin(fuse_req_t req)
{
	struct server *s = fuse_req_userdata(req);
	const struct fuse_ctx *fc = fuse_req_ctx(req);
	struct gfs2_ctx *c = current_ctx();

	/* c->req was set by the receive loop */
	c->pid = fc->pid;
	c->uid = fc->uid;
	c->gid = fc->gid;
	c->umask = fc->umask;
	return s;
}

static void reply_err(fuse_req_t req, int error)
{
	fuse_reply_err(req, error < 0 ? -error : error);
}

struct gfs2_inode *server_inode(struct server *s, fuse_ino_t ino)
{
	if (ino == FUSE_ROOT_ID)
		return gfs2_inode_hold(s->sdp->sd_root);
	return gfs2_inode_by_node(s->sdp, ino);
}

fuse_ino_t server_node(struct server *s, struct gfs2_inode *ip)
{
	return ip == s->sdp->sd_root ? FUSE_ROOT_ID : gfs2_node_id(ip->i_no_addr, gfs2_formal_ino(ip));
}

void fill_entry(struct server *s, struct gfs2_inode *ip, const struct stat *st,
		struct fuse_entry_param *e)
{
	memset(e, 0, sizeof(*e));
	e->ino = server_node(s, ip);
	e->generation = ip->i_no_formal_ino;
	e->attr = *st;
	tell_size(ip, (uint64_t)st->st_size);
	e->attr_timeout = s->timeout;
	e->entry_timeout = s->timeout;
}

int inode_stat(struct gfs2_inode *ip, struct stat *st)
{
	struct gfs2_holder gh;
	int error = gfs2_inode_nq_any(ip, &gh);

	if (error)
		return error;
	gfs2_getattr(ip, st);
	gfs2_glock_dq_uninit(&gh);
	return 0;
}

/* Answer with an entry and pass @ip's reference on to the kernel's lookup count. */
static void reply_entry(fuse_req_t req, struct server *s, struct gfs2_inode *ip,
			const struct stat *st)
{
	struct fuse_entry_param e;

	fill_entry(s, ip, st, &e);
	gfs2_inode_lookup_inc(ip);
	if (fuse_reply_entry(req, &e))
		gfs2_inode_forget(ip, 1); /* the caller is gone: the kernel never learnt of it */
	gfs2_inode_put(ip);
}

/*
 * A file handle is opened (open_by_handle_at, NFS) whose inode the kernel has not in memory: it asks for "." of the node id,
 * which need not be a directory's, and compares the generation itself.
 */
static void lookup_handle(fuse_req_t req, struct server *s, fuse_ino_t ino)
{
	struct gfs2_inode *ip;
	struct stat st;
	int error = gfs2_lookup_by_addr(s->sdp, ino == FUSE_ROOT_ID ? s->sdp->sd_root_addr : gfs2_node_addr(ino), &ip, &st);

	if (error) {
		reply_err(req, error);
	} else if (server_node(s, ip) != ino) {
		gfs2_inode_put(ip);
		reply_err(req, -ESTALE);
	} else {
		reply_entry(req, s, ip, &st);
	}
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *dip, *ip;
	struct stat st;
	int error;

	if (!strcmp(name, ".")) {
		lookup_handle(req, s, parent);
		return;
	}
	dip = server_inode(s, parent);
	if (!dip) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	error = gfs2_lookup(dip, name, &ip, &st);
	gfs2_inode_put(dip);
	if (error == -ENOENT) {
		struct fuse_entry_param e = { .entry_timeout = s->timeout };

		fuse_reply_entry(req, &e); /* a negative entry that the kernel may keep */
	} else if (error) {
		reply_err(req, error);
	} else {
		reply_entry(req, s, ip, &st);
	}
}

static void forget_one(struct server *s, fuse_ino_t ino, uint64_t nlookup)
{
	if (ino != FUSE_ROOT_ID)
		gfs2_inode_forget_node(s->sdp, ino, nlookup);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	forget_one(op_begin(req), ino, nlookup);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct server *s = op_begin(req);

	for (size_t i = 0; i < count; i++)
		forget_one(s, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	struct stat st;
	int error = ip ? inode_stat(ip, &st) : -ESTALE;

	if (!error)
		tell_size(ip, (uint64_t)st.st_size);
	gfs2_inode_put(ip);
	if (error)
		reply_err(req, error);
	else
		fuse_reply_attr(req, &st, s->timeout);
}

/*
 * What there is to set.  What else the kernel says depends on who asks (FATTR_KILL_SUIDGID: anybody without CAP_FSETID), and what libfuse
 * passes on of that on its version.
 */
#define SET_ATTRS (FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW | FATTR_CTIME)

static int set_size(struct server *s, struct gfs2_inode *ip, off_t size, int to_set, struct fuse_file_info *fi)
{
	uint64_t eof[2];

	if (size < 0)
		return -EINVAL;
	if (fi && to_set == FUSE_SET_ATTR_SIZE && s->sdp->sd_lm->lm_has_peers) {
		struct gfs2_file *f = fi_file(fi);
		bool undoes = file_undoes(s, f, (uint64_t)size, eof);

		handle_out(f);
		if (undoes)
			return gfs2_setattr_size_undo(ip, (uint64_t)size, eof[0], eof[1]);
	}
	return gfs2_setattr_size(ip, (uint64_t)size);
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	struct stat st;
	int error = ip ? 0 : -ESTALE;

	to_set &= SET_ATTRS;
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		attr->st_atim = current_time();
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		attr->st_mtim = current_time();
	if (!error && to_set & FUSE_SET_ATTR_SIZE)
		error = set_size(s, ip, attr->st_size, to_set, fi);
	/* The kernel drops its pages if the size was another one than it believes. */
	if (ip && to_set & FUSE_SET_ATTR_SIZE && s->sdp->sd_lm->lm_has_peers)
		inval_pages(s, ip, 0, 0);
	if (!error && to_set & FUSE_SET_ATTR_SIZE && current_ctx()->flags & FATTR_KILL_SUIDGID)
		error = min_t(int, gfs2_remove_privs(ip, true), 0);
	/* Nothing to set: chown(-1, -1), or what comes before a write that takes setuid away. */
	if (!error && to_set != FUSE_SET_ATTR_SIZE)
		error = gfs2_setattr(ip, attr, to_set & ~FUSE_SET_ATTR_SIZE);
	if (!error)
		error = inode_stat(ip, &st);
	if (!error)
		tell_size(ip, (uint64_t)st.st_size);
	gfs2_inode_put(ip);
	if (error)
		reply_err(req, error);
	else
		fuse_reply_attr(req, &st, s->timeout);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	char target[4096];
	int error = ip ? gfs2_readlink(ip, target, sizeof(target)) : -ESTALE;

	gfs2_inode_put(ip);
	if (error < 0)
		reply_err(req, error);
	else
		fuse_reply_readlink(req, target);
}

/* --- creation --- */

static void create_args(struct gfs2_create_args *a, fuse_req_t req, mode_t mode)
{
	const struct fuse_ctx *fc = fuse_req_ctx(req);

	*a = (struct gfs2_create_args){ .mode = mode, .umask = fc->umask, .uid = fc->uid,
					.gid = fc->gid, .excl = true };
}

static void make_node(fuse_req_t req, struct server *s, fuse_ino_t parent, const char *name,
		      const struct gfs2_create_args *a)
{
	struct gfs2_inode *dip = server_inode(s, parent), *ip;
	struct stat st;
	int error = dip ? gfs2_create(dip, name, a, &ip, &st) : -ESTALE;

	gfs2_inode_put(dip);
	if (error)
		reply_err(req, error);
	else
		reply_entry(req, s, ip, &st);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct server *s = op_begin(req);
	struct gfs2_create_args a;

	create_args(&a, req, mode);
	a.major = major(rdev);
	a.minor = minor(rdev);
	make_node(req, s, parent, name, &a);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct server *s = op_begin(req);
	struct gfs2_create_args a;

	create_args(&a, req, S_IFDIR | (mode & 07777));
	make_node(req, s, parent, name, &a);
}

void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	struct server *s = op_begin(req);
	struct gfs2_create_args a;

	create_args(&a, req, S_IFLNK | 0777);
	a.symlink = link;
	make_node(req, s, parent, name, &a);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino), *dip = server_inode(s, newparent);
	struct stat st;
	int error = ip && dip ? gfs2_link(ip, dip, newname, &st) : -ESTALE;

	gfs2_inode_put(dip);
	if (!error) {
		reply_entry(req, s, ip, &st);
		return;
	}
	gfs2_inode_put(ip);
	reply_err(req, error);
}

/* --- removal, renaming --- */

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *dip = server_inode(s, parent);
	int error = dip ? gfs2_unlink(dip, name) : -ESTALE;

	gfs2_inode_put(dip);
	reply_err(req, error);
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *dip = server_inode(s, parent);
	int error = dip ? gfs2_rmdir(dip, name) : -ESTALE;

	gfs2_inode_put(dip);
	reply_err(req, error);
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	       const char *newname, unsigned flags)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *odip = server_inode(s, parent), *ndip = server_inode(s, newparent);
	int error = odip && ndip ? gfs2_rename(odip, name, ndip, newname, flags) : -ESTALE;

	gfs2_inode_put(odip);
	gfs2_inode_put(ndip);
	reply_err(req, error);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct server *s = op_begin(req);
	struct gfs2_statfs_host sc;
	struct statvfs sv = { 0 };

	/* Whoever has removed files wants to see their space. */
	gfs2_evict_wait(s->sdp);
	gfs2_statfs_get(s->sdp, &sc);
	sv.f_bsize = sv.f_frsize = s->sdp->sd_bsize;
	sv.f_blocks = (fsblkcnt_t)sc.total;
	sv.f_bfree = sv.f_bavail = (fsblkcnt_t)sc.free;
	sv.f_files = (fsfilcnt_t)(sc.dinodes + sc.free);
	sv.f_ffree = sv.f_favail = (fsfilcnt_t)sc.free;
	sv.f_namemax = 255;
	fuse_reply_statfs(req, &sv);
}
