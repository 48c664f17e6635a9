/* A TCP connection's state, and what is lent to it. Inside daemon/net; see net_internal.h.
 *
 * struct tcp_conn is what an idle connection costs, so it has no room for what can be known
 * otherwise or is needed only while something is under way: docs/NET.md, "What a connection costs".
 */
#ifndef SPLITD_DAEMON_NET_TCP_CONN_H
#define SPLITD_DAEMON_NET_TCP_CONN_H

#include "base/bits.h"
#include "base/list.h"
#include "base/wheel.h"
#include "daemon/net/net.h"
#include "daemon/net/tcp_opt.h"

/* Where packets to one destination go: a cache of the neighbour's answer. `generation` is the
 * stack's when it was filled; any change to any neighbour makes it stale. */
struct net_path {
	uint32_t generation;
	uint32_t expires_s; /* net_stack.now_s */
	uint8_t mac[6];
	bool fragmentable; /* packets may be fragmented on the way: no DF */
};

/* A connection's two ends: what is hashed and compared (member by member: padding). */
struct flow_key {
	struct net_addr local, remote;
};

/* One received segment, parsed into locals. `payload` is owned by whoever handles the segment and
 * set to NULL when passed on; it holds exactly `len` bytes, and is non-NULL only when len > 0. */
struct tcp_segment {
	struct rte_mbuf *payload;
	uint32_t seq, ack, len;
	uint16_t window; /* as it stands in the header */
	uint8_t flags;
	uint8_t ecn; /* enum ip_ecn, of the packet */
	struct tcp_options opt;
};

/* A position in the send queue: the mbuf that holds `seq` and those after. */
struct tcp_cursor {
	struct rte_mbuf *m;
	uint32_t seq; /* of m's first byte */
};

/* An out-of-order interval [start, end) and its bytes. */
struct tcp_range {
	struct list link;
	uint32_t start, end;
	struct rte_mbuf *head, *tail;
	uint32_t mbufs;
	uint32_t pinned;
	uint32_t stamp; /* of the newest segment in it, for the order of SACK blocks */
};

/* What a connection holds out of order: lent to it while there is any. tcp_data.c. */
struct tcp_ooo {
	struct list ranges; /* struct tcp_range, by start */
	uint32_t ranges_n, pinned, mbufs;
	uint32_t stamp;
};

/* tcp_sent.flags */
#define TCP_SENT_SACKED (1u << 0) /* the peer has it */
#define TCP_SENT_LOST   (1u << 1) /* to be sent again */
#define TCP_SENT_AGAIN  (1u << 2) /* was sent more than once */

/* Bytes [start, end) that left at one time. tcp_sack.c. */
struct tcp_sent {
	struct list link;
	uint32_t start, end;
	uint64_t xmit_ns;
	uint8_t flags;
};

/* What is under way and what is known of it: lent to a connection while a flight needs more than
 * one word for that (tcp_sack.c, tcp_rack.c, tcp_pace.c). */
struct tcp_flight {
	struct list sent; /* struct tcp_sent: [snd_una, snd_max) */
	uint32_t sent_n, sacked_bytes, lost_bytes;
	uint32_t rack_end, rack_fack;
	uint32_t reo_round; /* D-SACKs below it belong to one round trip */
	uint64_t rack_xmit_ns, rack_rtt_ns;
	uint64_t pace_ns;     /* when what was sent is through, at the rate of tcp_pace.c */
	uint64_t pace_due_ns; /* the timer's fourth deadline: more may go. TCP_NEVER: none waits */
	uint32_t prr_delivered, prr_out, prr_flight;
	bool fack;        /* rack_fack means something */
	bool dsack_round; /* reo_round does */
	bool own_used;
	struct tcp_cursor again; /* where retransmissions read */
	struct tcp_sent own;     /* the record that every flight can have */
};

struct tcp_conn;

/* Congestion control. All amounts in bytes. Called by loss detection, which is apart from it. */
struct tcp_cc_ops {
	const char *name;
	void (*init)(struct tcp_conn *c);
	/* New data acked outside of recovery. */
	void (*acked)(struct tcp_conn *c, uint32_t bytes, uint64_t now_ns);
	/* Loss found by duplicate ACKs or SACK: sets ssthresh. */
	void (*loss)(struct tcp_conn *c, uint64_t now_ns);
	/* Retransmission timeout: sets ssthresh and cwnd. */
	void (*timeout)(struct tcp_conn *c, uint64_t now_ns);
	/* Sending again after an idle time longer than the RTO. RFC 5681 s4.1. */
	void (*idle)(struct tcp_conn *c);
	/* The peer saw marks, for the first time in this window: sets ssthresh and cwnd. RFC 3168
	 * s6.1.2. */
	void (*marked)(struct tcp_conn *c, uint64_t now_ns);
	/* Every ACK of an ECN connection: how much it acknowledges, and whether it says marks.
	 * NULL: nothing to count. */
	void (*echo)(struct tcp_conn *c, uint32_t bytes, bool marks);
};

extern const struct tcp_cc_ops *const tcp_cc_table[]; /* by enum tcp_congestion */

