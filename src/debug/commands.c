/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands of the control socket (protocol: include/gfs2-fuse/control.h; for people:
 * docs/man/glockctl.8).
 *
 * They look at the file system as any other thread does, with holders, and change nothing but
 * tunables, fault rules and, on demand, the state of a glock.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "debug/control_i.h"
#include "debug/event.h"
#include "dio/dio.h"
#include "fs/bmap.h"
#include "fs/rgrp.h"
#include "util/util.h"

/* --- glock names --- */

bool ctl_parse_u64(const char *s, int base, uint64_t *val)
{
	char *end;

	/* strtoull alone would take blanks and a sign */
	if (!(*s >= '0' && *s <= '9') && (base != 16 || !strchr("abcdefABCDEF", *s) || !*s))
		return false;
	errno = 0;
	*val = strtoull(s, &end, base);
	return !errno && !*end;
}

int ctl_parse_glock(struct ctl_call *call, const char *s, struct glock_name *name)
{
	uint64_t type;
	char *slash = strchr(s, '/');
	char buf[8];

	if (!strncmp(s, "inode:", 6) && ctl_parse_u64(s + 6, 10, &name->number)) {
		name->type = LM_TYPE_INODE;
		return 0;
	}
	if (!strncmp(s, "rgrp:", 5) && ctl_parse_u64(s + 5, 10, &name->number)) {
		uint64_t addr = gfs2_rgrp_of_block(call->ctl->sdp, name->number);

		if (!addr)
			return ctl_fail(call, -ENOENT, "block %llu is in no resource group", (unsigned long long)name->number);
		*name = (struct glock_name){ LM_TYPE_RGRP, addr };
		return 0;
	}
	if (slash && (size_t)(slash - s) < sizeof(buf)) {
		memcpy(buf, s, slash - s);
		buf[slash - s] = 0;
		if (ctl_parse_u64(buf, 10, &type) && type >= LM_TYPE_NONDISK &&
		    type <= LM_TYPE_JOURNAL && ctl_parse_u64(slash + 1, 16, &name->number)) {
			name->type = (enum lm_type)type;
			return 0;
		}
	}
	return ctl_fail(call, CTL_USAGE, "not a glock: %.80s (like 2/35f8, inode:13816 or rgrp:13816)", s);
}

bool ctl_take_json(struct ctl_call *call)
{
	if (call->argc < 2 || strcmp(call->argv[1], "--json"))
		return false;
	memmove(&call->argv[1], &call->argv[2], (size_t)(call->argc - 1) * sizeof(call->argv[0]));
	call->argc--;
	return true;
}

/* --- dump --- */

struct glock_list {
	struct gfs2_glock **gl;
	size_t nr, space;
	bool short_of_memory;
};

static void collect_glock(struct gfs2_glock *gl, void *arg)
{
	struct glock_list *l = arg;

	if (l->nr == l->space) {
		size_t space = l->space ? 2 * l->space : 256;
		void *p = reallocarray(l->gl, space, sizeof(*l->gl));

		if (!p) {
			l->short_of_memory = true;
			return;
		}
		l->gl = p;
		l->space = space;
	}
	l->gl[l->nr++] = gfs2_glock_hold(gl);
}

static int glock_cmp(const void *pa, const void *pb)
{
	const struct gfs2_glock *a = *(struct gfs2_glock *const *)pa;
	const struct gfs2_glock *b = *(struct gfs2_glock *const *)pb;

	if (a->gl_type != b->gl_type)
		return a->gl_type < b->gl_type ? -1 : 1;
	return a->gl_number < b->gl_number ? -1 : a->gl_number > b->gl_number;
}

static int dump_all(struct ctl_call *call)
{
	struct glock_list l = { 0 };
	size_t i;

	gfs2_glock_table_for_each(call->ctl->sdp->sd_glocks, collect_glock, &l);
	if (l.nr)
		qsort(l.gl, l.nr, sizeof(*l.gl), glock_cmp);
	for (i = 0; i < l.nr; i++) {
		gfs2_dump_glock(call->out, l.gl[i]);
		gfs2_glock_put(l.gl[i]);
	}
	free(l.gl);
	return l.short_of_memory ? ctl_fail(call, -ENOMEM, "the list is not complete") : 0;
}

