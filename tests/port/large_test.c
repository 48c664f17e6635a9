/* Segments cut for a device and joined from it, on net_ring: what comes out, frame by frame, and
 * what is left alone. One EAL for all tests, so Check must not fork. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_dev.h>
#include <rte_gro.h>
#include <rte_ip.h>
#include <rte_tcp.h>

#include "config/config.h"
#include "daemon/port/port_internal.h"

#define MSS 1000u

static struct config_worker workers[1] = {{.core = 0, .numa_node = CONFIG_NONE}};
static struct config_port port;
static struct config cfg;
static struct port_set *set;
static struct port_error err;
static struct port_queue *q;
static unsigned devices_made;

static void start(int tso, bool gro)
{
	memset(&cfg, 0, sizeof(cfg));
	memset(&port, 0, sizeof(port));
	cfg.workers = workers;
	cfg.workers_n = 1;
	cfg.ports = &port;
	cfg.ports_n = 1;
	snprintf(port.name, sizeof(port.name), "p0");
	snprintf(port.device, sizeof(port.device), "net_ring%u", 30 + devices_made++);
	port.mtu = 1500;
	port.rx_queues = port.tx_queues = 1;
	port.rx_descriptors = port.tx_descriptors = 128;
	port.mbufs = 2047;
	port.mbuf_room = 2176;
	port.queue_workers_n = 1;
	port.numa_node = CONFIG_NONE;
	port.tso = tso;
	port.gro = gro;
	ck_assert_int_eq(rte_eal_hotplug_add("vdev", port.device, ""), 0);
	ck_assert_msg(port_set_create(&cfg, &set, &err) == 0, "%s", err.text);
	ck_assert_msg(port_set_start(set, &err) == 0, "%s", err.text);
	q = port_queue_of(set, 0, 0);
}

static void stop(void)
{
	ck_assert_uint_eq(rte_mempool_in_use_count(port_queue_pool(q)), 0);
	port_set_stop(set);
	port_set_destroy(set);
	set = NULL;
}

/* ---- segments by hand ----------------------------------------------------------------------- */

struct seg {
	bool v6;
	uint32_t seq, len, ack;
	uint16_t window, port;
	uint8_t flags, tos, ttl;
	uint32_t stamp;   /* timestamp option; 0: none */
	uint8_t mac;      /* last byte of the sender's */
	bool bad;         /* checksum wrong */
	uint32_t padding; /* Ethernet's, behind it */
	uint16_t fragment;
	uint16_t segsz; /* a large one, to be cut */
	uint16_t split; /* its payload in mbufs of so much; 0: all in one */
};

static const struct seg plain = {.seq = 5000,
				 .len = MSS,
				 .ack = 77,
				 .window = 500,
				 .port = 4000,
				 .flags = RTE_TCP_ACK_FLAG,
				 .ttl = 64,
				 .stamp = 9};

static uint8_t byte_at(uint32_t seq)
{
	return (uint8_t)(seq * 13 + (seq >> 8));
}

static void payload_put(struct rte_mbuf *head, const struct seg *s)
{
	struct rte_mbuf *m = head;

	for (uint32_t i = 0; i < s->len; i++) {
		if ((s->split != 0 && i % s->split == 0) || rte_pktmbuf_tailroom(m) == 0) {
			m->next = rte_pktmbuf_alloc(port_queue_pool(q));
			m = m->next;
			ck_assert_ptr_nonnull(m);
			head->nb_segs++;
		}
		rte_pktmbuf_mtod(m, uint8_t *)[m->data_len++] = byte_at(s->seq + i);
		head->pkt_len++;
	}
}

static uint16_t l4_checksum(const struct rte_mbuf *m, bool v6)
{
	const void *ip = rte_pktmbuf_mtod_offset(m, const void *, 14);

	return (uint16_t)~port_l4_sum(m, ip, !v6, v6 ? 54 : 34);
}

