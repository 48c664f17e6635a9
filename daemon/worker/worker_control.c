/* The control thread's end: messages in, reports out, endpoints that come and go, drain.
 *
 * Both rings have one producer and one consumer and carry elements by value. An endpoint has at
 * most two reports under way (FAULT, QUIET) and the reports ring has room for that of all of them,
 * so a report always fits. What an endpoint needs here is allocated by worker_post and freed by
 * worker_report_next: both are the control thread. */
#include "daemon/worker/worker_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_errno.h>
#include <rte_ring_elem.h>

_Static_assert(sizeof(struct ring_msg) % 4 == 0, "rte_ring elements");

#define MSGS_MAX 64

/* Where a host calls out, this part of its segment is kept for the answers. */
#define ANSWERS_PART 8

/* Of all endpoints together, where hosts[].endpoints_max and methods_max would allow more. */
#define ROUTES_MAX 65536u

/* Room for hosts and methods that a reload brings. */
#define RELOAD_ENDPOINTS 32u
#define RELOAD_METHODS   64u

/* ---- rings ---------------------------------------------------------------------------------- */

static struct rte_ring *ring_create(struct worker *w, const char *what, unsigned count)
{
	char name[RTE_RING_NAMESIZE];

	(void)snprintf(name, sizeof(name), "worker%u_%s", w->params.index, what);
	return rte_ring_create_elem(name, sizeof(struct ring_msg), (unsigned)pow2_up(count),
				    SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
}

unsigned worker_endpoints_wanted(const struct config *config)
{
	unsigned endpoints = 0;

	/* Twice: who leaves is still here for a moment when who takes over comes. */
	for (uint32_t i = 0; i < config->hosts_n; i++)
		if (!config->hosts[i].gone)
			endpoints += 2 * config->hosts[i].endpoints_max + 1;
	return endpoints;
}

unsigned worker_endpoints_max(const struct worker *worker)
{
	return worker->endpoints_max;
}

int rings_create(struct worker *w)
{
	unsigned endpoints = worker_endpoints_wanted(w->cfg) + RELOAD_ENDPOINTS;
	uint64_t routes = (uint64_t)RELOAD_ENDPOINTS * RELOAD_METHODS;

	for (uint32_t i = 0; i < w->cfg->hosts_n; i++)
		routes +=
			(2ull * w->cfg->hosts[i].endpoints_max + 1) * w->cfg->hosts[i].methods_max;
	w->endpoints_max = endpoints;
	w->routes_max = (uint32_t)(routes < ROUTES_MAX ? routes : ROUTES_MAX);
	w->msgs = ring_create(w, "msgs", MSGS_MAX);
	w->reports = ring_create(w, "reports", 2 * endpoints + 8);
	return w->msgs == NULL || w->reports == NULL ? -SPLIT_E_BASE_NOMEM : 0;
}

void rings_destroy(struct worker *w)
{
	struct worker_report report;
	struct ring_msg m;

	while (w->msgs != NULL && rte_ring_dequeue_elem(w->msgs, &m, sizeof(m)) == 0) {
		attached_free(m.attached);
		tls_context_put(m.tls);
	}
	while (w->reports != NULL && worker_report_next(w, &report))
		continue;
	rte_ring_free(w->msgs);
	rte_ring_free(w->reports);
}

static void signal_fd(int fd)
{
	const uint64_t one = 1;

	/* EAGAIN: the counter is full, so whoever waits for it wakes anyway. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_warn("eventfd %d: %s", fd, strerror(errno));
}

/* ---- control thread ------------------------------------------------------------------------- */

void attached_free(struct attached *ep)
{
	if (ep == NULL)
		return;
	for (size_t i = 0; ep->methods != NULL && i < ep->we->methods_n; i++)
		free(ep->methods[i].path);
	free(ep->methods);
	free(ep->routes);
	free(ep->served);
	free(ep->watch);
	free(ep);
}

static struct attached *attached_create(struct worker *w, const struct worker_endpoint *we,
					const struct config *cfg)
{
	size_t bytes = align_up(sizeof(struct attached), BITS_CACHE_LINE);
	struct attached *ep = aligned_alloc(BITS_CACHE_LINE, bytes);

	if (ep == NULL)
		return NULL;
	memset(ep, 0, bytes);
	ep->we = we;
	ep->w = w;
	ep->told = we->told != NULL ? &we->told[w->params.index] : &ep->own;
	ep->port = endpoint_port_of(we->endpoint, w->params.index);
	ep->methods = calloc(we->methods_n + 1, sizeof(*ep->methods));
	ep->routes = calloc(we->methods_n + 1, sizeof(*ep->routes));
	ep->served = calloc(we->methods_n / 64 + 1, sizeof(*ep->served));
	ep->watch = calloc(endpoint_lanes(ep->port), sizeof(*ep->watch));
	if (ep->methods == NULL || ep->routes == NULL || ep->served == NULL || ep->watch == NULL) {
		attached_free(ep);
		return NULL;
	}
	connection_nested_init(&ep->as_client, w);
	connection_nested_init(&ep->as_reader, w);
	ep->as_client.number = ep->as_reader.number =
		UINT64_C(1) << 63 | (uint64_t)endpoint_pid(we->endpoint);
	for (size_t i = 0; i < we->methods_n; i++) {
		if (we->methods[i].channel != NULL && !out_prepare(ep, cfg, i)) {
			attached_free(ep);
			return NULL;
		}
		if (ep->routes_n >= we->host->methods_max || !method_allowed(ep, cfg, i))
			continue;
		method_configure(ep, cfg, i);
		attached_route(ep, cfg, i, &ep->routes[ep->routes_n++]);
	}
	list_init(&ep->link);
	list_init(&ep->calls);
	list_init(&ep->room_turns);
	list_init(&ep->prepare_wait);
	list_init(&ep->publish_wait);
	list_init(&ep->grants);
	list_init(&ep->jobs);
	list_init(&ep->job_turn);
	ep->turn_quantum = cfg->linearize.work_quantum;
	ep->turn_budget = ep->turn_quantum;
	ep->event_fd = -1;
	return ep;
}

int worker_post(struct worker *worker, const struct worker_msg *msg)
{
	struct ring_msg m = {
		.kind = msg->kind,
		.endpoint = msg->endpoint,
		.deadline_ns = msg->deadline_ns,
		.config = msg->config,
		.drain = msg->drain,
		.channel = msg->channel,
		.addresses = msg->addresses,
		.lane = msg->lane,
		.lane_kind = msg->lane_kind,
	};

	if (msg->kind == WORKER_MSG_ENDPOINT_ADD) {
		m.attached = attached_create(worker, msg->endpoint, msg->config);
		if (m.attached == NULL)
			return -SPLIT_E_BASE_NOMEM;
	}
	if (msg->kind == WORKER_MSG_TLS) {
		m.tls = tls_context_get(msg->tls_context);
		m.listener = msg->listener;
	}
	if (rte_ring_enqueue_elem(worker->msgs, &m, sizeof(m)) != 0) {
		attached_free(m.attached);
		tls_context_put(m.tls);
		return -SPLIT_E_BASE_LIMIT;
	}
	signal_fd(worker->params.wake_fd);
	return 0;
}

bool worker_report_next(struct worker *worker, struct worker_report *report_out)
{
	struct ring_msg m;

	if (rte_ring_dequeue_elem(worker->reports, &m, sizeof(m)) != 0)
		return false;
	*report_out = (struct worker_report){
		.kind = m.kind,
		.worker = worker->params.index,
		.endpoint = m.endpoint,
		.cause = m.cause,
	};
	attached_free(m.attached);
	return true;
}

/* ---- worker thread -------------------------------------------------------------------------- */

static void report(struct worker *w, struct ring_msg *m)
{
	if (rte_ring_enqueue_elem(w->reports, m, sizeof(*m)) != 0)
		worker_log_msg(w, LOG_LEVEL_ERROR, "report %u lost: ring full", m->kind);
	signal_fd(w->params.report_fd);
}

void budgets_set(struct worker *w)
{
	uint64_t most = 1;

	list_for_each (pos, &w->endpoints) {
		const struct attached *ep = list_entry(pos, struct attached, link);

		most = RTE_MAX(most, (uint64_t)ep->we->host->share);
	}
	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);
		uint64_t budget = ep->turn_quantum * ep->we->host->share / most;

		ep->turn_budget = RTE_MAX(budget, (uint64_t)BUDGET_MIN);
	}
}

