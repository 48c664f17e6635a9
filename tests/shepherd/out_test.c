/* Calls out of a host, at the ring: ids of the host's own, what answers them, refusals that wait
 * for room, and what no host may say. Both ends in one process. */
#include "tests/shepherd/harness.h"

#include <check.h>
#include <string.h>

#include "shepherd/shepherd_internal.h"

#define ASK 2 /* the method with a channel */

static struct pair p;
static struct gathered got;

static void setup(void)
{
	struct endpoint_config config = pair_config();

	config.outs_max = 4;
	pair_open(&p, &config);
	got = (struct gathered){.release = true};
}

static void teardown(void)
{
	pair_close(&p);
}

static uint64_t out_id(uint32_t generation, uint32_t index)
{
	return (uint64_t)generation << 32 | SLOT_OUT | index;
}

static struct slot *out_slot(unsigned kind, uint64_t id)
{
	struct slot *s = host_lane_reserve(attachment_lane(p.host, 0, 1), false);

	ck_assert_ptr_nonnull(s);
	s->kind = (uint8_t)kind;
	s->call_id = id;
	return s;
}

static void commit(struct slot *s)
{
	host_lane_commit(attachment_lane(p.host, 0, 1), s);
}

static struct slot *call_slot(uint64_t id)
{
	struct slot *s = out_slot(TO_DAEMON_CALL, id);

	s->flags = SLOT_EXTRA | SLOT_HAS_MESSAGE | SLOT_INLINE | SLOT_END_STREAM;
	s->method = ASK;
	s->home = 1;
	s->info = 77;
	s->deadline_ns = 1234567;
	s->out_flags = SLOT_OUT_WAITS;
	s->out_code = 0xc0de;
	s->out_data = 0xda7a;
	s->inline_bytes = 16;
	s->msg = (uint64_t)(uintptr_t)s->inline_area;
	memset(s->inline_area, 0x5a, 16);
	return s;
}

static int poll_all(void)
{
	got.n = 0;
	return endpoint_poll(p.port, 64, &gather, &got, now());
}

static void say_status(uint64_t id, uint32_t status)
{
	const struct endpoint_request r = {.kind = TO_HOST_STATUS,
					   .flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
					   .call_id = id,
					   .status = status};

	ck_assert_int_eq(endpoint_submit(p.port, 1, &r, now()), 0);
	endpoint_call_close(p.port, id, now());
}

START_TEST(whole_way)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 1);
	uint64_t id = out_id(9, 3);
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {.kind = TO_HOST_MESSAGE, .has_message = true, .call_id = id};
	struct shepherd_chunk c;
	const struct slot *s;
	int user;

	ck_assert_uint_eq(attachment_outs_max(p.host), 4);
	commit(call_slot(id));
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 1);
	ck_assert_int_eq(got.c[0].kind, TO_DAEMON_CALL);
	ck_assert_uint_eq(got.c[0].call_id, id);
	ck_assert_uint_eq(got.c[0].method, ASK);
	ck_assert_uint_eq(got.c[0].home, 1);
	ck_assert_uint_eq(got.c[0].parent, 77);
	ck_assert_uint_eq(got.c[0].deadline_ns, 1234567);
	ck_assert(got.c[0].waits);
	ck_assert(got.c[0].has_message);
	ck_assert_ptr_null(got.c[0].user);
	ck_assert_uint_eq(got.area[0][15], 0x5a);
	endpoint_out_accept(p.port, id, &user);
	ck_assert_uint_eq(p.counters.outs, 1);
	/* Neither a call of the daemon's own, nor counted as work ahead of a worker. */
	ck_assert_uint_eq(endpoint_calls_open(p.port), 0);
	ck_assert_ptr_null(endpoint_call_user(p.port, id));

	/* What the host says further comes with the user. */
	s = out_slot(TO_DAEMON_CREDIT, id);
	((struct slot *)(uintptr_t)s)->info = 3;
	commit((struct slot *)(uintptr_t)s);
	commit(out_slot(TO_DAEMON_WANT, id));
	commit(out_slot(TO_DAEMON_HALF_CLOSE, id));
	commit(out_slot(TO_DAEMON_ABANDON, id));
	ck_assert_int_eq(poll_all(), 4);
	ck_assert_uint_eq(got.n, 4);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_ptr_eq(got.c[i].user, &user);
	ck_assert_uint_eq(got.c[0].credit, 3);

	/* The answer has code and data back, and its blocks are held. */
	ck_assert_int_eq(endpoint_block_get(p.port, &blocks, 1000, &c), 0);
	r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(p.port));
	r.blocks = &blocks;
	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(endpoint_submit(p.port, 1, &r, now()), 0);
	s = host_lane_peek(lane);
	ck_assert_int_eq(s->kind, TO_HOST_MESSAGE);
	ck_assert_uint_eq(s->call_id, id);
	ck_assert_uint_eq(s->code, 0xc0de);
	ck_assert_uint_eq(s->data, 0xda7a);
	ck_assert(s->flags & SLOT_HAS_TOKEN);
	host_lane_advance(lane);
	ck_assert_uint_ne(endpoint_bytes_used(p.port), 0);
	/* The place is taken until the host has the status. */
	ck_assert_ptr_null(call_out_open(p.port, out_id(10, 3), 0));
	say_status(id, 5);
	s = host_lane_peek(lane);
	ck_assert_int_eq(s->kind, TO_HOST_STATUS);
	ck_assert_uint_eq(s->status, 5);
	ck_assert_uint_eq(s->data, 0xda7a);
	host_lane_advance(lane);
	/* Late words are stale; the next generation is another call. */
	commit(out_slot(TO_DAEMON_ABANDON, id));
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 0);
	ck_assert_uint_eq(p.counters.stale_calls, 1);
	commit(call_slot(out_id(10, 3)));
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 1);
}
END_TEST

