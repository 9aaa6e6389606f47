/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the daemon answers: shown as it is, in words, or as JSON.
 */
#include "glockctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* --- dump as JSON --- */

struct dump_state {
	bool open;		/* an object was begun */
	unsigned holders;
	const char *path;	/* of the inode; NULL: not known */
	char object[2048];	/* JSON members of the I: or R: line */
};

/* Bytes of the UTF-8 character at @s, which has @len of them at most; 0: it is none. */
static size_t utf8_len(const unsigned char *s, size_t len)
{
	static const struct { unsigned char from, to, next_from, next_to; size_t len; } heads[] = {
		{ 0x01, 0x7f, 0, 0, 1 }, { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
		{ 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		size_t n = heads[i].len, more = 2;

		if (*s < heads[i].from || *s > heads[i].to || n > len || (n > 1 && (s[1] < heads[i].next_from || s[1] > heads[i].next_to)))
			continue;
		while (more < n && (s[more] & 0xc0) == 0x80)
			more++;
		return more < n ? 0 : n;
	}
	return 0;
}

/* As the daemon does: bytes that are no UTF-8 are lone surrogates, U+DC80 to U+DCFF. */
static void put_json(FILE *out, const char *str, size_t len)
{
	const unsigned char *s = (const unsigned char *)str;

	fputc('"', out);
	while (len) {
		size_t n = utf8_len(s, len);

		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (*s < ' ' || *s == 0x7f)
			fprintf(out, "\\u%04x", *s);
		else if (n)
			fwrite(s, 1, n, out);
		else
			fprintf(out, "\\udc%02x", *s);
		n = n ? n : 1;
		s += n;
		len -= n;
	}
	fputc('"', out);
}

void put_json_string(const char *s)
{
	put_json(stdout, s, strlen(s));
}

static bool dump_end(struct dump_state *d)
{
	if (!d->open)
		return false;
	printf("]%s", d->object);
	if (d->path) {
		printf(",\"path\":");
		put_json_string(d->path);
	}
	putchar('}');
	*d = (struct dump_state){ 0 };
	return true;
}

static void dump_close(struct dump_state *d)
{
	if (dump_end(d))
		putchar('\n');
}

static const char *long_name(char line, const char *key, size_t len)
{
	static const struct {
		char line;
		const char *key, *name;
	} names[] = {
		{ 'G', "s", "state" }, { 'G', "n", "glock" }, { 'G', "f", "flags" },
		{ 'G', "t", "target" }, { 'G', "d", "demote" }, { 'G', "a", "ail" },
		{ 'G', "v", "revokes" }, { 'G', "r", "refs" }, { 'G', "m", "hold" },
		{ 'G', "p", "pages" }, { 'H', "s", "state" }, { 'H', "f", "flags" },
		{ 'H', "e", "error" }, { 'H', "p", "pid" },
	};
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].line == line && strlen(names[i].key) == len &&
		    !memcmp(names[i].key, key, len))
			return names[i].name;
	return NULL;
}

/* Counts are numbers; names, flags and pairs are strings, whatever their letters are. */
static bool is_count(char line, char key, const char *value, size_t len)
{
	const char *keys = line == 'G' ? "avrmp" : line == 'H' ? "ep" : line == 'I' ? "tsp" : "iqre";
	size_t digits = strspn(value + (*value == '-'), "0123456789") + (*value == '-');

	return strchr(keys, key) && len && digits >= len;
}

/* "k:v k:v [command] where": members, the first without a comma if @first. */
static void put_members(FILE *out, char line, const char *s, bool first)
{
	while (*s) {
		size_t len = strcspn(s, " "), key = strcspn(s, ":");
		/* There may be anything in a command's name; what follows it has no brackets. */
		const char *name, *end = *s == '[' ? strrchr(s, ']') : NULL;

		if (end) {
			len = (size_t)(end + 1 - s);
			fputs(",\"command\":", out);
			put_json(out, s + 1, len - 2);
		} else if (key < len) {
			name = long_name(line, s, key);
			fprintf(out, "%s\"%.*s\":", first ? "" : ",", name ? (int)strlen(name) : (int)key, name ? name : s);
			if (key == 1 && is_count(line, *s, s + 2, len - 2))
				fprintf(out, "%.*s", (int)(len - 2), s + 2);
			else
				put_json(out, s + key + 1, len - key - 1);
		} else if (len) {
			fputs(",\"where\":", out);
			put_json(out, s, len);
		}
		first = false;
		s += len;
		s += strspn(s, " ");
	}
}

