/* Streams: what comes for a call after its request, and what it sends before its answer.
 *
 * In. A MESSAGE, HALF_CLOSE, WRITABLE or CANCEL becomes an event in the queue of the call's worker,
 * whoever takes it from the ring; the worker's thread runs them in order. So callbacks of a call
 * never run at the same time, and a thread that waits for room never runs any.
 *
 * Out. A call may have `window` messages with splitd, and a bounded number of bytes. A send that
 * finds neither sets `want` and looks again; who takes a WRITABLE counts it and then looks at
 * `want`. That is Dekker's pattern: one of the two sees the other (seq_cst). splitd tells of
 * messages that are done in portions of half a window; a send that failed for bytes while there is
 * window left says WANT, so that it hears of the next one.
 */
#include <stdlib.h>

#include "host-lib/host_internal.h"

/* What a call may have in the segment before a send says SPLIT_AGAIN; one message may be larger.
 * Enough to keep a fast client busy for the time that a WRITABLE takes. */
#define STREAM_BYTES_MAX (256u * 1024u)
/* Nor more than this part of the segment. */
#define STREAM_ARENA_PART 8

/* ------------------------------------------------------------------ the store of events */

struct split_message *event_get(struct worker *w)
{
	struct split_message *e = w->events_free;

	if (e == NULL)
		e = atomic_exchange_explicit(&w->events_returned, NULL, memory_order_acquire);
	if (e == NULL) {
		e = aligned_alloc(BITS_CACHE_LINE, sizeof(*e));
		if (e == NULL)
			return NULL;
		e->next = NULL;
	}
	w->events_free = e->next;
	e->call = NULL;
	e->has_token = false;
	e->compressed = false;
	e->last = false;
	e->in.wanted = false;
	e->in.parts = NULL;
	return e;
}

void event_unget(struct worker *w, struct split_message *e)
{
	e->next = w->events_free;
	w->events_free = e;
}

void event_queue(struct worker *w, struct split_message *e)
{
	e->next = NULL;
	if (w->queue_head == NULL)
		w->queue_head = e;
	else
		w->queue_tail->next = e;
	w->queue_tail = e;
}

static void list_free(struct split_message *e)
{
	while (e != NULL) {
		struct split_message *next = e->next;

		free(e);
		e = next;
	}
}

void events_free(struct worker *w)
{
	list_free(w->events_free);
	list_free(atomic_exchange_explicit(&w->events_returned, NULL, memory_order_acquire));
	w->events_free = NULL;
}

/* Back to the worker it came from; any thread. */
static void event_return(struct worker *home, struct split_message *e)
{
	if (unlikely(e->in.parts != NULL))
		wire_free(home, &e->in);
	struct split_message *top =
		atomic_load_explicit(&home->events_returned, memory_order_relaxed);

	do {
		e->next = top;
	} while (!atomic_compare_exchange_weak_explicit(
		&home->events_returned, &top, e, memory_order_release, memory_order_relaxed));
}

/* ------------------------------------------------------------------ taking */

int stream_reset(struct split_call *call)
{
	struct stream *st = call->stream;

	if (st == NULL) {
		st = calloc(1, sizeof(*st));
		if (st == NULL)
			return -SPLIT_E_BASE_NOMEM;
		call->stream = st;
	}
	st->current = NULL;
	st->half_closed = false;
	atomic_store_explicit(&st->sent, 0, memory_order_relaxed);
	atomic_store_explicit(&st->done, 0, memory_order_relaxed);
	atomic_store_explicit(&st->window, 0, memory_order_relaxed);
	atomic_store_explicit(&st->want, 0, memory_order_relaxed);
	atomic_store_explicit(&st->bytes_sent, 0, memory_order_relaxed);
	atomic_store_explicit(&st->bytes_done, 0, memory_order_relaxed);
	atomic_store_explicit(&st->credit_due, 0, memory_order_relaxed);
	return 0;
}

int stream_begin(struct split_call *call, const struct slot *slot)
{
	int rc = stream_reset(call);

	if (rc == 0)
		call->stream->half_closed = (slot->flags & SLOT_END_STREAM) != 0;
	return rc;
}

