/* Compressed messages: both encodings at every split, broken ones and bombs, quanta, memory that
 * has to be waited for, answers. */
#include <zlib.h>

#include "tests/grpc/rig.h"

static uint8_t packed[1 << 20];
static uint8_t plain[1 << 20];

/* `p` compressed behind a prefix, in `packed`; returns all its bytes. */
static size_t pack(int bits, const void *p, size_t n)
{
	z_stream z = {0};
	size_t got;

	ck_assert_int_eq(deflateInit2(&z, 6, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (uint8_t *)(uintptr_t)p;
	z.avail_in = (uInt)n;
	z.next_out = packed + 5;
	z.avail_out = sizeof(packed) - 5;
	ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
	got = z.total_out;
	deflateEnd(&z);
	packed[0] = 1;
	be32_store(packed + 1, (uint32_t)got);
	return 5 + got;
}

static const struct {
	const char *name;
	int bits;
} encodings[] = {{"gzip", 31}, {"deflate", 15}};

static void request_encoded(uint32_t id, const char *encoding)
{
	const char *const more[] = {"grpc-encoding", encoding, NULL};

	request_with(id, 0, more);
}

/* Bytes of any length, in frames. */
static void body_all(uint32_t id, const uint8_t *p, size_t n)
{
	for (size_t at = 0; at < n; at += 16000)
		body(id, at + 16000 >= n ? END : 0, p + at, n - at < 16000 ? n - at : 16000);
}

static void run_all(void)
{
	while (grpc_server_run(server, now_ns) != 0)
		continue;
}

START_TEST(every_split)
{
	for (size_t e = 0; e < ARRAY_LEN(encodings); e++) {
		size_t n = pack(encodings[e].bits, "hello hello hello hello", 23);

		for (size_t cut = 0; cut <= n; cut++) {
			grpc_connection_destroy(conn);
			connect_again();
			wire_preface(&in);
			request_encoded(1, encodings[e].name);
			if (cut == n)
				for (size_t i = 0; i < n; i++)
					body(1, 0, packed + i, 1);
			else
				body(1, 0, packed, cut);
			body(1, END, packed + cut, n - cut);
			feed();
			send_all();
			answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\n");
			ck_assert_uint_eq(calls[0].got_n, 23);
			ck_assert(memcmp(calls[0].got, "hello hello", 11) == 0);
		}
	}
}
END_TEST

START_TEST(plain_among_compressed)
{
	static uint8_t run[400];
	size_t n = 0;

	kind = GRPC_CLIENT_STREAMING;
	wire_preface(&in);
	request_encoded(1, "gzip");
	for (int i = 0; i < 3; i++) {
		size_t part = pack(31, "abcabcabcabc", 12);

		memcpy(run + n, packed, part);
		n += part;
		memcpy(run + n, "\0\0\0\0\3xyz", 8);
		n += 8;
	}
	body(1, END, run, n);
	feed();
	send_all();
	ck_assert_uint_eq(calls[0].messages, 6);
	ck_assert_uint_eq(calls[0].got_n, 3 * 15);
	ck_assert_uint_eq(calls[0].half_closes, 1);
}
END_TEST

START_TEST(unknown_encoding)
{
	wire_preface(&in);
	request_encoded(1, "snappy");
	message(1, END, "x");
	request_encoded(3, "identity");
	message(3, END, "x");
	feed();
	send_all();
	status_is(1, "12");
	ck_assert(strstr(answer(1), "grpc-accept-encoding: identity, deflate, gzip\n") != NULL);
	status_is(3, "0");
	ck_assert_uint_eq(calls_n, 1);
}
END_TEST

START_TEST(broken)
{
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t e = 0; e < ARRAY_LEN(encodings); e++) {
		for (int how = 0; how < 6; how++, id += 2) {
			size_t n = pack(encodings[e].bits, "hello hello hello hello", 23);

			if (how == 0) /* cut short */
				n--;
			else if (how == 1) /* something behind it */
				n++;
			else if (how == 2) /* its checksum */
				packed[n - 5] ^= 1;
			else if (how == 3) /* its beginning */
				packed[5] ^= 0x55;
			else if (how == 4) /* gzip's length, deflate's checksum */
				packed[n - 4] ^= 1;
			else /* nothing at all */
				n = 5;
			be32_store(packed + 1, (uint32_t)(n - 5));
			request_encoded(id, encodings[e].name);
			body(id, END, packed, n);
			feed();
			run_all();
			send_all();
			status_is(id, "13");
		}
	}
	all_closed_once();
	ck_assert_uint_eq(grpc_server_counters(server)->rx_inflate_errors, 12);
}
END_TEST

START_TEST(bombs)
{
	uint32_t id = 1;

	message_max = 50000;
	wire_preface(&in);
	for (size_t e = 0; e < ARRAY_LEN(encodings); e++) {
		for (size_t more = 0; more < 2; more++, id += 2) {
			size_t n = pack(encodings[e].bits, plain, 50000 + more);

			request_encoded(id, encodings[e].name);
			body(id, END, packed, n);
			feed();
			run_all();
			send_all();
			status_is(id, more ? "8" : "0");
		}
	}
	ck_assert_uint_eq(grpc_server_counters(server)->rx_inflate_bombs, 2);
	/* One that says it is small and is not. */
	size_t n = pack(31, plain, 900000);

	memset(packed + n - 4, 0, 4);
	packed[n - 4] = 100;
	request_encoded(id, "gzip");
	body(id, END, packed, n);
	feed();
	run_all();
	send_all();
	status_is(id, "13");
}
END_TEST

START_TEST(quanta)
{
	unsigned turns = 0;

	config.compress_quantum = 4096;
	config.http2.window_stream = 1 << 20;
	server_again();
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 2654435761u >> 13);
	for (size_t e = 0; e < ARRAY_LEN(encodings); e++) {
		size_t n = pack(encodings[e].bits, plain, 100000);

		connect_again();
		wire_preface(&in);
		request_encoded(1, encodings[e].name);
		body_all(1, packed, n);
		feed();
		ck_assert_uint_eq(calls[0].messages, 0);
		while (grpc_server_run(server, now_ns) != 0)
			turns++;
		send_all();
		ck_assert_uint_eq(calls[0].got_n, 100000);
		ck_assert(memcmp(calls[0].got, plain, 100000) == 0);
		answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\n");
		ck_assert_uint_ge(turns, 20);
		grpc_connection_destroy(conn);
	}
	connect_again();
}
END_TEST

