/* Wire -> linear, the fast engine: the usual fields at the speed of their bytes.
 *
 * It owns no state of its own. It takes fields out of the generic engine's hands as long as they
 * are usual, and stops before the first that is not, with the job as that engine would have left it
 * there: same memory, same counts, same work. So all limits, errors, resuming and odd forms are the
 * generic engine's alone, and a wrong guess costs time only. What stops it:
 *
 *  - anything malformed, or that touches a limit, the end of the chunk or of the quantum;
 *  - unknown fields, groups, numbers past 2047, tags of odd form, closed enums;
 *  - a packable field in the form that its schema does not name;
 *  - a sub-message that comes again, a oneof that changes its member, an array that must grow.
 *
 * One load finds a field: its number indexes a table of half cache lines, whose tag must be the one
 * that was read, wire type and all. Each pair of a type and a cardinality has its own piece of code
 * (an `op`). Loads and stores may run past a value, never past the wire or the chunk.
 *
 * The accounts that must come out as in decode.c: one unit of budget for a field and for the end of
 * a message; copies, structs and runs as decode.c counts them. Elements are not held against their
 * limit one by one: none takes less than a byte of wire, so one comparison at the start will do.
 */
#include "linearize/decode_internal.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Types that are decoded alike. */
enum fast_kind {
	KIND_V32, /* varints: low 32 bits, 64 bits, zigzag, bool */
	KIND_V64,
	KIND_Z32,
	KIND_Z64,
	KIND_BOOL,
	KIND_F32, /* fixed */
	KIND_F64,
	KIND_STRING,
	KIND_TEXT, /* string under the UTF-8 rule */
	KIND_BYTES,
	KIND_MESSAGE,
	KINDS
};

enum fast_card { ALONE, ONEOF, REQUIRED, REPEATED, CARDS };

#define OP(kind, card)  ((kind)*CARDS + (card))
#define OP_PACKED(kind) (KINDS * CARDS + (kind))

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define HIGH_BITS     0x8080808080808080u
#define SLOP          16

/* --- Tables ----------------------------------------------------------------------------------- */

static const uint8_t kinds[TYPE_COUNT] = {
	[PROTOBUF_C_TYPE_INT32] = KIND_V32,       [PROTOBUF_C_TYPE_SINT32] = KIND_Z32,
	[PROTOBUF_C_TYPE_SFIXED32] = KIND_F32,    [PROTOBUF_C_TYPE_INT64] = KIND_V64,
	[PROTOBUF_C_TYPE_SINT64] = KIND_Z64,      [PROTOBUF_C_TYPE_SFIXED64] = KIND_F64,
	[PROTOBUF_C_TYPE_UINT32] = KIND_V32,      [PROTOBUF_C_TYPE_FIXED32] = KIND_F32,
	[PROTOBUF_C_TYPE_UINT64] = KIND_V64,      [PROTOBUF_C_TYPE_FIXED64] = KIND_F64,
	[PROTOBUF_C_TYPE_FLOAT] = KIND_F32,       [PROTOBUF_C_TYPE_DOUBLE] = KIND_F64,
	[PROTOBUF_C_TYPE_BOOL] = KIND_BOOL,       [PROTOBUF_C_TYPE_ENUM] = KIND_V32,
	[PROTOBUF_C_TYPE_STRING] = KIND_STRING,   [PROTOBUF_C_TYPE_BYTES] = KIND_BYTES,
	[PROTOBUF_C_TYPE_MESSAGE] = KIND_MESSAGE,
};

static void compile_one(const struct schema_message *m, const struct schema_field *f,
			struct fast_field *out)
{
	unsigned kind = kinds[f->type];

	if (f->flags & FIELD_UTF8)
		kind = KIND_TEXT;
	out->tag = f->number << 3 | f->wire;
	out->bytes = f->bytes;
	out->offset = f->offset;
	out->presence_at = f->quantifier;
	out->presence = 1;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		out->sub = f->sub.message;
	if (f->card == CARD_REPEATED && f->flags & FIELD_PACKED) {
		out->tag = f->number << 3 | WIRE_LEN;
		out->op = (uint8_t)OP_PACKED(kind);
	} else if (f->card == CARD_REPEATED) {
		out->op = (uint8_t)OP(kind, REPEATED);
	} else if (f->card == CARD_ONEOF) {
		out->op = (uint8_t)OP(kind, ONEOF);
		out->presence = f->number;
	} else if (f->flags & FIELD_REQUIRED) {
		out->op = (uint8_t)OP(kind, REQUIRED);
		out->presence_at = m->required_at + f->required_bit / 64 * 8;
		out->presence = f->required_bit % 64;
	} else {
		out->op = (uint8_t)OP(kind, ALONE);
		if (f->card == CARD_PLAIN) {
			out->presence_at = FAST_NOWHERE;
			out->presence = 0;
		}
	}
}

