// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Volumes behind the superblock, for coverage-guided fuzzers.  An input is damage to a volume (world.h:world_apply); the volume is
 * the one that `fuzz-corrupt make` has made, named by GFS2_FUZZ_IMAGE, and `fuzz-corrupt seeds` makes inputs to start with.
 *
 *   libFuzzer   meson setup -Dfuzzer=true -Db_sanitize=address,undefined (clang)
 *                 GFS2_FUZZ_IMAGE=v.img fuzz-volume -max_len=1024 CORPUS
 *   AFL++       CC=afl-clang-fast meson setup; afl-fuzz -i CORPUS -o OUT -- fuzz-volume
 *   neither     fuzz-volume FILE|DIRECTORY...       each file once
 *
 * The same is required as of fuzz-corrupt: no crash, no report of a sanitizer, an end, and whoever is refused with -EIO finds a message
 * that names a block.  GFS2_FUZZ_REPORT names a file for the decoders that have refused something, with how often.
 */
#include "world.h"

#include <dirent.h>
#include <pthread.h>
#include <stdarg.h>

static struct image im;
static struct rules rules;
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;	/* guards rules, named */
static bool named;

/* The linker puts this in the place of msg(): what is said is counted, and written down only if somebody wants to see it. */
void __wrap_msg(enum msg_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void __wrap_msg(enum msg_level level, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (getenv("GFS2_FUZZ_VERBOSE"))
		fprintf(stderr, "%s\n", text);
	if (level > MSG_WARN || strstr(text, "replay") || !strncmp(text, "withdrawn:", 10))
		return;
	pthread_mutex_lock(&said_lock);
	named |= rule_count(&rules, text);
	pthread_mutex_unlock(&said_lock);
}

static void finish(void)
{
	const char *path = getenv("GFS2_FUZZ_REPORT");
	FILE *out = path ? fopen(path, "we") : NULL;

	for (unsigned i = 0; out && i < rules.nr; i++)
		fprintf(out, "rule\t%u\t%s\n", rules.rules[i].count, rules.rules[i].text);
	if (out)
		fclose(out);
	unlink(path_work);
}

static void begin(void)
{
	const char *image = getenv("GFS2_FUZZ_IMAGE");
	char suffix[20];

	if (!image) {
		fprintf(stderr, "GFS2_FUZZ_IMAGE must name a volume that fuzz-corrupt made\n");
		exit(2);
	}
	/* Several processes may use one volume. */
	snprintf(suffix, sizeof(suffix), ".%d", (int)getpid());
	world_paths(image, suffix);
	gfs2_event_init(10);
	load_images(&im);
	atexit(finish);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool begun;
	struct tour t;

	if (!begun)
		begin();
	begun = true;
	named = false;
	rng = 1;
	world_apply(&im, data, size);
	world_tour(&t);
	if (t.refused && !named) {
		fprintf(stderr, "refused (%d), but no block was named\n", t.mount_error);
		abort();
	}
	return 0;
}

#ifndef GFS2_LIBFUZZER

static int run_path(const char *path)
{
	static uint8_t bytes[1 << 16];
	struct dirent *entry;
	DIR *dir = opendir(path);
	char name[1024];
	size_t n;
	FILE *f;

	if (dir) {
		while ((entry = readdir(dir))) {
			snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
			if (entry->d_name[0] != '.' && run_path(name))
				return 1;
		}
		closedir(dir);
		return 0;
	}
	f = fopen(path, "re");
	if (!f) {
		perror(path);
		return 1;
	}
	n = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	/* Who dies here has said which input it was. */
	fprintf(stderr, "%s\n", path);
	return LLVMFuzzerTestOneInput(bytes, n);
}

#ifdef __AFL_FUZZ_TESTCASE_LEN
__AFL_FUZZ_INIT();
#endif

int main(int argc, char **argv)
{
#ifdef __AFL_FUZZ_TESTCASE_LEN
	const uint8_t *data = __AFL_FUZZ_TESTCASE_BUF;

	while (argc == 1 && __AFL_LOOP(1000))
		LLVMFuzzerTestOneInput(data, (size_t)__AFL_FUZZ_TESTCASE_LEN);
#endif
	for (int i = 1; i < argc; i++)
		if (run_path(argv[i]))
			return 1;
	return 0;
}

#endif
