/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Histograms of durations: a bucket per power of two of nanoseconds, from under 1 ns to minutes.
 *
 * Any thread adds, with one relaxed atomic: for statistics only, which nothing else is concluded from.  A reader sees
 * each bucket at some moment, not all at the same.
 */
#ifndef GFS2FUSE_HIST_H
#define GFS2FUSE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define HIST_BUCKETS 40

/* n[b]: how many were less than 1 << b ns and not less than half of that; the last one has all that are longer. */
struct hist {
	atomic_uint_least64_t n[HIST_BUCKETS];
};

static inline unsigned hist_bucket(uint64_t ns)
{
	unsigned b = ns ? 64 - (unsigned)__builtin_clzll(ns) : 0;

	return b < HIST_BUCKETS ? b : HIST_BUCKETS - 1;
}

static inline void hist_add(struct hist *h, uint64_t ns)
{
	atomic_fetch_add_explicit(&h->n[hist_bucket(ns)], 1, memory_order_relaxed);
}

static inline uint64_t hist_get(struct hist *h, unsigned bucket)
{
	return atomic_load_explicit(&h->n[bucket], memory_order_relaxed);
}

#endif
