/* Below TCP: checksums, Ethernet, ARP, IPv4, ICMP, UDP. */
#include "tests/net/rig.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/net/cksum.h"

static struct rig r;

#define COUNTER(name) (net_counters_of(r.stack)->name)

static uint16_t slow_checksum(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

START_TEST(test_checksum)
{
	/* RFC 1071 s3. */
	static const uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
	uint8_t buffer[300];
	uint16_t got;

	ck_assert_uint_eq(slow_checksum(example, 8), (uint16_t)~0xddf2);
	for (size_t i = 0; i < sizeof(buffer); i++)
		buffer[i] = (uint8_t)(i * 197 + 255);
	for (size_t off = 0; off < 9; off++) {
		for (size_t len = 0; len < 290; len++) {
			got = cksum_fold(cksum_add(0, buffer + off, len));
			ck_assert_uint_eq(be16_load(&got), slow_checksum(buffer + off, len));
		}
	}
	memset(buffer, 0xff, sizeof(buffer));
	got = cksum_fold(cksum_add(0, buffer, 300));
	ck_assert_uint_eq(got, 0);
}
END_TEST

START_TEST(test_checksum_of_chains)
{
	rig_defaults(&r);
	for (uint32_t piece = 1; piece < 60; piece++) {
		struct rte_mbuf *m = rig_chain(&r, 500, piece);
		uint8_t flat[500];

		for (uint32_t i = 0; i < 500; i++)
			flat[i] = (uint8_t)i;
		for (uint32_t off = 0; off < 130; off += 13) {
			uint16_t got = cksum_fold(cksum_add_chain(0, m, off, 500 - off));

			ck_assert_uint_eq(be16_load(&got), slow_checksum(flat + off, 500 - off));
		}
		rte_pktmbuf_free(m);
	}
}
END_TEST

START_TEST(test_address_text)
{
	struct net_addr a, b;
	char text[NET_ADDR_TEXT_MAX];

	ck_assert_int_eq(net_addr_parse("198.18.0.1", &a), 0);
	ck_assert_str_eq(net_addr_format(&a, text), "198.18.0.1");
	a.port = 80;
	ck_assert_str_eq(net_addr_format(&a, text), "198.18.0.1:80");
	ck_assert_int_eq(net_addr_parse("2001:2::1", &b), 0);
	ck_assert_uint_eq(b.family, NET_FAMILY_IPV6);
	b.port = 443;
	ck_assert_str_eq(net_addr_format(&b, text), "[2001:2::1]:443");
	ck_assert(!net_addr_equal(&a, &b) && net_addr_equal(&a, &a));
	ck_assert_int_eq(net_addr_parse("198.18.0", &a), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(net_addr_parse("", &a), -SPLIT_E_BASE_INVALID);
}
END_TEST

static size_t arp_build(uint8_t *f, uint16_t op, const uint8_t *sender_mac,
			const uint8_t *sender_ip, const uint8_t *target_ip)
{
	memset(f, 0, 60);
	memcpy(f, rig_mac.addr_bytes, 6);
	memcpy(f + 6, sender_mac, 6);
	be16_store(f + 12, ETH_TYPE_ARP);
	be16_store(f + 14, 1);
	be16_store(f + 16, ETH_TYPE_IPV4);
	f[18] = 6;
	f[19] = 4;
	be16_store(f + 20, op);
	memcpy(f + 22, sender_mac, 6);
	memcpy(f + 28, sender_ip, 4);
	memcpy(f + 38, target_ip, 4);
	return 60;
}

static const uint8_t our_ip[4] = {198, 18, 0, 2}, peer_ip[4] = {198, 18, 0, 9};
static const uint8_t evil_mac[6] = {2, 6, 6, 6, 6, 6};

START_TEST(test_announces_itself)
{
	struct net_ops ops;
	uint8_t f[200];

	rig_defaults(&r);
	rig_start(&r);
	ck_assert_uint_eq(COUNTER(tx_arp_requests), 2); /* RFC 5227 ANNOUNCE_NUM */
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	rig_stop(&r);
	/* A secondary stack keeps quiet. */
	(void)ops;
	rig_defaults(&r);
	r.config.flags &= ~NET_PRIMARY;
	rig_start(&r);
	ck_assert_uint_eq(COUNTER(tx_arp_requests), 0);
	rig_input(&r, f, arp_build(f, 1, rig_peer_mac.addr_bytes, peer_ip, our_ip));
	rig_silent(&r);
	rig_stop(&r);
}
END_TEST

START_TEST(test_arp_answers)
{
	uint8_t f[200];

	rig_defaults(&r);
	rig_start(&r);
	rig_input(&r, f, arp_build(f, 1, rig_peer_mac.addr_bytes, peer_ip, our_ip));
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42);
	ck_assert_mem_eq(f, rig_peer_mac.addr_bytes, 6);
	ck_assert_uint_eq(be16_load(f + 20), 2);
	ck_assert_mem_eq(f + 22, rig_mac.addr_bytes, 6);
	ck_assert_mem_eq(f + 28, our_ip, 4);
	ck_assert_mem_eq(f + 38, peer_ip, 4);
	/* Not for us; for us but cut short; with another hardware type. */
	rig_input(&r, f, arp_build(f, 1, rig_peer_mac.addr_bytes, peer_ip, peer_ip));
	rig_input(&r, f, arp_build(f, 1, rig_peer_mac.addr_bytes, peer_ip, our_ip) - 20);
	arp_build(f, 1, rig_peer_mac.addr_bytes, peer_ip, our_ip);
	f[15] = 6;
	rig_input(&r, f, 60);
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(rx_drop_arp_malformed), 2);
	rig_stop(&r);
}
END_TEST