/* RFC 9438 s4.1.2, in bytes. */
struct tcp_cubic {
	uint64_t epoch_ns; /* 0: the next ACK begins one */
	uint32_t w_max;    /* window before the last reduction */
	uint32_t w_prior;  /* cwnd_prior */
	uint32_t w_est;    /* what Reno would have */
	uint32_t k_us;     /* time to come back to w_max */
};

/* RFC 8257 s3.3. */
struct tcp_dctcp {
	uint32_t alpha;      /* of DCTCP_ALPHA_ONE */
	uint32_t window_end; /* of the observation window */
	uint32_t acked, marked;
};

/* Until a connection is established there is no congestion control. */
struct tcp_opening {
	union {
		struct list half_link; /* with TCPF_HALF_OPEN: on stack->half_open */
		uint64_t connect_ns;   /* active: the handshake's time limit; 0: half_open_ns */
	};
	uint32_t iss, irs;
};

/* tcp_conn.flags */
#define TCPF_PASSIVE      (1u << 0) /* came from a listener */
#define TCPF_ACCEPTED     (1u << 1) /* the layer above knows it: events may be given */
#define TCPF_ORPHAN       (1u << 2) /* tcp_close(): no events any more */
#define TCPF_FIN_QUEUED   (1u << 3) /* tcp_shutdown(): FIN follows the queue */
#define TCPF_FIN_SENT     (1u << 4)
#define TCPF_TIMESTAMPS   (1u << 5)
#define TCPF_SACK         (1u << 6)
#define TCPF_ACK_NOW      (1u << 7)
#define TCPF_WANT_WRITE   (1u << 8)
#define TCPF_RECOVERY     (1u << 9)  /* fast recovery, until snd_una >= recover */
#define TCPF_CWND_LIMITED (1u << 10) /* cwnd stopped the last output: only then may it grow */
#define TCPF_RTT_TIMED    (1u << 11) /* rtt_seq is being timed */
#define TCPF_NAGLE        (1u << 12)
#define TCPF_DIRTY        (1u << 13) /* on stack->dirty */
#define TCPF_DEAD         (1u << 14) /* on stack->dead */
#define TCPF_EOF_GIVEN    (1u << 15)
#define TCPF_FIN_RECEIVED (1u << 16) /* their FIN's place is known: fin_seq */
#define TCPF_PERSIST      (1u << 17) /* the rto timer probes a closed window */
#define TCPF_RECOVER_SET  (1u << 18) /* `recover` means something */
#define TCPF_WSCALE       (1u << 19) /* both sides scale windows */
#define TCPF_ECN          (1u << 20) /* both sides speak ECN */
#define TCPF_ECN_ASK      (1u << 21) /* SYN_SENT: our SYN asked for it; SYN_RECEIVED: theirs did */
#define TCPF_ECE          (1u << 22) /* our ACKs tell of a mark */
#define TCPF_CWR          (1u << 23) /* the next new segment tells that the window was reduced */
#define TCPF_ECN_REDUCED  (1u << 24) /* ecn_recover means something */
#define TCPF_TLP          (1u << 25) /* a loss probe is out: tlp_end */
#define TCPF_TLP_AGAIN    (1u << 26) /* it repeated old bytes */
#define TCPF_TLP_ACKED    (1u << 27) /* they were acknowledged; a D-SACK may follow */
#define TCPF_HALF_OPEN    (1u << 28) /* on stack->half_open */
#define TCPF_REO          (1u << 29) /* the rto timer waits for reordered segments */
#define TCPF_PTO          (1u << 30) /* the rto timer sends a loss probe */
#define TCPF_REORDERED    (1u << 31) /* reordering was seen */

/* tcp_conn.marks: more of them. */
#define TCPM_DSACK_SEEN (1u << 0) /* since the loss probe */
#define TCPM_BLIND      (1u << 1) /* no struct tcp_flight was to be had: repaired as without SACK */
#define TCPM_SOURCE     (1u << 2) /* its peer's prefix counts it */
#define TCPM_SYN_LOST   (1u << 3) /* RFC 6298 s5.7 */
#define TCPM_SHRUNK     (1u << 4) /* smaller segments are tried: pmtu.c */
#define TCPM_RAISED     (1u << 5) /* larger ones are */

/* A connection's times need no 64 bits. Both wrap; only differences mean anything.
 * _ms: of net_stack.now_ms, 49 days; _tick: TCP_TICK_NS each, 549 s, for round trips. */
#define TCP_TICK_SHIFT 7
#define TCP_TICK_NS    (UINT64_C(1) << TCP_TICK_SHIFT)

#define TCP_NEVER UINT64_MAX

/* Seven cache lines, and nothing else while a connection is idle: what is needed only while data is
 * under way or held out of order is lent (flight, ooo), what is known otherwise is not kept. */
struct tcp_conn {
	/* Line 0: demultiplexing. */
	struct flow_key key;
	struct tcp_conn *hash_next;
	struct net_stack *stack;
	uint32_t flags;
	uint8_t state; /* enum tcp_state */
	uint8_t send_wscale : 4, receive_wscale : 4;
	uint8_t dupacks;
	uint8_t marks;

