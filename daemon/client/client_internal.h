/* Inside of daemon/client. Nothing here is seen by another folder.
 *
 *   client    one for each worker: engines, pools, what is due
 *   channel   the config's, with its targets, its waiting calls and its retry budget
 *   target    one address of a channel: its connections, back-off, place in the picker
 *   connection  a byte stream, TLS on it, an HTTP/2 session on that
 *   call      what the layer above began; it outlives its attempts
 *   attempt   one HTTP/2 stream for a call, or a health watch; lives in the stream's user room
 *
 * Events of the layer below only note what happened where more than their own object may change:
 * channels and connections go on the client's due lists and are looked after in client_run, so
 * nothing is destroyed under somebody's feet. */
#ifndef SPLITD_DAEMON_CLIENT_INTERNAL_H
#define SPLITD_DAEMON_CLIENT_INTERNAL_H

#include "base/bits.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/pool.h"
#include "base/random.h"
#include "base/wheel.h"
#include "daemon/client/client.h"
#include "daemon/grpc/grpc_text.h"
#include "daemon/http2/http2_client.h"

#define PREFIX_BYTES 5
/* Bytes of one call that wait to be sent, past which client_call_send says SPLIT_AGAIN. */
#define SEND_QUEUE_BYTES (256u * 1024u)
/* Bytes that one connection may put out in one turn before the others have theirs. */
#define SEND_TURN_BYTES (128u * 1024u)
/* Blocks that received bytes wait in. */
#define HOLD_BYTES (16u * 1024u)
/* Plain bytes that one client_run inflates. */
#define INFLATE_QUANTUM (64u * 1024u)
/* gRFC A6: attempts that the server never saw; a bound against a server that only refuses. */
#define TRANSPARENT_MAX 16
#define HEADERS_MAX     128

struct inflater;

/* ---- messages in ----------------------------------------------------------------------------- */

/* Received bytes in order; client_hold.c. */
struct hold_block {
	struct hold_block *next;
	uint32_t begin, end;
	uint8_t bytes[];
};
struct hold {
	struct hold_block *first, *last;
	uint64_t bytes;
};

/* ---- targets and channels ---------------------------------------------------------------------
 */

enum health { HEALTH_UNKNOWN, HEALTH_SERVING, HEALTH_NOT_SERVING };

struct target {
	struct channel *ch;
	struct client_address address;
	struct list link; /* channel.targets or channel.leaving */
	struct list connections;
	unsigned connections_n;
	unsigned attempts;        /* on its connections */
	bool current;             /* in the channel's list as it stands */
	bool ready;               /* a connection of it takes calls */
	bool failed;              /* the last connect failed, and none has come since */
	uint64_t backoff_ns;      /* of the next failure */
	struct wheel_timer retry; /* armed: no connect before */
	struct picker_member member;
};

struct channel {
	struct client *c;
	unsigned index;
	struct client_channel_config config; /* strings owned */
	struct picker picker;
	struct list targets; /* those of the list as it stands */
	struct list leaving; /* others, until their connections end */
	unsigned targets_n, ready_n;
	struct list waiting; /* calls that wait for a connection */
	struct list calls;   /* all */
	unsigned calls_n, waiting_n;
	struct list due;
	char layer[80], layer_picker[88];
	int tokens_milli; /* the retry budget */
	uint64_t kept_bytes;
	uint64_t keepalive_ns; /* grows when a server complains */
	uint64_t used_ns;      /* when a call was begun last */
	char failure[200];     /* why no target works, for people */
	bool resolved;         /* addresses were given, be it none */
	struct client_counters counters;
};

/* ---- connections ------------------------------------------------------------------------------
 */

/* Of a header list, at most: metadata_bytes_max. */
#define METADATA_BYTES_MAX 65536u