static void connect_to(uint8_t last, struct tcp_conn **c)
{
	struct net_addr to = rig_remote(99);

	to.bytes[3] = last;
	ck_assert_int_eq(tcp_connect(r.stack, NULL, &to, &rig_events, &r.app, c), 0);
	rig_flush(&r);
}

START_TEST(test_arp_is_not_poisoned)
{
	struct tcp_conn *c;
	uint8_t f[200];

	rig_defaults(&r);
	r.no_arp = true;
	rig_start(&r);
	/* Before anybody asked: no entry is made. */
	rig_input(&r, f, arp_build(f, 2, evil_mac, peer_ip, our_ip));
	rig_input(&r, f, arp_build(f, 1, evil_mac, peer_ip, our_ip));
	rig_take(&r, f, sizeof(f)); /* the answer to the request */
	connect_to(9, &c);
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42); /* asks nevertheless */
	ck_assert_uint_eq(be16_load(f + 20), 1);
	rig_silent(&r);
	rig_input(&r, f, arp_build(f, 2, rig_peer_mac.addr_bytes, peer_ip, our_ip));
	ck_assert_uint_ge(rig_take(&r, f, sizeof(f)), 54); /* the SYN */
	ck_assert_mem_eq(f, rig_peer_mac.addr_bytes, 6);
	/* Now known: another claim makes us ask the one we know, and we go on using it. */
	rig_input(&r, f, arp_build(f, 2, evil_mac, peer_ip, our_ip));
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42);
	ck_assert_mem_eq(f, rig_peer_mac.addr_bytes, 6);
	/* The question went to the one we know alone: nobody else can answer it. */
	rig_input(&r, f, arp_build(f, 2, evil_mac, peer_ip, our_ip));
	rig_input(&r, f, arp_build(f, 2, rig_peer_mac.addr_bytes, peer_ip, our_ip));
	rig_wait(&r, 1100 * RIG_MS);
	ck_assert_uint_ge(rig_take(&r, f, sizeof(f)), 54);
	ck_assert_mem_eq(f, rig_peer_mac.addr_bytes, 6);
	tcp_abort(c);
	rig_stop(&r);
}
END_TEST

START_TEST(test_arp_gives_up)
{
	struct tcp_conn *c;
	uint8_t f[200];
	unsigned asked = 0;

	rig_defaults(&r);
	r.no_arp = true;
	r.config.tcp.syn_retries = 1;
	rig_start(&r);
	connect_to(77, &c);
	rig_wait(&r, 20 * RIG_S);
	while (rig_take(&r, f, sizeof(f)) > 0)
		asked++;
	ck_assert_uint_ge(asked, 3);
	ck_assert_uint_ge(COUNTER(arp_failures), 1);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_TIMEOUT);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	rig_stop(&r);
}
END_TEST