static void endpoint_add(struct worker *w, struct attached *ep)
{
	const struct config_host *host = ep->we->host;
	const struct balance_endpoint_config cfg = {
		.id = ep->we->id,
		.node = ep->we->node,
		.user = ep,
		.ops = &attached_lanes,
		.lanes = endpoint_lanes(ep->port),
		.lane_depth = host->lane_depth,
		.lane_depth_max = host->lane_depth_max,
		.stall_timeout_ns = host->stall_timeout_ns,
		.routes = ep->routes,
		.routes_n = ep->routes_n,
	};
	const struct geometry *g = endpoint_geometry(ep->we->endpoint);
	int err;

	endpoint_port_adopt(ep->port, &w->shepherd);
	endpoint_port_set_user(ep->port, ep);
	ep->wire_max = g->to_host_partition_bytes / 2;
	if (host->memory_max != 0 && host->memory_max < g->to_host_partition_bytes)
		ep->wire_max = host->memory_max / 2;
	ep->outer_max = 2 * ep->wire_max - 2 * ep->wire_max / ANSWERS_PART;
	list_add_tail(&w->endpoints, &ep->link);
	err = balance_endpoint_add(w->balance, &cfg, &ep->balance);
	if (err != 0) {
		attached_fault(ep, err);
		return;
	}
	idle_watch(w, ep);
	w->endpoints_n++;
	budgets_set(w);
	counter_inc(&w->counters.endpoints_added);
	counter_set(&w->counters.gauge_endpoints, w->endpoints_n);
}

