/* The link between the two stacks, and what befalls frames on it. */
#include "tests/sim/sim.h"

#include "daemon/net/cksum.h"
#include "daemon/net/net_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void sim_fail(struct sim *sim, const char *format, ...)
{
	va_list args;

	if (sim->failure[0] != 0)
		return;
	va_start(args, format);
	vsnprintf(sim->failure, sizeof(sim->failure), format, args);
	va_end(args);
}

bool sim_chance(struct sim *sim, double p)
{
	return random_unit(&sim->random) < p;
}

uint64_t sim_between(struct sim *sim, uint64_t lo, uint64_t hi)
{
	return random_between(&sim->random, lo, hi);
}

static bool frame_before(const struct sim_frame *a, const struct sim_frame *b)
{
	return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->order < b->order);
}

static void frame_swap(struct sim_link *l, uint32_t i, uint32_t j)
{
	struct sim_frame t = l->frames[i];

	l->frames[i] = l->frames[j];
	l->frames[j] = t;
}

static void link_put(struct sim_link *l, struct sim_frame frame)
{
	uint32_t i = l->frames_n++;

	l->frames[i] = frame;
	for (; i > 0 && frame_before(&l->frames[i], &l->frames[(i - 1) / 2]); i = (i - 1) / 2)
		frame_swap(l, i, (i - 1) / 2);
}

struct sim_frame sim_link_take(struct sim_link *l)
{
	struct sim_frame first = l->frames[0];
	uint32_t i = 0;

	l->frames[0] = l->frames[--l->frames_n];
	for (;;) {
		uint32_t least = i, left = 2 * i + 1, right = 2 * i + 2;

		if (left < l->frames_n && frame_before(&l->frames[left], &l->frames[least]))
			least = left;
		if (right < l->frames_n && frame_before(&l->frames[right], &l->frames[least]))
			least = right;
		if (least == i)
			return first;
		frame_swap(l, i, least);
		i = least;
	}
}

struct rte_mbuf *sim_frame_copy(struct sim *sim, const struct rte_mbuf *from)
{
	struct rte_mbuf *m = rte_pktmbuf_copy(from, sim->pool, 0, UINT32_MAX);

	if (m != NULL)
		m->ol_flags = 0;
	return m;
}

static void link_put_later(struct sim_link *l, struct rte_mbuf *m)
{
	struct sim_frame frame = {.m = m, .corrupt_bit = -1, .order = l->sim->order++};

	frame.due_ns = l->sim->now_ns + l->delay_ns;
	link_put(l, frame);
}

/* What a router says of a packet that its next link cannot carry: RFC 1191 s4, RFC 4443 s3.2. */
static struct rte_mbuf *too_big_make(struct sim *sim, const struct rte_mbuf *m, uint32_t mtu)
{
	const uint8_t *from = rte_pktmbuf_mtod(m, const uint8_t *);
	bool v6 = sim->family == NET_FAMILY_IPV6;
	uint16_t ip_bytes = v6 ? 40 : 20, quoted = (uint16_t)(ip_bytes + 8);
	uint16_t bytes = (uint16_t)(14 + ip_bytes + 8 + quoted);
	struct rte_mbuf *e = rte_pktmbuf_alloc(sim->pool);
	uint64_t sum = 0;
	uint8_t *to, *icmp;

	if (e == NULL || m->data_len < 14 + quoted) {
		rte_pktmbuf_free(e);
		return NULL;
	}
	e->data_len = bytes;
	e->pkt_len = bytes;
	to = rte_pktmbuf_mtod(e, uint8_t *);
	memset(to, 0, bytes);
	memcpy(to, from + 6, 6); /* back to the sender */
	memcpy(to + 6, from, 6);
	memcpy(to + 12, from + 12, 2);
	icmp = to + 14 + ip_bytes;
	memcpy(icmp + 8, from + 14, quoted);
	if (v6) {
		struct ip6_header *ip = (struct ip6_header *)(void *)(to + 14);

		ip->version_class = 0x60;
		ip->payload_length = be16_make((uint16_t)(8 + quoted));
		ip->next = IP_PROTO_ICMP6;
		ip->hop_limit = 64;
		memcpy(ip->src, from + 14 + 24, 16); /* as if the peer's router had its address */
		memcpy(ip->dst, from + 14 + 8, 16);
		icmp[0] = ICMP6_TOO_BIG;
		be32_store(icmp + 4, mtu);
		sum = cksum_add(0, ip->src, 32) +
		      cksum_add(
			      0,
			      (uint8_t[]){0, 0, 0, (uint8_t)(8 + quoted), 0, 0, 0, IP_PROTO_ICMP6},
			      8);
	} else {
		struct ip4_header *ip = (struct ip4_header *)(void *)(to + 14);

		ip->version_ihl = IP4_VERSION_IHL;
		ip->total_length = be16_make((uint16_t)(bytes - 14));
		ip->ttl = 64;
		ip->protocol = IP_PROTO_ICMP;
		memcpy(ip->src, from + 14 + 16, 4);
		memcpy(ip->dst, from + 14 + 12, 4);
		ip->checksum = cksum_fold(cksum_add(0, ip, sizeof(*ip)));
		icmp[0] = 3;
		icmp[1] = 4;
		be32_store(icmp + 4, mtu);
	}
	sum = cksum_fold(cksum_add(sum, icmp, (size_t)8 + quoted));
	memcpy(icmp + 2, &(uint16_t){(uint16_t)sum}, 2);
	return e;
}

