/* Bytes of a hostile gRPC server into the daemon's client.
 *
 * Input: a byte of flags (1: health checks; 2: retries; 4: no room at first; 8: the server's
 * SETTINGS are in the input too), then pieces, each a
 * byte of length and so many bytes of the server's; a length of 0 is followed by a byte that says
 * what else happens: a call is begun, cancelled, sent to, given room, time goes by, the connection
 * ends, the channel is configured anew. Calls run from the start on, so that streams 1, 3, 5, 7 are
 * open. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/wheel.h"
#include "daemon/client/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CALLS 16
#define WIRES 8

static void must(bool good)
{
	if (!good)
		abort();
}

struct call {
	struct client_call *client;
	struct client_message message;
	struct iovec iov;
	bool lent, over;
	uint8_t *room;
};

static struct call calls[CALLS];
static unsigned calls_n;
static struct client *client;
static struct wheel wheel;
static uint64_t now_ns;
static bool no_room;
static struct client_connection *wires[WIRES];
static bool connected[WIRES];
static unsigned wires_n;
static uint8_t out[65536];

static int on_connect(void *ctx, struct client_connection *conn, const struct client_address *to,
		      void **stream_out)
{
	(void)ctx;
	(void)to;
	if (wires_n == WIRES)
		return -SPLIT_E_BASE_LIMIT;
	wires[wires_n] = conn;
	*stream_out = &wires[wires_n++];
	return 0;
}

static int on_reserve(void *stream, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	(void)stream;
	(void)wanted;
	*buf_out = out;
	*room_out = sizeof(out);
	return 0;
}

static void on_commit(void *stream, size_t n)
{
	(void)stream;
	must(n <= sizeof(out));
}

static void on_nothing(void *stream)
{
	(void)stream;
}

static void on_close(void *stream, bool abort)
{
	(void)abort;
	*(struct client_connection **)stream = NULL;
}

static uint64_t on_random(void *ctx)
{
	(void)ctx;
	return 7;
}

static volatile uint8_t sink;

static void on_headers(void *user, const struct grpc_metadata *md, uint32_t n)
{
	must(!((struct call *)user)->over);
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t k = 0; k < md[i].name_len; k++)
			sink = (uint8_t)md[i].name[k];
		for (uint32_t k = 0; k < md[i].value_len; k++)
			sink = md[i].value[k];
	}
}

static int on_room(void *user, uint32_t bytes, uint8_t **buf_out)
{
	struct call *c = user;

	must(!c->over && c->room == NULL && bytes <= 65536);
	if (no_room)
		return SPLIT_AGAIN;
	*buf_out = c->room = malloc(bytes + 1);
	return 0;
}

static void on_message(void *user, uint8_t *buf, uint32_t bytes)
{
	struct call *c = user;

	must(!c->over && buf == c->room);
	for (uint32_t i = 0; i < bytes; i++)
		sink = buf[i];
	free(buf);
	c->room = NULL;
}

static void on_status(void *user, const struct client_status *s)
{
	struct call *c = user;

	must(!c->over && s->status <= GRPC_STATUS_MAX);
	for (uint32_t i = 0; i < s->message_len; i++)
		sink = (uint8_t)s->message[i];
	c->over = true;
}

static const struct client_events events = {
	.headers = on_headers,
	.reserve = on_room,
	.message = on_message,
	.writable = on_nothing,
	.status = on_status,
};

static void on_release(struct client_message *m)
{
	struct call *c = (struct call *)((char *)m - offsetof(struct call, message));

	must(c->lent);
	c->lent = false;
}

static void call_begin(uint8_t kind)
{
	static const char bytes[] = "request";
	const struct client_request request = {
		.path = "/f.F/M",
		.path_len = 6,
		.kind = (enum grpc_kind)(kind & 3),
		.deadline_ns = now_ns + 5 * CLOCK_NS_PER_SEC,
		.wait_for_ready = (kind & 4) != 0,
	};
	struct call *c = &calls[calls_n];

	if (calls_n == CALLS)
		return;
	if (client_call_start(client, 0, &request, &events, c, now_ns, &c->client) != 0)
		return;
	calls_n++;
	c->iov = (struct iovec){(void *)bytes, sizeof(bytes)};
	c->message = (struct client_message){
		.iov = &c->iov, .iov_count = 1, .bytes = sizeof(bytes), .release = on_release};
	c->lent = true;
	if (client_call_send(c->client, &c->message) != 0)
		c->lent = false;
}

static void time_pass(uint64_t ns)
{
	now_ns += ns;
	wheel_advance(&wheel, now_ns, UINT32_MAX);
}

/* New connections are there at once. */
static void turn(void)
{
	for (unsigned i = 0; i < 8; i++) {
		(void)client_run(client, now_ns);
		for (unsigned w = 0; w < WIRES; w++) {
			if (w < wires_n && wires[w] != NULL && !connected[w]) {
				connected[w] = true;
				client_stream_connected(wires[w], now_ns);
			}
		}
	}
}

