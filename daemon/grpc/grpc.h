/* gRPC calls over HTTP/2 (gRPC's PROTOCOL-HTTP2), the server's side, above a backend.
 *
 * A worker makes one `grpc_server` and one `grpc_connection` for each accepted byte stream (TCP or
 * TLS). The server parses requests, frames messages, enforces limits and deadlines and calls a
 * backend; the backend answers through grpc_call_* / grpc_send_* / grpc_finish. All four kinds of
 * method have the same interface: several messages each way, half-close, status. Requests that are
 * no gRPC get a plain HTTP answer (200 for GET /healthz, else 404, 405 or 415).
 *
 * Threads: a server and everything made from it belong to one worker thread. No clock is read, no
 * system call made; memory comes from preallocated pools.
 *
 * Life of a call
 *
 * - backend.open: the head is parsed. Returns 0 to take the call, or a gRPC status to end it.
 *
 * - backend.reserve: the 5-byte prefix of a message was read. Room for its bytes, or SPLIT_AGAIN;
 *   then the call holds what comes (at most its stream window, which is withheld) until the backend
 *   calls grpc_call_room, and reserve is asked again.
 *
 * - backend.message: the room is filled. Kinds with a single request get it with last = true as
 *   soon as it is whole; what a client sends behind it is discarded (as by gRPC C++).
 *
 * - backend.half_close: the client has ended its messages (kinds with many requests).
 *
 * - grpc_send_metadata (optional), grpc_send_message (0..n), grpc_finish: in this order, inside an
 *   event or later. After grpc_finish only chain releases and closed follow.
 *
 * - backend.closed: exactly once for each call that open took, the last event. The call's pointer
 *   is dead on return; a room reserved and not yet given back by `message` is the backend's to
 *   free. Every chain was released before.
 *
 * Events come from inside grpc_connection_recv/_send/_destroy, grpc_call_room, grpc_call_pause and
 * the wheel's timers, never from inside grpc_send_* or grpc_finish.
 *
 * How a call ends at the client: by grpc_finish's status; else by this layer: DEADLINE_EXCEEDED
 * (grpc-timeout), RESOURCE_EXHAUSTED (limits), INTERNAL (broken framing or compression),
 * UNIMPLEMENTED (encoding).
 *
 * Compression (gzip and deflate, by zlib) is between this layer and the client: the backend gets
 * plain messages, in room of their plain size, and hands plain chains down. A compressed message is
 * kept until it is whole, within compress_memory, then inflated by quanta; what it holds is bounded
 * by the call's message_bytes_max before a byte of it is kept.
 */
#ifndef SPLITD_DAEMON_GRPC_GRPC_H
#define SPLITD_DAEMON_GRPC_GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/counter.h"
#include "base/error.h"
#include "daemon/http2/http2.h"

/* Status codes of gRPC (statuscodes.md). */
enum grpc_status {
	GRPC_OK = 0,
	GRPC_CANCELLED = 1,
	GRPC_UNKNOWN = 2,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_NOT_FOUND = 5,
	GRPC_ALREADY_EXISTS = 6,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_FAILED_PRECONDITION = 9,
	GRPC_ABORTED = 10,
	GRPC_OUT_OF_RANGE = 11,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
	GRPC_UNAVAILABLE = 14,
	GRPC_DATA_LOSS = 15,
	GRPC_UNAUTHENTICATED = 16,
};
#define GRPC_STATUS_MAX 16

/* "OK", "CANCELLED", ...; "UNKNOWN" for what is none. */
const char *grpc_status_name(unsigned status);
/* PROTOCOL-HTTP2, "Errors": the status that an RST_STREAM with this code stands for. */
enum grpc_status grpc_status_of_http2(uint32_t http2_error);

enum grpc_kind { GRPC_UNARY, GRPC_CLIENT_STREAMING, GRPC_SERVER_STREAMING, GRPC_BIDI };
static inline bool grpc_kind_many_requests(enum grpc_kind k)
{
	return k == GRPC_CLIENT_STREAMING || k == GRPC_BIDI;
}
static inline bool grpc_kind_many_replies(enum grpc_kind k)
{
	return k == GRPC_SERVER_STREAMING || k == GRPC_BIDI;
}

