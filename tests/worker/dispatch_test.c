/* Which of a host's workers gets a call, and what that costs: wakes, the scheduler's word, age. The
 * words that a BPF program keeps for real hosts (daemon/sched) are the test's own here. */
#include "base/clock.h"
#include "daemon/sched/sched.h"
#include "tests/worker/harness.h"

#define ELSEWHERE (UINT64_C(7) << SCHED_CORE_SHIFT) /* a core that is not the worker's */
#define OFF       (SCHED_SEEN | ELSEWHERE)
#define ON        (SCHED_SEEN | SCHED_ON_CPU | ELSEWHERE)

/* As lanes.c has it: a wake that led nowhere for so long may be followed by another. */
#define WOKEN_LOST_NS (20 * CLOCK_NS_PER_MS)

static void two_workers(struct endpoint_config *cfg)
{
	cfg->host_workers = 2;
}

static bool woken(void *arg)
{
	return harness_counter("shepherd.wakes") >= *(uint64_t *)arg;
}

static void says(struct fake_host *h, unsigned worker, uint64_t word)
{
	__atomic_store_n(&h->on_cpu[worker], word, __ATOMIC_RELAXED);
}

/* Both workers sleep, and do not come when woken. So many calls, at most two for each: a wake for
 * each sleeper that gets any, and no second one while the first may still lead somewhere, though
 * the calls wait far longer than it takes to take one back. Whoever runs this so slowly that a wake
 * counts as lost has seen nothing. */
static void wakes_of(unsigned calls, uint64_t wakes)
{
	struct fake_host *h = host_attach(HOST_ECHO, two_workers);
	struct client *c = client_open();
	struct rpc r[4];
	uint64_t begin_ns, got;
	bool slow;

	atomic_store(&h->parked, 3);
	harness_run(5);
	begin_ns = clock_ns();
	for (unsigned i = 0; i < calls; i++)
		rpc_echo(&r[i], c, 10, 0);
	ck_assert(harness_until(woken, &wakes, 10000));
	harness_run(8);
	got = harness_counter("shepherd.wakes");
	slow = clock_ns() - begin_ns >= WOKEN_LOST_NS;
	ck_assert_msg(slow || got == wakes, "%u calls, %u wakes", calls, (unsigned)got);
	/* They are awake now: nothing was lost. */
	atomic_store(&h->parked, 0);
	for (unsigned i = 0; i < calls; i++) {
		rpc_check_echo(&r[i], 10);
		rpc_free(&r[i]);
	}
	ck_assert_uint_eq(atomic_load(&h->requests), calls);
}

START_TEST(a_request_costs_one_wake)
{
	wakes_of(1, 1);
}
END_TEST

START_TEST(a_sleeper_is_woken_once_for_all_it_gets)
{
	wakes_of(4, 2);
}
END_TEST

/* One that another was woken for goes to one that is awake, which costs no wake. */
START_TEST(who_is_awake_takes_what_a_sleeper_was_woken_for)
{
	struct fake_host *h = host_attach(HOST_ECHO, two_workers);
	struct client *c = client_open();
	uint64_t wakes = 1;
	struct rpc r;

	atomic_store(&h->parked, 3);
	harness_run(5);
	rpc_echo(&r, c, 10, 0);
	ck_assert(harness_until(woken, &wakes, 10000));
	/* The first in turn was woken: lane 0. */
	atomic_store(&h->parked, 1);
	rpc_check_echo(&r, 10);
	rpc_free(&r);
	ck_assert_uint_eq(atomic_load(&h->requests_of[1]), 1);
	ck_assert_uint_eq(harness_counter("worker.calls_taken_back"), 1);
	atomic_store(&h->parked, 0);
}
END_TEST

static bool released(void *arg)
{
	struct fake_host *h = arg;

	return atomic_load(&h->releases) == atomic_load(&h->requests);
}

