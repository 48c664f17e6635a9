/* Linear -> wire, the fast engine: the usual fields, written backwards at the speed of their bytes.
 *
 * As decode_fast.c it owns no state: it takes fields out of the generic engine's hands as long as
 * they are usual, and stops before the first step that is not, with the job as that engine would
 * have left it there. What stops it: unknown fields, pointers that do not check, a limit, the end
 * of the chunk or of the quantum within reach, tags of more than 4 bytes.
 *
 * A message is the row of its fields from the last to the first; each piece of code ends by jumping
 * to that of the next field. Before each it is asked once whether the chunk has FIELD_ROOM, which
 * is enough for any header, number and short string; only longer content asks again. Below `floor`
 * no byte may be written, be it for the chunk's end or for the output's limit. Stores may run past
 * a value towards the front of the chunk, where nothing is yet, never behind `head`.
 *
 * A short string is found and moved without a branch on its length: one vector from its start tells
 * where the NUL is, one that ends before the NUL is stored so that it ends before `head`.
 *
 * The rules for hostile memory are encode.c's: each word is loaded once, each address goes through
 * window(). A step that was looked at and left to the generic engine is loaded again by that, from
 * the start; nothing of the first look is used then.
 *
 * Elements are not counted one by one: a unit is an element unless charge() says that it is not,
 * and since each one takes a byte of output, one comparison with the room ahead will do.
 */
#include "linearize/encode_internal.h"
#include "linearize/fast_internal.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define ASAN
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define ASAN
#endif

/* Looks past the ends of short strings, which ASan would object to. */
#if (defined(__SSE2__) || defined(__ARM_NEON)) && !defined(ASAN)
#define STRING_BY_VECTOR
#endif

enum fast_kind {
	KIND_U32, /* varints: unsigned, sign-extended, 64 bits, zigzag, bool */
	KIND_I32,
	KIND_V64,
	KIND_Z32,
	KIND_Z64,
	KIND_BOOL,
	KIND_F32, /* fixed; floating ones have another zero */
	KIND_F64,
	KIND_FLOAT,
	KIND_DOUBLE,
	KIND_STRING,
	KIND_BYTES,
	KIND_MESSAGE,
	KINDS
};

/* How a member says that it is there: by not being zero, by a word, by the case word, by a pointer
 * that is neither NULL nor the default; or it always is. ELEMENT: one of an array. */
enum fast_presence { NONZERO, HAS, ONEOF, POINTER, ALWAYS, ELEMENT, PRESENCES };

#define OP_SLOW            0
#define OP(kind, presence) (1 + (kind)*PRESENCES + (presence))
#define OP_PACKED          (1 + KINDS * PRESENCES)
#define OP_PACKED_FIXED    (OP_PACKED + 1)
#define OPS                (OP_PACKED_FIXED + 1)

/* What is moved at once, and the room for that, a tag, a varint of 10 bytes and what stores run
 * over. */
#define SHORT_BYTES 32
#define FIELD_ROOM  64
/* What any step of a short field costs at most. The generic engine takes the last few units. */
#define BUDGET_LEAST 4

static_assert(OPS <= 256, "an op is a byte");

/* --- Tables ----------------------------------------------------------------------------------- */

#ifndef LINEARIZE_WIDE

static const uint8_t kinds[TYPE_COUNT] = {
	[PROTOBUF_C_TYPE_INT32] = KIND_I32,       [PROTOBUF_C_TYPE_SINT32] = KIND_Z32,
	[PROTOBUF_C_TYPE_SFIXED32] = KIND_F32,    [PROTOBUF_C_TYPE_INT64] = KIND_V64,
	[PROTOBUF_C_TYPE_SINT64] = KIND_Z64,      [PROTOBUF_C_TYPE_SFIXED64] = KIND_F64,
	[PROTOBUF_C_TYPE_UINT32] = KIND_U32,      [PROTOBUF_C_TYPE_FIXED32] = KIND_F32,
	[PROTOBUF_C_TYPE_UINT64] = KIND_V64,      [PROTOBUF_C_TYPE_FIXED64] = KIND_F64,
	[PROTOBUF_C_TYPE_FLOAT] = KIND_FLOAT,     [PROTOBUF_C_TYPE_DOUBLE] = KIND_DOUBLE,
	[PROTOBUF_C_TYPE_BOOL] = KIND_BOOL,       [PROTOBUF_C_TYPE_ENUM] = KIND_I32,
	[PROTOBUF_C_TYPE_STRING] = KIND_STRING,   [PROTOBUF_C_TYPE_BYTES] = KIND_BYTES,
	[PROTOBUF_C_TYPE_MESSAGE] = KIND_MESSAGE,
};

