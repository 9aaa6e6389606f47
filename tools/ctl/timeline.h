/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a timeline shows: the events of one or several recordings, sorted into lanes (timeline.c), the spans that they make (timeline_build.c), drawn
 * as a picture (timeline_svg.c) or written for a trace viewer (timeline_json.c).
 */
#ifndef GLOCKCTL_TIMELINE_H
#define GLOCKCTL_TIMELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "recording.h"

/* One mount, in the life of one daemon. */
struct node {
	char name[128];		/* "node 1 /mnt" */
	char *key;		/* its greeting */
	long long id;		/* of the cluster */
	long long pid;		/* for the trace viewer: id + 1, if no other has it */
};

/* What goes on at the same time is drawn in rows below each other. */
enum row_class { ROWS_HOLDERS, ROWS_DIO, ROWS_BREAK, NR_ROWS };
enum { MAX_ROWS = 64 };

struct lane {
	int node;
	unsigned gl_type;
	unsigned long long gl_number;
	char name[64];		/* "2/35f8 inode:13816" */
	unsigned events, lock_events;	/* of the lane; of this lock on all nodes */
	bool interesting;	/* transitions, direct I/O, or a breakpoint */
	int rows[NR_ROWS];
};

enum span_kind { SPAN_STATE, SPAN_HOLDER, SPAN_DIO, SPAN_PHASE, SPAN_BREAK, SPAN_HAND };
enum phase { PHASE_DIRECT, PHASE_DRAIN, PHASE_UPGRADE, PHASE_BUFFERED, NR_PHASES };
extern const char *const phase_names[NR_PHASES];

struct span {
	enum span_kind kind;
	int lane, row;
	int value;		/* state, phase; -1: not known */
	bool open;		/* its end was not seen (yet) */
	long long t, end;
	long long granted;	/* SPAN_HOLDER: -1: never */
	const struct event *first, *last; /* NULL: before, after the recording */
	struct span *parent;	/* of a phase */
};

/* A moment: demands of other nodes, requests to the device, holes. */
struct mark {
	int lane;
	const struct event *e;
	const struct span *dio;	/* that it belongs to, or NULL */
};

struct event_of {
	struct event e;
	int node, lane;
};

/* Events of a node that the recorder was too slow for. */
struct gap {
	int node;
	long long t, missed;
};

struct timeline {
	struct node *nodes;
	int nr_nodes;
	struct event_of *events; /* sorted by time */
	size_t nr_events;
	struct lane *lanes;	/* in the order of drawing */
	int nr_lanes;
	struct span **spans;	/* in the order of their beginning */
	size_t nr_spans;
	struct mark *marks;
	size_t nr_marks;
	struct gap *gaps;
	int nr_gaps;
	unsigned left_out;	/* lanes beyond the limit */
	long long t0, t1;
};

/* Events, sorted and with their lanes, become spans and marks. */
void timeline_build(struct timeline *tl);
/* Text in XML or JSON; what is not UTF-8 is replaced. */
void put_xml(FILE *out, const char *s);
/* What the tooltip says of @s, in words, for both. */
void describe_span(const struct span *s, char *buf, size_t size);
void describe_event(const struct event *e, char *buf, size_t size);
/* "12.3 ms" */
const char *duration(long long ns, char *buf, size_t size);

void timeline_json(const struct timeline *tl, FILE *out);
void timeline_svg(const struct timeline *tl, bool linear, FILE *out);

#endif
