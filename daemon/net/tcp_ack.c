/* What an ACK does to the sender: window, round-trip time, queue, loss recovery.
 *
 * Loss is found in three ways: three duplicate ACKs (RFC 5681 s3.2), SACK blocks that make the
 * first hole "lost" (RFC 6675), and the retransmission timeout. Without SACK, recovery is NewReno
 * (RFC 6582): one retransmission for each partial ACK, cwnd inflated by duplicates. With SACK,
 * tcp_output() fills holes while the estimate of what is in the network (pipe) is below cwnd. A
 * timeout forgets the scoreboard (RFC 2018 s8: the peer may have reneged) and goes back to snd_una,
 * skipping what new SACK blocks show.
 */
#include "daemon/net/net_internal.h"

#define DUP_THRESH 3

/* Clock granularity of RFC 6298 (2.3): the wheel's, and less than any rto_min. */
#define RTT_GRANULARITY_NS MSEC_NS

void tcp_rtt_sample(struct tcp_conn *c, uint64_t rtt_ns)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	uint64_t spread;

	if (rtt_ns == 0)
		rtt_ns = 1;
	if (c->srtt_ns == 0) { /* (2.2) */
		c->srtt_ns = rtt_ns;
		c->rttvar_ns = rtt_ns / 2;
	} else { /* (2.3) */
		uint64_t error = c->srtt_ns > rtt_ns ? c->srtt_ns - rtt_ns : rtt_ns - c->srtt_ns;

		c->rttvar_ns = c->rttvar_ns - c->rttvar_ns / 4 + error / 4;
		c->srtt_ns = c->srtt_ns - c->srtt_ns / 8 + rtt_ns / 8;
	}
	spread = 4 * c->rttvar_ns;
	c->rto_ns = c->srtt_ns + (spread > RTT_GRANULARITY_NS ? spread : RTT_GRANULARITY_NS);
	if (c->rto_ns < t->rto_min_ns)
		c->rto_ns = t->rto_min_ns;
	if (c->rto_ns > t->rto_max_ns)
		c->rto_ns = t->rto_max_ns;
}

/* A sample from the timed segment, which is exact, or else from the echoed timestamp, which is
 * right for retransmitted segments too (RFC 7323 s4). False if there was none. */
static bool ack_rtt(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint64_t now_ns = c->stack->now_ns;
	uint32_t ms;

	if (c->flags & TCPF_RTT_TIMED) {
		if (!seq_ge(seg->ack, c->rtt_seq))
			return false;
		c->flags &= ~TCPF_RTT_TIMED;
		tcp_rtt_sample(c, now_ns - c->rtt_sent_ns);
		return true;
	}
	if ((c->flags & TCPF_TIMESTAMPS) == 0 || !seg->opt.has_timestamp || seg->opt.ts_echo == 0)
		return false;
	ms = tcp_ts_now(c) - seg->opt.ts_echo;
	if (ms >= 600000) /* an echo of something we never sent is not believed */
		return false;
	tcp_rtt_sample(c, ms * MSEC_NS);
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
	uint32_t len = left < c->mss ? left : c->mss;
	uint32_t sent = tcp_segment_send(c, c->snd_una, len);

	if (seq_lt(c->again_nxt, c->snd_una + sent))
		c->again_nxt = c->snd_una + sent;
}

static void recovery_enter(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;

	COUNT(s, tcp_fast_retransmits);
	c->cc->loss(c, s->now_ns);
	if (c->flags & TCPF_ECN)
		c->flags |= TCPF_CWR; /* RFC 3168 s6.1.2: after any reduction */
	c->recover = c->snd_max;
	c->flags |= TCPF_RECOVERY | TCPF_RECOVER_SET;
	c->again_nxt = c->snd_una;
	c->cwnd = c->ssthresh;
	if ((c->flags & TCPF_SACK) == 0)
		c->cwnd += DUP_THRESH * c->mss;
	resend_first(c);
	tcp_rto_restart(c);
	tcp_mark_dirty(c);
}

