#include "bench/pair.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/perf.h"

struct opener {
	int fd;
	struct attachment *attachment;
	struct attach_refusal why;
	int error;
};

static void *host_opens(void *arg)
{
	static const struct attach_method method = {
		.service = "bench.Null", .method = "Call", .kind = ATTACH_BIDI};
	static const uint8_t no_schema[1];
	struct opener *o = arg;
	const struct attach_hello hello = {.name = "bench",
					   .workers = 1,
					   .methods = &method,
					   .methods_n = 1,
					   .schema = no_schema,
					   .schema_bytes = sizeof(no_schema)};

	o->error = attachment_open_fd(o->fd, &hello, 10000, &o->attachment, &o->why);
	return NULL;
}

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	(void)request;
	return 0;
}

/* The daemon's end until MAPPED or a failure; the host waits in its own thread. */
static int serve(struct pair *pair, const struct endpoint_config *config)
{
	for (;;) {
		struct pollfd ready = {.fd = attach_server_fd(pair->server), .events = POLLIN};
		enum attach_event event;

		if (poll(&ready, 1, 10000) <= 0)
			return -SPLIT_E_BASE_SYSTEM;
		int error = attach_server_step(pair->server, &event);

		if (error == 0 && event == ATTACH_REQUESTED)
			error = attach_server_offer(pair->server, config);
		if (error != 0)
			return error;
		if (event == ATTACH_MAPPED)
			return attach_server_activate(pair->server);
		if (event == ATTACH_DETACHED)
			return -SPLIT_E_BASE_INTERNAL;
	}
}

static int pair_try(struct pair *pair, unsigned slots, bool hugepages)
{
	const struct attach_policy policy = {.admit = admit};
	const struct endpoint_config config = {.name = "bench",
					       .daemon_workers = 1,
					       .host_workers = 1,
					       .request_slots = slots,
					       .completion_slots = slots,
					       .foreign_slots = slots,
					       .to_host_bytes = 16U << 20,
					       .to_daemon_bytes = 16U << 20,
					       .hugepages = hugepages,
					       .numa_node = -1,
					       .calls_max = 1024};
	struct opener opener = {.fd = -1};
	pthread_t thread;
	int fds[2];

	memset(pair, 0, sizeof(*pair));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	opener.fd = fds[1];
	int error = attach_server_create(fds[0], &policy, &pair->server);

	if (error != 0) {
		close(fds[1]);
		return error;
	}
	if (pthread_create(&thread, NULL, host_opens, &opener) != 0) {
		close(fds[1]);
		attach_server_destroy(pair->server);
		return -SPLIT_E_BASE_SYSTEM;
	}
	error = serve(pair, &config);
	if (error != 0)
		attach_server_refuse(pair->server, error, "bench: no endpoint");
	pthread_join(thread, NULL);
	pair->attachment = opener.attachment;
	if (error == 0)
		error = opener.error;
	if (error != 0) {
		attachment_close(pair->attachment);
		attach_server_destroy(pair->server);
	}
	return error;
}

int pair_open(struct pair *pair, unsigned slots)
{
	int error = pair_try(pair, slots, true);

	if (error != 0) {
		perf_warn("no hugepages for the segments: normal pages");
		error = pair_try(pair, slots, false);
	}
	if (error != 0) {
		perf_warn("cannot make the pair of segments: %s", error_text(error));
		return error;
	}
	pair->endpoint = attach_server_endpoint(pair->server);
	pair->port = endpoint_port_of(pair->endpoint, 0);
	endpoint_port_adopt(pair->port, &pair->counters);
	pair->lane = attachment_lane(pair->attachment, 0, 0);
	return 0;
}

void pair_close(struct pair *pair)
{
	attachment_close(pair->attachment);
	attach_server_destroy(pair->server);
}
