/* Channels configured anew while their calls go on. */
#include "tests/client/rig.h"

static void configure(unsigned servers_n)
{
	channel.addresses_n = servers_n;
	ck_assert_int_eq(client_channel_configure(client, 0, &channel, now_ns), 0);
	rig_turn();
}

static struct call *held_call(struct server *s)
{
	struct call *c;

	s->hold = true;
	c = call_unary("held");
	rig_turn();
	s->hold = false;
	ck_assert_uint_eq(c->statuses_n, 0);
	return c;
}

static void answer(struct server *s, struct call *c)
{
	struct request *r = s->requests[0];

	server_headers(r, NULL, 0);
	server_message(r, "late", 4, false);
	server_status(r, "0", "");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_mem_eq(c->body, "late", 4);
}

/* Retries that were not wished for are, and the other way round. */
START_TEST(retries)
{
	struct call *c;

	rig_begin(1);
	for (unsigned i = 0; i < 3; i++)
		servers[0].script[i] = (struct script){.status = "14"};
	servers[0].script_n = 3;
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	channel.retry.attempts_max = 2;
	channel.retry.backoff_ns = 10 * MS;
	configure(1);
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	ck_assert_uint_eq(counter_of("retries"), 1);
	ck_assert_uint_eq(servers[0].requests_n, 3);
	/* A larger budget is not filled, a smaller one is cut. */
	channel.retry.tokens_max = 4;
	configure(1);
	ck_assert_uint_eq(counter_of("gauge_tokens_milli"), 4000);
	channel.retry.tokens_max = 100;
	configure(1);
	ck_assert_uint_eq(counter_of("gauge_tokens_milli"), 4000);
	/* It is the same channel, over the same connection. */
	ck_assert_uint_eq(counter_of("connects"), 1);
}
END_TEST

/* An address goes: the call on it goes on, others go to those that stay. */
START_TEST(addresses)
{
	struct client_address one = server_address(1);
	struct call *held, *c;

	rig_begin(1);
	held = held_call(&servers[0]);
	channel.addresses = &one;
	configure(1);
	for (unsigned i = 0; i < 5; i++) {
		c = call_unary("x");
		rig_turn();
		ck_assert_uint_eq(c->status, GRPC_OK);
	}
	ck_assert_uint_eq(servers[1].requests_n, 5);
	ck_assert_uint_eq(servers[0].requests_n, 1);
	answer(&servers[0], held);
	rig_advance(SEC);
	ck_assert_uint_eq(counter_of("gauge_connections"), 1);
}
END_TEST

/* A list becomes a name: what was known is nothing to it. Calls wait until it is resolved. */
START_TEST(target)
{
	struct client_address two[2] = {server_address(2), server_address(3)};
	struct call *c;

	channel.target = "198.18.0.1:1";
	rig_begin(1);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	/* The same target: the addresses stay, as those of a name do that is not resolved again. */
	configure(0);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	channel.target = "server.example:1";
	configure(0);
	c = call_unary("x");
	rig_advance(SEC);
	ck_assert_uint_eq(c->statuses_n, 0);
	client_channel_addresses(client, 0, two, 2, now_ns);
	rig_advance(SEC);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].requests_n, 2);
	ck_assert_uint_eq(servers[2].requests_n + servers[3].requests_n, 1);
}
END_TEST

START_TEST(policy)
{
	rig_begin(3);
	for (unsigned i = 0; i < 9; i++)
		(void)call_unary("x");
	rig_turn();
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_ge(servers[i].requests_n, 1);
	channel.picker.sticky_entries = 16;
	channel.sticky_key = "x-key";
	configure(3);
	for (unsigned i = 0; i < 3; i++)
		servers[i].requests_n = 0;
	for (unsigned i = 0; i < 9; i++)
		(void)call_unary("x");
	rig_turn();
	ck_assert_uint_eq(counter_of("sticky_new"), 1);
	ck_assert_uint_eq(counter_of("sticky_kept"), 8);
	for (unsigned i = 0; i < 3; i++)
		ck_assert(servers[i].requests_n == 0 || servers[i].requests_n == 9);
}
END_TEST

