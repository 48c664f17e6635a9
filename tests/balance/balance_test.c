#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/balance/balance_internal.h"

#define MS UINT64_C(1000000)

/* An endpoint whose lanes the test sets by hand. */
struct fake {
	struct balance_lane lanes[8];
	int route; /* its address is the route's user pointer */
};

static void fake_lane_get(void *endpoint, unsigned lane, struct balance_lane *out)
{
	*out = ((struct fake *)endpoint)->lanes[lane];
}

static unsigned wanted;

static void fake_wanted(void *endpoint)
{
	(void)endpoint;
	wanted++;
}

static const struct balance_lanes fake_ops = {.lane_get = fake_lane_get, .wanted = fake_wanted};

static struct balance *b;
static struct balance_call *dropped[64];
static size_t dropped_n;

static int dropped_cause;

static void on_dropped(void *ctx, void *call, int cause)
{
	(void)ctx;
	dropped_cause = cause;
	dropped[dropped_n++] = call;
	balance_done(b, call);
}

static const struct balance_service_config services[] = {
	{.name = "t.Rr",
	 .picker = {.policy = PICKER_ROUND_ROBIN, .members_max = 4, .node = PICKER_NODE_ANY},
	 .queue_max = 3,
	 .calls_max = 20,
	 .queue_timeout_ns = 100 * MS,
	 .placed_here = true},
	{.name = "t.Least",
	 .picker = {.policy = PICKER_LEAST_OUTSTANDING, .members_max = 4, .node = PICKER_NODE_ANY},
	 .queue_max = 3,
	 .calls_max = 20,
	 .queue_timeout_ns = 100 * MS,
	 .placed_here = true},
	{.name = "t.Away",
	 .picker = {.policy = PICKER_ROUND_ROBIN, .members_max = 4, .node = PICKER_NODE_ANY},
	 .queue_max = 3,
	 .calls_max = 20,
	 .queue_timeout_ns = 100 * MS,
	 .placed_here = false},
	{.name = "t.Nobody",
	 .picker = {.policy = PICKER_ROUND_ROBIN, .members_max = 4, .node = PICKER_NODE_ANY},
	 .queue_max = 3,
	 .calls_max = 20,
	 .queue_timeout_ns = 100 * MS,
	 .placed_here = true},
};

static void setup(void)
{
	const struct balance_config cfg = {
		.services = services,
		.services_n = 4,
		.services_max = 5,
		.endpoints_max = 4,
		.routes_max = 16,
		.lane_patience_ns = MS,
		.hash_key = {1, 2},
		.dropped = on_dropped,
	};

	dropped_n = 0;
	ck_assert_int_eq(balance_create(&cfg, &b), 0);
}

static void teardown(void)
{
	balance_destroy(b);
}

static struct balance_endpoint *add(struct fake *f, unsigned lanes)
{
	const struct balance_route_config routes[] = {
		{"t.Rr", "A", &f->route, 0},           {"t.Rr", "B", &f->route, 0},
		{"t.Least", "A", &f->route, 0},        {"t.Away", "A", &f->route, 0},
		{"t.Unconfigured", "A", &f->route, 0},
	};
	static uint64_t id;
	const struct balance_endpoint_config cfg = {
		.id = ++id,
		.node = PICKER_NODE_ANY,
		.user = f,
		.ops = &fake_ops,
		.lanes = lanes,
		.lane_depth = 2,
		.lane_depth_max = 8,
		.stall_timeout_ns = 10 * MS,
		.routes = routes,
		.routes_n = 5,
	};
	struct balance_endpoint *e = NULL;

	memset(f, 0, sizeof(*f));
	ck_assert_int_eq(balance_endpoint_add(b, &cfg, &e), 0);
	return e;
}

static int lookup(const char *path, struct balance_method **m)
{
	int err = balance_lookup(b, path, strlen(path), m);

	if (err == 0)
		balance_method_put(b, *m);
	return err;
}

static void *pick(const char *path, struct balance_call *call)
{
	struct balance_method *m = NULL;
	void *route = NULL;

	memset(call, 0, sizeof(*call));
	call->user = call;
	ck_assert_int_eq(lookup(path, &m), 0);
	if (balance_pick(b, m, NULL, call, &route) != 0)
		return NULL;
	return route;
}

