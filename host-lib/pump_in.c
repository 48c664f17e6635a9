/* What splitd sends, to the workers.
 *
 * The choice that a daemon's worker makes for hosts on its machine is made here, beside the workers
 * whose states it reads: one that polls, else one that is parked, which is woken, else one that
 * runs and has nothing ahead. A call never waits behind a handler while another worker is free:
 * what lies behind one that takes long is taken back (claim and revoke, docs/SHARED-MEMORY.md).
 *
 * Slots of one call keep their order. Those that find no room wait, each call's by itself, in
 * memory that the window bounds.
 */
#include <stdlib.h>
#include <string.h>

#include "host-lib/pump.h"

#define AHEAD_ALONE  16 /* calls ahead of the only worker there is */
#define TAKE_BACK_NS (2 * CLOCK_NS_PER_MS)
#define DUE_RETRY_NS CLOCK_NS_PER_MS
#define DUE_MAX      262144u /* slots that wait; those without parts cost no window */

enum delivery { DONE, LATER, NO_WORKER /* later too */, GONE /* done, and the call is freed */ };

/* ------------------------------------------------------------------ calls */

static struct pump_calls *calls_of(struct pump *p, uint64_t wire_id, uint32_t *place)
{
	unsigned d = attachment_call_worker(wire_id);
	struct pump_calls *c;

	if (d >= p->daemon_workers)
		return NULL;
	c = (wire_id & SLOT_OUT) != 0 ? &p->outs[d] : &p->calls[d];
	*place = (uint32_t)wire_id & SLOT_OUT_INDEX;
	return *place < c->max ? c : NULL;
}

static struct pump_call *call_find(struct pump *p, uint64_t wire_id)
{
	uint32_t place;
	struct pump_calls *c = calls_of(p, wire_id, &place);
	struct pump_call *call = c != NULL && place < c->n ? c->at[place] : NULL;

	return call != NULL && call->wire_id == wire_id ? call : NULL;
}

static void frames_free(struct pump *p, struct pump_call *call)
{
	struct pump_frame *f;

	while ((f = call->first) != NULL) {
		call->first = f->next;
		p->due_charge -= f->charge;
		p->due_n--;
		free(f);
	}
	call->last = NULL;
	list_del(&call->due);
}

void pump_call_free(struct pump *p, struct pump_call *call)
{
	uint32_t place;
	struct pump_calls *c = calls_of(p, call->wire_id, &place);

	frames_free(p, call);
	for (unsigned h = 0; h < p->workers; h++)
		if (p->ahead[h] == call)
			p->ahead[h] = NULL;
	if (c != NULL && place < c->n && c->at[place] == call)
		c->at[place] = NULL;
	free(call);
}

struct pump_call *pump_call_new(struct pump *p, uint64_t wire_id, uint32_t method)
{
	uint32_t place, n;
	struct pump_calls *c = calls_of(p, wire_id, &place);
	struct pump_call *call, **at;

	if (c == NULL)
		return NULL;
	if (place >= c->n) {
		n = (uint32_t)pow2_up((uint64_t)place + 64);
		at = realloc(c->at, n * sizeof(struct pump_call *));
		if (at == NULL)
			return NULL;
		memset(at + c->n, 0, (n - c->n) * sizeof(struct pump_call *));
		c->at = at;
		c->n = n;
	}
	call = calloc(1, sizeof(*call));
	if (call == NULL)
		return NULL;
	call->wire_id = wire_id;
	call->method = method;
	call->d = attachment_call_worker(wire_id);
	call->out = (wire_id & SLOT_OUT) != 0;
	list_init(&call->due);
	c->at[place] = call;
	return call;
}

static void calls_fini(struct pump_calls *c)
{
	for (uint32_t i = 0; i < c->n; i++)
		free(c->at[i]);
	free(c->at);
	c->at = NULL;
	c->n = 0;
}

void pump_calls_fini(struct pump *p)
{
	/* Those that are forgotten are in no table. */
	while (!list_empty(&p->due))
		pump_call_free(p, list_entry(list_first(&p->due), struct pump_call, due));
	while (!list_empty(&p->opening))
		pump_call_free(p, list_entry(list_first(&p->opening), struct pump_call, due));
	for (unsigned d = 0; d < p->daemon_workers; d++) {
		if (p->calls != NULL)
			calls_fini(&p->calls[d]);
		if (p->outs != NULL)
			calls_fini(&p->outs[d]);
	}
}

