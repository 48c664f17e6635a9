/* Endpoint: a call's whole way, ownership, quotas, releases, wakes, and nonsense from the host.
 * Both ends in one process. */
#include "tests/shepherd/harness.h"

#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shepherd/shepherd_internal.h"

static struct pair p;
static struct gathered got;

static void setup_with(const struct endpoint_config *config)
{
	pair_open(&p, config);
	got = (struct gathered){.release = true};
}

static void setup(void)
{
	struct endpoint_config config = pair_config();

	setup_with(&config);
}

static void teardown(void)
{
	pair_close(&p);
}

static int poll_all(void)
{
	got.n = 0;
	return endpoint_poll(p.port, 64, &gather, &got, now());
}

static uint64_t open_call(void *user)
{
	uint64_t id;

	ck_assert_int_eq(endpoint_call_open(p.port, user, &id), 0);
	return id;
}

/* Submit a REQUEST of `bytes` in a block, filled with `fill`, on `lane`. */
static int submit(uint64_t id, unsigned lane, size_t bytes, uint8_t fill)
{
	struct endpoint_blocks blocks = {0};
	struct shepherd_chunk c;
	struct endpoint_request r = {.kind = TO_HOST_REQUEST,
				     .flags = SLOT_END_STREAM,
				     .has_message = true,
				     .call_id = id,
				     .blocks = &blocks};
	int rc = endpoint_block_get(p.port, &blocks, bytes, &c);

	if (rc < 0)
		return rc;
	memset(c.mem, fill, c.bytes);
	r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(p.port));
	rc = endpoint_submit(p.port, lane, &r, now());
	if (rc < 0)
		endpoint_blocks_put(p.port, &blocks);
	else
		ck_assert_uint_eq(blocks.head, 0);
	return rc;
}

static void answer(struct host_lane *lane, uint64_t id, uint64_t release, uint32_t status)
{
	struct slot *s = host_lane_reserve(lane, false);

	ck_assert_ptr_nonnull(s);
	s->kind = TO_DAEMON_MESSAGE;
	s->flags = SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_INLINE | SLOT_HAS_MESSAGE |
		   (release != 0 ? SLOT_RELEASE_REQUEST : 0);
	s->call_id = id;
	s->info = status;
	s->release = release;
	s->inline_bytes = 32;
	memset(s->inline_area, 0x5a, 32);
	s->msg = (uint64_t)(uintptr_t)s->inline_area;
	host_lane_commit(lane, s);
}

START_TEST(unary_call)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 1);
	struct endpoint_lane_state state;
	const struct slot *s;
	int user;
	uint64_t id = open_call(&user), token;

	host_state_set(p.host, 1, HOST_POLLING);
	ck_assert_int_eq(submit(id, 1, 1000, 0xab), 0);
	endpoint_lane_state(p.port, 1, &state);
	ck_assert_uint_eq(state.queued, 1);
	ck_assert_uint_eq(state.calls, 1);
	ck_assert_uint_eq(state.room, 7);
	ck_assert_uint_ne(state.oldest_ns, 0);
	ck_assert_int_eq(state.state, HOST_POLLING);
	endpoint_flush(p.port, now());

	s = host_lane_peek(lane);
	ck_assert_ptr_nonnull(s);
	ck_assert_ptr_null(host_lane_peek(attachment_lane(p.host, 0, 0)));
	ck_assert_int_eq(s->kind, TO_HOST_REQUEST);
	ck_assert_int_eq(s->flags,
			 SLOT_END_STREAM | SLOT_HAS_MESSAGE | SLOT_HAS_TOKEN | SLOT_EXTRA);
	ck_assert_uint_eq(s->code, 0x1000);
	ck_assert_uint_eq(s->data, 0x2000);
	ck_assert_uint_eq(*(const uint8_t *)(uintptr_t)s->msg, 0xab);
	ck_assert_uint_eq(attachment_call_worker(s->call_id), 0);
	token = s->info;
	ck_assert(host_lane_claim(lane, s));
	endpoint_lane_state(p.port, 1, &state);
	ck_assert_uint_eq(state.queued, 1);
	ck_assert_uint_eq(state.oldest_ns, 0); /* begun: it does not wait */
	host_lane_advance(lane);
	endpoint_lane_state(p.port, 1, &state);
	ck_assert_uint_eq(state.queued, 0);
	ck_assert_uint_eq(state.calls, 1);

	answer(lane, id, token, 0);
	host_lane_ring(lane);
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 1);
	ck_assert_ptr_eq(got.c[0].user, &user);
	ck_assert_uint_eq(got.c[0].call_id, id);
	ck_assert_uint_eq(got.c[0].status, 0);
	ck_assert(got.c[0].flags & SLOT_HAS_STATUS);
	ck_assert_uint_eq(got.c[0].lane, 1);
	ck_assert_uint_eq(got.c[0].window.bytes, 32);
	ck_assert_uint_eq(got.c[0].msg, got.c[0].window.peer_base);
	ck_assert_uint_eq(got.area[0][31], 0x5a);
	ck_assert_uint_eq(p.counters.releases_in, 1);
	ck_assert_uint_eq(endpoint_bytes_used(p.port), 0);
	endpoint_lane_state(p.port, 1, &state);
	ck_assert_uint_eq(state.calls, 0);
	endpoint_call_close(p.port, id, now());
	ck_assert_uint_eq(endpoint_calls_open(p.port), 0);
}
END_TEST

