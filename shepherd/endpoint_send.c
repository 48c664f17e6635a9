/* To the host: blocks, slots, releases, doorbells.
 *
 * A slot is written in place and published by its sequence (release). The doorbell is apart, once
 * for each poll: one fence, then one look at the control line of each worker that got something.
 * That is Dekker's pattern with the host's park: we store the slot, fence, load its state; it
 * stores its state, fences, loads the slot. One of the two sees the other.
 */
#include "shepherd/shepherd_internal.h"

#include <assert.h>
#include <string.h>

/* ---- blocks */

int endpoint_block_get(struct endpoint_port *p, struct endpoint_blocks *blocks, size_t bytes,
		       struct shepherd_chunk *out)
{
	size_t rounded;
	uint32_t unit;
	int rc;

	if (bytes == 0 || bytes > p->block_max)
		return -SPLIT_E_BASE_LIMIT;
	rounded = bytes <= SHEPHERD_BLOCK_MIN
			  ? SHEPHERD_BLOCK_MIN
			  : (size_t)1 << (64 - __builtin_clzll((unsigned long long)bytes - 1));
	if (arena_used(p->arena) + rounded > p->quota_bytes) {
		counter_inc(&p->counters->quota_full);
		return -SPLIT_E_SHEPHERD_QUOTA;
	}
	rc = arena_get(p->arena, bytes, out);
	if (rc < 0) {
		counter_inc(&p->counters->arena_full);
		return rc;
	}
	unit = (uint32_t)((size_t)(out->mem - p->arena_mem) / SHEPHERD_BLOCK_MIN);
	p->block_next[unit] = blocks->head;
	blocks->head = unit + 1;
	blocks->count++;
	blocks->bytes += out->bytes;
	return 0;
}

void blocks_free(struct endpoint_port *p, uint32_t head)
{
	while (head != 0) {
		uint32_t unit = head - 1;

		head = p->block_next[unit];
		if (arena_put(p->arena, p->arena_mem + (size_t)unit * SHEPHERD_BLOCK_MIN) < 0)
			assert(!"a list names a block that is not held");
	}
}

void endpoint_blocks_move(struct endpoint_port *p, struct endpoint_blocks *to,
			  struct endpoint_blocks *from)
{
	uint32_t *last = &from->head;

	while (*last != 0)
		last = &p->block_next[*last - 1];
	*last = to->head;
	to->head = from->head;
	to->count += from->count;
	to->bytes += from->bytes;
	*from = (struct endpoint_blocks){0};
}

void endpoint_blocks_put(struct endpoint_port *p, struct endpoint_blocks *blocks)
{
	blocks_free(p, blocks->head);
	*blocks = (struct endpoint_blocks){0};
}

size_t endpoint_block_max(const struct endpoint_port *p)
{
	return p->block_max;
}

uint64_t endpoint_bytes_used(const struct endpoint_port *p)
{
	return arena_used(p->arena);
}

/* ---- the request ring */

/* Acquire: the host has read a slot before it says so, and we write it only after we saw that. */
void lane_head_load(struct endpoint_port *p, struct lane *l)
{
	uint32_t head = load_acquire(&l->host_line->head);

	peer_taken(port_theirs_at_host(p, &l->host_line->head));
	if ((uint32_t)(head - l->head_seen) > (uint32_t)(l->tail - l->head_seen)) {
		port_fault(p, -SPLIT_E_SHEPHERD_PROTOCOL,
			   "request lane %u: head %u is not between %u and %u",
			   (unsigned)(l - p->lanes), head, l->head_seen, l->tail);
		return;
	}
	l->head_seen = head;
	/* Forgotten as soon as it is taken: a lane that is never full and never parks for 2^31
	 * slots would else look as if the wake were still to be taken, and sleep for ever. The
	 * head is looked at at least once for each round of the ring. */
	if (l->woken && (int32_t)(head - l->woken_tail) >= 0)
		l->woken = false;
}

uint32_t lane_room(struct endpoint_port *p, struct lane *l)
{
	if (l->tail - l->head_seen == l->request_slots)
		lane_head_load(p, l);
	return l->request_slots - (l->tail - l->head_seen);
}

#define LANE_FETCH_AHEAD 2

