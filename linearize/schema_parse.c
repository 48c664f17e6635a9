/* Daemon side: schema blob -> validated, compiled tables.
 *
 * The blob is hostile. It is copied once into private memory, every count and reference is checked
 * against it, and only then are tables built. What must hold afterwards, because decode and encode
 * rely on it without looking again:
 *
 *  - every member, count, has_ word and case word lies inside its struct, aligned to its size;
 *  - no two of them overlap, nor the base, except members of one oneof, which share one place. So
 *    an array or sub-message pointer can only ever have been written as such by decode itself;
 *  - arrays, sub-messages, oneofs and presence start out as zero;
 *  - field numbers ascend and are legal; sub-messages and enums exist.
 */
#include "linearize/linearize_internal.h"

#include <stdlib.h>

const struct schema_limits schema_limits_default = {
	.blob_bytes_max = 16u << 20,
	.messages_max = 16384,
	.fields_max = 262144,
	.message_bytes_max = 64u << 10,
	.set_bytes_max = 8u << 20,
};

/* Numbers below this share of the field count, plus a constant, are looked up directly. */
#define DENSE_NUMBERS(fields) (2 * (uint64_t)(fields) + 16)

/* All images together; 64 KiB structs by the thousand are an attack, not a service. */
#define IMAGE_BYTES_MAX (64u << 20)

/* Owners of a granule of a struct, besides field index + GRANULE_FIELD. */
#define GRANULE_BYTES 4
enum { GRANULE_FREE, GRANULE_BASE, GRANULE_FIELD };

struct parser {
	struct blob_header h;
	const struct blob_message *messages;
	const struct blob_field *fields;
	const struct blob_enum *enums;
	const struct blob_value *values;
	const uint8_t *pool;
	struct schema_limits limits;
	uint64_t image_bytes, dense_count, fast_count, name_bytes;
	uint32_t *owners; /* of the message being checked, one for each granule */
};

static bool pool_has(const struct parser *p, uint32_t at, uint32_t bytes)
{
	return at <= p->h.pool_bytes && bytes <= p->h.pool_bytes - at;
}

/* Names go into logs and JSON. Empty ones come from descriptors without names (CODE_SIZE). */
static bool name_is_sound(const struct parser *p, uint32_t at, uint32_t bytes)
{
	uint32_t i;

	if (bytes > SCHEMA_NAME_MAX || !pool_has(p, at, bytes))
		return false;
	for (i = 0; i < bytes; i++) {
		uint8_t c = p->pool[at + i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '_' || c == '.'))
			return false;
	}
	return true;
}

/* A JSON name may be any text that is no control character: it is escaped where it is written. */
static bool json_name_is_sound(const struct parser *p, const struct blob_field *f)
{
	const uint8_t *at;
	uint32_t i;

	if (f->json_name_bytes > SCHEMA_NAME_MAX || !pool_has(p, f->json_name, f->json_name_bytes))
		return false;
	at = p->pool + f->json_name;
	for (i = 0; i < f->json_name_bytes; i++)
		if (at[i] < 0x20)
			return false;
	return utf8_span(at, at + f->json_name_bytes) == at + f->json_name_bytes;
}

/* --- Header and frame ------------------------------------------------------------------------ */

