/* The daemon's client over the kernel's sockets, for stock servers: what it is told on the command
 * line it calls, and says in one line of JSON each what came of it.
 *
 *   socket_client [key=value ...] < COMMANDS
 *
 * Keys: addresses=IP:PORT,IP:PORT… authority=… ca=FILE cert=FILE key=FILE tls_name=… attempts=N
 * codes=MASK backoff_ms=N consecutive=N eject_ms=N health=SERVICE keepalive_ms=N policy=N
 * connections=N streams=N connect_ms=N compression=0|1
 * Commands, a line each:
 *   call PATH KIND MESSAGES BYTES TIMEOUT_MS WAIT   starts one (KIND: unary cstream sstream bidi)
 *   cancel                                          the last one started
 *   wait MS                                         runs until no call is left, at most so long
 *   run MS                                          runs so long
 *   counters                                        those that are not zero */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/random.h"
#include "base/wheel.h"
#include "daemon/client/client.h"
#include "daemon/http2/http2_client.h"

#define WIRES     64
#define CALLS     4096
#define OUT_BYTES (256u * 1024u)
#define ADDRESSES 16

struct wire {
	int fd;
	struct client_connection *conn;
	bool used, connected, eof, held;
	uint8_t out[OUT_BYTES];
	size_t out_n, out_at;
	uint8_t in[65536];
	size_t in_n, in_at;
};
static struct wire wires[WIRES];

struct call {
	struct client_call *client;
	unsigned id, messages, bytes, sent;
	unsigned headers, received;
	uint64_t received_bytes;
	bool open;
	bool bad;
	uint8_t *room;
};
struct message {
	struct client_message m;
	struct iovec iov;
};
static struct call calls[CALLS];
static unsigned calls_n, calls_open;

static struct client *client;
static struct wheel wheel;
static uint64_t now_ns;
static uint8_t *bytes_out;

/* ---- byte streams -----------------------------------------------------------------------------
 */

static int on_connect(void *ctx, struct client_connection *conn, const struct client_address *to,
		      void **stream_out)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(to->port)};
	struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
	struct sockaddr *sa = to->family == 4 ? (struct sockaddr *)&sin : (struct sockaddr *)&sin6;
	socklen_t n = to->family == 4 ? sizeof(sin) : sizeof(sin6);
	unsigned i = 0;
	int one = 1;

	(void)ctx;
	memcpy(&sin.sin_addr, to->bytes, 4);
	memcpy(&sin6.sin6_addr, to->bytes, 16);
	while (i < WIRES && wires[i].used)
		i++;
	if (i == WIRES)
		return -SPLIT_E_BASE_LIMIT;
	memset(&wires[i], 0, offsetof(struct wire, out));
	wires[i].out_n = wires[i].out_at = wires[i].in_n = wires[i].in_at = 0;
	wires[i].fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (wires[i].fd < 0)
		return -SPLIT_E_BASE_SYSTEM;
	(void)setsockopt(wires[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(wires[i].fd, sa, n) != 0 && errno != EINPROGRESS) {
		close(wires[i].fd);
		return -SPLIT_E_NET_REFUSED;
	}
	wires[i].used = true;
	wires[i].conn = conn;
	*stream_out = &wires[i];
	return 0;
}

static int on_reserve(void *stream, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct wire *w = stream;

	(void)wanted;
	if (w->out_at > 0) {
		memmove(w->out, w->out + w->out_at, w->out_n - w->out_at);
		w->out_n -= w->out_at;
		w->out_at = 0;
	}
	if (w->out_n == OUT_BYTES)
		return SPLIT_AGAIN;
	*buf_out = w->out + w->out_n;
	*room_out = OUT_BYTES - w->out_n;
	return 0;
}

static void on_commit(void *stream, size_t n)
{
	((struct wire *)stream)->out_n += n;
}

static void on_flush(void *stream)
{
	struct wire *w = stream;

	while (w->out_at < w->out_n) {
		ssize_t n = send(w->fd, w->out + w->out_at, w->out_n - w->out_at, MSG_NOSIGNAL);

		if (n < 0)
			break;
		w->out_at += (size_t)n;
	}
}

static void wire_free(struct wire *w)
{
	close(w->fd);
	w->used = false;
}

static void on_close(void *stream, bool abort)
{
	(void)abort;
	wire_free(stream);
}

