/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mount and unmount of whole volumes: what must be left behind, and what is refused. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include "vol.h"
#include "child.h"
#include "fs/inode.h"
#include "fs/mount_i.h"
#include "fs/namei.h"
#include "fs/rgrp.h"
#include "util/wait.h"

static struct gfs2_sbd *mount_args(struct io_engine *e, const struct gfs2_args *args)
{
	struct gfs2_sbd *sdp;

	assert_int_equal(gfs2_mount(e, args, &sdp), 0);
	return sdp;
}

/* Newest log header of journal @jd as it is on the store. */
static struct gfs2_log_header_host newest_header(struct gfs2_sbd *sdp, unsigned jid)
{
	struct gfs2_log_header_host head;

	assert_int_equal(gfs2_find_jhead(sdp->sd_io, sdp->sd_bsize, &sdp->sd_jdescs[jid], &head), 0);
	return head;
}

static void check_sums(struct gfs2_sbd *sdp)
{
	struct gfs2_statfs_host sum, st;

	assert_int_equal(gfs2_rgrps_sum(sdp, &sum), 0);
	gfs2_statfs_get(sdp, &st);
	assert_int_equal(st.total, sum.total);
	assert_int_equal(st.free, sum.free);
	assert_int_equal(st.dinodes, sum.dinodes);
}

/* Mount and unmount, several times, all block sizes: clean for fsck and for the next mount. */
static void test_fresh(void **state)
{
	for (unsigned bsize = 512; bsize <= 4096; bsize *= 2) {
		uint64_t last = 0;

		vol_make(bsize, 64, 2, "");
		for (int i = 0; i < 3; i++) {
			struct io_engine *e = vol_open(false);
			struct gfs2_sbd *sdp = mount_args(e, &vol_args);
			struct gfs2_log_header_host head = newest_header(sdp, 0);

			assert_true(head.lh_flags & GFS2_LOG_HEAD_UNMOUNT);
			assert_true(head.lh_sequence >= last);
			last = head.lh_sequence;
			assert_int_equal(sdp->sd_nr_journals, 2);
			check_sums(sdp);
			assert_int_equal(gfs2_unmount(sdp), 0);
			io_engine_close(e);
			vol_fsck();
		}
	}
}

/* A read-only mount writes nothing, whatever is read. */
static void test_readonly(void **state)
{
	struct gfs2_args args = vol_args;
	struct io_engine *e;
	struct gfs2_holder gh;
	struct gfs2_sbd *sdp;
	struct stat st;

	args.ar_ro = true;
	vol_make(4096, 64, 2, "");
	assert_int_equal(vol_sh("cp --sparse=always %s %s/copy", vol_path, vol_dir), 0);
	for (int writable = 0; writable < 2; writable++) {
		e = vol_open(!writable);
		sdp = mount_args(e, &args);
		assert_null(sdp->sd_log);
		check_sums(sdp);
		assert_int_equal(gfs2_glock_nq_init(sdp->sd_root->i_gl, LM_ST_SHARED, 0, &gh), 0);
		gfs2_getattr(sdp->sd_root, &st);
		gfs2_glock_dq_uninit(&gh);
		assert_true(S_ISDIR(st.st_mode));
		assert_int_equal(gfs2_unmount(sdp), 0);
		io_engine_close(e);
	}
	assert_int_equal(vol_sh("cmp %s %s/copy", vol_path, vol_dir), 0);
	assert_int_equal(vol_sh("rm %s/copy", vol_dir), 0);
	e = vol_open(true);
	assert_int_equal(gfs2_mount(e, &vol_args, &sdp), -EROFS);
	io_engine_close(e);
}

static int mount_result(const struct gfs2_args *args)
{
	struct io_engine *e = vol_open(false);
	struct gfs2_sbd *sdp;
	int err = gfs2_mount(e, args, &sdp);

	if (!err)
		assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	return err;
}

/* Lock protocols: from the superblock, overridden, not there. */
static void test_lockproto(void **state)
{
	struct gfs2_args args = vol_args;

	vol_make(4096, 64, 1, "-p lock_dlm -t cl:vol");
	/* No such cluster, wherever this runs; the reason differs. */
	assert_true(mount_result(&args) < 0);
	/* What it does is for mount tests; here no broker comes up. */
	args.ar_lockproto = "lock_local";
	assert_int_equal(mount_result(&args), -ENOENT);
	args.ar_lockproto = "lock_gulm";
	assert_int_equal(mount_result(&args), -EINVAL);
	args.ar_lockproto = "lock_nolock";
	assert_int_equal(mount_result(&args), 0);
	vol_fsck();
}

