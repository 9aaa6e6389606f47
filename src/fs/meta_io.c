/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metadata buffers: read and checked, or made (kernel: meta_io.c, util.h:gfs2_metatype_check_i).
 *
 * Every block with a header passes gfs2_meta_read(): what comes out has the magic and the type
 * asked for.  mh_format is not looked at, as everywhere in the kernel (reference 1.3).
 * Callers hold the glock whose mapping the block belongs to.
 */
#include <inttypes.h>
#include "fs/super.h"
#include "util/util.h"

static int check_header(struct gfs2_sbd *sdp, const struct gfs2_bh *bh, uint32_t type)
{
	const struct gfs2_meta_header *mh = (const void *)bh->b_data;

	if (be32_to_cpu(mh->mh_magic) != GFS2_MAGIC)
		return gfs2_consist(sdp, bh->b_blocknr, "the block has no metadata header");
	if (type && be32_to_cpu(mh->mh_type) != type) {
		fs_err_limited("block %" PRIu64 ": found type %" PRIu32 ", expected %" PRIu32,
			       bh->b_blocknr, be32_to_cpu(mh->mh_type), type);
		return gfs2_consist(sdp, bh->b_blocknr, "metadata block of the wrong type");
	}
	return 0;
}

/*
 * No volume that is whole gets here:
 *  - what is freed leaves the log and the cache in the transaction that frees it, metadata, journaled and plain data alike
 *    (gfs2_journal_wipe()), and is not allocated again before that is durable;
 *  - what another node frees it has the lock for: by then nothing of the lock's is left in the log or dirty here (inode_go_sync());
 *  - when a file's data become journaled ones, or the other way round, all of them are in place and dropped first (settle_data());
 *  - an inode goes with clean and empty ip->i_data; its metadata are its glock's, which stays as long as the log has any of them, and is found
 *    again by the next inode in core of that number.
 */
int gfs2_check_owner(struct gfs2_sbd *sdp, const struct gfs2_bh *bh, const struct gfs2_mapping *m)
{
	if (likely(buf_is_of(bh, m)))
		return 0;
	return gfs2_consist(sdp, bh->b_blocknr, "the block is used twice");
}

int gfs2_meta_read(struct gfs2_sbd *sdp, struct gfs2_glock *gl, uint64_t blkno, uint32_t type,
		   struct gfs2_bh **out)
{
	struct gfs2_bh *bh;
	int err;

	*out = NULL;
	if (gfs2_withdrawn(sdp))
		return -EIO;
	if (sb_is_system_range(sdp, blkno))
		return gfs2_consist(sdp, blkno, "pointer to a block outside the file system");
	err = buf_read(&gl->gl_mapping, blkno, &bh);
	if (err) {
		fs_err_limited("cannot read metadata block %" PRIu64 ": %s", blkno, strerror(-err));
		return -EIO;
	}
	err = gfs2_check_owner(sdp, bh, &gl->gl_mapping);
	if (!err)
		err = check_header(sdp, bh, type);
	if (err) {
		buf_put(bh);
		return err;
	}
	*out = bh;
	return 0;
}

void gfs2_metatype_set(struct gfs2_bh *bh, uint32_t type, uint32_t format)
{
	struct gfs2_meta_header *mh = (void *)bh->b_data;

	mh->mh_magic = cpu_to_be32(GFS2_MAGIC);
	mh->mh_type = cpu_to_be32(type);
	mh->mh_format = cpu_to_be32(format);
}

int gfs2_meta_new(struct gfs2_sbd *sdp, struct gfs2_glock *gl, uint64_t blkno, uint32_t type,
		  uint32_t format, struct gfs2_bh **out)
{
	struct gfs2_bh *bh = buf_get(&gl->gl_mapping, blkno);
	int error = gfs2_check_owner(sdp, bh, &gl->gl_mapping);

	if (error) {
		buf_put(bh);
		return error;
	}
	/* The header first: gfs2_trans_add_meta() puts the journal id into it. */
	memset(bh->b_data, 0, sdp->sd_bsize);
	gfs2_metatype_set(bh, type, format);
	buf_set_uptodate(bh);
	gfs2_trans_add_meta(sdp->sd_log, gl, bh);
	*out = bh;
	return 0;
}
