/* The server on our own stack: echo and discard straight on net.h's events. */
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <rte_launch.h>
#include <rte_lcore.h>

#include "base/clock.h"
#include "base/random.h"
#include "bench/served.h"
#include "bench/tcp.h"
#include "config/config.h"
#include "daemon/net/net.h"
#include "daemon/port/port.h"

#define BURST 32
/* As in daemon/worker: an empty turn that took longer had its core taken away. */
#define TURN_EMPTY_MAX_NS (10 * CLOCK_NS_PER_US)

struct stack_server {
	struct tcp_server base;
	struct tcp_place *place;
	struct port_queue *queue;
	struct net_stack *stack;
	struct tcp_listener *listeners[2];
	struct random random;
	clockid_t clock;
	atomic_bool clock_known, stop, running;
	_Atomic uint64_t idle_poll_ns, discarded;
	atomic_uint connections;
	uint64_t app, tx; /* cycles of this turn, inside of others */
	_Atomic uint64_t cycles[TCP_STAGES_N];
};

/* ---- services ------------------------------------------------------------------------------- */

static struct stack_server *running; /* one at a time */

static int on_accept_echo(void *ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	(void)ctx;
	*conn_ctx_out = conn;
	return 0;
}

static void on_echo(void *ctx, struct rte_mbuf *chain)
{
	struct tcp_conn *conn = ctx;
	uint32_t bytes = chain->pkt_len;
	uint64_t begin = clock_cycles();

	tcp_consumed(conn, bytes);
	if (tcp_send(conn, chain) != 0)
		rte_pktmbuf_free(chain); /* the client notices that its answer is short */
	running->app += clock_cycles() - begin;
}

static int on_accept_discard(void *ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	(void)ctx;
	*conn_ctx_out = conn;
	return 0;
}

static void on_discard(void *ctx, struct rte_mbuf *chain)
{
	struct tcp_conn *conn = ctx;
	uint32_t bytes = chain->pkt_len;
	_Atomic uint64_t *total = &running->discarded;

	atomic_store_explicit(total, atomic_load_explicit(total, memory_order_relaxed) + bytes,
			      memory_order_relaxed);
	rte_pktmbuf_free(chain);
	tcp_consumed(conn, bytes);
}

static void on_eof(void *ctx)
{
	tcp_shutdown(ctx);
}

static void on_writable(void *ctx)
{
	(void)ctx;
}

static void on_closed(void *ctx, int reason)
{
	(void)ctx;
	(void)reason;
}

static const struct tcp_events echo_events = {
	.accept = on_accept_echo,
	.data = on_echo,
	.eof = on_eof,
	.writable = on_writable,
	.closed = on_closed,
};

static const struct tcp_events discard_events = {
	.accept = on_accept_discard,
	.data = on_discard,
	.eof = on_eof,
	.writable = on_writable,
	.closed = on_closed,
};

/* ---- the loop ------------------------------------------------------------------------------- */

static uint16_t stack_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct stack_server *s = ctx;
	uint64_t begin = clock_cycles();
	uint16_t sent = 0;

	while (sent < n) {
		uint16_t burst = RTE_MIN((uint16_t)(n - sent), (uint16_t)PORT_BURST_MAX);
		uint16_t took = port_tx_burst(s->queue, pkts + sent, burst);

		sent += took;
		if (took < burst)
			break;
	}
	s->tx += clock_cycles() - begin;
	return sent;
}

static uint64_t stack_random(void *ctx)
{
	return random_next(&((struct stack_server *)ctx)->random);
}

static void stage_add(struct stack_server *s, enum tcp_stage stage, uint64_t cycles)
{
	_Atomic uint64_t *at = &s->cycles[stage];

	atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + cycles,
			      memory_order_relaxed);
}