/* Health checks come: connections without one take no new call, and end with their last. */
START_TEST(health)
{
	struct call *held, *c;

	channel.connections_max = 1;
	rig_begin(1);
	held = held_call(&servers[0]);
	channel.health_service = "some.Service";
	configure(1);
	rig_advance(10 * MS);
	ck_assert_uint_eq(servers[0].watches_n, 1);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(counter_of("connects"), 2);
	answer(&servers[0], held);
	ck_assert_uint_eq(counter_of("gauge_connections"), 1);
	/* And they go, with a watch under way. */
	channel.health_service = NULL;
	configure(1);
	rig_advance(10 * MS);
	c = call_unary("x");
	rig_advance(10 * MS);
	ck_assert_uint_eq(c->status, GRPC_OK);
	ck_assert_uint_eq(servers[0].watches_n, 1);
}
END_TEST

START_TEST(taken_away)
{
	struct call *held, *waiting, *c;

	channel.streams_max = channel.connections_max = 1;
	rig_begin(1);
	held = held_call(&servers[0]);
	waiting = call_new(GRPC_UNARY, 0, true);
	rig_turn();
	ck_assert_uint_eq(waiting->statuses_n, 0);
	channel.unused = true;
	configure(0);
	ck_assert_uint_eq(waiting->status, GRPC_UNAVAILABLE);
	ck_assert_str_eq(waiting->text, "the channel was taken out of the configuration");
	ck_assert(!client_channel_used(client, 0));
	c = call_unary("x");
	ck_assert_ptr_null(c->client);
	ck_assert_uint_eq(c->status, GRPC_UNAVAILABLE);
	answer(&servers[0], held);
	rig_advance(SEC);
	ck_assert_uint_eq(counter_of("gauge_connections"), 0);
	/* It comes again. */
	channel.unused = false;
	configure(1);
	c = call_unary("x");
	rig_turn();
	ck_assert_uint_eq(c->status, GRPC_OK);
}
END_TEST

START_TEST(one_more)
{
	struct client_channel_config more;

	config.channels_max = 2;
	rig_begin(1);
	more = channel;
	more.name = "more";
	ck_assert_uint_eq(client_channels(client), 1);
	more.retry.attempts_max = 6; /* out of its range: nothing comes of it */
	ck_assert_int_eq(client_channel_configure(client, 1, &more, now_ns), -SPLIT_E_BASE_INVALID);
	ck_assert_uint_eq(client_channels(client), 1);
	more.retry.attempts_max = 1;
	ck_assert_int_eq(client_channel_configure(client, 1, &more, now_ns), 0);
	ck_assert_uint_eq(client_channels(client), 2);
	ck_assert_int_eq(client_channel_find(client, "more", 4), 1);
	call_channel = 1;
	(void)call_unary("x");
	rig_turn();
	ck_assert_uint_eq(servers[0].requests_n, 1);
	ck_assert_uint_eq(client_channel_counters(client, 1)->calls_ok, 1);
	ck_assert_uint_eq(counter_of("calls"), 0);
	/* No place is left. */
	ck_assert_int_eq(client_channel_configure(client, 2, &more, now_ns), -SPLIT_E_BASE_LIMIT);
	/* Nor does what is wrong change one that there is. */
	channel.streams_max = 0;
	ck_assert_int_eq(client_channel_configure(client, 0, &channel, now_ns),
			 -SPLIT_E_BASE_INVALID);
}
END_TEST

/* Each channel has its own limit of the answer's metadata. */
START_TEST(metadata)
{
	static char large[1000];
	const struct http2_header more[] = {HTTP2_HEADER("x-large", "")};
	struct http2_header h = more[0];
	struct call *c;

	memset(large, 'a', sizeof(large) - 1);
	h.value = large;
	h.value_len = sizeof(large) - 1;
	channel.metadata_bytes_max = 512;
	rig_begin(1);
	for (unsigned i = 0; i < 2; i++) {
		servers[0].hold = true;
		c = call_unary("x");
		rig_turn();
		server_headers(server_last(&servers[0]), &h, 1);
		server_message(server_last(&servers[0]), "m", 1, false);
		server_status(server_last(&servers[0]), "0", "");
		rig_turn();
		ck_assert_uint_eq(c->status, i == 0 ? GRPC_RESOURCE_EXHAUSTED : GRPC_OK);
		ck_assert_uint_eq(counter_of("rx_metadata_over"), 1);
		channel.metadata_bytes_max = 4096;
		channel.tls_name = "another.example"; /* so that connections are made anew */
		configure(1);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("client/configure");
	TCase *t = tcase_create("configure");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, rig_setup, rig_teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, retries);
	tcase_add_test(t, addresses);
	tcase_add_test(t, target);
	tcase_add_test(t, policy);
	tcase_add_test(t, health);
	tcase_add_test(t, taken_away);
	tcase_add_test(t, one_more);
	tcase_add_test(t, metadata);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
