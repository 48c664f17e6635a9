/* A worker: take slots, run handlers, park.
 *
 * The consumer's side of a worker's rings belongs to whoever holds `ring_held`. The worker holds it
 * all the time but while a handler runs. A thread that waits for room takes it then and empties the
 * rings in its stead: RELEASE and CANCEL take effect at once; a REQUEST is claimed, copied out of
 * its slot and queued for the worker, which runs it when it is back. While nobody waits, a REQUEST
 * stays in its slot until the worker is free for it, so that the daemon can take it back.
 *
 * A small message is copied out of its slot in any case (relocate.c says why), so a slot is given
 * back before its handler begins.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "host-lib/host_internal.h"

__thread struct worker *worker_self __attribute__((tls_model("initial-exec")));

#define PARK_TIMEOUT_NS (10 * CLOCK_NS_PER_SEC) /* nothing depends on it */
#define HELP_BUDGET     64 /* slots taken from one ring by a helper in one go */
#define PASSES_PER_BEAT 32 /* power of two */
#define LOOKS_PER_CLOCK 8  /* the same: a look in vain takes less than a clock read */
#define DRAIN_SLEEP_NS  200000L

/* How long to look before parking follows the pauses between works (their moving average): twice
 * the pause, from SPIN_PART of the limit to all of it. Where pauses are longer than the limit a
 * look seldom pays: SPIN_PART. A pause counts at most GAP_CAP limits, so that a few short ones are
 * enough to look long again. */
#define GAP_WEIGHT 8 /* of the moving average */
#define GAP_CAP    4
#define SPIN_PART  8

enum taken {
	TAKEN_NOTHING,
	TAKEN_CONTROL, /* done with */
	TAKEN_CALL,    /* a call to run */
	TAKEN_BLOCKED, /* not without producing, which this thread must not */
};

/* ------------------------------------------------------------------ who consumes */

static bool ring_try(struct worker *w)
{
	uint32_t none = 0;

	return atomic_compare_exchange_strong_explicit(&w->ring_held, &none, 1,
						       memory_order_acquire, memory_order_relaxed);
}

static void ring_take(struct worker *w)
{
	while (!ring_try(w))
		sched_yield(); /* a helper has it, for HELP_BUDGET slots at most */
	w->ring_mine = true;
}

static void ring_leave(struct worker *w)
{
	w->ring_mine = false;
	atomic_store_explicit(&w->ring_held, 0, memory_order_release);
}

/* ------------------------------------------------------------------ call structs */

/* With the ring held. */
static struct split_call *call_get(struct worker *w)
{
	struct split_call *call = w->free;

	if (call == NULL)
		call = atomic_exchange_explicit(&w->returned, NULL, memory_order_acquire);
	if (call == NULL)
		call = call_table_get(&w->host->calls, w->host);
	if (call != NULL)
		w->free = call->next;
	return call;
}

static __attribute__((noinline)) bool map_grow(struct call_map *m, uint32_t at)
{
	uint32_t n = (uint32_t)pow2_up((uint64_t)at + 64), *of;

	of = realloc(m->of, n * sizeof(*of));
	if (of == NULL)
		return false;
	memset(of + m->n, 0, (n - m->n) * sizeof(*of));
	m->of = of;
	m->n = n;
	return true;
}

/* Room to remember which struct stands for the call, for what follows it. */
static inline bool map_room(struct worker *w, uint64_t call_id)
{
	struct call_map *m = &w->maps[attachment_call_worker(call_id)];
	uint32_t at = (uint32_t)(call_id & 0xffffff);

	return likely(at < m->n) || map_grow(m, at);
}

/* Entries are checked by id when used. */
static void map_set(struct worker *w, uint64_t call_id, uint32_t index)
{
	struct call_map *m = &w->maps[attachment_call_worker(call_id)];
	uint32_t at = (uint32_t)(call_id & 0xffffff);

	m->of[at] = index + 1;
}

static struct split_call *map_get(const struct worker *w, uint64_t call_id)
{
	unsigned d = attachment_call_worker(call_id);
	uint32_t at = (uint32_t)(call_id & 0xffffff), index;

