/* What connections share: who stalls, up or down, does not stop others, and they take turns. */
#include <stdlib.h>

#include "base/clock.h"
#include "tests/worker/harness.h"

/* The worker's part of the segment has wire rooms of 2.5 MiB then: two of 1 MiB and one of 512 KiB.
 */
static void small_segment(struct endpoint_config *cfg)
{
	cfg->to_host_bytes = 6 << 20;
	cfg->to_daemon_bytes = 6 << 20;
}

#define ROOM_1M   600000u
#define ROOM_512K 300000u
#define ROOM_2M   1200000u

static void patient(struct config *cfg)
{
	cfg->grpc.upload_timeout_ns = 3600 * CLOCK_NS_PER_SEC;
}

static void setup_patient(void)
{
	harness_start(patient);
}

static void hasty(struct config *cfg)
{
	cfg->grpc.upload_timeout_ns = 200 * CLOCK_NS_PER_MS;
	cfg->grpc.reader_timeout_ns = 200 * CLOCK_NS_PER_MS;
}

static void setup_hasty(void)
{
	harness_start(hasty);
}

static void stalled(struct rpc *r, struct client *c, size_t len)
{
	rpc_echo(r, c, len, 0);
	r->out_hold = 1000;
}

static void let_go(struct rpc *r, size_t len)
{
	rpc_release(r, SIZE_MAX);
	rpc_check_echo(r, len);
	rpc_free(r);
}

struct count {
	const char *name;
	uint64_t at_least;
};

static bool counted(void *arg)
{
	const struct count *c = arg;

	return harness_counter(c->name) >= c->at_least;
}

static void await(const char *name, uint64_t at_least)
{
	struct count c = {name, at_least};

	ck_assert_msg(harness_until(counted, &c, 10000), "%s stayed below %lu", name,
		      (unsigned long)at_least);
}

START_TEST(small_calls_pass_uploads_that_stall)
{
	enum { N = 8 };
	static struct rpc slow[N], quick;
	struct client *c;

	(void)host_attach(HOST_ECHO, small_segment);
	c = client_open();
	for (int i = 0; i < N; i++)
		stalled(&slow[i], c, 1 << 20);
	await("worker.room_waits", N - 1);
	for (int i = 0; i < 20; i++) {
		rpc_echo(&quick, c, 300, 0);
		rpc_check_echo(&quick, 300);
		rpc_free(&quick);
	}
	for (int i = 0; i < N; i++)
		rpc_release(&slow[i], SIZE_MAX);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&slow[i], 1 << 20);
		rpc_free(&slow[i]);
	}
}
END_TEST

/* Large content is not copied out of the room it arrived in, which then is the message's. */
START_TEST(large_content_stays_where_it_arrived)
{
	/* The last one fills its block to the byte: no place for a NUL, so it is copied. */
	static const size_t lengths[] = {5000, 65000, ROOM_512K, ROOM_1M, 65532};
	enum { N = sizeof(lengths) / sizeof(lengths[0]) };
	static struct rpc r;
	struct client *c;

	(void)host_attach(HOST_ECHO, small_segment);
	c = client_open();
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < N; i++) {
			rpc_echo(&r, c, lengths[i], 0);
			rpc_check_echo(&r, lengths[i]);
			rpc_free(&r);
		}
	}
	ck_assert_uint_eq(harness_counter("worker.requests_aliased"), 20 * (N - 1));
}
END_TEST

/* Nobody is ever ended as slow here: what another connection gets is its share alone. */
START_TEST(hundreds_of_stalled_uploads_leave_room_for_another_connection)
{
	enum { N = 300 };
	static struct rpc slow[N], r;
	struct client *c[2];

	(void)host_attach(HOST_ECHO, small_segment);
	c[0] = client_open();
	c[1] = client_open();
	for (int i = 0; i < N; i++)
		stalled(&slow[i], c[0], ROOM_1M);
	await("worker.room_waits", N - 1);
	for (int i = 0; i < 10; i++) {
		rpc_echo(&r, c[1], ROOM_1M, 0);
		rpc_check_echo(&r, ROOM_1M);
		rpc_free(&r);
	}
	ck_assert_uint_eq(harness_counter("worker.uploads_slow"), 0);
	client_abort(c[0]);
	for (int i = 0; i < N; i++)
		free(slow[i].owned);
}
END_TEST

