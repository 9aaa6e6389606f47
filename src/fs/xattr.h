/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extended attributes (kernel: xattr.c; reference gfs2-ondisk.md section 6).
 *
 * Names are those of the system calls, prefix included: user., security., trusted. (format 1802
 * and later) and system.posix_acl_access, system.posix_acl_default, which are handed to acl.c.
 * Who may see or change what is checked by the kernel's VFS; the immutable and append-only flags,
 * which its FUSE client does not know, are looked at here.
 *
 * Each change is one transaction: new record, blocks of the new value, blocks of the old one,
 * dinode.  (The kernel needs up to three; a crash between them leaves blocks without a name.)
 * EA blocks stay with the inode until it is deleted, as in the kernel.
 *
 * Locking: functions that say "EX" or "any holder" want the inode's glock held; the others take it.
 */
#ifndef GFS2FUSE_XATTR_H
#define GFS2FUSE_XATTR_H

#include <sys/types.h>
#include "fs/inode.h"
#include "fs/rgrp.h"

/* --- system calls --- */
/*
 * The value into @buf, its length is returned; @size 0: only the length.  -ENODATA, -ERANGE (does
 * not fit), -EOPNOTSUPP (no such name space), -EINVAL (nothing behind the prefix).
 */
ssize_t gfs2_getxattr(struct gfs2_inode *ip, const char *name, void *buf, size_t size);
/* All names, each with a zero byte behind it; as above. */
ssize_t gfs2_listxattr(struct gfs2_inode *ip, char *buf, size_t size);
/*
 * @flags: 0, XATTR_CREATE (-EEXIST), XATTR_REPLACE (-ENODATA).  @kill_sgid: setting an access ACL
 * takes the setgid bit away (the caller is not of the file's group and has no right to keep it).
 * -EPERM, -ERANGE (name or value too long for the format), -ENOSPC (volume full, or no more EA
 * blocks), -E2BIG (ACL entries); others as above.
 */
int gfs2_setxattr(struct gfs2_inode *ip, const char *name, const void *value, size_t size,
		  int flags, bool kill_sgid);
int gfs2_removexattr(struct gfs2_inode *ip, const char *name);

/*
 * Any holder: does the file have a security.capability, which a write has to take away?  Cheap: the
 * answer is remembered in core.
 */
bool gfs2_has_capability(struct gfs2_inode *ip);
/* EX, no transaction. */
int gfs2_remove_capability(struct gfs2_inode *ip);

/* --- for acl.c, attr.c, create.c; names without prefix, @type: GFS2_EATYPE_* --- */
/* Any holder.  As gfs2_getxattr(). */
ssize_t gfs2_ea_get(struct gfs2_inode *ip, unsigned type, const char *name, void *buf, size_t size);

/*
 * One change: set a value, or (value NULL) remove it.  Prepared outside of a transaction under EX,
 * done inside of one.  The caller logs the dinode afterwards, in the same transaction; it counts
 * one block for it.
 */
struct ea_change {
	struct gfs2_inode *ip;
	unsigned type;
	const char *name;
	size_t namel;
	const void *value;
	size_t size;

	unsigned trans, revokes;	/* out: what the transaction needs, without the dinode */
	/* private */
	struct gfs2_bh *old_bh;		/* where the attribute is now, NULL: nowhere */
	uint32_t old_off;
	struct gfs2_bh *room_bh;	/* where it will be, NULL: in a new block */
	uint32_t room_off;
	struct gfs2_bh *ind_bh;		/* the indirect block of EA blocks, when it gets one more */
	unsigned ind_slot;		/* there */
	unsigned nr_ptrs;		/* ED blocks of the new value */
	unsigned nr_new;		/* blocks to be allocated */
	unsigned nr_free;
	uint64_t free[2 * 255];		/* ED blocks of the old value and of a record that is reused */
	struct gfs2_alloc ap;
	bool reserved;
	struct gfs2_rgrp_list rlist;
};
/*
 * EX, no transaction.  @flags as for setxattr.  0: @c is to be used and ended; -errno: nothing is
 * held.  -ENODATA: nothing to be removed.
 */
int ea_change_begin(struct ea_change *c, struct gfs2_inode *ip, unsigned type, const char *name,
		    const void *value, size_t size, int flags);
/* In the transaction.  After an error the volume must not be written any more (namei_trans_end). */
int ea_change_apply(struct ea_change *c);
void ea_change_end(struct ea_change *c);

/* Attributes of an inode that is being created. */
struct ea_new {
	unsigned type;
	const char *name;
	const void *value;	/* stuffed: short enough for one block */
	size_t size;
};
/* Blocks that these @nr (at most two) attributes take. */
unsigned ea_new_blocks(const struct gfs2_sbd *sdp, const struct ea_new *new, unsigned nr);
/*
 * In the transaction, @ip new: write them into @blocks (allocated, ea_new_blocks() of them); sets
 * i_eattr, i_blocks and flags.  -EIO: withdrawn.
 */
int ea_new_write(struct gfs2_inode *ip, const struct ea_new *new, unsigned nr,
		  const uint64_t *blocks);

/* --- deletion: xattr_free.c --- */
/* EX, no transaction: free everything in as many transactions as it takes. */
int gfs2_ea_dealloc(struct gfs2_inode *ip);

/* --- between xattr.c, xattr_set.c and xattr_free.c --- */
struct ea_iter {
	struct gfs2_inode *ip;
	struct gfs2_bh *ind_bh;	/* EA_INDIRECT: the block with the pointers */
	unsigned next;
	struct gfs2_bh *bh;	/* the current EA block */
};
int ea_iter_begin(struct ea_iter *it, struct gfs2_inode *ip);
/* The next EA block is in it->bh: 1; 0: no more; -EIO. */
int ea_iter_next(struct ea_iter *it);
void ea_iter_end(struct ea_iter *it);
/* -EIO, with a message about EA block @bh. */
#define ea_damaged(ip, bh, rule) gfs2_consist((ip)->i_sbd, (bh)->b_blocknr, rule)

#endif
