/* The glue between a TCP connection and its gRPC connection: bytes up from mbufs without a copy,
 * bytes down written by HTTP/2 straight into mbufs. */
#include "daemon/worker/worker_internal.h"

/* HTTP/2's preface and an empty SETTINGS frame: less than that by settings_timeout is no client. */
#define PREFACE_BYTES 33

/* Bytes one connection may put out in one turn before the others have theirs. */
#define SEND_TURN_BYTES (128u * 1024u)

/* TCP is through with it (closed, or let go): end the calls and give everything back. */
static void connection_free(struct connection *c)
{
	struct worker *w = c->w;

	c->tcp = NULL;
	wheel_cancel(&w->wheel, &c->idle);
	grpc_connection_destroy(c->grpc);
	services_socket_close(w->services, c->socket);
	connection_tls_free(c);
	outgoing_drop(&c->out);
	list_del(&c->due);
	list_del(&c->link);
	pool_put(&w->connection_pool, c);
	counter_set(&w->counters.gauge_connections, pool_in_use(&w->connection_pool));
}

/* With what has been handed to TCP. */
static void connection_close(struct connection *c)
{
	tcp_close(c->tcp);
	connection_free(c);
}

void connection_abort(struct connection *c)
{
	tcp_abort(c->tcp);
	connection_free(c);
}

/* ---- out ------------------------------------------------------------------------------------ */

int connection_out_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct connection *c = ctx;
	int r = outgoing_lend(&c->out, c->port->pool, buf_out, room_out);

	(void)wanted;
	if (likely(r == 0))
		return 0;
	if (r != SPLIT_AGAIN) {
		counter_inc(&c->w->counters.out_no_mbuf);
		c->out_starved = true;
	}
	return SPLIT_AGAIN;
}

void connection_out_commit(void *ctx, size_t bytes)
{
	struct connection *c = ctx;

	outgoing_commit(&c->out, bytes);
}

static void out_wanted(void *ctx)
{
	connection_due(ctx);
}

bool connection_out_push(struct connection *c)
{
	uint32_t bytes = c->out.bytes;

	if (bytes != 0)
		stage_enter(c->w, WORKER_STAGE_send);
	if (!outgoing_push(&c->out, c->tcp))
		return false;
	if (bytes != 0)
		reader_took(c, bytes);
	return true;
}

/* Whether both sides are through with the connection. */
static bool connection_over(const struct connection *c)
{
	if (c->failed || grpc_connection_done(c->grpc))
		return true;
	return c->eof && grpc_connection_streams(c->grpc) == 0;
}

size_t connection_send_room(const struct connection *c)
{
	size_t room = tcp_send_room(c->tcp);
	uint32_t queued;

	if (unlikely(c->port->pool_low)) {
		queued = tcp_info(c->tcp).queued;
		room = queued >= POOL_LOW_BYTES ? 0
						: RTE_MIN(room, (size_t)POOL_LOW_BYTES - queued);
	}
	/* A record's own bytes alone are no use. */
	return c->tls != NULL && room <= TLS_RECORD_OVERHEAD ? 0 : room;
}

/* Send what is due, within the turn's share. */
static void connection_send(struct connection *c)
{
	struct worker *w = c->w;
	int r = SPLIT_AGAIN;

	connection_replies_retry(c);
	if (!connection_out_push(c) || (c->tls != NULL && !connection_tls_flush(c)))
		return;
	if (unlikely(c->grpc == NULL)) { /* a handshake goes on, or has failed */
		if (c->failed || (c->eof && tls_session_waits(c->tls)))
			connection_close(c);
		return;
	}
	for (uint32_t sent = 0; r == SPLIT_AGAIN && sent < SEND_TURN_BYTES; sent += c->out.room) {
		size_t room = connection_send_room(c);

		if (room == 0) {
			if (grpc_connection_want_send(c->grpc))
				tcp_want_writable(c->tcp);
			return;
		}
		c->out_starved = false;
		c->out.room = (uint32_t)RTE_MIN(room, (size_t)SEND_TURN_BYTES / 2);
		stage_enter(w, WORKER_STAGE_http2);
		r = grpc_connection_send(c->grpc, c->out.room);
		if (c->tls != NULL)
			r = connection_tls_seal(c, r);
		if (r < 0)
			c->failed = true;
		if (!connection_out_push(c) || c->out_starved)
			break;
	}
	if (c->out.bytes != 0)
		return; /* `writable` follows */
	if (c->out_starved) {
		connection_due(c); /* next turn */
		return;
	}
	if (connection_over(c)) {
		if (c->tls == NULL || connection_tls_shutdown(c))
			connection_close(c);
	} else if (r == SPLIT_AGAIN) {
		connection_due(c);
	}
}

unsigned connections_send(struct worker *w)
{
	struct list now;
	struct list *node;
	unsigned n = 0;

	list_init(&now);
	list_splice_tail(&now, &w->due);
	while ((node = list_pop_head(&now)) != NULL) {
		struct connection *c = list_entry(node, struct connection, due);

		if (unlikely(c->nested))
			connection_replies_retry(c);
		else
			connection_send(c);
		n++;
	}
	return n;
}

void connection_nested_init(struct connection *c, struct worker *w)
{
	c->w = w;
	c->nested = true;
	list_init(&c->due);
	list_init(&c->link);
	list_init(&c->encode_wait);
	list_init(&c->held_calls);
	list_init(&c->shares);
}

void connection_nested_fini(struct connection *c)
{
	list_del(&c->due);
}