START_TEST(connections_take_turns)
{
	enum { N = 6 };
	static struct rpc a[N], b, c;
	struct client *conn[3];

	(void)host_attach(HOST_ECHO, small_segment);
	for (int i = 0; i < 3; i++)
		conn[i] = client_open();
	for (int i = 0; i < N; i++)
		stalled(&a[i], conn[0], ROOM_1M);
	await("worker.room_waits", N - 1);
	stalled(&b, conn[1], ROOM_1M);
	await("grpc.calls", N + 1);
	harness_run(20);
	rpc_echo(&c, conn[2], ROOM_1M, 0);
	await("worker.room_waits", N);
	ck_assert(!c.closed);
	/* The first of a gives its room back: the next may be one of a's again, then it is c's turn
	 * before all the others of a. */
	let_go(&a[0], ROOM_1M);
	let_go(&b, ROOM_1M);
	rpc_check_echo(&c, ROOM_1M);
	rpc_free(&c);
	for (int i = 1; i < N; i++) {
		ck_assert(!a[i].closed);
		rpc_release(&a[i], SIZE_MAX);
	}
	for (int i = 1; i < N; i++) {
		rpc_check_echo(&a[i], ROOM_1M);
		rpc_free(&a[i]);
	}
	ck_assert_uint_eq(harness_counter("worker.uploads_slow"), 0);
}
END_TEST

START_TEST(those_that_fit_pass_a_large_one)
{
	static struct rpc a, large, small;
	struct client *conn[3];

	(void)host_attach(HOST_ECHO, small_segment);
	for (int i = 0; i < 3; i++)
		conn[i] = client_open();
	stalled(&a, conn[0], ROOM_1M);
	await("grpc.calls", 1);
	harness_run(20);
	rpc_echo(&large, conn[1], ROOM_2M, 0);
	await("worker.room_waits", 1);
	for (int i = 0; i < 5; i++) {
		rpc_echo(&small, conn[2], ROOM_512K, 0);
		rpc_check_echo(&small, ROOM_512K);
		rpc_free(&small);
	}
	ck_assert(!large.closed);
	let_go(&a, ROOM_1M);
	rpc_check_echo(&large, ROOM_2M);
	rpc_free(&large);
}
END_TEST

START_TEST(uploads_that_stall_give_way_to_those_that_wait)
{
	enum { N = 4 };
	static struct rpc slow[N], r;
	struct client *c[N + 1];

	(void)host_attach(HOST_ECHO, small_segment);
	for (int i = 0; i <= N; i++)
		c[i] = client_open();
	for (int i = 0; i < N; i++)
		stalled(&slow[i], c[i], ROOM_1M);
	await("worker.room_waits", N - 2);
	rpc_echo(&r, c[N], ROOM_2M, 0);
	/* It waits for all of them: each has its time, none more. */
	rpc_check_echo(&r, ROOM_2M);
	rpc_free(&r);
	for (int i = 0; i < N; i++) {
		ck_assert_int_eq(rpc_wait(&slow[i]), GRPC_RESOURCE_EXHAUSTED);
		rpc_free(&slow[i]);
	}
	ck_assert_uint_eq(harness_counter("worker.uploads_slow"), N);
}
END_TEST

/* Nobody but its own connection waits: it may take its time. */
START_TEST(uploads_that_stall_stand_in_their_own_way_only)
{
	enum { N = 3 };
	static struct rpc slow[N];
	struct client *c;

	(void)host_attach(HOST_ECHO, small_segment);
	c = client_open();
	for (int i = 0; i < N; i++)
		stalled(&slow[i], c, ROOM_1M);
	harness_run(700);
	for (int i = 0; i < N; i++)
		rpc_release(&slow[i], SIZE_MAX);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&slow[i], ROOM_1M);
		rpc_free(&slow[i]);
	}
	ck_assert_uint_eq(harness_counter("worker.uploads_slow"), 0);
}
END_TEST

static void few_calls(struct config *cfg)
{
	cfg->grpc.calls_max = 8;
}

static void setup_few_calls(void)
{
	harness_start(few_calls);
}

START_TEST(streams_opened_and_left_give_way)
{
	enum { N = 8 };
	static struct rpc idle[N], r;
	struct client *c[2];

	(void)host_attach(HOST_ECHO, NULL);
	c[0] = client_open();
	c[1] = client_open();
	for (int i = 0; i < N; i++) {
		rpc_echo(&idle[i], c[0], 1000, 0);
		idle[i].out_hold = 0;
	}
	await("grpc.calls", N);
	for (int i = 0; i < 20; i++) {
		rpc_echo(&r, c[1], 2000, 0);
		rpc_check_echo(&r, 2000);
		rpc_free(&r);
	}
	ck_assert_uint_eq(harness_counter("grpc.calls_idle_cut"), 1);
	ck_assert_int_eq(rpc_wait(&idle[0]), GRPC_RESOURCE_EXHAUSTED);
	rpc_free(&idle[0]);
	for (int i = 1; i < N; i++)
		let_go(&idle[i], 1000);
}
END_TEST

