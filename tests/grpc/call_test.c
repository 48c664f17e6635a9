/* Requests: heads, framing at every split, the statuses of broken ones, plain HTTP, room that comes
 * late. */
#include "tests/grpc/rig.h"

/* --- tests
 * ------------------------------------------------------------------------------------------------
 */

START_TEST(unary)
{
	wire_preface(&in);
	request(1, 0);
	message(1, END, "hello");
	feed();
	ck_assert_uint_eq(calls_n, 1);
	ck_assert_str_eq(calls[0].path, "a.B|C");
	ck_assert_uint_eq(calls[0].deadline_ns, UINT64_MAX);
	ck_assert(calls[0].last);
	ck_assert_uint_eq(calls[0].got_n, 5);
	ck_assert_uint_eq(calls[0].closed, 0);
	send_all();
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DONE);
	answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\n");
}
END_TEST

/* A stream of messages of many sizes in one DATA run, cut at every place. */
START_TEST(framing_at_every_split)
{
	static uint8_t run[600];
	size_t n = 0;

	kind = GRPC_CLIENT_STREAMING;
	for (uint32_t size = 0; size < 30; size += 1 + size / 3) {
		run[n++] = 0;
		be32_store(run + n, size);
		n += 4;
		for (uint32_t i = 0; i < size; i++)
			run[n++] = (uint8_t)('a' + i % 26);
	}
	for (size_t cut = 0; cut <= n; cut++) {
		grpc_connection_destroy(conn);
		connect_again();
		wire_preface(&in);
		request(1, 0);
		if (cut == n)
			for (size_t i = 0; i < n; i++)
				body(1, 0, run + i, 1);
		else
			body(1, 0, run, cut);
		body(1, END, run + cut, n - cut);
		feed();
		send_all();
		answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\n");
		ck_assert_uint_eq(calls[0].messages, 10);
		ck_assert_uint_eq(calls[0].half_closes, 1);
		ck_assert_uint_eq(calls[0].got_n, n - 5 * 10);
	}
}
END_TEST

START_TEST(metadata_in)
{
	const char *const more[] = {"x-a",
				    "1",
				    "user-agent",
				    "test",
				    "x-b-bin",
				    "aGk=,aG8",
				    "x-a",
				    "2",
				    "x-b-bin",
				    "",
				    "grpc-timeout",
				    "5S",
				    "grpc-accept-encoding",
				    "gzip",
				    NULL};

	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "");
	feed();
	send_all();
	ck_assert_str_eq(calls[0].md,
			 "x-a=1;user-agent=test;x-b-bin=hi;x-b-bin=ho;x-a=2;x-b-bin=;");
	ck_assert_uint_eq(calls[0].deadline_ns, now_ns + 5000 * MS);
	status_is(1, "0");
}
END_TEST

START_TEST(broken_requests)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *status;
	} bodies[] = {
		{"", 0, "13"},                         /* no message */
		{"\0\0", 2, "13"},                     /* half a prefix */
		{"\0\0\0\0\5abc", 8, "13"},            /* half a message */
		{"\1\0\0\0\3abc", 8, "13"},            /* compressed without an encoding */
		{"\2\0\0\0\3abc", 8, "13"},            /* a flag nobody knows */
		{"\0\0\x50\0\0", 5, "8"},              /* over the limit */
		{"\0\xff\xff\xff\xff", 5, "8"},        /* far over it */
		{"\0\0\0\0\3abc\0\0\0\0\1d", 14, "0"}, /* a second message is discarded */
		{"\0\0\0\0\3abc\1", 9, "0"},           /* so is garbage */
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++, id += 2) {
		request(id, 0);
		body(id, END, bodies[i].bytes, bodies[i].n);
		feed();
		send_all();
		status_is(id, bodies[i].status);
		ck_assert_uint_eq(calls[i].closed, 1);
	}
	request(id, END);
	feed();
	send_all();
	status_is(id, "13");
}
END_TEST

START_TEST(broken_heads)
{
	static const struct {
		const char *path;
		const char *more[3];
		const char *status;
	} heads[] = {
		{"/a.B/C", {"grpc-timeout", "123456789S", NULL}, "13"},
		{"/a.B/C", {"grpc-timeout", "1", NULL}, "13"},
		{"/a.B/C", {"grpc-timeout", "0m", NULL}, "4"},
		{"/a.B/C", {"x-a-bin", "****", NULL}, "13"},
		{"/a.B", {NULL}, "12"},
		{"/", {NULL}, "12"},
		{"//", {NULL}, "12"},
		{"/a/", {NULL}, "12"},
		{"*", {NULL}, ""},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(heads); i++, id += 2) {
		wire_headers(&in, id, 0, grpc_fields(heads[i].path, heads[i].more));
		feed();
		send_all();
		if (heads[i].status[0] == 0)
			ck_assert_str_eq(answer(id), "RST 1\n");
		else
			status_is(id, heads[i].status);
		if (strcmp(heads[i].status, "12") == 0)
			ck_assert_ptr_nonnull(strstr(
				answer(id), "grpc-accept-encoding: identity, deflate, gzip\n"));
		ck_assert_ptr_nonnull(strstr(answer(id), "RST"));
	}
	ck_assert_uint_eq(calls_n, 0);
}
END_TEST

