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
#include "linearize/encode_ops.h"
#include "linearize/fast_internal.h"

/* Looks past the ends of short strings, which ASan would object to. */
#if (defined(__SSE2__) || defined(__ARM_NEON)) && !defined(ASAN)
#define STRING_BY_VECTOR
#endif

/* What is moved at once, and the room for that, a tag, a varint of 10 bytes and what stores run
 * over. */
#define SHORT_BYTES ENCODE_MARGIN
#define FIELD_ROOM  64
/* What any step of a short field costs at most. The generic engine takes the last few units. */
#define BUDGET_LEAST 4

/* --- Writing backwards ------------------------------------------------------------------------ */

ALWAYS_INLINE uint8_t *tag_put(uint8_t *head, const struct encode_field *f)
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

ALWAYS_INLINE bool kind_is_wide(enum encode_kind kind)
{
	return kind == KIND_V64 || kind == KIND_Z64 || kind == KIND_F64 || kind == KIND_DOUBLE ||
	       kind >= KIND_STRING;
}

ALWAYS_INLINE bool kind_is_fixed(enum encode_kind kind)
{
	return kind >= KIND_F32 && kind <= KIND_DOUBLE;
}

/* load*_once for the usual: a volatile load would not be part of the address's own instruction.
 * What was loaded is its register's from here on. */
ALWAYS_INLINE uint32_t load32_near(const uint8_t *p)
{
	uint32_t v = *(const hostile32 *)(const void *)p;

	__asm__("" : "+r"(v));
	return v;
}

ALWAYS_INLINE uint64_t load64_near(const uint8_t *p)
{
	uint64_t v = *(const hostile64 *)(const void *)p;

	__asm__("" : "+r"(v));
	return v;
}

ALWAYS_INLINE uint64_t value_load(enum encode_kind kind, const uint8_t *at)
{
	return kind_is_wide(kind) ? load64_near(at) : load32_near(at);
}

ALWAYS_INLINE uint64_t varint_convert(enum encode_kind kind, uint64_t v)
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

ALWAYS_INLINE uint8_t *scalar_put(enum encode_kind kind, uint8_t *head, uint64_t v)
{
	if (!kind_is_fixed(kind))
		return varint_put(head, varint_convert(kind, v),
				  kind_is_wide(kind) || kind == KIND_I32);
	if (kind_is_wide(kind)) {
		store64(head - 8, v);
		return head - 8;
	}
	store32(head - 4, (uint32_t)v);
	return head - 4;
}

ALWAYS_INLINE bool value_is_zero(enum encode_kind kind, uint64_t v)
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
	struct encode_state *s, uint8_t *head, const uint8_t *src, const struct encode_field *f
#define ARGUMENTS s, head, src, f

typedef void fast_op(PARAMETERS);

#define NOINLINE static __attribute__((noinline))

/* Where calls at the end are no jumps, the stack must not grow with the message. */
#if !defined(__OPTIMIZE__) || defined(ASAN) || defined(__SANITIZE_THREAD__)
#define HOPS_MAX 100
#endif

/* The engine stops between two fields. */
NOINLINE void leave(PARAMETERS)
{
	(void)src;
	s->frame->at = f;
	s->fast_head = head;
}

/* The field at hand is not for this engine: stop before it. */
NOINLINE void give_up(PARAMETERS)
{
	f++;
	leave(ARGUMENTS);
}

static void dispatch(PARAMETERS);

