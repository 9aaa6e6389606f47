/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which writes the kernel takes back (src/fuse/undo.c), with pieces in orders that threads seldom come in.  One file that node b has made longer
 * than this node's kernel believes; all appends are of one thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "fs/inode.h"
#include "fs/super.h"
#include "fuse/ops.h"
#include "util/ctx.h"

#define BELIEVED 4096	/* this node's kernel */
#define OTHERS 5000	/* appended by node b since */
#define PIECE 1048560	/* a full request whose buffer begins in a page */
#define REST 16

static struct server server = { .files_lock = PTHREAD_MUTEX_INITIALIZER };
static struct lm_lockops lm = { .lm_has_peers = true };
static struct gfs2_sbd sbd = { .sd_lm = &lm };
static struct gfs2_inode inode = { .i_sbd = &sbd };
static struct gfs2_file file;
static uint64_t size;	/* of the file */

static int new_file(void **state)
{
	free(file.f_run);
	file = (struct gfs2_file){ .f_inode = &inode };
	size = BELIEVED + OTHERS;
	tell_size(&inode, BELIEVED);
	return 0;
}

static int end_file(void **state)
{
	free(file.f_run);
	file.f_run = NULL;
	return 0;
}

/* Piece number @req of a write comes, and is answered. */
static void append(uint64_t req, uint64_t off, uint32_t len, int64_t ret)
{
	struct written w = { .off = off, .size = len, .append = true };
	uint64_t tail;
	int64_t where;

	*current_ctx() = (struct gfs2_ctx){ .req = req, .pid = 7 };
	file_writes(&server, &file, &w);
	w.eof[0] = size;
	where = append_where(&server, &file, &w, size, &tail);
	assert_true(where >= 0);
	append_placed(&server, &file, &w, (uint64_t)where, tail, ret > 0 ? len : 0);
	size += ret > 0 ? len : 0;
	w.eof[1] = size;
	w.ret = ret;
	file_written(&server, &file, &w);
	if (ret > 0)
		tell_written(&inode, off + (uint64_t)ret);
}

/* The kernel cuts to @to: nothing goes that belongs to writes that went well. */
static void undoes_nothing(uint64_t to)
{
	uint64_t eof[2];

	assert_true(file_undoes(&server, &file, to, eof));
	assert_true(eof[1] != size || eof[0] == size);
}

static void test_in_order(void **state)
{
	append(10, BELIEVED, PIECE, PIECE);
	append(11, BELIEVED + PIECE, REST, REST);
	append(12, BELIEVED + PIECE + REST, PIECE, -EIO);
	append(13, BELIEVED + 2 * PIECE + REST, REST, -EIO);
	undoes_nothing(BELIEVED + PIECE + REST);
}

/* The later piece of the good append is answered before the first one comes. */
static void test_first_piece_last(void **state)
{
	append(11, BELIEVED + PIECE, REST, REST);
	append(10, BELIEVED, PIECE, PIECE);
	append(13, BELIEVED + 2 * PIECE + REST, REST, -EIO);
	append(12, BELIEVED + PIECE + REST, PIECE, -EIO);
	undoes_nothing(BELIEVED + PIECE + REST);
}

/* One piece of the append went well, the other did not: that is undone, in either order, and nothing else. */
static void half(bool backwards)
{
	uint64_t good, eof[2];

	append(10, BELIEVED, 4096, 4096);
	good = size;
	if (backwards) {
		append(12, BELIEVED + 4096 + PIECE, REST, REST);
		append(11, BELIEVED + 4096, PIECE, -EIO);
	} else {
		append(11, BELIEVED + 4096, PIECE, -EIO);
		append(12, BELIEVED + 4096 + PIECE, REST, REST);
	}
	assert_true(file_undoes(&server, &file, BELIEVED + 4096, eof));
	assert_int_equal(eof[0], good);
	assert_int_equal(eof[1], size);
}

static void test_half(void **state)
{
	half(false);
}

static void test_half_backwards(void **state)
{
	half(true);
}

#define T(f) cmocka_unit_test_setup_teardown(f, new_file, end_file)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_in_order), T(test_first_piece_last), T(test_half), T(test_half_backwards),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
