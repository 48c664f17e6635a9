/* Looking into a parsed schema: what the daemon, the tools and the JSON view ask of it. All of it
 * is read from the private, checked copy of the blob. */
#include "linearize/linearize_internal.h"

#include "base/siphash.h"

/* The hash finds candidates for sharing; the bytes decide (schema_is_from), so the key is no
 * secret. */
uint64_t schema_blob_hash(const void *blob, size_t len)
{
	static const struct siphash_key key = {0};

	return siphash24(&key, blob, len);
}

uint64_t schema_hash(const struct schema *s)
{
	return s->hash;
}

bool schema_is_from(const struct schema *s, const void *blob, size_t len)
{
	return len == s->blob_bytes && (len == 0 || memcmp(s->blob, blob, len) == 0);
}

bool schema_equal(const struct schema *a, const struct schema *b)
{
	return a->hash == b->hash && schema_is_from(a, b->blob, b->blob_bytes);
}

struct schema *schema_get(struct schema *s)
{
	s->refs++;
	return s;
}

unsigned schema_refs(const struct schema *s)
{
	return s->refs;
}

const uint8_t *schema_descriptor_set(const struct schema *s, size_t *len_out)
{
	uint32_t bytes = s->header->set_bytes;

	*len_out = bytes;
	return bytes ? s->blob + s->blob_bytes - bytes : NULL;
}

const struct schema_message *schema_message_at(const struct schema *s, uint32_t index)
{
	return index < s->message_count ? &s->messages[index] : NULL;
}

uint32_t schema_message_count(const struct schema *s)
{
	return s->message_count;
}

const struct schema_message *schema_message_find(const struct schema *s, const char *name)
{
	uint32_t i;

	for (i = 0; i < s->message_count; i++)
		if (!strcmp(s->messages[i].name, name))
			return &s->messages[i];
	return NULL;
}

const char *schema_message_name(const struct schema_message *m)
{
	return m->name;
}

size_t schema_message_bytes(const struct schema_message *m)
{
	return m->struct_bytes;
}

bool schema_enum_has(const struct schema_enum *e, int32_t number)
{
	uint32_t low = 0, high = e->count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (e->numbers[mid] == number)
			return true;
		if (e->numbers[mid] < number)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

const struct schema *schema_of_message(const struct schema_message *m)
{
	return m->schema;
}

uint32_t schema_field_count(const struct schema_message *m)
{
	return m->field_count;
}

static const struct blob_message *blob_of(const struct schema_message *m)
{
	return &m->schema->blob_messages[m->index];
}

static enum schema_presence presence_of(const struct schema_field *f, uint8_t label)
{
	switch (f->card) {
	case CARD_HAS:
		return SCHEMA_PRESENCE_HAS;
	case CARD_ONEOF:
		return SCHEMA_PRESENCE_ONEOF;
	case CARD_REPEATED:
		return SCHEMA_PRESENCE_REPEATED;
	default:
		if (label == PROTOBUF_C_LABEL_REQUIRED)
			return SCHEMA_PRESENCE_REQUIRED;
		if (f->type == PROTOBUF_C_TYPE_MESSAGE || label == PROTOBUF_C_LABEL_OPTIONAL)
			return SCHEMA_PRESENCE_POINTER;
		return SCHEMA_PRESENCE_ZERO;
	}
}

void schema_field_at(const struct schema_message *m, uint32_t i, struct schema_field_view *out)
{
	const struct schema *s = m->schema;
	const struct blob_field *b = &s->blob_fields[blob_of(m)->first_field + i];
	const struct schema_field *f = &m->fields[i];

	*out = (struct schema_field_view){
		.name = s->pool + b->name,
		.name_bytes = b->name_bytes,
		.json_name = b->json_name_bytes ? s->pool + b->json_name : NULL,
		.json_name_bytes = b->json_name_bytes,
		.number = f->number,
		.type = (ProtobufCType)f->type,
		.presence = presence_of(f, b->label),
		.flags = (uint32_t)b->flags >> BLOB_FIELD_INFO_SHIFT,
		.packed = b->flags & BLOB_FIELD_PACKED,
		.offset = f->offset,
		.quantifier = f->quantifier,
		.bytes = f->bytes,
		.default_address = f->default_address,
		.default_data = f->default_data,
		.default_bytes = f->default_bytes,
	};
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		out->message = f->sub.message;
	else if (f->type == PROTOBUF_C_TYPE_ENUM)
		out->enumeration = f->sub.enumeration;
}

uint32_t schema_message_flags(const struct schema_message *m)
{
	return blob_of(m)->flags;
}

enum schema_syntax schema_message_syntax(const struct schema_message *m)
{
	return (enum schema_syntax)blob_of(m)->syntax;
}

uint64_t schema_empty_string(const struct schema_message *m)
{
	return m->empty_string;
}

const char *schema_enum_name(const struct schema_enum *e, uint32_t *bytes_out)
{
	const struct blob_enum *b = &e->schema->blob_enums[e->index];

	*bytes_out = b->name_bytes;
	return e->schema->pool + b->name;
}

bool schema_enum_is_closed(const struct schema_enum *e)
{
	return e->schema->blob_enums[e->index].flags & BLOB_ENUM_CLOSED;
}

const char *schema_enum_value(const struct schema_enum *e, int32_t number, uint32_t *bytes_out)
{
	const struct blob_enum *b = &e->schema->blob_enums[e->index];
	uint32_t i;

	if (!schema_enum_has(e, number))
		return NULL;
	for (i = b->first_value; i < b->first_value + b->values; i++) {
		const struct blob_value *v = &e->schema->blob_values[i];

		if (v->number == number && v->name_bytes) {
			*bytes_out = v->name_bytes;
			return e->schema->pool + v->name;
		}
	}
	return NULL;
}
