/* Calls out: what comes back, and what their callers do with them meanwhile.
 *
 * A slot of a call out becomes an event in the queue of the worker whose handler began it, as those
 * of streams do (stream.c), and that worker runs it: the continuation. */
#include <stdlib.h>

#include "host-lib/host_internal.h"

/* How the call out ended whose `done` or closure runs on this thread. */
static __thread const struct split_out_result *result_now;

void out_result_set(const struct split_out_result *result)
{
	result_now = result;
}

/* ------------------------------------------------------------------ taking */

/* The call out that a slot is about, NULL: it is over, or never was. */
static struct split_call *call_of(const struct worker *w, const struct slot *slot)
{
	struct session *s = w->session;
	unsigned d = attachment_call_worker(slot->call_id);
	uint32_t index = (uint32_t)slot->call_id & SLOT_OUT_INDEX;
	struct split_call *call;

	if (d >= s->daemon_workers || index >= s->outs_max)
		return NULL;
	call = atomic_load_explicit(&s->outs_of[d][index], memory_order_acquire);
	if (call == NULL ||
	    atomic_load_explicit(&call->out->id, memory_order_acquire) != slot->call_id ||
	    slot->code != (uint64_t)(uintptr_t)out_event_run ||
	    slot->data != (uint64_t)(uintptr_t)call || call->home != w)
		return NULL;
	return call;
}

static bool message_take(struct split_message *e, const struct slot *slot, const struct method *m)
{
	uint64_t area = (uint64_t)(uintptr_t)slot->inline_area;
	uint64_t copy = (uint64_t)(uintptr_t)e->inline_area;

	if ((slot->flags & SLOT_HAS_MESSAGE) == 0)
		return false;
	e->message = (const ProtobufCMessage *)(uintptr_t)slot->msg;
	atomic_store_explicit(&e->refs, 1, memory_order_relaxed);
	if ((slot->flags & SLOT_INLINE) == 0)
		return true;
	if (slot->inline_bytes > SLOT_INLINE_BYTES || slot->msg - area >= SLOT_INLINE_BYTES)
		return false;
	memcpy(e->inline_area, slot->inline_area, slot->inline_bytes);
	e->message = (const ProtobufCMessage *)(uintptr_t)(copy + (slot->msg - area));
	relocate_message((ProtobufCMessage *)(uintptr_t)e->message, m->input, area,
			 SLOT_INLINE_BYTES, (int64_t)(copy - area));
	return true;
}

static void status_take(struct split_message *e, const struct slot *slot)
{
	e->last = (slot->flags & SLOT_HAS_STATUS) != 0;
	e->status = e->last && slot->status <= SPLIT_UNAUTHENTICATED ? (uint32_t)slot->status
								     : SPLIT_UNKNOWN;
	e->text = NULL;
	e->text_bytes = 0;
	e->metadata = NULL;
	if ((slot->flags & SLOT_EXTRA) == 0)
		return;
	e->text = (const char *)(uintptr_t)slot->text;
	e->text_bytes = slot->text_bytes;
	e->metadata = (const struct metadata_block *)(uintptr_t)slot->metadata;
}

