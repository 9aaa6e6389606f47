/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `run`: a scenario on mounted volumes, step by step, with breakpoints; what each step caused is told, and what was expected is judged.
 *
 * Nothing is waited for by time: a step has ended, something was stopped, somebody waits, or the words that were expected are there;
 * LIMIT_SECONDS is only for what does not come.
 *
 * The volume is left as it was: files are made in a directory of the scenario's own, which is removed; tunables are set back.
 */
#include "run.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --- the steps --- */

static bool start_line(struct run *r, const struct line *l)
{
	struct node *n = &r->nodes[l->node - 1];
	bool ok;
	char *text;

	if (r->json) {
		printf("{\"line\":%u,\"node\":%u,\"step\":", l->line_nr, l->node);
		put_json_string(l->text);
		printf("}\n");
	} else {
		printf("%s\n", l->text);
	}
	fflush(stdout);
	if (l->control) {
		ok = run_control(r, n, l);
		if (ok && r->said && *r->said && strcmp(l->words[0], "set")) {
			char *save = NULL, *copy = must(strdup(r->said));

			for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
				run_tell_of(r, l, "says", l->node, line);
			free(copy);
		}
		return ok;
	}
	text = run_step_text(l);
	ok = run_begin(r, n, l, text);
	free(text);
	return ok;
}

/* A step without outcome ends, or is stopped, and is told. */
static void settle(struct run *r, const struct line *l)
{
	struct node *n = &r->nodes[l->node - 1];
	char got[8192] = "";

	for (size_t i = 0; i < l->nr_outcomes; i++)
		if (l->outcomes[i].kind == OUT_RESULT || l->outcomes[i].kind == OUT_STOP || l->outcomes[i].kind == OUT_WAITS)
			return;
	if (l->control || n->busy != l)
		return;
	if (run_await_end(r, l, n, got, sizeof(got)) || *r->why)
		return;
	run_tell_of(r, l, "note", l->node, got);
	run_next_stop(r, 0, got, sizeof(got));
}

/* @first and those that run at the same time; returns the last of them. */
static const struct line *run_group(struct run *r, const struct line *first)
{
	const struct line *last = first, *l;

	if (first->pause > 0 && !run_pause(first->pause)) {
		run_broken(r, "interrupted");
		return NULL;
	}
	for (l = first;; l = l->next) {
		if (l->later > 0 && !run_pause(l->later))
			run_broken(r, "interrupted");
		if (*r->why || !start_line(r, l))
			return NULL;
		last = l;
		if (!l->next || !l->next->together)
			break;
	}
	for (l = first; !*r->why; l = l->next) {
		settle(r, l);
		for (size_t i = 0; i < l->nr_outcomes && !*r->why; i++)
			run_judge(r, l, &l->outcomes[i]);
		if (l == last)
			break;
	}
	run_await_release(r);
	for (unsigned i = 0; i < r->s->nodes && !*r->why; i++) {
		struct node *n = &r->nodes[i];
		char *words;

		if (!run_read_events(r, n))
			break;
		words = run_words(r, n);
		if (*words)
			run_tell_of(r, first, "locks", i + 1, words);
		free(words);
		n->line_start = n->nr_events;
	}
	return *r->why ? NULL : last;
}

static void run_steps(struct run *r)
{
	const struct line *l;

	for (l = r->s->steps; l; l = l->next) {
		l = run_group(r, l);
		if (!l)
			return;
	}
	for (l = r->s->content; l && !*r->why; l = l->next)
		run_judge_content(r, &l->outcomes[0]);
}

/* --- beginning and end --- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	remove(path);
	return 0;
}

/*
 * What the run has set is as before when it has ended.  The daemon does that at the end of a connection by itself, but nobody would know when; after
 * Ctrl-C there may be an answer under way, which comes first.
 */
static void set_back(struct node *n)
{
	char *undo[] = { (char *)"-u" }, *line;
	int answers = 1 + n->asked;

	conn_patience(&n->conn, LIMIT_SECONDS);
	if (send_request(&n->conn, "set", 1, undo, false))
		return;
	while (answers && (line = conn_line(&n->conn)))
		answers -= line[0] != ' ' && line[0] != '*';
}

/* Let everything go, then wait for the hands: what they do can end now. */
static void end_nodes(struct run *r)
{
	for (unsigned i = 0; i < r->s->nodes; i++)
		if (r->nodes[i].conn.buf) {
			set_back(&r->nodes[i]);
			conn_close(&r->nodes[i].conn);
		}
	for (unsigned i = 0; i < r->s->nodes; i++) {
		struct node *n = &r->nodes[i];
		double end = run_now() + LIMIT_SECONDS;
		pid_t ended;

		if (n->pid) {
			close(n->to);
			while (!(ended = waitpid(n->pid, NULL, WNOHANG)) && run_now() < end) {
				struct timespec ms = { .tv_nsec = 1000000 };

				nanosleep(&ms, NULL);
			}
			/* Once it has been waited for, the number may be another process's. */
			if (!ended) {
				kill(n->pid, SIGKILL);
				waitpid(n->pid, NULL, 0);
			}
			close(n->from);
		}
	}
}

