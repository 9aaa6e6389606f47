/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who waits for whom (explain, locks), and what is behind a path (where).
 *
 * A node is one source: this connection, or one of several given with -s.  What it holds and waits for is what its dump says; an edge between nodes
 * is a lock that one of them has asked the lock manager for and another one has in a state that does not go with it.
 */
#include "glockctl.h"
#include "dump.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a command prints, to be freed; NULL: it has failed, which was said. */
static char *output_of(const char *source, const char *command)
{
	char *text = NULL, *line = NULL;
	size_t len, room = 0;
	FILE *f, *p = popen(command, "re");
	int status;

	f = open_memstream(&text, &len);
	if (!p || !f)
		die(EXIT_REFUSED, "cannot run %s", command);
	while (getline(&line, &room, p) > 0)
		fputs(line, f);
	free(line);
	fclose(f);
	status = pclose(p);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		complain("%s: `%s` has failed", source, command);
		free(text);
		return NULL;
	}
	return text;
}

#define PLAIN "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@"

/*
 * The tool that has started the cluster is no part of what is installed: it is in the source tree, where this program was built or where one stands;
 * the variable says where else.  NULL: nowhere, which was said.
 */
static const char *cluster_tool(const char *source)
{
	const char *given = getenv("GFS2_FUSE_CLUSTER");
	static char path[PATH_MAX];
	char *slash;
	ssize_t n;

	if (given)
		return given;
	if (!access("tools/cluster", X_OK))
		return "tools/cluster";
	n = readlink("/proc/self/exe", path, sizeof(path) - sizeof("/tools/cluster"));
	path[n > 0 ? n : 0] = 0;
	while ((slash = strrchr(path, '/'))) {
		strcpy(slash, "/tools/cluster");
		if (!access(path, X_OK) && !strpbrk(path, " \t\n'\"\\$`;&|<>()*?[]#~!{}"))
			return path;
		*slash = 0;
	}
	complain("%s: there is no tools/cluster here: say where it is in GFS2_FUSE_CLUSTER", source);
	return NULL;
}

/*
 * What the glockctl of another machine says: ssh:HOST[:DIR], cluster:NODE.  No quoting is needed for names that are none of the shell's business.
 */
static int read_elsewhere(const char *source, struct node *n)
{
	static const char *const questions[] = { "dump", "holds all", "stops all" };
	const char *host = strchr(source, ':') + 1;
	int len = (int)strspn(host, PLAIN);
	bool ssh = source[0] == 's', with_dir = ssh && host[len] == ':';
	const char *dir = with_dir ? host + len + 1 : "", *tool = "ssh";
	char command[PATH_MAX + 500], *said[3] = { NULL };
	int status = EXIT_DONE;

	if (!len || len > 200 || *host == '-' || (host[len] && !with_dir) ||
	    (with_dir && (*dir != '/' || strspn(dir, PLAIN "/") != strlen(dir) || strlen(dir) > 200))) {
		complain("%s: no such node", source);
		return EXIT_USAGE;
	}
	if (!ssh)
		tool = cluster_tool(source);
	if (!tool)
		return EXIT_REFUSED;
	for (int i = 0; i < 3 && !status; i++) {
		snprintf(command, sizeof(command), "%s%s %.*s glockctl %s%s%s%s", tool, ssh ? "" : " run", len, host, with_dir ? "-m " : "", dir,
			 with_dir ? " " : "", questions[i]);
		said[i] = output_of(source, command);
		status = said[i] ? EXIT_DONE : EXIT_REFUSED;
	}
	n->name = source;
	if (!status) {
		read_dump(n, said[0]);
		read_kept(n, said[1], said[2]);
	}
	for (int i = 0; i < 3; i++)
		free(said[i]);
	return status;
}

/* A file is a recording, a socket a daemon. */
static bool is_recording(const char *source)
{
	struct stat st;

	return !stat(source, &st) && S_ISREG(st.st_mode);
}

