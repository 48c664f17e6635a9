/* Fragments, over both families: RFC 791 s3.2, RFC 8200 s4.5, RFC 5722, RFC 6946. */
#include "tests/net/rig.h"

#include <string.h>

#include "daemon/net/cksum.h"

#define BODY 1000 /* of an echo request, its header included */

static struct rig r;
static uint8_t body[BODY];

#define COUNTER(name) (net_counters_of(r.stack)->name)

static bool v6(void)
{
	return rig_family_now() == NET_FAMILY_IPV6;
}

static void start(uint8_t family)
{
	struct net_addr src, dst;
	uint16_t sum;

	rig_family(family);
	rig_defaults(&r);
	r.config.reassembly_max = 8;
	rig_start(&r);
	src = rig_remote(0);
	dst = rig_local(0);
	for (unsigned i = 0; i < BODY; i++)
		body[i] = (uint8_t)(i * 5 + (i >> 8));
	body[0] = v6() ? ICMP6_ECHO : 8;
	body[1] = body[2] = body[3] = 0;
	sum = cksum_fold(
		cksum_add(v6() ? net_pseudo_sum(&src, &dst, IP_PROTO_ICMP6, BODY) : 0, body, BODY));
	memcpy(body + 2, &sum, 2);
}

static void stop(void)
{
	rig_stop(&r);
	rig_family(NET_FAMILY_IPV4);
}

/* Bytes [from, from + len) of the body as a fragment of packet `id`. */
static void piece(uint32_t id, uint32_t from, uint32_t len, bool more)
{
	uint8_t f[2000], l4[1200] = {0};
	size_t n;

	if (v6()) {
		l4[0] = IP_PROTO_ICMP6;
		be16_store(l4 + 2, (uint16_t)(from | more));
		be32_store(l4 + 4, id);
		memcpy(l4 + 8, body + from, len);
		rig_input(&r, f, rig_build_ip(f, 44, l4, 8 + len));
		return;
	}
	n = rig_build_ip(f, IP_PROTO_ICMP, body + from, len);
	be16_store(f + 18, (uint16_t)id);
	be16_store(f + 20, (uint16_t)(from / 8 | (more ? 0x2000 : 0)));
	memset(f + 24, 0, 2);
	{
		uint16_t sum = cksum_fold(cksum_add(0, f + 14, 20));

		memcpy(f + 24, &sum, 2);
	}
	rig_input(&r, f, n);
}

/* The echo came back, whole. */
static void expect_echo(void)
{
	uint8_t f[2000];
	size_t at = rig_l4_offset();

	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), at + BODY);
	ck_assert_uint_eq(f[at], v6() ? ICMP6_ECHO_REPLY : 0);
	ck_assert_mem_eq(f + at + 4, body + 4, BODY - 4);
	rig_silent(&r);
}

static void whole(uint8_t family)
{
	static const unsigned orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
					      {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
	static const uint32_t from[] = {0, 400, 800}, len[] = {400, 400, 200};

	start(family);
	for (unsigned k = 0; k < 6; k++) {
		for (unsigned i = 0; i < 3; i++) {
			unsigned n = orders[k][i];

			rig_silent(&r);
			piece(100 + k, from[n], len[n], n < 2);
		}
		expect_echo();
	}
	ck_assert_uint_eq(COUNTER(rx_ip_reassembled), 6);
	ck_assert_uint_eq(COUNTER(rx_ip_fragments), 18);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_fragment), 0);
	rig_wait(&r, 20 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}

START_TEST(test_every_order)
{
	whole(NET_FAMILY_IPV4);
	whole(NET_FAMILY_IPV6);
}
END_TEST

