/* What goes to the client, and the end of a call.
 *
 * Chains of a call queue up as they were given; HTTP/2 asks how many bytes are ready (body_next)
 * and then for the bytes themselves (body_copy), prefix and parts straight into the output.
 * Trailers are submitted when body_next reports the last byte, so they can never overtake a
 * message.
 *
 * A call may end from four sides: the backend's grpc_finish, this layer (grpc_call_abort), the
 * client's reset and the connection's loss (grpc_on_closed). The first two decide what the client
 * is told; the backend's `closed` comes exactly once, through call_detach.
 */
#include "daemon/grpc/grpc_internal.h"

#include <assert.h>
#include <string.h>

#include "base/status.h"

static const struct http2_header response_headers[] = {
	HTTP2_HEADER(":status", "200"),
	HTTP2_HEADER("content-type", "application/grpc"),
};

#define STATUS(text) HTTP2_HEADER("grpc-status", text)
static const struct http2_header status_headers[GRPC_STATUS_MAX + 1] = {
	STATUS("0"),  STATUS("1"),  STATUS("2"),  STATUS("3"),  STATUS("4"),  STATUS("5"),
	STATUS("6"),  STATUS("7"),  STATUS("8"),  STATUS("9"),  STATUS("10"), STATUS("11"),
	STATUS("12"), STATUS("13"), STATUS("14"), STATUS("15"), STATUS("16"),
};
static const struct http2_header accept_encoding =
	HTTP2_HEADER("grpc-accept-encoding", "identity, deflate, gzip");
static const struct http2_header response_encodings[] = {
	[ENCODING_DEFLATE] = HTTP2_HEADER("grpc-encoding", "deflate"),
	[ENCODING_GZIP] = HTTP2_HEADER("grpc-encoding", "gzip"),
};

/* Fixed fields of a trailers-only answer, and of response headers, at most. */
#define TRAILERS_ONLY_FIELDS 4
#define RESPONSE_FIELDS      3

_Static_assert(STATUS_NAMES == GRPC_STATUS_MAX + 1, "a name for each");

const char *grpc_status_name(unsigned status)
{
	return status_names[status <= GRPC_STATUS_MAX ? status : GRPC_UNKNOWN];
}

enum grpc_status grpc_status_of_http2(uint32_t error)
{
	switch (error) {
	case HTTP2_REFUSED_STREAM:
		return GRPC_UNAVAILABLE;
	case HTTP2_CANCEL:
		return GRPC_CANCELLED;
	case HTTP2_ENHANCE_YOUR_CALM:
		return GRPC_RESOURCE_EXHAUSTED;
	case HTTP2_INADEQUATE_SECURITY:
		return GRPC_PERMISSION_DENIED;
	default:
		return GRPC_INTERNAL;
	}
}

/* --- the queue of chains
 * --------------------------------------------------------------------------- */

static void chains_release(struct grpc_call *call)
{
	struct grpc_chain *next;

	for (struct grpc_chain *chain = call->out_first; chain != NULL; chain = next) {
		next = chain->next;
		chain->release(chain);
	}
	call->out_first = NULL;
	call->out_last = NULL;
	call->out_queued = 0;
	call->out_ready = 0;
	call->out_prefix = 0;
	call->out_iov = 0;
	call->out_offset = 0;
}

static void chain_sent(struct grpc_call *call)
{
	struct grpc_chain *chain = call->out_first;

	call->out_first = chain->next;
	if (call->out_first == NULL)
		call->out_last = NULL;
	call->out_prefix = 0;
	call->out_iov = 0;
	call->out_offset = 0;
	chain->release(chain);
}

/* Bytes of the first chain that are sent already, its prefix included. */
static uint64_t chain_sent_bytes(const struct grpc_call *call)
{
	uint64_t sent = call->out_prefix + call->out_offset;

	for (uint32_t i = 0; i < call->out_iov; i++)
		sent += call->out_first->iov[i].iov_len;
	return sent;
}

