/* grpc.channelz.v1 (gRPC's A14): splitd is one server, its listeners the sockets it listens on, the
 * connections of all workers its sockets. It has no channels. */
#include "daemon/services/services_internal.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "channelz.pb-c.h"

#define SOCKETS_MAX 256u

/* Ids are unique over all kinds: those of the board begin at 2^32. */
#define SERVER_ID   1
#define LISTENER_ID 2

static bool request_good(struct services_call *call, const void *rq)
{
	if (rq != NULL)
		return true;
	counter_inc(&call->services->counters.malformed);
	services_finish(call, GRPC_INTERNAL, "the request could not be decoded");
	return false;
}

/* ---- times ---------------------------------------------------------------------------------- */

/* The wall clock's word for a time on CLOCK_MONOTONIC; NULL for 0. */
static Google__Protobuf__Timestamp *timestamp(Google__Protobuf__Timestamp *t, uint64_t ns)
{
	struct timespec wall;
	uint64_t now = clock_ns(), wall_ns;

	if (ns == 0)
		return NULL;
	google__protobuf__timestamp__init(t);
	clock_gettime(CLOCK_REALTIME, &wall);
	wall_ns = (uint64_t)wall.tv_sec * CLOCK_NS_PER_SEC + (uint64_t)wall.tv_nsec;
	wall_ns -= now > ns ? now - ns : 0;
	t->seconds = (int64_t)(wall_ns / CLOCK_NS_PER_SEC);
	t->nanos = (int32_t)(wall_ns % CLOCK_NS_PER_SEC);
	return t;
}

/* ---- the server ----------------------------------------------------------------------------- */

#define LISTENERS_MAX 64u

struct server_view {
	Grpc__Channelz__V1__Server server;
	Grpc__Channelz__V1__ServerRef ref;
	Grpc__Channelz__V1__ServerData data;
	Grpc__Channelz__V1__ChannelTrace trace;
	Google__Protobuf__Timestamp created, last_call;
	Grpc__Channelz__V1__SocketRef listeners[LISTENERS_MAX];
	Grpc__Channelz__V1__SocketRef *list[LISTENERS_MAX];
};

