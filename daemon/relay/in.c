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

enum landing { LANDED, LATER };

/* The type of its message; NULL: it makes no sense, or the call is over (`*stale`). */
static const struct schema_message *arrival_type(const struct guest *g, const struct remote_slot *s,
						 bool *stale)
{
	const struct attach_method *m;

	*stale = false;
	if (s->kind == TO_DAEMON_CALL) {
		if (s->method >= g->table.methods_n || g->table.methods[s->method].channel == NULL)
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

/* One arrival into its lane: LANDED, LATER (no room), or negative. */
static int land(struct guest *g, const struct remote_arrival *a, uint64_t now_ns)
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
		return LATER;
	if (!small && arena_get(g->arena, a->room, &chunk) != 0) {
		host_lane_drop(lane, slot);
		return LATER;
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
	slot_fill(slot, s, &at, now_ns);
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

static int wait_for_room(struct guest *g, const struct remote_frame *f, uint64_t charge)
{
	struct guest_waiting *w = aligned_alloc(16, (sizeof(*w) + f->bytes + 15) & ~(size_t)15);

	if (w == NULL)
		return -SPLIT_E_BASE_NOMEM;
	if (g->waiting_n++ >= WAITING_MAX) {
		free(w);
		return -SPLIT_E_REMOTE_FRAME;
	}
	RELAY_COUNT(g, room_waits);
	w->next = NULL;
	w->charge = charge;
	w->bytes = f->bytes;
	memcpy(w->body, f->body, f->bytes);
	if (g->waiting == NULL)
		g->waiting = w;
	else
		g->waiting_last->next = w;
	g->waiting_last = w;
	g->waiting_charge += charge;
	return 0;
}

int guest_slot(struct guest *g, const struct remote_frame *f, uint64_t now_ns)
{
	struct remote_arrival a;
	int rc = remote_slot_parse(f, false, &a);

	if (rc == 0)
		rc = remote_flow_take(&g->flow, &a.slot);
	if (rc < 0)
		return rc;
	rc = g->waiting != NULL ? LATER : land(g, &a, now_ns);
	if (rc == LATER)
		rc = wait_for_room(g, f, remote_charge(&a.slot));
	return rc;
}

int guest_waiting_retry(struct guest *g, uint64_t now_ns)
{
	while (g->waiting != NULL) {
		struct guest_waiting *w = g->waiting;
		const struct remote_frame f = {
			.type = REMOTE_SLOT, .body = w->body, .bytes = w->bytes};
		struct remote_arrival a;
		int rc = remote_slot_parse(&f, false, &a);

		if (rc == 0)
			rc = land(g, &a, now_ns);
		if (rc == LATER)
			return 0;
		g->waiting = w->next;
		g->waiting_n--;
		g->waiting_charge -= w->charge;
		free(w);
		if (rc < 0)
			return rc;
	}
	return 0;
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
	if (remote_slot_parse(&f, false, &a) == 0 &&
	    (g->waiting != NULL || land(g, &a, 0) == LATER) && wait_for_room(g, &f, 0) != 0)
		g->over = true;
}