START_TEST(lookup_tells_why_not)
{
	struct balance_method *m = NULL;
	struct fake f;
	struct balance_endpoint *e;

	ck_assert_int_eq(lookup("/t.Rr/A", &m), -SPLIT_E_BALANCE_NONE);
	e = add(&f, 1);
	ck_assert_uint_eq(balance_counters_get(b)->routes_refused, 1);
	ck_assert_int_eq(lookup("/t.Rr/A", &m), 0);
	ck_assert_int_eq(lookup("/t.Rr/C", &m), -SPLIT_E_BALANCE_METHOD);
	ck_assert_int_eq(lookup("/t.Nobody/A", &m), -SPLIT_E_BALANCE_NONE);
	ck_assert_int_eq(lookup("/t.Away/A", &m), -SPLIT_E_BALANCE_ELSEWHERE);
	ck_assert_int_eq(lookup("/t.Unconfigured/A", &m), -SPLIT_E_BALANCE_UNKNOWN);
	ck_assert_int_eq(lookup("/", &m), -SPLIT_E_BALANCE_UNKNOWN);
	ck_assert_int_eq(lookup("", &m), -SPLIT_E_BALANCE_UNKNOWN);
	ck_assert_int_eq(lookup("x", &m), -SPLIT_E_BALANCE_UNKNOWN);
	ck_assert_int_eq(lookup("//", &m), -SPLIT_E_BALANCE_UNKNOWN);
	balance_endpoint_remove(b, e);
	ck_assert_int_eq(lookup("/t.Rr/A", &m), -SPLIT_E_BALANCE_NONE);
	ck_assert_int_eq(lookup("/t.Rr/C", &m), -SPLIT_E_BALANCE_NONE);
}
END_TEST

START_TEST(round_robin_takes_turns)
{
	struct fake f[3];
	struct balance_endpoint *e[3];
	struct balance_call c[9];

	for (int i = 0; i < 3; i++)
		e[i] = add(&f[i], 1);
	for (int i = 0; i < 9; i++)
		ck_assert_ptr_eq(pick("/t.Rr/B", &c[i]), c[i % 3].endpoint == e[0]   ? &f[0].route
							 : c[i % 3].endpoint == e[1] ? &f[1].route
										     : &f[2].route);
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(balance_endpoint_outstanding(e[i]), 3);
	for (int i = 0; i < 9; i++)
		balance_done(b, &c[i]);
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(balance_endpoint_outstanding(e[i]), 0);
		balance_endpoint_remove(b, e[i]);
	}
}
END_TEST

START_TEST(least_outstanding_evens_out)
{
	struct fake f[2];
	struct balance_endpoint *e[2] = {add(&f[0], 1), add(&f[1], 1)};
	struct balance_call c[4];

	(void)pick("/t.Least/A", &c[0]);
	(void)pick("/t.Least/A", &c[1]);
	ck_assert_ptr_ne(c[0].endpoint, c[1].endpoint);
	balance_done(b, &c[1]);
	for (int i = 1; i < 3; i++) {
		(void)pick("/t.Least/A", &c[i]);
		if (i == 1)
			ck_assert_ptr_ne(c[0].endpoint, c[1].endpoint);
	}
	ck_assert_uint_eq(balance_endpoint_outstanding(e[0]) + balance_endpoint_outstanding(e[1]),
			  3);
	for (int i = 0; i < 3; i++)
		balance_done(b, &c[i]);
	balance_done(b, &c[0]); /* a second time changes nothing */
	ck_assert_uint_eq(balance_endpoint_outstanding(e[0]), 0);
	ck_assert_uint_eq(balance_endpoint_outstanding(e[1]), 0);
}
END_TEST

START_TEST(polling_then_running_then_parked)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 3);
	struct balance_call c;
	unsigned lane = 99;

	(void)e;
	f.lanes[0].state = BALANCE_LANE_PARKED;
	f.lanes[1].state = BALANCE_LANE_RUNNING;
	f.lanes[2].state = BALANCE_LANE_POLLING;
	(void)pick("/t.Rr/A", &c);
	ck_assert_int_eq(balance_place(b, &c, MS, &lane), 0);
	ck_assert_uint_eq(lane, 2);
	f.lanes[2] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	ck_assert_int_eq(balance_place(b, &c, MS, &lane), 0);
	ck_assert_uint_eq(lane, 1);
	f.lanes[1].ahead = 2;
	ck_assert_int_eq(balance_place(b, &c, MS, &lane), 0);
	ck_assert_uint_eq(lane, 0);
	f.lanes[0].state = BALANCE_LANE_RETIRED;
	ck_assert_int_eq(balance_place(b, &c, MS, &lane), SPLIT_AGAIN);
	f.lanes[1].ahead = 1;
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c);
	ck_assert_uint_eq(lane, 1);
	ck_assert_ptr_null(balance_next(b, e, MS, &lane));
	balance_done(b, &c);
}
END_TEST

