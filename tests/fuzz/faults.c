// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One fault at each request of a short workload (20-faults.py runs it).
 *
 *   fuzz-faults IMAGE KIND FIRST STEP
 *
 * KIND: eio, enospc, short, delay; dead: that request and all after it fail.  For k = FIRST, FIRST + STEP, ...: IMAGE.work becomes IMAGE, the k-th
 * request to the device of mount, workload and unmount has the fault; until there is no k-th request.
 *
 * Required of every k:
 *  - short transfers and delays change nothing: no error anywhere
 *  - if every call returned success, everything is there
 *  - what fsync (or a direct write) acknowledged is there, whatever came later; what was not acknowledged
 *    is in one of the states that the calls since could leave
 *  - an unmount that returned success leaves a volume that fsck.gfs2 finds clean, else the next mount
 *    repairs it
 *  - after a withdraw, which is said once, nothing is written and every call gets an error
 */
#include "fsops.h"

#include <sys/mman.h>
#include <sys/wait.h>

#define CASE_SECONDS 300	/* an alarm: this case hangs */
#define MAX_FILES 64
#define MAX_VERSIONS 12

#define FAIL(...)                                                                                  \
	do {                                                                                       \
		printf("%s %u: ", kind_name, at);                                                  \
		printf(__VA_ARGS__);                                                               \
		printf("\n");                                                                      \
		exit(1);                                                                           \
	} while (0)

static const char *kind_name;
static unsigned at, *shown_at;	/* number of the case; for the parent too */
static int messages;
static char path_base[300], path_work[310];
static uint32_t bs;

static void show_messages(void)
{
	static char text[1 << 16];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);

	printf("%.*s", n > 0 ? (int)n : 0, text);
	fflush(stdout);
}

/* --- what the files must contain --- */

struct version {
	bool exists;
	uint64_t size;
	char *data;
};

struct mfile {
	char name[64];
	struct version v[MAX_VERSIONS];
	unsigned nr, acked;	/* versions; the newest that is known to be durable */
	bool torn;		/* a write failed: what it covered may be anything */
	struct gfs2_inode *open; /* as a program that has the file open: errors wait for its fsync */
};

static struct mfile files[MAX_FILES];
static unsigned nr_files;
static bool any_error;

static struct mfile *mfile(const char *name)
{
	struct mfile *m;

	for (unsigned i = 0; i < nr_files; i++)
		if (!strcmp(files[i].name, name))
			return &files[i];
	if (nr_files == MAX_FILES)
		abort();
	m = &files[nr_files++];
	memset(m, 0, sizeof(*m));
	snprintf(m->name, sizeof(m->name), "%s", name);
	m->nr = 1;
	return m;
}

static struct version *latest(struct mfile *m)
{
	return &m->v[m->nr - 1];
}

/* A further version: what the last one is, with @size bytes. */
static struct version *add_version(struct mfile *m, uint64_t size)
{
	struct version *old = latest(m), *v = &m->v[m->nr];

	if (m->nr == MAX_VERSIONS)
		abort();
	*v = (struct version){ true, size, calloc(1, size + 1) };
	if (old->exists)
		memcpy(v->data, old->data, old->size < size ? old->size : size);
	m->nr++;
	return v;
}

static void forget_files(void)
{
	for (unsigned i = 0; i < nr_files; i++)
		for (unsigned n = 0; n < files[i].nr; n++)
			free(files[i].v[n].data);
	nr_files = 0;
	any_error = false;
}

/* --- the workload --- */

static struct fso f;

static void open_file(struct mfile *m)
{
	if (!m->open && fso_walk(&f, m->name, &m->open))
		m->open = NULL;
}

static void close_file(struct mfile *m)
{
	gfs2_inode_put(m->open);
	m->open = NULL;
}

static int64_t result(int64_t ret, int64_t want)
{
	if (ret == want)
		return ret;
	any_error = true;
	if (ret >= 0)
		FAIL("a call returned %" PRId64 " instead of %" PRId64 " or an error", ret, want);
	return ret;
}

static void do_create(const char *name, mode_t mode)
{
	struct mfile *m = mfile(name);
	int64_t err = result(fso_make(&f, name, mode, S_ISLNK(mode) ? "target" : NULL), 0);

	add_version(m, 0);
	m->torn |= err != 0;
	open_file(m);
}

