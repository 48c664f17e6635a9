/* Inside of daemon/grpc. Nothing here is seen by another folder. */
#ifndef SPLITD_DAEMON_GRPC_INTERNAL_H
#define SPLITD_DAEMON_GRPC_INTERNAL_H

#include "base/bits.h"
#include "base/list.h"
#include "base/pool.h"
#include "base/wheel.h"
#include "daemon/grpc/grpc.h"
#include "daemon/grpc/grpc_text.h"

#define GRPC_PREFIX_BYTES 5

/* Bytes of a call that waits for room, in the order they came. */
struct hold {
	struct hold *next;
	uint32_t bytes_max;
	uint32_t begin, end;
	uint8_t bytes[];
};

/* Header fields rendered for the wire: one block of engine memory, kept until the stream closes. */
struct block {
	uint32_t count;
	struct http2_header h[];
};

enum {
	CALL_OPEN = 0x0001,        /* the backend has it: closed is owed */
	CALL_PLAIN = 0x0002,       /* no gRPC: a plain HTTP answer */
	CALL_RESPONDED = 0x0004,   /* response headers are submitted */
	CALL_FINISHED = 0x0008,    /* the result is known; no more messages are taken */
	CALL_ENDED = 0x0010,       /* trailers (or trailers-only) are submitted */
	CALL_DISCARD = 0x0020,     /* what the client still sends is of no interest */
	CALL_WAITING = 0x0040,     /* reserve said SPLIT_AGAIN */
	CALL_PAUSED = 0x0080,      /* grpc_call_pause */
	CALL_FEEDING = 0x0100,     /* call_feed is on the stack */
	CALL_IN_MESSAGE = 0x0200,  /* a prefix was read, its message is not whole */
	CALL_COMPRESSED = 0x0400,  /* the message at hand came compressed */
	CALL_HALF_CLOSED = 0x0800, /* the client half-closed */
	CALL_IN_DONE = 0x1000,     /* the last message or the half-close was handed up */
	CALL_BLOCKED = 0x2000,     /* grpc_send_message said SPLIT_AGAIN: writable is owed */
	CALL_ABORT = 0x4000,       /* to be ended as soon as the frame being written is complete */
	CALL_ENCODES = 0x8000,     /* the response headers said grpc-encoding */
};

enum encoding { ENCODING_IDENTITY, ENCODING_DEFLATE, ENCODING_GZIP, ENCODING_UNKNOWN };

/* grpc_chain.state */
enum chain_state {
	CHAIN_PLAIN,      /* goes as it is */
	CHAIN_COMPRESSED, /* goes with the Compressed-Flag */
	CHAIN_PENDING,    /* being compressed: nothing behind it goes before */
};

/* Lives in the user room of its HTTP/2 stream. */
struct grpc_call {
	struct grpc_connection *conn;
	void *user;
	const struct grpc_backend *backend;
	void *ctx; /* the backend's */
	uint32_t flags;
	uint8_t kind;
	uint8_t encoding_in;  /* enum encoding: of compressed messages received */
	uint8_t encoding_out; /* ... sent; IDENTITY: the client takes none */
	uint8_t compress;     /* enum grpc_compress */
	uint8_t prefix_len;
	uint8_t prefix[GRPC_PREFIX_BYTES];

	/* Messages in. */
	uint8_t *buf;
	uint32_t message_bytes;
	uint32_t message_done;
	uint32_t message_bytes_max;
	uint32_t messages_out;
	struct hold *hold_first, *hold_last;
	uint32_t peek_wanted;    /* bytes held after which reserve is asked again; 0: as ever */
	bool peekable;           /* what is held begins with the message at hand */
	struct inflate *inflate; /* the compressed message at hand */

	/* Messages out: whole chains; the first is sent up to (out_at of prefix, iov, offset). */
	struct grpc_chain *out_first, *out_last;
	uint32_t out_prefix; /* prefix bytes of the first that are sent */
	uint32_t out_iov;
	size_t out_offset;
	uint64_t out_queued;   /* bytes not yet copied, prefixes included */
	uint64_t out_ready;    /* of them, those before the first pending chain */
	uint32_t out_promised; /* of them, promised to the frame being written */
	const char *plain;
	uint32_t plain_len;
	uint32_t plain_n; /* fields of plain_h */
	const struct http2_header *plain_h;

