/* The client of one worker: what it is made of, and its turn. */
#include "daemon/client/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/client/client_internal.h"

COUNTER_DEFINE(client, CLIENT_COUNTERS);

#define PICKER_TICK_NS CLOCK_NS_PER_MS
/* Address objects for each place in a list: those that leave linger with their last calls. */
#define TARGETS_EACH 2

void client_channel_config_default(struct client_channel_config *config)
{
	*config = (struct client_channel_config){
		.picker = {.policy = PICKER_ROUND_ROBIN,
			   .node = PICKER_NODE_ANY,
			   .callers_n = 1,
			   .slow_start_percent = 100},
		.failures = 1u << GRPC_UNKNOWN | 1u << GRPC_DEADLINE_EXCEEDED |
			    1u << GRPC_INTERNAL | 1u << GRPC_UNAVAILABLE | 1u << GRPC_DATA_LOSS,
		.connections_max = 4,
		.streams_max = 1000,
		.calls_max = 1024,
		.connect_timeout_ns = 20 * CLOCK_NS_PER_SEC,
		.connect_backoff_ns = CLOCK_NS_PER_SEC,
		.connect_backoff_max_ns = 120 * CLOCK_NS_PER_SEC,
		.idle_timeout_ns = 300 * CLOCK_NS_PER_SEC,
		.keepalive_timeout_ns = 20 * CLOCK_NS_PER_SEC,
		.message_bytes_max = 4u << 20,
		.metadata_bytes_max = 16384,
		.compression = true,
		.retry = {.attempts_max = 1,
			  .backoff_ns = 50 * CLOCK_NS_PER_MS,
			  .backoff_max_ns = CLOCK_NS_PER_SEC,
			  .backoff_percent = 200,
			  .codes = 1u << GRPC_UNAVAILABLE,
			  .tokens_max = 10,
			  .token_ratio_milli = 100,
			  .bytes_max = 256 * 1024,
			  .total_bytes_max = 4u << 20},
	};
}

void client_config_default(struct client_config *config)
{
	*config = (struct client_config){
		.calls_max = 4096,
		.connections_max = 64,
		.addresses_max = 64,
		.memory_bytes = 32u << 20,
		.window_stream = 256 * 1024,
		.window_connection = 4u << 20,
		.tls_wake_fd = -1,
		.user_agent = "grpc-c-splitd/1",
	};
}

/* ---- due --------------------------------------------------------------------------------------
 */

void channel_due(struct channel *ch)
{
	if (list_empty(&ch->due))
		list_add_tail(&ch->c->due_channels, &ch->due);
}

void connection_due(struct client_connection *conn)
{
	if (list_empty(&conn->due))
		list_add_tail(&conn->c->due_connections, &conn->due);
}

uint64_t client_jitter(struct client *c, uint64_t ns)
{
	return ns - ns / 5 + random_below(&c->random, ns / 5 * 2 + 1);
}

static unsigned connections_run(struct client *c)
{
	struct list now;
	struct list *node;
	unsigned n = 0;

	list_init(&now);
	list_splice_tail(&now, &c->due_connections);
	while ((node = list_pop_head(&now)) != NULL) {
		connection_work(list_entry(node, struct client_connection, due));
		n++;
	}
	return n;
}

static unsigned channels_run(struct client *c)
{
	struct list now;
	struct list *node;
	unsigned n = 0;

	list_init(&now);
	list_splice_tail(&now, &c->due_channels);
	while ((node = list_pop_head(&now)) != NULL) {
		channel_dispatch(list_entry(node, struct channel, due));
		n++;
	}
	return n;
}

static void writable_run(struct client *c)
{
	struct list now;
	struct list *node;

	list_init(&now);
	list_splice_tail(&now, &c->writable);
	while ((node = list_pop_head(&now)) != NULL) {
		struct client_call *call = list_entry(node, struct client_call, writable);

		call_enter(call);
		call->events->writable(call->user);
		call_leave(call);
	}
}

