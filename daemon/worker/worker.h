/* The worker: one lcore that runs a request's whole way to completion.
 *
 *   port → net → http2 → grpc → (reserve, decode) → balance → shepherd → host
 *   port ← net ← http2 ← grpc ← encode           ←─────────── shepherd ←
 *
 * A worker owns its RX/TX queues, its TCP stack with all its connections, its timers, its part of
 * every endpoint (struct endpoint_port) and its pools. Nothing of it is touched by another thread
 * but the two message rings, the eventfd and the counters (read only).
 *
 * Threads. `worker_create`, `worker_destroy`, `worker_post` and `worker_reply_take` belong to the
 * control thread; `worker_run` to the worker's own lcore. Counters and cycles may be read by any
 * thread at any time.
 *
 * Call protocol. create → (lcore) run → post ENDPOINT_ADD … → post DRAIN → reply DRAINED → post
 * STOP → run returns → destroy. Both rings have one producer and one consumer.
 *
 * An endpoint is added and removed by messages. Between ENDPOINT_ADD and the reply ENDPOINT_QUIET
 * the worker may touch the endpoint; after ENDPOINT_QUIET it never does again, so once every worker
 * that got the ADD has replied the control thread may free it. A worker that finds the endpoint
 * broken says ENDPOINT_FAULT once and goes on; control then detaches it, which ends in REMOVE.
 */
#ifndef SPLITD_DAEMON_WORKER_WORKER_H
#define SPLITD_DAEMON_WORKER_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/error.h"

struct config;
struct endpoint;
struct port;
struct worker;

/* One queue pair of one port that this worker polls. */
struct worker_queue {
	struct port *port;
	uint16_t queue;
	unsigned port_index; /* in config->ports: its addresses, MTU, checksum policy */
};

#define WORKER_QUEUES_MAX 8

/* What a worker needs. Copied, but what the pointers name must outlive the worker. */
struct worker_config {
	const struct config *config;
	unsigned index;        /* in config->workers */
	unsigned worker_count; /* all workers of this splitd */
	unsigned lcore;        /* EAL lcore it will run on: for the NUMA node of its memory */
	struct worker_queue queues[WORKER_QUEUES_MAX];
	unsigned queue_count;
	/* Hosts write it to wake a sleeping worker (handed over at attach), worker_post too. Made by
	 * the control thread: eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC). The worker reads, never closes. */
	int wake_fd;
	/* Written (8 bytes) after a reply was queued; -1 when control polls instead. */
	int reply_fd;
};

enum worker_msg_kind {
	WORKER_ENDPOINT_ADD,    /* endpoint: active; the worker begins to send it calls */
	WORKER_ENDPOINT_REMOVE, /* endpoint: end its calls (UNAVAILABLE), forget it, reply QUIET */
	WORKER_DRAIN,           /* stop accepting, GOAWAY, let calls finish, reply DRAINED */
	WORKER_STOP,            /* abort what is left; worker_run returns; no reply */
};

struct worker_msg {
	enum worker_msg_kind kind;
	struct endpoint *endpoint; /* ENDPOINT_* */
	uint64_t timeout_ns;       /* DRAIN: after so long what is left is aborted */
};

enum worker_reply_kind {
	WORKER_ENDPOINT_FAULT, /* endpoint broke the protocol; error says how */
	WORKER_ENDPOINT_QUIET, /* endpoint: this worker holds nothing of it any more */
	WORKER_DRAINED,        /* no call and no connection is left */
};

struct worker_reply {
	enum worker_reply_kind kind;
	unsigned worker; /* its index */
	struct endpoint *endpoint;
	int error;
};

/* Create from a validated config: pools, stacks, listeners. All memory the data path will use is
 * taken here. 0, or a negative code and *worker_out is untouched. EAL and ports are up. */
int worker_create(const struct worker_config *cfg, struct worker **worker_out) SPLIT_MUST_USE;

/* Free everything. worker_run has returned (or never ran). NULL is fine. */
void worker_destroy(struct worker *worker);

/* Run until STOP; `worker` is a struct worker *. The shape of rte_eal_remote_launch. Returns 0. */
int worker_run(void *worker);

/* Queue a message and wake the worker. Control thread only. 0, or -SPLIT_E_BASE_LIMIT when the ring
 * is full (64 messages): try again later. */
int worker_post(struct worker *worker, const struct worker_msg *msg) SPLIT_MUST_USE;

/* Take one reply; false when there is none. Control thread only. */
bool worker_reply_take(struct worker *worker, struct worker_reply *reply_out);

/* The loop's stages, whose cycles are counted when stage counting is on. `idle` is everything spent
 * in polls that found nothing, and in sleep. */
#define WORKER_STAGES(X)                                                                           \
	X(port) X(net) X(tls) X(http2) X(grpc) X(decode) X(ring) X(encode) X(send) X(control) X(idle)

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

/* Switch stage counting (off at start; telemetry.stages in the config switches it on). Any thread. */
void worker_stages_enable(struct worker *worker, bool on);

/* One layer's counters of this worker, for telemetry. */
struct worker_counters_view {
	const char *layer; /* "net", "http2", "grpc", "balance", "shepherd", "worker"; static */
	const struct counter_desc *desc;
	size_t count;
	const uint64_t *values; /* read with relaxed loads; lives as long as the worker */
};

/* Fill at most `max` views, return how many. Any thread; the set never changes after create. */
size_t worker_counters(const struct worker *worker, struct worker_counters_view *out, size_t max);

/* Gauges at this moment, for telemetry and tests. Any thread; values may be of different instants. */
struct worker_gauges {
	uint64_t connections, calls, calls_queued, endpoints, encode_bytes, blocks_held, sleep_ns;
};
void worker_gauges_read(const struct worker *worker, struct worker_gauges *out);

#endif
