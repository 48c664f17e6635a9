/* Answers and ends: deadlines, resets, lost connections, limits; every call ends exactly once. */
#include "tests/grpc/rig.h"

START_TEST(deadline)
{
	const char *const more[] = {"grpc-timeout", "100m", NULL};

	answer_at_once = false;
	wire_preface(&in);
	request_with(1, 0, more);
	message(1, 0, "x");
	feed();
	wheel_advance(&wheel, now_ns + 99 * MS, 10);
	ck_assert_uint_eq(calls[0].closed, 0);
	wheel_advance(&wheel, now_ns + 101 * MS, 10);
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DEADLINE);
	send_all();
	answer_is(1, "grpc-status: 4\ngrpc-message: deadline exceeded\nEND\nRST 0\n");
}
END_TEST

START_TEST(deadline_behind_an_answer_cancels_the_timer)
{
	const char *const more[] = {"grpc-timeout", "100m", NULL};

	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "x");
	feed();
	send_all();
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_uint_eq(wheel_next_ns(&wheel), UINT64_MAX);
}
END_TEST

/* The output stops inside a DATA frame, then the deadline comes: the frame must be finished with
 * the message's own bytes, the chain be kept until then, and the status follow. */
START_TEST(deadline_inside_a_frame)
{
	const char *const more[] = {"grpc-timeout", "100m", NULL};
	struct wire_reader r;
	struct wire_got g;

	kind = GRPC_SERVER_STREAMING;
	answer_at_once = false;
	reply_n = 9000;
	memset(reply_bytes, 'r', reply_n);
	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "x");
	feed();
	ck_assert_int_eq(reply(&calls[0]), 0);
	ck_assert_int_eq(reply(&calls[0]), 0);
	ck_assert_int_eq(reply(&calls[0]), 0);
	room_left = 500;
	ck_assert_int_eq(grpc_connection_send(conn, SIZE_MAX), SPLIT_AGAIN);
	wheel_advance(&wheel, now_ns + 101 * MS, 10);
	ck_assert_uint_eq(calls[0].closed, 0);
	ck_assert_uint_eq(calls[0].released, 0);
	ck_assert_int_eq(reply(&calls[0]), -SPLIT_E_GRPC_STATE);
	room_left = 1u << 20;
	send_all();
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DEADLINE);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_DATA, 1));
	ck_assert_uint_eq(g.n, 16384);
	for (size_t i = 5; i < g.n; i++)
		ck_assert(g.p[i] == 'r' || (i >= 9005 && i < 9010));
	ck_assert(wire_find(&r, &g, NGHTTP2_HEADERS, 1));
	ck_assert_ptr_nonnull(strstr(g.fields, "grpc-status: 4\n"));
	wire_reader_fini(&r);
}
END_TEST

START_TEST(timeouts_are_cut)
{
	const char *const more[] = {"grpc-timeout", "99999999H", NULL};

	config.timeout_max_ns = 7000 * MS;
	server_again();
	answer_at_once = false;
	wire_preface(&in);
	request_with(1, END, more);
	kind = GRPC_BIDI;
	feed();
	ck_assert_uint_eq(calls[0].deadline_ns, now_ns + 7000 * MS);
}
END_TEST

START_TEST(client_resets)
{
	answer_at_once = false;
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "x");
	request(3, 0);
	body(3, 0,
	     "\0\0\0\0\x09"
	     "abc",
	     8); /* inside a message */
	request(5, 0);
	feed();
	room = false;
	body(5, 0,
	     "\0\0\0\0\x09"
	     "abc",
	     8); /* while it waits for room */
	feed();
	for (uint32_t id = 1; id <= 5; id += 2)
		wire_u32(&in, NGHTTP2_RST_STREAM, id, NGHTTP2_CANCEL);
	feed();
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_uint_eq(calls[i].closed, 1);
		ck_assert_int_eq(calls[i].why, GRPC_CLOSED_CANCELLED);
	}
	ck_assert_uint_eq(grpc_server_counters(server)->calls_cancelled, 3);
}
END_TEST

