/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One mounted GFS2 volume: geometry, modules, mount and unmount (kernel: ops_fstype.c, super.c;
 * reference gfs2-ondisk.md sections 1-3, gfs2-locking-dio.md section 3.1).
 */
#ifndef GFS2FUSE_SUPER_H
#define GFS2FUSE_SUPER_H

#include <linux/gfs2_ondisk.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "io/buf.h"
#include "io/io.h"
#include "journal/log.h"
#include "lock/glock.h"
#include "util/hist.h"

struct gfs2_inode;
struct gfs2_rgrps;
struct gfs2_icache;
struct gfs2_statfs;
struct gfs2_maint;
struct gfs2_evict_queue;
struct gfs2_kdrops;
struct gfs2_ahead;

enum short_dio { SHORT_DIO_DRAIN, SHORT_DIO_ASYNC, SHORT_DIO_FAIL, SHORT_DIO_PRECHECK, SHORT_DIO_BLOCKDEV };
enum rgrplvb { RGRPLVB_AUTO, RGRPLVB_ON, RGRPLVB_OFF };
enum local_death { LOCAL_DEATH_NODE, LOCAL_DEATH_PROCESS };
enum dio_mtime { DIO_MTIME_DEFERRED, DIO_MTIME_STRICT };
enum dio_rest { DIO_REST_DIRECT, DIO_REST_BUFFERED };

/*
 * What became of requests for direct I/O, and why one was not direct from end to end (of several reasons the first).
 * DIO_DEMOTE is counted besides: the lock was just being asked back, so the request had to wait for it.
 */
enum dio_outcome { DIO_DIRECT, DIO_HOLE, DIO_EOF, DIO_STUFFED, DIO_JDATA, DIO_MISALIGNED, DIO_DEMOTE, DIO_NR_OUTCOMES };
/* Where a request's time went: waits for the lock; the extent map; the device; the part that fell back; the answer. */
enum dio_phase { DIO_T_LOCK, DIO_T_MAP, DIO_T_DEVICE, DIO_T_BUFFERED, DIO_T_REPLY, DIO_NR_PHASES };

/* Statistics of a mount (dio/dio.h shows them); all relaxed. */
struct gfs2_dio_counters {
	/* Written for each request: away from what the others read for each. */
	char away[64];
	atomic_uint_least64_t fast[2], worker[2]; /* requests: reads, writes */
	atomic_uint_least64_t outcome[DIO_NR_OUTCOMES];
	struct hist latency[DIO_NR_PHASES];
};

/* Who read /dev/fuse (fuse/readers.h): changes, and readers started because none was ready; relaxed. */
struct gfs2_receive_counters {
	atomic_uint_least64_t to_readers, to_rings, started;
};

/* What cache= may be. */
#define GFS2_CACHE_MIN (4ull << 20)
#define GFS2_CACHE_MAX (1ull << 40)

/* Mount options (design section 9); strings are owned by the caller and outlive the mount. */
struct gfs2_args {
	bool ar_ro;
	const char *ar_lockproto;	/* NULL: from the superblock */
	const char *ar_locktable;	/* NULL: from the superblock */
	enum short_dio ar_short_dio;
	enum dio_mtime ar_dio_mtime;
	unsigned ar_dio_mtime_interval; /* seconds */
	enum dio_rest ar_dio_rest;
	bool ar_dio_strict;		/* dio=strict */
	bool ar_noacl;			/* POSIX ACLs are neither shown nor looked at */
	enum local_death ar_local_death;
	unsigned ar_rgrplvb;		/* enum rgrplvb */
	uint64_t ar_cache;		/* bytes, from GFS2_CACHE_MIN to GFS2_CACHE_MAX */
	unsigned ar_commit;		/* seconds */
};

#define GFS2_MAX_META_HEIGHT 10
#define GFS2_DIR_MAX_DEPTH 17

struct gfs2_sbd {
	struct gfs2_args sd_args;
	/* tunables that `glockctl set` may change; relaxed: each is looked at on its own */
	atomic_int sd_short_dio, sd_dio_mtime, sd_dio_rest;
	atomic_uint sd_dio_mtime_interval, sd_commit;
	atomic_uint_least64_t sd_cache;	/* bytes; set by gfs2_budget_set() */

