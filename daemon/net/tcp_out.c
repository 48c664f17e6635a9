/* Building and sending segments. RFC 9293 s3.8.6.2 (silly windows), s3.7.4 (Nagle).
 *
 * The send queue is a list of the payload mbufs as the layer above gave them. A segment is an mbuf
 * of our own with the headers, and behind it either a copy of the payload (when it is small or in
 * many pieces) or indirect mbufs attached to the queue's. An attached mbuf holds a reference to the
 * room, so a retransmission while the device still holds the first transmission shares bytes that
 * nobody writes; headers are never shared. The queue's mbufs are freed when acked, their rooms when
 * the last device is done with them.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

#include "daemon/net/cksum.h"

/* More pieces than this in one segment are copied together, or the segment ends there. A jumbo
 * segment, which no mbuf may hold, has more. */
#define PIECES_MAX   6
#define PIECE_USEFUL 512
/* Of a large segment, which is cut on the way (NET_TX_TSO): its mbufs and its bytes. */
#define BULK_PIECES_MAX 64
#define BULK_BYTES_MAX  (UINT16_MAX - 40 - 60)

/* ---- window --------------------------------------------------------------------------------- */

uint32_t tcp_window_free(const struct tcp_conn *c)
{
	uint32_t limit = c->stack->config.tcp.receive_buffer, pinned_max = 2 * limit;
	uint32_t bytes = c->unconsumed < limit ? limit - c->unconsumed : 0;
	uint32_t pinned =
		c->delivered_pinned < pinned_max ? (pinned_max - c->delivered_pinned) / 2 : 0;

	return bytes < pinned ? bytes : pinned;
}

static uint32_t window_step(const struct tcp_conn *c)
{
	uint32_t half = c->stack->config.tcp.receive_buffer / 2;

	uint32_t mss = tcp_mss_limit(c->stack, &c->key.local);

	return half < mss ? half : mss;
}

bool tcp_window_update_due(const struct tcp_conn *c)
{
	uint32_t promised = c->rcv_adv - c->rcv_nxt;
	uint32_t free = tcp_window_free(c);

	if (c->state < TCP_ESTABLISHED || free <= promised)
		return false;
	/* A sender that is nearly stopped learns of each useful step, another in quarters. */
	if (promised < 2 * tcp_mss_limit(c->stack, &c->key.local))
		return free - promised >= window_step(c);
	return free - promised >= c->stack->config.tcp.receive_buffer / 4;
}

/* The window field, moving rcv_adv: never to the left (RFC 9293 s3.8.6), and to the right only by a
 * useful step (s3.8.6.2.2). */
static uint16_t window_field(struct tcp_conn *c)
{
	uint32_t promised = c->rcv_adv - c->rcv_nxt;
	uint32_t window = tcp_window_free(c);
	uint32_t field;

	if (window < promised || window - promised < window_step(c))
		window = promised;
	field = window >> c->receive_wscale;
	if (field << c->receive_wscale < promised)
		field++;
	if (field > UINT16_MAX)
		field = UINT16_MAX;
	if (field << c->receive_wscale > promised)
		c->rcv_adv = c->rcv_nxt + (field << c->receive_wscale);
	return (uint16_t)field;
}

/* ---- headers -------------------------------------------------------------------------------- */

/* What a segment says besides its payload. */
struct tcp_words {
	uint32_t seq, ack;
	uint16_t window;
	uint8_t flags;
	enum ip_ecn ecn;
};

/* Put the header in front of `m`'s payload, checksum it and hand it to IP. */
static void segment_finish(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *local,
			   const struct net_addr *remote, const struct tcp_words *w,
			   const struct tcp_options *o, struct net_path *path)
{
	uint8_t options[TCP_OPTIONS_BYTES_MAX];
	size_t options_len = tcp_options_write(options, o);
	struct tcp_header *th;

	COUNT_N(s, tx_tcp_segments, net_tso_pieces(m, m->pkt_len));
	th = net_mbuf_prepend(m, (uint16_t)(sizeof(*th) + options_len));
	th->src = be16_make(local->port);
	th->dst = be16_make(remote->port);
	th->seq = be32_make(w->seq);
	th->ack = be32_make(w->ack);
	th->offset = (uint8_t)((sizeof(*th) + options_len) / 4 << 4);
	th->flags = w->flags;
	th->window = be16_make(w->window);
	th->urgent = be16_make(0);
	memcpy(th + 1, options, options_len);
	m->l4_len = (sizeof(*th) + options_len) & 0xff;
	net_l4_checksum(s, m, &th->checksum, local, remote, IP_PROTO_TCP);
	net_ip_output(s, m, local, remote, IP_PROTO_TCP, w->ecn, path);
}

