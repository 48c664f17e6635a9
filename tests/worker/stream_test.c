/* The streaming kinds through a whole worker: order, windows and credit, ends of either side. */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tests/worker/harness.h"

#define CLIENT_PATH "/split.examples.Echo/Client"
#define SERVER_PATH "/split.examples.Echo/Server"
#define BIDI_PATH   "/split.examples.Echo/Bidi"

/* Begin a call with `n` messages, message i of size(i). */
static void send_all(struct rpc *r, struct client *c, const char *path, unsigned n,
		     size_t (*size)(unsigned i))
{
	size_t room = 1, at = 0;
	uint8_t *bytes;

	for (unsigned i = 0; i < n; i++)
		room += size(i) + 32;
	bytes = malloc(room);
	for (unsigned i = 0; i < n; i++)
		at += echo_frame(bytes + at, size(i), 0, 0);
	rpc_start(r, c, path, bytes, at, NULL, 0);
	free(bytes);
}

static size_t size_small(unsigned i)
{
	return i % 40;
}

/* Inline, in blocks, of several frames. */
static size_t size_mixed(unsigned i)
{
	static const size_t sizes[] = {0, 3, 90, 400, 700, 5000, 40000};

	return sizes[i % ARRAY_LEN(sizes)];
}

static uint64_t varint_take(const uint8_t *p, size_t *at)
{
	uint64_t v = 0;

	for (unsigned shift = 0;; shift += 7) {
		uint8_t b = p[(*at)++];

		v |= (uint64_t)(b & 0x7f) << shift;
		if ((b & 0x80) == 0)
			return v;
	}
}

/* The next answer at *at: what it says in reply_bytes, or, where it has a payload, how long that
 * is; its bytes are looked at. */
static uint64_t answer_take(const struct rpc *r, size_t *at)
{
	uint64_t value = 0;
	size_t end;

	ck_assert_uint_le(*at + 5, r->body_len);
	end = *at + 5 + be32_load(r->body + *at + 1);
	ck_assert_uint_le(end, r->body_len);
	*at += 5;
	while (*at < end) {
		uint8_t tag = r->body[(*at)++];

		value = varint_take(r->body, at);
		if (tag != 0x0a)
			continue;
		for (size_t i = 0; i < value; i++)
			if (r->body[*at + i] != pattern(i))
				ck_abort_msg("byte %zu of an answer differs", i);
		*at += value;
	}
	ck_assert_uint_eq(*at, end);
	return value;
}

static void check_client_stream(size_t (*size)(unsigned i), unsigned n)
{
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	uint64_t bytes = 0;
	size_t at = 0;
	struct rpc r;

	send_all(&r, c, CLIENT_PATH, n, size);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	for (unsigned i = 0; i < n; i++)
		bytes += size(i);
	ck_assert_uint_eq(answer_take(&r, &at), bytes);
	ck_assert_uint_eq(at, r.body_len);
	ck_assert_uint_eq(atomic_load(&h->stream_messages), n);
	ck_assert_uint_eq(atomic_load(&h->bad_bytes), 0);
	rpc_free(&r);
}

START_TEST(many_requests_one_answer)
{
	check_client_stream(size_mixed, 70);
}
END_TEST

START_TEST(no_request_at_all)
{
	check_client_stream(size_small, 0);
}
END_TEST

