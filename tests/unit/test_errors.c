/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Volumes that contradict themselves, and devices that fail, in the middle of a change: what is in memory then, what is on the
 * volume, and that the process goes on.
 */
#include "volfile.h"
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/posix_acl.h>
#include "fs/acl.h"
#include "fs/falloc.h"
#include "fs/file.h"
#include "fs/fileattr.h"
#include "fs/xattr.h"
#include "journal/log.h"

#define BS 4096u

static char data[4 * BS], seen[4 * BS];

static int64_t write_at(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t len)
{
	struct gfs2_holder gh;
	int64_t ret;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	ret = gfs2_file_write(ip, buf, pos, len, false);
	gfs2_glock_dq_uninit(&gh);
	return ret;
}

static void set_jdata(struct gfs2_inode *ip)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_trans_begin(ip->i_sbd->sd_log, 1, 0), 0);
	ip->i_diskflags |= GFS2_DIF_JDATA;
	assert_int_equal(gfs2_dinode_log(ip), 0);
	gfs2_trans_end(ip->i_sbd->sd_log);
	gfs2_glock_dq_uninit(&gh);
}

static int chmod_to(struct gfs2_inode *ip, uint32_t mode)
{
	const struct stat st = { .st_mode = mode };

	return gfs2_setattr(ip, &st, FATTR_MODE);
}

/* --- a block that two have --- */

/* "a" of two blocks, the second of them also @of's: the dinode or the first block of "b". */
struct shared {
	struct mounted m;
	struct gfs2_inode *a, *b;
	uint64_t block;
};

static void shared_make(struct shared *s, bool jdata, bool dinode)
{
	uint64_t a, b;
	__be64 ptr;

	memset(data, 'd', sizeof(data));
	vol_make(BS, 64, 1, "");
	s->m = do_mount();
	s->a = make_file(s->m.sdp, "a");
	s->b = make_file(s->m.sdp, "b");
	if (jdata)
		set_jdata(s->a);
	assert_int_equal(write_at(s->a, data, 0, 2 * BS), 2 * BS);
	assert_int_equal(write_at(s->b, data, 0, 2 * BS), 2 * BS);
	a = s->a->i_no_addr;
	b = s->b->i_no_addr;
	gfs2_inode_put(s->a);
	gfs2_inode_put(s->b);
	do_unmount(&s->m);
	ptr = cpu_to_be64(b);
	if (!dinode)
		vol_read(&ptr, sizeof(ptr), b * BS + sizeof(struct gfs2_dinode));
	vol_write(&ptr, sizeof(ptr), a * BS + sizeof(struct gfs2_dinode) + sizeof(ptr));
	s->block = be64_to_cpu(ptr);
	s->m = do_mount();
	s->a = open_file(s->m.sdp, "a");
	s->b = open_file(s->m.sdp, "b");
	msg_set_level((enum msg_level)-1);
}

/* Nothing of it is on the volume: the next mount finds @before in the block. */
static void shared_end(struct shared *s, const char *before)
{
	assert_true(gfs2_withdrawn(s->m.sdp));
	gfs2_inode_put(s->a);
	gfs2_inode_put(s->b);
	assert_int_equal(gfs2_unmount(s->m.sdp), -EIO);
	io_engine_close(s->m.e);
	msg_set_level(MSG_INFO);
	s->m = do_mount();
	assert_int_equal(gfs2_unmount(s->m.sdp), 0);
	io_engine_close(s->m.e);
	vol_read(seen, BS, s->block * BS);
	/* Times and the like may have been changed, but it is one. */
	assert_memory_equal(seen, before, sizeof(struct gfs2_meta_header));
}

enum how { WRITE, WRITE_PART, ZERO };

static int64_t put_data(struct gfs2_inode *ip, enum how how)
{
	memset(data, 'X', sizeof(data));
	switch (how) {
	case WRITE:
		return write_at(ip, data, BS, BS);
	case WRITE_PART:
		return write_at(ip, data, BS + 100, 50);
	case ZERO:
		return gfs2_setattr_size(ip, BS + 300);
	}
	return 0;
}