static int cmd_dump(struct ctl_call *call)
{
	int i;

	if (call->argc == 1)
		return dump_all(call);
	for (i = 1; i < call->argc; i++) {
		struct glock_name name;
		struct gfs2_glock *gl;
		int error = ctl_parse_glock(call, call->argv[i], &name);

		if (error)
			return error;
		gl = gfs2_glock_find(call->ctl->sdp->sd_glocks, name.type, name.number);
		if (!gl)
			return ctl_fail(call, -ENOENT, "this node has no glock %s", call->argv[i]);
		gfs2_dump_glock(call->out, gl);
		gfs2_glock_put(gl);
	}
	return 0;
}

/* --- map --- */

/* More runs than this are not listed: bounds the memory of an answer. */
#define MAP_MAX_RUNS (1u << 20)

struct map_walk {
	struct gfs2_inode *ip;
	FILE *out;
	const char *where;	/* "disk", "memory" */
	bool json;
	unsigned nr;
	struct extent run;	/* not printed yet; len 0: none */
};

static void map_print(struct map_walk *w)
{
	const struct extent *e = &w->run;

	if (!e->len || w->nr++ >= MAP_MAX_RUNS)
		return;
	if (w->json)
		fprintf(w->out, "{\"map\":\"%s\",\"lblock\":%llu,\"len\":%llu,\"pblock\":%llu}\n", w->where,
			(unsigned long long)e->lblock, (unsigned long long)e->len,
			(unsigned long long)e->pblock);
	else if (e->pblock)
		fprintf(w->out, "%-6s %llu+%llu -> %llu\n", w->where, (unsigned long long)e->lblock,
			(unsigned long long)e->len, (unsigned long long)e->pblock);
	else
		fprintf(w->out, "%-6s %llu+%llu hole\n", w->where, (unsigned long long)e->lblock,
			(unsigned long long)e->len);
}

static void map_add(struct map_walk *w, const struct extent *e)
{
	struct extent *r = &w->run;

	if (r->len && r->lblock + r->len == e->lblock &&
	    (r->pblock ? e->pblock == r->pblock + r->len : !e->pblock)) {
		r->len += e->len;
		return;
	}
	map_print(w);
	*r = *e;
}

/* End of a list: a hole at the end of the tree is not worth a line beyond the end of file. */
static void map_finish(struct map_walk *w)
{
	uint64_t blocks = DIV_ROUND_UP(w->ip->i_size, w->ip->i_sbd->sd_bsize);

	if (!w->run.pblock) {
		if (w->run.lblock >= blocks)
			w->run.len = 0;
		else
			w->run.len = min_t(uint64_t, w->run.len, blocks - w->run.lblock);
	}
	map_print(w);
	if (w->nr > MAP_MAX_RUNS)
		fprintf(w->out, w->json ? "{\"map\":\"%s\",\"left_out\":%u}\n" :
					  "%-6s ... %u more\n", w->where, w->nr - MAP_MAX_RUNS);
}

/*
 * What the tree says, pointer by pointer, without the map in memory: the block @blkno, @height
 * levels above the data.
 */
static int map_tree(struct map_walk *w, uint64_t blkno, unsigned height, uint64_t lblock)
{
	struct gfs2_sbd *sdp = w->ip->i_sbd;
	bool top = blkno == w->ip->i_no_addr;
	unsigned nr = top ? sdp->sd_diptrs : sdp->sd_inptrs, i, h;
	uint64_t span = 1;
	const __be64 *ptr;
	struct gfs2_bh *bh;
	int error;

	error = gfs2_meta_read(sdp, w->ip->i_gl, blkno, top ? GFS2_METATYPE_DI : GFS2_METATYPE_IN,
			       &bh);
	if (error)
		return error;
	for (h = 1; h < height; h++)
		span *= sdp->sd_inptrs;
	ptr = (const __be64 *)(bh->b_data + (top ? sizeof(struct gfs2_dinode) :
						   sizeof(struct gfs2_meta_header)));
	for (i = 0; i < nr && !error; i++, lblock += span) {
		struct extent e = { lblock, span, be64_to_cpu(ptr[i]) };

		if (e.pblock && height > 1)
			error = map_tree(w, e.pblock, height - 1, lblock);
		else
			map_add(w, &e);
	}
	buf_put(bh);
	return error;
}

