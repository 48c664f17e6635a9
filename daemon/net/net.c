/* The stack itself: its life, frames in and out, what is shared below IP. */
#include "daemon/net/net_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

COUNTER_DEFINE(net, NET_COUNTERS);
COUNTER_DEFINE(listener, LISTENER_COUNTERS);

#define TIMERS_PER_RUN 256

void net_config_default(struct net_config *config_out)
{
	*config_out = (struct net_config){
		.mtu = 1500,
		.flags = NET_PRIMARY,
		.arp_entries_max = 1024,
		.arp_pending_max = 8,
		.arp_reachable_ns = 60 * SEC_NS,
		.icmp_per_second = 1000,
		.dad_transmits = 1,
		.path_mtu_discovery = true,
		.reassembly_max = 64,
		.reassembly_timeout_ns = 10 * SEC_NS,
		.tcp =
			{
				.connections_max = 4096,
				.backlog_max = 1024,
				.listeners_max = 64,
				.time_wait_max = 16384,
				.receive_buffer = 1u << 20,
				.send_buffer = 1u << 20,
				.ooo_ranges_max = 64,
				.ooo_mbufs_max = 4096,
				.copy_bytes_max = 192,
				.initial_window = 10,
				.syn_retries = 5,
				.keepalive_probes = 5,
				.time_wait_ns = 60 * SEC_NS,
				.half_open_ns = 30 * SEC_NS,
				.fin_wait_2_ns = 30 * SEC_NS,
				.orphan_ns = 60 * SEC_NS,
				.user_timeout_ns = 120 * SEC_NS,
				.keepalive_idle_ns = 0,
				.keepalive_interval_ns = 10 * SEC_NS,
				.rto_min_ns = 200 * MSEC_NS,
				.rto_max_ns = 60 * SEC_NS,
				.rto_initial_ns = SEC_NS,
				.delayed_ack_ns = 40 * MSEC_NS,
				.nagle = false,
				.timestamps = true,
				.window_scaling = true,
				.sack = true,
				.syn_cookies = true,
				.ecn = true,
				.congestion = TCP_CONGESTION_CUBIC,
				.source_prefix_ipv4 = 24,
				.source_prefix_ipv6 = 64,
			},
	};
}

static bool config_valid(const struct net_config *c)
{
	const struct tcp_config *t = &c->tcp;

	if (c->pool == NULL || c->mtu < NET_MTU_MIN || c->mtu > NET_MTU_MAX)
		return false;
	if (c->addresses_n > NET_ADDRESSES_MAX)
		return false;
	for (unsigned i = 0; i < c->addresses_n; i++) {
		bool v6 = c->addresses[i].addr.family == NET_FAMILY_IPV6;

		if ((!v6 && c->addresses[i].addr.family != NET_FAMILY_IPV4) ||
		    c->addresses[i].prefix_len > (v6 ? 128 : 32) || (v6 && c->mtu < IP6_MTU_MIN))
			return false;
	}
	if (c->vlan > 4094 || (c->slaac && c->mtu < IP6_MTU_MIN) ||
	    (c->gateway6.family != NET_FAMILY_NONE && c->gateway6.family != NET_FAMILY_IPV6))
		return false;
	if (c->gateway.family != NET_FAMILY_NONE && c->gateway.family != NET_FAMILY_IPV4)
		return false;
	if (c->arp_entries_max == 0 || c->arp_pending_max > NEIGH_PENDING_MAX)
		return false;
	if (t->connections_max == 0 || t->connections_max > (1u << 24) || t->backlog_max == 0 ||
	    t->backlog_max > (1u << 24) || t->listeners_max == 0 ||
	    t->listeners_max >= UINT16_MAX || t->time_wait_max == 0)
		return false;
	/* 1 GiB is the largest window RFC 7323 allows; comparisons of sequence numbers need it. */
	if (t->receive_buffer < 2048 || t->receive_buffer > (1u << 29) || t->send_buffer < 2048 ||
	    t->send_buffer > (1u << 29))
		return false;
	if (t->congestion > TCP_CONGESTION_DCTCP || t->source_prefix_ipv4 > 32 ||
	    t->source_prefix_ipv6 > 128)
		return false;
	if (t->ooo_ranges_max == 0 || t->ooo_mbufs_max == 0 || t->initial_window == 0)
		return false;
	if (t->rto_min_ns == 0 || t->rto_min_ns > t->rto_max_ns || t->rto_initial_ns == 0)
		return false;
	return rte_pktmbuf_data_room_size(c->pool) >=
	       RTE_PKTMBUF_HEADROOM + NET_HEADERS_MAX + t->copy_bytes_max;
}

