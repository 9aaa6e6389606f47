/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a line of the REPL does.  Most commands are glockctl's own, on the session's connection, so that breakpoints live from one to the next;
 * those that look at what is stopped, and those that run until they are ended, are done here.
 *
 * What runs until it is ended gets a connection of its own: the daemon answers one command of a connection at a time, and the session's must
 * stay free.
 */
#include "repl.h"
#include "dump.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

int split_line(char *line, char **words)
{
	char *to = line, *s = line;
	int n = 0;

	for (;;) {
		s += strspn(s, " \t");
		if (!*s || *s == '#')
			break;
		if (n == MAX_WORDS)
			return -1;
		words[n++] = to;
		while (*s && *s != ' ' && *s != '\t') {
			if (*s == '\\' && s[1]) {
				s++;
				*to++ = *s++;
			} else if (*s == '"' || *s == '\'') {
				char quote = *s++;

				while (*s && *s != quote)
					*to++ = *s++;
				if (!*s++)
					return -1;
			} else {
				*to++ = *s++;
			}
		}
		s += *s != 0;
		*to++ = 0;
	}
	return n;
}
static int help(struct session *s, int argc, char **argv)
{
	const struct command *cmd;

	if (argc > 1) {
		complain("usage: help [COMMAND]");
		return EXIT_USAGE;
	}
	if (!argc && s->json) {
		print_all_help_json();
		return EXIT_DONE;
	}
	if (!argc) {
		print_synopses(stdout);
		printf("  quit\nhelp COMMAND tells more.  A GLOCK is TYPE/NUMBER (hexadecimal) or inode:NUMBER\n(decimal); paths work as well.\n");
		return EXIT_DONE;
	}
	cmd = find_command(argv[0]);
	if (!cmd) {
		complain("unknown command %s; `help` lists them", argv[0]);
		return EXIT_USAGE;
	}
	print_help(cmd, s->json);
	return EXIT_DONE;
}

/* The JSON of stop @id (NULL: the only one), to be freed. */
static char *one_stop(struct session *s, const char *id, long long *number)
{
	char *text = NULL, *line, *save = NULL, *found = NULL;
	unsigned nr = 0;

	/* "--json" as a word: ask() sends words as they are. */
	text = ask(s->c, false, "stops", "--json", NULL);
	for (line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		json_number(line, "stop", number);
		if (id && *number != strtoll(id, NULL, 10))
			continue;
		nr++;
		free(found);
		found = strdup(line);
	}
	free(text);
	if (nr != 1) {
		complain(nr ? "several are stopped, say which (`stops`)" : "nothing is stopped%s", nr ? "" : id ? " with that number" : "");
		free(found);
		return NULL;
	}
	json_number(found, "stop", number);
	return found;
}

/* Who has the lock, who waits for it, who else wants it. */
static void info_lock(struct session *s, const char *glock)
{
	char *text = ask(s->c, false, "dump", glock, NULL), *copy = text ? strdup(text) : NULL;
	struct node n = { .name = "" };
	unsigned long long usecs;
	char who[100], wanted[4];

	if (copy)
		read_dump(&n, copy);
	for (unsigned i = 0; n.nr && i < n.locks[0].nr; i++) {
		const struct holder *h = &n.locks[0].holders[i];

		printf("  %s %s %s, in %s\n", who_words(h, who, sizeof(who)), h->waits ? "waits for" : "holds", h->state, h->where);
	}
	if (n.nr && !n.locks[0].nr)
		printf("  nobody on this node holds it or waits for it\n");
	/* "d:STATE/MICROSECONDS": since when it is asked for */
	if (n.nr && strpbrk(n.locks[0].flags, "dD") && sscanf(strstr(text, " d:") ? strstr(text, " d:") : "", " d:%2[A-Z]/%llu", wanted, &usecs) == 2)
		printf("  to be given up: asked %.3f s ago to go down to %s\n", (double)usecs / 1e6, wanted);
	printf("%s", text ? text : "");
	free_node(&n);
	free(copy);
	free(text);
}

/* The stop's members, and with them the lock's and how much direct I/O of the file is under way. */
static void info_json(struct session *s, const char *stop)
{
	char glock[64], *text;
	long long under_way;

	/* All but the last brace. */
	printf("%.*s", (int)strlen(stop) - 1, stop);
	if (json_get(stop, "glock", glock, sizeof(glock))) {
		text = glock[0] == '2' ? ask(s->c, true, "dio", "--json", glock, NULL) : NULL;
		if (text && json_number(text, "in_flight", &under_way))
			printf(",\"in_flight\":%lld", under_way);
		free(text);
		text = ask(s->c, true, "dump", glock, NULL);
		printf(",\"lock\":");
		put_dump_json(s->c, text ? text : "");
		free(text);
	}
	puts("}");
}

