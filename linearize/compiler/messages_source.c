/* .pb-c.c: descriptors and helpers, as libprotobuf-c's runtime wants them. */
#include "linearize/compiler/compiler_internal.h"
#include "linearize/compiler/messages.h"

#include <stdlib.h>

/* put() takes its text in several pieces.
 * NOLINTBEGIN(bugprone-suspicious-missing-comma) */

const char *file_name_for_comment(struct compiler *c, const struct proto_file *f)
{
	char *s = (char *)(uintptr_t)str(c, "%s", f->name);

	for (char *p = s; *p; p++)
		if ((uint8_t)*p < ' ' || (uint8_t)*p > '~' || *p == '*')
			*p = '?';
	return s;
}

static const char *number(struct compiler *c, uint32_t v)
{
	return str(c, "%u", v);
}

/* --- Helpers -------------------------------------------------------------------------------- */

static void helpers_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	const char *class = name_class(c, m->full_name), *low = name_lower(c, m->full_name);

	for (uint32_t i = 0; i < m->messages_n; i++)
		helpers_put(c, t, &m->messages[i]);
	put(t,
	    "void   $1__init\n"
	    "                     ($0         *message)\n"
	    "{\n"
	    "  static const $0 init_value = $2__INIT;\n"
	    "  *message = init_value;\n"
	    "}\n",
	    class, low, name_upper(c, m->full_name));
	if (m->parent)
		return;
	put(t,
	    "size_t $1__get_packed_size\n"
	    "                     (const $0 *message)\n"
	    "{\n"
	    "  assert(message->$2.descriptor == &$1__descriptor);\n"
	    "  return protobuf_c_message_get_packed_size ((const ProtobufCMessage*)(message));\n"
	    "}\n"
	    "size_t $1__pack\n"
	    "                     (const $0 *message,\n"
	    "                      uint8_t       *out)\n"
	    "{\n"
	    "  assert(message->$2.descriptor == &$1__descriptor);\n"
	    "  return protobuf_c_message_pack ((const ProtobufCMessage*)message, out);\n"
	    "}\n"
	    "size_t $1__pack_to_buffer\n"
	    "                     (const $0 *message,\n"
	    "                      ProtobufCBuffer *buffer)\n"
	    "{\n"
	    "  assert(message->$2.descriptor == &$1__descriptor);\n"
	    "  return protobuf_c_message_pack_to_buffer ((const ProtobufCMessage*)message, "
	    "buffer);\n"
	    "}\n"
	    "$0 *\n"
	    "       $1__unpack\n"
	    "                     (ProtobufCAllocator  *allocator,\n"
	    "                      size_t               len,\n"
	    "                      const uint8_t       *data)\n"
	    "{\n"
	    "  return ($0 *)\n"
	    "     protobuf_c_message_unpack (&$1__descriptor,\n"
	    "                                allocator, len, data);\n"
	    "}\n"
	    "void   $1__free_unpacked\n"
	    "                     ($0 *message,\n"
	    "                      ProtobufCAllocator *allocator)\n"
	    "{\n"
	    "  if (!message)\n"
	    "    return;\n"
	    "  assert(message->$2.descriptor == &$1__descriptor);\n"
	    "  protobuf_c_message_free_unpacked ((ProtobufCMessage*)message, allocator);\n"
	    "}\n",
	    class, low, "base");
}

/* --- Fields --------------------------------------------------------------------------------- */

static const char *const type_names[] = {
	[PROTO_DOUBLE] = "DOUBLE",   [PROTO_FLOAT] = "FLOAT",       [PROTO_INT64] = "INT64",
	[PROTO_UINT64] = "UINT64",   [PROTO_INT32] = "INT32",       [PROTO_FIXED64] = "FIXED64",
	[PROTO_FIXED32] = "FIXED32", [PROTO_BOOL] = "BOOL",         [PROTO_STRING] = "STRING",
	[PROTO_MESSAGE] = "MESSAGE", [PROTO_BYTES] = "BYTES",       [PROTO_UINT32] = "UINT32",
	[PROTO_ENUM] = "ENUM",       [PROTO_SFIXED32] = "SFIXED32", [PROTO_SFIXED64] = "SFIXED64",
	[PROTO_SINT32] = "SINT32",   [PROTO_SINT64] = "SINT64",
};

static void default_put(struct compiler *c, struct text *t, const struct proto_field *f)
{
	const char *name = default_name(c, f), *type = field_c_type(c, f);

	if (f->type == PROTO_STRING) {
		put(t, "char $0[] = $1;\n", name, c_string(c, f->default_bytes));
	} else if (f->type == PROTO_BYTES) {
		put(t, "uint8_t $0_data[] = $1;\n", name, c_string(c, f->default_bytes));
		put(t, "static const ProtobufCBinaryData $0 = { $1, $0_data };\n", name,
		    str(c, "%zu", f->default_bytes.len));
	} else {
		put(t, "static const $0 $1 = $2;\n", type, name, field_literal(c, f));
	}
}