static int parse_header(struct parser *p, const uint8_t *blob, size_t len)
{
	struct blob_header *h = &p->h;
	uint64_t total = sizeof(*h);

	if (len < sizeof(*h))
		return -SPLIT_E_LINEARIZE_SCHEMA;
	memcpy(h, blob, sizeof(*h));
	if (h->magic == __builtin_bswap32(SCHEMA_MAGIC))
		return -SPLIT_E_LINEARIZE_SCHEMA_LAYOUT;
	if (h->magic != SCHEMA_MAGIC)
		return -SPLIT_E_LINEARIZE_SCHEMA;
	if (h->version != SCHEMA_VERSION)
		return -SPLIT_E_LINEARIZE_SCHEMA_VERSION;
	if (h->pointer_bytes != 8 || h->enum_bytes != 4 || h->endian_tag != SCHEMA_ENDIAN_TAG)
		return -SPLIT_E_LINEARIZE_SCHEMA_LAYOUT;
	if (h->messages > p->limits.messages_max || h->fields > p->limits.fields_max ||
	    (p->limits.set_bytes_max && h->set_bytes > p->limits.set_bytes_max))
		return -SPLIT_E_LINEARIZE_SCHEMA_LIMIT;
	total += (uint64_t)h->messages * sizeof(struct blob_message);
	total += (uint64_t)h->fields * sizeof(struct blob_field);
	total += (uint64_t)h->enums * sizeof(struct blob_enum);
	total += (uint64_t)h->values * sizeof(struct blob_value);
	total += h->pool_bytes;
	total += h->set_bytes;
	if (total != len || h->total_bytes != len)
		return -SPLIT_E_LINEARIZE_SCHEMA;
	p->messages = (const void *)(blob + sizeof(*h));
	p->fields = (const void *)(p->messages + h->messages);
	p->enums = (const void *)(p->fields + h->fields);
	p->values = (const void *)(p->enums + h->enums);
	p->pool = (const void *)(p->values + h->values);
	return 0;
}

static int parse_enums(struct parser *p)
{
	uint32_t i;

	for (i = 0; i < p->h.enums; i++) {
		const struct blob_enum *e = &p->enums[i];

		if (e->first_value > p->h.values || e->values > p->h.values - e->first_value)
			return -SPLIT_E_LINEARIZE_SCHEMA;
		if (e->flags & ~BLOB_ENUM_CLOSED || !name_is_sound(p, e->name, e->name_bytes))
			return -SPLIT_E_LINEARIZE_SCHEMA;
	}
	for (i = 0; i < p->h.values; i++)
		if (!name_is_sound(p, p->values[i].name, p->values[i].name_bytes))
			return -SPLIT_E_LINEARIZE_SCHEMA;
	return 0;
}

/* --- Fields ---------------------------------------------------------------------------------- */

static bool field_is_oneof(const struct blob_field *f)
{
	return f->flags & BLOB_FIELD_ONEOF;
}

static bool field_has_word(const struct blob_field *f)
{
	return f->label == PROTOBUF_C_LABEL_OPTIONAL && !field_is_oneof(f) &&
	       f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE;
}

/* Bytes of the member itself and of its quantifier (0: none, whatever the offset says). */
static uint32_t member_bytes(const struct blob_field *f)
{
	return f->label == PROTOBUF_C_LABEL_REPEATED ? 8 : type_bytes[f->type];
}

static uint32_t quantifier_bytes(const struct blob_field *f)
{
	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return 8;
	return field_is_oneof(f) || field_has_word(f) ? 4 : 0;
}

/* Take [at, at + bytes) of the struct for `owner`. Granules that `owner` already has are free to
 * it: that is how the members of a oneof share. */
static bool take(struct parser *p, const struct blob_message *m, uint32_t at, uint32_t bytes,
		 uint32_t owner)
{
	uint32_t align = bytes == 4 ? 4 : 8, i;

	if (at % align || at > m->struct_bytes || bytes > m->struct_bytes - at)
		return false;
	for (i = at / GRANULE_BYTES; i < (at + bytes) / GRANULE_BYTES; i++) {
		if (p->owners[i] != GRANULE_FREE && p->owners[i] != owner)
			return false;
		p->owners[i] = owner;
	}
	return true;
}