static struct rte_mbuf *make(const struct seg *s)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(port_queue_pool(q));
	uint32_t options = s->stamp != 0 ? 12 : 0, l3 = s->v6 ? 40 : 20;
	struct rte_ether_hdr *eth =
		(void *)rte_pktmbuf_append(m, (uint16_t)(14 + l3 + 20 + options));
	struct rte_ipv4_hdr *ip4 = (void *)(eth + 1);
	struct rte_ipv6_hdr *ip6 = (void *)(eth + 1);
	struct rte_tcp_hdr *tcp = (void *)((char *)(eth + 1) + l3);
	uint8_t *o = (uint8_t *)(tcp + 1);

	memset(eth, 0, m->data_len);
	eth->dst_addr.addr_bytes[5] = 1;
	eth->src_addr.addr_bytes[5] = s->mac;
	eth->ether_type = rte_cpu_to_be_16(s->v6 ? RTE_ETHER_TYPE_IPV6 : RTE_ETHER_TYPE_IPV4);
	tcp->src_port = rte_cpu_to_be_16(s->port);
	tcp->dst_port = rte_cpu_to_be_16(80);
	tcp->sent_seq = rte_cpu_to_be_32(s->seq);
	tcp->recv_ack = rte_cpu_to_be_32(s->ack);
	tcp->data_off = (uint8_t)((20 + options) / 4 << 4);
	tcp->tcp_flags = s->flags;
	tcp->rx_win = rte_cpu_to_be_16(s->window);
	if (options != 0) {
		memcpy(o, "\1\1\10\12", 4);
		o[7] = (uint8_t)s->stamp;
	}
	payload_put(m, s);
	if (s->v6) {
		ip6->vtc_flow = rte_cpu_to_be_32(6u << 28 | (uint32_t)s->tos << 20);
		ip6->payload_len = rte_cpu_to_be_16((uint16_t)(m->pkt_len - 54));
		ip6->proto = IPPROTO_TCP;
		ip6->hop_limits = s->ttl;
		ip6->src_addr[15] = 1;
		ip6->dst_addr[15] = 2;
	} else {
		ip4->version_ihl = RTE_IPV4_VHL_DEF;
		ip4->type_of_service = s->tos;
		ip4->total_length = rte_cpu_to_be_16((uint16_t)(m->pkt_len - 14));
		ip4->packet_id = rte_cpu_to_be_16((uint16_t)(s->seq / MSS));
		ip4->fragment_offset = rte_cpu_to_be_16(s->fragment);
		ip4->time_to_live = s->ttl;
		ip4->next_proto_id = IPPROTO_TCP;
		ip4->src_addr = rte_cpu_to_be_32(0xc6120001);
		ip4->dst_addr = rte_cpu_to_be_32(0xc6120002);
		ip4->hdr_checksum = rte_ipv4_cksum(ip4);
	}
	m->l2_len = 14;
	m->l3_len = l3 & 0x1ff;
	m->l4_len = (20 + options) & 0xff;
	if (s->segsz != 0) {
		m->tso_segsz = s->segsz;
		m->ol_flags |=
			RTE_MBUF_F_TX_TCP_SEG | (s->v6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4);
	} else {
		tcp->cksum = (uint16_t)(l4_checksum(m, s->v6) ^ (s->bad ? 0x100 : 0));
	}
	if (s->padding != 0)
		memset(rte_pktmbuf_append(m, (uint16_t)s->padding), 0, s->padding);
	return m;
}

static struct rte_tcp_hdr *tcp_of(const struct rte_mbuf *m, bool v6)
{
	return rte_pktmbuf_mtod_offset(m, struct rte_tcp_hdr *, v6 ? 54 : 34);
}

