/* Calls of the daemon's client against servers that do as they are told. */
#include "tests/client/rig.h"

#include <zlib.h>

START_TEST(unary)
{
	struct call *c;
	struct request *r;

	rig_begin(1);
	c = call_new(GRPC_UNARY, 5 * SEC, false);
	ck_assert_int_eq(call_send(c, "hello", 5), 0);
	rig_turn();
	ck_assert_uint_eq(c->statuses_n, 1);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert(c->by_peer);
	ck_assert_uint_eq(c->headers_n, 1);
	ck_assert_uint_eq(c->messages_n, 1);
	ck_assert_mem_eq(c->body, "hello", 5);
	ck_assert_str_eq(c->trailers, "x-trailer=t;x-trailer-bin=abc;");
	r = server_last(&servers[0]);
	ck_assert_str_eq(r->path, "/test.Service/Method");
	ck_assert_str_eq(r->authority, "server.example:50051");
	ck_assert_str_eq(r->timeout, "5000000u");
	ck_assert_str_eq(r->previous, "");
	ck_assert_str_eq(r->accept, "identity, deflate, gzip");
	ck_assert_str_eq(r->md, "v");
	ck_assert_str_eq(r->agent, "grpc-c-splitd/1");
	ck_assert_uint_eq(c->released_n, 1);
	ck_assert_uint_eq(counter_of("calls_ok"), 1);
	ck_assert_uint_eq(counter_of("gauge_calls"), 0);
}
END_TEST

/* One connection carries many calls. */
START_TEST(many)
{
	struct call *c[100];

	rig_begin(1);
	for (unsigned i = 0; i < 100; i++)
		c[i] = call_unary("x");
	rig_turn();
	for (unsigned i = 0; i < 100; i++)
		ck_assert_uint_eq(c[i]->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].accepted, 1);
	ck_assert_uint_eq(counter_of("attempts"), 100);
}
END_TEST

START_TEST(status_and_text)
{
	struct call *c;

	rig_begin(1);
	servers[0].script[0] = (struct script){.status = "5"};
	servers[0].script[1] = (struct script){.status = "99"};
	servers[0].script[2] = (struct script){.status = "7", .headers_first = true};
	servers[0].script_n = 3;
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_NOT_FOUND);
	ck_assert_str_eq(c->text, "as told");
	ck_assert_uint_eq(c->headers_n, 0);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNKNOWN);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_PERMISSION_DENIED);
	ck_assert_uint_eq(c->headers_n, 1);
}
END_TEST

/* All that is no gRPC has a status too (http-grpc-status-mapping.md). */
START_TEST(http_answers)
{
	static const struct {
		const char *http;
		uint32_t status;
	} table[] = {
		{"400", GRPC_INTERNAL},          {"401", GRPC_UNAUTHENTICATED},
		{"403", GRPC_PERMISSION_DENIED}, {"404", GRPC_UNIMPLEMENTED},
		{"429", GRPC_UNAVAILABLE},       {"503", GRPC_UNAVAILABLE},
		{"500", GRPC_UNKNOWN},           {"200", GRPC_UNKNOWN},
	};

	rig_begin(1);
	for (unsigned i = 0; i < 8; i++)
		servers[0].script[i] = (struct script){.http = table[i].http};
	servers[0].script_n = 8;
	for (unsigned i = 0; i < 8; i++) {
		struct call *c = call_unary("x");

		rig_turn();
		ck_assert_msg(c->status == table[i].status, "HTTP %s gave %u", table[i].http,
			      c->status);
	}
}
END_TEST

START_TEST(streaming)
{
	struct call *c;
	struct request *r;

	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_BIDI, 0, false);
	rig_turn();
	r = server_last(&servers[0]);
	ck_assert_int_eq(call_send(c, "one", 3), 0);
	rig_turn();
	ck_assert_uint_eq(r->body_n, 8);
	ck_assert(!r->end);
	server_headers(r, (struct http2_header[]){HTTP2_HEADER("x-initial", "i")}, 1);
	server_message(r, "eins", 4, false);
	rig_turn();
	ck_assert_str_eq(c->md, "x-initial=i;");
	ck_assert_uint_eq(c->messages_n, 1);
	/* The answer has begun: what was sent is given back. */
	ck_assert_int_eq(call_send(c, "two", 3), 0);
	rig_turn();
	ck_assert_uint_eq(c->released_n, 2);
	client_call_end(c->client);
	rig_turn();
	ck_assert(r->end);
	ck_assert_int_eq(call_send(c, "three", 5), -SPLIT_E_GRPC_STATE);
	server_message(r, "zwei", 4, false);
	server_message(r, "", 0, false);
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->messages_n, 3);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_mem_eq(c->body, "einszwei", 8);
}
END_TEST

