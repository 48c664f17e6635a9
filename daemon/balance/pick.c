/* The endpoint of a call: the service's picker says which. */
#include "daemon/balance/balance_internal.h"

struct pick {
	const struct balance *b;
	const struct balance_method *method;
};

static struct balance_member *member_of(const struct picker_member *m)
{
	return (struct balance_member *)(uintptr_t)m;
}

static bool serves(void *ctx, const struct picker_member *m)
{
	const struct pick *pick = ctx;

	return route_find(pick->b, pick->method, member_of(m)->endpoint) != NULL;
}

int balance_pick(struct balance *b, struct balance_method *m, const struct picker_key *key,
		 struct balance_call *call, void **route_out)
{
	struct balance_service *s = m->service;
	struct pick pick = {b, m};
	struct picker_key asked = key != NULL ? *key : (struct picker_key){0};
	struct picker_member *got;

	if (s->calls >= s->calls_max) {
		counter_inc(&b->counters.calls_full);
		return -SPLIT_E_BALANCE_CALLS;
	}
	asked.fits = m->served == s->picker.members_n ? NULL : serves;
	asked.ctx = &pick;
	got = picker_pick(&s->picker, &asked);
	if (got == NULL) {
		counter_inc(&b->counters.no_endpoint);
		return -SPLIT_E_BALANCE_NONE;
	}
	picker_begin(got);
	list_init(&call->link);
	call->member = member_of(got);
	call->endpoint = call->member->endpoint;
	call->service = s;
	call->line = NULL;
	call->queued = false;
	call->result = PICKER_NEUTRAL;
	s->calls++;
	counter_inc(&b->counters.picked);
	*route_out = route_find(b, m, call->endpoint)->user;
	return 0;
}

static void drained_look(struct balance *b, struct balance_endpoint *e)
{
	if (!e->draining || e->drained || e->outstanding != 0)
		return;
	e->drained = true;
	counter_inc(&b->counters.drained);
}

void balance_done(struct balance *b, struct balance_call *call)
{
	struct balance_endpoint *e = call->endpoint;
	struct balance_member *m = call->member;

	if (e == NULL)
		return;
	if (call->line != NULL)
		queue_take(b, call);
	list_del(&call->link); /* it may have been about to be given back */
	call->queued = false;
	picker_end(m->in ? &m->service->picker : NULL, &m->picker, call->result, b->now_ns);
	call->service->calls--;
	call->endpoint = NULL;
	call->member = NULL;
	drained_look(b, e);
}

void endpoint_state_look(struct balance *b, struct balance_endpoint *e)
{
	enum picker_state state = e->ejected    ? PICKER_DOWN
				  : e->draining ? PICKER_DRAINING
						: PICKER_UP;

	list_for_each (pos, &e->members) {
		struct balance_member *m = list_entry(pos, struct balance_member, in_endpoint);

		if (m->in)
			picker_state_set(&m->service->picker, &m->picker, state, b->now_ns);
	}
}

void balance_endpoint_drain(struct balance *b, struct balance_endpoint *e, bool drains)
{
	if (e->closed || e->draining == drains)
		return;
	e->draining = drains;
	e->drained = false;
	if (drains)
		counter_inc(&b->counters.draining);
	endpoint_state_look(b, e);
	drained_look(b, e);
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

bool balance_endpoint_drained(const struct balance_endpoint *e)
{
	return e->drained;
}

bool balance_endpoint_failing(const struct balance_endpoint *e)
{
	list_for_each (pos, &e->members)
		if (list_entry(pos, struct balance_member, in_endpoint)->picker.ejected)
			return true;
	return false;
}

const struct balance_counters *balance_counters_get(const struct balance *b)
{
	return &b->counters;
}

const struct picker_counters *balance_service_counters(const struct balance *b, size_t service)
{
	return &b->services[service].picker.counters;
}
