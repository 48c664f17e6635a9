/* The daemon's own gRPC client (gRPC's PROTOCOL-HTTP2, the client's side): calls out of a handler
 * to servers on the network.
 *
 * One `struct client` for each worker. It has channels, one for each entry of the config's
 * "channels", named by their index there. A channel has addresses (as the config lists them, or as
 * its name was resolved), connections to them, and calls that run on these. Everything between a
 * call and a byte stream is done here: TLS, HTTP/2, gRPC, which address gets a call, deadlines,
 * retries, ejection, health checks. Byte streams, time and randomness are the caller's.
 *
 * Threads: a client and everything made from it belong to one worker thread. No system call is
 * made; no clock is read but the wall clock for certificates. All memory is taken at
 * client_create, but OpenSSL's.
 *
 * Call protocol of a turn
 *
 *     bytes, connects and ends of byte streams:  client_stream_connected, _recv, _writable, _ended
 *     wheel_advance(...)                         deadlines, back-offs, pings
 *     client_run(client, now_ns)                 sends what is due, goes on with what was put off
 *
 * Life of a call
 *
 *   client_call_start  takes it (0) or refuses it at once (a gRPC status > 0, nothing was kept).
 *   client_call_send   0..n messages and the end of them, at any time; the first may come later.
 *   events             headers (at most once), message (0..n), then status: exactly once, the last.
 *                      The call's pointer is dead when `status` returns.
 *   client_call_cancel ends it from this side: no further event comes, not even status. The pointer
 *                      is dead on return. At the server the stream is reset (CANCEL).
 *
 * Events come from inside client_stream_*, client_run, client_call_room, client_call_pause and the
 * wheel's timers, never from inside client_call_start, _send or _cancel. Any function of a call may
 * be called from inside an event, of that call too.
 *
 * Retries (gRFC A6) are not seen from outside: a call's events are those of the one attempt it was
 * committed to. For that its messages are lent to the client until the call is committed (the
 * answer has begun, the last attempt runs, or what it sent is over retry_bytes_max).
 */
#ifndef SPLITD_DAEMON_CLIENT_CLIENT_H
#define SPLITD_DAEMON_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/counter.h"
#include "base/error.h"
#include "daemon/balance/picker.h"
#include "daemon/grpc/grpc.h"
#include "daemon/tls/tls.h"

struct wheel;
struct client;
struct client_call;
struct client_connection;
struct http2_client_counters;

/* ---- configuration --------------------------------------------------------------------------- */

/* As daemon/net's net_addr: family 4 or 6, bytes in network order, port in host order. */
struct client_address {
	uint8_t family;
	uint8_t bytes[16];
	uint16_t port;
	uint32_t weight; /* of the weighted policies, 1..; 0 counts as 1 */
};

/* gRFC A6. attempts_max 1: no retries but the transparent ones. */
struct client_retry_config {
	uint32_t attempts_max; /* the first included, 1..5 */
	uint64_t backoff_ns, backoff_max_ns;
	uint32_t backoff_percent;   /* multiplier in percent, 100..1000 */
	uint32_t codes;             /* bit 1 << status: those that are retried */
	uint32_t tokens_max;        /* the budget, 1..1000; 0: no budget */
	uint32_t token_ratio_milli; /* tokens that a call that went well gives back, thousandths */
	uint32_t bytes_max;         /* of one call's messages kept for another attempt */
	uint32_t total_bytes_max;   /* of all calls of the channel on this worker */
};

struct client_channel_config {
	const char *name;      /* of the channel, for counters */
	bool unused;           /* a place in the list, without calls */
	const char *target;    /* what the addresses are of: another one has none of its */
	const char *authority; /* :authority, and the name asked for by TLS */
	const struct client_address *addresses; /* as listed; none when a name is resolved */
	size_t addresses_n;
	/* Metadata of a call whose value is its hash, or what sticks together; NULL: none. */
	const char *hash_key, *sticky_key;
	uint32_t failures; /* bit 1 << status: those that count against an address (ejection) */
	struct picker_config
		picker;           /* policy, subset, ejection, ...; members_max and seed are ours */
	struct tls_context *tls;  /* NULL: plain. A reference is taken. */
	const char *tls_name;     /* verified in the certificate, SNI; NULL: authority */
	uint32_t connections_max; /* to one address */
	uint32_t streams_max;     /* of one connection, within what the peer allows */
	uint32_t calls_max;       /* of the channel on this worker, those that wait too */
	uint64_t connect_timeout_ns;                         /* TCP and TLS; 0: none */
	uint64_t connect_backoff_ns, connect_backoff_max_ns; /* connection-backoff.md */
	uint64_t idle_timeout_ns;                    /* a connection without calls; 0: never */
	uint64_t keepalive_ns, keepalive_timeout_ns; /* gRFC A8; 0: no PINGs */
	bool keepalive_without_calls;
	uint64_t timeout_ns;         /* of calls that have no deadline; 0: none */
	uint32_t message_bytes_max;  /* received */
	uint32_t metadata_bytes_max; /* received, one list */
	bool compression;            /* gzip and deflate are accepted for answers */
	const char *health_service;  /* gRFC A17: watch it; NULL: no health checks */
	struct client_retry_config retry;
};
/* Sane defaults; the strings and addresses are left NULL. */
void client_channel_config_default(struct client_channel_config *config);