static void map_memory(struct map_walk *w)
{
	struct extent ext[64];
	uint64_t from = 0;
	unsigned n, i;

	while ((n = extmap_copy(&w->ip->i_map, from, ext, ARRAY_SIZE(ext)))) {
		for (i = 0; i < n; i++)
			map_add(w, &ext[i]);
		from = ext[n - 1].lblock + ext[n - 1].len;
	}
	map_print(w);
}

static void map_head(struct ctl_call *call, const struct gfs2_inode *ip, bool json)
{
	const char *fmt = json ? "{\"inode\":%llu,\"formal\":%llu,\"size\":%llu,\"blocks\":%llu,"
				 "\"height\":%u,\"block_size\":%u,\"stuffed\":%s}\n" :
				 "inode %llu formal %llu size %llu blocks %llu height %u "
				 "block_size %u stuffed %s\n";

	fprintf(call->out, fmt, (unsigned long long)ip->i_no_addr,
		(unsigned long long)ip->i_no_formal_ino, (unsigned long long)ip->i_size,
		(unsigned long long)ip->i_blocks, ip->i_height, ip->i_sbd->sd_bsize,
		gfs2_is_stuffed(ip) ? (json ? "true" : "yes") : (json ? "false" : "no"));
}

static void lock_answered(struct gfs2_holder *gh)
{
	const int *answered = gh->gh_priv;

	GFS2_BUG_ON(eventfd_write(*answered, 1));
}

/*
 * A lock for as long as the client wants it: some are never given (the daemon itself keeps a few in SH or EX as long as it is mounted), and
 * a thread that waited for one after its client had gone would keep the unmount waiting for ever.  0, -errno or CTL_GONE: it is not held.
 */
static int lock_for_client(struct ctl_call *call, struct gfs2_glock *gl, enum lm_state state, struct gfs2_holder *gh)
{
	int answered = eventfd(0, EFD_CLOEXEC), error;
	struct pollfd p[3] = { { .fd = answered, .events = POLLIN }, { .fd = call->conn->fd }, { .fd = call->ctl->stop_fd, .events = POLLIN } };
	bool gone = false;
	eventfd_t n;

	if (answered < 0)
		return -errno;
	gfs2_holder_init(gl, state, GL_ASYNC, gh, "glockctl");
	gh->gh_granted = lock_answered;
	gh->gh_priv = &answered;
	error = gfs2_glock_nq(gh);
	if (!error) {
		while (!p[0].revents && !p[1].revents && !p[2].revents)
			if (poll(p, 3, -1) < 0)
				GFS2_BUG_ON(errno != EINTR);
		gone = !p[0].revents;
		if (gone && gfs2_glock_cancel(gh)) {
			error = CTL_GONE;
		} else {
			/* Answered, or being answered now. */
			while (eventfd_read(answered, &n))
				GFS2_BUG_ON(errno != EINTR);
			GFS2_BUG_ON(!gfs2_glock_poll(gh));
			error = gh->gh_error;
			gh->gh_granted = NULL;
		}
	}
	if (!error && gone) {
		gfs2_glock_dq(gh);
		error = CTL_GONE;
	}
	if (error)
		gfs2_holder_uninit(gh);
	close(answered);
	return error;
}

static int map_inode(struct ctl_call *call, struct gfs2_inode *ip, bool json)
{
	struct map_walk w = { .ip = ip, .out = call->out, .where = "disk", .json = json };
	struct gfs2_holder gh;
	int error, type;

	/* Now that it is in core nobody can delete it: is there an inode at all? */
	type = gfs2_get_block_type(ip->i_sbd, ip->i_no_addr);
	if (type < 0)
		return type;
	if (type != GFS2_BLKST_DINODE_ && type != GFS2_BLKST_UNLINKED_)
		return ctl_fail(call, -ENOENT, "block %llu is no inode",
				(unsigned long long)ip->i_no_addr);
	error = lock_for_client(call, ip->i_gl, LM_ST_SHARED, &gh);
	if (error)
		return error;
	map_head(call, ip, json);
	if (!gfs2_is_stuffed(ip)) {
		error = map_tree(&w, ip->i_no_addr, ip->i_height, 0);
		map_finish(&w);
		w = (struct map_walk){ .ip = ip, .out = call->out, .where = "memory", .json = json };
		map_memory(&w);
	}
	gfs2_glock_dq_uninit(&gh);
	return error;
}

