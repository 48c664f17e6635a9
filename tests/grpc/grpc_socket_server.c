/* A gRPC server over kernel sockets (loopback only), for tests with stock clients: daemon/grpc and
 * daemon/http2 as splitd runs them, an echo backend in process, epoll around them. No DPDK.
 *
 *   grpc_socket_server [--room N] [--read N] [--streams N] [--calls N] [--window N] [--message N]
 *                      [--compress-memory N] [--compress N]
 *
 * prints "port=N" and runs until its standard input ends or SIGTERM. --room bounds what the output
 * lends at once, --read what is fed at once: 1 makes every boundary a test.
 *
 * Methods of /test.Echo/: Unary and Bidi echo, ClientStream answers the sum of sizes in decimal,
 * ServerStream sends its request's last part as often as its first 4 bytes (big-endian) say,
 * Metadata echoes "x-" metadata as initial and trailing metadata, Fail answers the status that
 * "CODE:TEXT" asks for with "details" in grpc-status-details-bin, Hang never answers, Slow finds
 * room for a message only after 20 ms, Later answers after 20 ms, Stats lists counters.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/wheel.h"
#include "daemon/grpc/grpc.h"

#define OUT_BYTES    (64 * 1024)
#define METADATA_MAX 16

struct conn {
	int fd;
	struct grpc_connection *grpc;
	struct list link;
	struct list flush;
	uint8_t out[OUT_BYTES];
	size_t out_begin, out_end;
	bool closing;
	bool epollout;
};

enum method { UNARY, BIDI, CLIENT_STREAM, SERVER_STREAM, METADATA, FAIL, HANG, SLOW, LATER, STATS };

struct reply {
	struct grpc_chain chain;
	struct iovec iov[2];
	uint8_t *bytes;
};

struct call {
	struct grpc_call *grpc;
	enum method method;
	uint8_t *buf; /* reserved, not yet given back by message() */
	uint64_t sum;
	bool room;
	bool compressed; /* the last message came so: so goes the answer */
	struct wheel_timer timer;
	uint8_t *request;
	uint32_t request_bytes;
	/* Messages that were not taken yet, and whether the client is done. */
	struct reply *waiting[64];
	unsigned waiting_n;
	uint32_t copies_left;
	bool half_closed;
	struct grpc_metadata md[METADATA_MAX];
	uint32_t md_n;
};

static struct {
	int epoll;
	struct grpc_server *grpc;
	struct wheel wheel;
	struct list conns, flush;
	size_t room, read;
	uint64_t closed[GRPC_CLOSED_FAILED + 1];
	int64_t replies_alive;
} server = {.room = OUT_BYTES, .read = 16384};

static volatile sig_atomic_t stopping;
static char listen_mark, stop_mark;

