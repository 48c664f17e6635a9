/* The network stack of one worker: Ethernet, ARP, NDP, IPv4, IPv6, ICMP, UDP, TCP.
 *
 * A stack turns received frames into stream events and stream bytes into frames. It owns no device,
 * reads no clock and draws no randomness of its own: frames come in through net_rx() and go out
 * through net_ops.tx, time is an argument, random numbers come from net_ops.random. So the whole
 * stack runs in a test under a virtual clock with no NIC.
 *
 * Threads: a stack and everything made from it belong to one thread at a time (its worker). No
 * function here may be called from another thread, except reads of net_counters_of().
 *
 * Call protocol of a poll:
 *
 *     n = port_rx_burst(...);
 *     net_rx(stack, pkts, n, now_ns);        callbacks of tcp_events run in here
 *     net_timers_run(stack, now_ns);         ... and in here (timeouts)
 *     ... tcp_send(), tcp_consumed(), ... as the layers above please
 *     net_flush(stack, now_ns);              one output pass for each connection that has news
 *
 * tcp_send() and friends only note that there is work; frames leave in net_flush() (or earlier,
 * when a burst is full). `now_ns` is monotonic and never goes back; calls without it use the last
 * one given.
 *
 * Memory: everything but mbufs is allocated at net_stack_create(), sized from net_config. Payloads
 * travel as mbuf chains and TCP does not copy them, but for two bounded cases: payloads of at most
 * tcp.copy_bytes_max bytes, which are cheaper to copy than to reference, and the compaction of
 * small segments that would pin many times their size.
 *
 * Everything from the wire is hostile: malformed frames are dropped and counted by cause.
 */
#ifndef SPLITD_DAEMON_NET_NET_H
#define SPLITD_DAEMON_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_ether.h>
#include <rte_mbuf.h>

#include "base/counter.h"
#include "base/error.h"

/* ---- addresses ------------------------------------------------------------------------------ */

enum net_family { NET_FAMILY_NONE = 0, NET_FAMILY_IPV4 = 4, NET_FAMILY_IPV6 = 6 };

/* An address and port. IPv4 uses bytes[0..3] and leaves the rest zero. All-zero bytes: any. */
struct net_addr {
	uint8_t family;    /* enum net_family */
	uint8_t bytes[16]; /* network order */
	uint16_t port;     /* host order; 0 where a port has no meaning */
};

#define NET_ADDR_TEXT_MAX 64

/* Parse "198.18.0.1" or an IPv6 address; the port stays 0. 0, or -SPLIT_E_BASE_INVALID. */
int net_addr_parse(const char *text, struct net_addr *addr_out);
/* Write "198.18.0.1:80" ("[fd00::1]:80"; no ":port" when it is 0) into `text`; returns `text`. */
char *net_addr_format(const struct net_addr *addr, char text[NET_ADDR_TEXT_MAX]);
bool net_addr_equal(const struct net_addr *a, const struct net_addr *b);

/* ---- configuration -------------------------------------------------------------------------- */

#define NET_ADDRESSES_MAX 8 /* addresses of one stack */
#define NET_MTU_MIN       576
#define NET_MTU_MAX       9216

/* net_config.flags. Without a flag, software does the work. */
#define NET_RX_CSUM_TRUST (1u << 0) /* never verify what the mbuf's flags do not call bad */
#define NET_TX_CSUM_IPV4  (1u << 1) /* device fills IPv4 header checksums */
#define NET_TX_CSUM_L4    (1u << 2) /* device fills TCP/UDP checksums */
#define NET_PRIMARY                                                                                \
	(1u << 3) /* this stack answers ARP and ICMP echo for its addresses and                    \
		   * announces them; set it on exactly one stack of a port */

/* Frames of several full TCP segments may be given to `tx`, to be cut on the way:
 * RTE_MBUF_F_TX_TCP_SEG, tso_segsz, l2_len, l3_len and l4_len say how; at most NET_TSO_SEGMENTS. */
#define NET_TX_TSO       (1u << 4)
#define NET_TSO_SEGMENTS 64

struct net_prefix {
	struct net_addr addr;
	uint8_t prefix_len;
};

enum tcp_congestion { TCP_CONGESTION_CUBIC, TCP_CONGESTION_RENO, TCP_CONGESTION_DCTCP };

