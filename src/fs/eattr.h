/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extended attribute records inside one EA block (kernel: xattr.h, xattr.c:ea_foreach_i,
 * ea_set_simple, ea_split_ea; reference gfs2-ondisk.md 6.1-6.5).
 *
 * An EA block is a chain of records from behind its header to exactly its end; the last one is
 * marked.  A record is UNUSED or it has a name and a value: inline ("stuffed"), or as pointers to
 * ED blocks.  It may be longer than what it needs; the slack is room for another one.
 *
 * Everything here works on memory only; the caller has the inode's glock and, to change a block,
 * has added it to its transaction.
 *
 * Guarantee: a record is only returned when all of it, name, value and pointers included, lies
 * inside the block, whatever the bytes are; a walk ends after at most (bsize - 24) / 16 records.
 * What is wrong with a bad block is told as text (the rule that is broken).
 */
#ifndef GFS2FUSE_EATTR_H
#define GFS2FUSE_EATTR_H

#include <string.h>
#include "fs/super.h"
#include "util/util.h"

#define EA_FIRST sizeof(struct gfs2_meta_header) /* offset of the first record of a block */
#define EA_MAX_PTRS 255			/* ea_num_ptrs has eight bits */

struct ea_walk {
	char *block;
	uint32_t bsize, jbsize;
	unsigned max_type;		/* what the volume's format knows */
	uint32_t off;			/* of the next record; 0: the last one was returned */
	struct gfs2_ea_header *prev;	/* record before `cur`, NULL: `cur` is the first */
	struct gfs2_ea_header *cur;
	const char *rule;		/* set when the walk ended because the block is damaged */
};

void ea_walk_init(struct ea_walk *w, const struct gfs2_sbd *sdp, char *block);
/* The next record (UNUSED ones too); NULL at the end or, with w->rule set, at one that is bad. */
struct gfs2_ea_header *ea_next(struct ea_walk *w);

static inline uint32_t ea_rec_len(const struct gfs2_ea_header *ea)
{
	return be32_to_cpu(ea->ea_rec_len);
}
static inline uint32_t ea_data_len(const struct gfs2_ea_header *ea)
{
	return be32_to_cpu(ea->ea_data_len);
}
static inline bool ea_unused(const struct gfs2_ea_header *ea)
{
	return ea->ea_type == GFS2_EATYPE_UNUSED;
}
static inline bool ea_stuffed(const struct gfs2_ea_header *ea)
{
	return !ea->ea_num_ptrs;
}
static inline char *ea_name(struct gfs2_ea_header *ea)
{
	return (char *)(ea + 1);
}
/* A stuffed value; not aligned. */
static inline char *ea_value(struct gfs2_ea_header *ea)
{
	return ea_name(ea) + ea->ea_name_len;
}
static inline __be64 *ea_ptrs(struct gfs2_ea_header *ea)
{
	return (__be64 *)(ea_name(ea) + ALIGN_UP(ea->ea_name_len, 8u));
}
static inline bool ea_is(struct gfs2_ea_header *ea, unsigned type, const char *name, size_t namel)
{
	return ea->ea_type == type && ea->ea_name_len == namel && !memcmp(ea_name(ea), name, namel);
}

/* Bytes a record uses: of UNUSED ones nothing. */
uint32_t ea_used(const struct gfs2_ea_header *ea);
/*
 * Bytes that a record with a name of @namel and a value of @size bytes needs; *@ptrs: ED blocks (0:
 * stuffed).
 */
uint32_t ea_need(const struct gfs2_sbd *sdp, size_t namel, size_t size, unsigned *ptrs);

/* A fresh block: one UNUSED record. */
void ea_block_init(const struct gfs2_sbd *sdp, char *block);
/*
 * Split the slack off @ea, which is in use: returns the record that it becomes.
 */
struct gfs2_ea_header *ea_split(struct gfs2_ea_header *ea);
/*
 * Fill @ea, which is long enough, keeping its length: either @value (stuffed) or @nr_ptrs pointers.
 */
void ea_fill(struct gfs2_ea_header *ea, unsigned type, const char *name, size_t namel,
	     const void *value, size_t size, const uint64_t *ptrs, unsigned nr_ptrs);
/* @ea of @block goes: into the record before it, or it becomes UNUSED. */
void ea_erase(const struct gfs2_sbd *sdp, char *block, struct gfs2_ea_header *ea);

#endif
