/* Fake hosts: a thread each, over shepherd's host side. */
#include "tests/worker/harness.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "echo.pb-c.h"
#include "linearize/linearize.h"
#include "tests/worker/harness_internal.h"

#define HOSTS_MAX 8

typedef Split__Examples__EchoMessage EchoMessage;
#define ECHO_DESCRIPTOR split__examples__echo_message__descriptor

static struct fake_host *hosts[HOSTS_MAX];

/* ---- the host's thread ---------------------------------------------------------------------- */

/* The request, decoded if that is left to us; NULL: it can't be. Free it by request_put. */
static EchoMessage *request_get(const struct slot *in)
{
	const uint8_t *wire =
		in->flags & SLOT_INLINE ? in->inline_area : (const uint8_t *)(uintptr_t)in->msg;

	if ((in->form & SLOT_FORM_WIRE) == 0)
		return (EchoMessage *)(uintptr_t)in->msg;
	return split__examples__echo_message__unpack(
		NULL, in->flags & SLOT_INLINE ? in->inline_bytes : in->msg_bytes, wire);
}

static void request_put(const struct slot *in, EchoMessage *req)
{
	if ((in->form & SLOT_FORM_WIRE) != 0 && req != NULL)
		split__examples__echo_message__free_unpacked(req, NULL);
}

/* Its encoding instead of the message: in the slot if it fits there, else at the end of the chunk.
 */
static void answer_encode(struct fake_host *h, struct slot *out, const EchoMessage *reply,
			  const struct shepherd_chunk *chunk)
{
	size_t len = protobuf_c_message_get_packed_size(&reply->base);
	struct shepherd_chunk arena = attachment_arena(h->attachment);
	enum host_mode mode = (enum host_mode)atomic_load(&h->mode);
	uint8_t *at = chunk->mem + chunk->bytes - len;

	out->form = SLOT_FORM_WIRE;
	if (len <= SLOT_INLINE_BYTES && mode == HOST_WIRE) {
		out->flags |= SLOT_INLINE;
		out->inline_bytes =
			(uint8_t)protobuf_c_message_pack(&reply->base, out->inline_area);
		return;
	}
	out->flags |= SLOT_EXTRA;
	(void)protobuf_c_message_pack(&reply->base, at);
	out->msg = (uint64_t)(uintptr_t)at;
	out->msg_bytes = (uint32_t)len;
	if (mode == HOST_WIRE_LONG)
		out->msg_bytes = (uint32_t)(arena.mem + arena.bytes - at) + 1;
	if (mode == HOST_WIRE_HUGE) {
		out->msg = (uint64_t)(uintptr_t)arena.mem;
		out->msg_bytes = (uint32_t)arena.bytes;
	}
}

