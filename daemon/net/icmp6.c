/* ICMPv6: RFC 4443. Echo, errors about our packets, errors about theirs; neighbour discovery goes
 * on to ndp.c, listener discovery to mld.c. */
#include "daemon/net/net_internal.h"

#include <string.h>

#include "daemon/net/cksum.h"

#define ERROR_MTU 1280 /* RFC 4443 s2.4 (c): an error's largest packet */

static bool checksum_ok(const struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
			const struct net_addr *dst)
{
	uint32_t len = m->pkt_len - offset;
	uint64_t sum = net_pseudo_sum(src, dst, IP_PROTO_ICMP6, len);

	return cksum_reduce(cksum_add_chain(sum, m, offset, len)) == 0xffff;
}

void icmp6_checksum(struct rte_mbuf *m, const struct net_addr *src, const struct net_addr *dst)
{
	struct icmp_header *icmp = rte_pktmbuf_mtod(m, struct icmp_header *);
	uint64_t sum = net_pseudo_sum(src, dst, IP_PROTO_ICMP6, m->pkt_len);

	icmp->checksum = 0;
	icmp->checksum = cksum_fold(cksum_add_chain(sum, m, 0, m->pkt_len));
}

static void echo(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
		 const struct net_addr *src, const struct net_addr *dst)
{
	struct net_addr from = *dst;
	struct rte_mbuf *out;

	/* To a group: answered from an address of our own. RFC 4443 s4.2. */
	if ((dst->bytes[0] == 0xff && !net_source_for(s, src, &from)) ||
	    m->pkt_len - offset + sizeof(struct ip6_header) > s->config.mtu)
		return;
	out = icmp_copy(s, m, offset);
	if (out == NULL)
		return;
	rte_pktmbuf_mtod(out, struct icmp_header *)->type = ICMP6_ECHO_REPLY;
	icmp6_checksum(out, &from, src);
	COUNT(s, rx_icmp_echo);
	net_ip_output(s, out, &from, src, IP_PROTO_ICMP6, IP_ECN_NOT, NULL);
}

/* An error about a packet of ours. */
static void error_in(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset)
{
	const struct icmp_header *icmp =
		rte_pktmbuf_mtod_offset(m, const struct icmp_header *, offset);
	const uint32_t quoted = offset + (uint32_t)sizeof(*icmp);
	struct net_addr local = {.family = NET_FAMILY_IPV6};
	struct net_addr remote = {.family = NET_FAMILY_IPV6};
	struct tcp_icmp error = {.mtu = be32_load(icmp->rest)};
	const struct ip6_header *ip;
	const struct tcp_header *tcp;

	if (m->data_len < quoted + sizeof(*ip) + 8) {
		COUNT(s, rx_drop_icmp_malformed);
		return;
	}
	ip = rte_pktmbuf_mtod_offset(m, const struct ip6_header *, quoted);
	if (ip->version_class >> 4 != 6 || ip->next != IP_PROTO_TCP) { /* we send no extensions */
		COUNT(s, rx_drop_icmp_type);
		return;
	}
	tcp = (const struct tcp_header *)(ip + 1); /* its first 8 bytes: ports, seq */
	memcpy(local.bytes, ip->src, 16);
	memcpy(remote.bytes, ip->dst, 16);
	local.port = be16_get(tcp->src);
	remote.port = be16_get(tcp->dst);
	error.seq = be32_get(tcp->seq);
	switch (icmp->type) {
	case ICMP6_UNREACHABLE:
		error.kind = icmp->code == 4 ? TCP_ICMP_REFUSED : TCP_ICMP_UNREACHABLE;
		break;
	case ICMP6_TOO_BIG:
		error.kind = TCP_ICMP_TOO_BIG;
		break;
	case ICMP6_PARAMETER: /* code 1: nobody speaks TCP there */
		error.kind = icmp->code == 1 ? TCP_ICMP_REFUSED : TCP_ICMP_SOFT;
		break;
	default: /* time exceeded */
		error.kind = TCP_ICMP_SOFT;
		break;
	}
	tcp_icmp_in(s, &local, &remote, &error);
}

void icmp6_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	      const struct net_addr *dst)
{
	const struct icmp_header *icmp;

	if (m->data_len < offset + sizeof(*icmp) || !checksum_ok(m, offset, src, dst)) {
		COUNT(s, rx_drop_icmp_malformed);
		goto out;
	}
	icmp = rte_pktmbuf_mtod_offset(m, const struct icmp_header *, offset);
	if (icmp->type >= ICMP6_ROUTER_SOLICIT && icmp->type <= ICMP6_REDIRECT) {
		ndp_rx(s, m, offset, src, dst);
	} else if (icmp->type == ICMP6_LISTENER_QUERY) {
		mld_rx(s, m, offset, src);
	} else if (net_addr_is_any(src)) {
		COUNT(s, rx_drop_ip_src);
	} else if (icmp->type == ICMP6_ECHO && icmp->code == 0) {
		if ((s->config.flags & NET_PRIMARY) != 0 && icmp_allowed(s))
			echo(s, m, offset, src, dst);
	} else if (icmp->type >= ICMP6_UNREACHABLE && icmp->type <= ICMP6_PARAMETER &&
		   net_addr_is_ours(s, dst)) {
		error_in(s, m, offset);
	} else {
		COUNT(s, rx_drop_icmp_type);
	}
out:
	rte_pktmbuf_free(m);
}

/* RFC 4443 s2.4 (e): never about an error, a group's packet (but for two kinds), or a source that
 * is no one. */
static bool error_fits(const struct rte_mbuf *m, uint8_t type, uint8_t code,
		       const struct net_addr *src, const struct net_addr *dst)
{
	const struct ip6_header *ip = rte_pktmbuf_mtod(m, const struct ip6_header *);

	if (net_addr_is_any(src) || src->bytes[0] == 0xff)
		return false;
	if (dst->bytes[0] == 0xff && !(type == ICMP6_PARAMETER && code == 2))
		return false;
	return ip->next != IP_PROTO_ICMP6 ||
	       (m->data_len > sizeof(*ip) &&
		*rte_pktmbuf_mtod_offset(m, const uint8_t *, sizeof(*ip)) >= ICMP6_ECHO);
}

void icmp6_error(struct net_stack *s, const struct rte_mbuf *m, uint8_t type, uint8_t code,
		 uint32_t rest, const struct net_addr *src, const struct net_addr *dst)
{
	struct net_addr from = *dst;
	struct icmp_header *icmp;
	struct rte_mbuf *out;
	uint32_t quote;

	if (!error_fits(m, type, code, src, dst) || !icmp_allowed(s) ||
	    (dst->bytes[0] == 0xff && !net_source_for(s, src, &from)))
		return;
	out = net_mbuf_get(s);
	if (out == NULL)
		return;
	icmp = net_mbuf_append(out, sizeof(*icmp));
	icmp->type = type;
	icmp->code = code;
	be32_store(icmp->rest, rest);
	quote = ERROR_MTU - (uint32_t)(sizeof(struct ip6_header) + sizeof(*icmp));
	if (quote > m->data_len)
		quote = m->data_len;
	if (quote > rte_pktmbuf_tailroom(out))
		quote = rte_pktmbuf_tailroom(out);
	memcpy(net_mbuf_append(out, (uint16_t)quote), rte_pktmbuf_mtod(m, const void *), quote);
	icmp6_checksum(out, &from, src);
	COUNT(s, tx_icmp_unreachable);
	net_ip_output(s, out, &from, src, IP_PROTO_ICMP6, IP_ECN_NOT, NULL);
}
