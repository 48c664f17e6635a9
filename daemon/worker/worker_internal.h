/* Inside daemon/worker only: what the loop (worker.c), the connections (connection.c), the calls
 * (call.c, prepare.c, publish.c), their answers (complete.c, encode.c), the idle sleep (idle.c) and
 * the messages (worker_control.c) share. Everything here belongs to the worker's thread.
 *
 * A call's way, and the lists it may stand on while it waits:
 *
 *   open     → struct call, method known, no endpoint
 *   reserve  → endpoint picked; wire bytes fit `small`, or get room in the endpoint's segment, or
 *              the call waits in its connection's room_share with nothing reserved (room.c)
 *   message  → prepare: large messages and metadata are decoded into blocks (attached.jobs while a
 *              decode goes on past its quantum; attached.prepare_wait while there is no room).
 *              Small ones are decoded at publication, straight into the slot
 *   publish  → balance_place: a slot on a lane, or balance's queue
 *   stream   → what may have many requests is published at once, without a message
 * (worker.opening); its messages follow one at a time, as many as the host has given credit for
 *   answer   → complete.c: replies, each encoded (attached.jobs, worker.reply_wait) and sent
 *   end      → grpc_finish; backend.closed frees the call
 *
 * Why waiting for room can't deadlock. Partition of an endpoint and worker: C bytes.
 *   1. Wire rooms together take at most C/2 (wire_max), each reserved whole or not at all; a stream
 *      that waits for one holds nothing of the segment. Each is freed after its decode.
 *   2. A decode that finds no room gives back all it got and waits in prepare_wait with its wire
 *      room only, first come first served; nobody but inline messages passes it.
 *   3. So linear bytes are held only by messages that are complete: queued here (they go out as
 *      lanes move), or with the host, which gives them back or is detached (release_timeout).
 *      Every byte but the wire rooms thus returns without anybody waiting for the head of
 *      prepare_wait, which then has C/2 for itself. If that is not enough it never will be:
 *      RESOURCE_EXHAUSTED.
 *   4. Answers need none of it: encode takes pages of the worker's own, under the same rule (give
 *      everything back, wait in order), and pages return as connections send. A connection holds at
 *      most conn_pages_max of them beyond its first answer; what it may not encode yet stays in the
 *      host's segment, and the connection's further calls wait until it reads (readers.c). A client
 *      that takes nothing for grpc.reader_timeout while answers wait for its share loses those
 * (they would hold the host's memory), sooner where that memory runs short, and its connection when
 *      others wait for pages or mbufs.
 *   5. A wire room whose bytes do not come is its client's fault: with other connections waiting,
 *      uploads slower than grpc.upload_timeout and upload_rate_min allow are ended.
 */
#ifndef SPLITD_DAEMON_WORKER_WORKER_INTERNAL_H
#define SPLITD_DAEMON_WORKER_WORKER_INTERNAL_H

#include <rte_mbuf.h>
#include <rte_ring.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/random.h"
#include "base/wheel.h"
#include "config/config.h"
#include "daemon/balance/balance.h"
#include "daemon/client/client.h"
#include "daemon/grpc/grpc.h"
#include "daemon/net/net.h"
#include "daemon/port/port.h"
#include "daemon/services/services.h"
#include "daemon/tls/tls.h"
#include "daemon/worker/lanes.h"
#include "daemon/worker/worker.h"
#include "linearize/linearize.h"
#include "shepherd/shepherd.h"

