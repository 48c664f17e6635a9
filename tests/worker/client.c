/* The client's side: nghttp2 over our own TCP. */
#include "tests/worker/harness.h"

#include <check.h>
#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/worker/harness_internal.h"

#define CLIENTS_MAX 32

struct client {
	struct tcp_conn *tcp; /* NULL once closed */
	nghttp2_session *session;
	bool connected, goaway, stalled, used;
	struct rte_mbuf *kept[4096]; /* while stalled */
	unsigned kept_n;
	size_t kept_bytes;
};

static struct client clients[CLIENTS_MAX];

/* ---- nghttp2 -------------------------------------------------------------------------------- */

static struct rpc *rpc_of(nghttp2_session *s, int32_t stream)
{
	return nghttp2_session_get_stream_user_data(s, stream);
}

static int on_header(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
		     void *user)
{
	struct rpc *r = rpc_of(s, frame->hd.stream_id);

	(void)name_len;
	(void)value_len;
	(void)flags;
	(void)user;
	if (r == NULL)
		return 0;
	if (strcmp((const char *)name, ":status") == 0)
		r->http_status = atoi((const char *)value);
	else if (strcmp((const char *)name, "grpc-status") == 0)
		r->grpc_status = atoi((const char *)value);
	else if (strcmp((const char *)name, "grpc-message") == 0)
		(void)snprintf(r->message, sizeof(r->message), "%s", (const char *)value);
	else if (strcmp((const char *)name, "x-t") == 0)
		(void)snprintf(r->trailer, sizeof(r->trailer), "%s", (const char *)value);
	return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t stream, const uint8_t *data,
		   size_t len, void *user)
{
	struct rpc *r = rpc_of(s, stream);

	(void)flags;
	(void)user;
	if (r == NULL)
		return 0;
	if (r->body_len + len > r->body_max) {
		r->body_max = (r->body_len + len) * 2;
		r->body = realloc(r->body, r->body_max);
	}
	memcpy(r->body + r->body_len, data, len);
	r->body_len += len;
	return 0;
}

static int on_stream_close(nghttp2_session *s, int32_t stream, uint32_t code, void *user)
{
	struct rpc *r = rpc_of(s, stream);

	(void)user;
	if (r != NULL) {
		r->closed = true;
		r->reset = code;
	}
	return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *frame, void *user)
{
	struct client *c = user;

	(void)s;
	if (frame->hd.type == NGHTTP2_GOAWAY)
		c->goaway = true;
	return 0;
}

static ssize_t body_read(nghttp2_session *s, int32_t stream, uint8_t *buf, size_t len,
			 uint32_t *flags, nghttp2_data_source *source, void *user)
{
	struct rpc *r = source->ptr;
	size_t end = r->out_hold < r->out_len ? r->out_hold : r->out_len;
	size_t n = end - r->out_sent < len ? end - r->out_sent : len;

	(void)s;
	(void)stream;
	(void)user;
	if (n == 0 && r->out_sent < r->out_len)
		return NGHTTP2_ERR_DEFERRED;
	memcpy(buf, r->out + r->out_sent, n);
	r->out_sent += n;
	if (r->out_sent == r->out_len)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

/* ---- TCP ------------------------------------------------------------------------------------ */

static void on_connected(void *ctx, struct tcp_conn *conn)
{
	struct client *c = ctx;

	(void)conn;
	c->connected = true;
}

static void feed(struct client *c, struct rte_mbuf *chain)
{
	uint32_t bytes = chain->pkt_len;

	for (struct rte_mbuf *m = chain; m != NULL && c->session != NULL; m = m->next)
		(void)nghttp2_session_mem_recv(c->session, rte_pktmbuf_mtod(m, uint8_t *),
					       m->data_len);
	rte_pktmbuf_free(chain);
	tcp_consumed(c->tcp, bytes);
}

static void on_tcp_data(void *ctx, struct rte_mbuf *chain)
{
	struct client *c = ctx;

	if (!c->stalled) {
		feed(c, chain);
		return;
	}
	/* A copy, as a device would have made: the worker's mbufs are its own. */
	ck_assert_uint_lt(c->kept_n, ARRAY_LEN(c->kept));
	c->kept[c->kept_n] = rte_pktmbuf_copy(chain, harness.pool, 0, UINT32_MAX);
	ck_assert_ptr_nonnull(c->kept[c->kept_n]);
	c->kept_n++;
	rte_pktmbuf_free(chain);
}

static void on_tcp_eof(void *ctx)
{
	tcp_shutdown(((struct client *)ctx)->tcp);
}

static void on_tcp_closed(void *ctx, int reason)
{
	struct client *c = ctx;

	(void)reason;
	c->tcp = NULL;
}

static const struct tcp_events events = {
	.connected = on_connected,
	.data = on_tcp_data,
	.eof = on_tcp_eof,
	.closed = on_tcp_closed,
};

static void client_send(struct client *c)
{
	while (c->tcp != NULL && c->connected && tcp_send_room(c->tcp) >= 32768) {
		const uint8_t *bytes;
		ssize_t n = nghttp2_session_mem_send(c->session, &bytes);

		if (n <= 0)
			return;
		for (ssize_t at = 0; at < n;) {
			uint16_t part = (uint16_t)RTE_MIN(n - at, (ssize_t)1400);
			struct rte_mbuf *m = rte_pktmbuf_alloc(harness.pool);

			ck_assert_ptr_nonnull(m);
			memcpy(rte_pktmbuf_append(m, part), bytes + at, part);
			ck_assert_int_eq(tcp_send(c->tcp, m), 0);
			at += part;
		}
	}
}

void clients_send(void)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		if (clients[i].used)
			client_send(&clients[i]);
	}
}

