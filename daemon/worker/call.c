/* A call from its opening to its end: what grpc/ asks of its backend. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* ---- how a call fails ----------------------------------------------------------------------- */

static const struct {
	int code;
	enum grpc_status status;
	const char *text;
} failures[] = {
	{SPLIT_E_BALANCE_UNKNOWN, GRPC_UNIMPLEMENTED, "unknown service"},
	{SPLIT_E_BALANCE_METHOD, GRPC_UNIMPLEMENTED, "unknown method"},
	{SPLIT_E_BALANCE_NONE, GRPC_UNAVAILABLE, "no host serves the method now"},
	{SPLIT_E_BALANCE_ELSEWHERE, GRPC_UNAVAILABLE, "the service is not placed on this worker"},
	{SPLIT_E_BALANCE_FULL, GRPC_RESOURCE_EXHAUSTED, "the service's queue is full"},
	{SPLIT_E_BALANCE_CALLS, GRPC_RESOURCE_EXHAUSTED, "the service has too many calls"},
	{SPLIT_E_BALANCE_TIMEOUT, GRPC_RESOURCE_EXHAUSTED, "no host worker took the call in time"},
	{SPLIT_E_SHEPHERD_CALLS, GRPC_RESOURCE_EXHAUSTED, "the host has too many calls"},
	{SPLIT_E_SHEPHERD_FULL, GRPC_RESOURCE_EXHAUSTED, "the message does not fit the segment"},
	{SPLIT_E_SHEPHERD_QUOTA, GRPC_RESOURCE_EXHAUSTED, "the message does not fit the segment"},
	{SPLIT_E_BASE_LIMIT, GRPC_RESOURCE_EXHAUSTED, "the message does not fit the segment"},
	/* The host is about to be detached. */
	{SPLIT_E_SHEPHERD_PROTOCOL, GRPC_UNAVAILABLE, "the host has gone"},
	{SPLIT_E_SHEPHERD_GONE, GRPC_UNAVAILABLE, "the host has gone"},
	{SPLIT_E_SHEPHERD_RELEASE, GRPC_UNAVAILABLE, "the host has gone"},
};

static void failure_count(struct worker *w, enum grpc_status status)
{
	if (status == GRPC_UNAVAILABLE)
		counter_inc(&w->counters.calls_unavailable);
	else if (status == GRPC_RESOURCE_EXHAUSTED)
		counter_inc(&w->counters.calls_exhausted);
}

enum grpc_status call_failure(int code, const char **text_out)
{
	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		if (-failures[i].code == code) {
			*text_out = failures[i].text;
			return failures[i].status;
		}
	}
	*text_out = error_text(code);
	return GRPC_INTERNAL;
}

void call_fail(struct call *call, enum grpc_status status, const char *text, unsigned cause)
{
	if (unlikely(call->nested.out)) {
		out_fail(call, status, text);
		return;
	}
	failure_count(call->w, status);
	if (call_wanted(call) && !call->finished) {
		const struct grpc_result result = {
			.status = status,
			.message = text,
			.message_len = (uint32_t)strlen(text),
		};

		call->finished = true;
		client_finish(call, &result);
	}
	call_replies_drop(call);
	call_leave_host(call, cause);
}

void call_fail_code(struct call *call, int code)
{
	const char *text;
	enum grpc_status status = call_failure(code, &text);

	call_fail(call, status, text, CANCEL_SHUTDOWN);
}

/* ---- waiting -------------------------------------------------------------------------------- */

void call_wait(struct call *call, enum call_wait where, bool at_head)
{
	struct attached *ep = call->ep;
	struct list *lists[] = {
		[CALL_WAIT_PREPARE] = &ep->prepare_wait,
		[CALL_WAIT_PUBLISH] = &ep->publish_wait,
	};

	call_unwait(call);
	call->waiting = where;
	if (at_head)
		list_add_head(lists[where], &call->wait);
	else
		list_add_tail(lists[where], &call->wait);
}

void call_unwait(struct call *call)
{
	if (call->waiting == CALL_WAIT_ROOM) {
		room_unwait(call);
		return;
	}
	list_del(&call->wait);
	call->waiting = CALL_WAIT_NONE;
}