/* Copy up to `n` bytes of the first chain; releases it when that was the last. */
static size_t chain_copy(struct grpc_call *call, uint8_t *dst, size_t n)
{
	struct grpc_chain *chain = call->out_first;
	size_t done = 0;

	if (call->out_prefix < GRPC_PREFIX_BYTES) {
		uint8_t prefix[GRPC_PREFIX_BYTES];
		size_t part = GRPC_PREFIX_BYTES - call->out_prefix;

		prefix[0] = chain->state == CHAIN_COMPRESSED;
		be32_store(prefix + 1, chain->bytes);
		part = part < n ? part : n;
		memcpy(dst, prefix + call->out_prefix, part);
		call->out_prefix += (uint32_t)part;
		done = part;
	}
	while (done < n && call->out_iov < chain->iov_count) {
		const struct iovec *iov = &chain->iov[call->out_iov];
		size_t part = iov->iov_len - call->out_offset;

		part = part < n - done ? part : n - done;
		memcpy(dst + done, (const uint8_t *)iov->iov_base + call->out_offset, part);
		done += part;
		call->out_offset += part;
		if (call->out_offset == iov->iov_len) {
			call->out_iov++;
			call->out_offset = 0;
		}
	}
	/* Empty parts at the end must not keep the chain. */
	while (call->out_iov < chain->iov_count && chain->iov[call->out_iov].iov_len == 0)
		call->out_iov++;
	if (call->out_prefix == GRPC_PREFIX_BYTES && call->out_iov == chain->iov_count)
		chain_sent(call);
	return done;
}

/* --- answers
 * ---------------------------------------------------------------------------------------- */

/* The backend's hold of the call ends. */
static void call_detach(struct grpc_call *call, enum grpc_closed why)
{
	struct grpc_server *server = call_server(call);

	if (!(call->flags & CALL_OPEN))
		return;
	call->flags &= ~(uint32_t)(CALL_OPEN | CALL_BLOCKED);
	list_del(&call->writable_link);
	wheel_cancel(server->wheel, &call->deadline);
	grpc_hold_drop(call);
	grpc_inflate_drop(call);
	grpc_idle_leave(call);
	call->conn->calls_n--;
	server->calls_open--;
	if (why == GRPC_CLOSED_CANCELLED || why == GRPC_CLOSED_CONNECTION)
		counter_inc(&server->counters.calls_cancelled);
	else if (why == GRPC_CLOSED_DEADLINE)
		counter_inc(&server->counters.calls_deadline);
	call->backend->closed(call->ctx, call, why);
}

static void count_status(struct grpc_server *server, unsigned status)
{
	counter_inc(status == GRPC_OK ? &server->counters.calls_ok
				      : &server->counters.calls_failed);
}

/* Whether a message is to be compressed, as far as we and the handler are concerned. */
static bool compress_wanted(const struct grpc_call *call, const struct grpc_chain *chain)
{
	if (likely(call->encoding_out == ENCODING_IDENTITY ||
		   call->compress == GRPC_COMPRESS_NEVER || chain->bytes == 0))
		return false;
	return chain->compress || (call->compress == GRPC_COMPRESS_ALWAYS &&
				   chain->bytes >= call_server(call)->config.compress_bytes_min);
}

/* Response headers with a body to follow; with grpc-encoding when `chain`, the first message, is to
 * be compressed, or, not knowing it or what comes behind it, when one may be. */
static void response_fields(struct grpc_call *call, const struct grpc_chain *chain,
			    struct http2_header h[RESPONSE_FIELDS], size_t *n_out)
{
	bool encodes =
		call->encoding_out != ENCODING_IDENTITY && call->compress != GRPC_COMPRESS_NEVER;

	if (chain != NULL && !grpc_kind_many_replies((enum grpc_kind)call->kind))
		encodes = compress_wanted(call, chain);
	memcpy(h, response_headers, sizeof(response_headers));
	*n_out = ARRAY_LEN(response_headers);
	if (encodes) {
		h[(*n_out)++] = response_encodings[call->encoding_out];
		call->flags |= CALL_ENCODES;
	}
}

