/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extended attributes: name spaces, reading, listing (see xattr.h).  Changes are in xattr_set.c.
 */
#include <errno.h>
#include <sys/xattr.h>
#include "fs/acl.h"
#include "fs/bmap.h"
#include "fs/eattr.h"
#include "fs/namei_i.h"

#define CAPABILITY "capability"	/* of the name space "security." */

/* --- the EA blocks of an inode --- */

static int read_block(struct gfs2_inode *ip, uint64_t blkno, uint32_t type, struct gfs2_bh **out)
{
	int error = gfs2_check_pointer(ip, blkno);

	*out = NULL;
	return error ? error : gfs2_meta_read(ip->i_sbd, ip->i_gl, blkno, type, out);
}

int ea_iter_begin(struct ea_iter *it, struct gfs2_inode *ip)
{
	*it = (struct ea_iter){ .ip = ip };
	if (!ip->i_eattr || !(ip->i_diskflags & GFS2_DIF_EA_INDIRECT))
		return 0;
	return read_block(ip, ip->i_eattr, GFS2_METATYPE_IN, &it->ind_bh);
}

int ea_iter_next(struct ea_iter *it)
{
	struct gfs2_inode *ip = it->ip;
	uint64_t blkno = 0;
	int error;

	buf_put(it->bh);
	it->bh = NULL;
	if (it->ind_bh) {
		if (it->next < ip->i_sbd->sd_inptrs)
			blkno = be64_to_cpu(gfs2_metaptrs(it->ind_bh, 1)[it->next]);
	} else if (!it->next) {
		blkno = ip->i_eattr;
	}
	if (!blkno)
		return 0;
	it->next++;
	error = read_block(ip, blkno, GFS2_METATYPE_EA, &it->bh);
	return error ? error : 1;
}

void ea_iter_end(struct ea_iter *it)
{
	buf_put(it->bh);
	buf_put(it->ind_bh);
	it->bh = it->ind_bh = NULL;
}

/* --- reading --- */

/* The value of an unstuffed record, from its ED blocks. */
static int copy_unstuffed(struct gfs2_inode *ip, struct gfs2_ea_header *ea, char *buf)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	uint32_t left = ea_data_len(ea);
	const __be64 *ptrs = ea_ptrs(ea);
	uint64_t ahead[EA_MAX_PTRS] = { 0 };
	unsigned nr = DIV_ROUND_UP(left, sdp->sd_jbsize), i;

	for (i = 0; i < nr; i++) {
		int error = gfs2_check_pointer(ip, be64_to_cpu(ptrs[i]));

		if (error)
			return error;
		ahead[i] = be64_to_cpu(ptrs[i]);
	}
	if (nr > 1)
		buf_readahead(&ip->i_gl->gl_mapping, ahead, nr);
	for (i = 0; i < nr; i++) {
		uint32_t n = min_t(uint32_t, left, sdp->sd_jbsize);
		struct gfs2_bh *bh;
		int error = read_block(ip, ahead[i], GFS2_METATYPE_ED, &bh);

		if (error)
			return error;
		memcpy(buf, bh->b_data + sizeof(struct gfs2_meta_header), n);
		buf_put(bh);
		buf += n;
		left -= n;
	}
	return 0;
}

static ssize_t copy_value(struct gfs2_inode *ip, struct gfs2_ea_header *ea, void *buf, size_t size)
{
	uint32_t len = ea_data_len(ea);
	int error = 0;

	if (!size)
		return len;
	if (len > size)
		return -ERANGE;
	if (ea_stuffed(ea))
		memcpy(buf, ea_value(ea), len);
	else
		error = copy_unstuffed(ip, ea, buf);
	return error ? error : (ssize_t)len;
}

