/* The picker alone: each policy by what it picks, over members that are nothing but numbers. */
#include "daemon/balance/picker.h"

#include <string.h>

#include "tests/base/base_check.h"

#define MS  UINT64_C(1000000)
#define SEC (1000 * MS)

#define MEMBERS_MAX 64

static struct picker p;
static struct picker_member m[MEMBERS_MAX];

static const struct picker_ejection no_ejection = {
	.interval_ns = SEC, .base_ns = SEC, .max_ns = SEC};

static struct picker_config config_of(enum picker_policy policy)
{
	return (struct picker_config){
		.policy = policy,
		.members_max = MEMBERS_MAX,
		.node = 0,
		.callers_n = 1,
		.slow_start_percent = 10,
		.hash_slots = 4093,
		.ejection = no_ejection,
		.seed = 7,
	};
}

static void start(const struct picker_config *cfg)
{
	ck_assert_int_eq(picker_init(&p, cfg), 0);
}

static void add(unsigned i, uint32_t weight, int32_t node, uint64_t now_ns)
{
	const struct picker_member_config cfg = {.id = i + 1, .weight = weight, .node = node};

	ck_assert_int_eq(picker_add(&p, &m[i], &cfg, now_ns), 0);
}

static void add_n(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		add(i, 1, PICKER_NODE_ANY, 0);
}

/* Which member; -1: none. */
static int pick(const struct picker_key *key)
{
	static const struct picker_key nothing;
	struct picker_member *got = picker_pick(&p, key != NULL ? key : &nothing);

	return got == NULL ? -1 : (int)(got - m);
}

static int pick_hash(uint64_t hash)
{
	const struct picker_key key = {.has_hash = true, .hash = hash};

	return pick(&key);
}

static int pick_sticky(uint64_t sticky)
{
	const struct picker_key key = {.has_sticky = true, .sticky = sticky};

	return pick(&key);
}

static void count(unsigned picks, unsigned got[MEMBERS_MAX])
{
	memset(got, 0, MEMBERS_MAX * sizeof(*got));
	for (unsigned i = 0; i < picks; i++) {
		int at = pick(NULL);

		ck_assert_int_ge(at, 0);
		got[at]++;
	}
}

static void fail_on(unsigned i, unsigned times, uint64_t now_ns)
{
	for (unsigned k = 0; k < times; k++) {
		picker_begin(&m[i]);
		picker_end(&p, &m[i], PICKER_FAILED, now_ns);
	}
}

START_TEST(round_robin_takes_turns)
{
	const struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	unsigned got[MEMBERS_MAX];
	int first[3];

	start(&cfg);
	ck_assert_int_eq(pick(NULL), -1);
	ck_assert_uint_eq(p.counters.no_member, 1);
	for (unsigned i = 0; i < 3; i++)
		add(i, i + 1, PICKER_NODE_ANY, 0); /* weights are nothing to it */
	for (unsigned i = 0; i < 3; i++)
		first[i] = pick(NULL);
	ck_assert_int_ne(first[0], first[1]);
	ck_assert_int_ne(first[1], first[2]);
	ck_assert_int_ne(first[0], first[2]);
	for (unsigned i = 0; i < 6; i++)
		ck_assert_int_eq(pick(NULL), first[i % 3]);
	picker_state_set(&p, &m[1], PICKER_DOWN, 0);
	count(10, got);
	ck_assert_uint_eq(got[0], 5);
	ck_assert_uint_eq(got[2], 5);
	picker_fini(&p);
}
END_TEST

START_TEST(weighted_is_exact_and_interleaved)
{
	const struct picker_config cfg = config_of(PICKER_WEIGHTED);
	unsigned got[MEMBERS_MAX], run = 0, longest = 0;

	start(&cfg);
	add(0, 5, PICKER_NODE_ANY, 0);
	add(1, 1, PICKER_NODE_ANY, 0);
	add(2, 2, PICKER_NODE_ANY, 0);
	count(80, got);
	ck_assert_uint_eq(got[0], 50);
	ck_assert_uint_eq(got[1], 10);
	ck_assert_uint_eq(got[2], 20);
	for (unsigned i = 0; i < 80; i++) {
		run = pick(NULL) == 0 ? run + 1 : 0;
		longest = run > longest ? run : longest;
	}
	ck_assert_uint_le(longest, 3);
	picker_weight_set(&p, &m[0], 1);
	count(40, got);
	ck_assert_uint_ge(got[2], 15);
	picker_fini(&p);
}
END_TEST