/* A damaged block at each of the places that mount reads: an error, and not a byte written. */
static void damage_block(uint64_t blkno, int expect)
{
	char good[4096], bad[4096] = { 0 };

	vol_read(good, sizeof(good), blkno * 4096);
	vol_write(bad, sizeof(bad), blkno * 4096);
	assert_int_equal(vol_sh("cp --sparse=always %s %s/copy", vol_path, vol_dir), 0);
	assert_int_equal(mount_result(&vol_args), expect);
	assert_int_equal(vol_sh("cmp %s %s/copy", vol_path, vol_dir), 0);
	vol_write(good, sizeof(good), blkno * 4096);
}

static void test_damaged(void **state)
{
	struct io_engine *e;
	struct gfs2_sbd *sdp;
	uint64_t blocks[8];
	unsigned nr = 0;

	vol_make(4096, 64, 2, "");
	e = vol_open(false);
	sdp = mount_args(e, &vol_args);
	blocks[nr++] = sdp->sd_master_addr;
	blocks[nr++] = sdp->sd_root_addr;
	blocks[nr++] = sdp->sd_rindex->i_no_addr;
	blocks[nr++] = sdp->sd_jdescs[1].jd_no_addr;
	blocks[nr++] = sdp->sd_jdescs[0].jd_statfs_addr;
	blocks[nr++] = sdp->sd_statfs_addr;
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	for (unsigned i = 0; i < nr; i++)
		damage_block(blocks[i], -EIO);
	assert_int_equal(vol_sh("rm %s/copy", vol_dir), 0);
	assert_int_equal(mount_result(&vol_args), 0);
	vol_fsck();
	/* The last resource group is cut off. */
	assert_int_equal(vol_sh("truncate -s 48M %s", vol_path), 0);
	assert_int_equal(mount_result(&vol_args), -EINVAL);
}

static void make_file(struct gfs2_sbd *sdp, const char *name, struct gfs2_inode **out)
{
	const struct gfs2_create_args a = { .mode = S_IFREG | 0644, .excl = true };
	struct stat st;

	assert_int_equal(gfs2_create(sdp->sd_root, name, &a, out, &st), 0);
}

static int unlinked_seen;

static int see_unlinked(struct gfs2_sbd *sdp, uint64_t blkno)
{
	unlinked_seen++;
	return 0;
}

static int count_unlinked(struct gfs2_sbd *sdp)
{
	unlinked_seen = 0;
	assert_int_equal(gfs2_for_each_unlinked(sdp, see_unlinked), 0);
	return unlinked_seen;
}

/* The daemon dies: what was flushed is there after the replay, counts are right. */
static void test_crash(void **state)
{
	struct gfs2_args ro = vol_args;
	struct gfs2_inode *ip;
	struct gfs2_sbd *sdp;
	struct io_engine *e;
	struct stat st;
	pid_t pid;
	int status;

	ro.ar_ro = true;
	vol_make(1024, 64, 2, "");
	pid = fork();
	if (!pid) {
		char name[32];

		e = vol_open(false);
		if (gfs2_mount(e, &vol_args, &sdp))
			end_now(1);
		for (int i = 0; i < 300; i++) {
			snprintf(name, sizeof(name), "file%d", i);
			make_file(sdp, name, &ip);
			gfs2_inode_put(ip);
			/* Some of it in place, so that what mount reads first is not what replay makes. */
			if (i == 100 && gfs2_ail_flush(sdp->sd_log))
				end_now(1);
		}
		/* Unlinked and open: to be freed by the next mount. */
		make_file(sdp, "open", &ip);
		if (gfs2_unlink(sdp->sd_root, "open"))
			end_now(1);
		if (gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL))
			end_now(1);
		end_now(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);

	e = vol_open(true);
	assert_int_equal(gfs2_mount(e, &ro, &sdp), -EROFS);
	io_engine_close(e);

	/* Where it can be written, a read-only mount replays; unlinked inodes stay. */
	e = vol_open(false);
	sdp = mount_args(e, &ro);
	assert_null(sdp->sd_log);
	check_sums(sdp);
	assert_int_equal(gfs2_lookup(sdp->sd_root, "file299", &ip, &st), 0);
	gfs2_inode_put(ip);
	assert_int_equal(count_unlinked(sdp), 1);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);

	e = vol_open(false);
	sdp = mount_args(e, &vol_args);
	check_sums(sdp);
	assert_int_equal(count_unlinked(sdp), 0);
	assert_int_equal(gfs2_lookup(sdp->sd_root, "file299", &ip, &st), 0);
	gfs2_inode_put(ip);
	assert_int_equal(gfs2_lookup(sdp->sd_root, "open", &ip, &st), -ENOENT);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	vol_fsck();
}

