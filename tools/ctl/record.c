/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Recordings: events in a file, to be looked at later and elsewhere.
 *
 * A recording is text: a first line with what the daemon says of itself at the greeting, "recording" (the version of this format) and "filter"
 * (whether events were chosen), then one event a line as `glockctl --json trace` prints it, and where the recorder was too slow
 * {"gap":COUNT,"seq":NEXT}.  It is cut off at a line's end at worst when the recorder is killed, as long as the disk has room.
 *
 * Whatever a file contains, reading it ends well or with a message that names the line.
 */
#include "glockctl.h"
#include "recording.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORDING_VERSION 1

/* --- writing --- */

/* The recording would record itself: each write makes events, for ever. */
static bool on_mount(const struct conn *c, const char *file)
{
	struct statx dir, mnt;
	char path[PATH_MAX];
	char *slash;

	if ((size_t)snprintf(path, sizeof(path), "%s", file) >= sizeof(path))
		return false;
	slash = strrchr(path, '/');
	if (slash)
		slash[slash == path ? 1 : 0] = 0;
	else
		strcpy(path, ".");
	return !statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, 0, &dir) && !statx(AT_FDCWD, c->mountpoint, AT_STATX_DONT_SYNC, 0, &mnt) &&
	       dir.stx_dev_major == mnt.stx_dev_major && dir.stx_dev_minor == mnt.stx_dev_minor;
}

/* With a choice of events missing numbers say nothing. */
static bool chooses(int argc, char **argv)
{
	static const char *const options[] = { "-e", "-g", "-p", "-r" };

	for (int i = 0; i < argc; i++)
		for (size_t o = 0; o < sizeof(options) / sizeof(options[0]); o++)
			if (!strcmp(argv[i], options[o]))
				return true;
	return false;
}

struct recorder {
	FILE *out;
	bool chosen;
	long long last;		/* seq of the event before; 0: none */
	unsigned long long events, lost;
};

static void record_event(struct recorder *r, const char *json)
{
	long long seq = 0;

	json_number(json, "seq", &seq);
	if (!r->chosen && r->last && seq > r->last + 1) {
		fprintf(r->out, "{\"gap\":%lld,\"seq\":%lld}\n", seq - r->last - 1, seq);
		r->lost += (unsigned long long)(seq - r->last - 1);
	}
	r->last = seq;
	r->events++;
	fprintf(r->out, "%s\n", json);
}

/* Until the daemon has told all, or Ctrl-C. */
static int record_events(struct conn *c, struct recorder *r)
{
	int status = -1;
	char *line;

	while (status < 0 && (line = conn_line(c))) {
		if (line[0] == ' ')
			record_event(r, line + 1);
		else if (line[0] != '*')
			status = answer_status(line, false);
		/* Whoever looks at the file meanwhile sees what has happened. */
		if (!conn_has_line(c) && fflush(r->out))
			return EXIT_DONE;
	}
	if (status < 0 && !interrupted())
		complain("the daemon has closed the connection");
	return status >= 0 ? status : interrupted() ? EXIT_DONE : EXIT_REFUSED;
}

int cmd_record(struct conn *session, int argc, char **argv, bool json)
{
	struct recorder r = { .chosen = argc && chooses(argc - 1, argv + 1) };
	struct conn c;
	int status;

	(void)json;
	if (!argc || (argv[0][0] == '-' && argv[0][1])) {
		complain("usage: %s", find_command("record")->synopsis);
		return EXIT_USAGE;
	}
	if (strcmp(argv[0], "-") && on_mount(session, argv[0])) {
		complain("%s is on the mount that is recorded: choose another place", argv[0]);
		return EXIT_REFUSED;
	}
	/* In the REPL the session's own connection stays free. */
	if (conn_open(session->path, &c)) {
		complain("%s: %s", session->path, c.why);
		return EXIT_REFUSED;
	}
	status = send_request(&c, "trace", argc - 1, argv + 1, true);
	r.out = status ? NULL : strcmp(argv[0], "-") ? fopen(argv[0], "we") : stdout;
	if (!status && !r.out) {
		complain("%s: %s", argv[0], strerror(errno));
		status = EXIT_REFUSED;
	}
	if (!status) {
		fprintf(r.out, "{\"recording\":%d,\"filter\":%s%s%s\n", RECORDING_VERSION, r.chosen ? "true" : "false",
			c.greeting[1] == '}' ? "" : ",", c.greeting + 1);
		status = record_events(&c, &r);
		/* Room that there is not is noticed at the last write at the latest. */
		if (fflush(r.out) || ferror(r.out) || (r.out != stdout && fclose(r.out))) {
			complain("%s: %s", argv[0], strerror(errno));
			status = EXIT_REFUSED;
		} else if (!status) {
			fprintf(stderr, "%llu events", r.events);
			if (r.lost)
				fprintf(stderr, ", %llu more were missed", r.lost);
			fputc('\n', stderr);
		}
	}
	conn_close(&c);
	return status;
}

