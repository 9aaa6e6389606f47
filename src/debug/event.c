/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event rings.
 *
 * What it is.  Each thread that has something to tell writes it into a ring of its own: nothing of what it writes is written by any
 * other thread, so that telling takes neither a lock nor an atomic read-modify-write, and two threads that work at the same time do
 * not have the cache's lines wander between them.  An event is one cache line (struct brief).  Who reads merges what is new in
 * all rings into the log, under ev_lock; there the events get their numbers and are kept as they are told.  With nobody reading nobody merges:
 * the rings have the latest of what each thread did.
 *
 * Guarantees
 *  1. A writer takes no lock, waits for nobody and makes no system call, but for the first event of a thread (it gets its ring).
 *  2. A reader gets whole events, in the order of their numbers.  Numbers that are missing are events that were overwritten before
 *     they were merged or read; as many are missing as were lost.
 *  3. Order: an event that another one follows from - told by the same thread, or about the same glock, or by a thread that knew of
 *     it by any lock or atomic of the program - has the lower number, where their stamps say so.  They do for the first two kinds
 *     whatever the clock says (see "stamps"), for the third as far as the clock was looked at after what it follows from.
 *  4. What was told before gfs2_event_next_seq(), _read() or _wait() was called is numbered when it returns (_read: unless the
 *     caller has not read yet what was numbered before).
 *  5. Memory is bounded: EV_RINGS rings, of which EV_LARGE are large, and the log, whose pages are touched once somebody reads.  A thread's ring is
 *     another's when it has ended.  Threads beyond that have no ring, and their events count as lost.
 *
 * Stamps.  An event's stamp is the time, or, if that is more, one more than the last stamp of its thread and than the last one of its glock (gl_stamp,
 * written under gl_lock like all events of a glock): a hybrid logical clock.  So it does not matter that the clock is looked at
 * before a lock is taken.  It runs ahead of the clock only by as many nanoseconds as events follow each other without time passing.  The clock is
 * CLOCK_MONOTONIC, which cannot be set back; when an event is merged its time is told as CLOCK_REALTIME, by which nodes can be compared.
 *
 * Merging.  The heads of all rings are looked at twice, all of the second time after all of the first (P1, P2: what was there).  Let f be in P1, and e
 * what f follows from: e was published before f was, so who has seen f (acquire) sees e in whatever ring he looks at later: e is in P2.  Let T be the lowest
 * stamp in P2 without P1.  Of P1 those with stamps up to T are numbered, by their stamps; e, whose stamp is lower than f's, is among them or
 * was already.  The others wait for the next round, whose P1 is this one's P2; rounds go on until what was there
 * first is numbered.  Another round is needed only because something was published meanwhile whose stamp is older than what was there.
 * After EV_ROUNDS of them there is a thread whose clock stands; then stamps alone count.
 *
 * Memory orderings
 *  - Publishing: release store of `head`, acquired by who merges: gives him the words, and what the writer knew of.
 *  - The words of an event: stored with release, loaded with acquire.  One that a newer event has written thereby also gives the
 *    reader that writer's `head` before it: number n was whole if head is less than n + size, looked at after the words.  (Fences
 *    would do; the thread sanitizer understands this form only.  On x86 both cost nothing.)
 *  - A ring goes from thread to thread under ev_lock; ev_nr is its publication to who merges (release, acquire).
 *
 * Life: init and exit are called while nobody emits or reads.
 */
#include "debug/event.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <unistd.h>

#include "debug/probes.h"
#include "util/ctx.h"
#include "util/mutex.h"
#include "util/util.h"

/*
 * An event as it is told by its thread: a cache line, in words, since it is passed on in words (bytes that are written one by one and
 * read together at once make the processor wait).
 */
struct brief {
	uint64_t stamp, req, gl_number, off, len, rc;
	uint64_t reason;	/* const char *; NULL: none; lives as long as the process */
	uint64_t what;		/* see WHAT() */
};

/* pid, enum gfs2_event_type, EVF_ bits, type of the glock, its states */
#define WHAT(pid, type, fields, gl_type, from, to) \
	((uint64_t)(uint32_t)(pid) | (uint64_t)(type) << 32 | (uint64_t)(fields) << 40 | (uint64_t)(gl_type) << 48 | \
	 (uint64_t)(from) << 60 | (uint64_t)(to) << 56)