	/* Geometry, constant after mount (reference 1.2, 4.3). */
	uint32_t sd_bsize, sd_bsize_shift;
	uint32_t sd_diptrs, sd_inptrs, sd_jbsize, sd_hash_bsize, sd_hash_bsize_shift, sd_hash_ptrs;
	uint32_t sd_max_dirres, sd_max_dents_per_leaf;
	unsigned sd_max_height;		/* heights 0..sd_max_height are usable */
	uint64_t sd_heightsize[GFS2_MAX_META_HEIGHT + 2]; /* bytes addressable; the last one is UINT64_MAX */
	uint32_t sd_fs_format;
	uint64_t sd_root_addr, sd_master_addr, sd_sb_block;
	uint64_t sd_device_blocks;
	char sd_lockproto[64], sd_locktable[64], sd_fsname[80];
	char sd_label[64];		/* the superblock's lock table, whatever is used instead */
	uint8_t sd_uuid[16];

	const struct lm_lockops *sd_lm;
	struct io_engine *sd_io;
	struct buf_cache *sd_bufs;
	atomic_uint_least64_t sd_errors_told; /* buf_cache_write_errors() that an fsync of the root has told; relaxed */
	struct gfs2_glock_table *sd_glocks;
	/*
	 * NULL on a read-only mount.  Changes while mounting and unmounting only, under sd_log_lock, which who has neither a request nor
	 * a part in the mount (the lock module: lm_lost) holds while he uses it.
	 */
	struct gfs2_log *sd_log;
	struct rmutex sd_log_lock;
	struct gfs2_icache *sd_icache;
	struct gfs2_kdrops *sd_kdrops;
	struct gfs2_ahead *sd_ahead;	/* NULL: nothing is read ahead */
	struct gfs2_rgrps *sd_rgrps;
	struct gfs2_statfs *sd_statfs;

	unsigned sd_jid, sd_nr_journals;
	struct gfs2_jdesc *sd_jdescs;
	/* The two above and sd_statfs_inode are there; release when set, acquire by who recovers dead nodes' journals. */
	atomic_bool sd_journals_known;
	unsigned sd_told_no_journal;	/* + 1: that it was added after the mount and cannot be replayed here has been said; the recovery thread's */
	struct gfs2_inode *sd_root, *sd_master, *sd_rindex, *sd_statfs_inode, *sd_sc_inode;
	uint64_t sd_statfs_addr;	/* dinode of the master statfs file */
	/* Held from mount to unmount; sd_mount_gh only while mounting. */
	struct gfs2_holder sd_mount_gh, sd_live_gh, sd_journal_gh, sd_jinode_gh, sd_freeze_gh,
		sd_sc_gh;
	struct gfs2_glock *sd_rename_gl;
	struct gfs2_maint *sd_maint;	/* gfs2_maint_wake() */
	struct gfs2_evict_queue *sd_evict_queue; /* NULL: whoever drops the last reference frees */
	bool sd_first;			/* no other node has the volume mounted */
	bool sd_rgrplvb;		/* what value blocks say of resource groups is looked at */
	bool sd_replayed;		/* mounting replayed a journal: there has been a crash */
	bool sd_ro;
	/* On the way out: nobody waits for other nodes if that is not needed.  relaxed: only saves time */
	atomic_bool sd_unmounting;
	atomic_bool sd_withdrawn;	/* release when set, acquire in gfs2_withdrawn() */

	struct gfs2_dio_counters sd_dio;
	struct gfs2_receive_counters sd_receive;
};

/*
 * Mount: check the superblock, open journals, recover (own, and all as first mounter), read rindex and statfs, start the log, reclaim
 * unlinked inodes.  @e stays the caller's.  On error a message has been given, nothing was written unless a journal was replayed, and
 * a -errno: -EINVAL not GFS2 / damaged / unsupported, -EIO, -EROFS dirty journal on a read-only device, -EUSERS no journal.
 */
int gfs2_mount(struct io_engine *e, const struct gfs2_args *args, struct gfs2_sbd **out);
/* Finish everything, leave a clean journal, free. -EIO if that could not be done (then recovery is needed). */
int gfs2_unmount(struct gfs2_sbd *sdp);

/*
 * If a lock_dlm daemon of this machine has died with @table: replay its journal, drop its locks, leave the lock space.  The caller holds the
 * volume's lock file exclusively, so the dead one's I/O is over.  0 also if there was nothing to do.
 */
int gfs2_recover_dead(struct io_engine *e, const char *table);

/* Reads the superblock only and fills geometry; for mount and tests. */
int gfs2_read_sb(struct io_engine *e, struct gfs2_sbd *sdp);
/* Only sd_lockproto and sd_locktable, whatever else the block contains. */
int gfs2_peek_lock_names(struct io_engine *e, struct gfs2_sbd *sdp);