/* Who, where and why: the stop, its lock with holders and waiters, and the direct I/O of its file. */
static int info(struct session *s, int argc, char **argv, bool json)
{
	char glock[64], *stop, *text;
	long long number, sent, under_way;
	double held, left;

	if (argc > 1) {
		complain("usage: info [STOP]");
		return EXIT_USAGE;
	}
	stop = one_stop(s, argc ? argv[0] : NULL, &number);
	if (!stop)
		return EXIT_REFUSED;
	if (json) {
		info_json(s, stop);
		free(stop);
		return EXIT_DONE;
	}
	print_stop(stdout, stop);
	if (json_double(stop, "held", &held) && json_double(stop, "left", &left))
		printf("  held for %.1f s, lets go in %.1f s\n", held, left);
	if (json_number(stop, "sent", &sent))
		printf("  %lld bytes of it are on their way to the device\n", sent);
	if (json_get(stop, "glock", glock, sizeof(glock))) {
		text = glock[0] == '2' ? ask(s->c, true, "dio", "--json", glock, NULL) : NULL;
		if (text && json_number(text, "in_flight", &under_way) && under_way)
			printf("  direct requests of this file that are under way: %lld\n", under_way);
		free(text);
		info_lock(s, glock);
	}
	free(stop);
	return EXIT_DONE;
}

/*
 * The number behind the latest hit at @glock, in words: since then nothing has happened that `finish` waits for, and a trace from there misses
 * nothing, however late it begins.  False: not known any more.
 */
static bool seq_of_hit(struct conn *c, char *glock, char *seq, size_t size)
{
	char *words[] = { (char *)"-s", (char *)"0", (char *)"-t", (char *)"0", (char *)"-e", (char *)"break_hit", (char *)"-g", glock }, *line;
	long long number = 0;

	if (send_request(c, "trace", 8, words, true))
		return false;
	while ((line = conn_line(c)) && line[0] == ' ')
		json_number(line, "seq", &number);
	snprintf(seq, size, "%lld", number + 1);
	return number;
}

/* Let go, and tell what happens to the lock until the request that was stopped, or the transition, has come to its end. */
static int finish(struct session *s, int argc, char **argv, bool json)
{
	char glock[64] = "", at[32] = "", *stop, id[24], seq[24];
	long long number, req = 0, r;
	struct conn c;
	char *words[] = { (char *)"-t", (char *)"60", (char *)"-g", glock, (char *)"-s", seq }, *line;
	bool is_dio, done = false, known;

	if (argc > 1) {
		complain("usage: finish [STOP]");
		return EXIT_USAGE;
	}
	stop = one_stop(s, argc ? argv[0] : NULL, &number);
	if (!stop)
		return EXIT_REFUSED;
	json_get(stop, "glock", glock, sizeof(glock));
	json_get(stop, "at", at, sizeof(at));
	json_number(stop, "req", &req);
	is_dio = !strncmp(at, "dio", 3);
	free(stop);
	if (conn_open(s->c->path, &c)) {
		complain("%s", c.why);
		return EXIT_REFUSED;
	}
	known = seq_of_hit(&c, glock, seq, sizeof(seq));
	if (send_request(&c, "trace", known ? 6 : 4, words, true)) {
		conn_close(&c);
		return EXIT_REFUSED;
	}
	snprintf(id, sizeof(id), "%lld", number);
	free(ask(s->c, false, "continue", id, NULL));
	while (!done && !interrupted() && (line = conn_line(&c))) {
		char event[32] = "", from[8] = "", to[8] = "";

		if (line[0] != ' ') {
			puts(json ? "{\"event\":null}" : "it goes on (60 s)");
			break;
		}
		json_get(line, "event", event, sizeof(event));
		json_get(line, "from", from, sizeof(from));
		json_get(line, "to", to, sizeof(to));
		r = 0;
		json_number(line, "req", &r);
		done = is_dio ? !strcmp(event, "dio_end") && r == req : !strcmp(event, "glock_state");
		if (done && json) {
			puts(line + 1);
		} else if (done && is_dio) {
			json_number(line, "rc", &r);
			printf("the write has ended: %lld\n", r);
		} else if (done) {
			printf("glock %s %s -> %s\n", glock, from, to);
		}
	}
	conn_close(&c);
	return EXIT_DONE;
}

