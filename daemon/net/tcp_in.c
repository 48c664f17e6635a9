/* Segments in: header checks, demultiplexing, and the checks of RFC 9293 s3.10.7 in their order.
 *
 * tcp_slow() gathers all that is unusual into one test. What passes is an acceptable ACK, perhaps
 * with the next bytes in order, on an established connection with nothing out of order: it goes
 * straight to tcp_in_ack() and tcp_in_data(). All else takes in_checked(), which would treat the
 * ordinary segment the same (NET_FORCE_SLOW lets tests compare them).
 */
#include "daemon/net/net_internal.h"

#include <string.h>

/* RFC 5961 s7: answers to segments that may be forged are limited, for each connection apart (a
 * limit that all share can be measured by an attacker). */
#define CHALLENGE_INTERVAL_MS 500u

/* Answers to old segments without data: so that two sides that lost track of each other do not
 * answer each other's answers as fast as the wire goes. */
#define OLD_INTERVAL_MS 50u

/* RFC 7323 s5.5: an older ts_recent says nothing. */
#define PAWS_IDLE_S (24u * 86400)

static void in_conn(struct tcp_conn *c, struct tcp_segment *seg);

static bool answer_allowed(struct tcp_conn *c, uint32_t interval_ms)
{
	uint32_t now_ms = c->stack->now_ms | 1; /* 0: never */

	if (c->challenge_ms != 0 && now_ms - c->challenge_ms < interval_ms)
		return false;
	c->challenge_ms = now_ms;
	return true;
}

void tcp_challenge_ack(struct tcp_conn *c)
{
	if (!answer_allowed(c, CHALLENGE_INTERVAL_MS))
		return;
	COUNT(c->stack, tcp_challenge_acks);
	tcp_ack_send(c);
}

static void answer_soon(struct tcp_conn *c)
{
	c->flags |= TCPF_ACK_NOW;
	tcp_mark_dirty(c);
}

/* ---- checks --------------------------------------------------------------------------------- */

/* An unacceptable segment: answer, so that a peer that lost its way (or a probe) learns where we
 * are. Without data or FIN it may be forged or an echo of our own answer. */
static void answer_unacceptable(struct tcp_conn *c, const struct tcp_segment *seg)
{
	bool carries = seg->len > 0 || (seg->flags & TCP_FIN) != 0;

	/* A SYN: RFC 5961 s4.2, whatever else it says. */
	if ((seg->flags & TCP_SYN) != 0 || (!carries && !seq_lt(seg->seq, c->rcv_nxt)))
		tcp_challenge_ack(c);
	else if (carries || answer_allowed(c, OLD_INTERVAL_MS)) /* a keepalive or a probe */
		answer_soon(c);
}

/* May the segment's timestamp follow ts_recent? */
static bool ts_follows(const struct tcp_conn *c, const struct tcp_segment *seg)
{
	return !seq_lt(seg->opt.ts_value, c->ts_recent) ||
	       c->stack->now_s - c->ts_recent_s > PAWS_IDLE_S;
}

/* RFC 7323 s5.3 (R1). */
static bool paws_ok(struct tcp_conn *c, const struct tcp_segment *seg)
{
	if ((c->flags & TCPF_TIMESTAMPS) == 0 || (seg->flags & TCP_RST) != 0)
		return true;
	if (!seg->opt.has_timestamp) { /* s3.2: dropped in silence, but for a peer's new life */
		if (seg->flags & TCP_SYN)
			return true;
		COUNT(c->stack, rx_drop_tcp_paws);
		return false;
	}
	if (ts_follows(c, seg))
		return true;
	COUNT(c->stack, rx_drop_tcp_paws);
	answer_unacceptable(c, seg);
	return false;
}

/* RFC 2883 s4: the next ACK tells which bytes came twice. */
static void dsack_note(struct tcp_conn *c, uint32_t start, uint32_t end)
{
	if ((c->flags & TCPF_SACK) != 0 && start != end)
		tcp_dsack_note(c, start, end);
}

