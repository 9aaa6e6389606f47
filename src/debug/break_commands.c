/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands that hold things: breakpoints, and locks kept for a node that is played by hand (protocol: include/gfs2-fuse/control.h).
 *
 * All of it belongs to the connection: when that ends, for whatever reason, its breakpoints are gone, what they held goes on,
 * and locks that it kept are released (ctl_conn_end).  `breaks`, `stops` and `holds` show one's own, with `all` everybody's and whose they are;
 * `disconnect` ends another one's connection.
 *
 * What a client holds must not block the file system when the client itself is stopped (SIGSTOP, a debugger): stops have their time in any case,
 * but each hit would cost that time again, and locks are kept as long as the client wants.  So both are let go when its process has stood still
 * for as long (ctl_holds_watch).
 */
#include <math.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "debug/control_i.h"
#include "util/util.h"

/* A lock that is kept by hand.  Belongs to who has taken it off the list. */
struct ctl_hold {
	struct list_head list;	/* ctl_conn.holds, under ctl->lock */
	struct gfs2_glock *gl;	/* gl_foreign is ours */
	enum lm_state state;
};

/* Those of @conn go to @to; ctl->lock held, under which no glock may be touched. */
static void take_holds(struct ctl_conn *conn, struct list_head *to)
{
	struct ctl_hold *h, *tmp;

	list_for_each_entry_safe(h, tmp, &conn->holds, list)
		list_move_tail(&h->list, to);
}

static void release_holds(struct list_head *taken, const char *reason)
{
	while (!list_empty(taken)) {
		struct ctl_hold *h = list_first_entry(taken, struct ctl_hold, list);

		list_del_init(&h->list);
		gfs2_glock_foreign_release(h->gl, reason);
		gfs2_glock_put(h->gl);
		free(h);
	}
}

static void release_all(struct ctl_conn *conn, const char *reason)
{
	LIST_HEAD(taken);

	rmutex_lock(&conn->ctl->lock);
	take_holds(conn, &taken);
	rmutex_unlock(&conn->ctl->lock);
	release_holds(&taken, reason);
}

void ctl_holds_drop(struct gfs2_control *c)
{
	struct ctl_conn *conn;
	LIST_HEAD(taken);

	rmutex_lock(&c->lock);
	c->ending = true;
	list_for_each_entry(conn, &c->clients, list)
		take_holds(conn, &taken);
	rmutex_unlock(&c->lock);
	release_holds(&taken, "unmount");
}