/* Byte streams, the caller's. `stream` is what connect gave. */
struct client_transport {
	/* Begin to connect. 0 and *stream_out; client_stream_connected or _ended follow, not from
	 * inside. Negative: it cannot even be tried now. */
	int (*connect)(void *ctx, struct client_connection *conn, const struct client_address *to,
		       void **stream_out);
	/* As http2_out. SPLIT_AGAIN: client_stream_writable follows. */
	int (*reserve)(void *stream, size_t wanted, uint8_t **buf_out, size_t *room_out);
	void (*commit)(void *stream, size_t bytes);
	/* The end of this turn's writing: what was committed may leave. */
	void (*flush)(void *stream);
	/* What client_stream_recv did not take may be offered again. */
	void (*resume)(void *stream);
	/* Let go: no further call for `conn`. `abort`: reset, else what was committed goes out. */
	void (*close)(void *stream, bool abort);
	/* No connection to the address of that channel, and why, in one line; `first`: the last
	 * time it was tried there was one. NULL: nobody asks. */
	void (*failed)(void *ctx, unsigned channel, const struct client_address *to,
		       const char *why, bool first);
	uint64_t (*random)(void *ctx); /* 64 bits */
	void *ctx;
};

struct client_config {
	const struct client_channel_config *channels;
	size_t channels_n;
	uint32_t channels_max;    /* places for those that come later; at least channels_n */
	uint32_t calls_max;       /* of all channels */
	uint32_t connections_max; /* of all channels */
	uint32_t addresses_max;   /* of one channel; more are left out and counted */
	uint64_t memory_bytes;    /* HTTP/2's and received bytes that wait, preallocated */
	uint32_t window_stream, window_connection; /* as struct http2_config */
	uint32_t record_bytes_max;                 /* as struct tls_engine_config */
	struct tls_helpers *tls_helpers; /* NULL: handshakes run on the worker, a step each turn */
	unsigned tls_index;              /* of this client among the engines of the helpers */
	int tls_wake_fd;                 /* as struct tls_engine_config; -1: none */
	const char *user_agent;
};
void client_config_default(struct client_config *config);

/* X(name, text): of one channel on one worker. */
#define CLIENT_COUNTERS(X)                                                                         \
	X(calls, "calls taken")                                                                    \
	X(calls_ok, "calls ended with status OK")                                                  \
	X(calls_failed, "calls ended with another status")                                         \
	X(calls_cancelled, "calls cancelled by the caller")                                        \
	X(calls_deadline, "calls ended by their deadline")                                         \
	X(calls_over, "calls refused: calls_max, or no memory")                                    \
	X(calls_waited, "calls that had to wait for a connection")                                 \
	X(calls_no_address, "calls ended: no address, or none that works")                         \
	X(attempts, "attempts begun")                                                              \
	X(retries, "attempts after a failure, by the retry policy")                                \
	X(retries_transparent, "attempts after one that the server has not seen")                  \
	X(retries_pushback, "retries whose delay the server gave")                                 \
	X(retries_refused, "retries not made: the server said so by its pushback")                 \
	X(retries_throttled, "retries not made: the budget was spent")                             \
	X(retries_committed, "retries not made: over the limit of bytes kept")                     \
	X(retries_spent, "retries not made: attempts_max")                                         \
	X(tx_messages, "messages sent")                                                            \
	X(tx_message_bytes, "bytes of these messages")                                             \
	X(rx_messages, "messages received")                                                        \
	X(rx_message_bytes, "bytes of these messages")                                             \
	X(rx_messages_over, "calls ended: a message over message_bytes_max")                       \
	X(rx_messages_held, "messages that had to wait for room")                                  \
	X(rx_compressed, "compressed messages received")                                           \
	X(rx_inflate_errors, "calls ended: a compressed message is broken or holds too much")      \
	X(rx_metadata_over, "calls ended: headers or trailers over metadata_bytes_max")            \
	X(rx_malformed, "calls ended: answers that break gRPC or HTTP")                            \
	X(hold_refused, "calls ended: no memory to hold waiting bytes")                            \
	X(connects, "connections begun")                                                           \
	X(connects_failed, "connections that failed before the first call")                        \
	X(connects_timeout, "of these, by connect_timeout")                                        \
	X(tls_failed, "of these, by the TLS handshake")                                            \
	X(connections_lost, "connections that ended while they had calls")                         \
	X(connections_idle, "connections closed: idle_timeout")                                    \
	X(connections_failed, "connections ended: the peer broke HTTP/2 or a limit")               \
	X(goaways, "GOAWAY received")                                                              \
	X(goaways_pings, "of these, for too many PINGs: they come less often now")                 \
	X(keepalive_pings, "PINGs sent to see whether the server lives")                           \
	X(keepalive_timeouts, "connections ended: no answer to such a PING")                       \
	X(health_watches, "health checks begun")                                                   \
	X(health_changes, "times that an address's health changed")                                \
	X(health_unimplemented, "health checks given up: the server has none")                     \
	X(addresses_updates, "times that the addresses changed")                                   \
	X(addresses_over, "addresses left out: addresses_max")                                     \
	X(gauge_calls, "calls now")                                                                \
	X(gauge_waiting, "calls that wait for a connection now")                                   \
	X(gauge_connections, "connections now")                                                    \
	X(gauge_addresses, "addresses now")                                                        \
	X(gauge_ready, "addresses with a connection that takes calls now")                         \
	X(gauge_tokens_milli, "the retry budget now, thousandths of a token")                      \
	X(gauge_retry_bytes, "bytes kept for other attempts now")

