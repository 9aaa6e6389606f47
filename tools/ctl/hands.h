/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef GLOCKCTL_HANDS_H
#define GLOCKCTL_HANDS_H

#include <stdbool.h>
#include <stdio.h>

/* Do the steps that the lines of @in say, an answer to each on @out, until @in ends.  Exit status for the process. */
int hands_run(FILE *in, FILE *out);
/* Is that a step? @words: the least number of words it has, its name included. */
bool hands_know(const char *name, int *words);
/* Does @path stay below the directory it begins in?  (A scenario makes no symbolic links.) */
bool hands_inside(const char *path);
/* The first path among the words of a step that does not; NULL: all do. */
const char *hands_outside(char *const *words, int nr);

#endif