/* Stopped by a signal or by who debugs it, or dead while somebody else has its descriptor? */
static bool stands_still(pid_t pid)
{
	char path[40], line[200], *state;
	FILE *f;

	/* 0: in another pid namespace; nothing is known. */
	if (pid <= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT;
	state = fgets(line, sizeof(line), f);
	fclose(f);
	/* "PID (COMM) STATE", and there may be anything in COMM */
	state = state ? strrchr(line, ')') : NULL;
	return state && strlen(state) > 2 && strchr("TtZX", state[2]);
}

int ctl_holds_watch(struct ctl_conn *conn)
{
	bool any;

	rmutex_lock(&conn->ctl->lock);
	any = !list_empty(&conn->holds);
	rmutex_unlock(&conn->ctl->lock);
	any |= conn->session && stop_session_any(conn->session);
	if (!any || !stands_still(conn->peer)) {
		conn->still_since = 0;
		return any ? 1000 : -1;
	}
	if (!conn->still_since)
		conn->still_since = now_ns();
	if (now_ns() - conn->still_since < conn->timeout_ns)
		return 100;
	if (conn->session)
		stop_session_clear(conn->session, "client stopped");
	release_all(conn, "client stopped");
	conn->still_since = 0;
	return -1;
}

static int session_get(struct ctl_call *call)
{
	struct ctl_conn *conn = call->conn;

	if (conn->session)
		return 0;
	if (conn->hit_fd < 0)
		conn->hit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (conn->hit_fd < 0)
		return ctl_fail(call, -errno, "no descriptor to be had");
	conn->session = stop_session_new(conn->hit_fd, conn->peer);
	return conn->session ? 0 : ctl_fail(call, -ESHUTDOWN, "the mount is coming to its end");
}

void ctl_conn_end(struct ctl_conn *conn)
{
	release_all(conn, "client gone");
	stop_session_free(conn->session);
	conn->session = NULL;
	if (conn->hit_fd >= 0)
		close(conn->hit_fd);
	conn->hit_fd = -1;
	ctl_tunables_undo(conn);
}

/* --- break --- */

static const char break_synopsis[] =
	"break [-c COUNT] [-p PID] [-n NODE] [-t SECONDS] [-1] GLOCK|any FROM->TO | dio hole|drain|upgrade|buffered [GLOCK] | dlm request|ast|bast [GLOCK]";

static bool parse_timeout(const char *s, uint64_t *ns)
{
	char *end;
	double sec = strtod(s, &end);

	if (end == s || *end || !isfinite(sec) || sec < 0.001 || sec > STOP_TIMEOUT_MAX_NS / 1e9)
		return false;
	*ns = (uint64_t)(sec * 1e9);
	return true;
}

static int bad_seconds(struct ctl_call *call, const char *word)
{
	return ctl_fail(call, CTL_USAGE, "%.40s: seconds from 0.001 to %d are wanted", word, (int)(STOP_TIMEOUT_MAX_NS / 1000000000));
}

/* @word: "-c" and so on. */
static int parse_break_option(struct ctl_call *call, struct stop_spec *spec, const char *word, const char *arg)
{
	uint64_t n;

	if (!strchr("cpnt", word[1]) || word[2])
		return ctl_fail(call, CTL_USAGE, "break has no option %.40s", word);
	if (!arg)
		return ctl_fail(call, CTL_USAGE, "%s: its value is missing", word);
	switch (word[1]) {
	case 'c':
		if (!ctl_parse_u64(arg, 10, &spec->count) || !spec->count)
			return ctl_fail(call, CTL_USAGE, "-c %.40s: a number from 1 on is wanted", arg);
		break;
	case 'p':
		if (!ctl_parse_u64(arg, 10, &n) || !n || n > INT32_MAX)
			return ctl_fail(call, CTL_USAGE, "-p %.40s: a process's number is wanted", arg);
		spec->pid = (pid_t)n;
		break;
	case 'n':
		if (!ctl_parse_u64(arg, 10, &n) || n > INT32_MAX)
			return ctl_fail(call, CTL_USAGE, "-n %.40s: a node's number, as `mounts` tells it, is wanted", arg);
		spec->other_node = n != call->ctl->sdp->sd_jid;
		break;
	case 't':
		if (!parse_timeout(arg, &spec->timeout_ns))
			return bad_seconds(call, arg);
	}
	return 0;
}

/* A state, several with |, or * for all: bits.  0: not understood. */
static unsigned parse_states(char *s)
{
	unsigned bits = 0;
	char *save = NULL, *w;

	if (!strcmp(s, "*"))
		return 0xf;
	for (w = strtok_r(s, "|", &save); w; w = strtok_r(NULL, "|", &save)) {
		int state = glock_state_parse(w);

		if (state < 0)
			return 0;
		bits |= 1u << state;
	}
	return bits;
}

static int parse_transition(struct ctl_call *call, const char *s, struct stop_spec *spec)
{
	const char *arrow = strstr(s, "->");
	char copy[64];

	if (arrow && strlen(s) < sizeof(copy)) {
		strcpy(copy, s);
		copy[arrow - s] = 0;
		spec->from = (uint8_t)parse_states(copy);
		spec->to = (uint8_t)parse_states(copy + (arrow - s) + 2);
		if (spec->from && spec->to)
			return 0;
	}
	return ctl_fail(call, CTL_USAGE, "%.40s: no transition, like EX->UN: states are UN, SH, DF, EX, several with |, * for all", s);
}

static bool parse_point(const char *group, const char *name, struct stop_spec *spec)
{
	char text[32];

	snprintf(text, sizeof(text), "%s %s", group, name);
	for (unsigned p = STOP_TRANSITION + 1; p < STOP_NR; p++)
		if (!strcmp(stop_point_name(p), text)) {
			spec->points = 1u << p;
			return true;
		}
	return false;
}

static int parse_break_glock(struct ctl_call *call, const char *s, struct stop_spec *spec)
{
	struct glock_name name;
	int error;

	if (!strcmp(s, "any")) {
		spec->any_glock = true;
		return 0;
	}
	error = ctl_parse_glock(call, s, &name);
	if (!error) {
		spec->gl_type = name.type;
		spec->gl_number = name.number;
	}
	return error;
}

static int parse_break(struct ctl_call *call, struct stop_spec *spec)
{
	char **argv = call->argv;
	int i;

	*spec = (struct stop_spec){ .from = 0xf, .to = 0xf, .timeout_ns = call->conn->timeout_ns };
	for (i = 1; i < call->argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "-1"))
			spec->once = true;
		else if (parse_break_option(call, spec, argv[i], i + 1 < call->argc ? argv[i + 1] : NULL))
			return CTL_USAGE;
		else
			i++;
	}
	argv += i;
	switch (call->argc - i) {
	case 2:
	case 3:
		if (parse_point(argv[0], argv[1], spec))
			return parse_break_glock(call, call->argc - i == 3 ? argv[2] : "any", spec);
		if (!strcmp(argv[0], "dio") || !strcmp(argv[0], "dlm"))
			return ctl_fail(call, CTL_USAGE, "there is no point %s %.40s: dio hole|drain|upgrade|buffered, dlm request|ast|bast", argv[0], argv[1]);
		if (call->argc - i == 3)
			break;
		if (parse_transition(call, argv[1], spec))
			return CTL_USAGE;
		spec->points = 1u << STOP_TRANSITION;
		return parse_break_glock(call, argv[0], spec);
	}
	return ctl_fail(call, CTL_USAGE, "%s", break_synopsis);
}