/* Data into a block that is somebody's dinode, which has been changed: refused before a byte is changed. */
static void test_data_into_metadata(void **state)
{
	for (unsigned i = 0; i < 12; i++) {
		bool jdata = i & 1, ail = i & 2;
		char before[BS];
		struct gfs2_bh *bh;
		struct shared s;

		shared_make(&s, jdata, true);
		assert_int_equal(chmod_to(s.b, 0600), 0);
		if (ail)
			assert_int_equal(gfs2_log_flush(s.m.sdp->sd_log, 0), 0);
		bh = buf_find(s.m.sdp->sd_bufs, s.block);
		assert_non_null(bh);
		assert_true(buf_test(bh, ail ? B_AIL : B_PINNED));
		memcpy(before, bh->b_data, BS);
		assert_int_equal(put_data(s.a, (enum how)(i / 4)), -EIO);
		assert_memory_equal(bh->b_data, before, BS);
		assert_false(buf_test(bh, B_DIRTY));
		buf_put(bh);
		shared_end(&s, before);
	}
}

/* The other way round: unwritten data of somebody are not thrown away for metadata, nor for other data. */
static void test_metadata_over_data(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct gfs2_bh *bh, *made;
		struct gfs2_holder gh;
		struct shared s;

		shared_make(&s, false, i == 0);
		memset(data, 'X', sizeof(data));
		if (i == 0) {
			/* The dinode is in memory, but its block is not. */
			buf_forget(s.m.sdp->sd_bufs, s.block, 1);
		}
		assert_int_equal(write_at(s.a, data, BS, BS), BS);
		bh = buf_find(s.m.sdp->sd_bufs, s.block);
		assert_true(buf_test(bh, B_DIRTY));
		if (i == 0) {
			assert_int_equal(chmod_to(s.b, 0600), -EIO);
		} else if (i == 1) {
			assert_int_equal(write_at(s.b, data, 0, BS), -EIO);
		} else {
			lock(s.b, LM_ST_EXCLUSIVE, &gh);
			assert_int_equal(gfs2_trans_begin(s.m.sdp->sd_log, 1, 0), 0);
			assert_int_equal(gfs2_meta_new(s.m.sdp, s.b->i_gl, s.block, GFS2_METATYPE_IN, GFS2_FORMAT_IN,
						       &made), -EIO);
			gfs2_trans_end(s.m.sdp->sd_log);
			gfs2_glock_dq_uninit(&gh);
		}
		assert_true(gfs2_withdrawn(s.m.sdp));
		assert_true(buf_test(bh, B_DIRTY));
		assert_memory_equal(bh->b_data, data, BS);
		buf_put(bh);
		gfs2_inode_put(s.a);
		gfs2_inode_put(s.b);
		assert_int_equal(gfs2_unmount(s.m.sdp), -EIO);
		io_engine_close(s.m.e);
		msg_set_level(MSG_INFO);
	}
}

/* Data take the block between the look at its owner and the change of the metadata that it is. */
static void test_taken_before_change(void **state)
{
	struct gfs2_holder gh;
	struct gfs2_bh *dibh;
	char before[BS];
	struct shared s;

	shared_make(&s, false, true);
	vol_read(before, BS, s.block * BS);
	lock(s.b, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_trans_begin(s.m.sdp->sd_log, 1, 0), 0);
	assert_int_equal(gfs2_meta_inode_buffer(s.b, &dibh), 0);
	/* Somebody else under "a"'s lock. */
	buf_put(buf_get(&s.a->i_data, s.block));
	gfs2_trans_add_meta(s.m.sdp->sd_log, s.b->i_gl, dibh);
	assert_false(buf_test(dibh, B_PINNED));
	gfs2_trans_end(s.m.sdp->sd_log);
	buf_put(dibh);
	gfs2_glock_dq_uninit(&gh);
	shared_end(&s, before);
}

struct fill_probe {
	struct gfs2_filler filler;
	uint64_t bn;
	int result;
};

static int probe_fill(struct gfs2_filler *filler, uint64_t bn, unsigned n)
{
	struct fill_probe *p = container_of(filler, struct fill_probe, filler);

	p->bn = bn;
	return p->result;
}

