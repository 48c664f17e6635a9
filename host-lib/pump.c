#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host-lib/pump.h"

/* What splitd may send before it hears that some of it is not in use any more; half of it is the
 * largest message. The segment has a part of this size for each of splitd's workers. */
#define WINDOW_BYTES    (32u << 20)
#define TO_DAEMON_BYTES (32u << 20)
#define SLOTS           64u
#define FOREIGN_SLOTS   256u
#define MIB             (1u << 20)

#define FRAMES_BUDGET 256
#define POLL_BUDGET   256
#define STOPPED_NS    (100 * CLOCK_NS_PER_MS) /* a turn that takes longer did not run */
#define TLS_ENV(name) "SPLITD_TLS_" name

/* ------------------------------------------------------------------ greeting */

static int fail(struct attach_refusal *why, int rc, const char *text)
{
	why->code = rc;
	snprintf(why->text, sizeof(why->text), "%s", text);
	return rc;
}

static const char *option_or_env(const char *option, const char *env)
{
	return option != NULL ? option : getenv(env);
}

/* No option says so: no TLS. */
static int tls_make(struct pump *p, const char *target, struct attach_refusal *why)
{
	const struct split_host_options *o = &p->host->options;
	struct remote_tls_files files = {
		.cert = option_or_env(o->tls_cert, TLS_ENV("CERT")),
		.key = option_or_env(o->tls_key, TLS_ENV("KEY")),
		.ca = option_or_env(o->tls_ca, TLS_ENV("CA")),
		.name = option_or_env(o->tls_name, TLS_ENV("NAME")),
	};
	int rc;

	if (files.cert == NULL && files.key == NULL && files.ca == NULL)
		return 0;
	if (files.cert == NULL || files.key == NULL || files.ca == NULL)
		return fail(why, -SPLIT_E_TLS_CONFIG,
			    "TLS wants a certificate, its key and the authorities, all three");
	if (files.name == NULL)
		files.name = target;
	rc = remote_tls_create(false, &files, &p->tls, why->text, sizeof(why->text));
	why->code = rc;
	return rc;
}

/* The hello without any address of this process. */
static int hello_say(struct pump *p, const struct attach_hello *hello)
{
	struct attach_method *methods = calloc(hello->methods_n + 1, sizeof(*methods));
	uint8_t *schema = malloc(hello->schema_bytes + 1), *blob = NULL, *at;
	struct remote_hello h = {
		.magic = REMOTE_MAGIC,
		.version = REMOTE_VERSION,
		.layout = 1,
		.workers = hello->workers,
		.window = WINDOW_BYTES,
	};
	struct attach_hello bare = *hello;
	size_t bytes = 0;
	int rc = methods == NULL || schema == NULL ? -SPLIT_E_BASE_NOMEM : 0;

	if (rc == 0) {
		memcpy(schema, hello->schema, hello->schema_bytes);
		memcpy(methods, hello->methods, hello->methods_n * sizeof(*methods));
		for (size_t i = 0; i < hello->methods_n; i++)
			methods[i].code = methods[i].data = 0;
		bare.methods = methods;
		bare.schema = schema;
		rc = schema_blob_portable(schema, hello->schema_bytes);
	}
	if (rc == 0)
		rc = attach_blob_make(&bare, &blob, &bytes);
	if (rc == 0) {
		h.blob_bytes = (uint32_t)bytes;
		snprintf(h.name, sizeof(h.name), "%s", hello->name);
		at = link_put(p->remote, REMOTE_HELLO, sizeof(h) + bytes);
		rc = at == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	}
	if (rc == 0) {
		memcpy(at, &h, sizeof(h));
		memcpy(at + sizeof(h), blob, bytes);
	}
	free(blob);
	free(schema);
	free(methods);
	return rc;
}

static int greet(struct pump *p, const struct attach_hello *hello, int timeout_ms,
		 struct attach_refusal *why)
{
	uint64_t until_ns = clock_ns() + (uint64_t)timeout_ms * CLOCK_NS_PER_MS;
	int stop = p->host->stop_fd;
	struct remote_refused refused;
	struct remote_frame f;
	int rc = link_wait_secure(p->remote, until_ns, stop);

