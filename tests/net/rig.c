#include "tests/net/rig.h"

#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>

#include "daemon/net/cksum.h"

const struct rte_ether_addr rig_mac = {{2, 0, 0, 0, 0, 2}};
const struct rte_ether_addr rig_peer_mac = {{2, 0, 0, 0, 0, 9}};

static struct rte_mempool *rig_pool;

int rig_main(const char *name, const TTest *const *tests, size_t n)
{
	char *eal[] = {"test", "--no-huge",      "--no-shconf",      "-m", "64", "--no-pci", "-c",
		       "1",    "--no-telemetry", "--log-level=error"};
	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create("all");
	SRunner *runner;
	int failed;

	if (rte_eal_init(sizeof(eal) / sizeof(eal[0]), eal) < 0)
		return EXIT_FAILURE;
	rig_pool = rte_pktmbuf_pool_create("rig", 8191, 0, 0, 2048 + RTE_PKTMBUF_HEADROOM, 0);
	if (rig_pool == NULL)
		return EXIT_FAILURE;
	tcase_set_timeout(tcase, 60);
	for (size_t i = 0; i < n; i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_set_fork_status(runner,
				CK_NOFORK); /* EAL's memory and threads stay one process's */
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static uint8_t family = NET_FAMILY_IPV4;

void rig_family(uint8_t wanted)
{
	family = wanted;
}

uint8_t rig_family_now(void)
{
	return family;
}

uint32_t rig_l4_offset(void)
{
	return family == NET_FAMILY_IPV4 ? 34 : 54;
}

/* 2001:2::/48 is for benchmarks: RFC 5180. */
static struct net_addr addr6(uint8_t last, uint16_t port)
{
	return (struct net_addr){
		.family = NET_FAMILY_IPV6, .bytes = {0x20, 1, 0, 2, [15] = last}, .port = port};
}

struct net_addr rig_local(uint16_t port)
{
	if (family == NET_FAMILY_IPV6)
		return addr6(2, port);
	return (struct net_addr){.family = NET_FAMILY_IPV4, .bytes = {198, 18, 0, 2}, .port = port};
}

struct net_addr rig_remote(uint16_t port)
{
	if (family == NET_FAMILY_IPV6)
		return addr6(9, port);
	return (struct net_addr){.family = NET_FAMILY_IPV4, .bytes = {198, 18, 0, 9}, .port = port};
}

/* ---- the layer above ------------------------------------------------------------------------ */

static int app_accept(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	struct rig_app *app = listen_ctx;

	app->accepted++;
	if (app->refuse)
		return -1;
	app->conn = conn;
	*conn_ctx_out = app;
	return 0;
}

static void app_connected(void *ctx, struct tcp_conn *conn)
{
	struct rig_app *app = ctx;

	app->connected++;
	app->conn = conn;
}

static void app_data(void *ctx, struct rte_mbuf *chain)
{
	struct rig_app *app = ctx;
	uint32_t len = chain->pkt_len;

	app->datas++;
	app->last_chain_mbufs = chain->nb_segs;
	ck_assert_uint_le(app->bytes + len, sizeof(app->data));
	for (struct rte_mbuf *m = chain; m != NULL; m = m->next) {
		memcpy(app->data + app->bytes, rte_pktmbuf_mtod(m, void *), m->data_len);
		app->bytes += m->data_len;
	}
	rte_pktmbuf_free(chain);
	if (app->abort_on_data) {
		tcp_abort(app->conn);
		app->conn = NULL;
		return;
	}
	if (!app->keep_unread)
		tcp_consumed(app->conn, len);
}

static void app_eof(void *ctx)
{
	((struct rig_app *)ctx)->eofs++;
}

static void app_writable(void *ctx)
{
	((struct rig_app *)ctx)->writables++;
}

static void app_closed(void *ctx, int reason)
{
	struct rig_app *app = ctx;

	app->closeds++;
	app->reason = reason;
	app->conn = NULL;
}

const struct tcp_events rig_events = {
	.accept = app_accept,
	.connected = app_connected,
	.data = app_data,
	.eof = app_eof,
	.writable = app_writable,
	.closed = app_closed,
};

/* ---- life ----------------------------------------------------------------------------------- */

/* A multicast listener report: ICMPv6 behind hop-by-hop options. */
static bool listener_report(const struct rte_mbuf *m)
{
	const uint8_t *f = rte_pktmbuf_mtod(m, const uint8_t *);
	uint32_t ip = be16_load(f + 12) == ETH_TYPE_VLAN ? 18 : 14;

	return m->data_len >= ip + 48 && be16_load(f + ip - 2) == ETH_TYPE_IPV6 &&
	       f[ip + 6] == IP6_HOP_BY_HOP;
}

static uint16_t rig_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct rig *r = ctx;

	if (r->device_full)
		return 0;
	if (r->device_room != 0) {
		if (n > r->device_room - r->device_took)
			n = (uint16_t)(r->device_room - r->device_took);
		r->device_took += n;
	}
	for (uint16_t i = 0; i < n; i++) {
		if (!r->show_mld && listener_report(pkts[i])) {
			rte_pktmbuf_free(pkts[i]);
			continue;
		}
		ck_assert_uint_lt(r->sent_n, RIG_FRAMES);
		r->sent_ns[r->sent_n] = r->now_ns;
		r->sent[r->sent_n++] = pkts[i];
	}
	return n;
}

static uint64_t rig_random(void *ctx)
{
	return random_next(&((struct rig *)ctx)->random);
}

void rig_defaults(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	net_config_default(&r->config);
	r->pool = rig_pool;
	r->config.pool = rig_pool;
	r->config.mac = rig_mac;
	r->config.addresses_n = 1;
	r->config.addresses[0] =
		(struct net_prefix){rig_local(0), family == NET_FAMILY_IPV4 ? 24 : 64};
	r->config.gateway = (struct net_addr){.family = NET_FAMILY_IPV4, .bytes = {198, 18, 0, 1}};
	r->config.tcp.connections_max = 64;
	r->config.tcp.backlog_max = 16;
	r->config.tcp.time_wait_max = 64;
	r->config.tcp.receive_buffer = 65535;
	r->config.tcp.congestion = TCP_CONGESTION_RENO; /* whose windows are easy to foretell */
	r->config.tcp.ecn = false;
	r->config.reassembly_max = 0;
	r->now_ns = 1000 * RIG_S;
	random_seed(&r->random, 42);
}

struct net_ops rig_ops(struct rig *r)
{
	return (struct net_ops){
		.tx = rig_tx, .random = rig_random, .ctx = r, .reached = r->reached};
}

void rig_start(struct rig *r)
{
	struct net_ops ops = rig_ops(r);
	struct net_addr any = {.family = family, .port = RIG_PORT};
	uint8_t frame[2048];

	r->avail = rte_mempool_avail_count(r->pool);
	ck_assert_int_eq(net_stack_create(&r->config, &ops, r->now_ns, &r->stack), 0);
	ck_assert_int_eq(tcp_listen(r->stack, &any, &rig_events, &r->app, &r->listener), 0);
	rig_wait(r, 3 * RIG_S); /* both announcements */
	while (rig_take(r, frame, sizeof(frame)) > 0)
		;
}

void rig_stop(struct rig *r)
{
	net_stack_destroy(r->stack);
	for (unsigned i = 0; i < r->sent_n; i++)
		rte_pktmbuf_free(r->sent[i]);
	ck_assert_uint_eq(rte_mempool_avail_count(r->pool), r->avail);
}

/* ---- frames --------------------------------------------------------------------------------- */

static bool arp_request_for_peer(const struct rig *r, const uint8_t *frame, size_t len)
{
	static const uint8_t peer[4] = {198, 18, 0, 9};

	return len >= 42 && be16_load(frame + 12) == ETH_TYPE_ARP && be16_load(frame + 20) == 1 &&
	       (r->arp_all || memcmp(frame + 38, peer, 4) == 0);
}

static void arp_reply(struct rig *r, const uint8_t *request)
{
	uint8_t f[42];

	memcpy(f, request + 6, 6);
	memcpy(f + 6, rig_peer_mac.addr_bytes, 6);
	memcpy(f + 12, request + 12, 8);
	be16_store(f + 20, 2);
	memcpy(f + 22, rig_peer_mac.addr_bytes, 6);
	memcpy(f + 28, request + 38, 4);
	memcpy(f + 32, request + 22, 10);
	rig_input(r, f, sizeof(f));
}

static void sent_remove(struct rig *r, unsigned i)
{
	unsigned after = --r->sent_n - i;

	memmove(&r->sent[i], &r->sent[i + 1], after * sizeof(r->sent[0]));
	memmove(&r->sent_ns[i], &r->sent_ns[i + 1], after * sizeof(r->sent_ns[0]));
}

static bool solicitation_for_peer(const struct rig *r, const uint8_t *f, size_t len)
{
	struct net_addr peer = rig_remote(0);

	return len >= 78 && be16_load(f + 12) == ETH_TYPE_IPV6 && f[20] == IP_PROTO_ICMP6 &&
	       f[54] == ICMP6_NEIGHBOUR_SOLICIT && family == NET_FAMILY_IPV6 &&
	       (r->arp_all || memcmp(f + 62, peer.bytes, 16) == 0);
}

/* To a neighbour solicitation: solicited, overriding. */
static void neighbour_advert(struct rig *r, const uint8_t *request)
{
	struct net_addr src = {.family = NET_FAMILY_IPV6}, dst = {.family = NET_FAMILY_IPV6};
	uint8_t f[86] = {0};
	uint64_t sum;

	memcpy(src.bytes, request + 62, 16);
	memcpy(dst.bytes, request + 22, 16);
	memcpy(f, request + 6, 6);
	memcpy(f + 6, rig_peer_mac.addr_bytes, 6);
	be16_store(f + 12, ETH_TYPE_IPV6);
	f[14] = 0x60;
	f[19] = 32;
	f[20] = IP_PROTO_ICMP6;
	f[21] = 255;
	memcpy(f + 22, src.bytes, 16);
	memcpy(f + 38, dst.bytes, 16);
	f[54] = ICMP6_NEIGHBOUR_ADVERT;
	f[58] = 0x60;
	memcpy(f + 62, src.bytes, 16);
	f[78] = 2;
	f[79] = 1;
	memcpy(f + 80, rig_peer_mac.addr_bytes, 6);
	sum = net_pseudo_sum(&src, &dst, IP_PROTO_ICMP6, 32);
	sum = cksum_fold(cksum_add(sum, f + 54, 32));
	memcpy(f + 56, &sum, 2);
	rig_input(r, f, sizeof(f));
}

/* Answer ARP requests for the peer and forget them. */
static void arp_answers(struct rig *r)
{
	for (unsigned i = 0; i < r->sent_n; i++) {
		struct rte_mbuf *m = r->sent[i];
		const uint8_t *f = rte_pktmbuf_mtod(m, const uint8_t *);
		bool ndp = solicitation_for_peer(r, f, m->data_len);
		uint8_t request[78];

		if (!ndp && !arp_request_for_peer(r, f, m->data_len))
			continue;
		memcpy(request, f, ndp ? sizeof(request) : 42);
		rte_pktmbuf_free(m);
		sent_remove(r, i);
		if (ndp)
			neighbour_advert(r, request);
		else
			arp_reply(r, request);
		return; /* rig_input() came by here for the rest */
	}
}

void rig_flush(struct rig *r)
{
	r->device_took = 0;
	net_timers_run(r->stack, r->now_ns);
	net_flush(r->stack, r->now_ns);
	if (!r->no_arp)
		arp_answers(r);
}

void rig_input(struct rig *r, const uint8_t *frame, size_t len)
{
	struct rte_mbuf *head = rte_pktmbuf_alloc(r->pool), *tail = head;
	size_t done = 0;

	while (done < len) {
		uint16_t n = rte_pktmbuf_tailroom(tail);

		if (n > len - done)
			n = (uint16_t)(len - done);
		memcpy(rte_pktmbuf_mtod(tail, void *), frame + done, n);
		tail->data_len = n;
		head->pkt_len += n;
		done += n;
		if (done < len) {
			tail->next = rte_pktmbuf_alloc(r->pool);
			tail = tail->next;
			head->nb_segs++;
		}
	}
	net_rx(r->stack, &head, 1, r->now_ns);
	rig_flush(r);
}

void rig_wait(struct rig *r, uint64_t ns)
{
	uint64_t end = r->now_ns + ns;

	while (r->now_ns < end) {
		uint64_t next = net_timer_next_ns(r->stack);

		if (next <= r->now_ns)
			next = r->now_ns + WHEEL_TICK_NS;
		r->now_ns = next < end ? next : end;
		rig_flush(r);
	}
}

size_t rig_take(struct rig *r, uint8_t *frame, size_t max)
{
	struct rte_mbuf *m;
	size_t len = 0;

	if (r->sent_n == 0)
		return 0;
	m = r->sent[0];
	r->took_ns = r->sent_ns[0];
	sent_remove(r, 0);
	ck_assert_uint_le(m->pkt_len, max);
	for (struct rte_mbuf *seg = m; seg != NULL; seg = seg->next) {
		memcpy(frame + len, rte_pktmbuf_mtod(seg, void *), seg->data_len);
		len += seg->data_len;
	}
	ck_assert_uint_eq(len, m->pkt_len);
	rte_pktmbuf_free(m);
	return len;
}

void rig_silent(struct rig *r)
{
	uint8_t frame[9100];

	ck_assert_uint_eq(rig_take(r, frame, sizeof(frame)), 0);
}

static size_t build_ip6(uint8_t *frame, uint8_t protocol, const uint8_t *l4, size_t l4_len)
{
	struct net_addr src = rig_remote(0), dst = rig_local(0);
	struct eth_header *eth = (struct eth_header *)frame;
	struct ip6_header ip = {
		.version_class = 0x60,
		.payload_length = be16_make((uint16_t)l4_len),
		.next = protocol,
		.hop_limit = 64,
	};

	memcpy(eth->dst, rig_mac.addr_bytes, 6);
	memcpy(eth->src, rig_peer_mac.addr_bytes, 6);
	eth->type = be16_make(ETH_TYPE_IPV6);
	memcpy(ip.src, src.bytes, 16);
	memcpy(ip.dst, dst.bytes, 16);
	memcpy(frame + 14, &ip, sizeof(ip));
	memmove(frame + 54, l4, l4_len);
	return 54 + l4_len;
}

static size_t build_ip4(uint8_t *frame, uint8_t protocol, const uint8_t *l4, size_t l4_len)
{
	struct eth_header *eth = (struct eth_header *)frame;
	struct ip4_header ip = {
		.version_ihl = IP4_VERSION_IHL,
		.total_length = be16_make((uint16_t)(20 + l4_len)),
		.ttl = 64,
		.protocol = protocol,
		.src = {198, 18, 0, 9},
		.dst = {198, 18, 0, 2},
	};
	size_t len = 34 + l4_len;

	memcpy(eth->dst, rig_mac.addr_bytes, 6);
	memcpy(eth->src, rig_peer_mac.addr_bytes, 6);
	eth->type = be16_make(ETH_TYPE_IPV4);
	ip.checksum = cksum_fold(cksum_add(0, &ip, sizeof(ip)));
	memcpy(frame + 14, &ip, sizeof(ip));
	memmove(frame + 34, l4, l4_len);
	if (len < 60) { /* as Ethernet pads */
		memset(frame + len, 0xee, 60 - len);
		len = 60;
	}
	return len;
}

size_t rig_build_ip(uint8_t *frame, uint8_t protocol, const uint8_t *l4, size_t l4_len)
{
	if (family == NET_FAMILY_IPV6)
		return build_ip6(frame, protocol, l4, l4_len);
	return build_ip4(frame, protocol, l4, l4_len);
}
static void ip_rewrite(uint8_t *frame, const struct rig_segment *s)
{
	struct ip4_header *ip = (struct ip4_header *)(frame + 14);
	struct ip6_header *ip6 = (struct ip6_header *)(frame + 14);

	if (family == NET_FAMILY_IPV6) {
		ip6->class_flow = (uint8_t)(s->tos << 4);
		if (s->from != 0)
			ip6->src[15] = s->from;
		return;
	}
	ip->tos = s->tos;
	if (s->from != 0)
		ip->src[3] = s->from;
	ip->checksum = 0;
	ip->checksum = cksum_fold(cksum_add(0, ip, sizeof(*ip)));
}

size_t rig_build_tcp(uint8_t *frame, const struct rig_segment *s)
{
	struct net_addr src = rig_remote(0), dst = rig_local(0);
	static uint8_t l4[9100];
	struct tcp_header th = {
		.src = be16_make(s->src_port),
		.dst = be16_make(s->dst_port),
		.seq = be32_make(s->seq),
		.ack = be32_make(s->ack),
		.offset = (uint8_t)((20 + s->options_len) / 4 << 4),
		.flags = s->flags,
		.window = be16_make(s->window),
	};
	size_t len = 20 + s->options_len + s->len;
	uint64_t sum;

	if (s->from != 0)
		src.bytes[family == NET_FAMILY_IPV4 ? 3 : 15] = s->from;
	sum = net_pseudo_sum(&src, &dst, IP_PROTO_TCP, (uint32_t)len);
	memcpy(l4, &th, 20);
	memcpy(l4 + 20, s->options, s->options_len);
	memcpy(l4 + 20 + s->options_len, s->payload, s->len);
	th.checksum = cksum_fold(cksum_add(sum, l4, len));
	memcpy(l4, &th, 20);
	len = rig_build_ip(frame, IP_PROTO_TCP, l4, len);
	if (s->tos != 0 || s->from != 0)
		ip_rewrite(frame, s);
	return len;
}

void rig_send(struct rig *r, const struct rig_segment *s)
{
	uint8_t frame[9200];

	rig_input(r, frame, rig_build_tcp(frame, s));
}

bool rig_take_tcp(struct rig *r, struct rig_segment *s)
{
	struct net_addr src = rig_local(0), dst = rig_remote(0);
	uint8_t frame[9200];
	size_t len = rig_take(r, frame, sizeof(frame)), l4_len, header, l4 = rig_l4_offset();
	uint8_t tos, from;
	struct tcp_header th;

	if (len == 0)
		return false;
	if (family == NET_FAMILY_IPV4) {
		ck_assert_uint_eq(be16_load(frame + 12), ETH_TYPE_IPV4);
		ck_assert_uint_eq(frame[23], IP_PROTO_TCP);
		ck_assert_uint_eq(cksum_reduce(cksum_add(0, frame + 14, 20)), 0xffff);
		memcpy(dst.bytes, frame + 30, 4);
		s->tos = frame[15];
		s->from = frame[33];
		l4_len = be16_load(frame + 16) - 20u;
	} else {
		ck_assert_uint_eq(be16_load(frame + 12), ETH_TYPE_IPV6);
		ck_assert_uint_eq(frame[20], IP_PROTO_TCP);
		memcpy(dst.bytes, frame + 38, 16);
		s->tos = (uint8_t)(be16_load(frame + 14) >> 4);
		s->from = frame[53];
		l4_len = be16_load(frame + 18);
	}
	tos = s->tos;
	from = s->from;
	ck_assert_uint_eq(l4_len + l4, len);
	ck_assert_uint_eq(
		cksum_reduce(cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_TCP, (uint32_t)l4_len),
				       frame + l4, l4_len)),
		0xffff);
	memcpy(&th, frame + l4, 20);
	header = (size_t)(th.offset >> 4) * 4;
	memset(s, 0, offsetof(struct rig_segment, payload));
	s->seq = be32_get(th.seq);
	s->ack = be32_get(th.ack);
	s->window = be16_get(th.window);
	s->flags = th.flags;
	s->src_port = be16_get(th.src);
	s->dst_port = be16_get(th.dst);
	s->tos = tos;
	s->from = from;
	s->sent_ns = r->took_ns;
	s->len = (uint32_t)(l4_len - header);
	s->options_len = (uint32_t)(header - 20);
	memcpy(s->options, frame + l4 + 20, s->options_len);
	memcpy(s->payload, frame + l4 + header, s->len);
	ck_assert_int_eq(tcp_options_parse(s->options, s->options_len, &s->opt), 0);
	return true;
}

