/* See net_world.h. */
#include "tests/fuzz/net_world.h"

#include <rte_eal.h>
#include <rte_errno.h>

static struct rte_mempool *pool;
static unsigned avail;
struct world w;

uint8_t take8(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->p++;
}

uint16_t take16(struct input *in)
{
	uint16_t high = take8(in);

	return (uint16_t)(high << 8 | take8(in));
}

/* ---- the layer above ------------------------------------------------------------------------ */

static int on_accept(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	(void)listen_ctx;
	for (size_t i = 0; i < CONNS; i++) {
		if (w.conns[i] == NULL) {
			w.conns[i] = conn;
			w.unread[i] = 0;
			*conn_ctx_out = &w.conns[i];
			return 0;
		}
	}
	return -1;
}

static void on_data(void *ctx, struct rte_mbuf *chain)
{
	size_t i = (size_t)((struct tcp_conn **)ctx - w.conns);
	uint32_t bytes = 0;
	unsigned segs = 0;

	for (struct rte_mbuf *m = chain; m != NULL; m = m->next, segs++)
		bytes += m->data_len;
	if (w.conns[i] == NULL || bytes != chain->pkt_len || segs != chain->nb_segs || bytes == 0)
		abort();
	w.unread[i] += bytes;
	rte_pktmbuf_free(chain);
}

static void on_event(void *ctx)
{
	if (*(struct tcp_conn **)ctx == NULL)
		abort();
}

static void on_closed(void *ctx, int reason)
{
	(void)reason;
	if (*(struct tcp_conn **)ctx == NULL)
		abort();
	*(struct tcp_conn **)ctx = NULL;
}

static void on_datagram(void *ctx, const struct net_addr *local, const struct net_addr *peer,
			struct rte_mbuf *payload)
{
	uint32_t bytes = 0;

	(void)ctx;
	(void)local;
	(void)peer;
	for (struct rte_mbuf *m = payload; m != NULL; m = m->next)
		bytes += m->data_len;
	if (payload != NULL && bytes != payload->pkt_len)
		abort();
	if (w.datagram != NULL)
		w.datagram(payload);
	rte_pktmbuf_free(payload);
}

static const struct tcp_events events = {
	.accept = on_accept,
	.data = on_data,
	.eof = on_event,
	.writable = on_event,
	.closed = on_closed,
};

static void syn_ack_look(const struct rte_mbuf *m)
{
	const uint8_t *f = rte_pktmbuf_mtod(m, const uint8_t *);
	bool v6 = f[12] == 0x86;
	const uint8_t *l4 = f + (v6 ? 54 : 34);

	if (m->data_len >= (v6 ? 74 : 54) && f[v6 ? 20 : 23] == IP_PROTO_TCP &&
	    (l4[13] & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		w.iss_seen = be32_load(l4 + 4);
}

static uint16_t on_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	(void)ctx;
	for (uint16_t i = 0; i < n; i++) {
		struct rte_mbuf *m = pkts[i];

		rte_mbuf_sanity_check(m, 1);
		/* Learn the number of the last SYN-ACK, so that the script can finish handshakes.
		 */
		syn_ack_look(m);
		rte_pktmbuf_free(m);
	}
	return n;
}

static uint64_t on_random(void *ctx)
{
	(void)ctx;
	w.random = w.random * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return w.random >> 16 ^ w.random << 48;
}

/* ---- frames --------------------------------------------------------------------------------- */

struct block {
	struct rte_mbuf_ext_shared_info info;
	uint8_t *bytes;
};

static void block_free(void *addr, void *opaque)
{
	struct block *b = opaque;

	(void)addr;
	free(b->bytes);
	free(b);
}

/* A frame in memory of exactly its size, in one or two pieces, or in an ordinary mbuf. */
static struct rte_mbuf *piece_make(const uint8_t *data, uint16_t len, bool plain)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
	struct block *b;

	if (m == NULL)
		abort();
	if (plain) {
		memcpy(rte_pktmbuf_append(m, len), data, len);
		return m;
	}
	b = malloc(sizeof(*b));
	b->bytes = malloc(len ? len : 1);
	memcpy(b->bytes, data, len);
	b->info.free_cb = block_free;
	b->info.fcb_opaque = b;
	rte_mbuf_ext_refcnt_set(&b->info, 1);
	rte_pktmbuf_attach_extbuf(m, b->bytes, RTE_BAD_IOVA, len, &b->info);
	m->data_off = 0;
	m->data_len = len;
	m->pkt_len = len;
	return m;
}