static struct slot *lane_slot(const struct lane *l)
{
	return &l->requests[l->tail & (l->request_slots - 1)];
}

static void lane_publish(struct endpoint_port *p, struct lane *l, struct slot *slot,
			 uint64_t now_ns)
{
	l->published_ns[l->tail & (l->request_slots - 1)] = now_ns;
	l->tail++;
	peer_published(port_ours_at_host(p, &slot->seq));
	store_release(&slot->seq, l->tail); /* ticket + 1: the slot is valid */
	store_relaxed(&l->daemon_line->tail, l->tail);
	l->dirty = true;
	p->any_dirty = true;
	counter_inc(&p->counters->slots_out);
	/* The host has read the slots that come next, so their lines are on its core: ask for one
	 * that is certainly free now, not when it is written. */
	if (l->request_slots - (l->tail - l->head_seen) > LANE_FETCH_AHEAD)
		__builtin_prefetch(
			&l->requests[(l->tail + LANE_FETCH_AHEAD) & (l->request_slots - 1)], 1);
}

int endpoint_inline_area(struct endpoint_port *p, unsigned lane, struct shepherd_chunk *out)
{
	struct lane *l;

	if (lane >= p->lanes_n)
		return -SPLIT_E_BASE_INVALID;
	l = &p->lanes[lane];
	if (p->fault != 0 || lane_room(p, l) == 0)
		return -SPLIT_E_SHEPHERD_FULL;
	out->mem = lane_slot(l)->inline_area;
	out->bytes = SLOT_INLINE_BYTES;
	return 0;
}

static bool kind_of_call(enum slot_kind kind)
{
	return kind == TO_HOST_REQUEST || kind == TO_HOST_MESSAGE || kind == TO_HOST_HALF_CLOSE ||
	       kind == TO_HOST_CANCEL || kind == TO_HOST_WRITABLE || kind == TO_HOST_STATUS ||
	       kind == TO_HOST_INITIAL_METADATA;
}

static bool kind_of_out(enum slot_kind kind)
{
	return kind == TO_HOST_MESSAGE || kind == TO_HOST_WRITABLE || kind == TO_HOST_STATUS ||
	       kind == TO_HOST_INITIAL_METADATA;
}

/* The call the slot is about (NULL: none), or why it can't be published. */
static int submit_check(struct endpoint_port *p, unsigned lane, const struct endpoint_request *r,
			struct call **call_out)
{
	struct call *c = NULL;

	*call_out = NULL;
	if (lane >= p->lanes_n || r->kind <= SLOT_NONE || r->kind >= TO_HOST_KINDS ||
	    r->kind == TO_HOST_RELEASE || r->inline_bytes > SLOT_INLINE_BYTES ||
	    (r->kind == TO_HOST_REQUEST && r->method >= p->endpoint->methods_n))
		return -SPLIT_E_BASE_INVALID;
	if (p->fault != 0)
		return p->fault;
	if (kind_of_call(r->kind)) {
		c = call_find(p, r->call_id);
		if (c == NULL || c->state != CALL_OPEN)
			return -SPLIT_E_SHEPHERD_STALE;
		if (r->kind == TO_HOST_REQUEST ? c->lane != INDEX_NONE : c->lane != lane)
			return -SPLIT_E_BASE_INVALID;
		if (c->out ? !kind_of_out(r->kind)
			   : r->kind == TO_HOST_STATUS || r->kind == TO_HOST_INITIAL_METADATA)
			return -SPLIT_E_BASE_INVALID;
	} else if (r->blocks != NULL && r->blocks->head != 0) {
		return -SPLIT_E_BASE_INVALID;
	}
	if (lane_room(p, &p->lanes[lane]) == 0) {
		counter_inc(&p->counters->ring_full);
		return p->fault != 0 ? p->fault : -SPLIT_E_SHEPHERD_FULL;
	}
	*call_out = c;
	return 0;
}

static uint8_t slot_fill_extra(struct slot *s, const struct endpoint_request *r)
{
	s->metadata = r->metadata;
	s->peer = r->peer;
	s->trace = r->trace;
	s->msg_bytes = r->msg_bytes;
	if (r->form & SLOT_FORM_WIRE) {
		s->limits = r->limits;
		s->elements_max = r->elements_max;
	} else {
		s->text = r->text;
		s->text_bytes = r->text_bytes;
	}
	store_relaxed(&s->revoke, 0);
	s->peer_port = r->peer_port;
	s->peer_family = r->peer_family;
	s->peer_flags = r->peer_flags;
	memcpy(s->peer_address, r->peer_address, sizeof(s->peer_address));
	return SLOT_EXTRA;
}

