// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Damaged volumes: seeded mutations of every structure behind the superblock, then mount, walk, read,
 * write, unmount (10-corrupt.py runs it).
 *
 *   fuzz-corrupt make IMAGE                   fills a volume that mkfs.gfs2 made with everything the format
 *                                        has; leaves IMAGE clean and IMAGE.dirty with a journal to replay
 *   fuzz-corrupt run IMAGE SEED FIRST COUNT   mutations FIRST .. FIRST+COUNT-1 of SEED; IMAGE.work is overwritten
 *
 * Required of each: no crash, no report of a sanitizer, an end, and whoever is refused with -EIO finds
 * a message that names a block.  The mutations run in a child; one that dies is reported with its
 * number, by which it can be repeated, and the next child goes on behind it.
 *
 * Output: a line for each decoder that refused something, with how often; see report().
 */
#include "fsops.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include "fs/rgrp.h"
#include "fs/xattr.h"

#define STUCK_SECONDS 120	/* without an end of the current mutation: it hangs */
#define MEMORY_LIMIT_MIB 1024	/* far above what a volume of this size needs under a sanitizer */
#define WALK_MAX 250		/* entries looked at: a damaged tree may have circles */
#define MAX_RULES 256
#define MAX_BAD 20

enum kind { K_DINODE, K_DIRENT, K_TREE, K_TABLE, K_LEAF, K_EATTR, K_EADATA, K_RGRP, K_BITMAP, K_RINDEX,
	    K_STATFS, K_SYSDIR, K_HEADER, K_DESCRIPTOR, K_REVOKES, K_IMAGE, K_NR };
static const char *const kind_names[K_NR] = {
	"dinode", "directory entry", "indirect block", "hash table", "leaf", "xattr block", "xattr data",
	"rgrp header", "bitmap", "rindex", "statfs file", "system directory", "log header", "descriptor",
	"revoke block", "journal image",
};

struct rule {
	char text[200];
	unsigned count;
};

/* Shared with the children. */
static struct shared {
	atomic_uint at;			/* mutation under way */
	unsigned tried[K_NR], refused[K_NR], mounts_refused, withdrawn;
	struct rule rules[MAX_RULES];
	unsigned nr_rules, nameless;
	unsigned bad[MAX_BAD], nr_bad;
} *sh;

static char path_base[512], path_dirty[520], path_work[520];
static uint64_t rng;

/* --- the volume --- */