int net_stack_create(const struct net_config *config, const struct net_ops *ops, uint64_t now_ns,
		     struct net_stack **out)
{
	struct net_stack *s;
	int error;

	*out = NULL;
	if (!config_valid(config) || ops->tx == NULL || ops->random == NULL)
		return -SPLIT_E_BASE_INVALID;
	if (posix_memalign((void **)&s, BITS_CACHE_LINE, sizeof(*s)) != 0)
		return -SPLIT_E_BASE_NOMEM;
	memset(s, 0, sizeof(*s));
	s->config = *config;
	s->ops = *ops;
	s->pool = config->pool;
	s->rx_bucket = UINT32_MAX;
	wheel_init(&s->wheel, now_ns);
	net_set_now(s, now_ns);
	s->hash_key = (struct siphash_key){ops->random(ops->ctx), ops->random(ops->ctx)};
	s->isn_key = (struct siphash_key){ops->random(ops->ctx), ops->random(ops->ctx)};
	s->cookie_key = (struct siphash_key){ops->random(ops->ctx), ops->random(ops->ctx)};
	s->icmp_tokens_ns = now_ns;
	error = reassembly_init(s);
	if (error == 0)
		error = neigh_init(s);
	if (error == 0)
		error = tcp_init(s);
	if (error != 0) {
		net_stack_destroy(s);
		return error;
	}
	if (config->flags & NET_PRIMARY)
		neigh_announce_start(s);
	mld_init(s);
	ndp_init(s);
	*out = s;
	return 0;
}

void net_stack_destroy(struct net_stack *s)
{
	if (s == NULL)
		return;
	tcp_fini(s);
	neigh_fini(s);
	reassembly_fini(s);
	for (unsigned i = 0; i < s->txq_n; i++)
		rte_pktmbuf_free(s->txq[i]);
	free(s);
}

/* ---- frames in ------------------------------------------------------------------------------ */

/* Takes the VLAN tag off; *type_out is what lies behind. False: not of our VLAN. A tag with VLAN 0
 * only gives a priority: IEEE 802.1Q s6.8. */
static bool vlan_strip(const struct net_stack *s, struct rte_mbuf *m, uint16_t *type)
{
	uint16_t vlan = 0, outer = *type;
	uint8_t macs[12];

	if (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) {
		vlan = m->vlan_tci & 0xfff;
	} else if (outer == ETH_TYPE_VLAN) {
		const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

		if (m->data_len < sizeof(struct eth_header) + 4)
			return false;
		vlan = be16_load(p + 14) & 0xfff;
		*type = be16_load(p + 16);
		memcpy(macs, p, sizeof(macs));
		memcpy(rte_pktmbuf_adj(m, 4), macs, sizeof(macs));
	}
	return outer != ETH_TYPE_QINQ && *type != ETH_TYPE_VLAN && vlan == s->config.vlan;
}