static const struct client_address addresses[2] = {{4, {198, 18, 0, 1}, 1, 1},
						   {4, {198, 18, 0, 2}, 1, 1}};
static struct client_channel_config channel;

/* 1: health checks; 2: retries; 4: another address; 8: the channel is not there. */
static void configure(uint8_t bits)
{
	channel.health_service = bits & 1 ? "f.F" : NULL;
	channel.retry.attempts_max = bits & 2 ? 3 : 1;
	channel.addresses = &addresses[bits >> 2 & 1];
	channel.unused = (bits & 8) != 0;
	channel.addresses_n = channel.unused ? 0 : 1;
	must(client_channel_configure(client, 0, &channel, now_ns) == 0);
}

static void happen(uint8_t what)
{
	struct call *c = &calls[(what >> 4) % CALLS];
	struct client_connection *conn;

	switch (what & 7) {
	case 0:
		call_begin(what >> 4);
		break;
	case 1:
		if (c->client != NULL && !c->over) {
			c->over = true;
			client_call_cancel(c->client);
		}
		break;
	case 2:
		no_room = !no_room;
		if (c->client != NULL && !c->over)
			client_call_room(c->client);
		break;
	case 3:
		if (c->client != NULL && !c->over)
			client_call_pause(c->client, (what & 8) != 0);
		break;
	case 4:
		time_pass((uint64_t)(what >> 3) * 100 * CLOCK_NS_PER_MS);
		break;
	case 5:
		if (wires_n > 0 && wires[wires_n - 1] != NULL) {
			conn = wires[wires_n - 1];
			wires[wires_n - 1] = NULL;
			client_stream_ended(conn, -SPLIT_E_NET_RESET, now_ns);
		}
		break;
	case 6:
		if (wires_n > 0 && wires[wires_n - 1] != NULL)
			client_stream_eof(wires[wires_n - 1], now_ns);
		break;
	default:
		if ((what & 8) != 0)
			configure(what >> 4);
		else if (c->client != NULL && !c->over)
			client_call_end(c->client);
		break;
	}
}

static void world_make(uint8_t flags)
{
	static const struct client_transport transport = {
		.connect = on_connect,
		.reserve = on_reserve,
		.commit = on_commit,
		.flush = on_nothing,
		.resume = on_nothing,
		.close = on_close,
		.random = on_random,
	};
	struct client_config config;

	memset(calls, 0, sizeof(calls));
	memset(connected, 0, sizeof(connected));
	calls_n = wires_n = 0;
	now_ns = CLOCK_NS_PER_SEC;
	no_room = (flags & 4) != 0;
	wheel_init(&wheel, now_ns);
	client_channel_config_default(&channel);
	client_config_default(&config);
	channel.name = "fuzz";
	channel.authority = "fuzz:1";
	channel.addresses = addresses;
	channel.addresses_n = 1;
	channel.message_bytes_max = 65536;
	channel.keepalive_ns = CLOCK_NS_PER_SEC;
	if (flags & 1)
		channel.health_service = "f.F";
	if (flags & 2)
		channel.retry.attempts_max = 3;
	config.channels = &channel;
	config.channels_n = 1;
	config.memory_bytes = 2u << 20;
	config.connections_max = WIRES;
	config.calls_max = CALLS;
	must(client_create(&config, &transport, &wheel, now_ns, &client) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t settings[9] = {0, 0, 0, 4};
	size_t at = 1;

	if (size < 1)
		return 0;
	world_make(data[0]);
	for (uint8_t i = 0; i < 4; i++)
		call_begin(i);
	turn();
	if (!(data[0] & 8) && wires_n > 0 && wires[0] != NULL)
		must(client_stream_recv(wires[0], settings, sizeof(settings), now_ns) ==
		     sizeof(settings));
	turn();
	while (at < size) {
		size_t n = data[at++];

		if (n == 0 && at < size) {
			happen(data[at++]);
		} else {
			n = n < size - at ? n : size - at;
			if (wires_n > 0 && wires[wires_n - 1] != NULL)
				must(client_stream_recv(wires[wires_n - 1], data + at, n, now_ns) ==
				     n);
			at += n;
		}
		turn();
	}
	client_destroy(client);
	for (unsigned i = 0; i < calls_n; i++) {
		must(calls[i].over && !calls[i].lent);
		free(calls[i].room);
	}
	return 0;
}