#define MUST(x)                                                                                    \
	do {                                                                                       \
		int64_t must_ret = (x);                                                            \
		if (must_ret < 0) {                                                                \
			fprintf(stderr, "%s:%d: %s: %" PRId64 "\n", __FILE__, __LINE__, #x, must_ret); \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static void set_flags(struct fso *f, const char *path, uint32_t flags)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;

	MUST(fso_walk(f, path, &ip));
	MUST(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh));
	MUST(gfs2_trans_begin(f->sdp->sd_log, 1, 0));
	ip->i_diskflags |= flags;
	MUST(gfs2_dinode_log(ip));
	gfs2_trans_end(f->sdp->sd_log);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
}

static uint64_t alloc_one(struct gfs2_inode *ip, struct gfs2_alloc *ap)
{
	unsigned n = 1;
	uint64_t bn;

	MUST(gfs2_alloc_blocks(ip, ap, &bn, &n, false, NULL));
	ip->i_blocks++;
	return bn;
}

/* An xattr block: one value inside, one in a block of its own. */
static uint64_t make_ea(struct gfs2_inode *ip, struct gfs2_alloc *ap, char c)
{
	struct gfs2_sbd *sdp = ip->i_sbd;
	uint64_t bn = alloc_one(ip, ap), ed;
	struct gfs2_bh *bh = gfs2_meta_new(sdp, ip->i_gl, bn, GFS2_METATYPE_EA, GFS2_FORMAT_EA);
	struct gfs2_ea_header *ea = (void *)(bh->b_data + sizeof(struct gfs2_meta_header));
	char *name = (char *)(ea + 1);

	*ea = (struct gfs2_ea_header){ .ea_rec_len = cpu_to_be32(24), .ea_data_len = cpu_to_be32(3),
				       .ea_name_len = 2, .ea_type = GFS2_EATYPE_USR };
	name[0] = c;
	name[1] = 'i';
	ea = (void *)((char *)ea + 24);
	name = (char *)(ea + 1);
	*ea = (struct gfs2_ea_header){ .ea_rec_len = cpu_to_be32(sdp->sd_bsize - 48),
				       .ea_data_len = cpu_to_be32(sdp->sd_jbsize), .ea_name_len = 2,
				       .ea_type = GFS2_EATYPE_USR, .ea_flags = GFS2_EAFLAG_LAST,
				       .ea_num_ptrs = 1 };
	name[0] = c;
	name[1] = 'd';
	ed = alloc_one(ip, ap);
	buf_put(gfs2_meta_new(sdp, ip->i_gl, ed, GFS2_METATYPE_ED, GFS2_FORMAT_ED));
	*(__be64 *)(name + 8) = cpu_to_be64(ed);
	buf_put(bh);
	return bn;
}

static void add_xattrs(struct fso *f, const char *path, unsigned nr)
{
	struct gfs2_sbd *sdp = f->sdp;
	struct gfs2_alloc ap = { .target = 1 + 2 * nr };
	struct gfs2_inode *ip;
	struct gfs2_holder gh;

	MUST(fso_walk(f, path, &ip));
	MUST(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh));
	MUST(gfs2_inplace_reserve(ip, &ap));
	MUST(gfs2_trans_begin(sdp->sd_log, gfs2_alloc_trans_blocks(&ap, ap.target, ap.target), 0));
	if (nr == 1) {
		ip->i_eattr = make_ea(ip, &ap, 'a');
	} else {
		struct gfs2_bh *bh;

		ip->i_eattr = alloc_one(ip, &ap);
		ip->i_diskflags |= GFS2_DIF_EA_INDIRECT;
		bh = gfs2_meta_new(sdp, ip->i_gl, ip->i_eattr, GFS2_METATYPE_IN, GFS2_FORMAT_IN);
		for (unsigned i = 0; i < nr; i++)
			gfs2_metaptrs(bh, 1)[i] = cpu_to_be64(make_ea(ip, &ap, (char)('a' + i)));
		buf_put(bh);
	}
	MUST(gfs2_dinode_log(ip));
	gfs2_trans_end(sdp->sd_log);
	gfs2_inplace_release(ip, &ap);
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
}

static void fill_directory(struct fso *f, const char *dir, unsigned nr)
{
	char path[300];

	MUST(fso_make(f, dir, S_IFDIR | 0755, NULL));
	for (unsigned i = 0; i < nr; i++) {
		snprintf(path, sizeof(path), "%s/name-%u-%0*u", dir, i, (int)(i % 40), i);
		MUST(fso_make(f, path, S_IFREG | 0644, NULL));
	}
}

static void populate(struct fso *f)
{
	uint32_t bs = f->sdp->sd_bsize;
	char *data = malloc(64 * bs), path[64];

	memset(data, 'd', 64 * bs);
	fill_directory(f, "linear", 3);
	fill_directory(f, "hashed", bs / 8);	/* table in the dinode */
	fill_directory(f, "large", bs);		/* table in blocks of its own */
	MUST(fso_make(f, "empty", S_IFDIR | 0700, NULL));
	MUST(fso_make(f, "empty/deep", S_IFDIR | 0700, NULL));
	MUST(fso_make(f, "stuffed", S_IFREG | 0600, NULL));
	MUST(fso_write(f, "stuffed", 0, data, 100));
	MUST(fso_make(f, "flat", S_IFREG | 0600, NULL));
	MUST(fso_write(f, "flat", 0, data, 20 * bs));
	MUST(fso_make(f, "high", S_IFREG | 0600, NULL));
	for (unsigned i = 0; i < 36; i += 3)
		MUST(fso_write(f, "high", (uint64_t)bs << i, data, 2 * bs));
	MUST(fso_make(f, "journaled", S_IFREG | 0600, NULL));
	set_flags(f, "journaled", GFS2_DIF_JDATA);
	MUST(fso_write(f, "journaled", 0, data, 30 * bs));
	MUST(fso_make(f, "symlink", S_IFLNK | 0777, "linear/name-1-1"));
	MUST(fso_make(f, "device", S_IFCHR | 0600, NULL));
	MUST(fso_make(f, "ea-one", S_IFREG | 0600, NULL));
	add_xattrs(f, "ea-one", 1);
	MUST(fso_make(f, "ea-many", S_IFREG | 0600, NULL));
	add_xattrs(f, "ea-many", 5);
	for (unsigned i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "many%u", i);
		MUST(fso_make(f, path, S_IFREG | 0600, NULL));
		MUST(fso_write(f, path, 0, data, (i + 1) * bs));
	}
	free(data);
}

