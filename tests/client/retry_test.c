/* Retries (gRFC A6), targets and connections of the daemon's client. Counted exactly. */
#include "tests/client/rig.h"

static void retries(uint32_t attempts)
{
	channel.retry.attempts_max = attempts;
	channel.retry.backoff_ns = 10 * MS;
	channel.retry.backoff_max_ns = 100 * MS;
	channel.retry.tokens_max = 0;
}

/* Two failures, then good: three attempts, and the third says that it is the third. */
START_TEST(flaky)
{
	struct call *c;

	retries(4);
	rig_begin(1);
	servers[0].script[0] = (struct script){.status = "14"};
	servers[0].script[1] = (struct script){.status = "14"};
	servers[0].script_n = 2;
	c = call_unary("hello");
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 1);
	ck_assert_uint_eq(c->statuses_n, 0);
	rig_advance(7 * MS); /* 10 ms less a fifth at the least */
	ck_assert_uint_eq(servers[0].requests_n, 1);
	rig_advance(6 * MS);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	rig_advance(25 * MS);
	ck_assert_uint_eq(servers[0].requests_n, 3);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_mem_eq(c->body, "hello", 5);
	ck_assert_str_eq(server_last(&servers[0])->previous, "2");
	ck_assert_uint_eq(counter_of("attempts"), 3);
	ck_assert_uint_eq(counter_of("retries"), 2);
	ck_assert_uint_eq(counter_of("gauge_retry_bytes"), 0);
}
END_TEST

/* attempts_max is what there is, and another code is not retried. */
START_TEST(spent)
{
	struct call *c;

	retries(3);
	rig_begin(1);
	for (unsigned i = 0; i < 10; i++)
		servers[0].script[i] = (struct script){.status = i < 3 ? "14" : "5"};
	servers[0].script_n = 10;
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_str_eq(c->text, "as told");
	ck_assert_uint_eq(servers[0].requests_n, 3);
	ck_assert_uint_eq(counter_of("retries_spent"), 1);
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_NOT_FOUND);
	ck_assert_uint_eq(servers[0].requests_n, 4);
}
END_TEST

/* The server's word: later, or not at all. */
START_TEST(pushback)
{
	struct call *c;

	retries(5);
	rig_begin(1);
	servers[0].script[0] = (struct script){.status = "14", .pushback = "500"};
	servers[0].script[1] = (struct script){.status = "14", .pushback = "-1"};
	servers[0].script[2] = (struct script){.status = "14", .pushback = "soon"};
	servers[0].script_n = 3;
	c = call_unary("x");
	rig_advance(490 * MS);
	ck_assert_uint_eq(servers[0].requests_n, 1);
	rig_advance(20 * MS);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("retries_pushback"), 1);
	ck_assert_uint_eq(counter_of("retries_refused"), 1);
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("retries_refused"), 2);
}
END_TEST

/* With four tokens two failures may be retried; then more than half are not left. */
START_TEST(budget)
{
	retries(2);
	channel.retry.tokens_max = 4;
	channel.retry.token_ratio_milli = 500;
	rig_begin(1);
	for (unsigned i = 0; i < 60; i++)
		servers[0].script[i] = (struct script){.status = "14"};
	servers[0].script_n = 60;
	(void)call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(servers[0].requests_n, 2); /* 4 -> 3 -> 2 */
	(void)call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(servers[0].requests_n, 3); /* -> 1, and no retry */
	ck_assert_uint_eq(counter_of("retries_throttled"), 1);
	ck_assert_uint_eq(counter_of("gauge_tokens_milli"), 1000);
	servers[0].script_n = 0;
	for (unsigned i = 0; i < 10; i++)
		(void)call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(counter_of("gauge_tokens_milli"), 4000);
}
END_TEST

/* Once the answer has begun there is no other attempt. */
START_TEST(committed)
{
	static uint8_t big[3000];
	struct call *c;

	retries(5);
	channel.retry.bytes_max = 2000;
	rig_begin(1);
	servers[0].script[0] = (struct script){.status = "14", .headers_first = true};
	servers[0].script[1] = (struct script){.status = "14"};
	servers[0].script_n = 2;
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(servers[0].requests_n, 1);
	/* Nor when its messages could not be kept. */
	c = call_new(GRPC_UNARY, 0, false);
	ck_assert_int_eq(call_send(c, big, sizeof(big)), 0);
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	ck_assert_uint_eq(counter_of("retries_committed"), 1);
}
END_TEST