void frame_give(const uint8_t *frame, uint16_t len, uint8_t how)
{
	uint16_t first = how & 2 ? (uint16_t)(len * (how >> 2) / 64) : len;
	struct rte_mbuf *m = piece_make(frame, first, how & 1);

	if (first < len) {
		m->next = piece_make(frame + first, (uint16_t)(len - first), how & 1);
		m->nb_segs = 2;
		m->pkt_len = len;
	}
	net_rx(w.stack, &m, 1, w.now_ns);
}

void headers(uint8_t *f, uint8_t protocol, uint16_t l4_len)
{
	struct ip4_header ip = {
		.version_ihl = IP4_VERSION_IHL,
		.total_length = be16_make((uint16_t)(20 + l4_len)),
		.ttl = 64,
		.protocol = protocol,
		.src = {198, 18, 0, 9},
		.dst = {198, 18, 0, 2},
	};

	memcpy(f, (uint8_t[]){2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 0}, 14);
	memcpy(f + 14, &ip, 20);
}

const uint8_t us6[16] = {0x20, 1, 0, 2, [15] = 2};
const uint8_t peer6[16] = {0x20, 1, 0, 2, [15] = 9};
const uint8_t router6[16] = {0xfe, 0x80, [15] = 1};
const uint8_t nodes6[16] = {0xff, 2, [15] = 1};

void headers6(uint8_t *f, uint8_t next, uint16_t len, uint8_t hop_limit)
{
	struct ip6_header ip = {.version_class = 0x60,
				.payload_length = be16_make(len),
				.next = next,
				.hop_limit = hop_limit};

	memcpy(f, (uint8_t[]){2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x86, 0xdd}, 14);
	memcpy(ip.src, peer6, 16);
	memcpy(ip.dst, us6, 16);
	memcpy(f + 14, &ip, 40);
}

/* ICMPv6 is verified whatever the device says. */
void sum6(uint8_t *f, uint16_t len)
{
	struct net_addr src = {.family = NET_FAMILY_IPV6}, dst = {.family = NET_FAMILY_IPV6};
	uint16_t sum;

	memcpy(src.bytes, f + 22, 16);
	memcpy(dst.bytes, f + 38, 16);
	memset(f + 56, 0, 2);
	sum = cksum_fold(cksum_add(net_pseudo_sum(&src, &dst, IP_PROTO_ICMP6, len), f + 54, len));
	memcpy(f + 56, &sum, 2);
}

size_t bytes_take(struct input *in, uint8_t *out, size_t max)
{
	size_t n = take8(in);

	if (n > max)
		n = max;
	for (size_t i = 0; i < n; i++)
		out[i] = take8(in);
	return n;
}

/* Neighbour discovery, mostly right: a few bytes of it are the input's. */
void discovery_give(struct input *in, uint8_t how)
{
	uint8_t type = (uint8_t)(ICMP6_ROUTER_SOLICIT + take8(in) % 5), f[400] = {0};
	uint8_t changes = take8(in) % 4;
	uint16_t len = type == ICMP6_ROUTER_ADVERT ? 16 : 24;
	uint8_t *p = f + 54;

	p[0] = type;
	if (type == ICMP6_ROUTER_ADVERT) {
		p[7] = 10;
		p[16] = 3;
		p[17] = 4;
		p[18] = 64;
		p[19] = 0xc0;
		p[23] = p[27] = 100;
		memcpy(p + 32, us6, 16);
		p[38] = how;
		len += 32;
	} else {
		p[4] = take8(in);
		memcpy(p + 8, how & 4 ? us6 : peer6, 16);
		p[24] = how & 8 ? 1 : 2;
		p[25] = 1;
		memcpy(p + 26, f + 6, 6);
		len += 8;
	}
	headers6(f, IP_PROTO_ICMP6, len, 255);
	if (type == ICMP6_ROUTER_ADVERT) {
		memcpy(f + 22, router6, 16);
		memcpy(f + 38, nodes6, 16);
		f[0] = 0x33;
	} else if (how & 16) {
		memset(f + 22, 0, 16);
	}
	for (; changes > 0; changes--) {
		uint8_t at = take8(in);

		f[14 + at % (40 + len)] = take8(in);
	}
	sum6(f, len);
	frame_give(f, (uint16_t)(54 + len), how & 3);
}

