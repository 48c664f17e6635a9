/* Messages from the client: the 5-byte prefix, the room for what follows, the bytes into it.
 *
 * DATA frames cut the sequence anywhere. A message's bytes are written once, into the room that the
 * backend reserved at its prefix. A call that waits for room (or is paused) keeps what comes in
 * `hold` chunks and gives nothing back to its stream's window, so it never holds more than that
 * window. */
#include "daemon/grpc/grpc_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Whole sizes of a hold chunk, so that many calls that hold little do not take 4 KiB each. */
#define HOLD_SMALL  256
#define HOLD_MEDIUM 1024
#define HOLD_LARGE  4096

static bool call_many_requests(const struct grpc_call *call)
{
	return grpc_kind_many_requests((enum grpc_kind)call->kind);
}

static bool call_takes(const struct grpc_call *call)
{
	return (call->flags & (CALL_OPEN | CALL_DISCARD | CALL_FINISHED | CALL_IN_DONE)) ==
	       CALL_OPEN;
}

/* --- holding -------------------------------------------------------------------------------------
 */

static void hold_free(struct grpc_call *call, struct hold *hold)
{
	struct grpc_server *server = call_server(call);

	server->hold_bytes -= sizeof(*hold) + hold->bytes_max;
	call->conn->hold_bytes -= sizeof(*hold) + hold->bytes_max;
	http2_engine_free(server->engine, hold);
}

void grpc_hold_drop(struct grpc_call *call)
{
	struct hold *next;

	for (struct hold *hold = call->hold_first; hold != NULL; hold = next) {
		next = hold->next;
		hold_free(call, hold);
	}
	call->hold_first = NULL;
	call->hold_last = NULL;
}

/* No connection holds more than is free for others, beyond its first chunk. */
static bool hold_allowed(const struct grpc_call *call, size_t bytes)
{
	const struct grpc_server *server = call_server(call);
	uint64_t left = server->config.hold_bytes_max - server->hold_bytes;
	uint64_t held = call->conn->hold_bytes;

	return bytes <= left && (held == 0 || held + bytes <= left);
}

static struct hold *hold_new(struct grpc_call *call, size_t n)
{
	struct grpc_server *server = call_server(call);
	size_t bytes = n + sizeof(struct hold) <= HOLD_SMALL    ? HOLD_SMALL
		       : n + sizeof(struct hold) <= HOLD_MEDIUM ? HOLD_MEDIUM
								: HOLD_LARGE;
	struct hold *hold;

	/* The second chunk of a call and later ones are large: the first small one was a guess. */
	if (call->hold_last != NULL)
		bytes = HOLD_LARGE;
	if (!hold_allowed(call, bytes))
		return NULL;
	hold = http2_engine_alloc(server->engine, bytes);
	if (hold == NULL)
		return NULL;
	server->hold_bytes += bytes;
	call->conn->hold_bytes += bytes;
	hold->next = NULL;
	hold->bytes_max = (uint32_t)(bytes - sizeof(*hold));
	hold->begin = 0;
	hold->end = 0;
	if (call->hold_last == NULL)
		call->hold_first = hold;
	else
		call->hold_last->next = hold;
	call->hold_last = hold;
	return hold;
}

static bool hold_append(struct grpc_call *call, const uint8_t *p, size_t n)
{
	while (n > 0) {
		struct hold *hold = call->hold_last;
		size_t part;

		if (hold == NULL || hold->end == hold->bytes_max) {
			hold = hold_new(call, n);
			if (hold == NULL)
				return false;
		}
		part = hold->bytes_max - hold->end;
		if (part > n)
			part = n;
		memcpy(hold->bytes + hold->end, p, part);
		hold->end += (uint32_t)part;
		p += part;
		n -= part;
	}
	return true;
}

/* --- peeking
 * -------------------------------------------------------------------------------------- */

size_t grpc_call_peek(const struct grpc_call *call, uint8_t *buf, size_t n)
{
	size_t done = 0;

	if (!call->peekable)
		return 0;
	for (const struct hold *hold = call->hold_first; hold != NULL && done < n;
	     hold = hold->next) {
		size_t part = hold->end - hold->begin;

		if (part > n - done)
			part = n - done;
		memcpy(buf + done, hold->bytes + hold->begin, part);
		done += part;
	}
	return done;
}

bool grpc_call_peek_wait(struct grpc_call *call, uint32_t n)
{
	if (call->inflate != NULL || (call->peekable && (call->flags & CALL_HALF_CLOSED)))
		return false;
	call->peek_wanted = n;
	return true;
}