START_TEST(connection_lost)
{
	answer_at_once = false;
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "x");
	request(3, 0);
	feed();
	ck_assert_int_eq(reply(&calls[0]), 0);
	grpc_connection_destroy(conn);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_CONNECTION);
	ck_assert_int_eq(calls[1].why, GRPC_CLOSED_CONNECTION);
	all_closed_once();
	connect_again();
}
END_TEST

START_TEST(send_queue_is_bounded)
{
	unsigned taken = 0;

	kind = GRPC_SERVER_STREAMING;
	answer_at_once = false;
	reply_n = 100000;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "x");
	feed();
	while (taken < 8 && reply(&calls[0]) == 0)
		taken++;
	ck_assert_uint_eq(taken, 2);
	ck_assert_uint_eq(grpc_server_counters(server)->tx_blocked, 1);
	send_all(); /* 65,535 bytes of window */
	ck_assert_uint_eq(calls[0].writables, 1);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 1, 10000000);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 10000000);
	feed();
	send_all();
	ck_assert_uint_eq(calls[0].released, 2);
	finish(&calls[0], GRPC_OK, NULL);
	send_all();
	status_is(1, "0");
}
END_TEST

START_TEST(metadata_out)
{
	static const struct grpc_metadata md[] = {{"x-a", (const uint8_t *)"v", 3, 1},
						  {"x-b-bin", (const uint8_t *)"hi", 7, 2}};
	static const struct grpc_metadata bad[] = {{"grpc-x", (const uint8_t *)"v", 6, 1}};
	struct grpc_result result = {.status = GRPC_ABORTED,
				     .message = "50% \n",
				     .message_len = 5,
				     .details = (const uint8_t *)"xyz",
				     .details_len = 3,
				     .trailers = md,
				     .trailers_count = 2};

	answer_at_once = false;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "x");
	request(3, 0);
	message(3, END, "x");
	request(5, 0);
	message(5, END, "x");
	feed();
	ck_assert_int_eq(grpc_send_metadata(calls[0].grpc, bad, 1), -SPLIT_E_GRPC_METADATA);
	ck_assert_int_eq(grpc_send_metadata(calls[0].grpc, md, 2), 0);
	ck_assert_int_eq(grpc_send_metadata(calls[0].grpc, md, 2), -SPLIT_E_GRPC_METADATA);
	ck_assert_int_eq(reply(&calls[0]), 0);
	ck_assert_int_eq(reply(&calls[0]), -SPLIT_E_GRPC_STATE);
	grpc_finish(calls[0].grpc, &result);
	grpc_finish(calls[0].grpc, &result);
	grpc_finish(calls[1].grpc, &result);
	result.trailers = bad;
	result.trailers_count = 1;
	grpc_finish(calls[2].grpc, &result);
	send_all();
	answer_is(1, "x-a: v\nx-b-bin: aGk\n[10 reply]\ngrpc-status: 10\ngrpc-message: 50%25 %0A\n"
		     "grpc-status-details-bin: eHl6\nx-a: v\nx-b-bin: aGk\nEND\n");
	answer_is(3, "grpc-status: 10\ngrpc-message: 50%25 %0A\ngrpc-status-details-bin: eHl6\n"
		     "x-a: v\nx-b-bin: aGk\nEND\n");
	answer_is(5, "grpc-status: 13\ngrpc-message: trailers that cannot be sent\nEND\n");
}
END_TEST

START_TEST(odd_results)
{
	answer_at_once = false;
	wire_preface(&in);
	for (uint32_t id = 1; id <= 5; id += 2) {
		request(id, 0);
		message(id, END, "x");
	}
	feed();
	finish(&calls[0], GRPC_OK, NULL); /* no reply */
	finish(&calls[1], 99, NULL);
	ck_assert_int_eq(reply(&calls[2]), 0);
	finish(&calls[2], GRPC_UNAVAILABLE, "");
	send_all();
	status_is(1, "13");
	status_is(3, "2");
	status_is(5, "14");
}
END_TEST

