/* Neighbour discovery, addresses, ICMPv6, extension headers, VLAN tags. RFC 4861, 4862, 4443, 8200.
 */
#include "tests/net/rig.h"

#include <string.h>

#include "daemon/net/cksum.h"

static struct rig r;

#define COUNTER(name) (net_counters_of(r.stack)->name)

static const struct net_addr any6 = {.family = NET_FAMILY_IPV6};
static const struct net_addr nodes6 = {.family = NET_FAMILY_IPV6, .bytes = {0xff, 2, [15] = 1}};
static const struct net_addr router6 = {.family = NET_FAMILY_IPV6, .bytes = {0xfe, 0x80, [15] = 1}};

static struct net_addr us6(void)
{
	rig_family(NET_FAMILY_IPV6);
	return rig_local(0);
}

static struct net_addr peer6(void)
{
	rig_family(NET_FAMILY_IPV6);
	return rig_remote(0);
}

/* What a message is: an ICMPv6 message with its addresses, whatever is to be wrong with it. */
struct message {
	struct net_addr src, dst;
	uint8_t body[256];
	size_t len;
	uint8_t hop_limit;
	uint8_t mac[6]; /* of who sends; zero: the peer */
	bool bad_sum;
};

static void message_give(const struct message *w)
{
	uint8_t f[400] = {0};
	struct ip6_header ip = {.version_class = 0x60,
				.payload_length = be16_make((uint16_t)w->len),
				.next = IP_PROTO_ICMP6,
				.hop_limit = w->hop_limit};
	uint16_t sum;

	memcpy(f, rig_mac.addr_bytes, 6);
	if (w->dst.bytes[0] == 0xff) {
		f[0] = f[1] = 0x33;
		memcpy(f + 2, w->dst.bytes + 12, 4);
	}
	memcpy(f + 6, w->mac[0] != 0 ? w->mac : rig_peer_mac.addr_bytes, 6);
	be16_store(f + 12, ETH_TYPE_IPV6);
	memcpy(ip.src, w->src.bytes, 16);
	memcpy(ip.dst, w->dst.bytes, 16);
	memcpy(f + 14, &ip, 40);
	memcpy(f + 54, w->body, w->len);
	sum = cksum_fold(
		cksum_add(net_pseudo_sum(&w->src, &w->dst, IP_PROTO_ICMP6, (uint32_t)w->len),
			  f + 54, w->len));
	sum ^= w->bad_sum;
	memcpy(f + 56, &sum, 2);
	rig_input(&r, f, 54 + w->len);
}

/* A solicitation or advertisement about `target`, with a MAC address of `option` unless 0. */
static struct message about(uint8_t type, uint8_t flags, const struct net_addr *target,
			    uint8_t option, const struct net_addr *src, const struct net_addr *dst)
{
	struct message w = {.src = *src, .dst = *dst, .len = 24, .hop_limit = 255};

	w.body[0] = type;
	w.body[4] = flags;
	memcpy(w.body + 8, target->bytes, 16);
	if (option != 0) {
		w.body[24] = option;
		w.body[25] = 1;
		memcpy(w.body + 26, rig_peer_mac.addr_bytes, 6);
		w.len = 32;
	}
	return w;
}

/* The next frame, which must be an ICMPv6 message of `type` with a right checksum. */
static uint8_t *expect(uint8_t type)
{
	static uint8_t f[2000];
	struct net_addr src = any6, dst = any6;
	size_t len = rig_take(&r, f, sizeof(f));
	uint32_t l4 = (uint32_t)len - 54;

	ck_assert_msg(len >= 62, "nothing sent, expected type %u", type);
	ck_assert_uint_eq(be16_load(f + 12), ETH_TYPE_IPV6);
	ck_assert_uint_eq(f[20], IP_PROTO_ICMP6);
	ck_assert_uint_eq(be16_load(f + 18), l4);
	memcpy(src.bytes, f + 22, 16);
	memcpy(dst.bytes, f + 38, 16);
	ck_assert_uint_eq(
		cksum_reduce(cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_ICMP6, l4), f + 54, l4)),
		0xffff);
	ck_assert_uint_eq(f[54], type);
	return f;
}

static void start(void)
{
	rig_family(NET_FAMILY_IPV6);
	rig_defaults(&r);
	rig_start(&r);
}

static void stop(void)
{
	rig_stop(&r);
	rig_family(NET_FAMILY_IPV4);
}

/* ---- addresses ------------------------------------------------------------------------------ */

/* A stack that has not begun to speak. */
static void create(void)
{
	rig_family(NET_FAMILY_IPV6);
	rig_defaults(&r);
}

