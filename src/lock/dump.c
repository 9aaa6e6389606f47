/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Glocks as text: names of states, and the format of the kernel's debugfs file `glocks` (reference 7.1), which people and
 * scripts read.  The hold time is printed in jiffies of a kernel with HZ=250.
 */
#include "lock/internal.h"

#include <strings.h>

#include "util/util.h"

#define HZ 250
#define FLAG(f) (1ul << (f))
/* Printed as a flag, but not one: there are holders or waiters. */
#define GLF_QUEUED 31

static const char *const state_names[4] = {
	[LM_ST_UNLOCKED] = "UN",
	[LM_ST_EXCLUSIVE] = "EX",
	[LM_ST_DEFERRED] = "DF",
	[LM_ST_SHARED] = "SH",
};

/* Letters of glock flags in the order in which they are printed. */
static const struct {
	char letter;
	unsigned char bit;
} glock_letters[] = {
	{ 'l', GLF_LOCK },
	{ 'D', GLF_DEMOTE },
	{ 'd', GLF_PENDING_DEMOTE },
	{ 'p', GLF_DEMOTE_IN_PROGRESS },
	{ 'y', GLF_DIRTY },
	{ 'f', GLF_LFLUSH },
	{ 'i', GLF_INVALIDATE_IN_PROGRESS },
	{ 'r', GLF_REPLY_PENDING },
	{ 'I', GLF_INITIAL },
	{ 'F', GLF_FROZEN },
	{ 'q', GLF_QUEUED },
	{ 'L', GLF_LRU },
	{ 'o', GLF_OBJECT },
	{ 'b', GLF_BLOCKING },
	{ 'P', GLF_PENDING_DELETE },
	{ 'x', GLF_FREEING },
	{ 'n', GLF_INSTANTIATE_NEEDED },
	{ 'N', GLF_INSTANTIATE_IN_PROG },
};

/* The same for holders: flags, then state bits, then GL_SKIP, as the kernel does. */
static const struct {
	char letter;
	bool internal;
	unsigned flag;
} holder_letters[] = {
	{ 't', false, LM_FLAG_TRY },
	{ 'T', false, LM_FLAG_TRY_1CB },
	{ 'e', false, LM_FLAG_NOEXP },
	{ 'A', false, LM_FLAG_ANY },
	{ 'n', false, LM_FLAG_NODE_SCOPE },
	{ 'a', false, GL_ASYNC },
	{ 'E', false, GL_EXACT },
	{ 'c', false, GL_NOCACHE },
	{ 'H', true, HIF_HOLDER },
	{ 'W', true, HIF_WAIT },
	{ 's', false, GL_SKIP },
};

const char *glock_state_name(enum lm_state s)
{
	return (unsigned)s < ARRAY_SIZE(state_names) ? state_names[s] : "??";
}

int glock_state_parse(const char *s)
{
	static const char *const dlm_names[4] = {
		[LM_ST_UNLOCKED] = "NL",
		[LM_ST_EXCLUSIVE] = "EX",
		[LM_ST_DEFERRED] = "CW",
		[LM_ST_SHARED] = "PR",
	};

	for (int i = 0; i < 4; i++)
		if (!strcasecmp(s, state_names[i]) || !strcasecmp(s, dlm_names[i]))
			return i;
	return -EINVAL;
}

static void glock_flags_text(const struct gfs2_glock *gl, char *buf)
{
	unsigned long flags = gl->gl_flags;

	if (!list_empty(&gl->gl_holders))
		flags |= FLAG(GLF_QUEUED);
	if (gl->gl_object)
		flags |= FLAG(GLF_OBJECT);
	for (size_t i = 0; i < ARRAY_SIZE(glock_letters); i++)
		if (flags & FLAG(glock_letters[i].bit))
			*buf++ = glock_letters[i].letter;
	*buf = 0;
}

static void holder_flags_text(unsigned flags, unsigned iflags, char *buf)
{
	for (size_t i = 0; i < ARRAY_SIZE(holder_letters); i++)
		if ((holder_letters[i].internal ? iflags : flags) & holder_letters[i].flag)
			*buf++ = holder_letters[i].letter;
	*buf = 0;
}

