/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event ring.
 *
 * What it is.  2^order slots; event number n lives in slot n mod size.  A slot carries, next to the
 * record, a sequence word that tells what is in it:
 *	2n	event n, complete; with SEQ_BRIEF: as a struct brief
 *	2n + 1	event n is being written
 *
 * What happens for each request is kept short, in the slot's first cache line (struct brief): the second one would have to
 * be fetched, too, and the reason need not be copied as long as nobody reads it.  The sequence word tells which it is.
 * Events that follow each other claim their numbers together.
 *
 * Guarantees
 *  1. A writer takes no lock, waits for nobody and makes no system call unless a reader sleeps.
 *  2. A reader gets whole records or none, in the order of their numbers; missing numbers are events
 *     that were overwritten before it came, or dropped (3).
 *  3. A writer that meets another one in its slot (somebody was stopped for a whole round of the
 *     ring) drops its event instead of waiting.
 *
 * Memory orderings
 *  - Claiming a number: seq_cst, see "sleeping" below; the number itself needs only atomicity.
 *  - Claiming a slot: compare-and-swap with acquire.  It reads what the slot's last writer published
 *    with release, so the words that we store come after that writer's.
 *  - The words of a record: stored with release, loaded with acquire.  A reader that sees one word of a
 *    newer event thereby also sees its odd sequence word, in the second look at it.  (This is what fences would do
 *    in a classic seqlock; the thread sanitizer understands this form only.  On x86 it costs nothing.)
 *  - Publishing: release store of 2n, acquired by the reader's first look.
 *  - Sleeping: the writer claims its number, later looks at ev_waiters; the sleeper adds itself to ev_waiters, then
 *    looks at the number.  All four are seq_cst, so at least one of the two sees the other; the
 *    writer's look is a plain load on x86.
 *
 * Life: init and exit are called while nobody emits or reads.
 */
#include "debug/event.h"

#include <linux/dlmconstants.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "debug/probes.h"
#include "util/ctx.h"
#include "util/util.h"

/* What nearly all events fit in; the others are kept as a struct gfs2_event. */
struct brief {
	uint64_t t_ns, req, gl_number, off;
	uint32_t len;
	int32_t rc;
	const char *reason;	/* NULL: none; lives as long as the process */
	int32_t pid;
	uint8_t type;
	uint8_t fields;
	uint8_t gl_type;
	uint8_t states;		/* from << 4 | to */
};

#define BRIEF_WORDS (sizeof(struct brief) / sizeof(uint64_t))
#define EVENT_WORDS (sizeof(struct gfs2_event) / sizeof(uint64_t))
_Static_assert(sizeof(struct brief) == 7 * sizeof(uint64_t), "with the sequence word a cache line");
_Static_assert(sizeof(struct gfs2_event) % sizeof(uint64_t) == 0, "records are copied in words");

/* In the sequence word, beside twice the number and "is being written". */
#define SEQ_BRIEF (1ull << 63)

struct event_slot {
	alignas(64) atomic_uint_least64_t seq;
	atomic_uint_least64_t words[EVENT_WORDS];
};

/* So many slots ahead of those that are written the next ones are fetched. */
#define FETCH_AHEAD 8

/* Constant between init and exit. */
static struct event_slot *ev_slots;
static uint64_t ev_size;

/* Apart from each other: ev_next is written by every emitter, the others almost never. */
static alignas(64) atomic_uint_least64_t ev_next = 1;
static alignas(64) atomic_uint ev_waiters;
static atomic_bool ev_off;	/* relaxed, as ev_data */
static atomic_bool ev_data;	/* relaxed: whoever switches it waits for nothing */
static atomic_uint ev_wake;	/* futex: changed to wake the sleepers */