START_TEST(too_many_calls)
{
	answer_at_once = false;
	config.calls_max = 2;
	server_again();
	wire_preface(&in);
	request(1, 0);
	request(3, 0);
	request(5, 0);
	feed();
	send_all();
	ck_assert_uint_eq(calls_n, 2);
	status_is(5, "8");
	ck_assert_uint_eq(grpc_server_counters(server)->calls_over, 1);
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	request(7, 0);
	feed();
	ck_assert_uint_eq(calls_n, 3);
}
END_TEST

static void another_connection(struct grpc_connection **first_out)
{
	unsigned n = calls_n;

	*first_out = conn;
	connect_again();
	calls_n = n;
	wire_preface(&in);
}

START_TEST(idle_calls_give_way_to_another_connection)
{
	struct grpc_connection *first, *second;

	config.calls_max = 4;
	server_again();
	wire_preface(&in);
	for (uint32_t id = 1; id <= 9; id += 2)
		request(id, 0);
	feed();
	/* Not to one of their own connection. */
	ck_assert_uint_eq(calls_n, 4);
	ck_assert_uint_eq(grpc_server_counters(server)->calls_over, 1);
	another_connection(&first);
	request(1, 0);
	message(1, END, "x");
	feed();
	send_all();
	status_is(1, "0");
	ck_assert_uint_eq(calls_n, 5);
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_FAILED);
	ck_assert_uint_eq(grpc_server_counters(server)->calls_idle_cut, 1);
	second = conn;
	conn = first;
	out.n = 0;
	send_all();
	status_is(1, "8");
	/* The others go on. */
	message(3, END, "x");
	feed();
	send_all();
	status_is(3, "0");
	grpc_connection_destroy(second);
}
END_TEST

/* As many as the newcomer has itself: none gives way, or they would chase each other. */
START_TEST(no_more_than_a_fair_share_gives_way)
{
	struct grpc_connection *first;

	config.calls_max = 4;
	server_again();
	wire_preface(&in);
	for (uint32_t id = 1; id <= 7; id += 2)
		request(id, 0);
	feed();
	another_connection(&first);
	for (uint32_t id = 1; id <= 7; id += 2)
		request(id, 0);
	feed();
	ck_assert_uint_eq(grpc_server_counters(server)->calls_idle_cut, 2);
	ck_assert_uint_eq(grpc_server_counters(server)->calls_over, 2);
	grpc_connection_destroy(first);
}
END_TEST

START_TEST(metadata_limit)
{
	static char value[9000];
	const char *const more[] = {"x-big", value, NULL};

	memset(value, 'v', 8100);
	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "");
	memset(value, 'v', 8200);
	request_with(3, 0, more);
	feed();
	send_all();
	status_is(1, "0");
	status_is(3, "8");
	ck_assert_uint_eq(grpc_server_counters(server)->rx_metadata_over, 1);
}
END_TEST

START_TEST(large_messages_both_ways)
{
	static uint8_t big[100000];

	reply_n = sizeof(reply_bytes);
	be32_store(big + 1, sizeof(big) - 5);
	wire_preface(&in);
	feed();
	send_all();
	wire_frame(&in, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 10000000);
	request(1, 0);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 1, 10000000);
	for (size_t at = 0; at < sizeof(big); at += 10000) {
		body(1, at + 10000 >= sizeof(big) ? END : 0, big + at, 10000);
		feed();
		send_all();
	}
	ck_assert_uint_eq(calls[0].got_n, sizeof(big) - 5);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DONE);
	status_is(1, "0");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpc/call_end");
	TCase *t = tcase_create("call_end");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_add_test(t, deadline);
	tcase_add_test(t, deadline_behind_an_answer_cancels_the_timer);
	tcase_add_test(t, deadline_inside_a_frame);
	tcase_add_test(t, timeouts_are_cut);
	tcase_add_test(t, client_resets);
	tcase_add_test(t, connection_lost);
	tcase_add_test(t, send_queue_is_bounded);
	tcase_add_test(t, metadata_out);
	tcase_add_test(t, odd_results);
	tcase_add_test(t, too_many_calls);
	tcase_add_test(t, idle_calls_give_way_to_another_connection);
	tcase_add_test(t, no_more_than_a_fair_share_gives_way);
	tcase_add_test(t, metadata_limit);
	tcase_add_test(t, large_messages_both_ways);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