enum connection_state {
	CONN_CONNECTING, /* the byte stream is not there yet */
	CONN_HANDSHAKE,  /* TLS, or the server's SETTINGS have not come */
	CONN_OPEN,
	CONN_DEAD, /* its stream is gone, it is about to be freed */
};

struct client_connection {
	struct target *target;
	struct channel *ch;
	struct client *c;
	struct list link, due;
	void *stream;
	struct tls_session *tls;
	struct http2_client_session *h2;
	uint8_t state; /* enum connection_state */
	uint8_t health;
	bool failed;   /* to be closed */
	bool eof;      /* the peer sends no more */
	bool blocked;  /* the transport had no room: writable follows */
	bool retired;  /* takes no new calls */
	bool outdated; /* by a reload: its end says nothing of the target */
	bool pinged;
	uint32_t plain_used;
	uint64_t heard_ns;        /* bytes came */
	struct wheel_timer timer; /* connect time-out, then idleness */
	struct wheel_timer ping;
	struct wheel_timer watch; /* the next health watch */
	uint64_t watch_backoff_ns;
	struct attempt *watching;
};

/* ---- calls ------------------------------------------------------------------------------------
 */

enum {
	CALL_WAITING = 0x0001,     /* on channel.waiting */
	CALL_COMMITTED = 0x0002,   /* no further attempt but a transparent one */
	CALL_RELEASED = 0x0004,    /* a message was given back: no further attempt at all */
	CALL_END = 0x0008,         /* the caller has sent all messages */
	CALL_BLOCKED = 0x0010,     /* client_call_send said SPLIT_AGAIN */
	CALL_HEADERS = 0x0020,     /* events.headers was called, or will not be */
	CALL_PAUSED = 0x0040,      /* client_call_pause */
	CALL_NO_ROOM = 0x0080,     /* reserve said SPLIT_AGAIN */
	CALL_IN_MESSAGE = 0x0100,  /* a prefix was read */
	CALL_COMPRESSED = 0x0200,  /* ... with the Compressed-Flag */
	CALL_INFLATING = 0x0400,   /* it is whole and being inflated */
	CALL_FEEDING = 0x0800,     /* call_feed is on the stack */
	CALL_OVER = 0x1000,        /* status was told or is not to be: dead */
	CALL_FINAL = 0x2000,       /* `final` stands: told when the messages before it are */
	CALL_WAIT_READY = 0x4000,  /* client_request.wait_for_ready */
	CALL_PLAIN_KNOWN = 0x8000, /* plain_bytes is of the compressed message at hand */
};

enum encoding_in { IN_IDENTITY, IN_GZIP, IN_DEFLATE, IN_UNKNOWN };

/* The request's fields, in engine memory. Two entries behind `count` are free for an attempt's own.
 */
struct request_block {
	uint32_t count;
	struct http2_header h[];
};

/* How a call ends, kept while messages before it wait for room. One block of engine memory. */
struct final {
	struct client_status status;
	struct grpc_metadata md[];
};

struct client_call {
	struct channel *ch;
	const struct client_events *events;
	void *user;
	struct list link;     /* channel.waiting */
	struct list all;      /* channel.calls */
	struct list writable; /* client.writable */
	uint32_t flags;
	uint8_t kind;
	uint8_t encoding_in;
	uint8_t busy;       /* events under way: not freed */
	uint8_t prefix_len; /* of a message's prefix */
	uint8_t prefix[PREFIX_BYTES];
	uint8_t attempts;    /* that count for the policy */
	uint8_t backoffs;    /* since the last pushback */
	uint8_t transparent; /* attempts that do not count */
	uint8_t refused;     /* of them, those that the server refused */
	uint64_t deadline_ns;
	struct wheel_timer deadline;
	struct wheel_timer retry;
	struct picker_key key;
	struct request_block *request;
	struct attempt *attempt;