/* On with the field before `f`. */
ALWAYS_INLINE void next_field(PARAMETERS)
{
#ifdef HOPS_MAX
	if (s->hops++ == HOPS_MAX) {
		leave(ARGUMENTS);
		return;
	}
#endif
	f--;
	dispatch(ARGUMENTS);
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
ALWAYS_INLINE bool is_inside(const struct encode_state *s, uint64_t address, uint64_t bytes,
			     const uint8_t **from)
{
	uint64_t at = address - s->source.peer_base, end;

	/* As a number: outside it is no pointer into anything. */
	*from = (const uint8_t *)((uintptr_t)s->source.mem + at);
	return likely(!__builtin_add_overflow(at, bytes, &end) && end <= s->source.bytes);
}

/* --- Strings and bytes ------------------------------------------------------------------------ */

/* Tag and length in front of content of less than 128 bytes. */
ALWAYS_INLINE uint8_t *short_header(uint8_t *head, const struct encode_field *f, uint64_t n)
{
	head[-1] = (uint8_t)n;
	store32(head - 5, f->tag_high);
	return head - f->short_header_bytes;
}

#ifdef STRING_BY_VECTOR
/* Where `address`, which may be anything, is here, if SHORT_BYTES may be read before and after it:
 * then it is neither a default nor the empty string. */
ALWAYS_INLINE bool is_inner(const struct encode_state *s, uint64_t address, const uint8_t **from)
{
	uint64_t at = address - s->inner_peer;

	/* As a number: outside it is no pointer into anything. */
	*from = (const uint8_t *)(s->inner_mem + at);
	return likely(at < s->inner);
}

/* The NUL among the SHORT_BYTES bytes at `from`; SHORT_BYTES if there is none. */
ALWAYS_INLINE unsigned nul_find(const uint8_t *from)
{
#if defined(__AVX2__)
	__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)from);

	return _tzcnt_u32(
		(unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256())));
#elif defined(__SSE2__)
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
#ifdef __AVX2__
	_mm256_storeu_si256(
		(__m256i *)(void *)(to_end - SHORT_BYTES),
		_mm256_loadu_si256((const __m256i *)(const void *)(from_end - SHORT_BYTES)));
#else
	memcpy(to_end - SHORT_BYTES, from_end - SHORT_BYTES, SHORT_BYTES);
#endif
}
#else
ALWAYS_INLINE bool is_inner(const struct encode_state *s, uint64_t address, const uint8_t **from)
{
	(void)s, (void)address;
	*from = NULL;
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
				   const struct encode_field *f, const uint8_t *from, uint64_t n,
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
	return tag_put(varint_put(head, n, false), f);
}

/* What became of a field. */
enum outcome { UNUSUAL, ABSENT, WRITTEN };

