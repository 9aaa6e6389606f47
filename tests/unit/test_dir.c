/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Directories: entries in a block against bytes of real volumes and a model; whole directories of
 * all block sizes, grown through linear, hashed, doubled and chained, against a model and
 * fsck.gfs2.
 */
#include "vol.h"
#include "fs/dirent.h"
#include "fs/evict_later.h"
#include "fs/namei.h"

static struct io_engine *engine;
static struct gfs2_sbd *sdp;

static void vol_up(void)
{
	engine = vol_open(false);
	assert_int_equal(gfs2_mount(engine, &vol_args, &sdp), 0);
}

static void vol_down(void)
{
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(engine);
}

/* xorshift: the same numbers in every run */
static uint64_t rnd_state = 88172645463325252ull;
static uint32_t rnd(uint32_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 16) % below);
}

/* --- one block --- */

static void from_hex(const char *hex, uint8_t *out, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned v;

		while (*hex == ' ')
			hex++;
		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		out[i] = v;
		hex += 2;
	}
}

static void test_hash(void **state)
{
	assert_int_equal(gfs2_qname(".").hash, 0x0ed4e242);
	assert_int_equal(gfs2_qname("..").hash, 0x9608161c);
	assert_int_equal(gfs2_qname("hello").hash, 0x3610a686);
	assert_int_equal(gfs2_qname("small").hash, 0x7545ea13);
	assert_int_equal(gfs2_qname("file00317").hash, 0x1b3c563b);
}

/* A dirent that the kernel wrote: found, and written by us the same but for the pad. */
static void test_dirent_bytes(void **state)
{
	uint8_t block[512] = { 0 }, own[512] = { 0 };
	struct dirent_area area = { (char *)block, 232, 512 }, mine = { (char *)own, 232, 512 };
	struct gfs2_qname q = gfs2_qname("small");
	struct gfs2_dirent *d;
	struct dirent_walk w;
	const char *rule;

	from_hex("0000000000000001 0000000000001231 7545ea13 0118 0005 0008 0000 09f5a23a"
		 "0000000000000000 736d616c6c 000000", block + 232, 48);
	d = dirent_find(&w, &area, &q);
	assert_non_null(d);
	assert_null(w.prev);
	assert_int_equal(be64_to_cpu(d->de_inum.no_formal_ino), 1);
	assert_int_equal(be64_to_cpu(d->de_inum.no_addr), 4657);
	assert_int_equal(be16_to_cpu(d->de_type), DT_REG);
	assert_int_equal(dirent_rec_len(d), 280);

	dirent_init_empty(&mine);
	d = dirent_insert(&mine, &q, &rule);
	assert_non_null(d);
	d->de_inum.no_formal_ino = cpu_to_be64(1);
	d->de_inum.no_addr = cpu_to_be64(4657);
	d->de_type = cpu_to_be16(DT_REG);
	memset(block + 232 + 28, 0, 12);	/* pad: leaks memory on real volumes */
	assert_memory_equal(own, block, sizeof(block));
}

/* The head of a leaf that the kernel wrote. */
static void test_leaf_bytes(void **state)
{
	uint8_t block[512] = { 0 };
	struct dirent_area area = { (char *)block, sizeof(struct gfs2_leaf), 512 };
	struct gfs2_leaf *lf = (struct gfs2_leaf *)block;
	struct gfs2_qname dot = gfs2_qname("."), file = gfs2_qname("file00317");
	struct dirent_walk w;

	from_hex("01161970 00000006 00000000 00000000 00000258 00000000 00030021 000004b0"
		 "00000000 00000000 00000000 0000139a 00000001 12a77c6b 00000000 6b0289b0", block, 64);
	from_hex("00000000 0000001c 00000000 0000139a 0ed4e242 00300001 00040000", block + 104, 28);
	block[104 + 40] = '.';
	from_hex("00000000 0000015a 00000000 000015b8 1b3c563b 01680009 00080000", block + 152, 28);
	memcpy(block + 152 + 40, "file00317", 9);
	assert_int_equal(be16_to_cpu(lf->lf_depth), 3);
	assert_int_equal(be16_to_cpu(lf->lf_entries), 33);
	assert_int_equal(be64_to_cpu(lf->lf_inode), 5018);
	assert_int_equal(be32_to_cpu(lf->lf_dist), 1);
	assert_int_equal(be64_to_cpu(lf->lf_sec), 0x6b0289b0);
	assert_int_equal(sizeof(*lf), 104);
	assert_non_null(dirent_find(&w, &area, &dot));
	assert_int_equal(be64_to_cpu(w.cur->de_inum.no_addr), 5018);
	assert_non_null(dirent_find(&w, &area, &file));
	assert_non_null(w.prev);
	assert_int_equal(be64_to_cpu(w.cur->de_inum.no_addr), 5560);
	assert_null(w.rule);
}

