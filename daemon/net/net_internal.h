/* What the files of daemon/net/ share: the stack, neighbours, connections. Not for other folders.
 *
 * One thread owns a stack and all that hangs on it; nothing here is synchronised.
 *
 * The way in:   net_rx -> arp_rx | ip4_rx -> icmp_rx | udp_rx | tcp_rx -> tcp_in_*
 * The way out:  tcp_output -> tcp_segment_send -> net_ip_output -> neigh_output -> net_xmit
 */
#ifndef SPLITD_DAEMON_NET_NET_INTERNAL_H
#define SPLITD_DAEMON_NET_NET_INTERNAL_H

#include "base/bits.h"
#include "base/list.h"
#include "base/pool.h"
#include "base/siphash.h"
#include "base/wheel.h"
#include "daemon/net/net.h"
#include "daemon/net/tcp_conn.h"
#include "daemon/net/tcp_opt.h"
#include "daemon/net/tcp_seq.h"

#define MSEC_NS UINT64_C(1000000)
#define SEC_NS  UINT64_C(1000000000)

/* ---- headers on the wire -------------------------------------------------------------------- */

struct eth_header {
	uint8_t dst[6], src[6];
	struct be16 type;
};

enum {
	ETH_TYPE_IPV4 = 0x0800,
	ETH_TYPE_ARP = 0x0806,
	ETH_TYPE_IPV6 = 0x86dd,
	ETH_TYPE_VLAN = 0x8100,
	ETH_TYPE_QINQ = 0x88a8
};

struct ip4_header { /* RFC 791 s3.1 */
	uint8_t version_ihl, tos;
	struct be16 total_length, id, fragment;
	uint8_t ttl, protocol;
	uint16_t checksum; /* memory order, see cksum.h */
	uint8_t src[4], dst[4];
};

#define IP4_VERSION_IHL    0x45
#define IP4_MORE_OR_OFFSET 0x3fff
#define IP4_DONT_FRAGMENT  0x4000
#define IP4_MTU_FLOOR      552  /* a path of less is not believed: RFC 1191 s3, RFC 5927 s7.2 */
#define IP6_MTU_MIN        1280 /* RFC 8200 s5 */
#define IP_TTL             64

enum { IP_PROTO_ICMP = 1, IP_PROTO_TCP = 6, IP_PROTO_UDP = 17, IP_PROTO_ICMP6 = 58 };

struct ip6_header {                        /* RFC 8200 s3 */
	uint8_t version_class, class_flow; /* 4 bits each */
	struct be16 flow;
	struct be16 payload_length;
	uint8_t next, hop_limit;
	uint8_t src[16], dst[16];
};

#define IP6_HOP_BY_HOP 0 /* as next header: RFC 8200 s4.3 */

struct icmp_header { /* RFC 792, RFC 4443 s2.1 */
	uint8_t type, code;
	uint16_t checksum;
	uint8_t rest[4];
};

enum { /* RFC 4443, RFC 4861 */
       ICMP6_UNREACHABLE = 1,
       ICMP6_TOO_BIG = 2,
       ICMP6_TIME_EXCEEDED = 3,
       ICMP6_PARAMETER = 4,
       ICMP6_ECHO = 128,
       ICMP6_ECHO_REPLY = 129,
       ICMP6_LISTENER_QUERY = 130, /* RFC 3810 */
       ICMP6_ROUTER_SOLICIT = 133,
       ICMP6_ROUTER_ADVERT = 134,
       ICMP6_NEIGHBOUR_SOLICIT = 135,
       ICMP6_NEIGHBOUR_ADVERT = 136,
       ICMP6_REDIRECT = 137,
};

struct udp_header { /* RFC 768 */
	struct be16 src, dst, length;
	uint16_t checksum;
};

struct tcp_header { /* RFC 9293 s3.1 */
	struct be16 src, dst;
	struct be32 seq, ack;
	uint8_t offset, flags;
	struct be16 window;
	uint16_t checksum;
	struct be16 urgent;
};

_Static_assert(sizeof(struct eth_header) == 14, "Ethernet header");
_Static_assert(sizeof(struct ip4_header) == 20, "IPv4 header");
_Static_assert(sizeof(struct ip6_header) == 40, "IPv6 header");
_Static_assert(sizeof(struct icmp_header) == 8, "ICMP header");
_Static_assert(sizeof(struct udp_header) == 8, "UDP header");
_Static_assert(sizeof(struct tcp_header) == 20, "TCP header");

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_PSH 0x08u
#define TCP_ACK 0x10u
#define TCP_ECE 0x40u
#define TCP_CWR 0x80u

/* The low two bits of type of service and of traffic class: RFC 3168 s5. */
enum ip_ecn { IP_ECN_NOT = 0, IP_ECN_ECT1 = 1, IP_ECN_ECT0 = 2, IP_ECN_CE = 3 };