START_TEST(inline_request)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	struct endpoint_request r = {.kind = TO_HOST_REQUEST, .has_message = true, .method = 1};
	struct shepherd_chunk c;
	const struct slot *s;

	r.peer_family = 4;
	r.peer_port = 1234;
	memcpy(r.peer_address, "\306\022\000\001", 4);
	r.call_id = open_call(NULL);
	ck_assert_int_eq(endpoint_inline_area(p.port, 0, &c), 0);
	ck_assert_uint_eq((uintptr_t)c.mem % 16, 0);
	memset(c.mem, 0x77, 48);
	r.inline_bytes = 48;
	r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(p.port));
	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
	s = host_lane_peek(lane);
	ck_assert_ptr_nonnull(s);
	ck_assert_uint_eq(s->msg, (uint64_t)(uintptr_t)s->inline_area);
	ck_assert_uint_eq(s->inline_area[47], 0x77);
	ck_assert(s->flags & SLOT_INLINE);
	ck_assert(!(s->flags & SLOT_HAS_TOKEN));
	ck_assert_uint_eq(s->peer_port, 1234);
	ck_assert_uint_eq(s->code, 0x3000);
	ck_assert_uint_eq(p.counters.requests_inline, 1);
	host_lane_advance(lane);
}
END_TEST

/* Rings of 8 slots, several laps: full, order, refill. */
START_TEST(ring_laps)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	struct endpoint_request r = {.kind = TO_HOST_TRYAGAIN};
	struct endpoint_lane_state state;
	uint32_t seen = 0, sent = 0;

	for (int lap = 0; lap < 50; lap++) {
		for (r.msg_seq = sent; endpoint_submit(p.port, 0, &r, now()) == 0; r.msg_seq++)
			sent++;
		ck_assert_uint_eq(sent - seen, 8);
		ck_assert_uint_ge(p.counters.ring_full, 1);
		ck_assert_ptr_null(host_lane_peek_at(lane, 8));
		ck_assert_uint_eq(host_lane_peek_at(lane, 7)->msg_seq, seen + 7);
		for (int i = 0; i < 1 + lap % 8; i++, seen++) {
			ck_assert_uint_eq(host_lane_peek(lane)->msg_seq, seen);
			host_lane_advance(lane);
		}
		endpoint_lane_state(p.port, 0, &state);
		ck_assert_uint_eq(state.room, 1 + lap % 8);
	}
}
END_TEST

START_TEST(completion_ring_full)
{
	struct host_lane *lane = attachment_foreign(p.host, 0);
	struct slot *s;
	unsigned total = 0;

	for (int lap = 0; lap < 20; lap++) {
		uint64_t id = open_call(NULL);

		ck_assert_int_eq(submit(id, 0, 100, 1), 0);
		host_lane_advance(attachment_lane(p.host, 0, 0));
		for (unsigned n = 0; (s = host_lane_reserve(lane, false)) != NULL; n++, total++) {
			ck_assert_uint_lt(n, 8);
			s->kind = TO_DAEMON_CREDIT;
			s->call_id = id;
			s->info = total;
			host_lane_commit(lane, s);
		}
		ck_assert_int_eq(poll_all(), 8);
		ck_assert_uint_eq(got.n, 8);
		ck_assert_uint_eq(got.c[7].credit, total - 1);
		ck_assert_uint_eq(got.c[7].lane, 2);
		endpoint_call_close(p.port, id, now());
		/* The host lets go of what it still holds. */
		s = host_lane_reserve(lane, false);
		s->kind = TO_DAEMON_RELEASE;
		s->info = 1;
		s->inline_bytes = 8;
		s->tokens[0] = (uint64_t)(lap + 1) << 32 | 1;
		host_lane_commit(lane, s);
		ck_assert_int_eq(poll_all(), 1);
		ck_assert_uint_eq(endpoint_bytes_used(p.port), 0);
	}
}
END_TEST

