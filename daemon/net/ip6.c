/* IPv6: RFC 8200. Extension headers are walked, a bounded number of them, and obeyed as far as a
 * host that forwards nothing must: options that may not be skipped end the packet, routes with
 * segments left too. Fragments: ip_reassembly.c. Addresses and neighbours: ndp.c. */
#include "daemon/net/net_internal.h"

#include <string.h>

#include "daemon/net/cksum.h"

#define EXTENSIONS_MAX 8

enum {
	IP6_ROUTING = 43,
	IP6_FRAGMENT = 44,
	IP6_NONE = 59,
	IP6_DESTINATION = 60,
};

static bool multicast(const uint8_t a[16])
{
	return a[0] == 0xff;
}

/* A source nobody may answer: RFC 4291 s2.7, s2.5.3; mapped IPv4 addresses have no place on a wire.
 */
static bool source_bad(const struct net_stack *s, const struct net_addr *src)
{
	static const uint8_t zero[15], mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (multicast(src->bytes) || memcmp(src->bytes, mapped, 12) == 0)
		return true;
	if (memcmp(src->bytes, zero, 15) == 0 && src->bytes[15] == 1)
		return true;
	return ndp_address_find(s, src) != NULL;
}

/* Options of a hop-by-hop or destination header: RFC 8200 s4.2. False: drop the packet. */
static bool options_ok(struct net_stack *s, const struct rte_mbuf *m, uint32_t at, uint32_t len,
		       const struct net_addr *src, const struct net_addr *dst)
{
	const uint8_t *p = rte_pktmbuf_mtod_offset(m, const uint8_t *, at);
	uint32_t i = 2;

	while (i < len) {
		if (p[i] == 0) { /* Pad1 */
			i++;
			continue;
		}
		if (len - i < 2 || p[i + 1] > len - i - 2)
			return false;
		switch (p[i] == 5 ? 0 : p[i] >> 6) { /* 5: router alert, MLD's */
		case 0:
			break;
		case 1:
			return false;
		case 3:
			if (multicast(dst->bytes))
				return false;
			/* fall through */
		default:
			icmp6_error(s, m, ICMP6_PARAMETER, 2, at + i, src, dst);
			return false;
		}
		i += 2u + p[i + 1];
	}
	return true;
}

/* Walk to the upper layer. Its protocol, *offset and where that protocol stands, or -1: drop
 * (counted). Fragments stop the walk. */
static int extensions_walk(struct net_stack *s, const struct rte_mbuf *m, uint32_t *offset,
			   uint32_t *next_at, const struct net_addr *src,
			   const struct net_addr *dst)
{
	const struct ip6_header *ip = rte_pktmbuf_mtod(m, const struct ip6_header *);
	uint32_t at = sizeof(*ip);
	uint8_t next = ip->next;

	*next_at = offsetof(struct ip6_header, next);

	for (unsigned n = 0; n < EXTENSIONS_MAX; n++) {
		const uint8_t *p = rte_pktmbuf_mtod_offset(m, const uint8_t *, at);
		uint32_t len;

		*offset = at;
		if (next != IP6_HOP_BY_HOP && next != IP6_ROUTING && next != IP6_DESTINATION)
			return next;
		if (m->data_len < at + 8 || m->data_len < at + (p[1] + 1u) * 8)
			break;
		len = (p[1] + 1u) * 8;
		if (next == IP6_HOP_BY_HOP && n > 0) {
			icmp6_error(s, m, ICMP6_PARAMETER, 1, *next_at, src, dst);
			break;
		}
		if (next == IP6_ROUTING) {
			if (p[3] != 0) { /* RFC 5095, RFC 8200 s4.4 */
				icmp6_error(s, m, ICMP6_PARAMETER, 0, at + 2, src, dst);
				break;
			}
		} else if (!options_ok(s, m, at, len, src, dst)) {
			break;
		}
		next = p[0];
		*next_at = at;
		at += len;
	}
	COUNT(s, rx_drop_ip_options);
	return -1;
}

/* The byte that says `next` lies at `next_at`. */
static void dispatch(struct net_stack *s, struct rte_mbuf *m, uint8_t next, uint32_t next_at,
		     uint32_t offset, const struct net_addr *src, const struct net_addr *dst)
{
	switch (next) {
	case IP_PROTO_TCP:
		tcp_rx(s, m, offset, src, dst);
		return;
	case IP_PROTO_UDP:
		udp_rx(s, m, offset, src, dst);
		return;
	case IP_PROTO_ICMP6:
		icmp6_rx(s, m, offset, src, dst);
		return;
	default:
		COUNT(s, rx_drop_ip_protocol);
		if (next != IP6_NONE) /* RFC 8200 s4 */
			icmp6_error(s, m, ICMP6_PARAMETER, 1, next_at, src, dst);
		rte_pktmbuf_free(m);
	}
}

