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
 * (an `op`), which ends by finding the next field and jumping to its piece.
 *
 * Bounds. A field that begins SLOP bytes before the end of the wire can be read without asking:
 * tag, varint and a short string fit into that. What a value really took is compared with the end
 * of its message once, afterwards. The last SLOP bytes of the wire are moved to a buffer in the job
 * that has as much room behind it (tail_enter), and go on from there in the same way; all places on
 * the wire that the job knows move along, and back when the engine stops. Stores may run past a
 * value, never past the chunk: near its end they are made to measure.
 *
 * The accounts that must come out as in decode.c: one unit of budget for a field and for the end of
 * a message; copies, structs and runs as decode.c counts them. Elements are not held against their
 * limit one by one: none takes less than a byte of wire, so one comparison at the start will do.
 * They are not even counted: a unit is an element unless charge() says that it is not.
 */
#include "linearize/decode_internal.h"
#include "linearize/fast_internal.h"

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

/* PLAIN: no presence is stored. */
enum fast_card { PLAIN, HAS, ONEOF, REQUIRED, REPEATED, CARDS };

#define OP(kind, card)  ((kind)*CARDS + (card))
#define OP_PACKED(kind) (KINDS * CARDS + (kind))
#define OPS             (KINDS * CARDS + KIND_STRING)

#define SLOP        DECODE_SLOP
#define SHORT_BYTES 32 /* what is moved at once */

static_assert(SLOP >= 2 + 5 + SHORT_BYTES && SLOP >= 2 + 10, "a short field fits");

/* --- Tables ----------------------------------------------------------------------------------- */

#ifndef LINEARIZE_WIDE

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
		out->op = (uint8_t)OP(kind, f->card == CARD_PLAIN ? PLAIN : HAS);
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

#endif

/* --- Values ----------------------------------------------------------------------------------- */

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

ALWAYS_INLINE bool kind_is_fixed(enum fast_kind kind)
{
	return kind == KIND_F32 || kind == KIND_F64;
}

ALWAYS_INLINE void value_store(enum fast_kind kind, uint8_t *slot, uint64_t v)
{
	if (kind_is_wide(kind))
		store64(slot, v);
	else
		store32(slot, (uint32_t)v);
}

ALWAYS_INLINE uint64_t align8_up(uintptr_t at)
{
	return (at + 7) & ~(uintptr_t)7;
}

/* --- The registers of the engine -------------------------------------------------------------- */

/* All that takes one is inlined, so that they are. `stop`: fields that begin before it need no
 * care. */
struct fast {
	const uint8_t *p, *end, *stop;
	uint8_t *mem;
	const struct fast_field *table;
	uint8_t *free, *limit;
	int64_t budget;
	struct decode_frame *frame;
};

/* Units that are no elements. */
ALWAYS_INLINE void charge(struct decode_state *s, struct fast *x, int64_t units)
{
	x->budget -= units;
	s->elements -= (uint64_t)units;
}

ALWAYS_INLINE void stop_set(const struct decode_state *s, struct fast *x)
{
	x->stop = x->end < s->safe ? x->end : s->safe;
}

/* Where in memory the receiver's `address` is. */
ALWAYS_INLINE uint8_t *memory_at(const struct decode_state *s, uint64_t address)
{
	return (uint8_t *)(uintptr_t)(address - (uint64_t)s->delta);
}

ALWAYS_INLINE uint64_t address_of(const struct decode_state *s, const uint8_t *mem)
{
	return (uint64_t)(uintptr_t)mem + (uint64_t)s->delta;
}

/* --- The end of the wire ------------------------------------------------------------------------
 */

/* Let all that the job knows of the wire be `by` bytes elsewhere. */
static void wire_shift(struct decode_state *s, const struct decode_frame *last, ptrdiff_t by)
{
	struct decode_frame *f;

	for (f = s->frames; f <= last; f++)
		f->end = (const uint8_t *)((uintptr_t)f->end + (uintptr_t)by);
	s->shift += by;
}

/* Go on in the job's buffer, from `p` on, at most SLOP bytes before the end of the wire. Returns
 * the new `p`. */
