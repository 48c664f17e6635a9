/* Congestion control: Reno (RFC 5681), CUBIC (RFC 9438), DCTCP (RFC 8257), initial window of RFC
 * 6928.
 *
 * Loss detection and recovery (tcp_ack.c) decide when something was lost and what is sent again;
 * the functions here only say how large the window becomes.
 */
#include "daemon/net/net_internal.h"

#include <math.h>

#define CWND_MAX (1u << 30)

/* RFC 9438 s4.6 (beta), s5 (C), s4.3 (alpha). */
#define CUBIC_BETA  0.7
#define CUBIC_C     0.4
#define CUBIC_ALPHA (3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA))

/* alpha as a fraction of this; RFC 8257 s4.2 (g = 1/16). */
#define DCTCP_ALPHA_ONE  (1u << 20)
#define DCTCP_GAIN_SHIFT 4
#define DCTCP_BYTES_MAX  (1u << 30) /* counted in one window */

/* ---- shared --------------------------------------------------------------------------------- */

static uint32_t initial_window(const struct tcp_conn *c)
{
	uint32_t segments = c->stack->config.tcp.initial_window;
	uint32_t bytes = segments * c->mss;
	uint32_t floor = 2 * c->mss > 14600 ? 2 * c->mss : 14600;

	/* RFC 6928 s2: min(10 * MSS, max(2 * MSS, 14600)) */
	return segments > 2 && bytes > floor ? floor : bytes;
}

static uint32_t at_least(uint32_t bytes, uint32_t least)
{
	return bytes > least ? bytes : least;
}

/* What was in the network, as far as the window let it: RFC 5681 equation 4, RFC 9438 s4.6. */
static uint32_t in_use(const struct tcp_conn *c)
{
	uint32_t flight = c->snd_max - c->snd_una;

	return flight < c->cwnd ? flight : c->cwnd;
}

static void grow(struct tcp_conn *c, uint32_t bytes)
{
	c->cwnd = bytes < CWND_MAX - c->cwnd ? c->cwnd + bytes : CWND_MAX;
}

/* Slow start counts bytes (RFC 3465) without its limit of 2 MSS for each ACK, because receivers
 * that merge segments send one ACK for many. False when the window is past it. */
static bool slow_start(struct tcp_conn *c, uint32_t bytes)
{
	uint32_t left = c->ssthresh - c->cwnd;

	if (c->cwnd >= c->ssthresh)
		return false;
	grow(c, bytes < left ? bytes : left); /* also an ACK of all that a timeout believed lost */
	return true;
}

/* RFC 7661 s4.3 in its simplest form: a window that was not used proves nothing. */
static bool window_used(const struct tcp_conn *c)
{
	return (c->flags & TCPF_CWND_LIMITED) != 0;
}

/* ---- Reno ----------------------------------------------------------------------------------- */

static void reno_init(struct tcp_conn *c)
{
	c->cwnd = initial_window(c);
	c->ssthresh = CWND_MAX;
	c->cwnd_acked = 0;
}

static void reno_acked(struct tcp_conn *c, uint32_t bytes, uint64_t now_ns)
{
	(void)now_ns;
	if (!window_used(c) || slow_start(c, bytes))
		return;
	c->cwnd_acked += bytes;
	if (c->cwnd_acked >= c->cwnd) {
		c->cwnd_acked -= c->cwnd;
		grow(c, c->mss);
	}
}

static void reno_loss(struct tcp_conn *c, uint64_t now_ns)
{
	(void)now_ns;
	c->ssthresh = at_least(in_use(c) / 2, 2 * c->mss);
	c->cwnd_acked = 0;
}

static void reno_timeout(struct tcp_conn *c, uint64_t now_ns)
{
	/* RFC 5681 s3.1: ssthresh is set by the first timeout of a segment only. */
	if (c->timeouts <= 1)
		reno_loss(c, now_ns);
	c->cwnd = c->mss;
	c->cwnd_acked = 0;
}

static void reno_marked(struct tcp_conn *c, uint64_t now_ns)
{
	(void)now_ns;
	c->ssthresh = at_least(c->cwnd / 2, 2 * c->mss);
	c->cwnd = c->ssthresh;
	c->cwnd_acked = 0;
}

static void reno_idle(struct tcp_conn *c)
{
	uint32_t restart = initial_window(c);

	if (c->cwnd > restart)
		c->cwnd = restart;
}

static const struct tcp_cc_ops reno = {
	.name = "reno",
	.init = reno_init,
	.acked = reno_acked,
	.loss = reno_loss,
	.timeout = reno_timeout,
	.idle = reno_idle,
	.marked = reno_marked,
};

/* ---- CUBIC ---------------------------------------------------------------------------------- */

static void cubic_init(struct tcp_conn *c)
{
	reno_init(c);
	c->cubic = (struct tcp_cubic){0};
}

/* s4.2: an epoch begins with the first ACK in congestion avoidance after a reduction. */
static void cubic_epoch(struct tcp_conn *c, uint64_t now_ns)
{
	struct tcp_cubic *q = &c->cubic;

	q->epoch_ns = now_ns;
	q->w_est = c->cwnd;
	q->k_us = 0;
	if (q->w_max > c->cwnd) {
		double k = cbrt((double)(q->w_max - c->cwnd) / c->mss / CUBIC_C);

		q->k_us = k < 4000 ? (uint32_t)(k * 1e6) : UINT32_MAX;
	} else {
		q->w_max = c->cwnd;
	}
}

/* W_cubic(t), equation 1, in bytes. */
static double cubic_window(const struct tcp_conn *c, uint64_t t_ns)
{
	double t = (double)t_ns / 1e9 - c->cubic.k_us / 1e6;

	return c->cubic.w_max + CUBIC_C * t * t * t * c->mss;
}