/* A frame's payload is the bytes [seq, seq + len), its lengths are right. */
static void holds(const struct rte_mbuf *m, const struct seg *s, uint32_t seq, uint32_t len)
{
	uint32_t headers = (s->v6 ? 54u : 34u) + 20 + (s->stamp != 0 ? 12 : 0), total = 0;
	static uint8_t flat[70000];
	const uint8_t *p = rte_pktmbuf_read(m, 0, m->pkt_len, flat);
	uint16_t segs = 0;

	for (const struct rte_mbuf *part = m; part != NULL; part = part->next, segs++) {
		total += part->data_len;
		ck_assert(part->data_len > 0);
	}
	ck_assert_uint_eq(total, m->pkt_len);
	ck_assert_uint_eq(segs, m->nb_segs);
	ck_assert_uint_eq(m->pkt_len, headers + len);
	if (s->v6)
		ck_assert_uint_eq(p[18] << 8 | p[19], m->pkt_len - 54);
	else
		ck_assert_uint_eq(p[16] << 8 | p[17], m->pkt_len - 14);
	ck_assert_uint_eq(rte_be_to_cpu_32(tcp_of(m, s->v6)->sent_seq), seq);
	for (uint32_t i = 0; i < len; i++)
		ck_assert_uint_eq(p[headers + i], byte_at(seq + i));
}

static uint16_t join_all(struct rte_mbuf **pkts, uint16_t n)
{
	return port_join(q, pkts, n);
}

/* ---- joining -------------------------------------------------------------------------------- */

START_TEST(segments_in_order_become_one)
{
	struct rte_mbuf *pkts[8];
	struct seg s = plain;

	start(CONFIG_TSO_OFF, true);
	s.v6 = _i != 0;
	s.seq = 0xfffffa00; /* numbers go round */
	for (unsigned i = 0; i < 4; i++) {
		if (i == 3) {
			s.len = 333;
			s.flags |= RTE_TCP_PSH_FLAG;
		}
		pkts[i] = make(&s);
		s.seq += s.len;
	}
	pkts[4] = make(&s); /* behind the end of a write another one begins */
	ck_assert_uint_eq(join_all(pkts, 5), 2);
	holds(pkts[0], &s, 0xfffffa00, 3333);
	holds(pkts[1], &s, s.seq, 333);
	ck_assert_uint_eq(tcp_of(pkts[0], s.v6)->tcp_flags, RTE_TCP_ACK_FLAG | RTE_TCP_PSH_FLAG);
	ck_assert(pkts[0]->ol_flags & RTE_MBUF_F_RX_LRO);
	ck_assert_uint_eq(pkts[0]->tso_segsz, MSS);
	ck_assert_uint_eq(pkts[0]->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK,
			  RTE_MBUF_F_RX_L4_CKSUM_GOOD);
	ck_assert_uint_eq(counter_get(&q->counters.rx_joined), 3);
	rte_pktmbuf_free_bulk(pkts, 2);
	stop();
}
END_TEST

/* Each of these differs from what went before in something the stack would miss. */
START_TEST(what_differs_stays_apart)
{
	struct seg second[20];
	unsigned n = 0;

	start(CONFIG_TSO_OFF, true);
	for (unsigned i = 0; i < RTE_DIM(second); i++) {
		second[i] = plain;
		second[i].v6 = _i != 0;
		second[i].seq += MSS;
	}
	second[n++].tos = 3; /* a router marked it */
	second[n++].window = 501;
	second[n++].ack = 78;
	second[n++].stamp = 10;
	second[n++].stamp = 0;
	second[n++].port = 4001;
	second[n++].mac = 7;
	second[n++].ttl = 63;
	second[n++].seq++;
	second[n++].seq -= MSS; /* again */
	second[n++].seq--;
	second[n++].len = MSS + 1;
	second[n++].flags = RTE_TCP_ACK_FLAG | RTE_TCP_FIN_FLAG;
	second[n++].flags = RTE_TCP_ACK_FLAG | RTE_TCP_ECE_FLAG;
	second[n++].flags = RTE_TCP_ACK_FLAG | RTE_TCP_URG_FLAG;
	second[n++].flags = RTE_TCP_RST_FLAG;
	second[n++].bad = true;
	second[n++].padding = 4;
	second[n++].len = 0;
	if (_i == 0)
		second[n++].fragment = 0x2000;
	for (unsigned i = 0; i < n; i++) {
		struct seg first = plain;
		struct rte_mbuf *pkts[2];

		first.v6 = _i != 0;
		pkts[0] = make(&first);
		pkts[1] = make(&second[i]);
		ck_assert_msg(join_all(pkts, 2) == 2, "number %u was joined", i);
		holds(pkts[0], &first, first.seq, MSS);
		rte_pktmbuf_free_bulk(pkts, 2);
	}
	ck_assert_uint_eq(counter_get(&q->counters.rx_joined), 0);
	stop();
}
END_TEST