static __attribute__((noinline)) const uint8_t *tail_enter(struct decode_state *s, const uint8_t *p,
							   const struct decode_frame *last)
{
	const uint8_t *end = s->frames[0].end;
	uint8_t *to = s->tail;

	/* What lies behind must be nobody else's bytes: it may get into the chunk. */
	memset(s->tail + SLOP, 0, SLOP);
	if (likely(end - s->wire >= SLOP)) {
		memcpy(to, end - SLOP, SLOP);
		to += SLOP - (end - p);
	} else {
		to += SLOP - (end - p);
		memcpy(to, p, (size_t)(end - p));
	}
	wire_shift(s, last, (ptrdiff_t)((uintptr_t)to - (uintptr_t)p));
	s->safe = s->tail + sizeof(s->tail);
	return to;
}

/* --- Strings ---------------------------------------------------------------------------------- */

/* Move 32 bytes; are the first `n` of them (at most 32) ASCII? */
ALWAYS_INLINE bool copy32_ascii(uint8_t *to, const uint8_t *from, unsigned n)
{
#if defined(__AVX2__)
	__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)from);

	_mm256_storeu_si256((__m256i *)(void *)to, v);
	return !((uint64_t)(uint32_t)_mm256_movemask_epi8(v) & (((uint64_t)1 << n) - 1));
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

static __attribute__((noinline)) bool utf8_whole(const uint8_t *p, uint64_t len)
{
	return FAST_NAME(utf8_span)(p, p + len) == p + len;
}

/* Content that stays on the wire; see decode.c. Charges as content_long. */
static uint8_t *content_alias(struct decode_state *s, enum fast_kind kind, const uint8_t *from,
			      uint64_t len, uint8_t *free, const uint8_t *limit,
			      uint64_t *address_out)
{
	int64_t cost = (int64_t)(len / LINEAR_UNIT_BYTES) + (len >= LINEAR_UNIT_BYTES / 2);
	uint8_t *nul = (uint8_t *)align8_up((uintptr_t)free);

	*address_out = address_of(s, from);
	if (kind == KIND_BYTES) {
		s->aliased++;
		return free;
	}
	if (limit - nul < (ptrdiff_t)sizeof(struct alias_nul))
		return NULL;
	if (kind == KIND_TEXT) {
		if (s->budget < cost + 2 || !utf8_whole(from, len))
			return NULL;
		s->budget -= cost;
		s->elements -= (uint64_t)cost;
	}
	store64(nul + offsetof(struct alias_nul, before), s->nuls);
	store64(nul + offsetof(struct alias_nul, place), address_of(s, from + len));
	s->nuls = address_of(s, nul);
	s->aliased++;
	return nul + sizeof(struct alias_nul);
}

/* Content of any length, or near the chunk's end: `len` bytes at `from`, and a NUL after all but
 * bytes. `*address_out` is the receiver's. Returns the new end of what is used, or NULL when it is
 * unusual and nothing was done. Charges s->budget and s->elements for the copy. */
static __attribute__((noinline)) uint8_t *content_long(struct decode_state *s, enum fast_kind kind,
						       const uint8_t *from, uint64_t len,
						       uint8_t *free, const uint8_t *limit,
						       uint64_t *address_out)
{
	int64_t cost = (int64_t)(len / LINEAR_UNIT_BYTES);
	uint64_t need = len + (kind != KIND_BYTES);

	if (len >= s->alias_min)
		return content_alias(s, kind, from, len, free, limit, address_out);
	if (s->budget < cost + 2 || need > (uint64_t)(limit - free))
		return NULL;
	if (kind == KIND_TEXT && !utf8_whole(from, len))
		return NULL;
	memcpy(free, from, len);
	if (kind != KIND_BYTES)
		free[len] = 0;
	*address_out = address_of(s, free);
	cost += len >= LINEAR_UNIT_BYTES / 2;
	s->budget -= cost;
	s->elements -= (uint64_t)cost;
	return free + need;
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
	store64(mem + e->offset, address_of(s, at + 8));
	return at + bytes;
}

/* The place after the value of a repeated field of wire type `wire`, or NULL. */
static inline const uint8_t *value_skip(const uint8_t *p, const uint8_t *end, unsigned wire)
{
	struct varint r;

	if (wire == WIRE_VARINT || wire == WIRE_LEN) {
		if (p < end && *p < 0x80)
			r = (struct varint){p + 1, *p};
		else
			r = varint_careful(p, end);
		if (!r.next || wire == WIRE_VARINT)
			return r.next;
		return r.next - p > 4 || r.v > (uint64_t)(end - r.next) ? NULL : r.next + r.v;
	}
	return end - p < (wire == WIRE_64 ? 8 : 4) ? NULL : p + (wire == WIRE_64 ? 8 : 4);
}