static void do_write(const char *name, uint64_t pos, uint32_t len, char c, bool direct)
{
	struct mfile *m = mfile(name);
	char *data = malloc(len);
	struct version *v;
	int64_t n;

	memset(data, c, len);
	n = direct ? fso_direct(&f, name, true, pos, data, len) : fso_write(&f, name, pos, data, len);
	n = result(n, len);
	if (latest(m)->exists) {
		v = add_version(m, pos + len > latest(m)->size ? pos + len : latest(m)->size);
		memset(v->data + pos, c, len);
	}
	m->torn |= n < 0;
	/* Into allocated space it is on the device, and what fell back was made durable. */
	if (direct && n == len && !m->torn)
		m->acked = m->nr - 1;
	free(data);
}

static void do_truncate(const char *name, uint64_t size)
{
	struct mfile *m = mfile(name);
	int64_t err = result(fso_truncate(&f, name, size), 0);

	if (latest(m)->exists)
		add_version(m, size);
	m->torn |= err != 0;
}

static void do_remove(const char *name, bool dir)
{
	struct mfile *m = mfile(name);
	int64_t err;

	close_file(m);
	err = result(fso_remove(&f, name, dir), 0);

	m->v[m->nr++] = (struct version){ 0 };
	m->torn |= err != 0;
}

static void do_rename(const char *from, const char *to)
{
	struct mfile *a = mfile(from), *b = mfile(to);
	int64_t err = result(fso_rename(&f, from, to, 0), 0);
	struct version *v, *old = latest(a);

	if (old->exists) {
		v = add_version(b, old->size);
		memcpy(v->data, old->data, old->size);
	}
	a->v[a->nr++] = (struct version){ 0 };
	a->torn |= err != 0;
	b->open = a->open;
	a->open = NULL;
	b->torn |= err != 0 || a->torn;
}

/*
 * The journal has one order, so a successful fsync makes all names and sizes before it durable; contents only
 * of its own file (and of those that the journal has: not counted on).
 */
static void do_fsync(const char *name)
{
	struct mfile *m = mfile(name);
	int64_t err = result(fso_fsync(&f, name), 0);

	/* What it says to be lost is. */
	m->torn |= err != 0;
	if (!m->torn)
		m->acked = m->nr - 1;
}

static void fsync_dir(const char *dir, const char *const *names, unsigned nr)
{
	int64_t err = result(fso_fsync(&f, dir), 0);

	for (unsigned i = 0; i < nr && !err; i++)
		if (!mfile(names[i])->torn)
			mfile(names[i])->acked = mfile(names[i])->nr - 1;
}

static void do_read(const char *name, uint64_t pos, uint32_t len, bool direct)
{
	struct mfile *m = mfile(name);
	struct version *v = latest(m);
	uint32_t want = 0;
	const char *data = f.buf;
	int64_t n;

	if (!v->exists)
		return;
	if (pos < v->size)
		want = (uint32_t)(v->size - pos < len ? v->size - pos : len);
	n = direct ? fso_direct(&f, name, false, pos, NULL, len) : fso_read(&f, name, pos, len, &data);
	if (m->torn) {
		any_error |= n < 0;
		return;
	}
	n = result(n, want);
	if (n >= 0 && memcmp(data, v->data + pos, want))
		FAIL("%s reads other bytes than were written", name);
}

struct glocks {
	struct gfs2_glock *gl[512];
	unsigned nr;
};

static void collect(struct gfs2_glock *gl, void *arg)
{
	struct glocks *g = arg;
	bool free;

	rmutex_lock(&gl->gl_lock);
	free = list_empty(&gl->gl_holders);
	rmutex_unlock(&gl->gl_lock);
	if (free && g->nr < ARRAY_SIZE(g->gl))
		g->gl[g->nr++] = gfs2_glock_hold(gl);
}

/* Give up every lock that nobody holds: written back, and read again when needed. */
static void drop_caches(void)
{
	struct glocks g = { .nr = 0 };

	gfs2_glock_table_for_each(f.sdp->sd_glocks, collect, &g);
	for (unsigned i = 0; i < g.nr; i++) {
		gfs2_glock_cb(g.gl[i], LM_ST_UNLOCKED, false);
		/* After a failure it may stay as it is. */
		gfs2_glock_wait_demoted(g.gl[i], 100000000);
		gfs2_glock_put(g.gl[i]);
	}
}

