#include "daemon/balance/balance_internal.h"

#include <string.h>

/* How long the lane's oldest slot has waited for its worker. */
static uint64_t lane_waited(const struct balance_lane *l, uint64_t now_ns)
{
	return l->oldest_ns != 0 && now_ns > l->oldest_ns ? now_ns - l->oldest_ns : 0;
}

/* A slot that waited so long shows that too much was published ahead of its worker: some handlers
 * long, and well below what a client would notice if it all waited once more behind it. */
#define LANE_PACE_NS (1000 * 1000)

/* Half of what was too much, not all of it at once: what a brisk worker needs ahead of it is what
 * it takes in the time that a daemon worker is away, and that depends on both. Slots that were
 * published before are no news. */
static void lane_slow_down(struct balance_endpoint *e, unsigned lane, const struct balance_lane *l,
			   uint64_t now_ns)
{
	uint32_t half = e->lane_bound[lane] / 2;

	if (l->oldest_ns <= e->lane_slowed_ns[lane])
		return;
	e->lane_slowed_ns[lane] = now_ns;
	e->lane_bound[lane] = half > e->lane_depth ? half : e->lane_depth;
}

enum lane_class {
	LANE_POLLING_FREE, /* in order of preference */
	LANE_RUNNING,
	LANE_PARKED,
	LANE_DEEP,
	LANE_LATE,
	LANE_NONE,
};

static enum lane_class lane_classify(const struct balance *b, struct balance_endpoint *e,
				     unsigned lane, const struct balance_lane *l, uint64_t now_ns)
{
	uint64_t waited = lane_waited(l, now_ns);

	if (waited > LANE_PACE_NS)
		lane_slow_down(e, lane, l, now_ns);
	if (l->state == BALANCE_LANE_RETIRED || l->full || l->ahead >= e->lane_bound[lane] ||
	    waited > e->stall_timeout_ns)
		return LANE_NONE;
	if (waited > b->lane_patience_ns || l->last_resort)
		return LANE_LATE;
	if (l->ahead >= e->lane_depth)
		return LANE_DEEP;
	switch (l->state) {
	case BALANCE_LANE_POLLING:
		return l->ahead == 0 ? LANE_POLLING_FREE : LANE_RUNNING;
	case BALANCE_LANE_RUNNING:
		return LANE_RUNNING;
	case BALANCE_LANE_PARKED:
		/* Woken already, on its way: as good as running. */
		return l->ahead == 0 ? LANE_PARKED : LANE_RUNNING;
	default:
		return LANE_NONE;
	}
}

/* The best lane of `e` now, or LANE_NONE. Among equals of a class the one with least ahead. */
static enum lane_class lane_choose(struct balance *b, struct balance_endpoint *e, uint64_t now_ns,
				   unsigned *lane_out)
{
	enum lane_class best = LANE_NONE;
	uint32_t best_ahead = 0;
	bool retired = false;

	for (unsigned i = 0; i < e->lanes; i++) {
		unsigned lane = (e->next_lane + i) % e->lanes;
		struct balance_lane l = {0};
		enum lane_class class;

		e->ops->lane_get(e->user, lane, &l);
		retired |= l.state == BALANCE_LANE_RETIRED;
		class = lane_classify(b, e, lane, &l, now_ns);
		if (class < best || (class == best && class != LANE_NONE && l.ahead < best_ahead)) {
			best = class;
			best_ahead = l.ahead;
			*lane_out = lane;
			if (class == LANE_POLLING_FREE)
				break;
		}
	}
	if (retired && best >= LANE_LATE && e->ops->wanted != NULL)
		e->ops->wanted(e->user);
	if (best == LANE_NONE)
		return best;
	e->next_lane = (*lane_out + 1) % e->lanes;
	/* It ran empty while calls waited for it. */
	if (best_ahead == 0 && e->queued != 0 && 2 * e->lane_bound[*lane_out] <= e->lane_depth_max)
		e->lane_bound[*lane_out] *= 2;
	return best;
}

static void placed_count(struct balance *b, enum lane_class class)
{
	uint64_t *counters[] = {
		[LANE_POLLING_FREE] = &b->counters.placed_polling,
		[LANE_RUNNING] = &b->counters.placed_running,
		[LANE_PARKED] = &b->counters.placed_parked,
		[LANE_DEEP] = &b->counters.placed_deep,
		[LANE_LATE] = &b->counters.placed_late,
	};

	counter_inc(counters[class]);
}

int balance_place(struct balance *b, struct balance_call *call, uint64_t now_ns, unsigned *lane_out)
{
	struct balance_endpoint *e = call->endpoint;
	enum lane_class class = LANE_NONE;

	b->now_ns = now_ns;
	/* Nobody overtakes the queue. */
	if (list_empty(&e->flows))
		class = lane_choose(b, e, now_ns, lane_out);
	if (class != LANE_NONE) {
		placed_count(b, class);
		return 0;
	}
	return queue_join(b, call, now_ns);
}

int balance_defer(struct balance *b, struct balance_call *call, uint64_t now_ns)
{
	counter_inc(&b->counters.queue_deferred);
	return queue_join(b, call, now_ns);
}

struct balance_call *balance_next(struct balance *b, struct balance_endpoint *e, uint64_t now_ns,
				  unsigned *lane_out)
{
	struct balance_call *call = queue_first(e);
	enum lane_class class;

	if (call == NULL)
		return NULL;
	class = lane_choose(b, e, now_ns, lane_out);
	if (class == LANE_NONE)
		return NULL;
	queue_turn(e, call);
	queue_take(b, call);
	placed_count(b, class);
	return call;
}

void balance_unplace(struct balance *b, struct balance_call *call)
{
	if (!call->queued)
		queue_put(b, call, true);
}

static void endpoint_tick(struct balance *b, struct balance_endpoint *e, uint64_t now_ns)
{
	unsigned usable = 0;
	bool stalled = false;

	for (unsigned lane = 0; lane < e->lanes; lane++) {
		struct balance_lane l = {0};

		e->ops->lane_get(e->user, lane, &l);
		if (lane_waited(&l, now_ns) > e->stall_timeout_ns)
			stalled = true;
		else
			usable += l.state != BALANCE_LANE_RETIRED;
	}
	if (!e->ejected && stalled && usable == 0) {
		e->ejected = true;
		counter_inc(&b->counters.ejected);
		endpoint_state_look(b, e);
		queue_drop(b, e);
	} else if (e->ejected && usable != 0) {
		e->ejected = false;
		counter_inc(&b->counters.restored);
		endpoint_state_look(b, e);
	}
	queue_expire(b, e, now_ns);
}

void balance_tick(struct balance *b, uint64_t now_ns)
{
	b->now_ns = now_ns;
	for (size_t i = 0; i < b->services_n; i++)
		if (b->services[i].picker.members_n != 0)
			picker_tick(&b->services[i].picker, now_ns);
	list_for_each (pos, &b->endpoints) {
		struct balance_endpoint *e = list_entry(pos, struct balance_endpoint, link);

		if (!e->closed)
			endpoint_tick(b, e, now_ns);
	}
	queue_give_back(b);
}
