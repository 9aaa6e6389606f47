/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The REPL's parts, which know nothing of each other's insides: repl.c reads lines, from a terminal or not, and shows what the daemon says meanwhile; session.c runs
 * one; complete.c tells readline how a line goes on.  One thread.
 */
#ifndef GLOCKCTL_REPL_H
#define GLOCKCTL_REPL_H

#include "glockctl.h"

#define MAX_WORDS 64

struct session {
	struct conn *c;
	bool json;		/* all that is printed */
	bool end;		/* it was asked for, or the daemon is gone */
	int status;		/* of the last command: EXIT_... */
};

/* --- session.c --- */

/*
 * Cut @line into words, in place; "...", '...' and a backslash keep blanks, and a word that begins with # begins a comment.  Their number,
 * at most MAX_WORDS; -1: a quote is open or they are too many.
 */
int split_line(char *line, char **words);
/* Run one line, and flush what it printed.  @s->status is its status then. */
void session_run(struct session *s, const char *text);

/* --- complete.c --- */

/* Set readline up: commands, their words, names of locks (asked of @c, which must stay open) and of files. */
void completion_init(struct conn *c);

#endif