	/* Messages out. */
	struct client_message *first, *last; /* lent */
	struct client_message *at;           /* the next to send by this attempt */
	struct client_message *sent;         /* the one before it; NULL: it is the first */
	uint32_t at_prefix, at_iov;
	size_t at_offset;
	uint64_t queued; /* bytes not yet sent by this attempt */
	uint64_t kept;   /* bytes on the list; counted in channel.kept_bytes until committed */
	uint32_t sent_messages;

	/* Messages in. */
	uint8_t *buf;
	uint32_t message_bytes, message_done, message_bytes_max;
	uint32_t messages_in;
	struct hold hold;     /* bytes that came and were not read yet */
	struct hold packed;   /* the compressed message at hand */
	struct list inflate;  /* client.inflate_jobs */
	uint32_t plain_bytes; /* what it holds */
	struct final *final;
};

struct attempt {
	struct client_call *call; /* NULL: nobody is interested, or a health watch */
	struct client_connection *conn;
	struct target *target;
	bool watch;
	bool answered;   /* the answer's headers came */
	bool ended;      /* its outcome was decided */
	uint8_t watch_n; /* bytes of a health answer */
	uint8_t watch_bytes[32];
	const char *watch_send;
	uint32_t watch_at;
};

/* ---- client -----------------------------------------------------------------------------------
 */

struct client {
	struct client_config config;
	struct client_transport transport;
	struct wheel *wheel;
	uint64_t now_ns;
	struct channel *channels;
	unsigned channels_n; /* any thread may read it */
	unsigned channels_max;
	struct http2_client_engine *http2;
	struct tls_engine *tls; /* NULL: no channel has TLS, nor will any come */
	struct pool calls, connections, targets;
	struct list due_channels, due_connections, writable;
	struct list inflate_jobs;
	struct inflater *inflater;
	struct random random;
	struct grpc_metadata *metadata; /* of a list being told */
	uint8_t *decoded;
	bool draining, closing;
	uint64_t ticked_ns; /* pickers */
	char *user_agent;
};

/* `a` is the user room of its stream. */
struct http2_client_stream *attempt_stream(struct attempt *a);

/* client.c */
void channel_due(struct channel *ch);
void connection_due(struct client_connection *conn);
uint64_t client_jitter(struct client *c, uint64_t ns); /* plus or minus a fifth */
extern const struct http2_client_events attempt_events;
extern const struct tls_events connection_tls;

/* client_configure.c */
int channel_init(struct client *c, unsigned index,
		 const struct client_channel_config *cfg) SPLIT_MUST_USE;
void channel_fini(struct channel *ch);

/* client_channel.c: targets, and who waits for them. */
struct target *target_create(struct channel *ch, const struct client_address *address);
void target_connect_failed(struct target *t, const char *what, const char *why);
void target_connected(struct target *t);
/* A connection of it is gone, came, or is healthy: what the picker thinks of it. */
void target_update(struct target *t);
void target_gone(struct target *t);
/* Put waiting calls on connections, make connections for them, fail those that need not wait. */
void channel_dispatch(struct channel *ch);
/* A connection with room for the call; NULL: none now. */
struct client_connection *channel_pick(struct channel *ch, struct client_call *call);
void channel_connect(struct channel *ch);
/* Addresses that are not among these leave; none at all: nothing is known of where to go. */
void channel_forget(struct channel *ch, const struct client_address *keep, size_t n);
/* Its calls end, connections are closed, addresses freed. */
void channel_end(struct channel *ch);

/* client_connection.c */
int connection_begin(struct target *t);
void connection_work(struct client_connection *conn);
/* Let go of it at once: streams end, the transport is closed. Not from inside its own I/O. */
void connection_close(struct client_connection *conn, bool abort);
uint32_t connection_room(const struct client_connection *conn);
/* No new calls; it ends with its last. */
void connection_retire(struct client_connection *conn);
void connection_active(struct client_connection *conn);
void connection_health_set(struct client_connection *conn, enum health health);

