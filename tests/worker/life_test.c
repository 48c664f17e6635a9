/* Hosts that come, go, hang and fill up; clients that do not read; drain. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tests/worker/harness.h"

static bool requests_two(void *arg)
{
	return atomic_load(&((struct fake_host *)arg)->requests) >= 2;
}

START_TEST(death_ends_every_call_once)
{
	enum { N = 40 };
	static struct rpc r[N];
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();

	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, i % 2 ? 10 : 5000, 0);
	ck_assert(harness_until(requests_two, h, 3000));
	harness_run(20);
	host_remove(h);
	for (int i = 0; i < N; i++) {
		ck_assert_int_eq(rpc_wait(&r[i]), GRPC_UNAVAILABLE);
		rpc_free(&r[i]);
	}
	h = host_attach(HOST_ECHO, NULL);
	rpc_echo(&r[0], c, 77, 0);
	rpc_check_echo(&r[0], 77);
	rpc_free(&r[0]);
}
END_TEST

START_TEST(an_upload_outlives_its_host)
{
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 1 << 20, 0);
	r.out_hold = 200000; /* the wire room is reserved and half full */
	harness_run(50);
	host_remove(h);
	rpc_release(&r, SIZE_MAX);
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	rpc_free(&r);
}
END_TEST

START_TEST(two_hosts_share)
{
	enum { N = 20 };
	struct fake_host *h[2] = {host_attach(HOST_ECHO, NULL), host_attach(HOST_ECHO, NULL)};
	struct client *c = client_open();
	struct rpc r;

	for (int i = 0; i < N; i++) {
		rpc_echo(&r, c, 30, 0);
		rpc_check_echo(&r, 30);
		rpc_free(&r);
	}
	ck_assert_uint_eq(atomic_load(&h[0]->requests), N / 2);
	ck_assert_uint_eq(atomic_load(&h[1]->requests), N / 2);
	host_remove(h[0]);
	rpc_echo(&r, c, 30, 0);
	rpc_check_echo(&r, 30);
	rpc_free(&r);
}
END_TEST

/* ---- full ----------------------------------------------------------------------------------- */

static void tiny_rings(struct endpoint_config *cfg)
{
	cfg->request_slots = 2;
	cfg->completion_slots = 2;
	cfg->foreign_slots = 2;
}

START_TEST(rings_of_two_slots)
{
	enum { N = 60 };
	static struct rpc r[N];
	struct client *c;

	(void)host_attach(HOST_ECHO, tiny_rings);
	c = client_open();
	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, i % 3 ? 40 : 3000, 0);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&r[i], i % 3 ? 40 : 3000);
		rpc_free(&r[i]);
	}
}
END_TEST

static void small_segment(struct endpoint_config *cfg)
{
	cfg->to_host_bytes = 6 << 20;
	cfg->to_daemon_bytes = 6 << 20;
}

START_TEST(more_bytes_than_the_segment_holds)
{
	enum { N = 48, LEN = 1000000 };
	static struct rpc r[N];
	struct client *c[4];

	(void)host_attach(HOST_ECHO, small_segment);
	for (int i = 0; i < 4; i++)
		c[i] = client_open();
	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c[i % 4], LEN - (size_t)i, 0);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&r[i], LEN - (size_t)i);
		rpc_free(&r[i]);
	}
	ck_assert_uint_gt(harness_counter("worker.room_waits"), 0);
}
END_TEST

START_TEST(a_message_that_never_fits_is_exhausted)
{
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_ECHO, small_segment);
	c = client_open();
	rpc_echo(&r, c, (4 << 20) - 100, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_RESOURCE_EXHAUSTED);
	rpc_free(&r);
	rpc_echo(&r, c, 1000000, 0);
	rpc_check_echo(&r, 1000000);
	rpc_free(&r);
}
END_TEST

