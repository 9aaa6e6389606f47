/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Recovery of single journals: clean, dirty, of old programs, damaged, again and again; and what fsck.gfs2 makes of ours.
 * Crashes at random moments: test_crash.c.
 */
#include "logfix.h"
#include <sys/wait.h>

/* A clean journal is left alone; a dirty one on a read-only device is refused and left alone. */
static void clean_and_readonly(void **state)
{
	struct gfs2_recovery_result res;
	char *before, *after;

	begin(1024, 100, 10);
	before = fix_read_all(&f);
	assert_int_equal(gfs2_recover_journal(f.e, 1024, &f.jd, 0, f.master, false, &res), 0);
	assert_false(res.dirty);
	assert_int_equal(res.head.lh_sequence, f.head.lh_sequence);
	after = fix_read_all(&f);
	assert_memory_equal(before, after, f.nr_blocks * 1024);
	free(before);
	free(after);

	trans_meta(&f, &gl, f.home, 1);
	flush();
	before = fix_read_all(&f);
	msg_set_level(-1);
	assert_int_equal(gfs2_recover_journal(f.e, 1024, &f.jd, 0, f.master, true, &res), -EROFS);
	msg_set_level(MSG_ERR);
	assert_true(res.dirty);
	after = fix_read_all(&f);
	assert_memory_equal(before, after, f.nr_blocks * 1024);
	free(before);
	free(after);
	end();
}

/* Recovery's own header: fields, position, and that a log can go on from there. */
static void clean_header(void **state)
{
	struct gfs2_recovery_result res;
	struct gfs2_log_header_host h, was;
	const struct gfs2_log_header *lh;
	char *img;

	begin(2048, 100, 10);
	atomic_store(&f.stat_dinodes, 4);
	for (unsigned i = 0; i < 30; i++) {
		trans_meta(&f, &gl, f.home + i % 7, i);
		flush();
	}
	gfs2_log_abandon(f.log);
	assert_int_equal(gfs2_find_jhead(f.e, 2048, &f.jd, &was), 0);
	assert_int_equal(gfs2_recover_journal(f.e, 2048, &f.jd, 5, f.master, false, &res), 0);
	assert_true(res.dirty);
	assert_int_equal(res.blocks_found, res.blocks_replayed);
	assert_int_equal(gfs2_find_jhead(f.e, 2048, &f.jd, &h), 0);
	assert_memory_equal(&h, &res.head, sizeof(h));
	assert_int_equal(h.lh_flags, 0x21);
	assert_int_equal(h.lh_sequence, was.lh_sequence + 1);
	assert_int_equal(h.lh_blkno, (was.lh_blkno + 1) % 100);
	assert_int_equal(h.lh_tail, 0);
	img = fix_read_all(&f);
	lh = (const void *)(img + gfs2_journal_map(&f.jd, h.lh_blkno) * 2048);
	assert_int_equal(be32_to_cpu(lh->lh_header.mh_jid), 5);
	assert_true(lh->lh_statfs_addr == 0 && lh->lh_quota_addr == 0 && lh->lh_local_dinodes == 0);
	for (unsigned i = 23; i < 30; i++)
		assert_int_equal(img_word(&f, img, f.home + i % 7), tag_word(i));
	assert_int_equal(be64_to_cpu(*(__be64 *)(img + f.master * 2048 + 232 + 16)), MASTER_DINODES + 4);
	/* No more than the kernel would have left. */
	for (unsigned i = 256; i < 2048; i++)
		assert_int_equal(img[f.master * 2048 + i], 0);
	free(img);

	gfs2_log_destroy(f.log);
	f.head = res.head;
	atomic_store(&f.stat_dinodes, 0);
	fix_open_log(&f);
	trans_meta(&f, &gl, f.home, 77);
	assert_int_equal(gfs2_log_shutdown(f.log), 0);
	assert_int_equal(gfs2_find_jhead(f.e, 2048, &f.jd, &h), 0);
	assert_int_equal(h.lh_flags, 0x101);
	end();
}

