/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The volume that the programs of this directory damage: made with everything that the format has, with a list of where what is, and
 * a tour through it that reads, lists and changes.  One at a time in a process: the paths and the random numbers are its own.
 */
#ifndef GFS2FUSE_TESTS_WORLD_H
#define GFS2FUSE_TESTS_WORLD_H

#include "fsops.h"

enum kind { K_DINODE, K_DIRENT, K_TREE, K_TABLE, K_LEAF, K_EATTR, K_EADATA, K_RGRP, K_BITMAP, K_RINDEX,
	    K_STATFS, K_SYSDIR, K_HEADER, K_DESCRIPTOR, K_REVOKES, K_IMAGE, K_NR };
extern const char *const kind_names[K_NR];

/* IMAGE (clean), IMAGE.dirty (with a journal to replay), and what is damaged and mounted. */
extern char path_base[512], path_dirty[520], path_work[540];
void world_paths(const char *base, const char *work_suffix);

/* What the tour is random about. */
extern uint64_t rng;

/* Fill a volume that mkfs.gfs2 made; ends the process if that fails. */
void world_make(void);

/* --- images in memory --- */
struct image {
	char *base[2];		/* clean, dirty */
	char *work;		/* shared with the file that is mounted */
	uint64_t size;
	uint32_t bsize;
	uint64_t *blocks[2][K_NR];
	unsigned nr[2][K_NR];
};

void load_images(struct image *im);
void unload_images(struct image *im);
/* The work image is the clean (0) or the dirty one (1) again. */
void restore(struct image *im, int which);
/* Bytes of the block where what matters for its kind is. */
void interesting_range(enum kind k, uint32_t bs, uint32_t *from, uint32_t *to);
/* Checksums of a log header right again: what was changed is to be believed. */
void repair_header(char *block, uint32_t bs);

/*
 * Damage as bytes, for fuzzers: a byte that says which image (bit 0) and whether log headers are left with a wrong checksum (bit 1),
 * then records: kind, number of the block among those of its kind (2 bytes), offset in it (2 bytes), length, as many bytes.
 */
void world_apply(struct image *im, const uint8_t *data, size_t size);
/* Damage that changes nothing: what is there, for a fuzzer to start from.  The length; 0: there is no such block. */
size_t world_seed(const struct image *im, int which, enum kind k, unsigned nr, uint8_t *out, size_t space);

/* --- the tour --- */
struct tour {
	int mount_error;
	bool refused, withdrawn;	/* somebody got EIO; the volume was given up */
};
/* Mount the work image, walk, read, write, unmount. */
void world_tour(struct tour *t);

/* --- what was said --- */
#define MAX_RULES 256

struct rule {
	char text[200];
	unsigned count;
};
struct rules {
	struct rule rules[MAX_RULES];
	unsigned nr;
};
/* Count a message by what it says without its numbers.  True: it names a block, an inode or a journal.  Not for several threads. */
bool rule_count(struct rules *r, const char *text);

#endif
