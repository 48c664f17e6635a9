/* Runs of packed varints, at the speed of vectors where the machine has them.
 *
 * Decode looks at 64 bytes at a time: the bytes below 0x80 are the ends of varints, and give a
 * mask. A full mask is 64 numbers of one byte, widened by vectors; else the mask is taken apart bit
 * by bit, so that where a number begins never depends on the value before it, and no branch on its
 * length but the rare one past 8 bytes. Encode goes backwards: vectors narrow what is small, the
 * rest is spread over a word whose front end is cut off, again without a branch on the length. */
#include "linearize/fast_internal.h"

#define BLOCK 64

ALWAYS_INLINE bool kind_is_wide(enum varint_kind kind)
{
	return kind == VARINT_64 || kind == VARINT_ZIGZAG_64;
}

/* --- Masks ------------------------------------------------------------------------------------ */

/* Bit i: p[i] ends a varint. */
ALWAYS_INLINE uint64_t ends_mask(const uint8_t *p)
{
#if defined(__AVX2__)
	__m256i low = _mm256_loadu_si256((const __m256i *)(const void *)p);
	__m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));

	return ~((uint64_t)(uint32_t)_mm256_movemask_epi8(low) |
		 (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32);
#elif defined(__SSE2__)
	uint64_t mask = 0;
	unsigned i;

	for (i = 0; i < 4; i++) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 16UL * i));

		mask |= (uint64_t)(unsigned)_mm_movemask_epi8(v) << 16 * i;
	}
	return ~mask;
#elif defined(__ARM_NEON)
	static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
	uint8x16_t weight = vld1q_u8(bits), limit = vdupq_n_u8(0x80);
	uint8x16_t a = vandq_u8(vcltq_u8(vld1q_u8(p), limit), weight);
	uint8x16_t b = vandq_u8(vcltq_u8(vld1q_u8(p + 16), limit), weight);
	uint8x16_t c = vandq_u8(vcltq_u8(vld1q_u8(p + 32), limit), weight);
	uint8x16_t d = vandq_u8(vcltq_u8(vld1q_u8(p + 48), limit), weight);
	uint8x16_t sum = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));

	return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sum, sum)), 0);
#else
	uint64_t mask = 0;
	unsigned i;

	/* The high bits of 8 bytes, gathered in the top byte of a product. */
	for (i = 0; i < 8; i++)
		mask |= (((~load64(p + 8UL * i) & HIGH_BITS) >> 7) * 0x0102040810204080u >> 56)
			<< 8 * i;
	return mask;
#endif
}

uint64_t FAST_NAME(varints_ends)(const uint8_t *p)
{
	return ends_mask(p);
}

uint64_t FAST_NAME(varints_count)(const uint8_t *p, const uint8_t *end)
{
	uint64_t n = 0;

#if defined(__POPCNT__) || defined(__ARM_NEON)
	for (; end - p >= BLOCK; p += BLOCK)
		n += (unsigned)__builtin_popcountll(ends_mask(p));
#endif
	for (; end - p >= 8; p += 8) {
		uint64_t w = (~load64(p) & HIGH_BITS) >> 7;

		n += w * 0x0101010101010101u >> 56;
	}
	for (; p < end; p++)
		n += *p < 0x80;
	return n;
}

/* --- Decode ----------------------------------------------------------------------------------- */

ALWAYS_INLINE uint64_t value_of(enum varint_kind kind, uint64_t v)
{
	switch (kind) {
	case VARINT_ZIGZAG_32:
		return (uint32_t)v >> 1 ^ -((uint32_t)v & 1);
	case VARINT_ZIGZAG_64:
		return v >> 1 ^ -(v & 1);
	case VARINT_BOOL:
		return v != 0;
	default:
		return v;
	}
}

ALWAYS_INLINE void value_store(enum varint_kind kind, uint8_t *slot, uint64_t v)
{
	if (kind_is_wide(kind))
		store64(slot, value_of(kind, v));
	else
		store32(slot, (uint32_t)value_of(kind, v));
}