/* Metadata, journaled data and revokes for the log. */
static void leave_work(struct fso *f)
{
	uint32_t bs = f->sdp->sd_bsize;
	char *data = malloc(8 * bs), path[64];

	memset(data, 'w', 8 * bs);
	*(__be32 *)data = cpu_to_be32(GFS2_MAGIC);	/* is escaped in the log */
	MUST(gfs2_log_flush(f->sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL));
	fill_directory(f, "new", bs / 8);
	MUST(fso_write(f, "journaled", 0, data, 8 * bs));
	MUST(fso_fsync(f, "journaled"));
	for (unsigned i = 0; i < bs / 16; i++) {
		snprintf(path, sizeof(path), "new/name-%u-%0*u", i, (int)(i % 40), i);
		MUST(fso_remove(f, path, false));
	}
	MUST(fso_remove(f, "high", false));
	MUST(fso_write(f, "many3", 0, data, 8 * bs));
	MUST(fso_fsync(f, "many3"));
	free(data);
}

static void copy_file(const char *from, const char *to)
{
	char cmd[1200];

	snprintf(cmd, sizeof(cmd), "cp --sparse=always '%s' '%s'", from, to);
	if (system(cmd))
		exit(1);
}

static int make(void)
{
	struct fso f = { 0 };

	MUST(fso_mount(&f, path_base, false));
	populate(&f);
	MUST(fso_unmount(&f));
	copy_file(path_base, path_work);
	MUST(fso_mount(&f, path_work, false));
	leave_work(&f);
	/* As it is now: a crash. */
	copy_file(path_work, path_dirty);
	MUST(fso_unmount(&f));
	free(f.buf);
	return 0;
}

/* --- images in memory --- */

struct image {
	char *base[2];		/* clean, dirty */
	char *work;		/* shared with the file that is mounted */
	uint64_t size;
	uint32_t bsize;
	uint64_t *blocks[2][K_NR];
	unsigned nr[2][K_NR];
};

static char *map_file(const char *path, bool shared, uint64_t *size)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;
	char *p;

	if (fd < 0 || fstat(fd, &st)) {
		perror(path);
		exit(1);
	}
	*size = (uint64_t)st.st_size;
	p = mmap(NULL, *size, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		exit(1);
	return p;
}

/* The work image is @base again.  Not with memcmp(): under the address sanitizer that is a slow loop. */
__attribute__((no_sanitize("address", "undefined"))) static void restore(struct image *im, int which)
{
	uint64_t *to = (uint64_t *)im->work;
	const uint64_t *from = (const uint64_t *)im->base[which];

	for (uint64_t i = 0; i < im->size / 8; i += 64) {
		uint64_t diff = 0;

		for (unsigned k = 0; k < 64; k++)
			diff |= to[i + k] ^ from[i + k];
		if (diff)
			memcpy(to + i, from + i, 512);
	}
}

static void add_block(struct image *im, int which, enum kind k, uint64_t b)
{
	unsigned *n = &im->nr[which][k];

	if (!(*n & (*n - 1)))
		im->blocks[which][k] = realloc(im->blocks[which][k], (*n ? 2 * *n : 1) * sizeof(uint64_t));
	im->blocks[which][k][(*n)++] = b;
}

static void classify_dinode(struct image *im, int which, uint64_t b, const struct gfs2_dinode *di)
{
	uint32_t mode = be32_to_cpu(di->di_mode), flags = be32_to_cpu(di->di_flags);

	if (be64_to_cpu(di->di_num.no_addr) != b)
		return;
	/* There are so many of these that nothing else would be met. */
	if (S_ISREG(mode) && !di->di_size && !di->di_eattr && b % 64)
		return;
	if (S_ISDIR(mode) && flags & GFS2_DIF_SYSTEM)
		add_block(im, which, K_SYSDIR, b);
	add_block(im, which, K_DINODE, b);
	if (S_ISDIR(mode) && !(flags & GFS2_DIF_EXHASH))
		add_block(im, which, K_DIRENT, b);
}