static int fill_hole(struct gfs2_inode *ip, struct fill_probe *p)
{
	const struct gfs2_hole hole = { 5, 1 };
	struct gfs2_holder gh;
	uint64_t done;
	int error;

	p->bn = 0;
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	error = gfs2_alloc_filled(ip, &hole, 1, 1, &p->filler, &done);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

/* A block that is free in the bitmap is in the cache all the same: a clean buffer goes, one that is newer than the device is somebody's. */
static void test_fill_used(void **state)
{
	static const unsigned states[] = { B_DIRTY, B_PINNED, B_AIL };
	struct fill_probe p = { .filler = { .fill = probe_fill } };
	struct gfs2_inode *a, *b;
	struct gfs2_bh *bh;
	struct mounted m;
	uint64_t bn;

	for (unsigned i = 0; i < ARRAY_SIZE(states); i++) {
		vol_make(BS, 64, 1, "");
		m = do_mount();
		a = make_file(m.sdp, "a");
		b = make_file(m.sdp, "b");
		assert_int_equal(write_at(a, data, 0, 2 * BS), 2 * BS);
		/* Which one would it be? */
		p.result = -ECANCELED;
		assert_int_equal(fill_hole(a, &p), -ECANCELED);
		bn = p.bn;
		assert_true(bn);
		bh = buf_get(&b->i_gl->gl_mapping, bn);
		assert_int_equal(fill_hole(a, &p), -ECANCELED);
		assert_int_equal(p.bn, bn);
		assert_true(buf_test(bh, B_DEAD));
		buf_put(bh);
		/* As if a pointer of "b" led there. */
		bh = buf_get(states[i] == B_DIRTY ? &b->i_data : &b->i_gl->gl_mapping, bn);
		if (states[i] == B_DIRTY)
			assert_true(buf_mark_dirty(&b->i_data, bh));
		else
			buf_set_state(bh, states[i]);
		p.result = 0;
		msg_set_level((enum msg_level)-1);
		assert_int_equal(fill_hole(a, &p), -EIO);
		assert_int_equal(p.bn, 0);
		assert_true(gfs2_withdrawn(m.sdp));
		assert_false(buf_test(bh, B_DEAD));
		if (states[i] != B_DIRTY)
			buf_clear_state(bh, states[i]);
		buf_put(bh);
		gfs2_inode_put(a);
		gfs2_inode_put(b);
		assert_int_equal(gfs2_unmount(m.sdp), -EIO);
		io_engine_close(m.e);
		msg_set_level(MSG_INFO);
	}
}

/* --- the dinode cannot be read --- */

static void fault(struct mounted *m, uint64_t block, const char *rest)
{
	char text[100];
	struct io_fault f;

	snprintf(text, sizeof(text), "op=read,cls=meta,pos=%" PRIu64 ",len=%u,error=5%s", block * BS, BS, rest);
	assert_int_equal(io_fault_parse(text, &f), 0);
	assert_int_equal(io_fault_add(m->e, &f), 0);
}

/* What is in memory of it is all in place, and is not needed to be read again but for the block. */
static void evict_block(struct gfs2_sbd *sdp, uint64_t block)
{
	assert_int_equal(gfs2_log_sync(sdp->sd_log), 0);
	assert_int_equal(gfs2_ail_flush(sdp->sd_log), 0);
	buf_forget(sdp->sd_bufs, block, 1);
}

static int64_t do_append(struct gfs2_inode *ip)
{
	int64_t ret = write_at(ip, data, ip->i_size, 10);

	return ret == 10 ? 0 : ret;
}

static int64_t do_append_block(struct gfs2_inode *ip)
{
	int64_t ret = write_at(ip, data, ALIGN_UP(ip->i_size, (uint64_t)BS), BS);

	return ret == BS ? 0 : ret;
}

static int64_t do_overwrite(struct gfs2_inode *ip)
{
	int64_t ret = write_at(ip, data, 5, 10);

	return ret == 10 ? 0 : ret;
}

/* Takes the set-user-ID bit, too. */
static int64_t do_overwrite_suid(struct gfs2_inode *ip)
{
	struct gfs2_holder gh;
	int64_t ret;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	ret = gfs2_file_write(ip, data, 5, 10, true);
	gfs2_glock_dq_uninit(&gh);
	return ret == 10 ? 0 : ret;
}

static int64_t do_grow(struct gfs2_inode *ip)
{
	return gfs2_setattr_size(ip, ip->i_size + 3000);
}

static int64_t do_cut(struct gfs2_inode *ip)
{
	return gfs2_setattr_size(ip, 0);
}

static int64_t do_allocate(struct gfs2_inode *ip)
{
	return gfs2_fallocate(ip, 0, 0, ip->i_size + 2 * BS, false);
}

static int64_t do_punch(struct gfs2_inode *ip)
{
	return gfs2_fallocate(ip, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BS, false);
}

static int64_t do_fill(struct gfs2_inode *ip)
{
	struct gfs2_fill f = { aligned_alloc(4096, BS), 0, BS };
	struct gfs2_holder gh;
	uint64_t seq;
	int ret;

	memset((char *)(uintptr_t)f.buf, 'f', BS);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	ret = gfs2_file_fill(ip, &f, 1, &seq);
	gfs2_glock_dq_uninit(&gh);
	free((char *)(uintptr_t)f.buf);
	return ret;
}

static int64_t do_chmod(struct gfs2_inode *ip)
{
	return chmod_to(ip, 04711);
}

static int64_t do_remove_privs(struct gfs2_inode *ip)
{
	int ret = gfs2_remove_privs(ip, true);

	return ret == 1 ? 0 : ret;
}

static int64_t do_flags(struct gfs2_inode *ip)
{
	return gfs2_fileattr_set(ip, FS_NOATIME_FL);
}

static int64_t do_setxattr(struct gfs2_inode *ip)
{
	return gfs2_setxattr(ip, "user.a", "value", 5, 0, false);
}

/* One that is a mode. */
static int64_t do_acl(struct gfs2_inode *ip)
{
	const struct acl acl = { 3, { { ACL_USER_OBJ, 6, 0 }, { ACL_GROUP_OBJ, 4, 0 }, { ACL_OTHER, 0, 0 } } };
	char value[ACL_MAX_SIZE];

	return gfs2_setxattr(ip, "system.posix_acl_access", value, acl_encode(&acl, value), 0, false);
}

/* Their names are those of the table below. */
static int64_t do_link(struct gfs2_inode *ip)
{
	struct stat st;

	return gfs2_link(ip, ip->i_sbd->sd_root, "another link", &st);
}

static int64_t do_rename(struct gfs2_inode *ip)
{
	return gfs2_rename(ip->i_sbd->sd_root, "rename", ip->i_sbd->sd_root, "renamed", 0);
}

static int64_t do_rename_over(struct gfs2_inode *ip)
{
	return gfs2_rename(ip->i_sbd->sd_root, "another link", ip->i_sbd->sd_root, "rename over", 0);
}

static int64_t do_exchange(struct gfs2_inode *ip)
{
	return gfs2_rename(ip->i_sbd->sd_root, "exchange", ip->i_sbd->sd_root, "renamed", RENAME_EXCHANGE);
}

static int64_t do_unlink(struct gfs2_inode *ip)
{
	return gfs2_unlink(ip->i_sbd->sd_root, "unlink");
}

static int64_t do_publish(struct gfs2_inode *ip)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_EXCLUSIVE, &gh);
	gfs2_glock_dq_uninit(&gh);
	return gfs2_pending_mtime_publish(ip);
}

