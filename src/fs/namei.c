/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names: lookup, link, readlink, and what the other name operations share (see namei.h).
 *
 * Lock order of all of them: [RENAME] -> parent -> child -> rgrp -> transaction.  Only rename needs
 * more than one parent or child, and it never waits while it holds an inode glock (rename.c), so
 * waiting always goes down the tree. References to inodes are dropped after all glocks: the last
 * one deletes.
 */
#include "fs/namei_i.h"
#include "util/ctx.h"
#include "util/seeded.h"

int namei_qname(const char *name, bool entry, struct gfs2_qname *q)
{
	size_t len = strlen(name);

	if (!len)
		return -ENOENT;
	if (len > GFS2_FNAMESIZE)
		return -ENAMETOOLONG;
	if (entry && (!strcmp(name, ".") || !strcmp(name, "..")))
		return -EINVAL;
	*q = gfs2_qname(name);
	return 0;
}

int namei_may_add(const struct gfs2_inode *dip, bool child_is_dir)
{
	if (!gfs2_is_dir(dip))
		return -ENOTDIR;
	if (!dip->i_nlink)
		return -ENOENT;
	if (dip->i_diskflags & GFS2_DIF_IMMUTABLE)
		return -EPERM;
	if (dip->i_entries == UINT32_MAX)
		return -EFBIG;
	if (child_is_dir && dip->i_nlink == UINT32_MAX)
		return -EMLINK;
	return 0;
}

/*
 * kernel: check_sticky(), for the inode that has the name now.  The kernel has asked this of the one that it found there, which without other nodes is
 * the same, as it keeps the directory locked; then its answer holds, which knows of capabilities.
 */
static bool sticky_forbids(const struct gfs2_inode *dip, const struct gfs2_inode *ip)
{
	uid_t uid = current_ctx()->uid;

	return dip->i_mode & S_ISVTX && dip->i_sbd->sd_lm->lm_has_peers && uid && uid != dip->i_uid && uid != ip->i_uid;
}

int namei_may_remove(const struct gfs2_inode *dip, const struct gfs2_inode *ip)
{
	const uint32_t fixed = GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY;

	if (!dip->i_nlink)
		return -ENOENT;
	if ((dip->i_diskflags | ip->i_diskflags) & fixed)
		return -EPERM;
	return sticky_forbids(dip, ip) ? -EPERM : 0;
}

int namei_dir_empty(struct gfs2_inode *ip)
{
	if (ip->i_entries < 2)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, "directory without \".\" or \"..\"");
	return ip->i_entries > 2 || ip->i_nlink > 2 ? -ENOTEMPTY : 0;
}

int namei_find(struct gfs2_inode *dip, const struct gfs2_qname *q, struct gfs2_inode **out,
	       unsigned *type)
{
	struct gfs2_inum_host inum;
	int error;

	/* A directory that was removed still has its "..": what that names may have been removed and freed since. */
	if (!dip->i_nlink)
		return -ENOENT;
	error = gfs2_dir_search(dip, q, &inum, type);
	if (error)
		return error;
	/* Would make callers lock one inode twice. */
	if (inum.no_addr == dip->i_no_addr)
		return gfs2_consist(dip->i_sbd, dip->i_no_addr, "directory entry for its own directory");
	error = gfs2_inode_lookup(dip->i_sbd, inum.no_addr, inum.no_formal_ino, out);
	/* Locks of some are the mount's until it ends, and nobody may write there; the root is above all others. */
	if (!error && (*out)->i_own && !(*out == dip->i_sbd->sd_root && q->len == 2 && !memcmp(q->name, "..", 2))) {
		gfs2_inode_put(*out); /* not the last reference */
		*out = NULL;
		error = gfs2_consist(dip->i_sbd, dip->i_no_addr, "directory entry for the root or a system file");
	}
	return error;
}

int namei_reserve(struct gfs2_inode *dip, const struct gfs2_qname *q, unsigned extra, bool spread,
		  struct namei_room *room)
{
	int error;

	*room = (struct namei_room){ 0 };
	error = gfs2_diradd_alloc_required(dip, q, &room->blocks, &room->trans);
	if (error || !(room->blocks + extra))
		return error;
	room->ap.target = room->blocks + extra;
	room->ap.spread = spread;
	error = gfs2_inplace_reserve(dip, &room->ap);
	if (error)
		return error;
	room->reserved = true;
	/* + 1: the local statfs record */
	room->trans += extra + gfs2_rg_blocks(&room->ap, room->ap.target) + 1;
	return 0;
}

