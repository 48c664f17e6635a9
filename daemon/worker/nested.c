/* Calls out of a handler, and their callees among the attached hosts.
 *
 * A call out is a struct call the other way round: its host's requests come as replies do (slots,
 * window, encode), the answers go to it as requests go to others (room, decode, credit, slots of
 * its home lane). So all that is true of those is true here. Its callee is an ordinary call, of
 * whichever endpoint balance picks. The two stand back to back:
 *
 *     host A ──MESSAGE──> call out ──chain──> callee ──REQUEST──> host B
 *     host A <──MESSAGE── call out <──chain── callee <──MESSAGE── host B
 *
 * One encoded message goes between them at a time each way, lent (nested.chain) until the other
 * side has room for it: the encoded bytes are copied into the room that reserve gives, as HTTP/2
 * would have done, and decoded from there with the receiver's own schema.
 *
 * Nothing here calls the other side from inside its own work: what one has done is left in the
 * other's fields, which goes on `nested_due` and is looked at once in the turn (nested_run). So
 * nesting is no recursion, however deep hosts call each other, and a call is freed where nobody
 * holds it.
 *
 * How it ends. Once, with a STATUS to the host: the callee's; DEADLINE_EXCEEDED by the wheel;
 * CANCELLED when the host gives it up or the call it was made for has ended; what a failure here
 * says (out_fail). The callee is closed as by a client that goes. A host that goes takes its calls
 * out with it (out_abort).
 *
 * Why calls that wait for each other end. Calls of hosts that call each other in a circle can take
 * all of a segment and wait for more. Requests leave a part of it to answers (attached.outer_max);
 * encoded messages of calls out have no more pages than one connection; and who waits for memory
 * without any progress for the channel's room_timeout ends with RESOURCE_EXHAUSTED, which gives
 * back all it had. Tables that are full refuse at once. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* Calls looked at in one nested_run. */
#define DUE_MAX 256

/* The status message of a call out, kept with its trailers. */
#define TEXT_MAX 1024
static const char text_name[] = "";

void nested_due(struct call *call)
{
	if (list_empty(&call->nested.due))
		list_add_tail(&call->w->nested_due, &call->nested.due);
}

/* ---- what calls ask of their client --------------------------------------------------------- */

static const struct grpc_result no_reply = {
	.status = GRPC_INTERNAL,
	.message = "the host gave no reply",
	.message_len = sizeof("the host gave no reply") - 1,
};

void client_finish(struct call *call, const struct grpc_result *result)
{
	if (likely(call->grpc != NULL)) {
		grpc_finish(call->grpc, result);
		return;
	}
	if (call->nested.peer != NULL && result->status == GRPC_OK && !call->nested.sent &&
	    !grpc_kind_many_replies(call->kind))
		out_ended(call->nested.peer, &no_reply);
	else if (call->nested.peer != NULL)
		out_ended(call->nested.peer, result);
	nested_due(call);
}

/* Whether the call, of either side, may send no more than one message. */
static bool sends_one(const struct call *call)
{
	return call->nested.out ? !grpc_kind_many_requests(call->method->kind)
				: !grpc_kind_many_replies(call->kind);
}

int client_send(struct call *call, struct reply *r)
{
	struct call *peer = call->nested.peer;

	if (likely(call->grpc != NULL))
		return grpc_send_message(call->grpc, &r->chain);
	if (call->nested.remote != NULL)
		return remote_send(call, r);
	if (peer == NULL || peer->nested.chain != NULL)
		return SPLIT_AGAIN;
	if (call->nested.sent && sends_one(call))
		return -SPLIT_E_GRPC_STATE;
	call->nested.sent = true;
	if (call->nested.out)
		counter_inc(&call->w->counters.out_requests);
	else
		counter_inc(&call->w->counters.out_answers);
	peer->nested.chain = &r->chain;
	nested_due(peer);
	return 0;
}

int client_send_metadata(struct call *call, const struct grpc_metadata *md, uint32_t n)
{
	struct call *peer = call->nested.peer;

	if (likely(call->grpc != NULL))
		return grpc_send_metadata(call->grpc, md, n);
	return peer == NULL ? 0 : out_headers(peer, md, n);
}

void client_pause(struct call *call, bool paused)
{
	if (call->grpc != NULL)
		grpc_call_pause(call->grpc, paused);
}

