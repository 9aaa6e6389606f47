/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered writes whose data are on the device before the lock is given up: what is left of direct writes and not for
 * gfs2_file_fill() (file_fill.c), because it is no whole blocks, the file is in its inode, or there is a gap before it.
 *
 * Here the transaction comes first and the data follow, as with all buffered writes.  So if the device fails, the new blocks hold
 * what they held before they were the file's.  They are taken away again before anybody else gets the lock.
 *
 * Guarantees
 *  1. After an error what was a hole is one, the file is as long as it was, and one that was in its inode is so again, with its
 *     contents.  What was mapped may hold the new data.
 *  2. Nobody sees what a block held before.  (Unless the node dies, too: when a commit has come between the write and its being taken
 *     back, and no other one since.)
 *
 * Needs from callers: EX on the inode, no transaction.
 */
#include "fs/file.h"
#include "util/util.h"

/* The file before. */
struct before {
	uint64_t size;
	bool stuffed;
	char *payload;		/* of a stuffed one */
	struct gfs2_hole *holes; /* in the blocks that are to be written */
	unsigned nr, cap;
};

static int remember_payload(struct gfs2_inode *ip, struct before *b)
{
	struct gfs2_bh *bh;
	int error = gfs2_meta_inode_buffer(ip, &bh);

	if (error)
		return error;
	b->payload = xmalloc(b->size + 1);
	memcpy(b->payload, bh->b_data + sizeof(struct gfs2_dinode), b->size);
	buf_put(bh);
	return 0;
}

static int remember_holes(struct gfs2_inode *ip, const struct gfs2_fill *f, struct before *b)
{
	unsigned shift = ip->i_sbd->sd_bsize_shift;
	uint64_t lblock = f->pos >> shift, end = ((f->pos + f->len - 1) >> shift) + 1;

	while (lblock < end) {
		struct extent e;
		int error = gfs2_map_extent(ip, lblock, end - lblock, &e);

		if (error)
			return error;
		if (!e.pblock) {
			if (b->nr == b->cap) {
				b->cap = b->cap ? 2 * b->cap : 16;
				b->holes = xrealloc(b->holes, b->cap * sizeof(*b->holes));
			}
			b->holes[b->nr++] = (struct gfs2_hole){ lblock, e.len };
		}
		lblock += e.len;
	}
	return 0;
}

static int remember(struct gfs2_inode *ip, const struct gfs2_fill *fills, unsigned nr, struct before *b)
{
	int error = 0;

	*b = (struct before){ .size = ip->i_size, .stuffed = gfs2_is_stuffed(ip) };
	if (b->stuffed)
		return remember_payload(ip, b);
	for (unsigned i = 0; i < nr && !error; i++)
		error = remember_holes(ip, &fills[i], b);
	return error;
}

static void forget(struct before *b)
{
	free(b->payload);
	free(b->holes);
}

/* Back into the inode. */
static int stuff_again(struct gfs2_inode *ip, const struct before *b)
{
	int error;

	if (gfs2_is_stuffed(ip))
		return 0;
	/* If the size has not moved, there may be blocks behind it. */
	error = ip->i_size ? gfs2_truncate(ip, 0) : gfs2_truncate_resume(ip);
	return error ? error : gfs2_file_write_all(ip, b->payload, 0, (uint32_t)b->size);
}

static int undo(struct gfs2_inode *ip, const struct before *b)
{
	int error;

	/* What the buffers hold is newer than the device. */
	gfs2_file_flush_inval(ip);
	if (b->stuffed)
		return stuff_again(ip, b);
	error = ip->i_size > b->size ? gfs2_truncate(ip, b->size) : 0;
	for (unsigned i = 0; i < b->nr && !error; i++)
		error = gfs2_punch_blocks(ip, b->holes[i].lblock, b->holes[i].lblock + b->holes[i].len);
	return error;
}

int gfs2_file_write_through(struct gfs2_inode *ip, const struct gfs2_fill *fills, unsigned nr)
{
	struct before b;
	uint64_t errors;
	int error, error2;

	gfs2_assert_held(ip->i_gl, true);
	errors = mapping_errors(&ip->i_data);
	error = remember(ip, fills, nr, &b);
	for (unsigned i = 0; i < nr && !error; i++)
		error = gfs2_file_write_all(ip, fills[i].buf, fills[i].pos, fills[i].len);
	error2 = gfs2_file_data_sync(ip);
	if (!error2)
		error2 = mapping_failed_since(&ip->i_data, errors);
	if ((error || error2) && !gfs2_withdrawn(ip->i_sbd) && undo(ip, &b))
		fs_err("inode %llu: what a failed write has allocated cannot be taken back",
		       (unsigned long long)ip->i_no_addr);
	forget(&b);
	return error ? error : error2;
}
