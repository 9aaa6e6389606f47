/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dumps read back.
 */
#include "dump.h"

#include <stdlib.h>
#include <string.h>

#include "glockctl.h"

bool dump_field(const char *line, const char *key, char *out, size_t size)
{
	size_t klen = strlen(key), n = 0;
	const char *s;

	for (s = strstr(line, key); s; s = strstr(s + 1, key))
		if (s == line || s[-1] == ' ')
			break;
	if (!s)
		return false;
	for (s += klen; *s && *s != ' ' && n + 1 < size; s++)
		out[n++] = *s;
	out[n] = 0;
	return true;
}

static void read_holder(struct lock *l, const char *line)
{
	struct holder *h;
	const char *open, *close;
	char pid[24] = "0";

	l->holders = grow(l->holders, l->nr, sizeof(*h));
	h = &l->holders[l->nr++];
	memset(h, 0, sizeof(*h));
	dump_field(line, "s:", h->state, sizeof(h->state));
	dump_field(line, "f:", h->flags, sizeof(h->flags));
	dump_field(line, "p:", pid, sizeof(pid));
	h->pid = strtol(pid, NULL, 10);
	h->waits = strchr(h->flags, 'W');
	open = strchr(line, '[');
	close = strrchr(line, ']');
	if (open && close > open) {
		snprintf(h->comm, sizeof(h->comm), "%.*s", (int)(close - open - 1), open + 1);
		snprintf(h->where, sizeof(h->where), "%s", close[1] ? close + 2 : "");
	}
}

struct lock *add_lock(struct node *n, const char *name)
{
	struct lock *l;

	n->locks = grow(n->locks, n->nr, sizeof(*l));
	l = &n->locks[n->nr++];
	memset(l, 0, sizeof(*l));
	snprintf(l->name, sizeof(l->name), "%s", name);
	return l;
}

void read_dump(struct node *n, char *text)
{
	struct lock *l = NULL;
	char *line, *save = NULL, demote[40], name[40] = "";

	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, "G:", 2)) {
			dump_field(line, "n:", name, sizeof(name));
			l = add_lock(n, name);
			dump_field(line, "s:", l->state, sizeof(l->state));
			dump_field(line, "f:", l->flags, sizeof(l->flags));
			dump_field(line, "t:", l->target, sizeof(l->target));
			if (dump_field(line, "d:", demote, sizeof(demote)))
				snprintf(l->demote, sizeof(l->demote), "%.2s", demote);
		} else if (l && !strncmp(line, " H:", 3)) {
			read_holder(l, line);
		} else if (l && !strncmp(line, " I:", 3)) {
			snprintf(l->object, sizeof(l->object), "%s", line + 1);
		} else if (l && !strncmp(line, " R:", 3)) {
			snprintf(l->object, sizeof(l->object), "%s", line + 1);
		}
	}
}

struct lock *find_lock(struct node *n, const char *name)
{
	size_t i;

	for (i = 0; i < n->nr; i++)
		if (!strcmp(n->locks[i].name, name))
			return &n->locks[i];
	return NULL;
}

void read_kept(struct node *n, char *holds, char *stops)
{
	char *line, *save = NULL, name[40], state[4];
	struct lock *l;

	for (line = strtok_r(holds, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, "%39s %3s", name, state) == 2 && (l = find_lock(n, name)))
			strcpy(l->kept, state);
	save = NULL;
	for (line = strtok_r(stops, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *of = strstr(line, " of glock ");

		if (of && sscanf(of, " of glock %39s", name) == 1 && (l = find_lock(n, name)) && !l->stop)
			l->stop = strdup(line);
	}
}

static char *dup_or_empty(char *s)
{
	return s ? s : strdup("");
}

int read_conn(struct conn *c, struct node *n, bool quiet)
{
	char *dump = ask(c, quiet, "dump", NULL), *holds, *stops;

	if (!dump)
		return EXIT_REFUSED;
	n->name = c->mountpoint;
	read_dump(n, dump);
	holds = dup_or_empty(ask(c, true, "holds", "all", NULL));
	stops = dup_or_empty(ask(c, true, "stops", "all", NULL));
	read_kept(n, holds, stops);
	free(dump);
	free(holds);
	free(stops);
	return EXIT_DONE;
}

void free_node(struct node *n)
{
	size_t i;

	for (i = 0; i < n->nr; i++) {
		free(n->locks[i].holders);
		free(n->locks[i].stop);
	}
	free(n->locks);
}

const char *lock_words(const struct lock *l, char *buf, size_t size)
{
	static const char *const of_inode[] = { [2] = "", [5] = "iopen of ", [6] = "flock of ", [7] = "fcntl locks of " };
	unsigned long long number;
	unsigned type;

	if (sscanf(l->name, "%u/%llx", &type, &number) == 2 && type < sizeof(of_inode) / sizeof(of_inode[0]) && of_inode[type])
		snprintf(buf, size, "%s (%sinode:%llu)", l->name, of_inode[type], number);
	else
		snprintf(buf, size, "%s", l->name);
	return buf;
}

const char *who_words(const struct holder *h, char *buf, size_t size)
{
	/* A recording has no names. */
	if (h->pid && !*h->comm)
		snprintf(buf, size, "pid %ld", h->pid);
	else if (h->pid)
		snprintf(buf, size, "pid %ld [%s]", h->pid, h->comm);
	else
		snprintf(buf, size, "the daemon");
	return buf;
}