	if (d >= w->session->daemon_workers || at >= w->maps[d].n || w->maps[d].of[at] == 0)
		return NULL;
	index = w->maps[d].of[at] - 1;
	return &atomic_load_explicit(&w->host->calls.chunks[index / HOST_CALL_CHUNK],
				     memory_order_acquire)[index % HOST_CALL_CHUNK];
}

/* ------------------------------------------------------------------ taking slots */

/* The message of a slot into the call. Of the two lines that it may have the second is left where
 * it is if nothing is in it. */
static inline void call_fill_inline(struct split_call *call, const struct slot *slot,
				    const struct method *method)
{
	uint64_t from = (uint64_t)(uintptr_t)slot->inline_area;
	uint8_t *copy = call->inline_area;
	int64_t shift = (int64_t)((uintptr_t)copy - from);
	uint64_t v;

	memcpy(copy, slot->inline_area, SHEPHERD_LINE);
	if (slot->inline_bytes > SHEPHERD_LINE)
		memcpy(copy + SHEPHERD_LINE, slot->inline_area + SHEPHERD_LINE,
		       SLOT_INLINE_BYTES - SHEPHERD_LINE);
	copy += slot->msg - from;
	call->message = (const ProtobufCMessage *)(void *)copy;
	if (unlikely(method->pointers.walk || call->message->n_unknown_fields != 0)) {
		relocate_message((ProtobufCMessage *)(void *)copy, method->input, from,
				 SLOT_INLINE_BYTES, shift);
		return;
	}
	for (unsigned i = 0; i < method->pointers.n; i++) {
		uint8_t *at = copy + method->pointers.at[i];

		memcpy(&v, at, sizeof(v));
		if (v - from < SLOT_INLINE_BYTES) {
			v += (uint64_t)shift;
			memcpy(at, &v, sizeof(v));
		}
	}
}

/* What the slot says beyond the usual. True: its message is its wire bytes, and was taken. */
static bool call_fill_form(struct split_call *call, const struct slot *slot)
{
	call->answers_wire = (slot->form & SLOT_FORM_ENCODE) != 0;
	if ((slot->form & SLOT_FORM_WIRE) == 0)
		return false;
	if ((slot->flags & SLOT_INLINE) != 0)
		memcpy(call->inline_area, slot->inline_area, slot->inline_bytes);
	wire_take(&call->in, slot, call->inline_area);
	call->wired = true;
	return true;
}

static inline void call_fill(struct worker *w, struct split_call *call, const struct slot *slot,
			     struct method *method)
{
	uint64_t word = atomic_load_explicit(&call->word, memory_order_relaxed);
	uint32_t gen = (uint32_t)(word >> CALL_GEN_SHIFT) + 1;