void fast_encode_compile(struct schema_field *f)
{
	unsigned kind = kinds[f->type], presence = ALWAYS;

	if (f->tag_bytes > 4)
		return;
	memcpy((uint8_t *)&f->tag_high + 4 - f->tag_bytes, f->tag, f->tag_bytes);
	if (f->card == CARD_REPEATED && f->flags & FIELD_PACKED) {
		f->encode_op = f->wire == WIRE_VARINT ? OP_PACKED : OP_PACKED_FIXED;
		return;
	}
	if (f->card == CARD_REPEATED)
		presence = ELEMENT;
	else if (f->card == CARD_ONEOF)
		presence = ONEOF;
	else if (f->card == CARD_HAS)
		presence = HAS;
	else if (f->flags & FIELD_OPTIONAL)
		presence = POINTER;
	else if (f->flags & FIELD_NONE)
		presence = NONZERO;
	f->encode_op = (uint8_t)OP(kind, presence);
}

#endif

/* Of packed varints: how they are written, and how long they can be. */
static const struct {
	uint8_t kind;
	bool sign_extend;
	uint8_t most;
} packed_kinds[TYPE_COUNT] = {
	[PROTOBUF_C_TYPE_INT32] = {VARINT_32, true, 10},
	[PROTOBUF_C_TYPE_ENUM] = {VARINT_32, true, 10},
	[PROTOBUF_C_TYPE_UINT32] = {VARINT_32, false, 5},
	[PROTOBUF_C_TYPE_SINT32] = {VARINT_ZIGZAG_32, false, 5},
	[PROTOBUF_C_TYPE_INT64] = {VARINT_64, false, 10},
	[PROTOBUF_C_TYPE_UINT64] = {VARINT_64, false, 10},
	[PROTOBUF_C_TYPE_SINT64] = {VARINT_ZIGZAG_64, false, 10},
	[PROTOBUF_C_TYPE_BOOL] = {VARINT_BOOL, false, 1},
};

/* --- Writing backwards ------------------------------------------------------------------------ */

static __attribute__((noinline)) uint8_t *varint_longest(uint8_t *head, uint64_t v)
{
	unsigned n = v >> 63 ? 10 : 9, i;

	head -= n;
	for (i = 0; i + 1 < n; i++, v >>= 7)
		head[i] = (uint8_t)(v | 0x80);
	head[i] = (uint8_t)v;
	return head;
}

/* 2 to 8 bytes: the groups are spread over a word, whose front end is then cut off. */
ALWAYS_INLINE uint8_t *varint_spread(uint8_t *head, uint64_t v)
{
	unsigned n = ((63 - (unsigned)__builtin_clzll(v)) * 9 + 73) / 64;

	v = groups_spread(v) | HIGH_BITS >> (8 * (9 - n));
	store64(head - 8, v << (64 - 8 * n));
	return head - n;
}

ALWAYS_INLINE uint8_t *varint_put(uint8_t *head, uint64_t v)
{
	if (likely(v < 0x80)) {
		*--head = (uint8_t)v;
		return head;
	}
	return likely(!(v >> 56)) ? varint_spread(head, v) : varint_longest(head, v);
}

ALWAYS_INLINE uint8_t *tag_put(uint8_t *head, const struct schema_field *f)
{
	store32(head - 4, f->tag_high);
	return head - f->tag_bytes;
}

