/* ICMP for IPv4: echo, port unreachable, errors about our connections. RFC 792, RFC 1122 s3.2.2.
 * icmp6.c is its IPv6 twin; what errors do to a connection is in pmtu.c. */
#include "daemon/net/net_internal.h"

#include <string.h>

#include "daemon/net/cksum.h"

enum { ICMP_ECHO_REPLY = 0, ICMP_UNREACHABLE = 3, ICMP_ECHO = 8, ICMP_TIME_EXCEEDED = 11 };
enum { ICMP_CODE_PROTOCOL = 2, ICMP_CODE_PORT = 3, ICMP_CODE_TOO_BIG = 4 };

#define ICMP_BURST 64 /* messages the bucket holds */

/* Token bucket kept as the time at which it was empty. RFC 1812 s4.3.2.8. */
bool icmp_allowed(struct net_stack *s)
{
	uint64_t cost, full;

	if (s->config.icmp_per_second == 0) {
		COUNT(s, tx_icmp_limited);
		return false;
	}
	cost = SEC_NS / s->config.icmp_per_second;
	full = cost * ICMP_BURST;
	if (s->now_ns > full && s->icmp_tokens_ns < s->now_ns - full)
		s->icmp_tokens_ns = s->now_ns - full;
	if (s->icmp_tokens_ns + cost > s->now_ns) {
		COUNT(s, tx_icmp_limited);
		return false;
	}
	s->icmp_tokens_ns += cost;
	return true;
}

struct rte_mbuf *icmp_copy(struct net_stack *s, const struct rte_mbuf *m, uint32_t off)
{
	uint32_t left = m->pkt_len - off;
	struct rte_mbuf *head = net_mbuf_get(s);
	struct rte_mbuf *tail = head;

	while (head != NULL && left > 0) {
		uint16_t n = rte_pktmbuf_tailroom(tail);
		const void *from;
		char *to;

		if (n > left)
			n = (uint16_t)left;
		to = rte_pktmbuf_mtod_offset(tail, char *, tail->data_len);
		from = rte_pktmbuf_read(m, off, n, to);
		if (from != to)
			memcpy(to, from, n);
		tail->data_len = (uint16_t)(tail->data_len + n);
		head->pkt_len += n;
		off += n;
		left -= n;
		if (left == 0)
			break;
		tail->next = net_mbuf_get(s);
		if (tail->next == NULL) {
			rte_pktmbuf_free(head);
			return NULL;
		}
		tail = tail->next;
		head->nb_segs++;
	}
	return head;
}

/* Answer an echo with a copy: the received mbuf may be shared or lack headroom. */
static void icmp_echo(struct net_stack *s, const struct rte_mbuf *m, uint32_t off,
		      const struct net_addr *src, const struct net_addr *dst)
{
	struct rte_mbuf *head = NULL;
	struct icmp_header *icmp;

	if (m->pkt_len - off + sizeof(struct ip4_header) <= s->config.mtu)
		head = icmp_copy(s, m, off);
	if (head == NULL) /* nothing is sent in fragments */
		return;
	icmp = rte_pktmbuf_mtod(head, struct icmp_header *);
	icmp->type = ICMP_ECHO_REPLY;
	icmp->checksum = 0;
	icmp->checksum = cksum_fold(cksum_add_chain(0, head, 0, head->pkt_len));
	COUNT(s, rx_icmp_echo);
	net_ip_output(s, head, dst, src, IP_PROTO_ICMP, IP_ECN_NOT, NULL);
}