static void listen_now(void)
{
	struct net_ops ops = rig_ops(&r);

	r.avail = rte_mempool_avail_count(r.pool);
	ck_assert_int_eq(net_stack_create(&r.config, &ops, r.now_ns, &r.stack), 0);
	rig_wait(&r, RIG_MS);
}

START_TEST(test_asks_before_it_uses)
{
	struct net_addr us = us6();
	uint8_t *f;

	create();
	listen_now();
	for (int i = 0; i < 2; i++) { /* link-local and ours */
		f = expect(ICMP6_NEIGHBOUR_SOLICIT);
		ck_assert_uint_eq(f[21], 255);
		ck_assert_mem_eq(f + 22, any6.bytes, 16);
		ck_assert_uint_eq(f[0], 0x33);
		ck_assert_uint_eq(f[38 + 11], 1);
		ck_assert_uint_eq(f[38 + 12], 0xff);
		ck_assert_mem_eq(f + 38 + 13, f + 62 + 13, 3);
	}
	ck_assert_mem_eq(f + 62, us.bytes, 16);
	ck_assert(!net_addr_is_ours(r.stack, &us));
	rig_wait(&r, 1100 * RIG_MS);
	ck_assert(net_addr_is_ours(r.stack, &us));
	for (int i = 0; i < 2; i++) {
		f = expect(ICMP6_NEIGHBOUR_ADVERT);
		ck_assert_mem_eq(f + 38, nodes6.bytes, 16);
		ck_assert_uint_eq(f[58], 0x20);
	}
	rig_silent(&r);
	rig_wait(&r, 3 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_taken_address_is_not_used)
{
	struct net_addr us = us6();
	struct message w;

	create();
	listen_now();
	while (r.sent_n > 0)
		expect(ICMP6_NEIGHBOUR_SOLICIT);
	w = about(ICMP6_NEIGHBOUR_ADVERT, 0x20, &us, 2, &us, &nodes6);
	w.src = peer6();
	message_give(&w);
	ck_assert_uint_eq(COUNTER(ndp_duplicates), 1);
	rig_wait(&r, 2 * RIG_S);
	ck_assert(!net_addr_is_ours(r.stack, &us));
	stop();
}
END_TEST

/* Another node asks for the same address at the same time; our own question coming back is none. */
START_TEST(test_both_ask)
{
	struct net_addr us = us6();
	struct message w;
	uint8_t *f;

	create();
	listen_now();
	expect(ICMP6_NEIGHBOUR_SOLICIT);
	f = expect(ICMP6_NEIGHBOUR_SOLICIT);
	w = about(ICMP6_NEIGHBOUR_SOLICIT, 0, &us, 0, &any6, &nodes6);
	memcpy(w.dst.bytes, f + 38, 16);
	memcpy(w.mac, rig_mac.addr_bytes, 6);
	message_give(&w);
	ck_assert_uint_eq(COUNTER(ndp_duplicates), 0);
	memset(w.mac, 0, 6);
	message_give(&w);
	ck_assert_uint_eq(COUNTER(ndp_duplicates), 1);
	rig_wait(&r, 2 * RIG_S);
	ck_assert(!net_addr_is_ours(r.stack, &us));
	stop();
}
END_TEST

/* RFC 7217 s6: a link-local identifier that is taken gives way to another one. */
START_TEST(test_made_address_changes)
{
	struct net_addr first, second;
	struct message w;

	create();
	listen_now();
	first = r.stack->addresses6[0].addr;
	w = about(ICMP6_NEIGHBOUR_ADVERT, 0x20, &first, 2, &router6, &nodes6);
	message_give(&w);
	second = r.stack->addresses6[0].addr;
	ck_assert_mem_ne(first.bytes, second.bytes, 16);
	ck_assert_mem_eq(first.bytes, second.bytes, 8);
	rig_wait(&r, 3 * RIG_S);
	ck_assert(net_addr_is_ours(r.stack, &second));
	while (r.sent_n > 0) {
		uint8_t f[200];

		rig_take(&r, f, sizeof(f));
	}
	stop();
}
END_TEST

/* ---- neighbours ----------------------------------------------------------------------------- */

START_TEST(test_solicitation_is_answered)
{
	struct net_addr us = us6(), peer = peer6(), group;
	struct message w;
	uint8_t *f;

	start();
	ndp_solicited_node(us.bytes, &group);
	w = about(ICMP6_NEIGHBOUR_SOLICIT, 0, &us, 1, &peer, &us);
	message_give(&w);
	f = expect(ICMP6_NEIGHBOUR_ADVERT);
	ck_assert_mem_eq(f, rig_peer_mac.addr_bytes, 6);
	ck_assert_uint_eq(f[58], 0x60); /* solicited, override */
	ck_assert_mem_eq(f + 62, us.bytes, 16);
	ck_assert_mem_eq(f + 80, rig_mac.addr_bytes, 6);
	/* A probe: to everybody. */
	w = about(ICMP6_NEIGHBOUR_SOLICIT, 0, &us, 0, &any6, &group);
	message_give(&w);
	f = expect(ICMP6_NEIGHBOUR_ADVERT);
	ck_assert_uint_eq(f[58], 0x20);
	ck_assert_mem_eq(f + 38, nodes6.bytes, 16);
	/* Not for us. */
	w = about(ICMP6_NEIGHBOUR_SOLICIT, 0, &peer, 1, &peer, &us);
	message_give(&w);
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_malformed_discovery)
{
	struct net_addr us = us6(), peer = peer6();
	struct message w = about(ICMP6_NEIGHBOUR_SOLICIT, 0, &us, 1, &peer, &us), bad;
	uint64_t n = 0;

	start();
	bad = w;
	bad.hop_limit = 254; /* came through a router */
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.body[1] = 1;
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.len = 20;
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.body[25] = 0; /* the option that never ends */
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.body[25] = 9;
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.body[8] = 0xff; /* a group's address */
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.src = any6; /* nobody, with a MAC address */
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = about(ICMP6_NEIGHBOUR_SOLICIT, 0, &us, 0, &any6, &us); /* a probe, to us alone */
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), ++n);
	bad = w;
	bad.bad_sum = true;
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_icmp_malformed), 1);
	rig_silent(&r);
	stop();
}
END_TEST

