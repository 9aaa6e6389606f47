/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The REPL: commands one after another on one connection, so that breakpoints live; hits are shown as they happen, also while a line is edited.
 *
 * Line editing, history and the terminal are readline's.  It is driven by callbacks, because two things are waited for: the terminal and the
 * daemon.  Ctrl-C drops the line, or ends what is running (trace, wait).  Where commands come from a pipe or a file the same two are waited for, so that a
 * program that drives the session is told hits, and the daemon's end, at once.
 *
 * What runs until it is ended gets a connection of its own: the daemon answers one command of a connection at a time, and the session's must
 * stay free.
 */
#include "glockctl.h"
#include "dump.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <readline/history.h>
#include <readline/readline.h>

#define PROMPT "glockctl> "
#define MAX_WORDS 64
#define HISTORY_LINES 1000

static struct {
	struct conn *c;
	bool end;
	bool tty;
	bool json;		/* all that is printed */
	int status;		/* of the last command */
	char history[PATH_MAX];
} rp;

static const char *const own_words[] = { "quit" };

/* --- words --- */

/* Cut @line into words; "...", '...' and a backslash keep blanks, and a word that begins with # begins a comment.  Their number, -1: a quote is open or too many. */
static int split(char *line, char **words)
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

/* --- completion --- */

static char *from_list(const char *text, int state, const char *(*nth)(size_t i))
{
	static size_t at, len;
	const char *name;

	if (!state) {
		at = 0;
		len = strlen(text);
	}
	while ((name = nth(at))) {
		at++;
		if (!strncmp(name, text, len))
			return strdup(name);
	}
	return NULL;
}

static const char *nth_command(size_t i)
{
	size_t n = 0;

	while (commands[n].name)
		n++;
	if (i < n)
		return commands[i].name;
	i -= n;
	return i < sizeof(own_words) / sizeof(own_words[0]) ? own_words[i] : NULL;
}

static char *complete_command(const char *text, int state)
{
	return from_list(text, state, nth_command);
}

/* Names of locks that the node has, fetched once for each completion. */
static char **lock_names;
static size_t nr_lock_names;

