/* The engine's memory: classes, runs, bounds, and that nothing is lost. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/poison.h"
#include "base/random.h"
#include "daemon/http2/http2_internal.h"

#define BYTES (4u << 20)

static struct http2_memory m;

static void setup(void)
{
	ck_assert_int_eq(http2_memory_init(&m, BYTES), 0);
}

static void teardown(void)
{
	http2_memory_fini(&m);
}

START_TEST(sizes_and_alignment)
{
	for (size_t n = 1; n <= 300000; n = n < 5000 ? n + 7 : n * 3 / 2) {
		size_t taken = 0;
		uint8_t *p = http2_memory_get(&m, n, &taken);

		if (n > MEMORY_BYTES_MAX) {
			ck_assert_ptr_null(p);
			continue;
		}
		ck_assert_ptr_nonnull(p);
		ck_assert_uint_eq((uintptr_t)p % 16, 0);
		ck_assert_uint_ge(taken, n);
		ck_assert_uint_eq(http2_memory_size(&m, p), taken);
		memset(p, 0xa5, n);
		ck_assert_uint_eq(http2_memory_put(&m, p), taken);
		ck_assert_uint_eq(m.used, 0);
	}
	ck_assert_ptr_null(http2_memory_get(&m, 0, &(size_t){0}));
	ck_assert_uint_eq(http2_memory_put(&m, NULL), 0);
}
END_TEST

/* Whatever was taken and given back, one size does not eat the room of another for ever. */
START_TEST(classes_return_their_pages)
{
	static void *p[BYTES / 32 + 1];
	static const size_t sizes[] = {32, 100, 1000, 4096, 24000, MEMORY_BYTES_MAX};
	size_t counts[6][2];

	for (int round = 0; round < 2; round++)
		for (size_t s = 0; s < 6; s++) {
			size_t n = 0;
			size_t taken;

			while ((p[n] = http2_memory_get(&m, sizes[s], &taken)) != NULL)
				n++;
			counts[s][round] = n;
			for (size_t i = 0; i < n; i++)
				http2_memory_put(&m, p[i]);
			ck_assert_uint_eq(m.used, 0);
		}
	/* An empty page that a class keeps may cost others a page or a run. */
	for (size_t s = 0; s < 6; s++) {
		size_t lost = counts[s][0] > counts[s][1] ? counts[s][0] - counts[s][1] : 0;

		ck_assert_uint_le(lost * sizes[s],
				  6 * (sizes[s] > MEMORY_PAGE ? sizes[s] : MEMORY_PAGE));
	}
	ck_assert_uint_ge(counts[5][1], BYTES / MEMORY_BYTES_MAX / 2);
}
END_TEST

START_TEST(random_use)
{
	struct random r;
	struct {
		uint8_t *p;
		size_t n;
		uint8_t mark;
	} held[300] = {0};

	random_seed(&r, 42);
	for (int i = 0; i < 60000; i++) {
		size_t k = random_below(&r, 300);

		if (held[k].p != NULL) {
			/* ck_assert writes to a pipe each time: too slow for every byte. */
			for (size_t b = 0; b < held[k].n; b += 61)
				if (held[k].p[b] != held[k].mark)
					ck_abort_msg("a block was overwritten");
			http2_memory_put(&m, held[k].p);
			held[k].p = NULL;
			continue;
		}
		held[k].n = 1 + random_below(&r, i % 10 == 0 ? 60000 : 2000);
		held[k].mark = (uint8_t)i;
		held[k].p = http2_memory_get(&m, held[k].n, &(size_t){0});
		if (held[k].p != NULL)
			memset(held[k].p, held[k].mark, held[k].n);
	}
	for (size_t k = 0; k < 300; k++)
		http2_memory_put(&m, held[k].p);
	ck_assert_uint_eq(m.used, 0);
}
END_TEST

START_TEST(free_memory_is_poisoned)
{
	uint8_t *p = http2_memory_get(&m, 40, &(size_t){0});

	if (POISON_ENABLED) {
		ck_assert(!poison_is_poisoned(p + 39));
		ck_assert(poison_is_poisoned(p + 40));
		http2_memory_put(&m, p);
		ck_assert(poison_is_poisoned(p));
	} else {
		http2_memory_put(&m, p);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("http2/memory");
	TCase *t = tcase_create("memory");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, sizes_and_alignment);
	tcase_add_test(t, classes_return_their_pages);
	tcase_add_test(t, random_use);
	tcase_add_test(t, free_memory_is_poisoned);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