START_TEST(least_outstanding_evens_out_by_weight)
{
	const struct picker_config cfg = config_of(PICKER_LEAST_OUTSTANDING);

	start(&cfg);
	add(0, 3, PICKER_NODE_ANY, 0);
	add(1, 1, PICKER_NODE_ANY, 0);
	for (unsigned i = 0; i < 40; i++)
		picker_begin(&m[pick(NULL)]);
	ck_assert_uint_eq(*m[0].load, 30);
	ck_assert_uint_eq(*m[1].load, 10);
	for (unsigned i = 0; i < 20; i++)
		picker_end(&p, &m[0], PICKER_GOOD, 0);
	for (unsigned i = 0; i < 15; i++)
		ck_assert_int_eq(pick(NULL), 0);
	picker_fini(&p);
}
END_TEST

/* What it is for (Mitzenmacher): of n pieces on n members the most loaded has few. */
START_TEST(power_of_two_keeps_the_greatest_load_low)
{
	const struct picker_config cfg = config_of(PICKER_POWER_OF_TWO);
	uint32_t most = 0;

	start(&cfg);
	add_n(64);
	for (unsigned i = 0; i < 640; i++)
		picker_begin(&m[pick(NULL)]);
	for (unsigned i = 0; i < 64; i++)
		most = *m[i].load > most ? *m[i].load : most;
	ck_assert_uint_ge(most, 10);
	ck_assert_uint_le(most, 13);
	picker_fini(&p);
}
END_TEST

#define KEYS 4000

START_TEST(consistent_hash_moves_only_what_it_must)
{
	const struct picker_config cfg = config_of(PICKER_CONSISTENT_HASH);
	unsigned moved = 0, was_fifth = 0, got[MEMBERS_MAX] = {0};
	int before[KEYS];

	start(&cfg);
	add_n(10);
	for (unsigned k = 0; k < KEYS; k++) {
		before[k] = pick_hash(picker_hash(&k, sizeof(k)));
		got[before[k]]++;
	}
	for (unsigned i = 0; i < 10; i++) {
		ck_assert_uint_gt(got[i], KEYS / 10 * 7 / 10);
		ck_assert_uint_lt(got[i], KEYS / 10 * 13 / 10);
	}
	/* Down: its keys go to many others, the rest stays exactly. */
	picker_state_set(&p, &m[4], PICKER_DOWN, 0);
	memset(got, 0, sizeof(got));
	for (unsigned k = 0; k < KEYS; k++) {
		int now = pick_hash(picker_hash(&k, sizeof(k)));

		if (before[k] == 4)
			got[now]++;
		else
			ck_assert_int_eq(now, before[k]);
	}
	for (unsigned i = 0; i < 10; i++)
		ck_assert_int_eq(got[i] != 0, i != 4);
	/* Gone: the table is made anew, and little more moves. */
	picker_remove(&p, &m[4]);
	for (unsigned k = 0; k < KEYS; k++) {
		int now = pick_hash(picker_hash(&k, sizeof(k)));

		was_fifth += before[k] == 4;
		moved += before[k] != 4 && now != before[k];
	}
	ck_assert_uint_gt(was_fifth, 0);
	ck_assert_uint_lt(moved, KEYS / 20);
	/* Come back: all keys are where they were. */
	add(4, 1, PICKER_NODE_ANY, 0);
	for (unsigned k = 0; k < KEYS; k++)
		ck_assert_int_eq(pick_hash(picker_hash(&k, sizeof(k))), before[k]);
	picker_fini(&p);
}
END_TEST

