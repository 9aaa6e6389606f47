/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dlmseq: plays a sequence of lock requests, from standard input, on the real DLM (of a lockspace with this node only) or on
 * src/lock/dlm_rules.c, and prints what every step gave, in the same form.
 *
 *	dlmseq real NAME | rules
 *
 * Steps, one a line (L: a lock, P: a process, R: a resource, all small numbers; FLAGS: DLM_LKF_* in hexadecimal; V: the
 * first byte of the value block):
 *
 *	seq N              everything new: processes, resources, locks
 *	lock L P R MODE FLAGS V
 *	conv L MODE FLAGS V
 *	unlock L FLAGS
 *	cancel L
 *	close P            the process is gone
 *	purge              the orphans of the node go
 *
 * On a node that masters the resource the DLM answers within the call, so what a step gave is there when it returns: nothing is
 * waited for.  Outputs are sorted by process and lock; of one lock they keep their order.
 */
#include "lock/dlm_rules.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libdlm.h>
/* Both have a struct dlm_lksb, the same one. */
#define dlm_lksb dlm_lksb_kernel
#include <linux/dlm_device.h>
#undef dlm_lksb

#define PROCS 4
#define LOCKS 16

struct slot {
	bool used;		/* the DLM has it, or is being asked */
	bool granted;		/* it has answered yes once */
	bool valblk;		/* the last request wanted the value block */
	int proc;
	uint32_t lkid;
	struct dlm_lksb lksb;
	char lvb[DLM_RULES_LVB];
};

struct answer { int proc, lock, order; char text[96]; };

static struct slot locks[LOCKS];
static struct answer answers[256];
static unsigned nr_answers, sequence;
static struct dlm_rules *rules;
static const char *lockspace;
static dlm_lshandle_t procs[PROCS];

