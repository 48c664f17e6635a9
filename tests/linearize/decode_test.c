#include "tests/linearize/support.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct schema *schema2, *schema3;
static const struct schema_message *all, *empty, *needs, *defaults;
static struct arena arena;

static void setup(void)
{
	const struct schema_message *root;
	struct schema_builder *b;
	struct schema_blob blob;

	schema3 = schema_of(&unit3__all__descriptor, &all);
	ck_assert_int_eq(schema_builder_create(&b), 0);
	ck_assert_int_eq(schema_builder_add(b, &unit2__defaults__descriptor, NULL), 0);
	ck_assert_int_eq(schema_builder_add(b, &unit3__empty__descriptor, NULL), 0);
	ck_assert_int_eq(schema_builder_finish(b, &blob), 0);
	schema_builder_destroy(b);
	ck_assert_int_eq(schema_parse(blob.bytes, blob.len, NULL, &schema2), 0);
	free(blob.bytes);
	root = schema_message_at(schema2, 0);
	ck_assert_str_eq(schema_message_name(root), "unit2.Defaults");
	defaults = root;
	needs = schema_message_find(schema2, "unit2.Needs");
	empty = schema_message_find(schema2, "unit3.Empty");
	ck_assert_ptr_nonnull(needs);
	ck_assert_ptr_nonnull(empty);
	arena_init(&arena, CHUNK_EXACT);
}

static void teardown(void)
{
	schema_destroy(schema2);
	schema_destroy(schema3);
	arena_fini(&arena);
}

static int decode(const struct schema_message *m, const void *wire, size_t len,
		  struct linear_limits limits, const void **out)
{
	struct linear_target target = arena_target(&arena);
	uint8_t *exact = malloc(len ? len : 1); /* so that ASan sees the end of the wire */
	uint64_t root;
	int rc;

	memcpy(exact, wire, len);
	rc = decode_all(m, exact, len, &target, limits, &root, NULL);
	free(exact);
	*out = (const void *)root;
	return rc;
}

#define WIRE(s) (s), sizeof(s) - 1

static const Unit3__All *decode3(const void *wire, size_t len)
{
	const void *out;

	ck_assert_int_eq(decode(all, wire, len, unlimited, &out), 0);
	return out;
}

static int error3(const void *wire, size_t len)
{
	const void *out;

	return decode(all, wire, len, unlimited, &out);
}

START_TEST(test_scalars)
{
	const Unit3__All *m =
		decode3(WIRE("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" /* -1 */
			     "\x10\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"
			     "\x18\xff\xff\xff\xff\x0f"
			     "\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
			     "\x28\x03\x30\x01"
			     "\x3d\x01\x02\x03\x04"
			     "\x41\x01\x02\x03\x04\x05\x06\x07\x08"
			     "\x4d\xff\xff\xff\xff"
			     "\x51\xfe\xff\xff\xff\xff\xff\xff\xff"
			     "\x5d\x00\x00\xc0\x3f"
			     "\x61\x00\x00\x00\x00\x00\x00\xf8\xbf"
			     "\x68\x80\x01\x70\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
			     "\x7a\x03"
			     "abc\x82\x01\x02\x00\xff"));

	ck_assert_int_eq(m->f_int32, -1);
	ck_assert_int_eq(m->f_int64, INT64_MIN);
	ck_assert_uint_eq(m->f_uint32, UINT32_MAX);
	ck_assert_uint_eq(m->f_uint64, UINT64_MAX);
	ck_assert_int_eq(m->f_sint32, -2);
	ck_assert_int_eq(m->f_sint64, -1);
	ck_assert_uint_eq(m->f_fixed32, 0x04030201);
	ck_assert_uint_eq(m->f_fixed64, 0x0807060504030201);
	ck_assert_int_eq(m->f_sfixed32, -1);
	ck_assert_int_eq(m->f_sfixed64, -2);
	ck_assert(m->f_float == 1.5f);
	ck_assert(m->f_double == -1.5);
	ck_assert_int_eq(m->f_bool, 1);
	ck_assert_int_eq(m->f_enum, UNIT3__COLOR__BLUE);
	ck_assert_str_eq(m->f_string, "abc");
	ck_assert_uint_eq(m->f_bytes.len, 2);
	ck_assert_mem_eq(m->f_bytes.data, "\x00\xff", 2);
	ck_assert_ptr_eq(m->base.descriptor, &unit3__all__descriptor);
}
END_TEST

START_TEST(test_empty_input)
{
	const Unit3__All *m = decode3("", 0);
	const void *out;

	ck_assert_ptr_eq(m->f_string, protobuf_c_empty_string);
	ck_assert_ptr_null(m->f_leaf);
	ck_assert_uint_eq(m->n_r_int32, 0);
	ck_assert_ptr_null(m->r_int32);
	ck_assert_int_eq(decode(empty, "", 0, unlimited, &out), 0);
	ck_assert_ptr_eq(((const Unit3__Empty *)out)->base.descriptor, &unit3__empty__descriptor);
	ck_assert_int_eq(decode(empty, WIRE("\x08\x05"), unlimited, &out), 0);
	ck_assert_uint_eq(((const Unit3__Empty *)out)->base.n_unknown_fields, 1);
}
END_TEST

