/* A connection's life: age, idleness, keepalive, the client's PINGs, windows that grow. */
#include "tests/grpc/rig.h"

#define SEC (1000 * MS)

/* Frames of `type` sent so far; the last one's payload as words. */
static unsigned sent_n(uint8_t type, uint8_t flags, uint32_t words[4])
{
	struct wire_reader r;
	struct wire_got g;
	unsigned n = 0;

	wire_reader_init(&r, out.b, out.n);
	while (wire_next(&r, &g)) {
		if (g.type != type || g.flags != flags)
			continue;
		n++;
		for (size_t i = 0; words != NULL && i < 4; i++)
			words[i] = g.n >= 4 * (i + 1) ? be32_load(g.p + 4 * i) : 0;
	}
	wire_reader_fini(&r);
	return n;
}

static unsigned goaways(uint32_t words[4])
{
	return sent_n(NGHTTP2_GOAWAY, 0, words);
}

static void pass(uint64_t ns)
{
	uint64_t end = now_ns + ns;

	while (now_ns < end) {
		now_ns = now_ns + 50 * MS < end ? now_ns + 50 * MS : end;
		while (wheel_advance(&wheel, now_ns, 100) != 0)
			continue;
	}
	ck_assert_int_eq(grpc_connection_send(conn, SIZE_MAX), 0);
}

/* Answer every PING that was sent. */
static void pings_answer(void)
{
	struct wire_reader r;
	struct wire_got g;

	wire_reader_init(&r, out.b, out.n);
	while (wire_next(&r, &g))
		if (g.type == NGHTTP2_PING && g.flags == 0)
			wire_frame(&in, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, g.p, 8);
	wire_reader_fini(&r);
	out.n = 0;
	feed();
	send_all();
}

static void begin(void)
{
	server_again();
	wire_preface(&in);
	feed();
	send_all();
}

static void two_steps(void)
{
	uint32_t words[4];

	ck_assert_uint_eq(goaways(words), 1);
	ck_assert_uint_eq(words[0], 0x7fffffff);
	ck_assert_uint_eq(words[1], HTTP2_NO_ERROR);
	ck_assert(!grpc_connection_done(conn));
	pings_answer();
	ck_assert_uint_eq(goaways(words), 1);
}

START_TEST(age)
{
	config.age_max_ns = 10 * SEC;
	config.age_grace_ns = 5 * SEC;
	answer_at_once = false;
	begin();
	request(1, 0);
	message(1, END, "hello");
	feed();
	pass(9 * SEC - 100 * MS);
	ck_assert_uint_eq(goaways(NULL), 0);
	pass(2 * SEC + 200 * MS);
	two_steps();
	/* The call goes on; a new one is not taken any more. */
	ck_assert_uint_eq(calls[0].closed, 0);
	ck_assert_int_eq(reply(&calls[0]), 0);
	finish(&calls[0], 0, NULL);
	send_all();
	status_is(1, "0");
	ck_assert(grpc_connection_done(conn));
	ck_assert_uint_eq(grpc_server_counters(server)->connections_aged, 1);
	ck_assert_uint_eq(grpc_server_counters(server)->connections_cut, 0);
}
END_TEST

START_TEST(age_grace_is_over)
{
	config.age_max_ns = 10 * SEC;
	config.age_grace_ns = 5 * SEC;
	answer_at_once = false;
	begin();
	request(1, 0);
	message(1, END, "hello");
	feed();
	pass(11 * SEC + 100 * MS);
	two_steps();
	ck_assert(!grpc_connection_done(conn));
	pass(5 * SEC + 100 * MS);
	ck_assert(grpc_connection_done(conn));
	ck_assert_uint_eq(grpc_server_counters(server)->connections_cut, 1);
}
END_TEST

START_TEST(idle)
{
	config.idle_timeout_ns = 10 * SEC;
	answer_at_once = false;
	begin();
	pass(6 * SEC);
	request(1, 0);
	message(1, END, "hello");
	feed();
	/* As long as there is a call it is not idle. */
	pass(60 * SEC);
	ck_assert_uint_eq(goaways(NULL), 0);
	ck_assert_int_eq(reply(&calls[0]), 0);
	finish(&calls[0], 0, NULL);
	send_all();
	pass(21 * SEC);
	two_steps();
	ck_assert(grpc_connection_done(conn));
	ck_assert_uint_eq(grpc_server_counters(server)->connections_idle, 1);
}
END_TEST

/* A client that does not answer the PING behind the GOAWAY is not waited for. */
START_TEST(idle_and_gone)
{
	config.idle_timeout_ns = 10 * SEC;
	begin();
	pass(11 * SEC);
	ck_assert_uint_eq(goaways(NULL), 1);
	pass(21 * SEC);
	ck_assert(grpc_connection_done(conn));
	ck_assert_uint_eq(grpc_server_counters(server)->connections_cut, 1);
}
END_TEST