static void workload(void)
{
	static const char *const names[] = { "dir", "dir/link", "old", "new", "gone" };
	char name[64];

	do_create("a", S_IFREG | 0644);
	do_write("a", 0, 5 * bs + 17, 'a', false);
	do_fsync("a");
	do_write("a", bs, 2 * bs, 'b', false);
	do_fsync("a");
	do_create("small", S_IFREG | 0644);
	do_write("small", 0, 70, 's', false);
	do_fsync("small");
	do_create("direct", S_IFREG | 0644);
	do_write("direct", 0, 8 * bs, 'd', false);
	do_fsync("direct");
	do_write("direct", 2 * bs, 2 * bs, 'e', true);
	do_write("direct", 8 * bs, 4 * bs, 'f', true);
	do_read("direct", 0, 12 * bs, true);
	do_truncate("direct", 20 * bs);
	do_write("direct", 14 * bs, 2 * bs, 'h', true);	/* a hole */
	do_create("old", S_IFREG | 0644);
	do_write("old", 0, 3 * bs, 'o', false);
	do_fsync("old");
	do_create("gone", S_IFREG | 0644);
	do_write("gone", 0, 40 * bs, 'g', false);
	do_fsync("gone");
	do_create("big", S_IFREG | 0644);
	do_write("big", 0, (f.sdp->sd_diptrs + 5) * bs, 'B', false);	/* one indirect block */
	do_create("dir", S_IFDIR | 0755);
	do_create("dir/link", S_IFLNK | 0777);
	do_rename("old", "new");
	do_remove("gone", false);
	fsync_dir("", names, ARRAY_SIZE(names));
	result(gfs2_ail_flush(f.sdp->sd_log), 0);
	do_write("new", bs, bs, 'n', false);
	drop_caches();		/* writes it; who is told if that fails? */
	do_fsync("new");
	do_remove("big", false);	/* reads its tree */
	do_read("a", 0, 6 * bs, false);
	do_read("new", 0, 6 * bs, false);
	do_truncate("a", 2 * bs + 5);
	do_write("a", 4 * bs, 100, 'z', false);
	do_fsync("a");
	for (unsigned i = 0; i < 12; i++) {	/* out of the dinode, into leaves */
		snprintf(name, sizeof(name), "dir/%0*u", 40, i);
		do_create(name, S_IFREG | 0600);
	}
	result(gfs2_statfs_sync(f.sdp), 0);
	for (unsigned i = 0; i < 12; i += 3) {
		snprintf(name, sizeof(name), "dir/%0*u", 40, i);
		do_remove(name, false);
	}
	drop_caches();
	do_write("small", 70, 3 * bs, 't', false);
	do_fsync("small");
	do_create("last", S_IFREG | 0644);	/* not acknowledged but by the unmount */
	do_write("last", 0, 6 * bs, 'l', false);
}

/* --- judgement --- */

static bool byte_possible(const struct mfile *m, uint64_t pos, char c, bool only_last)
{
	/* Behind an older end there may be zeros. */
	for (unsigned n = only_last ? m->nr - 1 : m->acked; n < m->nr; n++)
		if (m->v[n].exists && (pos >= m->v[n].size ? !c : m->v[n].data[pos] == c))
			return true;
	return false;
}

static bool state_possible(const struct mfile *m, bool exists, uint64_t size, bool only_last)
{
	for (unsigned n = only_last ? m->nr - 1 : m->acked; n < m->nr; n++)
		if (m->v[n].exists == exists && (!exists || m->v[n].size == size))
			return true;
	return false;
}

