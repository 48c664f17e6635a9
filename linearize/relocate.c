/* Messages as one block that means the same at any address: for a stream between machines.
 *
 * In such a block every pointer is an offset from its start, or one of three values that no offset
 * can have (linearize.h). Nothing of the sender's address space is in it: base.descriptor is 0, a
 * member that nobody set is 0, and pointers to defaults and to the empty string have names.
 *
 * Its pieces (structs, arrays, strings, bytes) lie in the one order in which a walk by the schema
 * meets them: fields by number, each piece at once and with all that it leads to, unknown fields
 * last. So the receiver need not ask whether a pointer is plausible. It walks likewise, knows where
 * the next piece must be, and refuses any pointer that says something else: pieces cannot overlap,
 * be shared, form a circle or leave a gap, and the work is linear in the block's length whatever
 * stands in it. That walk checks and relocates at once, in place.
 */
#include "linearize/linearize_internal.h"

#define POINTER_NULL    0u
#define POINTER_DEFAULT 1u /* the field's default */
#define POINTER_EMPTY   2u /* protobuf_c_empty_string */

#define UNKNOWN_BYTES sizeof(ProtobufCMessageUnknownField)
#define UNKNOWN_LEN   offsetof(ProtobufCMessageUnknownField, len)
#define UNKNOWN_DATA  offsetof(ProtobufCMessageUnknownField, data)

static_assert(sizeof(ProtobufCMessage) > POINTER_EMPTY, "no piece begins at such an offset");

/* --- Out ------------------------------------------------------------------------------------ */

struct out {
	const struct linear_source *source;
	uint8_t *to; /* NULL: only counts */
	uint64_t room, at;
	uint64_t elements, elements_max;
	uint32_t depth_max;
	int error;
};

static bool out_fail(struct out *o, int error)
{
	o->error = -error;
	return false;
}

static const uint8_t *out_window(struct out *o, uint64_t address, uint64_t bytes)
{
	uint64_t at = address - o->source->peer_base;

	if (address < o->source->peer_base || at > o->source->bytes ||
	    bytes > o->source->bytes - at) {
		out_fail(o, SPLIT_E_LINEARIZE_POINTER);
		return NULL;
	}
	return o->source->mem + at;
}

/* The place of the next piece, in `*at_out`. */
static bool out_place(struct out *o, uint64_t bytes, bool aligned, uint64_t *at_out)
{
	uint64_t at = aligned ? align8(o->at) : o->at;

	if (at > o->room || bytes > o->room - at)
		return out_fail(o, SPLIT_E_LINEARIZE_LIMIT_LINEAR);
	if (++o->elements > o->elements_max)
		return out_fail(o, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	if (o->to != NULL)
		memset(o->to + o->at, 0, at - o->at);
	o->at = at + bytes;
	*at_out = at;
	return true;
}

static void out_store(struct out *o, uint64_t at, const void *from, uint64_t bytes)
{
	if (o->to != NULL && bytes != 0)
		memcpy(o->to + at, from, bytes);
}

static void out_store64(struct out *o, uint64_t at, uint64_t v)
{
	out_store(o, at, &v, sizeof(v));
}

static bool out_bytes(struct out *o, uint64_t pointer_at, const uint8_t *from, uint64_t bytes)
{
	uint64_t at;

	if (from == NULL || !out_place(o, bytes, false, &at))
		return false;
	out_store(o, at, from, bytes);
	out_store64(o, pointer_at, at);
	return true;
}

static bool out_string(struct out *o, const struct schema_message *m, const struct schema_field *f,
		       uint64_t address, uint64_t pointer_at)
{
	const uint8_t *from, *nul;
	uint64_t most;

	if (address == 0)
		return true;
	if (address == f->default_address || address == m->empty_string) {
		out_store64(o, pointer_at,
			    address == f->default_address ? POINTER_DEFAULT : POINTER_EMPTY);
		return true;
	}
	from = out_window(o, address, 1);
	if (from == NULL)
		return false;
	most = o->source->bytes - (address - o->source->peer_base);
	if (most > o->room)
		most = o->room; /* longer than that it cannot go out in any case */
	nul = memchr(from, 0, most);
	if (nul == NULL)
		return out_fail(o, SPLIT_E_LINEARIZE_POINTER);
	return out_bytes(o, pointer_at, from, (uint64_t)(nul - from) + 1);
}

static bool out_binary(struct out *o, const struct schema_field *f, const uint8_t *from,
		       uint64_t at)
{
	uint64_t len = load64(from), address = load64(from + 8);

	if (len == 0)
		return true;
	out_store64(o, at, len);
	if (address == f->default_address && address != 0 && len <= f->default_bytes) {
		out_store64(o, at + 8, POINTER_DEFAULT);
		return true;
	}
	return out_bytes(o, at + 8, out_window(o, address, len), len);
}

static bool out_message(struct out *o, const struct schema_message *m, uint64_t address,
			uint32_t depth, uint64_t *at_out);

static bool out_value(struct out *o, const struct schema_message *m, const struct schema_field *f,
		      const uint8_t *from, uint64_t at, uint32_t depth)
{
	uint64_t address, sub;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return out_string(o, m, f, load64(from), at);
	case PROTOBUF_C_TYPE_BYTES:
		return out_binary(o, f, from, at);
	case PROTOBUF_C_TYPE_MESSAGE:
		address = load64(from);
		if (address == 0)
			return true;
		if (!out_message(o, f->sub.message, address, depth + 1, &sub))
			return false;
		out_store64(o, at, sub);
		return true;
	default:
		out_store(o, at, from, f->bytes);
		return true;
	}
}

