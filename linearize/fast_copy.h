/* How the fast decode engine moves bytes, and looks for what is not ASCII while they are at hand.
 */
#ifndef SPLITD_LINEARIZE_FAST_COPY_H
#define SPLITD_LINEARIZE_FAST_COPY_H

#include "linearize/fast_internal.h"

#define COPY_SHORT  32  /* what is moved at once */
#define COPY_MIDDLE 255 /* the longest for copy_middle() */

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

/* Move `n` bytes (33 to COPY_MIDDLE) by 32, where source and target have room for a whole number
 * of those; are they ASCII? */
ALWAYS_INLINE bool copy_middle(uint8_t *to, const uint8_t *from, uint64_t n)
{
	bool ascii = true;
	uint64_t i;

	for (i = 0; i + 32 <= n; i += 32)
		ascii &= copy32_ascii(to + i, from + i, 32);
	return copy32_ascii(to + i, from + i, (unsigned)(n - i)) & ascii;
}

/* Move `n` bytes, 128 at a time, as long as they are ASCII. Returns how many were; what is behind
 * them is not moved, or is to be moved again. */
static inline uint64_t copy_ascii(uint8_t *to, const uint8_t *from, uint64_t n)
{
	uint64_t i = 0;

#ifdef __AVX2__
	for (; n - i >= 128; i += 128) {
		const __m256i *in = (const __m256i *)(const void *)(from + i);
		__m256i *out = (__m256i *)(void *)(to + i);
		__m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
		__m256i c = _mm256_loadu_si256(in + 2), d = _mm256_loadu_si256(in + 3);
		__m256i all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));

		if (_mm256_movemask_epi8(all) != 0)
			break;
		_mm256_storeu_si256(out, a);
		_mm256_storeu_si256(out + 1, b);
		_mm256_storeu_si256(out + 2, c);
		_mm256_storeu_si256(out + 3, d);
	}
	/* What is left, from its end on: some of it a second time. */
	if (i && n - i < 128) {
		uint64_t k;

		for (k = n - 32; k > i - 32; k -= 32) {
			__m256i part =
				_mm256_loadu_si256((const __m256i *)(const void *)(from + k));

			if (_mm256_movemask_epi8(part) != 0)
				return i;
			_mm256_storeu_si256((__m256i *)(void *)(to + k), part);
		}
		i = n;
	}
#else
	(void)to, (void)from, (void)n;
#endif
	return i;
}

/* Like memcpy, which for some thousand bytes and more uses an instruction that is slow where the
 * target is not aligned. */
static inline void copy_long(uint8_t *to, const uint8_t *from, uint64_t n)
{
	uint64_t i = 0;

#ifdef __AVX2__
	if (n >= 256) {
		_mm256_storeu_si256((__m256i *)(void *)to,
				    _mm256_loadu_si256((const __m256i *)(const void *)from));
		for (i = -(uintptr_t)to & 31; n - i >= 128; i += 128) {
			const __m256i *in = (const __m256i *)(const void *)(from + i);
			__m256i *out = (__m256i *)(void *)(to + i);
			__m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
			__m256i c = _mm256_loadu_si256(in + 2), d = _mm256_loadu_si256(in + 3);

			_mm256_store_si256(out, a);
			_mm256_store_si256(out + 1, b);
			_mm256_store_si256(out + 2, c);
			_mm256_store_si256(out + 3, d);
		}
	}
#endif
	memcpy(to + i, from + i, n - i);
}

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
