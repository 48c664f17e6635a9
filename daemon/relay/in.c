/* From the host to the workers: frames become completions. All of them are hostile; what a worker
 * would refuse of a process in shared memory it refuses here likewise, but a stream can say more
 * that makes no sense, and that ends the connection. */
#include "daemon/relay/relay_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* Frames without a message cost no memory that a window bounds; past this many that wait, the
 * connection is not an honest one's. */
#define WAITING_MAX 262144u

enum landing { LANDED, NO_SLOT, NO_BLOCK };

/* The type of its message; NULL: it makes no sense, or the call is over (`*stale`). */
static const struct schema_message *arrival_type(const struct guest *g, const struct remote_slot *s,
						 bool *stale)
{
	const struct attach_method *m;

	*stale = false;
	if (s->kind == TO_DAEMON_CALL) {
		if ((s->call_id & SLOT_OUT) == 0 || s->method >= g->table.methods_n ||
		    g->table.methods[s->method].channel == NULL)
			return NULL;
		return guest_type(g, &g->table.methods[s->method], false);
	}
	m = guest_call_method(g, s->call_id);
	*stale = m == NULL;
	return m != NULL ? guest_type(g, m, (s->call_id & SLOT_OUT) == 0) : NULL;
}

static void slot_fill(struct slot *slot, const struct remote_slot *s,
		      const struct remote_landed *at, uint64_t now_ns)
{
	slot->kind = s->kind;
	slot->flags |= s->flags;
	slot->call_id = s->call_id;
	slot->msg_seq = s->msg_seq;
	slot->msg = at->message;
	slot->info = s->info;
	if ((s->flags & SLOT_HAS_STATUS) != 0 || s->kind == TO_DAEMON_STATUS)
		slot->info = s->status;
	if (s->kind == TO_DAEMON_CALL) {
		slot->method = s->method;
		slot->home = 0;
		slot->out_flags = s->peer_flags & SLOT_OUT_WAITS;
		slot->deadline_ns = s->deadline_left_ns != 0 ? now_ns + s->deadline_left_ns : 0;
	}
	if (at->metadata != 0 || at->text != 0 || s->kind == TO_DAEMON_CALL) {
		slot->flags |= SLOT_EXTRA;
		slot->metadata = at->metadata;
		slot->text = at->text;
		slot->text_bytes = s->text_bytes;
		slot->msg_bytes = s->message_bytes;
	}
}

/* One arrival, which came at came_ns, into its lane: enum landing, or negative. */
static int land(struct guest *g, const struct remote_arrival *a, uint64_t came_ns)
{
	const struct remote_slot *s = &a->slot;
	unsigned d = attachment_call_worker(s->call_id);
	const struct schema_message *type;
	struct shepherd_chunk chunk = {0};
	bool small = a->room <= SLOT_INLINE_BYTES, stale;
	struct remote_landed at;
	struct host_lane *lane;
	struct slot *slot;
	int rc;

	if (d >= g->daemon_workers)
		return -SPLIT_E_REMOTE_FRAME;
	type = arrival_type(g, s, &stale);
	if (type == NULL)
		return stale ? LANDED : -SPLIT_E_REMOTE_FRAME;
	lane = attachment_lane(g->a, d, 0);
	slot = host_lane_reserve(lane, !small);
	if (slot == NULL)
		return NO_SLOT;
	if (!small && arena_get(g->arena, a->room, &chunk) != 0) {
		host_lane_drop(lane, slot);
		return NO_BLOCK;
	}
	rc = remote_land(a, type, small ? slot->inline_area : chunk.mem, 0, &at);
	if (rc == 0 && s->kind == TO_DAEMON_CALL && !guest_call_note(g, s->call_id, s->method))
		rc = -SPLIT_E_REMOTE_FRAME;
	if (rc < 0) {
		if (!small)
			(void)arena_put(g->arena, chunk.mem);
		host_lane_drop(lane, slot);
		return rc;
	}
	slot_fill(slot, s, &at, came_ns);
	if (small) {
		slot->inline_bytes = (uint8_t)a->room;
		slot->flags |= at.message != 0 ? SLOT_INLINE : 0;
	} else {
		slot->token = (uint64_t)(uintptr_t)chunk.mem;
		slot->flags |= SLOT_HAS_TOKEN;
	}
	host_lane_commit(lane, slot);
	g->dirty[d] = true;
	RELAY_COUNT(g, slots_in);
	return LANDED;
}

