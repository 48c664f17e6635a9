/* Bytes into a gRPC connection above a backend that does as it likes.
 *
 * Input: one byte of flags (1: the bytes begin with the preface themselves), one seed for the
 * backend, the room of the output and the cuts of the input, then what the client sends. Whatever
 * comes, each call that was opened closes once, each chain is released once, and no memory stays.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/random.h"
#include "base/wheel.h"
#include "daemon/grpc/grpc.h"

#define CALLS 32

struct reply {
	struct grpc_chain chain;
	struct iovec iov[2];
};

struct call {
	struct grpc_call *grpc; /* NULL: free */
	uint8_t *buf;
	bool finished;
};

static struct random rnd;
static struct call calls[CALLS];
static int64_t opened, closed, sent, released;
static uint8_t reply_bytes[70000];
static uint8_t out_bytes[4096];
static bool wanted;
static struct wheel wheel;
static struct grpc_server *server;
static uint64_t now_ns;

static bool chance(unsigned percent)
{
	return random_below(&rnd, 100) < percent;
}

static void must(bool good)
{
	if (!good)
		abort();
}

static void reply_release(struct grpc_chain *chain)
{
	released++;
	free(container_of(chain, struct reply, chain));
}

static void reply(struct call *c)
{
	struct reply *r = calloc(1, sizeof(*r));
	size_t n = random_below(&rnd, chance(10) ? sizeof(reply_bytes) : 100);

	must(r != NULL);
	r->iov[0] = (struct iovec){reply_bytes, n / 2};
	r->iov[1] = (struct iovec){reply_bytes + n / 2, n - n / 2};
	r->chain = (struct grpc_chain){.iov = r->iov,
				       .iov_count = 2,
				       .bytes = (uint32_t)n,
				       .compress = chance(50),
				       .release = reply_release};
	if (grpc_send_message(c->grpc, &r->chain) == 0)
		sent++;
	else
		free(r);
}

static void finish(struct call *c)
{
	static const struct grpc_metadata md[] = {{"x-a", (const uint8_t *)"v", 3, 1},
						  {"x-b-bin", (const uint8_t *)"\0\1", 7, 2},
						  {"BAD", (const uint8_t *)"\0\1", 3, 2}};
	struct grpc_result result = {.status = (uint32_t)random_below(&rnd, 18),
				     .message = "text\n",
				     .message_len = (uint32_t)random_below(&rnd, 6),
				     .trailers = md,
				     .trailers_count = (uint32_t)random_below(&rnd, 4)};

	grpc_finish(c->grpc, &result);
	c->finished = true;
}

/* Something that a backend may do with a call at any time. */
static void act(struct call *c)
{
	static const struct grpc_metadata md[] = {{"x-a", (const uint8_t *)"v", 3, 1}};

	switch (random_below(&rnd, 8)) {
	case 0:
	case 1:
		reply(c);
		break;
	case 2:
		finish(c);
		break;
	case 3:
		(void)!grpc_send_metadata(c->grpc, md, random_below(&rnd, 2));
		break;
	case 4:
		grpc_call_pause(c->grpc, true);
		break;
	case 5:
		grpc_call_pause(c->grpc, false);
		break;
	default:
		grpc_call_room(c->grpc);
		break;
	}
}

static int on_open(void *ctx, struct grpc_call *call, const struct grpc_request_head *head,
		   struct grpc_accept *accept)
{
	uint8_t sum = 0;

	(void)ctx;
	/* Touch all that was handed over. */
	for (uint32_t i = 0; i < head->path_len; i++)
		sum ^= (uint8_t)head->path[i];
	must(head->service_len + head->method_len + 2 == head->path_len);
	for (uint32_t i = 0; i < head->metadata_count; i++) {
		for (uint32_t k = 0; k < head->metadata[i].value_len; k++)
			sum ^= head->metadata[i].value[k];
		must(head->metadata[i].name_len > 0 && head->metadata[i].name[0] != ':');
	}
	for (uint32_t i = 0; i < head->authority_len; i++)
		sum ^= (uint8_t)head->authority[i];
	if (chance(5))
		return 1 + (int)(sum % 16); /* a refusal; 0 would take the call */
	for (size_t i = 0; i < CALLS; i++) {
		if (calls[i].grpc != NULL)
			continue;
		calls[i] = (struct call){.grpc = call};
		accept->user = &calls[i];
		accept->kind = (enum grpc_kind)random_below(&rnd, 4);
		accept->compress = (int)random_below(&rnd, 3);
		accept->message_bytes_max = chance(20) ? 10 : 0;
		opened++;
		return 0;
	}
	return GRPC_RESOURCE_EXHAUSTED;
}