struct tcp_config {
	uint32_t connections_max; /* established or closing connections */
	uint32_t backlog_max;     /* half-open connections of all listeners; past it SYN cookies, or
				     without them the oldest gives way */
	uint32_t listeners_max;
	uint32_t time_wait_max;  /* compact TIME_WAIT records; the oldest gives way */
	uint32_t receive_buffer; /* bytes a connection may hold for its reader, payload */
	uint32_t send_buffer;    /* bytes a connection may queue, payload */
	uint32_t ooo_ranges_max; /* out-of-order intervals of one connection */
	uint32_t ooo_mbufs_max;  /* mbufs of all out-of-order queues together (protects the pool) */
	/* Connections whose flights may need more than one word at once (several sent at different
	 * times, or losses); past it they are repaired as without SACK. 0: as many as mbufs. */
	uint32_t flights_max;
	/* Mbufs of all send queues together: past half of it a connection may queue ever less,
	 * though never less than 16 KiB. 0: no bound. */
	uint32_t send_mbufs_max;
	uint32_t copy_bytes_max; /* payloads up to this are copied into the header's mbuf */
	uint32_t initial_window; /* segments, RFC 6928 */
	uint32_t syn_retries;    /* of a SYN or SYN-ACK before giving up */
	uint32_t keepalive_probes;
	/* Of the peers of one prefix; 0: no limit. Past half-open connections there are cookies for
	 * them, or without cookies their SYNs are dropped; past connections they are dropped. */
	uint32_t source_half_open_max, source_connections_max;
	uint8_t source_prefix_ipv4, source_prefix_ipv6; /* bits that make such a prefix */
	uint8_t congestion;                             /* enum tcp_congestion */
	uint64_t time_wait_ns;
	uint64_t half_open_ns;      /* a handshake may take this long */
	uint64_t fin_wait_2_ns;     /* orphaned, our FIN acked, theirs missing */
	uint64_t orphan_ns;         /* orphaned, our data or FIN still unacked */
	uint64_t user_timeout_ns;   /* unacked data without progress; 0: never. RFC 5482 */
	uint64_t keepalive_idle_ns; /* 0: no keepalive */
	uint64_t keepalive_interval_ns;
	uint64_t rto_min_ns, rto_max_ns, rto_initial_ns; /* RFC 6298 */
	uint64_t delayed_ack_ns;
	/* Connections whose shortest round trip is at least this are paced. 0: none. */
	uint64_t pacing_rtt_min_ns;
	bool nagle; /* RFC 9293 s3.7.4; off by default */
	bool timestamps, window_scaling, sack;
	bool syn_cookies; /* RFC 4987 s3.6 */
	bool ecn;         /* RFC 3168; DCTCP has it in any case */
};

struct net_config {
	struct rte_ether_addr mac;
	struct net_prefix addresses[NET_ADDRESSES_MAX];
	unsigned addresses_n;
	struct net_addr gateway; /* IPv4's; family NONE: on-link destinations only */
	struct net_addr
		gateway6; /* IPv6's; family NONE: a router that advertises itself, if slaac */
	uint16_t mtu;
	uint16_t vlan;           /* frames carry this tag, in and out; 0: none */
	bool slaac;              /* RFC 4862: addresses and routes from router advertisements */
	uint8_t dad_transmits;   /* RFC 4862 s5.1: questions before an address is used; 0: none */
	uint32_t reassembly_max; /* fragmented packets at once; 0: fragments are dropped */
	uint64_t reassembly_timeout_ns;
	bool path_mtu_discovery; /* RFC 1191, RFC 8201 */
	uint32_t flags;
	/* Header, control and indirect mbufs; room of at least 128 + copy_bytes_max + headroom. The
	 * pool may be the port's. One connection's send queue takes up to one more mbuf from here
	 * for each segment in flight. Borrowed for the stack's life. */
	struct rte_mempool *pool;
	uint32_t arp_entries_max;  /* the least recently used gives way */
	uint32_t arp_pending_max;  /* packets that wait for one address */
	uint64_t arp_reachable_ns; /* an entry is asked again after this */
	uint32_t icmp_per_second;  /* answers and errors sent, token bucket */
	/* Where each burst sent costs a system call: net_flush() may leave its work to a later one
	 * for so long, while more frames are expected within it; net_flush_pending() is true
	 * meanwhile. For workers that poll. 0: never. */
	uint64_t tx_hold_ns;
	struct tcp_config tcp;
};