/* The wrong one first: the right one behind it stays right. */
START_TEST(a_wrong_checksum_joins_nothing)
{
	struct seg s = plain;
	struct rte_mbuf *pkts[3];

	start(CONFIG_TSO_OFF, true);
	s.v6 = _i != 0;
	s.bad = true;
	pkts[0] = make(&s);
	s.bad = false;
	s.seq += MSS;
	pkts[1] = make(&s);
	s.seq += MSS;
	pkts[2] = make(&s);
	ck_assert_uint_eq(join_all(pkts, 3), 2);
	holds(pkts[0], &s, plain.seq, MSS);
	holds(pkts[1], &s, plain.seq + MSS, 2 * MSS);
	ck_assert_uint_eq(pkts[0]->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK, 0);
	rte_pktmbuf_free_bulk(pkts, 2);
	/* A device that says so is believed, both ways. */
	s = plain;
	s.v6 = _i != 0;
	pkts[0] = make(&s);
	s.seq += MSS;
	pkts[1] = make(&s);
	pkts[1]->ol_flags |= RTE_MBUF_F_RX_L4_CKSUM_BAD;
	ck_assert_uint_eq(join_all(pkts, 2), 2);
	rte_pktmbuf_free_bulk(pkts, 2);
	s = plain;
	s.v6 = _i != 0;
	s.bad = true;
	for (unsigned i = 0; i < 2; i++, s.seq += MSS) {
		pkts[i] = make(&s);
		pkts[i]->ol_flags |= RTE_MBUF_F_RX_IP_CKSUM_GOOD | RTE_MBUF_F_RX_L4_CKSUM_GOOD;
	}
	ck_assert_uint_eq(join_all(pkts, 2), 1);
	rte_pktmbuf_free(pkts[0]);
	stop();
}
END_TEST

START_TEST(flows_keep_their_order)
{
	struct rte_mbuf *pkts[40], *other;
	struct seg s[12];

	start(CONFIG_TSO_OFF, true);
	/* Two flows in turns, then more than are followed at once. */
	for (unsigned i = 0; i < 12; i++) {
		s[i] = plain;
		s[i].v6 = _i != 0;
		s[i].port = (uint16_t)(4000 + i);
	}
	for (unsigned i = 0; i < 6; i++) {
		pkts[i] = make(&s[i % 2]);
		s[i % 2].seq += MSS;
	}
	ck_assert_uint_eq(join_all(pkts, 6), 2);
	holds(pkts[0], &s[0], plain.seq, 3 * MSS);
	holds(pkts[1], &s[1], plain.seq, 3 * MSS);
	rte_pktmbuf_free_bulk(pkts, 2);
	for (unsigned i = 0; i < 36; i++) {
		pkts[i] = make(&s[i % 12]);
		s[i % 12].seq += MSS;
	}
	ck_assert_uint_eq(join_all(pkts, 36), 36);
	rte_pktmbuf_free_bulk(pkts, 36);
	/* What cannot be read may be of any flow: nothing is joined across it. */
	pkts[0] = make(&s[0]);
	other = rte_pktmbuf_alloc(port_queue_pool(q));
	memset(rte_pktmbuf_append(other, 20), 0, 20);
	pkts[1] = other;
	s[0].seq += MSS;
	pkts[2] = make(&s[0]);
	ck_assert_uint_eq(join_all(pkts, 3), 3);
	ck_assert_ptr_eq(pkts[1], other);
	rte_pktmbuf_free_bulk(pkts, 3);
	stop();
}
END_TEST