static void judge(struct mfile *m, bool exact)
{
	struct stat st = { 0 };
	int err = fso_stat(&f, m->name, &st);
	bool regular;

	if (err && err != -ENOENT)
		FAIL("%s after recovery: %d", m->name, err);
	regular = !err && S_ISREG(st.st_mode);
	if (!regular)
		st.st_size = 0;
	/* An operation that failed may have happened in parts that the system calls define (a short write). */
	if (!state_possible(m, !err, (uint64_t)st.st_size, exact) && !m->torn)
		FAIL("%s after recovery: exists %d, size %" PRId64 "; %u versions, %u acknowledged%s",
		     m->name, !err, (int64_t)st.st_size, m->nr, m->acked, exact ? ", all succeeded" : "");
	if (m->torn && err && m->acked && m->v[m->acked].exists && latest(m)->exists)
		FAIL("%s after recovery: lost", m->name);
	for (uint64_t pos = 0; regular && pos < (uint64_t)st.st_size; pos += 64 * bs) {
		const char *data;
		int64_t n = fso_read(&f, m->name, pos, 64 * bs, &data);

		if (n < 0)
			FAIL("%s after recovery: read: %" PRId64, m->name, n);
		for (int64_t i = 0; i < n && !m->torn; i++)
			if (!byte_possible(m, pos + (uint64_t)i, data[i], exact))
				FAIL("%s after recovery: byte %" PRIu64 " is %02x; %u versions, %u acknowledged",
				     m->name, pos + (uint64_t)i, (unsigned char)data[i], m->nr, m->acked);
	}
}

static int fsck(void)
{
	char cmd[800];

	snprintf(cmd, sizeof(cmd), "fsck.gfs2 -n '%s' >'%s.fsck' 2>&1", path_work, path_work);
	return system(cmd);
}

static void need_clean(const char *when)
{
	char cmd[800];

	if (!fsck())
		return;
	snprintf(cmd, sizeof(cmd), "cat '%s.fsck'", path_work);
	fflush(stdout);
	if (system(cmd))
		printf("?\n");
	FAIL("fsck.gfs2 is not content %s", when);
}

static unsigned count_message(const char *what)
{
	static char text[1 << 16];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);
	unsigned nr = 0;

	text[n > 0 ? n : 0] = 0;
	for (char *p = text; (p = strstr(p, what)); p++)
		nr++;
	return nr;
}

static void after_withdraw(void)
{
	struct io_stats before, after;
	struct stat st;

	/* Another thread may be at it: it stops all writes before it says so.  A request that was under way may still end. */
	while (!count_message("withdrawn:") || !gfs2_glock_table_withdrawn(f.sdp->sd_glocks))
		usleep(1000);
	io_get_stats(f.e, &before);
	if (fso_make(&f, "after", S_IFREG | 0644, NULL) != -EIO || fso_write(&f, "a", 0, "x", 1) != -EIO ||
	    fso_fsync(&f, "a") != -EIO || fso_stat(&f, "dir", &st) != -EIO)
		FAIL("a call succeeded after the withdraw");
	io_get_stats(f.e, &after);
	/* What is refused is counted as a request. */
	if (after.bytes[IO_WRITE] != before.bytes[IO_WRITE])
		FAIL("something was written after the withdraw");
	if (count_message("withdrawn:") != 1)
		FAIL("the withdraw was said %u times", count_message("withdrawn:"));
	any_error = true;
}

/* false: there is no request @k. */
static bool one_case(const struct io_fault *fault, bool harmless)
{
	const struct gfs2_args args = { .ar_dio_mtime_interval = 3600, .ar_cache = 16u << 20, .ar_commit = 3600 };
	struct io_stats st;
	int mounted, unmounted = 0;

	forget_files();
	if (ftruncate(messages, 0) || lseek(messages, 0, SEEK_SET))
		abort();
	if (io_engine_open(path_work, false, &f.e) || io_fault_add(f.e, fault))
		abort();
	mounted = gfs2_mount(f.e, &args, &f.sdp);
	if (!mounted) {
		bool withdrawn;

		if (io_ring_create(f.e, 64, false, &f.ring))
			abort();
		if (!f.buf)
			f.buf = aligned_alloc(4096, FSO_BUF_BYTES + 4 * 4096);
		bs = f.sdp->sd_bsize;
		workload();
		withdrawn = gfs2_withdrawn(f.sdp);
		if (withdrawn)
			after_withdraw();
		for (unsigned i = 0; i < nr_files; i++)
			close_file(&files[i]);
		io_ring_destroy(f.ring);
		unmounted = gfs2_unmount(f.sdp);
		if (withdrawn && !unmounted)
			FAIL("the unmount of a withdrawn volume says that it is clean");
	}
	/* Data that could not be written after close: no call is left to say it, so a message does. */
	if (count_message("cannot write its data")) {
		any_error = true;
		for (unsigned i = 0; i < nr_files; i++)
			files[i].torn |= files[i].acked != files[i].nr - 1;
	}
	io_get_stats(f.e, &st);
	io_engine_close(f.e);
	if (harmless && (mounted || unmounted || any_error))
		FAIL("nothing should have failed: mount %d, unmount %d", mounted, unmounted);
	if (!mounted && !unmounted)
		need_clean("after an unmount that succeeded");
	any_error |= mounted || unmounted;

	/* Again, without faults: recovery, and what is there now. */
	mounted = fso_mount(&f, path_work, false);
	if (mounted)
		FAIL("cannot be mounted again: %d", mounted);
	for (unsigned i = 0; i < nr_files; i++)
		judge(&files[i], !any_error);
	unmounted = fso_unmount(&f);
	if (unmounted)
		FAIL("the unmount after recovery: %d", unmounted);
	need_clean("after recovery");
	return st.injected;
}

