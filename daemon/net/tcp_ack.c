/* What an ACK does to the sender: window, round-trip time, queue, loss recovery.
 *
 * With SACK, losses are found and repaired by time (tcp_rack.c): tcp_output() sends what is marked
 * lost while what is in the network (tcp_pipe()) is below cwnd. Without, three duplicate ACKs (RFC
 * 5681 s3.2) begin NewReno's recovery (RFC 6582): one retransmission for each partial ACK, cwnd
 * inflated by duplicates. A retransmission timeout goes back to snd_una in either case; nothing
 * that was selectively acknowledged is relied on then (RFC 2018 s8: the peer may have reneged).
 */
#include "daemon/net/net_internal.h"

#define DUP_THRESH 3

void tcp_rtt_sample(struct tcp_conn *c, uint32_t rtt_ticks)
{
	uint32_t srtt = c->srtt_ticks;

	if (rtt_ticks == 0)
		rtt_ticks = 1;
	tcp_rack_min_rtt(c, rtt_ticks);
	if (srtt == 0) { /* (2.2) */
		c->srtt_ticks = rtt_ticks;
		c->rttvar_ticks = rtt_ticks / 2;
	} else { /* (2.3) */
		uint32_t error = srtt > rtt_ticks ? srtt - rtt_ticks : rtt_ticks - srtt;

		c->rttvar_ticks = c->rttvar_ticks - c->rttvar_ticks / 4 + error / 4;
		c->srtt_ticks = srtt - srtt / 8 + rtt_ticks / 8;
	}
}

/* A sample from the timed segment, which is exact, or else from the echoed timestamp, which is
 * right for retransmitted segments too (RFC 7323 s4). False if there was none. */
static bool ack_rtt(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint32_t ms;

	if (c->flags & TCPF_RTT_TIMED) {
		if (!seq_ge(seg->ack, c->rtt_seq))
			return false;
		c->flags &= ~TCPF_RTT_TIMED;
		tcp_rtt_sample(c, c->stack->now_tick - c->rtt_sent_tick);
		return true;
	}
	if ((c->flags & TCPF_TIMESTAMPS) == 0 || !seg->opt.has_timestamp || seg->opt.ts_echo == 0)
		return false;
	ms = tcp_ts_now(c) - seg->opt.ts_echo;
	if (ms >= 600000) /* an echo of something we never sent is not believed */
		return false;
	tcp_rtt_sample(c, tcp_ticks(ms * MSEC_NS));
	return true;
}

/* RFC 9293 s3.10.7.4, window update, for SND.UNA <= SEG.ACK. True if the window changed. */
static bool ack_window(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint32_t window = (uint32_t)seg->window << c->send_wscale;
	bool changed;

	if (!seq_lt(c->snd_wl1, seg->seq) &&
	    !(c->snd_wl1 == seg->seq && seq_le(c->snd_wl2, seg->ack)))
		return false;
	changed = window != c->snd_wnd;
	c->snd_wnd = window;
	c->snd_wl1 = seg->seq;
	c->snd_wl2 = seg->ack;
	if (window > c->snd_wnd_max)
		c->snd_wnd_max = window;
	return changed;
}

static void resend_first(struct tcp_conn *c)
{
	uint32_t left = seq_lt(c->snd_una, c->snd_end) ? c->snd_end - c->snd_una : 0;

	tcp_segment_send(c, c->snd_una, left < c->mss ? left : c->mss);
}

void tcp_recovery_enter(struct tcp_conn *c, uint32_t delivered)
{
	uint32_t flight = c->snd_max - c->snd_una;
	struct net_stack *s = c->stack;

	COUNT(s, tcp_fast_retransmits);
	tcp_cc(c)->loss(c, s->now_ns);
	if (c->flags & TCPF_ECN)
		c->flags |= TCPF_CWR; /* RFC 3168 s6.1.2: after any reduction */
	c->recover = c->snd_max;
	c->flags |= TCPF_RECOVERY | TCPF_RECOVER_SET;
	if (tcp_scored(c)) {
		tcp_prr_begin(c, flight);
		tcp_prr_ack(c, delivered);
	} else {
		c->cwnd = c->ssthresh + DUP_THRESH * c->mss;
		resend_first(c);
	}
	tcp_rto_restart(c);
	tcp_mark_dirty(c);
}

/* An ACK that acks nothing new, without SACK. RFC 5681 s2 says when it counts as a duplicate. */
static void ack_duplicate(struct tcp_conn *c, const struct tcp_segment *seg, bool window_changed)
{
	if (c->snd_una == c->snd_max || (c->flags & TCPF_PERSIST) != 0 || seg->len > 0 ||
	    window_changed || (seg->flags & TCP_FIN) != 0)
		return;
	if (c->flags & TCPF_RECOVERY) {
		/* Each duplicate is a segment that left the network; never more than were in it. */
		if (c->cwnd < c->ssthresh + (c->snd_max - c->snd_una))
			c->cwnd += c->mss;
		tcp_mark_dirty(c);
		return;
	}
	if (c->dupacks < UINT8_MAX)
		c->dupacks++;
	/* RFC 6582 s3.2 step 2: not for losses of a window already recovered from. */
	if ((c->flags & TCPF_RECOVER_SET) != 0 && seq_lt(c->snd_una, c->recover))
		return;
	if (c->dupacks >= DUP_THRESH)
		tcp_recovery_enter(c, 0);
	else
		tcp_mark_dirty(c); /* limited transmit */
}

