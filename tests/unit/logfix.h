/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small volume for the journal's tests: statfs dinodes, a journal in three pieces, home blocks,
 * a buffer cache, a log; and a device whose power can fail.
 *
 * The power failure: io_run, io_write and io_flush are wrapped (link option --wrap).  Writes go to the
 * image file, and are remembered as *pending* until a flush that began after their completion has
 * completed; `media` has what is certainly on the device.  A crash image is media plus a random
 * part of the pending writes, sector by sector.  Forced writes (FUA) go to media themselves.
 */
#ifndef TESTS_LOGFIX_H
#define TESTS_LOGFIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "journal/log_internal.h"

struct pending {
	uint64_t id, pos;
	uint32_t len;
	bool done;
	char *data;
};

struct device {
	pthread_mutex_t lock;
	struct io_engine *engine;	/* whose requests are recorded */
	char *media;
	uint64_t size;
	struct pending *pend;
	unsigned nr_pend, cap_pend;
	uint64_t last_id;
	/* Called after each request that changed something, without the lock. */
	void (*event)(void *arg);
	void *event_arg;
};
static struct device dev = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* For threads and for what runs inside of the log: cmocka's assertions jump, only its own thread may use them. */
#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			print_message("%s:%d: %s\n", __FILE__, __LINE__, #cond);                   \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static _Thread_local uint64_t rnd_state = 1;

static inline uint32_t rnd(uint32_t below)
{
	rnd_state = rnd_state * 6364136223846793005ull + 1442695040888963407ull;
	return (rnd_state >> 33) % below;
}

/* --- the device --- */

int __real_io_run(struct io_engine *e, struct io_req *reqs, unsigned nr);
int __wrap_io_run(struct io_engine *e, struct io_req *reqs, unsigned nr);
int __wrap_io_write(struct io_engine *e, enum io_class cls, const void *buf, uint32_t len, uint64_t pos);
int __wrap_io_flush(struct io_engine *e, enum io_class cls);

/* dev.lock held: the first @nr pending writes, if done, are on the media now. */
static inline void media_settle(unsigned nr, const bool *which)
{
	unsigned keep = 0;

	for (unsigned i = 0; i < dev.nr_pend; i++) {
		struct pending *p = &dev.pend[i];

		if (i < nr && which[i]) {
			memcpy(dev.media + p->pos, p->data, p->len);
			free(p->data);
		} else {
			dev.pend[keep++] = *p;
		}
	}
	dev.nr_pend = keep;
}

static inline void record_write(const struct io_req *req)
{
	struct pending p = { .id = ++dev.last_id, .pos = req->pos };

	for (unsigned i = 0; i < req->nr_iov; i++)
		p.len += req->iov[i].iov_len;
	p.data = malloc(p.len);
	for (unsigned i = 0, off = 0; i < req->nr_iov; off += req->iov[i++].iov_len)
		memcpy(p.data + off, req->iov[i].iov_base, req->iov[i].iov_len);
	if (dev.nr_pend == dev.cap_pend) {
		dev.cap_pend = dev.cap_pend ? 2 * dev.cap_pend : 64;
		dev.pend = realloc(dev.pend, dev.cap_pend * sizeof(p));
	}
	dev.pend[dev.nr_pend++] = p;
}

static inline int run_write(struct io_engine *e, struct io_req *req)
{
	uint64_t id;
	unsigned i;
	int rc;

	pthread_mutex_lock(&dev.lock);
	record_write(req);
	id = dev.last_id;
	pthread_mutex_unlock(&dev.lock);
	if (dev.event)
		dev.event(dev.event_arg);
	rc = __real_io_run(e, req, 1);
	pthread_mutex_lock(&dev.lock);
	for (i = 0; dev.pend[i].id != id; i++)
		;
	dev.pend[i].done = true;
	if (req->fua && !rc) {
		bool which[i + 1];

		memset(which, 0, sizeof(which));
		which[i] = true;
		media_settle(i + 1, which);
	}
	pthread_mutex_unlock(&dev.lock);
	if (dev.event)
		dev.event(dev.event_arg);
	return rc;
}

