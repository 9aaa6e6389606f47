/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options: one table says which names exist, what they take and where the value goes.  Names that
 * gfs2(5) has mean the same here; what is not known is refused by name.
 */
#include <ctype.h>
#include <getopt.h>
#include <mntent.h>
#include <stdio.h>
#include "options.h"
#include "util/util.h"

const char *const short_dio_names[5] = { "drain", "async", "fail", "precheck", "blockdev" };
const char *const dio_mtime_names[2] = { "deferred", "strict" };
static const char *const dio_rest_names[2] = { "direct", "buffered" };
static const char *const local_death_names[2] = { "node", "process" };

enum opt_kind { K_FLAG, K_SET, K_IGNORE, K_FUSE, K_STRING, K_UINT, K_SIZE, K_ENUM };

struct opt {
	const char *name;
	enum opt_kind kind;
	size_t offset;		/* in struct options */
	int value;		/* K_FLAG (bool), K_SET (unsigned): what to store */
	const char *const *names;
	unsigned nr, min, max;
	const char *help;
};

static const char *const lockproto_names[] = { "lock_nolock", "lock_local", "lock_dlm" };
static const char *const dio_names[] = { "auto", "strict" };

#define AT(f) offsetof(struct options, f)
static const struct opt table[] = {
	{ .name = "ro", .kind = K_FLAG, .offset = AT(args.ar_ro), .value = 1, .help = "mount read-only" },
	{ .name = "rw", .kind = K_FLAG, .offset = AT(args.ar_ro), .value = 0, .help = "mount read-write (default)" },
	{ .name = "lockproto", .kind = K_STRING, .offset = AT(lockproto), .names = lockproto_names, .nr = 3,
	  .help = "lock_nolock|lock_local|lock_dlm: instead of the superblock's" },
	{ .name = "locktable", .kind = K_STRING, .offset = AT(locktable), .help = "CLUSTER:FS, instead of the superblock's" },
	{ .name = "local_death", .kind = K_ENUM, .offset = AT(args.ar_local_death), .names = local_death_names, .nr = 2,
	  .help = "node|process: lock_local, what it means when this daemon dies (node)" },
	{ .name = "short_dio", .kind = K_ENUM, .offset = AT(args.ar_short_dio), .names = short_dio_names, .nr = 5,
	  .help = "drain|async|fail|precheck|blockdev: a direct write meets a hole" },
	{ .name = "dio_mtime", .kind = K_ENUM, .offset = AT(args.ar_dio_mtime), .names = dio_mtime_names, .nr = 2,
	  .help = "deferred|strict: times of direct writes" },
	{ .name = "dio_mtime_interval", .kind = K_UINT, .offset = AT(args.ar_dio_mtime_interval), .min = 1, .max = 3600,
	  .help = "seconds between publications of deferred times (1)" },
	{ .name = "dio_rest", .kind = K_ENUM, .offset = AT(args.ar_dio_rest), .names = dio_rest_names, .nr = 2,
	  .help = "direct|buffered: how the rest of a direct write that met a hole is written (direct)" },
	{ .name = "dio", .kind = K_ENUM, .offset = AT(args.ar_dio_strict), .names = dio_names, .nr = 2,
	  .help = "auto|strict: strict refuses direct writes that would fall back" },
	{ .name = "acl", .kind = K_FLAG, .offset = AT(args.ar_noacl), .value = 0,
	  .help = "POSIX ACLs count (default)" },
	{ .name = "noacl", .kind = K_FLAG, .offset = AT(args.ar_noacl), .value = 1,
	  .help = "they are neither shown nor looked at" },
	{ .name = "rgrplvb", .kind = K_SET, .offset = AT(args.ar_rgrplvb), .value = RGRPLVB_ON,
	  .help = "a full resource group is known from its lock's value block (default from format 1802 on)" },
	{ .name = "norgrplvb", .kind = K_SET, .offset = AT(args.ar_rgrplvb), .value = RGRPLVB_OFF,
	  .help = "every resource group is read" },
	{ .name = "cache", .kind = K_SIZE, .offset = AT(args.ar_cache), .help = "memory of the daemon, e.g. 256M" },
	{ .name = "commit", .kind = K_UINT, .offset = AT(args.ar_commit), .min = 1, .max = 3600,
	  .help = "seconds between log commits (30)" },
	{ .name = "control", .kind = K_STRING, .offset = AT(control), .help = "path of the control socket" },
	{ .name = "rx_threads", .kind = K_UINT, .offset = AT(rx_threads), .min = 1, .max = 64,
	  .help = "threads that receive requests" },
	{ .name = "fault", .kind = K_STRING, .offset = AT(fault), .help = "inject a device fault (tests)" },
	{ .name = "nosubtype", .kind = K_FLAG, .offset = AT(subtype), .value = 0, .help = "show as type fuse, not fuse.gfs2-fuse" },
	/* What mount(8) and fstab add. */
	{ .name = "defaults", .kind = K_IGNORE }, { .name = "noatime", .kind = K_IGNORE },
	{ .name = "nodiratime", .kind = K_IGNORE }, { .name = "_netdev", .kind = K_IGNORE },
	{ .name = "nofail", .kind = K_IGNORE }, { .name = "auto", .kind = K_IGNORE },
	{ .name = "noauto", .kind = K_IGNORE }, { .name = "user", .kind = K_IGNORE },
	{ .name = "nouser", .kind = K_IGNORE }, { .name = "users", .kind = K_IGNORE },
	{ .name = "async", .kind = K_IGNORE }, { .name = "allow_other", .kind = K_IGNORE },
	{ .name = "default_permissions", .kind = K_IGNORE },
	{ .name = "owner", .kind = K_IGNORE }, { .name = "group", .kind = K_IGNORE },
	{ .name = "relatime", .kind = K_IGNORE }, { .name = "norelatime", .kind = K_IGNORE },
	{ .name = "strictatime", .kind = K_IGNORE }, { .name = "nostrictatime", .kind = K_IGNORE },
	{ .name = "diratime", .kind = K_IGNORE }, { .name = "atime", .kind = K_IGNORE },
	{ .name = "silent", .kind = K_IGNORE }, { .name = "loud", .kind = K_IGNORE },
	{ .name = "dev", .kind = K_FUSE }, { .name = "nodev", .kind = K_FUSE },
	{ .name = "suid", .kind = K_FUSE }, { .name = "nosuid", .kind = K_FUSE },
	{ .name = "exec", .kind = K_FUSE }, { .name = "noexec", .kind = K_FUSE },
	{ .name = "sync", .kind = K_FUSE }, { .name = "dirsync", .kind = K_FUSE },
};

