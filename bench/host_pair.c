#include "bench/host_pair.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/echo_host.h"
#include "bench/perf.h"
#include "echo.pb-c.h"
#include "host-lib/split-host.h"

#define SLOTS   64
#define WAIT_MS 10000

/* ---- the host ------------------------------------------------------------------------------- */

static struct split_host *host;

static void on_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	uint64_t now = clock_cycles();
	struct host_pair_page *page = data;
	uint64_t n = atomic_load_explicit(&page->calls, memory_order_relaxed) + 1;

	page->entered = now;
	if (atomic_load_explicit(&page->gate, memory_order_acquire) < n) {
		while (atomic_load_explicit(&page->gate, memory_order_acquire) < n)
			;
		page->first = clock_cycles();
	}
	atomic_store_explicit(&page->calls, n, memory_order_release);
	(void)split_call_answer(call, message);
}

static void on_term(int signo)
{
	(void)signo;
	/* It is async-signal-safe by its contract. NOLINTNEXTLINE(bugprone-signal-handler) */
	split_host_stop(host);
}

static int host_run(const struct host_pair *p, const struct host_pair_options *o)
{
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;
	const struct split_method method = {.service = "split.bench.Dispatch",
					    .name = "Echo",
					    .kind = SPLIT_UNARY,
					    .input = &split__examples__echo_message__descriptor,
					    .output = &split__examples__echo_message__descriptor,
					    .data = p->page,
					    .message = on_message};
	struct split_host_stats stats;
	int result;

	options.cores = &o->core;
	options.cores_n = 1;
	options.spin_ns = o->spin_ns;
	host = split_host_attach(p->path, "bench", &options);
	result = split_host_serve_method(host, &method);
	if (result == 0) {
		(void)signal(SIGTERM, on_term);
		result = split_host_run(host, o->workers);
	}
	if (result != 0)
		perf_warn("host: %s", split_host_error_text(result));
	split_host_stats_get(host, &stats);
	atomic_store(&p->page->parks, stats.parks);
	split_host_detach(host);
	return result == 0 ? 0 : 1;
}

static int host_fork(struct host_pair *p, const struct host_pair_options *o)
{
	pid_t parent = getpid();

	p->pid = fork();
	if (p->pid < 0)
		return -SPLIT_E_BASE_SYSTEM;
	if (p->pid > 0)
		return 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)signal(SIGINT, SIG_IGN);
	close(p->listen_fd);
	if (getppid() != parent || perf_pin(o->core) != 0)
		_exit(1);
	_exit(host_run(p, o));
}

/* ---- attach --------------------------------------------------------------------------------- */

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	(void)request;
	return 0;
}

static int readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, WAIT_MS) == 1 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

static int step_until(struct host_pair *p, enum attach_event wanted)
{
	enum attach_event event = ATTACH_NOTHING;
	int err = 0;

	while (err == 0 && event != wanted) {
		err = readable(attach_server_fd(p->server));
		if (err == 0)
			err = attach_server_step(p->server, &event);
		if (err == 0 && event == ATTACH_DETACHED)
			err = -SPLIT_E_BASE_SYSTEM;
	}
	return err;
}

static int offer(struct host_pair *p)
{
	const struct attach_request *r = attach_server_request(p->server);
	struct endpoint_config config = {.name = "bench",
					 .daemon_workers = 1,
					 .host_workers = r->workers,
					 .request_slots = SLOTS,
					 .completion_slots = SLOTS,
					 .foreign_slots = SLOTS,
					 .to_host_bytes = 16U << 20,
					 .to_daemon_bytes = 16U << 20,
					 .hugepages = true,
					 .numa_node = -1,
					 .calls_max = 1024};
	FILE *info = fopen("/proc/meminfo", "re");
	unsigned long free_pages = 0;
	char line[128];
	int err = schema_parse(r->schema, r->schema_bytes, NULL, &p->schema);

	while (info && fgets(line, sizeof(line), info))
		(void)sscanf(line, "HugePages_Free: %lu", &free_pages);
	if (info)
		(void)fclose(info);
	if (free_pages < 20) {
		perf_warn("no hugepages for the segments: normal pages");
		config.hugepages = false;
	}
	if (err == 0)
		p->input = schema_message_at(p->schema, r->methods[0].input_schema);
	return err == 0 ? attach_server_offer(p->server, &config) : err;
}

static int attach(struct host_pair *p)
{
	static const struct attach_policy policy = {.admit = admit};
	int err = readable(p->listen_fd), fd;

	if (err != 0)
		return err;
	fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return -SPLIT_E_BASE_SYSTEM;
	err = attach_server_create(fd, &policy, &p->server);
	if (err == 0)
		err = step_until(p, ATTACH_REQUESTED);
	if (err == 0)
		err = offer(p);
	if (err == 0)
		err = step_until(p, ATTACH_MAPPED);
	if (err != 0)
		return err;
	p->endpoint = attach_server_endpoint(p->server);
	p->port = endpoint_port_of(p->endpoint, 0);
	endpoint_port_adopt(p->port, &p->counters);
	return attach_server_activate(p->server);
}

