/* Channels: what a host calls, and beginning a call.
 *
 * A stub is a struct method of the host's table with a channel: its "output" is the request, which
 * is what goes into the segment, its "input" the answer. A call out is a struct split_call of such
 * a method: what it sends takes the way of a reply (answer.c, stream.c).
 *
 * Its id is the host's: a place of its daemon worker's table and a generation. Each worker has a
 * few places of its own to give; the rest is for all threads, under a lock, so that one busy worker
 * can have nearly all that splitd allows. The place tells what comes back which struct is meant
 * (outs_of); taking the struct out of its place, atomically, is the right to end it, which three
 * may want: the status, the end of the session, and the starter that finds the session over. */
#include <stdlib.h>

#include "host-lib/host_internal.h"

#define READ_AHEAD_DEFAULT 16
/* Of the places, those that workers keep for themselves. */
#define OWN_PART 4

static const char *const trace_names[HOST_TRACES] = {"traceparent", "tracestate", "grpc-trace-bin"};

struct channel_service {
	ProtobufCService base;
	struct channel_service *next;
	struct split_channel *channel;
	struct method *methods[];
};

/* ------------------------------------------------------------------ declaring */

struct split_channel *split_channel_open(struct split_host *host, const char *name)
{
	struct split_channel *ch;

	if (host == NULL || name == NULL || *name == '\0' || strlen(name) >= ATTACH_NAME_MAX)
		return NULL;
	for (ch = host->channels; ch != NULL; ch = ch->next)
		if (strcmp(ch->name, name) == 0)
			return ch;
	if (atomic_load(&host->running))
		return NULL;
	ch = calloc(1, sizeof(*ch));
	if (ch == NULL)
		return NULL;
	ch->name = strdup(name);
	if (ch->name == NULL) {
		free(ch);
		return NULL;
	}
	ch->host = host;
	ch->next = host->channels;
	host->channels = ch;
	return ch;
}

void split_channel_timeout(struct split_channel *channel, uint64_t timeout_ns)
{
	__atomic_store_n(&channel->timeout_ns, timeout_ns, __ATOMIC_RELAXED);
}

void split_channel_wait_for_ready(struct split_channel *channel, bool on)
{
	__atomic_store_n(&channel->wait_for_ready, on, __ATOMIC_RELAXED);
}

void channels_fini(struct split_host *host)
{
	while (host->channels != NULL) {
		struct split_channel *ch = host->channels;

		host->channels = ch->next;
		while (ch->services != NULL) {
			struct channel_service *s = ch->services;

			ch->services = s->next;
			free(s);
		}
		free(ch->name);
		free(ch);
	}
}

struct split_stub *split_channel_stub(struct split_channel *channel, const char *service,
				      const char *name, enum split_method_kind kind,
				      const ProtobufCMessageDescriptor *input,
				      const ProtobufCMessageDescriptor *output, uint32_t read_ahead)
{
	struct method *m;

	if (channel == NULL || (unsigned)kind > SPLIT_BIDI_STREAM || read_ahead > UINT8_MAX)
		return NULL;
	for (size_t i = 0; i < channel->host->methods_n && service != NULL && name != NULL; i++) {
		m = channel->host->methods[i];
		if (m->channel == channel && m->kind == kind && m->input == output &&
		    m->output == input && strcmp(m->service_name, service) == 0 &&
		    strcmp(m->method_name, name) == 0)
			return (struct split_stub *)m;
	}
	if (method_add(channel->host, channel, service, name, output, input, &m) != 0)
		return NULL;
	m->kind = kind;
	m->read_ahead = read_ahead != 0 ? read_ahead : READ_AHEAD_DEFAULT;
	return (struct split_stub *)m;
}

/* ------------------------------------------------------------------ protobuf-c's stubs */

static void closure_done(struct split_out *out, const struct split_out_result *result, void *data)
{
	out->closure(result->reply, data);
}