void fast_compile(const struct schema_message *m, struct fast_field *table)
{
	uint32_t i;

	for (i = 0; i < m->fast_count; i++)
		table[i].tag = FAST_TAG_NONE;
	for (i = 0; i < m->field_count; i++) {
		const struct schema_field *f = &m->fields[i];

		if (f->number < m->fast_count && !(f->flags & FIELD_ENUM_CLOSED))
			compile_one(m, f, &table[f->number]);
	}
}

/* --- Varints ---------------------------------------------------------------------------------- */

/* By value: two registers. `next` NULL: not for us. */
struct varint {
	const uint8_t *next;
	uint64_t v;
};

/* The 7-bit groups of the bytes of `w`, together. */
ALWAYS_INLINE uint64_t groups_join(uint64_t w)
{
	w = (w & 0x007f007f007f007fu) | (w & 0x7f007f007f007f00u) >> 1;
	w = (w & 0x00003fff00003fffu) | (w & 0x3fff00003fff0000u) >> 2;
	return (w & 0x000000000fffffffu) | (w & 0x0fffffff00000000u) >> 4;
}

/* Any varint of at most 10 bytes that ends before `end`. */
ALWAYS_INLINE struct varint varint_wide(const uint8_t *p, const uint8_t *end,
					const uint8_t *wire_end)
{
	struct varint r = {NULL, 0};
	unsigned i;

	if (likely(wire_end - p >= 10)) {
		uint64_t w = load64(p), stops = ~w & HIGH_BITS;

		if (likely(stops)) {
			r.v = groups_join(w & (stops ^ (stops - 1)));
			r.next = p + __builtin_ctzll(stops) / 8 + 1;
		} else {
			r.v = groups_join(w) | (uint64_t)(p[8] & 0x7f) << 56;
			r.next = p + 9;
			if (p[8] >= 0x80) {
				r.v |= (uint64_t)p[9] << 63;
				r.next = p[9] >= 0x80 ? NULL : p + 10;
			}
		}
		if (unlikely(r.next > end))
			r.next = NULL;
		return r;
	}
	for (i = 0; i < 10 && p + i < end; i++) {
		r.v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
		if (p[i] < 0x80) {
			r.next = p + i + 1;
			return r;
		}
	}
	return r;
}

static __attribute__((noinline)) struct varint varint_long(const uint8_t *p, const uint8_t *end,
							   const uint8_t *wire_end)
{
	return varint_wide(p, end, wire_end);
}

ALWAYS_INLINE struct varint varint_read(const uint8_t *p, const uint8_t *end,
					const uint8_t *wire_end)
{
	if (likely(p < end && *p < 0x80))
		return (struct varint){p + 1, *p};
	if (likely(end - p >= 2 && p[1] < 0x80))
		return (struct varint){p + 2, (p[0] & 0x7fu) | (uint64_t)p[1] << 7};
	return varint_long(p, end, wire_end);
}

/* A length, of at most 4 bytes, that fits into what is left. */
ALWAYS_INLINE struct varint length_read(const uint8_t *p, const uint8_t *end,
					const uint8_t *wire_end)
{
	struct varint r = varint_read(p, end, wire_end);

	if (unlikely(!r.next || r.next - p > 4 || r.v > (uint64_t)(end - r.next)))
		r.next = NULL;
	return r;
}

ALWAYS_INLINE uint64_t varint_convert(enum fast_kind kind, uint64_t v)
{
	switch (kind) {
	case KIND_Z32:
		return (uint32_t)v >> 1 ^ -((uint32_t)v & 1);
	case KIND_Z64:
		return v >> 1 ^ -(v & 1);
	case KIND_BOOL:
		return v != 0;
	default:
		return v;
	}
}