uint64_t client_deadline_ns(const struct call *call)
{
	return call->grpc != NULL ? grpc_call_deadline_ns(call->grpc) : call->nested.deadline_ns;
}

/* ---- a message from one to the other -------------------------------------------------------- */

/* Its first `max` bytes. Returns how many that are. */
static size_t gather(uint8_t *to, const struct grpc_chain *chain, size_t max)
{
	size_t n = 0;

	for (uint32_t i = 0; i < chain->iov_count && n < max; i++) {
		size_t part = RTE_MIN(chain->iov[i].iov_len, max - n);

		memcpy(to + n, chain->iov[i].iov_base, part);
		n += part;
	}
	return n;
}

size_t client_peek(struct call *call, uint8_t *to, size_t max)
{
	if (call->grpc != NULL)
		return grpc_call_peek(call->grpc, to, (uint32_t)max);
	return call->nested.chain != NULL ? gather(to, call->nested.chain, max) : 0;
}

/* Give back what the peer has lent: it may send its next, or end. */
static void chain_drop(struct call *call)
{
	struct grpc_chain *chain = call->nested.chain;

	if (chain == NULL)
		return;
	call->nested.chain = NULL;
	chain->release(chain);
	if (call->nested.peer != NULL)
		nested_due(call->nested.peer);
}

/* Take over what the peer has lent, if there is room for it now. */
static void chain_take(struct call *call)
{
	struct grpc_chain *chain = call->nested.chain;
	uint8_t *buf = NULL;
	uint32_t bytes;
	int err;

	if (chain == NULL || call->have_message || call->finished || call->host_over)
		return;
	err = call_reserve(call, chain->bytes, &buf);
	if (err == SPLIT_AGAIN)
		return;
	if (err < 0) {
		call_fail_code(call, err);
		return;
	}
	(void)gather(buf, chain, chain->bytes);
	bytes = chain->bytes;
	chain_drop(call);
	call_message(call, bytes, false, !grpc_kind_many_requests(call->kind));
}

void client_room(struct call *call)
{
	if (likely(call->grpc != NULL))
		grpc_call_room(call->grpc);
	else if (call->nested.remote != NULL)
		remote_room(call);
	else
		chain_take(call);
}

/* ---- the callee ----------------------------------------------------------------------------- */

/* Its caller is not there any more, or it has said all and all was taken. */
static void callee_close(struct call *call, enum grpc_closed why)
{
	struct call *peer = call->nested.peer;

	chain_drop(call);
	if (peer != NULL) {
		chain_drop(peer);
		peer->nested.peer = NULL;
		peer->nested.linked = false;
		nested_due(peer);
	}
	call->nested.peer = NULL;
	call_closed(call, why);
}

static void callee_go_on(struct call *call)
{
	struct nested *n = &call->nested;

	if (n->cut) {
		callee_close(call, n->why);
		return;
	}
	if (!n->linked || !list_empty(&call->host_wait))
		return;
	chain_take(call);
	if (n->end && n->chain == NULL && !call->half_closed && !call->finished &&
	    grpc_kind_many_requests(call->kind))
		call_half_close(call);
	call_replies_advance(call);
	if (call->finished && (n->peer == NULL || n->peer->nested.chain == NULL))
		callee_close(call, GRPC_CLOSED_DONE);
}

static const char kinds_differ[] = "caller and callee disagree about the kind of the method";

static bool kinds_agree(const struct balance_method *sought, const struct method *m)
{
	const struct method *any = balance_method_any(sought);

	return any == NULL || any->kind == m->kind;
}

void callee_found(struct call *call)
{
	if (!kinds_agree(call->sought, call->nested.peer->method)) {
		call_fail(call, GRPC_INTERNAL, kinds_differ, 0);
		return;
	}
	if (grpc_kind_many_requests(call->kind))
		list_add_tail(&call->w->opening, &call->opening);
	nested_due(call);
}

