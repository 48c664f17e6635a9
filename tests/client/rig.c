/* See rig.h. */
#include "tests/client/rig.h"

#include <stdio.h>
#include <stdlib.h>

struct server servers[SERVERS];
struct client *client;
unsigned call_channel;
struct client_channel_config channel;
struct client_config config;
struct wheel wheel;
uint64_t now_ns;

static struct client_address addresses[SERVERS];
static struct http2_engine *engine;
static struct call *calls[CALLS];
static unsigned calls_n;
static struct request *requests[CALLS];
static unsigned requests_all;

/* ---- pipes ------------------------------------------------------------------------------------
 */

struct pipe {
	uint8_t *bytes;
	size_t n, at;
};

/* One connection: both ends of it. */
struct wire {
	bool used, connected, eof, dead, silent;
	struct client_connection *conn; /* NULL: let go by the client */
	struct server *server;
	struct http2_session *session;
	struct pipe up, down; /* to the server, to the client */
};
static struct wire wires[SESSIONS];

static int pipe_reserve(struct pipe *p, uint8_t **buf_out, size_t *room_out)
{
	/* Odd pieces, so that everything is cut somewhere. */
	size_t room = PIPE_BYTES - p->n;

	if (room == 0)
		return SPLIT_AGAIN;
	*buf_out = p->bytes + p->n;
	*room_out = room < 1237 ? room : 1237;
	return 0;
}

static int up_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	(void)wanted;
	return pipe_reserve(&((struct wire *)ctx)->up, buf_out, room_out);
}

static void up_commit(void *ctx, size_t n)
{
	((struct wire *)ctx)->up.n += n;
}

static int down_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	(void)wanted;
	return pipe_reserve(&((struct wire *)ctx)->down, buf_out, room_out);
}

static void down_commit(void *ctx, size_t n)
{
	((struct wire *)ctx)->down.n += n;
}

static int on_connect(void *ctx, struct client_connection *conn, const struct client_address *to,
		      void **stream_out)
{
	unsigned i = 0;

	(void)ctx;
	while (i < SESSIONS && wires[i].used)
		i++;
	ck_assert_uint_lt(i, SESSIONS);
	wires[i] = (struct wire){.used = true, .conn = conn, .server = &servers[to->port - 1]};
	wires[i].up.bytes = malloc(PIPE_BYTES);
	wires[i].down.bytes = malloc(PIPE_BYTES);
	*stream_out = &wires[i];
	return 0;
}

static void wire_end(struct wire *w)
{
	if (w->session != NULL) {
		w->server->connections_n--;
		http2_session_destroy(w->session);
	}
	w->session = NULL;
	w->dead = true;
	if (w->conn != NULL)
		return;
	free(w->up.bytes);
	free(w->down.bytes);
	w->used = false;
}

static void on_flush(void *stream)
{
	(void)stream;
}

static void on_close(void *stream, bool abort)
{
	struct wire *w = stream;

	(void)abort;
	ck_assert_ptr_nonnull(w->conn);
	w->conn = NULL;
}

static uint64_t on_random(void *ctx)
{
	(void)ctx;
	return 42;
}

/* ---- servers ----------------------------------------------------------------------------------
 */

static const struct http2_header answer_head[] = {
	HTTP2_HEADER(":status", "200"),
	HTTP2_HEADER("content-type", "application/grpc"),
};

static void field_copy(char *to, size_t bytes, const struct http2_header *h)
{
	snprintf(to, bytes, "%.*s", (int)h->value_len, h->value);
}

static struct request *request_of(struct http2_stream *stream)
{
	return *(struct request **)http2_stream_user(stream);
}

static int server_on_headers(void *session_user, struct http2_stream *stream,
			     const struct http2_header *h, size_t n, unsigned flags)
{
	struct wire *w = session_user;
	struct request *r = calloc(1, sizeof(*r));

	ck_assert_uint_lt(requests_all, CALLS);
	requests[requests_all++] = r;
	*(struct request **)http2_stream_user(stream) = r;
	r->stream = stream;
	r->server = w->server;
	r->end = (flags & HTTP2_HEADERS_END) != 0;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(h[i].name, ":path") == 0)
			field_copy(r->path, sizeof(r->path), &h[i]);
		else if (strcmp(h[i].name, ":authority") == 0)
			field_copy(r->authority, sizeof(r->authority), &h[i]);
		else if (strcmp(h[i].name, "grpc-timeout") == 0)
			field_copy(r->timeout, sizeof(r->timeout), &h[i]);
		else if (strcmp(h[i].name, "grpc-previous-rpc-attempts") == 0)
			field_copy(r->previous, sizeof(r->previous), &h[i]);
		else if (strcmp(h[i].name, "grpc-accept-encoding") == 0)
			field_copy(r->accept, sizeof(r->accept), &h[i]);
		else if (strcmp(h[i].name, "user-agent") == 0)
			field_copy(r->agent, sizeof(r->agent), &h[i]);
		else if (strncmp(h[i].name, "x-", 2) == 0)
			field_copy(r->md, sizeof(r->md), &h[i]);
	}
	if (strstr(r->path, "grpc.health") != NULL) {
		w->server->watches_n++;
		w->server->watch = r;
		return 0;
	}
	w->server->requests[w->server->requests_n++] = r;
	return 0;
}

