/* TCP's timers. Each connection has three on the stack's wheel:
 *
 * - rto_timer: retransmission (RFC 6298), of a SYN too; before it, with TCPF_PTO, a loss probe,
 * with TCPF_REO, what may have been reordered (RFC 8985); with TCPF_PERSIST set, probing of a
 * closed window (RFC 9293 s3.8.6.1). Runs if and only if something is unacked, or wants to be sent
 * into a closed window.
 * - ack_timer: the delayed ACK (RFC 9293 s3.8.6.3). Runs if and only if ack_due > 0.
 * - life_timer: how long a state may last (handshake, orphans), else keepalive.
 */
#include "daemon/net/net_internal.h"

uint64_t tcp_rto_backed_off(const struct tcp_conn *c)
{
	uint64_t max = c->stack->config.tcp.rto_max_ns;
	uint64_t rto = c->rto_ns;

	for (unsigned i = 0; i < c->backoff && rto < max; i++)
		rto *= 2;
	return rto < max ? rto : max;
}

static void rto_arm(struct tcp_conn *c)
{
	wheel_arm(&c->stack->wheel, &c->rto_timer, c->stack->now_ns + tcp_rto_backed_off(c));
}

/* For what is unacknowledged: a loss probe, or the retransmission timeout. */
static void retransmission_arm(struct tcp_conn *c)
{
	uint64_t pto_ns = tcp_pto_ns(c);

	if (pto_ns == 0) {
		c->flags &= ~TCPF_PTO;
		rto_arm(c);
		return;
	}
	c->flags |= TCPF_PTO;
	wheel_arm(&c->stack->wheel, &c->rto_timer, c->stack->now_ns + pto_ns);
}

void tcp_reo_arm(struct tcp_conn *c, uint64_t wait_ns)
{
	c->flags = (c->flags & ~TCPF_PTO) | TCPF_REO;
	wheel_arm(&c->stack->wheel, &c->rto_timer, c->stack->now_ns + wait_ns);
}

void tcp_rto_start(struct tcp_conn *c)
{
	if (c->flags & TCPF_PERSIST) {
		c->flags &= ~TCPF_PERSIST;
		c->backoff = 0;
		/* The wait for the window is not held against what is sent now. What nobody owns
		 * any more has one time limit for all. */
		if ((c->flags & TCPF_ORPHAN) == 0)
			c->progress_ns = c->stack->now_ns;
	} else if (wheel_timer_armed(&c->rto_timer) && (c->flags & TCPF_PTO) == 0) {
		return;
	}
	retransmission_arm(c);
}

void tcp_rto_restart(struct tcp_conn *c)
{
	c->flags &= ~(TCPF_PERSIST | TCPF_REO | TCPF_PTO);
	if (c->snd_una != c->snd_max)
		retransmission_arm(c);
	else
		wheel_cancel(&c->stack->wheel, &c->rto_timer);
}

void tcp_rto_persist(struct tcp_conn *c)
{
	if (c->flags & TCPF_PERSIST)
		return;
	c->flags = (c->flags & ~(TCPF_REO | TCPF_PTO)) | TCPF_PERSIST;
	c->backoff = 0;
	rto_arm(c);
}

void tcp_ack_arm(struct tcp_conn *c)
{
	if (!wheel_timer_armed(&c->ack_timer))
		wheel_arm(&c->stack->wheel, &c->ack_timer,
			  c->stack->now_ns + c->stack->config.tcp.delayed_ack_ns);
}

static void conn_timeout(struct tcp_conn *c)
{
	COUNT(c->stack, tcp_timeouts);
	if ((c->flags & TCPF_PASSIVE) == 0 && c->state <= TCP_SYN_RECEIVED)
		COUNT(c->stack, tcp_connect_failed);
	else if (c->state > TCP_SYN_RECEIVED)
		tcp_rst_send(c);
	tcp_conn_end(c, -SPLIT_E_NET_TIMEOUT);
}

static void persist_fire(struct tcp_conn *c, uint64_t now_ns)
{
	if (c->user_timeout_ns != 0 && now_ns - c->received_ns >= c->user_timeout_ns) {
		conn_timeout(c);
		return;
	}
	if (c->snd_wnd > 0 && tcp_override_send(c))
		return;
	if (c->backoff < UINT8_MAX)
		c->backoff++;
	COUNT(c->stack, tcp_zero_window_probes);
	tcp_probe_send(c);
	c->flags |= TCPF_PERSIST;
	rto_arm(c);
}

/* RFC 8985 s6.3, s7.3. */
static void early_fire(struct tcp_conn *c)
{
	if (c->flags & TCPF_REO) {
		c->flags &= ~TCPF_REO;
		tcp_rack_detect(c, 0);
		if (!wheel_timer_armed(&c->rto_timer))
			rto_arm(c);
		return;
	}
	c->flags &= ~TCPF_PTO;
	tcp_tlp_send(c);
	rto_arm(c);
}