/* Find who serves the method here. 0, or the status to end the call with. */
static int callee_open(struct call *out, uint32_t metadata_n, const char **text_out)
{
	struct worker *w = out->w;
	struct attached *ep = out->ep;
	const struct method *m = out->method;
	struct balance_method *sought;
	uint64_t until_ns = 0;
	struct call *call;
	bool waits;
	int err;

	err = balance_lookup(w->balance, m->path, m->path_len, &sought);
	waits = err == -SPLIT_E_BALANCE_NONE && host_wait_wanted(out, &until_ns);
	if (err != 0 && !waits)
		return (int)call_failure(err, text_out);
	if (err == 0 && !kinds_agree(sought, m)) {
		balance_method_put(w->balance, sought);
		*text_out = kinds_differ;
		return GRPC_INTERNAL;
	}
	if (waits)
		sought = NULL;
	call = call_new(w, &ep->as_client, NULL);
	if (call == NULL || call_items_copy(call, w->metadata, metadata_n) != 0) {
		if (call != NULL) {
			call_items_put(call);
			pool_put(&w->call_pool, call);
		}
		if (sought != NULL)
			balance_method_put(w->balance, sought);
		*text_out = "no memory for the call";
		return GRPC_RESOURCE_EXHAUSTED;
	}
	call->sought = sought;
	call->kind = m->kind;
	call->nested.linked = true;
	call->nested.peer = out;
	call->nested.deadline_ns = out->nested.deadline_ns;
	call->nested.waits = out->nested.waits;
	out->nested.peer = call;
	counter_inc(&w->counters.calls);
	counter_set(&w->counters.gauge_calls, pool_in_use(&w->call_pool));
	if (waits)
		host_wait_enter(call, until_ns);
	else if (grpc_kind_many_requests(call->kind))
		list_add_tail(&w->opening, &call->opening);
	return 0;
}

/* ---- a call out begins ---------------------------------------------------------------------- */

static void on_deadline(struct wheel_timer *timer, uint64_t now_ns)
{
	struct call *call = container_of(timer, struct call, nested.timer);

	(void)now_ns;
	counter_inc(&call->w->counters.outs_deadline);
	out_fail(call, GRPC_DEADLINE_EXCEEDED, "the call's time is over");
}

static void deadline_set(struct call *call, uint64_t host_ns)
{
	struct worker *w = call->w;
	uint64_t max_ns = method_channel(w->cfg, call->method)->deadline_max_ns;
	uint64_t at_ns = host_ns != 0 ? host_ns : UINT64_MAX;

	if (max_ns != 0 && at_ns > w->now_ns && at_ns - w->now_ns > max_ns)
		at_ns = w->now_ns + max_ns;
	call->nested.deadline_ns = at_ns;
	if (at_ns != UINT64_MAX)
		wheel_arm(&w->wheel, &call->nested.timer, at_ns);
}

static struct call *out_new(struct attached *ep, const struct endpoint_completion *c)
{
	struct worker *w = ep->w;
	const struct method *m = &ep->methods[c->method];
	bool many_requests = grpc_kind_many_requests(m->kind);
	bool many_replies = grpc_kind_many_replies(m->kind);
	uint32_t *calls = &w->channel_calls[m->channel];
	bool room = *calls < method_channel(w->cfg, m)->calls_max &&
		    counter_get(&w->counters.gauge_outs) < w->outs_max;
	struct call *call = room ? call_new(w, &ep->as_reader, NULL) : NULL;

	if (call == NULL)
		return NULL;
	++*calls;
	call->ep = ep;
	call->method = m;
	call->call_id = c->call_id;
	call->lane = c->home;
	call->opened = true;
	call->published = true;
	/* As seen from here: its "requests" are answers, its "replies" requests. */
	call->kind = many_requests ? GRPC_BIDI : GRPC_CLIENT_STREAMING;
	call->credit = many_replies ? m->read_ahead : 1;
	call->nested.out = true;
	call->nested.waits = c->waits || method_channel(w->cfg, m)->wait_for_ready;
	call->nested.single = !many_replies;
	wheel_timer_init(&call->nested.timer, on_deadline);
	list_add_tail(&ep->calls, &call->in_ep);
	endpoint_out_accept(ep->port, c->call_id, call);
	counter_inc(&w->counters.outs);
	counter_add(&w->counters.gauge_outs, 1);
	return call;
}

