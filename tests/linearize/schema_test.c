#include "linearize/linearize_internal.h"
#include "tests/linearize/support.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <stdlib.h>

static struct schema_blob blob;

static struct schema_blob blob_of(const ProtobufCMessageDescriptor *d)
{
	struct schema_builder *b;
	struct schema_blob out;

	ck_assert_int_eq(schema_builder_create(&b), 0);
	ck_assert_int_eq(schema_builder_add(b, d, NULL), 0);
	ck_assert_int_eq(schema_builder_finish(b, &out), 0);
	schema_builder_destroy(b);
	return out;
}

static void setup(void)
{
	blob = blob_of(&unit2__defaults__descriptor);
}

static void teardown(void)
{
	free(blob.bytes);
}

static struct blob_header *header(void)
{
	return (struct blob_header *)(void *)blob.bytes;
}

static struct blob_message *messages(void)
{
	return (struct blob_message *)(void *)(blob.bytes + sizeof(struct blob_header));
}

static struct blob_field *fields(void)
{
	return (struct blob_field *)(void *)(messages() + header()->messages);
}

/* The field of the first message (unit2.Defaults) with this number. */
static struct blob_field *field(uint32_t number)
{
	uint32_t i;

	for (i = 0; i < messages()[0].fields; i++)
		if (fields()[i].number == number)
			return &fields()[i];
	ck_abort();
}

static int parse(void)
{
	struct schema *s = NULL;
	int rc = schema_parse(blob.bytes, blob.len, NULL, &s);

	if (rc == 0)
		schema_destroy(s);
	return rc;
}