/* When is @seconds after the first of the recordings began?  -1: there is none, or it cannot be read. */
static long long moment(double seconds)
{
	long long first = LLONG_MAX;

	if (seconds < 0)
		return LLONG_MAX;
	for (unsigned i = 0; i < nr_sources; i++)
		if (is_recording(sources[i])) {
			long long t = recording_begin(sources[i]);

			if (t < 0)
				return -1;
			first = t < first ? t : first;
		}
	if (first == LLONG_MAX) {
		complain("-t: none of the sources is a recording");
		return -1;
	}
	return first + (long long)(seconds * 1e9);
}

static int read_source(const char *source, long long until, struct node *n)
{
	static struct conn conns[MAX_SOURCES];
	static unsigned nr;
	struct conn *c = &conns[nr++ % MAX_SOURCES];
	int status;

	if (!strncmp(source, "ssh:", 4) || !strncmp(source, "cluster:", 8))
		return read_elsewhere(source, n);
	if (is_recording(source))
		return read_recording(source, until, n);
	if (conn_open(source, c)) {
		complain("%s: %s", source, c->why);
		return EXIT_REFUSED;
	}
	status = read_conn(c, n, false);
	conn_close(c);
	return status;
}

/*
 * The other mounts of the same file system that are on this machine: their sockets are at hand.  A lock table's name may be used twice on a machine by
 * different volumes (lock_local), so the device must be the same as well.
 */
struct peers {
	struct conn *of;
	char table[128], device[PATH_MAX];
	struct node *nodes;
	unsigned *nr;
};

static void read_peer(struct conn *c, void *arg)
{
	struct peers *p = arg;
	char table[128], device[PATH_MAX];

	if (*p->nr == MAX_SOURCES || !strcmp(c->path, p->of->path) || !json_get(c->greeting, "locktable", table, sizeof(table)) ||
	    strcmp(table, p->table) || !json_get(c->greeting, "device", device, sizeof(device)) || strcmp(device, p->device) ||
	    strstr(c->greeting, "\"lockproto\":\"lock_nolock\""))
		return;
	if (read_conn(c, &p->nodes[*p->nr], true))
		return;
	/* The connection does not last. */
	p->nodes[*p->nr].name = must(strdup(c->mountpoint));
	++*p->nr;
}

static void read_peers(struct conn *c, struct node *nodes, unsigned *nr)
{
	struct peers p = { .of = c, .nodes = nodes, .nr = nr };

	if (json_get(c->greeting, "locktable", p.table, sizeof(p.table)) && json_get(c->greeting, "device", p.device, sizeof(p.device)) &&
	    !strstr(c->greeting, "\"lockproto\":\"lock_nolock\""))
		each_mount(read_peer, &p);
}

static int read_nodes(struct conn *c, double seconds, struct node *nodes, unsigned *nr)
{
	long long until = moment(seconds);
	unsigned i;
	int status;

	memset(nodes, 0, MAX_SOURCES * sizeof(*nodes));
	*nr = c ? 1 : nr_sources;
	if (until < 0)
		return EXIT_REFUSED;
	if (c) {
		status = read_conn(c, &nodes[0], false);
		/* Who has named a socket means that one alone. */
		if (!status && !nr_sources)
			read_peers(c, nodes, nr);
		return status;
	}
	for (i = 0; i < nr_sources; i++) {
		status = read_source(sources[i], until, &nodes[i]);
		if (status)
			return status;
	}
	return EXIT_DONE;
}

/* --- what goes with what --- */

static bool go_together(const char *a, const char *b)
{
	if (!strcmp(a, "UN") || !strcmp(b, "UN"))
		return true;
	return !strcmp(a, b) && strcmp(a, "EX");
}

/* --- explain --- */

#define MAX_DEPTH 16
/* Locks that one answer goes into: many holders that wait for locks with many holders would be told for ever. */
#define MAX_LOOKS 500

/* One object for each line, with how deep it is. */
static bool as_json;

struct chain {
	struct node *nodes;
	unsigned nr;
	const struct lock *seen[MAX_DEPTH];
	unsigned depth, looks;
};

static void say(const struct chain *ch, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const struct chain *ch, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (as_json) {
		printf("{\"depth\":%u,\"text\":", ch->depth);
		put_json_string(text);
		puts("}");
	} else {
		printf("%*s%s\n", (int)(2 * ch->depth), "", text);
	}
}