ALWAYS_INLINE bool kind_is_wide(enum fast_kind kind)
{
	return kind == KIND_V64 || kind == KIND_Z64 || kind == KIND_F64;
}

ALWAYS_INLINE void value_store(enum fast_kind kind, uint8_t *slot, uint64_t v)
{
	if (kind_is_wide(kind))
		store64(slot, v);
	else
		store32(slot, (uint32_t)v);
}

/* --- Strings ---------------------------------------------------------------------------------- */

/* Copy 16 bytes; are the first `n` of them (at most 16) ASCII? */
ALWAYS_INLINE bool copy16_ascii(uint8_t *to, const uint8_t *from, unsigned n)
{
#ifdef __SSE2__
	__m128i v = _mm_loadu_si128((const __m128i *)(const void *)from);

	_mm_storeu_si128((__m128i *)(void *)to, v);
	return !((unsigned)_mm_movemask_epi8(v) & ((1u << n) - 1));
#else
	uint64_t low = load64(from), high = load64(from + 8);

	store64(to, low);
	store64(to + 8, high);
	if (n < 8)
		return !(low & HIGH_BITS & (((uint64_t)1 << 8 * n) - 1));
	high = n == 16 ? high : high & (((uint64_t)1 << 8 * (n - 8)) - 1);
	return !((low | high) & HIGH_BITS);
#endif
}

static __attribute__((noinline)) bool utf8_whole(const uint8_t *p, uint64_t len)
{
	return utf8_span(p, p + len) == p + len;
}

static __attribute__((noinline)) bool copy_long(uint8_t *to, const uint8_t *from, uint64_t len,
						bool text)
{
	if (text && !utf8_whole(from, len))
		return false;
	memcpy(to, from, len);
	return true;
}

/* `len` bytes at `from` to `to`, where `room` bytes are. Text must be UTF-8. False: it is not. */
ALWAYS_INLINE bool copy_text(uint8_t *to, const uint8_t *from, uint64_t len, uint64_t room,
			     const uint8_t *wire_end, bool text)
{
	uint64_t slop = (uint64_t)(wire_end - from);
	bool ascii;

	if (slop > room)
		slop = room;
	if (likely(len <= 16 && slop >= 16)) {
		ascii = copy16_ascii(to, from, (unsigned)len);
		return !text || likely(ascii) || utf8_whole(from, len);
	}
	if (likely(len <= 32 && slop >= 32)) {
		ascii = copy16_ascii(to, from, 16);
		ascii &= copy16_ascii(to + 16, from + 16, (unsigned)len - 16);
		return !text || likely(ascii) || utf8_whole(from, len);
	}
	return copy_long(to, from, len, text);
}

/* --- Arrays ----------------------------------------------------------------------------------- */

/* An array of exactly `n` elements at `free`; returns the new end of what is used, or NULL. */
static inline uint8_t *array_new(const struct decode_state *s, uint8_t *mem,
				 const struct fast_field *e, uint64_t n, uint8_t *free,
				 const uint8_t *limit)
{
	uint8_t *at = free + (-(uintptr_t)free & 7);
	uint64_t bytes = 8 + n * e->bytes;

	if (at > limit || bytes > (uint64_t)(limit - at))
		return NULL;
	store64(at, n);
	store64(mem + e->offset, (uint64_t)(uintptr_t)(at + 8) + (uint64_t)s->delta);
	return at + bytes;
}

/* The place after the value of a repeated field of wire type `wire`, or NULL. */
static inline const uint8_t *value_skip(const uint8_t *p, const uint8_t *end,
					const uint8_t *wire_end, unsigned wire)
{
	struct varint r;

	switch (wire) {
	case WIRE_VARINT:
		return varint_read(p, end, wire_end).next;
	case WIRE_LEN:
		r = length_read(p, end, wire_end);
		return r.next ? r.next + r.v : NULL;
	default:
		return end - p < (wire == WIRE_64 ? 8 : 4) ? NULL : p + (wire == WIRE_64 ? 8 : 4);
	}
}

/* The first element of a repeated field that has no array yet: count the run that begins at `p`, of
 * fields with the tag of `e`, and make an array that fits. NULL: something is unusual, and nothing
 * was done. Charges s->budget as decode.c does: this try and one for each element. */
