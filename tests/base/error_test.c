#include "base_check.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"

static const struct {
	int value;
	const char *name;
} all[] = {
#define X(name, value, text) {value, #name},
	ALL_ERRORS(X)
#undef X
};

START_TEST(names_and_values_unique)
{
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		ck_assert_int_gt(all[i].value, 0);
		ck_assert_str_eq(error_name(-all[i].value), all[i].name);
		ck_assert_str_eq(error_name(all[i].value), all[i].name);
		ck_assert_str_ne(error_text(-all[i].value), "unknown error");
		for (size_t j = i + 1; j < ARRAY_LEN(all); j++)
			ck_assert_msg(all[i].value != all[j].value, "%s and %s share %d",
				      all[i].name, all[j].name, all[i].value);
	}
}
END_TEST

START_TEST(edges)
{
	ck_assert_str_eq(error_name(0), "OK");
	ck_assert_str_eq(error_name(-99999), "UNKNOWN");
	ck_assert_str_eq(error_text(-99999), "unknown error");
	ck_assert(!error_is_fatal(0));
	ck_assert(!error_is_fatal(-SPLIT_E_BASE_NOMEM));
	ck_assert(error_is_fatal(-SPLIT_E_FATAL));
	ck_assert(!error_is_fatal(SPLIT_AGAIN));
}
END_TEST

BASE_CHECK_MAIN("error", names_and_values_unique, edges)