/* ------------------------------------------------------------------ which worker */

struct seen {
	enum host_state state;
	unsigned queued; /* by all of splitd's workers together */
	bool full;
	uint64_t oldest_ns;
};

static struct seen worker_see(struct pump *p, unsigned h, unsigned d)
{
	struct seen s = {.state = HOST_RETIRED};

	for (unsigned i = 0; i < p->daemon_workers; i++) {
		struct endpoint_lane_state l;

		endpoint_lane_state(p->ports[i], h, &l);
		s.state = l.state;
		s.queued += l.queued;
		if (i == d)
			s.full = l.room == 0;
		if (l.oldest_ns != 0 && (s.oldest_ns == 0 || l.oldest_ns < s.oldest_ns))
			s.oldest_ns = l.oldest_ns;
	}
	return s;
}

static bool is_free(const struct seen *s)
{
	return s->queued == 0 && (s->state == HOST_POLLING || s->state == HOST_PARKED);
}

/* For a call from splitd's worker d; -1: none now. */
static int worker_choose(struct pump *p, unsigned d)
{
	unsigned most = p->workers == 1 ? AHEAD_ALONE : 1;
	int parked = -1, running = -1;

	for (unsigned h = 0; h < p->workers; h++) {
		struct seen s = worker_see(p, h, d);

		if (s.full || s.state == HOST_RETIRED)
			continue;
		if (s.state == HOST_POLLING && s.queued == 0)
			return (int)h;
		if (s.state == HOST_PARKED && s.queued == 0 && parked < 0)
			parked = (int)h;
		if (running < 0 && s.queued < most)
			running = (int)h;
	}
	return parked >= 0 ? parked : running;
}

/* ------------------------------------------------------------------ delivering */

static bool is_end(const struct remote_slot *s)
{
	return s->kind == TO_HOST_STATUS || (s->flags & SLOT_HAS_STATUS) != 0;
}

static void request_fill(const struct pump_call *call, const struct remote_slot *s,
			 const struct remote_landed *at, uint64_t came_ns,
			 struct endpoint_request *r)
{
	*r = (struct endpoint_request){
		.kind = (enum slot_kind)s->kind,
		.flags = s->flags & (SLOT_END_STREAM | SLOT_COMPRESSED | SLOT_HAS_STATUS),
		.has_message = at->message != 0,
		.call_id = call->id,
		.method = call->method,
		.msg_seq = s->msg_seq,
		.msg_bytes = s->message_bytes,
		.info = s->info,
		.msg = at->message,
		.metadata = at->metadata,
		.peer = at->identity,
		.status = s->status,
		.text = at->text,
		.text_bytes = s->text_bytes,
		.peer_family = s->peer_family,
		.peer_flags = s->peer_flags,
		.peer_port = s->peer_port,
	};
	memcpy(r->peer_address, s->peer_address, sizeof(r->peer_address));
	if (s->kind == TO_HOST_REQUEST && s->deadline_left_ns != 0)
		r->deadline_ns = came_ns + s->deadline_left_ns;
}

/* To worker h. DONE: the host has it; the blocks are its own. Else they are still the caller's. */
static int submit(struct pump *p, struct pump_call *call, int h, struct endpoint_request *r,
		  uint64_t now_ns)
{
	struct endpoint_port *port = p->ports[call->d];
	bool opens = r->kind == TO_HOST_REQUEST;
	int rc;

	if (opens) {
		rc = endpoint_call_open(port, call, &call->id);
		if (rc != 0)
			return LATER;
		r->call_id = call->id;
	}
	rc = endpoint_submit(port, (unsigned)h, r, now_ns);
	if (rc == 0) {
		call->lane = (unsigned)h;
		call->begun = true;
		return DONE;
	}
	if (opens)
		endpoint_call_close(port, call->id, now_ns);
	/* Stale: its answer is on its way out. Nothing is left to be said. */
	return rc == -SPLIT_E_SHEPHERD_STALE ? rc : LATER;
}

