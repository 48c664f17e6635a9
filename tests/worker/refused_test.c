/* Refused messages as the worker hands them over for the log: what is in a record, when there is
 * none, and that a host's memory stays until the line is made. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "linearize/linearize.h"
#include "tests/worker/harness.h"
#include "tests/worker/harness_internal.h"

/* As many as come. */
static void logged(struct config *cfg)
{
	cfg->services[0].log_refused = true;
	cfg->log.refused_rate = 10000;
	cfg->log.refused_records = 16;
	cfg->log.refused_bytes = 256;
}

static void start_logged(void)
{
	harness_start(logged);
}

static void logged_rarely(struct config *cfg)
{
	logged(cfg);
	cfg->log.refused_rate = 3;
}

static void start_rarely(void)
{
	harness_start(logged_rarely);
}

static void logged_as_wire(struct config *cfg)
{
	logged(cfg);
	cfg->services[0].decode = cfg->services[0].encode = CONFIG_SIDE_HOST;
}

static void start_as_wire(void)
{
	harness_start(logged_as_wire);
}

/* field 2 (reply_bytes) of 3; then a payload that ends too soon */
static const uint8_t truncated[] = {0, 0, 0, 0, 5, 0x10, 3, 0x0a, 0x05, 0x41};

static int call_with(struct client *c, const void *bytes, size_t len)
{
	struct rpc r;
	int status;

	rpc_start(&r, c, ECHO_PATH, bytes, len, NULL, 0);
	status = rpc_wait(&r);
	rpc_free(&r);
	return status;
}

static int echo(struct client *c, size_t len)
{
	struct rpc r;
	int status;

	rpc_echo(&r, c, len, 0);
	status = rpc_wait(&r);
	rpc_free(&r);
	return status;
}

/* The client may know of its status before the control thread looks. */
static bool record_there(void *arg)
{
	const struct worker_refused **out = arg;

	*out = worker_refused_first(harness_worker());
	return *out != NULL;
}

static const struct worker_refused *record_next(void)
{
	const struct worker_refused *told = NULL;

	ck_assert_msg(harness_until(record_there, &told, 10000), "no record");
	ck_assert_uint_gt(told->now_ns, 0);
	return told;
}

static void record_done(void)
{
	worker_refused_done(harness_worker());
}

static void no_record(void)
{
	ck_assert_ptr_null(worker_refused_first(harness_worker()));
}

START_TEST(a_request)
{
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	const struct worker_refused *told;

	ck_assert_int_eq(echo(c, 100), GRPC_OK);
	no_record();
	ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
	told = record_next();
	ck_assert_ptr_eq(told->endpoint, &h->shared);
	ck_assert_str_eq(told->endpoint->methods[told->method].method, "Unary");
	ck_assert_str_eq(schema_message_name(told->message), "split.examples.EchoMessage");
	ck_assert(!told->answer);
	ck_assert_int_eq(told->error, -SPLIT_E_LINEARIZE_TRUNCATED);
	ck_assert_int_eq(told->status, GRPC_INTERNAL);
	ck_assert_ptr_null(told->caller);
	ck_assert_uint_eq(told->peer.family, 4);
	ck_assert_int_eq(memcmp(told->peer.bytes, "\xc6\x12\x00\x01", 4), 0); /* 198.18.0.1 */
	ck_assert_uint_ne(told->peer.port, 0);
	ck_assert_uint_eq(told->bytes, 5);
	ck_assert_uint_eq(told->kept, 5);
	ck_assert_uint_eq(told->at, 2);
	ck_assert_mem_eq(told->wire, truncated + 5, 5);
	ck_assert_ptr_null(told->mem);
	record_done();
	no_record();
	ck_assert_uint_eq(harness_counter("worker.refused_logged"), 1);
}
END_TEST