/* A stream's messages are given back when they are sent, and sent again all the same. */
START_TEST(stream_again)
{
	struct call *c;

	retries(3);
	rig_begin(1);
	servers[0].hold = true;
	c = call_new(GRPC_CLIENT_STREAMING, 0, false);
	ck_assert_int_eq(call_send(c, "one", 3), 0);
	ck_assert_int_eq(call_send(c, "two", 3), 0);
	rig_turn();
	ck_assert_uint_eq(c->released_n, 2);
	server_status(server_last(&servers[0]), "14", "not now");
	rig_advance(20 * MS);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	ck_assert_int_eq(call_send(c, "three", 5), 0);
	client_call_end(c->client);
	rig_turn();
	ck_assert_uint_eq(c->released_n, 3);
	ck_assert_mem_eq(server_last(&servers[0])->body,
			 "\0\0\0\0\3one\0\0\0\0\3two\0\0\0\0\5three", 26);
	server_headers(server_last(&servers[0]), NULL, 0);
	server_message(server_last(&servers[0]), "good", 4, false);
	server_status(server_last(&servers[0]), "0", "");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(counter_of("gauge_retry_bytes"), 0);
}
END_TEST

/* What the server refused is tried again at once, and once, without any policy. */
START_TEST(refused)
{
	struct call *c;

	rig_begin(1);
	for (unsigned i = 0; i < 3; i++)
		servers[0].script[i] = (struct script){.reset = HTTP2_REFUSED_STREAM + 1};
	servers[0].script_n = 1;
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	ck_assert_uint_eq(counter_of("retries_transparent"), 1);
	ck_assert_str_eq(server_last(&servers[0])->previous, "");
	servers[0].script_n = 3;
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(servers[0].requests_n, 4);
}
END_TEST

/* Other resets have statuses of their own. */
START_TEST(resets)
{
	struct call *c;

	rig_begin(1);
	servers[0].script[0] = (struct script){.reset = HTTP2_CANCEL + 1};
	servers[0].script[1] = (struct script){.reset = HTTP2_ENHANCE_YOUR_CALM + 1};
	servers[0].script[2] = (struct script){.close = true};
	servers[0].script_n = 3;
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_CANCELLED);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_RESOURCE_EXHAUSTED);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("connections_lost"), 1);
	/* The next one has a connection again. */
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].accepted, 2);
}
END_TEST

/* A GOAWAY: running calls go on, new ones go to a new connection, nothing is lost. */
START_TEST(goaway)
{
	struct call *runs, *c;
	struct request *r;

	rig_begin(1);
	servers[0].hold = true;
	runs = call_unary("x");
	rig_turn();
	r = server_last(&servers[0]);
	server_goaway(&servers[0], true, 0);
	rig_turn();
	ck_assert_uint_eq(counter_of("goaways"), 1);
	servers[0].hold = false;
	c = call_unary("y");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].accepted, 2);
	ck_assert_uint_eq(runs->statuses_n, 0);
	server_status(r, "5", "late");
	rig_turn();
	ck_assert_uint_eq(runs->status, GRPC_NOT_FOUND);
	ck_assert_uint_eq(servers[0].connections_n, 1);
}
END_TEST

START_TEST(round_robin)
{
	rig_begin(3);
	(void)call_unary("x");
	rig_turn();
	for (unsigned i = 0; i < 3; i++)
		servers[i].requests_n = 0;
	for (unsigned i = 0; i < 30; i++)
		(void)call_unary("x");
	rig_turn();
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(servers[i].requests_n, 10);
}
END_TEST

/* A server that dies: its calls end or are retried elsewhere, the others go on. */
START_TEST(server_death)
{
	struct call *c[20];

	retries(3);
	rig_begin(2);
	(void)call_unary("x");
	rig_turn();
	servers[0].hold = true;
	for (unsigned i = 0; i < 20; i++)
		c[i] = call_unary("x");
	rig_turn();
	servers[0].mode = SERVER_REFUSES;
	server_cut(&servers[0]);
	rig_advance(SEC);
	for (unsigned i = 0; i < 20; i++)
		ck_assert_uint_eq(c[i]->status, GRPC_OK);
	ck_assert_uint_eq(counter_of("retries"), 10);
	ck_assert_uint_gt(counter_of("connects_failed"), 0);
	/* It comes back. */
	servers[0].mode = SERVER_OK;
	servers[0].hold = false;
	(void)call_unary("x");
	rig_advance(5 * SEC);
	ck_assert_uint_eq(counter_of("gauge_ready"), 2);
}
END_TEST