/* Room that headers may take in front of a payload: Ethernet with a VLAN tag + IPv6 + TCP with all
 * options. */
#define NET_HEADERS_MAX (14 + 4 + 40 + 60)

/* ---- neighbours ----------------------------------------------------------------------------- */

#define NEIGH_PENDING_MAX 16

enum neigh_state { NEIGH_INCOMPLETE, NEIGH_REACHABLE, NEIGH_PROBING };

struct neigh {
	struct list lru;
	struct neigh *hash_next;
	struct net_stack *stack;
	struct net_addr addr;
	uint8_t state; /* enum neigh_state */
	uint8_t tries;
	uint8_t pending_n;
	uint8_t mac[6];
	uint64_t expires_ns;      /* reachable until; asked again when used later */
	struct wheel_timer timer; /* request again, or give up */
	struct rte_mbuf *pending[NEIGH_PENDING_MAX];
};

/* ---- IPv6 addresses ------------------------------------------------------------------------- */

/* Link-local, the configured ones, and those that routers' prefixes make. */
#define NET_SLAAC_MAX      4
#define NET_ADDRESSES6_MAX (1 + NET_ADDRESSES_MAX + NET_SLAAC_MAX)
#define NET_PREFIXES6_MAX  8

/* RFC 4862 s5: before, and after, it is known that nobody else has it. */
enum address6_state { ADDRESS6_TENTATIVE, ADDRESS6_ASSIGNED, ADDRESS6_DUPLICATE };

struct net_address6 {
	struct net_addr addr;
	uint8_t prefix_len;
	uint8_t state;   /* enum address6_state */
	uint8_t asked;   /* how often DAD has asked */
	uint8_t attempt; /* identifiers given up: RFC 7217's DAD_Counter */
	bool made;       /* prefix and identifier, not configured */
	bool announced;
	bool asked_for;                  /* a multicast querier wants to hear of its group */
	uint8_t joins;                   /* reports of its group still to be sent unasked */
	uint64_t valid_ns, preferred_ns; /* until; UINT64_MAX: for ever */
};

struct net_prefix6 { /* on-link, by a router's word */
	uint8_t bytes[16];
	uint8_t len;
	uint64_t valid_ns;
};

/* ---- path MTU ------------------------------------------------------------------------------- */

#define NET_PMTU_ENTRIES 256 /* power of two */

struct net_pmtu {
	struct net_addr addr;
	uint64_t expires_ns;
	uint16_t mtu;
};

/* ---- TCP ------------------------------------------------------------------------------------ */

struct tcp_listener {
	struct list link;
	struct net_stack *stack;
	struct net_addr local;
	const struct tcp_events *events;
	void *context;
	uint32_t half_open, half_open_max; /* maxima: 0 for none */
	uint32_t connections, connections_max;
	bool closed;                        /* off the list; freed with its last connection */
	struct listener_counters *counters; /* own, or the caller's */
	struct listener_counters own;
};

/* What a SYN cookie brings back. */
struct tcp_cookie {
	uint32_t iss;
	bool ecn;
	struct tcp_options opt; /* of the SYN */
};

enum tcp_source_verdict {
	TCP_SOURCE_OK,
	TCP_SOURCE_CROWDED, /* as many handshakes as it may have */
	TCP_SOURCE_FULL,    /* as many connections */
};

/* What TIME_WAIT needs. RFC 9293 s3.10.7.4, RFC 6191. */
struct tcp_time_wait {
	struct list link; /* stack->time_wait, by expiry */
	struct tcp_time_wait *hash_next;
	struct flow_key key;
	uint64_t expires_ns;
	uint64_t answered_ns;
	uint32_t snd_nxt, rcv_nxt, rcv_wnd;
	uint32_t ts_recent, ts_offset;
	uint8_t receive_wscale;
	bool timestamps;
};

/* ---- the stack ------------------------------------------------------------------------------ */

#define NET_IP_IDS   256 /* counters of IPv4 identifiers */
#define NET_TX_QUEUE 256 /* frames built and not yet taken by the device */
#define NET_TX_BURST 32  /* offered to it at once while the poll goes on */

/* In net_config.flags, for tests: no segment takes the fast path. */
#define NET_FORCE_SLOW (1u << 31)

struct net_udp_port {
	struct net_addr local; /* family NONE: free */
	net_udp_recv_fn recv;
	void *ctx;
};

struct net_stack {
	uint64_t now_ns;
	uint32_t now_ms, now_s, now_tick;
	uint16_t txq_n;
	struct rte_mempool *pool;
	struct tcp_conn **conns;
	uint32_t table_mask;
	struct siphash_key hash_key;
	struct list dirty; /* connections with something to send */
	struct list dead;  /* closed; freed when no caller up the stack can hold them */
	const struct tcp_conn *flushing; /* whose turn it is in net_flush() */
	struct rte_mbuf *txq[NET_TX_QUEUE];
	uint32_t rx_bucket; /* where the connection of the frame in hand hangs, if it is what it
			     * looks like; UINT32_MAX: not looked at */

