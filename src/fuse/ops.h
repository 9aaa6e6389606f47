/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Request handlers, called by libfuse on workers.  Each answers its request exactly once; none holds a glock when it answers.
 */
#ifndef GFS2FUSE_OPS_H
#define GFS2FUSE_OPS_H

#include "fuse/server.h"
#include "util/util.h"

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	       const char *newname, unsigned flags);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	      struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
		  struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
	      unsigned flags, const void *in_buf, size_t in_bufsz, size_t out_bufsz);
/* xattr.c */
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* --- shared by the handlers --- */
/* The inode of a node id, +1 reference; NULL, which is ESTALE, if another node has deleted it (or the kernel never looked it up). */
struct gfs2_inode *server_inode(struct server *s, fuse_ino_t ino);
/* The node id of an inode that the kernel has looked up or is being told of. */
fuse_ino_t server_node(struct server *s, struct gfs2_inode *ip);
/*
 * What the kernel has of the file's pages is no more what is there (len 0: to the end); nothing if it has none.  Sleeps until READs
 * that have such pages locked are answered: no glock may be held.
 */
void inval_pages(struct server *s, struct gfs2_inode *ip, uint64_t off, uint64_t len);
/*
 * Before anything goes past the kernel's pages: what has been stored into a shared mapping is on its way first, as with gfs2.  From Linux 6.18
 * on (protocol 7.45) the kernel's client writes these pages back itself (before reads from 6.18.3 on); older ones leave them dirty.  If we wrote before
 * them they would come when we have them dropped, all of the page, and undo what we have written.
 */
static inline bool stores_come_first(const struct server *s, struct gfs2_inode *ip)
{
	return s->kernel_minor < 45 && gfs2_kernel_has_stores(ip);
}
/*
 * They are written when this returns, and the pages dropped.  The kernel sends WRITEs meanwhile, other threads' work: no glock may be held, and
 * nothing else that these need.  (Nor may a SETATTR of the size be under way that waits for us: the kernel holds them back until it is answered.)
 */
void stores_first(struct server *s, struct gfs2_inode *ip, uint64_t off, uint64_t len);
/*
 * The file lost its suid or sgid bit.  The kernel left that to us (FUSE_HANDLE_KILLPRIV_V2), but what
 * it believes in is its copy of the mode, also for execve().  Touches no pages; no glock may be held.
 */
void inval_mode(struct server *s, struct gfs2_inode *ip);
/* Starts a request: sets the thread's context, returns the server. */
struct server *op_begin(fuse_req_t req);
void fill_entry(struct server *s, struct gfs2_inode *ip, const struct stat *st,
		struct fuse_entry_param *e);
/* Attributes, under gfs2_inode_nq_any(). */
int inode_stat(struct gfs2_inode *ip, struct stat *st);
/* An open directory, as a number for fuse_file_info.fh (in a cluster). */
uint64_t dir_opened(struct server *s, struct gfs2_inode *ip);
void dir_closed(struct server *s, uint64_t fh);

/* --- undo.c: writes that the kernel takes back --- */

/* A WRITE at @off, as the kernel has it, with peers. */
struct written {
	uint64_t off;
	uint32_t size;
	bool append;		/* the file is open with O_APPEND */
	uint64_t believed;	/* the size that the kernel believed in */
	uint64_t run;		/* the run that it belongs to; 0: none */
	bool placed;		/* append_placed() has been called */
	uint64_t eof[2];	/* how long it found the file, and left it; UINT64_MAX: it did not come so far */
	int64_t ret;		/* bytes, or -errno */
};
/* The kernel is told of @size, or will take it from the answer to a write that ended there. */
void tell_size(struct gfs2_inode *ip, uint64_t size);
void tell_written(struct gfs2_inode *ip, uint64_t end);
/* Before and after it.  No glock held. */
void file_writes(struct server *s, struct gfs2_file *f, struct written *w);
void file_written(struct server *s, struct gfs2_file *f, const struct written *w);
/*
 * Under EX: where an append to a file of @size bytes belongs; not at its end if @tail bytes there are later pieces of the same write.  -EIO: that
 * place is not to be had.  And then: it has been written there, or not, and the file is @grown bytes longer.
 */
int64_t append_where(struct server *s, struct gfs2_file *f, const struct written *w, uint64_t size, uint64_t *tail);
void append_placed(struct server *s, struct gfs2_file *f, struct written *w, uint64_t where, uint64_t tail, uint64_t grown);
/* Is cutting the file down to @size the kernel's way of undoing a failed write?  Then *@eof is what is to be undone. */
bool file_undoes(struct server *s, struct gfs2_file *f, uint64_t size, uint64_t eof[2]);
static inline struct gfs2_file *fi_file(const struct fuse_file_info *fi)
{
	struct gfs2_file *f = (struct gfs2_file *)(uintptr_t)fi->fh;

	handle_in(f);
	return f;
}
/* What a request that is not the file's last one needs of it. */
struct file_view {
	struct gfs2_inode *inode;
	bool direct, sync;
};
static inline struct file_view fi_view(const struct fuse_file_info *fi)
{
	struct gfs2_file *f = fi_file(fi);
	struct file_view v = { f->f_inode, f->f_direct, f->f_sync };

	/* RELEASE, which frees it, comes when this request has been answered. */
	handle_out(f);
	return v;
}

#endif