START_TEST(consistent_hash_agrees_whatever_the_order_of_coming)
{
	const struct picker_config cfg = config_of(PICKER_CONSISTENT_HASH);
	int first[100];

	start(&cfg);
	add_n(7);
	for (unsigned k = 0; k < 100; k++)
		first[k] = pick_hash(picker_hash(&k, sizeof(k)));
	picker_fini(&p);
	start(&cfg);
	for (unsigned i = 7; i-- > 0;)
		add(i, 1, PICKER_NODE_ANY, 0);
	for (unsigned k = 0; k < 100; k++)
		ck_assert_int_eq(pick_hash(picker_hash(&k, sizeof(k))), first[k]);
	ck_assert_uint_eq(p.counters.hash_no_key, 0);
	ck_assert_int_ge(pick(NULL), 0);
	ck_assert_uint_eq(p.counters.hash_no_key, 1);
	picker_fini(&p);
}
END_TEST

START_TEST(consistent_hash_follows_weights)
{
	const struct picker_config cfg = config_of(PICKER_CONSISTENT_HASH);
	unsigned got[2] = {0};

	start(&cfg);
	add(0, 3, PICKER_NODE_ANY, 0);
	add(1, 1, PICKER_NODE_ANY, 0);
	for (unsigned k = 0; k < KEYS; k++)
		got[pick_hash(picker_hash(&k, sizeof(k)))]++;
	ck_assert_uint_gt(got[0], KEYS * 70 / 100);
	ck_assert_uint_lt(got[0], KEYS * 80 / 100);
	picker_fini(&p);
}
END_TEST

/* With nearly all down a key still finds the one that is left. */
START_TEST(consistent_hash_with_one_left)
{
	const struct picker_config cfg = config_of(PICKER_CONSISTENT_HASH);

	start(&cfg);
	add_n(MEMBERS_MAX);
	for (unsigned i = 1; i < MEMBERS_MAX; i++)
		picker_state_set(&p, &m[i], PICKER_DOWN, 0);
	for (unsigned k = 0; k < 500; k++)
		ck_assert_int_eq(pick_hash(picker_hash(&k, sizeof(k))), 0);
	picker_state_set(&p, &m[0], PICKER_DOWN, 0);
	ck_assert_int_eq(pick_hash(1), -1);
	picker_fini(&p);
}
END_TEST

START_TEST(locality_goes_near_first_and_spills)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	unsigned got[MEMBERS_MAX];

	cfg.locality = true;
	cfg.locality_spill = 2;
	start(&cfg);
	add(0, 1, 0, 0);
	add(1, 1, 1, 0);
	add(2, 1, 0, 0);
	add(3, 1, PICKER_NODE_ANY, 0);
	count(10, got);
	ck_assert_uint_eq(got[0], 5);
	ck_assert_uint_eq(got[2], 5);
	ck_assert_uint_eq(p.counters.local, 10);
	for (unsigned i = 0; i < 2; i++) {
		picker_begin(&m[0]);
		picker_begin(&m[2]);
	}
	count(8, got);
	ck_assert_uint_eq(got[1], 2);
	ck_assert_uint_eq(got[3], 2);
	ck_assert_uint_eq(p.counters.spilled, 4); /* those that left */
	picker_end(&p, &m[2], PICKER_GOOD, 0);
	ck_assert_int_ne(pick(NULL), 1);
	/* None near is left: the others serve. */
	picker_state_set(&p, &m[0], PICKER_DOWN, 0);
	picker_state_set(&p, &m[2], PICKER_DRAINING, 0);
	count(10, got);
	ck_assert_uint_eq(got[1], 5);
	ck_assert_uint_eq(got[3], 5);
	picker_fini(&p);
}
END_TEST

static void subset_uses(unsigned members, unsigned callers, unsigned size, unsigned use[])
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	unsigned got[MEMBERS_MAX];

	memset(use, 0, MEMBERS_MAX * sizeof(*use));
	cfg.subset = size;
	cfg.callers_n = callers;
	for (unsigned c = 0; c < callers; c++) {
		cfg.caller = c;
		start(&cfg);
		/* The order in which they come must not matter. */
		for (unsigned i = 0; i < members; i++)
			add((i + c * 3) % members, 1, PICKER_NODE_ANY, 0);
		count(MEMBERS_MAX * 4, got);
		for (unsigned i = 0; i < members; i++)
			use[i] += got[i] != 0;
		picker_fini(&p);
	}
}

