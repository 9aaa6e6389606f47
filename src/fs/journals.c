/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mounting: the system files that lead to the journals, the journals, and their recovery
 * (kernel: ops_fstype.c:init_journal, gfs2_jindex_hold, init_statfs; reference gfs2-ondisk.md 2,
 * 8.10).
 *
 * Replay writes to the device behind the back of the buffer cache.  What was read before it (the
 * directories that lead to the journals, and the journals' maps) is dropped after it.
 */
#include <inttypes.h>
#include <fcntl.h>
#include <stdio.h>
#include "fs/bmap.h"
#include "fs/dir.h"
#include "fs/mount_i.h"
#include "util/util.h"

#define JOURNAL_MIN_BYTES (8ull << 20)
#define JOURNAL_MAX_BYTES (1ull << 30)

/* --- system files --- */

static int sys_search(struct gfs2_sbd *sdp, struct gfs2_inode *dip, const char *name,
		      struct gfs2_inum_host *inum)
{
	struct gfs2_qname q = gfs2_qname(name);
	struct gfs2_holder gh;
	int err = gfs2_glock_nq_init(dip->i_gl, LM_ST_SHARED, LM_FLAG_ANY, &gh);

	if (err)
		return err;
	err = gfs2_is_dir(dip) ? gfs2_dir_search(dip, &q, inum, NULL) : -ENOTDIR;
	gfs2_glock_dq_uninit(&gh);
	return err;
}

int sys_lookup(struct gfs2_sbd *sdp, struct gfs2_inode *dip, const char *name,
	       struct gfs2_inode **out)
{
	struct gfs2_inum_host inum;
	int err = sys_search(sdp, dip, name, &inum);

	if (!err)
		err = gfs2_inode_lookup(sdp, inum.no_addr, inum.no_formal_ino, out);
	if (err)
		fs_err("cannot find the system file '%s' in directory block %" PRIu64 ": %s", name,
		       dip->i_no_addr, strerror(-err));
	return err;
}

/* Numbers of all journals, and of the per-node files that belong to each. */
static int find_journals(struct gfs2_sbd *sdp, struct gfs2_inode *jindex)
{
	for (unsigned j = 0;; j++) {
		struct gfs2_inum_host inum;
		struct gfs2_jdesc *more;
		char name[32];
		int err;

		snprintf(name, sizeof(name), "journal%u", j);
		err = sys_search(sdp, jindex, name, &inum);
		if (err == -ENOENT && j)
			return 0;
		if (err) {
			fs_err("cannot find '%s' in the journal index, block %" PRIu64 ": %s", name,
			       jindex->i_no_addr, strerror(-err));
			return err;
		}
		more = realloc(sdp->sd_jdescs, (j + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		sdp->sd_jdescs = more;
		more[j] = (struct gfs2_jdesc){ .jd_jid = j, .jd_no_addr = inum.no_addr };
		sdp->sd_nr_journals = j + 1;
	}
}

static int find_per_node(struct gfs2_sbd *sdp, struct gfs2_inode *per_node)
{
	struct gfs2_inum_host inum;
	char name[32];
	int err = 0;

	for (unsigned j = 0; j < sdp->sd_nr_journals && !err; j++) {
		struct gfs2_jdesc *jd = &sdp->sd_jdescs[j];

		snprintf(name, sizeof(name), "quota_change%u", j);
		err = sys_search(sdp, per_node, name, &inum);
		jd->jd_quota_addr = inum.no_addr;
		if (err)
			break;
		snprintf(name, sizeof(name), "statfs_change%u", j);
		err = sys_search(sdp, per_node, name, &inum);
		jd->jd_statfs_addr = inum.no_addr;
	}
	if (err)
		fs_err("cannot find the system file '%s' in directory block %" PRIu64 ": %s", name,
		       per_node->i_no_addr, strerror(-err));
	return err;
}

/* Under a holder on the journal's inode. */
static int map_journal(struct gfs2_sbd *sdp, struct gfs2_inode *ip, struct gfs2_jdesc *jd)
{
	uint64_t blocks = 0;
	int err;

	if (ip->i_size < JOURNAL_MIN_BYTES || ip->i_size > JOURNAL_MAX_BYTES ||
	    ip->i_size & (sdp->sd_bsize - 1)) {
		fs_err("journal %u has the impossible size %" PRIu64, jd->jd_jid, ip->i_size);
		return -EIO;
	}
	err = gfs2_map_journal_extents(ip, jd);
	if (err) {
		fs_err("cannot map journal %u: %s", jd->jd_jid, strerror(-err));
		return err;
	}
	jd->jd_blocks = (uint32_t)(ip->i_size >> sdp->sd_bsize_shift);
	for (unsigned i = 0; i < jd->jd_nr_extents; i++) {
		const struct gfs2_journal_extent *ex = &jd->jd_extents[i];

		if (ex->lblock != blocks || sb_is_system_range(sdp, ex->dblock) ||
		    ex->dblock + ex->blocks > sdp->sd_device_blocks)
			break;
		blocks += ex->blocks;
	}
	if (blocks == jd->jd_blocks)
		return 0;
	fs_err("journal %u has holes or lies outside the device", jd->jd_jid);
	return -EIO;
}

/* --- no block is two files --- */

/* A system file's dinode. */
struct sys_file {
	uint64_t addr;
	const char *name;
	int jid;	/* the number that follows the name; -1: none */
};

static int cmp_sys_files(const void *pa, const void *pb)
{
	const struct sys_file *a = pa, *b = pb;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static const char *sys_file_name(const struct sys_file *f, char *buf, size_t size)
{
	if (f->jid < 0)
		snprintf(buf, size, "%s", f->name);
	else
		snprintf(buf, size, "%s%d", f->name, f->jid);
	return buf;
}

static int check_distinct(struct sys_file *files, unsigned nr)
{
	char one[40], other[40];

	qsort(files, nr, sizeof(*files), cmp_sys_files);
	for (unsigned i = 1; i < nr; i++) {
		if (files[i - 1].addr != files[i].addr)
			continue;
		fs_err("damaged system directories: block %" PRIu64 " is '%s' and '%s', but each has a dinode of its own", files[i].addr,
		       sys_file_name(&files[i - 1], one, sizeof(one)), sys_file_name(&files[i], other, sizeof(other)));
		return -EIO;
	}
	return 0;
}

/* The files in the master directory itself; *@nr of them.  inum has not been used for a long time, quota is not used here. */
static int find_in_master(struct gfs2_sbd *sdp, struct sys_file *files, unsigned *nr)
{
	static const char *const names[] = { "statfs", "rindex", "inum", "quota" };

	*nr = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		struct gfs2_inum_host inum;
		int err = sys_search(sdp, sdp->sd_master, names[i], &inum);

		if (err == -ENOENT && i > 1)
			continue;
		if (err) {
			fs_err("cannot find the system file '%s' in directory block %" PRIu64 ": %s", names[i],
			       sdp->sd_master->i_no_addr, strerror(-err));
			return err;
		}
		files[(*nr)++] = (struct sys_file){ inum.no_addr, names[i], -1 };
	}
	sdp->sd_statfs_addr = files[0].addr;
	return 0;
}

/*
 * Before any of them is locked for as long as the volume is mounted: who meets one of these under a second name would wait for himself, or
 * write what belongs into the one into the other.
 */
static int check_system_files(struct gfs2_sbd *sdp, uint64_t jindex, uint64_t per_node)
{
	struct sys_file *files = xmalloc((8 + 3 * (size_t)sdp->sd_nr_journals) * sizeof(*files));
	unsigned nr;
	int err = find_in_master(sdp, files, &nr);

	if (!err) {
		files[nr++] = (struct sys_file){ sdp->sd_master_addr, "the master directory", -1 };
		files[nr++] = (struct sys_file){ sdp->sd_root_addr, "the root directory", -1 };
		files[nr++] = (struct sys_file){ jindex, "jindex", -1 };
		files[nr++] = (struct sys_file){ per_node, "per_node", -1 };
		for (unsigned j = 0; j < sdp->sd_nr_journals; j++) {
			const struct gfs2_jdesc *jd = &sdp->sd_jdescs[j];

			files[nr++] = (struct sys_file){ jd->jd_no_addr, "journal", (int)j };
			files[nr++] = (struct sys_file){ jd->jd_statfs_addr, "statfs_change", (int)j };
			files[nr++] = (struct sys_file){ jd->jd_quota_addr, "quota_change", (int)j };
		}
		err = check_distinct(files, nr);
	}
	free(files);
	return err;
}

/* --- journals --- */

static int open_journal(struct gfs2_sbd *sdp, struct gfs2_jdesc *jd)
{
	bool own = jd->jd_jid == sdp->sd_jid;
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	int err = gfs2_inode_lookup(sdp, jd->jd_no_addr, 0, &ip);

	if (err)
		return err;
	ip->i_own = true;
	if (own)
		err = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED,
					 LM_FLAG_NOEXP | GL_EXACT | GL_NOCACHE | GL_NOPID,
					 &sdp->sd_jinode_gh);
	else
		err = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, LM_FLAG_NOEXP | GL_NOCACHE, &gh);
	if (!err) {
		err = map_journal(sdp, ip, jd);
		if (!own)
			gfs2_glock_dq_uninit(&gh);
	}
	/* Also others' stay in core: to look one up takes locks that may not be had when it has to be replayed. */
	jd->jd_inode = ip;
	return err;
}

/* Where all journals and the files that go with them are. */
static int find_all(struct gfs2_sbd *sdp)
{
	struct gfs2_inode *jindex, *per_node;
	uint64_t jindex_addr, per_node_addr;
	int err = sys_lookup(sdp, sdp->sd_master, "jindex", &jindex);

	if (err)
		return err;
	jindex_addr = jindex->i_no_addr;
	err = find_journals(sdp, jindex);
	gfs2_inode_put(jindex);
	if (err)
		return err;
	if (sdp->sd_jid >= sdp->sd_nr_journals) {
		fs_err("there are only %u journals, number %u is needed: add some with gfs2_jadd",
		       sdp->sd_nr_journals, sdp->sd_jid);
		return -EUSERS;
	}
	err = sys_lookup(sdp, sdp->sd_master, "per_node", &per_node);
	if (err)
		return err;
	per_node_addr = per_node->i_no_addr;
	err = find_per_node(sdp, per_node);
	gfs2_inode_put(per_node);
	return err ? err : check_system_files(sdp, jindex_addr, per_node_addr);
}

int open_journals(struct gfs2_sbd *sdp)
{
	int err = find_all(sdp);

	if (!err)
		err = lock_number(sdp, sdp->sd_jid, &gfs2_journal_glops, LM_ST_EXCLUSIVE,
				  LM_FLAG_NOEXP | GL_NOCACHE | GL_NOPID, &sdp->sd_journal_gh);
	for (unsigned j = 0; j < sdp->sd_nr_journals && !err; j++)
		err = open_journal(sdp, &sdp->sd_jdescs[j]);
	return err;
}

/* statfs_change<jid> is ours as long as we are mounted. */
int open_statfs(struct gfs2_sbd *sdp)
{
	int err = gfs2_inode_lookup(sdp, sdp->sd_jdescs[sdp->sd_jid].jd_statfs_addr, 0,
				    &sdp->sd_sc_inode);

	if (err)
		return err;
	sdp->sd_sc_inode->i_own = true;
	return gfs2_glock_nq_init(sdp->sd_sc_inode->i_gl, LM_ST_EXCLUSIVE, GL_NOPID,
				  &sdp->sd_sc_gh);
}

/* --- recovery --- */

bool device_readonly(struct io_engine *e)
{
	return (fcntl(io_engine_fd(e), F_GETFL) & O_ACCMODE) == O_RDONLY;
}

int recover_one(struct gfs2_sbd *sdp, const struct gfs2_jdesc *jd, struct gfs2_log_header_host *head)
{
	struct gfs2_recovery_result res = { 0 };
	bool ro = device_readonly(sdp->sd_io);
	int err = gfs2_recover_journal(sdp->sd_io, sdp->sd_bsize, jd, sdp->sd_jid,
				       sdp->sd_statfs_addr, ro, &res);

	if (err == -EROFS) {
		fs_err("journal %u must be replayed before the volume can be used: mount it "
		       "read-write once", jd->jd_jid);
		return err;
	}
	if (err) {
		fs_err("recovery of journal %u failed: %s", jd->jd_jid, strerror(-err));
		return err;
	}
	sdp->sd_replayed |= res.dirty;
	if (jd->jd_jid == sdp->sd_jid)
		*head = res.head;
	return 0;
}

static void collect_glock(struct gfs2_glock *gl, void *arg)
{
	struct gl_list *l = arg;

	if (l->nr == l->space) {
		l->space = l->space ? l->space * 2 : 64;
		l->gls = xrealloc(l->gls, l->space * sizeof(*l->gls));
	}
	l->gls[l->nr++] = gfs2_glock_hold(gl);
}

void gl_list_fill(struct gfs2_sbd *sdp, struct gl_list *l)
{
	*l = (struct gl_list){ 0 };
	gfs2_glock_table_for_each(sdp->sd_glocks, collect_glock, l);
}

void gl_list_free(struct gl_list *l)
{
	for (unsigned i = 0; i < l->nr; i++)
		gfs2_glock_put(l->gls[i]);
	free(l->gls);
}

/*
 * Forget every block read so far, also under locks that stay held.  Nobody else uses the volume yet,
 * and nothing is dirty.
 */
static void drop_everything_cached(struct gfs2_sbd *sdp)
{
	struct gl_list l;

	gl_list_fill(sdp, &l);
	for (unsigned i = 0; i < l.nr; i++)
		if (l.gls[i]->gl_ops->go_inval)
			l.gls[i]->gl_ops->go_inval(l.gls[i], true);
	gl_list_free(&l);
}

/*
 * The master statfs file's lock was refused.  It may belong to somebody who cannot use it, nor let go of it, before we are done: to the dead
 * node, where those keep their locks; or to a request of our own whose grant is kept back, while all others queue behind it.
 */
static bool statfs_is_out_of_use(struct gfs2_sbd *sdp, unsigned jid, int error)
{
	const struct lm_lockops *lm = sdp->sd_lm;
	struct gfs2_glock *gl = sdp->sd_statfs_inode->i_gl;

	if (error != GLR_TRYFAILED)
		return false;
	if (lm->lm_dead_holds && lm->lm_dead_holds(gl, jid)) {
		fs_info("jid=%u: the dead node itself has the lock of the block counts", jid);
		return true;
	}
	if (lm->lm_keeps_back && lm->lm_keeps_back(gl)) {
		fs_info("jid=%u: the lock of the block counts is kept back here", jid);
		return true;
	}
	return false;
}

/*
 * The journal's inode locked, and its map read afresh: the journal may be newer than our mount (gfs2_jadd), and its inode's lock was not
 * ours meanwhile.
 */
static int lock_and_map(struct gfs2_sbd *sdp, const struct gfs2_jdesc *known, struct gfs2_jdesc *jd, struct gfs2_holder *gh)
{
	struct gfs2_inode *ip = known->jd_inode;
	int err;

	*jd = *known;
	jd->jd_extents = NULL;
	jd->jd_nr_extents = 0;
	err = gfs2_glock_nq_init(ip->i_gl, LM_ST_SHARED, LM_FLAG_NOEXP | GL_NOCACHE, gh);
	if (err)
		return err;
	err = map_journal(sdp, ip, jd);
	if (err) {
		free(jd->jd_extents);
		gfs2_glock_dq_uninit(gh);
	}
	return err;
}

static void unlock_mapped(struct gfs2_jdesc *jd, struct gfs2_holder *gh)
{
	free(jd->jd_extents);
	gfs2_glock_dq_uninit(gh);
}

/* Under the journal's lock. */
static int replay_of_dead(struct gfs2_sbd *sdp, const struct gfs2_jdesc *known, struct gfs2_recovery_result *res)
{
	struct gfs2_holder gh, statfs_gh;
	struct gfs2_jdesc jd;
	int err;

	/* Its share of the block counts is added on the device; a living node may be adding its own. (The kernel does without.) */
	err = gfs2_glock_nq_init(sdp->sd_statfs_inode->i_gl, LM_ST_EXCLUSIVE,
				 LM_FLAG_NOEXP | LM_FLAG_TRY | GL_NOCACHE | GL_SKIP, &statfs_gh);
	if (err && !statfs_is_out_of_use(sdp, known->jd_jid, err))
		return err;
	err = lock_and_map(sdp, known, &jd, &gh);
	if (!err) {
		/* Also when mounted read-only, as the kernel does: otherwise nobody might, and all would wait. */
		io_engine_writes_begin(sdp->sd_io);
		msg_hush(known->jd_told);
		err = gfs2_recover_journal(sdp->sd_io, sdp->sd_bsize, &jd, sdp->sd_jid,
					   sdp->sd_statfs_addr, device_readonly(sdp->sd_io), res);
		msg_hush(false);
		io_engine_writes_end(sdp->sd_io);
		unlock_mapped(&jd, &gh);
	}
	if (statfs_gh.gh_gl)
		gfs2_glock_dq_uninit(&statfs_gh);
	return err;
}

/* Under the journal's lock.  What is in its way is said once, however often it is tried. */
static int recover_dead(struct gfs2_sbd *sdp, struct gfs2_jdesc *jd)
{
	struct gfs2_recovery_result res = { 0 };
	int err;

	err = replay_of_dead(sdp, jd, &res);
	/* Who has left has a clean one. */
	if (!err && res.dirty)
		fs_warn("jid=%u: replayed the journal of a dead node: %u blocks, %u revokes", jd->jd_jid,
			res.blocks_replayed, res.revokes);
	if (err < 0 && err != jd->jd_told)
		fs_err("jid=%u: the journal of a dead node could not be replayed: %s; it will be tried again", jd->jd_jid,
		       strerror(-err));
	if (err <= 0)
		jd->jd_told = err;
	return err;
}

/* Damaged: it is said when it is to be replayed. */
bool gfs2_journal_comes_first(void *private, unsigned jid)
{
	struct gfs2_sbd *sdp = private;
	struct gfs2_log_header_host head;
	struct gfs2_holder gh;
	struct gfs2_jdesc jd;
	bool counts = false;

	if (!atomic_load_explicit(&sdp->sd_journals_known, memory_order_acquire) || gfs2_withdrawn(sdp) || jid == sdp->sd_jid ||
	    jid >= sdp->sd_nr_journals || !sdp->sd_jdescs[jid].jd_inode || lock_and_map(sdp, &sdp->sd_jdescs[jid], &jd, &gh))
		return false;
	msg_hush(true);
	if (gfs2_journal_look(sdp->sd_io, sdp->sd_bsize, &jd, sdp->sd_statfs_addr, &head, &counts))
		counts = false;
	msg_hush(false);
	unlock_mapped(&jd, &gh);
	return counts;
}

int gfs2_recover_jid(void *private, unsigned jid)
{
	struct gfs2_sbd *sdp = private;
	struct gfs2_glock *gl;
	struct gfs2_holder gh;
	int err;

	/* This node is itself still mounting: its own number is not known yet either. */
	if (!atomic_load_explicit(&sdp->sd_journals_known, memory_order_acquire))
		return LM_RD_GAVEUP;
	/* Our own journal is the others' business, if it comes to that. */
	if (gfs2_withdrawn(sdp))
		return LM_RD_FAILED;
	if (jid == sdp->sd_jid)
		return LM_RD_GAVEUP;
	if (jid >= sdp->sd_nr_journals || !sdp->sd_jdescs[jid].jd_inode) {
		if (sdp->sd_told_no_journal != jid + 1)
			fs_err("jid=%u: no such journal when this node mounted; cannot replay it", jid);
		sdp->sd_told_no_journal = jid + 1;
		return LM_RD_FAILED;
	}
	gl = gfs2_glock_get(sdp->sd_glocks, jid, &gfs2_journal_glops);
	err = gfs2_glock_nq_init(gl, LM_ST_EXCLUSIVE, LM_FLAG_NOEXP | LM_FLAG_TRY | GL_NOCACHE, &gh);
	if (!err) {
		err = recover_dead(sdp, &sdp->sd_jdescs[jid]);
		gfs2_glock_dq_uninit(&gh);
	} else if (err == GLR_TRYFAILED) {
		fs_info("jid=%u: busy", jid);
	} else {
		fs_err("jid=%u: cannot get the journal's lock: %s", jid, strerror(-err));
	}
	gfs2_glock_put(gl);
	return !err ? LM_RD_SUCCESS : err < 0 ? LM_RD_FAILED : LM_RD_GAVEUP;
}

/* Not known yet: then no other node's journal is this one's business yet either. */
unsigned gfs2_nr_journals(void *private)
{
	struct gfs2_sbd *sdp = private;

	return atomic_load_explicit(&sdp->sd_journals_known, memory_order_acquire) ? sdp->sd_nr_journals : 0;
}

enum journal_work { WORK_NONE, WORK_LATER, WORK_FIRST };

static int find_work(struct gfs2_sbd *sdp, const struct gfs2_jdesc *jd, struct gfs2_log_header_host *head,
		     unsigned char *work)
{
	struct gfs2_log_header_host h;
	bool counts;
	int err = gfs2_journal_look(sdp->sd_io, sdp->sd_bsize, jd, sdp->sd_statfs_addr, &h, &counts);

	if (err) {
		fs_err("recovery of journal %u failed: %s", jd->jd_jid, strerror(-err));
		return err;
	}
	*work = h.lh_flags & GFS2_LOG_HEAD_UNMOUNT ? WORK_NONE : counts ? WORK_FIRST : WORK_LATER;
	if (jd->jd_jid == sdp->sd_jid)
		*head = h;
	return 0;
}

/*
 * Who died with the lock of the block counts may have left an image of the master file in his journal, older than anything that the
 * recovery of another journal adds: it has to be in place before.  (The kernel goes by number.)
 */
static int recover_in_order(struct gfs2_sbd *sdp, unsigned char *work, struct gfs2_log_header_host *head)
{
	int err = 0;

	/* Who is alone recovers for all. */
	for (unsigned j = 0; j < sdp->sd_nr_journals && !err; j++)
		if (sdp->sd_first || j == sdp->sd_jid)
			err = find_work(sdp, &sdp->sd_jdescs[j], head, &work[j]);
	for (unsigned char w = WORK_FIRST; w > WORK_NONE; w--)
		for (unsigned j = 0; j < sdp->sd_nr_journals && !err; j++)
			if (work[j] == w)
				err = recover_one(sdp, &sdp->sd_jdescs[j], head);
	return err;
}

int recover_journals(struct gfs2_sbd *sdp, struct gfs2_log_header_host *head)
{
	unsigned char *work = xzalloc(sdp->sd_nr_journals);
	int err = recover_in_order(sdp, work, head);

	free(work);
	drop_everything_cached(sdp);
	if (!err && !(head->lh_flags & GFS2_LOG_HEAD_UNMOUNT)) {
		fs_err("journal %u is not clean after its recovery", sdp->sd_jid);
		return -EIO;
	}
	return err;
}