/* X(name, text). Single writer: the server's worker. */
#define GRPC_COUNTERS(X)                                                                           \
	X(calls, "calls handed to the backend")                                                    \
	X(calls_ok, "calls ended with status OK")                                                  \
	X(calls_failed, "calls ended with another status")                                         \
	X(calls_cancelled, "calls ended by the client's reset or lost connection")                 \
	X(calls_deadline, "calls ended by their deadline")                                         \
	X(calls_over, "calls refused: calls_max reached")                                          \
	X(calls_idle_cut, "calls ended: calls_max reached, and no message had come yet")           \
	X(calls_malformed, "calls refused or ended: broken header or framing")                     \
	X(calls_unimplemented, "calls refused: unknown method or encoding")                        \
	X(http_requests, "requests that are no gRPC, answered by plain HTTP")                      \
	X(rx_messages, "messages handed to the backend")                                           \
	X(rx_message_bytes, "bytes of these messages")                                             \
	X(rx_messages_over, "messages refused: over their size limit")                             \
	X(rx_messages_held, "messages that had to wait for room")                                  \
	X(rx_metadata_over, "calls refused: metadata over the limit")                              \
	X(hold_refused, "calls ended: no memory to hold waiting bytes")                            \
	X(tx_messages, "messages sent")                                                            \
	X(tx_message_bytes, "bytes of these messages")                                             \
	X(tx_blocked, "messages not taken: the call's send queue was full")                        \
	X(rx_compressed, "compressed messages received")                                           \
	X(rx_compressed_bytes, "bytes of these, as they came")                                     \
	X(rx_inflated_bytes, "bytes that they held")                                               \
	X(rx_inflate_errors, "calls ended: a compressed message is broken")                        \
	X(rx_inflate_bombs, "calls ended: a compressed message holds more than the limit")         \
	X(rx_compressed_waits, "compressed messages that waited for memory")                       \
	X(rx_compressed_slow, "calls ended: others waited for the memory of a message that came "  \
			      "too slowly")                                                        \
	X(tx_compressed, "messages sent compressed")                                               \
	X(tx_compressed_bytes, "bytes of these, as they went")                                     \
	X(tx_deflated_bytes, "bytes that they held")                                               \
	X(tx_not_smaller, "messages sent as they are: no smaller when compressed, or no memory")   \
	X(compress_yields, "times compression gave way to others and went on later")               \
	X(keepalive_pings, "PINGs sent to clients that said nothing for long")                     \
	X(keepalive_timeouts, "connections ended: a client did not answer such a PING")            \
	X(connections_aged, "connections told to go: their greatest age")                          \
	X(connections_idle, "connections told to go: without a call for long")                     \
	X(connections_cut, "connections ended: not gone within the grace")                         \
	X(connections, "connections opened")

COUNTER_DECLARE(grpc, GRPC_COUNTERS); /* struct grpc_counters, grpc_counter_desc */

/* When answers are compressed, for a client that takes it (gzip, else deflate). */
enum grpc_compress {
	GRPC_COMPRESS_ASKED,  /* when the handler asks (grpc_chain.compress) */
	GRPC_COMPRESS_ALWAYS, /* those of compress_bytes_min and more, too */
	GRPC_COMPRESS_NEVER,
};

struct grpc_config {
	uint32_t calls_max;         /* calls that the backend may hold at once on this worker; those
				     * without a message yet give way to connections with fewer */
	uint32_t message_bytes_max; /* received; a method may set its own (struct grpc_accept) */
	uint32_t metadata_bytes_max; /* of one request's custom metadata; also for trailers sent */
	uint32_t metadata_max;       /* entries, 1..1024 */
	uint64_t hold_bytes_max;     /* received bytes held for calls without room, whole worker; no
				      * connection has more of it than is free */
	uint32_t send_queue_bytes; /* of one call, past which grpc_send_message says SPLIT_AGAIN */
	uint64_t timeout_max_ns;   /* a longer grpc-timeout is cut to this; 0: no cut */
	int compress;              /* enum grpc_compress; a method may have its own */
	uint32_t compress_level;   /* zlib's, 1..9 */
	uint32_t compress_bytes_min;
	uint32_t compress_quantum; /* bytes of plain text that one grpc_server_run works on */
	uint64_t compress_memory;  /* compressed bytes kept at once, both ways, whole worker */
	/* Connections (grpc_life.c); 0: never, of the grace: none. */
	uint64_t age_max_ns, age_grace_ns;
	uint64_t idle_timeout_ns;
	uint64_t keepalive_ns, keepalive_timeout_ns;
	uint64_t upload_timeout_ns; /* while others wait for that memory, a compressed message must
				       be there by then, */
	uint64_t upload_rate_min;   /* its size at so many bytes a second added */
	struct http2_config http2;
};
void grpc_config_default(struct grpc_config *config, uint32_t connections_max);

