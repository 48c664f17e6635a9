/* The host: what it serves, and staying attached.
 *
 * The thread in split_host_run is the control thread: it attaches, watches the socket, attaches
 * again with backoff, and buries sessions that ended once their last call is over.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "host-lib/host_internal.h"

_Static_assert(SPLIT_E_NOMEM == -SPLIT_E_BASE_NOMEM, "one space of errors");
_Static_assert(SPLIT_E_ARGUMENT == -SPLIT_E_BASE_INVALID, "one space of errors");
_Static_assert(SPLIT_E_SYSTEM == -SPLIT_E_BASE_SYSTEM, "one space of errors");
_Static_assert(SPLIT_E_REFUSED == -SPLIT_E_HOST_REFUSED, "one space of errors");
_Static_assert(SPLIT_E_LOST == -SPLIT_E_HOST_LOST, "one space of errors");
_Static_assert(SPLIT_E_KIND == -SPLIT_E_HOST_KIND, "one space of errors");
_Static_assert(SPLIT_E_DUPLICATE == -SPLIT_E_HOST_DUPLICATE, "one space of errors");
_Static_assert(SPLIT_E_ANSWERED == -SPLIT_E_HOST_ANSWERED, "one space of errors");
_Static_assert(SPLIT_E_SCHEMA == -SPLIT_E_HOST_SCHEMA, "one space of errors");
_Static_assert(SPLIT_E_METADATA == -SPLIT_E_HOST_METADATA, "one space of errors");

#define SPIN_NS_DEFAULT        (50 * CLOCK_NS_PER_US)
#define ROOM_WAIT_NS_DEFAULT   (30 * CLOCK_NS_PER_SEC)
#define LEAVE_MS               10 /* how soon it is seen that splitd is gone, or time over */
#define DRAIN_NS_DEFAULT       (5 * CLOCK_NS_PER_SEC)
#define BACKOFF_MIN_NS_DEFAULT (20 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS_DEFAULT CLOCK_NS_PER_SEC
#define WATCH_MS               500 /* looks whether the daemon let us go without closing the socket */
#define BURY_MS                20  /* the same while sessions wait to be freed */
#define READ_AHEAD_DEFAULT     16  /* messages: a worker's turn for small ones */
#define NAME_BYTES_MAX         255 /* of a service or method, as attach has it */

const char *split_host_error_text(int error)
{
	return error_text(error);
}

/* ------------------------------------------------------------------ making one */

static void options_default(uint64_t *v, uint64_t fallback)
{
	if (*v == 0)
		*v = fallback;
}

static bool tls_copy(const char **option, char **copy_out)
{
	if (*option == NULL)
		return true;
	*copy_out = strdup(*option);
	*option = *copy_out;
	return *copy_out != NULL;
}

