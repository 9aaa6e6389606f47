/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Creation of all types (kernel: inode.c:gfs2_create_inode; reference gfs2-ondisk.md 4.1, 7, 8.13).
 *
 * The kernel commits the new dinode and its directory entry in separate transactions; here both are
 * in one, so no crash leaves an orphan.  What has to wait comes before the transaction, in this
 * order:
 *   parent EX -> rgrp EX (reservation) -> IOPEN and EX of the block that the allocator is going to
 *   hand out. The last one is only tried: whoever still has the glock of a free block is a late
 *   user of the inode that lived there before, and might be waiting for our rgrp.
 */
#include "fs/acl.h"
#include "fs/namei_i.h"

/* What a new inode will be, decided before anything is changed. */
struct create_ctx {
	struct gfs2_inode *dip;
	const struct gfs2_create_args *args;
	struct gfs2_qname q;
	struct namei_room room;
	struct gfs2_inode *ip;	/* the new one */
	struct gfs2_holder gh;	/* its EX */
	uint64_t bn;
	uint32_t mode;		/* as umask or the directory's default ACL leave it */
	struct acl_inherited acl;
	unsigned ea_blocks;	/* for the ACLs */
};

#define MAX_EA_BLOCKS 3

/* Directories below the root and below TOPDIR directories are spread over the rgrps. */
static bool create_spread(const struct gfs2_inode *dip, mode_t mode)
{
	return S_ISDIR(mode) && (dip->i_no_addr == dip->i_sbd->sd_root_addr ||
				 (dip->i_diskflags & GFS2_DIF_TOPDIR));
}

static void create_undo(struct create_ctx *c)
{
	gfs2_glock_dq_uninit(&c->gh);
	namei_release(c->dip, &c->room);
}

/*
 * Reserve blocks and lock the new inode.  0, or -errno with nothing held; c->ip may be left for the
 * caller to put once no glock is held.
 */
static int create_prepare(struct create_ctx *c)
{
	struct gfs2_inode *dip = c->dip;
	struct gfs2_holder wait;
	int error;

	for (;;) {
		error = namei_reserve(dip, &c->q, 1 + c->ea_blocks,
				      create_spread(dip, c->args->mode), &c->room);
		if (error)
			return error;
		error = gfs2_alloc_peek(dip, &c->room.ap, &c->bn);
		if (!error)
			error = gfs2_inode_lookup_free(dip->i_sbd, c->bn, &c->ip);
		if (error == -EAGAIN) {
			/* A late request for the inode that lived there before, which is about to find out. */
			namei_release(dip, &c->room);
			error = gfs2_inode_lookup(dip->i_sbd, c->bn, 0, &c->ip);
			if (error)
				return error;
			gfs2_inode_put(c->ip);
			c->ip = NULL;
			continue;
		}
		if (!error && c->ip->i_own)
			error = gfs2_consist(dip->i_sbd, c->bn, "the root or a system file is free in the bitmap");
		if (error)
			break;
		error = gfs2_glock_nq_init(c->ip->i_gl, LM_ST_EXCLUSIVE, LM_FLAG_TRY | GL_SKIP,
					   &c->gh);
		if (error != GLR_TRYFAILED)
			break;
		/* Let its user finish: without our rgrp, and below the parent in lock order. */
		namei_release(dip, &c->room);
		error = gfs2_glock_nq_init(c->ip->i_gl, LM_ST_EXCLUSIVE, GL_SKIP, &wait);
		if (error)
			return error;
		gfs2_glock_dq_uninit(&wait);
		gfs2_inode_put(c->ip);
		c->ip = NULL;
	}
	if (error)
		namei_release(dip, &c->room);
	return error;
}

/* Fill the in-core inode; @generation is its formal number. */
static void create_fill(struct create_ctx *c, uint64_t generation)
{
	const struct gfs2_create_args *a = c->args;
	struct gfs2_inode *dip = c->dip, *ip = c->ip;

	gfs2_set_formal_ino(ip, generation);
	ip->i_generation = generation;
	ip->i_mode = c->mode;
	ip->i_uid = a->uid;
	ip->i_gid = a->gid;
	if (dip->i_mode & S_ISGID) {
		ip->i_gid = dip->i_gid;
		if (S_ISDIR(a->mode))
			ip->i_mode |= S_ISGID;
	}
	ip->i_owner_known = true;
	atomic_store_explicit(&ip->i_owner_moved, false, memory_order_relaxed);
	ip->i_nlink = S_ISDIR(a->mode) ? 2 : 1;
	ip->i_blocks = 1;
	ip->i_atime = ip->i_mtime = ip->i_ctime = current_time();
	ip->i_major = ip->i_minor = 0;
	if (S_ISCHR(a->mode) || S_ISBLK(a->mode)) {
		ip->i_major = a->major;
		ip->i_minor = a->minor;
	}
	ip->i_goal = ip->i_no_addr;
	ip->i_diskflags = dip->i_diskflags & GFS2_DIF_SYSTEM;
	ip->i_height = ip->i_depth = 0;
	ip->i_entries = 0;
	ip->i_eattr = 0;
	atomic_store_explicit(&ip->i_capability, CAPS_UNKNOWN, memory_order_relaxed);
	ip->i_size = 0;
	if (S_ISDIR(a->mode)) {
		ip->i_size = gfs2_max_stuffed_size(ip);
		ip->i_entries = 2;
		ip->i_diskflags |= GFS2_DIF_JDATA | (dip->i_diskflags & GFS2_DIF_INHERIT_JDATA);
	} else if (S_ISREG(a->mode)) {
		if (dip->i_diskflags & GFS2_DIF_INHERIT_JDATA)
			ip->i_diskflags |= GFS2_DIF_JDATA;
	} else if (S_ISLNK(a->mode)) {
		ip->i_size = strlen(a->symlink);
	}
}