/* At most 32 bytes, in front of `head`. */
static __attribute__((noinline)) void copy_exact(uint8_t *to, const uint8_t *from, uint64_t n)
{
	if (n > 16) {
		memcpy(to, from, 16);
		memcpy(to + n - 16, from + n - 16, 16);
	} else if (n >= 8) {
		uint64_t low = load64(from), high = load64(from + n - 8);

		store64(to, low);
		store64(to + n - 8, high);
	} else if (n >= 4) {
		uint32_t low = load32(from), high = load32(from + n - 4);

		store32(to, low);
		store32(to + n - 4, high);
	} else if (n) {
		uint8_t low = from[0], middle = from[n / 2], high = from[n - 1];

		to[0] = low;
		to[n / 2] = middle;
		to[n - 1] = high;
	}
}

/* --- Values ----------------------------------------------------------------------------------- */

ALWAYS_INLINE bool kind_is_wide(enum fast_kind kind)
{
	return kind == KIND_V64 || kind == KIND_Z64 || kind == KIND_F64 || kind == KIND_DOUBLE ||
	       kind >= KIND_STRING;
}

ALWAYS_INLINE bool kind_is_fixed(enum fast_kind kind)
{
	return kind >= KIND_F32 && kind <= KIND_DOUBLE;
}

ALWAYS_INLINE uint64_t value_load(enum fast_kind kind, const uint8_t *at)
{
	return kind_is_wide(kind) ? load64_once(at) : load32_once(at);
}

ALWAYS_INLINE uint64_t varint_convert(enum fast_kind kind, uint64_t v)
{
	switch (kind) {
	case KIND_I32:
		return (uint64_t)(int64_t)(int32_t)v;
	case KIND_Z32:
		return (uint32_t)((uint32_t)v << 1) ^ (uint32_t)((int32_t)v >> 31);
	case KIND_Z64:
		return v << 1 ^ (uint64_t)((int64_t)v >> 63);
	case KIND_BOOL:
		return v != 0;
	default:
		return v;
	}
}

ALWAYS_INLINE uint8_t *scalar_put(enum fast_kind kind, uint8_t *head, uint64_t v)
{
	if (!kind_is_fixed(kind))
		return varint_put(head, varint_convert(kind, v));
	if (kind_is_wide(kind)) {
		store64(head - 8, v);
		return head - 8;
	}
	store32(head - 4, (uint32_t)v);
	return head - 4;
}

ALWAYS_INLINE bool value_is_zero(enum fast_kind kind, uint64_t v)
{
	if (kind == KIND_FLOAT)
		v &= INT32_MAX;
	if (kind == KIND_DOUBLE)
		v &= INT64_MAX;
	return v == 0;
}

/* --- The registers of the engine -------------------------------------------------------------- */

/* `f` is the field at hand; when a message begins, the one past its last. */
struct fast {
	uint8_t *head, *floor;
	const uint8_t *src;
	const struct schema_field *f, *first;
	int64_t budget;
	struct encode_frame *frame;
};

/* Units that are no elements. */
ALWAYS_INLINE void charge(struct encode_state *s, struct fast *x, int64_t units)
{
	x->budget -= units;
	s->elements -= (uint64_t)units;
}

/* encode.c's window(), without its error. */
ALWAYS_INLINE const uint8_t *window(const struct encode_state *s, uint64_t address, uint64_t bytes)
{
	uint64_t at = address - s->source.peer_base;

	if (unlikely(at > s->source.bytes || bytes > s->source.bytes - at))
		return NULL;
	return s->source.mem + at;
}

ALWAYS_INLINE uint64_t room(const struct fast *x)
{
	return (uint64_t)(x->head - x->floor);
}

/* --- Strings and bytes ------------------------------------------------------------------------ */

#ifdef STRING_BY_VECTOR
/* Within the page too: the window may be larger than what is mapped of it. */
#define PAGE 4096u

