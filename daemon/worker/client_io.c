/* The daemon's client on this worker: its byte streams are TCP connections that the worker opens
 * itself, on the port that has a way to the server.
 *
 * Ciphertext or plain bytes go up from mbufs where they were received; what TLS cannot take while
 * its handshake is with a helper is held, and not given back to TCP's window. */
#include "daemon/worker/worker_internal.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

struct client_wire {
	struct worker *w;
	struct worker_port *port;
	struct tcp_conn *tcp;
	struct client_connection *conn; /* NULL: let go, what is queued still goes out */
	struct list link;               /* worker.client_wires */
	struct outgoing out;
	struct rte_mbuf *held, *held_last;
	uint32_t held_bytes;
	bool feeding;
};

static void wire_free(struct client_wire *c)
{
	outgoing_drop(&c->out);
	rte_pktmbuf_free(c->held);
	list_del(&c->link);
	pool_put(&c->w->wire_pool, c);
}

/* ---- in ---------------------------------------------------------------------------------------
 */

/* Give the client what it takes. */
static void held_feed(struct client_wire *c)
{
	size_t consumed = 0;

	if (c->feeding)
		return;
	c->feeding = true;
	while (c->held != NULL) {
		struct rte_mbuf *m = c->held;
		size_t took = client_stream_recv(c->conn, rte_pktmbuf_mtod(m, const uint8_t *),
						 m->data_len, c->w->now_ns);

		consumed += took;
		if (took < m->data_len) {
			m->data_off += (uint16_t)took;
			m->data_len -= (uint16_t)took;
			break;
		}
		c->held = m->next;
		rte_pktmbuf_free_seg(m);
	}
	c->feeding = false;
	c->held_bytes -= (uint32_t)consumed;
	tcp_consumed(c->tcp, consumed);
}

static void on_connected(void *ctx, struct tcp_conn *tcp)
{
	struct client_wire *c = ctx;

	c->out.segment = tcp_info(tcp).mss;
	client_stream_connected(c->conn, c->w->now_ns);
}

static void on_data(void *ctx, struct rte_mbuf *chain)
{
	struct client_wire *c = ctx;

	c->held_bytes += chain->pkt_len;
	if (c->held == NULL)
		c->held = chain;
	else
		c->held_last->next = chain;
	c->held_last = rte_pktmbuf_lastseg(chain);
	held_feed(c);
}

static void on_eof(void *ctx)
{
	struct client_wire *c = ctx;

	client_stream_eof(c->conn, c->w->now_ns);
}

static void on_writable(void *ctx)
{
	struct client_wire *c = ctx;

	client_stream_writable(c->conn, c->w->now_ns);
}

static void on_closed(void *ctx, int reason)
{
	struct client_wire *c = ctx;
	struct client_connection *conn = c->conn;
	uint64_t now_ns = c->w->now_ns;

	wire_free(c);
	client_stream_ended(conn, reason, now_ns);
}

static const struct tcp_events wire_events = {
	.connected = on_connected,
	.data = on_data,
	.eof = on_eof,
	.writable = on_writable,
	.closed = on_closed,
};

/* ---- out --------------------------------------------------------------------------------------
 */

static int io_connect(void *ctx, struct client_connection *conn, const struct client_address *to,
		      void **stream_out)
{
	struct worker *w = ctx;
	struct net_addr remote = {.family = to->family, .port = to->port};
	struct client_wire *c = pool_get_zero(&w->wire_pool);
	int err = -SPLIT_E_NET_NO_ROUTE;

	if (c == NULL)
		return -SPLIT_E_BASE_LIMIT;
	memcpy(remote.bytes, to->bytes, sizeof(remote.bytes));
	c->w = w;
	c->conn = conn;
	list_init(&c->link);
	/* The first port that has a way there. */
	for (unsigned i = 0; i < w->ports_n && err != 0; i++) {
		c->port = &w->ports[i];
		err = tcp_connect(c->port->net, NULL, &remote, &wire_events, c, &c->tcp);
	}
	if (err != 0) {
		pool_put(&w->wire_pool, c);
		return err;
	}
	list_add_tail(&w->client_wires, &c->link);
	*stream_out = c;
	return 0;
}