/* Nobody gets into the table, or changes it, without having been asked. */
START_TEST(test_neighbours_are_not_poisoned)
{
	static const uint8_t evil[6] = {2, 0, 0, 0, 0, 66};
	struct net_addr us = us6(), peer = peer6();
	struct message w;
	uint8_t *f, frame[200];

	start();
	r.no_arp = true;
	w = about(ICMP6_NEIGHBOUR_ADVERT, 0x60, &peer, 2, &peer, &us);
	message_give(&w);
	ck_assert_uint_eq(COUNTER(rx_arp_unsolicited), 1);
	rig_segment(&r, TCP_ACK, 0, NULL, 0); /* our RST wants the peer's address */
	expect(ICMP6_NEIGHBOUR_SOLICIT);
	message_give(&w);
	ck_assert_uint_gt(rig_take(&r, frame, sizeof(frame)), 0);
	ck_assert_mem_eq(frame, rig_peer_mac.addr_bytes, 6);
	/* Another MAC address, unasked: only makes us ask the one we know. */
	memcpy(w.body + 26, evil, 6);
	message_give(&w);
	f = expect(ICMP6_NEIGHBOUR_SOLICIT);
	ck_assert_mem_eq(f, rig_peer_mac.addr_bytes, 6);
	message_give(&w); /* "solicited", but nobody else was asked */
	rig_segment(&r, TCP_ACK, 0, NULL, 0);
	ck_assert_uint_gt(rig_take(&r, frame, sizeof(frame)), 0);
	ck_assert_mem_eq(frame, rig_peer_mac.addr_bytes, 6);
	stop();
}
END_TEST

/* ---- routers -------------------------------------------------------------------------------- */

static struct message advert(uint16_t lifetime, uint32_t valid, uint32_t preferred)
{
	static const uint8_t prefix[16] = {0x20, 1, 0, 2, 0, 0, 0, 7};
	struct message w = {.src = router6, .dst = nodes6, .len = 16 + 32 + 8, .hop_limit = 255};
	uint8_t *p = w.body + 16;

	w.body[0] = ICMP6_ROUTER_ADVERT;
	w.body[4] = 32; /* hop limit */
	be16_store(w.body + 6, lifetime);
	p[0] = 3;
	p[1] = 4;
	p[2] = 64;
	p[3] = 0xc0;
	be32_store(p + 4, valid);
	be32_store(p + 8, preferred);
	memcpy(p + 16, prefix, 16);
	p += 32;
	p[0] = 5;
	p[1] = 1;
	be32_store(p + 4, 1400);
	return w;
}