static inline int run_flush(struct io_engine *e, struct io_req *req)
{
	uint64_t *ids;
	unsigned nr;
	bool *which;
	int rc;

	pthread_mutex_lock(&dev.lock);
	nr = dev.nr_pend;
	ids = calloc(nr + 1, sizeof(*ids));
	for (unsigned i = 0; i < nr; i++)
		ids[i] = dev.pend[i].done ? dev.pend[i].id : 0;
	pthread_mutex_unlock(&dev.lock);
	rc = __real_io_run(e, req, 1);
	pthread_mutex_lock(&dev.lock);
	which = calloc(dev.nr_pend + 1, 1);
	for (unsigned i = 0; i < dev.nr_pend && !rc; i++)
		for (unsigned k = 0; k < nr && !which[i]; k++)
			which[i] = ids[k] == dev.pend[i].id;
	media_settle(dev.nr_pend, which);
	pthread_mutex_unlock(&dev.lock);
	free(which);
	free(ids);
	return rc;
}

int __wrap_io_run(struct io_engine *e, struct io_req *reqs, unsigned nr)
{
	int rc = 0;

	if (!dev.media || e != dev.engine || !nr || reqs[0].op == IO_READ)
		return __real_io_run(e, reqs, nr);
	for (unsigned i = 0; i < nr; i++) {
		int r = reqs[i].op == IO_FLUSH ? run_flush(e, &reqs[i]) : run_write(e, &reqs[i]);

		rc = rc ? rc : r;
	}
	return rc;
}

int __wrap_io_write(struct io_engine *e, enum io_class cls, const void *buf, uint32_t len, uint64_t pos)
{
	struct io_req req;

	io_req_init(&req, IO_WRITE, cls, (void *)buf, len, pos);
	return __wrap_io_run(e, &req, 1);
}

int __wrap_io_flush(struct io_engine *e, enum io_class cls)
{
	struct io_req req;

	io_req_init(&req, IO_FLUSH, cls, NULL, 0, 0);
	return __wrap_io_run(e, &req, 1);
}

/* Power fails now: what could be on the device afterwards, into @out. */
static inline void device_crash(char *out)
{
	unsigned luck = rnd(4); /* none, some, most, all of the pending writes survive */

	pthread_mutex_lock(&dev.lock);
	memcpy(out, dev.media, dev.size);
	for (unsigned i = 0; i < dev.nr_pend; i++) {
		struct pending *p = &dev.pend[i];
		bool torn = luck && !rnd(4);
		bool all = luck == 3 || (luck && rnd(4) < luck * 2 - 1);

		for (uint32_t off = 0; off < p->len; off += 512)
			if (torn ? rnd(2) : all)
				memcpy(out + p->pos + off, p->data + off, 512);
	}
	pthread_mutex_unlock(&dev.lock);
}

/* --- the volume --- */

struct fix {
	char dir[64], path[96];
	uint32_t bsize;
	uint64_t nr_blocks, master, local, home;	/* block numbers */
	struct gfs2_journal_extent x[3];
	struct gfs2_jdesc jd;
	struct io_engine *e;
	struct buf_cache *bufs;
	struct gfs2_log *log;
	struct gfs2_log_header_host head;
	atomic_int withdrawn;
	uint64_t used_twice;
	atomic_llong stat_free, stat_dinodes;	/* local statfs */
	unsigned commit_secs;
};

static inline void fix_local_statfs(void *arg, int64_t v[3])
{
	struct fix *f = arg;

	v[0] = 0;
	v[1] = atomic_load(&f->stat_free);
	v[2] = atomic_load(&f->stat_dinodes);
}