#define WHAT_PID(what) ((int32_t)(uint32_t)(what))
#define WHAT_TYPE(what) ((enum gfs2_event_type)((what) >> 32 & 255))
#define WHAT_FIELDS(what) ((unsigned)((what) >> 40 & 255))
#define WHAT_GL_TYPE(what) ((unsigned)((what) >> 48 & 255))
#define WHAT_FROM(what) ((unsigned)((what) >> 60 & 15))
#define WHAT_TO(what) ((unsigned)((what) >> 56 & 15))

#define BRIEF_WORDS (sizeof(struct brief) / sizeof(uint64_t))
_Static_assert(sizeof(struct brief) == 64, "a cache line");

struct slot {
	alignas(64) atomic_uint_least64_t words[BRIEF_WORDS];
};

struct ring {
	/* Its thread's. */
	alignas(64) atomic_uint_least64_t head;	/* the number in this ring of the next event; it will be in slots[head & mask] */
	uint64_t last;				/* stamp */
	/* Constant. */
	uint64_t mask;
	struct slot *slots;
	/* Under ev_lock. */
	alignas(64) uint64_t read;		/* the first one that is not in the log */
	uint64_t before, now, goal;		/* heads: P1, P2, and P1 of the first round */
	uint64_t stamp;				/* of `next`, which is event number `read` */
	bool have_next;
	bool taken;				/* by a thread */
	struct brief next;
};

#define EV_RINGS 256u
#define EV_LARGE 8u		/* those of the threads that come first: who receives requests */
#define EV_SMALL_SHIFT 4	/* so much smaller are the others */
#define EV_ROUNDS 100u
#define EV_LOG_SHIFT 2		/* so much larger is the log */

static pthread_once_t ev_once = PTHREAD_ONCE_INIT;
static pthread_key_t ev_key;	/* whose destructor gives a ring back */
static struct rmutex ev_lock;
static unsigned ev_order;	/* constant between init and exit */

/* Written under ev_lock, read by all. */
static struct ring *ev_rings[EV_RINGS];
static atomic_uint ev_nr;
static atomic_uint ev_life;	/* odd between init and exit; a ring that a thread had in another life is none */

atomic_bool gfs2_event_recorded;
static atomic_bool ev_data;	/* relaxed, as the former */
static atomic_uint_least64_t ev_homeless; /* events of threads without a ring; relaxed */

/* The log, under ev_lock. */
static struct gfs2_event *ev_log;	/* in the order of their numbers; what is lost has numbers, but takes no room */
static uint64_t ev_log_size, ev_log_end; /* entry i, i less than ev_log_end, is in [i & (ev_log_size - 1)] */
static uint64_t ev_next, ev_homeless_told;
static int64_t ev_wall;			/* CLOCK_REALTIME less CLOCK_MONOTONIC */

static _Thread_local struct {
	struct ring *ring;	/* NULL: there was none left */
	unsigned life;
} mine;

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

static void give_back(void *arg)
{
	struct ring *r = arg;

	rmutex_lock(&ev_lock);
	if (mine.life == atomic_load_explicit(&ev_life, memory_order_relaxed) && mine.ring == r) {
		r->taken = false;
		mine.life = 0;
	}
	rmutex_unlock(&ev_lock);
}

static void init_once(void)
{
	GFS2_BUG_ON(pthread_key_create(&ev_key, give_back));
	rmutex_init(&ev_lock, RANK_EVENT);
}

void gfs2_event_init(unsigned order)
{
	pthread_once(&ev_once, init_once);
	GFS2_BUG_ON((atomic_load(&ev_life) & 1) || order < 1 || order > 20);
	ev_order = order;
	ev_log_size = 1ull << (order + EV_LOG_SHIFT);
	/* Untouched until somebody reads. */
	ev_log = xzalloc(ev_log_size * sizeof(*ev_log));
	ev_log_end = 0;
	ev_next = 1;
	ev_homeless_told = 0;
	atomic_store(&ev_homeless, 0);
	atomic_fetch_add(&ev_life, 1);
	atomic_store_explicit(&gfs2_event_recorded, true, memory_order_relaxed);
}