START_TEST(subsets_are_even_and_cover_all)
{
	unsigned use[MEMBERS_MAX], sum = 0;

	subset_uses(10, 5, 4, use);
	for (unsigned i = 0; i < 10; i++)
		ck_assert_uint_eq(use[i], 2);
	subset_uses(10, 4, 3, use);
	for (unsigned i = 0; i < 10; i++) {
		ck_assert_uint_ge(use[i], 1);
		ck_assert_uint_le(use[i], 2);
		sum += use[i];
	}
	ck_assert_uint_eq(sum, 12);
	/* Too small to cover all: larger then. */
	subset_uses(10, 2, 1, use);
	for (unsigned i = 0; i < 10; i++)
		ck_assert_uint_eq(use[i], 1);
}
END_TEST

START_TEST(a_subset_that_is_down_is_left)
{
	struct picker_config cfg = config_of(PICKER_LEAST_OUTSTANDING);
	unsigned got[MEMBERS_MAX];

	cfg.subset = 2;
	cfg.caller = 1;
	cfg.callers_n = 2;
	start(&cfg);
	add_n(4);
	count(16, got);
	for (unsigned i = 0; i < 4; i++)
		if (got[i] != 0)
			picker_state_set(&p, &m[i], PICKER_DOWN, 0);
	ck_assert_uint_eq(p.counters.subset_left, 0);
	count(16, got);
	ck_assert_uint_eq(p.counters.subset_left, 16);
	picker_fini(&p);
}
END_TEST

START_TEST(sticky_stays_until_it_can_not)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	int of[8], moved;

	cfg.sticky_entries = 64;
	start(&cfg);
	add_n(4);
	for (unsigned k = 0; k < 8; k++)
		of[k] = pick_sticky(k);
	for (unsigned round = 0; round < 3; round++)
		for (unsigned k = 0; k < 8; k++)
			ck_assert_int_eq(pick_sticky(k), of[k]);
	ck_assert_uint_eq(p.counters.sticky_new, 8);
	ck_assert_uint_eq(p.counters.sticky_kept, 24);
	picker_state_set(&p, &m[of[0]], PICKER_DRAINING, 0);
	moved = pick_sticky(0);
	ck_assert_int_ne(moved, of[0]);
	picker_state_set(&p, &m[of[0]], PICKER_UP, 0);
	ck_assert_int_eq(pick_sticky(0), moved); /* it does not go back */
	/* Another takes the place of one that was removed: it is not the same. */
	picker_remove(&p, &m[of[1]]);
	add((unsigned)of[1], 1, PICKER_NODE_ANY, 0);
	p.counters.sticky_kept = 0;
	(void)pick_sticky(1);
	ck_assert_uint_eq(p.counters.sticky_kept, 0);
	picker_fini(&p);
}
END_TEST

START_TEST(sticky_forgets_the_least_recently_used)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);

	cfg.sticky_entries = 4; /* one set */
	start(&cfg);
	add_n(2);
	for (unsigned k = 0; k < 4; k++)
		(void)pick_sticky(k);
	(void)pick_sticky(0);
	(void)pick_sticky(9); /* instead of 1 */
	ck_assert_uint_eq(p.counters.sticky_forgotten, 1);
	p.counters.sticky_kept = 0;
	(void)pick_sticky(0);
	ck_assert_uint_eq(p.counters.sticky_kept, 1);
	(void)pick_sticky(1);
	ck_assert_uint_eq(p.counters.sticky_kept, 1);
	picker_fini(&p);
}
END_TEST

