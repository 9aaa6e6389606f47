/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every module uses: byte order, checksums, messages, assertions.
 */
#ifndef GFS2FUSE_UTIL_H
#define GFS2FUSE_UTIL_H

#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

struct iovec;

#define be16_to_cpu(x) be16toh((uint16_t)(x))
#define be32_to_cpu(x) be32toh((uint32_t)(x))
#define be64_to_cpu(x) be64toh((uint64_t)(x))
#define cpu_to_be16(x) htobe16(x)
#define cpu_to_be32(x) htobe32(x)
#define cpu_to_be64(x) htobe64(x)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define ALIGN_UP(x, a) (((x) + (a) - 1) & ~((__typeof__(x))(a) - 1))
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a) - 1))
#define min_t(t, a, b) ((t)(a) < (t)(b) ? (t)(a) : (t)(b))
#define max_t(t, a, b) ((t)(a) > (t)(b) ? (t)(a) : (t)(b))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* CRC32 as zlib's: rg_crc, lh_hash, directory hashes (reference section 11.1). */
uint32_t gfs2_crc32(uint32_t crc, const void *buf, size_t len);
/* CRC32C with init @crc and no final inversion: lh_crc wants init 0xffffffff. */
uint32_t gfs2_crc32c(uint32_t crc, const void *buf, size_t len);
/* The same without the processor's help: what gfs2_crc32c falls back to; for the unit test. */
uint32_t gfs2_crc32c_portable(uint32_t crc, const void *buf, size_t len);
/* Directory hash of a name of @len bytes (dir.h:gfs2_disk_hash). */
static inline uint32_t gfs2_disk_hash(const char *name, size_t len)
{
	return gfs2_crc32(0, name, len);
}

/* Objects of a pool are one allocation each under the address sanitizer: it sees uses after the end and beyond the object. */
#if defined(__SANITIZE_ADDRESS__)
#define EXACT_ALLOC true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EXACT_ALLOC true
#endif
#endif
#ifndef EXACT_ALLOC
#define EXACT_ALLOC false
#endif

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t now_ns(void);
/* CLOCK_REALTIME in nanoseconds; may be set back. */
uint64_t wall_ns(void);
/* What /proc calls the process, for a terminal: it may have chosen control characters, which are '?' here.  False, and "": there is none. */
bool command_of(pid_t pid, char *buf, size_t size);
/* CLOCK_REALTIME_COARSE: the resolution that file times have in the kernel. */
struct timespec current_time(void);

/*
 * Messages go to stderr, and to syslog once the daemon is in the background.  @name of the volume
 * is prefixed once msg_set_prefix() was called, as the kernel does ("fsid=...: ").
 */
enum msg_level { MSG_ERR, MSG_WARN, MSG_INFO, MSG_DEBUG };
void msg_set_prefix(const char *fsname);
void msg_set_level(enum msg_level max);
/* @path: its socket; NULL: /dev/log. */
void msg_use_syslog(const char *path);
bool msg_is_to_syslog(void);
/*
 * fatal.c, for itself and for msg(); also in a signal handler.  One message for syslog: false if its receiver does not take it within
 * @wait_ms, true also if there is none.  Bytes for a socket's reader: then -1 and EAGAIN.
 */
bool msg_to_syslog(const char *path, int priority, const char *words, size_t len, int wait_ms);
ssize_t msg_send(int fd, struct iovec *iov, unsigned nr, int wait_ms);
/* From now on a death by SIGSEGV, SIGABRT and the like is told, too (fatal.c).  Before there are threads. */
void msg_say_fatal_signals(void);
/* For threads that leave signals to the main thread: all are blocked but those of fatal.c, which a thread causes itself. */
void block_all_but_faults(sigset_t *old);
/* What this thread does has been tried and told before: until it is called with false all messages of the thread are MSG_DEBUG. */
void msg_hush(bool hush);
void msg(enum msg_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define fs_err(...) msg(MSG_ERR, __VA_ARGS__)
#define fs_warn(...) msg(MSG_WARN, __VA_ARGS__)
/*
 * What a device that fails can be made to say again and again: ten of one kind in five seconds, as the kernel's printk_ratelimit().  The first one
 * that is left out is replaced by a word about that.
 */
struct msg_limit {
	atomic_uint_least64_t since;	/* now_ns(); 0: never */
	atomic_uint nr;
};
bool msg_limit(struct msg_limit *l);
/* For tests that look at every message. */
void msg_without_limits(void);
#define fs_err_limited(...) \
	do { \
		static struct msg_limit limit_; \
		if (msg_limit(&limit_)) \
			fs_err(__VA_ARGS__); \
	} while (0)
#define fs_info(...) msg(MSG_INFO, __VA_ARGS__)
#define fs_dbg(...) msg(MSG_DEBUG, __VA_ARGS__)

/*
 * Three tiers (as gfs2's): GFS2_BUG_ON is a programmer's error and ends the process before it can
 * write anything else; gfs2_assert_debug only exists in debug builds (meson: buildtype=debug, or
 * -Ddebug-checks=enabled); on-disk inconsistencies are never asserted, they withdraw
 * (fs/super.h:gfs2_consist).
 */
_Noreturn void gfs2_bug(const char *expr, const char *file, int line, const char *func);
#define GFS2_BUG_ON(cond)                                                                          \
	do {                                                                                       \
		if (unlikely(cond))                                                                \
			gfs2_bug(#cond, __FILE__, __LINE__, __func__);                             \
	} while (0)
#ifdef GFS2_DEBUG_CHECKS
#define gfs2_assert_debug(expr) GFS2_BUG_ON(!(expr))
#else
#define gfs2_assert_debug(expr) ((void)sizeof(expr))
#endif

/*
 * A pointer that goes out through the kernel (a file handle) and comes back on another thread: the thread sanitizer cannot see that the
 * one happened before the other.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define GFS2_TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define GFS2_TSAN 1
#endif
#ifdef GFS2_TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define handle_out(p) __tsan_release(p)
#define handle_in(p) __tsan_acquire(p)
#else
#define handle_out(p) ((void)(p))
#define handle_in(p) ((void)(p))
#endif

/*
 * Memory that cannot fail: who asks waits until there is some (memory.c).  For what cannot be given up half way; what can, a
 * request that has changed nothing yet, uses malloc and answers -ENOMEM.  Never on a receive thread, which must not wait.
 */
void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xzalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *old, size_t size) __attribute__((returns_nonnull));
void *xaligned_alloc(size_t align, size_t size) __attribute__((malloc, returns_nonnull));
char *xstrdup(const char *text) __attribute__((malloc, returns_nonnull));
/* The same for other ways to get @size bytes: between two attempts.  @attempt counts from 0. */
void memory_wait(size_t size, unsigned attempt);
/*
 * Who waits longer than @secs ends the process, with a message and status 32; 0 (the default): never. Before a mount is there, nobody would
 * be told by waiting; what a mount had begun is left as by a crash. To be called while there is one thread only, or with 0.
 */
void memory_wait_for(unsigned secs);
/* @fn is called at a shortage, under any lock: it may only wake somebody.  NULL: nobody; nobody is in the old one any more. */
void memory_on_shortage(void (*fn)(void));
/* Has there been a shortage since the reserve was last filled? */
bool memory_is_short(void);
/* Called now and then by who was woken: the end of the shortage, if there is memory again. */
void memory_reserve_fill(void);

#endif
