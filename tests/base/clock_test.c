#include "base_check.h"

#include "base/clock.h"

START_TEST(monotonic)
{
	uint64_t last = clock_ns();

	for (int i = 0; i < 1000; i++) {
		uint64_t now = clock_ns();

		ck_assert_uint_ge(now, last);
		last = now;
	}
	/* After 2020, so that a mixed-up unit shows. */
	ck_assert_uint_gt(clock_wall_ns(), UINT64_C(1577836800) * CLOCK_NS_PER_SEC);
}
END_TEST

START_TEST(cycles_scale)
{
	uint64_t hz, ns0, c0, ns, cycles_ns;

	clock_calibrate();
	hz = clock_cycles_hz();
	ck_assert_uint_gt(hz, UINT64_C(1000000));
	ck_assert_uint_lt(hz, UINT64_C(10000000000));
	ns0 = clock_ns();
	c0 = clock_cycles();
	while (clock_ns() - ns0 < 20 * CLOCK_NS_PER_MS)
		;
	cycles_ns = clock_cycles_to_ns(clock_cycles() - c0);
	ns = clock_ns() - ns0;
	/* A loaded machine may take the core away between two reads. */
	ck_assert_uint_gt(cycles_ns, ns / 2);
	ck_assert_uint_lt(cycles_ns, ns * 2);
}
END_TEST

BASE_CHECK_MAIN("clock", monotonic, cycles_scale)
