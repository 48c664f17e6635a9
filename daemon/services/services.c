/* The backend: calls of these services, their messages in and out. */
#include "daemon/services/services_internal.h"

#include <stdlib.h>
#include <string.h>

#include "services_set.h"

COUNTER_DEFINE(services, SERVICES_COUNTERS);

#define HEALTH      "/grpc.health.v1.Health/"
#define CHANNELZ    "/grpc.channelz.v1.Channelz/"
#define REFLECTION  "/grpc.reflection.v1.ServerReflection/"
#define REFLECTION1 "/grpc.reflection.v1alpha.ServerReflection/"

static const struct services_method methods[] = {
	{HEALTH "Check", GRPC_UNARY, health_check},
	{HEALTH "Watch", GRPC_SERVER_STREAMING, health_watch},
	{CHANNELZ "GetTopChannels", GRPC_UNARY, channelz_top_channels},
	{CHANNELZ "GetServers", GRPC_UNARY, channelz_servers},
	{CHANNELZ "GetServer", GRPC_UNARY, channelz_server},
	{CHANNELZ "GetServerSockets", GRPC_UNARY, channelz_server_sockets},
	{CHANNELZ "GetChannel", GRPC_UNARY, channelz_none},
	{CHANNELZ "GetSubchannel", GRPC_UNARY, channelz_none},
	{CHANNELZ "GetSocket", GRPC_UNARY, channelz_socket},
	{REFLECTION "ServerReflectionInfo", GRPC_BIDI, reflection_info},
	{REFLECTION1 "ServerReflectionInfo", GRPC_BIDI, reflection_info},
};

/* ---- memory --------------------------------------------------------------------------------- */

static void *scratch_alloc(void *ctx, size_t bytes)
{
	struct services *s = ctx;
	uint8_t *p = s->scratch + s->scratch_used;

	bytes = align_up(bytes, 16);
	if (bytes > SERVICES_SCRATCH - s->scratch_used)
		return NULL;
	s->scratch_used += bytes;
	return p;
}

static void scratch_free(void *ctx, void *p)
{
	(void)ctx;
	(void)p; /* all at once, with the next request */
}

ProtobufCAllocator services_scratch(struct services *s)
{
	s->scratch_used = 0;
	return (ProtobufCAllocator){
		.alloc = scratch_alloc, .free = scratch_free, .allocator_data = s};
}

/* ---- answers -------------------------------------------------------------------------------- */

struct packer {
	ProtobufCBuffer base;
	struct services_answer *answer;
	size_t room; /* left in the last piece */
};

static bool piece_add(struct packer *p)
{
	struct services_answer *a = p->answer;
	void *piece;

	if (a->pieces == SERVICES_PIECES_MAX ||
	    a->services->answer_bytes + SERVICES_PIECE_BYTES > SERVICES_ANSWERS_MAX)
		return false;
	piece = grpc_server_alloc(a->services->grpc, SERVICES_PIECE_BYTES);
	if (piece == NULL)
		return false;
	a->services->answer_bytes += SERVICES_PIECE_BYTES;
	a->iov[a->pieces++] = (struct iovec){piece, 0};
	p->room = SERVICES_PIECE_BYTES;
	return true;
}

static void pack_append(ProtobufCBuffer *buffer, size_t len, const uint8_t *data)
{
	struct packer *p = container_of(buffer, struct packer, base);
	struct services_answer *a = p->answer;

	while (len > 0 && !a->full) {
		struct iovec *iov;
		size_t part;

		if (p->room == 0 && !piece_add(p)) {
			a->full = true;
			return;
		}
		iov = &a->iov[a->pieces - 1];
		part = len < p->room ? len : p->room;
		memcpy((uint8_t *)iov->iov_base + iov->iov_len, data, part);
		iov->iov_len += part;
		p->room -= part;
		a->chain.bytes += (uint32_t)part;
		data += part;
		len -= part;
	}
}

static void answer_release(struct grpc_chain *chain)
{
	struct services_answer *a = container_of(chain, struct services_answer, chain);
	struct services *s = a->services;

	for (uint32_t i = 0; i < a->pieces; i++)
		grpc_server_free(s->grpc, a->iov[i].iov_base);
	s->answer_bytes -= (uint64_t)a->pieces * SERVICES_PIECE_BYTES + sizeof(*a);
	grpc_server_free(s->grpc, a);
}

