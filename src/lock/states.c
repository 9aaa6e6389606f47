/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the states allow, as tables: which holders run together, which state serves which wish, what may be cached, what another node's wish
 * requires (reference 1.2, 1.9).  Pure functions of their arguments; the code of machine.c and glock.c is driven by them.
 */
#include "lock/internal.h"

#include "util/util.h"

#define UN LM_ST_UNLOCKED
#define EX LM_ST_EXCLUSIVE
#define DF LM_ST_DEFERRED
#define SH LM_ST_SHARED

/*
 * Data: EX and SH may cache it, DF and UN may not.  Metadata: UN may not.  Dirty: only EX.  Going to DF or UN drops the data also where the
 * old state should have none: go_inval is cheap then, and what slipped in does not survive.
 */
const struct glock_rights glock_rights[4][4] = {
	/*		write: data   meta   drop: data   meta */
	[EX][SH] = {	       true,  true,	   false, false },
	[EX][DF] = {	       true,  true,	   true,  false },
	[EX][UN] = {	       true,  true,	   true,  true },
	[SH][EX] = {	       false, false,	   false, false },
	[SH][DF] = {	       false, false,	   true,  false },
	[SH][UN] = {	       false, false,	   true,  true },
	[DF][EX] = {	       false, false,	   false, false },
	[DF][SH] = {	       false, false,	   false, false },
	[DF][UN] = {	       false, false,	   true,  true },
	[UN][EX] = {	       false, false,	   false, false },
	[UN][SH] = {	       false, false,	   false, false },
	[UN][DF] = {	       false, false,	   true,  false },
};

/* Does a wish that another node has require a lock held in this state to change? [held][wished] */
const bool glock_demote_needed[4][4] = {
	[EX] = { [UN] = true, [DF] = true, [SH] = true },
	[SH] = { [UN] = true, [DF] = true },
	[DF] = { [UN] = true, [SH] = true },
};

/* [held by granted holders][wanted]; with NODE_SCOPE on both sides EX and EX as well. */
static const bool compatible[4][4] = {
	[UN] = { [EX] = true, [DF] = true, [SH] = true },
	[DF] = { [DF] = true },
	[SH] = { [SH] = true },
};

/* [state in the cluster][wanted]: the holder flags that spoil it or that it takes. */
enum satisfies {
	NEVER = 0,
	ALWAYS,
	UNLESS_EXACT,	/* held is stronger than wanted */
	IF_ANY,		/* held is something else: enough for who only looks */
};

static const uint8_t satisfies[4][4] = {
	[EX] = { [EX] = ALWAYS, [DF] = UNLESS_EXACT, [SH] = UNLESS_EXACT },
	[DF] = { [EX] = IF_ANY, [DF] = ALWAYS, [SH] = IF_ANY },
	[SH] = { [EX] = IF_ANY, [DF] = IF_ANY, [SH] = ALWAYS },
};

bool glock_compatible(enum lm_state have, enum lm_state want)
{
	return compatible[have][want];
}

bool glock_satisfies(enum lm_state have, enum lm_state want, unsigned flags)
{
	switch ((enum satisfies)satisfies[have][want]) {
	case NEVER:
		return false;
	case ALWAYS:
		return true;
	case UNLESS_EXACT:
		return !(flags & GL_EXACT);
	case IF_ANY:
		return (flags & LM_FLAG_ANY) && !(flags & GL_EXACT);
	}
	return false;
}

/*
 * @current: any granted holder, or NULL.  The state is looked at also when there is one: a holder with LM_FLAG_ANY may run as SH while the
 * cluster lock is DF, and an ordinary reader must not follow it into that.
 */
bool glock_may_grant(const struct gfs2_glock *gl, const struct gfs2_holder *current,
		     const struct gfs2_holder *gh)
{
	if (unlikely(gl->gl_lost))
		return false;
	if (current && !compatible[current->gh_state][gh->gh_state] &&
	    !(current->gh_state == EX && gh->gh_state == EX &&
	      (current->gh_flags & gh->gh_flags & LM_FLAG_NODE_SCOPE)))
		return false;
	return glock_satisfies(gl->gl_state, gh->gh_state, gh->gh_flags);
}