/* Any string; *head moves when it was written. */
NOINLINE enum outcome string_any(struct encode_state *s, uint8_t **head,
				 const struct encode_field *f, uint64_t address,
				 bool empty_is_absent)
{
	const uint8_t *from = NULL, *near, *nul;
	uint64_t n = 0, at, most, room = room_of(s, *head);
	bool scanned = false, inner = false;
	uint8_t *to;

	if (address != 0 && address != s->empty_string) {
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
		inner = is_inner(s, address, &near);
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
				    const struct encode_field *f, uint64_t address)
{
	const uint8_t *from;
	unsigned n;

	if (unlikely(!is_inner(s, address, &from)))
		return NULL;
	n = nul_find(from);
	if (unlikely(n - 1 >= SHORT_BYTES - 1))
		return NULL;
	copy_back(head, from + n);
	return short_header(head - n, f, n);
}

/* Bytes of any length `n`; NULL: unusual. */
NOINLINE uint8_t *bytes_any(struct encode_state *s, uint8_t *head, const struct encode_field *f,
			    uint64_t n, uint64_t address)
{
	const uint8_t *near, *from;

	if (n == 0)
		return short_header(head, f, 0);
	if (!is_inside(s, address, n, &from))
		return NULL;
	return content_put(s, head, f, from, n, is_inner(s, address, &near), false);
}

ALWAYS_INLINE uint8_t *bytes_put(struct encode_state *s, uint8_t *head,
				 const struct encode_field *f, uint64_t n, uint64_t address)
{
	const uint8_t *from;

	if (unlikely(n - 1 >= SHORT_BYTES || !is_inner(s, address, &from)))
		return bytes_any(s, head, f, n, address);
	copy_back(head, from + n);
	return short_header(head - n, f, n);
}

/* --- Messages --------------------------------------------------------------------------------- */

/* The message of `frame`, which is s->frame, begins: it has no unknown fields, or is not for this
 * engine. All its fields are charged at once. */
ALWAYS_INLINE void message_begin(PARAMETERS, struct encode_frame *frame,
				 const struct schema_message *m)
{
	int64_t left = s->budget - 2 - (int64_t)m->field_count;

	if (unlikely(left < BUDGET_LEAST || load32_near(src + BASE_N_UNKNOWN) != 0)) {
		frame->unknown_done = false;
		leave(ARGUMENTS);
		return;
	}
	frame->unknown_done = true;
	s->budget = left;
	next_field(ARGUMENTS);
}

static void element_KIND_MESSAGE(PARAMETERS);

/* All fields are out. If this is not the outermost message: its header, then on with its parent. */
static void op_begin(PARAMETERS)
{
	struct encode_frame *frame = s->frame;
	uint64_t n;

	if (unlikely(frame == s->frames || no_room(s, head))) {
		give_up(ARGUMENTS);
		return;
	}
	/* The generic engine may have entered it, for its tag's sake. */
	if (unlikely(frame[-1].at->tag_bytes > 4)) {
		give_up(ARGUMENTS);
		return;
	}
	n = (s->written_base - (uint64_t)(uintptr_t)head) - frame->mark;
	s->frame = --frame;
	src = frame->src;
	f = frame->at;
	head = tag_put(varint_put(head, n, false), f);
	if (frame->left)
		element_KIND_MESSAGE(ARGUMENTS);
	else
		next_field(ARGUMENTS);
}

/* Is the message at `address`, not 0, for this engine? */
ALWAYS_INLINE bool message_find(const struct encode_state *s, const struct encode_field *f,
				uint64_t address, const uint8_t **sub)
{
	return is_inside(s, address, f->sub.message->struct_bytes, sub) &&
	       likely(s->frame != s->frame_last);
}

/* Go on inside the message `sub`, the value of `f`. */
ALWAYS_INLINE void message_enter(PARAMETERS, const uint8_t *sub)
{
	const struct schema_message *m = f->sub.message;
	struct encode_frame *frame = s->frame;

	frame->at = f;
	frame++;
	s->frame = frame;
	frame->m = m;
	frame->src = src = sub;
	frame->left = 0;
	frame->mark = s->written_base - (uint64_t)(uintptr_t)head;
	f = m->encode_end;
	message_begin(ARGUMENTS, frame, m);
}

/* --- Singular fields -------------------------------------------------------------------------- */

/* Is the member of `f` there? Then `*v` is its word. */
ALWAYS_INLINE bool is_there(const struct encode_state *s, enum encode_kind kind,
			    enum encode_presence presence, const uint8_t *src,
			    const struct encode_field *f, uint64_t *v)
{
	bool pointer = kind == KIND_STRING || kind == KIND_MESSAGE;

	if (presence == ONEOF && load32_near(src + f->presence_at) != f->number)
		return false;
	if (presence == HAS && load32_near(src + f->presence_at) == 0)
		return false;
	*v = value_load(kind, src + f->offset);
	if (presence == NONZERO && kind == KIND_STRING)
		return *v != 0 && *v != s->empty_string;
	if (presence == NONZERO)
		return !value_is_zero(kind, *v);
	if (presence == POINTER || (presence == ONEOF && pointer))
		return *v != 0 && (kind == KIND_MESSAGE || *v != f->sub.absent);
	return true;
}

ALWAYS_INLINE void scalar_op(enum encode_kind kind, enum encode_presence presence, PARAMETERS)
{
	uint64_t v;

	if (is_there(s, kind, presence, src, f, &v)) {
		if (no_room(s, head)) {
			give_up(ARGUMENTS);
			return;
		}
		head = tag_put(scalar_put(kind, head, v), f);
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void bytes_op(enum encode_kind kind, enum encode_presence presence, PARAMETERS)
{
	uint64_t v;

	if (is_there(s, kind, presence, src, f, &v)) {
		uint8_t *to = NULL;

		if (!no_room(s, head))
			to = bytes_put(s, head, f, v, v ? load64_near(src + f->offset + 8) : 0);
		if (unlikely(!to)) {
			give_up(ARGUMENTS);
			return;
		}
		head = to;
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void string_slow(enum encode_presence presence, PARAMETERS)
{
	enum outcome outcome;
	uint64_t v;

	if (is_there(s, KIND_STRING, presence, src, f, &v)) {
		outcome = string_any(s, &head, f, v, presence == NONZERO);
		if (outcome == UNUSUAL) {
			give_up(ARGUMENTS);
			return;
		}
	}
	next_field(ARGUMENTS);
}

ALWAYS_INLINE void string_op(fast_op *slow, enum encode_presence presence, PARAMETERS)
{
	uint64_t v;

	if (is_there(s, KIND_STRING, presence, src, f, &v)) {
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

ALWAYS_INLINE void message_op(enum encode_presence presence, PARAMETERS)
{
	const uint8_t *sub;
	uint64_t v;

	if (!is_there(s, KIND_MESSAGE, presence, src, f, &v)) {
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
	if (!message_find(s, f, v, &sub)) {
		give_up(ARGUMENTS);
		return;
	}
	message_enter(ARGUMENTS, sub);
}

/* --- Repeated fields -------------------------------------------------------------------------- */

/* The array of `f`, its count in `*n`, checked, nothing done. NULL with `*n` 0: there is none;
 * else: unusual. */
ALWAYS_INLINE const uint8_t *array_find(const struct encode_state *s, const uint8_t *src,
					const struct encode_field *f, uint64_t *n)
{
	const uint8_t *array;

	*n = load64_near(src + f->presence_at);
	if (*n == 0 ||
	    unlikely(*n > s->source.bytes / 16 || *n > s->limits.elements_max - s->elements))
		return NULL;
	return is_inside(s, load64_near(src + f->offset), *n * type_bytes[f->type], &array) ? array
											    : NULL;
}

/* The array of `f` begins, if there is one: nothing of it is written. */
ALWAYS_INLINE enum outcome array_open(struct encode_state *s, const uint8_t *src,
				      const struct encode_field *f)
{
	uint64_t n;
	const uint8_t *array = array_find(s, src, f, &n);

	if (!array)
		return n ? UNUSUAL : ABSENT;
	s->elements += n;
	s->frame->array = array;
	s->frame->left = n;
	return WRITTEN;
}

/* The last of the elements that are left: the new head, or NULL. They were counted with their
 * array. */
ALWAYS_INLINE uint8_t *element_put(struct encode_state *s, uint8_t *head,
				   const struct encode_field *f, enum encode_kind kind,
				   const uint8_t *at)
{
	uint64_t v = value_load(kind, at);

	if (kind == KIND_BYTES)
		return bytes_put(s, head, f, v, v ? load64_near(at + 8) : 0);
	if (kind == KIND_STRING) {
		uint8_t *to = string_short(s, head, f, v);

		if (unlikely(!to) && string_any(s, &head, f, v, false) == WRITTEN)
			to = head;
		return to;
	}
	return tag_put(scalar_put(kind, head, v), f);
}

ALWAYS_INLINE void element_op(enum encode_kind kind, PARAMETERS)
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

static void element_KIND_MESSAGE(PARAMETERS)
{
	struct encode_frame *frame = s->frame;
	const uint8_t *sub;
	uint64_t v = load64_near(frame->array + (frame->left - 1) * 8);

	if (!(v ? message_find(s, f, v, &sub) : !no_room(s, head)) ||
	    unlikely(s->budget < BUDGET_LEAST)) {
		leave(ARGUMENTS);
		return;
	}
	s->budget--;
	frame->left--;
	if (unlikely(v == 0)) {
		head = short_header(head, f, 0);
		if (frame->left)
			element_KIND_MESSAGE(ARGUMENTS);
		else
			next_field(ARGUMENTS);
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
		to = content_put(s, head, f, array, n * type_bytes[f->type], false, false);
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

/* All of a packed field, if even the longest varints would have room. */
static void op_packed(PARAMETERS)
{
	uint64_t n, room = room_of(s, head);
	const uint8_t *array = array_find(s, src, f, &n);
	const struct varints_encoder *encoder = &FAST_NAME(varints_encoders)[f->type];
	uint8_t *end = head;

	if (array) {
		if (unlikely(n > room || encoder->most * n + FIELD_ROOM > room ||
			     s->budget < (int64_t)n + BUDGET_LEAST)) {
			give_up(ARGUMENTS);
			return;
		}
		head = encoder->encode(head, array, n, 0);
		head = tag_put(varint_put(head, (uint64_t)(end - head), false), f);
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

#define ARRAY_OP(kind, presence)                                                                   \
	static void op_##kind##_##presence(PARAMETERS)                                             \
	{                                                                                          \
		enum outcome outcome = array_open(s, src, f);                                      \
                                                                                                   \
		if (outcome == WRITTEN)                                                            \
			element_##kind(ARGUMENTS);                                                 \
		else if (outcome == ABSENT)                                                        \
			next_field(ARGUMENTS);                                                     \
		else                                                                               \
			give_up(ARGUMENTS);                                                        \
	}

NUMBERS(ARRAY_OP, ELEMENT)
BYTES(ARRAY_OP, ELEMENT)
STRINGS(ARRAY_OP, ELEMENT)
MESSAGES(ARRAY_OP, ELEMENT)

/* A tree of comparisons and direct jumps (-fno-jump-tables), not a jump through a table: a jump to
 * one of many is mispredicted at nearly each field where the processor, or what it runs under, does
 * not predict such jumps well, and costs more than the whole tree. */
#define OP_CASE(kind, presence)                                                                    \
	case OP(kind, presence):                                                                   \
		op_##kind##_##presence(ARGUMENTS);                                                 \
		return;
#define ELEMENT_CASE(kind, presence)                                                               \
	case OP(kind, presence):                                                                   \
		element_##kind(ARGUMENTS);                                                         \
		return;

/* clang-format off */
NOINLINE void dispatch(PARAMETERS)
{
	switch (f->op) {
	WORDS(NUMBERS, OP_CASE)
	WORDS(BYTES, OP_CASE)
	POINTERS(STRINGS, OP_CASE)
	POINTERS(MESSAGES, OP_CASE)
	NUMBERS(OP_CASE, ELEMENT)
	BYTES(OP_CASE, ELEMENT)
	STRINGS(OP_CASE, ELEMENT)
	MESSAGES(OP_CASE, ELEMENT)
	case OP_BEGIN:
		op_begin(ARGUMENTS);
		return;
	case OP_PACKED:
		op_packed(ARGUMENTS);
		return;
	case OP_PACKED_FIXED:
		op_packed_fixed(ARGUMENTS);
		return;
	default:
		give_up(ARGUMENTS);
	}
}

/* The same field when it is an array that has begun. */
static void array_resume(PARAMETERS)
{
	switch (f->op) {
	NUMBERS(ELEMENT_CASE, ELEMENT)
	BYTES(ELEMENT_CASE, ELEMENT)
	STRINGS(ELEMENT_CASE, ELEMENT)
	MESSAGES(ELEMENT_CASE, ELEMENT)
	default:
		leave(ARGUMENTS);
	}
}
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
	struct encode_frame *frame = s->frame;
	const struct encode_field *f = frame->at;
	const uint8_t *src = frame->src;
	uint8_t *head = s->head;

	s->floor = floor_of(s);
	s->floor_field = s->floor + FIELD_ROOM;
	s->written_base = s->written + (uint64_t)(uintptr_t)head;
	s->fast_head = head;
#ifdef HOPS_MAX
	s->hops = 0;
#endif
	if (frame->left) {
		if (f == frame->m->encode_end)
			return; /* unknown fields */
		array_resume(ARGUMENTS);
	} else if (frame->unknown_done) {
		next_field(ARGUMENTS);
	} else {
		message_begin(ARGUMENTS, frame, frame->m);
	}
	s->written += (uint64_t)(s->head - s->fast_head);
	s->head = s->fast_head;
	FAST_LEAVE();
}

void FAST_NAME(encode_fast_packed)(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	const struct varints_encoder *encoder = &FAST_NAME(varints_encoders)[s->field->type];
	const uint8_t *floor = floor_of(s);

	while (frame->left && s->budget > 0 && s->head - floor >= 10 + FIELD_ROOM) {
		uint64_t n = (uint64_t)(s->head - floor - FIELD_ROOM) / encoder->most;
		uint8_t *head;

		if (n > frame->left)
			n = frame->left;
		if (n > (uint64_t)s->budget)
			n = (uint64_t)s->budget;
		head = encoder->encode(s->head, frame->array, frame->left, frame->left - n);
		frame->left -= n;
		s->budget -= (int64_t)n;
		s->written += (uint64_t)(s->head - head);
		s->head = head;
	}
	FAST_LEAVE();
}