static int cmd_map(struct ctl_call *call)
{
	bool json = ctl_take_json(call);
	struct gfs2_sbd *sdp = call->ctl->sdp;
	struct glock_name name;
	struct gfs2_inode *ip;
	int error;

	if (call->argc != 2)
		return ctl_fail(call, CTL_USAGE, "map [--json] GLOCK");
	error = ctl_parse_glock(call, call->argv[1], &name);
	if (error)
		return error;
	if (name.type != LM_TYPE_INODE)
		return ctl_fail(call, -EINVAL, "only inodes (type 2) have a map");
	if (!gfs2_blk_in_rgrp(sdp, name.number))
		return ctl_fail(call, -ENOENT, "block %llu is no inode",
				(unsigned long long)name.number);
	error = gfs2_inode_lookup(sdp, name.number, 0, &ip);
	if (error)
		return error;
	error = map_inode(call, ip, json);
	gfs2_inode_put(ip);
	return error;
}

/* --- dio --- */

static void dio_print(struct ctl_call *call, struct gfs2_inode *ip, bool json)
{
	unsigned in_flight = atomic_load_explicit(&ip->i_dio_count, memory_order_relaxed);
	int i;

	fprintf(call->out, json ? "{\"inode\":%llu,\"in_flight\":%u" : "inode %llu\nin_flight %u\n",
		(unsigned long long)ip->i_no_addr, in_flight);
	for (i = 0; i < DIO_NR_OUTCOMES; i++)
		fprintf(call->out, json ? ",\"%s\":%llu" : "%s %llu\n", gfs2_dio_outcome_name(i),
			(unsigned long long)atomic_load_explicit(&ip->i_dio_outcome[i], memory_order_relaxed));
	if (json)
		fputs("}\n", call->out);
}

static int cmd_dio(struct ctl_call *call)
{
	bool json = ctl_take_json(call);
	struct glock_name name;
	struct gfs2_inode *ip;
	int error;

	if (call->argc != 2)
		return ctl_fail(call, CTL_USAGE, "dio [--json] GLOCK");
	error = ctl_parse_glock(call, call->argv[1], &name);
	if (error)
		return error;
	if (name.type != LM_TYPE_INODE)
		return ctl_fail(call, -EINVAL, "only inodes (type 2) have direct I/O");
	ip = gfs2_inode_find(call->ctl->sdp, name.number);
	if (!ip)
		return ctl_fail(call, -ENOENT, "inode %llu is not in memory", (unsigned long long)name.number);
	dio_print(call, ip, json);
	gfs2_inode_put(ip);
	return 0;
}

/* --- demote --- */

static enum lm_state glock_state_now(struct gfs2_glock *gl)
{
	enum lm_state state;

	rmutex_lock(&gl->gl_lock);
	state = gl->gl_state;
	rmutex_unlock(&gl->gl_lock);
	return state;
}

static void demote_done(FILE *out, bool json, const struct gfs2_glock *gl, enum lm_state from, enum lm_state to)
{
	const char *fmt = json ? "{\"glock\":\"%u/%llx\",\"from\":\"%s\",\"to\":\"%s\"}\n" :
			  from == to ? "%u/%llx %s already %s\n" : "%u/%llx %s -> %s\n";

	fprintf(out, fmt, gl->gl_type, (unsigned long long)gl->gl_number, glock_state_name(from), glock_state_name(to));
}

static int cmd_demote(struct ctl_call *call)
{
	const char *synopsis = "demote [--json] GLOCK UN|SH|DF [SECONDS]";
	bool json = ctl_take_json(call);
	enum lm_state before;
	struct glock_name name;
	struct gfs2_glock *gl;
	uint64_t seconds = 10;
	int wished, error;

	if (call->argc < 3 || call->argc > 4 ||
	    (call->argc == 4 && (!ctl_parse_u64(call->argv[3], 10, &seconds) || seconds > 3600)))
		return ctl_fail(call, CTL_USAGE, "%s", synopsis);
	error = ctl_parse_glock(call, call->argv[1], &name);
	if (error)
		return error;
	wished = glock_state_parse(call->argv[2]);
	if (wished < 0 || wished == LM_ST_EXCLUSIVE)
		return ctl_fail(call, CTL_USAGE, "%.40s: a lock is demoted to UN, SH or DF", call->argv[2]);
	gl = gfs2_glock_find(call->ctl->sdp->sd_glocks, name.type, name.number);
	if (!gl)
		return ctl_fail(call, -ENOENT, "this node has no glock %s", call->argv[1]);

	before = glock_state_now(gl);
	if (before == LM_ST_UNLOCKED || before == (enum lm_state)wished) {
		demote_done(call->out, json, gl, before, before);
		goto out;
	}
	gfs2_glock_cb(gl, wished, true);
	/* It may have been taken again since: that it was given up is what counts. */
	if (gfs2_glock_wait_demoted(gl, seconds * 1000000000ull) && !gfs2_withdrawn(call->ctl->sdp)) {
		demote_done(call->out, json, gl, before, (enum lm_state)wished);
		goto out;
	}
	/* Who keeps it: the request stays, and is answered when they let go. */
	if (!json)
		gfs2_dump_glock(call->out, gl);
	error = ctl_fail(call, -EBUSY, "refused: still %s", glock_state_name(glock_state_now(gl)));
out:
	gfs2_glock_put(gl);
	return error;
}

