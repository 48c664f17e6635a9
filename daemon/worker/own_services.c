/* What daemon/services tells of this worker: which services are served, and their descriptors. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

static bool bit(const uint64_t *bits, unsigned i)
{
	return (bits[i / 64] >> (i % 64) & 1) != 0;
}

static bool attached_serves(const struct attached *ep)
{
	return !ep->faulted && !ep->removed && ep->balance != NULL &&
	       !balance_endpoint_ejected(ep->balance);
}

static enum services_health source_health(void *ctx, const char *name, size_t n)
{
	const struct worker *w = ctx;
	char text[CONFIG_SERVICE_MAX + 1];
	int service;

	if (n == 0) {
		for (unsigned i = 0; i < ARRAY_LEN(w->alive); i++)
			if (w->alive[i] != 0)
				return SERVICES_SERVING;
		return SERVICES_NOT_SERVING;
	}
	if (n >= sizeof(text) || memchr(name, '\0', n) != NULL)
		return SERVICES_UNKNOWN;
	memcpy(text, name, n);
	text[n] = '\0';
	service = config_service_find(w->cfg, text);
	if (service < 0)
		return SERVICES_UNKNOWN;
	return bit(w->alive, (unsigned)service) ? SERVICES_SERVING : SERVICES_NOT_SERVING;
}

static const char *source_service(void *ctx, size_t i)
{
	const struct worker *w = ctx;

	for (uint32_t s = 0; s < w->cfg->services_n; s++)
		if (bit(w->alive, s) && i-- == 0)
			return w->cfg->services[s].name;
	return NULL;
}

static const struct services_catalog *source_catalog(void *ctx, size_t i)
{
	struct worker *w = ctx;

	list_for_each (pos, &w->endpoints) {
		const struct attached *ep = list_entry(pos, struct attached, link);

		if (attached_serves(ep) && ep->we->catalog != NULL && i-- == 0)
			return ep->we->catalog;
	}
	return NULL;
}

static void address_fill(struct services_address *to, const struct net_addr *from)
{
	to->family = from->family;
	to->port = from->port;
	memcpy(to->bytes, from->bytes, sizeof(to->bytes));
}

static void source_addresses(void *ctx, struct grpc_connection *grpc,
			     struct services_address *local, struct services_address *remote)
{
	const struct connection *c = grpc_connection_user(grpc);
	struct net_addr addr;

	(void)ctx;
	tcp_local(c->tcp, &addr);
	address_fill(local, &addr);
	address_fill(remote, &c->peer);
}

static bool configured(const struct worker *w, const char *name)
{
	return config_service_find(w->cfg, name) >= 0;
}

int own_services_setup(struct worker *w)
{
	const struct config_grpc *g = &w->cfg->grpc;
	const struct services_config cfg = {
		.worker = w->params.index,
		.channelz = g->channelz && !configured(w, "grpc.channelz.v1.Channelz"),
		.health = g->health && !configured(w, "grpc.health.v1.Health"),
		.reflection = g->reflection &&
			      !configured(w, "grpc.reflection.v1.ServerReflection") &&
			      !configured(w, "grpc.reflection.v1alpha.ServerReflection"),
	};
	const struct services_source source = {
		.addresses = source_addresses,
		.health = source_health,
		.service = source_service,
		.catalog = source_catalog,
		.ctx = w,
	};

	return services_create(&cfg, &source, w->grpc, &w->services);
}

void own_services_look(struct worker *w)
{
	uint64_t alive[ARRAY_LEN(w->alive)] = {0};

	list_for_each (pos, &w->endpoints) {
		const struct attached *ep = list_entry(pos, struct attached, link);

		for (unsigned i = 0; attached_serves(ep) && i < ARRAY_LEN(alive); i++)
			alive[i] |= ep->serves[i];
	}
	for (uint32_t s = 0; s < w->cfg->services_n; s++)
		if (!config_service_has_worker(&w->cfg->services[s], w->params.index))
			alive[s / 64] &= ~(UINT64_C(1) << (s % 64));
	if (memcmp(alive, w->alive, sizeof(alive)) == 0)
		return;
	memcpy(w->alive, alive, sizeof(alive));
	services_changed(w->services);
}
