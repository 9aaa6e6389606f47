/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the memory that the daemon may use (option cache=, `glockctl set cache`) is used for.
 *
 * cache= is meant for the whole process, not for one of its parts.  Of it
 *  - a base is what is there anyway: code, threads, receive buffers, the event ring, images on their way into the log (an eighth
 *    of cache= at most);
 *  - inodes in core (with their two locks) may have three sixteenths.  The kernel decides how many inodes it wants to know, and
 *    may know millions: those that nobody uses are reduced to a few bytes each (icache_trim.c);
 *  - locks without an inode in core, kept for the metadata that they cover, may have a sixteenth;
 *  - what is read ahead of sequential readers (ahead.h): a 32nd at most, while there are any;
 *  - block buffers get the rest, at least an eighth: the fewer inodes there are, the more.  What the log keeps in memory is among
 *    them; it gets so much (gfs2_log_set_memory()) that it and dirty data fit, however slow the device is.
 * What malloc keeps between the objects that are left when many have gone can be as much as these.  So what the process has apart from buffers is
 * measured, too; the larger counts.  If it is much more than was reckoned with, malloc is told to give back whole pages.
 *
 * Nothing fails because of the limits: what is in use stays beyond them, and the base of a very small cache is larger
 * than all of it.
 *
 * Runs on the maintenance thread and on that of `set cache`; every value is a relaxed atomic of its own, and a
 * division that is based on an old count is corrected by the next.
 */
#include "fs/ahead.h"
#include "fs/inode.h"
#include "util/util.h"

#include <stdio.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define BASE_BYTES (48u << 20)
#define MALLOC_BYTES 16		/* what an allocation costs beside its size */
#define EXTENT_BYTES 256	/* of the map of a usual file */
#define INODE_BYTES                                                                                \
	(sizeof(struct gfs2_inode) + 2 * sizeof(struct gfs2_glock) + EXTENT_BYTES + 4 * MALLOC_BYTES)
#define GLOCK_BYTES (sizeof(struct gfs2_glock) + MALLOC_BYTES)
#define REMNANT_BYTES 48
#define SHRINK_BATCH 4096
#define HOLES_BYTES (8u << 20)	/* so much more than reckoned with is worth a malloc_trim(), */
#define TRIM_NS 5000000000ull	/* which walks over all that is free: not more often than that */

static void count_glock(struct gfs2_glock *gl, void *arg)
{
	unsigned *nr = arg;

	rmutex_lock(&gl->gl_lock);
	nr[!gl->gl_object]++;
	rmutex_unlock(&gl->gl_lock);
}

/* Locks without an object; how many there are afterwards. */
static unsigned shrink_glocks(struct gfs2_sbd *sdp, unsigned limit)
{
	unsigned nr[2] = { 0 };

	gfs2_glock_table_for_each(sdp->sd_glocks, count_glock, nr);
	while (nr[1] > limit) {
		unsigned n = gfs2_glock_shrink(sdp->sd_glocks,
					       min_t(unsigned, nr[1] - limit, SHRINK_BATCH));

		if (!n)
			break;
		nr[1] -= min_t(unsigned, n, nr[1]);
	}
	return nr[1];
}

/* Of block contents, with what it takes to manage them. */
static uint64_t buffer_bytes(const struct gfs2_sbd *sdp, uint64_t bytes)
{
	return bytes / (sdp->sd_bsize + sizeof(struct gfs2_bh)) * sdp->sd_bsize;
}

/*
 * Anonymous memory of the process without the contents of buffers; 0: not known.  Free buffers are no reason to make the cache smaller, as the
 * next ones take their place.
 */
static uint64_t measured(struct gfs2_sbd *sdp)
{
	unsigned long long size, resident = 0, shared = 0;
	FILE *file = fopen("/proc/self/statm", "re");
	uint64_t anon, buffers;

	if (!file)
		return 0;
	if (fscanf(file, "%llu %llu %llu", &size, &resident, &shared) != 3 || resident < shared)
		resident = shared = 0;
	fclose(file);
	anon = (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
	buffers = buf_cache_resident(sdp->sd_bufs);
	return anon > buffers ? anon - buffers : 0;
}

/* More than @used is in use apart from buffers: returns how much is, after what can be given back has been. */
static uint64_t give_back(struct gfs2_sbd *sdp, uint64_t used)
{
	uint64_t now = measured(sdp);

#ifdef __GLIBC__
	static atomic_uint_least64_t trimmed_ns;	/* relaxed: twice does no harm */
	uint64_t t = now_ns();

	if (now > used + HOLES_BYTES && t - atomic_load_explicit(&trimmed_ns, memory_order_relaxed) > TRIM_NS) {
		atomic_store_explicit(&trimmed_ns, t, memory_order_relaxed);
		malloc_trim(0);
		now = measured(sdp);
	}
#endif
	return max_t(uint64_t, now, used);
}

void gfs2_budget_balance(struct gfs2_sbd *sdp)
{
	/* A little is left for what allocations leave between them. */
	uint64_t cache = atomic_load_explicit(&sdp->sd_cache, memory_order_relaxed) / 16 * 15;
	uint64_t base = min_t(uint64_t, BASE_BYTES, cache / 16 * 9);
	unsigned max_inodes = (unsigned)min_t(uint64_t, cache * 3 / 16 / INODE_BYTES, UINT32_MAX / 2);
	unsigned max_glocks = (unsigned)min_t(uint64_t, cache / 16 / GLOCK_BYTES, UINT32_MAX / 2);
	unsigned inodes, remnants, glocks;
	uint64_t used, rest;

	gfs2_ahead_trim(sdp, false);
	/* Well below the limit, and the limit above what could not go, so that the next call is not at once. */
	gfs2_icache_trim(sdp, max_inodes - max_inodes / 4);
	gfs2_icache_count(sdp, &inodes, &remnants);
	gfs2_icache_set_many(sdp, max_t(unsigned, max_inodes, inodes + inodes / 4));
	glocks = shrink_glocks(sdp, max_glocks);
	used = (uint64_t)max_t(unsigned, inodes, max_inodes / 8) * INODE_BYTES +
	       (uint64_t)glocks * GLOCK_BYTES + (uint64_t)remnants * REMNANT_BYTES + gfs2_ahead_bytes(sdp);
	used = give_back(sdp, base + used);
	rest = cache > used ? cache - used : 0;
	rest = max_t(uint64_t, rest, cache / 8);
	/* Dirty data may be half of the buffers: both together fit, also when the device is slow and nothing can go. */
	if (sdp->sd_log)
		gfs2_log_set_memory(sdp->sd_log, min_t(uint64_t, cache / 4, rest / 2));
	buf_cache_set_limit(sdp->sd_bufs, buffer_bytes(sdp, rest));
}

void gfs2_budget_relieve(struct gfs2_sbd *sdp)
{
	/* All that nobody uses goes; what is dirty is for the cache's own thread, and comes with the next attempt. */
	gfs2_ahead_trim(sdp, true);
	gfs2_icache_trim(sdp, 0);
	shrink_glocks(sdp, 0);
	buf_cache_set_limit(sdp->sd_bufs, 0);
#ifdef __GLIBC__
	malloc_trim(0);
#endif
	gfs2_budget_balance(sdp);
}

void gfs2_budget_set(struct gfs2_sbd *sdp, uint64_t cache)
{
	atomic_store_explicit(&sdp->sd_cache, cache, memory_order_relaxed);
	gfs2_budget_balance(sdp);
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}
