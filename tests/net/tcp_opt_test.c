#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "daemon/net/tcp_opt.h"
#include "daemon/net/tcp_seq.h"

START_TEST(test_syn_options)
{
	/* As Linux sends them: MSS 1460, SACK permitted, timestamps, NOP, window scale 7. */
	static const uint8_t p[] = {2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7};
	struct tcp_options o;

	ck_assert_int_eq(tcp_options_parse(p, sizeof(p), &o), 0);
	ck_assert(o.has_mss && o.mss == 1460);
	ck_assert(o.sack_permitted);
	ck_assert(o.has_timestamp && o.ts_value == 1 && o.ts_echo == 0);
	ck_assert(o.has_wscale && o.wscale == 7);
	ck_assert_uint_eq(o.sack_n, 0);
}
END_TEST

START_TEST(test_zero_length_ends)
{
	static const uint8_t zero[] = {8, 0, 1, 1}, one[] = {99, 1, 1, 1}, lone[] = {1, 1, 1, 3};
	static const uint8_t past[] = {2, 5, 1, 1}, end[] = {0, 2, 0, 0};
	struct tcp_options o;

	ck_assert_int_eq(tcp_options_parse(zero, 4, &o), -SPLIT_E_NET_MALFORMED);
	ck_assert_int_eq(tcp_options_parse(one, 4, &o), -SPLIT_E_NET_MALFORMED);
	ck_assert_int_eq(tcp_options_parse(lone, 4, &o), -SPLIT_E_NET_MALFORMED);
	ck_assert_int_eq(tcp_options_parse(past, 4, &o), -SPLIT_E_NET_MALFORMED);
	ck_assert_int_eq(tcp_options_parse(end, 4, &o), 0); /* nothing counts after END */
}
END_TEST

START_TEST(test_wrong_lengths_are_ignored)
{
	static const uint8_t p[] = {2, 3, 9, 3, 2, 8, 3, 1, 4,   3, 0, 5,
				    9, 1, 2, 3, 4, 5, 6, 7, 254, 4, 1, 2};
	struct tcp_options o;

	ck_assert_int_eq(tcp_options_parse(p, sizeof(p), &o), 0);
	ck_assert(!o.has_mss && !o.has_wscale && !o.has_timestamp && !o.sack_permitted &&
		  o.sack_n == 0);
}
END_TEST

START_TEST(test_scale_is_capped)
{
	static const uint8_t p[] = {3, 3, 200, 0};
	struct tcp_options o;

	ck_assert_int_eq(tcp_options_parse(p, sizeof(p), &o), 0);
	ck_assert(o.has_wscale && o.wscale == TCP_WSCALE_MAX);
}
END_TEST

START_TEST(test_write_and_parse_again)
{
	struct tcp_options in = {
		.has_timestamp = true, .ts_value = 0x01020304, .ts_echo = 0xa0b0c0d0};
	uint8_t p[TCP_OPTIONS_BYTES_MAX];
	struct tcp_options out;

	in.sack_n = 4; /* only three fit beside timestamps */
	for (uint32_t i = 0; i < 4; i++)
		in.sack[i] = (struct tcp_sack_block){100 * i, 100 * i + 50};
	ck_assert_uint_eq(tcp_options_write(p, &in), 40);
	ck_assert_int_eq(tcp_options_parse(p, 40, &out), 0);
	ck_assert_uint_eq(out.sack_n, 3);
	ck_assert_mem_eq(out.sack, in.sack, 3 * sizeof(in.sack[0]));
	ck_assert(out.ts_value == in.ts_value && out.ts_echo == in.ts_echo);
	in.has_timestamp = false;
	ck_assert_uint_eq(tcp_options_write(p, &in), 36);
	ck_assert_int_eq(tcp_options_parse(p, 36, &out), 0);
	ck_assert_uint_eq(out.sack_n, 4);
	in = (struct tcp_options){.has_mss = true,
				  .mss = 536,
				  .has_wscale = true,
				  .wscale = 3,
				  .sack_permitted = true,
				  .has_timestamp = true};
	ck_assert_uint_eq(tcp_options_write(p, &in), 24);
	ck_assert_int_eq(tcp_options_parse(p, 24, &out), 0);
	ck_assert(out.mss == 536 && out.wscale == 3 && out.sack_permitted && out.has_timestamp);
}
END_TEST

START_TEST(test_every_short_input)
{
	/* Whatever the bytes: it returns, and never looks past the end (ASan watches). */
	for (size_t len = 0; len <= 3; len++) {
		for (uint32_t v = 0; v < 1u << (8 * len); v += len < 3 ? 1 : 251) {
			uint8_t *p = malloc(len + 1);
			struct tcp_options o;

			memcpy(p, &v, len);
			p = realloc(p, len ? len : 1);
			(void)tcp_options_parse(p, len, &o);
			free(p);
		}
	}
}
END_TEST

START_TEST(test_sequence_numbers)
{
	ck_assert(seq_lt(1, 2) && !seq_lt(2, 1) && !seq_lt(2, 2) && seq_le(2, 2));
	ck_assert(seq_lt(0xffffffff, 0) && seq_gt(0, 0xffffffff) && seq_ge(5, 0xfffffff0));
	ck_assert(seq_lt(0, 0x7fffffff) && seq_gt(0, 0x80000001));
	ck_assert(seq_max(0xfffffff0, 3) == 3 && seq_min(0xfffffff0, 3) == 0xfffffff0);
	ck_assert(seq_in(0, 0xfffffff0, 0x20) && !seq_in(0x10, 0xfffffff0, 0x20));
	ck_assert(!seq_in(7, 7, 0) && seq_in(7, 7, 1) && !seq_in(6, 7, 0xfffffffe));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tcp_opt");
	TCase *tcase = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_test(tcase, test_syn_options);
	tcase_add_test(tcase, test_zero_length_ends);
	tcase_add_test(tcase, test_wrong_lengths_are_ignored);
	tcase_add_test(tcase, test_scale_is_capped);
	tcase_add_test(tcase, test_write_and_parse_again);
	tcase_add_test(tcase, test_every_short_input);
	tcase_add_test(tcase, test_sequence_numbers);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