/*
 * At the end of a flush, with the next one still kept away from its header: it is committed, or everybody can know that it has failed.  (A
 * header after a missing one makes a journal that cannot be replayed.)
 */
static inline void fix_flush_event(void *arg, bool start, uint64_t sequence, uint32_t flags)
{
	struct fix *f = arg;

	GFS2_BUG_ON(!start && !log_error(f->log) && f->log->l_shown_sequence != sequence);
}

static inline void fix_withdraw(void *arg, int error, const char *what)
{
	atomic_fetch_add(&((struct fix *)arg)->withdrawn, 1);
}

static inline void fix_used_twice(void *arg, uint64_t blkno)
{
	((struct fix *)arg)->used_twice = blkno;
	gfs2_log_stop(((struct fix *)arg)->log);
}

static inline void fix_dinode(char *block, uint64_t addr)
{
	struct gfs2_dinode *di = (void *)block;

	di->di_header.mh_magic = cpu_to_be32(GFS2_MAGIC);
	di->di_header.mh_type = cpu_to_be32(GFS2_METATYPE_DI);
	di->di_header.mh_format = cpu_to_be32(GFS2_FORMAT_DI);
	di->di_num.no_addr = cpu_to_be64(addr);
	di->di_mode = cpu_to_be32(S_IFREG | 0600);
	di->di_size = cpu_to_be64(sizeof(struct gfs2_statfs_change));
}

#define MASTER_FREE 1000000
#define MASTER_DINODES 5000

/* The volume's bytes after mkfs: journal full of clean headers as mkfs writes them, the head anywhere. */
static inline char *fix_mkfs(struct fix *f, uint32_t jblocks, unsigned nr_home)
{
	uint32_t bs = f->bsize, third = jblocks / 3, start = rnd(jblocks);
	uint64_t b = 65536 / bs + 1;
	char *img;
	__be64 *rec;

	f->master = b++;
	f->local = b++;
	f->x[1] = (struct gfs2_journal_extent){ third, third, b };
	b += third + 2;
	f->x[0] = (struct gfs2_journal_extent){ 0, third, b };
	b += third;
	f->x[2] = (struct gfs2_journal_extent){ 2 * third, jblocks - 2 * third, b };
	b += jblocks - 2 * third;
	f->home = b;
	f->nr_blocks = ALIGN_UP((b + nr_home) * bs, 4096) / bs;
	f->jd = (struct gfs2_jdesc){ .jd_jid = 3, .jd_no_addr = 77, .jd_blocks = jblocks,
				     .jd_nr_extents = 3, .jd_extents = f->x,
				     .jd_statfs_addr = f->local, .jd_quota_addr = f->local };
	img = calloc(f->nr_blocks, bs);
	fix_dinode(img + f->master * bs, f->master);
	fix_dinode(img + f->local * bs, f->local);
	rec = (__be64 *)(img + f->master * bs + sizeof(struct gfs2_dinode));
	rec[1] = cpu_to_be64(MASTER_FREE);
	rec[2] = cpu_to_be64(MASTER_DINODES);
	for (uint32_t i = 0; i < jblocks; i++) {
		uint64_t d = gfs2_journal_map(&f->jd, i);
		struct gfs2_log_header_args a = { .sequence = 1 + (i + start) % jblocks, .jinode = 77,
						  .addr = d, .flags = 0x80000001, .blkno = i };

		gfs2_log_header_encode(img + d * bs, bs, &a);
	}
	return img;
}

static inline void fix_write_file(const char *path, const char *img, size_t size)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_true(write(fd, img, size) == (ssize_t)size);
	close(fd);
}

static inline void fix_open_log(struct fix *f)
{
	struct gfs2_log_config cfg = {
		.engine = f->e, .bufs = f->bufs, .bsize = f->bsize, .jd = &f->jd, .head = f->head,
		.commit_secs = f->commit_secs,
		.hooks = { .arg = f, .local_statfs = fix_local_statfs, .withdraw = fix_withdraw,
			   .used_twice = fix_used_twice, .flush_event = fix_flush_event },
	};

	assert_int_equal(gfs2_log_create(&cfg, &f->log), 0);
}

