/* A worker from the configuration: stacks, servers, pools; all memory of the data path. */
#include "daemon/worker/worker_internal.h"

#include <stdlib.h>
#include <string.h>

/* A running lane whose oldest slot has waited this long is passed over for a parked one: waking
 * costs about as much. */
#define LANE_PATIENCE_NS (50 * CLOCK_NS_PER_US)

/* Decodes and encodes past their quantum, at most; others wait their turn. 64 × 18 KiB. */
#define JOBS_MAX 64u

/* Encoded answers: at least 64 MiB in large pages, and room for eight of the largest. */
#define ENCODE_BYTES_MIN   (64ull << 20)
#define ENCODE_ANSWERS_MIN 8u
#define PAGES_SMALL        4096u

static int key_make(struct siphash_key *key_out)
{
	uint8_t bytes[16];
	int err = random_bytes(bytes, sizeof(bytes));

	if (err == 0)
		*key_out = siphash_key_from(bytes);
	return err;
}

/* ---- layers --------------------------------------------------------------------------------- */

static struct net_addr addr_of(const struct config_address *a, uint16_t port)
{
	struct net_addr addr = {.family = a->family, .port = port};

	memcpy(addr.bytes, a->bytes, sizeof(addr.bytes));
	return addr;
}

_Static_assert((int)CONFIG_CONGESTION_RENO == (int)TCP_CONGESTION_RENO &&
		       (int)CONFIG_CONGESTION_DCTCP == (int)TCP_CONGESTION_DCTCP,
	       "congestion is passed on as it is");

static void tcp_config_fill(const struct config_tcp *c, struct tcp_config *t)
{
	t->connections_max = c->connections_max;
	t->backlog_max = c->backlog;
	t->listeners_max = CONFIG_LISTENERS_MAX;
	t->time_wait_max = c->time_wait_max;
	t->receive_buffer = (uint32_t)c->receive_buffer;
	t->send_buffer = (uint32_t)c->send_buffer;
	t->ooo_ranges_max = c->ooo_ranges_max;
	t->ooo_mbufs_max = c->ooo_mbufs_max;
	t->copy_bytes_max = (uint32_t)c->copy_bytes_max;
	t->initial_window = c->initial_window;
	t->syn_retries = c->syn_retries;
	t->keepalive_probes = c->keepalive_probes;
	t->time_wait_ns = c->time_wait_ns;
	t->half_open_ns = c->half_open_timeout_ns;
	t->fin_wait_2_ns = c->fin_wait_2_timeout_ns;
	t->orphan_ns = c->orphan_timeout_ns;
	t->user_timeout_ns = c->user_timeout_ns;
	t->keepalive_idle_ns = c->keepalive_idle_ns;
	t->keepalive_interval_ns = c->keepalive_interval_ns;
	t->rto_min_ns = c->rto_min_ns;
	t->rto_max_ns = c->rto_max_ns;
	t->rto_initial_ns = c->rto_initial_ns;
	t->delayed_ack_ns = c->delayed_ack_ns;
	t->pacing_rtt_min_ns = c->pacing_rtt_min_ns;
	t->nagle = c->nagle;
	t->timestamps = c->timestamps;
	t->window_scaling = c->window_scaling;
	t->sack = c->sack;
	t->congestion = (uint8_t)c->congestion; /* the same values */
	t->ecn = c->ecn;
	t->syn_cookies = c->syn_cookies;
	t->source_half_open_max = c->source_half_open_max;
	t->source_connections_max = c->source_connections_max;
	t->source_prefix_ipv4 = (uint8_t)c->source_prefix_ipv4;
	t->source_prefix_ipv6 = (uint8_t)c->source_prefix_ipv6;
}

static uint32_t net_flags(const struct worker *w, const struct port_info *info)
{
	uint32_t flags = 0;

	if (info->flags & PORT_RX_NO_CKSUM)
		flags |= NET_RX_CSUM_TRUST;
	if (info->flags & PORT_TX_IP_CKSUM)
		flags |= NET_TX_CSUM_IPV4;
	if ((info->flags & PORT_TX_TCP_CKSUM) && (info->flags & PORT_TX_UDP_CKSUM))
		flags |= NET_TX_CSUM_L4;
	if (info->flags & PORT_TX_TSO)
		flags |= NET_TX_TSO;
	if (w->params.index == 0)
		flags |= NET_PRIMARY;
	return flags;
}