/* What counts is each message's flag: clients that compress leave small ones plain. */
START_TEST(encodings)
{
	static const struct {
		const char *encoding;
		char flag;
		const char *status;
	} cases[] = {
		{"identity", 0, "0"}, {"identity", 1, "13"}, {"gzip", 0, "0"},    {"gzip", 1, "13"},
		{"gzip", 2, "13"},    {"snappy", 0, "12"},   {"snappy", 1, "12"},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++, id += 2) {
		const char *const more[] = {"grpc-encoding", cases[i].encoding, NULL};
		const char bytes[] = {cases[i].flag, 0, 0, 0, 1, 'x'};

		request_with(id, 0, more);
		body(id, END, bytes, sizeof(bytes));
		feed();
		send_all();
		status_is(id, cases[i].status);
		if (strcmp(cases[i].status, "12") == 0)
			ck_assert_ptr_nonnull(strstr(
				answer(id), "grpc-accept-encoding: identity, deflate, gzip\n"));
	}
}
END_TEST

START_TEST(content_types)
{
	static const struct {
		const char *type;
		const char *status;
	} types[] = {
		{"application/grpc+proto", ":status: 200"},
		{"application/grpc;x=y", ":status: 200"},
		{"Application/GRPC+Proto ; x=y", ":status: 200"},
		{"application/grpc+json", ":status: 415"},
		{"application/grpc+protobuf", ":status: 415"},
		{"application/grpcx", ":status: 415"},
		{"application/grpc-web", ":status: 415"},
		{"application/json", ":status: 415"},
		{"application/grp", ":status: 415"},
		{"", ":status: 415"},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(types); i++, id += 2) {
		const char *const fields[] = {":method",      "POST",        ":scheme", "http",
					      ":authority",   "x",           ":path",   "/a.B/C",
					      "content-type", types[i].type, NULL};

		wire_headers(&in, id, 0, fields);
		message(id, END, "x");
		feed();
		send_all();
		ck_assert_ptr_nonnull(strstr(answer(id), types[i].status));
	}
}
END_TEST

START_TEST(plain_http)
{
	static const struct {
		const char *method, *path, *want;
	} cases[] = {
		{"GET", "/healthz", ":status: 200\n"}, {"HEAD", "/healthz", ":status: 200\n"},
		{"GET", "/", ":status: 404\n"},        {"POST", "/", ":status: 415\n"},
		{"PUT", "/", ":status: 405\n"},        {"OPTIONS", "*", ":status: 405\n"},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++, id += 2) {
		const char *const fields[] = {":method", cases[i].method, ":scheme",
					      "http",    ":authority",    "x",
					      ":path",   cases[i].path,   NULL};

		wire_headers(&in, id, END, fields);
		feed();
		send_all();
		ck_assert_ptr_nonnull(strstr(answer(id), cases[i].want));
		ck_assert_ptr_nonnull(strstr(answer(id), "END"));
		ck_assert_int_eq(strstr(answer(id), "[") == NULL,
				 strcmp(cases[i].method, "HEAD") == 0);
	}
	ck_assert_uint_eq(grpc_server_counters(server)->http_requests, ARRAY_LEN(cases));
}
END_TEST

START_TEST(open_refuses)
{
	wire_preface(&in);
	open_status = GRPC_UNIMPLEMENTED;
	request(1, 0);
	message(1, END, "hello");
	feed();
	send_all();
	answer_is(1, "grpc-status: 12\ngrpc-accept-encoding: identity, deflate, "
		     "gzip\ngrpc-message: not here\nEND\n");
	open_status = -5;
	request(3, 0);
	feed();
	send_all();
	status_is(3, "13");
}
END_TEST

START_TEST(reset_behind_an_early_answer)
{
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "hello");
	feed();
	send_all();
	answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\nRST 0\n");
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DONE);
	/* What was under way is ignored. */
	body(1, END, "late", 4);
	feed();
	send_all();
	answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\nRST 0\n");
}
END_TEST

START_TEST(room_comes_late)
{
	static char text[200];

	memset(text, 'x', sizeof(text) - 1);
	for (unsigned pieces = 1; pieces < 5; pieces++) {
		grpc_connection_destroy(conn);
		connect_again();
		kind = GRPC_CLIENT_STREAMING;
		room = false;
		wire_preface(&in);
		request(1, 0);
		for (unsigned i = 0; i < pieces; i++)
			message(1, 0, text);
		body(1, 0, "\0\0", 2);
		feed();
		body(1, 0, "\0\0\1", 3);
		body(1, END, "y", 1);
		feed();
		ck_assert_uint_eq(calls[0].messages, 0);
		grpc_call_room(calls[0].grpc);
		ck_assert_uint_eq(calls[0].messages, 0);
		room = true;
		grpc_call_room(calls[0].grpc);
		ck_assert_uint_eq(calls[0].messages, pieces + 1);
		ck_assert_uint_eq(calls[0].half_closes, 1);
		send_all();
		status_is(1, "0");
	}
}
END_TEST

