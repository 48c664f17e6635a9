/* How the fast decode engine moves bytes, and looks for what is not ASCII while they are at hand.
 */
#ifndef SPLITD_LINEARIZE_FAST_COPY_H
#define SPLITD_LINEARIZE_FAST_COPY_H

#include "linearize/fast_internal.h"

#define COPY_SHORT 32 /* what is moved at once */

/* Move 32 bytes; are the first `n` of them (at most 32) ASCII? */
ALWAYS_INLINE bool copy32_ascii(uint8_t *to, const uint8_t *from, unsigned n)
{
#if defined(__AVX2__)
	__m256i all = _mm256_loadu_si256((const __m256i *)(const void *)from);

	_mm256_storeu_si256((__m256i *)(void *)to, all);
	return _bzhi_u64((unsigned)_mm256_movemask_epi8(all), n) == 0;
#elif defined(__SSE2__)
	__m128i low = _mm_loadu_si128((const __m128i *)(const void *)from);
	__m128i high = _mm_loadu_si128((const __m128i *)(const void *)(from + 16));
	uint64_t mask = (uint64_t)(unsigned)_mm_movemask_epi8(low) |
			(uint64_t)(unsigned)_mm_movemask_epi8(high) << 16;

	_mm_storeu_si128((__m128i *)(void *)to, low);
	_mm_storeu_si128((__m128i *)(void *)(to + 16), high);
	return !(mask & (((uint64_t)1 << n) - 1));
#else
	uint64_t w[4], over = 0;
	unsigned i;

	memcpy(w, from, sizeof(w));
	memcpy(to, w, sizeof(w));
	for (i = 0; i < n / 8; i++)
		over |= w[i];
	if (n % 8)
		over |= w[n / 8] << (64 - n % 8 * 8);
	return !(over & HIGH_BITS);
#endif
}

#ifdef __AVX2__
#define COPY_WHOLE

ALWAYS_INLINE __m256i vector32(const uint8_t *from)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

ALWAYS_INLINE void vector32_put(uint8_t *to, __m256i v)
{
	_mm256_storeu_si256((__m256i *)(void *)to, v);
}

/* Move 128 bytes; `any` with all of them. */
ALWAYS_INLINE __m256i copy128(uint8_t *to, const uint8_t *from, __m256i any)
{
	__m256i a = vector32(from), b = vector32(from + 32);
	__m256i c = vector32(from + 64), d = vector32(from + 96);

	vector32_put(to, a);
	vector32_put(to + 32, b);
	vector32_put(to + 64, c);
	vector32_put(to + 96, d);
	return _mm256_or_si256(any, _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

/* Move `n` bytes, 32 or more; are they ASCII? No other byte is read or written. What is left at the
 * end is moved from the last byte back, some of it a second time: the fewer branches depend on the
 * length the better. */
ALWAYS_INLINE bool copy_whole(uint8_t *to, const uint8_t *from, uint64_t n)
{
	__m256i any = vector32(from);
	uint64_t i = 0;

	if (n < 128) {
		uint64_t half = n < 64 ? 0 : 32;
		__m256i b = vector32(from + half), c = vector32(from + n - 32 - half);
		__m256i d = vector32(from + n - 32);

		vector32_put(to, any);
		vector32_put(to + half, b);
		vector32_put(to + n - 32 - half, c);
		vector32_put(to + n - 32, d);
		any = _mm256_or_si256(_mm256_or_si256(any, b), _mm256_or_si256(c, d));
		return _mm256_movemask_epi8(any) == 0;
	}
	/* A store over two lines takes twice as long as a load from two. */
	if (n >= 512) {
		vector32_put(to, any);
		i = 32 - ((uintptr_t)to & 31);
	}
	for (; i + 128 < n; i += 128)
		any = copy128(to + i, from + i, any);
	any = copy128(to + n - 128, from + n - 128, any);
	return _mm256_movemask_epi8(any) == 0;
}
#endif

/* 64 bytes. */
ALWAYS_INLINE void copy64(uint8_t *to, const uint8_t *from)
{
#ifdef __AVX2__
	__m256i low = _mm256_loadu_si256((const __m256i *)(const void *)from);
	__m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(from + 32));

	_mm256_storeu_si256((__m256i *)(void *)to, low);
	_mm256_storeu_si256((__m256i *)(void *)(to + 32), high);
#else
	memcpy(to, from, 32);
	memcpy(to + 32, from + 32, 32);
#endif
}

#endif