	struct net_config config;
	struct net_ops ops;
	struct wheel wheel;
	struct net_counters counters;

	/* TCP */
	struct pool conn_pool, listener_pool, time_wait_pool, range_pool, sent_pool, flight_pool,
		ooo_pool;
	struct tcp_time_wait **time_waits; /* hashed by the same mask */
	struct list listeners, half_open, time_wait;
	struct wheel_timer time_wait_timer;
	uint32_t half_open_n, conns_n, ooo_mbufs;
	uint32_t sq_mbufs; /* in the send queues of all connections */
	struct siphash_key isn_key, cookie_key;
	uint64_t cookie_sent_ns; /* the last; 0: never */
	struct pool source_pool;
	struct tcp_source **sources; /* NULL: no limits by source */
	uint32_t source_mask;

	/* neighbours */
	struct pool neigh_pool;
	struct neigh **neighs;
	uint32_t neigh_mask;
	uint32_t neigh_generation;
	struct list neigh_lru;        /* that answered */
	struct list neigh_unanswered; /* INCOMPLETE, oldest first */
	uint32_t neigh_unanswered_n;
	uint32_t neigh_pending_mbufs, neigh_pending_max;
	struct wheel_timer announce_timer;
	unsigned announcements;
	uint64_t defended_ns;

	/* IPv6: ndp.c */
	struct net_address6 addresses6[NET_ADDRESSES6_MAX];
	unsigned addresses6_n;
	struct net_prefix6 prefixes6[NET_PREFIXES6_MAX];
	unsigned prefixes6_n;
	struct net_addr router6; /* that advertised itself; family NONE: none */
	uint64_t router6_ns;     /* until */
	struct wheel_timer ndp_timer;
	struct wheel_timer mld_timer; /* the next report */
	uint64_t mld_sent_ns;         /* the last */
	uint64_t mld_v1_ns;           /* a querier of version 1 is here until then */
	uint16_t mtu6;                /* what a router says of the link; 0: nothing */
	uint8_t hop_limit6;
	uint8_t solicitations, solicit_ticks;
	uint8_t rx_mac[6]; /* who sent the frame that is being handled */
	struct net_pmtu pmtus[NET_PMTU_ENTRIES];

	/* Fragments: ip_reassembly.c */
	struct rte_ip_frag_tbl *fragments; /* NULL: they are dropped */
	struct rte_ip_frag_death_row *fragments_dead;
	struct wheel_timer fragments_timer;
	bool reassembled; /* the packet that is being handled was */

	/* ICMP, UDP, IPv4 */
	uint64_t icmp_tokens_ns;
	uint16_t ip_ids[NET_IP_IDS];

	/* With config.tx_hold_ns. */
	uint64_t rx_last_ns, rx_gap_ns; /* the last frame, and the mean time between two */
	uint64_t hold_since_ns;         /* 0: nothing is held */
	uint32_t hold_frames;           /* received since one was sent */

	struct net_udp_port udp_ports[NET_UDP_PORTS_MAX];
};

#define COUNT(stack, name)      counter_inc(&(stack)->counters.name)
#define COUNT_N(stack, name, n) counter_add(&(stack)->counters.name, (n))

static inline void net_set_now(struct net_stack *s, uint64_t now_ns)
{
	if (now_ns > s->now_ns) {
		s->now_ns = now_ns;
		s->now_ms = (uint32_t)(now_ns / MSEC_NS);
		s->now_s = (uint32_t)(now_ns / SEC_NS);
		s->now_tick = (uint32_t)(now_ns >> TCP_TICK_SHIFT);
	}
}

/* net.c */
/* Queue one frame for the device; owns it. */
void net_xmit(struct net_stack *s, struct rte_mbuf *m);
/* An mbuf to build a packet in: NET_HEADERS_MAX of headroom. NULL counted. */
struct rte_mbuf *net_mbuf_get(struct net_stack *s);
/* `len` bytes behind the data of a fresh mbuf; the pool's rooms are large enough for any header. */
static inline void *net_mbuf_append(struct rte_mbuf *m, uint16_t len)
{
	char *p = rte_pktmbuf_mtod_offset(m, char *, m->data_len);

	m->data_len = (uint16_t)(m->data_len + len);
	m->pkt_len += len;
	return p;
}
static inline void *net_mbuf_prepend(struct rte_mbuf *m, uint16_t len)
{
	m->data_off = (uint16_t)(m->data_off - len);
	m->data_len = (uint16_t)(m->data_len + len);
	m->pkt_len += len;
	return rte_pktmbuf_mtod(m, char *);
}
/* Cut a chain to its first `len` bytes, freeing mbufs past them. */
void net_mbuf_cut(struct rte_mbuf *m, uint32_t len);
/* Take `len` bytes off the front, freeing mbufs; returns the new head. len < pkt_len. */
struct rte_mbuf *net_mbuf_skip(struct rte_mbuf *m, uint32_t len);
bool net_addr_is_any(const struct net_addr *a);
/* Our own address that may be used, whatever the port? */
bool net_addr_is_ours(const struct net_stack *s, const struct net_addr *a);
static inline bool net_tx_full(const struct net_stack *s)
{
	return s->txq_n >= NET_TX_QUEUE - 8; /* a few are kept for ACKs and ARP */
}