/* False: no room now. */
static bool answer(struct fake_host *h, struct host_lane *lane, const struct slot *in)
{
	enum host_mode mode = (enum host_mode)atomic_load(&h->mode);
	EchoMessage *req = request_get(in);
	size_t bytes = req == NULL             ? 0
		       : req->reply_bytes != 0 ? req->reply_bytes
					       : req->payload.len;
	struct shepherd_chunk chunk;
	struct slot *out;
	EchoMessage *reply;

	if (arena_get(h->arena, mode < HOST_WIRE ? 256 + bytes : 512 + 2 * bytes, &chunk) != 0) {
		request_put(in, req);
		return false;
	}
	out = host_lane_reserve(lane, true);
	if (out == NULL) {
		(void)arena_put(h->arena, chunk.mem);
		request_put(in, req);
		return false;
	}
	reply = (EchoMessage *)(void *)chunk.mem;
	split__examples__echo_message__init(reply);
	if (bytes != 0) {
		reply->payload.data = chunk.mem + 256; /* what is behind is for answer_encode */
		reply->payload.len = bytes;
		if (req->reply_bytes != 0)
			memset(reply->payload.data, 'r', bytes);
		else
			memcpy(reply->payload.data, req->payload.data, bytes);
	}
	out->kind = TO_DAEMON_MESSAGE;
	out->flags = SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_HAS_TOKEN | SLOT_HAS_MESSAGE;
	out->call_id = in->call_id;
	out->token = (uint64_t)(uintptr_t)chunk.mem;
	out->msg = (uint64_t)(uintptr_t)reply;
	if (mode >= HOST_WIRE)
		answer_encode(h, out, reply, &chunk);
	if (req == NULL) {
		out->kind = TO_DAEMON_STATUS;
		out->flags = SLOT_HAS_TOKEN;
		out->form = SLOT_FORM_UNDECODED;
		out->info = GRPC_INTERNAL;
	}
	if (mode == HOST_BAD_POINTER)
		out->msg = (uint64_t)(uintptr_t)h;
	if (mode == HOST_BAD_MESSAGE) {
		reply->payload.data = (uint8_t *)h;
		reply->payload.len = 16;
	}
	if (mode == HOST_STATUS) {
		const struct metadata_item item = {"x-t", "v", 3, 1};

		memcpy(chunk.mem, "no such thing", 13);
		ck_assert_int_eq(metadata_write(&item, 1, chunk.mem + 64, 192, 0), 0);
		out->kind = TO_DAEMON_STATUS;
		out->flags = SLOT_HAS_TOKEN | SLOT_EXTRA;
		out->info = GRPC_NOT_FOUND;
		out->text = (uint64_t)(uintptr_t)chunk.mem;
		out->text_bytes = 13;
		out->metadata = (uint64_t)(uintptr_t)(chunk.mem + 64);
	}
	if (mode == HOST_REFUSE_ALL || mode == HOST_REFUSE_ONCE) {
		out->kind = TO_DAEMON_REFUSE;
		out->flags = 0;
		(void)arena_put(h->arena, chunk.mem);
	}
	if (mode == HOST_REFUSE_ONCE)
		atomic_store(&h->mode, HOST_ECHO);
	if (in->flags & SLOT_HAS_TOKEN) {
		out->flags |= SLOT_RELEASE_REQUEST;
		out->release = in->info;
	}
	host_lane_commit(lane, out);
	host_lane_ring(lane);
	request_put(in, req);
	return true;
}

static void request_note(struct fake_host *h, const struct slot *slot)
{
	const struct metadata_block *md = (const void *)(uintptr_t)slot->metadata;

	atomic_fetch_add(&h->requests, 1);
	if (slot->flags & SLOT_INLINE)
		atomic_fetch_add(&h->inlined, 1);
	if (slot->form & SLOT_FORM_WIRE)
		atomic_fetch_add(&h->wired, 1);
	atomic_store(&h->deadline_ns, slot->deadline_ns);
	if ((slot->flags & SLOT_EXTRA) && md != NULL)
		atomic_fetch_add(&h->metadata_entries, md->count);
	if ((slot->flags & SLOT_EXTRA) && slot->trace != 0)
		(void)snprintf(h->traceparent, sizeof(h->traceparent), "%s",
			       (const char *)(uintptr_t)slot->trace);
}

/* An inline message as it lies in a copy of its slot: its pointers follow it. */
static void inline_move(struct held *held, const struct slot *slot)
{
	uint64_t area = (uint64_t)(uintptr_t)slot->inline_area;
	EchoMessage *msg = (EchoMessage *)(void *)held->message;
	uint64_t data;

	memcpy(msg, (const void *)(uintptr_t)slot->msg, sizeof(*msg));
	data = (uint64_t)(uintptr_t)msg->payload.data;
	if (data - area < SLOT_INLINE_BYTES)
		msg->payload.data = held->slot.inline_area + (data - area);
	held->slot.msg = (uint64_t)(uintptr_t)msg;
}

static void take_request(struct fake_host *h, struct host_lane *lane, const struct slot *slot)
{
	struct held *held = &h->held[(h->held_first + h->held_n) % HOST_HELD_MAX];
	bool claimed = host_lane_claim(lane, slot);

	if (claimed) {
		request_note(h, slot);
		atomic_fetch_add(&h->requests_of[lane - attachment_lane(h->attachment, 0, 0)], 1);
	} else {
		host_refuse(h, lane, slot);
	}
	held->slot = *slot;
	if ((slot->flags & SLOT_INLINE) && (slot->form & SLOT_FORM_WIRE) == 0)
		inline_move(held, slot);
	host_lane_advance(lane);
	if (claimed && atomic_load(&h->mode) != HOST_FORGET)
		h->held_n++;
}