/* In the transaction: the dinode block with its contents. */
static int create_dinode(struct create_ctx *c)
{
	struct gfs2_inode *ip = c->ip;
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_inum_host self = { ip->i_no_formal_ino, ip->i_no_addr };
	struct gfs2_inum_host parent = { c->dip->i_no_formal_ino, c->dip->i_no_addr };
	struct gfs2_bh *bh;
	int error = gfs2_meta_new(sdp, ip->i_gl, ip->i_no_addr, GFS2_METATYPE_DI, GFS2_FORMAT_DI, &bh);

	if (error)
		return error;
	gfs2_dinode_out(ip, bh->b_data);
	if (S_ISDIR(ip->i_mode))
		gfs2_dir_init(sdp, bh->b_data, &self, &parent);
	else if (S_ISLNK(ip->i_mode))
		memcpy(bh->b_data + sizeof(struct gfs2_dinode), c->args->symlink, ip->i_size);
	buf_put(bh);
	gfs2_inode_note_log(ip, false);
	return 0;
}

/*
 * In the transaction: the dinode's block and, behind it if there is room, those of the xattrs
 * (@ea).
 */
static int create_alloc(struct create_ctx *c, uint64_t *generation, uint64_t *ea)
{
	unsigned n = 1 + c->ea_blocks, done = 0;
	uint64_t bn;
	int error = gfs2_alloc_blocks(c->dip, &c->room.ap, &bn, &n, true, generation);

	if (error)
		return error;
	GFS2_BUG_ON(bn != c->bn);
	while (--n)
		ea[done++] = ++bn;
	while (done < c->ea_blocks) {
		n = c->ea_blocks - done;
		error = gfs2_alloc_blocks(c->dip, &c->room.ap, &bn, &n, false, NULL);
		if (error)
			return error;
		while (n--)
			ea[done++] = bn++;
	}
	return 0;
}

/* Parent held EX, the name is free. */
static int create_new(struct create_ctx *c, struct stat *st)
{
	struct gfs2_sbd *sdp = c->dip->i_sbd;
	uint64_t generation, ea[MAX_EA_BLOCKS];
	struct namei_held held = { .nr = 0 };
	struct gfs2_bh *dibh;
	int error;

	c->mode = c->args->mode;
	error = gfs2_acl_inherit(c->dip, &c->mode, c->args->umask, &c->acl);
	if (error)
		return error;
	c->ea_blocks = ea_new_blocks(sdp, c->acl.ea, c->acl.nr);
	error = namei_read(&c->dip, 1, &dibh);
	if (error)
		return error;
	error = namei_hold(&held, c->dip, &c->q);
	if (!error)
		error = create_prepare(c);
	if (error)
		goto out_read;
	error = gfs2_trans_begin(sdp->sd_log, c->room.trans, 0);
	if (error)
		goto out;
	error = create_alloc(c, &generation, ea);
	if (!error) {
		create_fill(c, generation);
		if (c->acl.nr)
			error = ea_new_write(c->ip, c->acl.ea, c->acl.nr, ea);
		if (!error)
			error = create_dinode(c);
		if (!error)
			error = gfs2_dir_add(c->dip, &c->q, c->ip, &c->room.ap);
	}
	if (!error)
		gfs2_getattr(c->ip, st);
	error = namei_trans_end(sdp, error, "create");
out:
	create_undo(c);
out_read:
	namei_held_end(&held);
	namei_read_end(&dibh, 1);
	return error;
}

/*
 * -ENOENT: the name is free.  Parent held.
 */
static int create_existing(struct create_ctx *c)
{
	unsigned type;
	int error;

	error = gfs2_dir_search(c->dip, &c->q, NULL, &type);
	if (error)
		return error;
	if (!S_ISREG(c->args->mode) || c->args->excl)
		return -EEXIST;
	/*
	 * Another node made it just now.  Nobody has asked whether the caller may open it, nor would O_TRUNC be heeded: to the kernel,
	 * what FUSE_CREATE answers is new.  At ESTALE it looks the name up once more, and opens what it finds.
	 */
	return type == DT_DIR ? -EISDIR : -ESTALE;
}

static int create_check_args(const struct gfs2_inode *dip, const struct gfs2_create_args *a)
{
	size_t len;

	switch (a->mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return 0;
	case S_IFLNK:
		len = strlen(a->symlink);
		if (!len)
			return -ENOENT;
		return len < gfs2_max_stuffed_size(dip) ? 0 : -ENAMETOOLONG;
	default:
		return -EINVAL;
	}
}

int gfs2_create(struct gfs2_inode *dip, const char *name, const struct gfs2_create_args *a,
		struct gfs2_inode **out, struct stat *st)
{
	struct create_ctx c = { .dip = dip, .args = a };
	struct gfs2_holder dgh;
	int error;

	if (dip->i_sbd->sd_ro)
		return -EROFS;
	error = namei_qname(name, true, &c.q);
	if (error)
		return error == -EINVAL ? -EEXIST : error;
	error = create_check_args(dip, a);
	if (error)
		return error;

	error = gfs2_glock_nq_init(dip->i_gl, LM_ST_EXCLUSIVE, 0, &dgh);
	if (error)
		return error;
	error = gfs2_is_dir(dip) ? create_existing(&c) : -ENOTDIR;
	if (error == -ENOENT) {
		error = namei_may_add(dip, S_ISDIR(a->mode));
		if (!error)
			error = create_new(&c, st);
	}
	gfs2_glock_dq_uninit(&dgh);

	if (error && c.ip)
		gfs2_inode_put(c.ip);
	else if (!error)
		*out = c.ip;
	return error;
}