static void on_signal(int sig)
{
	(void)sig;
	stopping = 1;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- backend
 * --------------------------------------------------------------------------------------- */

static void finish(struct call *c, uint32_t status, const char *text)
{
	struct grpc_result result = {.status = status,
				     .message = text,
				     .message_len = text != NULL ? (uint32_t)strlen(text) : 0};

	grpc_finish(c->grpc, &result);
}

static void reply_release(struct grpc_chain *chain)
{
	struct reply *r = container_of(chain, struct reply, chain);

	server.replies_alive--;
	free(r->bytes);
	free(r);
}

/* Takes `bytes`. Two parts, so that chains are tested. */
static struct reply *reply_new(uint8_t *bytes, uint32_t n)
{
	struct reply *r = calloc(1, sizeof(*r));

	server.replies_alive++;
	r->bytes = bytes;
	r->iov[0] = (struct iovec){bytes, n / 3};
	r->iov[1] = (struct iovec){bytes != NULL ? bytes + n / 3 : NULL, n - n / 3};
	r->chain = (struct grpc_chain){
		.iov = r->iov, .iov_count = 2, .bytes = n, .release = reply_release};
	return r;
}

static uint8_t *copy_of(const void *p, size_t n)
{
	uint8_t *q = malloc(n + 1);

	memcpy(q, p, n);
	q[n] = 0;
	return q;
}

static void reply_send(struct call *c, struct reply *r)
{
	int rc;

	r->chain.compress = c->compressed;
	rc = c->waiting_n > 0 ? SPLIT_AGAIN : grpc_send_message(c->grpc, &r->chain);

	if (rc == 0)
		return;
	if (rc == SPLIT_AGAIN && c->waiting_n < ARRAY_LEN(c->waiting)) {
		c->waiting[c->waiting_n++] = r;
		/* A bidi echo must not take more than it can give. */
		grpc_call_pause(c->grpc, true);
		return;
	}
	reply_release(&r->chain);
}

static void copies_send(struct call *c)
{
	while (c->copies_left > 0) {
		struct reply *r = reply_new(copy_of(c->request + 4, c->request_bytes - 4),
					    c->request_bytes - 4);

		if (grpc_send_message(c->grpc, &r->chain) != 0) {
			reply_release(&r->chain);
			return;
		}
		c->copies_left--;
	}
	finish(c, GRPC_OK, NULL);
}

static void on_timer(struct wheel_timer *t, uint64_t now_ns)
{
	struct call *c = container_of(t, struct call, timer);

	(void)now_ns;
	if (c->method == SLOW) {
		c->room = true;
		grpc_call_room(c->grpc);
		return;
	}
	reply_send(c, reply_new(c->request, c->request_bytes));
	c->request = NULL;
	finish(c, GRPC_OK, NULL);
}

static int on_open(void *ctx, struct grpc_call *call, const struct grpc_request_head *head,
		   struct grpc_accept *accept)
{
	static const struct {
		const char *name;
		enum method method;
		enum grpc_kind kind;
	} methods[] = {
		{"Unary", UNARY, GRPC_UNARY},
		{"Bidi", BIDI, GRPC_BIDI},
		{"ClientStream", CLIENT_STREAM, GRPC_CLIENT_STREAMING},
		{"ServerStream", SERVER_STREAM, GRPC_SERVER_STREAMING},
		{"Metadata", METADATA, GRPC_UNARY},
		{"Fail", FAIL, GRPC_UNARY},
		{"Hang", HANG, GRPC_BIDI},
		{"Slow", SLOW, GRPC_UNARY},
		{"Later", LATER, GRPC_UNARY},
		{"Stats", STATS, GRPC_UNARY},
	};
	struct call *c;
	size_t i = 0;

	(void)ctx;
	if (head->service_len != 9 || memcmp(head->service, "test.Echo", 9) != 0) {
		accept->refusal = "unknown service";
		return GRPC_UNIMPLEMENTED;
	}
	while (i < ARRAY_LEN(methods) &&
	       (strlen(methods[i].name) != head->method_len ||
		memcmp(methods[i].name, head->method, head->method_len) != 0))
		i++;
	if (i == ARRAY_LEN(methods)) {
		accept->refusal = "unknown method";
		return GRPC_UNIMPLEMENTED;
	}
	c = calloc(1, sizeof(*c));
	c->grpc = call;
	c->method = methods[i].method;
	wheel_timer_init(&c->timer, on_timer);
	for (uint32_t m = 0; m < head->metadata_count && c->md_n < METADATA_MAX; m++) {
		const struct grpc_metadata *md = &head->metadata[m];

		if (md->name_len < 2 || memcmp(md->name, "x-", 2) != 0)
			continue;
		c->md[c->md_n].name = (const char *)copy_of(md->name, md->name_len);
		c->md[c->md_n].name_len = md->name_len;
		c->md[c->md_n].value = copy_of(md->value, md->value_len);
		c->md[c->md_n++].value_len = md->value_len;
	}
	accept->kind = methods[i].kind;
	accept->user = c;
	return 0;
}

static int on_reserve(void *ctx, struct grpc_call *call, uint32_t bytes, uint8_t **buf_out)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	if (c->method == SLOW && !c->room) {
		if (!wheel_timer_armed(&c->timer))
			wheel_arm(&server.wheel, &c->timer, now() + 20000000);
		return SPLIT_AGAIN;
	}
	c->buf = malloc(bytes + 1);
	*buf_out = c->buf;
	return 0;
}