static bool sack_wanted(const struct tcp_conn *c)
{
	return (c->ooo != NULL || c->dsack_start != c->dsack_end) && (c->flags & TCPF_SACK) != 0;
}

/* The blocks that go behind `payload` bytes: what was cut to a full segment before the peer's data
 * had a hole (a retransmission) leaves no room for them, and the next bare ACK has it. */
static unsigned sack_fill(const struct tcp_conn *c, struct tcp_sack_block *blocks, uint32_t payload)
{
	unsigned room = tcp_options_sack_room((c->flags & TCPF_TIMESTAMPS) != 0);
	uint32_t spare = payload < c->mss ? c->mss - payload : 0;
	uint32_t fit = spare > 4 ? (spare - 4) / 8 : 0;

	room = fit < room ? fit : room;
	return room == 0 ? 0 : tcp_sack_blocks(c, blocks, room);
}

/* As above for a connection past its handshake; every segment carries the newest ACK and window. */
static void conn_segment_finish(struct tcp_conn *c, struct rte_mbuf *m, uint32_t seq, uint8_t flags,
				bool again)
{
	struct tcp_options o;
	struct tcp_words w;

	o.has_mss = o.has_wscale = o.sack_permitted = false;
	o.sack_n = 0;
	o.has_timestamp = (c->flags & TCPF_TIMESTAMPS) != 0;
	o.ts_value = tcp_ts_now(c);
	o.ts_echo = c->ts_recent;
	if (unlikely(sack_wanted(c)))
		o.sack_n = (uint8_t)sack_fill(c, o.sack, m->pkt_len);
	if (unlikely(o.sack_n > 0)) {
		COUNT(c->stack, tcp_sack_sent);
		if (c->dsack_start != c->dsack_end)
			COUNT(c->stack, tcp_dsack_sent);
		c->dsack_end = c->dsack_start;
	}
	w.seq = seq;
	w.ack = c->rcv_nxt;
	w.flags = flags | TCP_ACK;
	w.ecn = IP_ECN_NOT;
	if (c->flags & TCPF_ECN) /* RFC 3168 s6.1.5, s6.1.6: not of what is repeated or probes */
		w.flags |=
			tcp_ecn_out(c, m->pkt_len, again || (c->flags & TCPF_PERSIST) != 0, &w.ecn);
	w.window = window_field(c);
	c->ack_due = 0;
	c->flags &= ~TCPF_ACK_NOW;
	tcp_ack_disarm(c);
	segment_finish(c->stack, m, &c->key.local, &c->key.remote, &w, &o, &c->path);
}

/* Sequence number of a segment without data: the highest sent, but within the peer's window, or it
 * would not look at it. */
static uint32_t bare_seq(const struct tcp_conn *c)
{
	uint32_t edge = c->snd_una + c->snd_wnd;

	return seq_le(c->snd_max, edge) ? c->snd_max : edge;
}

void tcp_ack_send(struct tcp_conn *c)
{
	struct rte_mbuf *m = net_mbuf_get(c->stack);

	if (m == NULL) {
		c->flags |= TCPF_ACK_NOW;
		tcp_mark_dirty(c);
		return;
	}
	conn_segment_finish(c, m, bare_seq(c), 0, false);
}

void tcp_keepalive_send(struct tcp_conn *c)
{
	struct rte_mbuf *m = net_mbuf_get(c->stack);

	if (m != NULL)
		conn_segment_finish(c, m, c->snd_una - 1, 0, true);
}

