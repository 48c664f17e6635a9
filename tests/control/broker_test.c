/* The broker's plan: one step at a time, no core ever lost, floors and ceilings held. */
#include <check.h>
#include <stdlib.h>

#include "daemon/control/control_internal.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static void step(struct broker_want *w, unsigned n, unsigned *spare, int from, int to)
{
	struct broker_move m = broker_step(w, n, *spare);

	ck_assert_int_eq(m.to, to);
	ck_assert_int_eq(m.from, from);
	if (to < 0)
		return;
	w[to].has++;
	if (from < 0)
		--*spare;
	else
		w[from].has--;
}

/* Floors first, then load; nobody gets more than he has workers or may have. */
START_TEST(floors_then_load)
{
	struct broker_want w[] = {
		{.floor = 1, .ceiling = 4, .workers = 4},
		{.floor = 2, .ceiling = 2, .workers = 4},
	};
	unsigned spare = 5;

	step(w, N(w), &spare, -1, 0);
	step(w, N(w), &spare, -1, 1);
	step(w, N(w), &spare, -1, 1);
	step(w, N(w), &spare, -1, -1); /* nobody needs what is left */
	w[1].busy_permille = 2000;
	w[1].waits = true;
	step(w, N(w), &spare, -1, -1); /* at its ceiling */
	w[0].busy_permille = 900;
	step(w, N(w), &spare, -1, 0);
	step(w, N(w), &spare, -1, -1);
	w[0].waits = true;
	step(w, N(w), &spare, -1, 0);
	ck_assert_uint_eq(spare, 0);
}
END_TEST

/* Without a free core it comes from who can spare it, never from below the floor. */
START_TEST(from_who_can_spare)
{
	struct broker_want w[] = {
		{.has = 1,
		 .floor = 1,
		 .ceiling = 8,
		 .workers = 8,
		 .busy_permille = 950,
		 .waits = true},
		{.has = 3, .floor = 1, .ceiling = 8, .workers = 8, .busy_permille = 500},
		{.has = 3, .floor = 3, .ceiling = 8, .workers = 8, .busy_permille = 0},
	};
	unsigned spare = 0;

	step(w, N(w), &spare, 1, 0);
	w[0].busy_permille = 1900;
	step(w, N(w), &spare, 1, 0);
	w[0].busy_permille = 2900;
	step(w, N(w), &spare, -1, -1);
}
END_TEST

/* Two that both want everything end with about as many, and stay there. */
START_TEST(rivals_share)
{
	struct broker_want w[] = {
		{.has = 7, .floor = 1, .ceiling = 8, .workers = 8},
		{.has = 1, .floor = 1, .ceiling = 8, .workers = 8},
	};

	for (int i = 0; i < 20; i++) {
		struct broker_move m;

		for (unsigned k = 0; k < 2; k++) {
			w[k].busy_permille = 1000 * w[k].has;
			w[k].waits = true;
		}
		m = broker_step(w, 2, 0);
		if (m.to < 0)
			break;
		w[m.to].has++;
		w[m.from].has--;
	}
	ck_assert_uint_eq(w[0].has + w[1].has, 8);
	ck_assert_uint_ge(w[0].has, 3);
	ck_assert_uint_ge(w[1].has, 3);
	ck_assert_int_eq(broker_step(w, 2, 0).to, -1);
}
END_TEST

/* Who claims more than can be is not believed: the other gets his share. */
START_TEST(a_liar_gets_no_more)
{
	struct broker_want w[] = {
		{.has = 7,
		 .floor = 1,
		 .ceiling = 8,
		 .workers = 8,
		 .busy_permille = 900000000,
		 .waits = true},
		{.has = 1,
		 .floor = 1,
		 .ceiling = 8,
		 .workers = 8,
		 .busy_permille = 1000,
		 .waits = true},
	};
	unsigned spare = 0;

	step(w, N(w), &spare, 0, 1);
	w[1].busy_permille = 2000;
	step(w, N(w), &spare, 0, 1);
}
END_TEST

/* A process that comes late gets its floor, whoever is loaded; with more floors than cores somebody
 * goes without, and nothing turns in circles. */
START_TEST(floors_are_kept)
{
	struct broker_want w[] = {
		{.has = 2,
		 .floor = 1,
		 .ceiling = 8,
		 .workers = 8,
		 .busy_permille = 2000,
		 .waits = true},
		{.floor = 1, .ceiling = 8, .workers = 1},
		{.floor = 1, .ceiling = 8, .workers = 1},
	};
	unsigned spare = 0;

	step(w, N(w), &spare, 0, 1);
	step(w, N(w), &spare, -1, -1);
	ck_assert_uint_eq(w[2].has, 0);
}
END_TEST

/* Whatever is claimed: a move is between two that exist, keeps floors and ceilings, loses nothing.
 */
START_TEST(any_claims)
{
	uint64_t seed = 42;

	for (int round = 0; round < 20000; round++) {
		struct broker_want w[6];
		struct broker_move m;
		unsigned spare;

		for (unsigned i = 0; i < N(w); i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			w[i] = (struct broker_want){
				.has = (unsigned)(seed >> 60),
				.floor = 1 + (unsigned)(seed >> 57 & 3),
				.ceiling = 1 + (unsigned)(seed >> 53 & 15),
				.workers = 1 + (unsigned)(seed >> 49 & 15),
				.busy_permille = (unsigned)(seed >> 17),
				.waits = (seed >> 48 & 1) != 0,
			};
		}
		spare = (unsigned)(seed >> 47 & 1);
		m = broker_step(w, N(w), spare);
		if (m.to < 0) {
			ck_assert_int_eq(m.from, -1);
			continue;
		}
		ck_assert_int_lt(m.to, (int)N(w));
		ck_assert_int_ne(m.from, m.to);
		ck_assert(m.from >= 0 || spare != 0);
		ck_assert_uint_lt(w[m.to].has, w[m.to].ceiling);
		ck_assert_uint_lt(w[m.to].has, w[m.to].workers);
		if (m.from >= 0)
			ck_assert_uint_gt(w[m.from].has, w[m.from].floor);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("broker");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_add_test(t, floors_then_load);
	tcase_add_test(t, from_who_can_spare);
	tcase_add_test(t, rivals_share);
	tcase_add_test(t, a_liar_gets_no_more);
	tcase_add_test(t, floors_are_kept);
	tcase_add_test(t, any_claims);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