int endpoint_submit(struct endpoint_port *p, unsigned lane, const struct endpoint_request *r,
		    uint64_t now_ns)
{
	struct lane *l;
	struct call *c;
	struct slot *s;
	uint32_t hold = INDEX_NONE;
	uint8_t flags = r->flags & (SLOT_END_STREAM | SLOT_COMPRESSED | SLOT_HAS_STATUS);
	int rc = submit_check(p, lane, r, &c);

	if (rc < 0)
		return rc;
	l = &p->lanes[lane];
	s = lane_slot(l);
	s->info = r->info;
	if (c != NULL && r->blocks != NULL && r->blocks->head != 0) {
		hold = hold_take(p, c, r->blocks->head);
		if (hold == INDEX_NONE)
			return -SPLIT_E_SHEPHERD_HOLDS;
		*r->blocks = (struct endpoint_blocks){0};
		s->info = hold_token(p, hold);
		flags |= SLOT_HAS_TOKEN;
	}
	s->kind = (uint8_t)r->kind;
	s->inline_bytes = r->inline_bytes;
	s->form = r->form;
	s->call_id = r->call_id;
	s->method = r->method;
	s->msg_seq = r->msg_seq;
	s->deadline_ns = r->deadline_ns;
	s->msg = r->has_message ? r->msg : 0;
	s->code = s->data = 0;
	if (c != NULL && c->out) {
		s->code = c->code;
		s->data = c->data;
		s->status = r->status;
	}
	if (r->has_message)
		flags |= SLOT_HAS_MESSAGE | (r->inline_bytes != 0 ? SLOT_INLINE : 0);
	if (r->kind == TO_HOST_REQUEST) {
		s->code = p->endpoint->method_code[r->method];
		s->data = p->endpoint->method_data[r->method];
		c->lane = lane;
		c->ticket = l->tail;
		c->request_hold = hold;
		l->calls++;
		counter_inc(&p->counters->requests_out);
		if (r->inline_bytes != 0)
			counter_inc(&p->counters->requests_inline);
	}
	s->flags = flags | slot_fill_extra(s, r);
	lane_publish(p, l, s, now_ns);
	return 0;
}

/* Each was opened by its host and stays until it is told: none is forgotten, and they are no more
 * than the port has places. */
void refusals_publish(struct endpoint_port *p, uint64_t now_ns)
{
	while (p->refused_first != INDEX_NONE) {
		struct call *c = &p->calls[p->refused_first];
		const struct endpoint_request r = {
			.kind = TO_HOST_STATUS,
			.flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
			.status = c->status,
			.call_id = (uint64_t)c->generation << 32 | (uint64_t)p->worker << 24 |
				   SLOT_OUT | (p->refused_first - p->calls_max),
		};
		uint32_t next = c->holds;

		c->state = CALL_OPEN;
		c->holds = INDEX_NONE;
		if (endpoint_submit(p, c->lane, &r, now_ns) != 0) {
			c->state = CALL_REFUSED;
			c->holds = next;
			return; /* at a later flush */
		}
		c->state = CALL_FREE;
		p->refused_first = next;
		if (next == INDEX_NONE)
			p->refused_last = INDEX_NONE;
	}
}

int endpoint_revoke(struct endpoint_port *p, uint64_t call_id, uint64_t now_ns,
		    struct endpoint_blocks *blocks_out)
{
	struct call *c = call_find(p, call_id);
	struct lane *l;
	uint32_t want;

