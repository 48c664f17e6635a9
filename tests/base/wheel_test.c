#include "base_check.h"

#include <string.h>

#include "base/random.h"
#include "base/wheel.h"

#define TICK WHEEL_TICK_NS

struct probe {
	struct wheel_timer timer;
	struct wheel *wheel;
	uint64_t armed_at_ns;
	uint64_t fired_at_ns;
	uint64_t again_ns; /* re-arm so much later, from fire() */
	unsigned fired;
};

static void probe_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct probe *p = list_entry(t, struct probe, timer);

	ck_assert(!wheel_timer_armed(t));
	ck_assert_uint_ge(now_ns, t->deadline_ns);
	p->fired++;
	p->fired_at_ns = now_ns;
	if (p->again_ns != 0)
		wheel_arm(p->wheel, t, now_ns + p->again_ns);
}

static void probe_init(struct probe *p, struct wheel *w)
{
	memset(p, 0, sizeof(*p));
	p->wheel = w;
	wheel_timer_init(&p->timer, probe_fire);
}

START_TEST(fires_once_and_never_early)
{
	struct wheel w;
	struct probe p;

	wheel_init(&w, 12345);
	probe_init(&p, &w);
	ck_assert_uint_eq(wheel_next_ns(&w), UINT64_MAX);
	wheel_arm(&w, &p.timer, 5 * TICK + 1);
	ck_assert(wheel_timer_armed(&p.timer));
	ck_assert_uint_eq(wheel_advance(&w, 5 * TICK, 10), 0);
	ck_assert_uint_eq(wheel_advance(&w, 5 * TICK + 1, 10), 0); /* late by a tick at most */
	ck_assert_uint_eq(wheel_advance(&w, 6 * TICK, 10), 1);
	ck_assert_uint_eq(p.fired, 1);
	ck_assert(!wheel_timer_armed(&p.timer));
	ck_assert_uint_eq(wheel_advance(&w, 100 * TICK, 10), 0);
	ck_assert_uint_eq(w.armed, 0);
}
END_TEST

START_TEST(past_and_exact_deadlines)
{
	struct wheel w;
	struct probe p;

	wheel_init(&w, 1000 * TICK);
	probe_init(&p, &w);
	wheel_arm(&w, &p.timer, 0);
	ck_assert_uint_le(wheel_next_ns(&w), 1000 * TICK);
	ck_assert_uint_eq(wheel_advance(&w, 1000 * TICK, 1), 1);
	wheel_arm(&w, &p.timer, 1001 * TICK);
	ck_assert_uint_eq(wheel_next_ns(&w), 1001 * TICK);
	ck_assert_uint_eq(wheel_advance(&w, 1001 * TICK, 1), 1);
	/* Time that runs backwards moves nothing. */
	wheel_arm(&w, &p.timer, 1002 * TICK);
	ck_assert_uint_eq(wheel_advance(&w, 5, 1), 0);
	ck_assert_uint_eq(wheel_advance(&w, 1002 * TICK, 1), 1);
}
END_TEST

START_TEST(cancel_and_move)
{
	struct wheel w;
	struct probe p;

	wheel_init(&w, 0);
	probe_init(&p, &w);
	wheel_cancel(&w, &p.timer);
	wheel_arm(&w, &p.timer, 10 * TICK);
	wheel_arm(&w, &p.timer, 70 * TICK);
	ck_assert_uint_eq(w.armed, 1);
	ck_assert_uint_eq(wheel_advance(&w, 20 * TICK, 10), 0);
	wheel_arm(&w, &p.timer, 25 * TICK);
	ck_assert_uint_eq(wheel_advance(&w, 30 * TICK, 10), 1);
	wheel_arm(&w, &p.timer, 5000 * TICK);
	wheel_cancel(&w, &p.timer);
	wheel_cancel(&w, &p.timer);
	ck_assert_uint_eq(wheel_next_ns(&w), UINT64_MAX);
	ck_assert_uint_eq(wheel_advance(&w, 10000 * TICK, 10), 0);
}
END_TEST

START_TEST(whole_range)
{
	struct wheel w;
	struct probe p;

	wheel_init(&w, 0);
	probe_init(&p, &w);
	wheel_arm(&w, &p.timer, UINT64_MAX - TICK);
	ck_assert_uint_eq(wheel_advance(&w, UINT64_MAX / 2, 10), 0);
	ck_assert(wheel_timer_armed(&p.timer));
	ck_assert_uint_lt(wheel_next_ns(&w), UINT64_MAX);
	ck_assert_uint_eq(wheel_advance(&w, UINT64_MAX, 10), 1);
	/* A deadline that no tick can pass stays armed and harms nothing. */
	wheel_arm(&w, &p.timer, UINT64_MAX);
	ck_assert_uint_eq(wheel_advance(&w, UINT64_MAX, 10), 0);
	ck_assert_uint_eq(wheel_next_ns(&w), UINT64_MAX);
	wheel_cancel(&w, &p.timer);
}
END_TEST