START_TEST(test_graph)
{
	struct schema_builder *b;
	struct schema_blob out;
	struct schema *s;
	uint32_t first, again, second;

	ck_assert_int_eq(schema_builder_create(&b), 0);
	ck_assert_int_eq(schema_builder_add(b, &unit3__all__descriptor, &first), 0);
	ck_assert_int_eq(schema_builder_add(b, &unit2__needs__descriptor, &second), 0);
	ck_assert_int_eq(schema_builder_add(b, &unit3__all__descriptor, &again), 0);
	ck_assert_uint_eq(first, again);
	ck_assert_int_eq(schema_builder_set_syntax(b, second, SCHEMA_SYNTAX_PROTO2), 0);
	ck_assert_int_eq(schema_builder_set_syntax(b, 99, SCHEMA_SYNTAX_PROTO2),
			 -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(schema_builder_finish(b, &out), 0);
	schema_builder_destroy(b);
	ck_assert_int_eq(schema_parse(out.bytes, out.len, NULL, &s), 0);
	ck_assert_uint_eq(schema_message_count(s), 5); /* All, Leaf, two map entries, Needs */
	ck_assert_str_eq(schema_message_name(schema_message_at(s, first)), "unit3.All");
	ck_assert_str_eq(schema_message_name(schema_message_at(s, second)), "unit2.Needs");
	ck_assert_uint_eq(schema_message_bytes(schema_message_at(s, first)), sizeof(Unit3__All));
	ck_assert_ptr_null(schema_message_at(s, 5));
	ck_assert_ptr_null(schema_message_find(s, "unit3.Nothing"));
	ck_assert_ptr_eq(schema_message_find(s, "unit3.All"), schema_message_at(s, first));
	schema_destroy(s);
	free(out.bytes);
}
END_TEST

START_TEST(test_syntax)
{
	/* Repeated-only messages do not show their syntax: unchecked, unless told. */
	static const ProtobufCFieldDescriptor one = {.name = "s",
						     .id = 1,
						     .label = PROTOBUF_C_LABEL_REPEATED,
						     .type = PROTOBUF_C_TYPE_STRING,
						     .quantifier_offset = 24,
						     .offset = 32};
	static const ProtobufCMessageDescriptor d = {.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
						     .name = "t.R",
						     .sizeof_message = 40,
						     .n_fields = 1,
						     .fields = &one};
	static const struct {
		enum schema_syntax syntax;
		int rc;
	} cases[] = {{SCHEMA_SYNTAX_UNKNOWN, 0},
		     {SCHEMA_SYNTAX_PROTO2, 0},
		     {SCHEMA_SYNTAX_PROTO3, -SPLIT_E_LINEARIZE_UTF8}};
	size_t i;

	for (i = 0; i < 3; i++) {
		struct schema_builder *b;
		struct schema_blob out;
		struct schema *s;
		struct arena a;
		struct linear_target target;
		uint64_t root;

		ck_assert_int_eq(schema_builder_create(&b), 0);
		ck_assert_int_eq(schema_builder_add(b, &d, NULL), 0);
		ck_assert_int_eq(schema_builder_set_syntax(b, 0, cases[i].syntax), 0);
		ck_assert_int_eq(schema_builder_finish(b, &out), 0);
		ck_assert_int_eq(schema_parse(out.bytes, out.len, NULL, &s), 0);
		arena_init(&a, CHUNK_EXACT);
		target = arena_target(&a);
		ck_assert_int_eq(decode_all(schema_message_at(s, 0),
					    (const uint8_t *)"\x0a\x01\xff", 3, &target, unlimited,
					    &root, NULL),
				 cases[i].rc);
		arena_fini(&a);
		schema_destroy(s);
		schema_builder_destroy(b);
		free(out.bytes);
	}
}
END_TEST

/* What generated code adds: syntax, flags, names, closed enums, descriptor sets. */
static const struct schema_field_info info_fields[] = {
	{2, SCHEMA_FIELD_UTF8 | SCHEMA_FIELD_ACC, "odd name"}, {8, SCHEMA_FIELD_OPTIONAL, "plain"}};
static const struct schema_message_info info_messages[] = {
	{&unit2__defaults__descriptor, 0, 2, info_fields},
	{&unit3__leaf__descriptor, SCHEMA_MESSAGE_MAP_ENTRY, 0, NULL}};
static const struct schema_enum_info info_enums[] = {
	{&unit2__level__descriptor, SCHEMA_ENUM_CLOSED}};
/* Two files, a and b; and one with b and c. */
static const uint8_t set_ab[] = "\x0a\x03\x0a\x01\x61\x0a\x05\x0a\x01\x62\x12\x00";
static const uint8_t set_bc[] = "\x0a\x05\x0a\x01\x62\x12\x00\x0a\x03\x0a\x01\x63";
static const uint8_t set_abc[] = "\x0a\x03\x0a\x01\x61\x0a\x05\x0a\x01\x62\x12\x00"
				 "\x0a\x03\x0a\x01\x63";
static const struct schema_file_info info_first = {
	"unit2.proto", SCHEMA_SYNTAX_PROTO2, 2,      1,
	info_messages, info_enums,           set_ab, sizeof(set_ab) - 1};
static const struct schema_file_info info_second = {
	"other.proto", SCHEMA_SYNTAX_PROTO3, 0, 0, NULL, NULL, set_bc, sizeof(set_bc) - 1};

START_TEST(test_info)
{
	struct schema_file_info broken = info_second;
	struct schema_field_view f;
	struct schema_builder *b;
	struct schema_blob out;
	struct schema *s;
	const struct schema_message *m;
	const uint8_t *set;
	uint32_t n;
	size_t len;

	ck_assert_int_eq(schema_builder_create(&b), 0);
	ck_assert_int_eq(schema_builder_add_info(b, &info_first), 0);
	ck_assert_int_eq(schema_builder_add(b, &unit2__defaults__descriptor, NULL), 0);
	ck_assert_int_eq(schema_builder_add_info(b, &info_second), 0);
	ck_assert_int_eq(schema_builder_add_info(b, &info_first), 0);
	broken.descriptor_set_bytes--;
	ck_assert_int_eq(schema_builder_add_info(b, &broken), -SPLIT_E_LINEARIZE_DESCRIPTOR);
	ck_assert_int_eq(schema_builder_finish(b, &out), 0);
	schema_builder_destroy(b);
	ck_assert_int_eq(schema_parse(out.bytes, out.len, NULL, &s), 0);
	m = schema_message_find(s, "unit2.Defaults");
	ck_assert_int_eq(schema_message_syntax(m), SCHEMA_SYNTAX_PROTO2);
	ck_assert_uint_eq(schema_message_flags(m), 0);
	schema_field_at(m, 1, &f);
	ck_assert_uint_eq(f.number, 2);
	ck_assert_uint_eq(f.flags, SCHEMA_FIELD_UTF8 | SCHEMA_FIELD_ACC);
	ck_assert_uint_eq(f.json_name_bytes, 8);
	ck_assert_mem_eq(f.json_name, "odd name", 8);
	ck_assert_int_eq(f.presence, SCHEMA_PRESENCE_POINTER);
	ck_assert_uint_eq(f.default_bytes, 12);
	schema_field_at(m, 7, &f);
	ck_assert_uint_eq(f.flags, SCHEMA_FIELD_OPTIONAL);
	ck_assert_ptr_null(f.json_name); /* it is the name in lowerCamelCase */
	schema_field_at(m, 3, &f);
	ck_assert_int_eq(f.presence, SCHEMA_PRESENCE_HAS);
	ck_assert(schema_enum_is_closed(f.enumeration));
	ck_assert_mem_eq(schema_enum_value(f.enumeration, 9, &n), "HIGH", 4);
	ck_assert_uint_eq(n, 4);
	ck_assert_ptr_null(schema_enum_value(f.enumeration, 8, &n));
	set = schema_descriptor_set(s, &len);
	ck_assert_uint_eq(len, sizeof(set_abc) - 1);
	ck_assert_mem_eq(set, set_abc, len);

	/* Sharing. */
	ck_assert(schema_is_from(s, out.bytes, out.len));
	ck_assert_uint_eq(schema_hash(s), schema_blob_hash(out.bytes, out.len));
	out.bytes[out.len - 1] ^= 1;
	ck_assert(!schema_is_from(s, out.bytes, out.len));
	ck_assert(!schema_is_from(s, out.bytes, out.len - 1));
	ck_assert_ptr_eq(schema_get(s), s);
	ck_assert_uint_eq(schema_refs(s), 2);
	schema_destroy(s);
	ck_assert_uint_eq(schema_refs(s), 1);
	schema_destroy(s);
	free(out.bytes);
}
END_TEST

START_TEST(test_descriptor_refused)
{
	ProtobufCMessageDescriptor d = unit2__needs__descriptor;
	struct schema_builder *b;

	ck_assert_int_eq(schema_builder_create(&b), 0);
	d.magic = 1;
	ck_assert_int_eq(schema_builder_add(b, &d, NULL), -SPLIT_E_LINEARIZE_DESCRIPTOR);
	schema_builder_destroy(b);
	schema_builder_destroy(NULL);
}
END_TEST

START_TEST(test_truncated)
{
	size_t len;

	for (len = 0; len < blob.len; len++) {
		uint8_t *exact = malloc(len + 1);
		struct schema *s;

		memcpy(exact, blob.bytes, len);
		ck_assert_int_eq(schema_parse(exact, len, NULL, &s), -SPLIT_E_LINEARIZE_SCHEMA);
		free(exact);
	}
	ck_assert_int_eq(parse(), 0);
}
END_TEST

START_TEST(test_header)
{
	struct blob_header good = *header();

#define REFUSED(member, value, error)                                                              \
	do {                                                                                       \
		header()->member = (value);                                                        \
		ck_assert_int_eq(parse(), -SPLIT_E_LINEARIZE_##error);                             \
		*header() = good;                                                                  \
	} while (0)

	REFUSED(magic, 1, SCHEMA);
	REFUSED(magic, __builtin_bswap32(SCHEMA_MAGIC), SCHEMA_LAYOUT);
	REFUSED(version, 1, SCHEMA_VERSION);
	REFUSED(version, 3, SCHEMA_VERSION);
	REFUSED(pointer_bytes, 4, SCHEMA_LAYOUT);
	REFUSED(enum_bytes, 2, SCHEMA_LAYOUT);
	REFUSED(endian_tag, 0x04030201, SCHEMA_LAYOUT);
	REFUSED(total_bytes, good.total_bytes - 1, SCHEMA);
	REFUSED(messages, good.messages + 1, SCHEMA);
	REFUSED(messages, UINT32_MAX, SCHEMA_LIMIT);
	REFUSED(fields, UINT32_MAX, SCHEMA_LIMIT);
	REFUSED(enums, UINT32_MAX, SCHEMA);
	REFUSED(values, good.values + 1, SCHEMA);
	REFUSED(pool_bytes, good.pool_bytes + 1, SCHEMA);
	REFUSED(set_bytes, 1, SCHEMA);
	REFUSED(set_bytes, UINT32_MAX, SCHEMA_LIMIT);
	ck_assert_int_eq(parse(), 0);
}
END_TEST

START_TEST(test_limits)
{
	struct schema_limits l = schema_limits_default;
	struct schema *s;

	l.blob_bytes_max = (uint32_t)blob.len - 1;
	ck_assert_int_eq(schema_parse(blob.bytes, blob.len, &l, &s),
			 -SPLIT_E_LINEARIZE_SCHEMA_LIMIT);
	l = schema_limits_default;
	l.messages_max = header()->messages - 1;
	ck_assert_int_eq(schema_parse(blob.bytes, blob.len, &l, &s),
			 -SPLIT_E_LINEARIZE_SCHEMA_LIMIT);
	l = schema_limits_default;
	l.fields_max = header()->fields - 1;
	ck_assert_int_eq(schema_parse(blob.bytes, blob.len, &l, &s),
			 -SPLIT_E_LINEARIZE_SCHEMA_LIMIT);
	l = schema_limits_default;
	l.message_bytes_max = sizeof(Unit2__Defaults) - 8;
	ck_assert_int_eq(schema_parse(blob.bytes, blob.len, &l, &s),
			 -SPLIT_E_LINEARIZE_SCHEMA_LIMIT);
}
END_TEST

/* Each of these would let the wire choose a pointer, or decode write where it must not. */
START_TEST(test_layout_refused)
{
	struct blob_field *many = field(10), *i32 = field(1), *s = field(2), *oneof = field(11);
	struct blob_field *os = field(12), *needs = field(14);

#define BROKEN(f, member, value)                                                                   \
	do {                                                                                       \
		struct blob_field good = *(f);                                                     \
		(f)->member = (value);                                                             \
		ck_assert_msg(parse() == -SPLIT_E_LINEARIZE_SCHEMA, #f "." #member " = " #value);  \
		*(f) = good;                                                                       \
	} while (0)

	BROKEN(i32, offset, many->offset);     /* a scalar on an array's pointer */
	BROKEN(i32, offset, many->quantifier); /* ... on its count */
	BROKEN(i32, offset, many->offset + 4); /* ... on half of it */
	BROKEN(i32, quantifier, many->offset); /* presence on a pointer */
	BROKEN(i32, offset, needs->offset);    /* a scalar on a sub-message's pointer */
	BROKEN(i32, offset, 0);                /* base.descriptor */
	BROKEN(i32, offset, 16);               /* base.unknown_fields */
	BROKEN(i32, offset, 8);                /* base.n_unknown_fields */
	BROKEN(i32, quantifier, 0);
	BROKEN(i32, offset, i32->offset + 1);
	BROKEN(i32, offset, sizeof(Unit2__Defaults)); /* past the struct */
	BROKEN(i32, offset, UINT32_MAX - 3);
	BROKEN(s, offset, sizeof(Unit2__Defaults) - 4);
	BROKEN(s, offset, s->offset + 4); /* misaligned */
	BROKEN(many, quantifier, many->offset);
	BROKEN(many, quantifier, i32->offset);
	BROKEN(oneof, offset, needs->offset);    /* union on another member */
	BROKEN(os, offset, os->offset + 8);      /* members at two places */
	BROKEN(os, quantifier, i32->quantifier); /* case word on a has_ word */
	BROKEN(os, quantifier, UINT32_MAX - 3);
	BROKEN(os, quantifier, os->offset); /* case word in the union */
	BROKEN(os, label, PROTOBUF_C_LABEL_REPEATED);
	BROKEN(os, init, 5);
	BROKEN(many, init, 5);
	BROKEN(needs, init, 5); /* a sub-message that is not decode's */
	BROKEN(i32, init, (uint64_t)UINT32_MAX + 1);
	BROKEN(i32, init_len, 1);
	BROKEN(i32, number, 0);
	BROKEN(i32, number, 1u << 29);
	BROKEN(i32, number, 2); /* twice */
	BROKEN(i32, number, 7); /* not ascending */
	BROKEN(i32, type, TYPE_COUNT);
	BROKEN(i32, label, 4);
	BROKEN(i32, flags, 0x80);
	BROKEN(i32, flags, BLOB_FIELD_UTF8);
	BROKEN(os, flags, BLOB_FIELD_ONEOF | BLOB_FIELD_OPTIONAL);
	BROKEN(i32, flags, BLOB_FIELD_PACKED);
	BROKEN(s, sub, 0);
	BROKEN(needs, sub, 99);
	BROKEN(many, sub, 99);
	BROKEN(s, default_pool, UINT32_MAX);
	BROKEN(s, default_bytes, UINT32_MAX);
	BROKEN(s, name, UINT32_MAX);
	BROKEN(s, name_bytes, SCHEMA_NAME_MAX + 1);
	BROKEN(s, json_name_bytes, SCHEMA_NAME_MAX + 1);
	s->json_name_bytes = 4;
	BROKEN(s, json_name, UINT32_MAX);
	s->json_name_bytes = 0;
	ck_assert_int_eq(parse(), 0);
	messages()[1].first_field--;
	ck_assert_int_eq(parse(), -SPLIT_E_LINEARIZE_SCHEMA);
	messages()[1].first_field++;
	messages()[0].struct_bytes = 16;
	ck_assert_int_eq(parse(), -SPLIT_E_LINEARIZE_SCHEMA);
}
END_TEST

START_TEST(test_no_fields)
{
	free(blob.bytes);
	blob = blob_of(&unit3__empty__descriptor);
	ck_assert_int_eq(parse(), 0);
}
END_TEST

/* Values that a closed enum does not have go to the unknown fields, in all three forms. */
START_TEST(test_closed_enum)
{
	static const uint8_t wire[] =
		"\x20\x09\x20\x05"                  /* 4: HIGH, then 5 */
		"\x50\x03\x50\x05"                  /* 10: LOW, 5 */
		"\x52\x06\x09\x05\x03\x96\x01\x09"; /* HIGH, 5, LOW, 150, HIGH */
	struct blob_enum *enums = (struct blob_enum *)(void *)(fields() + header()->fields);
	uint32_t quantum, i;

	for (i = 0; i < header()->enums; i++)
		enums[i].flags = BLOB_ENUM_CLOSED;
	for (quantum = 0; quantum < 3; quantum++) {
		struct linear_limits l = {.work_quantum = quantum};
		const Unit2__Defaults *m;
		struct schema *s;
		struct arena a;
		struct linear_target target;
		uint64_t root;

		ck_assert_int_eq(schema_parse(blob.bytes, blob.len, NULL, &s), 0);
		arena_init(&a, CHUNK_EXACT);
		target = arena_target(&a);
		ck_assert_int_eq(decode_all(schema_message_at(s, 0), wire, sizeof(wire) - 1,
					    &target, l, &root, NULL),
				 0);
		m = (const Unit2__Defaults *)root;
		ck_assert_int_eq(m->e, UNIT2__LEVEL__HIGH);
		ck_assert_uint_eq(m->n_many, 4);
		ck_assert_int_eq(m->many[0], UNIT2__LEVEL__LOW);
		ck_assert_int_eq(m->many[1], UNIT2__LEVEL__HIGH);
		ck_assert_int_eq(m->many[2], UNIT2__LEVEL__LOW);
		ck_assert_int_eq(m->many[3], UNIT2__LEVEL__HIGH);
		ck_assert_uint_eq(m->base.n_unknown_fields, 4);
		ck_assert_uint_eq(m->base.unknown_fields[0].tag, 4);
		ck_assert_uint_eq(m->base.unknown_fields[1].tag, 10);
		ck_assert_uint_eq(m->base.unknown_fields[3].len, 2);
		ck_assert_mem_eq(m->base.unknown_fields[3].data, "\x96\x01", 2);
		ck_assert_uint_eq(m->base.unknown_fields[3].wire_type, 0);
		arena_fini(&a);
		schema_destroy(s);
	}
}
END_TEST

/* Any blob that is accepted must be safe to decode and encode with. ASan is the judge. */
START_TEST(test_random_damage)
{
	struct random r;
	int i, accepted = 0;

	random_seed(&r, 3);
	for (i = 0; i < 30000; i++) {
		uint8_t *bad = malloc(blob.len);
		struct schema *s;
		int k, n = 1 + (int)random_below(&r, 4);

		memcpy(bad, blob.bytes, blob.len);
		for (k = 0; k < n; k++)
			bad[random_below(&r, blob.len)] = (uint8_t)random_next(&r);
		if (schema_parse(bad, blob.len, NULL, &s) == 0) {
			struct arena a;
			struct linear_target target;
			struct wire w;
			uint64_t root;

			accepted++;
			arena_init(&a, CHUNK_EXACT);
			target = arena_target(&a);
			random_wire(&r, &unit2__defaults__descriptor, false, &w);
			if (decode_all(schema_message_at(s, 0), w.bytes, w.len, &target, unlimited,
				       &root, NULL) == 0) {
				struct linear_source source = {a.chunks[0].mem, root,
							       a.chunks[0].bytes};
				uint8_t *out;
				size_t len;

				if (encode_all(schema_message_at(s, 0), &source, root, unlimited, 0,
					       &out, &len) == 0)
					free(out);
			}
			free(w.bytes);
			arena_fini(&a);
			schema_destroy(s);
		}
		free(bad);
	}
	ck_assert_int_gt(accepted, 1000);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("schema");
	TCase *c = tcase_create("schema");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 300);
	tcase_add_test(c, test_graph);
	tcase_add_test(c, test_syntax);
	tcase_add_test(c, test_info);
	tcase_add_test(c, test_descriptor_refused);
	tcase_add_test(c, test_truncated);
	tcase_add_test(c, test_header);
	tcase_add_test(c, test_limits);
	tcase_add_test(c, test_layout_refused);
	tcase_add_test(c, test_no_fields);
	tcase_add_test(c, test_closed_enum);
	tcase_add_test(c, test_random_damage);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