static void dump_json(struct dump_state *d, const char *line)
{
	const char *s = line + strspn(line, " ");
	char kind = *s;

	if (!*s || s[1] != ':')
		return;
	s += 2;
	s += strspn(s, " ");
	if (kind == 'G') {
		dump_close(d);
		d->open = true;
		putchar('{');
		put_members(stdout, kind, s, true);
		printf(",\"holders\":[");
	} else if (kind == 'H') {
		printf("%s{", d->holders++ ? "," : "");
		put_members(stdout, kind, s, true);
		putchar('}');
	} else if (!d->object[0]) {
		FILE *f = fmemopen(d->object, sizeof(d->object), "w");

		if (!f)
			return;
		fprintf(f, ",\"%s\":{", kind == 'I' ? "inode" : "rgrp");
		put_members(f, kind, s, true);
		fputc('}', f);
		fclose(f);
	}
}

int answer_status(const char *line, bool quiet)
{
	const char *why = strchr(line, ' ');

	why = why ? why + 1 : "";
	if (!strcmp(line, "ok"))
		return EXIT_DONE;
	if (!strncmp(line, "usage ", 6)) {
		const struct command *cmd = NULL;
		size_t n = strcspn(why, " ");
		char name[16];

		/* A synopsis, "NAME [...]" or "NAME OPERAND", is the protocol's; what people may say is ours. */
		if (n < sizeof(name) && why[n] && (why[n + 1] == '[' || (why[n + 1] >= 'A' && why[n + 1] <= 'Z'))) {
			snprintf(name, sizeof(name), "%.*s", (int)n, why);
			cmd = find_command(name);
		}
		if (!quiet && cmd) {
			fflush(stdout);
			fputs("glockctl: usage: ", stderr);
			print_wrapped(stderr, cmd->synopsis, 17);
		} else if (!quiet) {
			complain("%s", why);
		}
		return EXIT_USAGE;
	}
	if (!strncmp(line, "error ", 6)) {
		const char *text = strchr(why, ' ');

		if (!quiet)
			complain("%s", text ? text + 1 : why);
		return EXIT_REFUSED;
	}
	return -1;
}

void print_stop(FILE *out, const char *json)
{
	char at[32] = "?", glock[64] = "?", from[8], to[8], comm[64], why[64];
	long long stop = 0, brk = 0, req, pid, off, len;
	unsigned type;
	unsigned long long number;

	json_number(json, "stop", &stop);
	json_number(json, "break", &brk);
	json_get(json, "at", at, sizeof(at));
	json_get(json, "glock", glock, sizeof(glock));
	fprintf(out, "stop %lld (break %lld): %s of glock %s", stop, brk, at, glock);
	if (sscanf(glock, "%u/%llx", &type, &number) == 2 && type == 2)
		fprintf(out, " (inode:%llu)", number);
	if (json_get(json, "from", from, sizeof(from)) && json_get(json, "to", to, sizeof(to)))
		fprintf(out, " %s -> %s", from, to);
	if (json_number(json, "off", &off) && json_number(json, "len", &len))
		fprintf(out, " at %lld, %lld bytes left", off, len);
	if (json_get(json, "why", why, sizeof(why)))
		fprintf(out, ", %s", why);
	if (json_number(json, "pid", &pid))
		fprintf(out, " for pid %lld [%s]", pid, json_get(json, "comm", comm, sizeof(comm)) ? comm : "");
	if (json_number(json, "req", &req))
		fprintf(out, " request %lld", req);
	fputc('\n', out);
}

static bool all_json;

void hits_as_json(void)
{
	all_json = true;
}