/* First check: is any of it in the window? Cuts off what is not. */
static bool window_ok(struct tcp_conn *c, struct tcp_segment *seg)
{
	uint32_t edge = c->rcv_adv;
	uint32_t space = seg->len + ((seg->flags & TCP_FIN) != 0);
	uint32_t end = seg->seq + space;

	if (space == 0) {
		/* The right edge itself too: a peer that filled the window acks from there. */
		if (seq_ge(seg->seq, c->rcv_nxt) && seq_le(seg->seq, edge))
			return true;
	} else if (seq_gt(end, c->rcv_nxt) && seq_lt(seg->seq, edge)) {
		if (seq_lt(seg->seq, c->rcv_nxt)) { /* the front is old */
			uint32_t old = c->rcv_nxt - seg->seq;

			if (seg->payload != NULL && old < seg->len) {
				seg->payload = net_mbuf_skip(seg->payload, old);
			} else if (seg->payload != NULL) {
				rte_pktmbuf_free(seg->payload);
				seg->payload = NULL;
			}
			dsack_note(c, seg->seq, seg->seq + (old < seg->len ? old : seg->len));
			seg->len -= old < seg->len ? old : seg->len;
			seg->seq = c->rcv_nxt;
			answer_soon(c); /* our ACK of it was lost, perhaps */
		}
		if (seq_gt(end, edge)) { /* the end is past the window */
			uint32_t len = edge - seg->seq;

			seg->flags &= (uint8_t)~TCP_FIN;
			if (len < seg->len) {
				net_mbuf_cut(seg->payload, len);
				seg->len = len;
			}
			answer_soon(c); /* tells where the window ends */
		}
		return true;
	} else if (seg->seq == c->rcv_nxt && edge == c->rcv_nxt) {
		/* A probe of our closed window: its ACK counts, its data does not. */
		seg->flags &= (uint8_t)~TCP_FIN;
		seg->len = 0;
		if (seg->payload != NULL) {
			rte_pktmbuf_free(seg->payload);
			seg->payload = NULL;
		}
		answer_soon(c);
		return true;
	}
	if (space > 0 && seq_le(end, c->rcv_nxt)) {
		COUNT(c->stack, tcp_duplicate_segments);
		dsack_note(c, seg->seq, seg->seq + seg->len);
	} else {
		COUNT(c->stack, rx_drop_tcp_window);
	}
	answer_unacceptable(c, seg);
	return false;
}

/* Second check: RST, RFC 5961 s3.2. */
static void in_rst(struct tcp_conn *c, const struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;
	bool half_open = c->state == TCP_SYN_RECEIVED;

	if (seg->seq != c->rcv_nxt) {
		COUNT(s, rx_drop_tcp_rst);
		if (seq_in(seg->seq, c->rcv_nxt, c->rcv_adv - c->rcv_nxt))
			tcp_challenge_ack(c);
		return;
	}
	COUNT(s, tcp_resets_received);
	if (half_open && (c->flags & TCPF_PASSIVE) == 0)
		COUNT(s, tcp_connect_failed);
	tcp_conn_end(c, half_open ? -SPLIT_E_NET_REFUSED : -SPLIT_E_NET_RESET);
}

/* Not the ACK of our SYN-ACK. Its SYN may have been answered before, with a cookie: the connection
 * that the peer believes in is that one. */
static void handshake_other(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct net_addr local = c->key.local, remote = c->key.remote;
	struct net_stack *s = c->stack;
	struct tcp_cookie cookie;

	if ((c->flags & TCPF_PASSIVE) == 0 || !tcp_cookie_fresh(s)) {
		COUNT(s, rx_drop_tcp_ack);
		tcp_rst_reply(s, &local, &remote, seg);
		return;
	}
	if (!tcp_cookie_check(s, &local, &remote, seg, &cookie)) {
		COUNT(s, rx_drop_tcp_ack); /* its first bytes may come again */
		return;
	}
	tcp_conn_kill(c);
	c = tcp_in_listen(s, &local, &remote, seg, NULL);
	if (c != NULL)
		in_conn(c, seg);
}

