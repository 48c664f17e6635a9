#include "base_check.h"

#include "base/counter.h"

#define DEMO_COUNTERS(X) X(rx_frames, "frames received") X(depth_max, "deepest queue seen")
COUNTER_DECLARE(demo, DEMO_COUNTERS);
COUNTER_DEFINE(demo, DEMO_COUNTERS);

START_TEST(table_matches_block)
{
	static struct demo_counters a, b;
	uint64_t sum[2] = {0};

	ck_assert_str_eq(demo_counter_desc.module, "demo");
	ck_assert_uint_eq(demo_counter_desc.count, 2);
	ck_assert_str_eq(demo_counter_desc.names[1].name, "depth_max");
	ck_assert_uint_eq(sizeof(struct demo_counters) % BITS_CACHE_LINE, 0);
	counter_inc(&a.rx_frames);
	counter_add(&a.rx_frames, 4);
	counter_max(&a.depth_max, 7);
	counter_max(&a.depth_max, 3);
	counter_set(&b.rx_frames, 10);
	ck_assert_uint_eq(counter_get(&a.rx_frames), 5);
	ck_assert_uint_eq(counter_read(&a, &demo_counter_desc, 1), 7);
	counter_sum(sum, &a, &demo_counter_desc);
	counter_sum(sum, &b, &demo_counter_desc);
	ck_assert_uint_eq(sum[0], 15);
	ck_assert_uint_eq(sum[1], 7);
}
END_TEST

BASE_CHECK_MAIN("counter", table_matches_block)
