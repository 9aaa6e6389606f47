/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bytes of a flush: building the groups in memory, writing them along the journal's extents.
 * The flush lock guards all of it.
 *
 * Images are copied into memory that is laid out as the log is, so one request writes up to
 * LOG_CHUNK_BYTES, and transactions may change the buffers again as soon as the copies are made.
 */
#include "journal/log_internal.h"

static char *image_block(struct gfs2_log *log, uint32_t i)
{
	uint32_t per_chunk = LOG_CHUNK_BYTES / log->l_bsize;

	return log->l_image.chunks[i / per_chunk] + (size_t)(i % per_chunk) * log->l_bsize;
}

/* The next block of the log image; its memory is not cleared. */
static char *image_add(struct gfs2_log *log)
{
	struct log_image *img = &log->l_image;

	if ((uint64_t)img->nr * log->l_bsize == (uint64_t)img->nr_chunks * LOG_CHUNK_BYTES) {
		void *chunk = xaligned_alloc(4096, LOG_CHUNK_BYTES);

		img->chunks = grow_array(img->chunks, img->nr_chunks, &img->cap_chunks,
					 sizeof(*img->chunks));
		img->chunks[img->nr_chunks++] = chunk;
	}
	return image_block(log, img->nr++);
}

void log_image_trim(struct log_image *img, unsigned keep)
{
	while (img->nr_chunks > keep)
		free(img->chunks[--img->nr_chunks]);
	img->nr = 0;
}

/* --- groups --- */

/* JDATA before METADATA, each by home block. */
static int cmp_pins(const void *pa, const void *pb)
{
	const struct log_pin *a = pa, *b = pb;

	if (a->jdata != b->jdata)
		return a->jdata ? -1 : 1;
	return a->blkno < b->blkno ? -1 : a->blkno > b->blkno;
}

static int cmp_u64(const void *pa, const void *pb)
{
	uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;

	return a < b ? -1 : a > b;
}

static int build_meta_group(struct gfs2_log *log, const struct log_pin *p, uint32_t nr)
{
	char *ld = image_add(log);
	uint64_t *table = (uint64_t *)(ld + sizeof(struct gfs2_log_descriptor));

	log_descriptor_encode(ld, log->l_bsize, GFS2_LOG_DESC_METADATA, nr + 1, nr);
	for (uint32_t i = 0; i < nr; i++) {
		const struct gfs2_meta_header *mh = (const void *)p[i].bh->b_data;
		uint32_t type = be32_to_cpu(mh->mh_type);

		/* Replay would refuse the whole journal, or take the image for a part of the log. */
		if (mh->mh_magic != cpu_to_be32(GFS2_MAGIC) || type == GFS2_METATYPE_LH ||
		    type == GFS2_METATYPE_LD) {
			fs_err("log: block %llu was changed as metadata but has no header",
			       (unsigned long long)p[i].blkno);
			return -EIO;
		}
		table[i] = cpu_to_be64(p[i].blkno);
		memcpy(image_add(log), p[i].bh->b_data, log->l_bsize);
	}
	return 0;
}

static void build_jdata_group(struct gfs2_log *log, const struct log_pin *p, uint32_t nr)
{
	char *ld = image_add(log);
	uint64_t *table = (uint64_t *)(ld + sizeof(struct gfs2_log_descriptor));

	log_descriptor_encode(ld, log->l_bsize, GFS2_LOG_DESC_JDATA, nr + 1, nr);
	for (uint32_t i = 0; i < nr; i++) {
		char *image = image_add(log);
		__be32 *first = (__be32 *)image;

		memcpy(image, p[i].bh->b_data, log->l_bsize);
		table[2 * i] = cpu_to_be64(p[i].blkno);
		/* File contents that look like metadata are not to be taken for a part of the log. */
		if (*first == cpu_to_be32(GFS2_MAGIC)) {
			*first = 0;
			table[2 * i + 1] = cpu_to_be64(1);
		}
	}
}