#define WORKER_COUNTERS(X)                                                                         \
	X(polls, "turns of the loop")                                                              \
	X(polls_empty, "turns that found nothing to do")                                           \
	X(busy_ns, "time spent in turns that found something")                                     \
	X(idle_poll_ns, "time spent in turns that found nothing, sleep not included")              \
	X(preempted_ns, "time of empty turns too long to be the worker's own: its core was taken") \
	X(sleeps, "times the worker slept")                                                        \
	X(sleep_ns, "time slept")                                                                  \
	X(connections, "connections accepted")                                                     \
	X(connections_refused, "connections refused: limit or draining")                           \
	X(connections_idle, "connections closed because nothing happened on them")                 \
	X(out_no_mbuf, "sends that had to wait for an mbuf")                                       \
	X(calls, "calls begun")                                                                    \
	X(calls_refused, "calls refused: limit of calls")                                          \
	X(calls_denied, "calls refused: the service does not allow the client (services[].allow)") \
	X(calls_elsewhere, "calls refused: not an authority of the listener or the service")       \
	X(host_waits, "calls that waited for a host to attach (wait_for_host, or wait-for-ready)") \
	X(host_waits_over, "of these, calls whose time was over")                                  \
	X(calls_answered, "calls whose host gave a status")                                        \
	X(calls_unavailable, "calls ended because no host, or not any more")                       \
	X(calls_exhausted, "calls ended because a queue, table or segment had no room for them")   \
	X(calls_cancelled, "calls that hosts were told to cancel")                                 \
	X(calls_taken_back, "calls taken back from a stuck host worker for a free one")            \
	X(hosts_off_cpu, "looks that found calls waiting for a host worker that has lost its CPU") \
	X(hosts_resumed, "retired host workers called back (RESUME)")                              \
	X(hosts_retired, "host workers found not to be needed (RETIRE)")                           \
	X(hosts_tryagain, "host workers told to look no longer (TRYAGAIN)")                        \
	X(hosts_yieldnow, "host workers asked to give up their core (YIELDNOW)")                   \
	X(calls_given_back, "calls that a host gave back unbegun")                                 \
	X(requests_small, "messages decoded straight into their slot")                             \
	X(requests_block, "messages decoded into blocks")                                          \
	X(requests_aliased, "of these: with strings or bytes left where they arrived")             \
	X(requests_wire, "messages handed over as they came, for the host to decode")              \
	X(requests_undecoded, "of these: the host could not decode them")                          \
	X(replies_wire, "answers that came encoded by the host")                                   \
	X(replies_unasked, "calls ended because such an answer came where the daemon encodes")     \
	X(uploads_slow, "messages given up: too slow while others waited for room")                \
	X(turn_ns_max, "longest turn of the loop")                                                 \
	X(turn_units_max, "most units of decode and encode work in one turn")                      \
	X(room_waits, "messages that waited for room for their wire bytes")                        \
	X(prepare_waits, "messages that waited for room for their decode")                         \
	X(decode_yields, "decodes that gave way to others and went on later")                      \
	X(decode_errors, "messages that could not be decoded")                                     \
	X(decode_bytes, "wire bytes decoded")                                                      \
	X(encode_yields, "encodes that gave way to others and went on later")                      \
	X(encode_errors, "answers that could not be encoded")                                      \
	X(refused_logged, "refused messages handed over for the log (log_refused)")                \
	X(refused_over_rate, "refused messages not logged: log.refused_rate")                      \
	X(refused_no_room, "refused messages not logged: log.refused_records wait already")        \
	X(encode_waits, "answers that waited for pages")                                           \
	X(encode_bytes, "wire bytes encoded")                                                      \
	X(readers_stalled, "calls given up because their client read nothing for long")            \
	X(calls_held, "calls held back until their client reads the answers it has")               \
	X(readers_cut, "connections reset: they held pages others waited for and read nothing")    \
	X(endpoints_added, "endpoints added")                                                      \
	X(endpoints_removed, "endpoints removed")                                                  \
	X(endpoint_faults, "endpoints found to break the protocol")                                \
	X(stream_messages, "messages of streams published after their request")                    \
	X(stream_credit_waits, "messages of streams held back until the host gave credit")         \
	X(stream_grants, "times a host was told that a stream has room again")                     \
	X(stream_overruns, "calls ended because their host sent more than it may")                 \
	X(outs, "calls out of hosts begun")                                                        \
	X(outs_refused, "calls out refused: the channel's calls_max, or no memory")                \
	X(outs_failed, "calls out ended here with a status that their callee did not give")        \
	X(outs_abandoned, "calls out that their host gave up, or whose own call had ended")        \
	X(outs_deadline, "calls out ended by their deadline")                                      \
	X(outs_room, "calls out ended because a message waited too long for memory")               \
	X(out_requests, "messages of calls out brought to their callee")                           \
	X(out_answers, "messages of answers brought to the caller")                                \
	X(messages, "messages taken from the control thread")                                      \
	X(gauge_connections, "connections now")                                                    \
	X(gauge_calls, "calls now")                                                                \
	X(gauge_queued, "calls waiting for a host worker now")                                     \
	X(gauge_endpoints, "endpoints now")                                                        \
	X(gauge_outs, "calls out now")                                                             \
	X(gauge_pages, "pages of encoded answers in use now")

COUNTER_DECLARE(worker, WORKER_COUNTERS);