/* The first element of a repeated field that has no array yet: count the run that begins at `p`, of
 * fields with the tag of `e`, and make an array that fits. NULL: something is unusual, and nothing
 * was done. Charges s->budget as decode.c does: this try and one for each element. */
static __attribute__((noinline)) uint8_t *array_begin(struct decode_state *s, const uint8_t *p,
						      const uint8_t *end, uint8_t *mem,
						      const struct fast_field *e, uint8_t *free,
						      const uint8_t *limit)
{
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
		p = value_skip(p, end, tag & 7);
		run++;
		if (!p || s->budget <= run + 2)
			return NULL;
	}
	free = array_new(s, mem, e, (uint64_t)run, free, limit);
	if (free) {
		s->budget -= run + 1;
		s->elements -= (uint64_t)run + 1;
	}
	return free;
}

/* --- Packed ----------------------------------------------------------------------------------- */

/* A packed field whose content is [p, p + len), len > 0. Returns the new end of what is used, or
 * NULL when nothing was done. Charges s->budget and s->elements. */
static __attribute__((noinline)) uint8_t *packed_field(struct decode_state *s, uint8_t *mem,
						       const struct fast_field *e, const uint8_t *p,
						       uint64_t len, uint8_t *free,
						       const uint8_t *limit)
{
	enum fast_kind kind = (enum fast_kind)(e->op - OP_PACKED(0));
	bool fixed = kind_is_fixed(kind);
	uint64_t count = load64(mem + e->presence_at), address = load64(mem + e->offset), n;
	int64_t cost = 1 + (int64_t)(len / LINEAR_UNIT_BYTES);
	uint8_t *slot;

	if (s->budget <= cost + 4)
		return NULL; /* before the count, which is not for one run either */
	if (fixed) {
		n = len / e->bytes;
		cost += (len >= LINEAR_UNIT_BYTES / 2) + !address;
	} else {
		n = FAST_NAME(varints_count)(p, p + len);
		cost += 1 + (int64_t)n;
	}
	if (s->budget <= cost + 4)
		return NULL;
	if (fixed ? len % e->bytes != 0 : p[len - 1] >= 0x80)
		return NULL;
	if (address) {
		slot = memory_at(s, address);
		if (load64(slot - 8) - count < n)
			return NULL;
	} else {
		free = array_new(s, mem, e, n, free, limit);
		if (!free)
			return NULL;
		slot = memory_at(s, load64(mem + e->offset));
	}
	slot += count * e->bytes;
	if (fixed) {
		memcpy(slot, p, len);
	} else if (!FAST_NAME(varints_decode)((enum varint_kind)kind, slot, p, p + len,
					      s->frames[0].end)) {
		if (!address)
			store64(mem + e->offset, 0); /* as if nothing had been */
		return NULL;
	}
	store64(mem + e->presence_at, count + n);
	s->elements += n - (uint64_t)cost;
	s->budget -= cost;
	return free;
}

static_assert((int)KIND_V32 == VARINT_32 && (int)KIND_V64 == VARINT_64 &&
		      (int)KIND_Z32 == VARINT_ZIGZAG_32 && (int)KIND_Z64 == VARINT_ZIGZAG_64 &&
		      (int)KIND_BOOL == VARINT_BOOL,
	      "kinds of varints agree");

/* --- Presence --------------------------------------------------------------------------------- */

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

/* Where the next value of `e` goes: the member, or a new element. NULL: unusual. */
ALWAYS_INLINE uint8_t *slot_of(struct decode_state *s, struct fast *x, enum fast_card card,
			       const struct fast_field *e, uint64_t *count)
{
	uint64_t address;
	uint8_t *array;

	if (card != REPEATED)
		return likely(presence_usual(card, x->mem, e)) ? x->mem + e->offset : NULL;
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
	array = memory_at(s, address);
	*count = load64(x->mem + e->presence_at);
	if (unlikely(load64(array - 8) == *count))
		return NULL;
	return array + *count * e->bytes;
}

