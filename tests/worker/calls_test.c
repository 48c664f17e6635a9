/* Calls through a whole worker: what is answered, and how what can't be is refused. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tests/worker/harness.h"

static int call_status(struct client *c, const char *path, const void *bytes, size_t len)
{
	struct rpc r;
	int status;

	rpc_start(&r, c, path, bytes, len, NULL, 0);
	status = rpc_wait(&r);
	rpc_free(&r);
	return status;
}

START_TEST(first_unary_call)
{
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 24, 0);
	rpc_check_echo(&r, 24);
	rpc_free(&r);
	ck_assert_uint_eq(atomic_load(&h->requests), 1);
	ck_assert_uint_eq(atomic_load(&h->inlined), 1);
	ck_assert_uint_eq(harness_counter("worker.calls_answered"), 1);
	ck_assert_uint_eq(harness_counter("worker.requests_small"), 1);
	ck_assert_uint_eq(harness_counter("shepherd.requests_inline"), 1);
}
END_TEST

START_TEST(every_size)
{
	static const size_t sizes[] = {0,     1,     64,     80,     100,     127,           128,
				       500,   507,   520,    1024,   4096,    16384,         49152,
				       65535, 65536, 100000, 487424, 1 << 20, (4 << 20) - 64};
	struct client *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct rpc r;

		rpc_echo(&r, c, sizes[i], 0);
		rpc_check_echo(&r, sizes[i]);
		rpc_free(&r);
	}
}
END_TEST

START_TEST(many_at_once_on_many_connections)
{
	enum { CONNS = 8, EACH = 16 };
	static const size_t sizes[] = {0, 64, 1024, 20000, 100000};
	static struct rpc r[CONNS * EACH];
	struct client *c[CONNS];

	(void)host_attach(HOST_ECHO, NULL);
	for (int i = 0; i < CONNS; i++)
		c[i] = client_open();
	for (int i = 0; i < CONNS * EACH; i++)
		rpc_echo(&r[i], c[i % CONNS], sizes[i % 5], 0);
	for (int i = 0; i < CONNS * EACH; i++) {
		rpc_check_echo(&r[i], sizes[i % 5]);
		rpc_free(&r[i]);
	}
	ck_assert_uint_eq(harness_counter("worker.calls_answered"), CONNS * EACH);
}
END_TEST

START_TEST(what_no_one_serves)
{
	static const uint8_t empty[5];
	struct client *c = client_open();

	ck_assert_int_eq(call_status(c, "/split.examples.Echo/Unary", empty, 5), GRPC_UNAVAILABLE);
	ck_assert_int_eq(call_status(c, "/no.Such/Unary", empty, 5), GRPC_UNIMPLEMENTED);
	(void)host_attach(HOST_ECHO, NULL);
	ck_assert_int_eq(call_status(c, "/split.examples.Echo/Unary", empty, 5), GRPC_OK);
	ck_assert_int_eq(call_status(c, "/split.examples.Echo/Other", empty, 5),
			 GRPC_UNIMPLEMENTED);
	ck_assert_int_eq(call_status(c, "/split.examples.Nobody/Unary", empty, 5),
			 GRPC_UNAVAILABLE);
	ck_assert_int_eq(call_status(c, "/", empty, 5), GRPC_UNIMPLEMENTED);
}
END_TEST

START_TEST(bad_messages_get_a_status_and_hurt_nobody)
{
	static const uint8_t truncated[] = {0, 0, 0, 0, 3, 0x0a, 0x05, 0x41};
	static const uint8_t wrong_wire[] = {0, 0, 0, 0, 2, 0x0f, 0x00};
	static const uint8_t too_long[] = {0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3};
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	ck_assert_int_eq(call_status(c, ECHO_PATH, truncated, sizeof(truncated)), GRPC_INTERNAL);
	ck_assert_int_eq(call_status(c, ECHO_PATH, wrong_wire, sizeof(wrong_wire)), GRPC_INTERNAL);
	ck_assert_int_eq(call_status(c, ECHO_PATH, too_long, sizeof(too_long)),
			 GRPC_RESOURCE_EXHAUSTED);
	ck_assert_int_eq(call_status(c, ECHO_PATH, NULL, 0), GRPC_INTERNAL); /* no message */
	ck_assert_uint_eq(harness_counter("worker.decode_errors"), 2);
	rpc_echo(&r, c, 5000, 0);
	rpc_check_echo(&r, 5000);
	rpc_free(&r);
}
END_TEST

START_TEST(a_large_malformed_message_frees_its_room)
{
	size_t len = 2 << 20;
	uint8_t *wire = calloc(1, len);
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	be32_store(wire + 1, (uint32_t)(len - 5));
	memset(wire + 5, 0x0f, len - 5); /* wire type 7 */
	for (int i = 0; i < 40; i++)
		ck_assert_int_eq(call_status(c, ECHO_PATH, wire, len), GRPC_INTERNAL);
	free(wire);
	rpc_echo(&r, c, 3 << 20, 0);
	rpc_check_echo(&r, 3 << 20);
	rpc_free(&r);
}
END_TEST

