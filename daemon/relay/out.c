/* From the workers to the host: slots become frames.
 *
 * A slot is taken from its ring at once, whatever the window: what lies behind it may be what frees
 * the window. Its blocks stay where they are until it is sent; so what waits here is bounded by
 * what a process may hold in any case (shepherd's holds and calls). Order is kept within a call.
 * What gives a call room or ends it (WRITABLE, CANCEL) does not wait for the window: it frees it.
 */
#include "daemon/relay/relay_internal.h"

#include <stdlib.h>
#include <string.h>

#define LANE_BUDGET 128 /* slots of one lane in a turn */

/* ------------------------------------------------------------------ calls */

static struct guest_calls *calls_of(const struct guest *g, uint64_t call_id, uint32_t *place)
{
	unsigned d = attachment_call_worker(call_id);
	bool out = (call_id & SLOT_OUT) != 0;
	struct guest_calls *c;

	if (d >= g->daemon_workers)
		return NULL;
	c = out ? &g->outs[d] : &g->calls[d];
	*place = (uint32_t)call_id & SLOT_OUT_INDEX;
	return *place < c->max ? c : NULL;
}

struct guest_call *guest_call_place(struct guest *g, uint64_t call_id)
{
	uint32_t place, n;
	struct guest_calls *c = calls_of(g, call_id, &place);
	struct guest_call *at;

	if (c == NULL)
		return NULL;
	if (place >= c->n) {
		n = (uint32_t)pow2_up((uint64_t)place + 64);
		at = realloc(c->at, n * sizeof(*at));
		if (at == NULL)
			return NULL;
		memset(at + c->n, 0, (n - c->n) * sizeof(*at));
		c->at = at;
		c->n = n;
	}
	return &c->at[place];
}

bool guest_call_note(struct guest *g, uint64_t call_id, uint32_t method)
{
	struct guest_call *call = guest_call_place(g, call_id);

	if (call == NULL)
		return false;
	call->id = call_id;
	call->method = method;
	call->failed = 0;
	return true;
}

const struct attach_method *guest_call_method(const struct guest *g, uint64_t call_id)
{
	uint32_t place;
	const struct guest_calls *c = calls_of(g, call_id, &place);

	if (c == NULL || place >= c->n || c->at[place].id != call_id)
		return NULL;
	return &g->table.methods[c->at[place].method];
}

/* ------------------------------------------------------------------ giving requests back */

static void batch_flush(struct guest *g, unsigned d)
{
	struct host_lane *lane = attachment_lane(g->a, d, 0);
	struct guest_batch *b = &g->batches[d];
	struct slot *slot;

	if (b->n == 0)
		return;
	slot = host_lane_reserve(lane, false);
	if (slot == NULL)
		return; /* in a later turn; who would add a 17th waits for room, guest_release */
	slot->kind = TO_DAEMON_RELEASE;
	slot->info = b->n;
	slot->inline_bytes = (uint8_t)(b->n * sizeof(b->tokens[0]));
	memcpy(slot->tokens, b->tokens, b->n * sizeof(b->tokens[0]));
	host_lane_commit(lane, slot);
	g->dirty[d] = true;
	b->n = 0;
}

void guest_releases_flush(struct guest *g)
{
	for (unsigned d = 0; d < g->daemon_workers; d++)
		batch_flush(g, d);
}

void guest_release(struct guest *g, unsigned d, uint64_t token)
{
	struct guest_batch *b = &g->batches[d];

	if (b->n == SLOT_TOKENS_MAX)
		batch_flush(g, d);
	if (b->n == SLOT_TOKENS_MAX) {
		/* Its worker takes completions without anybody's help, but not while it sleeps. */
		host_lane_ring(attachment_lane(g->a, d, 0));
		while (b->n == SLOT_TOKENS_MAX && attachment_alive(g->a)) {
			sched_yield();
			batch_flush(g, d);
		}
	}
	if (b->n < SLOT_TOKENS_MAX)
		b->tokens[b->n++] = token;
}

/* ------------------------------------------------------------------ sending */

static void item_done(struct guest *g, struct remote_item *item)
{
	if (item->has_token)
		guest_release(g, item->d, item->token);
	remote_item_free(&g->queue, item);
}

static const char too_large[] = "the message is too large for the connection to the host";

/* `item` becomes the end of a call out, without anything else. */
static void item_end(struct remote_item *item, uint32_t status)
{
	item->type = NULL;
	item->metadata = item->identity = NULL;
	item->measured = false;
	item->slot.kind = TO_HOST_STATUS;
	item->slot.flags = SLOT_END_STREAM | SLOT_HAS_STATUS;
	item->slot.status = status;
	item->text = too_large;
	item->text_bytes = sizeof(too_large) - 1;
}

/* A message that can never go to the host, of a call out of it. The host hears the end when its
 * worker has said it, not before: until then the call's id is not free (docs/SHARED-MEMORY.md). */
