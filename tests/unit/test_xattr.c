/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extended attributes and ACLs: records as the kernel writes them, random changes against a model
 * with the volume's own accounting, every damaged block refused, ACLs by the kernel's rules.
 */
#include <errno.h>
#include <linux/posix_acl.h>
#include <sys/xattr.h>
#include "vol.h"
#include "fs/acl.h"
#include "fs/bmap.h"
#include "fs/dealloc.h"
#include "fs/eattr.h"
#include "fs/file.h"
#include "fs/namei_i.h"

static struct io_engine *engine;
static struct gfs2_sbd *sdp;
static struct gfs2_statfs_host fresh;

static void up(void)
{
	engine = vol_open(false);
	assert_int_equal(gfs2_mount(engine, &vol_args, &sdp), 0);
	gfs2_statfs_get(sdp, &fresh);
}

static void down(void)
{
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(engine);
	vol_fsck();
}

static int64_t used_blocks(void)
{
	struct gfs2_statfs_host now;

	gfs2_statfs_get(sdp, &now);
	return fresh.free - now.free;
}

static uint64_t rnd_state = 88172645463325252ull;
static uint32_t rnd(uint32_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 16) % below);
}

static struct gfs2_inode *make(struct gfs2_inode *dip, const char *name, mode_t mode, mode_t umask_)
{
	const struct gfs2_create_args a = { .mode = mode, .umask = umask_, .excl = true,
					    .symlink = "target" };
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(gfs2_create(dip, name, &a, &ip, &st), 0);
	return ip;
}

static struct gfs2_inode *find(const char *name)
{
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(gfs2_lookup(sdp->sd_root, name, &ip, &st), 0);
	return ip;
}

static int set(struct gfs2_inode *ip, const char *name, const void *value, size_t size)
{
	return gfs2_setxattr(ip, name, value, size, 0, false);
}

/* --- records as the kernel writes them --- */

/* A fake block with an EA header, and a volume that is just large enough to walk it. */
static struct gfs2_sbd *tiny(uint32_t bsize, unsigned format)
{
	static struct gfs2_sbd s;

	memset(&s, 0, sizeof(s));
	s.sd_bsize = bsize;
	s.sd_jbsize = bsize - sizeof(struct gfs2_meta_header);
	s.sd_fs_format = format;
	return &s;
}

/*
 * The first records of three EA blocks (block size 4096 and 512) of a volume that gfs2 of Linux 6.1
 * wrote: file "a" after setting user.one=1, user.two=22, user.three (100 bytes of 't'), removing
 * user.two; "b" with user.first removed, which stays as an unused record, and trusted.t=T behind it;
 * "c", block size 512, with a value of 1000 bytes in three blocks.
 */
#include "xattr_kernel.h"

struct expected {
	unsigned type, namel, data_len, ptrs;
	const char *name;
};

static void check_image(struct gfs2_sbd *s, const unsigned char *image, size_t len,
			const struct expected *want, unsigned nr)
{
	_Alignas(8) char block[4096] = { 0 };
	struct gfs2_ea_header *ea;
	struct ea_walk w;

	assert_true(len <= s->sd_bsize);
	memcpy(block, image, len);
	ea_walk_init(&w, s, block);
	for (unsigned i = 0; i < nr; i++) {
		ea = ea_next(&w);
		assert_non_null(ea);
		assert_int_equal(ea->ea_type, want[i].type);
		assert_int_equal(ea->ea_name_len, want[i].namel);
		assert_int_equal(ea_data_len(ea), want[i].data_len);
		assert_int_equal(ea->ea_num_ptrs, want[i].ptrs);
		assert_memory_equal(ea_name(ea), want[i].name, want[i].namel);
		assert_int_equal(ea_used(ea) ? ea_is(ea, want[i].type, want[i].name, want[i].namel) : 1,
				 1);
	}
	assert_null(ea_next(&w));
	assert_null(w.rule);
}

static void test_kernel_records(void **state)
{
	static const struct expected a[] = {
		{ GFS2_EATYPE_USR, 3, 1, 0, "one" },
		{ GFS2_EATYPE_USR, 5, 100, 0, "three" },
	};
	static const struct expected b[] = {
		{ GFS2_EATYPE_UNUSED, 5, 2, 0, "first" },
		{ GFS2_EATYPE_TRUSTED, 1, 1, 0, "t" },
	};
	static const struct expected c[] = { { GFS2_EATYPE_USR, 5, 1000, 3, "value" } };
	struct ea_walk w;
	_Alignas(8) char block[4096] = { 0 };

	check_image(tiny(4096, 1802), kernel_a, sizeof(kernel_a), a, 2);
	check_image(tiny(4096, 1802), kernel_b, sizeof(kernel_b), b, 2);
	check_image(tiny(512, 1802), kernel_c, sizeof(kernel_c), c, 1);
	/* trusted.* is no type of the older format */
	memcpy(block, kernel_b, sizeof(kernel_b));
	ea_walk_init(&w, tiny(4096, 1801), block);
	assert_non_null(ea_next(&w));
	assert_null(ea_next(&w));
	assert_non_null(w.rule);
}

/* The same changes here leave the same bytes, up to what lies behind the records' ends. */
static void same_as_kernel(struct gfs2_inode *ip, const unsigned char *image)
{
	struct gfs2_ea_header *ea, *want;
	struct gfs2_holder gh;
	struct ea_iter it;
	struct ea_walk w;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(ea_iter_begin(&it, ip), 0);
	assert_int_equal(ea_iter_next(&it), 1);
	ea_walk_init(&w, sdp, it.bh->b_data);
	while ((ea = ea_next(&w))) {
		_Alignas(8) struct gfs2_ea_header h;
		size_t off = (size_t)((char *)ea - it.bh->b_data);

		memcpy(&h, image + off, sizeof(h));
		want = &h;
		assert_memory_equal(ea, want, sizeof(h));
		if (!ea_unused(ea))
			assert_memory_equal(ea_name(ea), image + off + sizeof(h), ea->ea_name_len);
		if (!ea_unused(ea) && ea_stuffed(ea))
			assert_memory_equal(ea_value(ea), image + off + sizeof(h) + ea->ea_name_len,
					    ea_data_len(ea));
	}
	assert_null(w.rule);
	assert_int_equal(ea_iter_next(&it), 0);
	ea_iter_end(&it);
	gfs2_glock_dq_uninit(&gh);
}

