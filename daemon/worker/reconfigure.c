/* A configuration in the place of another while calls go on (WORKER_MSG_CONFIG).
 *
 * Most of it is read where it is used, through worker.cfg. What was worked out from it, or points
 * into it, is renewed here, all at once between two turns; afterwards nothing of the old one is
 * touched. Hosts and services have kept their indices (config_succeed). Memory is what it was: what
 * would need other pools is no part of a reload.
 */
#include "daemon/worker/worker_internal.h"

/* ---- methods of an endpoint ----------------------------------------------------------------- */

bool method_allowed(const struct attached *ep, const struct config *cfg, size_t index)
{
	int service = ep->we->services[index];

	/* Whatever a host says that it serves: only what the configuration lets it serve. */
	return ep->we->methods[index].channel == NULL && service >= 0 &&
	       !cfg->services[service].gone &&
	       config_service_has_host(&cfg->services[service], ep->we->host_index) &&
	       schema_message_at(ep->we->schema, ep->we->methods[index].input_schema) != NULL &&
	       schema_message_at(ep->we->schema, ep->we->methods[index].output_schema) != NULL;
}

static const enum grpc_kind kinds[] = {
	[ATTACH_UNARY] = GRPC_UNARY,
	[ATTACH_CLIENT_STREAM] = GRPC_CLIENT_STREAMING,
	[ATTACH_SERVER_STREAM] = GRPC_SERVER_STREAMING,
	[ATTACH_BIDI] = GRPC_BIDI,
};

static void limits_fill(const struct config *cfg, const struct config_service_limits *limits,
			struct method *m)
{
	m->decode_limits = (struct linear_limits){
		.linear_bytes_max = limits->linear_bytes_max,
		.elements_max = cfg->linearize.elements_max,
		.wire_bytes_max = limits->message_bytes_max,
		.depth_max = cfg->linearize.depth_max,
		.work_quantum = cfg->linearize.work_quantum,
		.work_max = linear_limits_default.work_max,
	};
	m->encode_limits = m->decode_limits;
	m->encode_limits.linear_bytes_max = 0;
	m->encode_limits.wire_bytes_max = limits->send_message_bytes_max;
}

/* A method's own options only ever narrow what the configuration allows. */
static void options_fill(const struct attach_method_options *o, struct method *m)
{
	if (o->request_bytes_max != 0 && o->request_bytes_max < m->decode_limits.wire_bytes_max)
		m->decode_limits.wire_bytes_max = o->request_bytes_max;
	if (o->response_bytes_max != 0 && o->response_bytes_max < m->encode_limits.wire_bytes_max)
		m->encode_limits.wire_bytes_max = o->response_bytes_max;
	m->timeout_ns = o->deadline_ns;
}

void method_configure(struct attached *ep, const struct config *cfg, size_t index)
{
	const struct attach_method *am = &ep->we->methods[index];
	unsigned service = (unsigned)ep->we->services[index];
	struct method *m = &ep->methods[index];

	m->ep = ep;
	m->input = schema_message_at(ep->we->schema, am->input_schema);
	m->output = schema_message_at(ep->we->schema, am->output_schema);
	m->kind = kinds[am->kind];
	m->read_ahead = am->read_ahead != 0 ? am->read_ahead : 1;
	m->index = (uint32_t)index;
	m->failures = cfg->services[service].balance.ejection.statuses;
	m->decode_at_host =
		!ep->we->remote && config_decode_side(&cfg->services[service], am->method,
						      am->options.decode) == CONFIG_SIDE_HOST;
	m->encode_at_host =
		!ep->we->remote && config_encode_side(&cfg->services[service], am->method,
						      am->options.encode) == CONFIG_SIDE_HOST;
	m->told = ep->we->methods_told != NULL
			  ? &ep->we->methods_told[ep->w->params.index * ep->we->methods_n + index]
			  : &m->own;
	m->log_refused = cfg->services[service].log_refused;
	limits_fill(cfg, &cfg->services[service].limits, m);
	options_fill(&am->options, m);
	ep->serves[service / 64] |= UINT64_C(1) << (service % 64);
	ep->served[index / 64] |= UINT64_C(1) << (index % 64);
}

/* The limits of one that the host calls are those of any message here: what is its own the callee
 * knows. */
static void out_configure(struct attached *ep, const struct config *cfg, size_t index)
{
	const struct config_service_limits limits = {
		.linear_bytes_max = cfg->linearize.linear_bytes_max,
		.message_bytes_max = cfg->grpc.message_bytes_max,
		.send_message_bytes_max = cfg->grpc.send_message_bytes_max,
	};

	ep->methods[index].log_refused = cfg->channels[ep->methods[index].channel].log_refused;
	limits_fill(cfg, &limits, &ep->methods[index]);
}

