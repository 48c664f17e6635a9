/* Room for the wire bytes of uploads, shared out fairly between connections.
 *
 * Each endpoint has its own room (wire_max of this worker's part of its segment), so endpoints do
 * not compete. Within one, whoever waits stands with its connection, not for itself: connections
 * take turns, each turn gives one message its room. What one connection may hold beyond its first
 * message is bounded by what is left for the others (a dynamic threshold): it never has more than
 * is free, so a single one gets half, two get a third each, and a newcomer finds some.
 *
 * A large message at the front needs more than a small one behind it: those that fit pass it, until
 * it has stood there for grpc.upload_timeout; then nobody does until it has its room.
 *
 * Who got room and does not fill it loses it when other connections wait: grpc.upload_timeout is
 * granted to each message, and the time that the bytes which have come take at
 * grpc.upload_rate_min. */
#include "daemon/worker/worker_internal.h"

/* Turns given in one go. */
#define ROOM_LOOK_MAX 64

/* What a message takes of the segment: blocks are powers of two. */
static uint64_t charge_of(uint32_t bytes)
{
	return pow2_up(bytes < SHEPHERD_BLOCK_MIN ? SHEPHERD_BLOCK_MIN : bytes);
}

/* ---- shares --------------------------------------------------------------------------------- */

static struct room_share *share_get(struct connection *c, struct attached *ep)
{
	struct room_share *share;

	list_for_each (pos, &c->shares) {
		share = list_entry(pos, struct room_share, in_conn);
		if (share->ep == ep)
			goto found;
	}
	share = pool_get(&c->w->share_pool);
	if (share == NULL)
		return NULL;
	share->ep = ep;
	share->wire_used = 0;
	share->refs = 0;
	list_init(&share->turn);
	list_init(&share->calls);
	list_init(&share->in_conn);
	list_add_tail(&c->shares, &share->in_conn);
found:
	share->refs++;
	return share;
}

static void share_put(struct worker *w, struct room_share *share)
{
	if (--share->refs != 0)
		return;
	list_del(&share->in_conn);
	list_del(&share->turn);
	pool_put(&w->share_pool, share);
}

static void room_wait(struct call *call)
{
	struct room_share *share = call->share;

	call->waiting = CALL_WAIT_ROOM;
	list_add_tail(&share->calls, &call->wait);
	if (list_empty(&share->turn))
		list_add_tail(&call->ep->room_turns, &share->turn);
}

void room_unwait(struct call *call)
{
	list_del(&call->wait);
	call->waiting = CALL_WAIT_NONE;
	if (list_empty(&call->share->calls))
		list_del(&call->share->turn);
}

/* The room is not an upload's any more. */
static void room_uncharge(struct call *call)
{
	struct attached *ep = call->ep;

	if (call->wire_charged != 0) {
		ep->wire_used -= call->wire_charged;
		call->share->wire_used -= call->wire_charged;
		call->wire_charged = 0;
		ep->room_look = true;
	}
	if (call->share != NULL && call->waiting != CALL_WAIT_ROOM) {
		share_put(call->w, call->share);
		call->share = NULL;
	}
}

void room_put(struct call *call)
{
	if (call->wire_charged != 0)
		endpoint_blocks_put(call->ep->port, &call->wire_blocks);
	room_uncharge(call);
}

void room_keep(struct call *call)
{
	endpoint_blocks_move(call->ep->port, &call->blocks, &call->wire_blocks);
	room_uncharge(call);
}

/* ---- getting -------------------------------------------------------------------------------- */

/* As far as the accounts go. */
static bool room_fits(const struct room_share *share, uint64_t charge)
{
	const struct attached *ep = share->ep;
	uint64_t left = ep->wire_max - ep->wire_used;

	return charge <= left && (share->wire_used == 0 || share->wire_used + charge <= left);
}

/* 0, SPLIT_AGAIN or why there never will be room. */
static int room_take(struct call *call, uint32_t bytes)
{
	struct attached *ep = call->ep;
	uint64_t charge = charge_of(bytes);
	struct shepherd_chunk chunk;
	int err;

	if (charge > ep->wire_max)
		return -SPLIT_E_BASE_LIMIT;
	if (!room_fits(call->share, charge))
		return SPLIT_AGAIN;
	err = call_block_get(call, &call->wire_blocks, bytes, &chunk);
	if (err == -SPLIT_E_SHEPHERD_FULL || err == -SPLIT_E_SHEPHERD_QUOTA)
		return endpoint_bytes_used(ep->port) != 0 ? SPLIT_AGAIN : -SPLIT_E_BASE_LIMIT;
	if (err != 0)
		return err;
	call->wire_charged = charge;
	call->wire_since_ns = call->w->now_ns;
	call->share->wire_used += charge;
	ep->wire_used += charge;
	call->wire = chunk.mem;
	return 0;
}

/* Whether the connection that waits in front may still be passed. One that has some room already
 * always may. */
