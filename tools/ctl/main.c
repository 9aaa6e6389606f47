/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * glockctl: look into a gfs2-fuse mount and its locks (docs/man/glockctl.8; protocol:
 * gfs2-fuse/control.h).
 *
 * The command line: one command, or the REPL.  Exit status: 0 done, 1 refused or failed, 2 usage.
 */
#include "glockctl.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *sources[MAX_SOURCES];
unsigned nr_sources;

static void vcomplain(const char *fmt, va_list ap)
{
	fflush(stdout);
	fprintf(stderr, "glockctl: ");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vcomplain(fmt, ap);
	va_end(ap);
}

void die(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vcomplain(fmt, ap);
	va_end(ap);
	exit(status);
}

void *must(void *p)
{
	if (!p)
		die(EXIT_REFUSED, "out of memory");
	return p;
}

void *grow(void *array, size_t nr, size_t size)
{
	return nr & (nr - 1) ? array : must(reallocarray(array, nr ? 2 * nr : 1, size));
}

void print_usage(FILE *out)
{
	fprintf(out, "usage: glockctl [-m DIR | -s SOCKET] [--json] [COMMAND [ARGUMENT]...]\n"
		     "  -m DIR      the mount on DIR (default: the only one, or the one a PATH is on)\n"
		     "  -s SOCKET   the control socket itself; several, for explain (other sources, too) and run\n"
		     "  --json      machine-readable output\n"
		     "Without a command, on a terminal: commands one after another (repl).\n"
		     "commands (help COMMAND tells more):\n");
	print_synopses(out);
	fprintf(out, "A GLOCK is TYPE/NUMBER (hexadecimal, like 2/35f8), inode:NUMBER or rgrp:BLOCK (decimal).\n");
}

/* Take --json and --help out of the words after the command; returns how many are left. */
static int take_flags(int argc, char **argv, bool *json, bool *help)
{
	int i, n = 0;

	for (i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			*json = true;
		else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			*help = true;
		else
			argv[n++] = argv[i];
	}
	return n;
}

/* The first operand that is a path tells which mount is meant. */
static const char *first_path(const char *cmd, int argc, char **argv)
{
	struct stat st;
	int i;

	/* The directory behind the file, which itself is anywhere. */
	if (!strcmp(cmd, "run")) {
		for (i = 0; i < argc && argv[i][0] == '-' && argv[i][1]; i++)
			;
		return i + 1 < argc ? argv[i + 1] : NULL;
	}
	/* Also a bare name, which may be a link to somewhere else; what is not there tells nothing. */
	for (i = 0; i < argc; i++)
		if (is_operand_glock(cmd, argc, argv, i) && !is_glock(argv[i]) && (strchr(argv[i], '/') || !lstat(argv[i], &st)))
			return argv[i];
	return NULL;
}

static int connect_to(const char *dir, const struct command *cmd, int argc, char **argv, struct conn *c)
{
	int error;

	if (!nr_sources)
		return find_mount(dir, first_path(cmd->name, argc, argv), c);
	error = conn_open(sources[0], c);
	if (!error)
		return EXIT_DONE;
	complain("%s: %s", sources[0], c->why);
	return EXIT_REFUSED;
}

int main(int argc, char **argv)
{
	const struct command *cmd;
	const char *dir = NULL;
	char *all[] = { (char *)"all", NULL };
	bool json = false, help = false;
	struct stat st;
	struct conn c;
	int i, status;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			print_usage(stdout);
			return fflush(stdout) ? EXIT_REFUSED : EXIT_DONE;
		} else if (!strcmp(argv[i], "--version")) {
			printf("glockctl " GFS2_FUSE_VERSION "\n");
			return EXIT_DONE;
		} else if (!strcmp(argv[i], "-m") && i + 1 < argc) {
			dir = argv[++i];
		} else if (!strcmp(argv[i], "-s") && i + 1 < argc && nr_sources < MAX_SOURCES) {
			sources[nr_sources++] = argv[++i];
		} else {
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	/* A script that forgets the command is told so. */
	cmd = i < argc ? find_command(argv[i]) : isatty(STDIN_FILENO) ? find_command("repl") : NULL;
	if (!cmd || (dir && nr_sources)) {
		/* A word that is wrong is not to be lost above a page of others. */
		if (!cmd && i < argc)
			complain("unknown command %s; `glockctl help` lists them", argv[i]);
		else
			print_usage(stderr);
		return EXIT_USAGE;
	}
	argv += i < argc ? i + 1 : argc;
	argc = take_flags(i < argc ? argc - i - 1 : 0, argv, &json, &help);
	if (help) {
		print_help(cmd, json);
		return EXIT_DONE;
	}
	if (cmd->session == SESSION_ONLY) {
		complain("%s is about what a session has set up: begin one with `glockctl`, or give commands to `glockctl repl`", cmd->name);
		return EXIT_USAGE;
	}
	if (cmd->no_mount || (!strcmp(cmd->name, "run") && argc && !strcmp(argv[0], "--check")))
		return run_command(NULL, cmd, argc, argv, json);
	if (nr_sources > 1 && strcmp(cmd->name, "explain") && strcmp(cmd->name, "run")) {
		complain("only explain and run look at several mounts at once");
		return EXIT_USAGE;
	}
	/* Its sources may be recordings, or far away. */
	if (!strcmp(cmd->name, "explain") && nr_sources && (nr_sources > 1 || stat(sources[0], &st) || !S_ISSOCK(st.st_mode)))
		return run_command(NULL, cmd, argc, argv, json);
	status = connect_to(dir, cmd, argc, argv, &c);
	if (status)
		return status;
	/* Stops are wanted when they happen, also by a pipe. */
	if (!strcmp(cmd->name, "break"))
		setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(cmd->name, "break") || !strcmp(cmd->name, "hold") || !strcmp(cmd->name, "record") ||
	    !strcmp(cmd->name, "run") || !strcmp(cmd->name, "top"))
		interrupt_catch();
	/* This session has nothing; who asks means everybody's. */
	if (cmd->session == SESSION_LIST && !argc) {
		argc = 1;
		argv = all;
	}
	status = run_command(&c, cmd, argc, argv, json);
	conn_close(&c);
	return status;
}