START_TEST(stale_and_repeated)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	uint64_t id = open_call(NULL), token;

	ck_assert_int_eq(submit(id, 0, 100, 1), 0);
	token = host_lane_peek(lane)->info;
	host_lane_advance(lane);
	answer(lane, id, token, 0);
	answer(lane, id, token, 0); /* twice, released twice */
	answer(lane, id + ((uint64_t)1 << 32), 12345, 0);
	answer(lane, 0xffffffffffffffff, UINT64_MAX, 0);
	answer(lane, id | 5 << 24, 0, 0); /* another worker's */
	ck_assert_int_eq(poll_all(), 5);
	ck_assert_uint_eq(got.n, 1);
	ck_assert_uint_eq(p.counters.stale_calls, 4);
	ck_assert_uint_eq(p.counters.stale_releases, 3);
	endpoint_call_close(p.port, id, now());
	endpoint_call_close(p.port, id, now()); /* closing twice is harmless */
	answer(lane, id, 0, 0);
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 0);
	ck_assert_int_eq(submit(id, 0, 100, 1), -SPLIT_E_SHEPHERD_STALE);
	ck_assert_uint_eq(endpoint_bytes_used(p.port), 0);
	/* A call that was never handed over can't be answered. */
	id = open_call(NULL);
	answer(lane, id, 0, 0);
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.n, 0);
}
END_TEST

/* A host that never releases meets its quota and, when calls end, the timeout. */
START_TEST(quota_and_timeout)
{
	struct endpoint_config config = pair_config();
	struct host_lane *lane;
	uint64_t id, t = 0;
	int rc = 0, n = 0;

	pair_close(&p);
	config.quota_bytes = 64 * 1024;
	config.release_timeout_ns = 50 * MS;
	setup_with(&config);
	lane = attachment_lane(p.host, 0, 0);
	for (; n < 100; n++) {
		id = open_call(NULL);
		rc = submit(id, 0, 8192, 1);
		if (rc < 0)
			break;
		host_lane_advance(lane);
		endpoint_call_close(p.port, id, t = now());
	}
	ck_assert_int_eq(rc, -SPLIT_E_SHEPHERD_QUOTA);
	ck_assert_int_eq(n, 8);
	ck_assert_uint_ge(p.counters.quota_full, 1);
	ck_assert_int_eq(submit(id, 0, 128 * 1024, 1), -SPLIT_E_BASE_LIMIT);
	ck_assert_uint_le(endpoint_next_ns(p.port), t + 50 * MS);
	ck_assert_int_eq(endpoint_poll(p.port, 8, &gather, &got, t), 0);
	ck_assert_int_eq(endpoint_poll(p.port, 8, &gather, &got, t + 51 * MS),
			 -SPLIT_E_SHEPHERD_RELEASE);
	ck_assert(error_is_fatal(-SPLIT_E_SHEPHERD_RELEASE));
	ck_assert_str_ne(endpoint_cause(p.port), "");
}
END_TEST

START_TEST(holds_run_out)
{
	struct endpoint_config config = pair_config();
	struct host_lane *lane;

	pair_close(&p);
	config.holds_max = 2;
	setup_with(&config);
	lane = attachment_lane(p.host, 0, 0);
	ck_assert_int_eq(submit(open_call(NULL), 0, 10, 1), 0);
	ck_assert_int_eq(submit(open_call(NULL), 0, 10, 1), 0);
	ck_assert_int_eq(submit(open_call(NULL), 0, 10, 1), -SPLIT_E_SHEPHERD_HOLDS);
	ck_assert_uint_eq(endpoint_bytes_used(p.port), 512);
	answer(lane, 0, host_lane_peek(lane)->info, 0);
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(endpoint_bytes_used(p.port), 256);
	ck_assert_int_eq(submit(open_call(NULL), 0, 10, 1), 0);
}
END_TEST