/* --- stats --- */

static void times_text(FILE *out, const char *head, const struct glock_times *t)
{
	static const char *const words[GLT_NR] = { "wait", "hold" };

	for (unsigned what = 0; what < GLT_NR; what++) {
		uint64_t nr = 0;

		for (unsigned b = 0; b < GLOCK_TIME_BUCKETS; b++)
			nr += t->n[what][b];
		fprintf(out, "%s %s nr %llu mean_ns %llu max_ns %llu", head, words[what], (unsigned long long)nr,
			(unsigned long long)(nr ? t->sum_ns[what] / nr : 0), (unsigned long long)t->max_ns[what]);
		for (unsigned b = 0; b < GLOCK_TIME_BUCKETS; b++)
			if (t->n[what][b] && b < GLOCK_TIME_BUCKETS - 1)
				fprintf(out, " <%llu:%u", 1024ull << 2 * b, t->n[what][b]);
			else if (t->n[what][b])
				fprintf(out, " more:%u", t->n[what][b]);
		fputc('\n', out);
	}
}

static void times_json(FILE *out, const char *member, const char *name, const struct glock_times *t)
{
	static const char *const words[GLT_NR] = { "wait", "hold" };

	fprintf(out, "{\"%s\":\"%s\"", member, name);
	for (unsigned what = 0; what < GLT_NR; what++) {
		const char *sep = "";
		uint64_t nr = 0;

		fprintf(out, ",\"%s\":{\"buckets\":{", words[what]);
		for (unsigned b = 0; b < GLOCK_TIME_BUCKETS; b++) {
			nr += t->n[what][b];
			if (!t->n[what][b])
				continue;
			if (b < GLOCK_TIME_BUCKETS - 1)
				fprintf(out, "%s\"%llu\":%u", sep, 1024ull << 2 * b, t->n[what][b]);
			else
				fprintf(out, "%s\"more\":%u", sep, t->n[what][b]);
			sep = ",";
		}
		fprintf(out, "},\"nr\":%llu,\"sum_ns\":%llu,\"max_ns\":%llu}", (unsigned long long)nr,
			(unsigned long long)t->sum_ns[what], (unsigned long long)t->max_ns[what]);
	}
	fputs("}\n", out);
}

static int cmd_stats(struct ctl_call *call)
{
	static const char *const types[LM_TYPE_JOURNAL + 1] = { NULL, "nondisk", "inode", "rgrp", "meta", "iopen",
								"flock", "plock", "quota", "journal" };
	bool json = ctl_take_json(call);
	struct glock_times all[LM_TYPE_JOURNAL + 1], one;
	struct glock_name name;
	struct gfs2_glock *gl;
	char words[40];
	int i, error;

	if (call->argc == 1) {
		gfs2_glock_table_times(call->ctl->sdp->sd_glocks, all);
		for (i = LM_TYPE_NONDISK; i <= LM_TYPE_JOURNAL; i++)
			if (json)
				times_json(call->out, "type", types[i], &all[i]);
			else
				times_text(call->out, types[i], &all[i]);
		return 0;
	}
	for (i = 1; i < call->argc; i++) {
		error = ctl_parse_glock(call, call->argv[i], &name);
		if (error)
			return error;
		gl = gfs2_glock_find(call->ctl->sdp->sd_glocks, name.type, name.number);
		if (!gl)
			return ctl_fail(call, -ENOENT, "this node has no glock %s", call->argv[i]);
		gfs2_glock_times(gl, &one);
		gfs2_glock_put(gl);
		snprintf(words, sizeof(words), "%u/%llx", name.type, (unsigned long long)name.number);
		if (json)
			times_json(call->out, "glock", words, &one);
		else
			times_text(call->out, words, &one);
	}
	return 0;
}

