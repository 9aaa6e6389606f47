/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands: most are the daemon's, some are made of several of its answers.
 */
#include "glockctl.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- commands of our own --- */

static void mount_line(struct conn *c, void *arg)
{
	char device[PATH_MAX] = "", proto[32] = "", table[128] = "";
	long long node = 0, pid = 0;

	if (*(bool *)arg) {
		printf("%s\n", c->greeting);
		return;
	}
	json_get(c->greeting, "device", device, sizeof(device));
	json_get(c->greeting, "lockproto", proto, sizeof(proto));
	json_get(c->greeting, "locktable", table, sizeof(table));
	json_number(c->greeting, "node", &node);
	json_number(c->greeting, "pid", &pid);
	printf("%-24s %-24s %s %s node %lld pid %lld\n  %s\n", c->mountpoint, device, proto, *table ? table : "-", node, pid, c->path);
}

static int cmd_mounts(struct conn *c, int argc, char **argv, bool json)
{
	if (argc) {
		complain("usage: mounts");
		return EXIT_USAGE;
	}
	return each_mount(mount_line, &json) ? EXIT_DONE : EXIT_REFUSED;
}

/* A breakpoint lives as long as its connection, so this stays and tells the hits. */
static int cmd_break(struct conn *c, int argc, char **argv, bool json)
{
	int status = send_request(c, "break", argc, argv, json);

	if (!status)
		status = print_answer(c, "break", json);
	while (!status && !interrupted()) {
		char *forever[] = { (char *)"3600" };

		status = send_request(c, "wait", 1, forever, json);
		if (!status)
			status = print_answer(c, "wait", json);
	}
	return interrupted() ? EXIT_DONE : status;
}

/* The same: kept until a signal comes, or the input ends. */
static int cmd_hold(struct conn *c, int argc, char **argv, bool json)
{
	int status = send_request(c, "hold", argc, argv, json);
	struct pollfd p[3] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = c->fd, .events = POLLIN },
			       { .fd = interrupt_fd(), .events = POLLIN } };
	char buf[64];

	if (!status)
		status = print_answer(c, "hold", json);
	while (!status && !interrupted()) {
		/* The daemon says nothing unless it ends. */
		if (poll(p, 3, -1) < 0)
			continue;
		if (p[1].revents || p[2].revents || read(STDIN_FILENO, buf, sizeof(buf)) <= 0)
			break;
	}
	return status;
}

static int cmd_repl(struct conn *c, int argc, char **argv, bool json)
{
	if (argc) {
		complain("usage: repl");
		return EXIT_USAGE;
	}
	return repl(c, json);
}

static int cmd_help(struct conn *c, int argc, char **argv, bool json)
{
	const struct command *cmd = argc == 1 ? find_command(argv[0]) : NULL;

	if (cmd) {
		print_help(cmd, json);
		return EXIT_DONE;
	}
	if (!argc && json) {
		print_all_help_json();
		return EXIT_DONE;
	}
	if (!argc) {
		print_usage(stdout);
		return EXIT_DONE;
	}
	complain(argc == 1 ? "unknown command %s; `glockctl help` lists them" : "usage: help [COMMAND]", argv[0]);
	return EXIT_USAGE;
}

/* --- the list --- */

