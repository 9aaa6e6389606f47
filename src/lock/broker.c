/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The lock broker of lock_local (design section 6): one process, one thread, for all mounts of one volume on this machine.  What may be
 * granted is dlm_rules.c's business; this file is about who is there.
 *
 * Members.  A connection says LB_HELLO and is admitted with the lowest free journal id.  Who comes when nobody is there is the first
 * mounter: nobody else is admitted until he has replayed all journals (LB_FIRST_DONE), or died trying.
 *
 * Death.  A connection that ends without LB_LEAVE is a dead node.  Its locks stay as they are, so that nobody is granted anything that the
 * journal of the dead may still change.  Only the locks of the protocol itself (type 1; the journal's own) are dropped at once, for the
 * recovery needs them.  One member after the other is asked to replay the journal until one has done it; then the locks
 * go, value blocks become invalid where the dead node could write them, and the journal id is free again.  If nobody is
 * left, the next member is the first mounter, who replays everything.
 * LB_KEEP_LOCKS: the death of the process is not that of the node; its locks stay until somebody mounts anew, and he is asked.
 *
 * The broker never waits for a member: what cannot be sent is queued.  When the last connection is gone it removes its socket and ends.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lock/dlm_rules.h"
#include "lock/glock.h"
#include "lock/local_proto.h"
#include "util/list.h"
#include "util/util.h"

#define RETRY_NS 200000000ull	/* after a recovery that was given up */
#define LINGER_MS 20		/* between attempts to end */
#define NR_PROTOCOL_LOCKS 6	/* numbers of type NONDISK: MOUNT ... MOUNTED */
#define MAX_HANDLE (1u << 24)

struct queued {
	struct list_head list;
	struct lb_msg msg;
};

enum member_state {
	MEMBER_NEW,	/* has not said hello */
	MEMBER_WAITS,	/* for somebody else's first mount */
	MEMBER_FIRST,	/* is recovering everything */
	MEMBER_IN,
};

struct member {
	struct list_head list;		/* in the order of arrival */
	int fd;
	enum member_state state;
	uint32_t node, jid, pid;	/* node: never used again */
	bool keep_locks;
	uint32_t *lkids;		/* by handle; 0: no lock */
	uint32_t nr_lkids;
	struct list_head out;
	struct pollfd *poll;		/* this round's; NULL: came meanwhile */
};

struct dead {
	struct list_head list;
	uint32_t node, jid;
	uint32_t since;			/* only members newer than this one are asked; 0: anybody */
	uint32_t asked, last_asked;	/* member's node; 0: nobody */
	uint64_t retry_ns;
	unsigned failed;		/* how often in a row it could not be replayed, by whomever */
};

struct broker {
	const char *path;
	int listen_fd;
	struct dlm_rules *rules;
	struct list_head members, dead;
	uint32_t last_node;
};

/* --- talking --- */

static void send_msg(struct member *m, const struct lb_msg *msg)
{
	struct queued *q;

	if (list_empty(&m->out)) {
		ssize_t n = send(m->fd, msg, sizeof(*msg), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n == (ssize_t)sizeof(*msg))
			return;
		if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
			return; /* its end will be seen soon */
	}
	q = xmalloc(sizeof(*q));
	q->msg = *msg;
	list_add_tail(&q->list, &m->out);
}

static void send_queued(struct member *m)
{
	while (!list_empty(&m->out)) {
		struct queued *q = list_first_entry(&m->out, struct queued, list);

		if (send(m->fd, &q->msg, sizeof(q->msg), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
		    (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
			return;
		list_del_init(&q->list);
		free(q);
	}
}

static struct member *find_member(struct broker *b, uint32_t node)
{
	struct member *m;

	list_for_each_entry(m, &b->members, list)
		if (m->node == node && node)
			return m;
	return NULL;
}

/* Everything that the rules have to say goes to whom it is for. */
static void deliver(struct broker *b)
{
	struct dlm_output o;

	while (dlm_rules_next(b->rules, (struct dlm_owner){ 0 }, &o)) {
		struct member *m = find_member(b, o.owner.node);
		struct lb_msg msg = {
			.op = o.type == DLM_OUT_AST ? LB_AST : LB_BAST,
			.handle = (uint32_t)(uintptr_t)o.cookie, .mode = o.mode,
			.status = o.status, .flags = o.sbflags, .lvb_read = o.lvb_read,
		};

		if (!m)
			continue;
		if (o.type == DLM_OUT_AST && o.mode == DLM_LOCK_IV)
			m->lkids[msg.handle] = 0;
		memcpy(msg.lvb, o.lvb, sizeof(msg.lvb));
		send_msg(m, &msg);
	}
}

/* --- the dead --- */

static void drop_protocol_locks(struct broker *b, const struct dead *d)
{
	struct dlm_owner owner = { .node = d->node };
	uint8_t name[LB_NAME];

	for (unsigned n = 0; n < NR_PROTOCOL_LOCKS; n++) {
		lb_name(name, LM_TYPE_NONDISK, n);
		dlm_rules_purge_resource(b->rules, owner, name, sizeof(name));
	}
	lb_name(name, LM_TYPE_JOURNAL, d->jid);
	dlm_rules_purge_resource(b->rules, owner, name, sizeof(name));
}

/* Something has changed that may be what a recovery was waiting for. */
static void retry_now(struct broker *b)
{
	struct dead *d;

	list_for_each_entry(d, &b->dead, list) {
		d->retry_ns = 0;
		d->failed = 0;
	}
}

static void bury(struct broker *b, struct dead *d)
{
	dlm_rules_purge(b->rules, (struct dlm_owner){ .node = d->node });
	list_del_init(&d->list);
	free(d);
	retry_now(b);
}

static bool may_recover(const struct member *m, const struct dead *d)
{
	return m->state == MEMBER_IN && m->node > d->since;
}

/* The next one after the one that was asked last. */
static struct member *choose_recoverer(struct broker *b, const struct dead *d)
{
	struct member *m, *first = NULL;

	list_for_each_entry(m, &b->members, list) {
		if (!may_recover(m, d))
			continue;
		if (m->node > d->last_asked)
			return m;
		if (!first)
			first = m;
	}
	return first;
}

static void ask_for_recovery(struct broker *b)
{
	uint64_t now = now_ns();
	struct dead *d;

	list_for_each_entry(d, &b->dead, list) {
		struct member *m;

		if (d->asked || d->retry_ns > now)
			continue;
		m = choose_recoverer(b, d);
		if (!m)
			continue;
		d->asked = d->last_asked = m->node;
		send_msg(m, &(struct lb_msg){ .op = LB_RECOVER, .jid = d->jid });
	}
}

static void recovered(struct broker *b, const struct member *m, uint32_t jid, int status)
{
	struct dead *d, *tmp;

	list_for_each_entry_safe(d, tmp, &b->dead, list) {
		if (d->jid != jid || d->asked != m->node)
			continue;
		d->asked = 0;
		d->retry_ns = now_ns() + lm_retry_ns(RETRY_NS, d->failed);
		d->failed += status == LM_RD_FAILED;
		if (status == LM_RD_SUCCESS) {
			fs_info("lock broker: journal %u of node %u was recovered by node %u", jid, d->node,
				m->node);
			bury(b, d);
		}
	}
}

/* --- members --- */

static bool jid_used(struct broker *b, uint32_t jid)
{
	const struct member *m;
	const struct dead *d;

	list_for_each_entry(m, &b->members, list)
		if (m->state >= MEMBER_FIRST && m->jid == jid)
			return true;
	list_for_each_entry(d, &b->dead, list)
		if (d->jid == jid)
			return true;
	return false;
}

static void welcome(struct broker *b, struct member *m, bool first)
{
	struct dead *d, *tmp;

	if (first)
		/* He replays all journals before he uses anything. */
		list_for_each_entry_safe(d, tmp, &b->dead, list)
			bury(b, d);
	m->jid = 0;
	while (jid_used(b, m->jid))
		m->jid++;
	m->state = first ? MEMBER_FIRST : MEMBER_IN;
	retry_now(b);
	send_msg(m, &(struct lb_msg){ .op = LB_WELCOME, .version = LB_VERSION, .node = m->node,
				      .jid = m->jid, .flags = first ? LB_FIRST : 0 });
}

static void admit(struct broker *b)
{
	struct member *m;
	bool somebody = false;

	list_for_each_entry(m, &b->members, list) {
		if (m->state == MEMBER_FIRST)
			return;
		somebody |= m->state == MEMBER_IN;
	}
	list_for_each_entry(m, &b->members, list) {
		if (m->state != MEMBER_WAITS)
			continue;
		welcome(b, m, !somebody);
		if (!somebody)
			return;
	}
}

static void add_member(struct broker *b, int fd)
{
	struct member *m = xzalloc(sizeof(*m));

	m->fd = fd;
	list_init(&m->out);
	list_add_tail(&m->list, &b->members);
}

static void remove_member(struct broker *b, struct member *m, bool clean)
{
	struct dlm_owner owner = { .node = m->node };
	struct dead *d;

	list_del_init(&m->list);
	list_for_each_entry(d, &b->dead, list)
		if (d->asked == m->node)
			d->asked = 0;
	if (m->state >= MEMBER_FIRST && !clean) {
		fs_warn("lock broker: node %u (process %u, journal %u) died", m->node, m->pid, m->jid);
		d = xzalloc(sizeof(*d));
		d->node = m->node;
		d->jid = m->jid;
		d->since = m->keep_locks ? b->last_node : 0;
		dlm_rules_process_orphaned(b->rules, owner);
		list_add_tail(&d->list, &b->dead);
		drop_protocol_locks(b, d);
	} else if (m->node) {
		dlm_rules_process_died(b->rules, owner);
	}
	close(m->fd);
	while (!list_empty(&m->out)) {
		struct queued *q = list_first_entry(&m->out, struct queued, list);

		list_del_init(&q->list);
		free(q);
	}
	free(m->lkids);
	free(m);
}

/* --- requests --- */

static void fail(struct member *m, uint32_t handle, int error)
{
	send_msg(m, &(struct lb_msg){ .op = LB_AST, .handle = handle, .status = error });
}

static bool room_for(struct member *m, uint32_t handle)
{
	uint32_t nr = m->nr_lkids ? m->nr_lkids : 64;

	if (handle < m->nr_lkids)
		return true;
	if (handle >= MAX_HANDLE)
		return false;
	while (nr <= handle)
		nr *= 2;
	m->lkids = xrealloc(m->lkids, nr * sizeof(*m->lkids));
	memset(m->lkids + m->nr_lkids, 0, (nr - m->nr_lkids) * sizeof(*m->lkids));
	m->nr_lkids = nr;
	return true;
}

static void handle_lock(struct broker *b, struct member *m, const struct lb_msg *msg)
{
	struct dlm_ask ask = {
		.mode = msg->mode, .flags = msg->flags & ~DLM_LKF_CONVERT, .bast = true,
		.lvb = msg->flags & DLM_LKF_VALBLK ? msg->lvb : NULL,
		.cookie = (void *)(uintptr_t)msg->handle,
	};
	int error;

	if (!room_for(m, msg->handle)) {
		fail(m, msg->handle, -EINVAL);
		return;
	}
	if (m->lkids[msg->handle])
		error = dlm_rules_convert(b->rules, m->lkids[msg->handle], &ask);
	else
		error = dlm_rules_lock(b->rules, (struct dlm_owner){ m->node, m->pid }, msg->name,
				       sizeof(msg->name), &ask, &m->lkids[msg->handle]);
	if (error)
		fail(m, msg->handle, error);
}

static void handle_unlock(struct broker *b, struct member *m, const struct lb_msg *msg)
{
	int error = -ENOENT;

	if (msg->handle < m->nr_lkids && m->lkids[msg->handle])
		error = dlm_rules_unlock(b->rules, m->lkids[msg->handle], 0, NULL);
	if (error)
		fail(m, msg->handle, error);
}

struct keepers {
	const uint8_t *name;
	const struct broker *b;
	const struct dead *first;	/* of those in b->dead that hold that lock */
};

static void find_keeper(const struct dlm_lock_info *info, void *arg)
{
	struct keepers *k = arg;
	const struct dead *d;

	if (info->granted <= DLM_LOCK_NL || info->len != LB_NAME || memcmp(info->name, k->name, LB_NAME))
		return;
	list_for_each_entry(d, &k->b->dead, list) {
		if (d == k->first)
			return;
		if (d->node == info->owner.node) {
			k->first = d;
			return;
		}
	}
}

/*
 * A recovery needs a lock that the dead node itself may hold, which it does until the recovery is over: then it may go on without.  Of
 * several dead ones only the first, since their recoveries must not go on at the same time either.
 */
static void handle_who(struct broker *b, struct member *m, const struct lb_msg *msg)
{
	struct keepers k = { .name = msg->name, .b = b };

	dlm_rules_for_each(b->rules, find_keeper, &k);
	send_msg(m, &(struct lb_msg){ .op = LB_WHO_IS, .jid = msg->jid,
				      .status = k.first && k.first->jid == msg->jid && k.first->asked == m->node });
}

/* False: the connection is to be closed. */
static bool handle_msg(struct broker *b, struct member *m, const struct lb_msg *msg)
{
	if (m->state == MEMBER_NEW) {
		if (msg->op != LB_HELLO || msg->version != LB_VERSION)
			return false;
		m->node = ++b->last_node;
		m->pid = msg->pid ? msg->pid : 1;
		m->keep_locks = msg->flags & LB_KEEP_LOCKS;
		m->state = MEMBER_WAITS;
		return true;
	}
	if (m->state == MEMBER_WAITS)
		return false; /* nothing is to be said now */
	switch (msg->op) {
	case LB_FIRST_DONE:
		m->state = MEMBER_IN;
		return true;
	case LB_LOCK:
		handle_lock(b, m, msg);
		return true;
	case LB_CANCEL:
		if (msg->handle < m->nr_lkids && m->lkids[msg->handle])
			dlm_rules_cancel(b->rules, m->lkids[msg->handle]);
		return true;
	case LB_UNLOCK:
		handle_unlock(b, m, msg);
		return true;
	case LB_WHO:
		handle_who(b, m, msg);
		return true;
	case LB_RECOVERED:
		recovered(b, m, msg->jid, msg->status);
		return true;
	default:
		return false;
	}
}

/* One message at a time from everybody, so that nobody is kept waiting by a busy one. */
static void receive(struct broker *b, struct member *m)
{
	struct lb_msg msg;
	ssize_t n = recv(m->fd, &msg, sizeof(msg), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == (ssize_t)sizeof(msg) && msg.op == LB_LEAVE) {
		remove_member(b, m, true);
	} else if (n != (ssize_t)sizeof(msg) || !handle_msg(b, m, &msg)) {
		remove_member(b, m, false);
	}
	deliver(b);
}

/* --- the loop --- */

static int timeout_ms(struct broker *b)
{
	const struct dead *d;
	uint64_t now = now_ns(), next = UINT64_MAX;

	if (list_empty(&b->members))
		return LINGER_MS;
	list_for_each_entry(d, &b->dead, list)
		if (!d->asked && d->retry_ns > now && d->retry_ns < next)
			next = d->retry_ns;
	return next == UINT64_MAX ? -1 : (int)((next - now) / 1000000) + 1;
}

/* Nobody is connected, and nobody can be while the start lock is ours. */
static bool end(struct broker *b)
{
	struct pollfd p = { .fd = b->listen_fd, .events = POLLIN };
	char lock_path[160];
	int lock = lb_start_lock(b->path, false);

	if (lock < 0)
		return false;
	if (poll(&p, 1, 0) > 0) {
		close(lock);
		return false;
	}
	unlink(b->path);
	if (!lb_lock_name(b->path, lock_path, sizeof(lock_path)))
		unlink(lock_path);
	close(lock);
	return true;
}

static void serve(struct broker *b)
{
	struct pollfd *fds = NULL;

	for (;;) {
		struct member *m, *tmp;
		unsigned nr = 1;

		list_for_each_entry(m, &b->members, list)
			nr++;
		fds = xrealloc(fds, nr * sizeof(*fds));
		fds[0] = (struct pollfd){ .fd = b->listen_fd, .events = POLLIN };
		nr = 1;
		list_for_each_entry(m, &b->members, list) {
			m->poll = &fds[nr++];
			*m->poll = (struct pollfd){
				.fd = m->fd,
				.events = POLLIN | (list_empty(&m->out) ? 0 : POLLOUT),
			};
		}
		if (poll(fds, nr, timeout_ms(b)) < 0 && errno != EINTR)
			break;
		list_for_each_entry_safe(m, tmp, &b->members, list) {
			short got = m->poll ? m->poll->revents : 0;

			m->poll = NULL;
			if (got & POLLOUT)
				send_queued(m);
			if (got & (POLLIN | POLLHUP | POLLERR))
				receive(b, m);
		}
		if (fds[0].revents & POLLIN) {
			int fd = accept4(b->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

			if (fd >= 0)
				add_member(b, fd);
		}
		admit(b);
		ask_for_recovery(b);
		deliver(b);
		if (list_empty(&b->members) && end(b))
			break;
	}
	free(fds);
}

static int open_socket(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* The file gets the socket's mode: it is never open to others. */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 64)) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

int lock_broker_main(const char *path)
{
	struct broker b = { .path = path };
	struct dead *d, *tmp;
	char ok = 1;

	msg_use_syslog(NULL);
	msg_set_level(MSG_INFO);
	msg_set_prefix("lock_local");
	prctl(PR_SET_NAME, "gfs2-broker");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (chdir("/"))
		return 1;
	list_init(&b.members);
	list_init(&b.dead);
	b.listen_fd = open_socket(path);
	if (b.listen_fd < 0) {
		fs_err("lock broker: %s: %s", path, strerror(-b.listen_fd));
		return 1;
	}
	if (write(LB_READY_FD, &ok, 1) != 1)
		fs_warn("lock broker: nobody waits for it any more");
	close(LB_READY_FD);
	b.rules = dlm_rules_create();
	serve(&b);
	list_for_each_entry_safe(d, tmp, &b.dead, list)
		bury(&b, d);
	dlm_rules_destroy(b.rules);
	close(b.listen_fd);
	return 0;
}
