#include "base_check.h"

#include <string.h>

#include "base/random.h"

START_TEST(seed_repeats)
{
	struct random a, b;

	random_seed(&a, 42);
	random_seed(&b, 42);
	for (int i = 0; i < 100; i++)
		ck_assert_uint_eq(random_next(&a), random_next(&b));
	random_seed(&b, 43);
	ck_assert_uint_ne(random_next(&a), random_next(&b));
}
END_TEST

/* xoshiro256** from state {1,2,3,4}: the first outputs of the authors' C code. */
START_TEST(reference)
{
	static const uint64_t want[] = {11520, 0, 1509978240, UINT64_C(1215971899390074240)};
	struct random r = {{1, 2, 3, 4}};

	for (size_t i = 0; i < 4; i++)
		ck_assert_uint_eq(random_next(&r), want[i]);
}
END_TEST

START_TEST(ranges)
{
	struct random r;
	unsigned hist[6] = {0};

	random_seed(&r, 7);
	for (int i = 0; i < 60000; i++)
		hist[random_below(&r, 6)]++;
	for (int i = 0; i < 6; i++)
		ck_assert(hist[i] > 9500 && hist[i] < 10500);
	for (int i = 0; i < 1000; i++) {
		uint64_t v = random_between(&r, 5, 7);
		double u = random_unit(&r);

		ck_assert(v >= 5 && v <= 7);
		ck_assert(u >= 0 && u < 1);
	}
	ck_assert_uint_eq(random_below(&r, 1), 0);
	(void)random_between(&r, 0, UINT64_MAX);
}
END_TEST

START_TEST(fill)
{
	struct random r, s;
	uint8_t a[13] = {0}, b[32] = {0}, c[32] = {0};

	random_seed(&r, 9);
	random_fill(&r, a, 12);
	ck_assert_uint_eq(a[12], 0);
	ck_assert_int_eq(random_bytes(b, sizeof(b)), 0);
	ck_assert_int_eq(random_bytes(c, sizeof(c)), 0);
	ck_assert_mem_ne(b, c, sizeof(b));
	ck_assert_int_eq(random_seed_system(&r), 0);
	ck_assert_int_eq(random_seed_system(&s), 0);
	ck_assert_mem_ne(&r, &s, sizeof(r));
}
END_TEST

BASE_CHECK_MAIN("random", seed_repeats, reference, ranges, fill)