/* Random inserts and removals in one block: complete, and no room is lost. */
static void test_dirent_model(void **state)
{
	static char names[200][256];
	char block[4096];
	struct dirent_area area = { block, 104, 4096 };
	bool there[200] = { 0 };
	uint32_t used = 0;
	const char *rule;
	unsigned live, nr = 0;

	for (int i = 0; i < 200; i++) {
		int len = snprintf(names[i], 256, "%d", i), want = 1 + rnd(rnd(10) ? 30 : 255);

		memset(names[i] + len, 'x', want > len ? want - len : 0);
	}
	dirent_init_empty(&area);
	for (int i = 0; i < SCALE(40000); i++) {
		int k = rnd(200);
		struct gfs2_qname q = gfs2_qname(names[k]);
		struct dirent_walk w;
		struct gfs2_dirent *d = dirent_find(&w, &area, &q);

		assert_null(w.rule);
		assert_int_equal(d != NULL, there[k]);
		if (d) {
			dirent_remove(&w);
			/* first in the block: a sentinel by both numbers */
			if (!w.prev)
				assert_false(d->de_inum.no_addr || d->de_inum.no_formal_ino);
			used -= dirent_size(q.len);
			nr--;
		} else {
			d = dirent_insert(&area, &q, &rule);
			assert_null(rule);
			assert_int_equal(d != NULL, used + dirent_size(q.len) <= 4096 - 104);
			if (!d)
				continue;
			d->de_inum.no_formal_ino = d->de_inum.no_addr = cpu_to_be64(k + 1);
			used += dirent_size(q.len);
			nr++;
		}
		there[k] ^= 1;
		assert_int_equal(dirent_used(&area, &live, &rule), used);
		assert_null(rule);
		assert_int_equal(live, nr);
	}
}

/* Noise in a block: never a record outside of it (the sanitizers watch), always an end. */
static void test_dirent_noise(void **state)
{
	char *block = malloc(512);
	struct dirent_area area = { block, 104, 512 };
	struct gfs2_qname q = gfs2_qname("needle");
	unsigned broken = 0;

	for (int i = 0; i < 20000; i++) {
		struct dirent_walk w;
		struct gfs2_dirent *d;
		const char *rule;
		unsigned steps = 0;

		dirent_init_empty(&area);
		for (int k = 0; k < 6; k++) {
			char name[16];
			struct gfs2_qname n;

			snprintf(name, sizeof(name), "name%d", k);
			n = gfs2_qname(name);
			d = dirent_insert(&area, &n, &rule);
			d->de_inum.no_formal_ino = d->de_inum.no_addr = cpu_to_be64(1);
		}
		for (unsigned k = rnd(6); k; k--)
			block[104 + rnd(408)] = rnd(256);
		dirent_walk_init(&w, &area);
		while ((d = dirent_next(&w))) {
			assert_in_range((char *)d + dirent_rec_len(d) - block, 104 + 40, 512);
			assert_true(++steps <= 408 / 40);
		}
		broken += w.rule != NULL;
		dirent_find(&w, &area, &q);
	}
	assert_in_range(broken, 1000, 19000);
	free(block);
}

/* --- whole directories --- */

static struct gfs2_inode *make(struct gfs2_inode *dip, const char *name, mode_t mode)
{
	struct gfs2_create_args a = { .mode = mode, .excl = true, .symlink = "target" };
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(gfs2_create(dip, name, &a, &ip, &st), 0);
	assert_int_equal(st.st_mode, mode);
	return ip;
}

/* Each name is another link of one file: directories grow without dinodes. */
static int add_name(struct gfs2_inode *dip, struct gfs2_inode *file, const char *name)
{
	struct stat st;

	return gfs2_link(file, dip, name, &st);
}