/* Decodes, and encodes, that one endpoint may have under way, of all that the worker has. */
#define WORKER_JOBS_PER_ENDPOINT 8
/* Quanta of work when an endpoint goes: what it has answered is still encoded. */
#define WORKER_LAST_QUANTA 16

/* A message of at most so many wire bytes is kept in its call, without a wire room, and is decoded
 * at publication: it costs the segment nothing while it waits. Most of what such a message decodes
 * to fits the slot. */
#define CALL_SMALL_BYTES 512

/* Encode buffers: the first chunk of an answer lies in its struct reply, then one page of 4 KiB,
 * then pages of 64 KiB: small answers cost little, large ones few pieces. */
#define REPLY_SMALL_BYTES 512
#define PAGE_BYTES        4096u
#define PAGE_LARGE_BYTES  65536u
#define REPLY_IOV_INLINE  8

/* With less than this part of the port's mbufs free, a connection may have no more than
 * POOL_LOW_BYTES on the way to its client. */
#define POOL_LOW_PART  4
#define POOL_LOW_BYTES (64u * 1024u)

#define WORKER_BURST          32
#define WORKER_PORTS_MAX      CONFIG_PORTS_MAX
#define WORKER_JOBS_PER_TURN  64  /* resumed decodes and encodes in one turn, quanta allowing */
#define WORKER_POLL_SLOTS     64  /* completion slots taken of one endpoint in one turn */
#define WORKER_TIMERS         64  /* timers fired in one turn */
#define WORKER_METADATA_MAX   128 /* entries of one answer's metadata */
#define WORKER_METADATA_BYTES 16384

/* Metadata of a request, kept from open until it is written to the segment. In a page of its own
 * when it does not fit the call. */
#define CALL_METADATA_BYTES   256
#define CALL_METADATA_ENTRIES 4

struct attached;
struct call;
struct connection;
struct reply;
struct worker;

struct worker_port {
	struct worker *w;
	struct port_queue *queue;
	struct net_stack *net;
	struct rte_mempool *pool;
	struct tcp_listener *listeners[CONFIG_LISTENERS_MAX];
	struct worker_listener *listener_ctx;
	unsigned index;
	bool pool_low; /* as of the last tick */
};

struct worker_listener {
	struct worker_port *port;
	const struct config_listener *config;
	char layer[sizeof("listener_") + CONFIG_NAME_MAX]; /* of its counters */
	struct listener_counters counters;
	struct tls_context *tls; /* a reference; NULL: plain */
};

/* Bytes on their way into a TCP connection, in mbufs: see outgoing_lend. */
struct outgoing {
	struct rte_mbuf *head, *tail;
	uint32_t bytes;
	uint32_t room; /* what TCP takes in this send */
	uint32_t segment;
};

struct connection {
	struct worker *w;
	bool nested; /* none of the network: stands for a host that calls out (struct attached) */
	struct worker_port *port;
	const struct config_listener *listener;
	struct tcp_conn *tcp;
	struct grpc_connection *grpc;   /* NULL until a TLS handshake is done */
	struct tls_session *tls;        /* NULL: plain */
	struct services_socket *socket; /* on the board; NULL: it is not there */
	struct list link;               /* worker.connections */
	struct list due;                /* worker.due: something may be ready to be sent */
	struct list encode_wait;        /* struct reply by `wait`: over conn_pages_max */
	struct list held_calls;         /* struct call by `wait`: until encode_wait is empty */
	unsigned at_host;   /* calls that hosts have, or will have before any held one */
	struct list shares; /* struct room_share */
	uint64_t number;    /* among the worker's connections */
	struct wheel_timer idle;
	struct net_addr peer;
	struct outgoing out;
	uint32_t bytes_seen;    /* up to the length of a preface */
	uint64_t progress_ns;   /* when bytes last went out to TCP, or when there were none to go */
	uint64_t pace_ns;       /* when worker.reader_step bytes had gone since then (readers.c) */
	uint64_t pace_bytes;    /* that went since */
	uint64_t encoded_bytes; /* in replies encoded and not yet released */
	uint32_t windows_grown; /* its share of worker.windows_grown */
	bool out_starved;       /* the last reserve failed for want of an mbuf */
	bool eof, failed, reader_stalled;
	bool reads; /* it has taken a step's bytes once */