static uint64_t now_ns = 10 * MS;

/* One call, with so many ahead in the only lane. It is done at once unless it was queued. */
static int place_behind(struct fake *f, uint32_t ahead, struct balance_call *c)
{
	unsigned lane = 99;
	int err;

	f->lanes[0].ahead = ahead;
	(void)pick("/t.Rr/A", c);
	err = balance_place(b, c, now_ns, &lane);
	if (err == 0) {
		ck_assert_uint_eq(lane, 0);
		balance_done(b, c);
	}
	return err;
}

/* The lane is found empty while a call waits. */
static void lane_starves(struct fake *f, struct balance_endpoint *e, struct balance_call *c)
{
	unsigned lane = 99;

	f->lanes[0].ahead = 0;
	ck_assert_ptr_eq(balance_next(b, e, 10 * MS, &lane), c);
	balance_done(b, c);
}

START_TEST(a_brisk_worker_gets_more_ahead_until_it_is_not)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_call c;

	f.lanes[0].state = BALANCE_LANE_RUNNING;
	for (uint32_t bound = 2; bound <= 8; bound *= 2) {
		ck_assert_int_eq(place_behind(&f, bound - 1, &c), 0);
		ck_assert_int_eq(place_behind(&f, bound, &c), SPLIT_AGAIN);
		lane_starves(&f, e, &c);
	}
	ck_assert_int_eq(place_behind(&f, 7, &c), 0);
	ck_assert_int_eq(place_behind(&f, 8, &c), SPLIT_AGAIN); /* lane_depth_max */
	lane_starves(&f, e, &c);
	ck_assert_uint_ge(balance_counters_get(b)->placed_deep, 3);
	/* A slot has waited 2 ms: half as much, and once for all that was published before. */
	f.lanes[0].oldest_ns = 8 * MS;
	ck_assert_int_eq(place_behind(&f, 4, &c), SPLIT_AGAIN);
	balance_done(b, &c);
	f.lanes[0].oldest_ns = 9 * MS - 1;
	ck_assert_int_eq(place_behind(&f, 3, &c), 0);
	/* One that was published after that: half again, down to lane_depth. */
	now_ns = 20 * MS;
	for (unsigned i = 0; i < 3; i++, now_ns += 10 * MS) {
		f.lanes[0].oldest_ns = now_ns - 2 * MS;
		ck_assert_int_eq(place_behind(&f, 2, &c), SPLIT_AGAIN);
		balance_done(b, &c);
		ck_assert_int_eq(place_behind(&f, 1, &c), 0);
	}
	now_ns = 10 * MS;
}
END_TEST

START_TEST(a_brisk_worker_does_not_keep_others_parked)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 2);
	struct balance_call c, other;
	unsigned lane = 99;

	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	f.lanes[1] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	(void)pick("/t.Rr/A", &c);
	ck_assert_int_eq(balance_place(b, &c, MS, &lane), SPLIT_AGAIN);
	f.lanes[0].ahead = 0;
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c);
	ck_assert_uint_eq(lane, 0);
	f.lanes[0].ahead = 2;
	f.lanes[1] = (struct balance_lane){.state = BALANCE_LANE_PARKED};
	(void)pick("/t.Rr/A", &other);
	ck_assert_int_eq(balance_place(b, &other, MS, &lane), 0);
	ck_assert_uint_eq(lane, 1);
	balance_done(b, &other);
	balance_done(b, &c);
}
END_TEST

START_TEST(a_full_ring_is_not_chosen)
{
	struct fake f;
	struct balance_call c;
	unsigned lane = 99;

	(void)add(&f, 2);
	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_POLLING, .full = true};
	f.lanes[1] = (struct balance_lane){.state = BALANCE_LANE_PARKED};
	(void)pick("/t.Rr/A", &c);
	ck_assert_int_eq(balance_place(b, &c, MS, &lane), 0);
	ck_assert_uint_eq(lane, 1);
	balance_done(b, &c);
}
END_TEST