static __attribute__((noreturn)) void die(const char *what)
{
	fprintf(stderr, "dlmseq: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Never called: their addresses tell what a result is. */
static void ast_mark(void *arg) {}
static void bast_mark(void *arg) {}

static void add_answer(int l, const char *kind, int status, unsigned sbflags, int mode)
{
	struct answer *a = &answers[nr_answers];

	if (nr_answers == sizeof(answers) / sizeof(answers[0]))
		die("too many answers");
	a->proc = locks[l].proc;
	a->lock = l;
	a->order = nr_answers++;
	if (*kind == 'b')
		snprintf(a->text, sizeof(a->text), "bast %s", dlm_mode_name(mode));
	else
		snprintf(a->text, sizeof(a->text), "ast %d flags %x value %d", status, sbflags,
			 locks[l].valblk && !status ? (unsigned char)locks[l].lvb[0] : -1);
}

static void take_ast(int l, int status, unsigned sbflags)
{
	add_answer(l, "ast", status, sbflags & ~DLM_SBF_DEMOTED, 0);
	if (!status)
		locks[l].granted = true;
	/* A request that was refused has left no lock, and its id may be another's. */
	if (status == DLM_EUNLOCK || !locks[l].granted)
		locks[l].used = false;
}

/* --- the real one --- */

static void real_drain(void)
{
	char buf[sizeof(struct dlm_lock_result) + DLM_USER_LVB_LEN];
	const struct dlm_lock_result *r = (const void *)buf;

	for (int p = 0; p < PROCS; p++) {
		if (!procs[p])
			continue;
		while (read(dlm_ls_get_fd(procs[p]), buf, sizeof(buf)) > 0) {
			int l = (int)(intptr_t)r->user_astparam - 1;

			if (l < 0 || l >= LOCKS)
				die("a result of no lock");
			if (r->user_astaddr == (void *)bast_mark) {
				add_answer(l, "bast", 0, 0, r->bast_mode);
				continue;
			}
			if (r->lvb_offset)
				memcpy(locks[l].lvb, buf + r->lvb_offset, DLM_USER_LVB_LEN);
			/* The library's status is positive. */
			take_ast(l, abs(r->lksb.sb_status), (unsigned char)r->lksb.sb_flags);
		}
	}
}

static dlm_lshandle_t real_open(void)
{
	dlm_lshandle_t ls = dlm_open_lockspace(lockspace);

	if (!ls)
		die("dlm_open_lockspace");
	if (fcntl(dlm_ls_get_fd(ls), F_SETFL, O_NONBLOCK))
		die("fcntl");
	return ls;
}

static int real_lock(int l, int mode, uint32_t flags, const char *name)
{
	struct slot *s = &locks[l];
	int error;

	s->lksb.sb_lvbptr = flags & DLM_LKF_VALBLK ? s->lvb : NULL;
	s->lksb.sb_lkid = s->lkid;
	error = dlm_ls_lock(procs[s->proc], mode, &s->lksb, flags, name, name ? strlen(name) : 0, 0, ast_mark,
			    (void *)(intptr_t)(l + 1), bast_mark, NULL);
	s->lkid = s->lksb.sb_lkid;
	return error ? errno : 0;
}

static int real_unlock(int l, uint32_t flags)
{
	struct slot *s = &locks[l];

	return dlm_ls_unlock(procs[s->proc], s->lkid, flags, &s->lksb, (void *)(intptr_t)(l + 1)) ? errno : 0;
}

/* A process that purges its own id drops the locks of its descriptor instead, so another one does it. */
static int real_purge(void)
{
	pid_t self = getpid(), child;
	int status;

	fflush(stdout);
	child = fork();
	if (!child)
		_exit(dlm_ls_purge(procs[0], 0, self) ? errno : 0);
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		die("purge");
	return WEXITSTATUS(status);
}

/* --- the rules --- */

static struct dlm_owner owner_of(int p)
{
	return (struct dlm_owner){ .node = 1, .pid = p + 1 };
}

static void rules_drain(void)
{
	struct dlm_output out;

	while (dlm_rules_next(rules, (struct dlm_owner){ 0 }, &out)) {
		int l = (int)(intptr_t)out.cookie - 1;

		if (out.type == DLM_OUT_BAST) {
			add_answer(l, "bast", 0, 0, out.mode);
			continue;
		}
		if (out.lvb_read)
			memcpy(locks[l].lvb, out.lvb, DLM_RULES_LVB);
		take_ast(l, abs(out.status), out.sbflags);
	}
}

static int rules_lock(int l, int mode, uint32_t flags, const char *name)
{
	struct slot *s = &locks[l];
	struct dlm_ask ask = {
		.mode = mode, .flags = flags, .bast = true, .cookie = (void *)(intptr_t)(l + 1),
		.lvb = flags & DLM_LKF_VALBLK ? s->lvb : NULL,
	};

	if (name)
		return -dlm_rules_lock(rules, owner_of(s->proc), name, strlen(name), &ask, &s->lkid);
	return -dlm_rules_convert(rules, s->lkid, &ask);
}

static int rules_unlock(int l, uint32_t flags)
{
	return flags & DLM_LKF_CANCEL ? -dlm_rules_cancel(rules, locks[l].lkid) :
					-dlm_rules_unlock(rules, locks[l].lkid, flags, NULL);
}

/* --- steps --- */

static int by_lock(const void *a, const void *b)
{
	const struct answer *x = a, *y = b;

	if (x->proc != y->proc)
		return x->proc - y->proc;
	if (x->lock != y->lock)
		return x->lock - y->lock;
	return x->order - y->order;
}

static void print_answers(int error)
{
	if (rules)
		rules_drain();
	else
		real_drain();
	qsort(answers, nr_answers, sizeof(answers[0]), by_lock);
	if (error)
		printf("  error %d\n", error);
	for (unsigned i = 0; i < nr_answers; i++)
		printf("  P%d L%d %s\n", answers[i].proc, answers[i].lock, answers[i].text);
	nr_answers = 0;
}

static void new_sequence(unsigned n)
{
	sequence = n;
	if (rules)
		dlm_rules_destroy(rules);
	if (!lockspace)
		rules = dlm_rules_create();
	for (int p = 0; lockspace && p < PROCS; p++) {
		if (procs[p])
			dlm_close_lockspace(procs[p]);
		procs[p] = real_open();
	}
	memset(locks, 0, sizeof(locks));
}

static int ask(int l, int mode, uint32_t flags, unsigned value, const char *name)
{
	memset(locks[l].lvb, 0, sizeof(locks[l].lvb));
	locks[l].valblk = flags & DLM_LKF_VALBLK;
	/* What a new request brings is ignored; where the resource has no value the DLM gives zeros, or nothing. */
	if (!name)
		locks[l].lvb[0] = (char)value;
	return lockspace ? real_lock(l, mode, flags, name) : rules_lock(l, mode, flags, name);
}

static void close_process(int p)
{
	if (lockspace) {
		dlm_close_lockspace(procs[p]);
		procs[p] = real_open();
	} else {
		dlm_rules_process_died(rules, owner_of(p));
	}
	for (int l = 0; l < LOCKS; l++)
		if (locks[l].proc == p)
			locks[l].used = false;
}

static void step(const char *line)
{
	unsigned a, b, c, mode, flags, value;
	char name[32];
	int error = 0;

	if (sscanf(line, "seq %u", &a) == 1) {
		new_sequence(a);
	} else if (sscanf(line, "lock %u %u %u %u %x %u", &a, &b, &c, &mode, &flags, &value) == 6) {
		locks[a] = (struct slot){ .used = true, .proc = b };
		snprintf(name, sizeof(name), "s%ur%u", sequence, c);
		error = ask(a, mode, flags, value, name);
		if (error)
			locks[a].used = false;
	} else if (sscanf(line, "conv %u %u %x %u", &a, &mode, &flags, &value) == 4) {
		error = locks[a].used ? ask(a, mode, flags | DLM_LKF_CONVERT, value, NULL) : -1;
	} else if (sscanf(line, "unlock %u %x", &a, &flags) == 2) {
		error = !locks[a].used ? -1 : lockspace ? real_unlock(a, flags) : rules_unlock(a, flags);
	} else if (sscanf(line, "cancel %u", &a) == 1) {
		error = !locks[a].used ? -1 : lockspace ? real_unlock(a, DLM_LKF_CANCEL) :
							  rules_unlock(a, DLM_LKF_CANCEL);
	} else if (sscanf(line, "close %u", &a) == 1) {
		close_process(a);
	} else if (!strncmp(line, "purge", 5)) {
		if (lockspace)
			error = real_purge();
		else
			dlm_rules_purge(rules, (struct dlm_owner){ .node = 1 });
	} else {
		errno = EINVAL;
		die(line);
	}
	print_answers(error);
}

int main(int argc, char **argv)
{
	dlm_lshandle_t ls = NULL;
	char line[128];

	if (argc == 3 && !strcmp(argv[1], "real")) {
		lockspace = argv[2];
		ls = dlm_new_lockspace(lockspace, 0600, DLM_LSFL_NEWEXCL);
		if (!ls)
			die("dlm_new_lockspace");
	} else if (argc != 2 || strcmp(argv[1], "rules")) {
		fprintf(stderr, "usage: dlmseq real NAME | rules\n");
		return 2;
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!line[0] || line[0] == '#')
			continue;
		printf("%s\n", line);
		step(line);
	}
	if (rules)
		dlm_rules_destroy(rules);
	for (int p = 0; p < PROCS; p++)
		if (procs[p])
			dlm_close_lockspace(procs[p]);
	if (ls)
		dlm_release_lockspace(lockspace, ls, 1);
	return 0;
}