void server_headers(struct request *r, const struct http2_header *more, size_t n)
{
	struct http2_header h[16];

	memcpy(h, answer_head, sizeof(answer_head));
	for (size_t i = 0; i < n; i++)
		h[2 + i] = more[i];
	r->answered = true;
	ck_assert_int_eq(http2_stream_respond(r->stream, h, 2 + n, true), 0);
}

void server_message(struct request *r, const void *p, size_t n, bool compressed)
{
	uint8_t prefix[5] = {compressed, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
			     (uint8_t)n};

	ck_assert_uint_le(r->out_n + n + 5, sizeof(r->out));
	memcpy(r->out + r->out_n, prefix, 5);
	if (n > 0)
		memcpy(r->out + r->out_n + 5, p, n);
	r->out_n += n + 5;
	http2_stream_resume(r->stream);
}

void server_status(struct request *r, const char *status, const char *message)
{
	struct http2_header h[6];
	size_t n = 2;

	snprintf(r->status, sizeof(r->status), "%s", status);
	snprintf(r->message, sizeof(r->message), "%s", message != NULL ? message : "");
	r->ending = true;
	if (r->answered) {
		http2_stream_resume(r->stream);
		return;
	}
	memcpy(h, answer_head, sizeof(answer_head));
	h[n++] = (struct http2_header){"grpc-status", r->status, 11, strlen(r->status), 0};
	if (message != NULL)
		h[n++] = (struct http2_header){"grpc-message", r->message, 12, strlen(r->message),
					       0};
	if (r->pushback[0] != '\0')
		h[n++] = (struct http2_header){"grpc-retry-pushback-ms", r->pushback, 22,
					       strlen(r->pushback), 0};
	ck_assert_int_eq(http2_stream_respond(r->stream, h, n, false), 0);
}

static size_t server_body_next(struct http2_stream *stream, size_t max, bool *eof_out)
{
	struct request *r = request_of(stream);
	size_t n = r->out_n - r->out_at;
	struct http2_header h[] = {
		{"grpc-status", r->status, 11, strlen(r->status), 0},
		{"grpc-message", r->message, 12, strlen(r->message), 0},
		HTTP2_HEADER("x-trailer", "t"),
		HTTP2_HEADER("x-trailer-bin", "YWJj"),
	};

	if (n > max)
		return max;
	if (r->ending) {
		ck_assert_int_eq(http2_stream_trailers(stream, h, 4), 0);
		*eof_out = true;
	}
	return n;
}

static void server_body_copy(struct http2_stream *stream, uint8_t *dst, size_t n)
{
	struct request *r = request_of(stream);

	memcpy(dst, r->out + r->out_at, n);
	r->out_at += n;
}

static void watch_answer(struct request *r)
{
	const uint8_t answer[2] = {0x08, r->server->health};

	if (r->server->no_health) {
		server_status(r, "12", "unknown");
		return;
	}
	if (!r->answered)
		server_headers(r, NULL, 0);
	server_message(r, answer, 2, false);
}

static void request_answer(struct request *r)
{
	struct server *s = r->server;
	const struct script *script;

	if (r == s->watch) {
		watch_answer(r);
		return;
	}
	if (s->hold)
		return;
	if (s->script_at < s->script_n) {
		script = &s->script[s->script_at++];
		if (script->pushback != NULL)
			snprintf(r->pushback, sizeof(r->pushback), "%s", script->pushback);
		if (script->reset != 0) {
			http2_stream_reset(r->stream, script->reset - 1);
			return;
		}
		if (script->close) {
			server_cut(s);
			return;
		}
		if (script->http != NULL) {
			struct http2_header h = {":status", script->http, 7, strlen(script->http),
						 0};

			ck_assert_int_eq(http2_stream_respond(r->stream, &h, 1, false), 0);
			return;
		}
		if (script->headers_first)
			server_headers(r, NULL, 0);
		server_status(r, script->status, "as told");
		return;
	}
	server_headers(r, NULL, 0);
	server_message(r, r->body + 5, r->body_n - 5, false);
	server_status(r, "0", "");
}

