/* How long a connection lives (gRPC's A9, "Server-side Connection Management"): its greatest age,
 * its idleness, and PINGs that tell whether the client is still there.
 *
 * Age and idleness end it gently, in two steps (RFC 9113 s6.8): GOAWAY that still takes every
 * stream, and, when the client has answered the PING behind it, GOAWAY with the last stream taken;
 * then it closes with its last call. Calls that last longer than the grace are cut.
 *
 * One timer for each connection, which looks at all of these and is armed for the next. Traffic
 * does not touch it: a look that finds it came too early arms it again. */
#include "daemon/grpc/grpc_internal.h"

/* Without any traffic the PING of a GOAWAY is waited for so long, whatever the grace. */
#define LEAVE_NS (UINT64_C(20) * 1000000000u)

static uint64_t add_ns(uint64_t a, uint64_t b)
{
	return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

static uint64_t min_ns(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* A tenth more or less, so that what was opened together is not closed together. No secret. */
static uint64_t jitter(struct grpc_server *server, uint64_t ns)
{
	uint64_t x = ++server->jitter * UINT64_C(0x9e3779b97f4a7c15);

	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	return ns - ns / 10 + (uint64_t)((unsigned __int128)x * (ns / 5) >> 64);
}

static void life_leave(struct grpc_connection *conn, uint64_t now_ns, uint64_t grace_ns)
{
	conn->leaving = true;
	conn->leave_ns = grace_ns != 0 ? add_ns(now_ns, grace_ns) : UINT64_MAX;
	grpc_connection_goaway(conn, true);
}

/* The client has said nothing, not even to our PING. */
static void life_keepalive(struct grpc_connection *conn, uint64_t now_ns)
{
	struct grpc_server *server = conn->server;
	const struct grpc_config *c = &server->config;

	if (conn->ping_ns != 0 && conn->now_ns > conn->ping_ns)
		conn->ping_ns = 0;
	if (conn->ping_ns != 0 && now_ns >= add_ns(conn->ping_ns, c->keepalive_timeout_ns)) {
		counter_inc(&server->counters.keepalive_timeouts);
		conn->leaving = true;
		conn->leave_ns = UINT64_MAX;
		grpc_connection_goaway(conn, false);
		return;
	}
	if (conn->ping_ns == 0 && now_ns >= add_ns(conn->now_ns, c->keepalive_ns) &&
	    http2_session_ping(conn->session) == 0) {
		counter_inc(&server->counters.keepalive_pings);
		conn->ping_ns = now_ns;
		counter_inc(&conn->stats->keepalives_sent);
	}
}

static uint64_t life_next(const struct grpc_connection *conn)
{
	const struct grpc_config *c = &conn->server->config;
	uint64_t next = conn->age_ns;

	if (conn->leaving)
		return conn->leave_ns;
	if (c->idle_timeout_ns != 0)
		next = min_ns(next, add_ns(conn->active_ns, c->idle_timeout_ns));
	if (c->keepalive_ns != 0)
		next = min_ns(next, conn->ping_ns != 0
					    ? add_ns(conn->ping_ns, c->keepalive_timeout_ns)
					    : add_ns(conn->now_ns, c->keepalive_ns));
	return next;
}

static void life_fire(struct wheel_timer *timer, uint64_t now_ns)
{
	struct grpc_connection *conn = container_of(timer, struct grpc_connection, life);
	struct grpc_server *server = conn->server;
	const struct grpc_config *c = &server->config;
	uint64_t next;

	if (conn->now_ns > conn->active_ns)
		conn->active_ns = conn->now_ns;
	if (http2_session_streams(conn->session) != 0)
		conn->active_ns = now_ns;
	if (conn->leaving) {
		counter_inc(&server->counters.connections_cut);
		grpc_connection_goaway(conn, false);
		return;
	}
	if (now_ns >= conn->age_ns) {
		counter_inc(&server->counters.connections_aged);
		life_leave(conn, now_ns, c->age_grace_ns);
	} else if (c->idle_timeout_ns != 0 &&
		   now_ns >= add_ns(conn->active_ns, c->idle_timeout_ns)) {
		counter_inc(&server->counters.connections_idle);
		life_leave(conn, now_ns, LEAVE_NS);
	} else if (c->keepalive_ns != 0) {
		life_keepalive(conn, now_ns);
	}
	next = life_next(conn);
	if (next != UINT64_MAX)
		wheel_arm(server->wheel, &conn->life, next);
}

void grpc_life_begin(struct grpc_connection *conn)
{
	const struct grpc_config *c = &conn->server->config;
	uint64_t next;

	conn->living = true;
	conn->active_ns = conn->now_ns;
	conn->age_ns = c->age_max_ns != 0
			       ? add_ns(conn->now_ns, jitter(conn->server, c->age_max_ns))
			       : UINT64_MAX;
	next = life_next(conn);
	if (next != UINT64_MAX)
		wheel_arm(conn->server->wheel, &conn->life, next);
}

void grpc_life_init(struct grpc_connection *conn)
{
	wheel_timer_init(&conn->life, life_fire);
}
