/* One field of a message on the wire: found, absent, or not to be seen. */
#include "daemon/balance/field.h"

#include <string.h>

#include "tests/base/base_check.h"

#define PATH(...)                                                                                  \
	(const uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)

/* 1: 150; 2: "abc"; 3: { 1: "x", 2: { 1: 7 } }; 4: fixed32 5; 5: fixed64 6; group 6 { 1: 9 };
 * 7: "" ; 8: 0 */
static const uint8_t message[] = {
	0x08, 0x96, 0x01, 0x12, 0x03, 'a',  'b',  'c',  0x1a, 0x07, 0x0a, 0x01, 'x',
	0x12, 0x02, 0x08, 0x07, 0x25, 0x05, 0,    0,    0,    0x29, 0x06, 0,    0,
	0,    0,    0,    0,    0,    0x33, 0x08, 0x09, 0x34, 0x3a, 0x00, 0x40, 0x00,
};

static struct field_value v;

static enum field_result find(const uint32_t *path, unsigned depth)
{
	return field_find(message, sizeof(message), true, path, depth, &v);
}

START_TEST(every_type_is_found)
{
	ck_assert_int_eq(find(PATH(1)), FIELD_FOUND);
	ck_assert_uint_eq(v.number, 150);
	ck_assert_uint_eq(v.len, 8);
	ck_assert_int_eq(find(PATH(2)), FIELD_FOUND);
	ck_assert_uint_eq(v.len, 3);
	ck_assert_mem_eq(v.bytes, "abc", 3);
	ck_assert_int_eq(find(PATH(3, 1)), FIELD_FOUND);
	ck_assert_mem_eq(v.bytes, "x", 1);
	ck_assert_int_eq(find(PATH(3, 2, 1)), FIELD_FOUND);
	ck_assert_uint_eq(v.number, 7);
	ck_assert_int_eq(find(PATH(4)), FIELD_FOUND);
	ck_assert_uint_eq(v.number, 5);
	ck_assert_int_eq(find(PATH(5)), FIELD_FOUND);
	ck_assert_uint_eq(v.number, 6);
}
END_TEST

START_TEST(a_default_is_as_good_as_absent)
{
	ck_assert_int_eq(find(PATH(7)), FIELD_ABSENT);
	ck_assert_int_eq(find(PATH(8)), FIELD_ABSENT);
	ck_assert_int_eq(find(PATH(9)), FIELD_ABSENT);
	ck_assert_int_eq(find(PATH(6)), FIELD_ABSENT); /* a group is no value */
	ck_assert_int_eq(find(PATH(3, 3)), FIELD_ABSENT);
	ck_assert_int_eq(find(PATH(1, 1)), FIELD_ABSENT); /* nothing lies in a number */
	ck_assert_int_eq(field_find(message, 0, true, PATH(1), &v), FIELD_ABSENT);
}
END_TEST

/* Cut anywhere: what is found is right, and nothing behind the cut is said to be absent. */
START_TEST(what_is_cut_off_is_not_seen)
{
	for (size_t n = 0; n <= sizeof(message); n++) {
		uint8_t part[sizeof(message)];
		enum field_result two, deep, nine;

		memcpy(part, message, n);
		two = field_find(part, n, false, PATH(2), &v);
		ck_assert_int_eq(two, n >= 8 ? FIELD_FOUND : FIELD_UNSEEN);
		deep = field_find(part, n, false, PATH(3, 2, 1), &v);
		ck_assert_int_eq(deep, n >= 17 ? FIELD_FOUND : FIELD_UNSEEN);
		nine = field_find(part, n, false, PATH(9), &v);
		ck_assert_int_eq(nine, FIELD_UNSEEN);
	}
}
END_TEST

START_TEST(nonsense_is_not_seen)
{
	static const struct {
		uint8_t bytes[16];
		size_t n;
	} cases[] = {
		{{0x00, 0x01}, 2},       /* number 0 */
		{{0x0e, 0x01}, 2},       /* type 6 */
		{{0x34}, 1},             /* the end of no group */
		{{0x33, 0x08, 0x01}, 3}, /* a group without an end */
		{{0x12, 0x05, 'a'}, 3},  /* longer than the message */
		{{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 11},
		{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 12},
		{{0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 12},
	};
	uint8_t groups[FIELD_GROUPS_MAX + 2];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_int_eq(field_find(cases[i].bytes, cases[i].n, true, PATH(9), &v),
				 FIELD_UNSEEN);
	memset(groups, 0x33, sizeof(groups));
	ck_assert_int_eq(field_find(groups, sizeof(groups), true, PATH(9), &v), FIELD_UNSEEN);
}
END_TEST

BASE_CHECK_MAIN("field", every_type_is_found, a_default_is_as_good_as_absent,
		what_is_cut_off_is_not_seen, nonsense_is_not_seen)
