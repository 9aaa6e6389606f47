/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What mount.c and journals.c share; nobody else includes it.
 */
#ifndef GFS2FUSE_MOUNT_I_H
#define GFS2FUSE_MOUNT_I_H

#include "fs/super.h"

/* References to all glocks of the table at this moment. */
struct gl_list {
	struct gfs2_glock **gls;
	unsigned nr, space;
};
void gl_list_fill(struct gfs2_sbd *sdp, struct gl_list *l);
void gl_list_free(struct gl_list *l);

/* Queue a holder, with a message on error. */
int lock_number(struct gfs2_sbd *sdp, uint64_t number, const struct gfs2_glock_operations *ops,
		enum lm_state state, unsigned flags, struct gfs2_holder *gh);
bool device_readonly(struct io_engine *e);
/* Look up @name in system directory @dip; a message has been given on error. */
int sys_lookup(struct gfs2_sbd *sdp, struct gfs2_inode *dip, const char *name,
	       struct gfs2_inode **out);
/*
 * Find the system files, no two of which may have one dinode (-EIO, with a message); map all journals, take our own one (sd_journal_gh,
 * sd_jinode_gh).
 */
int open_journals(struct gfs2_sbd *sdp);
/* Take statfs_change<jid> (sd_sc_inode, sd_sc_gh). */
int open_statfs(struct gfs2_sbd *sdp);
/* Replay what is to be replayed, then forget everything read so far.  *@head: our own journal's. */
int recover_journals(struct gfs2_sbd *sdp, struct gfs2_log_header_host *head);
/* Replay journal @jid, whatever state it is in; nobody uses it. */
int recover_one(struct gfs2_sbd *sdp, const struct gfs2_jdesc *jd, struct gfs2_log_header_host *head);
/* While mounted: replay the journal of a node that has died, on a thread of the lock module. LM_RD_*. */
int gfs2_recover_jid(void *sdp, unsigned jid);
bool gfs2_journal_comes_first(void *sdp, unsigned jid);
unsigned gfs2_nr_journals(void *sdp);

#endif