START_TEST(status_text_and_trailers_reach_the_client)
{
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_STATUS, NULL);
	c = client_open();
	rpc_echo(&r, c, 10, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_NOT_FOUND);
	ck_assert_str_eq(r.message, "no such thing");
	ck_assert_str_eq(r.trailer, "v");
	rpc_free(&r);
}
END_TEST

START_TEST(metadata_trace_and_deadline_reach_the_host)
{
	static const struct header extra[] = {
		{"x-one", "1"},
		{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{"grpc-timeout", "5S"},
	};
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	uint64_t now_ns = clock_ns(), deadline_ns;
	struct rpc r;

	rpc_start(&r, c, ECHO_PATH, "\0\0\0\0\3\x0a\1A", 8, extra, 3);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	rpc_free(&r);
	ck_assert_uint_eq(atomic_load(&h->metadata_entries), 2); /* user-agent is not passed */
	ck_assert_str_eq(h->traceparent, extra[1].value);
	deadline_ns = atomic_load(&h->deadline_ns);
	ck_assert_uint_gt(deadline_ns, now_ns + 4 * CLOCK_NS_PER_SEC);
	ck_assert_uint_lt(deadline_ns, clock_ns() + 5 * CLOCK_NS_PER_SEC);
	/* Metadata takes a block, the small message still lies in its slot. */
	ck_assert_uint_eq(atomic_load(&h->inlined), 1);
}
END_TEST

START_TEST(much_metadata_takes_a_page)
{
	char value[3000];
	struct header extra[2] = {{"x-large", value}, {"x-two", "2"}};
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	struct rpc r;

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = 0;
	rpc_start(&r, c, ECHO_PATH, "\0\0\0\0\0", 5, extra, 2);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	rpc_free(&r);
	ck_assert_uint_eq(atomic_load(&h->metadata_entries), 2);
}
END_TEST

static bool cancelled(void *arg)
{
	return atomic_load(&((struct fake_host *)arg)->cancels) != 0;
}

START_TEST(deadline_ends_the_call_and_tells_the_host)
{
	static const struct header extra[] = {{"grpc-timeout", "50m"}};
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_start(&r, c, ECHO_PATH, "\0\0\0\0\0", 5, extra, 1);
	ck_assert_int_eq(rpc_wait(&r), GRPC_DEADLINE_EXCEEDED);
	rpc_free(&r);
	ck_assert(harness_until(cancelled, h, 2000));
	/* The late answer goes nowhere. */
	host_mode_set(h, HOST_ECHO);
	rpc_echo(&r, c, 9, 0);
	rpc_check_echo(&r, 9);
	rpc_free(&r);
	ck_assert_uint_ge(harness_counter("shepherd.stale_calls"), 1);
}
END_TEST

static bool requested(void *arg)
{
	return atomic_load(&((struct fake_host *)arg)->requests) != 0;
}

START_TEST(a_reset_by_the_client_cancels)
{
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 2000, 0);
	ck_assert(harness_until(requested, h, 2000));
	rpc_cancel(&r);
	ck_assert(harness_until(cancelled, h, 2000));
	rpc_wait(&r);
	rpc_free(&r);
	host_mode_set(h, HOST_ECHO);
}
END_TEST

START_TEST(a_lost_connection_cancels)
{
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 2000, 0);
	ck_assert(harness_until(requested, h, 2000));
	client_abort(c);
	ck_assert(harness_until(cancelled, h, 2000));
	free(r.owned);
	host_mode_set(h, HOST_ECHO);
}
END_TEST