START_TEST(impatience_wakes_a_parked_worker)
{
	struct fake f;
	struct balance_call c;
	unsigned lane = 99;

	(void)add(&f, 2);
	f.lanes[0] =
		(struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 1, .oldest_ns = MS};
	f.lanes[1] = (struct balance_lane){.state = BALANCE_LANE_PARKED};
	(void)pick("/t.Rr/A", &c);
	ck_assert_int_eq(balance_place(b, &c, 1 * MS, &lane), 0);
	ck_assert_uint_eq(lane, 0);
	ck_assert_int_eq(balance_place(b, &c, 3 * MS, &lane), 0);
	ck_assert_uint_eq(lane, 1);
	/* Nobody better: the late lane is still used, up to its depth. */
	f.lanes[1].state = BALANCE_LANE_RETIRED;
	ck_assert_int_eq(balance_place(b, &c, 3 * MS, &lane), 0);
	ck_assert_uint_eq(lane, 0);
	ck_assert_uint_eq(balance_counters_get(b)->placed_late, 1);
	f.lanes[0].oldest_ns = 4 * MS; /* it moved */
	f.lanes[1].state = BALANCE_LANE_PARKED;
	ck_assert_int_eq(balance_place(b, &c, 4 * MS, &lane), 0);
	ck_assert_uint_eq(lane, 0);
	balance_done(b, &c);
}
END_TEST

/* A worker that is stuck or off its CPU gets a call only when no other can, and then, or when none
 * is left at all, a retired one is asked for. */
START_TEST(a_stuck_worker_is_the_last_resort)
{
	struct balance_call c[4];
	struct fake f;
	struct balance_endpoint *e = add(&f, 3);
	unsigned lane = 99;

	wanted = 0;
	for (int i = 0; i < 4; i++)
		(void)pick("/t.Rr/A", &c[i]);
	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_POLLING, .last_resort = true};
	f.lanes[1] = (struct balance_lane){.state = BALANCE_LANE_PARKED};
	f.lanes[2] = (struct balance_lane){.state = BALANCE_LANE_RETIRED};
	ck_assert_int_eq(balance_place(b, &c[0], MS, &lane), 0);
	ck_assert_uint_eq(lane, 1);
	ck_assert_uint_eq(wanted, 0);
	f.lanes[1].ahead = 2;
	f.lanes[1].full = true;
	ck_assert_int_eq(balance_place(b, &c[1], MS, &lane), 0);
	ck_assert_uint_eq(lane, 0);
	ck_assert_uint_eq(wanted, 1);
	f.lanes[0].full = true;
	ck_assert_int_eq(balance_place(b, &c[2], MS, &lane), SPLIT_AGAIN);
	ck_assert_uint_eq(wanted, 2);
	ck_assert_uint_eq(balance_endpoint_waited(e, 5 * MS), 4 * MS);
	balance_done(b, &c[2]);
	ck_assert_uint_eq(balance_endpoint_waited(e, 5 * MS), 0);
	/* Nobody is left to be asked for. */
	f.lanes[2].state = BALANCE_LANE_RUNNING;
	f.lanes[2].full = true;
	ck_assert_int_eq(balance_place(b, &c[3], 2 * MS, &lane), SPLIT_AGAIN);
	ck_assert_uint_eq(wanted, 2);
	for (int i = 0; i < 4; i++)
		balance_done(b, &c[i]);
}
END_TEST

START_TEST(queue_is_bounded_by_service_and_in_order)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_call c[6];
	unsigned lane;

	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	for (int i = 0; i < 3; i++) {
		(void)pick("/t.Rr/A", &c[i]);
		ck_assert_int_eq(balance_place(b, &c[i], MS, &lane), SPLIT_AGAIN);
	}
	(void)pick("/t.Rr/A", &c[3]);
	ck_assert_int_eq(balance_place(b, &c[3], MS, &lane), -SPLIT_E_BALANCE_FULL);
	balance_done(b, &c[3]);
	(void)pick("/t.Least/A", &c[4]);
	ck_assert_int_eq(balance_place(b, &c[4], MS, &lane), SPLIT_AGAIN);
	ck_assert_uint_eq(balance_queued(b), 4);

	balance_done(b, &c[1]); /* cancelled while it waited */
	f.lanes[0].ahead = 0;
	(void)pick("/t.Rr/A", &c[5]); /* does not overtake */
	ck_assert_int_eq(balance_place(b, &c[5], MS, &lane), SPLIT_AGAIN);
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[0]);
	balance_unplace(b, &c[0]);
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[0]);
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[4]); /* the other service's turn */
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[2]);
	ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[5]);
	ck_assert_ptr_null(balance_next(b, e, MS, &lane));
	ck_assert_uint_eq(balance_queued(b), 0);
	balance_done(b, &c[0]);
	balance_done(b, &c[2]);
	balance_done(b, &c[4]);
	balance_done(b, &c[5]);
	ck_assert_uint_eq(balance_endpoint_outstanding(e), 0);
}
END_TEST