ssize_t gfs2_ea_get(struct gfs2_inode *ip, unsigned type, const char *name, void *buf, size_t size)
{
	size_t namel = strlen(name);
	struct ea_iter it;
	ssize_t ret;
	int more;

	gfs2_assert_held(ip->i_gl, false);
	if (!ip->i_eattr)
		return -ENODATA;
	ret = ea_iter_begin(&it, ip);
	if (ret)
		return ret;
	ret = -ENODATA;
	while (ret == -ENODATA && (more = ea_iter_next(&it))) {
		struct gfs2_ea_header *ea;
		struct ea_walk w;

		if (more < 0) {
			ret = more;
			break;
		}
		ea_walk_init(&w, ip->i_sbd, it.bh->b_data);
		while ((ea = ea_next(&w)) && !ea_is(ea, type, name, namel))
			;
		if (ea)
			ret = copy_value(ip, ea, buf, size);
		else if (w.rule)
			ret = ea_damaged(ip, it.bh, w.rule);
	}
	ea_iter_end(&it);
	return ret;
}

bool gfs2_has_capability(struct gfs2_inode *ip)
{
	/* relaxed: both threads under a shared holder find the same, and changes need EX */
	int known = atomic_load_explicit(&ip->i_capability, memory_order_relaxed);

	if (!ip->i_eattr)
		return false;
	if (known == CAPS_UNKNOWN) {
		ssize_t ret = gfs2_ea_get(ip, GFS2_EATYPE_SECURITY, CAPABILITY, NULL, 0);

		known = ret == -ENODATA ? CAPS_NONE : ret < 0 ? CAPS_UNKNOWN : CAPS_SOME;
		atomic_store_explicit(&ip->i_capability, known, memory_order_relaxed);
	}
	return known == CAPS_SOME;
}

/* --- name spaces --- */

static const struct {
	const char *prefix;
	unsigned type;
} spaces[] = {
	{ "user.", GFS2_EATYPE_USR },
	{ "system.", GFS2_EATYPE_SYS },
	{ "security.", GFS2_EATYPE_SECURITY },
	{ "trusted.", GFS2_EATYPE_TRUSTED },
};

/*
 * @name as type and name behind the prefix, as the kernel's table of handlers has it: of "system."
 * only the two ACLs.
 */
static int resolve(const struct gfs2_sbd *sdp, const char *name, unsigned *type, const char **rest)
{
	for (unsigned i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++) {
		size_t len = strlen(spaces[i].prefix);

		if (strncmp(name, spaces[i].prefix, len))
			continue;
		*type = spaces[i].type;
		*rest = name + len;
		if (*type == GFS2_EATYPE_TRUSTED && sdp->sd_fs_format < 1802)
			return -EOPNOTSUPP;
		if (*type == GFS2_EATYPE_SYS)
			return gfs2_is_acl_name(*rest) && !sdp->sd_args.ar_noacl ? 0 : -EOPNOTSUPP;
		return **rest ? 0 : -EINVAL;
	}
	return -EOPNOTSUPP;
}