/* Which block is what.  Those of the journal come from classify_journal(). */
static void classify(struct image *im, int which, uint64_t b)
{
	const struct gfs2_meta_header *mh = (void *)(im->base[which] + b * im->bsize);
	static const enum kind kinds[] = {
		[GFS2_METATYPE_RG] = K_RGRP, [GFS2_METATYPE_RB] = K_BITMAP,
		[GFS2_METATYPE_IN] = K_TREE, [GFS2_METATYPE_LF] = K_LEAF,
		[GFS2_METATYPE_JD] = K_TABLE, [GFS2_METATYPE_EA] = K_EATTR,
		[GFS2_METATYPE_ED] = K_EADATA,
	};
	uint32_t type = be32_to_cpu(mh->mh_type);

	if (be32_to_cpu(mh->mh_magic) != GFS2_MAGIC || type >= ARRAY_SIZE(kinds))
		return;
	if (type == GFS2_METATYPE_DI)
		classify_dinode(im, which, b, (const void *)mh);
	else if (kinds[type])
		add_block(im, which, kinds[type], b);
	if (type == GFS2_METATYPE_LF)
		add_block(im, which, K_DIRENT, b);
}

/* The newest header, and what lies between its tail and itself: nobody looks at the rest. */
static void classify_journal(struct image *im, int which, const struct gfs2_jdesc *jd)
{
	struct gfs2_log_header_host lh, head = { 0 };

	for (uint32_t i = 0; i < jd->jd_blocks; i++)
		if (!gfs2_log_header_decode(im->base[which] + gfs2_journal_map(jd, i) * im->bsize, im->bsize,
					    &lh) && lh.lh_sequence >= head.lh_sequence)
			head = lh;
	add_block(im, which, K_HEADER, gfs2_journal_map(jd, head.lh_blkno));
	for (uint32_t i = head.lh_tail; i != head.lh_blkno; i = (i + 1) % jd->jd_blocks) {
		uint64_t b = gfs2_journal_map(jd, i);
		const struct gfs2_meta_header *mh = (void *)(im->base[which] + b * im->bsize);

		if (mh->mh_magic != cpu_to_be32(GFS2_MAGIC))
			continue;
		switch (be32_to_cpu(mh->mh_type)) {
		case GFS2_METATYPE_LH:
			break;
		case GFS2_METATYPE_LD:
			add_block(im, which, K_DESCRIPTOR, b);
			if (((const struct gfs2_log_descriptor *)mh)->ld_type !=
			    cpu_to_be32(GFS2_LOG_DESC_REVOKE))
				break;
			/* fall through */
		case GFS2_METATYPE_LB:
			add_block(im, which, K_REVOKES, b);
			break;
		default:
			add_block(im, which, K_IMAGE, b);
		}
	}
}

/* Which volume blocks are what that only the file system knows: journals, rindex, statfs. */
static void system_blocks(struct image *im, bool *in_journal)
{
	struct fso f = { 0 };
	struct gfs2_holder gh;
	struct extent e;

	MUST(fso_mount(&f, path_base, true));
	im->bsize = f.sdp->sd_bsize;
	for (unsigned j = 0; j < f.sdp->sd_nr_journals; j++)
		for (unsigned i = 0; i < f.sdp->sd_jdescs[j].jd_nr_extents; i++) {
			const struct gfs2_journal_extent *x = &f.sdp->sd_jdescs[j].jd_extents[i];

			memset(in_journal + x->dblock, true, x->blocks);
		}
	for (int which = 0; which < 2; which++)
		classify_journal(im, which, &f.sdp->sd_jdescs[0]);
	MUST(gfs2_glock_nq_init(f.sdp->sd_rindex->i_gl, LM_ST_SHARED, 0, &gh));
	if (gfs2_is_stuffed(f.sdp->sd_rindex))
		e.pblock = f.sdp->sd_rindex->i_no_addr;
	else
		MUST(gfs2_map_extent(f.sdp->sd_rindex, 0, 1, &e));
	gfs2_glock_dq_uninit(&gh);
	for (int which = 0; which < 2; which++) {
		add_block(im, which, K_RINDEX, e.pblock);
		add_block(im, which, K_STATFS, f.sdp->sd_statfs_addr);
		add_block(im, which, K_STATFS, f.sdp->sd_jdescs[0].jd_statfs_addr);
	}
	MUST(fso_unmount(&f));
	free(f.buf);
}