START_TEST(a_stalled_endpoint_is_ejected_and_returns)
{
	struct fake f[2];
	struct balance_endpoint *e[2] = {add(&f[0], 2), add(&f[1], 1)};
	struct balance_call c[3], d;
	unsigned lane;

	f[0].lanes[0] =
		(struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2, .oldest_ns = MS};
	f[0].lanes[1] =
		(struct balance_lane){.state = BALANCE_LANE_PARKED, .ahead = 2, .oldest_ns = MS};
	for (int i = 0; i < 3; i++)
		(void)pick("/t.Rr/A", &c[i]); /* e0, e1, e0 */
	ck_assert_ptr_eq(c[0].endpoint, e[0]);
	ck_assert_int_eq(balance_place(b, &c[0], MS, &lane), SPLIT_AGAIN);
	balance_tick(b, MS);
	balance_tick(b, 10 * MS);
	ck_assert(!balance_endpoint_ejected(e[0]));
	f[0].lanes[1].oldest_ns = 12 * MS; /* one lane moves: the endpoint stays */
	balance_tick(b, 12 * MS);
	ck_assert(!balance_endpoint_ejected(e[0]));
	balance_tick(b, 23 * MS);
	ck_assert(balance_endpoint_ejected(e[0]));
	ck_assert_uint_eq(dropped_n, 1);
	ck_assert_ptr_eq(dropped[0], &c[0]);
	for (int i = 0; i < 3; i++) {
		ck_assert_ptr_eq(pick("/t.Rr/A", &d), &f[1].route);
		balance_done(b, &d);
	}
	f[0].lanes[0].oldest_ns = 0;
	f[0].lanes[0].ahead = 0;
	balance_tick(b, 24 * MS);
	ck_assert(!balance_endpoint_ejected(e[0]));
	ck_assert_uint_eq(balance_counters_get(b)->restored, 1);
	balance_done(b, &c[1]);
	balance_done(b, &c[2]);
}
END_TEST

START_TEST(all_ejected_is_unavailable)
{
	struct balance_method *m = NULL;
	struct fake f;

	(void)add(&f, 1);
	f.lanes[0] =
		(struct balance_lane){.state = BALANCE_LANE_POLLING, .ahead = 1, .oldest_ns = MS};
	balance_tick(b, MS);
	balance_tick(b, 20 * MS);
	ck_assert_int_eq(lookup("/t.Rr/A", &m), -SPLIT_E_BALANCE_NONE);
}
END_TEST

START_TEST(an_idle_parked_endpoint_is_never_ejected)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);

	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_PARKED};
	for (uint64_t t = 1; t < 100; t++)
		balance_tick(b, t * 10 * MS);
	ck_assert(!balance_endpoint_ejected(e));
}
END_TEST

START_TEST(limits_refuse_and_nothing_leaks)
{
	struct fake f[5];
	struct balance_endpoint *e[4];
	struct balance_endpoint_config cfg = {
		.user = &f[4], .ops = &fake_ops, .lanes = 1, .lane_depth = 2};
	struct balance_endpoint *none = NULL;
	struct balance_method *m;

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 4; i++)
			e[i] = add(&f[i], 1); /* 4 × 4 routes = routes_max */
		ck_assert_int_eq(balance_endpoint_add(b, &cfg, &none), -SPLIT_E_BASE_LIMIT);
		ck_assert_ptr_null(none);
		ck_assert_int_eq(lookup("/t.Rr/B", &m), 0);
		for (int i = 0; i < 4; i++)
			balance_endpoint_remove(b, e[i]);
	}
	ck_assert_uint_eq(balance_counters_get(b)->routes_refused, 12);
	cfg.lanes = BALANCE_LANES_MAX + 1;
	ck_assert_int_eq(balance_endpoint_add(b, &cfg, &none), -SPLIT_E_BASE_INVALID);
}
END_TEST

START_TEST(a_queued_call_is_given_back_after_its_timeout)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_call c[2];
	unsigned lane;

	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	for (uint64_t i = 0; i < 2; i++) {
		(void)pick("/t.Rr/A", &c[i]);
		ck_assert_int_eq(balance_place(b, &c[i], MS + i * 50 * MS, &lane), SPLIT_AGAIN);
	}
	balance_tick(b, 100 * MS);
	ck_assert_uint_eq(dropped_n, 0);
	balance_tick(b, 101 * MS);
	ck_assert_uint_eq(dropped_n, 1);
	ck_assert_ptr_eq(dropped[0], &c[0]);
	ck_assert_int_eq(dropped_cause, -SPLIT_E_BALANCE_TIMEOUT);
	ck_assert_uint_eq(balance_endpoint_queued(e), 1);
	balance_done(b, &c[1]);
}
END_TEST

