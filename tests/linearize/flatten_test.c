#include "tests/linearize/support.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(16) uint8_t memory[65536];
static struct block block;
static struct linear_target target;

static void setup(void)
{
	block = (struct block){.mem = memory, .bytes = sizeof(memory)};
	target = block_target(&block);
}

/* Flatten with `memory` as the segment and tell that the copy equals the source. */
static const void *flattened(const ProtobufCMessage *msg)
{
	uint64_t root;
	char why[200];

	ck_assert_int_eq(flatten(msg, &target, memory, sizeof(memory), NULL, &root), 0);
	ck_assert_msg(message_equal(msg, (const void *)root, 0, why), "%s", why);
	return (const void *)root;
}

static bool is_inside(const void *p)
{
	return (uintptr_t)p - (uintptr_t)memory < sizeof(memory);
}

START_TEST(test_outside)
{
	Unit3__All m = UNIT3__ALL__INIT;
	Unit3__Leaf leaf = UNIT3__LEAF__INIT;
	Unit3__All *selves[2] = {&m, NULL};
	Unit3__All child = UNIT3__ALL__INIT;
	char *names[3] = {(char *)(uintptr_t) "a", (char *)(uintptr_t) "", NULL};
	int32_t numbers[3] = {1, 2, 3};
	uint8_t bytes[2] = {4, 5};
	const Unit3__All *f;

	selves[0] = &child;
	leaf.s = names[0];
	m.f_string = names[0];
	m.f_leaf = &leaf;
	m.f_bytes = (ProtobufCBinaryData){2, bytes};
	m.n_r_self = 1;
	m.r_self = selves;
	m.n_r_string = 2;
	m.r_string = names;
	m.n_r_int32 = 3;
	m.r_int32 = numbers;
	m.choice_case = UNIT3__ALL__CHOICE_O_LEAF;
	m.o_leaf = &leaf;
	f = flattened(&m.base);
	ck_assert(is_inside(f) && is_inside(f->f_string) && is_inside(f->f_leaf) &&
		  is_inside(f->f_leaf->s) && is_inside(f->f_bytes.data) && is_inside(f->r_self) &&
		  is_inside(f->r_self[0]) && is_inside(f->r_string[1]) && is_inside(f->r_int32) &&
		  is_inside(f->o_leaf));
	ck_assert_ptr_eq(f->r_self[0]->f_string, protobuf_c_empty_string);
}
END_TEST

START_TEST(test_inside_stays)
{
	/* Built in place: one walk, no copy. With one string outside only its owners are copied. */
	Unit3__All *m = (Unit3__All *)(void *)memory;
	Unit3__Leaf *leaf = (Unit3__Leaf *)(void *)(memory + 2048);
	Unit3__Leaf *other = (Unit3__Leaf *)(void *)(memory + 3072);
	const Unit3__All *f;
	size_t used = block.used = 4096;

	unit3__all__init(m);
	unit3__leaf__init(leaf);
	unit3__leaf__init(other);
	m->f_leaf = leaf;
	m->choice_case = UNIT3__ALL__CHOICE_O_LEAF;
	m->o_leaf = other;
	other->s = strcpy((char *)memory + 4000, "inside");
	f = flattened(&m->base);
	ck_assert_ptr_eq(f, m);
	ck_assert_uint_eq(block.used, used);
	leaf->s = (char *)(uintptr_t) "outside";
	f = flattened(&m->base);
	ck_assert_ptr_ne(f, m);
	ck_assert(is_inside(f->f_leaf) && f->f_leaf != leaf && is_inside(f->f_leaf->s));
	ck_assert_ptr_eq(f->o_leaf, other);   /* stays */
	ck_assert_str_eq(leaf->s, "outside"); /* the source is not changed */
	ck_assert_ptr_eq(m->f_leaf, leaf);
}
END_TEST

START_TEST(test_defaults)
{
	Unit2__Defaults m = UNIT2__DEFAULTS__INIT;
	const Unit2__Defaults *f = flattened(&m.base);
	uint64_t root;

	ck_assert_ptr_eq(f->s, unit2__defaults__s__default_value);
	ck_assert_ptr_eq(f->rb.data, unit2__defaults__rb__default_value_data);
	m.b.data = (uint8_t *)8; /* has_b is 0: not looked at */
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, NULL, &root), 0);
}
END_TEST

START_TEST(test_refused)
{
	Unit3__All m = UNIT3__ALL__INIT;
	struct linear_limits l = {.linear_bytes_max = 100};
	uint64_t root;
	const char *text = "text";

	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, &l, &root),
			 -SPLIT_E_LINEARIZE_LIMIT_LINEAR);
	l = (struct linear_limits){.elements_max = 1};
	m.n_r_string = 1;
	m.r_string = (char **)(uintptr_t)&text;
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, &l, &root),
			 -SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	m.r_string = NULL;
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, NULL, &root),
			 -SPLIT_E_LINEARIZE_SOURCE);
	m.n_r_string = 0;
	m.f_bytes.len = 1;
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, NULL, &root),
			 -SPLIT_E_LINEARIZE_SOURCE);
	m.f_bytes.len = 0;
	m.f_self = &m; /* a cycle */
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, NULL, &root), -SPLIT_E_LINEARIZE_DEPTH);
	ck_assert_int_eq(flatten(&m.base, &target, &m, sizeof(m), NULL, &root),
			 -SPLIT_E_LINEARIZE_DEPTH);
	m.f_self = NULL;
	block.used = block.bytes;
	ck_assert_int_eq(flatten(&m.base, &target, NULL, 0, NULL, &root), -SPLIT_E_LINEARIZE_NOMEM);
	target.delta = 16;
	ck_assert_int_eq(flatten(&m.base, &target, memory, 16, NULL, &root), -SPLIT_E_BASE_INVALID);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("flatten");
	TCase *c = tcase_create("flatten");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(c, setup, NULL);
	tcase_add_test(c, test_outside);
	tcase_add_test(c, test_inside_stays);
	tcase_add_test(c, test_defaults);
	tcase_add_test(c, test_refused);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