static void pickers_tick(struct client *c)
{
	if (c->now_ns - c->ticked_ns < PICKER_TICK_NS)
		return;
	c->ticked_ns = c->now_ns;
	for (unsigned i = 0; i < c->channels_n; i++) {
		struct channel *ch = &c->channels[i];

		picker_tick(&ch->picker, c->now_ns);
		if (ch->waiting_n > 0)
			channel_due(ch);
	}
}

unsigned client_run(struct client *c, uint64_t now_ns)
{
	unsigned n = 0;

	c->now_ns = now_ns;
	pickers_tick(c);
	if (c->tls != NULL)
		n += tls_engine_poll(c->tls, now_ns);
	/* What connections find out is of use to channels, and their calls make connections due. */
	n += connections_run(c);
	n += channels_run(c);
	n += connections_run(c);
	if (unlikely(!list_empty(&c->writable)))
		writable_run(c);
	if (unlikely(!list_empty(&c->inflate_jobs))) {
		inflate_run(c);
		n++;
	}
	return n;
}

bool client_pending(const struct client *c)
{
	return !list_empty(&c->due_connections) || !list_empty(&c->due_channels) ||
	       !list_empty(&c->inflate_jobs) || !list_empty(&c->writable) ||
	       (c->tls != NULL && tls_engine_pending(c->tls));
}

/* ---- creation ---------------------------------------------------------------------------------
 */

static int http2_init(struct client *c)
{
	struct http2_client_config h;

	http2_client_config_default(&h, c->config.connections_max);
	h.streams_total = c->config.calls_max + c->config.connections_max;
	h.stream_user_bytes = sizeof(struct attempt);
	h.window_stream = c->config.window_stream;
	h.window_connection = c->config.window_connection;
	h.header_bytes_max = METADATA_BYTES_MAX; /* each session has its channel's */
	h.headers_max = HEADERS_MAX;
	h.memory_bytes = c->config.memory_bytes;
	c->metadata = calloc(HEADERS_MAX, sizeof(*c->metadata));
	c->decoded = malloc(h.header_bytes_max + 16);
	if (c->metadata == NULL || c->decoded == NULL)
		return -SPLIT_E_BASE_NOMEM;
	return http2_client_engine_create(&h, &attempt_events, &c->http2);
}

static int tls_init(struct client *c)
{
	const struct tls_engine_config t = {
		.sessions_max = c->config.connections_max,
		.handshakes_max = c->config.connections_max,
		.record_bytes_max = c->config.record_bytes_max,
		.helpers = c->config.tls_helpers,
		.index = c->config.tls_index,
		.wake_fd = c->config.tls_wake_fd,
	};

	bool wanted = c->config.channels_max != 0; /* a reload may bring some */

	for (size_t i = 0; i < c->config.channels_n; i++)
		wanted |= c->config.channels[i].tls != NULL;
	return wanted ? tls_engine_create(&t, &connection_tls, &c->tls) : 0;
}

static int pools_init(struct client *c)
{
	uint32_t targets = c->config.addresses_max * TARGETS_EACH * (uint32_t)c->channels_max;
	int err = pool_init(&c->calls, sizeof(struct client_call), c->config.calls_max, NULL);

	if (err == 0)
		err = pool_init(&c->connections, sizeof(struct client_connection),
				c->config.connections_max, NULL);
	if (err == 0)
		err = pool_init(&c->targets, sizeof(struct target), targets > 0 ? targets : 1,
				NULL);
	return err;
}

int client_create(const struct client_config *config, const struct client_transport *transport,
		  struct wheel *wheel, uint64_t now_ns, struct client **out)
{
	struct client *c;
	int err;

