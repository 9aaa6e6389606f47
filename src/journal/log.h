/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal: transactions, log flushes, write-back of the log's tail (reference gfs2-ondisk.md
 * section 8).
 *
 * What it is.  Operations open a transaction, announce every metadata block before they change it
 * (gfs2_trans_add_meta) and close it.  Closed transactions gather in the open *batch*.  A flush
 * takes the batch: stops new transactions, waits for the open ones, copies the images of the pinned blocks (so that new transactions
 * may go on at once), writes the ordered data, then JDATA, METADATA and REVOKE groups in large writes, flushes, writes the log header,
 * flushes; the next flush may be up to its header meanwhile.  Then the batch's buffers are in the AIL (committed, to be written in place); the background thread writes
 * them back and so moves the tail.
 *
 * Guarantees
 *  1. A transaction is in the log whole or not at all; nothing it changed reaches its home block before
 *     its log header is durable.  A pinned buffer is never written in place.
 *  2. Ordered data of a batch is on the device before the batch's header.
 *  3. Payload and ordered data are complete and flushed before the header is written (the reference's 8.7 steps 4, 5).
 *  4. The tail in a header never passes an image whose home copy is not durable.
 *  5. A freed block that has an image in the active log region is revoked in the flush of the free; no flush
 *     both logs and revokes a block.
 *  6. Log space: a transaction that was let in can always be flushed (reservation at begin, reserve for revokes).
 *  7. After an error while writing the log the file system withdraws (fs/super.h): nothing more is written.
 *
 * Callers: transactions do not nest (a nested begin is an error in the program: asserted); inside one a thread never waits for a glock.
 * The glock of every block added is held EX.
 */
#ifndef GFS2FUSE_LOG_H
#define GFS2FUSE_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include "io/buf.h"
#include "lock/glock.h"

struct gfs2_log;
struct gfs2_sbd;

/* One journal as found in jindex; filled by fs/super.c (extents mapped through the metadata tree). */
struct gfs2_journal_extent {
	uint32_t lblock;	/* first logical block */
	uint32_t blocks;
	uint64_t dblock;	/* device block of lblock */
};
struct gfs2_jdesc {
	unsigned jd_jid;
	uint64_t jd_no_addr;	/* the journal's inode */
	uint32_t jd_blocks;	/* J */
	unsigned jd_nr_extents;
	struct gfs2_journal_extent *jd_extents; /* ascending, without holes */
	struct gfs2_inode *jd_inode;	/* referenced from mount to unmount (fs/journals.c) */
	uint64_t jd_statfs_addr, jd_quota_addr; /* dinodes of statfs_change<jid>, quota_change<jid> */
	int jd_told;	/* why it could not be replayed, which has been said; the recovery thread's */
};

struct gfs2_log_header_host {
	uint64_t lh_sequence;
	uint32_t lh_flags, lh_tail, lh_blkno;
	uint32_t lh_crc;	/* as stored: 0 = a v1 header (fsck's signature, reference section 2.3) */
	uint64_t lh_statfs_addr;
	int64_t lh_local_total, lh_local_free, lh_local_dinodes;
};

/* What the log needs from the layers above; called without ranked mutexes unless said. */
struct gfs2_log_hooks {
	void *arg;
	/* The three local statfs values for a log header (may be called under RANK_LOG_FLUSH). */
	void (*local_statfs)(void *arg, int64_t vals[3]);
	/* The log cannot be written any more. */
	void (*withdraw)(void *arg, int error, const char *what);
	/* On a damaged volume: block @blkno is somebody else's, too; nothing more may be written.  Under any mutex, in a transaction. */
	void (*used_twice)(void *arg, uint64_t blkno);
	/* For events: flush started (true) or ended. */
	void (*flush_event)(void *arg, bool start, uint64_t seq, uint32_t flags);
};

struct gfs2_log_config {
	struct io_engine *engine;
	struct buf_cache *bufs;
	uint32_t bsize;
	const struct gfs2_jdesc *jd;		/* stays valid as long as the log */
	struct gfs2_log_header_host head;	/* clean head: next sequence and position follow from it */
	unsigned commit_secs;
	struct gfs2_log_hooks hooks;
};

/* Flush flags: GFS2_LOG_HEAD_FLUSH_* of <linux/gfs2_ondisk.h> plus an LFC_ code. */

int gfs2_log_create(const struct gfs2_log_config *cfg, struct gfs2_log **out);
/*
 * Unmount: flush everything, write the AIL in place, write a header with UNMOUNT whose tail is itself.  Statfs must
 * have been synced before (local values zero: asserted unless withdrawn).  Stops the background thread.
 */
int gfs2_log_shutdown(struct gfs2_log *log);
/*
 * Crash-like end for tests and withdraw: stops the thread, writes nothing, forgets pins and AIL.  No transaction is
 * open in any thread; not from a hook.  Before the glocks of its buffers go away.
 */
void gfs2_log_abandon(struct gfs2_log *log);
void gfs2_log_destroy(struct gfs2_log *log);
/*
 * Withdraw: nothing more is written from now on (a request under way may still end), every begin and flush answers
 * -EIO, waiters are woken.  May be called from anywhere, under any mutex and in a transaction; does not wait.
 * hooks.withdraw is not called.  gfs2_log_abandon() later cleans up.
 */
void gfs2_log_stop(struct gfs2_log *log);
void gfs2_log_set_commit_secs(struct gfs2_log *log, unsigned secs);

/* --- transactions (one per thread, found through a thread-local) --- */
/*
 * @blocks: upper bound of blocks that will be added (metadata and jdata), @revokes: of blocks that may be freed and
 * need a revoke.  Waits for log space; -EIO after a log error; -EFBIG if it could never fit
 * (gfs2_log_max_trans).
 */
int gfs2_trans_begin(struct gfs2_log *log, unsigned blocks, unsigned revokes);
void gfs2_trans_end(struct gfs2_log *log);
bool gfs2_trans_active(void);
/* Largest number of blocks that one transaction may ask for. */
unsigned gfs2_log_max_trans(const struct gfs2_log *log);

/*
 * Before changing b_data of a metadata buffer: pins it, clears the header's pad and sets mh_jid.  First use of a *new* block: fill in the
 * header (gfs2_metatype_set) before or after, it must have one when the transaction ends.  Several open transactions may
 * add the same buffer at once (one holder for all of them); its contents are then theirs to guard.
 * A buffer that is not (any more) @gl's, because somebody else has the same block, is not pinned: hooks.used_twice.  The caller need not care:
 * nothing that is changed from here on gets out.
 */
void gfs2_trans_add_meta(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh);
/* The same for a block of journaled file data (no header, escaped in the log when it looks like one). */
void gfs2_trans_add_jdata(struct gfs2_log *log, struct gfs2_glock *gl, struct gfs2_bh *bh);
/*
 * Ordinary file data, dirty already: @m's dirty buffers are written before the batch that is open is committed, and without one within the
 * commit interval.
 */
void gfs2_ordered_add(struct gfs2_log *log, struct gfs2_mapping *m);
void gfs2_ordered_del(struct gfs2_log *log, struct gfs2_mapping *m); /* the inode goes away; its data are clean or dead */
/*
 * Blocks [bstart, bstart+blen) are being freed in the open transaction: pinned images leave the batch, images in the
 * active log get a revoke (counted against the transaction's @revokes), cached buffers are dropped, data too.  Right for plain
 * data as well, and to be preferred to buf_forget(): it waits for the ordered data of the batch that is being flushed, which
 * may have made these very blocks reachable.
 */
void gfs2_journal_wipe(struct gfs2_log *log, uint64_t bstart, uint32_t blen);
/* The block is being allocated as metadata or jdata: a revoke not yet written is withdrawn. */
void gfs2_trans_remove_revoke(struct gfs2_log *log, uint64_t blkno, uint32_t len);
/* Number of the batch that the open transaction (or the next one) belongs to, starting with 1. */
uint64_t gfs2_trans_batch_seq(struct gfs2_log *log);
/* Batches up to this one are durable in the log (acquire): blocks they freed may be allocated. */
uint64_t gfs2_log_durable_seq(struct gfs2_log *log);

/* --- flushing --- */
/*
 * Everything closed before the call is durable at return.  Concurrent callers share flushes (group commit).  Does nothing if
 * the open batch is empty.  -EIO after a log error.  The caller holds no transaction.
 */
int gfs2_log_flush(struct gfs2_log *log, uint32_t flags);
/*
 * That, and all data written before the call, with a transaction or without one, directly or not.  An error of writing data is in
 * buf_cache_write_errors().
 */
int gfs2_log_sync(struct gfs2_log *log);
/* As gfs2_log_flush, but only if @seq (gfs2_trans_batch_seq at the last change) is not durable yet. */
int gfs2_log_flush_seq(struct gfs2_log *log, uint64_t seq, uint32_t flags);
/* Glock @gl is being given up: flush if any of its buffers is pinned, write its AIL buffers in place, wait; with
 * @revoke also revoke their images in the active log and flush again (needed when other nodes exist). */
int gfs2_ail_empty_gl(struct gfs2_log *log, struct gfs2_glock *gl, bool revoke);
/* Write back the whole AIL and move the tail (memory pressure, sync). */
int gfs2_ail_flush(struct gfs2_log *log);
/* How much memory blocks may have that must not leave it: pinned ones, their images, those not in place yet.  Waits for nobody. */
void gfs2_log_set_memory(struct gfs2_log *log, uint64_t bytes);
/* Wake the background thread (memory or log pressure). */
void gfs2_log_wake(struct gfs2_log *log);

struct gfs2_log_stats {
	uint64_t flushes, batches_shared, blocks_logged, revokes_logged, ail_written;
	uint32_t blocks_total, blocks_free, pinned, ail;
	uint64_t sequence, durable_seq;
};
void gfs2_log_get_stats(struct gfs2_log *log, struct gfs2_log_stats *st);

/* --- encoders and decoders, also used by recovery and the tests --- */
/* Fills a whole block; computes both checksums. */
struct gfs2_log_header_args {
	uint64_t sequence, jinode, statfs_addr, quota_addr, addr;
	uint32_t flags, tail, blkno, jid;
	int64_t local[3];
	struct timespec time;
};
void gfs2_log_header_encode(void *block, uint32_t bsize, const struct gfs2_log_header_args *a);
/* 0, or -EINVAL when @block is not a valid header (magic, type, lh_hash, lh_crc unless 0). Position is not compared. */
int gfs2_log_header_decode(const void *block, uint32_t bsize, struct gfs2_log_header_host *out);
/* Device block of logical journal block @lblock. */
uint64_t gfs2_journal_map(const struct gfs2_jdesc *jd, uint32_t lblock);

/* --- recovery.c --- */
/* The newest header; -EIO (log says which) when there is none that is valid. */
int gfs2_find_jhead(struct io_engine *e, uint32_t bsize, const struct gfs2_jdesc *jd,
		    struct gfs2_log_header_host *head);
/* The same head, and whether a replay would put an image of block @blkno in place.  Writes nothing. */
int gfs2_journal_look(struct io_engine *e, uint32_t bsize, const struct gfs2_jdesc *jd, uint64_t blkno,
		      struct gfs2_log_header_host *head, bool *has_image);
/* Is this the dinode of a file that has its block counts where they are looked for, behind the dinode?  The caller has checked the header. */
struct gfs2_dinode;
bool gfs2_holds_statfs(const struct gfs2_dinode *di);
struct gfs2_recovery_result {
	bool dirty;			/* there was something to replay */
	uint32_t blocks_found, blocks_replayed, revokes;
	struct gfs2_log_header_host head; /* the clean head afterwards */
};
/*
 * Replay @jd into the volume (reference 8.10): revokes, images in place, flush, statfs of @statfs_master (block number of the
 * master statfs dinode) and statfs_change<jid>, clean header.  After an end at any moment it can be begun again, by any node, with the same
 * result.  @mh_jid: the recovering node's journal.  Uses no buffer cache: the
 * caller has none of these blocks cached.  Nothing is written if the journal is clean or @readonly (then -EROFS if it is dirty).
 */
int gfs2_recover_journal(struct io_engine *e, uint32_t bsize, const struct gfs2_jdesc *jd,
			 unsigned mh_jid, uint64_t statfs_master, bool readonly,
			 struct gfs2_recovery_result *res);

#endif
