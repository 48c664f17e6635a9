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
 */
#include "linearize/encode_internal.h"
#include "linearize/fast_internal.h"

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

/* At most 8 bytes: the groups are spread over a word and moved to its end. All bytes but the last
 * say that they go on, those in front of the first too: nothing is there yet. */
ALWAYS_INLINE uint8_t *varint_spread(uint8_t *head, uint64_t v)
{
	unsigned n = ((63 - (unsigned)__builtin_clzll(v)) * 9 + 73) / 64;

	store64(head - 8, groups_spread(v) << (64 - 8 * n) | HIGH_BITS >> 8);
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

/* `head`: the first byte written. `src`: the message. `f`: its field at hand; between two fields
 * the one that was written last. With more parameters the ops would have to save registers. */
#define PARAMETERS                                                                                 \
	struct encode_state *s, uint8_t *head, const uint8_t *src, const struct schema_field *f
#define ARGUMENTS s, head, src, f

typedef void fast_op(PARAMETERS);

static fast_op *const ops[OPS];
static fast_op *const element_ops[OPS];

#define NOINLINE static __attribute__((noinline))

/* Where calls at the end are no jumps, the stack must not grow with the message. */
#if !defined(__OPTIMIZE__) || defined(ASAN) || defined(__SANITIZE_THREAD__)
#define HOPS_MAX 100
#endif

/* The engine stops between two fields. */
NOINLINE void leave(PARAMETERS)
{
	(void)src;
	s->frame->field = (uint32_t)(f - s->first);
	s->fast_head = head;
}

/* The field at hand is not for this engine: stop before it. */
NOINLINE void give_up(PARAMETERS)
{
	f++;
	leave(ARGUMENTS);
}

static void message_over(PARAMETERS);

/* On with the field before `f`. */
ALWAYS_INLINE void next_field(PARAMETERS)
{
#ifdef HOPS_MAX
	if (s->hops++ == HOPS_MAX) {
		leave(ARGUMENTS);
		return;
	}
#endif
	if (unlikely(f == s->first)) {
		message_over(ARGUMENTS);
		return;
	}
	f--;
	ops[f->encode_op](ARGUMENTS);
}

/* Between `head` and the lowest place that may be written. */
ALWAYS_INLINE uint64_t room_of(const struct encode_state *s, const uint8_t *head)
{
	return (uint64_t)(head - s->floor);
}

/* Is there less than FIELD_ROOM? */
ALWAYS_INLINE bool no_room(const struct encode_state *s, const uint8_t *head)
{
	return unlikely(head < s->floor_field);
}

/* encode.c's window(), without its error. */
ALWAYS_INLINE const uint8_t *window(const struct encode_state *s, uint64_t address, uint64_t bytes)
{
	uint64_t at = address - s->source.peer_base;

	if (unlikely(at > s->source.bytes || bytes > s->source.bytes - at))
		return NULL;
	return s->source.mem + at;
}

/* --- Strings and bytes ------------------------------------------------------------------------ */

/* Tag and length in front of content of less than 128 bytes. */
ALWAYS_INLINE uint8_t *short_header(uint8_t *head, const struct schema_field *f, uint64_t n)
{
	head[-1] = (uint8_t)n;
	store32(head - 5, f->tag_high);
	return head - 1 - f->tag_bytes;
}

#ifdef STRING_BY_VECTOR
/* May SHORT_BYTES be read before and after `at`, a place in the window? */
ALWAYS_INLINE bool is_inner(const struct encode_state *s, uint64_t at)
{
	return likely(at - SHORT_BYTES < s->inner);
}

/* The NUL among the SHORT_BYTES bytes at `from`; SHORT_BYTES if there is none. */
ALWAYS_INLINE unsigned nul_find(const uint8_t *from)
{
#if defined(__SSE2__)
	__m128i none = _mm_setzero_si128();
	__m128i low = _mm_loadu_si128((const __m128i *)(const void *)from);
	__m128i high = _mm_loadu_si128((const __m128i *)(const void *)(from + 16));
	uint64_t zeros = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(low, none)) |
			 (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(high, none)) << 16;

	return (unsigned)__builtin_ctzll(zeros | (uint64_t)1 << SHORT_BYTES);
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
}

