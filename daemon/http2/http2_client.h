/* HTTP/2 client sessions (RFC 9113): requests out, answers in.
 *
 * The other end of http2.h, with the same rules: one engine stands behind it (nghttp2), no type of
 * it leaves the folder; a session sees bytes only, makes no system call and reads no clock; an
 * engine and everything made from it belong to one worker thread and take memory from the engine's
 * preallocated pools only.
 *
 * Call protocol
 *   http2_client_session_create when a byte stream to a server is there. Bytes from it go to
 *   http2_client_recv, which calls the events; http2_client_send writes what is due into lent room.
 *   The server's first SETTINGS bring events.changed: from then on http2_client_room says how many
 *   requests may be begun. A stream begins with http2_client_request and ends with events.closed,
 *   exactly once. The http2_client_stream_* functions may be called from inside an event;
 *   http2_client_recv, _send and _session_destroy may not.
 *
 * Flow control: as http2.h: the connection's window is always given back at once, a stream's only
 * by http2_client_stream_consume.
 *
 * Bounds: the server's header lists (bytes and fields), frames without effect, memory. It pushes
 * nothing (SETTINGS_ENABLE_PUSH 0). Each bound has a counter.
 */
#ifndef SPLITD_DAEMON_HTTP2_HTTP2_CLIENT_H
#define SPLITD_DAEMON_HTTP2_HTTP2_CLIENT_H

#include "daemon/http2/http2.h"

/* X(name, text). Single writer: the engine's worker. */
#define HTTP2_CLIENT_COUNTERS(X)                                                                   \
	X(sessions, "sessions begun")                                                              \
	X(sessions_refused, "sessions refused: no memory in the pool")                             \
	X(sessions_failed, "sessions ended by a connection error")                                 \
	X(streams, "requests begun")                                                               \
	X(streams_refused, "requests refused: stream pool empty")                                  \
	X(rx_bytes, "bytes received")                                                              \
	X(rx_data_bytes, "body bytes received")                                                    \
	X(rx_resets, "RST_STREAM received")                                                        \
	X(rx_goaways, "GOAWAY received")                                                           \
	X(rx_malformed, "invalid frames or answers received")                                      \
	X(tx_bytes, "bytes sent")                                                                  \
	X(tx_data_bytes, "body bytes sent")                                                        \
	X(tx_resets, "RST_STREAM sent")                                                            \
	X(tx_pings, "PINGs sent")                                                                  \
	X(headers_over, "header lists over the limit of bytes or fields")                          \
	X(headers_bombs, "header lists over four times the limit: connection ended")               \
	X(flood_frames, "connections ended: too many frames without effect")                       \
	X(memory_refused, "allocations refused by a memory limit")

COUNTER_DECLARE(http2_client, HTTP2_CLIENT_COUNTERS);

struct http2_client_config {
	uint32_t sessions_max;      /* sizes the pools */
	uint32_t streams_total;     /* of all sessions */
	uint32_t stream_user_bytes; /* room behind each stream for the layer above */
	uint32_t window_stream;     /* SETTINGS_INITIAL_WINDOW_SIZE, 1..2^31-1 */
	uint32_t window_connection; /* 65535..2^31-1 */
	uint32_t header_bytes_max;  /* SETTINGS_MAX_HEADER_LIST_SIZE, 256..64 KiB */
	uint32_t headers_max;       /* fields in one header list, 8..1024 */
	uint64_t memory_bytes;      /* all of the engine's memory for sessions, preallocated */
	uint64_t session_bytes_max; /* of that, for one session */
	struct http2_budget frames; /* that have no effect (see http2.h); sent data earns some */
};
void http2_client_config_default(struct http2_client_config *config, uint32_t sessions_max);

struct http2_client_engine;
struct http2_client_session;
struct http2_client_stream;

/* Flags of events.headers and events.closed. */
enum {
	HTTP2_CLIENT_TRAILERS = 0x1, /* the list that ends the answer, and not its first */
	HTTP2_CLIENT_END = 0x2,      /* the answer ends with it */
	HTTP2_CLIENT_OVER = 0x4,     /* over header_bytes_max or headers_max: cut short */
	HTTP2_CLIENT_UNSENT = 0x8,   /* closed: no byte of the request has left */
	HTTP2_CLIENT_REFUSED = 0x10, /* closed: the server says it has not looked at it */
	HTTP2_CLIENT_PEER = 0x20,    /* closed: by the peer's RST_STREAM or GOAWAY */
	HTTP2_CLIENT_LOST = 0x40,    /* closed: the session was destroyed */
};