START_TEST(ended_while_at_it)
{
	size_t n = pack(15, plain, 90000);

	config.compress_quantum = 4096;
	server_again();
	wire_preface(&in);
	for (uint32_t id = 1; id < 20; id += 2) {
		request_encoded(id, "deflate");
		body(id, END, packed, n);
		if (id % 4 == 1)
			wire_u32(&in, NGHTTP2_RST_STREAM, id, NGHTTP2_CANCEL);
	}
	feed();
	(void)grpc_server_run(server, now_ns);
	for (uint32_t id = 3; id < 12; id += 4)
		wire_u32(&in, NGHTTP2_RST_STREAM, id, NGHTTP2_CANCEL);
	feed();
	run_all();
	send_all();
	status_is(15, "0");
	status_is(19, "0");
}
END_TEST

/* The second waits for the memory of the first; the third is too slow when others wait. */
START_TEST(memory)
{
	size_t n;

	config.compress_memory = 64 * 1024;
	config.http2.window_stream = 1 << 20;
	server_again();
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 2654435761u >> 11 ^ i * i >> 7);
	n = pack(31, plain, 60000);
	ck_assert_uint_gt(n, 33000);
	wire_preface(&in);
	request_encoded(1, "gzip");
	body(1, 0, packed, 1000);
	request_encoded(3, "gzip");
	body_all(3, packed, n);
	feed();
	ck_assert_uint_eq(grpc_server_counters(server)->rx_compressed_waits, 1);
	ck_assert_uint_eq(calls[1].messages, 0);
	body_all(1, packed + 1000, n - 1000);
	feed();
	run_all();
	ck_assert_uint_eq(calls[0].messages, 1);
	ck_assert_uint_eq(calls[1].messages, 1);
	ck_assert(memcmp(calls[1].got, plain, 60000) == 0);

	request_encoded(5, "gzip");
	body(5, 0, packed, 1000);
	request_encoded(7, "gzip");
	body_all(7, packed, n);
	feed();
	run_all();
	ck_assert_uint_eq(calls[3].messages, 0);
	now_ns += 3000 * MS;
	run_all();
	send_all();
	status_is(5, "8");
	ck_assert_uint_eq(calls[3].messages, 1);
	status_is(7, "0");
	/* More than there is at all. */
	request_encoded(9, "gzip");
	body(9, 0, "\1\0\2\0\0", 5);
	feed();
	send_all();
	status_is(9, "8");
}
END_TEST