/* The value is stored: note that, and that it was a field. */
ALWAYS_INLINE void slot_note(struct fast *x, enum fast_card card, const struct fast_field *e,
			     uint64_t count)
{
	uint8_t *at = x->mem + e->presence_at;

	if (card == REPEATED)
		store64(at, count + 1);
	else if (card == REQUIRED)
		store64(at, load64(at) | (uint64_t)1 << e->presence);
	else if (card == ONEOF)
		store32(at, e->presence);
	else if (card == HAS)
		store32(at, 1);
	x->budget--;
}

/* --- Fields ----------------------------------------------------------------------------------- */

/* The value of `e` at `at`; then x->p is past it. False: unusual, and nothing was done but perhaps
 * an array begun. */
ALWAYS_INLINE bool scalar_field(struct decode_state *s, struct fast *x, enum fast_kind kind,
				enum fast_card card, const struct fast_field *e, const uint8_t *at)
{
	struct varint r;
	uint64_t count = 0;
	uint8_t *slot;

	if (kind == KIND_F32)
		r = (struct varint){at + 4, load32(at)};
	else if (kind == KIND_F64)
		r = (struct varint){at + 8, load64(at)};
	else
		r = varint_near(at);
	/* One comparison for both: NULL - 1 is past every end. */
	if (unlikely((uintptr_t)r.next - 1 >= (uintptr_t)x->end))
		return false;
	slot = slot_of(s, x, card, e, &count);
	if (unlikely(!slot))
		return false;
	value_store(kind, slot, varint_convert(kind, r.v));
	slot_note(x, card, e, count);
	x->p = r.next;
	return true;
}

/* A length, of at most 4 bytes, that fits into what is left. */
ALWAYS_INLINE bool length_read(const struct fast *x, const uint8_t *at, struct varint *r)
{
	uint64_t v = at[0];

	r->next = at + 1;
	if (unlikely(v >= 0x80)) {
		v = (v & 0x7f) | (uint64_t)at[1] << 7;
		r->next = at + 2;
		if (unlikely(at[1] >= 0x80)) {
			*r = varint_careful(at, at + 4);
			if (!r->next)
				return false;
			v = r->v;
		}
	}
	r->v = v;
	return likely((ptrdiff_t)v <= x->end - r->next);
}

ALWAYS_INLINE bool content_field(struct decode_state *s, struct fast *x, enum fast_kind kind,
				 enum fast_card card, const struct fast_field *e, const uint8_t *at)
{
	struct varint r;
	uint64_t count = 0, address;
	uint8_t *slot;

	if (unlikely(!length_read(x, at, &r)))
		return false;
	slot = slot_of(s, x, card, e, &count);
	if (unlikely(!slot))
		return false;
	if (likely(r.v <= SHORT_BYTES && x->limit - x->free > SHORT_BYTES)) {
		bool ascii = copy32_ascii(x->free, r.next, (unsigned)r.v);

		if (kind == KIND_TEXT && unlikely(!ascii) && !utf8_whole(r.next, r.v))
			return false;
		address = address_of(s, x->free);
		if (kind != KIND_BYTES)
			x->free[r.v] = 0;
		x->free += r.v + (kind != KIND_BYTES);
	} else {
		uint8_t *free;

		s->budget = x->budget;
		free = content_long(s, kind, r.next, r.v, x->free, x->limit, &address);
		if (unlikely(!free))
			return false;
		x->free = free;
		x->budget = s->budget;
	}
	if (kind == KIND_BYTES) {
		store64(slot, r.v);
		store64(slot + 8, r.v ? address : 0);
	} else {
		store64(slot, address);
	}
	slot_note(x, card, e, count);
	x->p = r.next + r.v;
	return true;
}

/* A fresh struct, of which up to FAST_IMAGE_SLACK bytes more may be written. */
ALWAYS_INLINE void message_clear(uint8_t *mem, const struct schema_message *m)
{
	const uint8_t *from = m->image;
	uint32_t i = 0;

	do {
		memcpy(mem + i, from + i, 32);
		memcpy(mem + i + 32, from + i + 32, 32);
		i += 64;
	} while (unlikely(i < m->struct_bytes));
	for (i = m->struct_bytes; unlikely(i < m->alloc_bytes); i += 8)
		store64(mem + i, 0);
}

