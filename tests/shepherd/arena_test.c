/* Arena: sizes, exhaustion, misuse, poison, and a property test against a reference that knows each
 * byte's owner. */
#include "shepherd/shepherd.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/poison.h"
#include "base/random.h"

#define REGION (64 * 1024)

static uint8_t region[1 << 20] __attribute__((aligned(4096)));

START_TEST(sizes_and_exhaustion)
{
	struct arena *a;
	struct shepherd_chunk c[REGION / 256], big;

	ck_assert_int_eq(arena_create(region, REGION, &a), 0);
	ck_assert_uint_eq(arena_capacity(a), REGION);
	ck_assert_uint_eq(arena_largest(a), REGION);
	for (size_t i = 0; i < REGION / 256; i++) {
		ck_assert_int_eq(arena_get(a, 1 + i % 256, &c[i]), 0);
		ck_assert_uint_eq((uintptr_t)c[i].mem % 256, 0);
		ck_assert_uint_ge(c[i].bytes, 1 + i % 256);
		ck_assert_uint_eq(c[i].bytes % 16, 0);
	}
	ck_assert_int_eq(arena_get(a, 1, &big), -SPLIT_E_SHEPHERD_FULL);
	ck_assert_uint_eq(arena_used(a), REGION);
	for (size_t i = 0; i < REGION / 256; i++)
		ck_assert_int_eq(arena_put(a, c[i].mem), 0);
	ck_assert_uint_eq(arena_used(a), 0);
	/* What rested unmerged is merged when it is needed. */
	ck_assert_int_eq(arena_get(a, REGION, &big), 0);
	ck_assert_int_eq(arena_put(a, big.mem), 0);
	ck_assert_int_eq(arena_get(a, REGION + 1, &big), -SPLIT_E_SHEPHERD_FULL);
	ck_assert_int_eq(arena_get(a, SIZE_MAX, &big), -SPLIT_E_SHEPHERD_FULL);
	ck_assert_int_eq(arena_get(a, 0, &big), -SPLIT_E_BASE_INVALID);
	arena_destroy(a);
}
END_TEST