static int cmd_break(struct ctl_call *call)
{
	bool json = ctl_take_json(call);
	struct stop_spec spec;
	int ret = parse_break(call, &spec);

	if (!ret)
		ret = session_get(call);
	if (ret)
		return ret;
	ret = stop_break(call->conn->session, &spec);
	if (ret == -ENOSPC)
		return ctl_fail(call, ret, "one client can have %d breakpoints", STOP_MAX_BREAKS);
	if (ret < 0)
		return ctl_fail(call, ret, "%s", "");
	fprintf(call->out, json ? "{\"break\":%d}\n" : "break %d\n", ret);
	return 0;
}

/* --- showing --- */

struct shower {
	FILE *out;
	bool json, all;
};

static void print_states(FILE *out, unsigned bits)
{
	const char *sep = "";

	if (bits == 0xf) {
		fputc('*', out);
		return;
	}
	for (unsigned s = 0; s < 4; s++)
		if (bits & 1u << s) {
			fprintf(out, "%s%s", sep, glock_state_name(s));
			sep = "|";
		}
}

static void print_spec(FILE *out, const struct stop_spec *spec)
{
	const char *sep = "";

	for (unsigned p = 0; p < STOP_NR; p++) {
		if (!(spec->points & 1u << p))
			continue;
		fprintf(out, "%s%s", sep, stop_point_name(p));
		if (p == STOP_TRANSITION) {
			fputc(' ', out);
			print_states(out, spec->from);
			fputs("->", out);
			print_states(out, spec->to);
		}
		sep = ", ";
	}
}

/* Whose it is, where everybody's are shown, before the end of a line. */
static void show_client(const struct shower *sh, pid_t client, const char *before)
{
	char comm[32];

	if (!sh->all || client <= 0)
		return;
	if (sh->json) {
		fprintf(sh->out, ",\"client\":%d", (int)client);
		return;
	}
	command_of(client, comm, sizeof(comm));
	fprintf(sh->out, "%s client %d [%s]", before, (int)client, comm);
}

static void show_break(pid_t client, unsigned id, const struct stop_spec *spec, uint64_t hits, void *arg)
{
	const struct shower *sh = arg;
	char glock[32] = "any";

	if (!spec->any_glock)
		snprintf(glock, sizeof(glock), "%u/%llx", spec->gl_type, (unsigned long long)spec->gl_number);
	fprintf(sh->out, sh->json ? "{\"break\":%u,\"glock\":\"%s\",\"at\":\"" : "%u: glock %s at ", id, glock);
	print_spec(sh->out, spec);
	if (sh->json) {
		fprintf(sh->out, "\",\"pid\":%d,\"here\":%s,\"count\":%llu,\"once\":%s,\"timeout\":%.3f,\"hits\":%llu", spec->pid,
			spec->other_node ? "false" : "true", (unsigned long long)spec->count, spec->once ? "true" : "false", spec->timeout_ns / 1e9,
			(unsigned long long)hits);
		show_client(sh, client, "");
		fputs("}\n", sh->out);
		return;
	}
	if (spec->pid)
		fprintf(sh->out, ", pid %d", spec->pid);
	if (spec->other_node)
		fputs(", on another node", sh->out);
	if (spec->count > 1)
		fprintf(sh->out, ", from hit %llu on", (unsigned long long)spec->count);
	fprintf(sh->out, "%s; hits: %llu", spec->once ? ", once" : "", (unsigned long long)hits);
	show_client(sh, client, "; of");
	fputc('\n', sh->out);
}