static void answer_metadata(struct call *c)
{
	struct grpc_result result = {.trailers = c->md, .trailers_count = c->md_n};

	if (grpc_send_metadata(c->grpc, c->md, c->md_n) != 0) {
		finish(c, GRPC_INTERNAL, "metadata not taken");
		return;
	}
	reply_send(c, reply_new(NULL, 0));
	grpc_finish(c->grpc, &result);
}

static void answer_stats(struct call *c)
{
	const struct grpc_counters *g = grpc_server_counters(server.grpc);
	char *text = malloc(1024);
	int n = snprintf(
		text, 1024,
		"done=%" PRIu64 " cancelled=%" PRIu64 " connection=%" PRIu64 " deadline=%" PRIu64
		" failed=%" PRIu64 " replies=%" PRId64 " calls=%u held=%" PRIu64
		" rx_compressed=%" PRIu64 " tx_compressed=%" PRIu64 " yields=%" PRIu64,
		server.closed[0], server.closed[1], server.closed[2], server.closed[3],
		server.closed[4], server.replies_alive, grpc_server_calls(server.grpc),
		g->rx_messages_held, g->rx_compressed, g->tx_compressed, g->compress_yields);

	reply_send(c, reply_new((uint8_t *)text, (uint32_t)n));
	finish(c, GRPC_OK, NULL);
}

static void answer_fail(struct call *c, const uint8_t *buf, uint32_t bytes)
{
	char *text = (char *)copy_of(buf, bytes);
	char *colon = strchr(text, ':');
	struct grpc_result result = {.status = (uint32_t)strtoul(text, NULL, 10),
				     .message = colon != NULL ? colon + 1 : NULL,
				     .message_len = colon != NULL ? (uint32_t)strlen(colon + 1) : 0,
				     .details = (const uint8_t *)"details",
				     .details_len = 7};

	grpc_finish(c->grpc, &result);
	free(text);
}

static void on_message(void *ctx, struct grpc_call *call, uint8_t *buf, uint32_t bytes, bool last)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	(void)last;
	c->buf = NULL;
	c->compressed = grpc_call_message_compressed(call);
	switch (c->method) {
	case UNARY:
	case SLOW:
		reply_send(c, reply_new(buf, bytes));
		finish(c, GRPC_OK, NULL);
		return;
	case BIDI:
		reply_send(c, reply_new(buf, bytes));
		return;
	case CLIENT_STREAM:
		c->sum += bytes;
		break;
	case SERVER_STREAM:
		if (bytes < 4) {
			finish(c, GRPC_INVALID_ARGUMENT, "at least 4 bytes");
			break;
		}
		c->request = buf;
		c->request_bytes = bytes;
		c->copies_left = be32_load(buf);
		copies_send(c);
		return;
	case METADATA:
		answer_metadata(c);
		break;
	case FAIL:
		answer_fail(c, buf, bytes);
		break;
	case LATER:
		c->request = buf;
		c->request_bytes = bytes;
		wheel_arm(&server.wheel, &c->timer, now() + 20000000);
		return;
	case STATS:
		answer_stats(c);
		break;
	case HANG:
		break;
	}
	free(buf);
}

static void bidi_finish(struct call *c)
{
	if (c->half_closed && c->waiting_n == 0)
		finish(c, GRPC_OK, NULL);
}

static void on_half_close(void *ctx, struct grpc_call *call)
{
	struct call *c = grpc_call_user(call);
	char text[32];

	(void)ctx;
	c->half_closed = true;
	if (c->method == CLIENT_STREAM) {
		int n = snprintf(text, sizeof(text), "%" PRIu64, c->sum);

		reply_send(c, reply_new(copy_of(text, (size_t)n), (uint32_t)n));
		finish(c, GRPC_OK, NULL);
	} else if (c->method == BIDI) {
		bidi_finish(c);
	}
}