	call_reset(call, w->session, w, method);
	call->call_id = slot->call_id;
	call->daemon_worker = (uint16_t)attachment_call_worker(slot->call_id);
	call->has_token = (slot->flags & SLOT_HAS_TOKEN) != 0;
	call->request_token = slot->info;
	call->deadline_ns = slot->deadline_ns;
	call->streaming = method->kind != SPLIT_UNARY;
	call->compressed = (slot->flags & SLOT_COMPRESSED) != 0;
	if ((slot->flags & SLOT_EXTRA) != 0) {
		call->metadata = (const struct metadata_block *)(uintptr_t)slot->metadata;
		call->identity = (const struct metadata_block *)(uintptr_t)slot->peer;
		call->peer_is_tls = (slot->peer_flags & SLOT_PEER_TLS) != 0;
		call->peer.family = slot->peer_family;
		call->peer.port = slot->peer_port;
		memcpy(call->peer.address, slot->peer_address, sizeof(call->peer.address));
	}
	if (unlikely(slot->form != 0) && call_fill_form(call, slot))
		; /* decoded before its handler runs */
	else if ((slot->flags & SLOT_INLINE) != 0)
		call_fill_inline(call, slot, method);
	else
		call->message = (const ProtobufCMessage *)(uintptr_t)slot->msg;
	/* One reference: the handler's. Release: whoever finds the generation finds the rest. */
	atomic_store_explicit(&call->word, (uint64_t)gen << CALL_GEN_SHIFT | 1,
			      memory_order_release);
	map_set(w, slot->call_id, call->index);
	atomic_store_explicit(&w->opened,
			      atomic_load_explicit(&w->opened, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* The method of a REQUEST; NULL: the slot makes no sense. */
static inline struct method *slot_method(const struct worker *w, const struct slot *slot)
{
	const struct split_host *host = w->host;
	uint64_t area = (uint64_t)(uintptr_t)slot->inline_area;
	struct method *m;
	bool message;

	if (slot->method >= host->methods_n)
		return NULL;
	m = host->methods[slot->method];
	if (m->channel != NULL)
		return NULL;
	message = m->kind == SPLIT_UNARY || m->kind == SPLIT_SERVER_STREAM;
	if (slot->data != (uint64_t)(uintptr_t)m || slot->code != (uint64_t)(uintptr_t)m->code ||
	    ((slot->flags & SLOT_HAS_MESSAGE) != 0) != message ||
	    attachment_call_worker(slot->call_id) >= w->session->daemon_workers)
		return NULL;
	if ((slot->flags & SLOT_INLINE) != 0 &&
	    (slot->inline_bytes > SLOT_INLINE_BYTES ||
	     slot->msg - area > SLOT_INLINE_BYTES - m->input->sizeof_message))
		return NULL;
	return m;
}

/* Say that a call is not begun here; its blocks go back with it. */
static void refuse(struct slot *out, uint64_t call_id, bool has_token, uint64_t token)
{
	out->kind = TO_DAEMON_REFUSE;
	out->call_id = call_id;
	if (has_token) {
		out->flags = SLOT_RELEASE_REQUEST;
		out->release = token;
	}
}

/* No call can be made of the slot: give it back at once. */
static enum taken take_refused(struct worker *w, struct host_lane *lane, const struct slot *slot,
			       bool may_produce, bool sound)
{
	/* With room to say so first: what is claimed must be answered for. */
	struct slot *out = may_produce ? host_lane_reserve(lane, false) : NULL;

	if (out == NULL)
		return TAKEN_BLOCKED;
	(void)host_lane_claim(lane, slot);
	refuse(out, slot->call_id, (slot->flags & SLOT_HAS_TOKEN) != 0, slot->info);
	host_lane_commit(lane, out);
	host_lane_ring(lane);
	host_lane_advance(lane);
	STAT(w->host, refused);
	if (!sound)
		STAT(w->host, protocol_errors);
	return TAKEN_CONTROL;
}

static enum taken take_request(struct worker *w, struct host_lane *lane, const struct slot *slot,
			       bool may_produce, struct split_call **call_out)
{
	struct method *m = slot_method(w, slot);
	struct split_call *call = NULL;

	if (likely(m != NULL && map_room(w, slot->call_id)))
		call = call_get(w);
	if (call != NULL && m->kind != SPLIT_UNARY && stream_begin(call, slot) != 0) {
		call->next = w->free;
		w->free = call;
		call = NULL;
	}
	if (unlikely(call == NULL))
		return take_refused(w, lane, slot, may_produce, m != NULL);
	/* Taken back: the daemon hears REFUSE from the worker's thread. */
	call->taken_back = !host_lane_claim(lane, slot);
	call_fill(w, call, slot, m);
	host_lane_advance(lane);
	host_lane_prefetch(lane, 0); /* comes while the handler runs */
	*call_out = call;
	return TAKEN_CALL;
}

static void take_release(struct worker *w, struct host_lane *lane, const struct slot *slot)
{
	uint64_t tokens[SLOT_TOKENS_MAX];
	unsigned n = host_lane_released(lane, slot, tokens);
	struct room_cache *cache = worker_self == w ? &w->cache : NULL;

	host_lane_advance(lane);
	for (unsigned i = 0; i < n; i++) {
		struct block *chain = room_of_token(&w->session->room, tokens[i]);

		if (chain == NULL) {
			STAT(w->host, protocol_errors);
			continue;
		}
		ROOM_FROM_DAEMON(chain);
		room_put(&w->session->room, cache, chain);
	}
}

/* The call that a slot is about, with a reference; NULL: it is over. A struct stays with its worker
 * as long as the session, so with the ring held call_id is stable. */
static struct split_call *call_held(struct worker *w, uint64_t call_id)
{
	struct split_call *call = map_get(w, call_id);

	return call != NULL && call->call_id == call_id && call_hold_unanswered(call) ? call : NULL;
}

static void take_cancel(struct worker *w, uint64_t call_id, bool may_produce)
{
	struct split_call *call = call_held(w, call_id);

	if (call == NULL)
		return;
	if (atomic_exchange_explicit(&call->cancelled, 1, memory_order_acq_rel) == 0)
		STAT(w->host, cancels);
	/* Dropping the reference may have to produce, and the callback is user's code: both wait
	 * for the worker if need be. */
	if (!call->cancel_queued && (!may_produce || call->method->raw.cancelled != NULL)) {
		call->cancel_queued = true;
		call->cancel_next = w->cancel_head;
		w->cancel_head = call;
		return;
	}
	call_put(call, 1);
}

/* What comes for a stream after its request goes into the queue, in order. */
static enum taken take_stream(struct worker *w, struct host_lane *lane, const struct slot *slot)
{
	static const uint8_t kinds[TO_HOST_KINDS] = {
		[TO_HOST_MESSAGE] = EVENT_MESSAGE,
		[TO_HOST_HALF_CLOSE] = EVENT_HALF_CLOSE,
		[TO_HOST_WRITABLE] = EVENT_WRITABLE,
		[TO_HOST_CANCEL] = EVENT_CANCEL,
	};
	struct split_message *e = event_get(w);
	struct split_call *call;
	bool queue = true;

	if (e == NULL)
		return TAKEN_BLOCKED; /* until there is memory */
	call = call_held(w, slot->call_id);
	if (call != NULL && !call->streaming) {
		STAT(w->host, protocol_errors);
		call_put(call, 1);
		call = NULL;
	}
	e->kind = kinds[slot->kind];
	e->call = call;
	e->has_token = slot->kind == TO_HOST_MESSAGE && (slot->flags & SLOT_HAS_TOKEN) != 0;
	e->token = slot->info;
	e->daemon_worker = (uint16_t)attachment_call_worker(slot->call_id);
	if (slot->kind == TO_HOST_MESSAGE && call != NULL) {
		if (!event_take_message(e, slot, call->method)) {
			STAT(w->host, protocol_errors);
			call_put(call, 1);
			e->call = NULL;
		}
	} else if (slot->kind == TO_HOST_WRITABLE && call != NULL) {
		queue = stream_writable(call, slot->info);
	} else if (slot->kind == TO_HOST_CANCEL && call != NULL &&
		   atomic_exchange_explicit(&call->cancelled, 1, memory_order_acq_rel) == 0) {
		STAT(w->host, cancels);
	}
	host_lane_advance(lane);
	if (e->call == NULL && (!e->has_token || e->daemon_worker >= w->session->daemon_workers))
		queue = false;
	if (queue) {
		event_queue(w, e);
		return TAKEN_CONTROL;
	}
	call = e->call;
	event_unget(w, e);
	if (call != NULL)
		call_put(call, 1);
	return TAKEN_CONTROL;
}

/* What comes for a call out goes into the queue of the worker that began it: this one. */
static enum taken take_out(struct worker *w, struct host_lane *lane, const struct slot *slot)
{
	struct split_message *e = event_get(w);
	bool queue;

	if (e == NULL)
		return TAKEN_BLOCKED; /* until there is memory */
	if (!out_take(w, e, slot, &queue))
		STAT(w->host, protocol_errors);
	host_lane_advance(lane);
	if (queue)
		event_queue(w, e);
	else
		event_unget(w, e);
	return TAKEN_CONTROL;
}

/* A kind that there is not. Its blocks go back. */
static enum taken take_unasked(struct worker *w, struct host_lane *lane, const struct slot *slot,
			       bool may_produce)
{
	unsigned d = attachment_call_worker(slot->call_id);
	bool give = (slot->flags & SLOT_HAS_TOKEN) != 0 && d < w->session->daemon_workers;
	uint64_t token = slot->info;

	if (give && !may_produce)
		return TAKEN_BLOCKED;
	host_lane_advance(lane);
	STAT(w->host, protocol_errors);
	if (give)
		request_release(w->session, d, token);
	return TAKEN_CONTROL;
}

static bool call_streams(const struct worker *w, uint64_t call_id)
{
	const struct split_call *call = map_get(w, call_id);

	return call != NULL && call->call_id == call_id && call->streaming;
}

/* Take one slot of the lane, with w's ring held. `may_produce`: this is w's own thread, outside any
 * wait. The slot is given back before anything is produced: producing may wait, and who waits takes
 * slots. */
static enum taken lane_take(struct worker *w, struct host_lane *lane, bool may_produce,
			    struct split_call **call_out)
{
	const struct slot *slot = host_lane_peek(lane);
	uint64_t call_id;

	if (slot == NULL)
		return TAKEN_NOTHING;
	if (unlikely((slot->call_id & SLOT_OUT) != 0))
		return take_out(w, lane, slot);
	switch (slot->kind) {
	case TO_HOST_REQUEST:
		return take_request(w, lane, slot, may_produce, call_out);
	case TO_HOST_RELEASE:
		take_release(w, lane, slot);
		return TAKEN_CONTROL;
	case TO_HOST_MESSAGE:
	case TO_HOST_HALF_CLOSE:
	case TO_HOST_WRITABLE:
		return take_stream(w, lane, slot);
	case TO_HOST_CANCEL:
		call_id = slot->call_id;
		if (call_streams(w, call_id))
			return take_stream(w, lane, slot);
		host_lane_advance(lane);
		take_cancel(w, call_id, may_produce);
		return TAKEN_CONTROL;
	case TO_HOST_TRYAGAIN:
		w->tryagain = true;
		break;
	case TO_HOST_YIELDNOW:
		w->yield = true;
		break;
	case TO_HOST_RETIRE:
	case TO_HOST_RESUME:
		if (w->retire != (slot->kind == TO_HOST_RETIRE))
			w->turned = true;
		w->retire = slot->kind == TO_HOST_RETIRE;
		break;
	default:
		return take_unasked(w, lane, slot, may_produce);
	}
	host_lane_advance(lane);
	return TAKEN_CONTROL;
}

static bool help_one(struct session *s, struct worker *w)
{
	bool mine = w == worker_self && w->ring_mine;
	bool found = false;

	if (!mine && !ring_try(w))
		return false;
	for (unsigned d = 0; d < s->daemon_workers; d++) {
		struct host_lane *lane = w->lanes[d];

		for (unsigned i = 0; i < HELP_BUDGET; i++) {
			struct split_message *e = event_get(w);
			struct split_call *call = NULL;
			enum taken t;

			if (e == NULL)
				break;
			t = lane_take(w, lane, false, &call);
			if (t == TAKEN_CALL) {
				e->kind = EVENT_BEGIN;
				e->call = call;
				event_queue(w, e);
			} else {
				event_unget(w, e);
			}
			if (t == TAKEN_NOTHING || t == TAKEN_BLOCKED)
				break;
			found = true;
		}
	}
	if (!mine)
		atomic_store_explicit(&w->ring_held, 0, memory_order_release);
	return found;
}

bool worker_help(struct session *s)
{
	bool found = false;

	for (unsigned i = 0; i < s->workers_n; i++)
		found |= help_one(s, &s->workers[i]);
	return found;
}

bool worker_sees_cancel(struct worker *w, const struct split_call *call)
{
	struct host_lane *lane = w->lanes[call->daemon_worker];
	bool mine = w->ring_mine, found = false;
	const struct slot *slot;

	if (!mine && !ring_try(w))
		return false;
	for (uint32_t ahead = 0; (slot = host_lane_peek_at(lane, ahead)) != NULL; ahead++) {
		if (slot->kind == TO_HOST_CANCEL && slot->call_id == call->call_id) {
			found = true;
			break;
		}
	}
	if (!mine)
		atomic_store_explicit(&w->ring_held, 0, memory_order_release);
	return found;
}

/* ------------------------------------------------------------------ running */

/* One that is retired stays so while it finishes what it has: no new calls shall come. */
static void state_set(struct worker *w, enum host_state state)
{
	if (unlikely(w->retire))
		state = HOST_RETIRED;
	if (w->state == state)
		return;
	w->state = state;
	host_state_set(w->session->attachment, w->h, state);
}

void worker_pending_flush(struct worker *w)
{
	struct split_call *call = w->pending.call;

	if (likely(call == NULL))
		return;
	w->pending.call = NULL;
	host_lane_commit(w->pending.lane, w->pending.slot);
	host_lane_ring(w->pending.lane);
	if (w->pending.refs != 0)
		call_put(call, w->pending.refs);
}

void split_call_flush(struct split_call *call)
{
	if (worker_self != NULL && worker_self->pending.call == call)
		worker_pending_flush(worker_self);
}

/* The handler is back: what it left pending goes out together with the release, if it can. Where no
 * reference is left but the handler's (and the pending answer's), nobody can add one, and no other
 * thread writes the word of a call that is answered: it needs no atomic operation any more. */
static inline void handler_done(struct worker *w, struct split_call *call)
{
	uint64_t word = atomic_load_explicit(&call->word, memory_order_acquire);
	unsigned refs = 1;

	if (w->pending.call != NULL) {
		struct slot *slot = w->pending.slot;

		refs += w->pending.refs;
		if ((word & CALL_REFS) == refs && (word & CALL_GONE) == 0) {
			word |= CALL_GONE;
			slot->flags |= SLOT_RELEASE_REQUEST;
			slot->release = call->request_token;
		}
		w->pending.call = NULL;
		host_lane_commit(w->pending.lane, slot);
		host_lane_ring(w->pending.lane);
	}
	if (likely((word & (CALL_ANSWERED | CALL_REFS)) == (CALL_ANSWERED | refs) &&
		   (!call->has_token || (word & CALL_GONE) != 0))) {
		atomic_store_explicit(&call->word, word & ~CALL_REFS, memory_order_release);
		call_free(call);
		return;
	}
	call_put(call, refs);
}

/* The daemon took the call back before it was begun. */
static void run_taken_back(struct split_call *call)
{
	struct producer p;
	struct slot *out;

	producer_open(&p, call->session, call->daemon_worker);
	if (producer_slot(&p, false, &out) == 0) {
		refuse(out, call->call_id, call->has_token, call->request_token);
		producer_commit(&p, out);
	}
	producer_close(&p);
	call_drop_unbegun(call);
}

static void run(struct worker *w, struct split_call *call)
{
	if (unlikely(call->taken_back)) {
		run_taken_back(call);
		return;
	}
	/* A host that was stopped and resumed late must not run what was answered meanwhile. */
	if (unlikely(!attachment_alive(w->session->attachment) ||
		     atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0)) {
		call_drop_unbegun(call);
		return;
	}
	state_set(w, HOST_RUNNING);
	if (unlikely(call->deadline_ns != 0 && clock_ns() >= call->deadline_ns)) {
		bool kept;

		atomic_fetch_or_explicit(&call->word, CALL_ANSWERED, memory_order_acq_rel);
		(void)answer_status_set(call, SPLIT_DEADLINE_EXCEEDED, NULL);
		(void)answer_claimed(call, NULL, &kept);
		call_put(call, 1);
		return;
	}
	if (unlikely(call->wired)) {
		int rc = wire_decode(w, call->method, &call->in, &call->message);

		if (rc != 0) {
			atomic_fetch_or_explicit(&call->word, CALL_ANSWERED, memory_order_acq_rel);
			answer_undecoded(call, rc);
			call_put(call, 1);
			return;
		}
	}
	STAT_OWN(w, calls);
	call->begun = true;
	if (call->streaming) /* until it is answered */
		atomic_fetch_add_explicit(&call->word, 1, memory_order_relaxed);
	w->current = call;
	ring_leave(w);
	call->method->code(call, call->method);
	ring_take(w);
	w->current = NULL;
	handler_done(w, call);
}

void worker_run_callback(struct worker *w, struct split_call *call,
			 void (*fn)(struct split_call *call, void *data))
{
	state_set(w, HOST_RUNNING);
	w->current = call;
	ring_leave(w);
	fn(call, call->method->raw.data);
	ring_take(w);
	w->current = NULL;
	handler_done(w, call);
}

void worker_run_plain(struct worker *w, void (*fn)(void *arg), void *arg)
{
	state_set(w, HOST_RUNNING);
	ring_leave(w);
	fn(arg);
	ring_take(w);
}

static bool run_queued(struct worker *w)
{
	struct split_message *e = w->queue_head;
	struct split_call *call;

	if (e == NULL)
		return false;
	w->queue_head = e->next;
	if (e->kind != EVENT_BEGIN) {
		event_run(w, e);
		return true;
	}
	call = e->call;
	event_unget(w, e);
	run(w, call);
	return true;
}

static bool run_cancels(struct worker *w)
{
	struct split_call *call = w->cancel_head;

	if (call == NULL)
		return false;
	w->cancel_head = call->cancel_next;
	call->cancel_queued = false;
	if (call->method->raw.cancelled == NULL) {
		call_put(call, 1);
		return true;
	}
	worker_run_callback(w, call, call->method->raw.cancelled);
	return true;
}

/* ------------------------------------------------------------------ what the daemon asks for */

/* Be on the core that splitd wants this worker on. Also from a signal handler. */
static void core_follow(struct worker *w)
{
	int core = host_core_wanted(w->session->attachment, w->h);
	cpu_set_t cpus = w->cpus;

	if (core == w->core)
		return;
	if (core >= 0 && core < CPU_SETSIZE) {
		CPU_ZERO(&cpus);
		CPU_SET(core, &cpus);
	}
	/* A core that we may not have: stay where we are. */
	if (sched_setaffinity(0, sizeof(cpus), &cpus) == 0)
		w->core = core;
	w->shares_core = host_shares_core(w->session->attachment, w->h);
}

static void obey(struct worker *w)
{
	core_follow(w);
	if (w->turned) {
		w->turned = false;
		state_set(w, HOST_POLLING);
		if (w->retire)
			STAT(w->host, retires);
		else
			STAT(w->host, resumes);
	}
	if (w->yield) {
		w->yield = false;
		STAT(w->host, yields);
		sched_yield();
	}
}

/* YIELDNOW was not heeded in time, for a handler runs: the signal that splitd sends then. */
static void on_yield_signal(int signo)
{
	struct worker *w = worker_self;
	int saved = errno;

	(void)signo;
	if (w != NULL) {
		core_follow(w);
		STAT(w->host, yields_forced);
		sched_yield();
	}
	errno = saved;
}

int worker_yield_signal(const struct split_host_options *options)
{
	int signo = options->yield_signal != 0 ? options->yield_signal : SIGRTMIN + 5;
	struct sigaction now, ours = {.sa_handler = on_yield_signal, .sa_flags = SA_RESTART};

	if (options->yield_signal < 0 || sigaction(signo, NULL, &now) != 0)
		return 0;
	if (now.sa_handler == on_yield_signal)
		return signo;
	sigemptyset(&ours.sa_mask);
	/* Somebody else uses it: it is his. */
	if (now.sa_handler != SIG_DFL || sigaction(signo, &ours, NULL) != 0)
		return 0;
	return signo;
}

/* One look at everything; true when there was something. */
static bool pass(struct worker *w)
{
	struct session *s = w->session;
	bool found = false;

	while (run_cancels(w) || run_queued(w))
		found = true;
	for (unsigned d = 0; d < s->daemon_workers; d++) {
		struct host_lane *lane = w->lanes[d];
		struct split_call *call = NULL;
		enum taken t = lane_take(w, lane, true, &call);

		if (t == TAKEN_CALL)
			run(w, call);
		/* Before anything further is taken. */
		while (run_queued(w))
			;
		found |= t != TAKEN_NOTHING;
	}
	if ((++w->passes & (PASSES_PER_BEAT - 1)) == 0) {
		host_heartbeat(s->attachment, w->h);
		worker_batches_flush(w);
	}
	if (unlikely(w->yield || w->turned))
		obey(w);
	return found;
}

/* ------------------------------------------------------------------ idle */

static void sleep_ns(long ns)
{
	struct timespec ts = {.tv_nsec = ns};

	(void)nanosleep(&ts, NULL);
}

/* Nothing to do while draining: true when the worker may end. */
static bool drained(struct worker *w, uint64_t now)
{
	struct session *s = w->session;
	uint64_t until = atomic_load_explicit(&s->drain_until_ns, memory_order_relaxed);

	/* What was published before the daemon saw RETIRED is still run. */
	if (w->state != HOST_RETIRED) {
		state_set(w, HOST_RETIRED);
		sleep_ns(10 * DRAIN_SLEEP_NS);
		return false;
	}
	if (session_calls(s) == 0 || now >= until)
		return true;
	sleep_ns(DRAIN_SLEEP_NS);
	return false;
}

static uint64_t spin_wanted(const struct worker *w)
{
	uint64_t max = w->host->options.spin_ns, wanted = 2 * w->gap_ns;

	if (w->gap_ns > max || wanted < max / SPIN_PART)
		return max / SPIN_PART;
	return wanted < max ? wanted : max;
}

/* Work came after a pause. */
static void gap_note(struct worker *w, uint64_t since)
{
	uint64_t max = w->host->options.spin_ns, gap = w->looked_ns - since;

	if (max == UINT64_MAX)
		return;
	if (gap > GAP_CAP * max)
		gap = GAP_CAP * max;
	w->gap_ns = (w->gap_ns * (GAP_WEIGHT - 1) + gap) / GAP_WEIGHT;
}

static void park(struct worker *w, enum host_state state)
{
	struct session *s = w->session;

	STAT(w->host, parks);
	w->tryagain = false;
	if (host_park(s->attachment, w->h, state, PARK_TIMEOUT_NS))
		w->looked_ns = clock_ns();
	w->state = (uint8_t)(state == HOST_PARKED ? HOST_POLLING : state);
}

/* A look in vain. The first says so; the second asks which core this is, which nobody needs while
 * work comes as fast as it is done; from then on the clock says when it is enough. */
static void idle(struct worker *w, uint64_t *since)
{
	struct session *s = w->session;
	uint64_t spin = s->host->options.spin_ns;

	if (unlikely(w->retire ||
		     atomic_load_explicit(&s->room.waiters, memory_order_relaxed) != 0))
		room_cache_flush(&s->room, &w->cache);
	if (*since == 0) {
		*since = w->looked_ns = clock_ns();
		w->looks = 0;
		state_set(w, HOST_POLLING);
		host_heartbeat(s->attachment, w->h);
		return;
	} else if (unlikely(w->retire)) {
		park(w, HOST_RETIRED);
		return;
	} else if (++w->looks == 1) {
		w->shares_core = host_shares_core(s->attachment, w->h);
	} else if (w->looks % LOOKS_PER_CLOCK == 0 || w->shares_core) {
		w->looked_ns = clock_ns();
		if (spin != UINT64_MAX &&
		    (w->shares_core || w->tryagain || w->looked_ns - *since >= spin_wanted(w))) {
			park(w, HOST_PARKED);
			return;
		}
	}
	cpu_relax();
}

/* The session is over: what was taken and not begun is never begun. */
static void discard(struct worker *w)
{
	struct split_message *e;
	struct split_call *call;

	while ((e = w->queue_head) != NULL) {
		w->queue_head = e->next;
		event_discard(e);
	}
	while ((call = w->cancel_head) != NULL) {
		w->cancel_head = call->cancel_next;
		call_put(call, 1);
	}
}

static void yield_signal_unblock(struct worker *w)
{
	sigset_t set;

	w->core = -1;
	(void)sched_getaffinity(0, sizeof(w->cpus), &w->cpus);
	sigemptyset(&set);
	if (w->host->yield_signal != 0 && sigaddset(&set, w->host->yield_signal) == 0)
		(void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct session *s = w->session;
	uint64_t since = 0;

	worker_self = w;
	host_worker_begin(s->attachment, w->h);
	yield_signal_unblock(w);
	ring_take(w);
	w->state = HOST_STATES;
	w->retire = w->h >= attachment_workers_min(s->attachment);
	w->gap_ns = w->host->options.spin_ns / 2;
	state_set(w, HOST_POLLING);
	host_heartbeat(s->attachment, w->h);
	while (attachment_alive(s->attachment)) {
		if (pass(w)) {
			if (since != 0)
				gap_note(w, since);
			since = 0;
			continue;
		}
		worker_batches_flush(w);
		if (!atomic_load_explicit(&s->draining, memory_order_acquire))
			idle(w, &since);
		else if (drained(w, clock_ns()))
			break;
	}
	discard(w);
	streams_cancel(w);
	outs_cancel(w);
	worker_batches_flush(w);
	state_set(w, HOST_RETIRED);
	/* The ring stays held: nobody helps a worker that is gone. */
	w->ring_mine = false;
	worker_self = NULL;
	atomic_store_explicit(&w->exited, true, memory_order_release);
	return NULL;
}
