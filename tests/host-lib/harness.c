#include "tests/host-lib/harness.h"

#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/relay/relay_internal.h"

#define WAIT_MS 10000

struct endpoint_config harness_config(void)
{
	/* Over TCP half of the largest power of two in it is the largest message. */
	size_t bytes = harness_over_tcp() ? 16 << 20 : 1 << 20;

	return (struct endpoint_config){
		.name = "test",
		.daemon_workers = 1,
		.host_workers = 1,
		.request_slots = 64,
		.completion_slots = 64,
		.foreign_slots = 64,
		.to_host_bytes = bytes,
		.to_daemon_bytes = bytes,
		.numa_node = -1,
		.calls_max = 64,
	};
}

static void on_event(struct split_host *host, enum split_host_event e, const char *text, void *arg)
{
	struct harness *h = arg;

	(void)host;
	(void)text;
	if (e == SPLIT_HOST_ATTACHED)
		h->attached++;
	else if (e == SPLIT_HOST_LOST)
		h->lost++;
	else if (e == SPLIT_HOST_REFUSED)
		h->refused++;
	else
		h->waiting++;
}

/* HARNESS_TCP=1 in the environment: the same over the socket backend, splitd's relay between. */
bool harness_over_tcp(void)
{
	return getenv("HARNESS_TCP") != NULL;
}

static void relay_tell(const char *line)
{
	ck_abort_msg("%s", line);
}

static void relay_listen(struct harness *h)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* A port that is free. */
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&any, &len), 0);
	(void)close(fd);
	h->remote = (struct config_remote){
		.address = {.family = 4, .bytes = {127, 0, 0, 1}},
		.port = ntohs(any.sin_port),
		.connections_max = 8,
		.timeout_ns = WAIT_MS * CLOCK_NS_PER_MS,
	};
	ck_assert_int_eq(
		relay_create(&(struct relay_params){.config = &h->remote,
						    .attach_timeout_ns = WAIT_MS * CLOCK_NS_PER_MS,
						    .path = "harness"},
			     relay_tell, &h->relay),
		0);
	h->listen_fd = -1;
	snprintf(h->path, sizeof(h->path), "tcp://127.0.0.1:%u", h->remote.port);
}

void harness_init_remote(struct harness *h, const struct endpoint_config *config)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(h, 0, sizeof(*h));
	h->config = *config;
	if (harness_over_tcp()) {
		relay_listen(h);
		return;
	}
	strcpy(h->dir, "/tmp/host-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(h->dir));
	snprintf(h->path, sizeof(h->path), "%s/sock", h->dir);
	strcpy(address.sun_path, h->path);
	h->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(h->listen_fd, 0);
	ck_assert_int_eq(bind(h->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(h->listen_fd, 8), 0);
}

void harness_init(struct harness *h, const struct endpoint_config *config, unsigned workers,
		  const struct split_host_options *options)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	const char *forms = getenv("SPLIT_TEST_FORMS");

	harness_init_remote(h, config);
	h->wire = forms != NULL && strcmp(forms, "wire") == 0;
	if (options != NULL)
		o = *options;
	o.event = on_event;
	o.event_arg = h;
	h->workers = workers;
	h->host = split_host_attach(h->path, "test", &o);
	ck_assert_ptr_nonnull(h->host);
}

static void *run_thread(void *arg)
{
	struct harness *h = arg;

	h->run_result = split_host_run(h->host, h->workers);
	return NULL;
}

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	return strcmp(request->name, "test") == 0 ? 0 : -SPLIT_E_SHEPHERD_ATTACH_NAME;
}

static void readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	ck_assert_int_eq(poll(&p, 1, WAIT_MS), 1);
}

static void hello_take(struct harness *h)
{
	const struct attach_request *r = attach_server_request(h->server);

	h->methods_n = r->methods_n;
	for (size_t i = 0; i < r->methods_n; i++) {
		snprintf(h->method[i], sizeof(h->method[i]), "%s/%s", r->methods[i].service,
			 r->methods[i].method);
		h->schema_in[i] = r->methods[i].input_schema;
		h->schema_out[i] = r->methods[i].output_schema;
	}
	schema_destroy(h->schema);
	ck_assert_int_eq(schema_parse(r->schema, r->schema_bytes, NULL, &h->schema), 0);
	h->config.host_workers = r->workers;
	h->config.host_workers_min = r->workers_min;
	h->host_workers = r->workers;
}