static __attribute__((noinline)) uint8_t *array_begin(struct decode_state *s, const uint8_t *p,
						      const uint8_t *end, uint8_t *mem,
						      const struct fast_field *e, uint8_t *free,
						      const uint8_t *limit)
{
	const uint8_t *wire_end = s->frames[0].end;
	int64_t run = 0;

	while (p < end) {
		uint32_t tag = *p++;

		if (tag >= 0x80) {
			if (p == end || *p >= 0x80)
				return NULL;
			tag = (tag & 0x7f) | (uint32_t)*p++ << 7;
		}
		if (tag != e->tag)
			break;
		p = value_skip(p, end, wire_end, tag & 7);
		run++;
		if (!p || s->budget <= run + 2)
			return NULL;
	}
	free = array_new(s, mem, e, (uint64_t)run, free, limit);
	if (free)
		s->budget -= run + 1;
	return free;
}

ALWAYS_INLINE uint8_t *array_at(const struct decode_state *s, uint64_t address)
{
	return (uint8_t *)(uintptr_t)(address - (uint64_t)s->delta);
}

/* --- Packed ----------------------------------------------------------------------------------- */

static uint64_t count_ends(const uint8_t *p, const uint8_t *end)
{
	uint64_t n = 0;

	for (; end - p >= 8; p += 8) {
		uint64_t w = (~load64(p) & HIGH_BITS) >> 7;

		n += w * 0x0101010101010101u >> 56;
	}
	for (; p < end; p++)
		n += *p < 0x80;
	return n;
}

/* Eight varints of one byte each, to eight slots. */
ALWAYS_INLINE void packed_eight(enum fast_kind kind, uint8_t *slot, uint64_t w)
{
	unsigned i, bytes = kind_is_wide(kind) ? 8 : 4;

	for (i = 0; i < 8; i++)
		value_store(kind, slot + (size_t)i * bytes,
			    varint_convert(kind, w >> 8 * i & 0x7f));
}

/* All varints of [p, end), which ends with one. False: one is too long. */
ALWAYS_INLINE bool packed_decode(enum fast_kind kind, uint8_t *slot, const uint8_t *p,
				 const uint8_t *end, const uint8_t *wire_end)
{
	unsigned bytes = kind_is_wide(kind) ? 8 : 4;

	while (p < end) {
		struct varint r;

		if (end - p >= 8 && !(load64(p) & HIGH_BITS)) {
			packed_eight(kind, slot, load64(p));
			slot += 8 * bytes;
			p += 8;
			continue;
		}
		if (*p < 0x80)
			r = (struct varint){p + 1, *p};
		else if (p[1] < 0x80)
			r = (struct varint){p + 2, (p[0] & 0x7fu) | (uint64_t)p[1] << 7};
		else
			r = varint_wide(p, end, wire_end);
		if (!r.next)
			return false;
		value_store(kind, slot, varint_convert(kind, r.v));
		slot += bytes;
		p = r.next;
	}
	return true;
}

static bool packed_varints(enum fast_kind kind, uint8_t *slot, const uint8_t *p, const uint8_t *end,
			   const uint8_t *wire_end)
{
	switch (kind) {
	case KIND_V32:
		return packed_decode(KIND_V32, slot, p, end, wire_end);
	case KIND_V64:
		return packed_decode(KIND_V64, slot, p, end, wire_end);
	case KIND_Z32:
		return packed_decode(KIND_Z32, slot, p, end, wire_end);
	case KIND_Z64:
		return packed_decode(KIND_Z64, slot, p, end, wire_end);
	default:
		return packed_decode(KIND_BOOL, slot, p, end, wire_end);
	}
}

/* A packed field whose content is [p, p + len), len > 0. Returns the new end of what is used, or
 * NULL when nothing was done. Charges s->budget and s->elements. */
