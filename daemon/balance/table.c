#include "daemon/balance/balance_internal.h"

#include <stdlib.h>
#include <string.h>

COUNTER_DEFINE(balance, BALANCE_COUNTERS);

int balance_service_set(struct balance *b, size_t index,
			const struct balance_service_config *service)
{
	struct balance_service *s;
	size_t len = service != NULL ? strlen(service->name) : 0;
	int err;

	if (index > b->services_n || len >= sizeof(s->name))
		return -SPLIT_E_BASE_INVALID;
	if (index >= b->services_max)
		return -SPLIT_E_BASE_LIMIT;
	s = &b->services[index];
	if (index == b->services_n) {
		err = service != NULL ? picker_init(&s->picker, &service->picker)
				      : -SPLIT_E_BASE_INVALID;
		if (err != 0)
			return err;
		b->services_n++;
	}
	s->name_len = len;
	if (service == NULL)
		return 0;
	err = picker_configure(&s->picker, &service->picker);
	if (err != 0)
		return err;
	memcpy(s->name, service->name, len + 1);
	s->queue_max = service->queue_max;
	s->calls_max = service->calls_max;
	s->queue_timeout_ns = service->queue_timeout_ns;
	s->placed_here = service->placed_here;
	return 0;
}

static int services_copy(struct balance *b, const struct balance_config *cfg)
{
	size_t bytes;
	int err = 0;

	b->services_max = cfg->services_max > cfg->services_n ? cfg->services_max : cfg->services_n;
	bytes = align_up((b->services_max + 1) * sizeof(*b->services), BITS_CACHE_LINE);
	b->services = aligned_alloc(BITS_CACHE_LINE, bytes);
	if (b->services == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(b->services, 0, bytes);
	for (size_t i = 0; i < cfg->services_n && err == 0; i++)
		err = balance_service_set(b, i, &cfg->services[i]);
	return err;
}

/* What is found by hashing: methods by path, routes by method and endpoint, flows. */
static int tables_make(struct balance *b, const struct balance_config *cfg, uint32_t flows)
{
	uint32_t routes = (uint32_t)pow2_up(cfg->routes_max * 2u);
	uint32_t flow_buckets = (uint32_t)pow2_up(flows);

	b->buckets_mask = b->routes_mask = routes - 1;
	b->flows_mask = flow_buckets - 1;
	b->buckets = calloc(routes, sizeof(struct balance_method *));
	b->route_buckets = calloc(routes, sizeof(struct balance_route *));
	b->flow_buckets = calloc(flow_buckets, sizeof(struct balance_flow *));
	return b->buckets == NULL || b->route_buckets == NULL || b->flow_buckets == NULL
		       ? -SPLIT_E_BASE_NOMEM
		       : 0;
}

static int pools_make(struct balance *b, const struct balance_config *cfg, uint32_t flows)
{
	uint32_t routes = cfg->routes_max;
	int err = pool_init(&b->methods, sizeof(struct balance_method), routes, NULL);

	if (err == 0)
		err = pool_init(&b->routes, sizeof(struct balance_route), routes, NULL);
	if (err == 0)
		err = pool_init(&b->members, sizeof(struct balance_member), routes, NULL);
	if (err == 0)
		err = pool_init(&b->flows_pool, sizeof(struct balance_flow), flows, NULL);
	if (err == 0)
		err = pool_init(&b->endpoints_pool, sizeof(struct balance_endpoint),
				cfg->endpoints_max, NULL);
	return err;
}

#define FLOWS_DEFAULT 1024

int balance_create(const struct balance_config *cfg, struct balance **out)
{
	uint32_t flows = cfg->flows_max != 0 ? cfg->flows_max : FLOWS_DEFAULT;
	struct balance *b;
	int err;

	if (cfg->endpoints_max == 0 || cfg->routes_max == 0 || cfg->routes_max > (1u << 20) ||
	    cfg->dropped == NULL)
		return -SPLIT_E_BASE_INVALID;
	b = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*b), BITS_CACHE_LINE));
	if (b == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(b, 0, sizeof(*b));
	list_init(&b->endpoints);
	list_init(&b->given_back);
	b->key = cfg->hash_key;
	b->lane_patience_ns = cfg->lane_patience_ns;
	b->ctx = cfg->ctx;
	b->dropped = cfg->dropped;
	err = tables_make(b, cfg, flows);
	if (err == 0)
		err = services_copy(b, cfg);
	if (err == 0)
		err = pools_make(b, cfg, flows);
	if (err != 0) {
		balance_destroy(b);
		return err;
	}
	*out = b;
	return 0;
}