static __attribute__((noinline)) void message_clear_exactly(uint8_t *mem,
							    const struct schema_message *m)
{
	memcpy(mem, m->image, m->struct_bytes);
	memset(mem + m->struct_bytes, 0, m->alloc_bytes - m->struct_bytes);
}

static_assert(FAST_IMAGE_SLACK >= 64, "images are read 64 bytes at a time");

ALWAYS_INLINE bool message_field(struct decode_state *s, struct fast *x, enum fast_card card,
				 const struct fast_field *e, const uint8_t *at)
{
	const struct schema_message *m = e->sub;
	struct varint r;
	uint64_t count = 0;
	uint8_t *slot, *mem;
	ptrdiff_t room;

	if (unlikely(!length_read(x, at, &r) || x->frame == s->frame_last))
		return false;
	slot = slot_of(s, x, card, e, &count);
	mem = (uint8_t *)align8_up((uintptr_t)x->free);
	room = x->limit - mem;
	if (unlikely(!slot || (card != REPEATED && load64(slot) != 0)))
		return false;
	if (likely(room >= (ptrdiff_t)m->alloc_bytes + FAST_IMAGE_SLACK)) {
		message_clear(mem, m);
	} else {
		if (room < (ptrdiff_t)m->alloc_bytes)
			return false;
		message_clear_exactly(mem, m);
	}
	store64(slot, address_of(s, mem));
	slot_note(x, card, e, count);
	if (unlikely(m->struct_bytes >= LINEAR_UNIT_BYTES))
		charge(s, x, m->struct_bytes / LINEAR_UNIT_BYTES);
	x->free = mem + m->alloc_bytes;
	x->mem = mem;
	x->table = m->fast;
	x->p = r.next;
	x->end = r.next + r.v;
	stop_set(s, x);
	x->frame++;
	*x->frame = (struct decode_frame){.m = m, .mem = mem, .end = x->end};
	return true;
}

ALWAYS_INLINE bool packed_any(struct decode_state *s, struct fast *x, const struct fast_field *e,
			      const uint8_t *at)
{
	struct varint r;
	uint8_t *free;

	if (unlikely(!length_read(x, at, &r)))
		return false;
	if (r.v) {
		s->budget = x->budget;
		free = packed_field(s, x->mem, e, r.next, r.v, x->free, x->limit);
		if (!free)
			return false;
		x->free = free;
		x->budget = s->budget;
	} else {
		charge(s, x, 1);
	}
	x->p = r.next + r.v;
	return true;
}

/* The end of a message below the outermost. */
ALWAYS_INLINE void message_end(struct decode_state *s, struct fast *x)
{
	if (unlikely(x->frame->m->required_at))
		decode_required_judge(s, x->frame);
	charge(s, x, 1);
	x->frame--;
	x->table = x->frame->m->fast;
	x->mem = x->frame->mem;
	x->end = x->frame->end;
	stop_set(s, x);
}

/* --- The engine ------------------------------------------------------------------------------- */

static void engine_begin(struct decode_state *s, struct fast *x)
{
	const uint8_t *wire_end = s->frames[0].end;

	*x = (struct fast){.p = s->p,
			   .end = s->frame->end,
			   .mem = s->frame->mem,
			   .table = s->frame->m->fast,
			   .free = s->bump.free,
			   .limit = s->bump.end,
			   .budget = s->budget,
			   .frame = s->frame};
	if ((uint64_t)(x->limit - x->free) > s->bump.most - s->bump.used)
		x->limit = x->free + (s->bump.most - s->bump.used);
	s->elements += (uint64_t)x->budget;
	s->shift = 0;
	s->safe = wire_end - x->p > SLOP ? wire_end - SLOP : x->p;
	s->frame_last = s->frames + s->limits.depth_max;
	stop_set(s, x);
}

static void engine_end(struct decode_state *s, const struct fast *x)
{
	s->p = x->p;
	if (s->shift) {
		s->p = (const uint8_t *)((uintptr_t)x->p - (uintptr_t)s->shift);
		wire_shift(s, x->frame, -s->shift);
	}
	s->frame = x->frame;
	s->budget = x->budget;
	s->elements -= (uint64_t)x->budget;
	s->bump.used += (uint64_t)(x->free - s->bump.free);
	s->bump.free = x->free;
}

