/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dinodes: the 232 bytes at the head of an inode's block <-> struct gfs2_inode
 * (kernel: glops.c:gfs2_dinode_in, super.c:gfs2_dinode_out; reference section 4.1).
 *
 * Guarantees
 *  1. Nothing of a dinode that breaks a rule of 4.1 gets into core: it is a consistency error.
 *  2. Writing a dinode sets every field and zeroes every pad; the payload behind byte 232 and
 *     mh_jid (the journal's) are left alone.
 *
 * Needs from callers: a holder on the inode's glock; for gfs2_dinode_log EX and a transaction.
 */
#include "fs/inode.h"
#include "util/seeded.h"
#include "util/util.h"

static bool known_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	}
	return false;
}

/* The rule that @di breaks, or NULL.  @depth_min: log2 of the smallest hash table. */
static const char *dinode_broken_rule(const struct gfs2_inode *ip, const struct gfs2_dinode *di)
{
	const struct gfs2_sbd *sdp = ip->i_sbd;
	uint32_t mode = be32_to_cpu(di->di_mode);
	uint32_t flags = be32_to_cpu(di->di_flags);
	uint64_t size = be64_to_cpu(di->di_size);
	unsigned height = be16_to_cpu(di->di_height);
	unsigned depth = be16_to_cpu(di->di_depth);

	if (be32_to_cpu(di->di_header.mh_magic) != GFS2_MAGIC ||
	    be32_to_cpu(di->di_header.mh_type) != GFS2_METATYPE_DI)
		return "a dinode has magic and type DI";
	if (be64_to_cpu(di->di_num.no_addr) != ip->i_no_addr)
		return "no_addr is the dinode's own block";
	if (!di->di_num.no_formal_ino)
		return "no_formal_ino is not 0";
	if (!known_type(mode))
		return "di_mode has a known file type";
	if (ip->i_valid && (ip->i_mode & S_IFMT) != (mode & S_IFMT))
		return "the type of a cached inode does not change";
	if (height > sdp->sd_max_height)
		return "di_height is at most the maximum of the block size";
	if (depth > GFS2_DIR_MAX_DEPTH)
		return "di_depth is at most 17";
	if ((flags & GFS2_DIF_EXHASH) && (1u << depth) < sdp->sd_hash_ptrs)
		return "a hash table has at least bsize / 16 entries";
	if (height == 0 && size > gfs2_max_stuffed_size(ip))
		return "stuffed contents fit into the dinode's block";
	if (size > INT64_MAX)
		return "di_size is a valid file size";
	return NULL;
}

static void owner_in(struct gfs2_inode *ip, uint32_t uid, uint32_t gid)
{
	if (ip->i_owner_known && (uid != ip->i_uid || gid != ip->i_gid))
		atomic_store_explicit(&ip->i_owner_moved, true, memory_order_relaxed);
	ip->i_uid = uid;
	ip->i_gid = gid;
	ip->i_owner_known = true;
}

int gfs2_dinode_in(struct gfs2_inode *ip, const struct gfs2_bh *bh)
{
	const struct gfs2_dinode *di = (const void *)bh->b_data;
	const char *rule = dinode_broken_rule(ip, di);
	uint64_t formal = be64_to_cpu(di->di_num.no_formal_ino);

	if (rule)
		return gfs2_consist(ip->i_sbd, ip->i_no_addr, rule);
	if (ip->i_no_formal_ino && ip->i_no_formal_ino != formal)
		return -ESTALE;
	if (!ip->i_no_formal_ino)
		gfs2_set_formal_ino(ip, formal);
	ip->i_mode = be32_to_cpu(di->di_mode);
	owner_in(ip, be32_to_cpu(di->di_uid), be32_to_cpu(di->di_gid));
	ip->i_nlink = be32_to_cpu(di->di_nlink);
	if (!ip->i_size || !SEEDED_BUG("size-kept"))
		ip->i_size = be64_to_cpu(di->di_size);
	ip->i_blocks = be64_to_cpu(di->di_blocks);
	ip->i_atime.tv_sec = (int64_t)be64_to_cpu(di->di_atime);
	ip->i_atime.tv_nsec = be32_to_cpu(di->di_atime_nsec);
	ip->i_mtime.tv_sec = (int64_t)be64_to_cpu(di->di_mtime);
	ip->i_mtime.tv_nsec = be32_to_cpu(di->di_mtime_nsec);
	ip->i_ctime.tv_sec = (int64_t)be64_to_cpu(di->di_ctime);
	ip->i_ctime.tv_nsec = be32_to_cpu(di->di_ctime_nsec);
	ip->i_major = be32_to_cpu(di->di_major);
	ip->i_minor = be32_to_cpu(di->di_minor);
	ip->i_goal = be64_to_cpu(di->di_goal_meta);
	ip->i_generation = be64_to_cpu(di->di_generation);
	ip->i_diskflags = be32_to_cpu(di->di_flags);
	ip->i_height = (uint8_t)be16_to_cpu(di->di_height);
	ip->i_depth = (uint8_t)be16_to_cpu(di->di_depth);
	ip->i_entries = be32_to_cpu(di->di_entries);
	ip->i_eattr = be64_to_cpu(di->di_eattr);
	atomic_store_explicit(&ip->i_capability, CAPS_UNKNOWN, memory_order_relaxed);
	ip->i_valid = true;
	return 0;
}

