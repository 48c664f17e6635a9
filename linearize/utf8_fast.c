/* UTF-8 by vectors: ASCII is skipped 32 bytes at a time; other text goes through the three table
 * look-ups of Keiser and Lemire, "Validating UTF-8 in less than one instruction per byte" (2021):
 * each pair of neighbouring bytes is classed by its three nibbles, and what all three call wrong in
 * the same way is wrong; lengths of 3 and 4 are checked by where continuation bytes must be. */
#include "linearize/fast_internal.h"

#if defined(__AVX2__) || defined(__ARM_NEON)

#define TOO_SHORT   0x01 /* lead, then no continuation */
#define TOO_LONG    0x02 /* ASCII, then a continuation */
#define OVERLONG_3  0x04
#define TOO_LARGE   0x08 /* above U+10FFFF */
#define SURROGATE   0x10
#define OVERLONG_2  0x20
#define OVERLONG_4  0x40
#define TOO_LARGE_2 0x40
#define TWO_CONTS   0x80
#define CARRY       (TOO_SHORT | TOO_LONG | TWO_CONTS)
#define LARGE       (CARRY | TOO_LARGE | TOO_LARGE_2)
#define SECOND      (TOO_LONG | OVERLONG_2 | TWO_CONTS)

static const uint8_t first_high[16] = {
	TOO_LONG,
	TOO_LONG,
	TOO_LONG,
	TOO_LONG,
	TOO_LONG,
	TOO_LONG,
	TOO_LONG,
	TOO_LONG,
	TWO_CONTS,
	TWO_CONTS,
	TWO_CONTS,
	TWO_CONTS,
	TOO_SHORT | OVERLONG_2,
	TOO_SHORT,
	TOO_SHORT | OVERLONG_3 | SURROGATE,
	TOO_SHORT | TOO_LARGE | TOO_LARGE_2 | OVERLONG_4,
};
static const uint8_t first_low[16] = {
	CARRY | OVERLONG_3 | OVERLONG_2 | OVERLONG_4,
	CARRY | OVERLONG_2,
	CARRY,
	CARRY,
	CARRY | TOO_LARGE,
	LARGE,
	LARGE,
	LARGE,
	LARGE,
	LARGE,
	LARGE,
	LARGE,
	LARGE,
	LARGE | SURROGATE,
	LARGE,
	LARGE,
};
static const uint8_t second_high[16] = {
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	SECOND | OVERLONG_3 | TOO_LARGE_2 | OVERLONG_4,
	SECOND | OVERLONG_3 | TOO_LARGE,
	SECOND | SURROGATE | TOO_LARGE,
	SECOND | SURROGATE | TOO_LARGE,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
	TOO_SHORT,
};

#ifdef __AVX2__
#define STEP 32
typedef __m256i vector;

ALWAYS_INLINE vector vector_load(const uint8_t *p)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

ALWAYS_INLINE bool vector_is_ascii(vector v)
{
	return _mm256_movemask_epi8(v) == 0;
}

ALWAYS_INLINE bool vector_is_zero(vector v)
{
	return _mm256_testz_si256(v, v);
}

ALWAYS_INLINE vector vector_or(vector a, vector b)
{
	return _mm256_or_si256(a, b);
}