static void site_json(FILE *out, const struct stop_site *site)
{
	char comm[32];

	fprintf(out, "\"at\":\"%s\",\"glock\":\"%u/%llx\"", stop_point_name(site->point), site->gl_type,
		(unsigned long long)site->gl_number);
	if (site->from >= 0)
		fprintf(out, ",\"from\":\"%s\"", glock_state_name(site->from));
	if (site->to >= 0)
		fprintf(out, ",\"to\":\"%s\"", glock_state_name(site->to));
	if (site->req)
		fprintf(out, ",\"req\":%llu", (unsigned long long)site->req);
	if (site->pid) {
		command_of(site->pid, comm, sizeof(comm));
		fprintf(out, ",\"pid\":%d,\"comm\":", site->pid);
		ctl_json_string(out, comm);
	}
	if (site->len)
		fprintf(out, ",\"off\":%llu,\"len\":%llu", (unsigned long long)site->off, (unsigned long long)site->len);
	if (site->sent)
		fprintf(out, ",\"sent\":%llu", (unsigned long long)site->sent);
	if (site->why)
		fprintf(out, ",\"why\":\"%s\"", site->why);
}

static void site_text(FILE *out, const struct stop_site *site)
{
	char comm[32];

	fprintf(out, "%s of glock %u/%llx", stop_point_name(site->point), site->gl_type, (unsigned long long)site->gl_number);
	if (site->gl_type == LM_TYPE_INODE)
		fprintf(out, " (inode:%llu)", (unsigned long long)site->gl_number);
	if (site->from >= 0 && site->to >= 0)
		fprintf(out, " %s -> %s", glock_state_name(site->from), glock_state_name(site->to));
	if (site->len)
		fprintf(out, " at %llu, %llu bytes left", (unsigned long long)site->off, (unsigned long long)site->len);
	if (site->why)
		fprintf(out, ", %s", site->why);
	if (site->pid) {
		command_of(site->pid, comm, sizeof(comm));
		fprintf(out, " for pid %d [%s]", site->pid, comm);
	}
	if (site->req)
		fprintf(out, " request %llu", (unsigned long long)site->req);
}

static void show_hit(FILE *out, bool json, unsigned id, unsigned brk_id, const struct stop_site *site)
{
	fprintf(out, json ? "{\"stop\":%u,\"break\":%u," : "stop %u (break %u): ", id, brk_id);
	if (json)
		site_json(out, site);
	else
		site_text(out, site);
	fputs(json ? "}\n" : "\n", out);
}

static void show_stop(pid_t client, unsigned id, unsigned brk_id, const struct stop_site *site, uint64_t since_ns, uint64_t left_ns, void *arg)
{
	const struct shower *sh = arg;

	fprintf(sh->out, sh->json ? "{\"stop\":%u,\"break\":%u," : "%u (break %u): ", id, brk_id);
	if (sh->json) {
		site_json(sh->out, site);
		fprintf(sh->out, ",\"held\":%.3f,\"left\":%.3f", since_ns / 1e9, left_ns / 1e9);
		show_client(sh, client, "");
		fputs("}\n", sh->out);
	} else {
		site_text(sh->out, site);
		fprintf(sh->out, "; held for %.1f s, lets go in %.1f s", since_ns / 1e9, left_ns / 1e9);
		show_client(sh, client, "; of");
		fputc('\n', sh->out);
	}
}

