/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the control socket's `get` and `set` know (see commands.c; names: mount options of the same
 * meaning).
 *
 * Each tunable is looked at on its own by those who use it, so they are changed one by one without
 * stopping anything.
 */
#include "debug/control_i.h"
#include "debug/event.h"
#include "dio/dio.h"
#include "fs/ahead.h"
#include "fs/inode.h"
#include "util/util.h"

static const char *const short_dio_names[] = { "drain", "async", "fail", "precheck", "blockdev" };
static const char *const dio_mtime_names[] = { "deferred", "strict" };
static const char *const dio_rest_names[] = { "direct", "buffered" };

/* Value in decimal with an optional k, m, g, t (powers of 1024). */
static bool parse_size(const char *s, uint64_t *val)
{
	static const char units[] = "kmgt";
	const char *unit;
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	*val = strtoull(s, &end, 10);
	if (errno)
		return false;
	if (!*end)
		return true;
	unit = strchr(units, *end | 0x20);
	if (!unit || end[1])
		return false;
	for (; unit >= units; unit--) {
		if (*val > UINT64_MAX >> 10)
			return false;
		*val <<= 10;
	}
	return true;
}

/* --- getters: the value as text --- */

static void get_short_dio(struct gfs2_control *c, FILE *out)
{
	fputs(short_dio_names[atomic_load_explicit(&c->sdp->sd_short_dio, memory_order_relaxed)],
	      out);
}

static void get_dio_mtime(struct gfs2_control *c, FILE *out)
{
	fputs(dio_mtime_names[atomic_load_explicit(&c->sdp->sd_dio_mtime, memory_order_relaxed)],
	      out);
}

static void get_dio_rest(struct gfs2_control *c, FILE *out)
{
	fputs(dio_rest_names[atomic_load_explicit(&c->sdp->sd_dio_rest, memory_order_relaxed)], out);
}

static void get_interval(struct gfs2_control *c, FILE *out)
{
	fprintf(out, "%u",
		atomic_load_explicit(&c->sdp->sd_dio_mtime_interval, memory_order_relaxed));
}

static void get_commit(struct gfs2_control *c, FILE *out)
{
	fprintf(out, "%u", atomic_load_explicit(&c->sdp->sd_commit, memory_order_relaxed));
}

static void get_cache(struct gfs2_control *c, FILE *out)
{
	fprintf(out, "%llu",
		(unsigned long long)atomic_load_explicit(&c->sdp->sd_cache, memory_order_relaxed));
}

static void get_fault(struct gfs2_control *c, FILE *out)
{
	unsigned i;

	rmutex_lock(&c->lock);
	if (!c->nr_faults)
		fputs("none", out);
	for (i = 0; i < c->nr_faults; i++)
		fprintf(out, "%s%s", i ? " " : "", c->faults[i]);
	rmutex_unlock(&c->lock);
}

/* --- setters: 0, or -errno with call->why --- */

static int set_enum(struct ctl_call *call, const char *value, const char *const *names, unsigned nr,
		    atomic_int *to)
{
	unsigned i;

	for (i = 0; i < nr; i++) {
		if (strcmp(names[i], value))
			continue;
		atomic_store_explicit(to, (int)i, memory_order_relaxed);
		return 0;
	}
	return ctl_fail(call, -EINVAL, "no such value: %.80s", value);
}

static int set_short_dio(struct ctl_call *call, const char *value)
{
	return set_enum(call, value, short_dio_names, ARRAY_SIZE(short_dio_names),
			&call->ctl->sdp->sd_short_dio);
}

static int set_dio_mtime(struct ctl_call *call, const char *value)
{
	return set_enum(call, value, dio_mtime_names, ARRAY_SIZE(dio_mtime_names),
			&call->ctl->sdp->sd_dio_mtime);
}

static int set_dio_rest(struct ctl_call *call, const char *value)
{
	return set_enum(call, value, dio_rest_names, ARRAY_SIZE(dio_rest_names),
			&call->ctl->sdp->sd_dio_rest);
}

static int parse_seconds(struct ctl_call *call, const char *value, uint64_t *secs)
{
	char *end;

	errno = 0;
	*secs = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno || !*secs || *secs > 3600)
		return ctl_fail(call, -EINVAL, "seconds from 1 to 3600 are wanted");
	return 0;
}

static int set_interval(struct ctl_call *call, const char *value)
{
	uint64_t secs;
	int error = parse_seconds(call, value, &secs);

	if (!error)
		atomic_store_explicit(&call->ctl->sdp->sd_dio_mtime_interval, (unsigned)secs,
				      memory_order_relaxed);
	return error;
}

