/* Message types from descriptors alone: what protoc-c would have made of them, built at run time.
 *
 * protoc-c writes a struct of the base, then the members in the order of their declaration (those
 * of oneofs left out), each after its quantifier: a size_t for what is repeated, a 32-bit word for
 * an optional scalar, nothing for a string or sub-message, whose pointer says it, and nothing for
 * proto3. Then each oneof: a 32-bit case, and a union. The C compiler adds the padding. proto3
 * `optional`, which protoc-c 1.4.1 refuses, is laid out like proto2's.
 */
#include "linearize/linearize_internal.h"

#include "linearize/descriptor/descriptor.h"

#include <stdlib.h>

struct chunk {
	struct chunk *next;
	_Alignas(16) uint8_t mem[];
};

struct schema_types {
	const struct proto_set *set;
	struct chunk *chunks;
	ProtobufCMessageDescriptor *messages; /* by id */
	struct schema_message_info *infos;    /* by id */
	ProtobufCEnumDescriptor *enums;       /* in the order of enum_of */
	const struct proto_enum **enum_of;
	uint32_t enums_n, enums_room;
	struct schema_file_info *files; /* one for each syntax: 2, 3 */
	struct schema_message_info *by_syntax[2];
	struct schema_enum_info *enum_infos;
	bool failed;
};

/* Zeroed, freed with `t`; never NULL for good: `t->failed` is looked at in the end. */
static void *memory(struct schema_types *t, size_t n, size_t bytes)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk) + n * bytes + 1);

	if (!chunk) {
		t->failed = true;
		return NULL;
	}
	chunk->next = t->chunks;
	t->chunks = chunk;
	return chunk->mem;
}

/* --- Enums ---------------------------------------------------------------------------------------
 */

static int value_compare(const void *a, const void *b)
{
	const ProtobufCEnumValue *x = a, *y = b;

	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	/* Aliases: c_name is the place in the declaration until all are sorted. */
	return (x->c_name > y->c_name) - (x->c_name < y->c_name);
}

static int index_compare(const void *a, const void *b)
{
	return strcmp(((const ProtobufCEnumValueIndex *)a)->name,
		      ((const ProtobufCEnumValueIndex *)b)->name);
}

/* Runs of numbers that follow each other, with a last entry that holds the count. */
static unsigned ranges_fill(ProtobufCIntRange *ranges, unsigned n, const void *at, size_t stride)
{
	unsigned i, count = 0;
	int32_t last = 0;

	for (i = 0; i < n; i++) {
		int32_t number;

		memcpy(&number, (const uint8_t *)at + i * stride, sizeof(number));
		if (i == 0 || (int64_t)number != (int64_t)last + 1)
			ranges[count++] = (ProtobufCIntRange){number, i};
		last = number;
	}
	ranges[count] = (ProtobufCIntRange){0, n};
	return count;
}

static unsigned value_place(const ProtobufCEnumValue *values, unsigned n, int32_t number)
{
	unsigned low = 0, high = n;

	while (high - low > 1) {
		unsigned mid = low + (high - low) / 2;

		if (values[mid].value <= number)
			low = mid;
		else
			high = mid;
	}
	return low;
}