#define SCALARS(X, card)                                                                           \
	X(scalar, KIND_V32, card)                                                                  \
	X(scalar, KIND_V64, card)                                                                  \
	X(scalar, KIND_Z32, card)                                                                  \
	X(scalar, KIND_Z64, card)                                                                  \
	X(scalar, KIND_BOOL, card)                                                                 \
	X(scalar, KIND_F32, card)                                                                  \
	X(scalar, KIND_F64, card)                                                                  \
	X(content, KIND_STRING, card)                                                              \
	X(content, KIND_TEXT, card)                                                                \
	X(content, KIND_BYTES, card)
#define ALL_CARDS(LIST, X)                                                                         \
	LIST(X, PLAIN)                                                                             \
	LIST(X, HAS)                                                                               \
	LIST(X, ONEOF)                                                                             \
	LIST(X, REQUIRED)                                                                          \
	LIST(X, REPEATED)
#define MESSAGES(X, card) X(message, KIND_MESSAGE, card)

#define LABEL(what, kind, card) [OP(kind, card)] = &&op_##kind##_##card,
#define PACKED_LABEL(kind)      [OP_PACKED(kind)] = &&op_packed,

/* Find the field at x.p and go to its piece of code. */
#define DISPATCH()                                                                                 \
	do {                                                                                       \
		uint32_t tag;                                                                      \
                                                                                                   \
		if (unlikely(x.p >= x.stop))                                                       \
			goto boundary;                                                             \
		tag = *x.p;                                                                        \
		if (unlikely(x.budget <= 0))                                                       \
			goto out;                                                                  \
		if (unlikely(tag >= 0x80))                                                         \
			goto long_tag;                                                             \
		e = &x.table[tag >> 3];                                                            \
		at = x.p + 1;                                                                      \
		if (unlikely(e->tag != tag))                                                       \
			goto out;                                                                  \
		goto *labels[e->op];                                                               \
	} while (0)

#define FIELD_PIECE(what, kind, card)                                                              \
	op_##kind##_##card : if (unlikely(!what##_field(s, &x, kind, card, e, at))) goto out;      \
	DISPATCH();
#define MESSAGE_PIECE(what, kind, card)                                                            \
	op_##kind##_##card : if (unlikely(!message_field(s, &x, card, e, at))) goto out;           \
	DISPATCH();

void FAST_NAME(decode_fast)(struct decode_state *s)
{
	static const void *const labels[OPS] = {
		ALL_CARDS(SCALARS, LABEL) ALL_CARDS(MESSAGES, LABEL) PACKED_LABEL(KIND_V32)
			PACKED_LABEL(KIND_V64) PACKED_LABEL(KIND_Z32) PACKED_LABEL(KIND_Z64)
				PACKED_LABEL(KIND_BOOL) PACKED_LABEL(KIND_F32)
					PACKED_LABEL(KIND_F64)};
	const struct fast_field *e;
	const uint8_t *at;
	struct fast x;

	if ((uint64_t)(s->frames[0].end - s->p) > s->limits.elements_max - s->elements)
		return;
	engine_begin(s, &x);
	DISPATCH();

long_tag : {
	uint32_t tag = (x.p[0] & 0x7fu) | (uint32_t)x.p[1] << 7;

	if (unlikely(x.p[1] >= 0x80 || tag >> 3 >= x.frame->m->fast_count))
		goto out;
	e = &x.table[tag >> 3];
	at = x.p + 2;
	if (unlikely(e->tag != tag))
		goto out;
	goto *labels[e->op];
}

	ALL_CARDS(SCALARS, FIELD_PIECE)
	ALL_CARDS(MESSAGES, MESSAGE_PIECE)

op_packed:
	if (unlikely(!packed_any(s, &x, e, at)))
		goto out;
	DISPATCH();

boundary:
	if (x.budget <= 0)
		goto out;
	if (x.p == x.end) {
		if (x.frame == s->frames)
			goto out;
		message_end(s, &x);
		DISPATCH();
	}
	if (!s->shift) {
		x.p = tail_enter(s, x.p, x.frame);
		x.end = x.frame->end;
		stop_set(s, &x);
		DISPATCH();
	}
out:
	engine_end(s, &x);
}