	if (rc == 0)
		rc = hello_say(p, hello);
	if (rc == 0)
		rc = link_wait_sent(p->remote, until_ns, stop);
	/* A refusal, or TLS's alert, may have come before all was sent: it can still be read. */
	if (rc == 0 || rc == -SPLIT_E_REMOTE_CLOSED)
		rc = link_wait_frame(p->remote, REMOTE_WELCOME, until_ns, stop, &f);
	if (rc == 1) {
		rc = remote_refused_parse(&f, &refused);
		if (rc == 0)
			return fail(why,
				    refused.code < 0 ? refused.code
						     : -SPLIT_E_SHEPHERD_ATTACH_REFUSED,
				    refused.text);
	}
	if (rc == 0)
		rc = remote_welcome_parse(&f, &p->welcome);
	if (rc == -SPLIT_E_REMOTE_CLOSED) /* splitd says no to a certificate after we are through */
		rc = strncmp(link_cause(p->remote), "TLS", 3) == 0
			     ? -SPLIT_E_TLS_HANDSHAKE
			     : -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
	if (rc < 0)
		return fail(why, rc,
			    link_cause(p->remote)[0] != '\0' ? link_cause(p->remote)
							     : error_text(rc));
	return 0;
}

/* ------------------------------------------------------------------ the thread */

static int frame_take(struct pump *p, const struct remote_frame *f, uint64_t now_ns)
{
	uint64_t bytes;
	int rc;

	switch (f->type) {
	case REMOTE_SLOT:
		return pump_slot(p, f, now_ns);
	case REMOTE_WINDOW:
		rc = remote_window_parse(f, &bytes);
		if (rc == 0 && bytes > p->flow.peer_window - p->flow.left)
			rc = -SPLIT_E_REMOTE_FRAME;
		if (rc == 0)
			p->flow.left += bytes;
		return rc;
	case REMOTE_DRAINED:
		return f->bytes != 0 ? -SPLIT_E_REMOTE_FRAME : attach_server_drained(p->server);
	case REMOTE_PULSE:
		return f->bytes != 0 ? -SPLIT_E_REMOTE_FRAME : link_pulse_answer(p->remote, f);
	case REMOTE_GOODBYE:
		p->over = true;
		return 0;
	default:
		return -SPLIT_E_REMOTE_FRAME;
	}
}

static bool frames_take(struct pump *p, uint64_t now_ns)
{
	struct remote_frame f;
	int n = 0, rc;

	if (!p->active)
		return false;
	if (link_read_seen(p->remote, now_ns) < 0)
		p->over = true;
	for (; n < FRAMES_BUDGET && !p->over; n++) {
		rc = link_frame(p->remote, &f);
		if (rc == 1)
			rc = frame_take(p, &f, now_ns);
		else if (rc == 0)
			break;
		if (rc < 0) {
			STAT(p->host, protocol_errors);
			p->over = true;
		}
	}
	return n != 0;
}

/* The session's end of the attach: it says that it leaves, or is gone. */
static void server_step(struct pump *p)
{
	enum attach_event event;
	int rc = attach_server_step(p->server, &event);

	if (rc == 0 && event == ATTACH_REQUESTED) {
		rc = attach_server_offer(p->server, &p->config);
	} else if (rc == 0 && event == ATTACH_MAPPED) {
		p->endpoint = attach_server_endpoint(p->server);
		endpoint_get(p->endpoint);
		for (unsigned d = 0; d < p->daemon_workers; d++) {
			p->ports[d] = endpoint_port_of(p->endpoint, d);
			endpoint_port_adopt(p->ports[d], NULL);
			endpoint_port_set_user(p->ports[d], p);
		}
		rc = attach_server_activate(p->server);
		p->active = rc == 0;
		link_silence_begin(p->remote, clock_ns()); /* nothing was read meanwhile */
	} else if (rc == 0 && event == ATTACH_LEAVES) {
		rc = link_say(p->remote, REMOTE_LEAVING, NULL, 0);
	}
	if (rc < 0 || event == ATTACH_DETACHED)
		p->over = true;
}

static bool ports_poll(struct pump *p, uint64_t now_ns)
{
	bool any = false;

	for (unsigned d = 0; p->active && d < p->daemon_workers; d++) {
		int n = endpoint_poll(p->ports[d], POLL_BUDGET, &pump_events, p, now_ns);

		any |= n > 0;
		if (n < 0)
			p->over = true;
	}
	return any;
}

/* False: something has come meanwhile. */
static bool ports_arm(struct pump *p)
{
	unsigned d = 0;

	while (p->active && d < p->daemon_workers && endpoint_arm_sleep(p->ports[d]))
		d++;
	if (!p->active || d == p->daemon_workers)
		return true;
	while (d-- > 0)
		endpoint_disarm_sleep(p->ports[d]);
	return false;
}

static int wait_ms(uint64_t next_ns)
{
	uint64_t now_ns = clock_ns();

	if (next_ns == UINT64_MAX)
		return -1;
	return next_ns <= now_ns ? 0 : (int)((next_ns - now_ns + 999999) / CLOCK_NS_PER_MS);
}