/* Who is to answer. 0, or the status to end the call with. */
static int out_open(struct call *call, const struct endpoint_completion *c, const char **text_out)
{
	struct worker *w = call->w;
	int n = call_metadata_read(w, call->ep, c->metadata);
	int status;

	if (n < 0) {
		*text_out = "the host's metadata could not be read";
		return GRPC_INTERNAL;
	}
	if (w->now_ns >= call->nested.deadline_ns) {
		counter_inc(&w->counters.outs_deadline);
		*text_out = "the call's time is over";
		return GRPC_DEADLINE_EXCEEDED;
	}
	if (call->nested.parent_over) {
		counter_inc(&w->counters.outs_abandoned);
		*text_out = "the call that it was made for has ended";
		return GRPC_CANCELLED;
	}
	if (method_channel(w->cfg, call->method)->gone) {
		*text_out = "the channel was taken out of the configuration";
		return GRPC_UNAVAILABLE;
	}
	status = config_channel_is_local(method_channel(w->cfg, call->method))
			 ? callee_open(call, (uint32_t)n, text_out)
			 : remote_open(call, (uint32_t)n, text_out);
	call->nested.linked = status == 0;
	return status;
}

static void parent_set(struct call *call, uint64_t parent_id)
{
	struct call *parent;

	if (parent_id == 0)
		return;
	parent = endpoint_call_user(call->ep->port, parent_id);
	if (parent == NULL || parent->host_over || parent->answered || parent->nested.out)
		call->nested.parent_over = true;
	else
		list_add_tail(&parent->children, &call->nested.in_parent);
}

void out_begin(struct attached *ep, const struct endpoint_completion *c)
{
	struct worker *w = ep->w;
	struct call *call = ep->methods[c->method].out ? out_new(ep, c) : NULL;
	const char *text = NULL;
	int status;

	if (call == NULL) {
		counter_inc(&w->counters.outs_refused);
		if (c->has_token)
			endpoint_token_release(ep->port, c->lane, c->token);
		endpoint_out_refuse(ep->port, c->call_id, GRPC_RESOURCE_EXHAUSTED);
		return;
	}
	parent_set(call, c->parent);
	deadline_set(call, c->deadline_ns);
	status = out_open(call, c, &text);
	if (status != 0) {
		if (c->has_token)
			endpoint_token_release(ep->port, c->lane, c->token);
		out_fail(call, (enum grpc_status)status, text);
		return;
	}
	if (c->has_message) {
		call_reply(call, c);
		return;
	}
	if (c->has_token)
		endpoint_token_release(ep->port, c->lane, c->token);
	if (c->flags & SLOT_END_STREAM)
		out_half_close(call);
}

/* ---- what its host says further ------------------------------------------------------------- */

void out_half_close(struct call *call)
{
	struct nested *n = &call->nested;

	if (n->half_closed)
		return;
	n->half_closed = true;
	if (n->remote != NULL) {
		remote_end(call);
	} else if (n->peer != NULL) {
		n->peer->nested.end = true;
		nested_due(n->peer);
	}
}

static void host_half_closes(struct call *call)
{
	struct list *last = list_last(&call->replies);

	if (last != NULL)
		list_entry(last, struct reply, link)->ends = true;
	else
		out_half_close(call);
}

void out_completion(struct call *call, const struct endpoint_completion *c)
{
	bool over = call->host_over || call->nested.ended;

	if (c->kind == TO_DAEMON_MESSAGE && c->has_message && !over && !call->nested.half_closed) {
		call_reply(call, c);
		return;
	}
	if (c->has_token)
		endpoint_token_release(call->ep->port, c->lane, c->token);
	if (call->host_over)
		return;
	if (c->kind == TO_DAEMON_ABANDON) {
		counter_inc(&call->w->counters.outs_abandoned);
		out_fail(call, GRPC_CANCELLED, "cancelled by the caller");
	} else if (c->kind == TO_DAEMON_CREDIT) {
		call_credit(call, c->credit);
	} else if (c->kind == TO_DAEMON_WANT && !over) {
		call_want(call);
	} else if (c->kind == TO_DAEMON_HALF_CLOSE && !over) {
		host_half_closes(call);
	}
}

/* ---- what its host is told ------------------------------------------------------------------ */

