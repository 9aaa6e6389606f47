/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * POSIX ACLs (see acl.h).  Values are little-endian: they are what the system call shows.
 */
#include "fs/acl.h"

#include <endian.h>
#include <errno.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include "fs/namei_i.h"
#include "util/util.h"

bool gfs2_is_acl_name(const char *name)
{
	return !strcmp(name, ACL_ACCESS_NAME) || !strcmp(name, ACL_DEFAULT_NAME);
}

unsigned acl_max_entries(const struct gfs2_sbd *sdp)
{
	return (ACL_MAX_ENTRIES << sdp->sd_bsize_shift) >> 12;
}

/* --- values --- */

/* kernel: posix_acl_valid(): owner, users, group, groups, mask, others, in this order. */
static bool valid(const struct acl *acl)
{
	static const uint16_t order[] = { ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ,
					  ACL_GROUP, ACL_MASK, ACL_OTHER };
	unsigned count[6] = { 0 }, at = 0;

	for (unsigned i = 0; i < acl->nr; i++) {
		const struct acl_entry *e = &acl->e[i];
		bool named = e->tag == ACL_USER || e->tag == ACL_GROUP;

		while (at < 6 && order[at] != e->tag)
			at++;
		if (at == 6 || e->perm & ~(ACL_READ | ACL_WRITE | ACL_EXECUTE))
			return false;
		if (named && e->id == (uint32_t)ACL_UNDEFINED_ID)
			return false;
		if (count[at]++ && !named)
			return false;
	}
	return count[0] && count[2] && count[5] && (count[4] || !(count[1] + count[3]));
}

/* Values lie anywhere in memory: they are copied piece by piece, not looked at in place. */
int acl_decode(const void *value, size_t size, unsigned max, struct acl *acl)
{
	struct posix_acl_xattr_header h;
	struct posix_acl_xattr_entry e;
	const char *p = value;

	acl->nr = 0;
	if (size < sizeof(h))
		return -EINVAL;
	memcpy(&h, p, sizeof(h));
	if (le32toh(h.a_version) != POSIX_ACL_XATTR_VERSION)
		return -EOPNOTSUPP;
	size -= sizeof(h);
	if (size % sizeof(e))
		return -EINVAL;
	if (size / sizeof(e) > max)
		return -E2BIG;
	acl->nr = (unsigned)(size / sizeof(e));
	for (unsigned i = 0; i < acl->nr; i++) {
		memcpy(&e, p + ACL_SIZE(i), sizeof(e));
		acl->e[i] = (struct acl_entry){ le16toh(e.e_tag), le16toh(e.e_perm), le32toh(e.e_id) };
	}
	return acl->nr && !valid(acl) ? -EINVAL : 0;
}

size_t acl_encode(const struct acl *acl, void *value)
{
	struct posix_acl_xattr_header h = { htole32(POSIX_ACL_XATTR_VERSION) };
	char *p = value;

	memcpy(p, &h, sizeof(h));
	for (unsigned i = 0; i < acl->nr; i++) {
		const struct acl_entry *a = &acl->e[i];
		bool named = a->tag == ACL_USER || a->tag == ACL_GROUP;
		struct posix_acl_xattr_entry e = {
			htole16(a->tag), htole16(a->perm),
			htole32(named ? a->id : (uint32_t)ACL_UNDEFINED_ID),
		};

		memcpy(p + ACL_SIZE(i), &e, sizeof(e));
	}
	return ACL_SIZE(acl->nr);
}

/* The entries that the three classes of the mode stand for; of a valid ACL none is NULL. */
struct classes {
	struct acl_entry *owner, *group, *other;
};

static struct classes find_classes(struct acl *acl)
{
	struct classes c = { 0 };

	for (unsigned i = 0; i < acl->nr; i++) {
		struct acl_entry *e = &acl->e[i];

		if (e->tag == ACL_USER_OBJ)
			c.owner = e;
		else if (e->tag == ACL_OTHER)
			c.other = e;
		else if (e->tag == ACL_MASK || (e->tag == ACL_GROUP_OBJ && !c.group))
			c.group = e;
	}
	return c;
}

bool acl_equiv_mode(const struct acl *acl, uint32_t *mode)
{
	struct classes c = find_classes((struct acl *)(uintptr_t)acl); /* only looked at */

	*mode = (uint32_t)c.owner->perm << 6 | (uint32_t)c.group->perm << 3 | c.other->perm;
	return acl->nr == 3;
}

void acl_chmod(struct acl *acl, uint32_t mode)
{
	struct classes c = find_classes(acl);

	c.owner->perm = mode >> 6 & 7;
	c.group->perm = mode >> 3 & 7;
	c.other->perm = mode & 7;
}

bool acl_create(struct acl *acl, uint32_t *mode)
{
	struct classes c = find_classes(acl);
	uint32_t perm;

	c.owner->perm &= *mode >> 6 & 7;
	c.group->perm &= *mode >> 3 & 7;
	c.other->perm &= *mode & 7;
	acl_equiv_mode(acl, &perm);
	*mode = (*mode & ~0777u) | perm;
	return acl->nr > 3;
}

