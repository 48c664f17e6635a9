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

void connection_board_enter(struct connection *c)
{
	struct services_address local = {0}, remote = {0};
	struct tls_info tls = {0};
	struct net_addr addr;

	tcp_local(c->tcp, &addr);
	address_fill(&local, &addr);
	address_fill(&remote, &c->peer);
	if (c->tls != NULL)
		tls_session_info(c->tls, &tls);
	c->socket = services_socket_open(c->w->services, &local, &remote, tls.cipher);
	if (c->socket != NULL)
		grpc_connection_count(c->grpc, &c->socket->stats);
}

static bool configured(const struct worker *w, const char *name)
{
	return config_service_find(w->cfg, name) >= 0;
}

int worker_board_create(const struct config *cfg, struct services_board **board_out)
{
	struct services_listener listeners[CONFIG_LISTENERS_MAX] = {0};
	const struct services_board_config board = {
		.workers_n = cfg->workers_n,
		.sockets_max = cfg->tcp.connections_max,
		.listeners = listeners,
		.listeners_n = cfg->listeners_n,
	};

	for (uint32_t i = 0; i < cfg->listeners_n; i++) {
		const struct config_listener *l = &cfg->listeners[i];

		listeners[i].name = l->name;
		listeners[i].local.family = l->address.family;
		listeners[i].local.port = (uint16_t)l->port;
		memcpy(listeners[i].local.bytes, l->address.bytes,
		       sizeof(listeners[i].local.bytes));
	}
	return services_board_create(&board, board_out);
}

void worker_board_destroy(struct services_board *board)
{
	services_board_destroy(board);
}

int own_services_setup(struct worker *w)
{
	const struct config_grpc *g = &w->cfg->grpc;
	const struct services_config cfg = {
		.worker = w->params.index,
		.board = w->params.board,
		.channelz = g->channelz && !configured(w, "grpc.channelz.v1.Channelz"),
		.health = g->health && !configured(w, "grpc.health.v1.Health"),
		.reflection = g->reflection &&
			      !configured(w, "grpc.reflection.v1.ServerReflection") &&
			      !configured(w, "grpc.reflection.v1alpha.ServerReflection"),
	};
	const struct services_source source = {
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