struct http2_client_events {
	/* A header list of the answer, well-formed, `:status` first in the first (interim answers
	 * are left out). Valid until return; strings are NUL-terminated. */
	void (*headers)(struct http2_client_stream *stream, const struct http2_header *h, size_t n,
			unsigned flags);
	/* Body bytes, valid until return; http2_client_stream_consume is owed for them. */
	void (*data)(struct http2_client_stream *stream, const uint8_t *p, size_t n);
	/* The answer is complete by a frame without headers. */
	void (*end)(struct http2_client_stream *stream);
	/* Write up to `room` bytes of the request's body; returns how many. 0 without *eof_out:
	 * none now, http2_client_stream_resume follows. */
	size_t (*body)(struct http2_client_stream *stream, uint8_t *dst, size_t room,
		       bool *eof_out);
	/* The last event; the stream is gone on return. Code: RFC 9113 s7's. */
	void (*closed)(struct http2_client_stream *stream, uint32_t code, unsigned flags);
	/* SETTINGS came, or a GOAWAY: http2_client_room and _leaving may say something new. */
	void (*changed)(void *session_user);
	/* The answer to http2_client_ping. */
	void (*pong)(void *session_user);
};

/* 0, -SPLIT_E_BASE_NOMEM or -SPLIT_E_BASE_INVALID. `events` must outlive it. */
int http2_client_engine_create(const struct http2_client_config *config,
			       const struct http2_client_events *events,
			       struct http2_client_engine **out) SPLIT_MUST_USE;
/* All its sessions must be gone. NULL is fine. */
void http2_client_engine_destroy(struct http2_client_engine *engine);
const struct http2_client_counters *http2_client_engine_counters(
	const struct http2_client_engine *engine);
/* As http2_engine_alloc, _free, _memory_used, _streams_used. */
void *http2_client_engine_alloc(struct http2_client_engine *engine, size_t bytes);
void http2_client_engine_free(struct http2_client_engine *engine, void *p);
size_t http2_client_engine_memory_used(const struct http2_client_engine *engine);
size_t http2_client_engine_streams_used(const struct http2_client_engine *engine);

/* Begin a session; preface and SETTINGS are due at once. `header_bytes_max`: its own; the engine's
 * where that is less, or it is 0. 0 or -SPLIT_E_BASE_NOMEM. */
int http2_client_session_create(struct http2_client_engine *engine, const struct http2_out *out,
				uint32_t header_bytes_max, void *user, uint64_t now_ns,
				struct http2_client_session **session_out) SPLIT_MUST_USE;
/* Open streams get events.closed(HTTP2_CANCEL, LOST). NULL is fine. Not from inside an event. */
void http2_client_session_destroy(struct http2_client_session *session);

/* As http2_session_recv, _send, _want_send, _done. */
int http2_client_recv(struct http2_client_session *session, const uint8_t *p, size_t n,
		      uint64_t now_ns) SPLIT_MUST_USE;
int http2_client_send(struct http2_client_session *session, size_t bytes_max) SPLIT_MUST_USE;
bool http2_client_want_send(const struct http2_client_session *session);
bool http2_client_done(const struct http2_client_session *session);

/* Requests that may be begun now, within the server's SETTINGS_MAX_CONCURRENT_STREAMS; 0 before its
 * first SETTINGS and after its GOAWAY. */
uint32_t http2_client_room(const struct http2_client_session *session);
/* The server's SETTINGS have come. */
bool http2_client_ready(const struct http2_client_session *session);
/* The server has said GOAWAY (its code in *code_out), or no identifiers are left. */
bool http2_client_leaving(const struct http2_client_session *session, uint32_t *code_out);
/* The debug data of the GOAWAY was gRPC's "too_many_pings". */
bool http2_client_too_many_pings(const struct http2_client_session *session);
unsigned http2_client_streams(const struct http2_client_session *session);
/* A PING; events.pong follows. 0 or a negative error. */
int http2_client_ping(struct http2_client_session *session) SPLIT_MUST_USE;
/* Our own GOAWAY(NO_ERROR): nothing new is begun. */
void http2_client_goaway(struct http2_client_session *session);

/* Begin a request: pseudo-header fields first; its body is pulled by events.body. 0; -SPLIT_E_
 * BASE_LIMIT: no room; -SPLIT_E_HTTP2_NOMEM. Fields are copied unless HTTP2_STATIC. */
int http2_client_request(struct http2_client_session *session, const struct http2_header *h,
			 size_t n, struct http2_client_stream **stream_out) SPLIT_MUST_USE;

void *http2_client_stream_user(struct http2_client_stream *stream);
struct http2_client_stream *http2_client_stream_of_user(void *user);
struct http2_client_session *http2_client_stream_session(const struct http2_client_stream *stream);
void *http2_client_session_user(const struct http2_client_session *session);
uint32_t http2_client_stream_id(const struct http2_client_stream *stream);
/* body said 0 and now has more, or its end. */
void http2_client_stream_resume(struct http2_client_stream *stream);
/* RST_STREAM; events.closed follows from a later recv, send or destroy. */
void http2_client_stream_reset(struct http2_client_stream *stream, uint32_t code);
/* Give received body bytes back to the stream's window. */
void http2_client_stream_consume(struct http2_client_stream *stream, size_t n);

#endif