/* Into how many segments `m` with `payload` bytes is cut. */
static inline uint32_t net_tso_pieces(const struct rte_mbuf *m, uint32_t payload)
{
	if (likely((m->ol_flags & RTE_MBUF_F_TX_TCP_SEG) == 0))
		return 1;
	return (payload + m->tso_segsz - 1) / m->tso_segsz;
}

/* Ethernet's header, with the port's VLAN tag if it has one, in front of `m`; dst stays open. */
void net_eth_push(struct net_stack *s, struct rte_mbuf *m, uint16_t type);
static inline uint32_t net_eth_bytes(const struct net_stack *s)
{
	return (uint32_t)sizeof(struct eth_header) + (s->config.vlan != 0 ? 4 : 0);
}

/* ip6.c. `m` begins at the IP header. */
void ip6_rx(struct net_stack *s, struct rte_mbuf *m, bool to_us);
void ip6_push(struct rte_mbuf *m, const struct net_addr *src, const struct net_addr *dst,
	      uint8_t protocol, enum ip_ecn ecn, uint8_t hop_limit);
/* Send to a neighbour whose MAC address is known, or (NULL) to the group in the IP header. */
void ip6_link_output(struct net_stack *s, struct rte_mbuf *m, const uint8_t *mac);
void ip6_output(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *src,
		const struct net_addr *dst, uint8_t protocol, enum ip_ecn ecn,
		struct net_path *path);

/* ip_reassembly.c. Own `m`, which begins at its IP header of `header` bytes (IPv6: the fragment
 * header lies at `offset`). The whole packet, or NULL. */
int reassembly_init(struct net_stack *s);
void reassembly_fini(struct net_stack *s);
struct rte_mbuf *reassembly_ip4(struct net_stack *s, struct rte_mbuf *m, uint32_t header);
struct rte_mbuf *reassembly_ip6(struct net_stack *s, struct rte_mbuf *m, uint32_t offset);

/* icmp6.c. `m` as for icmp_rx(). */
void icmp6_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	      const struct net_addr *dst);
/* An error about the packet in `m`, which begins at its IP header and stays the caller's. */
void icmp6_error(struct net_stack *s, const struct rte_mbuf *m, uint8_t type, uint8_t code,
		 uint32_t rest, const struct net_addr *src, const struct net_addr *dst);
/* `m` begins at the ICMPv6 header. */
void icmp6_checksum(struct rte_mbuf *m, const struct net_addr *src, const struct net_addr *dst);

/* ndp.c */
void ndp_init(struct net_stack *s);
void ndp_rx(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
	    const struct net_addr *src, const struct net_addr *dst);
void ndp_solicit_send(struct net_stack *s, const struct net_addr *target, const uint8_t *mac);
/* Ours, be it tentative; NULL else. */
struct net_address6 *ndp_address_find(const struct net_stack *s, const struct net_addr *a);
bool ndp_address_usable(const struct net_stack *s, const struct net_addr *a);
bool ndp_group_ours(const struct net_stack *s, const uint8_t group[16]);
bool ndp_next_hop(const struct net_stack *s, const struct net_addr *dst, struct net_addr *hop_out);
bool ndp_source_for(const struct net_stack *s, const struct net_addr *dst,
		    struct net_addr *src_out);

void ndp_solicited_node(const uint8_t a[16], struct net_addr *group_out);

/* mld.c */
void mld_init(struct net_stack *s);
/* We listen to the solicited-node group of `a` from now on. */
void mld_join(struct net_stack *s, struct net_address6 *a);
/* A query; the ICMPv6 header lies at `offset`. */
void mld_rx(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
	    const struct net_addr *src);

/* pmtu.c: path MTU. RFC 1191, RFC 8201; errors about connections, RFC 5927. */
enum tcp_icmp_kind { TCP_ICMP_REFUSED, TCP_ICMP_UNREACHABLE, TCP_ICMP_TOO_BIG, TCP_ICMP_SOFT };
struct tcp_icmp {
	enum tcp_icmp_kind kind;
	uint32_t seq; /* of the segment quoted */
	uint32_t mtu; /* TOO_BIG: of the next hop; 0: not said */
};
void tcp_icmp_in(struct net_stack *s, const struct net_addr *local, const struct net_addr *remote,
		 const struct tcp_icmp *error);