/* The host knows the status: nothing of the call is left but its struct, which nested_run frees. */
static void out_over(struct call *call)
{
	struct worker *w = call->w;
	struct call *peer = call->nested.peer;
	uint32_t grown = call->window - SHEPHERD_STREAM_WINDOW;

	if (call->host_over)
		return;
	call->host_over = true;
	call->finished = true;
	call_replies_drop(call);
	chain_drop(call);
	if (call->nested.remote != NULL)
		remote_cancel(call);
	if (peer != NULL) {
		chain_drop(peer);
		peer->nested.peer = NULL;
		peer->nested.cut = true;
		nested_due(peer);
	}
	call->nested.peer = NULL;
	call->nested.linked = false;
	w->windows_grown -= grown;
	call->conn->windows_grown -= grown;
	call->window -= grown;
	wheel_cancel(&w->wheel, &call->nested.timer);
	list_del(&call->nested.in_parent);
	list_del(&call->grant);
	call_unwait(call);
	call_job_drop(call);
	call_wire_put(call);
	call_items_put(call);
	endpoint_blocks_put(call->ep->port, &call->blocks);
	endpoint_call_close(call->ep->port, call->call_id, w->now_ns);
	w->channel_calls[call->method->channel]--;
	counter_set(&w->counters.gauge_outs, counter_get(&w->counters.gauge_outs) - 1);
	nested_due(call);
}

static void out_free(struct call *call)
{
	struct worker *w = call->w;

	list_del(&call->nested.due);
	list_del(&call->in_ep);
	pool_put(&w->call_pool, call);
	counter_set(&w->counters.gauge_calls, pool_in_use(&w->call_pool));
}

void out_abort(struct call *call)
{
	struct call *peer = call->nested.peer;

	out_over(call);
	/* Its endpoint's memory goes: whoever was its client by it ends now. */
	if (peer != NULL && peer->nested.linked)
		callee_close(peer, GRPC_CLOSED_CANCELLED);
	out_free(call);
}

/* Trailers and the status text into a block; without room the bare status goes. */
static void status_fill(struct call *call, struct endpoint_request *rq)
{
	const struct nested *n = &call->nested;
	uint32_t items = call->items_n - (n->text_bytes != 0);
	size_t bytes = items != 0 ? align_up(metadata_bytes(call->items, items), 16) : 0;
	int64_t delta = endpoint_delta(call->ep->port);
	struct shepherd_chunk chunk;

	if (bytes + n->text_bytes == 0 ||
	    call_block_get(call, &call->blocks, bytes + n->text_bytes + 1u, &chunk) != 0)
		return;
	if (n->text_bytes != 0) {
		memcpy(chunk.mem + bytes, call->items[items].value, n->text_bytes);
		chunk.mem[bytes + n->text_bytes] = '\0';
		rq->text = (uint64_t)((int64_t)(uintptr_t)(chunk.mem + bytes) + delta);
		rq->text_bytes = n->text_bytes;
	}
	if (items != 0 && metadata_write(call->items, items, chunk.mem, bytes, delta) == 0)
		rq->metadata = (uint64_t)((int64_t)(uintptr_t)chunk.mem + delta);
}

static int out_submit(struct call *call, struct endpoint_request *rq)
{
	int err;

	rq->call_id = call->call_id;
	rq->method = call->method->index;
	rq->blocks = &call->blocks;
	err = endpoint_submit(call->ep->port, call->lane, rq, call->w->now_ns);
	if (err == -SPLIT_E_SHEPHERD_FULL || err == -SPLIT_E_SHEPHERD_HOLDS)
		return PUBLISH_LATER;
	return err;
}

/* True: the host knows. */
static bool status_tell(struct call *call)
{
	struct endpoint_request rq = {
		.kind = TO_HOST_STATUS,
		.flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
		.status = call->nested.status,
	};
	int err;

	if (call->nested.single && call->msg_seq == 0 && call->nested.status == GRPC_OK)
		rq.status = GRPC_INTERNAL; /* whoever answers must have something to say */
	endpoint_blocks_put(call->ep->port, &call->blocks);
	status_fill(call, &rq);
	err = out_submit(call, &rq);
	if (err == PUBLISH_LATER) {
		endpoint_blocks_put(call->ep->port, &call->blocks);
		call_wait(call, CALL_WAIT_PUBLISH, false);
		return false;
	}
	out_over(call); /* also where the endpoint is at fault and hears nothing any more */
	return true;
}