/* A version 1 header, as old programs write it, is as good. */
static void version1_header(void **state)
{
	struct gfs2_recovery_result res;
	char *img;

	begin(512, 64, 10);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	img = fix_read_all(&f);
	memset(img + gfs2_journal_map(&f.jd, (f.head.lh_blkno + 3) % 64) * 512 + 48, 0, 512 - 48);
	assert_int_equal(fix_recover(&f, img, &res), 0);
	assert_int_equal(res.blocks_replayed, 1);
	assert_int_equal(img_word(&f, img, f.home), tag_word(1));
	free(img);
	end();
}

/* --- damage --- */

/* Recover @img; it must be refused without a change outside of the journal. */
static void must_refuse(char *img, const char *what)
{
	struct gfs2_recovery_result res;
	size_t size = f.nr_blocks * f.bsize;
	char *before = malloc(size);

	memcpy(before, img, size);
	if (fix_recover(&f, img, &res) != -EIO)
		fail_msg("%s was not refused", what);
	if (memcmp(before, img, size))
		fail_msg("%s: the volume was changed", what);
	free(before);
}

static void set32(char *p, unsigned off, uint32_t v)
{
	*(__be32 *)(p + off) = cpu_to_be32(v);
}

static void set64(char *p, unsigned off, uint64_t v)
{
	*(__be64 *)(p + off) = cpu_to_be64(v);
}

/* Journal: 0 METADATA, 1-5 images, 6 REVOKE (60 entries), 7 LB, 8 header. */
static char *sample_journal(void)
{
	begin(512, 64, 100);
	assert_int_equal(gfs2_trans_begin(f.log, 5, 60), 0);
	for (unsigned i = 0; i < 5; i++)
		change_meta(&f, &gl, f.home + i, i);
	rmutex_lock(&f.log->l_lock);
	for (unsigned i = 20; i < 80; i++)
		log_revoke_add(f.log, blktab_get(&f.log->l_tab, f.home + i));
	rmutex_unlock(&f.log->l_lock);
	gfs2_trans_end(f.log);
	flush();
	return fix_read_all(&f);
}

static void rewrite_header(char *img, uint32_t tail)
{
	uint32_t blkno = (f.head.lh_blkno + 9) % 64;
	struct gfs2_log_header_args a = { .sequence = f.head.lh_sequence + 1, .flags = 2, .tail = tail,
					  .blkno = blkno };

	gfs2_log_header_encode(jblock(img, 8), 512, &a);
}

static void targeted_damage(void **state)
{
	char *good = sample_journal(), *img;
	size_t size = f.nr_blocks * 512;
	unsigned n = 0;

	msg_set_level(-1);
	img = malloc(ALIGN_UP(size, 4096));
	for (;; n++) {
		memcpy(img, good, size);
		switch (n) {
		case 0: set32(jblock(img, 0), 28, 0); break;		/* ld_length */
		case 1: set32(jblock(img, 0), 28, 0xffffffff); break;
		case 2: set32(jblock(img, 0), 28, 9); break;		/* swallows the head */
		case 3: set32(jblock(img, 0), 28, 2); break;		/* walks into an image */
		case 4: set32(jblock(img, 0), 32, 6); break;		/* ld_data1 */
		case 5: set32(jblock(img, 0), 32, 0xffffffff); break;
		case 6: set32(jblock(img, 0), 24, 299); break;		/* ld_type */
		case 7: set64(jblock(img, 0), 72, 0); break;		/* homes */
		case 8: set64(jblock(img, 0), 72, 128); break;
		case 9: set64(jblock(img, 0), 80, f.nr_blocks); break;
		case 10: set64(jblock(img, 0), 80, UINT64_MAX); break;
		case 11: set64(jblock(img, 0), 80, f.x[1].dblock + 2); break;
		case 12: set32(jblock(img, 5), 0, 0); break;		/* last image */
		case 13: set32(jblock(img, 6), 32, 117); break;		/* revokes */
		case 14: set32(jblock(img, 6), 32, 0x80000000); break;
		case 15: set32(jblock(img, 7), 4, 9); break;		/* LB */
		case 16: set64(jblock(img, 7), 24, 0); break;
		case 17: set64(jblock(img, 7), 24, f.nr_blocks); break;
		case 18: set32(jblock(img, 0), 0, 0); break;		/* magic */
		case 19: rewrite_header(img, 64); break;		/* tail */
		case 20: rewrite_header(img, 0xffffffff); break;
		case 21: rewrite_header(img, (f.head.lh_blkno + 2) % 64); break;
		default: goto out;
		}
		char what[32];

		snprintf(what, sizeof(what), "damage %u", n);
		must_refuse(img, what);
	}
out:
	/* No header at all. */
	memcpy(img, good, size);
	for (uint32_t i = 0; i < 64; i++)
		memset(jblock(img, i), 0, 512);
	must_refuse(img, "an empty journal");
	msg_set_level(MSG_ERR);
	free(img);
	free(good);
	end();
}

