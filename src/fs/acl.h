/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * POSIX ACLs (kernel: fs/posix_acl.c, fs/gfs2/acl.c; reference gfs2-ondisk.md 6.6).
 *
 * On disk an ACL is a system attribute whose value is what getxattr(2) shows.  An access ACL
 * that says no more than the mode is not stored; the mode always says what owner, mask (or group)
 * and others of the access ACL say.
 *
 * Who may do what to a file is decided by the kernel's VFS, from mode and ACL (FUSE_POSIX_ACL); what
 * becomes of ACLs and modes when they are set, when the mode changes and when a file is made is
 * decided here.
 */
#ifndef GFS2FUSE_ACL_H
#define GFS2FUSE_ACL_H

#include "fs/xattr.h"

#define ACL_ACCESS_NAME "posix_acl_access"	/* behind "system." */
#define ACL_DEFAULT_NAME "posix_acl_default"
#define ACL_MAX_ENTRIES 300			/* with blocks of 4096 bytes, the largest */

struct acl_entry {
	uint16_t tag, perm;	/* ACL_USER_OBJ ..., of <linux/posix_acl.h> */
	uint32_t id;
};
struct acl {
	unsigned nr;
	struct acl_entry e[ACL_MAX_ENTRIES];
};
#define ACL_SIZE(nr) (4 + 8 * (size_t)(nr))
#define ACL_MAX_SIZE ACL_SIZE(ACL_MAX_ENTRIES)

bool gfs2_is_acl_name(const char *name);
/* kernel: GFS2_ACL_MAX_ENTRIES */
unsigned acl_max_entries(const struct gfs2_sbd *sdp);

/* --- values --- */
/*
 * 0 and a valid ACL (@acl->nr 0: the value means "none"); -EINVAL, -EOPNOTSUPP (version), -E2BIG
 * (more than @max entries).
 */
int acl_decode(const void *value, size_t size, unsigned max, struct acl *acl);
/* Returns ACL_SIZE(acl->nr). */
size_t acl_encode(const struct acl *acl, void *value);
/* Does @acl say no more than permission bits?  *@mode gets the bits that it stands for. */
bool acl_equiv_mode(const struct acl *acl, uint32_t *mode);
/* chmod: let @acl agree with the permission bits of @mode. */
void acl_chmod(struct acl *acl, uint32_t mode);
/*
 * The access ACL of a new file, in place of its directory's default ACL @acl, and its *@mode: each
 * allows what both allow.  True if the ACL has to be stored.
 */
bool acl_create(struct acl *acl, uint32_t *mode);

/* --- inodes --- */
/*
 * EX, no transaction: set (value NULL: remove) an ACL, and the mode with an access ACL.  @name: one
 * of the two above.  -EACCES: a default ACL is for directories; -EOPNOTSUPP: a symbolic link.
 */
int gfs2_acl_set(struct gfs2_inode *ip, const char *name, const void *value, size_t size,
		 bool kill_sgid);
/*
 * EX, no transaction: the access ACL of @ip for its new @mode.  1: @c, with its value in @buf (of
 * ACL_MAX_SIZE bytes), is to be applied and ended; 0: nothing to be done; -errno.
 */
int gfs2_acl_chmod_begin(struct gfs2_inode *ip, uint32_t mode, struct ea_change *c, void *buf);

/* What a new inode gets from its directory. */
struct acl_inherited {
	struct ea_new ea[2];
	unsigned nr;
	char access[ACL_MAX_SIZE], dflt[ACL_MAX_SIZE];
};
/*
 * @dip held: fill @inh for a file created with *@mode by a process with @umask; *@mode becomes what
 * it will really be.
 */
int gfs2_acl_inherit(struct gfs2_inode *dip, uint32_t *mode, uint32_t umask,
		     struct acl_inherited *inh);

#endif