void balance_destroy(struct balance *b)
{
	if (b == NULL)
		return;
	pool_fini(&b->endpoints_pool);
	pool_fini(&b->flows_pool);
	pool_fini(&b->members);
	pool_fini(&b->routes);
	pool_fini(&b->methods);
	for (size_t i = 0; i < b->services_n; i++)
		picker_fini(&b->services[i].picker);
	free(b->services);
	free(b->flow_buckets);
	free(b->route_buckets);
	free(b->buckets);
	free(b);
}

static struct balance_service *service_find(struct balance *b, const char *name, size_t len)
{
	for (size_t i = 0; i < b->services_n; i++) {
		struct balance_service *s = &b->services[i];

		if (len != 0 && s->name_len == len && memcmp(s->name, name, len) == 0)
			return s;
	}
	return NULL;
}

static struct balance_method **method_slot(struct balance *b, const char *path, size_t len,
					   uint64_t hash)
{
	struct balance_method **at = &b->buckets[hash & b->buckets_mask];

	while (*at != NULL && ((*at)->hash != hash || (*at)->path_len != len ||
			       memcmp((*at)->path, path, len) != 0))
		at = &(*at)->hash_next;
	return at;
}

static struct balance_method *method_get(struct balance *b, struct balance_service *s,
					 const char *path, size_t len)
{
	uint64_t hash = siphash24(&b->key, path, len);
	struct balance_method **at = method_slot(b, path, len, hash);
	struct balance_method *m = *at;

	if (m != NULL)
		return m;
	m = pool_get(&b->methods);
	if (m == NULL)
		return NULL;
	m->service = s;
	list_init(&m->routes);
	m->hash_next = NULL;
	m->hash = hash;
	m->refs = 0;
	m->served = 0;
	m->path_len = (uint32_t)len;
	memcpy(m->path, path, len);
	*at = m;
	return m;
}

/* Free a method that no endpoint serves and no caller holds. */
static void method_reap(struct balance *b, struct balance_method *m)
{
	if (m->served != 0 || m->refs != 0)
		return;
	*method_slot(b, m->path, m->path_len, m->hash) = m->hash_next;
	if (b->method_last == m)
		b->method_last = NULL;
	pool_put(&b->methods, m);
}

static void method_serve(struct balance_method *m)
{
	if (m->served++ == 0)
		m->service->methods++;
}

static void method_unserve(struct balance *b, struct balance_method *m)
{
	if (--m->served == 0)
		m->service->methods--;
	method_reap(b, m);
}

/* ---- routes and members --------------------------------------------------------------------- */

static struct balance_route **route_slot(const struct balance *b, const struct balance_method *m,
					 const struct balance_endpoint *e)
{
	/* Our own addresses, not a peer's choice: no keyed hash. */
	uint64_t mixed = ((uintptr_t)m * UINT64_C(0x9e3779b97f4a7c15)) ^
			 ((uintptr_t)e * UINT64_C(0xc2b2ae3d27d4eb4f));
	struct balance_route **at = &b->route_buckets[(mixed >> 32) & b->routes_mask];

	while (*at != NULL && ((*at)->method != m || (*at)->endpoint != e))
		at = &(*at)->hash_next;
	return at;
}

struct balance_route *route_find(const struct balance *b, const struct balance_method *m,
				 const struct balance_endpoint *e)
{
	return *route_slot(b, m, e);
}

/* The endpoint as a member of the service's picker; made with its first route there. NULL: there is
 * no place for it. */
static struct balance_member *member_get(struct balance *b, struct balance_endpoint *e,
					 struct balance_service *s, uint32_t weight)
{
	const struct picker_member_config pc = {
		.id = e->id,
		.weight = weight != 0 ? weight : 1,
		.node = e->node,
		.load = &e->outstanding,
	};
	struct balance_member *m;

