/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events as text: a line of JSON, or the wording of the kernel's tracepoints (see event.h; docs/man/gfs2-fuse-events.5).
 *
 * A pure function of the event: any thread, no lock.
 */
#include <linux/dlmconstants.h>
#include <string.h>

#include "debug/event.h"
#include "util/util.h"

/* Without printf(): a trace tells some hundred thousand events a second, at the expense of those that are traced. */
struct text {
	char *buf;
	size_t size, len;	/* len: what it would need, as snprintf */
};

static void add_bytes(struct text *t, const char *s, size_t n)
{
	if (t->len + 1 < t->size)
		memcpy(t->buf + t->len, s, min_t(size_t, n, t->size - 1 - t->len));
	t->len += n;
}

static inline __attribute__((always_inline)) void add(struct text *t, const char *s)
{
	add_bytes(t, s, strlen(s)); /* known when compiled, where @s is a literal */
}

static void add_number(struct text *t, uint64_t val, unsigned base)
{
	char digits[20];
	unsigned at = sizeof(digits);

	do {
		digits[--at] = "0123456789abcdef"[val % base];
		val /= base;
	} while (val);
	add_bytes(t, digits + at, sizeof(digits) - at);
}

static void add_dec(struct text *t, uint64_t val)
{
	add_number(t, val, 10);
}

static void add_hex(struct text *t, uint64_t val)
{
	add_number(t, val, 16);
}

static void add_signed(struct text *t, int64_t val)
{
	if (val < 0)
		add(t, "-");
	add_dec(t, val < 0 ? -(uint64_t)val : (uint64_t)val);
}

static int text_end(struct text *t)
{
	if (t->size)
		t->buf[min_t(size_t, t->len, t->size - 1)] = 0;
	return (int)t->len;
}

/* Reasons are our own words, but a string in JSON is escaped whatever it contains. */
static void add_json_string(struct text *t, const char *s)
{
	add(t, "\"");
	while (*s) {
		const char *from = s;
		unsigned char c;

		while (*s >= ' ' && *s < 0x7f && *s != '"' && *s != '\\')
			s++;
		add_bytes(t, from, (size_t)(s - from));
		c = (unsigned char)*s;
		if (!c)
			break;
		s++;
		if (c == '"' || c == '\\') {
			add_bytes(t, "\\", 1);
			add_bytes(t, s - 1, 1);
		} else {
			add(t, c < 0x10 ? "\\u000" : "\\u00");
			add_hex(t, c);
		}
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
			add(t, bar);
			add(t, names[i].name);
			bar = "|";
		}
}

int gfs2_event_json(const struct gfs2_event *e, unsigned node, char *buf, size_t size)
{
	struct text t = { buf, size, 0 };

	add(&t, "{\"event\":\"");
	add(&t, gfs2_event_name(e->type));
	add(&t, "\",\"seq\":");
	add_dec(&t, e->seq);
	add(&t, ",\"t_ns\":");
	add_dec(&t, e->t_ns);
	add(&t, ",\"node\":");
	add_dec(&t, node);
	if (e->pid) {
		add(&t, ",\"pid\":");
		add_signed(&t, e->pid);
	}
	if (e->req) {
		add(&t, ",\"req\":");
		add_dec(&t, e->req);
	}
	if (e->fields & EVF_GLOCK) {
		add(&t, ",\"glock\":\"");
		add_dec(&t, e->gl_type);
		add(&t, "/");
		add_hex(&t, e->gl_number);
		add(&t, "\"");
	}
	if (e->fields & EVF_FROM) {
		add(&t, ",\"from\":\"");
		add(&t, glock_state_name(e->from));
		add(&t, "\"");
	}
	if (e->fields & EVF_TO) {
		add(&t, ",\"to\":\"");
		add(&t, glock_state_name(e->to));
		add(&t, "\"");
	}
	if (e->fields & EVF_OFF) {
		add(&t, ",\"off\":");
		add_dec(&t, e->off);
	}
	if (e->fields & EVF_FLAGS) {
		add(&t, ",\"flags\":\"");
		add_dlm_flags(&t, e->off);
		add(&t, "\"");
	}
	if (e->fields & EVF_LEN) {
		add(&t, ",\"len\":");
		add_dec(&t, e->len);
	}
	if (e->fields & EVF_RC) {
		add(&t, ",\"rc\":");
		add_signed(&t, e->rc);
	}
	if (e->fields & EVF_REASON) {
		add(&t, ",\"reason\":");
		add_json_string(&t, e->reason);
	}
	add(&t, "}");
	return text_end(&t);
}