/* Behind the others of its call. */
static int wait_for_room(struct guest *g, struct guest_call *call, const struct remote_frame *f,
			 const struct remote_arrival *a, uint64_t charge, uint64_t now_ns)
{
	struct guest_waiting *w = aligned_alloc(16, (sizeof(*w) + f->bytes + 15) & ~(size_t)15);

	if (w == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (g->waiting_n >= WAITING_MAX) {
		free(w);
		return -SPLIT_E_REMOTE_FRAME;
	}
	RELAY_COUNT(g, room_waits);
	*w = (struct guest_waiting){.charge = charge,
				    .came_ns = now_ns,
				    .call_id = a->slot.call_id,
				    .bytes = f->bytes,
				    .room = a->room};
	memcpy(w->body, f->body, f->bytes);
	if (g->waiting == NULL)
		g->waiting = w;
	else
		g->waiting_last->next = w;
	g->waiting_last = w;
	g->waiting_n++;
	g->waiting_charge += charge;
	call->waits++;
	return 0;
}

/* Slots of one call keep their order; those of others pass, so that an answer that finds no block
 * of its size does not hold up what needs none. */
static int land_or_wait(struct guest *g, const struct remote_frame *f,
			const struct remote_arrival *a, uint64_t charge, uint64_t now_ns)
{
	struct guest_call *call = guest_call_place(g, a->slot.call_id);
	int rc;

	if (call == NULL) /* of no call that can be */
		return a->slot.kind == TO_DAEMON_CALL ? -SPLIT_E_REMOTE_FRAME : 0;
	rc = call->waits == 0 ? land(g, a, now_ns) : NO_SLOT;
	if (rc == NO_SLOT || rc == NO_BLOCK)
		rc = wait_for_room(g, call, f, a, charge, now_ns);
	return rc;
}

int guest_slot(struct guest *g, const struct remote_frame *f, uint64_t now_ns)
{
	struct remote_arrival a;
	int rc = remote_slot_parse(f, false, &a);

	if (rc == 0)
		rc = remote_flow_take(&g->flow, &a.slot);
	if (rc < 0)
		return rc;
	/* The host has said its last word on it: it wants to hear no more of it. */
	if ((a.slot.flags & SLOT_HAS_STATUS) != 0 && g->queue.first != NULL)
		(void)guest_queue_purge(g, a.slot.call_id);
	return land_or_wait(g, f, &a, remote_charge(&a.slot), now_ns);
}

/* What one pass over those that wait has found to be full. */
struct full {
	uint64_t slots[2]; /* bits of daemon workers: no slot, and none that may have a block */
	size_t room;       /* no block of so much */
};

_Static_assert(SHEPHERD_DAEMON_WORKERS_MAX <= 64, "one bit for each daemon worker");

/* LANDED: it is through. */
static int retry(struct guest *g, const struct guest_waiting *w, struct full *full)
{
	const struct remote_frame f = {.type = REMOTE_SLOT, .body = w->body, .bytes = w->bytes};
	uint64_t worker = UINT64_C(1) << attachment_call_worker(w->call_id);
	bool large = w->room > SLOT_INLINE_BYTES;
	struct remote_arrival a;
	int rc;

	if ((full->slots[large] & worker) != 0)
		return NO_SLOT;
	if (large && w->room >= full->room)
		return NO_BLOCK;
	rc = remote_slot_parse(&f, false, &a);
	if (rc == 0)
		rc = land(g, &a, w->came_ns);
	if (rc == NO_SLOT)
		full->slots[large] |= worker;
	else if (rc == NO_BLOCK)
		full->room = w->room;
	return rc;
}

int guest_waiting_retry(struct guest *g)
{
	struct guest_waiting **at = &g->waiting, *w, *last = NULL;
	struct full full = {.room = SIZE_MAX};
	struct guest_call *call;
	int rc = 0;

	g->pass++;
	while ((w = *at) != NULL && rc >= 0) {
		call = guest_call_place(g, w->call_id);
		rc = call->pass == g->pass ? NO_SLOT : retry(g, w, &full);
		if (rc == NO_SLOT || rc == NO_BLOCK) {
			call->pass = g->pass;
			last = w;
			at = &w->next;
			continue;
		}
		*at = w->next;
		call->waits--;
		g->waiting_n--;
		g->waiting_charge -= w->charge;
		free(w);
	}
	if (*at == NULL)
		g->waiting_last = last;
	return rc < 0 ? rc : 0;
}

void guest_call_end(struct guest *g, uint64_t call_id, uint32_t status, const char *text)
{
	struct remote_arrival a = {.slot = {.call_id = call_id}};
	struct {
		struct remote_slot slot;
		uint8_t text[64];
	} body = {.slot = {.call_id = call_id}};
	struct remote_frame f = {.type = REMOTE_SLOT, .body = (const uint8_t *)&body};

	if ((call_id & SLOT_OUT) != 0) {
		body.slot.kind = TO_DAEMON_ABANDON;
	} else {
		body.slot.kind = TO_DAEMON_STATUS;
		body.slot.flags = SLOT_HAS_STATUS | SLOT_END_STREAM;
		body.slot.status = status;
		body.slot.text_bytes = (uint32_t)strnlen(text, sizeof(body.text));
		memcpy(body.text, text, body.slot.text_bytes);
	}
	f.bytes = sizeof(body.slot) + (body.slot.text_bytes + 7) / 8 * 8;
	if (remote_slot_parse(&f, false, &a) == 0 && land_or_wait(g, &f, &a, 0, 0) < 0)
		g->over = true;
}