/* The NUL among the SHORT_BYTES bytes at `from`; SHORT_BYTES if there is none. */
ALWAYS_INLINE unsigned nul_find(const uint8_t *from)
{
#if defined(__AVX2__)
	__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)from);
	uint64_t zeros =
		(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256()));
#elif defined(__SSE2__)
	__m128i none = _mm_setzero_si128();
	__m128i low = _mm_loadu_si128((const __m128i *)(const void *)from);
	__m128i high = _mm_loadu_si128((const __m128i *)(const void *)(from + 16));
	uint64_t zeros = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(low, none)) |
			 (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(high, none)) << 16;
#else
	uint8x16_t low = vceqzq_u8(vld1q_u8(from)), high = vceqzq_u8(vld1q_u8(from + 16));
	uint64_t a =
		vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(low), 4)), 0);
	uint64_t b =
		vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(high), 4)), 0);

	return a   ? (unsigned)__builtin_ctzll(a) / 4
	       : b ? 16 + (unsigned)__builtin_ctzll(b) / 4
		   : SHORT_BYTES;
#endif
#ifdef __SSE2__
	return (unsigned)__builtin_ctzll(zeros | (uint64_t)1 << SHORT_BYTES);
#endif
}

/* The SHORT_BYTES bytes before `from_end`, to those before `to_end`. */
ALWAYS_INLINE void copy_back(uint8_t *to_end, const uint8_t *from_end)
{
	memcpy(to_end - SHORT_BYTES, from_end - SHORT_BYTES, SHORT_BYTES);
}
#endif

/* Move `n` (at most SHORT_BYTES) bytes at `from` before x->head. `in_window`: they lie there, `at`
 * bytes from its start. */
ALWAYS_INLINE void short_put(struct fast *x, const uint8_t *from, uint64_t n, bool in_window,
			     uint64_t at)
{
#ifdef STRING_BY_VECTOR
	if (in_window &&
	    likely(at >= SHORT_BYTES && ((uintptr_t)from & (PAGE - 1)) >= SHORT_BYTES)) {
		copy_back(x->head, from + n);
		x->head -= n;
		return;
	}
#else
	(void)in_window;
	(void)at;
#endif
	x->head -= n;
	copy_exact(x->head, from, n);
}

/* Tag and length in front of content of less than 128 bytes. */
ALWAYS_INLINE void short_header(struct fast *x, uint64_t n)
{
	x->head[-1] = (uint8_t)n;
	store32(x->head - 5, x->f->tag_high);
	x->head -= 1 + x->f->tag_bytes;
}

/* `n` bytes at `from` with their header. `scanned`: their end was looked for. Returns the new head,
 * or NULL when it is unusual and nothing was done. Charges s->budget and s->elements for the copy.
 */
static __attribute__((noinline)) uint8_t *content_long(struct encode_state *s, uint8_t *head,
						       const uint8_t *floor,
						       const struct schema_field *f,
						       const uint8_t *from, uint64_t n,
						       bool scanned)
{
	int64_t units = (int64_t)(n / LINEAR_UNIT_BYTES);
	int64_t cost = units + (n >= LINEAR_UNIT_BYTES / 2) + (scanned ? units : 0);
	uint64_t left = (uint64_t)(head - floor);

	if (n > left || n + FIELD_ROOM > left || s->budget < 2 * units + 4)
		return NULL;
	head -= n;
	if (n)
		memcpy(head, from, n);
	s->budget -= cost;
	s->elements -= (uint64_t)cost;
	return tag_put(varint_put(head, n), f);
}

/* What became of a field. */
enum outcome { UNUSUAL, ABSENT, WRITTEN };

ALWAYS_INLINE enum outcome long_put(struct encode_state *s, struct fast *x, const uint8_t *from,
				    uint64_t n, bool scanned)
{
	uint8_t *head;

	s->budget = x->budget;
	head = content_long(s, x->head, x->floor, x->f, from, n, scanned);
	if (unlikely(!head))
		return UNUSUAL;
	x->head = head;
	x->budget = s->budget - 1;
	return WRITTEN;
}