START_TEST(a_service_has_at_most_calls_max)
{
	struct fake f;
	struct balance_call c[20], one_more;

	(void)add(&f, 1);
	for (int i = 0; i < 20; i++)
		ck_assert_ptr_nonnull(pick("/t.Rr/A", &c[i]));
	ck_assert_ptr_null(pick("/t.Rr/A", &one_more));
	ck_assert_uint_eq(balance_counters_get(b)->calls_full, 1);
	ck_assert_ptr_nonnull(pick("/t.Least/A", &one_more));
	for (int i = 0; i < 20; i++)
		balance_done(b, &c[i]);
	balance_done(b, &one_more);
}
END_TEST

START_TEST(a_held_method_outlives_its_endpoints)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_method *m = NULL, *again = NULL;
	struct balance_call c = {.user = &c};
	void *route = NULL;

	ck_assert_int_eq(balance_lookup(b, "/t.Rr/A", 7, &m), 0);
	ck_assert_ptr_eq(balance_method_any(m), &f.route);
	ck_assert_uint_eq(balance_method_service(b, m), 0);
	balance_endpoint_remove(b, e);
	ck_assert_ptr_null(balance_method_any(m));
	ck_assert_int_eq(balance_pick(b, m, NULL, &c, &route), -SPLIT_E_BALANCE_NONE);
	ck_assert_int_eq(lookup("/t.Rr/A", &again), -SPLIT_E_BALANCE_NONE);
	e = add(&f, 1);
	ck_assert_int_eq(lookup("/t.Rr/A", &again), 0);
	ck_assert_ptr_eq(again, m);
	ck_assert_int_eq(balance_pick(b, m, NULL, &c, &route), 0);
	balance_done(b, &c);
	balance_endpoint_remove(b, e);
	balance_method_put(b, m);
}
END_TEST

static int looked_up(const char *path)
{
	struct balance_method *m;
	int err = balance_lookup(b, path, strlen(path), &m);

	if (err == 0)
		balance_method_put(b, m);
	return err;
}

START_TEST(services_and_routes_come_and_go)
{
	struct fake f = {0};
	struct balance_endpoint *e = add(&f, 2);
	const struct balance_service_config fifth = {
		.name = "t.Unconfigured",
		.picker = {.policy = PICKER_ROUND_ROBIN, .members_max = 4, .node = PICKER_NODE_ANY},
		.queue_max = 4,
		.calls_max = 4,
		.placed_here = true};
	const struct balance_route_config route = {"t.Unconfigured", "A", &f.route, 1};

	ck_assert_int_eq(looked_up("/t.Unconfigured/A"), -SPLIT_E_BALANCE_UNKNOWN);
	ck_assert_int_eq(balance_route_add(b, e, &route), -SPLIT_E_BASE_LIMIT);
	ck_assert_int_eq(balance_service_set(b, 6, &fifth), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(balance_service_set(b, 4, &fifth), 0);
	ck_assert_int_eq(balance_service_set(b, 5, &fifth), -SPLIT_E_BASE_LIMIT);
	ck_assert_int_eq(looked_up("/t.Unconfigured/A"), -SPLIT_E_BALANCE_NONE);
	ck_assert_int_eq(balance_route_add(b, e, &route), 0);
	ck_assert_int_eq(looked_up("/t.Unconfigured/A"), 0);
	ck_assert_int_eq(balance_service_set(b, 4, NULL), 0);
	balance_route_remove(b, e, &route);
	balance_route_remove(b, e, &route); /* one it does not have */
	ck_assert_int_eq(looked_up("/t.Unconfigured/A"), -SPLIT_E_BALANCE_UNKNOWN);
	ck_assert_int_eq(looked_up("/t.Rr/A"), 0);
	balance_endpoint_remove(b, e);
}
END_TEST

START_TEST(closed_endpoint_gets_nothing_but_keeps_its_calls)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_method *m;
	struct balance_call c;

	(void)pick("/t.Rr/A", &c);
	balance_endpoint_close(b, e);
	ck_assert_int_eq(lookup("/t.Rr/A", &m), -SPLIT_E_BALANCE_NONE);
	ck_assert_uint_eq(balance_endpoint_outstanding(e), 1);
	balance_done(b, &c);
	balance_endpoint_remove(b, e);
}
END_TEST

static void pick_for(uint64_t flow, struct balance_call *c)
{
	(void)pick("/t.Rr/A", c);
	c->flow = flow;
}