START_TEST(a_client_that_does_not_read_blocks_nobody)
{
	enum { N = 24 };
	static struct rpc slow[N], quick;
	struct client *deaf, *c;
	unsigned ok = 0;

	(void)host_attach(HOST_ECHO, NULL);
	deaf = client_open();
	c = client_open();
	harness_run(10);
	client_stall(deaf, true);
	for (int i = 0; i < N; i++)
		rpc_echo(&slow[i], deaf, 100, 4000000);
	harness_run(200);
	for (int i = 0; i < 10; i++) {
		rpc_echo(&quick, c, 1000, 200000);
		ck_assert_int_eq(rpc_wait(&quick), GRPC_OK);
		rpc_free(&quick);
	}
	client_stall(deaf, false);
	for (int i = 0; i < N; i++) {
		/* Within its share it gets its answers, the rest would have held the host's memory.
		 */
		if (rpc_wait(&slow[i]) == GRPC_OK)
			ck_assert_uint_gt(slow[i].body_len, 4000000);
		else
			ck_assert_int_eq(slow[i].grpc_status, GRPC_RESOURCE_EXHAUSTED);
		ok += slow[i].grpc_status == GRPC_OK;
		rpc_free(&slow[i]);
	}
	/* How many that are is a matter of how long the machine took. */
	ck_assert_uint_ge(ok, 1);
	ck_assert_uint_eq(harness_counter("worker.readers_stalled"), N - ok);
}
END_TEST

START_TEST(deaf_clients_leave_mbufs_to_others)
{
	enum { DEAF = 20, EACH = 2 };
	static struct rpc slow[DEAF * EACH], quick;
	struct client *deaf[DEAF], *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	for (int i = 0; i < DEAF; i++) {
		deaf[i] = client_open();
		harness_run(2);
		client_stall(deaf[i], true);
		for (int k = 0; k < EACH; k++)
			rpc_echo(&slow[i * EACH + k], deaf[i], 100, 700000);
	}
	harness_run(300);
	for (int i = 0; i < 10; i++) {
		rpc_echo(&quick, c, 1000, 100000);
		ck_assert_int_eq(rpc_wait(&quick), GRPC_OK);
		rpc_free(&quick);
	}
	for (int i = 0; i < DEAF; i++) {
		client_abort(deaf[i]);
		for (int k = 0; k < EACH; k++) {
			free(slow[i * EACH + k].owned);
			free(slow[i * EACH + k].body);
		}
	}
}
END_TEST

START_TEST(many_large_answers_on_one_connection_all_come)
{
	enum { N = 24 };
	static struct rpc r[N];
	struct client *c;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, 100, 4000000);
	for (int i = 0; i < N; i++) {
		ck_assert_int_eq(rpc_wait(&r[i]), GRPC_OK);
		rpc_free(&r[i]);
	}
	ck_assert_uint_gt(harness_counter("worker.encode_waits"), 0);
}
END_TEST

START_TEST(a_connection_lost_with_unsent_answers_leaves_nothing)
{
	enum { N = 12 };
	static struct rpc slow[N];
	struct client *deaf;

	(void)host_attach(HOST_ECHO, NULL);
	deaf = client_open();
	harness_run(10);
	client_stall(deaf, true);
	for (int i = 0; i < N; i++)
		rpc_echo(&slow[i], deaf, 100, 2000000);
	harness_run(100);
	client_abort(deaf);
	for (int i = 0; i < N; i++) {
		free(slow[i].owned);
		free(slow[i].body);
	}
	/* harness_stop() finds no call, no connection and no page in use. */
}
END_TEST

/* ---- stalls and the queue ------------------------------------------------------------------- */

static void impatient(struct config *cfg)
{
	cfg->hosts[0].stall_timeout_ns = 200 * CLOCK_NS_PER_MS;
}

static void setup_impatient(void)
{
	harness_start(impatient);
}

START_TEST(a_stalled_host_is_ejected_and_returns)
{
	enum { N = 12 };
	static struct rpc r[N];
	struct fake_host *h = host_attach(HOST_DEAF, NULL);
	struct client *c = client_open();
	unsigned unavailable = 0;

	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, 20, 0);
	harness_run(500);
	ck_assert_uint_eq(harness_counter("balance.ejected"), 1);
	/* Those not handed over have ended; the few that were may still be answered. */
	for (int i = 0; i < N; i++)
		unavailable += r[i].closed && r[i].grpc_status == GRPC_UNAVAILABLE;
	ck_assert_uint_ge(unavailable, N - 2);
	host_mode_set(h, HOST_ECHO);
	for (int i = 0; i < N; i++) {
		if (rpc_wait(&r[i]) != GRPC_UNAVAILABLE)
			rpc_check_echo(&r[i], 20);
		rpc_free(&r[i]);
	}
	harness_run(30);
	ck_assert_uint_eq(harness_counter("balance.restored"), 1);
	rpc_echo(&r[0], c, 20, 0);
	rpc_check_echo(&r[0], 20);
	rpc_free(&r[0]);
}
END_TEST

