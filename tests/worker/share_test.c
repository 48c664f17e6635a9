/* The accounts by which endpoints share a worker (deficit round robin), turn by turn: pure
 * counting, no thread runs. */
#include <string.h>

#include "daemon/worker/worker_internal.h"
#include "tests/base/base_check.h"

#define MS CLOCK_NS_PER_MS

static struct worker w;
static struct attached ep[3];
static struct worker_endpoint shared[3];
static struct config_host hosts[3];

static void setup(const uint32_t shares[3])
{
	memset(&w, 0, sizeof(w));
	memset(ep, 0, sizeof(ep));
	list_init(&w.endpoints);
	list_init(&w.job_turns);
	w.now_ns = 1000 * MS;
	w.turn = 1;
	for (unsigned i = 0; i < 3; i++) {
		hosts[i].share = shares[i];
		shared[i].host = &hosts[i];
		ep[i].w = &w;
		ep[i].we = &shared[i];
		ep[i].told = &ep[i].own;
		ep[i].turn_quantum = 4096;
		list_init(&ep[i].link);
		list_add_tail(&w.endpoints, &ep[i].link);
	}
	budgets_set(&w);
}

/* Several have had calls just now. */
static void contend(void)
{
	attached_active(&ep[0]);
	attached_active(&ep[1]);
}

static void next_turn(void)
{
	w.turn++;
	w.now_ns += MS / 100;
}

/* Everybody who floods does what it may, in pieces of `cost`; how many pieces it was. */
static unsigned flood(struct attached *e, uint64_t cost)
{
	unsigned n = 0;

	attached_active(e);
	while (!attached_over(e)) {
		attached_charge(e, cost);
		n++;
		if (n == 100000)
			break;
	}
	return n;
}

START_TEST(alone_there_is_no_budget)
{
	setup((const uint32_t[3]){100, 100, 100});
	for (unsigned t = 0; t < 10; t++) {
		ck_assert_uint_eq(flood(&ep[0], 100), 100000);
		next_turn();
	}
	ck_assert_uint_eq(w.deferred_turn, 0);
}
END_TEST

START_TEST(shares_are_kept_under_flood)
{
	static const uint64_t costs[3] = {70, 190, 1000}; /* whatever a piece costs */
	unsigned n[3] = {0};

	setup((const uint32_t[3]){300, 100, 100});
	contend();
	for (unsigned t = 0; t < 2000; t++) {
		for (unsigned i = 0; i < 3; i++)
			n[i] += flood(&ep[i], costs[i]);
		next_turn();
	}
	for (unsigned i = 1; i < 3; i++) {
		double ratio = (double)(n[0] * costs[0]) / (double)(n[i] * costs[i]);

		ck_assert(ratio > 2.8);
		ck_assert(ratio < 3.2);
	}
	ck_assert_uint_eq(ep[0].own.units, n[0] * costs[0]);
	ck_assert_uint_eq(w.deferred_turn, w.turn - 1);
}
END_TEST

/* One that takes pieces far larger than its budget pays them back before it has more. */
START_TEST(what_is_overdrawn_is_paid_back)
{
	uint64_t used[2] = {0};

	setup((const uint32_t[3]){100, 100, 100});
	contend();
	for (unsigned t = 0; t < 1000; t++) {
		used[0] += flood(&ep[0], 20000) * UINT64_C(20000);
		used[1] += flood(&ep[1], 50) * UINT64_C(50);
		next_turn();
	}
	ck_assert_uint_le(used[0], used[1] + used[1] / 10);
	ck_assert_uint_ge(used[0], used[1] - used[1] / 10);
}
END_TEST

/* Who wants little never waits, whatever the others do and however small its share. */
START_TEST(the_modest_never_wait)
{
	setup((const uint32_t[3]){10000, 10000, 1});
	contend();
	for (unsigned t = 0; t < 1000; t++) {
		next_turn();
		(void)flood(&ep[0], 3000);
		(void)flood(&ep[1], 3000);
		attached_active(&ep[2]);
		ck_assert(!attached_over(&ep[2]));
		attached_charge(&ep[2], BUDGET_MIN / 2);
	}
}
END_TEST

/* When the others have gone quiet there is no budget any more, and no old debt. */
START_TEST(contention_ends)
{
	setup((const uint32_t[3]){100, 100, 100});
	contend();
	next_turn();
	attached_charge(&ep[0], 1000000);
	ck_assert(attached_over(&ep[0]));
	w.now_ns += CONTENDED_NS;
	next_turn();
	ck_assert(!attached_over(&ep[0]));
	ck_assert_uint_eq(flood(&ep[0], 100), 100000);
}
END_TEST

BASE_CHECK_MAIN("share", alone_there_is_no_budget, shares_are_kept_under_flood,
		what_is_overdrawn_is_paid_back, the_modest_never_wait, contention_ends)