void gfs2_event_exit(void)
{
	pthread_once(&ev_once, init_once);
	rmutex_lock(&ev_lock);
	atomic_store_explicit(&gfs2_event_recorded, false, memory_order_relaxed);
	if (atomic_load(&ev_life) & 1)
		atomic_fetch_add(&ev_life, 1);
	for (unsigned i = 0; i < atomic_load(&ev_nr); i++) {
		free(ev_rings[i]->slots);
		free(ev_rings[i]);
	}
	atomic_store(&ev_nr, 0);
	free(ev_log);
	ev_log = NULL;
	rmutex_unlock(&ev_lock);
}

const char *gfs2_event_name(enum gfs2_event_type t)
{
	return (unsigned)t < EV_NR ? event_names[t] : "unknown";
}

/* --- writing --- */

/* NULL: no memory.  A receive thread must not wait for it. */
static struct ring *ring_new(unsigned nr)
{
	unsigned order = nr < EV_LARGE ? ev_order : ev_order > EV_SMALL_SHIFT ? ev_order - EV_SMALL_SHIFT : 1;
	struct ring *r = aligned_alloc(alignof(struct ring), sizeof(*r));
	struct slot *slots = aligned_alloc(alignof(struct slot), sizeof(*slots) << order);

	if (!r || !slots) {
		free(r);
		free(slots);
		return NULL;
	}
	*r = (struct ring){ .mask = (1ull << order) - 1, .slots = slots };
	ev_rings[nr] = r;
	atomic_store_explicit(&ev_nr, nr + 1, memory_order_release); /* with what the ring is */
	return r;
}

/* This thread's first event in this life: a ring that a thread has left, or a new one. */
static __attribute__((noinline)) struct ring *ring_take(void)
{
	struct ring *r = NULL;
	unsigned nr, i;

	rmutex_lock(&ev_lock);
	nr = atomic_load_explicit(&ev_nr, memory_order_relaxed);
	for (i = 0; i < nr && ev_rings[i]->taken; i++)
		;
	if (i < nr)
		r = ev_rings[i];
	else if (nr < EV_RINGS)
		r = ring_new(nr);
	/* Without memory it tries again. */
	if (r || nr == EV_RINGS) {
		mine.ring = r;
		mine.life = atomic_load_explicit(&ev_life, memory_order_relaxed);
	}
	if (r)
		r->taken = true;
	rmutex_unlock(&ev_lock);
	pthread_setspecific(ev_key, r);
	return r;
}

/* NULL: the event is lost. */
static inline struct ring *my_ring(void)
{
	struct ring *r = mine.ring;

	if (unlikely(mine.life != atomic_load_explicit(&ev_life, memory_order_relaxed)))
		r = ring_take();
	return r;
}

/* The stamp of the next event of @r. */
static inline uint64_t stamp(struct ring *r, struct gfs2_glock *gl, uint64_t t_ns)
{
	if (t_ns <= r->last)
		t_ns = r->last + 1;
	if (gl) {
		if (t_ns <= gl->gl_stamp)
			t_ns = gl->gl_stamp + 1;
		gl->gl_stamp = t_ns;
	}
	r->last = t_ns;
	return t_ns;
}

static inline void slot_write(struct ring *r, uint64_t n, const struct brief *b)
{
	struct slot *s = &r->slots[n & r->mask];
	const char *reason = (const char *)(uintptr_t)b->reason;
	unsigned fields = WHAT_FIELDS(b->what);

	atomic_store_explicit(&s->words[0], b->stamp, memory_order_release);
	atomic_store_explicit(&s->words[1], b->req, memory_order_release);
	atomic_store_explicit(&s->words[2], b->gl_number, memory_order_release);
	atomic_store_explicit(&s->words[3], b->off, memory_order_release);
	atomic_store_explicit(&s->words[4], b->len, memory_order_release);
	atomic_store_explicit(&s->words[5], b->rc, memory_order_release);
	atomic_store_explicit(&s->words[6], b->reason, memory_order_release);
	atomic_store_explicit(&s->words[7], b->what, memory_order_release);
	gfs2_probe_fields(WHAT_TYPE(b->what), WHAT_GL_TYPE(b->what), b->gl_number,
			 (fields & EVF_FROM ? WHAT_FROM(b->what) : 255u) << 8 | (fields & EVF_TO ? WHAT_TO(b->what) : 255u),
			 b->off, b->len, (int64_t)b->rc, b->req, WHAT_PID(b->what), reason ? reason : "");
}

