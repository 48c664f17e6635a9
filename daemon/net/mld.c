/* Multicast listener discovery: RFC 3810 (version 2), RFC 2710 where a querier speaks version 1. It
 * tells switches that snoop which groups we listen to, or they keep neighbour solicitations from
 * us: those of each of our addresses' solicited-node group. All nodes' group needs no word.
 *
 * Joining is reported twice, the second time within a second. Queries are answered after a random
 * part of the time they grant, a general one for all groups in one report, and never sooner than
 * ANSWER_GAP_NS after the report before, whoever asks how often. A group that is left is not told
 * of: routers forget it by themselves. Only the stack with NET_PRIMARY speaks.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

#define REPORTS_OF_JOIN 2               /* RFC 3810 s9.1, robustness */
#define JOIN_REPEAT_NS  SEC_NS          /* s9.11 */
#define ANSWER_GAP_NS   (100 * MSEC_NS) /* between reports that answer */
#define V1_PRESENT_NS   (260 * SEC_NS)  /* s9.12 with the usual intervals */
#define QUERY_BYTES_V1  24              /* RFC 2710 s3; version 2's are longer */
#define QUERY_BYTES_V2  28
#define RECORD_BYTES    20

enum { REPORT_V1 = 131, REPORT_V2 = 143 };
enum { RECORD_IS_EXCLUDE = 2, RECORD_TO_EXCLUDE = 4 };

/* Behind the IPv6 header of each message: hop-by-hop options, of which one says that routers look.
 * RFC 2711 s2.1. */
static const uint8_t router_alert[8] = {IP_PROTO_ICMP6, 0, 5, 2, 0, 0, 1, 0};

static const struct net_addr unspecified = {.family = NET_FAMILY_IPV6};
static const struct net_addr routers_v2 = {.family = NET_FAMILY_IPV6,
					   .bytes = {0xff, 2, [15] = 0x16}};

static bool speaks(const struct net_stack *s, const struct net_address6 *a)
{
	return (s->config.flags & NET_PRIMARY) != 0 && a->state != ADDRESS6_DUPLICATE;
}

/* `m` begins at the ICMPv6 header. From our link-local address once it may be used (RFC 3810
 * s5.2.13). */
static void message_send(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *dst)
{
	struct net_addr src = s->addresses6[0].addr;

	if (s->addresses6[0].state != ADDRESS6_ASSIGNED)
		src = unspecified;
	icmp6_checksum(m, &src, dst);
	memcpy(net_mbuf_prepend(m, sizeof(router_alert)), router_alert, sizeof(router_alert));
	ip6_push(m, &src, dst, IP6_HOP_BY_HOP, IP_ECN_NOT, 1);
	COUNT(s, tx_mld_reports);
	ip6_link_output(s, m, NULL);
}

static struct icmp_header *message_begin(struct rte_mbuf *m, uint8_t type)
{
	struct icmp_header *icmp = net_mbuf_append(m, sizeof(*icmp));

	*icmp = (struct icmp_header){.type = type};
	return icmp;
}

/* Version 1: a message for each group, to the group. */
static void report_v1(struct net_stack *s, const struct net_address6 *a)
{
	struct rte_mbuf *m = net_mbuf_get(s);
	struct net_addr group;

	if (m == NULL)
		return;
	ndp_solicited_node(a->addr.bytes, &group);
	message_begin(m, REPORT_V1);
	memcpy(net_mbuf_append(m, 16), group.bytes, 16);
	message_send(s, m, &group);
}

/* Version 2: all in one. Whoever joins says so (s5.2.12), the others answer. */
static void report_v2(struct net_stack *s, uint32_t which)
{
	struct rte_mbuf *m = net_mbuf_get(s);
	struct icmp_header *icmp;
	struct net_addr group;
	uint16_t records = 0;

	if (m == NULL)
		return;
	icmp = message_begin(m, REPORT_V2);
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		const struct net_address6 *a = &s->addresses6[i];
		uint8_t *p;

		if ((which & 1u << i) == 0)
			continue;
		p = net_mbuf_append(m, RECORD_BYTES);
		memset(p, 0, RECORD_BYTES);
		p[0] = a->joins > 0 ? RECORD_TO_EXCLUDE : RECORD_IS_EXCLUDE;
		ndp_solicited_node(a->addr.bytes, &group);
		memcpy(p + 4, group.bytes, 16);
		records++;
	}
	be16_store(icmp->rest + 2, records);
	message_send(s, m, &routers_v2);
}