COUNTER_DECLARE(client, CLIENT_COUNTERS); /* struct client_counters, client_counter_desc */

/* ---- client ---------------------------------------------------------------------------------- */

/* `config` and what it points to are copied, `transport` too; `wheel` must outlive it: the caller
 * advances it. 0, -SPLIT_E_BASE_NOMEM or -SPLIT_E_BASE_INVALID. */
int client_create(const struct client_config *config, const struct client_transport *transport,
		  struct wheel *wheel, uint64_t now_ns, struct client **out) SPLIT_MUST_USE;
/* Calls still open get status(CANCELLED), connections are reset. NULL is fine. */
void client_destroy(struct client *client);

/* Send what is due and go on with what was put off, within bounds. Once a turn. Returns how much
 * there was to do. */
unsigned client_run(struct client *client, uint64_t now_ns);
/* Whether client_run has something to do at once. */
bool client_pending(const struct client *client);

/* The channel of this name; -SPLIT_E_BASE_INVALID: none. */
int client_channel_find(const struct client *client, const char *name, size_t len);
const struct client_counters *client_channel_counters(const struct client *client,
						      unsigned channel);
/* Names of its counters' blocks: "channel_NAME", "channel_NAME_balance". */
const char *client_channel_layer(const struct client *client, unsigned channel);
const char *client_channel_layer_picker(const struct client *client, unsigned channel);
/* Of its picker: ejections and the like. */
const struct picker_counters *client_channel_picker(const struct client *client, unsigned channel);
/* New addresses (the name was resolved again, or the config reloaded). Copied. Connections to
 * those that stay are kept; others take no new calls and end with their last. n = 0: the name could
 * not be resolved; those known are kept, and without any, calls that may not wait end UNAVAILABLE.
 */
void client_channel_addresses(struct client *client, unsigned channel,
			      const struct client_address *addresses, size_t n, uint64_t now_ns);
/* Another configuration for a channel while its calls go on, or for one more (channel ==
 * client_channels()). Copied. Calls that begin from now on follow it, also those that wait; calls
 * on connections end as they would have. Connections to addresses that stay are kept, but for those
 * made by other rules: without TLS or with, another name in the certificate, another
 * health_service. With another `target` the addresses known before are forgotten; without any in
 * `config` client_channel_addresses follows. `unused`: calls that wait end UNAVAILABLE. 0,
 * -SPLIT_E_BASE_NOMEM, _INVALID or _LIMIT (channels_max): then all is as it was. */
int client_channel_configure(struct client *client, unsigned channel,
			     const struct client_channel_config *config,
			     uint64_t now_ns) SPLIT_MUST_USE;
/* How many there are; whether it is more than a place. Any thread. */
unsigned client_channels(const struct client *client);
bool client_channel_used(const struct client *client, unsigned channel);
const struct http2_client_counters *client_http2_counters(const struct client *client);
const struct tls_counters *client_tls_counters(const struct client *client);
/* No new calls; running ones go on. Connections end with their last call. */
void client_drain(struct client *client, uint64_t now_ns);
/* Calls of all channels. */
unsigned client_calls(const struct client *client);

/* Memory of the client's pools for the caller (messages to be sent): as http2_engine_alloc. */
void *client_alloc(struct client *client, size_t bytes);
void client_free(struct client *client, void *p);