	/* TLS (connection_tls.c) */
	bool handshake_late;
	uint32_t plain_used; /* of the record being written */
	uint32_t held_bytes;
	struct rte_mbuf *held; /* received, and not taken while a handshake step is under way */
	struct rte_mbuf *held_last;
	/* By service: whether its allow list was looked at for this client, and lets it in. */
	uint64_t allow_known[CONFIG_SERVICES_MAX / 64];
	uint64_t allow_good[CONFIG_SERVICES_MAX / 64];
};

/* One method as an endpoint serves it; balance's route points here. */
struct method {
	struct attached *ep;
	const struct schema_message *input, *output; /* NULL: not served here (attached.served) */
	struct linear_limits decode_limits, encode_limits;
	enum grpc_kind kind;
	uint32_t read_ahead; /* messages of a stream published before its first credit */
	uint32_t index;      /* in the attach's table */
	uint64_t timeout_ns; /* of calls whose client gave none; 0: none */
	uint32_t failures;   /* bit per status that speaks against the endpoint */
	/* Left to its host (docs/PLACEMENT.md). */
	bool decode_at_host, encode_at_host;
	struct worker_method_told *told, own;
	bool log_refused; /* of its service, or channel */
	/* One that the host calls instead of serving it: `input` is the answer's type, `output` the
	 * request's, for that is how they go through the segments. */
	bool out;
	uint32_t channel; /* index in the config */
	char *path;       /* "/package.Service/Method" */
	uint32_t path_len;
};

static inline const struct config_channel *method_channel(const struct config *cfg,
							  const struct method *m)
{
	return &cfg->channels[m->channel];
}

/* This worker's view of one endpoint. Allocated and freed on the control thread. */
struct attached {
	struct list link; /* worker.endpoints */
	const struct worker_endpoint *we;
	struct worker *w;
	struct endpoint_counters *told; /* we->told of this worker, or `own` */
	struct endpoint_port *port;
	struct balance_endpoint *balance;
	struct method *methods;
	struct balance_route_config *routes; /* what it begins with */
	size_t routes_n;
	uint64_t *served;                          /* bit per method of the attach's table */
	uint64_t serves[CONFIG_SERVICES_MAX / 64]; /* bit per service of the configuration */
	struct list calls;                         /* struct call by in_ep */
	struct list room_turns; /* struct room_share by turn: connections that wait for wire room */
	struct list prepare_wait; /* struct call by wait: for linear room */
	struct list publish_wait; /* struct call by wait: later messages of streams; cancels */
	struct list grants;       /* struct call by grant: WRITABLE is due */
	/* Calls out: as a client of its callees; as the one who reads their answers. */
	struct connection as_client, as_reader;
	bool calls_out;
	uint64_t outer_max; /* bytes of its segment that requests may take: the rest is for answers
			     */
	uint64_t wire_used, wire_max;
	const struct room_share *room_front; /* who waits in front, and since when */
	uint64_t room_front_ns;
	uint64_t room_mark;        /* endpoint_bytes_used when a round last ended */
	bool room_look;            /* wire room came back since */
	unsigned unread;           /* of its answers that wait on a connection.encode_wait */
	uint64_t prepare_mark;     /* endpoint_bytes_used when prepare_wait's head last failed */
	uint64_t turn, turn_units; /* of work begun in that turn, and overdrawn before */
	uint64_t turn_quantum;     /* past it, new work goes to worker.jobs */
	uint64_t turn_budget;      /* the same, in proportion to its share, while it is contended */
	struct list jobs;          /* struct job: what goes on past its quantum */
	struct list job_turn;      /* worker.job_turns, while there are any (or were) */
	int64_t job_deficit;       /* units it may still use before the next has its turn */
	unsigned decoding, encoding; /* jobs held */
	int event_fd;
	bool faulted, removed;
	uint64_t drain; /* worker_msg.drain; 0: none */
	struct endpoint_counters own;

	/* lanes.c */
	struct lane_watch *watch; /* by lane */
	struct lane_scale scale;
	uint64_t look_ns, look_step_ns;
	uint64_t resumed_ns;
	bool look_wakes;    /* the worker shall not sleep past look_ns */
	bool worker_wanted; /* a call found no good place */
};

/* One connection's part in the wire room of one endpoint, while it has some or waits for some. */
struct room_share {
	struct list in_conn; /* connection.shares */
	struct list turn;    /* attached.room_turns, while calls wait */
	struct list calls;   /* struct call by wait: in order */
	struct attached *ep;
	uint64_t wire_used; /* of ep->wire_used */
	unsigned refs;      /* calls that have room or wait for it */
};