static void enum_make(struct schema_types *t, const struct proto_enum *e,
		      ProtobufCEnumDescriptor *out)
{
	ProtobufCEnumValue *values = memory(t, e->values_n, sizeof(*values));
	ProtobufCEnumValueIndex *names = memory(t, e->values_n, sizeof(*names));
	ProtobufCIntRange *ranges = memory(t, e->values_n + 1, sizeof(*ranges));
	unsigned i, n = 0;

	if (t->failed)
		return;
	for (i = 0; i < e->values_n; i++)
		values[i] = (ProtobufCEnumValue){
			e->values[i].name, (const char *)(uintptr_t)(i + 1), e->values[i].number};
	qsort(values, e->values_n, sizeof(*values), value_compare);
	for (i = 0; i < e->values_n; i++)
		if (n == 0 || values[n - 1].value != values[i].value)
			values[n++] = values[i];
	for (i = 0; i < n; i++)
		values[i].c_name = values[i].name;
	for (i = 0; i < e->values_n; i++)
		names[i] = (ProtobufCEnumValueIndex){e->values[i].name,
						     value_place(values, n, e->values[i].number)};
	qsort(names, e->values_n, sizeof(*names), index_compare);
	*out = (ProtobufCEnumDescriptor){
		.magic = PROTOBUF_C__ENUM_DESCRIPTOR_MAGIC,
		.name = e->full_name,
		.short_name = e->name,
		.c_name = e->name,
		.package_name = e->file->package,
		.n_values = n,
		.values = values,
		.n_value_names = e->values_n,
		.values_by_name = names,
		.value_ranges = ranges,
	};
	out->n_value_ranges = ranges_fill(ranges, n, &values[0].value, sizeof(*values));
}

static void enums_list(struct schema_types *t, const struct proto_enum *enums, uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n; i++) {
		if (t->enum_of)
			t->enum_of[t->enums_n] = &enums[i];
		t->enums_n++;
	}
}

static void enums_walk(struct schema_types *t)
{
	uint32_t i;

	t->enums_n = 0;
	for (i = 0; i < t->set->files_n; i++)
		enums_list(t, t->set->files[i].enums, t->set->files[i].enums_n);
	for (i = 0; i < t->set->messages_n; i++)
		enums_list(t, t->set->messages[i]->enums, t->set->messages[i]->enums_n);
}

static int enum_compare(const void *a, const void *b)
{
	const struct proto_enum *x = *(const struct proto_enum *const *)a;
	const struct proto_enum *y = *(const struct proto_enum *const *)b;

	return (x > y) - (x < y);
}

static const ProtobufCEnumDescriptor *enum_find(const struct schema_types *t,
						const struct proto_enum *e)
{
	const struct proto_enum **found =
		bsearch(&e, t->enum_of, t->enums_n, sizeof(const void *), enum_compare);

	return &t->enums[found - t->enum_of];
}

static void enums_make(struct schema_types *t)
{
	uint32_t i;

	enums_walk(t);
	t->enum_of = memory(t, t->enums_n, sizeof(const void *));
	t->enums = memory(t, t->enums_n, sizeof(*t->enums));
	t->enum_infos = memory(t, t->enums_n, sizeof(*t->enum_infos));
	if (t->failed)
		return;
	enums_walk(t);
	qsort(t->enum_of, t->enums_n, sizeof(const void *), enum_compare);
	for (i = 0; i < t->enums_n; i++) {
		enum_make(t, t->enum_of[i], &t->enums[i]);
		t->enum_infos[i] = (struct schema_enum_info){
			&t->enums[i], t->enum_of[i]->closed ? SCHEMA_ENUM_CLOSED : 0};
	}
}

/* --- Fields --------------------------------------------------------------------------------------
 */

#define P(name) [PROTO_##name] = PROTOBUF_C_TYPE_##name
static const uint8_t c_types[] = {P(DOUBLE),  P(FLOAT),   P(INT64), P(UINT64),   P(INT32),
				  P(FIXED64), P(FIXED32), P(BOOL),  P(STRING),   P(MESSAGE),
				  P(BYTES),   P(UINT32),  P(ENUM),  P(SFIXED32), P(SFIXED64),
				  P(SINT32),  P(SINT64)};

#define OPTION_PB_C_FIELD      1019 /* protobuf-c.proto: FieldOptions.pb_c_field */
#define OPTION_STRING_AS_BYTES 1