START_TEST(test_defaults)
{
	const Unit2__Defaults *m;
	const void *out;

	ck_assert_int_eq(decode(defaults, "", 0, unlimited, &out), 0);
	m = out;
	ck_assert_int_eq(m->i, -5);
	ck_assert_int_eq(m->has_i, 0);
	ck_assert_ptr_eq(m->s, unit2__defaults__s__default_value);
	ck_assert_uint_eq(m->b.len, 3);
	ck_assert_mem_eq(m->b.data, "\1\2\3", 3);
	ck_assert_int_eq(m->e, UNIT2__LEVEL__HIGH);
	ck_assert_int_eq(m->first, UNIT2__LEVEL__LOW); /* the first value, though it is not 0 */
	ck_assert(m->d == 1.5);
	ck_assert_int_eq(m->t, 1);
	ck_assert_ptr_null(m->plain);
	ck_assert_ptr_eq(m->r, unit2__defaults__r__default_value);
	ck_assert_int_eq(m->choice_case, 0);
	ck_assert_ptr_null(m->os);
	ck_assert_int_eq(decode(defaults, WIRE("\x08\x00\x12\x00\x1a\x00"), unlimited, &out), 0);
	m = out;
	ck_assert_int_eq(m->has_i, 1);
	ck_assert_int_eq(m->i, 0);
	ck_assert_str_eq(m->s, "");
	ck_assert_ptr_ne(m->s, unit2__defaults__s__default_value);
	ck_assert_int_eq(m->has_b, 1);
	ck_assert_uint_eq(m->b.len, 0);
	ck_assert_ptr_null(m->b.data);
}
END_TEST

START_TEST(test_repeated)
{
	/* Packed and unpacked, either way round, in pieces, interleaved. */
	const Unit3__All *m = decode3(WIRE("\xa8\x01\x01"                 /* 21: 1 */
					   "\xda\x01\x01x"                /* 27: x */
					   "\xaa\x01\x03\x02\x80\x01"     /* 21: 2, 128 */
					   "\xb2\x01\x02\x01\x02"         /* 22 packed: -1, 1 */
					   "\xa8\x01\x05"                 /* 21: 5 */
					   "\xda\x01\x00"                 /* 27: "" */
					   "\xb0\x01\x04"                 /* 22: 2 */
					   "\xaa\x01\x00"                 /* 21: packed, none */
					   "\xba\x01\x04\x01\x00\x00\x00" /* 23 packed */
					   "\xbd\x01\x02\x00\x00\x00"     /* 23 unpacked */
					   "\xca\x01\x03\x01\x00\x01"     /* 25 packed */
					   "\xda\x01\x02yz"
					   "\xe2\x01\x00\xe2\x01\x01\xff"));

	ck_assert_uint_eq(m->n_r_int32, 4);
	ck_assert_int_eq(m->r_int32[0], 1);
	ck_assert_int_eq(m->r_int32[1], 2);
	ck_assert_int_eq(m->r_int32[2], 128);
	ck_assert_int_eq(m->r_int32[3], 5);
	ck_assert_uint_eq(m->n_r_sint64, 3);
	ck_assert_int_eq(m->r_sint64[0], -1);
	ck_assert_int_eq(m->r_sint64[2], 2);
	ck_assert_uint_eq(m->n_r_fixed32, 2);
	ck_assert_uint_eq(m->r_fixed32[1], 2);
	ck_assert_uint_eq(m->n_r_bool, 3);
	ck_assert_uint_eq(m->n_r_string, 3);
	ck_assert_str_eq(m->r_string[0], "x");
	ck_assert_str_eq(m->r_string[1], "");
	ck_assert_str_eq(m->r_string[2], "yz");
	ck_assert_uint_eq(m->n_r_bytes, 2);
	ck_assert_ptr_null(m->r_bytes[0].data);
	ck_assert_uint_eq(m->r_bytes[1].len, 1);
}
END_TEST

START_TEST(test_map)
{
	const Unit3__All *m = decode3(WIRE("\xf2\x01\x07\x0a\x01k\x12\x02\x08\x07"
					   "\xf2\x01\x03\x0a\x01k" /* again, without value */
					   "\xfa\x01\x03\x12\x01v"));

	ck_assert_uint_eq(m->n_m_leaf, 2);
	ck_assert_str_eq(m->m_leaf[0]->key, "k");
	ck_assert_int_eq(m->m_leaf[0]->value->a, 7);
	ck_assert_ptr_null(m->m_leaf[1]->value);
	ck_assert_uint_eq(m->n_m_string, 1);
	ck_assert_int_eq(m->m_string[0]->key, 0);
	ck_assert_str_eq(m->m_string[0]->value, "v");
}
END_TEST