static void count_call(void *ctx, uint64_t id, void *user)
{
	(void)user;
	++*(int *)ctx;
	endpoint_call_close(p.port, id, now());
}

START_TEST(calls_run_out_and_are_visited)
{
	uint64_t id;
	int n = 0;

	for (int i = 0; i < 16; i++)
		open_call(NULL);
	ck_assert_int_eq(endpoint_call_open(p.port, NULL, &id), -SPLIT_E_SHEPHERD_CALLS);
	endpoint_calls_each(p.port, count_call, &n);
	ck_assert_int_eq(n, 16);
	ck_assert_uint_eq(endpoint_calls_open(p.port), 0);
	open_call(NULL);
}
END_TEST

/* Response tokens go back in any order, in batches, and wait while the ring is full. */
START_TEST(response_releases)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0),
			 *other = attachment_lane(p.host, 0, 1);
	struct endpoint_request fill = {.kind = TO_HOST_TRYAGAIN};
	uint64_t tokens[SLOT_TOKENS_MAX], id = open_call(NULL);
	unsigned back = 0;
	struct slot *s;

	host_state_set(p.host, 0, HOST_POLLING);
	got.release = false;
	ck_assert_int_eq(submit(id, 0, 10, 1), 0);
	host_lane_advance(lane);
	for (int i = 0; i < 5; i++) {
		s = host_lane_reserve(lane, true);
		ck_assert_ptr_nonnull(s);
		s->kind = TO_DAEMON_MESSAGE;
		s->flags = SLOT_HAS_TOKEN;
		s->call_id = id;
		s->token = 1000 + i;
		host_lane_commit(lane, s);
	}
	ck_assert_int_eq(poll_all(), 5);
	/* Both workers' rings full (the other is RETIRED anyway): the tokens wait. */
	while (endpoint_submit(p.port, 0, &fill, now()) == 0)
		;
	for (int i = 4; i >= 0; i--)
		endpoint_token_release(p.port, got.c[i].lane, got.c[i].token);
	endpoint_token_release(p.port, 0, 99); /* one more than there were: ignored */
	endpoint_flush(p.port, now());
	ck_assert_uint_eq(p.counters.releases_out, 0);
	ck_assert_uint_eq(p.counters.releases_deferred, 1);
	ck_assert_uint_lt(endpoint_next_ns(p.port), now() + 2 * MS);
	while (host_lane_peek(lane) != NULL)
		host_lane_advance(lane);
	endpoint_flush(p.port, now());
	ck_assert_uint_eq(p.counters.releases_out, 5);
	ck_assert_ptr_null(host_lane_peek(other));
	s = (struct slot *)host_lane_peek(lane);
	ck_assert_ptr_nonnull(s);
	ck_assert_int_eq(s->kind, TO_HOST_RELEASE);
	back = host_lane_released(lane, s, tokens);
	ck_assert_uint_eq(back, 5);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_uint_eq(tokens[i], 1004 - i);
	host_lane_advance(lane);
	ck_assert_uint_eq(endpoint_next_ns(p.port), UINT64_MAX);
}
END_TEST

/* tokens_max: the host side stops at it; a host that goes past it is cut off. */
START_TEST(response_tokens_bounded)
{
	struct endpoint_config config = pair_config();
	struct host_lane *lane;
	uint64_t tokens[SLOT_TOKENS_MAX];
	struct slot *s;

	pair_close(&p);
	config.tokens_max = 3;
	setup_with(&config);
	lane = attachment_lane(p.host, 0, 0);
	host_state_set(p.host, 0, HOST_POLLING);
	for (int i = 0; i < 3; i++) {
		s = host_lane_reserve(lane, true);
		s->kind = TO_DAEMON_MESSAGE;
		s->flags = SLOT_HAS_TOKEN; /* of no call: comes straight back */
		s->token = (uint64_t)i;
		host_lane_commit(lane, s);
	}
	ck_assert_ptr_null(host_lane_reserve(lane, true));
	ck_assert_int_eq(poll_all(), 3);
	endpoint_flush(p.port, now());
	ck_assert_uint_eq(host_lane_released(lane, host_lane_peek(lane), tokens), 3);
	host_lane_advance(lane);
	s = host_lane_reserve(lane, true);
	ck_assert_ptr_nonnull(s);
	host_lane_drop(lane, s);
	/* One that lies about it. */
	for (int i = 0; i < 4; i++) {
		s = host_lane_reserve(lane, false);
		s->kind = TO_DAEMON_MESSAGE;
		s->flags = SLOT_HAS_TOKEN;
		host_lane_commit(lane, s);
	}
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
}
END_TEST