const struct command commands[] = {
	{ "mounts", "mounts", "List the mounts of this machine that can be looked into.", .fn = cmd_mounts, .no_mount = true },
	{ "dump", "dump [GLOCK|PATH]...",
	  "Print the glocks of this node in the format of the kernel's debugfs file\n"
	  "`glocks`.",
	  "dump /mnt/file                  this file's lock: state, holders, waiters\n"
	  "dump 2/35f8 inode:13816         by name and by inode number\n" },
	{ "locks", "locks [--waiting]",
	  "List the glocks in short, or those that somebody waits for with who waits\n"
	  "and who holds.",
	  "locks --waiting                 what is stuck?\n", .fn = cmd_locks },
	{ "where", "where PATH|GLOCK",
	  "Print the locks behind a path: the inode's, its IOPEN lock, the one of its\n"
	  "resource group.  In a session without an operand: the same as info.",
	  "where /mnt/file\n", .fn = cmd_where },
	{ "explain", "explain [-t SECONDS] [PATH|GLOCK]",
	  "Say in words who waits for whom, and why, on this node and on the other\n"
	  "mounts of the same file system on this machine.  With -s, given several\n"
	  "times, of other nodes: a socket, ssh:HOST[:DIR], cluster:NODE of a cluster that\n"
	  "tools/cluster has started, or a recording, of which -t chooses the moment,\n"
	  "counted from the begin of the first (its end).",
	  "explain                         who waits for whom\n"
	  "explain /mnt/file               who waits for this file's lock\n", .fn = cmd_explain },
	{ "map", "map PATH|GLOCK",
	  "Print where a file's blocks are: what the tree on disk says, and what is\n"
	  "known in memory.",
	  "map /mnt/file\n", .json = true },
	{ "dio", "dio PATH|GLOCK",
	  "Print how many direct reads and writes of a file are in flight, and what\n"
	  "became of those that were made: direct, or why not.",
	  "dio /mnt/file                   do its direct writes fall back, and why?\n", .json = true },
	{ "stats", "stats [PATH|GLOCK]...",
	  "Print how long holders waited for locks and held them: by type since the\n"
	  "mount, or of these locks since they came into memory.",
	  "stats                           by type\n"
	  "stats /mnt/file                 one lock's histograms\n", .json = true },
	{ "top", "top [-d SECONDS] [-k SORT] [-f FILTER] [--once | --batch] [-n COUNT] [-l LINES]",
	  "Watch the busiest locks on the whole screen: states, who holds and waits,\n"
	  "requests, transitions and bounces per second, direct I/O and what fell back;\n"
	  "Enter opens a lock's own page, ? tells the keys.  SORT: requests, transitions,\n"
	  "bounces, waiters, direct, state, name.  --once, --batch, --json: as text, once\n"
	  "or COUNT times, LINES locks.",
	  "top -k waiters                  those that are waited for first\n"
	  "top --batch -n 10 -f inode      ten times as text, inodes only\n", .fn = cmd_top },
	{ "demote", "demote GLOCK|PATH UN|SH|DF [SECONDS]",
	  "Make this node give a lock up, as if another node had asked for it.  Fails if\n"
	  "it is still in use after SECONDS (10).",
	  "demote /mnt/file UN             write back, drop all caches, give it up\n", .json = true },
	{ "hold", "hold GLOCK|PATH EX|DF|SH [SECONDS]",
	  "Play another node: ask for the lock in that state, for SECONDS (10) at most,\n"
	  "and keep it until Ctrl-C or the end of the input (in a session: until release).\n"
	  "What this node wants of it waits meanwhile.  In the background of a script the\n"
	  "input is /dev/null, which has ended: give it another, like `<> FIFO`.",
	  "hold /mnt/file EX               as if another node wrote the file\n"
	  "hold /mnt/file DF               as if another node did direct I/O\n", .fn = cmd_hold, .json = true },
	{ "trace", "trace [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK|PATH] [-p PID] [-r REQUEST] [-s SEQ]",
	  "Print events as they happen: until COUNT were printed, SECONDS are over, or\n"
	  "Ctrl-C.  -e, -g, -p, -r choose events; -s starts with number SEQ (0: all that\n"
	  "are still known).  With --json one object a line.",
	  "trace -g /mnt/file              what happens to this file's lock\n"
	  "trace -e dlm_bast,glock_state   demands of other nodes, and what comes of them\n"
	  "trace -s 0 -t 0                 what has happened lately\n" },
	{ "record", "record FILE [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK|PATH] [-p PID] [-r REQUEST] [-s SEQ]",
	  "Write events into FILE, for show, timeline and explain, until Ctrl-C or as\n"
	  "trace ends.",
	  "record /tmp/slow.rec -t 10      ten seconds, all locks\n", .fn = cmd_record },
	{ "show", "show FILE", "Print a recording as trace would have; with --json as it is.",
	  "show /tmp/slow.rec\n", .fn = cmd_show, .no_mount = true },
	{ "timeline", "timeline FILE... [-o OUT] [-g GLOCK|PATH]... [--linear] [--json]",
	  "Draw recordings, of one or several nodes, as a picture (SVG): a lane for each\n"
	  "node and lock, its states, who waited for it and held it, direct I/O,\n"
	  "breakpoints.  --json: for ui.perfetto.dev.  Quiet times are cut short unless\n"
	  "--linear.",
	  "timeline a.rec b.rec -o both.svg\n"
	  "timeline a.rec --json -o a.json\n", .fn = cmd_timeline, .no_mount = true },
	{ "break",
	  "break [-c COUNT] [-p PID] [-n NODE] [-t SECONDS] [-1] GLOCK|PATH|any FROM->TO"
	  " | dio hole|drain|upgrade|buffered [GLOCK|PATH] | dlm request|ast|bast [GLOCK|PATH]",
	  "Stop a lock's transition, a phase of a direct write, or a message of the lock\n"
	  "manager, while everything else goes on.  FROM and TO: a state, several with |,\n"
	  "or *.  -c: from the COUNTth on; -p: of this process; -n: on this node, nothing\n"
	  "on others; -t: let go after SECONDS (60); -1: once.  Until Ctrl-C hits are told\n"
	  "as they happen, and let go when their time is over; in a session they can be\n"
	  "stepped.",
	  "break inode:13816 DF->EX        stop an upgrade of this file's lock\n"
	  "break any *->UN                 stop whatever is given up\n"
	  "break dio hole /mnt/file        a direct write of it that has found a hole\n"
	  "break -p 4711 -t 10 dlm request what this process asks the lock manager\n", .fn = cmd_break, .json = true },
	{ "run", "run [--keep | --check] FILE [DIR]...",
	  "Run a scenario, with breakpoints and steps, in a directory of its own below DIR\n"
	  "(the mount point), and tell what each step caused; fails when something is not\n"
	  "as the scenario expects.  For several nodes a DIR on the mount of each.\n"
	  "--keep: leave the directory; --check: only read FILE.",
	  "run /usr/share/gfs2-fuse/scenarios/s2018_async.txt\n", .fn = cmd_run },
	{ "get", "get [NAME]", "Print a tunable's value, or all.  `stats` are counters.",
	  "get short_dio\n"
	  "get stats                       all counters; one: stats.withdrawn\n", .json = true },
	{ "set", "set [-s] NAME VALUE | -u",
	  "Change a tunable: short_dio, dio_mtime, dio_mtime_interval, dio_rest, commit,\n"
	  "min_hold, cache, events, data_events, or fault (adds a rule; `none` removes\n"
	  "all).  -s: until this session ends, or -u undoes it.",
	  "set short_dio async             what a direct write does at a hole\n"
	  "set fault op=write,cls=log,delay_us=200000    a slow journal\n" },
	{ "repl", "repl", "Commands one after another, with history and completion: a session.  The\n"
	  "same without any command.  With --json everything that they print, and hits,\n"
	  "is one JSON object a line.  What follows a # is a comment.",
	  "repl <commands                  until the first that fails\n"
	  "--json repl                     for a program that drives it\n", .fn = cmd_repl },
	/* What belongs to a session. */
	{ "breaks", "breaks [all]", "List this session's breakpoints; all: everybody's, and whose they are.", NULL, .session = SESSION_LIST, .json = true },
	{ "delete", "delete BREAK|all", "Delete a breakpoint.  What it has stopped stays stopped.", NULL, .session = SESSION_ONLY },
	{ "stops", "stops [all]", "List what is stopped; all: by anybody's breakpoints, and whose those are.", NULL, .session = SESSION_LIST, .json = true },
	{ "info", "info [STOP]",
	  "Print who is stopped, where and why: the lock, its holders and waiters, the\n"
	  "direct I/O of its file that is under way, what other nodes have asked for.", NULL, .session = SESSION_ONLY },
	{ "wait", "wait [SECONDS]", "Wait until a breakpoint is hit, for SECONDS (60) at most.", NULL, .session = SESSION_ONLY, .json = true },
	{ "continue", "continue [STOP|all]", "Let go (all).", NULL, .session = SESSION_ONLY, .json = true },
	{ "step", "step [STOP]",
	  "Let go, and stop at the next transition of that lock, or the next phase of a\n"
	  "direct write on it.", NULL, .session = SESSION_ONLY },
	{ "finish", "finish [STOP]",
	  "Let go, and wait for the end of the write, or of the transition.", NULL, .session = SESSION_ONLY },
	{ "timeout", "timeout [SECONDS]",
	  "How long new breakpoints hold at most (60), and locks that are held by hand\n"
	  "once glockctl itself is stopped.", NULL, .session = SESSION_ONLY, .json = true },
	{ "release", "release GLOCK|PATH", "End a hold.", NULL, .session = SESSION_ONLY },
	{ "holds", "holds [all]", "List locks that this session holds by hand; all: everybody's, and who it is.", NULL, .session = SESSION_LIST, .json = true },
	{ "disconnect", "disconnect PID",
	  "End another client's sessions, as if it had ended: its breakpoints are gone,\n"
	  "what they stopped goes on, locks that it holds by hand are released.  Who it\n"
	  "is `breaks all`, `stops all` and `holds all` tell.",
	  "disconnect 4711                 a glockctl that hangs and holds a lock\n" },
	{ "help", "help [COMMAND]", "What there is, or how a command is used.", NULL, .fn = cmd_help, .no_mount = true },
	{ NULL },
};