START_TEST(test_merge)
{
	/* Fields 1 and 2 of the first, 1 of the second, arrays concatenated. */
	const Unit3__All *m = decode3(
		WIRE("\x8a\x01\x07\x08\x01\x12\x01s\x18\x05\x8a\x01\x06\x08\x09\x1a\x02\x06\x07"));

	ck_assert_int_eq(m->f_leaf->a, 9);
	ck_assert_str_eq(m->f_leaf->s, "s");
	ck_assert_uint_eq(m->f_leaf->n_r, 3);
	ck_assert_int_eq(m->f_leaf->r[0], 5);
	ck_assert_int_eq(m->f_leaf->r[2], 7);
}
END_TEST

START_TEST(test_oneof)
{
	const Unit3__All *m = decode3(WIRE("\xc8\x02\x05\xd2\x02\x02hi"));

	ck_assert_int_eq(m->choice_case, UNIT3__ALL__CHOICE_O_STRING);
	ck_assert_str_eq(m->o_string, "hi");
	m = decode3(WIRE("\xda\x02\x02hi\xc8\x02\x05"));
	ck_assert_int_eq(m->choice_case, UNIT3__ALL__CHOICE_O_INT32);
	ck_assert_int_eq(m->o_int32, 5);
	ck_assert_ptr_null(m->o_bytes.data); /* the rest of the union is cleared */
	/* The same sub-message again is merged, after another member it begins anew. */
	m = decode3(WIRE("\xe2\x02\x02\x08\x01\xe2\x02\x03\x12\x01s"));
	ck_assert_int_eq(m->o_leaf->a, 1);
	ck_assert_str_eq(m->o_leaf->s, "s");
	m = decode3(WIRE("\xe2\x02\x02\x08\x01\xc8\x02\x05\xe2\x02\x03\x12\x01s"));
	ck_assert_int_eq(m->o_leaf->a, 0);
	/* A message member must not be taken for another message member. */
	m = decode3(WIRE("\xe2\x02\x02\x08\x01\xf2\x02\x02\x08\x02"));
	ck_assert_int_eq(m->choice_case, UNIT3__ALL__CHOICE_O_SELF);
	ck_assert_ptr_eq(m->o_self->base.descriptor, &unit3__all__descriptor);
	ck_assert_int_eq(m->o_self->f_int32, 2);
}
END_TEST

START_TEST(test_unknown)
{
	static const uint8_t wire[] =
		"\x98\x06\x96\x01" /* 99 varint */
		"\x99\x06"
		"12345678"        /* 99 64 bit */
		"\x9a\x06\x03xyz" /* 99 length */
		"\x9d\x06"
		"1234"                                              /* 99 32 bit */
		"\x9b\x06\x08\x01\xa3\x06\x0a\x01q\xa4\x06\x9c\x06" /* group */
		"\x98\x06\x01";
	const Unit3__All *m = decode3(wire, sizeof(wire) - 1);
	const ProtobufCMessageUnknownField *u = m->base.unknown_fields;

	ck_assert_uint_eq(m->base.n_unknown_fields, 6);
	ck_assert_uint_eq(u[0].tag, 99);
	ck_assert_uint_eq(u[0].wire_type, 0);
	ck_assert_uint_eq(u[0].len, 2);
	ck_assert_mem_eq(u[0].data, "\x96\x01", 2);
	ck_assert_mem_eq(u[1].data, "12345678", 8);
	ck_assert_uint_eq(u[2].len, 4); /* with its length prefix, as protobuf-c has it */
	ck_assert_mem_eq(u[2].data, "\x03xyz", 4);
	ck_assert_uint_eq(u[3].wire_type, 5);
	ck_assert_uint_eq(u[4].wire_type, 3); /* a group: content and its end tag */
	ck_assert_uint_eq(u[4].len, 11);
	ck_assert_mem_eq(u[4].data, "\x08\x01\xa3\x06\x0a\x01q\xa4\x06\x9c\x06", 11);
	ck_assert_uint_eq(u[5].len, 1);
}
END_TEST

struct bad {
	const char *name;
	const char *wire;
	size_t len;
	int error;
};

#define BAD(name, wire, error)                                                                     \
	{                                                                                          \
		name, wire, sizeof(wire) - 1, -SPLIT_E_LINEARIZE_##error                           \
	}

