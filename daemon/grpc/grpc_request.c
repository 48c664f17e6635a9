/* The head of a request: is it gRPC, which method, until when, with what metadata (PROTOCOL-HTTP2,
 * "Requests"). Everything here points into the header list or the server's scratch; the backend's
 * open copies what it wants to keep. */
#include "daemon/grpc/grpc_internal.h"

#include <string.h>
#include <strings.h>

/* The fields of one request that mean something to us. */
struct head {
	struct grpc_request_head request;
	const struct http2_header *method;
	const struct http2_header *content_type;
	const struct http2_header *timeout;
	const struct http2_header *encoding;
	const struct http2_header *accept_encoding;
	uint32_t decoded_used;
	uint64_t metadata_bytes;
	bool metadata_over;
	bool metadata_bad;
};

static bool text_is(const char *p, size_t n, const char *text, size_t text_n)
{
	return n == text_n && memcmp(p, text, text_n) == 0;
}
#define TEXT_IS(p, n, text) text_is(p, n, text, sizeof(text) - 1)

/* Custom metadata: one entry, or for "-bin" one for each of the comma-separated values. */
static void head_metadata(struct grpc_server *server, struct head *head,
			  const struct http2_header *h)
{
	const struct grpc_config *c = &server->config;
	bool bin = grpc_name_is_bin(h->name, h->name_len);
	const char *at = h->value;
	const char *end = at + h->value_len;

	/* PROTOCOL-HTTP2, "ASCII-Value": space around it is no part of it. */
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	head->metadata_bytes += h->name_len + h->value_len + 32;
	if (head->metadata_bytes > c->metadata_bytes_max) {
		head->metadata_over = true;
		return;
	}
	for (;;) {
		const char *comma = bin ? memchr(at, ',', (size_t)(end - at)) : NULL;
		size_t n = (size_t)((comma != NULL ? comma : end) - at);
		struct grpc_metadata *md = &server->metadata[head->request.metadata_count];
		ssize_t got;

		if (head->request.metadata_count >= c->metadata_max) {
			head->metadata_over = true;
			return;
		}
		md->name = h->name;
		md->name_len = (uint32_t)h->name_len;
		md->value = (const uint8_t *)at;
		md->value_len = (uint32_t)n;
		if (bin) {
			/* Decoded is shorter than encoded, so metadata_bytes_max bounds this too.
			 */
			uint8_t *dst = server->decoded + head->decoded_used;

			while (n > 0 && *at == ' ')
				at++, n--;
			got = grpc_base64_decode(at, n, dst);
			if (got < 0) {
				head->metadata_bad = true;
				return;
			}
			md->value = dst;
			md->value_len = (uint32_t)got;
			head->decoded_used += (uint32_t)got;
		}
		head->request.metadata_count++;
		if (comma == NULL)
			return;
		at = comma + 1;
	}
}

static void head_pseudo(struct head *head, const struct http2_header *h)
{
	switch (h->name[1]) {
	case 'p':
		head->request.path = h->value;
		head->request.path_len = (uint32_t)h->value_len;
		break;
	case 'm':
		head->method = h;
		break;
	case 'a':
		head->request.authority = h->value;
		head->request.authority_len = (uint32_t)h->value_len;
		break;
	default:
		break;
	}
}

static void head_field(struct grpc_server *server, struct head *head, const struct http2_header *h)
{
	const char *name = h->name;
	size_t n = h->name_len;

	if (n == 0)
		return;
	switch (name[0]) {
	case ':':
		head_pseudo(head, h);
		return;
	case 't':
		if (TEXT_IS(name, n, "te"))
			return;
		break;
	case 'c':
		if (TEXT_IS(name, n, "content-type")) {
			head->content_type = h;
			return;
		}
		if (TEXT_IS(name, n, "content-length"))
			return;
		break;
	case 'g':
		if (TEXT_IS(name, n, "grpc-timeout")) {
			head->timeout = h;
			return;
		}
		if (TEXT_IS(name, n, "grpc-encoding")) {
			head->encoding = h;
			return;
		}
		if (TEXT_IS(name, n, "grpc-accept-encoding")) {
			head->accept_encoding = h;
			return;
		}
		break;
	case 'h':
		if (TEXT_IS(name, n, "host")) {
			if (head->request.authority == NULL) {
				head->request.authority = h->value;
				head->request.authority_len = (uint32_t)h->value_len;
			}
			return;
		}
		break;
	default:
		break;
	}
	head_metadata(server, head, h);
}

/* "application/grpc" or "application/grpc+proto" in any case (RFC 9110 s8.3.1), and parameters. */
static bool is_grpc(const struct http2_header *content_type)
{
	static const char grpc[] = "application/grpc";
	static const char proto[] = "+proto";
	size_t n = sizeof(grpc) - 1;
	const char *at;
	size_t left;

	if (content_type == NULL || content_type->value_len < n ||
	    strncasecmp(content_type->value, grpc, n) != 0)
		return false;
	at = content_type->value + n;
	left = content_type->value_len - n;
	if (left >= sizeof(proto) - 1 && strncasecmp(at, proto, sizeof(proto) - 1) == 0) {
		at += sizeof(proto) - 1;
		left -= sizeof(proto) - 1;
	}
	while (left > 0 && (*at == ' ' || *at == '\t'))
		at++, left--;
	return left == 0 || *at == ';';
}