static void test_kernel_layout(void **state)
{
	struct gfs2_inode *ip;
	char text[1000];

	vol_make(4096, 64, 1, "");
	up();
	memset(text, 't', sizeof(text));
	ip = make(sdp->sd_root, "a", S_IFREG | 0644, 0);
	assert_int_equal(set(ip, "user.one", "1", 1), 0);
	assert_int_equal(set(ip, "user.two", "22", 2), 0);
	assert_int_equal(set(ip, "user.three", text, 100), 0);
	assert_int_equal(gfs2_removexattr(ip, "user.two"), 0);
	same_as_kernel(ip, kernel_a);
	gfs2_inode_put(ip);
	ip = make(sdp->sd_root, "b", S_IFREG | 0644, 0);
	assert_int_equal(set(ip, "user.first", "11", 2), 0);
	assert_int_equal(set(ip, "trusted.t", "T", 1), 0);
	assert_int_equal(gfs2_removexattr(ip, "user.first"), 0);
	same_as_kernel(ip, kernel_b);
	gfs2_inode_put(ip);
	down();
	vol_make(512, 64, 1, "");
	up();
	ip = make(sdp->sd_root, "c", S_IFREG | 0644, 0);
	assert_int_equal(set(ip, "user.value", text, 1000), 0);
	same_as_kernel(ip, kernel_c);
	assert_int_equal(ip->i_blocks, 1 + 1 + 3);
	gfs2_inode_put(ip);
	down();
}

/* --- random changes against a model --- */

#define MODEL_NAMES 60

struct model {
	struct gfs2_inode *ip;
	unsigned char *value[MODEL_NAMES];
	size_t size[MODEL_NAMES];
	bool there[MODEL_NAMES];
};

static const char *model_name(unsigned i)
{
	static const char *const spaces[] = { "user.", "trusted.", "security.", "user." };
	static char name[300];
	size_t len = (size_t)snprintf(name, sizeof(name), "%sname%u", spaces[i % 4], i);

	/* some are long */
	if (i % 5 == 0) {
		memset(name + len, 'x', i * 3 % 200);
		name[len + i * 3 % 200] = '\0';
	}
	return name;
}

/* Everything reachable from i_eattr is sound, and i_blocks counts it. */
static unsigned count_blocks(struct gfs2_inode *ip)
{
	struct gfs2_ea_header *ea;
	unsigned blocks = 0;
	struct gfs2_holder gh;
	struct ea_iter it;
	struct ea_walk w;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_int_equal(ea_iter_begin(&it, ip), 0);
	blocks += !!it.ind_bh;
	while (ea_iter_next(&it) > 0) {
		blocks++;
		ea_walk_init(&w, sdp, it.bh->b_data);
		while ((ea = ea_next(&w))) {
			blocks += ea->ea_num_ptrs;
			if (ea_unused(ea))
				assert_int_equal(ea->ea_num_ptrs, 0);
			for (unsigned i = 0; i < ea->ea_num_ptrs; i++)
				assert_int_equal(gfs2_get_block_type(sdp,
					be64_to_cpu(ea_ptrs(ea)[i])), GFS2_BLKST_USED_);
		}
		assert_null(w.rule);
	}
	ea_iter_end(&it);
	gfs2_glock_dq_uninit(&gh);
	return blocks;
}

static void check_model(struct model *m)
{
	static unsigned char buf[65536];
	static char list[65536];
	size_t names = 0, found = 0;
	ssize_t ret;

	for (unsigned i = 0; i < MODEL_NAMES; i++) {
		const char *name = model_name(i);

		ret = gfs2_getxattr(m->ip, name, NULL, 0);
		if (!m->there[i]) {
			assert_int_equal(ret, -ENODATA);
			continue;
		}
		names += strlen(name) + 1;
		assert_int_equal(ret, m->size[i]);
		assert_int_equal(gfs2_getxattr(m->ip, name, buf, sizeof(buf)), m->size[i]);
		assert_memory_equal(buf, m->value[i], m->size[i]);
		if (m->size[i] > 1)
			assert_int_equal(gfs2_getxattr(m->ip, name, buf, m->size[i] - 1), -ERANGE);
	}
	assert_int_equal(gfs2_listxattr(m->ip, NULL, 0), names);
	assert_int_equal(gfs2_listxattr(m->ip, list, sizeof(list)), names);
	if (names > 1)
		assert_int_equal(gfs2_listxattr(m->ip, list, names - 1), -ERANGE);
	for (size_t at = 0; at < names; at += strlen(list + at) + 1, found++) {
		unsigned i = 0;

		while (i < MODEL_NAMES && !(m->there[i] && !strcmp(model_name(i), list + at)))
			i++;
		assert_true(i < MODEL_NAMES);
	}
	assert_int_equal(m->ip->i_blocks, 1 + count_blocks(m->ip));
}

static size_t random_size(void)
{
	static const size_t limits[] = { 1, 20, 100, 500, 1200, 4200, 9000, 65537 };
	size_t size = rnd((uint32_t)limits[rnd(8)]);

	/* now and then exactly what fits */
	return rnd(40) ? size : sdp->sd_jbsize * (1 + rnd(3)) - rnd(40);
}