void tcp_syn_send(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;
	const struct tcp_config *t = &s->config.tcp;
	bool syn_ack = c->state == TCP_SYN_RECEIVED;
	uint32_t window = t->receive_buffer < UINT16_MAX ? t->receive_buffer : UINT16_MAX;
	struct tcp_options o = {0};
	struct tcp_words w = {.seq = c->opening.iss, .flags = TCP_SYN, .window = (uint16_t)window};
	struct rte_mbuf *m = net_mbuf_get(s);
	bool first = c->snd_max == c->opening.iss;

	if (!first)
		c->flags &= ~TCPF_RTT_TIMED;
	else if (m != NULL) {
		c->flags |= TCPF_RTT_TIMED;
		c->rtt_seq = c->opening.iss + 1;
		c->rtt_sent_tick = s->now_tick;
	}
	c->snd_nxt = c->opening.iss + 1;
	c->snd_max = c->opening.iss + 1;
	tcp_rto_start(c);
	if (m == NULL)
		return; /* the timer sends it again */
	o.has_mss = true;
	o.mss = (uint16_t)tcp_mss_limit(s, &c->key.local);
	o.has_timestamp = syn_ack ? (c->flags & TCPF_TIMESTAMPS) != 0 : t->timestamps;
	o.ts_value = tcp_ts_now(c);
	o.sack_permitted = syn_ack ? (c->flags & TCPF_SACK) != 0 : t->sack;
	o.has_wscale = syn_ack ? (c->flags & TCPF_WSCALE) != 0 : t->window_scaling;
	o.wscale = c->receive_wscale;
	if (syn_ack) {
		o.ts_echo = c->ts_recent;
		w.flags |= TCP_ACK | (c->flags & TCPF_ECN ? TCP_ECE : 0);
		w.ack = c->rcv_nxt;
		c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt + window);
	} else if (first && tcp_ecn_wanted(s)) {
		/* RFC 3168 s6.1.1.1: a network that drops such SYNs lets the next one pass. */
		w.flags |= TCP_ECE | TCP_CWR;
		c->flags |= TCPF_ECN_ASK;
	}
	tcp_ack_disarm(c);
	c->flags &= ~TCPF_ACK_NOW;
	segment_finish(s, m, &c->key.local, &c->key.remote, &w, &o, &c->path);
}

void tcp_syn_ack_stateless(struct net_stack *s, const struct net_addr *local,
			   const struct net_addr *remote, uint32_t iss, uint32_t ack, bool ece,
			   const struct tcp_options *o)
{
	uint32_t window = s->config.tcp.receive_buffer;
	struct tcp_words w = {.seq = iss, .ack = ack, .flags = TCP_SYN | TCP_ACK};
	struct rte_mbuf *m = net_mbuf_get(s);

	if (m == NULL)
		return;
	w.window = window < UINT16_MAX ? (uint16_t)window : UINT16_MAX;
	if (ece)
		w.flags |= TCP_ECE;
	segment_finish(s, m, local, remote, &w, o, NULL);
}

/* ---- RST ------------------------------------------------------------------------------------ */

void tcp_rst_send(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;
	struct rte_mbuf *m = net_mbuf_get(s);
	struct tcp_words w = {.seq = bare_seq(c), .ack = c->rcv_nxt, .flags = TCP_RST | TCP_ACK};
	struct tcp_options o = {0};

	if (m == NULL)
		return;
	COUNT(s, tcp_resets_sent);
	if (c->flags & TCPF_TIMESTAMPS) { /* RFC 7323 s3.2: may, and PAWS then lets it pass */
		o.has_timestamp = true;
		o.ts_value = tcp_ts_now(c);
		o.ts_echo = c->ts_recent;
	}
	segment_finish(s, m, &c->key.local, &c->key.remote, &w, &o, NULL);
}

void tcp_rst_reply(struct net_stack *s, const struct net_addr *local, const struct net_addr *remote,
		   const struct tcp_segment *seg)
{
	struct tcp_words w = {.flags = TCP_RST};
	struct tcp_options o = {0};
	struct rte_mbuf *m;

	if (seg->flags & TCP_RST)
		return;
	m = net_mbuf_get(s);
	if (m == NULL)
		return;
	if (seg->flags & TCP_ACK) {
		w.seq = seg->ack;
	} else {
		w.flags |= TCP_ACK;
		w.ack = seg->seq + seg->len + ((seg->flags & TCP_SYN) != 0) +
			((seg->flags & TCP_FIN) != 0);
	}
	COUNT(s, tcp_resets_sent);
	segment_finish(s, m, local, remote, &w, &o, NULL);
}