/* An ICMP error that quotes a connection's own segment, with a type, code and MTU of the input's.
 */
void error_give(struct input *in, uint8_t how)
{
	const struct tcp_conn *c = w.conns[take8(in) % CONNS];
	uint8_t type = take8(in), code = take8(in), f[200] = {0}, *p;
	uint16_t mtu = take16(in);
	int16_t seq = (int16_t)take16(in);
	uint16_t sum;

	if (c == NULL)
		return;
	if (c->key.local.family == NET_FAMILY_IPV6) {
		headers6(f, IP_PROTO_ICMP6, 8 + 40 + 20, 64);
		p = f + 54;
		p[8] = 0x60;
		p[14] = IP_PROTO_TCP;
		memcpy(p + 16, us6, 16);
		memcpy(p + 32, peer6, 16);
		p += 48;
	} else {
		headers(f, IP_PROTO_ICMP, 8 + 20 + 20);
		p = f + 34;
		p[8] = IP4_VERSION_IHL;
		p[17] = IP_PROTO_TCP;
		memcpy(p + 20, (uint8_t[]){198, 18, 0, 2, 198, 18, 0, 9}, 8);
		p += 28;
	}
	be16_store(p, c->key.local.port);
	be16_store(p + 2, c->key.remote.port);
	be32_store(p + 4, c->snd_una + (uint32_t)seq);
	p = f + (c->key.local.family == NET_FAMILY_IPV6 ? 54 : 34);
	p[0] = type;
	p[1] = code;
	be16_store(p + 6, mtu);
	if (c->key.local.family == NET_FAMILY_IPV6) {
		sum6(f, 68);
		frame_give(f, 54 + 68, how & 3);
		return;
	}
	sum = cksum_fold(cksum_add(0, p, 48));
	memcpy(p + 2, &sum, 2);
	frame_give(f, 34 + 48, how & 3);
}

/* A piece of a packet, of one of a few identities, at a place of the input's. */
void fragment_give(struct input *in, uint8_t how, bool v6)
{
	uint8_t protocol = how & 64 ? IP_PROTO_UDP : (v6 ? IP_PROTO_ICMP6 : IP_PROTO_ICMP),
		f[600] = {0};
	uint16_t place = take16(in), len = take16(in) % 400, id = take8(in) % 4;

	if (v6) {
		headers6(f, 44, (uint16_t)(8 + len), 64);
		f[54] = protocol;
		be16_store(f + 56, place);
		be32_store(f + 58, id);
		frame_give(f, (uint16_t)(62 + len), how & 3);
		return;
	}
	headers(f, protocol, len);
	be16_store(f + 18, id);
	be16_store(f + 20, place & 0x3fff);
	frame_give(f, (uint16_t)(34 + len), how & 3);
}

