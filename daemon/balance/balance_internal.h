/* What table.c (names, endpoints), pick.c (endpoint of a call), queue.c (calls that wait) and
 * place.c (lanes, stalls) share. */
#ifndef SPLITD_DAEMON_BALANCE_BALANCE_INTERNAL_H
#define SPLITD_DAEMON_BALANCE_BALANCE_INTERNAL_H

#include "base/pool.h"
#include "daemon/balance/balance.h"

#define BALANCE_PATH_MAX 512 /* "/service/method" at most; longer ones are refused at attach */

struct balance_service {
	struct picker picker;
	char name[BALANCE_PATH_MAX];
	size_t name_len; /* 0: gone */
	uint32_t queue_max, calls_max;
	uint32_t queued, calls;
	uint64_t queue_timeout_ns;
	uint32_t methods; /* methods that an attached endpoint serves */
	bool placed_here;
};

struct balance_method {
	struct balance_service *service;
	struct list routes; /* struct balance_route by `in_method` */
	struct balance_method *hash_next;
	uint64_t hash;
	uint32_t refs;   /* held by balance_lookup's callers */
	uint32_t served; /* routes */
	uint32_t path_len;
	char path[BALANCE_PATH_MAX];
};

struct balance_route {
	struct list in_method;
	struct list in_endpoint;
	struct balance_route *hash_next; /* by method and endpoint */
	struct balance_method *method;
	struct balance_endpoint *endpoint;
	struct balance_member *member;
	void *user;
};

/* An endpoint as one service sees it. */
struct balance_member {
	struct picker_member picker; /* first: what is picked is cast back */
	struct list in_endpoint;
	struct balance_service *service;
	struct balance_endpoint *endpoint;
	uint32_t routes;
	bool in; /* the service's picker has it */
};

/* The queued calls of one flow, at one endpoint, to one service. */
struct balance_flow {
	struct list link;  /* in balance_endpoint.flows */
	struct list calls; /* struct balance_call by `link` */
	struct balance_flow *hash_next;
	struct balance_endpoint *endpoint;
	struct balance_service *service;
	uint64_t id;
	uint32_t n;
};

struct balance_endpoint {
	struct list link;    /* in balance.endpoints */
	struct list routes;  /* struct balance_route by `in_endpoint` */
	struct list members; /* struct balance_member */
	struct list flows;   /* struct balance_flow: who has calls queued; the first is the next */
	struct balance_flow spare; /* of those for whom there is no flow of their own */
	const struct balance_lanes *ops;
	void *user;
	uint64_t stall_timeout_ns;
	uint32_t lane_depth;
	uint32_t lane_depth_max;
	uint32_t lane_bound[BALANCE_LANES_MAX];     /* lane_depth .. lane_depth_max, by its pace */
	uint64_t lane_slowed_ns[BALANCE_LANES_MAX]; /* when that last fell */
	unsigned lanes;
	unsigned next_lane; /* where the next scan begins, so that equals take turns */
	uint32_t queued;
	uint32_t outstanding;
	uint64_t id;
	int32_t node;
	bool closed;
	bool ejected;
	bool draining, drained;
};

struct balance {
	struct balance_counters counters;
	struct balance_service *services;
	size_t services_n, services_max;
	struct balance_method **buckets;
	uint32_t buckets_mask;
	struct balance_method *method_last; /* looked up last, or NULL */
	struct pool methods, routes, endpoints_pool, members, flows_pool;
	struct balance_route **route_buckets; /* routes_mask + 1 of them */
	struct balance_flow **flow_buckets;
	uint32_t routes_mask, flows_mask;
	struct list given_back; /* struct balance_call by `link`: dropped at the next tick */
	uint64_t now_ns;        /* as last told */
	struct list endpoints;
	struct siphash_key key;
	uint64_t lane_patience_ns;
	uint32_t queued;
	void *ctx;
	void (*dropped)(void *ctx, void *call, int cause);
};

/* table.c */
struct balance_route *route_find(const struct balance *b, const struct balance_method *m,
				 const struct balance_endpoint *e);

/* pick.c: what the endpoint's members are to their pickers, after a change. */
void endpoint_state_look(struct balance *b, struct balance_endpoint *e);

/* queue.c */
void queue_put(struct balance *b, struct balance_call *call, bool at_head);
void queue_take(struct balance *b, struct balance_call *call);
struct balance_call *queue_first(const struct balance_endpoint *e);
/* Its flow has had its turn. Before it is taken. */
void queue_turn(struct balance_endpoint *e, const struct balance_call *call);
/* Queue a newcomer. SPLIT_AGAIN, or -SPLIT_E_BALANCE_FULL. */
int queue_join(struct balance *b, struct balance_call *call, uint64_t now_ns) SPLIT_MUST_USE;
void queue_drop(struct balance *b, struct balance_endpoint *e);
void queue_expire(struct balance *b, struct balance_endpoint *e, uint64_t now_ns);
void queue_give_back(struct balance *b);

#endif
