/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef GLOCKCTL_HANDS_H
#define GLOCKCTL_HANDS_H

#include <stdbool.h>
#include <stdio.h>

/* Do the steps that the lines of @in say, an answer to each on @out, until @in ends.  Exit status for the process. */
int hands_run(FILE *in, FILE *out);
/* Is that a step? @words: the least number of words it has, its name included. */
bool hands_know(const char *name, int *words);

#endif
