/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * glockctl: look into a gfs2-fuse mount and its locks (docs/man/glockctl.8; protocol:
 * gfs2-fuse/control.h).
 *
 * It finds the mount's socket, turns paths into inode numbers, sends one command, and prints the
 * answer. Exit status: 0 done, 1 refused or failed, 2 usage.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "gfs2-fuse/control.h"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

static const struct command {
	const char *name, *synopsis, *help;
} commands[] = {
	{ "dump", "dump [GLOCK|PATH]...",
	  "Print the glocks of this node in the format of the kernel's debugfs file `glocks`." },
	{ "map", "map PATH|GLOCK",
	  "Print where a file's blocks are: what the tree on disk says, and what is known in memory." },
	{ "dio", "dio PATH|GLOCK",
	  "Print how many direct reads and writes of a file are in flight, and what became of those\n"
	  "that were made: direct, or why not." },
	{ "demote", "demote GLOCK|PATH UN|SH|DF [SECONDS]",
	  "Make this node give a lock up, as if another node had asked for it.  Fails if it is\n"
	  "still in use after SECONDS (10)." },
	{ "trace",
	  "trace [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK|PATH] [-p PID] [-r REQUEST] [-s SEQ]",
	  "Print events as they happen: until COUNT were printed, SECONDS are over, or Ctrl-C.\n"
	  "-e, -g, -p, -r choose events; -s starts with number SEQ (0: all that are still known).\n"
	  "With --json one object a line." },
	{ "get", "get [NAME]", "Print a tunable's value, or all.  `stats` are counters." },
	{ "set", "set NAME VALUE",
	  "Change a tunable: short_dio, dio_mtime, dio_mtime_interval, dio_rest, commit, cache, or fault\n"
	  "(adds a rule like op=write,cls=data,error=5; `none` removes all)." },
};

static void usage(FILE *out)
{
	size_t i;

	fprintf(out, "usage: glockctl [-m DIR | -s SOCKET] [--json] COMMAND [ARGUMENT]...\n"
		     "  -m DIR      the mount on DIR (default: the only one, or the one a PATH is on)\n"
		     "  -s SOCKET   the control socket itself\n"
		     "  --json      machine-readable output\n"
		     "commands (COMMAND --help tells more):\n");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %s\n", commands[i].synopsis);
	fprintf(out, "A GLOCK is TYPE/NUMBER (hexadecimal, like 2/35f8) or inode:NUMBER (decimal).\n");
}

static void __attribute__((format(printf, 2, 3), noreturn)) die(int status, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "glockctl: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(status);
}

/* --- one connection --- */

struct conn {
	int fd;
	char *buf;		/* GFS2_CTL_MAX_LINE + 1 */
	size_t len, used;	/* bytes there; bytes of the line given out last */
	char mountpoint[PATH_MAX];
	char why[PATH_MAX];	/* after an error of conn_open(): the reason */
};

