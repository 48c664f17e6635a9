/* Wire -> linear, the fast engine: the usual fields at the speed of their bytes.
 *
 * It owns no state of its own. It takes fields out of the generic engine's hands as long as they
 * are usual, and stops before the first that is not, with the job as that engine would have left it
 * there: same memory, same counts, same work. So all limits, errors, resuming and odd forms are the
 * generic engine's alone, and a wrong guess costs time only. What stops it:
 *
 *  - anything malformed, or that touches a limit, the end of the chunk or of the quantum;
 *  - unknown fields, groups, numbers past 2047, tags of odd form, packed closed enums, and values
 *    that a closed enum does not have;
 *  - a packable field in the form that its schema does not name;
 *  - a sub-message that comes again, a oneof that changes its member, an array that must grow.
 *
 * One load finds a field: its number indexes a table of half cache lines, whose tag must be the one
 * that was read, wire type and all. Each pair of a type and a cardinality has a function of its own
 * (an `op`), which ends by finding the next field and calling that one's. All have the same
 * parameters and nothing to do after the call, so it is a jump, and what is hot stays in the six
 * registers of the calling convention; nothing is ever spilled between two fields. The rare and the
 * long have functions of their own too, so that no op needs a stack frame.
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
#include "linearize/decode_ops.h"
#include "linearize/fast_copy.h"
#include "linearize/fast_runs.h"

#define SLOP        DECODE_SLOP
#define SHORT_BYTES COPY_SHORT
/* How often the tail is entered before the rest of it is left to the generic engine: each time all
 * open messages must be told, and a wire may make both engines take turns there. */
#define TAILS_MAX 16

static_assert(SLOP >= 2 + 5 + SHORT_BYTES && SLOP >= 2 + 10, "a short field fits");

/* --- Values ---------------------------------------------------------------------------------- */

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

/* --- The registers of the engine ------------------------------------------------------------- */

/* `at`: on the wire, the last byte of the tag of `e`; or where the next field begins, where no
 * field is at hand. `frame`: the message, whose struct is `mem`. `free`: the unused part of the
 * chunk. With more parameters the ops would have to save registers. */
#define PARAMETERS                                                                                 \
	struct decode_state *s, const uint8_t *at, struct decode_frame *frame, uint8_t *free,      \
		const struct fast_field *e, uint8_t *mem
#define ARGUMENTS s, at, frame, free, e, mem

typedef void fast_op(PARAMETERS);

static fast_op *const ops[OPS];

/* Where calls at the end are no jumps, the stack must not grow with the wire. */
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HOPS_MAX 100
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HOPS_MAX 100
#endif
#endif

#define NOINLINE static __attribute__((noinline))

