/* Host side: an ordinary protobuf-c message -> linear memory, by plain copies.
 *
 * Every struct, array and string that lies outside the segment is copied; what lies inside stays.
 * A struct or array inside whose children all stay is not touched, one with a child that had to be
 * copied is copied too (lazily, at its first such child), since the source is not ours to change.
 * So a message built in place costs one walk.
 *
 * A plan lists of each message type the members that point somewhere, so that the others cost
 * nothing; what is not plain is handed to the functions that walk by the descriptor alone. Where
 * nothing lies inside, the usual case, the plan is followed by functions that only copy. */
#include "linearize/fast_internal.h"

#include <stdlib.h>

struct flattener {
	struct linear_bump bump;
	struct linear_limits limits;
	int64_t delta;
	uint64_t inside, inside_bytes;
	uint64_t elements;
	uint8_t *mark,
		*limit; /* only copying: `bump` is what it was at `mark`; it may go to `limit` */
	int error;
};

/* A struct or array on its way: read at `from`; writes go to `copy`, made when first needed. */
struct piece {
	const uint8_t *from;
	uint8_t *copy;
	uint64_t bytes;
};

static bool fail(struct flattener *f, int error)
{
	f->error = -error;
	return false;
}

static bool is_inside(const struct flattener *f, const void *p)
{
	return (uintptr_t)p - f->inside < f->inside_bytes;
}

static uint8_t *get(struct flattener *f, uint64_t bytes, unsigned align)
{
	return bump_get(&f->bump, bytes, align, f->bump.used + 1024, &f->error);
}

static bool element_count(struct flattener *f, uint64_t n)
{
	if (n > f->limits.elements_max - f->elements)
		return fail(f, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	f->elements += n;
	return true;
}

/* `n` (at least 8, a multiple of 8) bytes of a struct. */
static inline void struct_copy(uint8_t *to, const uint8_t *from, uint64_t n)
{
	uint64_t i;

	if (n > 96) {
		memcpy(to, from, n);
		return;
	}
	for (i = 0; i + 16 <= n; i += 16)
		memcpy(to + i, from + i, 16);
	if (i < n)
		memcpy(to + i, from + i, 8);
}

static bool piece_copy(struct flattener *f, struct piece *p)
{
	if (p->copy)
		return true;
	p->copy = get(f, p->bytes, 8);
	if (!p->copy)
		return false;
	if (p->bytes % 8 == 0)
		struct_copy(p->copy, p->from, p->bytes);
	else
		memcpy(p->copy, p->from, p->bytes);
	return true;
}

static bool piece_open(struct flattener *f, struct piece *p, const void *from, uint64_t bytes)
{
	*p = (struct piece){.from = from, .bytes = bytes};
	return is_inside(f, from) || piece_copy(f, p);
}

/* The address to point to: of the copy, or of the original when it stayed. */
static uint64_t piece_address(const struct flattener *f, const struct piece *p)
{
	return p->copy ? (uintptr_t)p->copy + (uint64_t)f->delta : (uintptr_t)p->from;
}

/* Let the pointer at `at` of the piece be `address`. */
static bool piece_set(struct flattener *f, struct piece *p, uint64_t at, uint64_t address)
{
	if (!p->copy) {
		if (load64(p->from + at) == address)
			return true;
		if (!piece_copy(f, p))
			return false;
	}
	store64(p->copy + at, address);
	return true;
}

/* Copy `len` bytes that the pointer at `at` points to, unless they may stay. */
static bool data_flatten(struct flattener *f, struct piece *p, uint64_t at, uint64_t len)
{
	const uint8_t *from = (const uint8_t *)(uintptr_t)load64(p->from + at);
	uint8_t *to;

	if (is_inside(f, from))
		return true;
	to = get(f, len, 1);
	if (!to)
		return false;
	memcpy(to, from, len);
	return piece_set(f, p, at, (uintptr_t)to + (uint64_t)f->delta);
}

/* The string that the pointer at `at` points to. */
static inline bool string_flatten(struct flattener *f, struct piece *p, uint64_t at,
				  const char *string)
{
#if defined(__SSE2__) && !defined(ASAN)
	/* A short one is found and moved at once, if the 32 bytes lie in one page. */
	if (likely(((uintptr_t)string & 4095) <= 4096 - 32 && f->bump.end - f->bump.free >= 32 &&
		   f->bump.most - f->bump.used >= 32)) {
		const __m128i *from = (const __m128i *)(const void *)string;
		__m128i low = _mm_loadu_si128(from), high = _mm_loadu_si128(from + 1);
		__m128i none = _mm_setzero_si128();
		uint32_t nul = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(low, none)) |
			       (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(high, none)) << 16;

		if (likely(nul)) {
			unsigned n = (unsigned)__builtin_ctz(nul) + 1;
			uint8_t *to = f->bump.free;

			_mm_storeu_si128((__m128i *)(void *)to, low);
			_mm_storeu_si128((__m128i *)(void *)to + 1, high);
			f->bump.free += n;
			f->bump.used += n;
			return piece_set(f, p, at, (uintptr_t)to + (uint64_t)f->delta);
		}
	}
#endif
	return data_flatten(f, p, at, strlen(string) + 1);
}

