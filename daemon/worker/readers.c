/* Clients that do not read their answers.
 *
 * Encoded answers take pages, of which a connection has a share (reader_share_full); what is past
 * it stays in the host's segment, where it keeps the host from answering others. So a connection
 * whose answers wait for its share gets nothing more done: its further calls are held here, before
 * they take memory or a handler, until it has read (connection.held_calls).
 *
 * Who reads nothing for grpc.reader_timeout while answers of it wait loses these and the calls
 * held, and its new ones are refused until it reads again; for a quarter of that when the memory
 * behind it is what others wait for. Where it is pages or mbufs that they wait for, the connection
 * is reset.
 *
 * "Nothing" while others wait is less than grpc.reader_rate_min allows: who opens its window by a
 * byte at a time, or takes the headers that tell of calls given up, does not read. */
#include "daemon/worker/worker_internal.h"

/* Calls of a connection that hosts may work on while others of it are held and answers lie here. */
#define AT_HOST_MAX 8

/* Beyond its first answer a connection has no more pages than this part of what is left, so that
 * many that do not read leave some. */
#define SHARE_PART 4

/* So many answers left in a host's segment make it short. */
#define UNREAD_MANY 4

/* Under pressure patience is so much shorter. */
#define HURRY_PART 4

static const char not_read[] = "the client does not read its answers";

/* ---- answers that wait ---------------------------------------------------------------------- */

bool reader_share_full(const struct connection *c, uint32_t bytes)
{
	const struct pool *pages = &c->w->large_pool;
	uint64_t left = (uint64_t)(pool_size(pages) - pool_in_use(pages)) * PAGE_LARGE_BYTES;
	uint64_t spare = c->w->pages_spare;
	uint64_t share =
		left > spare ? RTE_MIN(c->w->conn_pages_max, (left - spare) / SHARE_PART) : 0;

	return c->encoded_bytes != 0 && c->encoded_bytes + bytes > share;
}

void reader_begins(struct connection *c)
{
	c->progress_ns = c->w->now_ns;
	c->pace_ns = c->w->now_ns;
	c->pace_bytes = 0;
}

void reader_took(struct connection *c, uint32_t bytes)
{
	struct worker *w = c->w;

	c->progress_ns = w->now_ns;
	c->pace_bytes += bytes;
	if (c->pace_bytes >= w->reader_step) {
		c->pace_ns = w->now_ns;
		c->pace_bytes = 0;
		c->reads = true;
		c->reader_stalled = false;
	}
	/* The headers that tell of what was given up go out too: they alone are no reading. */
	if (c->encoded_bytes == 0)
		c->reader_stalled = false;
}

void reader_wait(struct reply *r)
{
	counter_inc(&r->w->counters.encode_waits);
	list_add_tail(&r->conn->encode_wait, &r->wait);
	r->unread = true;
	r->call->ep->unread++;
}

bool reader_refuses(struct reply *r)
{
	if (!r->conn->reader_stalled)
		return false;
	counter_inc(&r->w->counters.readers_stalled);
	call_fail(r->call, GRPC_RESOURCE_EXHAUSTED, not_read, 0);
	return true;
}

void reader_unwait(struct reply *r)
{
	list_del(&r->wait);
	if (r->unread)
		r->call->ep->unread--;
	r->unread = false;
	if (!list_empty(&r->conn->held_calls))
		connection_due(r->conn);
}

/* ---- calls held back ------------------------------------------------------------------------ */

static bool may_go_on(const struct connection *c)
{
	return list_empty(&c->encode_wait) && (c->encoded_bytes == 0 || c->at_host < AT_HOST_MAX);
}

static void call_arrives(struct call *call)
{
	if (!call->at_host && call->conn != NULL) {
		call->at_host = true;
		call->conn->at_host++;
	}
}

void call_left(struct call *call)
{
	if (call->at_host && call->conn != NULL)
		call->conn->at_host--;
	call->at_host = false;
}

