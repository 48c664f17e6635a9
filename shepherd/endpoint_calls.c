/* Calls and holds of a port: what the daemon believes of a host, in private memory. A host names
 * both by index and generation, so that a name from before means nothing any more. */
#include "shepherd/shepherd_internal.h"

#include <sched.h>

#include "base/list.h"

/* Call id: generation << 32 | worker << 24 | index. */
static uint64_t call_id_of(const struct endpoint_port *p, const struct call *c)
{
	uint64_t index = (uint64_t)(c - p->calls);

	if (c->out)
		index = SLOT_OUT | (index - p->calls_max);
	return (uint64_t)c->generation << 32 | (uint64_t)p->worker << 24 | index;
}

struct call *call_out_at(struct endpoint_port *p, uint64_t id)
{
	uint32_t index = (uint32_t)id & SLOT_OUT_INDEX;

	if (((uint32_t)id & SLOT_OUT) == 0 || (((uint32_t)id >> 24) != p->worker) ||
	    index >= p->outs_max)
		return NULL;
	return &p->calls[p->calls_max + index];
}

struct call *call_find(struct endpoint_port *p, uint64_t id)
{
	uint32_t index = (uint32_t)id & 0xffffff;
	struct call *c;

	if ((index & SLOT_OUT) != 0) {
		c = call_out_at(p, id);
	} else {
		if (index >= p->calls_max || ((uint32_t)id >> 24) != p->worker)
			return NULL;
		c = &p->calls[index];
	}
	if (c == NULL)
		return NULL;
	return c->state != CALL_FREE && c->generation == (uint32_t)(id >> 32) ? c : NULL;
}

int endpoint_call_open(struct endpoint_port *p, void *user, uint64_t *id_out)
{
	struct call *c;

	if (p->calls_free == INDEX_NONE) {
		counter_inc(&p->counters->calls_full);
		return -SPLIT_E_SHEPHERD_CALLS;
	}
	c = &p->calls[p->calls_free];
	p->calls_free = c->holds;
	p->calls_open++;
	c->user = user;
	c->holds = INDEX_NONE;
	c->lane = INDEX_NONE;
	c->request_hold = INDEX_NONE;
	c->state = CALL_OPEN;
	*id_out = call_id_of(p, c);
	return 0;
}

/* The host has said its last word on it, or nobody listens any more. */
void call_end(struct endpoint_port *p, struct call *c)
{
	if (c->state != CALL_OPEN)
		return;
	c->state = CALL_ENDED;
	if (c->lane != INDEX_NONE && !c->out)
		p->lanes[c->lane].calls--;
}

unsigned endpoint_calls_open(const struct endpoint_port *p)
{
	return p->calls_open;
}

void endpoint_calls_each(struct endpoint_port *p,
			 void (*fn)(void *ctx, uint64_t call_id, void *user), void *ctx)
{
	for (uint32_t i = 0; i < p->calls_max && p->calls_open != 0; i++)
		if (p->calls[i].state != CALL_FREE)
			fn(ctx, call_id_of(p, &p->calls[i]), p->calls[i].user);
}

/* ---- calls out */

struct call *call_out_open(struct endpoint_port *p, uint64_t id, uint32_t home)
{
	struct call *c = call_out_at(p, id);

	if (c == NULL || c->state != CALL_FREE)
		return NULL;
	c->generation = (uint32_t)(id >> 32);
	c->user = NULL;
	c->holds = INDEX_NONE;
	c->request_hold = INDEX_NONE;
	c->lane = home;
	c->state = CALL_OPEN;
	counter_inc(&p->counters->outs);
	return c;
}

void endpoint_out_accept(struct endpoint_port *p, uint64_t id, void *user)
{
	struct call *c = call_find(p, id);

	if (c != NULL && c->out)
		c->user = user;
}

void endpoint_out_refuse(struct endpoint_port *p, uint64_t id, uint32_t status)
{
	struct call *c = call_find(p, id);
	uint32_t index;

	if (c == NULL || !c->out || c->state != CALL_OPEN)
		return;
	index = (uint32_t)(c - p->calls);
	c->state = CALL_REFUSED;
	c->status = (uint8_t)status;
	c->holds = INDEX_NONE;
	if (p->refused_last != INDEX_NONE)
		p->calls[p->refused_last].holds = index;
	else
		p->refused_first = index;
	p->refused_last = index;
	counter_inc(&p->counters->outs_refused);
}

void *endpoint_call_user(struct endpoint_port *p, uint64_t id)
{
	struct call *c = call_find(p, id);

	return c != NULL && !c->out && c->state == CALL_OPEN ? c->user : NULL;
}

/* ---- holds */

uint64_t hold_token(const struct endpoint_port *p, uint32_t hold)
{
	return (uint64_t)p->holds[hold].generation << 32 | (hold + 1);
}