/* One metadata entry. Received: the name is lower case without "-bin" decoding traces left: values
 * of "...-bin" names are decoded bytes. To be sent: the name as it goes on the wire, values of
 * "-bin" names are raw bytes. Not NUL-terminated. */
struct grpc_metadata {
	const char *name;
	const uint8_t *value;
	uint32_t name_len;
	uint32_t value_len;
};

/* What a request began with. Everything points into memory that is valid until open returns. */
struct grpc_request_head {
	const char *path; /* "/package.Service/Method" */
	const char *service;
	const char *method;
	const char *authority;
	uint32_t path_len, service_len, method_len, authority_len;
	uint64_t deadline_ns;                 /* on the clock of now_ns; UINT64_MAX: none */
	const struct grpc_metadata *metadata; /* custom ones, in order, "user-agent" among them */
	uint32_t metadata_count;
};

struct grpc_backend;

/* What open says about a call that it takes. What grpc_accept_default set may stay. */
struct grpc_accept {
	enum grpc_kind kind;
	uint32_t message_bytes_max; /* 0: the config's */
	uint64_t timeout_ns;        /* from now, when the client gave none; 0: no deadline then */
	int compress;               /* enum grpc_compress; at first the config's */
	/* The call is opened paused, of a kind that is not known yet: grpc_call_kind_set and
	 * grpc_call_pause(call, false) follow. Its deadline runs. */
	bool wait;
	void *user;          /* grpc_call_user */
	const char *refusal; /* grpc-message for a non-zero return; NULL: a plain text */
	/* Who gets all further events of the call; at first the server's. */
	const struct grpc_backend *backend;
	void *ctx;
};

/* Why a call closed. */
enum grpc_closed {
	GRPC_CLOSED_DONE,       /* grpc_finish's status was sent */
	GRPC_CLOSED_CANCELLED,  /* the client reset the stream */
	GRPC_CLOSED_CONNECTION, /* the connection ended */
	GRPC_CLOSED_DEADLINE,   /* DEADLINE_EXCEEDED was sent */
	GRPC_CLOSED_FAILED,     /* this layer ended it: broken framing or a limit */
};

struct grpc_call;
struct grpc_server;
struct grpc_connection;

/* The backend; `ctx` is the one given to grpc_server_create, or grpc_accept's. */
struct grpc_backend {
	/* 0: taken, `accept` is filled (its user may also be set later). Else a status from 1 to
	 * GRPC_STATUS_MAX (UNIMPLEMENTED for an unknown method): the call ends at once with it and
	 * closed is not called. No grpc_send_*, grpc_finish or grpc_call_* from inside open. */
	int (*open)(void *ctx, struct grpc_call *call, const struct grpc_request_head *head,
		    struct grpc_accept *accept);
	/* Room for one message of `bytes` (0 is possible: *buf_out may then be NULL). 0;
	 * SPLIT_AGAIN; or negative: the call ends with RESOURCE_EXHAUSTED. The buffer is written
	 * only until `message` or `closed`. */
	int (*reserve)(void *ctx, struct grpc_call *call, uint32_t bytes, uint8_t **buf_out);
	/* The message is whole; its room is the backend's again. `last`: the method takes a single
	 * request; half_close is then not called. */
	void (*message)(void *ctx, struct grpc_call *call, uint8_t *buf, uint32_t bytes, bool last);
	void (*half_close)(void *ctx, struct grpc_call *call);
	/* The send queue has room again after a grpc_send_message that said SPLIT_AGAIN. */
	void (*writable)(void *ctx, struct grpc_call *call);
	void (*closed)(void *ctx, struct grpc_call *call, enum grpc_closed why);
	/* A message of `bytes` (UINT64_MAX: not known) is larger than message_bytes_max and was not
	 * taken in; `closed` follows. NULL: nobody asks. */
	void (*oversize)(void *ctx, struct grpc_call *call, uint64_t bytes);
};