/* The next line without its end, NULL when the daemon has closed. */
static char *read_line(struct conn *c)
{
	char *nl;

	c->len -= c->used;
	memmove(c->buf, c->buf + c->used, c->len);
	c->used = 0;
	while (!(nl = memchr(c->buf, '\n', c->len))) {
		ssize_t n;

		if (c->len == GFS2_CTL_MAX_LINE)
			return NULL;
		n = read(c->fd, c->buf + c->len, GFS2_CTL_MAX_LINE - c->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL;
		c->len += n;
	}
	*nl = 0;
	c->used = nl + 1 - c->buf;
	return c->buf;
}

/*
 * The string value of @key in a flat JSON object, as bytes (see the daemon's writer); false: not
 * there.
 */
static bool json_get(const char *json, const char *key, char *out, size_t size)
{
	char pat[64];
	const char *s;
	size_t n = 0;

	snprintf(pat, sizeof(pat), "\"%s\":\"", key);
	s = strstr(json, pat);
	if (!s)
		return false;
	for (s += strlen(pat); *s && *s != '"' && n + 1 < size; s++) {
		unsigned code;

		if (*s == '\\' && s[1] == 'u' && sscanf(s + 2, "%4x", &code) == 1) {
			/*
			 * only control characters and single bytes (U+DC80..U+DCFF) are written so
			 */
			out[n++] = (char)(code & 0xff);
			s += 5;
		} else {
			s += *s == '\\' && s[1];
			out[n++] = *s;
		}
	}
	out[n] = 0;
	return true;
}

/*
 * How long a daemon may take for its greeting, which needs no lock and no device: those that are
 * stopped or hang must not keep us from the others.
 */
#define GREETING_SECONDS 5

static void conn_timeout(const struct conn *c, time_t seconds)
{
	struct timeval tv = { .tv_sec = seconds };

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

/* Reads the greeting; 0 or -errno with the reason in c->why. */
static int conn_greet(struct conn *c)
{
	char *line;
	int version;

	c->buf = malloc(GFS2_CTL_MAX_LINE + 1);
	if (!c->buf) {
		snprintf(c->why, sizeof(c->why), "out of memory");
		return -ENOMEM;
	}
	errno = 0;
	line = read_line(c);
	if (!line && errno == EAGAIN) {
		snprintf(c->why, sizeof(c->why), "no answer for %d seconds", GREETING_SECONDS);
		return -ETIMEDOUT;
	}
	if (line && !strncmp(line, "error ", 6)) {
		snprintf(c->why, sizeof(c->why), "%s", line + 6);
		return -EPROTO;
	}
	if (!line || sscanf(line, "gfs2-fuse-control %d", &version) != 1) {
		snprintf(c->why, sizeof(c->why), "not the control socket of a gfs2-fuse");
		return -EPROTO;
	}
	if (version != GFS2_CTL_VERSION) {
		snprintf(c->why, sizeof(c->why), "speaks version %d of the protocol, this is for %d",
			 version, GFS2_CTL_VERSION);
		return -EPROTO;
	}
	json_get(line, "mountpoint", c->mountpoint, sizeof(c->mountpoint));
	return 0;
}

/* 0 and a connection whose greeting was read, or -errno with the reason in c->why. */
static int conn_open(const char *path, struct conn *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int error = 0;

	*c = (struct conn){ .fd = -1 };
	if (strlen(path) >= sizeof(addr.sun_path)) {
		error = -ENAMETOOLONG;
	} else {
		strcpy(addr.sun_path, path);
		c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (c->fd >= 0)
			conn_timeout(c, GREETING_SECONDS);
		if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)))
			error = -errno;
	}
	if (error)
		snprintf(c->why, sizeof(c->why), "%s", strerror(-error));
	else
		error = conn_greet(c);
	if (error) {
		if (c->fd >= 0)
			close(c->fd);
		free(c->buf);
		return error;
	}
	conn_timeout(c, 0);
	return 0;
}

static void conn_close(struct conn *c)
{
	close(c->fd);
	free(c->buf);
}

/* --- finding the mount --- */

struct finder {
	const char *dir;	/* -m, absolute; NULL: any */
	bool by_dev;		/* the mount of a path */
	dev_t dev;
	struct conn found;
	unsigned nr;
	bool failed;		/* some socket could not be used; the last one: */
	char error_path[PATH_MAX];
	char why[PATH_MAX];
};

/* The device number comes without a request: a mount that hangs is not to stop the search. */
static bool finder_wants(const struct finder *f, const struct conn *c)
{
	struct statx stx;

	if (f->dir && strcmp(f->dir, c->mountpoint))
		return false;
	return !f->by_dev || (!statx(AT_FDCWD, c->mountpoint, AT_STATX_DONT_SYNC, 0, &stx) &&
			      makedev(stx.stx_dev_major, stx.stx_dev_minor) == f->dev);
}

static void search_dir(struct finder *f, const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *de;

	while (d && (de = readdir(d))) {
		size_t len = strlen(de->d_name);
		char path[PATH_MAX];
		struct conn c;
		int error;

		if (len < 6 || strcmp(de->d_name + len - 5, ".sock"))
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, de->d_name) >= sizeof(path))
			continue;
		error = conn_open(path, &c);
		if (error) {
			/* ECONNREFUSED: left behind by a daemon that was killed */
			if (error != -ECONNREFUSED && error != -ENOENT) {
				f->failed = true;
				strcpy(f->error_path, path);
				strcpy(f->why, c.why);
			}
			continue;
		}
		if (!finder_wants(f, &c) || f->nr++) {
			conn_close(&c);
			continue;
		}
		f->found = c;
	}
	if (d)
		closedir(d);
}

static void find_mount(const char *dir, const char *path, struct conn *c)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	struct finder f = { 0 };
	char buf[PATH_MAX], real[PATH_MAX];
	struct stat st;

	if (dir) {
		if (!realpath(dir, real))
			die(EXIT_REFUSED, "%s: %s", dir, strerror(errno));
		f.dir = real;
	} else if (path && !stat(path, &st)) {
		f.by_dev = true;
		f.dev = st.st_dev;
	}
	search_dir(&f, GFS2_CTL_DIR);
	if (run && (size_t)snprintf(buf, sizeof(buf), "%s/gfs2-fuse", run) < sizeof(buf) &&
	    strcmp(buf, GFS2_CTL_DIR))
		search_dir(&f, buf);
	if (f.nr == 1) {
		*c = f.found;
		return;
	}
	if (f.nr && dir)
		die(EXIT_USAGE, "%u mounts on %s, one over the other: choose one with -s SOCKET", f.nr, dir);
	if (f.nr)
		die(EXIT_USAGE, "%u mounts, choose one with -m DIR", f.nr);
	if (f.failed)
		die(EXIT_REFUSED, "%s: %s", f.error_path, f.why);
	die(EXIT_REFUSED, dir || f.by_dev ? "%s is not on a gfs2-fuse mount with a control socket" :
					    "no gfs2-fuse mount with a control socket is there%s",
	    dir ? dir : f.by_dev ? path : "");
}

