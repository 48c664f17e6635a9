/* Cutting large TCP segments into those that the link carries, where the device doesn't (TSO in
 * software). What leaves is, byte for byte, what the stack would have built one by one.
 *
 * A device that takes chains and clones gets a header mbuf with references to the payload behind
 * it: by rte_gso for IPv4, by the same scheme of our own for IPv6, which rte_gso 22.11 doesn't
 * know. For other devices each segment would be copied together afterwards: there header and
 * payload are copied at once.
 *
 * The pieces of a segment that the device did not all take stay here until its next try. Until then
 * the segment counts as not taken, so the stack knows that it has frames to send. */
#include <string.h>

#include <rte_gso.h>
#include <rte_ip.h>
#include <rte_tcp.h>

#include "daemon/port/port_internal.h"

#define TCP_FIN_PSH (RTE_TCP_FIN_FLAG | RTE_TCP_PSH_FLAG)

struct cut {
	uint32_t headers; /* bytes in front of the payload */
	uint32_t mss, payload;
	uint16_t n; /* pieces */
	bool ipv4;
};

/* False: no segment that can be cut. */
static bool cut_plan(const struct rte_mbuf *pkt, struct cut *out)
{
	out->headers = pkt->l2_len + pkt->l3_len + pkt->l4_len;
	out->mss = pkt->tso_segsz;
	out->ipv4 = (pkt->ol_flags & RTE_MBUF_F_TX_IPV4) != 0;
	if (out->mss == 0 || pkt->data_len < out->headers || pkt->pkt_len <= out->headers)
		return false;
	out->payload = pkt->pkt_len - out->headers;
	if (out->payload > out->mss * PORT_CUT_MAX)
		return false;
	out->n = (uint16_t)((out->payload + out->mss - 1) / out->mss);
	return true;
}

/* A position in the payload of a chain. */
struct cursor {
	const struct rte_mbuf *seg;
	uint32_t off;
};

static uint32_t cursor_left(struct cursor *at, uint32_t want)
{
	while (at->off == at->seg->data_len) {
		at->seg = at->seg->next;
		at->off = 0;
	}
	return RTE_MIN(want, at->seg->data_len - at->off);
}

static struct rte_mbuf *header_make(struct rte_mempool *pool, const struct rte_mbuf *pkt,
				    uint32_t headers)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);

	if (m == NULL)
		return NULL;
	memcpy(rte_pktmbuf_mtod(m, char *), rte_pktmbuf_mtod(pkt, const char *), headers);
	m->data_len = (uint16_t)headers;
	m->pkt_len = headers;
	m->ol_flags = pkt->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK & ~RTE_MBUF_F_TX_TCP_SEG;
	m->tx_offload = pkt->tx_offload;
	m->tso_segsz = 0;
	return m;
}

/* `bytes` of payload behind m's header, by copy: they fit. */
static void piece_copy(struct rte_mbuf *m, struct cursor *at, uint32_t bytes)
{
	while (bytes > 0) {
		uint32_t n = cursor_left(at, bytes);

		memcpy(rte_pktmbuf_mtod_offset(m, char *, m->data_len),
		       rte_pktmbuf_mtod_offset(at->seg, const char *, at->off), n);
		m->data_len = (uint16_t)(m->data_len + n);
		m->pkt_len += n;
		at->off += n;
		bytes -= n;
	}
}

/* By reference. False: no mbuf. */
static bool piece_attach(struct rte_mempool *pool, struct rte_mbuf *m, struct cursor *at,
			 uint32_t bytes)
{
	struct rte_mbuf *tail = m;

	while (bytes > 0) {
		uint32_t n = cursor_left(at, bytes);
		struct rte_mbuf *ref = rte_pktmbuf_alloc(pool);

		if (ref == NULL)
			return false;
		rte_pktmbuf_attach(ref, (struct rte_mbuf *)(uintptr_t)at->seg);
		ref->data_off = (uint16_t)(at->seg->data_off + at->off);
		ref->data_len = (uint16_t)n;
		tail->next = ref;
		tail = ref;
		m->nb_segs++;
		m->pkt_len += n;
		at->off += n;
		bytes -= n;
	}
	return true;
}

