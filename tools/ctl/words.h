/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events as the words of a scenario's lock line: ?DF +DF map=MAPPED map=HOLE,rc=-15 io:W -DF.
 *
 * The same words as tools/lib/conform/mount.py makes of the same events (line_of()).
 */
#ifndef GLOCKCTL_WORDS_H
#define GLOCKCTL_WORDS_H

#include <stddef.h>
#include "recording.h"

/* What is an event's lock called in the scenario?  NULL: it is none of its. */
typedef const char *(*lock_namer)(const struct event *e, void *arg);

/*
 * The words of the events from @from on, separated by blanks; those before say which requests are under way.  To be freed.
 */
char *words_of_events(const struct event *events, size_t nr, size_t from, lock_namer name, void *arg);
/* Do @words go with @pattern, in which ... stands for any number of words? */
bool words_match(const char *pattern, const char *words);
/* Could they still, when more words come? */
bool words_may_match(const char *pattern, const char *words);

#endif