/* A TCP segment; with a connection its numbers are relative to what the connection expects. */
void segment_give(struct input *in, uint8_t how)
{
	uint8_t which = take8(in), flags = take8(in), f[1600], *l4 = f + 34;
	bool v6 = (which & 64) != 0;
	int16_t seq = (int16_t)take16(in), ack = (int16_t)take16(in);
	uint16_t window = take16(in), len = take16(in) % 1400;
	uint8_t options[40];
	size_t options_len = bytes_take(in, options, 40) & ~3u;
	struct tcp_conn *c = w.conns[which % CONNS];
	uint32_t seq_base = 1000, ack_base = w.iss_seen + 1;
	uint16_t port = (uint16_t)(4000 + which % 16);
	struct tcp_header th = {
		.dst = be16_make(PORT), .flags = flags, .window = be16_make(window)};

	if (c != NULL && which < 128) {
		seq_base = c->rcv_nxt;
		ack_base = c->snd_una;
		port = c->key.remote.port;
		v6 = c->key.local.family == NET_FAMILY_IPV6;
		if ((c->flags & TCPF_TIMESTAMPS) != 0 && (how & 64) != 0) {
			static const uint8_t nop_nop_ts[] = {1, 1, 8, 10};

			memcpy(options, nop_nop_ts, 4);
			be32_store(options + 4, c->ts_recent + (how >> 7));
			be32_store(options + 8, tcp_ts_now(c));
			options_len = 12;
		}
	}
	th.src = be16_make(port);
	th.seq = be32_make(seq_base + (uint32_t)seq);
	th.ack = be32_make(ack_base + (uint32_t)ack);
	th.offset = (uint8_t)((20 + options_len) / 4 << 4);
	if (v6) {
		headers6(f, IP_PROTO_TCP, (uint16_t)(20 + options_len + len), 64);
		l4 = f + 54;
	} else {
		headers(f, IP_PROTO_TCP, (uint16_t)(20 + options_len + len));
	}
	f[15] |= v6 ? (flags & 8) << 2 : (flags & 8) >> 2; /* now and then ECN-capable */
	memcpy(l4, &th, 20);
	memcpy(l4 + 20, options, options_len);
	memset(l4 + 20 + options_len, 'x', len);
	frame_give(f, (uint16_t)(l4 - f + 20 + (ptrdiff_t)options_len + len), how);
}

static struct rte_mbuf *chain_make(uint32_t len, uint16_t piece)
{
	struct rte_mbuf *head = NULL, *tail = NULL;
	uint32_t done = 0;

	while (done < len) {
		uint16_t n = len - done < piece ? (uint16_t)(len - done) : piece;
		struct rte_mbuf *m = rte_pktmbuf_alloc(pool);

		if (m == NULL)
			break;
		memset(rte_pktmbuf_append(m, n), 'y', n);
		if (head == NULL)
			head = m;
		else
			tail->next = m;
		tail = m;
		done += n;
	}
	return head;
}

void world_call(struct input *in)
{
	size_t i = take8(in) % CONNS;
	uint8_t what = take8(in);
	struct tcp_conn *c = w.conns[i];
	struct rte_mbuf *chain;
	uint64_t n;

	if (c == NULL)
		return;
	switch (what % 8) {
	case 0:
	case 1:
	case 2:
		chain = chain_make(1 + take16(in) % 5000, (uint16_t)(8 + what * 7));
		if (chain != NULL && tcp_send(c, chain) != 0) {
			chain->nb_segs = 1;
			for (struct rte_mbuf *m = chain->next; m != NULL; m = m->next)
				chain->nb_segs++;
			rte_pktmbuf_free(chain);
		}
		break;
	case 3:
	case 4:
		n = take16(in) % (w.unread[i] + 1);
		w.unread[i] -= n;
		tcp_consumed(c, n);
		break;
	case 5:
		tcp_shutdown(c);
		break;
	case 6:
		w.conns[i] = NULL;
		tcp_close(c);
		break;
	default:
		w.conns[i] = NULL;
		tcp_abort(c);
		break;
	}
}

/* ---- the world ------------------------------------------------------------------------------ */

static void start_once(void)
{
	char *eal[] = {"fuzz", "--no-huge",      "--no-shconf",      "-m", "64", "--no-pci", "-c",
		       "1",    "--no-telemetry", "--log-level=error"};

	if (pool != NULL)
		return;
	if (rte_eal_init(sizeof(eal) / sizeof(eal[0]), eal) < 0)
		abort();
	pool = rte_pktmbuf_pool_create("fuzz", 4095, 0, 0, 2048, 0);
	if (pool == NULL)
		abort();
}