static const char *const event_names[EV_NR] = {
	[EV_GLOCK_STATE] = "glock_state",
	[EV_GLOCK_QUEUE] = "glock_queue",
	[EV_GLOCK_PROMOTE] = "glock_promote",
	[EV_GLOCK_DEQUEUE] = "glock_dequeue",
	[EV_GLOCK_DEMOTE_RQ] = "glock_demote_rq",
	[EV_DLM_LOCK] = "dlm_lock",
	[EV_DLM_AST] = "dlm_ast",
	[EV_DLM_BAST] = "dlm_bast",
	[EV_DIO_BEGIN] = "dio_begin",
	[EV_DIO_SUBMIT] = "dio_submit",
	[EV_DIO_HOLE] = "dio_hole",
	[EV_DIO_DRAIN_BEGIN] = "dio_drain_begin",
	[EV_DIO_DRAIN_END] = "dio_drain_end",
	[EV_DIO_UPGRADE] = "dio_upgrade",
	[EV_DIO_BUFFERED] = "dio_buffered",
	[EV_DIO_END] = "dio_end",
	[EV_LOG_FLUSH] = "log_flush",
	[EV_MAP] = "map",
	[EV_DATA_IO] = "data_io",
	[EV_BREAK_HIT] = "break_hit",
	[EV_BREAK_GO] = "break_go",
	[EV_GLOCK_HOLD] = "glock_hold",
};

void gfs2_event_init(unsigned order)
{
	GFS2_BUG_ON(ev_slots || order < 1 || order > 24);
	ev_size = 1ull << order;
	ev_slots = xaligned_alloc(alignof(struct event_slot), ev_size * sizeof(*ev_slots));
	memset(ev_slots, 0, ev_size * sizeof(*ev_slots));
	atomic_store(&ev_next, 1);
	atomic_store_explicit(&ev_off, false, memory_order_relaxed);
}

void gfs2_event_exit(void)
{
	free(ev_slots);
	ev_slots = NULL;
}

const char *gfs2_event_name(enum gfs2_event_type t)
{
	return (unsigned)t < EV_NR ? event_names[t] : "unknown";
}

/* --- writing --- */