static bool message_flatten(struct flattener *f, const ProtobufCMessage *msg, uint32_t depth,
			    uint64_t *address_out);

/* The string, bytes or message whose member or element lies at `at` of the piece. */
static inline bool value_flatten(struct flattener *f, struct piece *p, uint64_t at,
				 const ProtobufCFieldDescriptor *field, uint32_t depth)
{
	uint64_t address = load64(p->from + at), sub;
	const char *string = (const char *)(uintptr_t)address;

	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		if (!string || string == field->default_value || string == protobuf_c_empty_string)
			return true;
		return is_inside(f, string) || string_flatten(f, p, at, string);
	case PROTOBUF_C_TYPE_BYTES: {
		const ProtobufCBinaryData *def = field->default_value;
		uint64_t data = load64(p->from + at + 8);

		if (address == 0) /* the length */
			return true;
		if (!data)
			return fail(f, SPLIT_E_LINEARIZE_SOURCE);
		if (def && data == (uintptr_t)def->data && address <= def->len)
			return true;
		return data_flatten(f, p, at + 8, address);
	}
	default:
		if (!address || string == field->default_value)
			return true;
		return message_flatten(f, (const ProtobufCMessage *)(const void *)string, depth + 1,
				       &sub) &&
		       piece_set(f, p, at, sub);
	}
}

static bool repeated_flatten(struct flattener *f, struct piece *msg,
			     const ProtobufCFieldDescriptor *field, uint32_t depth)
{
	uint64_t n = load64(msg->from + field->quantifier_offset), i;
	uint64_t array = load64(msg->from + field->offset);
	uint64_t bytes = type_bytes[field->type];
	struct piece p;

	if (n == 0)
		return true;
	if (!array || n > INT64_MAX / bytes)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	if (!element_count(f, n) || !piece_open(f, &p, (const void *)(uintptr_t)array, n * bytes))
		return false;
	if (!type_is_packable(field->type))
		for (i = 0; i < n; i++)
			if (!value_flatten(f, &p, i * bytes, field, depth))
				return false;
	return piece_set(f, msg, field->offset, piece_address(f, &p));
}

static bool unknown_flatten(struct flattener *f, struct piece *msg)
{
	uint64_t n = load32(msg->from + BASE_N_UNKNOWN), i;
	uint64_t array = load64(msg->from + BASE_UNKNOWN);
	const uint64_t bytes = sizeof(ProtobufCMessageUnknownField);
	struct piece p;

	if (n == 0)
		return true;
	if (!array)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	if (!element_count(f, n) || !piece_open(f, &p, (const void *)(uintptr_t)array, n * bytes))
		return false;
	for (i = 0; i < n; i++) {
		uint64_t len = load64(p.from + i * bytes + 8);

		if (len && !load64(p.from + i * bytes + 16))
			return fail(f, SPLIT_E_LINEARIZE_SOURCE);
		if (len && !data_flatten(f, &p, i * bytes + 16, len))
			return false;
	}
	return piece_set(f, msg, BASE_UNKNOWN, piece_address(f, &p));
}

/* Is the member there? What is not is neither followed nor encoded. */
static inline bool field_is_set(const uint8_t *msg, const ProtobufCFieldDescriptor *field)
{
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return load32(msg + field->quantifier_offset) == field->id;
	if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type == PROTOBUF_C_TYPE_BYTES)
		return load32(msg + field->quantifier_offset) != 0;
	return true;
}

