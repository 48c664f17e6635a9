/* Linear -> wire, the fast engine: the usual fields, written backwards at the speed of their bytes.
 *
 * As decode_fast.c it owns no state: it takes fields out of the generic engine's hands as long as
 * they are usual, and stops before the first step that is not, with the job as that engine would
 * have left it there. What stops it: unknown fields, pointers that do not check, a limit, the end
 * of the chunk or of the quantum within reach, tags of more than 4 bytes. Each field asks once
 * whether the chunk has room for all of it; below `floor` no byte may be written, be it for the
 * chunk's end or for the output's limit.
 *
 * Stores may run past a value towards the front of the chunk, where nothing is yet, never behind
 * `head`. The rules for hostile memory are encode.c's: each word is loaded once, each address goes
 * through window(). A step that was looked at and left to the generic engine is loaded again by
 * that, from the start; nothing of the first look is used then.
 */
#include "linearize/encode_internal.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define ASAN
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define ASAN
#endif

/* Looks past the end of short strings, which ASan would object to. */
#if defined(__SSE2__) && !defined(ASAN)
#include <emmintrin.h>
#define STRING_BY_16
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
 * that is neither NULL nor the default; or it always is. */
enum fast_presence { NONZERO, HAS, ONEOF, POINTER, ALWAYS, REPEATED, PRESENCES };

#define OP_SLOW            0
#define OP(kind, presence) (1 + (kind)*PRESENCES + (presence))
#define OP_PACKED          (1 + KINDS * PRESENCES)
#define OP_PACKED_FIXED    (OP_PACKED + 1)

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)

/* Room for a tag, a varint of 10 bytes, and what stores run over. */
#define HEADER_ROOM 32

/* --- Tables ----------------------------------------------------------------------------------- */

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
		presence = REPEATED;
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

static_assert(OP_PACKED_FIXED < 256, "an op is a byte");

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

/* 3 to 8 bytes: the groups are spread over a word, whose front end is then cut off. */
ALWAYS_INLINE uint8_t *varint_spread(uint8_t *head, uint64_t v)
{
	unsigned n = ((63 - (unsigned)__builtin_clzll(v)) * 9 + 73) / 64;

	v = (v & 0x000000000fffffffu) | (v & 0x00fffffff0000000u) << 4;
	v = (v & 0x00003fff00003fffu) | (v & 0x0fffc0000fffc000u) << 2;
	v = (v & 0x007f007f007f007fu) | (v & 0x3f803f803f803f80u) << 1;
	v |= 0x8080808080808080u >> (8 * (9 - n));
	store64(head - 8, v << (64 - 8 * n));
	return head - n;
}

ALWAYS_INLINE uint8_t *varint_put(uint8_t *head, uint64_t v)
{
	if (likely(v < 0x80)) {
		*--head = (uint8_t)v;
		return head;
	}
	if (likely(v < 1u << 14)) {
		head -= 2;
		head[0] = (uint8_t)(v | 0x80);
		head[1] = (uint8_t)(v >> 7);
		return head;
	}
	return likely(v < (uint64_t)1 << 56) ? varint_spread(head, v) : varint_longest(head, v);
}

ALWAYS_INLINE uint8_t *tag_put(uint8_t *head, const struct schema_field *f)
{
	store32(head - 4, f->tag_high);
	return head - f->tag_bytes;
}