static void in_core(struct gfs2_inode *ip, struct stat *st, uint32_t *flags)
{
	struct gfs2_holder gh;

	lock(ip, LM_ST_SHARED, &gh);
	gfs2_getattr(ip, st);
	*flags = ip->i_diskflags;
	gfs2_glock_dq_uninit(&gh);
}

/* What fails because the dinode is not there to be changed has changed nothing, in core either, and can be done again. */
static void test_dinode_unreadable(void **state)
{
	static const struct {
		const char *name;
		int64_t (*op)(struct gfs2_inode *ip);
		bool pending; /* a time of direct writes, to be folded in */
	} ops[] = {
		{ "append", do_append, true }, { "append a block", do_append_block, true }, { "overwrite", do_overwrite, true },
		{ "overwrite suid", do_overwrite_suid, false }, { "grow", do_grow, true }, { "cut", do_cut, true },
		{ "allocate", do_allocate, true }, { "punch", do_punch, true }, { "fill", do_fill, true },
		{ "chmod", do_chmod, true }, { "remove privs", do_remove_privs, true }, { "flags", do_flags, true },
		{ "publish", do_publish, true }, { "setxattr", do_setxattr, true }, { "acl", do_acl, true },
		{ "link", do_link, false }, { "rename", do_rename, false }, { "rename over", do_rename_over, false },
		{ "exchange", do_exchange, false }, { "unlink", do_unlink, false },
	};
	struct gfs2_args args = vol_args;
	struct mounted m;

	memset(data, 'd', sizeof(data));
	vol_make(BS, 64, 1, "");
	/* The times are not to be published by anybody else. */
	args.ar_dio_mtime_interval = 3600;
	m = mount_with(&args);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		struct gfs2_inode *ip = make_file(m.sdp, ops[i].name);
		struct timespec later;
		struct stat before, after;
		uint32_t flags[2];

		assert_int_equal(write_at(ip, data, 0, BS + 1000), BS + 1000);
		assert_int_equal(chmod_to(ip, 04755), 0);
		evict_block(m.sdp, ip->i_no_addr);
		later = ip->i_mtime;
		later.tv_sec += 5;
		if (ops[i].pending)
			gfs2_pending_mtime_set(ip, later);
		in_core(ip, &before, &flags[0]);
		fault(&m, ip->i_no_addr, "");
		msg_set_level((enum msg_level)-1);
		if (ops[i].op(ip) != -EIO)
			fail_msg("%s: no error", ops[i].name);
		msg_set_level(MSG_INFO);
		io_fault_clear(m.e);
		assert_false(gfs2_withdrawn(m.sdp));
		in_core(ip, &after, &flags[1]);
		if (memcmp(&before, &after, sizeof(before)) || flags[0] != flags[1])
			fail_msg("%s: changed by what failed: size %lu, then %lu; mode %o, %o; mtime %ld, %ld; flags %x, %x",
				 ops[i].name, before.st_size, after.st_size, before.st_mode, after.st_mode,
				 before.st_mtim.tv_sec, after.st_mtim.tv_sec, flags[0], flags[1]);
		if (ops[i].op(ip))
			fail_msg("%s: not again", ops[i].name);
		/* The time is not lost either. */
		in_core(ip, &after, &flags[1]);
		assert_false(ip->i_pending_mtime);
		gfs2_inode_put(ip);
	}
	do_unmount(&m);
}

