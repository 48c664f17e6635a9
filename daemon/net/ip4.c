/* IPv4: RFC 791, RFC 1122. Options are walked and not acted on, source routes are dropped (RFC 7126
 * s4.3, s4.4). Fragments: ip_reassembly.c. */
#include "daemon/net/net_internal.h"

#include <string.h>

#include "daemon/net/cksum.h"

static bool in_prefix(const uint8_t a[4], const struct net_prefix *p)
{
	uint32_t mask;

	if (p->addr.family != NET_FAMILY_IPV4)
		return false;
	mask = p->prefix_len == 0 ? 0 : ~UINT32_C(0) << (32 - p->prefix_len);
	return ((be32_load(a) ^ be32_load(p->addr.bytes)) & mask) == 0;
}

/* A source nobody may answer: RFC 1122 s3.2.1.3. */
static bool source_bad(const struct net_stack *s, const uint8_t a[4])
{
	if (a[0] == 0 || a[0] == 127 || a[0] >= 224)
		return true;
	for (unsigned i = 0; i < s->config.addresses_n; i++) {
		const struct net_prefix *p = &s->config.addresses[i];
		uint32_t host = p->prefix_len >= 31 ? 0 : ~UINT32_C(0) >> p->prefix_len;

		if (p->addr.family != NET_FAMILY_IPV4)
			continue;
		if (memcmp(a, p->addr.bytes, 4) == 0)
			return true;
		if (host != 0 && in_prefix(a, p) && (be32_load(a) & host) == host)
			return true; /* directed broadcast */
	}
	return false;
}

/* RFC 1122 s3.2.1.8: a host takes a packet whatever its options say, but for a route to elsewhere.
 * False too for a list that cannot be walked. */
static bool options_ok(const uint8_t *p, uint32_t len)
{
	enum { END = 0, NOP = 1, LOOSE_ROUTE = 131, STRICT_ROUTE = 137 };
	uint32_t i = 0;

	while (i < len && p[i] != END) {
		if (p[i] == NOP) {
			i++;
			continue;
		}
		if (p[i] == LOOSE_ROUTE || p[i] == STRICT_ROUTE)
			return false;
		if (len - i < 2 || p[i + 1] < 2 || p[i + 1] > len - i)
			return false;
		i += p[i + 1];
	}
	return true;
}

/* Header checks; false if the packet is to be dropped (counted). `header` bytes by its own account.
 */
static bool ip4_check(struct net_stack *s, const struct rte_mbuf *m, const struct ip4_header *ip,
		      uint32_t header)
{
	uint64_t cksum_flags = m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
	uint16_t total;

	if (ip->version_ihl >> 4 != 4) {
		COUNT(s, rx_drop_ip_version);
		return false;
	}
	if (header < sizeof(*ip)) {
		COUNT(s, rx_drop_ip_header);
		return false;
	}
	if (header > m->data_len) {
		COUNT(s, rx_drop_ip_short);
		return false;
	}
	total = be16_get(ip->total_length);
	if (total < header || total > m->pkt_len) {
		COUNT(s, rx_drop_ip_length);
		return false;
	}
	if (cksum_flags == RTE_MBUF_F_RX_IP_CKSUM_BAD ||
	    (cksum_flags == RTE_MBUF_F_RX_IP_CKSUM_UNKNOWN &&
	     (s->config.flags & NET_RX_CSUM_TRUST) == 0 &&
	     cksum_reduce(cksum_add(0, ip, header)) != 0xffff)) {
		COUNT(s, rx_drop_ip_checksum);
		return false;
	}
	if (unlikely(header > sizeof(*ip)) &&
	    !options_ok((const uint8_t *)(ip + 1), header - (uint32_t)sizeof(*ip))) {
		COUNT(s, rx_drop_ip_options);
		return false;
	}
	if (source_bad(s, ip->src)) {
		COUNT(s, rx_drop_ip_src);
		return false;
	}
	return true;
}