static void call_respond(struct grpc_call *call, const struct grpc_chain *chain)
{
	struct block *b = call->initial;
	struct http2_header h[RESPONSE_FIELDS];
	size_t n;
	int rc;

	call->flags |= CALL_RESPONDED;
	if (unlikely(b == NULL && call->encoding_out != ENCODING_IDENTITY)) {
		response_fields(call, chain, h, &n);
		rc = http2_stream_respond(call_stream(call), h, n, true);
	} else if (likely(b == NULL))
		rc = http2_stream_respond(call_stream(call), response_headers,
					  ARRAY_LEN(response_headers), true);
	else
		rc = http2_stream_respond(call_stream(call), b->h, b->count, true);
	/* Out of memory: the stream was reset, and `closed` will follow. */
	if (unlikely(rc != 0))
		call->flags |= CALL_ENDED | CALL_DISCARD;
}

/* Status and what goes with it, when nothing was sent before. */
static void call_trailers_only(struct grpc_call *call, unsigned status,
			       const struct grpc_result *result)
{
	struct http2_header fixed[TRAILERS_ONLY_FIELDS];
	size_t n = ARRAY_LEN(response_headers);
	int rc;

	memcpy(fixed, response_headers, sizeof(response_headers));
	fixed[n++] = status_headers[status];
	if (status == GRPC_UNIMPLEMENTED)
		fixed[n++] = accept_encoding;
	call->flags |= CALL_RESPONDED | CALL_ENDED;
	call->trailers = grpc_block_render(call_server(call), fixed, n, result, result->trailers,
					   result->trailers_count);
	if (call->trailers != NULL)
		rc = http2_stream_respond(call_stream(call), call->trailers->h,
					  call->trailers->count, false);
	else
		rc = http2_stream_respond(call_stream(call), fixed, n, false);
	if (rc != 0)
		call->flags |= CALL_DISCARD;
}

/* Status and what goes with it, behind the messages: kept until body_next reports the end. */
static void call_trailers_later(struct grpc_call *call, unsigned status,
				const struct grpc_result *result)
{
	call->status = (uint8_t)status;
	if (result->message != NULL || result->details != NULL || result->trailers_count > 0)
		call->trailers =
			grpc_block_render(call_server(call), &status_headers[status], 1, result,
					  result->trailers, result->trailers_count);
	http2_stream_resume(call_stream(call));
}

void grpc_call_refuse(struct grpc_call *call, enum grpc_status status, const char *text)
{
	const char *message = text != NULL ? text : grpc_status_name(status);
	struct grpc_result result = {
		.status = status, .message = message, .message_len = (uint32_t)strlen(message)};

	count_status(call_server(call), status);
	call->status = (uint8_t)status;
	call->flags |= CALL_FINISHED | CALL_DISCARD;
	call_trailers_only(call, status, &result);
}

/* ---- requests that are no gRPC --------------------------------------------------------------- */

/* Such a request is answered when it is whole: an answer at its head would end the stream, and what
 * is wrong with its body could not be said any more. But not for ever. */
#define PLAIN_BODY_MAX (64u * 1024u)
#define PLAIN_WAIT_NS  (UINT64_C(10) * 1000000000u)

static void plain_answer(struct grpc_call *call)
{
	if (call->flags & CALL_RESPONDED)
		return;
	call->flags |= CALL_RESPONDED;
	wheel_cancel(call_server(call)->wheel, &call->deadline);
	if (http2_stream_respond(call_stream(call), call->plain_h, call->plain_n,
				 call->plain != NULL) != 0)
		call->flags |= CALL_ENDED;
}

void grpc_call_plain(struct grpc_call *call, const struct http2_header *h, size_t n,
		     const char *body, bool now)
{
	call->flags |= CALL_PLAIN | CALL_FINISHED | CALL_DISCARD;
	call->plain = body;
	call->plain_len = body != NULL ? (uint32_t)strlen(body) : 0;
	call->plain_h = h;
	call->plain_n = (uint32_t)n;
	if (now)
		plain_answer(call);
	else
		wheel_arm(call_server(call)->wheel, &call->deadline,
			  call->conn->now_ns + PLAIN_WAIT_NS);
}