/* The same where nobody else changes @dip: what is asked for is what is taken, or a full volume would not be full to the block. */
static void add_exactly(struct gfs2_inode *dip, struct gfs2_inode *file, const char *name)
{
	struct gfs2_qname q = gfs2_qname(name);
	struct gfs2_holder gh;
	unsigned blocks, trans;
	uint64_t before;

	assert_int_equal(gfs2_glock_nq_init(dip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	before = dip->i_blocks;
	assert_int_equal(gfs2_diradd_alloc_required(dip, &q, &blocks, &trans), 0);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(add_name(dip, file, name), 0);
	assert_int_equal(gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(dip->i_blocks - before, blocks);
	gfs2_glock_dq_uninit(&gh);
}

struct seen {
	unsigned nr, stop_after;
	uint64_t last;
	bool (*want)(void *arg, const char *name);
	void *arg;
};

static bool seen_fn(void *arg, const struct gfs2_dir_entry *e)
{
	struct seen *s = arg;
	char name[256];

	if (s->stop_after && s->nr == s->stop_after)
		return false;
	assert_true(e->cookie > s->last);
	assert_true((int64_t)e->cookie > 0);
	s->last = e->cookie;
	s->nr++;
	memcpy(name, e->name, e->len);
	name[e->len] = 0;
	if (s->want)
		assert_true(s->want(s->arg, name));
	return true;
}

static void list(struct gfs2_inode *dip, struct seen *s)
{
	struct gfs2_holder gh;

	assert_int_equal(gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(gfs2_dir_read(dip, s->last, seen_fn, s), 0);
	gfs2_glock_dq_uninit(&gh);
}

static bool lookup(struct gfs2_inode *dip, const char *name, uint64_t addr)
{
	struct gfs2_inum_host inum;
	struct gfs2_qname q = gfs2_qname(name);
	struct gfs2_holder gh;
	int error;

	assert_int_equal(gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	error = gfs2_dir_search(dip, &q, &inum, NULL);
	gfs2_glock_dq_uninit(&gh);
	if (!error)
		assert_int_equal(inum.no_addr, addr);
	else
		assert_int_equal(error, -ENOENT);
	return !error;
}

struct model {
	unsigned nr, live, max;
	bool *there;
	uint32_t *seen;		/* how often in the current listing */
	bool *steady;		/* there since the listing began */
};

static void model_name(unsigned i, char *name)
{
	unsigned pad = i % 7 == 0 ? i % 97 : i % 11;

	name += sprintf(name, "entry-%u-", i);
	memset(name, 'n', pad);
	name[pad] = 0;
}

static bool model_want(void *arg, const char *name)
{
	struct model *m = arg;
	unsigned i;

	if (name[0] == '.')
		return true;
	assert_int_equal(sscanf(name, "entry-%u-", &i), 1);
	assert_true(i < m->max);
	m->seen[i]++;
	return true;
}

static void model_init(struct model *m, unsigned max)
{
	*m = (struct model){ .max = max };
	m->there = calloc(max, sizeof(*m->there));
	m->seen = calloc(max, sizeof(*m->seen));
	m->steady = calloc(max, sizeof(*m->steady));
}

static void model_free(struct model *m)
{
	free(m->there);
	free(m->seen);
	free(m->steady);
}

static void model_toggle(struct model *m, struct gfs2_inode *dip, struct gfs2_inode *file,
			 unsigned i)
{
	char name[256];

	model_name(i, name);
	if (m->there[i])
		assert_int_equal(gfs2_unlink(dip, name), 0);
	else
		add_exactly(dip, file, name);
	m->there[i] ^= 1;
	m->live += m->there[i] ? 1 : -1;
	m->steady[i] = false;
}

static void model_compare(struct model *m, struct gfs2_inode *dip, struct gfs2_inode *file)
{
	struct seen s = { .want = model_want, .arg = m };
	char name[256];

	memset(m->seen, 0, m->max * sizeof(*m->seen));
	list(dip, &s);
	assert_int_equal(s.nr, m->live + 2);
	for (unsigned i = 0; i < m->max; i++) {
		assert_int_equal(m->seen[i], m->there[i]);
		if (i % 16 == 0) {
			model_name(i, name);
			assert_int_equal(lookup(dip, name, file->i_no_addr), m->there[i]);
		}
	}
}

static struct gfs2_inode *dir, *file;

static void dir_up(bool make_them)
{
	struct stat st;

	vol_up();
	if (make_them) {
		dir = make(sdp->sd_root, "dir", S_IFDIR | 0755);
		file = make(sdp->sd_root, "file", S_IFREG | 0644);
	} else {
		assert_int_equal(gfs2_lookup(sdp->sd_root, "dir", &dir, &st), 0);
		assert_int_equal(gfs2_lookup(sdp->sd_root, "file", &file, &st), 0);
	}
}

static void dir_down(void)
{
	gfs2_inode_put(dir);
	gfs2_inode_put(file);
	vol_down();
}

static void check_random(unsigned bsize, unsigned entries)
{
	struct model m;

	vol_make(bsize, 64, 1, "");
	dir_up(true);
	model_init(&m, entries);
	for (unsigned round = 0; round < 4; round++) {
		/* mostly growing, then mostly shrinking */
		for (unsigned i = 0; i < entries; i++) {
			unsigned k = rnd(entries);

			if (m.there[k] == (round >= 2) || rnd(4) == 0)
				model_toggle(&m, dir, file, k);
		}
		model_compare(&m, dir, file);
		if (round % 2) {
			dir_down();
			vol_fsck();
			dir_up(false);
			model_compare(&m, dir, file);
		}
	}
	model_free(&m);
	dir_down();
	vol_fsck();
}

static void test_random(void **state)
{
	check_random(512, SCALE(1000));
	check_random(1024, SCALE(1600));
	check_random(2048, SCALE(2000));
	check_random(4096, SCALE(3000));
}

/* Tens of thousands of entries; then all go, and the space comes back. */
static void test_many(void **state)
{
	const unsigned nr = SCALE(24000);
	struct gfs2_statfs_host before, after;
	struct model m;

	vol_make(4096, 128, 1, "");
	vol_up();
	file = make(sdp->sd_root, "file", S_IFREG | 0644);
	gfs2_statfs_get(sdp, &before);
	dir = make(sdp->sd_root, "dir", S_IFDIR | 0755);
	model_init(&m, nr);
	for (unsigned i = 0; i < nr; i++)
		model_toggle(&m, dir, file, i);
	assert_true(dir->i_diskflags & GFS2_DIF_EXHASH);
	assert_true(dir->i_height > 0 || nr < 24000);
	model_compare(&m, dir, file);
	dir_down();
	vol_fsck();

	dir_up(false);
	model_compare(&m, dir, file);
	for (unsigned i = 0; i < nr; i++)
		model_toggle(&m, dir, file, i);
	model_compare(&m, dir, file);
	gfs2_inode_put(dir);
	assert_int_equal(gfs2_rmdir(sdp->sd_root, "dir"), 0);
	gfs2_statfs_get(sdp, &after);
	assert_int_equal(before.free, after.free);
	assert_int_equal(before.dinodes, after.dinodes);
	gfs2_inode_put(file);
	vol_down();
	vol_fsck();
	model_free(&m);
}

/* What lives throughout a listing is listed once, whatever happens between its parts. */
static void test_list_while_changing(void **state)
{
	const unsigned max = SCALE(3200);
	struct model m;

	vol_make(1024, 64, 1, "");
	dir_up(true);
	model_init(&m, max);
	for (unsigned i = 0; i < max / 4; i++)
		model_toggle(&m, dir, file, rnd(max));
	for (int round = 0; round < 12; round++) {
		struct seen s = { .want = model_want, .arg = &m };
		unsigned got;

		memset(m.seen, 0, max * sizeof(*m.seen));
		memcpy(m.steady, m.there, max * sizeof(*m.steady));
		do {
			s.stop_after = 1 + rnd(60);
			s.nr = 0;
			list(dir, &s);
			got = s.nr;
			for (unsigned i = rnd(30); i; i--) {
				unsigned k = rnd(max);

				if (m.there[k] && rnd(3) && round < 8)
					continue;
				model_toggle(&m, dir, file, k);
			}
		} while (got);
		for (unsigned i = 0; i < max; i++) {
			if (m.steady[i])
				assert_int_equal(m.seen[i], 1);
		}
	}
	model_compare(&m, dir, file);
	model_free(&m);
	dir_down();
	vol_fsck();
}

/* --- names with one hash --- */

#define COLLIDE_BITS 50

/*
 * Names of COLLIDE_BITS letters, each 'a' or 'b': their CRC is an affine function of the choice, so
 * the null space of the linear part gives names of equal hash.  @basis: vectors of it; returns how
 * many.
 */
static unsigned collisions(uint64_t *basis)
{
	char name[COLLIDE_BITS + 1];
	uint32_t zero, col[COLLIDE_BITS];
	uint64_t comb[COLLIDE_BITS];
	unsigned nr = 0, rank = 0;

	memset(name, 'a', COLLIDE_BITS);
	name[COLLIDE_BITS] = 0;
	zero = gfs2_disk_hash(name, COLLIDE_BITS);
	for (unsigned i = 0; i < COLLIDE_BITS; i++) {
		name[i] = 'b';
		col[i] = gfs2_disk_hash(name, COLLIDE_BITS) ^ zero;
		comb[i] = 1ull << i;
		name[i] = 'a';
	}
	for (unsigned bit = 0; bit < 32; bit++) {
		unsigned p = rank;

		while (p < COLLIDE_BITS && !(col[p] >> bit & 1))
			p++;
		if (p == COLLIDE_BITS)
			continue;
		uint32_t c = col[p];
		uint64_t v = comb[p];

		col[p] = col[rank];
		comb[p] = comb[rank];
		col[rank] = c;
		comb[rank] = v;
		for (unsigned i = rank + 1; i < COLLIDE_BITS; i++)
			if (col[i] >> bit & 1) {
				col[i] ^= c;
				comb[i] ^= v;
			}
		rank++;
	}
	for (unsigned i = rank; i < COLLIDE_BITS; i++)
		if (!col[i])
			basis[nr++] = comb[i];
	return nr;
}

static void collide_name(const uint64_t *basis, unsigned i, char *name)
{
	uint64_t v = 0;

	for (unsigned b = 0; i >> b; b++)
		if (i >> b & 1)
			v ^= basis[b];
	for (unsigned b = 0; b < COLLIDE_BITS; b++)
		name[b] = v >> b & 1 ? 'b' : 'a';
	name[COLLIDE_BITS] = 0;
}

/* Which of the colliding names were listed, as their choice of letters. */
struct collided {
	uint64_t *v;
	unsigned nr;
};

static uint64_t collide_value(const char *name)
{
	uint64_t v = 0;

	for (unsigned b = 0; b < COLLIDE_BITS; b++)
		v |= (uint64_t)(name[b] == 'b') << b;
	return v;
}

static bool collided_want(void *arg, const char *name)
{
	struct collided *c = arg;

	if (name[0] != '.')
		c->v[c->nr++] = collide_value(name);
	return true;
}

static int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Listed: @name exactly once. */
static void assert_listed_once(struct collided *c, const char *name)
{
	uint64_t v = collide_value(name), *p;

	p = bsearch(&v, c->v, c->nr, sizeof(v), cmp_u64);
	assert_non_null(p);
	assert_false((p > c->v && p[-1] == v) || (p + 1 < c->v + c->nr && p[1] == v));
}

/* More than a leaf can hold under one hash: depth 17, chains; cookies stay apart and stable. */
static void check_collisions(unsigned bsize, unsigned nr, unsigned before)
{
	uint64_t basis[COLLIDE_BITS];
	char name[COLLIDE_BITS + 1];
	unsigned left = nr;
	uint32_t hash = 0;

	assert_true(1u << collisions(basis) >= nr);
	vol_make(bsize, 128, 1, "");
	dir_up(true);
	/* The table grows from each of its forms. */
	for (unsigned i = 0; i < before; i++) {
		snprintf(name, sizeof(name), "%u", i);
		add_exactly(dir, file, name);
	}
	for (unsigned i = 0; i < nr; i++) {
		collide_name(basis, i, name);
		if (!i)
			hash = gfs2_qname(name).hash;
		assert_int_equal(gfs2_qname(name).hash, hash);
		add_exactly(dir, file, name);
	}
	for (unsigned i = 0; i < before; i++) {
		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(gfs2_unlink(dir, name), 0);
	}
	assert_int_equal(dir->i_depth, GFS2_DIR_MAX_DEPTH);
	assert_int_equal(dir->i_size, 8u << GFS2_DIR_MAX_DEPTH);
	dir_down();
	vol_fsck();
	dir_up(false);

	/* Remove while listing, a few at a time, as rm -r does: nothing may be skipped. */
	struct collided c = { .v = calloc(nr, sizeof(*c.v)) };
	struct seen s = { .want = collided_want, .arg = &c };
	for (unsigned i = 0; i < nr / 2; i++) {
		if (i % (nr / 16) == 0) {
			s.nr = 0;
			s.stop_after = nr / 20;
			list(dir, &s);
		}
		collide_name(basis, i, name);
		assert_true(lookup(dir, name, file->i_no_addr));
		assert_int_equal(gfs2_unlink(dir, name), 0);
		assert_false(lookup(dir, name, file->i_no_addr));
		left--;
	}
	s.stop_after = 0;
	list(dir, &s);
	qsort(c.v, c.nr, sizeof(*c.v), cmp_u64);
	for (unsigned i = nr / 2; i < nr; i++) {
		collide_name(basis, i, name);
		assert_listed_once(&c, name);
	}
	free(c.v);
	s = (struct seen){ 0 };
	list(dir, &s);
	assert_int_equal(s.nr, left + 2);
	/* The room in the chain is used again. */
	uint64_t blocks = dir->i_blocks;

	for (unsigned i = 0; i < nr / 2; i++) {
		collide_name(basis, i, name);
		add_exactly(dir, file, name);
	}
	assert_int_equal(dir->i_blocks, blocks);
	for (unsigned i = 0; i < nr; i++) {
		collide_name(basis, i, name);
		assert_int_equal(gfs2_unlink(dir, name), 0);
	}
	gfs2_inode_put(dir);
	assert_int_equal(gfs2_rmdir(sdp->sd_root, "dir"), 0);
	gfs2_inode_put(file);
	vol_down();
	vol_fsck();
}

static void test_collisions(void **state)
{
	/* From a linear directory, from tables in the dinode, in blocks, and below indirect blocks. */
	check_collisions(512, 200, 0);
	check_collisions(512, 200, 100);
	check_collisions(512, 200, SCALE(1000));
	check_collisions(512, 200, SCALE(40000));
	check_collisions(1024, 400, SCALE(2000));
	check_collisions(4096, SCALE(3200), SCALE(20000));
}

#define FAR_GROUP (2048u << 11)	/* blocks of 512 bytes in a resource group of 2 GiB */
#define FAR_GROUPS 6u

/* A chain whose leaves lie in resource groups with more blocks of bitmaps than a transaction could log. */
static void test_chain_far_apart(void **state)
{
	uint64_t basis[COLLIDE_BITS];
	struct gfs2_statfs_host before, after;
	char name[COLLIDE_BITS + 1];

	assert_true(1u << collisions(basis) >= 200);
	vol_make(512, FAR_GROUPS * 2048, 1, "-r 2048");
	dir_up(true);
	gfs2_statfs_get(sdp, &before);
	for (unsigned i = 0; i < 200; i++) {
		/* Where it looks for blocks first, should it need one. */
		dir->i_res_next = i / 4 % FAR_GROUPS * FAR_GROUP + FAR_GROUP / 2;
		collide_name(basis, i, name);
		assert_int_equal(add_name(dir, file, name), 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		collide_name(basis, i, name);
		assert_int_equal(gfs2_unlink(dir, name), 0);
	}
	assert_int_equal(gfs2_rmdir(sdp->sd_root, "dir"), 0);
	gfs2_inode_put(dir);
	gfs2_evict_wait(sdp);
	gfs2_statfs_get(sdp, &after);
	/* The directory's own dinode was counted. */
	assert_int_equal(after.free, before.free + 1);
	gfs2_inode_put(file);
	vol_down();
	vol_fsck();
}

/* A whole listing in steps of one entry, all of one hash. */
static void test_collision_cookies(void **state)
{
	uint64_t basis[COLLIDE_BITS];
	char name[COLLIDE_BITS + 1];
	struct seen s = { .stop_after = 1 };
	unsigned nr = 0;

	collisions(basis);
	vol_make(4096, 64, 1, "");
	dir_up(true);
	for (unsigned i = 0; i < 300; i++) {
		collide_name(basis, i, name);
		assert_int_equal(add_name(dir, file, name), 0);
	}
	for (;;) {
		s.nr = 0;
		list(dir, &s);
		if (!s.nr)
			break;
		nr++;
	}
	assert_int_equal(nr, 302);
	dir_down();
	vol_fsck();
}

/* --- damage --- */

static int list_error(struct gfs2_inode *dip)
{
	struct gfs2_holder gh;
	struct seen s = { 0 };
	int error;

	error = gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, 0, &gh);
	if (error)
		return error;
	error = gfs2_dir_read(dip, 0, seen_fn, &s);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

/*
 * @where bytes into the directory's first leaf, @len bytes @val: a listing and lookups end with
 * -EIO.
 */
static void check_damage(uint64_t leaf, unsigned where, const void *val, size_t len)
{
	struct gfs2_args args = vol_args;
	char saved[16];
	struct stat st;
	int error;

	args.ar_ro = true;
	vol_read(saved, len, leaf * 1024 + where);
	vol_write(val, len, leaf * 1024 + where);
	engine = vol_open(false);
	assert_int_equal(gfs2_mount(engine, &args, &sdp), 0);
	assert_int_equal(gfs2_lookup(sdp->sd_root, "dir", &dir, &st), 0);
	error = list_error(dir);
	assert_int_equal(error, -EIO);
	for (unsigned i = 0; i < 200; i += 9) {
		struct gfs2_inode *ip;
		char name[256];

		model_name(i, name);
		error = gfs2_lookup(dir, name, &ip, &st);
		if (!error)
			gfs2_inode_put(ip);
		else
			assert_true(error == -EIO || error == -ENOENT);
	}
	gfs2_inode_put(dir);
	gfs2_unmount(sdp);
	io_engine_close(engine);
	vol_write(saved, len, leaf * 1024 + where);
}

static void test_damage(void **state)
{
	uint64_t leaf, self;
	struct gfs2_holder gh;
	const __be64 *table;
	struct model m;

	vol_make(1024, 64, 1, "");
	dir_up(true);
	model_init(&m, 200);
	for (unsigned i = 0; i < 200; i++)
		model_toggle(&m, dir, file, i);
	assert_int_equal(gfs2_glock_nq_init(dir->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(dir_hash_get(dir, &table), 0);
	leaf = be64_to_cpu(table[0]);
	gfs2_glock_dq_uninit(&gh);
	dir_down();
	vol_fsck();

	check_damage(leaf, 104 + 20, "\0\0", 2);		/* rec_len 0 */
	check_damage(leaf, 104 + 20, "\xff\xf8", 2);		/* past the block */
	check_damage(leaf, 104 + 20, "\0\x29", 2);		/* misaligned */
	check_damage(leaf, 104 + 22, "\xff\xff", 2);		/* name too long */
	check_damage(leaf, 104 + 22, "\0\0", 2);		/* no name */
	check_damage(leaf, 24, "\0\0", 2);			/* lf_depth */
	check_damage(leaf, 24, "\0\x20", 2);
	check_damage(leaf, 26, "\0\0", 2);			/* lf_entries */
	check_damage(leaf, 104 + 16, "\xff\xff\xff\xff", 4);	/* a hash of another leaf */
	check_damage(leaf, 4, "\0\0\0\x04", 4);			/* not a leaf */
	self = cpu_to_be64(leaf);
	check_damage(leaf, 32, &self, 8);			/* chain in a circle */
	check_damage(leaf, 32, "\x7f\xff\xff\xff\xff\xff\xff\xff", 8);
	vol_fsck();
	model_free(&m);
}

/* Several threads look names up and list while one changes: the hash table in memory is shared. */
static void *reader(void *arg)
{
	atomic_bool *stop = arg;

	while (!atomic_load(stop)) {
		struct seen s = { 0 };

		list(dir, &s);
		lookup(dir, "entry-1-n", file->i_no_addr);
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t t[3];
	atomic_bool stop = false;
	struct model m;

	vol_make(512, 64, 1, "");
	dir_up(true);
	model_init(&m, 1000);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, reader, &stop), 0);
	for (unsigned i = 0; i < SCALE(2400); i++) {
		unsigned k = rnd(1000);

		model_toggle(&m, dir, file, k);
		if (i % 100 == 0) {
			gfs2_glock_cb(dir->i_gl, LM_ST_UNLOCKED, true);
			gfs2_glock_wait_demoted(dir->i_gl, UINT64_MAX / 2);
		}
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	model_compare(&m, dir, file);
	model_free(&m);
	dir_down();
	vol_fsck();
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hash),
		cmocka_unit_test(test_dirent_bytes),
		cmocka_unit_test(test_leaf_bytes),
		cmocka_unit_test(test_dirent_model),
		cmocka_unit_test(test_dirent_noise),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_list_while_changing),
		cmocka_unit_test(test_collisions),
		cmocka_unit_test(test_chain_far_apart),
		cmocka_unit_test(test_collision_cookies),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return vol_main(run);
}