	/* Line 1: sequence numbers, RFC 9293 s3.3.1. */
	uint32_t rcv_nxt;
	uint32_t rcv_adv; /* right edge of the window as advertised; never moves left */
	uint32_t snd_una;
	uint32_t snd_nxt; /* next to send; goes back to snd_una on a timeout */
	uint32_t snd_max; /* highest ever sent + 1 */
	uint32_t snd_end; /* past the last queued byte; the FIN's number */
	uint32_t snd_wnd; /* scaled */
	uint32_t snd_wl1, snd_wl2;
	uint32_t snd_wnd_max;
	uint32_t cwnd, ssthresh;
	uint32_t ts_recent;
	uint32_t ts_offset;
	uint16_t mss;      /* payload of a full segment, options other than SACK taken off */
	uint16_t path_mss; /* from the path's MTU, as far as it is known */
	uint32_t ack_due;  /* bytes received since the last ACK sent */

	/* Line 2: queues. */
	struct rte_mbuf *sq_head, *sq_tail;
	struct rte_mbuf *cursor; /* where new segments read: the mbuf that holds cursor_seq */
	const struct tcp_events *events;
	void *context;
	uint32_t cursor_seq; /* of its first byte */
	uint32_t sq_seq;     /* of sq_head's first byte; at or before snd_una */
	uint32_t sq_pinned;
	uint32_t unconsumed;
	uint32_t delivered_pinned;
	uint16_t receive_mss; /* largest segment seen, for the delayed ACK */
	uint16_t peer_mss;    /* what the peer takes, without options: RFC 9293 s3.7.1 */

	/* Line 3: the timer, and what it is for (pacing too): tcp_timer.c. TCP_NEVER: not wanted.
	 */
	struct wheel_timer timer;
	uint64_t rto_due_ns;  /* retransmission, SYN, probes, persist */
	uint64_t ack_due_ns;  /* delayed ACK */
	uint64_t life_due_ns; /* handshake, FIN_WAIT_2, orphan, keepalive */

	/* Line 4. */
	struct list dirty_link;    /* stack->dirty or stack->dead */
	struct tcp_flight *flight; /* NULL: what is under way left at sent_tick, and is whole */
	struct tcp_ooo *ooo;       /* NULL: nothing is held out of order */
	uint32_t srtt_ticks, rttvar_ticks;
	uint32_t rtt_seq, rtt_sent_tick; /* the segment that is timed */
	uint32_t sent_tick;              /* when the newest segment of data left */
	uint32_t sent_ms;
	uint32_t received_ms;
	uint8_t backoff;  /* doublings of the timeout, or of the time between probes */
	uint8_t timeouts; /* retransmission timeouts since snd_una moved */
	uint8_t keepalive_sent;
	uint8_t congestion; /* enum tcp_congestion */

	/* Line 5: congestion, the path. */
	union {
		struct tcp_opening opening; /* state <= TCP_SYN_RECEIVED */
		struct tcp_cubic cubic;
		struct tcp_dctcp dctcp;
	};
	struct net_path path;
	uint32_t recover;
	uint32_t cwnd_acked;  /* congestion avoidance's byte count */
	uint32_t ecn_recover; /* marks below it are answered for */
	uint32_t tlp_end;
	uint32_t dsack_start, dsack_end; /* a duplicate to report; equal: none */

	/* Line 6: seldom used. */
	uint64_t bytes_sent, bytes_received;
	uint32_t progress_ms; /* snd_una moved, or the queue stopped being empty */
	uint32_t min_rtt_ticks, min_rtt_next_ticks, min_rtt_at_ms;
	uint32_t ts_recent_s; /* of net_stack.now_s */
	uint32_t challenge_ms;
	uint32_t fin_seq;
	uint32_t write_room;                    /* with TCPF_WANT_WRITE: how much */
	uint32_t keepalive_ms, user_timeout_ms; /* UINT32_MAX at most; 0: none */
	uint32_t retransmits;
	uint8_t reo_mult, reo_persist;
	uint16_t listener; /* index in stack->listener_pool, plus one; 0: none (any more) */
} cache_aligned;

_Static_assert(offsetof(struct tcp_conn, rcv_nxt) == 64, "line 1 begins at rcv_nxt");
_Static_assert(offsetof(struct tcp_conn, sq_head) == 128, "line 2 begins at sq_head");
_Static_assert(offsetof(struct tcp_conn, timer) == 192, "line 3 begins at timer");
_Static_assert(offsetof(struct tcp_conn, dirty_link) == 256, "line 4 begins at dirty_link");
_Static_assert(offsetof(struct tcp_conn, cubic) == 320, "line 5 begins at cubic");
_Static_assert(offsetof(struct tcp_conn, bytes_sent) == 384, "line 6 begins at bytes_sent");
/* docs/NET.md, "What a connection costs": with its places in the tables at most 512. */
_Static_assert(sizeof(struct tcp_conn) == 448, "an idle connection");

#endif