/* Random bytes anywhere in the active region: whatever comes out, no crash and nothing outside of the device. */
static void random_damage(void **state)
{
	char *good = sample_journal(), *img;
	size_t size = f.nr_blocks * 512;
	struct gfs2_recovery_result res;
	unsigned refused = 0;

	msg_set_level(-1);
	img = malloc(ALIGN_UP(size, 4096));
	for (unsigned i = 0; i < 300; i++) {
		memcpy(img, good, size);
		for (unsigned k = 0; k < 1 + i % 4; k++)
			jblock(img, rnd(9))[rnd(rnd(2) ? 120 : 512)] = rnd(256);
		int rc = fix_recover(&f, img, &res);

		assert_true(rc == 0 || rc == -EIO);
		refused += rc != 0;
	}
	assert_true(refused > 10);
	msg_set_level(MSG_ERR);
	free(img);
	free(good);
	end();
}

/* The revoke rule where the active region wraps: before and after, image and revoke on either side. */
static void revoke_across_wrap(void **state)
{
	struct gfs2_recovery_result res;

	for (unsigned shift = 0; shift < 70; shift++) {
		char *img;

		begin(512, 64, 10);
		for (unsigned i = 0; i < shift; i++) {
			trans_meta(&f, &gl, f.home + 9, i);
			flush();
			assert_int_equal(gfs2_ail_flush(f.log), 0);
		}
		trans_meta(&f, &gl, f.home, 1);		/* revoked */
		trans_meta(&f, &gl, f.home + 1, 2);	/* revoked, then new again */
		trans_meta(&f, &gl, f.home + 2, 3);
		flush();
		assert_int_equal(gfs2_trans_begin(f.log, 0, 2), 0);
		gfs2_journal_wipe(f.log, f.home, 2);
		gfs2_trans_end(f.log);
		flush();
		trans_meta(&f, &gl, f.home + 1, 4);
		flush();
		img = fix_read_all(&f);
		memset(img + f.home * 512, 0, 3 * 512);
		assert_int_equal(fix_recover(&f, img, &res), 0);
		assert_int_equal(img_word(&f, img, f.home), 0);
		assert_int_equal(img_word(&f, img, f.home + 1), tag_word(4));
		assert_int_equal(img_word(&f, img, f.home + 2), tag_word(3));
		assert_int_equal(res.blocks_found, 4);
		assert_int_equal(res.blocks_replayed, 2);
		free(img);
		end();
	}
}

/* --- the block counts, when recoveries end before their time --- */

#define COUNTS_J 64

/* A second journal, in the home blocks; its counts are in the block before it. */
static struct gfs2_journal_extent x2;
static struct fix f2;

static struct gfs2_jdesc other_journal(void)
{
	x2 = (struct gfs2_journal_extent){ 0, COUNTS_J, f.home + 21 };
	return (struct gfs2_jdesc){ .jd_jid = 4, .jd_no_addr = 78, .jd_blocks = COUNTS_J, .jd_nr_extents = 1, .jd_extents = &x2,
				    .jd_statfs_addr = f.home + 20, .jd_quota_addr = f.home + 20 };
}