/* What a crash has left unlinked, one of it where the device cannot read: the others are freed, and the volume is mounted. */
static void test_unlinked_unreadable(void **state)
{
	static const char *const names[] = { "a", "b", "c" };
	struct io_fault f = { .op = IO_READ, .cls = -1, .len = 1024, .error = EIO };
	struct gfs2_inode *ip;
	struct gfs2_sbd *sdp;
	struct io_engine *e;
	struct stat st;
	pid_t pid;
	int status;

	vol_make(1024, 64, 1, "");
	e = vol_open(false);
	sdp = mount_args(e, &vol_args);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		make_file(sdp, names[i], &ip);
		if (!i)
			f.pos = ip->i_no_addr * 1024;
		gfs2_inode_put(ip);
	}
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	pid = fork();
	if (!pid) {
		e = vol_open(false);
		if (gfs2_mount(e, &vol_args, &sdp))
			end_now(1);
		for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
			if (gfs2_lookup(sdp->sd_root, names[i], &ip, &st) || gfs2_unlink(sdp->sd_root, names[i]))
				end_now(1);
		end_now(gfs2_ail_flush(sdp->sd_log) ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);

	e = vol_open(false);
	assert_int_equal(io_fault_add(e, &f), 0);
	sdp = mount_args(e, &vol_args);
	assert_int_equal(count_unlinked(sdp), 1);
	check_sums(sdp);
	io_fault_clear(e);
	assert_int_equal(gfs2_unmount(sdp), 0);
	sdp = mount_args(e, &vol_args);
	assert_int_equal(count_unlinked(sdp), 0);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	vol_fsck();
}

/*
 * fsck.gfs2 3.x replays a journal and leaves the local record of the node behind: it must not be
 * counted again (reference 2.3).
 */
static void test_fsck_replay(void **state)
{
	struct gfs2_inode *ip;
	struct gfs2_sbd *sdp;
	struct io_engine *e;
	pid_t pid;
	int status;

	vol_make(4096, 64, 1, "");
	pid = fork();
	if (!pid) {
		char name[32];

		e = vol_open(false);
		if (gfs2_mount(e, &vol_args, &sdp))
			end_now(1);
		for (int i = 0; i < 50; i++) {
			snprintf(name, sizeof(name), "file%d", i);
			make_file(sdp, name, &ip);
			gfs2_inode_put(ip);
		}
		end_now(gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL) ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* 1: errors were corrected. */
	assert_int_equal(vol_sh("fsck.gfs2 -y %s || test $? = 1", vol_path), 0);

	for (int i = 0; i < 2; i++) {
		e = vol_open(false);
		sdp = mount_args(e, &vol_args);
		check_sums(sdp);
		assert_int_equal(gfs2_unmount(sdp), 0);
		io_engine_close(e);
		vol_fsck();
	}
}

/* The journal cannot be written: withdrawn, everything fails, unmount comes to an end. */
static void test_withdraw(void **state)
{
	const struct io_fault f = { .op = IO_WRITE, .cls = IO_LOG, .error = EIO };
	const struct gfs2_create_args a = { .mode = S_IFREG | 0644, .excl = true };
	struct gfs2_inode *ip;
	struct gfs2_sbd *sdp;
	struct io_engine *e;
	struct stat st;

	vol_make(4096, 64, 1, "");
	e = vol_open(false);
	sdp = mount_args(e, &vol_args);
	make_file(sdp, "before", &ip);
	gfs2_inode_put(ip);
	assert_int_equal(gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL), 0);
	make_file(sdp, "lost", &ip);
	gfs2_inode_put(ip);
	assert_int_equal(io_fault_add(e, &f), 0);
	assert_int_equal(gfs2_log_flush(sdp->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL), -EIO);
	assert_true(gfs2_withdrawn(sdp));
	assert_int_equal(gfs2_create(sdp->sd_root, "after", &a, &ip, &st), -EIO);
	assert_int_equal(gfs2_unmount(sdp), -EIO);
	io_fault_clear(e);

	sdp = mount_args(e, &vol_args);
	check_sums(sdp);
	assert_int_equal(gfs2_lookup(sdp->sd_root, "before", &ip, &st), 0);
	gfs2_inode_put(ip);
	assert_int_equal(gfs2_lookup(sdp->sd_root, "lost", &ip, &st), -ENOENT);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	vol_fsck();
}