static struct services_answer *answer_pack(struct services *s, const ProtobufCMessage *message)
{
	struct packer p = {.base = {.append = pack_append}};
	struct services_answer *a;

	if (s->answer_bytes + sizeof(*a) > SERVICES_ANSWERS_MAX)
		return NULL;
	a = grpc_server_alloc(s->grpc, sizeof(*a));
	if (a == NULL)
		return NULL;
	memset(a, 0, offsetof(struct services_answer, iov));
	s->answer_bytes += sizeof(*a);
	a->services = s;
	a->chain.release = answer_release;
	p.answer = a;
	(void)protobuf_c_message_pack_to_buffer(message, &p.base);
	a->chain.iov = a->iov;
	a->chain.iov_count = a->pieces;
	if (a->full) {
		answer_release(&a->chain);
		return NULL;
	}
	return a;
}

void services_finish(struct services_call *call, enum grpc_status status, const char *text)
{
	const struct grpc_result result = {.status = status,
					   .message = text,
					   .message_len =
						   text != NULL ? (uint32_t)strlen(text) : 0};

	list_del(&call->watch);
	grpc_finish(call->grpc, &result);
}

void services_reply(struct services_call *call, const ProtobufCMessage *message, bool last)
{
	struct services_answer *a = answer_pack(call->services, message);
	int rc;

	if (a == NULL) {
		counter_inc(&call->services->counters.answers_over);
		services_finish(call, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
		return;
	}
	rc = grpc_send_message(call->grpc, &a->chain);
	if (rc == SPLIT_AGAIN) {
		call->waiting = a;
		return;
	}
	if (rc != 0) {
		answer_release(&a->chain);
		return;
	}
	if (last)
		services_finish(call, GRPC_OK, NULL);
}

/* ---- the backend ---------------------------------------------------------------------------- */

static int on_open(void *ctx, struct grpc_call *call, const struct grpc_request_head *head,
		   struct grpc_accept *accept)
{
	return services_open(ctx, call, head, accept);
}

static int on_reserve(void *ctx, struct grpc_call *grpc, uint32_t bytes, uint8_t **buf_out)
{
	struct services_call *call = grpc_call_user(grpc);

	(void)ctx;
	(void)bytes; /* within accept.message_bytes_max */
	if (call->waiting != NULL)
		return SPLIT_AGAIN;
	*buf_out = call->buf;
	return 0;
}

static void on_message(void *ctx, struct grpc_call *grpc, uint8_t *buf, uint32_t bytes, bool last)
{
	struct services_call *call = grpc_call_user(grpc);

	(void)ctx;
	(void)last;
	call->method->request(call, buf, bytes);
}

static void on_half_close(void *ctx, struct grpc_call *grpc)
{
	struct services_call *call = grpc_call_user(grpc);

	(void)ctx;
	call->half_closed = true;
	if (call->waiting == NULL)
		services_finish(call, GRPC_OK, NULL);
}

static void on_writable(void *ctx, struct grpc_call *grpc)
{
	struct services_call *call = grpc_call_user(grpc);

	(void)ctx;
	if (call->waiting != NULL) {
		int rc = grpc_send_message(grpc, &call->waiting->chain);

		if (rc == SPLIT_AGAIN)
			return;
		if (rc != 0)
			answer_release(&call->waiting->chain);
		call->waiting = NULL;
	}
	if (!list_empty(&call->watch))
		health_update(call);
	else if (call->half_closed)
		services_finish(call, GRPC_OK, NULL);
	else
		grpc_call_room(grpc);
}

static void on_closed(void *ctx, struct grpc_call *grpc, enum grpc_closed why)
{
	struct services_call *call = grpc_call_user(grpc);

	(void)ctx;
	(void)why;
	list_del(&call->watch);
	if (call->waiting != NULL)
		answer_release(&call->waiting->chain);
	pool_put(&call->services->calls, call);
}

static const struct grpc_backend services_backend = {
	.open = on_open,
	.reserve = on_reserve,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.closed = on_closed,
};

/* Whether the configuration has this path answered here. */
static bool path_on(const struct services *s, const char *path, size_t n)
{
	if (n >= sizeof(HEALTH) - 1 && memcmp(path, HEALTH, sizeof(HEALTH) - 1) == 0)
		return s->config.health;
	if (n >= sizeof(CHANNELZ) - 1 && memcmp(path, CHANNELZ, sizeof(CHANNELZ) - 1) == 0)
		return s->config.channelz;
	if ((n >= sizeof(REFLECTION) - 1 &&
	     memcmp(path, REFLECTION, sizeof(REFLECTION) - 1) == 0) ||
	    (n >= sizeof(REFLECTION1) - 1 &&
	     memcmp(path, REFLECTION1, sizeof(REFLECTION1) - 1) == 0))
		return s->config.reflection;
	return false;
}

bool services_has(const struct services *s, const char *name, size_t n)
{
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		const char *path = methods[i].path;

		if (strncmp(path + 1, name, n) == 0 && path[1 + n] == '/')
			return path_on(s, path, strlen(path));
	}
	return false;
}

