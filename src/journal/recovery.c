/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Recovery of a journal (reference gfs2-ondisk.md 8.9, 8.10): find the newest header, replay what
 * it says, leave a clean header.
 *
 * The journal may have been written by anybody, or be damaged, so nothing in it is believed: groups must lie
 * between tail and head, counts must fit their blocks, home blocks must be on the volume and not in
 * the journal.  Three walks over the active region:
 *   1. revokes are collected, everything that descriptors say is checked
 *   2. images: revoked ones are left out, of several of one block the last one counts; metadata must
 *      look like it
 *   3. these are written
 * so a damaged journal is refused before the first block is written.
 *
 * Crash during recovery: starting over gives the same result.  That holds for the block counts, too, where the
 * kernel may count a journal twice: see "statfs".
 */
#include "journal/log_internal.h"

#define WINDOW_BYTES (1u << 20)
#define REPLAY_AT_ONCE 256

/* Reads the journal through a window of consecutive blocks. */
struct reader {
	struct io_engine *e;
	uint32_t bsize;
	const struct gfs2_jdesc *jd;
	char *window;
	uint32_t start, len;	/* blocks in the window */
};

static int reader_init(struct reader *r, struct io_engine *e, uint32_t bsize,
		       const struct gfs2_jdesc *jd)
{
	void *mem;

	*r = (struct reader){ .e = e, .bsize = bsize, .jd = jd };
	if (posix_memalign(&mem, 4096, WINDOW_BYTES))
		return -ENOMEM;
	r->window = mem;
	return 0;
}

/* Block @lblock, valid until the next call. */
static int read_block(struct reader *r, uint32_t lblock, const void **out)
{
	uint64_t dblock;
	uint32_t len;
	int rc;

	if (lblock - r->start >= r->len || lblock < r->start) {
		dblock = journal_map_run(r->jd, lblock, &len);
		len = min_t(uint32_t, len, WINDOW_BYTES / r->bsize);
		r->len = 0;
		rc = io_read(r->e, IO_LOG, r->window, len * r->bsize, dblock * r->bsize);
		if (rc) {
			fs_err("jid=%u: error %d reading journal block %u", r->jd->jd_jid, rc, lblock);
			return rc;
		}
		r->start = lblock;
		r->len = len;
	}
	*out = r->window + (size_t)(lblock - r->start) * r->bsize;
	return 0;
}

/* --- the head --- */

static int find_jhead(struct reader *r, struct gfs2_log_header_host *head)
{
	struct gfs2_log_header_host lh;
	bool found = false;
	const void *block;

	for (uint32_t b = 0; b < r->jd->jd_blocks; b++) {
		int rc = read_block(r, b, &block);

		if (rc)
			return rc;
		if (gfs2_log_header_decode(block, r->bsize, &lh) || lh.lh_blkno != b)
			continue;
		/* Numbers grow from block to block; where they fall the older lap begins. */
		if (found && lh.lh_sequence < head->lh_sequence)
			return 0;
		*head = lh;
		found = true;
	}
	if (found)
		return 0;
	fs_err("jid=%u: no valid log header in the journal", r->jd->jd_jid);
	return -EIO;
}

int gfs2_find_jhead(struct io_engine *e, uint32_t bsize, const struct gfs2_jdesc *jd,
		    struct gfs2_log_header_host *head)
{
	struct reader r;
	int rc = reader_init(&r, e, bsize, jd);

	if (rc)
		return rc;
	rc = find_jhead(&r, head);
	free(r.window);
	return rc;
}

/* --- walking --- */

struct replay {
	struct reader r;
	struct gfs2_log_header_host head;
	struct log_geometry g;
	uint64_t nr_blocks;	/* of the volume */
	/* by home block; rev: journal block of the last revoke + 1, ail: of the image to replay + 1 */
	struct blktab tab;
	char *ld;		/* copy of the current descriptor */
	char *images;		/* REPLAY_AT_ONCE blocks to be written */
	uint64_t home[REPLAY_AT_ONCE];
	unsigned nr;
	struct gfs2_recovery_result *res;
};

static int corrupt(const struct replay *rp, uint32_t lblock, const char *what)
{
	fs_err("jid=%u: journal block %u: %s", rp->r.jd->jd_jid, lblock, what);
	return -EIO;
}