	/* The end. */
	uint8_t status;
	uint8_t why; /* enum grpc_closed */
	struct block *initial;
	struct block *trailers;
	uint64_t deadline_ns;
	struct wheel_timer deadline;
	struct list writable_link;
	struct list idle_link; /* grpc_server.idle, until its first message is whole */
};

struct grpc_connection {
	struct grpc_server *server;
	struct http2_session *session;
	void *user;
	uint64_t now_ns;
	struct list writable;
	uint64_t hold_bytes;      /* of server->hold_bytes */
	unsigned calls_n, idle_n; /* of server->calls_open; of them, on server->idle */
	struct grpc_connection_stats *stats;
	/* grpc_life.c */
	struct wheel_timer life;
	uint64_t active_ns; /* when it was last seen to have a stream or to say something */
	uint64_t age_ns;    /* when it is as old as it may become; UINT64_MAX: never */
	uint64_t ping_ns;   /* our keepalive PING that nothing came behind yet; 0: none */
	uint64_t leave_ns;  /* when it is cut, once `leaving` */
	bool living, leaving;
	bool destroying;
};

/* zlib's state for one message at a time, in memory of its own: begun anew for each. */
#define ZLIB_INFLATES 8
#define ZLIB_DEFLATES 4
struct zlib_slot;

/* Compression under way, of either direction. */
struct zlib_job {
	struct list link; /* server.jobs */
	bool inflate;
};

struct grpc_server {
	struct grpc_config config;
	const struct grpc_backend *backend;
	void *ctx;
	struct wheel *wheel;
	struct http2_engine *engine;
	struct pool connections;
	unsigned calls_open;
	uint64_t hold_bytes;
	struct list idle;               /* struct grpc_call by idle_link */
	struct grpc_metadata *metadata; /* of the request being opened */
	uint8_t *decoded;               /* its "-bin" values */
	struct zlib_slot *inflates, *deflates;
	struct list jobs;          /* struct zlib_job */
	struct list inflate_wait;  /* struct inflate: for memory, in order */
	struct list inflate_in;    /* struct inflate: being received */
	uint64_t compressed_bytes; /* of compress_memory */
	uint32_t quantum_left;
	uint64_t now_ns;
	uint64_t jitter;
	uint64_t call_ns;                       /* when the last call began */
	struct grpc_connection_stats uncounted; /* of connections that nobody asked about */
	struct grpc_counters counters;
};

static inline struct grpc_server *call_server(const struct grpc_call *call)
{
	return call->conn->server;
}

static inline struct http2_stream *call_stream(struct grpc_call *call)
{
	return http2_stream_of_user(call);
}

/* --- grpc_metadata.c: pure functions ------------------------------------------------------------
 */

/* "8 digits and a unit" to nanoseconds. 0 or -SPLIT_E_GRPC_MALFORMED. */
int grpc_timeout_parse(const char *p, size_t n, uint64_t *ns_out) SPLIT_MUST_USE;
/* Fields for the wire: `fixed` ones first, then the message and details if given, then `md`.
 * NULL: no memory, something invalid or over `bytes_max`. */
struct block *grpc_block_render(struct grpc_server *server, const struct http2_header *fixed,
				size_t n, const struct grpc_result *result,
				const struct grpc_metadata *md, size_t md_n);

/* --- grpc_life.c: age, idleness, keepalive
 * ------------------------------------------------------------------------------------------- */

void grpc_life_init(struct grpc_connection *conn);
/* With its first bytes. */
void grpc_life_begin(struct grpc_connection *conn);

/* --- grpc_request.c
 * ------------------------------------------------------------------------------- */

int grpc_on_headers(void *session_user, struct http2_stream *stream, const struct http2_header *h,
		    size_t n, unsigned flags);

/* --- grpc_message.c: from the client
 * ---------------------------------------------------------------- */

void grpc_on_data(struct http2_stream *stream, const uint8_t *p, size_t n);
void grpc_on_end(struct http2_stream *stream);
void grpc_hold_drop(struct grpc_call *call);

/* --- grpc_idle.c: calls without a message
 * ----------------------------------------------------------- */

void grpc_idle_enter(struct grpc_call *call);
/* Any number of times. */
void grpc_idle_leave(struct grpc_call *call);
/* calls_max is reached: end an idle call of another connection. False: none has to give way. */
bool grpc_idle_give_way(struct grpc_connection *newcomer);

