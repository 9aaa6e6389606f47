/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mount and unmount (kernel: ops_fstype.c:gfs2_fill_super, super.c:gfs2_put_super,
 * gfs2_make_fs_rw, gfs2_make_fs_ro; reference gfs2-locking-dio.md 3.1).
 *
 * States of a volume, each built on the one before; a mount that fails goes back through teardown(),
 * which undoes whatever it finds:
 *   geometry known (sb.c) -> names and lock module -> caches and lock table -> MOUNT, LIVE held,
 *   superblock read under its lock -> journals known, own one held -> recovered, nothing cached ->
 *   root, rindex, statfs -> [rw: FREEZE held, log started, unlinked inodes freed] -> MOUNT released.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>
#include "debug/event.h"
#include "fs/ahead.h"
#include "fs/evict_later.h"
#include "fs/inode.h"
#include "fs/kdrop.h"
#include "fs/mount_i.h"
#include "fs/rgrp.h"
#include "lock/dlm_dead.h"
#include "util/util.h"

#define GLOCK_WORKERS 2
#define RECLAIM_ALL_BYTES (64u << 20)	/* of bitmaps: 1 TiB in blocks of 4 KiB */

/* --- names --- */

/* The last part of the device's name: what the kernel calls a volume without a lock table. */
static void device_name(struct io_engine *e, char *buf, size_t size)
{
	char link[64], path[4096];
	const char *base;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", io_engine_fd(e));
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = 0;
	base = strrchr(path, '/');
	base = base && base[1] ? base + 1 : "volume";
	snprintf(buf, size, "%.*s", (int)size - 1, base);
}

static int set_names(struct gfs2_sbd *sdp)
{
	const struct gfs2_args *a = &sdp->sd_args;

	memcpy(sdp->sd_label, sdp->sd_locktable, sizeof(sdp->sd_label));
	if (a->ar_lockproto)
		snprintf(sdp->sd_lockproto, sizeof(sdp->sd_lockproto), "%s", a->ar_lockproto);
	if (a->ar_locktable) {
		if (strlen(a->ar_locktable) >= sizeof(sdp->sd_locktable)) {
			fs_err("lock table name '%s' is too long", a->ar_locktable);
			return -EINVAL;
		}
		snprintf(sdp->sd_locktable, sizeof(sdp->sd_locktable), "%s", a->ar_locktable);
	}
	if (!sdp->sd_locktable[0])
		device_name(sdp->sd_io, sdp->sd_locktable, sizeof(sdp->sd_locktable));
	for (char *c = sdp->sd_locktable; *c; c++)
		if (*c == '/')
			*c = '_';
	snprintf(sdp->sd_fsname, sizeof(sdp->sd_fsname), "%s", sdp->sd_locktable);
	msg_set_prefix(sdp->sd_fsname);
	return 0;
}

static int choose_lock_module(struct gfs2_sbd *sdp)
{
	if (!strcmp(sdp->sd_lockproto, lm_nolock.lm_proto_name)) {
		sdp->sd_lm = &lm_nolock;
		return 0;
	}
	if (!strcmp(sdp->sd_lockproto, lm_dlm.lm_proto_name)) {
		sdp->sd_lm = &lm_dlm;
		return 0;
	}
	if (!strcmp(sdp->sd_lockproto, lm_local.lm_proto_name)) {
		sdp->sd_lm = &lm_local;
		return 0;
	}
	fs_err("unknown lock protocol '%.64s'", sdp->sd_lockproto);
	return -EINVAL;
}

/* --- lock table, first locks --- */