/* Sane defaults for everything but mac, addresses, gateway and pool. */
void net_config_default(struct net_config *config_out);

struct net_ops {
	/* Send frames; returns how many were taken (the first ones). The rest stays with the stack
	 * and is offered again at the next flush. The callee owns what it takes; chains are
	 * possible. */
	uint16_t (*tx)(void *ctx, struct rte_mbuf **pkts, uint16_t n);
	uint64_t (*random)(void *ctx); /* 64 unpredictable bits */
	void *ctx;
	/* Whether frames from `remote` to `local` reach this stack, where several share a port.
	 * NULL: all do. tcp_connect() asks it to choose a port; pure. */
	bool (*reached)(void *ctx, const struct net_addr *local, const struct net_addr *remote);
};

/* ---- the stack ------------------------------------------------------------------------------ */

struct net_stack;

/* 0; -SPLIT_E_BASE_INVALID (config); -SPLIT_E_BASE_NOMEM. Copies config and ops. A stack with
 * NET_PRIMARY announces its addresses (RFC 5227 s3) at the first flush. */
SPLIT_MUST_USE int net_stack_create(const struct net_config *config, const struct net_ops *ops,
				    uint64_t now_ns, struct net_stack **out);
/* Frees everything, without sending and without events. Frames given to ops.tx are the device's. */
void net_stack_destroy(struct net_stack *stack);

/* Take `n` received frames, owns them all. Frames begin with the Ethernet header. One with
 * RTE_MBUF_F_RX_LRO is several TCP segments that were joined, and may be larger than the MTU. */
void net_rx(struct net_stack *stack, struct rte_mbuf **pkts, uint16_t n, uint64_t now_ns);
/* Run what is due, a bounded number at a time; returns how many fired. */
unsigned net_timers_run(struct net_stack *stack, uint64_t now_ns);
/* When net_timers_run() is wanted next; UINT64_MAX if nothing is pending. */
uint64_t net_timer_next_ns(const struct net_stack *stack);
/* Send what is pending: data, ACKs batched over the poll. */
void net_flush(struct net_stack *stack, uint64_t now_ns);
/* True if net_flush() left work that a later flush must do (device full, no mbufs). */
bool net_flush_pending(const struct net_stack *stack);

/* Where frames belong when the device cannot spread them (no RSS): every worker that shares a port
 * gets NET_STEER_ALL frames (ARP), a NET_STEER_FLOW frame belongs to worker `hash % workers`. The
 * hash is keyed by nothing: the same for each worker. Reads headers only. */
enum net_steer { NET_STEER_ALL, NET_STEER_FLOW };
enum net_steer net_steer(const struct rte_mbuf *pkt, uint32_t *hash_out);
/* The hash that net_steer() gives for TCP from `remote` to `local`: who opens a connection chooses
 * its port by it, so that the answers reach the worker that opened. */
uint32_t net_steer_hash(const struct net_addr *local, const struct net_addr *remote);

/* ---- UDP ------------------------------------------------------------------------------------ */

#define NET_UDP_PORTS_MAX 8

/* Datagrams to `local` (any port must be given; address may be any) go to `recv`, which owns
 * `payload`. Ports without a binding get ICMP port unreachable. 0, or -SPLIT_E_NET_IN_USE,
 * -SPLIT_E_BASE_LIMIT, -SPLIT_E_BASE_INVALID. */
typedef void (*net_udp_recv_fn)(void *ctx, const struct net_addr *local,
				const struct net_addr *peer, struct rte_mbuf *payload);
SPLIT_MUST_USE int net_udp_bind(struct net_stack *stack, const struct net_addr *local,
				net_udp_recv_fn recv, void *ctx);
void net_udp_unbind(struct net_stack *stack, const struct net_addr *local);
/* Sends one datagram of at most MTU size; always consumes `payload`. 0 or -SPLIT_E_NET_*. */
int net_udp_send(struct net_stack *stack, const struct net_addr *local, const struct net_addr *peer,
		 struct rte_mbuf *payload);