void ip4_rx(struct net_stack *s, struct rte_mbuf *m, bool to_us)
{
	struct net_addr src = {.family = NET_FAMILY_IPV4};
	struct net_addr dst = {.family = NET_FAMILY_IPV4};
	const struct ip4_header *ip;
	uint32_t header;

	if (unlikely(m->data_len < sizeof(*ip))) {
		COUNT(s, rx_drop_ip_short);
		goto drop;
	}
	ip = rte_pktmbuf_mtod(m, const struct ip4_header *);
	header = (ip->version_ihl & 0xfu) * 4;
	if (unlikely(!ip4_check(s, m, ip, header)))
		goto drop;
	memcpy(src.bytes, ip->src, 4);
	memcpy(dst.bytes, ip->dst, 4);
	/* Nothing we speak is for groups: RFC 1122 s3.2.2, s4.2.3.10. */
	if (unlikely(!to_us || !net_addr_is_ours(s, &dst))) {
		COUNT(s, rx_drop_ip_dst);
		goto drop;
	}
	if (m->pkt_len > be16_get(ip->total_length))
		net_mbuf_cut(m, be16_get(ip->total_length)); /* Ethernet padding */
	s->reassembled = false;
	if (unlikely(be16_get(ip->fragment) & IP4_MORE_OR_OFFSET)) {
		m = reassembly_ip4(s, m, header);
		if (m == NULL)
			return;
		s->reassembled = true;
		ip = rte_pktmbuf_mtod(m, const struct ip4_header *);
	}
	switch (ip->protocol) {
	case IP_PROTO_TCP:
		tcp_rx(s, m, header, &src, &dst);
		return;
	case IP_PROTO_UDP:
		udp_rx(s, m, header, &src, &dst);
		return;
	case IP_PROTO_ICMP:
		icmp_rx(s, m, header, &src, &dst);
		return;
	default:
		COUNT(s, rx_drop_ip_protocol);
		break;
	}
drop:
	rte_pktmbuf_free(m);
}

/* ---- out ------------------------------------------------------------------------------------ */

/* The neighbour that packets to `dst` go to. */
static bool next_hop(const struct net_stack *s, const struct net_addr *dst,
		     struct net_addr *hop_out)
{
	for (unsigned i = 0; i < s->config.addresses_n; i++) {
		if (in_prefix(dst->bytes, &s->config.addresses[i])) {
			*hop_out = *dst;
			return true;
		}
	}
	*hop_out = s->config.gateway;
	return s->config.gateway.family == dst->family;
}

bool net_source_for(const struct net_stack *s, const struct net_addr *dst, struct net_addr *src_out)
{
	const struct net_addr *best = NULL;
	struct net_addr hop;

	if (dst->family == NET_FAMILY_IPV6)
		return ndp_source_for(s, dst, src_out);
	if (dst->family != NET_FAMILY_IPV4 || !next_hop(s, dst, &hop))
		return false;
	for (unsigned i = 0; i < s->config.addresses_n; i++) {
		const struct net_prefix *p = &s->config.addresses[i];

		if (p->addr.family != NET_FAMILY_IPV4)
			continue;
		if (best == NULL)
			best = &p->addr;
		if (in_prefix(hop.bytes, p)) {
			best = &p->addr;
			break;
		}
	}
	if (best == NULL)
		return false;
	*src_out = *best;
	src_out->port = 0;
	return true;
}

uint64_t net_pseudo_sum(const struct net_addr *src, const struct net_addr *dst, uint8_t protocol,
			uint32_t l4_len)
{
	size_t bytes = src->family == NET_FAMILY_IPV4 ? 4 : 16;
	uint8_t tail[8] = {0};
	uint64_t sum;

	sum = cksum_add(0, src->bytes, bytes);
	sum = cksum_add(sum, dst->bytes, bytes);
	be32_store(tail, l4_len);
	tail[7] = protocol;
	return cksum_add(sum, tail, sizeof(tail));
}

void net_l4_checksum(struct net_stack *s, struct rte_mbuf *m, uint16_t *field,
		     const struct net_addr *src, const struct net_addr *dst, uint8_t protocol)
{
	uint64_t sum;

	*field = 0;
	if (m->ol_flags & RTE_MBUF_F_TX_TCP_SEG) {
		/* Each piece has a length of its own, which whoever cuts adds. */
		*field = cksum_reduce(net_pseudo_sum(src, dst, protocol, 0));
		m->ol_flags |= RTE_MBUF_F_TX_TCP_CKSUM;
		return;
	}
	sum = net_pseudo_sum(src, dst, protocol, m->pkt_len);
	if (s->config.flags & NET_TX_CSUM_L4) {
		/* The device adds the rest to the pseudo-header's sum. */
		*field = cksum_reduce(sum);
		m->ol_flags |= protocol == IP_PROTO_TCP ? RTE_MBUF_F_TX_TCP_CKSUM
							: RTE_MBUF_F_TX_UDP_CKSUM;
		return;
	}
	*field = cksum_fold(cksum_add_chain(sum, m, 0, m->pkt_len));
	if (protocol == IP_PROTO_UDP && *field == 0)
		*field = 0xffff; /* RFC 768: zero means none */
}

