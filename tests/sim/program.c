/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Programs: what the callers of each node do, as text and at random.
 *
 *	0: SH EX.s+1.DF / 1: DFt dUN / 1: EXb.k; deaths=1
 *
 * Callers are separated by slashes, each begins with its node.  An operation is a state with modifiers, d and a state (a demote
 * request on the node itself), or `shrink`.  Modifiers: t try, T try without asking the others, x exact, c not to be cached, y any
 * state, g no instantiation, p on through a recovery; a asynchronous, b with a callback, f fast path only; k may be taken back, s fsync, + kept
 * until the next operation is done.  N. in front is the resource.
 */
#include "sim.h"

#include <ctype.h>
#include <stdio.h>

static const struct { char letter; unsigned flag; } flag_letters[] = {
	{ 't', LM_FLAG_TRY }, { 'T', LM_FLAG_TRY_1CB }, { 'x', GL_EXACT }, { 'c', GL_NOCACHE },
	{ 'y', LM_FLAG_ANY }, { 'g', GL_SKIP }, { 'p', LM_FLAG_NOEXP },
	{ 'o', GL_TRY_OTHERS },
};
static const char how_letters[] = "-abf";

static const struct { const char *name; size_t offset; } words[] = {
	{ "kill", offsetof(struct program, kill_process) },
	{ "faults", offsetof(struct program, faults) },
	{ "reorder", offsetof(struct program, reorder) },
	{ "preempt", offsetof(struct program, preempt) },
	{ "halves", offsetof(struct program, halves) },
};

static int op_text(const struct op *op, char *buf, size_t size)
{
	int len = 0;

	if (op->kind == OP_SHRINK)
		return snprintf(buf, size, " shrink");
	buf[len++] = ' ';
	if (op->res)
		len += snprintf(buf + len, size - len, "%u.", op->res);
	len += snprintf(buf + len, size - len, "%s%s", op->kind == OP_DEMOTE ? "d" : "",
			glock_state_name(op->state));
	for (size_t i = 0; i < ARRAY_SIZE(flag_letters); i++)
		if (op->flags & flag_letters[i].flag)
			buf[len++] = flag_letters[i].letter;
	if (op->how)
		buf[len++] = how_letters[op->how];
	if (op->cancel)
		buf[len++] = 'k';
	if (op->fsync)
		buf[len++] = 's';
	if (op->nest)
		buf[len++] = '+';
	buf[len] = 0;
	return len;
}

void program_text(const struct program *p, char *buf, size_t size)
{
	int len = 0;

	for (unsigned t = 0; t < p->nr_tasks && len < (int)size - 200; t++) {
		len += snprintf(buf + len, size - len, "%s%u:", t ? " / " : "", p->tasks[t].node);
		for (unsigned i = 0; i < p->tasks[t].nr_ops; i++)
			len += op_text(&p->tasks[t].ops[i], buf + len, size - len);
	}
	len += snprintf(buf + len, size - len, "; nodes=%u", p->nodes);
	if (p->deaths)
		len += snprintf(buf + len, size - len, " deaths=%u", p->deaths);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (*((const bool *)((const char *)p + words[i].offset)))
			len += snprintf(buf + len, size - len, " %s", words[i].name);
}

static bool parse_op(const char *word, struct op *op)
{
	char state[3] = "";
	int s;

	memset(op, 0, sizeof(*op));
	if (!strcmp(word, "shrink")) {
		op->kind = OP_SHRINK;
		return true;
	}
	if (isdigit((unsigned char)word[0]) && word[1] == '.') {
		op->res = word[0] - '0';
		word += 2;
	}
	op->kind = word[0] == 'd' ? OP_DEMOTE : OP_LOCK;
	word += word[0] == 'd';
	if (op->res >= MAX_RES || !word[0] || !word[1])
		return false;
	memcpy(state, word, 2);
	s = glock_state_parse(state);
	if (s < 0 || (op->kind == OP_LOCK && s == UN) || (op->kind == OP_DEMOTE && s == EX))
		return false;
	op->state = s;
	for (word += 2; *word; word++) {
		const char *how = strchr(how_letters, *word);
		bool known = how || strchr("ks+", *word);

		for (size_t i = 0; i < ARRAY_SIZE(flag_letters); i++)
			if (*word == flag_letters[i].letter) {
				op->flags |= flag_letters[i].flag;
				known = true;
			}
		if (!known)
			return false;
		if (how)
			op->how = how - how_letters;
		op->cancel |= *word == 'k';
		op->fsync |= *word == 's';
		op->nest |= *word == '+';
	}
	return true;
}

static bool parse_word(const char *word, struct program *p)
{
	if (sscanf(word, "nodes=%u", &p->nodes) == 1)
		return p->nodes && p->nodes <= MAX_NODES;
	if (sscanf(word, "deaths=%u", &p->deaths) == 1)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(word, words[i].name)) {
			*(bool *)((char *)p + words[i].offset) = true;
			return true;
		}
	return false;
}