START_TEST(budget_bounds_a_burst)
{
	enum { N = 1000 };
	static struct probe p[N];
	struct wheel w;
	unsigned total = 0, calls = 0;

	wheel_init(&w, 0);
	for (int i = 0; i < N; i++) {
		probe_init(&p[i], &w);
		wheel_arm(&w, &p[i].timer, 100000 * TICK); /* one far slot: must be spread first */
	}
	while (total < N) {
		unsigned fired = wheel_advance(&w, 200000 * TICK, 7);

		ck_assert_uint_le(fired, 7);
		total += fired;
		ck_assert_uint_lt(++calls, 1000);
		if (total < N)
			ck_assert_uint_le(wheel_next_ns(&w), 200000 * TICK);
	}
	ck_assert_uint_eq(total, N);
	ck_assert_uint_eq(wheel_advance(&w, 200000 * TICK, 7), 0);
}
END_TEST

static struct probe *victim;

static void fire_cancels(struct wheel_timer *t, uint64_t now_ns)
{
	struct probe *p = list_entry(t, struct probe, timer);

	(void)now_ns;
	p->fired++;
	wheel_cancel(p->wheel, &victim->timer);
}

START_TEST(fire_may_cancel_what_is_due)
{
	struct wheel w;
	struct probe a, b;

	wheel_init(&w, 0);
	probe_init(&a, &w);
	probe_init(&b, &w);
	a.timer.fire = fire_cancels;
	victim = &b;
	wheel_arm(&w, &a.timer, TICK);
	wheel_arm(&w, &b.timer, TICK);
	ck_assert_uint_eq(wheel_advance(&w, TICK, 10), 1);
	ck_assert_uint_eq(b.fired, 0);
	ck_assert(!wheel_timer_armed(&b.timer));
	ck_assert_uint_eq(w.armed, 0);
}
END_TEST

START_TEST(periodic)
{
	struct wheel w;
	struct probe p;

	wheel_init(&w, 0);
	probe_init(&p, &w);
	p.again_ns = 10 * TICK;
	wheel_arm(&w, &p.timer, 10 * TICK);
	for (uint64_t now = 0; now <= 1000 * TICK; now += TICK)
		wheel_advance(&w, now, 10);
	ck_assert_uint_eq(p.fired, 100);
}
END_TEST

/* Against the plain truth: after each advance with a large budget, exactly the timers whose tick
 * has passed have fired; wheel_next_ns never lies beyond the earliest deadline's tick. */
START_TEST(random_against_model)
{
	enum { N = 200 };
	static struct probe p[N];
	struct wheel w;
	struct random r;
	uint64_t now = UINT64_C(987654321987);

	random_seed(&r, 20261121);
	wheel_init(&w, now);
	for (int i = 0; i < N; i++)
		probe_init(&p[i], &w);
	for (int step = 0; step < 60000; step++) {
		struct probe *q = &p[random_below(&r, N)];
		uint64_t span = UINT64_C(1) << random_below(&r, 44);
		uint64_t earliest = UINT64_MAX;

		switch (random_below(&r, 4)) {
		case 0:
		case 1:
			wheel_arm(&w, &q->timer, now + random_below(&r, span));
			break;
		case 2:
			wheel_cancel(&w, &q->timer);
			break;
		default:
			now += random_below(&r, UINT64_C(1) << random_below(&r, 40));
			wheel_advance(&w, now, random_below(&r, 8) == 0 ? 2 : 100000);
			wheel_advance(&w, now, 100000);
			for (int i = 0; i < N; i++)
				if (wheel_timer_armed(&p[i].timer))
					ck_assert_uint_gt(p[i].timer.deadline_ns, now - now % TICK);
			break;
		}
		for (int i = 0; i < N; i++)
			if (wheel_timer_armed(&p[i].timer) && p[i].timer.deadline_ns < earliest)
				earliest = p[i].timer.deadline_ns;
		if (earliest == UINT64_MAX)
			ck_assert_uint_eq(wheel_next_ns(&w), UINT64_MAX);
		else
			ck_assert_uint_lt(wheel_next_ns(&w), earliest + TICK);
	}
}
END_TEST

BASE_CHECK_MAIN("wheel", fires_once_and_never_early, past_and_exact_deadlines, cancel_and_move,
		whole_range, budget_bounds_a_burst, fire_may_cancel_what_is_due, periodic,
		random_against_model)