bool event_take_message(struct split_message *e, const struct slot *slot, const struct method *m)
{
	uint64_t area = (uint64_t)(uintptr_t)slot->inline_area;
	uint64_t copy = (uint64_t)(uintptr_t)e->inline_area;

	if ((slot->flags & SLOT_HAS_MESSAGE) == 0 ||
	    (m->kind != SPLIT_CLIENT_STREAM && m->kind != SPLIT_BIDI_STREAM))
		return false;
	e->last = (slot->flags & SLOT_END_STREAM) != 0;
	e->compressed = (slot->flags & SLOT_COMPRESSED) != 0;
	e->message = (const ProtobufCMessage *)(uintptr_t)slot->msg;
	atomic_store_explicit(&e->refs, 1, memory_order_relaxed);
	if ((slot->form & SLOT_FORM_WIRE) != 0)
		wire_take(&e->in, slot, e->inline_area);
	if ((slot->flags & SLOT_INLINE) == 0)
		return true;
	if (slot->inline_bytes > SLOT_INLINE_BYTES || slot->msg - area >= SLOT_INLINE_BYTES)
		return false;
	memcpy(e->inline_area, slot->inline_area, slot->inline_bytes);
	if (e->in.wanted)
		return true;
	e->message = (const ProtobufCMessage *)(uintptr_t)(copy + (slot->msg - area));
	relocate_message((ProtobufCMessage *)(uintptr_t)e->message, m->input, area,
			 SLOT_INLINE_BYTES, (int64_t)(copy - area));
	return true;
}

bool stream_writable(struct split_call *call, uint64_t info)
{
	struct stream *st = call->stream;
	uint32_t done = atomic_load_explicit(&st->done, memory_order_relaxed);
	uint32_t out = atomic_load_explicit(&st->sent, memory_order_acquire) - done;
	uint32_t n = WRITABLE_DONE(info);
	uint64_t bytes = atomic_load_explicit(&st->bytes_done, memory_order_relaxed);

	if (n > out)
		n = out;
	for (uint32_t i = 0; i < n; i++)
		bytes += atomic_load_explicit(&st->sizes[(done + i) % SHEPHERD_STREAM_WINDOW_MAX],
					      memory_order_relaxed);
	atomic_store_explicit(&st->bytes_done, bytes, memory_order_relaxed);
	atomic_fetch_add(&st->window, WRITABLE_MORE(info));
	atomic_store(&st->done, done + n);
	return atomic_exchange(&st->want, 0) != 0;
}

/* ------------------------------------------------------------------ credit */

void stream_credit(struct split_call *call, uint32_t messages)
{
	struct stream *st = call->stream;
	uint32_t least = (call->method->read_ahead + 1) / 2;
	struct producer p;
	struct slot *slot;

	if (atomic_fetch_add_explicit(&st->credit_due, messages, memory_order_relaxed) + messages <
	    least)
		return;
	messages = atomic_exchange_explicit(&st->credit_due, 0, memory_order_relaxed);
	if (messages == 0 || !attachment_alive(call->session->attachment) ||
	    atomic_load_explicit(&call->cancelled, memory_order_relaxed) != 0)
		return;
	producer_open(&p, call->session, call->daemon_worker);
	if (producer_slot(&p, false, &slot) == 0) {
		slot->kind = TO_DAEMON_CREDIT;
		slot->call_id = call->call_id;
		slot->info = messages;
		producer_commit(&p, slot);
	}
	producer_close(&p);
}

static bool answered(const struct split_call *call)
{
	return (atomic_load_explicit(&call->word, memory_order_acquire) & CALL_ANSWERED) != 0;
}

int split_call_credit(struct split_call *call, uint32_t messages)
{
	enum split_method_kind kind = call->method->kind;

	if ((kind != SPLIT_CLIENT_STREAM && kind != SPLIT_BIDI_STREAM) ||
	    (call->method->raw.flags & SPLIT_METHOD_CREDIT) == 0)
		return SPLIT_E_KIND;
	if (answered(call))
		return SPLIT_E_ANSWERED;
	stream_credit(call, messages);
	return 0;
}

/* ------------------------------------------------------------------ messages */