static int create_caches(struct gfs2_sbd *sdp)
{
	int err = buf_cache_create(sdp->sd_io, sdp->sd_bsize, sdp->sd_args.ar_cache, &sdp->sd_bufs);

	if (!err)
		err = gfs2_glock_table_create(sdp->sd_lm, sdp->sd_bufs, GLOCK_WORKERS, sdp,
					      &sdp->sd_glocks);
	if (!err)
		err = gfs2_icache_create(sdp);
	if (!err)
		err = gfs2_kdrops_create(sdp);
	if (!err && gfs2_ahead_wanted(sdp))
		gfs2_ahead_create(sdp);
	if (err)
		fs_err("cannot create the caches: %s", strerror(-err));
	return err;
}

static void lock_space_lost(void *private, const char *why)
{
	gfs2_withdraw(private, "fatal: this node is no longer part of the cluster: %s", why);
}

static const struct lm_recovery_ops recovery_ops = {
	.lm_recover_journal = gfs2_recover_jid,
	.lm_comes_first = gfs2_journal_comes_first,
	.lm_nr_journals = gfs2_nr_journals,
	.lm_lost = lock_space_lost,
};

static int lm_mount(struct gfs2_sbd *sdp)
{
	size_t len = strlen(sdp->sd_fsname);
	int err;

	sdp->sd_jid = 0;
	sdp->sd_first = true;
	gfs2_glock_table_set_recovery(sdp->sd_glocks, &recovery_ops);
	gfs2_glock_table_set_volume(sdp->sd_glocks, io_engine_fd(sdp->sd_io),
				    sdp->sd_args.ar_local_death == LOCAL_DEATH_PROCESS);
	if (sdp->sd_lm->lm_mount) {
		err = sdp->sd_lm->lm_mount(sdp->sd_glocks, sdp->sd_locktable, &sdp->sd_jid,
					   &sdp->sd_first);
		if (err) {
			fs_err("%s: cannot join the lock space of '%s': %s", sdp->sd_lockproto,
			       sdp->sd_locktable, strerror(-err));
			return err;
		}
	}
	snprintf(sdp->sd_fsname + len, sizeof(sdp->sd_fsname) - len, ".%u", sdp->sd_jid);
	msg_set_prefix(sdp->sd_fsname);
	return 0;
}

/* The holder has its own reference to the glock. */
int lock_number(struct gfs2_sbd *sdp, uint64_t number, const struct gfs2_glock_operations *ops,
		enum lm_state state, unsigned flags, struct gfs2_holder *gh)
{
	struct gfs2_glock *gl = gfs2_glock_get(sdp->sd_glocks, number, ops);
	int err;

	if (!gl)
		return -ENOMEM;
	err = gfs2_glock_nq_init(gl, state, flags, gh);
	gfs2_glock_put(gl);
	if (err)
		fs_err("cannot get lock %d/%" PRIu64 " in %s: %s", ops->go_type, number,
		       glock_state_name(state), strerror(-err));
	return err;
}

static int init_locking(struct gfs2_sbd *sdp)
{
	int err = lock_number(sdp, GFS2_MOUNT_LOCK, &gfs2_nondisk_glops, LM_ST_EXCLUSIVE,
			      LM_FLAG_NOEXP | GL_NOCACHE | GL_NOPID, &sdp->sd_mount_gh);

	if (!err)
		err = lock_number(sdp, GFS2_LIVE_LOCK, &gfs2_nondisk_glops, LM_ST_SHARED,
				  LM_FLAG_NOEXP | GL_EXACT | GL_NOPID, &sdp->sd_live_gh);
	if (err)
		return err;
	sdp->sd_rename_gl = gfs2_glock_get(sdp->sd_glocks, GFS2_RENAME_LOCK, &gfs2_nondisk_glops);
	return sdp->sd_rename_gl ? 0 : -ENOMEM;
}