static __attribute__((noinline)) uint8_t *packed_field(struct decode_state *s, uint8_t *mem,
						       const struct fast_field *e, const uint8_t *p,
						       uint64_t len, uint8_t *free,
						       const uint8_t *limit)
{
	enum fast_kind kind = (enum fast_kind)(e->op - OP_PACKED(0));
	bool fixed = kind == KIND_F32 || kind == KIND_F64;
	uint64_t count = load64(mem + e->presence_at), address = load64(mem + e->offset), n;
	int64_t cost = 1 + (int64_t)(len / LINEAR_UNIT_BYTES);
	uint8_t *slot;

	if (s->budget <= cost + 4)
		return NULL; /* before the count, which is not for one run either */
	if (fixed) {
		n = len / e->bytes;
		cost += (len >= LINEAR_UNIT_BYTES / 2) + !address;
	} else {
		n = count_ends(p, p + len);
		cost += 1 + (int64_t)n;
	}
	if (s->budget <= cost + 4)
		return NULL;
	if (fixed ? len % e->bytes != 0 : p[len - 1] >= 0x80)
		return NULL;
	if (address) {
		slot = array_at(s, address);
		if (load64(slot - 8) - count < n)
			return NULL;
	} else {
		free = array_new(s, mem, e, n, free, limit);
		if (!free)
			return NULL;
		slot = array_at(s, load64(mem + e->offset));
	}
	slot += count * e->bytes;
	if (fixed) {
		memcpy(slot, p, len);
	} else if (!packed_varints(kind, slot, p, p + len, s->frames[0].end)) {
		if (!address)
			store64(mem + e->offset, 0); /* as if nothing had been */
		return NULL;
	}
	store64(mem + e->presence_at, count + n);
	s->elements += n;
	s->budget -= cost;
	return free;
}

/* --- Messages --------------------------------------------------------------------------------- */

ALWAYS_INLINE void copy16(uint8_t *to, const uint8_t *from)
{
	uint64_t low = load64(from), high = load64(from + 8);

	store64(to, low);
	store64(to + 8, high);
}

/* A fresh struct; up to SLOP bytes after it are written too. */
ALWAYS_INLINE void message_clear(uint8_t *mem, const struct schema_message *m)
{
	uint32_t i;

	for (i = 0; i < m->struct_bytes; i += 16)
		copy16(mem + i, m->image + i);
	for (i = m->struct_bytes; i < m->alloc_bytes; i += 8)
		store64(mem + i, 0);
}

/* --- The engine ------------------------------------------------------------------------------- */

/* Can the presence of `e` be noted as usual? A oneof that has another member cannot. */
ALWAYS_INLINE bool presence_usual(enum fast_card card, const uint8_t *mem,
				  const struct fast_field *e)
{
	uint32_t member;

	if (card != ONEOF)
		return true;
	member = load32(mem + e->presence_at);
	return member == 0 || member == e->presence;
}

ALWAYS_INLINE void presence_note(enum fast_card card, uint8_t *mem, const struct fast_field *e)
{
	uint8_t *at = mem + e->presence_at;

	if (card == REQUIRED)
		store64(at, load64(at) | (uint64_t)1 << e->presence);
	else
		store32(at, e->presence);
}

/* The registers of the engine. All that takes one is inlined, so that they are. */
struct fast {
	const uint8_t *p, *end;
	const uint8_t *wire_end;
	uint8_t *mem;
	const struct schema_message *m;
	uint8_t *free;
	const uint8_t *limit;
	int64_t budget;
	uint64_t elements;
	struct decode_frame *frame;
};

/* Where the next value of `e` goes: the member, or a new element. NULL: unusual. */
ALWAYS_INLINE uint8_t *slot_of(struct decode_state *s, struct fast *x, enum fast_card card,
			       const struct fast_field *e, uint64_t *count)
{
	uint64_t address;
	uint8_t *array;

	if (card != REPEATED)
		return presence_usual(card, x->mem, e) ? x->mem + e->offset : NULL;
	address = load64(x->mem + e->offset);
	if (unlikely(!address)) {
		uint8_t *free;

		s->budget = x->budget;
		free = array_begin(s, x->p, x->end, x->mem, e, x->free, x->limit);
		if (!free)
			return NULL;
		x->budget = s->budget;
		x->free = free;
		address = load64(x->mem + e->offset);
	}
	array = array_at(s, address);
	*count = load64(x->mem + e->presence_at);
	if (unlikely(load64(array - 8) == *count))
		return NULL;
	return array + *count * e->bytes;
}

ALWAYS_INLINE void slot_note(struct fast *x, enum fast_card card, const struct fast_field *e,
			     uint64_t count)
{
	if (card == REPEATED)
		store64(x->mem + e->presence_at, count + 1);
	else
		presence_note(card, x->mem, e);
	x->budget--;
	x->elements++;
}

