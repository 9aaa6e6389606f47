// SPDX-License-Identifier: GPL-2.0-or-later
#include "world.h"

#include <sys/mman.h>
#include "fs/rgrp.h"
#include "fs/xattr.h"

#define WALK_MAX 250		/* entries looked at: a damaged tree may have circles */

const char *const kind_names[K_NR] = {
	"dinode", "directory entry", "indirect block", "hash table", "leaf", "xattr block", "xattr data",
	"rgrp header", "bitmap", "rindex", "statfs file", "system directory", "log header", "descriptor",
	"revoke block", "journal image",
};
char path_base[512], path_dirty[520], path_work[540];
uint64_t rng;

void world_paths(const char *base, const char *work_suffix)
{
	snprintf(path_base, sizeof(path_base), "%s", base);
	snprintf(path_dirty, sizeof(path_dirty), "%s.dirty", path_base);
	snprintf(path_work, sizeof(path_work), "%s.work%s", path_base, work_suffix);
	msg_without_limits();
}

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
	struct gfs2_bh *bh, *data;
	struct gfs2_ea_header *ea;
	char *name;

	MUST(gfs2_meta_new(sdp, ip->i_gl, bn, GFS2_METATYPE_EA, GFS2_FORMAT_EA, &bh));
	ea = (void *)(bh->b_data + sizeof(struct gfs2_meta_header));
	name = (char *)(ea + 1);
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
	MUST(gfs2_meta_new(sdp, ip->i_gl, ed, GFS2_METATYPE_ED, GFS2_FORMAT_ED, &data));
	buf_put(data);
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
		MUST(gfs2_meta_new(sdp, ip->i_gl, ip->i_eattr, GFS2_METATYPE_IN, GFS2_FORMAT_IN, &bh));
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

void world_make(void)
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
}

/* --- images in memory --- */

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
__attribute__((no_sanitize("address", "undefined"))) void restore(struct image *im, int which)
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

void load_images(struct image *im)
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

void unload_images(struct image *im)
{
	for (int which = 0; which < 2; which++) {
		munmap(im->base[which], im->size);
		for (int k = 0; k < K_NR; k++)
			free(im->blocks[which][k]);
	}
	munmap(im->work, im->size);
}

/* --- damage --- */

void interesting_range(enum kind k, uint32_t bs, uint32_t *from, uint32_t *to)
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

void repair_header(char *block, uint32_t bs)
{
	struct gfs2_log_header *lh = (void *)block;

	lh->lh_hash = 0;
	lh->lh_hash = cpu_to_be32(gfs2_crc32(0, block, offsetof(struct gfs2_log_header, lh_crc)));
	if (lh->lh_crc)
		lh->lh_crc = cpu_to_be32(gfs2_crc32c(~0u, &lh->lh_nsec,
						     bs - offsetof(struct gfs2_log_header, lh_nsec)));
}

#define RECORD_HEAD 6

void world_apply(struct image *im, const uint8_t *data, size_t size)
{
	bool repair;
	int which;

	if (!size)
		return;
	which = data[0] & 1;
	repair = !(data[0] & 2);
	restore(im, which);
	for (size_t at = 1; at + RECORD_HEAD < size;) {
		const uint8_t *rec = data + at;
		enum kind k = rec[0] % K_NR;
		uint32_t off = (uint32_t)(rec[3] << 8 | rec[4]) % im->bsize, len = rec[5];
		char *block;

		at += RECORD_HEAD;
		len = min_t(uint32_t, len, (uint32_t)min_t(size_t, size - at, im->bsize - off));
		if (im->nr[which][k]) {
			block = im->work + im->blocks[which][k][(rec[1] << 8 | rec[2]) % im->nr[which][k]] * im->bsize;
			memcpy(block + off, data + at, len);
			if (k == K_HEADER && repair)
				repair_header(block, im->bsize);
		}
		at += len;
	}
}

size_t world_seed(const struct image *im, int which, enum kind k, unsigned nr, uint8_t *out, size_t space)
{
	uint32_t from, to, len;

	if (nr >= im->nr[which][k] || space < 1 + RECORD_HEAD)
		return 0;
	interesting_range(k, im->bsize, &from, &to);
	len = min_t(uint32_t, to - from, min_t(uint32_t, UINT8_MAX, (uint32_t)(space - 1 - RECORD_HEAD)));
	memcpy(out, (const uint8_t[]){ (uint8_t)which, (uint8_t)k, (uint8_t)(nr >> 8), (uint8_t)nr, (uint8_t)(from >> 8),
				       (uint8_t)from, (uint8_t)len }, 1 + RECORD_HEAD);
	memcpy(out + 1 + RECORD_HEAD, im->base[which] + im->blocks[which][k][nr] * im->bsize + from, len);
	return 1 + RECORD_HEAD + len;
}

/* --- the tour --- */

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

void world_tour(struct tour *t)
{
	struct fso f = { 0 };
	struct walk w = { .f = &f, .left = WALK_MAX };
	struct gfs2_statfs_host st;

	*t = (struct tour){ .mount_error = fso_mount(&f, path_work, false) };
	if (t->mount_error) {
		t->refused = true;
	} else {
		look(&w, f.sdp->sd_root, 0);
		attempts(&w);
		gfs2_statfs_get(f.sdp, &st);
		t->refused = w.refused;
		t->withdrawn = gfs2_withdrawn(f.sdp);
		fso_unmount(&f);
	}
	free(f.buf);
}

/* --- what was said --- */

static void rule_add(struct rules *r, const char *text, size_t len)
{
	unsigned i;

	if (len >= sizeof(r->rules[0].text))
		len = sizeof(r->rules[0].text) - 1;
	for (i = 0; i < r->nr; i++)
		if (!strncmp(r->rules[i].text, text, len) && !r->rules[i].text[len])
			break;
	if (i == MAX_RULES)
		return;
	if (i == r->nr) {
		memcpy(r->rules[i].text, text, len);
		r->nr++;
	}
	r->rules[i].count++;
}

bool rule_count(struct rules *r, const char *line)
{
	char text[256];
	unsigned n = 0;

	for (size_t i = 0; line[i] && n < sizeof(text) - 1; i++) {
		bool digit = line[i] >= '0' && line[i] <= '9';

		if (!digit)
			text[n++] = line[i];
		else if (!n || text[n - 1] != '#')
			text[n++] = '#';
	}
	rule_add(r, text, n);
	return strstr(line, "block ") || strstr(line, "inode ") || strstr(line, "journal ");
}