/* --- reading --- */

int recording_open(struct recording *r, const char *path)
{
	long long version;

	*r = (struct recording){ .path = path };
	r->file = strcmp(path, "-") ? fopen(path, "re") : stdin;
	if (!r->file) {
		complain("%s: %s", path, strerror(errno));
		return EXIT_REFUSED;
	}
	if (!recording_line(r)) {
		if (!r->failed)
			complain("%s is empty", path);
	} else if (!json_number(r->line, "recording", &version)) {
		complain("%s is not a recording made by glockctl record", path);
	} else if (version != RECORDING_VERSION) {
		complain("%s is a recording of format %lld, this reads %d", path, version, RECORDING_VERSION);
	} else {
		return EXIT_DONE;
	}
	recording_close(r);
	return EXIT_REFUSED;
}

void recording_close(struct recording *r)
{
	if (r->file != stdin)
		fclose(r->file);
}

const char *recording_line(struct recording *r)
{
	size_t len;

	if (!fgets(r->line, sizeof(r->line), r->file)) {
		r->failed = ferror(r->file);
		if (r->failed)
			complain("%s: %s", r->path, strerror(errno));
		return NULL;
	}
	r->nr++;
	/* A zero byte looks like the end of the line, so it is found as well. */
	len = strlen(r->line);
	if (len && r->line[len - 1] == '\n') {
		r->line[--len] = 0;
		if (len > 1 && r->line[0] == '{' && r->line[len - 1] == '}')
			return r->line;
	}
	r->failed = r->nr == 1 || len + 1 == sizeof(r->line) || !feof(r->file);
	if (r->nr == 1)
		complain("%s is not a recording made by glockctl record", r->path);
	else if (!r->failed)
		complain("%s: line %u, the last one, is cut off: what is before it is used", r->path, r->nr);
	else
		complain("%s: line %u is cut off or damaged", r->path, r->nr);
	return NULL;
}

bool event_parse(const char *json, struct event *e)
{
	char state[8], glock[40];
	long long n;

	*e = (struct event){ .from = -1, .to = -1 };
	if (json_number(json, "gap", &e->gap) && json_number(json, "seq", &e->seq) && e->gap > 0 && e->seq > 0)
		return true;
	e->gap = 0;
	if (!json_get(json, "event", e->name, sizeof(e->name)) || !json_number(json, "seq", &e->seq) ||
	    !json_number(json, "t_ns", &e->t) || e->seq < 0 || e->t < 0 || e->t > EVENT_TIME_MAX)
		return false;
	json_number(json, "pid", &e->pid);
	json_number(json, "req", &e->req);
	e->has_glock = json_get(json, "glock", glock, sizeof(glock)) && sscanf(glock, "%u/%llx", &e->gl_type, &e->gl_number) == 2;
	e->has_off = json_number(json, "off", &e->off);
	e->has_len = json_number(json, "len", &e->len);
	e->has_rc = json_number(json, "rc", &e->rc);
	e->has_reason = json_get(json, "reason", e->reason, sizeof(e->reason));
	for (char *s = e->reason; *s; s++)
		if ((unsigned char)*s < ' ' || (unsigned char)*s >= 0x7f)
			*s = '?';
	if (json_get(json, "from", state, sizeof(state)))
		e->from = state_number(state);
	if (json_get(json, "to", state, sizeof(state)))
		e->to = state_number(state);
	if (json_number(json, "node", &n))
		e->node = n;
	return true;
}