static bool field_is_sound(const struct parser *p, const struct blob_field *f)
{
	bool oneof, repeated;

	if (f->type >= TYPE_COUNT || f->label > PROTOBUF_C_LABEL_NONE)
		return false;
	oneof = field_is_oneof(f);
	repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
	if (f->flags & ~BLOB_FIELD_FLAGS || f->number == 0 || f->number > FIELD_NUMBER_MAX)
		return false;
	if (oneof && (repeated || f->label == PROTOBUF_C_LABEL_REQUIRED))
		return false;
	if (f->flags & BLOB_FIELD_PACKED && (!repeated || !type_is_packable(f->type)))
		return false;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE ? f->sub >= p->h.messages
	    : f->type == PROTOBUF_C_TYPE_ENUM  ? f->sub >= p->h.enums
					       : f->sub != SCHEMA_NONE)
		return false;
	if (f->flags & BLOB_FIELD_UTF8 && f->type != PROTOBUF_C_TYPE_STRING)
		return false;
	if (f->flags & BLOB_FIELD_OPTIONAL && (oneof || f->label != PROTOBUF_C_LABEL_OPTIONAL))
		return false;
	if ((repeated || oneof || f->type == PROTOBUF_C_TYPE_MESSAGE) && (f->init || f->init_len))
		return false;
	if (f->type != PROTOBUF_C_TYPE_BYTES && f->init_len)
		return false;
	if (type_bytes[f->type] == 4 && f->init > UINT32_MAX)
		return false;
	return pool_has(p, f->default_pool, f->default_bytes) &&
	       name_is_sound(p, f->name, f->name_bytes) && json_name_is_sound(p, f);
}

/* A oneof is known by its case word. Its owner number is that of its first member, and all members
 * lie at one offset, as in a C union. The case word has an owner of its own. */
static bool take_oneof(struct parser *p, const struct blob_message *m,
		       const struct blob_field *fields, uint32_t i)
{
	const struct blob_field *f = &fields[i];
	uint32_t owner = GRANULE_FIELD + 2 * i, granule = f->quantifier / GRANULE_BYTES;

	if (f->quantifier % 4 || f->quantifier > m->struct_bytes - 4)
		return false;
	if (p->owners[granule] != GRANULE_FREE) {
		uint32_t case_owner = p->owners[granule];
		const struct blob_field *first;

		/* Odd owners (from GRANULE_FIELD on) are quantifiers. */
		if (case_owner < GRANULE_FIELD || (case_owner - GRANULE_FIELD) % 2 == 0)
			return false;
		owner = case_owner - 1;
		first = &fields[(owner - GRANULE_FIELD) / 2];
		if (!field_is_oneof(first) || first->offset != f->offset ||
		    first->quantifier != f->quantifier)
			return false;
	}
	return take(p, m, f->quantifier, 4, owner + 1) &&
	       take(p, m, f->offset, member_bytes(f), owner);
}

static bool take_field(struct parser *p, const struct blob_message *m,
		       const struct blob_field *fields, uint32_t i)
{
	const struct blob_field *f = &fields[i];
	uint32_t bytes = quantifier_bytes(f);

	if (field_is_oneof(f))
		return take_oneof(p, m, fields, i);
	if (bytes && !take(p, m, f->quantifier, bytes, GRANULE_FIELD + 2 * i + 1))
		return false;
	return take(p, m, f->offset, member_bytes(f), GRANULE_FIELD + 2 * i);
}

static uint32_t message_dense_count(const struct parser *p, const struct blob_message *m)
{
	const struct blob_field *fields = &p->fields[m->first_field];
	uint64_t bound = DENSE_NUMBERS(m->fields);

	if (m->fields == 0)
		return 0;
	if (fields[m->fields - 1].number < bound)
		bound = fields[m->fields - 1].number + 1;
	return (uint32_t)bound;
}

static uint32_t message_fast_count(const struct parser *p, const struct blob_message *m)
{
	uint32_t n = message_dense_count(p, m);

	if (n < FAST_NUMBERS)
		return FAST_NUMBERS;
	return n > FAST_NUMBER_MAX ? FAST_NUMBER_MAX + 1 : n;
}

