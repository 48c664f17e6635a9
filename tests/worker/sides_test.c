/* Decode and encode on the daemon's side or on the host's, and messages cut at every byte. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/worker/harness.h"

enum { DECODE_AT_HOST = 1, ENCODE_AT_HOST = 2 };

static void decode_at_host(struct config *cfg)
{
	cfg->services[0].decode = CONFIG_SIDE_HOST;
}

static void encode_at_host(struct config *cfg)
{
	cfg->services[0].encode = CONFIG_SIDE_HOST;
}

static void both_at_host(struct config *cfg)
{
	decode_at_host(cfg);
	encode_at_host(cfg);
}

static void start_host_side(void)
{
	harness_start(both_at_host);
}

static void start_decode(void)
{
	harness_start(decode_at_host);
}

static void start_encode(void)
{
	harness_start(encode_at_host);
}

static const size_t sizes[] = {0,     1,     64,     80,     100,  124,  125,    128,
			       500,   507,   510,    520,    1024, 4096, 16384,  49152,
			       65535, 65536, 100000, 487424, 4000, 3000, 1 << 20};

static void echo(struct client *c, size_t len)
{
	struct rpc r;

	rpc_echo(&r, c, len, 0);
	rpc_check_echo(&r, len);
	rpc_free(&r);
}

/* Every size there and back; what was done on which side is counted. */
static void every_size(unsigned sides)
{
	struct fake_host *h = host_attach(sides & ENCODE_AT_HOST ? HOST_WIRE : HOST_ECHO, NULL);
	struct client *c = client_open();
	size_t n = ARRAY_LEN(sizes);

	for (size_t i = 0; i < n; i++)
		echo(c, sizes[i]);
	ck_assert_uint_eq(atomic_load(&h->wired), sides & DECODE_AT_HOST ? n : 0);
	ck_assert_uint_eq(harness_counter("worker.requests_wire"), sides & DECODE_AT_HOST ? n : 0);
	ck_assert_uint_eq(harness_counter("worker.requests_small") +
				  harness_counter("worker.requests_block"),
			  sides & DECODE_AT_HOST ? 0 : n);
	ck_assert_uint_eq(harness_counter("worker.replies_wire"), sides & ENCODE_AT_HOST ? n : 0);
	ck_assert_uint_eq(harness_counter("worker.replies_unasked"), 0);
}

START_TEST(both_sides)
{
	every_size(DECODE_AT_HOST | ENCODE_AT_HOST);
}
END_TEST

START_TEST(decode_side)
{
	every_size(DECODE_AT_HOST);
}
END_TEST

START_TEST(encode_side)
{
	every_size(ENCODE_AT_HOST);
}
END_TEST

/* The host may answer with a linear message though it is asked to encode. */
START_TEST(linear_all_the_same)
{
	struct client *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		echo(c, sizes[i]);
	ck_assert_uint_eq(harness_counter("worker.replies_wire"), 0);
}
END_TEST

START_TEST(many_at_once)
{
	enum { CONNS = 4, EACH = 24 };
	static const size_t some[] = {0, 64, 300, 1024, 20000, 300000};
	static struct rpc r[CONNS * EACH];
	struct client *c[CONNS];

	(void)host_attach(HOST_WIRE, NULL);
	for (int i = 0; i < CONNS; i++)
		c[i] = client_open();
	for (int i = 0; i < CONNS * EACH; i++)
		rpc_echo(&r[i], c[i % CONNS], some[i % 6], 0);
	for (int i = 0; i < CONNS * EACH; i++) {
		rpc_check_echo(&r[i], some[i % 6]);
		rpc_free(&r[i]);
	}
}
END_TEST

static void small_segment(struct endpoint_config *cfg)
{
	cfg->to_host_bytes = 6 << 20;
	cfg->to_daemon_bytes = 16 << 20;
}

START_TEST(more_than_the_segment_holds)
{
	enum { N = 32, LEN = 1000000 };
	static struct rpc r[N];
	struct client *c[4];

	(void)host_attach(HOST_WIRE, small_segment);
	for (int i = 0; i < 4; i++)
		c[i] = client_open();
	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c[i % 4], i % 3 == 0 ? 300 : LEN - (size_t)i, 0);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&r[i], i % 3 == 0 ? 300 : LEN - (size_t)i);
		rpc_free(&r[i]);
	}
	ck_assert_uint_gt(harness_counter("worker.room_waits"), 0);
}
END_TEST