START_TEST(test_slaac)
{
	struct net_addr far = {.family = NET_FAMILY_IPV6, .bytes = {0x20, 1, 0, 2, 0, 9, [15] = 1}};
	struct net_addr made, hop;
	struct message w = advert(1800, 3600, 1800);
	uint8_t *f;

	create();
	r.config.slaac = true;
	r.config.addresses_n = 0;
	listen_now();
	expect(ICMP6_NEIGHBOUR_SOLICIT);
	rig_wait(&r, 1100 * RIG_MS);
	expect(ICMP6_NEIGHBOUR_ADVERT);
	f = expect(ICMP6_ROUTER_SOLICIT);
	ck_assert_uint_eq(f[38 + 15], 2);
	ck_assert(!ndp_next_hop(r.stack, &far, &hop));
	message_give(&w);
	ck_assert_uint_eq(r.stack->addresses6_n, 2);
	made = r.stack->addresses6[1].addr;
	ck_assert_mem_eq(made.bytes, w.body + 16 + 16, 8);
	rig_wait(&r, 2200 * RIG_MS);
	ck_assert(net_addr_is_ours(r.stack, &made));
	ck_assert(ndp_next_hop(r.stack, &far, &hop));
	ck_assert_mem_eq(hop.bytes, router6.bytes, 16);
	ck_assert_uint_eq(pmtu_of(r.stack, &far), 1400);
	ck_assert_uint_eq(r.stack->hop_limit6, 32);
	be32_store(w.body + 16 + 32 + 4, 1500); /* the link carries more again */
	message_give(&w);
	ck_assert_uint_eq(pmtu_of(r.stack, &far), 1500);
	/* RFC 4862 s5.5.3 (e): a short lifetime does not take the address away at once. */
	w = advert(1800, 1, 1);
	message_give(&w);
	ck_assert_uint_ge(r.stack->addresses6[1].valid_ns, r.now_ns + 3000 * RIG_S);
	/* The router leaves, the address' time ends. */
	w = advert(0, 3600, 1800);
	message_give(&w);
	ck_assert(!ndp_next_hop(r.stack, &far, &hop));
	rig_wait(&r, 3700 * RIG_S);
	ck_assert(!net_addr_is_ours(r.stack, &made));
	while (r.sent_n > 0) {
		uint8_t frame[200];

		rig_take(&r, frame, sizeof(frame));
	}
	stop();
}
END_TEST

START_TEST(test_router_adverts_are_bounded)
{
	struct net_addr far = {.family = NET_FAMILY_IPV6, .bytes = {0x20, 1, 0, 2, [15] = 1}}, hop,
			from;
	struct message w = advert(1800, 3600, 1800);
	uint64_t limited;

	start(); /* no slaac: nothing is believed */
	message_give(&w);
	ck_assert_uint_eq(COUNTER(rx_ndp_router_adverts), 0);
	ck_assert_uint_eq(r.stack->addresses6_n, 2);
	stop();

	create();
	r.config.slaac = true;
	rig_start(&r);
	for (unsigned i = 0; i < 50; i++) {
		be16_store(w.body + 16 + 16 + 6, (uint16_t)i);
		message_give(&w);
	}
	ck_assert_uint_le(r.stack->addresses6_n, NET_ADDRESSES6_MAX);
	ck_assert_uint_eq(r.stack->prefixes6_n, NET_PREFIXES6_MAX);
	ck_assert_uint_gt(COUNTER(rx_drop_ndp_limit), 0);
	/* Those whose time is over leave their places to others. */
	rig_wait(&r, 3700 * RIG_S);
	be16_store(w.body + 16 + 16 + 6, 77);
	limited = COUNTER(rx_drop_ndp_limit);
	message_give(&w);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_limit), limited);
	far.bytes[7] = 77;
	ck_assert(ndp_next_hop(r.stack, &far, &hop));
	ck_assert_mem_eq(hop.bytes, far.bytes, 16); /* on the link */
	rig_wait(&r, 3 * RIG_S);
	ck_assert(net_source_for(r.stack, &far, &from));
	ck_assert_mem_eq(from.bytes, far.bytes, 8);
	w.src = peer6(); /* no router speaks from there */
	message_give(&w);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), 1);
	w = advert(1800, 3600, 1800);
	w.body[16 + 1] = 0;
	message_give(&w);
	ck_assert_uint_eq(COUNTER(rx_drop_ndp_malformed), 2);
	rig_wait(&r, 30 * RIG_S);
	while (r.sent_n > 0) {
		uint8_t frame[200];

		rig_take(&r, frame, sizeof(frame));
	}
	stop();
}
END_TEST

/* ---- ICMPv6 --------------------------------------------------------------------------------- */