/* The superblock as it is while nobody else changes it: tunegfs2 and fsck may have run meanwhile. */
static int read_sb_locked(struct gfs2_sbd *sdp)
{
	struct gfs2_sbd now = { 0 };
	struct gfs2_holder gh;
	int err = lock_number(sdp, 0, &gfs2_meta_glops, LM_ST_SHARED, 0, &gh);

	if (err)
		return err;
	err = gfs2_read_sb(sdp->sd_io, &now);
	gfs2_glock_dq_uninit(&gh);
	if (err)
		return err;
	if (now.sd_bsize != sdp->sd_bsize || now.sd_master_addr != sdp->sd_master_addr ||
	    now.sd_root_addr != sdp->sd_root_addr) {
		fs_err("the superblock changed while mounting");
		return -EAGAIN;
	}
	return 0;
}

/* --- the file system proper --- */

static int open_root(struct gfs2_sbd *sdp)
{
	struct gfs2_holder gh;
	int err = gfs2_inode_lookup(sdp, sdp->sd_root_addr, 0, &sdp->sd_root);

	if (!err)
		err = gfs2_glock_nq_init(sdp->sd_root->i_gl, LM_ST_SHARED, LM_FLAG_ANY, &gh);
	if (err) {
		fs_err("cannot read the root directory: %s", strerror(-err));
		return err;
	}
	sdp->sd_root->i_own = true;
	if (!gfs2_is_dir(sdp->sd_root))
		err = gfs2_consist(sdp, sdp->sd_root_addr, "the root is not a directory");
	gfs2_glock_dq_uninit(&gh);
	return err;
}

static int open_files(struct gfs2_sbd *sdp)
{
	int err = open_root(sdp);

	/* As the kernel's gfs2: by default from the format on that came with it.  Alone, no other node has anything to say. */
	sdp->sd_rgrplvb = sdp->sd_lm->lm_has_peers && sdp->sd_args.ar_rgrplvb != RGRPLVB_OFF &&
			  (sdp->sd_args.ar_rgrplvb == RGRPLVB_ON || sdp->sd_fs_format > 1801);
	if (!err)
		err = sys_lookup(sdp, sdp->sd_master, "rindex", &sdp->sd_rindex);
	if (!err) {
		sdp->sd_rindex->i_own = sdp->sd_master->i_own = sdp->sd_statfs_inode->i_own = true;
		err = gfs2_rindex_read(sdp);
		if (err)
			fs_err("cannot read the resource index, inode %" PRIu64 ": %s",
			       sdp->sd_rindex->i_no_addr, strerror(-err));
	}
	return err;
}

static void log_withdraw(void *arg, int error, const char *what)
{
	gfs2_withdraw(arg, "fatal: %s: %s", what, strerror(error < 0 ? -error : error));
}

static void log_used_twice(void *arg, uint64_t blkno)
{
	gfs2_consist((struct gfs2_sbd *)arg, blkno, "the block is used twice");
}

static void log_flush_event(void *arg, bool start, uint64_t seq, uint32_t flags)
{
	struct gfs2_event ev = {
		.type = EV_LOG_FLUSH, .fields = EVF_OFF | EVF_LEN, .off = seq,
		.len = flags,
	};

	gfs2_event_emit(&ev, start ? "start" : "end");
}

static int start_log(struct gfs2_sbd *sdp, const struct gfs2_log_header_host *head)
{
	const struct gfs2_log_config cfg = {
		.engine = sdp->sd_io,
		.bufs = sdp->sd_bufs,
		.bsize = sdp->sd_bsize,
		.jd = &sdp->sd_jdescs[sdp->sd_jid],
		.head = *head,
		.commit_secs = sdp->sd_args.ar_commit,
		.hooks = {
			.arg = sdp,
			.local_statfs = gfs2_statfs_local,
			.withdraw = log_withdraw,
			.used_twice = log_used_twice,
			.flush_event = log_flush_event,
		},
	};
	struct gfs2_log *log;
	int err = lock_number(sdp, GFS2_FREEZE_LOCK, &gfs2_freeze_glops, LM_ST_SHARED,
			      LM_FLAG_NOEXP | GL_EXACT | GL_NOPID, &sdp->sd_freeze_gh);

	if (!err)
		err = gfs2_log_create(&cfg, &log);
	if (err) {
		fs_err("cannot start the log: %s", strerror(-err));
		return err;
	}
	rmutex_lock(&sdp->sd_log_lock);
	sdp->sd_log = log;
	rmutex_unlock(&sdp->sd_log_lock);
	/* Who withdrew before found no log to stop. */
	return gfs2_withdrawn(sdp) ? -EIO : 0;
}