/* One turn at `now`; whether it found work. */
static bool turn(struct stack_server *s, uint64_t now)
{
	struct rte_mbuf *pkts[BURST];
	uint64_t begin = clock_cycles(), in, timers, out, end, tx_in, tx_timers;
	uint16_t n = port_rx_burst(s->queue, pkts, BURST);
	bool busy;

	s->app = s->tx = 0;
	in = clock_cycles();
	if (n != 0)
		net_rx(s->stack, pkts, n, now);
	timers = clock_cycles();
	tx_in = s->tx;
	busy = net_timers_run(s->stack, now) != 0 || n != 0;
	out = clock_cycles();
	tx_timers = s->tx;
	net_flush(s->stack, now);
	end = clock_cycles();
	if (!busy)
		return false;
	stage_add(s, TCP_STAGE_port_in, in - begin);
	stage_add(s, TCP_STAGE_net_in, timers - in - s->app - tx_in);
	stage_add(s, TCP_STAGE_app, s->app);
	stage_add(s, TCP_STAGE_timers, out - timers - (tx_timers - tx_in));
	stage_add(s, TCP_STAGE_net_out, end - out - (s->tx - tx_timers));
	stage_add(s, TCP_STAGE_port_out, s->tx);
	return true;
}

static int serve(void *arg)
{
	struct stack_server *s = arg;
	uint64_t now = clock_ns(), idle = 0, turns = 0;
	bool busy = true;

	if (pthread_getcpuclockid(pthread_self(), &s->clock) == 0)
		atomic_store(&s->clock_known, true);
	while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
		uint64_t last = now;

		now = clock_ns();
		if (!busy && now - last <= TURN_EMPTY_MAX_NS) {
			idle += now - last;
			atomic_store_explicit(&s->idle_poll_ns, idle, memory_order_relaxed);
		}
		busy = turn(s, now);
		if ((++turns & 0xff) == 0)
			atomic_store_explicit(&s->connections, net_gauges_of(s->stack).connections,
					      memory_order_relaxed);
	}
	return 0;
}

