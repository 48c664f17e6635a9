/* Servers and connections: what holds the calls. */
#include "daemon/grpc/grpc_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

COUNTER_DEFINE(grpc, GRPC_COUNTERS);

static const struct http2_events grpc_events = {
	.headers = grpc_on_headers,
	.data = grpc_on_data,
	.end = grpc_on_end,
	.body_next = grpc_on_body_next,
	.body_copy = grpc_on_body_copy,
	.closed = grpc_on_closed,
};

void grpc_config_default(struct grpc_config *config, uint32_t connections_max)
{
	*config = (struct grpc_config){
		.calls_max = 4096,
		.message_bytes_max = 4u << 20,
		.metadata_bytes_max = 8 * 1024,
		.metadata_max = 64,
		.hold_bytes_max = 32u << 20,
		.send_queue_bytes = 256 * 1024,
		.timeout_max_ns = 0,
		.compress = GRPC_COMPRESS_ASKED,
		.compress_level = 3,
		.compress_bytes_min = 1024,
		.compress_quantum = 64 * 1024,
		.compress_memory = 32u << 20,
		.upload_timeout_ns = UINT64_C(2000000000),
		.keepalive_timeout_ns = UINT64_C(20000000000),
		.upload_rate_min = 256 * 1024,
	};
	http2_config_default(&config->http2, connections_max);
}

static bool config_valid(const struct grpc_config *c)
{
	return c->calls_max > 0 && c->metadata_bytes_max >= 256 &&
	       c->metadata_bytes_max <= 64 * 1024 && c->metadata_max > 0 &&
	       c->metadata_max <= 1024 && c->hold_bytes_max >= 64 * 1024 &&
	       c->send_queue_bytes > 0 && c->compress_level >= 1 && c->compress_level <= 9 &&
	       c->compress_quantum >= 1024 && c->compress_memory >= 64 * 1024;
}

int grpc_server_create(const struct grpc_config *config, const struct grpc_backend *backend,
		       void *ctx, struct wheel *wheel, struct grpc_server **server_out)
{
	struct grpc_server *s;
	struct http2_config http2 = config->http2;
	int error;

	*server_out = NULL;
	if (!config_valid(config))
		return -SPLIT_E_BASE_INVALID;
	s = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*s), BITS_CACHE_LINE));
	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(s, 0, sizeof(*s));
	s->config = *config;
	s->backend = backend;
	s->ctx = ctx;
	s->wheel = wheel;
	list_init(&s->idle);
	http2.stream_user_bytes = sizeof(struct grpc_call);
	http2.memory_bytes += config->hold_bytes_max + config->compress_memory;
	s->metadata = calloc(config->metadata_max, sizeof(*s->metadata));
	s->decoded = malloc(config->metadata_bytes_max);
	error = s->metadata == NULL || s->decoded == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	if (error == 0)
		error = grpc_zlib_init(s);
	if (error == 0)
		error = pool_init(&s->connections, sizeof(struct grpc_connection),
				  http2.sessions_max, NULL);
	if (error == 0)
		error = http2_engine_create(&http2, &grpc_events, &s->engine);
	if (error != 0) {
		grpc_server_destroy(s);
		return error;
	}
	*server_out = s;
	return 0;
}

void grpc_server_configure(struct grpc_server *s, const struct grpc_config *config)
{
	struct grpc_config *c = &s->config;

	c->message_bytes_max = config->message_bytes_max;
	c->timeout_max_ns = config->timeout_max_ns;
	c->compress = config->compress;
	c->compress_bytes_min = config->compress_bytes_min;
	c->compress_quantum = config->compress_quantum;
	c->upload_timeout_ns = config->upload_timeout_ns;
	c->upload_rate_min = config->upload_rate_min;
	c->idle_timeout_ns = config->idle_timeout_ns;
	c->age_max_ns = config->age_max_ns;
	c->age_grace_ns = config->age_grace_ns;
	c->keepalive_ns = config->keepalive_ns;
	c->keepalive_timeout_ns = config->keepalive_timeout_ns;
	http2_engine_configure(s->engine, &config->http2);
}

