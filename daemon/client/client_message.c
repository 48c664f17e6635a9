/* Messages from the server: the 5-byte prefix, room, and what waits for it. */
#include <string.h>

#include "daemon/client/client_internal.h"

static bool blocked(const struct client_call *call)
{
	if (call->flags & (CALL_NO_ROOM | CALL_INFLATING | CALL_OVER))
		return true;
	return (call->flags & CALL_PAUSED) && !(call->flags & CALL_IN_MESSAGE);
}

static void consume(struct client_call *call, size_t n)
{
	if (call->attempt != NULL && n > 0)
		http2_client_stream_consume(attempt_stream(call->attempt), n);
}

bool message_room(struct client_call *call, uint32_t bytes)
{
	int r = call->events->reserve(call->user, bytes, &call->buf);

	if (r == 0 || (call->flags & CALL_OVER))
		return r == 0 && !(call->flags & CALL_OVER);
	if (r > 0) {
		if (!(call->flags & CALL_NO_ROOM))
			counter_inc(&call->ch->counters.rx_messages_held);
		call->flags |= CALL_NO_ROOM;
	} else {
		client_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "no room for the server's message");
	}
	return false;
}

void message_deliver(struct client_call *call, uint32_t bytes)
{
	uint8_t *buf = call->buf;

	call->flags &=
		~(uint32_t)(CALL_IN_MESSAGE | CALL_COMPRESSED | CALL_INFLATING | CALL_PLAIN_KNOWN);
	call->buf = NULL;
	call->prefix_len = 0;
	call->messages_in++;
	counter_inc(&call->ch->counters.rx_messages);
	counter_add(&call->ch->counters.rx_message_bytes, bytes);
	call->events->message(call->user, buf, bytes);
}

static void malformed(struct client_call *call, const char *text)
{
	counter_inc(&call->ch->counters.rx_malformed);
	client_call_fail(call, GRPC_INTERNAL, text);
}

/* The prefix is whole. */
static void message_begin(struct client_call *call)
{
	uint32_t bytes = (uint32_t)call->prefix[1] << 24 | (uint32_t)call->prefix[2] << 16 |
			 (uint32_t)call->prefix[3] << 8 | call->prefix[4];

	if (call->prefix[0] > 1) {
		malformed(call, "the server's message has a prefix that is none");
		return;
	}
	if (call->messages_in > 0 && !grpc_kind_many_replies(call->kind)) {
		malformed(call, "the server sent a second message");
		return;
	}
	if (bytes > call->message_bytes_max) {
		counter_inc(&call->ch->counters.rx_messages_over);
		client_call_fail(call, GRPC_RESOURCE_EXHAUSTED,
				 "the server's message is too large");
		return;
	}
	call->message_bytes = bytes;
	call->message_done = 0;
	call->flags |= CALL_IN_MESSAGE;
	if (call->prefix[0] == 0) {
		if (message_room(call, bytes) && bytes == 0)
			message_deliver(call, 0);
		return;
	}
	if (call->encoding_in == IN_IDENTITY || call->encoding_in == IN_UNKNOWN || bytes == 0) {
		malformed(call, "the server's message is compressed in no way that was agreed");
		return;
	}
	counter_inc(&call->ch->counters.rx_compressed);
	call->flags |= CALL_COMPRESSED;
}

static size_t packed_feed(struct client_call *call, const uint8_t *p, size_t n)
{
	size_t left = call->message_bytes - call->message_done;
	size_t part = left < n ? left : n;

	if (!hold_add(call->ch->c, &call->packed, p, part)) {
		counter_inc(&call->ch->counters.hold_refused);
		client_call_fail(call, GRPC_RESOURCE_EXHAUSTED,
				 "no memory for a compressed message");
		return part;
	}
	call->message_done += (uint32_t)part;
	if (call->message_done == call->message_bytes) {
		call->flags |= CALL_INFLATING;
		inflate_begin(call);
	}
	return part;
}