/* ---- connections ---------------------------------------------------------------------------- */

static bool is_connected(void *arg)
{
	const struct client *c = arg;

	return c->connected || c->tcp == NULL;
}

struct client *client_open(void)
{
	nghttp2_session_callbacks *cb;
	struct net_addr remote;
	struct client *c = NULL;

	for (unsigned i = 0; i < CLIENTS_MAX && c == NULL; i++) {
		if (!clients[i].used)
			c = &clients[i];
	}
	ck_assert_ptr_nonnull(c);
	memset(c, 0, sizeof(*c));
	c->used = true;
	ck_assert_int_eq(net_addr_parse("198.18.0.2", &remote), 0);
	remote.port = 50051;
	ck_assert_int_eq(tcp_connect(harness.stack, NULL, &remote, &events, c, &c->tcp), 0);
	nghttp2_session_callbacks_new(&cb);
	nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	ck_assert_int_eq(nghttp2_session_client_new(&c->session, cb, c), 0);
	nghttp2_session_callbacks_del(cb);
	nghttp2_submit_settings(
		c->session, 0,
		(const nghttp2_settings_entry[]){{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 8 << 20}},
		1);
	nghttp2_session_set_local_window_size(c->session, 0, 0, 64 << 20);
	(void)harness_until(is_connected, c, 5000);
	return c;
}

bool client_alive(const struct client *c)
{
	return c->tcp != NULL;
}

bool client_goaway(const struct client *c)
{
	return c->goaway;
}

static void client_free(struct client *c)
{
	for (unsigned i = 0; i < c->kept_n; i++)
		rte_pktmbuf_free(c->kept[i]);
	nghttp2_session_del(c->session);
	memset(c, 0, sizeof(*c));
}

void client_close(struct client *c)
{
	if (c->tcp != NULL)
		tcp_close(c->tcp);
	client_free(c);
}

void client_abort(struct client *c)
{
	if (c->tcp != NULL)
		tcp_abort(c->tcp);
	client_free(c);
}

void client_stall(struct client *c, bool on)
{
	c->stalled = on;
	if (on)
		return;
	for (unsigned i = 0; i < c->kept_n; i++)
		feed(c, c->kept[i]);
	c->kept_n = 0;
}

void clients_close(void)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		if (clients[i].used)
			client_close(&clients[i]);
	}
	harness_run(5);
}

/* ---- calls ---------------------------------------------------------------------------------- */

#define NV(n, v)                                                                                   \
	(nghttp2_nv)                                                                               \
	{                                                                                          \
		(uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n), strlen(v), 0      \
	}