/* Work that goes on past its quantum; on attached.jobs. */
enum job_kind { JOB_DECODE, JOB_ENCODE };

struct job {
	struct list link;
	enum job_kind kind;
};

enum call_wait {
	CALL_WAIT_NONE,
	CALL_WAIT_ROOM,
	CALL_WAIT_PREPARE,
	CALL_WAIT_PUBLISH,
	CALL_WAIT_READER,
};

/* Calls out of a handler (nested.c). Two calls stand back to back: the call out, which is a call
 * of its host the other way round (what the host "answers" are the requests, what "comes from the
 * client" are the answers), and its callee, an ordinary call of another host (or of the same one).
 * Each is the other's client. Instead of a callee there may be a call of the daemon's own gRPC
 * client. */
struct nested {
	bool out;          /* it is a call out */
	bool linked;       /* its other side still counts */
	struct call *peer; /* the other of the two; NULL: gone, or remote */
	struct client_call *remote;
	struct list due; /* worker.nested_due */
	/* What comes from the other side. */
	struct grpc_chain *chain; /* a message of the peer's, until it is taken over */
	bool end;                 /* no message follows it */
	bool cut;                 /* the other side has gone: the call is to be closed */
	enum grpc_closed why;     /* in that case */
	/* Of a call out. */
	bool sent;        /* a message has gone to the other side */
	bool single;      /* one answer: told together with the status */
	bool headers;     /* its items are initial metadata that the host is to be told */
	bool ended;       /* `status` is known: nothing follows `chain` */
	bool half_closed; /* the host has sent its last request */
	bool parent_over; /* the call that it was made for has ended */
	bool waits;       /* for somebody who can answer; of a callee too */
	uint8_t status;
	uint16_t text_bytes;   /* the status message: the last of the call's items, when not 0 */
	struct list in_parent; /* call.children */
	struct wheel_timer timer;
	uint64_t deadline_ns; /* UINT64_MAX: none; of a callee too */
	uint64_t wait_ns;     /* since when it waits for memory; 0: it does not */
	uint64_t wait_mark;
};

struct call {
	struct worker *w;
	struct connection *conn; /* NULL once the client's side has closed */
	struct grpc_call *grpc;  /* NULL likewise */
	struct attached *ep;     /* picked; NULL before, and once the endpoint was removed */
	const struct method *method;
	struct balance_method *sought; /* held from open until pick */
	struct balance_call balance;
	struct list in_ep;
	struct list opening;   /* worker.opening: a stream to be published */
	struct list host_wait; /* worker.host_wait: nobody serves it yet */
	uint64_t wait_until_ns;
	struct list grant;
	struct list wait;
	enum call_wait waiting;
	enum grpc_kind kind;

	uint64_t call_id;
	unsigned lane;
	unsigned cancel_cause; /* waits in publish_wait to be told to the host; 0: none */
	uint32_t msg_seq;
	uint32_t credit; /* further messages the host takes (streams) */
	/* Messages of the host: out of `window` (shepherd's stream window), those done and not yet
	 * told. */
	uint32_t window, out, done;
	bool want;      /* the host waits for the next that is done */
	bool opened;    /* call_id is valid */
	bool published; /* REQUEST is out: lane is valid */
	bool inlined;   /* its message lies in the slot */
	bool answered;  /* the host gave a status: no more from it */
	bool host_over; /* the host has no part in it (any more) */
	bool finished;  /* grpc_finish was called */
	bool at_host;   /* counts in conn->at_host */
	bool asked;     /* reserve was refused for another reason than room: ask again */
	bool have_message, half_closed, half_close_out;
	bool message_ready, metadata_ready; /* lie in `blocks` */
	bool blocks_wanted;                 /* the message was found too large for a slot */
	bool prepare_alone;                 /* its decode began with nothing but wire rooms taken */
	bool from_small;   /* the message lies in `small` until the next one comes */
	bool compressed;   /* the message at hand came compressed */
	bool user_agent;   /* its host gets the client's (services[].user_agent) */
	bool as_wire;      /* the message at hand goes to the host as it is */
	bool handed_over;  /* a message has */
	bool answers_wire; /* the host was asked to encode what it answers */
	bool seen_whole;   /* all of the first message is in `small`, for choose.c */
	uint16_t seen;     /* bytes of its beginning that are */
	uint8_t refusals;

