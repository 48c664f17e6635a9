/* Wire -> linear, the generic engine: one pass, one loop, an explicit stack.
 *
 * A job is a small machine. In the phase FIELDS it reads tags at `p` and stores values; whatever
 * may take long (a copy, the count of a run, the skip of a group) is a phase of its own with its
 * cursor in the job, so that the machine can stop after any unit of work and go on later. Values
 * are stored through this process's mapping; what is stored as a pointer is the receiver's address
 * (`+ delta`). Only this process writes the target, so pointers and counts read back from it are
 * its own.
 *
 * Arrays. Their length is unknown until the message ends, and their elements may be interleaved
 * with anything. When an element finds its array full, the run of like fields that starts with it
 * is counted first (RUN: hop from tag to tag; PACKED_COUNT: count the bytes that end a varint) and
 * the array is made to fit: exactly for the first run, at least doubled for any later one. Encoders
 * write a repeated field in one run, so the usual array is exact and nothing is copied. A wire that
 * alternates on purpose costs the usual geometric growth: copies of at most twice the final
 * elements, memory of at most four times. Each element is counted once, since no element is counted
 * again before the array is full again. The capacity lies in a hidden word before the array;
 * receivers know nothing of it. Arrays outgrown stay in the chunks until those are released; they
 * count against linear_bytes_max.
 *
 * Merging. A singular sub-message that comes again is simply opened again: scalars are replaced,
 * arrays go on, as protobuf specifies. Required fields need bits that live as long as the message,
 * so structs of types that have required fields are followed by hidden words: one bit for each
 * required field, and one that says "counted in job->incomplete". A message is judged when the job
 * ends, since a later piece may complete it.
 */
#include "linearize/decode_internal.h"

#define UNKNOWN_FIRST 4 /* capacity of the first array of unknown fields */

static inline struct decode_state *state_of(struct decode_job *j)
{
	return (struct decode_state *)(void *)j->opaque;
}

/* Every failure goes through here: the error is final. Returns false for `return fail(...)`. */
static bool fail(struct decode_state *s, int error)
{
	s->error = -error;
	return false;
}

/* --- Memory ---------------------------------------------------------------------------------- */

/* Memory for `bytes` (> 0); `align` 8 or 1. NULL: s->error is set. Wire bytes make about twice as
 * many linear ones, those of small messages up to four times, which is what a new chunk is asked to
 * hold for the rest. */
static inline uint64_t linear_hint(const struct decode_state *s)
{
	uint64_t left = (uint64_t)(s->frames[0].end - s->p);

	return 2 * left + 256 + (left < 1024 ? 2 * left : 2048);
}

static inline uint8_t *linear_get(struct decode_state *s, uint64_t bytes, unsigned align)
{
	return bump_get(&s->bump, bytes, align, linear_hint(s), &s->error);
}

static inline uint64_t to_receiver(const struct decode_state *s, const uint8_t *mem)
{
	return (uint64_t)(uintptr_t)mem + (uint64_t)s->delta;
}

static inline uint8_t *from_receiver(const struct decode_state *s, uint64_t address)
{
	return (uint8_t *)(uintptr_t)(address - (uint64_t)s->delta);
}