/* A string that is not short, or not where it can be looked at by vectors. */
ALWAYS_INLINE enum outcome string_long(struct encode_state *s, struct fast *x, uint64_t at,
				       bool empty_is_absent)
{
	const uint8_t *from = s->source.mem + at, *nul;
	uint64_t most = s->source.bytes - at;

	nul = memchr(from, 0, most < room(x) ? most : room(x));
	if (!nul)
		return UNUSUAL;
	if (empty_is_absent && nul == from)
		return ABSENT;
	return long_put(s, x, from, (uint64_t)(nul - from), true);
}

ALWAYS_INLINE enum outcome string_put(struct encode_state *s, struct fast *x, uint64_t address,
				      bool empty_is_absent)
{
	uint64_t at;

	if (address == 0 || address == s->empty_string) {
		if (empty_is_absent)
			return ABSENT;
		short_header(x, 0);
		x->budget--;
		return WRITTEN;
	}
	if (unlikely(address == x->f->default_address)) {
		if (empty_is_absent && x->f->default_bytes == 0)
			return ABSENT;
		return long_put(s, x, x->f->default_data, x->f->default_bytes, false);
	}
	at = address - s->source.peer_base;
	if (unlikely(at >= s->source.bytes))
		return UNUSUAL;
#ifdef STRING_BY_VECTOR
	{
		const uint8_t *from = s->source.mem + at;

		if (likely(((uintptr_t)from & (PAGE - 1)) <= PAGE - SHORT_BYTES &&
			   s->source.bytes - at >= SHORT_BYTES)) {
			unsigned n = nul_find(from);

			if (empty_is_absent && n == 0)
				return ABSENT;
			if (likely(n < SHORT_BYTES)) {
				short_put(x, from, n, true, at);
				short_header(x, n);
				x->budget--;
				return WRITTEN;
			}
		}
	}
#endif
	return string_long(s, x, at, empty_is_absent);
}

ALWAYS_INLINE enum outcome bytes_put(struct encode_state *s, struct fast *x, uint64_t n,
				     const uint8_t *member)
{
	uint64_t address, at;

	if (n == 0) {
		short_header(x, 0);
		x->budget--;
		return WRITTEN;
	}
	address = load64_once(member + 8);
	if (unlikely(address == x->f->default_address && address != 0 && n <= x->f->default_bytes))
		return long_put(s, x, x->f->default_data, n, false);
	at = address - s->source.peer_base;
	if (unlikely(at > s->source.bytes || n > s->source.bytes - at))
		return UNUSUAL;
	if (likely(n <= SHORT_BYTES)) {
		short_put(x, s->source.mem + at, n, true, at);
		short_header(x, n);
		x->budget--;
		return WRITTEN;
	}
	return long_put(s, x, s->source.mem + at, n, false);
}

/* --- Messages --------------------------------------------------------------------------------- */

/* Bytes written so far. */
ALWAYS_INLINE uint64_t written(const struct encode_state *s, const struct fast *x)
{
	return s->written + (uint64_t)(s->head - x->head);
}

/* Go on with the message at `address`; x->f is the parent's field. */
ALWAYS_INLINE enum outcome message_put(struct encode_state *s, struct fast *x, uint64_t address)
{
	const struct schema_message *m = x->f->sub.message;
	const uint8_t *src;

	if (unlikely(address == 0)) {
		short_header(x, 0);
		x->budget--;
		return WRITTEN;
	}
	src = window(s, address, m->struct_bytes);
	if (unlikely(!src || x->frame == s->frame_last))
		return UNUSUAL;
	x->frame->field = (uint32_t)(x->f - x->first);
	x->frame++;
	x->frame->m = m;
	x->frame->src = src;
	x->frame->left = 0;
	x->frame->mark = written(s, x);
	x->frame->unknown_done = false;
	x->src = src;
	x->first = m->fields;
	x->f = m->fields + m->field_count;
	x->budget--;
	return WRITTEN;
}