static const char *prefix_of(unsigned type)
{
	for (unsigned i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		if (spaces[i].type == type)
			return spaces[i].prefix;
	return NULL;
}

/* --- the system calls --- */

ssize_t gfs2_getxattr(struct gfs2_inode *ip, const char *name, void *buf, size_t size)
{
	struct gfs2_holder gh;
	const char *rest;
	unsigned type;
	ssize_t ret = resolve(ip->i_sbd, name, &type, &rest);

	if (ret)
		return ret;
	if (strlen(rest) > GFS2_EA_MAX_NAME_LEN)
		return -EINVAL;
	ret = gfs2_inode_nq_any(ip, &gh);
	if (ret)
		return ret;
	ret = gfs2_ea_get(ip, type, rest, buf, size);
	/* An ACL without a byte is none (kernel: __gfs2_get_acl). */
	if (!ret && type == GFS2_EATYPE_SYS)
		ret = -ENODATA;
	gfs2_glock_dq_uninit(&gh);
	return ret;
}

/* Append the names in one block at *@used; -ERANGE when they do not fit. */
static int list_block(struct gfs2_inode *ip, struct gfs2_bh *bh, char *buf, size_t size,
		      size_t *used)
{
	struct gfs2_ea_header *ea;
	struct ea_walk w;

	ea_walk_init(&w, ip->i_sbd, bh->b_data);
	while ((ea = ea_next(&w))) {
		const char *prefix = prefix_of(ea->ea_type);
		size_t len, end;

		if (!prefix)
			continue;
		len = strlen(prefix);
		end = *used + len + ea->ea_name_len + 1;
		if (size) {
			if (end > size)
				return -ERANGE;
			memcpy(buf + *used, prefix, len);
			memcpy(buf + *used + len, ea_name(ea), ea->ea_name_len);
			buf[end - 1] = '\0';
		}
		*used = end;
	}
	return w.rule ? ea_damaged(ip, bh, w.rule) : 0;
}

ssize_t gfs2_listxattr(struct gfs2_inode *ip, char *buf, size_t size)
{
	struct gfs2_holder gh;
	struct ea_iter it;
	size_t used = 0;
	int error = gfs2_inode_nq_any(ip, &gh), more;

	if (error)
		return error;
	error = ea_iter_begin(&it, ip);
	while (!error && (more = ea_iter_next(&it)))
		error = more < 0 ? more : list_block(ip, it.bh, buf, size, &used);
	ea_iter_end(&it);
	gfs2_glock_dq_uninit(&gh);
	return error ? error : (ssize_t)used;
}

static int change(struct gfs2_inode *ip, unsigned type, const char *name, const void *value,
		  size_t size, int flags)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_bh *dibh;
	struct ea_change c;
	int error = ea_change_begin(&c, ip, type, name, value, size, flags);

	if (error)
		return error;
	error = namei_read(&ip, 1, &dibh);
	if (error)
		goto out;
	error = gfs2_trans_begin(sdp->sd_log, c.trans + 1, c.revokes);
	if (!error) {
		gfs2_pending_mtime_fold(ip);
		ip->i_ctime = current_time();
		error = ea_change_apply(&c);
		if (!error)
			error = gfs2_dinode_log(ip);
		error = namei_trans_end(sdp, error, "xattr");
	}
	namei_read_end(&dibh, 1);
out:
	ea_change_end(&c);
	if (type == GFS2_EATYPE_SECURITY)
		atomic_store_explicit(&ip->i_capability, CAPS_UNKNOWN, memory_order_relaxed);
	return error;
}

/* @value NULL: remove. */
static int set_or_remove(struct gfs2_inode *ip, const char *name, const void *value, size_t size,
			 int flags, bool kill_sgid)
{
	struct gfs2_holder gh;
	const char *rest;
	unsigned type;
	int error = resolve(ip->i_sbd, name, &type, &rest);

	if (error)
		return error;
	if (ip->i_sbd->sd_ro)
		return -EROFS;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (error)
		return error;
	if (ip->i_diskflags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY))
		error = -EPERM;
	else if (type == GFS2_EATYPE_USR && gfs2_is_dir(ip) && ip->i_mode & S_ISVTX && gfs2_caller_owns(ip))
		error = -EPERM; /* kernel: xattr_permission() */
	else if (type == GFS2_EATYPE_SYS)
		error = gfs2_acl_set(ip, rest, value, size, kill_sgid);
	else
		error = change(ip, type, rest, value, size, flags);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

int gfs2_setxattr(struct gfs2_inode *ip, const char *name, const void *value, size_t size,
		  int flags, bool kill_sgid)
{
	return set_or_remove(ip, name, value ? value : "", size, flags, kill_sgid);
}

int gfs2_removexattr(struct gfs2_inode *ip, const char *name)
{
	return set_or_remove(ip, name, NULL, 0, 0, false);
}

int gfs2_remove_capability(struct gfs2_inode *ip)
{
	int error = change(ip, GFS2_EATYPE_SECURITY, CAPABILITY, NULL, 0, 0);

	return error == -ENODATA ? 0 : error;
}