static void service_invoke(ProtobufCService *service, unsigned index, const ProtobufCMessage *input,
			   ProtobufCClosure closure, void *closure_data)
{
	static const struct split_out_events events = {.done = closure_done};
	const struct channel_service *s =
		(const struct channel_service *)(const void *)service; /* base is first */
	struct split_out_result why = {.message = ""};
	int rc = out_start(s->methods[index], input, NULL, &events, closure, closure_data, NULL);

	if (rc == 0)
		return;
	why.status = rc == SPLIT_E_LOST    ? SPLIT_UNAVAILABLE
		     : rc == SPLIT_E_NOMEM ? SPLIT_RESOURCE_EXHAUSTED
					   : SPLIT_INTERNAL;
	why.message = split_host_error_text(rc);
	out_result_set(&why);
	closure(NULL, closure_data);
	out_result_set(NULL);
}

static void service_destroy(ProtobufCService *service)
{
	(void)service;
}

ProtobufCService *split_channel_service(struct split_channel *channel,
					const ProtobufCServiceDescriptor *d)
{
	struct channel_service *s;

	if (channel == NULL || d == NULL || d->magic != PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC)
		return NULL;
	for (s = channel->services; s != NULL; s = s->next)
		if (s->base.descriptor == d)
			return &s->base;
	s = calloc(1, sizeof(*s) + d->n_methods * sizeof(struct method *));
	if (s == NULL)
		return NULL;
	s->base = (ProtobufCService){
		.descriptor = d, .invoke = service_invoke, .destroy = service_destroy};
	s->channel = channel;
	for (unsigned i = 0; i < d->n_methods; i++) {
		s->methods[i] = (struct method *)split_channel_stub(
			channel, d->name, d->methods[i].name, SPLIT_UNARY, d->methods[i].input,
			d->methods[i].output, 0);
		if (s->methods[i] == NULL) {
			free(s);
			return NULL;
		}
	}
	s->next = channel->services;
	channel->services = s;
	return &s->base;
}

/* ------------------------------------------------------------------ ids and structs */

