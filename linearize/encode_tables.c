/* The rows of fields that encode_fast.c walks. */
#include "linearize/encode_ops.h"
#include "linearize/linearize_internal.h"

static const uint8_t kinds[TYPE_COUNT] = {
	[PROTOBUF_C_TYPE_INT32] = KIND_I32,       [PROTOBUF_C_TYPE_SINT32] = KIND_Z32,
	[PROTOBUF_C_TYPE_SFIXED32] = KIND_F32,    [PROTOBUF_C_TYPE_INT64] = KIND_V64,
	[PROTOBUF_C_TYPE_SINT64] = KIND_Z64,      [PROTOBUF_C_TYPE_SFIXED64] = KIND_F64,
	[PROTOBUF_C_TYPE_UINT32] = KIND_U32,      [PROTOBUF_C_TYPE_FIXED32] = KIND_F32,
	[PROTOBUF_C_TYPE_UINT64] = KIND_V64,      [PROTOBUF_C_TYPE_FIXED64] = KIND_F64,
	[PROTOBUF_C_TYPE_FLOAT] = KIND_FLOAT,     [PROTOBUF_C_TYPE_DOUBLE] = KIND_DOUBLE,
	[PROTOBUF_C_TYPE_BOOL] = KIND_BOOL,       [PROTOBUF_C_TYPE_ENUM] = KIND_I32,
	[PROTOBUF_C_TYPE_STRING] = KIND_STRING,   [PROTOBUF_C_TYPE_BYTES] = KIND_BYTES,
	[PROTOBUF_C_TYPE_MESSAGE] = KIND_MESSAGE,
};

/* What its default's address could mean is left to the generic engine, unless it is NULL, the empty
 * string, or "not there". */
static bool has_own_default(const struct schema_message *m, const struct schema_field *f,
			    unsigned presence)
{
	if (f->default_address == 0)
		return false;
	if (f->type != PROTOBUF_C_TYPE_STRING)
		return true;
	return presence != POINTER && presence != ONEOF && f->default_address != m->empty_string;
}

static unsigned compile_op(const struct schema_message *m, const struct schema_field *f)
{
	unsigned presence = ALWAYS;

	if (f->tag_bytes > 4)
		return OP_SLOW;
	if (f->card == CARD_REPEATED && f->flags & FIELD_PACKED)
		return f->wire == WIRE_VARINT ? OP_PACKED : OP_PACKED_FIXED;
	if (f->card == CARD_REPEATED)
		presence = ELEMENT;
	else if (f->card == CARD_ONEOF)
		presence = ONEOF;
	else if (f->card == CARD_HAS)
		presence = HAS;
	else if (f->flags & FIELD_OPTIONAL)
		presence = POINTER;
	else if (f->flags & FIELD_NONE)
		presence = NONZERO;
	return has_own_default(m, f, presence) ? OP_SLOW : OP(kinds[f->type], presence);
}

void fast_encode_compile(struct schema_message *m, struct encode_field *row)
{
	uint32_t i;

	*row++ = (struct encode_field){.op = OP_BEGIN, .index = ENCODE_ROW_BEGIN};
	for (i = 0; i < m->field_count; i++, row++) {
		const struct schema_field *f = &m->fields[i];

		*row = (struct encode_field){
			.op = (uint8_t)compile_op(m, f),
			.tag_bytes = f->tag_bytes,
			.short_header_bytes = (uint8_t)(f->tag_bytes + 1),
			.type = f->type,
			.offset = f->offset,
			.presence_at = f->quantifier,
			.number = f->number,
			.index = i,
		};
		if (f->type == PROTOBUF_C_TYPE_MESSAGE)
			row->sub.message = f->sub.message;
		else
			row->sub.absent = f->default_address;
		if (f->tag_bytes <= 4)
			memcpy((uint8_t *)&row->tag_high + 4 - f->tag_bytes, f->tag, f->tag_bytes);
	}
	m->encode_end = row;
}