static void eth_rx(struct net_stack *s, struct rte_mbuf *m)
{
	const struct eth_header *eth;
	uint16_t type;
	bool to_us;

	COUNT(s, rx_frames);
	COUNT_N(s, rx_bytes, m->pkt_len);
	if (unlikely(m->data_len < sizeof(*eth))) {
		COUNT(s, rx_drop_eth_short);
		goto drop;
	}
	eth = rte_pktmbuf_mtod(m, const struct eth_header *);
	type = be16_get(eth->type);
	to_us = memcmp(eth->dst, s->config.mac.addr_bytes, 6) == 0;
	if (unlikely(!to_us && (eth->dst[0] & 1) == 0)) {
		COUNT(s, rx_drop_eth_dst);
		goto drop;
	}
	if (unlikely(eth->src[0] & 1)) {
		COUNT(s, rx_drop_eth_src);
		goto drop;
	}
	if (unlikely(s->config.vlan != 0 || type == ETH_TYPE_VLAN || type == ETH_TYPE_QINQ ||
		     (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0)) {
		if (!vlan_strip(s, m, &type)) {
			COUNT(s, rx_drop_eth_vlan);
			goto drop;
		}
		eth = rte_pktmbuf_mtod(m, const struct eth_header *);
	}
	if (unlikely(m->pkt_len > sizeof(*eth) + s->config.mtu &&
		     (m->ol_flags & RTE_MBUF_F_RX_LRO) == 0)) {
		COUNT(s, rx_drop_eth_long);
		goto drop;
	}
	if (likely(type == ETH_TYPE_IPV4)) {
		rte_pktmbuf_adj(m, sizeof(*eth));
		ip4_rx(s, m, to_us);
		return;
	}
	if (type == ETH_TYPE_IPV6 && s->addresses6_n != 0) {
		memcpy(s->rx_mac, eth->src, 6);
		rte_pktmbuf_adj(m, sizeof(*eth));
		ip6_rx(s, m, to_us);
		return;
	}
	if (type == ETH_TYPE_ARP) {
		arp_rx(s, m);
		return;
	}
	COUNT(s, rx_drop_eth_type);
drop:
	rte_pktmbuf_free(m);
}

/* With many connections nothing of the next one is in the caches: frames are looked at ahead, in
 * groups, so that the memory's answers to all of a group overlap. The looks are guesses: what is
 * found out by them is the bucket of a flow, which whoever handles the frame compares with. */
#define AHEAD 16u

/* The bucket of what looks like plain TCP over IPv4 or IPv6 without options; UINT32_MAX else. */
static uint32_t bucket_guess(const struct net_stack *s, const struct rte_mbuf *m)
{
	const struct eth_header *eth = rte_pktmbuf_mtod(m, const struct eth_header *);
	const uint8_t *p = (const uint8_t *)(eth + 1);
	struct flow_key key = {0};
	size_t each = 4, header = sizeof(struct ip4_header);
	const uint8_t *src = p + 12;

	if (m->data_len < sizeof(*eth) + sizeof(struct ip4_header) + sizeof(struct tcp_header))
		return UINT32_MAX;
	if (be16_get(eth->type) == ETH_TYPE_IPV4 && p[0] == IP4_VERSION_IHL &&
	    p[9] == IP_PROTO_TCP && (be16_load(p + 6) & IP4_MORE_OR_OFFSET) == 0) {
		key.local.family = NET_FAMILY_IPV4;
	} else if (be16_get(eth->type) == ETH_TYPE_IPV6 && p[6] == IP_PROTO_TCP &&
		   m->data_len >= sizeof(*eth) + sizeof(struct ip6_header) + 4) {
		key.local.family = NET_FAMILY_IPV6;
		each = 16;
		header = sizeof(struct ip6_header);
		src = p + 8;
	} else {
		return UINT32_MAX;
	}
	memcpy(key.remote.bytes, src, each);
	memcpy(key.local.bytes, src + each, each);
	key.remote.port = be16_load(p + header);
	key.local.port = be16_load(p + header + 2);
	return tcp_table_bucket(s, &key);
}

static void look_ahead(struct net_stack *s, struct rte_mbuf **pkts, uint16_t n, uint32_t *buckets)
{
	for (uint16_t i = 0; i < n; i++)
		rte_prefetch0(rte_pktmbuf_mtod(pkts[i], void *));
	for (uint16_t i = 0; i < n; i++) {
		buckets[i] = bucket_guess(s, pkts[i]);
		if (buckets[i] != UINT32_MAX)
			rte_prefetch0(&s->conns[buckets[i]]);
	}
	for (uint16_t i = 0; i < n; i++) {
		const struct tcp_conn *c = buckets[i] != UINT32_MAX ? s->conns[buckets[i]] : NULL;

		for (size_t at = 0; c != NULL && at < sizeof(*c); at += BITS_CACHE_LINE)
			rte_prefetch0((const char *)c + at);
	}
}

/* ---- frames that wait for others ------------------------------------------------------------ */

/* A burst costs a system call, and often an interrupt of another core, whether it is of one frame
 * or of thirty. So where requests of several connections arrive close to each other, their answers
 * wait a little to leave together: while frames come, on average, at least twice in a wait, and for
 * no more of them than there are connections, whose peers may then all wait for us. */

#define HOLD_FRAMES_MAX 32u
#define HOLD_GAP_SHIFT  3 /* a new gap counts an eighth */
#define HOLD_GAP_MAX_NS MSEC_NS

static void hold_note(struct net_stack *s, uint16_t n)
{
	uint64_t gap_ns = s->now_ns - s->rx_last_ns;

	if (n == 0)
		return;
	gap_ns = (gap_ns < HOLD_GAP_MAX_NS ? gap_ns : HOLD_GAP_MAX_NS) / n;
	s->rx_gap_ns = s->rx_gap_ns - (s->rx_gap_ns >> HOLD_GAP_SHIFT) + (gap_ns >> HOLD_GAP_SHIFT);
	s->rx_last_ns = s->now_ns;
	s->hold_frames += n;
}

/* Whether net_flush() does nothing yet. */
static bool holds(struct net_stack *s)
{
	uint64_t hold_ns = s->config.tx_hold_ns;
	bool waits = s->hold_since_ns != 0;

	if (s->txq_n > 0 || list_empty(&s->dirty) || s->rx_gap_ns >= hold_ns / 2 ||
	    s->hold_frames >= s->conns_n || s->hold_frames >= HOLD_FRAMES_MAX ||
	    (waits && s->now_ns - s->hold_since_ns >= hold_ns)) {
		s->hold_since_ns = 0;
		return false;
	}
	if (!waits) {
		s->hold_since_ns = s->now_ns;
		COUNT(s, tx_holds);
	}
	return true;
}

void net_rx(struct net_stack *s, struct rte_mbuf **pkts, uint16_t n, uint64_t now_ns)
{
	uint32_t buckets[AHEAD];

	net_set_now(s, now_ns);
	for (uint16_t i = 0; i < n; i++) {
		unsigned at = i % AHEAD;

		if (at == 0)
			look_ahead(s, pkts + i, (uint16_t)RTE_MIN(n - i, (int)AHEAD), buckets);
		s->rx_bucket = buckets[at];
		eth_rx(s, pkts[i]);
	}
	s->rx_bucket = UINT32_MAX;
	if (s->config.tx_hold_ns != 0)
		hold_note(s, n);
	tcp_reap(s);
}

unsigned net_timers_run(struct net_stack *s, uint64_t now_ns)
{
	unsigned fired;

	net_set_now(s, now_ns);
	fired = wheel_advance(&s->wheel, s->now_ns, TIMERS_PER_RUN);
	tcp_reap(s);
	return fired;
}

uint64_t net_timer_next_ns(const struct net_stack *s)
{
	return wheel_next_ns(&s->wheel);
}

/* ---- frames out ----------------------------------------------------------------------------- */

static void txq_offer(struct net_stack *s)
{
	uint16_t sent = s->ops.tx(s->ops.ctx, s->txq, s->txq_n);

	if (sent >= s->txq_n) {
		s->txq_n = 0;
		return;
	}
	s->txq_n = (uint16_t)(s->txq_n - sent);
	memmove(s->txq, s->txq + sent, s->txq_n * sizeof(struct rte_mbuf *));
}

void net_eth_push(struct net_stack *s, struct rte_mbuf *m, uint16_t type)
{
	struct eth_header *eth = net_mbuf_prepend(m, (uint16_t)net_eth_bytes(s));
	uint8_t *tag = (uint8_t *)eth + 12;

	memcpy(eth->src, s->config.mac.addr_bytes, 6);
	if (unlikely(s->config.vlan != 0)) {
		be16_store(tag, ETH_TYPE_VLAN);
		be16_store(tag + 2, s->config.vlan);
		tag += 4;
	}
	be16_store(tag, type);
}

void net_xmit(struct net_stack *s, struct rte_mbuf *m)
{
	if (unlikely(s->txq_n == NET_TX_QUEUE)) {
		txq_offer(s);
		if (s->txq_n == NET_TX_QUEUE) {
			COUNT(s, tx_drop_full);
			rte_pktmbuf_free(m);
			return;
		}
	}
	COUNT(s, tx_frames);
	COUNT_N(s, tx_bytes, m->pkt_len);
	s->txq[s->txq_n++] = m;
	s->hold_frames = 0;
	if (s->txq_n % NET_TX_BURST == 0)
		txq_offer(s);
}

void net_flush(struct net_stack *s, uint64_t now_ns)
{
	struct list todo;
	struct list *node;

	net_set_now(s, now_ns);
	if (s->config.tx_hold_ns != 0 && holds(s))
		return;
	if (s->txq_n > 0)
		txq_offer(s);
	/* Connections that cannot finish mark themselves again, for the next flush. */
	list_init(&todo);
	list_splice_tail(&todo, &s->dirty);
	while ((node = list_pop_head(&todo)) != NULL) {
		struct tcp_conn *c = list_entry(node, struct tcp_conn, dirty_link);

		c->flags &= ~TCPF_DIRTY;
		if (unlikely(net_tx_full(s))) {
			txq_offer(s);
			if (net_tx_full(s)) {
				/* Who had no turn goes first in the next flush, before those
				 * that filled the queue in this one. */
				c->flags |= TCPF_DIRTY;
				list_add_head(&todo, node);
				list_splice_tail(&todo, &s->dirty);
				list_splice_tail(&s->dirty, &todo);
				break;
			}
		}
		s->flushing = c;
		tcp_output(c);
		s->flushing = NULL;
		tcp_timer_settle(c);
	}
	if (s->txq_n > 0)
		txq_offer(s);
	tcp_reap(s);
}

bool net_flush_pending(const struct net_stack *s)
{
	return s->txq_n > 0 || !list_empty(&s->dirty);
}

/* ---- mbufs ---------------------------------------------------------------------------------- */

struct rte_mbuf *net_mbuf_get(struct net_stack *s)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(s->pool);

	if (unlikely(m == NULL)) {
		COUNT(s, tx_drop_nomem);
		return NULL;
	}
	if (NET_HEADERS_MAX > RTE_PKTMBUF_HEADROOM || m->data_off < NET_HEADERS_MAX)
		m->data_off = NET_HEADERS_MAX;
	return m;
}