static void wake_readers(void)
{
	atomic_fetch_add(&ev_wake, 1);
	syscall(SYS_futex, &ev_wake, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static struct event_slot *slot_of(uint64_t seq)
{
	return &ev_slots[seq & (ev_size - 1)];
}

/* The numbers of @nr events that follow each other; their slots will be in the cache by then. */
static uint64_t claim(unsigned nr)
{
	uint64_t seq = atomic_fetch_add(&ev_next, nr);

	for (unsigned i = 0; i < nr; i++)
		__builtin_prefetch(slot_of(seq + FETCH_AHEAD + i), 1);
	return seq;
}

static inline void slot_write(uint64_t seq, const void *record, unsigned words, uint64_t brief)
{
	struct event_slot *s = slot_of(seq);
	uint64_t writing = 2 * seq + 1;
	uint64_t cur = atomic_load_explicit(&s->seq, memory_order_relaxed);
	uint64_t w[EVENT_WORDS];

	if ((cur & 1) || (cur & ~SEQ_BRIEF) > writing ||
	    !atomic_compare_exchange_strong_explicit(&s->seq, &cur, writing, memory_order_acquire,
						     memory_order_relaxed))
		return;
	memcpy(w, record, words * sizeof(w[0]));
	for (unsigned i = 0; i < words; i++)
		atomic_store_explicit(&s->words[i], w[i], memory_order_release);
	atomic_store_explicit(&s->seq, 2 * seq | brief, memory_order_release);
}

void gfs2_event_set_on(bool on)
{
	atomic_store_explicit(&ev_off, !on, memory_order_relaxed);
}

bool gfs2_event_on(void)
{
	return !atomic_load_explicit(&ev_off, memory_order_relaxed);
}

static bool recorded(void)
{
	return ev_slots && gfs2_event_on();
}

uint64_t gfs2_event_time(void)
{
	return likely(ev_slots) ? wall_ns() : 0;
}

static void wake_waiters(void)
{
	if (unlikely(atomic_load(&ev_waiters)))
		wake_readers();
}

void gfs2_event_emit(struct gfs2_event *e)
{
	if (unlikely(!recorded()))
		return;
	if (!e->req) {
		const struct gfs2_ctx *ctx = current_ctx();

		e->req = ctx->req;
		e->pid = ctx->pid;
	}
	e->seq = claim(1);
	e->t_ns = gfs2_event_time();
	slot_write(e->seq, e, EVENT_WORDS, 0);
	gfs2_probe(e);
	wake_waiters();
}

static void set_reason(struct gfs2_event *e, const char *reason)
{
	if (!reason)
		return;
	/* The record was zeroed: no need to pad. */
	for (unsigned i = 0; i < sizeof(e->reason) - 1 && reason[i]; i++)
		e->reason[i] = reason[i];
	e->fields |= EVF_REASON;
}

static void expand(struct gfs2_event *e, const struct brief *b, uint64_t seq)
{
	*e = (struct gfs2_event){
		.seq = seq, .t_ns = b->t_ns, .req = b->req, .gl_number = b->gl_number, .off = b->off, .len = b->len,
		.rc = b->rc, .pid = b->pid, .type = b->type, .fields = b->fields, .gl_type = b->gl_type,
		.from = b->states >> 4, .to = b->states & 15,
	};
	set_reason(e, b->reason);
}

static inline void write_brief(const struct brief *b, uint64_t seq)
{
	slot_write(seq, b, BRIEF_WORDS, SEQ_BRIEF);
	gfs2_probe_fields((enum gfs2_event_type)b->type, b->gl_type, b->gl_number,
			 (b->fields & EVF_FROM ? b->states >> 4 : 255u) << 8 | (b->fields & EVF_TO ? b->states & 15u : 255u),
			 b->off, b->len, b->rc, b->req, b->pid, b->reason ? b->reason : "");
}

/* @b, and the same as @then for @reason. */
static inline void write_two(struct brief *b, enum gfs2_event_type then, const char *reason)
{
	uint64_t seq = claim(2);

	write_brief(b, seq);
	b->type = (uint8_t)then;
	b->reason = reason;
	write_brief(b, seq + 1);
	wake_waiters();
}

static inline struct brief glock_brief(enum gfs2_event_type t, const struct gfs2_glock *gl, int from, int to,
				       const char *reason, uint64_t t_ns)
{
	const struct gfs2_ctx *ctx = current_ctx();

	return (struct brief){
		.t_ns = t_ns, .req = ctx->req, .gl_number = gl->gl_number, .reason = reason, .pid = ctx->pid, .type = (uint8_t)t,
		.fields = (uint8_t)(EVF_GLOCK | (from >= 0 ? EVF_FROM : 0) | (to >= 0 ? EVF_TO : 0)),
		.gl_type = (uint8_t)gl->gl_type,
		.states = (uint8_t)((from >= 0 ? from << 4 : 0) | (to >= 0 ? to : 0)),
	};
}

void ev_glock_at(enum gfs2_event_type t, const struct gfs2_glock *gl, int from, int to,
		 const char *reason, uint64_t t_ns)
{
	struct brief b;

	if (unlikely(!recorded()))
		return;
	b = glock_brief(t, gl, from, to, reason, t_ns);
	write_brief(&b, claim(1));
	wake_waiters();
}

void ev_glock_granted(const struct gfs2_glock *gl, int to, const char *where, const char *how, uint64_t t_ns)
{
	struct brief b;

	if (unlikely(!recorded()))
		return;
	b = glock_brief(EV_GLOCK_QUEUE, gl, -1, to, where, t_ns);
	write_two(&b, EV_GLOCK_PROMOTE, how);
}

void ev_glock(enum gfs2_event_type t, const struct gfs2_glock *gl, int from, int to,
	      const char *reason)
{
	ev_glock_at(t, gl, from, to, reason, gfs2_event_time());
}

void ev_dlm_lock(const struct gfs2_glock *gl, enum lm_state to, uint32_t flags, const char *reason)
{
	struct brief b;

	if (unlikely(!recorded()))
		return;
	b = glock_brief(EV_DLM_LOCK, gl, (int)gl->gl_state, (int)to, reason, gfs2_event_time());
	b.off = flags;
	b.fields |= EVF_FLAGS;
	write_brief(&b, claim(1));
	wake_waiters();
}

void gfs2_event_set_data(bool on)
{
	atomic_store_explicit(&ev_data, on, memory_order_relaxed);
}

bool gfs2_event_data(void)
{
	return atomic_load_explicit(&ev_data, memory_order_relaxed);
}

static inline struct brief dio_brief(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint32_t len, int32_t rc,
				     const char *reason, uint64_t t_ns)
{
	const struct gfs2_ctx *ctx = current_ctx();

	return (struct brief){
		.t_ns = t_ns, .req = ctx->req, .gl_number = ino, .off = off, .len = len, .rc = rc, .reason = reason,
		.pid = ctx->pid, .type = (uint8_t)t, .fields = EVF_GLOCK | EVF_OFF | EVF_LEN | EVF_RC,
		.gl_type = LM_TYPE_INODE,
	};
}

static void dio_whole(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc, const char *reason)
{
	struct gfs2_event e = {
		.type = t,
		.fields = EVF_GLOCK | EVF_OFF | EVF_LEN | EVF_RC,
		.gl_type = LM_TYPE_INODE,
		.gl_number = ino,
		.off = off,
		.len = len,
		.rc = rc,
	};

	set_reason(&e, reason);
	gfs2_event_emit(&e);
}

void ev_dio_at(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc,
	       const char *reason, uint64_t t_ns)
{
	struct brief b;

	if (((t == EV_MAP || t == EV_DATA_IO) && !gfs2_event_data()) || unlikely(!recorded()))
		return;
	if (unlikely(len > UINT32_MAX || rc != (int32_t)rc)) {
		dio_whole(t, ino, off, len, rc, reason);
		return;
	}
	b = dio_brief(t, ino, off, (uint32_t)len, (int32_t)rc, reason, t_ns ? t_ns : gfs2_event_time());
	write_brief(&b, claim(1));
	wake_waiters();
}

void ev_dio_begun(uint64_t ino, uint64_t off, uint32_t len, const char *what, uint64_t t_ns)
{
	struct brief b;

	if (unlikely(!recorded()))
		return;
	b = dio_brief(EV_DIO_BEGIN, ino, off, len, 0, what, t_ns ? t_ns : gfs2_event_time());
	write_two(&b, EV_DIO_SUBMIT, NULL);
}

void ev_dio(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc,
	    const char *reason)
{
	ev_dio_at(t, ino, off, len, rc, reason, 0);
}

/* --- reading --- */

enum slot_answer { SLOT_OK, SLOT_GONE, SLOT_NOT_YET };

static enum slot_answer slot_read(struct event_slot *s, uint64_t seq, struct gfs2_event *out)
{
	uint64_t before = atomic_load_explicit(&s->seq, memory_order_acquire), number = before & ~SEQ_BRIEF;
	unsigned words = before & SEQ_BRIEF ? BRIEF_WORDS : EVENT_WORDS;
	uint64_t w[EVENT_WORDS];
	struct brief b;

	if (number > 2 * seq + 1)
		return SLOT_GONE;
	if (number != 2 * seq)
		return SLOT_NOT_YET;
	for (unsigned i = 0; i < words; i++)
		w[i] = atomic_load_explicit(&s->words[i], memory_order_acquire);
	if (atomic_load_explicit(&s->seq, memory_order_relaxed) != before)
		return SLOT_GONE;
	if (words == BRIEF_WORDS) {
		memcpy(&b, w, sizeof(b));
		expand(out, &b, seq);
	} else {
		memcpy(out, w, sizeof(*out));
	}
	return SLOT_OK;
}

uint64_t gfs2_event_next_seq(void)
{
	return atomic_load(&ev_next);
}

unsigned gfs2_event_read(uint64_t *seq, struct gfs2_event *out, unsigned nr)
{
	uint64_t next = gfs2_event_next_seq();
	uint64_t n = *seq ? *seq : 1;
	unsigned got = 0;

	if (!ev_slots)
		return 0;
	if (n < next && next - n > ev_size)
		n = next - ev_size;
	while (got < nr && n < next) {
		switch (slot_read(&ev_slots[n & (ev_size - 1)], n, &out[got])) {
		case SLOT_OK:
			got++;
			break;
		case SLOT_GONE:
			break;
		case SLOT_NOT_YET:
			/*
			 * Its writer is about to publish it, unless it dropped it: then this would wait for a
			 * whole round of the ring, so give up after half of one.
			 */
			if (next - n <= ev_size / 2)
				goto out;
			break;
		}
		n++;
	}
out:
	*seq = n;
	return got;
}

/* The claim was seen; the record follows within a few instructions unless its writer lost its CPU. */
static void await_publication(uint64_t seq)
{
	struct event_slot *s = &ev_slots[seq & (ev_size - 1)];

	for (int i = 0; i < 100; i++) {
		uint64_t cur = atomic_load_explicit(&s->seq, memory_order_acquire) & ~SEQ_BRIEF;

		if (cur >= 2 * seq && cur != 2 * seq + 1)
			return;
		sched_yield();
	}
}

bool gfs2_event_wait(uint64_t seq, int timeout_ms)
{
	uint64_t deadline = now_ns() + (timeout_ms < 0 ? 0 : timeout_ms) * 1000000ull;

	if (!ev_slots)
		return false;
	if (!seq)
		seq = 1;
	for (;;) {
		unsigned wake = atomic_load(&ev_wake);
		uint64_t now = now_ns();
		bool there;

		atomic_fetch_add(&ev_waiters, 1);
		there = atomic_load(&ev_next) > seq;
		if (!there && (timeout_ms < 0 || now < deadline)) {
			struct timespec ts = {
				.tv_sec = (deadline - now) / 1000000000u,
				.tv_nsec = (deadline - now) % 1000000000u,
			};

			syscall(SYS_futex, &ev_wake, FUTEX_WAIT_PRIVATE, wake,
				timeout_ms < 0 ? NULL : &ts, NULL, 0);
		}
		atomic_fetch_sub(&ev_waiters, 1);
		if (there) {
			await_publication(seq);
			return true;
		}
		if (timeout_ms >= 0 && now >= deadline)
			return false;
	}
}

/* --- output --- */

struct text {
	char *buf;
	size_t size, len;	/* len: what it would need, as snprintf */
};

static void __attribute__((format(printf, 2, 3))) add(struct text *t, const char *fmt, ...)
{
	bool room = t->len < t->size;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(room ? t->buf + t->len : NULL, room ? t->size - t->len : 0, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len += n;
}

/* Reasons are our own words, but a string in JSON is escaped whatever it contains. */
static void add_json_string(struct text *t, const char *s)
{
	add(t, "\"");
	for (; *s; s++) {
		unsigned char c = *s;

		if (c == '"' || c == '\\')
			add(t, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			add(t, "\\u%04x", c);
		else
			add(t, "%c", c);
	}
	add(t, "\"");
}

/* The names that <linux/dlmconstants.h> has, as the kernel's tracepoints print them. */
static void add_dlm_flags(struct text *t, uint64_t flags)
{
	static const struct {
		uint32_t flag;
		const char *name;
	} names[] = {
		{ DLM_LKF_NOQUEUE, "NOQUEUE" }, { DLM_LKF_CANCEL, "CANCEL" }, { DLM_LKF_CONVERT, "CONVERT" },
		{ DLM_LKF_VALBLK, "VALBLK" }, { DLM_LKF_QUECVT, "QUECVT" }, { DLM_LKF_PERSISTENT, "PERSISTENT" },
		{ DLM_LKF_NOQUEUEBAST, "NOQUEUEBAST" },
	};
	const char *bar = "";

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (flags & names[i].flag) {
			add(t, "%s%s", bar, names[i].name);
			bar = "|";
		}
}

int gfs2_event_json(const struct gfs2_event *e, unsigned node, char *buf, size_t size)
{
	struct text t = { buf, size, 0 };

	if (size)
		buf[0] = 0;
	add(&t, "{\"event\":\"%s\",\"seq\":%llu,\"t_ns\":%llu,\"node\":%u", gfs2_event_name(e->type),
	    (unsigned long long)e->seq, (unsigned long long)e->t_ns, node);
	if (e->pid)
		add(&t, ",\"pid\":%d", e->pid);
	if (e->req)
		add(&t, ",\"req\":%llu", (unsigned long long)e->req);
	if (e->fields & EVF_GLOCK)
		add(&t, ",\"glock\":\"%u/%llx\"", e->gl_type, (unsigned long long)e->gl_number);
	if (e->fields & EVF_FROM)
		add(&t, ",\"from\":\"%s\"", glock_state_name(e->from));
	if (e->fields & EVF_TO)
		add(&t, ",\"to\":\"%s\"", glock_state_name(e->to));
	if (e->fields & EVF_OFF)
		add(&t, ",\"off\":%llu", (unsigned long long)e->off);
	if (e->fields & EVF_FLAGS) {
		add(&t, ",\"flags\":\"");
		add_dlm_flags(&t, e->off);
		add(&t, "\"");
	}
	if (e->fields & EVF_LEN)
		add(&t, ",\"len\":%llu", (unsigned long long)e->len);
	if (e->fields & EVF_RC)
		add(&t, ",\"rc\":%lld", (long long)e->rc);
	if (e->fields & EVF_REASON) {
		add(&t, ",\"reason\":");
		add_json_string(&t, e->reason);
	}
	add(&t, "}");
	return t.len;
}

/* The kernel's tracepoints print the DLM's names of the modes. */
static const char *dlm_mode(uint8_t state)
{
	static const char *const names[] = { "NL", "EX", "CW", "PR" };

	return state < ARRAY_SIZE(names) ? names[state] : "??";
}

static void text_glock(struct text *t, const struct gfs2_event *e)
{
	unsigned long long number = e->gl_number;

	switch (e->type) {
	case EV_GLOCK_STATE:
		add(t, "gfs2_glock_state_change: glock %u:%llu state %s to %s", e->gl_type, number,
		    dlm_mode(e->from), dlm_mode(e->to));
		break;
	case EV_GLOCK_QUEUE:
		add(t, "gfs2_glock_queue: glock %u:%llu queue %s", e->gl_type, number,
		    dlm_mode(e->to));
		break;
	case EV_GLOCK_DEQUEUE:
		add(t, "gfs2_glock_queue: glock %u:%llu dequeue %s", e->gl_type, number,
		    dlm_mode(e->to));
		break;
	case EV_GLOCK_PROMOTE:
		add(t, "gfs2_promote: glock %u:%llu promote %s", e->gl_type, number,
		    dlm_mode(e->to));
		break;
	case EV_GLOCK_DEMOTE_RQ:
		add(t, "gfs2_demote_rq: glock %u:%llu demote %s to %s", e->gl_type, number,
		    dlm_mode(e->from), dlm_mode(e->to));
		break;
	default:
		add(t, "%s: glock %u:%llu", gfs2_event_name(e->type), e->gl_type, number);
		if (e->fields & EVF_FROM)
			add(t, " %s", dlm_mode(e->from));
		if (e->fields & EVF_TO)
			add(t, " %s%s", e->fields & EVF_FROM ? "to " : "", dlm_mode(e->to));
	}
}

int gfs2_event_text(const struct gfs2_event *e, char *buf, size_t size)
{
	struct text t = { buf, size, 0 };

	if (size)
		buf[0] = 0;
	add(&t, "%llu.%06llu pid %d: ", (unsigned long long)(e->t_ns / 1000000000u),
	    (unsigned long long)(e->t_ns / 1000 % 1000000), e->pid);
	if (e->type <= EV_DLM_BAST || e->type >= EV_BREAK_HIT)
		text_glock(&t, e);
	else if (e->fields & EVF_GLOCK)
		add(&t, "%s: inode %llu", gfs2_event_name(e->type),
		    (unsigned long long)e->gl_number);
	else
		add(&t, "%s:", gfs2_event_name(e->type));
	if (e->fields & EVF_OFF)
		add(&t, " %llu", (unsigned long long)e->off);
	if (e->fields & EVF_LEN)
		add(&t, "%s%llu", e->fields & EVF_OFF ? "/" : " ", (unsigned long long)e->len);
	if (e->fields & EVF_RC)
		add(&t, " rc:%lld", (long long)e->rc);
	if ((e->fields & EVF_FLAGS) && e->off) {
		add(&t, " ");
		add_dlm_flags(&t, e->off);
	}
	if (e->fields & EVF_REASON)
		add(&t, " %s", e->reason);
	if (e->req)
		add(&t, " req:%llu", (unsigned long long)e->req);
	return t.len;
}