	list_for_each (pos, &e->members) {
		m = list_entry(pos, struct balance_member, in_endpoint);
		if (m->service != s)
			continue;
		/* It has had routes there before. */
		if (!m->in) {
			m->in = picker_add(&s->picker, &m->picker, &pc, b->now_ns) == 0;
			endpoint_state_look(b, e);
		}
		return m->in ? m : NULL;
	}
	m = pool_get_zero(&b->members);
	if (m == NULL)
		return NULL;
	if (picker_add(&s->picker, &m->picker, &pc, b->now_ns) != 0) {
		pool_put(&b->members, m);
		return NULL;
	}
	m->in = true;
	m->service = s;
	m->endpoint = e;
	list_init(&m->in_endpoint);
	list_add_tail(&e->members, &m->in_endpoint);
	endpoint_state_look(b, e);
	return m;
}

static void members_leave(struct balance_endpoint *e)
{
	list_for_each (pos, &e->members) {
		struct balance_member *m = list_entry(pos, struct balance_member, in_endpoint);

		if (m->in)
			picker_remove(&m->service->picker, &m->picker);
		m->in = false;
	}
}

/* "/service/method"; its length, or 0 when that is too long. */
static size_t route_path(const struct balance_route_config *rc, char path[BALANCE_PATH_MAX])
{
	size_t service_len = strlen(rc->service), method_len = strlen(rc->method);
	size_t len = service_len + method_len + 2;

	if (len > BALANCE_PATH_MAX)
		return 0;
	path[0] = '/';
	memcpy(path + 1, rc->service, service_len);
	path[1 + service_len] = '/';
	memcpy(path + 2 + service_len, rc->method, method_len);
	return len;
}

static bool route_add(struct balance *b, struct balance_endpoint *e,
		      const struct balance_route_config *rc)
{
	struct balance_service *s = service_find(b, rc->service, strlen(rc->service));
	char path[BALANCE_PATH_MAX];
	size_t len = route_path(rc, path);
	struct balance_route *r;

	if (s == NULL || len == 0)
		return false;
	r = pool_get(&b->routes);
	if (r == NULL)
		return false;
	r->member = member_get(b, e, s, rc->weight);
	r->method = r->member != NULL ? method_get(b, s, path, len) : NULL;
	if (r->method == NULL || *route_slot(b, r->method, e) != NULL) {
		pool_put(&b->routes, r);
		return false;
	}
	r->endpoint = e;
	r->user = rc->user;
	r->hash_next = NULL;
	*route_slot(b, r->method, e) = r;
	list_init(&r->in_method);
	list_init(&r->in_endpoint);
	r->member->routes++;
	method_serve(r->method);
	list_add_tail(&r->method->routes, &r->in_method);
	list_add_tail(&e->routes, &r->in_endpoint);
	return true;
}

int balance_endpoint_add(struct balance *b, const struct balance_endpoint_config *cfg,
			 struct balance_endpoint **out)
{
	struct balance_endpoint *e;

	if (cfg->lanes == 0 || cfg->lanes > BALANCE_LANES_MAX || cfg->lane_depth == 0 ||
	    cfg->ops == NULL)
		return -SPLIT_E_BASE_INVALID;
	e = pool_get_zero(&b->endpoints_pool);
	if (e == NULL)
		return -SPLIT_E_BASE_LIMIT;
	list_init(&e->link);
	list_init(&e->routes);
	list_init(&e->members);
	list_init(&e->flows);
	list_init(&e->spare.link);
	list_init(&e->spare.calls);
	e->spare.endpoint = e;
	e->id = cfg->id;
	e->node = cfg->node;
	e->ops = cfg->ops;
	e->user = cfg->user;
	e->stall_timeout_ns = cfg->stall_timeout_ns;
	e->lane_depth = cfg->lane_depth;
	e->lane_depth_max =
		cfg->lane_depth_max > cfg->lane_depth ? cfg->lane_depth_max : cfg->lane_depth;
	e->lanes = cfg->lanes;
	for (unsigned i = 0; i < cfg->lanes; i++)
		e->lane_bound[i] = cfg->lane_depth;
	list_add_tail(&b->endpoints, &e->link);
	for (size_t i = 0; i < cfg->routes_n; i++) {
		if (!route_add(b, e, &cfg->routes[i]))
			counter_inc(&b->counters.routes_refused);
	}
	*out = e;
	return 0;
}

int balance_route_add(struct balance *b, struct balance_endpoint *e,
		      const struct balance_route_config *route)
{
	if (!e->closed && route_add(b, e, route))
		return 0;
	counter_inc(&b->counters.routes_refused);
	return -SPLIT_E_BASE_LIMIT;
}