/* --- inodes --- */

/* The ACL @name of @ip; nr 0: there is none.  One that is damaged is the volume's fault. */
static int acl_read(struct gfs2_inode *ip, const char *name, struct acl *acl)
{
	char value[ACL_MAX_SIZE];
	ssize_t len = gfs2_ea_get(ip, GFS2_EATYPE_SYS, name, value, sizeof(value));

	acl->nr = 0;
	if (len == -ENODATA || !len)
		return 0;
	/* ERANGE: a kernel with larger limits wrote it */
	if (len < 0)
		return len == -ERANGE ? -E2BIG : (int)len;
	return acl_decode(value, (size_t)len, ACL_MAX_ENTRIES, acl);
}

/* Change the attribute, or only the mode if @c is NULL. */
static int acl_store(struct gfs2_inode *ip, struct ea_change *c, uint32_t mode)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_bh *dibh;
	int error = namei_read(&ip, 1, &dibh);

	if (error)
		return error;
	error = gfs2_trans_begin(sdp->sd_log, 1 + (c ? c->trans : 0), c ? c->revokes : 0);
	if (error)
		goto out;
	gfs2_pending_mtime_fold(ip);
	ip->i_mode = mode;
	ip->i_ctime = current_time();
	if (c)
		error = ea_change_apply(c);
	if (!error)
		error = gfs2_dinode_log(ip);
	error = namei_trans_end(sdp, error, "setting an ACL");
out:
	namei_read_end(&dibh, 1);
	return error;
}

int gfs2_acl_set(struct gfs2_inode *ip, const char *name, const void *value, size_t size,
		 bool kill_sgid)
{
	bool access = !strcmp(name, ACL_ACCESS_NAME);
	uint32_t mode = ip->i_mode, perm;
	char stored[ACL_MAX_SIZE];
	struct ea_change c;
	struct acl acl = { .nr = 0 };
	int error = gfs2_caller_owns(ip);

	if (S_ISLNK(ip->i_mode))
		return -EOPNOTSUPP;
	if (!error && value)
		error = acl_decode(value, size, acl_max_entries(ip->i_sbd), &acl);
	if (error)
		return error;
	if (!access && !S_ISDIR(ip->i_mode))
		return acl.nr ? -EACCES : 0;
	if (access && acl.nr) {
		bool equiv = acl_equiv_mode(&acl, &perm);

		mode = (mode & ~0777u) | perm;
		if (kill_sgid || !gfs2_may_setgid(ip))
			mode &= ~(uint32_t)S_ISGID;
		if (equiv)
			acl.nr = 0;
	}
	error = ea_change_begin(&c, ip, GFS2_EATYPE_SYS, name, acl.nr ? stored : NULL,
				ACL_SIZE(acl.nr), 0);
	/* Removing what is not there is no error. */
	if (error == -ENODATA)
		return mode == ip->i_mode ? 0 : acl_store(ip, NULL, mode);
	if (error)
		return error;
	acl_encode(&acl, stored);
	error = acl_store(ip, &c, mode);
	ea_change_end(&c);
	return error;
}

int gfs2_acl_chmod_begin(struct gfs2_inode *ip, uint32_t mode, struct ea_change *c, void *buf)
{
	struct acl acl;
	int error;

	if (!ip->i_eattr || S_ISLNK(ip->i_mode) || ip->i_sbd->sd_args.ar_noacl)
		return 0;
	error = acl_read(ip, ACL_ACCESS_NAME, &acl);
	if (error || !acl.nr)
		return error;
	acl_chmod(&acl, mode);
	error = ea_change_begin(c, ip, GFS2_EATYPE_SYS, ACL_ACCESS_NAME, buf, acl_encode(&acl, buf),
				0);
	return error ? error : 1;
}

int gfs2_acl_inherit(struct gfs2_inode *dip, uint32_t *mode, uint32_t umask,
		     struct acl_inherited *inh)
{
	struct acl acl;
	int error;

	inh->nr = 0;
	if (S_ISLNK(*mode))
		return 0;
	acl.nr = 0;
	error = dip->i_sbd->sd_args.ar_noacl ? 0 : acl_read(dip, ACL_DEFAULT_NAME, &acl);
	if (error)
		return error;
	if (!acl.nr) {
		*mode &= ~(umask & 0777);
		return 0;
	}
	/* Nobody could have set it.  Copies have to fit into a block each. */
	if (acl.nr > acl_max_entries(dip->i_sbd))
		return -E2BIG;
	if (S_ISDIR(*mode))
		inh->ea[inh->nr++] = (struct ea_new){ GFS2_EATYPE_SYS, ACL_DEFAULT_NAME, inh->dflt,
						      acl_encode(&acl, inh->dflt) };
	if (acl_create(&acl, mode))
		inh->ea[inh->nr++] = (struct ea_new){ GFS2_EATYPE_SYS, ACL_ACCESS_NAME, inh->access,
						      acl_encode(&acl, inh->access) };
	return 0;
}