/* Each place refused, the ring full: every one is told once there is room, exactly once. */
START_TEST(refusals_wait)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 1);
	unsigned told = 0, filled = 0;
	uint32_t seen = 0;

	while (endpoint_submit(p.port, 1, &(struct endpoint_request){.kind = TO_HOST_YIELDNOW},
			       now()) == 0)
		filled++;
	ck_assert_uint_eq(filled, 8);
	for (uint32_t i = 0; i < 4; i++) {
		commit(call_slot(out_id(1, i)));
		ck_assert_int_eq(poll_all(), 1);
		endpoint_out_refuse(p.port, got.c[0].call_id, 8);
		endpoint_out_refuse(p.port, got.c[0].call_id, 8);
	}
	ck_assert_uint_eq(p.counters.outs_refused, 4);
	endpoint_flush(p.port, now());
	/* What the host says meanwhile is stale. */
	commit(out_slot(TO_DAEMON_ABANDON, out_id(1, 0)));
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 0);
	while (told < 4) {
		const struct slot *s = host_lane_peek(lane);

		if (s == NULL) {
			endpoint_flush(p.port, now());
			s = host_lane_peek(lane);
		}
		ck_assert_ptr_nonnull(s);
		if (s->kind == TO_HOST_STATUS) {
			ck_assert_uint_eq(s->status, 8);
			seen |= 1u << (s->call_id & SLOT_OUT_INDEX);
			told++;
		}
		host_lane_advance(lane);
	}
	ck_assert_uint_eq(seen, 0xf);
	endpoint_flush(p.port, now());
	ck_assert_ptr_null(host_lane_peek(lane));
	commit(call_slot(out_id(2, 0)));
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 1);
}
END_TEST

static void bad_method(struct slot *s)
{
	s->method = 0; /* one that it serves */
}

static void bad_method_range(struct slot *s)
{
	s->method = 3;
}

static void bad_home(struct slot *s)
{
	s->home = 2;
}

static void bad_index(struct slot *s)
{
	s->call_id = out_id(1, 4);
}

static void bad_mark(struct slot *s)
{
	s->call_id &= ~(uint64_t)SLOT_OUT;
}

static void bad_worker(struct slot *s)
{
	s->call_id |= 1u << 24;
}

static void bad_flags(struct slot *s)
{
	s->flags |= SLOT_RELEASE_REQUEST;
}

static void bad_message(struct slot *s)
{
	s->msg = 0x1000;
}

static void bad_metadata(struct slot *s)
{
	s->metadata = 0xdead0000;
}

static void (*const nonsense[])(struct slot *) = {
	bad_method, bad_method_range, bad_home,    bad_index,    bad_mark,
	bad_worker, bad_flags,        bad_message, bad_metadata,
};

START_TEST(nonsense_calls)
{
	struct slot *s = call_slot(out_id(1, 0));

	nonsense[_i](s);
	commit(s);
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
	ck_assert_uint_eq(got.n, 0);
	ck_assert_str_ne(endpoint_cause(p.port), "");
}
END_TEST

START_TEST(open_twice)
{
	commit(call_slot(out_id(1, 0)));
	ck_assert_int_eq(poll_all(), 1);
	commit(call_slot(out_id(2, 0)));
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
}
END_TEST

static const struct {
	unsigned kind, flags;
	bool out;
} wrong_kinds[] = {
	{TO_DAEMON_STATUS, 0, true},           {TO_DAEMON_REFUSE, 0, true},
	{TO_DAEMON_INITIAL_METADATA, 0, true}, {TO_DAEMON_MESSAGE, SLOT_HAS_STATUS, true},
	{TO_DAEMON_HALF_CLOSE, 0, false},      {TO_DAEMON_ABANDON, 0, false},
};

/* Neither kind of call takes what belongs to the other. */
START_TEST(kinds_mixed_up)
{
	struct slot *s;

	commit(call_slot(out_id(1, 0)));
	ck_assert_int_eq(poll_all(), 1);
	s = out_slot(wrong_kinds[_i].kind, wrong_kinds[_i].out ? out_id(1, 0) : 1ull << 32);
	s->flags = (uint8_t)wrong_kinds[_i].flags;
	commit(s);
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
}
END_TEST

/* Nor does the daemon's own side. */
START_TEST(submit_checks)
{
	struct endpoint_request r = {.kind = TO_HOST_STATUS};
	uint64_t id = out_id(1, 0);

	ck_assert_int_eq(endpoint_call_open(p.port, NULL, &r.call_id), 0);
	ck_assert_int_eq(endpoint_submit(p.port, 1, &r, now()), -SPLIT_E_BASE_INVALID);
	commit(call_slot(id));
	ck_assert_int_eq(poll_all(), 1);
	r.call_id = id;
	r.kind = TO_HOST_CANCEL;
	ck_assert_int_eq(endpoint_submit(p.port, 1, &r, now()), -SPLIT_E_BASE_INVALID);
	r.kind = TO_HOST_REQUEST;
	ck_assert_int_eq(endpoint_submit(p.port, 1, &r, now()), -SPLIT_E_BASE_INVALID);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/out");
	TCase *t = tcase_create("out");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, whole_way);
	tcase_add_test(t, refusals_wait);
	tcase_add_loop_test(t, nonsense_calls, 0, sizeof(nonsense) / sizeof(nonsense[0]));
	tcase_add_test(t, open_twice);
	tcase_add_loop_test(t, kinds_mixed_up, 0, sizeof(wrong_kinds) / sizeof(wrong_kinds[0]));
	tcase_add_test(t, submit_checks);
	suite_add_tcase(s, t);
	runner = srunner_create(s);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