/* The answer's initial metadata. False: it waits. */
static bool headers_tell(struct call *call)
{
	struct endpoint_request rq = {.kind = TO_HOST_INITIAL_METADATA};
	struct endpoint_blocks mine = {0};
	size_t bytes = metadata_bytes(call->items, call->items_n);
	int64_t delta = endpoint_delta(call->ep->port);
	struct shepherd_chunk chunk;
	int err;

	err = call_block_get(call, &mine, bytes, &chunk);
	if (err == 0)
		err = metadata_write(call->items, call->items_n, chunk.mem, chunk.bytes, delta);
	if (err == 0) {
		rq.call_id = call->call_id;
		rq.metadata = (uint64_t)((int64_t)(uintptr_t)chunk.mem + delta);
		rq.blocks = &mine;
		err = endpoint_submit(call->ep->port, call->lane, &rq, call->w->now_ns);
	}
	endpoint_blocks_put(call->ep->port, &mine);
	if (err == -SPLIT_E_SHEPHERD_FULL || err == -SPLIT_E_SHEPHERD_HOLDS ||
	    err == -SPLIT_E_SHEPHERD_QUOTA) {
		call_wait(call, CALL_WAIT_PUBLISH, false);
		return false;
	}
	call->nested.headers = false;
	call_items_put(call);
	if (err != 0)
		call_fail_code(call, err);
	return err == 0;
}

/* The message at hand. False: it waits, or the call has failed. */
static bool message_tell(struct call *call)
{
	struct nested *n = &call->nested;
	struct endpoint_request rq = {.kind = TO_HOST_MESSAGE};
	bool whole = n->single && call->items_n == 0;
	int err;

	if (message_needs_blocks(call) && call_prepare(call) != 0)
		return false;
	/* One answer is nothing without its status. */
	if (n->single && !n->ended)
		return false;
	err = message_fill(call, call->lane, &rq);
	if (whole)
		rq.flags |= SLOT_END_STREAM | SLOT_HAS_STATUS;
	if (err == 0)
		err = out_submit(call, &rq);
	if (err == PUBLISH_LATER)
		call_wait(call, CALL_WAIT_PUBLISH, false);
	else if (err < 0 && !n->ended)
		call_fail_code(call, err);
	else if (err < 0)
		out_over(call);
	if (err != 0)
		return false;
	call_message_done(call);
	if (whole)
		out_over(call);
	return !whole;
}

void out_advance(struct call *call)
{
	struct nested *n = &call->nested;

	while (!call->host_over && call->waiting == CALL_WAIT_NONE && call->decode == NULL) {
		if (n->single && n->ended && n->status != GRPC_OK && call->have_message) {
			call_wire_put(call);
			endpoint_blocks_put(call->ep->port, &call->blocks);
			call->have_message = call->message_ready = false;
		}
		if (n->headers && !headers_tell(call))
			return;
		if (!call->have_message) {
			if (n->ended && n->chain == NULL)
				(void)status_tell(call);
			return;
		}
		if (!message_tell(call))
			return;
	}
}

int out_headers(struct call *call, const struct grpc_metadata *md, uint32_t n)
{
	if (n == 0 || call->host_over || call->nested.ended || call->nested.headers)
		return 0;
	call_items_put(call);
	if (call_items_copy(call, md, n) != 0)
		return -SPLIT_E_BASE_LIMIT;
	call->nested.headers = call->items_n != 0;
	out_advance(call);
	return 0;
}

/* ---- the status ----------------------------------------------------------------------------- */

void out_ended(struct call *call, const struct grpc_result *result)
{
	struct nested *n = &call->nested;
	uint32_t items = 0, text_bytes = RTE_MIN(result->message_len, (uint32_t)TEXT_MAX);
	struct grpc_metadata all[WORKER_METADATA_MAX + 2];

	if (n->ended || call->host_over)
		return;
	n->ended = true;
	n->status = (uint8_t)(result->status <= GRPC_STATUS_MAX ? result->status : GRPC_UNKNOWN);
	call_replies_drop(call);
	for (; items < result->trailers_count && items < WORKER_METADATA_MAX; items++)
		all[items] = result->trailers[items];
	if (result->details_len != 0)
		all[items++] = (struct grpc_metadata){"grpc-status-details-bin", result->details,
						      23, result->details_len};
	if (text_bytes != 0)
		all[items++] = (struct grpc_metadata){text_name, (const uint8_t *)result->message,
						      0, text_bytes};
	/* The status counts more than what goes with it. */
	call_items_put(call);
	n->headers = false;
	if (call_items_copy(call, all, items) == 0)
		n->text_bytes = (uint16_t)text_bytes;
	else
		call_items_put(call);
	nested_due(call);
}