/* One step; returns the bytes it took. */
static size_t feed_step(struct client_call *call, const uint8_t *p, size_t n)
{
	size_t part;

	if (!(call->flags & CALL_IN_MESSAGE)) {
		part = PREFIX_BYTES - call->prefix_len;
		part = part < n ? part : n;
		memcpy(call->prefix + call->prefix_len, p, part);
		call->prefix_len += (uint8_t)part;
		if (call->prefix_len == PREFIX_BYTES)
			message_begin(call);
		return part;
	}
	if (call->flags & CALL_COMPRESSED)
		return packed_feed(call, p, n);
	part = call->message_bytes - call->message_done;
	part = part < n ? part : n;
	memcpy(call->buf + call->message_done, p, part);
	call->message_done += (uint32_t)part;
	if (call->message_done == call->message_bytes)
		message_deliver(call, call->message_bytes);
	return part;
}

/* As far as it goes; returns the bytes taken. The call may be over then. */
static size_t feed(struct client_call *call, const uint8_t *p, size_t n)
{
	size_t done = 0;

	while (done < n && !blocked(call))
		done += feed_step(call, p + done, n - done);
	return done;
}

void message_data(struct client_call *call, const uint8_t *p, size_t n)
{
	size_t done = 0;

	call_enter(call);
	if (call->hold.bytes == 0 && !(call->flags & CALL_FEEDING)) {
		call->flags |= CALL_FEEDING;
		done = feed(call, p, n);
		call->flags &= ~(uint32_t)CALL_FEEDING;
		consume(call, done);
	}
	if (done < n && !(call->flags & CALL_OVER) &&
	    !hold_add(call->ch->c, &call->hold, p + done, n - done)) {
		counter_inc(&call->ch->counters.hold_refused);
		client_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "no memory for waiting bytes");
	}
	call_leave(call);
}

/* Room for the message whose prefix was read before, now? */
static void room_again(struct client_call *call)
{
	if (!(call->flags & CALL_IN_MESSAGE) || call->buf != NULL ||
	    (call->flags & (CALL_COMPRESSED | CALL_NO_ROOM | CALL_OVER)))
		return;
	if (call->message_bytes == 0) {
		if (message_room(call, 0))
			message_deliver(call, 0);
		return;
	}
	(void)message_room(call, call->message_bytes);
}

static void go_on(struct client_call *call)
{
	struct client *c = call->ch->c;

	if ((call->flags & (CALL_INFLATING | CALL_NO_ROOM)) == CALL_INFLATING &&
	    list_empty(&call->inflate))
		inflate_begin(call);
	room_again(call);
	while (call->hold.bytes > 0 && !blocked(call)) {
		struct hold_block *b = call->hold.first;
		size_t n = b->end - b->begin, done;

		done = feed(call, b->bytes + b->begin, n);
		if (call->flags & CALL_OVER)
			return;
		hold_skip(c, &call->hold, done);
		consume(call, done);
	}
	if (!(call->flags & CALL_FINAL) || call->hold.bytes > 0 ||
	    (call->flags & (CALL_NO_ROOM | CALL_INFLATING | CALL_OVER)))
		return;
	if ((call->flags & CALL_IN_MESSAGE) || call->prefix_len > 0) {
		/* A failure says more than that. */
		if (call->final->status.status == GRPC_OK) {
			malformed(call, "the server's last message is cut short");
			return;
		}
	}
	call_tell_final(call);
}

void message_go_on(struct client_call *call)
{
	if (call->flags & (CALL_FEEDING | CALL_OVER))
		return;
	call_enter(call);
	call->flags |= CALL_FEEDING;
	go_on(call);
	call->flags &= ~(uint32_t)CALL_FEEDING;
	call_leave(call);
}

void message_drop(struct client_call *call)
{
	struct client *c = call->ch->c;

	inflate_drop(call);
	hold_drop(c, &call->hold);
	hold_drop(c, &call->packed);
	if (call->final != NULL)
		http2_client_engine_free(c->http2, call->final);
	call->final = NULL;
}
