/* HTTP/2 server sessions (RFC 9113): bytes in, streams of headers and body out, and back.
 *
 * One engine stands behind this header today (nghttp2); no type of it leaves the folder. h2c with
 * prior knowledge and h2 over TLS look the same here: the session sees bytes only. It makes no
 * system call, reads no clock, and takes memory only from the engine's preallocated pools.
 *
 * Threads: an engine and everything made from it belong to one worker thread. Two engines share
 * nothing.
 *
 * Call protocol
 *   engine  http2_engine_create, one for each worker; destroyed after all its sessions.
 *   session http2_session_create when a connection is accepted. Bytes from the peer go to
 *           http2_session_recv, which calls the events. Then, and whenever `out.wanted` was called,
 *           http2_session_send writes what is due into the caller's buffers.
 *           When http2_session_done says so (or recv/send return a fatal error) the caller calls
 *           http2_session_send once more, closes the connection gently and destroys the session.
 *   stream  begins with events.headers and ends with events.closed, exactly one of each. Between
 *           them the layer above may call the http2_stream_* functions, also from inside an event,
 *           except http2_session_recv/_send/_destroy, which must not be re-entered.
 *
 * Flow control: the connection window is always replenished at once, so that one stream that waits
 * never stops the others. A stream's window is withheld: it grows again only by what the layer
 * above gives back with http2_stream_consume. A peer can therefore make the layer above hold at
 * most `window_stream` bytes for each stream.
 *
 * Output: encoded bytes are written straight into buffers that `struct http2_out` lends; a body
 * byte is copied once, by events.body_copy. When the lender has no more room, sending stops
 * anywhere, also inside a frame, and goes on there at the next http2_session_send.
 *
 * Bounds: streams, header bytes and count, memory of a session and of the engine, and frames that
 * cost us more than they cost the peer (resets, pings, settings, empty frames, window updates:
 * RFC 9113 s10.5) are limited by struct http2_config; each limit has a counter.
 */
#ifndef SPLITD_DAEMON_HTTP2_HTTP2_H
#define SPLITD_DAEMON_HTTP2_HTTP2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/counter.h"
#include "base/error.h"

/* RFC 9113 s7. */
enum http2_error {
	HTTP2_NO_ERROR = 0x0,
	HTTP2_PROTOCOL_ERROR = 0x1,
	HTTP2_INTERNAL_ERROR = 0x2,
	HTTP2_FLOW_CONTROL_ERROR = 0x3,
	HTTP2_SETTINGS_TIMEOUT = 0x4,
	HTTP2_STREAM_CLOSED = 0x5,
	HTTP2_FRAME_SIZE_ERROR = 0x6,
	HTTP2_REFUSED_STREAM = 0x7,
	HTTP2_CANCEL = 0x8,
	HTTP2_COMPRESSION_ERROR = 0x9,
	HTTP2_CONNECT_ERROR = 0xa,
	HTTP2_ENHANCE_YOUR_CALM = 0xb,
	HTTP2_INADEQUATE_SECURITY = 0xc,
	HTTP2_HTTP_1_1_REQUIRED = 0xd,
};