static void rto_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct tcp_conn *c = container_of(t, struct tcp_conn, rto_timer);

	if (c->flags & TCPF_PERSIST) {
		persist_fire(c, now_ns);
		return;
	}
	if (c->flags & (TCPF_REO | TCPF_PTO)) {
		early_fire(c);
		return;
	}
	if (c->state <= TCP_SYN_RECEIVED) {
		if (c->backoff >= c->stack->config.tcp.syn_retries) {
			conn_timeout(c);
			return;
		}
		c->backoff++;
		COUNT(c->stack, tcp_rto);
		tcp_syn_send(c);
		rto_arm(c);
		return;
	}
	if (c->user_timeout_ns != 0 && now_ns - c->progress_ns >= c->user_timeout_ns) {
		conn_timeout(c);
		return;
	}
	if (c->backoff < UINT8_MAX)
		c->backoff++;
	if (c->timeouts < UINT8_MAX)
		c->timeouts++;
	COUNT(c->stack, tcp_rto);
	pmtu_black_hole(c);
	tcp_recovery_timeout(c);
	rto_arm(c);
	tcp_mark_dirty(c);
}

static void ack_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct tcp_conn *c = container_of(t, struct tcp_conn, ack_timer);

	(void)now_ns;
	COUNT(c->stack, tcp_delayed_acks);
	c->flags |= TCPF_ACK_NOW;
	tcp_mark_dirty(c);
}

/* When life_timer is to fire in the state that `c` is in; 0: never. */
static uint64_t life_deadline(const struct tcp_conn *c)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	bool orphan = (c->flags & TCPF_ORPHAN) != 0;

	switch (c->state) {
	case TCP_SYN_SENT:
	case TCP_SYN_RECEIVED:
		return c->progress_ns + (c->connect_ns != 0 ? c->connect_ns : t->half_open_ns);
	case TCP_ESTABLISHED:
	case TCP_CLOSE_WAIT:
		break;
	case TCP_FIN_WAIT_2:
		if (orphan)
			return c->stack->now_ns + t->fin_wait_2_ns;
		break;
	case TCP_FIN_WAIT_1:
	case TCP_CLOSING:
	case TCP_LAST_ACK:
		return orphan ? c->progress_ns + t->orphan_ns : 0;
	default:
		return 0;
	}
	if (c->keepalive_ns == 0)
		return 0;
	return c->received_ns + c->keepalive_ns + c->keepalive_sent * t->keepalive_interval_ns;
}

void tcp_life_update(struct tcp_conn *c)
{
	uint64_t deadline = life_deadline(c);

	if (deadline == 0)
		wheel_cancel(&c->stack->wheel, &c->life_timer);
	else
		wheel_arm(&c->stack->wheel, &c->life_timer, deadline);
}

static void life_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct tcp_conn *c = container_of(t, struct tcp_conn, life_timer);
	bool orphan = (c->flags & TCPF_ORPHAN) != 0;
	uint64_t deadline;

	if (c->state < TCP_ESTABLISHED || (c->state == TCP_FIN_WAIT_2 && orphan)) {
		conn_timeout(c);
		return;
	}
	/* Progress and segments that came meanwhile moved the deadline without touching the timer.
	 */
	deadline = life_deadline(c);
	if (deadline == 0)
		return;
	if (orphan) { /* FIN_WAIT_1, CLOSING or LAST_ACK: closing leaves no other state */
		if (now_ns >= deadline)
			conn_timeout(c);
		else
			wheel_arm(&c->stack->wheel, &c->life_timer, deadline);
		return;
	}
	if (now_ns >= deadline && c->snd_una == c->snd_max) {
		if (c->keepalive_sent >= c->stack->config.tcp.keepalive_probes) {
			conn_timeout(c);
			return;
		}
		c->keepalive_sent++;
		COUNT(c->stack, tcp_keepalives);
		tcp_keepalive_send(c);
		deadline = life_deadline(c);
	} else if (now_ns >= deadline) {
		deadline = now_ns + c->keepalive_ns; /* retransmission watches over the peer */
	}
	wheel_arm(&c->stack->wheel, &c->life_timer, deadline);
}

void tcp_timers_init(struct tcp_conn *c)
{
	wheel_timer_init(&c->rto_timer, rto_fire);
	wheel_timer_init(&c->ack_timer, ack_fire);
	wheel_timer_init(&c->life_timer, life_fire);
}

void tcp_timers_stop(struct tcp_conn *c)
{
	wheel_cancel(&c->stack->wheel, &c->rto_timer);
	wheel_cancel(&c->stack->wheel, &c->ack_timer);
	wheel_cancel(&c->stack->wheel, &c->life_timer);
}