/* Without room the server's stream window fills and nothing more comes; with room all does. */
START_TEST(no_room)
{
	static uint8_t big[60000];
	struct call *c;
	struct request *r;

	memset(big, 7, sizeof(big));
	config.window_stream = 65536;
	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_SERVER_STREAMING, 0, false);
	ck_assert_int_eq(call_send(c, "x", 1), 0);
	rig_turn();
	r = server_last(&servers[0]);
	c->no_room = true;
	server_headers(r, NULL, 0);
	server_message(r, big, sizeof(big), false);
	server_message(r, big, sizeof(big), false);
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->messages_n, 0);
	ck_assert_uint_eq(c->statuses_n, 0);
	ck_assert_uint_lt(r->out_at, r->out_n);
	ck_assert_uint_eq(counter_of("rx_messages_held"), 1);
	client_call_room(c->client); /* still none */
	ck_assert_uint_eq(c->messages_n, 0);
	c->no_room = false;
	client_call_room(c->client);
	rig_turn();
	ck_assert_uint_eq(c->messages_n, 2);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(c->body_n, 2 * sizeof(big));
}
END_TEST

START_TEST(paused)
{
	struct call *c;
	struct request *r;

	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_SERVER_STREAMING, 0, false);
	ck_assert_int_eq(call_send(c, "x", 1), 0);
	rig_turn();
	r = server_last(&servers[0]);
	client_call_pause(c->client, true);
	server_headers(r, NULL, 0);
	server_message(r, "a", 1, false);
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->messages_n, 0);
	ck_assert_uint_eq(c->statuses_n, 0);
	client_call_pause(c->client, false);
	ck_assert_uint_eq(c->messages_n, 1);
	ck_assert_uint_eq(c->statuses_n, 1);
}
END_TEST

/* The send queue is bounded: AGAIN, then writable. */
START_TEST(send_queue)
{
	static uint8_t big[60000];
	struct call *c;
	int r = 0;

	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_CLIENT_STREAMING, 0, false);
	while (c->sent_n < 8 && r == 0)
		r = call_send(c, big, sizeof(big));
	ck_assert_int_eq(r, SPLIT_AGAIN);
	ck_assert_uint_eq(c->sent_n, 4);
	rig_turn();
	ck_assert_uint_eq(c->writables_n, 1);
	ck_assert_int_eq(call_send(c, big, sizeof(big)), 0);
	client_call_end(c->client);
	rig_turn();
	ck_assert(server_last(&servers[0])->end);
}
END_TEST

START_TEST(deadline)
{
	struct call *c;
	struct request *r;

	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_UNARY, 50 * MS, false);
	ck_assert_int_eq(call_send(c, "x", 1), 0);
	rig_advance(40 * MS);
	ck_assert_uint_eq(c->statuses_n, 0);
	rig_advance(20 * MS);
	ck_assert_uint_eq(c->status, GRPC_DEADLINE_EXCEEDED);
	ck_assert(!c->by_peer);
	r = server_last(&servers[0]);
	ck_assert(r->closed);
	ck_assert_uint_eq(r->closed_code, HTTP2_CANCEL);
	ck_assert_uint_eq(counter_of("calls_deadline"), 1);
	/* One that is over before it begins. */
	now_ns += SEC;
	c = call_new(GRPC_UNARY, 0, false);
	client_call_cancel(c->client);
	ck_assert_uint_eq(c->statuses_n, 0);
}
END_TEST

START_TEST(cancel)
{
	struct call *c;
	struct request *r;

	rig_begin(1);
	servers[0].hold = true;
	c = call_unary("x");
	rig_turn();
	r = server_last(&servers[0]);
	client_call_cancel(c->client);
	ck_assert_uint_eq(c->released_n, 1);
	rig_turn();
	ck_assert(r->closed);
	ck_assert_uint_eq(r->closed_code, HTTP2_CANCEL);
	ck_assert_uint_eq(c->statuses_n, 0);
	/* Before it had a connection, and from inside an event. */
	servers[0].hold = false;
	c = call_unary("x");
	client_call_cancel(c->client);
	c = call_unary("x");
	c->cancel_in_headers = true;
	rig_turn();
	ck_assert_uint_eq(c->headers_n, 1);
	ck_assert_uint_eq(c->messages_n, 0);
	ck_assert_uint_eq(c->statuses_n, 0);
	ck_assert_uint_eq(counter_of("calls_cancelled"), 3);
	ck_assert_uint_eq(counter_of("gauge_calls"), 0);
}
END_TEST