	*blocks_out = (struct endpoint_blocks){0};
	if (c == NULL || c->state != CALL_OPEN || c->lane == INDEX_NONE || !p->geometry->revocable)
		return -SPLIT_E_SHEPHERD_STALE;
	l = &p->lanes[c->lane];
	want = c->ticket + 1;
	if ((int32_t)(l->head_seen - want) >= 0)
		return -SPLIT_E_SHEPHERD_STALE;
	/* Ours is stored before we look at theirs, and the other way round there: at least one sees
	 * the other. When both do, we leave the call to the host, which refuses it. */
	store_relaxed(&l->requests[c->ticket & (l->request_slots - 1)].revoke, want);
	shepherd_fence();
	if ((int32_t)(load_acquire(&l->host_line->claim) - want) >= 0)
		return -SPLIT_E_SHEPHERD_STALE;
	if (c->request_hold != INDEX_NONE)
		*blocks_out = hold_blocks(p, c->request_hold);
	counter_inc(&p->counters->revoked);
	endpoint_call_close(p, call_id, now_ns);
	return 0;
}

void endpoint_lane_state(struct endpoint_port *p, unsigned lane, struct endpoint_lane_state *out)
{
	struct lane *l = &p->lanes[lane];
	uint32_t state = (uint32_t)load_relaxed(&l->control->state), oldest;
	uint32_t core = load_relaxed(&l->control->core);

	lane_head_load(p, l);
	*out = (struct endpoint_lane_state){
		.state = state < HOST_STATES ? (enum host_state)state : HOST_RUNNING,
		.queued = l->tail - l->head_seen,
		.room = l->request_slots - (l->tail - l->head_seen),
		.calls = l->calls,
		.heartbeat = load_relaxed(&l->control->heartbeat),
		.claim = load_relaxed(&l->host_line->claim),
		.core = core <= INT16_MAX ? (int)core - 1 : -1,
		.woken = l->woken,
	};
	/* A handler that takes long keeps its slot, but has claimed it: that is no stall. */
	oldest = l->head_seen;
	if (out->queued != 0 && out->claim == oldest + 1)
		oldest++;
	/* What was taken back waits for nobody. */
	while (oldest != l->tail &&
	       load_relaxed(&l->requests[oldest & (l->request_slots - 1)].revoke) == oldest + 1)
		oldest++;
	if (oldest != l->tail)
		out->oldest_ns = l->published_ns[oldest & (l->request_slots - 1)];
}

/* ---- response tokens on their way back */

void endpoint_token_release(struct endpoint_port *p, unsigned lane, uint64_t token)
{
	struct lane *l;
	uint32_t node = p->nodes_free;

	if (lane > p->lanes_n || node == INDEX_NONE || p->tokens_pending == p->tokens_out)
		return; /* more releases than deliveries: our own fault, and harmless */
	l = &p->lanes[lane];
	p->nodes_free = p->nodes[node].next;
	p->nodes[node].token = token;
	p->nodes[node].next = INDEX_NONE;
	if (l->tokens_last != INDEX_NONE)
		p->nodes[l->tokens_last].next = node;
	else
		l->tokens_first = node;
	l->tokens_last = node;
	l->tokens_n++;
	p->tokens_pending++;
}

/* Publish up to 16 of `from`'s tokens on `to`, which has room. */
static void tokens_publish(struct endpoint_port *p, struct lane *from, struct lane *to,
			   uint64_t now_ns)
{
	struct slot *s = lane_slot(to);
	uint32_t n = 0;

	while (n < SLOT_TOKENS_MAX && from->tokens_first != INDEX_NONE) {
		uint32_t node = from->tokens_first;

		s->tokens[n++] = p->nodes[node].token;
		from->tokens_first = p->nodes[node].next;
		p->nodes[node].next = p->nodes_free;
		p->nodes_free = node;
	}
	if (from->tokens_first == INDEX_NONE)
		from->tokens_last = INDEX_NONE;
	from->tokens_n -= n;
	p->tokens_pending -= n;
	p->tokens_out -= n;
	s->kind = TO_HOST_RELEASE;
	s->flags = 0;
	s->inline_bytes = (uint8_t)(n * sizeof(uint64_t));
	s->form = 0;
	s->call_id = 0;
	s->code = s->data = s->msg = 0;
	s->method = s->msg_seq = 0;
	s->deadline_ns = 0;
	s->info = n;
	lane_publish(p, to, s, now_ns);
	counter_add(&p->counters->releases_out, n);
}

static uint32_t lane_host_state(const struct lane *l)
{
	return (uint32_t)load_relaxed(&l->control->state);
}

