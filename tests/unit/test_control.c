/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket on a mounted volume, spoken to by hand and through glockctl.
 */
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "vol.h"
#include "debug/control.h"
#include "debug/event.h"
#include "fs/file.h"
#include "fs/namei.h"
#include "gfs2-fuse/control.h"
#include "util/ctx.h"

/*
 * A dump shows objects as they are, without their glocks (as the kernel's does): it would wait for
 * the very holders it is asked about.  What it prints of a busy object may be half of an update.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:inode_go_dump\nrace:rgrp_go_dump\nrace:snap_holder\n";
}

static struct io_engine *engine;
static struct gfs2_sbd *sdp;
static struct gfs2_control *ctl;
static char sock_path[128];

static void up(void)
{
	vol_make(4096, 64, 1, "-t cluster:vol");
	engine = vol_open(false);
	assert_int_equal(gfs2_mount(engine, &vol_args, &sdp), 0);
	snprintf(sock_path, sizeof(sock_path), "%s/sock", vol_dir);
	assert_int_equal(gfs2_control_start(sdp, vol_dir, "/dev/\xff\"x", sock_path, &ctl), 0);
}

static void down(void)
{
	gfs2_control_stop(ctl);
	assert_int_equal(access(sock_path, F_OK), -1);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(engine);
	vol_fsck();
}

/* --- a client --- */

static FILE *dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FILE *f;

	strcpy(addr.sun_path, sock_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	f = fdopen(fd, "r+");
	assert_non_null(f);
	return f;
}

/* The next line without its end; false at the end of the connection. */
static bool line(FILE *f, char *buf, size_t size)
{
	if (!fgets(buf, (int)size, f))
		return false;
	buf[strcspn(buf, "\n")] = 0;
	return true;
}

static FILE *client(void)
{
	FILE *f = dial();
	char buf[1024];

	assert_true(line(f, buf, sizeof(buf)));
	assert_int_equal(strncmp(buf, "gfs2-fuse-control 1 {", 21), 0);
	return f;
}

/*
 * Send @request; all output in @out (NULL: not wanted); the last line is returned (the thread's
 * own).
 */
static const char *ask(FILE *f, char *out, size_t size, const char *request)
{
	static _Thread_local char buf[GFS2_CTL_MAX_LINE];
	size_t n = 0;

	fseek(f, 0, SEEK_CUR);
	fprintf(f, "%s\n", request);
	fflush(f);
	fseek(f, 0, SEEK_CUR);
	if (out)
		out[0] = 0;
	while (line(f, buf, sizeof(buf))) {
		if (buf[0] != ' ')
			return buf;
		if (out && n < size)
			n += snprintf(out + n, size - n, "%s\n", buf + 1);
	}
	return NULL;
}

static void assert_status(FILE *f, const char *request, const char *start)
{
	const char *s = ask(f, NULL, 0, request);

	if (!s || strncmp(s, start, strlen(start)))
		fail_msg("%s: %s, expected %s", request, s ? s : "closed", start);
}

/* --- tests --- */