void namei_release(struct gfs2_inode *dip, struct namei_room *room)
{
	if (room->reserved)
		gfs2_inplace_release(dip, &room->ap);
	room->reserved = false;
}

int namei_read(struct gfs2_inode *const *ips, unsigned nr, struct gfs2_bh **dibh)
{
	unsigned i;
	int error;

	for (i = 0; i < nr; i++) {
		dibh[i] = NULL;
		error = ips[i] ? gfs2_meta_inode_buffer(ips[i], &dibh[i]) : 0;
		if (error) {
			namei_read_end(dibh, i);
			return error;
		}
	}
	return 0;
}

void namei_read_end(struct gfs2_bh **dibh, unsigned nr)
{
	while (nr--)
		buf_put(dibh[nr]);
}

int namei_hold(struct namei_held *h, struct gfs2_inode *dip, const struct gfs2_qname *q)
{
	GFS2_BUG_ON(h->nr + NAMEI_CHAIN > ARRAY_SIZE(h->bh));
	return gfs2_dir_hold(dip, q, h->bh, h->nr + NAMEI_CHAIN, &h->nr);
}

void namei_held_end(struct namei_held *h)
{
	namei_read_end(h->bh, h->nr);
	h->nr = 0;
}

int namei_trans_end(struct gfs2_sbd *sdp, int error, const char *what)
{
	if (error && !gfs2_withdrawn(sdp))
		error = gfs2_withdraw(sdp, "%s failed with error %d inside a transaction", what, error);
	gfs2_trans_end(sdp->sd_log);
	return error;
}

/* Attributes under the inode's own SH. */
static int namei_stat(struct gfs2_inode *ip, struct stat *st)
{
	struct gfs2_holder gh;
	int error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, LM_FLAG_ANY, &gh);

	if (error)
		return error;
	gfs2_getattr(ip, st);
	gfs2_glock_dq_uninit(&gh);
	return 0;
}

int gfs2_lookup(struct gfs2_inode *dip, const char *name, struct gfs2_inode **out, struct stat *st)
{
	struct gfs2_inode *ip = NULL;
	struct gfs2_holder gh;
	struct gfs2_qname q;
	int error;

	error = namei_qname(name, false, &q);
	if (error)
		return error;
	error = gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, 0, &gh);
	if (error)
		return error;
	/* As the kernel: these two are not looked up where the answer is known. */
	if (!gfs2_is_dir(dip))
		error = -ENOTDIR;
	else if (!strcmp(name, ".") ||
		 (!strcmp(name, "..") && dip->i_no_addr == dip->i_sbd->sd_root_addr))
		ip = gfs2_inode_hold(dip);
	else
		error = namei_find(dip, &q, &ip, NULL);
	gfs2_glock_dq_uninit(&gh);
	if (error)
		return error;
	error = namei_stat(ip, st);
	/* Those that the mount itself has no use for. */
	if (!error && ip->i_diskflags & GFS2_DIF_SYSTEM)
		error = gfs2_consist(dip->i_sbd, dip->i_no_addr, "directory entry for a system file");
	if (error)
		gfs2_inode_put(ip);
	else
		*out = ip;
	return error;
}

int gfs2_lookup_by_addr(struct gfs2_sbd *sdp, uint64_t no_addr, struct gfs2_inode **out, struct stat *st)
{
	struct gfs2_inode *ip;
	bool hidden = false;
	int error;

	/* With IOPEN in SH nobody frees an inode: what the bitmap says from here on stays. */
	error = gfs2_inode_lookup(sdp, no_addr, 0, &ip);
	if (error)
		return error;
	error = gfs2_get_block_type(sdp, no_addr);
	if (ip->i_own && ip != sdp->sd_root) {
		error = -ESTALE; /* one of the file system's own, and locked as long as it is mounted */
	} else if (error != GFS2_BLKST_DINODE_) {
		error = error < 0 && error != -EINVAL ? error : -ESTALE;
	} else {
		error = namei_stat(ip, st);
		hidden = !error && ip->i_diskflags & GFS2_DIF_SYSTEM;
	}
	if (error || hidden)
		gfs2_inode_put(ip);
	else
		*out = ip;
	return hidden ? -ESTALE : error;
}