/* All DATA of a stream. */
static size_t data_of(uint32_t id, uint8_t *dst, size_t max)
{
	struct wire_reader r;
	struct wire_got g;
	size_t n = 0;

	wire_reader_init(&r, out.b, out.n);
	while (wire_next(&r, &g)) {
		if (g.id != id || g.type != NGHTTP2_DATA)
			continue;
		ck_assert_uint_le(n + g.n, max);
		memcpy(dst + n, g.p, g.n);
		n += g.n;
	}
	wire_reader_fini(&r);
	return n;
}

static void answer_unpacks(uint32_t id, int bits, size_t bytes)
{
	static uint8_t got[1 << 20], text[1 << 20];
	z_stream z = {0};
	size_t n = data_of(id, got, sizeof(got));

	ck_assert_uint_ge(n, 5);
	ck_assert_uint_eq(got[0], 1);
	ck_assert_uint_eq(be32_load(got + 1), n - 5);
	ck_assert_int_eq(inflateInit2(&z, bits), Z_OK);
	z.next_in = got + 5;
	z.avail_in = (uInt)(n - 5);
	z.next_out = text;
	z.avail_out = sizeof(text);
	ck_assert_int_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
	ck_assert_uint_eq(z.total_out, bytes);
	ck_assert(memcmp(text, reply_bytes, bytes / 2) == 0);
	inflateEnd(&z);
}

START_TEST(answers)
{
	static const struct {
		const char *accept;
		const char *encoding;
		int bits;
	} cases[] = {{"identity,deflate,gzip", "grpc-encoding: gzip\n", 31},
		     {"deflate", "grpc-encoding: deflate\n", 15},
		     {"identity, snappy", NULL, 0}};
	uint32_t id = 1;

	reply_compress = true;
	config.compress_quantum = 2048;
	config.http2.window_stream = 1 << 20;
	server_again();
	wire_preface(&in);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 1 << 20);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		/* Small enough to be done at once, and not. */
		for (size_t bytes = 1000; bytes <= 50000; bytes += 49000, id += 2) {
			const char *const more[] = {"grpc-accept-encoding", cases[i].accept, NULL};

			reply_n = (uint32_t)bytes;
			request_with(id, 0, more);
			message(id, END, "x");
			feed();
			send_all();
			run_all();
			send_all();
			status_is(id, "0");
			if (cases[i].encoding != NULL) {
				ck_assert(strstr(answer(id), cases[i].encoding) != NULL);
				answer_unpacks(id, cases[i].bits, bytes);
			} else {
				ck_assert(strstr(answer(id), "grpc-encoding") == NULL);
			}
		}
	}
	ck_assert_uint_eq(grpc_server_counters(server)->tx_compressed, 4);
}
END_TEST

/* Asked, always, never; and what gets no smaller goes as it is. */
START_TEST(when)
{
	static const char *const accept[] = {"grpc-accept-encoding", "gzip", NULL};
	const struct {
		int mode;
		bool asked;
		uint32_t bytes;
		bool compressed;
	} cases[] = {{GRPC_COMPRESS_ASKED, false, 5000, false},
		     {GRPC_COMPRESS_ASKED, true, 5000, true},
		     {GRPC_COMPRESS_ALWAYS, false, 5000, true},
		     {GRPC_COMPRESS_ALWAYS, false, 100, false},
		     {GRPC_COMPRESS_ALWAYS, true, 100, true},
		     {GRPC_COMPRESS_NEVER, true, 5000, false},
		     {GRPC_COMPRESS_ASKED, true, 5, false}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		config.compress = cases[i].mode;
		server_again();
		reply_compress = cases[i].asked;
		reply_n = cases[i].bytes;
		wire_preface(&in);
		request_with(1, 0, accept);
		message(1, END, "x");
		feed();
		run_all();
		send_all();
		status_is(1, "0");
		ck_assert_uint_eq(grpc_server_counters(server)->tx_compressed,
				  cases[i].compressed ? 1 : 0);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpc/compress");
	TCase *t = tcase_create("compress");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, every_split);
	tcase_add_test(t, plain_among_compressed);
	tcase_add_test(t, unknown_encoding);
	tcase_add_test(t, broken);
	tcase_add_test(t, bombs);
	tcase_add_test(t, quanta);
	tcase_add_test(t, ended_while_at_it);
	tcase_add_test(t, memory);
	tcase_add_test(t, answers);
	tcase_add_test(t, when);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