/* --- Singular fields -------------------------------------------------------------------------- */

/* The present value `v` of x->f, whose member or element lies at `at`. */
ALWAYS_INLINE enum outcome value_put(struct encode_state *s, struct fast *x, enum fast_kind kind,
				     const uint8_t *at, uint64_t v, bool empty_is_absent)
{
	if (kind == KIND_STRING)
		return string_put(s, x, v, empty_is_absent);
	if (kind == KIND_MESSAGE)
		return message_put(s, x, v);
	if (kind == KIND_BYTES)
		return bytes_put(s, x, v, at);
	x->head = tag_put(scalar_put(kind, x->head, v), x->f);
	x->budget--;
	return WRITTEN;
}

ALWAYS_INLINE bool singular_put(struct encode_state *s, struct fast *x, enum fast_kind kind,
				enum fast_presence presence)
{
	const uint8_t *at = x->src + x->f->offset;
	bool pointer = kind == KIND_STRING || kind == KIND_MESSAGE;
	enum outcome outcome = ABSENT;
	bool there = true;
	uint64_t v = 0;

	if (presence == ONEOF)
		there = load32_once(x->src + x->f->quantifier) == x->f->number;
	if (presence == HAS)
		there = load32_once(x->src + x->f->quantifier) != 0;
	if (there)
		v = value_load(kind, at);
	if (presence == NONZERO)
		there = !value_is_zero(kind, v);
	if (presence == POINTER || (presence == ONEOF && pointer))
		there = there && v != 0 && v != x->f->default_address;
	if (there) {
		outcome = value_put(s, x, kind, at, v, presence == NONZERO);
		if (unlikely(outcome == UNUSUAL))
			return false;
	}
	if (outcome == ABSENT)
		charge(s, x, 1);
	return true;
}

/* --- Repeated fields -------------------------------------------------------------------------- */

/* The array of x->f, its count in `*n`, checked, nothing done. NULL with `*n` 0: there is none;
 * else: unusual. */
ALWAYS_INLINE const uint8_t *array_find(const struct encode_state *s, const struct fast *x,
					uint64_t *n)
{
	uint64_t elements = s->elements - (uint64_t)x->budget;

	*n = load64_once(x->src + x->f->quantifier);
	if (*n == 0 ||
	    unlikely(*n > s->source.bytes / 16 || *n + room(x) > s->limits.elements_max - elements))
		return NULL;
	return window(s, load64_once(x->src + x->f->offset), *n * x->f->bytes);
}

/* The elements of the frame's array that are left, or the next one if they are messages. */
ALWAYS_INLINE bool elements_put(struct encode_state *s, struct fast *x, enum fast_kind kind)
{
	struct encode_frame *frame = x->frame;
	unsigned bytes = kind == KIND_BYTES ? 16 : kind_is_wide(kind) ? 8 : 4;

	do {
		const uint8_t *at = frame->array + (frame->left - 1) * bytes;
		uint64_t v = value_load(kind, at);

		if (unlikely(room(x) < FIELD_ROOM || x->budget < BUDGET_LEAST))
			return false;
		/* Counted with its array. */
		s->elements--;
		if (unlikely(value_put(s, x, kind, at, v, false) == UNUSUAL)) {
			s->elements++;
			return false;
		}
		frame->left--;
	} while (kind != KIND_MESSAGE && frame->left);
	return true;
}

ALWAYS_INLINE bool packed_fixed_put(struct encode_state *s, struct fast *x)
{
	uint64_t n;
	const uint8_t *array = array_find(s, x, &n);
	enum outcome outcome;

	if (!array) {
		if (n == 0)
			charge(s, x, 1);
		return n == 0;
	}
	outcome = long_put(s, x, array, n * x->f->bytes, false);
	s->elements += outcome == WRITTEN ? n - 1 : 0;
	return outcome == WRITTEN;
}