bool net_l4_verify(const struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
		   uint32_t len, const struct net_addr *src, const struct net_addr *dst,
		   uint8_t protocol)
{
	uint64_t sum;

	switch (m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) {
	case RTE_MBUF_F_RX_L4_CKSUM_GOOD:
	case RTE_MBUF_F_RX_L4_CKSUM_NONE: /* not written, but the data is known to be intact */
		return true;
	case RTE_MBUF_F_RX_L4_CKSUM_BAD:
		return false;
	default:
		break;
	}
	if (s->config.flags & NET_RX_CSUM_TRUST)
		return true;
	sum = net_pseudo_sum(src, dst, protocol, len);
	return cksum_reduce(cksum_add_chain(sum, m, offset, len)) == 0xffff;
}

/* The next of `n` identifiers, which matter only where a router may fragment. Counted for each pair
 * of ends apart, from a secret place on, so that none tells how many packets others were sent: RFC
 * 6864 s4.3, RFC 7739 s5. */
static uint16_t ip_id_take(struct net_stack *s, const struct net_addr *src,
			   const struct net_addr *dst, uint32_t n)
{
	uint8_t ends[8];
	uint64_t hash;
	uint16_t id;

	memcpy(ends, src->bytes, 4);
	memcpy(ends + 4, dst->bytes, 4);
	hash = siphash24(&s->isn_key, ends, sizeof(ends));
	id = (uint16_t)((hash >> 32) + s->ip_ids[hash % NET_IP_IDS]);
	s->ip_ids[hash % NET_IP_IDS] += (uint16_t)n;
	return id;
}

/* May it be said that no router is to fragment this? What has no path (RST, SYN-ACKs of which
 * nothing is kept) is smaller than what any carries. */
static bool whole(const struct net_stack *s, const struct rte_mbuf *m, uint8_t protocol,
		  const struct net_path *path)
{
	if (!s->config.path_mtu_discovery)
		return false;
	return path != NULL ? !path->fragmentable
			    : protocol == IP_PROTO_TCP && m->pkt_len < IP4_MTU_FLOOR - 20;
}

void net_ip_output(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *src,
		   const struct net_addr *dst, uint8_t protocol, enum ip_ecn ecn,
		   struct net_path *path)
{
	struct net_addr hop;
	struct ip4_header *ip;
	bool dont_fragment;

	if (dst->family == NET_FAMILY_IPV6) {
		ip6_output(s, m, src, dst, protocol, ecn, path);
		return;
	}
	if (unlikely(dst->family != NET_FAMILY_IPV4 || !next_hop(s, dst, &hop))) {
		COUNT(s, tx_drop_no_route);
		rte_pktmbuf_free(m);
		return;
	}
	dont_fragment = whole(s, m, protocol, path);
	ip = net_mbuf_prepend(m, sizeof(*ip));
	ip->version_ihl = IP4_VERSION_IHL;
	ip->tos = (uint8_t)ecn;
	ip->total_length = be16_make((uint16_t)m->pkt_len);
	ip->id = be16_make(dont_fragment ? 0
					 : ip_id_take(s, src, dst, net_tso_pieces(m, m->pkt_len)));
	ip->fragment = be16_make(dont_fragment ? IP4_DONT_FRAGMENT : 0);
	ip->ttl = IP_TTL;
	ip->protocol = protocol;
	ip->checksum = 0;
	memcpy(ip->src, src->bytes, 4);
	memcpy(ip->dst, dst->bytes, 4);
	if (s->config.flags & NET_TX_CSUM_IPV4)
		m->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
	else
		ip->checksum = cksum_fold(cksum_add(0, ip, sizeof(*ip)));
	if ((s->config.flags & (NET_TX_CSUM_IPV4 | NET_TX_CSUM_L4)) != 0 ||
	    (m->ol_flags & RTE_MBUF_F_TX_TCP_SEG) != 0) {
		m->ol_flags |= RTE_MBUF_F_TX_IPV4;
		m->l2_len = net_eth_bytes(s) & 0x7f;
		m->l3_len = sizeof(*ip);
	}
	net_eth_push(s, m, ETH_TYPE_IPV4);
	neigh_output(s, m, &hop, path);
}