/* An ACK that acks nothing new. RFC 5681 s2 says when it counts as a duplicate. */
static void ack_duplicate(struct tcp_conn *c, const struct tcp_segment *seg, bool window_changed,
			  bool sack_news)
{
	bool sack = (c->flags & TCPF_SACK) != 0;
	struct tcp_sack_block hole;

	if (c->snd_una == c->snd_max || (c->flags & TCPF_PERSIST) != 0)
		return;
	if (sack ? !sack_news : (seg->len > 0 || window_changed || (seg->flags & TCP_FIN) != 0))
		return;
	if (c->flags & TCPF_RECOVERY) {
		/* Each duplicate is a segment that left the network; never more than were in it. */
		if (!sack && c->cwnd < c->ssthresh + (c->snd_max - c->snd_una))
			c->cwnd += c->mss;
		tcp_mark_dirty(c);
		return;
	}
	if (c->dupacks < UINT8_MAX)
		c->dupacks++;
	/* RFC 6582 s3.2 step 2: not for losses of a window already recovered from. */
	if ((c->flags & TCPF_RECOVER_SET) != 0 && seq_lt(c->snd_una, c->recover))
		return;
	if (c->dupacks >= DUP_THRESH || (sack && tcp_sack_lost_hole(c, c->snd_una, &hole)))
		recovery_enter(c);
	else
		tcp_mark_dirty(c); /* limited transmit */
}

/* New data acked while in fast recovery. RFC 6582 s3.2 step 3, RFC 6675 s5. */
static void recovery_ack(struct tcp_conn *c, uint32_t acked)
{
	bool sack = (c->flags & TCPF_SACK) != 0;

	if (seq_ge(c->snd_una, c->recover)) {
		uint32_t flight = c->snd_max - c->snd_una;

		if (!sack) {
			uint32_t gentle = (flight > c->mss ? flight : c->mss) + c->mss;

			c->cwnd = c->ssthresh < gentle ? c->ssthresh : gentle;
		}
		c->flags &= ~TCPF_RECOVERY;
		c->dupacks = 0;
		return;
	}
	if (!sack) {
		c->cwnd -= acked < c->cwnd ? acked : c->cwnd;
		if (acked >= c->mss)
			c->cwnd += c->mss;
		if (c->cwnd < c->mss)
			c->cwnd = c->mss;
		resend_first(c);
		return;
	}
	/* The new first hole was not sent again yet: it is, whether or not it counts as lost. */
	if (seq_ge(c->snd_una, c->again_nxt) && tcp_sack_skip(c, c->snd_una) == c->snd_una)
		resend_first(c);
}

void tcp_recovery_timeout(struct tcp_conn *c)
{
	c->cc->timeout(c, c->stack->now_ns);
	c->flags &= ~(TCPF_RECOVERY | TCPF_RTT_TIMED);
	c->flags |= TCPF_RECOVER_SET;
	c->recover = c->snd_max;
	c->dupacks = 0;
	tcp_sack_reset(c);
	c->snd_nxt = c->snd_una;
	c->again_nxt = c->snd_una;
}

static void ack_advance(struct tcp_conn *c, const struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;
	uint32_t acked = seg->ack - c->snd_una;

	/* Karn: without a sample the RTO stays as long as it has become. RFC 6298 s5.5 to s5.7. */
	if (ack_rtt(c, seg))
		c->backoff = 0;
	c->timeouts = 0;
	c->snd_una = seg->ack;
	if (seq_lt(c->snd_nxt, c->snd_una))
		c->snd_nxt = c->snd_una;
	if (seq_lt(c->again_nxt, c->snd_una))
		c->again_nxt = c->snd_una;
	c->progress_ns = s->now_ns;
	tcp_queue_free_acked(c);
	if (unlikely(c->board.n > 0))
		tcp_sack_trim(c);
	if (unlikely(c->flags & TCPF_RECOVERY)) {
		recovery_ack(c, acked);
	} else {
		c->dupacks = 0;
		c->cc->acked(c, acked, s->now_ns);
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
	bool sack_news = false;
	uint32_t una = c->snd_una;

	if (unlikely(seg->opt.sack_n > 0 && (c->flags & TCPF_SACK) != 0)) {
		COUNT(c->stack, tcp_sack_received);
		sack_news = tcp_sack_update(c, seg);
	}
	if (seq_gt(seg->ack, c->snd_una))
		ack_advance(c, seg);
	else if (seg->ack == c->snd_una)
		ack_duplicate(c, seg, window_changed, sack_news);
	if (unlikely(c->flags & TCPF_ECN))
		tcp_ecn_ack(c, seg, c->snd_una - una);
	if (tcp_send_pending(c) || (c->flags & TCPF_RECOVERY) != 0)
		tcp_mark_dirty(c);
	if (unlikely(c->flags & TCPF_WANT_WRITE))
		tcp_writable_check(c);
}