static void explain_lock(struct chain *ch, struct node *n, struct lock *l);

/* Whoever holds something may himself be waiting, for something else; who only tries gives up by himself, and closes no circle. */
static void explain_pid(struct chain *ch, struct node *n, long pid, const struct lock *but)
{
	size_t i;
	unsigned j;

	for (i = 0; pid && i < n->nr; i++)
		for (j = 0; j < n->locks[i].nr; j++)
			if (n->locks[i].holders[j].waits && n->locks[i].holders[j].pid == pid && !strpbrk(n->locks[i].holders[j].flags, "tT") &&
			    &n->locks[i] != but) {
				explain_lock(ch, n, &n->locks[i]);
				return;
			}
}

/* This node has asked for @l, or could: which other node is in the way? */
static void explain_others(struct chain *ch, struct node *n, struct lock *l, const char *wanted)
{
	bool found = false;
	unsigned i;

	for (i = 0; i < ch->nr; i++) {
		struct lock *other = &ch->nodes[i] == n ? NULL : find_lock(&ch->nodes[i], l->name);

		if (!other || go_together(other->state, wanted))
			continue;
		found = true;
		say(ch, "node %s has it in %s%s%s", ch->nodes[i].name, other->state,
		    strchr(other->flags, 'D') ? ", and has been asked to let go" :
		    strchr(other->flags, 'd') ? ", has been asked to let go, and keeps it for its minimum hold time" : "",
		    strchr(other->flags, 'l') ? ", which is under way" : "");
		explain_lock(ch, &ch->nodes[i], other);
	}
	if (!found)
		say(ch, ch->nr > 1 ? "none of the nodes looked at holds it in a state that is in the way: the lock manager's answer is on its way" :
				     "another node holds it, or the lock manager's answer is on its way (give -s for nodes elsewhere, too)");
}

/* Nobody who holds @l is in @w's way, but it is to be given up first: who keeps it from that? */
static void explain_demote(struct chain *ch, struct node *n, struct lock *l, const struct holder *w)
{
	char who[100];

	say(ch, "the lock is to be given up first (to %s): another node, or `glockctl demote`, has asked for it", l->demote);
	for (unsigned i = 0; i < l->nr && &l->holders[i] != w; i++) {
		const struct holder *h = &l->holders[i];

		if (h->waits || go_together(h->state, l->demote))
			continue;
		say(ch, "%s holds it in %s until then, in %s", who_words(h, who, sizeof(who)), h->state, h->where);
		explain_pid(ch, n, h->pid, l);
	}
}

static void explain_waiter(struct chain *ch, struct node *n, struct lock *l, const struct holder *w)
{
	char lock[80], who[100];
	bool held = false, ahead = false;
	unsigned i;

	say(ch, "%s waits on %s for %s of glock %s, in %s", who_words(w, who, sizeof(who)), n->name, w->state,
	    lock_words(l, lock, sizeof(lock)), w->where);
	ch->depth++;
	for (i = 0; i < l->nr; i++) {
		const struct holder *h = &l->holders[i];

		if (h == w)
			break;
		if (h->waits && !ahead) {
			ahead = true;
			say(ch, "%s is ahead of it, waiting for %s", who_words(h, who, sizeof(who)), h->state);
		} else if (!h->waits && !go_together(h->state, w->state)) {
			held = true;
			say(ch, "%s holds it in %s, in %s", who_words(h, who, sizeof(who)), h->state, h->where);
			explain_pid(ch, n, h->pid, l);
		}
	}
	if (l->stop)
		say(ch, "a breakpoint holds it: stop %s", l->stop);
	else if (*l->kept && !held)
		say(ch, "it is kept in %s by hand (glockctl hold)", l->kept);
	else if (!held && strchr(l->flags, 'l'))
		explain_others(ch, n, l, l->target);
	else if (!held && !ahead && strpbrk(l->flags, "dD"))
		explain_demote(ch, n, l, w);
	ch->depth--;
}

