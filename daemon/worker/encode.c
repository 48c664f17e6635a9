/* From a host's linear message, or the bytes that the host has encoded, to the bytes of an answer,
 * in pages of the worker's own. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* ---- pages ---------------------------------------------------------------------------------- */

static void page_put(struct worker *w, struct pool *pool, void *page)
{
	pool_put(pool, page);
	w->pages_returned++;
}

/* Chunk `i` in the order of getting lies in the reply, in a page or in a large page. */
static struct pool *chunk_pool(struct reply *r, uint32_t i)
{
	if (i == 0)
		return NULL;
	return i == 1 && !r->second_large ? &r->w->page_pool : &r->w->large_pool;
}

static void iov_put(struct reply *r)
{
	if (r->iov != NULL && r->iov != r->iov_inline)
		page_put(r->w, &r->w->large_pool, r->iov);
	r->iov = NULL;
}

/* Give back what an unfinished encode got; its chunks are in the order of getting. */
static void chunks_put(struct reply *r)
{
	for (uint32_t i = 1; i < r->iov_n; i++)
		page_put(r->w, chunk_pool(r, i), r->iov[i].iov_base);
	r->iov_n = 0;
	iov_put(r);
}

static bool iov_grow(struct reply *r)
{
	struct iovec *larger;

	if (r->iov != r->iov_inline)
		return false;
	larger = pool_get(&r->w->large_pool);
	if (larger == NULL)
		return false;
	memcpy(larger, r->iov, r->iov_n * sizeof(*larger));
	r->iov = larger;
	r->iov_max = PAGE_LARGE_BYTES / sizeof(*larger);
	return true;
}

static int chunk_get(void *ctx, size_t bytes_want, struct linear_chunk *out)
{
	struct reply *r = ctx;
	struct pool *pool;

	if (r->iov_n == r->iov_max && !iov_grow(r))
		return -SPLIT_E_SHEPHERD_FULL;
	if (r->iov_n == 1)
		r->second_large = bytes_want > PAGE_BYTES ||
				  pool_in_use(&r->w->page_pool) == pool_size(&r->w->page_pool);
	pool = chunk_pool(r, r->iov_n);
	if (pool == NULL) {
		out->mem = r->small;
		out->bytes = sizeof(r->small);
	} else {
		out->mem = pool_get(pool);
		out->bytes = pool == &r->w->page_pool ? PAGE_BYTES : PAGE_LARGE_BYTES;
		if (out->mem == NULL)
			return -SPLIT_E_SHEPHERD_FULL;
	}
	r->iov[r->iov_n++] = (struct iovec){out->mem, out->bytes};
	r->last = out->mem;
	return 0;
}

/* ---- the end of a reply --------------------------------------------------------------------- */

/* grpc has copied the bytes out, or the call has ended. */
static void chain_release(struct grpc_chain *chain)
{
	struct reply *r = container_of(chain, struct reply, chain);
	struct connection *c = r->conn;
	uint32_t n = r->iov_n;

	/* In wire order now: the chunk got last, which is not full, stands first. */
	for (uint32_t i = 1; i < n; i++) {
		uint32_t at = n - 1 - i;
		void *page = i == n - 1 ? r->last : r->iov[at].iov_base;

		page_put(r->w, chunk_pool(r, i), page);
	}
	r->iov_n = 0;
	iov_put(r);
	c->encoded_bytes -= r->charged;
	if (!list_empty(&c->encode_wait) || !list_empty(&c->held_calls))
		connection_due(c);
	reply_done(r);
	pool_put(&r->w->reply_pool, r);
}

static void encode_job_put(struct reply *r)
{
	r->copying = false;
	if (r->encode == NULL)
		return;
	pool_put(&r->w->encode_pool, r->encode);
	r->encode = NULL;
	r->call->ep->encoding--;
}

void reply_put(struct reply *r)
{
	list_del(&r->link);
	reader_unwait(r);
	if (r->state == REPLY_ENCODED) {
		reply_token_put(r);
		chain_release(&r->chain);
		return;
	}
	list_del(&r->job.link);
	if (r->encode != NULL || r->copying) {
		encode_job_put(r);
		chunks_put(r);
	}
	reply_token_put(r);
	reply_done(r);
	pool_put(&r->w->reply_pool, r);
}

/* ---- encoding ------------------------------------------------------------------------------- */