/* Without a route the endpoint is no member of that service's picker any more. */
static void route_free(struct balance *b, struct balance_route *r)
{
	struct balance_member *m = r->member;

	if (--m->routes == 0 && m->in) {
		picker_remove(&m->service->picker, &m->picker);
		m->in = false;
	}
	*route_slot(b, r->method, r->endpoint) = r->hash_next;
	list_del(&r->in_endpoint);
	list_del(&r->in_method);
	method_unserve(b, r->method);
	pool_put(&b->routes, r);
}

void balance_route_remove(struct balance *b, struct balance_endpoint *e,
			  const struct balance_route_config *route)
{
	char path[BALANCE_PATH_MAX];
	size_t len = route_path(route, path);
	struct balance_method *m = *method_slot(b, path, len, siphash24(&b->key, path, len));

	if (m == NULL)
		return;
	list_for_each_safe (pos, &m->routes) {
		struct balance_route *r = list_entry(pos, struct balance_route, in_method);

		if (r->endpoint != e)
			continue;
		route_free(b, r);
		return; /* with it perhaps the method */
	}
}

void balance_endpoint_close(struct balance *b, struct balance_endpoint *e)
{
	e->closed = true;
	members_leave(e);
	list_for_each_safe (pos, &e->routes)
		route_free(b, list_entry(pos, struct balance_route, in_endpoint));
}

void balance_endpoint_remove(struct balance *b, struct balance_endpoint *e)
{
	if (!e->closed)
		balance_endpoint_close(b, e);
	list_for_each_safe (pos, &e->members)
		pool_put(&b->members, list_entry(pos, struct balance_member, in_endpoint));
	list_del(&e->link);
	pool_put(&b->endpoints_pool, e);
}

/* Why no method of this path is served: by the service's name, which ends at the last slash. */
static int lookup_failure(struct balance *b, const char *path, size_t len)
{
	const char *slash = len > 1 ? memrchr(path + 1, '/', len - 1) : NULL;
	struct balance_service *s = NULL;

	if (path[0] == '/' && slash != NULL)
		s = service_find(b, path + 1, (size_t)(slash - path) - 1);
	if (s == NULL) {
		counter_inc(&b->counters.unknown_service);
		return -SPLIT_E_BALANCE_UNKNOWN;
	}
	if (!s->placed_here) {
		counter_inc(&b->counters.not_placed_here);
		return -SPLIT_E_BALANCE_ELSEWHERE;
	}
	if (s->methods != 0) {
		counter_inc(&b->counters.unknown_method);
		return -SPLIT_E_BALANCE_METHOD;
	}
	counter_inc(&b->counters.no_endpoint);
	return -SPLIT_E_BALANCE_NONE;
}

int balance_lookup(struct balance *b, const char *path, size_t len,
		   struct balance_method **method_out)
{
	struct balance_method *m = NULL;

	if (len == 0 || len > BALANCE_PATH_MAX) {
		counter_inc(&b->counters.unknown_service);
		return -SPLIT_E_BALANCE_UNKNOWN;
	}
	/* Most calls name the method that the one before named. */
	m = b->method_last;
	if (m == NULL || m->path_len != len || memcmp(m->path, path, len) != 0)
		m = *method_slot(b, path, len, siphash24(&b->key, path, len));
	if (m == NULL || m->served == 0)
		return lookup_failure(b, path, len);
	if (m->service->placed_here && m->service->picker.usable_n == 0) {
		counter_inc(&b->counters.no_endpoint);
		return -SPLIT_E_BALANCE_NONE;
	}
	if (!m->service->placed_here) {
		counter_inc(&b->counters.not_placed_here);
		return -SPLIT_E_BALANCE_ELSEWHERE;
	}
	b->method_last = m;
	m->refs++;
	*method_out = m;
	return 0;
}

void balance_method_put(struct balance *b, struct balance_method *m)
{
	m->refs--;
	method_reap(b, m);
}

void *balance_method_any(const struct balance_method *m)
{
	struct list *first = list_first(&m->routes);

	return first == NULL ? NULL : list_entry(first, struct balance_route, in_method)->user;
}

size_t balance_method_service(const struct balance *b, const struct balance_method *m)
{
	return (size_t)(m->service - b->services);
}