/* One that had room in the segment; only its beginning is kept. */
START_TEST(a_long_request)
{
	enum { LEN = 300000 };
	uint8_t *bytes = calloc(1, LEN + 5);
	const struct worker_refused *told;
	struct client *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	be32_store(bytes + 1, LEN);
	/* reply_bytes over and over, then wire type 7 */
	for (size_t i = 0; i + 1 < LEN; i += 2)
		bytes[5 + i] = 0x10;
	bytes[5 + LEN - 2] = 0x17;
	ck_assert_int_eq(call_with(c, bytes, LEN + 5), GRPC_INTERNAL);
	told = record_next();
	ck_assert_int_eq(told->error, -SPLIT_E_LINEARIZE_WIRE_RESERVED);
	ck_assert_uint_eq(told->bytes, LEN);
	ck_assert_uint_eq(told->at, LEN - 2);
	ck_assert_uint_eq(told->kept, 256);
	ck_assert_mem_eq(told->wire, bytes + 5, 256);
	record_done();
	free(bytes);
}
END_TEST

/* Larger than it may be: nothing of it was taken in. */
START_TEST(oversize)
{
	static const uint8_t bytes[] = {0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3};
	const struct worker_refused *told;
	struct client *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	ck_assert_int_eq(call_with(c, bytes, sizeof(bytes)), GRPC_RESOURCE_EXHAUSTED);
	told = record_next();
	ck_assert_int_eq(told->error, -SPLIT_E_LINEARIZE_LIMIT_WIRE);
	ck_assert_int_eq(told->status, GRPC_RESOURCE_EXHAUSTED);
	ck_assert_uint_eq(told->bytes, 0x7fffffff);
	ck_assert_ptr_null(told->wire);
	record_done();
}
END_TEST

static bool released_one(void *arg)
{
	const struct fake_host *h = arg;

	return atomic_load(&h->releases) >= 1;
}

static bool released_two(void *arg)
{
	const struct fake_host *h = arg;

	return atomic_load(&h->releases) >= 2;
}

/* The host's block is not given back before the line is made. */
START_TEST(an_answer)
{
	struct fake_host *h = host_attach(HOST_BAD_MESSAGE, NULL);
	struct client *c = client_open();
	const struct worker_refused *told;

	ck_assert_int_eq(echo(c, 100), GRPC_INTERNAL);
	told = record_next();
	ck_assert(told->answer);
	ck_assert_int_eq(told->error, -SPLIT_E_LINEARIZE_POINTER);
	ck_assert_str_eq(schema_message_name(told->message), "split.examples.EchoMessage");
	ck_assert_ptr_nonnull(told->mem);
	ck_assert_ptr_null(told->wire);
	ck_assert_uint_ge(told->root, told->peer_base);
	ck_assert_uint_le(told->root + schema_message_bytes(told->message),
			  told->peer_base + told->mem_bytes);
	host_mode_set(h, HOST_ECHO);
	/* Others of that host are answered, and given back, meanwhile. */
	ck_assert_int_eq(echo(c, 60000), GRPC_OK);
	ck_assert(harness_until(released_one, h, 10000));
	harness_run(50);
	ck_assert_uint_eq(atomic_load(&h->releases), 1);
	record_done();
	ck_assert(harness_until(released_two, h, 10000));
	ck_assert_int_eq(echo(c, 60000), GRPC_OK);
}
END_TEST

/* The host goes, and what it was to get back with it. */
START_TEST(the_host_goes)
{
	struct fake_host *h = host_attach(HOST_BAD_MESSAGE, NULL);
	struct client *c = client_open();

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(echo(c, 100), GRPC_INTERNAL);
	(void)record_next();
	record_done();
	(void)record_next();
	host_remove(h);
	/* Control would have read these before it freed the endpoint. */
	record_done();
	(void)record_next();
	record_done();
	no_record();
	(void)host_attach(HOST_ECHO, NULL);
	ck_assert_int_eq(echo(c, 100), GRPC_OK);
}
END_TEST