ALWAYS_INLINE vector table_load(const uint8_t *table)
{
	return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

ALWAYS_INLINE vector vector_none(void)
{
	return _mm256_setzero_si256();
}

/* Bytes that are wrong in `v`, which follows `before`. */
ALWAYS_INLINE vector vector_wrong(vector v, vector before)
{
	const vector nibble = _mm256_set1_epi8(0x0f);
	vector seam = _mm256_permute2x128_si256(before, v, 0x21);
	vector one = _mm256_alignr_epi8(v, seam, 15);
	vector two = _mm256_alignr_epi8(v, seam, 14);
	vector three = _mm256_alignr_epi8(v, seam, 13);
	vector a = _mm256_shuffle_epi8(table_load(first_high),
				       _mm256_and_si256(_mm256_srli_epi16(one, 4), nibble));
	vector b = _mm256_shuffle_epi8(table_load(first_low), _mm256_and_si256(one, nibble));
	vector c = _mm256_shuffle_epi8(table_load(second_high),
				       _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
	vector third = _mm256_subs_epu8(two, _mm256_set1_epi8(0xe0 - 0x80));
	vector fourth = _mm256_subs_epu8(three, _mm256_set1_epi8(0xf0 - 0x80));
	vector must =
		_mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8((char)0x80));

	return _mm256_xor_si256(must, _mm256_and_si256(_mm256_and_si256(a, b), c));
}
#else
#define STEP 16
typedef uint8x16_t vector;

ALWAYS_INLINE vector vector_load(const uint8_t *p)
{
	return vld1q_u8(p);
}

ALWAYS_INLINE bool vector_is_ascii(vector v)
{
	return vmaxvq_u8(v) < 0x80;
}

ALWAYS_INLINE bool vector_is_zero(vector v)
{
	return vmaxvq_u8(v) == 0;
}

ALWAYS_INLINE vector vector_or(vector a, vector b)
{
	return vorrq_u8(a, b);
}

ALWAYS_INLINE vector vector_none(void)
{
	return vdupq_n_u8(0);
}

/* Bytes that are wrong in `v`, which follows `before`. */
ALWAYS_INLINE vector vector_wrong(vector v, vector before)
{
	const vector nibble = vdupq_n_u8(0x0f);
	vector one = vextq_u8(before, v, 15);
	vector two = vextq_u8(before, v, 14);
	vector three = vextq_u8(before, v, 13);
	vector a = vqtbl1q_u8(vld1q_u8(first_high), vshrq_n_u8(one, 4));
	vector b = vqtbl1q_u8(vld1q_u8(first_low), vandq_u8(one, nibble));
	vector c = vqtbl1q_u8(vld1q_u8(second_high), vshrq_n_u8(v, 4));
	vector third = vqsubq_u8(two, vdupq_n_u8(0xe0 - 0x80));
	vector fourth = vqsubq_u8(three, vdupq_n_u8(0xf0 - 0x80));
	vector must = vandq_u8(vorrq_u8(third, fourth), vdupq_n_u8(0x80));

	return veorq_u8(must, vandq_u8(vandq_u8(a, b), c));
}
#endif

/* The start of the character that `p` cuts, at most 3 bytes before it; else `p`. */
static const uint8_t *character_begin(const uint8_t *p, const uint8_t *least)
{
	int back;

	for (back = 1; back <= 3 && p - back >= least; back++) {
		uint8_t c = p[-back];

		if (c >= 0xc0)
			return (c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4) > back ? p - back : p;
		if (c < 0x80)
			break;
	}
	return p;
}

const uint8_t *FAST_NAME(utf8_span)(const uint8_t *p, const uint8_t *end)
{
	const uint8_t *begin = p;
	vector before = vector_none(), wrong = vector_none();

	/* Mostly there is nothing but ASCII. */
	for (; end - p >= 4 * STEP; p += 4 * STEP) {
		vector low = vector_or(vector_load(p), vector_load(p + STEP));
		vector high = vector_or(vector_load(p + 2 * STEP), vector_load(p + 3 * STEP));

		if (!vector_is_ascii(vector_or(low, high)))
			break;
	}
	while (end - p >= STEP) {
		vector v = vector_load(p);

		if (!vector_is_ascii(v) || !vector_is_ascii(before))
			wrong = vector_or(wrong, vector_wrong(v, before));
		before = v;
		p += STEP;
	}
	if (!vector_is_zero(wrong))
		p = NULL;
	FAST_LEAVE();
	return p ? utf8_span(character_begin(p, begin), end) : NULL;
}

#else

const uint8_t *FAST_NAME(utf8_span)(const uint8_t *p, const uint8_t *end)
{
	return utf8_span(p, end);
}

#endif