/* --- the lock module's threads, which have no part in the unmount --- */

static pthread_t other;
static sem_t other_waits, log_is_gone;
static atomic_bool other_ends;
static struct gfs2_sbd *survivor;

/* The locks of the journal and of the block counts are not kept, but given back a little later; until then they would be refused. */
static int recover_dead(void)
{
	struct gfs2_glock *gl = gfs2_glock_get(survivor->sd_glocks, 1, &gfs2_journal_glops);

	assert_true(gfs2_glock_wait_demoted(gl, 60000000000ull));
	assert_true(gfs2_glock_wait_demoted(survivor->sd_statfs_inode->i_gl, 60000000000ull));
	gfs2_glock_put(gl);
	return gfs2_recover_jid(survivor, 1);
}

static void recover_in_vain(void)
{
	for (unsigned i = 0; i < 3; i++)
		if (recover_dead() != LM_RD_FAILED)
			fs_err("it was recovered");
}

/* The journal of a dead node cannot be replayed: that is said once, however often it is tried; and it can be when it is whole again. */
static void test_dead_journal_damaged(void **state)
{
	const struct gfs2_journal_extent *x;
	struct io_engine *e;
	char *good, *zero;
	size_t len;

	vol_make(4096, 64, 2, "");
	e = vol_open(false);
	survivor = mount_args(e, &vol_args);
	x = survivor->sd_jdescs[1].jd_extents;
	assert_int_equal(survivor->sd_jdescs[1].jd_nr_extents, 1);
	len = (size_t)x->blocks * 4096;
	good = malloc(len);
	zero = calloc(1, len);
	vol_read(good, len, x->dblock * 4096);
	vol_write(zero, len, x->dblock * 4096);
	assert_int_equal(vol_times_said(recover_in_vain, "no valid log header"), 1);
	vol_write(good, len, x->dblock * 4096);
	assert_int_equal(recover_dead(), LM_RD_SUCCESS);
	/* Another time is another matter. */
	vol_write(zero, len, x->dblock * 4096);
	assert_int_equal(vol_times_said(recover_in_vain, "could not be replayed"), 1);
	assert_int_equal(vol_times_said(recover_in_vain, "it was recovered"), 0);
	vol_write(good, len, x->dblock * 4096);
	free(good);
	free(zero);
	assert_int_equal(gfs2_unmount(survivor), 0);
	io_engine_close(e);
	vol_fsck();
}

static struct lm_lockops lm_copy;

/* The log has ended, the locks have not. */
static void end_other(struct gfs2_glock_table *t)
{
	atomic_store(&other_ends, true);
	sem_post(&log_is_gone);
	pthread_join(other, NULL);
}

static struct gfs2_sbd *mount_with_other(struct io_engine *e, void *(*fn)(void *sdp))
{
	struct gfs2_sbd *sdp = mount_args(e, &vol_args);

	lm_copy = *sdp->sd_lm;
	lm_copy.lm_stop_recovery = end_other;
	sdp->sd_lm = &lm_copy;
	sem_init(&other_waits, 0, 0);
	sem_init(&log_is_gone, 0, 0);
	atomic_store(&other_ends, false);
	assert_int_equal(pthread_create(&other, NULL, fn, sdp), 0);
	return sdp;
}