/* The same of a hashed directory, whose table is in memory. */
static void test_directory_unreadable(void **state)
{
	const struct gfs2_create_args a = { .mode = S_IFREG | 0644, .excl = true };
	struct gfs2_inode *ip, *root;
	struct mounted m;
	struct stat st;
	char name[100];

	vol_make(BS, 64, 1, "");
	m = do_mount();
	root = m.sdp->sd_root;
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "file %u in a directory that is hashed", i);
		gfs2_inode_put(make_file(m.sdp, name));
	}
	assert_true(root->i_diskflags & GFS2_DIF_EXHASH);
	ip = open_file(m.sdp, name);
	for (unsigned i = 0; i < 4; i++) {
		evict_block(m.sdp, root->i_no_addr);
		fault(&m, root->i_no_addr, "");
		msg_set_level((enum msg_level)-1);
		if (i == 0)
			assert_int_equal(gfs2_create(root, "new", &a, &ip, &st), -EIO);
		else if (i == 1)
			assert_int_equal(gfs2_link(ip, root, "new", &st), -EIO);
		else if (i == 2)
			assert_int_equal(gfs2_rename(root, name, root, "new", 0), -EIO);
		else
			assert_int_equal(gfs2_unlink(root, name), -EIO);
		msg_set_level(MSG_INFO);
		io_fault_clear(m.e);
		assert_false(gfs2_withdrawn(m.sdp));
		assert_int_equal(root->i_entries, 2 + 200);
		assert_int_equal(ip->i_nlink, 1);
	}
	assert_int_equal(gfs2_unlink(root, name), 0);
	gfs2_inode_put(ip);
	gfs2_inode_put(make_file(m.sdp, name));
	do_unmount(&m);
}