	/* The request message at hand. */
	uint8_t *wire;
	uint32_t wire_bytes;
	uint32_t refused_at;    /* decode_where() of its decode that failed */
	uint64_t wire_charged;  /* of ep->wire_used */
	uint64_t wire_wanted;   /* the same, while it waits */
	uint64_t wire_since_ns; /* when it got its room */
	struct room_share *share;
	struct endpoint_blocks wire_blocks;
	struct endpoint_blocks blocks;
	struct decode_job *decode;
	struct job job;
	uint64_t root;
	uint64_t metadata, trace, peer; /* host addresses */

	struct list replies; /* struct reply, in order; only the first is worked on */

	struct nested nested;
	struct list children; /* struct call by nested.in_parent: calls out made for it */

	/* Request metadata. Everything from here on is not cleared. */
	struct metadata_item *items;
	uint32_t items_n;
	uint8_t *items_page;
	struct pool *items_pool;
	struct metadata_item items_small[CALL_METADATA_ENTRIES];
	uint8_t items_bytes[CALL_METADATA_BYTES];
	_Alignas(16) uint8_t small[CALL_SMALL_BYTES];
};

enum reply_state {
	REPLY_NEW,     /* not begun, or given up for want of pages */
	REPLY_RUNNING, /* on attached.jobs */
	REPLY_ENCODED, /* grpc would not take it yet */
	REPLY_SENT,    /* grpc's, until release */
};

/* One thing the host said about a call that goes to the client in order: a message, a status, or
 * both. The host's memory behind it is held by `token` until it has been read. */
struct reply {
	struct grpc_chain chain;
	struct list link; /* call.replies, until sent */
	struct list wait; /* worker.reply_wait or connection.encode_wait */
	struct job job;
	struct worker *w;
	struct call *call;       /* valid as long as the reply */
	struct connection *conn; /* whose encoded_bytes it is charged to */
	enum reply_state state;
	bool has_message, has_status, has_token, compress;
	bool ends; /* the host's last request of a call out */
	bool second_large, text_kept;
	bool wire;     /* the message came encoded: */
	bool copying;  /* its bytes are being copied, */
	uint32_t left; /* so many are still to be, */
	uint32_t room; /* with so many free in the chunk got last */
	bool windowed; /* counts in call->out */
	unsigned lane;
	uint32_t status, text_bytes, msg_bytes;
	uint64_t token, msg, metadata, text;
	struct shepherd_window window;
	struct encode_job *encode;
	struct iovec *iov; /* chunks, while encoding in the order of getting */
	uint8_t *last;     /* start of the chunk got last */
	uint32_t iov_n, iov_max;
	uint64_t charged;              /* of conn->encoded_bytes */
	bool unread;                   /* counts in ep->unread: on conn->encode_wait */
	struct client_message message; /* `chain`, lent to daemon/client */
	struct iovec iov_inline[REPLY_IOV_INLINE];
	_Alignas(16) uint8_t copy[SLOT_INLINE_BYTES];
	_Alignas(16) uint8_t small[REPLY_SMALL_BYTES]; /* first chunk, or the kept text */
};

/* One message for the log, and what the worker has to give back for it. */
struct refused_record {
	struct worker_refused told; /* the consumer's from publication on */
	bool wakes;                 /* likewise: the worker waits for it */
	/* The worker's own, always. */
	struct endpoint_port *port; /* NULL: nothing to give back (any more) */
	unsigned lane;
	uint64_t token;
};

/* Records on their way to the control thread (refused.c): one producer, one consumer. */
struct refused_ring {
	struct refused_record *records;
	uint8_t *bytes; /* `each` for every record */
	uint32_t mask, each;
	uint32_t kept_max;             /* of them, bytes of a message */
	struct log_limit limit;        /* producer */
	uint64_t tail;                 /* producer */
	uint64_t over;                 /* producer: the consumer is done with all before it */
	cache_aligned uint64_t posted; /* producer: tail, for the consumer */
	cache_aligned uint64_t head;   /* consumer */
};

struct worker {
	struct worker_counters counters;
	struct shepherd_counters shepherd;
	uint64_t stage_cycles[WORKER_STAGE_COUNT]; /* committed at the end of each turn */
	uint64_t turn_cycles[WORKER_STAGE_COUNT];
	uint64_t turn_since, stage_since;
	enum worker_stage stage;
	bool stages_on;   /* this worker's copy of stages_want */
	bool stages_want; /* any thread, relaxed */

