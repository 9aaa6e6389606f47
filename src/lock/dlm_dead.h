/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_dlm: cleaning up after a daemon of this node that was killed.  The caller has made sure that it is dead and its I/O is over (it
 * holds the volume's lock file exclusively).  One process at a time.
 */
#ifndef GFS2FUSE_LOCK_DLM_DEAD_H
#define GFS2FUSE_LOCK_DLM_DEAD_H

#include <stdbool.h>
#include <stdint.h>

struct dlm_dead;

/* *@out NULL and 0: nothing was left behind.  -EBUSY: the lock space is the kernel's. */
int dlm_dead_open(const char *table, struct dlm_dead **out);
/* Did it own the journal?  True once for each. */
bool dlm_dead_owns_journal(struct dlm_dead *d, unsigned jid);
/*
 * Take the lock of an inode that living nodes change, too (the master statfs file), in EX; the dead daemon may have it.  -ETIMEDOUT: a
 * living node does not give it.
 */
int dlm_dead_lock_inode(struct dlm_dead *d, uint64_t number);
/* Leave the lock space, with all its locks, and free.  @replayed false: the other nodes will replay the journals. */
int dlm_dead_leave(struct dlm_dead *d, bool replayed);

#endif