static void out_impossible(struct guest *g, const struct remote_item *item, int rc)
{
	struct guest_call *call = guest_call_place(g, item->slot.call_id);
	struct remote_item *end;

	if (call == NULL)
		return;
	call->failed = remote_item_status(rc);
	if ((item->slot.flags & SLOT_HAS_STATUS) == 0) {
		guest_call_end(g, item->slot.call_id, 0, NULL);
		return;
	}
	end = remote_item_get(&g->queue);
	if (end == NULL) {
		g->over = true;
		return;
	}
	end->slot.call_id = item->slot.call_id;
	item_end(end, call->failed);
	/* The next to go, and charged to the window like any other. */
	remote_queue_put_back(&g->queue, end);
}

/* A message that can never go: the call ends on both sides. */
static void item_impossible(struct guest *g, const struct remote_item *item, int rc)
{
	struct remote_item *end;

	/* No memory for the link: what ends the call would find none either, again and again. */
	if (link_fault(g->remote) != 0) {
		g->over = true;
		return;
	}
	RELAY_COUNT(g, messages_large);
	if ((item->slot.call_id & SLOT_OUT) != 0) {
		out_impossible(g, item, rc);
		return;
	}
	guest_call_end(g, item->slot.call_id, remote_item_status(rc), too_large);
	if (item->slot.kind == TO_HOST_REQUEST)
		return; /* the host has never heard of it */
	(void)guest_queue_purge(g, item->slot.call_id);
	end = remote_item_get(&g->queue);
	if (end == NULL) {
		g->over = true;
		return;
	}
	end->slot.call_id = item->slot.call_id;
	end->slot.kind = TO_HOST_CANCEL;
	end->slot.info = CANCEL_SHUTDOWN;
	remote_queue_put_back(&g->queue, end);
}

/* What still comes of a call out that has failed: nothing but its end, as it failed. False: nothing
 * of it goes. */
static bool failed_look(struct guest *g, struct remote_item *item)
{
	struct guest_call *call = (item->slot.call_id & SLOT_OUT) != 0
					  ? guest_call_place(g, item->slot.call_id)
					  : NULL;

	if (call == NULL || call->id != item->slot.call_id || call->failed == 0)
		return true;
	if ((item->slot.flags & SLOT_HAS_STATUS) == 0)
		return false;
	item_end(item, call->failed);
	return true;
}

/* False: it must wait. */
static bool item_send(struct guest *g, struct remote_item *item, uint64_t now_ns)
{
	int rc = 0;

	if (failed_look(g, item)) {
		rc = remote_item_send(&g->flow, g->remote, item, now_ns);
		if (rc == 0)
			RELAY_COUNT(g, slots_out);
	}
	if (rc > 0)
		return false;
	if (rc < 0)
		item_impossible(g, item, rc);
	item_done(g, item);
	return true;
}

void guest_queue_send(struct guest *g, uint64_t now_ns)
{
	struct remote_item *item;

	while (g->queue.first != NULL) {
		item = remote_queue_take(&g->queue);
		if (item_send(g, item, now_ns))
			continue;
		remote_queue_put_back(&g->queue, item);
		return;
	}
}

bool guest_queue_purge(struct guest *g, uint64_t call_id)
{
	struct remote_item *item, *rest = g->queue.first;
	bool unbegun = false;

	g->queue.first = g->queue.last = NULL;
	g->queue.n = 0;
	while ((item = rest) != NULL) {
		rest = item->next;
		if (item->slot.call_id != call_id) {
			remote_queue_add(&g->queue, item);
			continue;
		}
		unbegun |= item->slot.kind == TO_HOST_REQUEST;
		item_done(g, item);
	}
	return unbegun;
}

/* ------------------------------------------------------------------ slots */

static void slot_extra(struct remote_item *item, const struct slot *slot)
{
	item->metadata = (const struct metadata_block *)(uintptr_t)slot->metadata;
	item->identity = (const struct metadata_block *)(uintptr_t)slot->peer;
	item->text = (const char *)(uintptr_t)slot->text;
	item->text_bytes = slot->text != 0 ? slot->text_bytes : 0;
	item->slot.peer_family = slot->peer_family;
	item->slot.peer_flags = slot->peer_flags;
	item->slot.peer_port = slot->peer_port;
	memcpy(item->slot.peer_address, slot->peer_address, sizeof(item->slot.peer_address));
}

