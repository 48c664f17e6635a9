/* What table.c (names, endpoints) and place.c (choice, queues, stalls) share. */
#ifndef SPLITD_DAEMON_BALANCE_BALANCE_INTERNAL_H
#define SPLITD_DAEMON_BALANCE_BALANCE_INTERNAL_H

#include "base/pool.h"
#include "daemon/balance/balance.h"

#define BALANCE_PATH_MAX 512 /* "/service/method" at most; longer ones are refused at attach */

struct balance_service {
	char *name;
	size_t name_len;
	enum balance_policy policy;
	uint32_t queue_max, calls_max;
	uint32_t queued, calls;
	uint64_t queue_timeout_ns;
	uint32_t methods; /* methods that an attached endpoint serves */
	bool placed_here;
};

struct balance_method {
	struct balance_service *service;
	struct list routes; /* struct balance_route by `in_method`; round robin rotates it */
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
	struct balance_method *method;
	struct balance_endpoint *endpoint;
	void *user;
};

struct balance_endpoint {
	struct list link;   /* in balance.endpoints */
	struct list routes; /* struct balance_route by `in_endpoint` */
	struct list queue;  /* struct balance_call by `link` */
	const struct balance_lanes *ops;
	void *user;
	uint64_t stall_timeout_ns;
	uint32_t lane_depth;
	uint32_t lane_depth_max;
	uint32_t lane_bound[BALANCE_LANES_MAX]; /* lane_depth .. lane_depth_max, by its pace */
	unsigned lanes;
	unsigned next_lane; /* where the next scan begins, so that equals take turns */
	uint32_t queued;
	uint32_t outstanding;
	bool closed;
	bool ejected;
};

struct balance {
	struct balance_counters counters;
	struct balance_service *services;
	size_t services_n;
	struct balance_method **buckets;
	uint32_t buckets_mask;
	struct balance_method *method_last; /* looked up last, or NULL */
	struct pool methods, routes, endpoints_pool;
	struct list endpoints;
	struct siphash_key key;
	uint64_t lane_patience_ns;
	uint32_t queued;
	void *ctx;
	void (*dropped)(void *ctx, void *call, int cause);
};

#endif
