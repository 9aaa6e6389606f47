/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handlers for listing directories.  Cookies come from fs/dir.c and stay true while an entry lives,
 * so a listing needs no state between requests.
 */
#include <dirent.h>
#include <stdio.h>
#include "fs/dir.h"
#include "fuse/ops.h"
#include "util/util.h"

/* One reply being filled. */
struct listing {
	fuse_req_t req;
	struct server *s;
	struct gfs2_inode *dip;
	char *buf;
	size_t size, used;
	/* readdirplus: names are collected under the directory's glock, attributes read after it was dropped */
	struct listed {
		struct gfs2_inum_host inum;
		uint64_t cookie;
		unsigned type;
		char name[256];
	} *entries;
	size_t nr, space, planned;
	bool short_of_memory;
};

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);
	struct gfs2_inode *ip = server_inode(s, ino);

	if (!ip) {
		fuse_reply_err(req, ESTALE);
		return;
	}
	/* The kernel keeps its lookup as long as the directory is open, so it cannot go away; but other nodes ask who uses it. */
	fi->fh = s->sdp->sd_lm->lm_has_peers ? dir_opened(s, ip) : 0;
	if (fuse_reply_open(req, fi) && fi->fh)
		dir_closed(s, fi->fh);
	gfs2_inode_put(ip);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct server *s = op_begin(req);

	if (fi->fh)
		dir_closed(s, fi->fh);
	fuse_reply_err(req, 0);
}

static const char *entry_name(const struct gfs2_dir_entry *e, char name[256])
{
	memcpy(name, e->name, e->len);
	name[e->len] = 0;
	return name;
}

static bool add_plain(void *arg, const struct gfs2_dir_entry *e)
{
	struct listing *l = arg;
	struct stat st = { .st_ino = e->inum.no_addr, .st_mode = DTTOIF(e->type) };
	char name[256];
	size_t need = fuse_add_direntry(l->req, l->buf + l->used, l->size - l->used,
					entry_name(e, name), &st, (off_t)e->cookie);

	if (need > l->size - l->used)
		return false;
	l->used += need;
	return true;
}

static bool collect_plus(void *arg, const struct gfs2_dir_entry *e)
{
	struct listing *l = arg;
	struct listed *n;
	char name[256];
	size_t need = fuse_add_direntry_plus(l->req, NULL, 0, entry_name(e, name), NULL, 0);

	if (l->planned + need > l->size)
		return false;
	if (l->nr == l->space) {
		n = realloc(l->entries, (l->space ? 2 * l->space : 32) * sizeof(*n));
		if (!n) {
			l->short_of_memory = true;
			return false;
		}
		l->entries = n;
		l->space = l->space ? 2 * l->space : 32;
	}
	n = &l->entries[l->nr++];
	n->inum = e->inum;
	n->cookie = e->cookie;
	n->type = e->type;
	memcpy(n->name, name, e->len + 1);
	l->planned += need;
	return true;
}

static bool is_dot(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

/* An entry whose inode is gone meanwhile, or unreadable, is listed by name only; lookup will say why. */
static void add_plus(struct listing *l, const struct listed *n)
{
	struct fuse_entry_param e = { 0 };
	struct gfs2_inode *ip = NULL;
	struct stat st;

	e.attr.st_ino = n->inum.no_addr;
	e.attr.st_mode = DTTOIF(n->type);
	if (!is_dot(n->name) &&
	    !gfs2_inode_lookup(l->s->sdp, n->inum.no_addr, n->inum.no_formal_ino, &ip)) {
		if (!ip->i_own && !inode_stat(ip, &st) && st.st_nlink && !(ip->i_diskflags & GFS2_DIF_SYSTEM)) {
			fill_entry(l->s, ip, &st, &e);
			gfs2_inode_lookup_inc(ip);
		}
		gfs2_inode_put(ip);
	}
	l->used += fuse_add_direntry_plus(l->req, l->buf + l->used, l->size - l->used, n->name, &e,
					  (off_t)n->cookie);
}

static int list_dir(struct listing *l, uint64_t after,
		    bool (*fn)(void *, const struct gfs2_dir_entry *))
{
	struct gfs2_holder gh;
	int error = gfs2_glock_nq_init(l->dip->i_gl, LM_ST_SHARED, 0, &gh);

	if (error)
		return error;
	error = gfs2_dir_read(l->dip, after, fn, l);
	gfs2_glock_dq_uninit(&gh);
	return error;
}

static void readdir_common(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct listing l = { .req = req, .s = op_begin(req), .size = size };
	int error = 0;

	l.dip = server_inode(l.s, ino);
	l.buf = malloc(size);
	if (!l.dip)
		error = -ESTALE;
	else if (!l.buf)
		error = -ENOMEM;
	else
		error = list_dir(&l, (uint64_t)off, plus ? collect_plus : add_plain);
	/* Nothing at all would be the end of the directory. */
	if (!error && l.short_of_memory && !l.nr)
		error = -ENOMEM;
	for (size_t i = 0; !error && i < l.nr; i++)
		add_plus(&l, &l.entries[i]);
	if (error)
		fuse_reply_err(req, -error);
	else
		fuse_reply_buf(req, l.buf, l.used);
	gfs2_inode_put(l.dip);
	free(l.entries);
	free(l.buf);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	readdir_common(req, ino, size, off, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	readdir_common(req, ino, size, off, true);
}