static void other_mkfs(void)
{
	char *block = aligned_alloc(4096, 4096);

	memset(block, 0, 4096);
	fix_dinode(block, f2.jd.jd_statfs_addr);
	assert_int_equal(io_write(f.e, IO_META, block, f.bsize, f2.jd.jd_statfs_addr * f.bsize), 0);
	for (uint32_t i = 0; i < COUNTS_J; i++) {
		struct gfs2_log_header_args a = { .sequence = 1 + i, .jinode = 78, .addr = x2.dblock + i, .flags = 0x80000001,
						  .blkno = i };

		gfs2_log_header_encode(block, f.bsize, &a);
		assert_int_equal(io_write(f.e, IO_META, block, f.bsize, a.addr * f.bsize), 0);
	}
	free(block);
}

#define OWN_FREE (-700)
#define OWN_DINODES 30
#define OTHER_FREE 2508
#define OTHER_DINODES (-49)

/* Both journals dirty, with counts that are in no master record; the head where it may be: wraps come by themselves. */
static char *two_dirty_journals(uint32_t bsize, unsigned shift)
{
	char *img;

	begin(bsize, COUNTS_J, 100);
	f2 = f;
	f2.jd = other_journal();
	other_mkfs();
	assert_int_equal(gfs2_find_jhead(f2.e, bsize, &f2.jd, &f2.head), 0);
	for (unsigned i = 0; i < shift; i++) {
		trans_meta(&f, &gl, f.home + 9, i);
		flush();
		assert_int_equal(gfs2_ail_flush(f.log), 0);
	}
	atomic_store(&f.stat_free, OWN_FREE);
	atomic_store(&f.stat_dinodes, OWN_DINODES);
	trans_meta(&f, &gl, f.home, 1);
	flush();
	atomic_store(&f2.stat_free, OTHER_FREE);
	atomic_store(&f2.stat_dinodes, OTHER_DINODES);
	fix_open_log(&f2);
	trans_meta(&f2, &gl2, f.home + 1, 2);
	assert_int_equal(gfs2_log_flush(f2.log, FLUSH), 0);
	img = fix_read_all(&f);
	return img;
}

static void end_two(void)
{
	gfs2_log_destroy(f2.log);
	end();
}

/* The device takes @writes more (-1: all), in the order in which they are asked for. */
static int recover_until(char *img, const struct gfs2_jdesc *jd, int writes)
{
	const struct io_fault dead = { .op = IO_WRITE, .cls = -1, .skip = writes, .error = EIO };
	struct gfs2_recovery_result res;
	char path[64], *after;
	struct fix copy = f;
	int rc;

	snprintf(path, sizeof(path), "%s/test_journal.XXXXXX", memory_dir());
	close(mkstemp(path));
	fix_write_file(path, img, f.nr_blocks * f.bsize);
	assert_int_equal(io_engine_open(path, false, &copy.e), 0);
	unlink(path);
	if (writes >= 0)
		assert_int_equal(io_fault_add(copy.e, &dead), 0);
	rc = gfs2_recover_journal(copy.e, f.bsize, jd, 5, f.master, false, &res);
	after = fix_read_all(&copy);
	memcpy(img, after, f.nr_blocks * f.bsize);
	free(after);
	io_engine_close(copy.e);
	return rc;
}

static void check_counts(const char *img, int64_t free_blocks, int64_t dinodes)
{
	const __be64 *master = (const __be64 *)(img + f.master * f.bsize + sizeof(struct gfs2_dinode));
	const __be64 *local = (const __be64 *)(img + f.local * f.bsize + sizeof(struct gfs2_dinode));

	assert_int_equal(be64_to_cpu(master[0]), 0);
	assert_int_equal(be64_to_cpu(master[1]), MASTER_FREE + free_blocks);
	assert_int_equal(be64_to_cpu(master[2]), MASTER_DINODES + dinodes);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(local[i], 0);
}