/* @newdip and @ip held EX. */
static int link_locked(struct gfs2_inode *ip, struct gfs2_inode *newdip, const struct gfs2_qname *q,
		       struct stat *st)
{
	struct gfs2_inode *both[] = { newdip, ip };
	struct namei_held held = { .nr = 0 };
	struct gfs2_sbd *sdp = ip->i_sbd;
	struct gfs2_bh *dibh[2];
	struct namei_room room;
	int error;

	error = namei_may_add(newdip, false);
	if (error)
		return error;
	if (ip->i_diskflags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY))
		return -EPERM;
	/*
	 * A dinode in state UNLINKED can never be linked again: 2 -> 3 is no permitted transition.
	 */
	if (!ip->i_nlink)
		return -ENOENT;
	if (ip->i_nlink == UINT32_MAX)
		return -EMLINK;
	error = gfs2_dir_search(newdip, q, NULL, NULL);
	if (error != -ENOENT)
		return error ? error : -EEXIST;

	error = namei_read(both, 2, dibh);
	if (error)
		return error;
	error = namei_hold(&held, newdip, q);
	if (!error)
		error = namei_reserve(newdip, q, 0, false, &room);
	if (error)
		goto out_read;
	error = gfs2_trans_begin(sdp->sd_log, room.trans + 1, 0);
	if (error)
		goto out;
	error = gfs2_dir_add(newdip, q, ip, &room.ap);
	if (!error) {
		if (!SEEDED_BUG("link-nlink"))
			ip->i_nlink++;
		ip->i_ctime = current_time();
		error = gfs2_dinode_log(ip);
	}
	if (!error)
		gfs2_getattr(ip, st);
	error = namei_trans_end(sdp, error, "link");
out:
	namei_release(newdip, &room);
out_read:
	namei_held_end(&held);
	namei_read_end(dibh, 2);
	return error;
}

int gfs2_link(struct gfs2_inode *ip, struct gfs2_inode *newdip, const char *name, struct stat *st)
{
	struct gfs2_holder dgh, gh;
	struct gfs2_qname q;
	int error;

	if (ip->i_sbd->sd_ro)
		return -EROFS;
	error = namei_qname(name, true, &q);
	if (error)
		return error == -EINVAL ? -EEXIST : error;
	/*
	 * Only a file may be waited for while a directory is held: a directory could be an ancestor
	 * of @newdip.  The type never changes, but is known only once the inode has been read.
	 */
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);
	if (error)
		return error;
	if (gfs2_is_dir(ip))
		error = -EPERM;
	else if (ip == newdip)
		error = -ENOTDIR;
	gfs2_glock_dq_uninit(&gh);
	if (error)
		return error;

	error = gfs2_glock_nq_init(newdip->i_gl, LM_ST_EXCLUSIVE, 0, &dgh);
	if (error)
		return error;
	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh);
	if (!error) {
		error = link_locked(ip, newdip, &q, st);
		gfs2_glock_dq_uninit(&gh);
	}
	gfs2_glock_dq_uninit(&dgh);
	return error;
}

int gfs2_readlink(struct gfs2_inode *ip, char *buf, size_t len)
{
	struct gfs2_holder gh;
	struct gfs2_bh *bh;
	int error;

	error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);
	if (error)
		return error;
	if (!S_ISLNK(ip->i_mode)) {
		error = -EINVAL;
		goto out;
	}
	if (!gfs2_is_stuffed(ip) || !ip->i_size || ip->i_size >= gfs2_max_stuffed_size(ip)) {
		error = gfs2_consist(ip->i_sbd, ip->i_no_addr, "symbolic link of impossible length");
		goto out;
	}
	if (ip->i_size >= len) {
		error = -ENAMETOOLONG;
		goto out;
	}
	error = gfs2_meta_inode_buffer(ip, &bh);
	if (error)
		goto out;
	memcpy(buf, bh->b_data + sizeof(struct gfs2_dinode), ip->i_size);
	buf[ip->i_size] = '\0';
	buf_put(bh);
out:
	gfs2_glock_dq_uninit(&gh);
	return error;
}