void tcp_time_wait_ack(struct net_stack *s, struct tcp_time_wait *tw)
{
	struct tcp_words w = {.seq = tw->snd_nxt, .ack = tw->rcv_nxt, .flags = TCP_ACK};
	struct tcp_options o = {0};
	struct rte_mbuf *m = net_mbuf_get(s);

	if (m == NULL)
		return;
	tw->answered_ns = s->now_ns;
	w.window = (uint16_t)(tw->rcv_wnd >> tw->receive_wscale);
	if (tw->timestamps) {
		o.has_timestamp = true;
		o.ts_value = s->now_ms + tw->ts_offset;
		o.ts_echo = tw->ts_recent;
	}
	segment_finish(s, m, &tw->key.local, &tw->key.remote, &w, &o, NULL);
}

/* ---- the send queue ------------------------------------------------------------------------- */

void tcp_queue_free_acked(struct tcp_conn *c)
{
	struct rte_mbuf *m = c->sq_head;
	uint32_t seq = c->sq_seq;

	while (m != NULL && seq_le(seq + m->data_len, c->snd_una)) {
		struct rte_mbuf *next = m->next;

		seq += m->data_len;
		m->next = NULL;
		c->sq_pinned -= tcp_mbuf_pinned(m);
		c->stack->sq_mbufs--;
		rte_pktmbuf_free_seg(m);
		m = next;
	}
	c->sq_head = m;
	c->sq_seq = seq;
	if (m == NULL)
		c->sq_tail = NULL;
	if (seq_lt(c->cursor_seq, seq) || m == NULL) {
		c->cursor = m;
		c->cursor_seq = seq;
	}
	if (c->flight != NULL && (seq_lt(c->flight->again.seq, seq) || m == NULL))
		c->flight->again = (struct tcp_cursor){m, seq};
}

void tcp_queue_free(struct tcp_conn *c)
{
	while (c->sq_head != NULL) {
		struct rte_mbuf *next = c->sq_head->next;

		c->sq_head->next = NULL;
		c->stack->sq_mbufs--;
		rte_pktmbuf_free_seg(c->sq_head);
		c->sq_head = next;
	}
	c->sq_tail = NULL;
	c->sq_pinned = 0;
}

/* Where to look for `seq`: new segments and repairs each go on where they were. */
static struct tcp_cursor cursor_of(const struct tcp_conn *c, bool again)
{
	if (!again)
		return (struct tcp_cursor){c->cursor, c->cursor_seq};
	return c->flight != NULL ? c->flight->again : (struct tcp_cursor){NULL, 0};
}

static void cursor_keep(struct tcp_conn *c, bool again, struct tcp_cursor cur)
{
	if (!again) {
		c->cursor = cur.m;
		c->cursor_seq = cur.seq;
	} else if (c->flight != NULL) {
		c->flight->again = cur;
	}
}

/* Move the cursor to the mbuf that holds `seq`, which is queued; returns the offset into it. */
static uint32_t cursor_seek(const struct tcp_conn *c, struct tcp_cursor *cur, uint32_t seq)
{
	if (cur->m == NULL || seq_lt(seq, cur->seq))
		*cur = (struct tcp_cursor){c->sq_head, c->sq_seq};
	while (seq_ge(seq, cur->seq + cur->m->data_len)) {
		cur->seq += cur->m->data_len;
		cur->m = cur->m->next;
	}
	return seq - cur->seq;
}

static struct rte_mbuf *piece_attach(struct net_stack *s, struct rte_mbuf *from, uint32_t off,
				     uint16_t len)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(s->pool);

	if (unlikely(m == NULL)) {
		COUNT(s, tx_drop_nomem);
		return NULL;
	}
	rte_pktmbuf_attach(m, from);
	m->data_off = (uint16_t)(m->data_off + off);
	m->data_len = len;
	m->pkt_len = len;
	return m;
}

/* Put `len` queued bytes from the cursor behind `head`; returns how many are there. */
static uint32_t payload_attach(struct tcp_conn *c, struct rte_mbuf *head,
			       const struct tcp_cursor *cur, uint32_t off, uint32_t len)
{
	struct rte_mbuf *from = cur->m, *tail = head;
	unsigned pieces = 0, pieces_max = RTE_MAX(PIECES_MAX, (unsigned)c->mss / PIECE_USEFUL);
	uint32_t done = 0;

	if (len > c->mss)
		pieces_max = BULK_PIECES_MAX;
	while (done < len && pieces < pieces_max) {
		uint32_t n = from->data_len - off < len - done ? from->data_len - off : len - done;
		struct rte_mbuf *m = piece_attach(c->stack, from, off, (uint16_t)n);

		if (m == NULL)
			break;
		tail->next = m;
		tail = m;
		head->nb_segs++;
		head->pkt_len += n;
		done += n;
		pieces++;
		off = 0;
		from = from->next;
	}
	if (unlikely(done < len && done > c->mss)) { /* in full segments */
		done -= done % c->mss;
		net_mbuf_cut(head, done);
	}
	return done;
}

