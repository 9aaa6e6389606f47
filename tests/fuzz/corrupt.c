// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Damaged volumes: seeded mutations of every structure behind the superblock, then mount, walk, read,
 * write, unmount (10-corrupt.py runs it).
 *
 *   fuzz-corrupt make IMAGE                   fills a volume that mkfs.gfs2 made with everything the format
 *                                        has; leaves IMAGE clean and IMAGE.dirty with a journal to replay
 *   fuzz-corrupt seeds IMAGE DIR              what is there, as inputs for fuzz-volume (volume.c)
 *   fuzz-corrupt run IMAGE SEED FIRST COUNT   mutations FIRST .. FIRST+COUNT-1 of SEED; IMAGE.work is overwritten
 *
 * Required of each: no crash, no report of a sanitizer, an end, and whoever is refused with -EIO finds
 * a message that names a block.  The mutations run in a child; one that dies is reported with its
 * number, by which it can be repeated, and the next child goes on behind it.
 *
 * Output: a line for each decoder that refused something, with how often; see report().
 */
#include "world.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define STUCK_SECONDS 120	/* without an end of the current mutation: it hangs */
#define WATCH_MS 20
#define MEMORY_LIMIT_MIB 1024	/* far above what a volume of this size needs under a sanitizer */
#define MAX_BAD 20
#define SEEDS_EACH 4		/* blocks of a kind that a fuzzer starts from */

/* Shared with the children. */
static struct shared {
	atomic_uint at;			/* mutation under way */
	unsigned tried[K_NR], refused[K_NR], mounts_refused, withdrawn;
	struct rules rules;
	unsigned nameless;
	unsigned bad[MAX_BAD], nr_bad;
} *sh;

/* --- mutations --- */

static uint64_t some_block(struct image *im, int which)
{
	enum kind k = fso_below(&rng, K_NR);

	return im->nr[which][k] ? im->blocks[which][k][fso_below(&rng, im->nr[which][k])] : 0;
}

static uint64_t value(struct image *im, int which, uint64_t old, uint64_t own)
{
	switch (fso_below(&rng, 12)) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return UINT64_MAX;
	case 3:
		return old + 1;
	case 4:
		return old - 1;
	case 5:
		return old ^ 1ull << fso_below(&rng, 64);
	case 6:
		return own;
	case 7:
		return some_block(im, which);
	case 8:
		return im->size / im->bsize + fso_below(&rng, 3) - 1;
	case 9:
		return 1ull << fso_below(&rng, 64);
	case 10:
		return fso_below(&rng, 300);
	default:
		return fso_rnd(&rng);
	}
}

static uint64_t get_be(const char *p, unsigned width)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < width; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static void put_be(char *p, unsigned width, uint64_t v)
{
	for (unsigned i = width; i--; v >>= 8)
		p[i] = (char)v;
}

static void mutate_once(struct image *im, int which, enum kind k)
{
	uint64_t b = im->blocks[which][k][fso_below(&rng, im->nr[which][k])];
	char *block = im->work + b * im->bsize;
	uint32_t from, to, off;
	unsigned width, how = fso_below(&rng, 20);

	interesting_range(k, im->bsize, &from, &to);
	if (how == 0) {			/* lost */
		memset(block, 0, im->bsize);
	} else if (how == 1) {		/* something else's contents */
		memcpy(block, im->base[which] + some_block(im, which) * im->bsize, im->bsize);
	} else if (how == 2) {		/* torn */
		uint32_t cut = (uint32_t)fso_below(&rng, im->bsize / 64) * 64;

		memset(block + cut, (int)fso_rnd(&rng), im->bsize - cut);
	} else {
		for (unsigned n = 1 + fso_below(&rng, 3); n; n--) {
			width = 1u << fso_below(&rng, 4);
			off = from + (uint32_t)fso_below(&rng, (to - from) / width) * width;
			put_be(block + off, width,
			       value(im, which, get_be(block + off, width), b));
		}
	}
	if (k == K_HEADER && how > 2)
		repair_header(block, im->bsize);
}

static enum kind mutate(struct image *im, int which, unsigned n)
{
	enum kind k = n % K_NR;

	while (!im->nr[which][k])
		k = (k + 1) % K_NR;
	mutate_once(im, which, k);
	if (!fso_below(&rng, 4)) {
		enum kind more = fso_below(&rng, K_NR);

		if (im->nr[which][more])
			mutate_once(im, which, more);
	}
	return k;
}

/* --- messages --- */

static int messages;	/* stderr of a child */

/* True: some block, inode or journal was named. */
static bool read_messages(void)
{
	static char text[1 << 16];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);
	bool named = false;

	if (n <= 0)
		return false;
	text[n] = 0;
	for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
		char *start = strstr(line, ": ");

		*end = 0;
		start = start ? strstr(start + 2, ": ") : NULL;
		if (!start || strstr(line, "replay") || strstr(line, "withdrawn:"))
			continue;
		named |= rule_count(&sh->rules, start + 2);
	}
	return named;
}

/* --- one mutation --- */