/* ---- TCP ------------------------------------------------------------------------------------ */

struct tcp_conn;
struct tcp_listener;

/* Callbacks run inside net_rx(), net_timers_run() and net_flush(), never inside tcp_*() calls. Each
 * may call any tcp_*() function on any connection. Any but `accept` may be NULL on a connection
 * that is opened actively; all but `connected` are needed by a listener. */
struct tcp_events {
	/* The handshake of a passive open is done. 0 and *conn_ctx_out set, or <0: the connection
	 * is reset and no further event comes. */
	int (*accept)(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out);
	/* The handshake of an active open is done. */
	void (*connected)(void *conn_ctx, struct tcp_conn *conn);
	/* The next bytes in order. The chain passes to the callee (pkt_len is right); the receive
	 * window opens again by tcp_consumed(). */
	void (*data)(void *conn_ctx, struct rte_mbuf *chain);
	/* The peer has sent FIN: no more data. Sending goes on. */
	void (*eof)(void *conn_ctx);
	/* There is room for half the send buffer, and for the chain that tcp_send() found too long;
	 * once for each such tcp_send() or tcp_want_writable(). */
	void (*writable)(void *conn_ctx);
	/* Last event; the connection is invalid when it returns. reason 0: both sides finished in
	 * order; else -SPLIT_E_NET_RESET (by the peer), _TIMEOUT, _REFUSED or
	 * _UNREACHABLE. */
	void (*closed)(void *conn_ctx, int reason);
};

/* Listen on `local` (address may be any, port must not be 0). `events` must outlive the listener
 * and its connections. 0, or -SPLIT_E_NET_IN_USE, -SPLIT_E_BASE_LIMIT, -SPLIT_E_BASE_INVALID. */
SPLIT_MUST_USE int tcp_listen(struct net_stack *stack, const struct net_addr *local,
			      const struct tcp_events *events, void *listen_ctx,
			      struct tcp_listener **out);
/* No new connections; half-open ones are reset, accepted ones go on. */
void tcp_listener_close(struct tcp_listener *listener);

/* X(name, text) */
#define LISTENER_COUNTERS(X)                                                                       \
	X(connections, "connections that are open")                                                \
	X(half_open, "handshakes under way")                                                       \
	X(accepted, "connections accepted")                                                        \
	X(cookies, "SYNs answered with a cookie")                                                  \
	X(dropped, "SYNs dropped: connections_max or backlog of the listener")

COUNTER_DECLARE(listener, LISTENER_COUNTERS);

/* Bounds of one listener within those of the stack; 0: none. Past half_open_max there are SYN
 * cookies, or without them SYNs are dropped; past connections_max SYNs are dropped. `counters` may
 * be NULL, else it is the caller's and must outlive the stack. Before the first segment. */
void tcp_listener_limit(struct tcp_listener *listener, uint32_t half_open_max,
			uint32_t connections_max, struct listener_counters *counters);

/* Open actively, IPv4 or IPv6; never blocks. `local` may be NULL, or have an any-address or port 0:
 * then one is chosen at random for which net_ops.reached says that the answers come here. The
 * outcome is one event, later: `connected`, or `closed` with -SPLIT_E_NET_REFUSED (RST, or ICMP
 * port unreachable), _UNREACHABLE (ICMP) or _TIMEOUT (tcp_set_connect_timeout(), half_open_ns or
 * syn_retries). tcp_send() before `connected` queues; tcp_close() and tcp_abort() give up in
 * silence.
 * 0, or -SPLIT_E_NET_IN_USE (no port is left, or the one given is taken), -SPLIT_E_NET_NO_ROUTE,
 * -SPLIT_E_NET_LIMIT (connections_max), -SPLIT_E_BASE_INVALID. RFC 9293 s3.10.1, RFC 6056. */
SPLIT_MUST_USE int tcp_connect(struct net_stack *stack, const struct net_addr *local,
			       const struct net_addr *remote, const struct tcp_events *events,
			       void *conn_ctx, struct tcp_conn **out);
/* After tcp_connect(), before its outcome: how long the handshake may take, from now, in place of
 * half_open_ns. */
void tcp_set_connect_timeout(struct tcp_conn *conn, uint64_t timeout_ns);