void gfs2_dinode_out(const struct gfs2_inode *ip, void *block)
{
	struct gfs2_dinode *di = block;
	__be32 jid = di->di_header.mh_jid;
	bool linear = S_ISDIR(ip->i_mode) && !(ip->i_diskflags & GFS2_DIF_EXHASH);

	memset(di, 0, sizeof(*di));
	di->di_header.mh_magic = cpu_to_be32(GFS2_MAGIC);
	di->di_header.mh_type = cpu_to_be32(GFS2_METATYPE_DI);
	di->di_header.mh_format = cpu_to_be32(GFS2_FORMAT_DI);
	di->di_header.mh_jid = jid;
	di->di_num.no_formal_ino = cpu_to_be64(ip->i_no_formal_ino);
	di->di_num.no_addr = cpu_to_be64(ip->i_no_addr);
	di->di_mode = cpu_to_be32(ip->i_mode);
	di->di_uid = cpu_to_be32(ip->i_uid);
	di->di_gid = cpu_to_be32(ip->i_gid);
	di->di_nlink = cpu_to_be32(ip->i_nlink);
	di->di_size = cpu_to_be64(ip->i_size);
	di->di_blocks = cpu_to_be64(ip->i_blocks);
	di->di_atime = cpu_to_be64(ip->i_atime.tv_sec);
	di->di_mtime = cpu_to_be64(ip->i_mtime.tv_sec);
	di->di_ctime = cpu_to_be64(ip->i_ctime.tv_sec);
	di->di_atime_nsec = cpu_to_be32((uint32_t)ip->i_atime.tv_nsec);
	di->di_mtime_nsec = cpu_to_be32((uint32_t)ip->i_mtime.tv_nsec);
	di->di_ctime_nsec = cpu_to_be32((uint32_t)ip->i_ctime.tv_nsec);
	di->di_major = cpu_to_be32(ip->i_major);
	di->di_minor = cpu_to_be32(ip->i_minor);
	di->di_goal_meta = cpu_to_be64(ip->i_goal ? ip->i_goal : ip->i_no_addr);
	di->di_goal_data = di->di_goal_meta;
	di->di_generation = cpu_to_be64(ip->i_generation);
	di->di_flags = cpu_to_be32(ip->i_diskflags);
	di->di_payload_format = cpu_to_be32(linear ? GFS2_FORMAT_DE : 0);
	di->di_height = cpu_to_be16(ip->i_height);
	di->di_depth = cpu_to_be16(ip->i_depth);
	di->di_entries = cpu_to_be32(ip->i_entries);
	di->di_eattr = cpu_to_be64(ip->i_eattr);
}

int gfs2_meta_inode_buffer(struct gfs2_inode *ip, struct gfs2_bh **out)
{
	return gfs2_meta_read(ip->i_sbd, ip->i_gl, ip->i_no_addr, GFS2_METATYPE_DI, out);
}

static int dinode_log(struct gfs2_inode *ip, bool only_times)
{
	struct gfs2_bh *bh;
	int error = gfs2_meta_inode_buffer(ip, &bh);

	if (error)
		return error;
	gfs2_trans_add_meta(ip->i_sbd->sd_log, ip->i_gl, bh);
	gfs2_dinode_out(ip, bh->b_data);
	buf_put(bh);
	gfs2_inode_note_log(ip, only_times);
	return 0;
}

int gfs2_dinode_log(struct gfs2_inode *ip)
{
	return dinode_log(ip, false);
}

int gfs2_dinode_log_times(struct gfs2_inode *ip)
{
	return dinode_log(ip, true);
}

int gfs2_dinode_trans_begin(struct gfs2_inode *ip, unsigned blocks, struct gfs2_bh **dibh)
{
	int error = gfs2_meta_inode_buffer(ip, dibh);

	if (error)
		return error;
	error = gfs2_trans_begin(ip->i_sbd->sd_log, blocks, 0);
	if (error)
		buf_put(*dibh);
	return error;
}

void gfs2_dinode_trans_end(struct gfs2_inode *ip, struct gfs2_bh *dibh)
{
	gfs2_trans_end(ip->i_sbd->sd_log);
	buf_put(dibh);
}

void gfs2_inode_note_log(struct gfs2_inode *ip, bool only_times)
{
	uint64_t seq = gfs2_trans_batch_seq(ip->i_sbd->sd_log);

	/* release: whoever sees the number in fsync also sees that the transaction was opened */
	atomic_store_explicit(&ip->i_log_seq, seq, memory_order_release);
	if (!only_times)
		atomic_store_explicit(&ip->i_datasync_seq, seq, memory_order_release);
}
