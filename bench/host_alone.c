/* What libsplit-host spends on a small unary call, counted in one thread: its own worker, which
 * plays the daemon too, inside the handler and in the pauses. No other core, no cache line from
 * elsewhere, no clock that counts: the same number each time. `split-perf host` runs it under
 * callgrind for instructions, and takes cycles from it.
 *
 *   host-alone CALLS batched|single
 *
 * batched: the handler of the first call of a batch publishes the next batch; each call after it
 * is found by the pass that follows. single: a call is published when the worker has found nothing
 * once and has said POLLING; then it comes alone.
 *
 * Prints the calls and the cycles of one, the median (others may have the core for a while): from
 * the end of the handler (or of the daemon's turn) to the next one's beginning. Under callgrind
 * --collect-atstart=no the same stretches are collected, and nothing else.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "echo.pb-c.h"
#include "host-lib/split-host.h"
#include "linearize/linearize.h"
#include "shepherd/shepherd.h"

#if defined(__has_include)
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#endif
#endif
#ifndef CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_TOGGLE_COLLECT
#endif

#define BATCH   32u
#define SLOTS   64u
#define PAYLOAD 64u
#define WAIT_MS 20000
#define WARM    1000u /* calls before anything counts */

static struct {
	struct attach_server *server;
	struct endpoint_port *port;
	struct schema *schema;
	const struct schema_message *input;
	struct decode_job *job;
	uint8_t wire[PAYLOAD + 16];
	size_t wire_n;
	struct split_host *host;
	bool single;
	uint64_t calls_max, calls, published, answered, bad;
	uint64_t since, cycles; /* the library's turn began at; of the call at hand so far */
	uint64_t *samples;
	size_t samples_n;
	bool counting;
	pthread_t worker;
	bool running; /* the worker plays the daemon; its thread only */
} s;

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "host-alone: %s\n", what);
	exit(1);
}

/* ---- whose turn it is ----------------------------------------------------------------------- */

static void library_ends(void)
{
	uint64_t now = clock_cycles();

	if (!s.counting)
		return;
	CALLGRIND_TOGGLE_COLLECT;
	s.cycles += now - s.since;
}

/* A handler begins: what was spent since the last one's end. */
static void sample(void)
{
	if (s.counting)
		s.samples[s.samples_n++] = s.cycles;
	s.cycles = 0;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void library_begins(void)
{
	if (s.calls <= WARM)
		return;
	s.counting = true;
	CALLGRIND_TOGGLE_COLLECT;
	s.since = clock_cycles();
}

/* ---- the daemon ----------------------------------------------------------------------------- */

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

static void publish(void)
{
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {.kind = TO_HOST_REQUEST,
				     .flags = SLOT_END_STREAM,
				     .has_message = true,
				     .blocks = &blocks};
	struct shepherd_chunk area;
	struct linear_target target = {
		.delta = endpoint_delta(s.port), .chunk_get = chunk_get, .ctx = &area};

	if (endpoint_inline_area(s.port, 0, &area) != 0 ||
	    decode_start(s.job, s.input, s.wire, s.wire_n, &target, NULL) != 0 ||
	    decode_run(s.job) != 0 || endpoint_call_open(s.port, NULL, &r.call_id) != 0)
		fail("no call could be made");
	r.msg = decode_root(s.job);
	r.inline_bytes = (uint8_t)decode_chunk_used(s.job);
	if (endpoint_submit(s.port, 0, &r, 1) != 0)
		fail("a call could not be published");
	s.published++;
}

static void on_completion(void *ctx, struct endpoint_port *port,
			  const struct endpoint_completion *c)
{
	(void)ctx;
	if (c->has_token)
		endpoint_token_release(port, c->lane, c->token);
	if (c->kind != TO_DAEMON_MESSAGE || !c->has_message || c->status != 0)
		s.bad++;
	s.answered++;
	endpoint_call_close(port, c->call_id, 1);
}

static void answers_take(void)
{
	static const struct endpoint_events events = {.completion = on_completion};

	if (endpoint_poll(s.port, SLOTS, &events, NULL, 1) < 0 || s.bad != 0)
		fail("the host does not answer as it should");
}

/* `n` more calls, as far as any are left. */
static void calls_publish(unsigned n)
{
	answers_take();
	for (unsigned i = 0; i < n && s.published < s.calls_max; i++)
		publish();
	endpoint_flush(s.port, 1);
}

/* ---- the host ------------------------------------------------------------------------------- */

static void on_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	library_ends();
	sample();
	(void)data;
	s.running = true;
	s.worker = pthread_self();
	s.calls++;
	if (s.calls == s.calls_max) {
		s.counting = false;
		split_host_stop(s.host);
		(void)split_call_answer(call, message);
		return;
	}
	if (!s.single && s.calls == s.published)
		calls_publish(BATCH);
	library_begins();
	/* The answer is the library's work. */
	(void)split_call_answer(call, message);
}

/* The library asks for the time when its worker has found nothing. */
int clock_gettime(clockid_t clock, struct timespec *ts)
{
	static int (*real)(clockid_t, struct timespec *);

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
	if (s.single && s.running && s.calls == s.published && s.calls < s.calls_max &&
	    pthread_equal(pthread_self(), s.worker)) {
		static uint64_t idle_for;

		/* The first time it has not said so yet. */
		if (idle_for != s.calls) {
			idle_for = s.calls;
			library_ends();
			calls_publish(1);
			library_begins();
		}
	}
	return real(clock, ts);
}