START_TEST(slow_start_grows)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	unsigned got[MEMBERS_MAX], before = 0;

	cfg.slow_start_ns = 10 * SEC;
	start(&cfg);
	add(0, 1, PICKER_NODE_ANY, 0);
	picker_tick(&p, 20 * SEC);
	ck_assert_uint_eq(p.counters.gauge_warming, 0);
	add(1, 1, PICKER_NODE_ANY, 20 * SEC);
	ck_assert_uint_eq(p.counters.gauge_warming, 1);
	for (unsigned s = 0; s <= 8; s += 4) {
		picker_tick(&p, (20 + s) * SEC);
		count(1100, got);
		/* Shares are w : 1 with w from 0.1 to 1. */
		ck_assert_uint_gt(got[1], before);
		ck_assert_uint_lt(got[1], got[0]);
		before = got[1];
		if (s == 0)
			ck_assert_uint_le(got[1], 101);
	}
	picker_tick(&p, 31 * SEC);
	ck_assert_uint_eq(p.counters.gauge_warming, 0);
	count(1100, got);
	ck_assert_uint_eq(got[0], 550);
	/* Coming back from being down is a start too, from draining it is not. */
	picker_state_set(&p, &m[1], PICKER_DOWN, 31 * SEC);
	picker_state_set(&p, &m[1], PICKER_UP, 31 * SEC);
	ck_assert_uint_eq(p.counters.gauge_warming, 1);
	picker_tick(&p, 60 * SEC);
	picker_state_set(&p, &m[1], PICKER_DRAINING, 60 * SEC);
	picker_state_set(&p, &m[1], PICKER_UP, 60 * SEC);
	ck_assert_uint_eq(p.counters.gauge_warming, 0);
	picker_fini(&p);
}
END_TEST

static void start_ejecting(uint32_t consecutive, uint32_t percent, uint32_t share)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);

	cfg.ejection = (struct picker_ejection){
		.consecutive = consecutive,
		.percent = percent,
		.calls_min = 10,
		.interval_ns = SEC,
		.base_ns = 10 * SEC,
		.max_ns = 25 * SEC,
		.share_percent = share,
	};
	start(&cfg);
}

START_TEST(failures_in_a_row_eject_for_longer_each_time)
{
	unsigned got[MEMBERS_MAX];

	start_ejecting(3, 0, 50);
	add_n(4);
	picker_tick(&p, SEC);
	fail_on(0, 2, SEC);
	picker_begin(&m[0]);
	picker_end(&p, &m[0], PICKER_GOOD, SEC);
	fail_on(0, 2, SEC);
	ck_assert(!m[0].ejected);
	fail_on(0, 1, SEC);
	ck_assert(m[0].ejected);
	count(30, got);
	ck_assert_uint_eq(got[0], 0);
	picker_tick(&p, 11 * SEC - 1);
	ck_assert(m[0].ejected);
	picker_tick(&p, 11 * SEC);
	ck_assert(!m[0].ejected);
	ck_assert_uint_eq(p.counters.uneject, 1);
	fail_on(0, 3, 11 * SEC);
	picker_tick(&p, 31 * SEC - 1);
	ck_assert(m[0].ejected);
	picker_tick(&p, 31 * SEC);
	ck_assert(!m[0].ejected);
	fail_on(0, 3, 31 * SEC);
	picker_tick(&p, 56 * SEC); /* 30 s, but max_ns */
	ck_assert(!m[0].ejected);
	/* Good intervals take the growth back. */
	for (unsigned s = 57; s < 62; s++)
		picker_tick(&p, s * SEC);
	fail_on(0, 3, 62 * SEC);
	picker_tick(&p, 72 * SEC);
	ck_assert(!m[0].ejected);
	picker_fini(&p);
}
END_TEST

START_TEST(a_share_of_failures_ejects)
{
	start_ejecting(0, 40, 100);
	add_n(3);
	picker_tick(&p, SEC);
	/* Too few results say nothing. */
	fail_on(0, 9, SEC);
	picker_tick(&p, 2 * SEC);
	ck_assert(!m[0].ejected);
	for (unsigned i = 0; i < 12; i++) {
		picker_begin(&m[0]);
		picker_end(&p, &m[0], i % 2 != 0 ? PICKER_GOOD : PICKER_FAILED, 2 * SEC);
		picker_begin(&m[1]);
		picker_end(&p, &m[1], i % 3 != 0 ? PICKER_GOOD : PICKER_FAILED, 2 * SEC);
		picker_begin(&m[2]);
		picker_end(&p, &m[2], i % 3 != 0 ? PICKER_NEUTRAL : PICKER_FAILED, 2 * SEC);
	}
	picker_tick(&p, 3 * SEC);
	ck_assert(m[0].ejected);
	ck_assert(!m[1].ejected);
	ck_assert(!m[2].ejected); /* 4 results */
	ck_assert_uint_eq(p.counters.ejected_percent, 1);
	picker_fini(&p);
}
END_TEST