/* Fifth check: the ACK. False if the segment goes no further. */
static bool in_ack_checked(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;

	if (c->state == TCP_SYN_RECEIVED) {
		if (seg->ack != c->opening.iss + 1) {
			handshake_other(c, seg);
			return false;
		}
		if (!tcp_in_established(c, seg))
			return false;
	}
	/* RFC 5961 s5.2: neither of the future nor older than any window. */
	if (seq_gt(seg->ack, c->snd_max) || seq_lt(seg->ack, c->snd_una - c->snd_wnd_max)) {
		COUNT(s, rx_drop_tcp_ack);
		tcp_challenge_ack(c);
		return false;
	}
	tcp_in_ack(c, seg);
	if (c->flags & TCPF_DEAD)
		return false;
	if (!tcp_fin_acked(c))
		return true;
	switch (c->state) {
	case TCP_FIN_WAIT_1:
		c->state = TCP_FIN_WAIT_2;
		tcp_life_update(c);
		return true;
	case TCP_CLOSING:
		c->state = TCP_TIME_WAIT;
		COUNT(s, tcp_closed);
		tcp_time_wait_enter(c);
		tcp_conn_end(c, 0);
		return false;
	case TCP_LAST_ACK:
		COUNT(s, tcp_closed);
		tcp_conn_end(c, 0);
		return false;
	default:
		return true;
	}
}

/* RFC 7323 s4.3 (2): only from a segment that begins at or before the last ACK sent, so that the
 * echo covers the delay of our ACK. */
static void ts_update(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint32_t last_ack = c->rcv_nxt - c->ack_due;

	if (seg->opt.has_timestamp && seq_le(seg->seq, last_ack) && ts_follows(c, seg)) {
		c->ts_recent = seg->opt.ts_value;
		c->ts_recent_s = c->stack->now_s;
	}
}

static void mark_received(struct tcp_conn *c)
{
	c->received_ms = c->stack->now_ms;
	c->keepalive_sent = 0;
}

/* ---- the generic way ------------------------------------------------------------------------ */

static __rte_noinline void in_checked(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;

	if (c->state == TCP_SYN_SENT) {
		tcp_in_syn_sent(c, seg);
		return;
	}
	if (c->state == TCP_SYN_RECEIVED && (seg->flags & (TCP_SYN | TCP_RST)) == TCP_SYN &&
	    seg->seq == c->opening.irs) {
		if ((seg->flags & TCP_ACK) == 0) {
			/* Our SYN-ACK was lost; the next one echoes the newer timestamp. */
			if ((c->flags & TCPF_TIMESTAMPS) != 0)
				ts_update(c, seg);
			tcp_syn_send(c);
			return;
		}
		/* Simultaneous open: the other side's SYN-ACK; its SYN is known. */
		seg->flags &= (uint8_t)~TCP_SYN;
		seg->seq++;
		seg->window = (uint16_t)(seg->window >> c->send_wscale); /* a SYN's is not scaled */
	}
	if (seg->flags & TCP_RST) {
		in_rst(c, seg);
		return;
	}
	if (!paws_ok(c, seg) || !window_ok(c, seg))
		return;
	mark_received(c);
	if (seg->flags & TCP_SYN) { /* RFC 5961 s4.2 */
		COUNT(s, rx_drop_tcp_flags);
		tcp_challenge_ack(c);
		return;
	}
	if ((seg->flags & TCP_ACK) == 0) {
		COUNT(s, rx_drop_tcp_flags);
		return;
	}
	if (c->flags & TCPF_TIMESTAMPS)
		ts_update(c, seg);
	if (c->flags & TCPF_ECN)
		tcp_ecn_in(c, seg);
	if (!in_ack_checked(c, seg))
		return;
	if (seg->len > 0)
		tcp_in_data(c, seg);
	if (c->flags & TCPF_DEAD)
		return;
	tcp_in_fin(c, seg);
}