	*out = NULL;
	if (config->calls_max == 0 || config->connections_max == 0 || config->addresses_max == 0 ||
	    config->addresses_max > 65536 || config->channels_n > 4096 ||
	    config->channels_max > 4096)
		return -SPLIT_E_BASE_INVALID;
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return -SPLIT_E_BASE_NOMEM;
	c->config = *config;
	c->transport = *transport;
	c->wheel = wheel;
	c->now_ns = now_ns;
	list_init(&c->due_channels);
	list_init(&c->due_connections);
	list_init(&c->writable);
	list_init(&c->inflate_jobs);
	random_seed(&c->random, transport->random(transport->ctx));
	c->user_agent = strdup(config->user_agent);
	c->channels_max = config->channels_max > config->channels_n ? config->channels_max
								    : (unsigned)config->channels_n;
	c->channels = calloc(c->channels_max + 1, sizeof(*c->channels));
	err = c->user_agent == NULL || c->channels == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	if (err == 0)
		err = pools_init(c);
	if (err == 0)
		err = inflater_create(&c->inflater);
	if (err == 0)
		err = http2_init(c);
	if (err == 0)
		err = tls_init(c);
	for (size_t i = 0; i < config->channels_n && err == 0; i++) {
		c->channels_n++;
		err = channel_init(c, (unsigned)i, &config->channels[i]);
	}
	c->config.channels = NULL; /* the caller's */
	c->config.user_agent = NULL;
	if (err != 0) {
		client_destroy(c);
		return err;
	}
	*out = c;
	return 0;
}

void client_destroy(struct client *c)
{
	if (c == NULL)
		return;
	c->closing = c->draining = true;
	for (unsigned i = 0; i < c->channels_n; i++)
		channel_fini(&c->channels[i]);
	tls_engine_destroy(c->tls);
	http2_client_engine_destroy(c->http2);
	inflater_destroy(c->inflater);
	pool_fini(&c->targets);
	pool_fini(&c->connections);
	pool_fini(&c->calls);
	free(c->metadata);
	free(c->decoded);
	free(c->channels);
	free(c->user_agent);
	free(c);
}

void client_drain(struct client *c, uint64_t now_ns)
{
	c->now_ns = now_ns;
	c->draining = true;
	for (unsigned i = 0; i < c->channels_n; i++) {
		list_for_each (pos, &c->channels[i].targets) {
			struct target *t = list_entry(pos, struct target, link);

			list_for_each (p, &t->connections)
				connection_retire(list_entry(p, struct client_connection, link));
			target_update(t);
		}
	}
}

/* ---- what others ask --------------------------------------------------------------------------
 */

int client_channel_find(const struct client *c, const char *name, size_t len)
{
	for (unsigned i = 0; i < c->channels_n; i++) {
		const char *own = c->channels[i].config.name;

		if (strlen(own) == len && memcmp(own, name, len) == 0)
			return (int)i;
	}
	return -SPLIT_E_BASE_INVALID;
}

unsigned client_channels(const struct client *c)
{
	return __atomic_load_n(&c->channels_n, __ATOMIC_ACQUIRE);
}

bool client_channel_used(const struct client *c, unsigned channel)
{
	return !__atomic_load_n(&c->channels[channel].config.unused, __ATOMIC_RELAXED);
}

const struct client_counters *client_channel_counters(const struct client *c, unsigned channel)
{
	return &c->channels[channel].counters;
}

const char *client_channel_layer(const struct client *c, unsigned channel)
{
	return c->channels[channel].layer;
}

const char *client_channel_layer_picker(const struct client *c, unsigned channel)
{
	return c->channels[channel].layer_picker;
}

const struct picker_counters *client_channel_picker(const struct client *c, unsigned channel)
{
	return &c->channels[channel].picker.counters;
}

const struct http2_client_counters *client_http2_counters(const struct client *c)
{
	return http2_client_engine_counters(c->http2);
}

const struct tls_counters *client_tls_counters(const struct client *c)
{
	return c->tls != NULL ? tls_engine_counters(c->tls) : NULL;
}

unsigned client_calls(const struct client *c)
{
	return pool_in_use(&c->calls);
}

void *client_alloc(struct client *c, size_t bytes)
{
	return http2_client_engine_alloc(c->http2, bytes);
}

void client_free(struct client *c, void *p)
{
	http2_client_engine_free(c->http2, p);
}