void grpc_plain_data(struct grpc_call *call, size_t n)
{
	call->message_done += n < PLAIN_BODY_MAX ? (uint32_t)n : PLAIN_BODY_MAX;
	if (call->message_done >= PLAIN_BODY_MAX) {
		call->message_done = PLAIN_BODY_MAX;
		plain_answer(call);
	}
}

void grpc_plain_end(struct grpc_call *call)
{
	plain_answer(call);
}

/* --- the backend's calls
 * -------------------------------------------------------------------------- */

void *grpc_call_user(const struct grpc_call *call)
{
	return call->user;
}

void grpc_call_user_set(struct grpc_call *call, void *user)
{
	call->user = user;
}

struct grpc_connection *grpc_call_connection(const struct grpc_call *call)
{
	return call->conn;
}

uint64_t grpc_call_deadline_ns(const struct grpc_call *call)
{
	return call->deadline_ns;
}

void grpc_call_kind_set(struct grpc_call *call, enum grpc_kind kind, uint32_t message_bytes_max)
{
	call->kind = (uint8_t)kind;
	if (message_bytes_max != 0)
		call->message_bytes_max = message_bytes_max;
}

bool grpc_call_message_compressed(const struct grpc_call *call)
{
	return (call->flags & CALL_COMPRESSED) != 0;
}

uint32_t grpc_call_received(const struct grpc_call *call)
{
	return call->flags & CALL_IN_MESSAGE ? call->message_done : 0;
}

int grpc_send_metadata(struct grpc_call *call, const struct grpc_metadata *md, size_t n)
{
	if (call->flags & (CALL_RESPONDED | CALL_FINISHED | CALL_ABORT))
		return -SPLIT_E_GRPC_METADATA;
	if (n > 0) {
		struct http2_header h[RESPONSE_FIELDS];
		size_t fixed;

		response_fields(call, NULL, h, &fixed);
		call->initial = grpc_block_render(call_server(call), h, fixed, NULL, md, n);
		if (call->initial == NULL)
			return -SPLIT_E_GRPC_METADATA;
	}
	call_respond(call, NULL);
	return 0;
}

int grpc_send_message(struct grpc_call *call, struct grpc_chain *chain)
{
	struct grpc_server *server = call_server(call);

	if (unlikely((call->flags & (CALL_FINISHED | CALL_ENDED | CALL_ABORT)) ||
		     (call->messages_out > 0 &&
		      !grpc_kind_many_replies((enum grpc_kind)call->kind))))
		return -SPLIT_E_GRPC_STATE;
	if (unlikely(call->out_queued > 0 &&
		     call->out_queued + chain->bytes > server->config.send_queue_bytes)) {
		counter_inc(&server->counters.tx_blocked);
		call->flags |= CALL_BLOCKED;
		return SPLIT_AGAIN;
	}
	counter_inc(&server->counters.tx_messages);
	counter_add(&server->counters.tx_message_bytes, chain->bytes);
	call->messages_out++;
	counter_inc(&call->conn->stats->messages_sent);
	counter_set(&call->conn->stats->sent_ns, server->now_ns);
	if (!(call->flags & CALL_RESPONDED))
		call_respond(call, chain);
	chain->state = CHAIN_PLAIN;
	if (unlikely(call->flags & CALL_ENCODES) && compress_wanted(call, chain)) {
		struct grpc_chain *packed = grpc_deflate(call, chain);

		chain = packed != NULL ? packed : chain;
	}
	chain->next = NULL;
	if (call->out_last == NULL)
		call->out_first = chain;
	else
		call->out_last->next = chain;
	call->out_last = chain;
	if (likely(call->out_ready == call->out_queued && chain->state != CHAIN_PENDING)) {
		call->out_ready += (uint64_t)chain->bytes + GRPC_PREFIX_BYTES;
		http2_stream_resume(call_stream(call));
	}
	call->out_queued += (uint64_t)chain->bytes + GRPC_PREFIX_BYTES;
	return 0;
}