START_TEST(test_echo6)
{
	struct message w = {.src = peer6(), .dst = us6(), .len = 64, .hop_limit = 64};
	uint8_t *f;

	start();
	w.src = peer6();
	w.dst = us6();
	w.body[0] = ICMP6_ECHO;
	for (unsigned i = 8; i < 64; i++)
		w.body[i] = (uint8_t)i;
	message_give(&w);
	f = expect(ICMP6_ECHO_REPLY);
	ck_assert_mem_eq(f + 62, w.body + 8, 56);
	ck_assert_mem_eq(f + 22, w.dst.bytes, 16);
	ck_assert_mem_eq(f + 38, w.src.bytes, 16);
	w.dst = nodes6; /* to everybody: from our own address */
	message_give(&w);
	f = expect(ICMP6_ECHO_REPLY);
	ck_assert_mem_eq(f + 22, us6().bytes, 16);
	stop();
}
END_TEST

/* An IPv6 packet with these headers between its own and the payload. */
static void packet_give(uint8_t first, const uint8_t *more, size_t more_len, const uint8_t *l4,
			size_t l4_len)
{
	uint8_t f[400];
	size_t len;
	uint8_t both[300];

	memcpy(both, more, more_len);
	memcpy(both + more_len, l4, l4_len);
	len = rig_build_ip(f, first, both, more_len + l4_len);
	rig_input(&r, f, len);
}

START_TEST(test_extension_headers)
{
	static const uint8_t udp_none[8] = {0, 9, 0, 99, 0, 8, 0xff, 0xff};
	static const uint8_t pad[8] = {IP_PROTO_UDP, 0, 1, 4, 0, 0, 0, 0};
	static const uint8_t skip[8] = {IP_PROTO_UDP, 0, 0x1e, 4, 0, 0, 0, 0};
	static const uint8_t silent[8] = {IP_PROTO_UDP, 0, 0x5e, 4, 0, 0, 0, 0};
	static const uint8_t told[8] = {IP_PROTO_UDP, 0, 0x9e, 4, 0, 0, 0, 0};
	static const uint8_t route[8] = {IP_PROTO_UDP, 0, 0, 1, 0, 0, 0, 0};
	static const uint8_t late[16] = {0, 0, 1, 4, 0, 0, 0, 0, IP_PROTO_UDP, 0, 1, 4};
	static const uint8_t behind[8] = {99, 0, 1, 4, 0, 0, 0, 0};
	static const uint8_t longer[8] = {IP_PROTO_UDP, 60, 1, 4, 0, 0, 0, 0};
	uint8_t *f;

	start();
	packet_give(60, pad, 8, udp_none, 8);
	packet_give(0, skip, 8, udp_none, 8);
	ck_assert_uint_eq(COUNTER(rx_drop_udp_checksum), 2); /* they got there */
	packet_give(60, silent, 8, udp_none, 8);
	rig_silent(&r);
	packet_give(60, told, 8, udp_none, 8);
	f = expect(ICMP6_PARAMETER);
	ck_assert_uint_eq(f[55], 2);
	ck_assert_uint_eq(be32_load(f + 58), 42);
	packet_give(43, route, 8, udp_none, 8);
	f = expect(ICMP6_PARAMETER);
	ck_assert_uint_eq(f[55], 0);
	ck_assert_uint_eq(be32_load(f + 58), 42);
	packet_give(60, late, 16, udp_none, 8);
	f = expect(ICMP6_PARAMETER);
	ck_assert_uint_eq(f[55], 1);
	packet_give(60, longer, 8, udp_none, 8);
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_options), 5);
	packet_give(99, pad, 0, udp_none, 8); /* a protocol that nobody speaks */
	f = expect(ICMP6_PARAMETER);
	ck_assert_uint_eq(f[55], 1);
	ck_assert_uint_eq(be32_load(f + 58), 6);
	packet_give(60, behind, 8, udp_none, 8); /* the same behind a header that says so */
	f = expect(ICMP6_PARAMETER);
	ck_assert_uint_eq(f[55], 1);
	ck_assert_uint_eq(be32_load(f + 58), 40);
	packet_give(59, pad, 0, udp_none, 8); /* none at all */
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_errors_are_limited)
{
	static const uint8_t x[8];
	unsigned n = 0;
	uint8_t f[200];

	rig_family(NET_FAMILY_IPV6);
	rig_defaults(&r);
	r.config.icmp_per_second = 10;
	rig_start(&r);
	for (int i = 0; i < 200; i++)
		packet_give(99, x, 0, x, 8);
	for (; rig_take(&r, f, sizeof(f)) > 0; n++)
		ck_assert_uint_eq(f[54], ICMP6_PARAMETER);
	ck_assert_uint_le(n, 64);
	ck_assert_uint_ge(COUNTER(tx_icmp_limited), 136);
	stop();
}
END_TEST

