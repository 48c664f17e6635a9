/* UDP: RFC 768. A small table of ports; what nobody wants gets ICMP port unreachable. */
#include "daemon/net/net_internal.h"

#include <string.h>

static struct net_udp_port *udp_find(struct net_stack *s, const struct net_addr *local)
{
	for (unsigned i = 0; i < NET_UDP_PORTS_MAX; i++) {
		struct net_udp_port *p = &s->udp_ports[i];

		if (p->local.family == local->family && p->local.port == local->port &&
		    (net_addr_is_any(&p->local) || net_addr_equal(&p->local, local)))
			return p;
	}
	return NULL;
}

int net_udp_bind(struct net_stack *s, const struct net_addr *local, net_udp_recv_fn recv, void *ctx)
{
	if (local->port == 0 || local->family == NET_FAMILY_NONE || recv == NULL)
		return -SPLIT_E_BASE_INVALID;
	for (unsigned i = 0; i < NET_UDP_PORTS_MAX; i++) {
		if (net_addr_equal(&s->udp_ports[i].local, local))
			return -SPLIT_E_NET_IN_USE;
	}
	for (unsigned i = 0; i < NET_UDP_PORTS_MAX; i++) {
		struct net_udp_port *p = &s->udp_ports[i];

		if (p->local.family == NET_FAMILY_NONE) {
			*p = (struct net_udp_port){.local = *local, .recv = recv, .ctx = ctx};
			return 0;
		}
	}
	return -SPLIT_E_BASE_LIMIT;
}

void net_udp_unbind(struct net_stack *s, const struct net_addr *local)
{
	for (unsigned i = 0; i < NET_UDP_PORTS_MAX; i++) {
		if (net_addr_equal(&s->udp_ports[i].local, local))
			s->udp_ports[i] = (struct net_udp_port){0};
	}
}

void udp_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	    const struct net_addr *dst)
{
	struct net_addr local = *dst, peer = *src;
	const struct udp_header *udp;
	struct net_udp_port *port;
	uint16_t len;

	if (m->data_len < offset + sizeof(*udp)) {
		COUNT(s, rx_drop_udp_malformed);
		goto drop;
	}
	udp = rte_pktmbuf_mtod_offset(m, const struct udp_header *, offset);
	len = be16_get(udp->length);
	peer.port = be16_get(udp->src);
	local.port = be16_get(udp->dst);
	if (len < sizeof(*udp) || len > m->pkt_len - offset || local.port == 0) {
		COUNT(s, rx_drop_udp_malformed);
		goto drop;
	}
	if (udp->checksum == 0 && src->family == NET_FAMILY_IPV6) { /* RFC 8200 s8.1 */
		COUNT(s, rx_drop_udp_checksum);
		goto drop;
	}
	if (udp->checksum != 0 && !net_l4_verify(s, m, offset, len, src, dst, IP_PROTO_UDP)) {
		COUNT(s, rx_drop_udp_checksum);
		goto drop;
	}
	port = udp_find(s, &local);
	if (port == NULL) {
		COUNT(s, rx_drop_udp_port);
		icmp_port_unreachable(s, m, offset, src, dst);
		goto drop;
	}
	COUNT(s, rx_udp_datagrams);
	net_mbuf_cut(m, offset + len);
	rte_pktmbuf_adj(m, (uint16_t)(offset + sizeof(*udp)));
	port->recv(port->ctx, &local, &peer, m);
	return;
drop:
	rte_pktmbuf_free(m);
}

int net_udp_send(struct net_stack *s, const struct net_addr *local, const struct net_addr *peer,
		 struct rte_mbuf *payload)
{
	struct net_addr src = *local;
	struct udp_header *udp;
	struct rte_mbuf *m;

	uint32_t ip_header = local->family == NET_FAMILY_IPV6 ? sizeof(struct ip6_header)
							      : sizeof(struct ip4_header);

	if (payload->pkt_len + ip_header + sizeof(*udp) > s->config.mtu) {
		rte_pktmbuf_free(payload);
		return -SPLIT_E_BASE_INVALID;
	}
	if (net_addr_is_any(&src) && !net_source_for(s, peer, &src)) {
		rte_pktmbuf_free(payload);
		return -SPLIT_E_NET_NO_ROUTE;
	}
	m = net_mbuf_get(s);
	if (m == NULL) {
		rte_pktmbuf_free(payload);
		return -SPLIT_E_NET_NOMEM;
	}
	udp = net_mbuf_append(m, sizeof(*udp));
	udp->src = be16_make(local->port);
	udp->dst = be16_make(peer->port);
	udp->length = be16_make((uint16_t)(sizeof(*udp) + payload->pkt_len));
	m->next = payload;
	m->nb_segs = (uint16_t)(1 + payload->nb_segs);
	m->pkt_len += payload->pkt_len;
	net_l4_checksum(s, m, &udp->checksum, &src, peer, IP_PROTO_UDP);
	COUNT(s, tx_udp_datagrams);
	net_ip_output(s, m, &src, peer, IP_PROTO_UDP, IP_ECN_NOT, NULL);
	return 0;
}