void grpc_chain_settled(struct grpc_call *call, struct grpc_chain *chain, uint32_t counted)
{
	struct grpc_chain *at = call->out_first;
	uint64_t ready = 0;

	call->out_queued = call->out_queued - counted + chain->bytes;
	/* Of the first, some may be sent. */
	for (; at != NULL && at->state != CHAIN_PENDING; at = at->next)
		ready += (uint64_t)at->bytes + GRPC_PREFIX_BYTES;
	if (call->out_first != NULL && call->out_first->state != CHAIN_PENDING)
		ready -= chain_sent_bytes(call);
	call->out_ready = ready;
	http2_stream_resume(call_stream(call));
}

static bool result_sendable(const struct grpc_server *server, const struct grpc_result *result)
{
	uint64_t bytes = result->details != NULL ? grpc_base64_bytes(result->details_len) : 0;

	for (uint32_t i = 0; i < result->trailers_count; i++) {
		const struct grpc_metadata *md = &result->trailers[i];

		if (!grpc_metadata_valid(md))
			return false;
		bytes += 32 + (uint64_t)md->name_len + (uint64_t)md->value_len * 4 / 3;
	}
	return result->trailers_count <= server->config.metadata_max &&
	       bytes <= server->config.metadata_bytes_max;
}

void grpc_finish(struct grpc_call *call, const struct grpc_result *result)
{
	struct grpc_server *server = call_server(call);
	struct grpc_result checked = *result;
	static const char unsendable[] = "trailers that cannot be sent";
	static const char no_reply[] = "the method ended without a reply";

	if (call->flags & (CALL_FINISHED | CALL_ENDED | CALL_ABORT))
		return;
	if (checked.status > GRPC_STATUS_MAX)
		checked.status = GRPC_UNKNOWN;
	if (unlikely((checked.trailers_count > 0 || checked.details != NULL) &&
		     !result_sendable(server, &checked)))
		checked = (struct grpc_result){.status = GRPC_INTERNAL,
					       .message = unsendable,
					       .message_len = sizeof(unsendable) - 1};
	if (unlikely(checked.status == GRPC_OK && call->messages_out == 0 &&
		     !grpc_kind_many_replies((enum grpc_kind)call->kind)))
		checked = (struct grpc_result){.status = GRPC_INTERNAL,
					       .message = no_reply,
					       .message_len = sizeof(no_reply) - 1};
	count_status(server, checked.status);
	call->flags |= CALL_FINISHED;
	grpc_hold_drop(call);
	grpc_inflate_drop(call);
	call->status = (uint8_t)checked.status;
	if (!(call->flags & CALL_RESPONDED)) {
		if (checked.status != GRPC_OK) {
			call_trailers_only(call, checked.status, &checked);
			return;
		}
		call_respond(call, NULL);
	}
	call_trailers_later(call, checked.status, &checked);
}

/* --- ends from this layer
 * ------------------------------------------------------------------------- */

static void abort_now(struct grpc_call *call, const char *text)
{
	struct grpc_result result = {
		.status = call->status, .message = text, .message_len = (uint32_t)strlen(text)};

	chains_release(call);
	call->flags = (call->flags | CALL_FINISHED | CALL_DISCARD) & ~(uint32_t)CALL_ABORT;
	http2_engine_free(call_server(call)->engine, call->trailers);
	call->trailers = NULL;
	count_status(call_server(call), call->status);
	if (!(call->flags & CALL_RESPONDED))
		call_trailers_only(call, call->status, &result);
	else
		call_trailers_later(call, call->status, &result);
	call_detach(call, (enum grpc_closed)call->why);
}

static const char *abort_text(const struct grpc_call *call)
{
	return call->why == GRPC_CLOSED_DEADLINE ? "deadline exceeded" : "call ended by the server";
}

void grpc_call_abort(struct grpc_call *call, enum grpc_status status, const char *text,
		     enum grpc_closed why)
{
	if (call->flags & (CALL_ENDED | CALL_ABORT))
		return;
	call->status = (uint8_t)status;
	call->why = (uint8_t)why;
	call->flags |= CALL_DISCARD;
	/* Bytes promised to a frame that is half out must be the message's: zeros would be taken
	 * for data. grpc_on_body_copy goes on here. */
	if (call->out_promised > 0) {
		call->flags |= CALL_ABORT;
		return;
	}
	abort_now(call, text);
}

