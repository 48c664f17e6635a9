/* From a ready request to a slot in a host worker's ring. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* ---- what balance asks of an endpoint ------------------------------------------------------- */

static void lane_get(void *endpoint, unsigned lane, struct balance_lane *out)
{
	static const enum balance_lane_state states[HOST_STATES] = {
		[HOST_POLLING] = BALANCE_LANE_POLLING,
		[HOST_RUNNING] = BALANCE_LANE_RUNNING,
		[HOST_PARKED] = BALANCE_LANE_PARKED,
		[HOST_RETIRED] = BALANCE_LANE_RETIRED,
	};
	const struct attached *ep = endpoint;
	struct endpoint_lane_state s;

	endpoint_lane_state(ep->port, lane, &s);
	out->state = s.state < HOST_STATES ? states[s.state] : BALANCE_LANE_RUNNING;
	out->ahead = s.queued;
	out->oldest_ns = s.oldest_ns;
	out->full = s.room == 0;
}

const struct balance_lanes attached_lanes = {.lane_get = lane_get};

/* ---- publishing ----------------------------------------------------------------------------- */

int message_fill(struct call *call, unsigned lane, struct endpoint_request *rq)
{
	int err;

	rq->has_message = true;
	rq->msg_seq = call->msg_seq;
	rq->msg_bytes = call->wire_bytes;
	if (!call->message_ready) {
		err = call_decode_inline(call, lane, &rq->inline_bytes);
		if (err == -SPLIT_E_SHEPHERD_FULL)
			return PUBLISH_LATER;
		if (err < 0)
			return err;
		if (err == SPLIT_AGAIN) {
			call->blocks_wanted = true;
			err = call_prepare(call);
			if (err != 0)
				return err < 0 ? err : PUBLISH_WAITS;
		}
	}
	rq->msg = call->root;
	if (call->compressed)
		rq->flags |= SLOT_COMPRESSED;
	if (call->half_closed)
		rq->flags |= SLOT_END_STREAM;
	return 0;
}

static void request_fill(struct call *call, struct endpoint_request *rq)
{
	const struct net_addr *peer = &call->conn->peer;
	uint64_t deadline_ns = client_deadline_ns(call);

	rq->kind = TO_HOST_REQUEST;
	rq->deadline_ns = deadline_ns == UINT64_MAX ? 0 : deadline_ns;
	rq->metadata = call->metadata;
	rq->trace = call->trace;
	rq->peer = call->peer;
	rq->peer_flags = call->conn->tls != NULL ? SLOT_PEER_TLS : 0;
	rq->peer_family = peer->family;
	rq->peer_port = peer->port;
	memcpy(rq->peer_address, peer->bytes, sizeof(rq->peer_address));
}

static int submit(struct call *call, unsigned lane, struct endpoint_request *rq)
{
	enum worker_stage left = stage_enter(call->w, WORKER_STAGE_ring);
	int err;

	rq->call_id = call->call_id;
	rq->method = call->method->index;
	rq->blocks = &call->blocks;
	err = endpoint_submit(call->ep->port, lane, rq, call->w->now_ns);
	stage_enter(call->w, left);
	if (err == -SPLIT_E_SHEPHERD_FULL || err == -SPLIT_E_SHEPHERD_HOLDS)
		return PUBLISH_LATER;
	return err;
}

static int request_publish(struct call *call, unsigned lane)
{
	bool stream = grpc_kind_many_requests(call->kind);
	struct endpoint_request rq = {0};
	int err;

	if (!call->opened) {
		err = endpoint_call_open(call->ep->port, call, &call->call_id);
		if (err != 0) {
			call_fail_code(call, err);
			return err;
		}
		call->opened = true;
	}
	if (!stream) {
		err = message_fill(call, lane, &rq);
		if (err != 0)
			return err;
	} else if (call->half_closed && !call->have_message) {
		rq.flags |= SLOT_END_STREAM;
	}
	request_fill(call, &rq);
	err = submit(call, lane, &rq);
	if (err < 0)
		call_fail_code(call, err);
	if (err != 0)
		return err;
	call->published = true;
	call->inlined = rq.inline_bytes != 0;
	call->lane = lane;
	call->half_close_out = (rq.flags & SLOT_END_STREAM) != 0;
	if (!stream) {
		call_message_done(call);
	} else if (call->have_message || call->half_closed) {
		call_advance(call);
	} else {
		call_ask(call);
	}
	return 0;
}

/* The call may be gone on return. */
static int request_publish_or_queue(struct call *call, unsigned lane)
{
	struct worker *w = call->w;
	int err = request_publish(call, lane);

	if (err == PUBLISH_LATER)
		balance_unplace(w->balance, &call->balance);
	return err;
}

void call_place(struct call *call)
{
	struct worker *w = call->w;
	unsigned lane = 0;
	int err = balance_place(w->balance, &call->balance, w->now_ns, &lane);

	if (err == 0)
		(void)request_publish_or_queue(call, lane);
	else if (err < 0)
		call_fail_code(call, err);
}

void call_follow_up(struct call *call)
{
	struct endpoint_request rq = {0};
	int err = 0;

	if (call->have_message) {
		rq.kind = TO_HOST_MESSAGE;
		err = message_fill(call, call->lane, &rq);
	} else {
		rq.kind = TO_HOST_HALF_CLOSE;
		rq.flags = SLOT_END_STREAM;
	}
	if (err == 0)
		err = submit(call, call->lane, &rq);
	if (err == PUBLISH_LATER) {
		call_wait(call, CALL_WAIT_PUBLISH, false);
	} else if (err == 0) {
		call->half_close_out = call->half_closed;
		if (call->have_message) {
			counter_inc(&call->w->counters.stream_messages);
			call_message_done(call);
		}
	} else if (err < 0 && !call->finished) {
		call_fail_code(call, err);
	}
}

