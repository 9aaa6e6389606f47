/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers for extended attributes.
 *
 * The kernel sends everything here, names of all spaces; permission was checked by its VFS.  It never
 * gets ENOSYS, after which it would ask no more.  ACLs it caches itself, and forgets them with the
 * attributes of the inode (setattr, setxattr, and our notification).
 */
#include <stdlib.h>
#include "fs/xattr.h"
#include "fuse/ops.h"
#include "util/ctx.h"
#include "util/util.h"

/* The kernel's limits (XATTR_SIZE_MAX, XATTR_LIST_MAX). */
#define MAX_REPLY 65536

static void reply_result(fuse_req_t req, ssize_t ret, const char *buf, size_t size)
{
	if (ret < 0)
		fuse_reply_err(req, (int)-ret);
	else if (!size)
		fuse_reply_xattr(req, (size_t)ret);
	else
		fuse_reply_buf(req, buf, (size_t)ret);
}

/* Memory for a reply of up to @size bytes: the worker's own, which is larger. */
static char *reply_buffer(size_t *size)
{
	if (*size > MAX_REPLY)
		*size = MAX_REPLY;
	return pool_buffer();
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	char *buf = reply_buffer(&size);
	ssize_t ret = !ip ? -ESTALE : !buf ? -ENOMEM : gfs2_getxattr(ip, name, buf, size);

	gfs2_inode_put(ip);
	reply_result(req, ret, buf, size);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	char *buf = reply_buffer(&size);
	ssize_t ret = !ip ? -ESTALE : !buf ? -ENOMEM : gfs2_listxattr(ip, buf, size);

	gfs2_inode_put(ip);
	reply_result(req, ret, buf, size);
}

/*
 * FUSE_SETXATTR_EXT: the kernel says whether setting an ACL costs the setgid bit.  A kernel that does
 * not is answered as if it did, unless root asks: too few rights rather than too many.
 */
static bool kills_sgid(const struct server *s)
{
	if (s->init_flags & FUSE_SETXATTR_EXT)
		return current_ctx()->flags & FUSE_SETXATTR_ACL_KILL_SGID;
	return current_ctx()->uid != 0;
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	int error = ip ? gfs2_setxattr(ip, name, value, size, flags, kills_sgid(s)) : -ESTALE;

	gfs2_inode_put(ip);
	fuse_reply_err(req, -error);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);
	int error = ip ? gfs2_removexattr(ip, name) : -ESTALE;

	gfs2_inode_put(ip);
	fuse_reply_err(req, -error);
}