static void server_on_data(struct http2_stream *stream, const uint8_t *p, size_t n)
{
	struct request *r = request_of(stream);

	http2_stream_consume(stream, n);
	n = n < sizeof(r->body) - r->body_n ? n : sizeof(r->body) - r->body_n;
	memcpy(r->body + r->body_n, p, n);
	r->body_n += n;
}

static void server_on_end(struct http2_stream *stream)
{
	struct request *r = request_of(stream);

	r->end = true;
	request_answer(r);
}

static void server_on_closed(struct http2_stream *stream, uint32_t code, bool by_peer)
{
	struct request *r = request_of(stream);

	(void)by_peer;
	r->closed = true;
	r->closed_code = code;
	if (r->server->watch == r)
		r->server->watch = NULL;
}

static const struct http2_events server_events = {
	.headers = server_on_headers,
	.data = server_on_data,
	.end = server_on_end,
	.body_next = server_body_next,
	.body_copy = server_body_copy,
	.closed = server_on_closed,
};

void server_goaway(struct server *s, bool graceful, uint32_t code)
{
	for (unsigned i = 0; i < SESSIONS; i++)
		if (wires[i].used && wires[i].server == s && wires[i].session != NULL)
			http2_session_goaway(wires[i].session, graceful, code);
}

void server_cut(struct server *s)
{
	for (unsigned i = 0; i < SESSIONS; i++)
		if (wires[i].used && wires[i].server == s)
			wires[i].dead = true;
}

void server_raw(struct server *s, const void *p, size_t n)
{
	for (unsigned i = 0; i < SESSIONS; i++) {
		struct wire *w = &wires[i];

		if (w->used && w->server == s && !w->dead) {
			memcpy(w->down.bytes + w->down.n, p, n);
			w->down.n += n;
		}
	}
}

void rig_silence(struct server *s)
{
	for (unsigned i = 0; i < SESSIONS; i++)
		wires[i].silent |= wires[i].used && wires[i].server == s;
}

struct request *server_last(struct server *s)
{
	ck_assert_uint_gt(s->requests_n, 0);
	return s->requests[s->requests_n - 1];
}

/* ---- turns ------------------------------------------------------------------------------------
 */

static bool wire_accept(struct wire *w)
{
	const struct http2_out out = {down_reserve, down_commit, NULL, w};
	struct client_connection *conn = w->conn;

	if (w->connected || w->server->mode == SERVER_SILENT || w->dead)
		return false;
	w->connected = true;
	if (w->server->mode == SERVER_REFUSES) {
		w->conn = NULL;
		wire_end(w);
		client_stream_ended(conn, -SPLIT_E_NET_REFUSED, now_ns);
		return true;
	}
	w->server->accepted++;
	w->server->connections_n++;
	if (w->server->mode == SERVER_OK)
		ck_assert_int_eq(http2_session_create(engine, &out, w, &w->session), 0);
	client_stream_connected(conn, now_ns);
	return true;
}

static bool wire_turn(struct wire *w)
{
	bool moved = false;
	size_t n;

	if (w->conn == NULL) {
		if (w->session != NULL && w->up.at < w->up.n)
			(void)!http2_session_recv(w->session, w->up.bytes + w->up.at,
						  w->up.n - w->up.at, now_ns);
		wire_end(w);
		return true;
	}
	moved |= wire_accept(w);
	if (!w->used || w->conn == NULL)
		return true;
	if (w->session != NULL && !w->dead && !w->silent) {
		if (w->up.at < w->up.n) {
			n = w->up.n - w->up.at;
			n = n < 1000 ? n : 1000;
			(void)!http2_session_recv(w->session, w->up.bytes + w->up.at, n, now_ns);
			w->up.at += n;
			moved = true;
		}
		if (http2_session_want_send(w->session) && !w->dead) {
			n = w->down.n;
			(void)!http2_session_send(w->session, SIZE_MAX);
			moved |= w->down.n != n;
		}
	}
	if (w->up.at == w->up.n)
		w->up.at = w->up.n = 0;
	if (w->down.at < w->down.n) {
		n = w->down.n - w->down.at;
		n = n < 777 ? n : 777;
		w->down.at += client_stream_recv(w->conn, w->down.bytes + w->down.at, n, now_ns);
		moved = true;
	} else if (w->session != NULL && http2_session_done(w->session) && !w->eof) {
		w->eof = true;
		client_stream_eof(w->conn, now_ns);
		moved = true;
	}
	if (w->down.at == w->down.n)
		w->down.at = w->down.n = 0;
	if (w->dead && w->down.n == 0 && w->conn != NULL) {
		struct client_connection *conn = w->conn;

		w->conn = NULL;
		wire_end(w);
		client_stream_ended(conn, -SPLIT_E_NET_RESET, now_ns);
		moved = true;
	}
	return moved;
}