/* The kernel's tracepoints print the DLM's names of the modes. */
static const char *dlm_mode(uint8_t state)
{
	static const char *const names[] = { "NL", "EX", "CW", "PR" };

	return state < ARRAY_SIZE(names) ? names[state] : "??";
}

static void text_mode(struct text *t, const char *word, uint8_t state)
{
	add(t, word);
	add(t, dlm_mode(state));
}

static void text_glock(struct text *t, const struct gfs2_event *e)
{
	static const char *const tracepoints[EV_DLM_LOCK] = {
		[EV_GLOCK_STATE] = "gfs2_glock_state_change", [EV_GLOCK_QUEUE] = "gfs2_glock_queue",
		[EV_GLOCK_DEQUEUE] = "gfs2_glock_queue", [EV_GLOCK_PROMOTE] = "gfs2_promote", [EV_GLOCK_DEMOTE_RQ] = "gfs2_demote_rq",
	};

	add(t, e->type < EV_DLM_LOCK ? tracepoints[e->type] : gfs2_event_name(e->type));
	add(t, ": glock ");
	add_dec(t, e->gl_type);
	add(t, ":");
	add_dec(t, e->gl_number);
	switch (e->type) {
	case EV_GLOCK_STATE:
		text_mode(t, " state ", e->from);
		text_mode(t, " to ", e->to);
		break;
	case EV_GLOCK_QUEUE:
		text_mode(t, " queue ", e->to);
		break;
	case EV_GLOCK_DEQUEUE:
		text_mode(t, " dequeue ", e->to);
		break;
	case EV_GLOCK_PROMOTE:
		text_mode(t, " promote ", e->to);
		break;
	case EV_GLOCK_DEMOTE_RQ:
		text_mode(t, " demote ", e->from);
		text_mode(t, " to ", e->to);
		break;
	default:
		if (e->fields & EVF_FROM)
			text_mode(t, " ", e->from);
		if (e->fields & EVF_TO)
			text_mode(t, e->fields & EVF_FROM ? " to " : " ", e->to);
	}
}

static void text_time(struct text *t, uint64_t t_ns)
{
	char micro[6];
	unsigned us = (unsigned)(t_ns / 1000 % 1000000);

	for (unsigned i = sizeof(micro); i--; us /= 10)
		micro[i] = (char)('0' + us % 10);
	add_dec(t, t_ns / 1000000000u);
	add(t, ".");
	add_bytes(t, micro, sizeof(micro));
}

int gfs2_event_text(const struct gfs2_event *e, char *buf, size_t size)
{
	struct text t = { buf, size, 0 };

	text_time(&t, e->t_ns);
	add(&t, " pid ");
	add_signed(&t, e->pid);
	add(&t, ": ");
	if (e->type <= EV_DLM_BAST || e->type >= EV_BREAK_HIT) {
		text_glock(&t, e);
	} else {
		add(&t, gfs2_event_name(e->type));
		add(&t, ":");
		if (e->fields & EVF_GLOCK) {
			add(&t, " inode ");
			add_dec(&t, e->gl_number);
		}
	}
	if (e->fields & EVF_OFF) {
		add(&t, " ");
		add_dec(&t, e->off);
	}
	if (e->fields & EVF_LEN) {
		add(&t, e->fields & EVF_OFF ? "/" : " ");
		add_dec(&t, e->len);
	}
	if (e->fields & EVF_RC) {
		add(&t, " rc:");
		add_signed(&t, e->rc);
	}
	if ((e->fields & EVF_FLAGS) && e->off) {
		add(&t, " ");
		add_dlm_flags(&t, e->off);
	}
	if (e->fields & EVF_REASON) {
		add(&t, " ");
		add(&t, e->reason);
	}
	if (e->req) {
		add(&t, " req:");
		add_dec(&t, e->req);
	}
	return text_end(&t);
}