/* --- the request --- */

static bool is_glock(const char *s)
{
	size_t n;

	if (!strncmp(s, "inode:", 6))
		return true;
	if (s[0] < '1' || s[0] > '9' || s[1] != '/')
		return false;
	n = strspn(s + 2, "0123456789abcdefABCDEF");
	return n && !s[2 + n];
}

/* What the daemon understands for the operand @s: itself, or the inode a path leads to. */
static char *resolve(const struct conn *c, const char *s)
{
	struct stat st, mnt;
	char *name;

	if (is_glock(s))
		return strdup(s);
	if (stat(s, &st))
		die(EXIT_REFUSED, "%s: %s", s, strerror(errno));
	if (stat(c->mountpoint, &mnt) || mnt.st_dev != st.st_dev)
		die(EXIT_REFUSED, "%s is not on the mount %s", s, c->mountpoint);
	if (asprintf(&name, "inode:%llu", (unsigned long long)st.st_ino) < 0)
		die(EXIT_REFUSED, "out of memory");
	return name;
}

struct request {
	char *text;
	size_t len;
	FILE *f;
};

static void request_word(struct request *r, const char *word)
{
	const unsigned char *s;

	if (ftell(r->f))
		fputc(' ', r->f);
	/* An empty word cannot be sent; the daemon rejects the lone escape. */
	if (!*word)
		fputc('%', r->f);
	for (s = (const unsigned char *)word; *s; s++) {
		if (*s <= ' ' || *s == '%' || *s == 0x7f)
			fprintf(r->f, "%%%02x", *s);
		else
			fputc(*s, r->f);
	}
}

/* Which operand of @cmd is a glock? @prev: the word before it. */
static bool names_glock(const char *cmd, int index, const char *prev)
{
	if (!strcmp(cmd, "dump"))
		return true;
	if (!strcmp(cmd, "map") || !strcmp(cmd, "dio") || !strcmp(cmd, "demote"))
		return index == 0;
	return !strcmp(cmd, "trace") && prev && !strcmp(prev, "-g");
}