/* The blocks of a hash table, which is in memory: to change them they need not be read. */
static void test_table_unreadable(void **state)
{
	struct gfs2_inode *ip, *root;
	uint64_t blocks[2], before;
	struct mounted m;
	struct stat st;
	char name[248];

	vol_make(BS, 64, 1, "");
	m = do_mount();
	root = m.sdp->sd_root;
	ip = make_file(m.sdp, "file");
	for (unsigned i = 0; !root->i_height; i++) {
		snprintf(name, sizeof(name), "%0230u", i);
		assert_int_equal(gfs2_link(ip, root, name, &st), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct gfs2_holder gh;
		struct extent e;

		lock(root, LM_ST_SHARED, &gh);
		assert_int_equal(gfs2_map_extent(root, i, 1, &e), 0);
		gfs2_glock_dq_uninit(&gh);
		blocks[i] = e.pblock;
		evict_block(m.sdp, blocks[i]);
		fault(&m, blocks[i], "");
	}
	/* Until a leaf of each half has been split. */
	before = root->i_blocks;
	for (unsigned i = 0; root->i_blocks < before + 20; i++) {
		snprintf(name, sizeof(name), "%0230u more", i);
		assert_int_equal(gfs2_link(ip, root, name, &st), 0);
	}
	assert_false(gfs2_withdrawn(m.sdp));
	io_fault_clear(m.e);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* --- nothing that only somebody uses who is about to begin a transaction stays in memory, and then the device reads nothing --- */

/* This and `taker` are of the test's thread alone: others, as the maintenance thread, have transactions of their own now and then. */
static _Thread_local struct mounted *starved;

int __real_gfs2_trans_begin(struct gfs2_log *log, unsigned blocks, unsigned revokes);
int __wrap_gfs2_trans_begin(struct gfs2_log *log, unsigned blocks, unsigned revokes);
void __real_gfs2_trans_end(struct gfs2_log *log);
void __wrap_gfs2_trans_end(struct gfs2_log *log);

int __wrap_gfs2_trans_begin(struct gfs2_log *log, unsigned blocks, unsigned revokes)
{
	const struct io_fault f = { .op = IO_READ, .cls = -1, .error = EIO };
	struct mounted *m = starved;
	uint64_t limit;

	if (m) {
		starved = NULL;
		limit = buf_cache_limit(m->sdp->sd_bufs);
		assert_int_equal(gfs2_log_sync(log), 0);
		assert_int_equal(gfs2_ail_flush(log), 0);
		buf_cache_set_limit(m->sdp->sd_bufs, 0);
		buf_cache_set_limit(m->sdp->sd_bufs, limit);
		assert_int_equal(io_fault_add(m->e, &f), 0);
		starved = m;
	}
	return __real_gfs2_trans_begin(log, blocks, revokes);
}

void __wrap_gfs2_trans_end(struct gfs2_log *log)
{
	__real_gfs2_trans_end(log);
	if (starved)
		io_fault_clear(starved->e);
}

static _Thread_local struct gfs2_inode *taker;
static uint32_t take_type;

void __real_gfs2_trans_add_meta(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh);
void __wrap_gfs2_trans_add_meta(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh);

/* Another thread writes data into the same block, under another lock, just before it is pinned. */
void __wrap_gfs2_trans_add_meta(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh)
{
	const struct gfs2_meta_header *mh = (const void *)bh->b_data;

	if (taker && be32_to_cpu(mh->mh_type) == take_type) {
		struct gfs2_bh *same = buf_get(&taker->i_data, bh->b_blocknr);

		memset(same->b_data, 'X', BS);
		buf_put(same);
		taker = NULL;
	}
	__real_gfs2_trans_add_meta(log, gl, bh);
}

/* What has been looked at is not there any more when it is to be changed: withdrawn, not the end of the process. */
static void test_taken_within_change(void **state)
{
	const struct gfs2_create_args dir = { .mode = S_IFDIR | 0755, .excl = true };
	struct gfs2_inode *dip, *ip;
	struct mounted m;
	struct stat st;
	char name[232];

	vol_make(BS, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "file");
	assert_int_equal(gfs2_create(m.sdp->sd_root, "dir", &dir, &dip, &st), 0);
	for (unsigned i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "%0200u", i);
		assert_int_equal(gfs2_link(ip, dip, name, &st), 0);
	}
	assert_int_equal(gfs2_setxattr(dip, "user.a", "1", 1, 0, false), 0);
	assert_int_equal(gfs2_setxattr(dip, "user.b", "2", 1, 0, false), 0);
	gfs2_inode_put(dip);
	gfs2_inode_put(ip);
	do_unmount(&m);
	for (unsigned i = 0; i < 3; i++) {
		m = do_mount();
		ip = open_file(m.sdp, "file");
		dip = open_file(m.sdp, "dir");
		msg_set_level((enum msg_level)-1);
		taker = ip;
		take_type = i ? GFS2_METATYPE_EA : GFS2_METATYPE_LF;
		if (i == 0)
			assert_int_equal(gfs2_link(ip, dip, "x", &st), -EIO);
		else if (i == 1)
			assert_int_equal(gfs2_removexattr(dip, "user.b"), -EIO);
		else
			assert_int_equal(gfs2_setxattr(dip, "user.c", "3", 1, 0, false), -EIO);
		assert_null(taker);
		assert_true(gfs2_withdrawn(m.sdp));
		gfs2_inode_put(dip);
		gfs2_inode_put(ip);
		assert_int_equal(gfs2_unmount(m.sdp), -EIO);
		io_engine_close(m.e);
		msg_set_level(MSG_INFO);
	}
	m = do_mount();
	do_unmount(&m);
}

/* Changes of names in hashed directories; those that split a leaf among them. */
static void test_names_starved(void **state)
{
	const struct gfs2_create_args file = { .mode = S_IFREG | 0644, .excl = true }, dir = { .mode = S_IFDIR | 0755, .excl = true };
	struct gfs2_inode *dips[3], *ip, *new;
	struct mounted m;
	struct stat st;
	char name[232], other[232];

	vol_make(BS, 64, 1, "");
	m = do_mount();
	ip = make_file(m.sdp, "file");
	for (unsigned d = 0; d < 3; d++) {
		snprintf(name, sizeof(name), "dir %u", d);
		assert_int_equal(gfs2_create(d < 2 ? m.sdp->sd_root : dips[0], name, &dir, &dips[d], &st), 0);
		for (unsigned i = 0; i < 60; i++) {
			snprintf(name, sizeof(name), "%0200u", i);
			assert_int_equal(gfs2_link(ip, dips[d], name, &st), 0);
		}
		assert_true(dips[d]->i_diskflags & GFS2_DIF_EXHASH);
	}
	starved = &m;
	for (unsigned i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "%0200u more", i);
		assert_int_equal(gfs2_link(ip, dips[0], name, &st), 0);
		snprintf(other, sizeof(other), "%0200u new", i);
		assert_int_equal(gfs2_create(dips[0], other, &file, &new, &st), 0);
		gfs2_inode_put(new);
		assert_int_equal(gfs2_rename(dips[0], name, dips[0], other, RENAME_EXCHANGE), 0);
		assert_int_equal(gfs2_rename(dips[0], name, dips[1], name, 0), 0);
		assert_int_equal(gfs2_rename(dips[1], name, dips[0], other, 0), 0);
		snprintf(name, sizeof(name), "%0200u", i);
		assert_int_equal(gfs2_unlink(dips[0], name), 0);
	}
	/* A directory of its own. */
	assert_int_equal(gfs2_rename(dips[0], "dir 2", dips[1], "dir 2", 0), 0);
	starved = NULL;
	assert_false(gfs2_withdrawn(m.sdp));
	for (unsigned d = 0; d < 3; d++)
		gfs2_inode_put(dips[d]);
	gfs2_inode_put(ip);
	do_unmount(&m);
}