/* An error about a segment we sent. */
static void icmp_error_in(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset)
{
	const struct icmp_header *icmp =
		rte_pktmbuf_mtod_offset(m, const struct icmp_header *, offset);
	const uint32_t quoted = offset + (uint32_t)sizeof(*icmp);
	struct net_addr local = {.family = NET_FAMILY_IPV4};
	struct net_addr remote = {.family = NET_FAMILY_IPV4};
	struct tcp_icmp error = {.kind = TCP_ICMP_UNREACHABLE, .mtu = be16_load(icmp->rest + 2)};
	const struct ip4_header *ip;
	const struct tcp_header *tcp;

	if (m->data_len < quoted + sizeof(*ip) + 8) {
		COUNT(s, rx_drop_icmp_malformed);
		return;
	}
	ip = rte_pktmbuf_mtod_offset(m, const struct ip4_header *, quoted);
	if (ip->version_ihl != IP4_VERSION_IHL || ip->protocol != IP_PROTO_TCP) {
		COUNT(s, rx_drop_icmp_type);
		return;
	}
	tcp = (const struct tcp_header *)(ip + 1); /* its first 8 bytes: ports, seq */
	memcpy(local.bytes, ip->src, 4);
	memcpy(remote.bytes, ip->dst, 4);
	local.port = be16_get(tcp->src);
	remote.port = be16_get(tcp->dst);
	error.seq = be32_get(tcp->seq);
	if (icmp->type == ICMP_TIME_EXCEEDED)
		error.kind = TCP_ICMP_SOFT;
	else if (icmp->code == ICMP_CODE_TOO_BIG)
		error.kind = TCP_ICMP_TOO_BIG;
	else if (icmp->code == ICMP_CODE_PROTOCOL || icmp->code == ICMP_CODE_PORT)
		error.kind = TCP_ICMP_REFUSED;
	tcp_icmp_in(s, &local, &remote, &error);
}

void icmp_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	     const struct net_addr *dst)
{
	uint32_t len = m->pkt_len - offset;
	const struct icmp_header *icmp;

	if (m->data_len < offset + sizeof(*icmp) ||
	    cksum_reduce(cksum_add_chain(0, m, offset, len)) != 0xffff) {
		COUNT(s, rx_drop_icmp_malformed);
		goto out;
	}
	icmp = rte_pktmbuf_mtod_offset(m, const struct icmp_header *, offset);
	if (icmp->type == ICMP_ECHO && icmp->code == 0) {
		if ((s->config.flags & NET_PRIMARY) != 0 && icmp_allowed(s))
			icmp_echo(s, m, offset, src, dst);
	} else if (icmp->type == ICMP_UNREACHABLE || icmp->type == ICMP_TIME_EXCEEDED) {
		icmp_error_in(s, m, offset);
	} else {
		COUNT(s, rx_drop_icmp_type);
	}
out:
	rte_pktmbuf_free(m);
}

void icmp_port_unreachable(struct net_stack *s, const struct rte_mbuf *m, uint32_t ip_bytes,
			   const struct net_addr *src, const struct net_addr *dst)
{
	/* RFC 792: the offending header and 64 bits behind it. */
	const uint16_t quote = (uint16_t)(ip_bytes + 8);
	struct icmp_header *icmp;
	struct rte_mbuf *out;

	if (src->family == NET_FAMILY_IPV6) {
		icmp6_error(s, m, ICMP6_UNREACHABLE, 4, 0, src, dst);
		return;
	}
	if (m->data_len < quote || !icmp_allowed(s))
		return;
	out = net_mbuf_get(s);
	if (out == NULL)
		return;
	icmp = net_mbuf_append(out, (uint16_t)(sizeof(*icmp) + quote));
	memset(icmp, 0, sizeof(*icmp));
	icmp->type = ICMP_UNREACHABLE;
	icmp->code = ICMP_CODE_PORT;
	memcpy(icmp + 1, rte_pktmbuf_mtod(m, const void *), quote);
	icmp->checksum = cksum_fold(cksum_add(0, icmp, sizeof(*icmp) + quote));
	COUNT(s, tx_icmp_unreachable);
	net_ip_output(s, out, dst, src, IP_PROTO_ICMP, IP_ECN_NOT, NULL);
}
