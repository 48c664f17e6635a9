/* What hosts say: answers, statuses, initial metadata, credit. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* ---- replies -------------------------------------------------------------------------------- */

void reply_token_put(struct reply *r)
{
	if (!r->has_token)
		return;
	endpoint_token_release(r->call->ep->port, r->lane, r->token);
	r->has_token = false;
}

/* Metadata that the host has sent, as grpc wants it, in the worker's scratch. Returns how many, or
 * a negative code. */
int call_metadata_read(struct worker *w, const struct attached *ep, uint64_t address)
{
	int n;

	if (address == 0)
		return 0;
	n = endpoint_metadata_read(ep->port, address, w->items, WORKER_METADATA_MAX, w->items_bytes,
				   sizeof(w->items_bytes));
	for (int i = 0; i < n; i++) {
		w->metadata[i] = (struct grpc_metadata){
			.name = w->items[i].name,
			.value = w->items[i].value,
			.name_len = w->items[i].name_bytes,
			.value_len = w->items[i].value_bytes,
		};
	}
	return n;
}

#define STATUS_TEXT_MAX 1024
#define DETAILS_NAME    "grpc-status-details-bin"

/* End the call with what the host said. `text`: 0..text_bytes bytes, ours. */
static void finish_by_host(struct call *call, uint32_t status, const char *text,
			   uint32_t text_bytes, uint64_t metadata)
{
	struct worker *w = call->w;
	struct grpc_result result = {
		.status = status,
		.message = text_bytes != 0 ? text : NULL,
		.message_len = text_bytes,
	};
	int n;

	counter_inc(&w->counters.calls_answered);
	n = call_metadata_read(w, call->ep, metadata);
	if (n < 0) {
		call_fail(call, GRPC_INTERNAL, "the host's trailers could not be read", 0);
		return;
	}
	result.trailers = w->metadata;
	for (int i = 0; i < n; i++) {
		const struct grpc_metadata *md = &w->metadata[i];

		if (md->name_len == sizeof(DETAILS_NAME) - 1 &&
		    memcmp(md->name, DETAILS_NAME, md->name_len) == 0) {
			result.details = md->value;
			result.details_len = md->value_len;
		} else {
			w->metadata[result.trailers_count++] = *md;
		}
	}
	call->finished = true;
	client_finish(call, &result);
	call_wire_put(call);
}

/* The status text of a reply into `copy`; returns its length. */
static uint32_t text_read(const struct reply *r, char copy[STATUS_TEXT_MAX])
{
	int n;

	if (r->text_kept) {
		memcpy(copy, r->small, r->text_bytes);
		return r->text_bytes;
	}
	if (r->text == 0 || r->text_bytes == 0)
		return 0;
	n = endpoint_text_read(r->call->ep->port, r->text, r->text_bytes, copy, STATUS_TEXT_MAX);
	return n > 0 ? (uint32_t)n : 0;
}

/* Send an encoded reply, or just end the call. False: it has to wait. */
static bool reply_send(struct call *call, struct reply *r)
{
	/* Once taken, the reply is grpc's: remember what is needed after. */
	uint64_t token = r->token, metadata = r->metadata;
	uint32_t status = r->status, text_bytes = 0;
	bool has_status = r->has_status, has_message = r->has_message, has_token, ends = r->ends;
	unsigned lane = r->lane;
	char text[STATUS_TEXT_MAX];
	int err;

	if (has_status)
		text_bytes = text_read(r, text);
	if (has_message) {
		err = client_send(call, r);
		if (err == SPLIT_AGAIN) {
			r->state = REPLY_ENCODED;
			return false;
		}
		if (err != 0) {
			call_fail(call, GRPC_INTERNAL, "the host sent a message too many",
				  CANCEL_SHUTDOWN);
			return false;
		}
		has_token = r->has_token;
		list_del(&r->link);
		r->state = REPLY_SENT;
		r->has_token = false;
	} else {
		has_token = r->has_token;
		r->has_token = false;
		reply_put(r);
	}
	if (has_status)
		finish_by_host(call, status, text, text_bytes, metadata);
	if (has_token)
		endpoint_token_release(call->ep->port, lane, token);
	if (ends)
		out_half_close(call);
	return true;
}

void call_replies_advance(struct call *call)
{
	struct list *node;

	while (call_wanted(call) && !call->finished &&
	       (node = list_first(&call->replies)) != NULL) {
		struct reply *r = list_entry(node, struct reply, link);
		int err = 0;

		if (r->has_message && r->state != REPLY_ENCODED)
			err = reply_encode(r);
		if (err == SPLIT_AGAIN)
			return;
		if (err < 0) {
			reply_failed(r, err);
			return;
		}
		/* Status text and trailers are read when their turn has come. */
		if (!r->has_status || (r->text == 0 && r->metadata == 0))
			reply_token_put(r);
		if (!reply_send(call, r))
			return;
	}
}