bool out_take(struct worker *w, struct split_message *e, const struct slot *slot, bool *queue_out)
{
	static const uint8_t kinds[TO_HOST_KINDS] = {
		[TO_HOST_MESSAGE] = EVENT_OUT_MESSAGE,
		[TO_HOST_WRITABLE] = EVENT_OUT_WRITABLE,
		[TO_HOST_STATUS] = EVENT_OUT_STATUS,
		[TO_HOST_INITIAL_METADATA] = EVENT_OUT_METADATA,
	};
	struct split_call *call = call_of(w, slot);
	bool sound = call != NULL && slot->kind < TO_HOST_KINDS && kinds[slot->kind] != 0;

	e->kind = EVENT_OUT_STATUS;
	e->call = NULL;
	e->has_token = slot->kind != TO_HOST_WRITABLE && (slot->flags & SLOT_HAS_TOKEN) != 0;
	e->token = slot->info;
	e->daemon_worker = (uint16_t)attachment_call_worker(slot->call_id);
	e->message = NULL;
	*queue_out = e->has_token;
	if (!sound)
		return false;
	e->kind = kinds[slot->kind];
	status_take(e, slot);
	if (slot->kind == TO_HOST_MESSAGE && !message_take(e, slot, call->method))
		return false;
	if (slot->kind == TO_HOST_STATUS)
		e->last = true;
	*queue_out = slot->kind != TO_HOST_WRITABLE ||
		     (call->streaming && stream_writable(call, slot->info));
	if (*queue_out) {
		e->call = call;
		atomic_fetch_add_explicit(&call->word, 1, memory_order_relaxed);
	}
	return true;
}

/* ------------------------------------------------------------------ continuations */

struct run {
	struct split_call *call;
	struct split_message *e;
	struct split_out_result result;
};

static const struct split_metadata *entries_of(const struct metadata_block *block, size_t *n)
{
	*n = block != NULL ? block->count : 0;
	return block != NULL ? (const struct split_metadata *)(const void *)block->entries : NULL;
}

static void run_done(void *arg)
{
	struct run *r = arg;
	struct split_out *out = r->call->out;

	result_now = &r->result;
	if (out->events.done != NULL)
		out->events.done(out, &r->result, out->data);
	result_now = NULL;
}

/* The last word. The call's own reference goes with it. */
static void finish(struct worker *w, struct run *r)
{
	struct split_call *call = r->call;

	if (!out_withdraw(call))
		return;
	if (r->result.status != SPLIT_OK)
		STAT(w->host, outs_failed);
	w->out = call->out;
	worker_run_plain(w, run_done, r);
	w->out = NULL;
	atomic_fetch_or_explicit(&call->word, CALL_ANSWERED | CALL_GONE, memory_order_acq_rel);
	call_put(call, 1);
}

static void run_event(void *arg)
{
	struct run *r = arg;
	struct split_out *out = r->call->out;
	const struct split_out_events *ev = &out->events;
	size_t n;

	if (r->e->kind == EVENT_OUT_METADATA) {
		const struct split_metadata *md = entries_of(r->e->metadata, &n);

		if (ev->initial_metadata != NULL)
			ev->initial_metadata(out, md, n, out->data);
	} else if (r->e->kind == EVENT_OUT_WRITABLE) {
		if (ev->writable != NULL)
			ev->writable(out, out->data);
	} else if (ev->message != NULL) {
		ev->message(out, r->e->message, out->data);
	}
}

static bool single(const struct method *m)
{
	return m->kind == SPLIT_UNARY || m->kind == SPLIT_CLIENT_STREAM;
}

/* The one answer waits for its status when trailers come behind it. */
static void keep(struct split_call *call, struct split_message *e)
{
	struct split_message *before = call->stream->current;

	if (before != NULL)
		event_discard(before);
	call->stream->current = e;
}

static void result_fill(struct run *r, struct split_message *e, const struct split_message *kept)
{
	struct split_out_result *result = &r->result;

	result->status = (enum split_status)e->status;
	result->message = e->text != NULL ? e->text : "";
	result->trailers = entries_of(e->metadata, &result->trailers_n);
	if (result->status != SPLIT_OK || !single(r->call->method))
		return;
	result->reply = e->kind == EVENT_OUT_MESSAGE ? e->message
			: kept != NULL               ? kept->message
						     : NULL;
	if (result->reply == NULL) {
		result->status = SPLIT_INTERNAL;
		result->message = "status OK without a reply";
	}
}

/* Through with an event, whose reference of the call goes too. A message may have been retained. */
static void event_done(struct split_call *call, struct split_message *e)
{
	if (e->kind != EVENT_OUT_MESSAGE) {
		event_discard(e);
		return;
	}
	message_put(e);
	call_put(call, 1);
}