/* ---- giving back ---------------------------------------------------------------------------- */

void call_wire_put(struct call *call)
{
	room_put(call);
	call->wire = NULL;
}

void call_items_put(struct call *call)
{
	if (call->items_page != NULL)
		pool_put(call->items_pool, call->items_page);
	call->items_page = NULL;
	call->items_n = 0;
}

/* Tell the host that nobody waits. False when its ring has no room: try again later. */
static bool call_cancel(struct call *call, unsigned cause)
{
	struct endpoint_port *port = call->ep->port;
	uint64_t now_ns = call->w->now_ns;
	struct endpoint_blocks blocks = {0};
	const struct endpoint_request rq = {
		.kind = TO_HOST_CANCEL,
		.call_id = call->call_id,
		.method = call->method->index,
		.info = cause,
	};

	if (endpoint_geometry(call->ep->we->endpoint)->revocable != 0 &&
	    endpoint_revoke(port, call->call_id, now_ns, &blocks) == 0) {
		endpoint_blocks_put(port, &blocks); /* it never runs, and is closed */
		call->opened = false;
		return true;
	}
	if (endpoint_submit(port, call->lane, &rq, now_ns) == -SPLIT_E_SHEPHERD_FULL)
		return false;
	counter_inc(&call->w->counters.calls_cancelled);
	return true;
}

/* grpc may be writing a message into its room: a host can end a stream while more comes. The room
 * is kept until the call has ended at the client. */
static bool wire_lent(const struct call *call)
{
	return call->wire != NULL && !call->have_message &&
	       (call->grpc != NULL || call->nested.remote != NULL) && !call->finished;
}

void call_leave_host(struct call *call, unsigned cause)
{
	struct worker *w = call->w;
	struct attached *ep = call->ep;

	call_left(call);
	call_children_end(call);
	list_del(&call->host_wait);
	if (call->sought != NULL) {
		balance_method_put(w->balance, call->sought);
		call->sought = NULL;
	}
	call_items_put(call);
	if (ep == NULL || call->host_over) {
		if (ep != NULL && !wire_lent(call))
			call_wire_put(call);
		call->host_over = true;
		return;
	}
	call_unwait(call);
	list_del(&call->grant);
	call_job_drop(call);
	if (!wire_lent(call))
		call_wire_put(call);
	endpoint_blocks_put(ep->port, &call->blocks);
	balance_done(w->balance, &call->balance);
	if (call->published && !call->answered && cause != 0) {
		call->cancel_cause = cause;
		if (!call_cancel(call, cause)) {
			call_wait(call, CALL_WAIT_PUBLISH, false);
			return;
		}
	}
	if (call->opened)
		endpoint_call_close(ep->port, call->call_id, w->now_ns);
	call->opened = false;
	call->host_over = true;
}

void call_put(struct call *call)
{
	struct worker *w = call->w;

	if (call_wanted(call) || call->nested.out || !call->host_over)
		return;
	list_del(&call->in_ep);
	list_del(&call->opening);
	list_del(&call->nested.due);
	pool_put(&w->call_pool, call);
	counter_set(&w->counters.gauge_calls, pool_in_use(&w->call_pool));
}

void call_message_done(struct call *call)
{
	call_wire_put(call);
	call->have_message = false;
	call->message_ready = false;
	call->blocks_wanted = false;
	call->msg_seq++;
	call_ask(call);
}

void call_ask(struct call *call)
{
	if (!call->asked || !call_wanted(call) || call->finished || call->answered ||
	    call->have_message)
		return;
	if (grpc_kind_many_requests(call->kind) && (!call->published || call->credit == 0))
		return;
	call->asked = false;
	client_room(call);
}

/* ---- open ----------------------------------------------------------------------------------- */

/* user-agent comes with every call and would cost each small one a block: only the hosts that ask
 * for it get it (services[].user_agent). */
static bool metadata_passed(const struct call *call, const struct grpc_metadata *md)
{
	return call->user_agent || !(md->name_len == 10 && memcmp(md->name, "user-agent", 10) == 0);
}

