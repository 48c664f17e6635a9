/* Alignment, powers of two, and integers in wire order.
 *
 * Any thread; no state. Wire-order integers have types of their own (struct be16, be32, be64: byte
 * arrays, so any alignment will do), and cannot be mixed up with host integers.
 */
#ifndef SPLITD_BASE_BITS_H
#define SPLITD_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes that two cores fight over: 64 on x86, and DPDK's choice for most Arm servers. */
#define BITS_CACHE_LINE 64

#define cache_aligned __attribute__((aligned(BITS_CACHE_LINE)))

#ifndef likely
#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline bool is_pow2(uint64_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

/* Smallest power of two >= v. v = 0 gives 1; v > 2^63 gives 0. */
static inline uint64_t pow2_up(uint64_t v)
{
	if (v <= 1)
		return 1;
	if (v > (UINT64_C(1) << 63))
		return 0;
	return UINT64_C(1) << (64 - __builtin_clzll(v - 1));
}

/* Largest power of two <= v; 0 for 0. */
static inline uint64_t pow2_down(uint64_t v)
{
	return v == 0 ? 0 : UINT64_C(1) << (63 - __builtin_clzll(v));
}

/* floor(log2(v)), v != 0. */
static inline unsigned log2_floor(uint64_t v)
{
	return 63u - (unsigned)__builtin_clzll(v);
}

/* ceil(log2(v)), v != 0. */
static inline unsigned log2_ceil(uint64_t v)
{
	return v <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(v - 1);
}

/* `align` is a power of two. align_up wraps when v is within `align` of 2^64: check first where v
 * is not ours. */
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline bool is_aligned(uint64_t v, uint64_t align)
{
	return (v & (align - 1)) == 0;
}

/* Whether [off, off+len) lies within [0, size); no overflow whatever the arguments. */
static inline bool range_fits(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

static inline uint16_t be16_load(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(v) : v;
}

static inline uint32_t be32_load(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(v) : v;
}

static inline uint64_t be64_load(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(v) : v;
}

static inline void be16_store(void *p, uint16_t v)
{
	if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
		v = __builtin_bswap16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void be32_store(void *p, uint32_t v)
{
	if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
		v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void be64_store(void *p, uint64_t v)
{
	if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
		v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}

static inline uint16_t le16_load(const void *p)
{
	return __builtin_bswap16(be16_load(p));
}

static inline uint32_t le32_load(const void *p)
{
	return __builtin_bswap32(be32_load(p));
}

static inline uint64_t le64_load(const void *p)
{
	return __builtin_bswap64(be64_load(p));
}

static inline void le16_store(void *p, uint16_t v)
{
	be16_store(p, __builtin_bswap16(v));
}

static inline void le32_store(void *p, uint32_t v)
{
	be32_store(p, __builtin_bswap32(v));
}

static inline void le64_store(void *p, uint64_t v)
{
	be64_store(p, __builtin_bswap64(v));
}

/* Wire-order integers for packet structs; alignment 1. */
struct be16 {
	uint8_t b[2];
};

struct be32 {
	uint8_t b[4];
};

struct be64 {
	uint8_t b[8];
};

_Static_assert(sizeof(struct be16) == 2 && _Alignof(struct be16) == 1, "be16 layout");
_Static_assert(sizeof(struct be32) == 4 && _Alignof(struct be32) == 1, "be32 layout");
_Static_assert(sizeof(struct be64) == 8 && _Alignof(struct be64) == 1, "be64 layout");

static inline uint16_t be16_get(struct be16 v)
{
	return be16_load(v.b);
}

static inline uint32_t be32_get(struct be32 v)
{
	return be32_load(v.b);
}

static inline uint64_t be64_get(struct be64 v)
{
	return be64_load(v.b);
}

static inline struct be16 be16_make(uint16_t v)
{
	struct be16 r;

	be16_store(r.b, v);
	return r;
}

static inline struct be32 be32_make(uint32_t v)
{
	struct be32 r;

	be32_store(r.b, v);
	return r;
}

static inline struct be64 be64_make(uint64_t v)
{
	struct be64 r;

	be64_store(r.b, v);
	return r;
}

#endif