static uint32_t add_lblock(const struct replay *rp, uint32_t lblock, uint32_t n)
{
	return ((uint64_t)lblock + n) % rp->r.jd->jd_blocks;
}

typedef int (*group_fn)(struct replay *rp, uint32_t lblock, uint32_t type, uint32_t length,
			uint32_t items);

/* Descriptor at @lblock with @room blocks to the head: -EIO or its length. */
static int walk_descriptor(struct replay *rp, uint32_t lblock, uint32_t room, const void *block,
			   group_fn fn)
{
	const struct gfs2_log_descriptor *ld = (const void *)rp->ld;
	uint32_t type, length, items, need;
	uint64_t max;
	int rc;

	memcpy(rp->ld, block, rp->r.bsize);
	type = be32_to_cpu(ld->ld_type);
	length = be32_to_cpu(ld->ld_length);
	items = be32_to_cpu(ld->ld_data1);
	if (length < 1 || length > room)
		return corrupt(rp, lblock, "descriptor reaches beyond the head of the log");
	switch (type) {
	case GFS2_LOG_DESC_METADATA:
	case GFS2_LOG_DESC_JDATA:
		max = type == GFS2_LOG_DESC_JDATA ? rp->g.jdptrs : rp->g.ldptrs;
		need = items;
		break;
	case GFS2_LOG_DESC_REVOKE:
		max = rp->g.ldptrs + (uint64_t)rp->g.inptrs * (length - 1);
		need = items ? log_revoke_blocks(&rp->g, min_t(uint64_t, items, max)) - 1 : 0;
		break;
	default:
		return corrupt(rp, lblock, "descriptor of unknown type");
	}
	if (items > max || need > length - 1)
		return corrupt(rp, lblock, "descriptor has more items than blocks");
	rc = fn(rp, lblock, type, length, items);
	return rc ? rc : (int)length;
}

/* Call @fn for every group between tail and head. */
static int walk(struct replay *rp, group_fn fn)
{
	uint32_t s = rp->head.lh_tail;
	uint32_t jblocks = rp->r.jd->jd_blocks;

	if (s >= jblocks)
		return corrupt(rp, rp->head.lh_blkno, "log header with a tail outside of the journal");
	while (s != rp->head.lh_blkno) {
		uint32_t room = (rp->head.lh_blkno + jblocks - s) % jblocks;
		const struct gfs2_meta_header *mh;
		struct gfs2_log_header_host lh;
		const void *block;
		int n = read_block(&rp->r, s, &block);

		if (n)
			return n;
		mh = block;
		if (mh->mh_magic != cpu_to_be32(GFS2_MAGIC))
			return corrupt(rp, s, "neither log header nor descriptor");
		if (mh->mh_type == cpu_to_be32(GFS2_METATYPE_LD)) {
			n = walk_descriptor(rp, s, room, block, fn);
			if (n < 0)
				return n;
		} else if (gfs2_log_header_decode(block, rp->r.bsize, &lh) || lh.lh_blkno != s) {
			return corrupt(rp, s, "neither log header nor descriptor");
		} else {
			n = 1;
		}
		s = add_lblock(rp, s, n);
	}
	return 0;
}

/* --- first walk: revokes and checks --- */

static int check_home(const struct replay *rp, uint32_t lblock, uint64_t blkno)
{
	const struct gfs2_jdesc *jd = rp->r.jd;

	/* The superblock and what is before it is never logged. */
	if (blkno <= GFS2_SB_ADDR * GFS2_BASIC_BLOCK / rp->r.bsize || blkno >= rp->nr_blocks) {
		fs_err("jid=%u: journal block %u: home block %llu is outside of the volume", jd->jd_jid,
		       lblock, (unsigned long long)blkno);
		return -EIO;
	}
	for (unsigned i = 0; i < jd->jd_nr_extents; i++) {
		if (blkno - jd->jd_extents[i].dblock >= jd->jd_extents[i].blocks)
			continue;
		fs_err("jid=%u: journal block %u: home block %llu is in the journal itself",
		       jd->jd_jid, lblock, (unsigned long long)blkno);
		return -EIO;
	}
	return 0;
}