static void two_workers(struct endpoint_config *cfg)
{
	cfg->host_workers = 2;
}

START_TEST(requests_behind_a_long_handler_are_taken_back)
{
	enum { N = 6 };
	static struct rpc r[N];
	struct fake_host *h = host_attach(HOST_DEAF, two_workers);
	struct client *c = client_open();

	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, i % 2 ? 40 : 4000, 0);
	harness_run(50); /* both lanes have all they may have ahead */
	atomic_store(&h->deaf_worker, 0);
	host_mode_set(h, HOST_ECHO);
	for (int i = 0; i < N; i++) {
		rpc_check_echo(&r[i], i % 2 ? 40 : 4000);
		rpc_free(&r[i]);
	}
	ck_assert_uint_ge(harness_counter("worker.calls_taken_back"), 1);
	ck_assert_uint_eq(atomic_load(&h->requests), N); /* none ran twice */
	atomic_store(&h->deaf_worker, -1);
}
END_TEST

static void two_workers_two_slots(struct endpoint_config *cfg)
{
	cfg->host_workers = 2;
	cfg->request_slots = 2;
}

/* The word a host worker claims by, written as a hostile host may. */
static void claim_forge(struct fake_host *h, unsigned lane, uint32_t claim)
{
	const struct geometry *g = endpoint_geometry(h->shared.endpoint);
	uint8_t *base = attachment_arena(h->attachment).mem - g->to_daemon_arena_offset;
	struct host_line *line = (struct host_line *)(void *)(base + g->host_line_offset) + lane;

	__atomic_store_n(&line->claim, claim, __ATOMIC_SEQ_CST);
}

/* It says of a cancelled call that it was begun, and denies it once the CANCEL waits for room in
 * its ring: the call has no client any more, so there is nothing to take back. */
START_TEST(a_claim_denied_later_takes_nothing_back)
{
	enum { N = 4 };
	static struct rpc r[N];
	struct fake_host *h = host_attach(HOST_DEAF, two_workers_two_slots);
	struct client *c = client_open();
	struct rpc after;

	claim_forge(h, 0, 1);
	claim_forge(h, 1, 1);
	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, 40, 0);
	harness_run(50); /* both rings are full */
	for (int i = 0; i < N; i++)
		rpc_cancel(&r[i]);
	harness_run(50);
	claim_forge(h, 0, 0);
	atomic_store(&h->deaf_worker, 0);
	host_mode_set(h, HOST_ECHO);
	harness_run(100);
	ck_assert_uint_eq(harness_counter("worker.calls_taken_back"), 0);
	atomic_store(&h->deaf_worker, -1);
	rpc_echo(&after, c, 40, 0);
	rpc_check_echo(&after, 40);
	rpc_free(&after);
	for (int i = 0; i < N; i++)
		rpc_free(&r[i]);
}
END_TEST

static void short_queue(struct config *cfg)
{
	for (uint32_t i = 0; i < cfg->services_n; i++)
		cfg->services[i].limits.queue_max = 5;
}

static void setup_short_queue(void)
{
	harness_start(short_queue);
}

START_TEST(a_full_queue_is_exhausted)
{
	enum { N = 30 };
	static struct rpc r[N];
	struct fake_host *h = host_attach(HOST_DEAF, NULL);
	struct client *c = client_open();
	unsigned exhausted = 0;

	for (int i = 0; i < N; i++)
		rpc_echo(&r[i], c, 20, 0);
	harness_run(100);
	host_mode_set(h, HOST_ECHO);
	for (int i = 0; i < N; i++) {
		if (rpc_wait(&r[i]) == GRPC_RESOURCE_EXHAUSTED)
			exhausted++;
		else
			rpc_check_echo(&r[i], 20);
		rpc_free(&r[i]);
	}
	ck_assert_uint_ge(exhausted, N - 5 - 4);
	ck_assert_uint_eq(harness_counter("balance.queue_full"), exhausted);
}
END_TEST

static void echo_not_for_this_host(struct config *cfg)
{
	cfg->services[0].hosts_n = 0;
}

static void setup_not_allowed(void)
{
	harness_start(echo_not_for_this_host);
}

/* It may say that it serves what it likes: it gets the calls of those services only that the
 * configuration gives it. */
START_TEST(a_host_serves_only_what_it_may)
{
	struct client *c = client_open();
	struct fake_host *h = host_attach(HOST_ECHO, NULL);
	struct rpc r;

	rpc_echo(&r, c, 20, 0);
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	ck_assert_uint_eq(atomic_load(&h->requests), 0);
	rpc_free(&r);
}
END_TEST