static void model_step(struct model *m)
{
	unsigned i = rnd(MODEL_NAMES), ptrs;
	const char *name = model_name(i);
	static const int flags[] = { 0, 0, 0, XATTR_CREATE, XATTR_REPLACE };
	int flag = flags[rnd(5)], error, want = 0;
	size_t size = random_size();
	unsigned char *value;

	if (!rnd(3)) {
		error = gfs2_removexattr(m->ip, name);
		assert_int_equal(error, m->there[i] ? 0 : -ENODATA);
		m->there[i] = false;
		return;
	}
	value = malloc(size + 1);
	for (size_t b = 0; b < size; b++)
		value[b] = (unsigned char)(rnd(256));
	if (ea_need(sdp, strlen(strchr(name, '.') + 1), size, &ptrs) > sdp->sd_jbsize)
		want = -ERANGE;
	else if (flag == XATTR_CREATE && m->there[i])
		want = -EEXIST;
	else if (flag == XATTR_REPLACE && !m->there[i])
		want = -ENODATA;
	error = gfs2_setxattr(m->ip, name, value, size, flag, false);
	/* With small blocks the indirect block may be full. */
	if (error == -ENOSPC && !want) {
		assert_true(m->ip->i_diskflags & GFS2_DIF_EA_INDIRECT);
		assert_true(sdp->sd_bsize < 4096);
	} else {
		assert_int_equal(error, want);
	}
	if (error) {
		free(value);
		return;
	}
	free(m->value[i]);
	m->value[i] = value;
	m->size[i] = size;
	m->there[i] = true;
}

static void test_model(void **state)
{
	static struct model m;

	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		int64_t before;

		memset(&m, 0, sizeof(m));
		vol_make(bsize, 64, 1, "");
		up();
		m.ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
		before = used_blocks();
		assert_int_equal(before, 1);
		for (unsigned step = 0; step < 400; step++) {
			model_step(&m);
			assert_int_equal(used_blocks(), m.ip->i_blocks);
			if (step % 40 == 0)
				check_model(&m);
		}
		check_model(&m);
		gfs2_inode_put(m.ip);
		down();
		/* the same after a remount */
		up();
		m.ip = find("f");
		check_model(&m);
		fresh.free += (int64_t)m.ip->i_blocks;
		for (unsigned step = 0; step < 100; step++)
			model_step(&m);
		check_model(&m);
		assert_int_equal(used_blocks(), m.ip->i_blocks);
		assert_int_equal(gfs2_unlink(sdp->sd_root, "f"), 0);
		gfs2_inode_put(m.ip);
		assert_int_equal(used_blocks(), 0);
		down();
		for (unsigned i = 0; i < MODEL_NAMES; i++)
			free(m.value[i]);
	}
}

/* --- limits --- */

static void test_limits(void **state)
{
	static char big[GFS2_EA_MAX_DATA_LEN + 1];
	char name[300] = "user.";
	struct gfs2_inode *ip;
	unsigned n, inptrs;
	int error = 0;

	vol_make(4096, 64, 1, "-o format=1801");
	up();
	ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
	assert_int_equal(set(ip, "user.big", big, GFS2_EA_MAX_DATA_LEN), 0);
	assert_int_equal(ip->i_blocks, 1 + 1 + 17);
	assert_int_equal(set(ip, "user.big", big, GFS2_EA_MAX_DATA_LEN + 1), -ERANGE);
	assert_int_equal(set(ip, "user.", "x", 1), -EINVAL);
	assert_int_equal(set(ip, "system.other", "x", 1), -EOPNOTSUPP);
	assert_int_equal(set(ip, "system.", "x", 1), -EOPNOTSUPP);
	assert_int_equal(set(ip, "os2.x", "x", 1), -EOPNOTSUPP);
	assert_int_equal(set(ip, "user", "x", 1), -EOPNOTSUPP);
	assert_int_equal(gfs2_getxattr(ip, "system.other", NULL, 0), -EOPNOTSUPP);
	assert_int_equal(gfs2_removexattr(ip, "os2.x"), -EOPNOTSUPP);
	assert_int_equal(set(ip, "trusted.x", "x", 1), -EOPNOTSUPP);
	assert_int_equal(gfs2_getxattr(ip, "trusted.x", NULL, 0), -EOPNOTSUPP);
	memset(name + 5, 'n', 256);
	assert_int_equal(set(ip, name, "x", 1), -ERANGE);
	assert_int_equal(gfs2_getxattr(ip, name, NULL, 0), -EINVAL);
	name[5 + 255] = '\0';
	assert_int_equal(set(ip, name, "x", 1), 0);
	assert_int_equal(gfs2_getxattr(ip, name, NULL, 0), 1);
	/* empty is not absent */
	assert_int_equal(set(ip, "user.empty", "", 0), 0);
	assert_int_equal(gfs2_getxattr(ip, "user.empty", NULL, 0), 0);
	ip->i_diskflags |= GFS2_DIF_APPENDONLY;
	assert_int_equal(set(ip, "user.empty", "x", 1), -EPERM);
	assert_int_equal(gfs2_removexattr(ip, "user.empty"), -EPERM);
	ip->i_diskflags ^= GFS2_DIF_APPENDONLY | GFS2_DIF_IMMUTABLE;
	assert_int_equal(set(ip, "user.new", "x", 1), -EPERM);
	ip->i_diskflags ^= GFS2_DIF_IMMUTABLE;
	gfs2_inode_put(ip);
	down();

	/* As many EA blocks as the indirect block has pointers, one attribute in each. */
	vol_make(512, 64, 1, "");
	up();
	ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
	inptrs = sdp->sd_inptrs;
	for (n = 0; !error; n++) {
		snprintf(name, sizeof(name), "user.%u", n);
		error = set(ip, name, big, 400);
	}
	assert_int_equal(error, -ENOSPC);
	assert_int_equal(n - 1, inptrs);
	assert_int_equal(ip->i_blocks, 1 + 1 + inptrs);
	assert_int_equal(used_blocks(), ip->i_blocks);
	/* 58 pointers are the most that a record has room for */
	assert_int_equal(set(ip, "user.0", big, 58 * 488), 0);
	assert_int_equal(set(ip, "user.1", big, 58 * 488 + 1), -ERANGE);
	assert_int_equal(gfs2_removexattr(ip, "user.7"), 0);
	assert_int_equal(set(ip, "user.again", big, 400), 0);
	gfs2_inode_put(ip);
	down();
}