static void payload_copy(struct rte_mbuf *head, const struct tcp_cursor *cur, uint32_t off,
			 uint32_t len)
{
	const struct rte_mbuf *from = cur->m;
	uint32_t done = 0;

	while (done < len) {
		uint32_t n = from->data_len - off < len - done ? from->data_len - off : len - done;

		memcpy(rte_pktmbuf_mtod_offset(head, char *, done),
		       rte_pktmbuf_mtod_offset(from, char *, off), n);
		done += n;
		off = 0;
		from = from->next;
	}
	head->data_len = (uint16_t)len;
	head->pkt_len = len;
}

static bool copy_is_better(const struct tcp_conn *c, const struct tcp_cursor *cur, uint32_t off,
			   uint32_t len, uint32_t room)
{
	const struct rte_mbuf *m = cur->m;
	uint32_t covered = m->data_len - off;
	unsigned pieces = 1;

	if (len > room)
		return false;
	if (len <= c->stack->config.tcp.copy_bytes_max)
		return true;
	while (covered < len && pieces <= PIECES_MAX) {
		m = m->next;
		covered += m->data_len;
		pieces++;
	}
	return pieces > PIECES_MAX;
}

uint32_t tcp_segment_send(struct tcp_conn *c, uint32_t seq, uint32_t len)
{
	struct net_stack *s = c->stack;
	bool again = seq_lt(seq, c->snd_max);
	struct rte_mbuf *m;
	uint8_t flags = 0;

	if (unlikely(!tcp_sent_room(c, seq)) || (m = net_mbuf_get(s)) == NULL)
		return 0;
	if (len > 0) {
		struct tcp_cursor cur = cursor_of(c, again);
		uint32_t off = cursor_seek(c, &cur, seq);

		cursor_keep(c, again, cur);
		if (copy_is_better(c, &cur, off, len, rte_pktmbuf_tailroom(m))) {
			payload_copy(m, &cur, off, len);
		} else {
			len = payload_attach(c, m, &cur, off, len);
			if (len == 0) {
				rte_pktmbuf_free(m);
				return 0;
			}
		}
		if (len > c->mss) {
			m->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
			m->tso_segsz = (uint16_t)c->mss;
		}
	}
	if (seq + len == c->snd_end) {
		flags = len > 0 ? TCP_PSH : 0;
		if ((c->flags & TCPF_FIN_QUEUED) != 0 &&
		    (len == 0 || seq_lt(seq + len, c->snd_una + c->snd_wnd))) {
			flags |= TCP_FIN;
			c->flags |= TCPF_FIN_SENT;
			len++;
		}
	}
	if (again) {
		COUNT(s, tcp_retransmits);
		c->retransmits++;
		if (seq_lt(seq, c->rtt_seq))
			c->flags &= ~TCPF_RTT_TIMED; /* Karn: its ACK would be ambiguous */
	} else {
		c->bytes_sent += len - ((flags & TCP_FIN) != 0);
		if ((c->flags & TCPF_RTT_TIMED) == 0) {
			c->flags |= TCPF_RTT_TIMED;
			c->rtt_seq = seq + len;
			c->rtt_sent_tick = s->now_tick;
		}
	}
	tcp_sent_note(c, seq, seq + len);
	if ((c->flags & TCPF_RECOVERY) != 0 && c->flight != NULL)
		c->flight->prr_out += len;
	c->snd_max = seq_max(c->snd_max, seq + len);
	c->sent_ms = s->now_ms;
	conn_segment_finish(c, m, seq, flags, again);
	return len;
}

void tcp_probe_send(struct tcp_conn *c)
{
	/* One byte (or the FIN) past the window; snd_nxt stays, so it is sent again as a whole when
	 * the window opens, unless the peer took it. */
	uint32_t seq = c->snd_una;

	tcp_segment_send(c, seq, seq_lt(seq, c->snd_end) ? 1 : 0);
	c->flags &= ~TCPF_RTT_TIMED;
}