START_TEST(a_joined_packet_has_a_bound)
{
	struct rte_mbuf *pkts[PORT_BURST_MAX];
	struct seg s = plain;
	uint32_t bytes = 0;
	uint16_t n;

	start(CONFIG_TSO_OFF, true);
	s.v6 = _i != 0;
	s.len = 1446;
	for (unsigned i = 0; i < PORT_BURST_MAX; i++, s.seq += s.len)
		pkts[i] = make(&s);
	n = join_all(pkts, PORT_BURST_MAX);
	ck_assert_uint_eq(n, 2);
	for (uint16_t i = 0; i < n; i++) {
		uint32_t len = pkts[i]->pkt_len - (s.v6 ? 86 : 66);

		ck_assert_uint_le(pkts[i]->pkt_len, 65535);
		holds(pkts[i], &s, plain.seq + bytes, len);
		bytes += len;
	}
	ck_assert_uint_eq(bytes, PORT_BURST_MAX * s.len);
	rte_pktmbuf_free_bulk(pkts, n);
	stop();
}
END_TEST

/* Why ours and not the library: on what both join the bytes are the same; the library also joins
 * what it should not, and keeps the first one's mark and window. */
START_TEST(beside_the_library)
{
	const struct rte_gro_param param = {
		.gro_types = RTE_GRO_TCP_IPV4, .max_flow_num = 8, .max_item_per_flow = 64};
	struct rte_mbuf *ours[16], *theirs[16];
	struct seg s = plain;

	start(CONFIG_TSO_OFF, true);
	for (unsigned i = 0; i < 16; i++, s.seq += MSS) {
		ours[i] = make(&s);
		theirs[i] = make(&s);
		theirs[i]->packet_type = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4 | RTE_PTYPE_L4_TCP;
	}
	ck_assert_uint_eq(join_all(ours, 16), 1);
	ck_assert_uint_eq(rte_gro_reassemble_burst(theirs, 16, &param), 1);
	holds(ours[0], &s, plain.seq, 16 * MSS);
	holds(theirs[0], &s, plain.seq, 16 * MSS);
	rte_pktmbuf_free(ours[0]);
	rte_pktmbuf_free(theirs[0]);
	for (unsigned i = 0; i < 2; i++) {
		s = plain;
		s.seq += i * MSS;
		s.tos = i == 1 ? 3 : 0;
		s.window = (uint16_t)(500 + i);
		s.bad = i == 1;
		ours[i] = make(&s);
		theirs[i] = make(&s);
		theirs[i]->packet_type = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4 | RTE_PTYPE_L4_TCP;
	}
	ck_assert_uint_eq(join_all(ours, 2), 2);
	ck_assert_uint_eq(rte_gro_reassemble_burst(theirs, 2, &param), 1);
	rte_pktmbuf_free_bulk(ours, 2);
	rte_pktmbuf_free(theirs[0]);
	stop();
}
END_TEST

/* ---- cutting -------------------------------------------------------------------------------- */

static void pieces_check(struct rte_mbuf **pieces, uint16_t n, const struct seg *s)
{
	uint32_t at = 0;

	ck_assert_uint_eq(n, (s->len + s->segsz - 1) / s->segsz);
	for (uint16_t i = 0; i < n; i++) {
		uint32_t len = RTE_MIN((uint32_t)s->segsz, s->len - at);
		struct rte_tcp_hdr *tcp = tcp_of(pieces[i], s->v6);
		uint8_t flags = s->flags;
		uint16_t sum = tcp->cksum;

		if (i + 1 < n)
			flags &= (uint8_t) ~(RTE_TCP_FIN_FLAG | RTE_TCP_PSH_FLAG);
		if (i > 0)
			flags &= (uint8_t)~RTE_TCP_CWR_FLAG;
		holds(pieces[i], s, s->seq + at, len);
		ck_assert_uint_eq(tcp->tcp_flags, flags);
		ck_assert_uint_eq(pieces[i]->ol_flags & RTE_MBUF_F_TX_TCP_SEG, 0);
		tcp->cksum = 0;
		ck_assert_uint_eq(sum, l4_checksum(pieces[i], s->v6));
		tcp->cksum = sum;
		if (!s->v6) {
			struct rte_ipv4_hdr *ip =
				rte_pktmbuf_mtod_offset(pieces[i], struct rte_ipv4_hdr *, 14);

			ck_assert_uint_eq(rte_raw_cksum(ip, 20), 0xffff);
			ck_assert_uint_eq(rte_be_to_cpu_16(ip->packet_id),
					  (uint16_t)(s->seq / MSS + i));
		}
		at += len;
	}
	ck_assert_uint_eq(at, s->len);
}