/* ---- the ordinary way ----------------------------------------------------------------------- */

static bool tcp_slow(const struct tcp_conn *c, const struct tcp_segment *seg)
{
	bool timestamps = (c->flags & TCPF_TIMESTAMPS) != 0;

	return c->state != TCP_ESTABLISHED ||
	       (seg->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_CWR)) != TCP_ACK ||
	       seg->ecn == IP_ECN_CE || seg->seq != c->rcv_nxt ||
	       seg->len > c->rcv_adv - c->rcv_nxt || c->ooo != NULL ||
	       (c->flags & (TCPF_RECOVERY | TCPF_PERSIST | TCPF_FIN_RECEIVED | TCPF_ECE)) != 0 ||
	       seg->opt.sack_n != 0 || seg->opt.has_timestamp != timestamps ||
	       (timestamps && seq_lt(seg->opt.ts_value, c->ts_recent)) ||
	       !seq_in(seg->ack, c->snd_una, c->snd_max - c->snd_una + 1) ||
	       (c->stack->config.flags & NET_FORCE_SLOW) != 0;
}

static void in_conn(struct tcp_conn *c, struct tcp_segment *seg)
{
	if (unlikely(tcp_slow(c, seg))) {
		in_checked(c, seg);
		return;
	}
	if (c->flags & TCPF_TIMESTAMPS)
		ts_update(c, seg);
	mark_received(c);
	tcp_in_ack(c, seg);
	if (seg->len > 0 && (c->flags & TCPF_DEAD) == 0)
		tcp_in_data(c, seg);
}

/* ---- TIME_WAIT ------------------------------------------------------------------------------ */

static __rte_noinline void in_time_wait(struct net_stack *s, struct tcp_time_wait *tw,
					struct tcp_segment *seg)
{
	uint32_t space = seg->len + ((seg->flags & TCP_FIN) != 0);

	if (seg->flags & TCP_RST) { /* RFC 1337: must not cut it short */
		COUNT(s, rx_drop_tcp_rst);
		return;
	}
	if ((seg->flags & (TCP_SYN | TCP_ACK | TCP_FIN)) == TCP_SYN) {
		/* RFC 6191 s2: a new life, if its segments cannot be mistaken for old ones. */
		bool clocked = tw->timestamps && seg->opt.has_timestamp &&
			       seg->opt.ts_value != tw->ts_recent;
		bool newer = clocked ? seq_gt(seg->opt.ts_value, tw->ts_recent)
				     : seq_gt(seg->seq, tw->rcv_nxt);

		if (newer && tcp_listener_find(s, &tw->key.local) != NULL) {
			struct tcp_time_wait old = *tw;

			COUNT(s, tcp_time_wait_reused);
			tcp_time_wait_del(s, tw);
			tcp_in_listen(s, &old.key.local, &old.key.remote, seg, &old);
			return;
		}
	}
	if ((seg->flags & TCP_FIN) != 0 && seg->seq + space == tw->rcv_nxt) {
		/* Their FIN again: our ACK was lost. */
		tcp_time_wait_restart(s, tw);
		tcp_time_wait_ack(s, tw);
		return;
	}
	if (space == 0 && (seg->flags & TCP_SYN) == 0 && seg->seq == tw->rcv_nxt)
		return; /* an ACK that says nothing new */
	COUNT(s, rx_drop_tcp_window);
	if (tw->answered_ns == 0 || s->now_ns - tw->answered_ns >= CHALLENGE_INTERVAL_MS * MSEC_NS)
		tcp_time_wait_ack(s, tw);
}

/* ---- entry ---------------------------------------------------------------------------------- */

/* The fields of the header. False if it is to be dropped (counted). */
static bool segment_parse(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
			  struct tcp_segment *seg, uint32_t *header_out)
{
	const struct tcp_header *th = rte_pktmbuf_mtod_offset(m, const struct tcp_header *, offset);
	const uint8_t *options = (const uint8_t *)(th + 1);
	uint32_t header = (uint32_t)(th->offset >> 4) * 4;
	uint32_t options_len = header - (uint32_t)sizeof(*th);