static int parse_message(struct parser *p, const struct blob_message *m)
{
	const struct blob_field *fields;
	uint32_t i;

	if (m->first_field > p->h.fields || m->fields > p->h.fields - m->first_field)
		return -SPLIT_E_LINEARIZE_SCHEMA;
	if (m->struct_bytes > p->limits.message_bytes_max)
		return -SPLIT_E_LINEARIZE_SCHEMA_LIMIT;
	if (m->struct_bytes < sizeof(ProtobufCMessage) || m->struct_bytes % 8 ||
	    !name_is_sound(p, m->name, m->name_bytes))
		return -SPLIT_E_LINEARIZE_SCHEMA;
	if (m->syntax != SCHEMA_SYNTAX_UNKNOWN && m->syntax != SCHEMA_SYNTAX_PROTO2 &&
	    m->syntax != SCHEMA_SYNTAX_PROTO3)
		return -SPLIT_E_LINEARIZE_SCHEMA;
	if (m->flags & ~BLOB_MESSAGE_FLAGS || m->package_bytes > m->name_bytes ||
	    (m->package_bytes && m->package_bytes < m->name_bytes &&
	     p->pool[m->name + m->package_bytes] != '.'))
		return -SPLIT_E_LINEARIZE_SCHEMA;
	memset(p->owners, 0, m->struct_bytes / GRANULE_BYTES * sizeof(*p->owners));
	if (!take(p, m, 0, sizeof(ProtobufCMessage), GRANULE_BASE))
		return -SPLIT_E_LINEARIZE_SCHEMA;
	fields = &p->fields[m->first_field];
	for (i = 0; i < m->fields; i++)
		if (!field_is_sound(p, &fields[i]) ||
		    (i > 0 && fields[i].number <= fields[i - 1].number) ||
		    !take_field(p, m, fields, i))
			return -SPLIT_E_LINEARIZE_SCHEMA;
	p->image_bytes += m->struct_bytes;
	p->dense_count += message_dense_count(p, m);
	p->fast_count += message_fast_count(p, m);
	p->name_bytes += m->name_bytes + 1;
	return 0;
}

/* One for each granule of the largest struct that parse_message() can come to look at. */
static int owners_make(struct parser *p)
{
	uint32_t most = 0, i;

	for (i = 0; i < p->h.messages; i++)
		if (p->messages[i].struct_bytes > most)
			most = p->messages[i].struct_bytes;
	if (most > p->limits.message_bytes_max)
		most = p->limits.message_bytes_max;
	p->owners = calloc(most / GRANULE_BYTES + 1, sizeof(*p->owners));
	return p->owners ? 0 : -SPLIT_E_BASE_NOMEM;
}

/* Each field record belongs to one message, in order; else a blob could make one field array stand
 * for thousands of messages and so multiply the tables. */
static int parse_messages(struct parser *p)
{
	uint32_t i, next = 0;
	int rc;

	for (i = 0; i < p->h.messages; i++) {
		if (p->messages[i].first_field != next)
			return -SPLIT_E_LINEARIZE_SCHEMA;
		rc = parse_message(p, &p->messages[i]);
		if (rc)
			return rc;
		next += p->messages[i].fields;
		if (p->image_bytes > IMAGE_BYTES_MAX)
			return -SPLIT_E_LINEARIZE_SCHEMA_LIMIT;
	}
	return next == p->h.fields ? 0 : -SPLIT_E_LINEARIZE_SCHEMA;
}

/* --- Compiling (the blob is sound now) ---------------------------------------------------------
 */

