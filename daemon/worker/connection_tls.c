/* TLS between TCP and gRPC: ciphertext up from mbufs where it was received, records down into
 * mbufs.
 *
 * While a handshake step is with a helper the session takes nothing: what arrives meanwhile is held
 * and not given back to TCP's window. The plaintext that HTTP/2 writes is collected in one buffer
 * of the worker, a record at a time, within what TCP takes now, so that a sealed record hardly ever
 * has to wait. */
#include "daemon/worker/worker_internal.h"

#include "base/siphash.h"

/* A client needs less than that before it has heard of us. */
#define HELD_BYTES_MAX (128u * 1024u)

/* ---- life ----------------------------------------------------------------------------------- */

/* A class of clients for fairness: an IPv4 address, an IPv6 network. */
static uint64_t source_of(const struct connection *c)
{
	size_t bytes = c->peer.family == NET_FAMILY_IPV6 ? 8 : 4;

	return siphash24(&c->w->random_key, c->peer.bytes, bytes);
}

int connection_tls_begin(struct connection *c, struct tls_context *context)
{
	const struct tls_out out = {connection_out_reserve, connection_out_commit, c};
	struct worker *w = c->w;
	int err;

	err = tls_session_create(w->tls, context, &out, c, source_of(c), c->out.segment, w->now_ns,
				 &c->tls);
	if (err == 0)
		wheel_arm(&w->wheel, &c->idle, w->now_ns + c->listener->tls.handshake_timeout_ns);
	return err;
}

static void held_free(struct connection *c)
{
	rte_pktmbuf_free(c->held);
	c->held = NULL;
	c->held_last = NULL;
	c->held_bytes = 0;
}

void connection_tls_free(struct connection *c)
{
	held_free(c);
	tls_session_destroy(c->tls, c->handshake_late ? TLS_END_TIMEOUT : TLS_END_CLOSED);
	c->tls = NULL;
}

void listener_tls_set(struct worker *w, uint32_t listener, struct tls_context *context)
{
	for (unsigned i = 0; i < w->ports_n; i++) {
		struct worker_listener *l = &w->ports[i].listener_ctx[listener];

		if (l->tls == NULL)
			continue;
		tls_context_put(l->tls);
		l->tls = tls_context_get(context);
	}
	tls_context_put(context);
}

/* ---- in ------------------------------------------------------------------------------------- */

/* Give the session what it takes. */
static void held_feed(struct connection *c)
{
	enum worker_stage left = stage_enter(c->w, WORKER_STAGE_tls);
	size_t consumed = 0;

	while (c->held != NULL && !c->failed) {
		struct rte_mbuf *m = c->held;
		ssize_t took = tls_session_recv(c->tls, rte_pktmbuf_mtod(m, const uint8_t *),
						m->data_len, c->w->now_ns);

		if (took < 0) {
			c->failed = true;
			break;
		}
		consumed += (size_t)took;
		if ((size_t)took < m->data_len) {
			m->data_off += (uint16_t)took;
			m->data_len -= (uint16_t)took;
			break;
		}
		c->held = m->next;
		rte_pktmbuf_free_seg(m);
	}
	c->held_bytes -= (uint32_t)consumed;
	if (c->failed) {
		consumed += c->held_bytes;
		held_free(c);
	}
	tcp_consumed(c->tcp, consumed);
	if (tls_session_eof(c->tls))
		c->eof = true;
	stage_enter(c->w, left);
}

void connection_tls_received(struct connection *c, struct rte_mbuf *chain)
{
	uint32_t bytes = chain->pkt_len;

	/* An alert may be the answer. */
	c->out.room = RTE_MAX(c->out.room, c->out.bytes + 2 * TLS_RECORD_OVERHEAD);
	if (c->held == NULL)
		c->held = chain;
	else
		c->held_last->next = chain;
	c->held_last = rte_pktmbuf_lastseg(chain);
	c->held_bytes += bytes;
	held_feed(c);
	if (c->held_bytes > HELD_BYTES_MAX) {
		c->failed = true;
		tcp_consumed(c->tcp, c->held_bytes);
		held_free(c);
	}
}

static int on_opened(void *user)
{
	return connection_serve(user);
}