static void on_writable(void *ctx, struct grpc_call *call)
{
	struct call *c = grpc_call_user(call);
	unsigned sent = 0;

	(void)ctx;
	if (c->method == SERVER_STREAM) {
		copies_send(c);
		return;
	}
	while (sent < c->waiting_n && grpc_send_message(call, &c->waiting[sent]->chain) == 0)
		sent++;
	c->waiting_n -= sent;
	memmove(c->waiting, c->waiting + sent, c->waiting_n * sizeof(c->waiting[0]));
	if (c->waiting_n == 0) {
		grpc_call_pause(call, false);
		bidi_finish(c);
	}
}

static void on_closed(void *ctx, struct grpc_call *call, enum grpc_closed why)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	server.closed[why]++;
	wheel_cancel(&server.wheel, &c->timer);
	for (unsigned i = 0; i < c->waiting_n; i++)
		reply_release(&c->waiting[i]->chain);
	for (uint32_t i = 0; i < c->md_n; i++) {
		free((void *)c->md[i].name);
		free((void *)c->md[i].value);
	}
	free(c->buf);
	free(c->request);
	free(c);
}

static const struct grpc_backend backend = {
	.open = on_open,
	.reserve = on_reserve,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.closed = on_closed,
};

/* --- sockets
 * ---------------------------------------------------------------------------------------- */

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf, size_t *room)
{
	struct conn *c = ctx;

	(void)wanted;
	if (c->out_begin == c->out_end)
		c->out_begin = c->out_end = 0;
	*buf = c->out + c->out_end;
	*room = OUT_BYTES - c->out_end;
	if (*room > server.room)
		*room = server.room;
	return *room == 0 ? SPLIT_AGAIN : 0;
}

static void out_commit(void *ctx, size_t n)
{
	struct conn *c = ctx;

	c->out_end += n;
}

static void out_wanted(void *ctx)
{
	struct conn *c = ctx;

	if (list_empty(&c->flush))
		list_add_tail(&server.flush, &c->flush);
}

static void conn_close(struct conn *c)
{
	grpc_connection_destroy(c->grpc);
	list_del(&c->link);
	list_del(&c->flush);
	close(c->fd);
	free(c);
}

static void conn_epoll(struct conn *c, bool out)
{
	struct epoll_event ev = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};

	if (out == c->epollout)
		return;
	c->epollout = out;
	epoll_ctl(server.epoll, EPOLL_CTL_MOD, c->fd, &ev);
}

/* False when the connection was closed. */
static bool conn_flush(struct conn *c)
{
	for (;;) {
		int rc = grpc_connection_send(c->grpc, SIZE_MAX);
		ssize_t n;

		if (rc < 0)
			c->closing = true;
		if (c->out_begin == c->out_end)
			break;
		n = send(c->fd, c->out + c->out_begin, c->out_end - c->out_begin, MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			conn_epoll(c, true);
			return true;
		}
		if (n < 0) {
			conn_close(c);
			return false;
		}
		c->out_begin += (size_t)n;
	}
	conn_epoll(c, false);
	if (c->closing || grpc_connection_done(c->grpc)) {
		conn_close(c);
		return false;
	}
	return true;
}

static void conn_read(struct conn *c)
{
	static uint8_t buf[65536];
	ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_close(c);
		return;
	}
	for (size_t at = 0; at < (size_t)n;) {
		size_t part = (size_t)n - at < server.read ? (size_t)n - at : server.read;

		/* In a buffer of its own, so that a sanitizer sees a read behind it. */
		uint8_t *own = malloc(part);

		memcpy(own, buf + at, part);
		if (grpc_connection_recv(c->grpc, own, part, now()) < 0)
			c->closing = true;
		free(own);
		at += part;
	}
	(void)conn_flush(c);
}