bool program_parse(const char *text, struct program *p)
{
	char copy[1024], *word, *save;
	bool options = false, new_task = true;

	memset(p, 0, sizeof(*p));
	p->nodes = 2;
	snprintf(copy, sizeof(copy), "%s", text);
	for (word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		size_t len = strlen(word);
		bool last = word[len - 1] == ';';
		unsigned n, t = p->nr_tasks - 1;

		if (last)
			word[len - 1] = 0;
		if (options) {
			if (!parse_word(word, p))
				return false;
		} else if (!strcmp(word, "/")) {
			new_task = true;
		} else if (new_task) {
			if (sscanf(word, "%u:", &n) != 1 || n >= MAX_NODES || p->nr_tasks == MAX_TASKS)
				return false;
			p->tasks[p->nr_tasks++].node = n;
			new_task = false;
		} else if (p->tasks[t].nr_ops == MAX_OPS ||
			   !parse_op(word, &p->tasks[t].ops[p->tasks[t].nr_ops++])) {
			return false;
		}
		options |= last;
	}
	for (unsigned t = 0; t < p->nr_tasks; t++)
		if (p->tasks[t].node >= p->nodes)
			return false;
	return p->nr_tasks;
}

/* --- at random --- */

static uint64_t rnd_state;
static unsigned rnd(unsigned n)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (rnd_state >> 20) % n;
}

static void random_op(struct op *op, unsigned resources, bool quiet)
{
	static const uint8_t states[] = { SH, SH, DF, DF, EX, EX }, wishes[] = { UN, SH, DF };
	static const uint8_t hows[] = { HOW_SYNC, HOW_SYNC, HOW_SYNC, HOW_ASYNC, HOW_CALLBACK, HOW_CALLBACK,
					HOW_FAST };
	static const uint32_t flags[] = { 0, 0, 0, 0, LM_FLAG_TRY, LM_FLAG_TRY_1CB, GL_EXACT, GL_NOCACHE,
					  LM_FLAG_ANY, GL_SKIP };

	memset(op, 0, sizeof(*op));
	op->res = rnd(resources);
	if (!quiet && !rnd(8)) {
		op->kind = rnd(4) ? OP_DEMOTE : OP_SHRINK;
		op->state = wishes[rnd(3)];
		return;
	}
	op->kind = OP_LOCK;
	op->state = states[rnd(ARRAY_SIZE(states))];
	op->how = hows[rnd(ARRAY_SIZE(hows))];
	op->flags = flags[rnd(quiet ? 4 : ARRAY_SIZE(flags))];
	if (op->state == EX)
		op->flags &= ~LM_FLAG_ANY;
	/* Like this seeds that are known for something go on meaning the same. */
	if (op->state == EX && op->flags == LM_FLAG_TRY_1CB && op->how != HOW_FAST && rnd_state >> 50 & 1)
		op->flags = GL_TRY_OTHERS;
	op->cancel = op->how != HOW_FAST && !rnd(5);
	op->fsync = op->state == EX && rnd(2);
}

void program_random(uint64_t seed, unsigned nodes, struct program *p)
{
	unsigned resources, tasks;
	bool quiet;

	memset(p, 0, sizeof(*p));
	rnd_state = (seed + 1) * 0x9e3779b97f4a7c15ull;
	rnd(2);
	p->nodes = nodes ? nodes : 2 + !rnd(3);
	resources = 1 + rnd(MAX_RES);
	/* Where nobody gives anything up by himself a lost demand shows as a caller that waits for ever. */
	quiet = !rnd(3);
	p->reorder = rnd(2);
	p->preempt = rnd(2);
	if (!rnd(3)) {
		p->deaths = 1 + (p->nodes > 2 && !rnd(2));
		p->kill_process = rnd(2);
	}
	p->faults = !rnd(4);
	/* Not by luck: seeds that are known for something go on meaning the same (those are none of these). */
	p->halves = !(seed % 3);
	for (unsigned n = 0; n < p->nodes; n++) {
		tasks = 1 + rnd(3);
		for (unsigned t = 0; t < tasks; t++) {
			unsigned nr = p->nr_tasks++;

			p->tasks[nr].node = n;
			p->tasks[nr].nr_ops = 1 + rnd(5);
			for (unsigned i = 0; i < p->tasks[nr].nr_ops; i++)
				random_op(&p->tasks[nr].ops[i], resources, quiet);
			/* Ascending, as everybody takes several locks. */
			for (unsigned i = 0; i + 1 < p->tasks[nr].nr_ops; i++) {
				struct op *a = &p->tasks[nr].ops[i], *b = a + 1;

				a->nest = a->kind == OP_LOCK && b->kind == OP_LOCK && a->res < b->res &&
					  rnd(2);
			}
		}
	}
}