static uint8_t *packed_write(const struct schema_field *f, uint8_t *head, const uint8_t *array,
			     uint64_t from, uint64_t to)
{
	return FAST_NAME(varints_encode)((enum varint_kind)packed_kinds[f->type].kind,
					 packed_kinds[f->type].sign_extend, head, array, from, to);
}

/* All of a packed field, if even the longest varints would have room. */
ALWAYS_INLINE bool packed_put(struct encode_state *s, struct fast *x)
{
	uint64_t n;
	const uint8_t *array = array_find(s, x, &n);
	uint8_t *end = x->head;

	if (!array) {
		if (n == 0)
			charge(s, x, 1);
		return n == 0;
	}
	if (n > room(x) || packed_kinds[x->f->type].most * n + FIELD_ROOM > room(x) ||
	    x->budget < (int64_t)n + 2)
		return false;
	x->head = packed_write(x->f, x->head, array, n, 0);
	x->head = tag_put(varint_put(x->head, (uint64_t)(end - x->head)), x->f);
	x->budget -= 1 + (int64_t)n;
	s->elements--;
	return true;
}

/* The lowest place that may be written: the chunk's start, or what the output's limit leaves. */
static inline uint8_t *floor_of(const struct encode_state *s)
{
	uint64_t left = s->limits.wire_bytes_max - s->written;

	return left < (uint64_t)(s->head - s->chunk) ? s->head - left : s->chunk;
}

void FAST_NAME(encode_fast_packed)(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	const uint8_t *floor = floor_of(s);

	while (frame->left && s->budget > 0 && s->head - floor >= 10 + FIELD_ROOM) {
		uint64_t n = (uint64_t)(s->head - floor - FIELD_ROOM) /
			     packed_kinds[s->field->type].most;
		uint8_t *head;

		if (n > frame->left)
			n = frame->left;
		if (n > (uint64_t)s->budget)
			n = (uint64_t)s->budget;
		head = packed_write(s->field, s->head, frame->array, frame->left, frame->left - n);
		frame->left -= n;
		s->budget -= (int64_t)n;
		s->written += (uint64_t)(s->head - head);
		s->head = head;
	}
}

/* --- The engine ------------------------------------------------------------------------------- */

#define SCALARS(X, presence)                                                                       \
	X(KIND_U32, presence)                                                                      \
	X(KIND_I32, presence)                                                                      \
	X(KIND_V64, presence)                                                                      \
	X(KIND_Z32, presence)                                                                      \
	X(KIND_Z64, presence)                                                                      \
	X(KIND_BOOL, presence)                                                                     \
	X(KIND_F32, presence)                                                                      \
	X(KIND_F64, presence)                                                                      \
	X(KIND_FLOAT, presence)                                                                    \
	X(KIND_DOUBLE, presence)                                                                   \
	X(KIND_BYTES, presence)
#define POINTERS(X, presence)                                                                      \
	X(KIND_STRING, presence)                                                                   \
	X(KIND_MESSAGE, presence)
#define EVERY(X, presence) SCALARS(X, presence) POINTERS(X, presence)
#define SINGULAR(X)                                                                                \
	EVERY(X, NONZERO)                                                                          \
	EVERY(X, ONEOF)                                                                            \
	EVERY(X, ALWAYS)                                                                           \
	SCALARS(X, HAS)                                                                            \
	POINTERS(X, POINTER)

#define LABEL(kind, presence)    [OP(kind, presence)] = &&op_##kind##_##presence,
#define ARRAY(kind, presence)    [OP(kind, presence)] = &&op_array,
#define ELEMENT_(kind, presence) [OP(kind, presence)] = &&element_##kind,

/* On with the field before x.f in its message. */
#define DISPATCH()                                                                                 \
	do {                                                                                       \
		if (unlikely(x.f == x.first))                                                      \
			goto message_over;                                                         \
		if (unlikely(room(&x) < FIELD_ROOM || x.budget < BUDGET_LEAST))                    \
			goto out;                                                                  \
		x.f--;                                                                             \
		goto *labels[x.f->encode_op];                                                      \
	} while (0)