ALWAYS_INLINE void copy_exact(uint8_t *to, const uint8_t *from, uint64_t n)
{
	if (n > 32) {
		memcpy(to, from, n);
	} else if (n > 16) {
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

/* --- The engine ------------------------------------------------------------------------------- */

/* The registers of the engine. */
struct fast {
	uint8_t *head, *floor;
	const struct schema_message *m;
	const uint8_t *src;
	uint32_t field; /* as encode_frame's */
	int64_t budget;
	uint64_t elements; /* still allowed */
	struct encode_frame *frame;
};

/* encode.c's window(), without its error. */
ALWAYS_INLINE const uint8_t *window(const struct encode_state *s, uint64_t address, uint64_t bytes)
{
	uint64_t at = address - s->source.peer_base;

	if (unlikely(address < s->source.peer_base || at > s->source.bytes ||
		     bytes > s->source.bytes - at))
		return NULL;
	return s->source.mem + at;
}

ALWAYS_INLINE uint64_t room(const struct fast *x)
{
	return (uint64_t)(x->head - x->floor);
}

/* Bytes before the NUL at `from`, at most `most`; UINT64_MAX: no NUL there. */
ALWAYS_INLINE uint64_t string_length(const uint8_t *from, uint64_t most)
{
	const uint8_t *nul;

#ifdef STRING_BY_16
	/* Within the window and the page, so within what is mapped. */
	if (likely(((uintptr_t)from & 4095) <= 4096 - 16 && most >= 16)) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)from);
		unsigned zeros =
			(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128()));

		if (likely(zeros))
			return (unsigned)__builtin_ctz(zeros);
	}
#endif
	nul = memchr(from, 0, most);
	return nul ? (uint64_t)(nul - from) : UINT64_MAX;
}

/* Charges a step of a field or, when `element`, of an element that was counted with its array. */
ALWAYS_INLINE void step(struct fast *x, bool element)
{
	x->budget--;
	if (!element)
		x->elements--;
}

/* `n` bytes at `from` with their header. `scanned`: their end was looked for. */
ALWAYS_INLINE bool content_put(struct fast *x, const struct schema_field *f, const uint8_t *from,
			       uint64_t n, bool scanned, bool element)
{
	int64_t units = (int64_t)(n / LINEAR_UNIT_BYTES);

	if (unlikely(n + HEADER_ROOM > room(x) || x->budget < 2 * units + 4))
		return false;
	x->head -= n;
	copy_exact(x->head, from, n);
	x->head = tag_put(varint_put(x->head, n), f);
	step(x, element);
	x->budget -= units + (n >= LINEAR_UNIT_BYTES / 2) + (scanned ? units : 0);
	return true;
}

/* What became of a field. */
enum outcome { UNUSUAL, ABSENT, WRITTEN };

ALWAYS_INLINE enum outcome string_put(struct encode_state *s, struct fast *x,
				      const struct schema_field *f, uint64_t address,
				      bool empty_is_absent, bool element)
{
	const uint8_t *from = NULL;
	uint64_t n = 0, most;
	bool scanned = false;

	if (address == 0 || address == x->m->empty_string) {
		n = 0;
	} else if (unlikely(address == f->default_address)) {
		from = f->default_data;
		n = f->default_bytes;
	} else {
		from = window(s, address, 1);
		if (unlikely(!from))
			return UNUSUAL;
		most = (uint64_t)(s->source.mem + s->source.bytes - from);
		n = string_length(from, most < room(x) ? most : room(x));
		scanned = true;
	}
	if (empty_is_absent && n == 0)
		return ABSENT;
	if (unlikely(n > room(x)))
		return UNUSUAL;
	return content_put(x, f, from, n, scanned, element) ? WRITTEN : UNUSUAL;
}

ALWAYS_INLINE enum outcome bytes_put(struct encode_state *s, struct fast *x,
				     const struct schema_field *f, uint64_t n, const uint8_t *at,
				     bool element)
{
	const uint8_t *from = NULL;
	uint64_t address;

	if (n) {
		address = load64_once(at + 8);
		if (address == f->default_address && address != 0 && n <= f->default_bytes)
			from = f->default_data;
		else
			from = window(s, address, n);
		if (unlikely(!from || n > room(x)))
			return UNUSUAL;
	}
	return content_put(x, f, from, n, false, element) ? WRITTEN : UNUSUAL;
}