static void cubic_acked(struct tcp_conn *c, uint32_t bytes, uint64_t now_ns)
{
	struct tcp_cubic *q = &c->cubic;
	double cwnd = c->cwnd, target, alpha, now;
	uint64_t t_ns;

	if (!window_used(c) || slow_start(c, bytes))
		return;
	if (q->epoch_ns == 0)
		cubic_epoch(c, now_ns);
	t_ns = now_ns - q->epoch_ns;
	/* s4.3: what Reno would have by now. */
	alpha = q->w_est < q->w_prior ? CUBIC_ALPHA : 1;
	if (q->w_est < CWND_MAX)
		q->w_est += (uint32_t)(alpha * bytes * c->mss / cwnd);
	now = cubic_window(c, t_ns);
	if (now < q->w_est) {
		if (q->w_est > c->cwnd)
			grow(c, q->w_est - c->cwnd);
		return;
	}
	/* s4.4, s4.5: towards where the curve is in a round trip, by half at most. */
	target = cubic_window(c, t_ns + tcp_ticks_ns(c->srtt_ticks));
	if (target > 1.5 * cwnd)
		target = 1.5 * cwnd;
	if (target <= cwnd)
		return;
	c->cwnd_acked += (uint32_t)((target - cwnd) / cwnd * bytes);
	if (c->cwnd_acked >= c->mss) { /* by whole segments: pieces would be silly ones */
		grow(c, c->cwnd_acked);
		c->cwnd_acked = 0;
	}
}

static void cubic_reduce(struct tcp_conn *c, uint32_t was)
{
	struct tcp_cubic *q = &c->cubic;

	/* s4.7: who lost before coming back to where it was leaves room for newcomers. */
	q->w_max = c->cwnd < q->w_max ? (uint32_t)(c->cwnd * (1 + CUBIC_BETA) / 2) : c->cwnd;
	q->w_prior = c->cwnd;
	q->epoch_ns = 0;
	c->ssthresh = at_least((uint32_t)(was * CUBIC_BETA), 2 * c->mss);
	c->cwnd_acked = 0;
}

static void cubic_loss(struct tcp_conn *c, uint64_t now_ns)
{
	(void)now_ns;
	cubic_reduce(c, in_use(c));
}

static void cubic_timeout(struct tcp_conn *c, uint64_t now_ns)
{
	if (c->timeouts <= 1)
		cubic_loss(c, now_ns);
	c->cwnd = c->mss;
	c->cwnd_acked = 0;
	c->cubic.epoch_ns = 0;
	c->cubic.w_max = 0; /* s4.8: the next epoch begins with K = 0 where the window is then */
}

static void cubic_marked(struct tcp_conn *c, uint64_t now_ns)
{
	(void)now_ns;
	cubic_reduce(c, c->cwnd);
	c->cwnd = c->ssthresh;
}

/* s5.8: the time in which nothing was sent is no time of the curve. */
static void cubic_idle(struct tcp_conn *c)
{
	reno_idle(c);
	c->cubic.epoch_ns = 0;
}

static const struct tcp_cc_ops cubic = {
	.name = "cubic",
	.init = cubic_init,
	.acked = cubic_acked,
	.loss = cubic_loss,
	.timeout = cubic_timeout,
	.idle = cubic_idle,
	.marked = cubic_marked,
};

/* ---- DCTCP ---------------------------------------------------------------------------------- */

static void dctcp_init(struct tcp_conn *c)
{
	reno_init(c);
	c->dctcp = (struct tcp_dctcp){.alpha = DCTCP_ALPHA_ONE, .window_end = c->snd_nxt};
}

/* s3.3: the fraction of marked bytes, averaged over windows. */
static void dctcp_echo(struct tcp_conn *c, uint32_t bytes, bool marks)
{
	struct tcp_dctcp *d = &c->dctcp;
	uint32_t fraction;

	if (bytes < DCTCP_BYTES_MAX - d->acked) {
		d->acked += bytes;
		d->marked += marks ? bytes : 0;
	}
	if (seq_lt(c->snd_una, d->window_end) || d->acked == 0)
		return;
	fraction = (uint32_t)((uint64_t)d->marked * DCTCP_ALPHA_ONE / d->acked);
	d->alpha = d->alpha - (d->alpha >> DCTCP_GAIN_SHIFT) + (fraction >> DCTCP_GAIN_SHIFT);
	d->acked = d->marked = 0;
	d->window_end = c->snd_max;
}

static void dctcp_marked(struct tcp_conn *c, uint64_t now_ns)
{
	uint32_t less = (uint32_t)((uint64_t)c->cwnd * c->dctcp.alpha / DCTCP_ALPHA_ONE / 2);

	(void)now_ns;
	c->ssthresh = at_least(c->cwnd - less, 2 * c->mss);
	c->cwnd = c->ssthresh;
	c->cwnd_acked = 0;
}

/* Without ECN it is Reno: s3.5, losses are treated as ever. */
static const struct tcp_cc_ops dctcp = {
	.name = "dctcp",
	.init = dctcp_init,
	.acked = reno_acked,
	.loss = reno_loss,
	.timeout = reno_timeout,
	.idle = reno_idle,
	.marked = dctcp_marked,
	.echo = dctcp_echo,
};

const struct tcp_cc_ops *const tcp_cc_table[] = {
	[TCP_CONGESTION_CUBIC] = &cubic,
	[TCP_CONGESTION_RENO] = &reno,
	[TCP_CONGESTION_DCTCP] = &dctcp,
};