static const struct bad bads[] = {
	BAD("tag cut", "\x80", TRUNCATED),
	BAD("varint missing", "\x08", TRUNCATED),
	BAD("varint cut", "\x08\xff", TRUNCATED),
	BAD("32 bits cut", "\x3d\x01\x02\x03", TRUNCATED),
	BAD("64 bits cut", "\x41\x01\x02\x03\x04\x05\x06\x07", TRUNCATED),
	BAD("length missing", "\x7a", TRUNCATED),
	BAD("string cut", "\x7a\x02x", TRUNCATED),
	BAD("sub-message cut", "\x8a\x01\x05\x08\x01", TRUNCATED),
	BAD("inside a sub-message", "\x8a\x01\x01\x08\x10\x01", TRUNCATED),
	BAD("unknown cut", "\x9a\x06\x02x", TRUNCATED),
	BAD("unknown 64 bits cut", "\x99\x06\x02x", TRUNCATED),
	BAD("group without end", "\x9b\x06\x08\x01", TRUNCATED),
	BAD("packed varint cut", "\xaa\x01\x02\x01\x80", TRUNCATED),
	BAD("packed cut", "\xaa\x01\x03\x01\x80", TRUNCATED),
	BAD("length of 4 GiB", "\x7a\xff\xff\xff\xff\x0f", TRUNCATED),
	BAD("varint of 11 bytes", "\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", VARINT),
	BAD("tag of 6 bytes", "\x88\x80\x80\x80\x80\x00\x01", VARINT),
	BAD("length of 6 bytes", "\x7a\x80\x80\x80\x80\x80\x00", VARINT),
	BAD("packed varint of 11 bytes", "\xaa\x01\x0b\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
	    VARINT),
	BAD("tag 0", "\x00\x01", TAG_ZERO),
	BAD("tag 0, wire type 2", "\x02\x00", TAG_ZERO),
	BAD("tag 0, long", "\x80\x00\x01", TAG_ZERO),
	BAD("tag past 32 bits", "\x88\x80\x80\x80\x10\x01", FIELD_NUMBER),
	BAD("wire type 6", "\x0e\x01", WIRE_RESERVED),
	BAD("wire type 7", "\x9f\x06\x01", WIRE_RESERVED),
	BAD("end of no group", "\x9c\x06", GROUP),
	BAD("end of no group, known number", "\x0c", GROUP),
	BAD("end of another group", "\x9b\x06\xa4\x06", GROUP),
	BAD("crossed groups", "\x9b\x06\xa3\x06\x9c\x06\xa4\x06", GROUP),
	BAD("packed 32 bits of 5 bytes", "\xba\x01\x05\x01\x02\x03\x04\x05", PACKED),
	BAD("packed 64 bits of 4 bytes", "\xc2\x01\x04\x01\x02\x03\x04", PACKED),
	BAD("invalid UTF-8", "\x7a\x02\xc3\x28", UTF8),
	BAD("UTF-8 cut", "\x7a\x02\xe2\x82", UTF8),
	BAD("surrogate", "\x7a\x03\xed\xa0\x80", UTF8),
	BAD("overlong UTF-8", "\x7a\x02\xc0\x80", UTF8),
	BAD("past U+10FFFF", "\x7a\x04\xf4\x90\x80\x80", UTF8),
	BAD("repeated invalid UTF-8", "\xda\x01\x01\xff", UTF8),
	BAD("map key invalid UTF-8", "\xf2\x01\x03\x0a\x01\xff", UTF8),
};

START_TEST(test_bad)
{
	const struct bad *b = &bads[_i];
	struct linear_limits one = {.work_quantum = 1};
	const void *out;
	int rc = error3(b->wire, b->len);

	ck_assert_msg(rc == b->error, "%s: %s", b->name, error_name(rc));
	rc = decode(all, b->wire, b->len, one, &out);
	ck_assert_msg(rc == b->error, "%s, quantum 1: %s", b->name, error_name(rc));
	ck_assert_int_eq(linearize_map_status(rc), 13);
}
END_TEST

/* A known field of another wire type is kept as unknown, as C++ does, and packs to the same bytes.
 */
START_TEST(test_wrong_wire)
{
	static const struct {
		const char *wire;
		size_t len;
		uint32_t number;
		unsigned type;
	} cases[] = {
		{WIRE("\x0d\x01\x02\x03\x04"), 1, 5},      /* int32 as 32 bits */
		{WIRE("\x0a\x01\x02"), 1, 2},              /* int32 as length */
		{WIRE("\x78\x01"), 15, 0},                 /* string as varint */
		{WIRE("\x88\x01\x01"), 17, 0},             /* message as varint */
		{WIRE("\x8b\x01\x08\x07\x8c\x01"), 17, 3}, /* message as group */
		{WIRE("\x6d\x01\x02\x03\x04"), 13, 5},     /* bool as 32 bits */
		{WIRE("\xd8\x01\x01"), 27, 0},             /* repeated string as varint */
		{WIRE("\xad\x01\x01\x02\x03\x04"), 21, 5}, /* repeated int32 as 32 bits */
	};
	const ProtobufCMessageUnknownField *u;
	const Unit3__All *m;
	uint8_t packed[16];

	m = decode3(cases[_i].wire, cases[_i].len);
	ck_assert_uint_eq(m->base.n_unknown_fields, 1);
	u = m->base.unknown_fields;
	ck_assert_uint_eq(u->tag, cases[_i].number);
	ck_assert_uint_eq((unsigned)u->wire_type, cases[_i].type);
	ck_assert_uint_eq(protobuf_c_message_pack(&m->base, packed), cases[_i].len);
	ck_assert_mem_eq(packed, cases[_i].wire, cases[_i].len);
}
END_TEST

/* Strings and bytes that stay on the wire: content, NULs once all is read, and a wire that failed
 * is as it was. */