void out_event_run(struct worker *w, struct split_message *e)
{
	struct split_call *call = e->call;
	struct run r = {.call = call, .e = e};
	bool last = e->last;
	struct split_message *kept;

	if (call == NULL || atomic_load_explicit(&call->out->ended, memory_order_acquire)) {
		event_discard(e);
		return;
	}
	if (e->kind == EVENT_OUT_MESSAGE && single(call->method) && !last) {
		keep(call, e);
		return;
	}
	kept = call->stream->current;
	if (last) {
		result_fill(&r, e, kept);
		if (e->kind == EVENT_OUT_MESSAGE)
			call->stream->current = e;
		finish(w, &r);
	} else {
		if (e->kind == EVENT_OUT_MESSAGE)
			call->stream->current = e;
		w->out = call->out;
		worker_run_plain(w, run_event, &r);
		w->out = NULL;
	}
	call->stream->current = last ? NULL : kept;
	event_done(call, e);
	if (last && kept != NULL)
		event_done(call, kept);
}

void outs_cancel(struct worker *w)
{
	struct session *s = w->session;

	for (unsigned d = 0; d < s->daemon_workers; d++) {
		for (uint32_t i = 0; i < s->outs_max; i++) {
			struct split_call *call = atomic_load(&s->outs_of[d][i]);
			struct run r = {.call = call,
					.result = {.status = SPLIT_UNAVAILABLE,
						   .message = "splitd has gone"}};
			struct split_message *kept;

			if (call == NULL || call->home != w)
				continue;
			kept = call->stream->current;
			call->stream->current = NULL;
			finish(w, &r);
			if (kept != NULL)
				event_done(call, kept);
		}
	}
}

/* ------------------------------------------------------------------ what a caller does with it */

struct split_out *split_out_current(const struct split_out_result **result_out)
{
	if (result_out != NULL)
		*result_out = result_now;
	return worker_self == NULL ? NULL : worker_self->out;
}

void *split_out_data(const struct split_out *out)
{
	return out->data;
}

struct split_message *split_out_message_retain(struct split_out *out)
{
	struct split_call *call = out->call;
	struct split_message *m;

	if (worker_self == NULL || worker_self->out != out)
		return NULL;
	m = call->stream->current;
	if (m == NULL)
		return NULL;
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&call->word, 1, memory_order_relaxed);
	STAT(call->host, retained);
	return m;
}

void split_out_retain(struct split_out *out)
{
	atomic_fetch_add_explicit(&out->call->word, 1, memory_order_relaxed);
}

void split_out_release(struct split_out *out)
{
	if (out != NULL)
		call_put(out->call, 1);
}

/* 0, or why nothing more can be said. */
static int open_still(const struct split_out *out)
{
	if (out->half_closed || atomic_load_explicit(&out->ended, memory_order_acquire))
		return SPLIT_E_ANSWERED;
	return attachment_alive(out->call->session->attachment) ? 0 : SPLIT_E_LOST;
}

int split_out_send(struct split_out *out, const ProtobufCMessage *request)
{
	int rc = open_still(out);

	if (!out->call->streaming)
		return SPLIT_E_KIND;
	if (request == NULL)
		return SPLIT_E_ARGUMENT;
	return rc != 0 ? rc : stream_send(out->call, request);
}

int split_out_half_close(struct split_out *out)
{
	int rc = open_still(out);

	if (!out->call->streaming)
		return SPLIT_E_KIND;
	if (rc != 0)
		return rc;
	out->half_closed = true;
	return stream_say(out->call, TO_DAEMON_HALF_CLOSE) == 0 ? 0 : SPLIT_E_LOST;
}

void split_out_cancel(struct split_out *out)
{
	struct split_call *call = out->call;

	if (atomic_load_explicit(&out->ended, memory_order_acquire) ||
	    !attachment_alive(call->session->attachment))
		return;
	(void)!stream_say(call, TO_DAEMON_ABANDON);
}