/* client_health.c */
void health_begin(struct client_connection *conn);
void health_headers(struct attempt *a, const struct http2_header *h, size_t n, unsigned flags);
void health_data(struct attempt *a, const uint8_t *p, size_t n);
size_t health_body(struct attempt *a, uint8_t *dst, size_t room, bool *eof_out);
void health_closed(struct attempt *a);
void health_timer(struct wheel_timer *timer, uint64_t now_ns);
/* The channel's health_service goes: a watch under way is of no use. */
void health_drop(struct client_connection *conn);

/* client_call.c */
/* Begin an attempt on the connection; false: it took none. */
bool call_attempt(struct client_call *call, struct client_connection *conn);
void client_call_wait(struct client_call *call);
/* End it from this side: text is static. */
void client_call_fail(struct client_call *call, uint32_t status, const char *text);
/* As the server said; `final` (may be NULL: no memory) is the call's now. */
void call_final(struct client_call *call, struct final *final);
void call_commit(struct client_call *call);
/* Once committed: give back the messages that are sent. Not from inside client_call_send. */
void call_release_sent(struct client_call *call);
/* After any number of events: free it if it is over. */
static inline void call_enter(struct client_call *call)
{
	call->busy++;
}
void call_leave(struct client_call *call);
void call_deadline(struct wheel_timer *timer, uint64_t now_ns);
/* The call has nothing to do with its attempt any more; `result` is the target's. */
void call_detach(struct client_call *call, enum picker_result result);
void call_tell_final(struct client_call *call);
size_t call_body(struct client_call *call, uint8_t *dst, size_t room, bool *eof_out);

/* client_retry.c. An attempt failed before the call was committed. True: the call goes on. */
struct failure {
	uint32_t status;
	bool unsent, refused; /* the server has not seen it, or says so */
	bool pushback_given;
	int64_t pushback_ns; /* negative: do not retry */
};
bool retry_decide(struct client_call *call, const struct failure *f);
void retry_timer(struct wheel_timer *timer, uint64_t now_ns);
void retry_ended_ok(struct channel *ch);
/* What an address is told of a call that ended so. */
enum picker_result result_of(const struct channel *ch, uint32_t status);

/* client_message.c: from the server. */
void message_data(struct client_call *call, const uint8_t *p, size_t n);
/* Go on with what was held; ends the call when all is read and `final` stands. */
void message_go_on(struct client_call *call);
void message_drop(struct client_call *call);
/* The compressed message at hand holds call->plain_bytes: room for it. True: there is. */
bool message_room(struct client_call *call, uint32_t bytes);
/* It is in call->buf. */
void message_deliver(struct client_call *call, uint32_t bytes);

/* client_hold.c */
bool hold_add(struct client *c, struct hold *hold, const uint8_t *p, size_t n);
void hold_skip(struct client *c, struct hold *hold, size_t n);
void hold_drop(struct client *c, struct hold *hold);

/* client_inflate.c. One message at a time: its plain size first, then into the room. */
int inflater_create(struct inflater **out) SPLIT_MUST_USE;
void inflater_destroy(struct inflater *inf);
void inflate_begin(struct client_call *call);
void inflate_drop(struct client_call *call);
/* One quantum. */
void inflate_run(struct client *c);

/* client_text.c */
struct request_block *request_render(struct channel *ch, const struct client_request *request);
/* What it is sent over. */
void request_scheme(struct request_block *r, bool tls);
/* Custom metadata of a list, decoded, in client.metadata; how many. */
uint32_t metadata_decode(struct client *c, const struct http2_header *h, size_t n);
const struct http2_header *header_find(const struct http2_header *h, size_t n, const char *name);
/* The end of an answer in one block of engine memory; NULL: none left. */
struct final *final_make(struct client *c, const struct http2_header *h, size_t n);
uint32_t status_of_http(const char *status);
bool content_type_grpc(const struct http2_header *type);

#endif