static int ids_init(struct out_ids *ids, uint32_t first, uint32_t max)
{
	ids->first = first;
	ids->max = max;
	ids->free = calloc(max + 1, sizeof(*ids->free));
	ids->generations = calloc(max + 1, sizeof(*ids->generations));
	if (ids->free == NULL || ids->generations == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (uint32_t i = 0; i < max; i++)
		ids->free[i] = first + max - 1 - i;
	ids->free_n = max;
	return 0;
}

static void ids_fini(struct out_ids *ids)
{
	free(ids->free);
	free(ids->generations);
}

/* An id at daemon worker `d`; 0: all are in use. */
static uint64_t id_get(struct out_ids *ids, unsigned d, uint32_t *index_out)
{
	uint32_t index, generation;

	if (ids->free_n == 0)
		return 0;
	index = ids->free[--ids->free_n];
	generation = ++ids->generations[index - ids->first];
	*index_out = index;
	return (uint64_t)generation << 32 | (uint64_t)d << 24 | SLOT_OUT | index;
}

void out_id_put(struct out_ids *ids, uint32_t index)
{
	ids->free[ids->free_n++] = index;
}

int outs_init(struct session *s)
{
	uint32_t each;
	int rc = 0;

	s->outs_max = attachment_outs_max(s->attachment);
	each = s->outs_max / OWN_PART / s->workers_n;
	(void)pthread_mutex_init(&s->outs_lock, NULL); /* cannot fail on Linux */
	s->outs_of = calloc(s->daemon_workers, sizeof(*s->outs_of));
	s->outs_shared = calloc(s->daemon_workers, sizeof(*s->outs_shared));
	if (s->outs_of == NULL || s->outs_shared == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned d = 0; rc == 0 && d < s->daemon_workers; d++) {
		s->outs_of[d] = calloc(s->outs_max + 1, sizeof(**s->outs_of));
		rc = s->outs_of[d] == NULL ? -SPLIT_E_BASE_NOMEM : 0;
		if (rc == 0)
			rc = ids_init(&s->outs_shared[d], each * s->workers_n,
				      s->outs_max - each * s->workers_n);
		for (unsigned h = 0; rc == 0 && h < s->workers_n; h++)
			rc = ids_init(&s->workers[h].out_ids[d], h * each, each);
	}
	return rc;
}

void outs_fini(struct session *s)
{
	for (unsigned d = 0; s->outs_of != NULL && d < s->daemon_workers; d++)
		free(s->outs_of[d]);
	for (unsigned d = 0; s->outs_shared != NULL && d < s->daemon_workers; d++)
		ids_fini(&s->outs_shared[d]);
	for (unsigned h = 0; s->workers != NULL && h < s->workers_n; h++) {
		struct worker *w = &s->workers[h];

		for (unsigned d = 0; w->out_ids != NULL && d < s->daemon_workers; d++)
			ids_fini(&w->out_ids[d]);
		free(w->out_ids);
		call_table_put(&s->host->calls, w->outs_free);
		call_table_put(&s->host->calls, atomic_exchange_explicit(&w->outs_returned, NULL,
									 memory_order_acquire));
	}
	call_table_put(&s->host->calls, s->outs_free);
	free(s->outs_of);
	free(s->outs_shared);
	(void)pthread_mutex_destroy(&s->outs_lock);
}

/* One of a list of free structs, with its struct split_out. */
static struct split_call *struct_get(struct split_call **list, struct split_host *host)
{
	struct split_call *call;

	if (*list == NULL)
		*list = call_table_get(&host->calls, host);
	call = *list;
	if (call == NULL)
		return NULL;
	if (call->out == NULL)
		call->out = calloc(1, sizeof(*call->out));
	if (call->out == NULL || stream_reset(call) != 0)
		return NULL;
	*list = call->next;
	return call;
}

void out_free(struct split_call *call)
{
	struct worker *home = call->home;
	struct session *s = call->session;
	struct split_call *top;

	answer_parts_free(call);
	call->is_out = false;
	if (worker_self == home) {
		call->next = home->outs_free;
		home->outs_free = call;
	} else {
		top = atomic_load_explicit(&home->outs_returned, memory_order_relaxed);
		do {
			call->next = top;
		} while (!atomic_compare_exchange_weak_explicit(&home->outs_returned, &top, call,
								memory_order_release,
								memory_order_relaxed));
	}
	/* Last: the session may go once the count is complete. */
	atomic_fetch_add_explicit(&s->outs_closed, 1, memory_order_release);
}

bool out_withdraw(struct split_call *call)
{
	struct session *s = call->session;
	struct split_out *out = call->out;
	struct worker *home = call->home;
	unsigned d = call->daemon_worker;
	struct split_call *was = call;

	if (!atomic_compare_exchange_strong(&s->outs_of[d][out->index], &was, NULL))
		return false;
	atomic_store_explicit(&out->id, 0, memory_order_release);
	atomic_store_explicit(&out->ended, true, memory_order_release);
	atomic_store_explicit(&call->cancelled, 1, memory_order_release);
	if (out->shared) {
		pthread_mutex_lock(&s->outs_lock);
		out_id_put(&s->outs_shared[d], out->index);
		pthread_mutex_unlock(&s->outs_lock);
	} else {
		out_id_put(&home->out_ids[d], out->index);
	}
	return true;
}

/* ------------------------------------------------------------------ what is inherited */

struct inherited {
	struct session *session;
	struct worker *home;    /* NULL: any */
	unsigned daemon_worker; /* with a parent */
	uint64_t parent_id;
	uint64_t deadline_ns; /* 0: none */
	const struct out_trace *trace;
	const struct metadata_block *metadata;
};

static void inherit_call(struct inherited *in, const struct split_call *parent)
{
	uint64_t word = atomic_load_explicit(&parent->word, memory_order_acquire);

	in->session = parent->session;
	in->home = parent->home;
	in->daemon_worker = parent->daemon_worker;
	in->parent_id = parent->call_id;
	in->deadline_ns = parent->deadline_ns;
	if ((word & CALL_GONE) == 0)
		in->metadata = parent->metadata;
}

static void inherit_out(struct inherited *in, const struct split_out *out)
{
	in->session = out->call->session;
	in->home = out->call->home;
	in->daemon_worker = out->call->daemon_worker;
	in->parent_id = out->parent_id;
	in->deadline_ns = out->call->deadline_ns;
	in->trace = &out->trace;
}

static void inherit(struct inherited *in, const struct split_out_options *o)
{
	struct worker *w = worker_self;

	*in = (struct inherited){0};
	if (o->parent != NULL)
		inherit_call(in, o->parent);
	else if (w != NULL && w->current != NULL)
		inherit_call(in, w->current);
	else if (w != NULL && w->out != NULL)
		inherit_out(in, w->out);
	if ((o->flags & SPLIT_OUT_DETACHED) == 0)
		return;
	in->parent_id = in->deadline_ns = 0;
	in->trace = NULL;
	in->metadata = NULL;
}

/* The session that the call goes over, with one more call out counted; NULL: there is none. */
static struct session *session_enter(struct split_host *host, const struct inherited *in)
{
	struct session *s = in->session;
	struct worker *w = worker_self;

	if (s == NULL && w != NULL && w->host == host)
		s = w->session;
	if (s != NULL) {
		if (s->host != host)
			return NULL;
		atomic_fetch_add_explicit(&s->outs_opened, 1, memory_order_relaxed);
		return s;
	}
	/* Nothing else keeps it for a thread of the application. */
	pthread_mutex_lock(&host->stats_lock);
	s = host->session;
	if (s != NULL)
		atomic_fetch_add_explicit(&s->outs_opened, 1, memory_order_relaxed);
	pthread_mutex_unlock(&host->stats_lock);
	return s;
}

static void session_leave(struct session *s)
{
	atomic_fetch_add_explicit(&s->outs_closed, 1, memory_order_release);
}

/* ------------------------------------------------------------------ beginning */

static const struct metadata_entry *entry_find(const struct metadata_block *block, const char *name)
{
	size_t len = strlen(name);

	for (uint32_t i = 0; block != NULL && i < block->count; i++) {
		const struct metadata_entry *e = &block->entries[i];

		if (e->name_bytes == len &&
		    memcmp((const void *)(uintptr_t)e->name, name, len) == 0)
			return e;
	}
	return NULL;
}

static bool given(const struct split_out_options *o, const char *name)
{
	for (size_t i = 0; i < o->metadata_n; i++)
		if (strcmp(o->metadata[i].name, name) == 0)
			return true;
	return false;
}

/* The trace context of whom it is made for goes on, kept for those that follow from it too. */
static int trace_add(struct split_call *call, const struct inherited *in,
		     const struct split_out_options *o)
{
	struct out_trace *trace = &call->out->trace;
	int rc = 0;

	for (unsigned i = 0; i < HOST_TRACES; i++) {
		const struct metadata_entry *e = entry_find(in->metadata, trace_names[i]);

		trace->bytes[i] = 0;
		if (e != NULL && e->value_bytes <= HOST_TRACE_BYTES) {
			trace->bytes[i] = (uint16_t)e->value_bytes;
			memcpy(trace->value[i], (const void *)(uintptr_t)e->value, e->value_bytes);
		} else if (in->trace != NULL) {
			trace->bytes[i] = in->trace->bytes[i];
			memcpy(trace->value[i], in->trace->value[i], in->trace->bytes[i]);
		}
		if (rc == 0 && trace->bytes[i] != 0 && !given(o, trace_names[i]))
			rc = split_call_add_initial_metadata(call, trace_names[i], trace->value[i],
							     trace->bytes[i]);
	}
	return rc;
}

static int metadata_fill(struct split_call *call, const struct inherited *in,
			 const struct split_out_options *o)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < o->metadata_n; i++)
		rc = split_call_add_initial_metadata(call, o->metadata[i].name,
						     o->metadata[i].value,
						     o->metadata[i].value_bytes);
	return rc == 0 ? trace_add(call, in, o) : rc;
}