/* By copy and by reference, in mbufs that end anywhere, payloads of every length about a segment's.
 */
START_TEST(pieces_are_whole_segments)
{
	static const uint16_t splits[] = {0, 1, 7, 999, 1000, 1001, 1700};
	struct rte_mbuf *pkt, *pieces[PORT_CUT_MAX];

	start(CONFIG_TSO_SOFTWARE, false);
	for (unsigned way = 0; way < 2; way++) {
		q->copies_clones = way == 0;
		for (unsigned k = 0; k < RTE_DIM(splits); k++) {
			for (uint32_t len = 2 * MSS - 1; len <= 2 * MSS + 1; len++) {
				struct seg s = plain;
				uint16_t n;

				s.v6 = _i != 0;
				s.len = len;
				s.segsz = MSS;
				s.split = splits[k];
				s.seq = 0xfffffc00;
				s.stamp = k % 2;
				s.flags = RTE_TCP_ACK_FLAG | RTE_TCP_PSH_FLAG | RTE_TCP_FIN_FLAG |
					  RTE_TCP_CWR_FLAG;
				if (s.split == 1) /* as many mbufs as the pool may give */
					s.len = len - 1700, s.segsz = 150;
				pkt = make(&s);
				n = port_cut(q, pkt, pieces);
				rte_pktmbuf_free(pkt); /* what they refer to stays */
				pieces_check(pieces, n, &s);
				rte_pktmbuf_free_bulk(pieces, n);
			}
		}
	}
	stop();
}
END_TEST

START_TEST(what_cannot_be_cut_is_dropped_and_counted)
{
	struct rte_mbuf *pkt, *held[2047], *pieces[PORT_CUT_MAX];
	struct seg s = plain;
	unsigned n = 0;

	start(CONFIG_TSO_SOFTWARE, false);
	s.v6 = _i != 0;
	s.segsz = 10; /* more than PORT_CUT_MAX */
	pkt = make(&s);
	ck_assert_uint_eq(port_tx_burst(q, &pkt, 1), 1);
	ck_assert_uint_eq(counter_get(&q->counters.tx_cut_drops), 1);
	for (unsigned way = 0; way < 2; way++) { /* no mbufs: nothing is lost of them */
		q->copies_clones = way == 0;
		s.segsz = 100;
		pkt = make(&s);
		while ((held[n] = rte_pktmbuf_alloc(port_queue_pool(q))) != NULL)
			n++;
		rte_pktmbuf_free(held[--n]);
		ck_assert_uint_eq(port_cut(q, pkt, pieces), 0);
		ck_assert_uint_eq(rte_mempool_avail_count(port_queue_pool(q)), 1);
		rte_pktmbuf_free_bulk(held, n);
		n = 0;
		rte_pktmbuf_free(pkt);
	}
	stop();
}
END_TEST