/* A full volume: -ENOSPC, nothing changed; in place there is always room. */
static void test_full(void **state)
{
	static char big[GFS2_EA_MAX_DATA_LEN], back[GFS2_EA_MAX_DATA_LEN];
	struct gfs2_inode *ip, *filler;
	struct gfs2_statfs_host st, now;
	struct gfs2_holder gh;
	uint64_t pos = 0;
	char *data = calloc(1, 1 << 20);

	vol_make(4096, 64, 1, "");
	up();
	ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
	memset(big, 'b', sizeof(big));
	assert_int_equal(set(ip, "user.big", big, 40000), 0);
	assert_int_equal(set(ip, "user.small", "small", 5), 0);
	filler = make(sdp->sd_root, "filler", S_IFREG | 0644, 0);
	assert_int_equal(gfs2_glock_nq_init(filler->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	for (uint32_t n = 1 << 20; n >= 4096; ) {
		int64_t ret = gfs2_file_write(filler, data, pos, n, false);

		if (ret > 0)
			pos += (uint64_t)ret;
		else
			n /= 2;
	}
	gfs2_glock_dq_uninit(&gh);
	gfs2_statfs_get(sdp, &st);
	assert_true(st.free < 8);
	memset(big, 'c', sizeof(big));
	assert_int_equal(set(ip, "user.other", big, 60000), -ENOSPC);
	assert_int_equal(set(ip, "user.big", big, 60000), -ENOSPC);
	assert_int_equal(gfs2_getxattr(ip, "user.big", back, sizeof(back)), 40000);
	assert_int_equal(back[0], 'b');
	assert_int_equal(back[39999], 'b');
	assert_int_equal(set(ip, "user.small", "SMALL", 5), 0);
	gfs2_statfs_get(sdp, &now);
	assert_int_equal(now.free, st.free);
	/* shorter, and inline again: its blocks come back */
	assert_int_equal(set(ip, "user.big", "b", 1), 0);
	gfs2_statfs_get(sdp, &now);
	assert_int_equal(now.free, st.free + 10);
	gfs2_inode_put(filler);
	gfs2_inode_put(ip);
	free(data);
	down();
}

/* --- what a crash of a kernel leaves --- */

/* Change record @nr of the first EA block of @ip. */
static void craft(struct gfs2_inode *ip, unsigned nr, void (*fn)(struct gfs2_ea_header *ea))
{
	struct gfs2_ea_header *ea;
	struct gfs2_holder gh;
	struct ea_iter it;
	struct ea_walk w;

	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	assert_int_equal(ea_iter_begin(&it, ip), 0);
	assert_int_equal(ea_iter_next(&it), 1);
	ea_walk_init(&w, sdp, it.bh->b_data);
	do
		ea = ea_next(&w);
	while (nr--);
	assert_non_null(ea);
	assert_int_equal(gfs2_trans_begin(sdp->sd_log, 1, 0), 0);
	gfs2_trans_add_meta(sdp->sd_log, ip->i_gl, it.bh);
	fn(ea);
	gfs2_trans_end(sdp->sd_log);
	ea_iter_end(&it);
	gfs2_glock_dq_uninit(&gh);
}

static void craft_unused(struct gfs2_ea_header *ea)
{
	ea->ea_type = GFS2_EATYPE_UNUSED;
}

/* An unused record that still owns blocks: reused, they become free; deleted with its inode as well. */
static void test_unused_with_blocks(void **state)
{
	static char big[30000], back[30000];
	struct gfs2_inode *ip;

	vol_make(1024, 64, 1, "");
	up();
	for (int reuse = 0; reuse < 2; reuse++) {
		ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
		assert_int_equal(set(ip, "user.first", "1", 1), 0);
		assert_int_equal(set(ip, "user.big", big, sizeof(big)), 0);
		craft(ip, 1, craft_unused);
		assert_int_equal(gfs2_getxattr(ip, "user.big", NULL, 0), -ENODATA);
		assert_int_equal(used_blocks(), 1 + 1 + 30);
		if (reuse) {
			memset(big, 'r', sizeof(big));
			assert_int_equal(set(ip, "user.other", big, 20000), 0);
			assert_int_equal(used_blocks(), 1 + 1 + 20);
			assert_int_equal(ip->i_blocks, used_blocks());
			assert_int_equal(gfs2_getxattr(ip, "user.other", back, sizeof(back)), 20000);
			assert_memory_equal(back, big, 20000);
		}
		assert_int_equal(gfs2_unlink(sdp->sd_root, "f"), 0);
		gfs2_inode_put(ip);
		assert_int_equal(used_blocks(), 0);
	}
	down();
}

/* --- deletion in pieces --- */

/*
 * A piece of a deletion ends in the middle of a block with many values: the records that are left
 * must still be records, and a kernel that goes on from there must find all pointers before a zero.
 */
static void test_delete_in_pieces(void **state)
{
	static char value[2000];
	struct gfs2_dealloc *d;
	struct gfs2_holder gh;
	struct gfs2_inode *ip;
	struct ea_iter it;
	char name[32];
	int64_t all;

	vol_make(512, 64, 1, "");
	up();
	ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
	for (unsigned i = 0; i < 7; i++) {
		snprintf(name, sizeof(name), "user.%u", i);
		assert_int_equal(set(ip, name, value, 2000), 0);
	}
	all = used_blocks();
	assert_int_equal(all, 1 + 1 + 7 * 5);
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	assert_int_equal(ea_iter_begin(&it, ip), 0);
	assert_int_equal(ea_iter_next(&it), 1);
	d = gfs2_dealloc_new(ip);
	for (unsigned rec = 0; rec < 3; rec++) {
		struct gfs2_ea_header *ea;
		struct ea_walk w;

		/* the last pointers of three records, in one piece */
		ea_walk_init(&w, sdp, it.bh->b_data);
		for (unsigned i = 0; i <= rec; i++)
			ea = ea_next(&w);
		for (unsigned i = 5; i-- > 2;)
			assert_int_equal(gfs2_dealloc_add(d, it.bh,
				(uint32_t)((char *)&ea_ptrs(ea)[i] - it.bh->b_data),
				be64_to_cpu(ea_ptrs(ea)[i]), true), 0);
	}
	assert_int_equal(gfs2_dealloc_commit(d, false), 0);
	gfs2_dealloc_free(d);
	ea_iter_end(&it);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(used_blocks(), all - 9);
	for (unsigned i = 0; i < 7; i++) {
		snprintf(name, sizeof(name), "user.%u", i);
		assert_int_equal(gfs2_getxattr(ip, name, NULL, 0), 2000);
	}
	assert_int_equal(gfs2_getxattr(ip, "user.5", value, sizeof(value)), 2000);
	assert_int_equal(gfs2_unlink(sdp->sd_root, "f"), 0);
	gfs2_inode_put(ip);
	assert_int_equal(used_blocks(), 0);
	down();
}

/* --- damaged blocks --- */

static void break_rec_len(struct gfs2_ea_header *ea) { ea->ea_rec_len = cpu_to_be32(8); }
static void break_rec_zero(struct gfs2_ea_header *ea) { ea->ea_rec_len = 0; }
static void break_rec_odd(struct gfs2_ea_header *ea) { ea->ea_rec_len = cpu_to_be32(ea_rec_len(ea) + 4); }
static void break_rec_long(struct gfs2_ea_header *ea) { ea->ea_rec_len = cpu_to_be32(1 << 30); }
static void break_last(struct gfs2_ea_header *ea) { ea->ea_flags ^= GFS2_EAFLAG_LAST; }
static void break_type(struct gfs2_ea_header *ea) { ea->ea_type = GFS2_EATYPE_LAST + 1; }
static void break_noname(struct gfs2_ea_header *ea) { ea->ea_name_len = 0; }
static void break_name(struct gfs2_ea_header *ea) { ea_name(ea)[0] = 0; }
static void break_namel(struct gfs2_ea_header *ea) { ea->ea_name_len = 255; }
static void break_data(struct gfs2_ea_header *ea) { ea->ea_data_len = cpu_to_be32(100000); }
static void break_data_neg(struct gfs2_ea_header *ea) { ea->ea_data_len = cpu_to_be32(-1); }
static void break_ptrs(struct gfs2_ea_header *ea) { ea->ea_num_ptrs = 255; }

/* Each is refused, by reading, listing or changing; nothing crashes, and the volume is withdrawn. */
static void test_damaged(void **state)
{
	static void (*const breaks[])(struct gfs2_ea_header *) = {
		break_rec_len, break_rec_zero, break_rec_odd, break_rec_long, break_last, break_type,
		break_noname, break_name, break_namel, break_data, break_data_neg, break_ptrs,
	};
	static char buf[65536];

	for (unsigned i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++) {
		struct gfs2_inode *ip;
		ssize_t ret;

		vol_make(4096, 64, 1, "");
		up();
		ip = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
		assert_int_equal(set(ip, "user.one", "1", 1), 0);
		assert_int_equal(set(ip, "user.two", "2", 1), 0);
		assert_int_equal(set(ip, "user.three", "3", 1), 0);
		craft(ip, 1, breaks[i]);
		ret = i % 4 == 0 ? gfs2_getxattr(ip, "user.three", buf, sizeof(buf)) :
		      i % 4 == 1 ? gfs2_listxattr(ip, buf, sizeof(buf)) :
		      i % 4 == 2 ? set(ip, "user.four", "4", 1) :
				   gfs2_removexattr(ip, "user.three");
		assert_int_equal(ret, -EIO);
		assert_true(gfs2_withdrawn(sdp));
		gfs2_inode_put(ip);
		gfs2_unmount(sdp);
		io_engine_close(engine);
	}
}

/* Any bytes: walks end, stay inside (the address sanitizer watches), and often enough find fault. */
static void test_random_bytes(void **state)
{
	struct gfs2_sbd *s = tiny(512, 1802);
	unsigned faults = 0, records = 0;

	for (unsigned round = 0; round < 20000; round++) {
		char *block = malloc(512);
		struct gfs2_ea_header *ea;
		struct ea_walk w;
		unsigned steps = 0;

		memcpy(block, kernel_c, sizeof(kernel_c));
		for (unsigned n = 1 + rnd(4); n--;)
			block[24 + rnd(round % 2 ? 24 : 488)] = (char)rnd(256);
		ea_walk_init(&w, s, block);
		while ((ea = ea_next(&w))) {
			assert_true(++steps <= 488 / 16);
			assert_true((char *)ea + ea_rec_len(ea) <= block + 512);
			assert_true(ea_used(ea) <= ea_rec_len(ea));
			if (!ea_unused(ea))
				assert_null(memchr(ea_name(ea), 0, ea->ea_name_len));
		}
		records += steps;
		faults += w.rule != NULL;
		free(block);
	}
	assert_true(faults > 5000 && records > 5000);
}

/* Pointers to blocks that are none, and blocks that are something else. */
static void break_pointer(struct gfs2_ea_header *ea) { ea_ptrs(ea)[1] = cpu_to_be64(1ull << 60); }
static void break_pointer_zero(struct gfs2_ea_header *ea) { ea_ptrs(ea)[0] = 0; }
static struct gfs2_inode *wrong_block;
static void break_pointer_type(struct gfs2_ea_header *ea)
{
	ea_ptrs(ea)[1] = cpu_to_be64(wrong_block->i_no_addr);
}

static void test_damaged_pointers(void **state)
{
	static void (*const breaks[])(struct gfs2_ea_header *) = { break_pointer, break_pointer_zero,
								   break_pointer_type };
	static char buf[20000];

	for (unsigned i = 0; i < 5; i++) {
		vol_make(4096, 64, 1, "");
		up();
		wrong_block = make(sdp->sd_root, "f", S_IFREG | 0644, 0);
		assert_int_equal(set(wrong_block, "user.big", buf, sizeof(buf)), 0);
		if (i < 3)
			craft(wrong_block, 0, breaks[i]);
		else
			wrong_block->i_eattr = i == 3 ? wrong_block->i_no_addr : 5;
		assert_int_equal(gfs2_getxattr(wrong_block, "user.big", buf, sizeof(buf)), -EIO);
		assert_true(gfs2_withdrawn(sdp));
		gfs2_inode_put(wrong_block);
		gfs2_unmount(sdp);
		io_engine_close(engine);
	}
}

/* --- ACLs --- */

/* From a text like "u:rwx u1000:r-- g:r-x m:rwx o:---". */
static size_t acl_from(const char *text, void *value)
{
	struct acl acl = { 0 };
	char copy[400], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		struct acl_entry *e = &acl.e[acl.nr++];
		char *perm = strchr(w, ':') + 1;
		bool named = w[1] != ':';

		e->tag = *w == 'u' ? (named ? ACL_USER : ACL_USER_OBJ) :
			 *w == 'g' ? (named ? ACL_GROUP : ACL_GROUP_OBJ) :
			 *w == 'm' ? ACL_MASK : ACL_OTHER;
		e->id = named ? (uint32_t)atoi(w + 1) : (uint32_t)-1;
		e->perm = (uint16_t)((perm[0] == 'r') * 4 + (perm[1] == 'w') * 2 + (perm[2] == 'x'));
	}
	return acl_encode(&acl, value);
}

static void assert_acl(struct gfs2_inode *ip, const char *name, const char *text)
{
	char want[ACL_MAX_SIZE], got[ACL_MAX_SIZE];
	size_t len = text ? acl_from(text, want) : 0;

	if (!text) {
		assert_int_equal(gfs2_getxattr(ip, name, got, sizeof(got)), -ENODATA);
		return;
	}
	assert_int_equal(gfs2_getxattr(ip, name, got, sizeof(got)), len);
	assert_memory_equal(got, want, len);
}

static void test_acl_values(void **state)
{
	static const char *const good[] = {
		"u:rwx g:r-x o:---", "u:rwx u1:rwx g:r-x m:rwx o:---",
		"u:rwx u1:rwx u2:r-- u2:r-- g:r-x g5:--- g6:rwx m:rwx o:---", "u:rwx g:r-x m:rwx o:---",
	};
	static const char *const bad[] = {
		"u:rwx g:r-x", "g:r-x u:rwx o:---", "u:rwx u:rwx g:r-x o:---", "u:rwx u1:rwx g:r-x o:---",
		"u:rwx g:r-x g5:r-- o:---", "u:rwx g:r-x m:rwx m:rwx o:---", "u:rwx g:r-x o:--- o:---",
		"u:rwx g:r-x m:rwx u1:rwx o:---", "g:r-x m:rwx o:---", "u1:rwx g:r-x m:rwx o:---",
		"u:rwx u4294967295:rwx g:r-x m:rwx o:---",
	};
	char value[ACL_MAX_SIZE];
	struct acl acl;
	uint32_t mode;
	size_t len;

	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		len = acl_from(good[i], value);
		assert_int_equal(acl_decode(value, len, 300, &acl), 0);
		assert_int_equal(ACL_SIZE(acl.nr), len);
		assert_int_equal(acl_decode(value, len, acl.nr - 1, &acl), -E2BIG);
		assert_int_equal(acl_decode(value, len - 1, 300, &acl), -EINVAL);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		len = acl_from(bad[i], value);
		/* 4294967295 does not survive atoi(): put in by hand */
		if (strstr(bad[i], "4294967295"))
			memset(value + ACL_SIZE(1) + 4, 0xff, 4);
		assert_int_equal(acl_decode(value, len, 300, &acl), -EINVAL);
	}
	len = acl_from(good[0], value);
	value[6] = 8;	/* an unknown permission */
	assert_int_equal(acl_decode(value, len, 300, &acl), -EINVAL);
	value[0] = 3;
	assert_int_equal(acl_decode(value, len, 300, &acl), -EOPNOTSUPP);
	assert_int_equal(acl_decode(value, 3, 300, &acl), -EINVAL);
	value[0] = 2;
	assert_int_equal(acl_decode(value, 4, 300, &acl), 0);
	assert_int_equal(acl.nr, 0);

	len = acl_from("u:rwx g:r-x o:--x", value);
	assert_int_equal(acl_decode(value, len, 300, &acl), 0);
	assert_true(acl_equiv_mode(&acl, &mode));
	assert_int_equal(mode, 0751);
	len = acl_from("u:rwx u1:rwx g:r-x m:-w- o:--x", value);
	assert_int_equal(acl_decode(value, len, 300, &acl), 0);
	assert_false(acl_equiv_mode(&acl, &mode));
	assert_int_equal(mode, 0721);
}