/* The hit that was told last, for who waits for one: it may have been told while something else was answered. */
static long long told;

long long hit_told(void)
{
	return told;
}

void hit_forget(void)
{
	told = 0;
}

bool print_notice(FILE *out, const char *line, bool json)
{
	if (line[0] != '*')
		return false;
	json_number(line, "stop", &told);
	if (json || all_json)
		fprintf(out, "%s\n", line + 2);
	else
		print_stop(out, line + 2);
	return true;
}

/* The path behind a "G:" line. */
static const char *path_of_line(const struct paths *paths, const char *line)
{
	const char *name = strstr(line, " n:");
	char lock[40];

	return name && sscanf(name, " n:%39s", lock) == 1 ? paths_of_lock(paths, lock) : NULL;
}

void put_plain(const char *s)
{
	for (; *s; s++)
		printf((unsigned char)*s < ' ' || *s == 0x7f || *s == '\\' ? "\\%03o" : "%c", (unsigned char)*s);
}

/* Behind the lines of a lock, once: the kernel has no such line, and those who read its file look for letters that they know. */
static void put_path(const char **path)
{
	if (*path) {
		fputs(" P: ", stdout);
		put_plain(*path);
		putchar('\n');
	}
	*path = NULL;
}

void put_dump_json(const struct conn *c, const char *dump)
{
	struct paths *paths = paths_find(c);
	struct dump_state d = { 0 };
	char *copy = must(strdup(dump)), *line, *save = NULL;

	for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bool head = !strncmp(line, "G:", 2);

		if (head && d.open)
			break;
		dump_json(&d, line);
		if (head)
			d.path = path_of_line(paths, line);
	}
	if (!dump_end(&d))
		printf("null");
	free(copy);
	paths_free(paths);
}

int print_answer(struct conn *c, const char *cmd, bool json)
{
	bool dump = !strcmp(cmd, "dump");
	struct paths *paths = dump ? paths_find(c) : NULL;
	struct dump_state d = { 0 };
	const char *path = NULL;
	int status = -1;
	char *line;

	while (status < 0) {
		/* Events are wanted when they happen, also by a pipe. */
		if (!conn_has_line(c))
			fflush(stdout);
		line = conn_line(c);
		if (!line)
			break;
		if (line[0] != ' ') {
			if (!print_notice(stdout, line, json)) {
				put_path(&path);
				status = answer_status(line, false);
			}
		} else if (json && dump) {
			dump_json(&d, line + 1);
			if (!strncmp(line + 1, "G:", 2))
				d.path = path_of_line(paths, line + 1);
		} else if (dump) {
			if (!strncmp(line + 1, "G:", 2)) {
				put_path(&path);
				path = path_of_line(paths, line + 1);
			}
			puts(line + 1);
		} else {
			puts(line + 1);
		}
	}
	dump_close(&d);
	paths_free(paths);
	if (status < 0) {
		if (!interrupted())
			complain("the daemon has closed the connection");
		status = EXIT_REFUSED;
	}
	if (fflush(stdout)) {
		complain("cannot write: %s", strerror(errno));
		status = EXIT_REFUSED;
	}
	return status;
}

char *ask(struct conn *c, bool quiet, const char *cmd, ...)
{
	char *words[16], *word, *line, *text = NULL;
	int n = 0, status;
	size_t len;
	va_list ap;
	FILE *f;

	va_start(ap, cmd);
	while (n < 16 && (word = va_arg(ap, char *)))
		words[n++] = word;
	va_end(ap);
	status = send_request(c, cmd, n, words, false);
	if (status)
		return NULL;
	f = open_memstream(&text, &len);
	if (!f)
		die(EXIT_REFUSED, "out of memory");
	status = -1;
	while (status < 0 && (line = conn_line(c))) {
		if (line[0] == ' ')
			fprintf(f, "%s\n", line + 1);
		else if (!print_notice(stdout, line, false))
			status = answer_status(line, quiet);
	}
	fclose(f);
	if (status < 0 && !quiet)
		complain("the daemon has closed the connection");
	if (!status)
		return text;
	free(text);
	return NULL;
}