static void load_images(struct image *im)
{
	bool *in_journal;

	memset(im, 0, sizeof(*im));
	im->base[0] = map_file(path_base, false, &im->size);
	im->base[1] = map_file(path_dirty, false, &im->size);
	in_journal = calloc(im->size / 512, 1);
	system_blocks(im, in_journal);
	for (int which = 0; which < 2; which++)
		for (uint64_t b = 0; b < im->size / im->bsize; b++)
			if (!in_journal[b])
				classify(im, which, b);
	free(in_journal);
	copy_file(path_base, path_work);
	im->work = map_file(path_work, true, &im->size);
}

static void unload_images(struct image *im)
{
	for (int which = 0; which < 2; which++) {
		munmap(im->base[which], im->size);
		for (int k = 0; k < K_NR; k++)
			free(im->blocks[which][k]);
	}
	munmap(im->work, im->size);
}

/* --- mutations --- */

/* Bytes of the block where what matters for its kind is. */
static void interesting_range(enum kind k, uint32_t bs, uint32_t *from, uint32_t *to)
{
	static const struct {
		uint32_t from, to;
	} range[K_NR] = {
		[K_DINODE] = { 24, 232 + 64 }, [K_DIRENT] = { 232, 0 },
		[K_TREE] = { 24, 0 }, [K_TABLE] = { 24, 0 }, [K_LEAF] = { 24, 104 + 96 },
		[K_EATTR] = { 24, 24 + 72 }, [K_EADATA] = { 0, 64 }, [K_RGRP] = { 24, 160 },
		[K_BITMAP] = { 24, 0 }, [K_RINDEX] = { 0, 3 * 96 }, [K_STATFS] = { 24, 232 + 24 },
		[K_SYSDIR] = { 24, 232 + 200 }, [K_HEADER] = { 24, 128 }, [K_DESCRIPTOR] = { 24, 24 + 24 + 64 },
		[K_REVOKES] = { 0, 64 }, [K_IMAGE] = { 0, 0 },
	};

	*from = range[k].from;
	*to = range[k].to && range[k].to < bs ? range[k].to : bs;
}

static uint64_t some_block(struct image *im, int which)
{
	enum kind k = fso_below(&rng, K_NR);

	return im->nr[which][k] ? im->blocks[which][k][fso_below(&rng, im->nr[which][k])] : 0;
}

static uint64_t value(struct image *im, int which, uint64_t old, uint64_t own)
{
	switch (fso_below(&rng, 12)) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return UINT64_MAX;
	case 3:
		return old + 1;
	case 4:
		return old - 1;
	case 5:
		return old ^ 1ull << fso_below(&rng, 64);
	case 6:
		return own;
	case 7:
		return some_block(im, which);
	case 8:
		return im->size / im->bsize + fso_below(&rng, 3) - 1;
	case 9:
		return 1ull << fso_below(&rng, 64);
	case 10:
		return fso_below(&rng, 300);
	default:
		return fso_rnd(&rng);
	}
}

static uint64_t get_be(const char *p, unsigned width)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < width; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static void put_be(char *p, unsigned width, uint64_t v)
{
	for (unsigned i = width; i--; v >>= 8)
		p[i] = (char)v;
}

/* Checksums right again: what was changed is to be believed. */
static void repair_header(char *block, uint32_t bs)
{
	struct gfs2_log_header *lh = (void *)block;

	lh->lh_hash = 0;
	lh->lh_hash = cpu_to_be32(gfs2_crc32(0, block, offsetof(struct gfs2_log_header, lh_crc)));
	if (lh->lh_crc)
		lh->lh_crc = cpu_to_be32(gfs2_crc32c(~0u, &lh->lh_nsec,
						     bs - offsetof(struct gfs2_log_header, lh_nsec)));
}