/*
 * What crashed nodes had open and unlinked.  If others have mounted the volume, they may have it open still.  Reading every bitmap of a large
 * volume takes long: unless there has been a crash, those that are read anyway must do (gfs2_reclaim_seen).
 */
static int reclaim_unlinked(struct gfs2_sbd *sdp)
{
	int err;

	if ((sdp->sd_lm->lm_has_peers && !sdp->sd_first) ||
	    (!sdp->sd_replayed && gfs2_rgrps_bitmap_bytes(sdp) > RECLAIM_ALL_BYTES))
		return 0;
	err = gfs2_for_each_unlinked(sdp, gfs2_reclaim_unlinked);
	if (err)
		fs_err("cannot free all unlinked inodes: %s", strerror(-err));
	/* Those that cannot be read keep their blocks: no reason to refuse the volume. */
	return gfs2_withdrawn(sdp) ? -EIO : 0;
}

static int make_rw(struct gfs2_sbd *sdp, const struct gfs2_log_header_host *head)
{
	int err = start_log(sdp, head);

	if (!err)
		err = gfs2_statfs_init(sdp, head);
	if (!err)
		err = reclaim_unlinked(sdp);
	return err;
}

static int mount_steps(struct gfs2_sbd *sdp)
{
	struct gfs2_log_header_host head = { 0 };
	int err = set_names(sdp);

	if (!err)
		err = choose_lock_module(sdp);
	/* One of ours may have been killed, and its supervisor with it. */
	if (!err && sdp->sd_lm == &lm_dlm)
		err = gfs2_recover_dead(sdp->sd_io, sdp->sd_locktable);
	if (!err)
		err = create_caches(sdp);
	if (!err)
		err = lm_mount(sdp);
	if (!err)
		err = init_locking(sdp);
	if (!err)
		err = read_sb_locked(sdp);
	if (!err)
		err = gfs2_inode_lookup(sdp, sdp->sd_master_addr, 0, &sdp->sd_master);
	if (!err)
		err = open_journals(sdp);
	if (!err)
		err = open_statfs(sdp);
	if (!err)
		err = gfs2_inode_lookup(sdp, sdp->sd_statfs_addr, 0, &sdp->sd_statfs_inode);
	if (!err) {
		/* From now on this node can replay a dead one's journal; it may have to, to go on itself. */
		atomic_store_explicit(&sdp->sd_journals_known, true, memory_order_release);
		err = recover_journals(sdp, &head);
	}
	if (!err)
		err = open_files(sdp);
	if (!err)
		err = sdp->sd_ro ? gfs2_statfs_init(sdp, &head) : make_rw(sdp, &head);
	if (!err)
		err = gfs2_maint_start(sdp);
	if (!err)
		err = gfs2_evict_later_start(sdp);
	if (err)
		return err;
	if (sdp->sd_first && sdp->sd_lm->lm_first_done)
		sdp->sd_lm->lm_first_done(sdp->sd_glocks);
	gfs2_glock_dq_uninit(&sdp->sd_mount_gh);
	return 0;
}

/* --- the way back --- */

static void release_holder(struct gfs2_holder *gh)
{
	if (gh->gh_gl)
		gfs2_glock_dq_uninit(gh);
}

/*
 * Everything that changed is in the journal and in place, and the journal is clean.  From here on
 * there is no log, and nothing that would need one.
 */