/* The largest packet to `remote`, as far as is known. */
uint32_t pmtu_of(struct net_stack *s, const struct net_addr *remote);
/* Nothing large seems to arrive: try smaller segments. RFC 2923 s2.1, RFC 4821 s7.6.3. */
void pmtu_black_hole(struct tcp_conn *c);
/* A flight begins: the path may carry more by now. RFC 1191 s6.3, RFC 8899 s5.2. */
void pmtu_raise(struct tcp_conn *c);
/* With TCPM_SHRUNK or TCPM_RAISED: segments of this size arrive. */
void pmtu_acked(struct tcp_conn *c);

/* ip4.c */
void ip4_rx(struct net_stack *s, struct rte_mbuf *m, bool to_us);
/* Sum of the pseudo-header for the checksum of TCP and UDP. RFC 9293 s3.1, RFC 8200 s8.1. */
uint64_t net_pseudo_sum(const struct net_addr *src, const struct net_addr *dst, uint8_t protocol,
			uint32_t l4_len);
/* Put IP and Ethernet in front of `m`, which begins at its layer-4 header, and send it. Owns `m`.
 * `path` may be NULL. */
void net_ip_output(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *src,
		   const struct net_addr *dst, uint8_t protocol, enum ip_ecn ecn,
		   struct net_path *path);
/* Which of our addresses speaks to `dst`; false without a route. */
bool net_source_for(const struct net_stack *s, const struct net_addr *dst,
		    struct net_addr *src_out);
/* Fill (or have the device fill) the checksum at `field`, `m` beginning at the layer-4 header. */
void net_l4_checksum(struct net_stack *s, struct rte_mbuf *m, uint16_t *field,
		     const struct net_addr *src, const struct net_addr *dst, uint8_t protocol);
/* Whether the checksum of a received layer-4 packet is to be taken as good. */
bool net_l4_verify(const struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
		   uint32_t len, const struct net_addr *src, const struct net_addr *dst,
		   uint8_t protocol);

/* neigh.c, arp.c */
int neigh_init(struct net_stack *s);
void neigh_fini(struct net_stack *s);
/* Send a frame whose Ethernet header lacks only dst, to on-link `hop`. Owns `m`. */
void neigh_output(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *hop,
		  struct net_path *path);
/* `addr` was claimed by `mac`, `solicited`: in an answer to our address. */
void neigh_answer(struct net_stack *s, const struct net_addr *addr, const uint8_t mac[6],
		  bool solicited);
void neigh_announce_start(struct net_stack *s);
void arp_rx(struct net_stack *s, struct rte_mbuf *m);
void arp_request_send(struct net_stack *s, const struct net_addr *target, const uint8_t *mac);
void arp_announce_send(struct net_stack *s, const struct net_addr *addr);

/* icmp.c. `m` begins at the IP header, the ICMP header lies at `offset`. Owns `m`. */
void icmp_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	     const struct net_addr *dst);
/* Port unreachable about the packet in `m`, which begins at its IP header of `ip_bytes`; `m` stays
 * the caller's. */
bool icmp_allowed(struct net_stack *s);
/* A copy of the ICMP message at `offset`, to answer it. */
struct rte_mbuf *icmp_copy(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset);
void icmp_port_unreachable(struct net_stack *s, const struct rte_mbuf *m, uint32_t ip_bytes,
			   const struct net_addr *src, const struct net_addr *dst);

/* udp.c. `m` begins at the IP header, the UDP header lies at `offset`. Owns `m`. */
void udp_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	    const struct net_addr *dst);

/* tcp_table.c */
void flow_key_make(struct flow_key *k, const struct net_addr *local, const struct net_addr *remote);
struct tcp_conn *tcp_table_find(struct net_stack *s, const struct flow_key *k);
/* The same for the frame in hand, by s->rx_bucket where that is known. */
struct tcp_conn *tcp_table_find_rx(struct net_stack *s, const struct flow_key *k);
uint32_t tcp_table_bucket(const struct net_stack *s, const struct flow_key *k);
void tcp_table_add(struct net_stack *s, struct tcp_conn *c);
void tcp_table_del(struct net_stack *s, struct tcp_conn *c);
struct tcp_time_wait *tcp_time_wait_find(struct net_stack *s, const struct flow_key *k);
void tcp_time_wait_enter(struct tcp_conn *c);
void tcp_time_wait_del(struct net_stack *s, struct tcp_time_wait *tw);
void tcp_time_wait_restart(struct net_stack *s, struct tcp_time_wait *tw);
void tcp_time_wait_fire(struct wheel_timer *t, uint64_t now_ns);
uint32_t tcp_isn(struct net_stack *s, const struct flow_key *k);
uint32_t tcp_ts_offset(struct net_stack *s, const struct flow_key *k);