struct wheel;

/* Make a worker's server. `wheel` carries the deadlines: the caller advances it (base/wheel.h).
 * Both it and `backend` must outlive the server. 0, -SPLIT_E_BASE_NOMEM or -SPLIT_E_BASE_INVALID.
 */
int grpc_server_create(const struct grpc_config *config, const struct grpc_backend *backend,
		       void *ctx, struct wheel *wheel,
		       struct grpc_server **server_out) SPLIT_MUST_USE;
/* Take over, for calls and connections to come, what needs no memory of its own: message_bytes_max,
 * the times, compress but its level and memory, and what http2_engine_configure does. The rest of
 * `config` is not looked at. */
void grpc_server_configure(struct grpc_server *server, const struct grpc_config *config);
/* All its connections must be gone. NULL is fine. */
void grpc_server_destroy(struct grpc_server *server);
const struct grpc_counters *grpc_server_counters(const struct grpc_server *server);
const struct http2_counters *grpc_server_http2_counters(const struct grpc_server *server);
/* The engine's memory, for a backend's answers: as http2_engine_alloc. */
void *grpc_server_alloc(struct grpc_server *server, size_t bytes);
void grpc_server_free(struct grpc_server *server, void *p);
/* Calls that the backend holds (open taken, closed not yet called). */
unsigned grpc_server_calls(const struct grpc_server *server);
/* Go on with what was put off (compression), for one quantum. Once in each turn of the loop.
 * Returns how much there was to do; with 0 nothing is due. */
unsigned grpc_server_run(struct grpc_server *server, uint64_t now_ns);

/* A connection over some byte stream. `out`: see http2.h; out->wanted tells that an answer, made
 * outside of recv and send, waits for grpc_connection_send. `user` is kept for
 * grpc_connection_user. */
int grpc_connection_create(struct grpc_server *server, const struct http2_out *out, void *user,
			   struct grpc_connection **conn_out) SPLIT_MUST_USE;
/* Ends its calls (closed with GRPC_CLOSED_CONNECTION). NULL is fine. Not from inside an event. */
void grpc_connection_destroy(struct grpc_connection *conn);
void *grpc_connection_user(const struct grpc_connection *conn);
/* As http2_session_recv/_send/_want_send/_done. A fatal error: send once more, then close. */
int grpc_connection_recv(struct grpc_connection *conn, const uint8_t *p, size_t n,
			 uint64_t now_ns) SPLIT_MUST_USE;
int grpc_connection_send(struct grpc_connection *conn, size_t bytes_max) SPLIT_MUST_USE;
bool grpc_connection_want_send(const struct grpc_connection *conn);
/* As http2_session_check. */
bool grpc_connection_check(struct grpc_connection *conn, uint64_t now_ns);
bool grpc_connection_done(const struct grpc_connection *conn);
/* Open streams: with 0 after a graceful goaway the connection may be closed. */
unsigned grpc_connection_streams(const struct grpc_connection *conn);
/* Graceful: no new calls, running ones go on (GOAWAY in two steps). Else at once. */
void grpc_connection_goaway(struct grpc_connection *conn, bool graceful);

/* What one connection has done. Written by its worker, 8-byte words, each of which any thread may
 * read by counter_get. */
struct grpc_connection_stats {
	uint64_t streams_started, streams_succeeded, streams_failed;
	uint64_t messages_sent, messages_received, keepalives_sent;
	/* When the last of each began or came, on the clock of now_ns; 0: none has. */
	uint64_t stream_ns, sent_ns, received_ns;
};
/* Count there from now on: before the first recv, until grpc_connection_destroy has returned. */
void grpc_connection_count(struct grpc_connection *conn, struct grpc_connection_stats *stats);
/* When its last call began; 0: none has. Any thread. */
uint64_t grpc_server_call_ns(const struct grpc_server *server);