static uint16_t net_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct worker_port *p = ctx;
	enum worker_stage left = stage_enter(p->w, WORKER_STAGE_port);
	uint16_t sent = 0;

	while (sent < n) {
		uint16_t burst = RTE_MIN((uint16_t)(n - sent), (uint16_t)PORT_BURST_MAX);
		uint16_t took = port_tx_burst(p->queue, pkts + sent, burst);

		sent += took;
		if (took < burst)
			break;
	}
	stage_enter(p->w, left);
	return sent;
}

static uint64_t net_random(void *ctx)
{
	struct worker *w = ((struct worker_port *)ctx)->w;

	/* A keyed PRF of a counter: unpredictable, and no system call. */
	w->random_count++;
	return siphash24(&w->random_key, &w->random_count, sizeof(w->random_count));
}

/* Where workers share a port: do the answers to what is opened from `local` come here? */
static bool net_reached(void *ctx, const struct net_addr *local, const struct net_addr *remote)
{
	const struct worker_port *p = ctx;
	struct port_flow flow = {.ipv6 = local->family == NET_FAMILY_IPV6,
				 .src_port = remote->port,
				 .dst_port = local->port};

	memcpy(flow.src, remote->bytes, sizeof(flow.src));
	memcpy(flow.dst, local->bytes, sizeof(flow.dst));
	return port_queue_gets(p->queue, &flow, net_steer_hash(local, remote));
}

/* Where the device takes no chains each would be copied together in the end: then TCP had better
 * copy at once, as much as a segment holds. */
static void copy_bytes_fill(const struct worker_port *p, const struct port_info *info,
			    struct net_config *net)
{
	uint32_t room = rte_pktmbuf_data_room_size(p->pool);
	uint32_t used = 2 * RTE_PKTMBUF_HEADROOM; /* a frame's headers take less than one */

	if ((info->flags & PORT_TX_MULTI_SEGS) != 0 || room <= used)
		return;
	net->tcp.copy_bytes_max =
		RTE_MAX(net->tcp.copy_bytes_max, RTE_MIN(room - used, (uint32_t)info->mtu));
}

static int port_setup(struct worker *w, unsigned index)
{
	const struct config_port *cfg = &w->cfg->ports[index];
	struct worker_port *p = &w->ports[index];
	const struct net_ops ops = {
		.tx = net_tx, .random = net_random, .ctx = p, .reached = net_reached};
	struct net_config net;
	struct port_info info;
	uint32_t ooo_max;

	p->w = w;
	p->index = index;
	p->queue = port_queue_of(w->params.ports, index, w->params.index);
	p->pool = port_queue_pool(p->queue);
	port_info_get(w->params.ports, index, &info);
	net_config_default(&net);
	net.mac = info.mac;
	net.mtu = info.mtu;
	net.flags = net_flags(w, &info);
	net.pool = p->pool;
	for (uint32_t i = 0; i < cfg->addresses_n && i < NET_ADDRESSES_MAX; i++) {
		net.addresses[i].addr = addr_of(&cfg->addresses[i], 0);
		net.addresses[i].prefix_len = cfg->addresses[i].prefix;
		net.addresses_n++;
	}
	net.gateway = addr_of(&cfg->gateway, 0);
	net.gateway6 = addr_of(&cfg->gateway_ipv6, 0);
	net.vlan = (uint16_t)cfg->vlan;
	net.slaac = cfg->slaac;
	net.dad_transmits = (uint8_t)w->cfg->ip.dad_transmits;
	net.reassembly_max = w->cfg->ip.reassembly_max;
	net.reassembly_timeout_ns = w->cfg->ip.reassembly_timeout_ns;
	net.path_mtu_discovery = w->cfg->ip.path_mtu_discovery;
	net.arp_entries_max = w->cfg->ip.arp_entries_max;
	net.arp_pending_max = w->cfg->ip.arp_pending_max;
	net.arp_reachable_ns = w->cfg->ip.arp_reachable_ns;
	net.icmp_per_second = w->cfg->ip.icmp_per_second;
	tcp_config_fill(&w->cfg->tcp, &net.tcp);
	/* All workers of a port may hold frames of one receive pool: a quarter of it together. */
	ooo_max = RTE_MAX(cfg->mbufs / (4 * w->params.workers_n), 1u);
	net.tcp.ooo_mbufs_max = RTE_MIN(net.tcp.ooo_mbufs_max, ooo_max);
	/* A quarter of the pool is for headers, and for what is on its way to the device. */
	net.tcp.send_mbufs_max = cfg->mbufs / 4 * 3;
	/* A worker that may sleep does not stay awake for this. */
	if ((info.flags & PORT_TX_SYSCALL) != 0 && w->cfg->idle.mode == CONFIG_IDLE_POLL)
		net.tx_hold_ns = cfg->tx_hold_ns;
	copy_bytes_fill(p, &info, &net);
	return net_stack_create(&net, &ops, w->now_ns, &p->net);
}