START_TEST(test_bad_addresses)
{
	struct message w = {.src = peer6(), .dst = us6(), .len = 16, .hop_limit = 64};
	struct message bad;

	start();
	w.src = peer6();
	w.dst = us6();
	w.body[0] = ICMP6_ECHO;
	bad = w;
	bad.src = nodes6;
	message_give(&bad);
	bad.src = us6();
	message_give(&bad);
	bad.src = any6;
	bad.src.bytes[15] = 1;
	message_give(&bad);
	bad.src = any6;
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_src), 4);
	bad = w;
	bad.dst.bytes[14] = 77;
	message_give(&bad);
	bad.dst = nodes6;
	bad.dst.bytes[15] = 3;
	message_give(&bad);
	ck_assert_uint_eq(COUNTER(rx_drop_ip_dst), 2);
	rig_silent(&r);
	stop();
}
END_TEST

/* ---- VLAN ----------------------------------------------------------------------------------- */

static size_t tag(uint8_t *f, size_t len, uint16_t type, uint16_t vlan)
{
	memmove(f + 16, f + 12, len - 12);
	be16_store(f + 12, type);
	be16_store(f + 14, vlan);
	return len + 4;
}

START_TEST(test_vlan)
{
	static struct rig_segment s = {.src_port = 4000, .dst_port = 81, .flags = TCP_SYN};
	uint8_t f[400], out[400];
	size_t len;

	rig_defaults(&r);
	r.config.vlan = 7;
	rig_start(&r);
	r.no_arp = true;
	len = rig_build_tcp(f, &s);
	rig_input(&r, f, len); /* untagged */
	ck_assert_uint_eq(COUNTER(rx_drop_eth_vlan), 1);
	rig_input(&r, f, tag(f, len, ETH_TYPE_VLAN, 8));
	ck_assert_uint_eq(COUNTER(rx_drop_eth_vlan), 2);
	len = rig_build_tcp(f, &s);
	rig_input(&r, f, tag(f, tag(f, len, ETH_TYPE_VLAN, 7), ETH_TYPE_VLAN, 7));
	ck_assert_uint_eq(COUNTER(rx_drop_eth_vlan), 3);
	len = rig_build_tcp(f, &s);
	rig_input(&r, f, tag(f, len, ETH_TYPE_VLAN, 0x6007)); /* with a priority */
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_no_conn), 1);
	/* The ARP request for who gets the RST is tagged as well. */
	ck_assert_uint_gt(rig_take(&r, out, sizeof(out)), 0);
	ck_assert_uint_eq(be16_load(out + 12), ETH_TYPE_VLAN);
	ck_assert_uint_eq(be16_load(out + 14), 7);
	ck_assert_uint_eq(be16_load(out + 16), ETH_TYPE_ARP);
	rig_stop(&r);

	/* Without a VLAN, a tag that gives only a priority is taken: 802.1Q s6.8. */
	rig_defaults(&r);
	rig_start(&r);
	len = rig_build_tcp(f, &s);
	rig_input(&r, f, tag(f, len, ETH_TYPE_VLAN, 0x6000));
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_no_conn), 1);
	len = rig_build_tcp(f, &s);
	rig_input(&r, f, tag(f, len, ETH_TYPE_VLAN, 7));
	rig_input(&r, f, 14);
	ck_assert_uint_eq(COUNTER(rx_drop_eth_vlan), 2);
	rig_stop(&r);
}
END_TEST

/* ---- listener discovery --------------------------------------------------------------------- */

/* The next report that is sent within `ns`, with a right checksum; NULL: none. Others are passed
 * over. */
static uint8_t *report_next(uint64_t ns, uint8_t type)
{
	static uint8_t f[2000];
	struct net_addr src = any6, dst = any6;
	size_t len;

	for (uint64_t done = 0; done < ns; done += 5 * RIG_MS) {
		rig_wait(&r, 5 * RIG_MS);
		while ((len = rig_take(&r, f, sizeof(f))) > 0) {
			if (f[20] != IP6_HOP_BY_HOP)
				continue;
			/* RFC 3810 s5: hop limit 1, router alert. */
			ck_assert_uint_eq(f[21], 1);
			ck_assert_mem_eq(f + 54,
					 ((uint8_t[8]){IP_PROTO_ICMP6, 0, 5, 2, 0, 0, 1, 0}), 8);
			ck_assert_uint_eq(be16_load(f + 18), len - 54);
			memcpy(src.bytes, f + 22, 16);
			memcpy(dst.bytes, f + 38, 16);
			ck_assert_uint_eq(
				cksum_reduce(cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_ICMP6,
								      (uint32_t)len - 62),
						       f + 62, len - 62)),
				0xffff);
			ck_assert_mem_eq(f, ((uint8_t[]){0x33, 0x33}), 2);
			ck_assert_mem_eq(f + 2, f + 50, 4);
			ck_assert_uint_eq(f[62], type);
			return f;
		}
	}
	return NULL;
}