#define MIN_HOLD_MAX_MS 60000

static void get_min_hold(struct gfs2_control *c, FILE *out)
{
	uint64_t ns = gfs2_glock_table_min_hold(c->sdp->sd_glocks);

	if (ns == GLOCK_HOLD_AUTO)
		fputs("auto", out);
	else
		fprintf(out, "%llu", (unsigned long long)(ns / 1000000));
}

static int set_min_hold(struct ctl_call *call, const char *value)
{
	uint64_t ms, ns = GLOCK_HOLD_AUTO;

	if (strcmp(value, "auto")) {
		if (!ctl_parse_u64(value, 10, &ms) || ms > MIN_HOLD_MAX_MS)
			return ctl_fail(call, -EINVAL, "auto, or milliseconds from 0 to %d are wanted", MIN_HOLD_MAX_MS);
		ns = ms * 1000000;
	}
	gfs2_glock_table_set_min_hold(call->ctl->sdp->sd_glocks, ns);
	return 0;
}

static int set_commit(struct ctl_call *call, const char *value)
{
	struct gfs2_sbd *sdp = call->ctl->sdp;
	uint64_t secs;
	int error = parse_seconds(call, value, &secs);

	if (error)
		return error;
	atomic_store_explicit(&sdp->sd_commit, (unsigned)secs, memory_order_relaxed);
	if (sdp->sd_log)
		gfs2_log_set_commit_secs(sdp->sd_log, (unsigned)secs);
	return 0;
}

static void get_events(struct gfs2_control *c, FILE *out)
{
	fputs(gfs2_event_on() ? "on" : "off", out);
}

static int set_events(struct ctl_call *call, const char *value)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return ctl_fail(call, -EINVAL, "events is on or off");
	gfs2_event_set_on(!strcmp(value, "on"));
	return 0;
}

static void get_data_events(struct gfs2_control *c, FILE *out)
{
	fputs(gfs2_event_data() ? "on" : "off", out);
}

static int set_data_events(struct ctl_call *call, const char *value)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return ctl_fail(call, -EINVAL, "data_events is on or off");
	gfs2_event_set_data(!strcmp(value, "on"));
	return 0;
}

static int set_cache(struct ctl_call *call, const char *value)
{
	uint64_t size;

	if (!parse_size(value, &size) || size < GFS2_CACHE_MIN || size > GFS2_CACHE_MAX)
		return ctl_fail(call, -EINVAL, "a size from 4m to 1t is wanted, like 256m");
	gfs2_budget_set(call->ctl->sdp, size);
	return 0;
}

static void clear_faults(struct gfs2_control *c)
{
	io_fault_clear(c->sdp->sd_io);
	rmutex_lock(&c->lock);
	while (c->nr_faults)
		free(c->faults[--c->nr_faults]);
	rmutex_unlock(&c->lock);
}

/* A rule is added to those there are; "none" removes all. */
static int set_fault(struct ctl_call *call, const char *value)
{
	struct gfs2_control *c = call->ctl;
	struct io_fault f;
	char *text;
	bool full;
	int error;

	if (!strcmp(value, "none")) {
		clear_faults(c);
		return 0;
	}
	if (io_fault_parse(value, &f))
		return ctl_fail(call, -EINVAL, "not a fault rule: %.120s", value);
	rmutex_lock(&c->lock);
	full = c->nr_faults == CTL_MAX_FAULTS;
	rmutex_unlock(&c->lock);
	if (full)
		return ctl_fail(call, -ENOSPC, "%d rules are the limit", CTL_MAX_FAULTS);
	error = io_fault_add(c->sdp->sd_io, &f);
	if (error)
		return error;
	/* The text is for `get` only: if another client was faster, the rule is not listed. */
	text = strdup(value);
	rmutex_lock(&c->lock);
	if (text && c->nr_faults < CTL_MAX_FAULTS) {
		c->faults[c->nr_faults++] = text;
		text = NULL;
	}
	rmutex_unlock(&c->lock);
	free(text);
	return 0;
}

