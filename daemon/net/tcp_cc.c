/* Congestion control: NewReno (RFC 5681, RFC 6582), initial window of RFC 6928.
 *
 * Loss detection and recovery (tcp_ack.c) decide when something was lost and what is sent again;
 * the functions here only say how large the window becomes.
 */
#include "daemon/net/net_internal.h"

#define CWND_MAX (1u << 30)

static uint32_t initial_window(const struct tcp_conn *c)
{
	uint32_t segments = c->stack->config.tcp.initial_window;
	uint32_t bytes = segments * c->mss;
	uint32_t floor = 2 * c->mss > 14600 ? 2 * c->mss : 14600;

	/* RFC 6928 s2: min(10 * MSS, max(2 * MSS, 14600)) */
	return segments > 2 && bytes > floor ? floor : bytes;
}

static void newreno_init(struct tcp_conn *c)
{
	c->cwnd = initial_window(c);
	c->ssthresh = CWND_MAX;
	c->cwnd_acked = 0;
}

static void newreno_acked(struct tcp_conn *c, uint32_t bytes, uint64_t now_ns)
{
	(void)now_ns;
	/* RFC 7661 s4.3 in its simplest form: a window that was not used proves nothing. */
	if ((c->flags & TCPF_CWND_LIMITED) == 0)
		return;
	if (c->cwnd < c->ssthresh) {
		/* Slow start counts bytes (RFC 3465) without its limit of 2 MSS for each ACK,
		 * because receivers that merge segments send one ACK for many. */
		c->cwnd += bytes;
		if (c->cwnd > CWND_MAX)
			c->cwnd = CWND_MAX;
		return;
	}
	c->cwnd_acked += bytes;
	if (c->cwnd_acked >= c->cwnd) {
		c->cwnd_acked -= c->cwnd;
		if (c->cwnd < CWND_MAX)
			c->cwnd += c->mss;
	}
}

/* RFC 5681 equation 4. */
static uint32_t halved(const struct tcp_conn *c)
{
	uint32_t flight = c->snd_max - c->snd_una;
	uint32_t half = (flight < c->cwnd ? flight : c->cwnd) / 2;

	return half > 2 * c->mss ? half : 2 * c->mss;
}

static void newreno_loss(struct tcp_conn *c, uint64_t now_ns)
{
	(void)now_ns;
	c->ssthresh = halved(c);
	c->cwnd_acked = 0;
}

static void newreno_timeout(struct tcp_conn *c, uint64_t now_ns)
{
	(void)now_ns;
	/* RFC 5681 s3.1: ssthresh is set by the first timeout of a segment only. */
	if (c->timeouts <= 1)
		c->ssthresh = halved(c);
	c->cwnd = c->mss;
	c->cwnd_acked = 0;
}

static void newreno_idle(struct tcp_conn *c)
{
	uint32_t restart = initial_window(c);

	if (c->cwnd > restart)
		c->cwnd = restart;
}

const struct tcp_cc_ops tcp_cc_newreno = {
	.name = "newreno",
	.init = newreno_init,
	.acked = newreno_acked,
	.loss = newreno_loss,
	.timeout = newreno_timeout,
	.idle = newreno_idle,
};