/* ---- nonsense */

static struct slot *raw_slot(void)
{
	struct slot *s = host_lane_reserve(attachment_lane(p.host, 0, 0), false);

	s->kind = TO_DAEMON_MESSAGE;
	return s;
}

START_TEST(nonsense)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	struct shepherd_chunk arena = attachment_arena(p.host);
	struct slot *s = raw_slot();
	uint64_t base = (uint64_t)(uintptr_t)arena.mem;

	switch (_i) {
	case 0:
		s->kind = 0;
		break;
	case 1:
		s->kind = TO_HOST_REQUEST;
		break;
	case 2:
		s->kind = 0xff;
		break;
	case 3:
		s->kind = TO_DAEMON_CREDIT;
		s->flags = SLOT_HAS_TOKEN;
		break;
	case 4:
		s->flags = SLOT_HAS_MESSAGE;
		s->msg = base - 8;
		break;
	case 5:
		s->flags = SLOT_HAS_MESSAGE;
		s->msg = base + arena.bytes;
		break;
	case 6:
		s->flags = SLOT_HAS_MESSAGE;
		s->msg = base + 3;
		break;
	case 7: /* inline, but elsewhere */
		s->flags = SLOT_HAS_MESSAGE | SLOT_INLINE;
		s->inline_bytes = 64;
		s->msg = base;
		break;
	case 8: /* inline, past what is said to be used */
		s->flags = SLOT_HAS_MESSAGE | SLOT_INLINE;
		s->inline_bytes = 64;
		s->msg = (uint64_t)(uintptr_t)s->inline_area + 64;
		break;
	case 9:
		s->inline_bytes = SLOT_INLINE_BYTES + 1;
		break;
	case 10:
		s->kind = TO_DAEMON_RELEASE;
		s->info = 17;
		s->inline_bytes = 128;
		break;
	case 11:
		s->kind = TO_DAEMON_RELEASE;
		s->info = UINT64_MAX / 8 + 2; /* times 8 wraps to 8 */
		s->inline_bytes = 8;
		break;
	case 12:
		s->flags = SLOT_EXTRA;
		s->metadata = base + arena.bytes - 4;
		break;
	case 13:
		s->flags = SLOT_EXTRA;
		s->text = base + 10;
		s->text_bytes = (uint32_t)arena.bytes;
		break;
	case 14: /* the daemon's own memory */
		s->flags = SLOT_HAS_MESSAGE;
		s->msg = (uint64_t)(uintptr_t)p.endpoint;
		break;
	}
	host_lane_commit(lane, s);
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(endpoint_cause(p.port), "completion lane 0: "));
	/* And so it stays. */
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
	ck_assert_uint_eq(p.counters.faults, 1);
	ck_assert_uint_eq(got.n, 0);
	endpoint_flush(p.port, now());
}
END_TEST

START_TEST(nonsense_sequence)
{
	struct slot *s = raw_slot();

	store_release(&s->seq, _i == 0 ? 2u : _i == 1 ? 0xffffffffu : 9u);
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
}
END_TEST

START_TEST(nonsense_head)
{
	struct endpoint_request r = {.kind = TO_HOST_TRYAGAIN};
	struct endpoint_lane_state state;
	struct host_line *line = attachment_lane(p.host, 0, 0)->host_line;

	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
	store_release(&line->head, _i == 0 ? 2u : UINT32_MAX);
	endpoint_lane_state(p.port, 0, &state);
	ck_assert_uint_eq(state.queued, 1);
	ck_assert_int_eq(poll_all(), -SPLIT_E_SHEPHERD_PROTOCOL);
	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), -SPLIT_E_SHEPHERD_PROTOCOL);
}
END_TEST

START_TEST(nonsense_states_and_status)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	struct endpoint_lane_state state;
	uint64_t id = open_call(NULL);

	store_relaxed(&p.host->workers[0].control->state, UINT64_MAX);
	endpoint_lane_state(p.port, 0, &state);
	ck_assert_int_eq(state.state, HOST_RUNNING);
	ck_assert_int_eq(submit(id, 0, 10, 1), 0);
	answer(lane, id, 0, 4711);
	ck_assert_int_eq(poll_all(), 1);
	ck_assert_uint_eq(got.c[0].status, 2);
}
END_TEST

