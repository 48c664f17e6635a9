/* Loss detection for connections that speak SACK, by time: RACK-TLP, RFC 8985; and how much may be
 * sent while losses are repaired: PRR, RFC 6937.
 *
 * RACK: a record is lost once something sent later than it was delivered, and a reordering window
 * has passed. The window is nothing until reordering was seen and three segments were delivered (as
 * ever: RFC 5681), else a part of the round trip that grows while D-SACKs tell of needless repairs.
 *
 * TLP: when the last flight's end gets no answer for two round trips, a probe makes the peer say
 * what it has, so that a lost tail costs one round trip more and not a retransmission timeout.
 *
 * The one timer of a connection (tcp_timer.c) serves all: TCPF_REO, TCPF_PTO, or RTO.
 */
#include "daemon/net/net_internal.h"

#define DUP_THRESH 3

#define REO_WND_MIN_NS MSEC_NS /* less is a poll's doing, not the network's */
#define REO_PERSIST    16      /* RFC 8985 s6.2 step 4: recoveries without D-SACK */
#define REO_MULT_MAX   64

#define WORST_DELAYED_ACK_NS (200 * MSEC_NS) /* WCDelAckT */
#define PTO_MIN_NS           (10 * MSEC_NS)

#define MIN_RTT_PERIOD_MS 60000u

/* ---- what was delivered: s6.2 steps 1 to 3 -------------------------------------------------- */

void tcp_rack_min_rtt(struct tcp_conn *c, uint32_t rtt_ticks)
{
	if (c->stack->now_ms - c->min_rtt_at_ms >
	    MIN_RTT_PERIOD_MS) { /* the least of the last two periods */
		c->min_rtt_ticks = c->min_rtt_next_ticks;
		c->min_rtt_next_ticks = rtt_ticks;
		c->min_rtt_at_ms = c->stack->now_ms;
	}
	if (c->min_rtt_ticks == 0 || rtt_ticks < c->min_rtt_ticks)
		c->min_rtt_ticks = rtt_ticks;
	if (c->min_rtt_next_ticks == 0 || rtt_ticks < c->min_rtt_next_ticks)
		c->min_rtt_next_ticks = rtt_ticks;
}

static bool sent_after(uint64_t a_ns, uint32_t a_end, uint64_t b_ns, uint32_t b_end)
{
	return a_ns > b_ns || (a_ns == b_ns && seq_gt(a_end, b_end));
}

/* Is it the first transmission that was delivered, and not this one? */
static bool ambiguous(const struct tcp_conn *c, const struct tcp_segment *seg,
		      const struct tcp_sent *r, uint64_t rtt_ns)
{
	uint32_t sent_ts = (uint32_t)(r->xmit_ns / MSEC_NS) + c->ts_offset;

	if ((r->flags & TCP_SENT_AGAIN) == 0)
		return false;
	if ((c->flags & TCPF_TIMESTAMPS) != 0 && seg->opt.has_timestamp &&
	    seq_lt(seg->opt.ts_echo, sent_ts))
		return true;
	return rtt_ns < tcp_ticks_ns(c->min_rtt_ticks);
}

void tcp_rack_delivered(struct tcp_conn *c, const struct tcp_segment *seg, const struct tcp_sent *r,
			uint32_t end)
{
	uint64_t rtt_ns = c->stack->now_ns - r->xmit_ns;
	struct tcp_flight *f = c->flight;

	if (!f->fack || seq_gt(end, f->rack_fack)) {
		f->rack_fack = end;
		f->fack = true;
	} else if (seq_lt(end, f->rack_fack) && (r->flags & TCP_SENT_AGAIN) == 0) {
		c->flags |= TCPF_REORDERED;
	}
	if (ambiguous(c, seg, r, rtt_ns))
		return;
	f->rack_rtt_ns = rtt_ns;
	if (sent_after(r->xmit_ns, end, f->rack_xmit_ns, f->rack_end)) {
		f->rack_xmit_ns = r->xmit_ns;
		f->rack_end = end;
	}
}