uint16_t port_l4_sum(const struct rte_mbuf *m, const void *ip, bool ipv4, uint32_t l4_off)
{
	uint32_t sum = ipv4 ? rte_ipv4_phdr_cksum(ip, 0) : rte_ipv6_phdr_cksum(ip, 0);
	uint16_t raw = 0;

	if (rte_raw_cksum_mbuf(m, l4_off, m->pkt_len - l4_off, &raw) != 0)
		return 0;
	sum += raw;
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

static uint16_t cut_by_hand(struct port_queue *q, const struct rte_mbuf *pkt, const struct cut *c,
			    bool copy, struct rte_mbuf **out)
{
	struct rte_mempool *pool = copy ? q->linear_pool : q->tx_pool;
	struct cursor at = {pkt, c->headers};
	uint32_t left = c->payload;

	for (uint16_t i = 0; i < c->n; i++) {
		uint32_t bytes = RTE_MIN(left, c->mss);

		out[i] = header_make(pool, pkt, c->headers);
		if (out[i] == NULL) {
			rte_pktmbuf_free_bulk(out, i);
			return 0;
		}
		if (copy) {
			piece_copy(out[i], &at, bytes);
		} else if (!piece_attach(pool, out[i], &at, bytes)) {
			rte_pktmbuf_free_bulk(out, i + 1u);
			return 0;
		}
		left -= bytes;
	}
	return c->n;
}

static uint16_t cut_by_library(struct port_queue *q, struct rte_mbuf *pkt, const struct cut *c,
			       struct rte_mbuf **out)
{
	const struct rte_gso_ctx ctx = {
		.direct_pool = q->tx_pool,
		.indirect_pool = q->tx_pool,
		.gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO,
		.gso_size = (uint16_t)(c->headers + c->mss),
	};
	uint64_t flags = pkt->ol_flags;
	int n = rte_gso_segment(pkt, &ctx, out, PORT_CUT_MAX);
	struct rte_mbuf *empty;

	pkt->ol_flags = flags; /* the library says that it is cut: it may be tried again */
	if (n <= 0)
		return 0;
	/* Where the first mbuf holds headers only, the library refers to nothing of it. */
	empty = out[0]->next;
	if (empty != NULL && empty->data_len == 0) {
		out[0]->next = empty->next;
		out[0]->nb_segs--;
		empty->next = NULL;
		empty->nb_segs = 1;
		rte_pktmbuf_free(empty);
	}
	return (uint16_t)n;
}

/* The header of piece `i` of `c`, its checksums by the device or here. */
static void piece_finish(const struct port_queue *q, struct rte_mbuf *m, const struct cut *c,
			 uint16_t i, rte_be32_t seq, rte_be16_t id)
{
	void *ip = rte_pktmbuf_mtod_offset(m, void *, m->l2_len);
	struct rte_tcp_hdr *tcp =
		rte_pktmbuf_mtod_offset(m, struct rte_tcp_hdr *, m->l2_len + m->l3_len);
	uint16_t l4_off = m->l2_len + m->l3_len;
	bool by_device = (q->dev->flags & PORT_TX_TCP_CKSUM) != 0;
	struct rte_ipv4_hdr *ip4 = ip;
	struct rte_ipv6_hdr *ip6 = ip;

	tcp->sent_seq = rte_cpu_to_be_32(rte_be_to_cpu_32(seq) + i * c->mss);
	if (i + 1u < c->n)
		tcp->tcp_flags &= (uint8_t)~TCP_FIN_PSH;
	if (i > 0)
		tcp->tcp_flags &= (uint8_t)~RTE_TCP_CWR_FLAG;
	tcp->cksum = 0;
	m->ol_flags &= ~(RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_L4_MASK | RTE_MBUF_F_TX_IP_CKSUM);
	if (by_device)
		m->ol_flags |= RTE_MBUF_F_TX_TCP_CKSUM;
	if (!c->ipv4) {
		ip6->payload_len = rte_cpu_to_be_16((uint16_t)(m->pkt_len - l4_off));
		tcp->cksum = by_device ? rte_ipv6_phdr_cksum(ip6, m->ol_flags)
				       : (uint16_t)~port_l4_sum(m, ip, false, l4_off);
		return;
	}
	ip4->total_length = rte_cpu_to_be_16((uint16_t)(m->pkt_len - m->l2_len));
	/* What no router may fragment has no number: RFC 6864 s4.1. */
	if ((ip4->fragment_offset & RTE_BE16(RTE_IPV4_HDR_DF_FLAG)) != 0)
		i = 0;
	ip4->packet_id = rte_cpu_to_be_16((uint16_t)(rte_be_to_cpu_16(id) + i));
	ip4->hdr_checksum = 0;
	if (q->dev->flags & PORT_TX_IP_CKSUM)
		m->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
	else
		ip4->hdr_checksum = rte_ipv4_cksum(ip4);
	tcp->cksum = by_device ? rte_ipv4_phdr_cksum(ip4, m->ol_flags)
			       : (uint16_t)~port_l4_sum(m, ip, true, l4_off);
}

uint16_t port_cut(struct port_queue *q, struct rte_mbuf *pkt, struct rte_mbuf **out)
{
	const struct rte_ipv4_hdr *ip4;
	const struct rte_tcp_hdr *tcp;
	struct cut c;
	bool copies = q->copies_chains || q->copies_clones, fits;
	rte_be16_t id = 0;
	rte_be32_t seq;
	uint16_t n, kept = 0;

	if (!cut_plan(pkt, &c))
		return 0;
	tcp = rte_pktmbuf_mtod_offset(pkt, const struct rte_tcp_hdr *, pkt->l2_len + pkt->l3_len);
	seq = tcp->sent_seq;
	if (c.ipv4) {
		ip4 = rte_pktmbuf_mtod_offset(pkt, const struct rte_ipv4_hdr *, pkt->l2_len);
		id = ip4->packet_id;
	}
	fits = c.headers + RTE_MIN(c.mss, c.payload) + RTE_PKTMBUF_HEADROOM <=
	       rte_pktmbuf_data_room_size(q->linear_pool);
	n = c.ipv4 && !(copies && fits) ? cut_by_library(q, pkt, &c, out)
					: cut_by_hand(q, pkt, &c, copies && fits, out);
	for (uint16_t i = 0; i < n; i++) {
		piece_finish(q, out[i], &c, i, seq, id);
		if (!copies || fits || port_shape_frame(q, &out[i]))
			out[kept++] = out[i];
	}
	counter_add(&q->counters.tx_cut, kept);
	return kept;
}