START_TEST(metadata_both_ways)
{
	static const struct metadata_item items[] = {
		{"key", "value", 3, 5}, {"bin-bin", "\0\1\2", 7, 3}, {"empty", "", 5, 0}};
	struct shepherd_chunk arena = attachment_arena(p.host);
	struct metadata_block *block = (struct metadata_block *)(arena.mem + 1024);
	struct metadata_item out[4];
	uint64_t at = (uint64_t)(uintptr_t)block;
	uint8_t buf[64];
	char text[8];

	ck_assert_int_eq(metadata_write(items, 3, block, metadata_bytes(items, 3) - 1, 0),
			 -SPLIT_E_BASE_LIMIT);
	ck_assert_int_eq(metadata_write(items, 3, block, metadata_bytes(items, 3), 0), 0);
	ck_assert_int_eq(endpoint_metadata_read(p.port, at, out, 4, buf, sizeof(buf)), 3);
	ck_assert_str_eq(out[0].name, "key");
	ck_assert_str_eq(out[0].value, "value");
	ck_assert_int_eq(memcmp(out[1].value, "\0\1\2", 3), 0);
	ck_assert_uint_eq(out[2].value_bytes, 0);
	ck_assert_int_eq(endpoint_metadata_read(p.port, at, out, 2, buf, sizeof(buf)),
			 -SPLIT_E_BASE_LIMIT);
	ck_assert_int_eq(endpoint_metadata_read(p.port, at, out, 4, buf, 20), -SPLIT_E_BASE_LIMIT);
	ck_assert_int_eq(endpoint_metadata_read(p.port, at + 1, out, 4, buf, 64),
			 -SPLIT_E_SHEPHERD_ADDRESS);
	ck_assert_int_eq(endpoint_metadata_read(p.port, 8, out, 4, buf, 64),
			 -SPLIT_E_SHEPHERD_ADDRESS);
	block->entries[1].value = 0x1000;
	ck_assert_int_eq(endpoint_metadata_read(p.port, at, out, 4, buf, 64),
			 -SPLIT_E_SHEPHERD_ADDRESS);
	block->entries[1].value = at;
	block->entries[1].value_bytes = UINT32_MAX;
	ck_assert_int_eq(endpoint_metadata_read(p.port, at, out, 4, buf, 64),
			 -SPLIT_E_SHEPHERD_ADDRESS);
	block->count = UINT32_MAX;
	ck_assert_int_eq(endpoint_metadata_read(p.port, at, out, SIZE_MAX, buf, 64),
			 -SPLIT_E_SHEPHERD_ADDRESS);
	memcpy(arena.mem, "hello", 5);
	ck_assert_int_eq(endpoint_text_read(p.port, (uint64_t)(uintptr_t)arena.mem, 5, text, 8), 5);
	ck_assert_int_eq(memcmp(text, "hello", 5), 0);
	ck_assert_int_eq(endpoint_text_read(p.port, 42, 5, text, 8), -SPLIT_E_SHEPHERD_ADDRESS);
}
END_TEST

/* ---- park and wake */

struct parker {
	uint64_t timeout_ns;
	bool result;
	int done;
};

static void *park_thread(void *arg)
{
	struct parker *k = arg;

	k->result = host_park(p.host, 0, HOST_PARKED, k->timeout_ns);
	store_release(&k->done, 1);
	return NULL;
}

static void until_parked(void)
{
	struct endpoint_lane_state state;

	do {
		usleep(1000);
		endpoint_lane_state(p.port, 0, &state);
	} while (state.state != HOST_PARKED);
	usleep(20000);
}

START_TEST(park_and_wake)
{
	struct endpoint_request r = {.kind = TO_HOST_TRYAGAIN};
	struct parker k = {.timeout_ns = 20000 * MS};
	pthread_t thread;

	pthread_create(&thread, NULL, park_thread, &k);
	until_parked();
	if (_i == 0) {
		ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
		ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
		ck_assert_int_eq(load_acquire(&k.done), 0);
		endpoint_flush(p.port, now());
		ck_assert_uint_eq(p.counters.wakes, 1);
	} else if (_i == 1) {
		host_kick(p.host, 0);
	} else if (_i == 2) {
		endpoint_detach(p.endpoint);
	} else {
		attachment_lost(p.host);
	}
	pthread_join(thread, NULL);
	ck_assert(k.result);
	/* What came before it parks keeps it from sleeping. */
	if (_i == 0) {
		k.result = false;
		park_thread(&k);
		ck_assert(k.result);
	}
}
END_TEST