/* tcp.c */
int tcp_init(struct net_stack *s);
void tcp_fini(struct net_stack *s);
struct tcp_conn *tcp_conn_new(struct net_stack *s, const struct net_addr *local,
			      const struct net_addr *remote);
/* Take the connection out of the table, drop its queues and timers, free it when that is safe. */
void tcp_conn_kill(struct tcp_conn *c);
/* Kill and, if the layer above knows it, give `closed`. */
void tcp_conn_end(struct tcp_conn *c, int reason);
void tcp_reap(struct net_stack *s);
void tcp_mark_dirty(struct tcp_conn *c);
/* Give `writable` if it was asked for and there is room; the connection may be dead afterwards. */
void tcp_writable_check(struct tcp_conn *c);
struct tcp_listener *tcp_listener_find(struct net_stack *s, const struct net_addr *local);
uint32_t tcp_mbuf_pinned(const struct rte_mbuf *chain);

static inline const struct tcp_cc_ops *tcp_cc(const struct tcp_conn *c)
{
	return tcp_cc_table[c->congestion];
}

/* Round trips in ticks; what is longer than the clock's circle counts as its half. */
static inline uint32_t tcp_ticks(uint64_t ns)
{
	return ns >> TCP_TICK_SHIFT < UINT32_MAX / 2 ? (uint32_t)(ns >> TCP_TICK_SHIFT)
						     : UINT32_MAX / 2;
}

static inline uint64_t tcp_ticks_ns(uint32_t ticks)
{
	return (uint64_t)ticks << TCP_TICK_SHIFT;
}

/* The nanoseconds since `ms`, a time of now_ms. */
static inline uint64_t tcp_since_ns(const struct tcp_conn *c, uint32_t ms)
{
	return (uint64_t)(c->stack->now_ms - ms) * MSEC_NS;
}

/* A limit in milliseconds, rounded up. */
static inline uint32_t tcp_limit_ms(uint64_t ns)
{
	uint64_t ms = ns / MSEC_NS + (ns % MSEC_NS != 0);

	return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* Losses are found by what the peer says it has, not by duplicate ACKs. */
static inline bool tcp_scored(const struct tcp_conn *c)
{
	return (c->flags & TCPF_SACK) != 0 && (c->marks & TCPM_BLIND) == 0;
}

static inline uint32_t tcp_sacked(const struct tcp_conn *c)
{
	return c->flight != NULL ? c->flight->sacked_bytes : 0;
}

static inline uint32_t tcp_lost(const struct tcp_conn *c)
{
	return c->flight != NULL ? c->flight->lost_bytes : 0;
}

static inline struct tcp_listener *tcp_listener_of(const struct tcp_conn *c)
{
	return c->listener == 0 ? NULL
				: pool_at(&c->stack->listener_pool, c->listener - UINT32_C(1));
}

/* Bytes queued by the layer above and not acked. */
static inline uint32_t tcp_queued(const struct tcp_conn *c)
{
	uint32_t una = c->snd_una + (c->state <= TCP_SYN_RECEIVED ? 1 : 0);

	return seq_ge(una, c->snd_end) ? 0 : c->snd_end - una;
}

/* Something to send that was never sent, or is to be sent again. */
static inline bool tcp_send_pending(const struct tcp_conn *c)
{
	return seq_lt(c->snd_nxt, c->snd_end) ||
	       ((c->flags & TCPF_FIN_QUEUED) != 0 && c->snd_nxt == c->snd_end);
}

static inline bool tcp_fin_acked(const struct tcp_conn *c)
{
	return (c->flags & TCPF_FIN_SENT) != 0 && c->snd_una == c->snd_end + 1;
}

static inline uint32_t tcp_ts_now(const struct tcp_conn *c)
{
	return c->stack->now_ms + c->ts_offset;
}

static inline bool tcp_has_owner(const struct tcp_conn *c)
{
	return (c->flags & (TCPF_ACCEPTED | TCPF_ORPHAN | TCPF_DEAD)) == TCPF_ACCEPTED;
}

/* Payload of our MTU's full segment, without options. */
static inline uint32_t tcp_mss_limit(const struct net_stack *s, const struct net_addr *local)
{
	uint32_t ip_header = local->family == NET_FAMILY_IPV4 ? 20 : 40;

	return s->config.mtu - ip_header - (uint32_t)sizeof(struct tcp_header);
}

static inline uint8_t tcp_receive_wscale(const struct tcp_config *t)
{
	uint8_t shift = 0;

	while (shift < TCP_WSCALE_MAX && t->receive_buffer >> shift > UINT16_MAX)
		shift++;
	return shift;
}

static inline bool tcp_ecn_wanted(const struct net_stack *s)
{
	return s->config.tcp.ecn || s->config.tcp.congestion == TCP_CONGESTION_DCTCP;
}

/* A SYN with these flags asks for ECN, and we want it too. RFC 3168 s6.1.1. */
static inline bool tcp_ecn_asked(const struct net_stack *s, uint8_t flags)
{
	return (flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR) && tcp_ecn_wanted(s);
}

/* tcp_in.c. `m` begins at the IP header, the TCP header lies at `offset`. Owns `m`. */
void tcp_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	    const struct net_addr *dst);
void tcp_challenge_ack(struct tcp_conn *c);