/* Go on with the message at `address`; x->field is already the parent's present one. */
ALWAYS_INLINE enum outcome message_put(struct encode_state *s, struct fast *x,
				       const struct schema_field *f, uint32_t index,
				       uint64_t address, bool element)
{
	const struct schema_message *m = f->sub.message;
	const uint8_t *src;

	if (address == 0)
		return content_put(x, f, NULL, 0, false, element) ? WRITTEN : UNUSUAL;
	src = window(s, address, m->struct_bytes);
	if (unlikely(!src || x->frame - s->frames >= (ptrdiff_t)s->limits.depth_max))
		return UNUSUAL;
	step(x, element);
	x->frame->field = index;
	x->frame++;
	*x->frame = (struct encode_frame){
		.m = m,
		.src = src,
		.mark = s->written - (uint64_t)(x->head - s->head),
		.field = m->field_count,
	};
	x->m = m;
	x->src = src;
	x->field = m->field_count;
	return WRITTEN;
}

/* A value of `f` at `at`. A message changes x->field: then it is the new one's. */
ALWAYS_INLINE enum outcome value_put(struct encode_state *s, struct fast *x, enum fast_kind kind,
				     const struct schema_field *f, uint32_t index,
				     const uint8_t *at, uint64_t v, bool element)
{
	if (kind == KIND_STRING)
		return string_put(s, x, f, v, false, element);
	if (kind == KIND_MESSAGE)
		return message_put(s, x, f, index, v, element);
	if (kind == KIND_BYTES)
		return bytes_put(s, x, f, v, at, element);
	x->head = tag_put(scalar_put(kind, x->head, v), f);
	step(x, element);
	return WRITTEN;
}

ALWAYS_INLINE bool value_is_zero(enum fast_kind kind, uint64_t v)
{
	if (kind == KIND_FLOAT)
		v &= INT32_MAX;
	if (kind == KIND_DOUBLE)
		v &= INT64_MAX;
	return v == 0;
}

/* A singular field, number `index` of its message. */
ALWAYS_INLINE bool singular_put(struct encode_state *s, struct fast *x, enum fast_kind kind,
				enum fast_presence presence, const struct schema_field *f,
				uint32_t index)
{
	const uint8_t *at = x->src + f->offset;
	bool pointer = kind == KIND_STRING || kind == KIND_MESSAGE;
	enum outcome outcome = ABSENT;
	bool there = true;
	uint64_t v = 0;

	if (presence == ONEOF)
		there = load32_once(x->src + f->quantifier) == f->number;
	if (presence == HAS)
		there = load32_once(x->src + f->quantifier) != 0;
	if (there)
		v = value_load(kind, at);
	if (presence == NONZERO)
		there = !value_is_zero(kind, v);
	if (presence == POINTER || (presence == ONEOF && pointer))
		there = there && v != 0 && v != f->default_address;
	if (there) {
		if (unlikely(room(x) < HEADER_ROOM || x->elements == 0))
			return false;
		x->field = index;
		outcome = presence == NONZERO && kind == KIND_STRING
				  ? string_put(s, x, f, v, true, false)
				  : value_put(s, x, kind, f, index, at, v, false);
	}
	if (unlikely(outcome == UNUSUAL)) {
		x->field = index + 1;
		return false;
	}
	if (outcome == ABSENT) {
		x->budget--;
		x->field = index;
	}
	return true;
}

/* --- Repeated fields -------------------------------------------------------------------------- */

/* The elements of the frame's array that are left, or the next one if they are messages. */
ALWAYS_INLINE bool elements_put(struct encode_state *s, struct fast *x, enum fast_kind kind,
				const struct schema_field *f, uint32_t index)
{
	struct encode_frame *frame = x->frame;
	unsigned bytes = kind == KIND_BYTES ? 16 : kind_is_wide(kind) ? 8 : 4;

	do {
		const uint8_t *at = frame->array + (frame->left - 1) * bytes;
		enum outcome outcome;

		if (unlikely(room(x) < HEADER_ROOM || x->budget <= 0))
			return false;
		outcome = value_put(s, x, kind, f, index, at, value_load(kind, at), true);
		if (unlikely(outcome == UNUSUAL))
			return false;
		frame->left--;
	} while (kind != KIND_MESSAGE && frame->left);
	return true;
}

