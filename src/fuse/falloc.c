/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers for what is asked of files beside reading and writing: fallocate, lseek, inode flags, and of the volume through them: label, fstrim.
 */
#include <string.h>
#include <sys/ioctl.h>
#include "fs/falloc.h"
#include "fs/file.h"
#include "fs/fileattr.h"
#include "fs/rgrp.h"
#include "fuse/ops.h"
#include "util/ctx.h"

static void reply_err(fuse_req_t req, int64_t error)
{
	fuse_reply_err(req, (int)-error);
}

/*
 * Without other nodes the kernel's pages need no care: for what was punched the client drops them itself, and preallocated blocks
 * are the zeros that were there before.  With them, what it has behind the end that it believes in may have been data.
 */
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
		  struct fuse_file_info *fi)
{
	struct file_view f = fi_view(fi);
	struct server *s = op_begin(req);
	int error;

	if (offset < 0 || length <= 0)
		error = -EINVAL;
	else
		error = gfs2_fallocate(f.inode, mode, (uint64_t)offset, (uint64_t)length,
				       f.sync);
	if (s->sdp->sd_lm->lm_has_peers)
		inval_pages(s, f.inode, 0, 0);
	/* The request does not say who may keep suid and sgid bits; root may. */
	if (!error && gfs2_remove_privs(f.inode, current_ctx()->uid != 0) > 0)
		inval_mode(s, f.inode);
	reply_err(req, error);
}

/* SEEK_DATA and SEEK_HOLE only: the kernel answers the others. */
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	int64_t ret;

	op_begin(req);
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		ret = -EINVAL;
	else if (off < 0)
		ret = -ENXIO;
	else
		ret = gfs2_seek(fi_view(fi).inode, (uint64_t)off, whence == SEEK_DATA);
	if (ret < 0)
		reply_err(req, ret);
	else
		fuse_reply_lseek(req, (off_t)ret);
}

/* --- inode flags --- */

static int set_flags(struct server *s, struct gfs2_inode *ip, uint32_t flags)
{
	int error = gfs2_fileattr_set(ip, flags);

	/* ctime has changed, and the kernel does not know. */
	if (!error)
		fuse_lowlevel_notify_inval_inode(s->se, server_node(s, ip), -1, 0);
	return error;
}

/* What the kernel's fileattr sends: fs/ioctl.c has checked who may. */
static int fileattr_ioctl(struct server *s, struct gfs2_inode *ip, unsigned cmd, const void *in,
			  size_t in_size, struct fsxattr *fa, uint32_t *flags)
{
	uint32_t now;
	int error;

	switch (cmd) {
	case FS_IOC_SETFLAGS:
		if (in_size < sizeof(*flags))
			return -EINVAL;
		memcpy(flags, in, sizeof(*flags));
		return set_flags(s, ip, *flags);
	case FS_IOC_FSSETXATTR:
		if (in_size < sizeof(*fa))
			return -EINVAL;
		memcpy(fa, in, sizeof(*fa));
		error = gfs2_fileattr_get(ip, &now);
		if (!error)
			error = gfs2_fsxattr_to_flags(fa, now, flags);
		return error ? error : set_flags(s, ip, *flags);
	case FS_IOC_GETFLAGS:
		return gfs2_fileattr_get(ip, flags);
	case FS_IOC_FSGETXATTR:
		error = gfs2_fileattr_get(ip, flags);
		fa->fsx_xflags = gfs2_flags_to_xflags(*flags);
		return error;
	}
	return -ENOTTY;
}

static bool interrupted(void *req)
{
	return fuse_req_interrupted(req);
}

/* fs/gfs2/rgrp.c:gfs2_fitrim.  A request says nothing of capabilities; root has CAP_SYS_ADMIN. */
static void fitrim(fuse_req_t req, struct server *s, const void *in, size_t in_size)
{
	struct gfs2_trim t = { .stop = interrupted, .arg = req };
	struct fstrim_range r;
	int error = -EINVAL;

	if (current_ctx()->uid) {
		reply_err(req, -EPERM);
		return;
	}
	if (in_size >= sizeof(r)) {
		memcpy(&r, in, sizeof(r));
		t.start = r.start;
		t.len = r.len;
		t.minlen = r.minlen;
		error = gfs2_fitrim(s->sdp, &t);
	}
	r.len = t.trimmed;
	if (error)
		reply_err(req, error);
	else
		fuse_reply_ioctl(req, 0, &r, sizeof(r));
}

void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
	      unsigned flags, const void *in_buf, size_t in_bufsz, size_t out_bufsz)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	struct fsxattr fa = { 0 };
	char label[FSLABEL_MAX] = "";
	uint32_t fl = 0;
	int error = -ESTALE;

	if (ip && cmd == FITRIM) {
		gfs2_inode_put(ip);
		fitrim(req, s, in_buf, in_bufsz);
		return;
	}
	if (ip && cmd == FS_IOC_GETFSLABEL) {
		/* fs/gfs2/file.c:gfs2_getlabel */
		memcpy(label, s->sdp->sd_label, sizeof(s->sdp->sd_label));
		error = 0;
	} else if (ip) {
		error = fileattr_ioctl(s, ip, cmd, in_buf, in_bufsz, &fa, &fl);
	}
	gfs2_inode_put(ip);
	if (error)
		reply_err(req, error);
	else if (cmd == FS_IOC_GETFLAGS && out_bufsz >= sizeof(fl))
		fuse_reply_ioctl(req, 0, &fl, sizeof(fl));
	else if (cmd == FS_IOC_FSGETXATTR && out_bufsz >= sizeof(fa))
		fuse_reply_ioctl(req, 0, &fa, sizeof(fa));
	else if (cmd == FS_IOC_GETFSLABEL && out_bufsz >= sizeof(label))
		fuse_reply_ioctl(req, 0, label, sizeof(label));
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
}
