/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is everything there that lock_dlm needs: the kernel's DLM, corosync, dlm_controld, the right cluster, the kernel log?  Each
 * thing that can be missing has a message of its own, since dlm_new_lockspace() alone would say ENOENT or hang.
 */
#include "lock/dlm_i.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "util/util.h"

#define CONFIG "/sys/kernel/config/dlm/cluster"

/* The first line of a small file; -errno. */
static int read_line(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		error = -errno;
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return error;
}

/* Does @path have @word, between '@', blanks and ends of lines?  (An abstract socket's name may be filled up with '@'.) */
static bool file_has_word(const char *path, const char *word)
{
	FILE *f = fopen(path, "re");
	size_t len = strlen(word);
	char line[512];
	bool found = false;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		for (const char *s = line; !found && (s = strstr(s, word)); s++)
			found = s > line && strchr(" @", s[-1]) && strchr("@ \n", s[len]);
	fclose(f);
	return found;
}

static int split_table(struct lm_dlm *dc, const char *table)
{
	const char *colon = strchr(table, ':');
	size_t cluster = colon ? (size_t)(colon - table) : 0;

	if (!colon || !cluster || !colon[1] || cluster >= sizeof(dc->dc_cluster) ||
	    strlen(colon + 1) >= sizeof(dc->dc_name) || strchr(colon + 1, ':')) {
		fs_err("lock table '%s': for lock_dlm it must be CLUSTER:FS (option locktable=)", table);
		return -EINVAL;
	}
	memcpy(dc->dc_cluster, table, cluster);
	strcpy(dc->dc_name, colon + 1);
	return 0;
}

static int check_daemons(void)
{
	if (access("/sys/module/dlm", F_OK) && !file_has_word("/proc/misc", "dlm-control")) {
		fs_err("the kernel has no DLM: load it with 'modprobe dlm'");
		return -ENOPKG;
	}
	if (!file_has_word("/proc/net/unix", "cmap")) {
		fs_err("corosync is not running: start it ('systemctl start corosync'), then dlm_controld");
		return -EUNATCH;
	}
	if (!file_has_word("/proc/net/unix", "dlmc_query_sock") ||
	    access(CONFIG, F_OK)) {
		fs_err("dlm_controld is not running: start it ('systemctl start dlm')");
		return -EUNATCH;
	}
	return 0;
}

static int check_cluster_name(const struct lm_dlm *dc)
{
	char name[128];
	int error = read_line(CONFIG "/cluster_name", name, sizeof(name));

	if (error) {
		fs_err("cannot read the cluster's name (%s): %s", CONFIG "/cluster_name", strerror(-error));
		return error;
	}
	if (!strcmp(name, dc->dc_cluster))
		return 0;
	fs_err("the lock table names cluster '%s', but this node is in cluster '%s'", dc->dc_cluster, name);
	return -EBADR;
}

static int find_nodeid(struct lm_dlm *dc)
{
	DIR *dir = opendir(CONFIG "/comms");
	struct dirent *de;

	if (!dir)
		return -errno;
	while (!dc->dc_nodeid && (de = readdir(dir))) {
		char path[512], local[8];

		snprintf(path, sizeof(path), CONFIG "/comms/%.64s/local", de->d_name);
		if (de->d_name[0] != '.' && !read_line(path, local, sizeof(local)) && atoi(local) == 1)
			dc->dc_nodeid = (unsigned)atoi(de->d_name);
	}
	closedir(dir);
	return dc->dc_nodeid ? 0 : -ENXIO;
}

/*
 * Our journal's number, and that a node has died, come from the kernel log and from nowhere else.  Without it this node could use a
 * lock that a dead one held before its journal has been replayed: better not to mount.
 */
static int open_log(struct lm_dlm *dc)
{
	char info[8];
	int error;

	if (!read_line(CONFIG "/log_info", info, sizeof(info)) && atoi(info) == 0) {
		fs_err("the DLM does not log changes of members: write 1 to %s/log_info", CONFIG);
		return -ENODATA;
	}
	dc->dc_kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (dc->dc_kmsg < 0 || lseek(dc->dc_kmsg, 0, SEEK_END) < 0) {
		error = -errno;
		fs_err("cannot read the kernel log (/dev/kmsg), which says when a node has died: %s",
		       strerror(-error));
		return error;
	}
	return 0;
}

int dlm_env_check(struct lm_dlm *dc, const char *table)
{
	int error = split_table(dc, table);

	if (!error && geteuid()) {
		fs_err("lock_dlm needs root: joining a lock space is privileged");
		error = -EPERM;
	}
	if (!error)
		error = check_daemons();
	if (!error)
		error = check_cluster_name(dc);
	if (!error) {
		error = find_nodeid(dc);
		if (error)
			fs_err("dlm_controld has not told the kernel this node's address yet: is it in the cluster?");
	}
	return error ? error : open_log(dc);
}

int dlm_lockspace_exists(const char *name)
{
	char path[128], misc[80];

	snprintf(path, sizeof(path), "/sys/kernel/dlm/%s", name);
	if (access(path, F_OK))
		return 0;
	/* Only lock spaces that a process has made have a device. */
	snprintf(misc, sizeof(misc), "dlm_%s", name);
	return file_has_word("/proc/misc", misc) ? 1 : 2;
}

void dlm_explain_join(const struct lm_dlm *dc, int error)
{
	switch (error) {
	case -EEXIST:
		if (dlm_lockspace_exists(dc->dc_name) == 2)
			fs_err("the kernel's gfs2 has '%s' mounted on this node", dc->dc_name);
		else
			fs_err("'%s' is mounted on this node already", dc->dc_name);
		break;
	case -EPERM:
	case -EACCES:
		fs_err("no permission to join lock space '%s': CAP_SYS_ADMIN is needed", dc->dc_name);
		break;
	case -EUNATCH:
		fs_err("dlm_controld is not running: start it ('systemctl start dlm')");
		break;
	case -ENOENT:
		fs_err("/dev/misc/dlm-control is missing: is udev running?");
		break;
	default:
		fs_err("cannot join lock space '%s': %s (see 'dlm_tool ls', 'dlm_tool status' and the kernel log)",
		       dc->dc_name, strerror(-error));
	}
}
