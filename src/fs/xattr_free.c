/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Freeing the extended attributes of an inode that is deleted (kernel: xattr.c:gfs2_ea_dealloc;
 * reference gfs2-ondisk.md 6.5).  Every transaction on the way leaves a consistent volume, and one
 * that the kernel can go on with: it looks at pointers up to the first zero, so the last go first.
 */
#include "fs/dealloc.h"
#include "fs/eattr.h"
#include "fs/xattr.h"

/* Collect the ED blocks that the records in EA block @bh point to. */
static int ea_collect_data(struct gfs2_dealloc *d, struct gfs2_bh *bh)
{
	struct gfs2_ea_header *ea;
	struct ea_walk w;

	ea_walk_init(&w, d->ip->i_sbd, bh->b_data);
	/* Unused ones too: a crash can leave pointers there. */
	while ((ea = ea_next(&w))) {
		for (unsigned i = ea->ea_num_ptrs; i--;) {
			__be64 *ptr = &ea_ptrs(ea)[i];
			int error = 0;

			if (*ptr)
				error = gfs2_dealloc_add(d, bh, (uint32_t)((char *)ptr - bh->b_data),
							 be64_to_cpu(*ptr), true);
			if (!error && gfs2_dealloc_full(d))
				error = gfs2_dealloc_commit(d, false);
			if (error)
				return error;
		}
	}
	return w.rule ? ea_damaged(d->ip, bh, w.rule) : 0;
}

/*
 * Collect one EA block and what it points to; the pointer to it is at @off of @parent (NULL: in
 * the dinode).
 */
static int ea_collect_block(struct gfs2_dealloc *d, struct gfs2_bh *parent, uint32_t off,
			    uint64_t blkno)
{
	struct gfs2_inode *ip = d->ip;
	struct gfs2_bh *bh;
	int error = gfs2_check_pointer(ip, blkno);

	if (!error)
		error = gfs2_meta_read(ip->i_sbd, ip->i_gl, blkno, GFS2_METATYPE_EA, &bh);
	if (error)
		return error;
	error = ea_collect_data(d, bh);
	if (!error) {
		gfs2_dealloc_drop_clears(d, bh);
		error = gfs2_dealloc_add(d, parent, off, blkno, true);
	}
	buf_put(bh);
	return error;
}

/* EA_INDIRECT: an indirect block full of pointers to EA blocks. */
static int ea_collect_indirect(struct gfs2_dealloc *d)
{
	struct gfs2_inode *ip = d->ip;
	struct gfs2_bh *bh;
	int error = gfs2_check_pointer(ip, ip->i_eattr);

	if (!error)
		error = gfs2_meta_read(ip->i_sbd, ip->i_gl, ip->i_eattr, GFS2_METATYPE_IN, &bh);
	if (error)
		return error;
	for (unsigned i = ip->i_sbd->sd_inptrs; i-- && !error;) {
		__be64 *ptr = gfs2_metaptrs(bh, 1) + i;

		if (*ptr)
			error = ea_collect_block(d, bh, (uint32_t)((char *)ptr - bh->b_data),
						 be64_to_cpu(*ptr));
		if (!error && gfs2_dealloc_full(d))
			error = gfs2_dealloc_commit(d, false);
	}
	if (!error) {
		gfs2_dealloc_drop_clears(d, bh);
		error = gfs2_dealloc_add(d, NULL, 0, ip->i_eattr, true);
	}
	buf_put(bh);
	return error;
}

static int ea_finish(struct gfs2_dealloc *d, struct gfs2_bh *dibh, bool last)
{
	if (!last)
		return 0;
	d->ip->i_eattr = 0;
	d->ip->i_diskflags &= ~(uint32_t)GFS2_DIF_EA_INDIRECT;
	return 0;
}

int gfs2_ea_dealloc(struct gfs2_inode *ip)
{
	struct gfs2_dealloc *d = gfs2_dealloc_new(ip);
	int error;

	d->finish = ea_finish;
	if (ip->i_diskflags & GFS2_DIF_EA_INDIRECT)
		error = ea_collect_indirect(d);
	else
		error = ea_collect_block(d, NULL, 0, ip->i_eattr);
	if (!error)
		error = gfs2_dealloc_commit(d, true);
	gfs2_dealloc_free(d);
	return error;
}
