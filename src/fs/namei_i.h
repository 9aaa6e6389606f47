/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What namei.c, create.c, unlink.c and rename.c share.
 */
#ifndef GFS2FUSE_NAMEI_I_H
#define GFS2FUSE_NAMEI_I_H

#include "fs/namei.h"

/*
 * @name as a qname.  -ENAMETOOLONG; -ENOENT for the empty name; with @entry also -EINVAL for ".",
 * "..".
 */
int namei_qname(const char *name, bool entry, struct gfs2_qname *q);

/*
 * @dip (EX) may get a new entry: -ENOTDIR, -ENOENT (removed), -EPERM (immutable), -EFBIG, -EMLINK.
 */
int namei_may_add(const struct gfs2_inode *dip, bool child_is_dir);
/*
 * The entry of @ip may be removed from @dip (both EX): -EPERM (immutable, append-only), -ENOENT
 * (@dip removed).
 */
int namei_may_remove(const struct gfs2_inode *dip, const struct gfs2_inode *ip);
/* @ip (EX) is a directory with nothing in it: 0, -ENOTEMPTY, -EIO. */
int namei_dir_empty(struct gfs2_inode *ip);

/*
 * @dip held SH or EX: find @q and get its inode, +1 reference.  @type: DT_*, may be NULL.
 */
int namei_find(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_inode **out,
	       unsigned *type);

/*
 * Reserve blocks for inserting @q into @dip (EX, no transaction) if any are needed; *@trans: blocks
 * logged, rgrp and statfs included. @extra: further blocks to allocate.
 */
struct namei_room {
	struct gfs2_alloc ap;
	unsigned blocks;	/* of the directory */
	unsigned trans;
	bool reserved;
};
int namei_reserve(struct gfs2_inode *dip, const struct gfs2_qname *q, unsigned extra, bool spread,
		  struct namei_room *room);
void namei_release(struct gfs2_inode *dip, struct namei_room *room);

/*
 * In a transaction, @ip EX, its rgrp EX: the last link of @ip goes or one of several (unlink.c).
 * Entry already removed.
 */
int namei_drop_link(struct gfs2_inode *ip);

/*
 * Before the transaction, glocks held: read the dinodes of @ips (some may be NULL) and keep them in memory until namei_read_end().  What cannot
 * be read is an error of the call; in the transaction it would be the end of the mount.
 */
int namei_read(struct gfs2_inode *const *ips, unsigned nr, struct gfs2_bh **dibh);
void namei_read_end(struct gfs2_bh **dibh, unsigned nr);

/*
 * The same for the blocks of a hashed directory that hold @q, or may get it (of a long chain the first ones): @dip is held, and stays so until
 * namei_held_end().  After an error, too.
 */
#define NAMEI_CHAIN 4
struct namei_held {
	struct gfs2_bh *bh[4 * NAMEI_CHAIN];	/* rename: two names, two ".." */
	unsigned nr;
};
int namei_hold(struct namei_held *h, struct gfs2_inode *dip, const struct gfs2_qname *q);
void namei_held_end(struct namei_held *h);

/*
 * End of a transaction.  An @error inside of one has left it half done: it must never reach the
 * log, so withdraw.
 */
int namei_trans_end(struct gfs2_sbd *sdp, int error, const char *what);

#endif
