/* One connection: a byte stream of the transport, TLS on it, an HTTP/2 session on that.
 *
 * With TLS what HTTP/2 writes is collected in the engine's scratch, a record at a time, and sealed
 * into the transport's room. */
#include <string.h>

#include "daemon/client/client_internal.h"

static void timer_fire(struct wheel_timer *timer, uint64_t now_ns);
static void ping_fire(struct wheel_timer *timer, uint64_t now_ns);

/* ---- life -------------------------------------------------------------------------------------
 */

int connection_begin(struct target *t)
{
	struct channel *ch = t->ch;
	struct client *c = ch->c;
	struct client_connection *conn = pool_get_zero(&c->connections);
	int err;

	if (conn == NULL)
		return -SPLIT_E_BASE_LIMIT;
	conn->target = t;
	conn->ch = ch;
	conn->c = c;
	conn->heard_ns = c->now_ns;
	list_init(&conn->due);
	wheel_timer_init(&conn->timer, timer_fire);
	wheel_timer_init(&conn->ping, ping_fire);
	wheel_timer_init(&conn->watch, health_timer);
	list_add_tail(&t->connections, &conn->link);
	t->connections_n++;
	counter_inc(&ch->counters.connects);
	counter_add(&ch->counters.gauge_connections, 1);
	err = c->transport.connect(c->transport.ctx, conn, &t->address, &conn->stream);
	if (err != 0) {
		conn->stream = NULL;
		conn->failed = true;
		connection_due(conn);
		return 0;
	}
	if (ch->config.connect_timeout_ns != 0)
		wheel_arm(c->wheel, &conn->timer, c->now_ns + ch->config.connect_timeout_ns);
	return 0;
}

/* Streams end, the byte stream is let go. */
static void connection_stop(struct client_connection *conn, bool abort)
{
	struct client *c = conn->c;
	bool connecting = conn->state == CONN_CONNECTING;
	struct http2_client_session *h2 = conn->h2;

	if (conn->stream != NULL && !abort && conn->tls != NULL && !conn->failed)
		(void)tls_session_shutdown(conn->tls);
	conn->state = CONN_DEAD;
	conn->h2 = NULL;
	wheel_cancel(c->wheel, &conn->timer);
	wheel_cancel(c->wheel, &conn->ping);
	wheel_cancel(c->wheel, &conn->watch);
	http2_client_session_destroy(h2);
	list_del(&conn->due);
	if (conn->stream == NULL)
		return;
	if (!abort && !connecting)
		c->transport.flush(conn->stream);
	c->transport.close(conn->stream, abort || connecting);
}

void connection_close(struct client_connection *conn, bool abort)
{
	struct client *c = conn->c;
	struct target *t = conn->target;
	struct channel *ch = conn->ch;
	bool opened = conn->state == CONN_OPEN, outdated = conn->outdated;
	bool tls_failed = conn->tls != NULL && !opened && !tls_session_open(conn->tls);
	const char *why = tls_failed ? tls_session_why(conn->tls) : NULL;

	if (conn->h2 != NULL && !abort && !c->closing && http2_client_streams(conn->h2) > 0 &&
	    (conn->watching == NULL || http2_client_streams(conn->h2) > 1))
		counter_inc(&ch->counters.connections_lost);
	if (tls_failed)
		counter_inc(&ch->counters.tls_failed);
	list_del(&conn->link);
	t->connections_n--;
	connection_stop(conn, abort);
	tls_session_destroy(conn->tls, TLS_END_CLOSED);
	counter_set(&ch->counters.gauge_connections,
		    counter_get(&ch->counters.gauge_connections) - 1);
	pool_put(&c->connections, conn);
	if (c->closing)
		return;
	if (!opened && !outdated)
		target_connect_failed(t,
				      tls_failed ? "the TLS handshake with the server failed"
						 : "no connection to the server",
				      why);
	target_update(t);
	target_gone(t);
	channel_due(ch);
}

void connection_retire(struct client_connection *conn)
{
	conn->retired = true;
	if (conn->h2 != NULL)
		http2_client_goaway(conn->h2);
	connection_due(conn);
}

uint32_t connection_room(const struct client_connection *conn)
{
	uint32_t room, used, max = conn->ch->config.streams_max;

	if (conn->state != CONN_OPEN || conn->retired || conn->failed)
		return 0;
	room = http2_client_room(conn->h2);
	used = http2_client_streams(conn->h2);
	if (used >= max)
		return 0;
	return room < max - used ? room : max - used;
}

/* ---- time -------------------------------------------------------------------------------------
 */

static unsigned calls_on(const struct client_connection *conn)
{
	return http2_client_streams(conn->h2) - (conn->watching != NULL ? 1 : 0);
}

