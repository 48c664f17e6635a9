/* Messages into the services that the daemon answers itself: whatever comes, each call ends once
 * and no memory stays.
 *
 * Input: one byte chooses the method, then messages, each behind two bytes of length (little
 * endian), which are cut to what is there. */
#include <stdlib.h>
#include <string.h>

#include "base/wheel.h"
#include "daemon/services/services.h"

static struct wheel wheel;
static struct grpc_server *server;
static struct services *services;
static uint8_t out_bytes[65536];

static void must(bool good)
{
	if (!good)
		abort();
}

static enum services_health health(void *ctx, const char *name, size_t n)
{
	(void)ctx;
	if (n == 0)
		return SERVICES_SERVING;
	return name[n - 1] % 2 != 0 ? SERVICES_UNKNOWN : SERVICES_NOT_SERVING;
}

static const char *service(void *ctx, size_t i)
{
	(void)ctx;
	return i < 3 ? "a.Service" : NULL;
}

static const struct services_catalog *catalog(void *ctx, size_t i)
{
	(void)ctx;
	(void)i;
	return NULL;
}

static int on_open(void *ctx, struct grpc_call *call, const struct grpc_request_head *head,
		   struct grpc_accept *accept)
{
	int rc = services_open(services, call, head, accept);

	(void)ctx;
	must(rc != SPLIT_AGAIN);
	return rc;
}

static const struct grpc_backend backend = {.open = on_open};

static int out_reserve(void *ctx, size_t n, uint8_t **buf, size_t *room)
{
	(void)ctx;
	(void)n;
	*buf = out_bytes;
	*room = sizeof(out_bytes);
	return 0;
}

static void out_commit(void *ctx, size_t n)
{
	(void)ctx;
	must(n <= sizeof(out_bytes));
}

static size_t frame(uint8_t *dst, uint8_t type, uint8_t flags, const void *p, size_t n)
{
	be32_store(dst, (uint32_t)n << 8);
	dst[3] = type;
	dst[4] = flags;
	be32_store(dst + 5, type == 4 ? 0 : 1);
	if (n > 0)
		memcpy(dst + 9, p, n);
	return 9 + n;
}

static size_t field(uint8_t *dst, const char *name, const char *value)
{
	size_t name_len = strlen(name), value_len = strlen(value);

	dst[0] = 0;
	dst[1] = (uint8_t)name_len;
	memcpy(dst + 2, name, name_len);
	dst[2 + name_len] = (uint8_t)value_len;
	memcpy(dst + 3 + name_len, value, value_len);
	return 3 + name_len + value_len;
}

static void greet(struct grpc_connection *conn, const char *path)
{
	uint8_t bytes[512] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	uint8_t block[256];
	size_t n = 24, b = 0;

	n += frame(bytes + n, 4, 0, NULL, 0);
	b += field(block + b, ":method", "POST");
	b += field(block + b, ":scheme", "http");
	b += field(block + b, ":path", path);
	b += field(block + b, ":authority", "x");
	b += field(block + b, "content-type", "application/grpc");
	n += frame(bytes + n, 1, 4, block, b);
	must(grpc_connection_recv(conn, bytes, n, 1000000000) == 0);
}

static void setup(void)
{
	const struct services_listener listener = {"all", {.family = 6, .port = 9}};
	const struct services_board_config shared = {
		.workers_n = 2, .sockets_max = 2, .listeners = &listener, .listeners_n = 1};
	struct services_config config = {.health = true, .reflection = true, .channelz = true};
	const struct services_source source = {health, service, catalog, NULL};
	struct grpc_config grpc;

	wheel_init(&wheel, 1000000000);
	grpc_config_default(&grpc, 2);
	must(grpc_server_create(&grpc, &backend, NULL, &wheel, &server) == 0);
	must(services_board_create(&shared, &config.board) == 0);
	must(services_create(&config, &source, server, &services) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const paths[] = {
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
		"/grpc.health.v1.Health/None",
		"/grpc.channelz.v1.Channelz/GetServers",
		"/grpc.channelz.v1.Channelz/GetServerSockets",
		"/grpc.channelz.v1.Channelz/GetSocket",
	};
	const struct http2_out out = {out_reserve, out_commit, NULL, NULL};
	struct grpc_connection *conn;
	size_t at = 1;

	if (size < 1)
		return 0;
	if (server == NULL)
		setup();
	must(grpc_connection_create(server, &out, NULL, &conn) == 0);
	greet(conn, paths[data[0] % (sizeof(paths) / sizeof(paths[0]))]);
	while (at + 2 <= size) {
		uint8_t bytes[9 + 5 + 2048];
		size_t n = (size_t)(data[at] | data[at + 1] << 8) % 2048;
		uint8_t message[5 + 2048] = {0};

		at += 2;
		n = n < size - at ? n : size - at;
		be32_store(message + 1, (uint32_t)n);
		memcpy(message + 5, data + at, n);
		at += n;
		must(grpc_connection_recv(conn, bytes,
					  frame(bytes, 0, at + 2 > size, message, 5 + n),
					  1000000000) == 0);
		services_changed(services);
		must(grpc_connection_send(conn, SIZE_MAX) == 0);
	}
	grpc_connection_destroy(conn);
	must(grpc_server_calls(server) == 0 && wheel_next_ns(&wheel) == UINT64_MAX);
	return 0;
}
