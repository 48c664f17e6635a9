/* Calls that wait for a lane: in line with others of their flow, flows taking turns. */
#include "daemon/balance/balance_internal.h"

/* Flows looked at for the longest, when the queue is full. */
#define LONGEST_LOOK_MAX 64

/* ---- flows ---------------------------------------------------------------------------------- */

static struct balance_flow **flow_slot(const struct balance *b, const struct balance_endpoint *e,
				       const struct balance_service *s, uint64_t id)
{
	const uint64_t who[3] = {(uintptr_t)e, (uintptr_t)s, id};
	struct balance_flow **at =
		&b->flow_buckets[siphash24(&b->key, who, sizeof(who)) & b->flows_mask];

	while (*at != NULL && ((*at)->id != id || (*at)->endpoint != e || (*at)->service != s))
		at = &(*at)->hash_next;
	return at;
}

static struct balance_flow *flow_get(struct balance *b, struct balance_call *call)
{
	struct balance_endpoint *e = call->endpoint;
	struct balance_flow **at = flow_slot(b, e, call->service, call->flow);
	struct balance_flow *f = *at;

	if (f != NULL)
		return f;
	f = pool_get(&b->flows_pool);
	if (f == NULL)
		return &e->spare;
	*f = (struct balance_flow){
		.endpoint = e,
		.service = call->service,
		.id = call->flow,
	};
	list_init(&f->link);
	list_init(&f->calls);
	*at = f;
	return f;
}

static void flow_put(struct balance *b, struct balance_flow *f)
{
	list_del(&f->link);
	if (f == &f->endpoint->spare)
		return;
	*flow_slot(b, f->endpoint, f->service, f->id) = f->hash_next;
	pool_put(&b->flows_pool, f);
}

/* ---- the queue ------------------------------------------------------------------------------ */

void queue_put(struct balance *b, struct balance_call *call, bool at_head)
{
	struct balance_endpoint *e = call->endpoint;
	struct balance_flow *f = flow_get(b, call);

	call->line = f;
	call->queued = true;
	f->n++;
	call->service->queued++;
	e->queued++;
	b->queued++;
	if (at_head) {
		list_add_head(&f->calls, &call->link);
		list_del(&f->link);
		list_add_head(&e->flows, &f->link);
	} else {
		list_add_tail(&f->calls, &call->link);
		if (f->n == 1)
			list_add_tail(&e->flows, &f->link);
	}
}

void queue_take(struct balance *b, struct balance_call *call)
{
	struct balance_flow *f = call->line;

	list_del(&call->link);
	call->queued = false;
	call->line = NULL;
	call->service->queued--;
	call->endpoint->queued--;
	b->queued--;
	if (--f->n == 0)
		flow_put(b, f);
}

struct balance_call *queue_first(const struct balance_endpoint *e)
{
	struct list *first = list_first(&e->flows);
	struct balance_flow *f;

	if (first == NULL)
		return NULL;
	f = list_entry(first, struct balance_flow, link);
	return list_entry(list_first(&f->calls), struct balance_call, link);
}

/* Flows take turns, so that the next call need not be the oldest: look at those of some. */
#define WAITED_LOOK_MAX 16

uint64_t balance_endpoint_waited(const struct balance_endpoint *e, uint64_t now_ns)
{
	uint64_t waited = 0;
	unsigned looked = 0;

	list_for_each (pos, &e->flows) {
		const struct balance_flow *f = list_entry(pos, struct balance_flow, link);
		const struct balance_call *call =
			list_entry(list_first(&f->calls), struct balance_call, link);

		if (looked++ == WAITED_LOOK_MAX)
			break;
		if (now_ns > call->queued_ns && now_ns - call->queued_ns > waited)
			waited = now_ns - call->queued_ns;
	}
	return waited;
}

void queue_turn(struct balance_endpoint *e, const struct balance_call *call)
{
	list_del(&call->line->link);
	list_add_tail(&e->flows, &call->line->link);
}

static void give_back(struct balance *b, struct balance_call *call, int cause)
{
	queue_take(b, call);
	call->queued = true; /* it goes nowhere else meanwhile */
	call->dropped = cause;
	list_add_tail(&b->given_back, &call->link);
}

/* ---- when it is full ------------------------------------------------------------------------ */

static struct balance_flow *flow_longest(const struct balance *b, const struct balance_service *s)
{
	struct balance_flow *longest = NULL;
	unsigned looked = 0;

	list_for_each (pos, &b->endpoints) {
		struct balance_endpoint *e = list_entry(pos, struct balance_endpoint, link);

		list_for_each (at, &e->flows) {
			struct balance_flow *f = list_entry(at, struct balance_flow, link);

			if (looked++ == LONGEST_LOOK_MAX)
				return longest;
			if (f->service == s && (longest == NULL || f->n > longest->n))
				longest = f;
		}
	}
	return longest;
}

/* The last call of the longest flow gives way. False: the newcomer's own is as long. */
static bool make_way(struct balance *b, const struct balance_call *call)
{
	const struct balance_flow *own = *flow_slot(b, call->endpoint, call->service, call->flow);
	uint32_t own_n = own != NULL ? own->n : 0;
	struct balance_flow *f = flow_longest(b, call->service);

	if (f == NULL || f->n <= own_n + 1)
		return false;
	counter_inc(&b->counters.queue_evicted);
	give_back(b, list_entry(list_last(&f->calls), struct balance_call, link),
		  -SPLIT_E_BALANCE_FULL);
	return true;
}

int queue_join(struct balance *b, struct balance_call *call, uint64_t now_ns)
{
	if (call->service->queued >= call->service->queue_max) {
		counter_inc(&b->counters.queue_full);
		if (call->service->queue_max == 0 || !make_way(b, call))
			return -SPLIT_E_BALANCE_FULL;
	}
	b->now_ns = now_ns;
	call->queued_ns = now_ns;
	queue_put(b, call, false);
	counter_inc(&b->counters.queued);
	return SPLIT_AGAIN;
}

/* ---- giving back ---------------------------------------------------------------------------- */

void queue_drop(struct balance *b, struct balance_endpoint *e)
{
	struct balance_call *call;

	while ((call = queue_first(e)) != NULL) {
		counter_inc(&b->counters.dropped);
		give_back(b, call, -SPLIT_E_BALANCE_NONE);
	}
}

/* A flow is in order of arrival, and of one service (but the spare one, where the first of the most
 * patient may keep others a little longer). */
static void flow_expire(struct balance *b, struct balance_flow *f, uint64_t now_ns)
{
	while (f->n != 0) {
		struct balance_call *call =
			list_entry(list_first(&f->calls), struct balance_call, link);
		uint64_t timeout_ns = call->service->queue_timeout_ns;
		bool last = f->n == 1;

		if (timeout_ns == 0 || now_ns - call->queued_ns < timeout_ns)
			return;
		counter_inc(&b->counters.queue_timeouts);
		give_back(b, call, -SPLIT_E_BALANCE_TIMEOUT);
		if (last)
			return; /* the flow is gone with it */
	}
}

void queue_expire(struct balance *b, struct balance_endpoint *e, uint64_t now_ns)
{
	list_for_each_safe (pos, &e->flows)
		flow_expire(b, list_entry(pos, struct balance_flow, link), now_ns);
}

void queue_give_back(struct balance *b)
{
	struct list *node;

	while ((node = list_pop_head(&b->given_back)) != NULL) {
		struct balance_call *call = list_entry(node, struct balance_call, link);

		call->queued = false;
		b->dropped(b->ctx, call->user, call->dropped);
	}
}