/* The SHORT_BYTES bytes before `from_end`, to those before `to_end`. */
ALWAYS_INLINE void copy_back(uint8_t *to_end, const uint8_t *from_end)
{
	memcpy(to_end - SHORT_BYTES, from_end - SHORT_BYTES, SHORT_BYTES);
}
#else
ALWAYS_INLINE bool is_inner(const struct encode_state *s, uint64_t at)
{
	(void)s, (void)at;
	return false;
}

ALWAYS_INLINE unsigned nul_find(const uint8_t *from)
{
	(void)from;
	return SHORT_BYTES;
}

ALWAYS_INLINE void copy_back(uint8_t *to_end, const uint8_t *from_end)
{
	(void)to_end, (void)from_end;
}
#endif

/* Moved by vectors, past which memcpy is as good. */
#define MIDDLE_BYTES 256

/* `n` bytes at `from`, `inner` or not, with their header; `scanned`: their end was looked for.
 * Returns the new head, or NULL when it is unusual and nothing was done. Charges for the copy. */
ALWAYS_INLINE uint8_t *content_put(struct encode_state *s, uint8_t *head,
				   const struct schema_field *f, const uint8_t *from, uint64_t n,
				   bool inner, bool scanned)
{
	int64_t units = (int64_t)(n / LINEAR_UNIT_BYTES);
	uint64_t room = room_of(s, head), i;

	if (unlikely(n > room || n + FIELD_ROOM > room || s->budget < 2 * units + BUDGET_LEAST))
		return NULL;
	if (inner && n <= MIDDLE_BYTES) {
		for (i = 0; i < n; i += SHORT_BYTES)
			copy_back(head - i, from + n - i);
		head -= n;
	} else {
		head -= n;
		if (n <= SHORT_BYTES)
			copy_exact(head, from, n);
		else
			memcpy(head, from, n);
	}
	s->budget -= units + (n >= LINEAR_UNIT_BYTES / 2) + (scanned ? units : 0);
	return tag_put(varint_put(head, n), f);
}

/* What became of a field. */
enum outcome { UNUSUAL, ABSENT, WRITTEN };

/* Any string; *head moves when it was written. */
NOINLINE enum outcome string_any(struct encode_state *s, uint8_t **head,
				 const struct schema_field *f, uint64_t address,
				 bool empty_is_absent)
{
	const uint8_t *from = NULL, *nul;
	uint64_t n = 0, at, most, room = room_of(s, *head);
	bool scanned = false, inner = false;
	uint8_t *to;

	if (address == 0 || address == s->empty_string) {
		n = 0;
	} else if (address == f->default_address) {
		from = f->default_data;
		n = f->default_bytes;
	} else {
		at = address - s->source.peer_base;
		if (at >= s->source.bytes)
			return UNUSUAL;
		from = s->source.mem + at;
		most = s->source.bytes - at;
		nul = memchr(from, 0, most < room ? most : room);
		if (!nul)
			return UNUSUAL;
		n = (uint64_t)(nul - from);
		scanned = true;
		inner = is_inner(s, at);
	}
	if (empty_is_absent && n == 0)
		return ABSENT;
	to = content_put(s, *head, f, from, n, inner, scanned);
	if (!to)
		return UNUSUAL;
	*head = to;
	return WRITTEN;
}

/* A short string, not empty, in the window's inside: the new head. NULL: it is another string. */
ALWAYS_INLINE uint8_t *string_short(const struct encode_state *s, uint8_t *head,
				    const struct schema_field *f, uint64_t address)
{
	uint64_t at = address - s->source.peer_base;
	const uint8_t *from;
	unsigned n;

	if (unlikely(!is_inner(s, at) || address == f->default_address ||
		     address == s->empty_string))
		return NULL;
	from = s->source.mem + at;
	n = nul_find(from);
	if (unlikely(n - 1 >= SHORT_BYTES - 1))
		return NULL;
	copy_back(head, from + n);
	return short_header(head - n, f, n);
}

/* Bytes of any length `n`, whose member is `at`; NULL: unusual. */
NOINLINE uint8_t *bytes_any(struct encode_state *s, uint8_t *head, const struct schema_field *f,
			    uint64_t n, uint64_t address)
{
	uint64_t at = address - s->source.peer_base;

	if (n == 0)
		return short_header(head, f, 0);
	if (address == f->default_address && address != 0 && n <= f->default_bytes)
		return content_put(s, head, f, f->default_data, n, false, false);
	if (at > s->source.bytes || n > s->source.bytes - at)
		return NULL;
	return content_put(s, head, f, s->source.mem + at, n, is_inner(s, at), false);
}

