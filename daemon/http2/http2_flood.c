/* Frames that cost us more than they cost the peer (RFC 9113 s10.5; CVE-2019-9512, -9514, -9515,
 * -9518, CVE-2023-44487, CVE-2024-27316).
 *
 * Each kind has a budget of its own: a burst, refilled with time, and by useful work where honest
 * peers send such frames in proportion to it. The common path is one decrement; time is only looked
 * at when a budget is empty.
 */
#include "daemon/http2/http2_internal.h"

#define NS_PER_S UINT64_C(1000000000)

static const struct http2_budget *budget_of(const struct http2_session *s, enum flood_kind kind)
{
	const struct http2_config *c = &s->engine->config;

	switch (kind) {
	case FLOOD_RESETS:
		return &c->resets;
	case FLOOD_PINGS:
		return &c->pings;
	case FLOOD_SETTINGS:
		return &c->settings;
	case FLOOD_WINDOWS:
		return &c->windows;
	default:
		return &c->empty;
	}
}

void http2_flood_init(struct http2_session *s)
{
	for (unsigned kind = 0; kind < FLOOD_KINDS; kind++) {
		s->flood[kind].left = budget_of(s, kind)->burst;
		s->flood[kind].refilled_ns = s->now_ns;
	}
}

void http2_flood_exceeded(struct http2_session *s, enum flood_kind kind)
{
	struct http2_counters *c = &s->engine->counters;
	uint64_t *const counters[FLOOD_KINDS] = {
		[FLOOD_RESETS] = &c->flood_resets,     [FLOOD_PINGS] = &c->flood_pings,
		[FLOOD_SETTINGS] = &c->flood_settings, [FLOOD_EMPTY] = &c->flood_empty,
		[FLOOD_WINDOWS] = &c->flood_windows,
	};

	if (s->error != 0)
		return;
	counter_inc(counters[kind]);
	http2_session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
}

/* The budget is empty: what has time given since the last look? */
static __attribute__((noinline)) void flood_refill(struct http2_session *s, enum flood_kind kind)
{
	const struct http2_budget *budget = budget_of(s, kind);
	struct flood_level *level = &s->flood[kind];
	uint64_t elapsed = s->now_ns > level->refilled_ns ? s->now_ns - level->refilled_ns : 0;
	uint64_t gained;

	if (elapsed > 3600 * NS_PER_S)
		elapsed = 3600 * NS_PER_S;
	gained = elapsed * budget->per_second / NS_PER_S;
	if (gained > budget->burst)
		gained = budget->burst;
	if (gained == 0) {
		http2_flood_exceeded(s, kind);
		return;
	}
	level->refilled_ns = s->now_ns;
	level->left = (int64_t)gained - 1;
}

void http2_flood_spend(struct http2_session *s, enum flood_kind kind)
{
	if (unlikely(--s->flood[kind].left < 0))
		flood_refill(s, kind);
}

void http2_flood_earn(struct http2_session *s, enum flood_kind kind, uint32_t n)
{
	int64_t left = s->flood[kind].left + n;
	int64_t burst = budget_of(s, kind)->burst;

	s->flood[kind].left = left < burst ? left : burst;
}