/* --- the tree cannot be read, in the middle of a transaction --- */

#define JUNK '\245'

/*
 * A volume whose free blocks are full of JUNK, and a file with two indirect blocks: of @size blocks, none of them allocated but the first and (behind
 * the end) 609.  The second indirect block is not in memory and cannot be read; what it holds is known.
 */
static struct gfs2_inode *make_torn(struct mounted *m, uint64_t size)
{
	const uint64_t blocks[] = { 0, 508, 509, 609, 700 };
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct gfs2_bh *bh;
	struct extent e;
	uint64_t second;

	snprintf(vol_path, sizeof(vol_path), "%s/volume", vol_dir);
	assert_int_equal(vol_sh("tr '\\0' '\\245' </dev/zero | head -c 64M >%s && mkfs.gfs2 -O -q -K -p lock_nolock -b %u -j 1 -J 8 %s",
				vol_path, BS, vol_path), 0);
	*m = do_mount();
	ip = make_file(m->sdp, "torn");
	memset(data, 'd', sizeof(data));
	assert_int_equal(write_at(ip, data, 0, BS), BS);
	assert_int_equal(gfs2_setattr_size(ip, size * BS), 0);
	assert_int_equal(gfs2_fallocate(ip, FALLOC_FL_KEEP_SIZE, 609 * BS, BS, false), 0);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_meta_inode_buffer(ip, &bh), 0);
	second = be64_to_cpu(((__be64 *)(bh->b_data + sizeof(struct gfs2_dinode)))[1]);
	buf_put(bh);
	for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
		assert_int_equal(gfs2_map_extent(ip, blocks[i], 1, &e), 0);
	gfs2_glock_dq_uninit(&gh);
	evict_block(m->sdp, second);
	fault(m, second, "");
	memset(data, 'X', sizeof(data));
	return ip;
}

static void expect_within(struct gfs2_inode *ip, uint64_t lblock, unsigned from, unsigned to, char byte)
{
	char *buf = aligned_alloc(4096, 4 * BS);
	struct gfs2_holder gh;
	uint32_t skip;

	lock(ip, LM_ST_SHARED, &gh);
	assert_int_equal(gfs2_file_read(ip, buf, lblock * BS, BS, &skip), BS);
	gfs2_glock_dq_uninit(&gh);
	for (unsigned i = from; i < to; i++)
		assert_int_equal(buf[skip + i], byte);
	free(buf);
}

static void expect_block(struct gfs2_inode *ip, uint64_t lblock, char byte)
{
	expect_within(ip, lblock, 0, BS, byte);
}

/* Everything is committed and then the node dies. */
static void crash(struct mounted *m, struct gfs2_inode *ip)
{
	assert_int_equal(gfs2_log_flush(m->sdp->sd_log, 0), 0);
	assert_int_equal(vol_sh("cp %s %s.then", vol_path, vol_path), 0);
	gfs2_inode_put(ip);
	do_unmount(m);
	assert_int_equal(vol_sh("mv %s.then %s", vol_path, vol_path), 0);
	*m = do_mount();
}