static void explain_lock(struct chain *ch, struct node *n, struct lock *l)
{
	bool waits = false;
	unsigned i;

	for (i = 0; i < ch->depth && i < MAX_DEPTH; i++)
		if (ch->seen[i] == l) {
			say(ch, "... which closes a circle: a DEADLOCK");
			return;
		}
	if (ch->depth + 2 >= MAX_DEPTH || ch->looks++ == MAX_LOOKS)
		return;
	ch->seen[ch->depth] = l;
	for (i = 0; ch->depth && i < l->nr; i++) {
		const struct holder *h = &l->holders[i];
		char who[100];

		if (h->waits)
			continue;
		say(ch, "%s holds it there in %s, in %s", who_words(h, who, sizeof(who)), h->state, h->where);
		ch->depth++;
		explain_pid(ch, n, h->pid, l);
		ch->depth--;
	}
	for (i = 0; i < l->nr; i++)
		if (l->holders[i].waits) {
			explain_waiter(ch, n, l, &l->holders[i]);
			waits = true;
			/* The others wait for this one; the top level tells them all. */
			if (ch->depth)
				break;
		}
	/* Who waits was told so. */
	if (ch->depth && l->stop && !waits)
		say(ch, "a breakpoint holds it: stop %s", l->stop);
}

/* @name, which is freed, or, if it is "rgrp:BLOCK", the name in the dump; NULL, with a message: this node does not have that lock. */
static char *plain_name(struct conn *c, char *name)
{
	char *dump, lock[40];

	if (strncmp(name, "rgrp:", 5))
		return name;
	dump = ask(c, false, "dump", name, NULL);
	free(name);
	name = dump && dump_field(dump, "n:", lock, sizeof(lock)) ? must(strdup(lock)) : NULL;
	free(dump);
	return name;
}

int cmd_explain(struct conn *c, int argc, char **argv, bool json)
{
	static struct node nodes[MAX_SOURCES];
	struct chain ch = { .nodes = nodes };
	char *want = NULL, name[40] = "";
	unsigned long long number;
	unsigned i, told = 0;
	int status;
	size_t j;

	double seconds = -1;
	char *end = NULL;

	as_json = json;
	if (argc > 1 && !strcmp(argv[0], "-t")) {
		seconds = strtod(argv[1], &end);
		if (*end || !(seconds >= 0) || seconds > 1e9)
			argc = -1;
		argv += 2;
		argc -= 2;
	}
	if (argc < 0 || argc > 1 || (argc && argv[0][0] == '-')) {
		complain("usage: %s", find_command("explain")->synopsis);
		return EXIT_USAGE;
	}
	if (argc) {
		want = c ? resolve(c, argv[0]) : strdup(argv[0]);
		if (!want)
			return EXIT_REFUSED;
		if (c)
			want = plain_name(c, want);
		if (!want)
			return EXIT_REFUSED;
		if (sscanf(want, "inode:%llu", &number) == 1)
			snprintf(name, sizeof(name), "2/%llx", number);
		else
			snprintf(name, sizeof(name), "%s", want);
		free(want);
	}
	status = read_nodes(c, seconds, nodes, &ch.nr);
	for (i = 0; !status && i < ch.nr; i++)
		for (j = 0; j < nodes[i].nr; j++) {
			struct lock *l = &nodes[i].locks[j];
			unsigned h;

			if (argc && strcmp(l->name, name))
				continue;
			for (h = 0; h < l->nr && !l->holders[h].waits; h++)
				;
			if (h == l->nr)
				continue;
			told++;
			ch.looks = 0;
			explain_lock(&ch, &nodes[i], l);
		}
	if (!status && !told && !json)
		printf(argc ? "nobody waits for %s\n" : "nobody waits for a lock\n", name);
	for (i = 0; i < ch.nr; i++)
		free_node(&nodes[i]);
	return status;
}

/* --- locks --- */

static void who_json(const struct lock *l)
{
	printf(",\"who\":[");
	for (unsigned h = 0; h < l->nr; h++) {
		const struct holder *who = &l->holders[h];

		printf("%s{\"waits\":%s,\"state\":\"%s\",\"pid\":%ld,\"command\":", h ? "," : "", who->waits ? "true" : "false", who->state, who->pid);
		put_json_string(who->comm);
		printf(",\"where\":");
		put_json_string(who->where);
		printf("}");
	}
	printf("]");
}