static int io_reserve(void *stream, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct client_wire *c = stream;
	int r;

	(void)wanted;
	if (c->out.bytes == 0)
		c->out.room = (uint32_t)RTE_MIN(tcp_send_room(c->tcp), (size_t)UINT32_MAX);
	r = outgoing_lend(&c->out, c->port->pool, buf_out, room_out);
	if (r == 0)
		return 0;
	if (r != SPLIT_AGAIN)
		counter_inc(&c->w->counters.out_no_mbuf);
	tcp_want_writable(c->tcp);
	return SPLIT_AGAIN;
}

static void io_commit(void *stream, size_t bytes)
{
	struct client_wire *c = stream;

	outgoing_commit(&c->out, bytes);
}

static void io_flush(void *stream)
{
	struct client_wire *c = stream;

	/* What stays the next flush has. */
	(void)outgoing_push(&c->out, c->tcp);
}

static void io_resume(void *stream)
{
	held_feed(stream);
}

static void io_close(void *stream, bool abort)
{
	struct client_wire *c = stream;

	c->conn = NULL;
	if (abort)
		tcp_abort(c->tcp);
	else
		tcp_close(c->tcp);
	wire_free(c);
}

static void io_failed(void *ctx, unsigned channel, const struct client_address *to, const char *why,
		      bool first)
{
	struct worker *w = ctx;
	char text[INET6_ADDRSTRLEN] = "?";

	atomic_fetch_or_explicit(&w->channels_failing, UINT64_C(1) << channel,
				 memory_order_relaxed);
	if (!first)
		return;
	(void)inet_ntop(to->family == 4 ? AF_INET : AF_INET6, to->bytes, text, sizeof(text));
	log_ring_msg(&w->log, w->now_ns, LOG_LEVEL_WARN, "channel %s: server %s port %u: %s",
		     w->cfg->channels[channel].name, text, to->port, why);
}

uint64_t worker_channels_failing(struct worker *worker)
{
	return atomic_exchange_explicit(&worker->channels_failing, 0, memory_order_relaxed);
}

_Static_assert(CONFIG_CHANNELS_MAX <= 64, "a bit for each");

static uint64_t io_random(void *ctx)
{
	struct worker *w = ctx;

	w->random_count++;
	return siphash24(&w->random_key, &w->random_count, sizeof(w->random_count));
}

/* ---- set up -----------------------------------------------------------------------------------
 */

static const struct client_transport transport = {
	.connect = io_connect,
	.reserve = io_reserve,
	.commit = io_commit,
	.flush = io_flush,
	.resume = io_resume,
	.close = io_close,
	.failed = io_failed,
	.random = io_random,
};

static const char *given(const char *text)
{
	return text[0] != '\0' ? text : NULL;
}

static void retry_fill(const struct config_retry *r, struct client_retry_config *out)
{
	*out = (struct client_retry_config){
		.attempts_max = r->attempts_max,
		.backoff_ns = r->backoff_ns,
		.backoff_max_ns = r->backoff_max_ns,
		.backoff_percent = r->backoff_percent,
		.codes = r->statuses,
		.tokens_max = r->tokens_max,
		.token_ratio_milli = r->token_ratio_milli,
		.bytes_max = (uint32_t)r->bytes_max,
		.total_bytes_max = (uint32_t)r->total_bytes_max,
	};
}

/* Channel `index` of the config. A local one is there too, so that both count alike, and has
 * nothing. */
static void channel_fill(struct worker *w, uint32_t index, struct client_channel_config *out,
			 struct client_address addresses[CONFIG_CHANNEL_ADDRESSES_MAX])
{
	const struct config_channel *ch = &w->cfg->channels[index];
	const struct config_balance *b = &ch->balance;

