/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A scenario, read from its text.  The format is that of tools/conform; gfs2-fuse-scenario(5) describes it.
 *
 * What is read is whole: a text with a mistake anywhere gives no scenario, but a message that names the line.
 */
#ifndef GLOCKCTL_SCENARIO_H
#define GLOCKCTL_SCENARIO_H

#include <stdbool.h>
#include <stddef.h>

#define SCENARIO_WORDS 16
#define SCENARIO_NODES 9

enum prepare_kind {
	PREP_SET,		/* set NAME VALUE */
	PREP_FILE,		/* file F 0+4096=A ... size N */
	PREP_DIRECTORY,
	PREP_OPEN,		/* direct, buffered: words are the step `open H F FLAGS` */
	PREP_NAME,		/* name F D/a */
	PREP_STEP,
	PREP_HOLD		/* hold NODE F STATE, done last */
};

enum outcome_kind {
	OUT_RESULT,		/* = RESULT */
	OUT_RECORDED,		/* : WORDS, N meanwhile : WORDS: the kernel's, for tools/conform to compare */
	OUT_STOP,		/* stop WHERE */
	OUT_WAITS,		/* waits OBJECT [STATE] */
	OUT_EXPECT,		/* [NODE] expect WORDS */
	OUT_SAYS,		/* says TEXT */
	OUT_CONTENT		/* content F OFF+LEN RUNS, of the whole */
};

struct outcome {
	enum outcome_kind kind;
	unsigned node;		/* 0: the step's */
	unsigned line_nr;
	char *text;		/* what follows the keyword */
};

struct line {
	unsigned line_nr, node;
	char *text;		/* as it is in the file */
	char *words[SCENARIO_WORDS];
	int nr;
	enum prepare_kind prep;	/* of a preparation */
	bool control;		/* for the daemon; else for hands */
	bool together;		/* at the same time as the step before, */
	double later;		/* so many seconds after its begin */
	double pause;		/* before it */
	struct outcome *outcomes;
	size_t nr_outcomes;
	struct line *next;
};

struct scenario {
	char *name;		/* of the file, without directories and .txt */
	char *about;
	bool strict;		/* times */
	unsigned nodes;
	double disk;		/* seconds that every direct write of data takes */
	struct line *prepare, *steps;
	struct line *content;	/* at the end: an outcome each */
};

/* NULL: said on stderr. */
struct scenario *scenario_read(const char *path);
void scenario_free(struct scenario *s);

#endif