/* Without a server that works calls fail at once, but those that wait for one. */
START_TEST(nobody)
{
	struct call *c, *waits;

	rig_begin(2);
	servers[0].mode = servers[1].mode = SERVER_REFUSES;
	waits = call_new(GRPC_UNARY, 0, true);
	ck_assert_int_eq(call_send(waits, "w", 1), 0);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_str_eq(c->text, "no connection to the server");
	ck_assert_uint_eq(waits->statuses_n, 0);
	/* The back-off grows: about 1, 1.6, 2.6 s. */
	ck_assert_uint_eq(counter_of("connects"), 2);
	rig_advance(700 * MS);
	ck_assert_uint_eq(counter_of("connects"), 2);
	rig_advance(600 * MS);
	ck_assert_uint_eq(counter_of("connects"), 4);
	rig_advance(1200 * MS);
	ck_assert_uint_eq(counter_of("connects"), 4);
	servers[1].mode = SERVER_OK;
	rig_advance(SEC);
	ck_assert_uint_eq(waits->status, GRPC_OK);
}
END_TEST

/* A call whose status is answered with the next call, which fails too: it comes to rest. */
START_TEST(again_and_again)
{
	struct call *c;

	rig_begin(1);
	servers[0].mode = SERVER_REFUSES;
	c = call_unary("x");
	c->again_in_status = true;
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("calls_no_address"), 2);
}
END_TEST

START_TEST(connect_timeout)
{
	struct call *c;

	channel.connect_timeout_ns = SEC;
	rig_begin(1);
	servers[0].mode = SERVER_SILENT;
	c = call_unary("x");
	rig_advance(900 * MS);
	ck_assert_uint_eq(c->statuses_n, 0);
	rig_advance(200 * MS);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("connects_timeout"), 1);
	/* One that takes the connection and says nothing. */
	servers[0].mode = SERVER_RAW;
	c = call_new(GRPC_UNARY, 0, true);
	rig_advance(3 * SEC);
	ck_assert_uint_eq(counter_of("connects_timeout"), 2);
	client_call_cancel(c->client);
}
END_TEST

/* The peer's SETTINGS_MAX_CONCURRENT_STREAMS is 1024; ours for a connection 2. */
START_TEST(pool)
{
	struct call *c[8];

	channel.streams_max = 2;
	channel.connections_max = 3;
	rig_begin(1);
	servers[0].hold = true;
	for (unsigned i = 0; i < 8; i++)
		c[i] = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 6);
	ck_assert_uint_eq(servers[0].connections_n, 3);
	ck_assert_uint_eq(counter_of("gauge_waiting"), 2);
	client_call_cancel(c[0]->client);
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 7);
	for (unsigned i = 1; i < 8; i++)
		client_call_cancel(c[i]->client);
	/* Without calls they are closed after a while. */
	channel.idle_timeout_ns = 0;
	rig_advance(301 * SEC);
	ck_assert_uint_eq(counter_of("connections_idle"), 3);
	ck_assert_uint_eq(servers[0].connections_n, 0);
	ck_assert_uint_eq(counter_of("gauge_connections"), 0);
}
END_TEST

START_TEST(keepalive)
{
	struct call *c;

	channel.keepalive_ns = 10 * SEC;
	channel.keepalive_timeout_ns = SEC;
	rig_begin(1);
	servers[0].hold = true;
	c = call_unary("x");
	rig_advance(35 * SEC);
	ck_assert_uint_eq(counter_of("keepalive_pings"), 3);
	ck_assert_uint_eq(counter_of("keepalive_timeouts"), 0);
	ck_assert_uint_eq(c->statuses_n, 0);
	servers[0].mode = SERVER_SILENT; /* it does not take part any more */
	rig_silence(&servers[0]);
	rig_advance(12 * SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("keepalive_timeouts"), 1);
}
END_TEST