START_TEST(test_alias)
{
	enum { LONG = 5000 };
	static const unsigned lengths[] = {0, 1, 127, 128, 129, 300, LONG};
	const struct linear_limits small = {.work_quantum = (uint32_t)_i * 3};
	unsigned i, k, n = sizeof(lengths) / sizeof(lengths[0]);
	struct linear_target target = arena_target(&arena);
	char text[LONG];
	struct decode_job j;
	struct wire w = {0};
	const Unit3__All *m;
	uint8_t *wire;
	int rc;

	memset(text, 'x', sizeof(text));
	for (i = 0; i < n; i++) {
		wire_tag(&w, 27, 2);
		wire_varint(&w, lengths[i]);
		wire_put(&w, text, lengths[i]);
		wire_tag(&w, 28, 2);
		wire_varint(&w, lengths[i]);
		wire_put(&w, text, lengths[i]);
	}
	wire_tag(&w, 15, 2);
	wire_varint(&w, 200);
	wire_put(&w, text, 200);
	wire = malloc(w.len + 1);
	target.alias_min = 128;
	for (k = 0; k < 2; k++) {
		memcpy(wire, w.bytes, w.len);
		wire[w.len] = 'y';
		if (k == 1)
			arena.fail_at = arena.got + 3;
		ck_assert_int_eq(decode_start(&j, all, wire, w.len, &target, &small), 0);
		while ((rc = decode_run(&j)) == SPLIT_AGAIN)
			ck_assert_mem_eq(wire, w.bytes, w.len);
		ck_assert_int_eq(rc, k == 0 ? 0 : -SPLIT_E_LINEARIZE_NOMEM);
		if (k == 1) {
			ck_assert_mem_eq(wire, w.bytes, w.len);
			break;
		}
		ck_assert_uint_eq(decode_aliased(&j), 9);
		m = (const Unit3__All *)decode_root(&j);
		ck_assert_uint_eq(m->n_r_string, n);
		ck_assert_uint_eq(m->n_r_bytes, n);
		for (i = 0; i < n; i++) {
			const uint8_t *at = (const uint8_t *)m->r_string[i];

			ck_assert_uint_eq(strlen(m->r_string[i]), lengths[i]);
			ck_assert_mem_eq(m->r_string[i], text, lengths[i]);
			ck_assert_int_eq(at >= wire && at < wire + w.len, lengths[i] >= 128);
			ck_assert_uint_eq(m->r_bytes[i].len, lengths[i]);
			if (lengths[i])
				ck_assert_mem_eq(m->r_bytes[i].data, text, lengths[i]);
		}
		ck_assert_uint_eq(strlen(m->f_string), 200);
		ck_assert_uint_eq(wire[w.len], 0);
	}
	free(wire);
	free(w.bytes);
}
END_TEST

/* The last unit of work may be the one too many: the wire is then as it was, too. */
START_TEST(test_alias_work)
{
	struct linear_target target = arena_target(&arena);
	struct linear_limits limits = {.work_quantum = 1 + (uint32_t)_i * 63};
	struct wire w = {0};
	char text[LINEAR_UNIT_BYTES];
	struct decode_job j;
	uint8_t *wire;
	unsigned refused = 0;
	int rc;

	memset(text, 'x', sizeof(text));
	for (unsigned i = 0; i < 4; i++) {
		wire_tag(&w, 27, 2);
		wire_varint(&w, sizeof(text));
		wire_put(&w, text, sizeof(text));
	}
	wire_put(&w, "y", 1);
	wire = malloc(w.len);
	memcpy(wire, w.bytes, w.len);
	target.alias_min = 128;
	do {
		limits.work_max = ++refused;
		ck_assert_int_eq(decode_start(&j, all, wire, w.len - 1, &target, &limits), 0);
		while ((rc = decode_run(&j)) == SPLIT_AGAIN)
			;
		if (rc == -SPLIT_E_LINEARIZE_LIMIT_WORK)
			ck_assert_mem_eq(wire, w.bytes, w.len);
	} while (rc == -SPLIT_E_LINEARIZE_LIMIT_WORK);
	ck_assert_int_eq(rc, 0);
	ck_assert_uint_gt(refused, 4);
	ck_assert_uint_eq(wire[w.len - 1], 0);
	free(wire);
	free(w.bytes);
}
END_TEST

START_TEST(test_alias_utf8)
{
	struct linear_target target = arena_target(&arena);
	struct decode_job j;
	struct wire w = {0};
	char text[256];
	int rc;

	memset(text, 'x', sizeof(text));
	text[200] = (char)0xff;
	wire_tag(&w, 15, 2);
	wire_varint(&w, sizeof(text));
	wire_put(&w, text, sizeof(text));
	wire_put(&w, "", 1);
	target.alias_min = 1;
	ck_assert_int_eq(decode_start(&j, all, w.bytes, w.len - 1, &target, NULL), 0);
	while ((rc = decode_run(&j)) == SPLIT_AGAIN)
		;
	ck_assert_int_eq(rc, -SPLIT_E_LINEARIZE_UTF8);
	free(w.bytes);
}
END_TEST