static const char *field_label(const struct proto_field *f)
{
	if (f->label == PROTO_REPEATED)
		return "REPEATED";
	if (f->label == PROTO_REQUIRED)
		return "REQUIRED";
	return f->file->syntax == 3 && !f->proto3_optional ? "NONE" : "OPTIONAL";
}

static const char *field_quantifier(struct compiler *c, const struct proto_field *f,
				    const char *class)
{
	if (f->label == PROTO_REPEATED)
		return str(c, "offsetof(%s, n_%s)", class, name_field(c, f));
	if (field_in_union(f))
		return str(c, "offsetof(%s, %s_case)", class, name_oneof(c, f->oneof));
	if (field_has_has(f))
		return str(c, "offsetof(%s, has_%s)", class, name_field(c, f));
	return "0";
}

static void field_put(struct compiler *c, struct text *t, const struct proto_field *f,
		      const char *class)
{
	const char *descriptor = "NULL", *value = "NULL", *flags = "0";

	if (f->message)
		descriptor = str(c, "&%s__descriptor", name_lower(c, f->message->full_name));
	else if (f->enumeration)
		descriptor = str(c, "&%s__descriptor", name_lower(c, f->enumeration->full_name));
	if (f->has_default)
		value = str(c, "&%s", default_name(c, f));
	else if (f->file->syntax == 3 && f->type == PROTO_STRING)
		value = "&protobuf_c_empty_string";
	if (f->packed)
		flags = str(c, "%s | PROTOBUF_C_FIELD_FLAG_PACKED", flags);
	if (f->deprecated)
		flags = str(c, "%s | PROTOBUF_C_FIELD_FLAG_DEPRECATED", flags);
	if (field_in_union(f))
		flags = str(c, "%s | PROTOBUF_C_FIELD_FLAG_ONEOF", flags);
	put(t,
	    "  {\n"
	    "    \"$0\",\n"
	    "    $1,\n"
	    "    PROTOBUF_C_LABEL_$2,\n"
	    "    PROTOBUF_C_TYPE_$3,\n"
	    "    $4, /* quantifier_offset */\n",
	    f->name, number(c, f->number), field_label(f), type_names[f->type],
	    field_quantifier(c, f, class));
	put(t,
	    "    offsetof($0, $1),\n"
	    "    $2,\n"
	    "    $3,\n"
	    "    $4, /* flags */\n"
	    "    0,NULL,NULL /* reserved */\n"
	    "  },\n",
	    class, name_field(c, f), descriptor, value, flags);
}

struct named {
	const char *name;
	uint32_t index;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* Ranges of numbers without a gap: where each begins, and the index of its first element. */
static uint32_t ranges_put(struct compiler *c, struct text *t, const char *name,
			   const int32_t *numbers, uint32_t n)
{
	uint32_t ranges = 0;

	put(t, "static const ProtobufCIntRange $0[] =\n{\n", name);
	for (uint32_t i = 0; i < n; i++) {
		if (i > 0 && (int64_t)numbers[i - 1] + 1 == numbers[i])
			continue;
		put(t, "  { $0, $1 },\n", int32_literal(c, numbers[i]), number(c, i));
		ranges++;
	}
	put(t, "  { 0, $0 }\n};\n", number(c, n));
	return ranges;
}

/* Tables of a message's members; how many there are. */
static uint32_t fields_put(struct compiler *c, struct text *t, const struct proto_message *m,
			   uint32_t *ranges_out)
{
	const char *class = name_class(c, m->full_name), *low = name_lower(c, m->full_name);
	struct named *named = scratch_get(c, (m->fields_n + 1) * sizeof(*named));
	int32_t *numbers = scratch_get(c, (m->fields_n + 1) * sizeof(*numbers));
	uint32_t n = 0;

	for (uint32_t i = 0; named && numbers && i < m->fields_n; i++) {
		const struct proto_field *f = m->by_number[i];

		if (!field_is_member(f))
			continue;
		if (n == 0)
			put(t,
			    "static const ProtobufCFieldDescriptor $0__field_descriptors[] =\n{\n",
			    low);
		field_put(c, t, f, class);
		named[n] = (struct named){f->name, n};
		numbers[n++] = (int32_t)f->number;
	}
	if (n == 0)
		return 0;
	put(t, "};\nstatic const unsigned $0__field_indices_by_name[] = {\n", low);
	qsort(named, n, sizeof(*named), by_name);
	for (uint32_t i = 0; i < n; i++)
		put(t, "  $0,   /* field[$0] = $1 */\n", number(c, named[i].index), named[i].name);
	put(t, "};\n");
	*ranges_out = ranges_put(c, t, str(c, "%s__number_ranges", low), numbers, n);
	return n;
}

static void enum_put(struct compiler *c, struct text *t, const struct proto_enum *e);

static void message_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	const char *class = name_class(c, m->full_name), *low = name_lower(c, m->full_name);
	uint32_t n, ranges = 0;