bool call_held(struct call *call)
{
	struct connection *c = call->conn;

	if (likely(c == NULL || (list_empty(&c->encode_wait) && !c->reader_stalled &&
				 (list_empty(&c->held_calls) || call->at_host)))) {
		call_arrives(call);
		return false;
	}
	call_left(call);
	if (c->reader_stalled) {
		counter_inc(&c->w->counters.readers_stalled);
		call_fail(call, GRPC_RESOURCE_EXHAUSTED, not_read, CANCEL_SHUTDOWN);
		return true;
	}
	counter_inc(&c->w->counters.calls_held);
	call->waiting = CALL_WAIT_READER;
	list_add_tail(&c->held_calls, &call->wait);
	return true;
}

void connection_replies_retry(struct connection *c)
{
	struct list *node;

	while ((node = list_first(&c->encode_wait)) != NULL) {
		struct reply *r = list_entry(node, struct reply, wait);

		if (reader_share_full(c, r->msg_bytes))
			return;
		reader_unwait(r);
		reply_encode_again(r);
	}
	while (may_go_on(c) && (node = list_first(&c->held_calls)) != NULL) {
		struct call *call = list_entry(node, struct call, wait);

		call_unwait(call);
		call_arrives(call);
		call_advance(call);
	}
}

/* ---- patience ------------------------------------------------------------------------------- */

/* What the host of this endpoint has for answers, or its part of requests, runs short. */
static bool endpoint_short(const struct attached *ep)
{
	return !list_empty(&ep->prepare_wait) || ep->unread >= UNREAD_MANY;
}

static bool hurry(const struct worker *w)
{
	if (!list_empty(&w->reply_wait))
		return true;
	list_for_each (pos, &w->endpoints) {
		if (endpoint_short(list_entry(pos, struct attached, link)))
			return true;
	}
	return false;
}

/* Something waits for it and it has taken nothing, or too little, for long. */
static bool stalled(const struct connection *c, uint64_t patience_ns)
{
	uint64_t hurry_ns = c->w->readers_hurry_ns;
	uint64_t since_ns = hurry_ns == 0 ? c->progress_ns : RTE_MAX(c->pace_ns, hurry_ns);

	/* A client's first window is open: who has never taken a step has not begun to read. */
	if (hurry_ns != 0 && !c->reads)
		patience_ns /= HURRY_PART;
	if (c->w->now_ns - since_ns < patience_ns)
		return false;
	return c->encoded_bytes != 0 || tcp_info(c->tcp).queued > POOL_LOW_BYTES / 2;
}

static void give_up(struct connection *c)
{
	struct worker *w = c->w;
	struct list *node;

	c->reader_stalled = true;
	while ((node = list_first(&c->encode_wait)) != NULL) {
		counter_inc(&w->counters.readers_stalled);
		call_fail(list_entry(node, struct reply, wait)->call, GRPC_RESOURCE_EXHAUSTED,
			  not_read, 0);
	}
	while ((node = list_first(&c->held_calls)) != NULL) {
		counter_inc(&w->counters.readers_stalled);
		call_fail(list_entry(node, struct call, wait), GRPC_RESOURCE_EXHAUSTED, not_read,
			  CANCEL_SHUTDOWN);
	}
}

void readers_check(struct worker *w)
{
	uint64_t timeout_ns = w->cfg->grpc.reader_timeout_ns;
	uint64_t patience_ns;

	if (hurry(w)) {
		w->readers_hurried_ns = w->now_ns;
		if (w->readers_hurry_ns == 0)
			w->readers_hurry_ns = w->now_ns;
	} else if (w->now_ns - w->readers_hurried_ns >= timeout_ns) {
		w->readers_hurry_ns = 0;
	}
	w->reader_step = w->cfg->grpc.reader_rate_min *
			 (timeout_ns / HURRY_PART / CLOCK_NS_PER_MS) /
			 (CLOCK_NS_PER_SEC / CLOCK_NS_PER_MS);
	patience_ns = w->readers_hurry_ns != 0 ? timeout_ns / HURRY_PART : timeout_ns;
	list_for_each_safe (pos, &w->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		if (!stalled(c, patience_ns))
			continue;
		if (!list_empty(&c->encode_wait) || !list_empty(&c->held_calls))
			give_up(c);
		if (stalled(c, timeout_ns) && (!list_empty(&w->reply_wait) || c->port->pool_low)) {
			counter_inc(&w->counters.readers_cut);
			connection_abort(c);
		}
	}
}