/* (pb_c_field).string_as_bytes, the one option of protobuf-c that changes a layout. */
static bool is_string_as_bytes(const struct proto_field *f)
{
	struct proto_bytes options = f->options, inner;
	struct proto_item item;
	bool as_bytes = false;

	while (proto_next(&options, &item) == 1)
		if (item.number == OPTION_PB_C_FIELD && item.wire == WIRE_LEN) {
			inner = item.bytes;
			while (proto_next(&inner, &item) == 1)
				if (item.number == OPTION_STRING_AS_BYTES && item.wire == 0)
					as_bytes = item.value != 0;
		}
	return as_bytes;
}

/* Groups have no place in protobuf-c: they stay unknown fields. */
static bool is_member(const struct proto_field *f)
{
	return f->type != PROTO_GROUP;
}

static bool is_oneof_member(const struct proto_field *f)
{
	return f->oneof && !f->oneof->synthetic;
}

static ProtobufCLabel label_of(const struct proto_field *f)
{
	if (f->label == PROTO_REPEATED)
		return PROTOBUF_C_LABEL_REPEATED;
	if (f->label == PROTO_REQUIRED)
		return PROTOBUF_C_LABEL_REQUIRED;
	return f->file->syntax == 3 && !f->proto3_optional ? PROTOBUF_C_LABEL_NONE
							   : PROTOBUF_C_LABEL_OPTIONAL;
}

/* What message_init would put there, where that is not zero. Members of a oneof have nothing until
 * they are chosen. protobuf-c takes a required field that has a default for given; an enum's first
 * value, which is its default without being said, must not do that. */
static const void *default_of(struct schema_types *t, const struct proto_field *f,
			      ProtobufCType type)
{
	ProtobufCLabel label = label_of(f);
	ProtobufCBinaryData *data;
	uint64_t *number;
	char *text;

	if (is_oneof_member(f))
		return NULL;
	/* Repeated ones too: protoc-c does so, and nobody looks. */
	if (type == PROTOBUF_C_TYPE_STRING && f->file->syntax == 3)
		return protobuf_c_empty_string;
	if (label == PROTOBUF_C_LABEL_REPEATED)
		return NULL;
	if (type == PROTOBUF_C_TYPE_STRING || type == PROTOBUF_C_TYPE_BYTES) {
		if (!f->has_default)
			return NULL;
		text = memory(t, f->default_bytes.len + 1, 1);
		data = memory(t, 1, sizeof(*data));
		if (t->failed)
			return NULL;
		if (f->default_bytes.len)
			memcpy(text, f->default_bytes.data, f->default_bytes.len);
		*data = (ProtobufCBinaryData){f->default_bytes.len, (uint8_t *)text};
		return type == PROTOBUF_C_TYPE_STRING ? (const void *)text : data;
	}
	if (!f->has_default && (type != PROTOBUF_C_TYPE_ENUM || f->default_number == 0 ||
				label == PROTOBUF_C_LABEL_REQUIRED))
		return NULL;
	number = memory(t, 1, sizeof(*number));
	if (number)
		*number = f->default_number;
	return number;
}

static unsigned place(unsigned *at, unsigned bytes)
{
	unsigned align = bytes == 4 ? 4 : 8, offset = (*at + align - 1) / align * align;

	*at = offset + bytes;
	return offset;
}

static void field_make(struct schema_types *t, const struct proto_field *f,
		       ProtobufCFieldDescriptor *out)
{
	*out = (ProtobufCFieldDescriptor){
		.name = f->name,
		.id = f->number,
		.label = label_of(f),
		.type = (ProtobufCType)c_types[f->type],
	};
	if (f->type == PROTO_STRING && is_string_as_bytes(f))
		out->type = PROTOBUF_C_TYPE_BYTES;
	if (f->type == PROTO_MESSAGE)
		out->descriptor = &t->messages[f->message->id];
	else if (f->type == PROTO_ENUM)
		out->descriptor = enum_find(t, f->enumeration);
	if (f->packed)
		out->flags |= PROTOBUF_C_FIELD_FLAG_PACKED;
	if (f->deprecated)
		out->flags |= PROTOBUF_C_FIELD_FLAG_DEPRECATED;
	if (is_oneof_member(f))
		out->flags |= PROTOBUF_C_FIELD_FLAG_ONEOF;
	out->default_value = default_of(t, f, out->type);
}