bool out_prepare(struct attached *ep, const struct config *cfg, size_t index)
{
	const struct attach_method *am = &ep->we->methods[index];
	struct method *m = &ep->methods[index];
	int channel = config_channel_find(cfg, am->channel);
	int len;

	/* Attach has seen to these (daemon/control); a call of what is not there is refused. */
	m->input = schema_message_at(ep->we->schema, am->output_schema);
	m->output = schema_message_at(ep->we->schema, am->input_schema);
	if (channel < 0 || m->input == NULL || m->output == NULL)
		return true;
	len = asprintf(&m->path, "/%s/%s", am->service, am->method);
	if (len < 0) {
		m->path = NULL;
		return false;
	}
	m->path_len = (uint32_t)len;
	m->ep = ep;
	m->told = &m->own;
	m->kind = kinds[am->kind];
	m->read_ahead = am->read_ahead != 0 ? am->read_ahead : 1;
	m->index = (uint32_t)index;
	m->out = true;
	m->channel = (uint32_t)channel;
	ep->calls_out = true;
	out_configure(ep, cfg, index);
	return true;
}

/* Of a process of `host` (index) in the service. */
static uint32_t service_weight(const struct config_service *service, uint32_t host)
{
	for (uint32_t i = 0; i < service->hosts_n && i < service->balance.weights_n; i++)
		if (service->hosts[i] == host)
			return service->balance.weights[i];
	return 1;
}

void attached_route(const struct attached *ep, const struct config *cfg, size_t index,
		    struct balance_route_config *out)
{
	int service = ep->we->services[index];

	*out = (struct balance_route_config){
		.service = ep->we->methods[index].service,
		.method = ep->we->methods[index].method,
		.user = &ep->methods[index],
		.weight = service >= 0 ? service_weight(&cfg->services[service], ep->we->host_index)
				       : 1,
	};
}

/* Methods that it may serve from now on get a route, others lose theirs: no new calls. */
static void endpoint_configure(struct attached *ep, const struct config *cfg)
{
	size_t served = 0;

	memset(ep->serves, 0, sizeof(ep->serves));
	ep->turn_quantum = cfg->linearize.work_quantum;
	for (size_t i = 0; i < ep->we->methods_n; i++) {
		bool had = (ep->served[i / 64] >> (i % 64) & 1) != 0;
		struct balance_route_config route;

		if (ep->methods[i].out)
			out_configure(ep, cfg, i);
		attached_route(ep, cfg, i, &route);
		ep->served[i / 64] &= ~(UINT64_C(1) << (i % 64));
		if (served < ep->we->host->methods_max && method_allowed(ep, cfg, i)) {
			method_configure(ep, cfg, i);
			if (!had && balance_route_add(ep->w->balance, ep->balance, &route) != 0) {
				ep->served[i / 64] &= ~(UINT64_C(1) << (i % 64));
				continue;
			}
			served++;
		} else if (had) {
			balance_route_remove(ep->w->balance, ep->balance, &route);
		}
	}
}

/* ---- connections and listeners -------------------------------------------------------------- */

static void listeners_configure(struct worker *w, const struct config *old,
				const struct config *cfg)
{
	for (unsigned p = 0; p < w->ports_n; p++) {
		for (uint32_t i = 0; i < cfg->listeners_n; i++) {
			struct worker_listener *l = &w->ports[p].listener_ctx[i];

			if (w->ports[p].listeners[i] == NULL)
				continue;
			l->config = &cfg->listeners[i];
			tcp_listener_limit(w->ports[p].listeners[i], l->config->backlog,
					   l->config->connections_max, &l->counters);
		}
	}
	list_for_each (pos, &w->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		c->listener = &cfg->listeners[c->listener - old->listeners];
		/* Whom its client may call is asked for anew. */
		memset(c->allow_known, 0, sizeof(c->allow_known));
	}
}

void worker_configure(struct worker *w, const struct config *cfg)
{
	const struct config *old = w->cfg;

	w->cfg = cfg;
	listeners_configure(w, old, cfg);
	services_configure(w);
	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);

		if (ep->balance != NULL && !ep->faulted && !ep->removed)
			endpoint_configure(ep, cfg);
	}
	client_io_configure(w);
	budgets_set(w);
	grpc_configure(w);
	readers_period_set(w);
	own_services_look(w);
}