/* gRFC A50: one of five with 60 % against 95 to 100 % is an outlier, with 90 % it is not. */
START_TEST(an_outlier_is_ejected)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	static const unsigned good[2][5] = {{100, 98, 60, 97, 95}, {100, 94, 92, 97, 95}};

	cfg.ejection = (struct picker_ejection){
		.deviation = 1900,
		.members_min = 5,
		.calls_min = 100,
		.interval_ns = SEC,
		.base_ns = SEC,
		.max_ns = SEC,
		.share_percent = 50,
	};
	for (unsigned round = 0; round < 2; round++) {
		start(&cfg);
		add_n(5);
		picker_tick(&p, SEC);
		for (unsigned i = 0; i < 5; i++) {
			for (unsigned k = 0; k < 100; k++) {
				picker_begin(&m[i]);
				picker_end(&p, &m[i],
					   k < good[round][i] ? PICKER_GOOD : PICKER_FAILED, SEC);
			}
		}
		picker_tick(&p, 2 * SEC);
		for (unsigned i = 0; i < 5; i++)
			ck_assert_int_eq(m[i].ejected, round == 0 && i == 2);
		ck_assert_uint_eq(p.counters.ejected_deviation, round == 0);
		picker_fini(&p);
	}
}
END_TEST

START_TEST(ejection_is_bounded)
{
	start_ejecting(1, 0, 50);
	add_n(4);
	picker_tick(&p, SEC);
	for (unsigned i = 0; i < 4; i++)
		fail_on(i, 1, SEC);
	ck_assert_uint_eq(p.counters.gauge_ejected, 2);
	ck_assert_uint_eq(p.counters.eject_refused, 2);
	picker_fini(&p);

	/* With any share, never the last. */
	start_ejecting(1, 0, 100);
	add_n(2);
	fail_on(0, 1, SEC);
	fail_on(1, 1, SEC);
	ck_assert(m[0].ejected);
	ck_assert(!m[1].ejected);
	/* And when the last goes, the others are better than none. */
	picker_state_set(&p, &m[1], PICKER_DOWN, 2 * SEC);
	ck_assert_int_eq(pick(NULL), 0);
	picker_fini(&p);
}
END_TEST

static bool is_even(void *ctx, const struct picker_member *member)
{
	(void)ctx;
	return (member - m) % 2 == 0;
}

static bool is_none(void *ctx, const struct picker_member *member)
{
	(void)ctx;
	(void)member;
	return false;
}

START_TEST(only_what_fits_is_chosen)
{
	static const enum picker_policy policies[] = {
		PICKER_ROUND_ROBIN,  PICKER_WEIGHTED,        PICKER_LEAST_OUTSTANDING,
		PICKER_POWER_OF_TWO, PICKER_CONSISTENT_HASH,
	};

	for (unsigned i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
		struct picker_config cfg = config_of(policies[i]);
		struct picker_key key = {.fits = is_even, .has_hash = true, .has_sticky = true};

		cfg.sticky_entries = 16;
		start(&cfg);
		add_n(6);
		for (unsigned k = 0; k < 60; k++) {
			key.hash = picker_hash(&k, sizeof(k));
			key.sticky = k;
			ck_assert_int_eq(pick(&key) % 2, 0);
		}
		key.fits = is_none;
		ck_assert_int_eq(pick(&key), -1);
		picker_fini(&p);
	}
}
END_TEST

START_TEST(draining_ends_what_it_has)
{
	const struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	uint32_t shared = 0;
	const struct picker_member_config mc = {.id = 9, .weight = 1, .load = &shared};

	start(&cfg);
	add(0, 1, PICKER_NODE_ANY, 0);
	ck_assert_int_eq(picker_add(&p, &m[1], &mc, 0), 0);
	picker_begin(&m[1]);
	picker_begin(&m[1]);
	ck_assert_uint_eq(shared, 2);
	picker_state_set(&p, &m[1], PICKER_DRAINING, 0);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(pick(NULL), 0);
	picker_end(&p, &m[1], PICKER_GOOD, 0);
	ck_assert_uint_eq(p.counters.drained, 0);
	picker_end(&p, &m[1], PICKER_GOOD, 0);
	ck_assert_uint_eq(p.counters.drained, 1);
	picker_remove(&p, &m[1]);
	ck_assert_uint_eq(p.counters.gauge_members, 1);
	picker_fini(&p);
}
END_TEST