static inline bool gfs2_withdrawn(struct gfs2_sbd *sdp)
{
	return atomic_load_explicit(&sdp->sd_withdrawn, memory_order_acquire);
}
/* Stop writing, say so once, answer -EIO from now on. Returns -EIO. */
int gfs2_withdraw(struct gfs2_sbd *sdp, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/*
 * The maintenance thread: moves statfs to the master file, publishes times of direct writes, keeps the
 * number of cached locks and buffers within the limits.  stop waits for it; free, also after a start that failed, when nobody is left who might
 * wake it.
 */
int gfs2_maint_start(struct gfs2_sbd *sdp);
void gfs2_maint_stop(struct gfs2_sbd *sdp);
void gfs2_maint_free(struct gfs2_sbd *sdp);
/* Memory is to be looked after now; any thread, any lock.  Without the thread nothing happens. */
void gfs2_maint_wake(struct gfs2_sbd *sdp);
bool gfs2_maint_runs(struct gfs2_sbd *sdp);
/* budget.c: divide the memory allowed (sd_cache) anew; see there. No lock held. */
void gfs2_budget_set(struct gfs2_sbd *sdp, uint64_t cache);
void gfs2_budget_balance(struct gfs2_sbd *sdp);
/* The system is out of memory: everything that is only cached goes. */
void gfs2_budget_relieve(struct gfs2_sbd *sdp);
/* The volume contradicts itself at @blkno: message naming block, function and rule, withdraw (read-only mounts: only the
 * message). Returns -EIO. */
int gfs2_consist_(struct gfs2_sbd *sdp, uint64_t blkno, const char *func, const char *rule);
#define gfs2_consist(sdp, blkno, rule) gfs2_consist_(sdp, blkno, __func__, rule)

static inline bool sb_is_system_range(const struct gfs2_sbd *sdp, uint64_t blkno)
{
	return blkno <= sdp->sd_sb_block || blkno >= sdp->sd_device_blocks;
}

/* --- meta_io.c: metadata buffers of a glock --- */
/*
 * Before @bh, from buf_get() or buf_read() of @m, is changed or believed: 0, or the consistency error that somebody else has the block,
 * with contents in memory that are not on the device yet.
 */
int gfs2_check_owner(struct gfs2_sbd *sdp, const struct gfs2_bh *bh, const struct gfs2_mapping *m);
/* Read block @blkno under @gl and check magic and type (GFS2_METATYPE_*, 0: any metadata). -EIO + consist message. */
int gfs2_meta_read(struct gfs2_sbd *sdp, struct gfs2_glock *gl, uint64_t blkno, uint32_t type,
		   struct gfs2_bh **out);
/* A freshly allocated block: zeroed, header set to @type/@format, uptodate, added to the transaction. -EIO + consist message. */
int gfs2_meta_new(struct gfs2_sbd *sdp, struct gfs2_glock *gl, uint64_t blkno, uint32_t type,
		  uint32_t format, struct gfs2_bh **out);
void gfs2_metatype_set(struct gfs2_bh *bh, uint32_t type, uint32_t format);

/* --- statfs.c --- */
struct gfs2_statfs_host {
	int64_t total, free, dinodes;
};
/* In a transaction: add to the local record and log it (reference 2.3). */
void gfs2_statfs_change(struct gfs2_sbd *sdp, int64_t total, int64_t free, int64_t dinodes);
/* Master + local, clamped. */
void gfs2_statfs_get(struct gfs2_sbd *sdp, struct gfs2_statfs_host *out);
/* Move local into master; takes the master statfs inode EX; own transaction; nothing if local is zero. */
int gfs2_statfs_sync(struct gfs2_sbd *sdp);
int gfs2_statfs_init(struct gfs2_sbd *sdp, const struct gfs2_log_header_host *head);
void gfs2_statfs_exit(struct gfs2_sbd *sdp);
void gfs2_statfs_local(void *sdp, int64_t vals[3]);	/* log hook */

/* --- glops.c: what each glock type protects --- */
extern const struct gfs2_glock_operations gfs2_inode_glops, gfs2_rgrp_glops, gfs2_iopen_glops, gfs2_flock_glops, gfs2_plock_glops,
	gfs2_nondisk_glops, gfs2_meta_glops, gfs2_journal_glops, gfs2_freeze_glops;
struct gfs2_sbd *glock_sbd(const struct gfs2_glock *gl);

#endif