bool recording_event(struct recording *r, struct event *e)
{
	if (event_parse(r->line, e))
		return true;
	complain("%s: line %u is not an event", r->path, r->nr);
	r->failed = true;
	return false;
}

/* --- states --- */

const char *const state_names[NR_STATES] = { "UN", "EX", "DF", "SH" };

int state_number(const char *name)
{
	for (int s = 0; s < NR_STATES; s++)
		if (!strcmp(name, state_names[s]))
			return s;
	return -1;
}

bool event_about_lock(const struct event *e)
{
	return !strncmp(e->name, "glock_", 6) || !strncmp(e->name, "dlm_", 4) || !strncmp(e->name, "break_", 6);
}

/* The DLM's name, as the kernel's tracepoints have it. */
static const char *mode(int state)
{
	static const char *const names[NR_STATES] = { "NL", "EX", "CW", "PR" };

	return state < 0 ? "NL" : names[state];
}

/* --- text: the daemon's wording (`trace` without --json), from the JSON --- */

static void print_lock_event(const struct event *e)
{
	static const struct {
		const char *event, *name, *word;
		bool from;
	} as[] = {
		{ "glock_state", "gfs2_glock_state_change", "state", true }, { "glock_queue", "gfs2_glock_queue", "queue", false },
		{ "glock_dequeue", "gfs2_glock_queue", "dequeue", false },   { "glock_promote", "gfs2_promote", "promote", false },
		{ "glock_demote_rq", "gfs2_demote_rq", "demote", true },
	};

	for (size_t i = 0; i < sizeof(as) / sizeof(as[0]); i++) {
		if (strcmp(e->name, as[i].event))
			continue;
		printf("%s: glock %u:%llu %s %s%s", as[i].name, e->gl_type, e->gl_number, as[i].word,
		       as[i].from ? mode(e->from) : "", as[i].from ? " to " : "");
		printf("%s", mode(e->to));
		return;
	}
	printf("%s: glock %u:%llu", e->name, e->gl_type, e->gl_number);
	if (e->from >= 0)
		printf(" %s", mode(e->from));
	if (e->to >= 0)
		printf(" %s%s", e->from >= 0 ? "to " : "", mode(e->to));
}

void event_print(const struct event *e)
{
	printf("%lld.%06lld pid %lld: ", e->t / 1000000000, e->t / 1000 % 1000000, e->pid);
	if (event_about_lock(e))
		print_lock_event(e);
	else if (e->has_glock)
		printf("%s: inode %llu", e->name, e->gl_number);
	else
		printf("%s:", e->name);
	if (e->has_off)
		printf(" %lld", e->off);
	if (e->has_len)
		printf("%s%lld", e->has_off ? "/" : " ", e->len);
	if (e->has_rc)
		printf(" rc:%lld", e->rc);
	if (e->has_reason)
		printf(" %s", e->reason);
	if (e->req)
		printf(" req:%lld", e->req);
	putchar('\n');
}

int cmd_show(struct conn *c, int argc, char **argv, bool json)
{
	struct recording r;
	struct event e;
	int status;

	(void)c;
	if (argc != 1) {
		complain("usage: %s", find_command("show")->synopsis);
		return EXIT_USAGE;
	}
	status = recording_open(&r, argv[0]);
	if (status)
		return status;
	if (json)
		puts(r.line);
	while (recording_line(&r) && recording_event(&r, &e)) {
		if (json)
			puts(r.line);
		else if (e.gap)
			printf("-- %lld events were missed\n", e.gap);
		else
			event_print(&e);
	}
	status = r.failed ? EXIT_REFUSED : EXIT_DONE;
	recording_close(&r);
	if (fflush(stdout)) {
		complain("cannot write: %s", strerror(errno));
		status = EXIT_REFUSED;
	}
	return status;
}