static void wire_feed(struct wire *w)
{
	while (w->in_at < w->in_n) {
		size_t took =
			client_stream_recv(w->conn, w->in + w->in_at, w->in_n - w->in_at, now_ns);

		w->in_at += took;
		if (took == 0)
			return;
	}
	w->in_at = w->in_n = 0;
}

static void on_resume(void *stream)
{
	wire_feed(stream);
}

static uint64_t on_random(void *ctx)
{
	uint64_t r = 0;

	(void)ctx;
	if (random_bytes(&r, sizeof(r)) != 0)
		abort();
	return r;
}

static void wire_gone(struct wire *w, int reason)
{
	struct client_connection *conn = w->conn;

	wire_free(w);
	client_stream_ended(conn, reason, now_ns);
}

static void wire_event(struct wire *w, short events)
{
	int err = 0;
	socklen_t len = sizeof(err);
	ssize_t n;

	if (!w->connected) {
		if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0) {
			wire_gone(w, -SPLIT_E_NET_REFUSED);
			return;
		}
		if (!(events & POLLOUT))
			return;
		w->connected = true;
		client_stream_connected(w->conn, now_ns);
		return;
	}
	if ((events & POLLOUT) && w->out_at < w->out_n) {
		on_flush(w);
		client_stream_writable(w->conn, now_ns);
	}
	if (!(events & (POLLIN | POLLHUP | POLLERR)) || w->in_n > 0)
		return;
	n = recv(w->fd, w->in, sizeof(w->in), 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		wire_gone(w, -SPLIT_E_NET_RESET);
	} else if (n == 0) {
		if (!w->eof)
			client_stream_eof(w->conn, now_ns);
		w->eof = true;
	} else {
		w->in_n = (size_t)n;
		wire_feed(w);
	}
}

/* ---- calls ------------------------------------------------------------------------------------
 */

static void on_headers(void *user, const struct grpc_metadata *md, uint32_t n)
{
	(void)md;
	(void)n;
	((struct call *)user)->headers++;
}

static int on_room(void *user, uint32_t bytes, uint8_t **buf_out)
{
	struct call *c = user;

	*buf_out = c->room = malloc(bytes + 1);
	return c->room != NULL ? 0 : -SPLIT_E_BASE_NOMEM;
}

static void on_message(void *user, uint8_t *buf, uint32_t bytes)
{
	struct call *c = user;

	c->received++;
	c->received_bytes += bytes;
	for (uint32_t i = 0; i < bytes; i++)
		c->bad |= buf[i] != (uint8_t)(i * 7);
	free(buf);
	c->room = NULL;
}

static void call_push(struct call *c);

static void on_released(struct client_message *m)
{
	free(m); /* the first member */
}

static void on_writable(void *user)
{
	call_push(user);
}

static void on_status(void *user, const struct client_status *s)
{
	struct call *c = user;

	free(c->room);
	c->room = NULL;
	c->open = false;
	calls_open--;
	printf("{\"call\": %u, \"status\": %u, \"by_peer\": %s, \"headers\": %u, \"messages\": %u, "
	       "\"bytes\": %lu, \"bad\": %s, \"text\": \"",
	       c->id, s->status, s->by_peer ? "true" : "false", c->headers, c->received,
	       (unsigned long)c->received_bytes, c->bad ? "true" : "false");
	for (uint32_t i = 0; i < s->message_len; i++)
		if (s->message[i] >= ' ' && s->message[i] < 0x7f && s->message[i] != '"' &&
		    s->message[i] != '\\')
			putchar(s->message[i]);
	printf("\", \"trailers\": {");
	for (uint32_t i = 0; i < s->trailers_count; i++)
		printf("%s\"%.*s\": %u", i == 0 ? "" : ", ", (int)s->trailers[i].name_len,
		       s->trailers[i].name, s->trailers[i].value_len);
	printf("}}\n");
	fflush(stdout);
}

static const struct client_events events = {
	.headers = on_headers,
	.reserve = on_room,
	.message = on_message,
	.writable = on_writable,
	.status = on_status,
};

static void call_push(struct call *c)
{
	while (c->open && c->sent < c->messages) {
		struct message *m = calloc(1, sizeof(*m));

		if (m == NULL)
			exit(1);
		m->iov = (struct iovec){bytes_out, c->bytes};
		m->m = (struct client_message){
			.iov = &m->iov, .iov_count = 1, .bytes = c->bytes, .release = on_released};
		if (client_call_send(c->client, &m->m) != 0) {
			free(m);
			return;
		}
		c->sent++;
		if (c->sent == c->messages)
			client_call_end(c->client);
	}
}