static int cmd_breaks(struct ctl_call *call)
{
	struct shower sh = { .out = call->out, .json = ctl_take_json(call) };

	bool all = call->argc == 2 && !strcmp(call->argv[1], "all");

	if (call->argc != 1 && !all)
		return ctl_fail(call, CTL_USAGE, "breaks [--json] [all]");
	sh.all = all;
	if (all || call->conn->session)
		stop_for_each(all ? NULL : call->conn->session, show_break, NULL, &sh);
	return 0;
}

static int cmd_stops(struct ctl_call *call)
{
	struct shower sh = { .out = call->out, .json = ctl_take_json(call) };

	bool all = call->argc == 2 && !strcmp(call->argv[1], "all");

	if (call->argc != 1 && !all)
		return ctl_fail(call, CTL_USAGE, "stops [--json] [all]");
	sh.all = all;
	if (all)
		stop_for_each(NULL, NULL, show_stop, &sh);
	else if (call->conn->session)
		stop_for_each(call->conn->session, NULL, show_stop, &sh);
	return 0;
}

void ctl_tell_hits(struct ctl_conn *conn, FILE *out)
{
	struct stop_site site;
	unsigned brk_id;

	while (stop_next_hit(conn->session, &conn->last_hit, &brk_id, &site))
		show_hit(out, true, conn->last_hit, brk_id, &site);
}

/* --- going on --- */

/* "all", a number, or nothing (@none). */
static bool parse_id(struct ctl_call *call, unsigned none, unsigned *id)
{
	uint64_t n;

	*id = none;
	if (call->argc == 1)
		return true;
	if (call->argc != 2)
		return false;
	if (!strcmp(call->argv[1], "all")) {
		*id = 0;
		return true;
	}
	if (!ctl_parse_u64(call->argv[1], 10, &n) || !n || n > UINT32_MAX)
		return false;
	*id = (unsigned)n;
	return true;
}

static int cmd_delete(struct ctl_call *call)
{
	unsigned id;

	if (call->argc != 2 || !parse_id(call, 0, &id))
		return ctl_fail(call, CTL_USAGE, "delete BREAK|all");
	if (id && (!call->conn->session || stop_delete(call->conn->session, id)))
		return ctl_fail(call, -ENOENT, "there is no breakpoint %u", id);
	if (!id && call->conn->session)
		stop_delete(call->conn->session, 0);
	return 0;
}

struct others_stop {
	pid_t self, client;	/* client: 0: none */
	unsigned wanted, id;	/* wanted: 0: any */
};

static void others_stop(pid_t client, unsigned id, unsigned brk_id, const struct stop_site *site, uint64_t since_ns, uint64_t left_ns, void *arg)
{
	struct others_stop *o = arg;

	if (client != o->self && (!o->wanted || id == o->wanted)) {
		o->client = client;
		o->id = id;
	}
}

/* Nothing of ours is stopped with that number (0: at all).  As with a debugger, only whose stop it is can go on with it: say who that is. */
static int no_stop(struct ctl_call *call, unsigned id, bool may_be_none)
{
	struct others_stop o = { .self = call->conn->peer, .wanted = id };

	stop_for_each(NULL, NULL, others_stop, &o);
	if (!o.client && may_be_none)
		return 0;
	if (o.client)
		return ctl_fail(call, -EPERM, "stop %u is of client %d, which alone can go on with it; `disconnect %d` ends that client and lets go",
				o.id, (int)o.client, (int)o.client);
	return ctl_fail(call, -ENOENT, id ? "nothing is stopped with number %u" : "nothing is stopped", id);
}

static void count_break(pid_t client, unsigned id, const struct stop_spec *spec, uint64_t hits, void *arg)
{
	++*(unsigned *)arg;
}

static int cmd_continue(struct ctl_call *call)
{
	bool json = ctl_take_json(call);
	unsigned id, breaks = 0;
	int n = 0, error;

	if (!parse_id(call, 0, &id))
		return ctl_fail(call, CTL_USAGE, "continue [--json] [STOP|all]");
	if (call->conn->session)
		n = stop_continue(call->conn->session, id);
	if (n > 0)
		return 0;
	/* To go on where nothing is stopped is no mistake, but told; who has no breakpoint at all means another client's. */
	if (call->conn->session)
		stop_for_each(call->conn->session, count_break, NULL, &breaks);
	error = id || !breaks ? no_stop(call, id, !id) : 0;
	if (!error && !json)
		fputs("nothing is stopped\n", call->out);
	return error;
}