static enum attach_event step_until(struct harness *h, enum attach_event wanted)
{
	enum attach_event e;

	do {
		readable(attach_server_fd(h->server));
		ck_assert_int_eq(attach_server_step(h->server, &e), 0);
	} while (e != wanted);
	return e;
}

static void server_open(struct harness *h)
{
	static const struct attach_policy policy = {.admit = admit};
	int fd;

	if (h->relay != NULL) {
		uint64_t until = clock_ns() + WAIT_MS * CLOCK_NS_PER_MS;
		struct relay_guest guest;

		while (!relay_guest_take(h->relay, &guest)) {
			(void)!relay_accept(h->relay);
			relay_tick(h->relay);
			ck_assert_uint_lt(clock_ns(), until);
			(void)usleep(1000);
		}
		ck_assert_int_eq(attach_server_create(guest.fd, &policy, &h->server), 0);
		return;
	}
	readable(h->listen_fd);
	fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(attach_server_create(fd, &policy, &h->server), 0);
}

void harness_accept(struct harness *h)
{
	unsigned attached = h->attached;

	server_open(h);
	step_until(h, ATTACH_REQUESTED);
	hello_take(h);
	ck_assert_int_eq(attach_server_offer(h->server, &h->config), 0);
	step_until(h, ATTACH_MAPPED);
	h->endpoint = attach_server_endpoint(h->server);
	endpoint_get(h->endpoint);
	for (unsigned d = 0; d < h->config.daemon_workers; d++) {
		h->port[d] = endpoint_port_of(h->endpoint, d);
		endpoint_port_adopt(h->port[d], &h->counters[d]);
	}
	ck_assert_int_eq(attach_server_activate(h->server), 0);
	if (h->host == NULL)
		return;
	harness_spin(h, WAIT_MS, &h->attached, attached + 1);
	ck_assert_uint_eq(h->attached, attached + 1);
}

void harness_refuse(struct harness *h, int code, const char *text)
{
	server_open(h);
	step_until(h, ATTACH_REQUESTED);
	attach_server_refuse(h->server, code, text);
	attach_server_destroy(h->server);
	h->server = NULL;
}

void harness_run(struct harness *h)
{
	ck_assert_int_eq(pthread_create(&h->thread, NULL, run_thread, h), 0);
	h->running = true;
	harness_accept(h);
}

void harness_drop(struct harness *h, bool abrupt)
{
	if (h->endpoint == NULL)
		return;
	if (!abrupt)
		endpoint_detach(h->endpoint);
	attach_server_destroy(h->server);
	endpoint_put(h->endpoint);
	h->server = NULL;
	h->endpoint = NULL;
	h->held_n = 0;
	memset(h->port, 0, sizeof(h->port));
}

void harness_let_go(struct harness *h)
{
	step_until(h, ATTACH_LEAVES);
	ck_assert_int_eq(attach_server_drained(h->server), 0);
}

void harness_drop_wait(struct harness *h)
{
	uint64_t until = clock_ns() + WAIT_MS * CLOCK_NS_PER_MS;

	harness_drop(h, false);
	for (; h->relay != NULL && h->relay->guests_n != 0; relay_tick(h->relay)) {
		ck_assert_uint_lt(clock_ns(), until);
		(void)usleep(1000);
	}
}

void harness_leaving_answer(struct harness *h)
{
	enum attach_event e;

	if (h->server != NULL && attach_server_step(h->server, &e) == 0 && e == ATTACH_LEAVES)
		(void)!attach_server_drained(h->server);
}

void harness_stop(struct harness *h)
{
	uint64_t until = clock_ns() + WAIT_MS * CLOCK_NS_PER_MS;

	if (!h->running)
		return;
	split_host_stop(h->host);
	while (pthread_tryjoin_np(h->thread, NULL) != 0) {
		if (h->endpoint != NULL)
			(void)harness_poll(h);
		harness_leaving_answer(h);
		ck_assert_uint_lt(clock_ns(), until);
		sched_yield();
	}
	h->running = false;
	harness_drop(h, false);
}