ALWAYS_INLINE bool scalar_field(struct decode_state *s, struct fast *x, enum fast_kind kind,
				enum fast_card card, const struct fast_field *e, const uint8_t *at)
{
	struct varint r;
	uint64_t count = 0;
	uint8_t *slot;

	if (kind == KIND_F32 || kind == KIND_F64) {
		unsigned bytes = kind == KIND_F64 ? 8 : 4;

		if (unlikely(x->end - at < bytes))
			return false;
		r.v = kind == KIND_F64 ? load64(at) : load32(at);
		r.next = at + bytes;
	} else {
		r = varint_read(at, x->end, x->wire_end);
		if (unlikely(!r.next))
			return false;
	}
	slot = slot_of(s, x, card, e, &count);
	if (unlikely(!slot))
		return false;
	value_store(kind, slot, varint_convert(kind, r.v));
	slot_note(x, card, e, count);
	x->p = r.next;
	return true;
}

ALWAYS_INLINE bool length_field(struct decode_state *s, struct fast *x, enum fast_kind kind,
				enum fast_card card, const struct fast_field *e, const uint8_t *at)
{
	struct varint r = length_read(at, x->end, x->wire_end);
	uint64_t count = 0, need = r.v + (kind != KIND_BYTES), room;
	int64_t cost = (int64_t)(r.v / LINEAR_UNIT_BYTES);
	uint8_t *slot;

	if (unlikely(!r.next))
		return false;
	slot = slot_of(s, x, card, e, &count);
	room = (uint64_t)(x->limit - x->free);
	if (unlikely(!slot || x->budget < cost + 2 || need > room))
		return false;
	if (unlikely(!copy_text(x->free, r.next, r.v, room, x->wire_end, kind == KIND_TEXT)))
		return false;
	if (kind == KIND_BYTES) {
		store64(slot, r.v);
		store64(slot + 8, r.v ? (uint64_t)(uintptr_t)x->free + (uint64_t)s->delta : 0);
	} else {
		x->free[r.v] = 0;
		store64(slot, (uint64_t)(uintptr_t)x->free + (uint64_t)s->delta);
	}
	x->free += need;
	slot_note(x, card, e, count);
	x->budget -= cost + (r.v >= LINEAR_UNIT_BYTES / 2);
	x->p = r.next + r.v;
	return true;
}

ALWAYS_INLINE bool message_field(struct decode_state *s, struct fast *x, enum fast_card card,
				 const struct fast_field *e, const uint8_t *at)
{
	struct varint r = length_read(at, x->end, x->wire_end);
	const struct schema_message *m = e->sub;
	uint64_t count = 0;
	uint8_t *slot, *mem;

	if (unlikely(!r.next || x->frame - s->frames >= (ptrdiff_t)s->limits.depth_max))
		return false;
	slot = slot_of(s, x, card, e, &count);
	mem = x->free + (-(uintptr_t)x->free & 7);
	if (unlikely(!slot || (card != REPEATED && load64(slot) != 0)))
		return false;
	if (unlikely(x->limit - mem < (ptrdiff_t)m->alloc_bytes + SLOP))
		return false;
	message_clear(mem, m);
	store64(slot, (uint64_t)(uintptr_t)mem + (uint64_t)s->delta);
	slot_note(x, card, e, count);
	x->budget -= m->struct_bytes / LINEAR_UNIT_BYTES;
	x->free = mem + m->alloc_bytes;
	x->mem = mem;
	x->m = m;
	x->p = r.next;
	x->end = r.next + r.v;
	x->frame++;
	*x->frame = (struct decode_frame){.m = m, .mem = mem, .end = x->end};
	return true;
}

ALWAYS_INLINE bool packed_any(struct decode_state *s, struct fast *x, const struct fast_field *e,
			      const uint8_t *at)
{
	struct varint r = length_read(at, x->end, x->wire_end);
	uint8_t *free;

	if (unlikely(!r.next))
		return false;
	if (r.v) {
		s->budget = x->budget;
		s->elements = x->elements;
		free = packed_field(s, x->mem, e, r.next, r.v, x->free, x->limit);
		if (!free)
			return false;
		x->free = free;
		x->budget = s->budget;
		x->elements = s->elements;
	} else {
		x->budget--;
	}
	x->p = r.next + r.v;
	return true;
}