static void check_both(const char *img)
{
	const __be64 *local = (const __be64 *)(img + f2.jd.jd_statfs_addr * f.bsize + sizeof(struct gfs2_dinode));

	check_counts(img, OWN_FREE + OTHER_FREE, OWN_DINODES + OTHER_DINODES);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(local[i], 0);
	assert_int_equal(img_word(&f, img, f.home), tag_word(1));
	assert_int_equal(img_word(&f, img, f.home + 1), tag_word(2));
}

/*
 * A recovery that ends after any of its writes, and so on once more; then the one that did it is dead, too, and its journal comes before or
 * after.  Whatever happens, everything is counted once.
 */
static void counted_once(void **state)
{
	for (unsigned shift = 0; shift < 2 * COUNTS_J; shift += 27) {
		char *good = two_dirty_journals(shift % 2 ? 512 : 4096, shift), *img;
		size_t size = f.nr_blocks * f.bsize;
		int n, m;

		msg_set_level(-1);
		img = malloc(ALIGN_UP(size, 4096));
		for (n = 0;; n++) {
			bool ended;

			for (m = 0; m < 7; m++) {
				memcpy(img, good, size);
				ended = recover_until(img, &f.jd, n) == 0;
				/* The one that did it, before ... */
				recover_until(img, &f2.jd, m);
				if (m % 2)
					recover_until(img, &f.jd, n / 2);
				assert_int_equal(recover_until(img, &f2.jd, -1), 0);
				assert_int_equal(recover_until(img, &f.jd, -1), 0);
				check_both(img);
				/* ... and after. */
				memcpy(img, good, size);
				recover_until(img, &f.jd, n);
				recover_until(img, &f.jd, m);
				assert_int_equal(recover_until(img, &f.jd, -1), 0);
				assert_int_equal(recover_until(img, &f2.jd, -1), 0);
				check_both(img);
			}
			if (ended)
				break;
		}
		/* Images, master, local, header, master again. */
		assert_in_range(n, 5, 12);
		msg_set_level(MSG_ERR);
		free(img);
		free(good);
		end_two();
	}
}

/* More recoveries that have not ended than there is room for: the oldest is the one that is forgotten, nothing else happens. */
static void many_marks(void **state)
{
	char *img = two_dirty_journals(512, 3);
	struct gfs2_jdesc jd = f.jd;
	const __be64 *master = (const __be64 *)(img + f.master * 512 + sizeof(struct gfs2_dinode));
	unsigned n;

	msg_set_level(-1);
	for (n = 0; n < 20; n++) {
		/* Image and master. */
		jd.jd_jid = 100 + n;
		assert_int_equal(recover_until(img, &jd, 2), -EIO);
		assert_int_equal(be64_to_cpu(master[2]), MASTER_DINODES + (n + 1) * OWN_DINODES);
	}
	for (n = 19; n >= 4; n--) {
		jd.jd_jid = 100 + n;
		assert_int_equal(recover_until(img, &jd, 2), -EIO);
		assert_int_equal(be64_to_cpu(master[2]), MASTER_DINODES + 20 * OWN_DINODES);
	}
	jd.jd_jid = 103;
	assert_int_equal(recover_until(img, &jd, 2), -EIO);
	assert_int_equal(be64_to_cpu(master[2]), MASTER_DINODES + 21 * OWN_DINODES);
	/* And the same journal later is another matter. */
	assert_int_equal(recover_until(img, &f.jd, -1), 0);
	assert_int_equal(be64_to_cpu(master[2]), MASTER_DINODES + 22 * OWN_DINODES);
	msg_set_level(MSG_ERR);
	free(img);
	end_two();
}

/* A mark that was left behind after the clean header: the journal's next counts are others. */
static void stale_mark(void **state)
{
	char *img = two_dirty_journals(512, 3);
	struct gfs2_jdesc again = f2.jd;

	msg_set_level(-1);
	/* Image, master, local, header. */
	assert_int_equal(recover_until(img, &f.jd, 4), -EIO);
	check_counts(img, OWN_FREE, OWN_DINODES);
	assert_int_equal(recover_until(img, &f.jd, -1), 0);
	again.jd_jid = f.jd.jd_jid;
	assert_int_equal(recover_until(img, &again, -1), 0);
	check_both(img);
	msg_set_level(MSG_ERR);
	free(img);
	end_two();
}