void call_replies_drop(struct call *call)
{
	struct list *node;

	while ((node = list_first(&call->replies)) != NULL)
		reply_put(list_entry(node, struct reply, link));
}

/* ---- completions ---------------------------------------------------------------------------- */

/* A status text in its slot is readable in the callback only: a status that has to wait behind
 * messages keeps (the beginning of) it. */
static void reply_keep_text(struct call *call)
{
	struct list *last = list_last(&call->replies);
	struct reply *r = last == NULL ? NULL : list_entry(last, struct reply, link);
	int n;

	if (r == NULL || r->has_message || r->text == 0 || r->text_kept)
		return;
	n = endpoint_text_read(call->ep->port, r->text, r->text_bytes, (char *)r->small,
			       sizeof(r->small));
	r->text_bytes = n > 0 ? (uint32_t)n : 0;
	r->text_kept = true;
}

/* ---- the window of a stream -------------------------------------------------------------------
 *
 * A host may have `window` messages of a call here, from their slot until they are sent. What it
 * has back is told by WRITABLE in portions of half a window, or at once when the host waits for it
 * (WANT). A stream that uses up its window gets a larger one, out of a common store. */

/* One connection's streams may have this part of the store. */
#define WINDOWS_CONNECTION_PART 8

static void grant_check(struct call *call)
{
	bool due = call->done * 2 >= call->window ||
		   (call->want && (call->done != 0 || call->out == 0));

	if (due && !call->host_over && !call->answered && call->published &&
	    grpc_kind_many_replies(call->kind) && list_empty(&call->grant))
		list_add_tail(&call->ep->grants, &call->grant);
}

void reply_done(struct reply *r)
{
	if (!r->windowed)
		return;
	r->call->out--;
	r->call->done++;
	grant_check(r->call);
}

/* How much larger the window of a call that has used up half of it becomes. */
static uint32_t window_growth(const struct call *call)
{
	const struct worker *w = call->w;
	uint32_t share = w->windows_grown_max / WINDOWS_CONNECTION_PART;
	uint32_t more = RTE_MIN(call->window, SHEPHERD_STREAM_WINDOW_MAX - call->window);

	if (call->conn == NULL || call->done * 2 < call->window ||
	    w->windows_grown + more > w->windows_grown_max ||
	    call->conn->windows_grown + more > RTE_MAX(share, (uint32_t)SHEPHERD_STREAM_WINDOW_MAX))
		return 0;
	return more;
}

unsigned attached_grant(struct attached *ep)
{
	struct worker *w = ep->w;
	unsigned n = 0;

	list_for_each_safe (pos, &ep->grants) {
		struct call *call = list_entry(pos, struct call, grant);
		uint32_t more = window_growth(call);
		const struct endpoint_request rq = {
			.kind = TO_HOST_WRITABLE,
			.call_id = call->call_id,
			.method = call->method->index,
			.info = WRITABLE_INFO(call->done, more),
		};

		int err = endpoint_submit(ep->port, call->lane, &rq, w->now_ns);

		if (err == -SPLIT_E_SHEPHERD_FULL)
			continue; /* next turn */
		list_del(&call->grant);
		if (err != 0)
			continue;
		call->window += more;
		call->done = 0;
		call->want = false;
		if (more != 0) {
			w->windows_grown += more;
			call->conn->windows_grown += more;
		}
		counter_inc(&w->counters.stream_grants);
		n++;
	}
	return n;
}

/* The host has sent a message. False: it may not; the call was failed. */
static bool window_take(struct call *call, const struct endpoint_completion *c)
{
	if (call->out < call->window) {
		call->out++;
		return true;
	}
	if (c->has_token)
		endpoint_token_release(call->ep->port, c->lane, c->token);
	counter_inc(&call->w->counters.stream_overruns);
	call_fail(call, GRPC_INTERNAL, "the host sent more messages than it may", CANCEL_SHUTDOWN);
	return false;
}

/* A message comes in the form that the host was asked for, or linear. False: the call was failed.
 */
static bool form_allowed(struct call *call, const struct endpoint_completion *c)
{
	if (likely((c->form & SLOT_FORM_WIRE) == 0) || call->answers_wire)
		return true;
	if (c->has_token)
		endpoint_token_release(call->ep->port, c->lane, c->token);
	counter_inc(&call->w->counters.replies_unasked);
	call_fail(call, GRPC_INTERNAL, "the host encoded what it should not", CANCEL_SHUTDOWN);
	return false;
}

/* The host has given a status. One that it gives because it could not decode what the client sent
 * says nothing about the host. */
static void status_judge(struct call *call, const struct endpoint_completion *c)
{
	if ((c->form & SLOT_FORM_UNDECODED) == 0 || !call->handed_over) {
		call_judge(call, c->status);
		return;
	}
	refused_at_host(call, c->status);
	counter_inc(&call->w->counters.requests_undecoded);
	counter_inc(&call->w->counters.decode_errors);
}