/* At the second message of the withdraw. */
static void hold_up(struct before_wait *bw)
{
	static int messages;

	if (!messages++) {
		before_wait_set(bw);
		return;
	}
	sem_post(&other_waits);
	sem_wait(&log_is_gone);
}

static void *lose_the_cluster(void *sdp)
{
	struct before_wait bw = { .fn = hold_up };

	before_wait_set(&bw);
	gfs2_withdraw(sdp, "fatal: this node is no longer part of the cluster");
	before_wait_set(NULL);
	return NULL;
}

/* The node loses its place in the cluster while it unmounts: the log is not there any more when the withdraw has been told of. */
static void test_lost_at_the_end(void **state)
{
	struct gfs2_sbd *sdp;
	struct io_engine *e;

	vol_make(4096, 64, 1, "");
	e = vol_open(false);
	sdp = mount_with_other(e, lose_the_cluster);
	sem_wait(&other_waits);
	assert_int_equal(gfs2_unmount(sdp), -EIO);
	io_engine_close(e);
}

static void *wake(void *sdp)
{
	while (!atomic_load(&other_ends)) {
		gfs2_maint_wake(sdp);
		sched_yield();
	}
	return NULL;
}

/* Another node asks for an inode: the maintenance thread is to look at it, and has ended. */
static void test_woken_at_the_end(void **state)
{
	struct gfs2_sbd *sdp;
	struct io_engine *e;

	vol_make(4096, 64, 1, "");
	e = vol_open(false);
	sdp = mount_with_other(e, wake);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
}

/* A damaged directory: a number that no node id can have is as much of a fault as one outside the volume, and ends in a withdraw. */
static void test_impossible_number(void **state)
{
	const uint64_t impossible[] = { 1ull << 40, 1ull << 48, UINT64_MAX };
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	struct gfs2_sbd *sdp;
	struct io_engine *e;
	int error;

	for (unsigned i = 0; i < ARRAY_SIZE(impossible); i++) {
		vol_make(4096, 64, 1, "");
		e = vol_open(false);
		sdp = mount_args(e, &vol_args);
		error = gfs2_inode_lookup(sdp, impossible[i], 77, &ip);
		if (!error) {
			/* This one a node id could have: the block is asked for. */
			error = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, 0, &gh);
			gfs2_inode_put(ip);
		}
		assert_int_equal(error, -EIO);
		assert_true(gfs2_withdrawn(sdp));
		assert_int_equal(gfs2_unmount(sdp), -EIO);
		io_engine_close(e);
	}
}

/* Far more metadata than the cache may hold. */
static void test_small_cache(void **state)
{
	const struct gfs2_create_args dir = { .mode = S_IFDIR | 0755, .excl = true };
	struct gfs2_args args = vol_args;
	struct gfs2_inode *dip, *ip;
	struct gfs2_sbd *sdp;
	struct io_engine *e;
	struct stat st;
	char name[32];

	args.ar_cache = 1 << 20;
	vol_make(4096, 128, 1, "");
	e = vol_open(false);
	sdp = mount_args(e, &args);
	for (int d = 0; d < 40; d++) {
		const struct gfs2_create_args file = { .mode = S_IFREG | 0644, .excl = true };

		snprintf(name, sizeof(name), "dir%d", d);
		assert_int_equal(gfs2_create(sdp->sd_root, name, &dir, &dip, &st), 0);
		for (int i = 0; i < 100; i++) {
			snprintf(name, sizeof(name), "file%d", i);
			assert_int_equal(gfs2_create(dip, name, &file, &ip, &st), 0);
			gfs2_inode_put(ip);
		}
		gfs2_inode_put(dip);
	}
	check_sums(sdp);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(e);
	vol_fsck();
}

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(test_fresh),
		cmocka_unit_test(test_readonly),
		cmocka_unit_test(test_lockproto),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_crash),
		cmocka_unit_test(test_dead_journal_damaged),
		cmocka_unit_test(test_unlinked_unreadable),
		cmocka_unit_test(test_fsck_replay),
		cmocka_unit_test(test_withdraw),
		cmocka_unit_test(test_lost_at_the_end),
		cmocka_unit_test(test_woken_at_the_end),
		cmocka_unit_test(test_impossible_number),
		cmocka_unit_test(test_small_cache),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}

int main(void)
{
	return vol_main(tests);
}