/* tcp_open.c */
/* A segment for no connection. The connection that its SYN cookie made and that is to see the
 * segment now, or NULL. */
struct tcp_conn *tcp_in_listen(struct net_stack *s, const struct net_addr *local,
			       const struct net_addr *remote, struct tcp_segment *seg,
			       const struct tcp_time_wait *tw);
void tcp_in_syn_sent(struct tcp_conn *c, struct tcp_segment *seg);
/* The handshake's last ACK: SYN_RECEIVED to ESTABLISHED. False if the connection ended. */
bool tcp_in_established(struct tcp_conn *c, const struct tcp_segment *seg);
void tcp_half_open_remove(struct tcp_conn *c);

/* tcp_cookie.c */
void tcp_cookie_send(struct net_stack *s, const struct net_addr *local,
		     const struct net_addr *remote, const struct tcp_segment *seg);
/* Whether one was sent lately. */
bool tcp_cookie_fresh(const struct net_stack *s);
/* Whether an ACK brings a cookie of ours back. */
bool tcp_cookie_check(struct net_stack *s, const struct net_addr *local,
		      const struct net_addr *remote, const struct tcp_segment *seg,
		      struct tcp_cookie *out);

/* tcp_source.c: limits by prefix of the peer. */
int tcp_source_init(struct net_stack *s, uint32_t conns);
void tcp_source_fini(struct net_stack *s);
enum tcp_source_verdict tcp_source_ask(struct net_stack *s, const struct net_addr *remote);
void tcp_source_enter(struct tcp_conn *c, bool half_open);
void tcp_source_established(struct tcp_conn *c);
void tcp_source_leave(struct tcp_conn *c, bool half_open);

/* tcp_ecn.c: RFC 3168, RFC 8257. */
/* What a segment in the window says of marks: its packet's own, and the peer's echo. */
void tcp_ecn_in(struct tcp_conn *c, const struct tcp_segment *seg);
/* An acceptable ACK: reduce the window once for each window of data that saw marks. */
void tcp_ecn_ack(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t acked);
/* Flags of a segment to send with `len` bytes, and its packet's code point. */
uint8_t tcp_ecn_out(struct tcp_conn *c, uint32_t len, bool again, enum ip_ecn *ecn_out);

/* tcp_ack.c: the sender's side of a received ACK. */
void tcp_in_ack(struct tcp_conn *c, const struct tcp_segment *seg);
void tcp_rtt_sample(struct tcp_conn *c, uint32_t rtt_ticks);
void tcp_recovery_timeout(struct tcp_conn *c);
/* Something was lost. `delivered`: what the ACK that says so delivered. */
void tcp_recovery_enter(struct tcp_conn *c, uint32_t delivered);

/* tcp_sack.c: what was sent, with SACK. */
/* True if the blocks say anything new. */
bool tcp_sack_update(struct tcp_conn *c, const struct tcp_segment *seg);
/* `seq`, or the end of the sacked bytes it lies in. */
uint32_t tcp_sack_skip(const struct tcp_conn *c, uint32_t seq);
/* Whether a segment that begins at `seq` can be noted. */
bool tcp_sent_room(const struct tcp_conn *c, uint32_t seq);
/* [start, end) leaves now; before snd_max moves. */
void tcp_sent_note(struct tcp_conn *c, uint32_t start, uint32_t end);
void tcp_sent_acked(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t una);
void tcp_sent_lose_all(struct tcp_conn *c);
/* From "all at sent_tick" to a record that says the same. False if nothing can be lent. */
bool tcp_flight_borrow(struct tcp_conn *c);
/* One is lent already, or there are more than repairs may need. */
bool tcp_flight_spare(const struct tcp_conn *c);
/* All is acknowledged, or forgotten: what was lent goes back. */
void tcp_flight_end(struct tcp_conn *c);
/* The first bytes below `below` that are lost. */
bool tcp_sent_first_lost(const struct tcp_conn *c, uint32_t below, struct tcp_sack_block *hole_out);
/* What is in the network: RFC 6675's pipe. */
static inline uint32_t tcp_pipe(const struct tcp_conn *c)
{
	return c->snd_max - c->snd_una - tcp_sacked(c) - tcp_lost(c);
}

/* tcp_rack.c: RFC 8985, RFC 6937. */
void tcp_rack_min_rtt(struct tcp_conn *c, uint32_t rtt_ticks);
/* Bytes of `r` up to `end` arrived. */
void tcp_rack_delivered(struct tcp_conn *c, const struct tcp_segment *seg, const struct tcp_sent *r,
			uint32_t end);