static void call_start(const char *line)
{
	static const char *const kinds[] = {"unary", "cstream", "sstream", "bidi"};
	struct call *c = &calls[calls_n];
	struct client_request request = {.deadline_ns = UINT64_MAX};
	char path[128], kind[16];
	unsigned timeout_ms = 0, wait = 0;
	int r;

	if (calls_n == CALLS || sscanf(line, "call %127s %15s %u %u %u %u", path, kind,
				       &c->messages, &c->bytes, &timeout_ms, &wait) != 6)
		exit(2);
	for (unsigned i = 0; i < 4; i++)
		if (strcmp(kind, kinds[i]) == 0)
			request.kind = (enum grpc_kind)i;
	c->id = calls_n++;
	request.path = path;
	request.path_len = (uint32_t)strlen(path);
	request.wait_for_ready = wait != 0;
	if (timeout_ms != 0)
		request.deadline_ns = now_ns + timeout_ms * CLOCK_NS_PER_MS;
	r = client_call_start(client, 0, &request, &events, c, now_ns, &c->client);
	if (r != 0) {
		printf("{\"call\": %u, \"status\": %d, \"refused\": true}\n", c->id, r);
		fflush(stdout);
		return;
	}
	c->open = true;
	calls_open++;
	call_push(c);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static void turn(void)
{
	struct pollfd fds[WIRES];
	struct wire *who[WIRES];
	nfds_t n = 0;
	int wait_ms = client_pending(client) ? 0 : 2;

	for (unsigned i = 0; i < WIRES; i++) {
		struct wire *w = &wires[i];

		if (!w->used)
			continue;
		fds[n] = (struct pollfd){.fd = w->fd};
		if (!w->eof && w->in_n == 0)
			fds[n].events |= POLLIN;
		if (!w->connected || w->out_at < w->out_n)
			fds[n].events |= POLLOUT;
		who[n++] = w;
	}
	(void)poll(fds, n, wait_ms);
	now_ns = clock_ns();
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].revents != 0 && who[i]->used && who[i]->fd == fds[i].fd)
			wire_event(who[i], fds[i].revents);
	wheel_advance(&wheel, now_ns, UINT32_MAX);
	(void)client_run(client, now_ns);
	for (unsigned i = 0; i < calls_n; i++)
		if (calls[i].open)
			call_push(&calls[i]);
}

static void counters_print(const void *block, const struct counter_desc *desc, bool *first)
{
	for (size_t i = 0; i < desc->count; i++) {
		uint64_t value = counter_read(block, desc, i);

		if (value == 0)
			continue;
		printf("%s\"%s.%s\": %lu", *first ? "" : ", ", desc->module, desc->names[i].name,
		       (unsigned long)value);
		*first = false;
	}
}

static void command(const char *line)
{
	uint64_t end = now_ns;
	bool first = true;

	if (strncmp(line, "call ", 5) == 0) {
		call_start(line);
	} else if (strncmp(line, "cancel", 6) == 0) {
		struct call *c = &calls[calls_n - 1];

		if (!c->open)
			return;
		c->open = false;
		calls_open--;
		client_call_cancel(c->client);
	} else if (strncmp(line, "wait ", 5) == 0) {
		end += (uint64_t)atoi(line + 5) * CLOCK_NS_PER_MS;
		while (calls_open > 0 && now_ns < end)
			turn();
		printf("{\"open\": %u}\n", calls_open);
	} else if (strncmp(line, "run ", 4) == 0) {
		end += (uint64_t)atoi(line + 4) * CLOCK_NS_PER_MS;
		while (now_ns < end)
			turn();
		printf("{\"ran\": true}\n");
	} else if (strncmp(line, "counters", 8) == 0) {
		printf("{");
		counters_print(client_channel_counters(client, 0), &client_counter_desc, &first);
		counters_print(client_channel_picker(client, 0), &picker_counter_desc, &first);
		counters_print(client_http2_counters(client), &http2_client_counter_desc, &first);
		if (client_tls_counters(client) != NULL)
			counters_print(client_tls_counters(client), &tls_counter_desc, &first);
		printf("}\n");
	}
	fflush(stdout);
}

/* ---- the command line -------------------------------------------------------------------------
 */