static int cmd_step(struct ctl_call *call)
{
	struct stop_spec spec = { .from = 0xf, .to = 0xf, .once = true, .timeout_ns = call->conn->timeout_ns };
	struct stop_site site;
	unsigned id;
	int ret;

	if (call->argc > 2 || !parse_id(call, 0, &id) || (call->argc == 2 && !id))
		return ctl_fail(call, CTL_USAGE, "step [STOP]");
	ret = call->conn->session ? stop_get(call->conn->session, &id, &site) : -ENOENT;
	if (ret == -EINVAL)
		return ctl_fail(call, ret, "several are stopped, say which (`stops`)");
	if (ret)
		return no_stop(call, id, false);
	/* First the next one, then let go: nothing is missed in between. */
	spec.points = 1u << STOP_TRANSITION | 1u << STOP_DIO_HOLE | 1u << STOP_DIO_DRAIN | 1u << STOP_DIO_UPGRADE |
		      1u << STOP_DIO_BUFFERED;
	spec.gl_type = site.gl_type;
	spec.gl_number = site.gl_number;
	ret = stop_break(call->conn->session, &spec);
	if (ret < 0)
		return ctl_fail(call, ret, "%s", "");
	if (stop_continue(call->conn->session, id) < 0) {
		stop_delete(call->conn->session, (unsigned)ret);
		return ctl_fail(call, -ENOENT, "stop %u has let go by itself", id);
	}
	return 0;
}

static int cmd_wait(struct ctl_call *call)
{
	struct ctl_conn *conn = call->conn;
	struct pollfd p[3] = { { .fd = conn->fd, .events = 0 }, { .fd = conn->ctl->stop_fd, .events = POLLIN },
			       { .fd = conn->hit_fd, .events = POLLIN } };
	bool json = ctl_take_json(call);
	uint64_t ns = STOP_TIMEOUT_NS, deadline;
	struct stop_site site;
	unsigned brk_id;
	eventfd_t n;

	if (call->argc > 2)
		return ctl_fail(call, CTL_USAGE, "wait [SECONDS]");
	if (call->argc == 2 && !parse_timeout(call->argv[1], &ns))
		return bad_seconds(call, call->argv[1]);
	if (!conn->session)
		return ctl_fail(call, -ENOENT, "there are no breakpoints");
	deadline = now_ns() + ns;
	while (!stop_next_hit(conn->session, &conn->last_hit, &brk_id, &site)) {
		uint64_t now = now_ns();

		if (now >= deadline)
			return ctl_fail(call, -ETIMEDOUT, "nothing was stopped");
		/* Not longer than ctl_holds_watch() may want to look again. */
		if (poll(p, ARRAY_SIZE(p), (int)min_t(uint64_t, (deadline - now) / 1000000 + 1, 1000)) < 0 && errno != EINTR)
			return ctl_fail(call, -errno, "%s", "");
		if (p[0].revents || p[1].revents)
			return CTL_GONE;
		ctl_holds_watch(conn);
		if (eventfd_read(conn->hit_fd, &n) && errno != EAGAIN)
			return ctl_fail(call, -errno, "%s", "");
	}
	show_hit(call->out, json, conn->last_hit, brk_id, &site);
	return 0;
}

static int cmd_timeout(struct ctl_call *call)
{
	bool json = ctl_take_json(call);

	if (call->argc == 1) {
		fprintf(call->out, json ? "{\"timeout\":%.3f}\n" : "timeout %.3f\n", call->conn->timeout_ns / 1e9);
		return 0;
	}
	if (call->argc != 2)
		return ctl_fail(call, CTL_USAGE, "timeout [--json] [SECONDS]");
	return parse_timeout(call->argv[1], &call->conn->timeout_ns) ? 0 : bad_seconds(call, call->argv[1]);
}

static int cmd_notify(struct ctl_call *call)
{
	if (call->argc != 2 || (strcmp(call->argv[1], "on") && strcmp(call->argv[1], "off")))
		return ctl_fail(call, CTL_USAGE, "notify on|off");
	call->conn->notify = !strcmp(call->argv[1], "on");
	return call->conn->notify ? session_get(call) : 0;
}

/* --- playing another node --- */