/* An element that is NULL: encode takes it for an empty one, and so shall the receiver. */
static bool out_nothing(struct out *o, const struct schema_field *f, uint64_t at)
{
	uint64_t sub;

	if (f->type == PROTOBUF_C_TYPE_STRING) {
		out_store64(o, at, POINTER_EMPTY);
		return true;
	}
	if (!out_place(o, f->sub.message->struct_bytes, true, &sub))
		return false;
	if (o->to != NULL)
		memset(o->to + sub, 0, f->sub.message->struct_bytes);
	out_store64(o, at, sub);
	return true;
}

static bool out_repeated(struct out *o, const struct schema_message *m,
			 const struct schema_field *f, const uint8_t *src, uint64_t at,
			 uint32_t depth)
{
	uint64_t n = load64(src + f->quantifier), array;
	const uint8_t *from;

	if (n == 0)
		return true;
	if (n > UINT64_MAX / 16)
		return out_fail(o, SPLIT_E_LINEARIZE_POINTER);
	from = out_window(o, load64(src + f->offset), n * f->bytes);
	if (from == NULL || !out_place(o, n * f->bytes, true, &array))
		return false;
	out_store64(o, at + f->quantifier, n);
	out_store64(o, at + f->offset, array);
	if (type_is_packable(f->type)) {
		out_store(o, array, from, n * f->bytes);
		return true;
	}
	if (o->to != NULL)
		memset(o->to + array, 0, n * f->bytes);
	for (uint64_t i = 0; i < n; i++) {
		const uint8_t *element = from + i * f->bytes;
		uint64_t element_at = array + i * f->bytes;

		if (f->type != PROTOBUF_C_TYPE_BYTES && load64(element) == 0) {
			if (!out_nothing(o, f, element_at))
				return false;
		} else if (!out_value(o, m, f, element, element_at, depth)) {
			return false;
		}
	}
	return true;
}

static bool out_unknown(struct out *o, const uint8_t *src, uint64_t at)
{
	uint64_t n = load32(src + BASE_N_UNKNOWN), array;
	const uint8_t *from;

	if (n == 0)
		return true;
	from = out_window(o, load64(src + BASE_UNKNOWN), n * UNKNOWN_BYTES);
	if (from == NULL || !out_place(o, n * UNKNOWN_BYTES, true, &array))
		return false;
	if (o->to != NULL)
		store32(o->to + at + BASE_N_UNKNOWN, (uint32_t)n);
	out_store64(o, at + BASE_UNKNOWN, array);
	for (uint64_t i = 0; i < n; i++, from += UNKNOWN_BYTES, array += UNKNOWN_BYTES) {
		uint64_t len = load64(from + UNKNOWN_LEN);

		out_store(o, array, from, UNKNOWN_DATA); /* tag, wire type, length */
		out_store64(o, array + UNKNOWN_DATA, POINTER_NULL);
		if (len != 0 && !out_bytes(o, array + UNKNOWN_DATA,
					   out_window(o, load64(from + UNKNOWN_DATA), len), len))
			return false;
	}
	return true;
}

static bool out_field(struct out *o, const struct schema_message *m, const struct schema_field *f,
		      const uint8_t *src, uint64_t at, uint32_t depth)
{
	uint32_t word;

	if (f->card == CARD_REPEATED)
		return out_repeated(o, m, f, src, at, depth);
	if (f->card == CARD_ONEOF || f->card == CARD_HAS) {
		word = load32(src + f->quantifier);
		if (o->to != NULL)
			store32(o->to + at + f->quantifier, word);
		if (f->card == CARD_ONEOF && word != f->number)
			return true;
	}
	return out_value(o, m, f, src + f->offset, at + f->offset, depth);
}