/* Most tests flush a lot and do not care where; some want what a disk wants (alignment). */
static bool fix_on_disk;

static inline const char *memory_dir(void)
{
	return access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
}

/* @record: power can fail (device_crash()). */
static inline void fix_start(struct fix *f, uint32_t bsize, uint32_t jblocks, unsigned nr_home, bool record)
{
	char *img;

	memset(f, 0, sizeof(*f));
	msg_set_level(MSG_ERR);
	f->bsize = bsize;
	f->commit_secs = 3600;
	snprintf(f->dir, sizeof(f->dir), "%s/test_journal.XXXXXX", fix_on_disk ? "/tmp" : memory_dir());
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/img", f->dir);
	img = fix_mkfs(f, jblocks, nr_home);
	fix_write_file(f->path, img, f->nr_blocks * bsize);
	assert_int_equal(io_engine_open(f->path, false, &f->e), 0);
	/* Opened: nothing is left behind whatever happens. */
	unlink(f->path);
	rmdir(f->dir);
	assert_int_equal(buf_cache_create(f->e, bsize, 64 << 20, &f->bufs), 0);
	assert_int_equal(gfs2_find_jhead(f->e, bsize, &f->jd, &f->head), 0);
	if (record) {
		dev.media = img;
		dev.size = f->nr_blocks * bsize;
		dev.engine = f->e;
	} else {
		free(img);
	}
	fix_open_log(f);
}

static inline void fix_end(struct fix *f)
{
	gfs2_log_destroy(f->log);
	buf_cache_destroy(f->bufs);
	io_engine_close(f->e);
	for (unsigned i = 0; i < dev.nr_pend; i++)
		free(dev.pend[i].data);
	free(dev.pend);
	free(dev.media);
	dev.pend = NULL;
	dev.media = NULL;
	dev.nr_pend = dev.cap_pend = 0;
	dev.event = NULL;
}

/* The image file as it is. */
static inline char *fix_read_all(struct fix *f)
{
	size_t size = f->nr_blocks * f->bsize, off = 0;
	char *img = aligned_alloc(4096, ALIGN_UP(size, 4096));

	while (off < size) {
		ssize_t n = pread(io_engine_fd(f->e), img + off, size - off, off);

		CHECK(n > 0);
		off += n;
	}
	return img;
}

/*
 * Recover a copy of @img (the volume's size), which has the result afterwards.  Returns what
 * gfs2_recover_journal() returned.
 */
static inline int fix_recover(struct fix *f, char *img, struct gfs2_recovery_result *res)
{
	char path[64];
	struct fix copy = *f;
	char *after;
	int rc, fd;

	snprintf(path, sizeof(path), "%s/test_journal.XXXXXX", memory_dir());
	fd = mkstemp(path);

	CHECK(fd >= 0);
	CHECK(write(fd, img, f->nr_blocks * f->bsize) == (ssize_t)(f->nr_blocks * f->bsize));
	close(fd);
	rc = io_engine_open(path, false, &copy.e);
	unlink(path);
	CHECK(rc == 0);
	rc = gfs2_recover_journal(copy.e, f->bsize, &f->jd, 5, f->master, false, res);
	after = fix_read_all(&copy);
	memcpy(img, after, f->nr_blocks * f->bsize);
	free(after);
	io_engine_close(copy.e);
	return rc;
}

/* --- glocks and blocks --- */

static inline void glock_start(struct fix *f, struct gfs2_glock *gl, uint64_t number)
{
	memset(gl, 0, sizeof(*gl));
	gl->gl_number = number;
	gl->gl_type = LM_TYPE_INODE;
	mapping_init(&gl->gl_mapping, f->bufs, gl, false);
}