void grpc_server_destroy(struct grpc_server *s)
{
	if (s == NULL)
		return;
	http2_engine_destroy(s->engine);
	pool_fini(&s->connections);
	grpc_zlib_fini(s);
	free(s->decoded);
	free(s->metadata);
	free(s);
}

const struct grpc_counters *grpc_server_counters(const struct grpc_server *s)
{
	return &s->counters;
}

const struct http2_counters *grpc_server_http2_counters(const struct grpc_server *s)
{
	return http2_engine_counters(s->engine);
}

void *grpc_server_alloc(struct grpc_server *s, size_t bytes)
{
	return http2_engine_alloc(s->engine, bytes);
}

void grpc_server_free(struct grpc_server *s, void *p)
{
	http2_engine_free(s->engine, p);
}

unsigned grpc_server_calls(const struct grpc_server *s)
{
	return s->calls_open;
}

int grpc_connection_create(struct grpc_server *server, const struct http2_out *out, void *user,
			   struct grpc_connection **conn_out)
{
	struct grpc_connection *conn = pool_get_zero(&server->connections);
	int error;

	*conn_out = NULL;
	if (conn == NULL)
		return -SPLIT_E_BASE_NOMEM;
	conn->server = server;
	conn->user = user;
	grpc_life_init(conn);
	conn->stats = &server->uncounted;
	list_init(&conn->writable);
	error = http2_session_create(server->engine, out, conn, &conn->session);
	if (error != 0) {
		pool_put(&server->connections, conn);
		return error;
	}
	counter_inc(&server->counters.connections);
	*conn_out = conn;
	return 0;
}

void grpc_connection_destroy(struct grpc_connection *conn)
{
	if (conn == NULL)
		return;
	conn->destroying = true;
	wheel_cancel(conn->server->wheel, &conn->life);
	http2_session_destroy(conn->session);
	pool_put(&conn->server->connections, conn);
}

void grpc_connection_count(struct grpc_connection *conn, struct grpc_connection_stats *stats)
{
	conn->stats = stats;
}

uint64_t grpc_server_call_ns(const struct grpc_server *s)
{
	return counter_get(&s->call_ns);
}

void *grpc_connection_user(const struct grpc_connection *conn)
{
	return conn->user;
}

int grpc_connection_recv(struct grpc_connection *conn, const uint8_t *p, size_t n, uint64_t now_ns)
{
	conn->now_ns = now_ns;
	if (unlikely(!conn->living))
		grpc_life_begin(conn);
	return http2_session_recv(conn->session, p, n, now_ns);
}

/* Calls whose queue has room again; only now, outside of the engine, may they send at will. */
static void writable_tell(struct grpc_connection *conn)
{
	struct list told;
	struct list *node;

	list_init(&told);
	list_splice_tail(&told, &conn->writable);
	while ((node = list_pop_head(&told)) != NULL) {
		struct grpc_call *call = list_entry(node, struct grpc_call, writable_link);

		call->flags &= ~(uint32_t)CALL_BLOCKED;
		call->backend->writable(call->ctx, call);
	}
}

int grpc_connection_send(struct grpc_connection *conn, size_t bytes_max)
{
	int rc = http2_session_send(conn->session, bytes_max);

	if (unlikely(!list_empty(&conn->writable)))
		writable_tell(conn);
	return rc;
}

bool grpc_connection_check(struct grpc_connection *conn, uint64_t now_ns)
{
	return http2_session_check(conn->session, now_ns);
}

bool grpc_connection_want_send(const struct grpc_connection *conn)
{
	return http2_session_want_send(conn->session);
}

bool grpc_connection_done(const struct grpc_connection *conn)
{
	return http2_session_done(conn->session);
}

unsigned grpc_connection_streams(const struct grpc_connection *conn)
{
	return http2_session_streams(conn->session);
}

void grpc_connection_goaway(struct grpc_connection *conn, bool graceful)
{
	http2_session_goaway(conn->session, graceful, HTTP2_NO_ERROR);
}