/* Units that are no elements. */
ALWAYS_INLINE void charge(struct decode_state *s, int64_t units)
{
	s->budget -= units;
	s->elements -= (uint64_t)units;
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

/* --- From field to field --------------------------------------------------------------------- */

/* The engine stops; the next field begins at `at`. */
NOINLINE void leave(PARAMETERS)
{
	(void)e, (void)mem;
	s->p = at;
	s->frame = frame;
	s->free = free;
}

/* The field at hand is not for this engine: stop before it. */
NOINLINE void give_up(PARAMETERS)
{
	leave(s, at - (e->tag >= 0x80), frame, free, e, mem);
}

static void boundary(PARAMETERS);

/* A field whose tag has not one byte and the form that the schema says. Of two bytes it may be one
 * for this engine. */
NOINLINE void other_tag(PARAMETERS)
{
	uint32_t tag = (at[0] & 0x7fu) | (uint32_t)at[1] << 7;

	/* Nor is it one when it need not be so long. */
	if (unlikely(at[0] < 0x80 || at[1] >= 0x80 || tag < 0x80 ||
		     tag >> 3 >= frame->m->fast_count)) {
		leave(ARGUMENTS);
		return;
	}
	e = &frame->table[tag >> 3];
	if (unlikely(e->tag != tag)) {
		leave(ARGUMENTS);
		return;
	}
	at++;
	ops[e->op](ARGUMENTS);
}

/* On with the field at `at`. */
ALWAYS_INLINE void next_field(struct decode_state *s, const uint8_t *at, struct decode_frame *frame,
			      uint8_t *free, uint8_t *mem)
{
	const struct fast_field *e = NULL;
	uint32_t tag;

#ifdef HOPS_MAX
	if (s->hops++ == HOPS_MAX) {
		leave(ARGUMENTS);
		return;
	}
#endif
	if (unlikely(at >= frame->stop)) {
		boundary(ARGUMENTS);
		return;
	}
	/* Each table has the numbers of one byte, and none of those has a tag like the first byte
	 * of a longer one. */
	tag = *at;
	e = (const struct fast_field *)(const void *)((const uint8_t *)frame->table +
						      (tag & 0x78) * (sizeof(*e) / 8));
	if (unlikely(e->tag != tag)) {
		other_tag(ARGUMENTS);
		return;
	}
	ops[e->op](ARGUMENTS);
}

/* A unit is spent; on with the field at `at`. The budget is one less than it is outside. */
ALWAYS_INLINE void field_done(struct decode_state *s, const uint8_t *at, struct decode_frame *frame,
			      uint8_t *free, uint8_t *mem)
{
	if (unlikely(--s->budget < 0)) {
		leave(s, at, frame, free, NULL, mem);
		return;
	}
	next_field(s, at, frame, free, mem);
}

/* --- The end of the wire --------------------------------------------------------------------- */

/* Let all that the job knows of the wire be `by` bytes elsewhere. That goes over all messages that
 * are open, so it is done a bounded number of times for each job. */
static void wire_shift(struct decode_state *s, const struct decode_frame *last, ptrdiff_t by)
{
	struct decode_frame *f;

	for (f = s->frames; f <= last; f++)
		f->stop = f->end = (const uint8_t *)((uintptr_t)f->end + (uintptr_t)by);
	s->shift += by;
}

/* Go on in the job's buffer, from `p` on, at most SLOP bytes before the end of the wire. Returns
 * the new `p`. */
NOINLINE const uint8_t *tail_enter(struct decode_state *s, const uint8_t *p,
				   const struct decode_frame *last)
{
	const uint8_t *end = s->frames[0].end;
	uint8_t *to = s->tail + SLOP - (end - p);

	s->tails++;
	/* What lies behind must be nobody else's bytes: it may get into the chunk. */
	memset(s->tail + SLOP, 0, sizeof(s->tail) - SLOP);
	if (likely(end - s->wire >= SLOP)) {
		memcpy(s->tail, end - SLOP, 16);
		memcpy(s->tail + 16, end - SLOP + 16, 16);
		memcpy(s->tail + 32, end - SLOP + 32, 16);
	} else {
		memcpy(to, p, (size_t)(end - p));
	}
	wire_shift(s, last, (ptrdiff_t)((uintptr_t)to - (uintptr_t)p));
	s->safe = s->readable = s->tail + sizeof(s->tail);
	return to;
}

/* Back to the wire, where the generic engine goes on. All open messages end in the tail. */
static inline void tail_leave(struct decode_state *s)
{
	struct decode_frame *f;

	s->p = (const uint8_t *)((uintptr_t)s->p - (uintptr_t)s->shift);
	wire_shift(s, s->frame, -s->shift);
	s->safe = s->frames[0].end - s->wire > SLOP ? s->frames[0].end - SLOP : s->wire;
	for (f = s->frames; f <= s->frame; f++)
		f->stop = s->safe;
}

static_assert(SLOP == 3 * 16, "the tail is moved in three");

/* --- Ends of messages ------------------------------------------------------------------------ */

/* The message below the outermost ends at `at`. */
ALWAYS_INLINE void message_end(PARAMETERS)
{
	(void)e, (void)mem;
	s->elements--;
	frame--;
	field_done(s, at, frame, free, frame->mem);
}

NOINLINE void message_end_required(PARAMETERS)
{
	decode_required_judge(s, frame);
	message_end(ARGUMENTS);
}

NOINLINE void tail_begin(PARAMETERS)
{
	(void)e;
	at = tail_enter(s, at, frame);
	next_field(s, at, frame, free, mem);
}

/* No field that may be read without care begins at `at`. */
NOINLINE void boundary(PARAMETERS)
{
	if (likely(at == frame->end)) {
		if (frame == s->frames)
			leave(ARGUMENTS);
		else if (unlikely(frame->m->required_at))
			message_end_required(ARGUMENTS);
		else
			message_end(ARGUMENTS);
	} else if (s->shift || unlikely(s->tails == TAILS_MAX)) {
		leave(ARGUMENTS);
	} else {
		tail_begin(ARGUMENTS);
	}
}

/* --- Strings --------------------------------------------------------------------------------- */

NOINLINE bool utf8_whole(const uint8_t *p, uint64_t len)
{
	return FAST_NAME(utf8_span)(p, p + len) == p + len;
}

/* A string that stays on the wire; see decode.c. Charges as content_long. */
static uint8_t *string_alias(struct decode_state *s, enum fast_kind kind, const uint8_t *from,
			     uint64_t len, uint8_t *free, const uint8_t *limit,
			     uint64_t *address_out)
{
	int64_t cost = (int64_t)(len / LINEAR_UNIT_BYTES) + (len >= LINEAR_UNIT_BYTES / 2);
	uint8_t *nul = (uint8_t *)align8_up((uintptr_t)free);

	*address_out = address_of(s, from);
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

/* Move `len` bytes. False: not all are ASCII, or nobody looked. */
ALWAYS_INLINE bool content_copy(uint8_t *to, const uint8_t *from, uint64_t len)
{
#ifdef COPY_WHOLE
	if (likely(len >= 32))
		return copy_whole(to, from, len);
#endif
	memcpy(to, from, len);
	return false;
}

/* Content of any length, or near the chunk's end: `len` bytes at `from`, and a NUL after all but
 * bytes. `*address_out` is the receiver's. Returns the new end of what is used, or NULL when it is
 * unusual and nothing was done. Charges for the copy. */
static uint8_t *content_long(struct decode_state *s, enum fast_kind kind, const uint8_t *from,
			     uint64_t len, uint8_t *free, uint64_t *address_out)
{
	int64_t cost = (int64_t)(len / LINEAR_UNIT_BYTES);
	uint64_t need = len + (kind != KIND_BYTES), room = (uint64_t)(s->limit - free);

	if (len >= s->alias_min)
		return string_alias(s, kind, from, len, free, s->limit, address_out);
	if (s->budget < cost + 2 || need > room)
		return NULL;
	if (!content_copy(free, from, len) && kind == KIND_TEXT && !utf8_whole(from, len))
		return NULL;
	if (kind != KIND_BYTES)
		free[len] = 0;
	*address_out = address_of(s, free);
	charge(s, cost + (len >= LINEAR_UNIT_BYTES / 2));
	return free + need;
}

/* --- Arrays ---------------------------------------------------------------------------------- */

/* An array of exactly `n` elements at `free`; returns the new end of what is used, or NULL. */
static inline uint8_t *array_new(const struct decode_state *s, uint8_t *mem,
				 const struct fast_field *e, uint64_t n, uint8_t *free)
{
	uint8_t *at = (uint8_t *)align8_up((uintptr_t)free);
	uint64_t bytes = 8 + n * e->bytes;

	if (unlikely(at > s->limit || bytes > (uint64_t)(s->limit - at)))
		return NULL;
	store64(at, n);
	store64(mem + e->offset, address_of(s, at + 8));
	return at + bytes;
}

/* A run of `run` begins at the field at hand, which is that many elements of an array that is not
 * there yet. Charges as decode.c does: this try and one for each element. */
ALWAYS_INLINE void array_go_on(int64_t run, PARAMETERS)
{
	uint8_t *past = array_new(s, mem, e, (uint64_t)run, free);

	if (unlikely(!past)) {
		give_up(ARGUMENTS);
		return;
	}
	charge(s, run + 1);
	free = past;
	ops[e->op](ARGUMENTS);
}

/* Any run. */
NOINLINE void array_begin_any(PARAMETERS)
{
	int64_t run = 0;

	if (load64(mem + e->offset) == 0)
		run = run_count(at - (e->tag >= 0x80), frame->end, e, s->budget - 3);
	if (unlikely(run <= 0)) {
		give_up(ARGUMENTS);
		return;
	}
	array_go_on(run, ARGUMENTS);
}

/* The array of the repeated field `e` is full or not there. There not: count the run that begins
 * here and make an array that fits. Mostly it is one of short strings or messages, whose tag and
 * length have a byte each. */
NOINLINE void array_begin(PARAMETERS)
{
	const uint8_t *p = at, *end = frame->end;
	uintptr_t asked = 0;
	int64_t run = 0;

	if (likely((e->tag & ~0x78u) == WIRE_LEN && load64(mem + e->offset) == 0)) {
		while (end - p >= 2 && *p == e->tag) {
			uint64_t len = p[1];
			const uint8_t *from = p + 2;

			if (len >= 0x80) {
				struct varint r;

				if (unlikely(p >= frame->stop))
					break;
				r = varint_join(p + 1, load64(p + 1));
				if (unlikely((uintptr_t)r.next - (uintptr_t)p > 5))
					break;
				len = r.v;
				from = r.next;
				if (unlikely((uintptr_t)p + NEAR_BYTES >= asked) && len < NEAR_EACH)
					asked = ask_near(p, end, asked);
			}
			if (unlikely((ptrdiff_t)len > end - from))
				break;
			p = from + len;
			run++;
		}
		/* The same tag again is something else; so may a long one be. */
		if (likely((p == end || (*p < 0x80 && *p != e->tag)) && run > 0 &&
			   run <= s->budget - 3)) {
			array_go_on(run, ARGUMENTS);
			return;
		}
	}
	array_begin_any(ARGUMENTS);
}

/* --- Packed ---------------------------------------------------------------------------------- */

/* A packed field whose content is [p, p + len), len > 0. Returns the new end of what is used, or
 * NULL when nothing was done. Charges all that it costs. */
static uint8_t *packed_content(struct decode_state *s, uint8_t *mem, const struct fast_field *e,
			       const uint8_t *p, uint64_t len, uint8_t *free)
{
	enum fast_kind kind = (enum fast_kind)(e->op - OP_PACKED(0));
	bool fixed = kind_is_fixed(kind);
	uint64_t count = load64(mem + e->presence_at), address = load64(mem + e->offset), n;
	uint64_t ends = 0; /* of a short one: where its varints end */
	int64_t cost = 1 + (int64_t)(len / LINEAR_UNIT_BYTES);
	uint8_t *slot;
	bool good = true;

	if (s->budget <= cost + 4)
		return NULL; /* before the count, which is not for one run either */
	if (fixed) {
		n = len / e->bytes;
		cost += (len >= LINEAR_UNIT_BYTES / 2) + !address;
	} else {
		if (likely(len <= 64 && s->readable - p >= 64 + 8))
			ends = FAST_NAME(varints_ends)(p) & UINT64_MAX >> (64 - len);
		n = ends ? (unsigned)__builtin_popcountll(ends)
			 : FAST_NAME(varints_count)(p, p + len);
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
		free = array_new(s, mem, e, n, free);
		if (!free)
			return NULL;
		slot = memory_at(s, load64(mem + e->offset));
	}
	slot += count * e->bytes;
	if (fixed)
		memcpy(slot, p, len);
	else if (ends)
		good = FAST_NAME(varints_decode_block)((enum varint_kind)kind, slot, p, ends);
	else
		good = FAST_NAME(varints_decode)((enum varint_kind)kind, slot, p, p + len,
						 s->readable);
	if (unlikely(!good)) {
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

/* A length, of at most 4 bytes, that fits into what is left. */
ALWAYS_INLINE bool length_read(const struct decode_frame *frame, const uint8_t *at,
			       struct varint *r)
{
	*r = varint_careful(at + 1, at + 5);
	return r->next && (ptrdiff_t)r->v <= frame->end - r->next;
}

NOINLINE void op_packed(PARAMETERS)
{
	struct varint r;
	uint8_t *past = free;

	if (likely(at[1] < 0x80))
		r = (struct varint){at + 2, at[1]};
	else
		r = varint_careful(at + 1, at + 5);
	if (unlikely(!r.next || (ptrdiff_t)r.v > frame->end - r.next)) {
		give_up(ARGUMENTS);
		return;
	}
	if (likely(r.v))
		past = packed_content(s, mem, e, r.next, r.v, free);
	else
		charge(s, 1);
	if (unlikely(!past)) {
		give_up(ARGUMENTS);
		return;
	}
	at = r.next + r.v;
	free = past;
	if (unlikely(s->budget < 0)) {
		leave(ARGUMENTS);
		return;
	}
	next_field(s, at, frame, free, mem);
}

/* Of one element. */
ALWAYS_INLINE unsigned kind_bytes(enum fast_kind kind)
{
	if (kind == KIND_BYTES)
		return 16;
	return kind_is_wide(kind) || (kind >= KIND_STRING && kind != KIND_ENUM) ? 8 : 4;
}

/* --- Presence -------------------------------------------------------------------------------- */

enum place { PLACE_GOOD, PLACE_ARRAY, PLACE_UNUSUAL };

/* Where the next value of `e` goes: the member, or a new element, whose index is `*count`. ARRAY:
 * there is none with room. UNUSUAL: a oneof that has another member. */
ALWAYS_INLINE enum place slot_of(const struct decode_state *s, enum fast_kind kind,
				 enum fast_card card, uint8_t *mem, const struct fast_field *e,
				 uint8_t **slot, uint64_t *count)
{
	if (card == REPEATED) {
		uint64_t address = load64(mem + e->offset);
		uint8_t *array = memory_at(s, address);

		*count = load64(mem + e->presence_at);
		if (unlikely(!address || load64(array - 8) == *count))
			return PLACE_ARRAY;
		*slot = array + *count * kind_bytes(kind);
		return PLACE_GOOD;
	}
	if (card == ONEOF) {
		uint32_t member = load32(mem + e->presence_at);

		if (unlikely(member != 0 && member != e->presence))
			return PLACE_UNUSUAL;
	}
	*slot = mem + e->offset;
	return PLACE_GOOD;
}

/* The value is stored: note that. */
ALWAYS_INLINE void slot_note(enum fast_card card, uint8_t *mem, const struct fast_field *e,
			     uint64_t count)
{
	uint8_t *at = mem + e->presence_at;

	if (card == REPEATED)
		store64(at, count + 1);
	else if (card == REQUIRED)
		store64(at, load64(at) | (uint64_t)1 << e->presence);
	else if (card == ONEOF)
		store32(at, e->presence);
	else if (card == HAS)
		store32(at, 1);
}

/* What a place that is not good leads to. */
#define PLACE_OR_RETURN(where)                                                                     \
	do {                                                                                       \
		enum place found = (where);                                                        \
                                                                                                   \
		if (found == PLACE_ARRAY) {                                                        \
			array_begin(ARGUMENTS);                                                    \
			return;                                                                    \
		}                                                                                  \
		if (found == PLACE_UNUSUAL) {                                                      \
			give_up(ARGUMENTS);                                                        \
			return;                                                                    \
		}                                                                                  \
	} while (0)

/* --- Fields ---------------------------------------------------------------------------------- */

/* Does a varint with this `next` end past `end`, or not at all? NULL - 1 is past every end. */
ALWAYS_INLINE bool is_past(const uint8_t *next, const uint8_t *end)
{
	return (uintptr_t)next - 1 >= (uintptr_t)end;
}

ALWAYS_INLINE void scalar_op(enum fast_kind kind, enum fast_card card, PARAMETERS)
{
	uint8_t *slot;
	struct varint r;
	uint64_t count = 0;

	if (kind == KIND_F32)
		r = (struct varint){at + 5, load32(at + 1)};
	else if (kind == KIND_F64)
		r = (struct varint){at + 9, load64(at + 1)};
	else
		r = varint_near(at + 1);
	if (unlikely(is_past(r.next, frame->end))) {
		give_up(ARGUMENTS);
		return;
	}
	PLACE_OR_RETURN(slot_of(s, kind, card, mem, e, &slot, &count));
	value_store(kind, slot, varint_convert(kind, r.v));
	slot_note(card, mem, e, count);
	field_done(s, r.next, frame, free, mem);
}

/* A closed enum. Most have all numbers from their first one on; `slow` looks for the others. */
ALWAYS_INLINE void enum_op(fast_op *slow, bool careful, enum fast_card card, PARAMETERS)
{
	const struct schema_enum *en = e->sub.enumeration;
	const struct varint r = varint_near(at + 1);
	uint8_t *slot;
	uint64_t count = 0;
	uint32_t i;

	if (unlikely(is_past(r.next, frame->end))) {
		give_up(ARGUMENTS);
		return;
	}
	if (careful) {
		if (!schema_enum_has(en, (int32_t)r.v)) {
			give_up(ARGUMENTS);
			return;
		}
	} else {
		i = (uint32_t)r.v - (uint32_t)(en->count ? en->numbers[0] : 0);
		if (unlikely(i >= en->count || en->numbers[i] != (int32_t)r.v)) {
			slow(ARGUMENTS);
			return;
		}
	}
	PLACE_OR_RETURN(slot_of(s, KIND_ENUM, card, mem, e, &slot, &count));
	value_store(KIND_ENUM, slot, r.v);
	slot_note(card, mem, e, count);
	field_done(s, r.next, frame, free, mem);
}

ALWAYS_INLINE void content_store(enum fast_kind kind, uint8_t *slot, uint64_t len, uint64_t address)
{
	if (kind == KIND_BYTES) {
		store64(slot, len);
		store64(slot + 8, len ? address : 0);
	} else {
		store64(slot, address);
	}
}

/* Bytes that stay on the wire, and else what is moved by `moved`: content that is not short, or
 * near the end of the chunk, or not ASCII. */
ALWAYS_INLINE void content_slow(fast_op *moved, enum fast_kind kind, enum fast_card card,
				PARAMETERS)
{
	const struct varint r = varint_near(at + 1);
	uint64_t count = 0;
	uint8_t *slot;

	if (kind != KIND_BYTES || r.v < s->alias_min) {
		moved(ARGUMENTS);
		return;
	}
	if (unlikely((uintptr_t)r.next - (uintptr_t)at > 5 ||
		     (ptrdiff_t)r.v > frame->end - r.next)) {
		give_up(ARGUMENTS);
		return;
	}
	PLACE_OR_RETURN(slot_of(s, kind, card, mem, e, &slot, &count));
	s->aliased++;
	content_store(kind, slot, r.v, address_of(s, r.next));
	slot_note(card, mem, e, count);
	field_done(s, r.next + r.v, frame, free, mem);
}

ALWAYS_INLINE void content_moved(enum fast_kind kind, enum fast_card card, PARAMETERS)
{
	const struct varint r = varint_near(at + 1);
	uint8_t *slot, *past;
	uint64_t count = 0, address;

	if (unlikely((uintptr_t)r.next - (uintptr_t)at > 5 ||
		     (ptrdiff_t)r.v > frame->end - r.next)) {
		give_up(ARGUMENTS);
		return;
	}
	PLACE_OR_RETURN(slot_of(s, kind, card, mem, e, &slot, &count));
	past = content_long(s, kind, r.next, r.v, free, &address);
	if (unlikely(!past)) {
		give_up(ARGUMENTS);
		return;
	}
	content_store(kind, slot, r.v, address);
	slot_note(card, mem, e, count);
	field_done(s, r.next + r.v, frame, past, mem);
}

ALWAYS_INLINE void content_op(fast_op *slow, enum fast_kind kind, enum fast_card card, PARAMETERS)
{
	uint64_t count = 0, address, len = at[1];
	const uint8_t *from = at + 2, *past = from + len;
	uint8_t *slot;
	bool ascii;

	if (unlikely(len > SHORT_BYTES || free >= s->limit_short)) {
		slow(ARGUMENTS);
		return;
	}
	if (unlikely(past > frame->end)) {
		give_up(ARGUMENTS);
		return;
	}
	PLACE_OR_RETURN(slot_of(s, kind, card, mem, e, &slot, &count));
	ascii = copy32_ascii(free, from, (unsigned)len);
	if (kind == KIND_TEXT && unlikely(!ascii)) {
		slow(ARGUMENTS);
		return;
	}
	address = address_of(s, free);
	if (kind != KIND_BYTES)
		free[len] = 0;
	free += len + (kind != KIND_BYTES);
	content_store(kind, slot, len, address);
	slot_note(card, mem, e, count);
	field_done(s, past, frame, free, mem);
}

/* A fresh struct of a plain type; up to FAST_IMAGE_SLACK bytes more are written. */
ALWAYS_INLINE void message_clear(uint8_t *mem, const struct schema_message *m)
{
	const uint8_t *from = m->image;
	uint32_t i;

	copy64(mem, from);
	for (i = 64; unlikely(i < m->struct_bytes); i += 64)
		copy64(mem + i, from + i);
}

static_assert(FAST_IMAGE_SLACK >= 64, "images are read 64 bytes at a time");

/* Go on inside the fresh message at `mem`, whose bytes are [at, end). */
ALWAYS_INLINE void message_enter(struct decode_state *s, const uint8_t *at, const uint8_t *end,
				 struct decode_frame *frame, uint8_t *mem,
				 const struct schema_message *m)
{
	frame++;
	decode_frame_set(s, frame, m, mem, end);
	field_done(s, at, frame, mem + m->alloc_bytes, mem);
}

/* `careful`: near the end of the chunk, with a length of more than two bytes, or of a type that
 * is not plain. */
ALWAYS_INLINE void message_op(fast_op *slow, bool careful, enum fast_card card, PARAMETERS)
{
	const struct schema_message *m = e->sub.message;
	uint8_t *slot, *fresh = (uint8_t *)align8_up((uintptr_t)free);
	const uint8_t *from = at + 2, *end;
	uint64_t count = 0, len = at[1];

	if (careful) {
		struct varint r;

		if (!length_read(frame, at, &r) || s->limit - fresh < (ptrdiff_t)m->alloc_bytes) {
			give_up(ARGUMENTS);
			return;
		}
		from = r.next;
		len = r.v;
	} else {
		if (len >= 0x80) {
			/* A third byte makes it longer than any of two. */
			len += ((uint64_t)at[2] << 7) - 0x80;
			from++;
		}
		if (unlikely(len >= 1u << 14 || fresh + m->fast_room > s->limit)) {
			slow(ARGUMENTS);
			return;
		}
	}
	end = from + len;
	if (unlikely(end > frame->end || frame == s->frame_last)) {
		give_up(ARGUMENTS);
		return;
	}
	PLACE_OR_RETURN(slot_of(s, KIND_MESSAGE, card, mem, e, &slot, &count));
	if (card != REPEATED && unlikely(load64(slot) != 0)) {
		give_up(ARGUMENTS);
		return;
	}
	store64(slot, address_of(s, fresh));
	slot_note(card, mem, e, count);
	if (careful) {
		memcpy(fresh, m->image, m->struct_bytes);
		memset(fresh + m->struct_bytes, 0, m->alloc_bytes - m->struct_bytes);
		charge(s, m->struct_bytes / LINEAR_UNIT_BYTES);
	} else {
		message_clear(fresh, m);
	}
	message_enter(s, from, end, frame, fresh, m);
}

/* --- Functions of each kind and cardinality -------------------------------------------------- */

#define SCALAR_OP(kind, card)                                                                      \
	static void op_##kind##_##card(PARAMETERS)                                                 \
	{                                                                                          \
		scalar_op(kind, card, ARGUMENTS);                                                  \
	}
#define CONTENT_OP(kind, card)                                                                     \
	NOINLINE void moved_##kind##_##card(PARAMETERS)                                            \
	{                                                                                          \
		content_moved(kind, card, ARGUMENTS);                                              \
	}                                                                                          \
	NOINLINE void slow_##kind##_##card(PARAMETERS)                                             \
	{                                                                                          \
		content_slow(moved_##kind##_##card, kind, card, ARGUMENTS);                        \
	}                                                                                          \
	static void op_##kind##_##card(PARAMETERS)                                                 \
	{                                                                                          \
		content_op(slow_##kind##_##card, kind, card, ARGUMENTS);                           \
	}
#define ENUM_OP(kind, card)                                                                        \
	NOINLINE void slow_##kind##_##card(PARAMETERS)                                             \
	{                                                                                          \
		enum_op(NULL, true, card, ARGUMENTS);                                              \
	}                                                                                          \
	static void op_##kind##_##card(PARAMETERS)                                                 \
	{                                                                                          \
		enum_op(slow_##kind##_##card, false, card, ARGUMENTS);                             \
	}
#define MESSAGE_OP(kind, card)                                                                     \
	NOINLINE void slow_##kind##_##card(PARAMETERS)                                             \
	{                                                                                          \
		message_op(NULL, true, card, ARGUMENTS);                                           \
	}                                                                                          \
	static void op_##kind##_##card(PARAMETERS)                                                 \
	{                                                                                          \
		message_op(slow_##kind##_##card, false, card, ARGUMENTS);                          \
	}
#define SCALARS(X, card)                                                                           \
	X(KIND_V32, card)                                                                          \
	X(KIND_V64, card)                                                                          \
	X(KIND_Z32, card)                                                                          \
	X(KIND_Z64, card)                                                                          \
	X(KIND_BOOL, card)                                                                         \
	X(KIND_F32, card)                                                                          \
	X(KIND_F64, card)
#define CONTENTS(X, card)                                                                          \
	X(KIND_STRING, card)                                                                       \
	X(KIND_TEXT, card)                                                                         \
	X(KIND_BYTES, card)
#define MESSAGES(X, card) X(KIND_MESSAGE, card)
#define ENUMS(X, card)    X(KIND_ENUM, card)
#define ALL_CARDS(LIST, X)                                                                         \
	LIST(X, PLAIN)                                                                             \
	LIST(X, HAS)                                                                               \
	LIST(X, ONEOF)                                                                             \
	LIST(X, REQUIRED)                                                                          \
	LIST(X, REPEATED)

ALL_CARDS(SCALARS, SCALAR_OP)
ALL_CARDS(CONTENTS, CONTENT_OP)
ALL_CARDS(MESSAGES, MESSAGE_OP)
ALL_CARDS(ENUMS, ENUM_OP)

#define OP_ENTRY(kind, card) [OP(kind, card)] = op_##kind##_##card,
#define PACKED_ENTRY(kind)   [OP_PACKED(kind)] = op_packed,

static fast_op *const ops[OPS] = {
	ALL_CARDS(SCALARS, OP_ENTRY) ALL_CARDS(CONTENTS, OP_ENTRY) ALL_CARDS(MESSAGES, OP_ENTRY)
		ALL_CARDS(ENUMS, OP_ENTRY) PACKED_ENTRY(KIND_V32) PACKED_ENTRY(KIND_V64)
			PACKED_ENTRY(KIND_Z32) PACKED_ENTRY(KIND_Z64) PACKED_ENTRY(KIND_BOOL)
				PACKED_ENTRY(KIND_F32) PACKED_ENTRY(KIND_F64)};

/* --- The engine ------------------------------------------------------------------------------ */

void FAST_NAME(decode_fast)(struct decode_state *s)
{
	const uint8_t *wire_end = s->frames[0].end;
	uint64_t room = s->bump.most - s->bump.used;

	if ((uint64_t)(wire_end - s->p) > s->limits.elements_max - s->elements)
		return;
	s->budget--;
	s->elements += (uint64_t)s->budget;
	if (room > (uint64_t)(s->bump.end - s->bump.free))
		room = (uint64_t)(s->bump.end - s->bump.free);
	s->limit = s->bump.free + room;
	s->limit_short = room > SHORT_BYTES ? s->limit - SHORT_BYTES : s->bump.free;
	s->shift = 0;
#ifdef HOPS_MAX
	s->hops = 0;
#endif
	s->readable = wire_end;
	next_field(s, s->p, s->frame, s->bump.free, s->frame->mem);
	if (s->shift)
		tail_leave(s);
	s->elements -= (uint64_t)s->budget;
	s->budget++;
	s->bump.used += (uint64_t)(s->free - s->bump.free);
	s->bump.free = s->free;
	FAST_LEAVE();
}