START_TEST(held_bytes_withhold_the_window)
{
	static uint8_t big[16000];
	struct wire_reader r;
	struct wire_got g;

	room = false;
	kind = GRPC_CLIENT_STREAMING;
	wire_preface(&in);
	request(1, 0);
	be32_store(big + 1, 64000 - 5);
	for (int i = 0; i < 4; i++) {
		body(1, 0, big, sizeof(big));
		memset(big, 0, 5);
	}
	feed();
	send_all();
	wire_reader_init(&r, out.b, out.n);
	ck_assert(!wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 1));
	wire_reader_fini(&r);
	room = true;
	grpc_call_room(calls[0].grpc);
	send_all();
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 1));
	wire_reader_fini(&r);
	ck_assert_uint_eq(calls[0].messages, 1);
	ck_assert_uint_eq(grpc_server_counters(server)->rx_messages_held, 1);
}
END_TEST

START_TEST(hold_memory_runs_out)
{
	static uint8_t big[16000];
	struct grpc_connection *first, *second;
	unsigned refused = 0, n;

	room = false;
	config.hold_bytes_max = 128 * 1024;
	server_again();
	first = conn;
	wire_preface(&in);
	be32_store(big + 1, 15995);
	for (uint32_t id = 1; id < 40; id += 2) {
		request(id, 0);
		body(id, END, big, sizeof(big));
		feed();
		send_all();
		if (strstr(answer(id), "grpc-status: 8\n") != NULL)
			refused++;
	}
	/* One connection holds no more than it leaves to others. */
	ck_assert_uint_ge(refused, 15);
	ck_assert_uint_le(refused, 17);
	ck_assert_uint_eq(grpc_server_counters(server)->hold_refused, refused);
	connect_again();
	calls_n = n = 20;
	wire_preface(&in);
	request(1, 0);
	body(1, END, big, sizeof(big));
	feed();
	ck_assert_uint_eq(calls_n, n + 1);
	ck_assert_uint_eq(calls[n].closed, 0);
	ck_assert_uint_eq(grpc_server_counters(server)->hold_refused, refused);
	/* Those that wait go on. */
	room = true;
	for (unsigned i = 0; i < calls_n; i++)
		if (!calls[i].closed)
			grpc_call_room(calls[i].grpc);
	send_all();
	status_is(1, "0");
	second = conn;
	conn = first;
	send_all();
	all_closed_once();
	grpc_connection_destroy(second);
}
END_TEST

START_TEST(reserve_fails)
{
	reserve_error = -SPLIT_E_BASE_LIMIT;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "x");
	feed();
	send_all();
	status_is(1, "8");
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_FAILED);
}
END_TEST

START_TEST(method_has_its_own_limit)
{
	message_max = 3;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "abc");
	request(3, 0);
	message(3, END, "abcd");
	feed();
	send_all();
	status_is(1, "0");
	status_is(3, "8");
}
END_TEST

START_TEST(paused)
{
	kind = GRPC_BIDI;
	answer_at_once = false;
	pause_after_message = true;
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "one");
	message(1, 0, "two");
	message(1, END, "three");
	feed();
	for (unsigned want = 1; want <= 3; want++) {
		ck_assert_uint_eq(calls[0].messages, want);
		ck_assert_uint_eq(calls[0].half_closes, 0);
		grpc_call_pause(calls[0].grpc, false);
	}
	ck_assert_uint_eq(calls[0].half_closes, 1);
	finish(&calls[0], GRPC_OK, NULL);
	send_all();
	answer_is(1, "grpc-status: 0\nEND\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpc/call");
	TCase *t = tcase_create("call");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_add_test(t, unary);
	tcase_add_test(t, framing_at_every_split);
	tcase_add_test(t, metadata_in);
	tcase_add_test(t, broken_requests);
	tcase_add_test(t, broken_heads);
	tcase_add_test(t, encodings);
	tcase_add_test(t, content_types);
	tcase_add_test(t, plain_http);
	tcase_add_test(t, open_refuses);
	tcase_add_test(t, reset_behind_an_early_answer);
	tcase_add_test(t, room_comes_late);
	tcase_add_test(t, held_bytes_withhold_the_window);
	tcase_add_test(t, hold_memory_runs_out);
	tcase_add_test(t, reserve_fails);
	tcase_add_test(t, method_has_its_own_limit);
	tcase_add_test(t, paused);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