/* False: the path does not carry it. IPv4 packets that may be fragmented pass in pieces. */
static bool link_carries(struct sim_link *l, const struct rte_mbuf *m)
{
	const uint8_t *from = rte_pktmbuf_mtod(m, const uint8_t *);
	struct sim *sim = l->sim;
	struct rte_mbuf *e;

	if (m->pkt_len - 14 <= l->mtu)
		return true;
	if (be16_load(from + 12) == ETH_TYPE_IPV4 &&
	    (be16_load(from + 20) & IP4_DONT_FRAGMENT) == 0)
		return true;
	if (!sim_chance(sim, l->too_big) || sim->links[!l->to].frames_n + 2 > SIM_LINK_MAX)
		return false;
	e = too_big_make(sim, m, l->mtu);
	if (e != NULL)
		link_put_later(&sim->links[!l->to], e);
	return false;
}

/* No segment promises more than is remembered; edge_check() sees that this never moves left. */
static void window_check(struct sim_link *l, const struct rte_mbuf *m)
{
	bool v6 = l->sim->family == NET_FAMILY_IPV6;
	uint32_t at = v6 ? 54 : 34;
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);
	struct net_stack *s = l->sim->stacks[!l->to];
	const struct tcp_header *th = (const struct tcp_header *)(const void *)(p + at);
	struct net_addr local, remote;
	const struct tcp_conn *c;
	struct flow_key key;
	uint32_t edge;

	if (s == NULL || m->data_len < at + sizeof(*th) || p[v6 ? 20 : 23] != IP_PROTO_TCP ||
	    be16_load(p + 12) == ETH_TYPE_ARP || (th->flags & (TCP_SYN | TCP_RST)) != 0)
		return;
	local = remote = (struct net_addr){.family = l->sim->family};
	memcpy(local.bytes, p + (v6 ? 22 : 26), v6 ? 16 : 4);
	memcpy(remote.bytes, p + (v6 ? 38 : 30), v6 ? 16 : 4);
	local.port = be16_get(th->src);
	remote.port = be16_get(th->dst);
	flow_key_make(&key, &local, &remote);
	c = tcp_table_find(s, &key);
	if (c == NULL || c->state < TCP_ESTABLISHED)
		return;
	edge = be32_get(th->ack) + ((uint32_t)be16_get(th->window) << c->receive_wscale);
	/* A segment that the device did not take at once is older than what is remembered. */
	if (seq_gt(edge, c->rcv_adv) && (c->flags & TCPF_EOF_GIVEN) == 0)
		sim_fail(l->sim, "port %u: a segment says a window to %u, remembered is %u",
			 local.port, edge, c->rcv_adv);
}

void sim_link_send(struct sim_link *l, struct rte_mbuf *m)
{
	struct sim *sim = l->sim;
	struct sim_frame frame = {.m = m, .corrupt_bit = -1};
	uint64_t start = sim->now_ns;

	window_check(l, m);
	if (!link_carries(l, m) || sim->now_ns < l->down_until_ns || sim_chance(sim, l->loss) ||
	    l->frames_n >= l->queue_max || l->frames_n + 2 > SIM_LINK_MAX) {
		rte_pktmbuf_free(m);
		return;
	}
	if (l->byte_ns != 0) {
		if (l->busy_until_ns > start)
			start = l->busy_until_ns;
		start += l->byte_ns * m->pkt_len;
		l->busy_until_ns = start;
	}
	frame.due_ns = start + l->delay_ns + (l->jitter_ns ? sim_between(sim, 0, l->jitter_ns) : 0);
	frame.order = sim->order++;
	if (sim_chance(sim, l->corrupt))
		frame.corrupt_bit = (int)sim_between(sim, 0, m->pkt_len * 8 - 1);
	if (sim_chance(sim, l->duplicate)) {
		struct sim_frame twin = {.corrupt_bit = -1, .order = sim->order++};

		twin.m = sim_frame_copy(sim, m);
		twin.due_ns = frame.due_ns + sim_between(sim, 0, l->delay_ns);
		if (twin.m != NULL)
			link_put(l, twin);
	}
	link_put(l, frame);
}

/* RFC 3168 s5: a router marks what is ECN-capable, and sets the header's sum right. */
void sim_frame_mark(struct rte_mbuf *m)
{
	struct ip4_header *ip = rte_pktmbuf_mtod_offset(m, struct ip4_header *, 14);
	struct ip6_header *ip6 = rte_pktmbuf_mtod_offset(m, struct ip6_header *, 14);

	if (m->data_len >= 54 && ip6->version_class == 0x60) {
		if (ip6->class_flow & 0x30)
			ip6->class_flow |= IP_ECN_CE << 4;
		return;
	}
	if (m->data_len < 34 || ip->version_ihl != IP4_VERSION_IHL || (ip->tos & 3) == IP_ECN_NOT)
		return;
	ip->tos |= IP_ECN_CE;
	ip->checksum = 0;
	ip->checksum = cksum_fold(cksum_add(0, ip, sizeof(*ip)));
}