/* valgrind knows no pidfd_open: any descriptor will do, for nobody looks whether we have died. */
long syscall(long number, ...)
{
	static long (*real)(long, ...);
	long a[6], result;
	va_list args;

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "syscall");
	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (result < 0 && errno == ENOSYS && number == SYS_pidfd_open)
		return eventfd(0, EFD_CLOEXEC);
	return result;
}

static void *host_run(void *arg)
{
	(void)arg;
	if (split_host_run(s.host, 1) != 0)
		fail("the host does not run");
	return NULL;
}

/* ---- attach --------------------------------------------------------------------------------- */

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	(void)request;
	return 0;
}

static void step_until(enum attach_event wanted)
{
	enum attach_event event = ATTACH_NOTHING;

	while (event != wanted) {
		struct pollfd p = {.fd = attach_server_fd(s.server), .events = POLLIN};

		if (poll(&p, 1, WAIT_MS) != 1 || attach_server_step(s.server, &event) != 0)
			fail("the attach failed");
	}
}

static void attach(int listen_fd)
{
	static const struct attach_policy policy = {.admit = admit};
	const struct endpoint_config config = {.name = "bench",
					       .daemon_workers = 1,
					       .host_workers = 1,
					       .request_slots = SLOTS,
					       .completion_slots = SLOTS,
					       .foreign_slots = SLOTS,
					       .to_host_bytes = 4U << 20,
					       .to_daemon_bytes = 4U << 20,
					       .numa_node = -1,
					       .calls_max = 1024,
					       .revocable = true};
	struct pollfd p = {.fd = listen_fd, .events = POLLIN};
	const struct attach_request *r;
	int fd;

	if (poll(&p, 1, WAIT_MS) != 1)
		fail("the host does not come");
	fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 || attach_server_create(fd, &policy, &s.server) != 0)
		fail("accept");
	step_until(ATTACH_REQUESTED);
	r = attach_server_request(s.server);
	if (schema_parse(r->schema, r->schema_bytes, NULL, &s.schema) != 0)
		fail("schema");
	s.input = schema_message_at(s.schema, r->methods[0].input_schema);
	if (attach_server_offer(s.server, &config) != 0)
		fail("offer");
	step_until(ATTACH_MAPPED);
	s.port = endpoint_port_of(attach_server_endpoint(s.server), 0);
	endpoint_port_adopt(s.port, NULL);
	/* The first call starts it all; from there on the worker plays this side. */
	publish();
	endpoint_flush(s.port, 1);
	if (attach_server_activate(s.server) != 0)
		fail("activate");
}

static int listen_at(char dir[32], char path[64])
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(dir, 32, "/tmp/host-alone.XXXXXX");
	if (fd < 0 || mkdtemp(dir) == NULL)
		fail("no socket");
	snprintf(path, 64, "%s/host.sock", dir);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 1) != 0)
		fail("no socket");
	return fd;
}

int main(int argc, char **argv)
{
	Split__Examples__EchoMessage m = SPLIT__EXAMPLES__ECHO_MESSAGE__INIT;
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;
	struct split_method method = {.service = "split.bench.Alone",
				      .name = "Echo",
				      .kind = SPLIT_UNARY,
				      .input = &split__examples__echo_message__descriptor,
				      .output = &split__examples__echo_message__descriptor,
				      .message = on_message};
	uint8_t payload[PAYLOAD] = {0};
	char dir[32], path[64];
	pthread_t thread;
	int listen_fd;

	s.calls_max = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
	s.single = argc == 3 && strcmp(argv[2], "single") == 0;
	if (s.calls_max <= 2 * WARM || (!s.single && strcmp(argv[2], "batched") != 0)) {
		fprintf(stderr, "usage: host-alone CALLS batched|single   (more than %u calls)\n",
			2 * WARM);
		return 2;
	}
	m.payload.data = payload;
	m.payload.len = PAYLOAD;
	s.wire_n = split__examples__echo_message__pack(&m, s.wire);
	s.job = malloc(sizeof(*s.job));
	s.samples = calloc(s.calls_max, sizeof(*s.samples));
	listen_fd = listen_at(dir, path);
	options.spin_ns = UINT64_MAX;
	s.host = split_host_attach(path, "bench", &options);
	if (s.job == NULL || s.samples == NULL || s.host == NULL ||
	    split_host_serve_method(s.host, &method) != 0 ||
	    pthread_create(&thread, NULL, host_run, NULL) != 0)
		fail("no host");
	attach(listen_fd);
	pthread_join(thread, NULL);
	s.counting = false;
	qsort(s.samples, s.samples_n, sizeof(*s.samples), by_value);
	printf("%zu calls, %llu cycles each\n", s.samples_n,
	       (unsigned long long)s.samples[s.samples_n / 2]);
	free(s.samples);
	split_host_detach(s.host);
	attach_server_destroy(s.server);
	schema_destroy(s.schema);
	free(s.job);
	close(listen_fd);
	(void)unlink(path);
	(void)rmdir(dir);
	return 0;
}