static void reply_encoded(struct reply *r)
{
	uint8_t *head = r->copying ? r->last + r->room : encode_head(r->encode);
	uint64_t bytes = r->copying ? r->msg_bytes : encode_bytes(r->encode);

	if (r->iov_n != 0) {
		struct iovec *last = &r->iov[r->iov_n - 1];

		last->iov_len -= (size_t)(head - (uint8_t *)last->iov_base);
		last->iov_base = head;
	}
	for (uint32_t i = 0; i < r->iov_n / 2; i++) {
		struct iovec swap = r->iov[i];

		r->iov[i] = r->iov[r->iov_n - 1 - i];
		r->iov[r->iov_n - 1 - i] = swap;
	}
	r->chain = (struct grpc_chain){
		.iov = r->iov,
		.iov_count = r->iov_n,
		.bytes = (uint32_t)bytes,
		.compress = r->compress,
		.release = chain_release,
	};
	if (r->conn->encoded_bytes == 0)
		reader_begins(r->conn);
	r->charged = bytes;
	r->conn->encoded_bytes += bytes;
	r->state = REPLY_ENCODED;
	if (r->copying) {
		counter_inc(&r->w->counters.replies_wire);
		counter_inc(&r->call->method->told->taken_over);
	} else {
		counter_add(&r->w->counters.encode_bytes, bytes);
		counter_inc(&r->call->method->told->encoded);
	}
}

static void wait_for_pages(struct reply *r, bool at_head)
{
	struct worker *w = r->w;

	r->state = REPLY_NEW;
	w->pages_mark = w->pages_returned;
	list_del(&r->wait);
	if (at_head)
		list_add_head(&w->reply_wait, &r->wait);
	else
		list_add_tail(&w->reply_wait, &r->wait);
}

/* What one quantum led to. As reply_encode. */
static int encode_outcome(struct reply *r, int err)
{
	struct worker *w = r->w;

	if (err == SPLIT_AGAIN) {
		counter_inc(&w->counters.encode_yields);
		r->state = REPLY_RUNNING;
		job_add(r->call->ep, &r->job);
		return SPLIT_AGAIN;
	}
	if (err == 0)
		reply_encoded(r);
	else
		chunks_put(r);
	encode_job_put(r);
	if (err != -SPLIT_E_SHEPHERD_FULL)
		return err;
	/* No pages. With none in use but these it would never fit. */
	if (pool_in_use(&w->large_pool) == 0)
		return -SPLIT_E_LINEARIZE_NOMEM;
	counter_inc(&w->counters.encode_waits);
	wait_for_pages(r, true);
	return SPLIT_AGAIN;
}

/* ---- what the host has encoded -------------------------------------------------------------- */

/* One quantum of copying the message's bytes, the last ones first, as an encode writes them. Where
 * they lie was checked when the slot was taken (endpoint_poll.c); what they are is not looked at,
 * so it does not matter that the host may change them meanwhile. As encode_run. */
static int wire_copy(struct reply *r)
{
	const uint8_t *from = r->window.mem + (r->msg - r->window.peer_base);
	uint64_t quantum =
		(uint64_t)r->call->method->encode_limits.work_quantum * LINEAR_UNIT_BYTES;
	struct linear_chunk chunk;
	int err;

	while (r->left != 0 && quantum != 0) {
		uint32_t n;

		if (r->room == 0) {
			err = chunk_get(r, r->left, &chunk);
			if (err != 0)
				return err;
			r->room = (uint32_t)chunk.bytes;
		}
		n = RTE_MIN(r->left, r->room);
		n = (uint32_t)RTE_MIN(quantum, n);
		r->room -= n;
		r->left -= n;
		quantum -= n;
		memcpy(r->last + r->room, from + r->left, n);
	}
	return r->left != 0 ? SPLIT_AGAIN : 0;
}

/* `ep` as in encode_go. */
static int wire_go(struct reply *r, struct attached *ep)
{
	uint32_t before = r->left;
	int err = wire_copy(r);

	units_spent(r->w, (before - r->left) / LINEAR_UNIT_BYTES, ep);
	return encode_outcome(r, err);
}

static int wire_begin(struct reply *r, struct attached *ep)
{
	struct linear_chunk first;
	int err;

	r->iov = r->iov_inline;
	r->iov_n = 0;
	r->iov_max = REPLY_IOV_INLINE;
	r->second_large = false;
	r->copying = true;
	r->left = r->msg_bytes;
	err = r->msg_bytes > r->call->method->encode_limits.wire_bytes_max
		      ? -SPLIT_E_LINEARIZE_LIMIT_WIRE
		      : chunk_get(r, r->left, &first);
	if (err != 0)
		return encode_outcome(r, err);
	r->room = (uint32_t)first.bytes;
	return wire_go(r, ep);
}