/* ---- drain, sleep --------------------------------------------------------------------------- */

static bool gone(void *arg)
{
	return !client_alive(arg);
}

START_TEST(drain_lets_calls_finish)
{
	struct fake_host *h = host_attach(HOST_HOLD, NULL);
	struct client *c = client_open();
	struct rpc r;

	rpc_echo(&r, c, 100, 0);
	harness_run(50);
	harness_post(WORKER_MSG_DRAIN, NULL, clock_ns() + 5 * CLOCK_NS_PER_SEC);
	harness_run(100);
	ck_assert(client_goaway(c));
	ck_assert(!r.closed);
	ck_assert(!client_alive(client_open())); /* nobody listens any more */
	host_mode_set(h, HOST_ECHO);
	ck_assert_int_eq(rpc_wait(&r), GRPC_OK);
	rpc_free(&r);
	ck_assert(harness_until(gone, c, 3000));
	ck_assert_int_eq(harness_report(WORKER_REPORT_DRAINED).cause, 0);
}
END_TEST

START_TEST(drain_cuts_off_at_its_deadline)
{
	struct client *c;
	struct rpc r;

	(void)host_attach(HOST_FORGET, NULL);
	c = client_open();
	rpc_echo(&r, c, 100, 0);
	harness_run(50);
	harness_post(WORKER_MSG_DRAIN, NULL, clock_ns() + 200 * CLOCK_NS_PER_MS);
	ck_assert_int_eq(rpc_wait(&r), GRPC_UNAVAILABLE);
	rpc_free(&r);
	ck_assert_int_ne(harness_report(WORKER_REPORT_DRAINED).cause, 0);
}
END_TEST

static bool slept_on(void *since)
{
	return harness_counter("worker.sleep_ns") - *(uint64_t *)since > 150 * CLOCK_NS_PER_MS;
}

START_TEST(an_idle_worker_sleeps_and_wakes)
{
	struct client *c;
	struct rpc r;
	uint64_t slept;

	(void)host_attach(HOST_ECHO, NULL);
	c = client_open();
	harness_run(50);
	slept = harness_counter("worker.sleep_ns");
	ck_assert(harness_until(slept_on, &slept, 30000));
	for (int i = 0; i < 20; i++) {
		harness_run(3);
		rpc_echo(&r, c, 20, 0);
		rpc_check_echo(&r, 20);
		rpc_free(&r);
	}
}
END_TEST

START_TEST(a_silent_connection_is_closed)
{
	struct client *c = client_open();

	(void)c;
	ck_assert(client_alive(c));
	/* A preface was sent by nghttp2; the idle timeout is far away: it stays. */
	harness_run(200);
	ck_assert(client_alive(c));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("worker/life");
	TCase *tc = harness_case(s, "life", harness_start_plain);

	tcase_add_test(tc, death_ends_every_call_once);
	tcase_add_test(tc, an_upload_outlives_its_host);
	tcase_add_test(tc, two_hosts_share);
	tcase_add_test(tc, rings_of_two_slots);
	tcase_add_test(tc, more_bytes_than_the_segment_holds);
	tcase_add_test(tc, a_message_that_never_fits_is_exhausted);
	tcase_add_test(tc, deaf_clients_leave_mbufs_to_others);
	tcase_add_test(tc, a_client_that_does_not_read_blocks_nobody);
	tcase_add_test(tc, many_large_answers_on_one_connection_all_come);
	tcase_add_test(tc, a_connection_lost_with_unsent_answers_leaves_nothing);
	tcase_add_test(tc, requests_behind_a_long_handler_are_taken_back);
	tcase_add_test(tc, a_claim_denied_later_takes_nothing_back);
	tcase_add_test(tc, drain_lets_calls_finish);
	tcase_add_test(tc, drain_cuts_off_at_its_deadline);
	tcase_add_test(tc, an_idle_worker_sleeps_and_wakes);
	tcase_add_test(tc, a_silent_connection_is_closed);
	tcase_add_test(harness_case(s, "stall", setup_impatient),
		       a_stalled_host_is_ejected_and_returns);
	tcase_add_test(harness_case(s, "queue", setup_short_queue), a_full_queue_is_exhausted);
	tcase_add_test(harness_case(s, "allowed", setup_not_allowed),
		       a_host_serves_only_what_it_may);
	return harness_suite_run(s);
}