int cmd_locks(struct conn *c, int argc, char **argv, bool json)
{
	bool waiting = argc == 1 && !strcmp(argv[0], "--waiting");
	struct node n = { 0 };
	char words[80];
	size_t i;
	int status;

	if (argc && !waiting) {
		complain("usage: locks [--waiting]");
		return EXIT_USAGE;
	}
	status = read_conn(c, &n, false);
	for (i = 0; i < n.nr; i++) {
		const struct lock *l = &n.locks[i];
		unsigned w = 0, h;

		for (h = 0; h < l->nr; h++)
			w += l->holders[h].waits;
		if (waiting && !w)
			continue;
		if (json) {
			printf("{\"glock\":\"%s\",\"state\":\"%s\",\"target\":\"%s\",\"flags\":\"%s\",\"holders\":%u,\"waiters\":%u", l->name,
			       l->state, l->target, l->flags, l->nr - w, w);
			if (waiting)
				who_json(l);
			printf("}\n");
			continue;
		}
		printf("%-28s %s%s%s %-8s holders %u waiters %u\n", lock_words(l, words, sizeof(words)), l->state,
		       strcmp(l->state, l->target) ? " -> " : "", strcmp(l->state, l->target) ? l->target : "", l->flags, l->nr - w, w);
		for (h = 0; waiting && h < l->nr; h++)
			printf("  %s %s %s in %s\n", l->holders[h].waits ? "waits for" : "holds", l->holders[h].state,
			       who_words(&l->holders[h], words, sizeof(words)), l->holders[h].where);
	}
	free_node(&n);
	return status;
}

/* --- where --- */

/* The dump of the lock of the resource group that @block is in, to be freed; NULL: not in memory.  Its name for the daemon in @name. */
static char *rgrp_dump(struct conn *c, unsigned long long block, char *name, size_t size)
{
	snprintf(name, size, "rgrp:%llu", block);
	return ask(c, true, "dump", name, NULL);
}

/* The same locks as `dump --json` has them, those that are in memory. */
static int where_json(struct conn *c, char *glock, unsigned type, unsigned long long number)
{
	char iopen[40], rgrp[40], *locks[3] = { glock }, *text;
	int nr = 1, status;

	snprintf(iopen, sizeof(iopen), "5/%llx", number);
	text = type == 2 ? ask(c, true, "dump", iopen, NULL) : NULL;
	if (text)
		locks[nr++] = iopen;
	free(text);
	text = type == 2 ? rgrp_dump(c, number, rgrp, sizeof(rgrp)) : NULL;
	if (text)
		locks[nr++] = rgrp;
	free(text);
	status = send_request(c, "dump", nr, locks, true);
	return status ? status : print_answer(c, "dump", true);
}

int cmd_where(struct conn *c, int argc, char **argv, bool json)
{
	unsigned long long number = 0;
	char *name, *text, glock[40];
	unsigned type = 2;

	if (argc != 1) {
		complain("usage: where PATH|GLOCK");
		return EXIT_USAGE;
	}
	name = resolve(c, argv[0]);
	if (name)
		name = plain_name(c, name);
	if (!name)
		return EXIT_REFUSED;
	if (sscanf(name, "inode:%llu", &number) != 1)
		sscanf(name, "%u/%llx", &type, &number);
	free(name);
	snprintf(glock, sizeof(glock), "%u/%llx", type, number);
	if (json)
		return where_json(c, glock, type, number);
	text = ask(c, false, "dump", glock, NULL);
	if (!text)
		return EXIT_REFUSED;
	printf(type == 2 ? "inode:%llu\n%s" : "%llu\n%s", number, text);
	free(text);
	if (type != 2)
		return EXIT_DONE;
	snprintf(glock, sizeof(glock), "5/%llx", number);
	text = ask(c, true, "dump", glock, NULL);
	printf("in use by nodes (IOPEN)\n%s", text ? text : "not in memory\n");
	free(text);
	text = rgrp_dump(c, number, glock, sizeof(glock));
	if (text)
		printf("resource group\n%s", text);
	free(text);
	return EXIT_DONE;
}
