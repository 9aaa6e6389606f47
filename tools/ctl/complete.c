/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a line of the REPL may go on: commands, the words that may follow, the node's locks, files.  Completion itself is readline's.
 */
#include "repl.h"

#include <stdlib.h>
#include <string.h>

#include <readline/readline.h>

static struct conn *conn;

/* Commands that only a session has. */
static const char *const own_words[] = { "quit" };

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
	char *dump = ask(conn, true, "dump", NULL), *line, *save = NULL;

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

static char **complete_line(const char *text, int start, int end)
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
	n = line ? split_line(line, words) : -1;
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

void completion_init(struct conn *c)
{
	conn = c;
	rl_readline_name = "glockctl";
	rl_attempted_completion_function = complete_line;
	/* Names have ':' '/' '-' '>' and '*' in them. */
	rl_completer_word_break_characters = (char *)" \t";
	rl_completer_quote_characters = "\"'";
	rl_filename_quote_characters = NEED_QUOTES;
	rl_char_is_quoted_p = is_quoted;
	rl_filename_quoting_function = quote_name;
	rl_filename_dequoting_function = unquote_name;
}