static void fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct net_stack *s = container_of(t, struct net_stack, mld_timer);
	bool v1 = now_ns < s->mld_v1_ns, more = false;
	uint32_t which = 0;

	for (unsigned i = 0; i < s->addresses6_n; i++) {
		struct net_address6 *a = &s->addresses6[i];

		if (!speaks(s, a) || (!a->asked_for && a->joins == 0))
			continue;
		which |= 1u << i;
		if (v1)
			report_v1(s, a);
	}
	if (which != 0 && !v1)
		report_v2(s, which);
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		struct net_address6 *a = &s->addresses6[i];

		a->asked_for = false;
		if (a->joins > 0)
			a->joins--;
		more |= a->joins > 0 && speaks(s, a);
	}
	s->mld_sent_ns = now_ns;
	if (more)
		wheel_arm(&s->wheel, t, now_ns + 1 + s->ops.random(s->ops.ctx) % JOIN_REPEAT_NS);
}

void mld_init(struct net_stack *s)
{
	wheel_timer_init(&s->mld_timer, fire);
}

void mld_join(struct net_stack *s, struct net_address6 *a)
{
	if (!speaks(s, a))
		return;
	a->joins = REPORTS_OF_JOIN;
	wheel_arm(&s->wheel, &s->mld_timer, s->now_ns);
}

/* s5.1.3: milliseconds, or a floating-point number of them. */
static uint64_t delay_max_ns(uint16_t code, bool v1)
{
	uint64_t ms = code;

	if (!v1 && code >= 0x8000)
		ms = (uint64_t)((code & 0xfff) | 0x1000) << ((code >> 12 & 7) + 3);
	return ms * MSEC_NS;
}

/* s5.1.14, s6.2: from this link, and with the option that makes routers look. */
static bool query_valid(const struct rte_mbuf *m, uint32_t offset, const struct net_addr *src)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);
	const struct ip6_header *ip = (const struct ip6_header *)p;
	uint32_t at = sizeof(*ip), end, len = m->pkt_len - offset;

	if (ip->hop_limit != 1 || src->bytes[0] != 0xfe || (src->bytes[1] & 0xc0) != 0x80 ||
	    ip->next != IP6_HOP_BY_HOP || m->data_len < offset + QUERY_BYTES_V1 ||
	    (len != QUERY_BYTES_V1 && (len < QUERY_BYTES_V2 || m->data_len < m->pkt_len)))
		return false;
	end = at + (p[at + 1] + 1u) * 8; /* its options were walked: they are whole */
	for (at += 2; at < end; at += p[at] == 0 ? 1u : 2u + p[at + 1])
		if (p[at] == 5)
			return true;
	return false;
}

void mld_rx(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
	    const struct net_addr *src)
{
	const uint8_t *p = rte_pktmbuf_mtod_offset(m, const uint8_t *, offset), *wanted = p + 8;
	bool v1 = m->pkt_len - offset == QUERY_BYTES_V1, any = false;
	static const uint8_t general[16];
	uint64_t at;

	if (!query_valid(m, offset, src)) {
		COUNT(s, rx_drop_mld_malformed);
		return;
	}
	COUNT(s, rx_mld_queries);
	if (v1)
		s->mld_v1_ns = s->now_ns + V1_PRESENT_NS;
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		struct net_address6 *a = &s->addresses6[i];
		struct net_addr group;

		ndp_solicited_node(a->addr.bytes, &group);
		if (!speaks(s, a) ||
		    (memcmp(wanted, general, 16) != 0 && memcmp(wanted, group.bytes, 16) != 0))
			continue;
		a->asked_for = any = true;
	}
	if (!any)
		return;
	at = s->now_ns + s->ops.random(s->ops.ctx) % (delay_max_ns(be16_load(p + 4), v1) + 1);
	if (s->mld_sent_ns != 0 && at < s->mld_sent_ns + ANSWER_GAP_NS)
		at = s->mld_sent_ns + ANSWER_GAP_NS;
	if (!wheel_timer_armed(&s->mld_timer) || at < s->mld_timer.deadline_ns)
		wheel_arm(&s->wheel, &s->mld_timer, at);
}