static inline void glock_end(struct gfs2_glock *gl)
{
	CHECK(atomic_load(&gl->gl_ail_count) == 0);
	CHECK(atomic_load(&gl->gl_revokes) == 0);
	mapping_invalidate(&gl->gl_mapping);
	mapping_destroy(&gl->gl_mapping);
}

/* Contents that depend on @tag; metadata has a header. */
static inline void fill_meta(struct gfs2_bh *bh, uint32_t bsize, uint64_t tag)
{
	struct gfs2_meta_header *mh = (void *)bh->b_data;

	mh->mh_magic = cpu_to_be32(GFS2_MAGIC);
	mh->mh_type = cpu_to_be32(GFS2_METATYPE_IN);
	mh->mh_format = cpu_to_be32(GFS2_FORMAT_IN);
	for (uint32_t i = sizeof(*mh) / 8; i < bsize / 8; i++)
		((uint64_t *)bh->b_data)[i] = tag * 1000003 + i;
}

static inline void fill_jdata(char *data, uint32_t bsize, uint64_t tag)
{
	for (uint32_t i = 0; i < bsize / 8; i++)
		((uint64_t *)data)[i] = tag * 7000003 + i;
	/* Often something that looks like a part of the log. */
	if (tag % 3 == 0)
		gfs2_log_header_encode(data, bsize, &(struct gfs2_log_header_args){ .sequence = tag });
	else if (tag % 3 == 1)
		log_descriptor_encode(data, bsize, GFS2_LOG_DESC_METADATA, 1, tag);
}

/* In a transaction: change block @home as metadata. */
static inline void change_meta(struct fix *f, struct gfs2_glock *gl, uint64_t blkno, uint64_t tag)
{
	struct gfs2_bh *bh = buf_get(&gl->gl_mapping, blkno);

	gfs2_trans_add_meta(f->log, gl, bh);
	fill_meta(bh, f->bsize, tag);
	buf_set_uptodate(bh);
	buf_put(bh);
}

/* One transaction of its own for block @home. */
static inline void trans_meta(struct fix *f, struct gfs2_glock *gl, uint64_t blkno, uint64_t tag)
{
	CHECK(gfs2_trans_begin(f->log, 1, 0) == 0);
	change_meta(f, gl, blkno, tag);
	gfs2_trans_end(f->log);
}

static inline uint64_t tag_word(uint64_t tag)
{
	return tag * 1000003 + 3;
}

/* The first word after the header of block @blkno in @img: which tag is there? */
static inline uint64_t img_word(struct fix *f, const char *img, uint64_t blkno)
{
	return ((const uint64_t *)(img + blkno * f->bsize))[3];
}

/* --- what single cases share: one volume, two glocks --- */

#define FLUSH (GFS2_LOG_HEAD_FLUSH_NORMAL | GFS2_LFC_DO_SYNC)

static struct fix f;
static struct gfs2_glock gl, gl2;

static inline void begin(uint32_t bsize, uint32_t jblocks, unsigned nr_home)
{
	fix_start(&f, bsize, jblocks, nr_home, false);
	glock_start(&f, &gl, 1000);
	glock_start(&f, &gl2, 2000);
}

static inline void end(void)
{
	gfs2_log_destroy(f.log);
	f.log = NULL;
	glock_end(&gl);
	glock_end(&gl2);
	fix_end(&f);
}

static inline void flush(void)
{
	assert_int_equal(gfs2_log_flush(f.log, FLUSH), 0);
}

/* Journal block number @pos after the clean head. */
static inline char *jblock(char *img, uint32_t pos)
{
	return img + gfs2_journal_map(&f.jd, (f.head.lh_blkno + 1 + pos) % f.jd.jd_blocks) * f.bsize;
}

static inline struct gfs2_log_header_host head_now(void)
{
	struct gfs2_log_header_host h;

	assert_int_equal(gfs2_find_jhead(f.e, f.bsize, &f.jd, &h), 0);
	return h;
}

#endif