/* False: @conn does not keep that lock, or not any more. */
static bool release_hold(struct ctl_conn *conn, const struct glock_name *name)
{
	struct ctl_hold *h, *tmp;
	LIST_HEAD(taken);
	bool found;

	rmutex_lock(&conn->ctl->lock);
	list_for_each_entry_safe(h, tmp, &conn->holds, list)
		if (h->gl->gl_type == name->type && h->gl->gl_number == name->number)
			list_move_tail(&h->list, &taken);
	found = !list_empty(&taken);
	rmutex_unlock(&conn->ctl->lock);
	release_holds(&taken, "by hand");
	return found;
}

/* Ask for @gl on behalf of @conn: -EBUSY: somebody keeps it already, -ESHUTDOWN. */
static int take_by_hand(struct ctl_conn *conn, struct gfs2_glock *gl, enum lm_state state)
{
	struct ctl_hold *h = calloc(1, sizeof(*h));
	LIST_HEAD(taken);
	bool ending;
	int error;

	error = h ? gfs2_glock_foreign_hold(gl, state) : -ENOMEM;
	if (error) {
		free(h);
		return error;
	}
	h->gl = gfs2_glock_hold(gl);
	h->state = state;
	rmutex_lock(&conn->ctl->lock);
	ending = conn->ctl->ending;
	list_add_tail(&h->list, ending ? &taken : &conn->holds);
	rmutex_unlock(&conn->ctl->lock);
	release_holds(&taken, "unmount");
	return ending ? -ESHUTDOWN : 0;
}

struct stop_search {
	const struct gfs2_glock *gl;
	unsigned id;
};

static void stop_of_glock(pid_t client, unsigned id, unsigned brk_id, const struct stop_site *site, uint64_t since_ns, uint64_t left_ns,
			  void *arg)
{
	struct stop_search *ss = arg;

	if (site->gl_type == ss->gl->gl_type && site->gl_number == ss->gl->gl_number)
		ss->id = id;
}

#define HOLD_LOOK_NS 20000000u

/*
 * Until this node has given @gl up: 0, or -EBUSY after @ns.  Or, at once, the number of the stop of this client's own that keeps it from doing so:
 * nobody else could let that go, and the client waits for an answer.
 */
static int wait_given_up(struct ctl_conn *conn, struct gfs2_glock *gl, uint64_t ns)
{
	uint64_t deadline = now_ns() + ns, now;
	struct stop_search ss = { .gl = gl };

	if (!conn->session)
		return gfs2_glock_wait_demoted(gl, ns) ? 0 : -EBUSY;
	do {
		now = now_ns();
		if (gfs2_glock_wait_demoted(gl, now < deadline ? min_t(uint64_t, deadline - now, HOLD_LOOK_NS) : 0))
			return 0;
		stop_for_each(conn->session, NULL, stop_of_glock, &ss);
	} while (!ss.id && now < deadline);
	return ss.id ? (int)ss.id : -EBUSY;
}

static int cmd_hold(struct ctl_call *call)
{
	bool json = ctl_take_json(call);
	uint64_t ns = 10000000000u;
	struct glock_name name;
	struct gfs2_glock *gl;
	int state, error;

	if (call->argc < 3 || call->argc > 4)
		return ctl_fail(call, CTL_USAGE, "hold [--json] GLOCK EX|DF|SH [SECONDS]");
	if (call->argc == 4 && !parse_timeout(call->argv[3], &ns))
		return bad_seconds(call, call->argv[3]);
	error = ctl_parse_glock(call, call->argv[1], &name);
	if (error)
		return error;
	state = glock_state_parse(call->argv[2]);
	if (state <= LM_ST_UNLOCKED)
		return ctl_fail(call, CTL_USAGE, "%.40s: a lock is held in EX, DF or SH", call->argv[2]);
	gl = gfs2_glock_find(call->ctl->sdp->sd_glocks, name.type, name.number);
	if (!gl)
		return ctl_fail(call, -ENOENT, "this node has no glock %s", call->argv[1]);
	error = take_by_hand(call->conn, gl, (enum lm_state)state);
	if (error) {
		ctl_fail(call, error, error == -EBUSY ? "%s is kept by hand already" :
				      error == -ESHUTDOWN ? "%s: the mount is coming to its end" : "%s", call->argv[1]);
		gfs2_glock_put(gl);
		return error;
	}
	error = wait_given_up(call->conn, gl, ns);
	if (error < 0) {
		if (!json)
			gfs2_dump_glock(call->out, gl);
		release_hold(call->conn, &name);
		ctl_fail(call, error, "refused: this node still uses it");
	} else {
		fprintf(call->out, json ? "{\"glock\":\"%u/%llx\",\"state\":\"%s\"" : error ? "%u/%llx asked for in %s" : "%u/%llx held %s",
			gl->gl_type, (unsigned long long)gl->gl_number, glock_state_name((enum lm_state)state));
		if (error)
			fprintf(call->out, json ? ",\"stop\":%d" : ": held once stop %d has gone on", error);
		fputs(json ? "}\n" : "\n", call->out);
		error = 0;
	}
	gfs2_glock_put(gl);
	return error;
}