START_TEST(test_arp_table_is_bounded)
{
	struct tcp_conn *c[20];

	rig_defaults(&r);
	r.no_arp = true;
	r.config.arp_entries_max = 8;
	r.config.arp_pending_max = 1;
	rig_start(&r);
	for (uint8_t i = 0; i < 20; i++)
		connect_to((uint8_t)(20 + i), &c[i]);
	ck_assert_uint_eq(COUNTER(arp_evictions), 12);
	ck_assert_uint_eq(COUNTER(tx_drop_arp_pending), 12);
	for (uint8_t i = 0; i < 20; i++)
		tcp_abort(c[i]);
	rig_stop(&r);
}
END_TEST

/* A valid UDP datagram to spoil. */
static size_t udp_build(uint8_t *f, uint16_t port, uint16_t len)
{
	struct net_addr src = rig_remote(0), dst = rig_local(0);
	uint8_t l4[2000];
	uint16_t sum;

	memset(l4, 7, sizeof(l4));
	be16_store(l4, 5555);
	be16_store(l4 + 2, port);
	be16_store(l4 + 4, (uint16_t)(8 + len));
	be16_store(l4 + 6, 0);
	sum = cksum_fold(
		cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_UDP, 8u + len), l4, 8u + len));
	memcpy(l4 + 6, &sum, 2);
	return rig_build_ip(f, IP_PROTO_UDP, l4, 8u + len);
}

static void ip_fix(uint8_t *f)
{
	size_t header = (f[14] & 15u) < 5 ? 20 : (f[14] & 15u) * 4u;
	uint16_t sum;

	be16_store(f + 24, 0);
	sum = cksum_fold(cksum_add(0, f + 14, header));
	memcpy(f + 24, &sum, 2);
}

/* A datagram to a port of nobody's from 198.18.0.`last`, who then is to hear that. */
static void flood_from(uint8_t last)
{
	uint8_t f[200];
	size_t len = udp_build(f, 5000, 20);

	f[29] = last;
	be16_store(f + 40, 0); /* RFC 768: no checksum */
	ip_fix(f);
	r.now_ns += RIG_MS;
	rig_input(&r, f, len);
}

/* Neighbours that never answer do not drive out those that did. */
START_TEST(test_arp_flood_spares_the_known)
{
	uint8_t f[200];

	rig_defaults(&r);
	r.config.arp_entries_max = 16;
	rig_start(&r);
	flood_from(9);
	ck_assert_uint_ne(rig_take(&r, f, sizeof(f)), 0);
	r.no_arp = true;
	for (uint8_t i = 20; i < 220; i++) {
		flood_from(i);
		ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42); /* a question */
	}
	flood_from(9);
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 14 + 20 + 8 + 28);
	ck_assert_uint_ge(COUNTER(arp_evictions), 180);
	rig_stop(&r);
}
END_TEST

/* What waits for answers that never come leaves the pool to others. */
START_TEST(test_arp_pending_is_bounded)
{
	uint8_t f[200];

	rig_defaults(&r);
	r.no_arp = true;
	r.config.arp_pending_max = 16;
	rig_start(&r);
	for (uint8_t i = 20; i < 220; i++) {
		for (int n = 0; n < 10; n++)
			flood_from(i);
		while (rig_take(&r, f, sizeof(f)) > 0)
			;
	}
	ck_assert_uint_le(r.avail - rte_mempool_avail_count(r.pool), r.pool->size / 8);
	ck_assert_uint_gt(COUNTER(tx_drop_arp_pending), 0);
	rig_wait(&r, 5 * RIG_S); /* they are given up, and the room is there again */
	while (rig_take(&r, f, sizeof(f)) > 0)
		;
	ck_assert_uint_eq(rte_mempool_avail_count(r.pool), r.avail);
	r.no_arp = false;
	flood_from(9);
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 14 + 20 + 8 + 28);
	rig_stop(&r);
}
END_TEST

