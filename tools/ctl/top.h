/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hottest locks: what is counted (top.c), and how it is shown on a terminal (top_screen.c).
 */
#ifndef GLOCKCTL_TOP_H
#define GLOCKCTL_TOP_H

#include "dump.h"
#include "glockctl.h"

enum top_sort { SORT_REQUESTS, SORT_TRANSITIONS, SORT_BOUNCES, SORT_WAITERS, SORT_DIO, SORT_STATE, SORT_NAME, NR_SORTS };
extern const char *const top_sort_names[NR_SORTS];

/* Events of one lock in an interval. */
struct top_counts {
	unsigned long long requests;	/* holders that got it */
	unsigned long long transitions;
	unsigned long long bounces;	/* demands of other nodes */
	unsigned long long dio;		/* direct reads and writes that began, */
	unsigned long long fallback;	/* and those that asked for EX */
};

struct top_row {
	char name[40], state[4], target[4], flags[32];
	unsigned holders, waiters;
	struct top_counts n;
};

struct top {
	struct conn *c, questions, events; /* c: the questions' */
	double interval;
	enum top_sort sort;
	char filter[64];		/* a part of a name, state or path; "": all */
	struct paths *paths;

	/* of the interval that is counting */
	struct top_tally *tally;
	size_t tally_size, tally_nr;
	struct top_counts counting;
	long long last_seq;
	unsigned long long read, missed; /* events, ever */
	double since;

	/* of the last one: rows that pass the filter, sorted */
	struct top_row *rows;
	size_t nr;
	double seconds;
	struct top_counts sum;
	unsigned long long read_then, missed_then;
	double share;			/* all events for each that was read */
	size_t locks, waiters, states[4]; /* UN SH DF EX */
	size_t stops;
	bool lost;			/* the daemon is gone */
};

/* Seconds of the monotonic clock. */
double top_clock(void);
/* What has come of events is counted, some of it if there is much. */
void top_count(struct top *t);
/* The interval ends: rows and sums are of it.  False: the daemon is gone. */
bool top_refresh(struct top *t);
/* Sort and choose rows anew. */
void top_arrange(struct top *t);
/* A number of an interval per second; an estimate if events were missed. */
double top_rate(const struct top *t, unsigned long long n);
/* "12.3k" */
const char *top_number(double n, char *buf, size_t size);
/* The part of direct I/O that went direct, in percent; -1: there was none. */
int top_direct(const struct top_counts *n);
const char *top_type(const char *name);

/* EXIT_* */
int top_screen(struct top *t);

#endif
