/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which inode the kernel means: two nodes (lock_local, in one process) delete and make inodes in the same blocks, and what has been looked up on
 * one of them is asked for by node id (remnant.c).
 */
#include "vol.h"
#include "fs/evict_later.h"
#include "fs/namei.h"
#include "fs/rgrp_i.h"
#include "lock/local_proto.h"
#include "util/ctx.h"

static struct io_engine *engines[2];
static struct gfs2_sbd *a, *b;

#define OK(call) assert_int_equal((call), 0)

static void nodes_up(void)
{
	struct gfs2_args args = vol_args;
	struct gfs2_sbd *sdp[2];

	args.ar_lockproto = "lock_local";
	/* Hardly more than the journals. */
	vol_make(4096, 32, 2, "-p lock_dlm -t unit:nodes");
	for (unsigned i = 0; i < 2; i++) {
		engines[i] = vol_open(false);
		OK(gfs2_mount(engines[i], &args, &sdp[i]));
	}
	a = sdp[0];
	b = sdp[1];
}

static void nodes_down(void)
{
	OK(gfs2_unmount(a));
	OK(gfs2_unmount(b));
	for (unsigned i = 0; i < 2; i++)
		io_engine_close(engines[i]);
	vol_fsck();
}

static unsigned remnants(struct gfs2_sbd *sdp)
{
	unsigned objects, nr;

	gfs2_icache_count(sdp, &objects, &nr);
	return nr;
}

static uint64_t node_of(struct gfs2_inode *ip)
{
	return gfs2_node_id(ip->i_no_addr, ip->i_no_formal_ino);
}

static struct gfs2_inode *make(struct gfs2_sbd *sdp, const char *name)
{
	const struct gfs2_create_args args = { .mode = S_IFREG | 0644, .excl = true };
	struct gfs2_inode *ip;
	struct stat st;

	OK(gfs2_create(sdp->sd_root, name, &args, &ip, &st));
	return ip;
}

/* The kernel looks the name up. */
static uint64_t look_up(struct gfs2_sbd *sdp, const char *name)
{
	struct gfs2_inode *ip;
	struct stat st;
	uint64_t node;

	OK(gfs2_lookup(sdp->sd_root, name, &ip, &st));
	gfs2_inode_lookup_inc(ip);
	node = node_of(ip);
	assert_int_equal(node & ((1ull << 48) - 1), st.st_ino);
	gfs2_inode_put(ip);
	return node;
}

static void await_free(struct gfs2_sbd *sdp, uint64_t no_addr)
{
	for (unsigned i = 0; gfs2_get_block_type(sdp, no_addr) != GFS2_BLKST_FREE_; i++) {
		assert_true(i < 12000);
		usleep(10000);
	}
	/* What was freed is used again only when that is durable. */
	OK(gfs2_log_flush(a->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL));
	OK(gfs2_log_flush(b->sd_log, GFS2_LOG_HEAD_FLUSH_NORMAL));
}

/* The next inode in the root directory is to be made here, if the allocator agrees. */
static void aim(struct gfs2_sbd *sdp, uint64_t no_addr)
{
	struct gfs2_inode *root = sdp->sd_root;
	struct gfs2_holder gh;

	OK(gfs2_glock_nq_init(root->i_gl, LM_ST_EXCLUSIVE, 0, &gh));
	root->i_goal = root->i_res_next = no_addr;
	root->i_res_len = 0;
	gfs2_glock_dq_uninit(&gh);
}

/* On @b: delete @name, whose node id is given, and make another one in its place.  The others of @b's new ones go again. */
static void replace(const char *name, uint64_t node)
{
	const uint64_t no_addr = gfs2_node_addr(node);
	struct gfs2_inode *ip;
	char other[32];
	unsigned tries = 0;

	OK(gfs2_unlink(b->sd_root, name));
	await_free(b, no_addr);
	for (;; tries++) {
		aim(b, no_addr);
		ip = make(b, name);
		if (ip->i_no_addr == no_addr)
			break;
		gfs2_inode_put(ip);
		assert_true(tries < 1000);
		snprintf(other, sizeof(other), "other%u", tries);
		OK(gfs2_rename(b->sd_root, name, b->sd_root, other, 0));
	}
	gfs2_inode_put(ip);
	while (tries--) {
		snprintf(other, sizeof(other), "other%u", tries);
		OK(gfs2_unlink(b->sd_root, other));
	}
}