unsigned attached_publish(struct attached *ep)
{
	struct worker *w = ep->w;
	struct balance_call *next;
	struct list later;
	struct list *node;
	unsigned lane = 0, n = 0;

	list_init(&later);
	list_splice_tail(&later, &ep->publish_wait);
	while ((node = list_first(&later)) != NULL) {
		struct call *call = list_entry(node, struct call, wait);
		unsigned cause = call->cancel_cause;

		call_unwait(call);
		if (cause != 0)
			call_leave_host(call, cause);
		else
			call_advance(call);
		n += call->waiting == CALL_WAIT_NONE;
		call_put(call);
	}
	while ((next = balance_next(w->balance, ep->balance, w->now_ns, &lane)) != NULL) {
		/* Its connection has stopped reading since it was queued. */
		if (!call_held(next->user) &&
		    request_publish_or_queue(next->user, lane) == PUBLISH_LATER)
			break;
		n++;
	}
	return n;
}

/* ---- taking back ---------------------------------------------------------------------------- */

/* A request that its host worker has not begun for so long goes to another that is free. Past the
 * time a handler usually takes, well before anybody would notice. */
#define TAKE_BACK_NS (2 * CLOCK_NS_PER_MS)

/* How often one call may be given back by hosts before its client hears of it. */
#define REFUSALS_MAX 3

struct take_back {
	struct attached *ep;
	uint64_t lanes[SHEPHERD_HOST_WORKERS_MAX / 64]; /* bit per stuck lane */
	struct list calls;                              /* struct call by wait: taken back */
};

static void call_take_back(void *ctx, uint64_t call_id, void *user)
{
	struct take_back *t = ctx;
	struct call *call = user;
	struct endpoint_port *port = t->ep->port;

	/* Nor one whose client has gone (its CANCEL waits for room in the ring: what the host said
	 * it had claimed then it may deny now), nor one that has a further message under way. */
	if (!call_wanted(call) || call->waiting != CALL_WAIT_NONE || call->decode != NULL ||
	    call->have_message)
		return;
	if (!call->published || call->answered || call->finished ||
	    call->msg_seq > (grpc_kind_many_requests(call->kind) ? 0 : 1) ||
	    !(t->lanes[call->lane / 64] & (UINT64_C(1) << (call->lane % 64))))
		return;
	if (endpoint_revoke(port, call_id, t->ep->w->now_ns, &call->blocks) != 0)
		return;
	counter_inc(&t->ep->w->counters.calls_taken_back);
	call->opened = false;
	call->published = false;
	call->have_message = call->msg_seq != 0;
	call->half_close_out = false;
	call->msg_seq = 0;
	/* In blocks it is as it was; in its slot it is decoded again, for another. */
	call->message_ready = call->have_message && !call->inlined;
	call->wire = call->small;
	list_add_tail(&t->calls, &call->wait);
}

/* The host did not begin it: it may go elsewhere, which it can while its bytes are still here. */
void call_given_back(struct call *call)
{
	bool stream = grpc_kind_many_requests(call->kind);
	bool lost = stream ? call->msg_seq != 0 || call->message_ready
			   : !call->from_small || call->msg_seq != 1;

	counter_inc(&call->w->counters.calls_given_back);
	if (lost || call->decode != NULL || call->refusals++ == REFUSALS_MAX) {
		call->answered = true;
		call_judge(call, GRPC_UNAVAILABLE);
		call_fail(call, GRPC_UNAVAILABLE, "the host did not take the call", 0);
		return;
	}
	endpoint_call_close(call->ep->port, call->call_id, call->w->now_ns);
	call->opened = false;
	call->published = false;
	call->metadata_ready = false;
	call->metadata = 0;
	call->trace = 0;
	call->peer = 0;
	call->half_close_out = false;
	if (!stream) {
		call->have_message = true;
		call->message_ready = false;
		call->msg_seq = 0;
		call->wire = call->small;
	}
	/* What waits for room asks again once it is published. */
	call->asked |= call->waiting == CALL_WAIT_ROOM;
	call_unwait(call);
	endpoint_blocks_put(call->ep->port, &call->blocks);
	call_advance(call);
}

/* Whether any lane is stuck and any free: then there is something to take and somewhere to go. */
static bool lanes_judge(struct take_back *t)
{
	uint64_t now_ns = t->ep->w->now_ns;
	bool stuck = false, free = false;

	for (unsigned lane = 0; lane < endpoint_lanes(t->ep->port); lane++) {
		struct endpoint_lane_state s;

		endpoint_lane_state(t->ep->port, lane, &s);
		if (s.oldest_ns != 0 && now_ns > s.oldest_ns + TAKE_BACK_NS) {
			t->lanes[lane / 64] |= UINT64_C(1) << (lane % 64);
			stuck = true;
		} else if (s.queued == 0 && (s.state == HOST_POLLING || s.state == HOST_PARKED)) {
			free = true;
		}
	}
	return stuck && free;
}

void attached_take_back(struct attached *ep)
{
	struct take_back t = {.ep = ep};
	struct list *node;

	list_init(&t.calls);
	if (ep->faulted || endpoint_geometry(ep->we->endpoint)->revocable == 0 || !lanes_judge(&t))
		return;
	endpoint_calls_each(ep->port, call_take_back, &t);
	while ((node = list_pop_head(&t.calls)) != NULL)
		call_place(list_entry(node, struct call, wait));
}