/* Listeners on an address of this port, or on every address. */
static bool listens_here(const struct config_port *port, const struct config_listener *l)
{
	static const uint8_t any[16];

	if (memcmp(l->address.bytes, any, sizeof(any)) == 0)
		return true;
	for (uint32_t i = 0; i < port->addresses_n; i++) {
		if (port->addresses[i].family == l->address.family &&
		    memcmp(port->addresses[i].bytes, l->address.bytes, 16) == 0)
			return true;
	}
	return false;
}

static int listeners_setup(struct worker *w, struct worker_port *p)
{
	size_t bytes = (w->cfg->listeners_n + 1) * sizeof(*p->listener_ctx);

	p->listener_ctx = aligned_alloc(BITS_CACHE_LINE, bytes);
	if (p->listener_ctx == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(p->listener_ctx, 0, bytes);
	for (uint32_t i = 0; i < w->cfg->listeners_n; i++) {
		const struct config_listener *l = &w->cfg->listeners[i];
		struct net_addr local = addr_of(&l->address, (uint16_t)l->port);
		int err;

		if (!listens_here(&w->cfg->ports[p->index], l))
			continue;
		p->listener_ctx[i].port = p;
		p->listener_ctx[i].config = l;
		snprintf(p->listener_ctx[i].layer, sizeof(p->listener_ctx[i].layer), "listener_%s",
			 l->name);
		if (w->tls != NULL && w->params.tls_contexts[i] != NULL)
			p->listener_ctx[i].tls = tls_context_get(w->params.tls_contexts[i]);
		err = tcp_listen(p->net, &local, &connection_tcp_events, &p->listener_ctx[i],
				 &p->listeners[i]);
		if (err != 0)
			return err;
		tcp_listener_limit(p->listeners[i], l->backlog, l->connections_max,
				   &p->listener_ctx[i].counters);
	}
	return 0;
}

_Static_assert((int)CONFIG_COMPRESS_ALWAYS == (int)GRPC_COMPRESS_ALWAYS &&
		       (int)CONFIG_COMPRESS_NEVER == (int)GRPC_COMPRESS_NEVER,
	       "config and grpc name them alike");

static void budget_fill(const struct config_budget *c, struct http2_budget *b)
{
	b->burst = c->burst;
	b->per_second = c->per_second;
}

static void grpc_config_fill(const struct config *config, struct grpc_config *out)
{
	const struct config_http2 *h = &config->http2;
	const struct config_grpc *g = &config->grpc;
	struct grpc_config cfg;

	grpc_config_default(&cfg, config->tcp.connections_max);
	cfg.calls_max = g->calls_max;
	cfg.message_bytes_max = (uint32_t)g->message_bytes_max;
	cfg.metadata_bytes_max = (uint32_t)g->metadata_bytes_max;
	cfg.metadata_max = g->metadata_entries_max;
	cfg.send_queue_bytes = (uint32_t)g->send_queue_bytes_max;
	cfg.timeout_max_ns = g->deadline_max_ns;
	cfg.compress = g->compress;
	cfg.compress_level = g->compress_level;
	cfg.compress_bytes_min = (uint32_t)g->compress_bytes_min;
	cfg.compress_quantum = (uint32_t)g->compress_quantum;
	cfg.compress_memory = g->compress_memory;
	cfg.upload_timeout_ns = g->upload_timeout_ns;
	cfg.upload_rate_min = g->upload_rate_min;
	cfg.http2.streams_max = h->streams_max;
	cfg.http2.streams_total = h->streams_total_max;
	cfg.http2.window_stream = (uint32_t)h->window_stream;
	cfg.http2.window_connection = (uint32_t)h->window_connection;
	cfg.http2.frame_bytes_max = (uint32_t)h->frame_bytes_max;
	cfg.http2.header_bytes_max = (uint32_t)h->header_bytes_max;
	cfg.http2.headers_max = h->headers_max;
	cfg.http2.header_table_bytes = (uint32_t)h->header_table_bytes;
	cfg.http2.memory_bytes = h->memory;
	cfg.http2.session_bytes_max = h->session_bytes_max;
	cfg.idle_timeout_ns = h->idle_timeout_ns;
	cfg.age_max_ns = h->age_max_ns;
	cfg.age_grace_ns = h->age_grace_ns;
	cfg.keepalive_ns = h->keepalive_ns;
	cfg.keepalive_timeout_ns = h->keepalive_timeout_ns;
	cfg.http2.window_stream_max = (uint32_t)h->window_stream_max;
	cfg.http2.window_connection_max = (uint32_t)h->window_connection_max;
	cfg.http2.ping_interval_min_ns = h->ping_interval_min_ns;
	cfg.http2.ping_strikes_max = h->ping_strikes_max;
	cfg.http2.pings_without_streams = h->pings_without_streams;
	cfg.http2.frame_timeout_ns = h->frame_timeout_ns;
	budget_fill(&h->resets, &cfg.http2.resets);
	budget_fill(&h->pings, &cfg.http2.pings);
	budget_fill(&h->settings, &cfg.http2.settings);
	budget_fill(&h->empty, &cfg.http2.empty);
	budget_fill(&h->windows, &cfg.http2.windows);
	*out = cfg;
}

static int grpc_setup(struct worker *w)
{
	struct grpc_config cfg;

	grpc_config_fill(w->cfg, &cfg);
	return grpc_server_create(&cfg, &call_backend, w, &w->wheel, &w->grpc);
}

void grpc_configure(struct worker *w)
{
	struct grpc_config cfg;

	grpc_config_fill(w->cfg, &cfg);
	grpc_server_configure(w->grpc, &cfg);
}

static int tls_setup(struct worker *w)
{
	const struct config_tls *t = &w->cfg->tls;
	const struct tls_engine_config cfg = {
		.sessions_max = w->cfg->tcp.connections_max,
		.handshakes_max = RTE_MIN(t->handshakes_max, w->cfg->tcp.connections_max),
		.handshakes_per_second = t->handshakes_per_second,
		.record_bytes_max = (uint32_t)t->record_bytes_max,
		.helpers = w->params.tls_helpers,
		.index = w->params.index,
		.wake_fd = w->params.wake_fd,
	};
	bool wanted = false;

	for (uint32_t i = 0; i < w->cfg->listeners_n && w->params.tls_contexts != NULL; i++)
		wanted |= w->params.tls_contexts[i] != NULL;
	return wanted ? tls_engine_create(&cfg, &connection_tls_events, &w->tls) : 0;
}

void readers_period_set(struct worker *w)
{
	w->readers_period_ns =
		RTE_MIN(RTE_MIN(w->cfg->grpc.reader_timeout_ns / 4, w->cfg->grpc.upload_timeout_ns),
			w->cfg->http2.frame_timeout_ns) /
		4;
}

/* ---- balance -------------------------------------------------------------------------------- */

static void call_dropped(void *ctx, void *call, int cause)
{
	(void)ctx;
	call_fail_code(call, cause);
}

/* Connections that have calls queued at once, by endpoint and service. */
#define FLOWS_MAX 4096

static struct balance_service_config service_config(const struct worker *w,
						    const struct config_service *s)
{
	struct balance_service_config out = {
		.name = s->name,
		.queue_max = s->limits.queue_max,
		.calls_max = s->limits.calls_max,
		.queue_timeout_ns = s->limits.queue_timeout_ns,
		.placed_here = config_service_has_worker(s, w->params.index),
	};

	choose_config(w, s, &out.picker);
	return out;
}

void services_configure(struct worker *w)
{
	for (uint32_t i = 0; i < w->cfg->services_n; i++) {
		const struct config_service *s = &w->cfg->services[i];
		const struct balance_service_config b = service_config(w, s);

		/* There is room for as many as a configuration can have. */
		if (balance_service_set(w->balance, i, s->gone ? NULL : &b) != 0)
			worker_log_msg(w, LOG_LEVEL_ERROR, "no room for service \"%s\"", s->name);
	}
}

static int balance_setup(struct worker *w)
{
	const struct config *cfg = w->cfg;
	struct balance_service_config *services;
	struct balance_config b = {
		.services_n = cfg->services_n,
		.services_max = CONFIG_SERVICES_MAX,
		.endpoints_max = w->endpoints_max + 1,
		.routes_max = w->routes_max,
		.flows_max = FLOWS_MAX,
		.lane_patience_ns = LANE_PATIENCE_NS,
		.ctx = w,
		.dropped = call_dropped,
	};
	int err;

	services = calloc(cfg->services_n + 1, sizeof(*services));
	if (services == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (uint32_t i = 0; i < cfg->services_n; i++)
		services[i] = service_config(w, &cfg->services[i]);
	b.services = services;
	err = key_make(&b.hash_key);
	if (err == 0)
		err = balance_create(&b, &w->balance);
	free(services);
	return err;
}

/* ---- pools ---------------------------------------------------------------------------------- */

/* Calls out at once, of all channels, those that a reload brings too. */
#define OUTS_MIN 64
static uint32_t outs_max(const struct config *cfg)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < cfg->channels_n; i++)
		n += cfg->channels[i].calls_max;
	return RTE_MAX(n, (uint32_t)OUTS_MIN);
}

