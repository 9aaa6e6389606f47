/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bugs on purpose; compiled into test programs only.  The name is set once, before threads are started. */
#include "util/seeded.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static const char *chosen;
/* Statistics: relaxed. */
static atomic_ulong reached;

void gfs2_seeded_select(const char *name)
{
	chosen = name;
	atomic_store_explicit(&reached, 0, memory_order_relaxed);
}

bool gfs2_seeded_bug(const char *name)
{
	if (!chosen || strcmp(name, chosen))
		return false;
	atomic_fetch_add_explicit(&reached, 1, memory_order_relaxed);
	return true;
}

unsigned long gfs2_seeded_reached(void)
{
	return atomic_load_explicit(&reached, memory_order_relaxed);
}