ALWAYS_INLINE uint8_t *bytes_put(struct encode_state *s, uint8_t *head,
				 const struct schema_field *f, uint64_t n, uint64_t address)
{
	uint64_t at = address - s->source.peer_base;

	if (unlikely(n - 1 >= SHORT_BYTES || !is_inner(s, at) || address == f->default_address))
		return bytes_any(s, head, f, n, address);
	copy_back(head, s->source.mem + at + n);
	return short_header(head - n, f, n);
}

/* --- Messages --------------------------------------------------------------------------------- */

/* The message of `frame`, which is s->frame, begins: it has no unknown fields, or is not for this
 * engine. All its fields are charged at once. */
ALWAYS_INLINE void message_begin(PARAMETERS, struct encode_frame *frame,
				 const struct schema_message *m)
{
	int64_t left = s->budget - 2 - (int64_t)m->field_count;

	if (unlikely(left < BUDGET_LEAST || load32_once(src + BASE_N_UNKNOWN) != 0)) {
		frame->unknown_done = false;
		leave(ARGUMENTS);
		return;
	}
	frame->unknown_done = true;
	s->budget = left;
	next_field(ARGUMENTS);
}

/* The frame's array goes on, or the fields before it. */
ALWAYS_INLINE void array_step(PARAMETERS)
{
	if (s->frame->left)
		element_ops[f->encode_op](ARGUMENTS);
	else
		next_field(ARGUMENTS);
}

/* All fields are out. If this is not the outermost message: its header, then on with its parent. */
NOINLINE void message_over(PARAMETERS)
{
	struct encode_frame *frame = s->frame;
	uint64_t n;

	if (unlikely(frame == s->frames || no_room(s, head))) {
		leave(ARGUMENTS);
		return;
	}
	n = (s->written_base - (uint64_t)(uintptr_t)head) - frame->mark;
	s->frame = --frame;
	src = frame->src;
	s->first = frame->m->fields;
	f = s->first + frame->field;
	head = tag_put(varint_put(head, n), f);
	array_step(ARGUMENTS);
}

/* Is the message at `address`, not 0, for this engine? Its struct, or NULL. */
ALWAYS_INLINE const uint8_t *message_find(const struct encode_state *s,
					  const struct schema_field *f, uint64_t address)
{
	const uint8_t *sub = window(s, address, f->sub.message->struct_bytes);

	return unlikely(s->frame == s->frame_last) ? NULL : sub;
}

/* Go on inside the message `sub`, the value of `f`. */
ALWAYS_INLINE void message_enter(PARAMETERS, const uint8_t *sub)
{
	const struct schema_message *m = f->sub.message;
	struct encode_frame *frame = s->frame;

	frame->field = (uint32_t)(f - s->first);
	frame++;
	s->frame = frame;
	frame->m = m;
	frame->src = src = sub;
	frame->left = 0;
	frame->mark = s->written_base - (uint64_t)(uintptr_t)head;
	f = m->fields;
	s->first = f;
	f += m->field_count;
	message_begin(ARGUMENTS, frame, m);
}

/* --- Singular fields -------------------------------------------------------------------------- */

/* Is the member of `f` there? Then `*v` is its word. */
ALWAYS_INLINE bool is_there(enum fast_kind kind, enum fast_presence presence, const uint8_t *src,
			    const struct schema_field *f, uint64_t *v)
{
	bool pointer = kind == KIND_STRING || kind == KIND_MESSAGE;

	if (presence == ONEOF && load32_once(src + f->quantifier) != f->number)
		return false;
	if (presence == HAS && load32_once(src + f->quantifier) == 0)
		return false;
	*v = value_load(kind, src + f->offset);
	if (presence == NONZERO)
		return !value_is_zero(kind, *v);
	if (presence == POINTER || (presence == ONEOF && pointer))
		return *v != 0 && *v != f->default_address;
	return true;
}

