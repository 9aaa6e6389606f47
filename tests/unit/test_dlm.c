/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_dlm without a DLM: what is read out of the kernel log, the value block of CONTROL, names of resources, and what the news of
 * members do to the state that decides whether grants are kept back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "lock/dlm_i.h"
#include "util/util.h"

static struct dlm_news parse(const char *record)
{
	struct dlm_news news;

	memset(&news, 0xee, sizeof(news));
	dlm_kmsg_parse(record, "vol", &news);
	return news;
}

static void test_log_lines(void **state)
{
	struct dlm_news n;

	assert_int_equal(parse("6,301,8150000,-;dlm: vol: dlm_recover 3\n").type, DLM_NEWS_BEGIN);
	n = parse("6,302,8150000,-;dlm: vol: dlm_recover 3 generation 7 done: 300 ms\n");
	assert_int_equal(n.type, DLM_NEWS_DONE);
	assert_int_equal(n.generation, 7);
	n = parse("6,303,34580000,-;dlm: vol: remove member 2\n");
	assert_int_equal(n.type, DLM_NEWS_REMOVE);
	assert_int_equal(n.nodeid, 2);
	n = parse("6,303,34580000,-;dlm: vol: remove member 12 comm_seq 3 5\n");
	assert_int_equal(n.type, DLM_NEWS_REMOVE);
	assert_int_equal(n.nodeid, 12);
	n = parse("6,304,8170000,-;dlm: vol: generation 2 slots 2 1:1 4:3\n SUBSYSTEM=x\n");
	assert_int_equal(n.type, DLM_NEWS_SLOTS);
	assert_int_equal(n.generation, 2);
	assert_true(n.slots.complete);
	assert_int_equal(n.slots.nr, 2);
	assert_int_equal(n.slots.at[1].slot, 4);
	assert_int_equal(n.slots.at[1].nodeid, 3);
	n = parse("6,304,8170000,-;dlm: vol: generation 2 slots 3 1:1 4:3\n");
	assert_int_equal(n.type, DLM_NEWS_SLOTS);
	assert_false(n.slots.complete);
}

/* The kernel's log_slots(): 127 bytes, of which the last pair may be a part. */
static void slots_line(char *out, size_t size, unsigned nr, unsigned first_node)
{
	char text[127] = "";
	int len = 0;

	for (unsigned i = 1; i <= nr && len < (int)sizeof(text) - 1; i++)
		len += snprintf(text + len, sizeof(text) - (size_t)len, " %u:%u", i, first_node + i);
	snprintf(out, size, "generation 9 slots %u%s", nr, text);
}

static void test_cut_lines(void **state)
{
	char line[200], record[256];

	/* Every number of nodes, and of digits: what is shown is right, and what is cut is not believed. */
	for (unsigned first = 0; first < 2000000000; first = first * 7 + 1) {
		for (unsigned nr = 1; nr < 60; nr++) {
			struct dlm_news n;

			slots_line(line, sizeof(line), nr, first);
			snprintf(record, sizeof(record), "6,1,1,-;dlm: vol: %s\n", line);
			n = parse(record);
			assert_int_equal(n.type, DLM_NEWS_SLOTS);
			assert_int_equal(n.slots.total, nr);
			assert_true(n.slots.nr <= nr);
			assert_true(n.slots.nr >= 7 || n.slots.nr == nr);
			assert_int_equal(n.slots.complete, n.slots.nr == nr);
			for (unsigned i = 0; i < n.slots.nr; i++) {
				assert_int_equal(n.slots.at[i].slot, i + 1);
				assert_int_equal(n.slots.at[i].nodeid, first + i + 1);
			}
		}
	}
}