/* Room for the copies of `n` items with `bytes` of strings: in the call, or in a page. */
static uint8_t *items_room(struct call *call, uint32_t n, size_t bytes)
{
	struct worker *w = call->w;
	size_t all = n * sizeof(struct metadata_item) + bytes;

	call->items = call->items_small;
	if (n <= CALL_METADATA_ENTRIES && bytes <= CALL_METADATA_BYTES)
		return call->items_bytes;
	if (all > PAGE_LARGE_BYTES)
		return NULL;
	call->items_pool = all <= PAGE_BYTES ? &w->page_pool : &w->large_pool;
	call->items_page = pool_get(call->items_pool);
	if (call->items_page == NULL)
		return NULL;
	call->items = (struct metadata_item *)(void *)call->items_page;
	return call->items_page + n * sizeof(struct metadata_item);
}

int call_items_copy(struct call *call, const struct grpc_metadata *list, uint32_t list_n)
{
	uint8_t *at;
	uint32_t n = 0;
	size_t bytes = 0;

	for (uint32_t i = 0; i < list_n; i++) {
		const struct grpc_metadata *md = &list[i];

		if (!metadata_passed(call, md))
			continue;
		bytes += (size_t)md->name_len + md->value_len;
		n++;
	}
	if (n == 0)
		return 0;
	at = items_room(call, n, bytes);
	if (at == NULL)
		return -SPLIT_E_BASE_LIMIT;
	for (uint32_t i = 0; i < list_n; i++) {
		const struct grpc_metadata *md = &list[i];
		struct metadata_item *item = &call->items[call->items_n];

		if (!metadata_passed(call, md))
			continue;
		item->name = (const char *)at;
		item->name_bytes = md->name_len;
		memcpy(at, md->name, md->name_len);
		at += md->name_len;
		item->value = at;
		item->value_bytes = md->value_len;
		if (md->value_len != 0)
			memcpy(at, md->value, md->value_len);
		at += md->value_len;
		call->items_n++;
	}
	return 0;
}

struct call *call_new(struct worker *w, struct connection *c, struct grpc_call *grpc)
{
	struct call *call = pool_get(&w->call_pool);

	if (call == NULL)
		return NULL;
	worker_tick_soon(w);
	memset(call, 0, offsetof(struct call, items_small));
	call->w = w;
	call->conn = c;
	call->grpc = grpc;
	call->balance.user = call;
	call->window = SHEPHERD_STREAM_WINDOW;
	list_init(&call->in_ep);
	list_init(&call->opening);
	list_init(&call->grant);
	list_init(&call->wait);
	list_init(&call->host_wait);
	list_init(&call->replies);
	list_init(&call->job.link);
	list_init(&call->children);
	list_init(&call->nested.due);
	list_init(&call->nested.in_parent);
	call->job.kind = JOB_DECODE;
	return call;
}

static int open_refused(struct worker *w, int code, struct grpc_accept *accept)
{
	enum grpc_status status = call_failure(code, &accept->refusal);

	failure_count(w, status);
	return (int)status;
}

/* As a server without that virtual host says it. */
static int open_elsewhere(struct worker *w, struct grpc_accept *accept)
{
	counter_inc(&w->counters.calls_elsewhere);
	accept->refusal = "not served under this authority";
	return GRPC_UNIMPLEMENTED;
}

static void sought_put(struct worker *w, struct balance_method *sought)
{
	if (sought != NULL)
		balance_method_put(w->balance, sought);
}

/* Whether the service is for this client here; else the status to end the call with. */
static int open_allowed(struct worker *w, struct connection *c,
			const struct grpc_request_head *head, size_t service,
			struct grpc_accept *accept)
{
	const struct config_service *s = &w->cfg->services[service];
	int err;

	if (!config_listener_has_service(c->listener, (uint32_t)service))
		return open_refused(w, -SPLIT_E_BALANCE_UNKNOWN, accept);
	if (!config_authority_has(s->authorities, s->authorities_n, head->authority,
				  head->authority_len))
		return open_elsewhere(w, accept);
	err = connection_allow(c, service);
	if (err != 0) {
		accept->refusal =
			err == GRPC_UNAUTHENTICATED
				? "the service asks for a client certificate"
				: "the client's certificate is not one the service allows";
		counter_inc(&w->counters.calls_denied);
	}
	return err;
}

