/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checksums of the on-disk format (reference gfs2-ondisk.md section 11.1).
 *
 * CRC32 is zlib's.  CRC32C is computed over almost a whole block for every log header, so it uses
 * the processor's instruction where there is one, else eight tables of 256 entries (slicing by 8).
 * The tables are built once, at the first use.
 */
#include "util/util.h"

#include <pthread.h>
#include <zlib.h>

#define CRC32C_POLY 0x82f63b78u /* reflected */

static uint32_t crc32c_table[8][256];
static uint32_t (*crc32c_impl)(uint32_t crc, const uint8_t *p, size_t len);
static pthread_once_t crc32c_once = PTHREAD_ONCE_INIT;

uint32_t gfs2_crc32(uint32_t crc, const void *buf, size_t len)
{
	return crc32_z(crc, buf, len);
}

static uint32_t crc32c_by_table(uint32_t crc, const uint8_t *p, size_t len)
{
	while (len >= 8) {
		uint64_t v;

		memcpy(&v, p, 8);
		v = le64toh(v) ^ crc;
		crc = crc32c_table[7][v & 0xff] ^ crc32c_table[6][(v >> 8) & 0xff] ^
		      crc32c_table[5][(v >> 16) & 0xff] ^ crc32c_table[4][(v >> 24) & 0xff] ^
		      crc32c_table[3][(v >> 32) & 0xff] ^ crc32c_table[2][(v >> 40) & 0xff] ^
		      crc32c_table[1][(v >> 48) & 0xff] ^ crc32c_table[0][v >> 56];
		p += 8;
		len -= 8;
	}
	while (len--)
		crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *p++) & 0xff];
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_by_sse42(uint32_t crc, const uint8_t *p,
								  size_t len)
{
	uint64_t c = crc;

	while (len >= 8) {
		uint64_t v;

		memcpy(&v, p, 8);
		c = __builtin_ia32_crc32di(c, v);
		p += 8;
		len -= 8;
	}
	crc = c;
	while (len--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}
#endif

static void crc32c_setup(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = (c >> 1) ^ (c & 1 ? CRC32C_POLY : 0);
		crc32c_table[0][i] = c;
	}
	for (unsigned i = 0; i < 256; i++)
		for (int t = 1; t < 8; t++) {
			uint32_t c = crc32c_table[t - 1][i];

			crc32c_table[t][i] = (c >> 8) ^ crc32c_table[0][c & 0xff];
		}
	crc32c_impl = crc32c_by_table;
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		crc32c_impl = crc32c_by_sse42;
#endif
}

uint32_t gfs2_crc32c(uint32_t crc, const void *buf, size_t len)
{
	pthread_once(&crc32c_once, crc32c_setup);
	return crc32c_impl(crc, buf, len);
}

uint32_t gfs2_crc32c_portable(uint32_t crc, const void *buf, size_t len)
{
	pthread_once(&crc32c_once, crc32c_setup);
	return crc32c_by_table(crc, buf, len);
}