/* Home block of item @i of the current image group. */
static uint64_t group_home(const struct replay *rp, uint32_t type, uint32_t i, bool *escaped)
{
	const __be64 *table = (const __be64 *)(rp->ld + sizeof(struct gfs2_log_descriptor));

	*escaped = type == GFS2_LOG_DESC_JDATA && table[2 * i + 1];
	return be64_to_cpu(table[type == GFS2_LOG_DESC_JDATA ? 2 * i : i]);
}

static int scan_revokes(struct replay *rp, uint32_t lblock, uint32_t items)
{
	const __be64 *table = (const __be64 *)(rp->ld + sizeof(struct gfs2_log_descriptor));
	uint32_t n = min_t(uint32_t, items, rp->g.ldptrs);

	for (;;) {
		const struct gfs2_meta_header *mh;
		const void *block;
		int rc;

		for (uint32_t i = 0; i < n; i++) {
			uint64_t blkno = be64_to_cpu(table[i]);

			if (!blkno || blkno >= rp->nr_blocks)
				return corrupt(rp, lblock, "revoke of a block outside of the volume");
			blktab_get(&rp->tab, blkno)->rev = lblock + 1;
			rp->res->revokes++;
		}
		items -= n;
		if (!items)
			return 0;
		lblock = add_lblock(rp, lblock, 1);
		rc = read_block(&rp->r, lblock, &block);
		if (rc)
			return rc;
		mh = block;
		if (mh->mh_magic != cpu_to_be32(GFS2_MAGIC) || mh->mh_type != cpu_to_be32(GFS2_METATYPE_LB))
			return corrupt(rp, lblock, "no continuation of the revokes");
		table = (const __be64 *)((const char *)block + sizeof(*mh));
		n = min_t(uint32_t, items, rp->g.inptrs);
	}
}

static int scan_group(struct replay *rp, uint32_t lblock, uint32_t type, uint32_t length,
		      uint32_t items)
{
	bool escaped;

	if (type == GFS2_LOG_DESC_REVOKE)
		return scan_revokes(rp, lblock, items);
	for (uint32_t i = 0; i < items; i++) {
		int rc = check_home(rp, lblock, group_home(rp, type, i, &escaped));

		if (rc)
			return rc;
	}
	rp->res->blocks_found += items;
	return 0;
}

/* --- second walk: which images --- */

/* Does the last revoke of the block come after its image in journal block @w? */
static bool revoked(const struct replay *rp, const struct log_block *b, uint32_t w)
{
	uint32_t t = rp->head.lh_tail, r;

	if (!b || !b->rev)
		return false;
	r = b->rev - 1;
	return r >= t ? t < w && w < r : t < w || w < r;
}

static int choose_group(struct replay *rp, uint32_t lblock, uint32_t type, uint32_t length,
			uint32_t items)
{
	bool escaped;

	if (type == GFS2_LOG_DESC_REVOKE)
		return 0;
	for (uint32_t i = 0; i < items; i++) {
		uint32_t w = add_lblock(rp, lblock, 1 + i);
		struct log_block *b = blktab_get(&rp->tab, group_home(rp, type, i, &escaped));
		const __be32 *image;
		const void *block;
		int rc;

		if (revoked(rp, b, w))
			continue;
		b->ail = w + 1;
		rp->res->blocks_replayed++;
		if (type != GFS2_LOG_DESC_METADATA)
			continue;
		rc = read_block(&rp->r, w, &block);
		if (rc)
			return rc;
		image = block;
		if (*image != cpu_to_be32(GFS2_MAGIC))
			return corrupt(rp, w, "image of a metadata block is none");
	}
	return 0;
}

/* --- third walk: writing --- */

static int cmp_order(const void *pa, const void *pb, void *home)
{
	uint64_t a = ((uint64_t *)home)[*(const unsigned *)pa];
	uint64_t b = ((uint64_t *)home)[*(const unsigned *)pb];

	return a < b ? -1 : a > b;
}

