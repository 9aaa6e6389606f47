/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Extended attribute records inside one EA block; see eattr.h. */
#include "fs/eattr.h"

void ea_walk_init(struct ea_walk *w, const struct gfs2_sbd *sdp, char *block)
{
	*w = (struct ea_walk){
		.block = block,
		.bsize = sdp->sd_bsize,
		.jbsize = sdp->sd_jbsize,
		.max_type = sdp->sd_fs_format >= 1802 ? GFS2_EATYPE_TRUSTED : GFS2_EATYPE_SECURITY,
		.off = EA_FIRST,
	};
}

/* The rule for its contents that @ea breaks, or NULL; its length is good. */
static const char *bad_contents(const struct ea_walk *w, struct gfs2_ea_header *ea)
{
	uint32_t rec_len = ea_rec_len(ea), data_len = ea_data_len(ea), ptrs_end;

	ptrs_end = sizeof(*ea) + ALIGN_UP(ea->ea_name_len, 8u) + 8u * ea->ea_num_ptrs;
	if (ea->ea_num_ptrs && ptrs_end > rec_len)
		return "the pointers of an xattr record lie inside it";
	if (ea->ea_type > w->max_type)
		return "an xattr record has a type that the format knows";
	if (ea_unused(ea))
		return NULL;
	if (!ea->ea_name_len)
		return "an xattr has a name";
	if (ea->ea_name_len > rec_len - sizeof(*ea))
		return "the name of an xattr lies inside its record";
	if (memchr(ea_name(ea), 0, ea->ea_name_len))
		return "the name of an xattr has no zero byte";
	if (ea_stuffed(ea)) {
		if (data_len > rec_len - sizeof(*ea) - ea->ea_name_len)
			return "the value of an xattr lies inside its record";
	} else if (data_len > GFS2_EA_MAX_DATA_LEN ||
		   DIV_ROUND_UP(data_len, w->jbsize) > ea->ea_num_ptrs) {
		return "the value of an xattr fits into its blocks";
	}
	return NULL;
}

static const char *bad_record(const struct ea_walk *w, struct gfs2_ea_header *ea)
{
	uint32_t rec_len;

	if (w->off + sizeof(*ea) > w->bsize)
		return "an xattr record lies inside its block";
	rec_len = ea_rec_len(ea);
	if (rec_len < sizeof(*ea) || rec_len % 8 || rec_len > w->bsize - w->off)
		return "an xattr record lies inside its block";
	if (!!(ea->ea_flags & GFS2_EAFLAG_LAST) != (w->off + rec_len == w->bsize))
		return "the last xattr record of a block, and only that, is marked and ends with it";
	return bad_contents(w, ea);
}

struct gfs2_ea_header *ea_next(struct ea_walk *w)
{
	struct gfs2_ea_header *ea = (void *)(w->block + w->off);

	if (!w->off || w->rule)
		return NULL;
	w->rule = bad_record(w, ea);
	if (w->rule)
		return NULL;
	w->prev = w->cur;
	w->cur = ea;
	w->off = ea->ea_flags & GFS2_EAFLAG_LAST ? 0 : w->off + ea_rec_len(ea);
	return ea;
}

uint32_t ea_used(const struct gfs2_ea_header *ea)
{
	if (ea_unused(ea))
		return 0;
	if (ea_stuffed(ea))
		return ALIGN_UP((uint32_t)sizeof(*ea) + ea->ea_name_len + ea_data_len(ea), 8u);
	return (uint32_t)sizeof(*ea) + ALIGN_UP(ea->ea_name_len, 8u) + 8u * ea->ea_num_ptrs;
}

uint32_t ea_need(const struct gfs2_sbd *sdp, size_t namel, size_t size, unsigned *ptrs)
{
	uint32_t need = (uint32_t)ALIGN_UP(sizeof(struct gfs2_ea_header) + namel + size, (size_t)8);

	*ptrs = 0;
	if (need <= sdp->sd_jbsize)
		return need;
	*ptrs = (unsigned)DIV_ROUND_UP(size, (size_t)sdp->sd_jbsize);
	return (uint32_t)(sizeof(struct gfs2_ea_header) + ALIGN_UP(namel, (size_t)8)) + 8 * *ptrs;
}

void ea_block_init(const struct gfs2_sbd *sdp, char *block)
{
	struct gfs2_ea_header *ea = (void *)(block + EA_FIRST);

	ea->ea_rec_len = cpu_to_be32(sdp->sd_jbsize);
	ea->ea_type = GFS2_EATYPE_UNUSED;
	ea->ea_flags = GFS2_EAFLAG_LAST;
	ea->ea_num_ptrs = 0;
}

struct gfs2_ea_header *ea_split(struct gfs2_ea_header *ea)
{
	uint32_t used = ea_used(ea), rest = ea_rec_len(ea) - used;
	struct gfs2_ea_header *new = (void *)((char *)ea + used);

	memset(new, 0, sizeof(*new));
	new->ea_rec_len = cpu_to_be32(rest);
	new->ea_flags = ea->ea_flags & GFS2_EAFLAG_LAST;
	ea->ea_rec_len = cpu_to_be32(used);
	ea->ea_flags &= (uint8_t)~GFS2_EAFLAG_LAST;
	return new;
}

void ea_fill(struct gfs2_ea_header *ea, unsigned type, const char *name, size_t namel,
	     const void *value, size_t size, const uint64_t *ptrs, unsigned nr_ptrs)
{
	ea->ea_data_len = cpu_to_be32((uint32_t)size);
	ea->ea_name_len = (uint8_t)namel;
	ea->ea_type = (uint8_t)type;
	ea->ea_num_ptrs = (uint8_t)nr_ptrs;
	ea->__pad = 0;
	memcpy(ea_name(ea), name, namel);
	if (!nr_ptrs && size)
		memcpy(ea_value(ea), value, size);
	for (unsigned i = 0; i < nr_ptrs; i++)
		ea_ptrs(ea)[i] = cpu_to_be64(ptrs[i]);
}

void ea_erase(const struct gfs2_sbd *sdp, char *block, struct gfs2_ea_header *ea)
{
	struct gfs2_ea_header *prev;
	struct ea_walk w;

	ea_walk_init(&w, sdp, block);
	while (ea_next(&w) && w.cur != ea)
		;
	GFS2_BUG_ON(w.cur != ea); /* the caller has found it by such a walk */
	prev = w.prev;
	if (prev) {
		prev->ea_rec_len = cpu_to_be32(ea_rec_len(prev) + ea_rec_len(ea));
		prev->ea_flags |= ea->ea_flags & GFS2_EAFLAG_LAST;
	} else {
		ea->ea_type = GFS2_EATYPE_UNUSED;
		ea->ea_num_ptrs = 0;
	}
}