START_TEST(test_arp_conflict)
{
	uint8_t f[200];

	rig_defaults(&r);
	rig_start(&r);
	for (int i = 0; i < 5; i++)
		rig_input(&r, f, arp_build(f, 1, evil_mac, our_ip, our_ip));
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42); /* defended once */
	ck_assert_mem_eq(f + 28, our_ip, 4);
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(rx_arp_conflicts), 5);
	rig_stop(&r);
}
END_TEST

START_TEST(test_gateway)
{
	struct net_addr to = {.family = NET_FAMILY_IPV4, .bytes = {198, 19, 5, 5}, .port = 99};
	struct tcp_conn *c;
	uint8_t f[200];

	rig_defaults(&r);
	r.no_arp = true;
	rig_start(&r);
	ck_assert_int_eq(tcp_connect(r.stack, NULL, &to, &rig_events, &r.app, &c), 0);
	rig_flush(&r);
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42);
	ck_assert_mem_eq(f + 38, ((uint8_t[]){198, 18, 0, 1}), 4);
	tcp_abort(c);
	rig_stop(&r);
	rig_defaults(&r);
	r.config.gateway.family = NET_FAMILY_NONE;
	rig_start(&r);
	ck_assert_int_eq(tcp_connect(r.stack, NULL, &to, &rig_events, &r.app, &c),
			 -SPLIT_E_NET_NO_ROUTE);
	rig_stop(&r);
}
END_TEST

START_TEST(test_bad_frames)
{
	static const struct {
		int at;
		uint8_t value;
		bool fix;
		size_t counter;
	} cases[] = {
#define CASE(at, value, fix, name) {at, value, fix, offsetof(struct net_counters, name)}
		CASE(0, 0x04, true, rx_drop_eth_dst),      CASE(6, 0x03, true, rx_drop_eth_src),
		CASE(12, 0x81, true, rx_drop_eth_vlan),    CASE(13, 0xdd, true, rx_drop_eth_type),
		CASE(14, 0x65, true, rx_drop_ip_version),  CASE(14, 0x44, true, rx_drop_ip_header),
		CASE(14, 0x46, true, rx_drop_ip_options),  CASE(16, 0x7f, true, rx_drop_ip_length),
		CASE(17, 19, true, rx_drop_ip_length),     CASE(24, 0, false, rx_drop_ip_checksum),
		CASE(20, 0x20, true, rx_drop_ip_fragment), CASE(21, 1, true, rx_drop_ip_fragment),
		CASE(23, 99, true, rx_drop_ip_protocol),   CASE(26, 127, true, rx_drop_ip_src),
		CASE(26, 0, true, rx_drop_ip_src),         CASE(26, 240, true, rx_drop_ip_src),
		CASE(29, 2, true, rx_drop_ip_src),         CASE(29, 255, true, rx_drop_ip_src),
		CASE(33, 3, true, rx_drop_ip_dst),         CASE(33, 255, true, rx_drop_ip_dst),
		CASE(41, 1, true, rx_drop_udp_checksum),   CASE(39, 5, true, rx_drop_udp_malformed),
		CASE(38, 9, true, rx_drop_udp_malformed),
	};

	rig_defaults(&r);
	rig_start(&r);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t f[200];
		size_t len = udp_build(f, 5000, 20);
		const uint64_t *counter =
			(const void *)((const char *)net_counters_of(r.stack) + cases[i].counter);
		uint64_t before = *counter;

		f[cases[i].at] = cases[i].value;
		if (cases[i].at == 12)
			f[13] = 0;
		if (cases[i].fix)
			ip_fix(f);
		rig_input(&r, f, len);
		ck_assert_msg(*counter == before + 1, "case %zu", i);
	}
	rig_silent(&r);
	for (size_t len = 1; len < 34; len++) {
		uint8_t f[200];

		udp_build(f, 5000, 20);
		rig_input(&r, f, len);
	}
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(rx_drop_eth_short), 13);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_short), 20);
	rig_stop(&r);
}
END_TEST