/* trace and wait run until they are ended: on a connection of their own the first, the second must be the session's. */
static int run_trace(struct session *s, int argc, char **argv, bool json)
{
	struct conn c;
	int status;

	if (conn_open(s->c->path, &c)) {
		complain("%s", c.why);
		return EXIT_REFUSED;
	}
	status = send_request(&c, "trace", argc, argv, json);
	if (!status)
		status = print_answer(&c, "trace", json);
	conn_close(&c);
	return interrupted() ? EXIT_DONE : status;
}

/* Is stop @id still there?  It is told again. */
static bool tell_again(struct session *s, long long id, bool json)
{
	char *text = ask(s->c, true, "stops", "--json", NULL), *line, *save = NULL;
	long long number;
	bool found = false;

	for (line = text ? strtok_r(text, "\n", &save) : NULL; line && !found; line = strtok_r(NULL, "\n", &save)) {
		found = json_number(line, "stop", &number) && number == id;
		if (found && json)
			puts(line);
		else if (found)
			print_stop(stdout, line);
	}
	free(text);
	return found;
}

/*
 * The session's connection cannot be taken back from a command, so this looks for notices instead of asking the daemon to wait.  What was hit and
 * told since the last command that set something going is what is waited for as well: nobody can be expected to type faster.
 */
static int run_wait(struct session *s, int argc, char **argv, bool json)
{
	double seconds = argc == 1 ? strtod(argv[0], NULL) : 60;
	struct pollfd p[2] = { { .fd = s->c->fd, .events = POLLIN }, { .fd = interrupt_fd(), .events = POLLIN } };
	long long before = hit_told();
	char *line;

	if (argc > 1 || seconds <= 0) {
		complain("usage: wait [SECONDS]");
		return EXIT_USAGE;
	}
	hit_forget();
	if (before && tell_again(s, before, json)) {
		hit_forget();
		return EXIT_DONE;
	}
	/* What came with that answer was told with it. */
	if (hit_told()) {
		hit_forget();
		return EXIT_DONE;
	}
	if (!conn_has_line(s->c) && poll(p, 2, (int)(seconds * 1000)) <= 0) {
		if (!interrupted())
			complain("nothing was stopped");
		return EXIT_REFUSED;
	}
	line = conn_line(s->c);
	if (!line && interrupted())
		return EXIT_REFUSED;
	if (!line) {
		complain("the daemon has closed the connection");
		s->end = true;
		return EXIT_REFUSED;
	}
	print_notice(stdout, line, json);
	hit_forget();
	return EXIT_DONE;
}

static int dispatch(struct session *s, int argc, char **argv)
{
	const char *name = argv[0];
	const struct command *cmd;
	bool json = s->json;
	int i, n = 0;

	argv++;
	argc--;
	for (i = 0; i < argc; i++)
		if (!strcmp(argv[i], "--json"))
			json = true;
		else
			argv[n++] = argv[i];
	argc = n;
	if (!strcmp(name, "quit") || !strcmp(name, "exit") || !strcmp(name, "q")) {
		s->end = true;
		return EXIT_DONE;
	}
	if (!strcmp(name, "help"))
		return help(s, argc, argv);
	/* What was stopped before is not what is waited for then. */
	if (!strcmp(name, "step") || !strcmp(name, "continue") || !strcmp(name, "finish"))
		hit_forget();
	if (!strcmp(name, "info") || (!strcmp(name, "where") && !argc))
		return info(s, argc, argv, json);
	if (!strcmp(name, "finish"))
		return finish(s, argc, argv, json);
	if (!strcmp(name, "trace"))
		return run_trace(s, argc, argv, json);
	if (!strcmp(name, "wait"))
		return run_wait(s, argc, argv, json);
	cmd = find_command(name);
	if (!cmd || !strcmp(name, "repl")) {
		complain("unknown command %s; `help` lists them", name);
		return EXIT_USAGE;
	}
	/* In a session these two are simple. */
	if (!strcmp(name, "break") || !strcmp(name, "hold")) {
		int status = send_request(s->c, name, argc, argv, json);

		return status ? status : print_answer(s->c, name, json);
	}
	return run_command(s->c, cmd, argc, argv, json);
}
void session_run(struct session *s, const char *text)
{
	char *line = strdup(text), *words[MAX_WORDS + 1];
	int n;

	if (!line)
		die(EXIT_REFUSED, "out of memory");
	n = split_line(line, words);
	if (n < 0)
		complain("a quote is not closed, or too many words");
	if (n > 0) {
		words[n] = NULL;
		interrupt_clear();
		s->status = dispatch(s, n, words);
		/* It was meant for the command, not for the next line. */
		interrupt_clear();
	}
	if (n < 0)
		s->status = EXIT_USAGE;
	fflush(stdout);
	free(line);
}