/* --- images --- */

static char *map_file(const char *path, int flags, uint64_t *size)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;
	char *p;

	if (fd < 0 || fstat(fd, &st))
		exit(1);
	*size = (uint64_t)st.st_size;
	p = mmap(NULL, *size, PROT_READ | PROT_WRITE, flags, fd, 0);
	close(fd);
	return p;
}

/* Not with memcmp(): under the address sanitizer that is a slow loop. */
__attribute__((no_sanitize("address", "undefined"))) static void restore(uint64_t *to, const uint64_t *from,
									  uint64_t size)
{
	for (uint64_t i = 0; i < size / 8; i += 64) {
		uint64_t diff = 0;

		for (unsigned k = 0; k < 64; k++)
			diff |= to[i + k] ^ from[i + k];
		if (diff)
			memcpy(to + i, from + i, 512);
	}
}

static int run(char **argv)
{
	static const struct {
		const char *name;
		struct io_fault fault;
		bool harmless;
	} kinds[] = {
		{ "eio", { .error = EIO }, false },
		{ "enospc", { .error = ENOSPC }, false },
		{ "short", { .short_bytes = 512 }, true },
		{ "delay", { .delay_us = 20000 }, true },
		{ "dead", { .error = EIO }, false },
	};
	unsigned k = 0, step, cases = 0;
	struct io_fault fault;
	char cmd[1200], *base, *work;
	uint64_t size;

	kind_name = argv[2];
	while (k < ARRAY_SIZE(kinds) && strcmp(kinds[k].name, kind_name))
		k++;
	if (k == ARRAY_SIZE(kinds))
		return 2;
	fault = kinds[k].fault;
	fault.op = fault.cls = -1;
	fault.count = strcmp(kind_name, "dead") != 0;
	snprintf(path_base, sizeof(path_base), "%s", argv[1]);
	snprintf(path_work, sizeof(path_work), "%s.work", argv[1]);
	snprintf(cmd, sizeof(cmd), "cp --sparse=always '%s' '%s'", path_base, path_work);
	if (system(cmd))
		return 1;
	base = map_file(path_base, MAP_PRIVATE, &size);
	work = map_file(path_work, MAP_SHARED, &size);
	dup2(messages, STDERR_FILENO);
	gfs2_event_init(10);
	step = (unsigned)atoi(argv[4]);
	for (at = (unsigned)atoi(argv[3]); ; at += step) {
		fault.skip = *shown_at = at;
		restore((uint64_t *)work, (uint64_t *)base, size);
		alarm(CASE_SECONDS);
		if (!one_case(&fault, kinds[k].harmless))
			break;
		cases++;
	}
	printf("%s: %u cases, up to request %u\n", kind_name, cases, at);
	gfs2_event_exit();
	forget_files();
	free(f.buf);
	return 0;
}

int main(int argc, char **argv)
{
	int status;
	pid_t pid;

	if (argc != 5)
		return 2;
	msg_without_limits();
	messages = memfd_create("messages", MFD_CLOEXEC);
	shown_at = mmap(NULL, sizeof(*shown_at), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid = fork();
	if (!pid)
		exit(run(argv));
	if (waitpid(pid, &status, 0) != pid)
		return 1;
	if (!status)
		return 0;
	/* What was said last, by a sanitizer or an assertion too. */
	printf("%s, request %u: status %x\n", argv[2], *shown_at, status);
	show_messages();
	return 1;
}
