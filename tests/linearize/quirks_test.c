/* The checked list of where protobuf-c 1.4.1 is not right, and what linearize does instead. A newer
 * protobuf-c that mends one of these fails here, and its line in QUIRKS goes. */
#include "tests/linearize/support.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct known {
	const char *what;
	enum quirk_bit bit;
	const char *wire;
	size_t len;
	bool protobuf_c_accepts;
	int ours;
};

#define KNOWN(what, bit, wire, accepts, ours)                                                      \
	{                                                                                          \
		what, QUIRK_BIT_##bit, wire, sizeof(wire) - 1, accepts, ours                       \
	}

static const struct known list[] = {
	KNOWN("merge with an unset oneof fails", MERGE, "\x92\x01\x02\x08\x01\x92\x01\x00", false,
	      0),
	KNOWN("unknown group", GROUP, "\x9b\x06\x08\x01\x9c\x06", false, 0),
	KNOWN("bool as 32 bits", WIRE, "\x6d\x01\x02\x03\x04", true, 0),
	KNOWN("int32 as 32 bits", WIRE, "\x0d\x01\x02\x03\x04", false, 0),
	KNOWN("bool bits past 64", BOOL_VALUE, "\x68\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", true,
	      0),
	KNOWN("packed bool of two bytes is one element", PACKED_BOOL, "\xca\x01\x02\x80\x01", true,
	      0),
	KNOWN("tag past 32 bits", TAG, "\x88\x80\x80\x80\x70\x01", true,
	      -SPLIT_E_LINEARIZE_FIELD_NUMBER),
	KNOWN("field number 0 in long form", TAG, "\x80\x00\x01", true,
	      -SPLIT_E_LINEARIZE_TAG_ZERO),
	KNOWN("proto3 string", UTF8, "\x7a\x01\xff", true, -SPLIT_E_LINEARIZE_UTF8),
};

static int decode(const struct schema_message *m, const void *wire, size_t len, struct arena *a,
		  uint64_t *root)
{
	struct linear_target target = arena_target(a);

	return decode_all(m, wire, len, &target, unlimited, root, NULL);
}

START_TEST(test_known)
{
	const struct known *k = &list[_i];
	const struct schema_message *all;
	struct schema *s = schema_of(&unit3__all__descriptor, &all);
	const uint8_t *wire = (const uint8_t *)k->wire;
	ProtobufCMessage *theirs;
	struct arena a;
	uint64_t root;
	int rc;

	ck_assert_msg(quirks_of(&unit3__all__descriptor, wire, k->len) >> k->bit & 1, "%s",
		      k->what);
	theirs = protobuf_c_message_unpack(&unit3__all__descriptor, NULL, k->len, wire);
	ck_assert_msg(!theirs == !k->protobuf_c_accepts, "%s: protobuf-c", k->what);
	protobuf_c_message_free_unpacked(theirs, NULL);
	arena_init(&a, CHUNK_EXACT);
	rc = decode(all, wire, k->len, &a, &root);
	ck_assert_msg(rc == k->ours, "%s: %s", k->what, error_name(rc));
	arena_fini(&a);
	schema_destroy(s);
}
END_TEST

START_TEST(test_values)
{
	const struct schema_message *all;
	struct schema *s = schema_of(&unit3__all__descriptor, &all);
	const Unit3__All *m;
	struct arena a;
	uint64_t root;

	arena_init(&a, CHUNK_EXACT);
	/* The second piece of o_leaf does not wipe the first, a packed bool is a varint. */
	ck_assert_int_eq(decode(all, "\xe2\x02\x02\x08\x01\xe2\x02\x00\xca\x01\x03\x80\x01\x02", 14,
				&a, &root),
			 0);
	m = (const Unit3__All *)root;
	ck_assert_int_eq(m->o_leaf->a, 1);
	ck_assert_uint_eq(m->n_r_bool, 2);
	ck_assert_int_eq(m->r_bool[0], 1);
	ck_assert_int_eq(m->r_bool[1], 1);
	arena_fini(&a);
	schema_destroy(s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("quirks");
	TCase *c = tcase_create("quirks");
	SRunner *runner;
	int failed;

	tcase_add_loop_test(c, test_known, 0, sizeof(list) / sizeof(list[0]));
	tcase_add_test(c, test_values);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
