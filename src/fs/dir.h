/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Directories: linear and hashed, lookup, insert, delete, listing (kernel: dir.c; reference section
 * 5). All need the directory's glock: SH to read, EX to change; changes run inside the caller's
 * transaction.
 */
#ifndef GFS2FUSE_DIR_H
#define GFS2FUSE_DIR_H

#include <dirent.h>
#include "fs/bmap.h"
#include "util/util.h"

struct gfs2_inum_host {
	uint64_t no_formal_ino, no_addr;
};
struct gfs2_qname {
	const char *name;
	uint32_t len;
	uint32_t hash;
};
static inline struct gfs2_qname gfs2_qname(const char *name)
{
	uint32_t len = (uint32_t)strlen(name);

	return (struct gfs2_qname){ name, len, gfs2_disk_hash(name, len) };
}

/* 0 and @inum, @type (DT_..., either pointer may be NULL) filled in; -ENOENT, -EIO. */
int gfs2_dir_search(struct gfs2_inode *dip, const struct gfs2_qname *q,
		    struct gfs2_inum_host *inum, unsigned *type);
/*
 * EX, before the transaction: what inserting @q will take.  *@blocks new blocks (0: there is room),
 * *@trans metadata blocks of the directory that are logged (dinode, leaves, table; not the rgrp's,
 * not statfs).
 */
int gfs2_diradd_alloc_required(struct gfs2_inode *dip, const struct gfs2_qname *q, unsigned *blocks,
			       unsigned *trans);
/*
 * Any holder: the leaves in which @q is or would be looked for, each with a reference, to @bhs[*@nr] and on, until *@nr is @max.  None of a
 * directory without leaves.  -EIO; *@nr counts what was found before.
 */
int gfs2_dir_hold(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_bh **bhs, unsigned max, unsigned *nr);
/*
 * In a transaction: insert (the name must not exist); @ap may be NULL if nothing was required.
 * i_entries, times, nlink (for a directory child) of @dip change and are logged.
 */
int gfs2_dir_add(struct gfs2_inode *dip, const struct gfs2_qname *q, const struct gfs2_inode *child,
		 struct gfs2_alloc *ap);
/* In a transaction: remove; nlink of @dip drops if @child_is_dir. */
int gfs2_dir_del(struct gfs2_inode *dip, const struct gfs2_qname *q, bool child_is_dir);
/* In a transaction: point an existing entry (".." or a name) at another inode. */
int gfs2_dir_mvino(struct gfs2_inode *dip, const struct gfs2_qname *q, const struct gfs2_inum_host *to,
		   unsigned new_type);
/* Write the initial "." and ".." into a new directory's dinode block. */
void gfs2_dir_init(struct gfs2_sbd *sdp, void *block, const struct gfs2_inum_host *self,
		   const struct gfs2_inum_host *parent);

/*
 * Listing in cookie order (hash >> 1; reference 5.8).  Starts with the entries whose cookie is
 * greater than @after (0: from the start).  @fn returns false to stop.  `.` and `..` are included
 * where they hash to. Cookies handed out are 64 bit (63 used), never 0, strictly increasing within
 * a listing and stable while an entry lives: (hash >> 1) + 1 in the high part; the low part tells
 * colliding names apart by a second checksum (dir_read.c). A directory without links (removed,
 * still open) lists as empty.  -EIO, -ENOMEM, -ENOTDIR.
 */
struct gfs2_dir_entry {
	uint64_t cookie;
	struct gfs2_inum_host inum;
	unsigned type;		/* DT_* */
	uint32_t len;
	const char *name;	/* not terminated; valid during the call */
};
int gfs2_dir_read(struct gfs2_inode *dip, uint64_t after,
		  bool (*fn)(void *arg, const struct gfs2_dir_entry *e), void *arg);

/* Drop the in-memory hash table (go_inval). */
void gfs2_dir_hash_inval(struct gfs2_inode *ip);
/* EX, own transactions: free all leaves (deletion; reference 4.8). */
int gfs2_dir_exhash_dealloc(struct gfs2_inode *dip);

#endif