static void mutate_once(struct image *im, int which, enum kind k)
{
	uint64_t b = im->blocks[which][k][fso_below(&rng, im->nr[which][k])];
	char *block = im->work + b * im->bsize;
	uint32_t from, to, off;
	unsigned width, how = fso_below(&rng, 20);

	interesting_range(k, im->bsize, &from, &to);
	if (how == 0) {			/* lost */
		memset(block, 0, im->bsize);
	} else if (how == 1) {		/* something else's contents */
		memcpy(block, im->base[which] + some_block(im, which) * im->bsize, im->bsize);
	} else if (how == 2) {		/* torn */
		uint32_t cut = (uint32_t)fso_below(&rng, im->bsize / 64) * 64;

		memset(block + cut, (int)fso_rnd(&rng), im->bsize - cut);
	} else {
		for (unsigned n = 1 + fso_below(&rng, 3); n; n--) {
			width = 1u << fso_below(&rng, 4);
			off = from + (uint32_t)fso_below(&rng, (to - from) / width) * width;
			put_be(block + off, width,
			       value(im, which, get_be(block + off, width), b));
		}
	}
	if (k == K_HEADER && how > 2)
		repair_header(block, im->bsize);
}

static enum kind mutate(struct image *im, int which, unsigned n)
{
	enum kind k = n % K_NR;

	while (!im->nr[which][k])
		k = (k + 1) % K_NR;
	mutate_once(im, which, k);
	if (!fso_below(&rng, 4)) {
		enum kind more = fso_below(&rng, K_NR);

		if (im->nr[which][more])
			mutate_once(im, which, more);
	}
	return k;
}

/* --- use of the volume --- */

struct walk {
	struct fso *f;
	unsigned left;
	bool refused;
};

static void note(struct walk *w, int64_t ret)
{
	w->refused |= ret == -EIO;
}

struct listing {
	char names[64][GFS2_FNAMESIZE + 1];
	unsigned nr, seen;
};

static bool take_entry(void *arg, const struct gfs2_dir_entry *e)
{
	struct listing *l = arg;

	if (l->nr < ARRAY_SIZE(l->names) && e->len <= GFS2_FNAMESIZE) {
		memcpy(l->names[l->nr], e->name, e->len);
		l->names[l->nr++][e->len] = 0;
	}
	/* The order of cookies bounds a listing; who lists for ever is stuck. */
	return ++l->seen < 1000000;
}

static void look(struct walk *w, struct gfs2_inode *ip, unsigned depth)
{
	static const uint64_t places[] = { 0, 1000, 1 << 15, 1 << 20, 1ull << 33, 1ull << 45 };
	struct gfs2_sbd *sdp = w->f->sdp;
	struct listing *l;
	struct gfs2_holder gh;
	struct stat st;
	char target[4096], *names;
	const char *data;
	int err = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);

	note(w, err);
	if (err)
		return;
	gfs2_getattr(ip, &st);
	gfs2_glock_dq_uninit(&gh);
	if (S_ISLNK(st.st_mode))
		note(w, gfs2_readlink(ip, target, sizeof(target)));
	names = malloc(65536);
	err = (int)gfs2_listxattr(ip, names, 65536);
	note(w, err);
	for (int at = 0; at < err; at += (int)strlen(names + at) + 1)
		note(w, gfs2_getxattr(ip, names + at, w->f->buf, FSO_BUF_BYTES));
	free(names);
	for (unsigned i = 0; S_ISREG(st.st_mode) && i < ARRAY_SIZE(places); i++)
		note(w, fso_iread(w->f, ip, places[i], 3 * sdp->sd_bsize + 10, &data));
	if (!S_ISDIR(st.st_mode) || depth > 6)
		return;
	l = calloc(1, sizeof(*l));
	err = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);
	if (!err) {
		err = gfs2_dir_read(ip, 0, take_entry, l);
		gfs2_glock_dq_uninit(&gh);
	}
	note(w, err);
	for (unsigned i = 0; i < l->nr && w->left; i++) {
		struct gfs2_inode *child;

		if (!strcmp(l->names[i], ".") || !strcmp(l->names[i], ".."))
			continue;
		w->left--;
		err = gfs2_lookup(ip, l->names[i], &child, &st);
		note(w, err);
		if (err)
			continue;
		look(w, child, depth + 1);
		gfs2_inode_put(child);
	}
	free(l);
}