/* Two blocks, of which only the first can be had. */
static void test_torn_write(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t size = i == 1 ? 508 : 900;	/* an append, or in the middle */
		bool jdata = i == 2;
		struct gfs2_inode *ip;
		struct mounted m;
		int64_t ret;

		ip = make_torn(&m, size);
		if (jdata)
			set_jdata(ip);
		msg_set_level((enum msg_level)-1);
		ret = write_at(ip, data, 508 * BS, 2 * BS);
		assert_int_equal(write_at(ip, data, 509 * BS, BS), -EIO);
		msg_set_level(MSG_INFO);
		io_fault_clear(m.e);
		assert_int_equal(ip->i_size, (i == 1 ? 509 : 900) * BS);
		crash(&m, ip);
		ip = open_file(m.sdp, "torn");
		assert_int_equal(gfs2_setattr_size(ip, 900 * BS), 0);
		expect_block(ip, 508, 'X');
		expect_block(ip, 509, 0);
		assert_int_equal(ret, BS);
		assert_int_equal(write_at(ip, data, 509 * BS, BS), BS);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

/* Directly, behind the end: all or nothing, and there is nothing to be seen when the file grows over it. */
static void test_torn_fill(void **state)
{
	struct gfs2_fill f = { aligned_alloc(4096, 2 * BS), 508 * BS, 2 * BS };
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct mounted m;
	uint64_t seq;

	memset((char *)(uintptr_t)f.buf, 'X', f.len);
	ip = make_torn(&m, 508);
	msg_set_level((enum msg_level)-1);
	lock(ip, LM_ST_EXCLUSIVE, &gh);
	assert_int_equal(gfs2_file_fill(ip, &f, 1, &seq), -EIO);
	gfs2_glock_dq_uninit(&gh);
	msg_set_level(MSG_INFO);
	io_fault_clear(m.e);
	assert_int_equal(ip->i_size, 508 * BS);
	crash(&m, ip);
	ip = open_file(m.sdp, "torn");
	assert_int_equal(gfs2_setattr_size(ip, 900 * BS), 0);
	expect_block(ip, 508, 0);
	expect_block(ip, 509, 0);
	gfs2_inode_put(ip);
	do_unmount(&m);
	free((char *)(uintptr_t)f.buf);
}

/* A truncate that cannot begin to cut changes nothing, also not behind the new end in the block that stays; one that can zeroes that. */
static void test_torn_cut(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct gfs2_inode *ip;
		struct mounted m;

		ip = make_torn(&m, 900);
		if (i) {
			set_jdata(ip);
			memset(data, 'd', sizeof(data));
			assert_int_equal(write_at(ip, data, 0, BS), BS);
		}
		msg_set_level((enum msg_level)-1);
		assert_int_equal(gfs2_setattr_size(ip, 100), -EIO);
		msg_set_level(MSG_INFO);
		io_fault_clear(m.e);
		assert_false(gfs2_withdrawn(m.sdp));
		assert_int_equal(ip->i_size, 900 * BS);
		expect_block(ip, 0, 'd');
		crash(&m, ip);
		ip = open_file(m.sdp, "torn");
		assert_int_equal(ip->i_size, 900 * BS);
		expect_block(ip, 0, 'd');
		assert_int_equal(gfs2_setattr_size(ip, 100), 0);
		crash(&m, ip);
		ip = open_file(m.sdp, "torn");
		assert_int_equal(ip->i_size, 100);
		assert_int_equal(gfs2_setattr_size(ip, BS), 0);
		expect_within(ip, 0, 0, 100, 'd');
		expect_within(ip, 0, 100, BS, 0);
		gfs2_inode_put(ip);
		do_unmount(&m);
	}
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_data_into_metadata),
		cmocka_unit_test(test_metadata_over_data),
		cmocka_unit_test(test_taken_before_change),
		cmocka_unit_test(test_fill_used),
		cmocka_unit_test(test_taken_within_change),
		cmocka_unit_test(test_dinode_unreadable),
		cmocka_unit_test(test_directory_unreadable),
		cmocka_unit_test(test_table_unreadable),
		cmocka_unit_test(test_names_starved),
		cmocka_unit_test(test_torn_write),
		cmocka_unit_test(test_torn_fill),
		cmocka_unit_test(test_torn_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return vol_main(run);
}