/* Another policy while pieces of work are under way: loads, states and what sticks stay. */
START_TEST(another_configuration_keeps_the_members)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	unsigned got[MEMBERS_MAX];
	int stuck;

	cfg.sticky_entries = 16;
	start(&cfg);
	add_n(3);
	picker_begin(&m[1]);
	stuck = pick_sticky(5);
	picker_state_set(&p, &m[2], PICKER_DRAINING, 0);
	ck_assert_int_eq(picker_configure(&p, &cfg), 0); /* the same */
	cfg.policy = PICKER_LEAST_OUTSTANDING;
	ck_assert_int_eq(picker_configure(&p, &cfg), 0);
	count(6, got);
	ck_assert_uint_eq(got[0], 6);
	ck_assert_uint_eq(*m[1].load, 1);
	picker_state_set(&p, &m[2], PICKER_UP, 0);
	ck_assert_int_eq(pick_sticky(5), stuck);
	cfg.policy = PICKER_CONSISTENT_HASH;
	ck_assert_int_eq(picker_configure(&p, &cfg), 0);
	ck_assert_int_eq(pick_hash(9), pick_hash(9));
	ck_assert_uint_gt(p.counters.hashed, 0);
	picker_end(&p, &m[1], PICKER_GOOD, 0);
	cfg.members_max = 2;
	ck_assert_int_eq(picker_configure(&p, &cfg), -SPLIT_E_BASE_LIMIT);
	cfg.members_max = 8;
	cfg.policy = PICKER_WEIGHTED;
	cfg.sticky_entries = 0;
	ck_assert_int_eq(picker_configure(&p, &cfg), 0);
	picker_remove(&p, &m[0]);
	add(0, 2, PICKER_NODE_ANY, 0);
	count(8, got);
	ck_assert_uint_eq(got[0], 4);
	picker_fini(&p);
}
END_TEST

START_TEST(what_is_wrong_is_refused)
{
	struct picker_config cfg = config_of(PICKER_ROUND_ROBIN);
	struct picker_member_config mc = {.id = 1, .weight = 0};

	cfg.members_max = 0;
	ck_assert_int_eq(picker_init(&p, &cfg), -SPLIT_E_BASE_INVALID);
	cfg = config_of(PICKER_ROUND_ROBIN);
	cfg.subset = 1;
	cfg.caller = 1;
	ck_assert_int_eq(picker_init(&p, &cfg), -SPLIT_E_BASE_INVALID);
	cfg = config_of(PICKER_ROUND_ROBIN);
	cfg.members_max = 1;
	start(&cfg);
	ck_assert_int_eq(picker_add(&p, &m[0], &mc, 0), -SPLIT_E_BASE_INVALID);
	mc.weight = 1;
	ck_assert_int_eq(picker_add(&p, &m[0], &mc, 0), 0);
	ck_assert_int_eq(picker_add(&p, &m[1], &mc, 0), -SPLIT_E_BASE_LIMIT);
	picker_fini(&p);
}
END_TEST

BASE_CHECK_MAIN("picker", round_robin_takes_turns, weighted_is_exact_and_interleaved,
		least_outstanding_evens_out_by_weight, power_of_two_keeps_the_greatest_load_low,
		consistent_hash_moves_only_what_it_must,
		consistent_hash_agrees_whatever_the_order_of_coming,
		consistent_hash_follows_weights, consistent_hash_with_one_left,
		locality_goes_near_first_and_spills, subsets_are_even_and_cover_all,
		a_subset_that_is_down_is_left, sticky_stays_until_it_can_not,
		sticky_forgets_the_least_recently_used, slow_start_grows,
		failures_in_a_row_eject_for_longer_each_time, a_share_of_failures_ejects,
		an_outlier_is_ejected, ejection_is_bounded, only_what_fits_is_chosen,
		draining_ends_what_it_has, another_configuration_keeps_the_members,
		what_is_wrong_is_refused)
