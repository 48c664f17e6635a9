/* What a descriptor set of the operator's says of a host's messages: syntax, UTF-8, closed enums
 * and marks, which protobuf-c's descriptors do not know. Only flags change, never where anything
 * lies. */
#include "linearize/descriptor/descriptor.h"
#include "linearize/linearize_internal.h"

#include <stdlib.h>

#define FLAGS_AMENDED (BLOB_FIELD_UTF8 | BLOB_FIELD_OPTIONAL | BLOB_FIELD_ACC)

static const struct proto_field *field_find(const struct proto_message *m, uint32_t number)
{
	uint32_t low = 0, high = m->fields_n;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (m->by_number[mid]->number == number)
			return m->by_number[mid];
		if (m->by_number[mid]->number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* True: it was another. */
static bool flags_set(uint16_t *flags, uint32_t wanted)
{
	bool changed = (*flags & FLAGS_AMENDED) != wanted;

	*flags = (uint16_t)((*flags & ~FLAGS_AMENDED) | wanted);
	return changed;
}

static bool message_amend(const struct schema *s, uint32_t index, struct blob_message *m,
			  struct blob_field *fields, const struct proto_set *set)
{
	const struct proto_message *known = proto_message_find(set, s->messages[index].name);
	bool changed;
	uint32_t i;

	if (!known)
		return false;
	changed = m->syntax != known->file->syntax;
	m->syntax = known->file->syntax;
	if (known->map_entry && !(m->flags & SCHEMA_MESSAGE_MAP_ENTRY)) {
		m->flags |= SCHEMA_MESSAGE_MAP_ENTRY;
		changed = true;
	}
	for (i = m->first_field; i < m->first_field + m->fields; i++) {
		const struct proto_field *f = field_find(known, fields[i].number);
		uint32_t wanted = 0;

		if (!f)
			continue;
		if (f->utf8 && fields[i].type == PROTOBUF_C_TYPE_STRING)
			wanted |= BLOB_FIELD_UTF8;
		if (f->proto3_optional)
			wanted |= BLOB_FIELD_OPTIONAL;
		if (proto_field_is_acc(f))
			wanted |= BLOB_FIELD_ACC;
		changed |= flags_set(&fields[i].flags, wanted);
	}
	return changed;
}

static bool enum_amend(const struct schema *s, struct blob_enum *e, const struct proto_set *set)
{
	const struct proto_enum *known;
	char name[SCHEMA_NAME_MAX + 1];
	uint32_t flags;
	bool changed;

	if (e->name_bytes > SCHEMA_NAME_MAX)
		return false;
	memcpy(name, s->pool + e->name, e->name_bytes);
	name[e->name_bytes] = '\0';
	known = proto_enum_find(set, name);
	if (!known)
		return false;
	flags = (e->flags & ~BLOB_ENUM_CLOSED) | (known->closed ? BLOB_ENUM_CLOSED : 0);
	changed = flags != e->flags;
	e->flags = flags;
	return changed;
}

/* The record in `copy` that stands where `record` stands in the schema's own blob. */
static void *in_copy(const struct schema *s, uint8_t *copy, const void *record)
{
	return copy + ((const uint8_t *)record - s->blob);
}

int schema_amend(struct schema **schema, const struct proto_set *set,
		 const struct schema_limits *limits)
{
	const struct schema *s = *schema;
	struct schema *amended;
	struct blob_message *messages;
	struct blob_enum *enums;
	struct blob_field *fields;
	uint8_t *copy = malloc(s->blob_bytes);
	bool changed = false;
	int rc = 0;
	uint32_t i;

	if (!copy)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(copy, s->blob, s->blob_bytes);
	messages = in_copy(s, copy, s->blob_messages);
	fields = in_copy(s, copy, s->blob_fields);
	enums = in_copy(s, copy, s->blob_enums);
	for (i = 0; i < s->header->messages; i++)
		changed |= message_amend(s, i, &messages[i], fields, set);
	for (i = 0; i < s->header->enums; i++)
		changed |= enum_amend(s, &enums[i], set);
	if (changed) {
		rc = schema_parse(copy, s->blob_bytes, limits, &amended);
		if (rc == 0) {
			schema_destroy(*schema);
			*schema = amended;
		}
	}
	free(copy);
	return rc;
}