/* Each call has its first window of messages and a status; what streams have beyond that is counted
 * (windows_grown). So the pool is never empty, whatever hosts say. */
static uint32_t replies_max(struct worker *w)
{
	uint32_t calls = w->cfg->grpc.calls_max + 2 * w->outs_max;

	w->windows_grown_max = RTE_MAX(calls, (uint32_t)SHEPHERD_STREAM_WINDOW_MAX);
	return calls * (SHEPHERD_STREAM_WINDOW + 1) + w->windows_grown_max;
}

static int pools_setup(struct worker *w)
{
	const struct config *cfg = w->cfg;
	/* A call may outlive its client by the time it takes to tell the host. A call out is two,
	 * its callee and itself. */
	uint32_t outs = outs_max(cfg);
	uint32_t calls = cfg->grpc.calls_max * 2 + outs * 3;
	uint64_t answer = align_up(cfg->grpc.send_message_bytes_max, PAGE_LARGE_BYTES);
	uint64_t encode = RTE_MAX(ENCODE_BYTES_MIN, answer * ENCODE_ANSWERS_MIN);
	int err;

	w->outs_max = outs;
	w->conn_pages_max = encode / 4;
	w->pages_spare = encode / 4;
	w->channel_calls = calloc(CONFIG_CHANNELS_MAX, sizeof(*w->channel_calls));
	if (w->channel_calls == NULL)
		return -SPLIT_E_BASE_NOMEM;
	err = pool_init(&w->connection_pool, sizeof(struct connection), cfg->tcp.connections_max,
			NULL);
	if (err == 0)
		err = pool_init(&w->call_pool, sizeof(struct call), calls, NULL);
	if (err == 0)
		err = pool_init(&w->reply_pool, sizeof(struct reply), replies_max(w), NULL);
	if (err == 0)
		err = pool_init(&w->share_pool, sizeof(struct room_share), calls, NULL);
	if (err == 0)
		err = pool_init(&w->decode_pool, sizeof(struct decode_job), JOBS_MAX, NULL);
	if (err == 0)
		err = pool_init(&w->encode_pool, sizeof(struct encode_job), JOBS_MAX, NULL);
	if (err == 0)
		err = pool_init(&w->page_pool, PAGE_BYTES, PAGES_SMALL, NULL);
	if (err == 0)
		err = pool_init(&w->large_pool, PAGE_LARGE_BYTES,
				(uint32_t)(encode / PAGE_LARGE_BYTES), NULL);
	return err;
}

