/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal's blocks as bytes (reference gfs2-ondisk.md 8.1-8.3, 8.8), and where they are on the
 * device.  Pure functions.
 */
#include <sys/stat.h>
#include "journal/log_internal.h"

static void meta_header(void *block, uint32_t type, uint32_t format, uint32_t jid)
{
	struct gfs2_meta_header *mh = block;

	mh->mh_magic = cpu_to_be32(GFS2_MAGIC);
	mh->mh_type = cpu_to_be32(type);
	mh->mh_format = cpu_to_be32(format);
	mh->mh_jid = cpu_to_be32(jid);
}

#define LH_CRC_START offsetof(struct gfs2_log_header, lh_nsec)

void gfs2_log_header_encode(void *block, uint32_t bsize, const struct gfs2_log_header_args *a)
{
	struct gfs2_log_header *lh = block;

	memset(block, 0, bsize);
	meta_header(block, GFS2_METATYPE_LH, GFS2_FORMAT_LH, a->jid);
	lh->lh_sequence = cpu_to_be64(a->sequence);
	lh->lh_flags = cpu_to_be32(a->flags);
	lh->lh_tail = cpu_to_be32(a->tail);
	lh->lh_blkno = cpu_to_be32(a->blkno);
	/* lh_hash covers the version 1 part with the field itself zero, which it is here. */
	lh->lh_hash = cpu_to_be32(gfs2_crc32(0, block, offsetof(struct gfs2_log_header, lh_crc)));
	lh->lh_nsec = cpu_to_be32(a->time.tv_nsec);
	lh->lh_sec = cpu_to_be64(a->time.tv_sec);
	lh->lh_addr = cpu_to_be64(a->addr);
	lh->lh_jinode = cpu_to_be64(a->jinode);
	lh->lh_statfs_addr = cpu_to_be64(a->statfs_addr);
	lh->lh_quota_addr = cpu_to_be64(a->quota_addr);
	lh->lh_local_total = cpu_to_be64(a->local[0]);
	lh->lh_local_free = cpu_to_be64(a->local[1]);
	lh->lh_local_dinodes = cpu_to_be64(a->local[2]);
	lh->lh_crc = cpu_to_be32(gfs2_crc32c(0xffffffff, (char *)block + LH_CRC_START,
					     bsize - LH_CRC_START));
}

int gfs2_log_header_decode(const void *block, uint32_t bsize, struct gfs2_log_header_host *out)
{
	const struct gfs2_log_header *lh = block;
	char v1[offsetof(struct gfs2_log_header, lh_crc)];
	uint32_t crc;

	if (lh->lh_header.mh_magic != cpu_to_be32(GFS2_MAGIC) ||
	    lh->lh_header.mh_type != cpu_to_be32(GFS2_METATYPE_LH))
		return -EINVAL;
	memcpy(v1, block, sizeof(v1));
	memset(v1 + offsetof(struct gfs2_log_header, lh_hash), 0, sizeof(lh->lh_hash));
	if (gfs2_crc32(0, v1, sizeof(v1)) != be32_to_cpu(lh->lh_hash))
		return -EINVAL;
	crc = be32_to_cpu(lh->lh_crc);
	if (crc && crc != gfs2_crc32c(0xffffffff, (const char *)block + LH_CRC_START,
				      bsize - LH_CRC_START))
		return -EINVAL;

	out->lh_sequence = be64_to_cpu(lh->lh_sequence);
	out->lh_flags = be32_to_cpu(lh->lh_flags);
	out->lh_tail = be32_to_cpu(lh->lh_tail);
	out->lh_blkno = be32_to_cpu(lh->lh_blkno);
	out->lh_crc = crc;
	out->lh_statfs_addr = be64_to_cpu(lh->lh_statfs_addr);
	out->lh_local_total = (int64_t)be64_to_cpu(lh->lh_local_total);
	out->lh_local_free = (int64_t)be64_to_cpu(lh->lh_local_free);
	out->lh_local_dinodes = (int64_t)be64_to_cpu(lh->lh_local_dinodes);
	return 0;
}

struct log_geometry log_geometry(uint32_t bsize)
{
	struct log_geometry g;

	g.ldptrs = (bsize - sizeof(struct gfs2_log_descriptor)) / sizeof(uint64_t);
	g.jdptrs = g.ldptrs / 2;
	g.inptrs = (bsize - sizeof(struct gfs2_meta_header)) / sizeof(uint64_t);
	return g;
}

uint32_t log_revoke_blocks(const struct log_geometry *g, uint32_t n)
{
	if (!n)
		return 0;
	return n <= g->ldptrs ? 1 : 1 + DIV_ROUND_UP(n - g->ldptrs, g->inptrs);
}

uint32_t log_flush_blocks(const struct log_geometry *g, uint32_t jdata, uint32_t meta, uint32_t revokes)
{
	return jdata + DIV_ROUND_UP(jdata, g->jdptrs) + meta + DIV_ROUND_UP(meta, g->ldptrs) +
	       log_revoke_blocks(g, revokes);
}

void log_descriptor_encode(void *block, uint32_t bsize, uint32_t type, uint32_t length, uint32_t items)
{
	struct gfs2_log_descriptor *ld = block;

	memset(block, 0, bsize);
	/* mh_jid stays 0, as the kernel leaves it (reference 8.3). */
	meta_header(block, GFS2_METATYPE_LD, GFS2_FORMAT_LD, 0);
	ld->ld_type = cpu_to_be32(type);
	ld->ld_length = cpu_to_be32(length);
	ld->ld_data1 = cpu_to_be32(items);
}

void log_continuation_encode(void *block, uint32_t bsize)
{
	memset(block, 0, bsize);
	meta_header(block, GFS2_METATYPE_LB, GFS2_FORMAT_LB, 0);
}

uint64_t journal_map_run(const struct gfs2_jdesc *jd, uint32_t lblock, uint32_t *len)
{
	unsigned lo = 0, hi = jd->jd_nr_extents;

	GFS2_BUG_ON(lblock >= jd->jd_blocks);
	while (hi - lo > 1) {
		unsigned mid = lo + (hi - lo) / 2;

		if (jd->jd_extents[mid].lblock <= lblock)
			lo = mid;
		else
			hi = mid;
	}
	const struct gfs2_journal_extent *x = &jd->jd_extents[lo];

	GFS2_BUG_ON(lblock < x->lblock || lblock - x->lblock >= x->blocks);
	*len = x->blocks - (lblock - x->lblock);
	return x->dblock + (lblock - x->lblock);
}

uint64_t gfs2_journal_map(const struct gfs2_jdesc *jd, uint32_t lblock)
{
	uint32_t len;

	return journal_map_run(jd, lblock, &len);
}

bool gfs2_holds_statfs(const struct gfs2_dinode *di)
{
	return S_ISREG(be32_to_cpu(di->di_mode)) && !di->di_height && be64_to_cpu(di->di_size) >= sizeof(struct gfs2_statfs_change);
}