/* Put `n` bytes of options into a packet of `len` bytes. */
static size_t ip_options_add(uint8_t *f, size_t len, const uint8_t *options, size_t n)
{
	memmove(f + 34 + n, f + 34, len - 34);
	memcpy(f + 34, options, n);
	f[14] = (uint8_t)(0x45 + n / 4);
	be16_store(f + 16, (uint16_t)(be16_load(f + 16) + n));
	ip_fix(f);
	return len + n;
}

/* RFC 1122 s3.2.1.8: options do not keep a packet from its reader; routes to elsewhere do. */
START_TEST(test_ip_options)
{
	static const uint8_t harmless[][8] = {
		{1, 1, 1, 1},                /* no operation */
		{148, 4, 0, 0},              /* router alert */
		{7, 7, 4, 0, 9, 0, 0, 0},    /* record route, and the list's end */
		{68, 8, 5, 0, 9, 0, 0, 0},   /* timestamps */
		{0, 131, 3, 4},              /* nothing counts behind the end */
		{1, 254, 2, 99, 4, 1, 2, 0}, /* never heard of */
	};
	static const uint8_t harmful[][8] = {
		{131, 7, 4, 1, 2, 3, 4, 0},
		{137, 7, 4, 1, 2, 3, 4, 0},
		{1, 131, 3, 4},
		{7, 0, 4, 0},
		{7, 1, 4, 0},
		{148, 5, 0, 0},
		{1, 1, 1, 68},
	};
	uint8_t f[200], segment[300], l4[64] = {8};
	struct rig_segment syn = {.src_port = RIG_PEER_PORT,
				  .dst_port = RIG_PORT,
				  .seq = 1000,
				  .flags = TCP_SYN,
				  .window = 1000};
	size_t len;
	uint16_t sum;

	rig_defaults(&r);
	rig_start(&r);
	for (size_t i = 0; i < ARRAY_LEN(harmless); i++) {
		len = udp_build(f, 5000, 30);
		rig_input(&r, f, ip_options_add(f, len, harmless[i], harmless[i][4] ? 8 : 4));
		ck_assert_uint_eq(COUNTER(rx_drop_udp_port), i + 1);
		/* What comes back quotes the whole header and eight bytes behind it. */
		ck_assert_uint_eq(rig_take(&r, segment, sizeof(segment)),
				  14 + 20 + 8 + 28 + (harmless[i][4] ? 8u : 4u));
	}
	for (size_t i = 0; i < ARRAY_LEN(harmful); i++) {
		len = udp_build(f, 5000, 30);
		rig_input(&r, f, ip_options_add(f, len, harmful[i], harmful[i][4] ? 8 : 4));
		ck_assert_uint_eq(COUNTER(rx_drop_ip_options), i + 1);
	}
	rig_silent(&r);
	sum = cksum_fold(cksum_add(0, l4, sizeof(l4)));
	memcpy(l4 + 2, &sum, 2);
	len = rig_build_ip(f, IP_PROTO_ICMP, l4, sizeof(l4));
	rig_input(&r, f, ip_options_add(f, len, harmless[1], 4));
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 34 + sizeof(l4));
	len = rig_build_tcp(segment, &syn);
	rig_input(&r, segment, ip_options_add(segment, len, harmless[1], 4));
	rig_expect(&r, TCP_SYN | TCP_ACK);
	/* A header longer than what came. */
	len = udp_build(f, 5000, 0);
	f[14] = 0x4f;
	ip_fix(f);
	rig_input(&r, f, 60);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_short), 1);
	rig_stop(&r);
}
END_TEST

START_TEST(test_frame_size)
{
	static uint8_t f[9300];

	rig_defaults(&r);
	rig_start(&r);
	memset(f, 0, sizeof(f));
	rig_input(&r, f, udp_build(f, 5000, 1472));
	ck_assert_uint_eq(COUNTER(rx_drop_udp_port), 1);
	memcpy(f, rig_mac.addr_bytes, 6);
	rig_input(&r, f, 1515);
	rig_input(&r, f, 9200); /* three mbufs */
	ck_assert_uint_eq(COUNTER(rx_drop_eth_long), 2);
	rig_stop(&r);
}
END_TEST