static const struct tunable {
	const char *name;
	bool number;	/* in JSON without quotes */
	void (*get)(struct gfs2_control *c, FILE *out);
	int (*set)(struct ctl_call *call, const char *value);
} tunables[] = {
	{ "short_dio", false, get_short_dio, set_short_dio },
	{ "dio_mtime", false, get_dio_mtime, set_dio_mtime },
	{ "dio_rest", false, get_dio_rest, set_dio_rest },
	{ "dio_mtime_interval", true, get_interval, set_interval },
	{ "commit", true, get_commit, set_commit },
	{ "min_hold", false, get_min_hold, set_min_hold },
	{ "cache", true, get_cache, set_cache },
	{ "events", false, get_events, set_events },
	{ "data_events", false, get_data_events, set_data_events },
	{ "fault", false, get_fault, set_fault },
};

/* --- stats --- */

struct stat_out {
	FILE *out;
	bool json;
	const char *prefix;
	const char *only;	/* this one; NULL: all */
	unsigned nr;		/* so many were printed */
};

/* As for a tunable, of one that is asked for only the value is told. */
static void stat_line(struct stat_out *s, const char *name, uint64_t val)
{
	if (s->only && strcmp(s->only, name))
		return;
	if (s->json)
		fprintf(s->out, "%s\"%s\":%llu", s->nr ? "," : "", name, (unsigned long long)val);
	else if (s->only)
		fprintf(s->out, "%llu\n", (unsigned long long)val);
	else
		fprintf(s->out, "%s%s %llu\n", s->prefix, name, (unsigned long long)val);
	s->nr++;
}

static void count_glock(struct gfs2_glock *gl, void *arg)
{
	++*(uint64_t *)arg;
}

/* {"dio_device_ns":{"4096":3,...}}: three of less than 4096 ns and not less than half of that. */
static void latency_print(struct gfs2_sbd *sdp, struct stat_out *s, enum dio_phase phase)
{
	const char *name = gfs2_dio_phase_name(phase), *comma = "";
	char whole[32];
	unsigned b;

	snprintf(whole, sizeof(whole), "dio_%s_ns", name);
	if (s->only && strcmp(s->only, whole))
		return;
	if (s->json)
		fprintf(s->out, "%s\"%s\":{", s->nr ? "," : "", whole);
	s->nr++;
	for (b = 0; b < HIST_BUCKETS; b++) {
		unsigned long long below = 1ull << b, n = gfs2_dio_latency(sdp, phase, b);

		if (!n)
			continue;
		if (s->json)
			fprintf(s->out, "%s\"%llu\":%llu", comma, below, n);
		else
			fprintf(s->out, "%s%s.%llu %llu\n", s->prefix, whole, below, n);
		comma = ",";
	}
	if (s->json)
		fputc('}', s->out);
}

static void dio_print(struct gfs2_sbd *sdp, struct stat_out *s)
{
	struct gfs2_dio_counters *c = &sdp->sd_dio;
	char name[32];
	int i;

	stat_line(s, "dio_fast_reads", atomic_load_explicit(&c->fast[0], memory_order_relaxed));
	stat_line(s, "dio_fast_writes", atomic_load_explicit(&c->fast[1], memory_order_relaxed));
	stat_line(s, "dio_worker_reads", atomic_load_explicit(&c->worker[0], memory_order_relaxed));
	stat_line(s, "dio_worker_writes", atomic_load_explicit(&c->worker[1], memory_order_relaxed));
	for (i = 0; i < DIO_NR_OUTCOMES; i++) {
		snprintf(name, sizeof(name), "dio_%s", gfs2_dio_outcome_name(i));
		stat_line(s, name, atomic_load_explicit(&c->outcome[i], memory_order_relaxed));
	}
	for (i = 0; i < DIO_NR_PHASES; i++)
		latency_print(sdp, s, i);
}

static void receive_print(struct gfs2_sbd *sdp, struct stat_out *s)
{
	struct gfs2_receive_counters *c = &sdp->sd_receive;

	stat_line(s, "receive_to_readers", atomic_load_explicit(&c->to_readers, memory_order_relaxed));
	stat_line(s, "receive_to_rings", atomic_load_explicit(&c->to_rings, memory_order_relaxed));
	stat_line(s, "receive_readers_started", atomic_load_explicit(&c->started, memory_order_relaxed));
}

static void ahead_print(struct gfs2_sbd *sdp, struct stat_out *s)
{
	struct gfs2_ahead_stats st;

	gfs2_ahead_stats(sdp, &st);
	stat_line(s, "ahead_windows", st.windows);
	stat_line(s, "ahead_hits", st.hits);
	stat_line(s, "ahead_stale", st.stale);
	stat_line(s, "ahead_failed", st.failed);
	stat_line(s, "ahead_bytes", gfs2_ahead_bytes(sdp));
}