/* Whether a report of version 2 has a record of `type` for our configured address's group. */
static bool report_has(const uint8_t *f, uint8_t type)
{
	struct net_addr us = us6(), group;

	ndp_solicited_node(us.bytes, &group);
	for (unsigned i = 0; i < be16_load(f + 68); i++)
		if (f[70 + 20 * i] == type && memcmp(f + 74 + 20 * i, group.bytes, 16) == 0)
			return true;
	return false;
}

START_TEST(test_groups_are_reported_when_joined)
{
	uint8_t *f;

	create();
	r.show_mld = true;
	listen_now();
	f = report_next(100 * RIG_MS, 143);
	ck_assert_ptr_nonnull(f);
	/* To all routers that know version 2, from nobody while addresses are tentative. */
	ck_assert_mem_eq(f + 38, ((uint8_t[16]){0xff, 2, [15] = 0x16}), 16);
	ck_assert_mem_eq(f + 22, any6.bytes, 16);
	ck_assert_uint_eq(be16_load(f + 68), 2); /* link-local and configured */
	ck_assert(report_has(f, 4));
	f = report_next(RIG_S + 100 * RIG_MS, 143);
	ck_assert_ptr_nonnull(f);
	ck_assert(report_has(f, 4));
	ck_assert_ptr_null(report_next(5 * RIG_S, 143));
	ck_assert_uint_eq(COUNTER(tx_mld_reports), 2);
	stop();
	/* A worker beside the one that speaks says nothing. */
	create();
	r.config.flags &= ~NET_PRIMARY;
	r.show_mld = true;
	listen_now();
	ck_assert_ptr_null(report_next(5 * RIG_S, 143));
	stop();
}
END_TEST

/* A query: `len` bytes of ICMPv6 behind hop-by-hop options with a router alert, unless `alert` is
 * something else. */
static void query_give(size_t len, uint16_t delay, const uint8_t *group, uint8_t hop_limit,
		       uint8_t alert, const struct net_addr *src)
{
	uint8_t f[200] = {0x33, 0x33, 0, 0, 0, 1};
	uint16_t sum;

	memcpy(f + 6, rig_peer_mac.addr_bytes, 6);
	be16_store(f + 12, ETH_TYPE_IPV6);
	f[14] = 0x60;
	be16_store(f + 18, (uint16_t)(8 + len));
	f[21] = hop_limit;
	memcpy(f + 22, src->bytes, 16);
	memcpy(f + 38, nodes6.bytes, 16);
	memcpy(f + 54, (uint8_t[8]){IP_PROTO_ICMP6, 0, alert, 2, 0, 0, 1, 0}, 8);
	f[62] = 130;
	be16_store(f + 66, delay);
	if (group != NULL)
		memcpy(f + 70, group, 16);
	sum = cksum_fold(cksum_add(net_pseudo_sum(src, &nodes6, IP_PROTO_ICMP6, (uint32_t)len),
				   f + 62, len));
	memcpy(f + 64, &sum, 2);
	rig_input(&r, f, 62 + len);
}