/* Bytes were held, or no more will come: those that reserve waited for may be here. */
static void peek_check(struct grpc_call *call)
{
	size_t held = 0;

	if (likely(call->peek_wanted == 0) || !(call->flags & CALL_WAITING))
		return;
	for (const struct hold *hold = call->hold_first; hold != NULL && held < call->peek_wanted;
	     hold = hold->next)
		held += hold->end - hold->begin;
	if (held >= call->peek_wanted || (call->flags & CALL_HALF_CLOSED))
		grpc_call_room(call);
}

/* --- framing
 * -------------------------------------------------------------------------------------- */

void grpc_message_whole(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	uint8_t *buf = call->buf;
	bool last = !call_many_requests(call);

	call->flags &= ~(uint32_t)CALL_IN_MESSAGE;
	if (last)
		call->flags |= CALL_IN_DONE;
	call->prefix_len = 0;
	grpc_idle_leave(call);
	counter_inc(&server->counters.rx_messages);
	counter_inc(&call->conn->stats->messages_received);
	counter_set(&call->conn->stats->received_ns, call->conn->now_ns);
	counter_add(&server->counters.rx_message_bytes, call->message_bytes);
	call->buf = NULL;
	call->backend->message(call->ctx, call, buf, call->message_bytes, last);
}

static void message_reserve(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	int rc;

	call->buf = NULL;
	rc = call->backend->reserve(call->ctx, call, call->message_bytes, &call->buf);
	if (rc == 0) {
		call->message_done = 0;
		call->flags |= CALL_IN_MESSAGE;
		call->flags &= ~(uint32_t)CALL_WAITING;
		if (call->message_bytes == 0)
			grpc_message_whole(call);
		return;
	}
	if (rc > 0) {
		if (!call_takes(call))
			return; /* finished from inside */
		if (!(call->flags & CALL_WAITING))
			counter_inc(&server->counters.rx_messages_held);
		call->flags |= CALL_WAITING;
		return;
	}
	grpc_call_abort(call, GRPC_RESOURCE_EXHAUSTED, "no room for the message",
			GRPC_CLOSED_FAILED);
}

/* PROTOCOL-HTTP2, "Compressed-Flag": nothing but 0 and 1, and 1 only with a grpc-encoding. (One
 * that is not known has ended the call before.) */
static void prefix_refused(struct grpc_call *call)
{
	counter_inc(&call_server(call)->counters.calls_malformed);
	grpc_call_abort(call, GRPC_INTERNAL,
			call->prefix[0] == 1 ? "compressed message without grpc-encoding"
					     : "bad flags in a message's prefix",
			GRPC_CLOSED_FAILED);
}

/* With both numbers, as gRPC's own servers say it: the client shall know what would have done. */
static void prefix_over(struct grpc_call *call)
{
	char text[96];

	counter_inc(&call_server(call)->counters.rx_messages_over);
	grpc_call_oversize(call, call->message_bytes);
	(void)snprintf(text, sizeof(text),
		       "received message larger than the limit (%llu vs. %llu bytes)",
		       (unsigned long long)call->message_bytes,
		       (unsigned long long)call->message_bytes_max);
	grpc_call_abort(call, GRPC_RESOURCE_EXHAUSTED, text, GRPC_CLOSED_FAILED);
}

static void prefix_whole(struct grpc_call *call)
{
	call->message_bytes = be32_load(call->prefix + 1);
	if (unlikely(call->prefix[0] > 1 ||
		     (call->prefix[0] == 1 && call->encoding_in == ENCODING_IDENTITY))) {
		prefix_refused(call);
		return;
	}
	if (unlikely(call->message_bytes > call->message_bytes_max)) {
		prefix_over(call);
		return;
	}
	if (unlikely(call->prefix[0] == 1))
		grpc_inflate_begin(call);
	else
		message_reserve(call);
}

/* Take from [p, p+n) what can be taken now; returns how much. */
static size_t call_feed(struct grpc_call *call, const uint8_t *p, size_t n)
{
	size_t at = 0;

	call->flags |= CALL_FEEDING;
	while (at < n && !(call->flags & (CALL_WAITING | CALL_PAUSED))) {
		size_t part;

		if (!call_takes(call)) {
			at = n;
			break;
		}
		if (unlikely(call->inflate != NULL)) {
			at += grpc_inflate_feed(call, p + at, n - at);
			continue;
		}
		if (call->flags & CALL_IN_MESSAGE) {
			part = call->message_bytes - call->message_done;
			if (part > n - at)
				part = n - at;
			memcpy(call->buf + call->message_done, p + at, part);
			call->message_done += (uint32_t)part;
			at += part;
			if (call->message_done == call->message_bytes)
				grpc_message_whole(call);
			continue;
		}
		part = GRPC_PREFIX_BYTES - call->prefix_len;
		if (part > n - at)
			part = n - at;
		memcpy(call->prefix + call->prefix_len, p + at, part);
		call->prefix_len += (uint8_t)part;
		at += part;
		if (call->prefix_len == GRPC_PREFIX_BYTES)
			prefix_whole(call);
	}
	call->flags &= ~(uint32_t)CALL_FEEDING;
	return at;
}