static void test_acl_set(void **state)
{
	char value[4096];
	struct gfs2_inode *ip, *dip;
	struct stat st = { 0 };
	size_t len;

	vol_make(4096, 64, 1, "");
	up();
	ip = make(sdp->sd_root, "f", S_IFREG | 02644, 0);
	/* one that is a mode */
	len = acl_from("u:rwx g:r-x o:--x", value);
	assert_int_equal(set(ip, "system.posix_acl_access", value, len), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 02751);
	assert_int_equal(ip->i_eattr, 0);
	assert_acl(ip, "system.posix_acl_access", NULL);
	/* a real one */
	len = acl_from("u:rw- u1000:rwx g:r-x m:-wx o:r--", value);
	assert_int_equal(set(ip, "system.posix_acl_access", value, len), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 02634);
	assert_acl(ip, "system.posix_acl_access", "u:rw- u1000:rwx g:r-x m:-wx o:r--");
	/* chmod moves the mask, not the group */
	st.st_mode = 0760;
	assert_int_equal(gfs2_setattr(ip, &st, 1 /* FATTR_MODE */), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 0760);
	assert_acl(ip, "system.posix_acl_access", "u:rwx u1000:rwx g:r-x m:rw- o:---");
	/* setgid goes if the caller is not of the group */
	st.st_mode = 02760;
	assert_int_equal(gfs2_setattr(ip, &st, 1), 0);
	len = acl_from("u:rw- u1000:rwx g:r-x m:rwx o:r--", value);
	assert_int_equal(gfs2_setxattr(ip, "system.posix_acl_access", value, len, 0, true), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 0674);
	/* back to a mode: the attribute goes, its block stays */
	len = acl_from("u:rwx g:r-x o:--x", value);
	assert_int_equal(set(ip, "system.posix_acl_access", value, len), 0);
	assert_acl(ip, "system.posix_acl_access", NULL);
	assert_int_equal(ip->i_mode, S_IFREG | 0751);
	assert_int_equal(ip->i_blocks, 2);
	assert_int_equal(gfs2_removexattr(ip, "system.posix_acl_access"), 0);
	/* default ACLs are for directories */
	assert_int_equal(set(ip, "system.posix_acl_default", value, len), -EACCES);
	assert_int_equal(gfs2_removexattr(ip, "system.posix_acl_default"), 0);
	len = acl_from("u:rwx g:r-x", value);
	assert_int_equal(set(ip, "system.posix_acl_access", value, len), -EINVAL);
	gfs2_inode_put(ip);

	/* Inheritance. */
	dip = make(sdp->sd_root, "d", S_IFDIR | 0755, 022);
	ip = make(dip, "before", S_IFREG | 0666, 022);
	assert_int_equal(ip->i_mode, S_IFREG | 0644);
	gfs2_inode_put(ip);
	len = acl_from("u:rwx u1000:rwx g:r-x m:rwx o:---", value);
	assert_int_equal(set(dip, "system.posix_acl_default", value, len), 0);
	assert_int_equal(dip->i_mode, S_IFDIR | 0755);
	ip = make(dip, "file", S_IFREG | 0664, 022);
	assert_int_equal(ip->i_mode, S_IFREG | 0660);
	assert_int_equal(ip->i_blocks, 2);
	assert_int_equal(ip->i_eattr, ip->i_no_addr + 1);
	assert_acl(ip, "system.posix_acl_access", "u:rw- u1000:rwx g:r-x m:rw- o:---");
	assert_acl(ip, "system.posix_acl_default", NULL);
	gfs2_inode_put(ip);
	ip = make(dip, "dir", S_IFDIR | 0777, 077);
	assert_int_equal(ip->i_mode, S_IFDIR | 0770);
	assert_acl(ip, "system.posix_acl_access", "u:rwx u1000:rwx g:r-x m:rwx o:---");
	assert_acl(ip, "system.posix_acl_default", "u:rwx u1000:rwx g:r-x m:rwx o:---");
	gfs2_inode_put(ip);
	ip = make(dip, "link", S_IFLNK | 0777, 022);
	assert_int_equal(ip->i_mode, S_IFLNK | 0777);
	assert_int_equal(ip->i_eattr, 0);
	assert_int_equal(set(ip, "system.posix_acl_access", value, len), -EOPNOTSUPP);
	gfs2_inode_put(ip);
	/* a default ACL that is only a mode: no umask, no access ACL, but handed on */
	len = acl_from("u:rwx g:rwx o:---", value);
	assert_int_equal(set(dip, "system.posix_acl_default", value, len), 0);
	ip = make(dip, "file2", S_IFREG | 0666, 077);
	assert_int_equal(ip->i_mode, S_IFREG | 0660);
	assert_int_equal(ip->i_eattr, 0);
	gfs2_inode_put(ip);
	ip = make(dip, "dir2", S_IFDIR | 0777, 077);
	assert_int_equal(ip->i_mode, S_IFDIR | 0770);
	assert_acl(ip, "system.posix_acl_access", NULL);
	assert_acl(ip, "system.posix_acl_default", "u:rwx g:rwx o:---");
	gfs2_inode_put(ip);
	gfs2_inode_put(dip);
	down();
}

