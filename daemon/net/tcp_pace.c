/* Pacing: what a window lets go leaves spread over the round trip, not as one burst at the speed of
 * our link, which the queue of a slower link on the way may not hold. Acknowledgements pace most of
 * a stream by themselves; bursts come from slow start (two segments for each that arrived), from
 * ACKs that come in lumps, and from a layer above that sends after a pause into a window that is
 * open.
 *
 * It costs a timer for each lump, and a round trip of microseconds has no room for that. So only
 * connections whose shortest round trip is tcp.pacing_rtt_min_ns or more are paced, and timers are
 * as far apart as a sixteenth of the round trip, a millisecond at most. The rate is twice the
 * window in a round trip during slow start, six fifths of it later, so that pacing never is what
 * limits. The first ten segments of a flight go at once (RFC 6928), repairs when PRR says (RFC
 * 6937).
 *
 * The state lives in struct tcp_flight, for only what is under way can be paced: pace_ns is the
 * time at which what was sent is through at that rate. Where none is to be had (no SACK, none left)
 * there is no pacing.
 */
#include "daemon/net/net_internal.h"

#define SLACK_PART   16u /* of a round trip */
#define SLACK_NS_MAX MSEC_NS

/* Of the congestion window, in a round trip. */
#define START_PERCENT  200u
#define STEADY_PERCENT 120u

static bool paced(const struct tcp_conn *c)
{
	uint64_t least_ns = c->stack->config.tcp.pacing_rtt_min_ns;

	return least_ns != 0 && c->srtt_ticks != 0 && tcp_ticks_ns(c->min_rtt_ticks) >= least_ns &&
	       tcp_scored(c) && (c->flags & TCPF_RECOVERY) == 0;
}

/* Bytes in a round trip. */
static uint64_t window(const struct tcp_conn *c)
{
	uint32_t percent = c->cwnd < c->ssthresh ? START_PERCENT : STEADY_PERCENT;

	return (uint64_t)c->cwnd * percent / 100;
}

static uint64_t time_of(const struct tcp_conn *c, uint32_t bytes)
{
	return bytes * tcp_ticks_ns(c->srtt_ticks) / window(c);
}

static uint64_t slack_ns(const struct tcp_conn *c)
{
	uint64_t slack = tcp_ticks_ns(c->srtt_ticks) / SLACK_PART;

	return slack < SLACK_NS_MAX ? slack : SLACK_NS_MAX;
}

/* Segments that may go before the first answer. */
static uint32_t first_burst(const struct tcp_conn *c)
{
	return c->stack->config.tcp.initial_window * c->mss;
}

uint32_t tcp_pace_room(const struct tcp_conn *c)
{
	uint64_t now_ns = c->stack->now_ns, credit_ns = 2 * slack_ns(c), bytes;

	if (likely(!paced(c)))
		return UINT32_MAX;
	if (c->snd_una == c->snd_max)
		return first_burst(c);
	if (c->flight != NULL && c->flight->pace_ns > now_ns)
		return 0;
	if (c->flight != NULL && now_ns - c->flight->pace_ns < credit_ns)
		credit_ns = now_ns - c->flight->pace_ns;
	/* A segment more than that, for which the next ones wait. */
	bytes = credit_ns * window(c) / tcp_ticks_ns(c->srtt_ticks) + c->mss;
	return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX - 1;
}

void tcp_pace_sent(struct tcp_conn *c, uint32_t room, uint32_t sent, bool wants_more)
{
	struct tcp_flight *f = c->flight;
	uint64_t now_ns = c->stack->now_ns, credit_ns = 2 * slack_ns(c);

	if (f == NULL)
		return;
	f->pace_due_ns = TCP_NEVER;
	if (room == UINT32_MAX)
		return;
	if (f->pace_ns + credit_ns < now_ns)
		f->pace_ns = now_ns - credit_ns;
	/* The first burst is free: the next segment waits its turn behind the last of it. */
	f->pace_ns = sent == c->snd_max - c->snd_una ? now_ns + time_of(c, c->mss)
						     : f->pace_ns + time_of(c, sent);
	if (!wants_more)
		return;
	COUNT(c->stack, tcp_paced);
	tcp_pace_arm(c, (f->pace_ns > now_ns ? f->pace_ns : now_ns) + slack_ns(c));
}
