/* Joining received TCP segments of one flow that follow each other in a burst (GRO in software):
 * the stack then handles one large segment instead of many small ones.
 *
 * Not by rte_gro, though it knows IPv4. That library joins segments with different ECN marks and
 * window fields, of which only the first is kept; it gives what it can't join (a PSH segment, the
 * end of every write of a Linux peer) after what followed it; and it joins segments whose checksums
 * are wrong. Here only segments are joined that differ in nothing but sequence number, PSH, IPv4
 * identifier and checksums, in order, each verified before: the stack reads the same from the
 * joined one as from its parts. The largest but the last have one size, which `tso_segsz` says.
 *
 * Nothing waits for a later burst. */
#include <string.h>

#include <rte_ip.h>
#include <rte_tcp.h>

#include "daemon/port/port_internal.h"

#define FLOWS_MAX   8     /* open at once in a burst; the oldest is closed */
#define PACKET_MAX  65535 /* what an IP header can say */
#define PACKETS_MAX 44    /* joined in one */

/* A received TCP segment, as far as joining looks at it. */
struct part {
	struct rte_mbuf *m;
	const char *l2;
	uint32_t l3_off, l4_off, headers, payload, seq;
	bool ipv4, push;
};

/* A joined or first segment that may get more. */
struct flow {
	struct part first; /* .m NULL: free */
	struct rte_mbuf *tail;
	uint32_t next_seq, size, parts;
	bool verified;
};

static bool ipv4_read(const struct rte_mbuf *m, struct part *out, uint32_t *total)
{
	const struct rte_ipv4_hdr *ip =
		rte_pktmbuf_mtod_offset(m, const struct rte_ipv4_hdr *, out->l3_off);

	out->ipv4 = true;
	out->l4_off = out->l3_off + sizeof(*ip);
	*total = rte_be_to_cpu_16(ip->total_length);
	return ip->version_ihl == RTE_IPV4_VHL_DEF && ip->next_proto_id == IPPROTO_TCP &&
	       (ip->fragment_offset &
		rte_cpu_to_be_16(RTE_IPV4_HDR_OFFSET_MASK | RTE_IPV4_HDR_MF_FLAG)) == 0;
}

static bool ipv6_read(const struct rte_mbuf *m, struct part *out, uint32_t *total)
{
	const struct rte_ipv6_hdr *ip =
		rte_pktmbuf_mtod_offset(m, const struct rte_ipv6_hdr *, out->l3_off);

	out->ipv4 = false;
	out->l4_off = out->l3_off + sizeof(*ip);
	*total = (uint32_t)sizeof(*ip) + rte_be_to_cpu_16(ip->payload_len);
	return (rte_be_to_cpu_32(ip->vtc_flow) >> 28) == 6 && ip->proto == IPPROTO_TCP;
}

/* False: nothing that is ever joined. */
static bool part_read(struct rte_mbuf *m, struct part *out)
{
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	const struct rte_tcp_hdr *tcp;
	uint32_t total, header;

	if (m->data_len < sizeof(*eth) + sizeof(struct rte_ipv4_hdr) + sizeof(*tcp))
		return false;
	out->m = m;
	out->l2 = (const char *)eth;
	out->l3_off = sizeof(*eth);
	if (eth->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4)) {
		if (!ipv4_read(m, out, &total))
			return false;
	} else if (eth->ether_type != rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV6) ||
		   m->data_len < sizeof(*eth) + sizeof(struct rte_ipv6_hdr) + sizeof(*tcp) ||
		   !ipv6_read(m, out, &total)) {
		return false;
	}
	tcp = rte_pktmbuf_mtod_offset(m, const struct rte_tcp_hdr *, out->l4_off);
	header = (uint32_t)(tcp->data_off >> 4) * 4;
	out->headers = out->l4_off + header;
	/* No padding of Ethernet's: what is small is not worth it. */
	if (header < sizeof(*tcp) || out->headers > m->data_len ||
	    m->pkt_len != out->l3_off + total || m->pkt_len <= out->headers)
		return false;
	if ((tcp->tcp_flags & ~RTE_TCP_PSH_FLAG) != RTE_TCP_ACK_FLAG)
		return false;
	out->push = (tcp->tcp_flags & RTE_TCP_PSH_FLAG) != 0;
	out->payload = m->pkt_len - out->headers;
	out->seq = rte_be_to_cpu_32(tcp->sent_seq);
	return true;
}

/* Addresses and ports. */
static bool same_flow(const struct part *a, const struct part *b)
{
	uint32_t from = a->l3_off + (a->ipv4 ? offsetof(struct rte_ipv4_hdr, src_addr)
					     : offsetof(struct rte_ipv6_hdr, src_addr));

	return a->ipv4 == b->ipv4 && memcmp(a->l2 + from, b->l2 + from, a->l4_off - from + 4) == 0;
}

/* All the rest of the headers that must not differ: MAC addresses, type of service with its ECN
 * bits, time to live, acknowledgement, window, options. */