/* Answers of a client that does not read take pages as others do, and give them back. */
START_TEST(a_client_that_does_not_read)
{
	enum { N = 12 };
	static struct rpc slow[N];
	struct client *deaf, *c;

	(void)host_attach(HOST_WIRE, NULL);
	deaf = client_open();
	c = client_open();
	harness_run(10);
	client_stall(deaf, true);
	for (int i = 0; i < N; i++)
		rpc_echo(&slow[i], deaf, 100, 2000000);
	harness_run(100);
	for (int i = 0; i < 5; i++)
		echo(c, 100000);
	client_stall(deaf, false);
	for (int i = 0; i < N; i++) {
		if (rpc_wait(&slow[i]) == GRPC_OK)
			ck_assert_uint_gt(slow[i].body_len, 2000000);
		else
			ck_assert_int_eq(slow[i].grpc_status, GRPC_RESOURCE_EXHAUSTED);
		rpc_free(&slow[i]);
	}
}
END_TEST

/* ---- what can't be decoded, what may not be sent --------------------------------------------- */

static int status_of(struct client *c, const void *bytes, size_t len)
{
	struct rpc r;
	int status;

	rpc_start(&r, c, ECHO_PATH, bytes, len, NULL, 0);
	status = rpc_wait(&r);
	rpc_free(&r);
	return status;
}

START_TEST(undecodable)
{
	static const uint8_t truncated[] = {0, 0, 0, 0, 3, 0x0a, 0x05, 0x41};
	static const uint8_t too_long[] = {0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3};
	uint8_t *large = calloc(1, 100005);
	struct client *c;

	be32_store(large + 1, 100000);
	memset(large + 5, 0x0f, 100000); /* wire type 7 */
	(void)host_attach(HOST_WIRE, NULL);
	c = client_open();
	/* More than the pass mark of ejection: it is the clients' fault, not the host's. */
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(status_of(c, truncated, sizeof(truncated)), GRPC_INTERNAL);
		ck_assert_int_eq(status_of(c, large, 100005), GRPC_INTERNAL);
	}
	ck_assert_int_eq(status_of(c, too_long, sizeof(too_long)), GRPC_RESOURCE_EXHAUSTED);
	ck_assert_uint_eq(harness_counter("worker.requests_undecoded"), 40);
	ck_assert_uint_eq(harness_counter("worker.decode_errors"), 40);
	echo(c, 5000);
	free(large);
}
END_TEST

/* Nobody asked for an encoded answer: the call ends, the host stays. */
START_TEST(unasked)
{
	struct fake_host *h = host_attach(HOST_WIRE, NULL);
	struct client *c = client_open();
	struct rpc r;

	for (int i = 0; i < 3; i++) {
		rpc_echo(&r, c, i * 1000, 0);
		ck_assert_int_eq(rpc_wait(&r), GRPC_INTERNAL);
		rpc_free(&r);
	}
	ck_assert_uint_eq(harness_counter("worker.replies_unasked"), 3);
	host_mode_set(h, HOST_ECHO);
	echo(c, 1000);
}
END_TEST

/* Larger than may be sent: as where the daemon encodes it. */
START_TEST(too_large)
{
	struct fake_host *h = host_attach(HOST_WIRE_HUGE, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 1000, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_RESOURCE_EXHAUSTED);
	rpc_free(&r);
	ck_assert_uint_eq(harness_counter("worker.encode_errors"), 1);
	host_mode_set(h, HOST_WIRE);
	echo(c, 1000);
}
END_TEST

/* Bytes outside its segment: that host is done with. */
START_TEST(outside_its_segment)
{
	struct fake_host *h = host_attach(HOST_WIRE_LONG, NULL);
	struct client *c = client_open();
	struct worker_report report;
	struct rpc r;

	rpc_echo(&r, c, 1000, 0);
	report = harness_report(WORKER_REPORT_ENDPOINT_FAULT);
	ck_assert_ptr_eq(report.endpoint, &h->shared);
	host_remove(h); /* what control does */
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	rpc_free(&r);
}
END_TEST

