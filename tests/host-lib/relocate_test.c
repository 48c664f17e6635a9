/* A message moved out of its slot is the same message, and points nowhere into the slot. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "host-lib/host_internal.h"
#include "host.pb-c.h"

struct slot_area {
	_Alignas(64) uint8_t mem[SLOT_INLINE_BYTES];
	bool used;
};

static int chunk_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct slot_area *a = ctx;

	(void)want;
	if (a->used || min > sizeof(a->mem))
		return -SPLIT_E_LINEARIZE_NOMEM;
	a->used = true;
	*out = (struct linear_chunk){a->mem, sizeof(a->mem)};
	return 0;
}

static void check_moved(const ProtobufCMessage *message)
{
	struct slot_area area = {.used = false};
	struct linear_target target = {.chunk_get = chunk_get, .ctx = &area};
	_Alignas(64) uint8_t copy[SLOT_INLINE_BYTES];
	ProtobufCMessage *moved;
	uint8_t before[512], after[512];
	size_t len;
	uint64_t root;

	ck_assert_int_eq(flatten(message, &target, NULL, 0, NULL, &root), 0);
	memcpy(copy, area.mem, sizeof(copy));
	moved = (ProtobufCMessage *)(void *)(copy + (root - (uint64_t)(uintptr_t)area.mem));
	relocate_message(moved, message->descriptor, (uint64_t)(uintptr_t)area.mem,
			 sizeof(area.mem), copy - area.mem);
	memset(area.mem, 0xee, sizeof(area.mem)); /* the slot is the daemon's again */
	len = protobuf_c_message_pack(message, before);
	ck_assert_uint_eq(protobuf_c_message_pack(moved, after), len);
	ck_assert_mem_eq(before, after, len);
}

START_TEST(strings_and_bytes)
{
	Split__Test__Small m = SPLIT__TEST__SMALL__INIT;
	uint8_t data[] = {0, 1, 2, 3, 4};

	check_moved(&m.base); /* defaults stay where they are */
	m.name = "name";
	m.payload = (ProtobufCBinaryData){sizeof(data), data};
	m.number = 7;
	check_moved(&m.base);
}
END_TEST

START_TEST(number_that_looks_like_an_address)
{
	struct slot_area area = {.used = false};
	struct linear_target target = {.chunk_get = chunk_get, .ctx = &area};
	Split__Test__Small m = SPLIT__TEST__SMALL__INIT, copy;
	uint64_t root;

	m.number = (int64_t)(uintptr_t)&area.mem[8];
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, NULL, &root), 0);
	memcpy(&copy, (void *)(uintptr_t)root, sizeof(copy));
	relocate_message(&copy.base, m.base.descriptor, (uint64_t)(uintptr_t)area.mem,
			 sizeof(area.mem), 4096);
	ck_assert_int_eq(copy.number, m.number);
}
END_TEST

START_TEST(nested)
{
	Split__Test__Nest deep[4];

	for (int i = 0; i < 4; i++) {
		split__test__nest__init(&deep[i]);
		deep[i].child = i == 0 ? NULL : &deep[i - 1];
	}
	for (int i = 0; i < 4; i++)
		check_moved(&deep[i].base);
}
END_TEST

START_TEST(repeated)
{
	char *strings[] = {"a", "", "three"};
	uint8_t bytes[] = {9, 8, 7};
	ProtobufCBinaryData blobs[] = {{3, bytes}, {0, NULL}};
	int64_t numbers[] = {1, -1, INT64_MAX};
	Split__Test__Nest nest = SPLIT__TEST__NEST__INIT;
	Split__Test__Nest *nests_of[] = {&nest};
	Split__Test__Tags tags = SPLIT__TEST__TAGS__INIT;
	Split__Test__Blobs blob = SPLIT__TEST__BLOBS__INIT;
	Split__Test__Numbers number = SPLIT__TEST__NUMBERS__INIT;
	Split__Test__Nests nests = SPLIT__TEST__NESTS__INIT;

	check_moved(&tags.base);
	tags.n_tags = 3;
	tags.tags = strings;
	check_moved(&tags.base);
	blob.n_blobs = 2;
	blob.blobs = blobs;
	check_moved(&blob.base);
	number.n_numbers = 3;
	number.numbers = numbers;
	check_moved(&number.base);
	nests.n_nests = 1;
	nests.nests = nests_of;
	check_moved(&nests.base);
}
END_TEST

START_TEST(oneofs)
{
	Split__Test__Nest nest = SPLIT__TEST__NEST__INIT;
	uint8_t bytes[] = {9, 8, 7};
	Split__Test__Pick m = SPLIT__TEST__PICK__INIT;

	check_moved(&m.base);
	m.pick_case = SPLIT__TEST__PICK__PICK_TEXT;
	m.text = "text";
	check_moved(&m.base);
	m.pick_case = SPLIT__TEST__PICK__PICK_NUMBER;
	m.number = -5;
	check_moved(&m.base);
	m.pick_case = SPLIT__TEST__PICK__PICK_DATA;
	m.data = (ProtobufCBinaryData){3, bytes};
	check_moved(&m.base);
	m.pick_case = SPLIT__TEST__PICK__PICK_NEST;
	m.nest = &nest;
	check_moved(&m.base);
}
END_TEST

START_TEST(unknown_fields)
{
	uint8_t a[] = {1, 'x'}, b[] = {5};
	ProtobufCMessageUnknownField fields[] = {
		{100, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, 2, a},
		{101, PROTOBUF_C_WIRE_TYPE_VARINT, 1, b},
	};
	Split__Test__Nest m = SPLIT__TEST__NEST__INIT;

	m.base.n_unknown_fields = 1;
	m.base.unknown_fields = fields;
	check_moved(&m.base);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("relocate");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_add_test(t, strings_and_bytes);
	tcase_add_test(t, number_that_looks_like_an_address);
	tcase_add_test(t, nested);
	tcase_add_test(t, repeated);
	tcase_add_test(t, oneofs);
	tcase_add_test(t, unknown_fields);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