/* --- trace --- */

struct trace_filter {
	uint32_t types;		/* bit per event type; 0: all */
	bool by_glock, by_pid, by_req, text;
	struct glock_name glock;
	uint64_t pid, req, count, since;
	uint64_t deadline;	/* now_ns() clock, 0: none */
};

static const char trace_synopsis[] =
	"trace [-n COUNT] [-t SECONDS] [-e EVENT[,EVENT]...] [-g GLOCK] [-p PID] [-r REQUEST] "
	"[-s SEQ] [--text]";

static bool parse_events(struct ctl_call *call, char *list, uint32_t *types)
{
	char *save = NULL, *w;
	unsigned i;

	for (w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < EV_NR && strcmp(w, gfs2_event_name(i)); i++)
			;
		if (i == EV_NR) {
			ctl_fail(call, CTL_USAGE, "there is no event %.40s; gfs2-fuse-events(5) has their names", w);
			return false;
		}
		*types |= 1u << i;
	}
	return *types;
}

static bool parse_seconds(const char *s, uint64_t *deadline)
{
	char *end;
	double sec = strtod(s, &end);

	if (end == s || *end || !isfinite(sec) || sec < 0 || sec > 1e9)
		return false;
	*deadline = now_ns() + (uint64_t)(sec * 1e9);
	return true;
}

static bool parse_trace_option(struct ctl_call *call, struct trace_filter *f, char opt, char *arg)
{
	switch (opt) {
	case 'n':
		return ctl_parse_u64(arg, 10, &f->count) && f->count;
	case 't':
		return parse_seconds(arg, &f->deadline);
	case 'e':
		return parse_events(call, arg, &f->types);
	case 'g':
		f->by_glock = true;
		return !ctl_parse_glock(call, arg, &f->glock);
	case 'p':
		f->by_pid = true;
		return ctl_parse_u64(arg, 10, &f->pid);
	case 'r':
		f->by_req = true;
		return ctl_parse_u64(arg, 10, &f->req);
	}
	return ctl_parse_u64(arg, 10, &f->since);
}

/* What an option wants, where its value is none. */
static const char *trace_wish(char opt)
{
	return opt == 'n' ? "a number from 1 on" : opt == 't' ? "seconds" : opt == 'p' ? "a process's number" : opt == 'e' ? "events" : "a number";
}

static int parse_trace(struct ctl_call *call, struct trace_filter *f)
{
	int i;

	*f = (struct trace_filter){ .since = gfs2_event_next_seq() };
	for (i = 1; i < call->argc; i++) {
		char *a = call->argv[i];

		if (!strcmp(a, "--text")) {
			f->text = true;
			continue;
		}
		if (a[0] != '-')
			return ctl_fail(call, CTL_USAGE, "%s", trace_synopsis);
		if (!a[1] || a[2] || !strchr("ntegprs", a[1]))
			return ctl_fail(call, CTL_USAGE, "trace has no option %.40s", a);
		if (++i == call->argc)
			return ctl_fail(call, CTL_USAGE, "%s: its value is missing", a);
		if (!parse_trace_option(call, f, a[1], call->argv[i]))
			return *call->why ? CTL_USAGE : ctl_fail(call, CTL_USAGE, "%s %.40s: it wants %s", a, call->argv[i], trace_wish(a[1]));
	}
	return 0;
}

static bool trace_wants(const struct trace_filter *f, const struct gfs2_event *e)
{
	if (f->types && (e->type >= 32 || !(f->types & 1u << e->type)))
		return false;
	if (f->by_glock && (!(e->fields & EVF_GLOCK) || e->gl_number != f->glock.number ||
			    e->gl_type != f->glock.type))
		return false;
	if (f->by_pid && e->pid != (int64_t)f->pid)
		return false;
	return !f->by_req || e->req == f->req;
}

