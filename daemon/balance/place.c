#include "daemon/balance/balance_internal.h"

#include <string.h>

static struct balance_route *route_least(struct balance_method *m)
{
	struct balance_route *best = NULL;

	list_for_each (pos, &m->routes) {
		struct balance_route *r = list_entry(pos, struct balance_route, in_method);

		if (r->endpoint->ejected)
			continue;
		if (best == NULL || r->endpoint->outstanding < best->endpoint->outstanding)
			best = r;
	}
	return best;
}

static struct balance_route *route_first(struct balance_method *m)
{
	list_for_each (pos, &m->routes) {
		struct balance_route *r = list_entry(pos, struct balance_route, in_method);

		if (!r->endpoint->ejected)
			return r;
	}
	return NULL;
}

int balance_pick(struct balance *b, struct balance_method *m, struct balance_call *call,
		 void **route_out)
{
	struct balance_service *s = m->service;
	struct balance_route *r;

	if (s->calls >= s->calls_max) {
		counter_inc(&b->counters.calls_full);
		return -SPLIT_E_BALANCE_CALLS;
	}
	r = s->policy == BALANCE_LEAST_OUTSTANDING ? route_least(m) : route_first(m);
	if (r == NULL) {
		counter_inc(&b->counters.no_endpoint);
		return -SPLIT_E_BALANCE_NONE;
	}
	/* To the back: round robin is this rotation, and least outstanding breaks its ties by it.
	 */
	list_del(&r->in_method);
	list_add_tail(&m->routes, &r->in_method);
	list_init(&call->link);
	call->endpoint = r->endpoint;
	call->service = s;
	call->queued = false;
	s->calls++;
	r->endpoint->outstanding++;
	counter_inc(&b->counters.picked);
	*route_out = r->user;
	return 0;
}

/* How long the lane's oldest slot has waited for its worker. */
static uint64_t lane_waited(const struct balance_lane *l, uint64_t now_ns)
{
	return l->oldest_ns != 0 && now_ns > l->oldest_ns ? now_ns - l->oldest_ns : 0;
}

/* A slot that waited so long shows that its worker is not brisk (any more): some handlers long, and
 * well below what a client would notice if it all waited once more behind it. */
#define LANE_PACE_NS (1000 * 1000)

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
		e->lane_bound[lane] = e->lane_depth;
	if (l->state == BALANCE_LANE_RETIRED || l->full || l->ahead >= e->lane_bound[lane] ||
	    waited > e->stall_timeout_ns)
		return LANE_NONE;
	if (waited > b->lane_patience_ns)
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

	for (unsigned i = 0; i < e->lanes; i++) {
		unsigned lane = (e->next_lane + i) % e->lanes;
		struct balance_lane l = {0};
		enum lane_class class;

		e->ops->lane_get(e->user, lane, &l);
		class = lane_classify(b, e, lane, &l, now_ns);
		if (class < best || (class == best && class != LANE_NONE && l.ahead < best_ahead)) {
			best = class;
			best_ahead = l.ahead;
			*lane_out = lane;
			if (class == LANE_POLLING_FREE)
				break;
		}
	}
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

static void enqueue(struct balance *b, struct balance_call *call, bool at_head)
{
	struct balance_endpoint *e = call->endpoint;

	if (at_head)
		list_add_head(&e->queue, &call->link);
	else
		list_add_tail(&e->queue, &call->link);
	call->queued = true;
	call->service->queued++;
	e->queued++;
	b->queued++;
}

static void dequeue(struct balance *b, struct balance_call *call)
{
	list_del(&call->link);
	call->queued = false;
	call->service->queued--;
	call->endpoint->queued--;
	b->queued--;
}

int balance_place(struct balance *b, struct balance_call *call, uint64_t now_ns, unsigned *lane_out)
{
	struct balance_endpoint *e = call->endpoint;
	enum lane_class class = LANE_NONE;

	/* Nobody overtakes the queue. */
	if (list_empty(&e->queue))
		class = lane_choose(b, e, now_ns, lane_out);
	if (class != LANE_NONE) {
		placed_count(b, class);
		return 0;
	}
	if (call->service->queued >= call->service->queue_max) {
		counter_inc(&b->counters.queue_full);
		return -SPLIT_E_BALANCE_FULL;
	}
	call->queued_ns = now_ns;
	enqueue(b, call, false);
	counter_inc(&b->counters.queued);
	return SPLIT_AGAIN;
}

struct balance_call *balance_next(struct balance *b, struct balance_endpoint *e, uint64_t now_ns,
				  unsigned *lane_out)
{
	struct list *first = list_first(&e->queue);
	struct balance_call *call;
	enum lane_class class;

	if (first == NULL)
		return NULL;
	class = lane_choose(b, e, now_ns, lane_out);
	if (class == LANE_NONE)
		return NULL;
	call = list_entry(first, struct balance_call, link);
	dequeue(b, call);
	placed_count(b, class);
	return call;
}

void balance_unplace(struct balance *b, struct balance_call *call)
{
	if (!call->queued)
		enqueue(b, call, true);
}

void balance_done(struct balance *b, struct balance_call *call)
{
	if (call->endpoint == NULL)
		return;
	if (call->queued)
		dequeue(b, call);
	call->endpoint->outstanding--;
	call->service->calls--;
	call->endpoint = NULL;
}

static void endpoint_drop_queue(struct balance *b, struct balance_endpoint *e)
{
	struct list *node;

	while ((node = list_first(&e->queue)) != NULL) {
		struct balance_call *call = list_entry(node, struct balance_call, link);

		dequeue(b, call);
		counter_inc(&b->counters.dropped);
		b->dropped(b->ctx, call->user, -SPLIT_E_BALANCE_NONE);
	}
}

/* The queue is in order of arrival but services differ in patience, so all of it is looked at. */
static void endpoint_expire_queue(struct balance *b, struct balance_endpoint *e, uint64_t now_ns)
{
	list_for_each_safe (pos, &e->queue) {
		struct balance_call *call = list_entry(pos, struct balance_call, link);
		uint64_t timeout_ns = call->service->queue_timeout_ns;

		if (timeout_ns == 0 || now_ns - call->queued_ns < timeout_ns)
			continue;
		dequeue(b, call);
		counter_inc(&b->counters.queue_timeouts);
		b->dropped(b->ctx, call->user, -SPLIT_E_BALANCE_TIMEOUT);
	}
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
		endpoint_drop_queue(b, e);
	} else if (e->ejected && usable != 0) {
		e->ejected = false;
		counter_inc(&b->counters.restored);
	}
	endpoint_expire_queue(b, e, now_ns);
}

void balance_tick(struct balance *b, uint64_t now_ns)
{
	list_for_each_safe (pos, &b->endpoints) {
		struct balance_endpoint *e = list_entry(pos, struct balance_endpoint, link);

		if (!e->closed)
			endpoint_tick(b, e, now_ns);
	}
}

uint32_t balance_queued(const struct balance *b)
{
	return b->queued;
}

uint32_t balance_endpoint_queued(const struct balance_endpoint *e)
{
	return e->queued;
}

uint32_t balance_endpoint_outstanding(const struct balance_endpoint *e)
{
	return e->outstanding;
}

bool balance_endpoint_ejected(const struct balance_endpoint *e)
{
	return e->ejected;
}

const struct balance_counters *balance_counters_get(const struct balance *b)
{
	return &b->counters;
}