static inline bool element_count(struct decode_state *s, uint64_t n)
{
	if (n > s->limits.elements_max - s->elements)
		return fail(s, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	s->elements += n;
	return true;
}

/* --- Reading the wire ------------------------------------------------------------------------ */

/* Read a varint of at most `most` bytes. NULL: s->error is set. Bits past 64 are dropped. */
static const uint8_t *varint_slow(struct decode_state *s, const uint8_t *p, const uint8_t *end,
				  unsigned most, uint64_t *out)
{
	uint64_t v = 0;
	unsigned i;

	for (i = 0; i < most; i++) {
		if (p + i >= end) {
			fail(s, SPLIT_E_LINEARIZE_TRUNCATED);
			return NULL;
		}
		v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
		if (p[i] < 0x80) {
			*out = v;
			return p + i + 1;
		}
	}
	fail(s, SPLIT_E_LINEARIZE_VARINT);
	return NULL;
}

static inline const uint8_t *varint_read(struct decode_state *s, const uint8_t *p,
					 const uint8_t *end, uint64_t *out)
{
	if (p < end && *p < 0x80) {
		*out = *p;
		return p + 1;
	}
	return varint_slow(s, p, end, 10, out);
}

/* A tag is a varint of at most 5 bytes and 32 bits with a field number that is not 0. */
static inline const uint8_t *tag_read(struct decode_state *s, const uint8_t *p, const uint8_t *end,
				      uint32_t *out)
{
	uint64_t v;

	if (p < end && *p < 0x80) {
		v = *p++;
	} else {
		p = varint_slow(s, p, end, 5, &v);
		if (!p)
			return NULL;
	}
	if (v > UINT32_MAX)
		fail(s, SPLIT_E_LINEARIZE_FIELD_NUMBER);
	else if (v < 8)
		fail(s, SPLIT_E_LINEARIZE_TAG_ZERO);
	else if ((v & 7) > WIRE_32)
		fail(s, SPLIT_E_LINEARIZE_WIRE_RESERVED);
	*out = (uint32_t)v;
	return s->error ? NULL : p;
}

/* A length that fits into what is left. `*len_out` bytes follow at the returned place. */
static inline const uint8_t *length_read(struct decode_state *s, const uint8_t *p,
					 const uint8_t *end, uint64_t *len_out)
{
	if (p < end && *p < 0x80) {
		*len_out = *p++;
	} else {
		p = varint_slow(s, p, end, 5, len_out);
		if (!p)
			return NULL;
	}
	if (*len_out > (uint64_t)(end - p)) {
		fail(s, SPLIT_E_LINEARIZE_TRUNCATED);
		return NULL;
	}
	return p;
}

/* The place after a value of `wire` type that is no group. */
static const uint8_t *value_skip(struct decode_state *s, const uint8_t *p, const uint8_t *end,
				 unsigned wire)
{
	uint64_t v = wire == WIRE_64 ? 8 : 4;

	if (wire == WIRE_VARINT)
		return varint_read(s, p, end, &v);
	if (wire == WIRE_LEN) {
		p = length_read(s, p, end, &v);
		return p ? p + v : NULL;
	}
	if (v > (uint64_t)(end - p)) {
		fail(s, SPLIT_E_LINEARIZE_TRUNCATED);
		return NULL;
	}
	return p + v;
}

static inline uint64_t varint_convert(unsigned type, uint64_t v)
{
	switch (type) {
	case PROTOBUF_C_TYPE_SINT32:
		return (uint32_t)(((uint32_t)v >> 1) ^ -((uint32_t)v & 1));
	case PROTOBUF_C_TYPE_SINT64:
		return (v >> 1) ^ -(v & 1);
	case PROTOBUF_C_TYPE_BOOL:
		return v != 0;
	default:
		return v;
	}
}

static inline void value_store(uint8_t *slot, unsigned bytes, uint64_t v)
{
	if (bytes == 4)
		store32(slot, (uint32_t)v);
	else
		store64(slot, v);
}

/* --- Copying --------------------------------------------------------------------------------- */

/* Copy in slices of the budget. A string under the UTF-8 rule is checked slice by slice: the check
 * lags by at most the 3 bytes of a character that a slice cut. */
static bool copy_run(struct decode_state *s)
{
	while (s->copy_left) {
		uint64_t n = (uint64_t)s->budget * LINEAR_UNIT_BYTES;

		if (s->budget <= 0)
			return true;
		if (n > s->copy_left)
			n = s->copy_left;
		if (s->copy_to) {
			memcpy(s->copy_to, s->copy_from, n);
			s->copy_to += n;
		}
		s->copy_from += n;
		s->copy_left -= n;
		s->budget -= (int64_t)(n / LINEAR_UNIT_BYTES + (n >= LINEAR_UNIT_BYTES / 2));
		if (s->utf8_from) {
			s->utf8_from = s->fast ? s->fast->utf8(s->utf8_from, s->copy_from)
					       : utf8_span(s->utf8_from, s->copy_from);
			if (!s->utf8_from || (!s->copy_left && s->utf8_from != s->copy_from))
				return fail(s, SPLIT_E_LINEARIZE_UTF8);
		}
	}
	s->phase = s->after_copy;
	return true;
}

static bool copy_start(struct decode_state *s, uint8_t *to, const uint8_t *from, uint64_t n,
		       bool utf8)
{
	s->copy_to = to;
	s->copy_from = from;
	s->copy_left = n;
	s->utf8_from = utf8 ? from : NULL;
	s->after_copy = PHASE_FIELDS;
	s->phase = PHASE_COPY;
	return copy_run(s);
}

/* --- Arrays ---------------------------------------------------------------------------------- */

static inline struct array_ref array_of(const struct decode_frame *frame,
					const struct schema_field *f)
{
	return (struct array_ref){.count = frame->mem + f->quantifier,
				  .pointer = frame->mem + f->offset,
				  .bytes = f->bytes};
}

static inline struct array_ref array_of_unknown(const struct decode_frame *frame)
{
	return (struct array_ref){.count = frame->mem + BASE_N_UNKNOWN,
				  .pointer = frame->mem + BASE_UNKNOWN,
				  .bytes = sizeof(ProtobufCMessageUnknownField),
				  .count32 = true};
}

static inline uint64_t array_count(const struct array_ref *a)
{
	return a->count32 ? load32(a->count) : load64(a->count);
}

static inline void array_count_set(const struct array_ref *a, uint64_t n)
{
	if (a->count32)
		store32(a->count, (uint32_t)n);
	else
		store64(a->count, n);
}

static inline uint64_t array_room(const struct decode_state *s, const struct array_ref *a)
{
	uint64_t address = load64(a->pointer);

	return address ? load64(from_receiver(s, address) - 8) - array_count(a) : 0;
}

static inline uint8_t *array_slot(const struct decode_state *s, const struct array_ref *a,
				  uint64_t i)
{
	return from_receiver(s, load64(a->pointer)) + i * a->bytes;
}

/* Copy the old elements, then let the array be the new one and go back to `p`. */
static bool grow_run(struct decode_state *s)
{
	if (!copy_run(s))
		return false;
	if (s->phase == PHASE_GROW)
		return true; /* not yet */
	store64(s->grow.pointer, to_receiver(s, s->grow_to));
	return true;
}

/* Make room for `more` elements; the phase is s->after_copy when that is done. */
static bool array_grow(struct decode_state *s, const struct array_ref *a, uint64_t more,
		       enum decode_phase after)
{
	uint64_t n = array_count(a), capacity = n + more;
	uint8_t *mem;

	if (n && capacity < 2 * n)
		capacity = 2 * n;
	if (capacity > s->limits.linear_bytes_max / a->bytes)
		return fail(s, SPLIT_E_LINEARIZE_LIMIT_LINEAR);
	mem = linear_get(s, 8 + capacity * a->bytes, 8);
	if (!mem)
		return false;
	store64(mem, capacity);
	s->grow = *a;
	s->grow_to = mem + 8;
	s->copy_to = s->grow_to;
	s->copy_from = n ? array_slot(s, a, 0) : NULL;
	s->copy_left = n * a->bytes;
	s->utf8_from = NULL;
	s->after_copy = after;
	s->phase = PHASE_GROW;
	return true;
}

/* Count the run of fields with one tag from `scan` on, then grow the array and go back to the
 * first. Whatever is malformed ends the count; FIELDS will meet it and say so. */
static bool run_run(struct decode_state *s)
{
	const uint8_t *end = s->frame->end;
	struct array_ref a = array_of(s->frame, s->field);

	while (s->budget > 0) {
		const uint8_t *at = s->scan;
		uint32_t tag = 0;

		if (at < end)
			at = tag_read(s, at, end, &tag);
		if (at && tag == (s->field->number << 3 | s->field->wire))
			at = value_skip(s, at, end, s->field->wire);
		else
			at = NULL;
		if (!at) {
			s->error = 0;
			return array_grow(s, &a, s->run ? s->run : 1, PHASE_FIELDS);
		}
		s->scan = at;
		s->run++;
		s->budget--;
		if (s->run > s->limits.elements_max - s->elements)
			return fail(s, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	}
	return true;
}

/* --- Packed ---------------------------------------------------------------------------------- */

static uint64_t count_ends(const uint8_t *p, const uint8_t *end)
{
	uint64_t n = 0;

	for (; end - p >= 8; p += 8)
		n += (unsigned)__builtin_popcountll(~load64(p) & 0x8080808080808080u);
	for (; p < end; p++)
		n += *p < 0x80;
	return n;
}

/* The varints of the packed field at `p` (its content, ends at scan_end). */
static bool packed_count_run(struct decode_state *s)
{
	struct array_ref a = array_of(s->frame, s->field);

	while (s->scan < s->scan_end) {
		uint64_t n = (uint64_t)(s->scan_end - s->scan);

		if (s->budget <= 0)
			return true;
		if (n > (uint64_t)s->budget * LINEAR_UNIT_BYTES)
			n = (uint64_t)s->budget * LINEAR_UNIT_BYTES;
		s->run += count_ends(s->scan, s->scan + n);
		s->scan += n;
		s->budget -= (int64_t)(n / LINEAR_UNIT_BYTES + 1);
	}
	if (s->scan_end[-1] >= 0x80)
		return fail(s, SPLIT_E_LINEARIZE_TRUNCATED);
	if (!element_count(s, s->run))
		return false;
	s->phase = PHASE_PACKED;
	if (array_room(s, &a) < s->run)
		return array_grow(s, &a, s->run, PHASE_PACKED);
	return true;
}

static bool unknown_varint_put(struct decode_state *s, uint64_t v);

static bool packed_run(struct decode_state *s)
{
	const struct schema_field *f = s->field;
	struct array_ref a = array_of(s->frame, f);
	uint64_t i = array_count(&a);
	uint8_t *slot = array_slot(s, &a, i);

	while (s->p < s->scan_end && s->budget > 0) {
		uint64_t v;
		const uint8_t *next = varint_read(s, s->p, s->scan_end, &v);

		if (!next)
			return false;
		if (f->flags & FIELD_ENUM_CLOSED &&
		    !schema_enum_has(f->sub.enumeration, (int32_t)v)) {
			array_count_set(&a, i);
			if (!unknown_varint_put(s, v))
				return false;
			if (s->phase != PHASE_PACKED)
				return true; /* grows; comes back to this value */
		} else {
			value_store(slot, f->bytes, varint_convert(f->type, v));
			slot += f->bytes;
			i++;
		}
		s->p = next;
		s->budget--;
	}
	array_count_set(&a, i);
	if (s->p == s->scan_end)
		s->phase = PHASE_FIELDS;
	return true;
}

static bool packed_field(struct decode_state *s, const struct schema_field *f, const uint8_t *p)
{
	struct array_ref a = array_of(s->frame, f);
	const uint8_t *tag_at = s->p;
	uint64_t len, n;

	p = length_read(s, p, s->frame->end, &len);
	if (!p)
		return false;
	s->p = p;
	s->field = f;
	if (len == 0)
		return true;
	if (f->wire == WIRE_VARINT) {
		s->scan = p;
		s->scan_end = p + len;
		s->run = 0;
		s->phase = PHASE_PACKED_COUNT;
		return packed_count_run(s);
	}
	n = len / f->bytes;
	if (len % f->bytes)
		return fail(s, SPLIT_E_LINEARIZE_PACKED);
	if (array_room(s, &a) < n) {
		s->p = tag_at;
		return array_grow(s, &a, n, PHASE_FIELDS);
	}
	if (!element_count(s, n))
		return false;
	s->p = p + len;
	array_count_set(&a, array_count(&a) + n);
	return copy_start(s, array_slot(s, &a, array_count(&a) - n), p, len, false);
}

/* --- Unknown fields -------------------------------------------------------------------------- */

/* One more unknown field: its data is `len` bytes at `from` (NULL: the caller fills it in). There
 * must be room. Returns the place of the data, NULL with s->error set. */
static uint8_t *unknown_put(struct decode_state *s, uint32_t tag, uint64_t len)
{
	struct array_ref a = array_of_unknown(s->frame);
	uint64_t n = array_count(&a);
	uint8_t *slot = array_slot(s, &a, n);
	uint8_t *data;

	if (!element_count(s, 1))
		return NULL;
	data = linear_get(s, len, 1);
	if (!data)
		return NULL;
	store32(slot, tag >> 3);
	store32(slot + 4, tag & 7);
	store64(slot + 8, len);
	store64(slot + 16, to_receiver(s, data));
	array_count_set(&a, n + 1);
	return data;
}

/* Room for one more unknown field, or the start of growing it. */
static bool unknown_room(struct decode_state *s, enum decode_phase after)
{
	struct array_ref a = array_of_unknown(s->frame);

	if (array_room(s, &a))
		return true;
	if (array_count(&a) >= UINT32_MAX / 2)
		return fail(s, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	return array_grow(s, &a, UNKNOWN_FIRST, after);
}

/* A value that a closed enum does not have becomes an unknown field in its shortest form. When the
 * array must grow first the phase changes and nothing was stored. */
static bool unknown_varint_put(struct decode_state *s, uint64_t v)
{
	enum decode_phase phase = s->phase;
	uint8_t bytes[10], *data;
	unsigned n = 0;

	if (!unknown_room(s, phase) || s->phase != phase)
		return !s->error;
	while (v >= 0x80) {
		bytes[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	bytes[n++] = (uint8_t)v;
	data = unknown_put(s, s->field->number << 3 | WIRE_VARINT, n);
	if (!data)
		return false;
	memcpy(data, bytes, n);
	return true;
}

/* Store [from, to) as the data of the unknown field and go on at `to`. */
static bool unknown_store(struct decode_state *s, uint32_t tag, const uint8_t *from,
			  const uint8_t *to)
{
	uint8_t *data = unknown_put(s, tag, (uint64_t)(to - from));

	if (!data)
		return false;
	s->p = to;
	return copy_start(s, data, from, (uint64_t)(to - from), false);
}

/* Find the end of the group that begins at `p`; nested groups must balance, by number. */
static bool group_run(struct decode_state *s)
{
	const uint8_t *end = s->frame->end;
	uint64_t depth = (uint64_t)(s->frame - s->frames) + s->group_depth;

	while (s->budget > 0) {
		uint32_t tag;
		const uint8_t *at = s->scan;

		if (at == end)
			return fail(s, SPLIT_E_LINEARIZE_TRUNCATED);
		at = tag_read(s, at, end, &tag);
		if (!at)
			return false;
		s->budget--;
		if ((tag & 7) == WIRE_GROUP) {
			if (depth + 1 > s->limits.depth_max)
				return fail(s, SPLIT_E_LINEARIZE_DEPTH);
			s->groups[s->group_depth++] = tag >> 3;
			depth++;
		} else if ((tag & 7) == WIRE_GROUP_END) {
			if (s->groups[s->group_depth - 1] != tag >> 3)
				return fail(s, SPLIT_E_LINEARIZE_GROUP);
			depth--;
			if (--s->group_depth == 0) {
				s->phase = PHASE_FIELDS;
				return unknown_store(s, s->unknown_tag, s->p, at);
			}
		} else {
			at = value_skip(s, at, end, tag & 7);
			if (!at)
				return false;
		}
		s->scan = at;
	}
	return true;
}

/* An unknown field whose value begins at `p`, its tag at s->p. */
static bool unknown_field(struct decode_state *s, uint32_t tag, const uint8_t *p)
{
	const uint8_t *to;

	if ((tag & 7) == WIRE_GROUP_END)
		return fail(s, SPLIT_E_LINEARIZE_GROUP);
	if (!unknown_room(s, PHASE_FIELDS) || s->phase != PHASE_FIELDS)
		return !s->error;
	if ((tag & 7) == WIRE_GROUP) {
		if ((uint64_t)(s->frame - s->frames) + 1 > s->limits.depth_max)
			return fail(s, SPLIT_E_LINEARIZE_DEPTH);
		s->unknown_tag = tag;
		s->groups[0] = tag >> 3;
		s->group_depth = 1;
		s->p = s->scan = p;
		s->phase = PHASE_GROUP;
		return group_run(s);
	}
	to = value_skip(s, p, s->frame->end, tag & 7);
	return to && unknown_store(s, tag, p, to);
}

/* --- Messages -------------------------------------------------------------------------------- */

/* A fresh struct of type `m` at `mem`. */
static inline void message_init(struct decode_state *s, const struct schema_message *m,
				uint8_t *mem)
{
	memcpy(mem, m->image, m->struct_bytes);
	if (m->required_at)
		memset(mem + m->required_at, 0, m->alloc_bytes - m->required_at);
	s->budget -= m->struct_bytes / LINEAR_UNIT_BYTES;
}

/* The same in linear memory that it gets; or NULL. */
static uint8_t *message_new(struct decode_state *s, const struct schema_message *m)
{
	uint8_t *mem = linear_get(s, m->alloc_bytes, 8);

	if (mem)
		message_init(s, m, mem);
	return mem;
}

static inline void required_set(const struct decode_frame *frame, uint32_t bit)
{
	uint8_t *word = frame->mem + frame->m->required_at + bit / 64 * 8;

	store64(word, load64(word) | (uint64_t)1 << bit % 64);
}

void decode_required_judge(struct decode_state *s, const struct decode_frame *frame)
{
	const uint8_t *words = frame->mem + frame->m->required_at;
	uint32_t n = frame->m->required_count, i;
	uint8_t *last = frame->mem + frame->m->required_at + n / 64 * 8;
	uint64_t counted = (uint64_t)1 << n % 64;
	bool complete = true;

	for (i = 0; i < n / 64; i++)
		complete = complete && load64(words + (size_t)i * 8) == UINT64_MAX;
	complete = complete && (load64(last) & (counted - 1)) == counted - 1;
	if (complete && load64(last) & counted) {
		store64(last, load64(last) & ~counted);
		s->incomplete--;
	} else if (!complete && !(load64(last) & counted)) {
		store64(last, load64(last) | counted);
		s->incomplete++;
	}
}

static bool message_push(struct decode_state *s, const struct schema_message *m, uint8_t *mem,
			 const uint8_t *end)
{
	struct decode_frame *frame = s->frame + 1;

	if ((uint64_t)(frame - s->frames) > s->limits.depth_max)
		return fail(s, SPLIT_E_LINEARIZE_DEPTH);
	decode_frame_set(s, frame, m, mem, end);
	s->frame = frame;
	return true;
}

/* --- Fields ---------------------------------------------------------------------------------- */

/* The slot of a singular field, with presence noted and a oneof switched over to it. */
static inline uint8_t *field_slot(const struct decode_frame *frame, const struct schema_field *f)
{
	uint8_t *slot = frame->mem + f->offset;

	if (f->card == CARD_HAS) {
		store32(frame->mem + f->quantifier, 1);
	} else if (f->card == CARD_ONEOF) {
		uint8_t *member = frame->mem + f->quantifier;

		if (load32(member) != f->number) {
			memset(slot, 0, f->oneof_bytes);
			store32(member, f->number);
		}
	} else if (f->flags & FIELD_REQUIRED) {
		required_set(frame, f->required_bit);
	}
	return slot;
}

/* A string that stays where it is. Its NUL would stand on a tag that may be read again. */
static bool string_alias(struct decode_state *s, const struct schema_field *f, uint8_t *slot,
			 const uint8_t *p, uint64_t len)
{
	uint8_t *nul = linear_get(s, sizeof(struct alias_nul), 8);

	if (!nul)
		return false;
	store64(nul + offsetof(struct alias_nul, before), s->nuls);
	store64(nul + offsetof(struct alias_nul, place), to_receiver(s, p + len));
	s->nuls = to_receiver(s, nul);
	s->aliased++;
	store64(slot, to_receiver(s, p));
	return !(f->flags & FIELD_UTF8) || copy_start(s, NULL, p, len, true);
}

/* The message is whole, and the wire not read any more. */
static __attribute__((noinline)) void nuls_write(const struct decode_state *s)
{
	uint64_t at = s->nuls;

	while (at) {
		const uint8_t *nul = from_receiver(s, at);

		*from_receiver(s, load64(nul + offsetof(struct alias_nul, place))) = 0;
		at = load64(nul + offsetof(struct alias_nul, before));
	}
}

static bool string_store(struct decode_state *s, const struct schema_field *f, uint8_t *slot,
			 const uint8_t *p, uint64_t len)
{
	uint8_t *mem;

	if (len >= s->alias_min)
		return string_alias(s, f, slot, p, len);
	mem = linear_get(s, len + 1, 1);
	if (!mem)
		return false;
	mem[len] = 0;
	store64(slot, to_receiver(s, mem));
	return copy_start(s, mem, p, len, f->flags & FIELD_UTF8);
}

/* Empty bytes point nowhere, as protobuf-c has it. */
static bool bytes_store(struct decode_state *s, uint8_t *slot, const uint8_t *p, uint64_t len)
{
	uint8_t *mem = NULL;

	if (len >= s->alias_min) {
		s->aliased++;
		store64(slot, len);
		store64(slot + 8, to_receiver(s, p));
		return true;
	}
	if (len) {
		mem = linear_get(s, len, 1);
		if (!mem)
			return false;
	}
	store64(slot, len);
	store64(slot + 8, mem ? to_receiver(s, mem) : 0);
	return copy_start(s, mem, p, len, false);
}

/* String, bytes or message of length `len` at `p` into `slot`. */
static bool length_field(struct decode_state *s, const struct schema_field *f, uint8_t *slot,
			 const uint8_t *p, uint64_t len)
{
	uint64_t address;
	uint8_t *mem;

	if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES) {
		s->p = p + len;
		return f->type == PROTOBUF_C_TYPE_STRING ? string_store(s, f, slot, p, len)
							 : bytes_store(s, slot, p, len);
	}
	s->p = p;
	address = load64(slot);
	if (address) {
		mem = from_receiver(s, address);
	} else {
		mem = message_new(s, f->sub.message);
		if (!mem)
			return false;
		store64(slot, to_receiver(s, mem));
	}
	return message_push(s, f->sub.message, mem, p + len);
}

/* The value of known field `f` at `p` into `slot`. */
static bool value_field(struct decode_state *s, const struct schema_field *f, uint8_t *slot,
			const uint8_t *p)
{
	const uint8_t *end = s->frame->end;
	uint64_t v;

	switch (f->wire) {
	case WIRE_VARINT:
		p = varint_read(s, p, end, &v);
		if (!p)
			return false;
		value_store(slot, f->bytes, varint_convert(f->type, v));
		s->p = p;
		return true;
	case WIRE_LEN:
		p = length_read(s, p, end, &v);
		return p && length_field(s, f, slot, p, v);
	default:
		if ((uint64_t)(end - p) < f->bytes)
			return fail(s, SPLIT_E_LINEARIZE_TRUNCATED);
		value_store(slot, f->bytes, f->bytes == 4 ? load32(p) : load64(p));
		s->p = p + f->bytes;
		return true;
	}
}

static bool repeated_field(struct decode_state *s, const struct schema_field *f, const uint8_t *p)
{
	struct array_ref a = array_of(s->frame, f);
	uint64_t n;
	uint8_t *slot;

	if (array_room(s, &a) == 0) {
		s->field = f;
		s->scan = s->p;
		s->run = 0;
		s->phase = PHASE_RUN;
		return run_run(s);
	}
	n = array_count(&a);
	slot = array_slot(s, &a, n);
	if (f->wire == WIRE_LEN)
		memset(slot, 0, f->bytes); /* a message must not be taken for an earlier one */
	if (!element_count(s, 1))
		return false;
	array_count_set(&a, n + 1);
	return value_field(s, f, slot, p);
}

/* A value of a closed enum that the enum does not have is kept as unknown. */
static bool enum_is_foreign(struct decode_state *s, const struct schema_field *f, const uint8_t *p)
{
	uint64_t v;

	if (!(f->flags & FIELD_ENUM_CLOSED) || !varint_read(s, p, s->frame->end, &v))
		return false;
	return !schema_enum_has(f->sub.enumeration, (int32_t)v);
}

static __attribute__((noinline)) bool field_run(struct decode_state *s)
{
	const struct decode_frame *frame = s->frame;
	const struct schema_field *f;
	uint32_t tag, wire;
	const uint8_t *p;

	s->at = s->p;
	p = tag_read(s, s->p, frame->end, &tag);
	if (!p)
		return false;
	f = schema_field_find(frame->m, tag >> 3);
	wire = tag & 7;
	if (!f)
		return unknown_field(s, tag, p);
	if (wire != f->wire) {
		if (wire == WIRE_LEN && f->flags & FIELD_PACKABLE)
			return packed_field(s, f, p);
		return unknown_field(s, tag, p); /* as C++ has it */
	}
	if (f->flags & FIELD_ENUM_CLOSED && enum_is_foreign(s, f, p))
		return unknown_field(s, tag, p);
	if (s->error)
		return false;
	if (f->card == CARD_REPEATED)
		return repeated_field(s, f, p);
	return element_count(s, 1) && value_field(s, f, field_slot(frame, f), p);
}

static inline bool fields_run(struct decode_state *s)
{
	do {
		if (likely(s->fast != NULL)) {
			s->fast->decode(s);
			if (s->budget <= 0)
				break;
		}
		s->budget--;
		if (s->p < s->frame->end) {
			if (!field_run(s))
				return false;
			continue;
		}
		if (unlikely(s->frame->m->required_at))
			decode_required_judge(s, s->frame);
		if (likely(s->frame == s->frames)) {
			if (unlikely(s->incomplete)) {
				s->at = s->p;
				return fail(s, SPLIT_E_LINEARIZE_REQUIRED);
			}
			s->phase = PHASE_DONE;
			break;
		}
		s->frame--;
	} while (s->budget > 0 && s->phase == PHASE_FIELDS);
	return true;
}

/* Any phase but FIELDS. */
static __attribute__((noinline)) bool phase_run(struct decode_state *s)
{
	switch (s->phase) {
	case PHASE_COPY:
		return copy_run(s);
	case PHASE_GROW:
		return grow_run(s);
	case PHASE_RUN:
		return run_run(s);
	case PHASE_PACKED_COUNT:
		return packed_count_run(s);
	case PHASE_PACKED:
		return packed_run(s);
	case PHASE_GROUP:
		return group_run(s);
	default:
		return true;
	}
}

/* --- Public ---------------------------------------------------------------------------------- */

int decode_start(struct decode_job *j, const struct schema_message *m, const uint8_t *wire,
		 size_t len, const struct linear_target *target, const struct linear_limits *limits)
{
	struct decode_state *s = state_of(j);

	/* What the phases use is written before it is read. */
	s->p = s->wire = s->safe = s->at = wire;
	if (len > DECODE_SLOP)
		s->safe = wire + (len - DECODE_SLOP);
	s->frame = s->frames;
	decode_frame_set(s, s->frames, m, NULL, len ? wire + len : wire);
	s->tails = s->incomplete = 0;
	s->error = 0;
	s->delta = target->delta;
	s->elements = s->work = s->root = s->aliased = s->nuls = 0;
	s->phase = PHASE_FIELDS;
	s->utf8_from = NULL;
	s->group_depth = 0;
	s->fast = linear_fast_of_job();
	s->alias_min = UINT64_MAX;
	if (target->alias_min)
		s->alias_min = target->alias_min < LINEAR_ALIAS_LEAST ? LINEAR_ALIAS_LEAST
								      : target->alias_min;
	linear_limits_resolve(&s->limits, limits);
	s->frame_last = s->frames + s->limits.depth_max;
	bump_init(&s->bump, target, s->limits.linear_bytes_max);
	if (len > s->limits.wire_bytes_max)
		s->error = -SPLIT_E_LINEARIZE_LIMIT_WIRE;
	return s->error;
}

/* The first chunk, and the outermost message in it. */
static inline void root_begin(struct decode_state *s)
{
	const struct schema_message *m = s->frames[0].m;
	uint8_t *mem = bump_open(&s->bump, m->alloc_bytes, linear_hint(s), &s->error);

	if (mem)
		message_init(s, m, mem);
	s->frames[0].mem = mem;
	s->root = mem ? to_receiver(s, mem) : 0;
}

int decode_run(struct decode_job *j)
{
	struct decode_state *s = state_of(j);
	int64_t quantum = s->limits.work_quantum;

	if (s->error)
		return s->error;
	if (s->phase == PHASE_DONE)
		return 0;
	if ((uint64_t)quantum > s->limits.work_max - s->work)
		quantum = (int64_t)(s->limits.work_max - s->work) + 1;
	s->budget = quantum;
	if (likely(!s->frames[0].mem))
		root_begin(s);
	while (!s->error && s->phase != PHASE_DONE && s->budget > 0)
		if (!(likely(s->phase == PHASE_FIELDS) ? fields_run(s) : phase_run(s)))
			break;
	s->work += (uint64_t)(quantum - s->budget);
	if (!s->error && s->work > s->limits.work_max)
		s->error = -SPLIT_E_LINEARIZE_LIMIT_WORK;
	if (s->error)
		return s->error;
	if (unlikely(s->phase != PHASE_DONE))
		return SPLIT_AGAIN;
	if (s->nuls)
		nuls_write(s); /* not before it is sure: what failed may be tried again */
	return 0;
}