/*
 * What a trace may cost those who are traced: after a batch of events its thread sleeps TRACE_REST times the processor time that the
 * batch took, and TRACE_CALM_NS at least.  So it uses a thirty-second of a processor, and who makes more events than that
 * overwrites some before they are read.  Batches are large, since each takes a processor from somebody twice, here and for who reads.
 * Nobody has to wake it meanwhile, which would be a system call for each request.
 */
#define TRACE_BATCH 512
#define TRACE_REST 31
#define TRACE_CALM_NS 2000000ull
#define TRACE_MOST_NS 100000000ull

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int trace_rest(struct ctl_conn *conn, uint64_t used_ns)
{
	uint64_t ns = max_t(uint64_t, TRACE_REST * used_ns, TRACE_CALM_NS);

	return ctl_rest(conn, min_t(uint64_t, ns, TRACE_MOST_NS));
}

static void trace_batch(struct ctl_call *call, const struct trace_filter *f, const struct gfs2_event *ev, unsigned n, uint64_t *sent)
{
	char line[1024];

	for (unsigned i = 0; i < n; i++) {
		int len;

		if (!trace_wants(f, &ev[i]))
			continue;
		if (f->text)
			len = gfs2_event_text(&ev[i], line, sizeof(line) - 1);
		else
			len = gfs2_event_json(&ev[i], call->ctl->sdp->sd_jid, line, sizeof(line) - 1);
		len = min_t(int, len, (int)sizeof(line) - 2);
		line[len] = '\n';
		fwrite(line, 1, (size_t)len + 1, call->out);
		if (f->count && ++*sent == f->count)
			return;
	}
}

static int cmd_trace(struct ctl_call *call)
{
	uint64_t live = gfs2_event_next_seq(), seq, end = UINT64_MAX, sent = 0;
	struct gfs2_event ev[TRACE_BATCH];
	struct trace_filter f;
	int error = parse_trace(call, &f);

	seq = f.since;
	while (!error && seq < end) {
		uint64_t cpu = thread_cpu_ns();
		unsigned n;

		/* When the time is over, what has happened until then is still told. */
		if (end == UINT64_MAX && f.deadline && now_ns() >= f.deadline)
			end = gfs2_event_next_seq();
		n = gfs2_event_read(&seq, ev, ARRAY_SIZE(ev));
		while (n && ev[n - 1].seq >= end)
			n--;
		trace_batch(call, &f, ev, n, &sent);
		if (n)
			error = ctl_flush(call);
		if (f.count && sent == f.count)
			break;
		if (error || (end != UINT64_MAX && n))
			continue;
		if (end != UINT64_MAX)
			break;
		ctl_holds_watch(call->conn);
		if (!n && !ctl_gone(call->conn))
			gfs2_event_wait(seq, 100);
		else if (!n)
			error = CTL_GONE;
		else if (seq > live) /* what is told of the past is not for ever */
			error = trace_rest(call->conn, thread_cpu_ns() - cpu);
	}
	return error;
}

/* --- the list --- */


static int cmd_help(struct ctl_call *call);

static const struct ctl_command commands[] = {
	{ "dump", cmd_dump, "dump [GLOCK]..." },
	{ "map", cmd_map, "map [--json] GLOCK" },
	{ "dio", cmd_dio, "dio [--json] GLOCK" },
	{ "demote", cmd_demote, "demote [--json] GLOCK UN|SH|DF [SECONDS]" },
	{ "trace", cmd_trace, trace_synopsis },
	{ "stats", cmd_stats, "stats [--json] [GLOCK]..." },
	{ "get", ctl_tunables_get, "get [--json] [NAME]" },
	{ "set", ctl_tunables_set, "set [-s] NAME VALUE | -u" },
	{ "help", cmd_help, "help" },
	{ NULL },
};
static const struct ctl_command *const lists[] = { commands, ctl_break_commands };

static int cmd_help(struct ctl_call *call)
{
	for (size_t l = 0; l < ARRAY_SIZE(lists); l++)
		for (const struct ctl_command *c = lists[l]; c->name; c++)
			fprintf(call->out, "%s\n", c->synopsis);
	return 0;
}

int ctl_run(struct ctl_call *call)
{
	for (size_t l = 0; l < ARRAY_SIZE(lists); l++)
		for (const struct ctl_command *c = lists[l]; c->name; c++)
			if (!strcmp(c->name, call->argv[0]))
				return c->fn(call);
	return ctl_fail(call, CTL_USAGE, "unknown command %.40s; see `help`", call->argv[0]);
}