static int finish_log(struct gfs2_sbd *sdp)
{
	struct gfs2_log *log = sdp->sd_log;
	int err = 0, undeleted = 0;

	if (!log)
		return 0;
	if (!gfs2_withdrawn(sdp)) {
		undeleted = gfs2_icache_delete_again(sdp);
		gfs2_pending_mtime_publish_all(sdp);
		err = gfs2_statfs_sync(sdp);
	}
	/* Demotions (the shrinker's, or asked for by other nodes) work with the log: not now, and afterwards without it. */
	gfs2_glock_table_hold(sdp->sd_glocks);
	if (!gfs2_withdrawn(sdp)) {
		if (!err)
			err = gfs2_log_shutdown(log);
		if (err)
			gfs2_withdraw(sdp, "cannot leave a clean journal: %s", strerror(-err));
	}
	/* The lock module's threads are still there, and withdraw if the node loses its place in the cluster now. */
	rmutex_lock(&sdp->sd_log_lock);
	sdp->sd_log = NULL;
	rmutex_unlock(&sdp->sd_log_lock);
	gfs2_log_destroy(log);
	gfs2_glock_table_release(sdp->sd_glocks);
	return gfs2_withdrawn(sdp) ? -EIO : undeleted;
}

static void put_inode(struct gfs2_inode **ip)
{
	if (*ip)
		gfs2_inode_put(*ip);
	*ip = NULL;
}

static void destroy_caches(struct gfs2_sbd *sdp)
{
	gfs2_ahead_destroy(sdp);
	gfs2_rgrps_destroy(sdp);
	if (sdp->sd_icache)
		gfs2_icache_check_empty(sdp);
	if (sdp->sd_rename_gl)
		gfs2_glock_put(sdp->sd_rename_gl);
	if (sdp->sd_glocks)
		gfs2_glock_table_destroy(sdp->sd_glocks);
	/* Another node may have asked for an inode that has only just been let go of: a worker has looked for it until now. */
	gfs2_icache_destroy(sdp);
	gfs2_maint_free(sdp);
	gfs2_kdrops_destroy(sdp);
	if (sdp->sd_bufs)
		buf_cache_destroy(sdp->sd_bufs);
}

/* Undo whatever there is of a mount.  Returns the first error of ending it cleanly. */
static int teardown(struct gfs2_sbd *sdp)
{
	int err;

	atomic_store_explicit(&sdp->sd_unmounting, true, memory_order_relaxed);
	gfs2_maint_stop(sdp);
	gfs2_evict_later_stop(sdp);
	if (sdp->sd_icache)
		gfs2_icache_forget_all(sdp);
	put_inode(&sdp->sd_root);
	err = finish_log(sdp);
	if (sdp->sd_glocks && sdp->sd_lm->lm_stop_recovery)
		sdp->sd_lm->lm_stop_recovery(sdp->sd_glocks);
	gfs2_statfs_exit(sdp);
	put_inode(&sdp->sd_statfs_inode);
	put_inode(&sdp->sd_rindex);
	release_holder(&sdp->sd_sc_gh);
	put_inode(&sdp->sd_sc_inode);
	put_inode(&sdp->sd_master);
	release_holder(&sdp->sd_freeze_gh);
	release_holder(&sdp->sd_jinode_gh);
	for (unsigned j = 0; j < sdp->sd_nr_journals; j++)
		put_inode(&sdp->sd_jdescs[j].jd_inode);
	release_holder(&sdp->sd_journal_gh);
	release_holder(&sdp->sd_live_gh);
	release_holder(&sdp->sd_mount_gh);
	destroy_caches(sdp);
	for (unsigned j = 0; j < sdp->sd_nr_journals; j++)
		free(sdp->sd_jdescs[j].jd_extents);
	free(sdp->sd_jdescs);
	rmutex_destroy(&sdp->sd_log_lock);
	free(sdp);
	return err;
}