/* Calls one after the other, each begun when the host has taken all that was sent to it, the last
 * answer's RELEASE too: nothing waits in a ring then, however slowly the host runs. */
static void calls_alone(struct fake_host *h, struct client *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct rpc r;

		rpc_echo(&r, c, 10, 0);
		rpc_check_echo(&r, 10);
		rpc_free(&r);
		ck_assert(harness_until(released, h, 10000));
	}
}

START_TEST(who_lost_its_cpu_comes_last)
{
	struct fake_host *h = host_attach(HOST_ECHO, two_workers);
	struct client *c = client_open();

	for (unsigned worker = 0; worker < 2; worker++) {
		unsigned before = atomic_load(&h->requests_of[1 - worker]);

		says(h, worker, OFF);
		says(h, 1 - worker, ON);
		calls_alone(h, c, 10);
		ck_assert_uint_eq(atomic_load(&h->requests_of[1 - worker]), before + 10);
	}
}
END_TEST

/* Off its CPU where we are is no news: we have it. */
START_TEST(our_own_core_does_not_count)
{
	struct fake_host *h = host_attach(HOST_ECHO, two_workers);
	struct client *c = client_open();

	says(h, 0, SCHED_SEEN | UINT64_C(1) << SCHED_CORE_SHIFT);
	says(h, 1, ON);
	calls_alone(h, c, 10);
	ck_assert_uint_ge(atomic_load(&h->requests_of[0]), 1);
}
END_TEST

static bool off_seen(void *arg)
{
	(void)arg;
	return harness_counter("worker.hosts_off_cpu") != 0;
}

static bool both_published(void *arg)
{
	(void)arg;
	return harness_counter("shepherd.requests_out") == 2;
}

/* One call for each worker, and neither takes it; then the second does. */
static void taken_back_from(uint64_t word)
{
	struct fake_host *h = host_attach(HOST_ECHO, two_workers);
	struct client *c = client_open();
	struct rpc r[2];

	says(h, 0, ON);
	says(h, 1, ON);
	atomic_store(&h->absent, 3);
	harness_run(5);
	for (unsigned i = 0; i < 2; i++)
		rpc_echo(&r[i], c, i == 0 ? 4000 : 10, 0);
	ck_assert(harness_until(both_published, NULL, 10000));
	says(h, 0, word);
	if (sched_word_off(word))
		ck_assert(harness_until(off_seen, NULL, 10000));
	atomic_store(&h->absent, 1);
	for (unsigned i = 0; i < 2; i++) {
		rpc_check_echo(&r[i], i == 0 ? 4000 : 10);
		rpc_free(&r[i]);
	}
	ck_assert_uint_eq(atomic_load(&h->requests_of[1]), 2);
	ck_assert_uint_ge(harness_counter("worker.calls_taken_back"), 1);
	if (!sched_word_off(word))
		ck_assert_uint_eq(harness_counter("worker.hosts_off_cpu"), 0);
	atomic_store(&h->absent, 0);
}

START_TEST(calls_of_who_lost_its_cpu_are_taken_back)
{
	taken_back_from(OFF);
}
END_TEST

/* Without the scheduler's word (0: not seen yet) age decides. */
START_TEST(calls_that_wait_too_long_are_taken_back)
{
	taken_back_from(0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("worker-dispatch");
	TCase *tc = harness_case(s, "dispatch", harness_start_plain);

	tcase_add_test(tc, a_request_costs_one_wake);
	tcase_add_test(tc, a_sleeper_is_woken_once_for_all_it_gets);
	tcase_add_test(tc, who_is_awake_takes_what_a_sleeper_was_woken_for);
	tcase_add_test(tc, who_lost_its_cpu_comes_last);
	tcase_add_test(tc, our_own_core_does_not_count);
	tcase_add_test(tc, calls_of_who_lost_its_cpu_are_taken_back);
	tcase_add_test(tc, calls_that_wait_too_long_are_taken_back);
	return harness_suite_run(s);
}
