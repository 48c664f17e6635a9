/* Balance: which endpoint gets a call, and which of its workers.
 *
 * One `struct balance` for each daemon worker, used by that worker only; no lock, no clock, no
 * DPDK. Two decisions are taken at two moments:
 *
 *   balance_pick   when a call's first message announces itself: the endpoint, because the message
 *                  is decoded into that endpoint's segment. By the policy of the service's picker
 *                  (picker.h), over the attached endpoints that serve the method, are not ejected
 *                  and do not drain.
 *   balance_place  when the request is ready: the lane (host worker), by what the host's workers
 *                  say of themselves (Lauberhorn): one that polls and has nothing ahead of it; else
 *                  one that runs and has less than `lane_depth` ahead; else a parked one, which the
 *                  caller wakes. A lane whose oldest slot has waited longer than `lane_patience_ns`
 *                  is used only after the parked ones, so that a short call does not wait behind a
 *                  long handler while another worker sleeps. When no lane has room the call joins
 *                  the endpoint's queue, which each service may fill up to its `queue_max`.
 *
 * A worker whose lane ran empty while calls queued for it is brisk: it was starved, and each refill
 * cost a wake. Its own bound doubles each time, up to `lane_depth_max`, so that one wake brings
 * many calls; it halves, down to `lane_depth`, when a slot published since has waited LANE_PACE_NS.
 * Past `lane_depth` it gets only what would otherwise be queued.
 *
 * Call protocol: lookup → pick → place (0, or queued and later handed out by balance_next) → done.
 * `balance_done` ends a picked call in any state, exactly once; what `result` says then counts for
 * its endpoint's health. The caller embeds struct balance_call in its call and keeps it still while
 * picked.
 *
 * A lane that does not take a published slot within the endpoint's stall_timeout is passed over;
 * when no lane of an endpoint is usable the endpoint is ejected: not picked any more, and its
 * queued calls are given back to the caller to be ended (none of them was handed over). It returns
 * by itself as soon as one lane is usable again.
 *
 * Bounds: services, methods, routes and endpoints are limited at create; nothing is allocated
 * later. Names are hashed with a random key (they come from peers).
 */
#ifndef SPLITD_DAEMON_BALANCE_BALANCE_H
#define SPLITD_DAEMON_BALANCE_BALANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/siphash.h"
#include "daemon/balance/picker.h"

struct balance;
struct balance_endpoint;
struct balance_method;
struct balance_service;

enum balance_lane_state {
	BALANCE_LANE_POLLING, /* looks at its rings right now */
	BALANCE_LANE_RUNNING, /* in a handler */
	BALANCE_LANE_PARKED,  /* sleeps; must be woken after a publish */
	BALANCE_LANE_RETIRED, /* takes no calls */
};

struct balance_lane {
	enum balance_lane_state state;
	uint32_t ahead;     /* slots published and not yet taken */
	uint64_t oldest_ns; /* when the oldest slot that nobody has begun was published; 0: none */
	bool full;          /* the ring has no free slot */
	bool last_resort;   /* its worker is stuck in a handler, or has lost its CPU */
};

/* What balance asks of an endpoint. Must be cheap: it is called for every lane of every placed
 * call. What it reports comes from the host and need not be true; nothing here depends on it. */
struct balance_lanes {
	void (*lane_get)(void *endpoint, unsigned lane, struct balance_lane *out);
	/* A call found no lane, or only one of last resort, while there are retired ones. NULL:
	 * nobody wants to know. */
	void (*wanted)(void *endpoint);
};

struct balance_service_config {
	const char *name; /* "package.Service" */
	struct picker_config picker;
	uint32_t queue_max; /* calls of this service that may wait in queues of this worker */
	uint32_t calls_max; /* picked and not done, on this worker */
	uint64_t queue_timeout_ns; /* a call that waited so long is given back; 0: never */
	bool placed_here;          /* false: this worker refuses its calls */
};

struct balance_config {
	const struct balance_service_config *services;
	size_t services_n;
	size_t services_max; /* that balance_service_set may make of them; at least services_n */
	uint32_t endpoints_max;
	uint32_t routes_max; /* sum of all methods of all endpoints */
	uint32_t flows_max;  /* connections with queued calls, for each endpoint and service; those
			      * past it share a flow. 0: 1024 */
	uint64_t lane_patience_ns;
	struct siphash_key hash_key;
	void *ctx;
	/* A queued call is given back, from inside balance_tick: its endpoint was ejected (cause
	 * -SPLIT_E_BALANCE_NONE), it waited for queue_timeout_ns (-SPLIT_E_BALANCE_TIMEOUT), or the
	 * queue was full and its flow the longest (-SPLIT_E_BALANCE_FULL). It is off the queue and
	 * stays picked: call balance_done. `call` is its user pointer. */
	void (*dropped)(void *ctx, void *call, int cause);
};