void tcp_rack_dsack(struct tcp_conn *c);
void tcp_rack_detect(struct tcp_conn *c, uint32_t delivered);
void tcp_rack_recovered(struct tcp_conn *c);
void tcp_prr_begin(struct tcp_conn *c, uint32_t flight);
void tcp_prr_ack(struct tcp_conn *c, uint32_t delivered);
/* When a loss probe is due, from now; 0: none. */
uint64_t tcp_pto_ns(const struct tcp_conn *c);
void tcp_tlp_send(struct tcp_conn *c);
void tcp_tlp_ack(struct tcp_conn *c, uint32_t ack);

/* tcp_pace.c. */
/* New bytes that may leave now as far as pacing goes; UINT32_MAX: it does not. */
uint32_t tcp_pace_room(const struct tcp_conn *c);
/* Of `room` were `sent`, with a flight noted if `wants_more`: then a timer is set. */
void tcp_pace_sent(struct tcp_conn *c, uint32_t room, uint32_t sent, bool wants_more);

/* tcp_data.c: the receiver's side. */
void tcp_in_data(struct tcp_conn *c, struct tcp_segment *seg);
void tcp_in_fin(struct tcp_conn *c, struct tcp_segment *seg);
void tcp_ranges_free(struct tcp_conn *c);
unsigned tcp_sack_blocks(const struct tcp_conn *c, struct tcp_sack_block *out, unsigned max);
/* Bytes that came twice: the first block of the next ACK. RFC 2883 s4. */
static inline void tcp_dsack_note(struct tcp_conn *c, uint32_t start, uint32_t end)
{
	c->dsack_start = start;
	c->dsack_end = end;
}
uint32_t tcp_window_free(const struct tcp_conn *c);
void tcp_deliver(struct tcp_conn *c, struct rte_mbuf *chain, uint32_t len);

/* tcp_out.c */
void tcp_output(struct tcp_conn *c);
void tcp_ack_send(struct tcp_conn *c);
void tcp_syn_send(struct tcp_conn *c);
/* One segment of up to `len` queued bytes from `seq`; returns the bytes of sequence space sent (FIN
 * counts one), 0 if no mbuf was to be had. */
uint32_t tcp_segment_send(struct tcp_conn *c, uint32_t seq, uint32_t len);
void tcp_rst_send(struct tcp_conn *c);
/* A SYN-ACK that nobody remembers. */
void tcp_syn_ack_stateless(struct net_stack *s, const struct net_addr *local,
			   const struct net_addr *remote, uint32_t iss, uint32_t ack, bool ece,
			   const struct tcp_options *o);
/* RFC 9293 s3.10.7.1: the RST that answers a segment of no connection. */
void tcp_rst_reply(struct net_stack *s, const struct net_addr *local, const struct net_addr *remote,
		   const struct tcp_segment *seg);
void tcp_time_wait_ack(struct net_stack *s, struct tcp_time_wait *tw);
void tcp_probe_send(struct tcp_conn *c); /* zero window: one byte past it */
/* A window too small to be worth a segment, for too long: use it. False if there was no mbuf. */
bool tcp_override_send(struct tcp_conn *c);
void tcp_keepalive_send(struct tcp_conn *c); /* RFC 9293 s3.8.4 */
void tcp_queue_free_acked(struct tcp_conn *c);
void tcp_queue_free(struct tcp_conn *c);
/* Smallest useful move of the window's right edge. RFC 9293 s3.8.6.2.2. */
bool tcp_window_update_due(const struct tcp_conn *c);

/* tcp_timer.c */
void tcp_timers_init(struct tcp_conn *c);
void tcp_timers_stop(struct tcp_conn *c);
/* At the end of a flush: the timer runs if, and only if, something is due. */
void tcp_timer_settle(struct tcp_conn *c);
/* Without backoff. RFC 6298 s2. */
uint64_t tcp_rto_ns(const struct tcp_conn *c);
static inline bool tcp_rto_armed(const struct tcp_conn *c)
{
	return c->rto_due_ns != TCP_NEVER;
}
void tcp_ack_disarm(struct tcp_conn *c);
void tcp_rto_restart(struct tcp_conn *c); /* from now if anything is outstanding, else stop */
void tcp_rto_start(struct tcp_conn *c);   /* if it does not run yet */
void tcp_life_update(struct tcp_conn *c);
uint64_t tcp_rto_backed_off(const struct tcp_conn *c);
void tcp_rto_persist(struct tcp_conn *c); /* probe a closed window */
void tcp_ack_arm(struct tcp_conn *c);
/* More may be sent at `at_ns`; with c->flight there. */
void tcp_pace_arm(struct tcp_conn *c, uint64_t at_ns);
/* What was reordered may be lost in `wait_ns`. */
void tcp_reo_arm(struct tcp_conn *c, uint64_t wait_ns);

#endif