/* A repair was needless: allow for more reordering, once in a round trip. s6.2 step 4. */
void tcp_rack_dsack(struct tcp_conn *c)
{
	struct tcp_flight *f = c->flight;

	c->marks |= TCPM_DSACK_SEEN;
	if (f != NULL) { /* without, all is acknowledged: the round trip is over */
		if (f->dsack_round && seq_lt(c->snd_una, f->reo_round))
			return;
		f->dsack_round = true;
		f->reo_round = c->snd_max;
	}
	c->reo_persist = REO_PERSIST;
	if (c->reo_mult < REO_MULT_MAX)
		c->reo_mult++;
}

/* ---- what is lost: s6.2 steps 4 and 5 ------------------------------------------------------- */

static uint64_t reorder_window_ns(const struct tcp_conn *c)
{
	uint64_t wnd_ns;

	if ((c->flags & TCPF_REORDERED) == 0 &&
	    ((c->flags & TCPF_RECOVERY) != 0 || tcp_sacked(c) > (DUP_THRESH - 1u) * c->mss))
		return 0;
	wnd_ns = tcp_ticks_ns(c->min_rtt_ticks) / 4 * (1u + c->reo_mult);
	if (wnd_ns > tcp_ticks_ns(c->srtt_ticks))
		wnd_ns = tcp_ticks_ns(c->srtt_ticks);
	return wnd_ns > REO_WND_MIN_NS ? wnd_ns : REO_WND_MIN_NS;
}

/* Marks what is lost by now. True if anything is, that was not. *wait_ns_out: how long until more
 * may be, 0: nothing waits. */
static bool detect(struct tcp_conn *c, uint64_t *wait_ns_out)
{
	uint64_t now_ns = c->stack->now_ns, window_ns = reorder_window_ns(c);
	struct tcp_flight *f = c->flight;
	bool lost = false;

	*wait_ns_out = 0;
	if (f == NULL || f->rack_xmit_ns == 0)
		return false;
	list_for_each (node, &f->sent) {
		struct tcp_sent *r = list_entry(node, struct tcp_sent, link);
		uint64_t due_ns;

		if (r->flags & (TCP_SENT_SACKED | TCP_SENT_LOST))
			continue;
		if (!sent_after(f->rack_xmit_ns, f->rack_end, r->xmit_ns, r->end))
			continue;
		due_ns = r->xmit_ns + f->rack_rtt_ns + window_ns;
		if (due_ns <= now_ns) {
			r->flags |= TCP_SENT_LOST;
			f->lost_bytes += r->end - r->start;
			lost = true;
		} else if (due_ns - now_ns > *wait_ns_out) {
			*wait_ns_out = due_ns - now_ns;
		}
	}
	return lost;
}

void tcp_rack_detect(struct tcp_conn *c, uint32_t delivered)
{
	bool repaired = (c->flags & TCPF_RECOVER_SET) != 0 && seq_lt(c->snd_una, c->recover);
	uint64_t wait_ns;

	if (detect(c, &wait_ns)) {
		COUNT(c->stack, tcp_rack_losses);
		if ((c->flags & TCPF_RECOVERY) == 0 && !repaired)
			tcp_recovery_enter(c, delivered);
		tcp_mark_dirty(c);
	}
	if (wait_ns > 0)
		tcp_reo_arm(c, wait_ns);
	else if (c->flags & TCPF_REO)
		tcp_rto_restart(c);
}

void tcp_rack_recovered(struct tcp_conn *c)
{
	if (c->reo_persist > 0 && --c->reo_persist == 0) {
		c->reo_mult = 0;
		c->flags &= ~TCPF_REORDERED;
	}
}

/* ---- PRR ------------------------------------------------------------------------------------ */

void tcp_prr_begin(struct tcp_conn *c, uint32_t flight)
{
	c->flight->prr_delivered = c->flight->prr_out = 0;
	c->flight->prr_flight = flight > 0 ? flight : 1;
}