static void rest(struct pump *p, uint64_t next_ns, bool busy)
{
	struct pollfd fds[2 + SHEPHERD_DAEMON_WORKERS_MAX] = {
		{.fd = link_fd(p->remote), .events = (short)(link_events(p->remote) | POLLRDHUP)},
		{.fd = attach_server_fd(p->server), .events = POLLIN},
	};
	bool armed = !busy && ports_arm(p);
	unsigned n = 2;
	uint64_t count;

	if (link_goes_on(p->remote, busy))
		return;
	if (!p->active)
		fds[0].events = POLLRDHUP;
	for (unsigned d = 0; armed && p->active && d < p->daemon_workers; d++)
		fds[n++] = (struct pollfd){.fd = endpoint_eventfd(p->ports[d]), .events = POLLIN};
	(void)poll(fds, n, armed ? wait_ms(next_ns) : 0);
	for (unsigned i = 2; i < n; i++) {
		endpoint_disarm_sleep(p->ports[i - 2]);
		if (fds[i].revents != 0)
			(void)!read(fds[i].fd, &count, sizeof(count));
	}
	/* splitd has closed: it has answered for every call, and what is still to be read begins
	 * none. So a process that was stopped does not run what came meanwhile. */
	if ((fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0)
		p->over = true;
	link_polled(p->remote, fds[0].revents);
	p->looked_ns = clock_ns();
	if (fds[1].revents != 0)
		server_step(p);
}

static void turn(struct pump *p)
{
	uint64_t now_ns = clock_ns(), next_ns = UINT64_MAX, used = p->due_charge;
	/* The process was stopped, it seems: poll tells first whether splitd is still there.
	 * Until then no call begins, not one of those either that were read before. */
	bool stopped = now_ns - p->looked_ns > STOPPED_NS, busy;

	p->looked_ns = now_ns;
	if (stopped)
		link_poll_next(p->remote);
	busy = stopped || frames_take(p, now_ns);
	busy |= ports_poll(p, now_ns);
	if (p->active && !stopped && pump_due(p, now_ns) < 0) {
		STAT(p->host, protocol_errors);
		p->over = true;
	}
	pump_queue_send(p, now_ns);
	for (unsigned d = 0; p->active && d < p->daemon_workers; d++) {
		uint64_t port_next_ns;

		endpoint_flush(p->ports[d], now_ns);
		port_next_ns = endpoint_next_ns(p->ports[d]);
		next_ns = port_next_ns < next_ns ? port_next_ns : next_ns;
		used += endpoint_bytes_used(p->ports[d]);
	}
	if (p->active) {
		uint64_t pulse_ns = UINT64_MAX, due_ns = pump_due_next_ns(p);

		if (remote_flow_give(&p->flow, p->remote, used) < 0 ||
		    link_pulse(p->remote, now_ns, p->welcome.timeout_ns, &pulse_ns) < 0 ||
		    link_flush(p->remote) < 0)
			p->over = true;
		next_ns = pulse_ns < next_ns ? pulse_ns : next_ns;
		next_ns = due_ns < next_ns ? due_ns : next_ns;
	}
	if (!p->over)
		rest(p, next_ns, busy);
}

static void *pump_main(void *arg)
{
	struct pump *p = arg;

	(void)pthread_setname_np(pthread_self(), "split-pump");
	while (!p->over)
		turn(p);
	if (link_cause(p->remote)[0] == '\0' && link_say(p->remote, REMOTE_GOODBYE, NULL, 0) == 0)
		(void)!link_flush(p->remote);
	if (p->endpoint != NULL)
		endpoint_detach(p->endpoint);
	/* What waits points into segments that go with these. */
	pump_calls_fini(p);
	remote_queue_fini(&p->queue);
	attach_server_destroy(p->server);
	if (p->endpoint != NULL)
		endpoint_put(p->endpoint);
	p->server = NULL;
	p->endpoint = NULL;
	link_destroy(p->remote);
	p->remote = NULL;
	return NULL;
}

/* ------------------------------------------------------------------ beginning and end */

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	(void)request;
	return 0;
}

static void pump_free(struct pump *p)
{
	pump_calls_fini(p);
	attach_server_destroy(p->server);
	link_destroy(p->remote);
	remote_tls_destroy(p->tls);
	schema_destroy(p->schema);
	free(p->methods);
	free(p->ports);
	free(p->calls);
	free(p->outs);
	free(p->ahead);
	free(p);
}