static size_t addresses_parse(char *text, struct client_address *out)
{
	size_t n = 0;

	for (char *save = NULL, *p = strtok_r(text, ",", &save); p != NULL && n < ADDRESSES;
	     p = strtok_r(NULL, ",", &save)) {
		char *port = strrchr(p, ':');
		struct client_address *a = &out[n++];

		*port = '\0';
		memset(a, 0, sizeof(*a));
		a->port = (uint16_t)atoi(port + 1);
		a->family = 4;
		if (inet_pton(AF_INET, p, a->bytes) == 1)
			continue;
		a->family = 6;
		if (inet_pton(AF_INET6, p, a->bytes) != 1)
			exit(2);
	}
	return n;
}

int main(int argc, char **argv)
{
	const struct client_transport transport = {
		.connect = on_connect,
		.reserve = on_reserve,
		.commit = on_commit,
		.flush = on_flush,
		.resume = on_resume,
		.close = on_close,
		.random = on_random,
	};
	struct client_channel_config channel;
	struct client_address addresses[ADDRESSES];
	struct tls_client_config tls = {.name = "test"};
	struct tls_context *context = NULL;
	struct tls_error error;
	struct client_config config;
	char line[512];
	int err;

	client_channel_config_default(&channel);
	client_config_default(&config);
	channel.name = "test";
	channel.authority = "localhost";
	channel.addresses = addresses;
	channel.calls_max = CALLS;
	for (int i = 1; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		unsigned long n;

		if (value == NULL)
			return 2;
		*value++ = '\0';
		n = strtoul(value, NULL, 0);
		if (strcmp(argv[i], "addresses") == 0)
			channel.addresses_n = addresses_parse(value, addresses);
		else if (strcmp(argv[i], "authority") == 0)
			channel.authority = value;
		else if (strcmp(argv[i], "ca") == 0)
			tls.ca_file = value;
		else if (strcmp(argv[i], "cert") == 0)
			tls.cert_file = value;
		else if (strcmp(argv[i], "key") == 0)
			tls.key_file = value;
		else if (strcmp(argv[i], "tls_name") == 0)
			channel.tls_name = value;
		else if (strcmp(argv[i], "attempts") == 0)
			channel.retry.attempts_max = (uint32_t)n;
		else if (strcmp(argv[i], "codes") == 0)
			channel.retry.codes = (uint32_t)n;
		else if (strcmp(argv[i], "backoff_ms") == 0)
			channel.retry.backoff_ns = n * CLOCK_NS_PER_MS;
		else if (strcmp(argv[i], "tokens") == 0)
			channel.retry.tokens_max = (uint32_t)n;
		else if (strcmp(argv[i], "consecutive") == 0)
			channel.picker.ejection.consecutive = (uint32_t)n;
		else if (strcmp(argv[i], "eject_ms") == 0)
			channel.picker.ejection.base_ns = channel.picker.ejection.max_ns =
				n * CLOCK_NS_PER_MS;
		else if (strcmp(argv[i], "health") == 0)
			channel.health_service = value;
		else if (strcmp(argv[i], "keepalive_ms") == 0)
			channel.keepalive_ns = n * CLOCK_NS_PER_MS;
		else if (strcmp(argv[i], "policy") == 0)
			channel.picker.policy = (enum picker_policy)n;
		else if (strcmp(argv[i], "connections") == 0)
			channel.connections_max = (uint32_t)n;
		else if (strcmp(argv[i], "streams") == 0)
			channel.streams_max = (uint32_t)n;
		else if (strcmp(argv[i], "connect_ms") == 0)
			channel.connect_timeout_ns = n * CLOCK_NS_PER_MS;
		else if (strcmp(argv[i], "compression") == 0)
			channel.compression = n != 0;
		else
			return 2;
	}
	channel.picker.ejection.interval_ns = CLOCK_NS_PER_SEC;
	channel.picker.ejection.share_percent = 100;
	if (tls.ca_file != NULL) {
		if (tls_context_create_client(&tls, &context, &error) != 0) {
			fprintf(stderr, "%s\n", error.text);
			return 1;
		}
		channel.tls = context;
	}
	bytes_out = malloc(4u << 20);
	for (unsigned i = 0; bytes_out != NULL && i < 4u << 20; i++)
		bytes_out[i] = (uint8_t)(i * 7);
	now_ns = clock_ns();
	wheel_init(&wheel, now_ns);
	config.channels = &channel;
	config.channels_n = 1;
	err = client_create(&config, &transport, &wheel, now_ns, &client);
	if (err != 0) {
		fprintf(stderr, "client_create: %s\n", error_text(err));
		return 1;
	}
	while (fgets(line, sizeof(line), stdin) != NULL)
		command(line);
	client_destroy(client);
	tls_context_put(context);
	free(bytes_out);
	return 0;
}
