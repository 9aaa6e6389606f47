/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The nodes of a scenario that is run: a connection to the daemon, whose breakpoints and holds end with it, and a process that does the file
 * operations (hands.c), so that a step may stay stopped while the daemon is asked and told other things.
 */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hands.h"

bool run_broken(struct run *r, const char *fmt, ...)
{
	va_list ap;

	if (*r->why)
		return false;
	va_start(ap, fmt);
	vsnprintf(r->why, sizeof(r->why), fmt, ap);
	va_end(ap);
	return false;
}

double run_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

bool run_pause(double seconds)
{
	struct pollfd p = { .fd = interrupt_fd(), .events = POLLIN };
	double end = run_now() + seconds;

	for (double left = seconds; left > 0 && !interrupted(); left = end - run_now()) {
		struct timespec ts = { .tv_sec = (time_t)left, .tv_nsec = (long)((left - (double)(time_t)left) * 1e9) };

		ppoll(&p, p.fd >= 0, &ts, NULL);
	}
	return !interrupted();
}

/* --- names --- */

struct object *run_object(const struct run *r, const char *name, size_t len)
{
	for (struct object *o = r->objects; o; o = o->next)
		if (strlen(o->name) == len && !strncmp(o->name, name, len))
			return o;
	return NULL;
}

bool run_call(struct run *r, struct node *n, const char *name, const char *path)
{
	struct object *o;
	struct stat st;
	char full[2 * PATH_MAX];

	snprintf(full, sizeof(full), "%s/%s", n->dir, path);
	if (stat(full, &st))
		return run_broken(r, "%s: %s", full, strerror(errno));
	o = must(calloc(1, sizeof(*o)));
	o->name = must(strdup(name));
	o->inode = st.st_ino;
	o->next = r->objects;
	r->objects = o;
	return true;
}

/* What an event's lock is called; F.iopen for the other lock of an inode. */
const char *run_lock_name(const struct event *e, void *arg)
{
	static char iopen[80];
	const struct run *r = arg;

	for (const struct object *o = r->objects; e->has_glock && o; o = o->next) {
		if (o->inode != e->gl_number || (e->gl_type != 2 && e->gl_type != 5))
			continue;
		if (e->gl_type == 2)
			return o->name;
		snprintf(iopen, sizeof(iopen), "%.60s.iopen", o->name);
		return iopen;
	}
	return NULL;
}

/* A word for the daemon: F, F.iopen and D/a as locks. False: such a file cannot be found. */
bool run_lock_word(struct run *r, struct node *n, const char *word, char *out, size_t size)
{
	size_t len = strcspn(word, "/."), full_len = strlen(word);
	const struct object *o = run_object(r, word, full_len);
	char path[2 * PATH_MAX];
	struct stat st;

	snprintf(out, size, "%s", word);
	if (o) {
		snprintf(out, size, "inode:%llu", o->inode);
	} else if ((o = run_object(r, word, len)) && !strcmp(word + len, ".iopen")) {
		snprintf(out, size, "5/%llx", o->inode);
	} else if (o && word[len] == '/') {
		snprintf(path, sizeof(path), "%s/%s", n->dir, word);
		if (stat(path, &st))
			return run_broken(r, "%s: %s", word, strerror(errno));
		snprintf(out, size, "inode:%llu", (unsigned long long)st.st_ino);
	}
	return true;
}

/* --- asking a daemon --- */

/* Somebody was stopped: kept until the scenario looks at it. */
static void take_stop(struct node *n, const char *json)
{
	if (n->nr_stops == sizeof(n->stops) / sizeof(n->stops[0])) {
		free(n->stops[0]);
		memmove(n->stops, n->stops + 1, --n->nr_stops * sizeof(n->stops[0]));
	}
	n->stops[n->nr_stops++] = must(strdup(json));
}

/* The answer; NULL: refused, with the reason in r->why. */
char *run_tell(struct run *r, struct node *n, int argc, char **argv, bool json)
{
	char *text = NULL, *line, why[400] = "the daemon has closed the connection";
	int status = send_request(&n->conn, argv[0], argc - 1, argv + 1, json);
	size_t len;
	FILE *f;

	if (status) {
		run_broken(r, "%s: cannot be asked", argv[0]);
		return NULL;
	}
	f = must(open_memstream(&text, &len));
	status = -1;
	n->asked = true;
	while (status < 0 && (line = conn_line(&n->conn))) {
		if (line[0] == ' ') {
			fprintf(f, "%s\n", line + 1);
		} else if (line[0] == '*') {
			take_stop(n, line + 2);
		} else {
			const char *reason = strchr(line, ' ');

			status = answer_status(line, true);
			snprintf(why, sizeof(why), "%s", reason ? reason + 1 : line);
		}
	}
	fclose(f);
	n->asked = status < 0;
	if (!status)
		return must(text);
	free(text);
	if (interrupted())
		run_broken(r, "interrupted");
	else
		run_broken(r, "%s: %s", argv[0], why);
	return NULL;
}