static void server_fill(const struct services *s, struct server_view *v)
{
	const struct services_listener *listeners;
	size_t n = board_listeners(s->config.board, &listeners);
	struct board_calls calls;

	board_calls(s->config.board, &calls);
	grpc__channelz__v1__server__init(&v->server);
	grpc__channelz__v1__server_ref__init(&v->ref);
	grpc__channelz__v1__server_data__init(&v->data);
	grpc__channelz__v1__channel_trace__init(&v->trace);
	v->ref.server_id = SERVER_ID;
	v->ref.name = (char *)"splitd";
	v->trace.creation_timestamp = timestamp(&v->created, board_created_ns(s->config.board));
	v->data.trace = &v->trace;
	v->data.calls_started = (int64_t)calls.started;
	v->data.calls_succeeded = (int64_t)calls.succeeded;
	v->data.calls_failed = (int64_t)calls.failed;
	v->data.last_call_started_timestamp = timestamp(&v->last_call, calls.last_ns);
	v->server.ref = &v->ref;
	v->server.data = &v->data;
	v->server.listen_socket = v->list;
	for (size_t i = 0; i < n && i < LISTENERS_MAX; i++) {
		grpc__channelz__v1__socket_ref__init(&v->listeners[i]);
		v->listeners[i].socket_id = LISTENER_ID + (int64_t)i;
		v->listeners[i].name = (char *)listeners[i].name;
		v->list[v->server.n_listen_socket++] = &v->listeners[i];
	}
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
	r.n_server = rq->start_server_id <= SERVER_ID ? 1 : 0;
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
	if (rq->server_id != SERVER_ID) {
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
	uint64_t id;
	size_t max;

	if (!request_good(call, rq))
		return;
	counter_inc(&s->counters.channelz);
	if (rq->server_id != SERVER_ID) {
		services_finish(call, GRPC_NOT_FOUND, "no such server");
		return;
	}
	max = rq->max_results > 0 && rq->max_results < SOCKETS_MAX ? (size_t)rq->max_results
								   : SOCKETS_MAX;
	id = board_socket_from(s->config.board,
			       rq->start_socket_id > 0 ? (uint64_t)rq->start_socket_id : 0);
	for (; id != 0 && r.n_socket_ref < max; id = board_socket_from(s->config.board, id + 1)) {
		Grpc__Channelz__V1__SocketRef *ref = &refs[r.n_socket_ref];

		grpc__channelz__v1__socket_ref__init(ref);
		ref->socket_id = (int64_t)id;
		list[r.n_socket_ref++] = ref;
	}
	r.socket_ref = list;
	r.end = id == 0;
	services_reply(call, &r.base, true);
}

struct address_view {
	Grpc__Channelz__V1__Address address;
	Grpc__Channelz__V1__Address__TcpIpAddress tcpip;
};

static Grpc__Channelz__V1__Address *address_fill(struct address_view *v,
						 const struct services_address *from)
{
	grpc__channelz__v1__address__init(&v->address);
	grpc__channelz__v1__address__tcp_ip_address__init(&v->tcpip);
	v->tcpip.ip_address =
		(ProtobufCBinaryData){from->family == 6 ? 16 : 4, (uint8_t *)from->bytes};
	v->tcpip.port = from->port;
	v->address.address_case = GRPC__CHANNELZ__V1__ADDRESS__ADDRESS_TCPIP_ADDRESS;
	v->address.tcpip_address = &v->tcpip;
	return &v->address;
}

struct socket_view {
	Grpc__Channelz__V1__Socket socket;
	Grpc__Channelz__V1__SocketRef ref;
	Grpc__Channelz__V1__SocketData data;
	Grpc__Channelz__V1__Security security;
	Grpc__Channelz__V1__Security__Tls tls;
	Google__Protobuf__Timestamp stream, sent, received;
	struct address_view local, remote;
	struct services_socket facts;
};

static void socket_begin(struct socket_view *v, int64_t id)
{
	grpc__channelz__v1__socket__init(&v->socket);
	grpc__channelz__v1__socket_ref__init(&v->ref);
	grpc__channelz__v1__socket_data__init(&v->data);
	v->ref.socket_id = id;
	v->socket.ref = &v->ref;
	v->socket.data = &v->data;
}

static bool listener_fill(const struct services *s, struct socket_view *v, int64_t id)
{
	const struct services_listener *list;
	size_t n = board_listeners(s->config.board, &list);

	if (id < LISTENER_ID || id - LISTENER_ID >= (int64_t)n || id - LISTENER_ID >= LISTENERS_MAX)
		return false;
	list += id - LISTENER_ID;
	socket_begin(v, id);
	v->ref.name = (char *)list->name;
	v->socket.local = address_fill(&v->local, &list->local);
	return true;
}

static bool socket_fill(const struct services *s, struct socket_view *v, int64_t id)
{
	const struct grpc_connection_stats *stats = &v->facts.stats;

	if (id <= 0 || !board_socket_read(s->config.board, (uint64_t)id, &v->facts))
		return false;
	socket_begin(v, id);
	v->data.streams_started = (int64_t)stats->streams_started;
	v->data.streams_succeeded = (int64_t)stats->streams_succeeded;
	v->data.streams_failed = (int64_t)stats->streams_failed;
	v->data.messages_sent = (int64_t)stats->messages_sent;
	v->data.messages_received = (int64_t)stats->messages_received;
	v->data.keep_alives_sent = (int64_t)stats->keepalives_sent;
	v->data.last_remote_stream_created_timestamp = timestamp(&v->stream, stats->stream_ns);
	v->data.last_message_sent_timestamp = timestamp(&v->sent, stats->sent_ns);
	v->data.last_message_received_timestamp = timestamp(&v->received, stats->received_ns);
	v->socket.local = address_fill(&v->local, &v->facts.local);
	v->socket.remote = address_fill(&v->remote, &v->facts.remote);
	if (v->facts.cipher != NULL) {
		grpc__channelz__v1__security__init(&v->security);
		grpc__channelz__v1__security__tls__init(&v->tls);
		v->tls.cipher_suite_case =
			GRPC__CHANNELZ__V1__SECURITY__TLS__CIPHER_SUITE_STANDARD_NAME;
		v->tls.standard_name = (char *)v->facts.cipher;
		v->security.model_case = GRPC__CHANNELZ__V1__SECURITY__MODEL_TLS;
		v->security.tls = &v->tls;
		v->socket.security = &v->security;
	}
	return true;
}

void channelz_socket(struct services_call *call, const uint8_t *p, uint32_t n)
{
	struct services *s = call->services;
	ProtobufCAllocator scratch = services_scratch(s);
	Grpc__Channelz__V1__GetSocketResponse r = GRPC__CHANNELZ__V1__GET_SOCKET_RESPONSE__INIT;
	Grpc__Channelz__V1__GetSocketRequest *rq =
		grpc__channelz__v1__get_socket_request__unpack(&scratch, n, p);
	struct socket_view view;

	if (!request_good(call, rq))
		return;
	counter_inc(&s->counters.channelz);
	if (!listener_fill(s, &view, rq->socket_id) && !socket_fill(s, &view, rq->socket_id)) {
		services_finish(call, GRPC_NOT_FOUND, "no such socket");
		return;
	}
	r.socket = &view.socket;
	services_reply(call, &r.base, true);
}

void channelz_none(struct services_call *call, const uint8_t *p, uint32_t n)
{
	(void)p;
	(void)n;
	counter_inc(&call->services->counters.channelz);
	services_finish(call, GRPC_NOT_FOUND, "there are no channels here");
}
