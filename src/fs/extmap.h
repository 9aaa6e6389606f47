/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-memory extent map of one inode: what is known of file offset -> device block, as a
 * sorted array of runs (mapped or hole). Units: file system blocks.  Guarded by its own mutex;
 * valid while the inode's glock is held by this node (go_inval empties it). Pure data structure:
 * knows nothing of disks.  Neighbouring runs that continue each other are merged.
 */
#ifndef GFS2FUSE_EXTMAP_H
#define GFS2FUSE_EXTMAP_H

#include <stdbool.h>
#include <stdint.h>
#include "util/mutex.h"

struct extent {
	uint64_t lblock;	/* first file block */
	uint64_t len;		/* blocks */
	uint64_t pblock;	/* device block of lblock; 0: hole */
};

struct extmap {
	struct rmutex lock;
	struct extent *ext;
	unsigned nr, space;
	unsigned max;		/* more extents than this: the map is emptied and starts again (bounded memory) */
};

void extmap_init(struct extmap *m);
void extmap_destroy(struct extmap *m);
/* What is known at @lblock, cut to start there: true and *@out, else false. */
bool extmap_lookup(struct extmap *m, uint64_t lblock, struct extent *out);
/* The same, but false instead of waiting for the mutex (receive threads). */
bool extmap_lookup_try(struct extmap *m, uint64_t lblock, struct extent *out);
/* So many runs more that @nr further ones would empty it: better not to remember short ones. */
bool extmap_crowded(struct extmap *m, unsigned nr);
/* Insert knowledge; overrides what overlaps. */
void extmap_insert(struct extmap *m, const struct extent *e);
/* Forget [lblock, lblock+len); len UINT64_MAX: to the end. */
void extmap_forget(struct extmap *m, uint64_t lblock, uint64_t len);
void extmap_clear(struct extmap *m);
/* Iterate for the debugger: copies up to @max runs from @lblock. */
unsigned extmap_copy(struct extmap *m, uint64_t lblock, struct extent *out, unsigned max);

#endif