/* @b, at @t_ns; then, unless that is EV_NR, the same once more, as @then for @reason. */
static inline __attribute__((always_inline)) void tell(struct brief b, struct gfs2_glock *gl, uint64_t t_ns, enum gfs2_event_type then,
						       const char *reason)
{
	struct ring *r = my_ring();
	uint64_t n;

	if (unlikely(!r)) {
		atomic_fetch_add_explicit(&ev_homeless, then == EV_NR ? 1 : 2, memory_order_relaxed);
		return;
	}
	n = atomic_load_explicit(&r->head, memory_order_relaxed);
	b.stamp = stamp(r, gl, t_ns);
	slot_write(r, n++, &b);
	if (then != EV_NR) {
		/* Published one by one: the second one may overwrite the oldest one of the ring. */
		atomic_store_explicit(&r->head, n, memory_order_release);
		b.stamp = stamp(r, gl, t_ns);
		b.what += ((uint64_t)then - WHAT_TYPE(b.what)) << 32;
		b.reason = (uintptr_t)reason;
		slot_write(r, n++, &b);
	}
	atomic_store_explicit(&r->head, n, memory_order_release);
}

void gfs2_event_set_on(bool on)
{
	atomic_store_explicit(&gfs2_event_recorded, on && ev_log, memory_order_relaxed);
}

uint64_t gfs2_event_time(void)
{
	return likely(ev_log) ? now_ns() : 0;
}

void gfs2_event_emit(const struct gfs2_event *e, const char *reason)
{
	const struct gfs2_ctx *ctx = current_ctx();
	struct brief b = {
		.req = e->req ? e->req : ctx->req, .gl_number = e->gl_number, .off = e->off, .len = e->len, .rc = (uint64_t)e->rc,
		.reason = (uintptr_t)reason,
		.what = WHAT(e->req ? e->pid : ctx->pid, e->type, e->fields & ~EVF_REASON, e->gl_type, e->from, e->to),
	};

	if (gfs2_event_on())
		tell(b, NULL, gfs2_event_time(), EV_NR, NULL);
}

static inline struct brief glock_brief(enum gfs2_event_type t, struct gfs2_glock *gl, int from, int to, const char *reason)
{
	const struct gfs2_ctx *ctx = current_ctx();
	unsigned fields = EVF_GLOCK | (from >= 0 ? EVF_FROM : 0) | (to >= 0 ? EVF_TO : 0);

	rmutex_assert_held(&gl->gl_lock);
	return (struct brief){
		.req = ctx->req, .gl_number = gl->gl_number, .reason = (uintptr_t)reason,
		.what = WHAT(ctx->pid, t, fields, gl->gl_type, from >= 0 ? from : 0, to >= 0 ? to : 0),
	};
}

void ev_glock_tell(enum gfs2_event_type t, struct gfs2_glock *gl, int from, int to, const char *reason, uint64_t t_ns)
{
	tell(glock_brief(t, gl, from, to, reason), gl, t_ns, EV_NR, NULL);
}

void ev_glock_tell_granted(struct gfs2_glock *gl, int to, const char *where, const char *how, uint64_t t_ns)
{
	tell(glock_brief(EV_GLOCK_QUEUE, gl, -1, to, where), gl, t_ns, EV_GLOCK_PROMOTE, how);
}

void ev_glock(enum gfs2_event_type t, struct gfs2_glock *gl, int from, int to, const char *reason)
{
	if (gfs2_event_on())
		ev_glock_tell(t, gl, from, to, reason, gfs2_event_time());
}

void ev_dlm_lock(struct gfs2_glock *gl, enum lm_state to, uint32_t flags, const char *reason)
{
	struct brief b;

	if (!gfs2_event_on())
		return;
	b = glock_brief(EV_DLM_LOCK, gl, (int)gl->gl_state, (int)to, reason);
	b.off = flags;
	b.what |= (uint64_t)EVF_FLAGS << 40;
	tell(b, gl, gfs2_event_time(), EV_NR, NULL);
}

void gfs2_event_set_data(bool on)
{
	atomic_store_explicit(&ev_data, on, memory_order_relaxed);
}

bool gfs2_event_data(void)
{
	return atomic_load_explicit(&ev_data, memory_order_relaxed);
}

