#include "base_check.h"

#include "base/list.h"

struct item {
	int value;
	struct list link;
};

static int value_of(struct list *node)
{
	return list_entry(node, struct item, link)->value;
}

START_TEST(order)
{
	struct item a = {.value = 1}, b = {.value = 2}, c = {.value = 3};
	struct list head;
	int sum = 0, want = 1;

	list_init(&head);
	ck_assert(list_empty(&head));
	ck_assert_ptr_null(list_first(&head));
	ck_assert_ptr_null(list_last(&head));
	ck_assert_ptr_null(list_pop_head(&head));
	list_add_tail(&head, &b.link);
	list_add_tail(&head, &c.link);
	list_add_head(&head, &a.link);
	list_for_each (pos, &head)
		ck_assert_int_eq(value_of(pos), want++);
	ck_assert_uint_eq(list_count(&head), 3);
	ck_assert_int_eq(value_of(list_first(&head)), 1);
	ck_assert_int_eq(value_of(list_last(&head)), 3);
	list_for_each_safe (pos, &head) {
		sum += value_of(pos);
		list_del(pos);
	}
	ck_assert_int_eq(sum, 6);
	ck_assert(list_empty(&head));
}
END_TEST

START_TEST(del_is_idempotent)
{
	struct item a, b;
	struct list head;

	list_init(&head);
	list_init(&a.link);
	list_del(&a.link);
	list_add_tail(&head, &a.link);
	list_add_tail(&head, &b.link);
	list_del(&a.link);
	list_del(&a.link);
	ck_assert(list_empty(&a.link));
	ck_assert_uint_eq(list_count(&head), 1);
	ck_assert_ptr_eq(list_pop_head(&head), &b.link);
	ck_assert(list_empty(&head));
}
END_TEST

START_TEST(splice)
{
	struct item a = {.value = 1}, b = {.value = 2}, c = {.value = 3};
	struct list to, from;
	int want = 1;

	list_init(&to);
	list_init(&from);
	list_splice_tail(&to, &from);
	ck_assert(list_empty(&to));
	list_add_tail(&to, &a.link);
	list_add_tail(&from, &b.link);
	list_add_tail(&from, &c.link);
	list_splice_tail(&to, &from);
	ck_assert(list_empty(&from));
	list_for_each (pos, &to)
		ck_assert_int_eq(value_of(pos), want++);
	ck_assert_int_eq(want, 4);
}
END_TEST

BASE_CHECK_MAIN("list", order, del_is_idempotent, splice)