START_TEST(test_utf8_boundaries)
{
	/* A long string with a character across every slice of a quantum of 1. */
	enum { N = 3 * LINEAR_UNIT_BYTES };
	struct linear_limits one = {.work_quantum = 1};
	uint8_t wire[N + 16];
	const void *out;
	int shift, at;

	for (shift = 0; shift < 4; shift++) {
		memcpy(wire, "\x7a\x80\x06", 3);
		memset(wire + 3, 'a', N);
		for (at = shift; at + 4 <= N; at += 4)
			memcpy(wire + 3 + at, "\xf0\x9f\x98\x80", 4);
		ck_assert_int_eq(decode(all, wire, N + 3, one, &out), 0);
		ck_assert_mem_eq(((const Unit3__All *)out)->f_string, wire + 3, N);
		wire[3 + LINEAR_UNIT_BYTES] = 0xff;
		ck_assert_int_eq(decode(all, wire, N + 3, one, &out), -SPLIT_E_LINEARIZE_UTF8);
	}
}
END_TEST

START_TEST(test_required)
{
	const void *out;
	const Unit2__Needs *m;

	ck_assert_int_eq(decode(needs, WIRE("\x08\x01\x12\x00"), unlimited, &out), 0);
	m = out;
	ck_assert_str_eq(m->b, "");
	ck_assert_int_eq(decode(needs, WIRE("\x08\x01"), unlimited, &out),
			 -SPLIT_E_LINEARIZE_REQUIRED);
	ck_assert_int_eq(decode(needs, "", 0, unlimited, &out), -SPLIT_E_LINEARIZE_REQUIRED);
	/* In a sub-message; completed by its second piece; not completed by it. */
	ck_assert_int_eq(decode(needs, WIRE("\x08\x01\x12\x00\x1a\x02\x08\x01"), unlimited, &out),
			 -SPLIT_E_LINEARIZE_REQUIRED);
	ck_assert_int_eq(decode(needs, WIRE("\x1a\x02\x08\x01\x08\x01\x12\x00\x1a\x02\x12\x00"),
				unlimited, &out),
			 0);
	ck_assert_int_eq(decode(needs, WIRE("\x1a\x02\x08\x01\x08\x01\x12\x00\x1a\x02\x08\x00"),
				unlimited, &out),
			 -SPLIT_E_LINEARIZE_REQUIRED);
	/* proto2 strings are not checked. */
	ck_assert_int_eq(decode(needs, WIRE("\x08\x01\x12\x01\xff"), unlimited, &out), 0);
}
END_TEST

/* `depth` levels of All.f_self (field 18), or of unknown groups. */
static size_t nest(uint8_t *wire, int depth, bool groups)
{
	uint8_t *p = wire;
	int i;

	if (groups) {
		for (i = 0; i < depth; i++, p += 2)
			memcpy(p, "\x9b\x06", 2);
		for (i = 0; i < depth; i++, p += 2)
			memcpy(p, "\x9c\x06", 2);
		return (size_t)(p - wire);
	}
	for (i = 1; i <= depth; i++) { /* lengths as overlong 2-byte varints: constant size */
		size_t len = (size_t)(depth - i) * 4;

		*p++ = 0x92;
		*p++ = 0x01;
		*p++ = (uint8_t)(len | 0x80);
		*p++ = (uint8_t)(len >> 7);
	}
	return (size_t)(p - wire);
}

START_TEST(test_depth)
{
	static uint8_t wire[4096];
	struct linear_limits three = {.depth_max = 3};
	const void *out;
	int groups;

	for (groups = 0; groups < 2; groups++) {
		ck_assert_int_eq(decode(all, wire, nest(wire, 100, groups), unlimited, &out), 0);
		ck_assert_int_eq(decode(all, wire, nest(wire, 101, groups), unlimited, &out),
				 -SPLIT_E_LINEARIZE_DEPTH);
		ck_assert_int_eq(decode(all, wire, nest(wire, 3, groups), three, &out), 0);
		ck_assert_int_eq(decode(all, wire, nest(wire, 4, groups), three, &out),
				 -SPLIT_E_LINEARIZE_DEPTH);
	}
}
END_TEST