static void field_place(ProtobufCFieldDescriptor *f, unsigned *at)
{
	bool pointer = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE;

	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		f->quantifier_offset = place(at, 8);
	else if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !pointer)
		f->quantifier_offset = place(at, 4);
	f->offset = place(at, f->label == PROTOBUF_C_LABEL_REPEATED ? 8 : type_bytes[f->type]);
}

/* --- Messages ------------------------------------------------------------------------------------
 */

/* `made[i]` is the descriptor of m->fields[i]; NULL: no member. */
static size_t message_lay_out(const struct proto_message *m, ProtobufCFieldDescriptor *const *made)
{
	unsigned at = sizeof(ProtobufCMessage);
	uint32_t i, k;

	for (i = 0; i < m->fields_n; i++)
		if (made[i] && !is_oneof_member(&m->fields[i]))
			field_place(made[i], &at);
	for (i = 0; i < m->oneofs_n; i++) {
		const struct proto_oneof *o = &m->oneofs[i];
		unsigned bytes = 0, choice, offset;

		for (k = 0; k < o->fields_n; k++) {
			const ProtobufCFieldDescriptor *f = made[o->fields[k]->index];

			if (f && type_bytes[f->type] > bytes)
				bytes = type_bytes[f->type];
		}
		if (o->synthetic || bytes == 0)
			continue;
		choice = place(&at, 4);
		offset = place(&at, bytes);
		for (k = 0; k < o->fields_n; k++) {
			ProtobufCFieldDescriptor *f = made[o->fields[k]->index];

			if (f) {
				f->quantifier_offset = choice;
				f->offset = offset;
			}
		}
	}
	return align8(at);
}

static int name_compare(const void *a, const void *b)
{
	return strcmp((*(const ProtobufCFieldDescriptor *const *)a)->name,
		      (*(const ProtobufCFieldDescriptor *const *)b)->name);
}

/* protobuf_c_message_descriptor_get_field_by_name looks here. */
static const unsigned *names_sort(struct schema_types *t, const ProtobufCFieldDescriptor *fields,
				  unsigned n)
{
	const ProtobufCFieldDescriptor **sorted = memory(t, n, sizeof(void *));
	unsigned *by_name = memory(t, n, sizeof(*by_name)), i;

	if (t->failed)
		return NULL;
	for (i = 0; i < n; i++)
		sorted[i] = &fields[i];
	qsort(sorted, n, sizeof(void *), name_compare);
	for (i = 0; i < n; i++)
		by_name[i] = (unsigned)(sorted[i] - fields);
	return by_name;
}

static uint32_t field_flags(const struct proto_field *f)
{
	uint32_t flags = f->utf8 ? SCHEMA_FIELD_UTF8 : 0;

	return f->proto3_optional ? flags | SCHEMA_FIELD_OPTIONAL : flags;
}