static void dump_head(FILE *out, struct gfs2_glock *gl)
{
	char flags[ARRAY_SIZE(glock_letters) + 1];
	unsigned long long demote_us = 0;
	unsigned pages = 0;

	glock_flags_text(gl, flags);
	if (gl->gl_flags & FLAG(GLF_DEMOTE))
		demote_us = (glock_now(gl) - gl->gl_demote_ns) / 1000;
	/* The counters belong to others, who keep them without gl_lock: any recent value will do. */
	if (gl->gl_ops->go_flags & GLOF_ASPACE)
		pages = atomic_load_explicit(&gl->gl_mapping.m_nr, memory_order_relaxed);
	fprintf(out, "G:  s:%s n:%u/%llx f:%s t:%s d:%s/%llu a:%d v:%d r:%d m:%ld p:%lu\n",
		glock_state_name(gl->gl_state), gl->gl_type, (unsigned long long)gl->gl_number, flags,
		glock_state_name(gl->gl_target), glock_state_name(gl->gl_demote_state), demote_us,
		atomic_load_explicit(&gl->gl_ail_count, memory_order_relaxed),
		atomic_load_explicit(&gl->gl_revokes, memory_order_relaxed),
		(int)atomic_load_explicit(&gl->gl_ref, memory_order_relaxed),
		(long)(glock_turn(gl) * HZ / 1000000000u), (unsigned long)pages);
}

/* What is printed of a holder, taken under gl_lock. */
struct holder_snap {
	enum lm_state state;
	unsigned flags, iflags;
	int error;
	pid_t pid;
	const char *where;
};

static struct holder_snap snap_holder(const struct gfs2_holder *gh)
{
	return (struct holder_snap){
		.state = gh->gh_state,
		.flags = gh->gh_flags,
		.iflags = atomic_load_explicit(&((struct gfs2_holder *)gh)->gh_iflags,
					       memory_order_relaxed),
		.error = gh->gh_error,
		.pid = gh->gh_pid,
		.where = gh->gh_where,
	};
}

static void dump_holder(FILE *out, const struct holder_snap *h)
{
	char flags[ARRAY_SIZE(holder_letters) + 1], comm[32];

	holder_flags_text(h->flags, h->iflags, flags);
	if (!command_of(h->pid, comm, sizeof(comm)))
		snprintf(comm, sizeof(comm), h->pid ? "(ended)" : "(none)");
	fprintf(out, " H: s:%s f:%s e:%d p:%ld [%s] %s\n", glock_state_name(h->state), flags,
		h->error, (long)h->pid, comm, h->where);
}

void glock_dump_locked(FILE *out, struct gfs2_glock *gl)
{
	struct gfs2_holder *gh;

	dump_head(out, gl);
	list_for_each_entry(gh, &gl->gl_holders, gh_list) {
		struct holder_snap h = snap_holder(gh);

		dump_holder(out, &h);
	}
}

/* Reading /proc and writing to @out may take long, so the holders are copied first. */
void gfs2_dump_glock(FILE *out, struct gfs2_glock *gl)
{
	struct holder_snap *snaps = NULL;
	size_t nr = 0, room = 0, i;
	struct gfs2_holder *gh;
	bool object;

	rmutex_lock(&gl->gl_lock);
	dump_head(out, gl);
	list_for_each_entry(gh, &gl->gl_holders, gh_list) {
		if (nr == room) {
			room = room ? 2 * room : 8;
			struct holder_snap *more = realloc(snaps, room * sizeof(*snaps));

			if (!more)
				break;
			snaps = more;
		}
		snaps[nr++] = snap_holder(gh);
	}
	/* An iopen lock shows the inode that the lock of the same number belongs to. */
	object = (gl->gl_object || gl->gl_type == LM_TYPE_IOPEN) && gl->gl_state != LM_ST_UNLOCKED;
	rmutex_unlock(&gl->gl_lock);

	for (i = 0; i < nr; i++)
		dump_holder(out, &snaps[i]);
	free(snaps);
	if (object && gl->gl_ops->go_dump)
		gl->gl_ops->go_dump(gl, out);
}