START_TEST(park_times_out)
{
	uint64_t before = now();

	ck_assert(!host_park(p.host, 0, HOST_PARKED, 30 * MS));
	ck_assert_uint_ge(now() - before, 30 * MS);
	host_kick(p.host, 0);
	ck_assert(host_park(p.host, 0, HOST_PARKED, 10000 * MS));
}
END_TEST

/* A host that always says PARKED gets one system call, not one for each slot. */
START_TEST(parked_liar)
{
	struct endpoint_request r = {.kind = TO_HOST_TRYAGAIN};

	for (int i = 0; i < 8; i++) {
		uint64_t wake = load_relaxed(&p.host->workers[0].wake->word);

		store_relaxed(&p.host->workers[0].control->state, wake << 32 | HOST_PARKED);
		ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
		endpoint_flush(p.port, now());
	}
	ck_assert_uint_eq(p.counters.wakes, 1);
	ck_assert_uint_eq(p.counters.wakes_saved, 7);
}
END_TEST

/* A wake that was taken is forgotten at the next look at the lane, whatever comes between: no
 * number of slots makes it look as if it were still to be taken. */
START_TEST(wake_forgotten)
{
	struct endpoint_request r = {.kind = TO_HOST_TRYAGAIN};
	struct endpoint_lane_state state;
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	uint64_t wake = load_relaxed(&p.host->workers[0].wake->word);

	store_relaxed(&p.host->workers[0].control->state, wake << 32 | HOST_PARKED);
	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
	endpoint_flush(p.port, now());
	ck_assert(p.port->lanes[0].woken);
	endpoint_lane_state(p.port, 0, &state);
	ck_assert(p.port->lanes[0].woken);
	ck_assert_ptr_nonnull(host_lane_peek(lane));
	host_lane_advance(lane);
	host_state_set(p.host, 0, HOST_POLLING);
	endpoint_lane_state(p.port, 0, &state);
	ck_assert(!p.port->lanes[0].woken);
}
END_TEST

/* Few tokens for a parked worker gather for release_delay, then wake it. */
START_TEST(releases_wake_late)
{
	struct host_lane *lane = attachment_lane(p.host, 0, 0);
	uint64_t t = now(), wake = load_relaxed(&p.host->workers[0].wake->word);
	struct slot *s = host_lane_reserve(lane, true);

	s->kind = TO_DAEMON_MESSAGE;
	s->flags = SLOT_HAS_TOKEN;
	host_lane_commit(lane, s);
	store_relaxed(&p.host->workers[0].control->state, wake << 32 | HOST_PARKED);
	ck_assert_int_eq(poll_all(), 1);
	endpoint_flush(p.port, t);
	ck_assert_uint_eq(p.counters.releases_out, 0);
	ck_assert_uint_eq(endpoint_next_ns(p.port), t + MS);
	endpoint_flush(p.port, t + MS);
	ck_assert_uint_eq(p.counters.releases_out, 1);
	ck_assert_uint_eq(p.counters.wakes, 1);
}
END_TEST

START_TEST(daemon_sleep)
{
	struct host_lane *lane = attachment_foreign(p.host, 0);
	struct pollfd pfd = {.fd = endpoint_eventfd(p.port), .events = POLLIN};
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	int ep = epoll_create1(EPOLL_CLOEXEC);

	ck_assert_int_eq(epoll_ctl(ep, EPOLL_CTL_ADD, pfd.fd, &ev), 0);
	/* Awake: no system call. */
	answer(lane, 0, 0, 0);
	host_lane_ring(lane);
	ck_assert_int_eq(poll(&pfd, 1, 0), 0);
	ck_assert(!endpoint_arm_sleep(p.port));
	ck_assert_uint_eq(p.counters.sleeps_refused, 1);
	ck_assert_int_eq(poll_all(), 1);
	for (int i = 0; i < 3; i++) {
		ck_assert(endpoint_arm_sleep(p.port));
		ck_assert_int_eq(epoll_wait(ep, &ev, 1, 0), 0);
		answer(lane, 0, 0, 0);
		host_lane_ring(lane);
		host_lane_ring(lane);
		/* Edge-triggered: each sleep sees its own wake though nobody reads the eventfd. */
		ck_assert_int_eq(epoll_wait(ep, &ev, 1, 1000), 1);
		ck_assert_int_eq(epoll_wait(ep, &ev, 1, 0), 0);
		endpoint_disarm_sleep(p.port);
		ck_assert_int_eq(poll_all(), 1);
	}
	close(ep);
}
END_TEST