void attached_fault(struct attached *ep, int cause)
{
	struct worker *w = ep->w;
	struct ring_msg m = {
		.kind = WORKER_REPORT_ENDPOINT_FAULT,
		.cause = cause,
		.endpoint = ep->we,
	};

	if (ep->faulted)
		return;
	ep->faulted = true;
	if (ep->balance != NULL)
		balance_endpoint_close(w->balance, ep->balance);
	counter_inc(&w->counters.endpoint_faults);
	worker_log_msg(w, LOG_LEVEL_WARN, "host \"%s\" (pid %d) is detached: %s: %s",
		       endpoint_name(ep->we->endpoint), (int)endpoint_pid(ep->we->endpoint),
		       error_text(cause), endpoint_cause(ep->port));
	report(w, &m);
}

/* Answers that a host gave just before it went are taken, then its calls end. */
static void endpoint_calls_end(struct attached *ep)
{
	struct worker *w = ep->w;
	struct list *node;

	ep->turn_quantum *= WORKER_LAST_QUANTA;
	ep->turn_budget = ep->turn_quantum;
	ep->turn_units = 0;
	for (unsigned i = 0; i < 64 && !ep->faulted; i++) {
		if (endpoint_poll(ep->port, WORKER_POLL_SLOTS, &complete_events, w, w->now_ns) <= 0)
			break;
	}
	ep->removed = true;
	while ((node = list_first(&ep->calls)) != NULL) {
		struct call *call = list_entry(node, struct call, in_ep);

		list_del(&call->in_ep);
		if (call->nested.out) {
			out_abort(call);
			continue;
		}
		if (!call->host_over || !list_empty(&call->replies))
			call_fail(call, GRPC_UNAVAILABLE, "the host has gone", 0);
		call_wire_put(call);
		call->host_over = true;
		call->ep = NULL;
		call_put(call);
	}
}

static struct attached *attached_find(struct worker *w, const struct worker_endpoint *we)
{
	list_for_each (pos, &w->endpoints) {
		if (list_entry(pos, struct attached, link)->we == we)
			return list_entry(pos, struct attached, link);
	}
	return NULL;
}

void attached_tell(struct attached *ep)
{
	struct endpoint_counters *told = ep->told;
	struct balance_endpoint *e = ep->balance;

	if (ep->faulted || e == NULL)
		return;
	counter_set(&told->gauge_open, balance_endpoint_outstanding(e));
	counter_set(&told->gauge_queued, balance_endpoint_queued(e));
	counter_set(&told->gauge_bytes, endpoint_bytes_used(ep->port));
	counter_set(&told->gauge_stalled, balance_endpoint_ejected(e));
	counter_set(&told->gauge_failing, balance_endpoint_failing(e));
	counter_set(&told->gauge_drained, balance_endpoint_drained(e) ? ep->drain : 0);
	counter_set(&told->gauge_draining, ep->drain);
}

static void endpoint_drain(struct worker *w, const struct worker_endpoint *we, uint64_t drain)
{
	struct attached *ep = attached_find(w, we);

	if (ep == NULL || ep->balance == NULL)
		return;
	ep->drain = drain;
	balance_endpoint_drain(w->balance, ep->balance, drain != 0);
	attached_tell(ep);
}