static bool message_flatten(struct flattener *f, const ProtobufCMessage *msg, uint32_t depth,
			    uint64_t *address_out)
{
	const ProtobufCMessageDescriptor *d = msg->descriptor;
	const ProtobufCFieldDescriptor *field, *end;
	struct piece p;

	if (depth > f->limits.depth_max)
		return fail(f, SPLIT_E_LINEARIZE_DEPTH);
	if (!d || d->magic != PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	if (!element_count(f, 1) || !piece_open(f, &p, msg, d->sizeof_message))
		return false;
	for (field = d->fields, end = field + d->n_fields; field < end; field++) {
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			if (load64(p.from + field->quantifier_offset) != 0 &&
			    unlikely(!repeated_flatten(f, &p, field, depth)))
				return false;
		} else if (field->type >= PROTOBUF_C_TYPE_STRING && field_is_set(p.from, field)) {
			if (unlikely(!value_flatten(f, &p, field->offset, field, depth)))
				return false;
		}
	}
	if (unlikely(load32(p.from + BASE_N_UNKNOWN) != 0) && !unknown_flatten(f, &p))
		return false;
	*address_out = piece_address(f, &p);
	return true;
}

/* --- Plans ------------------------------------------------------------------------------------ */

enum step_kind { STEP_STRING, STEP_MESSAGE, STEP_MESSAGES, STEP_BYTES, STEP_NUMBERS, STEP_OTHER };

struct plan;

/* A member that points somewhere. */
struct step {
	enum step_kind kind;
	uint32_t offset, quantifier;
	uint32_t number; /* of a oneof's member: what its case word must be; else 0 */
	uint32_t bytes;  /* of one number */
	const void *default_value;
	const ProtobufCFieldDescriptor *field;
	const struct plan *sub;
};

struct plan {
	const ProtobufCMessageDescriptor *d;
	struct step *steps;
	uint32_t count;
	uint64_t bytes;
};

struct flatten_plan {
	struct plan *plans; /* the first is the root's */
	uint32_t count, room;
};

static uint32_t plan_find(const struct flatten_plan *p, const ProtobufCMessageDescriptor *d)
{
	uint32_t i;

	for (i = 0; i < p->count; i++)
		if (p->plans[i].d == d)
			break;
	return i;
}

/* Add all types that are reachable; each is looked at once. */
static int plan_types(struct flatten_plan *p, const ProtobufCMessageDescriptor *root)
{
	uint32_t next = 0;
	const ProtobufCMessageDescriptor *d = root;
	unsigned i = 0;

	for (;;) {
		if (plan_find(p, d) == p->count) {
			if (d->magic != PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC)
				return -SPLIT_E_LINEARIZE_DESCRIPTOR;
			if (p->count == p->room) {
				uint32_t room = p->room * 2 + 8;
				struct plan *more = realloc(p->plans, room * sizeof(*more));

				if (!more)
					return -SPLIT_E_BASE_NOMEM;
				p->plans = more;
				p->room = room;
			}
			p->plans[p->count++] = (struct plan){.d = d, .bytes = d->sizeof_message};
		}
		/* The next field that leads to a type. */
		for (;; i++) {
			while (next < p->count && i == p->plans[next].d->n_fields) {
				next++;
				i = 0;
			}
			if (next == p->count)
				return 0;
			if (p->plans[next].d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
				break;
		}
		d = p->plans[next].d->fields[i++].descriptor;
	}
}

static void step_fill(const struct flatten_plan *p, const ProtobufCFieldDescriptor *field,
		      struct step *out)
{
	bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;

	*out = (struct step){
		.kind = STEP_OTHER,
		.offset = field->offset,
		.quantifier = field->quantifier_offset,
		.number = field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF ? field->id : 0,
		.default_value = field->default_value,
		.field = field,
	};
	if (field->type == PROTOBUF_C_TYPE_STRING && !repeated)
		out->kind = STEP_STRING;
	if (field->type == PROTOBUF_C_TYPE_BYTES && !repeated)
		out->kind = STEP_BYTES;
	if (repeated && type_is_packable(field->type))
		out->kind = STEP_NUMBERS;
	out->bytes = type_bytes[field->type];
	if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
		out->kind = repeated ? STEP_MESSAGES : STEP_MESSAGE;
		out->sub = &p->plans[plan_find(p, field->descriptor)];
	}
}