/* --- help --- */

void print_wrapped(FILE *out, const char *text, int indent)
{
	int column = indent;

	while (*text) {
		int len = (int)strcspn(text, " ");

		if (column > indent && column + 1 + len > 79) {
			fprintf(out, "\n%*s", indent + 4, "");
			column = indent + 4;
		} else if (column > indent) {
			fputc(' ', out);
			column++;
		}
		fwrite(text, 1, (size_t)len, out);
		column += len;
		text += len;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void print_help_json(const struct command *cmd)
{
	printf("{\"command\":");
	put_json_string(cmd->name);
	printf(",\"synopsis\":");
	put_json_string(cmd->synopsis);
	printf(",\"help\":");
	put_json_string(cmd->help);
	printf(",\"examples\":");
	put_json_string(cmd->examples ? cmd->examples : "");
	printf("}\n");
}

void print_all_help_json(void)
{
	for (const struct command *cmd = commands; cmd->name; cmd++)
		print_help_json(cmd);
}

void print_help(const struct command *cmd, bool json)
{
	if (json) {
		print_help_json(cmd);
		return;
	}
	printf("usage: ");
	print_wrapped(stdout, cmd->synopsis, 7);
	printf("%s\n", cmd->help);
	if (cmd->examples)
		printf("Examples:\n%s", cmd->examples);
}

void print_synopses(FILE *out)
{
	for (const struct command *cmd = commands; cmd->name; cmd++) {
		fputs("  ", out);
		print_wrapped(out, cmd->synopsis, 2);
	}
}

const struct command *find_command(const char *name)
{
	const struct command *cmd;

	for (cmd = commands; cmd->name; cmd++)
		if (!strcmp(cmd->name, name))
			return cmd;
	return NULL;
}

int run_command(struct conn *c, const struct command *cmd, int argc, char **argv, bool json)
{
	int status;

	if (cmd->fn)
		return cmd->fn(c, argc, argv, json);
	status = send_request(c, cmd->name, argc, argv, json);
	return status ? status : print_answer(c, cmd->name, json);
}
