/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who chooses: everything, or luck.
 *
 * Everything: depth first over the choices of a run.  A run cannot be taken back, so each one starts again and repeats the choices
 * up to the one that is different (that they lead to the same places is checked).  A state that was seen before (its hash) is not
 * gone on from, so the whole space of a small program is walked, without a bound on depth or on preemptions.
 */
#include "sim.h"

#include <stdio.h>

/* --- everything --- */

#define MAX_DEPTH 4096

static struct {
	unsigned depth, len;
	struct { unsigned pick, nr; } path[MAX_DEPTH];
	uint64_t *seen;			/* open addressing; 0: free */
	size_t room, used;
} dfs;

static const char *describe_path(void)
{
	static char text[8192];
	int len = snprintf(text, sizeof(text), "choices:");

	for (unsigned i = 0; i < dfs.depth && len < (int)sizeof(text) - 8; i++)
		len += snprintf(text + len, sizeof(text) - len, " %u", dfs.path[i].pick);
	return text;
}

static bool insert(uint64_t *set, size_t room, uint64_t h)
{
	size_t i = h & (room - 1);

	while (set[i]) {
		if (set[i] == h)
			return false;
		i = (i + 1) & (room - 1);
	}
	set[i] = h;
	return true;
}

static bool first_time(uint64_t h)
{
	h |= !h;
	if (2 * dfs.used >= dfs.room) {
		size_t room = dfs.room ? 2 * dfs.room : 4096;
		uint64_t *bigger = xzalloc(room * sizeof(*bigger));

		for (size_t i = 0; i < dfs.room; i++)
			if (dfs.seen[i])
				insert(bigger, room, dfs.seen[i]);
		free(dfs.seen);
		dfs.seen = bigger;
		dfs.room = room;
	}
	if (!insert(dfs.seen, dfs.room, h))
		return false;
	dfs.used++;
	return true;
}

static int choose_next(void *arg, const struct action *acts, unsigned nr)
{
	unsigned d = dfs.depth;

	if (d == MAX_DEPTH)
		sim_fail("more than %u choices", MAX_DEPTH);
	if (d == dfs.len) {
		if (!first_time(state_hash()))
			return -1;
		dfs.path[dfs.len].pick = 0;
		dfs.path[dfs.len++].nr = nr;
	} else if (dfs.path[d].nr != nr) {
		sim_fail("the same choices lead to another place: not deterministic");
	}
	dfs.depth++;
	return dfs.path[d].pick;
}

void explore_program(const struct program *p, struct explored *sum)
{
	struct run_result res;

	sim_describe = describe_path;
	sim_luck = NULL;
	dfs.len = 0;
	dfs.used = 0;
	if (dfs.seen)
		memset(dfs.seen, 0, dfs.room * sizeof(*dfs.seen));
	for (;;) {
		dfs.depth = 0;
		run_program(p, choose_next, NULL, &res);
		sum->runs++;
		sum->steps += res.steps;
		while (dfs.len && dfs.path[dfs.len - 1].pick + 1 == dfs.path[dfs.len - 1].nr)
			dfs.len--;
		if (!dfs.len)
			break;
		dfs.path[dfs.len - 1].pick++;
	}
	sum->states += dfs.used;
	sum->programs++;
}

static int choose_given(void *arg, const struct action *acts, unsigned nr)
{
	const char **text = arg;
	char *end;
	unsigned long pick = strtoul(*text, &end, 10);

	if (end == *text)
		return 0;
	*text = end;
	return pick < nr ? (int)pick : -1;
}

void path_run(const struct program *p, const char *choices, struct run_result *res)
{
	run_program(p, choose_given, &choices, res);
}

/* What one caller may do in the exhaustive programs; the larger ones only use the first few. */
static const char *const alphabet[] = {
	"SH", "DF", "EX", "dUN", "EXt", "DFT", "SHt", "dDF", "EXk", "EXc", "SHbk", "dSH", "EXs", "DFk", "EXbk", "SHa",
};
static void explore_words(const unsigned *pick, unsigned nr0, unsigned nr1, const char *tail,
			  struct explored *sum)
{
	struct program p;
	char text[256];
	int len = 0;

	for (unsigned i = 0; i < nr0 + nr1; i++)
		len += snprintf(text + len, sizeof(text) - len, "%s%u: %s", i ? " / " : "", i >= nr0,
				alphabet[pick[i]]);
	snprintf(text + len, sizeof(text) - len, "; %s", tail);
	if (!program_parse(text, &p))
		sim_fail("not a program: %s", text);
	explore_program(&p, sum);
}

