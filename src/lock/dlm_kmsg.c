/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel log as the source of what libdlm does not tell: that members have changed, who has which slot, and the
 * generation (reference gfs2-locking-dio.md 2.8; kernel: dlm/member.c, dlm/recoverd.c, log_rinfo).  Pure functions.
 *
 * The lines, after the record's head "PRIORITY,SEQUENCE,TIME,FLAGS;":
 *	dlm: LS: dlm_recover 3				recovery begins
 *	dlm: LS: remove member 2 [comm_seq ...]
 *	dlm: LS: generation 3 slots 2 1:1 2:3		slot:node
 *	dlm: LS: dlm_recover 3 generation 3 done: 8 ms
 * A user can write to the log, too, but the kernel marks such records with a facility that is not 0.
 */
#include "lock/dlm_i.h"

#include <stdlib.h>
#include <string.h>

#include "util/util.h"

static const char *skip(const char *s, const char *word)
{
	size_t len = strlen(word);

	return s && !strncmp(s, word, len) ? s + len : NULL;
}

static bool number(const char **s, unsigned long *v)
{
	char *end;

	if (**s < '0' || **s > '9')
		return false;
	*v = strtoul(*s, &end, 10);
	*s = end;
	return true;
}

/* The text, if the kernel itself wrote the record. */
static const char *kernel_text(const char *record)
{
	unsigned long prefix;
	const char *s = record;

	if (!number(&s, &prefix) || prefix >> 3)
		return NULL;
	s = strchr(s, ';');
	return s ? s + 1 : NULL;
}

/*
 * Where not all fit the last pair may be cut, too: "17:1" of "17:12".  Believed, it would be another node's slot, and a journal would not be
 * replayed.
 */
static void parse_slots(const char *s, struct dlm_slots *slots)
{
	unsigned long total, slot, nodeid;
	bool full;

	if (!number(&s, &total))
		return;
	slots->total = (unsigned)total;
	full = strcspn(s, "\n") >= DLM_SLOTS_TEXT;
	while (slots->nr < DLM_MAX_JID && *s == ' ') {
		s++;
		if (!number(&s, &slot) || *s++ != ':' || !number(&s, &nodeid))
			break;
		if (!slot || slot > DLM_MAX_JID)
			break;
		slots->at[slots->nr].slot = (unsigned)slot;
		slots->at[slots->nr++].nodeid = (unsigned)nodeid;
	}
	if (full && slots->nr && (!*s || *s == '\n'))
		slots->nr--;
	slots->complete = slots->nr == total;
}

void dlm_kmsg_parse(const char *record, const char *lockspace, struct dlm_news *news)
{
	const char *s = skip(kernel_text(record), "dlm: "), *rest;
	unsigned long v;

	news->type = DLM_NEWS_NONE;
	s = skip(skip(s, lockspace), ": ");
	if (!s)
		return;
	if ((rest = skip(s, "dlm_recover "))) {
		if (!number(&rest, &v))
			return;
		if (!*rest || *rest == '\n') {
			news->type = DLM_NEWS_BEGIN;
		} else if ((rest = skip(rest, " generation ")) && number(&rest, &v) &&
			   skip(rest, " done")) {
			news->type = DLM_NEWS_DONE;
			news->generation = (uint32_t)v;
		}
	} else if ((rest = skip(s, "remove member "))) {
		if (!number(&rest, &v))
			return;
		news->type = DLM_NEWS_REMOVE;
		news->nodeid = (unsigned)v;
	} else if ((rest = skip(s, "generation "))) {
		if (!number(&rest, &v) || !(rest = skip(rest, " slots ")))
			return;
		news->type = DLM_NEWS_SLOTS;
		news->generation = (uint32_t)v;
		memset(&news->slots, 0, sizeof(news->slots));
		parse_slots(rest, &news->slots);
	}
}

/* --- the value block of CONTROL --- */

static uint32_t get_le32(const char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static void put_le32(char *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

void control_lvb_decode(const char lvb[DLM_LVB_LEN], struct control_lvb *c)
{
	uint32_t gen = get_le32(lvb);

	c->owner = gen == CONTROL_POISON ? CONTROL_US : gen ? CONTROL_KERNEL : CONTROL_NOBODY;
	c->generation = gen == CONTROL_POISON ? get_le32(lvb + 4) : gen;
	memcpy(c->bits, lvb + 8, sizeof(c->bits));
}

void control_lvb_encode(char lvb[DLM_LVB_LEN], const struct control_lvb *c)
{
	put_le32(lvb, CONTROL_POISON);
	put_le32(lvb + 4, c->generation);
	memcpy(lvb + 8, c->bits, sizeof(c->bits));
}