/* ---- revoke */

/* Both ends say where they are; only a pinned daemon worker and the core that a worker which is not
 * retired was on last count. */
START_TEST(cores_shared)
{
	cpu_set_t before, one;

	CPU_ZERO(&one);
	ck_assert_int_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_SET((unsigned)sched_getcpu(), &one);
	ck_assert(!endpoint_shares_core(p.port));
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	if (CPU_COUNT(&before) > 1)
		ck_assert(!host_shares_core(p.host, 0)); /* the daemon worker was not pinned */
	endpoint_port_adopt(p.port, &p.counters);
	ck_assert(host_shares_core(p.host, 0));
	ck_assert(!endpoint_shares_core(p.port)); /* retired until it begins */
	host_state_set(p.host, 0, HOST_POLLING);
	ck_assert(endpoint_shares_core(p.port));
	p.host->workers[0].control->core++;
	ck_assert(!endpoint_shares_core(p.port));
	ck_assert_int_eq(sched_setaffinity(0, sizeof(before), &before), 0);
	endpoint_port_adopt(p.port, &p.counters);
}
END_TEST

START_TEST(revoke_request)
{
	struct endpoint_config config = pair_config();
	struct endpoint_blocks blocks;
	struct host_lane *lane;
	uint64_t id;

	pair_close(&p);
	config.revocable = true;
	setup_with(&config);
	lane = attachment_lane(p.host, 0, 0);
	/* Not begun: taken back; the host sees that and refuses, which is stale then. */
	id = open_call(NULL);
	ck_assert_int_eq(submit(id, 0, 100, 1), 0);
	ck_assert_int_eq(endpoint_revoke(p.port, id, now(), &blocks), 0);
	ck_assert_uint_eq(blocks.count, 1);
	ck_assert_uint_eq(endpoint_bytes_used(p.port), 256);
	endpoint_blocks_put(p.port, &blocks);
	ck_assert_uint_eq(endpoint_bytes_used(p.port), 0);
	ck_assert(!host_lane_claim(lane, host_lane_peek(lane)));
	host_lane_advance(lane);
	/* Begun: too late. */
	id = open_call(NULL);
	ck_assert_int_eq(submit(id, 0, 100, 1), 0);
	ck_assert(host_lane_claim(lane, host_lane_peek(lane)));
	ck_assert_int_eq(endpoint_revoke(p.port, id, now(), &blocks), -SPLIT_E_SHEPHERD_STALE);
	host_lane_advance(lane);
	ck_assert_int_eq(endpoint_revoke(p.port, id, now(), &blocks), -SPLIT_E_SHEPHERD_STALE);
	ck_assert_uint_eq(p.counters.revoked, 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/endpoint");
	TCase *t = tcase_create("endpoint");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, unary_call);
	tcase_add_test(t, inline_request);
	tcase_add_test(t, ring_laps);
	tcase_add_test(t, completion_ring_full);
	tcase_add_test(t, stale_and_repeated);
	tcase_add_test(t, quota_and_timeout);
	tcase_add_test(t, holds_run_out);
	tcase_add_test(t, calls_run_out_and_are_visited);
	tcase_add_test(t, response_releases);
	tcase_add_test(t, response_tokens_bounded);
	tcase_add_loop_test(t, nonsense, 0, 15);
	tcase_add_loop_test(t, nonsense_sequence, 0, 3);
	tcase_add_loop_test(t, nonsense_head, 0, 2);
	tcase_add_test(t, nonsense_states_and_status);
	tcase_add_test(t, metadata_both_ways);
	tcase_add_loop_test(t, park_and_wake, 0, 4);
	tcase_add_test(t, park_times_out);
	tcase_add_test(t, parked_liar);
	tcase_add_test(t, wake_forgotten);
	tcase_add_test(t, releases_wake_late);
	tcase_add_test(t, daemon_sleep);
	tcase_add_test(t, cores_shared);
	tcase_add_test(t, revoke_request);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