static void test_node_ids(void **state)
{
	/* The next inode in a block, and the one after 65536. */
	assert_true(gfs2_node_id(4711, 5) != gfs2_node_id(4711, 6));
	assert_true(gfs2_node_id(4711, 5) == gfs2_node_id(4711, 65541));
	assert_true(gfs2_node_id(4711, 0) == 4711);
	assert_int_equal(gfs2_node_addr(gfs2_node_id((1ull << 48) - 1, UINT64_MAX)), (1ull << 48) - 1);
	assert_int_equal(gfs2_node_addr(gfs2_node_id(17, 0xdeadbeefcafe)), 17);
}

/* Deleted and replaced by another node: the old one is not to be had, the new one is another one, and each has its own lookups. */
static void test_replaced(void **state)
{
	uint64_t old, new;
	struct gfs2_inode *ip;

	nodes_up();
	for (unsigned look_first = 0; look_first < 2; look_first++) {
		gfs2_inode_put(make(a, "f"));
		old = look_up(a, "f");
		assert_int_equal(look_up(a, "f"), old);
		ip = gfs2_inode_by_node(a, old);
		assert_int_equal(ip->i_nlookup, 2);
		gfs2_inode_put(ip);
		replace("f", old);
		assert_int_equal(remnants(a), 1);
		if (!look_first)
			assert_null(gfs2_inode_by_node(a, old));
		new = look_up(a, "f");
		assert_int_equal(gfs2_node_addr(new), gfs2_node_addr(old));
		assert_true(new != old);
		assert_int_equal(remnants(a), 1);
		assert_null(gfs2_inode_by_node(a, old));
		ip = gfs2_inode_by_node(a, new);
		assert_non_null(ip);
		assert_int_equal(ip->i_nlookup, 1);
		assert_ptr_equal(gfs2_inode_find(a, ip->i_no_addr), ip);
		gfs2_inode_put(ip);
		assert_int_equal(gfs2_icache_next_node(a, gfs2_node_addr(old), 0), old < new ? old : new);
		assert_int_equal(gfs2_icache_next_node(a, gfs2_node_addr(old), old < new ? old : new), old < new ? new : old);
		assert_int_equal(gfs2_icache_next_node(a, gfs2_node_addr(old), old < new ? new : old), 0);
		/* What the old one has too much is not taken from the new one. */
		gfs2_inode_forget_node(a, old, 1);
		assert_int_equal(remnants(a), 1);
		gfs2_inode_forget_node(a, old, 7);
		assert_int_equal(remnants(a), 0);
		gfs2_inode_forget_node(a, old, 1);
		assert_int_equal(ip->i_nlookup, 1);
		assert_null(gfs2_inode_by_node(a, old));
		gfs2_inode_put(ip);
		/* Nor does it matter to the new one's end what is left of the old one. */
		gfs2_inode_forget_node(a, new, 1);
		OK(gfs2_unlink(b->sd_root, "f"));
		await_free(b, gfs2_node_addr(new));
	}
	nodes_down();
}

/* Without a name and without anybody who uses it, an inode goes although the kernel has not forgotten the one before. */
static void test_ends(void **state)
{
	struct gfs2_inode *ip;
	uint64_t old, new;

	nodes_up();
	gfs2_inode_put(make(a, "f"));
	old = look_up(a, "f");
	replace("f", old);
	new = look_up(a, "f");
	OK(gfs2_unlink(a->sd_root, "f"));
	/* It lives as long as this node's kernel may open it. */
	ip = gfs2_inode_by_node(a, new);
	assert_non_null(ip);
	gfs2_inode_put(ip);
	assert_int_equal(gfs2_get_block_type(a, gfs2_node_addr(new)), GFS2_BLKST_UNLINKED_);
	gfs2_inode_forget_node(a, new, 1);
	await_free(a, gfs2_node_addr(new));
	assert_int_equal(remnants(a), 1);
	assert_null(gfs2_inode_by_node(a, old));
	gfs2_inode_forget_node(a, old, 1);
	assert_int_equal(remnants(a), 0);
	nodes_down();
}