/* The longest ACLs of each block size: two that do not fit into one block are inherited, too. */
static void test_acl_large(void **state)
{
	static char value[ACL_SIZE(400)];
	struct gfs2_inode *dip, *ip;

	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		struct acl acl = { 0 };
		unsigned max;
		size_t len;

		vol_make(bsize, 64, 1, "");
		up();
		max = acl_max_entries(sdp);
		acl.e[acl.nr++] = (struct acl_entry){ ACL_USER_OBJ, 7, 0 };
		while (acl.nr < max - 3) {
			acl.e[acl.nr] = (struct acl_entry){ ACL_USER, 5, 1000 + acl.nr };
			acl.nr++;
		}
		acl.e[acl.nr++] = (struct acl_entry){ ACL_GROUP_OBJ, 5, 0 };
		acl.e[acl.nr++] = (struct acl_entry){ ACL_MASK, 7, 0 };
		acl.e[acl.nr++] = (struct acl_entry){ ACL_OTHER, 1, 0 };
		len = acl_encode(&acl, value);
		dip = make(sdp->sd_root, "d", S_IFDIR | 0777, 0);
		assert_int_equal(set(dip, "system.posix_acl_default", value, len), 0);
		assert_int_equal(set(dip, "system.posix_acl_access", value, len), 0);
		ip = make(dip, "d", S_IFDIR | 0777, 0);
		assert_int_equal(ip->i_blocks, 1 + 3);
		assert_int_equal(ip->i_blocks, 1 + count_blocks(ip));
		assert_int_equal(gfs2_getxattr(ip, "system.posix_acl_access", NULL, 0), len);
		assert_int_equal(gfs2_getxattr(ip, "system.posix_acl_default", NULL, 0), len);
		gfs2_inode_put(ip);
		ip = make(dip, "f", S_IFREG | 0777, 0);
		assert_int_equal(ip->i_blocks, 1 + 1);
		gfs2_inode_put(ip);
		/* one entry more */
		len = acl_encode(&acl, value);
		memmove(value + ACL_SIZE(2), value + ACL_SIZE(1), len - ACL_SIZE(1));
		assert_int_equal(set(dip, "system.posix_acl_access", value, len + 8), -E2BIG);
		gfs2_inode_put(dip);
		assert_int_equal(used_blocks(), 1 + 3 + 1 + 3 + 1 + 1);
		down();
	}
}

