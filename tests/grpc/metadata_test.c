/* The text forms of gRPC's metadata. */
#include <check.h>
#include <string.h>

#include "base/random.h"
#include "daemon/grpc/grpc_internal.h"

START_TEST(timeouts)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {
		{"1H", UINT64_C(3600000000000)},
		{"2M", UINT64_C(120000000000)},
		{"3S", UINT64_C(3000000000)},
		{"4m", 4000000},
		{"5u", 5000},
		{"6n", 6},
		{"0n", 0},
		{"00000001m", 1000000},
		{"99999999S", UINT64_C(99999999000000000)},
		{"99999999H", UINT64_MAX},
	};
	static const char *const bad[] = {"",           "1",   "S",   "-1S", "+1S", "1s", "1.5S",
					  "100000000S", "1 S", " 1S", "1S ", "1SS", "1x", "0x1S"};
	uint64_t ns;

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		ck_assert_int_eq(grpc_timeout_parse(good[i].text, strlen(good[i].text), &ns), 0);
		ck_assert_uint_eq(ns, good[i].ns);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_int_lt(grpc_timeout_parse(bad[i], strlen(bad[i]), &ns), 0);
}
END_TEST

START_TEST(base64_round_trip)
{
	struct random r;
	uint8_t in[64], back[64];
	char text[96];

	random_seed(&r, 1);
	for (size_t n = 0; n <= sizeof(in); n++) {
		size_t len;

		for (size_t i = 0; i < n; i++)
			in[i] = (uint8_t)random_next(&r);
		len = grpc_base64_encode(in, n, text);
		ck_assert_uint_eq(len, grpc_base64_bytes(n));
		ck_assert_int_eq(grpc_base64_decode(text, len, back), (ssize_t)n);
		ck_assert_mem_eq(in, back, n);
		while (len % 4 != 0)
			text[len++] = '=';
		ck_assert_int_eq(grpc_base64_decode(text, len, back), (ssize_t)n);
		ck_assert_mem_eq(in, back, n);
	}
}
END_TEST

START_TEST(base64_errors)
{
	static const char *const bad[] = {
		"A",    "AAAAA", "A=",    "=",     "====",  "AA=A",    "A-AA",
		"A_AA", "AA A",  "AAA=A", "AA\n=", "AAAA=", "AAAA===="};
	uint8_t out[16];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(grpc_base64_decode(bad[i], strlen(bad[i]), out) < 0, "%s", bad[i]);
}
END_TEST

static void percent_is(const char *in, size_t n, size_t max, const char *want)
{
	char out[128];
	size_t len = grpc_percent_encode(in, n, out, max);

	ck_assert_uint_eq(len, strlen(want));
	ck_assert_mem_eq(out, want, len);
}

START_TEST(percent)
{
	percent_is("plain text", 10, 99, "plain text");
	percent_is("100%", 4, 99, "100%25");
	percent_is("\n\x7f\xc3\xb6", 4, 99, "%0A%7F%C3%B6");
	percent_is("a\0b", 3, 99, "a%00b");
	percent_is(" x ", 3, 99, "%20x%20");
	percent_is("ab\n", 3, 4, "ab");
	percent_is("a bcd", 5, 2, "a");
	percent_is("", 0, 99, "");
}
END_TEST

static bool valid(const char *name, const char *value)
{
	struct grpc_metadata md = {name, (const uint8_t *)value, (uint32_t)strlen(name),
				   (uint32_t)strlen(value)};

	return grpc_metadata_valid(&md);
}

START_TEST(validity)
{
	ck_assert(valid("x-test", "value with spaces"));
	ck_assert(valid("x_1.2-bin", "\x01\n"));
	ck_assert(valid("x-empty", ""));
	ck_assert(!valid("X-Test", "v"));
	ck_assert(!valid("", "v"));
	ck_assert(!valid(":path", "v"));
	ck_assert(!valid("grpc-status", "0"));
	ck_assert(!valid("connection", "close"));
	ck_assert(!valid("content-type", "x"));
	ck_assert(!valid("x-test", "a\nb"));
	ck_assert(!valid("x-test", " a"));
	ck_assert(!valid("x-test", "a\x80"));
}
END_TEST

START_TEST(status_names)
{
	ck_assert_str_eq(grpc_status_name(0), "OK");
	ck_assert_str_eq(grpc_status_name(16), "UNAUTHENTICATED");
	ck_assert_str_eq(grpc_status_name(17), "UNKNOWN");
	ck_assert_int_eq(grpc_status_of_http2(HTTP2_CANCEL), GRPC_CANCELLED);
	ck_assert_int_eq(grpc_status_of_http2(HTTP2_REFUSED_STREAM), GRPC_UNAVAILABLE);
	ck_assert_int_eq(grpc_status_of_http2(HTTP2_PROTOCOL_ERROR), GRPC_INTERNAL);
	ck_assert_int_eq(grpc_status_of_http2(12345), GRPC_INTERNAL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpc/metadata");
	TCase *t = tcase_create("metadata");
	SRunner *r;
	int failed;

	tcase_add_test(t, timeouts);
	tcase_add_test(t, base64_round_trip);
	tcase_add_test(t, base64_errors);
	tcase_add_test(t, percent);
	tcase_add_test(t, validity);
	tcase_add_test(t, status_names);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