/* Calls came or went: idleness begins or ends. */
void connection_active(struct client_connection *conn)
{
	const struct client_channel_config *cfg = &conn->ch->config;
	struct client *c = conn->c;

	if (conn->state != CONN_OPEN || conn->h2 == NULL)
		return;
	if (calls_on(conn) > 0)
		wheel_cancel(c->wheel, &conn->timer);
	else if (cfg->idle_timeout_ns != 0)
		wheel_arm(c->wheel, &conn->timer, c->now_ns + cfg->idle_timeout_ns);
	if (conn->ch->keepalive_ns != 0 && !wheel_timer_armed(&conn->ping) &&
	    (calls_on(conn) > 0 || cfg->keepalive_without_calls))
		wheel_arm(c->wheel, &conn->ping, c->now_ns + conn->ch->keepalive_ns);
	if (conn->retired)
		connection_due(conn);
}

static void timer_fire(struct wheel_timer *timer, uint64_t now_ns)
{
	struct client_connection *conn = container_of(timer, struct client_connection, timer);
	struct channel *ch = conn->ch;

	conn->c->now_ns = now_ns;
	if (conn->state == CONN_OPEN) {
		if (calls_on(conn) > 0)
			return;
		counter_inc(&ch->counters.connections_idle);
		connection_retire(conn);
		return;
	}
	counter_inc(&ch->counters.connects_timeout);
	conn->failed = true;
	connection_due(conn);
}

/* Nothing was heard for the keepalive time: a PING; and none for its time-out: the end. */
static void ping_fire(struct wheel_timer *timer, uint64_t now_ns)
{
	struct client_connection *conn = container_of(timer, struct client_connection, ping);
	const struct client_channel_config *cfg = &conn->ch->config;
	struct client *c = conn->c;
	uint64_t silent = now_ns - conn->heard_ns;

	c->now_ns = now_ns;
	if (conn->state != CONN_OPEN)
		return;
	if (conn->pinged && silent >= cfg->keepalive_timeout_ns) {
		counter_inc(&conn->ch->counters.keepalive_timeouts);
		conn->failed = true;
		connection_due(conn);
		return;
	}
	if (calls_on(conn) == 0 && !cfg->keepalive_without_calls) {
		conn->pinged = false;
		return;
	}
	if (conn->pinged && silent < conn->ch->keepalive_ns)
		conn->pinged = false;
	if (silent < conn->ch->keepalive_ns) {
		wheel_arm(c->wheel, timer, conn->heard_ns + conn->ch->keepalive_ns);
		return;
	}
	if (!conn->pinged && http2_client_ping(conn->h2) == 0) {
		conn->pinged = true;
		counter_inc(&conn->ch->counters.keepalive_pings);
	}
	wheel_arm(c->wheel, timer, now_ns + cfg->keepalive_timeout_ns);
}

/* ---- what is between us and the transport -------------------------------------------------------
 */

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct client_connection *conn = ctx;
	int r = conn->c->transport.reserve(conn->stream, wanted, buf_out, room_out);

	if (r != 0)
		conn->blocked = true;
	return r;
}

static void out_commit(void *ctx, size_t bytes)
{
	struct client_connection *conn = ctx;

	conn->c->transport.commit(conn->stream, bytes);
}

static void out_wanted(void *ctx)
{
	connection_due(ctx);
}

static int plain_seal(struct client_connection *conn)
{
	int r = 0;

	if (conn->plain_used != 0)
		r = tls_session_write(conn->tls, tls_engine_scratch(conn->c->tls), conn->plain_used,
				      conn->c->now_ns);
	conn->plain_used = 0;
	if (r < 0)
		conn->failed = true;
	return r;
}

static int plain_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct client_connection *conn = ctx;
	uint32_t record = tls_session_record_bytes(conn->tls, conn->c->now_ns);

	(void)wanted;
	if (conn->plain_used >= record && plain_seal(conn) != 0)
		return SPLIT_AGAIN;
	if (conn->failed || tls_session_want_send(conn->tls))
		return SPLIT_AGAIN;
	*buf_out = tls_engine_scratch(conn->c->tls) + conn->plain_used;
	*room_out = record - conn->plain_used;
	return 0;
}

static void plain_commit(void *ctx, size_t bytes)
{
	struct client_connection *conn = ctx;

	conn->plain_used += (uint32_t)bytes;
}

/* ---- in ---------------------------------------------------------------------------------------
 */

/* HTTP/2 begins. */
static int session_begin(struct client_connection *conn)
{
	struct http2_out out = {out_reserve, out_commit, out_wanted, conn};

	if (conn->tls != NULL) {
		out.reserve = plain_reserve;
		out.commit = plain_commit;
	}
	connection_due(conn);
	return http2_client_session_create(conn->c->http2, &out,
					   conn->ch->config.metadata_bytes_max, conn,
					   conn->c->now_ns, &conn->h2);
}

void client_stream_connected(struct client_connection *conn, uint64_t now_ns)
{
	const struct client_channel_config *cfg = &conn->ch->config;
	const struct tls_out out = {out_reserve, out_commit, conn};
	struct client *c = conn->c;
	int err;

	c->now_ns = now_ns;
	conn->state = CONN_HANDSHAKE;
	if (cfg->tls == NULL)
		err = session_begin(conn);
	else
		err = tls_session_connect(c->tls, cfg->tls, cfg->tls_name, &out, conn,
					  conn->target->member.id, 0, now_ns, &conn->tls);
	if (err != 0)
		conn->failed = true;
	connection_due(conn);
}