void harness_fini(struct harness *h)
{
	harness_stop(h);
	harness_drop(h, false);
	split_host_detach(h->host);
	schema_destroy(h->schema);
	free(h->held);
	if (h->relay != NULL) {
		relay_destroy(h->relay);
		return;
	}
	(void)close(h->listen_fd);
	(void)unlink(h->path);
	(void)rmdir(h->dir);
}

/* ------------------------------------------------------------------ requests */

struct block_target {
	struct endpoint_port *port;
	struct endpoint_blocks *blocks;
	struct shepherd_chunk inline_area; /* used up at the first chunk; mem NULL: none */
	bool inline_only;
	size_t inline_bytes;
};

static int chunk_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct block_target *t = ctx;
	struct shepherd_chunk chunk;
	int rc;

	if (t->inline_only) {
		if (t->inline_area.mem == NULL || min > t->inline_area.bytes)
			return -SPLIT_E_LINEARIZE_NOMEM;
		*out = (struct linear_chunk){t->inline_area.mem, t->inline_area.bytes};
		t->inline_area.mem = NULL;
		return 0;
	}
	rc = endpoint_block_get(t->port, t->blocks, want < 256 ? 256 : want, &chunk);
	if (rc != 0)
		rc = endpoint_block_get(t->port, t->blocks, min, &chunk);
	if (rc == 0)
		*out = (struct linear_chunk){chunk.mem, chunk.bytes};
	return rc;
}

static int decode(struct harness *h, const struct hsend *s, size_t method, const uint8_t *wire,
		  size_t len, struct block_target *t, uint64_t *root, size_t *used)
{
	struct linear_target target = {
		.delta = endpoint_delta(t->port), .chunk_get = chunk_get, .ctx = t};
	static __thread struct decode_job job;
	int rc = decode_start(&job, schema_message_at(h->schema, h->schema_in[method]), wire, len,
			      &target, s->limits);

	while (rc == 0 && (rc = decode_run(&job)) == SPLIT_AGAIN)
		rc = 0;
	if (rc == 0) {
		*root = decode_root(&job);
		*used = decode_chunk_used(&job);
	}
	return rc;
}

static int metadata_add(struct harness *h, const struct hsend *s, struct endpoint_request *r)
{
	struct shepherd_chunk chunk;
	size_t bytes;
	int rc;

	if (s->metadata_n == 0)
		return 0;
	bytes = metadata_bytes(s->metadata, s->metadata_n);
	rc = endpoint_block_get(h->port[s->d], r->blocks, bytes, &chunk);
	if (rc != 0)
		return rc;
	r->metadata = (uint64_t)(uintptr_t)chunk.mem + (uint64_t)endpoint_delta(h->port[s->d]);
	return metadata_write(s->metadata, s->metadata_n, chunk.mem, chunk.bytes,
			      endpoint_delta(h->port[s->d]));
}

/* As splitd does where the host decodes. */
static int wire_add(struct harness *h, const struct hsend *s, const uint8_t *wire, size_t len,
		    struct endpoint_request *r)
{
	const struct linear_limits *limits = s->limits != NULL ? s->limits : &linear_limits_default;
	struct endpoint_port *port = h->port[s->d];
	struct shepherd_chunk chunk;
	int rc = 0;

	if (len <= SLOT_INLINE_BYTES && (len == 0 || !s->no_inline)) {
		rc = endpoint_inline_area(port, s->lane, &chunk);
		r->inline_bytes = (uint8_t)len;
	} else {
		rc = endpoint_block_get(port, r->blocks, len, &chunk);
	}
	if (rc != 0)
		return rc;
	if (len != 0)
		memcpy(chunk.mem, wire, len);
	r->form |= SLOT_FORM_WIRE;
	r->limits = WIRE_LIMITS(limits->linear_bytes_max, limits->depth_max);
	r->elements_max = (uint32_t)limits->elements_max;
	r->msg = (uint64_t)(uintptr_t)chunk.mem + (uint64_t)endpoint_delta(port);
	r->msg_bytes = (uint32_t)len;
	return 0;
}

static int message_add(struct harness *h, const struct hsend *s, size_t method,
		       struct endpoint_request *r)
{
	size_t len = s->raw != NULL ? s->raw_bytes : protobuf_c_message_get_packed_size(s->message);
	uint8_t *wire = malloc(len + 1);
	size_t used = 0;
	struct block_target t = {.port = h->port[s->d], .blocks = r->blocks};
	int rc = -1;