static void endpoint_remove(struct worker *w, const struct worker_endpoint *we)
{
	struct attached *ep = attached_find(w, we);
	struct ring_msg m = {.kind = WORKER_REPORT_ENDPOINT_QUIET, .endpoint = we};

	if (ep != NULL) {
		if (ep->balance != NULL)
			balance_endpoint_close(w->balance, ep->balance);
		endpoint_calls_end(ep);
		/* Callees of its calls out still have it for a client. */
		while (nested_run(w) != 0)
			;
		refused_forget(w, ep);
		connection_nested_fini(&ep->as_client);
		connection_nested_fini(&ep->as_reader);
		if (ep->balance != NULL) {
			balance_endpoint_remove(w->balance, ep->balance);
			idle_unwatch(w, ep);
			w->endpoints_n--;
		}
		list_del(&ep->link);
		list_del(&ep->job_turn);
		if (w->active == ep)
			w->active = NULL;
		budgets_set(w);
		counter_inc(&w->counters.endpoints_removed);
		counter_set(&w->counters.gauge_endpoints, w->endpoints_n);
		m.attached = ep;
	}
	report(w, &m);
}

static void drain_begin(struct worker *w, uint64_t deadline_ns)
{
	if (w->draining)
		return;
	w->draining = true;
	w->drain_deadline_ns = deadline_ns;
	for (unsigned i = 0; i < w->ports_n; i++) {
		for (uint32_t l = 0; l < w->cfg->listeners_n; l++) {
			if (w->ports[i].listeners[l] != NULL)
				tcp_listener_close(w->ports[i].listeners[l]);
			w->ports[i].listeners[l] = NULL;
		}
	}
	services_drain(w->services);
	connections_drain(w);
}

/* Time is up: whatever still runs ends now, with a status. The connections, drained as they are, go
 * once that is sent. */
static void drain_cut(struct worker *w)
{
	w->cut = true;
	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);

		list_for_each_safe (at, &ep->calls)
			call_fail(list_entry(at, struct call, in_ep), GRPC_UNAVAILABLE,
				  "the server shuts down", CANCEL_SHUTDOWN);
	}
}

static bool net_quiet(const struct worker *w)
{
	for (unsigned i = 0; i < w->ports_n; i++) {
		if (net_gauges_of(w->ports[i].net).connections != 0)
			return false;
	}
	return true;
}

/* What was let go still has its last bytes and FIN acknowledged, if the peer is quick. */
#define DRAIN_LINGER_NS (500 * CLOCK_NS_PER_MS)

void drain_check(struct worker *w)
{
	struct ring_msg m = {.kind = WORKER_REPORT_DRAINED};

	if (!w->draining || w->drained_said)
		return;
	if (!list_empty(&w->connections)) {
		if (w->now_ns < w->drain_deadline_ns)
			return;
		if (!w->cut) {
			drain_cut(w);
			w->drain_deadline_ns = w->now_ns + DRAIN_LINGER_NS;
			return;
		}
		connections_cut(w);
	}
	if (w->drain_linger_ns == 0)
		w->drain_linger_ns = w->now_ns + DRAIN_LINGER_NS;
	if (!net_quiet(w) && w->now_ns < w->drain_linger_ns)
		return;
	w->drained_said = true;
	m.cause = w->cut ? -SPLIT_E_BASE_LIMIT : 0;
	report(w, &m);
}

/* Control asks a host worker for something. */
static void lane_message(struct worker *w, const struct ring_msg *m)
{
	if (m->lane_kind < TO_HOST_TRYAGAIN || m->lane_kind >= TO_HOST_KINDS)
		return;
	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);

		if (ep->we == m->endpoint)
			(void)attached_ask(ep, m->lane, (enum slot_kind)m->lane_kind);
	}
}

unsigned messages_run(struct worker *w)
{
	struct ring_msg m;
	unsigned n = 0;

	while (rte_ring_dequeue_elem(w->msgs, &m, sizeof(m)) == 0) {
		switch ((enum worker_msg_kind)m.kind) {
		case WORKER_MSG_ENDPOINT_ADD:
			endpoint_add(w, m.attached);
			break;
		case WORKER_MSG_ENDPOINT_REMOVE:
			endpoint_remove(w, m.endpoint);
			break;
		case WORKER_MSG_ENDPOINT_DRAIN:
			endpoint_drain(w, m.endpoint, m.drain);
			break;
		case WORKER_MSG_LANE:
			lane_message(w, &m);
			break;
		case WORKER_MSG_TLS:
			listener_tls_set(w, m.listener, m.tls);
			break;
		case WORKER_MSG_ADDRESSES:
			client_addresses_set(w, m.channel, m.addresses);
			break;
		case WORKER_MSG_CONFIG:
			worker_configure(w, m.config);
			m = (struct ring_msg){.kind = WORKER_REPORT_CONFIG};
			report(w, &m);
			break;
		case WORKER_MSG_DRAIN:
			drain_begin(w, m.deadline_ns);
			break;
		case WORKER_MSG_STOP:
			w->stop = true;
			break;
		}
		counter_inc(&w->counters.messages);
		worker_tick_soon(w);
		n++;
	}
	return n;
}
