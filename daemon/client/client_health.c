/* Health checks (gRFC A17): grpc.health.v1.Health/Watch on each connection. A server that does not
 * know the method is taken for healthy; a watch that ends otherwise makes the connection unhealthy
 * until another one says better. */
#include <string.h>

#include "daemon/client/client_internal.h"

#define WATCH_BACKOFF_NS     CLOCK_NS_PER_SEC
#define WATCH_BACKOFF_NS_MAX (120 * CLOCK_NS_PER_SEC)

void connection_health_set(struct client_connection *conn, enum health health)
{
	if (conn->health == health)
		return;
	conn->health = (uint8_t)health;
	counter_inc(&conn->ch->counters.health_changes);
	target_update(conn->target);
	channel_due(conn->ch);
}

void health_begin(struct client_connection *conn)
{
	const struct client_channel_config *cfg = &conn->ch->config;
	const struct http2_header h[] = {
		HTTP2_HEADER(":method", "POST"),
		{":scheme", cfg->tls != NULL ? "https" : "http", 7, cfg->tls != NULL ? 5 : 4, 0},
		HTTP2_HEADER(":path", "/grpc.health.v1.Health/Watch"),
		{":authority", cfg->authority, 10, strlen(cfg->authority), 0},
		HTTP2_HEADER("te", "trailers"),
		HTTP2_HEADER("content-type", "application/grpc"),
		{"user-agent", conn->c->user_agent, 10, strlen(conn->c->user_agent), 0},
	};
	struct http2_client_stream *stream;
	struct attempt *a;

	if (http2_client_request(conn->h2, h, ARRAY_LEN(h), &stream) != 0) {
		wheel_arm(conn->c->wheel, &conn->watch, conn->c->now_ns + WATCH_BACKOFF_NS);
		return;
	}
	counter_inc(&conn->ch->counters.health_watches);
	a = http2_client_stream_user(stream);
	a->watch = true;
	a->conn = conn;
	a->target = conn->target;
	a->watch_send = cfg->health_service;
	conn->watching = a;
}

void health_timer(struct wheel_timer *timer, uint64_t now_ns)
{
	struct client_connection *conn = container_of(timer, struct client_connection, watch);

	conn->c->now_ns = now_ns;
	if (conn->state == CONN_OPEN && conn->watching == NULL && !conn->retired)
		health_begin(conn);
}

void health_drop(struct client_connection *conn)
{
	if (conn->watching == NULL)
		return;
	conn->watching->watch_send = "";
	http2_client_stream_reset(attempt_stream(conn->watching), HTTP2_CANCEL);
}

/* HealthCheckRequest { string service = 1 }, at most 127 bytes long (the config checks). */
size_t health_body(struct attempt *a, uint8_t *dst, size_t room, bool *eof_out)
{
	size_t name = strlen(a->watch_send), bytes = name == 0 ? 0 : 2 + name;
	uint8_t message[PREFIX_BYTES + 2 + 127] = {0, 0, 0, 0, (uint8_t)bytes, 0x0a, (uint8_t)name};
	size_t part;

	memcpy(message + PREFIX_BYTES + 2, a->watch_send, name);
	if (a->watch_at >= PREFIX_BYTES + bytes) { /* dropped half way */
		*eof_out = true;
		return 0;
	}
	part = PREFIX_BYTES + bytes - a->watch_at;
	part = part < room ? part : room;
	memcpy(dst, message + a->watch_at, part);
	a->watch_at += (uint32_t)part;
	*eof_out = a->watch_at == PREFIX_BYTES + bytes;
	return part;
}

/* The stream is of no use any more; its end is looked at in health_closed. */
static void unimplemented(struct attempt *a)
{
	counter_inc(&a->conn->ch->counters.health_unimplemented);
	a->answered = true; /* no other watch */
	connection_health_set(a->conn, HEALTH_SERVING);
}

void health_headers(struct attempt *a, const struct http2_header *h, size_t n, unsigned flags)
{
	const struct http2_header *status = header_find(h, n, "grpc-status");

	if (a->conn->watching != a)
		return;
	if (flags & HTTP2_CLIENT_END) {
		if (status != NULL && strcmp(status->value, "12") == 0)
			unimplemented(a);
		return;
	}
	status = header_find(h, n, ":status");
	if (status != NULL && strcmp(status->value, "404") == 0)
		unimplemented(a);
}

/* HealthCheckResponse { ServingStatus status = 1 }: 1 is SERVING. */
static bool serving(const uint8_t *p, size_t n)
{
	return n >= 2 && p[n - 2] == 0x08 && p[n - 1] == 1;
}

void health_data(struct attempt *a, const uint8_t *p, size_t n)
{
	size_t consumed = n;

	while (n > 0 && a->conn->watching == a) {
		uint32_t need = PREFIX_BYTES;

		if (a->watch_n >= PREFIX_BYTES)
			need += a->watch_bytes[4];
		if (a->watch_n < need) {
			a->watch_bytes[a->watch_n++] = *p++;
			n--;
		}
		if (a->watch_n < PREFIX_BYTES)
			continue;
		need = PREFIX_BYTES + a->watch_bytes[4];
		if (a->watch_bytes[0] != 0 || a->watch_bytes[1] != 0 || a->watch_bytes[2] != 0 ||
		    a->watch_bytes[3] != 0 || need > sizeof(a->watch_bytes)) {
			counter_inc(&a->conn->ch->counters.rx_malformed);
			http2_client_stream_reset(attempt_stream(a), HTTP2_CANCEL);
			return;
		}
		if (a->watch_n < need)
			continue;
		a->conn->watch_backoff_ns = 0;
		connection_health_set(a->conn,
				      serving(a->watch_bytes + PREFIX_BYTES, a->watch_bytes[4])
					      ? HEALTH_SERVING
					      : HEALTH_NOT_SERVING);
		a->watch_n = 0;
	}
	http2_client_stream_consume(attempt_stream(a), consumed);
}

void health_closed(struct attempt *a)
{
	struct client_connection *conn = a->conn;

	if (conn->watching != a)
		return;
	conn->watching = NULL;
	if (a->answered || conn->state != CONN_OPEN)
		return;
	connection_health_set(conn, HEALTH_NOT_SERVING);
	conn->watch_backoff_ns =
		conn->watch_backoff_ns == 0 ? WATCH_BACKOFF_NS : conn->watch_backoff_ns / 10 * 16;
	if (conn->watch_backoff_ns > WATCH_BACKOFF_NS_MAX)
		conn->watch_backoff_ns = WATCH_BACKOFF_NS_MAX;
	wheel_arm(conn->c->wheel, &conn->watch,
		  conn->c->now_ns + client_jitter(conn->c, conn->watch_backoff_ns));
}