static int listen_open(struct host_pair *p)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	(void)snprintf(p->dir, sizeof(p->dir), "/tmp/split-perf.XXXXXX");
	if (mkdtemp(p->dir) == NULL)
		return -SPLIT_E_BASE_SYSTEM;
	(void)snprintf(p->path, sizeof(p->path), "%s/host.sock", p->dir);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", p->path);
	p->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (p->listen_fd < 0 ||
	    bind(p->listen_fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    listen(p->listen_fd, 4) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	return 0;
}

int host_pair_open(struct host_pair *p, const struct host_pair_options *o)
{
	Split__Examples__EchoMessage m = SPLIT__EXAMPLES__ECHO_MESSAGE__INIT;
	uint8_t payload[96] = {0};
	int err;

	memset(p, 0, sizeof(*p));
	p->listen_fd = -1;
	p->page = mmap(NULL, sizeof(*p->page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	p->job = malloc(sizeof(*p->job));
	if (p->page == MAP_FAILED || p->job == NULL) {
		p->page = NULL;
		host_pair_close(p);
		return -SPLIT_E_BASE_NOMEM;
	}
	atomic_store(&p->page->gate, UINT64_MAX);
	m.payload.data = payload;
	m.payload.len = o->payload < sizeof(payload) ? o->payload : sizeof(payload);
	p->wire_n = split__examples__echo_message__pack(&m, p->wire);
	err = listen_open(p);
	if (err == 0)
		err = host_fork(p, o);
	if (err == 0)
		err = attach(p);
	/* Its workers begin as RETIRED. */
	for (uint64_t end_ns = clock_ns() + 5 * CLOCK_NS_PER_SEC; err == 0;) {
		struct endpoint_lane_state state;

		endpoint_lane_state(p->port, 0, &state);
		if (state.state != HOST_RETIRED)
			break;
		if (clock_ns() > end_ns)
			err = -SPLIT_E_BASE_SYSTEM;
		usleep(1000);
	}
	if (err != 0) {
		perf_warn("the host did not attach: %s", error_text(err));
		host_pair_close(p);
	}
	return err;
}

void host_pair_close(struct host_pair *p)
{
	if (p->endpoint != NULL)
		endpoint_detach(p->endpoint);
	echo_host_end(p->pid);
	attach_server_destroy(p->server);
	schema_destroy(p->schema);
	if (p->listen_fd >= 0)
		close(p->listen_fd);
	if (p->path[0] != '\0')
		(void)unlink(p->path);
	if (p->dir[0] != '\0')
		(void)rmdir(p->dir);
	if (p->page != NULL)
		(void)munmap(p->page, sizeof(*p->page));
	free(p->job);
	memset(p, 0, sizeof(*p));
	p->listen_fd = -1;
}

/* ---- calls ---------------------------------------------------------------------------------- */

static int chunk_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct shepherd_chunk *area = ctx;

	(void)want;
	if (area->mem == NULL || min > area->bytes)
		return -SPLIT_E_LINEARIZE_NOMEM;
	*out = (struct linear_chunk){area->mem, area->bytes};
	area->mem = NULL;
	return 0;
}

int host_pair_submit(struct host_pair *p, unsigned lane)
{
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {.kind = TO_HOST_REQUEST,
				     .flags = SLOT_END_STREAM,
				     .has_message = true,
				     .blocks = &blocks};
	struct shepherd_chunk area;
	struct linear_target target = {
		.delta = endpoint_delta(p->port), .chunk_get = chunk_get, .ctx = &area};
	uint64_t now_ns;
	int err = endpoint_inline_area(p->port, lane, &area);

	if (err == 0)
		err = decode_start(p->job, p->input, p->wire, p->wire_n, &target, NULL);
	if (err == 0)
		err = decode_run(p->job);
	if (err == 0)
		err = endpoint_call_open(p->port, NULL, &r.call_id);
	if (err != 0)
		return err;
	r.msg = decode_root(p->job);
	r.inline_bytes = (uint8_t)decode_chunk_used(p->job);
	now_ns = clock_ns();
	p->published_at = clock_cycles();
	err = endpoint_submit(p->port, lane, &r, now_ns);
	if (err != 0)
		endpoint_call_close(p->port, r.call_id, clock_ns());
	else
		p->published++;
	return err;
}

void host_pair_flush(struct host_pair *p)
{
	endpoint_flush(p->port, clock_ns());
}

static void on_completion(void *ctx, struct endpoint_port *port,
			  const struct endpoint_completion *c)
{
	struct host_pair *p = ctx;

	p->answered_at = clock_cycles();
	if (c->has_token)
		endpoint_token_release(port, c->lane, c->token);
	if (c->kind != TO_DAEMON_MESSAGE || !c->has_message || c->status != 0)
		p->bad++;
	p->answered++;
	endpoint_call_close(port, c->call_id, clock_ns());
}

int host_pair_poll(struct host_pair *p)
{
	static const struct endpoint_events events = {.completion = on_completion};
	int n = endpoint_poll(p->port, SLOTS, &events, p, clock_ns());

	return n < 0 ? n : 0;
}

int host_pair_wait(struct host_pair *p)
{
	uint64_t end_ns = clock_ns() + 5 * CLOCK_NS_PER_SEC;
	int err = 0;

	for (unsigned i = 1; err == 0 && p->answered < p->published; i++) {
		err = host_pair_poll(p);
		if ((i & 0xfff) == 0 && clock_ns() > end_ns)
			err = -SPLIT_E_BASE_INTERNAL;
	}
	host_pair_flush(p);
	if (err == 0 && p->bad != 0)
		err = -SPLIT_E_BASE_INTERNAL;
	if (err != 0)
		perf_warn("the host did not answer as it should: %s", error_text(err));
	return err;
}
