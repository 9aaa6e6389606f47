/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * glocksim: the simulator's command line; see sim.h.
 *
 *	glocksim all [LEVEL]             all small programs, all choices (0, 1, 2)
 *	glocksim random FIRST NUMBER     programs and choices from seeds
 *	glocksim trace SEED [FIRST]      one of them, with everything that happens (after those from FIRST on)
 *	glocksim program TEXT            all choices of one program
 *	glocksim path TEXT CHOICES       one of them, traced
 *	glocksim run SEED TEXT           one program with the choices of a seed, traced
 *	glocksim bugs [NAME...]          (glocksim-bugs) have one bug after the other, and find it
 */
#include "sim.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* In a process of its own, which may fail; returns its exit status. */
static int in_child(void (*fn)(void *arg), void *arg, bool quiet)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		if (quiet && (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
			_exit(1);
		fn(arg);
		fflush(stdout);
		_exit(0);
	}
	GFS2_BUG_ON(pid < 0 || waitpid(pid, &status, 0) != pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* --- shrinking: what can be left out of a failing run? --- */

struct attempt { uint64_t seed; struct program p; };

static void run_attempt(void *arg)
{
	struct attempt *a = arg;
	struct run_result res;

	random_run(a->seed, &a->p, &res);
}

static bool still_fails(struct attempt *a)
{
	/* Other choices follow from fewer possibilities, so a few seeds are tried. */
	uint64_t seed = a->seed;

	for (unsigned i = 0; i < 20; i++) {
		a->seed = i ? seed + i * 1000003 : seed;
		if (in_child(run_attempt, a, true))
			return true;
	}
	a->seed = seed;
	return false;
}

static bool drop_task(struct attempt *a, unsigned t)
{
	struct attempt b = *a;

	if (b.p.nr_tasks < 2)
		return false;
	memmove(&b.p.tasks[t], &b.p.tasks[t + 1], (b.p.nr_tasks - t - 1) * sizeof(b.p.tasks[0]));
	b.p.nr_tasks--;
	if (!still_fails(&b))
		return false;
	*a = b;
	return true;
}

static bool drop_op(struct attempt *a, unsigned t, unsigned i)
{
	struct attempt b = *a;

	if (b.p.tasks[t].nr_ops < 2)
		return false;
	memmove(&b.p.tasks[t].ops[i], &b.p.tasks[t].ops[i + 1],
		(b.p.tasks[t].nr_ops - i - 1) * sizeof(struct op));
	b.p.tasks[t].nr_ops--;
	for (unsigned j = 0; j < b.p.tasks[t].nr_ops; j++)
		b.p.tasks[t].ops[j].nest = false;
	if (!still_fails(&b))
		return false;
	*a = b;
	return true;
}

static bool without(struct attempt *a, bool *flag)
{
	bool old = *flag;

	if (!old)
		return false;
	*flag = false;
	if (still_fails(a))
		return true;
	*flag = old;
	return false;
}

static void shrink(struct attempt *a)
{
	bool again = true;

	while (again) {
		again = false;
		for (unsigned t = a->p.nr_tasks; t-- > 0;)
			again |= drop_task(a, t);
		for (unsigned t = 0; t < a->p.nr_tasks; t++)
			for (unsigned i = a->p.tasks[t].nr_ops; i-- > 0;)
				again |= drop_op(a, t, i);
		again |= without(a, &a->p.faults) || without(a, &a->p.reorder) || without(a, &a->p.preempt);
		if (a->p.deaths) {
			unsigned deaths = a->p.deaths;

			a->p.deaths = 0;
			if (still_fails(a))
				again = true;
			else
				a->p.deaths = deaths;
		}
	}
}

static void trace_attempt(void *arg)
{
	sim_trace = true;
	run_attempt(arg);
}

static void report(uint64_t seed)
{
	struct attempt a = { .seed = seed };
	char text[1024];

	random_program_of(seed, &a.p);
	program_text(&a.p, text, sizeof(text));
	printf("seed %llu fails: %s\nshrinking ...\n", (unsigned long long)seed, text);
	shrink(&a);
	program_text(&a.p, text, sizeof(text));
	printf("what remains: glocksim run %llu '%s'\n", (unsigned long long)a.seed, text);
	in_child(trace_attempt, &a, false);
}

/* --- random runs --- */

struct range { uint64_t first, nr; int fd; };

static void run_range(void *arg)
{
	struct range *r = arg;
	struct run_result res;

	for (uint64_t s = r->first; s < r->first + r->nr; s++) {
		/* The seed at work, for the parent, whatever may happen. */
		if (r->fd >= 0 && pwrite(r->fd, &s, sizeof(s), 0) != sizeof(s))
			_exit(1);
		random_run(s, NULL, &res);
	}
	printf("%lu runs, %lu steps: %lu grants, %lu demotions, %lu conversion deadlocks, %lu cancels, "
	       "%lu refused, %lu try failed, %lu fast, %lu demands before the answer, %lu deaths (%lu of "
	       "processes), %lu recoveries, %lu grants held back, %lu faults, %lu locks lost half-way\n",
	       sim_stats.runs, sim_stats.steps, sim_stats.granted, sim_stats.demotes, sim_stats.deadlocks,
	       sim_stats.cancels, sim_stats.refused, sim_stats.try_failed, sim_stats.fast,
	       sim_stats.early_basts, sim_stats.deaths, sim_stats.orphaned, sim_stats.recoveries,
	       sim_stats.gated, sim_stats.faults, sim_stats.lost);
	/* Runs that did not meet what they are for prove nothing. */
	if (r->nr >= 1000 &&
	    (!sim_stats.deadlocks || !sim_stats.cancels || !sim_stats.refused || !sim_stats.fast ||
	     !sim_stats.early_basts || !sim_stats.recoveries || !sim_stats.gated || !sim_stats.faults ||
	     !sim_stats.orphaned || !sim_stats.lost)) {
		printf("some of that did not happen\n");
		_exit(1);
	}
}

static int random_runs(uint64_t first, uint64_t nr, bool shrink_it)
{
	struct range r = { .first = first, .nr = nr };
	FILE *f = tmpfile();
	uint64_t seed = 0;
	int status;

	GFS2_BUG_ON(!f);
	r.fd = fileno(f);
	status = in_child(run_range, &r, !shrink_it);
	if (status && shrink_it && pread(r.fd, &seed, sizeof(seed), 0) == sizeof(seed))
		report(seed);
	fclose(f);
	return status;
}

/* --- everything --- */

static void run_all(void *arg)
{
	struct explored sum = { 0 };

	explore_all(*(unsigned *)arg, &sum);
	printf("%lu programs, %lu runs, %lu states, %lu steps\n", sum.programs, sum.runs, sum.states,
	       sum.steps);
}

#ifdef GFS2_SEEDED_BUGS
/* --- bugs --- */

static const char *const bugs[] = {
	/* the machine */
	"glock-demand-lost-in-transition", "glock-second-wish-lost", "glock-pending-demote-dropped",
	"glock-hold-timer-not-set", "glock-min-hold-ignored", "glock-fast-grant-in-transition",
	"glock-no-sync-to-shared", "glock-no-inval-to-deferred", "glock-not-instantiated-again",
	"glock-deadlock-asks-again", "glock-cancel-taken-for-grant", "glock-cancel-wakes-nobody",
	"glock-try-waits-in-dlm", "glock-try-others-waits", "glock-try-waits-for-holder", "glock-holder-kept-on-error",
	"glock-withdrawn-gives-up", "glock-withdrawn-lets-in", "glock-raise-waits", "glock-raise-forgotten",
	"glock-lost-is-kept",
	/* what a lock module, a glock type and a supervisor must do */
	"sim-no-gate", "sim-no-writeback", "sim-stale-value-block", "sim-purge-first",
};

/*
 * Seeds that have found what is rare: a holder that was let in after a withdraw, whose caches had been dropped for a demotion that did
 * not come any more; own and other demands in an order that the checks took for a turn cut short.
 */
static const uint64_t rare[] = { 272566, 159137, 184079 };

static const char *chosen;

static void bug_all(void *arg)
{
	gfs2_seeded_select(chosen);
	run_all(arg);
}

static void bug_random(void *arg)
{
	gfs2_seeded_select(chosen);
	run_range(arg);
}

/* A check has failed, or the code under test ended the process. */
static bool found(int status)
{
	return status == SIM_FAILED || status > 128;
}

static int hunt(const char *name)
{
	struct range r = { .first = 0, .nr = 3000, .fd = -1 };
	unsigned level = 0;
	bool by_all, by_luck;

	chosen = name;
	by_luck = found(in_child(bug_random, &r, true));
	for (size_t i = 0; !by_luck && i < ARRAY_SIZE(rare); i++)
		by_luck = found(in_child(bug_random, &(struct range){ .first = rare[i], .nr = 1, .fd = -1 }, true));
	by_all = !by_luck && found(in_child(bug_all, &level, true));
	printf("%-32s %s\n", name, by_luck ? "found at random" : by_all ? "found among all small programs" :
							       "NOT FOUND");
	return !by_luck && !by_all;
}

static int hunt_all(int argc, char **argv)
{
	unsigned missed = 0, nr = argc ? (unsigned)argc : ARRAY_SIZE(bugs);

	for (unsigned i = 0; i < nr; i++)
		missed += hunt(argc ? argv[i] : bugs[i]);
	printf("%u bugs, %u of them found\n", nr, nr - missed);
	return missed ? 1 : 0;
}
#endif

static int usage(void)
{
	fprintf(stderr, "usage: glocksim all [LEVEL] | random FIRST NUMBER | trace SEED [FIRST] | program TEXT | path TEXT CHOICES | "
			"run SEED TEXT | bugs [NAME...]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct explored sum = { 0 };
	struct run_result res;
	struct program p;
	unsigned level = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (argc < 2)
		return usage();
#ifdef GFS2_SEEDED_BUGS
	if (getenv("GLOCKSIM_BUG"))
		gfs2_seeded_select(getenv("GLOCKSIM_BUG"));
	if (!strcmp(argv[1], "bugs"))
		return hunt_all(argc - 2, argv + 2);
#endif
	if (!strcmp(argv[1], "all") && level <= 2) {
		run_all(&level);
	} else if (!strcmp(argv[1], "random") && argc == 4) {
		return random_runs(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0), true);
	} else if (!strcmp(argv[1], "trace") && (argc == 3 || argc == 4)) {
		for (uint64_t s = argc == 4 ? strtoull(argv[3], NULL, 0) : UINT64_MAX;
		     s < strtoull(argv[2], NULL, 0); s++)
			random_run(s, NULL, &res);
		sim_trace = true;
		random_run(strtoull(argv[2], NULL, 0), NULL, &res);
		printf("%u steps, %016llx\n", res.steps, (unsigned long long)res.trace_hash);
	} else if (!strcmp(argv[1], "program") && argc == 3) {
		if (!program_parse(argv[2], &p))
			return usage();
		explore_program(&p, &sum);
		printf("%lu runs, %lu states, %lu steps\n", sum.runs, sum.states, sum.steps);
	} else if (!strcmp(argv[1], "path") && argc == 4) {
		if (!program_parse(argv[2], &p))
			return usage();
		sim_trace = true;
		path_run(&p, argv[3], &res);
	} else if (!strcmp(argv[1], "run") && argc == 4) {
		if (!program_parse(argv[3], &p))
			return usage();
		sim_trace = true;
		random_run(strtoull(argv[2], NULL, 0), &p, &res);
	} else {
		return usage();
	}
	return 0;
}