/* Bytes that tcp_send() takes now. 0 after shutdown, or while the queue pins too much. */
size_t tcp_send_room(const struct tcp_conn *conn);
/* Queue a chain for sending: all of it, or none. On success the stack owns it and keeps references
 * until it is acked; the bytes must not change. Segments of zero length are allowed; the chain
 * needs no headroom. On failure the caller keeps it: -SPLIT_E_NET_FULL (wait for `writable`),
 * -SPLIT_E_BASE_INVALID (empty, or longer than the send buffer),
 * -SPLIT_E_NET_CLOSED (after shutdown, or the connection is ending). */
SPLIT_MUST_USE int tcp_send(struct tcp_conn *conn, struct rte_mbuf *chain);
/* Ask for one `writable` event when there is room for half the send buffer. */
void tcp_want_writable(struct tcp_conn *conn);
/* The reader is done with `bytes` that came by `data`: the window may open. */
void tcp_consumed(struct tcp_conn *conn, size_t bytes);
/* FIN after what is queued; receiving goes on. Repeating it does nothing. RFC 9293 s3.10.4. */
void tcp_shutdown(struct tcp_conn *conn);
/* Shutdown and let go: no further event comes and the handle is invalid at once. What is queued
 * is still sent; data that arrives later, or arrived and was not consumed, is answered with RST. */
void tcp_close(struct tcp_conn *conn);
/* RST and forget: no further event comes, not even `closed`; invalid at once. */
void tcp_abort(struct tcp_conn *conn);

void tcp_local(const struct tcp_conn *conn, struct net_addr *addr_out);
void tcp_peer(const struct tcp_conn *conn, struct net_addr *addr_out);
void tcp_set_context(struct tcp_conn *conn, void *conn_ctx);
void *tcp_context(const struct tcp_conn *conn);
/* Per-connection options, overriding tcp_config. */
void tcp_set_nagle(struct tcp_conn *conn, bool on);
void tcp_set_keepalive(struct tcp_conn *conn, uint64_t idle_ns);       /* 0: off */
void tcp_set_user_timeout(struct tcp_conn *conn, uint64_t timeout_ns); /* 0: never */

/* RFC 9293 s3.3.2; the order is used by comparisons inside. */
enum tcp_state {
	TCP_CLOSED,
	TCP_SYN_SENT,
	TCP_SYN_RECEIVED,
	TCP_ESTABLISHED,
	TCP_CLOSE_WAIT,
	TCP_FIN_WAIT_1,
	TCP_FIN_WAIT_2,
	TCP_CLOSING,
	TCP_LAST_ACK,
	TCP_TIME_WAIT,
};

struct tcp_info {
	enum tcp_state state;
	uint32_t mss;
	uint32_t cwnd, ssthresh; /* bytes */
	uint32_t send_window, receive_window;
	uint32_t srtt_us, rttvar_us, rto_us;
	uint64_t bytes_sent, bytes_received; /* payload, in order, once */
	uint64_t segments_retransmitted;
	uint32_t queued;     /* bytes to send or to be acked */
	uint32_t unconsumed; /* bytes delivered and not consumed */
	bool timestamps, sack, ecn;
	const char *congestion; /* "cubic", "reno" or "dctcp" */
};
struct tcp_info tcp_info(const struct tcp_conn *conn);
const char *tcp_state_name(enum tcp_state state);

/* ---- counters ------------------------------------------------------------------------------- */