	if (s->raw == NULL)
		protobuf_c_message_pack(s->message, wire);
	if (s->raw != NULL && h->relay != NULL)
		memcpy(wire, s->raw, len); /* for a host that is far, splitd decodes */
	else if (s->raw != NULL || (h->wire && !s->linear)) {
		rc = wire_add(h, s, s->raw != NULL ? s->raw : wire, len, r);
		free(wire);
		return rc;
	}
	if (!s->no_inline && endpoint_inline_area(h->port[s->d], s->lane, &t.inline_area) == 0) {
		t.inline_only = true;
		rc = decode(h, s, method, wire, len, &t, &r->msg, &used);
		if (rc == 0)
			r->inline_bytes = (uint8_t)used;
	}
	if (rc != 0) {
		t.inline_only = false;
		rc = decode(h, s, method, wire, len, &t, &r->msg, &used);
	}
	free(wire);
	return rc;
}

int harness_send(struct harness *h, struct hcall *call, const struct hsend *s)
{
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {.kind = TO_HOST_REQUEST,
				     .form = h->wire ? SLOT_FORM_ENCODE : 0,
				     .flags = s->open ? 0 : SLOT_END_STREAM,
				     .has_message = !s->open,
				     .deadline_ns = s->deadline_ns,
				     .blocks = &blocks,
				     .peer_family = 4,
				     .peer_port = 4000,
				     .peer_address = {198, 18, 0, 1}};
	size_t method;
	int rc;

	for (method = 0; method < h->methods_n; method++)
		if (strcmp(h->method[method], s->method) == 0)
			break;
	ck_assert_uint_lt(method, h->methods_n);
	memset(call, 0, offsetof(struct hcall, initial_buf));
	call->d = s->d;
	call->lane = s->lane;
	call->method = (uint32_t)method;
	r.method = (uint32_t)method;
	rc = endpoint_call_open(h->port[s->d], call, &call->id);
	if (rc != 0)
		return rc;
	r.call_id = call->id;
	rc = s->open ? 0 : message_add(h, s, method, &r);
	if (rc == 0)
		rc = metadata_add(h, s, &r);
	if (rc == 0)
		rc = endpoint_submit(h->port[s->d], s->lane, &r, clock_ns());
	if (rc != 0) {
		endpoint_blocks_put(h->port[s->d], &blocks);
		endpoint_call_close(h->port[s->d], call->id, clock_ns());
		return rc;
	}
	call->open = true;
	endpoint_flush(h->port[s->d], clock_ns());
	return 0;
}

static int publish(struct harness *h, const struct hcall *call, struct endpoint_request *r)
{
	int rc;

	r->call_id = call->id;
	r->method = call->method;
	rc = endpoint_submit(h->port[call->d], call->lane, r, clock_ns());
	endpoint_flush(h->port[call->d], clock_ns());
	return rc;
}

/* The next message of a stream. */
static int message_send(struct harness *h, struct hcall *call, const struct hsend *s, bool last)
{
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {.kind = TO_HOST_MESSAGE,
				     .flags = last ? SLOT_END_STREAM : 0,
				     .has_message = true,
				     .msg_seq = call->sent,
				     .blocks = &blocks};
	int rc = message_add(h, s, call->method, &r);

	if (rc == 0)
		rc = publish(h, call, &r);
	if (rc != 0)
		endpoint_blocks_put(h->port[call->d], &blocks);
	else
		call->sent++;
	return rc;
}

int harness_message(struct harness *h, struct hcall *call, const ProtobufCMessage *message,
		    bool no_inline, bool last)
{
	const struct hsend s = {
		.d = call->d, .lane = call->lane, .message = message, .no_inline = no_inline};

	return message_send(h, call, &s, last);
}

int harness_raw(struct harness *h, struct hcall *call, const uint8_t *bytes, size_t len, bool last)
{
	const struct hsend s = {.d = call->d, .lane = call->lane, .raw = bytes, .raw_bytes = len};

	return message_send(h, call, &s, last);
}

int harness_half_close(struct harness *h, struct hcall *call)
{
	struct endpoint_request r = {.kind = TO_HOST_HALF_CLOSE, .flags = SLOT_END_STREAM};

	return publish(h, call, &r);
}