/* The array of repeated field `f`, its count in `*n`, checked, nothing done. NULL with `*n` 0:
 * there is none; else: unusual. */
ALWAYS_INLINE const uint8_t *array_find(const struct encode_state *s, const struct fast *x,
					const struct schema_field *f, uint64_t *n)
{
	*n = load64_once(x->src + f->quantifier);
	if (*n == 0 || unlikely(*n > s->source.bytes / 16 || *n > x->elements))
		return NULL;
	return window(s, load64_once(x->src + f->offset), *n * f->bytes);
}

ALWAYS_INLINE bool repeated_put(struct encode_state *s, struct fast *x,
				const struct schema_field *f, uint32_t index)
{
	uint64_t n;
	const uint8_t *array = array_find(s, x, f, &n);

	if (!array && n)
		return false;
	x->budget--;
	x->elements -= n;
	x->field = index;
	x->frame->array = array;
	x->frame->left = n;
	return true;
}

ALWAYS_INLINE bool packed_fixed_put(struct encode_state *s, struct fast *x,
				    const struct schema_field *f, uint32_t index)
{
	uint64_t n;
	const uint8_t *array = array_find(s, x, f, &n);

	if (!array) {
		x->budget -= n == 0;
		x->field -= n == 0;
		return n == 0;
	}
	if (n > room(x) || !content_put(x, f, array, n * f->bytes, false, true))
		return false;
	x->elements -= n;
	x->field = index;
	return true;
}

ALWAYS_INLINE uint8_t *packed_loop(enum fast_kind kind, uint8_t *head, const uint8_t *array,
				   uint64_t from, uint64_t to)
{
	unsigned bytes = kind_is_wide(kind) ? 8 : 4;

	while (from > to) {
		from--;
		head = varint_put(head,
				  varint_convert(kind, value_load(kind, array + from * bytes)));
	}
	return head;
}

/* Elements [to, from) of `array`, the last first; there is room for 10 bytes each, and slop. */
static __attribute__((noinline)) uint8_t *packed_write(const struct schema_field *f, uint8_t *head,
						       const uint8_t *array, uint64_t from,
						       uint64_t to)
{
	switch (kinds[f->type]) {
	case KIND_U32:
		return packed_loop(KIND_U32, head, array, from, to);
	case KIND_I32:
		return packed_loop(KIND_I32, head, array, from, to);
	case KIND_V64:
		return packed_loop(KIND_V64, head, array, from, to);
	case KIND_Z32:
		return packed_loop(KIND_Z32, head, array, from, to);
	case KIND_Z64:
		return packed_loop(KIND_Z64, head, array, from, to);
	default:
		return packed_loop(KIND_BOOL, head, array, from, to);
	}
}

/* The lowest place that may be written: the chunk's start, or what the output's limit leaves. */
static inline uint8_t *floor_of(const struct encode_state *s)
{
	uint64_t left = s->limits.wire_bytes_max - s->written;

	return left < (uint64_t)(s->head - s->chunk) ? s->head - left : s->chunk;
}

