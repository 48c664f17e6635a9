/* Messages that were refused, for the log (services[].log_refused).
 *
 * The data path makes no text of them: it copies what is known into a record of a ring that was
 * made at start, the wire bytes as far as they are kept, and goes on. The control thread makes the
 * line (daemon/control/refused.c). A linear answer is not copied: the host's block stays the
 * daemon's until the line is made, and goes back when the worker next looks (or is woken for it).
 *
 * Records name endpoints, so control reads all rings empty before it frees one; a worker that lets
 * an endpoint go forgets what it would have given back. */
#include "daemon/worker/worker_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int refused_init(struct worker *w)
{
	struct refused_ring *ring = &w->refused;
	uint32_t n = (uint32_t)pow2_up(w->cfg->log.refused_records);

	ring->mask = n - 1;
	ring->kept_max = (uint32_t)w->cfg->log.refused_bytes;
	/* The answer that lay in its slot has room too. */
	ring->each = RTE_MAX(ring->kept_max, (uint32_t)SLOT_INLINE_BYTES);
	ring->each = (uint32_t)align_up(ring->each, BITS_CACHE_LINE);
	ring->records = calloc(n, sizeof(*ring->records));
	ring->bytes = aligned_alloc(BITS_CACHE_LINE, (size_t)n * ring->each);
	if (ring->records == NULL || ring->bytes == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(ring->bytes, 0, (size_t)n * ring->each); /* faulted in */
	return 0;
}

void refused_fini(struct worker *w)
{
	free(w->refused.records);
	free(w->refused.bytes);
	w->refused.records = NULL;
	w->refused.bytes = NULL;
}

/* ---- the worker ----------------------------------------------------------------------------- */

/* Who is on the other side of the call. */
static void peer_fill(const struct call *call, struct worker_refused *told)
{
	const struct connection *c = call->conn;

	if (call->nested.out) {
		told->caller = call->ep->we; /* it is its own call */
	} else if (c != NULL && c->nested) {
		told->caller = container_of(c, struct attached, as_client)->we;
	} else if (c != NULL) {
		told->peer.family = c->peer.family;
		memcpy(told->peer.bytes, c->peer.bytes, sizeof(told->peer.bytes));
		told->peer.port = c->peer.port;
	}
}

/* The next record, begun; NULL: it is not to be logged. */
static struct refused_record *record_begin(struct call *call, const struct method *m, int err)
{
	struct worker *w = call->w;
	struct refused_ring *ring = &w->refused;
	struct refused_record *record;

	if (likely(!m->log_refused))
		return NULL;
	if (!log_limit_pass(&ring->limit, w->now_ns, w->cfg->log.refused_rate, CLOCK_NS_PER_SEC,
			    NULL)) {
		counter_inc(&w->counters.refused_over_rate);
		return NULL;
	}
	refused_collect(w);
	if (ring->tail - ring->over > ring->mask) {
		counter_inc(&w->counters.refused_no_room);
		return NULL;
	}
	record = &ring->records[ring->tail & ring->mask];
	*record = (struct refused_record){
		.told =
			{
				.now_ns = w->now_ns,
				.endpoint = m->ep->we,
				.method = m->index,
				.error = err,
				.status = err == -SPLIT_E_BASE_LIMIT ? GRPC_RESOURCE_EXHAUSTED
								     : linearize_map_status(err),
				.bytes = UINT64_MAX,
				.at = UINT64_MAX,
			},
	};
	peer_fill(call, &record->told);
	return record;
}

static uint8_t *record_bytes(struct refused_ring *ring)
{
	return ring->bytes + (size_t)(ring->tail & ring->mask) * ring->each;
}

static void record_wire(struct refused_ring *ring, struct refused_record *record,
			const uint8_t *wire, uint32_t bytes)
{
	uint8_t *to = record_bytes(ring);

	record->told.bytes = bytes;
	record->told.kept = RTE_MIN(bytes, ring->kept_max);
	record->told.wire = to;
	memcpy(to, wire, record->told.kept);
}

static void record_end(struct worker *w)
{
	struct refused_ring *ring = &w->refused;

	ring->tail++;
	counter_inc(&w->counters.refused_logged);
	/* Release: the record is whole before the consumer sees it. */
	__atomic_store_n(&ring->posted, ring->tail, __ATOMIC_RELEASE);
}

/* What comes from the client: a request, or the answer to a call out. */
static void incoming(struct refused_record *record, const struct method *m)
{
	record->told.message = m->input;
	record->told.answer = m->out;
}

void refused_request(struct call *call, int err)
{
	const struct method *m = call->method;
	struct refused_record *record;

	if (likely(!m->log_refused) || !call->have_message || call->wire == NULL)
		return;
	record = record_begin(call, m, err);
	if (record == NULL)
		return;
	incoming(record, m);
	record_wire(&call->w->refused, record, call->wire, call->wire_bytes);
	record->told.at = call->refused_at;
	record_end(call->w);
}

void refused_at_host(struct call *call, uint32_t status)
{
	struct refused_record *record = record_begin(call, call->method, -SPLIT_E_HOST_UNDECODED);

	if (record == NULL)
		return;
	incoming(record, call->method);
	record->told.status = (int)status;
	record_end(call->w);
}

void refused_oversize(struct call *call, uint64_t bytes)
{
	const struct method *m = call->method;
	struct refused_record *record;

	if (call->finished)
		return; /* its host may be gone, and its method */
	/* Nobody may have been chosen yet. */
	if (m == NULL && call->sought != NULL)
		m = balance_method_any(call->sought);
	record = m == NULL ? NULL : record_begin(call, m, -SPLIT_E_LINEARIZE_LIMIT_WIRE);
	if (record == NULL)
		return;
	incoming(record, m);
	record->told.bytes = bytes;
	record_end(call->w);
}

void refused_reply(struct reply *r, int err)
{
	struct call *call = r->call;
	const struct method *m = call->method;
	struct worker *w = call->w;
	struct refused_record *record = record_begin(call, m, err);

	if (record == NULL)
		return;
	record->told.message = m->output;
	record->told.answer = !m->out;
	if (r->wire) {
		record_wire(&w->refused, record, r->window.mem + (r->msg - r->window.peer_base),
			    r->msg_bytes);
		record_end(w);
		return;
	}
	record->told.root = r->msg;
	record->told.mem = r->window.mem;
	record->told.mem_bytes = r->window.bytes;
	record->told.peer_base = r->window.peer_base;
	if (r->window.mem == r->copy) {
		record->told.mem = record_bytes(&w->refused);
		memcpy(record_bytes(&w->refused), r->copy,
		       RTE_MIN(r->window.bytes, sizeof(r->copy)));
	} else if (r->has_token) {
		/* Not before the line is made. */
		record->port = call->ep->port;
		record->lane = r->lane;
		record->token = r->token;
		record->wakes = true;
		r->has_token = false;
	}
	record_end(w);
}

void refused_collect(struct worker *w)
{
	struct refused_ring *ring = &w->refused;
	/* Acquire: the consumer has read what is given back, and may be written over. */
	uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);

	for (; ring->over != head; ring->over++) {
		struct refused_record *record = &ring->records[ring->over & ring->mask];

		if (record->port != NULL)
			endpoint_token_release(record->port, record->lane, record->token);
		record->port = NULL;
	}
}

void refused_forget(struct worker *w, const struct attached *ep)
{
	struct refused_ring *ring = &w->refused;

	for (uint64_t i = ring->over; i != ring->tail; i++) {
		struct refused_record *record = &ring->records[i & ring->mask];

		if (record->port == ep->port)
			record->port = NULL;
	}
}

/* ---- the control thread --------------------------------------------------------------------- */

const struct worker_refused *worker_refused_first(struct worker *worker)
{
	struct refused_ring *ring = &worker->refused;

	if (ring->head == __atomic_load_n(&ring->posted, __ATOMIC_ACQUIRE))
		return NULL;
	return &ring->records[ring->head & ring->mask].told;
}

void worker_refused_done(struct worker *worker)
{
	struct refused_ring *ring = &worker->refused;
	bool wakes = ring->records[ring->head & ring->mask].wakes;
	const uint64_t one = 1;

	__atomic_store_n(&ring->head, ring->head + 1, __ATOMIC_RELEASE);
	/* EAGAIN: the counter is full, so the worker wakes anyway. */
	if (wakes && write(worker->params.wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warn("eventfd %d: %s", worker->params.wake_fd, strerror(errno));
}