int harness_out_end(struct harness *h, struct hcall *out, const ProtobufCMessage *message,
		    uint32_t status, const char *text, const struct metadata_item *trailers,
		    size_t trailers_n)
{
	struct endpoint_blocks blocks = {0};
	const struct hsend s = {.d = out->d,
				.lane = out->lane,
				.message = message,
				.linear = true, /* as all of calls out */
				.metadata = trailers,
				.metadata_n = trailers_n};
	struct endpoint_request r = {.kind = message != NULL ? TO_HOST_MESSAGE : TO_HOST_STATUS,
				     .flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
				     .has_message = message != NULL,
				     .status = status,
				     .blocks = &blocks};
	struct shepherd_chunk chunk;
	int rc = message != NULL ? message_add(h, &s, out->method, &r) : 0;

	if (rc == 0)
		rc = metadata_add(h, &s, &r);
	if (rc == 0 && text != NULL) {
		rc = endpoint_block_get(h->port[s.d], &blocks, strlen(text) + 1, &chunk);
		if (rc == 0) {
			strcpy((char *)chunk.mem, text);
			r.text = (uint64_t)(uintptr_t)chunk.mem +
				 (uint64_t)endpoint_delta(h->port[s.d]);
			r.text_bytes = (uint32_t)strlen(text);
		}
	}
	if (rc == 0)
		rc = publish(h, out, &r);
	if (rc != 0) {
		endpoint_blocks_put(h->port[s.d], &blocks);
		return rc;
	}
	out->open = false;
	endpoint_call_close(h->port[s.d], out->id, clock_ns());
	return 0;
}

int harness_out_headers(struct harness *h, struct hcall *out, const struct metadata_item *items,
			size_t n)
{
	struct endpoint_blocks blocks = {0};
	const struct hsend s = {.d = out->d, .lane = out->lane, .metadata = items, .metadata_n = n};
	struct endpoint_request r = {.kind = TO_HOST_INITIAL_METADATA, .blocks = &blocks};
	int rc = metadata_add(h, &s, &r);

	return rc == 0 ? publish(h, out, &r) : rc;
}

int harness_writable(struct harness *h, struct hcall *call, unsigned done, unsigned more)
{
	struct endpoint_request r = {.kind = TO_HOST_WRITABLE, .info = WRITABLE_INFO(done, more)};

	return publish(h, call, &r);
}

int harness_try_cancel(struct harness *h, struct hcall *call)
{
	struct endpoint_request r = {
		.kind = TO_HOST_CANCEL, .call_id = call->id, .info = CANCEL_BY_CLIENT};
	int rc = endpoint_submit(h->port[call->d], call->lane, &r, clock_ns());

	if (rc != 0)
		return rc;
	endpoint_call_close(h->port[call->d], call->id, clock_ns());
	endpoint_flush(h->port[call->d], clock_ns());
	call->open = false;
	call->closed = true;
	return 0;
}

void harness_cancel(struct harness *h, struct hcall *call)
{
	ck_assert_int_eq(harness_try_cancel(h, call), 0);
}

/* ------------------------------------------------------------------ answers */

struct wire_sink {
	uint8_t *mem;
	size_t bytes;
};

static int sink_get(void *ctx, size_t want, struct linear_chunk *out)
{
	struct wire_sink *sink = ctx;

	(void)want;
	if (sink->mem == NULL)
		return -SPLIT_E_LINEARIZE_NOMEM;
	*out = (struct linear_chunk){sink->mem, sink->bytes};
	sink->mem = NULL;
	return 0;
}

static void wire_take(struct harness *h, struct hcall *call, const struct endpoint_completion *c)
{
	h->wire_replies++;
	call->reply_error = 0;
	call->reply_bytes = c->msg_bytes;
	if (h->count_only)
		return;
	free(call->reply);
	call->reply = malloc(call->reply_bytes + 1);
	if (c->msg_bytes != 0)
		memcpy(call->reply, c->window.mem + (c->msg - c->window.peer_base), c->msg_bytes);
}