static int on_open(void *ctx, struct grpc_call *grpc, const struct grpc_request_head *head,
		   struct grpc_accept *accept)
{
	struct worker *w = ctx;
	struct connection *c = grpc_connection_user(grpc_call_connection(grpc));
	struct balance_method *sought;
	const struct method *method;
	struct call *call;
	size_t service;
	int waits = -1;
	int err;

	if (!config_authority_has(c->listener->authorities, c->listener->authorities_n,
				  head->authority, head->authority_len))
		return open_elsewhere(w, accept);
	err = services_open(w->services, grpc, head, accept);
	if (unlikely(err != SPLIT_AGAIN))
		return err;
	err = balance_lookup(w->balance, head->path, head->path_len, &sought);
	if (err == -SPLIT_E_BALANCE_NONE)
		waits = host_wait_service(w, head);
	if (err != 0 && waits < 0)
		return open_refused(w, err, accept);
	if (err != 0)
		sought = NULL;
	service = sought != NULL ? balance_method_service(w->balance, sought) : (size_t)waits;
	err = open_allowed(w, c, head, service, accept);
	if (err != 0) {
		sought_put(w, sought);
		return err;
	}
	call = call_new(w, c, grpc);
	if (call != NULL)
		call->user_agent = w->cfg->services[service].user_agent;
	if (call == NULL || call_items_copy(call, head->metadata, head->metadata_count) != 0) {
		if (call != NULL) {
			call_items_put(call);
			pool_put(&w->call_pool, call);
		}
		sought_put(w, sought);
		counter_inc(&w->counters.calls_refused);
		return GRPC_RESOURCE_EXHAUSTED;
	}
	accept->user = call;
	counter_inc(&w->counters.calls);
	counter_set(&w->counters.gauge_calls, pool_in_use(&w->call_pool));
	if (sought == NULL) {
		host_wait_begin(call, head, waits, accept);
		return 0;
	}
	method = balance_method_any(sought);
	call->sought = sought;
	call->kind = method->kind;
	accept->kind = method->kind;
	accept->message_bytes_max = (uint32_t)method->decode_limits.wire_bytes_max;
	accept->timeout_ns = method->timeout_ns;
	if (grpc_kind_many_requests(call->kind))
		list_add_tail(&w->opening, &call->opening);
	return 0;
}

/* ---- messages ------------------------------------------------------------------------------- */

/* Choose the endpoint. False: the call was failed. */
static bool call_pick(struct call *call)
{
	struct worker *w = call->w;
	void *route = NULL;
	int err;

	if (call->ep != NULL)
		return true;
	err = call_choose(call, &route);
	if (err != 0) {
		call_fail_code(call, err);
		return false;
	}
	balance_method_put(w->balance, call->sought);
	call->sought = NULL;
	call->method = route;
	call->ep = call->method->ep;
	call->credit = call->method->read_ahead;
	attached_active(call->ep);
	counter_inc(&call->ep->told->calls);
	list_add_tail(&call->ep->calls, &call->in_ep);
	if (call->method->kind != call->kind) {
		call_fail(call, GRPC_INTERNAL, "hosts disagree about the kind of the method", 0);
		return false;
	}
	return true;
}

/* A stream begins for its handler when its headers are here, not with its first message. */
unsigned openings_run(struct worker *w)
{
	struct list *node;
	unsigned n = 0;

	while ((node = list_pop_head(&w->opening)) != NULL) {
		struct call *call = list_entry(node, struct call, opening);

		n++;
		if (!call->finished && !call->published && call_pick(call))
			call_advance(call);
	}
	return n;
}

/* Whether the next message has to wait: one at a time; of a stream as many as the host takes, and
 * large ones not before it is published (to be published it may have to wait itself). */
static bool message_waits(const struct call *call, uint32_t bytes)
{
	if (call->have_message)
		return true;
	if (!grpc_kind_many_requests(call->kind))
		return false;
	if (call->credit == 0)
		counter_inc(&call->w->counters.stream_credit_waits);
	return call->credit == 0 || (!call->published && bytes > CALL_SMALL_BYTES);
}

