/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mount options: every name of the contract, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>
#include "options.h"
#include "util/util.h"

static int parse(struct options *o, const char *opts)
{
	char prog[] = "gfs2-fuse", flag[] = "-o", dev[] = "image", dir[] = "mnt", copy[512];
	char *argv[] = { prog, flag, copy, dev, dir, NULL };

	snprintf(copy, sizeof(copy), "%s", opts);
	return options_parse(o, 5, argv);
}

static void accepted(const char *opts)
{
	struct options o;

	assert_int_equal(parse(&o, opts), 0);
	options_free(&o);
}

static void refused(const char *opts)
{
	struct options o;

	assert_int_equal(parse(&o, opts), -EINVAL);
	options_free(&o);
}

static void test_defaults(void **state)
{
	struct options o;

	assert_int_equal(parse(&o, "rw"), 0);
	assert_false(o.args.ar_ro);
	assert_int_equal(o.args.ar_short_dio, SHORT_DIO_DRAIN);
	assert_int_equal(o.args.ar_dio_mtime, DIO_MTIME_DEFERRED);
	assert_int_equal(o.args.ar_dio_mtime_interval, 1);
	assert_int_equal(o.args.ar_commit, 30);
	assert_null(o.args.ar_lockproto);
	assert_true(o.subtype);
	assert_false(o.foreground);
	assert_string_equal(o.device, "image");
	assert_string_equal(o.dir, "mnt");
	options_free(&o);
}

static void test_values(void **state)
{
	struct options o;

	assert_int_equal(parse(&o, "ro,lockproto=lock_dlm,locktable=a:b,short_dio=precheck,"
				   "dio_mtime=strict,dio_mtime_interval=7,cache=64M,commit=5,"
				   "control=/run/x,dio=strict,nosubtype,dev,suid"), 0);
	assert_true(o.args.ar_ro);
	assert_string_equal(o.args.ar_lockproto, "lock_dlm");
	assert_string_equal(o.args.ar_locktable, "a:b");
	assert_int_equal(o.args.ar_short_dio, SHORT_DIO_PRECHECK);
	assert_int_equal(o.args.ar_dio_mtime, DIO_MTIME_STRICT);
	assert_int_equal(o.args.ar_dio_mtime_interval, 7);
	assert_int_equal(o.args.ar_cache, 64u << 20);
	assert_int_equal(o.args.ar_commit, 5);
	assert_string_equal(o.control, "/run/x");
	assert_true(o.args.ar_dio_strict);
	assert_false(o.subtype);
	assert_string_equal(o.fuse_opts, "dev,suid");
	options_free(&o);
	for (unsigned i = 0; i < 5; i++) {
		char text[64];

		snprintf(text, sizeof(text), "short_dio=%s", short_dio_names[i]);
		assert_int_equal(parse(&o, text), 0);
		assert_int_equal(o.args.ar_short_dio, i);
		options_free(&o);
	}
}

static void test_later_wins(void **state)
{
	struct options o;

	assert_int_equal(parse(&o, "ro,rw,acl,noacl,commit=5,commit=6"), 0);
	assert_false(o.args.ar_ro);
	assert_true(o.args.ar_noacl);
	assert_int_equal(o.args.ar_commit, 6);
	options_free(&o);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"nonsense", "acl=1", "ro=1", "commit", "commit=0", "commit=x", "commit=-1", "commit=1x",
		"commit=99999999999999999999", "short_dio=", "short_dio=no", "lockproto=lock_gulm",
		"lockproto", "locktable=", "cache=1", "cache=1Q", "cache=18446744073709551615K",
		"dio_mtime_interval=0", "dio=off", "rx_threads=0", "rx_threads=65",
		"fault=zz", "fault=op=nothing",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i]);
}

static void test_fstab_words(void **state)
{
	accepted("defaults,noatime,_netdev,nofail,x-systemd.requires=dlm.service,auto,dev,suid,exec");
	accepted("fault=op=write:cls=log:skip=3:error=5");
	accepted("");
	accepted(",,rw,");
}

static void test_actions(void **state)
{
	struct options o;
	char prog[] = "gfs2-fuse", wait[] = "--wait", dev[] = "image", secs[] = "5", bad[] = "x";
	char *one[] = { prog, wait, dev, NULL }, *two[] = { prog, wait, dev, secs, NULL };
	char *none[] = { prog, wait, NULL }, *wrong[] = { prog, wait, dev, bad, NULL };

	assert_int_equal(options_parse(&o, 3, one), 0);
	assert_int_equal(o.action, OPT_WAIT);
	assert_true(o.wait_forever);
	options_free(&o);
	assert_int_equal(options_parse(&o, 4, two), 0);
	assert_int_equal(o.wait_seconds, 5);
	assert_false(o.wait_forever);
	options_free(&o);
	assert_int_equal(options_parse(&o, 2, none), -EINVAL);
	options_free(&o);
	assert_int_equal(options_parse(&o, 4, wrong), -EINVAL);
	options_free(&o);
	assert_int_equal(options_parse(&o, 1, one), -EINVAL);
	options_free(&o);
}

static void test_sizes(void **state)
{
	uint64_t v;

	assert_int_equal(parse_size("0", &v), 0);
	assert_int_equal(parse_size("4096", &v), 0);
	assert_int_equal(v, 4096);
	assert_int_equal(parse_size("3k", &v), 0);
	assert_int_equal(v, 3072);
	assert_int_equal(parse_size("2T", &v), 0);
	assert_true(v == 2ull << 40);
	assert_int_equal(parse_size("", &v), -EINVAL);
	assert_int_equal(parse_size("M", &v), -EINVAL);
	assert_int_equal(parse_size(" 1", &v), -EINVAL);
	assert_int_equal(parse_size("1MB", &v), -EINVAL);
	assert_int_equal(parse_size("-1", &v), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults), cmocka_unit_test(test_values),
		cmocka_unit_test(test_later_wins), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_fstab_words), cmocka_unit_test(test_actions),
		cmocka_unit_test(test_sizes),
	};

	/* what is refused is said on stderr: not of interest here */
	if (!freopen("/dev/null", "w", stderr))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