ALWAYS_INLINE void scalar_op(enum fast_kind kind, enum fast_presence presence, PARAMETERS)
{
	uint64_t v;

	if (is_there(kind, presence, src, f, &v)) {
		if (no_room(s, head)) {
			give_up(ARGUMENTS);
			return;
		}
		head = tag_put(scalar_put(kind, head, v), f);
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void bytes_op(enum fast_kind kind, enum fast_presence presence, PARAMETERS)
{
	uint64_t v;

	if (is_there(kind, presence, src, f, &v)) {
		uint8_t *to = NULL;

		if (!no_room(s, head))
			to = bytes_put(s, head, f, v, v ? load64_once(src + f->offset + 8) : 0);
		if (unlikely(!to)) {
			give_up(ARGUMENTS);
			return;
		}
		head = to;
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void string_slow(enum fast_presence presence, PARAMETERS)
{
	enum outcome outcome;
	uint64_t v;

	if (is_there(KIND_STRING, presence, src, f, &v)) {
		outcome = string_any(s, &head, f, v, presence == NONZERO);
		if (outcome == UNUSUAL) {
			give_up(ARGUMENTS);
			return;
		}
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void string_op(fast_op *slow, enum fast_presence presence, PARAMETERS)
{
	uint64_t v;

	if (is_there(KIND_STRING, presence, src, f, &v)) {
		uint8_t *to;

		/* Whether it is empty must be known before the room counts. */
		if (no_room(s, head)) {
			give_up(ARGUMENTS);
			return;
		}
		to = string_short(s, head, f, v);
		if (unlikely(!to)) {
			slow(ARGUMENTS); /* loads it anew */
			return;
		}
		head = to;
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void message_op(enum fast_presence presence, PARAMETERS)
{
	const uint8_t *sub;
	uint64_t v;

	if (!is_there(KIND_MESSAGE, presence, src, f, &v)) {
		next_field(ARGUMENTS);
		return;
	}
	if (unlikely(v == 0)) {
		if (no_room(s, head)) {
			give_up(ARGUMENTS);
			return;
		}
		head = short_header(head, f, 0);
		next_field(ARGUMENTS);
		return;
	}
	sub = message_find(s, f, v);
	if (unlikely(!sub)) {
		give_up(ARGUMENTS);
		return;
	}
	message_enter(ARGUMENTS, sub);
}

/* --- Repeated fields -------------------------------------------------------------------------- */

/* The array of `f`, its count in `*n`, checked, nothing done. NULL with `*n` 0: there is none;
 * else: unusual. */
ALWAYS_INLINE const uint8_t *array_find(const struct encode_state *s, const uint8_t *src,
					const struct schema_field *f, uint64_t *n)
{
	*n = load64_once(src + f->quantifier);
	if (*n == 0 ||
	    unlikely(*n > s->source.bytes / 16 || *n > s->limits.elements_max - s->elements))
		return NULL;
	return window(s, load64_once(src + f->offset), *n * f->bytes);
}

static void op_array(PARAMETERS)
{
	uint64_t n;
	const uint8_t *array = array_find(s, src, f, &n);

	if (!array) {
		if (n)
			give_up(ARGUMENTS);
		else
			next_field(ARGUMENTS);
		return;
	}
	s->elements += n;
	s->frame->array = array;
	s->frame->left = n;
	element_ops[f->encode_op](ARGUMENTS);
}

/* The last of the elements that are left: the new head, or NULL. They were counted with their
 * array. */
ALWAYS_INLINE uint8_t *element_put(struct encode_state *s, uint8_t *head,
				   const struct schema_field *f, enum fast_kind kind,
				   const uint8_t *at)
{
	uint64_t v = value_load(kind, at);

	if (kind == KIND_BYTES)
		return bytes_put(s, head, f, v, v ? load64_once(at + 8) : 0);
	if (kind == KIND_STRING) {
		uint8_t *to = string_short(s, head, f, v);

		if (unlikely(!to) && string_any(s, &head, f, v, false) == WRITTEN)
			to = head;
		return to;
	}
	return tag_put(scalar_put(kind, head, v), f);
}

ALWAYS_INLINE void element_op(enum fast_kind kind, PARAMETERS)
{
	struct encode_frame *frame = s->frame;
	unsigned bytes = kind == KIND_BYTES ? 16 : kind_is_wide(kind) ? 8 : 4;
	uint64_t left = frame->left;

	do {
		uint8_t *to = NULL;

		if (likely(!no_room(s, head) && s->budget >= BUDGET_LEAST))
			to = element_put(s, head, f, kind, frame->array + (left - 1) * bytes);
		if (unlikely(!to)) {
			frame->left = left;
			leave(ARGUMENTS);
			return;
		}
		head = to;
		s->budget--;
	} while (--left);
	frame->left = 0;
	next_field(ARGUMENTS);
}

static void element_message(PARAMETERS)
{
	struct encode_frame *frame = s->frame;
	const uint8_t *at = frame->array + (frame->left - 1) * 8, *sub;
	uint64_t v = load64_once(at);

	sub = v ? message_find(s, f, v) : src;
	if (unlikely(!sub || (!v && no_room(s, head)) || s->budget < BUDGET_LEAST)) {
		leave(ARGUMENTS);
		return;
	}
	s->budget--;
	frame->left--;
	if (unlikely(v == 0)) {
		head = short_header(head, f, 0);
		array_step(ARGUMENTS);
		return;
	}
	message_enter(ARGUMENTS, sub);
}

static void op_packed_fixed(PARAMETERS)
{
	uint64_t n;
	const uint8_t *array = array_find(s, src, f, &n);
	uint8_t *to = head;

	if (array)
		to = content_put(s, head, f, array, n * f->bytes, false, false);
	else if (n)
		to = NULL;
	if (!to) {
		give_up(ARGUMENTS);
		return;
	}
	s->elements += n;
	head = to;
	next_field(ARGUMENTS);
}

static uint8_t *packed_write(const struct schema_field *f, uint8_t *head, const uint8_t *array,
			     uint64_t from, uint64_t to)
{
	return FAST_NAME(varints_encode)((enum varint_kind)packed_kinds[f->type].kind,
					 packed_kinds[f->type].sign_extend, head, array, from, to);
}

/* All of a packed field, if even the longest varints would have room. */
static void op_packed(PARAMETERS)
{
	uint64_t n, room = room_of(s, head);
	const uint8_t *array = array_find(s, src, f, &n);
	uint8_t *end = head;

	if (array) {
		if (unlikely(n > room || packed_kinds[f->type].most * n + FIELD_ROOM > room ||
			     s->budget < (int64_t)n + BUDGET_LEAST)) {
			give_up(ARGUMENTS);
			return;
		}
		head = packed_write(f, head, array, n, 0);
		head = tag_put(varint_put(head, (uint64_t)(end - head)), f);
		s->budget -= (int64_t)n;
		s->elements += n;
	} else if (n) {
		give_up(ARGUMENTS);
		return;
	}
	next_field(ARGUMENTS);
}

/* --- Functions of each kind and presence ---------------------------------------------------------
 */

#define NUMBERS(X, presence)                                                                       \
	X(KIND_U32, presence)                                                                      \
	X(KIND_I32, presence)                                                                      \
	X(KIND_V64, presence)                                                                      \
	X(KIND_Z32, presence)                                                                      \
	X(KIND_Z64, presence)                                                                      \
	X(KIND_BOOL, presence)                                                                     \
	X(KIND_F32, presence)                                                                      \
	X(KIND_F64, presence)                                                                      \
	X(KIND_FLOAT, presence)                                                                    \
	X(KIND_DOUBLE, presence)
#define BYTES(X, presence)    X(KIND_BYTES, presence)
#define STRINGS(X, presence)  X(KIND_STRING, presence)
#define MESSAGES(X, presence) X(KIND_MESSAGE, presence)
/* Which presences there are of what has its own word, and of pointers. */
#define WORDS(LIST, X)                                                                             \
	LIST(X, NONZERO)                                                                           \
	LIST(X, HAS)                                                                               \
	LIST(X, ONEOF)                                                                             \
	LIST(X, ALWAYS)
#define POINTERS(LIST, X)                                                                          \
	LIST(X, NONZERO)                                                                           \
	LIST(X, POINTER)                                                                           \
	LIST(X, ONEOF)                                                                             \
	LIST(X, ALWAYS)

#define NUMBER_OP(kind, presence)                                                                  \
	static void op_##kind##_##presence(PARAMETERS)                                             \
	{                                                                                          \
		scalar_op(kind, presence, ARGUMENTS);                                              \
	}
#define BYTES_OP(kind, presence)                                                                   \
	static void op_##kind##_##presence(PARAMETERS)                                             \
	{                                                                                          \
		bytes_op(kind, presence, ARGUMENTS);                                               \
	}
#define STRING_OP(kind, presence)                                                                  \
	NOINLINE void slow_##kind##_##presence(PARAMETERS)                                         \
	{                                                                                          \
		string_slow(presence, ARGUMENTS);                                                  \
	}                                                                                          \
	static void op_##kind##_##presence(PARAMETERS)                                             \
	{                                                                                          \
		string_op(slow_##kind##_##presence, presence, ARGUMENTS);                          \
	}
#define MESSAGE_OP(kind, presence)                                                                 \
	static void op_##kind##_##presence(PARAMETERS)                                             \
	{                                                                                          \
		message_op(presence, ARGUMENTS);                                                   \
	}
#define ELEMENT_OP(kind, presence)                                                                 \
	static void element_##kind(PARAMETERS)                                                     \
	{                                                                                          \
		element_op(kind, ARGUMENTS);                                                       \
	}

WORDS(NUMBERS, NUMBER_OP)
WORDS(BYTES, BYTES_OP)
POINTERS(STRINGS, STRING_OP)
POINTERS(MESSAGES, MESSAGE_OP)
NUMBERS(ELEMENT_OP, ELEMENT)
BYTES(ELEMENT_OP, ELEMENT)
STRINGS(ELEMENT_OP, ELEMENT)

#define OP_ENTRY(kind, presence)      [OP(kind, presence)] = op_##kind##_##presence,
#define ARRAY_ENTRY(kind, presence)   [OP(kind, presence)] = op_array,
#define ELEMENT_ENTRY(kind, presence) [OP(kind, presence)] = element_##kind,

/* clang-format off */
static fast_op *const ops[OPS] = {
	[OP_SLOW] = give_up,
	WORDS(NUMBERS, OP_ENTRY)
	WORDS(BYTES, OP_ENTRY)
	POINTERS(STRINGS, OP_ENTRY)
	POINTERS(MESSAGES, OP_ENTRY)
	NUMBERS(ARRAY_ENTRY, ELEMENT)
	BYTES(ARRAY_ENTRY, ELEMENT)
	STRINGS(ARRAY_ENTRY, ELEMENT)
	MESSAGES(ARRAY_ENTRY, ELEMENT)
	[OP_PACKED] = op_packed,
	[OP_PACKED_FIXED] = op_packed_fixed,
};

/* The same field when it is an array that has begun. */
static fast_op *const element_ops[OPS] = {
	[OP_SLOW] = leave,
	NUMBERS(ELEMENT_ENTRY, ELEMENT)
	BYTES(ELEMENT_ENTRY, ELEMENT)
	STRINGS(ELEMENT_ENTRY, ELEMENT)
	[OP(KIND_MESSAGE, ELEMENT)] = element_message,
	[OP_PACKED] = leave,
	[OP_PACKED_FIXED] = leave,
};
/* clang-format on */

/* --- The engine ------------------------------------------------------------------------------- */

/* The lowest place that may be written: the chunk's start, or what the output's limit leaves. */
static inline uint8_t *floor_of(const struct encode_state *s)
{
	uint64_t left = s->limits.wire_bytes_max - s->written;

	return left < (uint64_t)(s->head - s->chunk) ? s->head - left : s->chunk;
}

void FAST_NAME(encode_fast)(struct encode_state *s)
{
	const struct encode_frame *frame = s->frame;
	const struct schema_field *f = frame->m->fields + frame->field;
	const uint8_t *src = frame->src;
	uint8_t *head = s->head;

	s->first = frame->m->fields;
	s->floor = floor_of(s);
	s->floor_field = s->floor + FIELD_ROOM;
	s->written_base = s->written + (uint64_t)(uintptr_t)head;
	s->fast_head = head;
#ifdef HOPS_MAX
	s->hops = 0;
#endif
	if (frame->left) {
		if (frame->field == frame->m->field_count)
			return; /* unknown fields */
		element_ops[f->encode_op](ARGUMENTS);
	} else if (frame->unknown_done) {
		next_field(ARGUMENTS);
	} else {
		message_begin(ARGUMENTS, s->frame, frame->m);
	}
	s->written += (uint64_t)(s->head - s->fast_head);
	s->head = s->fast_head;
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
