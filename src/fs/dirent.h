/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Directory entries inside one block, and what dir.c, dir_hash.c and dir_read.c share.
 *
 * A *dirent area* is the part [start, end) of a block that entries fill: after the dinode in a
 * linear directory, after the leaf header in a leaf.  Everything here works on memory only; the
 * caller has the block's glock and, to change it, has added the block to its transaction.
 *
 * Guarantee: a record is only returned when it lies inside the area, whatever the bytes are, and a
 * walk ends after at most (end - start) / 40 records.  What is wrong with a bad area is told as
 * text (the rule that is broken), never acted upon.
 */
#ifndef GFS2FUSE_DIRENT_H
#define GFS2FUSE_DIRENT_H

#include "fs/dir.h"

/* Bytes that an entry with a name of @len bytes needs (reference 5.1). */
static inline uint32_t dirent_size(uint32_t len)
{
	return (sizeof(struct gfs2_dirent) + len + 7) & ~7u;
}

struct dirent_area {
	char *block;
	uint32_t start, end;
};

struct dirent_walk {
	struct dirent_area area;
	uint32_t off;			/* of the next record */
	struct gfs2_dirent *prev;	/* record before the one last returned, NULL: it is the first */
	struct gfs2_dirent *cur;
	const char *rule;		/* set when the walk ended because the area is damaged */
};

void dirent_walk_init(struct dirent_walk *w, const struct dirent_area *area);
/*
 * The next record (sentinels too), NULL at the end or, with w->rule set, at a record that breaks
 * the rules of reference 5.1.
 */
struct gfs2_dirent *dirent_next(struct dirent_walk *w);

static inline bool dirent_is_sentinel(const struct gfs2_dirent *d)
{
	return !d->de_inum.no_addr || !d->de_inum.no_formal_ino;
}
static inline char *dirent_name(const struct gfs2_dirent *d)
{
	return (char *)(d + 1);
}
static inline uint32_t dirent_rec_len(const struct gfs2_dirent *d)
{
	return be16_to_cpu(d->de_rec_len);
}
static inline uint32_t dirent_name_len(const struct gfs2_dirent *d)
{
	return be16_to_cpu(d->de_name_len);
}
static inline uint32_t dirent_hash(const struct gfs2_dirent *d)
{
	return be32_to_cpu(d->de_hash);
}

/*
 * The live entry @q, with w->prev valid for dirent_remove(); NULL: not there, or damaged (w->rule).
 */
struct gfs2_dirent *dirent_find(struct dirent_walk *w, const struct dirent_area *area,
				const struct gfs2_qname *q);

/*
 * Bytes of the area that live entries need, *@live their number.  Damaged: w->rule in @rule, result
 * meaningless.
 */
uint32_t dirent_used(const struct dirent_area *area, unsigned *live, const char **rule);

/*
 * Make a record for @q and return it (hash, lengths and name filled in, all else zero); NULL if it
 * does not fit or, with @rule set, the area is damaged.  Free space that is scattered is brought
 * together first, so it fits exactly if dirent_used() + dirent_size() <= end - start.
 */
struct gfs2_dirent *dirent_insert(const struct dirent_area *area, const struct gfs2_qname *q,
				  const char **rule);
/*
 * Remove w->cur, as found by dirent_find(): the record before it takes its space, the first one
 * becomes a sentinel.
 */
void dirent_remove(struct dirent_walk *w);

/* One sentinel that fills the area. */
void dirent_init_empty(const struct dirent_area *area);
/*
 * Append to the empty area @to the live entries of @from with lo <= hash < hi (hi is 64 bit so that
 * it can be 2^32), without gaps.  The areas are in different blocks, and @to is large enough.
 * Returns how many; @rule as above.
 */
unsigned dirent_copy(const struct dirent_area *from, const struct dirent_area *to, uint64_t lo,
		     uint64_t hi, const char **rule);

/* --- shared by the dir_*.c files --- */
static inline bool dir_is_exhash(const struct gfs2_inode *dip)
{
	return dip->i_diskflags & GFS2_DIF_EXHASH;
}
static inline struct dirent_area dir_linear_area(const struct gfs2_inode *dip,
						 const struct gfs2_bh *bh)
{
	return (struct dirent_area){ bh->b_data, sizeof(struct gfs2_dinode),
				     dip->i_sbd->sd_bsize };
}
static inline struct dirent_area dir_leaf_area(const struct gfs2_inode *dip,
					       const struct gfs2_bh *bh)
{
	return (struct dirent_area){ bh->b_data, sizeof(struct gfs2_leaf), dip->i_sbd->sd_bsize };
}
static inline struct gfs2_leaf *dir_leaf(const struct gfs2_bh *bh)
{
	return (struct gfs2_leaf *)bh->b_data;
}

/*
 * The hash table (dir_hash.c): 1 << i_depth leaf addresses, big-endian, in memory until dropped by
 * gfs2_dir_hash_inval(). Stays valid as long as the caller's holder.  -EIO when i_size or a block
 * of it is wrong.
 */
int dir_hash_get(struct gfs2_inode *dip, const __be64 **table);
static inline uint32_t dir_hash_index(const struct gfs2_inode *dip, uint32_t hash)
{
	return dip->i_depth ? hash >> (32 - dip->i_depth) : 0;
}

/*
 * The leaves of one hash range, head first.  chain_next(): 1 and c->bh (owned by the walk until the
 * next step), 0 at the end, -EIO (chain in a loop, not a leaf).  chain_end() in every case.
 */
struct dir_chain {
	struct gfs2_inode *dip;
	struct gfs2_bh *bh;
	uint64_t next;		/* block of the next leaf, 0: none */
	uint64_t check;		/* Brent's cycle detection */
	unsigned steps, limit;
};
int dir_chain_begin(struct dir_chain *c, struct gfs2_inode *dip, uint32_t hash);
void dir_chain_begin_at(struct dir_chain *c, struct gfs2_inode *dip, uint64_t leaf);
int dir_chain_next(struct dir_chain *c);
void dir_chain_end(struct dir_chain *c);

/*
 * Depth of the head leaf @bh, checked against the directory: *@len slots point at it, the first is
 * *@first.
 */
int dir_leaf_range(struct gfs2_inode *dip, const struct gfs2_bh *bh, uint32_t index,
		   uint32_t *first, uint32_t *len);

/*
 * Blocks that a hash table of depth @depth has as file data, 0 when it fits into the dinode; with
 * @indirect also those above them.
 */
unsigned dir_table_blocks(const struct gfs2_sbd *sdp, unsigned depth, bool indirect);

/*
 * In a transaction: make room for a name that hashes to @hash: convert, split, double or chain
 * once.
 */
int dir_grow(struct gfs2_inode *dip, uint32_t hash, struct gfs2_alloc *ap);

#endif