/* Payload of a full segment now: SACK blocks take their part. */
static uint32_t segment_max(const struct tcp_conn *c)
{
	struct tcp_sack_block blocks[TCP_SACK_BLOCKS_MAX];
	unsigned room;

	if (likely(!sack_wanted(c)))
		return c->mss;
	room = tcp_options_sack_room((c->flags & TCPF_TIMESTAMPS) != 0);
	return c->mss - (4 + 8 * tcp_sack_blocks(c, blocks, room));
}

bool tcp_override_send(struct tcp_conn *c)
{
	uint32_t left = seq_lt(c->snd_una, c->snd_end) ? c->snd_end - c->snd_una : 0;
	uint32_t len = segment_max(c), sent;

	if (len > c->snd_wnd)
		len = c->snd_wnd;
	sent = tcp_segment_send(c, c->snd_una, len < left ? len : left);
	if (sent == 0)
		return false;
	c->snd_nxt = c->snd_una + sent;
	tcp_rto_start(c);
	return true;
}

/* ---- output --------------------------------------------------------------------------------- */

enum stop { STOP_DONE, STOP_WINDOW, STOP_CWND, STOP_NAGLE, STOP_DEVICE, STOP_PACE };

/* Whether `len` of `available` bytes may go as one segment. RFC 9293 s3.8.6.2.1. */
static bool segment_worth(const struct tcp_conn *c, uint32_t len, uint32_t available, uint32_t mss)
{
	if (len >= mss || seq_lt(c->snd_nxt, c->snd_max))
		return true;
	if (len == available)
		return true;
	return len >= c->snd_wnd_max / 2 && len > 0;
}

static bool nagle_holds(const struct tcp_conn *c, uint32_t len, uint32_t mss)
{
	return (c->flags & (TCPF_NAGLE | TCPF_FIN_QUEUED)) == TCPF_NAGLE && len < mss &&
	       c->snd_max != c->snd_una && seq_ge(c->snd_nxt, c->snd_max);
}

/* Send again what is lost. */
static enum stop output_lost(struct tcp_conn *c, uint32_t mss, uint32_t *pipe)
{
	struct tcp_sack_block hole;

	while (tcp_sent_first_lost(c, c->snd_nxt, &hole)) {
		uint32_t len = hole.end - hole.start < mss ? hole.end - hole.start : mss;
		uint32_t sent;

		if (seq_ge(hole.start, c->snd_una + c->snd_wnd))
			return STOP_WINDOW;
		if (*pipe + len > c->cwnd)
			return STOP_CWND;
		if (net_tx_full(c->stack))
			return STOP_DEVICE;
		/* A hole may end in the FIN. */
		if (seq_gt(hole.start + len, c->snd_end))
			len = c->snd_end - hole.start;
		sent = tcp_segment_send(c, hole.start, len);
		if (sent == 0)
			return STOP_DEVICE;
		*pipe += sent;
	}
	return STOP_DONE;
}

/* How much goes as one where full segments of `mss` are cut on the way: of new bytes that carry
 * nothing a piece must not repeat (CWR) or has no room for (SACK). */
static uint32_t segment_bulk(const struct tcp_conn *c, uint32_t mss, uint32_t bytes)
{
	uint32_t most = mss * NET_TSO_SEGMENTS;

	if ((c->stack->config.flags & NET_TX_TSO) == 0 || bytes < 2 * mss || mss != c->mss ||
	    (c->flags & TCPF_CWR) != 0 || seq_lt(c->snd_nxt, c->snd_max))
		return mss;
	most = most < BULK_BYTES_MAX ? most : BULK_BYTES_MAX;
	bytes = bytes < most ? bytes : most;
	return bytes - bytes % mss;
}

/* Send from snd_nxt on, as far as both windows and `room`, what pacing lets go, reach. `inflight`
 * counts against cwnd. */
static enum stop output_new(struct tcp_conn *c, uint32_t mss, uint32_t inflight, uint32_t room)
{
	uint32_t cwnd = c->cwnd;