/* The end of a message below the outermost. */
ALWAYS_INLINE void message_end(struct decode_state *s, struct fast *x)
{
	if (unlikely(x->m->required_at))
		decode_required_judge(s, x->frame);
	x->budget--;
	x->frame--;
	x->m = x->frame->m;
	x->mem = x->frame->mem;
	x->end = x->frame->end;
}

/* The entry of the field whose tag is at x->p, which is before x->end; `*at` is past it. NULL: not
 * for us. */
ALWAYS_INLINE const struct fast_field *field_find(const struct fast *x, const uint8_t **at)
{
	uint32_t tag = x->p[0];
	const struct fast_field *e;

	*at = x->p + 1;
	if (unlikely(tag >= 0x80)) {
		if (x->end - x->p < 2 || x->p[1] >= 0x80)
			return NULL;
		tag = (tag & 0x7f) | (uint32_t)x->p[1] << 7;
		*at = x->p + 2;
		if (tag >> 3 >= x->m->fast_count)
			return NULL;
	}
	e = &x->m->fast[tag >> 3];
	return likely(e->tag == tag) ? e : NULL;
}

#define SCALARS(X, card)                                                                           \
	X(KIND_V32, card)                                                                          \
	X(KIND_V64, card)                                                                          \
	X(KIND_Z32, card)                                                                          \
	X(KIND_Z64, card)                                                                          \
	X(KIND_BOOL, card)                                                                         \
	X(KIND_F32, card)                                                                          \
	X(KIND_F64, card)
#define LENGTHS(X, card)                                                                           \
	X(KIND_STRING, card)                                                                       \
	X(KIND_TEXT, card)                                                                         \
	X(KIND_BYTES, card)
#define ALL_CARDS(LIST, X)                                                                         \
	LIST(X, ALONE)                                                                             \
	LIST(X, ONEOF)                                                                             \
	LIST(X, REQUIRED)                                                                          \
	LIST(X, REPEATED)
#define SCALAR_CASE(kind, card)                                                                    \
	case OP(kind, card):                                                                       \
		good = scalar_field(s, &x, kind, card, e, at);                                     \
		break;
#define LENGTH_CASE(kind, card)                                                                    \
	case OP(kind, card):                                                                       \
		good = length_field(s, &x, kind, card, e, at);                                     \
		break;
#define MESSAGE_CASE(kind, card)                                                                   \
	case OP(kind, card):                                                                       \
		good = message_field(s, &x, card, e, at);                                          \
		break;
#define MESSAGES(X, card) X(KIND_MESSAGE, card)

void decode_fast(struct decode_state *s)
{
	struct decode_frame *frame = s->frame;
	struct fast x = {.p = s->p,
			 .end = frame->end,
			 .wire_end = s->frames[0].end,
			 .mem = frame->mem,
			 .m = frame->m,
			 .free = s->bump.free,
			 .limit = s->bump.end,
			 .budget = s->budget,
			 .elements = s->elements,
			 .frame = frame};
	const struct fast_field *e;
	const uint8_t *at;
	bool good = true;

	if ((uint64_t)(x.wire_end - x.p) > s->limits.elements_max - s->elements)
		return;
	if ((uint64_t)(x.limit - x.free) > s->bump.most - s->bump.used)
		x.limit = x.free + (s->bump.most - s->bump.used);
	while (likely(good && x.budget > 0)) {
		if (unlikely(x.p == x.end)) {
			if (x.frame == s->frames)
				break;
			message_end(s, &x);
			continue;
		}
		e = field_find(&x, &at);
		if (unlikely(!e))
			break;
		switch (e->op) {
			ALL_CARDS(SCALARS, SCALAR_CASE)
			ALL_CARDS(LENGTHS, LENGTH_CASE)
			ALL_CARDS(MESSAGES, MESSAGE_CASE)
		default:
			good = packed_any(s, &x, e, at);
		}
	}
	s->p = x.p;
	s->frame = x.frame;
	s->budget = x.budget;
	s->elements = x.elements;
	s->bump.used += (uint64_t)(x.free - s->bump.free);
	s->bump.free = x.free;
}