/* RFC 6937 s3, with slow start reduction bound. */
void tcp_prr_ack(struct tcp_conn *c, uint32_t delivered)
{
	uint32_t pipe = tcp_pipe(c), send = 0;
	struct tcp_flight *f = c->flight;
	uint64_t share;

	f->prr_delivered += delivered;
	if (pipe > c->ssthresh) {
		share = ((uint64_t)f->prr_delivered * c->ssthresh + f->prr_flight - 1) /
			f->prr_flight;
		send = share > f->prr_out ? (uint32_t)(share - f->prr_out) : 0;
	} else {
		uint32_t owed = f->prr_delivered > f->prr_out ? f->prr_delivered - f->prr_out : 0;
		uint32_t limit = (owed > delivered ? owed : delivered) + c->mss;

		send = c->ssthresh - pipe < limit ? c->ssthresh - pipe : limit;
	}
	if (f->prr_out == 0 && send < c->mss)
		send = c->mss; /* the fast retransmission goes in any case */
	c->cwnd = pipe + send > c->mss ? pipe + send : c->mss;
}

/* ---- TLP ------------------------------------------------------------------------------------ */

/* s7.2. 0: no probe, the retransmission timer serves. */
uint64_t tcp_pto_ns(const struct tcp_conn *c)
{
	uint64_t pto_ns = 2 * tcp_ticks_ns(c->srtt_ticks);
	bool repairing = (c->flags & TCPF_RECOVER_SET) != 0 && seq_lt(c->snd_una, c->recover);

	if (!tcp_scored(c) || (c->flags & (TCPF_TLP | TCPF_RECOVERY)) != 0 || repairing ||
	    c->state < TCP_ESTABLISHED || c->srtt_ticks == 0 || tcp_sacked(c) + tcp_lost(c) != 0 ||
	    c->backoff + c->timeouts != 0 || c->snd_nxt != c->snd_max)
		return 0;
	if (c->snd_max - c->snd_una <= c->mss)
		pto_ns += WORST_DELAYED_ACK_NS;
	if (pto_ns < PTO_MIN_NS)
		pto_ns = PTO_MIN_NS;
	return pto_ns < tcp_rto_ns(c) ? pto_ns : 0;
}

/* s7.3: something new if there is and it may go, else the last segment once more. */
void tcp_tlp_send(struct tcp_conn *c)
{
	uint32_t edge = c->snd_una + c->snd_wnd, left = c->snd_end - c->snd_nxt, len, seq;

	if (seq_lt(c->snd_nxt, c->snd_end) && seq_lt(c->snd_nxt, edge)) {
		len = left < c->mss ? left : c->mss;
		if (len > edge - c->snd_nxt)
			len = edge - c->snd_nxt;
		len = tcp_segment_send(c, c->snd_nxt, len);
		c->snd_nxt += len;
		c->flags &= ~TCPF_TLP_AGAIN;
	} else {
		uint32_t end = seq_min(c->snd_max, c->snd_end);

		seq = end - c->snd_una > c->mss ? end - c->mss : c->snd_una;
		len = tcp_segment_send(c, seq, seq_lt(seq, c->snd_end) ? end - seq : 0);
		c->flags |= TCPF_TLP_AGAIN;
	}
	if (len == 0)
		return; /* no mbuf: the retransmission timer is next */
	COUNT(c->stack, tcp_loss_probes);
	c->flags |= TCPF_TLP;
	c->flags &= ~TCPF_RTT_TIMED;
	c->marks &= (uint8_t)~TCPM_DSACK_SEEN;
	c->tlp_end = c->snd_max;
}

/* s7.4.2: did the probe repair a loss? Then the window gives way as for any. */
void tcp_tlp_ack(struct tcp_conn *c, uint32_t ack)
{
	if ((c->flags & TCPF_TLP) == 0 || seq_lt(ack, c->tlp_end))
		return;
	if ((c->flags & TCPF_TLP_AGAIN) != 0 && (c->marks & TCPM_DSACK_SEEN) == 0) {
		if (ack == c->tlp_end && (c->flags & TCPF_TLP_ACKED) == 0) {
			c->flags |= TCPF_TLP_ACKED; /* a D-SACK may come yet */
			return;
		}
		if (seq_gt(ack, c->tlp_end) && (c->flags & TCPF_RECOVERY) == 0) {
			tcp_cc(c)->loss(c, c->stack->now_ns);
			if (c->cwnd > c->ssthresh)
				c->cwnd = c->ssthresh;
			if (c->flags & TCPF_ECN)
				c->flags |= TCPF_CWR;
		}
	}
	c->flags &= ~(TCPF_TLP | TCPF_TLP_AGAIN | TCPF_TLP_ACKED);
}
