/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a killed daemon has left in the DLM: its node is still in the lock space, its locks are orphans of this node
 * (reference gfs2-locking-dio.md 2.6, 2.7).  They keep everybody away from what it may have changed until somebody who knows
 * that its journal has been replayed drops them: that is the caller.
 *
 * Which journals were its own the DLM itself knows: their locks are orphans in EX.  They are taken over for the
 * time of the replay, persistent again, so that if this process dies, too, the next one finds things as they were.
 */
#include "lock/dlm_i.h"
#include "lock/dlm_dead.h"

#include <libdlm.h>

#include "util/util.h"

/* For a lock that living nodes hold for moments. */
#define PATIENCE_NS (20ull * 1000000000)

struct dlm_dead {
	char name[65];
	dlm_lshandle_t ls;
};

int dlm_dead_open(const char *table, struct dlm_dead **out)
{
	const char *name = strchr(table, ':');
	struct dlm_dead *d;

	*out = NULL;
	if (!name || strlen(++name) >= sizeof(d->name))
		return 0; /* the mount will say it */
	switch (dlm_lockspace_exists(name)) {
	case 0:
		return 0;
	case 2:
		fs_err("the kernel's gfs2 has '%s' mounted on this node", table);
		return -EBUSY;
	}
	d = xzalloc(sizeof(*d));
	strcpy(d->name, name);
	d->ls = dlm_open_lockspace(name);
	if (!d->ls) {
		int error = errno ? -errno : -EIO;

		fs_err("cannot open the lock space of a daemon that was killed: %s", strerror(-error));
		free(d);
		return error;
	}
	*out = d;
	return 0;
}

bool dlm_dead_owns_journal(struct dlm_dead *d, unsigned jid)
{
	char name[DLM_NAME_LEN + 1];
	struct dlm_lksb lksb = { 0 };

	dlm_resource_name(name, LM_TYPE_JOURNAL, jid);
	return !dlm_ls_lock(d->ls, DLMM_EX, &lksb, LKF_ORPHAN | LKF_PERSISTENT, name, DLM_NAME_LEN, 0,
			    dlm_ast_address, NULL, dlm_bast_address, NULL);
}

/* 0 and the lock's id, if the dead daemon has it in that mode. */
static int adopt(struct dlm_dead *d, const char *name, int mode, struct dlm_lksb *lksb)
{
	return dlm_ls_lock(d->ls, (uint32_t)mode, lksb, LKF_ORPHAN | LKF_PERSISTENT, name, DLM_NAME_LEN, 0,
			   dlm_ast_address, d, dlm_bast_address, NULL);
}

int dlm_dead_lock_inode(struct dlm_dead *d, uint64_t number)
{
	struct dlm_lksb lksb = { 0 };
	uint32_t flags = LKF_PERSISTENT;
	char name[DLM_NAME_LEN + 1];

	dlm_resource_name(name, LM_TYPE_INODE, number);
	if (!adopt(d, name, DLMM_EX, &lksb))
		return 0;
	if (!adopt(d, name, DLMM_PR, &lksb))
		flags |= LKF_CONVERT;
	if (dlm_ls_lock(d->ls, DLMM_EX, &lksb, flags, name, DLM_NAME_LEN, 0, dlm_ast_address, d, dlm_bast_address,
			NULL))
		return -errno;
	return dlm_await_answer(dlm_ls_get_fd(d->ls), d, PATIENCE_NS);
}

int dlm_dead_leave(struct dlm_dead *d, bool replayed)
{
	int error = 0;

	/* Who waits for one of the locks need not wait for the change of members. */
	if (replayed && dlm_ls_purge(d->ls, 0, 0))
		fs_warn("cannot drop the locks of a daemon that was killed: %s", strerror(errno));
	/* Not replayed: the others do it, since this looks to them as if the node had died. */
	if (dlm_release_lockspace(d->name, d->ls, 1)) {
		error = -errno;
		fs_err("cannot leave lock space '%s' for a daemon that was killed: %s", d->name,
		       strerror(-error));
	}
	free(d);
	return error;
}
