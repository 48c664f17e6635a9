/* The worker: one lcore that runs a request's whole way to completion.
 *
 *   port → net → http2 → grpc → (reserve, decode) → balance → shepherd → host
 *   port ← net ← http2 ← grpc ← encode           ←─────────── shepherd ←
 *
 * A worker owns its RX/TX queues, its TCP stack with all its connections, its timers, its part of
 * every endpoint (struct endpoint_port) and its pools. Nothing of it is touched by another thread
 * but the two message rings, the eventfd and the counters (read only).
 *
 * Threads. `worker_create`, `worker_destroy`, `worker_post` and `worker_report_next` belong to the
 * control thread; `worker_run` to the worker's own lcore. Counters and cycles may be read by any
 * thread at any time.
 *
 * Call protocol. create → (lcore) run → post ENDPOINT_ADD … → post DRAIN → report DRAINED → post
 * STOP → run returns → destroy. Both rings have one producer and one consumer.
 *
 * An endpoint is added and removed by messages. Between ENDPOINT_ADD and the report ENDPOINT_QUIET
 * the worker may touch the endpoint; after ENDPOINT_QUIET it never does again, so once every worker
 * that got the ADD has reported it the control thread may free it. A worker that finds the endpoint
 * broken says ENDPOINT_FAULT once and goes on; control then detaches it, which ends in REMOVE.
 */
#ifndef SPLITD_DAEMON_WORKER_WORKER_H
#define SPLITD_DAEMON_WORKER_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"

struct attach_method;
struct config;
struct config_host;
struct endpoint;
struct log_ring;
struct schema;
struct services_board;
struct services_catalog;
struct port_set;
struct tls_context;
struct tls_helpers;
struct worker;

/* What one worker says of one endpoint's load; each on a line of its own, read and written relaxed.
 * `busy_permille` is over the last 100 ms. */
struct worker_load {
	_Alignas(64) uint64_t queue_ns; /* age of the oldest call that no host worker has begun */
	uint64_t active;                /* host workers that are not retired */
	uint64_t busy_permille;         /* of their time that was spent in handlers */
};

/* What a worker needs. Copied, but what the pointers name must outlive the worker. */
struct worker_params {
	const struct config *config;
	struct port_set *ports; /* started; the worker takes its queue of each */
	unsigned index;     /* in config->workers; it will run on lcore port_worker_lcore(index) */
	unsigned workers_n; /* all workers of this splitd */
	/* Of all workers (daemon/services): made from the configuration by worker_board_create,
	 * destroyed after the last worker. */
	struct services_board *board;
	/* Hosts write it to wake a sleeping worker (handed over at attach), worker_post does too.
	 * Made by the control thread: eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC), closed by it after
	 * worker_destroy. */
	int wake_fd;
	/* Gets 8 bytes (1) after a report was queued; -1 when control polls for reports. */
	int report_fd;
	/* By listener: the certificates it begins with, NULL where it speaks no TLS; the worker
	 * takes references. NULL: no listener does. */
	struct tls_context *const *tls_contexts;
	struct tls_helpers *tls_helpers; /* NULL: the worker carries handshakes itself */
	/* By channel: what it speaks to servers; NULL where it is plain. NULL: all are. */
	struct tls_context *const *channel_tls;
};

/* One worker's part in one endpoint. Gauges are a few milliseconds old. */
#define ENDPOINT_COUNTERS(X)                                                                       \
	X(calls, "calls that were given to it")                                                    \
	X(failed, "of these: ended with a status that counts as a failure")                        \
	X(units, "units of work done for it: decoding, handing over, encoding")                    \
	X(deferred, "times its calls had to wait: it had had its share of a turn")                 \
	X(gauge_open, "calls it has now")                                                          \
	X(gauge_queued, "of these: calls that wait for one of its workers")                        \
	X(gauge_bytes, "bytes of its segment taken by requests now")                               \
	X(gauge_stalled, "1: gets no calls, for it takes none")                                    \
	X(gauge_failing, "1: gets no calls of some service, for it fails")                         \
	X(gauge_draining, "number of the drain under way; 0: none")                                \
	X(gauge_drained, "the same, once its last call is over")

COUNTER_DECLARE(endpoint, ENDPOINT_COUNTERS);

/* How often the messages of one method were decoded and encoded here, or left to its host, at one
 * worker. */
struct worker_method_told {
	uint64_t decoded, handed_over; /* requests */
	uint64_t encoded, taken_over;  /* answers */
};

/* What workers must know of one attached host. Made by the control thread before ENDPOINT_ADD, the
 * same for all workers, unchanged and alive until the last of them has said QUIET. */