static void build_revokes(struct gfs2_log *log, const uint64_t *rev, uint32_t nr)
{
	struct log_geometry g = { log->l_ldptrs, log->l_jdptrs, log->l_inptrs };
	uint32_t n = min_t(uint32_t, nr, log->l_ldptrs);
	char *block = image_add(log);
	uint64_t *table = (uint64_t *)(block + sizeof(struct gfs2_log_descriptor));

	log_descriptor_encode(block, log->l_bsize, GFS2_LOG_DESC_REVOKE, log_revoke_blocks(&g, nr), nr);
	for (;;) {
		for (uint32_t i = 0; i < n; i++)
			table[i] = cpu_to_be64(rev[i]);
		rev += n;
		nr -= n;
		if (!nr)
			return;
		block = image_add(log);
		log_continuation_encode(block, log->l_bsize);
		table = (uint64_t *)(block + sizeof(struct gfs2_meta_header));
		n = min_t(uint32_t, nr, log->l_inptrs);
	}
}

int log_build(struct gfs2_log *log)
{
	uint32_t nj = atomic_load_explicit(&log->o_nr_jdata, memory_order_relaxed);
	uint32_t nr = log_nr_pins(log);
	uint32_t nrev = atomic_load_explicit(&log->o_nr_rev, memory_order_relaxed);
	uint32_t i;

	log->l_image.nr = 0;
	/*
	 * With the gate closed nobody pins or frees; l_lock only for who looks a glock up among the
	 * pins meanwhile (ail.c).  The indexes in the block table are wrong until seal_batch().
	 */
	rmutex_lock(&log->l_lock);
	if (nr)
		qsort(log->o_pins, nr, sizeof(struct log_pin), cmp_pins);
	if (nrev)
		qsort(log->o_revokes, nrev, sizeof(uint64_t), cmp_u64);
	rmutex_unlock(&log->l_lock);

	for (i = 0; i < nj; i += log->l_jdptrs)
		build_jdata_group(log, log->o_pins + i, min_t(uint32_t, nj - i, log->l_jdptrs));
	for (i = nj; i < nr; i += log->l_ldptrs) {
		int rc = build_meta_group(log, log->o_pins + i, min_t(uint32_t, nr - i, log->l_ldptrs));

		if (rc)
			return rc;
	}
	if (nrev)
		build_revokes(log, log->o_revokes, nrev);
	return 0;
}

/* --- writing --- */

/* One request for as many blocks from @i on as lie together in memory and on the device. */
static uint32_t write_prepare(struct gfs2_log *log, uint64_t pos, uint32_t i, struct io_req *req)
{
	uint32_t per_chunk = LOG_CHUNK_BYTES / log->l_bsize;
	uint32_t len, n = min_t(uint32_t, log->l_image.nr - i, per_chunk - i % per_chunk);
	uint64_t dblock = journal_map_run(log->l_jd, (pos + i) % log->l_blocks, &len);

	n = min_t(uint32_t, n, len);
	io_req_init(req, IO_WRITE, IO_LOG, image_block(log, i), n * log->l_bsize, dblock * log->l_bsize);
	return n;
}

int log_write_image(struct gfs2_log *log, uint64_t pos)
{
	struct io_req *reqs = xmalloc(LOG_WRITES_AT_ONCE * sizeof(*reqs));
	uint32_t i = 0;
	int rc = 0;

	while (i < log->l_image.nr && !rc) {
		unsigned n = 0;

		while (i < log->l_image.nr && n < LOG_WRITES_AT_ONCE)
			i += write_prepare(log, pos, i, &reqs[n++]);
		rc = log_error(log) ? -EIO : io_run(log->l_engine, reqs, n);
	}
	free(reqs);
	return rc;
}

int log_write_header(struct gfs2_log *log, uint64_t sequence, uint64_t pos, uint64_t tail, uint32_t flags,
		     const int64_t local[3])
{
	const struct gfs2_jdesc *jd = log->l_jd;
	uint32_t blkno = pos % log->l_blocks;
	struct gfs2_log_header_args a = {
		.sequence = sequence,
		.jinode = jd->jd_no_addr,
		.statfs_addr = jd->jd_statfs_addr,
		.quota_addr = jd->jd_quota_addr,
		.addr = gfs2_journal_map(jd, blkno),
		.flags = flags,
		.tail = tail % log->l_blocks,
		.blkno = blkno,
		.jid = jd->jd_jid,
		.local = { local[0], local[1], local[2] },
		.time = current_time(),
	};
	struct io_req req;

	gfs2_log_header_encode(log->l_hdr, log->l_bsize, &a);
	io_req_init(&req, IO_WRITE, IO_LOG, log->l_hdr, log->l_bsize, a.addr * log->l_bsize);
	req.fua = true;
	return io_run(log->l_engine, &req, 1);
}