static void attempts(struct walk *w)
{
	struct fso *f = w->f;
	uint32_t bs = f->sdp->sd_bsize;
	char *data = malloc(16 * bs), name[300];
	struct gfs2_inode *ip;

	memset(data, 'x', 16 * bs);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const dirs[] = { "linear", "hashed", "large" };

		snprintf(name, sizeof(name), "%s/%0*u", dirs[i], (int)fso_below(&rng, 200), i);
		note(w, fso_make(f, name, S_IFREG | 0644, NULL));
		note(w, fso_write(f, name, fso_below(&rng, 8 * bs), data, 5 * bs));
		snprintf(name, sizeof(name), "%s/name-%u-%0*u", dirs[i], i, (int)i, i);
		note(w, fso_remove(f, name, false));
		snprintf(name, sizeof(name), "%s/name-2-02", dirs[i]);
		note(w, fso_rename(f, name, "empty/moved", 0));
	}
	note(w, fso_write(f, "flat", 3 * bs, data, 4 * bs));
	note(w, fso_write(f, "journaled", 5 * bs, data, 4 * bs));
	note(w, fso_write(f, "stuffed", 50, data, bs));
	note(w, fso_write(f, "high", 1ull << 31, data, bs));
	note(w, fso_truncate(f, "high", bs * 5 + 3));
	note(w, fso_truncate(f, "many7", 100));
	note(w, fso_direct(f, "flat", true, 0, data, 8 * 512));
	note(w, fso_direct(f, "many9", false, 0, NULL, 4096));
	if (!fso_walk(f, "ea-many", &ip)) {
		note(w, gfs2_setxattr(ip, "user.ai", data, bs, 0, false));
		note(w, gfs2_removexattr(ip, "user.bd"));
		gfs2_inode_put(ip);
	}
	note(w, fso_remove(f, "ea-one", false));
	note(w, fso_remove(f, "ea-many", false));
	note(w, fso_remove(f, "many5", false));
	note(w, fso_link(f, "many6", "linear/link"));
	note(w, fso_make(f, "empty/deep/dir", S_IFDIR | 0755, NULL));
	note(w, fso_remove(f, "empty/deep/dir", true));
	note(w, fso_rename(f, "empty", "linear/empty", 0));
	note(w, gfs2_statfs_sync(f->sdp));
	note(w, fso_fsync(f, "flat"));
	free(data);
}

/* --- messages --- */

static int messages;	/* stderr of a child */

static void rule_add(const char *text, size_t len)
{
	unsigned i;

	if (len >= sizeof(sh->rules[0].text))
		len = sizeof(sh->rules[0].text) - 1;
	for (i = 0; i < sh->nr_rules; i++)
		if (!strncmp(sh->rules[i].text, text, len) && !sh->rules[i].text[len])
			break;
	if (i == MAX_RULES)
		return;
	if (i == sh->nr_rules) {
		memcpy(sh->rules[i].text, text, len);
		sh->nr_rules++;
	}
	sh->rules[i].count++;
}

/* What a message says without numbers: rules are counted by that. */
static void rule_of_line(const char *line, size_t len)
{
	char text[256];
	unsigned n = 0;

	for (size_t i = 0; i < len && n < sizeof(text) - 1; i++) {
		bool digit = line[i] >= '0' && line[i] <= '9';

		if (!digit)
			text[n++] = line[i];
		else if (!n || text[n - 1] != '#')
			text[n++] = '#';
	}
	rule_add(text, n);
}

/* True: some block, inode or journal was named. */
static bool read_messages(void)
{
	static char text[1 << 16];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);
	bool named = false;

	if (n <= 0)
		return false;
	text[n] = 0;
	for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
		char *start = strstr(line, ": ");

		*end = 0;
		start = start ? strstr(start + 2, ": ") : NULL;
		if (!start || strstr(line, "replay") || strstr(line, "withdrawn:"))
			continue;
		named |= strstr(line, "block ") || strstr(line, "inode ") || strstr(line, "journal ");
		rule_of_line(start + 2, strlen(start + 2));
	}
	return named;
}

/* --- one mutation --- */

static void one(struct image *im, uint64_t seed, unsigned n)
{
	struct fso f = { 0 };
	struct walk w = { .f = &f, .left = WALK_MAX };
	enum kind k = n % K_NR;
	int which, err;
	bool named;

	rng = seed * 1000003 + n;
	which = k >= K_HEADER || !fso_below(&rng, 6);
	restore(im, which);
	k = mutate(im, which, n);
	sh->tried[k]++;
	if (ftruncate(messages, 0) || lseek(messages, 0, SEEK_SET))
		_exit(3);
	err = fso_mount(&f, path_work, false);
	if (err) {
		sh->mounts_refused++;
		w.refused = true;
	} else {
		struct gfs2_statfs_host st;

		look(&w, f.sdp->sd_root, 0);
		attempts(&w);
		gfs2_statfs_get(f.sdp, &st);
		sh->withdrawn += gfs2_withdrawn(f.sdp);
		fso_unmount(&f);
	}
	free(f.buf);
	named = read_messages();
	sh->refused[k] += w.refused;
	if (w.refused && !named) {
		sh->nameless++;
		fprintf(stdout, "mutation %u (%s): refused (%d), but no block was named\n", n,
			kind_names[k], err);
		fflush(stdout);
	}
}

