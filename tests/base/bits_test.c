#include "base_check.h"

#include "base/bits.h"

START_TEST(pow2)
{
	ck_assert(!is_pow2(0) && is_pow2(1) && is_pow2(64) && !is_pow2(65));
	ck_assert_uint_eq(pow2_up(0), 1);
	ck_assert_uint_eq(pow2_up(1), 1);
	ck_assert_uint_eq(pow2_up(3), 4);
	ck_assert_uint_eq(pow2_up(UINT64_C(1) << 63), UINT64_C(1) << 63);
	ck_assert_uint_eq(pow2_up((UINT64_C(1) << 63) + 1), 0);
	ck_assert_uint_eq(pow2_down(0), 0);
	ck_assert_uint_eq(pow2_down(65), 64);
	ck_assert_uint_eq(log2_floor(1), 0);
	ck_assert_uint_eq(log2_floor(255), 7);
	ck_assert_uint_eq(log2_ceil(1), 0);
	ck_assert_uint_eq(log2_ceil(255), 8);
	ck_assert_uint_eq(log2_ceil(256), 8);
	ck_assert_uint_eq(log2_ceil(257), 9);
}
END_TEST

START_TEST(alignment)
{
	ck_assert_uint_eq(align_up(0, 64), 0);
	ck_assert_uint_eq(align_up(1, 64), 64);
	ck_assert_uint_eq(align_up(64, 64), 64);
	ck_assert_uint_eq(align_down(127, 64), 64);
	ck_assert(is_aligned(128, 64) && !is_aligned(129, 64));
}
END_TEST

START_TEST(range_never_overflows)
{
	ck_assert(range_fits(0, 0, 0));
	ck_assert(range_fits(10, 0, 10));
	ck_assert(!range_fits(11, 0, 10));
	ck_assert(range_fits(4, 6, 10));
	ck_assert(!range_fits(4, 7, 10));
	ck_assert(!range_fits(UINT64_MAX, 2, 10));
	ck_assert(!range_fits(2, UINT64_MAX, 10));
	ck_assert(range_fits(UINT64_MAX - 1, 1, UINT64_MAX));
}
END_TEST

START_TEST(wire_order)
{
	const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09};
	uint8_t out[8];

	ck_assert_uint_eq(be16_load(bytes + 1), 0x0203);
	ck_assert_uint_eq(be32_load(bytes + 1), 0x02030405);
	ck_assert_uint_eq(be64_load(bytes + 1), UINT64_C(0x0203040506070809));
	ck_assert_uint_eq(le16_load(bytes), 0x0201);
	ck_assert_uint_eq(le32_load(bytes), 0x04030201);
	ck_assert_uint_eq(le64_load(bytes), UINT64_C(0x0807060504030201));
	be64_store(out, UINT64_C(0x0102030405060708));
	ck_assert_mem_eq(out, bytes, 8);
	le64_store(out, UINT64_C(0x0807060504030201));
	ck_assert_mem_eq(out, bytes, 8);
	be16_store(out, 0x0102);
	le32_store(out + 2, 0x06050403);
	ck_assert_mem_eq(out, bytes, 6);
	ck_assert_uint_eq(be16_get(be16_make(0xabcd)), 0xabcd);
	ck_assert_uint_eq(be32_get(be32_make(0xabcdef01)), 0xabcdef01);
	ck_assert_uint_eq(be64_get(be64_make(UINT64_C(0xabcdef0123456789))),
			  UINT64_C(0xabcdef0123456789));
	ck_assert_uint_eq(be16_make(0x0102).b[0], 1);
}
END_TEST

BASE_CHECK_MAIN("bits", pow2, alignment, range_never_overflows, wire_order)