/* The earlier of what was asked for and what is inherited; 0: none. */
static uint64_t deadline_of(const struct split_channel *ch, const struct inherited *in,
			    const struct split_out_options *o)
{
	uint64_t timeout = o->timeout_ns != 0 ? o->timeout_ns
					      : __atomic_load_n(&ch->timeout_ns, __ATOMIC_RELAXED);
	uint64_t now = clock_ns(), at = 0;

	if (timeout != 0)
		at = timeout < UINT64_MAX - now ? now + timeout : UINT64_MAX;
	if (in->deadline_ns != 0 && (at == 0 || in->deadline_ns < at))
		at = in->deadline_ns;
	return at;
}

static void call_init(struct split_call *call, struct method *m, struct session *s,
		      struct worker *home)
{
	uint64_t word = atomic_load_explicit(&call->word, memory_order_relaxed);
	uint32_t gen = (uint32_t)(word >> CALL_GEN_SHIFT) + 1;

	call_reset(call, s, home, m);
	call->streaming = m->kind == SPLIT_CLIENT_STREAM || m->kind == SPLIT_BIDI_STREAM;
	call->is_out = true;
	call->taken_back = false;
	/* One reference: that of what is still to come. */
	atomic_store_explicit(&call->word, (uint64_t)gen << CALL_GEN_SHIFT | 1,
			      memory_order_release);
}