#ifdef __AVX2__
/* 16 numbers of one byte. Zigzag leaves the range of a signed byte alone. */
ALWAYS_INLINE void widen_16(enum varint_kind kind, uint8_t *slot, const uint8_t *p)
{
	__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
	__m256i *to = (__m256i *)(void *)slot;
	unsigned i;

	if (kind == VARINT_BOOL)
		v = _mm_min_epu8(v, _mm_set1_epi8(1));
	if (kind == VARINT_ZIGZAG_32 || kind == VARINT_ZIGZAG_64) {
		__m128i half = _mm_and_si128(_mm_srli_epi16(v, 1), _mm_set1_epi8(0x3f));
		__m128i sign =
			_mm_sub_epi8(_mm_setzero_si128(), _mm_and_si128(v, _mm_set1_epi8(1)));

		v = _mm_xor_si128(half, sign);
	}
	if (kind_is_wide(kind)) {
		for (i = 0; i < 4; i++, v = _mm_srli_si128(v, 4))
			_mm256_storeu_si256(to + i, _mm256_cvtepi8_epi64(v));
	} else {
		for (i = 0; i < 2; i++, v = _mm_srli_si128(v, 8))
			_mm256_storeu_si256(to + i, _mm256_cvtepi8_epi32(v));
	}
}
#elif defined(__ARM_NEON)
ALWAYS_INLINE void widen_16(enum varint_kind kind, uint8_t *slot, const uint8_t *p)
{
	uint8x16_t v = vld1q_u8(p);
	int32x4_t words[4];
	int16x8_t low, high;
	unsigned i;

	if (kind == VARINT_BOOL)
		v = vminq_u8(v, vdupq_n_u8(1));
	if (kind == VARINT_ZIGZAG_32 || kind == VARINT_ZIGZAG_64)
		v = veorq_u8(vshrq_n_u8(v, 1), vsubq_u8(vdupq_n_u8(0), vandq_u8(v, vdupq_n_u8(1))));
	low = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(v)));
	high = vmovl_s8(vget_high_s8(vreinterpretq_s8_u8(v)));
	words[0] = vmovl_s16(vget_low_s16(low));
	words[1] = vmovl_s16(vget_high_s16(low));
	words[2] = vmovl_s16(vget_low_s16(high));
	words[3] = vmovl_s16(vget_high_s16(high));
	for (i = 0; i < 4; i++) {
		if (kind_is_wide(kind)) {
			vst1q_u8(slot + 32UL * i,
				 vreinterpretq_u8_s64(vmovl_s32(vget_low_s32(words[i]))));
			vst1q_u8(slot + 32UL * i + 16,
				 vreinterpretq_u8_s64(vmovl_s32(vget_high_s32(words[i]))));
		} else {
			vst1q_u8(slot + 16UL * i, vreinterpretq_u8_s32(words[i]));
		}
	}
}
#else
ALWAYS_INLINE void widen_16(enum varint_kind kind, uint8_t *slot, const uint8_t *p)
{
	unsigned i, bytes = kind_is_wide(kind) ? 8 : 4;

	for (i = 0; i < 16; i++)
		value_store(kind, slot + (size_t)i * bytes, p[i]);
}
#endif

/* The numbers whose ends are in `ends`, from `start` on; returns where the next one begins, or
 * NULL. */
ALWAYS_INLINE const uint8_t *block_decode(enum varint_kind kind, uint8_t **slot, const uint8_t *p,
					  uint64_t ends)
{
	const unsigned bytes = kind_is_wide(kind) ? 8 : 4;
	const uint8_t *start = p;
	uint8_t *to = *slot;

	if (unlikely(!ends))
		return NULL;
	while (ends) {
		const uint8_t *next = p + (unsigned)__builtin_ctzll(ends) + 1;
		unsigned n = (unsigned)(next - start);
		uint64_t w = load64(start), v;

		if (likely(n <= 8)) {
			v = groups_join(w << (64 - 8 * n) >> (64 - 8 * n));
		} else {
			if (n > 10)
				return NULL;
			v = groups_join(w) | (uint64_t)(start[8] & 0x7f) << 56;
			if (n == 10)
				v |= (uint64_t)start[9] << 63;
		}
		value_store(kind, to, v);
		to += bytes;
		start = next;
		ends &= ends - 1;
	}
	*slot = to;
	return start;
}