void world_make(uint8_t options)
{
	struct net_ops ops = {.tx = on_tx, .random = on_random};
	struct net_addr any = {.family = NET_FAMILY_IPV4, .port = PORT};
	struct tcp_listener *listener;
	struct net_config c;

	start_once();
	avail = rte_mempool_avail_count(pool);
	memset(&w, 0, sizeof(w));
	w.now_ns = 1000 * S;
	net_config_default(&c);
	memcpy(c.mac.addr_bytes, (uint8_t[]){2, 0, 0, 0, 0, 2}, 6);
	c.pool = pool;
	c.addresses_n = 2;
	c.addresses[1].addr.family = NET_FAMILY_IPV6;
	memcpy(c.addresses[1].addr.bytes, us6, 16);
	c.addresses[1].prefix_len = 64;
	c.slaac = true;
	c.reassembly_max = options & 2 ? 0 : 4;
	c.dad_transmits = options & 1;
	c.tcp.source_connections_max = 3;
	c.addresses[0].addr =
		(struct net_addr){.family = NET_FAMILY_IPV4, .bytes = {198, 18, 0, 2}};
	c.addresses[0].prefix_len = 24;
	c.flags |= NET_RX_CSUM_TRUST;
	c.arp_entries_max = 4;
	c.tcp.connections_max = CONNS;
	c.tcp.backlog_max = 4;
	c.tcp.time_wait_max = 4;
	c.tcp.receive_buffer = options & 1 ? 4096 : 65536;
	c.tcp.send_buffer = options & 2 ? 4096 : 65536;
	c.tcp.ooo_ranges_max = options & 4 ? 2 : 16;
	c.tcp.ooo_mbufs_max = options & 4 ? 8 : 256;
	c.tcp.copy_bytes_max = options & 8 ? 0 : 192;
	c.tcp.nagle = (options & 16) != 0;
	c.tcp.sack = (options & 32) == 0;
	c.tcp.timestamps = (options & 64) == 0;
	c.tcp.keepalive_idle_ns = options & 128 ? 5 * S : 0;
	if (net_stack_create(&c, &ops, w.now_ns, &w.stack) != 0 ||
	    tcp_listen(w.stack, &any, &events, NULL, &listener) != 0)
		abort();
	any.port = UDP_PORT;
	if (net_udp_bind(w.stack, &any, on_datagram, NULL) != 0)
		abort();
	any.port = PORT;
	any.family = NET_FAMILY_IPV6;
	if (tcp_listen(w.stack, &any, &events, NULL, &listener) != 0)
		abort();
}

void world_open(uint8_t which, bool v6, bool options)
{
	/* which, flags, seq, ack, window, len, options: as segment_give() takes them. */
	uint8_t syn[40] = {(uint8_t)(128 | (v6 ? 64 : 0) | which), TCP_SYN, 0, 0, 0, 0, 0xff, 0xff};
	uint8_t ack[40] = {(uint8_t)(128 | (v6 ? 64 : 0) | which), TCP_ACK, 0, 1, 0, 0, 0xff, 0xff};
	static const uint8_t all[] = {2, 4, 5, 180, 4, 2, 8, 10, 0, 0,
				      0, 1, 0, 0,   0, 0, 1, 3,  3, 4};
	static const uint8_t stamps[] = {1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 0};
	struct input in = {syn, sizeof(syn)};

	if (options) {
		syn[10] = sizeof(all);
		memcpy(syn + 11, all, sizeof(all));
		ack[10] = sizeof(stamps);
		memcpy(ack + 11, stamps, sizeof(stamps));
	}
	segment_give(&in, 0);
	net_flush(w.stack, w.now_ns);
	in = (struct input){ack, sizeof(ack)};
	segment_give(&in, 0);
	net_flush(w.stack, w.now_ns);
}

void world_step(uint8_t how)
{
	static const uint64_t steps[] = {1000,  1000000, 45000000, 210000000,
					 1 * S, 7 * S,   40 * S,   130 * S};

	w.now_ns += steps[how % 8];
	net_timers_run(w.stack, w.now_ns);
	net_flush(w.stack, w.now_ns);
}

void world_end(void)
{
	for (size_t i = 0; i < CONNS; i++) {
		if (w.conns[i] != NULL)
			tcp_close(w.conns[i]);
		w.conns[i] = NULL;
	}
	for (int i = 0; i < 2000 && net_timer_next_ns(w.stack) != UINT64_MAX; i++) {
		uint64_t next = net_timer_next_ns(w.stack);

		w.now_ns = next > w.now_ns ? next : w.now_ns + WHEEL_TICK_NS;
		net_timers_run(w.stack, w.now_ns);
		net_flush(w.stack, w.now_ns);
	}
	if (net_gauges_of(w.stack).timers != 0 || net_gauges_of(w.stack).connections != 0 ||
	    net_gauges_of(w.stack).ooo_mbufs != 0)
		abort();
	net_stack_destroy(w.stack);
	if (rte_mempool_avail_count(pool) != avail)
		abort();
}
