/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The resource index: from the rindex file to the array of rgrps (kernel: rgrp.c:read_rindex_entry,
 * compute_bitstructs; reference gfs2-ondisk.md 3.1).
 *
 * Guarantees: what gfs2_rindex_read() accepted is in ascending order without overlaps, lies on the
 * device, and each rgrp's bitmap has exactly two bits per data block.  Pad and reserved bytes of the
 * entries are not looked at: mkfs leaves garbage there.
 */
#include <inttypes.h>
#include "fs/bmap.h"
#include "fs/rgrp_i.h"

#define CHUNK 128 /* entries read at once */

static int check_entry(struct gfs2_sbd *sdp, const struct gfs2_rgrpd *prev,
		       const struct gfs2_rgrpd *rgd)
{
	uint64_t first = prev ? prev->rd_data0 + prev->rd_data : sdp->sd_sb_block + 1;
	uint64_t cover = (uint64_t)(sdp->sd_bsize - sizeof(struct gfs2_rgrp)) +
			 (uint64_t)(rgd->rd_length - 1) *
				 (sdp->sd_bsize - sizeof(struct gfs2_meta_header));

	if (rgd->rd_addr < first)
		return gfs2_consist(sdp, rgd->rd_addr,
				    "rindex: resource groups overlap or are not in order");
	if (!rgd->rd_length || !rgd->rd_data || rgd->rd_data0 != rgd->rd_addr + rgd->rd_length)
		return gfs2_consist(sdp, rgd->rd_addr, "rindex: impossible length of a resource group");
	if (rgd->rd_data % GFS2_NBBY || rgd->rd_bitbytes != rgd->rd_data / GFS2_NBBY ||
	    rgd->rd_bitbytes > cover ||
	    (rgd->rd_length > 1 &&
	     rgd->rd_bitbytes <= cover - (sdp->sd_bsize - sizeof(struct gfs2_meta_header))))
		return gfs2_consist(sdp, rgd->rd_addr,
				    "rindex: bitmap and data blocks of a resource group differ");
	if (rgd->rd_data0 > sdp->sd_device_blocks ||
	    rgd->rd_data > sdp->sd_device_blocks - rgd->rd_data0) {
		fs_err("the device is smaller than the file system: a resource group ends at block "
		       "%" PRIu64 " of %" PRIu64, rgd->rd_data0 + rgd->rd_data,
		       sdp->sd_device_blocks);
		return -EINVAL;
	}
	if (rgd->rd_data0 + rgd->rd_data > 1ull << GFS2_NODE_ADDR_BITS) {
		fs_err("the file system has more than 2^%u blocks: not supported", GFS2_NODE_ADDR_BITS);
		return -EFBIG;
	}
	return 0;
}

static void entry_in(struct gfs2_rgrpd *rgd, const struct gfs2_rindex *ri)
{
	rgd->rd_addr = be64_to_cpu(ri->ri_addr);
	rgd->rd_length = be32_to_cpu(ri->ri_length);
	rgd->rd_data0 = be64_to_cpu(ri->ri_data0);
	rgd->rd_data = be32_to_cpu(ri->ri_data);
	rgd->rd_bitbytes = be32_to_cpu(ri->ri_bitbytes);
}