char *run_tell_words(struct run *r, struct node *n, const char *first, ...)
{
	char *words[SCENARIO_WORDS] = { (char *)first }, *word;
	int nr = 1;
	va_list ap;

	va_start(ap, first);
	while (nr < SCENARIO_WORDS && (word = va_arg(ap, char *)))
		words[nr++] = word;
	va_end(ap);
	/* Of these the text is read, but for what has many words. */
	return run_tell(r, n, nr, words, !strcmp(first, "trace") || !strcmp(first, "map"));
}

/* The same where only its success counts. */
bool run_told(char *answer)
{
	free(answer);
	return answer;
}

/* For the session: the daemon sets it back, also when this program is killed. */
bool run_set_tunable(struct run *r, struct node *n, const char *name, const char *value)
{
	return run_told(run_tell_words(r, n, "set", "-s", name, value, NULL));
}

/* What has happened since the last look. */
bool run_read_events(struct run *r, struct node *n)
{
	char seq[24], *text, *line, *save = NULL;

	snprintf(seq, sizeof(seq), "%lld", n->next_seq);
	text = run_tell_words(r, n, "trace", "-s", seq, "-t", "0", NULL);
	if (!text)
		return false;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct event e;

		if (!event_parse(line, &e))
			continue;
		n->next_seq = e.seq + 1;
		if (!run_lock_name(&e, r))
			continue;
		if (!(n->nr_events & (n->nr_events - 1)))
			n->events = must(reallocarray(n->events, n->nr_events ? 2 * n->nr_events : 1, sizeof(e)));
		n->events[n->nr_events++] = e;
	}
	free(text);
	return true;
}

char *run_words(struct run *r, struct node *n)
{
	return words_of_events(n->events, n->nr_events, n->line_start, run_lock_name, r);
}

/* --- the hands --- */