	client_channel_config_default(out);
	out->name = ch->name;
	out->authority = ch->name;
	out->calls_max = ch->calls_max;
	out->unused = ch->gone || config_channel_is_local(ch);
	if (out->unused)
		return;
	out->target = ch->target;
	out->authority = ch->authority;
	for (uint32_t i = 0; i < ch->addresses_n; i++) {
		addresses[i] = (struct client_address){
			.family = ch->addresses[i].address.family,
			.port = (uint16_t)ch->addresses[i].port,
			.weight = i < b->weights_n ? b->weights[i] : 1,
		};
		memcpy(addresses[i].bytes, ch->addresses[i].address.bytes, 16);
	}
	out->addresses = addresses;
	out->addresses_n = ch->addresses_n;
	choose_picker_config(w, b, &out->picker);
	out->picker.caller = w->params.index;
	out->picker.callers_n = w->params.workers_n;
	out->failures = b->ejection.statuses;
	if (b->hash.by == CONFIG_HASH_METADATA)
		out->hash_key = b->hash.key;
	if (b->sticky.by == CONFIG_STICKY_METADATA)
		out->sticky_key = b->sticky.key;
	if (w->params.channel_tls != NULL)
		out->tls = w->params.channel_tls[index];
	out->tls_name = given(ch->tls.name);
	out->connections_max = ch->connections_max;
	out->streams_max = ch->streams_max;
	out->connect_timeout_ns = ch->connect_timeout_ns;
	out->connect_backoff_ns = ch->connect_backoff_ns;
	out->connect_backoff_max_ns = ch->connect_backoff_max_ns;
	out->idle_timeout_ns = ch->idle_timeout_ns;
	out->keepalive_ns = ch->keepalive_ns;
	out->keepalive_timeout_ns = ch->keepalive_timeout_ns;
	out->keepalive_without_calls = ch->keepalive_without_calls;
	out->message_bytes_max = (uint32_t)ch->message_bytes_max;
	out->metadata_bytes_max = (uint32_t)ch->metadata_bytes_max;
	out->compression = ch->compression;
	out->health_service = ch->health ? ch->health_service : NULL;
	retry_fill(&ch->retry, &out->retry);
}

int client_io_setup(struct worker *w)
{
	const struct config_client *c = &w->cfg->client;
	struct client_address(*addresses)[CONFIG_CHANNEL_ADDRESSES_MAX];
	struct client_channel_config *channels;
	struct client_config cfg;
	bool wanted = false;
	int err;

	for (uint32_t i = 0; i < w->cfg->channels_n; i++)
		wanted |= !config_channel_is_local(&w->cfg->channels[i]);
	if (!wanted)
		return 0;
	channels = calloc(w->cfg->channels_n, sizeof(*channels));
	addresses = calloc(w->cfg->channels_n, sizeof(*addresses));
	client_config_default(&cfg);
	cfg.channels = channels;
	cfg.channels_n = w->cfg->channels_n;
	cfg.channels_max = CONFIG_CHANNELS_MAX;
	cfg.calls_max = c->calls_max;
	cfg.connections_max = c->connections_max;
	cfg.addresses_max = CONFIG_CHANNEL_ADDRESSES_MAX;
	cfg.memory_bytes = c->memory;
	cfg.window_stream = (uint32_t)c->window_stream;
	cfg.window_connection = (uint32_t)c->window_connection;
	cfg.record_bytes_max = (uint32_t)w->cfg->tls.record_bytes_max;
	err = channels == NULL || addresses == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	if (err == 0)
		err = pool_init(&w->wire_pool, sizeof(struct client_wire), c->connections_max,
				NULL);
	for (uint32_t i = 0; i < w->cfg->channels_n && err == 0; i++)
		channel_fill(w, i, &channels[i], addresses[i]);
	if (err == 0) {
		struct client_transport io = transport;

		io.ctx = w;
		err = client_create(&cfg, &io, &w->wheel, w->now_ns, &w->client);
	}
	free(channels);
	free(addresses);
	return err;
}

void client_io_configure(struct worker *w)
{
	struct client_address addresses[CONFIG_CHANNEL_ADDRESSES_MAX];
	struct client_channel_config channel;

	for (uint32_t i = 0; w->client != NULL && i < w->cfg->channels_n; i++) {
		int err;

		channel_fill(w, i, &channel, addresses);
		err = client_channel_configure(w->client, i, &channel, w->now_ns);
		if (err != 0)
			log_ring_msg(&w->log, w->now_ns, LOG_LEVEL_ERROR,
				     "channel %s stays as it was: %s", channel.name,
				     error_text(err));
	}
}

void client_io_fini(struct worker *w)
{
	client_destroy(w->client);
	w->client = NULL;
	pool_fini(&w->wire_pool);
}

void client_addresses_set(struct worker *w, uint32_t channel, struct worker_addresses *list)
{
	struct client_address addresses[CONFIG_CHANNEL_ADDRESSES_MAX];
	uint32_t n = RTE_MIN(list->n, (uint32_t)CONFIG_CHANNEL_ADDRESSES_MAX);

	for (uint32_t i = 0; i < n; i++) {
		addresses[i] = (struct client_address){
			.family = list->at[i].family, .port = list->at[i].port, .weight = 1};
		memcpy(addresses[i].bytes, list->at[i].bytes, 16);
	}
	atomic_fetch_sub_explicit(&list->readers, 1, memory_order_release);
	client_channel_addresses(w->client, channel, addresses, n, w->now_ns);
}