	if (c->dupacks > 0 && c->dupacks < 3 && (c->flags & TCPF_RECOVERY) == 0)
		cwnd += c->dupacks * c->mss; /* limited transmit, RFC 3042 */
	while (tcp_send_pending(c)) {
		uint32_t edge = c->snd_una + c->snd_wnd;
		uint32_t available, window, len, sent;

		if (unlikely(tcp_sacked(c) > 0 && seq_lt(c->snd_nxt, c->snd_max))) {
			c->snd_nxt = tcp_sack_skip(c, c->snd_nxt);
			if (!tcp_send_pending(c))
				break;
		}
		available = c->snd_end - c->snd_nxt;
		window = seq_lt(c->snd_nxt, edge) ? edge - c->snd_nxt : 0;
		len = available < mss ? available : mss;
		if (len > window)
			len = window;
		if (window == 0 || !segment_worth(c, len, available, mss))
			return STOP_WINDOW;
		if (inflight + len > cwnd)
			return STOP_CWND;
		if (unlikely(len > room))
			return STOP_PACE;
		if (nagle_holds(c, len, mss))
			return STOP_NAGLE;
		if (net_tx_full(c->stack))
			return STOP_DEVICE;
		if (len == mss)
			len = segment_bulk(c, mss,
					   RTE_MIN(RTE_MIN(available, window),
						   RTE_MIN(cwnd - inflight, room)));
		sent = tcp_segment_send(c, c->snd_nxt, len);
		if (sent == 0)
			return STOP_DEVICE;
		c->snd_nxt += sent;
		inflight += sent;
		room -= room != UINT32_MAX ? RTE_MIN(sent, room) : 0;
	}
	return STOP_DONE;
}

/* Send new bytes, as pacing lets them. */
static enum stop output_paced(struct tcp_conn *c, uint32_t mss, uint32_t inflight)
{
	uint32_t room = tcp_pace_room(c), was = c->snd_nxt;
	enum stop stop = output_new(c, mss, inflight, room);

	if (likely(room == UINT32_MAX && c->flight == NULL))
		return stop;
	if (stop == STOP_PACE && !(tcp_flight_spare(c) && tcp_flight_borrow(c)))
		return output_new(c, mss, inflight + (c->snd_nxt - was), UINT32_MAX);
	tcp_pace_sent(c, room, c->snd_nxt - was, stop == STOP_PACE);
	return stop;
}

static void output_data(struct tcp_conn *c)
{
	enum stop stop = STOP_DONE;
	uint32_t inflight, mss;

	if (unlikely(c->path_mss < tcp_mss_limit(c->stack, &c->key.local)) &&
	    c->snd_max == c->snd_una)
		pmtu_raise(c);
	mss = segment_max(c);
	if (c->snd_max == c->snd_una && tcp_since_ns(c, c->sent_ms) > tcp_rto_ns(c))
		tcp_cc(c)->idle(c);
	c->flags &= ~TCPF_CWND_LIMITED;
	if (tcp_scored(c)) {
		inflight = tcp_pipe(c);
		stop = output_lost(c, mss, &inflight);
	} else {
		inflight = c->snd_nxt - c->snd_una;
	}
	if (stop == STOP_DONE)
		stop = output_paced(c, mss, inflight);
	/* What waits for its pace uses the window, if there is enough of it. */
	if (stop == STOP_CWND || (stop == STOP_PACE && c->snd_end - c->snd_una > c->cwnd))
		c->flags |= TCPF_CWND_LIMITED;
	if (stop == STOP_DEVICE)
		tcp_mark_dirty(c);
	if (c->snd_nxt == c->snd_una && stop == STOP_WINDOW)
		tcp_rto_persist(c); /* also where a window closed over what is unacked */
	else if (c->snd_max != c->snd_una)
		tcp_rto_start(c);
}

void tcp_output(struct tcp_conn *c)
{
	if (c->state <= TCP_SYN_RECEIVED) {
		if (c->state != TCP_CLOSED && c->snd_max == c->opening.iss)
			tcp_syn_send(c);
		else if (c->state == TCP_SYN_RECEIVED && (c->flags & TCPF_ACK_NOW) != 0)
			tcp_ack_send(c); /* something outside of the window came */
		return;
	}
	if (unlikely(c->flags & TCPF_WANT_WRITE)) {
		tcp_writable_check(c);
		if (c->flags & TCPF_DEAD)
			return;
	}
	if (tcp_send_pending(c) || (c->flags & TCPF_RECOVERY) != 0 || tcp_lost(c) > 0)
		output_data(c);
	if ((c->flags & TCPF_ACK_NOW) != 0 || (c->ack_due > 0 && c->ack_due >= 2 * c->receive_mss))
		tcp_ack_send(c);
	else if (c->ack_due > 0)
		tcp_ack_arm(c);
}