void ip6_rx(struct net_stack *s, struct rte_mbuf *m, bool to_us)
{
	struct net_addr src = {.family = NET_FAMILY_IPV6};
	struct net_addr dst = {.family = NET_FAMILY_IPV6};
	const struct ip6_header *ip;
	uint32_t offset, total, next_at = offsetof(struct ip6_header, next);
	int next;

	if (unlikely(m->data_len < sizeof(*ip))) {
		COUNT(s, rx_drop_ip_short);
		goto drop;
	}
	ip = rte_pktmbuf_mtod(m, const struct ip6_header *);
	total = (uint32_t)sizeof(*ip) + be16_get(ip->payload_length);
	if (unlikely(ip->version_class >> 4 != 6)) {
		COUNT(s, rx_drop_ip_version);
		goto drop;
	}
	if (unlikely(total > m->pkt_len)) {
		COUNT(s, rx_drop_ip_length);
		goto drop;
	}
	memcpy(src.bytes, ip->src, 16);
	memcpy(dst.bytes, ip->dst, 16);
	if (unlikely(source_bad(s, &src))) {
		COUNT(s, rx_drop_ip_src);
		goto drop;
	}
	if (unlikely(multicast(dst.bytes) ? !ndp_group_ours(s, dst.bytes)
					  : !to_us || ndp_address_find(s, &dst) == NULL)) {
		COUNT(s, rx_drop_ip_dst);
		goto drop;
	}
	if (m->pkt_len > total)
		net_mbuf_cut(m, total); /* Ethernet padding */
	s->reassembled = false;
	if (likely(ip->next == IP_PROTO_TCP)) {
		offset = sizeof(*ip);
		next = IP_PROTO_TCP;
	} else {
		next = extensions_walk(s, m, &offset, &next_at, &src, &dst);
		if (next < 0)
			goto drop;
		if (next == IP6_FRAGMENT) {
			m = reassembly_ip6(s, m, offset);
			if (m == NULL)
				return;
			s->reassembled = true;
			next = extensions_walk(s, m, &offset, &next_at, &src, &dst);
			if (next < 0 || next == IP6_FRAGMENT)
				goto drop;
		}
	}
	/* Only neighbour discovery speaks to or from what is no proper unicast address. */
	if (unlikely(next != IP_PROTO_ICMP6 &&
		     (net_addr_is_any(&src) || !net_addr_is_ours(s, &dst)))) {
		COUNT(s, rx_drop_ip_dst);
		goto drop;
	}
	dispatch(s, m, (uint8_t)next, next_at, offset, &src, &dst);
	return;
drop:
	rte_pktmbuf_free(m);
}

/* ---- out ------------------------------------------------------------------------------------ */

void ip6_push(struct rte_mbuf *m, const struct net_addr *src, const struct net_addr *dst,
	      uint8_t protocol, enum ip_ecn ecn, uint8_t hop_limit)
{
	uint16_t len = (uint16_t)m->pkt_len;
	struct ip6_header *ip = net_mbuf_prepend(m, sizeof(*ip));

	ip->version_class = 0x60;
	ip->class_flow = (uint8_t)(ecn << 4);
	ip->flow = be16_make(0);
	ip->payload_length = be16_make(len);
	ip->next = protocol;
	ip->hop_limit = hop_limit;
	memcpy(ip->src, src->bytes, 16);
	memcpy(ip->dst, dst->bytes, 16);
}

/* RFC 2464 s7. */
static void group_mac(const uint8_t group[16], uint8_t mac_out[6])
{
	mac_out[0] = mac_out[1] = 0x33;
	memcpy(mac_out + 2, group + 12, 4);
}

void ip6_link_output(struct net_stack *s, struct rte_mbuf *m, const uint8_t *mac)
{
	uint8_t group[6];

	if (mac == NULL) {
		group_mac(rte_pktmbuf_mtod(m, const struct ip6_header *)->dst, group);
		mac = group;
	}
	net_eth_push(s, m, ETH_TYPE_IPV6);
	memcpy(rte_pktmbuf_mtod(m, struct eth_header *)->dst, mac, 6);
	net_xmit(s, m);
}

void ip6_output(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *src,
		const struct net_addr *dst, uint8_t protocol, enum ip_ecn ecn,
		struct net_path *path)
{
	struct net_addr hop;

	if (unlikely(multicast(dst->bytes) || !ndp_next_hop(s, dst, &hop))) {
		COUNT(s, tx_drop_no_route);
		rte_pktmbuf_free(m);
		return;
	}
	ip6_push(m, src, dst, protocol, ecn, s->hop_limit6);
	if ((s->config.flags & NET_TX_CSUM_L4) != 0 || (m->ol_flags & RTE_MBUF_F_TX_TCP_SEG) != 0) {
		m->ol_flags |= RTE_MBUF_F_TX_IPV6;
		m->l2_len = net_eth_bytes(s) & 0x7f;
		m->l3_len = sizeof(struct ip6_header);
	}
	net_eth_push(s, m, ETH_TYPE_IPV6);
	neigh_output(s, m, &hop, path);
}