struct balance_flow;
struct balance_member;

/* Lives in the caller's call. Zero it before the first pick. */
struct balance_call {
	void *user;
	uint64_t flow; /* whose call it is: calls that have it equal stand in one line */
	enum picker_result result; /* for balance_done; PICKER_NEUTRAL at first */

	/* Balance's own. */
	struct list link; /* in its flow while queued; among those to be given back */
	struct balance_endpoint *endpoint;
	struct balance_service *service;
	struct balance_member *member;
	struct balance_flow *line;
	uint64_t queued_ns;
	int dropped; /* why it will be given back */
	bool queued;
};

#define BALANCE_COUNTERS(X)                                                                        \
	X(picked, "calls for which an endpoint was chosen")                                        \
	X(unknown_service, "calls to services that no configuration names")                        \
	X(unknown_method, "calls to methods that no attached endpoint serves")                     \
	X(not_placed_here, "calls to services that are not placed on this worker")                 \
	X(no_endpoint, "calls to services that nobody attached serves")                            \
	X(placed_polling, "calls published to a polling host worker")                              \
	X(placed_running, "calls published ahead of a running host worker")                        \
	X(placed_parked, "calls published to a parked host worker, which was woken")               \
	X(placed_deep, "calls published past lane_depth ahead of a brisk host worker")             \
	X(placed_late, "calls published to a lane that had not moved for long: none better")       \
	X(queued, "calls that waited in a service queue")                                          \
	X(queue_full, "calls refused: the service queue was full")                                 \
	X(queue_evicted, "of these: calls of the longest flow that gave way to another's")         \
	X(queue_deferred, "calls that waited because their endpoint had had its share of a turn")  \
	X(draining, "times an endpoint began to drain")                                            \
	X(drained, "times a draining endpoint had finished its last call")                         \
	X(ejected, "times an endpoint was ejected for not taking slots")                           \
	X(restored, "times an ejected endpoint came back")                                         \
	X(dropped, "queued calls given back because their endpoint was ejected")                   \
	X(queue_timeouts, "queued calls given back because they waited too long")                  \
	X(calls_full, "calls refused: the service had calls_max")                                  \
	X(routes_refused,                                                                          \
	  "methods of attached endpoints that were ignored: limits or unknown service")

COUNTER_DECLARE(balance, BALANCE_COUNTERS);

/* Create; `cfg` and its strings are copied. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_INVALID. */
int balance_create(const struct balance_config *cfg, struct balance **out) SPLIT_MUST_USE;

/* No call may be picked and no endpoint added any more. NULL is fine. */
void balance_destroy(struct balance *b);

struct balance_route_config {
	const char *service, *method; /* NUL-terminated; copied */
	void *user;                   /* given back by balance_pick: the endpoint's own method */
	uint32_t weight; /* the endpoint's, in the route's service (that of its first route there
			  * counts); 0: 1 */
};

struct balance_endpoint_config {
	void *user;   /* handed to lane_get */
	uint64_t id;  /* picker_member_config.id */
	int32_t node; /* its memory's; PICKER_NODE_ANY */
	const struct balance_lanes *ops;
	unsigned lanes; /* 1 .. BALANCE_LANES_MAX */
	uint32_t lane_depth;
	uint32_t
		lane_depth_max; /* for brisk workers; lane_depth or less: no more than lane_depth */
	uint64_t stall_timeout_ns;
	const struct balance_route_config *routes;
	size_t routes_n;
};

#define BALANCE_LANES_MAX 64

/* Add an attached endpoint; from now on it is picked. Routes to services that the configuration
 * does not name, and those past routes_max, are left out and counted. 0, -SPLIT_E_BASE_LIMIT
 * (endpoints_max), -SPLIT_E_BASE_INVALID. */
int balance_endpoint_add(struct balance *b, const struct balance_endpoint_config *cfg,
			 struct balance_endpoint **out) SPLIT_MUST_USE;

/* Finishes what it has and is not picked any more; or is again. */
void balance_endpoint_drain(struct balance *b, struct balance_endpoint *e, bool drains);

/* Change the service of this index, or add it as the next one. `service` NULL: it is gone, nobody
 * finds it. Copied. 0, -SPLIT_E_BASE_LIMIT (services_max), -SPLIT_E_BASE_INVALID. */
int balance_service_set(struct balance *b, size_t index,
			const struct balance_service_config *service) SPLIT_MUST_USE;

