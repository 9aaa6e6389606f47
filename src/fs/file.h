/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered file contents: reads and writes through the inode's data buffers.
 */
#ifndef GFS2FUSE_FILE_H
#define GFS2FUSE_FILE_H

#include "fs/bmap.h"

/*
 * Read up to @size bytes at @pos into @buf (@buf aligned to io_align, room for ALIGN_UP(size + 2
 * * bsize)), short only at EOF; holes are zeros. The data start at @buf + *@skip (the read begins
 * at a block boundary, so that the device can write straight into @buf). Caller holds SH, DF or
 * EX.  Dirty data buffers are newer than the device and win. Returns bytes, or -errno.
 */
int64_t gfs2_file_read(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size, uint32_t *skip);
/* Any holder: may there be buffers of its data, which are newer than the device? */
bool gfs2_file_has_buffers(struct gfs2_inode *ip);
/*
 * The same for who only hands the bytes on to a system call: @to says where they are.  If to->in_store that is, without a copy, the store itself
 * (io_in_place()) or, where the file has a hole, @buf, and the lock must be held until they have been used; else it is @buf.
 */
#define GFS2_READ_PIECES 32
struct gfs2_pieces {
	struct iovec iov[GFS2_READ_PIECES];
	unsigned nr;
	bool in_store;
};
int64_t gfs2_file_read_pieces(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size, struct gfs2_pieces *to);
/*
 * The same through the buffer cache, with read-ahead: for files that the kernel does not cache.  Caller holds SH or EX
 * (in DF nothing may be cached).
 */
int64_t gfs2_file_read_cached(struct gfs2_inode *ip, void *buf, uint64_t pos, uint32_t size,
			      uint32_t *skip);

/*
 * Write @size bytes at @pos, extending, allocating and unstuffing as needed.  Caller holds EX, no
 * transaction.  Sets mtime/ctime; clears suid/sgid if @kill_priv.  The data are in dirty buffers
 * (or the dinode, or the journal) at return. Returns bytes written (short only after an error that came after
 * progress, of which the call for the rest will tell) or -errno: -EFBIG, -ENOSPC, -EIO; then size, times and mode are as they were.
 */
int64_t gfs2_file_write(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t size,
			bool kill_priv);
/* For who cannot tell of a short write: 0, or the error, before which some may have been written. */
int gfs2_file_write_all(struct gfs2_inode *ip, const void *buf, uint64_t pos, uint32_t size);

/* One of several writes of whole blocks. */
struct gfs2_fill {
	const char *buf;	/* aligned to io_align() */
	uint64_t pos;
	uint32_t len;
};
/* Whole blocks: may it be given to gfs2_file_fill()? */
bool gfs2_file_may_fill(const struct gfs2_sbd *sdp, uint64_t pos, uint32_t len);
/*
 * Write @fills (ascending, not overlapping) straight to the device, allocating holes and extending as needed.  Caller holds EX, no
 * transaction.  Sets mtime/ctime.  Durable once batch *@seq is.  -ENOTBLK: one of them needs gfs2_file_write() (stuffed, journaled, behind
 * the end with something in between), nothing was done.  After another error holes may be filled, but the file is no longer
 * than it was; each by itself may still succeed.
 */
int gfs2_file_fill(struct gfs2_inode *ip, const struct gfs2_fill *fills, unsigned nr, uint64_t *seq);

/*
 * gfs2_file_write() of all of @fills (ascending), for who has no buffer cache to leave the data in: they are on the device at return, not
 * durable yet.  Caller holds EX, no transaction.  After an error the file has no block that it did not have before, and its size (file_through.c).
 */
int gfs2_file_write_through(struct gfs2_inode *ip, const struct gfs2_fill *fills, unsigned nr);

/*
 * Whole daemon-side of O_SYNC/O_DSYNC: data of the inode and the transactions that reach them are
 * durable. Any holder or none.
 */
int gfs2_file_sync(struct gfs2_inode *ip, bool datasync);
/*
 * For data that are durable already (forced direct writes): the transactions that reach them are, too.  The device is not flushed for
 * nothing.  Any holder or none.
 */
int gfs2_file_sync_blocks(struct gfs2_inode *ip);

/*
 * EX: data were put into @bh, a buffer of ip->i_data: to be written in place.  Its owner was asked for before (gfs2_check_owner()); if it is
 * another one now, that is the same consistency error.
 */
int gfs2_data_dirty(struct gfs2_inode *ip, struct gfs2_bh *bh);
/* Write the dirty data back; errors of earlier write-backs, too, that nobody has been told. */
int gfs2_file_data_sync(struct gfs2_inode *ip);
/* Write the dirty data back, before EX is given up.  Errors stay with the file, for its fsync. */
void gfs2_file_write_back(struct gfs2_inode *ip);
/*
 * Under EX or DF with a cached EX: write back and drop the data buffers before direct I/O
 * (reference 5.9-4).
 */
int gfs2_file_flush_inval(struct gfs2_inode *ip);

/* EX: if mode has suid, or sgid+exec, clear them; true if changed (the caller logs the dinode). */
bool gfs2_kill_priv(struct gfs2_inode *ip);

/*
 * Rights that a file loses when it is written or cut: suid and sgid unless the caller may keep them
 * (@suidgid false), security.capability always (kernel: file_remove_privs()).
 *
 * Any holder: does it have such?  Looks into the attributes only once, and never blocks if
 * @may_block is false (then true means: perhaps).
 */
bool gfs2_has_privs(struct gfs2_inode *ip, bool suidgid, bool may_block);
/* Takes EX if there is something to be done: 1; else 0; -errno, EPERM if the file is immutable or append-only. */
int gfs2_remove_privs(struct gfs2_inode *ip, bool suidgid);
/* The same under EX, no transaction. */
int gfs2_remove_privs_locked(struct gfs2_inode *ip, bool suidgid);

#endif