int flatten_plan_create(const ProtobufCMessageDescriptor *d, struct flatten_plan **out)
{
	struct flatten_plan *p = calloc(1, sizeof(*p));
	uint32_t i, k;
	int rc = p ? plan_types(p, d) : -SPLIT_E_BASE_NOMEM;

	for (i = 0; rc == 0 && i < p->count; i++) {
		struct plan *plan = &p->plans[i];

		plan->steps = calloc(plan->d->n_fields + 1, sizeof(*plan->steps));
		if (!plan->steps)
			rc = -SPLIT_E_BASE_NOMEM;
		for (k = 0; rc == 0 && k < plan->d->n_fields; k++) {
			const ProtobufCFieldDescriptor *field = &plan->d->fields[k];

			if (field->label == PROTOBUF_C_LABEL_REPEATED ||
			    field->type >= PROTOBUF_C_TYPE_STRING)
				step_fill(p, field, &plan->steps[plan->count++]);
		}
	}
	if (rc != 0) {
		flatten_plan_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

void flatten_plan_destroy(struct flatten_plan *p)
{
	uint32_t i;

	if (!p)
		return;
	for (i = 0; i < p->count; i++)
		free(p->plans[i].steps);
	free(p->plans);
	free(p);
}

static bool message_planned(struct flattener *f, const struct plan *plan,
			    const ProtobufCMessage *msg, uint32_t depth, uint64_t *address_out);

static bool messages_planned(struct flattener *f, struct piece *msg, const struct step *step,
			     uint32_t depth)
{
	uint64_t n = load64(msg->from + step->quantifier), i, sub;
	uint64_t array = load64(msg->from + step->offset);
	struct piece p;

	if (!array || n > INT64_MAX / 8)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	if (!element_count(f, n) || !piece_open(f, &p, (const void *)(uintptr_t)array, n * 8))
		return false;
	for (i = 0; i < n; i++) {
		const ProtobufCMessage *m =
			(const ProtobufCMessage *)(uintptr_t)load64(p.from + i * 8);

		if (m && (!message_planned(f, step->sub, m, depth + 1, &sub) ||
			  !piece_set(f, &p, i * 8, sub)))
			return false;
	}
	return piece_set(f, msg, step->offset, piece_address(f, &p));
}

ALWAYS_INLINE bool step_take(struct flattener *f, struct piece *p, const struct step *step,
			     uint32_t depth)
{
	const ProtobufCFieldDescriptor *field = step->field;
	uint64_t address, sub;

	if (step->number && load32(p->from + step->quantifier) != step->number)
		return true;
	address = load64(p->from + step->offset);
	if (step->kind == STEP_STRING) {
		const char *string = (const char *)(uintptr_t)address;

		if (!string || string == step->default_value || string == protobuf_c_empty_string ||
		    is_inside(f, string))
			return true;
		return string_flatten(f, p, step->offset, string);
	}
	if (step->kind == STEP_MESSAGE) {
		if (!address || address == (uintptr_t)step->default_value)
			return true;
		return message_planned(f, step->sub, (const ProtobufCMessage *)(uintptr_t)address,
				       depth + 1, &sub) &&
		       piece_set(f, p, step->offset, sub);
	}
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		if (load64(p->from + step->quantifier) == 0)
			return true;
		return step->kind == STEP_MESSAGES ? messages_planned(f, p, step, depth)
						   : repeated_flatten(f, p, field, depth);
	}
	return !field_is_set(p->from, field) || value_flatten(f, p, step->offset, field, depth);
}

static bool step_take_other(struct flattener *f, struct piece *p, const struct step *step,
			    uint32_t depth)
{
	return step_take(f, p, step, depth);
}

static bool message_planned(struct flattener *f, const struct plan *plan,
			    const ProtobufCMessage *msg, uint32_t depth, uint64_t *address_out)
{
	const struct step *step = plan->steps, *end = step + plan->count;
	struct piece p;

	/* Not what the field says: it must speak for itself. */
	if (unlikely(msg->descriptor != plan->d))
		return message_flatten(f, msg, depth, address_out);
	if (unlikely(depth > f->limits.depth_max))
		return fail(f, SPLIT_E_LINEARIZE_DEPTH);
	if (!element_count(f, 1) || !piece_open(f, &p, msg, plan->bytes))
		return false;
	for (; step < end; step++)
		if (unlikely(!step_take(f, &p, step, depth)))
			return false;
	if (unlikely(load32(p.from + BASE_N_UNKNOWN) != 0) && !unknown_flatten(f, &p))
		return false;
	*address_out = piece_address(f, &p);
	return true;
}

/* --- Plans, nothing inside ----------------------------------------------------------------------
 */

static void copies_begin(struct flattener *f)
{
	uint64_t room = (uint64_t)(f->bump.end - f->bump.free), left = f->bump.most - f->bump.used;

	f->mark = f->bump.free;
	f->limit = f->bump.free + (room < left ? room : left);
}

/* The bump says again what was used. */
static void copies_end(struct flattener *f)
{
	f->bump.used += (uint64_t)(f->bump.free - f->mark);
}

static __attribute__((noinline)) uint8_t *copy_get_slow(struct flattener *f, uint64_t bytes,
							unsigned align)
{
	uint8_t *to;

	copies_end(f);
	to = get(f, bytes, align);
	copies_begin(f);
	return to;
}

/* Memory for `bytes` (> 0) with `align` 8 or 1; NULL: f->error is set. */
ALWAYS_INLINE uint8_t *copy_get(struct flattener *f, uint64_t bytes, unsigned align)
{
	uint8_t *to = f->bump.free + (-(uintptr_t)f->bump.free & (align - 1));

	if (unlikely(to > f->limit || bytes > (uint64_t)(f->limit - to)))
		return copy_get_slow(f, bytes, align);
	f->bump.free = to + bytes;
	return to;
}

ALWAYS_INLINE void address_set(const struct flattener *f, uint8_t *at, const uint8_t *to)
{
	store64(at, (uintptr_t)to + (uint64_t)f->delta);
}

#if defined(__SSE2__) && !defined(ASAN)
/* May the 32 bytes at `p` be read, wherever it ends? They are if they lie in one page. */
ALWAYS_INLINE bool is_short_readable(const void *p)
{
	return likely(((uintptr_t)p & 4095) <= 4096 - 32);
}
#endif

/* `n` (> 0) bytes at `from`; `at` will point to them. */
static bool data_copy(struct flattener *f, uint8_t *at, const void *from, uint64_t n,
		      unsigned align)
{
	uint8_t *to = copy_get(f, n, align);

	if (!to)
		return false;
#if defined(__SSE2__) && !defined(ASAN)
	if (n <= 32 && is_short_readable(from) && f->limit - to >= 32) {
		const __m128i *p = from;
		__m128i low = _mm_loadu_si128(p), high = _mm_loadu_si128(p + 1);

		_mm_storeu_si128((__m128i *)(void *)to, low);
		_mm_storeu_si128((__m128i *)(void *)to + 1, high);
		address_set(f, at, to);
		return true;
	}
#endif
	memcpy(to, from, n);
	address_set(f, at, to);
	return true;
}

ALWAYS_INLINE bool string_copy(struct flattener *f, uint8_t *at, const char *string)
{
#if defined(__SSE2__) && !defined(ASAN)
	/* As in string_flatten. */
	if (is_short_readable(string) && likely(f->limit - f->bump.free >= 32)) {
		const __m128i *from = (const __m128i *)(const void *)string;
		__m128i low = _mm_loadu_si128(from), high = _mm_loadu_si128(from + 1);
		__m128i none = _mm_setzero_si128();
		uint32_t nul = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(low, none)) |
			       (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(high, none)) << 16;

		if (likely(nul)) {
			uint8_t *to = f->bump.free;

			_mm_storeu_si128((__m128i *)(void *)to, low);
			_mm_storeu_si128((__m128i *)(void *)to + 1, high);
			f->bump.free = to + (unsigned)__builtin_ctz(nul) + 1;
			address_set(f, at, to);
			return true;
		}
	}
#endif
	return data_copy(f, at, string, strlen(string) + 1, 1);
}