struct rig_segment rig_expect(struct rig *r, uint8_t flags)
{
	static struct rig_segment s;

	ck_assert_msg(rig_take_tcp(r, &s), "nothing was sent, expected flags %#x", flags);
	ck_assert_msg(s.flags == flags, "flags %#x, expected %#x", s.flags, flags);
	return s;
}

void rig_segment(struct rig *r, uint8_t flags, int32_t offset, const void *payload, uint32_t len)
{
	static struct rig_segment s;

	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r->peer_seq + (uint32_t)offset;
	s.ack = flags & TCP_ACK ? r->peer_ack : 0;
	s.flags = flags;
	s.window = 65535;
	s.len = len;
	if (len > 0)
		memcpy(s.payload, payload, len);
	if (r->peer_ts != 0) {
		struct tcp_options o = {
			.has_timestamp = true, .ts_value = r->peer_ts, .ts_echo = 0};

		s.options_len = (uint32_t)tcp_options_write(s.options, &o);
	}
	rig_send(r, &s);
}

void rig_accept(struct rig *r, const uint8_t *options, uint32_t options_len)
{
	static struct rig_segment s;
	struct rig_segment got;

	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = 1000;
	s.flags = TCP_SYN;
	s.window = 65535;
	s.options_len = options_len;
	if (options_len > 0)
		memcpy(s.options, options, options_len);
	rig_send(r, &s);
	got = rig_expect(r, TCP_SYN | TCP_ACK);
	ck_assert_uint_eq(got.ack, 1001);
	r->peer_seq = 1001;
	r->peer_ack = got.seq + 1;
	rig_segment(r, TCP_ACK, 0, NULL, 0);
	ck_assert_uint_eq(r->app.accepted, 1);
	if (!r->app.refuse) {
		ck_assert_ptr_nonnull(r->app.conn);
		ck_assert_int_eq(tcp_info(r->app.conn).state, TCP_ESTABLISHED);
	}
}

struct rte_mbuf *rig_chain(struct rig *r, uint32_t len, uint32_t mbuf_len)
{
	struct rte_mbuf *head = NULL, *tail = NULL;
	uint32_t done = 0;

	do {
		struct rte_mbuf *m = rte_pktmbuf_alloc(r->pool);
		uint32_t n = len - done < mbuf_len ? len - done : mbuf_len;

		for (uint32_t i = 0; i < n; i++)
			*rte_pktmbuf_mtod_offset(m, uint8_t *, i) = (uint8_t)(done + i);
		m->data_len = (uint16_t)n;
		if (head == NULL)
			head = m;
		else
			tail->next = m, head->nb_segs++;
		tail = m;
		done += n;
	} while (done < len);
	head->pkt_len = len;
	return head;
}
