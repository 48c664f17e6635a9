/* Attempts: what HTTP/2 says of a call's stream, and what follows from it. */
#include <stdlib.h>
#include <string.h>

#include "daemon/client/client_internal.h"

struct http2_client_stream *attempt_stream(struct attempt *a)
{
	return http2_client_stream_of_user(a);
}

/* What its target is told, once. */
static void attempt_result(struct attempt *a, enum picker_result result)
{
	if (a->ended)
		return;
	a->ended = true;
	picker_end(a->target->current ? &a->target->ch->picker : NULL, &a->target->member, result,
		   a->target->ch->c->now_ns);
}

/* The call goes on without it. */
static void attempt_leave(struct attempt *a)
{
	if (a->call != NULL)
		a->call->attempt = NULL;
	a->call = NULL;
}

/* It failed, and nothing of an answer had come. */
static void attempt_failed(struct attempt *a, const struct failure *f, const char *text,
			   struct final *final)
{
	struct client_call *call = a->call;
	struct client *c = call->ch->c;

	attempt_leave(a);
	if (retry_decide(call, f)) {
		if (final != NULL)
			http2_client_engine_free(c->http2, final);
		return;
	}
	if (final != NULL) {
		call->flags |= CALL_HEADERS;
		call_commit(call);
		call_final(call, final);
	} else {
		client_call_fail(call, f->status, text);
	}
}

static void pushback_parse(struct failure *f, const struct http2_header *h)
{
	char *end;
	long long ms;

	if (h == NULL)
		return;
	f->pushback_given = true;
	ms = strtoll(h->value, &end, 10);
	/* gRFC A6: what is no number says "do not". */
	if (h->value_len == 0 || *end != '\0' || ms < 0 || ms > INT32_MAX)
		f->pushback_ns = -1;
	else
		f->pushback_ns = ms * (int64_t)CLOCK_NS_PER_MS;
}

/* The server has said how it ends: `h` are trailers, or a trailers-only answer. */
static void attempt_over(struct attempt *a, const struct http2_header *h, size_t n)
{
	struct client_call *call = a->call;
	struct client *c = call->ch->c;
	struct final *final = final_make(c, h, n);
	struct failure f = {0};

	f.status = final != NULL ? final->status.status : GRPC_RESOURCE_EXHAUSTED;
	pushback_parse(&f, header_find(h, n, "grpc-retry-pushback-ms"));
	attempt_result(a, result_of(call->ch, f.status));
	if (f.status == GRPC_OK)
		retry_ended_ok(call->ch);
	if (f.status != GRPC_OK && !(call->flags & CALL_HEADERS)) {
		attempt_failed(a, &f, "no memory for the answer's end", final);
		return;
	}
	attempt_leave(a);
	call_final(call, final);
}

/* An answer that is none of gRPC's. */
static void attempt_odd(struct attempt *a, const struct http2_header *h, size_t n)
{
	const struct http2_header *status = header_find(h, n, ":status");
	struct failure f = {.status = GRPC_UNKNOWN};

	if (status != NULL)
		f.status = status_of_http(status->value);
	counter_inc(&a->target->ch->counters.rx_malformed);
	attempt_result(a, result_of(a->target->ch, f.status));
	http2_client_stream_reset(attempt_stream(a), HTTP2_CANCEL);
	attempt_failed(a, &f, "the server's answer is not gRPC", NULL);
}

static uint8_t encoding_of(const struct http2_header *h)
{
	if (h == NULL || strcmp(h->value, "identity") == 0)
		return IN_IDENTITY;
	if (strcmp(h->value, "gzip") == 0)
		return IN_GZIP;
	return strcmp(h->value, "deflate") == 0 ? IN_DEFLATE : IN_UNKNOWN;
}

static void answer_begins(struct attempt *a, const struct http2_header *h, size_t n)
{
	struct client_call *call = a->call;
	struct client *c = call->ch->c;

	a->answered = true;
	call_commit(call);
	call_release_sent(call);
	call->flags |= CALL_HEADERS;
	call->encoding_in = encoding_of(header_find(h, n, "grpc-encoding"));
	if (!call->ch->config.compression && call->encoding_in != IN_IDENTITY)
		call->encoding_in = IN_UNKNOWN;
	call->events->headers(call->user, c->metadata, metadata_decode(c, h, n));
}