static int options_take(struct split_host *host, const struct split_host_options *options)
{
	struct split_host_options *o = &host->options;

	if (options != NULL) {
		if (options->size < sizeof(options->size))
			return -SPLIT_E_BASE_INVALID;
		memcpy(o, options, options->size < sizeof(*o) ? options->size : sizeof(*o));
	}
	options_default(&o->spin_ns, SPIN_NS_DEFAULT);
	options_default(&o->room_wait_ns, ROOM_WAIT_NS_DEFAULT);
	options_default(&o->drain_ns, DRAIN_NS_DEFAULT);
	options_default(&o->backoff_min_ns, BACKOFF_MIN_NS_DEFAULT);
	options_default(&o->backoff_max_ns, BACKOFF_MAX_NS_DEFAULT);
	if (o->calls_max == 0)
		o->calls_max = HOST_CALLS_MAX_DEFAULT;
	if (o->calls_max > HOST_CALLS_MAX_LIMIT || o->workers > HOST_WORKERS_MAX ||
	    (o->cores_n > 0 && o->cores == NULL) || o->cores_n > CPU_SETSIZE ||
	    o->yield_signal > SIGRTMAX || (o->yield_signal > 0 && o->yield_signal < SIGRTMIN))
		return -SPLIT_E_BASE_INVALID;
	if (!tls_copy(&o->tls_cert, &host->tls_files[0]) ||
	    !tls_copy(&o->tls_key, &host->tls_files[1]) ||
	    !tls_copy(&o->tls_ca, &host->tls_files[2]) ||
	    !tls_copy(&o->tls_name, &host->tls_files[3]))
		return -SPLIT_E_BASE_NOMEM;
	if (o->cores_n == 0)
		return 0;
	host->cores = calloc(o->cores_n, sizeof(*host->cores));
	if (host->cores == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (size_t i = 0; i < o->cores_n; i++) {
		host->cores[i] = o->cores[i];
		if (o->cores[i] >= CPU_SETSIZE)
			return -SPLIT_E_BASE_INVALID;
	}
	o->cores = host->cores;
	return 0;
}

static void host_free(struct split_host *host)
{
	for (size_t i = 0; i < host->methods_n; i++) {
		free(host->methods[i]->path);
		free(host->methods[i]->service_name);
		free(host->methods[i]->method_name);
		flatten_plan_destroy(host->methods[i]->plan);
		free(host->methods[i]);
	}
	free(host->methods);
	channels_fini(host);
	typed_fini(host);
	if (host->calls.chunks != NULL)
		call_table_fini(&host->calls);
	if (host->stop_fd >= 0)
		(void)close(host->stop_fd);
	pthread_mutex_destroy(&host->stats_lock);
	wire_schema_fini(host);
	pthread_mutex_destroy(&host->schema_lock);
	free(host->cores);
	for (unsigned i = 0; i < 4; i++)
		free(host->tls_files[i]);
	free(host->path);
	free(host->name);
	free(host);
}

struct split_host *split_host_attach(const char *path, const char *name,
				     const struct split_host_options *options)
{
	struct split_host *host;
	int rc;

	if (path == NULL)
		path = getenv(SPLIT_HOST_SOCKET_ENV);
	if (path == NULL || *path == '\0')
		path = SPLIT_HOST_SOCKET_DEFAULT;
	if (name == NULL || *name == '\0' || strlen(name) >= ATTACH_NAME_MAX) {
		errno = EINVAL;
		return NULL;
	}
	host = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*host), BITS_CACHE_LINE));
	if (host == NULL)
		return NULL;
	memset(host, 0, sizeof(*host));
	(void)pthread_mutex_init(&host->stats_lock, NULL);
	(void)pthread_mutex_init(&host->schema_lock, NULL);
	host->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	host->path = strdup(path);
	host->name = strdup(name);
	rc = host->stop_fd < 0 || host->path == NULL || host->name == NULL ? -SPLIT_E_BASE_NOMEM
									   : 0;
	if (rc == 0)
		rc = options_take(host, options);
	if (rc == 0)
		rc = call_table_init(&host->calls, host->options.calls_max);
	if (rc == 0)
		rc = host_registry_add(host);
	if (rc != 0) {
		host_free(host);
		errno = rc == -SPLIT_E_BASE_INVALID ? EINVAL : ENOMEM;
		return NULL;
	}
	return host;
}

void split_host_detach(struct split_host *host)
{
	if (host == NULL)
		return;
	host_registry_remove(host);
	while (host->ending != NULL) {
		struct session *s = host->ending;

		host->ending = s->next;
		session_free(s);
	}
	host_free(host);
}

/* ------------------------------------------------------------------ services */

static void run_service(struct split_call *call, struct method *m)
{
	m->service->invoke(m->service, m->service_index, call->message, call_closure,
			   call_handle(call));
}

static void run_raw(struct split_call *call, struct method *m)
{
	m->raw.message(call, call->message, m->raw.data);
}

static bool method_sound(const struct split_method *m)
{
	if ((unsigned)m->kind > SPLIT_BIDI_STREAM || m->read_ahead > UINT8_MAX ||
	    (m->flags & ~SPLIT_METHOD_CREDIT) != 0 || m->message == NULL)
		return false;
	return m->kind == SPLIT_UNARY || m->kind == SPLIT_SERVER_STREAM || m->open != NULL ||
	       m->half_close != NULL;
}

