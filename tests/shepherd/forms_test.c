/* Messages that are their wire bytes: what a slot says of them, both ways, and forms that make no
 * sense. Both ends in one process. */
#include "tests/shepherd/harness.h"

#include <check.h>
#include <string.h>

static struct pair p;

static void setup(void)
{
	struct endpoint_config config = pair_config();

	pair_open(&p, &config);
}

static void teardown(void)
{
	pair_close(&p);
}

static struct slot *raw_slot(void)
{
	struct slot *s = host_lane_reserve(attachment_lane(p.host, 0, 0), false);

	s->kind = TO_DAEMON_MESSAGE;
	return s;
}

static struct endpoint_completion last_form;
static uint8_t last_wire[256];

static void form_completion(void *ctx, struct endpoint_port *port,
			    const struct endpoint_completion *c)
{
	(void)ctx;
	last_form = *c;
	if (c->form & SLOT_FORM_WIRE && c->msg_bytes <= sizeof(last_wire))
		memcpy(last_wire, c->window.mem + (c->msg - c->window.peer_base), c->msg_bytes);
	if (c->has_token)
		endpoint_token_release(port, c->lane, c->token);
}

static void form_poll(void)
{
	const struct endpoint_events events = {form_completion};

	memset(&last_form, 0, sizeof(last_form));
	ck_assert_int_eq(endpoint_poll(p.port, 64, &events, NULL, now()), 1);
}

START_TEST(forms)
{
	struct shepherd_chunk arena = attachment_arena(p.host);
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	struct endpoint_request r = {
		.kind = TO_HOST_REQUEST,
		.form = SLOT_FORM_WIRE | SLOT_FORM_ENCODE,
		.has_message = true,
		.limits = WIRE_LIMITS(1u << 30, 77),
		.elements_max = 12345,
	};
	struct shepherd_chunk area;
	const struct slot *in;
	struct slot *s;

	ck_assert_int_eq(endpoint_call_open(p.port, NULL, &r.call_id), 0);
	/* There: as it was said, inline at an address that is no struct's. */
	ck_assert_int_eq(endpoint_inline_area(p.port, 0, &area), 0);
	memcpy(area.mem, "wired", 5);
	r.msg = (uint64_t)((int64_t)(uintptr_t)area.mem + endpoint_delta(p.port));
	r.inline_bytes = 5;
	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
	in = host_lane_peek(lane);
	ck_assert_ptr_nonnull(in);
	ck_assert_uint_eq(in->form, SLOT_FORM_WIRE | SLOT_FORM_ENCODE);
	ck_assert_uint_eq(in->inline_bytes, 5);
	ck_assert_mem_eq(in->inline_area, "wired", 5);
	ck_assert_uint_eq(WIRE_LIMITS_BYTES(in->limits), 1u << 30);
	ck_assert_uint_eq(WIRE_LIMITS_DEPTH(in->limits), 77);
	ck_assert_uint_eq(in->elements_max, 12345);
	host_lane_advance(lane);

	/* Back: inline, none at all, in the arena up to its last byte, at odd addresses. */
	s = raw_slot();
	s->call_id = r.call_id;
	s->flags = SLOT_HAS_MESSAGE | SLOT_INLINE;
	s->form = SLOT_FORM_WIRE;
	s->inline_bytes = 3;
	memcpy(s->inline_area, "abc", 3);
	host_lane_commit(lane, s);
	form_poll();
	ck_assert_uint_eq(last_form.form, SLOT_FORM_WIRE);
	ck_assert_uint_eq(last_form.msg_bytes, 3);
	ck_assert_mem_eq(last_wire, "abc", 3);

	s = raw_slot();
	s->call_id = r.call_id;
	s->flags = SLOT_HAS_MESSAGE | SLOT_INLINE;
	s->form = SLOT_FORM_WIRE;
	host_lane_commit(lane, s);
	form_poll();
	ck_assert(last_form.has_message);
	ck_assert_uint_eq(last_form.msg_bytes, 0);

	memcpy(arena.mem + arena.bytes - 7, "at last", 7);
	s = raw_slot();
	s->call_id = r.call_id;
	s->flags = SLOT_HAS_MESSAGE | SLOT_EXTRA;
	s->form = SLOT_FORM_WIRE;
	s->msg = (uint64_t)(uintptr_t)(arena.mem + arena.bytes - 7);
	s->msg_bytes = 7;
	host_lane_commit(lane, s);
	form_poll();
	ck_assert_uint_eq(last_form.msg_bytes, 7);
	ck_assert_mem_eq(last_wire, "at last", 7);

	s = raw_slot();
	s->kind = TO_DAEMON_STATUS;
	s->call_id = r.call_id;
	s->form = SLOT_FORM_UNDECODED;
	s->info = 13;
	host_lane_commit(lane, s);
	form_poll();
	ck_assert_uint_eq(last_form.form, SLOT_FORM_UNDECODED);
	ck_assert_uint_eq(last_form.status, 13);
}
END_TEST

START_TEST(nonsense)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	struct shepherd_chunk arena = attachment_arena(p.host);
	uint64_t base = (uint64_t)(uintptr_t)arena.mem;
	const struct endpoint_events events = {form_completion};
	struct slot *s = raw_slot();

	switch (_i) {
	case 0: /* wire bytes past the arena's end */
		s->flags = SLOT_HAS_MESSAGE | SLOT_EXTRA;
		s->form = SLOT_FORM_WIRE;
		s->msg = base + arena.bytes - 99;
		s->msg_bytes = 100;
		break;
	case 1: /* so many that the end wraps */
		s->flags = SLOT_HAS_MESSAGE | SLOT_EXTRA;
		s->form = SLOT_FORM_WIRE;
		s->msg = base + 64;
		s->msg_bytes = UINT32_MAX;
		break;
	case 2: /* wire bytes of no message */
		s->form = SLOT_FORM_WIRE;
		break;
	case 3: /* only the daemon asks for that */
		s->flags = SLOT_HAS_MESSAGE;
		s->msg = base;
		s->form = SLOT_FORM_ENCODE;
		break;
	case 4:
		s->flags = SLOT_HAS_MESSAGE;
		s->msg = base;
		s->form = SLOT_FORM_UNDECODED;
		break;
	case 5:
		s->kind = TO_DAEMON_CREDIT;
		s->form = SLOT_FORM_UNDECODED;
		break;
	case 6:
		s->kind = TO_DAEMON_STATUS;
		s->form = 0x80;
		break;
	}
	host_lane_commit(lane, s);
	ck_assert_int_eq(endpoint_poll(p.port, 64, &events, NULL, now()),
			 -SPLIT_E_SHEPHERD_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(endpoint_cause(p.port), "completion lane 0: "));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/forms");
	TCase *t = tcase_create("forms");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, forms);
	tcase_add_loop_test(t, nonsense, 0, 7);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
