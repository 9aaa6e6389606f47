/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A recording, read line by line (record.c has the format).
 */
#ifndef GLOCKCTL_RECORDING_H
#define GLOCKCTL_RECORDING_H

#include <stdbool.h>
#include <stdio.h>

/* Longest line: the greeting, with two paths in which each byte may take six. */
#define RECORDING_LINE (16 * 4096)
/* Differences and sums of times do not overflow. */
#define EVENT_TIME_MAX (1ll << 62)

enum { NR_STATES = 4 };
extern const char *const state_names[NR_STATES];
/* -1: there is no such state. */
int state_number(const char *name);

struct event {
	char name[24], reason[48];
	long long seq, t, node, pid, req, off, len, rc;
	long long gap;		/* so many were missed here; nothing else but seq is set then */
	unsigned long long gl_number;
	unsigned gl_type;
	int from, to;		/* -1: none */
	bool has_glock, has_off, has_len, has_rc, has_reason;
};

/* What a line of `trace --json` or of a recording says; false: it is none. */
bool event_parse(const char *json, struct event *e);
/* About a lock: otherwise about a file's data or the journal. */
bool event_about_lock(const struct event *e);
/* In the words of `trace`, with a newline. */
void event_print(const struct event *e);

struct recording {
	const char *path;
	FILE *file;
	unsigned nr;		/* of the line */
	bool failed;		/* said on stderr: the end is not the file's end */
	char line[RECORDING_LINE];
};

/* EXIT_*; the first line is in r->line. */
int recording_open(struct recording *r, const char *path);
void recording_close(struct recording *r);
/*
 * The next line, a JSON object as far as its ends tell; NULL: the end, or r->failed.  A last line that is cut off, by the death of who wrote it,
 * counts as the end, said on stderr.
 */
const char *recording_line(struct recording *r);
/* What the line says; false: r->failed. */
bool recording_event(struct recording *r, struct event *e);

#endif