/* Callers at the same time: @nr0 on node 0, @nr1 on node 1, each with one operation; equal ones only once. */
static void explore_shape(unsigned nr0, unsigned nr1, unsigned ops, const char *tail, struct explored *sum)
{
	unsigned pick[4] = { 0 }, nr = nr0 + nr1, i;

	for (;;) {
		bool sorted = true;

		for (i = 0; i + 1 < nr; i++)
			if (i + 1 != nr0 && pick[i] > pick[i + 1])
				sorted = false;
		/* The nodes are alike. */
		if (nr0 == nr1 && !strstr(tail, "deaths") && pick[0] > pick[nr0])
			sorted = false;
		if (sorted)
			explore_words(pick, nr0, nr1, tail, sum);
		for (i = 0; i < nr && ++pick[i] == ops; i++)
			pick[i] = 0;
		if (i == nr)
			return;
	}
}

/* Callers with two operations one after the other on node 0, one on node 1. */
static void explore_sequences(unsigned ops, const char *tail, struct explored *sum)
{
	for (unsigned a = 0; a < ops; a++)
		for (unsigned b = 0; b < ops; b++)
			for (unsigned c = 0; c < ops; c++) {
				struct program p;
				char text[128];

				snprintf(text, sizeof(text), "0: %s %s / 1: %s; %s", alphabet[a], alphabet[b],
					 alphabet[c], tail);
				if (!program_parse(text, &p))
					sim_fail("not a program: %s", text);
				explore_program(&p, sum);
			}
}

int explore_all(unsigned level, struct explored *sum)
{
	const unsigned all = ARRAY_SIZE(alphabet), some = level ? 10 : 6, few = level > 1 ? 8 : 5;

	explore_shape(1, 0, all, "nodes=1", sum);
	explore_shape(2, 0, all, "nodes=1", sum);
	explore_shape(1, 1, all, "nodes=2", sum);
	explore_shape(2, 1, some, "nodes=2", sum);
	explore_sequences(some, "nodes=2", sum);
	explore_sequences(some, "nodes=2 halves", sum);
	explore_shape(1, 1, level ? all : some, "nodes=2 deaths=1", sum);
	explore_shape(1, 1, level ? all : some, "nodes=2 deaths=1 kill", sum);
	explore_shape(1, 1, level ? all : some, "nodes=2 reorder", sum);
	if (!level)
		return 0;
	explore_shape(2, 1, few, "nodes=2 deaths=1", sum);
	explore_sequences(few, "nodes=2 deaths=1", sum);
	if (level > 1)
		explore_shape(2, 2, few, "nodes=2", sum);
	return 0;
}

/* --- luck --- */

static uint64_t luck_state, luck_seed;

static unsigned luck_rnd(unsigned n)
{
	luck_state ^= luck_state << 13;
	luck_state ^= luck_state >> 7;
	luck_state ^= luck_state << 17;
	return (luck_state >> 20) % n;
}

static const char *describe_seed(void)
{
	static char text[64];

	snprintf(text, sizeof(text), "seed: %llu", (unsigned long long)luck_seed);
	return text;
}

/*
 * Some runs favour one kind of step or another for a while, so that queues fill up; deaths are rare, else nothing else happens.
 */
static int choose_by_luck(void *arg, const struct action *acts, unsigned nr)
{
	unsigned favour = (luck_seed >> 3) % 4, i;

	for (unsigned tries = 0; tries < 3; tries++) {
		i = luck_rnd(nr);
		if (acts[i].kind == ACT_DIE && nr > 1 && luck_rnd(25))
			continue;
		if (favour == 1 && acts[i].kind == ACT_DELIVER && luck_rnd(4))
			continue;
		if (favour == 2 && acts[i].kind == ACT_WORK && luck_rnd(4))
			continue;
		if (favour == 3 && acts[i].kind == ACT_RUN && luck_rnd(3))
			continue;
		break;
	}
	return i;
}

void random_program_of(uint64_t seed, struct program *p)
{
	program_random(seed, 0, p);
}

void random_run(uint64_t seed, const struct program *given, struct run_result *res)
{
	struct program p;

	if (given)
		p = *given;
	else
		random_program_of(seed, &p);
	luck_seed = seed;
	luck_state = (seed + 1) * 0xd1342543de82ef95ull;
	sim_luck = luck_rnd;
	sim_describe = describe_seed;
	run_program(&p, choose_by_luck, NULL, res);
}