static struct method *method_find(const struct split_host *host, const char *service,
				  const char *name)
{
	for (size_t i = 0; i < host->methods_n; i++)
		if (host->methods[i]->channel == NULL &&
		    strcmp(host->methods[i]->service_name, service) == 0 &&
		    strcmp(host->methods[i]->method_name, name) == 0)
			return host->methods[i];
	return NULL;
}

static bool name_sound(const char *name)
{
	return name != NULL && *name != '\0' && strlen(name) <= NAME_BYTES_MAX;
}

static bool descriptor_sound(const ProtobufCMessageDescriptor *d)
{
	return d != NULL && d->magic == PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC;
}

int method_add(struct split_host *host, struct split_channel *channel, const char *service,
	       const char *name, const ProtobufCMessageDescriptor *input,
	       const ProtobufCMessageDescriptor *output, struct method **out)
{
	struct method *m;

	if (host == NULL || atomic_load(&host->running) || !name_sound(service) ||
	    !name_sound(name) || !descriptor_sound(input) || !descriptor_sound(output))
		return SPLIT_E_ARGUMENT;
	if (channel == NULL && method_find(host, service, name) != NULL)
		return SPLIT_E_DUPLICATE;
	if (host->methods_n == host->methods_max) {
		size_t max = host->methods_max == 0 ? 16 : 2 * host->methods_max;
		struct method **methods = realloc(host->methods, max * sizeof(struct method *));

		if (max > ATTACH_METHODS_MAX || methods == NULL)
			return SPLIT_E_NOMEM;
		host->methods = methods;
		host->methods_max = max;
	}
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return SPLIT_E_NOMEM;
	m->service_name = strdup(service);
	m->method_name = strdup(name);
	if (m->service_name == NULL || m->method_name == NULL ||
	    asprintf(&m->path, "%s/%s", service, name) < 0) {
		free(m->service_name);
		free(m->method_name);
		free(m);
		return SPLIT_E_NOMEM;
	}
	m->channel = channel;
	m->input = input;
	m->output = output;
	/* What is wrong with a descriptor the attach will tell. */
	if (flatten_plan_create(output, &m->plan) != 0)
		m->plan = NULL;
	relocation_plan(input, &m->pointers);
	m->index = (uint32_t)host->methods_n;
	host->methods[host->methods_n++] = m;
	*out = m;
	return 0;
}

int split_host_serve_flags(struct split_host *host, ProtobufCService *service, unsigned flags)
{
	const ProtobufCServiceDescriptor *d;
	struct method *m;

	if (host == NULL || service == NULL || (flags & ~SPLIT_SERVE_ANSWERS_NOW) != 0)
		return SPLIT_E_ARGUMENT;
	d = service->descriptor;
	if (d == NULL || d->magic != PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC)
		return SPLIT_E_ARGUMENT;
	for (unsigned i = 0; i < d->n_methods; i++) {
		int rc = method_add(host, NULL, d->name, d->methods[i].name, d->methods[i].input,
				    d->methods[i].output, &m);

		if (rc != 0)
			return rc;
		m->code = run_service;
		m->service = service;
		m->service_index = i;
		m->answers_now = (flags & SPLIT_SERVE_ANSWERS_NOW) != 0;
	}
	return 0;
}

int split_host_serve(struct split_host *host, ProtobufCService *service)
{
	return split_host_serve_flags(host, service, 0);
}

int split_host_serve_method(struct split_host *host, const struct split_method *method)
{
	struct method *m;
	int rc;

	if (host == NULL || method == NULL || !method_sound(method))
		return SPLIT_E_ARGUMENT;
	rc = method_add(host, NULL, method->service, method->name, method->input, method->output,
			&m);
	if (rc != 0)
		return rc;
	m->code = method->kind == SPLIT_UNARY ? run_raw : run_stream;
	m->raw = *method;
	m->raw.service = m->service_name;
	m->raw.name = m->method_name;
	m->kind = method->kind;
	m->read_ahead = method->read_ahead != 0 ? method->read_ahead : READ_AHEAD_DEFAULT;
	m->answers_now = method->kind == SPLIT_UNARY;
	return 0;
}