static bool out_message(struct out *o, const struct schema_message *m, uint64_t address,
			uint32_t depth, uint64_t *at_out)
{
	const uint8_t *src;

	if (depth > o->depth_max)
		return out_fail(o, SPLIT_E_LINEARIZE_DEPTH);
	src = out_window(o, address, m->struct_bytes);
	if (src == NULL || !out_place(o, m->struct_bytes, true, at_out))
		return false;
	if (o->to != NULL)
		memset(o->to + *at_out, 0, m->struct_bytes);
	for (uint32_t i = 0; i < m->field_count; i++)
		if (!out_field(o, m, &m->fields[i], src, *at_out, depth))
			return false;
	return out_unknown(o, src, *at_out);
}

int relocate_out(const struct schema_message *m, const struct linear_source *source, uint64_t root,
		 const struct linear_limits *limits, uint8_t *to, size_t room, size_t *bytes_out)
{
	struct linear_limits l;
	struct out o = {.source = source, .to = to, .room = room};
	uint64_t at;

	linear_limits_resolve(&l, limits);
	if (to == NULL)
		o.room = l.linear_bytes_max;
	o.elements_max = l.elements_max;
	o.depth_max = l.depth_max;
	*bytes_out = 0;
	if (!out_message(&o, m, root, 0, &at))
		return o.error;
	*bytes_out = o.at;
	return 0;
}

/* --- In ------------------------------------------------------------------------------------- */

struct in {
	uint8_t *mem;
	uint64_t bytes, at;
	uint64_t base; /* where the receiver has `mem` */
	uint64_t elements, elements_max;
	uint32_t depth_max;
	int error;
};

static bool in_fail(struct in *s, int error)
{
	s->error = -error;
	return false;
}

/* The next piece, which the pointer at `pointer` must name: made a pointer there. NULL: it does
 * not, or the block ends before it. */
static uint8_t *in_piece(struct in *s, uint8_t *pointer, uint64_t bytes, bool aligned)
{
	uint64_t at = aligned ? align8(s->at) : s->at;

	if (load64(pointer) != at || at > s->bytes || bytes > s->bytes - at) {
		in_fail(s, SPLIT_E_LINEARIZE_POINTER);
		return NULL;
	}
	if (++s->elements > s->elements_max) {
		in_fail(s, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
		return NULL;
	}
	s->at = at + bytes;
	store64(pointer, s->base + at);
	return s->mem + at;
}

static bool in_string(struct in *s, const struct schema_message *m, const struct schema_field *f,
		      uint8_t *at)
{
	uint64_t v = load64(at);
	const uint8_t *nul;

	if (v == POINTER_NULL)
		return true;
	if (v == POINTER_EMPTY || (v == POINTER_DEFAULT && f->default_address != 0)) {
		store64(at, v == POINTER_EMPTY ? m->empty_string : f->default_address);
		return true;
	}
	nul = s->at < s->bytes ? memchr(s->mem + s->at, 0, s->bytes - s->at) : NULL;
	if (nul == NULL)
		return in_fail(s, SPLIT_E_LINEARIZE_POINTER);
	return in_piece(s, at, (uint64_t)(nul - (s->mem + s->at)) + 1, false) != NULL;
}

static bool in_binary(struct in *s, const struct schema_field *f, uint8_t *at)
{
	uint64_t len = load64(at);

	if (len == 0) {
		store64(at + 8, 0);
		return true;
	}
	if (load64(at + 8) == POINTER_DEFAULT) {
		if (f->default_address == 0 || len > f->default_bytes)
			return in_fail(s, SPLIT_E_LINEARIZE_POINTER);
		store64(at + 8, f->default_address);
		return true;
	}
	return in_piece(s, at + 8, len, false) != NULL;
}

static bool in_message(struct in *s, const struct schema_message *m, uint8_t *pointer,
		       uint32_t depth);

static bool in_value(struct in *s, const struct schema_message *m, const struct schema_field *f,
		     uint8_t *at, uint32_t depth)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return in_string(s, m, f, at);
	case PROTOBUF_C_TYPE_BYTES:
		return in_binary(s, f, at);
	case PROTOBUF_C_TYPE_MESSAGE:
		return load64(at) == POINTER_NULL || in_message(s, f->sub.message, at, depth + 1);
	default:
		return true;
	}
}

static bool in_repeated(struct in *s, const struct schema_message *m, const struct schema_field *f,
			uint8_t *src, uint32_t depth)
{
	uint64_t n = load64(src + f->quantifier);
	uint8_t *array;

	if (n == 0) {
		store64(src + f->offset, 0);
		return true;
	}
	if (n > s->bytes / f->bytes)
		return in_fail(s, SPLIT_E_LINEARIZE_POINTER);
	array = in_piece(s, src + f->offset, n * f->bytes, true);
	if (array == NULL)
		return false;
	if (type_is_packable(f->type))
		return true;
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *element = array + i * f->bytes;

		if (f->type != PROTOBUF_C_TYPE_BYTES && load64(element) == POINTER_NULL)
			return in_fail(s, SPLIT_E_LINEARIZE_POINTER); /* nobody expects that */
		if (!in_value(s, m, f, element, depth))
			return false;
	}
	return true;
}