static void stats_print(struct gfs2_sbd *sdp, struct stat_out *s)
{
	struct gfs2_statfs_host fs;
	struct gfs2_log_stats log;
	uint64_t glocks = 0;
	unsigned inodes, remnants;
	struct io_stats io;

	io_get_stats(sdp->sd_io, &io);
	stat_line(s, "io_reads", io.ops[IO_READ]);
	stat_line(s, "io_writes", io.ops[IO_WRITE]);
	stat_line(s, "io_flushes", io.ops[IO_FLUSH]);
	stat_line(s, "io_read_bytes", io.bytes[IO_READ]);
	stat_line(s, "io_written_bytes", io.bytes[IO_WRITE]);
	stat_line(s, "io_errors", io.errors);
	stat_line(s, "io_injected", io.injected);
	stat_line(s, "cache_used", buf_cache_used(sdp->sd_bufs));
	stat_line(s, "cache_dirty", buf_cache_dirty(sdp->sd_bufs));
	gfs2_glock_table_for_each(sdp->sd_glocks, count_glock, &glocks);
	stat_line(s, "cache_limit", buf_cache_limit(sdp->sd_bufs));
	gfs2_icache_count(sdp, &inodes, &remnants);
	stat_line(s, "inodes", inodes);
	stat_line(s, "inode_remnants", remnants);
	stat_line(s, "glocks", glocks);
	stat_line(s, "events", gfs2_event_next_seq());
	gfs2_statfs_get(sdp, &fs);
	stat_line(s, "fs_blocks", fs.total);
	stat_line(s, "fs_free", fs.free);
	stat_line(s, "fs_dinodes", fs.dinodes);
	stat_line(s, "withdrawn", gfs2_withdrawn(sdp));
	dio_print(sdp, s);
	receive_print(sdp, s);
	ahead_print(sdp, s);
	if (!sdp->sd_log)
		return;
	gfs2_log_get_stats(sdp->sd_log, &log);
	stat_line(s, "log_flushes", log.flushes);
	stat_line(s, "log_shared", log.batches_shared);
	stat_line(s, "log_blocks", log.blocks_logged);
	stat_line(s, "log_revokes", log.revokes_logged);
	stat_line(s, "log_ail_written", log.ail_written);
	stat_line(s, "log_size", log.blocks_total);
	stat_line(s, "log_free", log.blocks_free);
	stat_line(s, "log_pinned", log.pinned);
	stat_line(s, "log_ail", log.ail);
	stat_line(s, "log_sequence", log.sequence);
	stat_line(s, "log_durable", log.durable_seq);
}

/* --- the commands --- */

static void json_value(struct gfs2_control *c, const struct tunable *t, FILE *out)
{
	char *text = NULL;
	size_t len;
	FILE *f;

	fprintf(out, "\"%s\":", t->name);
	if (t->number) {
		t->get(c, out);
		return;
	}
	f = open_memstream(&text, &len);
	if (f) {
		t->get(c, f);
		fclose(f);
	}
	ctl_json_string(out, text ? text : "");
	free(text);
}

static void get_json(struct ctl_call *call, const char *name)
{
	struct stat_out s = { .out = call->out, .json = true };
	unsigned nr = 0;
	size_t i;

	fputc('{', call->out);
	for (i = 0; i < ARRAY_SIZE(tunables); i++) {
		if (name && strcmp(name, tunables[i].name))
			continue;
		fputs(nr++ ? "," : "", call->out);
		json_value(call->ctl, &tunables[i], call->out);
	}
	if (!name || !strcmp(name, "stats")) {
		fprintf(call->out, "%s\"stats\":{", nr ? "," : "");
		stats_print(call->ctl->sdp, &s);
		fputc('}', call->out);
	}
	fputs("}\n", call->out);
}

static void get_text(struct ctl_call *call, const char *name)
{
	struct stat_out s = { .out = call->out, .prefix = name ? "" : "stats." };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(tunables); i++) {
		if (name && strcmp(name, tunables[i].name))
			continue;
		if (!name)
			fprintf(call->out, "%s ", tunables[i].name);
		tunables[i].get(call->ctl, call->out);
		fputc('\n', call->out);
	}
	if (!name || !strcmp(name, "stats"))
		stats_print(call->ctl->sdp, &s);
}

static const struct tunable *tunable_find(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(tunables); i++)
		if (!strcmp(tunables[i].name, name))
			return &tunables[i];
	return NULL;
}

