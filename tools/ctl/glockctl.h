/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * glockctl's parts: the connection to a daemon, requests and answers, and the commands that are made of several of them.
 *
 * One thread.  Functions that can fail say why on stderr and return an exit status; nothing but die() ends the program.
 */
#ifndef GLOCKCTL_H
#define GLOCKCTL_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "gfs2-fuse/control.h"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void die(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
/* @p, or the end of the program if there is no memory. */
void *must(void *p);
/* Room for one more in @array, which has @nr of @size. */
void *grow(void *array, size_t nr, size_t size);

/* --- interrupt.c: Ctrl-C, SIGTERM and SIGHUP --- */

/* Who waits for a daemon stops waiting.  Never lost: looked at before every wait, and the wait sees it come. */
bool interrupted(void);
/* It was not Ctrl-C: not only what runs is to end. */
bool interrupt_ended(void);
void interrupt_clear(void);
/* Take them this way from now on. */
void interrupt_catch(void);
/* Readable while interrupted; -1 before interrupt_catch(). */
int interrupt_fd(void);

/* --- terminal.c --- */

/* After interrupt_catch(): readline waits for keys and for Ctrl-C alike. */
void terminal_keys(void);

/* --- conn.c: one connection, and finding the mount --- */

struct conn {
	int fd;
	char *buf;		/* GFS2_CTL_MAX_LINE + 1 */
	bool greeted;		/* the daemon has said who it is: it may take its time now */
	size_t len, used;	/* bytes there; bytes of the line given out last */
	char path[108];		/* of the socket */
	char greeting[2 * PATH_MAX]; /* the JSON object of the greeting */
	char mountpoint[PATH_MAX];
	char why[PATH_MAX];	/* after an error of conn_open(): the reason */
};

/* 0 and a connection whose greeting was read, or -errno with the reason in c->why. */
int conn_open(const char *path, struct conn *c);
void conn_close(struct conn *c);
/* From now on conn_line() gives up when nothing has come for so long. */
void conn_patience(struct conn *c, int seconds);
/* The next line without its end, valid until the next call; NULL when the daemon has closed, or interrupted(). */
char *conn_line(struct conn *c);
/* Is a whole line there already? */
bool conn_has_line(const struct conn *c);
/* The mount on @dir, or the one that @path is on, or the only one.  EXIT_*. */
int find_mount(const char *dir, const char *path, struct conn *c);
/* Call @fn for every mount that answers.  False: there is one that does not (the last was told), and none that does. */
bool each_mount(void (*fn)(struct conn *c, void *arg), void *arg);
/* The string value of @key in a flat JSON object, as bytes (see the daemon's writer); false: not there. */
bool json_get(const char *json, const char *key, char *out, size_t size);
/* The same for a number. */
bool json_number(const char *json, const char *key, long long *out);
bool json_double(const char *json, const char *key, double *out);

/* --- request.c: words for the daemon --- */

bool is_glock(const char *s);
/* Which operand of @cmd is a glock? @prev: the word before it. */
bool names_glock(const char *cmd, int index, const char *prev);
/* Is the operand @i of those of @cmd one, `break`'s too? */
bool is_operand_glock(const char *cmd, int argc, char **argv, int i);
/* What the daemon understands for the operand @s: itself, or the inode a path leads to; NULL: there is none, which was said. */
char *resolve(const struct conn *c, const char *s);
/* EXIT_*.  Names are resolved, --json and --text are put where the daemon takes them. */
int send_request(const struct conn *c, const char *cmd, int argc, char **argv, bool json);

/* --- answer.c --- */

/* Print the answer to @cmd as it comes.  EXIT_*. */
int print_answer(struct conn *c, const char *cmd, bool json);
/* What the last line of an answer means, an error said on stderr unless @quiet; -1: it is not the last. */
int answer_status(const char *line, bool quiet);
/*
 * The answer as text, lines without the blank, each ended by a newline; to be freed.  NULL: an error, said on stderr unless @quiet.
 */
char *ask(struct conn *c, bool quiet, const char *cmd, ...) __attribute__((sentinel));
/* On stdout, quoted. */
void put_json_string(const char *s);
/* On stdout, the first lock of a dump as an object, or null. */
void put_dump_json(const struct conn *c, const char *dump);
/* On stdout, a path in one line, as the kernel prints them. */
void put_plain(const char *s);
/* A stop, as the daemon's JSON tells it, in words. */
void print_stop(FILE *out, const char *json);
/* One "* {json}" line, if @line is one; as JSON for a command that wants JSON, and in a session that does. */
bool print_notice(FILE *out, const char *line, bool json);
/* A session of which everything is JSON: hits are, too, whichever command they meet. */
void hits_as_json(void);
/* The number of the stop that was told last; 0: none since hit_forget(). */
long long hit_told(void);
void hit_forget(void);

/* --- commands.c: what glockctl knows to do --- */

struct command {
	const char *name, *synopsis, *help, *examples; /* the last: lines, or NULL */
	/* NULL: the daemon's.  Otherwise run with words after the command. */
	int (*fn)(struct conn *c, int argc, char **argv, bool json);
	bool no_mount;		/* needs no connection (c is NULL) */
	bool json;		/* the daemon takes --json */
	/* It is about what one session has set up; without one: everybody's is listed, or it makes no sense. */
	enum { SESSION_NO, SESSION_LIST, SESSION_ONLY } session;
};
extern const struct command commands[];
const struct command *find_command(const char *name);
/* Run one command on @c.  EXIT_*. */
int run_command(struct conn *c, const struct command *cmd, int argc, char **argv, bool json);
/* How it is used; @json: as an object on a line. */
void print_help(const struct command *cmd, bool json);
void print_all_help_json(void);
/* @text, at most 79 columns, broken at blanks; what was printed before it took @indent. */
void print_wrapped(FILE *out, const char *text, int indent);
/* One or more lines for each command. */
void print_synopses(FILE *out);
/* main.c */
void print_usage(FILE *out);

/* --- explain.c, repl.c (its parts: repl.h) --- */

/* Other nodes for explain: a socket, ssh:HOST, cluster:NODE. */
extern const char *sources[];
extern unsigned nr_sources;
#define MAX_SOURCES 16

int cmd_locks(struct conn *c, int argc, char **argv, bool json);
int cmd_where(struct conn *c, int argc, char **argv, bool json);
int cmd_explain(struct conn *c, int argc, char **argv, bool json);
int repl(struct conn *c, bool json);

/* --- paths.c: of inodes that somebody has open --- */

struct paths;
struct paths *paths_find(const struct conn *c);
/* NULL: nobody knows. */
const char *paths_of(const struct paths *p, unsigned long long inode);
/* The same for the inode that a lock belongs to. */
const char *paths_of_lock(const struct paths *p, const char *lock);
void paths_free(struct paths *p);

/* --- top.c --- */

int cmd_top(struct conn *c, int argc, char **argv, bool json);

/* --- run.c --- */

int cmd_run(struct conn *c, int argc, char **argv, bool json);

/* --- record.c, timeline.c --- */

int cmd_record(struct conn *c, int argc, char **argv, bool json);
int cmd_show(struct conn *c, int argc, char **argv, bool json);
int cmd_timeline(struct conn *c, int argc, char **argv, bool json);

#endif
