/* grpc.channelz.v1 (gRPC's A14): this worker as a server, its connections as sockets. It has no
 * channels. */
#include "daemon/services/services_internal.h"

#include <stdio.h>
#include <string.h>

#include "channelz.pb-c.h"

#define SOCKETS_MAX 256u

/* Ids are unique over all kinds and workers: the low bits are the worker's. */
#define SOCKET_SHIFT 10u
#define SOCKET_MARK  512u

static int64_t server_id(const struct services *s)
{
	return (int64_t)s->config.worker + 1;
}

static int64_t socket_id(const struct services *s, uint64_t connection)
{
	return (int64_t)(connection << SOCKET_SHIFT | SOCKET_MARK | s->config.worker);
}

/* The connection of a socket's id; NULL: none of this worker's. */
static struct grpc_connection *socket_of(const struct services *s, int64_t id)
{
	uint64_t connection = (uint64_t)id >> SOCKET_SHIFT;
	struct grpc_connection_stats stats;
	struct grpc_connection *conn;

	if (id <= 0 || socket_id(s, connection) != id)
		return NULL;
	conn = grpc_connection_from(s->grpc, connection);
	if (conn == NULL)
		return NULL;
	grpc_connection_stats(conn, &stats);
	return stats.id == connection ? conn : NULL;
}

static bool request_good(struct services_call *call, const void *rq)
{
	if (rq != NULL)
		return true;
	counter_inc(&call->services->counters.malformed);
	services_finish(call, GRPC_INTERNAL, "the request could not be decoded");
	return false;
}

/* ---- the server ----------------------------------------------------------------------------- */

struct server_view {
	Grpc__Channelz__V1__Server server;
	Grpc__Channelz__V1__ServerRef ref;
	Grpc__Channelz__V1__ServerData data;
	char name[32];
};

static void server_fill(const struct services *s, struct server_view *v)
{
	const struct grpc_counters *c = grpc_server_counters(s->grpc);

	grpc__channelz__v1__server__init(&v->server);
	grpc__channelz__v1__server_ref__init(&v->ref);
	grpc__channelz__v1__server_data__init(&v->data);
	(void)snprintf(v->name, sizeof(v->name), "splitd worker %u", s->config.worker);
	v->ref.server_id = server_id(s);
	v->ref.name = v->name;
	v->data.calls_started = (int64_t)c->calls;
	v->data.calls_succeeded = (int64_t)c->calls_ok;
	v->data.calls_failed = (int64_t)(c->calls_failed + c->calls_cancelled);
	v->server.ref = &v->ref;
	v->server.data = &v->data;
}

void channelz_top_channels(struct services_call *call, const uint8_t *p, uint32_t n)
{
	Grpc__Channelz__V1__GetTopChannelsResponse r =
		GRPC__CHANNELZ__V1__GET_TOP_CHANNELS_RESPONSE__INIT;

	(void)p;
	(void)n;
	counter_inc(&call->services->counters.channelz);
	r.end = 1;
	services_reply(call, &r.base, true);
}

void channelz_servers(struct services_call *call, const uint8_t *p, uint32_t n)
{
	ProtobufCAllocator scratch = services_scratch(call->services);
	Grpc__Channelz__V1__GetServersResponse r = GRPC__CHANNELZ__V1__GET_SERVERS_RESPONSE__INIT;
	Grpc__Channelz__V1__GetServersRequest *rq =
		grpc__channelz__v1__get_servers_request__unpack(&scratch, n, p);
	Grpc__Channelz__V1__Server *list[1];
	struct server_view view;

	if (!request_good(call, rq))
		return;
	counter_inc(&call->services->counters.channelz);
	server_fill(call->services, &view);
	list[0] = &view.server;
	r.server = list;
	r.n_server = rq->start_server_id <= server_id(call->services) ? 1 : 0;
	r.end = 1;
	services_reply(call, &r.base, true);
}

void channelz_server(struct services_call *call, const uint8_t *p, uint32_t n)
{
	ProtobufCAllocator scratch = services_scratch(call->services);
	Grpc__Channelz__V1__GetServerResponse r = GRPC__CHANNELZ__V1__GET_SERVER_RESPONSE__INIT;
	Grpc__Channelz__V1__GetServerRequest *rq =
		grpc__channelz__v1__get_server_request__unpack(&scratch, n, p);
	struct server_view view;

	if (!request_good(call, rq))
		return;
	counter_inc(&call->services->counters.channelz);
	if (rq->server_id != server_id(call->services)) {
		services_finish(call, GRPC_NOT_FOUND, "no such server");
		return;
	}
	server_fill(call->services, &view);
	r.server = &view.server;
	services_reply(call, &r.base, true);
}

/* ---- sockets -------------------------------------------------------------------------------- */

