/* Fragments: RFC 791 s3.2, RFC 8200 s4.5, put together by rte_ip_frag within bounds: so many
 * packets at once, eight pieces each, for so long. Pieces that overlap never fit together and are
 * dropped with their packet (RFC 5722); so are packets past 65,535 bytes.
 *
 * Where workers share a port all of them get every fragment (ports stand only in the first): each
 * puts the packet together, and who has its connection takes it. So TCP that belongs to no
 * connection is dropped in silence here, not answered with RST.
 */
/* Forgetting what is overdue is "experimental" in 22.11. */
#define ALLOW_EXPERIMENTAL_API

#include "daemon/net/net_internal.h"

#include <stdlib.h>
#include <string.h>

#include <rte_ip_frag.h>

#define BUCKET_ENTRIES 4u

struct ip6_fragment { /* RFC 8200 s4.5 */
	uint8_t next, reserved;
	struct be16 offset; /* the low bit: more follow */
	struct be32 id;
};

static void dead_free(struct net_stack *s)
{
	COUNT_N(s, rx_drop_ip_fragment, s->fragments_dead->cnt);
	rte_ip_frag_free_death_row(s->fragments_dead, 3);
}

/* All that came is as old as the newest piece, at least. */
static void fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct net_stack *s = container_of(t, struct net_stack, fragments_timer);
	uint32_t before;

	do {
		rte_ip_frag_table_del_expired_entries(s->fragments, s->fragments_dead, now_ns);
		before = s->fragments_dead->cnt;
		dead_free(s);
	} while (before != 0);
}

int reassembly_init(struct net_stack *s)
{
	uint32_t max = s->config.reassembly_max;
	uint32_t buckets = (max + BUCKET_ENTRIES - 1) / BUCKET_ENTRIES;

	wheel_timer_init(&s->fragments_timer, fire);
	if (max == 0)
		return 0;
	s->fragments_dead = calloc(1, sizeof(*s->fragments_dead));
	s->fragments = rte_ip_frag_table_create(buckets, BUCKET_ENTRIES, max,
						s->config.reassembly_timeout_ns, SOCKET_ID_ANY);
	return s->fragments_dead == NULL || s->fragments == NULL ? -SPLIT_E_BASE_NOMEM : 0;
}

void reassembly_fini(struct net_stack *s)
{
	if (s->fragments != NULL)
		rte_ip_frag_table_destroy(s->fragments);
	if (s->fragments_dead != NULL)
		rte_ip_frag_free_death_row(s->fragments_dead, 3);
	free(s->fragments_dead);
}

/* Was any of the pieces marked? Pieces that differ otherwise keep what the first says. */
static bool marked(const struct rte_mbuf *m)
{
	while (m != NULL && m->hash.usr != IP_ECN_CE)
		m = m->next;
	return m != NULL;
}

/* `m` is the whole packet, or NULL while pieces are missing. */
static struct rte_mbuf *finish(struct net_stack *s, struct rte_mbuf *m)
{
	dead_free(s);
	wheel_arm(&s->wheel, &s->fragments_timer,
		  s->now_ns + s->config.reassembly_timeout_ns + WHEEL_TICK_NS);
	if (m == NULL)
		return NULL;
	if (m->pkt_len > UINT16_MAX) {
		COUNT(s, rx_drop_ip_fragment);
		rte_pktmbuf_free(m);
		return NULL;
	}
	COUNT(s, rx_ip_reassembled);
	return m;
}

/* The code point of a fragment stays with it: the whole packet must not lose a mark. RFC 3168 s5.3.
 */
static bool refused(struct net_stack *s, struct rte_mbuf *m, uint8_t ecn)
{
	COUNT(s, rx_ip_fragments);
	m->hash.usr = ecn;
	if (s->fragments != NULL)
		return false;
	COUNT(s, rx_drop_ip_fragment);
	rte_pktmbuf_free(m);
	return true;
}

struct rte_mbuf *reassembly_ip4(struct net_stack *s, struct rte_mbuf *m, uint32_t header)
{
	struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, struct rte_ipv4_hdr *);
	uint16_t fragment = rte_be_to_cpu_16(ip->fragment_offset);

	if (refused(s, m, ip->type_of_service & 3))
		return NULL;
	/* Only the last piece may end anywhere. */
	if ((fragment & 0x2000) != 0 && (m->pkt_len - header) % 8 != 0) {
		COUNT(s, rx_drop_ip_fragment);
		rte_pktmbuf_free(m);
		return NULL;
	}
	m->l2_len = 0;
	m->l3_len = header & 0x1ff;
	m = finish(s, rte_ipv4_frag_reassemble_packet(s->fragments, s->fragments_dead, m, s->now_ns,
						      ip));
	if (m != NULL && marked(m))
		rte_pktmbuf_mtod(m, struct rte_ipv4_hdr *)->type_of_service |= IP_ECN_CE;
	return m;
}

struct rte_mbuf *reassembly_ip6(struct net_stack *s, struct rte_mbuf *m, uint32_t offset)
{
	struct ip6_header *ip = rte_pktmbuf_mtod(m, struct ip6_header *);
	struct ip6_fragment *f = rte_pktmbuf_mtod_offset(m, struct ip6_fragment *, offset);
	uint16_t place;

	if (refused(s, m, ip->class_flow >> 4 & 3))
		return NULL;
	/* Behind other extension headers: nobody sends that, and rte_ip_frag does not take it. */
	if (offset != sizeof(*ip) || m->data_len < offset + sizeof(*f))
		goto drop;
	place = be16_get(f->offset);
	if ((place & ~7u) == 0 && (place & 1) == 0) { /* atomic: RFC 6946 */
		ip->next = f->next;
		ip->payload_length =
			be16_make((uint16_t)(be16_get(ip->payload_length) - sizeof(*f)));
		memmove((uint8_t *)ip + sizeof(*f), ip, sizeof(*ip));
		rte_pktmbuf_adj(m, sizeof(*f));
		return m;
	}
	if ((place & 1) != 0 && (m->pkt_len - offset - sizeof(*f)) % 8 != 0)
		goto drop;
	m->l2_len = 0;
	m->l3_len = sizeof(*ip) + sizeof(*f);
	m = finish(s, rte_ipv6_frag_reassemble_packet(s->fragments, s->fragments_dead, m, s->now_ns,
						      (struct rte_ipv6_hdr *)ip,
						      (struct rte_ipv6_fragment_ext *)f));
	if (m != NULL && marked(m))
		rte_pktmbuf_mtod(m, struct ip6_header *)->class_flow |= IP_ECN_CE << 4;
	return m;
drop:
	COUNT(s, rx_drop_ip_fragment);
	rte_pktmbuf_free(m);
	return NULL;
}