void connections_check(struct worker *w)
{
	list_for_each (pos, &w->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		if (c->grpc != NULL && grpc_connection_check(c->grpc, w->now_ns)) {
			c->failed = true;
			connection_due(c);
		}
	}
}

/* ---- in ------------------------------------------------------------------------------------- */

static void connection_idle(struct wheel_timer *timer, uint64_t now_ns)
{
	struct connection *c = container_of(timer, struct connection, idle);

	(void)now_ns;
	if (c->grpc == NULL) {
		c->handshake_late = true;
		connection_abort(c);
		return;
	}
	if (c->bytes_seen < PREFACE_BYTES) {
		counter_inc(&c->w->counters.connections_idle);
		connection_abort(c);
	}
}

int connection_serve(struct connection *c)
{
	struct worker *w = c->w;
	const struct config_http2 *cfg = &w->cfg->http2;
	struct http2_out out = {connection_out_reserve, connection_out_commit, out_wanted, c};

	if (c->tls != NULL) {
		out.reserve = connection_plain_reserve;
		out.commit = connection_plain_commit;
	}
	if (grpc_connection_create(w->grpc, &out, c, &c->grpc) != 0)
		return -SPLIT_E_BASE_NOMEM;
	connection_board_enter(c);
	wheel_cancel(&w->wheel, &c->idle);
	if (cfg->settings_timeout_ns != 0)
		wheel_arm(&w->wheel, &c->idle, w->now_ns + cfg->settings_timeout_ns);
	return 0;
}

static int on_accept(void *listen_ctx, struct tcp_conn *tcp, void **conn_ctx_out)
{
	struct worker_listener *l = listen_ctx;
	struct worker *w = l->port->w;
	struct connection *c = w->draining ? NULL : pool_get_zero(&w->connection_pool);
	int err;

	if (c == NULL) {
		counter_inc(&w->counters.connections_refused);
		return -SPLIT_E_BASE_LIMIT;
	}
	c->w = w;
	c->port = l->port;
	c->listener = l->config;
	c->tcp = tcp;
	c->number = counter_get(&w->counters.connections);
	list_init(&c->due);
	list_init(&c->link);
	list_init(&c->encode_wait);
	list_init(&c->held_calls);
	list_init(&c->shares);
	wheel_timer_init(&c->idle, connection_idle);
	tcp_peer(tcp, &c->peer);
	c->out.segment = tcp_info(tcp).mss;
	reader_begins(c);
	err = l->tls != NULL ? connection_tls_begin(c, l->tls) : connection_serve(c);
	if (err != 0) {
		wheel_cancel(&w->wheel, &c->idle);
		pool_put(&w->connection_pool, c);
		counter_inc(&w->counters.connections_refused);
		return err;
	}
	list_add_tail(&w->connections, &c->link);
	connection_due(c);
	counter_inc(&w->counters.connections);
	counter_set(&w->counters.gauge_connections, pool_in_use(&w->connection_pool));
	*conn_ctx_out = c;
	return 0;
}

void connection_received(struct connection *c, const uint8_t *bytes, size_t n)
{
	if (c->failed)
		return;
	if (grpc_connection_recv(c->grpc, bytes, n, c->w->now_ns) != 0)
		c->failed = true;
	c->bytes_seen = (uint32_t)RTE_MIN(c->bytes_seen + n, (size_t)PREFACE_BYTES);
}

static void on_data(void *conn_ctx, struct rte_mbuf *chain)
{
	struct connection *c = conn_ctx;
	enum worker_stage left = stage_enter(c->w, WORKER_STAGE_http2);
	uint32_t bytes = chain->pkt_len;

	if (c->tls != NULL) {
		connection_tls_received(c, chain);
	} else {
		for (struct rte_mbuf *m = chain; m != NULL; m = m->next)
			connection_received(c, rte_pktmbuf_mtod(m, const uint8_t *), m->data_len);
		rte_pktmbuf_free(chain);
		tcp_consumed(c->tcp, bytes);
	}
	connection_due(c);
	stage_enter(c->w, left);
}

static void on_eof(void *conn_ctx)
{
	struct connection *c = conn_ctx;

	c->eof = true;
	if (c->tls != NULL)
		tls_session_recv_end(c->tls);
	connection_due(c);
}

static void on_writable(void *conn_ctx)
{
	connection_due(conn_ctx);
}

static void on_closed(void *conn_ctx, int reason)
{
	(void)reason; /* net counts the causes */
	connection_free(conn_ctx);
}

const struct tcp_events connection_tcp_events = {
	.accept = on_accept,
	.data = on_data,
	.eof = on_eof,
	.writable = on_writable,
	.closed = on_closed,
};

/* ---- the end -------------------------------------------------------------------------------- */

void connections_drain(struct worker *w)
{
	list_for_each_safe (pos, &w->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		if (c->grpc == NULL) { /* nothing was asked yet */
			connection_abort(c);
			continue;
		}
		grpc_connection_goaway(c->grpc, true);
		connection_due(c);
	}
}

void connections_cut(struct worker *w)
{
	list_for_each_safe (pos, &w->connections) {
		struct connection *c = list_entry(pos, struct connection, link);

		if (c->tls != NULL)
			(void)connection_tls_shutdown(c);
		connection_close(c);
	}
}

void connections_abort(struct worker *w)
{
	list_for_each_safe (pos, &w->connections)
		connection_abort(list_entry(pos, struct connection, link));
}