/* New data acked while in fast recovery. RFC 6582 s3.2 step 3, RFC 6937 s3. */
static void recovery_ack(struct tcp_conn *c, uint32_t acked)
{
	bool sack = tcp_scored(c);

	if (seq_ge(c->snd_una, c->recover)) {
		uint32_t flight = c->snd_max - c->snd_una;

		if (sack) {
			c->cwnd = c->ssthresh;
			tcp_rack_recovered(c);
		} else {
			uint32_t gentle = (flight > c->mss ? flight : c->mss) + c->mss;

			c->cwnd = c->ssthresh < gentle ? c->ssthresh : gentle;
		}
		c->flags &= ~TCPF_RECOVERY;
		c->dupacks = 0;
		return;
	}
	if (sack)
		return;
	c->cwnd -= acked < c->cwnd ? acked : c->cwnd;
	if (acked >= c->mss)
		c->cwnd += c->mss;
	if (c->cwnd < c->mss)
		c->cwnd = c->mss;
	resend_first(c);
}

void tcp_recovery_timeout(struct tcp_conn *c)
{
	tcp_cc(c)->timeout(c, c->stack->now_ns);
	c->flags &= ~(TCPF_RECOVERY | TCPF_RTT_TIMED | TCPF_TLP | TCPF_TLP_AGAIN | TCPF_TLP_ACKED);
	c->flags |= TCPF_RECOVER_SET;
	c->recover = c->snd_max;
	c->dupacks = 0;
	tcp_sent_lose_all(c);
	c->snd_nxt = c->snd_una;
}

/* What an ACK says of losses, with SACK. `delivered`: bytes that it tells of for the first time. */
static void sack_ack(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t delivered)
{
	bool recovering = (c->flags & TCPF_RECOVERY) != 0;

	if (c->flags & TCPF_TLP)
		tcp_tlp_ack(c, seg->ack);
	if (tcp_sacked(c) > 0 || (c->flags & (TCPF_RECOVER_SET | TCPF_REO)) != 0)
		tcp_rack_detect(c, delivered);
	if (recovering && delivered > 0)
		tcp_prr_ack(c, delivered);
}

static void ack_advance(struct tcp_conn *c, const struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;
	uint32_t acked = seg->ack - c->snd_una;

	/* Karn: without a sample the RTO stays as long as it has become. RFC 6298 s5.5 to s5.7. */
	if (ack_rtt(c, seg))
		c->backoff = 0;
	c->timeouts = 0;
	tcp_sent_acked(c, seg, seg->ack);
	c->snd_una = seg->ack;
	if (seq_lt(c->snd_nxt, c->snd_una))
		c->snd_nxt = c->snd_una;
	c->progress_ms = s->now_ms;
	if (unlikely(c->marks & (TCPM_SHRUNK | TCPM_RAISED)))
		pmtu_acked(c);
	tcp_queue_free_acked(c);
	if (unlikely(c->flags & TCPF_RECOVERY)) {
		recovery_ack(c, acked);
	} else {
		c->dupacks = 0;
		tcp_cc(c)->acked(c, acked, s->now_ns);
	}
	/* So that `recover` never falls a half circle behind. */
	if ((c->flags & TCPF_RECOVER_SET) != 0 && seq_ge(c->snd_una, c->recover) &&
	    (c->flags & TCPF_RECOVERY) == 0)
		c->flags &= ~TCPF_RECOVER_SET;
	tcp_rto_restart(c);
}

void tcp_in_ack(struct tcp_conn *c, const struct tcp_segment *seg)
{
	bool window_changed = seq_ge(seg->ack, c->snd_una) && ack_window(c, seg);
	uint32_t una = c->snd_una, sacked = tcp_sacked(c);

	if (unlikely(seg->opt.sack_n > 0 && tcp_scored(c))) {
		COUNT(c->stack, tcp_sack_received);
		tcp_sack_update(c, seg);
	}
	if (seq_gt(seg->ack, c->snd_una))
		ack_advance(c, seg);
	else if (seg->ack == c->snd_una && !tcp_scored(c))
		ack_duplicate(c, seg, window_changed);
	if (tcp_scored(c))
		sack_ack(c, seg, c->snd_una - una + (tcp_sacked(c) - sacked));
	if (c->snd_una == c->snd_max)
		tcp_flight_end(c);
	if (unlikely(c->flags & TCPF_ECN))
		tcp_ecn_ack(c, seg, c->snd_una - una);
	if (tcp_send_pending(c) || (c->flags & TCPF_RECOVERY) != 0 || sacked != tcp_sacked(c))
		tcp_mark_dirty(c);
	if (unlikely(c->flags & TCPF_WANT_WRITE))
		tcp_writable_check(c);
}
