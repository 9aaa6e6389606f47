/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bugs on purpose: the switches by which a test shows that it would notice one.
 *
 *	if (!SEEDED_BUG("name"))
 *		the right thing
 *
 * In ordinary builds SEEDED_BUG() is the constant false and leaves no trace in the program.  Only what is compiled with
 * -DGFS2_SEEDED_BUGS (test programs, never the daemon that is installed) can be told, once and before anything else runs, which
 * one bug to have.  Names are unique in the whole source; a test that uses them lists them (gfs2_seeded_select() cannot know
 * a name before its place is reached), and fails when one of them is not noticed.
 */
#ifndef GFS2FUSE_SEEDED_H
#define GFS2FUSE_SEEDED_H

#include <stdbool.h>

#ifdef GFS2_SEEDED_BUGS
/* Choose the bug; NULL: none.  Before threads are started: no lock guards it. */
void gfs2_seeded_select(const char *name);
/* Is @name the chosen bug?  Counts how often the place of the chosen one was reached. */
bool gfs2_seeded_bug(const char *name);
/* How often the chosen bug's place was reached since it was chosen: an unreached bug proves nothing. */
unsigned long gfs2_seeded_reached(void);
#define SEEDED_BUG(name) gfs2_seeded_bug(name)
#else
#define SEEDED_BUG(name) false
#endif

#endif
