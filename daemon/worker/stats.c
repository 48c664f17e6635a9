/* What a worker tells about itself: counters by layer, cycles by stage. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

#include "daemon/http2/http2_client.h"

COUNTER_DEFINE(worker, WORKER_COUNTERS);
COUNTER_DEFINE(endpoint, ENDPOINT_COUNTERS);

const struct picker_counters *worker_service_counters(const struct worker *worker, size_t service)
{
	return balance_service_counters(worker->balance, service);
}

/* ---- stages --------------------------------------------------------------------------------- */

const char *worker_stage_name(enum worker_stage stage)
{
	static const char *const names[] = {
#define X(name) #name,
		WORKER_STAGES(X)
#undef X
	};

	return stage < WORKER_STAGE_COUNT ? names[stage] : "?";
}

void worker_stages_read(const struct worker *worker, uint64_t cycles_out[WORKER_STAGE_COUNT])
{
	for (unsigned i = 0; i < WORKER_STAGE_COUNT; i++)
		cycles_out[i] = counter_get(&worker->stage_cycles[i]);
}

void worker_stages_enable(struct worker *worker, bool on)
{
	__atomic_store_n(&worker->stages_want, on, __ATOMIC_RELAXED);
}

void stage_turn_begin(struct worker *w)
{
	bool on = __atomic_load_n(&w->stages_want, __ATOMIC_RELAXED);

	if (on && !w->stages_on) {
		w->turn_since = clock_cycles();
		w->stage_since = w->turn_since;
		memset(w->turn_cycles, 0, sizeof(w->turn_cycles));
	}
	w->stages_on = on;
	w->stage = WORKER_STAGE_port;
}

void stage_turn_end(struct worker *w, bool found_work)
{
	if (!w->stages_on)
		return;
	stage_enter(w, WORKER_STAGE_port);
	if (found_work) {
		for (unsigned i = 0; i < WORKER_STAGE_COUNT; i++)
			counter_add(&w->stage_cycles[i], w->turn_cycles[i]);
	} else {
		counter_add(&w->stage_cycles[WORKER_STAGE_idle], w->stage_since - w->turn_since);
	}
	memset(w->turn_cycles, 0, sizeof(w->turn_cycles));
	w->turn_since = w->stage_since;
}

/* ---- counters ------------------------------------------------------------------------------- */

struct log_ring *worker_log(struct worker *worker)
{
	return &worker->log;
}

static struct worker_counter_block block(const char *layer, const struct counter_desc *desc,
					 const void *values)
{
	return (struct worker_counter_block){
		.layer = layer,
		.desc = desc,
		.n = desc->count,
		.values = values,
	};
}

size_t worker_counters(const struct worker *worker, struct worker_counter_block *out, size_t max)
{
	struct worker_counter_block all[7 + WORKER_PORTS_MAX];
	size_t n = 0;

	all[n++] = block("worker", &worker_counter_desc, &worker->counters);
	for (unsigned i = 0; i < worker->ports_n; i++) {
		all[n++] = block("net", &net_counter_desc, net_counters_of(worker->ports[i].net));
	}
	if (worker->tls != NULL)
		all[n++] = block("tls", &tls_counter_desc, tls_engine_counters(worker->tls));
	all[n++] = block("http2", &http2_counter_desc, grpc_server_http2_counters(worker->grpc));
	all[n++] = block("grpc", &grpc_counter_desc, grpc_server_counters(worker->grpc));
	all[n++] =
		block("services", &services_counter_desc, services_counters_get(worker->services));
	all[n++] = block("balance", &balance_counter_desc, balance_counters_get(worker->balance));
	all[n++] = block("shepherd", &shepherd_counter_desc, &worker->shepherd);
	if (n > max)
		n = max;
	memcpy(out, all, n * sizeof(*out));
	for (unsigned i = 0; i < worker->ports_n; i++) {
		for (uint32_t l = 0; l < worker->cfg->listeners_n && n < max; l++) {
			const struct worker_listener *ctx = &worker->ports[i].listener_ctx[l];

			if (ctx->port != NULL)
				out[n++] =
					block(ctx->layer, &listener_counter_desc, &ctx->counters);
		}
	}
	if (worker->client != NULL && n < max)
		out[n++] = block("http2_client", &http2_client_counter_desc,
				 client_http2_counters(worker->client));
	if (worker->client != NULL && client_tls_counters(worker->client) != NULL && n < max)
		out[n++] =
			block("tls_client", &tls_counter_desc, client_tls_counters(worker->client));
	for (unsigned i = 0;
	     worker->client != NULL && i < client_channels(worker->client) && n + 1 < max; i++) {
		if (!client_channel_used(worker->client, i))
			continue;
		out[n++] = block(client_channel_layer(worker->client, i), &client_counter_desc,
				 client_channel_counters(worker->client, i));
		out[n++] = block(client_channel_layer_picker(worker->client, i),
				 &picker_counter_desc, client_channel_picker(worker->client, i));
	}
	return n;
}

void worker_gauges_read(const struct worker *worker, struct worker_gauges *out)
{
	const struct worker_counters *c = &worker->counters;

	*out = (struct worker_gauges){
		.connections = counter_get(&c->gauge_connections),
		.calls = counter_get(&c->gauge_calls),
		.calls_queued = counter_get(&c->gauge_queued),
		.endpoints = counter_get(&c->gauge_endpoints),
		.pages = counter_get(&c->gauge_pages),
		.sleep_ns = counter_get(&c->sleep_ns),
	};
}
