/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Words for the daemon: paths become inodes, and a command line one line of the protocol.
 */
#include "glockctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

bool is_glock(const char *s)
{
	size_t n;

	if (!strncmp(s, "inode:", 6) || !strncmp(s, "rgrp:", 5))
		return true;
	if (s[0] < '1' || s[0] > '9' || s[1] != '/')
		return false;
	n = strspn(s + 2, "0123456789abcdefABCDEF");
	return n && !s[2 + n];
}

/*
 * Without a question to the file system, which may be what hangs; but of the root the kernel knows no number before it has asked once, and
 * says 1.
 */
static int look(const char *path, struct statx *stx)
{
	int error = statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, stx);

	return error || stx->stx_ino != 1 ? error : statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_INO, stx);
}

char *resolve(const struct conn *c, const char *s)
{
	struct statx stx, mnt;
	char *name;

	if (is_glock(s) || !strcmp(s, "any"))
		return strdup(s);
	if (look(s, &stx)) {
		complain("%s: %s", s, strerror(errno));
		return NULL;
	}
	if (look(c->mountpoint, &mnt) || mnt.stx_dev_major != stx.stx_dev_major || mnt.stx_dev_minor != stx.stx_dev_minor) {
		complain("%s is not on the mount %s", s, c->mountpoint);
		return NULL;
	}
	if (asprintf(&name, "inode:%llu", (unsigned long long)stx.stx_ino) < 0)
		die(EXIT_REFUSED, "out of memory");
	return name;
}

struct request {
	char *text;
	size_t len;
	FILE *f;
};

static void request_word(struct request *r, const char *word)
{
	const unsigned char *s;

	if (ftell(r->f))
		fputc(' ', r->f);
	for (s = (const unsigned char *)word; *s; s++) {
		if (*s <= ' ' || *s == '%' || *s == 0x7f)
			fprintf(r->f, "%%%02x", *s);
		else
			fputc(*s, r->f);
	}
}

bool names_glock(const char *cmd, int index, const char *prev)
{
	static const char *const all[] = { "dump", "stats", "where" };
	static const char *const first[] = { "map", "dio", "demote", "hold", "release", "explain" };
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(cmd, all[i]))
			return true;
	for (i = 0; i < sizeof(first) / sizeof(first[0]); i++)
		if (!strcmp(cmd, first[i]))
			return index == 0;
	return (!strcmp(cmd, "trace") || !strcmp(cmd, "record")) && prev && !strcmp(prev, "-g");
}

/* `break`: the word before FROM->TO, or the third of dio and dlm.  Of options that there are not the daemon tells. */
static bool break_glock(int argc, char **argv, int i)
{
	int start = 0;

	while (start < argc && argv[start][0] == '-') {
		if (!argv[start][1] || argv[start][2] || !strchr("1cpnt", argv[start][1]))
			return false;
		start += argv[start][1] == '1' ? 1 : 2;
	}
	if (start >= argc)
		return false;
	if (!strcmp(argv[start], "dio") || !strcmp(argv[start], "dlm"))
		return i == start + 2;
	return i == start;
}

bool is_operand_glock(const char *cmd, int argc, char **argv, int i)
{
	return !strcmp(cmd, "break") ? break_glock(argc, argv, i) : names_glock(cmd, i, i ? argv[i - 1] : NULL);
}

int send_request(const struct conn *c, const char *cmd, int argc, char **argv, bool json)
{
	const struct command *known = find_command(cmd);
	struct request r = { 0 };
	const char *p;
	int i;

	for (i = 0; i < argc; i++)
		if (!*argv[i]) {
			complain("%s: an argument is empty", cmd);
			return EXIT_USAGE;
		}
	r.f = open_memstream(&r.text, &r.len);
	if (!r.f)
		die(EXIT_REFUSED, "out of memory");
	request_word(&r, cmd);
	if (json && known && known->json)
		request_word(&r, "--json");
	if (!json && !strcmp(cmd, "trace"))
		request_word(&r, "--text");
	for (i = 0; i < argc; i++) {
		int first = !strcmp(argv[0], "--json");
		char *name = NULL;

		if (i >= first && is_operand_glock(cmd, argc - first, argv + first, i - first)) {
			name = resolve(c, argv[i]);
			if (!name) {
				fclose(r.f);
				free(r.text);
				return EXIT_REFUSED;
			}
		}
		request_word(&r, name ? name : argv[i]);
		free(name);
	}
	fputc('\n', r.f);
	fclose(r.f);
	if (r.len > GFS2_CTL_MAX_LINE) {
		complain("too many arguments");
		free(r.text);
		return EXIT_USAGE;
	}
	for (p = r.text; r.len;) {
		ssize_t n = send(c->fd, p, r.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			complain("the daemon does not listen: %s", strerror(errno));
			free(r.text);
			return EXIT_REFUSED;
		}
		p += n;
		r.len -= (size_t)n;
	}
	free(r.text);
	return EXIT_DONE;
}