/* Whom to give the tokens to: the worker they came from, while it takes slots; else any that does,
 * one that is awake first. NULL: nobody has room. */
static struct lane *tokens_target(struct endpoint_port *p, struct lane *from)
{
	struct lane *sleeping = NULL;

	if (from != &p->lanes[p->lanes_n] && lane_host_state(from) != HOST_RETIRED &&
	    lane_room(p, from) != 0)
		return from;
	for (unsigned i = 0; i < p->lanes_n; i++) {
		struct lane *l = &p->lanes[i];
		uint32_t state = lane_host_state(l);

		if (state == HOST_RETIRED || lane_room(p, l) == 0)
			continue;
		if (state != HOST_PARKED || l->dirty)
			return l;
		if (sleeping == NULL)
			sleeping = l;
	}
	return sleeping;
}

static void tokens_flush(struct endpoint_port *p, struct lane *from, uint64_t now_ns)
{
	if (from->tokens_since_ns == 0)
		from->tokens_since_ns = now_ns;
	while (from->tokens_n != 0) {
		struct lane *to = tokens_target(p, from);

		if (to == NULL) {
			counter_inc(&p->counters->releases_deferred);
			from->tokens_since_ns = now_ns; /* try again after the delay */
			return;
		}
		/* A few tokens alone are not worth waking anybody, for a while. */
		if (from->tokens_n < SLOT_TOKENS_MAX && !to->dirty &&
		    lane_host_state(to) == HOST_PARKED &&
		    now_ns - from->tokens_since_ns < p->release_delay_ns)
			return;
		tokens_publish(p, from, to, now_ns);
	}
	from->tokens_since_ns = 0;
}

/* ---- doorbells */

/* After the fence. Wake the host worker if it is parked (or retired, which sleeps the same way) and
 * nobody has woken it since. A host that says PARKED though it has not taken what it was last woken
 * for is lying (it looks before it sleeps), and gets no further system call out of us. */
static void lane_ring_bell(struct endpoint_port *p, struct lane *l)
{
	uint64_t state = load_relaxed(&l->control->state);
	uint32_t parked_at = (uint32_t)(state >> 32);

	if ((uint32_t)state != HOST_PARKED && (uint32_t)state != HOST_RETIRED)
		return;
	if (l->woken)
		lane_head_load(p, l);
	if (l->woken) {
		counter_inc(&p->counters->wakes_saved);
		return;
	}
	if (!__atomic_compare_exchange_n(l->wake, &parked_at, parked_at + 1, false,
					 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
		counter_inc(&p->counters->wakes_saved);
		return;
	}
	l->woken = true;
	l->woken_tail = l->tail;
	futex_wake_shared(l->wake);
	counter_inc(&p->counters->wakes);
}

void endpoint_flush(struct endpoint_port *p, uint64_t now_ns)
{
	if (p->fault != 0)
		return;
	if (unlikely(p->refused_first != INDEX_NONE))
		refusals_publish(p, now_ns);
	if (p->tokens_pending != 0)
		for (unsigned i = 0; i <= p->lanes_n; i++)
			if (p->lanes[i].tokens_n != 0)
				tokens_flush(p, &p->lanes[i], now_ns);
	if (!p->any_dirty)
		return;
	p->any_dirty = false;
	shepherd_fence();
	for (unsigned i = 0; i < p->lanes_n; i++) {
		if (!p->lanes[i].dirty)
			continue;
		p->lanes[i].dirty = false;
		lane_ring_bell(p, &p->lanes[i]);
	}
}

uint64_t endpoint_next_ns(const struct endpoint_port *p)
{
	uint64_t next = UINT64_MAX;

	if (p->fault != 0)
		return next;
	for (unsigned i = 0; p->tokens_pending != 0 && i <= p->lanes_n; i++)
		if (p->lanes[i].tokens_n != 0 &&
		    p->lanes[i].tokens_since_ns + p->release_delay_ns < next)
			next = p->lanes[i].tokens_since_ns + p->release_delay_ns;
	if (p->release_timeout_ns != 0 && p->overdue_first != INDEX_NONE &&
	    p->holds[p->overdue_first].since_ns + p->release_timeout_ns < next)
		next = p->holds[p->overdue_first].since_ns + p->release_timeout_ns;
	return next;
}