uint32_t hold_take(struct endpoint_port *p, struct call *c, uint32_t blocks)
{
	uint32_t index = p->holds_free;
	struct hold *h;

	if (index == INDEX_NONE)
		return INDEX_NONE;
	h = &p->holds[index];
	p->holds_free = h->next;
	h->blocks = blocks;
	h->call = (uint32_t)(c - p->calls);
	h->prev = INDEX_NONE;
	h->next = c->holds;
	if (c->holds != INDEX_NONE)
		p->holds[c->holds].prev = index;
	c->holds = index;
	return index;
}

static void hold_unlink(struct endpoint_port *p, struct hold *h)
{
	if (h->next != INDEX_NONE)
		p->holds[h->next].prev = h->prev;
	else if (h->call == INDEX_NONE)
		p->overdue_last = h->prev;
	if (h->prev != INDEX_NONE)
		p->holds[h->prev].next = h->next;
	else if (h->call == INDEX_NONE)
		p->overdue_first = h->next;
	else
		p->calls[h->call].holds = h->next;
}

uint32_t hold_dissolve(struct endpoint_port *p, uint32_t index)
{
	struct hold *h = &p->holds[index];
	uint32_t blocks = h->blocks;

	hold_unlink(p, h);
	if (h->call != INDEX_NONE && p->calls[h->call].request_hold == index)
		p->calls[h->call].request_hold = INDEX_NONE;
	h->blocks = 0;
	h->generation = h->generation + 1 != 0 ? h->generation + 1 : 1;
	h->next = p->holds_free;
	p->holds_free = index;
	return blocks;
}

struct endpoint_blocks hold_blocks(struct endpoint_port *p, uint32_t index)
{
	struct endpoint_blocks blocks = {.head = hold_dissolve(p, index)};

	for (uint32_t b = blocks.head; b != 0; b = p->block_next[b - 1])
		blocks.count++;
	return blocks;
}

void hold_release(struct endpoint_port *p, uint64_t token)
{
	uint32_t index = (uint32_t)token - 1;

	if (index >= p->holds_max || p->holds[index].blocks == 0 ||
	    p->holds[index].generation != (uint32_t)(token >> 32)) {
		counter_inc(&p->counters->stale_releases);
		return;
	}
	blocks_free(p, hold_dissolve(p, index));
	counter_inc(&p->counters->releases_in);
}

void endpoint_call_close(struct endpoint_port *p, uint64_t id, uint64_t now_ns)
{
	struct call *c = call_find(p, id);

	if (c == NULL)
		return;
	call_end(p, c);
	/* What the host still holds goes to the end of the overdue list, oldest first there. */
	while (c->holds != INDEX_NONE) {
		uint32_t index = c->holds;
		struct hold *h = &p->holds[index];

		hold_unlink(p, h);
		h->call = INDEX_NONE;
		h->since_ns = now_ns;
		h->next = INDEX_NONE;
		h->prev = p->overdue_last;
		if (p->overdue_last != INDEX_NONE)
			p->holds[p->overdue_last].next = index;
		else
			p->overdue_first = index;
		p->overdue_last = index;
	}
	c->state = CALL_FREE;
	c->user = NULL;
	if (c->out)
		return; /* the host names the next one */
	c->generation = c->generation + 1 != 0 ? c->generation + 1 : 1;
	c->holds = p->calls_free;
	p->calls_free = (uint32_t)(c - p->calls);
	p->calls_open--;
}

/* ---- small things */

/* 1 + the only core this thread may run on, or 0. */
static uint32_t core_pinned(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0 || CPU_COUNT(&set) != 1)
		return 0;
	for (uint32_t core = 0; core < CPU_SETSIZE; core++)
		if (CPU_ISSET(core, &set))
			return core + 1;
	return 0;
}

void endpoint_port_adopt(struct endpoint_port *p, struct shepherd_counters *counters)
{
	struct daemon_sleep *sleep = container_of(p->sleep_word, struct daemon_sleep, word);

	p->counters = counters != NULL ? counters : &p->counters_own;
	p->core = core_pinned();
	store_relaxed(&sleep->core, p->core);
}

struct endpoint *endpoint_of_port(const struct endpoint_port *p)
{
	return p->endpoint;
}

void endpoint_port_set_user(struct endpoint_port *p, void *user)
{
	p->user = user;
}

void *endpoint_port_user(const struct endpoint_port *p)
{
	return p->user;
}

int64_t endpoint_delta(const struct endpoint_port *p)
{
	return p->delta;
}

struct shepherd_window endpoint_window(const struct endpoint_port *p)
{
	return p->window;
}

unsigned endpoint_lanes(const struct endpoint_port *p)
{
	return p->lanes_n;
}

const char *endpoint_cause(const struct endpoint_port *p)
{
	return p->cause;
}

int endpoint_eventfd(const struct endpoint_port *p)
{
	return p->eventfd;
}
