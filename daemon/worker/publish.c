/* From a ready request to a slot in a host worker's ring. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

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
	if (call->as_wire) {
		const struct linear_limits *limits = &call->method->decode_limits;

		rq->form |= SLOT_FORM_WIRE;
		rq->limits = WIRE_LIMITS(limits->linear_bytes_max, limits->depth_max);
		rq->elements_max = (uint32_t)limits->elements_max;
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
	if (call->method->encode_at_host)
		rq->form |= SLOT_FORM_ENCODE;
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
	attached_charge(call->ep, UNITS_PUBLISH);
	call->published = true;
	call->inlined = !call->message_ready;
	call->answers_wire = (rq.form & SLOT_FORM_ENCODE) != 0;
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
	int err;

	if (unlikely(attached_over(call->ep))) {
		counter_inc(&call->ep->told->deferred);
		err = balance_defer(w->balance, &call->balance, w->now_ns);
	} else {
		err = balance_place(w->balance, &call->balance, w->now_ns, &lane);
	}
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
	while (!(balance_endpoint_queued(ep->balance) != 0 && attached_over(ep)) &&
	       (next = balance_next(w->balance, ep->balance, w->now_ns, &lane)) != NULL) {
		/* Its connection has stopped reading since it was queued. */
		if (!call_held(next->user) &&
		    request_publish_or_queue(next->user, lane) == PUBLISH_LATER)
			break;
		n++;
	}
	return n;
}

/* ---- given back ----------------------------------------------------------------------------- */

/* How often one call may be given back by hosts before its client hears of it. */
#define REFUSALS_MAX 3

void call_unpublish(struct call *call, bool blocks_here)
{
	call->opened = false;
	call->published = false;
	call->half_close_out = false;
	/* Of a stream the first message may be half here, in the room that grpc got for it. */
	if (call->msg_seq == 0)
		return;
	call->msg_seq = 0;
	call->have_message = true;
	call->message_ready = blocks_here && !call->inlined;
	call->wire = call->small;
}

/* The host did not begin it: it may go elsewhere, as it was in the blocks that came back, or from
 * its bytes while they are still here. */
void call_given_back(struct call *call)
{
	bool stream = grpc_kind_many_requests(call->kind);
	bool kept = !stream && call->blocks.head == 0 && call->msg_seq == 1 &&
		    endpoint_refused_blocks(call->ep->port, &call->blocks);
	bool lost = stream ? call->msg_seq != 0 || call->message_ready
			   : !kept && (!call->from_small || call->msg_seq != 1);

	counter_inc(&call->w->counters.calls_given_back);
	if (lost || call->decode != NULL || call->refusals++ == REFUSALS_MAX) {
		endpoint_blocks_put(call->ep->port, &call->blocks);
		call->answered = true;
		call_judge(call, GRPC_UNAVAILABLE);
		call_fail(call, GRPC_UNAVAILABLE, "the host did not take the call", 0);
		return;
	}
	endpoint_call_close(call->ep->port, call->call_id, call->w->now_ns);
	call_unpublish(call, kept);
	/* What waits for room asks again once it is published. */
	call->asked |= call->waiting == CALL_WAIT_ROOM;
	call_unwait(call);
	if (!kept) {
		call->metadata_ready = false;
		call->metadata = 0;
		call->trace = 0;
		call->peer = 0;
		endpoint_blocks_put(call->ep->port, &call->blocks);
	}
	call_advance(call);
}