START_TEST(test_limits)
{
	struct linear_limits l = {.wire_bytes_max = 4};
	struct wire w = {0};
	const void *out;
	int i, rc;

	ck_assert_int_eq(decode(all,
				WIRE("\x7a\x03"
				     "abc"),
				l, &out),
			 -SPLIT_E_LINEARIZE_LIMIT_WIRE);
	l = (struct linear_limits){.linear_bytes_max = schema_message_bytes(all) + 3};
	ck_assert_int_eq(decode(all,
				WIRE("\x7a\x02"
				     "ab"),
				l, &out),
			 0);
	ck_assert_int_eq(decode(all,
				WIRE("\x7a\x03"
				     "abc"),
				l, &out),
			 -SPLIT_E_LINEARIZE_LIMIT_LINEAR);
	/* A bomb: 100,000 empty sub-messages in 300 kB. */
	for (i = 0; i < 100000; i++)
		wire_put(&w, "\xea\x01\x00", 3);
	l = (struct linear_limits){.linear_bytes_max = 10 << 20};
	ck_assert_int_eq(decode(all, w.bytes, w.len, l, &out), -SPLIT_E_LINEARIZE_LIMIT_LINEAR);
	l = (struct linear_limits){.elements_max = 99999};
	ck_assert_int_eq(decode(all, w.bytes, w.len, l, &out), -SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	l = (struct linear_limits){.work_max = 150000, .work_quantum = 1000};
	rc = decode(all, w.bytes, w.len, l, &out);
	ck_assert_int_eq(rc, -SPLIT_E_LINEARIZE_LIMIT_WORK);
	ck_assert_int_eq(linearize_map_status(rc), 8);
	free(w.bytes);
	/* Packed numbers count as elements too. */
	l = (struct linear_limits){.elements_max = 3};
	ck_assert_int_eq(decode(all, WIRE("\xaa\x01\x04\x01\x02\x03\x04"), l, &out),
			 -SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
}
END_TEST

START_TEST(test_interleaved_growth)
{
	/* Two arrays by turns: memory stays within four times the elements, work is linear. */
	enum { N = 20000 };
	struct linear_limits l = {.work_quantum = 64};
	struct linear_target target = arena_target(&arena);
	struct decode_job j;
	struct wire w = {0};
	const Unit3__All *m;
	int i, rc;

	arena.policy = CHUNK_WANT;
	for (i = 0; i < N; i++) {
		wire_tag(&w, 21, 0);
		wire_varint(&w, (uint64_t)i);
		wire_tag(&w, 27, 2);
		wire_put(&w, "\x01z", 2);
	}
	ck_assert_int_eq(decode_start(&j, all, w.bytes, w.len, &target, &l), 0);
	while ((rc = decode_run(&j)) == SPLIT_AGAIN)
		;
	ck_assert_int_eq(rc, 0);
	m = (const Unit3__All *)decode_root(&j);
	ck_assert_uint_eq(m->n_r_int32, N);
	ck_assert_uint_eq(m->n_r_string, N);
	for (i = 0; i < N; i++) {
		ck_assert_int_eq(m->r_int32[i], i);
		ck_assert_str_eq(m->r_string[i], "z");
	}
	ck_assert_uint_lt(decode_linear_bytes(&j), 4 * N * (4 + 8) + N * 2 + 10000);
	ck_assert_uint_lt(decode_work(&j), 8 * N);
	free(w.bytes);
}
END_TEST

START_TEST(test_exact_array)
{
	/* One run makes one exact array: the struct, the hidden word, the pointers, the strings. */
	struct linear_target target = arena_target(&arena);
	struct decode_job j;
	struct wire w = {0};
	int i;

	arena.policy = CHUNK_LARGE;
	for (i = 0; i < 100; i++)
		wire_put(&w, "\xda\x01\x01z", 4);
	ck_assert_int_eq(decode_start(&j, all, w.bytes, w.len, &target, NULL), 0);
	ck_assert_int_eq(decode_run(&j), 0);
	ck_assert_uint_eq(decode_linear_bytes(&j), schema_message_bytes(all) + 8 + 800 + 200);
	ck_assert_int_eq(arena.got, 1);
	ck_assert_uint_eq(decode_chunk_used(&j), decode_linear_bytes(&j));
	ck_assert_ptr_eq((const void *)decode_root(&j), arena.chunks[0].mem);
	free(w.bytes);
}
END_TEST

START_TEST(test_quantum_bounds_work)
{
	/* A megabyte of bytes in slices: no run copies more than its quantum. */
	enum { BYTES = 1 << 20 };
	struct linear_limits l = {.work_quantum = 16};
	struct linear_target target = arena_target(&arena);
	struct wire w = {0};
	uint8_t *content = malloc(BYTES);
	uint64_t root;
	unsigned runs;

	memset(content, 7, BYTES);
	wire_tag(&w, 16, 2);
	wire_varint(&w, BYTES);
	wire_put(&w, content, BYTES);
	ck_assert_int_eq(decode_all(all, w.bytes, w.len, &target, l, &root, &runs), 0);
	ck_assert_uint_ge(runs, BYTES / LINEAR_UNIT_BYTES / 16);
	ck_assert_mem_eq(((const Unit3__All *)root)->f_bytes.data, content, BYTES);
	free(content);
	free(w.bytes);
}
END_TEST

START_TEST(test_chunk_failures)
{
	/* Every chunk_get fails once: the error comes through, and nothing else happens. */
	static const char wire[] =
		"\x08\x01\x7a\x02hi\x8a\x01\x04\x18\x01\x18\x02\xda\x01\x01x\xaa\x01\x02"
		"\x01\x02\xda\x01\x01y\x9a\x06\x01z\x98\x06\x01\x98\x06\x01\x98\x06"
		"\x01\x98\x06\x01\xe2\x01\x01q\xba\x01\x04zzzz";
	int k, rc = -1;
	const void *out;

	for (k = 1; rc != 0; k++) {
		arena_fini(&arena);
		arena_init(&arena, CHUNK_EXACT);
		arena.fail_at = k;
		rc = decode(all, WIRE(wire), unlimited, &out);
		ck_assert(rc == 0 || rc == -SPLIT_E_LINEARIZE_NOMEM);
		if (rc) {
			ck_assert_int_eq(arena.got, k);
			ck_assert_int_eq(linearize_map_status(rc), 8);
		}
	}
	ck_assert_int_gt(k, 12);
}
END_TEST

START_TEST(test_two_mappings)
{
	/* The receiver sees the memory elsewhere, and read-only: its pointers are right there. */
	enum { BYTES = 1 << 20 };
	struct random r;
	int fd = memfd_create("linear", 0), i;
	uint8_t *ours, *theirs;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, BYTES), 0);
	ours = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	theirs = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(ours, MAP_FAILED);
	ck_assert_ptr_ne(theirs, MAP_FAILED);
	random_seed(&r, 5);
	for (i = 0; i < 300; i++) {
		struct block b = {.mem = ours, .bytes = BYTES, .delta = theirs - ours};
		struct linear_target target = block_target(&b);
		struct linear_source source = {theirs, (uintptr_t)theirs, BYTES};
		ProtobufCMessage *reference;
		struct wire w;
		uint64_t root;
		uint8_t *packed, *encoded;
		size_t len;
		char why[200];

		random_wire(&r, &unit3__all__descriptor, true, &w);
		reference =
			protobuf_c_message_unpack(&unit3__all__descriptor, NULL, w.len, w.bytes);
		ck_assert_int_eq(decode_all(all, w.bytes, w.len, &target, unlimited, &root, NULL),
				 0);
		ck_assert_ptr_nonnull(reference);
		ck_assert_uint_eq(root, (uintptr_t)theirs);
		/* The receiver just uses it: protobuf-c's own pack reads every pointer. */
		ck_assert_msg(message_equal(reference, (void *)root, 0, why), "%s", why);
		packed = malloc(protobuf_c_message_get_packed_size((void *)root) + 1);
		len = protobuf_c_message_pack((void *)root, packed);
		ck_assert_int_eq(encode_all(all, &source, root, unlimited, 0, &encoded, &b.used),
				 0);
		ck_assert_uint_eq(b.used, len);
		ck_assert_mem_eq(encoded, packed, len);
		free(encoded);
		free(packed);
		free(w.bytes);
		protobuf_c_message_free_unpacked(reference, NULL);
	}
	munmap(ours, BYTES);
	munmap(theirs, BYTES);
	close(fd);
}
END_TEST

