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
	each_mount(mount_line, &json);
	return EXIT_DONE;
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
	return repl(c);
}

/* --- the list --- */

const struct command commands[] = {
	{ "mounts", "mounts", "List the mounts of this machine that can be looked into.", cmd_mounts, true },
	{ "dump", "dump [GLOCK|PATH]...",
	  "Print the glocks of this node in the format of the kernel's debugfs file `glocks`." },
	{ "locks", "locks [--waiting]", "List the glocks in short, or those that somebody waits for with who waits and who holds.", cmd_locks },
	{ "where", "where PATH|GLOCK",
	  "Print the locks behind a path: the inode's, its IOPEN lock, the one of its resource group.", cmd_where },
	{ "explain", "explain [-t SECONDS] [PATH|GLOCK]",
	  "Say in words who waits for whom, and why.  With -s given several times, across nodes: a socket,\n"
	  "ssh:HOST, cluster:NODE of a cluster that tools/cluster has started, or a recording, of which -t\n"
	  "chooses the moment, counted from the begin of the first (its end).", cmd_explain },
	{ "map", "map PATH|GLOCK",
	  "Print where a file's blocks are: what the tree on disk says, and what is known in memory.", .json = true },
	{ "dio", "dio PATH|GLOCK",
	  "Print how many direct reads and writes of a file are in flight, and what became of those\n"
	  "that were made: direct, or why not.", .json = true },
	{ "stats", "stats [PATH|GLOCK]...",
	  "Print how long holders waited for locks and held them: by type since the mount, or of these locks\n"
	  "since they came into memory.", .json = true },
	{ "top", "top [-d SECONDS] [-k SORT] [-f FILTER] [--once | --batch] [-n COUNT] [-l LINES]",
	  "Watch the busiest locks on the whole screen: states, who holds and waits, requests, transitions and\n"
	  "bounces per second, direct I/O and what fell back; Enter opens a lock's own page, ? tells the keys.\n"
	  "SORT: requests, transitions, bounces, waiters, direct, state, name.  --once, --batch, --json: as text,\n"
	  "once or COUNT times, LINES locks.", cmd_top },
	{ "demote", "demote GLOCK|PATH UN|SH|DF [SECONDS]",
	  "Make this node give a lock up, as if another node had asked for it.  Fails if it is\n"
	  "still in use after SECONDS (10)." },
	{ "hold", "hold GLOCK|PATH EX|DF|SH [SECONDS]",
	  "Play another node: ask for the lock in that state and keep it until Ctrl-C or the end of the input\n"
	  "(in the REPL: until `release`). What this node wants of it waits meanwhile.", cmd_hold },
	{ "trace",
	  "trace [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK|PATH] [-p PID] [-r REQUEST] [-s SEQ]",
	  "Print events as they happen: until COUNT were printed, SECONDS are over, or Ctrl-C.\n"
	  "-e, -g, -p, -r choose events; -s starts with number SEQ (0: all that are still known).\n"
	  "With --json one object a line." },
	{ "record", "record FILE [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK|PATH] [-p PID] [-r REQUEST] [-s SEQ]",
	  "Write events into FILE, for show and timeline, until Ctrl-C or as trace ends.", cmd_record },
	{ "show", "show FILE", "Print a recording as trace would have; with --json as it is.", cmd_show, true },
	{ "timeline", "timeline FILE... [-o OUT] [-g GLOCK]... [--linear] [--json]",
	  "Draw recordings, of one or several nodes, as a picture (SVG): a lane for each node and lock, its\n"
	  "states, who waited for it and held it, direct I/O, breakpoints.  --json: for ui.perfetto.dev.\n"
	  "Quiet times are cut short unless --linear.", cmd_timeline, true },
	{ "break",
	  "break [-c COUNT] [-p PID] [-n NODE] [-t SECONDS] [-1] GLOCK|PATH|any FROM->TO | dio hole|drain|upgrade|buffered [GLOCK|PATH] | dlm request|ast|bast [GLOCK|PATH]",
	  "Stop a lock's transition, a phase of a direct write, or a message of the lock manager, while\n"
	  "everything else goes on.  FROM and TO: a state, several with |, or *.  -c: from the COUNTth on;\n"
	  "-p: of this process; -n: on this node, nothing on others; -t: let go after SECONDS; -1: once.  Until Ctrl-C hits are told as they happen,\n"
	  "and let go when their time is over; in the REPL they can be stepped.", cmd_break, .json = true },
	{ "run", "run [--keep | --check] FILE [DIR]...",
	  "Run a scenario, with breakpoints and steps, in a directory of its own below DIR (the mount point), and tell\n"
	  "what each step caused; fails when something is not as the scenario expects.  For several nodes a DIR\n"
	  "on the mount of each.  --keep: leave the directory; --check: only read FILE.", cmd_run },
	{ "get", "get [NAME]", "Print a tunable's value, or all.  `stats` are counters.", .json = true },
	{ "set", "set NAME VALUE",
	  "Change a tunable: short_dio, dio_mtime, dio_mtime_interval, dio_rest, commit, cache, events, data_events, or fault\n"
	  "(adds a rule like op=write,cls=data,error=5; `none` removes all)." },
	{ "repl", "repl", "Commands one after another, with history and completion.  The same without any command.", cmd_repl },
	/* What belongs to a connection is of use in the REPL only; they are known so that they can be completed and explained. */
	{ "breaks", "breaks", "List this session's breakpoints.", .json = true },
	{ "delete", "delete BREAK|all", "Delete a breakpoint. What it has stopped stays stopped." },
	{ "stops", "stops [all]", "List what is stopped; all: by anybody's breakpoints.", .json = true },
	{ "wait", "wait [SECONDS]", "Wait until a breakpoint is hit.", .json = true },
	{ "continue", "continue [STOP|all]", "Let go." },
	{ "step", "step [STOP]", "Let go, and stop at the next transition of that lock, or the next phase of a direct write on it." },
	{ "timeout", "timeout [SECONDS]", "How long new breakpoints hold at most." },
	{ "release", "release GLOCK|PATH", "End a hold." },
	{ "holds", "holds [all]", "List locks that are held by hand.", .json = true },
	{ NULL },
};

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