/* ---- calls ----------------------------------------------------------------------------------- */

struct client_request {
	const char *path; /* "/package.Service/Method" */
	uint32_t path_len;
	enum grpc_kind kind;
	uint64_t deadline_ns;                 /* on the clock of now_ns; UINT64_MAX: none */
	const struct grpc_metadata *metadata; /* "-bin" values raw */
	uint32_t metadata_count;
	bool wait_for_ready; /* wait-for-ready.md: wait while no address works */
	bool hash_given;     /* for the policies that hash; else by the channel's keys */
	uint64_t hash;
	uint32_t message_bytes_max; /* received; 0: the channel's */
};

struct client_status {
	uint32_t status;     /* 0..GRPC_STATUS_MAX */
	const char *message; /* decoded; not NUL-terminated */
	uint32_t message_len;
	const uint8_t *details; /* grpc-status-details-bin, decoded; NULL: none */
	uint32_t details_len;
	const struct grpc_metadata *trailers; /* custom ones, "-bin" values decoded */
	uint32_t trailers_count;
	bool by_peer; /* the server sent this status; else it was made here */
};

/* Calls up; `user` is the one given to client_call_start. What pointers point to is valid until
 * return. */
struct client_events {
	/* The server's initial metadata. Not called for an answer without (trailers only). */
	void (*headers)(void *user, const struct grpc_metadata *md, uint32_t n);
	/* Room for a message of `bytes`: as grpc_backend.reserve. SPLIT_AGAIN: client_call_room
	 * follows from the caller. Negative: the call ends RESOURCE_EXHAUSTED. */
	int (*reserve)(void *user, uint32_t bytes, uint8_t **buf_out);
	/* It is filled, and the caller's again. A room that was reserved and not handed back so
	 * when `status` comes is the caller's to free. */
	void (*message)(void *user, uint8_t *buf, uint32_t bytes);
	/* Room for messages again after client_call_send said SPLIT_AGAIN. */
	void (*writable)(void *user);
	void (*status)(void *user, const struct client_status *status);
};

/* Begin a call; `events` must outlive it. Metadata and path are copied. 0; or a gRPC status: it is
 * not taken (RESOURCE_EXHAUSTED: calls_max; INTERNAL: metadata that cannot be sent;
 * DEADLINE_EXCEEDED; UNAVAILABLE: draining). */
int client_call_start(struct client *client, unsigned channel, const struct client_request *request,
		      const struct client_events *events, void *user, uint64_t now_ns,
		      struct client_call **call_out) SPLIT_MUST_USE;

/* One message: encoded bytes in up to `iov_count` parts. The struct, the iovec array and the bytes
 * are lent until release(message), which comes exactly once: when they were copied to the output
 * (of kinds with one request: of the attempt that counts), or the call ended (from inside
 * client_call_cancel too); never from inside client_call_send. */
struct client_message {
	struct client_message *next; /* this layer's, while it is queued */
	const struct iovec *iov;
	uint32_t iov_count;
	uint32_t bytes; /* sum over iov */
	void (*release)(struct client_message *message);
};
/* 0: taken. SPLIT_AGAIN: over the call's send queue, not taken; writable follows.
 * -SPLIT_E_GRPC_STATE: after the end, or a second message of a kind that has one. */
int client_call_send(struct client_call *call, struct client_message *message) SPLIT_MUST_USE;
/* No more messages. Kinds with one request end with it; then this does nothing. */
void client_call_end(struct client_call *call);
void client_call_cancel(struct client_call *call);

/* There may be room again after reserve said SPLIT_AGAIN: it is asked again from inside. */
void client_call_room(struct client_call *call);
/* While paused no message is read from the server (its window is withheld). */
void client_call_pause(struct client_call *call, bool paused);

void *client_call_user(const struct client_call *call);

/* ---- byte streams ---------------------------------------------------------------------------- */

/* The byte stream that connect began is there. */
void client_stream_connected(struct client_connection *conn, uint64_t now_ns);
/* Bytes from the peer. Returns how many were taken: fewer than `n` only while a TLS handshake is
 * worked on; resume() says when to offer the rest. */
size_t client_stream_recv(struct client_connection *conn, const uint8_t *p, size_t n,
			  uint64_t now_ns);
/* reserve may lend room again. */
void client_stream_writable(struct client_connection *conn, uint64_t now_ns);
/* The peer sends no more. */
void client_stream_eof(struct client_connection *conn, uint64_t now_ns);
/* It is gone (refused, reset, timed out, ended). `conn` is dead on return; close is not called. */
void client_stream_ended(struct client_connection *conn, int reason, uint64_t now_ns);

#endif