/* X(name, text). Single writer: the engine's worker. */
#define HTTP2_COUNTERS(X)                                                                          \
	X(sessions, "sessions created")                                                            \
	X(sessions_refused, "sessions refused: no memory in the pool")                             \
	X(sessions_failed, "sessions ended by a connection error")                                 \
	X(streams, "streams opened by peers")                                                      \
	X(streams_refused, "streams refused: stream pool empty")                                   \
	X(rx_bytes, "bytes received")                                                              \
	X(rx_data_bytes, "body bytes received")                                                    \
	X(rx_resets, "RST_STREAM received")                                                        \
	X(rx_goaways, "GOAWAY received")                                                           \
	X(rx_malformed, "invalid frames or messages received")                                     \
	X(tx_bytes, "bytes sent")                                                                  \
	X(tx_data_bytes, "body bytes sent")                                                        \
	X(tx_resets, "RST_STREAM sent")                                                            \
	X(tx_goaways, "GOAWAY sent")                                                               \
	X(tx_blocked, "sends that stopped for want of room")                                       \
	X(headers_over, "header lists over the limit of bytes or fields")                          \
	X(headers_bombs, "header lists over four times the limit: connection ended")               \
	X(ping_strikes, "connections ended: PINGs came faster than gRPC allows (too_many_pings)")  \
	X(tx_pings, "PINGs sent to see whether the peer lives")                                    \
	X(windows_grown, "times a connection's windows were widened by what was measured")         \
	X(flood_resets, "connections ended: too many resets")                                      \
	X(flood_pings, "connections ended: too many PINGs")                                        \
	X(flood_settings, "connections ended: too many SETTINGS")                                  \
	X(flood_empty, "connections ended: too many frames without effect")                        \
	X(flood_windows, "connections ended: too many WINDOW_UPDATEs")                             \
	X(frames_slow, "connections ended: a frame or header list took too long to come")          \
	X(memory_refused, "allocations refused by a memory limit")

COUNTER_DECLARE(http2, HTTP2_COUNTERS); /* struct http2_counters, http2_counter_desc */

/* A budget of frames that a peer may send for nothing: `burst` at once, refilled by `per_second`.
 * Useful work earns some back: a whole request earns a reset, sent data earns window updates. */
struct http2_budget {
	uint32_t burst;
	uint32_t per_second;
};

struct http2_config {
	uint32_t sessions_max;       /* sessions of this engine: sizes its pools */
	uint32_t streams_max;        /* SETTINGS_MAX_CONCURRENT_STREAMS, 1..65535 */
	uint32_t streams_total;      /* stream objects of this engine, over all sessions */
	uint32_t stream_user_bytes;  /* room behind each stream for the layer above */
	uint32_t window_stream;      /* SETTINGS_INITIAL_WINDOW_SIZE, 1..2^31-1 */
	uint32_t window_connection;  /* 65535..2^31-1 */
	uint32_t frame_bytes_max;    /* SETTINGS_MAX_FRAME_SIZE, 16384..2^24-1 */
	uint32_t header_bytes_max;   /* SETTINGS_MAX_HEADER_LIST_SIZE, counted as RFC 9113 s6.5.2 */
	uint32_t headers_max;        /* fields in one header list, 8..1024 */
	uint32_t header_table_bytes; /* SETTINGS_HEADER_TABLE_SIZE and our encoder's bound */
	uint64_t memory_bytes;       /* all of the engine's memory for sessions, preallocated */
	uint64_t session_bytes_max;  /* of that, for one session */
	uint64_t frame_timeout_ns;   /* see http2_session_check; 0: none */
	/* How far the windows may grow by what is measured (http2_ping.c); at most window_*: fixed
	 */
	uint32_t window_stream_max;
	uint32_t window_connection_max;
	/* PINGs of the peer that come faster are strikes; so many are borne. 0: no such rule */
	uint64_t ping_interval_min_ns;
	uint32_t ping_strikes_max;
	bool pings_without_streams; /* else two hours count while no stream is open */
	struct http2_budget resets, pings, settings, empty, windows;
};

/* Defaults for everything; `sessions_max` sessions. */
void http2_config_default(struct http2_config *config, uint32_t sessions_max);

/* One header field. Received: names are lower case and, like values, NUL-terminated behind their
 * length; they live until the event returns. Sent: names must be lower case. With
 * HTTP2_STATIC the strings must stay until the stream's closed event (or for ever); without it
 * they are copied. HTTP2_NEVER_INDEX keeps a secret out of compression (RFC 7541 s7.1.3). */
enum { HTTP2_NEVER_INDEX = 0x01, HTTP2_STATIC = 0x06 };
struct http2_header {
	const char *name;
	const char *value;
	size_t name_len;
	size_t value_len;
	uint8_t flags;
};
#define HTTP2_HEADER(n, v)                                                                         \
	{                                                                                          \
		(n), (v), sizeof(n) - 1, sizeof(v) - 1, HTTP2_STATIC                               \
	}