void rpc_start(struct rpc *r, struct client *c, const char *path, const void *bytes, size_t len,
	       const struct header *extra, size_t extra_n)
{
	nghttp2_data_provider body = {.source.ptr = r, .read_callback = body_read};
	nghttp2_nv nv[32] = {
		NV(":method", "POST"),
		NV(":scheme", "http"),
		NV(":path", path),
		NV(":authority", "test"),
		NV("content-type", "application/grpc"),
		NV("te", "trailers"),
		NV("user-agent", "splitd-test"),
	};
	size_t n = 7;

	memset(r, 0, sizeof(*r));
	r->client = c;
	r->grpc_status = -1;
	r->owned = malloc(len + 1);
	if (len != 0)
		memcpy(r->owned, bytes, len);
	r->out = r->owned;
	r->out_len = len;
	r->out_hold = SIZE_MAX;
	for (size_t i = 0; i < extra_n; i++)
		nv[n++] = NV(extra[i].name, extra[i].value);
	r->stream = nghttp2_submit_request(c->session, NULL, nv, n, &body, r);
	ck_assert_int_gt(r->stream, 0);
}

static size_t varint_put(uint8_t *p, uint64_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		p[n++] = (uint8_t)(v | 0x80);
	p[n++] = (uint8_t)v;
	return n;
}

size_t echo_frame(uint8_t *to, size_t len, uint32_t reply_bytes, uint32_t replies)
{
	size_t n = 5;

	if (len != 0) {
		to[n++] = 0x0a;
		n += varint_put(to + n, len);
		for (size_t i = 0; i < len; i++)
			to[n + i] = pattern(i);
		n += len;
	}
	if (reply_bytes != 0) {
		to[n++] = 0x10;
		n += varint_put(to + n, reply_bytes);
	}
	if (replies != 0) {
		to[n++] = 0x20;
		n += varint_put(to + n, replies);
	}
	to[0] = 0;
	be32_store(to + 1, (uint32_t)(n - 5));
	return n;
}

void rpc_echo(struct rpc *r, struct client *c, size_t len, uint32_t reply_bytes)
{
	uint8_t *wire = malloc(len + 32);
	size_t n = echo_frame(wire, len, reply_bytes, 0);

	rpc_start(r, c, ECHO_PATH, wire, n, NULL, 0);
	free(wire);
}

void rpc_release(struct rpc *r, size_t out_hold)
{
	r->out_hold = out_hold;
	(void)nghttp2_session_resume_data(r->client->session, r->stream);
}

void rpc_cancel(struct rpc *r)
{
	nghttp2_submit_rst_stream(r->client->session, 0, r->stream, NGHTTP2_CANCEL);
}

static bool rpc_over(void *arg)
{
	const struct rpc *r = arg;

	return r->closed || r->client->tcp == NULL;
}

int rpc_wait(struct rpc *r)
{
	ck_assert_msg(harness_until(rpc_over, r, 10000), "a call did not end");
	return r->grpc_status;
}

void rpc_check_echo(struct rpc *r, size_t len)
{
	size_t at = 5;

	ck_assert_msg(rpc_wait(r) == GRPC_OK, "status %d: %s", r->grpc_status, r->message);
	ck_assert_int_eq(r->http_status, 200);
	ck_assert_uint_ge(r->body_len, 5);
	ck_assert_uint_eq(be32_load(r->body + 1), r->body_len - 5);
	if (len == 0) {
		ck_assert_uint_eq(r->body_len, 5);
		return;
	}
	ck_assert_uint_eq(r->body[at++], 0x0a);
	while (r->body[at++] & 0x80)
		continue;
	ck_assert_uint_eq(r->body_len - at, len);
	for (size_t i = 0; i < len; i++) {
		if (r->body[at + i] != pattern(i))
			ck_abort_msg("byte %zu differs", i);
	}
}

void rpc_free(struct rpc *r)
{
	if (r->client->used && !r->closed && r->client->session != NULL)
		nghttp2_session_set_stream_user_data(r->client->session, r->stream, NULL);
	free(r->body);
	free(r->owned);
	r->body = NULL;
	r->owned = NULL;
}