/* ------------------------------------------------------------------ what splitd is told */

static void hello_free(struct attach_hello *hello)
{
	free((void *)(uintptr_t)hello->methods);
	free((void *)(uintptr_t)hello->schema);
}

static struct attach_method_options options_of(const struct split_method_options *o)
{
	struct attach_method_options none = {0};

	return o == NULL ? none
			 : (struct attach_method_options){
				   .request_bytes_max = o->request_bytes_max,
				   .response_bytes_max = o->response_bytes_max,
				   .deadline_ns = o->deadline_ns,
				   .decode = o->decode,
				   .encode = o->encode,
				   .idempotency = o->idempotency,
			   };
}

static const ProtobufCMessageDescriptor *request_of(const struct method *m)
{
	return m->channel != NULL ? m->output : m->input;
}

static const ProtobufCMessageDescriptor *answer_of(const struct method *m)
{
	return m->channel != NULL ? m->input : m->output;
}

static int hello_make(const struct split_host *host, unsigned workers, struct attach_hello *out)
{
	struct schema_builder *builder = NULL;
	struct attach_method *methods = calloc(host->methods_n, sizeof(*methods));
	struct schema_blob blob = {0};
	int rc = methods == NULL ? -SPLIT_E_BASE_NOMEM : schema_builder_create(&builder);

	for (size_t i = 0; rc == 0 && i < host->methods_n; i++) {
		const struct method *m = host->methods[i];

		methods[i] = (struct attach_method){
			.service = m->service_name,
			.method = m->method_name,
			.kind = (enum attach_kind)m->kind,
			.read_ahead = (uint8_t)m->read_ahead,
			.code = (uint64_t)(uintptr_t)m->code,
			.data = (uint64_t)(uintptr_t)m,
			.options = options_of(m->raw.options),
			.channel = m->channel != NULL ? m->channel->name : NULL,
		};
		rc = schema_builder_add(builder, request_of(m), &methods[i].input_schema);
		if (rc == 0)
			rc = schema_builder_add(builder, answer_of(m), &methods[i].output_schema);
	}
	if (rc == 0)
		rc = typed_inform(host, builder);
	if (rc == 0)
		rc = schema_builder_finish(builder, &blob);
	schema_builder_destroy(builder);
	if (rc != 0) {
		free(methods);
		return rc == -SPLIT_E_BASE_NOMEM ? rc : -SPLIT_E_HOST_SCHEMA;
	}
	*out = (struct attach_hello){
		.name = host->name,
		.workers = workers,
		.workers_min =
			host->options.workers_min < workers ? host->options.workers_min : workers,
		.yield_signal = (uint32_t)host->yield_signal,
		.methods = methods,
		.methods_n = host->methods_n,
		.schema = blob.bytes,
		.schema_bytes = blob.len,
	};
	return 0;
}

/* ------------------------------------------------------------------ staying attached */

static void event(struct split_host *host, enum split_host_event e, const char *text)
{
	static const char *const words[] = {
		[SPLIT_HOST_LOST] = "splitd is gone; attaching again",
		[SPLIT_HOST_REFUSED] = "attach refused",
		[SPLIT_HOST_WAITING] = "waiting for splitd",
	};

	if (host->options.event != NULL)
		host->options.event(host, e, text, host->options.event_arg);
	else if (e != SPLIT_HOST_ATTACHED)
		(void)fprintf(stderr, "libsplit-host: %s: %s: %s\n", host->name, words[e], text);
}

/* Reasons that the same attach would meet again. */
static bool refusal_is_lasting(int rc)
{
	switch (-rc) {
	case SPLIT_E_SHEPHERD_ATTACH_VERSION:
	case SPLIT_E_SHEPHERD_ATTACH_LAYOUT:
	case SPLIT_E_SHEPHERD_ATTACH_UID:
	case SPLIT_E_SHEPHERD_ATTACH_NAME:
	case SPLIT_E_SHEPHERD_ATTACH_CERTIFICATE:
	case SPLIT_E_SHEPHERD_ATTACH_SCHEMA:
	case SPLIT_E_SHEPHERD_ATTACH_MALFORMED:
	case SPLIT_E_BASE_SYSTEM:  /* a worker could not be started: no such core */
	case SPLIT_E_BASE_INVALID: /* a path or name that is none */
	case SPLIT_E_REMOTE_ADDRESS:
		return true;
	default:
		return false;
	}
}