static inline struct brief dio_brief(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc,
				     const char *reason)
{
	const struct gfs2_ctx *ctx = current_ctx();

	return (struct brief){
		.req = ctx->req, .gl_number = ino, .off = off, .len = len, .rc = (uint64_t)rc, .reason = (uintptr_t)reason,
		.what = WHAT(ctx->pid, t, EVF_GLOCK | EVF_OFF | EVF_LEN | EVF_RC, LM_TYPE_INODE, 0, 0),
	};
}

void ev_dio_at(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc, const char *reason, uint64_t t_ns)
{
	if (((t == EV_MAP || t == EV_DATA_IO) && !gfs2_event_data()) || !gfs2_event_on())
		return;
	tell(dio_brief(t, ino, off, len, rc, reason), NULL, t_ns ? t_ns : gfs2_event_time(), EV_NR, NULL);
}

void ev_dio_begun(uint64_t ino, uint64_t off, uint32_t len, const char *what, uint64_t t_ns)
{
	if (gfs2_event_on())
		tell(dio_brief(EV_DIO_BEGIN, ino, off, len, 0, what), NULL, t_ns ? t_ns : gfs2_event_time(), EV_DIO_SUBMIT, NULL);
}

void ev_dio(enum gfs2_event_type t, uint64_t ino, uint64_t off, uint64_t len, int64_t rc, const char *reason)
{
	ev_dio_at(t, ino, off, len, rc, reason, 0);
}

/* --- reading; ev_lock held --- */

/* Number @n of @r; false: it has been overwritten, or is just being. */
static bool slot_read(struct ring *r, uint64_t n, struct brief *b)
{
	struct slot *s = &r->slots[n & r->mask];
	uint64_t w[BRIEF_WORDS];

	for (unsigned i = 0; i < BRIEF_WORDS; i++)
		w[i] = atomic_load_explicit(&s->words[i], memory_order_acquire);
	if (atomic_load_explicit(&r->head, memory_order_relaxed) > n + r->mask)
		return false;
	memcpy(b, w, sizeof(*b));
	return true;
}

/* The first event of @r, of those before @end, that is not in the log; those that are lost have numbers, too. */
static bool ring_peek(struct ring *r, uint64_t end)
{
	while (!r->have_next && r->read < end) {
		if (slot_read(r, r->read, &r->next)) {
			r->have_next = true;
		} else {
			/* Not the very oldest one, which would be overwritten, too. */
			uint64_t oldest = atomic_load_explicit(&r->head, memory_order_acquire) - r->mask + (r->mask + 1) / 16;

			ev_next += oldest - r->read;
			r->read = oldest;
		}
	}
	return r->read < end;
}

static void log_add(const struct brief *b)
{
	struct gfs2_event *e = &ev_log[ev_log_end++ & (ev_log_size - 1)];

	*e = (struct gfs2_event){
		.seq = ev_next++, .t_ns = b->stamp + (uint64_t)ev_wall, .req = b->req, .gl_number = b->gl_number, .off = b->off,
		.len = b->len, .rc = (int64_t)b->rc, .pid = WHAT_PID(b->what), .type = WHAT_TYPE(b->what),
		.fields = (uint16_t)WHAT_FIELDS(b->what), .gl_type = (uint8_t)WHAT_GL_TYPE(b->what),
		.from = (uint8_t)WHAT_FROM(b->what), .to = (uint8_t)WHAT_TO(b->what),
	};
	if (b->reason) {
		strncpy(e->reason, (const char *)(uintptr_t)b->reason, sizeof(e->reason) - 1);
		e->fields |= EVF_REASON;
	}
}

/* How far the wall clock is from the other: looked at anew each time, since it may have been set, but kept if the difference is that of looking. */
static void look_at_wall(void)
{
	uint64_t before = now_ns();
	int64_t wall = (int64_t)wall_ns();
	int64_t took = (int64_t)(now_ns() - before), diff = wall - (int64_t)before - took / 2 - ev_wall;

	if (diff > took + 100 || diff < -took - 100)
		ev_wall += diff;
}

/* P2, and the lowest stamp in it that is not in P1. */
static uint64_t look_again(unsigned *nr)
{
	uint64_t lowest = UINT64_MAX;

	*nr = atomic_load_explicit(&ev_nr, memory_order_acquire);
	for (unsigned i = 0; i < *nr; i++)
		ev_rings[i]->now = atomic_load_explicit(&ev_rings[i]->head, memory_order_acquire);
	for (unsigned i = 0; i < *nr; i++) {
		struct ring *r = ev_rings[i];
		uint64_t n = r->before;
		struct brief b;

		/* What is lost needs no place. */
		while (n < r->now && !slot_read(r, n, &b))
			n = atomic_load_explicit(&r->head, memory_order_acquire) - r->mask;
		if (n < r->now && b.stamp < lowest)
			lowest = b.stamp;
	}
	return lowest;
}