static void child(uint64_t seed, unsigned first, unsigned end)
{
	static struct image im;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	/* Where the sanitizers write too. */
	if (dup2(messages, STDERR_FILENO) < 0 || null < 0)
		_exit(3);
	gfs2_event_init(10);
	load_images(&im);
	for (unsigned n = first; n < end; n++) {
		atomic_store(&sh->at, n);
		one(&im, seed, n);
	}
	unload_images(&im);
	gfs2_event_exit();
}

static void show_messages(void)
{
	static char text[1 << 16];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);

	if (n > 0)
		printf("%.*s\n", (int)n, text);
}

/* Until @pid ends or makes no progress.  The status of waitpid(). */
static int watch(pid_t pid)
{
	unsigned last = atomic_load(&sh->at);
	uint64_t since = now_ns();
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		unsigned at = atomic_load(&sh->at);

		if (at != last) {
			last = at;
			since = now_ns();
		}
		if (now_ns() - since > STUCK_SECONDS * 1000000000ull) {
			printf("mutation %u does not end\n", at);
			kill(pid, SIGABRT);
			waitpid(pid, &status, 0);
			break;
		}
		poll(NULL, 0, 20);
	}
	return status;
}

static int report(void)
{
	struct rusage ru;
	unsigned sum = 0;

	getrusage(RUSAGE_CHILDREN, &ru);
	for (int k = 0; k < K_NR; k++) {
		printf("kind\t%s\t%u\t%u\n", kind_names[k], sh->tried[k], sh->refused[k]);
		sum += sh->tried[k];
	}
	for (unsigned i = 0; i < sh->nr_rules; i++)
		printf("rule\t%u\t%s\n", sh->rules[i].count, sh->rules[i].text);
	printf("total\t%u mutations, %u mounts refused, %u withdrawn, %u without a name, %u died, %ld MiB\n",
	       sum, sh->mounts_refused, sh->withdrawn, sh->nameless, sh->nr_bad, ru.ru_maxrss / 1024);
	for (unsigned i = 0; i < sh->nr_bad; i++)
		printf("died\t%u\n", sh->bad[i]);
	if (ru.ru_maxrss / 1024 > MEMORY_LIMIT_MIB) {
		printf("more memory than a volume of this size can need\n");
		return 1;
	}
	return sh->nr_bad || sh->nameless;
}

static int run(uint64_t seed, unsigned first, unsigned count)
{
	unsigned end = first + count;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	messages = memfd_create("messages", MFD_CLOEXEC);
	if (sh == MAP_FAILED || messages < 0)
		return 1;
	while (first < end && sh->nr_bad < MAX_BAD) {
		pid_t pid;
		int status;

		atomic_store(&sh->at, first);
		fflush(stdout);
		pid = fork();
		if (!pid) {
			child(seed, first, end);
			exit(0);
		}
		status = watch(pid);
		if (WIFEXITED(status) && !WEXITSTATUS(status))
			break;
		first = atomic_load(&sh->at);
		printf("mutation %u of seed %" PRIu64 ": status %x\n", first, seed, status);
		show_messages();
		sh->bad[sh->nr_bad++] = first++;
	}
	return report();
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	snprintf(path_base, sizeof(path_base), "%s", argv[2]);
	snprintf(path_dirty, sizeof(path_dirty), "%s.dirty", argv[2]);
	snprintf(path_work, sizeof(path_work), "%s.work", argv[2]);
	if (!strcmp(argv[1], "make") && argc == 3) {
		gfs2_event_init(10);
		make();
		gfs2_event_exit();
		return 0;
	}
	if (!strcmp(argv[1], "run") && argc == 6)
		return run(strtoull(argv[3], NULL, 0), (unsigned)atoi(argv[4]), (unsigned)atoi(argv[5]));
	return 2;
}
