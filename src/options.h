/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line and the mount options (design section 9).
 */
#ifndef GFS2FUSE_OPTIONS_H
#define GFS2FUSE_OPTIONS_H

#include "fs/super.h"

struct options {
	struct gfs2_args args;
	char *device, *dir;
	bool foreground, debug;
	bool fake;		/* mount -f: check the arguments only */
	bool sloppy;		/* mount -s: pass over unknown options */
	bool remount;		/* change a mount's flags (remount.h) */
	bool subtype;
	char *control;		/* control=PATH */
	char *fault;		/* fault=RULE: for tests; io/io.h:io_fault_parse with ':' for ',' */
	bool has_fault;
	struct io_fault fault_rule;
	unsigned rx_threads;	/* rx_threads=N */
	char *fuse_opts;	/* dev,suid,... handed to the mount */
	enum { OPT_MOUNT, OPT_WAIT, OPT_HELP, OPT_VERSION } action;
	unsigned wait_seconds;
	bool wait_forever;
	/* private: owns the strings */
	char *lockproto, *locktable;
};

/* 0, or -EINVAL after a message on stderr that names what was wrong. */
int options_parse(struct options *o, int argc, char **argv);
void options_free(struct options *o);
void options_usage(const char *program);
/* "64M", "1G", plain bytes; -EINVAL. */
int parse_size(const char *s, uint64_t *out);
/* Names of enum short_dio and dio_mtime in their order. */
extern const char *const short_dio_names[5];
extern const char *const dio_mtime_names[2];

#endif