static void on_headers(struct http2_client_stream *stream, const struct http2_header *h, size_t n,
		       unsigned flags)
{
	struct attempt *a = http2_client_stream_user(stream);
	struct client_call *call = a->call;
	const struct http2_header *status;
	bool first = !(flags & HTTP2_CLIENT_TRAILERS);

	if (a->watch) {
		health_headers(a, h, n, flags);
		return;
	}
	if (call == NULL)
		return;
	call_enter(call);
	status = header_find(h, n, ":status");
	if (flags & HTTP2_CLIENT_OVER) {
		counter_inc(&call->ch->counters.rx_metadata_over);
		client_call_fail(call, GRPC_RESOURCE_EXHAUSTED,
				 "the server's metadata is too large");
	} else if (flags & HTTP2_CLIENT_END) {
		if (header_find(h, n, "grpc-status") != NULL || !first)
			attempt_over(a, h, n);
		else
			attempt_odd(a, h, n);
	} else if (status == NULL || strcmp(status->value, "200") != 0 ||
		   !content_type_grpc(header_find(h, n, "content-type"))) {
		attempt_odd(a, h, n);
	} else {
		answer_begins(a, h, n);
	}
	call_leave(call);
}

static void on_data(struct http2_client_stream *stream, const uint8_t *p, size_t n)
{
	struct attempt *a = http2_client_stream_user(stream);

	if (a->watch)
		health_data(a, p, n);
	else if (a->call != NULL)
		message_data(a->call, p, n);
}

/* The body ended, and no trailers came. */
static void on_end(struct http2_client_stream *stream)
{
	struct attempt *a = http2_client_stream_user(stream);
	struct client_call *call = a->call;

	if (a->watch || call == NULL)
		return;
	counter_inc(&call->ch->counters.rx_malformed);
	attempt_result(a, result_of(call->ch, GRPC_INTERNAL));
	client_call_fail(call, GRPC_INTERNAL, "the server's answer ended without a status");
}

static size_t on_body(struct http2_client_stream *stream, uint8_t *dst, size_t room, bool *eof_out)
{
	struct attempt *a = http2_client_stream_user(stream);

	if (a->watch)
		return health_body(a, dst, room, eof_out);
	return a->call != NULL ? call_body(a->call, dst, room, eof_out) : 0;
}

static const char *closed_text(uint32_t code, unsigned flags)
{
	if (flags & HTTP2_CLIENT_LOST)
		return "the connection to the server was lost";
	return code == HTTP2_REFUSED_STREAM ? "the server refused the stream"
					    : "the server reset the stream";
}

static void on_closed(struct http2_client_stream *stream, uint32_t code, unsigned flags)
{
	struct attempt *a = http2_client_stream_user(stream);
	struct client_call *call = a->call;
	struct client_connection *conn = a->conn;
	struct failure f = {
		.status = flags & HTTP2_CLIENT_LOST ? (uint32_t)GRPC_UNAVAILABLE
						    : (uint32_t)grpc_status_of_http2(code),
		.unsent = (flags & HTTP2_CLIENT_UNSENT) != 0,
		.refused = (flags & HTTP2_CLIENT_REFUSED) != 0,
	};

	if (a->watch) {
		health_closed(a);
		return;
	}
	attempt_result(a, call == NULL || f.unsent || f.refused ? PICKER_NEUTRAL
								: result_of(conn->ch, f.status));
	conn->target->attempts--;
	connection_active(conn);
	if (conn->ch->waiting_n > 0)
		channel_due(conn->ch);
	if (call == NULL)
		return;
	call_enter(call);
	if (f.unsent)
		f.status = GRPC_UNAVAILABLE;
	if (call->flags & CALL_HEADERS) {
		attempt_leave(a);
		client_call_fail(call, f.status, closed_text(code, flags));
	} else {
		attempt_failed(a, &f, closed_text(code, flags), NULL);
	}
	call_leave(call);
}

static void on_changed(void *session_user)
{
	connection_due(session_user);
}

static void on_pong(void *session_user)
{
	struct client_connection *conn = session_user;

	conn->pinged = false;
}

const struct http2_client_events attempt_events = {
	.headers = on_headers,
	.data = on_data,
	.end = on_end,
	.body = on_body,
	.closed = on_closed,
	.changed = on_changed,
	.pong = on_pong,
};