/* Number what is in P1 with stamps up to @limit. */
static void merge_round(unsigned nr, uint64_t limit)
{
	for (;;) {
		struct ring *first = NULL;

		for (unsigned i = 0; i < nr; i++) {
			struct ring *r = ev_rings[i];

			if (r->read < r->before && ring_peek(r, r->before) && r->next.stamp <= limit &&
			    (!first || r->next.stamp < first->next.stamp))
				first = r;
		}
		if (!first)
			return;
		log_add(&first->next);
		first->have_next = false;
		first->read++;
	}
}

static void merge(void)
{
	unsigned nr = atomic_load_explicit(&ev_nr, memory_order_acquire), first = nr, rounds = 0, i;
	uint64_t homeless = atomic_load_explicit(&ev_homeless, memory_order_relaxed), limit;

	look_at_wall();
	ev_next += homeless - ev_homeless_told;
	ev_homeless_told = homeless;
	for (i = 0; i < nr; i++)
		ev_rings[i]->before = ev_rings[i]->goal = atomic_load_explicit(&ev_rings[i]->head, memory_order_acquire);
	do {
		limit = look_again(&nr);
		merge_round(nr, rounds++ < EV_ROUNDS ? limit : UINT64_MAX);
		for (i = 0; i < nr; i++)
			ev_rings[i]->before = ev_rings[i]->now;
		for (i = 0; i < first && ev_rings[i]->read >= ev_rings[i]->goal; i++)
			;
	} while (i < first);
}

/* --- reading --- */

uint64_t gfs2_event_next_seq(void)
{
	uint64_t next = 1;

	if (!ev_log)
		return next;
	rmutex_lock(&ev_lock);
	merge();
	next = ev_next;
	rmutex_unlock(&ev_lock);
	return next;
}

/* The first entry whose number is not less than @seq. */
static uint64_t log_find(uint64_t seq)
{
	uint64_t from = ev_log_end > ev_log_size ? ev_log_end - ev_log_size : 0, to = ev_log_end;

	while (from < to) {
		uint64_t middle = from + (to - from) / 2;

		if (ev_log[middle & (ev_log_size - 1)].seq < seq)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

unsigned gfs2_event_read(uint64_t *seq, struct gfs2_event *out, unsigned nr)
{
	uint64_t n = *seq ? *seq : 1, at;
	unsigned got = 0;

	if (!ev_log)
		return 0;
	rmutex_lock(&ev_lock);
	at = log_find(n);
	/* Not for who has not read yet half of what fits in there: it would cost time, and overwrite what he is at. */
	if (ev_log_end - at <= ev_log_size / 2) {
		merge();
		at = log_find(n);
	}
	while (got < nr && at < ev_log_end)
		out[got++] = ev_log[at++ & (ev_log_size - 1)];
	if (at == ev_log_end && n < ev_next)
		n = ev_next;
	else if (got)
		n = out[got - 1].seq + 1;
	rmutex_unlock(&ev_lock);
	*seq = n;
	return got;
}

/* Nobody is woken by who writes: whether somebody sleeps would have to be looked at for each event, behind a barrier. */
#define WAIT_LEAST_NS 50000u
#define WAIT_MOST_NS 5000000u

bool gfs2_event_wait(uint64_t seq, int timeout_ms)
{
	uint64_t deadline = now_ns() + (timeout_ms < 0 ? 0 : timeout_ms) * 1000000ull, nap = WAIT_LEAST_NS;

	if (!ev_log)
		return false;
	while (gfs2_event_next_seq() <= seq) {
		uint64_t now = now_ns(), ns = nap;

		if (timeout_ms >= 0) {
			if (now >= deadline)
				return false;
			ns = min_t(uint64_t, ns, deadline - now);
		}
		nanosleep(&(struct timespec){ .tv_nsec = (long)ns }, NULL);
		nap = min_t(uint64_t, 2 * nap, WAIT_MOST_NS);
	}
	return true;
}