void net_mbuf_cut(struct rte_mbuf *m, uint32_t len)
{
	struct rte_mbuf *last = m;
	uint32_t left = len;
	uint16_t segs = 1;

	while (left > last->data_len && last->next != NULL) {
		left -= last->data_len;
		last = last->next;
		segs++;
	}
	last->data_len = (uint16_t)left;
	if (last->next != NULL) {
		rte_pktmbuf_free(last->next);
		last->next = NULL;
	}
	m->nb_segs = segs;
	m->pkt_len = len;
}

struct rte_mbuf *net_mbuf_skip(struct rte_mbuf *m, uint32_t len)
{
	uint32_t total = m->pkt_len - len;
	uint16_t segs = m->nb_segs;

	while (len >= m->data_len && m->next != NULL) {
		struct rte_mbuf *next = m->next;

		len -= m->data_len;
		rte_pktmbuf_free_seg(m);
		m = next;
		segs--;
	}
	m->data_off = (uint16_t)(m->data_off + len);
	m->data_len = (uint16_t)(m->data_len - len);
	m->nb_segs = segs;
	m->pkt_len = total;
	return m;
}

/* ---- steering ------------------------------------------------------------------------------- */

#define STEER_MIX UINT64_C(0x9e3779b97f4a7c15)

/* `h` stands for the addresses, `ports` for the source's and the destination's. */
static uint32_t steer_finish(uint64_t h, uint32_t ports)
{
	h = (h ^ ports) * STEER_MIX;
	h = (h ^ (h >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
	return (uint32_t)(h >> 32);
}

static uint64_t steer_addresses4(const uint8_t src[4], const uint8_t dst[4])
{
	return (uint64_t)be32_load(src) << 32 | be32_load(dst);
}

static uint64_t steer_address6(uint64_t h, const uint8_t bytes[16])
{
	for (unsigned i = 0; i < 16; i += 4)
		h = (h ^ be32_load(bytes + i)) * STEER_MIX;
	return h;
}

uint32_t net_steer_hash(const struct net_addr *local, const struct net_addr *remote)
{
	uint32_t ports = (uint32_t)remote->port << 16 | local->port;

	if (local->family == NET_FAMILY_IPV4)
		return steer_finish(steer_addresses4(remote->bytes, local->bytes), ports);
	return steer_finish(steer_address6(steer_address6(0, remote->bytes), local->bytes), ports);
}

/* Ports of a flow at `at`, the ends' words in `h` already. */
static enum net_steer steer_flow(const struct rte_mbuf *pkt, uint32_t at, uint64_t h,
				 uint32_t *hash_out)
{
	if (pkt->data_len >= at + 4)
		*hash_out = steer_finish(
			h, be32_load(rte_pktmbuf_mtod_offset(pkt, const uint8_t *, at)));
	return NET_STEER_FLOW;
}

static enum net_steer steer4(const struct rte_mbuf *pkt, uint32_t at, uint32_t *hash_out)
{
	const struct ip4_header *ip = rte_pktmbuf_mtod_offset(pkt, const struct ip4_header *, at);
	uint32_t header;

	if (pkt->data_len < at + sizeof(*ip) + 4 || ip->version_ihl >> 4 != 4)
		return NET_STEER_FLOW;
	header = (ip->version_ihl & 0xfu) * 4; /* with options: the flow is the same */
	if (header < sizeof(*ip))
		return NET_STEER_FLOW;
	/* Fragments too: ip_reassembly.c. */
	if (ip->protocol == IP_PROTO_ICMP || (be16_get(ip->fragment) & IP4_MORE_OR_OFFSET) != 0)
		return NET_STEER_ALL;
	return steer_flow(pkt, at + header, steer_addresses4(ip->src, ip->dst), hash_out);
}

static enum net_steer steer6(const struct rte_mbuf *pkt, uint32_t at, uint32_t *hash_out)
{
	const struct ip6_header *ip = rte_pktmbuf_mtod_offset(pkt, const struct ip6_header *, at);
	uint64_t h;
	uint8_t next;

	if (pkt->data_len < at + sizeof(*ip))
		return NET_STEER_FLOW;
	next = ip->next;
	h = steer_address6(steer_address6(0, ip->src), ip->dst);
	at += (uint32_t)sizeof(*ip);
	/* Hop-by-hop, routing, destination: the flow is the same behind them. */
	while ((next == 0 || next == 43 || next == 60) && pkt->data_len >= at + 8) {
		const uint8_t *p = rte_pktmbuf_mtod_offset(pkt, const uint8_t *, at);

		next = p[0];
		at += (p[1] + 1u) * 8;
	}
	if (next == IP_PROTO_ICMP6 || next == 44)
		return NET_STEER_ALL;
	return steer_flow(pkt, at, h, hash_out);
}

enum net_steer net_steer(const struct rte_mbuf *pkt, uint32_t *hash_out)
{
	const struct eth_header *eth = rte_pktmbuf_mtod(pkt, const struct eth_header *);
	uint32_t at = sizeof(*eth);
	uint16_t type;

	*hash_out = 0;
	if (pkt->data_len < sizeof(*eth))
		return NET_STEER_FLOW; /* nobody's: not worth a copy for each worker */
	type = be16_get(eth->type);
	if (type == ETH_TYPE_VLAN && pkt->data_len >= at + 4) {
		type = be16_load((const uint8_t *)eth + 16);
		at += 4;
	}
	switch (type) {
	case ETH_TYPE_ARP:
		return NET_STEER_ALL;
	case ETH_TYPE_IPV4:
		return steer4(pkt, at, hash_out);
	case ETH_TYPE_IPV6:
		return steer6(pkt, at, hash_out);
	default:
		return NET_STEER_FLOW;
	}
}

/* ---- addresses ------------------------------------------------------------------------------ */

int net_addr_parse(const char *text, struct net_addr *addr_out)
{
	memset(addr_out, 0, sizeof(*addr_out));
	if (inet_pton(AF_INET, text, addr_out->bytes) == 1) {
		addr_out->family = NET_FAMILY_IPV4;
		return 0;
	}
	memset(addr_out->bytes, 0, sizeof(addr_out->bytes));
	if (inet_pton(AF_INET6, text, addr_out->bytes) == 1) {
		addr_out->family = NET_FAMILY_IPV6;
		return 0;
	}
	return -SPLIT_E_BASE_INVALID;
}

char *net_addr_format(const struct net_addr *addr, char text[NET_ADDR_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN] = "?";
	bool v6 = addr->family == NET_FAMILY_IPV6;

	inet_ntop(v6 ? AF_INET6 : AF_INET, addr->bytes, host, sizeof(host));
	if (addr->port == 0)
		snprintf(text, NET_ADDR_TEXT_MAX, "%s", host);
	else
		snprintf(text, NET_ADDR_TEXT_MAX, v6 ? "[%s]:%u" : "%s:%u", host, addr->port);
	return text;
}

bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
	return a->family == b->family && a->port == b->port &&
	       memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool net_addr_is_any(const struct net_addr *a)
{
	static const uint8_t zero[16];

	return memcmp(a->bytes, zero, sizeof(zero)) == 0;
}

bool net_addr_is_ours(const struct net_stack *s, const struct net_addr *a)
{
	if (a->family == NET_FAMILY_IPV6)
		return ndp_address_usable(s, a);
	for (unsigned i = 0; i < s->config.addresses_n; i++) {
		const struct net_addr *ours = &s->config.addresses[i].addr;

		if (ours->family == a->family &&
		    memcmp(ours->bytes, a->bytes, sizeof(a->bytes)) == 0)
			return true;
	}
	return false;
}

/* ---- counters ------------------------------------------------------------------------------- */

const struct net_counters *net_counters_of(const struct net_stack *s)
{
	return &s->counters;
}

struct net_gauges net_gauges_of(const struct net_stack *s)
{
	return (struct net_gauges){
		.connections = s->conns_n - s->half_open_n,
		.half_open = s->half_open_n,
		.time_wait = pool_in_use(&s->time_wait_pool),
		.ooo_mbufs = s->ooo_mbufs,
		.timers = (uint32_t)s->wheel.armed,
	};
}