/* A place that all threads share. */
static uint64_t shared_id_get(struct session *s, unsigned d, uint32_t *index_out)
{
	uint64_t id;

	pthread_mutex_lock(&s->outs_lock);
	id = id_get(&s->outs_shared[d], d, index_out);
	pthread_mutex_unlock(&s->outs_lock);
	return id;
}

/* A struct with an id, of this thread's or of those that all share. */
static struct split_call *call_make(struct session *s, struct method *m, const struct inherited *in)
{
	struct worker *self = worker_self != NULL && worker_self->session == s ? worker_self : NULL;
	struct worker *home = self != NULL ? self : in->home;
	struct split_call *call;
	uint64_t id = 0;
	uint32_t index = 0;
	bool shared = self == NULL;
	unsigned d;

	if (home == NULL)
		home = &s->workers[atomic_fetch_add_explicit(&s->outs_turn, 1,
							     memory_order_relaxed) %
				   s->workers_n];
	d = in->session != NULL ? in->daemon_worker : home->h % s->daemon_workers;
	if (self != NULL) {
		if (self->outs_free == NULL)
			self->outs_free = atomic_exchange_explicit(&self->outs_returned, NULL,
								   memory_order_acquire);
		call = struct_get(&self->outs_free, s->host);
		if (call != NULL)
			id = id_get(&self->out_ids[d], d, &index);
		shared = call != NULL && id == 0;
		if (shared)
			id = shared_id_get(s, d, &index);
		if (call != NULL && id == 0) {
			call->next = self->outs_free;
			self->outs_free = call;
		}
	} else {
		pthread_mutex_lock(&s->outs_lock);
		call = struct_get(&s->outs_free, s->host);
		if (call != NULL)
			id = id_get(&s->outs_shared[d], d, &index);
		if (call != NULL && id == 0) {
			call->next = s->outs_free;
			s->outs_free = call;
		}
		pthread_mutex_unlock(&s->outs_lock);
	}
	if (id == 0)
		return NULL;
	call_init(call, m, s, home);
	call->call_id = id;
	call->daemon_worker = (uint16_t)d;
	call->out->call = call;
	call->out->index = index;
	call->out->shared = shared;
	call->out->half_closed = !call->streaming;
	atomic_store_explicit(&call->out->ended, false, memory_order_relaxed);
	atomic_store_explicit(&call->out->id, id, memory_order_relaxed);
	return call;
}