/* Power fails while a journal is recovered: any of the writes since the last flush may be missing, or be there in part. */
static char *power_img;
static unsigned power_failures;

static void power_event(void *arg)
{
	struct gfs2_recovery_result res;

	dev.event = NULL;
	device_crash(power_img);
	CHECK(fix_recover(&f, power_img, &res) == 0);
	check_counts(power_img, OWN_FREE, OWN_DINODES);
	power_failures++;
	dev.event = power_event;
}

static void power_fails_in_recovery(void **state)
{
	for (unsigned round = 0; round < 16; round++) {
		char *good = two_dirty_journals(round % 2 ? 512 : 4096, round);
		struct gfs2_recovery_result res;

		power_img = malloc(f.nr_blocks * f.bsize);
		dev.media = good;
		dev.size = f.nr_blocks * f.bsize;
		dev.engine = f.e;
		dev.event = power_event;
		assert_int_equal(gfs2_recover_journal(f.e, f.bsize, &f.jd, 5, f.master, false, &res), 0);
		dev.event = NULL;
		free(power_img);
		end_two();
	}
	assert_true(power_failures > 100);
}

/* Does a journal have something to put in place over the master record?  Who recovers several begins with that one. */
static void look_for_image(void **state)
{
	struct gfs2_log_header_host h;
	char *before, *after;
	bool has;

	begin(1024, COUNTS_J, 10);
	assert_int_equal(gfs2_journal_look(f.e, 1024, &f.jd, f.home + 1, &h, &has), 0);
	assert_false(has);
	assert_memory_equal(&h, &f.head, sizeof(h));
	trans_meta(&f, &gl, f.home, 1);
	flush();
	before = fix_read_all(&f);
	assert_int_equal(gfs2_journal_look(f.e, 1024, &f.jd, f.home + 1, &h, &has), 0);
	assert_false(has);
	assert_int_equal(h.lh_sequence, f.head.lh_sequence + 1);
	assert_int_equal(gfs2_journal_look(f.e, 1024, &f.jd, f.home, &h, &has), 0);
	assert_true(has);
	after = fix_read_all(&f);
	assert_memory_equal(before, after, f.nr_blocks * 1024);
	free(before);
	free(after);
	assert_int_equal(gfs2_trans_begin(f.log, 0, 1), 0);
	gfs2_journal_wipe(f.log, f.home, 1);
	gfs2_trans_end(f.log);
	flush();
	assert_int_equal(gfs2_journal_look(f.e, 1024, &f.jd, f.home, &h, &has), 0);
	assert_false(has);
	end();
}

/* --- fsck.gfs2 as a second opinion --- */

/* The journal of a volume of mkfs.gfs2 is the one run of log headers. */
static void find_mkfs_journal(struct gfs2_journal_extent *x, struct gfs2_jdesc *jd)
{
	char *block = aligned_alloc(4096, 4096);
	uint64_t nr = io_engine_size(f.e) / f.bsize;

	*x = (struct gfs2_journal_extent){ 0 };
	for (uint64_t b = 0; b < nr; b++) {
		const struct gfs2_log_header *lh = (const void *)block;
		struct gfs2_log_header_host h;

		assert_int_equal(io_read(f.e, IO_META, block, f.bsize, b * f.bsize), 0);
		if (gfs2_log_header_decode(block, f.bsize, &h))
			continue;
		if (!x->blocks)
			x->dblock = b;
		x->blocks++;
		jd->jd_no_addr = be64_to_cpu(lh->lh_jinode);
	}
	free(block);
	jd->jd_blocks = x->blocks;
	jd->jd_nr_extents = 1;
	jd->jd_extents = x;
}