/* The ring takes 1,023. */
START_TEST(a_full_device_gets_the_rest_later)
{
	struct rte_mbuf *pkts[3], *got[PORT_BURST_MAX];
	struct seg s = plain;
	uint32_t seq = plain.seq;
	uint16_t n, left = 0;

	start(CONFIG_TSO_SOFTWARE, false);
	s.v6 = _i != 0;
	for (unsigned i = 0; i < 1013; i++) {
		pkts[0] = rte_pktmbuf_alloc(port_queue_pool(q));
		rte_pktmbuf_append(pkts[0], 60);
		ck_assert_uint_eq(port_tx_burst(q, pkts, 1), 1);
	}
	s.segsz = 100;
	s.len = 4000;
	for (unsigned i = 0; i < 2; i++, s.seq += s.len)
		pkts[i] = make(&s);
	s.segsz = 0;
	s.len = MSS;
	pkts[2] = make(&s);
	ck_assert_uint_eq(port_tx_burst(q, pkts, 3), 0); /* ten pieces are on their way */
	ck_assert_uint_eq(counter_get(&q->counters.tx_frames), 1023);
	ck_assert_uint_eq(port_tx_burst(q, pkts, 3), 0);
	for (unsigned i = 0; i < 1013; i += n) {
		n = port_rx_burst(q, got, (uint16_t)RTE_MIN(1013u - i, (unsigned)PORT_BURST_MAX));
		rte_pktmbuf_free_bulk(got, n);
	}
	ck_assert_uint_eq(port_tx_burst(q, pkts, 3), 3);
	while ((n = port_rx_burst(q, got, PORT_BURST_MAX)) > 0) {
		for (uint16_t i = 0; i < n; i++, left++) {
			uint32_t len = left < 80 ? 100 : MSS;

			holds(got[i], &s, seq, len);
			seq += len;
		}
		rte_pktmbuf_free_bulk(got, n);
	}
	ck_assert_uint_eq(left, 81);
	ck_assert_uint_eq(counter_get(&q->counters.tx_cut), 80);
	/* A port that ends between two tries gives the pieces back. */
	s.segsz = 100;
	s.len = 4000;
	for (unsigned i = 0; i < 1020; i++) {
		pkts[0] = rte_pktmbuf_alloc(port_queue_pool(q));
		ck_assert_uint_eq(port_tx_burst(q, pkts, 1), 1);
	}
	pkts[0] = make(&s);
	ck_assert_uint_eq(port_tx_burst(q, pkts, 1), 0);
	rte_pktmbuf_free(pkts[0]);
	port_set_stop(set);
	port_set_destroy(set);
}
END_TEST

static void refused(const char *text)
{
	struct port_set *none;

	ck_assert_int_eq(port_set_create(&cfg, &none, &err), -SPLIT_E_PORT_DEVICE);
	ck_assert_msg(strstr(err.text, text) != NULL, "\"%s\" not in \"%s\"", text, err.text);
}

START_TEST(a_device_that_cannot_is_refused)
{
	start(CONFIG_TSO_AUTO, false);
	ck_assert(!q->cuts4 && !q->cuts6 && !q->joins);
	stop();
	start(CONFIG_TSO_SOFTWARE, true);
	ck_assert(q->cuts4 && q->cuts6 && q->joins);
	stop();
	snprintf(port.device, sizeof(port.device), "net_null%u", 30 + devices_made++);
	ck_assert_int_eq(rte_eal_hotplug_add("vdev", port.device, ""), 0);
	port.tso = CONFIG_TSO_DEVICE;
	refused("tso is \"device\", but net_null cuts no segments");
	port.tso = CONFIG_TSO_OFF;
	port.mbuf_room = 1024;
	refused("net_null takes no chains");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("large");
	TCase *tc = tcase_create("large");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, segments_in_order_become_one, 0, 2);
	tcase_add_loop_test(tc, what_differs_stays_apart, 0, 2);
	tcase_add_loop_test(tc, a_wrong_checksum_joins_nothing, 0, 2);
	tcase_add_loop_test(tc, flows_keep_their_order, 0, 2);
	tcase_add_loop_test(tc, a_joined_packet_has_a_bound, 0, 2);
	tcase_add_test(tc, beside_the_library);
	tcase_add_loop_test(tc, pieces_are_whole_segments, 0, 2);
	tcase_add_loop_test(tc, what_cannot_be_cut_is_dropped_and_counted, 0, 2);
	tcase_add_loop_test(tc, a_full_device_gets_the_rest_later, 0, 2);
	tcase_add_test(tc, a_device_that_cannot_is_refused);
	suite_add_tcase(suite, tc);
	cfg.eal.memory = 64 << 20;
	cfg.workers = workers;
	cfg.workers_n = 1;
	snprintf(cfg.eal.file_prefix, sizeof(cfg.eal.file_prefix), "splitd-large-test-%d",
		 (int)getpid());
	if (port_eal_start(&cfg, "large_test", &err) != 0) {
		fprintf(stderr, "%s\n", err.text);
		return EXIT_FAILURE;
	}
	runner = srunner_create(suite);
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	port_eal_stop();
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