	const struct config *cfg;
	struct worker_params params;
	uint64_t now_ns;
	uint64_t slept_ns; /* in this turn */
	bool stop;
	bool busy; /* the last turn found something */

	struct worker_port ports[WORKER_PORTS_MAX];
	unsigned ports_n;
	struct grpc_server *grpc;
	struct services *services;
	uint64_t alive[CONFIG_SERVICES_MAX / 64]; /* bit per service that somebody serves now */
	struct tls_engine *tls;                   /* NULL: no listener speaks TLS */
	struct wheel wheel;
	struct wheel_timer tick, readers;
	uint64_t readers_period_ns;
	struct balance *balance;
	struct siphash_key random_key;
	uint64_t random_count;

	struct client *client; /* NULL: no channel to servers */
	_Atomic uint64_t channels_failing;
	struct list client_wires; /* its byte streams */
	struct pool wire_pool;
	struct pool connection_pool, call_pool, reply_pool, share_pool;
	struct pool decode_pool, encode_pool;
	struct pool page_pool, large_pool;
	uint64_t conn_pages_max;     /* bytes */
	uint64_t pages_spare;        /* bytes: for who has none yet */
	uint64_t reader_step;        /* bytes that a reader takes in the shortest patience */
	uint64_t readers_hurry_ns;   /* since when others wait for what readers hold; 0: no one */
	uint64_t readers_hurried_ns; /* when they did last; forgotten after a timeout without */
	uint32_t windows_grown, windows_grown_max; /* over all calls: what streams have beyond their
						    * first window */
	uint64_t pages_returned; /* counts; reply_wait's head is tried again when it moved */
	uint64_t pages_mark;

	struct list host_wait; /* struct call */
	struct list connections;
	struct list due;
	struct list opening;     /* struct call: streams that began in this turn */
	struct list job_turns;   /* struct attached by job_turn: whose jobs are next */
	struct attached *active; /* who got a call last, and when */
	uint64_t active_ns;
	uint64_t contended_ns;   /* when that was last another than shortly before */
	uint64_t deferred_turn;  /* in which calls had to wait for the next one */
	uint64_t turn;           /* counts */
	uint64_t turn_units;     /* work units of decodes and encodes in this turn */
	struct list reply_wait;  /* struct reply by wait: for pages or an encode job */
	struct list nested_due;  /* struct call by nested.due */
	uint32_t *channel_calls; /* calls out now, by channel */
	uint32_t outs_max;       /* of all channels: what the pools were made for */
	struct list endpoints;
	unsigned endpoints_n, endpoints_max;
	uint32_t routes_max; /* each endpoint's share is its hosts[].methods_max */

	bool draining, drained_said;
	bool cut; /* calls had to be cut off by the drain's deadline */
	uint64_t drain_deadline_ns;
	uint64_t drain_linger_ns; /* connections are let go; their last bytes have until then */

	struct rte_ring *msgs, *reports;
	struct log_ring log;
	struct refused_ring refused;
	int epoll_fd;
	uint64_t idle_since_ns;
	uint64_t idle_sleep_ns;
	uint64_t traffic_ns; /* when a frame or a host's word last came */
	bool ports_announce; /* each port has a descriptor that tells of every frame */
	bool core_shared;    /* with a host's worker, as of the last empty turn */
	int core;            /* its own */
	bool was_idle;       /* the last turn was empty */
	uint64_t gap_ns;     /* moving average of the time without work */
	uint64_t call_ns;    /* when there last was a call, as ticks saw it */
	bool tick_slow;

	/* Scratch for what a host sent along with a status. */
	struct metadata_item items[WORKER_METADATA_MAX];
	struct grpc_metadata metadata[WORKER_METADATA_MAX];
	uint8_t items_bytes[WORKER_METADATA_BYTES];
};

/* ---- stages (stats.c) ----------------------------------------------------------------------- */

/* Everything since the last switch counts for the stage left. Returns that, to switch back to. */
static inline enum worker_stage stage_enter(struct worker *w, enum worker_stage stage)
{
	enum worker_stage left = w->stage;

	if (w->stages_on) {
		uint64_t now = clock_cycles();

		w->turn_cycles[left] += now - w->stage_since;
		w->stage_since = now;
	}
	w->stage = stage;
	return left;
}