int services_open(struct services *s, struct grpc_call *grpc, const struct grpc_request_head *head,
		  struct grpc_accept *accept)
{
	const struct services_method *method = NULL;
	struct services_call *call;

	/* The common case is none of ours: "/grpc." */
	if (likely(head->path_len < 6 || memcmp(head->path, "/grpc.", 6) != 0) ||
	    !path_on(s, head->path, head->path_len))
		return SPLIT_AGAIN;
	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		if (strlen(methods[i].path) == head->path_len &&
		    memcmp(methods[i].path, head->path, head->path_len) == 0)
			method = &methods[i];
	if (method == NULL) {
		accept->refusal = "unknown method";
		return GRPC_UNIMPLEMENTED;
	}
	call = pool_get(&s->calls);
	if (call == NULL) {
		counter_inc(&s->counters.calls_over);
		return GRPC_RESOURCE_EXHAUSTED;
	}
	call->services = s;
	call->grpc = grpc;
	call->method = method;
	call->waiting = NULL;
	call->half_closed = false;
	call->told = -1;
	list_init(&call->watch);
	accept->kind = method->kind;
	accept->message_bytes_max = SERVICES_REQUEST_MAX;
	accept->user = call;
	accept->backend = &services_backend;
	accept->ctx = s;
	return 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

int services_create(const struct services_config *config, const struct services_source *source,
		    struct grpc_server *grpc, struct services **services_out)
{
	struct services *s = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*s), BITS_CACHE_LINE));
	int err;

	*services_out = NULL;
	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(s, 0, sizeof(*s));
	s->config = *config;
	s->source = *source;
	s->grpc = grpc;
	list_init(&s->watches);
	s->scratch = aligned_alloc(64, SERVICES_SCRATCH);
	err = s->scratch == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	if (err == 0)
		err = pool_init(&s->calls, sizeof(struct services_call), SERVICES_CALLS_MAX, NULL);
	if (err == 0)
		err = services_catalog_create(services_set, sizeof(services_set), &s->own);
	if (err != 0) {
		services_destroy(s);
		return err;
	}
	board_worker_set(config->board, config->worker, grpc);
	*services_out = s;
	return 0;
}

void services_destroy(struct services *s)
{
	if (s == NULL)
		return;
	board_worker_set(s->config.board, s->config.worker, NULL);
	services_catalog_destroy(s->own);
	pool_fini(&s->calls);
	free(s->scratch);
	free(s);
}

const struct services_counters *services_counters_get(const struct services *s)
{
	return &s->counters;
}

void services_changed(struct services *s)
{
	list_for_each_safe (pos, &s->watches)
		health_update(list_entry(pos, struct services_call, watch));
}

void services_drain(struct services *s)
{
	s->draining = true;
	list_for_each_safe (pos, &s->watches) {
		struct services_call *call = list_entry(pos, struct services_call, watch);

		health_update(call);
		services_finish(call, GRPC_UNAVAILABLE, "the server shuts down");
	}
}