static bool message_copy(struct flattener *f, const struct plan *plan, const ProtobufCMessage *msg,
			 uint32_t depth, uint64_t *address_out);

/* What has no function of its own here. */
static __attribute__((noinline)) bool step_copy_other(struct flattener *f, const struct step *step,
						      struct piece *p, uint32_t depth)
{
	bool good;

	copies_end(f);
	good = step ? step_take_other(f, p, step, depth) : unknown_flatten(f, p);
	copies_begin(f);
	return good;
}

static bool messages_copy(struct flattener *f, const uint8_t *from, uint8_t *to,
			  const struct step *step, uint32_t depth)
{
	uint64_t n = load64(from + step->quantifier), i, sub;
	const uint8_t *array = (const uint8_t *)(uintptr_t)load64(from + step->offset);
	uint8_t *copy;

	if (n == 0)
		return true;
	if (!array || n > INT64_MAX / 8)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	if (!element_count(f, n))
		return false;
	copy = copy_get(f, n * 8, 8);
	if (!copy)
		return false;
	for (i = 0; i < n; i++) {
		uint64_t m = load64(array + i * 8);

		store64(copy + i * 8, m);
		if (!m)
			continue;
		if (!message_copy(f, step->sub, (const ProtobufCMessage *)(uintptr_t)m, depth + 1,
				  &sub))
			return false;
		store64(copy + i * 8, sub);
	}
	address_set(f, to + step->offset, copy);
	return true;
}