/* One reference less. The call's reference that goes with it stays the caller's. */
void message_put(struct split_message *m)
{
	struct split_call *call = m->call;

	if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (m->has_token)
		request_release(call->session, call->daemon_worker, m->token);
	if ((call->method->raw.flags & SPLIT_METHOD_CREDIT) == 0 && !answered(call))
		stream_credit(call, 1);
	event_return(call->home, m);
}

struct split_message *split_message_retain(struct split_call *call)
{
	struct split_message *m;

	if (worker_self == NULL || worker_self->current != call || !call->streaming)
		return NULL;
	m = call->stream->current;
	if (m == NULL)
		return NULL;
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&call->word, 1, memory_order_relaxed);
	STAT(call->host, retained);
	return m;
}

const ProtobufCMessage *split_message_get(const struct split_message *message)
{
	return message->message;
}

void split_message_release(struct split_message *message)
{
	struct split_call *call = message->call;

	message_put(message);
	call_put(call, 1);
}

/* ------------------------------------------------------------------ running */

void run_stream(struct split_call *call, struct method *m)
{
	const struct split_method *raw = &m->raw;

	if (m->kind == SPLIT_SERVER_STREAM) {
		raw->message(call, call->message, raw->data);
		return;
	}
	call->message = NULL;
	if (raw->open != NULL)
		raw->open(call, raw->data);
	if (call->stream->half_closed && raw->half_close != NULL && !answered(call))
		raw->half_close(call, raw->data);
}

static void message_callback(struct split_call *call, void *data)
{
	struct split_message *m = call->stream->current;
	const struct split_method *raw = &call->method->raw;

	call->message = m->message;
	call->compressed = m->compressed;
	raw->message(call, m->message, data);
	call->message = NULL;
	call->stream->current = NULL;
	if (m->last && raw->half_close != NULL && !answered(call))
		raw->half_close(call, data);
	message_put(m);
}

/* A method without `cancelled` does nothing about it: the call is over. Another thread may be
 * building a message of it: nothing of that is touched, it goes with the last reference. */
static void cancel_unheard(struct split_call *call, void *data)
{
	(void)data;
	if (!call_claim_answer(call, call_generation(call)))
		return;
	STAT(call->host, answers_late);
	call_put(call, 1);
}

/* Decode a message before its callback runs. False: it can't be; the call has ended, the event is
 * gone. */
static bool event_decode(struct worker *w, struct split_message *e)
{
	struct split_call *call = e->call;
	void (*fn)(struct split_call * call, void *data) = call->method->raw.cancelled;
	int rc = wire_decode(w, call->method, &e->in, &e->message);

	if (rc == 0)
		return true;
	if (call_claim_answer(call, call_generation(call))) {
		answer_undecoded(call, rc);
		call_put(call, 1);
	}
	if (e->has_token)
		request_release(w->session, e->daemon_worker, e->token);
	event_return(w, e);
	/* To the handler it is as if the client had gone. */
	if (atomic_exchange_explicit(&call->cancelled, 1, memory_order_acq_rel) == 0)
		STAT(w->host, cancels);
	if (fn != NULL)
		worker_run_callback(w, call, fn);
	else
		call_put(call, 1);
	return false;
}

static void event_drop(struct worker *w, struct split_message *e)
{
	struct split_call *call = e->call;

	if (e->has_token && attachment_alive(w->session->attachment))
		request_release(w->session, e->daemon_worker, e->token);
	event_return(w, e);
	if (call != NULL)
		call_put(call, 1);
}

void event_run(struct worker *w, struct split_message *e)
{
	struct split_call *call = e->call;
	const struct split_method *raw;
	void (*fn)(struct split_call * call, void *data) = NULL;

	if (e->kind >= EVENT_OUT_METADATA) {
		out_event_run(w, e);
		return;
	}
	if (call == NULL || !call->begun || answered(call) ||
	    (e->kind != EVENT_CANCEL &&
	     atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0)) {
		event_drop(w, e);
		return;
	}
	raw = &call->method->raw;
	if (e->kind == EVENT_MESSAGE) {
		if (unlikely(e->in.wanted) && !event_decode(w, e))
			return;
		STAT(w->host, messages_in);
		call->stream->current = e;
		worker_run_callback(w, call, message_callback);
		return;
	}
	if (e->kind == EVENT_HALF_CLOSE)
		fn = raw->half_close;
	else if (e->kind == EVENT_WRITABLE)
		fn = raw->writable;
	else if (e->kind == EVENT_CANCEL)
		fn = raw->cancelled != NULL ? raw->cancelled : cancel_unheard;
	event_return(w, e);
	if (fn != NULL)
		worker_run_callback(w, call, fn);
	else
		call_put(call, 1);
}