static bool in_unknown(struct in *s, uint8_t *src)
{
	uint64_t n = load32(src + BASE_N_UNKNOWN);
	uint8_t *at;

	if (n == 0) {
		store64(src + BASE_UNKNOWN, 0);
		return true;
	}
	at = in_piece(s, src + BASE_UNKNOWN, n * UNKNOWN_BYTES, true);
	if (at == NULL)
		return false;
	for (uint64_t i = 0; i < n; i++, at += UNKNOWN_BYTES) {
		uint64_t len = load64(at + UNKNOWN_LEN);

		if (len == 0)
			store64(at + UNKNOWN_DATA, 0);
		else if (in_piece(s, at + UNKNOWN_DATA, len, false) == NULL)
			return false;
	}
	return true;
}

/* A member of a oneof that is not the chosen one is not there: what lies in its place is another's
 * or nobody's, and who reads by the case word never sees it. */
static bool in_field(struct in *s, const struct schema_message *m, const struct schema_field *f,
		     uint8_t *src, uint32_t depth)
{
	if (f->card == CARD_REPEATED)
		return in_repeated(s, m, f, src, depth);
	if (f->card == CARD_ONEOF && load32(src + f->quantifier) != f->number)
		return true;
	if (f->type == PROTOBUF_C_TYPE_STRING && load64(src + f->offset) == POINTER_NULL) {
		/* Where decode never leaves a NULL there shall be none. */
		store64(src + f->offset,
			f->card == CARD_ONEOF ? m->empty_string : load64(m->image + f->offset));
		return true;
	}
	return in_value(s, m, f, src + f->offset, depth);
}

static bool in_message(struct in *s, const struct schema_message *m, uint8_t *pointer,
		       uint32_t depth)
{
	uint8_t *src;

	if (depth > s->depth_max)
		return in_fail(s, SPLIT_E_LINEARIZE_DEPTH);
	src = in_piece(s, pointer, m->struct_bytes, true);
	if (src == NULL)
		return false;
	store64(src, load64(m->image)); /* base.descriptor, the receiver's own */
	for (uint32_t i = 0; i < m->field_count; i++)
		if (!in_field(s, m, &m->fields[i], src, depth))
			return false;
	return in_unknown(s, src);
}

int relocate_in(const struct schema_message *m, uint8_t *mem, size_t bytes, int64_t delta,
		const struct linear_limits *limits)
{
	struct linear_limits l;
	struct in s = {
		.mem = mem,
		.bytes = bytes,
		.base = (uint64_t)(uintptr_t)mem + (uint64_t)delta,
	};
	uint8_t root[8] = {0};

	linear_limits_resolve(&l, limits);
	s.elements_max = l.elements_max;
	s.depth_max = l.depth_max;
	if (bytes > l.linear_bytes_max)
		return -SPLIT_E_LINEARIZE_LIMIT_LINEAR;
	if (!in_message(&s, m, root, 0))
		return s.error;
	return s.at == bytes ? 0 : -SPLIT_E_LINEARIZE_SOURCE;
}

/* --- A schema without addresses --------------------------------------------------------------- */

int schema_blob_portable(uint8_t *blob, size_t len)
{
	struct blob_header h;
	struct blob_field *fields;
	struct blob_message *messages;

	if (len < sizeof(h))
		return -SPLIT_E_LINEARIZE_SCHEMA;
	memcpy(&h, blob, sizeof(h));
	if (h.magic != SCHEMA_MAGIC || h.total_bytes != len ||
	    (uint64_t)h.messages * sizeof(*messages) + (uint64_t)h.fields * sizeof(*fields) >
		    len - sizeof(h))
		return -SPLIT_E_LINEARIZE_SCHEMA;
	messages = (struct blob_message *)(void *)(blob + sizeof(h));
	fields = (struct blob_field *)(void *)(messages + h.messages);
	for (uint32_t i = 0; i < h.messages; i++)
		messages[i].descriptor = 0;
	for (uint32_t i = 0; i < h.fields; i++) {
		struct blob_field *f = &fields[i];

		if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES) {
			if (f->init != 0)
				f->init =
					f->init == h.empty_string ? POINTER_EMPTY : POINTER_DEFAULT;
			if (f->default_address != 0)
				f->default_address = f->default_address == h.empty_string
							     ? POINTER_EMPTY
							     : POINTER_DEFAULT;
		}
	}
	h.empty_string = POINTER_EMPTY;
	memcpy(blob, &h, sizeof(h));
	return 0;
}