void call_reply(struct call *call, const struct endpoint_completion *c)
{
	struct worker *w = call->w;
	struct reply *r;

	if (c->has_message && (!form_allowed(call, c) || !window_take(call, c)))
		return;
	r = pool_get(&w->reply_pool);
	if (r == NULL) {
		/* Not to happen (replies_max). */
		call->out -= c->has_message;
		if (c->has_token)
			endpoint_token_release(call->ep->port, c->lane, c->token);
		call_fail(call, GRPC_RESOURCE_EXHAUSTED, "too many answers wait to be sent",
			  CANCEL_SHUTDOWN);
		return;
	}
	memset(r, 0, offsetof(struct reply, iov_inline));
	list_init(&r->link);
	list_init(&r->wait);
	list_init(&r->job.link);
	r->job.kind = JOB_ENCODE;
	r->w = w;
	r->call = call;
	r->conn = call->conn;
	r->windowed = c->has_message;
	r->has_status = c->kind == TO_DAEMON_STATUS || (c->flags & SLOT_HAS_STATUS) != 0;
	r->has_message = c->has_message && (!r->has_status || c->status == GRPC_OK);
	r->has_token = c->has_token;
	r->wire = (c->form & SLOT_FORM_WIRE) != 0;
	r->compress = (c->flags & SLOT_COMPRESSED) != 0;
	r->ends = call->nested.out && (c->flags & SLOT_END_STREAM) != 0;
	r->lane = c->lane;
	r->token = c->token;
	r->status = c->status;
	r->text = c->text;
	r->text_bytes = c->text_bytes;
	r->metadata = c->metadata;
	r->msg = c->msg;
	r->msg_bytes = c->msg_bytes;
	r->window = c->window;
	if (c->has_message && c->window.bytes <= SLOT_INLINE_BYTES) {
		/* Inline: valid in this callback only, and the encode may have to wait. */
		if (c->window.bytes != 0)
			memcpy(r->copy, c->window.mem, c->window.bytes);
		r->window.mem = r->copy;
	}
	list_add_tail(&call->replies, &r->link);
	if (r->has_status) {
		/* Its messages have no room any more: what the client still sends is held, and
		 * discarded when the status goes out. */
		client_pause(call, true);
		call->answered = true;
		status_judge(call, c);
		call_leave_host(call, 0);
	}
	call_replies_advance(call);
	reply_keep_text(call);
}

static void on_initial_metadata(struct call *call, const struct endpoint_completion *c)
{
	struct worker *w = call->w;
	int n = call_metadata_read(w, call->ep, c->metadata);

	if (n >= 0 && client_send_metadata(call, w->metadata, (uint32_t)n) == 0)
		return;
	call_fail(call, GRPC_INTERNAL, "the host's initial metadata could not be sent",
		  CANCEL_SHUTDOWN);
}

void call_credit(struct call *call, uint32_t credit)
{
	/* A host can't make it overflow, and needs no more than what fits. */
	call->credit = credit > UINT32_MAX - call->credit ? UINT32_MAX : call->credit + credit;
	call_ask(call);
}

void call_want(struct call *call)
{
	call->want = true;
	grant_check(call);
}

static void on_completion(void *ctx, struct endpoint_port *port,
			  const struct endpoint_completion *c)
{
	struct worker *w = ctx;
	struct call *call = c->user;
	enum worker_stage left = stage_enter(w, WORKER_STAGE_encode);
	bool final = c->kind == TO_DAEMON_STATUS || (c->flags & SLOT_HAS_STATUS) != 0;

	attached_charge(endpoint_port_user(port), UNITS_COMPLETE);
	if (c->kind == TO_DAEMON_CALL) {
		out_begin(endpoint_port_user(port), c);
	} else if (call->nested.out) {
		out_completion(call, c);
	} else if (!call_wanted(call) || call->finished || call->answered) {
		/* Nobody waits for it. */
		if (c->has_token)
			endpoint_token_release(port, c->lane, c->token);
		if (final) {
			call->answered = true;
			call_leave_host(call, 0);
			call_put(call);
		}
	} else if (c->kind == TO_DAEMON_MESSAGE || c->kind == TO_DAEMON_STATUS) {
		call_reply(call, c);
	} else {
		if (c->kind == TO_DAEMON_INITIAL_METADATA)
			on_initial_metadata(call, c);
		else if (c->kind == TO_DAEMON_WANT)
			call_want(call);
		else if (c->kind == TO_DAEMON_CREDIT)
			call_credit(call, c->credit);
		if (c->has_token)
			endpoint_token_release(port, c->lane, c->token);
		if (c->kind == TO_DAEMON_REFUSE)
			call_given_back(call);
	}
	stage_enter(w, left);
}

const struct endpoint_events complete_events = {.completion = on_completion};