/* The message at hand is whole, in call->buf: hand it up. */
void grpc_message_whole(struct grpc_call *call);
/* Go on behind it with what was held. */
void grpc_call_go_on(struct grpc_call *call);

/* --- grpc_zlib.c: zlib's state, the jobs and their memory
 * ------------------------------------------------------------------------------------------- */

struct z_stream_s;
struct zlib_slot {
	struct z_stream_s *z;
	uint8_t *arena;
	size_t arena_bytes, arena_used;
	bool busy;
};

int grpc_zlib_init(struct grpc_server *server) SPLIT_MUST_USE;
void grpc_zlib_fini(struct grpc_server *server);
/* A slot begun for `encoding`; NULL: all are busy. */
struct zlib_slot *grpc_inflate_slot(struct grpc_server *server, enum encoding encoding);
struct zlib_slot *grpc_deflate_slot(struct grpc_server *server, enum encoding encoding);
static inline void grpc_zlib_put(struct zlib_slot *slot)
{
	slot->busy = false;
}
/* Spend of this turn's quantum. */
static inline void grpc_zlib_spend(struct grpc_server *server, size_t n)
{
	server->quantum_left -= n < server->quantum_left ? (uint32_t)n : server->quantum_left;
}
/* The first encoding that a list of them ("identity, gzip") names and we know, gzip before deflate;
 * the one that a name stands for. */
enum encoding grpc_encoding_choose(const char *list, size_t n);
enum encoding grpc_encoding_named(const char *name, size_t n);

/* --- grpc_inflate.c: compressed messages from the client
 * ------------------------------------------------------------------------------------------- */

/* The prefix of a compressed message was read: message_bytes bytes of it follow. */
void grpc_inflate_begin(struct grpc_call *call);
/* Take from [p, p+n) what belongs to it; returns how much. */
size_t grpc_inflate_feed(struct grpc_call *call, const uint8_t *p, size_t n);
/* The backend may have room. */
void grpc_inflate_room(struct grpc_call *call);
void grpc_inflate_drop(struct grpc_call *call);
void grpc_inflate_run(struct grpc_server *server, struct zlib_job *job);
/* Memory was given back: those that wait may begin. Slow ones give way. Returns how many began. */
unsigned grpc_inflate_retry(struct grpc_server *server);

/* --- grpc_deflate.c: messages to the client
 * ------------------------------------------------------------------------------------------- */

/* A chain that stands for `plain`, compressed now or later (CHAIN_PENDING; grpc_chain_settled
 * follows); NULL: no memory for that. */
struct grpc_chain *grpc_deflate(struct grpc_call *call, struct grpc_chain *plain);
void grpc_deflate_run(struct grpc_server *server, struct zlib_job *job);

/* --- grpc_call.c: to the client, and the end
 * ------------------------------------------------------- */

size_t grpc_on_body_next(struct http2_stream *stream, size_t max, bool *eof_out);
void grpc_on_body_copy(struct http2_stream *stream, uint8_t *dst, size_t n);
void grpc_on_closed(struct http2_stream *stream, uint32_t error_code, bool by_peer);
/* End a call from this layer: status and text to the client, closed(why) to the backend if it has
 * the call; both at once, unless a frame is half written: then right after it. */
/* Tell the backend that a message is too large: before the call is aborted for it. */
static inline void grpc_call_oversize(struct grpc_call *call, uint64_t bytes)
{
	if (call->backend->oversize != NULL)
		call->backend->oversize(call->ctx, call, bytes);
}
void grpc_call_abort(struct grpc_call *call, enum grpc_status status, const char *text,
		     enum grpc_closed why);
/* Trailers-only for a call that the backend does not have. */
void grpc_call_refuse(struct grpc_call *call, enum grpc_status status, const char *text);
/* A plain HTTP answer, of static fields and text; `now` or when the request's body is over. */
void grpc_call_plain(struct grpc_call *call, const struct http2_header *h, size_t n,
		     const char *body, bool now);
/* Bytes of such a request's body; its end. */
void grpc_plain_data(struct grpc_call *call, size_t n);
void grpc_plain_end(struct grpc_call *call);
/* A pending chain of this call can go now; it was counted with `counted` bytes. */
void grpc_chain_settled(struct grpc_call *call, struct grpc_chain *chain, uint32_t counted);
void grpc_deadline_fire(struct wheel_timer *timer, uint64_t now_ns);

#endif