static void hostile(uint8_t family)
{
	start(family);
	/* Overlapping, doubled: never whole. */
	piece(1, 0, 400, true);
	piece(1, 200, 400, true);
	piece(1, 600, 400, false);
	rig_silent(&r);
	piece(2, 0, 400, true);
	piece(2, 0, 400, true);
	piece(2, 400, 200, true);
	piece(2, 600, 400, false);
	rig_silent(&r);
	/* Two ends. */
	piece(3, 400, 600, false);
	piece(3, 600, 400, false);
	piece(3, 0, 400, true);
	rig_silent(&r);
	/* A piece in the middle of odd length. */
	piece(4, 0, 399, true);
	rig_silent(&r);
	/* More packets than there is room for, and more pieces than a packet may have. */
	for (uint32_t id = 10; id < 100; id++)
		piece(id, 0, 400, true);
	for (uint32_t at = 0; at < 400; at += 8)
		piece(200, at, 8, true);
	rig_silent(&r);
	ck_assert_uint_gt(COUNTER(rx_drop_ip_fragment), 60);
	/* What is left is forgotten, and then there is room again. */
	rig_wait(&r, 11 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	piece(300, 0, 400, true);
	piece(300, 400, 600, false);
	expect_echo();
	/* Too late: the other half is gone. */
	piece(301, 0, 400, true);
	rig_wait(&r, 11 * RIG_S);
	piece(301, 400, 600, false);
	rig_silent(&r);
	stop();
}

START_TEST(test_hostile_pieces)
{
	hostile(NET_FAMILY_IPV4);
	hostile(NET_FAMILY_IPV6);
}
END_TEST

START_TEST(test_atomic_fragment)
{
	start(NET_FAMILY_IPV6);
	piece(7, 0, BODY, false);
	expect_echo();
	stop();
}
END_TEST

START_TEST(test_dropped_by_configuration)
{
	rig_defaults(&r);
	rig_start(&r);
	piece(1, 0, 400, true);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_fragment), 1);
	rig_silent(&r);
	rig_stop(&r);
}
END_TEST

/* A TCP segment in two pieces reaches its connection; one for no connection draws no RST, for
 * another worker may have it. */
static void tcp_pieces(uint8_t family)
{
	static struct rig_segment s;
	uint8_t f[2000], l4[1500];
	size_t len, at;

	start(family);
	rig_accept(&r, NULL, 0);
	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r.peer_seq;
	s.ack = r.peer_ack;
	s.flags = TCP_ACK;
	s.window = 1000;
	s.len = 500;
	for (int way = 0; way < 2; way++) {
		len = rig_build_tcp(f, &s);
		at = rig_l4_offset();
		if (v6()) {
			memcpy(l4 + 8, f + at, len - at);
			memset(l4, 0, 8);
			l4[0] = IP_PROTO_TCP;
			l4[3] = 1;
			l4[7] = (uint8_t)(9 + way);
			rig_input(&r, f, rig_build_ip(f, 44, l4, 8 + 256));
			memmove(l4 + 8, l4 + 8 + 256, len - at - 256);
			be16_store(l4 + 2, 256);
			rig_input(&r, f, rig_build_ip(f, 44, l4, 8 + len - at - 256));
		} else {
			uint16_t sum;

			memcpy(l4, f + at, len - at);
			for (uint32_t from = 0; from < len - at; from += 256) {
				uint32_t n = from == 0 ? 256 : (uint32_t)(len - at) - 256;
				size_t frame = rig_build_ip(f, IP_PROTO_TCP, l4 + from, n);

				be16_store(f + 18, (uint16_t)(9 + way));
				be16_store(f + 20, (uint16_t)(from / 8 | (from == 0 ? 0x2000 : 0)));
				memset(f + 24, 0, 2);
				sum = cksum_fold(cksum_add(0, f + 14, 20));
				memcpy(f + 24, &sum, 2);
				rig_input(&r, f, frame);
				if (from != 0)
					break;
			}
		}
		ck_assert_uint_eq(r.app.bytes, 500);
		s.src_port = 4999; /* of no connection */
	}
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_no_conn), 1);
	ck_assert_uint_eq(COUNTER(tcp_resets_sent), 0);
	stop();
}

START_TEST(test_tcp_in_pieces)
{
	tcp_pieces(NET_FAMILY_IPV4);
	tcp_pieces(NET_FAMILY_IPV6);
}
END_TEST