static void message_make(struct schema_types *t, const struct proto_message *m)
{
	ProtobufCMessageDescriptor *d = &t->messages[m->id];
	ProtobufCFieldDescriptor *fields = memory(t, m->fields_n, sizeof(*fields));
	ProtobufCFieldDescriptor **made = memory(t, m->fields_n, sizeof(void *));
	ProtobufCIntRange *ranges = memory(t, m->fields_n + 1, sizeof(*ranges));
	struct schema_field_info *infos = memory(t, m->fields_n, sizeof(*infos));
	unsigned i, n = 0;

	if (t->failed)
		return;
	for (i = 0; i < m->fields_n; i++) {
		const struct proto_field *f = m->by_number[i];

		if (!is_member(f))
			continue;
		field_make(t, f, &fields[n]);
		infos[n] = (struct schema_field_info){f->number, field_flags(f), f->json_name};
		made[f->index] = &fields[n++];
	}
	*d = (ProtobufCMessageDescriptor){
		.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
		.name = m->full_name,
		.short_name = m->name,
		.c_name = m->name,
		.package_name = m->file->package,
		.sizeof_message = message_lay_out(m, made),
		.n_fields = n,
		.fields = fields,
		.fields_sorted_by_name = names_sort(t, fields, n),
		.field_ranges = ranges,
	};
	d->n_field_ranges = n ? ranges_fill(ranges, n, &fields[0].id, sizeof(*fields)) : 0;
	t->infos[m->id] = (struct schema_message_info){
		d, m->map_entry ? SCHEMA_MESSAGE_MAP_ENTRY : 0, n, infos};
}

/* Two files for the builder: all types of proto2, all types of proto3. */
static void infos_sort(struct schema_types *t)
{
	uint32_t i, k;

	t->files = memory(t, 2, sizeof(*t->files));
	for (k = 0; k < 2; k++)
		t->by_syntax[k] = memory(t, t->set->messages_n, sizeof(struct schema_message_info));
	if (t->failed)
		return;
	for (k = 0; k < 2; k++) {
		t->files[k] = (struct schema_file_info){
			.name = "", .syntax = k ? SCHEMA_SYNTAX_PROTO3 : SCHEMA_SYNTAX_PROTO2};
		t->files[k].messages = t->by_syntax[k];
		for (i = 0; i < t->set->messages_n; i++)
			if (t->set->messages[i]->file->syntax == 2 + k)
				t->by_syntax[k][t->files[k].messages_n++] = t->infos[i];
	}
	t->files[0].enums = t->enum_infos;
	t->files[0].enums_n = t->enums_n;
}

int schema_types_create(const struct proto_set *set, struct schema_types **out)
{
	struct schema_types *t = calloc(1, sizeof(*t));
	uint32_t i;

	if (!t)
		return -SPLIT_E_BASE_NOMEM;
	t->set = set;
	t->messages = memory(t, set->messages_n, sizeof(*t->messages));
	t->infos = memory(t, set->messages_n, sizeof(*t->infos));
	if (!t->failed)
		enums_make(t);
	for (i = 0; !t->failed && i < set->messages_n; i++)
		message_make(t, set->messages[i]);
	if (!t->failed)
		infos_sort(t);
	if (t->failed) {
		schema_types_destroy(t);
		return -SPLIT_E_BASE_NOMEM;
	}
	*out = t;
	return 0;
}

void schema_types_destroy(struct schema_types *t)
{
	if (!t)
		return;
	while (t->chunks) {
		struct chunk *next = t->chunks->next;

		free(t->chunks);
		t->chunks = next;
	}
	free(t);
}

const ProtobufCMessageDescriptor *schema_types_message(const struct schema_types *t,
						       const char *name)
{
	const struct proto_message *m = proto_message_find(t->set, name);

	return m ? &t->messages[m->id] : NULL;
}

int schema_types_compile(const struct schema_types *t, const struct schema_limits *limits,
			 struct schema **out)
{
	struct schema_builder *b;
	struct schema_blob blob = {0};
	uint32_t i;
	int rc = schema_builder_create(&b);

	if (rc)
		return rc;
	for (i = 0; rc == 0 && i < 2; i++)
		rc = schema_builder_add_info(b, &t->files[i]);
	for (i = 0; rc == 0 && i < t->set->messages_n; i++)
		rc = schema_builder_add(b, &t->messages[i], NULL);
	if (rc == 0)
		rc = schema_builder_finish(b, &blob);
	schema_builder_destroy(b);
	if (rc == 0)
		rc = schema_parse(blob.bytes, blob.len, limits, out);
	free(blob.bytes);
	return rc;
}