void rig_turn(void)
{
	bool moved = true;

	for (unsigned turn = 0; moved; turn++) {
		ck_assert_uint_lt(turn, 20000); /* it comes to rest */
		moved = client_run(client, now_ns) > 0;
		for (unsigned i = 0; i < SESSIONS; i++)
			if (wires[i].used)
				moved |= wire_turn(&wires[i]);
	}
}

void rig_advance(uint64_t ns)
{
	uint64_t end = now_ns + ns;

	rig_turn();
	while (now_ns < end) {
		uint64_t next = wheel_next_ns(&wheel);

		next = next > now_ns + 5 * MS ? now_ns + 5 * MS : next;
		now_ns = next > end ? end : next < now_ns + 1000 ? now_ns + 1000 : next;
		wheel_advance(&wheel, now_ns, UINT32_MAX);
		rig_turn();
	}
}

/* ---- the client -------------------------------------------------------------------------------
 */

static size_t md_text(char *to, size_t bytes, const struct grpc_metadata *md, uint32_t n)
{
	size_t at = 0;

	to[0] = '\0';
	for (uint32_t i = 0; i < n; i++)
		at += (size_t)snprintf(to + at, bytes - at, "%.*s=%.*s;", (int)md[i].name_len,
				       md[i].name, (int)md[i].value_len, (const char *)md[i].value);
	return at;
}

static void on_headers(void *user, const struct grpc_metadata *md, uint32_t n)
{
	struct call *c = user;

	ck_assert_uint_eq(c->statuses_n, 0);
	c->headers_n++;
	md_text(c->md, sizeof(c->md), md, n);
	if (c->cancel_in_headers)
		client_call_cancel(c->client);
}

static int on_reserve(void *user, uint32_t bytes, uint8_t **buf_out)
{
	struct call *c = user;

	if (c->no_room)
		return SPLIT_AGAIN;
	ck_assert_ptr_null(c->room);
	*buf_out = c->room = malloc(bytes + 1);
	return 0;
}

static void on_message(void *user, uint8_t *buf, uint32_t bytes)
{
	struct call *c = user;

	ck_assert_ptr_eq(buf, c->room);
	ck_assert_uint_le(c->body_n + bytes, sizeof(c->body));
	memcpy(c->body + c->body_n, buf, bytes);
	c->body_n += bytes;
	c->messages_n++;
	free(buf);
	c->room = NULL;
}

static void on_writable(void *user)
{
	((struct call *)user)->writables_n++;
}

static void on_status(void *user, const struct client_status *status)
{
	struct call *c = user;

	ck_assert_uint_eq(c->statuses_n, 0);
	c->statuses_n++;
	c->status = status->status;
	c->by_peer = status->by_peer;
	snprintf(c->text, sizeof(c->text), "%.*s", (int)status->message_len,
		 status->message != NULL ? status->message : "");
	md_text(c->trailers, sizeof(c->trailers), status->trailers, status->trailers_count);
	c->client = NULL;
	if (c->again_in_status)
		(void)call_unary("again");
}

static const struct client_events events = {
	.headers = on_headers,
	.reserve = on_reserve,
	.message = on_message,
	.writable = on_writable,
	.status = on_status,
};

static void on_release(struct client_message *m)
{
	for (unsigned i = 0; i < calls_n; i++)
		if (m >= calls[i]->message && m < calls[i]->message + 8) {
			ck_assert_ptr_nonnull(m->iov);
			m->iov = NULL;
			calls[i]->released_n++;
			return;
		}
	ck_abort_msg("a message that is nobody's");
}