/* What the slot says, in an item of its own; the slot may be given back then. */
static struct remote_item *item_make(struct guest *g, const struct slot *slot, unsigned d,
				     const struct attach_method *m)
{
	struct remote_item *item = remote_item_get(&g->queue);
	bool out = (slot->call_id & SLOT_OUT) != 0;

	if (item == NULL)
		return NULL;
	item->d = d;
	item->slot.kind = slot->kind;
	item->slot.flags = slot->flags &
			   (SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_HAS_MESSAGE | SLOT_COMPRESSED);
	item->slot.call_id = slot->call_id;
	item->slot.msg_seq = slot->msg_seq;
	if ((slot->flags & SLOT_HAS_STATUS) != 0)
		item->slot.status = (uint32_t)slot->status;
	else if (slot->kind == TO_HOST_REQUEST)
		item->deadline_ns = slot->deadline_ns;
	if (slot->kind == TO_HOST_REQUEST)
		item->slot.method = slot->method;
	if (slot->kind == TO_HOST_CANCEL || slot->kind == TO_HOST_WRITABLE)
		item->slot.info = slot->info;
	item->has_token = (slot->flags & SLOT_HAS_TOKEN) != 0;
	item->token = slot->info;
	if ((slot->flags & SLOT_EXTRA) != 0)
		slot_extra(item, slot);
	if ((slot->flags & SLOT_HAS_MESSAGE) == 0)
		return item;
	item->type = guest_type(g, m, out);
	item->root = slot->msg;
	item->source =
		(struct linear_source){g->incoming.mem, g->incoming.peer_base, g->incoming.bytes};
	if ((slot->flags & SLOT_INLINE) != 0) {
		size_t bytes = slot->inline_bytes <= SLOT_INLINE_BYTES ? slot->inline_bytes
								       : SLOT_INLINE_BYTES;

		memcpy(item->area, slot->inline_area, bytes);
		item->source = (struct linear_source){
			(const uint8_t *)item->area, (uint64_t)(uintptr_t)slot->inline_area, bytes};
	}
	return item;
}

static void tokens_take(struct guest *g, struct host_lane *lane, const struct slot *slot)
{
	uint64_t tokens[SLOT_TOKENS_MAX];
	unsigned n = host_lane_released(lane, slot, tokens);

	for (unsigned i = 0; i < n; i++)
		(void)arena_put(g->arena, (const void *)(uintptr_t)tokens[i]);
}

static bool refuse_put(struct guest *g, struct host_lane *lane, const struct slot *slot, unsigned d)
{
	struct slot *answer = host_lane_reserve(lane, false);

	if (answer == NULL)
		return false;
	answer->kind = TO_DAEMON_REFUSE;
	answer->call_id = slot->call_id;
	if ((slot->flags & SLOT_HAS_TOKEN) != 0) {
		answer->flags = SLOT_RELEASE_REQUEST;
		answer->release = slot->info;
	}
	host_lane_commit(lane, answer);
	g->dirty[d] = true;
	return true;
}

/* A slot about a call. False: it stays in its ring for now. */
static bool call_slot_take(struct guest *g, struct host_lane *lane, const struct slot *slot,
			   unsigned d, uint64_t now_ns)
{
	const struct attach_method *m;
	struct remote_item *item;
	bool request = slot->kind == TO_HOST_REQUEST, direct;

	if (request) {
		if (slot->method >= g->table.methods_n ||
		    !guest_call_note(g, slot->call_id, slot->method) ||
		    !host_lane_claim(lane, slot))
			return refuse_put(g, lane, slot, d);
	}
	m = guest_call_method(g, slot->call_id);
	if (m == NULL) {
		if ((slot->flags & SLOT_HAS_TOKEN) != 0)
			guest_release(g, d, slot->info);
		return true;
	}
	item = item_make(g, slot, d, m);
	if (item == NULL)
		return false;
	if (slot->kind == TO_HOST_CANCEL && guest_queue_purge(g, slot->call_id)) {
		item_done(g, item);
		return true;
	}
	direct = slot->kind == TO_HOST_CANCEL ||
		 (slot->kind == TO_HOST_WRITABLE && !remote_queue_opens(&g->queue, slot->call_id));
	if (direct) {
		if (remote_item_measure(item, 0) == 0 &&
		    remote_item_put(g->remote, item, now_ns) == 0)
			RELAY_COUNT(g, slots_out);
		item_done(g, item);
		return true;
	}
	if (g->queue.first == NULL && item_send(g, item, now_ns))
		return true;
	RELAY_COUNT(g, window_waits);
	remote_queue_add(&g->queue, item);
	return true;
}

static bool lane_take(struct guest *g, unsigned d, uint64_t now_ns)
{
	struct host_lane *lane = attachment_lane(g->a, d, 0);
	const struct slot *slot;
	unsigned n = 0;

	for (; n < LANE_BUDGET && (slot = host_lane_peek(lane)) != NULL; n++) {
		switch (slot->kind) {
		case TO_HOST_RELEASE:
			tokens_take(g, lane, slot);
			break;
		case TO_HOST_REQUEST:
		case TO_HOST_MESSAGE:
		case TO_HOST_HALF_CLOSE:
		case TO_HOST_CANCEL:
		case TO_HOST_WRITABLE:
		case TO_HOST_STATUS:
		case TO_HOST_INITIAL_METADATA:
			if (!call_slot_take(g, lane, slot, d, now_ns))
				return n != 0;
			break;
		default: /* to a worker: what it shall do with its core is the host's own affair */
			break;
		}
		host_lane_advance(lane);
	}
	return n != 0;
}

bool guest_lanes_take(struct guest *g, uint64_t now_ns)
{
	bool any = false;

	for (unsigned d = 0; d < g->daemon_workers; d++)
		any |= lane_take(g, d, now_ns);
	return any;
}