void out_fail(struct call *call, enum grpc_status status, const char *text)
{
	const struct grpc_result result = {
		.status = status, .message = text, .message_len = (uint32_t)strlen(text)};
	struct call *peer = call->nested.peer;

	if (call->host_over)
		return;
	counter_inc(&call->w->counters.outs_failed);
	/* What was to come does not matter any more, nor a status that waited behind it. */
	call->finished = true;
	call->nested.ended = false;
	call->nested.text_bytes = 0;
	call_unwait(call);
	call_job_drop(call);
	endpoint_blocks_put(call->ep->port, &call->blocks);
	call->have_message = call->message_ready = false;
	chain_drop(call);
	if (call->nested.remote != NULL)
		remote_cancel(call);
	call_wire_put(call);
	if (peer != NULL) {
		chain_drop(peer);
		peer->nested.peer = NULL;
		peer->nested.cut = true;
		peer->nested.why = status == GRPC_DEADLINE_EXCEEDED ? GRPC_CLOSED_DEADLINE
								    : GRPC_CLOSED_CANCELLED;
		nested_due(peer);
		call->nested.peer = NULL;
	}
	call->nested.linked = false;
	out_ended(call, &result);
}

void call_children_end(struct call *call)
{
	struct list *node;

	while ((node = list_pop_head(&call->children)) != NULL) {
		struct call *child = list_entry(node, struct call, nested.in_parent);

		child->nested.parent_over = true;
		nested_due(child);
	}
}

/* ---- the turn ------------------------------------------------------------------------------- */

static void out_go_on(struct call *call)
{
	struct nested *n = &call->nested;

	if (call->host_over) {
		out_free(call);
		return;
	}
	if (n->parent_over && !n->ended) {
		counter_inc(&call->w->counters.outs_abandoned);
		out_fail(call, GRPC_CANCELLED, "the call that it was made for has ended");
		return;
	}
	chain_take(call);
	out_advance(call);
	call_replies_advance(call);
}

unsigned nested_run(struct worker *w)
{
	struct list *node;
	unsigned n = 0;

	for (; n < DUE_MAX && (node = list_pop_head(&w->nested_due)) != NULL; n++) {
		struct call *call = list_entry(node, struct call, nested.due);

		if (call->nested.out)
			out_go_on(call);
		else
			callee_go_on(call);
	}
	return n;
}

/* Whether the call, of either side, stands where only memory of others can move it. */
static bool waits_for_memory(const struct call *call)
{
	const struct list *first;

	if (call == NULL)
		return false;
	if (call->waiting == CALL_WAIT_ROOM || call->waiting == CALL_WAIT_PREPARE ||
	    call->waiting == CALL_WAIT_READER)
		return true;
	first = list_first(&call->replies);
	return first != NULL && !list_empty(&list_entry(first, struct reply, link)->wait);
}

static void out_check(struct call *call)
{
	struct nested *n = &call->nested;
	uint64_t mark = call->msg_seq;

	if (n->peer != NULL)
		mark += n->peer->msg_seq;
	if (!waits_for_memory(call) && !waits_for_memory(n->peer)) {
		n->wait_ns = 0;
	} else if (n->wait_ns == 0 || n->wait_mark != mark) {
		n->wait_ns = call->w->now_ns;
		n->wait_mark = mark;
	} else if (call->w->now_ns - n->wait_ns >=
		   method_channel(call->w->cfg, call->method)->room_timeout_ns) {
		counter_inc(&call->w->counters.outs_room);
		out_fail(call, GRPC_RESOURCE_EXHAUSTED, "a message waited too long for memory");
	}
}

void nested_check(struct worker *w)
{
	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);

		if (!ep->calls_out)
			continue;
		list_for_each_safe (at, &ep->calls) {
			struct call *call = list_entry(at, struct call, in_ep);

			if (call->nested.out && !call->host_over)
				out_check(call);
		}
	}
}