int call_reserve(struct call *call, uint32_t bytes, uint8_t **buf_out)
{
	enum worker_stage left = stage_enter(call->w, WORKER_STAGE_grpc);
	int r = SPLIT_AGAIN;

	if (call->ep == NULL) {
		int look = call_look(call, bytes);

		if (look == SPLIT_AGAIN)
			goto out;
		if (look == CHOOSE_LATER) {
			call->wire = call->small;
			*buf_out = call->wire;
			r = 0;
			goto out;
		}
	}
	if (!call_pick(call))
		goto out; /* finished: closed follows */
	if (message_waits(call, bytes)) {
		call->asked = true;
		goto out;
	}
	if (bytes <= CALL_SMALL_BYTES) {
		call->wire = call->small;
		r = 0;
	} else {
		r = room_get(call, bytes);
	}
	*buf_out = call->wire;
	if (r < 0)
		counter_inc(&call->w->counters.calls_exhausted);
out:
	stage_enter(call->w, left);
	return r;
}

static int on_reserve(void *ctx, struct grpc_call *grpc, uint32_t bytes, uint8_t **buf_out)
{
	(void)ctx;
	return call_reserve(grpc_call_user(grpc), bytes, buf_out);
}

void call_message(struct call *call, uint32_t bytes, bool compressed, bool last)
{
	if (unlikely(call->answered)) {
		call_wire_put(call);
		return;
	}
	call->wire_bytes = bytes;
	if (call->ep == NULL) { /* call_look() said CHOOSE_LATER */
		call->seen = (uint16_t)bytes;
		call->seen_whole = true;
		if (!call_pick(call))
			return;
	}
	call->have_message = true;
	call->from_small = call->wire == call->small;
	call->compressed = compressed;
	if (grpc_kind_many_requests(call->kind))
		call->credit--;
	call->half_closed |= last;
	call_advance(call);
}

static void on_message(void *ctx, struct grpc_call *grpc, uint8_t *buf, uint32_t bytes, bool last)
{
	(void)ctx;
	(void)buf;
	call_message(grpc_call_user(grpc), bytes, grpc_call_message_compressed(grpc), last);
}

void call_half_close(struct call *call)
{
	call->half_closed = true;
	if (call_pick(call))
		call_advance(call);
}

static void on_half_close(void *ctx, struct grpc_call *grpc)
{
	(void)ctx;
	call_half_close(grpc_call_user(grpc));
}

static void on_writable(void *ctx, struct grpc_call *grpc)
{
	(void)ctx;
	call_replies_advance(grpc_call_user(grpc));
}

void call_closed(struct call *call, enum grpc_closed why)
{
	static const unsigned causes[] = {
		[GRPC_CLOSED_DONE] = CANCEL_SHUTDOWN,
		[GRPC_CLOSED_CANCELLED] = CANCEL_BY_CLIENT,
		[GRPC_CLOSED_CONNECTION] = CANCEL_CONNECTION,
		[GRPC_CLOSED_DEADLINE] = CANCEL_DEADLINE,
		[GRPC_CLOSED_FAILED] = CANCEL_SHUTDOWN,
	};

	if (why == GRPC_CLOSED_DEADLINE && call->published && !call->answered)
		call_judge(call, GRPC_DEADLINE_EXCEEDED);
	call_replies_drop(call);
	call->w->windows_grown -= call->window - SHEPHERD_STREAM_WINDOW;
	call->conn->windows_grown -= call->window - SHEPHERD_STREAM_WINDOW;
	call->window = SHEPHERD_STREAM_WINDOW;
	call_left(call);
	call->grpc = NULL;
	call->nested.linked = false;
	call->conn = NULL;
	call_leave_host(call, causes[why]);
	call_put(call);
}

static void on_closed(void *ctx, struct grpc_call *grpc, enum grpc_closed why)
{
	(void)ctx;
	call_closed(grpc_call_user(grpc), why);
}

static void on_oversize(void *ctx, struct grpc_call *grpc, uint64_t bytes)
{
	(void)ctx;
	refused_oversize(grpc_call_user(grpc), bytes);
}

const struct grpc_backend call_backend = {
	.open = on_open,
	.reserve = on_reserve,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.closed = on_closed,
	.oversize = on_oversize,
};