/* Read and check all entries; *@out has nothing but the geometry. */
static int read_entries(struct gfs2_sbd *sdp, struct gfs2_rgrpd **out, unsigned *nr)
{
	struct gfs2_inode *ip = sdp->sd_rindex;
	uint64_t total = ip->i_size / sizeof(struct gfs2_rindex), done = 0;
	struct gfs2_rindex *chunk;
	struct gfs2_rgrpd *rgs = NULL;
	int err = 0;

	if (!total || ip->i_size % sizeof(struct gfs2_rindex) || total > sdp->sd_device_blocks)
		return gfs2_consist(sdp, ip->i_no_addr, "rindex: impossible file size");
	chunk = xmalloc(CHUNK * sizeof(*chunk));
	/* The array grows with what has been checked: a wrong size costs no memory. */
	while (done < total && !err) {
		uint32_t n = (uint32_t)min_t(uint64_t, CHUNK, total - done);
		uint32_t bytes = n * (uint32_t)sizeof(*chunk);
		struct gfs2_rgrpd *more = realloc(rgs, (done + n) * sizeof(*rgs));

		err = more ? 0 : -ENOMEM;
		if (err)
			break;
		rgs = more;
		err = gfs2_internal_read(ip, chunk, done * sizeof(*chunk), bytes);
		if (err >= 0)
			err = (uint32_t)err == bytes ? 0 : -EIO;
		for (uint32_t i = 0; i < n && !err; i++, done++) {
			memset(&rgs[done], 0, sizeof(*rgs));
			entry_in(&rgs[done], &chunk[i]);
			err = check_entry(sdp, done ? &rgs[done - 1] : NULL, &rgs[done]);
		}
	}
	free(chunk);
	if (err) {
		free(rgs);
		return err;
	}
	*out = rgs;
	*nr = (unsigned)total;
	return 0;
}

void rgrp_make_bits(struct gfs2_rgrpd *rgd)
{
	uint32_t left = rgd->rd_bitbytes, start = 0;

	if (rgd->rd_bits)
		return;
	rgd->rd_bits = xzalloc(rgd->rd_length * sizeof(*rgd->rd_bits));
	for (unsigned b = 0; b < rgd->rd_length; b++) {
		struct gfs2_rbitmap *bi = &rgd->rd_bits[b];
		uint32_t space;

		bi->bi_offset = b ? sizeof(struct gfs2_meta_header) : sizeof(struct gfs2_rgrp);
		space = rgd->rd_sbd->sd_bsize - bi->bi_offset;
		bi->bi_bytes = min_t(uint32_t, left, space);
		bi->bi_start = start;
		bi->bi_blocks = bi->bi_bytes * GFS2_NBBY;
		left -= bi->bi_bytes;
		start += bi->bi_blocks;
	}
	GFS2_BUG_ON(left);
}

static void rgrp_setup(struct gfs2_sbd *sdp, struct gfs2_rgrpd *rgd, unsigned index)
{
	rgd->rd_sbd = sdp;
	rgd->rd_index = index;
	rgd->rd_longest = NO_BLOCK;
	atomic_init(&rgd->rd_hint_free, HINT_UNKNOWN);
	atomic_init(&rgd->rd_hint_lvb, false);
	atomic_init(&rgd->rd_claimed, 0);
	rgd->rd_gl = gfs2_glock_get(sdp->sd_glocks, rgd->rd_addr, &gfs2_rgrp_glops);
	glock_set_object(rgd->rd_gl, rgd);
}

int gfs2_rindex_read(struct gfs2_sbd *sdp)
{
	struct gfs2_rgrpd *array = NULL;
	struct gfs2_rgrps *rgs;
	struct gfs2_holder gh;
	unsigned nr = 0;
	int err = gfs2_glock_nq_init(sdp->sd_rindex->i_gl, LM_ST_SHARED, 0, &gh);

	if (err)
		return err;
	err = read_entries(sdp, &array, &nr);
	gfs2_glock_dq_uninit(&gh);
	if (err)
		return err;
	rgs = xzalloc(sizeof(*rgs));
	rgs->rg = array;
	rgs->nr = nr;
	sdp->sd_rgrps = rgs;
	for (unsigned i = 0; i < nr; i++)
		rgrp_setup(sdp, &array[i], i);
	return 0;
}

void gfs2_rgrps_destroy(struct gfs2_sbd *sdp)
{
	struct gfs2_rgrps *rgs = sdp->sd_rgrps;

	if (!rgs)
		return;
	for (unsigned i = 0; i < rgs->nr; i++) {
		struct gfs2_rgrpd *rgd = &rgs->rg[i];

		glock_clear_object(rgd->rd_gl, rgd);
		rgrp_release(rgd);
		gfs2_glock_put(rgd->rd_gl);
		free(rgd->rd_pending);
		free(rgd->rd_bits);
		free(rgd->rd_resv);
	}
	free(rgs->rg);
	free(rgs);
	sdp->sd_rgrps = NULL;
}