/* RFC 3168 s5.3: a mark on any piece is one on the whole. RFC 6980 s5: discovery comes in no
 * pieces. */
static void marks(uint8_t family)
{
	for (unsigned at = 0; at < 4; at++) { /* 3: none is marked */
		struct rte_mbuf *m = NULL;
		const uint8_t *ip;

		start(family);
		for (unsigned i = 0; i < 3; i++) {
			uint32_t from = 400 * i, len = i < 2 ? 400 : 200, offset = v6() ? 40 : 20;
			uint8_t f[600] = {0}, *p = f;

			m = rte_pktmbuf_alloc(r.pool);
			if (v6()) {
				uint8_t ip6[48] = {0x60, 0, 0, 0, 0, 0, 44, 64};

				be16_store(ip6 + 4, (uint16_t)(len + 8));
				ip6[1] = (uint8_t)((i == at ? IP_ECN_CE : IP_ECN_ECT0) << 4);
				ip6[40] = IP_PROTO_TCP;
				be16_store(ip6 + 42, (uint16_t)(from | (i < 2)));
				memcpy(p, ip6, sizeof(ip6));
				p += sizeof(ip6);
			} else {
				uint8_t ip4[20] = {0x45};

				ip4[1] = i == at ? IP_ECN_CE : IP_ECN_ECT0;
				be16_store(ip4 + 2, (uint16_t)(20 + len));
				ip4[5] = 7;
				be16_store(ip4 + 6, (uint16_t)(from / 8 | (i < 2 ? 0x2000 : 0)));
				ip4[9] = IP_PROTO_TCP;
				memcpy(p, ip4, sizeof(ip4));
				p += sizeof(ip4);
			}
			p += len;
			memcpy(rte_pktmbuf_append(m, (uint16_t)(p - f)), f, (size_t)(p - f));
			m = v6() ? reassembly_ip6(r.stack, m, offset)
				 : reassembly_ip4(r.stack, m, offset);
			ck_assert_uint_eq(m != NULL, i == 2);
		}
		ip = rte_pktmbuf_mtod(m, const uint8_t *);
		ck_assert_uint_eq(v6() ? ip[1] >> 4 & 3 : ip[1] & 3,
				  at < 3 ? IP_ECN_CE : IP_ECN_ECT0);
		rte_pktmbuf_free(m);
		stop();
	}
}

START_TEST(test_marks_are_kept)
{
	marks(NET_FAMILY_IPV4);
	marks(NET_FAMILY_IPV6);
}
END_TEST

START_TEST(test_no_discovery_in_fragments)
{
	struct net_addr target, src, dst;
	uint8_t f[200], l4[8 + 24] = {IP_PROTO_ICMP6, [8] = ICMP6_NEIGHBOUR_SOLICIT};
	uint16_t sum;
	size_t n;

	start(NET_FAMILY_IPV6);
	src = rig_remote(0);
	dst = target = rig_local(0);
	memcpy(l4 + 16, target.bytes, 16);
	sum = cksum_fold(cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_ICMP6, 24), l4 + 8, 24));
	memcpy(l4 + 10, &sum, 2);
	n = rig_build_ip(f, 44, l4, sizeof(l4));
	f[21] = 255; /* hop limit */
	rig_input(&r, f, n);
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), 1);
	n = rig_build_ip(f, IP_PROTO_ICMP6, l4 + 8, sizeof(l4) - 8);
	f[21] = 255;
	rig_input(&r, f, n);
	ck_assert_uint_eq(COUNTER(rx_ndp_solicitations), 1);
	while (rig_take(&r, f, sizeof(f)) > 0)
		;
	stop();
}
END_TEST

RIG_MAIN("reassembly", test_every_order, test_hostile_pieces, test_atomic_fragment,
	 test_dropped_by_configuration, test_tcp_in_pieces, test_marks_are_kept,
	 test_no_discovery_in_fragments)