/* After a slot of it is in the ring. */
static int submitted(struct pump *p, struct pump_call *call, const struct remote_slot *s,
		     const struct endpoint_request *r, uint64_t now_ns)
{
	call->alone = s->kind == TO_HOST_REQUEST;
	if (call->alone) {
		call->request = *r;
		call->request.blocks = NULL;
		p->ahead[call->lane] = call;
	}
	if (s->kind == TO_HOST_CANCEL || is_end(s)) {
		endpoint_call_close(p->ports[call->d], call->id, now_ns);
		pump_call_free(p, call);
		return GONE;
	}
	return DONE;
}

/* The worker for a slot, with room for it in its ring; or LATER or NO_WORKER, as a negative number.
 */
static int lane_for(struct pump *p, const struct pump_call *call, const struct remote_slot *s)
{
	struct endpoint_lane_state lane;
	int h;

	if (s->kind == TO_HOST_REQUEST) {
		h = worker_choose(p, call->d);
		return h >= 0 ? h : -NO_WORKER;
	}
	endpoint_lane_state(p->ports[call->d], call->lane, &lane);
	return lane.room != 0 ? (int)call->lane : -LATER;
}

/* Give the slot, which came at came_ns, to its worker. What finds no worker and no room in a ring
 * is not landed before: it may be looked at often. enum delivery, or negative: nonsense. */
static int deliver(struct pump *p, struct pump_call *call, const struct remote_arrival *a,
		   uint64_t came_ns, uint64_t now_ns)
{
	const struct remote_slot *s = &a->slot;
	const struct attach_method *m = &p->methods[call->method];
	struct endpoint_port *port = p->ports[call->d];
	struct endpoint_blocks blocks = {0};
	struct remote_landed at = {0};
	struct shepherd_chunk chunk;
	struct endpoint_request r;
	int h = lane_for(p, call, s), rc;

	if (h < 0)
		return -h;
	if (a->room != 0) {
		if (endpoint_block_get(port, &blocks, a->room, &chunk) != 0)
			return LATER;
		rc = remote_land(a,
				 schema_message_at(p->schema,
						   call->out ? m->output_schema : m->input_schema),
				 chunk.mem, endpoint_delta(port), &at);
		if (rc < 0) {
			endpoint_blocks_put(port, &blocks);
			return rc;
		}
	}
	request_fill(call, s, &at, came_ns, &r);
	r.blocks = &blocks;
	rc = submit(p, call, h, &r, now_ns);
	if (rc == DONE)
		return submitted(p, call, s, &r, now_ns);
	endpoint_blocks_put(port, &blocks);
	if (rc != -SPLIT_E_SHEPHERD_STALE)
		return rc;
	pump_call_free(p, call);
	return GONE;
}