static size_t pack(const void *p, size_t n, uint8_t *out, size_t room, bool gzip)
{
	z_stream z = {.next_in = (Bytef *)p,
		      .avail_in = (uInt)n,
		      .next_out = out,
		      .avail_out = (uInt)room};

	ck_assert_int_eq(deflateInit2(&z, 6, Z_DEFLATED, gzip ? 31 : 15, 8, 0), Z_OK);
	ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

START_TEST(compressed)
{
	static uint8_t plain[100000], packed[60000];
	const struct http2_header encodings[] = {HTTP2_HEADER("grpc-encoding", "gzip"),
						 HTTP2_HEADER("grpc-encoding", "deflate")};
	bool gzip = _i == 0;
	struct call *c;
	struct request *r;
	size_t n;

	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * i >> 7);
	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_SERVER_STREAMING, 0, false);
	ck_assert_int_eq(call_send(c, "x", 1), 0);
	rig_turn();
	r = server_last(&servers[0]);
	server_headers(r, &encodings[_i], 1);
	n = pack(plain, sizeof(plain), packed, sizeof(packed), gzip);
	c->no_room = true;
	server_message(r, packed, n, true);
	server_message(r, "plain", 5, false);
	n = pack("", 0, packed, sizeof(packed), gzip);
	server_message(r, packed, n, true);
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->messages_n, 0);
	c->no_room = false;
	client_call_room(c->client);
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(c->messages_n, 3);
	ck_assert_uint_eq(c->body_n, sizeof(plain) + 5);
	ck_assert_mem_eq(c->body, plain, sizeof(plain));
	ck_assert_uint_eq(counter_of("rx_compressed"), 2);
}
END_TEST

/* A bomb, a broken one, one cut short, one with something behind it: each ends its call. */
START_TEST(compressed_badly)
{
	static uint8_t zeros[200000], packed[4096];
	const struct http2_header gzip = HTTP2_HEADER("grpc-encoding", "gzip");
	uint32_t status = GRPC_INTERNAL;
	struct call *c;
	struct request *r;
	size_t n;

	channel.message_bytes_max = 100000;
	rig_begin(1);
	servers[0].hold = true;
	c = call_unary("x");
	rig_turn();
	r = server_last(&servers[0]);
	n = pack(zeros, _i == 0 ? sizeof(zeros) : 1000, packed, sizeof(packed), true);
	if (_i == 0)
		status = GRPC_RESOURCE_EXHAUSTED;
	if (_i == 1)
		packed[n / 2] ^= 0xff;
	if (_i == 2)
		n -= 3;
	if (_i == 3)
		packed[n++] = 0;
	server_headers(r, &gzip, _i == 4 ? 0 : 1);
	server_message(r, packed, n, true);
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->statuses_n, 1);
	ck_assert_uint_eq(c->status, status);
	ck_assert_uint_eq(c->messages_n, 0);
	ck_assert_uint_eq(counter_of(_i == 4 ? "rx_malformed" : "rx_inflate_errors"), 1);
}
END_TEST

START_TEST(answers_malformed)
{
	struct call *c;
	struct request *r;

	channel.message_bytes_max = 1000;
	rig_begin(1);
	servers[0].hold = true;
	c = call_unary("x");
	rig_turn();
	r = server_last(&servers[0]);
	server_headers(r, NULL, 0);
	if (_i == 0) { /* too large */
		server_message(r, (uint8_t[1001]){0}, 1001, false);
	} else if (_i == 1) { /* two answers to one question */
		server_message(r, "a", 1, false);
		server_message(r, "b", 1, false);
	} else if (_i == 2) { /* none */
	} else if (_i == 3) { /* cut short */
		server_message(r, "abc", 3, false);
		r->out_n--;
	} else if (_i == 4) { /* a flag that is none */
		server_message(r, "abc", 3, false);
		r->out[0] = 2;
	}
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->statuses_n, 1);
	ck_assert_uint_eq(c->status, _i == 0 ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL);
	ck_assert_uint_eq(counter_of(_i == 0 ? "rx_messages_over" : "rx_malformed"), 1);
}
END_TEST

START_TEST(calls_max)
{
	struct call *c[4];

	channel.calls_max = 3;
	rig_begin(1);
	servers[0].hold = true;
	for (unsigned i = 0; i < 4; i++)
		c[i] = call_unary("x");
	ck_assert_uint_eq(c[3]->status, GRPC_RESOURCE_EXHAUSTED);
	ck_assert_ptr_null(c[3]->client);
	ck_assert_uint_eq(counter_of("calls_over"), 1);
}
END_TEST

/* Calls that the layer above did not end are ended with the client. */
START_TEST(destroyed)
{
	struct call *c, *waits;

	rig_begin(2);
	servers[0].hold = servers[1].hold = true;
	c = call_unary("x");
	rig_turn();
	servers[0].mode = servers[1].mode = SERVER_SILENT;
	waits = call_unary("y");
	client_destroy(client);
	client = NULL;
	ck_assert_uint_eq(c->status, GRPC_CANCELLED);
	ck_assert_uint_eq(waits->status, GRPC_CANCELLED);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("client/call");
	TCase *t = tcase_create("call");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, unary);
	tcase_add_test(t, many);
	tcase_add_test(t, status_and_text);
	tcase_add_test(t, http_answers);
	tcase_add_test(t, streaming);
	tcase_add_test(t, no_room);
	tcase_add_test(t, paused);
	tcase_add_test(t, send_queue);
	tcase_add_test(t, deadline);
	tcase_add_test(t, cancel);
	tcase_add_loop_test(t, compressed, 0, 2);
	tcase_add_loop_test(t, compressed_badly, 0, 5);
	tcase_add_loop_test(t, answers_malformed, 0, 5);
	tcase_add_test(t, calls_max);
	tcase_add_test(t, destroyed);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