static void one(struct image *im, uint64_t seed, unsigned n)
{
	enum kind k = n % K_NR;
	struct tour t;
	int which;
	bool named;

	rng = seed * 1000003 + n;
	which = k >= K_HEADER || !fso_below(&rng, 6);
	restore(im, which);
	k = mutate(im, which, n);
	sh->tried[k]++;
	if (ftruncate(messages, 0) || lseek(messages, 0, SEEK_SET))
		_exit(3);
	world_tour(&t);
	sh->mounts_refused += t.mount_error != 0;
	sh->withdrawn += t.withdrawn;
	named = read_messages();
	sh->refused[k] += t.refused;
	if (t.refused && !named) {
		sh->nameless++;
		fprintf(stdout, "mutation %u (%s): refused (%d), but no block was named\n", n,
			kind_names[k], t.mount_error);
		fflush(stdout);
	}
}

static void child(uint64_t seed, unsigned first, unsigned end)
{
	static struct image im;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	/* Where the sanitizers write too. */
	if (dup2(messages, STDERR_FILENO) < 0 || null < 0)
		_exit(3);
	gfs2_event_init(10);
	load_images(&im);
	for (unsigned n = first; n < end; n++) {
		atomic_store(&sh->at, n);
		one(&im, seed, n);
	}
	unload_images(&im);
	gfs2_event_exit();
}

static void show_messages(void)
{
	static char text[1 << 16];
	ssize_t n = pread(messages, text, sizeof(text) - 1, 0);

	if (n > 0)
		printf("%.*s\n", (int)n, text);
}

/*
 * Until @pid ends or makes no progress.  The status of waitpid().  Counted in turns of its own: who was stopped together
 * with the child has not seen it hang.
 */
static int watch(pid_t pid)
{
	unsigned last = atomic_load(&sh->at), turns = 0;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		unsigned at = atomic_load(&sh->at);

		if (at != last)
			turns = 0;
		last = at;
		if (++turns > STUCK_SECONDS * 1000 / WATCH_MS) {
			printf("mutation %u does not end\n", at);
			kill(pid, SIGABRT);
			waitpid(pid, &status, 0);
			break;
		}
		poll(NULL, 0, WATCH_MS);
	}
	return status;
}

static int report(void)
{
	struct rusage ru;
	unsigned sum = 0;

	getrusage(RUSAGE_CHILDREN, &ru);
	for (int k = 0; k < K_NR; k++) {
		printf("kind\t%s\t%u\t%u\n", kind_names[k], sh->tried[k], sh->refused[k]);
		sum += sh->tried[k];
	}
	for (unsigned i = 0; i < sh->rules.nr; i++)
		printf("rule\t%u\t%s\n", sh->rules.rules[i].count, sh->rules.rules[i].text);
	printf("total\t%u mutations, %u mounts refused, %u withdrawn, %u without a name, %u died, %ld MiB\n",
	       sum, sh->mounts_refused, sh->withdrawn, sh->nameless, sh->nr_bad, ru.ru_maxrss / 1024);
	for (unsigned i = 0; i < sh->nr_bad; i++)
		printf("died\t%u\n", sh->bad[i]);
	if (ru.ru_maxrss / 1024 > MEMORY_LIMIT_MIB) {
		printf("more memory than a volume of this size can need\n");
		return 1;
	}
	return sh->nr_bad || sh->nameless;
}

static int run(uint64_t seed, unsigned first, unsigned count)
{
	unsigned end = first + count;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	messages = memfd_create("messages", MFD_CLOEXEC);
	if (sh == MAP_FAILED || messages < 0)
		return 1;
	while (first < end && sh->nr_bad < MAX_BAD) {
		pid_t pid;
		int status;

		atomic_store(&sh->at, first);
		fflush(stdout);
		pid = fork();
		if (!pid) {
			child(seed, first, end);
			exit(0);
		}
		status = watch(pid);
		if (WIFEXITED(status) && !WEXITSTATUS(status))
			break;
		first = atomic_load(&sh->at);
		printf("mutation %u of seed %" PRIu64 ": status %x\n", first, seed, status);
		show_messages();
		sh->bad[sh->nr_bad++] = first++;
	}
	return report();
}

/* The pieces of each kind of block that fuzz-volume starts from, a file each. */
static int seeds(const char *dir)
{
	static struct image im;
	uint8_t bytes[512];
	char path[700];

	gfs2_event_init(10);
	load_images(&im);
	for (unsigned i = 0; i < 2 * K_NR * SEEDS_EACH; i++) {
		int which = i & 1;
		enum kind k = i / 2 % K_NR;
		size_t n = world_seed(&im, which, k, i / 2 / K_NR, bytes, sizeof(bytes));
		FILE *f;

		if (!n)
			continue;
		snprintf(path, sizeof(path), "%s/%02u-%02u-%u", dir, k, i / 2 / K_NR, which);
		f = fopen(path, "we");
		if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) {
			perror(path);
			return 1;
		}
	}
	unload_images(&im);
	gfs2_event_exit();
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	world_paths(argv[2], "");
	if (!strcmp(argv[1], "make") && argc == 3) {
		gfs2_event_init(10);
		world_make();
		gfs2_event_exit();
		return 0;
	}
	if (!strcmp(argv[1], "seeds") && argc == 4)
		return seeds(argv[3]);
	if (!strcmp(argv[1], "run") && argc == 6)
		return run(strtoull(argv[3], NULL, 0), (unsigned)atoi(argv[4]), (unsigned)atoi(argv[5]));
	return 2;
}