/* ---- clients that do not read --------------------------------------------------------------- */

#define ANSWER   250000u
#define SLOW_MAX 600

static void never_given_up(struct config *cfg)
{
	cfg->grpc.reader_timeout_ns = 3600 * CLOCK_NS_PER_SEC;
}

static void setup_never_given_up(void)
{
	harness_start(never_given_up);
}

/* Until answers fill its share of pages (16 MiB) and calls are held; twenty at a time, so that the
 * host's segment has room for theirs. Returns how many. */
static int ask_too_much(struct rpc *r, int max, struct client *deaf)
{
	int n = 0;

	while (harness_counter("worker.calls_held") < 20) {
		ck_assert_int_lt(n, max);
		rpc_echo(&r[n++], deaf, 100, ANSWER);
		if (n % 20 == 0)
			harness_run(30);
	}
	return n;
}

/* Its answers fill its share; after that it gets no handler and none of the host's memory, however
 * much more it asks for. Nobody has to be patient here. */
START_TEST(a_client_that_does_not_read_gets_nothing_more_done)
{
	static struct rpc slow[SLOW_MAX], quick;
	struct client *deaf, *c;
	int n;

	(void)host_attach(HOST_ECHO, NULL);
	deaf = client_open();
	c = client_open();
	harness_run(10);
	client_stall(deaf, true);
	n = ask_too_much(slow, SLOW_MAX, deaf);
	for (int i = 0; i < 20; i++) {
		rpc_echo(&quick, c, 1000, 100000);
		ck_assert_int_eq(rpc_wait(&quick), GRPC_OK);
		rpc_free(&quick);
	}
	ck_assert_uint_eq(harness_counter("worker.readers_stalled"), 0);
	/* Once it reads it gets all of them. */
	client_stall(deaf, false);
	for (int i = 0; i < n; i++) {
		ck_assert_int_eq(rpc_wait(&slow[i]), GRPC_OK);
		ck_assert_uint_gt(slow[i].body_len, ANSWER);
		rpc_free(&slow[i]);
	}
}
END_TEST

START_TEST(a_client_that_never_reads_loses_its_calls)
{
	static struct rpc slow[SLOW_MAX], late;
	struct client *deaf;
	const int n = 200; /* three times its share of pages */
	unsigned ok = 0;

	(void)host_attach(HOST_ECHO, NULL);
	deaf = client_open();
	harness_run(10);
	client_stall(deaf, true);
	for (int i = 0; i < n; i++) {
		rpc_echo(&slow[i], deaf, 100, ANSWER);
		if (i % 20 == 19)
			harness_run(30);
	}
	await("worker.readers_stalled", 10);
	client_stall(deaf, false);
	for (int i = 0; i < n; i++) {
		if (rpc_wait(&slow[i]) == GRPC_OK)
			ok++;
		else
			ck_assert_int_eq(slow[i].grpc_status, GRPC_RESOURCE_EXHAUSTED);
		rpc_free(&slow[i]);
	}
	ck_assert_uint_gt(ok, 0);
	/* It has read: as good as any other. */
	rpc_echo(&late, deaf, 100, 0);
	rpc_check_echo(&late, 100);
	rpc_free(&late);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("worker/room");
	TCase *tc = harness_case(s, "turns", setup_patient);

	tcase_add_test(tc, small_calls_pass_uploads_that_stall);
	tcase_add_test(tc, large_content_stays_where_it_arrived);
	tcase_add_test(tc, hundreds_of_stalled_uploads_leave_room_for_another_connection);
	tcase_add_test(tc, connections_take_turns);
	tcase_add_test(tc, those_that_fit_pass_a_large_one);
	tc = harness_case(s, "slow", setup_hasty);
	tcase_add_test(tc, uploads_that_stall_give_way_to_those_that_wait);
	tcase_add_test(tc, uploads_that_stall_stand_in_their_own_way_only);
	tcase_add_test(harness_case(s, "idle", setup_few_calls), streams_opened_and_left_give_way);
	tcase_add_test(harness_case(s, "unread", setup_never_given_up),
		       a_client_that_does_not_read_gets_nothing_more_done);
	tcase_add_test(harness_case(s, "never", setup_hasty),
		       a_client_that_never_reads_loses_its_calls);
	return harness_suite_run(s);
}