/* Nobody reads: so many wait, the others are counted. */
START_TEST(no_room)
{
	struct client *c;

	(void)host_attach(HOST_BAD_MESSAGE, NULL);
	c = client_open();
	for (int i = 0; i < 10; i++) {
		ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
		ck_assert_int_eq(echo(c, 100), GRPC_INTERNAL);
	}
	ck_assert_uint_eq(harness_counter("worker.refused_logged"), 16);
	ck_assert_uint_eq(harness_counter("worker.refused_no_room"), 4);
	for (int i = 0; i < 16; i++) {
		ck_assert_int_eq(record_next()->answer, i % 2);
		record_done();
	}
	no_record();
	/* There is room again. */
	ck_assert_int_eq(echo(c, 100), GRPC_INTERNAL);
	(void)record_next();
	record_done();
}
END_TEST

/* More than the rate in a second are counted. On a slow machine the calls may take several. */
START_TEST(rate)
{
	enum { N = 20 };
	struct client *c;
	uint64_t n;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	for (int i = 0; i < N; i++)
		ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
	n = harness_counter("worker.refused_logged");
	ck_assert_uint_ge(n, 3);
	ck_assert_uint_eq(n + harness_counter("worker.refused_over_rate") +
				  harness_counter("worker.refused_no_room"),
			  N);
	ck_assert_uint_eq(harness_counter("worker.decode_errors"), N);
}
END_TEST

/* Encoded by the host, and too large: its bytes. What the host could not decode: that it could not.
 */
START_TEST(of_the_host_side)
{
	struct fake_host *h = host_attach(HOST_WIRE_HUGE, NULL);
	struct client *c = client_open();
	const struct worker_refused *told;

	ck_assert_int_eq(echo(c, 1000), GRPC_RESOURCE_EXHAUSTED);
	told = record_next();
	ck_assert_int_eq(told->error, -SPLIT_E_LINEARIZE_LIMIT_WIRE);
	ck_assert(told->answer);
	ck_assert_uint_gt(told->bytes, 1000);
	ck_assert_uint_eq(told->kept, 256);
	ck_assert_ptr_null(told->mem);
	record_done();
	host_mode_set(h, HOST_WIRE);
	ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
	told = record_next();
	ck_assert_int_eq(told->error, -SPLIT_E_HOST_UNDECODED);
	ck_assert_int_eq(told->status, GRPC_INTERNAL);
	ck_assert(!told->answer);
	ck_assert_ptr_null(told->wire);
	record_done();
	no_record();
}
END_TEST

/* Off, as it is where nobody asks; a reload switches it. */
START_TEST(off_and_on)
{
	struct client *c;

	(void)host_attach(HOST_BAD_MESSAGE, NULL);
	c = client_open();
	ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
	ck_assert_int_eq(echo(c, 100), GRPC_INTERNAL);
	no_record();
	harness.config->services[0].log_refused = true;
	harness_post(WORKER_MSG_CONFIG, NULL, 0);
	(void)harness_report(WORKER_REPORT_CONFIG);
	ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
	(void)record_next();
	record_done();
	harness.config->services[0].log_refused = false;
	harness_post(WORKER_MSG_CONFIG, NULL, 0);
	(void)harness_report(WORKER_REPORT_CONFIG);
	ck_assert_int_eq(call_with(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
	no_record();
	ck_assert_uint_eq(harness_counter("worker.refused_logged"), 1);
	ck_assert_uint_eq(harness_counter("worker.refused_over_rate"), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("refused");
	TCase *tc = harness_case(s, "logged", start_logged);

	tcase_add_test(tc, a_request);
	tcase_add_test(tc, a_long_request);
	tcase_add_test(tc, oversize);
	tcase_add_test(tc, an_answer);
	tcase_add_test(tc, the_host_goes);
	tcase_add_test(tc, no_room);
	tc = harness_case(s, "rate", start_rarely);
	tcase_add_test(tc, rate);
	tc = harness_case(s, "wire", start_as_wire);
	tcase_add_test(tc, of_the_host_side);
	tc = harness_case(s, "off", harness_start_plain);
	tcase_add_test(tc, off_and_on);
	return harness_suite_run(s);
}