/* One more method of an endpoint that is not closed. 0, or -SPLIT_E_BASE_LIMIT, counted:
 * routes_max, or a service that nobody knows. */
int balance_route_add(struct balance *b, struct balance_endpoint *e,
		      const struct balance_route_config *route) SPLIT_MUST_USE;
/* And one less: calls already picked stay valid until balance_done. One it does not have is
 * ignored. */
void balance_route_remove(struct balance *b, struct balance_endpoint *e,
			  const struct balance_route_config *route);

/* Not picked any more, by nobody; calls already picked stay valid until balance_done. */
void balance_endpoint_close(struct balance *b, struct balance_endpoint *e);

/* Free it. Closed before, and balance_done was called for all its calls. */
void balance_endpoint_remove(struct balance *b, struct balance_endpoint *e);

/* Find the method of an HTTP/2 :path ("/package.Service/Method", not NUL-terminated). 0 and the
 * method, or -SPLIT_E_BALANCE_UNKNOWN (no configuration names the service), -SPLIT_E_BALANCE_METHOD
 * (its endpoints do not serve the method), -SPLIT_E_BALANCE_NONE (nobody that is attached for it
 * takes calls), -SPLIT_E_BALANCE_ELSEWHERE (not placed on this worker). On success the caller holds
 * a reference to the method until balance_method_put; its endpoints may come and go meanwhile. */
int balance_lookup(struct balance *b, const char *path, size_t len,
		   struct balance_method **method_out) SPLIT_MUST_USE;
void balance_method_put(struct balance *b, struct balance_method *m);

/* User pointer of one route of the method, whichever: what all its endpoints should agree on may be
 * read from it. NULL when no endpoint serves it any more. */
void *balance_method_any(const struct balance_method *m);

/* Index of the method's service in balance_config.services. */
size_t balance_method_service(const struct balance *b, const struct balance_method *m);

/* Choose an endpoint for `call`, by what `key` says of it (its `fits` is balance's; NULL: nothing
 * is known). 0 and the route's user pointer, or -SPLIT_E_BALANCE_NONE (none is usable),
 * -SPLIT_E_BALANCE_CALLS (the service has calls_max); `call` is then untouched. */
int balance_pick(struct balance *b, struct balance_method *m, const struct picker_key *key,
		 struct balance_call *call, void **route_out) SPLIT_MUST_USE;

/* Choose a lane for a picked call. 0 and the lane: the caller publishes at once. SPLIT_AGAIN: the
 * call is queued. -SPLIT_E_BALANCE_FULL: the service's queue is full; the call stays picked. */
int balance_place(struct balance *b, struct balance_call *call, uint64_t now_ns,
		  unsigned *lane_out) SPLIT_MUST_USE;

/* Queue a picked call though there may be a lane: its endpoint has had its share. As balance_place,
 * but never 0. */
int balance_defer(struct balance *b, struct balance_call *call, uint64_t now_ns) SPLIT_MUST_USE;

/* The next queued call of `e`, flows taking turns, if a lane has room now; it is off the queue.
 * Else NULL. The caller publishes it at once. Call until NULL after completions came in. */
struct balance_call *balance_next(struct balance *b, struct balance_endpoint *e, uint64_t now_ns,
				  unsigned *lane_out);

/* A placed call could not be published after all (ring full): it is the next again. */
void balance_unplace(struct balance *b, struct balance_call *call);

/* A picked call has ended, in whatever state. */
void balance_done(struct balance *b, struct balance_call *call);

/* Look after stalled lanes, endpoints and their health, give calls back; every few milliseconds. */
void balance_tick(struct balance *b, uint64_t now_ns);

/* Calls waiting in all queues; calls picked and not done for one endpoint; whether it is ejected
 * for not taking slots; whether it is for failures, in any of its services. */
uint32_t balance_queued(const struct balance *b);
uint32_t balance_endpoint_queued(const struct balance_endpoint *e);
uint32_t balance_endpoint_outstanding(const struct balance_endpoint *e);
/* How long the endpoint's oldest queued call has waited; 0: none is queued. */
uint64_t balance_endpoint_waited(const struct balance_endpoint *e, uint64_t now_ns);
bool balance_endpoint_ejected(const struct balance_endpoint *e);
bool balance_endpoint_drained(const struct balance_endpoint *e);
bool balance_endpoint_failing(const struct balance_endpoint *e);

const struct balance_counters *balance_counters_get(const struct balance *b);
/* Those of the service's picker; index in balance_config.services. */
const struct picker_counters *balance_service_counters(const struct balance *b, size_t service);

#endif