START_TEST(one_request_many_answers)
{
	enum { N = 120, BYTES = 3000 };
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	uint8_t bytes[64];
	size_t at = 0;
	struct rpc r;

	rpc_start(&r, c, SERVER_PATH, bytes, echo_frame(bytes, 0, BYTES, N), NULL, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	for (unsigned i = 0; i < N; i++)
		ck_assert_uint_eq(answer_take(&r, &at), BYTES);
	ck_assert_uint_eq(at, r.body_len);
	ck_assert_uint_eq(atomic_load(&h->stream_ends), 1);
	rpc_free(&r);
}
END_TEST

START_TEST(messages_are_answered_in_order)
{
	enum { N = 100, CALLS = 6 };
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	static struct rpc r[CALLS];

	for (unsigned k = 0; k < CALLS; k++)
		send_all(&r[k], c, BIDI_PATH, N, k % 2 ? size_mixed : size_small);
	for (unsigned k = 0; k < CALLS; k++) {
		size_t at = 0;

		ck_assert_int_eq(rpc_wait(&r[k]), GRPC_OK);
		for (unsigned i = 0; i < N; i++)
			ck_assert_uint_eq(answer_take(&r[k], &at),
					  k % 2 ? size_mixed(i) : size_small(i));
		ck_assert_uint_eq(at, r[k].body_len);
		rpc_free(&r[k]);
	}
	ck_assert_uint_eq(atomic_load(&h->stream_messages), N * CALLS);
	ck_assert_uint_eq(atomic_load(&h->bad_bytes), 0);
}
END_TEST

static bool messages_come(void *arg)
{
	return atomic_load(&((struct fake_host *)arg)->stream_messages) >= 4;
}

/* A host that gives no credit gets read_ahead messages and no more. */
START_TEST(without_credit_nothing_comes)
{
	enum { N = 30 };
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();
	struct rpc r;

	send_all(&r, c, CLIENT_PATH, N, size_mixed);
	ck_assert(harness_until(messages_come, h, 10000));
	harness_run(30);
	ck_assert_uint_eq(atomic_load(&h->stream_messages), 4);
	ck_assert(!r.closed);
	host_mode_set(h, HOST_ECHO);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	ck_assert_uint_eq(atomic_load(&h->stream_messages), N);
	rpc_free(&r);
}
END_TEST

/* Answers past the window end the call, and only it. */
START_TEST(a_host_that_overruns_its_window_is_internal)
{
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	uint8_t bytes[64];
	struct rpc r;

	atomic_store(&h->overrun, true);
	client_stall(c, true);
	rpc_start(&r, c, SERVER_PATH, bytes, echo_frame(bytes, 0, 20000, 200), NULL, 0);
	harness_run(100);
	client_stall(c, false);
	ck_assert_int_eq(rpc_wait(&r), GRPC_INTERNAL);
	rpc_free(&r);
	ck_assert_uint_ge(harness_counter("worker.stream_overruns"), 1);
	atomic_store(&h->overrun, false);
	rpc_echo(&r, c, 10, 0);
	rpc_check_echo(&r, 10);
	rpc_free(&r);
}
END_TEST

static bool cancels(void *arg)
{
	return atomic_load(&((struct fake_host *)arg)->cancels) != 0;
}

START_TEST(a_reset_reaches_the_host)
{
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();
	struct rpc r;

	send_all(&r, c, BIDI_PATH, 30, size_mixed);
	ck_assert(harness_until(messages_come, h, 10000));
	rpc_cancel(&r);
	ck_assert(harness_until(cancels, h, 10000));
	rpc_free(&r);
}
END_TEST

static bool taken_back(void *arg)
{
	(void)arg;
	return harness_counter("worker.calls_taken_back") != 0;
}

static void two_workers(struct endpoint_config *cfg)
{
	cfg->host_workers = 2;
}

/* A stream's first message is half here when its worker turns out to be stuck: the call goes to
 * another, and what was received of the message stays where it is. */
START_TEST(taken_back_with_half_a_message)
{
	struct fake_host *h = host_attach(HOST_ECHO, two_workers);
	struct client *c = client_open();
	uint8_t *bytes = malloc(6000);
	size_t at = 0;
	struct rpc r;

	atomic_store(&h->absent, 3);
	harness_run(5);
	rpc_start(&r, c, CLIENT_PATH, bytes, echo_frame(bytes, 5000, 0, 0), NULL, 0);
	free(bytes);
	r.out_hold = 1000;
	harness_run(5);
	/* The first in turn has it: worker 0 stays stuck. */
	atomic_store(&h->absent, 1);
	ck_assert(harness_until(taken_back, NULL, 10000));
	rpc_release(&r, SIZE_MAX);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	ck_assert_uint_eq(answer_take(&r, &at), 5000);
	ck_assert_uint_eq(atomic_load(&h->bad_bytes), 0);
	ck_assert_uint_eq(atomic_load(&h->stream_messages), 1);
	rpc_free(&r);
	atomic_store(&h->absent, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("worker-stream");
	TCase *tc = harness_case(s, "stream", harness_start_plain);

	tcase_add_test(tc, many_requests_one_answer);
	tcase_add_test(tc, no_request_at_all);
	tcase_add_test(tc, one_request_many_answers);
	tcase_add_test(tc, messages_are_answered_in_order);
	tcase_add_test(tc, without_credit_nothing_comes);
	tcase_add_test(tc, a_host_that_overruns_its_window_is_internal);
	tcase_add_test(tc, a_reset_reaches_the_host);
	tcase_add_test(tc, taken_back_with_half_a_message);
	return harness_suite_run(s);
}