START_TEST(test_checksum_flags)
{
	uint8_t f[200];
	size_t len;
	struct rte_mbuf *m;

	rig_defaults(&r);
	rig_start(&r);
	len = udp_build(f, 5000, 20);
	f[50] ^= 1; /* the software finds it */
	rig_input(&r, f, len);
	ck_assert_uint_eq(COUNTER(rx_drop_udp_checksum), 1);
	m = rte_pktmbuf_alloc(r.pool);
	memcpy(rte_pktmbuf_append(m, (uint16_t)len), f, len);
	m->ol_flags |=
		RTE_MBUF_F_RX_L4_CKSUM_GOOD; /* the device says otherwise (partial checksums) */
	net_rx(r.stack, &m, 1, r.now_ns);
	ck_assert_uint_eq(COUNTER(rx_drop_udp_port), 1);
	len = udp_build(f, 5000, 20);
	m = rte_pktmbuf_alloc(r.pool);
	memcpy(rte_pktmbuf_append(m, (uint16_t)len), f, len);
	m->ol_flags |= RTE_MBUF_F_RX_L4_CKSUM_BAD;
	net_rx(r.stack, &m, 1, r.now_ns);
	ck_assert_uint_eq(COUNTER(rx_drop_udp_checksum), 2);
	rig_stop(&r);
	rig_defaults(&r);
	r.config.flags |= NET_RX_CSUM_TRUST;
	rig_start(&r);
	len = udp_build(f, 5000, 20);
	f[50] ^= 1;
	rig_input(&r, f, len);
	ck_assert_uint_eq(COUNTER(rx_drop_udp_port), 1);
	rig_stop(&r);
}
END_TEST

START_TEST(test_echo)
{
	uint8_t f[2000], l4[1480], sent[1480];
	uint16_t sum;

	rig_defaults(&r);
	rig_start(&r);
	for (size_t len = 8; len <= 1480; len += 46) {
		for (size_t i = 0; i < len; i++)
			l4[i] = (uint8_t)i;
		l4[0] = 8;
		l4[1] = l4[2] = l4[3] = 0;
		sum = cksum_fold(cksum_add(0, l4, len));
		memcpy(l4 + 2, &sum, 2);
		memcpy(sent, l4, len);
		rig_input(&r, f, rig_build_ip(f, IP_PROTO_ICMP, l4, len));
		ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 34 + len);
		ck_assert_uint_eq(f[34], 0);
		ck_assert_mem_eq(f + 38, sent + 4, len - 4);
		ck_assert_uint_eq(cksum_reduce(cksum_add(0, f + 34, len)), 0xffff);
		ck_assert_mem_eq(f + 30, peer_ip, 4);
	}
	l4[0] = 8;
	l4[2] ^= 1;
	rig_input(&r, f, rig_build_ip(f, IP_PROTO_ICMP, l4, 64));
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(rx_drop_icmp_malformed), 1);
	rig_stop(&r);
}
END_TEST

START_TEST(test_icmp_rate)
{
	uint8_t f[200];
	unsigned answers = 0;

	rig_defaults(&r);
	r.config.icmp_per_second = 100;
	rig_start(&r);
	rig_input(&r, f, udp_build(f, 5000, 20)); /* so that ARP is done */
	ck_assert_uint_ne(rig_take(&r, f, sizeof(f)), 0);
	rig_wait(&r, RIG_S);
	for (int i = 0; i < 500; i++)
		rig_input(&r, f, udp_build(f, 5000, 20));
	while (rig_take(&r, f, sizeof(f)) > 0)
		answers++;
	ck_assert_uint_ge(answers, 32);
	ck_assert_uint_le(answers, 64);
	ck_assert_uint_eq(COUNTER(rx_drop_udp_port), 501);
	rig_wait(&r, 100 * RIG_MS);
	rig_input(&r, f, udp_build(f, 5000, 20));
	ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 14 + 20 + 8 + 28);
	ck_assert_uint_eq(f[34], 3);
	ck_assert_uint_eq(f[35], 3);
	rig_stop(&r);
}
END_TEST

static unsigned udp_got;