/* One counter, by the name that `get` tells it with. */
static int get_stat(struct ctl_call *call, const char *name, bool json)
{
	struct stat_out s = { .out = call->out, .json = json, .prefix = "", .only = name };

	if (json)
		fputs("{\"stats\":{", call->out);
	stats_print(call->ctl->sdp, &s);
	if (json)
		fputs("}}\n", call->out);
	if (s.nr)
		return 0;
	rewind(call->out);
	return ctl_fail(call, -ENOENT, "no such name: stats.%.80s", name);
}

int ctl_tunables_get(struct ctl_call *call)
{
	bool json = call->argc > 1 && !strcmp(call->argv[1], "--json");
	int first = json ? 2 : 1;
	const char *name;

	if (call->argc > first + 1)
		return ctl_fail(call, CTL_USAGE, "get [--json] [NAME]");
	name = call->argc > first ? call->argv[first] : NULL;
	if (name && !strncmp(name, "stats.", 6))
		return get_stat(call, name + 6, json);
	if (name && strcmp(name, "stats") && !tunable_find(name))
		return ctl_fail(call, -ENOENT, "no such name: %.80s", name);
	if (json)
		get_json(call, name);
	else
		get_text(call, name);
	return 0;
}

/* --- set for a session --- */

struct undo {
	struct list_head list;	/* ctl_conn.undo */
	const struct tunable *t;
	char *was, *set;
};

static char *tunable_text(struct gfs2_control *c, const struct tunable *t)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	t->get(c, f);
	fclose(f);
	return text;
}

static void undo_free(struct undo *u)
{
	list_del_init(&u->list);
	free(u->was);
	free(u->set);
	free(u);
}

/* As set(), and remembered: the value before the session's first one, and the last one of the session. */
static int set_for_session(struct ctl_call *call, const struct tunable *t, const char *value)
{
	struct undo *u = NULL, *old;
	int error;

	list_for_each_entry(old, &call->conn->undo, list)
		if (old->t == t)
			u = old;
	if (!u) {
		u = calloc(1, sizeof(*u));
		if (!u)
			return -ENOMEM;
		list_init(&u->list);
		u->t = t;
		u->was = tunable_text(call->ctl, t);
	}
	error = u->was ? t->set(call, value) : -ENOMEM;
	if (!error) {
		free(u->set);
		u->set = tunable_text(call->ctl, t);
		list_move_tail(&u->list, &call->conn->undo);
	} else if (list_empty(&u->list)) {
		undo_free(u);
	}
	return error;
}

void ctl_tunables_undo(struct ctl_conn *conn)
{
	struct ctl_call call = { .ctl = conn->ctl, .conn = conn };
	struct undo *u, *tmp;

	list_for_each_entry_safe(u, tmp, &conn->undo, list) {
		char *now, *save = NULL, *word;

		pthread_mutex_lock(&conn->ctl->set_lock);
		now = tunable_text(conn->ctl, u->t);
		if (now && u->set && !strcmp(now, u->set)) {
			/* Of faults there may be several, and each is added. */
			if (u->t->set == set_fault)
				clear_faults(conn->ctl);
			for (word = strtok_r(u->was, " ", &save); word; word = strtok_r(NULL, " ", &save))
				if (u->t->set(&call, word))
					fs_warn("%s: cannot be set back to %s: %s", u->t->name, word, call.why);
		}
		pthread_mutex_unlock(&conn->ctl->set_lock);
		free(now);
		undo_free(u);
	}
}

int ctl_tunables_set(struct ctl_call *call)
{
	const struct tunable *t;
	int error, first = call->argc > 1 && !strcmp(call->argv[1], "-s") ? 2 : 1;

	if (call->argc == 2 && !strcmp(call->argv[1], "-u")) {
		ctl_tunables_undo(call->conn);
		return 0;
	}
	if (call->argc != first + 2)
		return ctl_fail(call, CTL_USAGE, "set [-s] NAME VALUE | -u");
	if (!strcmp(call->argv[first], "stats"))
		return ctl_fail(call, -EACCES, "stats can only be read");
	t = tunable_find(call->argv[first]);
	if (!t)
		return ctl_fail(call, -ENOENT, "no such name: %.80s", call->argv[first]);
	pthread_mutex_lock(&call->ctl->set_lock);
	error = first > 1 ? set_for_session(call, t, call->argv[first + 1]) : t->set(call, call->argv[first + 1]);
	pthread_mutex_unlock(&call->ctl->set_lock);
	return error;
}