void channelz_server_sockets(struct services_call *call, const uint8_t *p, uint32_t n)
{
	struct services *s = call->services;
	ProtobufCAllocator scratch = services_scratch(s);
	Grpc__Channelz__V1__GetServerSocketsResponse r =
		GRPC__CHANNELZ__V1__GET_SERVER_SOCKETS_RESPONSE__INIT;
	Grpc__Channelz__V1__GetServerSocketsRequest *rq =
		grpc__channelz__v1__get_server_sockets_request__unpack(&scratch, n, p);
	Grpc__Channelz__V1__SocketRef refs[SOCKETS_MAX];
	Grpc__Channelz__V1__SocketRef *list[SOCKETS_MAX];
	struct grpc_connection *conn;
	uint64_t from;
	size_t max;

	if (!request_good(call, rq))
		return;
	counter_inc(&s->counters.channelz);
	if (rq->server_id != server_id(s)) {
		services_finish(call, GRPC_NOT_FOUND, "no such server");
		return;
	}
	max = rq->max_results > 0 && rq->max_results < SOCKETS_MAX ? (size_t)rq->max_results
								   : SOCKETS_MAX;
	from = rq->start_socket_id > 0 ? (uint64_t)rq->start_socket_id >> SOCKET_SHIFT : 0;
	if (rq->start_socket_id > socket_id(s, from))
		from++;
	while ((conn = grpc_connection_from(s->grpc, from)) != NULL && r.n_socket_ref < max) {
		struct grpc_connection_stats stats;
		Grpc__Channelz__V1__SocketRef *ref = &refs[r.n_socket_ref];

		grpc_connection_stats(conn, &stats);
		grpc__channelz__v1__socket_ref__init(ref);
		ref->socket_id = socket_id(s, stats.id);
		list[r.n_socket_ref++] = ref;
		from = stats.id + 1;
	}
	r.socket_ref = list;
	r.end = conn == NULL;
	services_reply(call, &r.base, true);
}

struct address_view {
	Grpc__Channelz__V1__Address address;
	Grpc__Channelz__V1__Address__TcpIpAddress tcpip;
	struct services_address raw;
};

static void address_fill(struct address_view *v)
{
	grpc__channelz__v1__address__init(&v->address);
	grpc__channelz__v1__address__tcp_ip_address__init(&v->tcpip);
	v->tcpip.ip_address = (ProtobufCBinaryData){v->raw.family == 6 ? 16 : 4, v->raw.bytes};
	v->tcpip.port = v->raw.port;
	v->address.address_case = GRPC__CHANNELZ__V1__ADDRESS__ADDRESS_TCPIP_ADDRESS;
	v->address.tcpip_address = &v->tcpip;
}

void channelz_socket(struct services_call *call, const uint8_t *p, uint32_t n)
{
	struct services *s = call->services;
	ProtobufCAllocator scratch = services_scratch(s);
	Grpc__Channelz__V1__GetSocketResponse r = GRPC__CHANNELZ__V1__GET_SOCKET_RESPONSE__INIT;
	Grpc__Channelz__V1__Socket socket = GRPC__CHANNELZ__V1__SOCKET__INIT;
	Grpc__Channelz__V1__SocketRef ref = GRPC__CHANNELZ__V1__SOCKET_REF__INIT;
	Grpc__Channelz__V1__SocketData data = GRPC__CHANNELZ__V1__SOCKET_DATA__INIT;
	Grpc__Channelz__V1__GetSocketRequest *rq =
		grpc__channelz__v1__get_socket_request__unpack(&scratch, n, p);
	struct grpc_connection_stats stats;
	struct address_view local, remote;
	struct grpc_connection *conn;

	if (!request_good(call, rq))
		return;
	counter_inc(&s->counters.channelz);
	conn = socket_of(s, rq->socket_id);
	if (conn == NULL) {
		services_finish(call, GRPC_NOT_FOUND, "no such socket");
		return;
	}
	grpc_connection_stats(conn, &stats);
	s->source.addresses(s->source.ctx, conn, &local.raw, &remote.raw);
	address_fill(&local);
	address_fill(&remote);
	ref.socket_id = rq->socket_id;
	data.streams_started = (int64_t)stats.streams_started;
	data.streams_succeeded = (int64_t)stats.streams_succeeded;
	data.streams_failed = (int64_t)stats.streams_failed;
	data.messages_sent = (int64_t)stats.messages_sent;
	data.messages_received = (int64_t)stats.messages_received;
	data.keep_alives_sent = (int64_t)stats.keepalives_sent;
	socket.ref = &ref;
	socket.data = &data;
	socket.local = &local.address;
	socket.remote = &remote.address;
	r.socket = &socket;
	services_reply(call, &r.base, true);
}

void channelz_none(struct services_call *call, const uint8_t *p, uint32_t n)
{
	(void)p;
	(void)n;
	counter_inc(&call->services->counters.channelz);
	services_finish(call, GRPC_NOT_FOUND, "there are no channels here");
}