/* Free the ending sessions whose last call is over. */
static void bury(struct split_host *host)
{
	struct session **at = &host->ending, *s;

	while ((s = *at) != NULL) {
		if (!session_workers_exited(s)) {
			at = &s->next;
			continue;
		}
		session_join(s);
		if (session_calls(s) != 0) {
			at = &s->next;
			continue;
		}
		pthread_mutex_lock(&host->stats_lock);
		*at = s->next;
		pthread_mutex_unlock(&host->stats_lock);
		session_free(s);
	}
}

/* Until `ms` are over (-1: no end) or stop; true: stop. */
static bool stopped_within(struct split_host *host, int ms)
{
	struct pollfd p = {.fd = host->stop_fd, .events = POLLIN};

	if (!atomic_load(&host->stopping))
		(void)poll(&p, 1, ms);
	return atomic_load(&host->stopping);
}

/* The active session becomes an ending one. */
static void session_retire(struct split_host *host, struct session *s)
{
	session_end(s);
	pthread_mutex_lock(&host->stats_lock);
	atomic_store(&host->session, NULL);
	s->next = host->ending;
	host->ending = s;
	pthread_mutex_unlock(&host->stats_lock);
	bury(host);
}

/* Wait while the session is alive. True: stop was asked for. */
static bool watch(struct split_host *host, struct session *s)
{
	struct pollfd p[2] = {{.fd = host->stop_fd, .events = POLLIN},
			      {.fd = attachment_fd(s->attachment), .events = POLLIN}};

	while (attachment_alive(s->attachment)) {
		if (atomic_load(&host->stopping))
			return true;
		p[1].revents = 0;
		(void)poll(p, 2, host->ending != NULL ? BURY_MS : WATCH_MS);
		if (p[1].revents != 0)
			break;
		if (host->ending != NULL)
			bury(host);
	}
	return atomic_load(&host->stopping);
}

/* splitd is asked for no more calls, and those that it has for us are served, until it says that
 * none is left. */
static void leave(struct session *s, uint64_t until_ns)
{
	struct pollfd p = {.fd = attachment_fd(s->attachment), .events = POLLIN};
	int rc = attachment_leave(s->attachment);

	while (rc == 0 && attachment_alive(s->attachment) && clock_ns() < until_ns) {
		p.revents = 0;
		(void)poll(&p, 1, LEAVE_MS);
		if (p.revents != 0)
			rc = attachment_take(s->attachment);
	}
}

/* Stop was asked for: take no more, let open calls be answered, go. */
static void drain(struct split_host *host, struct session *s)
{
	struct pollfd p = {.fd = attachment_fd(s->attachment), .events = POLLIN};
	uint64_t until_ns = clock_ns() + host->options.drain_ns;

	leave(s, until_ns);
	session_drain(s, until_ns);
	while (!session_workers_exited(s) && attachment_alive(s->attachment)) {
		p.revents = 0;
		(void)poll(&p, 1, 1);
		if (p.revents != 0)
			break;
	}
}