void run_start_hands(struct run *r, struct node *n, unsigned number)
{
	int to[2], from[2];
	char name[16];
	pid_t pid;

	n->to = n->from = -1;
	fflush(NULL);
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) {
		run_broken(r, "pipe: %s", strerror(errno));
		return;
	}
	pid = fork();
	if (!pid) {
		FILE *in = fdopen(to[0], "r"), *out = fdopen(from[1], "w");

		/* Whoever dies takes his hands with him; what is stopped is let go first, with the connection. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(name, sizeof(name), "node%u", number);
		prctl(PR_SET_NAME, name);
		signal(SIGINT, SIG_IGN);
		for (unsigned i = 0; i < r->s->nodes; i++) {
			close(r->nodes[i].conn.fd);
			if (r->nodes[i].pid) {
				close(r->nodes[i].to);
				close(r->nodes[i].from);
			}
		}
		close(to[1]);
		close(from[0]);
		_exit(!in || !out || chdir(n->dir) ? 1 : hands_run(in, out));
	}
	close(to[0]);
	close(from[1]);
	n->to = to[1];
	n->from = from[0];
	n->pid = pid > 0 ? pid : 0;
	if (pid < 0)
		run_broken(r, "fork: %s", strerror(errno));
}

bool run_begin(struct run *r, struct node *n, const struct line *l, const char *text)
{
	size_t len = strlen(text);

	if (n->busy && !n->ended)
		return run_broken(r, "line %u: node %u is still at line %u", l->line_nr, l->node, n->busy->line_nr);
	n->busy = l;
	n->ended = false;
	if (!strcmp(l->words[0], "aiowq") || !strcmp(l->words[0], "aiowait"))
		n->queued = l->words[0][4] == 'q';
	if (write(n->to, text, len) != (ssize_t)len)
		return run_broken(r, "the process of node %u is gone", l->node);
	return true;
}

/* An answer is there. */
static bool take_answer(struct run *r, struct node *n)
{
	ssize_t got = read(n->from, n->answer + n->answer_len, sizeof(n->answer) - 1 - n->answer_len);
	char *nl;

	if (got <= 0)
		return run_broken(r, "line %u: the process that does it has ended", n->busy ? n->busy->line_nr : 0);
	n->answer_len += (size_t)got;
	n->answer[n->answer_len] = 0;
	nl = strchr(n->answer, '\n');
	if (!nl)
		return n->answer_len + 1 < sizeof(n->answer) || run_broken(r, "an answer without an end");
	*nl = 0;
	snprintf(n->result, sizeof(n->result), "%s", strncmp(n->answer, "= ", 2) ? n->answer : n->answer + 2);
	n->answer_len = 0;
	n->ended = true;
	return true;
}

bool run_any_stops(const struct run *r)
{
	for (unsigned i = 0; i < r->s->nodes; i++)
		if (r->nodes[i].nr_stops)
			return true;
	return false;
}

/* Wait until something happens: a step ends, somebody is stopped; at most @ms. False: it cannot go on. */
bool run_await(struct run *r, int ms)
{
	struct pollfd p[2 * SCENARIO_NODES + 1];
	unsigned nr = r->s->nodes;

	for (unsigned i = 0; i < nr; i++) {
		struct node *n = &r->nodes[i];

		p[2 * i] = (struct pollfd){ .fd = n->conn.fd, .events = POLLIN };
		p[2 * i + 1] = (struct pollfd){ .fd = n->busy && !n->ended ? n->from : -1, .events = POLLIN };
		if (conn_has_line(&n->conn))
			ms = 0;
	}
	p[2 * nr] = (struct pollfd){ .fd = interrupt_fd(), .events = POLLIN };
	if (poll(p, 2 * nr + 1, ms) < 0 && errno != EINTR)
		return run_broken(r, "poll: %s", strerror(errno));
	if (interrupted())
		return run_broken(r, "interrupted");
	for (unsigned i = 0; i < nr; i++) {
		struct node *n = &r->nodes[i];

		while (p[2 * i].revents || conn_has_line(&n->conn)) {
			const char *line = conn_line(&n->conn);

			if (!line)
				return run_broken(r, "the daemon of node %u has closed the connection", i + 1);
			if (line[0] == '*')
				take_stop(n, line + 2);
			p[2 * i].revents = 0;
		}
		if (p[2 * i + 1].revents && !take_answer(r, n))
			return false;
	}
	return true;
}

/* Does this node's process hold the lock, or wait for it (@want: "W", or "" for both), in @state ("": any)? */
bool run_in_queue(struct run *r, struct node *n, const char *lock, const char *want, const char *state)
{
	char *text, *line, *save = NULL, begin[12], pid[24];
	bool found = false;

	text = run_tell_words(r, n, "dump", lock, NULL);
	if (!text) {
		/* A lock that is gone has nobody in its queue; a daemon that is gone is noticed at the next question. */
		r->why[0] = 0;
		return false;
	}

	snprintf(begin, sizeof(begin), " H: s:%s", state);
	snprintf(pid, sizeof(pid), " p:%d ", (int)n->pid);
	for (line = strtok_r(text, "\n", &save); line && !found; line = strtok_r(NULL, "\n", &save)) {
		const char *flags = strstr(line, " f:"), *end = flags ? strchr(flags + 3, ' ') : NULL;

		found = !strncmp(line, begin, strlen(begin)) && strstr(line, pid) && end &&
			(!*want || memchr(flags + 3, *want, (size_t)(end - flags - 3)));
	}
	free(text);
	return found;
}

/* A lock may be let go a moment after the answer: when all steps have ended, until it is. */
void run_await_release(struct run *r)
{
	double end = run_now() + LIMIT_SECONDS;

	for (unsigned i = 0; i < r->s->nodes; i++) {
		struct node *n = &r->nodes[i];

		for (const struct object *o = r->objects; o && (!n->busy || n->ended) && !n->queued && !*r->why; o = o->next) {
			char lock[40];

			snprintf(lock, sizeof(lock), "inode:%llu", o->inode);
			while (!*r->why && run_in_queue(r, n, lock, "", "") && run_now() < end && run_pause(0.001))
				;
		}
	}
}

/* A step of the preparations, which nothing may stop. */
bool run_do_step(struct run *r, struct node *n, const struct line *l, const char *fmt, ...)
{
	char text[1024];
	double end = run_now() + LIMIT_SECONDS;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!run_begin(r, n, l, text))
		return false;
	while (!n->ended)
		if (!run_await(r, 1000) || (run_now() > end && !n->ended))
			return run_broken(r, "line %u: %s", l->line_nr, *r->why ? r->why : "does not end");
	if (n->result[0] == '-')
		return run_broken(r, "line %u: %s: %s", l->line_nr, l->text, strerror((int)-strtol(n->result, NULL, 10)));
	return true;
}