static bool numbers_copy(struct flattener *f, const uint8_t *from, uint8_t *to,
			 const struct step *step)
{
	uint64_t n = load64(from + step->quantifier);
	const uint8_t *array = (const uint8_t *)(uintptr_t)load64(from + step->offset);

	if (n == 0)
		return true;
	if (!array || n > INT64_MAX / step->bytes)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	return element_count(f, n) && data_copy(f, to + step->offset, array, n * step->bytes, 8);
}

static bool bytes_copy(struct flattener *f, const uint8_t *from, uint8_t *to,
		       const struct step *step)
{
	const ProtobufCBinaryData *def = step->default_value;
	uint64_t n = load64(from + step->offset);
	const uint8_t *data = (const uint8_t *)(uintptr_t)load64(from + step->offset + 8);

	if (n == 0 || !field_is_set(from, step->field))
		return true;
	if (!data)
		return fail(f, SPLIT_E_LINEARIZE_SOURCE);
	if (def && data == def->data && n <= def->len)
		return true;
	return data_copy(f, to + step->offset + 8, data, n, 1);
}

/* The member of the struct at `from`, copied to `to`. What was just stored is not loaded again. */
ALWAYS_INLINE bool step_copy(struct flattener *f, const struct step *step, struct piece *p,
			     uint32_t depth)
{
	const uint8_t *from = p->from;
	uint8_t *to = p->copy;
	uint64_t address, sub;

	if (step->number && load32(from + step->quantifier) != step->number)
		return true;
	if (step->kind == STEP_STRING) {
		const char *string = (const char *)(uintptr_t)load64(from + step->offset);

		if (!string || string == step->default_value || string == protobuf_c_empty_string)
			return true;
		return string_copy(f, to + step->offset, string);
	}
	if (step->kind == STEP_MESSAGE) {
		address = load64(from + step->offset);
		if (!address || address == (uintptr_t)step->default_value)
			return true;
		if (!message_copy(f, step->sub, (const ProtobufCMessage *)(uintptr_t)address,
				  depth + 1, &sub))
			return false;
		store64(to + step->offset, sub);
		return true;
	}
	if (step->kind == STEP_MESSAGES)
		return messages_copy(f, from, to, step, depth);
	if (step->kind == STEP_NUMBERS)
		return numbers_copy(f, from, to, step);
	if (step->kind == STEP_BYTES)
		return bytes_copy(f, from, to, step);
	return step_copy_other(f, step, p, depth);
}

static bool message_copy(struct flattener *f, const struct plan *plan, const ProtobufCMessage *msg,
			 uint32_t depth, uint64_t *address_out)
{
	const struct step *step = plan->steps, *end = step + plan->count;
	struct piece p;
	bool good;

	if (unlikely(msg->descriptor != plan->d)) {
		copies_end(f);
		good = message_flatten(f, msg, depth, address_out);
		copies_begin(f);
		return good;
	}
	if (unlikely(depth > f->limits.depth_max))
		return fail(f, SPLIT_E_LINEARIZE_DEPTH);
	if (unlikely(!element_count(f, 1)))
		return false;
	p = (struct piece){.from = (const uint8_t *)msg, .bytes = plan->bytes};
	p.copy = copy_get(f, plan->bytes, 8);
	if (unlikely(!p.copy))
		return false;
	struct_copy(p.copy, p.from, plan->bytes);
	for (; step < end; step++)
		if (unlikely(!step_copy(f, step, &p, depth)))
			return false;
	if (unlikely(load32(p.from + BASE_N_UNKNOWN) != 0) && !step_copy_other(f, NULL, &p, depth))
		return false;
	*address_out = (uintptr_t)p.copy + (uint64_t)f->delta;
	return true;
}