void *grpc_call_user(const struct grpc_call *call);
void grpc_call_user_set(struct grpc_call *call, void *user);
struct grpc_connection *grpc_call_connection(const struct grpc_call *call);
uint64_t grpc_call_deadline_ns(const struct grpc_call *call);
/* The kind of a call that was opened with grpc_accept.wait, before its pause ends. */
void grpc_call_kind_set(struct grpc_call *call, enum grpc_kind kind, uint32_t message_bytes_max);
/* Whether the message handed up came compressed. From inside `message` only. */
bool grpc_call_message_compressed(const struct grpc_call *call);
/* Bytes that have come of the message whose room is being filled. */
uint32_t grpc_call_received(const struct grpc_call *call);

/* For a backend that must see how a message begins before it knows where there is room for it. Both
 * from inside reserve. peek: copy up to `n` bytes of the message at hand that have come; how many.
 * peek_wait: reserve is going to say SPLIT_AGAIN and shall be asked again when `n` (at most what a
 * stream's first window holds, and the message has) are here. False: more than peek gives does not
 * come, for the message is compressed or the client has closed; reserve is then not asked again. */
size_t grpc_call_peek(const struct grpc_call *call, uint8_t *buf, size_t n);
bool grpc_call_peek_wait(struct grpc_call *call, uint32_t n) SPLIT_MUST_USE;

/* Room may be there again for a call whose reserve said SPLIT_AGAIN: reserve is asked again from
 * inside. Any event may come from inside, closed too. No effect on other calls. */
void grpc_call_room(struct grpc_call *call);

/* Flow control by message: with `paused` set no further message is read from the client (its bytes
 * are held and its window withheld) until it is cleared. Clearing acts like grpc_call_room. */
void grpc_call_pause(struct grpc_call *call, bool paused);

/* Initial metadata; at most once, before the first message. Copied. 0, -SPLIT_E_GRPC_METADATA (bad
 * name or value, over the limit, or too late). */
int grpc_send_metadata(struct grpc_call *call, const struct grpc_metadata *md,
		       size_t n) SPLIT_MUST_USE;

/* One message to send: encoded bytes in up to `iov_count` parts. The struct, the iovec array and
 * the bytes are lent to this layer until release(chain), which comes exactly once, as soon as the
 * bytes were copied to the output or the call ended; never from inside grpc_send_message. */
struct grpc_chain {
	struct grpc_chain *next; /* this layer's, while it is queued */
	const struct iovec *iov;
	uint32_t iov_count;
	uint32_t bytes; /* sum over iov */
	bool compress;  /* the handler asks for it; only done if the client takes it */
	uint8_t state;  /* this layer's: enum chain_state */
	void (*release)(struct grpc_chain *chain);
};
/* 0: taken. SPLIT_AGAIN: the send queue is full, the chain is not taken; backend.writable follows.
 * -SPLIT_E_GRPC_STATE: finished already, or a second reply of a single-reply kind. */
int grpc_send_message(struct grpc_call *call, struct grpc_chain *chain) SPLIT_MUST_USE;

struct grpc_result {
	uint32_t status;     /* 0..GRPC_STATUS_MAX; else sent as UNKNOWN */
	const char *message; /* UTF-8, any bytes; percent-encoded here; may be NULL */
	uint32_t message_len;
	const uint8_t *details; /* grpc-status-details-bin (a google.rpc.Status); may be NULL */
	uint32_t details_len;
	const struct grpc_metadata *trailers;
	uint32_t trailers_count;
};
/* End the call: queued messages go first, then status and trailers (trailers-only when nothing was
 * sent). Everything is copied. Trailers that are not valid or over the limit are left out, and the
 * status is then INTERNAL. A single-reply kind that ends OK without a reply ends INTERNAL.
 * No effect when the call was finished already. */
void grpc_finish(struct grpc_call *call, const struct grpc_result *result);

#endif