static void test_other_lines(void **state)
{
	static const char *const lines[] = {
		"",
		"6,1,2,-",
		"6,301,8150000,-;dlm: vol2: dlm_recover 3\n",
		"6,301,8150000,-;dlm: vo: dlm_recover 3\n",
		"6,301,8150000,-;dlm: vol: dlm_recover_members 2 nodes\n",
		"6,301,8150000,-;dlm: vol: dlm_recover 3 error -1\n",
		"6,301,8150000,-;dlm: vol: remove member\n",
		"6,301,8150000,-;dlm: vol: generation x slots 1 1:1\n",
		"6,301,8150000,-;dlm: connecting to 2\n",
		/* Written by a user (facility 1), whatever it says. */
		"14,301,8150000,-;dlm: vol: remove member 1\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_int_equal(parse(lines[i]).type, DLM_NEWS_NONE);
}

static void test_control_block(void **state)
{
	struct control_lvb c = { .generation = 0x01020304 }, d;
	char lvb[DLM_LVB_LEN] = { 0 };

	control_lvb_decode(lvb, &d);
	assert_int_equal(d.owner, CONTROL_NOBODY);
	c.bits[0] = 0x02;
	c.bits[23] = 0x80;
	control_lvb_encode(lvb, &c);
	/* The kernel refuses to mount when it finds this. */
	assert_memory_equal(lvb, "\xff\xff\xff\xff\x04\x03\x02\x01\x02", 9);
	control_lvb_decode(lvb, &d);
	assert_int_equal(d.owner, CONTROL_US);
	assert_int_equal(d.generation, 0x01020304);
	assert_true(control_bit(&d, 1));
	assert_true(control_bit(&d, 191));
	assert_false(control_bit(&d, 0));
	/* What a kernel node writes. */
	memset(lvb, 0, sizeof(lvb));
	lvb[0] = 5;
	lvb[8] = 1;
	control_lvb_decode(lvb, &d);
	assert_int_equal(d.owner, CONTROL_KERNEL);
	assert_int_equal(d.generation, 5);
	assert_true(control_bit(&d, 0));
}

static void test_names(void **state)
{
	char name[DLM_NAME_LEN + 1];

	dlm_resource_name(name, LM_TYPE_INODE, 0x3346);
	assert_string_equal(name, "       2            3346");
	dlm_resource_name(name, LM_TYPE_QUOTA, 0xfedcba9876543210);
	assert_string_equal(name, "       8fedcba9876543210");
}

static struct lm_dlm *member(void)
{
	struct lm_dlm *dc = xzalloc(sizeof(*dc));

	rmutex_init(&dc->dc_lock, RANK_LM);
	rcond_init(&dc->dc_cond);
	dc->dc_nodeid = 3;
	dc->dc_blocked = true;
	return dc;
}

static void member_free(struct lm_dlm *dc)
{
	rcond_destroy(&dc->dc_cond);
	rmutex_destroy(&dc->dc_lock);
	free(dc);
}

static void tell(struct lm_dlm *dc, const char *text)
{
	struct dlm_news news;
	char record[200];

	snprintf(record, sizeof(record), "6,1,1,-;dlm: vol: %s\n", text);
	dlm_kmsg_parse(record, "vol", &news);
	assert_int_not_equal(news.type, DLM_NEWS_NONE);
	rmutex_lock(&dc->dc_lock);
	dlm_control_news(dc, &news);
	rmutex_unlock(&dc->dc_lock);
}

static void test_join_and_death(void **state)
{
	struct lm_dlm *dc = member();

	tell(dc, "dlm_recover 1");
	tell(dc, "generation 4 slots 3 1:1 2:3 3:7");
	tell(dc, "dlm_recover 1 generation 4 done: 1 ms");
	assert_int_equal(dc->dc_mount, 4);
	assert_int_equal(dc->dc_jid, 1);
	dc->dc_mount_done = true;
	dc->dc_blocked = false;

	tell(dc, "dlm_recover 2");
	/* From here on nothing is granted. */
	assert_true(dc->dc_blocked);
	assert_true(dc->dc_recovering);
	assert_int_equal(dc->dc_block, 4);
	tell(dc, "remove member 7");
	assert_int_equal(dc->dc_submit[2], 5);
	tell(dc, "generation 5 slots 2 1:1 2:3");
	/* Interrupted, and the next attempt says it again. */
	tell(dc, "dlm_recover 3");
	tell(dc, "remove member 7");
	tell(dc, "remove member 1");
	tell(dc, "generation 6 slots 1 2:3");
	tell(dc, "dlm_recover 3 generation 6 done: 1 ms");
	assert_int_equal(dc->dc_start, 6);
	assert_int_equal(dc->dc_block, 4);
	assert_int_equal(dc->dc_submit[0], 5);
	assert_int_equal(dc->dc_submit[2], 5);
	assert_int_equal(dc->dc_submit[1], 0);
	assert_int_equal(dc->dc_jid, 1);
	assert_true(dc->dc_blocked);
	member_free(dc);
}

static unsigned bits(const struct control_lvb *c)
{
	return c->bits[0] | (unsigned)c->bits[1] << 8 | (unsigned)c->bits[2] << 16 | (unsigned)c->bits[3] << 24;
}

/* One dies whose slot was never shown: no journal but the known living ones' is taken for clean. */
static void test_death_of_an_unknown(void **state)
{
	struct control_lvb c = { .owner = CONTROL_US, .generation = 9 };
	struct lm_dlm *dc = member();
	char line[200];

	tell(dc, "dlm_recover 1");
	slots_line(line, sizeof(line), 30, 0);
	tell(dc, line);
	tell(dc, "dlm_recover 1 generation 9 done: 1 ms");
	assert_int_equal(dc->dc_jid, 2);
	assert_true(dc->dc_slots.nr < 30);
	dc->dc_mount_done = true;
	tell(dc, "dlm_recover 2");
	tell(dc, "remove member 4");
	tell(dc, "remove member 30");
	assert_int_equal(dc->dc_submit[3], 10);
	tell(dc, "dlm_recover 2 generation 10 done: 1 ms");
	/* The journals are not known yet: nothing is published. */
	assert_false(dlm_control_merge(dc, &c, 0));
	assert_int_equal(c.generation, 9);
	assert_true(dlm_control_merge(dc, &c, 32));
	assert_int_equal(c.generation, 10);
	assert_int_equal(bits(&c), (~0u << dc->dc_slots.nr) | 1u << 3);
	/* Once only; and not when another node has spoken for all. */
	memset(c.bits, 0, sizeof(c.bits));
	assert_false(dlm_control_merge(dc, &c, 32));
	tell(dc, "dlm_recover 3");
	tell(dc, "remove member 29");
	tell(dc, "dlm_recover 3 generation 11 done: 1 ms");
	c.generation = 11;
	assert_false(dlm_control_merge(dc, &c, 32));
	assert_int_equal(bits(&c), 0);
	member_free(dc);
}

/* 23 nodes fit; 23 dies, another one takes its slot and is not shown, and 23 comes back with the next one: what is remembered of it is old. */
static void test_old_slots(void **state)
{
	char line[200];

	for (unsigned who = 0; who < 2; who++) {
		struct control_lvb c = { .owner = CONTROL_US, .generation = 11 };
		struct lm_dlm *dc = member();

		tell(dc, "dlm_recover 1");
		slots_line(line, sizeof(line), 23, 0);
		tell(dc, line);
		tell(dc, "dlm_recover 1 generation 9 done: 1 ms");
		assert_true(dc->dc_slots.complete);
		dc->dc_mount_done = true;
		tell(dc, "dlm_recover 2");
		tell(dc, "remove member 23");
		slots_line(line, sizeof(line), 22, 0);
		tell(dc, line);
		tell(dc, "dlm_recover 2 generation 10 done: 1 ms");
		memset(dc->dc_submit, 0, sizeof(dc->dc_submit));
		tell(dc, "dlm_recover 3");
		slots_line(line, sizeof(line), 22, 0);
		memcpy(strstr(line, "slots 22"), "slots 24", 8);
		strcat(line, " 23:90000000");
		tell(dc, line);
		tell(dc, "dlm_recover 3 generation 11 done: 1 ms");
		assert_int_equal(dc->dc_slots.nr, 23); /* 22, and the old 23 */
		assert_false(dc->dc_slots.complete);
		tell(dc, "dlm_recover 4");
		tell(dc, who ? "remove member 23" : "remove member 900000000");
		tell(dc, "dlm_recover 4 generation 12 done: 1 ms");
		assert_true(dlm_control_merge(dc, &c, 24));
		assert_int_equal(bits(&c), 3u << 22);
		member_free(dc);
	}
}

/* It dies, comes back with a slot that is not shown, and dies again. */
static void test_death_after_a_return(void **state)
{
	struct control_lvb c = { .owner = CONTROL_US, .generation = 10 };
	struct lm_dlm *dc = member();
	char line[200];

	tell(dc, "dlm_recover 1");
	tell(dc, "generation 9 slots 3 1:1 2:3 3:7");
	tell(dc, "dlm_recover 1 generation 9 done: 1 ms");
	dc->dc_mount_done = true;
	tell(dc, "dlm_recover 2");
	tell(dc, "remove member 7");
	tell(dc, "generation 10 slots 2 1:1 2:3");
	tell(dc, "dlm_recover 2 generation 10 done: 1 ms");
	assert_int_equal(dc->dc_submit_unknown, 0);
	memset(dc->dc_submit, 0, sizeof(dc->dc_submit));
	tell(dc, "dlm_recover 3");
	slots_line(line, sizeof(line), 30, 100);
	tell(dc, line);
	tell(dc, "dlm_recover 3 generation 11 done: 1 ms");
	tell(dc, "dlm_recover 4");
	tell(dc, "remove member 7");
	tell(dc, "dlm_recover 4 generation 12 done: 1 ms");
	assert_true(dlm_control_merge(dc, &c, 31));
	assert_int_equal(bits(&c) >> dc->dc_slots.nr, ~(~0u << (31 - dc->dc_slots.nr)));
	member_free(dc);
}

static void test_first_mounter_is_not_blocked(void **state)
{
	struct lm_dlm *dc = member();

	tell(dc, "dlm_recover 1");
	tell(dc, "generation 1 slots 1 1:3");
	tell(dc, "dlm_recover 1 generation 1 done: 1 ms");
	dc->dc_mount_done = dc->dc_first = true;
	dc->dc_blocked = false;
	/* Nobody else can have mounted yet, and the first mounter needs its locks to replay the journals. */
	tell(dc, "dlm_recover 2");
	assert_false(dc->dc_blocked);
	member_free(dc);
}

/* --- several journals --- */

static struct {
	char order[64];
	unsigned first, busy, failed, looked;	/* bits: journals */
} journals;

static int recover(void *private, unsigned jid)
{
	size_t len = strlen(journals.order);
	bool busy = journals.busy >> jid & 1;

	snprintf(journals.order + len, sizeof(journals.order) - len, "%u%s ", jid, busy ? "-" : "");
	return busy ? LM_RD_GAVEUP : journals.failed >> jid & 1 ? LM_RD_FAILED : LM_RD_SUCCESS;
}

static bool comes_first(void *private, unsigned jid)
{
	journals.looked |= 1u << jid;
	return journals.first >> jid & 1;
}

static const char *recover_bits(struct lm_dlm *dc, uint8_t set, unsigned first, unsigned busy)
{
	const struct control_lvb c = { .owner = CONTROL_US, .generation = 9, .bits = { set } };

	memset(&journals, 0, sizeof(journals));
	memset(dc->dc_recovered, 0, sizeof(dc->dc_recovered));
	dc->dc_retry_ns = 0;
	dc->dc_start = 9;
	journals.first = first;
	journals.busy = busy;
	dlm_control_recover(dc, &c, 9);
	return journals.order;
}

/* When journal 1, which cannot be replayed, is tried again, from now on; journal 3 is another node's at the moment, or clean. */
static uint64_t retry_after(struct lm_dlm *dc, uint32_t gen, bool busy)
{
	const struct control_lvb c = { .owner = CONTROL_US, .generation = gen, .bits = { 0x0a } };
	uint64_t now = now_ns();

	memset(&journals, 0, sizeof(journals));
	dc->dc_retry_ns = 0;
	journals.failed = 1u << 1;
	journals.busy = busy ? 1u << 3 : 0;
	dlm_control_recover(dc, &c, gen);
	return dc->dc_retry_ns ? dc->dc_retry_ns - now : 0;
}

static void test_failed_recovery(void **state)
{
	static const struct lm_recovery_ops ops = { .lm_recover_journal = recover, .lm_comes_first = comes_first };
	struct lm_dlm *dc = member();

	assert_int_equal(gfs2_glock_table_create(&lm_nolock, NULL, 0, NULL, &dc->dc_table), 0);
	gfs2_glock_table_set_recovery(dc->dc_table, &ops);
	dc->dc_jid = 2;
	dc->dc_start = 9;
	for (unsigned s = 1; s < 15; s *= 2)
		assert_true(retry_after(dc, 9, false) >= s * 1000000000ull);
	assert_true(retry_after(dc, 9, false) >= 15000000000ull);
	/* Another node's that is on its way is looked at soon. */
	assert_true(retry_after(dc, 9, true) < 15000000000ull);
	/* So is everything after news, which do not wait. */
	assert_int_equal(retry_after(dc, 8, false), 0);
	tell(dc, "dlm_recover 10");
	tell(dc, "dlm_recover 10 generation 10 done: 0 ms");
	assert_true(retry_after(dc, 10, false) < 15000000000ull);
	gfs2_glock_table_destroy(dc->dc_table);
	member_free(dc);
}

/* What the dead held is free at once: who is replayed before the one who died with the lock of the block counts has his overwritten. */
static void test_order_of_recoveries(void **state)
{
	static const struct lm_recovery_ops ops = { .lm_recover_journal = recover, .lm_comes_first = comes_first };
	struct lm_dlm *dc = member();

	assert_int_equal(gfs2_glock_table_create(&lm_nolock, NULL, 0, NULL, &dc->dc_table), 0);
	gfs2_glock_table_set_recovery(dc->dc_table, &ops);
	dc->dc_jid = 2;

	assert_string_equal(recover_bits(dc, 0x7a, 0, 0), "1 3 4 5 6 ");
	assert_int_equal(journals.looked, 0x7a);
	assert_string_equal(recover_bits(dc, 0x7a, 1u << 5, 0), "5 1 3 4 6 ");
	assert_true(dc->dc_recovered[1] && dc->dc_recovered[5] && dc->dc_recovered[6]);
	assert_int_equal(dc->dc_retry_ns, 0);
	/* Another node is at it, or it cannot be done yet: nobody's turn. */
	assert_string_equal(recover_bits(dc, 0x7a, 1u << 5, 1u << 5), "5- ");
	assert_false(dc->dc_recovered[1] || dc->dc_recovered[5]);
	assert_int_not_equal(dc->dc_retry_ns, 0);
	/* One of those whose turn does not matter. */
	assert_string_equal(recover_bits(dc, 0x7a, 1u << 5, 1u << 3), "5 1 3- 4 6 ");
	assert_true(dc->dc_recovered[6] && !dc->dc_recovered[3]);
	assert_int_not_equal(dc->dc_retry_ns, 0);
	/* Our own is clean by definition. */
	assert_string_equal(recover_bits(dc, 0x06, 0, 0), "1 ");
	assert_true(dc->dc_recovered[2]);
	/* It is read only if there is a choice. */
	assert_string_equal(recover_bits(dc, 0x20, 1u << 5, 0), "5 ");
	assert_int_equal(journals.looked, 0);
	dc->dc_stop_control = true;
	assert_string_equal(recover_bits(dc, 0x7a, 1u << 5, 0), "");
	gfs2_glock_table_destroy(dc->dc_table);
	member_free(dc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_log_lines),
		cmocka_unit_test(test_cut_lines),
		cmocka_unit_test(test_other_lines),
		cmocka_unit_test(test_control_block),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_join_and_death),
		cmocka_unit_test(test_death_of_an_unknown),
		cmocka_unit_test(test_old_slots),
		cmocka_unit_test(test_death_after_a_return),
		cmocka_unit_test(test_first_mounter_is_not_blocked),
		cmocka_unit_test(test_order_of_recoveries),
		cmocka_unit_test(test_failed_recovery),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