static void conn_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN};
	struct http2_out out = {out_reserve, out_commit, out_wanted, NULL};
	int one = 1;
	struct conn *c;

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c = calloc(1, sizeof(*c));
	c->fd = fd;
	list_init(&c->link);
	list_init(&c->flush);
	out.ctx = c;
	if (grpc_connection_create(server.grpc, &out, c, &c->grpc) != 0) {
		close(fd);
		free(c);
		return;
	}
	list_add_tail(&server.conns, &c->link);
	ev.data.ptr = c;
	epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &ev);
	(void)conn_flush(c);
}

static int listen_loopback(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0 || listen(fd, 512) != 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) != 0) {
		perror("listen");
		exit(1);
	}
	printf("port=%u\n", ntohs(sa.sin_port));
	fflush(stdout);
	return fd;
}

static void options(int argc, char **argv, struct grpc_config *config)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		unsigned long v = strtoul(argv[i + 1], NULL, 0);

		if (strcmp(argv[i], "--room") == 0)
			server.room = v;
		else if (strcmp(argv[i], "--read") == 0)
			server.read = v;
		else if (strcmp(argv[i], "--streams") == 0)
			config->http2.streams_max = (uint32_t)v;
		else if (strcmp(argv[i], "--calls") == 0)
			config->calls_max = (uint32_t)v;
		else if (strcmp(argv[i], "--window") == 0)
			config->http2.window_stream = (uint32_t)v;
		else if (strcmp(argv[i], "--message") == 0)
			config->message_bytes_max = (uint32_t)v;
		else if (strcmp(argv[i], "--compress-memory") == 0)
			config->compress_memory = v;
		else if (strcmp(argv[i], "--compress") == 0)
			config->compress = (int)v; /* enum grpc_compress */
		else {
			fprintf(stderr, "unknown option %s\n", argv[i]);
			exit(2);
		}
	}
}

static void run(int listener)
{
	struct epoll_event ev[64];
	bool due = false;

	while (!stopping) {
		uint64_t next = wheel_next_ns(&server.wheel);
		uint64_t t = now();
		int timeout = due                  ? 0
			      : next == UINT64_MAX ? -1
			      : next <= t          ? 0
						   : (int)((next - t) / 1000000) + 1;
		int n = epoll_wait(server.epoll, ev, 64, timeout);
		struct list *node;

		for (int i = 0; i < n; i++) {
			if (ev[i].data.ptr == &stop_mark)
				stopping = 1;
			else if (ev[i].data.ptr == &listen_mark)
				conn_accept(listener);
			else if (ev[i].events & EPOLLIN)
				conn_read(ev[i].data.ptr);
			else if (ev[i].events & EPOLLOUT)
				(void)conn_flush(ev[i].data.ptr);
			else
				conn_close(ev[i].data.ptr);
		}
		wheel_advance(&server.wheel, now(), 1000);
		due = grpc_server_run(server.grpc, now()) != 0;
		while ((node = list_pop_head(&server.flush)) != NULL)
			(void)conn_flush(list_entry(node, struct conn, flush));
	}
}

int main(int argc, char **argv)
{
	struct grpc_config config;
	struct epoll_event ev = {.events = EPOLLIN};
	struct list *node;
	int listener;

	grpc_config_default(&config, 1024);
	options(argc, argv, &config);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	list_init(&server.conns);
	list_init(&server.flush);
	wheel_init(&server.wheel, now());
	if (grpc_server_create(&config, &backend, NULL, &server.wheel, &server.grpc) != 0)
		return 1;
	server.epoll = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_loopback();
	ev.data.ptr = &listen_mark;
	epoll_ctl(server.epoll, EPOLL_CTL_ADD, listener, &ev);
	ev.data.ptr = &stop_mark;
	epoll_ctl(server.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &ev);
	run(listener);
	while ((node = list_first(&server.conns)) != NULL)
		conn_close(list_entry(node, struct conn, link));
	if (grpc_server_calls(server.grpc) != 0 || server.replies_alive != 0) {
		fprintf(stderr, "leak: %u calls, %" PRId64 " replies\n",
			grpc_server_calls(server.grpc), server.replies_alive);
		return 1;
	}
	grpc_server_destroy(server.grpc);
	close(listener);
	close(server.epoll);
	return 0;
}