void grpc_deadline_fire(struct wheel_timer *timer, uint64_t now_ns)
{
	struct grpc_call *call = container_of(timer, struct grpc_call, deadline);

	(void)now_ns;
	if (call->flags & CALL_PLAIN) {
		plain_answer(call);
		return;
	}
	grpc_call_abort(call, GRPC_DEADLINE_EXCEEDED, "deadline exceeded", GRPC_CLOSED_DEADLINE);
}

/* --- HTTP/2 asks
 * ----------------------------------------------------------------------------------- */

static size_t plain_next(struct grpc_call *call, size_t max, bool *eof_out)
{
	size_t n = call->plain_len < max ? call->plain_len : max;

	*eof_out = n == call->plain_len;
	return n;
}

static void trailers_submit(struct grpc_call *call)
{
	const struct http2_header *h = &status_headers[call->status];
	size_t n = 1;

	if (call->trailers != NULL) {
		h = call->trailers->h;
		n = call->trailers->count;
	}
	call->flags |= CALL_ENDED;
	/* Out of memory: the stream was reset. */
	if (http2_stream_trailers(call_stream(call), h, n) != 0)
		call->flags |= CALL_DISCARD;
}

size_t grpc_on_body_next(struct http2_stream *stream, size_t max, bool *eof_out)
{
	struct grpc_call *call = http2_stream_user(stream);
	size_t n;

	if (unlikely(call->flags & CALL_PLAIN))
		return plain_next(call, max, eof_out);
	n = call->out_ready < max ? (size_t)call->out_ready : max;
	call->out_promised = (uint32_t)n;
	if ((call->flags & CALL_FINISHED) && n == call->out_queued) {
		*eof_out = true;
		trailers_submit(call);
	}
	return n;
}

void grpc_on_body_copy(struct http2_stream *stream, uint8_t *dst, size_t n)
{
	struct grpc_call *call = http2_stream_user(stream);

	if (unlikely(call->flags & CALL_PLAIN)) {
		memcpy(dst, call->plain, n);
		call->plain += n;
		call->plain_len -= (uint32_t)n;
		return;
	}
	assert(n <= call->out_promised && n <= call->out_ready);
	call->out_queued -= n;
	call->out_ready -= n;
	call->out_promised -= (uint32_t)n;
	for (size_t done = 0; done < n;)
		done += chain_copy(call, dst + done, n - done);
	if (unlikely(call->flags & (CALL_BLOCKED | CALL_ABORT)) && call->out_promised == 0) {
		if (call->flags & CALL_ABORT)
			abort_now(call, abort_text(call));
		else if (list_empty(&call->writable_link))
			list_add_tail(&call->conn->writable, &call->writable_link);
	}
}

static enum grpc_closed closed_why(const struct grpc_call *call, uint32_t error_code, bool by_peer)
{
	if ((call->flags & CALL_ENDED) && call->out_queued == 0 && !(call->flags & CALL_DISCARD))
		return GRPC_CLOSED_DONE;
	if (call->conn->destroying)
		return GRPC_CLOSED_CONNECTION;
	if (call->flags & CALL_ABORT)
		return (enum grpc_closed)call->why;
	if (by_peer)
		return GRPC_CLOSED_CANCELLED;
	return error_code == HTTP2_NO_ERROR ? GRPC_CLOSED_DONE : GRPC_CLOSED_FAILED;
}

void grpc_on_closed(struct http2_stream *stream, uint32_t error_code, bool by_peer)
{
	struct grpc_call *call = http2_stream_user(stream);
	struct grpc_server *server = call_server(call);
	enum grpc_closed why = closed_why(call, error_code, by_peer);

	if (error_code == HTTP2_NO_ERROR && !by_peer)
		counter_inc(&call->conn->stats->streams_succeeded);
	else
		counter_inc(&call->conn->stats->streams_failed);

	chains_release(call);
	wheel_cancel(server->wheel, &call->deadline);
	call->flags |= CALL_FINISHED | CALL_DISCARD | CALL_ENDED;
	call_detach(call, why);
	http2_engine_free(server->engine, call->initial);
	http2_engine_free(server->engine, call->trailers);
}