struct worker_endpoint {
	/* What each worker tells of it, by worker; written by the workers, read by any thread.
	 * NULL: nobody asks. */
	struct endpoint_counters *told;
	/* The same of each method: by worker, then by method; written by the workers. NULL: nobody
	 * asks. */
	struct worker_method_told *methods_told;
	struct endpoint *endpoint;
	const struct config_host *host;      /* a copy: lane_depth, stall_timeout, … */
	uint32_t host_index;                 /* in config->hosts */
	const struct schema *schema;         /* parsed from the attach's blob */
	const struct attach_method *methods; /* by the index that slots carry; schema indices
					      * checked: schema_message_at() finds both */
	size_t methods_n;
	/* By method, its service's index in config->services; -1: not configured. Control changes
	 * it in a reload only, before WORKER_MSG_CONFIG. */
	const int16_t *services;
	const struct services_catalog *catalog; /* for reflection; NULL: nothing is known */
	uint64_t id;  /* the same for whoever takes this one's place among those of its name */
	int32_t node; /* memory node of its segments; negative: unknown */
	bool remote;  /* a relay's: messages cross its stream as structs, whoever is to decode */
	struct worker_load *load;     /* by worker; NULL: the number of host workers stays */
	const uint64_t *on_cpu;       /* by host worker, as sched.h has it; NULL: not known */
	const uint64_t *cores_shared; /* bit by worker: a host worker has its core and no other;
				       * NULL: not known */
};

/* Addresses of a channel's name. The control thread's; it frees the list once it has another and no
 * worker reads this one any more. */
struct worker_address {
	uint8_t family; /* 4 or 6 */
	uint8_t bytes[16];
	uint16_t port;
};
struct worker_addresses {
	struct list link;
	atomic_uint readers; /* messages under way; a worker takes its own off when it has copied */
	uint32_t n;          /* 0: the name cannot be resolved */
	struct worker_address at[];
};

enum worker_msg_kind {
	WORKER_MSG_ENDPOINT_ADD,    /* endpoint: active; the worker begins to send it calls */
	WORKER_MSG_ENDPOINT_REMOVE, /* endpoint: end its calls (UNAVAILABLE), forget it, say QUIET
				     */
	WORKER_MSG_LANE, /* endpoint: say lane_kind to host worker `lane`, if there is room */
	WORKER_MSG_ENDPOINT_DRAIN, /* endpoint: no new calls for it; `drain` is told by the
				    * gauges once it is known and once nothing is left. 0: calls
				    * again */
	WORKER_MSG_TLS,            /* tls_context: new connections of `listener` get it */
	WORKER_MSG_CONFIG,         /* config: made by config_succeed, in force from now on; say
				    * CONFIG, and the one before is not touched any more */
	WORKER_MSG_ADDRESSES,      /* addresses: of `channel` from now on */
	WORKER_MSG_DRAIN,          /* stop accepting, GOAWAY, let calls finish, say DRAINED */
	WORKER_MSG_STOP,           /* abort what is left; worker_run returns; no report */
};

struct worker_msg {
	enum worker_msg_kind kind;
	const struct worker_endpoint *endpoint; /* ENDPOINT_*, LANE */
	uint32_t lane, lane_kind;               /* LANE: enum slot_kind */
	uint64_t drain;                         /* ENDPOINT_DRAIN */
	uint64_t deadline_ns;               /* DRAIN: clock_ns() at which what is left is aborted */
	struct worker_addresses *addresses; /* ADDRESSES; its `readers` has one for this */
	uint32_t channel;
	struct tls_context *tls_context; /* TLS; the worker takes a reference */
	uint32_t listener;
	const struct config *config; /* CONFIG; ENDPOINT_ADD: the one in force for control */
};

enum worker_report_kind {
	WORKER_REPORT_ENDPOINT_FAULT, /* endpoint broke the protocol or a promise; cause says how */
	WORKER_REPORT_ENDPOINT_QUIET, /* endpoint: this worker holds nothing of it any more */
	WORKER_REPORT_CONFIG,         /* this worker has taken the last CONFIG over */
	WORKER_REPORT_DRAINED, /* no call is left; cause -SPLIT_E_BASE_LIMIT if some were cut */
};

struct worker_report {
	enum worker_report_kind kind;
	unsigned worker; /* its index */
	const struct worker_endpoint *endpoint;
	int cause; /* negative code or 0 */
};

/* The board that the workers of one configuration share. 0 or -SPLIT_E_BASE_NOMEM. */
int worker_board_create(const struct config *config,
			struct services_board **board_out) SPLIT_MUST_USE;
/* NULL is fine. */
void worker_board_destroy(struct services_board *board);