static int tables_make(struct pump *p, const struct attach_hello *hello)
{
	const struct remote_welcome *w = &p->welcome;
	uint64_t rings;

	p->daemon_workers = w->daemon_workers;
	p->workers = hello->workers;
	p->methods_n = hello->methods_n;
	p->methods = calloc(hello->methods_n + 1, sizeof(*p->methods));
	if (p->methods == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(p->methods, hello->methods, hello->methods_n * sizeof(*p->methods));
	p->flow = (struct remote_flow){
		.left = w->window, .peer_window = w->window, .window = WINDOW_BYTES};
	link_frame_max_set(p->remote, remote_message_max(WINDOW_BYTES) + 2 * REMOTE_METADATA_MAX);
	p->ports = calloc(w->daemon_workers, sizeof(struct endpoint_port *));
	p->calls = calloc(w->daemon_workers, sizeof(*p->calls));
	p->outs = calloc(w->daemon_workers, sizeof(*p->outs));
	p->ahead = calloc(hello->workers, sizeof(struct pump_call *));
	if (p->ports == NULL || p->calls == NULL || p->outs == NULL || p->ahead == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned d = 0; d < w->daemon_workers; d++) {
		p->calls[d].max = w->calls_max;
		p->outs[d].max = w->outs_max;
	}
	rings = (uint64_t)w->daemon_workers *
		((uint64_t)hello->workers * SLOTS + FOREIGN_SLOTS + 64) * SLOT_BYTES;
	p->config = (struct endpoint_config){
		.name = p->host->name,
		.daemon_workers = w->daemon_workers,
		.host_workers = hello->workers,
		.request_slots = SLOTS,
		.completion_slots = SLOTS,
		.foreign_slots = FOREIGN_SLOTS,
		.to_host_bytes = rings + (uint64_t)w->daemon_workers * WINDOW_BYTES + MIB,
		.to_daemon_bytes = rings + TO_DAEMON_BYTES + MIB,
		.lazy = true, /* most of the window is rarely in use */
		.numa_node = -1,
		.calls_max = w->calls_max,
		.tokens_max = w->tokens_max,
		.outs_max = w->outs_max,
		.revocable = true,
	};
	return schema_parse(hello->schema, hello->schema_bytes, NULL, &p->schema);
}

/* A thread that no signal of the program's reaches, SIGPIPE of TLS included. */
static int thread_start(struct pump *p)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, &before);
	rc = pthread_create(&p->thread, NULL, pump_main, p);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	p->started = rc == 0;
	return rc == 0 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

static int begin(struct pump *p, const struct attach_hello *hello, int timeout_ms,
		 struct attach_refusal *why)
{
	char target[256];
	int fd = remote_connect(p->host->path, timeout_ms, target, sizeof(target), why->text,
				sizeof(why->text));
	int rc;

	if (fd < 0) {
		why->code = fd;
		return fd;
	}
	rc = tls_make(p, target, why);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	rc = link_create(fd, p->tls, false, &p->remote);
	if (rc < 0)
		return fail(why, rc, error_text(rc));
	rc = greet(p, hello, timeout_ms, why);
	if (rc == 0) {
		rc = tables_make(p, hello);
		if (rc < 0)
			fail(why, rc, error_text(rc));
	}
	return rc;
}

int pump_open(struct split_host *host, const struct attach_hello *hello, int timeout_ms,
	      struct attachment **out, struct pump **pump_out, struct attach_refusal *why)
{
	static const struct attach_policy policy = {.admit = admit};
	struct pump *p = calloc(1, sizeof(*p));
	struct attach_hello lazy = *hello;
	sigset_t pipe, before;
	int fds[2] = {-1, -1}, on = 1, rc;

	*why = (struct attach_refusal){0};
	if (p == NULL)
		return fail(why, -SPLIT_E_BASE_NOMEM, "out of memory");
	p->host = host;
	list_init(&p->due);
	list_init(&p->opening);
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	(void)pthread_sigmask(SIG_BLOCK, &pipe, &before);
	rc = begin(p, hello, timeout_ms, why);
	if (rc == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
		rc = fail(why, -SPLIT_E_BASE_SYSTEM, "no socket");
	if (rc == 0) {
		lazy.lazy = true;
		(void)setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
		rc = attach_server_create(fds[0], &policy, &p->server);
		if (rc == 0)
			rc = thread_start(p);
		if (rc < 0)
			close(fds[1]);
		else
			rc = attachment_open_fd(fds[1], &lazy, timeout_ms, out, why);
	}
	/* One of ours is not the program's. */
	if (sigismember(&before, SIGPIPE) == 0)
		(void)sigtimedwait(&pipe, NULL, &(struct timespec){0});
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc < 0) {
		pump_close(p);
		return rc;
	}
	*pump_out = p;
	return 0;
}

void pump_close(struct pump *p)
{
	if (p == NULL)
		return;
	if (p->started)
		(void)pthread_join(p->thread, NULL);
	pump_free(p);
}