static int error_of(int rc)
{
	if (rc == -SPLIT_E_HOST_LOST || rc == SPLIT_E_LOST)
		return SPLIT_E_LOST;
	if (rc == -SPLIT_E_HOST_ROOM || linearize_map_status(rc) == SPLIT_RESOURCE_EXHAUSTED)
		return SPLIT_E_NOMEM;
	return rc == SPLIT_E_METADATA || rc == SPLIT_E_NOMEM || rc == SPLIT_E_ARGUMENT
		       ? rc
		       : SPLIT_E_SCHEMA;
}

/* Put it into its place and publish it. What was there before is seen by whoever finds it there. */
static int call_publish(struct split_call *call, const ProtobufCMessage *request)
{
	struct session *s = call->session;
	int rc;

	atomic_store(&s->outs_of[call->daemon_worker][call->out->index], call);
	/* The end of the session looks at the places after it has made this false. */
	rc = attachment_alive(s->attachment) ? answer_call(call, request) : -SPLIT_E_HOST_LOST;
	if (rc == 0)
		return 0;
	/* Nothing went out: no status will come, but the session's end may have seen it. */
	if (!out_withdraw(call))
		return 0;
	return error_of(rc);
}

int out_start(struct method *m, const ProtobufCMessage *request,
	      const struct split_out_options *options, const struct split_out_events *events,
	      ProtobufCClosure closure, void *data, struct split_out **out)
{
	struct split_out_options o = SPLIT_OUT_OPTIONS_INIT;
	struct split_host *host = m->channel->host;
	struct inherited in;
	struct split_call *call;
	struct session *s;
	int rc;

	if (options != NULL && options->size < sizeof(options->size))
		return SPLIT_E_ARGUMENT;
	if (options != NULL)
		memcpy(&o, options, options->size < sizeof(o) ? options->size : sizeof(o));
	if ((request != NULL) != (m->kind == SPLIT_UNARY || m->kind == SPLIT_SERVER_STREAM) ||
	    (o.flags & ~(SPLIT_OUT_DETACHED | SPLIT_OUT_WAIT_FOR_READY)) != 0 ||
	    (o.metadata_n != 0 && o.metadata == NULL))
		return SPLIT_E_ARGUMENT;
	inherit(&in, &o);
	s = session_enter(host, &in);
	if (s == NULL)
		return SPLIT_E_LOST;
	call = call_make(s, m, &in);
	if (call == NULL) {
		session_leave(s);
		return SPLIT_E_NOMEM;
	}
	call->compress = o.compress;
	call->out->parent_id = in.parent_id;
	call->out->waits = (o.flags & SPLIT_OUT_WAIT_FOR_READY) != 0 ||
			   __atomic_load_n(&m->channel->wait_for_ready, __ATOMIC_RELAXED);
	call->out->events = *events;
	call->out->data = data;
	call->out->closure = closure;
	call->deadline_ns = deadline_of(m->channel, &in, &o);
	rc = metadata_fill(call, &in, &o);
	if (rc == 0 && out != NULL) {
		atomic_fetch_add_explicit(&call->word, 1, memory_order_relaxed);
		*out = call->out;
	}
	if (rc == 0) {
		rc = call_publish(call, request);
		if (rc != 0 && out != NULL) {
			*out = NULL;
			call_put(call, 1);
		}
	} else {
		atomic_store(&s->outs_of[call->daemon_worker][call->out->index], call);
		(void)out_withdraw(call);
		rc = error_of(rc);
	}
	if (rc == 0) {
		STAT(host, outs);
		return 0;
	}
	atomic_fetch_or_explicit(&call->word, CALL_ANSWERED | CALL_GONE, memory_order_acq_rel);
	call_put(call, 1);
	return rc;
}

int split_out_start(struct split_stub *stub, const ProtobufCMessage *request,
		    const struct split_out_options *options, const struct split_out_events *events,
		    void *data, struct split_out **out)
{
	if (out != NULL)
		*out = NULL;
	if (stub == NULL || events == NULL)
		return SPLIT_E_ARGUMENT;
	return out_start((struct method *)stub, request, options, events, NULL, data, out);
}