static int write_images(struct replay *rp)
{
	struct io_req *reqs = calloc(REPLAY_AT_ONCE, sizeof(*reqs));
	unsigned order[REPLAY_AT_ONCE];
	uint32_t bsize = rp->r.bsize;
	int rc;

	if (!reqs)
		return -ENOMEM;
	for (unsigned i = 0; i < rp->nr; i++)
		order[i] = i;
	qsort_r(order, rp->nr, sizeof(order[0]), cmp_order, rp->home);
	for (unsigned i = 0; i < rp->nr; i++)
		io_req_init(&reqs[i], IO_WRITE, IO_META, rp->images + (size_t)order[i] * bsize, bsize,
			    rp->home[order[i]] * bsize);
	rc = rp->nr ? io_run(rp->r.e, reqs, rp->nr) : 0;
	rp->nr = 0;
	free(reqs);
	return rc;
}

static int replay_group(struct replay *rp, uint32_t lblock, uint32_t type, uint32_t length,
			uint32_t items)
{
	if (type == GFS2_LOG_DESC_REVOKE)
		return 0;
	for (uint32_t i = 0; i < items; i++) {
		uint32_t w = add_lblock(rp, lblock, 1 + i);
		char *image = rp->images + (size_t)rp->nr * rp->r.bsize;
		const void *block;
		bool escaped;
		uint64_t home = group_home(rp, type, i, &escaped);
		int rc;

		if (blktab_get(&rp->tab, home)->ail != w + 1)
			continue;
		rc = read_block(&rp->r, w, &block);
		if (rc)
			return rc;
		memcpy(image, block, rp->r.bsize);
		if (escaped)
			*(__be32 *)image = cpu_to_be32(GFS2_MAGIC);
		rp->home[rp->nr++] = home;
		if (rp->nr == REPLAY_AT_ONCE) {
			rc = write_images(rp);
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* --- statfs, clean header --- */

/*
 * The local counts are added to the master record once, although the recovery may end at any moment before the clean header, and
 * be done again by another node: who adds them leaves a mark beside the sum, in the same sector, which names the journal and its
 * head.  Who finds the mark does not add.  It is taken away after the clean header, so normally there is none.
 *
 * Why not a transaction with the sum, in the journal that is being recovered: if the recovering node dies its own counts are added,
 * too, maybe before that journal is looked at again, whose replay would then put the old sum back.  A mark stays with the sum
 * whatever is added or logged meanwhile, in whatever order, for everybody changes the block as a whole.
 *
 * Nobody else looks behind the 24 bytes of the record: to the kernel and to fsck.gfs2 the file ends there.  So the kernel, if it is the
 * next to recover the journal, adds once more, as after a recovery of its own that did not end; fsck.gfs2 counts anew.  A mark that was
 * left behind, after the header or by a journal that one of these recovered, names a head that does not come again.
 */
struct statfs_mark {
	__be64 sequence;
	__be32 crc;
	__be32 jid;	/* + 1; 0: free, and so are all after it */
};
#define MARKS_OFFSET (sizeof(struct gfs2_dinode) + sizeof(struct gfs2_statfs_change))
#define NR_MARKS 16	/* recoveries that are not over; the oldest gives way */
_Static_assert(MARKS_OFFSET + NR_MARKS * sizeof(struct statfs_mark) <= GFS2_BASIC_BLOCK,
	       "one sector: written whole or not at all");

static struct statfs_mark *block_marks(const struct replay *rp)
{
	return (struct statfs_mark *)(rp->images + MARKS_OFFSET);
}

/* NR_MARKS: none. */
static unsigned find_mark(const struct statfs_mark *m, uint32_t key)
{
	unsigned i = 0;

	while (i < NR_MARKS && be32_to_cpu(m[i].jid) != key)
		i++;
	return i;
}

static void drop_mark(struct statfs_mark *m, unsigned i)
{
	if (i >= NR_MARKS)
		return;
	memmove(m + i, m + i + 1, (NR_MARKS - 1 - i) * sizeof(*m));
	memset(m + NR_MARKS - 1, 0, sizeof(*m));
}

static struct statfs_mark own_mark(const struct replay *rp)
{
	return (struct statfs_mark){
		.sequence = cpu_to_be64(rp->head.lh_sequence),
		.crc = cpu_to_be32(rp->head.lh_crc),
		.jid = cpu_to_be32(rp->r.jd->jd_jid + 1),
	};
}

static void set_mark(const struct replay *rp)
{
	struct statfs_mark *m = block_marks(rp);

	drop_mark(m, find_mark(m, rp->r.jd->jd_jid + 1));
	if (find_mark(m, 0) == NR_MARKS)
		drop_mark(m, 0);
	m[find_mark(m, 0)] = own_mark(rp);
}

static bool is_marked(const struct replay *rp)
{
	const struct statfs_mark *m = block_marks(rp), own = own_mark(rp);
	unsigned i = find_mark(m, rp->r.jd->jd_jid + 1);

	return i < NR_MARKS && !memcmp(&m[i], &own, sizeof(own));
}

/* The dinode of a statfs file, into rp->images. */
static int read_statfs(struct replay *rp, uint64_t addr)
{
	const struct gfs2_dinode *di = (const struct gfs2_dinode *)rp->images;
	uint32_t bsize = rp->r.bsize;
	int rc = io_read(rp->r.e, IO_META, rp->images, bsize, addr * bsize);

	if (rc)
		return rc;
	if (di->di_header.mh_magic != cpu_to_be32(GFS2_MAGIC) ||
	    di->di_header.mh_type != cpu_to_be32(GFS2_METATYPE_DI) ||
	    di->di_num.no_addr != cpu_to_be64(addr) || !gfs2_holds_statfs(di)) {
		fs_err("jid=%u: block %llu is not the dinode of a statfs file", rp->r.jd->jd_jid,
		       (unsigned long long)addr);
		return -EIO;
	}
	return 0;
}

static int write_statfs(struct replay *rp, uint64_t addr)
{
	return io_write(rp->r.e, IO_META, rp->images, rp->r.bsize, addr * rp->r.bsize);
}

static __be64 *block_counts(const struct replay *rp)
{
	return (__be64 *)(rp->images + sizeof(struct gfs2_dinode));
}

static bool has_counts(const struct replay *rp)
{
	return rp->head.lh_local_total || rp->head.lh_local_free || rp->head.lh_local_dinodes;
}

static int add_to_master(struct replay *rp, uint64_t master)
{
	const struct gfs2_log_header_host *h = &rp->head;
	const int64_t local[3] = { h->lh_local_total, h->lh_local_free, h->lh_local_dinodes };
	int rc = read_statfs(rp, master);

	if (rc)
		return rc;
	if (is_marked(rp)) {
		fs_info("jid=%u: its block counts were added by a recovery that did not end", rp->r.jd->jd_jid);
		return 0;
	}
	for (int i = 0; i < 3; i++)
		block_counts(rp)[i] = cpu_to_be64(be64_to_cpu(block_counts(rp)[i]) + (uint64_t)local[i]);
	set_mark(rp);
	return write_statfs(rp, master);
}

static int zero_local(struct replay *rp)
{
	uint64_t addr = rp->r.jd->jd_statfs_addr;
	int rc = read_statfs(rp, addr);

	if (rc)
		return rc;
	memset(block_counts(rp), 0, sizeof(struct gfs2_statfs_change));
	return write_statfs(rp, addr);
}

/*
 * The transactions between the last sync of the local counts and the crash are in no master record but
 * in the header (reference 2.3): add them, then the local file must not be counted again.
 */
static int recover_statfs(struct replay *rp, uint64_t master)
{
	int rc = has_counts(rp) ? add_to_master(rp, master) : 0;

	return rc ? rc : zero_local(rp);
}

/* The clean header is durable. */
static int forget_mark(struct replay *rp, uint64_t master)
{
	struct statfs_mark *m;
	int rc = has_counts(rp) ? read_statfs(rp, master) : 0;

	if (rc || !has_counts(rp))
		return rc;
	m = block_marks(rp);
	drop_mark(m, find_mark(m, rp->r.jd->jd_jid + 1));
	return write_statfs(rp, master);
}

static int write_clean_header(struct replay *rp, unsigned mh_jid)
{
	const struct gfs2_jdesc *jd = rp->r.jd;
	uint32_t blkno = add_lblock(rp, rp->head.lh_blkno, 1);
	struct gfs2_log_header_args a = {
		.sequence = rp->head.lh_sequence + 1,
		.jinode = jd->jd_no_addr,
		.addr = gfs2_journal_map(jd, blkno),
		.flags = GFS2_LOG_HEAD_UNMOUNT | GFS2_LOG_HEAD_RECOVERY,
		.blkno = blkno,
		.jid = mh_jid,
		.time = current_time(),
	};
	int rc;

	gfs2_log_header_encode(rp->images, rp->r.bsize, &a);
	rc = io_write(rp->r.e, IO_LOG, rp->images, rp->r.bsize, a.addr * rp->r.bsize);
	if (!rc)
		rc = io_flush(rp->r.e, IO_LOG);
	if (!rc)
		rc = gfs2_log_header_decode(rp->images, rp->r.bsize, &rp->res->head);
	return rc;
}

/* --- all of it --- */

static int replay_all(struct replay *rp, unsigned mh_jid, uint64_t master)
{
	int rc = walk(rp, scan_group);

	if (!rc)
		rc = walk(rp, choose_group);
	if (!rc)
		rc = walk(rp, replay_group);
	if (!rc)
		rc = write_images(rp);
	if (!rc)
		rc = io_flush(rp->r.e, IO_META);
	if (!rc)
		rc = recover_statfs(rp, master);
	if (!rc)
		rc = io_flush(rp->r.e, IO_META);
	if (!rc)
		rc = write_clean_header(rp, mh_jid);
	if (!rc)
		rc = forget_mark(rp, master);
	return rc;
}

static int replay_init(struct replay *rp)
{
	void *mem;

	rp->g = log_geometry(rp->r.bsize);
	rp->nr_blocks = io_engine_size(rp->r.e) / rp->r.bsize;
	blktab_init(&rp->tab);
	rp->ld = malloc(rp->r.bsize);
	if (!rp->ld || posix_memalign(&mem, 4096, (size_t)REPLAY_AT_ONCE * rp->r.bsize))
		return -ENOMEM;
	rp->images = mem;
	return 0;
}

static void replay_free(struct replay *rp)
{
	blktab_free(&rp->tab);
	free(rp->ld);
	free(rp->images);
	free(rp->r.window);
}

int gfs2_journal_look(struct io_engine *e, uint32_t bsize, const struct gfs2_jdesc *jd, uint64_t blkno,
		      struct gfs2_log_header_host *head, bool *has_image)
{
	struct gfs2_recovery_result res = { 0 };
	struct replay rp = { .res = &res };
	const struct log_block *b;
	int rc = reader_init(&rp.r, e, bsize, jd);

	*has_image = false;
	if (rc)
		return rc;
	rc = find_jhead(&rp.r, &rp.head);
	*head = rp.head;
	if (!rc && !(rp.head.lh_flags & GFS2_LOG_HEAD_UNMOUNT)) {
		rc = replay_init(&rp);
		if (!rc)
			rc = walk(&rp, scan_group);
		if (!rc)
			rc = walk(&rp, choose_group);
		b = rc ? NULL : blktab_find(&rp.tab, blkno);
		*has_image = b && b->ail;
	}
	replay_free(&rp);
	return rc;
}

int gfs2_recover_journal(struct io_engine *e, uint32_t bsize, const struct gfs2_jdesc *jd,
			 unsigned mh_jid, uint64_t statfs_master, bool readonly,
			 struct gfs2_recovery_result *res)
{
	struct replay rp = { .res = res };
	int rc;

	memset(res, 0, sizeof(*res));
	rc = reader_init(&rp.r, e, bsize, jd);
	if (rc)
		return rc;
	rc = find_jhead(&rp.r, &rp.head);
	res->head = rp.head;
	if (rc || rp.head.lh_flags & GFS2_LOG_HEAD_UNMOUNT)
		goto out;
	res->dirty = true;
	if (readonly) {
		fs_err("jid=%u: the journal is dirty and the device read-only", jd->jd_jid);
		rc = -EROFS;
		goto out;
	}
	fs_info("jid=%u: replaying the journal from block %u to %u", jd->jd_jid, rp.head.lh_tail,
		rp.head.lh_blkno);
	rc = replay_init(&rp);
	if (!rc)
		rc = replay_all(&rp, mh_jid, statfs_master);
	if (rc)
		fs_err("jid=%u: replay failed with error %d", jd->jd_jid, rc);
	else
		fs_info("jid=%u: replayed %u of %u blocks, %u revokes", jd->jd_jid, res->blocks_replayed,
			res->blocks_found, res->revokes);
out:
	replay_free(&rp);
	return rc;
}