/* One connection has two calls queued before another's first: they take turns. */
START_TEST(flows_take_turns)
{
	static const uint64_t flows[6] = {7, 7, 7, 8, 9, 8};
	static const int order[6] = {0, 3, 4, 1, 5, 2};
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_call c[6];
	unsigned lane;

	b->services[0].queue_max = 10;
	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	for (int i = 0; i < 6; i++) {
		pick_for(flows[i], &c[i]);
		ck_assert_int_eq(balance_place(b, &c[i], MS, &lane), SPLIT_AGAIN);
	}
	f.lanes[0].ahead = 0;
	for (int i = 0; i < 6; i++) {
		ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[order[i]]);
		balance_done(b, &c[order[i]]);
	}
	ck_assert_ptr_null(balance_next(b, e, MS, &lane));
	ck_assert_uint_eq(pool_in_use(&b->flows_pool), 0);
	balance_endpoint_remove(b, e);
}
END_TEST

START_TEST(a_full_queue_takes_from_the_longest_flow)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_call c[6];
	unsigned lane;

	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	for (int i = 0; i < 3; i++) {
		pick_for(7, &c[i]);
		ck_assert_int_eq(balance_place(b, &c[i], MS, &lane), SPLIT_AGAIN);
	}
	/* Its own last call is no worse than its newest. */
	pick_for(7, &c[3]);
	ck_assert_int_eq(balance_place(b, &c[3], MS, &lane), -SPLIT_E_BALANCE_FULL);
	balance_done(b, &c[3]);
	pick_for(8, &c[4]);
	ck_assert_int_eq(balance_place(b, &c[4], MS, &lane), SPLIT_AGAIN);
	ck_assert_uint_eq(dropped_n, 0);
	ck_assert(c[2].queued); /* it goes nowhere else */
	balance_tick(b, 2 * MS);
	ck_assert_uint_eq(dropped_n, 1);
	ck_assert_ptr_eq(dropped[0], &c[2]);
	ck_assert_int_eq(dropped_cause, -SPLIT_E_BALANCE_FULL);
	/* Two against one: nobody gives way. */
	pick_for(8, &c[5]);
	ck_assert_int_eq(balance_place(b, &c[5], MS, &lane), -SPLIT_E_BALANCE_FULL);
	ck_assert_uint_eq(balance_queued(b), 3);
	/* One that is ended before it is told. */
	balance_done(b, &c[5]);
	b->services[0].queue_max = 2;
	pick_for(9, &c[5]);
	ck_assert_int_eq(balance_place(b, &c[5], MS, &lane), SPLIT_AGAIN);
	balance_done(b, &c[1]);
	balance_tick(b, 3 * MS);
	ck_assert_uint_eq(dropped_n, 1);
	balance_done(b, &c[0]);
	balance_done(b, &c[4]);
	balance_done(b, &c[5]);
	ck_assert_uint_eq(balance_queued(b), 0);
	balance_endpoint_remove(b, e);
}
END_TEST

/* More connections than flows: they share one, and nobody is lost. */
START_TEST(flows_may_run_out)
{
	struct fake f;
	struct balance_endpoint *e = add(&f, 1);
	struct balance_call c[5];
	unsigned lane, n = 0;

	b->services[0].queue_max = 10;
	while (pool_get(&b->flows_pool) != NULL)
		n++;
	ck_assert_uint_eq(n, 1024);
	f.lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	for (unsigned i = 0; i < 5; i++) {
		pick_for(i, &c[i]);
		ck_assert_int_eq(balance_place(b, &c[i], MS, &lane), SPLIT_AGAIN);
	}
	f.lanes[0].ahead = 0;
	for (int i = 0; i < 3; i++) {
		ck_assert_ptr_eq(balance_next(b, e, MS, &lane), &c[i]);
		balance_done(b, &c[i]);
	}
	balance_tick(b, 200 * MS);
	ck_assert_uint_eq(dropped_n, 2);
	ck_assert_uint_eq(balance_queued(b), 0);
	balance_endpoint_remove(b, e);
}
END_TEST