/* Other addresses: calls go there, those that run go on. */
START_TEST(addresses)
{
	struct client_address to[2] = {server_address(2), server_address(1)};
	struct call *runs, *c;

	rig_begin(1);
	servers[0].hold = true;
	runs = call_unary("x");
	rig_turn();
	client_channel_addresses(client, 0, to, 2, now_ns);
	for (unsigned i = 0; i < 4; i++)
		(void)call_unary("x");
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 1);
	ck_assert_uint_eq(servers[1].requests_n + servers[2].requests_n, 4);
	ck_assert_uint_eq(counter_of("gauge_addresses"), 2);
	server_status(server_last(&servers[0]), "5", "");
	rig_turn();
	ck_assert_uint_eq(runs->status, GRPC_NOT_FOUND);
	ck_assert_uint_eq(servers[0].connections_n, 0);
	/* None: those that are known stay. */
	client_channel_addresses(client, 0, NULL, 0, now_ns);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
}
END_TEST

START_TEST(no_addresses)
{
	struct call *c;

	rig_begin(0);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->statuses_n, 0); /* they may come */
	client_channel_addresses(client, 0, NULL, 0, now_ns);
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_str_eq(c->text, "the channel's name has no address");
}
END_TEST

/* Three failures in a row eject; the other server has all calls, and then it comes back. */
START_TEST(ejection)
{
	channel.picker.ejection = (struct picker_ejection){
		.consecutive = 3,
		.interval_ns = SEC,
		.base_ns = 5 * SEC,
		.max_ns = 60 * SEC,
		.share_percent = 50,
	};
	rig_begin(2);
	(void)call_unary("x");
	rig_turn();
	for (unsigned i = 0; i < 3; i++)
		servers[0].script[i] = (struct script){.status = "14"};
	servers[0].script_n = 3;
	servers[0].requests_n = servers[1].requests_n = 0;
	for (unsigned i = 0; i < 20; i++) {
		(void)call_unary("x");
		rig_turn();
	}
	ck_assert_uint_eq(servers[0].requests_n, 3);
	ck_assert_uint_eq(servers[1].requests_n, 17);
	ck_assert_uint_eq(counter_of("ejected_consecutive"), 1);
	ck_assert_uint_eq(counter_of("gauge_ejected"), 1);
	rig_advance(6 * SEC);
	ck_assert_uint_eq(counter_of("gauge_ejected"), 0);
	servers[0].requests_n = 0;
	for (unsigned i = 0; i < 10; i++)
		(void)call_unary("x");
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 5);
}
END_TEST

/* gRFC A17: a server that does not serve gets no calls, until it says so. */
START_TEST(health)
{
	struct call *c;

	channel.health_service = "test.Service";
	servers[0].health = 2;
	rig_begin(2);
	for (unsigned i = 0; i < 6; i++)
		(void)call_unary("x");
	rig_turn();
	ck_assert_uint_eq(servers[0].watches_n, 1);
	ck_assert_mem_eq(servers[0].watch->body, "\0\0\0\0\x0e\x0a\x0ctest.Service", 19);
	ck_assert_uint_eq(servers[0].requests_n, 0);
	ck_assert_uint_eq(servers[1].requests_n, 6);
	server_message(servers[0].watch, "\x08\x01", 2, false);
	rig_turn();
	for (unsigned i = 0; i < 6; i++)
		(void)call_unary("x");
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 3);
	/* Neither is: calls do not wait for that. */
	server_message(servers[0].watch, "\x08\x02", 2, false);
	server_message(servers[1].watch, "", 0, false);
	rig_turn();
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
}
END_TEST

START_TEST(health_unknown)
{
	struct call *c;

	channel.health_service = "";
	servers[0].no_health = true;
	rig_begin(1);
	c = call_unary("x");
	rig_advance(10 * SEC);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].watches_n, 1);
	ck_assert_uint_eq(counter_of("health_unimplemented"), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("client/retry");
	TCase *t = tcase_create("retry");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, flaky);
	tcase_add_test(t, spent);
	tcase_add_test(t, pushback);
	tcase_add_test(t, budget);
	tcase_add_test(t, committed);
	tcase_add_test(t, stream_again);
	tcase_add_test(t, refused);
	tcase_add_test(t, resets);
	tcase_add_test(t, goaway);
	tcase_add_test(t, round_robin);
	tcase_add_test(t, server_death);
	tcase_add_test(t, nobody);
	tcase_add_test(t, again_and_again);
	tcase_add_test(t, connect_timeout);
	tcase_add_test(t, pool);
	tcase_add_test(t, keepalive);
	tcase_add_test(t, addresses);
	tcase_add_test(t, no_addresses);
	tcase_add_test(t, ejection);
	tcase_add_test(t, health);
	tcase_add_test(t, health_unknown);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
