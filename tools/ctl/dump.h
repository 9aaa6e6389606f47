/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a node holds and waits for, read back from its dump, or from a recording of it.
 */
#ifndef GLOCKCTL_DUMP_H
#define GLOCKCTL_DUMP_H

#include <stdbool.h>
#include <stddef.h>

struct conn;

/* One "H:" line. */
struct holder {
	char state[4], flags[16], comm[64], where[64];
	long pid;
	long long req;		/* of a recording; else 0 */
	bool waits;
};

/* One "G:" line and what follows it. */
struct lock {
	char name[40], state[4], target[4], demote[4], flags[32], object[200];
	struct holder *holders;
	unsigned nr;
	char kept[4];		/* by hand, in this state; "": not */
	char *stop;		/* what a breakpoint has stopped of it, in words; NULL */
};

struct node {
	const char *name;
	struct lock *locks;
	size_t nr;
};

/* The value of "k:value" in a line of a dump, up to a blank. */
bool dump_field(const char *line, const char *key, char *out, size_t size);
/* Add what @text says, which is cut into pieces. */
void read_dump(struct node *n, char *text);
struct lock *find_lock(struct node *n, const char *name);
/* A lock of that name that @n has or has not had so far. */
struct lock *add_lock(struct node *n, const char *name);
/* Add what is held by hand and what breakpoints have stopped, as `holds all` and `stops all` tell it; both are cut into pieces. */
void read_kept(struct node *n, char *holds, char *stops);
/* All of a daemon's: its dump, what is held by hand and what breakpoints have stopped.  EXIT_*. */
int read_conn(struct conn *c, struct node *n, bool quiet);
/* What a recording says its locks were at the time @until, wall clock in nanoseconds.  EXIT_*. */
int read_recording(const char *path, long long until, struct node *n);
/* The time of its first event; -1: it has none, or cannot be read, which was said. */
long long recording_begin(const char *path);
void free_node(struct node *n);

/* "2/928 (inode:2344)", "6/928 (flock of inode:2344)" */
const char *lock_words(const struct lock *l, char *buf, size_t size);
/* "pid 12 [dd]", "pid 12" where the name is not known, "the daemon" */
const char *who_words(const struct holder *h, char *buf, size_t size);

#endif