/* Create from a validated config: pools, stacks, listeners. All memory the data path will use is
 * taken here. Ports are created. 0, or a negative code (*worker_out is untouched, one clear line is
 * in the log). */
int worker_create(const struct worker_params *params, struct worker **worker_out) SPLIT_MUST_USE;

/* Free everything. worker_run has returned (or never ran). NULL is fine. */
void worker_destroy(struct worker *worker);

/* Run until STOP; `worker` is a struct worker *. The shape of rte_eal_remote_launch. Returns 0. */
int worker_run(void *worker);

/* Queue a message and wake the worker. Control thread only. 0, or -SPLIT_E_BASE_LIMIT when the ring
 * is full: try again later. */
int worker_post(struct worker *worker, const struct worker_msg *msg) SPLIT_MUST_USE;

/* How many attached processes it has room for, made when it was. */
unsigned worker_endpoints_max(const struct worker *worker);
/* How many those hosts may be at once. */
unsigned worker_endpoints_wanted(const struct config *config);

/* Take one report; false when there is none. Control thread only. */
bool worker_report_next(struct worker *worker, struct worker_report *report_out);

/* A message that was refused, of a method whose service or channel has log_refused. */
struct worker_refused {
	uint64_t now_ns;                        /* the worker's clock */
	const struct worker_endpoint *endpoint; /* whose method it is */
	uint32_t method;                        /* index in endpoint->methods */
	const struct schema_message *message;
	bool answer; /* of the method; else its request */
	int error;   /* negative */
	int status;  /* the call's, gRPC's */
	/* The other side: a host that calls out, or the client on the network. */
	const struct worker_endpoint *caller; /* NULL: `peer` */
	struct worker_address peer;           /* family 0: not known */
	uint64_t bytes;                       /* on the wire; UINT64_MAX: not known */
	/* Its wire bytes, the first `kept` of them; NULL: none. */
	const uint8_t *wire;
	uint32_t kept;
	uint64_t at; /* decode_where(); UINT64_MAX: not known */
	/* The linear message at the host's address `root`; NULL: none. It is the host's memory, to
	 * be read as an encode job reads it, until worker_refused_done. */
	const uint8_t *mem;
	uint64_t peer_base, mem_bytes, root;
};

/* The oldest that was not done with; NULL: there is none. Control thread only. What it points to is
 * there until worker_refused_done, which takes it off, and until its endpoint (or its caller) is
 * freed: read all that there is before that. */
const struct worker_refused *worker_refused_first(struct worker *worker);
void worker_refused_done(struct worker *worker);

/* Channels (bit by index) to whose addresses a connect has failed since this was asked last. */
uint64_t worker_channels_failing(struct worker *worker);

/* The ring its log records go to; the control thread drains it. Never NULL. */
struct log_ring *worker_log(struct worker *worker);

/* The loop's stages, whose cycles are counted when stage counting is on. `idle` is everything spent
 * in polls that found nothing, and in sleep. */
#define WORKER_STAGES(X)                                                                           \
	X(port)                                                                                    \
	X(net) X(tls) X(http2) X(grpc) X(decode) X(ring) X(encode) X(send) X(control) X(idle)

enum worker_stage {
#define X(name) WORKER_STAGE_##name,
	WORKER_STAGES(X)
#undef X
		WORKER_STAGE_COUNT
};

/* Name of a stage ("port"); static. */
const char *worker_stage_name(enum worker_stage stage);

/* Cycles spent in each stage since start or since stages were last switched on. Any thread. */
void worker_stages_read(const struct worker *worker, uint64_t cycles_out[WORKER_STAGE_COUNT]);

/* Switch stage counting (off at start; telemetry.stages in the config switches it on). Any thread.
 */
void worker_stages_enable(struct worker *worker, bool on);

/* How a service's picker has chosen (daemon/balance/picker.h). `service`: index in the config. Any
 * thread; lives as long as the worker. */
struct picker_counters;
const struct picker_counters *worker_service_counters(const struct worker *worker, size_t service);

/* One layer's counters of this worker, for telemetry. */
struct worker_counter_block {
	const char *layer; /* "worker", "net" (one for each port), "http2", "grpc", …; static */
	const struct counter_desc *desc;
	size_t n;
	const uint64_t *values; /* read with relaxed loads; lives as long as the worker */
};

/* Fill at most `max` blocks, return how many. Any thread; the set never changes after create. */
size_t worker_counters(const struct worker *worker, struct worker_counter_block *out, size_t max);

/* Gauges at this moment, for telemetry and tests. Any thread; values may be of different instants.
 */
struct worker_gauges {
	uint64_t connections, calls, calls_queued, endpoints, pages, sleep_ns;
};
void worker_gauges_read(const struct worker *worker, struct worker_gauges *out);

#endif