static bool same_headers(const struct part *a, const struct part *b)
{
	const char *x = a->l2, *y = b->l2;
	uint32_t tcp = a->l4_off;

	if (a->headers != b->headers || memcmp(x, y, sizeof(struct rte_ether_hdr)) != 0)
		return false;
	x += a->l3_off;
	y += b->l3_off;
	if (a->ipv4 ? (x[1] != y[1] || memcmp(x + 6, y + 6, 3) != 0)
		    : (memcmp(x, y, 4) != 0 || x[7] != y[7]))
		return false;
	x = a->l2 + tcp;
	y = b->l2 + tcp;
	return memcmp(x + 8, y + 8, 4) == 0 && memcmp(x + 14, y + 14, 2) == 0 &&
	       memcmp(x + 18, y + 18, a->headers - tcp - 18) == 0;
}

/* Whether checksums are known to be right, if need be by looking; then the stack need not. */
static bool verify(const struct port_queue *q, const struct part *p)
{
	uint64_t ip = p->m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
	uint64_t l4 = p->m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
	bool trust = (q->dev->flags & PORT_RX_NO_CKSUM) != 0;
	const void *header = p->l2 + p->l3_off;

	if (ip == RTE_MBUF_F_RX_IP_CKSUM_BAD || l4 == RTE_MBUF_F_RX_L4_CKSUM_BAD)
		return false;
	if (p->ipv4 && ip == RTE_MBUF_F_RX_IP_CKSUM_UNKNOWN && !trust &&
	    rte_raw_cksum(header, sizeof(struct rte_ipv4_hdr)) != 0xffff)
		return false;
	if (l4 == RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN && !trust &&
	    port_l4_sum(p->m, header, p->ipv4, p->l4_off) != 0xffff)
		return false;
	p->m->ol_flags |= RTE_MBUF_F_RX_IP_CKSUM_GOOD | RTE_MBUF_F_RX_L4_CKSUM_GOOD;
	return true;
}

static void flow_open(struct flow *f, const struct part *p)
{
	f->first = *p;
	f->tail = rte_pktmbuf_lastseg(p->m);
	f->next_seq = p->seq + p->payload;
	f->size = p->payload;
	f->parts = 1;
	f->verified = false;
	if (p->push)
		f->first.m = NULL; /* nothing follows the end of a write */
}

static bool may_join(const struct port_queue *q, struct flow *f, const struct part *p)
{
	if (p->seq != f->next_seq || p->payload > f->size || f->parts == PACKETS_MAX ||
	    f->first.m->pkt_len + p->payload > PACKET_MAX || !same_headers(&f->first, p))
		return false;
	f->verified = f->verified || verify(q, &f->first);
	return f->verified && verify(q, p);
}

static void join(struct flow *f, const struct part *p)
{
	struct rte_mbuf *head = f->first.m;
	char *l3 = rte_pktmbuf_mtod_offset(head, char *, f->first.l3_off);
	struct rte_tcp_hdr *tcp =
		rte_pktmbuf_mtod_offset(head, struct rte_tcp_hdr *, f->first.l4_off);
	uint16_t total;

	head->ol_flags |= RTE_MBUF_F_RX_LRO;
	head->tso_segsz = (uint16_t)f->size;
	rte_pktmbuf_adj(p->m, (uint16_t)p->headers);
	f->tail->next = p->m;
	f->tail = rte_pktmbuf_lastseg(p->m);
	head->nb_segs = (uint16_t)(head->nb_segs + p->m->nb_segs);
	head->pkt_len += p->payload;
	f->next_seq += p->payload;
	f->parts++;
	total = (uint16_t)(head->pkt_len - f->first.l3_off);
	if (f->first.ipv4)
		((struct rte_ipv4_hdr *)l3)->total_length = rte_cpu_to_be_16(total);
	else
		((struct rte_ipv6_hdr *)l3)->payload_len =
			rte_cpu_to_be_16((uint16_t)(total - sizeof(struct rte_ipv6_hdr)));
	if (p->push)
		tcp->tcp_flags |= RTE_TCP_PSH_FLAG;
	if (p->push || p->payload < f->size)
		f->first.m = NULL; /* that was the last */
}

uint16_t port_join(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	struct flow flows[FLOWS_MAX];
	unsigned flows_n = 0, oldest = 0;
	uint16_t kept = 0;

	for (uint16_t i = 0; i < n; i++) {
		struct flow *f = NULL;
		struct part p;

		if (!part_read(pkts[i], &p)) {
			flows_n = oldest = 0; /* it may be of any flow: none goes on past it */
			pkts[kept++] = pkts[i];
			continue;
		}
		for (unsigned k = 0; k < flows_n && f == NULL; k++)
			if (flows[k].first.m != NULL && same_flow(&flows[k].first, &p))
				f = &flows[k];
		if (f != NULL && may_join(q, f, &p)) {
			join(f, &p);
			counter_inc(&q->counters.rx_joined);
			continue;
		}
		pkts[kept++] = pkts[i];
		if (f == NULL && flows_n < FLOWS_MAX)
			f = &flows[flows_n++];
		else if (f == NULL)
			f = &flows[oldest++ % FLOWS_MAX];
		flow_open(f, &p);
	}
	return kept;
}
