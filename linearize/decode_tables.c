/* The tables of the fast decode engine: by field number, what to do. */
#include "linearize/decode_ops.h"

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
		out->sub.message = f->sub.message;
	if (f->flags & FIELD_ENUM_CLOSED) {
		kind = KIND_ENUM;
		out->sub.enumeration = f->sub.enumeration;
	}
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

void fast_compile(struct schema_message *m, struct fast_field *table)
{
	uint32_t i;

	m->fast_room = m->alloc_bytes + FAST_IMAGE_SLACK;
	if (m->required_count || m->struct_bytes >= LINEAR_UNIT_BYTES)
		m->fast_room = INT32_MAX;

	for (i = 0; i < m->fast_count; i++)
		table[i].tag = FAST_TAG_NONE;
	for (i = 0; i < m->field_count; i++) {
		const struct schema_field *f = &m->fields[i];

		/* Packed numbers are not looked at one by one. */
		if (f->flags & FIELD_ENUM_CLOSED && f->flags & FIELD_PACKED)
			continue;
		if (f->number < m->fast_count)
			compile_one(m, f, &table[f->number]);
	}
}