	if (header < sizeof(*th) || offset + header > m->data_len || be16_get(th->src) == 0 ||
	    be16_get(th->dst) == 0) {
		COUNT(s, rx_drop_tcp_header);
		return false;
	}
	seg->payload = NULL;
	seg->seq = be32_get(th->seq);
	seg->ack = be32_get(th->ack);
	seg->window = be16_get(th->window);
	seg->flags = th->flags;
	seg->len = m->pkt_len - offset - header;
	*header_out = header;
	if (likely(options_len == 12 && be32_load(options) == 0x0101080a)) {
		/* NOP, NOP, timestamps: RFC 7323 appendix A */
		seg->opt.has_mss = seg->opt.has_wscale = seg->opt.sack_permitted = false;
		seg->opt.sack_n = 0;
		seg->opt.has_timestamp = true;
		seg->opt.ts_value = be32_load(options + 4);
		seg->opt.ts_echo = be32_load(options + 8);
		return true;
	}
	if (tcp_options_parse(options, options_len, &seg->opt) != 0) {
		COUNT(s, rx_drop_tcp_options);
		return false;
	}
	return true;
}

static void segment_dispatch(struct net_stack *s, const struct net_addr *local,
			     const struct net_addr *remote, struct tcp_segment *seg)
{
	struct tcp_time_wait *tw;
	struct flow_key key;
	struct tcp_conn *c;

	flow_key_make(&key, local, remote);
	c = tcp_table_find_rx(s, &key);
	if (likely(c != NULL)) {
		in_conn(c, seg);
		return;
	}
	tw = tcp_time_wait_find(s, &key);
	if (tw != NULL) {
		in_time_wait(s, tw, seg);
	} else if (seg->flags & TCP_RST) {
		COUNT(s, rx_drop_tcp_rst);
	} else if (s->reassembled) {
		COUNT(s, rx_drop_tcp_no_conn); /* it may be another worker's */
	} else {
		c = tcp_in_listen(s, local, remote, seg, NULL);
		if (c != NULL)
			in_conn(c, seg);
	}
}

/* `m` begins at its IP header. */
static uint8_t ip_ecn_of(const struct rte_mbuf *m, uint8_t family)
{
	const uint8_t *ip = rte_pktmbuf_mtod(m, const uint8_t *);

	return family == NET_FAMILY_IPV4 ? ip[1] & 3 : ip[1] >> 4 & 3; /* RFC 8200 s3 */
}

void tcp_rx(struct net_stack *s, struct rte_mbuf *m, uint32_t offset, const struct net_addr *src,
	    const struct net_addr *dst)
{
	struct net_addr local = *dst, remote = *src;
	const struct tcp_header *th;
	struct tcp_segment seg;
	uint32_t header;

	COUNT(s, rx_tcp_segments);
	if (unlikely(m->data_len < offset + sizeof(*th))) {
		COUNT(s, rx_drop_tcp_short);
		goto out;
	}
	if (unlikely(!net_l4_verify(s, m, offset, m->pkt_len - offset, src, dst, IP_PROTO_TCP))) {
		COUNT(s, rx_drop_tcp_checksum);
		goto out;
	}
	if (unlikely(!segment_parse(s, m, offset, &seg, &header)))
		goto out;
	seg.ecn = ip_ecn_of(m, src->family);
	th = rte_pktmbuf_mtod_offset(m, const struct tcp_header *, offset);
	remote.port = be16_get(th->src);
	local.port = be16_get(th->dst);
	if (seg.len > 0) {
		seg.payload = net_mbuf_skip(m, offset + header);
		m = NULL;
	}
	segment_dispatch(s, &local, &remote, &seg);
	if (unlikely(seg.payload != NULL))
		rte_pktmbuf_free(seg.payload);
out:
	rte_pktmbuf_free(m);
}