/* A turn of the loop, sleep included. If it found nothing to do, all it cost counts as idle. */
void stage_turn_begin(struct worker *w);
void stage_turn_end(struct worker *w, bool found_work);

/* ---- work ----------------------------------------------------------------------------------- */

/* A turn takes of each endpoint less than two quanta of decodes and encodes that begin in it, and
 * less than two quanta of those that go on: whatever one endpoint and its clients make of it, the
 * others have their turn.
 *
 * While calls of several endpoints come, each keeps to its budget (deficit round robin, Shreedhar &
 * Varghese 1995): handing over and taking back count too, small messages wait in balance's queue
 * when it is used up, and what was overdrawn is paid back in the turns that follow. An endpoint
 * that has the worker to itself hands over as much as comes. */

/* Several have calls if two did in so short a time. */
#define CONTENDED_NS (10 * CLOCK_NS_PER_MS)
/* What a slot costs, in units of decoding and encoding. */
#define UNITS_PUBLISH  32
#define UNITS_COMPLETE 32
/* More is not paid back: that it had the worker to itself a moment ago is no debt. */
#define OVERDRAWN_QUANTA 4
/* A budget is no less, whatever the shares. */
#define BUDGET_MIN 64

static inline bool worker_contended(const struct worker *w)
{
	return w->contended_ns != 0 && w->now_ns - w->contended_ns < CONTENDED_NS;
}

/* The endpoint gets a call. */
static inline void attached_active(struct attached *ep)
{
	struct worker *w = ep->w;

	if (w->active != ep && w->active != NULL && w->now_ns - w->active_ns < CONTENDED_NS)
		w->contended_ns = w->now_ns;
	w->active = ep;
	w->active_ns = w->now_ns;
}

static inline uint64_t attached_budget(const struct attached *ep)
{
	return worker_contended(ep->w) ? ep->turn_budget : ep->turn_quantum;
}

/* Begin its account of this turn, if that has not happened. */
static inline void attached_turn(struct attached *ep)
{
	uint64_t turns = ep->w->turn - ep->turn, budget = ep->turn_budget;

	if (turns == 0)
		return;
	ep->turn = ep->w->turn;
	if (worker_contended(ep->w) && ep->turn_units / budget >= turns)
		ep->turn_units = RTE_MIN(ep->turn_units - turns * budget,
					 ep->turn_quantum * OVERDRAWN_QUANTA);
	else
		ep->turn_units = 0;
}

static inline void attached_charge(struct attached *ep, uint64_t units)
{
	attached_turn(ep);
	ep->turn_units += units;
	counter_add(&ep->told->units, units);
}

static inline bool attached_spent(struct attached *ep)
{
	attached_turn(ep);
	return ep->turn_units >= attached_budget(ep);
}

/* It has had its share of this turn, and others want theirs: the next. */
static inline bool attached_over(struct attached *ep)
{
	if (likely(!worker_contended(ep->w)) || !attached_spent(ep))
		return false;
	ep->w->deferred_turn = ep->w->turn;
	return true;
}

/* A job goes on when its endpoint has its turn. */
static inline void job_add(struct attached *ep, struct job *job)
{
	list_add_tail(&ep->jobs, &job->link);
	if (list_empty(&ep->job_turn))
		list_add_tail(&ep->w->job_turns, &ep->job_turn);
}

/* Units that were spent on other work than a job's. `ep` as in decode_go. */
static inline void units_spent(struct worker *w, uint64_t units, struct attached *ep)
{
	w->turn_units += units;
	if (ep != NULL)
		attached_charge(ep, units);
}

/* Run for one quantum. `ep`: whose new work it is; NULL for what goes on. */
static inline int decode_go(struct worker *w, struct decode_job *job, struct attached *ep)
{
	uint64_t before = decode_work(job), units;
	int err = decode_run(job);

	units = decode_work(job) - before;
	w->turn_units += units;
	if (ep != NULL)
		attached_charge(ep, units);
	return err;
}

static inline int encode_go(struct worker *w, struct encode_job *job, struct attached *ep)
{
	uint64_t before = encode_work(job), units;
	int err = encode_run(job);

	units = encode_work(job) - before;
	w->turn_units += units;
	if (ep != NULL)
		attached_charge(ep, units);
	return err;
}

#define worker_log_msg(w, level, ...) log_ring_msg(&(w)->log, (w)->now_ns, level, __VA_ARGS__)

#include "daemon/worker/worker_parts.h"

#endif