static int on_reserve(void *ctx, struct grpc_call *call, uint32_t bytes, uint8_t **buf)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	must(c->grpc == call && c->buf == NULL);
	if (chance(20))
		return SPLIT_AGAIN;
	if (chance(3))
		return -SPLIT_E_BASE_LIMIT;
	c->buf = malloc(bytes);
	*buf = c->buf;
	return 0;
}

static void on_message(void *ctx, struct grpc_call *call, uint8_t *buf, uint32_t bytes, bool last)
{
	struct call *c = grpc_call_user(call);
	uint8_t sum = 0;

	(void)ctx;
	(void)last;
	must(c->grpc == call && c->buf == buf);
	for (uint32_t i = 0; i < bytes; i++)
		sum ^= buf[i];
	free(buf);
	c->buf = NULL;
	if (chance(70) || sum == 77)
		act(c);
}

static void on_half_close(void *ctx, struct grpc_call *call)
{
	(void)ctx;
	act(grpc_call_user(call));
}

static void on_writable(void *ctx, struct grpc_call *call)
{
	(void)ctx;
	act(grpc_call_user(call));
}

static void on_closed(void *ctx, struct grpc_call *call, enum grpc_closed why)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	must(c->grpc == call && why <= GRPC_CLOSED_FAILED);
	free(c->buf);
	c->buf = NULL;
	c->grpc = NULL;
	closed++;
}

static const struct grpc_backend backend = {
	.open = on_open,
	.reserve = on_reserve,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.closed = on_closed,
};

static int out_reserve(void *ctx, size_t n, uint8_t **buf, size_t *room)
{
	(void)ctx;
	(void)n;
	if (chance(30))
		return SPLIT_AGAIN;
	*buf = out_bytes;
	*room = 1 + random_below(&rnd, chance(50) ? 30 : sizeof(out_bytes));
	return 0;
}

static void out_commit(void *ctx, size_t n)
{
	(void)ctx;
	must(n <= sizeof(out_bytes));
}

static void out_wanted(void *ctx)
{
	(void)ctx;
	wanted = true;
}

static void step(struct grpc_connection *conn)
{
	now_ns += random_below(&rnd, 10000000);
	wheel_advance(&wheel, now_ns, 1 + (unsigned)random_below(&rnd, 5));
	(void)grpc_server_run(server, now_ns);
	if (wanted || chance(50))
		(void)!grpc_connection_send(conn, chance(20) ? 100 : SIZE_MAX);
	wanted = false;
	if (chance(1))
		grpc_connection_goaway(conn, chance(80));
}

static void act_live(struct grpc_connection *conn)
{
	for (size_t i = 0; i < CALLS; i++)
		if (calls[i].grpc != NULL && chance(30))
			act(&calls[i]);
	step(conn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
	const struct http2_out out = {out_reserve, out_commit, out_wanted, NULL};
	struct grpc_connection *conn;
	struct grpc_config config;
	int rc = 0;

	if (size < 2)
		return 0;
	random_seed(&rnd, data[1]);
	opened = closed = sent = released = 0;
	if (server == NULL) {
		now_ns = 1000000000;
		wheel_init(&wheel, now_ns);
		grpc_config_default(&config, 2);
		config.calls_max = 16;
		config.hold_bytes_max = 128 * 1024;
		config.compress_memory = 128 * 1024;
		config.compress_quantum = 2048;
		config.http2.streams_max = 20;
		config.http2.streams_total = 24;
		config.http2.session_bytes_max = 256 * 1024;
		must(grpc_server_create(&config, &backend, NULL, &wheel, &server) == 0);
	}
	must(grpc_connection_create(server, &out, NULL, &conn) == 0);
	if (!(data[0] & 1))
		rc = grpc_connection_recv(conn, preface, sizeof(preface), now_ns);
	for (size_t at = 2; at < size && rc == 0;) {
		size_t part = 1 + random_below(&rnd, chance(50) ? 20 : 2000);
		uint8_t *own;

		if (part > size - at)
			part = size - at;
		own = malloc(part);
		must(own != NULL);
		memcpy(own, data + at, part);
		rc = grpc_connection_recv(conn, own, part, now_ns);
		free(own);
		at += part;
		act_live(conn);
	}
	for (int i = 0; i < 20; i++)
		act_live(conn);
	grpc_connection_destroy(conn);
	must(opened == closed && sent == released);
	must(grpc_server_calls(server) == 0 && wheel_next_ns(&wheel) == UINT64_MAX);
	return 0;
}