int parse_size(const char *s, uint64_t *out)
{
	static const char units[] = "KMGT";
	char *end;
	unsigned long long v;
	const char *u;
	unsigned shift = 0;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno || end == s || !isdigit((unsigned char)*s))
		return -EINVAL;
	if (*end) {
		u = strchr(units, toupper((unsigned char)*end));
		if (!u || end[1])
			return -EINVAL;
		shift = 10 * (unsigned)(u - units + 1);
	}
	if (v > UINT64_MAX >> shift)
		return -EINVAL;
	*out = v << shift;
	return 0;
}

static int bad_value(const struct opt *o, const char *value)
{
	fprintf(stderr, "gfs2-fuse: option '%s': bad value '%s'", o->name, value ? value : "");
	for (unsigned i = 0; i < o->nr; i++)
		fprintf(stderr, "%s%s", i ? "|" : " (wanted ", o->names[i]);
	if (o->kind == K_SIZE)
		fprintf(stderr, " (wanted 4M to 1T)\n");
	else
		fprintf(stderr, o->nr ? ")\n" : o->max ? " (wanted %u to %u)\n" : "\n", o->min, o->max);
	return -EINVAL;
}

static int name_index(const struct opt *o, const char *value)
{
	for (unsigned i = 0; i < o->nr; i++)
		if (!strcmp(value, o->names[i]))
			return (int)i;
	return -EINVAL;
}

static int set_number(struct options *opts, const struct opt *o, const char *value)
{
	uint64_t v;

	if (parse_size(value, &v))
		return bad_value(o, value);
	if (o->kind == K_SIZE) {
		if (v < GFS2_CACHE_MIN || v > GFS2_CACHE_MAX)
			return bad_value(o, value);
		*(uint64_t *)((char *)opts + o->offset) = v;
		return 0;
	}
	if (v < o->min || v > o->max)
		return bad_value(o, value);
	*(unsigned *)((char *)opts + o->offset) = (unsigned)v;
	return 0;
}

static int set_enum(struct options *opts, const struct opt *o, const char *value)
{
	int i = name_index(o, value);

	if (i < 0)
		return bad_value(o, value);
	if (o->names == dio_names)
		opts->args.ar_dio_strict = i;
	else
		*(unsigned *)((char *)opts + o->offset) = (unsigned)i;
	return 0;
}

/* Commas separate mount options, so a rule is written with colons there. */
static int parse_fault(struct options *opts)
{
	for (char *c = opts->fault; *c; c++)
		if (*c == ':')
			*c = ',';
	opts->has_fault = true;
	return io_fault_parse(opts->fault, &opts->fault_rule);
}