static void session_recv(struct client_connection *conn, const uint8_t *p, size_t n)
{
	if (conn->failed || conn->h2 == NULL)
		return;
	if (http2_client_recv(conn->h2, p, n, conn->c->now_ns) != 0) {
		counter_inc(&conn->ch->counters.connections_failed);
		conn->failed = true;
	}
}

size_t client_stream_recv(struct client_connection *conn, const uint8_t *p, size_t n,
			  uint64_t now_ns)
{
	size_t done = 0;

	conn->c->now_ns = now_ns;
	conn->heard_ns = now_ns;
	connection_due(conn);
	if (conn->tls == NULL) {
		session_recv(conn, p, n);
		return n;
	}
	while (done < n && !conn->failed) {
		ssize_t took = tls_session_recv(conn->tls, p + done, n - done, now_ns);

		if (took < 0)
			conn->failed = true;
		else if (took == 0)
			return done;
		else
			done += (size_t)took;
	}
	if (tls_session_eof(conn->tls))
		conn->eof = true;
	return n;
}

static int on_opened(void *user)
{
	return session_begin(user);
}

static void on_plain(void *user, const uint8_t *p, size_t n)
{
	session_recv(user, p, n);
}

static void on_progress(void *user)
{
	struct client_connection *conn = user;

	if (conn->state == CONN_DEAD)
		return;
	conn->c->transport.resume(conn->stream);
	connection_due(conn);
}

const struct tls_events connection_tls = {
	.opened = on_opened,
	.data = on_plain,
	.progress = on_progress,
};

void client_stream_writable(struct client_connection *conn, uint64_t now_ns)
{
	conn->c->now_ns = now_ns;
	conn->blocked = false;
	connection_due(conn);
}

void client_stream_eof(struct client_connection *conn, uint64_t now_ns)
{
	conn->c->now_ns = now_ns;
	conn->eof = true;
	if (conn->tls != NULL)
		tls_session_recv_end(conn->tls);
	connection_due(conn);
}

void client_stream_ended(struct client_connection *conn, int reason, uint64_t now_ns)
{
	(void)reason; /* the layer below counts the causes */
	conn->c->now_ns = now_ns;
	conn->failed = true;
	conn->stream = NULL;
	connection_close(conn, false);
}

/* ---- out, and what came of it ------------------------------------------------------------------
 */

/* What HTTP/2 has said meanwhile. */
static void session_look(struct client_connection *conn)
{
	struct channel *ch = conn->ch;
	uint32_t code;

	if (conn->state == CONN_HANDSHAKE && http2_client_ready(conn->h2)) {
		conn->state = CONN_OPEN;
		wheel_cancel(conn->c->wheel, &conn->timer);
		connection_active(conn);
		if (ch->config.health_service != NULL)
			health_begin(conn);
		target_connected(conn->target);
	}
	if (!conn->retired && http2_client_leaving(conn->h2, &code)) {
		conn->retired = true;
		counter_inc(&ch->counters.goaways);
		if (http2_client_too_many_pings(conn->h2) && ch->keepalive_ns != 0) {
			/* gRFC A8 */
			counter_inc(&ch->counters.goaways_pings);
			ch->keepalive_ns *= 2;
		}
		target_update(conn->target);
		channel_due(ch);
	}
	if (ch->waiting_n > 0)
		channel_due(ch);
}

/* True: HTTP/2 may write. */
static bool tls_flush(struct client_connection *conn)
{
	int r = tls_session_send(conn->tls);

	if (r < 0)
		conn->failed = true;
	return r == 0 && conn->h2 != NULL;
}

static void session_write(struct client_connection *conn)
{
	int r = http2_client_send(conn->h2, SEND_TURN_BYTES);

	if (conn->tls != NULL && plain_seal(conn) == SPLIT_AGAIN)
		r = r == 0 ? SPLIT_AGAIN : r;
	if (r < 0 && !conn->failed) {
		counter_inc(&conn->ch->counters.connections_failed);
		conn->failed = true;
	} else if (r == SPLIT_AGAIN && !conn->blocked) {
		connection_due(conn); /* the others have their turn first */
	}
}

static bool connection_over(const struct client_connection *conn)
{
	if (conn->failed || conn->eof)
		return true;
	if (conn->h2 == NULL)
		return false;
	return http2_client_done(conn->h2) ||
	       (conn->retired && calls_on(conn) == 0 && !http2_client_want_send(conn->h2));
}

void connection_work(struct client_connection *conn)
{
	struct client *c = conn->c;

	if (conn->state == CONN_CONNECTING || conn->state == CONN_DEAD) {
		if (conn->failed)
			connection_close(conn, false);
		return;
	}
	if (conn->h2 != NULL)
		session_look(conn);
	if (conn->tls == NULL || tls_flush(conn))
		if (conn->h2 != NULL)
			session_write(conn);
	c->transport.flush(conn->stream);
	if (connection_over(conn) && (!conn->blocked || conn->failed || conn->eof))
		connection_close(conn, false);
}