/* A message that was published to a worker that takes nothing goes to another, as it came. */
static void two_workers(struct endpoint_config *cfg)
{
	cfg->host_workers = 2;
}

START_TEST(taken_back)
{
	enum { N = 24 };
	static const size_t some[] = {0, 20, 300, 5000};
	static struct rpc r[N];
	struct fake_host *h = host_attach(HOST_WIRE, two_workers);
	struct client *c = client_open();

	atomic_store(&h->deaf_worker, 1);
	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, some[i % 4], 0);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&r[i], some[i % 4]);
		rpc_free(&r[i]);
	}
	ck_assert_uint_gt(harness_counter("worker.calls_taken_back"), 0);
}
END_TEST

/* ---- split points ---------------------------------------------------------------------------- */

/* Let what was released reach the worker. Were it late the echo would be right all the same. */
static void deliver(void)
{
	harness_run(1);
}

/* In two pieces, cut at every byte: of one that is kept in its call, and of one with a room. */
static void cut_at_every_byte_by(enum host_mode mode)
{
	enum { AT_ONCE = 64 };
	static const size_t lens[] = {60, 700};
	static struct rpc r[AT_ONCE];
	struct client *c;

	(void)host_attach(mode, NULL);
	c = client_open();
	for (size_t l = 0; l < ARRAY_LEN(lens); l++) {
		size_t all = lens[l] + 5 + (lens[l] < 128 ? 2 : 3);

		for (size_t first = 1; first < all; first += AT_ONCE) {
			size_t n = all - first < AT_ONCE ? all - first : AT_ONCE;

			for (size_t i = 0; i < n; i++) {
				rpc_echo(&r[i], c, lens[l], 0);
				r[i].out_hold = first + i;
			}
			deliver();
			for (size_t i = 0; i < n; i++)
				rpc_release(&r[i], SIZE_MAX);
			for (size_t i = 0; i < n; i++) {
				rpc_check_echo(&r[i], lens[l]);
				rpc_free(&r[i]);
			}
		}
	}
}

START_TEST(cut_at_every_byte)
{
	cut_at_every_byte_by(HOST_WIRE);
}
END_TEST

START_TEST(cut_at_every_byte_here)
{
	cut_at_every_byte_by(HOST_ECHO);
}
END_TEST

/* In pieces of one size, from single bytes on. */
static void cut_into_pieces_by(enum host_mode mode)
{
	static const struct {
		size_t len, piece;
	} cuts[] = {{60, 1}, {130, 2}, {600, 7}, {20000, 499}};
	struct client *c;

	(void)host_attach(mode, NULL);
	c = client_open();
	for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
		struct rpc r;

		rpc_echo(&r, c, cuts[i].len, 0);
		for (size_t at = 0; at < r.out_len; at += cuts[i].piece) {
			rpc_release(&r, at);
			deliver();
		}
		rpc_release(&r, SIZE_MAX);
		rpc_check_echo(&r, cuts[i].len);
		rpc_free(&r);
	}
}

START_TEST(cut_into_pieces)
{
	cut_into_pieces_by(HOST_WIRE);
}
END_TEST

START_TEST(cut_into_pieces_here)
{
	cut_into_pieces_by(HOST_ECHO);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("worker/sides");
	TCase *t = harness_case(s, "host's side", start_host_side);

	tcase_add_test(t, both_sides);
	tcase_add_test(t, many_at_once);
	tcase_add_test(t, more_than_the_segment_holds);
	tcase_add_test(t, a_client_that_does_not_read);
	tcase_add_test(t, undecodable);
	tcase_add_test(t, too_large);
	tcase_add_test(t, outside_its_segment);
	tcase_add_test(t, taken_back);
	tcase_add_test(t, cut_at_every_byte);
	tcase_add_test(t, cut_into_pieces);
	t = harness_case(s, "decode", start_decode);
	tcase_add_test(t, decode_side);
	tcase_add_test(t, unasked);
	t = harness_case(s, "encode", start_encode);
	tcase_add_test(t, encode_side);
	tcase_add_test(t, linear_all_the_same);
	t = harness_case(s, "daemon's side", harness_start_plain);
	tcase_add_test(t, cut_at_every_byte_here);
	tcase_add_test(t, cut_into_pieces_here);
	return harness_suite_run(s);
}