	for (uint32_t i = 0; i < m->messages_n; i++)
		message_put(c, t, &m->messages[i]);
	for (uint32_t i = 0; i < m->enums_n; i++)
		enum_put(c, t, &m->enums[i]);
	for (uint32_t i = 0; i < m->fields_n; i++)
		if (m->fields[i].has_default)
			default_put(c, t, &m->fields[i]);
	n = fields_put(c, t, m, &ranges);
	put(t,
	    "const ProtobufCMessageDescriptor $0__descriptor =\n"
	    "{\n"
	    "  PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,\n"
	    "  \"$1\",\n"
	    "  \"$2\",\n"
	    "  \"$3\",\n"
	    "  \"$4\",\n"
	    "  sizeof($3),\n",
	    low, m->full_name, name_camel(c, m->name), class, m->file->package);
	if (n > 0)
		put(t,
		    "  $1,\n"
		    "  $0__field_descriptors,\n"
		    "  $0__field_indices_by_name,\n"
		    "  $2,  $0__number_ranges,\n",
		    low, number(c, n), number(c, ranges));
	else
		put(t, "  0,\n  NULL,\n  NULL,\n  0,  NULL,\n");
	put(t,
	    "  (ProtobufCMessageInit) $0__init,\n"
	    "  NULL,NULL,NULL    /* reserved[123] */\n"
	    "};\n",
	    low);
}

/* --- Enums ---------------------------------------------------------------------------------- */

static int by_number_then_index(const void *a, const void *b)
{
	const struct proto_value *const *x = a, *const *y = b;

	if ((*x)->number != (*y)->number)
		return (*x)->number < (*y)->number ? -1 : 1;
	return *x < *y ? -1 : *x > *y;
}

static void enum_put(struct compiler *c, struct text *t, const struct proto_enum *e)
{
	const char *low = name_lower(c, e->full_name), *up = name_upper(c, e->full_name);
	const struct proto_value **sorted = scratch_get(c, e->values_n * sizeof(void *));
	struct named *named = scratch_get(c, e->values_n * sizeof(*named));
	int32_t *numbers = scratch_get(c, e->values_n * sizeof(*numbers));
	uint32_t n = 0, ranges;

	if (!sorted || !named || !numbers)
		return;
	for (uint32_t i = 0; i < e->values_n; i++)
		sorted[i] = &e->values[i];
	qsort(sorted, e->values_n, sizeof(void *), by_number_then_index);
	put(t, "static const ProtobufCEnumValue $0__enum_values_by_number[] =\n{\n", low);
	for (uint32_t i = 0; i < e->values_n; i++) {
		if (n == 0 || numbers[n - 1] != sorted[i]->number) {
			put(t, "  { \"$0\", \"$1__$0\", $2 },\n", sorted[i]->name, up,
			    int32_literal(c, sorted[i]->number));
			numbers[n++] = sorted[i]->number;
		}
		named[i] = (struct named){sorted[i]->name, n - 1};
	}
	put(t, "};\n");
	ranges = ranges_put(c, t, str(c, "%s__value_ranges", low), numbers, n);
	qsort(named, e->values_n, sizeof(*named), by_name);
	put(t, "static const ProtobufCEnumValueIndex $0__enum_values_by_name[] =\n{\n", low);
	for (uint32_t i = 0; i < e->values_n; i++)
		put(t, "  { \"$0\", $1 },\n", named[i].name, number(c, named[i].index));
	put(t,
	    "};\n"
	    "const ProtobufCEnumDescriptor $0__descriptor =\n"
	    "{\n"
	    "  PROTOBUF_C__ENUM_DESCRIPTOR_MAGIC,\n"
	    "  \"$1\",\n"
	    "  \"$2\",\n"
	    "  \"$3\",\n"
	    "  \"$4\",\n",
	    low, e->full_name, e->name, name_class(c, e->full_name), e->file->package);
	put(t,
	    "  $1,\n"
	    "  $0__enum_values_by_number,\n"
	    "  $2,\n"
	    "  $0__enum_values_by_name,\n"
	    "  $3,\n"
	    "  $0__value_ranges,\n"
	    "  NULL,NULL,NULL,NULL   /* reserved[1234] */\n"
	    "};\n",
	    low, number(c, n), number(c, e->values_n), number(c, ranges));
}

void messages_source(struct compiler *c, struct text *t)
{
	const struct proto_file *f = c->file;

	put(t,
	    "/* Generated by protoc-gen-split. DO NOT EDIT! */\n"
	    "/* Generated from: $0 */\n\n"
	    "/* Do not generate deprecated warnings for self */\n"
	    "#ifndef PROTOBUF_C__NO_DEPRECATED\n"
	    "#define PROTOBUF_C__NO_DEPRECATED\n"
	    "#endif\n\n"
	    "#include \"$1.pb-c.h\"\n",
	    file_name_for_comment(c, f), name_stem(c, f));
	for (uint32_t i = 0; i < f->messages_n; i++)
		helpers_put(c, t, &f->messages[i]);
	for (uint32_t i = 0; i < f->messages_n; i++)
		message_put(c, t, &f->messages[i]);
	for (uint32_t i = 0; i < f->enums_n; i++)
		enum_put(c, t, &f->enums[i]);
	for (uint32_t i = 0; i < f->services_n; i++)
		service_source(c, t, &f->services[i]);
}

/* NOLINTEND(bugprone-suspicious-missing-comma) */