/* One with more entries than the block size allows, as no kernel writes it, is not handed on. */
static void test_acl_too_long(void **state)
{
	struct gfs2_create_args a = { .mode = S_IFDIR | 0777, .excl = true };
	static char value[ACL_SIZE(100)];
	struct gfs2_inode *dip, *ip;
	struct gfs2_holder gh;
	struct acl acl = { 0 };
	struct ea_change c;
	struct stat st;

	vol_make(512, 64, 1, "");
	up();
	acl.e[acl.nr++] = (struct acl_entry){ ACL_USER_OBJ, 7, 0 };
	while (acl.nr < 97) {
		acl.e[acl.nr] = (struct acl_entry){ ACL_USER, 5, 1000 + acl.nr };
		acl.nr++;
	}
	acl.e[acl.nr++] = (struct acl_entry){ ACL_GROUP_OBJ, 5, 0 };
	acl.e[acl.nr++] = (struct acl_entry){ ACL_MASK, 7, 0 };
	acl.e[acl.nr++] = (struct acl_entry){ ACL_OTHER, 1, 0 };
	dip = make(sdp->sd_root, "d", S_IFDIR | 0777, 0);
	assert_int_equal(gfs2_glock_nq_init(dip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	assert_int_equal(ea_change_begin(&c, dip, GFS2_EATYPE_SYS, ACL_DEFAULT_NAME, value,
					 acl_encode(&acl, value), 0), 0);
	assert_int_equal(gfs2_trans_begin(sdp->sd_log, 1 + c.trans, c.revokes), 0);
	assert_int_equal(ea_change_apply(&c), 0);
	assert_int_equal(gfs2_dinode_log(dip), 0);
	gfs2_trans_end(sdp->sd_log);
	ea_change_end(&c);
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(gfs2_create(dip, "sub", &a, &ip, &st), -E2BIG);
	a.mode = S_IFREG | 0666;
	assert_int_equal(gfs2_create(dip, "f", &a, &ip, &st), -E2BIG);
	/* It can be got rid of. */
	assert_int_equal(gfs2_removexattr(dip, "system.posix_acl_default"), 0);
	gfs2_inode_put(make(dip, "f", S_IFREG | 0666, 0));
	gfs2_inode_put(dip);
	down();
}

/* --- rights that a write takes away --- */

static void test_privs(void **state)
{
	struct gfs2_inode *ip;
	struct gfs2_holder gh;

	vol_make(4096, 64, 1, "");
	up();
	ip = make(sdp->sd_root, "f", S_IFREG | 06755, 0);
	assert_int_equal(gfs2_remove_privs(ip, false), 0);
	assert_int_equal(ip->i_mode, S_IFREG | 06755);
	assert_int_equal(gfs2_remove_privs(ip, true), 1);
	assert_int_equal(ip->i_mode, S_IFREG | 0755);
	assert_int_equal(gfs2_remove_privs(ip, true), 0);
	assert_int_equal(set(ip, "security.capability", "caps", 4), 0);
	assert_int_equal(set(ip, "security.other", "x", 1), 0);
	assert_int_equal(gfs2_remove_privs(ip, false), 1);
	assert_int_equal(gfs2_getxattr(ip, "security.capability", NULL, 0), -ENODATA);
	assert_int_equal(gfs2_getxattr(ip, "security.other", NULL, 0), 1);
	/* known now, without reading; and forgotten when it is set again */
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_true(gfs2_has_privs(ip, true, false));
	assert_false(gfs2_has_privs(ip, true, true));
	assert_false(gfs2_has_privs(ip, true, false));
	gfs2_glock_dq_uninit(&gh);
	assert_int_equal(set(ip, "security.capability", "caps", 4), 0);
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh), 0);
	assert_true(gfs2_has_privs(ip, false, false));
	assert_true(gfs2_has_privs(ip, false, true));
	gfs2_glock_dq_uninit(&gh);
	gfs2_inode_put(ip);
	down();
}

static int tests(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(test_kernel_records), cmocka_unit_test(test_kernel_layout),
		cmocka_unit_test(test_model), cmocka_unit_test(test_limits),
		cmocka_unit_test(test_full), cmocka_unit_test(test_unused_with_blocks),
		cmocka_unit_test(test_delete_in_pieces), cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_random_bytes), cmocka_unit_test(test_damaged_pointers),
		cmocka_unit_test(test_acl_values), cmocka_unit_test(test_acl_set),
		cmocka_unit_test(test_acl_large),
		cmocka_unit_test(test_acl_too_long), cmocka_unit_test(test_privs),
	};

	return cmocka_run_group_tests_name("xattr", t, NULL, NULL);
}

int main(void)
{
	return vol_main(tests);
}