static void free_run(struct run *r)
{
	for (unsigned i = 0; i < r->s->nodes; i++) {
		struct node *n = &r->nodes[i];

		while (n->nr_stops)
			free(n->stops[--n->nr_stops]);
		free(n->events);
		free(n->dir);
	}
	while (r->objects) {
		struct object *o = r->objects;

		r->objects = o->next;
		free(o->name);
		free(o);
	}
	free(r->said);
	free(r->nodes);
}

/* A node for each directory; the first is also where the scenario's own directory is made. */
static int open_nodes(struct run *r, const char *path, int nr_dirs, char **dirs)
{
	for (unsigned i = 0; i < r->s->nodes; i++) {
		struct node *n = &r->nodes[i];
		const char *dir = i < (unsigned)nr_dirs ? dirs[i] : NULL;
		char socket[sizeof(n->conn.path)];
		struct conn found;
		int status;

		if (i == 0 || i < nr_sources) {
			snprintf(socket, sizeof(socket), "%s", i ? sources[i] : path);
		} else {
			status = find_mount(NULL, dir, &found);
			if (status)
				return status;
			strcpy(socket, found.path);
			conn_close(&found);
		}
		if (conn_open(socket, &n->conn)) {
			complain("%s: %s", socket, n->conn.why);
			n->conn.buf = NULL;
			return EXIT_REFUSED;
		}
		if (asprintf(&n->dir, "%s/%s", dir ? dir : n->conn.mountpoint, r->s->name) < 0)
			die(EXIT_REFUSED, "out of memory");
		if (i == 0 && mkdir(n->dir, 0755)) {
			complain("%s: %s", n->dir, strerror(errno));
			free(n->dir);
			n->dir = NULL;
			return EXIT_REFUSED;
		}
	}
	return EXIT_DONE;
}

static int run_scenario(struct run *r, const char *path, int nr_dirs, char **dirs)
{
	int status;

	r->nodes = must(calloc(r->s->nodes, sizeof(*r->nodes)));
	status = open_nodes(r, path, nr_dirs, dirs);
	if (!status) {
		if (r->json) {
			printf("{\"scenario\":");
			put_json_string(r->s->name);
			printf(",\"about\":");
			put_json_string(r->s->about);
			printf("}\n");
		} else {
			printf("%s: %s\n", r->s->name, r->s->about);
		}
		for (unsigned i = 0; i < r->s->nodes && !*r->why; i++)
			run_start_hands(r, &r->nodes[i], i + 1);
		if (!*r->why && run_prepare(r))
			run_steps(r);
	}
	/* What follows is to be done whatever has happened. */
	interrupt_clear();
	end_nodes(r);
	if (r->nodes[0].dir && !r->keep)
		nftw(r->nodes[0].dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	if (status)
		return status;
	if (*r->why)
		complain("%s: %s", r->s->name, r->why);
	if (r->json)
		printf("{\"expectations\":%u,\"failed\":%u,\"completed\":%s}\n", r->judged, r->failed, *r->why ? "false" : "true");
	else if (!*r->why && r->failed)
		printf("%s: %u of %u expectations FAILED\n", r->s->name, r->failed, r->judged);
	else if (!*r->why)
		printf("%s: %u expectations met\n", r->s->name, r->judged);
	return *r->why || r->failed ? EXIT_REFUSED : EXIT_DONE;
}

int cmd_run(struct conn *c, int argc, char **argv, bool json)
{
	struct run r = { .json = json };
	struct scenario *s;
	bool check = false;
	int status;

	for (; argc && argv[0][0] == '-' && argv[0][1]; argc--, argv++) {
		if (!strcmp(argv[0], "--keep"))
			r.keep = true;
		else if (!strcmp(argv[0], "--check"))
			check = true;
		else
			break;
	}
	if (argc < 1 || argc > 1 + SCENARIO_NODES || (argv[0][0] == '-' && argv[0][1])) {
		complain("usage: %s", find_command("run")->synopsis);
		return EXIT_USAGE;
	}
	s = scenario_read(argv[0]);
	if (!s)
		return EXIT_REFUSED;
	r.s = s;
	if (check) {
		status = EXIT_DONE;
	} else if (s->nodes > 1 && (unsigned)argc - 1 != s->nodes && nr_sources != s->nodes) {
		complain("%s needs %u nodes: give a directory on each of their mounts, or -s for each", s->name, s->nodes);
		status = EXIT_USAGE;
	} else {
		signal(SIGPIPE, SIG_IGN);
		status = run_scenario(&r, c->path, argc - 1, argv + 1);
		free_run(&r);
	}
	scenario_free(s);
	return status;
}