static int wait_in_line(struct pump *p, struct pump_call *call, const struct remote_frame *frame,
			uint64_t charge, uint64_t now_ns)
{
	struct pump_frame *f = aligned_alloc(16, align_up(sizeof(*f) + frame->bytes, 16));

	if (f == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (p->due_n >= DUE_MAX) {
		free(f);
		return -SPLIT_E_REMOTE_FRAME;
	}
	f->next = NULL;
	f->charge = charge;
	f->came_ns = now_ns;
	f->bytes = frame->bytes;
	memcpy(f->body, frame->body, frame->bytes);
	if (call->last != NULL)
		call->last->next = f;
	else
		call->first = f;
	call->last = f;
	p->due_charge += charge;
	p->due_n++;
	if (list_empty(&call->due))
		list_add_tail(call->begun ? &p->due : &p->opening, &call->due);
	return 0;
}

/* Splitd has forgotten it: so do the workers, once there is room to tell them. */
static void call_forget(struct pump *p, struct pump_call *call, uint64_t now_ns)
{
	const struct remote_slot cancel = {
		.kind = TO_HOST_CANCEL, .call_id = call->wire_id, .info = CANCEL_CONNECTION};
	const struct remote_frame frame = {
		.type = REMOTE_SLOT, .body = (const uint8_t *)&cancel, .bytes = sizeof(cancel)};
	const struct remote_arrival a = {.slot = cancel};
	struct pump_calls *c;
	uint32_t place;
	int rc;

	if (!call->begun) {
		pump_call_free(p, call);
		return;
	}
	frames_free(p, call);
	rc = deliver(p, call, &a, now_ns, now_ns);
	if (rc != LATER)
		return; /* and it is freed */
	c = calls_of(p, call->wire_id, &place);
	if (c->at[place] == call)
		c->at[place] = NULL;
	call->forgotten = true;
	if (wait_in_line(p, call, &frame, 0, now_ns) != 0)
		p->over = true;
}

void pump_call_end(struct pump *p, uint64_t wire_id, uint64_t now_ns)
{
	struct pump_call *call = call_find(p, wire_id);

	if (call != NULL)
		call_forget(p, call, now_ns);
}

void pump_out_end(struct pump *p, uint64_t wire_id, uint32_t status)
{
	struct pump_call *call = call_find(p, wire_id);

	if (call == NULL)
		return;
	endpoint_out_refuse(p->ports[call->d], call->id, status);
	pump_call_free(p, call);
}

void pump_out_fail(struct pump *p, uint64_t wire_id, uint32_t status)
{
	struct pump_call *call = call_find(p, wire_id);

	if (call != NULL && call->failed == 0)
		call->failed = status;
}

/* What still comes of a call out that has failed here: its end, as it failed. False: nothing. */
static bool failed_look(const struct pump_call *call, struct remote_arrival *a)
{
	if (call->failed == 0)
		return true;
	if (!is_end(&a->slot))
		return false;
	*a = (struct remote_arrival){
		.slot = {.kind = TO_HOST_STATUS,
			 .flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
			 .call_id = a->slot.call_id,
			 .status = call->failed},
	};
	return true;
}

/* What splitd may say of a call as it is. */
static bool slot_fits(const struct pump *p, const struct pump_call *call,
		      const struct remote_slot *s)
{
	if (call->out)
		return s->kind == TO_HOST_MESSAGE || s->kind == TO_HOST_WRITABLE ||
		       s->kind == TO_HOST_STATUS || s->kind == TO_HOST_INITIAL_METADATA;
	(void)p;
	return s->kind != TO_HOST_STATUS && s->kind != TO_HOST_INITIAL_METADATA &&
	       (s->flags & SLOT_HAS_STATUS) == 0;
}

/* The call that a slot is of, made for a REQUEST. NULL with 0: it is over. */
static int call_of_slot(struct pump *p, const struct remote_slot *s, uint64_t now_ns,
			struct pump_call **out)
{
	struct pump_calls *c;
	uint32_t place;

	*out = NULL;
	c = calls_of(p, s->call_id, &place);
	if (c == NULL)
		return -SPLIT_E_REMOTE_FRAME;
	if (s->kind != TO_HOST_REQUEST) {
		*out = call_find(p, s->call_id);
		return *out == NULL || slot_fits(p, *out, s) ? 0 : -SPLIT_E_REMOTE_FRAME;
	}
	if ((s->call_id & SLOT_OUT) != 0 || s->method >= p->methods_n ||
	    p->methods[s->method].channel != NULL || call_find(p, s->call_id) != NULL)
		return -SPLIT_E_REMOTE_FRAME;
	if (place < c->n && c->at[place] != NULL)
		call_forget(p, c->at[place], now_ns); /* splitd uses its place again */
	*out = pump_call_new(p, s->call_id, s->method);
	return *out != NULL ? 0 : -SPLIT_E_BASE_NOMEM;
}

int pump_slot(struct pump *p, const struct remote_frame *frame, uint64_t now_ns)
{
	struct remote_arrival a;
	struct pump_call *call;
	uint64_t charge;
	int rc = remote_slot_parse(frame, true, &a);

	if (rc == 0)
		rc = remote_flow_take(&p->flow, &a.slot);
	if (rc == 0)
		rc = call_of_slot(p, &a.slot, now_ns, &call);
	if (rc < 0 || call == NULL)
		return rc;
	if (a.slot.kind == TO_HOST_CANCEL && !call->begun) {
		pump_call_free(p, call); /* it never begins */
		return 0;
	}
	if (a.slot.kind == TO_HOST_CANCEL)
		frames_free(p, call); /* nobody wants them now */
	charge = remote_charge(&a.slot);
	/* Who came first is served first. */
	if (call->first != NULL || (!call->begun && !list_empty(&p->opening)))
		rc = LATER;
	else
		rc = failed_look(call, &a) ? deliver(p, call, &a, now_ns, now_ns) : DONE;
	if (rc == LATER || rc == NO_WORKER)
		rc = wait_in_line(p, call, frame, charge, now_ns);
	return rc < 0 ? rc : 0;
}

/* ------------------------------------------------------------------ what waits */

/* As many of its slots as go. GONE, LATER, NO_WORKER, negative, or DONE: none is left. */
static int call_due(struct pump *p, struct pump_call *call, uint64_t now_ns)
{
	int rc = DONE;

	while (rc == DONE && call->first != NULL) {
		struct pump_frame *f = call->first;
		const struct remote_frame frame = {
			.type = REMOTE_SLOT, .body = f->body, .bytes = f->bytes};
		struct remote_arrival a;

		rc = remote_slot_parse(&frame, true, &a);
		if (rc == 0 && failed_look(call, &a))
			rc = deliver(p, call, &a, f->came_ns, now_ns);
		if (rc != DONE)
			return rc;
		call->first = f->next;
		if (call->first == NULL)
			call->last = NULL;
		p->due_charge -= f->charge;
		p->due_n--;
		free(f);
	}
	return rc;
}

/* A worker is free while a call lies behind another's handler: it gets it. */
static void take_back(struct pump *p, uint64_t now_ns)
{
	struct pump_call *stuck = NULL;
	bool any_free = false;
	int to;

	if (p->workers == 1 || now_ns < p->look_ns)
		return;
	p->look_ns = now_ns + TAKE_BACK_NS / 2;
	for (unsigned h = 0; h < p->workers; h++) {
		struct seen s = worker_see(p, h, 0);

		if (is_free(&s))
			any_free = true;
		if (p->ahead[h] == NULL)
			continue;
		if (s.oldest_ns == 0) /* it has begun all that it was given */
			p->ahead[h] = NULL;
		else if (p->ahead[h]->alone && s.oldest_ns + TAKE_BACK_NS <= now_ns)
			stuck = p->ahead[h];
	}
	if (stuck != NULL && any_free) {
		struct endpoint_blocks blocks;
		struct endpoint_request r = stuck->request;

		p->ahead[stuck->lane] = NULL;
		if (endpoint_revoke(p->ports[stuck->d], stuck->id, now_ns, &blocks) != 0)
			return; /* it has begun after all */
		r.blocks = &blocks;
		stuck->begun = false;
		to = worker_choose(p, stuck->d);
		if (to >= 0 && submit(p, stuck, to, &r, now_ns) == DONE) {
			stuck->request.call_id = stuck->id;
			p->ahead[stuck->lane] = stuck;
			return;
		}
		/* A worker was free a moment ago, with room in its ring: this cannot be. It ends as
		 * one that splitd shall give to somebody else. */
		endpoint_blocks_put(p->ports[stuck->d], &blocks);
		pump_refuse(p, stuck);
	}
}

int pump_due(struct pump *p, uint64_t now_ns)
{
	int rc;

	list_for_each_safe (pos, &p->due) {
		struct pump_call *call = list_entry(pos, struct pump_call, due);

		rc = call_due(p, call, now_ns);
		if (rc < 0)
			return rc;
		if (rc == DONE)
			list_del(&call->due);
	}
	/* In the order in which they came; without a worker for one there is none for the others.
	 */
	list_for_each_safe (pos, &p->opening) {
		struct pump_call *call = list_entry(pos, struct pump_call, due);

		rc = call_due(p, call, now_ns);
		if (rc < 0)
			return rc;
		if (rc == NO_WORKER)
			break;
		if (rc == GONE || !call->begun)
			continue;
		list_del(&call->due);
		if (call->first != NULL)
			list_add_tail(&p->due, &call->due);
	}
	take_back(p, now_ns);
	return 0;
}

uint64_t pump_due_next_ns(const struct pump *p)
{
	if (!list_empty(&p->due) || !list_empty(&p->opening))
		return clock_ns() + DUE_RETRY_NS;
	for (unsigned h = 0; p->workers > 1 && h < p->workers; h++)
		if (p->ahead[h] != NULL)
			return p->look_ns;
	return UINT64_MAX;
}