static bool front_passable(struct attached *ep, const struct room_share *front)
{
	if (front->wire_used != 0)
		return true;
	if (front != ep->room_front) {
		ep->room_front = front;
		ep->room_front_ns = ep->w->now_ns;
	}
	return ep->w->now_ns - ep->room_front_ns < ep->w->cfg->grpc.upload_timeout_ns;
}

/* A newcomer asks at once, unless somebody has waited for too long. */
static bool may_ask(struct attached *ep, const struct room_share *share)
{
	struct list *front = list_first(&ep->room_turns);

	if (!list_empty(&share->calls))
		return false;
	return front == NULL || front_passable(ep, list_entry(front, struct room_share, turn));
}

int room_get(struct call *call, uint32_t bytes)
{
	struct attached *ep = call->ep;
	bool waits = call->waiting == CALL_WAIT_ROOM;
	int err;

	if (call->share == NULL) {
		call->share = share_get(call->conn, ep);
		if (call->share == NULL)
			return -SPLIT_E_BASE_LIMIT;
	}
	call->wire_wanted = charge_of(bytes);
	err = waits || may_ask(ep, call->share) ? room_take(call, bytes) : SPLIT_AGAIN;
	if (err == SPLIT_AGAIN && !waits) {
		counter_inc(&call->w->counters.room_waits);
		room_wait(call);
	} else if (err != SPLIT_AGAIN && waits) {
		room_unwait(call);
	}
	return err;
}

/* ---- turns ---------------------------------------------------------------------------------- */

/* The first call of the connection asks again. True: it waits no more, and the connection's next
 * turn comes after the others'. */
static bool share_turn(struct attached *ep, struct room_share *share)
{
	struct call *call = list_entry(list_first(&share->calls), struct call, wait);

	if (!room_fits(share, call->wire_wanted))
		return false;
	/* The share must be there afterwards, whatever becomes of the call. */
	share->refs++;
	client_room(call);
	if (list_first(&share->calls) == &call->wait) {
		share_put(ep->w, share);
		return false;
	}
	if (!list_empty(&share->turn)) {
		list_del(&share->turn);
		list_add_tail(&ep->room_turns, &share->turn);
	}
	share_put(ep->w, share);
	return true;
}

/* One round: the front, and those behind it that fit. */
static unsigned room_round(struct attached *ep)
{
	struct list passed, back;
	struct list *node;
	unsigned n = 0;

	list_init(&passed);
	list_init(&back);
	for (unsigned i = 0; i < ROOM_LOOK_MAX; i++) {
		struct room_share *share;

		node = list_first(&ep->room_turns);
		if (node == NULL || ep->wire_used + SHEPHERD_BLOCK_MIN > ep->wire_max)
			break;
		share = list_entry(node, struct room_share, turn);
		if (share_turn(ep, share)) {
			n++;
			continue;
		}
		/* One that has room already waits for what it has, not for its turn. */
		if (list_empty(&passed) && !front_passable(ep, share))
			break;
		list_del(node);
		list_add_tail(share->wire_used != 0 ? &back : &passed, node);
	}
	/* Those passed stay in front, in their order. */
	list_splice_tail(&passed, &ep->room_turns);
	list_splice_tail(&ep->room_turns, &passed);
	list_splice_tail(&ep->room_turns, &back);
	return n;
}

unsigned room_retry(struct attached *ep)
{
	uint64_t used;
	unsigned n;

	if (list_empty(&ep->room_turns))
		return 0;
	/* Room of the segment comes back in other ways too: linear messages are released. */
	used = endpoint_bytes_used(ep->port);
	if (!ep->room_look && used >= ep->room_mark)
		return 0;
	ep->room_look = false;
	n = room_round(ep);
	ep->room_look |= n != 0;
	ep->room_mark = endpoint_bytes_used(ep->port);
	return n;
}

/* ---- uploads that stall --------------------------------------------------------------------- */

/* Of an answer to a call out nobody counts how much has come: all of it is granted its time. */
static uint64_t upload_received(const struct call *call)
{
	return call->grpc != NULL ? grpc_call_received(call->grpc) : call->wire_charged;
}

void uploads_check(struct attached *ep)
{
	const struct config_grpc *grpc = &ep->w->cfg->grpc;
	const struct room_share *alone; /* nobody else waits: it stands in its own way only */
	uint64_t now_ns = ep->w->now_ns;

	if (list_empty(&ep->room_turns))
		return;
	alone = list_first(&ep->room_turns) == list_last(&ep->room_turns)
			? list_entry(list_first(&ep->room_turns), struct room_share, turn)
			: NULL;
	list_for_each_safe (pos, &ep->calls) {
		struct call *call = list_entry(pos, struct call, in_ep);
		uint64_t due_ns;

		if (call->wire_charged == 0 || call->have_message || call->share == alone)
			continue;
		due_ns = call->wire_since_ns + grpc->upload_timeout_ns +
			 upload_received(call) * CLOCK_NS_PER_SEC / grpc->upload_rate_min;
		if (now_ns < due_ns)
			continue;
		counter_inc(&ep->w->counters.uploads_slow);
		call_fail(call, GRPC_RESOURCE_EXHAUSTED, "the message came too slowly",
			  CANCEL_SHUTDOWN);
	}
}