START_TEST(a_call_given_back_is_unavailable)
{
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_REFUSE_ALL, NULL);
	c = client_open();
	rpc_echo(&r, c, 2000, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	rpc_free(&r);
	/* Tried a few times, in its blocks and in a slot. */
	ck_assert_uint_eq(harness_counter("worker.calls_given_back"), 4);
	rpc_echo(&r, c, 20, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	rpc_free(&r);
	ck_assert_uint_eq(harness_counter("worker.calls_given_back"), 8);
}
END_TEST

/* What decode made of it lies in blocks, and its bytes are gone: the blocks go with it. */
START_TEST(a_call_given_back_once_is_answered)
{
	static const unsigned sizes[] = {0, 20, 2000, 300000};
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	struct rpc r;

	for (unsigned i = 0; i < 4; i++) {
		host_mode_set(h, HOST_REFUSE_ONCE);
		rpc_echo(&r, c, sizes[i], 0);
		rpc_check_echo(&r, sizes[i]);
		rpc_free(&r);
		ck_assert_uint_eq(harness_counter("worker.calls_given_back"), i + 1);
	}
}
END_TEST

START_TEST(an_answer_that_points_elsewhere_is_no_answer)
{
	struct fake_host *h = host_attach(HOST_BAD_MESSAGE, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 100, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_INTERNAL);
	rpc_free(&r);
	host_mode_set(h, HOST_ECHO);
	rpc_echo(&r, c, 100, 0);
	rpc_check_echo(&r, 100);
	rpc_free(&r);
	ck_assert_uint_eq(harness_counter("worker.encode_errors"), 1);
}
END_TEST

START_TEST(a_host_that_talks_nonsense_is_a_fault)
{
	struct fake_host *h = host_attach(HOST_BAD_POINTER, NULL);
	struct client *c = client_open();
	struct worker_report report;
	struct rpc r;

	rpc_echo(&r, c, 100, 0);
	report = harness_report(WORKER_REPORT_ENDPOINT_FAULT);
	ck_assert_ptr_eq(report.endpoint, &h->shared);
	ck_assert(error_is_fatal(report.cause));
	host_remove(h); /* what control does */
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	rpc_free(&r);
}
END_TEST

START_TEST(an_answer_over_the_limit_is_exhausted)
{
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	rpc_echo(&r, c, 0, 9 << 20);
	ck_assert_int_eq(rpc_wait(&r), GRPC_RESOURCE_EXHAUSTED);
	rpc_free(&r);
	rpc_echo(&r, c, 0, 5 << 20);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	ck_assert_uint_ge(r.body_len, 5 << 20);
	rpc_free(&r);
}
END_TEST

static void authorities_set(struct config *cfg)
{
	struct config_service *s = &cfg->services[config_service_find(cfg, "split.examples.Echo")];

	s->authorities = calloc(1, sizeof(*s->authorities));
	strcpy(s->authorities[0].text, "api.example");
	s->authorities_n = 1;
}

static void user_agent_ask(struct config *cfg)
{
	cfg->services[config_service_find(cfg, "split.examples.Echo")].user_agent = true;
}

static void start_with_user_agent(void)
{
	harness_start(user_agent_ask);
}

START_TEST(user_agent_reaches_the_host_that_asks_for_it)
{
	static const uint8_t empty[5];
	struct fake_host *h = host_attach(HOST_ECHO, NULL);

	ck_assert_int_eq(call_status(client_open(), ECHO_PATH, empty, 5), GRPC_OK);
	ck_assert_uint_eq(atomic_load(&h->metadata_entries), 1);
}
END_TEST

static void start_with_authorities(void)
{
	harness_start(authorities_set);
}

/* The harness' client says "test". */
START_TEST(a_service_is_where_its_authority_is)
{
	static const uint8_t empty[5];
	struct client *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	ck_assert_int_eq(call_status(c, ECHO_PATH, empty, 5), GRPC_UNIMPLEMENTED);
	ck_assert_uint_eq(harness_counter("worker.calls_elsewhere"), 1);
	ck_assert_int_eq(call_status(c, "/split.examples.Nobody/Unary", empty, 5),
			 GRPC_UNAVAILABLE);
	ck_assert_uint_eq(harness_counter("worker.calls_elsewhere"), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("worker/calls");
	TCase *tc = harness_case(s, "calls", harness_start_plain);

	tcase_add_test(tc, first_unary_call);
	tcase_add_test(tc, every_size);
	tcase_add_test(tc, many_at_once_on_many_connections);
	tcase_add_test(tc, what_no_one_serves);
	tcase_add_test(tc, bad_messages_get_a_status_and_hurt_nobody);
	tcase_add_test(tc, a_large_malformed_message_frees_its_room);
	tcase_add_test(tc, status_text_and_trailers_reach_the_client);
	tcase_add_test(tc, metadata_trace_and_deadline_reach_the_host);
	tcase_add_test(tc, much_metadata_takes_a_page);
	tcase_add_test(tc, deadline_ends_the_call_and_tells_the_host);
	tcase_add_test(tc, a_reset_by_the_client_cancels);
	tcase_add_test(tc, a_lost_connection_cancels);
	tcase_add_test(tc, a_call_given_back_is_unavailable);
	tcase_add_test(tc, a_call_given_back_once_is_answered);
	tcase_add_test(tc, an_answer_that_points_elsewhere_is_no_answer);
	tcase_add_test(tc, a_host_that_talks_nonsense_is_a_fault);
	tcase_add_test(tc, an_answer_over_the_limit_is_exhausted);
	tc = harness_case(s, "authorities", start_with_authorities);
	tcase_add_test(tc, a_service_is_where_its_authority_is);
	tc = harness_case(s, "user_agent", start_with_user_agent);
	tcase_add_test(tc, user_agent_reaches_the_host_that_asks_for_it);
	return harness_suite_run(s);
}