static void init_args(struct gfs2_sbd *sdp, const struct gfs2_args *args)
{
	gfs2_glock_set_trans_check(gfs2_trans_active);
	rmutex_init(&sdp->sd_log_lock, RANK_WITHDRAW);
	sdp->sd_args = *args;
	sdp->sd_ro = args->ar_ro;
	atomic_init(&sdp->sd_short_dio, args->ar_short_dio);
	atomic_init(&sdp->sd_dio_mtime, args->ar_dio_mtime);
	atomic_init(&sdp->sd_dio_rest, args->ar_dio_rest);
	atomic_init(&sdp->sd_dio_mtime_interval, args->ar_dio_mtime_interval);
	atomic_init(&sdp->sd_commit, args->ar_commit);
	atomic_init(&sdp->sd_cache, args->ar_cache);
	atomic_init(&sdp->sd_withdrawn, false);
	atomic_init(&sdp->sd_journals_known, false);
	atomic_init(&sdp->sd_unmounting, false);
}

int gfs2_mount(struct io_engine *e, const struct gfs2_args *args, struct gfs2_sbd **out)
{
	struct gfs2_sbd *sdp;
	int err;

	*out = NULL;
	if (!args->ar_ro && device_readonly(e)) {
		fs_err("the device is open read-only: only a read-only mount is possible");
		return -EROFS;
	}
	/* An earlier mount may have been withdrawn. */
	io_engine_stop_writes(e, false);
	sdp = xzalloc(sizeof(*sdp));
	init_args(sdp, args);
	err = gfs2_read_sb(e, sdp);
	if (!err)
		err = mount_steps(sdp);
	if (err) {
		teardown(sdp);
		return err > 0 ? -EIO : err;
	}
	*out = sdp;
	return 0;
}

int gfs2_unmount(struct gfs2_sbd *sdp)
{
	return teardown(sdp);
}

/* --- after a daemon that was killed --- */

/*
 * As far into a mount as recovery needs: system files and journals, read without the cluster's locks.  What they lead to changes only when
 * journals are added; everything else that is read is the dead daemon's own.
 */
static int open_for_recovery(struct gfs2_sbd *sdp, const char *table)
{
	int err = set_names(sdp);

	if (!err) {
		msg_set_prefix(table);
		err = choose_lock_module(sdp);
	}
	if (!err)
		err = create_caches(sdp);
	if (!err)
		err = gfs2_inode_lookup(sdp, sdp->sd_master_addr, 0, &sdp->sd_master);
	if (!err)
		err = open_journals(sdp);
	if (!err)
		err = open_statfs(sdp);
	return err;
}

static int replay_dead(struct io_engine *e, const char *table, struct dlm_dead *dead)
{
	struct gfs2_args args = { .ar_ro = true, .ar_lockproto = lm_nolock.lm_proto_name,
				  .ar_locktable = table, .ar_cache = 16u << 20, .ar_commit = 30 };
	struct gfs2_sbd *sdp = xzalloc(sizeof(*sdp));
	struct gfs2_log_header_host head;
	int err;

	init_args(sdp, &args);
	err = gfs2_read_sb(e, sdp);
	if (!err)
		err = open_for_recovery(sdp, table);
	/* The dead one's block counts are added to everybody's. */
	if (!err)
		err = dlm_dead_lock_inode(dead, sdp->sd_statfs_addr);
	for (unsigned j = 0; !err && j < sdp->sd_nr_journals; j++)
		if (dlm_dead_owns_journal(dead, j))
			err = recover_one(sdp, &sdp->sd_jdescs[j], &head);
	teardown(sdp);
	return err;
}

int gfs2_recover_dead(struct io_engine *e, const char *table)
{
	struct dlm_dead *dead;
	int err = dlm_dead_open(table, &dead);

	if (err || !dead)
		return err;
	fs_warn("a daemon of this node was killed: its journal is replayed now");
	err = replay_dead(e, table, dead);
	/* If we cannot do it, another node may. */
	return dlm_dead_leave(dead, !err);
}