void encode_fast_packed(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	const uint8_t *floor = floor_of(s);

	while (frame->left && s->budget > 0 && s->head - floor >= 16 + HEADER_ROOM) {
		uint64_t n = (uint64_t)(s->head - floor - HEADER_ROOM) / 10;
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

/* All of a packed field, if even the longest varints would have room. */
ALWAYS_INLINE bool packed_put(struct encode_state *s, struct fast *x, const struct schema_field *f,
			      uint32_t index)
{
	uint64_t n;
	const uint8_t *array = array_find(s, x, f, &n);
	uint8_t *end = x->head;

	if (!array) {
		x->budget -= n == 0;
		x->field -= n == 0;
		return n == 0;
	}
	if (n > room(x) || 10 * n + HEADER_ROOM > room(x) || x->budget < (int64_t)n + 2)
		return false;
	x->head = packed_write(f, x->head, array, n, 0);
	x->head = tag_put(varint_put(x->head, (uint64_t)(end - x->head)), f);
	x->budget -= 1 + (int64_t)n;
	x->elements -= n;
	x->field = index;
	return true;
}

/* --- The walk --------------------------------------------------------------------------------- */

/* A message below the outermost is out: its header, then on with its parent. */
ALWAYS_INLINE bool message_pop(struct encode_state *s, struct fast *x)
{
	uint64_t n = s->written - (uint64_t)(x->head - s->head) - x->frame->mark;

	if (unlikely(room(x) < HEADER_ROOM))
		return false;
	x->frame--;
	x->m = x->frame->m;
	x->src = x->frame->src;
	x->field = x->frame->field;
	x->head = tag_put(varint_put(x->head, n), &x->m->fields[x->field]);
	x->budget--;
	return true;
}

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

#define SINGULAR_CASE(kind, presence)                                                              \
	case OP(kind, presence):                                                                   \
		return singular_put(s, x, kind, presence, f, index);
#define REPEATED_CASE(kind, presence)                                                              \
	case OP(kind, presence):                                                                   \
		return repeated_put(s, x, f, index);
#define ELEMENT_CASE(kind, presence)                                                               \
	case OP(kind, presence):                                                                   \
		return elements_put(s, x, kind, f, x->field);

ALWAYS_INLINE bool field_put(struct encode_state *s, struct fast *x)
{
	uint32_t index = x->field - 1;
	const struct schema_field *f = &x->m->fields[index];

	/* Types of one width are coded alike. NOLINTBEGIN(bugprone-branch-clone) */
	switch (f->encode_op) {
		EVERY(SINGULAR_CASE, NONZERO)
		EVERY(SINGULAR_CASE, ONEOF)
		EVERY(SINGULAR_CASE, ALWAYS)
		SCALARS(SINGULAR_CASE, HAS)
		POINTERS(SINGULAR_CASE, POINTER)
		EVERY(REPEATED_CASE, REPEATED)
	case OP_PACKED:
		return packed_put(s, x, f, index);
	case OP_PACKED_FIXED:
		return packed_fixed_put(s, x, f, index);
	default:
		return false;
	}
	/* NOLINTEND(bugprone-branch-clone) */
}

ALWAYS_INLINE bool array_put(struct encode_state *s, struct fast *x)
{
	const struct schema_field *f;

	if (unlikely(x->field == x->m->field_count))
		return false; /* unknown fields */
	f = &x->m->fields[x->field];
	switch (f->encode_op) {
		EVERY(ELEMENT_CASE, REPEATED)
	default:
		return false;
	}
}

static inline bool unknown_none(struct fast *x)
{
	if (unlikely(load32_once(x->src + BASE_N_UNKNOWN) != 0))
		return false;
	x->frame->unknown_done = true;
	x->budget--;
	return true;
}

void encode_fast(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	struct fast x = {.head = s->head,
			 .floor = floor_of(s),
			 .m = frame->m,
			 .src = frame->src,
			 .field = frame->field,
			 .budget = s->budget,
			 .elements = s->limits.elements_max - s->elements,
			 .frame = frame};
	bool good = true;

	while (likely(good && x.budget > 0)) {
		if (x.frame->left)
			good = array_put(s, &x);
		else if (!x.frame->unknown_done)
			good = unknown_none(&x);
		else if (x.field)
			good = field_put(s, &x);
		else
			good = x.frame != s->frames && message_pop(s, &x);
	}
	x.frame->field = x.field;
	s->frame = x.frame;
	s->budget = x.budget;
	s->elements = s->limits.elements_max - x.elements;
	s->written += (uint64_t)(s->head - x.head);
	s->head = x.head;
}