START_TEST(keepalive)
{
	config.keepalive_ns = 10 * SEC;
	config.keepalive_timeout_ns = 2 * SEC;
	begin();
	for (int i = 0; i < 5; i++) {
		pass(10 * SEC + 100 * MS);
		ck_assert_uint_eq(sent_n(NGHTTP2_PING, 0, NULL), 1);
		pings_answer();
	}
	ck_assert_uint_eq(grpc_server_counters(server)->keepalive_pings, 5);
	/* Whatever comes will do. */
	pass(10 * SEC + 100 * MS);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 1);
	feed();
	pass(5 * SEC);
	ck_assert(!grpc_connection_done(conn));
	pass(5 * SEC + 200 * MS);
	pass(2 * SEC + 100 * MS);
	ck_assert(grpc_connection_done(conn));
	ck_assert_uint_eq(grpc_server_counters(server)->keepalive_timeouts, 1);
}
END_TEST

static int ping(void)
{
	int rc;

	wire_frame(&in, NGHTTP2_PING, 0, 0, "12345678", 8);
	rc = grpc_connection_recv(conn, in.b, in.n, now_ns);
	in.n = 0;
	return rc;
}

START_TEST(ping_strikes)
{
	uint32_t words[6];
	struct wire_reader r;
	struct wire_got g;

	config.http2.ping_interval_min_ns = 5 * SEC;
	config.http2.ping_strikes_max = 2;
	config.http2.pings_without_streams = true;
	begin();
	for (int i = 0; i < 10; i++) { /* as often as allowed */
		ck_assert_int_eq(ping(), 0);
		pass(5 * SEC);
	}
	for (int i = 0; i < 3; i++) {
		pass(1 * SEC);
		ck_assert_int_eq(ping(), 0);
		if (i == 1) { /* an answer forgives */
			request(1, 0);
			message(1, END, "x");
			feed();
			send_all();
			status_is(1, "0");
			break;
		}
	}
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(ping(), 0);
	ck_assert_int_lt(ping(), 0);
	out.n = 0;
	ck_assert_int_lt(grpc_connection_send(conn, SIZE_MAX), 0);
	ck_assert_uint_eq(goaways(words), 1);
	ck_assert_uint_eq(words[1], HTTP2_ENHANCE_YOUR_CALM);
	wire_reader_init(&r, out.b, out.n);
	while (wire_next(&r, &g))
		if (g.type == NGHTTP2_GOAWAY) {
			ck_assert_uint_eq(g.n, 8 + 14);
			ck_assert(memcmp(g.p + 8, "too_many_pings", 14) == 0);
		}
	wire_reader_fini(&r);
	ck_assert(grpc_connection_done(conn));
	ck_assert_uint_eq(grpc_server_http2_counters(server)->ping_strikes, 1);
}
END_TEST

/* Without calls two hours count. */
START_TEST(ping_strikes_without_calls)
{
	config.http2.ping_interval_min_ns = 5 * SEC;
	config.http2.ping_strikes_max = 2;
	begin();
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(ping(), 0);
		pass(6 * SEC);
	}
	ck_assert_int_lt(ping(), 0);
}
END_TEST

/* A client that sends a whole window while a PING is on its way gets wider ones, to the bound. */
START_TEST(windows_grow)
{
	static uint8_t bytes[60000];
	uint32_t words[4];
	unsigned grown = 0;

	config.http2.window_stream_max = 256 * 1024;
	config.http2.window_connection_max = 4 << 20;
	config.message_bytes_max = 1 << 30;
	kind = GRPC_BIDI;
	answer_at_once = false;
	begin();
	request(1, 0);
	feed();
	for (int round = 0; round < 8; round++) {
		be32_store(bytes + 1, 16000 - 5);
		for (int i = 0; i < 16; i++) {
			body(1, 0, bytes, 16000);
			calls[0].got_n = 0;
			feed();
			send_all();
		}
		now_ns += 600 * MS;
		grown += sent_n(NGHTTP2_SETTINGS, 0, words);
		pings_answer();
		grown += sent_n(NGHTTP2_SETTINGS, 0, words);
		wire_frame(&in, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
		feed();
	}
	ck_assert_uint_eq(grpc_server_http2_counters(server)->windows_grown, 2);
	ck_assert_uint_ge(grown, 2);
	ck_assert_uint_eq(calls[0].closed, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpc/life");
	TCase *t = tcase_create("life");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, age);
	tcase_add_test(t, age_grace_is_over);
	tcase_add_test(t, idle);
	tcase_add_test(t, idle_and_gone);
	tcase_add_test(t, keepalive);
	tcase_add_test(t, ping_strikes);
	tcase_add_test(t, ping_strikes_without_calls);
	tcase_add_test(t, windows_grow);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