static int cmd_release(struct ctl_call *call)
{
	struct glock_name name;
	int error;

	if (call->argc != 2)
		return ctl_fail(call, CTL_USAGE, "release GLOCK");
	error = ctl_parse_glock(call, call->argv[1], &name);
	if (error)
		return error;
	return release_hold(call->conn, &name) ? 0 : ctl_fail(call, -ENOENT, "this client does not hold %s", call->argv[1]);
}

static void show_hold(const struct shower *sh, const struct ctl_hold *h, pid_t client)
{
	fprintf(sh->out, sh->json ? "{\"glock\":\"%u/%llx\",\"state\":\"%s\"" : "%u/%llx %s", h->gl->gl_type,
		(unsigned long long)h->gl->gl_number, glock_state_name(h->state));
	show_client(sh, client, " for");
	fputs(sh->json ? "}\n" : "\n", sh->out);
}

static int cmd_holds(struct ctl_call *call)
{
	struct shower sh = { .out = call->out, .json = ctl_take_json(call) };
	struct ctl_conn *conn;
	struct ctl_hold *h;

	sh.all = call->argc == 2 && !strcmp(call->argv[1], "all");
	if (call->argc != 1 && !sh.all)
		return ctl_fail(call, CTL_USAGE, "holds [--json] [all]");
	rmutex_lock(&call->ctl->lock);
	list_for_each_entry(conn, &call->ctl->clients, list)
		if (sh.all || conn == call->conn)
			list_for_each_entry(h, &conn->holds, list)
				show_hold(&sh, h, conn->peer);
	rmutex_unlock(&call->ctl->lock);
	return 0;
}

/* As if the other client had gone.  Its thread does the rest, and a descriptor is closed only when its connection is off the list. */
static int cmd_disconnect(struct ctl_call *call)
{
	struct ctl_conn *conn;
	unsigned found = 0;
	uint64_t pid;

	if (call->argc != 2 || !ctl_parse_u64(call->argv[1], 10, &pid) || !pid || pid > INT32_MAX)
		return ctl_fail(call, CTL_USAGE, "disconnect PID");
	rmutex_lock(&call->ctl->lock);
	list_for_each_entry(conn, &call->ctl->clients, list)
		if (conn != call->conn && !conn->done && conn->peer == (pid_t)pid) {
			shutdown(conn->fd, SHUT_RDWR);
			found++;
		}
	rmutex_unlock(&call->ctl->lock);
	return found ? 0 : ctl_fail(call, -ENOENT, "no other client has pid %s", call->argv[1]);
}

/* --- the list --- */

const struct ctl_command ctl_break_commands[] = {
	{ "break", cmd_break, break_synopsis },
	{ "breaks", cmd_breaks, "breaks [--json] [all]" },
	{ "delete", cmd_delete, "delete BREAK|all" },
	{ "stops", cmd_stops, "stops [--json] [all]" },
	{ "wait", cmd_wait, "wait [--json] [SECONDS]" },
	{ "continue", cmd_continue, "continue [--json] [STOP|all]" },
	{ "step", cmd_step, "step [STOP]" },
	{ "timeout", cmd_timeout, "timeout [--json] [SECONDS]" },
	{ "notify", cmd_notify, "notify on|off" },
	{ "hold", cmd_hold, "hold [--json] GLOCK EX|DF|SH [SECONDS]" },
	{ "release", cmd_release, "release GLOCK" },
	{ "holds", cmd_holds, "holds [--json] [all]" },
	{ "disconnect", cmd_disconnect, "disconnect PID" },
	{ NULL },
};