ALWAYS_INLINE bool decode_kind(enum varint_kind kind, uint8_t *slot, const uint8_t *p,
			       const uint8_t *end, const uint8_t *wire_end)
{
	const unsigned bytes = kind_is_wide(kind) ? 8 : 4;

	while (end - p >= BLOCK && wire_end - p >= BLOCK + 8) {
		uint64_t ends = ends_mask(p);
		unsigned i;

		if (ends == UINT64_MAX) {
			for (i = 0; i < BLOCK; i += 16, slot += (size_t)16 * bytes)
				widen_16(kind, slot, p + i);
			p += BLOCK;
		} else {
			p = block_decode(kind, &slot, p, ends);
			if (!p)
				return false;
		}
	}
	while (p < end) {
		struct varint r;

		if (end - p >= 16 && !((load64(p) | load64(p + 8)) & HIGH_BITS)) {
			widen_16(kind, slot, p);
			slot += (size_t)16 * bytes;
			p += 16;
			continue;
		}
		r = likely(wire_end - p >= 10) ? varint_near(p) : varint_careful(p, end);
		if (unlikely(!r.next || r.next > end))
			return false;
		value_store(kind, slot, r.v);
		slot += bytes;
		p = r.next;
	}
	return true;
}

bool FAST_NAME(varints_decode)(enum varint_kind kind, uint8_t *slot, const uint8_t *p,
			       const uint8_t *end, const uint8_t *wire_end)
{
	switch (kind) {
	case VARINT_32:
		return decode_kind(VARINT_32, slot, p, end, wire_end);
	case VARINT_64:
		return decode_kind(VARINT_64, slot, p, end, wire_end);
	case VARINT_ZIGZAG_32:
		return decode_kind(VARINT_ZIGZAG_32, slot, p, end, wire_end);
	case VARINT_ZIGZAG_64:
		return decode_kind(VARINT_ZIGZAG_64, slot, p, end, wire_end);
	default:
		return decode_kind(VARINT_BOOL, slot, p, end, wire_end);
	}
}

bool FAST_NAME(varints_decode_block)(enum varint_kind kind, uint8_t *slot, const uint8_t *p,
				     uint64_t ends)
{
	switch (kind) {
	case VARINT_32:
		return block_decode(VARINT_32, &slot, p, ends) != NULL;
	case VARINT_64:
		return block_decode(VARINT_64, &slot, p, ends) != NULL;
	case VARINT_ZIGZAG_32:
		return block_decode(VARINT_ZIGZAG_32, &slot, p, ends) != NULL;
	case VARINT_ZIGZAG_64:
		return block_decode(VARINT_ZIGZAG_64, &slot, p, ends) != NULL;
	default:
		return block_decode(VARINT_BOOL, &slot, p, ends) != NULL;
	}
}

/* --- Encode ----------------------------------------------------------------------------------- */

typedef uint32_t hostile32 __attribute__((aligned(1), may_alias));
typedef uint64_t hostile64 __attribute__((aligned(1), may_alias));

/* Loaded once: see encode.c. */
ALWAYS_INLINE uint64_t element_load(enum varint_kind kind, const uint8_t *array, uint64_t i)
{
	if (kind_is_wide(kind))
		return *(const volatile hostile64 *)(const void *)(array + i * 8);
	return *(const volatile hostile32 *)(const void *)(array + i * 4);
}

ALWAYS_INLINE uint64_t wire_of(enum varint_kind kind, bool sign_extend, uint64_t v)
{
	switch (kind) {
	case VARINT_32:
		return sign_extend ? (uint64_t)(int64_t)(int32_t)v : v;
	case VARINT_ZIGZAG_32:
		return (uint32_t)((uint32_t)v << 1) ^ (uint32_t)((int32_t)v >> 31);
	case VARINT_ZIGZAG_64:
		return v << 1 ^ (uint64_t)((int64_t)v >> 63);
	case VARINT_BOOL:
		return v != 0;
	default:
		return v;
	}
}

#ifdef __AVX2__
/* What was loaded stays in its register: the peer may change memory meanwhile. */
#define HOLD(v) __asm__ volatile("" : "+x"(v))

