/* Links over our own TCP stack, frames over a pair of rings: no device, no kernel. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <rte_mbuf.h>
#include <rte_ring.h>

#include "base/clock.h"
#include "base/random.h"
#include "bench/link.h"
#include "bench/perf.h"
#include "daemon/net/net.h"

#define BURST 64
#define EACH  15000u /* connections from one address: it has 16,384 ports */

struct link {
	struct ring_set *set;
	struct tcp_conn *tcp; /* NULL once closed */
	void *user;
	uint16_t mss;
};

struct ring_set {
	struct link_set base;
	struct link_ring params;
	struct net_stack *stack;
	struct net_addr remote;
	struct random random;
	struct net_addr local[NET_ADDRESSES_MAX];
	unsigned local_n, opened;
};

static uint16_t stack_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct ring_set *s = ctx;

	return (uint16_t)rte_ring_enqueue_burst(s->params.tx, (void **)pkts, n, NULL);
}

static uint64_t stack_random(void *ctx)
{
	return random_next(&((struct ring_set *)ctx)->random);
}

static void on_connected(void *ctx, struct tcp_conn *conn)
{
	struct link *l = ctx;

	l->mss = (uint16_t)tcp_info(conn).mss;
	l->set->base.events->up(l->user);
}

static void on_data(void *ctx, struct rte_mbuf *chain)
{
	struct link *l = ctx;
	uint32_t bytes = chain->pkt_len;

	for (struct rte_mbuf *m = chain; m != NULL; m = m->next)
		l->set->base.events->data(l->user, rte_pktmbuf_mtod(m, const uint8_t *),
					  m->data_len);
	rte_pktmbuf_free(chain);
	if (l->tcp != NULL)
		tcp_consumed(l->tcp, bytes);
}

static void on_eof(void *ctx)
{
	struct link *l = ctx;

	if (l->tcp != NULL)
		tcp_shutdown(l->tcp);
}

static void on_closed(void *ctx, int reason)
{
	struct link *l = ctx;

	(void)reason;
	l->tcp = NULL;
	l->set->base.events->down(l->user);
	free(l);
}

static const struct tcp_events events = {
	.connected = on_connected,
	.data = on_data,
	.eof = on_eof,
	.closed = on_closed,
};

static int ring_open(struct link_set *base, void *user, struct link **out)
{
	struct ring_set *s = (struct ring_set *)(void *)base;
	struct link *l = calloc(1, sizeof(*l));
	int err;

	if (l == NULL)
		return -SPLIT_E_BASE_NOMEM;
	l->set = s;
	l->user = user;
	err = tcp_connect(s->stack, &s->local[s->opened++ % s->local_n], &s->remote, &events, l,
			  &l->tcp);
	if (err != 0) {
		free(l);
		return err;
	}
	*out = l;
	return 0;
}

static size_t ring_send(struct link *l, const uint8_t *bytes, size_t n)
{
	size_t at = 0, room;

	if (l->tcp == NULL)
		return 0;
	room = tcp_send_room(l->tcp);
	if (n > room) {
		tcp_want_writable(l->tcp);
		n = room;
	}
	while (at < n) {
		uint16_t part = (uint16_t)RTE_MIN(n - at, (size_t)l->mss);
		struct rte_mbuf *m = rte_pktmbuf_alloc(l->set->params.pool);

		if (m == NULL)
			break;
		memcpy(rte_pktmbuf_append(m, part), bytes + at, part);
		if (tcp_send(l->tcp, m) != 0) {
			rte_pktmbuf_free(m);
			break;
		}
		at += part;
	}
	return at;
}

static void ring_close(struct link *l)
{
	if (l->tcp != NULL)
		tcp_close(l->tcp);
	free(l);
}

static unsigned ring_poll(struct link_set *base, uint64_t now_ns, uint64_t wait_ns)
{
	struct ring_set *s = (struct ring_set *)(void *)base;
	struct rte_mbuf *pkts[BURST];
	unsigned n = rte_ring_dequeue_burst(s->params.rx, (void **)pkts, BURST, NULL);

	if (n != 0)
		net_rx(s->stack, pkts, (uint16_t)n, now_ns);
	else if (wait_ns != 0 && s->params.yields)
		sched_yield();
	return n + net_timers_run(s->stack, now_ns);
}

static void ring_flush(struct link_set *base, uint64_t now_ns)
{
	net_flush(((struct ring_set *)(void *)base)->stack, now_ns);
}

static void ring_destroy(struct link_set *base)
{
	struct ring_set *s = (struct ring_set *)(void *)base;

	net_stack_destroy(s->stack);
	free(s);
}

static const struct link_ops ops = {
	.open = ring_open,
	.send = ring_send,
	.close = ring_close,
	.poll = ring_poll,
	.flush = ring_flush,
	.destroy = ring_destroy,
};

int link_ring_create(const struct link_ring *params, const struct link_events *link_events,
		     struct link_set **out)
{
	const struct rte_ether_addr mac = {{2, 0, 0, 0, 0, 1}};
	struct ring_set *s = calloc(1, sizeof(*s));
	const struct net_ops net_ops = {.tx = stack_tx, .random = stack_random, .ctx = s};
	struct net_config cfg;
	int err;

	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->base = (struct link_set){.ops = &ops, .events = link_events};
	s->params = *params;
	random_seed(&s->random, clock_cycles());
	net_config_default(&cfg);
	cfg.mac = mac;
	err = net_addr_parse(params->local, &cfg.addresses[0].addr);
	if (err == 0)
		err = net_addr_parse(params->remote, &s->remote);
	s->remote.port = params->port;
	for (unsigned i = 0; i < NET_ADDRESSES_MAX && (i == 0 || i * EACH < params->connections_n);
	     i++) {
		cfg.addresses[i] = cfg.addresses[0];
		cfg.addresses[i].prefix_len = 24;
		cfg.addresses[i].addr.bytes[3] =
			(uint8_t)(cfg.addresses[0].addr.bytes[3] + (i == 0 ? 0 : i + 15));
		s->local[i] = cfg.addresses[i].addr;
		cfg.addresses_n = s->local_n = i + 1;
	}
	cfg.mtu = 1500;
	cfg.flags = NET_PRIMARY | NET_RX_CSUM_TRUST;
	cfg.pool = params->pool;
	cfg.tcp.connections_max = params->connections_max;
	cfg.tcp.time_wait_max = params->connections_max;
	if (err == 0)
		err = net_stack_create(&cfg, &net_ops, clock_ns(), &s->stack);
	if (err != 0) {
		free(s);
		return err;
	}
	*out = &s->base;
	return 0;
}
