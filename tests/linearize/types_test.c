/* Types made from a descriptor set alone against what protoc-c made of the same files: structs,
 * descriptors and defaults must be equal, and messages of them must behave alike.
 * usage: types_test SET [messages per type] */
#include "linearize/descriptor/descriptor.h"
#include "linearize/split-schema.h"
#include "tests/linearize/support.h"

#include "gen_table.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *where;

#define SAME(what, a, b)                                                                           \
	do {                                                                                       \
		long long one = (long long)(a), other = (long long)(b);                            \
		if (one != other) {                                                                \
			fprintf(stderr, "%s: %s: protoc-c has %lld, we have %lld\n", where, what,  \
				one, other);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static void text_same(const char *what, const char *a, const char *b)
{
	if (strcmp(a, b) != 0) {
		fprintf(stderr, "%s: %s: protoc-c has %s, we have %s\n", where, what, a, b);
		abort();
	}
}

static void enum_same(const ProtobufCEnumDescriptor *a, const ProtobufCEnumDescriptor *b)
{
	unsigned i;

	text_same("enum", a->name, b->name);
	SAME("values", a->n_values, b->n_values);
	for (i = 0; i < a->n_values; i++) {
		SAME("value", a->values[i].value, b->values[i].value);
		text_same("value", a->values[i].name, b->values[i].name);
	}
	SAME("value names", a->n_value_names, b->n_value_names);
	for (i = 0; i < a->n_value_names; i++) {
		text_same("value name", a->values_by_name[i].name, b->values_by_name[i].name);
		SAME("value index", a->values_by_name[i].index, b->values_by_name[i].index);
	}
	SAME("ranges", a->n_value_ranges, b->n_value_ranges);
	for (i = 0; i <= a->n_value_ranges; i++) {
		SAME("range start", a->value_ranges[i].start_value, b->value_ranges[i].start_value);
		SAME("range index", a->value_ranges[i].orig_index, b->value_ranges[i].orig_index);
	}
}

/* An enum's first value is its default without the descriptor's saying so, and members of a oneof
 * have none before they are chosen: the only two differences. */
static void default_same(const ProtobufCFieldDescriptor *a, const ProtobufCFieldDescriptor *b)
{
	const ProtobufCBinaryData *x = a->default_value, *y = b->default_value;

	if (a->flags & PROTOBUF_C_FIELD_FLAG_ONEOF ||
	    (a->type == PROTOBUF_C_TYPE_ENUM && !a->default_value))
		return;
	SAME("default", a->default_value != NULL, b->default_value != NULL);
	if (!a->default_value)
		return;
	if (a->type == PROTOBUF_C_TYPE_STRING) {
		text_same("default", a->default_value, b->default_value);
	} else if (a->type == PROTOBUF_C_TYPE_BYTES) {
		SAME("default's length", x->len, y->len);
		SAME("default", memcmp(x->data, y->data, x->len), 0);
	} else {
		size_t bytes = a->type == PROTOBUF_C_TYPE_DOUBLE ||
					       a->type == PROTOBUF_C_TYPE_INT64 ||
					       a->type == PROTOBUF_C_TYPE_UINT64 ||
					       a->type == PROTOBUF_C_TYPE_SINT64 ||
					       a->type == PROTOBUF_C_TYPE_FIXED64 ||
					       a->type == PROTOBUF_C_TYPE_SFIXED64
				       ? 8
				       : 4;

		SAME("default", memcmp(a->default_value, b->default_value, bytes), 0);
	}
}

static void message_same(const ProtobufCMessageDescriptor *a, const ProtobufCMessageDescriptor *b)
{
	unsigned i;

	where = a->name;
	if (!b) {
		fprintf(stderr, "%s: not in the set\n", where);
		abort();
	}
	text_same("name", a->name, b->name);
	text_same("package", a->package_name, b->package_name);
	SAME("sizeof", a->sizeof_message, b->sizeof_message);
	SAME("fields", a->n_fields, b->n_fields);
	for (i = 0; i < a->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &a->fields[i], *g = &b->fields[i];

		where = f->name;
		text_same("field", f->name, g->name);
		SAME("number", f->id, g->id);
		SAME("label", f->label, g->label);
		SAME("type", f->type, g->type);
		SAME("flags", f->flags, g->flags);
		SAME("offset", f->offset, g->offset);
		SAME("quantifier", f->quantifier_offset, g->quantifier_offset);
		if (f->type == PROTOBUF_C_TYPE_ENUM)
			enum_same(f->descriptor, g->descriptor);
		else if (f->type == PROTOBUF_C_TYPE_MESSAGE)
			text_same("type", ((const ProtobufCMessageDescriptor *)f->descriptor)->name,
				  ((const ProtobufCMessageDescriptor *)g->descriptor)->name);
		default_same(f, g);
		SAME("by name", a->fields_sorted_by_name[i], b->fields_sorted_by_name[i]);
	}
	where = a->name;
	SAME("ranges", a->n_field_ranges, b->n_field_ranges);
	for (i = 0; a->n_fields && i <= a->n_field_ranges; i++) {
		SAME("range start", a->field_ranges[i].start_value, b->field_ranges[i].start_value);
		SAME("range index", a->field_ranges[i].orig_index, b->field_ranges[i].orig_index);
	}
}

/* What an empty message is, without message_init: each member as protoc-c's init leaves it. */
static void empty_same(const ProtobufCMessageDescriptor *d, const struct schema_message *m)
{
	ProtobufCMessage *reference = protobuf_c_message_unpack(d, NULL, 0, NULL);
	struct arena a;
	struct linear_target target;
	char why[200];
	uint64_t root;
	int rc;

	arena_init(&a, CHUNK_EXACT);
	target = arena_target(&a);
	rc = decode_all(m, NULL, 0, &target, unlimited, &root, NULL);
	SAME("empty message", reference != NULL, rc == 0);
	if (reference && !message_equal(reference, (const ProtobufCMessage *)root, 0, why)) {
		fprintf(stderr, "%s: empty message: %s\n", d->name, why);
		abort();
	}
	if (reference)
		protobuf_c_message_free_unpacked(reference, NULL);
	arena_fini(&a);
}

static void type_behaves(const ProtobufCMessageDescriptor *d, const struct schema_message *m,
			 uint64_t messages, uint64_t seed, struct check_counts *counts)
{
	struct random r;
	uint64_t i;

	random_seed(&r, seed);
	for (i = 0; i < messages; i++) {
		struct wire w;

		random_wire(&r, d, i % 2 == 0, &w);
		check_input(d->name, &r, d, m, &w, counts);
		random_mutate(&r, &w);
		check_input(d->name, &r, d, m, &w, counts);
		free(w.bytes);
	}
}

static void *file_read(const char *path, size_t *len_out)
{
	FILE *file = fopen(path, "rbe");
	char *bytes = malloc(1 << 22);

	if (!file || !bytes) {
		perror(path);
		exit(2);
	}
	*len_out = fread(bytes, 1, 1 << 22, file);
	fclose(file);
	return bytes;
}

/* What `amended` says of a message is what the schema that knew it all says. */
static void amended_same(const struct schema_message *amended, const struct schema_message *known)
{
	struct schema_field_view a, b;
	uint32_t i;

	SAME("amended: syntax", schema_message_syntax(known), schema_message_syntax(amended));
	SAME("amended: flags", schema_message_flags(known), schema_message_flags(amended));
	SAME("amended: fields", schema_field_count(known), schema_field_count(amended));
	for (i = 0; i < schema_field_count(known); i++) {
		schema_field_at(known, i, &a);
		schema_field_at(amended, i, &b);
		SAME("amended: field", a.number, b.number);
		SAME("amended: field flags", a.flags, b.flags);
		if (a.type == PROTOBUF_C_TYPE_ENUM)
			SAME("amended: closed", schema_enum_is_closed(a.enumeration),
			     schema_enum_is_closed(b.enumeration));
	}
}

/* protoc-c's descriptors alone, then with what the set says of them: as if protoc-gen-split had
 * written their tables. */
static void amend_check(const struct proto_set *set, const struct schema *known,
			const ProtobufCMessageDescriptor *const *all, size_t n)
{
	struct schema_builder *builder;
	struct schema_blob blob;
	struct schema *plain, *amended, *again;
	unsigned differ = 0;
	size_t i;

	where = "amend";
	if (schema_builder_create(&builder) != 0)
		abort();
	for (i = 0; i < n; i++)
		if (schema_builder_add(builder, all[i], NULL) != 0)
			abort();
	if (schema_builder_finish(builder, &blob) != 0 ||
	    schema_parse(blob.bytes, blob.len, NULL, &plain) != 0 ||
	    schema_parse(blob.bytes, blob.len, NULL, &amended) != 0 ||
	    schema_parse(blob.bytes, blob.len, NULL, &again) != 0 ||
	    schema_amend(&amended, set, NULL) != 0 || schema_amend(&again, set, NULL) != 0)
		abort();
	for (i = 0; i < schema_message_count(amended); i++) {
		const struct schema_message *m = schema_message_at(amended, (uint32_t)i);

		where = schema_message_name(m);
		amended_same(m, schema_message_find(known, where));
		differ += schema_message_syntax(m) !=
			  schema_message_syntax(schema_message_at(plain, (uint32_t)i));
	}
	where = "amend";
	SAME("amended alike", schema_equal(amended, again), true);
	SAME("not amended", schema_equal(amended, plain), false);
	SAME("some had no syntax", differ > 0, true);
	schema_destroy(plain);
	schema_destroy(amended);
	schema_destroy(again);
	schema_builder_destroy(builder);
	free(blob.bytes);
}

int main(int argc, char **argv)
{
	uint64_t messages = argc > 2 ? strtoull(argv[2], NULL, 0) : 60;
	struct check_counts counts = {0};
	struct proto_finding finding;
	struct schema_types *types;
	struct proto_set *set;
	struct schema *schema;
	size_t len, i;
	void *bytes = file_read(argc > 1 ? argv[1] : "", &len);
	const ProtobufCMessageDescriptor *all[sizeof(roots) / sizeof(roots[0]) + 2];
	size_t n = sizeof(roots) / sizeof(roots[0]);

	memcpy(all, roots, sizeof(roots));
	all[n++] = &unit2__defaults__descriptor;
	all[n++] = &unit3__all__descriptor;
	if (proto_set_parse(bytes, len, NULL, &set, &finding) != 0) {
		fprintf(stderr, "%s: %s: %s\n", finding.file, finding.element, finding.text);
		return 1;
	}
	free(bytes);
	if (schema_types_create(set, &types) != 0 ||
	    schema_types_compile(types, NULL, &schema) != 0) {
		fprintf(stderr, "no types\n");
		return 1;
	}
	for (i = 0; i < n; i++) {
		const ProtobufCMessageDescriptor *made = schema_types_message(types, all[i]->name);
		const struct schema_message *m = schema_message_find(schema, all[i]->name);
		uint32_t k;

		message_same(all[i], made);
		for (k = 0; k < made->n_fields; k++)
			if (made->fields[k].type == PROTOBUF_C_TYPE_MESSAGE)
				message_same(all[i]->fields[k].descriptor,
					     made->fields[k].descriptor);
		empty_same(made, m);
		quirks_enums_closed = schema_message_syntax(m) == SCHEMA_SYNTAX_PROTO2;
		type_behaves(made, m, messages, i, &counts);
	}
	amend_check(set, schema, all, n);
	printf("%zu types, %u inputs: %u accepted, %u refused\n", n, counts.inputs, counts.accepted,
	       counts.refused);
	schema_destroy(schema);
	schema_types_destroy(types);
	proto_set_destroy(set);
	return counts.accepted > counts.inputs / 10 ? 0 : 1;
}