/* --- Public ----------------------------------------------------------------------------------- */

static int flattener_init(struct flattener *f, const struct linear_target *target,
			  const void *inside, size_t inside_bytes,
			  const struct linear_limits *limits)
{
	*f = (struct flattener){
		.delta = target->delta,
		.inside = (uintptr_t)inside,
		.inside_bytes = inside_bytes,
	};
	if (inside_bytes && target->delta)
		return -SPLIT_E_BASE_INVALID;
	linear_limits_resolve(&f->limits, limits);
	bump_init(&f->bump, target, f->limits.linear_bytes_max);
	return 0;
}

int flatten(const ProtobufCMessage *msg, const struct linear_target *target, const void *inside,
	    size_t inside_bytes, const struct linear_limits *limits, uint64_t *root_out)
{
	struct flattener f;
	int rc = flattener_init(&f, target, inside, inside_bytes, limits);

	if (rc != 0)
		return rc;
	return message_flatten(&f, msg, 0, root_out) ? 0 : f.error;
}

int flatten_planned(const struct flatten_plan *plan, const ProtobufCMessage *msg,
		    const struct linear_target *target, const void *inside, size_t inside_bytes,
		    const struct linear_limits *limits, uint64_t *root_out)
{
	struct flattener f;
	int rc = flattener_init(&f, target, inside, inside_bytes, limits);

	if (rc != 0)
		return rc;
	if (inside_bytes == 0) {
		copies_begin(&f);
		return message_copy(&f, &plan->plans[0], msg, 0, root_out) ? 0 : f.error;
	}
	return message_planned(&f, &plan->plans[0], msg, 0, root_out) ? 0 : f.error;
}

static int chunk_none(void *ctx, size_t bytes_min, size_t bytes_wanted, struct linear_chunk *out)
{
	(void)ctx;
	(void)bytes_min;
	(void)bytes_wanted;
	(void)out;
	return -SPLIT_E_LINEARIZE_NOMEM;
}

/* Of the flattener only that is set which message_copy and what it calls look at: for a small
 * message the rest costs as much as the copy. */
int flatten_into(const struct flatten_plan *plan, const ProtobufCMessage *msg, void *mem,
		 size_t bytes, size_t *used_out)
{
	struct flattener f;
	uint64_t root;

	if (plan->plans[0].bytes > bytes)
		return -SPLIT_E_LINEARIZE_NOMEM;
	f.bump.free = f.bump.chunk = f.mark = mem;
	f.bump.end = f.limit = f.bump.free + bytes;
	f.bump.used = 0;
	f.bump.most = bytes;
	f.bump.chunk_get = chunk_none;
	f.bump.ctx = NULL;
	f.delta = 0;
	f.inside = f.inside_bytes = 0;
	f.elements = 0;
	f.limits.elements_max = linear_limits_default.elements_max;
	f.limits.depth_max = linear_limits_default.depth_max;
	f.error = 0;
	if (!message_copy(&f, &plan->plans[0], msg, 0, &root))
		return f.error == -SPLIT_E_LINEARIZE_LIMIT_LINEAR ? -SPLIT_E_LINEARIZE_NOMEM
								  : f.error;
	*used_out = (size_t)(f.bump.free - f.bump.chunk);
	return 0;
}

int flatten_root(const ProtobufCMessage *msg, const struct linear_target *target,
		 const void *inside, size_t inside_bytes, uint64_t *root_out)
{
	const ProtobufCMessageDescriptor *d = msg->descriptor;
	struct linear_chunk chunk;
	int rc;

	if ((uintptr_t)msg - (uintptr_t)inside < inside_bytes) {
		*root_out = (uintptr_t)msg;
		return 0;
	}
	if (!d || d->magic != PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC)
		return -SPLIT_E_LINEARIZE_SOURCE;
	rc = target->chunk_get(target->ctx, d->sizeof_message, d->sizeof_message, &chunk);
	if (rc != 0)
		return rc < 0 ? rc : -SPLIT_E_LINEARIZE_NOMEM;
	memcpy(chunk.mem, msg, d->sizeof_message);
	*root_out = (uintptr_t)chunk.mem + (uint64_t)target->delta;
	return 0;
}