START_TEST(test_concatenation)
{
	/* protobuf's law: parsing A|B is merging A and B. Held between the top level, where fields
	 * just follow each other, and a sub-message that comes twice. */
	struct random r;
	int i;

	random_seed(&r, 11);
	for (i = 0; i < 200; i++) {
		struct wire a, b, joined = {0}, twice = {0};
		const Unit3__All *outer;
		const void *plain;
		char why[200];

		random_wire(&r, &unit3__all__descriptor, true, &a);
		random_wire(&r, &unit3__all__descriptor, true, &b);
		wire_put(&joined, a.bytes, a.len);
		wire_put(&joined, b.bytes, b.len);
		wire_tag(&twice, 18, 2);
		wire_varint(&twice, a.len);
		wire_put(&twice, a.bytes, a.len);
		wire_put(&twice, "\x08\x01", 2);
		wire_tag(&twice, 18, 2);
		wire_varint(&twice, b.len);
		wire_put(&twice, b.bytes, b.len);
		ck_assert_int_eq(decode(all, joined.bytes, joined.len, unlimited, &plain), 0);
		outer = decode3(twice.bytes, twice.len);
		ck_assert_msg(message_equal(plain, &outer->f_self->base, 0, why), "%s", why);
		free(a.bytes);
		free(b.bytes);
		free(joined.bytes);
		free(twice.bytes);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("decode");
	TCase *c = tcase_create("decode");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 300);
	tcase_add_test(c, test_scalars);
	tcase_add_test(c, test_empty_input);
	tcase_add_test(c, test_defaults);
	tcase_add_test(c, test_repeated);
	tcase_add_test(c, test_map);
	tcase_add_test(c, test_merge);
	tcase_add_test(c, test_oneof);
	tcase_add_test(c, test_unknown);
	tcase_add_loop_test(c, test_bad, 0, sizeof(bads) / sizeof(bads[0]));
	tcase_add_loop_test(c, test_wrong_wire, 0, 8);
	tcase_add_loop_test(c, test_alias, 0, 4);
	tcase_add_loop_test(c, test_alias_work, 0, 2);
	tcase_add_test(c, test_alias_utf8);
	tcase_add_test(c, test_utf8_boundaries);
	tcase_add_test(c, test_required);
	tcase_add_test(c, test_depth);
	tcase_add_test(c, test_limits);
	tcase_add_test(c, test_interleaved_growth);
	tcase_add_test(c, test_exact_array);
	tcase_add_test(c, test_quantum_bounds_work);
	tcase_add_test(c, test_chunk_failures);
	tcase_add_test(c, test_two_mappings);
	tcase_add_test(c, test_concatenation);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