#define SINGULAR_PIECE(kind, presence)                                                             \
	op_##kind##_##presence : if (unlikely(!singular_put(s, &x, kind, presence))) goto unusual; \
	if ((kind) == KIND_MESSAGE)                                                                \
		goto message_begun;                                                                \
	DISPATCH();
#define ELEMENT_PIECE(kind, presence)                                                              \
	element_##kind : if (unlikely(!elements_put(s, &x, kind))) goto out;                       \
	if ((kind) == KIND_MESSAGE)                                                                \
		goto array_step;                                                                   \
	DISPATCH();

static void engine_end(struct encode_state *s, const struct fast *x)
{
	x->frame->field = (uint32_t)(x->f - x->first);
	s->frame = x->frame;
	s->budget = x->budget;
	s->elements -= (uint64_t)x->budget;
	s->written += (uint64_t)(s->head - x->head);
	s->head = x->head;
}

/* A message below the outermost is out: its header, then on with its parent. */
ALWAYS_INLINE void message_pop(struct encode_state *s, struct fast *x)
{
	uint64_t n = written(s, x) - x->frame->mark;

	x->frame--;
	x->src = x->frame->src;
	x->first = x->frame->m->fields;
	x->f = x->first + x->frame->field;
	x->head = tag_put(varint_put(x->head, n), x->f);
	charge(s, x, 1);
}

void FAST_NAME(encode_fast)(struct encode_state *s)
{
	static const void *const labels[OPS] = {
		[OP_SLOW] = &&unusual,
		SINGULAR(LABEL) EVERY(ARRAY, ELEMENT)[OP_PACKED] = &&op_packed,
		[OP_PACKED_FIXED] = &&op_packed_fixed,
	};
	static const void *const elements[OPS] = {
		[OP_SLOW] = &&out,
		EVERY(ELEMENT_, ELEMENT)[OP_PACKED] = &&out,
		[OP_PACKED_FIXED] = &&out,
	};
	struct fast x = {.head = s->head,
			 .floor = floor_of(s),
			 .src = s->frame->src,
			 .f = s->frame->m->fields + s->frame->field,
			 .first = s->frame->m->fields,
			 .budget = s->budget,
			 .frame = s->frame};
	const uint8_t *array;
	uint64_t n;

	if (room(&x) > s->limits.elements_max - s->elements)
		return;
	s->elements += (uint64_t)x.budget;

array_step:
	if (x.frame->left) {
		if (unlikely(x.f == x.first + x.frame->m->field_count))
			goto out; /* unknown fields */
		goto *elements[x.f->encode_op];
	}
message_begun:
	if (!x.frame->unknown_done) {
		if (unlikely(x.budget < BUDGET_LEAST || load32_once(x.src + BASE_N_UNKNOWN) != 0))
			goto out;
		x.frame->unknown_done = true;
		charge(s, &x, 1);
	}
	DISPATCH();

	SINGULAR(SINGULAR_PIECE)
	EVERY(ELEMENT_PIECE, ELEMENT)

op_array:
	array = array_find(s, &x, &n);
	if (!array) {
		if (n)
			goto unusual;
		charge(s, &x, 1);
		DISPATCH();
	}
	x.budget--;
	s->elements += n - 1;
	x.frame->array = array;
	x.frame->left = n;
	goto *elements[x.f->encode_op];

op_packed:
	if (unlikely(!packed_put(s, &x)))
		goto unusual;
	DISPATCH();

op_packed_fixed:
	if (unlikely(!packed_fixed_put(s, &x)))
		goto unusual;
	DISPATCH();

message_over:
	if (unlikely(x.frame == s->frames || room(&x) < FIELD_ROOM || x.budget < BUDGET_LEAST))
		goto out;
	message_pop(s, &x);
	goto array_step;

unusual: /* the field at hand is not out */
	x.f++;
out:
	engine_end(s, &x);
}