/* "/service/method", both not empty and without a further slash in the method. */
static bool path_split(struct grpc_request_head *r)
{
	const char *slash;

	if (r->path == NULL || r->path_len < 4 || r->path[0] != '/')
		return false;
	slash = memrchr(r->path + 1, '/', r->path_len - 1);
	if (slash == NULL || slash == r->path + 1 || slash + 1 == r->path + r->path_len)
		return false;
	r->service = r->path + 1;
	r->service_len = (uint32_t)(slash - r->service);
	r->method = slash + 1;
	r->method_len = (uint32_t)(r->path + r->path_len - r->method);
	return true;
}

/* --- requests that are no gRPC ------------------------------------------------------------------
 */

#define PLAIN(status_, length_)                                                                    \
	{                                                                                          \
		HTTP2_HEADER(":status", status_), HTTP2_HEADER("content-type", "text/plain"),      \
			HTTP2_HEADER("content-length", length_)                                    \
	}

/* "/healthz", with whatever a prober asks of it. */
static bool path_is_healthz(const struct grpc_request_head *r)
{
	static const char path[] = "/healthz";
	size_t n = sizeof(path) - 1;

	return r->path != NULL && r->path_len >= n && memcmp(r->path, path, n) == 0 &&
	       (r->path_len == n || r->path[n] == '?');
}

static void answer_plain(struct grpc_call *call, const struct head *head, bool over)
{
	static const struct http2_header ok[] = PLAIN("200", "3");
	static const struct http2_header not_found[] = PLAIN("404", "10");
	static const struct http2_header unsupported[] = PLAIN("415", "37");
	static const struct http2_header too_large[] = PLAIN("431", "31");
	static const struct http2_header not_allowed[] = {
		HTTP2_HEADER(":status", "405"), HTTP2_HEADER("content-type", "text/plain"),
		HTTP2_HEADER("content-length", "19"), HTTP2_HEADER("allow", "GET, HEAD, POST")};
	const struct http2_header *m = head->method;
	bool is_head = m != NULL && TEXT_IS(m->value, m->value_len, "HEAD");
	bool is_get = is_head || (m != NULL && TEXT_IS(m->value, m->value_len, "GET"));
	/* CONNECT has no body, and what follows it never ends. */
	bool now = (call->flags & CALL_HALF_CLOSED) != 0 || over ||
		   (m != NULL && TEXT_IS(m->value, m->value_len, "CONNECT"));

	counter_inc(&call_server(call)->counters.http_requests);
	if (over)
		grpc_call_plain(call, too_large, ARRAY_LEN(too_large),
				"request header list too large.\n", now);
	else if (is_get && is_grpc(head->content_type))
		grpc_call_plain(call, not_allowed, ARRAY_LEN(not_allowed),
				is_head ? NULL : "method not allowed\n", now);
	else if (is_get && path_is_healthz(&head->request))
		grpc_call_plain(call, ok, ARRAY_LEN(ok), is_head ? NULL : "ok\n", now);
	else if (is_get)
		grpc_call_plain(call, not_found, ARRAY_LEN(not_found),
				is_head ? NULL : "not found\n", now);
	else if (m != NULL && TEXT_IS(m->value, m->value_len, "POST"))
		grpc_call_plain(call, unsupported, ARRAY_LEN(unsupported),
				"content-type must be application/grpc\n", now);
	else
		grpc_call_plain(call, not_allowed, ARRAY_LEN(not_allowed), "method not allowed\n",
				now);
}

/* --- gRPC
 * ------------------------------------------------------------------------------------------ */

/* What can be wrong before the backend is asked. True when the call was ended. */
static bool refused(struct grpc_call *call, struct head *head, unsigned flags)
{
	struct grpc_server *server = call_server(call);
	struct grpc_counters *c = &server->counters;

	if (unlikely((flags & HTTP2_HEADERS_OVER) || head->metadata_over)) {
		counter_inc(&c->rx_metadata_over);
		grpc_call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "metadata larger than the limit");
	} else if (unlikely(head->metadata_bad)) {
		counter_inc(&c->calls_malformed);
		grpc_call_refuse(call, GRPC_INTERNAL, "binary metadata is not base64");
	} else if (unlikely(!path_split(&head->request))) {
		counter_inc(&c->calls_unimplemented);
		grpc_call_refuse(call, GRPC_UNIMPLEMENTED, "malformed method path");
	} else if (unlikely(call->encoding_in == ENCODING_UNKNOWN)) {
		/* compression.md would have it by message; servers say so at once. */
		counter_inc(&c->calls_unimplemented);
		grpc_call_refuse(call, GRPC_UNIMPLEMENTED, "grpc-encoding is not supported");
	} else if (unlikely(server->calls_open >= server->config.calls_max) &&
		   !grpc_idle_give_way(call->conn)) {
		counter_inc(&c->calls_over);
		grpc_call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "too many calls");
	} else {
		return false;
	}
	return true;
}