void event_discard(struct split_message *e)
{
	struct split_call *call = e->call;
	struct worker *w = worker_self;

	if (e->kind == EVENT_BEGIN) {
		event_unget(w, e);
		call_drop_unbegun(call);
	} else {
		event_drop(w, e);
	}
}

static void stream_cancel(struct worker *w, struct split_call *call)
{
	void (*fn)(struct split_call * call, void *data) = call->method->raw.cancelled;

	if (atomic_exchange_explicit(&call->cancelled, 1, memory_order_acq_rel) != 0) {
		call_put(call, 1); /* it was told */
		return;
	}
	STAT(w->host, cancels);
	worker_run_callback(w, call, fn != NULL ? fn : cancel_unheard);
}

void streams_cancel(struct worker *w)
{
	for (unsigned d = 0; d < w->session->daemon_workers; d++) {
		for (uint32_t i = 0; i < w->maps[d].n; i++) {
			uint32_t index = w->maps[d].of[i] - 1;
			struct split_call *call;

			if (w->maps[d].of[i] == 0)
				continue;
			call = &atomic_load_explicit(
				&w->host->calls.chunks[index / HOST_CALL_CHUNK],
				memory_order_acquire)[index % HOST_CALL_CHUNK];
			/* A struct stays with its worker as long as the session. */
			if (!call->streaming || !call_hold_unanswered(call))
				continue;
			stream_cancel(w, call);
		}
	}
}

/* ------------------------------------------------------------------ sending */

static uint32_t window_of(const struct split_call *call)
{
	uint32_t window = attachment_stream_window(call->session->attachment) +
			  atomic_load(&call->stream->window);

	return window < SHEPHERD_STREAM_WINDOW_MAX ? window : SHEPHERD_STREAM_WINDOW_MAX;
}

static uint64_t bytes_max(const struct split_call *call)
{
	uint64_t share = call->session->room.mem.bytes / STREAM_ARENA_PART;

	return share < STREAM_BYTES_MAX ? share : STREAM_BYTES_MAX;
}

static uint32_t out_of(const struct stream *st)
{
	return atomic_load(&st->sent) - atomic_load(&st->done);
}

static bool has_room(const struct split_call *call)
{
	const struct stream *st = call->stream;
	uint32_t out = out_of(st);

	return out == 0 ||
	       (out < window_of(call) &&
		atomic_load_explicit(&st->bytes_sent, memory_order_relaxed) -
				atomic_load_explicit(&st->bytes_done, memory_order_relaxed) <
			bytes_max(call));
}

uint32_t split_call_room(const struct split_call *call)
{
	uint32_t out;

	if (!call->streaming || !has_room(call))
		return 0;
	out = out_of(call->stream);
	return out < window_of(call) ? window_of(call) - out : 0;
}

int stream_say(struct split_call *call, uint8_t kind)
{
	struct producer p;
	struct slot *slot;
	int rc = producer_open_call(&p, call);

	if (rc != 0)
		return rc;
	rc = producer_slot(&p, false, &slot);
	if (rc == 0) {
		slot->kind = kind;
		slot->call_id = call->call_id;
		producer_commit_call(&p, call, slot);
	}
	producer_close(&p);
	return rc;
}