static void pools_fini(struct worker *w)
{
	struct pool *pools[] = {&w->connection_pool, &w->call_pool,   &w->reply_pool,
				&w->share_pool,      &w->decode_pool, &w->encode_pool,
				&w->page_pool,       &w->large_pool};

	for (size_t i = 0; i < ARRAY_LEN(pools); i++)
		pool_fini(pools[i]);
	free(w->channel_calls);
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* How often stalled lanes and calls that wait too long are looked for. */
#define TICK_NS (5 * CLOCK_NS_PER_MS)
/* The same while there is no call and has been none for TICK_FAST_NS: an idle worker sleeps. */
#define TICK_IDLE_NS (100 * CLOCK_NS_PER_MS)
#define TICK_FAST_NS (50 * CLOCK_NS_PER_MS)

static void on_tick(struct wheel_timer *timer, uint64_t now_ns)
{
	struct worker *w = container_of(timer, struct worker, tick);

	list_for_each (pos, &w->endpoints)
		attached_scale(list_entry(pos, struct attached, link));
	balance_tick(w->balance, now_ns);
	list_for_each (pos, &w->endpoints)
		attached_tell(list_entry(pos, struct attached, link));
	own_services_look(w);
	if (!list_empty(&w->host_wait))
		host_wait_run(w);
	if (pool_in_use(&w->call_pool) != 0 || !list_empty(&w->host_wait))
		w->call_ns = now_ns;
	w->tick_slow = now_ns - w->call_ns > TICK_FAST_NS;
	wheel_arm(&w->wheel, &w->tick, now_ns + (w->tick_slow ? TICK_IDLE_NS : TICK_NS));
}

void worker_tick_soon(struct worker *w)
{
	if (!w->tick_slow)
		return;
	w->tick_slow = false;
	w->call_ns = w->now_ns;
	wheel_arm(&w->wheel, &w->tick, w->now_ns + TICK_NS);
}

static void on_readers(struct wheel_timer *timer, uint64_t now_ns)
{
	struct worker *w = container_of(timer, struct worker, readers);

	readers_check(w);
	nested_check(w);
	connections_check(w);
	list_for_each (pos, &w->endpoints)
		uploads_check(list_entry(pos, struct attached, link));
	wheel_arm(&w->wheel, &w->readers, now_ns + w->readers_period_ns);
}

static bool steer(const struct rte_mbuf *pkt, uint32_t *hash_out)
{
	return net_steer(pkt, hash_out) == NET_STEER_FLOW;
}

int worker_setup(struct worker *w)
{
	int err;

	wheel_init(&w->wheel, w->now_ns);
	wheel_timer_init(&w->tick, on_tick);
	wheel_timer_init(&w->readers, on_readers);
	err = key_make(&w->random_key);
	if (err == 0)
		err = rings_create(w);
	if (err == 0)
		err = balance_setup(w);
	if (err == 0)
		err = refused_init(w);
	if (err == 0)
		err = pools_setup(w);
	if (err == 0)
		err = grpc_setup(w);
	if (err == 0)
		err = own_services_setup(w);
	if (err == 0)
		err = tls_setup(w);
	for (uint32_t i = 0; i < w->cfg->ports_n && err == 0; i++) {
		w->ports_n++;
		err = port_setup(w, i);
		if (err == 0)
			err = listeners_setup(w, &w->ports[i]);
	}
	if (err == 0)
		err = client_io_setup(w);
	if (err == 0)
		err = idle_init(w);
	if (err != 0)
		return err;
	if (w->params.workers_n > 1)
		port_set_steer(w->params.ports, steer);
	wheel_arm(&w->wheel, &w->tick, w->now_ns + TICK_NS);
	readers_period_set(w);
	wheel_arm(&w->wheel, &w->readers, w->now_ns + w->readers_period_ns);
	return 0;
}

void worker_teardown(struct worker *w)
{
	struct list *node;

	idle_fini(w);
	client_io_fini(w);
	for (unsigned i = 0; i < w->ports_n; i++) {
		net_stack_destroy(w->ports[i].net);
		for (uint32_t l = 0; w->ports[i].listener_ctx != NULL && l < w->cfg->listeners_n;
		     l++)
			tls_context_put(w->ports[i].listener_ctx[l].tls);
		free(w->ports[i].listener_ctx);
	}
	services_destroy(w->services);
	tls_engine_destroy(w->tls);
	grpc_server_destroy(w->grpc);
	while ((node = list_pop_head(&w->endpoints)) != NULL)
		attached_free(list_entry(node, struct attached, link));
	balance_destroy(w->balance);
	pools_fini(w);
	refused_fini(w);
	rings_destroy(w);
}