static void reply_take(struct harness *h, struct hcall *call, const struct endpoint_completion *c,
		       uint32_t schema_out)
{
	static struct encode_job job;
	/* Of every answer in turn: a new one would be 8 MiB to fill under MALLOC_PERTURB_. */
	static uint8_t wire[8u << 20];
	struct wire_sink sink = {wire, sizeof(wire)};
	struct encode_sink out = {.chunk_get = sink_get, .ctx = &sink};
	struct linear_source source = {c->window.mem, c->window.peer_base, c->window.bytes};
	struct iovec iov[1];
	int rc;

	if (c->form & SLOT_FORM_WIRE) {
		wire_take(h, call, c);
		return;
	}
	rc = encode_start(&job, schema_message_at(h->schema, schema_out), &source, c->msg, &out,
			  NULL);

	while (rc == 0 && (rc = encode_run(&job)) == SPLIT_AGAIN)
		rc = 0;
	call->reply_error = rc;
	ck_assert_msg(rc == 0 || h->replies_may_fail, "encode: %s", error_text(rc));
	if (rc != 0)
		return;
	call->reply_bytes = encode_bytes(&job);
	if (h->count_only)
		return;
	free(call->reply);
	call->reply = malloc(call->reply_bytes + 1);
	if (call->reply_bytes > 0) {
		ck_assert_int_eq(encode_result(&job, iov, 1), 1);
		memcpy(call->reply, iov[0].iov_base, iov[0].iov_len);
	}
}

static int metadata_take(struct endpoint_port *port, uint64_t address, struct metadata_item *items,
			 uint8_t *buf, size_t bytes)
{
	int n = endpoint_metadata_read(port, address, items, HARNESS_ITEMS, buf, bytes);

	ck_assert_int_ge(n, 0);
	return n;
}

struct poll_ctx {
	struct harness *h;
	unsigned d;
};

static void token_take(struct harness *h, unsigned d, struct endpoint_port *port,
		       const struct endpoint_completion *c)
{
	if (!c->has_token)
		return;
	if (!h->hold_tokens) {
		endpoint_token_release(port, c->lane, c->token);
		return;
	}
	if (h->held_n == h->held_max) {
		h->held_max = h->held_max == 0 ? 64 : 2 * h->held_max;
		h->held = realloc(h->held, h->held_max * sizeof(*h->held));
	}
	h->held[h->held_n++] = (struct held_token){d, c->lane, c->token};
}

static struct hcall *out_open(struct harness *h, unsigned d, struct endpoint_port *port,
			      const struct endpoint_completion *c)
{
	struct hcall *out;

	ck_assert_uint_lt(h->outs_n, h->outs_max);
	out = &h->outs[h->outs_n];
	memset(out, 0, offsetof(struct hcall, initial_buf));
	out->id = c->call_id;
	out->d = d;
	out->lane = c->home;
	out->method = c->method;
	out->out = out->open = true;
	out->parent = c->parent;
	out->deadline_ns = c->deadline_ns;
	out->waits = c->waits;
	out->half_closed = (c->flags & SLOT_END_STREAM) != 0;
	endpoint_out_accept(port, c->call_id, out);
	if (c->has_message)
		reply_take(h, out, c, h->schema_in[out->method]);
	if (c->metadata != 0)
		out->initial_n = metadata_take(port, c->metadata, out->initial, out->initial_buf,
					       sizeof(out->initial_buf));
	h->outs_n++;
	return out;
}