static int stack_start(struct tcp_server *base)
{
	struct stack_server *s = (struct stack_server *)(void *)base;

	running = s;
	atomic_store(&s->stop, false);
	atomic_store(&s->clock_known, false);
	atomic_store(&s->idle_poll_ns, 0);
	if (rte_eal_remote_launch(serve, s, port_worker_lcore(0)) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	atomic_store(&s->running, true);
	return 0;
}

static void stack_stop(struct tcp_server *base)
{
	struct stack_server *s = (struct stack_server *)(void *)base;

	if (!atomic_load(&s->running))
		return;
	atomic_store(&s->stop, true);
	rte_eal_wait_lcore(port_worker_lcore(0));
	atomic_store(&s->running, false);
}

static void stack_sample(struct tcp_server *base, struct tcp_sample *out)
{
	struct stack_server *s = (struct stack_server *)(void *)base;
	const struct net_counters *c = net_counters_of(s->stack);
	struct timespec ts = {0};

	*out = (struct tcp_sample){
		.ns = clock_ns(),
		.core_busy_ns = core_busy_ns(s->place->core_server),
		.client_busy_ns = core_busy_ns(s->place->core_client),
		.idle_poll_ns = atomic_load(&s->idle_poll_ns),
		.segments_in = counter_get(&c->rx_tcp_segments),
		.segments_out = counter_get(&c->tx_tcp_segments),
		.discarded = atomic_load(&s->discarded),
	};
	for (unsigned i = 0; i < TCP_STAGES_N; i++)
		out->cycles[i] = atomic_load_explicit(&s->cycles[i], memory_order_relaxed);
	if (atomic_load(&s->clock_known) && clock_gettime(s->clock, &ts) == 0)
		out->thread_cpu_ns = (uint64_t)ts.tv_sec * CLOCK_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static unsigned stack_connections(const struct tcp_server *base)
{
	return atomic_load(&((const struct stack_server *)(const void *)base)->connections);
}

static void stack_complain(const struct tcp_server *base)
{
	const struct stack_server *s = (const struct stack_server *)(const void *)base;
	const uint64_t *counters = (const uint64_t *)(const void *)net_counters_of(s->stack);

	for (size_t i = 0; i < net_counter_desc.count; i++) {
		if (counter_get(&counters[i]) != 0)
			perf_warn("%s: %14llu %s", base->name,
				  (unsigned long long)counter_get(&counters[i]),
				  net_counter_desc.names[i].help);
	}
}

static void stack_destroy(struct tcp_server *base)
{
	struct stack_server *s = (struct stack_server *)(void *)base;

	stack_stop(base);
	if (s->stack != NULL)
		net_stack_destroy(s->stack);
	free(s);
}

static const struct tcp_server_ops ops = {
	.start = stack_start,
	.stop = stack_stop,
	.sample = stack_sample,
	.connections = stack_connections,
	.complain = stack_complain,
	.destroy = stack_destroy,
};

/* ---- set up --------------------------------------------------------------------------------- */

static size_t heap_used(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* What one more connection takes of a stack's memory, all of which is taken at its creation. An
 * idle connection holds no mbuf. */
static double idle_bytes(const struct net_config *config, const struct net_ops *net_ops)
{
	/* Past the packet buffers, whose number bounds what is lent to connections at work. */
	const uint32_t sizes[] = {65536, 131072};
	size_t used[2] = {0, 0};

	for (unsigned i = 0; i < 2; i++) {
		struct net_config c = *config;
		struct net_stack *stack;
		size_t before = heap_used();

		c.tcp.connections_max = sizes[i];
		c.tcp.backlog_max = 1;
		if (net_stack_create(&c, net_ops, clock_ns(), &stack) != 0)
			return -1;
		used[i] = heap_used() - before;
		net_stack_destroy(stack);
	}
	/* Another allocator (a sanitizer's) does not tell. */
	return used[1] > used[0] ? (double)(used[1] - used[0]) / (sizes[1] - sizes[0]) : -1;
}

static int listen_on(struct stack_server *s, uint16_t port, const struct tcp_events *events,
		     struct tcp_listener **out)
{
	struct net_addr local = {.family = NET_FAMILY_IPV4, .port = port};

	return tcp_listen(s->stack, &local, events, s, out);
}

int tcp_stack_server(struct tcp_place *place, unsigned index, const char *name,
		     struct tcp_server **out)
{
	struct stack_server *s = calloc(1, sizeof(*s));
	const struct net_ops net_ops = {.tx = stack_tx, .random = stack_random, .ctx = s};
	struct net_config config;
	struct port_info info;
	int err;

	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->base = (struct tcp_server){
		.ops = &ops, .name = name, .address = TCP_OUR_ADDRESS, .on_ring = index == 0};
	s->place = place;
	s->queue = port_queue_of(place->ports, index, 0);
	random_seed(&s->random, clock_cycles());
	port_info_get(place->ports, index, &info);
	net_config_default(&config);
	config.mac = info.mac;
	config.mtu = info.mtu;
	config.flags =
		NET_PRIMARY | (info.flags & PORT_RX_NO_CKSUM ? NET_RX_CSUM_TRUST : 0) |
		(info.flags & PORT_TX_IP_CKSUM ? NET_TX_CSUM_IPV4 : 0) |
		(info.flags & PORT_TX_TCP_CKSUM && info.flags & PORT_TX_UDP_CKSUM ? NET_TX_CSUM_L4
										  : 0);
	config.pool = port_queue_pool(s->queue);
	config.addresses_n = 1;
	config.addresses[0].prefix_len = 24;
	config.tcp.connections_max = place->connections_max;
	config.tcp.backlog_max = 4096;
	/* As a worker that polls has it: daemon/worker/setup.c. */
	if (info.flags & PORT_TX_SYSCALL)
		config.tx_hold_ns = place->config->ports[index].tx_hold_ns;
	err = net_addr_parse(TCP_OUR_ADDRESS, &config.addresses[0].addr);
	if (err == 0) {
		s->base.idle_bytes = idle_bytes(&config, &net_ops);
		err = net_stack_create(&config, &net_ops, clock_ns(), &s->stack);
	}
	if (err == 0)
		err = listen_on(s, TCP_PORT_ECHO, &echo_events, &s->listeners[0]);
	if (err == 0)
		err = listen_on(s, TCP_PORT_DISCARD, &discard_events, &s->listeners[1]);
	if (err != 0) {
		stack_destroy(&s->base);
		return err;
	}
	*out = &s->base;
	return 0;
}
