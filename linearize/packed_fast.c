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

/* Words of one or two bytes; a quarter of `words` and of `keep`, which says which bytes there are.
 */
ALWAYS_INLINE uint8_t *squeeze_4(uint8_t *head, uint64_t words, uint64_t keep)
{
	unsigned bits = (unsigned)__builtin_popcountll(keep);

	store64(head - 8, _pext_u64(words, keep) << (64 - bits));
	return head - bits / 8;
}

/* 8 elements that end before `at`, if none makes more than two bytes: the new head. Else NULL, and
 * nothing is written. */
ALWAYS_INLINE uint8_t *narrow_8(enum varint_kind kind, uint8_t *head, const uint8_t *at)
{
	const __m256i order = _mm256_setr_epi32(0, 4, 0, 0, 0, 0, 0, 0);
	__m256i low, high, two, words, keep;
	__m128i half;

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
		if (!_mm256_testz_si256(_mm256_or_si256(low, high),
					_mm256_set1_epi64x(~INT64_C(0x3fff))))
			return NULL;
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
		if (kind != VARINT_BOOL && !_mm256_testz_si256(low, _mm256_set1_epi32(~0x3fff)))
			return NULL;
	}
	if (kind == VARINT_BOOL || _mm256_testz_si256(low, _mm256_set1_epi32(~0x7f))) {
		low = _mm256_packus_epi32(low, low);
		low = _mm256_packus_epi16(low, low);
		low = _mm256_permutevar8x32_epi32(low, order);
		store64(head - 8, (uint64_t)_mm256_extract_epi64(low, 0));
		return head - 8;
	}
	high = _mm256_srli_epi32(low, 7);
	two = _mm256_cmpgt_epi32(high, _mm256_setzero_si256());
	words = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(0x7f)),
				_mm256_slli_epi32(high, 8));
	words = _mm256_or_si256(words, _mm256_and_si256(two, _mm256_set1_epi32(0x80)));
	keep = _mm256_or_si256(_mm256_and_si256(two, _mm256_set1_epi32(0xff00)),
			       _mm256_set1_epi32(0xff));
	/* In each half 4 words, then what to keep of them. */
	words = _mm256_packus_epi32(words, keep);
	half = _mm256_extracti128_si256(words, 1);
	head = squeeze_4(head, (uint64_t)_mm_extract_epi64(half, 0),
			 (uint64_t)_mm_extract_epi64(half, 1));
	half = _mm256_castsi256_si128(words);
	return squeeze_4(head, (uint64_t)_mm_extract_epi64(half, 0),
			 (uint64_t)_mm_extract_epi64(half, 1));
}
#endif

ALWAYS_INLINE uint8_t *encode_kind(enum varint_kind kind, bool sign_extend, uint8_t *head,
				   const uint8_t *array, uint64_t from, uint64_t to)
{
	const bool wide = kind_is_wide(kind) || sign_extend;

	while (from > to) {
		uint64_t left = from - to, stop;

#ifdef __AVX2__
		if (left >= 8) {
			uint8_t *next =
				narrow_8(kind, head, array + from * (kind_is_wide(kind) ? 8 : 4));

			if (likely(next)) {
				head = next;
				from -= 8;
				continue;
			}
		}
#endif
		/* What did not narrow is looked at again from the start, 8 at a time. */
		stop = left > 8 ? from - 8 : to;
		do {
			uint64_t v;

			from--;
			v = wire_of(kind, sign_extend, element_load(kind, array, from));
			head = unlikely(wide && v >> 56)
				       ? varint_longest(head, v)
				       : varint_spread(head, v, varint_bytes(v | 1));
		} while (from > stop);
	}
	return head;
}

#define ENCODE(name, kind, sign_extend)                                                            \
	static uint8_t *encode_##name(uint8_t *head, const uint8_t *array, uint64_t from,          \
				      uint64_t to)                                                 \
	{                                                                                          \
		return encode_kind(kind, sign_extend, head, array, from, to);                      \
	}

ENCODE(i32, VARINT_32, true)
ENCODE(u32, VARINT_32, false)
ENCODE(v64, VARINT_64, false)
ENCODE(z32, VARINT_ZIGZAG_32, false)
ENCODE(z64, VARINT_ZIGZAG_64, false)
ENCODE(bool, VARINT_BOOL, false)

const struct varints_encoder FAST_NAME(varints_encoders)[TYPE_COUNT] = {
	[PROTOBUF_C_TYPE_INT32] = {encode_i32, 10},  [PROTOBUF_C_TYPE_ENUM] = {encode_i32, 10},
	[PROTOBUF_C_TYPE_UINT32] = {encode_u32, 5},  [PROTOBUF_C_TYPE_SINT32] = {encode_z32, 5},
	[PROTOBUF_C_TYPE_INT64] = {encode_v64, 10},  [PROTOBUF_C_TYPE_UINT64] = {encode_v64, 10},
	[PROTOBUF_C_TYPE_SINT64] = {encode_z64, 10}, [PROTOBUF_C_TYPE_BOOL] = {encode_bool, 1},
};