struct call *call_new(enum grpc_kind kind, uint64_t timeout_ns, bool wait_for_ready)
{
	const struct grpc_metadata md[] = {{"x-key", (const uint8_t *)"v", 5, 1}};
	const struct client_request request = {
		.path = "/test.Service/Method",
		.path_len = 20,
		.kind = kind,
		.deadline_ns = timeout_ns == 0 ? UINT64_MAX : now_ns + timeout_ns,
		.metadata = md,
		.metadata_count = 1,
		.wait_for_ready = wait_for_ready,
	};
	struct call *c = calloc(1, sizeof(*c));
	int r;

	ck_assert_uint_lt(calls_n, CALLS);
	calls[calls_n++] = c;
	r = client_call_start(client, call_channel, &request, &events, c, now_ns, &c->client);
	if (r != 0) {
		c->status = (uint32_t)r;
		c->client = NULL;
	}
	return c;
}

int call_send(struct call *c, const void *p, size_t n)
{
	struct client_message *m = &c->message[c->sent_n];
	int r;

	c->iov[c->sent_n][0] = (struct iovec){(void *)p, n / 2};
	c->iov[c->sent_n][1] = (struct iovec){(char *)p + n / 2, n - n / 2};
	*m = (struct client_message){.iov = c->iov[c->sent_n],
				     .iov_count = 2,
				     .bytes = (uint32_t)n,
				     .release = on_release};
	r = client_call_send(c->client, m);
	if (r == 0)
		c->sent_n++;
	return r;
}

struct call *call_unary(const char *message)
{
	struct call *c = call_new(GRPC_UNARY, 0, false);

	if (c->client != NULL)
		ck_assert_int_eq(call_send(c, message, strlen(message)), 0);
	return c;
}

static bool counter_in(const void *block, const struct counter_desc *desc, const char *name,
		       uint64_t *out)
{
	for (size_t i = 0; i < desc->count; i++)
		if (strcmp(desc->names[i].name, name) == 0) {
			*out = counter_read(block, desc, i);
			return true;
		}
	return false;
}

uint64_t counter_of(const char *name)
{
	uint64_t value = 0;

	if (!counter_in(client_channel_counters(client, 0), &client_counter_desc, name, &value) &&
	    !counter_in(client_channel_picker(client, 0), &picker_counter_desc, name, &value) &&
	    !counter_in(client_http2_counters(client), &http2_client_counter_desc, name, &value))
		ck_abort_msg("no counter %s", name);
	return value;
}

struct client_address server_address(unsigned i)
{
	return (struct client_address){
		.family = 4, .bytes = {198, 18, 0, 1}, .port = (uint16_t)(i + 1)};
}

void rig_setup(void)
{
	struct http2_config h;

	now_ns = SEC;
	wheel_init(&wheel, now_ns);
	memset(servers, 0, sizeof(servers));
	memset(wires, 0, sizeof(wires));
	calls_n = requests_all = 0;
	http2_config_default(&h, SESSIONS);
	h.stream_user_bytes = sizeof(void *);
	h.window_stream = 1 << 20;
	ck_assert_int_eq(http2_engine_create(&h, &server_events, &engine), 0);
	client_channel_config_default(&channel);
	channel.name = "test";
	channel.authority = "server.example:50051";
	client_config_default(&config);
	for (unsigned i = 0; i < SERVERS; i++) {
		servers[i].health = 1;
		addresses[i] = server_address(i);
	}
	client = NULL;
	call_channel = 0;
}

void rig_begin(unsigned servers_n)
{
	const struct client_transport transport = {
		.connect = on_connect,
		.reserve = up_reserve,
		.commit = up_commit,
		.flush = on_flush,
		.resume = on_flush,
		.close = on_close,
		.random = on_random,
	};

	channel.addresses = addresses;
	channel.addresses_n = servers_n;
	config.channels = &channel;
	config.channels_n = 1;
	ck_assert_int_eq(client_create(&config, &transport, &wheel, now_ns, &client), 0);
}

void rig_teardown(void)
{
	client_destroy(client);
	for (unsigned i = 0; i < SESSIONS; i++)
		if (wires[i].used) {
			ck_assert_ptr_null(wires[i].conn);
			wire_end(&wires[i]);
		}
	for (unsigned i = 0; i < calls_n; i++) {
		/* All that was lent came back. */
		ck_assert_uint_eq(calls[i]->released_n, calls[i]->sent_n);
		free(calls[i]->room);
		free(calls[i]);
	}
	for (unsigned i = 0; i < requests_all; i++)
		free(requests[i]);
	http2_engine_destroy(engine);
}