static int fsck(const char *how, const char *path)
{
	char cmd[256];
	int rc;

	snprintf(cmd, sizeof(cmd), "fsck.gfs2 %s %s >/dev/null 2>&1", how, path);
	rc = system(cmd);
	return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

/* Change the root directory's times only in the log; fsck.gfs2 must find and replay it. */
static void fsck_replays_ours(void **state)
{
	char path[] = "/tmp/test_journal.XXXXXX", cmd[256];
	struct gfs2_dinode *di;
	struct gfs2_sb *sb = aligned_alloc(4096, 4096);
	struct gfs2_bh *bh;
	uint64_t root;

	if (system("command -v mkfs.gfs2 >/dev/null 2>&1 && command -v fsck.gfs2 >/dev/null 2>&1")) {
		print_message("SKIPPED: mkfs.gfs2 or fsck.gfs2 is not installed\n");
		free(sb);
		skip();
	}
	memset(&f, 0, sizeof(f));
	f.bsize = 4096;
	f.commit_secs = 3600;
	close(mkstemp(path));
	snprintf(cmd, sizeof(cmd),
		 "truncate -s 64M %s && mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 8 %s >/dev/null", path, path);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(io_engine_open(path, false, &f.e), 0);
	find_mkfs_journal(f.x, &f.jd);
	assert_int_equal(f.jd.jd_blocks, 2048);
	assert_int_equal(io_read(f.e, IO_META, sb, 4096, 65536), 0);
	root = be64_to_cpu(sb->sb_root_dir.no_addr);
	assert_int_equal(buf_cache_create(f.e, 4096, 1 << 20, &f.bufs), 0);
	assert_int_equal(gfs2_find_jhead(f.e, 4096, &f.jd, &f.head), 0);
	fix_open_log(&f);
	glock_start(&f, &gl, root);
	for (unsigned i = 1; i <= 700; i++) {
		assert_int_equal(buf_read(&gl.gl_mapping, root, &bh), 0);
		assert_int_equal(gfs2_trans_begin(f.log, 1, 0), 0);
		gfs2_trans_add_meta(f.log, &gl, bh);
		di = (struct gfs2_dinode *)bh->b_data;
		di->di_mtime = cpu_to_be64(1000000 + i);
		gfs2_trans_end(f.log);
		buf_put(bh);
		/* Two laps, the last flush is in the log only. */
		flush();
		if (i < 700 && i % 100 == 0)
			assert_int_equal(gfs2_ail_flush(f.log), 0);
	}
	gfs2_log_abandon(f.log);
	gfs2_log_destroy(f.log);
	glock_end(&gl);
	buf_cache_destroy(f.bufs);

	assert_int_equal(io_read(f.e, IO_META, sb, 4096, root * 4096), 0);
	assert_int_not_equal(be64_to_cpu(((struct gfs2_dinode *)sb)->di_mtime), 1000700);
	assert_int_equal(fsck("-y", path) & ~1, 0);
	assert_int_equal(io_read(f.e, IO_META, sb, 4096, root * 4096), 0);
	assert_int_equal(be64_to_cpu(((struct gfs2_dinode *)sb)->di_mtime), 1000700);
	assert_int_equal(fsck("-n", path), 0);
	/* And its clean header is one for us. */
	assert_int_equal(gfs2_find_jhead(f.e, 4096, &f.jd, &f.head), 0);
	assert_int_equal(f.head.lh_flags, GFS2_LOG_HEAD_UNMOUNT);
	assert_int_equal(f.head.lh_crc, 0);
	io_engine_close(f.e);
	unlink(path);
	free(sb);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clean_and_readonly),
		cmocka_unit_test(clean_header),
		cmocka_unit_test(version1_header),
		cmocka_unit_test(targeted_damage),
		cmocka_unit_test(random_damage),
		cmocka_unit_test(revoke_across_wrap),
		cmocka_unit_test(counted_once),
		cmocka_unit_test(many_marks),
		cmocka_unit_test(stale_mark),
		cmocka_unit_test(power_fails_in_recovery),
		cmocka_unit_test(look_for_image),
		cmocka_unit_test(fsck_replays_ours),
	};

	return cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