static void send_request(const struct conn *c, const char *cmd, int argc, char **argv, bool json)
{
	struct request r = { 0 };
	const char *p;
	int i;

	r.f = open_memstream(&r.text, &r.len);
	if (!r.f)
		die(EXIT_REFUSED, "out of memory");
	request_word(&r, cmd);
	if (json && (!strcmp(cmd, "map") || !strcmp(cmd, "dio") || !strcmp(cmd, "get")))
		request_word(&r, "--json");
	if (!json && !strcmp(cmd, "trace"))
		request_word(&r, "--text");
	for (i = 0; i < argc; i++) {
		if (names_glock(cmd, i, i ? argv[i - 1] : NULL)) {
			char *name = resolve(c, argv[i]);

			request_word(&r, name);
			free(name);
		} else {
			request_word(&r, argv[i]);
		}
	}
	fputc('\n', r.f);
	fclose(r.f);
	if (r.len > GFS2_CTL_MAX_LINE)
		die(EXIT_USAGE, "too many arguments");
	for (p = r.text; r.len;) {
		ssize_t n = send(c->fd, p, r.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			die(EXIT_REFUSED, "the daemon does not listen: %s", strerror(errno));
		p += n;
		r.len -= n;
	}
	free(r.text);
}

/* --- dump as JSON --- */

struct dump_state {
	bool open;		/* an object was begun */
	unsigned holders;
	char object[1024];	/* JSON members of the I: or R: line */
};

static void put_string(const char *s, size_t len)
{
	putchar('"');
	for (; len--; s++) {
		if (*s == '"' || *s == '\\')
			putchar('\\');
		putchar((unsigned char)*s < 0x20 ? '?' : *s);
	}
	putchar('"');
}

static void dump_close(struct dump_state *d)
{
	if (!d->open)
		return;
	printf("]%s}\n", d->object);
	*d = (struct dump_state){ 0 };
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

/* "k:v k:v [command] where": members, the first without a comma if @first. */
static void put_members(FILE *out, char line, const char *s, bool first)
{
	while (*s) {
		size_t len = strcspn(s, " "), key = strcspn(s, ":");
		const char *name;

		if (*s == '[') {
			len = strcspn(s, "]");
			fprintf(out, ",\"command\":\"%.*s\"", (int)len - 1, s + 1);
			len += s[len] == ']';
		} else if (key < len) {
			name = long_name(line, s, key);
			fprintf(out, "%s\"%.*s\":\"%.*s\"", first ? "" : ",",
				name ? (int)strlen(name) : (int)key, name ? name : s,
				(int)(len - key - 1), s + key + 1);
		} else if (len) {
			fprintf(out, ",\"where\":\"%.*s\"", (int)len, s);
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

/* "2/35f8 EX -> UN" */
static void demote_json(const char *line)
{
	char glock[64], from[8], word[16], to[8];

	if (sscanf(line, "%63s %7s %15s %7s", glock, from, word, to) != 4)
		return;
	printf("{\"glock\":");
	put_string(glock, strlen(glock));
	printf(",\"from\":\"%s\",\"to\":\"%s\"}\n", from, to);
}

/* --- the answer --- */

static int print_answer(struct conn *c, const char *cmd, bool json)
{
	struct dump_state d = { 0 };
	int status = -1;
	char *line;

	while (status < 0 && (line = read_line(c))) {
		const char *why = strchr(line, ' ');

		why = why ? why + 1 : "";
		if (line[0] == ' ') {
			if (json && !strcmp(cmd, "dump"))
				dump_json(&d, line + 1);
			else if (json && !strcmp(cmd, "demote") && line[1] != ' ' && line[2] != ':')
				demote_json(line + 1);
			else
				puts(line + 1);
		} else if (!strcmp(line, "ok")) {
			status = EXIT_DONE;
		} else if (!strncmp(line, "usage ", 6)) {
			fprintf(stderr, "glockctl: usage: %s\n", why);
			status = EXIT_USAGE;
		} else if (!strncmp(line, "error ", 6)) {
			const char *text = strchr(why, ' ');

			fprintf(stderr, "glockctl: %s\n", text ? text + 1 : why);
			status = EXIT_REFUSED;
		}
	}
	dump_close(&d);
	if (status < 0) {
		fprintf(stderr, "glockctl: the daemon has closed the connection\n");
		status = EXIT_REFUSED;
	}
	if (fflush(stdout)) {
		fprintf(stderr, "glockctl: cannot write: %s\n", strerror(errno));
		status = EXIT_REFUSED;
	}
	return status;
}

/* --- the command line --- */

static const struct command *find_command(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
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
	int i;

	for (i = 0; i < argc; i++)
		if (names_glock(cmd, i, i ? argv[i - 1] : NULL) && !is_glock(argv[i]))
			return argv[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const char *dir = NULL, *socket_path = NULL;
	const struct command *cmd;
	bool json = false, help = false;
	struct conn c;
	int i, error;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			usage(stdout);
			return fflush(stdout) ? EXIT_REFUSED : EXIT_DONE;
		} else if (!strcmp(argv[i], "--version")) {
			printf("glockctl " GFS2_FUSE_VERSION "\n");
			return EXIT_DONE;
		} else if (!strcmp(argv[i], "-m") && i + 1 < argc) {
			dir = argv[++i];
		} else if (!strcmp(argv[i], "-s") && i + 1 < argc) {
			socket_path = argv[++i];
		} else {
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	cmd = i < argc ? find_command(argv[i]) : NULL;
	if (!cmd || (dir && socket_path)) {
		if (i < argc && !cmd)
			fprintf(stderr, "glockctl: unknown command %s\n", argv[i]);
		usage(stderr);
		return EXIT_USAGE;
	}
	argv += i + 1;
	argc = take_flags(argc - i - 1, argv, &json, &help);
	if (help) {
		printf("usage: glockctl %s\n%s\n", cmd->synopsis, cmd->help);
		return EXIT_DONE;
	}
	if (socket_path) {
		error = conn_open(socket_path, &c);
		if (error)
			die(EXIT_REFUSED, "%s: %s", socket_path, c.why);
	} else {
		find_mount(dir, first_path(cmd->name, argc, argv), &c);
	}
	/* Events are wanted when they happen, also by a pipe. */
	if (!strcmp(cmd->name, "trace"))
		setvbuf(stdout, NULL, _IOLBF, 0);
	send_request(&c, cmd->name, argc, argv, json);
	error = print_answer(&c, cmd->name, json);
	conn_close(&c);
	return error;
}