static void udp_recv(void *ctx, const struct net_addr *local, const struct net_addr *peer,
		     struct rte_mbuf *payload)
{
	struct net_addr l = rig_local(5000), p = rig_remote(5555);

	ck_assert_ptr_eq(ctx, &r);
	ck_assert(net_addr_equal(local, &l) && net_addr_equal(peer, &p));
	udp_got += payload->pkt_len;
	ck_assert_int_eq(net_udp_send(r.stack, local, peer, payload), 0); /* echo */
}

START_TEST(test_udp)
{
	struct net_addr any = {.family = NET_FAMILY_IPV4, .port = 5000};
	struct net_addr src = rig_local(0), dst = rig_remote(0);
	uint8_t f[2000];

	rig_defaults(&r);
	rig_start(&r);
	ck_assert_int_eq(net_udp_bind(r.stack, &any, udp_recv, &r), 0);
	ck_assert_int_eq(net_udp_bind(r.stack, &any, udp_recv, &r), -SPLIT_E_NET_IN_USE);
	udp_got = 0;
	for (uint16_t len = 0; len < 1400; len = (uint16_t)(len + 277)) {
		rig_input(&r, f, udp_build(f, 5000, len));
		ck_assert_uint_eq(rig_take(&r, f, sizeof(f)), 42u + len);
		ck_assert_uint_eq(
			cksum_reduce(cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_UDP, 8u + len),
					       f + 34, 8u + len)),
			0xffff);
	}
	ck_assert_uint_eq(udp_got, 277 * (0 + 1 + 2 + 3 + 4 + 5));
	net_udp_unbind(r.stack, &any);
	rig_input(&r, f, udp_build(f, 5000, 3));
	ck_assert_uint_eq(COUNTER(rx_drop_udp_port), 1);
	rig_stop(&r);
}
END_TEST

START_TEST(test_steering)
{
	uint8_t f[200];
	uint32_t hash, again;
	struct rte_mbuf *m;

	rig_defaults(&r);
	m = rte_pktmbuf_alloc(r.pool);
	rte_pktmbuf_append(m, 60);
	arp_build(f, 1, evil_mac, peer_ip, our_ip);
	memcpy(rte_pktmbuf_mtod(m, void *), f, 60);
	ck_assert_int_eq(net_steer(m, &hash), NET_STEER_ALL);
	udp_build(f, 5000, 10);
	memcpy(rte_pktmbuf_mtod(m, void *), f, 60);
	ck_assert_int_eq(net_steer(m, &hash), NET_STEER_FLOW);
	udp_build(f, 5001, 10);
	memcpy(rte_pktmbuf_mtod(m, void *), f, 60);
	ck_assert_int_eq(net_steer(m, &again), NET_STEER_FLOW);
	ck_assert_uint_ne(hash, again);
	ip_options_add(f, 52, (const uint8_t[]){1, 1, 1, 1}, 4); /* of the same flow */
	memcpy(rte_pktmbuf_mtod(m, void *), f, 60);
	ck_assert_int_eq(net_steer(m, &hash), NET_STEER_FLOW);
	ck_assert_uint_eq(hash, again);
	f[12] = 0x86; /* IPv6 and what else is not spoken: one worker drops it */
	f[13] = 0xdd;
	memcpy(rte_pktmbuf_mtod(m, void *), f, 60);
	ck_assert_int_eq(net_steer(m, &hash), NET_STEER_FLOW);
	for (uint16_t len = 0; len < 40; len++) { /* reads nothing past the end */
		m->data_len = len;
		net_steer(m, &hash);
	}
	rte_pktmbuf_free(m);
}
END_TEST

RIG_MAIN("ip", test_checksum, test_checksum_of_chains, test_address_text, test_announces_itself,
	 test_arp_answers, test_arp_is_not_poisoned, test_arp_gives_up, test_arp_table_is_bounded,
	 test_arp_flood_spares_the_known, test_arp_pending_is_bounded, test_arp_conflict,
	 test_gateway, test_bad_frames, test_ip_options, test_frame_size, test_checksum_flags,
	 test_echo, test_icmp_rate, test_udp, test_steering)