START_TEST(misuse_is_refused)
{
	struct arena *a;
	struct shepherd_chunk c;

	ck_assert_int_eq(arena_create(region + 8, REGION, &a), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(arena_create(region, 255, &a), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(arena_create(region, REGION, &a), 0);
	ck_assert_int_eq(arena_get(a, 1000, &c), 0);
	ck_assert_int_eq(arena_put(a, c.mem + 256), -SPLIT_E_SHEPHERD_BLOCK);
	ck_assert_int_eq(arena_put(a, c.mem + 1), -SPLIT_E_SHEPHERD_BLOCK);
	ck_assert_int_eq(arena_put(a, region + REGION), -SPLIT_E_SHEPHERD_BLOCK);
	ck_assert_int_eq(arena_put(a, c.mem), 0);
	ck_assert_int_eq(arena_put(a, c.mem), -SPLIT_E_SHEPHERD_BLOCK);
	ck_assert_uint_eq(arena_used(a), 0);
	arena_destroy(a);
}
END_TEST

START_TEST(poison)
{
	struct arena *a;
	struct shepherd_chunk c;

	if (!POISON_ENABLED)
		return;
	ck_assert_int_eq(arena_create(region, REGION, &a), 0);
	ck_assert(poison_is_poisoned(region));
	ck_assert_int_eq(arena_get(a, 100, &c), 0);
	ck_assert_uint_eq(c.bytes, 112);
	ck_assert(!poison_is_poisoned(c.mem) && !poison_is_poisoned(c.mem + 111));
	ck_assert(poison_is_poisoned(c.mem + 112)); /* one byte past the end is seen */
	ck_assert_int_eq(arena_put(a, c.mem), 0);
	ck_assert(poison_is_poisoned(c.mem));
	arena_destroy(a);
	ck_assert(!poison_is_poisoned(region));
}
END_TEST

/* A real overflow of a block, by one byte, ends the process that does it. */
START_TEST(overflow_is_reported)
{
	struct arena *a;
	struct shepherd_chunk c;
	int status;
	pid_t pid;

	if (!POISON_ENABLED)
		return;
	ck_assert_int_eq(arena_create(region, REGION, &a), 0);
	ck_assert_int_eq(arena_get(a, 100, &c), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		volatile uint8_t *mem = c.mem;

		if (freopen("/dev/null", "w", stderr) == NULL)
			_exit(0);
		mem[c.bytes - _i] = 1; /* 0: one past the end, 1: the last byte */
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(WIFEXITED(status) && WEXITSTATUS(status) == 0, _i == 1);
	arena_destroy(a);
}
END_TEST

/* The reference: every block keeps a byte pattern; overlap or corruption shows at put. */
#define LIVE_MAX 512

static void pattern(const struct shepherd_chunk *c, uint8_t v, bool check)
{
	for (size_t i = 0; i < c->bytes; i += 61) {
		if (check && c->mem[i] != v)
			ck_abort_msg("a block was written by another's owner");
		c->mem[i] = v;
	}
}

static size_t rounded(size_t bytes)
{
	size_t r = 256;

	while (r < bytes)
		r *= 2;
	return r;
}

START_TEST(property)
{
	/* Seeds and region sizes that are no powers of two. */
	static const size_t sizes[] = {REGION, REGION - 256, 256 * 77, 256, 999 * 1024};
	struct random rnd;
	struct shepherd_chunk live[LIVE_MAX];
	uint8_t tag[LIVE_MAX];
	size_t n = 0, used = 0;
	struct arena *a;

	random_seed(&rnd, (uint64_t)_i + 1);
	ck_assert_int_eq(arena_create(region, sizes[_i], &a), 0);
	for (int step = 0; step < 20000; step++) {
		if (n < LIVE_MAX && random_next(&rnd) % 5 < 3) {
			size_t bytes = 1 + random_next(&rnd) % (256ull << random_next(&rnd) % 9);
			struct shepherd_chunk c;
			int rc = arena_get(a, bytes, &c);

			/* Assertions of Check cost a system call each: plain ifs in here. */
			if (rc == -SPLIT_E_SHEPHERD_FULL)
				continue;
			if (rc < 0)
				ck_abort_msg("%s", error_name(rc));
			if (c.mem < region || c.mem + rounded(bytes) > region + sizes[_i])
				ck_abort_msg("a block outside the region");
			for (size_t i = 0; i < n; i++)
				if (c.mem + rounded(bytes) > live[i].mem &&
				    live[i].mem + rounded(live[i].bytes) > c.mem)
					ck_abort_msg("two blocks overlap");
			live[n] = c;
			tag[n] = (uint8_t)step;
			pattern(&c, tag[n], false);
			used += rounded(bytes);
			n++;
		} else if (n > 0) {
			size_t i = random_next(&rnd) % n;

			pattern(&live[i], tag[i], true);
			used -= rounded(live[i].bytes);
			if (arena_put(a, live[i].mem) < 0)
				ck_abort_msg("a block could not be put");
			live[i] = live[--n];
			tag[i] = tag[n];
		}
		if (arena_used(a) != used)
			ck_abort_msg("%zu bytes are said to be used, %zu are", arena_used(a), used);
	}
	while (n > 0)
		ck_assert_int_eq(arena_put(a, live[--n].mem), 0);
	/* All is one again. */
	ck_assert_int_eq(arena_get(a, arena_largest(a), &live[0]), 0);
	arena_destroy(a);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/arena");
	TCase *t = tcase_create("arena");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, sizes_and_exhaustion);
	tcase_add_test(t, misuse_is_refused);
	tcase_add_test(t, poison);
	tcase_add_loop_test(t, overflow_is_reported, 0, 2);
	tcase_add_loop_test(t, property, 0, 5);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