static void fetch_locks(void)
{
	char *dump = ask(rp.c, true, "dump", NULL), *line, *save = NULL;

	while (nr_lock_names)
		free(lock_names[--nr_lock_names]);
	for (line = dump ? strtok_r(dump, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char name[40], **more;
		unsigned long long number;

		if (strncmp(line, "G:", 2) || sscanf(strstr(line, "n:") ? strstr(line, "n:") : "", "n:%39s", name) != 1)
			continue;
		more = reallocarray(lock_names, nr_lock_names + 2, sizeof(*more));
		if (!more)
			break;
		lock_names = more;
		if (sscanf(name, "2/%llx", &number) == 1) {
			char inode[40];

			snprintf(inode, sizeof(inode), "inode:%llu", number);
			lock_names[nr_lock_names++] = strdup(inode);
		}
		lock_names[nr_lock_names++] = strdup(name);
	}
	free(dump);
}

static const char *nth_lock(size_t i)
{
	return i < nr_lock_names ? lock_names[i] : NULL;
}

static char *complete_lock(const char *text, int state)
{
	if (!state)
		fetch_locks();
	return from_list(text, state, nth_lock);
}

static const char *const *word_list;

static const char *nth_word(size_t i)
{
	return word_list[i];
}

static char *complete_word(const char *text, int state)
{
	return from_list(text, state, nth_word);
}

static char **words_of(const char *text, const char *const *list)
{
	word_list = list;
	return rl_completion_matches(text, complete_word);
}

/* The last word of a list with commas; those before it are part of what is found. */
static char *complete_member(const char *text, int state)
{
	const char *comma = strrchr(text, ',');
	char *found = complete_word(comma ? comma + 1 : text, state), *whole;

	if (!found || !comma)
		return found;
	if (asprintf(&whole, "%.*s%s", (int)(comma + 1 - text), text, found) < 0)
		whole = NULL;
	free(found);
	return whole;
}

static char **members_of(const char *text, const char *const *list)
{
	word_list = list;
	return rl_completion_matches(text, complete_member);
}

/* Locks, or the words of @word_list. */
static char *complete_lock_or_word(const char *text, int state)
{
	static bool words;
	char *found;

	if (!state)
		words = false;
	found = words ? NULL : complete_lock(text, state);
	if (found)
		return found;
	found = complete_word(text, words);
	words = true;
	return found;
}

static char **locks_and(const char *text, const char *const *list)
{
	word_list = list;
	return rl_completion_matches(text, complete_lock_or_word);
}

/* What follows @words, @n of them: the list, or NULL. */
static const char *const *words_after(char **words, int n)
{
	/* The first can only be read. */
	static const char *const tunables[] = { "stats", "short_dio", "dio_mtime", "dio_mtime_interval", "dio_rest", "commit", "min_hold", "cache",
						"events", "data_events", "fault", NULL };
	static const char *const events[] = { "glock_state", "glock_queue", "glock_promote", "glock_dequeue", "glock_demote_rq", "dlm_lock",
					      "dlm_ast", "dlm_bast", "dio_begin", "dio_submit", "dio_hole", "dio_drain_begin",
					      "dio_drain_end", "dio_upgrade", "dio_buffered", "dio_end", "log_flush", "map", "data_io",
					      "break_hit", "break_go", "glock_hold", NULL };
	static const struct {
		const char *command, *last;	/* the last word; NULL: any, "": the command itself */
		const char *words[12];
	} table[] = {
		{ "set", "short_dio", { "drain", "async", "fail", "precheck", "blockdev" } },
		{ "set", "dio_mtime", { "deferred", "strict" } },
		{ "set", "dio_rest", { "direct", "buffered" } },
		{ "set", "events", { "on", "off" } },
		{ "set", "data_events", { "on", "off" } },
		{ "set", "fault", { "none" } },
		{ "break", "dio", { "hole", "drain", "upgrade", "buffered" } },
		{ "break", "dlm", { "request", "ast", "bast" } },
		{ "top", "-k", { "requests", "transitions", "bounces", "waiters", "direct", "state", "name" } },
		{ "top", NULL, { "-d", "-k", "-f", "-n", "-l", "--once", "--batch", "--json" } },
		{ "trace", NULL, { "-n", "-t", "-e", "-g", "-p", "-r", "-s", "--json" } },
		{ "locks", "", { "--waiting", "--json" } },
		{ "delete", "", { "all" } }, { "continue", "", { "all" } }, { "stops", "", { "all" } }, { "breaks", "", { "all" } },
		{ "holds", "", { "all" } },
	};
	const char *last = words[n - 1];

	if (!strcmp(words[0], "get"))
		return tunables;
	if (!strcmp(words[0], "set") && (n == 1 || (n == 2 && !strcmp(last, "-s"))))
		return tunables + 1;
	if (!strcmp(last, "-e") && (!strcmp(words[0], "trace") || !strcmp(words[0], "record")))
		return events;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (!strcmp(table[i].command, words[0]) && (!table[i].last || (*table[i].last ? !strcmp(table[i].last, last) : n == 1)))
			return table[i].words;
	return NULL;
}

static char **complete(const char *text, int start, int end)
{
	static const char *const states[] = { "UN", "SH", "DF", "EX", NULL };
	static const char *const transitions[] = { "UN->SH", "UN->DF", "UN->EX", "SH->UN", "SH->DF", "SH->EX", "DF->UN", "DF->SH",
						   "DF->EX", "EX->UN", "EX->SH", "EX->DF", "*->UN", "*->SH", "*->DF", "*->EX",
						   "*->*", NULL };
	static const char *const kinds[] = { "dio", "dlm", "any", "-1", "-c", "-n", "-p", "-t", NULL };
	char *line = strndup(rl_line_buffer, (size_t)start), *words[MAX_WORDS];
	int n;
	char **found = NULL;
	const char *last;

	/* What is completed may begin with a quote, which is no word of those before it. */
	if (line && start && strchr("\"'", line[start - 1]))
		line[start - 1] = 0;
	n = line ? split(line, words) : -1;
	last = n > 0 ? words[n - 1] : "";
	/* Files are readline's own business, where nothing else fits. */
	rl_attempted_completion_over = 0;
	if (n == 0 || (n == 1 && !strcmp(words[0], "help"))) {
		found = rl_completion_matches(text, complete_command);
		rl_attempted_completion_over = 1;
	} else if (n > 0 && names_glock(words[0], n - 1, last)) {
		found = rl_completion_matches(text, complete_lock);
	} else if (n > 1 && !strcmp(words[0], "break") && (is_glock(last) || !strcmp(last, "any") || strchr(last, '/'))) {
		found = words_of(text, transitions);
	} else if (n > 1 && (!strcmp(words[0], "demote") || !strcmp(words[0], "hold"))) {
		found = words_of(text, states);
	} else if (n > 0 && words_after(words, n)) {
		found = !strcmp(last, "-e") ? members_of(text, words_after(words, n)) : words_of(text, words_after(words, n));
	} else if (n > 0 && !strcmp(words[0], "break")) {
		/* Which of the two it is decides the first letter. */
		found = locks_and(text, kinds);
	}
	free(line);
	return found;
}

/* --- names of files with blanks and quotes in them --- */

#define NEED_QUOTES " \t\n\\\"'"

/* Is the character at @at behind a backslash or between quotes? */
static int is_quoted(char *text, int at)
{
	char quote = 0;
	int i;

	for (i = 0; i < at; i++)
		if (quote)
			quote = text[i] == quote ? 0 : quote;
		else if (text[i] == '\\')
			i++;
		else if (text[i] == '"' || text[i] == '\'')
			quote = text[i];
	return i > at || quote;
}

static char *quote_name(char *text, int match, char *quote)
{
	char *out = malloc(2 * strlen(text) + 2), *to = out;

	if (!out)
		return NULL;
	/* Between quotes there is nothing to be done but for names with that quote in them, which cannot be told so. */
	if (*quote)
		*to++ = *quote;
	for (const char *s = text; *s; s++) {
		if (!*quote && strchr(NEED_QUOTES, *s))
			*to++ = '\\';
		*to++ = *s;
	}
	*to = 0;
	return out;
}

static char *unquote_name(char *text, int quote)
{
	char *out = malloc(strlen(text) + 1), *to = out;

	if (!out)
		return NULL;
	for (const char *s = text; *s; s++) {
		if (!quote && *s == '\\' && s[1])
			s++;
		*to++ = *s;
	}
	*to = 0;
	return out;
}

/* --- commands of the REPL --- */

static int help(int argc, char **argv)
{
	const struct command *cmd;

	if (argc > 1) {
		complain("usage: help [COMMAND]");
		return EXIT_USAGE;
	}
	if (!argc && rp.json) {
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
	print_help(cmd, rp.json);
	return EXIT_DONE;
}

/* The JSON of stop @id (NULL: the only one), to be freed. */
static char *one_stop(const char *id, long long *number)
{
	char *text = NULL, *line, *save = NULL, *found = NULL;
	unsigned nr = 0;

	/* "--json" as a word: ask() sends words as they are. */
	text = ask(rp.c, false, "stops", "--json", NULL);
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
static void info_lock(const char *glock)
{
	char *text = ask(rp.c, false, "dump", glock, NULL), *copy = text ? strdup(text) : NULL;
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
static void info_json(const char *stop)
{
	char glock[64], *text;
	long long under_way;

	/* All but the last brace. */
	printf("%.*s", (int)strlen(stop) - 1, stop);
	if (json_get(stop, "glock", glock, sizeof(glock))) {
		text = glock[0] == '2' ? ask(rp.c, true, "dio", "--json", glock, NULL) : NULL;
		if (text && json_number(text, "in_flight", &under_way))
			printf(",\"in_flight\":%lld", under_way);
		free(text);
		text = ask(rp.c, true, "dump", glock, NULL);
		printf(",\"lock\":");
		put_dump_json(rp.c, text ? text : "");
		free(text);
	}
	puts("}");
}

/* Who, where and why: the stop, its lock with holders and waiters, and the direct I/O of its file. */
static int info(int argc, char **argv, bool json)
{
	char glock[64], *stop, *text;
	long long number, sent, under_way;
	double held, left;

	if (argc > 1) {
		complain("usage: info [STOP]");
		return EXIT_USAGE;
	}
	stop = one_stop(argc ? argv[0] : NULL, &number);
	if (!stop)
		return EXIT_REFUSED;
	if (json) {
		info_json(stop);
		free(stop);
		return EXIT_DONE;
	}
	print_stop(stdout, stop);
	if (json_double(stop, "held", &held) && json_double(stop, "left", &left))
		printf("  held for %.1f s, lets go in %.1f s\n", held, left);
	if (json_number(stop, "sent", &sent))
		printf("  %lld bytes of it are on their way to the device\n", sent);
	if (json_get(stop, "glock", glock, sizeof(glock))) {
		text = glock[0] == '2' ? ask(rp.c, true, "dio", "--json", glock, NULL) : NULL;
		if (text && json_number(text, "in_flight", &under_way) && under_way)
			printf("  direct requests of this file that are under way: %lld\n", under_way);
		free(text);
		info_lock(glock);
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
static int finish(int argc, char **argv, bool json)
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
	stop = one_stop(argc ? argv[0] : NULL, &number);
	if (!stop)
		return EXIT_REFUSED;
	json_get(stop, "glock", glock, sizeof(glock));
	json_get(stop, "at", at, sizeof(at));
	json_number(stop, "req", &req);
	is_dio = !strncmp(at, "dio", 3);
	free(stop);
	if (conn_open(rp.c->path, &c)) {
		complain("%s", c.why);
		return EXIT_REFUSED;
	}
	known = seq_of_hit(&c, glock, seq, sizeof(seq));
	if (send_request(&c, "trace", known ? 6 : 4, words, true)) {
		conn_close(&c);
		return EXIT_REFUSED;
	}
	snprintf(id, sizeof(id), "%lld", number);
	free(ask(rp.c, false, "continue", id, NULL));
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
static int run_trace(int argc, char **argv, bool json)
{
	struct conn c;
	int status;

	if (conn_open(rp.c->path, &c)) {
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
static bool tell_again(long long id, bool json)
{
	char *text = ask(rp.c, true, "stops", "--json", NULL), *line, *save = NULL;
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
static int run_wait(int argc, char **argv, bool json)
{
	double seconds = argc == 1 ? strtod(argv[0], NULL) : 60;
	struct pollfd p[2] = { { .fd = rp.c->fd, .events = POLLIN }, { .fd = interrupt_fd(), .events = POLLIN } };
	long long before = hit_told();
	char *line;

	if (argc > 1 || seconds <= 0) {
		complain("usage: wait [SECONDS]");
		return EXIT_USAGE;
	}
	hit_forget();
	if (before && tell_again(before, json)) {
		hit_forget();
		return EXIT_DONE;
	}
	/* What came with that answer was told with it. */
	if (hit_told()) {
		hit_forget();
		return EXIT_DONE;
	}
	if (!conn_has_line(rp.c) && poll(p, 2, (int)(seconds * 1000)) <= 0) {
		if (!interrupted())
			complain("nothing was stopped");
		return EXIT_REFUSED;
	}
	line = conn_line(rp.c);
	if (!line && interrupted())
		return EXIT_REFUSED;
	if (!line) {
		complain("the daemon has closed the connection");
		rp.end = true;
		return EXIT_REFUSED;
	}
	print_notice(stdout, line, json);
	hit_forget();
	return EXIT_DONE;
}

static int dispatch(int argc, char **argv)
{
	const char *name = argv[0];
	const struct command *cmd;
	bool json = rp.json;
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
		rp.end = true;
		return EXIT_DONE;
	}
	if (!strcmp(name, "help"))
		return help(argc, argv);
	/* What was stopped before is not what is waited for then. */
	if (!strcmp(name, "step") || !strcmp(name, "continue") || !strcmp(name, "finish"))
		hit_forget();
	if (!strcmp(name, "info") || (!strcmp(name, "where") && !argc))
		return info(argc, argv, json);
	if (!strcmp(name, "finish"))
		return finish(argc, argv, json);
	if (!strcmp(name, "trace"))
		return run_trace(argc, argv, json);
	if (!strcmp(name, "wait"))
		return run_wait(argc, argv, json);
	cmd = find_command(name);
	if (!cmd || !strcmp(name, "repl")) {
		complain("unknown command %s; `help` lists them", name);
		return EXIT_USAGE;
	}
	/* In a session these two are simple. */
	if (!strcmp(name, "break") || !strcmp(name, "hold")) {
		int status = send_request(rp.c, name, argc, argv, json);

		return status ? status : print_answer(rp.c, name, json);
	}
	return run_command(rp.c, cmd, argc, argv, json);
}

/* --- the loop --- */

static void run_line(const char *text)
{
	char *line = strdup(text), *words[MAX_WORDS + 1];
	int n;

	if (!line)
		die(EXIT_REFUSED, "out of memory");
	n = split(line, words);
	if (n < 0)
		complain("a quote is not closed, or too many words");
	if (n > 0) {
		words[n] = NULL;
		interrupt_clear();
		rp.status = dispatch(n, words);
		/* It was meant for the command, not for the next line. */
		interrupt_clear();
	}
	if (n < 0)
		rp.status = EXIT_USAGE;
	fflush(stdout);
	free(line);
}

static void on_line(char *line)
{
	if (!line) {
		rp.end = true;
		putchar('\n');
		return;
	}
	if (*line) {
		add_history(line);
		/* Output goes where the line was; the prompt comes back afterwards. */
		rl_callback_handler_remove();
		run_line(line);
		if (!rp.end)
			rl_callback_handler_install(PROMPT, on_line);
	}
	free(line);
}

/* readline is not to be called in a signal handler: the loop hears of it. */
static int resize_fd = -1;

static void on_resize(int sig)
{
	int saved = errno;

	(void)!eventfd_write(resize_fd, 1);
	errno = saved;
}

static void take_resize(void)
{
	eventfd_t n;

	if (!eventfd_read(resize_fd, &n))
		rl_resize_terminal();
}

/* The daemon says something while a line is edited: above the line, which stays as it is. */
static bool take_notices(void)
{
	bool shown = false;

	do {
		char *line = conn_line(rp.c);

		if (!line)
			return false;
		if (!shown && rp.tty) {
			rl_clear_visible_line();
			shown = true;
		}
		print_notice(stdout, line, false);
	} while (conn_has_line(rp.c));
	fflush(stdout);
	if (shown) {
		rl_on_new_line();
		rl_redisplay();
	}
	return true;
}

static void drop_line(void)
{
	interrupt_clear();
	rl_free_line_state();
	rl_callback_sigcleanup();
	rl_replace_line("", 0);
	puts("^C");
	rl_on_new_line();
	rl_redisplay();
}

static void open_history(void)
{
	const char *home = getenv("HOME");

	using_history();
	stifle_history(HISTORY_LINES);
	if (home && (size_t)snprintf(rp.history, sizeof(rp.history), "%s/.glockctl_history", home) < sizeof(rp.history))
		read_history(rp.history);
	else
		rp.history[0] = 0;
}

static void save_history(void)
{
	mode_t mask = umask(077);

	if (rp.history[0] && write_history(rp.history) && errno != ENOENT)
		complain("%s: %s", rp.history, strerror(errno));
	umask(mask);
}

static void interactive(void)
{
	struct sigaction resize = { .sa_handler = on_resize, .sa_flags = SA_RESTART };
	struct pollfd p[4] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = rp.c->fd, .events = POLLIN } };

	rl_readline_name = "glockctl";
	rl_attempted_completion_function = complete;
	/* Names have ':' '/' '-' '>' and '*' in them. */
	rl_completer_word_break_characters = (char *)" \t";
	rl_completer_quote_characters = "\"'";
	rl_filename_quote_characters = NEED_QUOTES;
	rl_char_is_quoted_p = is_quoted;
	rl_filename_quoting_function = quote_name;
	rl_filename_dequoting_function = unquote_name;
	rl_catch_signals = 0;
	interrupt_catch();
	terminal_keys();
	p[2] = (struct pollfd){ .fd = interrupt_fd(), .events = POLLIN };
	resize_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (resize_fd < 0)
		die(EXIT_REFUSED, "eventfd: %s", strerror(errno));
	p[3] = (struct pollfd){ .fd = resize_fd, .events = POLLIN };
	sigaction(SIGWINCH, &resize, NULL);
	open_history();
	if (!rp.json)
		printf("glockctl " GFS2_FUSE_VERSION " on %s; `help` lists the commands\n", rp.c->mountpoint);
	rl_callback_handler_install(PROMPT, on_line);
	while (!rp.end) {
		int n = poll(p, 4, conn_has_line(rp.c) ? 0 : -1);

		if (interrupt_ended())
			break;
		if (interrupted()) {
			drop_line();
			continue;
		}
		if (n < 0)
			continue;
		if ((p[1].revents || conn_has_line(rp.c)) && !take_notices()) {
			rl_callback_handler_remove();
			complain("the daemon has closed the connection");
			rp.status = EXIT_REFUSED;
			break;
		}
		if (p[3].revents)
			take_resize();
		if (p[0].revents)
			rl_callback_read_char();
	}
	rl_callback_handler_remove();
	save_history();
}

/* What a script has said and was not run yet. */
struct input {
	char *text;
	size_t len, room;
	bool ended;
};

/* Run its first line; false: there is no whole one. */
static bool run_first_line(struct input *in)
{
	char *nl = in->len ? memchr(in->text, '\n', in->len) : NULL;
	size_t used;

	/* The last line needs no end. */
	if (!nl && !(in->ended && in->len))
		return false;
	used = nl ? (size_t)(nl + 1 - in->text) : in->len;
	in->text[nl ? used - 1 : used] = 0;
	run_line(in->text);
	in->len -= used;
	memmove(in->text, in->text + used, in->len);
	return true;
}

static void read_input(struct input *in)
{
	ssize_t n;

	/* With a byte to spare, for the end of the last line. */
	if (in->room - in->len < 2)
		in->text = must(realloc(in->text, in->room = 2 * in->room + 4096));
	n = read(STDIN_FILENO, in->text + in->len, in->room - in->len - 1);
	if (n > 0)
		in->len += (size_t)n;
	else if (!n || errno != EINTR)
		in->ended = true;
}

/* From a pipe or a file: no prompt, nothing to edit; the first failure ends it. */
static void script(void)
{
	struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = rp.c->fd, .events = POLLIN } };
	struct input in = { 0 };

	while (!rp.end && !rp.status) {
		if (run_first_line(&in))
			continue;
		if (in.ended)
			break;
		if (poll(p, 2, conn_has_line(rp.c) ? 0 : -1) < 0)
			continue;
		if ((p[1].revents || conn_has_line(rp.c)) && !take_notices()) {
			complain("the daemon has closed the connection");
			rp.status = EXIT_REFUSED;
		} else if (p[0].revents) {
			read_input(&in);
		}
	}
	free(in.text);
}

int repl(struct conn *c, bool json)
{
	char *notified;

	rp.c = c;
	rp.json = json;
	rp.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	if (json)
		hits_as_json();
	notified = ask(c, false, "notify", "on", NULL);
	if (!notified)
		return EXIT_REFUSED;
	free(notified);
	if (rp.tty)
		interactive();
	else
		script();
	return rp.status;
}