void grpc_on_data(struct http2_stream *stream, const uint8_t *p, size_t n)
{
	struct grpc_call *call = http2_stream_user(stream);
	size_t taken = 0;

	if (unlikely(!call_takes(call))) {
		http2_stream_consume(stream, n);
		if (call->flags & CALL_PLAIN)
			grpc_plain_data(call, n);
		return;
	}
	if (likely(call->hold_first == NULL))
		taken = call_feed(call, p, n);
	if (taken > 0)
		http2_stream_consume(stream, taken);
	if (taken < n && !hold_append(call, p + taken, n - taken)) {
		counter_inc(&call_server(call)->counters.hold_refused);
		grpc_call_abort(call, GRPC_RESOURCE_EXHAUSTED, "no memory to hold the message",
				GRPC_CLOSED_FAILED);
		return;
	}
	peek_check(call);
}

/* --- the half-close
 * ------------------------------------------------------------------------------- */

/* Hand the half-close up, once everything before it was. A single request was handed up when it was
 * whole; what follows it is discarded, as gRPC C++ does. */
static void end_hand_up(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);

	if (!call_takes(call) || call->hold_first != NULL ||
	    (call->flags & (CALL_WAITING | CALL_PAUSED)))
		return;
	call->flags |= CALL_IN_DONE;
	if (likely(call->prefix_len == 0 && call_many_requests(call))) {
		call->backend->half_close(call->ctx, call);
		return;
	}
	counter_inc(&server->counters.calls_malformed);
	grpc_call_abort(call, GRPC_INTERNAL,
			call->prefix_len != 0 ? "the stream ended inside a message"
					      : "no request message",
			GRPC_CLOSED_FAILED);
}

void grpc_on_end(struct http2_stream *stream)
{
	struct grpc_call *call = http2_stream_user(stream);

	call->flags |= CALL_HALF_CLOSED;
	if (unlikely(call->flags & CALL_PLAIN)) {
		grpc_plain_end(call);
		return;
	}
	grpc_idle_leave(call);
	peek_check(call);
	end_hand_up(call);
}

/* --- going on
 * ------------------------------------------------------------------------------------- */

void grpc_call_go_on(struct grpc_call *call)
{
	struct hold *hold;

	while ((hold = call->hold_first) != NULL) {
		size_t taken = call_feed(call, hold->bytes + hold->begin, hold->end - hold->begin);

		/* An abort from inside has dropped the chunks. */
		if (call->hold_first != hold)
			return;
		hold->begin += (uint32_t)taken;
		http2_stream_consume(call_stream(call), taken);
		if (hold->begin < hold->end) {
			peek_check(call);
			return;
		}
		call->hold_first = hold->next;
		if (call->hold_first == NULL)
			call->hold_last = NULL;
		hold_free(call, hold);
	}
	if (call->flags & CALL_HALF_CLOSED)
		end_hand_up(call);
}

void grpc_call_room(struct grpc_call *call)
{
	if (!(call->flags & CALL_WAITING) || !call_takes(call))
		return;
	if (call->flags & CALL_FEEDING) {
		/* From inside the very reserve that said SPLIT_AGAIN: it is asked again there. */
		return;
	}
	if (unlikely(call->inflate != NULL)) {
		grpc_inflate_room(call);
		return;
	}
	call->flags |= CALL_FEEDING;
	call->peek_wanted = 0;
	call->peekable = true;
	message_reserve(call);
	call->peekable = false;
	call->flags &= ~(uint32_t)CALL_FEEDING;
	if (!(call->flags & CALL_WAITING))
		grpc_call_go_on(call);
}

void grpc_call_pause(struct grpc_call *call, bool paused)
{
	if (paused) {
		call->flags |= CALL_PAUSED;
		return;
	}
	if (!(call->flags & CALL_PAUSED))
		return;
	call->flags &= ~(uint32_t)CALL_PAUSED;
	if (unlikely(call->inflate != NULL) && call_takes(call))
		grpc_inflate_room(call);
	if (!(call->flags & (CALL_FEEDING | CALL_WAITING)) && call_takes(call))
		grpc_call_go_on(call);
}