/* False when the call was ended. */
static bool deadline_set(struct grpc_call *call, struct head *head)
{
	struct grpc_server *server = call_server(call);
	uint64_t now_ns = call->conn->now_ns;
	uint64_t timeout;

	call->deadline_ns = UINT64_MAX;
	if (head->timeout != NULL) {
		if (grpc_timeout_parse(head->timeout->value, head->timeout->value_len, &timeout) !=
		    0) {
			counter_inc(&server->counters.calls_malformed);
			grpc_call_refuse(call, GRPC_INTERNAL, "malformed grpc-timeout");
			return false;
		}
		if (server->config.timeout_max_ns != 0 && timeout > server->config.timeout_max_ns)
			timeout = server->config.timeout_max_ns;
		if (__builtin_add_overflow(now_ns, timeout, &call->deadline_ns))
			call->deadline_ns = UINT64_MAX;
	}
	head->request.deadline_ns = call->deadline_ns;
	if (call->deadline_ns <= now_ns) {
		counter_inc(&server->counters.calls_deadline);
		grpc_call_refuse(call, GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
		return false;
	}
	return true;
}

static void call_begin(struct grpc_call *call, struct head *head, bool end)
{
	struct grpc_server *server = call_server(call);
	struct grpc_accept accept = {.kind = GRPC_UNARY,
				     .compress = server->config.compress,
				     .backend = server->backend,
				     .ctx = server->ctx};
	int status = server->backend->open(server->ctx, call, &head->request, &accept);

	if (status != 0) {
		if (status < 0 || status > GRPC_STATUS_MAX)
			status = GRPC_INTERNAL;
		if (status == GRPC_UNIMPLEMENTED)
			counter_inc(&server->counters.calls_unimplemented);
		grpc_call_refuse(call, (enum grpc_status)status, accept.refusal);
		return;
	}
	counter_inc(&server->counters.calls);
	counter_set(&server->call_ns, call->conn->now_ns);
	server->calls_open++;
	call->conn->calls_n++;
	call->flags |= CALL_OPEN | (accept.wait ? CALL_PAUSED : 0);
	call->kind = (uint8_t)accept.kind;
	call->compress = (uint8_t)accept.compress;
	call->backend = accept.backend;
	call->ctx = accept.ctx;
	if (accept.user != NULL)
		call->user = accept.user;
	call->message_bytes_max = accept.message_bytes_max != 0 ? accept.message_bytes_max
								: server->config.message_bytes_max;
	if (call->deadline_ns == UINT64_MAX && accept.timeout_ns != 0 &&
	    __builtin_add_overflow(call->conn->now_ns, accept.timeout_ns, &call->deadline_ns))
		call->deadline_ns = UINT64_MAX;
	if (call->deadline_ns != UINT64_MAX)
		wheel_arm(server->wheel, &call->deadline, call->deadline_ns);
	if (end)
		grpc_on_end(call_stream(call));
	else
		grpc_idle_enter(call);
}

int grpc_on_headers(void *session_user, struct http2_stream *stream, const struct http2_header *h,
		    size_t n, unsigned flags)
{
	struct grpc_connection *conn = session_user;
	struct grpc_server *server = conn->server;
	struct grpc_call *call = http2_stream_user(stream);
	struct head head;
	bool over = (flags & HTTP2_HEADERS_OVER) != 0;

	memset(&head, 0, sizeof(head));
	head.request.metadata = server->metadata;
	call->conn = conn;
	counter_inc(&conn->stats->streams_started);
	counter_set(&conn->stats->stream_ns, conn->now_ns);
	wheel_timer_init(&call->deadline, grpc_deadline_fire);
	list_init(&call->writable_link);
	list_init(&call->idle_link);
	for (size_t i = 0; i < n; i++)
		head_field(server, &head, &h[i]);
	if (flags & HTTP2_HEADERS_END)
		call->flags |= CALL_HALF_CLOSED;
	if (unlikely(head.encoding != NULL))
		call->encoding_in = (uint8_t)grpc_encoding_named(head.encoding->value,
								 head.encoding->value_len);
	if (head.accept_encoding != NULL)
		call->encoding_out = (uint8_t)grpc_encoding_choose(head.accept_encoding->value,
								   head.accept_encoding->value_len);
	/* Of a list that was cut short the content type may be missing: then it may be gRPC. */
	if (unlikely(!is_grpc(head.content_type) && !(over && head.content_type == NULL))) {
		answer_plain(call, &head, over);
		return 0;
	}
	if (unlikely(head.method == NULL ||
		     !TEXT_IS(head.method->value, head.method->value_len, "POST"))) {
		answer_plain(call, &head, over);
		return 0;
	}
	if (refused(call, &head, flags) || !deadline_set(call, &head))
		return 0;
	call_begin(call, &head, (flags & HTTP2_HEADERS_END) != 0);
	return 0;
}