/* ---- encoding, and again -------------------------------------------------------------------- */

/* Not now: it is begun when its turn on its endpoint's jobs comes. */
static int encode_defer(struct reply *r)
{
	counter_inc(&r->w->counters.encode_yields);
	r->state = REPLY_RUNNING;
	job_add(r->call->ep, &r->job);
	return SPLIT_AGAIN;
}

/* `ep`: whose turn's new work it is; NULL from a job. */
static int encode_begin(struct reply *r, struct attached *ep)
{
	struct worker *w = r->w;
	const struct linear_source source = {
		.mem = r->window.mem,
		.peer_base = r->window.peer_base,
		.bytes = r->window.bytes,
	};
	const struct encode_sink sink = {.chunk_get = chunk_get, .ctx = r};
	const struct method *method = r->call->method;
	int err;

	if ((!r->wire && r->call->ep->encoding >= WORKER_JOBS_PER_ENDPOINT) ||
	    (ep != NULL && attached_spent(ep)))
		return encode_defer(r);
	if (r->wire)
		return wire_begin(r, ep);
	r->encode = pool_get(&w->encode_pool);
	if (r->encode == NULL) {
		counter_inc(&w->counters.encode_waits);
		wait_for_pages(r, true);
		w->pages_mark--; /* next turn */
		return SPLIT_AGAIN;
	}
	r->call->ep->encoding++;
	r->iov = r->iov_inline;
	r->iov_n = 0;
	r->iov_max = REPLY_IOV_INLINE;
	r->second_large = false;
	err = encode_start(r->encode, method->output, &source, r->msg, &sink,
			   &method->encode_limits);
	if (err == 0)
		err = encode_go(w, r->encode, ep);
	return encode_outcome(r, err);
}

int reply_encode(struct reply *r)
{
	struct worker *w = r->w;
	struct connection *c = r->conn;

	if (r->state == REPLY_RUNNING || !list_empty(&r->wait))
		return SPLIT_AGAIN;
	/* A client that does not read holds no more than its share of pages. */
	if (reader_share_full(c, r->msg_bytes)) {
		if (!reader_refuses(r))
			reader_wait(r);
		return SPLIT_AGAIN;
	}
	if (!list_empty(&w->reply_wait) && r->msg_bytes > REPLY_SMALL_BYTES) {
		list_add_tail(&w->reply_wait, &r->wait);
		return SPLIT_AGAIN;
	}
	return encode_begin(r, r->call->ep);
}

void reply_failed(struct reply *r, int err)
{
	counter_inc(&r->w->counters.encode_errors);
	refused_reply(r, err);
	call_fail(r->call, (enum grpc_status)linearize_map_status(err), error_text(err),
		  CANCEL_SHUTDOWN);
}

/* A reply that was encoded, or can't be, after it had waited. */
static void reply_settled(struct reply *r, int err)
{
	if (err < 0)
		reply_failed(r, err);
	else if (err == 0)
		call_replies_advance(r->call);
}

void reply_encode_again(struct reply *r)
{
	reply_settled(r, reply_encode(r));
}

void reply_job_run(struct reply *r)
{
	struct worker *w = r->w; /* a reply that is settled may be gone */
	enum worker_stage left = stage_enter(w, WORKER_STAGE_encode);

	if (r->copying)
		reply_settled(r, wire_go(r, NULL));
	else if (r->encode == NULL)
		reply_settled(r, encode_begin(r, NULL));
	else
		reply_settled(r, encode_outcome(r, encode_go(w, r->encode, NULL)));
	stage_enter(w, left);
}

unsigned replies_retry(struct worker *w)
{
	struct list *node;
	unsigned n = 0;

	while ((node = list_first(&w->reply_wait)) != NULL && w->pages_mark != w->pages_returned) {
		struct reply *r = list_entry(node, struct reply, wait);
		int err;

		list_del(&r->wait);
		err = encode_begin(r, r->call->ep);
		if (err == SPLIT_AGAIN && r->state == REPLY_NEW)
			break;
		reply_settled(r, err);
		n++;
	}
	return n;
}