static bool take(struct fake_host *h, struct host_lane *lane)
{
	const struct slot *slot = atomic_load(&h->mode) == HOST_DEAF ? NULL : host_lane_peek(lane);
	uint64_t tokens[SLOT_TOKENS_MAX];
	unsigned n;

	if (slot == NULL)
		return false;
	if (host_stream_take(h, lane, slot)) {
		host_lane_advance(lane);
		return true;
	}
	if (slot->kind == TO_HOST_REQUEST) {
		take_request(h, lane, slot);
		return true;
	}
	if (slot->kind == TO_HOST_RELEASE) {
		n = host_lane_released(lane, slot, tokens);
		for (unsigned i = 0; i < n; i++)
			(void)arena_put(h->arena, (void *)(uintptr_t)tokens[i]);
		atomic_fetch_add(&h->releases, n);
	} else if (slot->kind == TO_HOST_CANCEL) {
		atomic_fetch_add(&h->cancels, 1);
	}
	host_lane_advance(lane);
	return true;
}

static void held_answer(struct fake_host *h, struct host_lane *lane)
{
	while (h->held_n != 0 && answer(h, lane, &h->held[h->held_first].slot)) {
		h->held_first = (h->held_first + 1) % HOST_HELD_MAX;
		h->held_n--;
	}
}

static void schema_make(struct attach_hello *hello, struct schema_blob *blob, unsigned workers)
{
	static const struct {
		const char *name;
		enum attach_kind kind;
	} rpcs[] = {
		{"Unary", ATTACH_UNARY},
		{"Client", ATTACH_CLIENT_STREAM},
		{"Server", ATTACH_SERVER_STREAM},
		{"Bidi", ATTACH_BIDI},
	};
	static struct attach_method methods[ARRAY_LEN(rpcs)];
	struct schema_builder *b;
	uint32_t message;

	ck_assert_int_eq(schema_builder_create(&b), 0);
	ck_assert_int_eq(schema_builder_add(b, &ECHO_DESCRIPTOR, &message), 0);
	for (unsigned i = 0; i < ARRAY_LEN(rpcs); i++)
		methods[i] = (struct attach_method){
			.service = "split.examples.Echo",
			.method = rpcs[i].name,
			.kind = rpcs[i].kind,
			.code = 1,
			.data = 2,
			.input_schema = message,
			.output_schema = message,
			.read_ahead = 4,
		};
	ck_assert_int_eq(schema_builder_finish(b, blob), 0);
	schema_builder_destroy(b);
	*hello = (struct attach_hello){
		.name = "echo",
		.workers = workers,
		.methods = methods,
		.methods_n = ARRAY_LEN(methods),
		.schema = blob->bytes,
		.schema_bytes = blob->len,
	};
}

/* A bound on hanging, not a verdict on speed: the main thread maps and seals meanwhile. */
#define ATTACH_MS 100000

/* Check's assertions are the main thread's. */
static void give_up(const char *what, int err)
{
	fprintf(stderr, "fake host: %s: %s\n", what, error_text(err));
	abort();
}

static void *host_main(void *arg)
{
	struct fake_host *h = arg;
	struct attach_hello hello;
	struct schema_blob blob;
	struct shepherd_chunk room;
	int err;

	schema_make(&hello, &blob, h->workers);
	err = attachment_open_fd(h->fd, &hello, ATTACH_MS, &h->attachment, NULL);
	if (err != 0)
		give_up("attach", err);
	free(blob.bytes);
	room = attachment_arena(h->attachment);
	err = arena_create(room.mem, room.bytes, &h->arena);
	if (err != 0)
		give_up("arena", err);
	for (unsigned i = 0; i < h->workers; i++)
		host_state_set(h->attachment, i, HOST_POLLING);
	atomic_store(&h->running, true);
	while (!atomic_load(&h->stop)) {
		bool took = false;

		for (unsigned i = 0; i < h->workers; i++) {
			struct host_lane *lane = attachment_lane(h->attachment, 0, i);
			bool deaf = atomic_load(&h->deaf_worker) == (int)i;
			bool parked = (atomic_load(&h->parked) >> i & 1) != 0;

			host_state_set(h->attachment, i,
				       parked ? HOST_PARKED
				       : deaf ? HOST_RUNNING
					      : HOST_POLLING);
			if (deaf || parked || (atomic_load(&h->absent) >> i & 1) != 0)
				continue;
			took |= take(h, lane);
			host_streams_run(h);
			if (h->held_n != 0 && atomic_load(&h->mode) != HOST_HOLD)
				held_answer(h, lane);
		}
		if (took)
			continue;
		if (atomic_load(&h->mode) == HOST_DEAF || h->workers > 1)
			usleep(100);
		else
			(void)host_park(h->attachment, 0, HOST_PARKED, CLOCK_NS_PER_MS);
	}
	return NULL;
}