static int attach_failed(struct split_host *host, int rc, const struct attach_refusal *why)
{
	const char *text = why->text[0] != '\0' ? why->text : NULL;
	bool absent, lasting;

	if (rc == -SPLIT_E_SHEPHERD_ATTACH_REFUSED && why->code < 0)
		rc = why->code; /* the daemon's own reason */
	if (text == NULL)
		text = error_text(rc);
	absent = rc == -SPLIT_E_SHEPHERD_ATTACH_CLOSED || rc == -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT;
	lasting = refusal_is_lasting(rc);
	if (!absent) {
		event(host, SPLIT_HOST_REFUSED, text);
	} else if (!host->waiting && !host->options.attach_once) {
		char where[sizeof(why->text) + 128];

		host->waiting = true;
		if (strstr(text, host->path) == NULL)
			(void)snprintf(where, sizeof(where), "%.120s: %s", host->path, text);
		else
			(void)snprintf(where, sizeof(where), "%s", text);
		event(host, SPLIT_HOST_WAITING, where);
	}
	if (rc == -SPLIT_E_BASE_NOMEM)
		return SPLIT_E_NOMEM;
	if (lasting && __atomic_load_n(&host->stats.attaches, __ATOMIC_RELAXED) == 0)
		return rc == -SPLIT_E_BASE_SYSTEM ? SPLIT_E_SYSTEM
		       : rc == -SPLIT_E_BASE_INVALID || rc == -SPLIT_E_REMOTE_ADDRESS
			       ? SPLIT_E_ARGUMENT
			       : SPLIT_E_REFUSED;
	if (host->options.attach_once)
		return absent ? SPLIT_E_LOST : SPLIT_E_REFUSED;
	return 0;
}

static int serve(struct split_host *host, const struct attach_hello *hello)
{
	uint64_t backoff = host->options.backoff_min_ns;
	struct attach_refusal why;
	struct session *s;
	int rc;

	while (!atomic_load(&host->stopping)) {
		rc = session_open(host, hello, &s, &why);
		if (rc != 0) {
			rc = attach_failed(host, rc, &why);
			if (rc != 0)
				return rc;
			if (stopped_within(host, (int)(backoff / CLOCK_NS_PER_MS) + 1))
				break;
			bury(host);
			backoff *= 2;
			if (backoff > host->options.backoff_max_ns)
				backoff = host->options.backoff_max_ns;
			continue;
		}
		backoff = host->options.backoff_min_ns;
		pthread_mutex_lock(&host->stats_lock);
		atomic_store(&host->session, s);
		pthread_mutex_unlock(&host->stats_lock);
		STAT(host, attaches);
		host->waiting = false;
		event(host, SPLIT_HOST_ATTACHED, host->path);
		if (watch(host, s))
			drain(host, s);
		session_retire(host, s);
		if (atomic_load(&host->stopping))
			break;
		host->waiting = true; /* this says so */
		event(host, SPLIT_HOST_LOST, host->path);
		if (host->options.attach_once)
			return SPLIT_E_LOST;
		/* Not at once: a daemon that dies on us again and again is not to be hammered. */
		(void)stopped_within(host, (int)(backoff / CLOCK_NS_PER_MS) + 1);
	}
	return 0;
}

int split_host_run(struct split_host *host, unsigned n_workers)
{
	struct attach_hello hello;
	uint64_t ignored;
	int rc;

	if (host == NULL || host->methods_n == 0 || n_workers > HOST_WORKERS_MAX ||
	    atomic_exchange(&host->running, true))
		return SPLIT_E_ARGUMENT;
	if (n_workers == 0)
		n_workers = host->options.workers;
	if (n_workers == 0)
		n_workers = host->options.cores_n > HOST_WORKERS_MAX
				    ? HOST_WORKERS_MAX
				    : (unsigned)host->options.cores_n;
	if (n_workers == 0)
		n_workers = 1;
	host->yield_signal = worker_yield_signal(&host->options);
	rc = hello_make(host, n_workers, &hello);
	if (rc == 0) {
		wire_schema_set(host, &hello);
		rc = serve(host, &hello);
		wire_schema_forget(host);
		hello_free(&hello);
	}
	/* Every thread of ours is gone before the caller may free anything. */
	for (struct session *s = host->ending; s != NULL; s = s->next)
		session_join(s);
	bury(host);
	(void)!read(host->stop_fd, &ignored, sizeof(ignored));
	atomic_store(&host->stopping, false);
	atomic_store(&host->running, false);
	return rc;
}

void split_host_stop(struct split_host *host)
{
	int saved = errno;
	uint64_t one = 1;

	if (host == NULL)
		return;
	atomic_store(&host->stopping, true);
	(void)!write(host->stop_fd, &one, sizeof(one));
	errno = saved;
}