/* An object that was looked up by its block alone: who asks for it by node id finds out which one it is. */
static void test_by_block(void **state)
{
	struct gfs2_inode *ip, *same;
	uint64_t node, new;

	nodes_up();
	gfs2_inode_put(make(a, "f"));
	node = look_up(a, "f");
	look_up(a, "f");
	assert_true(gfs2_inode_let_go(a, gfs2_node_addr(node)));
	assert_int_equal(remnants(a), 1);
	OK(gfs2_inode_lookup(a, gfs2_node_addr(node), 0, &ip));
	assert_int_equal(ip->i_no_formal_ino, 0);
	assert_int_equal(ip->i_nlookup, 0);
	gfs2_inode_forget_node(a, node, 1);
	same = gfs2_inode_by_node(a, node);
	assert_ptr_equal(same, ip);
	assert_int_equal(node_of(ip), node);
	assert_int_equal(ip->i_nlookup, 1);
	assert_int_equal(remnants(a), 0);
	gfs2_inode_put(same);
	gfs2_inode_put(ip);

	replace("f", node);
	OK(gfs2_inode_lookup(a, gfs2_node_addr(node), 0, &ip));
	assert_null(gfs2_inode_by_node(a, node));
	new = node_of(ip);
	assert_true(new != node && gfs2_node_addr(new) == ip->i_no_addr);
	same = gfs2_inode_by_node(a, new);
	assert_ptr_equal(same, ip);
	gfs2_inode_put(same);
	assert_int_equal(ip->i_nlookup, 0);
	gfs2_inode_put(ip);
	/* Never looked up, or no more. */
	assert_null(gfs2_inode_by_node(a, new));
	gfs2_inode_forget_node(a, node, 1);
	assert_null(gfs2_inode_by_node(a, node));
	assert_int_equal(remnants(a), 0);
	nodes_down();
}

/* Reduced while somebody had it: lookups in two places, which are one. */
static void test_joined(void **state)
{
	struct gfs2_inode *ip, *held;
	struct gfs2_holder gh;
	uint64_t node;
	struct stat st;

	nodes_up();
	for (unsigned turn = 0; turn < 3; turn++) {
		gfs2_inode_put(make(a, "f"));
		node = look_up(a, "f");
		assert_int_equal(look_up(a, "f"), node);
		assert_true(gfs2_inode_let_go(a, gfs2_node_addr(node)));
		OK(gfs2_inode_lookup(a, gfs2_node_addr(node), 0, &held));
		OK(gfs2_glock_nq_init(held->i_gl, LM_ST_SHARED, 0, &gh));
		gfs2_glock_dq_uninit(&gh);
		assert_int_equal(remnants(a), 1);
		switch (turn) {
		case 0:
			/* By name. */
			OK(gfs2_lookup(a->sd_root, "f", &ip, &st));
			assert_ptr_equal(ip, held);
			gfs2_inode_put(ip);
			break;
		case 1:
			gfs2_inode_lookup_inc(held);
			gfs2_inode_forget(held, 1);
			break;
		default:
			/* Not at all: it is forgotten first. */
			gfs2_inode_forget_node(a, node, 1);
			assert_int_equal(held->i_nlookup, 0);
			gfs2_inode_forget_node(a, node, 1);
			assert_int_equal(held->i_refs, 1);
		}
		assert_int_equal(remnants(a), 0);
		assert_int_equal(held->i_nlookup, turn == 2 ? 0 : 2);
		OK(gfs2_unlink(a->sd_root, "f"));
		gfs2_inode_put(held);
		if (turn != 2) {
			assert_int_equal(gfs2_get_block_type(a, gfs2_node_addr(node)), GFS2_BLKST_UNLINKED_);
			gfs2_inode_forget_node(a, node, 2);
		}
		await_free(a, gfs2_node_addr(node));
	}
	nodes_down();
}