static void on_plain(void *user, const uint8_t *bytes, size_t n)
{
	struct connection *c = user;
	enum worker_stage left = stage_enter(c->w, WORKER_STAGE_http2);

	connection_received(c, bytes, n);
	stage_enter(c->w, left);
}

static void on_progress(void *user)
{
	struct connection *c = user;

	held_feed(c);
	connection_due(c);
}

const struct tls_events connection_tls_events = {
	.opened = on_opened,
	.data = on_plain,
	.progress = on_progress,
};

/* ---- out ------------------------------------------------------------------------------------ */

bool connection_tls_flush(struct connection *c)
{
	int r;

	c->out_starved = false;
	c->out.room = (uint32_t)RTE_MIN(connection_send_room(c), (size_t)UINT32_MAX);
	if (tls_session_want_send(c->tls) && c->out.room == 0) {
		tcp_want_writable(c->tcp);
		return false;
	}
	stage_enter(c->w, WORKER_STAGE_tls);
	r = tls_session_send(c->tls);
	if (r < 0)
		c->failed = true;
	if (!connection_out_push(c))
		return false;
	if (r == SPLIT_AGAIN) {
		if (c->out_starved)
			connection_due(c); /* next turn */
		else
			tcp_want_writable(c->tcp);
		return false;
	}
	return true;
}

/* The record as it is. */
static int plain_seal(struct connection *c)
{
	enum worker_stage left = stage_enter(c->w, WORKER_STAGE_tls);
	int r = 0;

	if (c->plain_used != 0)
		r = tls_session_write(c->tls, tls_engine_scratch(c->w->tls), c->plain_used,
				      c->w->now_ns);
	c->plain_used = 0;
	stage_enter(c->w, left);
	return r;
}

int connection_plain_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct connection *c = ctx;
	uint32_t record = tls_session_record_bytes(c->tls, c->w->now_ns), taken;

	(void)wanted;
	if (c->plain_used >= record && plain_seal(c) != 0)
		return SPLIT_AGAIN;
	taken = c->out.bytes + c->plain_used + TLS_RECORD_OVERHEAD;
	if (tls_session_want_send(c->tls) || taken >= c->out.room)
		return SPLIT_AGAIN;
	*buf_out = tls_engine_scratch(c->w->tls) + c->plain_used;
	*room_out = RTE_MIN(record - c->plain_used, c->out.room - taken);
	return 0;
}

void connection_plain_commit(void *ctx, size_t bytes)
{
	struct connection *c = ctx;

	c->plain_used += (uint32_t)bytes;
}

int connection_tls_seal(struct connection *c, int result)
{
	int r = plain_seal(c);

	if (r < 0)
		return r;
	return r == SPLIT_AGAIN && result == 0 ? SPLIT_AGAIN : result;
}

bool connection_tls_shutdown(struct connection *c)
{
	size_t room = connection_send_room(c);

	if (!tls_session_open(c->tls))
		return true;
	if (room == 0) {
		tcp_want_writable(c->tcp);
		return false;
	}
	c->out.room = (uint32_t)RTE_MIN(room, (size_t)UINT32_MAX);
	if (tls_session_shutdown(c->tls) == SPLIT_AGAIN) {
		connection_due(c);
		return false;
	}
	return connection_out_push(c);
}

/* ---- who it is ------------------------------------------------------------------------------ */

const struct tls_identity *connection_identity(const struct connection *c)
{
	return c != NULL && c->tls != NULL ? tls_session_identity(c->tls) : NULL;
}

int connection_allow(struct connection *c, size_t service)
{
	const struct config_service *s = &c->w->cfg->services[service];
	const struct tls_identity *identity;
	uint64_t bit = UINT64_C(1) << (service % 64);
	size_t word = service / 64;

	if (s->allow_n == 0)
		return 0;
	identity = connection_identity(c);
	if (identity == NULL)
		return GRPC_UNAUTHENTICATED;
	if ((c->allow_known[word] & bit) == 0) {
		c->allow_known[word] |= bit;
		for (uint32_t i = 0; i < s->allow_n; i++)
			if (tls_identity_matches(identity, s->allow[i].text))
				c->allow_good[word] |= bit;
	}
	return (c->allow_good[word] & bit) != 0 ? 0 : GRPC_PERMISSION_DENIED;
}