static uint8_t tag_encode(uint32_t number, uint8_t wire, uint8_t tag[5])
{
	uint32_t v = number << 3 | wire;
	uint8_t n = 0;

	while (v >= 0x80) {
		tag[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	tag[n++] = (uint8_t)v;
	return n;
}

static uint8_t compile_card(const struct blob_field *f)
{
	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return CARD_REPEATED;
	if (field_is_oneof(f))
		return CARD_ONEOF;
	return field_has_word(f) ? CARD_HAS : CARD_PLAIN;
}

static void compile_field(const struct schema *s, const struct parser *p,
			  const struct blob_field *f, struct schema_field *out)
{
	out->number = f->number;
	out->type = f->type;
	out->card = compile_card(f);
	out->bytes = type_bytes[f->type];
	out->offset = f->offset;
	out->quantifier = f->quantifier;
	out->wire = type_wire[f->type];
	out->default_address = f->default_address;
	out->default_data = p->pool + f->default_pool;
	out->default_bytes = f->default_bytes;
	if (f->flags & BLOB_FIELD_PACKED)
		out->flags |= FIELD_PACKED;
	if (out->card == CARD_REPEATED && type_is_packable(f->type))
		out->flags |= FIELD_PACKABLE;
	if (f->flags & BLOB_FIELD_UTF8)
		out->flags |= FIELD_UTF8;
	if (f->label == PROTOBUF_C_LABEL_NONE)
		out->flags |= FIELD_NONE;
	if (f->label == PROTOBUF_C_LABEL_OPTIONAL)
		out->flags |= FIELD_OPTIONAL;
	/* protobuf-c: a required field that has a default is there without the wire's help. */
	if (f->label == PROTOBUF_C_LABEL_REQUIRED && !(f->flags & BLOB_FIELD_DEFAULT))
		out->flags |= FIELD_REQUIRED;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		out->sub.message = &s->messages[f->sub];
	if (f->type == PROTOBUF_C_TYPE_ENUM) {
		out->sub.enumeration = &s->enums[f->sub];
		if (p->enums[f->sub].flags & BLOB_ENUM_CLOSED)
			out->flags |= FIELD_ENUM_CLOSED;
	}
	out->tag_bytes = tag_encode(
		f->number, out->flags & FIELD_PACKED ? (uint8_t)WIRE_LEN : out->wire, out->tag);
}

static void compile_oneofs(struct schema_field *fields, uint32_t count, uint8_t *largest,
			   uint32_t struct_bytes)
{
	uint32_t i;

	memset(largest, 0, struct_bytes / GRANULE_BYTES);
	for (i = 0; i < count; i++)
		if (fields[i].card == CARD_ONEOF &&
		    fields[i].bytes > largest[fields[i].quantifier / GRANULE_BYTES])
			largest[fields[i].quantifier / GRANULE_BYTES] = fields[i].bytes;
	for (i = 0; i < count; i++)
		if (fields[i].card == CARD_ONEOF)
			fields[i].oneof_bytes = largest[fields[i].quantifier / GRANULE_BYTES];
}

static void compile_image(const struct blob_message *m, const struct blob_field *fields,
			  uint8_t *image)
{
	uint32_t i;

	store64(image, m->descriptor);
	for (i = 0; i < m->fields; i++) {
		const struct blob_field *f = &fields[i];

		if (f->type == PROTOBUF_C_TYPE_BYTES && (f->init || f->init_len)) {
			store64(image + f->offset, f->init_len);
			store64(image + f->offset + 8, f->init);
		} else if (f->init) {
			memcpy(image + f->offset, &f->init, type_bytes[f->type]);
		}
	}
}

static void compile_message(struct schema *s, const struct parser *p, uint32_t index,
			    uint32_t *dense, struct fast_field *fast, uint8_t *image, char *name)
{
	const struct blob_message *m = &p->messages[index];
	const struct blob_field *from = &p->fields[m->first_field];
	struct schema_field *fields = &s->fields[m->first_field];
	struct schema_message *out = &s->messages[index];
	uint32_t i, words;

	out->fields = fields;
	out->field_count = m->fields;
	out->struct_bytes = m->struct_bytes;
	out->empty_string = p->h.empty_string;
	out->dense = dense;
	out->dense_count = message_dense_count(p, m);
	out->image = image;
	out->name = name;
	out->schema = s;
	out->index = index;
	for (i = 0; i < m->fields; i++) {
		compile_field(s, p, &from[i], &fields[i]);
		if (fields[i].number < out->dense_count)
			dense[fields[i].number] = i + 1;
		if (fields[i].flags & FIELD_REQUIRED)
			fields[i].required_bit = out->required_count++;
	}
	compile_oneofs(fields, m->fields, (uint8_t *)p->owners, m->struct_bytes);
	compile_image(m, from, image);
	memcpy(name, p->pool + m->name, m->name_bytes);
	/* One bit more than fields: "counted as incomplete", see decode.c. */
	words = out->required_count ? out->required_count / 64 + 1 : 0;
	out->required_at = words ? m->struct_bytes : 0;
	out->alloc_bytes = m->struct_bytes + words * 8;
	out->fast = fast;
	out->fast_count = message_fast_count(p, m);
	fast_compile(out, fast);
	/* Before it stand the fields of the messages before, and one more for each. */
	fast_encode_compile(out, s->encode + m->first_field + index);
}

static int compare_numbers(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

static void compile_enums(struct schema *s, const struct parser *p, int32_t *numbers)
{
	uint32_t i, v;

	for (v = 0; v < p->h.values; v++)
		numbers[v] = p->values[v].number;
	for (i = 0; i < p->h.enums; i++) {
		int32_t *own = numbers + p->enums[i].first_value;

		qsort(own, p->enums[i].values, sizeof(*own), compare_numbers);
		s->enums[i] = (struct schema_enum){
			.numbers = own, .count = p->enums[i].values, .index = i, .schema = s};
	}
}

static int compile(struct schema *s, struct parser *p)
{
	struct fast_field *fast;
	uint32_t *dense;
	uint8_t *image;
	char *name;
	uint32_t i;

	/* One more than needed: calloc(0) may be NULL. */
	s->messages = calloc(p->h.messages + 1, sizeof(*s->messages));
	s->fields = calloc(p->h.fields + 1, sizeof(*s->fields));
	s->enums = calloc(p->h.enums + 1, sizeof(*s->enums));
	s->numbers = calloc(p->h.values + 1, sizeof(*s->numbers));
	s->dense = dense = calloc(p->dense_count + 1, sizeof(*s->dense));
	s->fast = fast = calloc(p->fast_count + 1, sizeof(*s->fast));
	s->encode = calloc((size_t)p->h.fields + p->h.messages + 1, sizeof(*s->encode));
	s->images = image = calloc(p->image_bytes + FAST_IMAGE_SLACK, 1);
	s->names = name = calloc(p->name_bytes + 1, 1);
	if (!s->messages || !s->fields || !s->enums || !s->numbers || !s->dense || !s->fast ||
	    !s->encode || !s->images || !s->names)
		return -SPLIT_E_BASE_NOMEM;
	s->message_count = p->h.messages;
	s->header = (const void *)s->blob;
	s->blob_messages = p->messages;
	s->blob_fields = p->fields;
	s->blob_enums = p->enums;
	s->blob_values = p->values;
	s->pool = (const char *)p->pool;
	compile_enums(s, p, s->numbers);
	for (i = 0; i < p->h.messages; i++) {
		compile_message(s, p, i, dense, fast, image, name);
		fast += s->messages[i].fast_count;
		dense += s->messages[i].dense_count;
		image += s->messages[i].struct_bytes;
		name += p->messages[i].name_bytes + 1;
	}
	return 0;
}

/* --- Public ------------------------------------------------------------------------------------
 */

static void schema_free(struct schema *s)
{
	free(s->blob);
	free(s->messages);
	free(s->fields);
	free(s->enums);
	free(s->numbers);
	free(s->dense);
	free(s->fast);
	free(s->encode);
	free(s->images);
	free(s->names);
	free(s);
}

void schema_destroy(struct schema *s)
{
	if (s && --s->refs == 0)
		schema_free(s);
}

int schema_parse(const void *blob, size_t len, const struct schema_limits *limits,
		 struct schema **out)
{
	struct parser p = {.limits = limits ? *limits : schema_limits_default};
	struct schema *s;
	int rc;

	if (len > p.limits.blob_bytes_max)
		return -SPLIT_E_LINEARIZE_SCHEMA_LIMIT;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -SPLIT_E_BASE_NOMEM;
	s->blob = calloc(1, len + 1);
	rc = -SPLIT_E_BASE_NOMEM;
	if (!s->blob)
		goto out;
	if (len)
		memcpy(s->blob, blob, len);
	s->blob_bytes = len;
	s->hash = schema_blob_hash(s->blob, len);
	s->refs = 1;
	rc = parse_header(&p, s->blob, len);
	if (rc == 0)
		rc = owners_make(&p);
	if (rc == 0)
		rc = parse_enums(&p);
	if (rc == 0)
		rc = parse_messages(&p);
	if (rc == 0)
		rc = compile(s, &p);
out:
	free(p.owners);
	if (rc)
		schema_free(s);
	else
		*out = s;
	return rc;
}