/* The formal number of the next inode that is made, wherever. */
static void number_next(struct gfs2_sbd *sdp, uint64_t formal)
{
	for (unsigned i = 0; i < sdp->sd_rgrps->nr; i++) {
		/* The lock stays here: what is in core counts, and is written with the next change. */
		struct gfs2_rgrpd *rgd = &sdp->sd_rgrps->rg[i];
		struct gfs2_holder gh;

		OK(gfs2_glock_nq_init(rgd->rd_gl, LM_ST_EXCLUSIVE, 0, &gh));
		rgd->rd_igeneration = formal;
		gfs2_glock_dq_uninit(&gh);
	}
}

/* 65536 inodes later in the same block: the kernel's two are one, and nothing is left over. */
static void test_same_tag(void **state)
{
	struct gfs2_inode *ip;
	struct stat st;
	uint64_t node, formal;

	nodes_up();
	gfs2_inode_put(make(a, "f"));
	node = look_up(a, "f");
	OK(gfs2_lookup(b->sd_root, "f", &ip, &st));
	formal = ip->i_no_formal_ino;
	gfs2_inode_put(ip);
	OK(gfs2_unlink(b->sd_root, "f"));
	await_free(b, gfs2_node_addr(node));
	for (unsigned i = 0;; i++) {
		char name[32];

		snprintf(name, sizeof(name), "f%u", i);
		number_next(b, formal + 65536);
		aim(b, gfs2_node_addr(node));
		ip = make(b, name);
		if (ip->i_no_addr == gfs2_node_addr(node)) {
			OK(gfs2_rename(b->sd_root, name, b->sd_root, "f", 0));
			break;
		}
		gfs2_inode_put(ip);
		assert_true(i < 1000);
	}
	assert_int_equal(ip->i_no_formal_ino, formal + 65536);
	assert_int_equal(node_of(ip), node);
	gfs2_inode_put(ip);
	assert_int_equal(remnants(a), 1);
	assert_null(gfs2_inode_by_node(a, node));
	assert_int_equal(look_up(a, "f"), node);
	assert_int_equal(remnants(a), 0);
	ip = gfs2_inode_by_node(a, node);
	assert_int_equal(ip->i_nlookup, 2);
	gfs2_inode_put(ip);
	OK(gfs2_unlink(a->sd_root, "f"));
	gfs2_inode_forget_node(a, node, 1);
	gfs2_inode_forget_node(a, node, 1);
	await_free(a, gfs2_node_addr(node));
	nodes_down();
}

/* --- at once --- */

#define RACE_NODES 64
#define RACE_ROUNDS SCALE(120)

static atomic_bool race_over;

struct racer {
	pthread_t thread;
	unsigned nr;
	atomic_uint found;
};

/* Looks up what is there, asks for it and for those before, forgets some. */
static void *race_thread(void *arg)
{
	struct { uint64_t node, formal; } known[RACE_NODES];
	struct racer *r = arg;
	unsigned seed = r->nr, nr = 0;

	current_ctx()->req = 2000 + r->nr;
	while (!atomic_load(&race_over)) {
		struct gfs2_inode *ip;
		struct stat st;
		int error = gfs2_lookup(a->sd_root, "f", &ip, &st);

		if (!error) {
			if (nr == RACE_NODES)
				gfs2_inode_forget_node(a, known[--nr].node, 1);
			known[nr].formal = ip->i_no_formal_ino;
			gfs2_inode_lookup_inc(ip);
			known[nr++].node = node_of(ip);
			gfs2_inode_put(ip);
		} else {
			/* Not -ESTALE: the name has meant something else since, or nothing. */
			GFS2_BUG_ON(error != -ENOENT);
		}
		for (unsigned i = 0; i < 3 && nr; i++) {
			unsigned which = rand_r(&seed) % nr;

			ip = gfs2_inode_by_node(a, known[which].node);
			if (ip) {
				GFS2_BUG_ON(ip->i_no_formal_ino != known[which].formal);
				atomic_fetch_add(&r->found, 1);
				gfs2_inode_put(ip);
			}
		}
		if (nr && rand_r(&seed) % 4 == 0) {
			unsigned which = rand_r(&seed) % nr;

			gfs2_inode_forget_node(a, known[which].node, 1);
			known[which] = known[--nr];
		}
	}
	while (nr)
		gfs2_inode_forget_node(a, known[--nr].node, 1);
	return NULL;
}