static int set_string(struct options *opts, const struct opt *o, const char *value)
{
	char **p = (char **)((char *)opts + o->offset);

	if (o->nr && name_index(o, value) < 0)
		return bad_value(o, value);
	if (!*value)
		return bad_value(o, value);
	free(*p);
	*p = xstrdup(value);
	if (p == &opts->fault && parse_fault(opts))
		return bad_value(o, value);
	return 0;
}

static int add_fuse_opt(struct options *opts, const char *name)
{
	char *n = NULL;

	if (asprintf(&n, "%s%s%s", opts->fuse_opts ? opts->fuse_opts : "", opts->fuse_opts ? "," : "",
		     name) < 0)
		return -ENOMEM;
	free(opts->fuse_opts);
	opts->fuse_opts = n;
	return 0;
}

/* Is NAME, or NAME=VALUE, a word of the list? */
static bool has_word(const char *list, const char *name, const char *value)
{
	size_t len = strlen(name), value_len = value ? strlen(value) : 0;

	for (const char *end; ; list = end + 1) {
		end = strchrnul(list, ',');
		if (!strncmp(list, name, len) &&
		    (value ? list[len] == '=' && !strncmp(list + len + 1, value, value_len) && list + len + 1 + value_len == end :
			     list + len == end))
			return true;
		if (!*end)
			return false;
	}
}

/*
 * mount(8) adds fstab's options to those of a remount that names only the directory.  (The names are compared as they are: looking
 * into the directories of a whole fstab may hang.)
 */
static bool fstab_says(const char *dir, const char *name, const char *value)
{
	const char *path = getenv("LIBMOUNT_FSTAB");
	FILE *fstab = setmntent(path ? path : "/etc/fstab", "re");
	char *real = realpath(dir, NULL);
	struct mntent *m;
	bool found = false;

	while (fstab && real && !found && (m = getmntent(fstab))) {
		for (char *end = strchr(m->mnt_dir, 0); end - m->mnt_dir > 1 && end[-1] == '/'; )
			*--end = 0;
		found = !strcmp(m->mnt_dir, real) && has_word(m->mnt_opts, name, value);
	}
	free(real);
	if (fstab)
		endmntent(fstab);
	return found;
}

/*
 * What the daemon has been told it knows; what a remount can change are flags of the kernel's.  Some of ours are given again with
 * every mount of a volume, and are taken to be what they were.
 */
static bool may_be_given_again(const struct opt *o)
{
	static const char *const names[] = { "ro", "rw", "acl", "lockproto", "locktable", "nosubtype" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(o->name, names[i]))
			return true;
	return o->kind == K_FUSE || o->kind == K_IGNORE;
}

static int set_option(struct options *opts, const struct opt *o, const char *value)
{
	bool takes_value = o->kind >= K_STRING;

	if (opts->remount && !may_be_given_again(o)) {
		if (fstab_says(opts->dir, o->name, value))
			return 0;
		fprintf(stderr, "gfs2-fuse: option '%s' cannot be changed by a remount\n", o->name);
		return -EINVAL;
	}

	if (takes_value != !!value) {
		fprintf(stderr, "gfs2-fuse: option '%s' %s\n", o->name,
			takes_value ? "needs a value" : "takes no value");
		return -EINVAL;
	}
	switch (o->kind) {
	case K_FLAG:
		*(bool *)((char *)opts + o->offset) = o->value;
		return 0;
	case K_SET:
		*(unsigned *)((char *)opts + o->offset) = (unsigned)o->value;
		return 0;
	case K_IGNORE:
		return 0;
	case K_FUSE:
		return add_fuse_opt(opts, o->name);
	case K_STRING:
		return set_string(opts, o, value);
	case K_UINT:
	case K_SIZE:
		return set_number(opts, o, value);
	case K_ENUM:
		return set_enum(opts, o, value);
	}
	return -EINVAL;
}