START_TEST(test_queries_are_answered)
{
	struct net_addr us = us6(), group, other = us;
	uint64_t before;
	uint8_t *f;

	start();
	r.show_mld = true;
	before = COUNTER(tx_mld_reports);
	/* A general one: all groups in one report, within the time it grants. */
	query_give(28, 1000, NULL, 1, 5, &router6);
	f = report_next(1100 * RIG_MS, 143);
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(be16_load(f + 68), 2);
	ck_assert(report_has(f, 2));
	ck_assert_uint_eq(f[22], 0xfe); /* from our link-local address */
	/* Of one group, of none of ours. */
	ndp_solicited_node(us.bytes, &group);
	query_give(28, 1000, group.bytes, 1, 5, &router6);
	f = report_next(1100 * RIG_MS, 143);
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(be16_load(f + 68), 1);
	ck_assert(report_has(f, 2));
	other.bytes[15] ^= 0x55;
	ndp_solicited_node(other.bytes, &group);
	query_give(28, 1000, group.bytes, 1, 5, &router6);
	ck_assert_ptr_null(report_next(1100 * RIG_MS, 143));
	ck_assert_uint_eq(COUNTER(rx_mld_queries), 3);
	/* From off the link, from a global address, without the alert, cut short. */
	query_give(28, 0, NULL, 64, 5, &router6);
	query_give(28, 0, NULL, 1, 1, &router6);
	query_give(20, 0, NULL, 1, 5, &router6);
	query_give(26, 0, NULL, 1, 5, &router6);
	other = peer6();
	query_give(28, 0, NULL, 1, 5, &other);
	ck_assert_ptr_null(report_next(1100 * RIG_MS, 143));
	ck_assert_uint_eq(COUNTER(rx_drop_mld_malformed), 5);
	/* A flood of queries that want an answer at once: ten in a second. */
	before = COUNTER(tx_mld_reports);
	for (int i = 0; i < 1000; i++) {
		query_give(28, 0, NULL, 1, 5, &router6);
		rig_wait(&r, RIG_MS);
		while (rig_take(&r, (uint8_t[2000]){0}, 2000) > 0)
			;
	}
	ck_assert_uint_le(COUNTER(tx_mld_reports) - before, 11);
	ck_assert_uint_ge(COUNTER(tx_mld_reports) - before, 8);
	/* One of version 1: a message to each group, and again none of version 2 for minutes. */
	query_give(24, 500, NULL, 1, 5, &router6);
	f = report_next(700 * RIG_MS, 131);
	ck_assert_ptr_nonnull(f);
	ck_assert_mem_eq(f + 38, f + 70, 16);
	ck_assert_ptr_nonnull(report_next(100 * RIG_MS, 131));
	query_give(28, 500, NULL, 1, 5, &router6);
	ck_assert_ptr_nonnull(report_next(700 * RIG_MS, 131));
	rig_wait(&r, 261 * RIG_S);
	while (rig_take(&r, (uint8_t[2000]){0}, 2000) > 0)
		;
	query_give(28, 0x8000 | 1, NULL, 1, 5, &router6); /* a floating-point time: 32.8 s */
	ck_assert_ptr_nonnull(report_next(33 * RIG_S, 143));
	stop();
}
END_TEST

/* ---- steering ------------------------------------------------------------------------------- */

START_TEST(test_steering6)
{
	static struct rig_segment s = {.src_port = 4000, .dst_port = 80, .flags = TCP_SYN};
	uint8_t f[400], packet[400];
	uint32_t hash, other;
	struct rte_mbuf *m;
	size_t len;

	start();
	m = rte_pktmbuf_alloc(r.pool);
	len = rig_build_tcp(f, &s);
	memcpy(rte_pktmbuf_append(m, (uint16_t)len), f, len);
	ck_assert_int_eq(net_steer(m, &hash), NET_STEER_FLOW);
	/* Behind a destination header, and a tag, the flow is the same. */
	memcpy(packet, f, 54);
	packet[20] = 60;
	memcpy(packet + 54, (uint8_t[8]){IP_PROTO_TCP, 0, 1, 4}, 8);
	memcpy(packet + 62, f + 54, len - 54);
	len = tag(packet, len + 8, ETH_TYPE_VLAN, 5);
	rte_pktmbuf_reset(m);
	memcpy(rte_pktmbuf_append(m, (uint16_t)len), packet, len);
	ck_assert_int_eq(net_steer(m, &other), NET_STEER_FLOW);
	ck_assert_uint_eq(hash, other);
	rte_pktmbuf_reset(m);
	f[20] = IP_PROTO_ICMP6;
	memcpy(rte_pktmbuf_append(m, 60), f, 60);
	ck_assert_int_eq(net_steer(m, &hash), NET_STEER_ALL);
	for (uint16_t n = 0; n < 60; n++) { /* cut short anywhere */
		m->data_len = n;
		m->pkt_len = n;
		net_steer(m, &hash);
	}
	rte_pktmbuf_free(m);
	stop();
}
END_TEST

RIG_MAIN("ndp", test_asks_before_it_uses, test_taken_address_is_not_used, test_both_ask,
	 test_made_address_changes, test_solicitation_is_answered, test_malformed_discovery,
	 test_neighbours_are_not_poisoned, test_slaac, test_router_adverts_are_bounded, test_echo6,
	 test_extension_headers, test_errors_are_limited, test_bad_addresses, test_vlan,
	 test_groups_are_reported_when_joined, test_queries_are_answered, test_steering6)