START_TEST(a_draining_endpoint_finishes_and_comes_back)
{
	struct fake f[2];
	struct balance_endpoint *e[2] = {add(&f[0], 1), add(&f[1], 1)};
	struct balance_method *m = NULL;
	struct balance_call c[4], d;
	unsigned lane;

	for (int i = 0; i < 4; i++)
		(void)pick("/t.Rr/A", &c[i]);
	f[0].lanes[0] = (struct balance_lane){.state = BALANCE_LANE_RUNNING, .ahead = 2};
	balance_endpoint_drain(b, e[0], true);
	for (int i = 0; i < 4; i++) {
		ck_assert_ptr_eq(pick("/t.Rr/A", &d), &f[1].route);
		balance_done(b, &d);
		/* What it has goes on: it is placed, and queued where there is no room. */
		if (c[i].endpoint == e[0])
			ck_assert_int_eq(balance_place(b, &c[i], MS, &lane), SPLIT_AGAIN);
	}
	f[0].lanes[0].ahead = 0;
	ck_assert_ptr_nonnull(balance_next(b, e[0], MS, &lane));
	ck_assert(!balance_endpoint_drained(e[0]));
	balance_endpoint_drain(b, e[1], true);
	ck_assert_int_eq(lookup("/t.Rr/A", &m), -SPLIT_E_BALANCE_NONE);
	for (int i = 0; i < 4; i++)
		balance_done(b, &c[i]);
	ck_assert(balance_endpoint_drained(e[0]));
	ck_assert(balance_endpoint_drained(e[1]));
	ck_assert_uint_eq(balance_counters_get(b)->drained, 2);
	balance_endpoint_drain(b, e[0], false);
	ck_assert(!balance_endpoint_drained(e[0]));
	ck_assert_ptr_eq(pick("/t.Rr/A", &d), &f[0].route);
	balance_done(b, &d);
	balance_endpoint_remove(b, e[0]);
	balance_endpoint_remove(b, e[1]);
}
END_TEST

/* An endpoint that does not serve a method is not chosen for it, whatever the turn. */
START_TEST(only_who_serves_the_method_is_picked)
{
	struct fake f[2];
	struct balance_endpoint *e[2] = {add(&f[0], 1), NULL};
	const struct balance_route_config only = {"t.Rr", "A", &f[1].route, 3};
	const struct balance_endpoint_config cfg = {
		.id = 77,
		.node = PICKER_NODE_ANY,
		.user = &f[1],
		.ops = &fake_ops,
		.lanes = 1,
		.lane_depth = 2,
		.stall_timeout_ns = 10 * MS,
		.routes = &only,
		.routes_n = 1,
	};
	struct balance_call c;

	ck_assert_int_eq(balance_endpoint_add(b, &cfg, &e[1]), 0);
	for (int i = 0; i < 6; i++) {
		ck_assert_ptr_eq(pick("/t.Rr/B", &c), &f[0].route);
		balance_done(b, &c);
	}
	ck_assert_uint_eq(balance_service_counters(b, 0)->gauge_members, 2);
	balance_endpoint_remove(b, e[0]);
	ck_assert_ptr_eq(pick("/t.Rr/A", &c), &f[1].route);
	/* It is closed while it has a call, whose end is nobody's business any more. */
	balance_endpoint_close(b, e[1]);
	c.result = PICKER_FAILED;
	balance_done(b, &c);
	ck_assert_uint_eq(balance_service_counters(b, 0)->failed, 0);
	balance_endpoint_remove(b, e[1]);
	ck_assert_uint_eq(balance_service_counters(b, 0)->gauge_members, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("balance");
	TCase *tc = tcase_create("balance");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, lookup_tells_why_not);
	tcase_add_test(tc, round_robin_takes_turns);
	tcase_add_test(tc, least_outstanding_evens_out);
	tcase_add_test(tc, polling_then_running_then_parked);
	tcase_add_test(tc, a_brisk_worker_gets_more_ahead_until_it_is_not);
	tcase_add_test(tc, a_brisk_worker_does_not_keep_others_parked);
	tcase_add_test(tc, a_full_ring_is_not_chosen);
	tcase_add_test(tc, impatience_wakes_a_parked_worker);
	tcase_add_test(tc, a_stuck_worker_is_the_last_resort);
	tcase_add_test(tc, queue_is_bounded_by_service_and_in_order);
	tcase_add_test(tc, a_stalled_endpoint_is_ejected_and_returns);
	tcase_add_test(tc, all_ejected_is_unavailable);
	tcase_add_test(tc, an_idle_parked_endpoint_is_never_ejected);
	tcase_add_test(tc, limits_refuse_and_nothing_leaks);
	tcase_add_test(tc, a_queued_call_is_given_back_after_its_timeout);
	tcase_add_test(tc, a_service_has_at_most_calls_max);
	tcase_add_test(tc, a_held_method_outlives_its_endpoints);
	tcase_add_test(tc, services_and_routes_come_and_go);
	tcase_add_test(tc, closed_endpoint_gets_nothing_but_keeps_its_calls);
	tcase_add_test(tc, flows_take_turns);
	tcase_add_test(tc, a_full_queue_takes_from_the_longest_flow);
	tcase_add_test(tc, flows_may_run_out);
	tcase_add_test(tc, a_draining_endpoint_finishes_and_comes_back);
	tcase_add_test(tc, only_who_serves_the_method_is_picked);
	suite_add_tcase(s, tc);
	runner = srunner_create(s);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