/* Where encoded bytes go.
 * reserve: lends at least 1 byte of room, best `wanted`; 0, or SPLIT_AGAIN when there is none now
 *   (the caller then calls http2_session_send again once there is). Room not committed is
 *   forgotten at the next reserve.
 * commit: the first `bytes` of the room last lent are the next bytes of the connection.
 * wanted: output became due outside of recv and send (an answer, a window update). Called once
 *   until the next http2_session_send. May be NULL. */
struct http2_out {
	int (*reserve)(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out);
	void (*commit)(void *ctx, size_t bytes);
	void (*wanted)(void *ctx);
	void *ctx;
};

struct http2_engine;
struct http2_session;
struct http2_stream;

/* Flags of events.headers. */
enum {
	HTTP2_HEADERS_END = 0x1,  /* the request has no body */
	HTTP2_HEADERS_OVER = 0x2, /* over header_bytes_max or headers_max: the list is cut short */
};

/* Calls up. `session_user` is the one given at creation; http2_stream_user gives the stream's. */
struct http2_events {
	/* A request's header list is complete and well-formed (RFC 9113 s8.3.1 was checked; values
	 * may have space around them, which gRPC lets its clients send). The stream exists from
	 * here on, its user room zeroed. Non-zero return: reset with INTERNAL_ERROR. */
	int (*headers)(void *session_user, struct http2_stream *stream,
		       const struct http2_header *h, size_t n, unsigned flags);
	/* Body bytes, in order, valid until return. The layer above owes http2_stream_consume for
	 * them. */
	void (*data)(struct http2_stream *stream, const uint8_t *p, size_t n);
	/* The peer has half-closed: no more data. Not called with HTTP2_HEADERS_END. */
	void (*end)(struct http2_stream *stream);
	/* The next bytes of the answer's body: how many, up to `max`, are ready (0: none yet, call
	 * http2_stream_resume later); *eof_out says that the body ends with them. With *eof_out the
	 * callee may have called http2_stream_trailers from inside; then the trailers follow, else
	 * the stream is ended here. A promise: body_copy is then called for just so many. */
	size_t (*body_next)(struct http2_stream *stream, size_t max, bool *eof_out);
	/* Write the next `n` bytes of the body to `dst`. May be called several times for one
	 * body_next, also in a later http2_session_send. */
	void (*body_copy)(struct http2_stream *stream, uint8_t *dst, size_t n);
	/* The last event: the stream is gone on return. `error_code` is RFC 9113 s7's; NO_ERROR for
	 * a whole exchange. `by_peer`: the peer's RST_STREAM or its GOAWAY ended it. */
	void (*closed)(struct http2_stream *stream, uint32_t error_code, bool by_peer);
};

/* Make an engine; `events` must outlive it. 0, -SPLIT_E_BASE_NOMEM or -SPLIT_E_BASE_INVALID. */
int http2_engine_create(const struct http2_config *config, const struct http2_events *events,
			struct http2_engine **engine_out) SPLIT_MUST_USE;
/* All its sessions must be gone. NULL is fine. */
void http2_engine_destroy(struct http2_engine *engine);
const struct http2_counters *http2_engine_counters(const struct http2_engine *engine);

/* Memory of the engine's pools for the layer above (trailers that wait, held body bytes): bounded
 * by memory_bytes. NULL when there is none. `bytes` 1..256 KiB; 16-byte aligned. */
void *http2_engine_alloc(struct http2_engine *engine, size_t bytes);
void http2_engine_free(struct http2_engine *engine, void *p);
/* Take over what needs no memory of its own: budgets, the rules of PINGs, frame_timeout_ns, and for
 * new sessions streams_max. The rest of `config` is not looked at. */