static void completion(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	struct poll_ctx *p = ctx;
	struct harness *h = p->h;
	struct hcall *call = c->user;

	if (c->kind == TO_DAEMON_CALL || c->kind == TO_DAEMON_HALF_CLOSE ||
	    c->kind == TO_DAEMON_ABANDON) {
		if (c->kind == TO_DAEMON_CALL)
			out_open(h, p->d, port, c);
		else if (c->kind == TO_DAEMON_HALF_CLOSE)
			call->half_closed = true;
		else
			call->abandons++;
		token_take(h, p->d, port, c);
		return;
	}
	call->answer_lane = c->lane;
	if (c->kind == TO_DAEMON_INITIAL_METADATA) {
		call->initial_n = metadata_take(port, c->metadata, call->initial, call->initial_buf,
						sizeof(call->initial_buf));
	} else if (c->kind == TO_DAEMON_REFUSE) {
		call->refused++;
		call->open = false;
		endpoint_call_close(port, call->id, clock_ns());
	} else if (c->kind == TO_DAEMON_CREDIT) {
		call->credit += c->credit;
	} else if (c->kind == TO_DAEMON_WANT) {
		call->wants++;
	} else {
		ck_assert(c->kind == TO_DAEMON_MESSAGE || c->kind == TO_DAEMON_STATUS);
		if (c->has_message)
			reply_take(h, call, c, h->schema_out[call->method]);
		if (c->metadata != 0)
			call->trailing_n =
				metadata_take(port, c->metadata, call->trailing, call->trailing_buf,
					      sizeof(call->trailing_buf));
		if (c->text != 0) {
			int n = endpoint_text_read(port, c->text, c->text_bytes, call->text,
						   sizeof(call->text) - 1);

			ck_assert_int_ge(n, 0);
			call->text[n] = '\0';
		}
		if ((c->flags & SLOT_HAS_STATUS) != 0) {
			call->answers++;
			call->status = c->status;
			call->undecoded = (c->form & SLOT_FORM_UNDECODED) != 0;
			call->open = false;
			endpoint_call_close(port, call->id, clock_ns());
		} else {
			call->messages++;
			if (call->on_message != NULL)
				call->on_message(call);
		}
	}
	token_take(h, p->d, port, c);
}

unsigned harness_poll(struct harness *h)
{
	static const struct endpoint_events events = {.completion = completion};
	unsigned total = 0;

	for (unsigned d = 0; d < h->config.daemon_workers; d++) {
		struct poll_ctx ctx = {h, d};
		int n = endpoint_poll(h->port[d], 64, &events, &ctx, clock_ns());

		ck_assert_msg(n >= 0, "%s", endpoint_cause(h->port[d]));
		endpoint_flush(h->port[d], clock_ns());
		total += (unsigned)n;
	}
	return total;
}

void harness_wait(struct harness *h, struct hcall *call)
{
	uint64_t until = clock_ns() + WAIT_MS * CLOCK_NS_PER_MS;

	while (call->answers == 0 && call->refused == 0) {
		if (harness_poll(h) == 0)
			sched_yield();
		ck_assert_msg(clock_ns() < until, "no answer in %d ms", WAIT_MS);
	}
}

void harness_spin(struct harness *h, unsigned ms, const _Atomic unsigned *flag, unsigned until)
{
	/* Two more threads and a socket are on the way of what has to settle. */
	unsigned slow = h->relay != NULL && flag == NULL ? 25 : 1;
	uint64_t end = clock_ns() + (uint64_t)ms * slow * CLOCK_NS_PER_MS;

	while (clock_ns() < end && (flag == NULL || *flag < until)) {
		if (h->endpoint == NULL || harness_poll(h) == 0)
			sched_yield();
	}
}

void harness_release_held(struct harness *h)
{
	while (h->held_n > 0) {
		struct held_token *t = &h->held[--h->held_n];

		endpoint_token_release(h->port[t->d], t->lane, t->token);
	}
	for (unsigned d = 0; d < h->config.daemon_workers; d++)
		endpoint_flush(h->port[d], clock_ns());
}

void harness_release_first(struct harness *h)
{
	struct held_token t = h->held[0];

	memmove(h->held, h->held + 1, --h->held_n * sizeof(*h->held));
	endpoint_token_release(h->port[t.d], t.lane, t.token);
	endpoint_flush(h->port[t.d], clock_ns());
}

void harness_wait_released(struct harness *h)
{
	uint64_t until = clock_ns() + WAIT_MS * CLOCK_NS_PER_MS;

	for (unsigned d = 0; d < h->config.daemon_workers; d++)
		while (endpoint_bytes_used(h->port[d]) != 0) {
			if (harness_poll(h) == 0)
				sched_yield();
			ck_assert_msg(clock_ns() < until, "a request was not given back");
		}
}

Split__Test__Item *harness_item(const struct hcall *call)
{
	Split__Test__Item *item;

	ck_assert_uint_eq(call->answers, 1);
	ck_assert_msg(call->status == 0, "status %u: %s", call->status, call->text);
	ck_assert_ptr_nonnull(call->reply);
	item = split__test__item__unpack(NULL, call->reply_bytes, call->reply);
	ck_assert_ptr_nonnull(item);
	return item;
}

void hcall_free(struct hcall *call)
{
	free(call->reply);
	call->reply = NULL;
}