/* X(name, text). rx_drop_*: one frame dropped, by its cause. */
#define NET_COUNTERS(X)                                                                            \
	X(rx_frames, "frames received")                                                            \
	X(rx_bytes, "bytes received")                                                              \
	X(tx_frames, "frames sent")                                                                \
	X(tx_bytes, "bytes sent")                                                                  \
	X(tx_holds, "times that frames waited for others to leave with them")                      \
	X(tx_drop_full, "frames dropped: the device took none and the queue was full")             \
	X(tx_drop_nomem, "frames not built for want of an mbuf")                                   \
	X(rx_drop_eth_short, "frame shorter than its Ethernet header")                             \
	X(rx_drop_eth_long, "frame longer than the MTU")                                           \
	X(rx_drop_eth_dst, "frame for another MAC address")                                        \
	X(rx_drop_eth_src, "frame from a group MAC address")                                       \
	X(rx_drop_eth_vlan, "frame of another VLAN")                                               \
	X(rx_drop_eth_type, "EtherType not spoken")                                                \
	X(rx_drop_arp_malformed, "malformed ARP packet")                                           \
	X(rx_arp_requests, "ARP requests for us")                                                  \
	X(rx_arp_replies, "ARP replies we waited for")                                             \
	X(rx_arp_unsolicited, "ARP packets that changed nothing")                                  \
	X(rx_arp_conflicts, "ARP packets that claim our address")                                  \
	X(tx_arp_requests, "ARP requests sent")                                                    \
	X(tx_arp_replies, "ARP replies sent")                                                      \
	X(arp_evictions, "ARP entries that gave way")                                              \
	X(arp_failures, "addresses that did not answer ARP")                                       \
	X(tx_drop_arp_pending, "packets dropped waiting for ARP")                                  \
	X(tx_drop_no_route, "packets without a route")                                             \
	X(rx_drop_ndp_malformed, "malformed neighbour discovery message")                          \
	X(rx_drop_ndp_limit, "advertised prefixes past the bounds")                                \
	X(rx_ndp_solicitations, "neighbour solicitations for us")                                  \
	X(rx_ndp_router_adverts, "router advertisements heard")                                    \
	X(tx_ndp_solicitations, "neighbour solicitations sent")                                    \
	X(tx_ndp_advertisements, "neighbour advertisements sent")                                  \
	X(ndp_duplicates, "other nodes that have an address of ours")                              \
	X(rx_drop_mld_malformed, "malformed multicast listener query")                             \
	X(rx_mld_queries, "multicast listener queries heard")                                      \
	X(tx_mld_reports, "multicast listener reports sent")                                       \
	X(ip_pmtu_reduced, "path MTUs that an ICMP error made smaller")                            \
	X(ip_pmtu_black_holes, "segments made smaller because none arrived")                       \
	X(ip_pmtu_probes, "larger segments tried")                                                 \
	X(ip_pmtu_raised, "larger segments that arrived, and stay")                                \
	X(rx_drop_ip_short, "IP packet cut short")                                                 \
	X(rx_drop_ip_version, "IP version not that of the EtherType")                              \
	X(rx_drop_ip_header, "IPv4 header length wrong")                                           \
	X(rx_drop_ip_length, "IP length wrong")                                                    \
	X(rx_drop_ip_checksum, "IPv4 header checksum wrong")                                       \
	X(rx_drop_ip_options, "IP packet with a route or malformed options")                       \
	X(rx_ip_fragments, "IP fragments received")                                                \
	X(rx_ip_reassembled, "IP packets put together of fragments")                               \
	X(rx_drop_ip_fragment, "IP fragment")                                                      \
	X(rx_drop_ip_src, "IP source address not possible")                                        \
	X(rx_drop_ip_dst, "IP packet for another address")                                         \
	X(rx_drop_ip_protocol, "IP protocol not spoken")                                           \
	X(rx_drop_icmp_malformed, "malformed ICMP message")                                        \
	X(rx_drop_icmp_type, "ICMP type not acted on")                                             \
	X(rx_icmp_echo, "ICMP echo requests answered")                                             \
	X(rx_icmp_unreachable, "ICMP errors about a connection of ours")                           \
	X(tx_icmp_limited, "ICMP messages withheld by the rate limit")                             \
	X(tx_icmp_unreachable, "ICMP unreachable messages sent")                                   \
	X(rx_drop_udp_malformed, "malformed UDP datagram")                                         \
	X(rx_drop_udp_checksum, "UDP checksum wrong")                                              \
	X(rx_drop_udp_port, "UDP port not bound")                                                  \
	X(rx_udp_datagrams, "UDP datagrams delivered")                                             \
	X(tx_udp_datagrams, "UDP datagrams sent")                                                  \
	X(rx_tcp_segments, "TCP segments received")                                                \
	X(tx_tcp_segments, "TCP segments sent")                                                    \
	X(rx_drop_tcp_short, "TCP segment cut short")                                              \
	X(rx_drop_tcp_header, "TCP header length wrong")                                           \
	X(rx_drop_tcp_checksum, "TCP checksum wrong")                                              \
	X(rx_drop_tcp_options, "TCP options malformed")                                            \
	X(rx_drop_tcp_no_conn, "TCP segment for no connection, answered with RST")                 \
	X(rx_drop_tcp_flags, "TCP flags that no state accepts")                                    \
	X(rx_drop_tcp_paws, "TCP timestamp from the past (PAWS)")                                  \
	X(rx_drop_tcp_window, "TCP segment outside the window")                                    \
	X(rx_drop_tcp_ack, "TCP acknowledgement not acceptable")                                   \
	X(rx_drop_tcp_rst, "TCP RST not exactly in order")                                         \
	X(rx_drop_tcp_memory, "TCP payload past the connection's memory")                          \
	X(rx_drop_tcp_ooo_ranges, "TCP payload past the out-of-order intervals")                   \
	X(rx_drop_tcp_closed_data, "TCP data after the reader let go")                             \
	X(rx_drop_tcp_backlog, "SYN dropped: no room for a half-open connection")                  \
	X(tcp_backlog_evictions, "half-open connections that gave way")                            \
	X(tcp_cookies_sent, "SYNs answered with a cookie")                                         \
	X(tcp_cookies_accepted, "connections made from a cookie")                                  \
	X(tcp_cookies_refused, "ACKs whose cookie was none of ours")                               \
	X(tcp_drop_listener, "SYNs dropped: bounds of the listener")                               \
	X(tcp_drop_source_half_open, "SYNs dropped: handshakes of the source's prefix")            \
	X(tcp_drop_source_connections, "SYNs dropped: connections of the source's prefix")         \
	X(tcp_drop_connections, "connections refused: connections_max")                            \
	X(tcp_opens_active, "connections opened by us")                                            \
	X(tcp_opens_passive, "connections accepted")                                               \
	X(tcp_accept_refused, "connections refused by the layer above")                            \
	X(tcp_connect_failed, "active opens that failed")                                          \
	X(tcp_closed, "connections closed in order")                                               \
	X(tcp_resets_received, "connections reset by the peer")                                    \
	X(tcp_resets_sent, "RST segments sent")                                                    \
	X(tcp_timeouts, "connections given up by a timeout")                                       \
	X(tcp_time_wait_evictions, "TIME_WAIT records that gave way")                              \
	X(tcp_time_wait_reused, "TIME_WAIT records replaced by a new SYN")                         \
	X(tcp_challenge_acks, "challenge ACKs sent")                                               \
	X(tcp_retransmits, "segments retransmitted")                                               \
	X(tcp_rto, "retransmission timeouts")                                                      \
	X(tcp_fast_retransmits, "fast recoveries entered")                                         \
	X(tcp_zero_window_probes, "zero-window probes sent")                                       \
	X(tcp_keepalives, "keepalive probes sent")                                                 \
	X(tcp_delayed_acks, "ACKs sent by the delayed-ACK timer")                                  \
	X(tcp_ooo_segments, "segments out of order")                                               \
	X(tcp_duplicate_segments, "segments wholly received before")                               \
	X(tcp_compactions, "payloads copied together to pin fewer mbufs")                          \
	X(tcp_sack_received, "segments with SACK blocks received")                                 \
	X(tcp_sack_sent, "segments with SACK blocks sent")                                         \
	X(tcp_dsack_sent, "duplicates reported by D-SACK")                                         \
	X(tcp_dsack_received, "duplicates that the peer reported")                                 \
	X(tcp_rack_losses, "times that RACK found something lost")                                 \
	X(tcp_loss_probes, "tail loss probes sent")                                                \
	X(tcp_paced, "times that the rest of a window waited for its pace")                        \
	X(tcp_flights_blind, "flights repaired without SACK: nothing left to note them in")        \
	X(tcp_ecn_marks_received, "segments that a router marked")                                 \
	X(tcp_ecn_reductions, "windows reduced because the peer saw marks")

COUNTER_DECLARE(net, NET_COUNTERS); /* struct net_counters, net_counter_desc */

const struct net_counters *net_counters_of(const struct net_stack *stack);

/* Gauges, for tests and telemetry; the owning thread only. */
struct net_gauges {
	uint32_t connections, half_open, time_wait, ooo_mbufs, timers;
};
struct net_gauges net_gauges_of(const struct net_stack *stack);

#endif