static void test_races(void **state)
{
	struct racer racers[2];
	unsigned same = 0;
	uint64_t last = 0;

	nodes_up();
	atomic_store(&race_over, false);
	for (unsigned i = 0; i < ARRAY_SIZE(racers); i++) {
		racers[i].nr = i;
		atomic_init(&racers[i].found, 0);
		OK(pthread_create(&racers[i].thread, NULL, race_thread, &racers[i]));
	}
	/* Until a block has been used twice in a row, and both have found something: before, nothing has been tried. */
	for (unsigned i = 0; i < RACE_ROUNDS || !same || !atomic_load(&racers[0].found) || !atomic_load(&racers[1].found); i++) {
		/* By turns it is the racers' own node that makes it. */
		struct gfs2_inode *ip = make(i % 4 ? b : a, "f");

		same += ip->i_no_addr == last;
		last = ip->i_no_addr;
		gfs2_inode_put(ip);
		if (i % 2)
			usleep(2000);
		OK(gfs2_unlink((i / 4 % 2 ? a : b)->sd_root, "f"));
	}
	atomic_store(&race_over, true);
	for (unsigned i = 0; i < ARRAY_SIZE(racers); i++)
		pthread_join(racers[i].thread, NULL);
	assert_int_equal(remnants(a), 0);
	nodes_down();
}

static void *rename_thread(void *arg)
{
	atomic_uint *moved = arg;

	current_ctx()->req = 2000;
	while (!atomic_load(&race_over)) {
		int error = gfs2_rename(a->sd_root, "f", a->sd_root, "g", 0);

		GFS2_BUG_ON(error && error != -ENOENT);
		atomic_fetch_add(moved, !error);
	}
	return NULL;
}

/* What is found is gone before it can be moved, or what is in its place is. */
static void test_rename_races(void **state)
{
	atomic_uint moved = 0;
	unsigned here = 0;
	pthread_t thread;

	nodes_up();
	atomic_store(&race_over, false);
	OK(pthread_create(&thread, NULL, rename_thread, &moved));
	for (unsigned i = 0; i < 3 * RACE_ROUNDS || here < 10; i++) {
		unsigned before = atomic_load(&moved);

		gfs2_inode_put(make(b, "f"));
		/* He asks for the lock twice, so with a slow device it is hardly ever there for him the second time, too. */
		if (i % 16 == 0) {
			while (atomic_load(&moved) == before)
				usleep(100);
		} else if (i % 3 == 0) {
			usleep(3000);
		}
		for (unsigned k = 0; k < 2; k++) {
			int error = gfs2_unlink(b->sd_root, k ? "g" : "f");

			assert_true(!error || error == -ENOENT);
			here += !k && !error;
		}
	}
	atomic_store(&race_over, true);
	pthread_join(thread, NULL);
	gfs2_unlink(b->sd_root, "g");
	nodes_down();
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_node_ids),
		cmocka_unit_test(test_replaced),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_by_block),
		cmocka_unit_test(test_joined),
		cmocka_unit_test(test_same_tag),
		cmocka_unit_test(test_races),
		cmocka_unit_test(test_rename_races),
	};

	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--lock-broker"))
		return lock_broker_main(argv[2]);
	if (geteuid() && !getenv("XDG_RUNTIME_DIR")) {
		fprintf(stderr, "SKIP: the lock broker needs a directory for its socket: root's, or XDG_RUNTIME_DIR\n");
		return 77;
	}
	lb_broker_program = "/proc/self/exe";
	/* A hand-over is two flushes: what races here is not to depend on how long a disk takes for them. */
	return vol_main_in("/dev/shm", run);
}