static void test_greeting(void **state)
{
	char buf[2048];
	struct stat st;
	FILE *f;

	up();
	assert_int_equal(stat(sock_path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	f = dial();
	assert_true(line(f, buf, sizeof(buf)));
	assert_non_null(strstr(buf, "\"device\":\"/dev/\\udcff\\\"x\""));
	assert_non_null(strstr(buf, "\"locktable\":\"cluster:vol\""));
	assert_non_null(strstr(buf, "\"lockproto\":\"lock_nolock\""));
	assert_non_null(strstr(buf, "\"node\":0"));
	fclose(f);
	down();
}

static void test_bad_input(void **state)
{
	char big[GFS2_CTL_MAX_LINE + 100];
	FILE *f;

	up();
	f = client();
	assert_status(f, "", "usage ");
	assert_status(f, "   ", "usage ");
	assert_status(f, "nonsense", "usage ");
	assert_status(f, "dump %", "usage ");
	assert_status(f, "dump %00", "usage ");
	assert_status(f, "dump %zz", "usage ");
	assert_status(f, "dump 2", "usage ");
	assert_status(f, "dump 2/", "usage ");
	assert_status(f, "dump 2/xyz", "usage ");
	assert_status(f, "dump 0/1", "usage ");
	assert_status(f, "dump 77777777777777777777/1", "usage ");
	assert_status(f, "dump inode:-1", "usage ");
	assert_status(f, "dump inode:99999999999999999999999", "usage ");
	assert_status(f, "dump 2/ffffffff", "error ENOENT ");
	assert_status(f, "map", "usage ");
	assert_status(f, "map 3/11", "error EINVAL ");
	assert_status(f, "map inode:1", "error ENOENT ");
	assert_status(f, "map inode:999999999999", "error ENOENT ");
	assert_status(f, "demote 2/1", "usage ");
	assert_status(f, "demote 2/1 EX", "usage ");
	assert_status(f, "demote 2/1 ZZ", "usage ");
	assert_status(f, "demote 2/1 UN 1000000", "usage ");
	assert_status(f, "trace -n 0", "usage ");
	assert_status(f, "trace -n", "usage ");
	assert_status(f, "trace -t nan", "usage ");
	assert_status(f, "trace -e nothing", "usage ");
	assert_status(f, "trace bogus", "usage ");
	assert_status(f, "get nothing", "error ENOENT ");
	assert_status(f, "set", "usage ");
	assert_status(f, "set short_dio maybe", "error EINVAL ");
	assert_status(f, "set commit 0", "error EINVAL ");
	assert_status(f, "set commit -5", "error EINVAL ");
	assert_status(f, "set cache 12x", "error EINVAL ");
	assert_status(f, "set cache 99999999999t", "error EINVAL ");
	assert_status(f, "set fault bogus=1", "error EINVAL ");
	assert_status(f, "set stats 1", "error EACCES ");
	assert_status(f, "break", "usage ");
	assert_status(f, "break 2/1", "usage ");
	assert_status(f, "break 2/1 EX", "usage ");
	assert_status(f, "break 2/1 EX->", "usage ");
	assert_status(f, "break 2/1 EX->XX", "usage ");
	assert_status(f, "break nothing *->*", "usage ");
	assert_status(f, "break -c 0 any *->*", "usage ");
	assert_status(f, "break -p -1 any *->*", "usage ");
	assert_status(f, "break -t 1e9 any *->*", "usage ");
	assert_status(f, "break -t", "usage ");
	assert_status(f, "break dio nowhere", "usage ");
	assert_status(f, "break dlm ast 2/1 EX->UN", "usage ");
	assert_status(f, "delete", "usage ");
	assert_status(f, "delete 1", "error ENOENT ");
	assert_status(f, "delete all", "ok");
	assert_status(f, "continue", "ok");
	assert_status(f, "continue 7", "error ENOENT ");
	assert_status(f, "continue x", "usage ");
	assert_status(f, "step", "error ENOENT ");
	assert_status(f, "step 99999999999", "usage ");
	assert_status(f, "wait", "error ENOENT ");
	assert_status(f, "wait -3", "usage ");
	assert_status(f, "timeout 0", "usage ");
	assert_status(f, "timeout 3601", "usage ");
	assert_status(f, "notify", "usage ");
	assert_status(f, "hold 2/ffffffff EX", "error ENOENT ");
	assert_status(f, "hold 2/1 UN", "usage ");
	assert_status(f, "release 2/1", "error ENOENT ");
	assert_status(f, "stats 2/ffffffff", "error ENOENT ");
	assert_status(f, "help", "ok");
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = 0;
	ask(f, NULL, 0, big);	/* an error line or, if the rest could not be sent, the end */
	fclose(f);
	f = client();
	memset(big, 0, 100);
	fwrite(big, 1, 100, f);
	assert_status(f, "", "usage ");
	fclose(f);
	f = client();
	assert_status(f, "help", "ok");
	fclose(f);
	down();
}

static void test_tunables(void **state)
{
	char out[8192];
	FILE *f;

	up();
	f = client();
	assert_string_equal(ask(f, out, sizeof(out), "get short_dio"), "ok");
	assert_string_equal(out, "drain\n");
	assert_status(f, "set short_dio precheck", "ok");
	assert_int_equal(atomic_load(&sdp->sd_short_dio), SHORT_DIO_PRECHECK);
	ask(f, out, sizeof(out), "get short_dio");
	assert_string_equal(out, "precheck\n");
	assert_status(f, "set dio_mtime strict", "ok");
	assert_int_equal(atomic_load(&sdp->sd_dio_mtime), DIO_MTIME_STRICT);
	assert_status(f, "set dio_mtime_interval 7", "ok");
	assert_int_equal(atomic_load(&sdp->sd_dio_mtime_interval), 7);
	assert_status(f, "set commit 11", "ok");
	assert_int_equal(atomic_load(&sdp->sd_commit), 11);
	assert_status(f, "set cache 16m", "ok");
	ask(f, out, sizeof(out), "get cache");
	assert_string_equal(out, "16777216\n");
	assert_status(f, "set fault op=write,cls=dio,error=5", "ok");
	assert_status(f, "set fault op=read,cls=dio,delay_us=5", "ok");
	ask(f, out, sizeof(out), "get fault");
	assert_string_equal(out, "op=write,cls=dio,error=5 op=read,cls=dio,delay_us=5\n");
	assert_status(f, "set fault none", "ok");
	ask(f, out, sizeof(out), "get --json fault");
	assert_string_equal(out, "{\"fault\":\"none\"}\n");
	assert_string_equal(ask(f, out, sizeof(out), "get"), "ok");
	assert_non_null(strstr(out, "\ncommit 11\n"));
	assert_non_null(strstr(out, "\nstats.io_reads "));
	assert_string_equal(ask(f, out, sizeof(out), "get --json"), "ok");
	assert_non_null(strstr(out, "\"commit\":11,"));
	assert_non_null(strstr(out, "\"stats\":{\"io_reads\":"));
	fclose(f);
	down();
}

static struct gfs2_inode *make_file(void)
{
	struct gfs2_create_args a = { .mode = S_IFREG | 0644, .excl = true };
	static char data[8 * 4096];
	struct gfs2_holder gh;
	struct gfs2_inode *ip;
	struct stat st;

	assert_int_equal(gfs2_create(sdp->sd_root, "file", &a, &ip, &st), 0);
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	assert_int_equal(gfs2_file_write(ip, data, 0, sizeof(data), false), sizeof(data));
	assert_int_equal(gfs2_file_write(ip, data, 100 * 4096, 4096, false), 4096);
	gfs2_glock_dq_uninit(&gh);
	return ip;
}

static void test_map(void **state)
{
	struct gfs2_inode *ip;
	char out[4096], ask_for[64], want[256], *mem;
	FILE *f;

	up();
	ip = make_file();
	f = client();
	snprintf(ask_for, sizeof(ask_for), "map inode:%llu", (unsigned long long)ip->i_no_addr);
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	snprintf(want, sizeof(want), "inode %llu formal %llu size %u blocks %llu height 1",
		 (unsigned long long)ip->i_no_addr, (unsigned long long)ip->i_no_formal_ino,
		 101 * 4096, (unsigned long long)ip->i_blocks);
	assert_int_equal(strncmp(out, want, strlen(want)), 0);
	assert_non_null(strstr(out, "\ndisk   0+8 -> "));
	assert_non_null(strstr(out, "\ndisk   8+92 hole\n"));
	assert_non_null(strstr(out, "\ndisk   100+1 -> "));
	/* What was just written is known in memory too, and in the same place. */
	mem = strstr(out, "\nmemory 0+8 -> ");
	assert_non_null(mem);
	assert_int_equal(atoll(mem + 15), atoll(strstr(out, "\ndisk   0+8 -> ") + 15));
	snprintf(ask_for, sizeof(ask_for), "map --json 2/%llx", (unsigned long long)ip->i_no_addr);
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	assert_non_null(strstr(out, "{\"map\":\"disk\",\"lblock\":8,\"len\":92,\"pblock\":0}\n"));
	/* a block that is no inode */
	snprintf(ask_for, sizeof(ask_for), "map inode:%llu", (unsigned long long)ip->i_no_addr + 3);
	assert_status(f, ask_for, "error ENOENT ");
	gfs2_inode_put(ip);
	fclose(f);
	assert_false(gfs2_withdrawn(sdp));
	down();
}

static void test_demote_dump(void **state)
{
	char out[65536], name[64], ask_for[128];
	struct gfs2_inode *ip;
	struct gfs2_holder gh;
	FILE *f;

	up();
	ip = make_file();
	f = client();
	snprintf(name, sizeof(name), "2/%llx", (unsigned long long)ip->i_no_addr);
	snprintf(ask_for, sizeof(ask_for), "dump %s", name);
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	assert_int_equal(strncmp(out, "G:  s:EX n:2/", 13), 0);
	assert_non_null(strstr(out, "\n I: n:"));

	snprintf(ask_for, sizeof(ask_for), "demote %s SH", name);
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	assert_non_null(strstr(out, " EX -> SH\n"));
	snprintf(ask_for, sizeof(ask_for), "demote %s UN", name);
	assert_status(f, ask_for, "ok");
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	assert_non_null(strstr(out, " UN already UN\n"));
	assert_status(f, "demote 2/fffff UN", "error ENOENT ");

	/* in use: refused, and done as soon as it is let go */
	assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	snprintf(ask_for, sizeof(ask_for), "demote %s UN 0", name);
	assert_int_equal(strncmp(ask(f, out, sizeof(out), ask_for), "error EBUSY ", 12), 0);
	assert_non_null(strstr(out, "test_demote_dump"));
	gfs2_glock_dq_uninit(&gh);
	assert_true(gfs2_glock_wait_demoted(ip->i_gl, 60000000000ull));
	snprintf(ask_for, sizeof(ask_for), "dump %s", name);
	ask(f, out, sizeof(out), ask_for);
	assert_int_equal(strncmp(out, "G:  s:UN n:2/", 13), 0);
	assert_string_equal(ask(f, out, sizeof(out), "dump"), "ok");
	assert_non_null(strstr(out, "\nG:  s:EX n:9/0 "));
	/* The resource group that a block is in, and one that is in none. */
	snprintf(ask_for, sizeof(ask_for), "dump rgrp:%llu", (unsigned long long)sdp->sd_root->i_no_addr);
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	assert_non_null(strstr(out, " n:3/"));
	assert_null(strstr(out + 1, "G:"));
	assert_status(f, "dump rgrp:1", "error ENOENT ");
	assert_status(f, "dump rgrp:99999999999", "error ENOENT ");
	assert_status(f, "dump rgrp:-1", "usage ");
	gfs2_inode_put(ip);
	fclose(f);
	down();
}

static void test_trace(void **state)
{
	char out[65536], buf[1024], ask_for[128];
	struct gfs2_inode *ip;
	FILE *f, *g;

	up();
	ip = make_file();
	f = client();
	/* what has happened: all of it, then the end */
	snprintf(ask_for, sizeof(ask_for), "trace -s 0 -t 0 -g inode:%llu -e glock_promote,glock_state",
		 (unsigned long long)ip->i_no_addr);
	assert_string_equal(ask(f, out, sizeof(out), ask_for), "ok");
	assert_non_null(strstr(out, "{\"event\":\"glock_"));
	assert_null(strstr(out, "glock_queue"));
	assert_string_equal(ask(f, out, sizeof(out), "trace -s 0 -n 3 --text"), "ok");
	/* live: a second client causes what the first one waits for */
	g = client();
	snprintf(ask_for, sizeof(ask_for), "trace -n 1 -e glock_demote_rq -g 2/%llx\n",
		 (unsigned long long)ip->i_no_addr);
	fputs(ask_for, f);
	fflush(f);
	do {
		struct gfs2_holder gh;

		assert_int_equal(gfs2_glock_nq_init(ip->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
		gfs2_glock_dq_uninit(&gh);
		snprintf(buf, sizeof(buf), "demote 2/%llx UN", (unsigned long long)ip->i_no_addr);
		assert_status(g, buf, "ok");
	} while (poll(&(struct pollfd){ .fd = fileno(f), .events = POLLIN }, 1, 10) == 0);
	fseek(f, 0, SEEK_CUR);
	assert_true(line(f, buf, sizeof(buf)));
	assert_non_null(strstr(buf, "\"event\":\"glock_demote_rq\""));
	assert_true(line(f, buf, sizeof(buf)));
	assert_string_equal(buf, "ok");
	/* endless, and the client goes away: the server must not keep it */
	fputs("trace\n", g);
	fflush(g);
	fclose(g);
	/* endless while the mount ends */
	fputs("trace\n", f);
	fflush(f);
	gfs2_inode_put(ip);
	down();
	fclose(f);
}

/* A client that asks and never reads stops nobody, nor the end of the mount. */
/* The root directory's lock is to be had in EX. */
static void *take_root(void *arg)
{
	struct gfs2_holder gh;

	/* A request's, as the stops show it. */
	current_ctx()->req = 77;
	current_ctx()->pid = getpid();
	assert_int_equal(gfs2_glock_nq_init(sdp->sd_root->i_gl, LM_ST_EXCLUSIVE, 0, &gh), 0);
	gfs2_glock_dq_uninit(&gh);
	return NULL;
}

static void test_breakpoints(void **state)
{
	char out[4096], glock[32], request[200], buf[1024];
	pthread_t thread;
	FILE *f, *f2;

	up();
	f = client();
	f2 = client();
	snprintf(glock, sizeof(glock), "inode:%llu", (unsigned long long)sdp->sd_root->i_no_addr);
	snprintf(request, sizeof(request), "break -p %d %s *->EX", (int)getpid(), glock);
	ask(f, out, sizeof(out), request);
	assert_string_equal(out, "break 1\n");
	ask(f, out, sizeof(out), "breaks --json");
	assert_non_null(strstr(out, "\"at\":\"transition *->EX\""));
	/* Each connection has its own. */
	ask(f2, out, sizeof(out), "breaks");
	assert_string_equal(out, "");
	assert_status(f2, "delete 1", "error ENOENT ");

	assert_int_equal(pthread_create(&thread, NULL, take_root, NULL), 0);
	assert_string_equal(ask(f, out, sizeof(out), "wait --json 60"), "ok");
	assert_non_null(strstr(out, "\"stop\":1,\"break\":1,\"at\":\"transition\""));
	assert_non_null(strstr(out, "\"to\":\"EX\",\"req\":77,"));
	assert_status(f2, "continue 1", "error ENOENT ");
	ask(f, out, sizeof(out), "stops");
	assert_non_null(strstr(out, "promotion for pid"));
	snprintf(request, sizeof(request), "dump %s", glock);
	ask(f2, out, sizeof(out), request);
	assert_non_null(strstr(out, "f:W"));
	/* Wait for something that is not there. */
	assert_status(f, "wait 0.01", "error ETIMEDOUT ");
	assert_status(f, "step", "ok");
	pthread_join(thread, NULL);

	/* The next transition of that lock, told without being asked. */
	assert_status(f, "notify on", "ok");
	snprintf(request, sizeof(request), "hold %s EX 60\n", glock);
	fseek(f2, 0, SEEK_CUR);
	fputs(request, f2);
	fflush(f2);
	assert_true(line(f, buf, sizeof(buf)));
	assert_int_equal(strncmp(buf, "* {\"stop\":2,", 12), 0);
	assert_non_null(strstr(buf, "\"why\":\"demotion\""));
	assert_status(f, "continue 2", "ok");
	fseek(f2, 0, SEEK_CUR);
	assert_true(line(f2, buf, sizeof(buf)));
	assert_non_null(strstr(buf, "held EX"));
	assert_true(line(f2, buf, sizeof(buf)));
	assert_string_equal(buf, "ok");
	ask(f2, out, sizeof(out), "holds --json");
	assert_non_null(strstr(out, "\"state\":\"EX\""));
	snprintf(request, sizeof(request), "hold %s EX", glock);
	assert_status(f, request, "error EBUSY ");

	/* Who plays the other node goes away, then who has stopped it: each lets go. */
	assert_int_equal(pthread_create(&thread, NULL, take_root, NULL), 0);
	fclose(f2);
	assert_true(line(f, buf, sizeof(buf)));
	assert_int_equal(strncmp(buf, "* {\"stop\":3,", 12), 0);
	fclose(f);
	pthread_join(thread, NULL);
	down();
}

/* What keeps a lock from being held is the client's own stop: told at once, and held when that has gone on. */
static void test_hold_own_stop(void **state)
{
	char out[4096], glock[32], request[100];
	pthread_t thread;
	FILE *f;

	up();
	take_root(NULL);
	f = client();
	snprintf(glock, sizeof(glock), "inode:%llu", (unsigned long long)sdp->sd_root->i_no_addr);
	snprintf(request, sizeof(request), "break -1 %s EX->*", glock);
	assert_status(f, request, "ok");
	snprintf(request, sizeof(request), "hold %s EX 600", glock);
	assert_string_equal(ask(f, out, sizeof(out), request), "ok");
	assert_non_null(strstr(out, " asked for in EX: held once stop 1 has gone on"));
	assert_string_equal(ask(f, out, sizeof(out), "wait 0.01"), "ok");
	assert_non_null(strstr(out, "stop 1 (break 1): transition"));
	assert_status(f, "continue 1", "ok");
	snprintf(request, sizeof(request), "dump %s", glock);
	do
		ask(f, out, sizeof(out), request);
	while (!strstr(out, "s:UN"));
	/* It is kept: who wants it now waits. */
	assert_int_equal(pthread_create(&thread, NULL, take_root, NULL), 0);
	do
		ask(f, out, sizeof(out), request);
	while (!strstr(out, "f:W"));
	snprintf(request, sizeof(request), "release %s", glock);
	assert_status(f, request, "ok");
	pthread_join(thread, NULL);
	fclose(f);
	down();
}

/* Everybody is still connected, and holds things, when the mount comes to its end. */
static void test_held_at_unmount(void **state)
{
	char request[100];
	pthread_t thread;
	FILE *f;

	up();
	f = client();
	snprintf(request, sizeof(request), "break inode:%llu *->*", (unsigned long long)sdp->sd_root->i_no_addr);
	assert_status(f, request, "ok");
	assert_int_equal(pthread_create(&thread, NULL, take_root, NULL), 0);
	assert_status(f, "wait", "ok");
	gfs2_control_stop(ctl);
	pthread_join(thread, NULL);
	assert_int_equal(gfs2_unmount(sdp), 0);
	io_engine_close(engine);
	vol_fsck();
	fclose(f);
}

static void test_slow_client(void **state)
{
	FILE *slow, *f;
	int flags;

	up();
	slow = client();
	flags = fcntl(fileno(slow), F_GETFL);
	fcntl(fileno(slow), F_SETFL, flags | O_NONBLOCK);
	for (int i = 0; i < 100000 && send(fileno(slow), "dump\n", 5, 0) == 5; i++)
		;
	for (int i = 0; i < 20; i++) {
		struct gfs2_inode *ip = make_file();

		gfs2_inode_put(ip);
		assert_int_equal(gfs2_unlink(sdp->sd_root, "file"), 0);
		f = client();
		assert_status(f, "dump", "ok");
		fclose(f);
	}
	down();
	fclose(slow);
}

static void *busy_client(void *arg)
{
	for (int i = 0; i < 30; i++) {
		FILE *f = client();

		assert_string_equal(ask(f, NULL, 0, i % 2 ? "dump" : "get --json"), "ok");
		fclose(f);
	}
	return NULL;
}

static void test_many_clients(void **state)
{
	pthread_t t[8];
	FILE *f[40];
	int refused = 0;
	char buf[1024], wanted[100];

	up();
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, busy_client, NULL), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	/* Who has hung up has his place until his thread has seen it: with none of them. */
	gfs2_control_stop(ctl);
	assert_int_equal(gfs2_control_start(sdp, vol_dir, "/dev/\xff\"x", sock_path, &ctl), 0);
	/* More than are served at once: told so, the others live. */
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++) {
		f[i] = dial();
		assert_true(line(f[i], buf, sizeof(buf)));
		refused += !strncmp(buf, "error EBUSY ", 12);
	}
	/* Who comes last is told who is there; some before may still have a look, and end one: that is room for another one. */
	assert_int_equal(refused, 4);
	snprintf(wanted, sizeof(wanted), "places for clients are taken, 32 of pid %d [", (int)getpid());
	assert_non_null(strstr(buf, wanted));
	assert_status(f[0], "help", "ok");
	for (unsigned i = 32; i < 36; i++) {
		const char *why = ask(f[i], NULL, 0, "dump");

		assert_non_null(why);
		assert_non_null(strstr(why, wanted));
		assert_non_null(strstr(why, "`disconnect PID`"));
		assert_status(f[i], "breaks all", "ok");
	}
	fclose(f[0]);
	/* It has gone when its thread has, which who comes next waits for. */
	for (uint64_t deadline = now_ns() + 60000000000u; now_ns() < deadline; poll(NULL, 0, 10)) {
		f[0] = dial();
		assert_true(line(f[0], buf, sizeof(buf)));
		if (strncmp(buf, "error ", 6) && !strcmp(ask(f[0], NULL, 0, "dump"), "ok"))
			break;
		fclose(f[0]);
	}
	assert_status(f[0], "dump", "ok");
	/* Nobody stays on a spare place. */
	assert_false(line(f[35], buf, sizeof(buf)));
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		fclose(f[i]);
	down();
}

static atomic_bool never_quiet;

unsigned __real_gfs2_event_read(uint64_t *seq, struct gfs2_event *out, unsigned nr);
unsigned __wrap_gfs2_event_read(uint64_t *seq, struct gfs2_event *out, unsigned nr);

/* While never_quiet, whoever reads finds something, however fast he is. */
unsigned __wrap_gfs2_event_read(uint64_t *seq, struct gfs2_event *out, unsigned nr)
{
	unsigned n = __real_gfs2_event_read(seq, out, nr);

	while (!n && atomic_load(&never_quiet)) {
		ev_dio(EV_DIO_SUBMIT, 1, 0, 4096, 0, NULL);
		n = __real_gfs2_event_read(seq, out, nr);
	}
	return n;
}

/* Who traces what does not happen, while there is no moment in which nothing else does, and goes away, is not kept. */
static void test_unheard_trace(void **state)
{
	FILE *f[32], *g;
	bool room = false;

	up();
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		f[i] = client();
	g = client();
	assert_status(g, "dump", "error EBUSY ");
	fclose(g);
	atomic_store(&never_quiet, true);
	fputs("trace -g 9/1\n", f[0]);
	fclose(f[0]);
	/* There is room again only when it has ended. */
	for (uint64_t deadline = now_ns() + 60000000000u; !room && now_ns() < deadline; poll(NULL, 0, 10)) {
		char buf[1024];

		g = dial();
		assert_true(line(g, buf, sizeof(buf)));
		room = strncmp(buf, "error ", 6) && !strcmp(ask(g, NULL, 0, "dump"), "ok");
		fclose(g);
	}
	atomic_store(&never_quiet, false);
	assert_true(room);
	for (unsigned i = 1; i < ARRAY_SIZE(f); i++)
		fclose(f[i]);
	down();
}

static void test_socket_file(void **state)
{
	struct gfs2_control *other;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char path[150], longer[200];
	struct stat st;
	int fd;

	up();
	assert_int_equal(gfs2_control_start(sdp, vol_dir, "d", sock_path, &other), -EADDRINUSE);
	assert_int_equal(access(sock_path, F_OK), 0);
	/* left behind by a daemon that was killed */
	snprintf(path, sizeof(path), "%s/stale", vol_dir);
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(gfs2_control_start(sdp, vol_dir, "d", path, &other), 0);
	assert_string_equal(gfs2_control_path(other), path);
	/* replaced under our feet: not ours to remove */
	assert_int_equal(unlink(path), 0);
	fd = open(path, O_CREAT | O_RDWR, 0600);
	close(fd);
	gfs2_control_stop(other);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(gfs2_control_start(sdp, vol_dir, "d", path, &other), -EEXIST);
	memset(longer, 'l', sizeof(longer));
	longer[0] = '/';
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(gfs2_control_start(sdp, vol_dir, "d", longer, &other), -ENAMETOOLONG);
	down();
}

/* The tool: exit status and a little of its output. */
static void test_glockctl(void **state)
{
	char exe[512], tool[600], c[800];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	struct gfs2_inode *ip;

	assert_true(n > 0);
	exe[n] = 0;
	snprintf(tool, sizeof(tool), "%s/../../tools/glockctl", dirname(exe));
	if (access(tool, X_OK)) {
		fprintf(stderr, "SKIP: glockctl is not built\n");
		skip();
	}
	up();
	ip = make_file();
	snprintf(c, sizeof(c), "%s -s %s", tool, sock_path);
	assert_int_equal(vol_sh("%s get | grep -qx 'short_dio drain'", c), 0);
	assert_int_equal(vol_sh("%s set short_dio fail && test $(%s get short_dio) = fail", c, c), 0);
	assert_int_equal(vol_sh("%s set short_dio x; test $? = 1", c), 0);
	assert_int_equal(vol_sh("%s set short_dio; test $? = 2", c), 0);
	assert_int_equal(vol_sh("%s frobnicate; test $? = 2", c), 0);
	assert_int_equal(vol_sh("%s </dev/null; test $? = 2", c), 0);
	assert_int_equal(vol_sh("%s -z get; test $? = 2", c), 0);
	assert_int_equal(vol_sh("%s -s /nonexistent/x get; test $? = 1", tool), 0);
	assert_int_equal(vol_sh("%s --help && %s map --help", tool, c), 0);
	assert_int_equal(vol_sh("%s map inode:%llu | grep -q '^disk '", c,
				(unsigned long long)ip->i_no_addr), 0);
	assert_int_equal(vol_sh("%s demote inode:%llu UN && %s dump inode:%llu | grep -q 's:UN'", c,
				(unsigned long long)ip->i_no_addr, c,
				(unsigned long long)ip->i_no_addr), 0);
	assert_int_equal(vol_sh("%s demote 2/fffff UN; test $? = 1", c), 0);
	assert_int_equal(vol_sh("%s map %s; test $? = 1", c, vol_path), 0);
	assert_int_equal(vol_sh("%s trace -n 2 -s 0 | grep -c . | grep -qx 2", c), 0);
	assert_int_equal(vol_sh("for x in dump get 'trace -s 0 -n 5' 'map inode:%llu' 'get cache'; do "
				"%s --json $x > %s/json && python3 -c 'import json,sys\n"
				"for l in open(\"%s/json\"): json.loads(l)' || exit 1; done",
				(unsigned long long)ip->i_no_addr, c, vol_dir, vol_dir), 0);
	gfs2_inode_put(ip);
	down();
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greeting),
		cmocka_unit_test(test_bad_input),
		cmocka_unit_test(test_tunables),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_demote_dump),
		cmocka_unit_test(test_trace),
		cmocka_unit_test(test_breakpoints),
		cmocka_unit_test(test_hold_own_stop),
		cmocka_unit_test(test_held_at_unmount),
		cmocka_unit_test(test_slow_client),
		cmocka_unit_test(test_many_clients),
		cmocka_unit_test(test_unheard_trace),
		cmocka_unit_test(test_socket_file),
		cmocka_unit_test(test_glockctl),
	};

	signal(SIGPIPE, SIG_IGN);	/* as the daemon does; a server may close first */
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return vol_main(run);
}