void http2_engine_configure(struct http2_engine *engine, const struct http2_config *config);
/* Bytes in use of memory_bytes, and streams in use: 0 when all sessions are gone. */
size_t http2_engine_memory_used(const struct http2_engine *engine);
size_t http2_engine_streams_used(const struct http2_engine *engine);

/* Begin a server session; our SETTINGS are due at once. 0 or -SPLIT_E_BASE_NOMEM. */
int http2_session_create(struct http2_engine *engine, const struct http2_out *out, void *user,
			 struct http2_session **session_out) SPLIT_MUST_USE;
/* Streams still open get events.closed(HTTP2_CANCEL, by_peer=true). NULL is fine. */
void http2_session_destroy(struct http2_session *session);
void *http2_session_user(const struct http2_session *session);

/* Feed bytes from the peer; all are consumed. `now_ns`: monotonic. 0, or a fatal error: the peer
 * broke the protocol or a limit, and a GOAWAY that says so is due; further input is ignored. */
int http2_session_recv(struct http2_session *session, const uint8_t *p, size_t n,
		       uint64_t now_ns) SPLIT_MUST_USE;

/* Write what is due. 0: all written; SPLIT_AGAIN: no more room now, or `bytes_max` was written and
 * more is due; fatal errors as above. */
int http2_session_send(struct http2_session *session, size_t bytes_max) SPLIT_MUST_USE;

/* Call now and then: a frame, or a header list with its CONTINUATIONs, must be whole within
 * config.frame_timeout_ns of its first byte. True: it is not, the session has failed and its GOAWAY
 * is due. */
bool http2_session_check(struct http2_session *session, uint64_t now_ns);

/* Output is due (whether or not flow control lets it go). */
bool http2_session_want_send(const struct http2_session *session);
/* Nothing more will be read or written: after GOAWAY and the last stream, or after an error once
 * everything was sent. */
bool http2_session_done(const struct http2_session *session);
/* Streams that are open now. */
unsigned http2_session_streams(const struct http2_session *session);

/* A PING to the peer, to hear something of it. 0, or why it cannot be sent. */
int http2_session_ping(struct http2_session *session) SPLIT_MUST_USE;

/* Shut down (RFC 9113 s6.8). Graceful: a GOAWAY that still allows all streams and a PING; at its
 * answer the GOAWAY with the last stream taken; calls that run go on. Not graceful: GOAWAY with
 * `error_code` at once and the session is done when it is sent. */
void http2_session_goaway(struct http2_session *session, bool graceful, uint32_t error_code);

/* The user room behind a stream (config.stream_user_bytes, zeroed at its beginning), and back. */
void *http2_stream_user(struct http2_stream *stream);
struct http2_stream *http2_stream_of_user(void *user);
struct http2_session *http2_stream_session(const struct http2_stream *stream);
uint32_t http2_stream_id(const struct http2_stream *stream);

/* Answer: final response headers, `:status` first. With `has_body` the body is pulled by
 * events.body_next; without, the answer ends here. Once for each stream. 0 or a negative error
 * (out of memory: the stream is reset). */
int http2_stream_respond(struct http2_stream *stream, const struct http2_header *h, size_t n,
			 bool has_body) SPLIT_MUST_USE;
/* Trailers; call from inside body_next that reports *eof_out. If the peer has not half-closed when
 * they are sent, RST_STREAM(NO_ERROR) follows (RFC 9113 s8.1). */
int http2_stream_trailers(struct http2_stream *stream, const struct http2_header *h,
			  size_t n) SPLIT_MUST_USE;
/* body_next said 0 and now has more (or its end). */
void http2_stream_resume(struct http2_stream *stream);
/* RST_STREAM; events.closed follows from a later recv or send, with `error_code`. */
void http2_stream_reset(struct http2_stream *stream, uint32_t error_code);
/* Give `n` received body bytes back to the stream's window (RFC 9113 s5.2). */
void http2_stream_consume(struct http2_stream *stream, size_t n);

#endif