/* SPLIT_AGAIN: `writable` follows. 0: there is room after all. */
static int again(struct split_call *call, bool memory)
{
	struct stream *st = call->stream;
	uint32_t out;
	int rc = 0;

	if (atomic_exchange(&st->want, 1) == 0)
		st->asked = false;
	out = out_of(st);
	if (!memory && has_room(call) && atomic_exchange(&st->want, 0) != 0)
		return 0;
	/* Told without asking only when half a window is done. */
	if (out < window_of(call) && !st->asked) {
		rc = stream_say(call, TO_DAEMON_WANT); /* the next that is done is waited for */
		st->asked = true;
	}
	STAT(call->host, sends_again);
	return rc == 0 ? SPLIT_AGAIN : SPLIT_E_LOST;
}

/* Before the slot is published: WRITABLE may come at once. */
void stream_sends(struct split_call *call, uint32_t bytes)
{
	struct stream *st = call->stream;
	uint32_t sent = atomic_load_explicit(&st->sent, memory_order_relaxed);

	atomic_store_explicit(&st->sizes[sent % SHEPHERD_STREAM_WINDOW_MAX], bytes,
			      memory_order_relaxed);
	atomic_store_explicit(&st->bytes_sent,
			      atomic_load_explicit(&st->bytes_sent, memory_order_relaxed) + bytes,
			      memory_order_relaxed);
	atomic_store(&st->sent, sent + 1);
}

int stream_send(struct split_call *call, const ProtobufCMessage *message)
{
	bool nowait;
	int rc = has_room(call) ? 0 : again(call, false);

	if (rc != 0)
		return rc;
	call->nowait = nowait = out_of(call->stream) != 0;
	rc = answer_message(call, message);
	call->nowait = false;
	if (rc == 0) {
		STAT(call->host, messages_out);
		return 0;
	}
	if (rc == -SPLIT_E_HOST_ROOM && nowait)
		return again(call, true);
	if (rc == -SPLIT_E_HOST_LOST)
		return SPLIT_E_LOST;
	return rc == -SPLIT_E_HOST_ROOM || linearize_map_status(rc) == SPLIT_RESOURCE_EXHAUSTED
		       ? SPLIT_E_NOMEM
		       : SPLIT_E_SCHEMA;
}

int split_call_send(struct split_call *call, const ProtobufCMessage *message)
{
	enum split_method_kind kind = call->method->kind;

	if (kind != SPLIT_SERVER_STREAM && kind != SPLIT_BIDI_STREAM)
		return SPLIT_E_KIND;
	if (message == NULL)
		return SPLIT_E_ARGUMENT;
	if (answered(call))
		return SPLIT_E_ANSWERED;
	if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0 ||
	    !attachment_alive(call->session->attachment))
		return SPLIT_E_LOST;
	return stream_send(call, message);
}

int split_call_send_wait(struct split_call *call, const ProtobufCMessage *message,
			 uint64_t timeout_ns)
{
	uint64_t now = clock_ns();
	struct waiter wt;
	int rc = split_call_send(call, message);

	if (rc != SPLIT_AGAIN)
		return rc;
	waiter_init(&wt, call->session);
	wt.until_ns = timeout_ns < UINT64_MAX - now ? now + timeout_ns : UINT64_MAX;
	do {
		int step = waiter_step(&wt, call->session);

		if (step != 0) {
			rc = step == -SPLIT_E_HOST_LOST ? SPLIT_E_LOST : SPLIT_AGAIN;
			break;
		}
		if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0)
			rc = SPLIT_E_LOST;
		else if (has_room(call))
			rc = split_call_send(call, message);
	} while (rc == SPLIT_AGAIN);
	waiter_fini(&wt, call->session);
	return rc;
}

int split_call_finish(struct split_call *call)
{
	return split_call_answer(call, NULL);
}

int split_call_send_initial_metadata(struct split_call *call)
{
	int rc;

	if (answered(call))
		return SPLIT_E_ANSWERED;
	if (call->initial_sent)
		return SPLIT_E_ARGUMENT;
	if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0 ||
	    !attachment_alive(call->session->attachment))
		return SPLIT_E_LOST;
	rc = answer_initial(call, true);
	if (rc == -SPLIT_E_HOST_LOST)
		return SPLIT_E_LOST;
	return rc == 0 ? 0 : SPLIT_E_NOMEM;
}

bool split_call_compressed(const struct split_call *call)
{
	return call->compressed;
}

void split_call_compress(struct split_call *call, bool on)
{
	call->compress = on;
}