/* ---- attach, remove ------------------------------------------------------------------------- */

struct fake_host *host_attach(enum host_mode mode, void (*edit)(struct endpoint_config *cfg))
{
	static const struct attach_policy policy = {0};
	const struct config_host *ch = &harness.config->hosts[0];
	struct endpoint_config cfg = {
		.name = "echo",
		.daemon_workers = 1,
		.host_workers = 1,
		.request_slots = 64,
		.completion_slots = 64,
		.foreign_slots = 64,
		.to_host_bytes = ch->to_host,
		.to_daemon_bytes = ch->to_daemon,
		.numa_node = -1,
		.calls_max = 256,
		.release_timeout_ns = 2 * CLOCK_NS_PER_SEC,
		.revocable = true,
	};
	struct fake_host *h = aligned_alloc(64, align_up(sizeof(*h), 64));
	enum attach_event event = ATTACH_NOTHING;
	int pair[2];

	memset(h, 0, sizeof(*h));
	if (edit != NULL)
		edit(&cfg);
	h->workers = cfg.host_workers;
	atomic_store(&h->deaf_worker, -1);
	h->config = *ch;
	atomic_store(&h->mode, mode);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	h->fd = pair[0];
	ck_assert_int_eq(attach_server_create(pair[1], &policy, &h->server), 0);
	ck_assert_int_eq(pthread_create(&h->thread, NULL, host_main, h), 0);
	while (event != ATTACH_MAPPED) {
		ck_assert_int_eq(attach_server_step(h->server, &event), 0);
		if (event == ATTACH_REQUESTED) {
			const struct attach_request *rq = attach_server_request(h->server);

			ck_assert_int_eq(
				schema_parse(rq->schema, rq->schema_bytes, NULL, &h->schema), 0);
			ck_assert_int_eq(attach_server_offer(h->server, &cfg), 0);
		}
		usleep(100);
	}
	h->shared = (struct worker_endpoint){
		.endpoint = attach_server_endpoint(h->server),
		.host = &h->config,
		.host_index = 0,
		.services = h->services,
		.schema = h->schema,
		.methods = attach_server_request(h->server)->methods,
		.methods_n = attach_server_request(h->server)->methods_n,
		.on_cpu = h->on_cpu,
	};
	ck_assert_uint_le(h->shared.methods_n, ARRAY_LEN(h->services));
	for (size_t i = 0; i < h->shared.methods_n; i++)
		h->services[i] =
			(int16_t)config_service_find(harness.config, h->shared.methods[i].service);
	endpoint_get(h->shared.endpoint);
	harness_post(WORKER_MSG_ENDPOINT_ADD, &h->shared, 0);
	ck_assert_int_eq(attach_server_activate(h->server), 0);
	while (!atomic_load(&h->running))
		usleep(100);
	for (unsigned i = 0; i < HOSTS_MAX; i++) {
		if (hosts[i] == NULL) {
			hosts[i] = h;
			return h;
		}
	}
	ck_abort_msg("too many hosts");
	return NULL;
}

void host_remove(struct fake_host *h)
{
	struct worker_report report;

	endpoint_detach(h->shared.endpoint);
	harness_post(WORKER_MSG_ENDPOINT_REMOVE, &h->shared, 0);
	report = harness_report(WORKER_REPORT_ENDPOINT_QUIET);
	ck_assert_ptr_eq(report.endpoint, &h->shared);
	atomic_store(&h->stop, true);
	host_kick(h->attachment, 0);
	pthread_join(h->thread, NULL);
	arena_destroy(h->arena);
	attachment_close(h->attachment);
	attach_server_destroy(h->server);
	ck_assert_uint_eq(endpoint_refs(h->shared.endpoint), 1);
	endpoint_put(h->shared.endpoint);
	schema_destroy(h->schema);
	for (unsigned i = 0; i < HOSTS_MAX; i++) {
		if (hosts[i] == h)
			hosts[i] = NULL;
	}
	free(h);
}

void hosts_remove(void)
{
	for (unsigned i = 0; i < HOSTS_MAX; i++) {
		if (hosts[i] != NULL)
			host_remove(hosts[i]);
	}
}