/* 8 elements that end before `at`, if each makes one byte; else false and nothing is written. */
ALWAYS_INLINE bool narrow_8(enum varint_kind kind, uint8_t *head, const uint8_t *at)
{
	const __m256i order = _mm256_setr_epi32(0, 4, 0, 0, 0, 0, 0, 0);
	__m256i low, high, bad;

	if (kind_is_wide(kind)) {
		low = _mm256_loadu_si256((const __m256i *)(const void *)(at - 64));
		high = _mm256_loadu_si256((const __m256i *)(const void *)(at - 32));
		HOLD(low);
		HOLD(high);
		if (kind == VARINT_ZIGZAG_64) {
			__m256i zero = _mm256_setzero_si256();

			low = _mm256_xor_si256(_mm256_slli_epi64(low, 1),
					       _mm256_cmpgt_epi64(zero, low));
			high = _mm256_xor_si256(_mm256_slli_epi64(high, 1),
						_mm256_cmpgt_epi64(zero, high));
		}
		bad = _mm256_or_si256(low, high);
		if (!_mm256_testz_si256(bad, _mm256_set1_epi64x(~INT64_C(0x7f))))
			return false;
		/* The low words of both, in order: 0 2 (low) 4 6 (high) in each half, then sorted.
		 */
		low = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(low),
							    _mm256_castsi256_ps(high), 0x88));
		low = _mm256_permute4x64_epi64(low, 0xd8);
	} else {
		low = _mm256_loadu_si256((const __m256i *)(const void *)(at - 32));
		HOLD(low);
		if (kind == VARINT_BOOL)
			low = _mm256_andnot_si256(_mm256_cmpeq_epi32(low, _mm256_setzero_si256()),
						  _mm256_set1_epi32(1));
		if (kind == VARINT_ZIGZAG_32)
			low = _mm256_xor_si256(_mm256_slli_epi32(low, 1),
					       _mm256_srai_epi32(low, 31));
		if (!_mm256_testz_si256(low, _mm256_set1_epi32(~0x7f)))
			return false;
	}
	low = _mm256_packus_epi32(low, low);
	low = _mm256_packus_epi16(low, low);
	low = _mm256_permutevar8x32_epi32(low, order);
	store64(head - 8, (uint64_t)_mm256_extract_epi64(low, 0));
	return true;
}
#endif

static __attribute__((noinline)) uint8_t *longest(uint8_t *head, uint64_t v)
{
	unsigned n = v >> 63 ? 10 : 9, i;

	head -= n;
	for (i = 0; i + 1 < n; i++, v >>= 7)
		head[i] = (uint8_t)(v | 0x80);
	head[i] = (uint8_t)v;
	return head;
}

ALWAYS_INLINE uint8_t *encode_kind(enum varint_kind kind, bool sign_extend, uint8_t *head,
				   const uint8_t *array, uint64_t from, uint64_t to)
{
	while (from > to) {
		uint64_t v;
		unsigned n;

#ifdef __AVX2__
		if (from - to >= 8 &&
		    narrow_8(kind, head, array + from * (kind_is_wide(kind) ? 8 : 4))) {
			from -= 8;
			head -= 8;
			continue;
		}
#endif
		/* What did not narrow is looked at again from the start, 8 at a time. */
		for (n = 0; n < 8 && from > to; n++) {
			unsigned bytes;

			from--;
			v = wire_of(kind, sign_extend, element_load(kind, array, from));
			if (unlikely(v >> 56)) {
				head = longest(head, v);
				continue;
			}
			bytes = ((63 - (unsigned)__builtin_clzll(v | 1)) * 9 + 73) / 64;
			/* Bytes in front of the first may be anything. */
			store64(head - 8, groups_spread(v) << (64 - 8 * bytes) | HIGH_BITS >> 8);
			head -= bytes;
		}
	}
	return head;
}

uint8_t *FAST_NAME(varints_encode)(enum varint_kind kind, bool sign_extend, uint8_t *head,
				   const uint8_t *array, uint64_t from, uint64_t to)
{
	switch (kind) {
	case VARINT_32:
		return sign_extend ? encode_kind(VARINT_32, true, head, array, from, to)
				   : encode_kind(VARINT_32, false, head, array, from, to);
	case VARINT_64:
		return encode_kind(VARINT_64, false, head, array, from, to);
	case VARINT_ZIGZAG_32:
		return encode_kind(VARINT_ZIGZAG_32, false, head, array, from, to);
	case VARINT_ZIGZAG_64:
		return encode_kind(VARINT_ZIGZAG_64, false, head, array, from, to);
	default:
		return encode_kind(VARINT_BOOL, false, head, array, from, to);
	}
}