/* mount(8) adds to a remount what /proc/mounts says of the mount. */
static bool shown_by_kernel(const char *name)
{
	static const char *const names[] = { "remount", "user_id", "group_id", "max_read", "rootmode", "blksize" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

static int parse_one(struct options *opts, char *text)
{
	char *value = strchr(text, '=');

	/* For mount(8) itself, or for whoever reads fstab. */
	if (!*text || !strncmp(text, "x-", 2) || !strncmp(text, "X-", 2) || !strncmp(text, "comment=", 8) ||
	    !strncmp(text, "user=", 5))
		return 0;
	if (value)
		*value++ = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (!strcmp(text, table[i].name))
			return set_option(opts, &table[i], value);
	if (opts->remount && shown_by_kernel(text))
		return 0;
	if (opts->sloppy)
		return 0;
	fprintf(stderr, "gfs2-fuse: unknown option '%s'\n", text);
	return -EINVAL;
}

static int parse_list(struct options *opts, const char *list)
{
	char *copy = xstrdup(list), *p = copy, *one;
	int error = 0;

	/* What other options mean depends on it, and it may come last. */
	opts->remount = opts->dir && has_word(list, "remount", NULL);
	while (!error && (one = strsep(&p, ",")))
		error = parse_one(opts, one);
	free(copy);
	return error;
}

void options_usage(const char *program)
{
	printf("usage: %s [-o OPTION,...] [-f] [-d] DEVICE DIR\n"
	       "       %s --wait DEVICE [SECONDS]\n"
	       "       %s --version | --help\n\n"
	       "Mounts the GFS2 volume on DEVICE (a block device or an image file) on DIR.\n\n"
	       "  -f       stay in the foreground\n"
	       "  -d       stay in the foreground and log more\n"
	       "  --wait   wait until no daemon holds DEVICE: 0, or 1 when SECONDS are over\n\n"
	       "options (-o):\n",
	       program, program, program);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].help)
			printf("  %-19s %s\n", table[i].name, table[i].help);
	printf("\nUnmount with umount DIR or fusermount3 -u DIR; then --wait tells when the volume is free.\n");
}

static int parse_wait(struct options *o, int argc, char **argv)
{
	uint64_t secs;

	if (argc < 1 || argc > 2) {
		fprintf(stderr, "gfs2-fuse: --wait wants DEVICE [SECONDS]\n");
		return -EINVAL;
	}
	o->action = OPT_WAIT;
	o->device = xstrdup(argv[0]);
	o->wait_forever = argc == 1;
	if (argc == 2) {
		if (parse_size(argv[1], &secs) || secs > UINT32_MAX) {
			fprintf(stderr, "gfs2-fuse: --wait: bad number of seconds '%s'\n", argv[1]);
			return -EINVAL;
		}
		o->wait_seconds = (unsigned)secs;
	}
	return 0;
}

static void set_defaults(struct options *o)
{
	*o = (struct options){ .subtype = true };
	o->args.ar_dio_mtime_interval = 1;
	o->args.ar_commit = 30;
	o->args.ar_cache = 256u << 20;
}

/* Called by mount(8) as mount.TYPE: there -f is its "fake". */
static bool is_mount_helper(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	return !strncmp(slash ? slash + 1 : argv0, "mount.", 6);
}

static int add_list(char **lists, const char *list)
{
	char *n = NULL;

	if (asprintf(&n, "%s%s%s", *lists ? *lists : "", *lists ? "," : "", list) < 0)
		return -ENOMEM;
	free(*lists);
	*lists = n;
	return 0;
}

static int parse_operands(struct options *o, int nr, char **args)
{
	if (nr != 2 || !*args[0] || !*args[1]) {
		fprintf(stderr, "gfs2-fuse: wanted DEVICE and DIR; see --help\n");
		return -EINVAL;
	}
	o->device = xstrdup(args[0]);
	o->dir = xstrdup(args[1]);
	return 0;
}

int options_parse(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = { { "wait", no_argument, NULL, 'w' },
					       { "version", no_argument, NULL, 'V' },
					       { "help", no_argument, NULL, 'h' },
					       { 0 } };
	bool wait = false, helper = argc && is_mount_helper(argv[0]);
	char *lists = NULL;
	int c, error = 0;

	set_defaults(o);
	optind = 0;
	while (!error && (c = getopt_long(argc, argv, "o:fdhVvsnt:", longs, NULL)) != -1) {
		switch (c) {
		case 'o':
			error = add_list(&lists, optarg);
			break;
		case 'd':
			o->debug = o->foreground = true;
			break;
		case 'f':
			*(helper ? &o->fake : &o->foreground) = true;
			break;
		case 'w':
			wait = true;
			break;
		case 'V':
		case 'h':
			o->action = c == 'V' ? OPT_VERSION : OPT_HELP;
			free(lists);
			return 0;
		case 's':
			o->sloppy = true;
			break;
		case 'n': /* mount(8) -n, -v, -t: nothing to do for us */
		case 'v':
		case 't':
			break;
		default:
			error = -EINVAL;
		}
	}
	if (!error && !wait)
		error = parse_operands(o, argc - optind, argv + optind);
	/* All at once, because -s may come last. */
	if (!error && lists)
		error = parse_list(o, lists);
	free(lists);
	if (error)
		return error;
	if (wait)
		return parse_wait(o, argc - optind, argv + optind);
	o->args.ar_lockproto = o->lockproto;
	o->args.ar_locktable = o->locktable;
	return 0;
}

void options_free(struct options *o)
{
	free(o->device);
	free(o->dir);
	free(o->control);
	free(o->fault);
	free(o->fuse_opts);
	free(o->lockproto);
	free(o->locktable);
}
