/* TCP's timers. Each connection has one on the stack's wheel, for four deadlines:
 *
 * - rto_due_ns: retransmission (RFC 6298), of a SYN too; before it, with TCPF_PTO, a loss probe,
 * with TCPF_REO, what may have been reordered (RFC 8985); with TCPF_PERSIST set, probing of a
 * closed window (RFC 9293 s3.8.6.1). Runs if and only if something is unacked, or wants to be sent
 * into a closed window.
 * - ack_due_ns: the delayed ACK (RFC 9293 s3.8.6.3). Runs if and only if ack_due > 0.
 * - life_due_ns: how long a state may last (handshake, orphans), else keepalive.
 *
 * - flight->pace_due_ns, while a flight is paced (tcp_pace.c): more of it may leave.
 *
 * The timer is armed by the time a deadline is set, for the earliest or for an earlier time still:
 * a deadline that moves away (each ACK moves one) leaves it where it is, and it is set right when
 * it fires. With the last deadline it goes at the end of the flush, so that data in, ACK and answer
 * out of one poll do not touch the wheel.
 */
#include "daemon/net/net_internal.h"

uint64_t tcp_rto_backed_off(const struct tcp_conn *c)
{
	uint64_t max = c->stack->config.tcp.rto_max_ns;
	uint64_t rto = tcp_rto_ns(c);

	for (unsigned i = 0; i < c->backoff && rto < max; i++)
		rto *= 2;
	return rto < max ? rto : max;
}

/* RTO = SRTT + max(G, 4 * RTTVAR), G being the wheel's and less than any rto_min. */
uint64_t tcp_rto_ns(const struct tcp_conn *c)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	uint64_t spread = 4 * tcp_ticks_ns(c->rttvar_ticks), rto;

	if (c->srtt_ticks == 0) {
		rto = c->marks & TCPM_SYN_LOST ? 3 * SEC_NS : t->rto_initial_ns;
		return rto < t->rto_max_ns ? rto : t->rto_max_ns;
	}
	rto = tcp_ticks_ns(c->srtt_ticks) + (spread > MSEC_NS ? spread : MSEC_NS);
	rto = rto > t->rto_min_ns ? rto : t->rto_min_ns;
	return rto < t->rto_max_ns ? rto : t->rto_max_ns;
}

static uint64_t earliest(const struct tcp_conn *c)
{
	uint64_t due_ns = c->rto_due_ns < c->ack_due_ns ? c->rto_due_ns : c->ack_due_ns;

	if (unlikely(c->flight != NULL && c->flight->pace_due_ns < due_ns))
		due_ns = c->flight->pace_due_ns;
	return due_ns < c->life_due_ns ? due_ns : c->life_due_ns;
}

static void due_set(struct tcp_conn *c, uint64_t *due_ns, uint64_t at_ns)
{
	*due_ns = at_ns;
	if (!wheel_timer_armed(&c->timer) || at_ns < c->timer.deadline_ns)
		wheel_arm(&c->stack->wheel, &c->timer, at_ns);
}

static void due_clear(struct tcp_conn *c, uint64_t *due_ns)
{
	*due_ns = TCP_NEVER;
	if (earliest(c) == TCP_NEVER && wheel_timer_armed(&c->timer) && c->stack->flushing != c)
		tcp_mark_dirty(c); /* tcp_timer_settle() */
}

void tcp_timer_settle(struct tcp_conn *c)
{
	if (wheel_timer_armed(&c->timer) && earliest(c) == TCP_NEVER)
		wheel_cancel(&c->stack->wheel, &c->timer);
}

static void rto_arm(struct tcp_conn *c)
{
	due_set(c, &c->rto_due_ns, c->stack->now_ns + tcp_rto_backed_off(c));
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
	due_set(c, &c->rto_due_ns, c->stack->now_ns + pto_ns);
}

void tcp_pace_arm(struct tcp_conn *c, uint64_t at_ns)
{
	due_set(c, &c->flight->pace_due_ns, at_ns);
}

void tcp_reo_arm(struct tcp_conn *c, uint64_t wait_ns)
{
	c->flags = (c->flags & ~TCPF_PTO) | TCPF_REO;
	due_set(c, &c->rto_due_ns, c->stack->now_ns + wait_ns);
}

void tcp_rto_start(struct tcp_conn *c)
{
	if (c->flags & TCPF_PERSIST) {
		c->flags &= ~TCPF_PERSIST;
		c->backoff = 0;
		/* The wait for the window is not held against what is sent now. What nobody owns
		 * any more has one time limit for all. */
		if ((c->flags & TCPF_ORPHAN) == 0)
			c->progress_ms = c->stack->now_ms;
	} else if (tcp_rto_armed(c) && (c->flags & TCPF_PTO) == 0) {
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
		due_clear(c, &c->rto_due_ns);
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
	if (c->ack_due_ns == TCP_NEVER)
		due_set(c, &c->ack_due_ns, c->stack->now_ns + c->stack->config.tcp.delayed_ack_ns);
}

void tcp_ack_disarm(struct tcp_conn *c)
{
	if (c->ack_due_ns != TCP_NEVER)
		due_clear(c, &c->ack_due_ns);
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

static bool user_timeout(const struct tcp_conn *c, uint32_t since_ms)
{
	return c->user_timeout_ms != 0 && c->stack->now_ms - since_ms >= c->user_timeout_ms;
}

static void persist_fire(struct tcp_conn *c)
{
	if (user_timeout(c, c->received_ms)) {
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
		if (!tcp_rto_armed(c))
			rto_arm(c);
		return;
	}
	c->flags &= ~TCPF_PTO;
	tcp_tlp_send(c);
	rto_arm(c);
}

static void rto_fire(struct tcp_conn *c)
{
	if (c->flags & TCPF_PERSIST) {
		persist_fire(c);
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
	if (user_timeout(c, c->progress_ms)) {
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

static void ack_fire(struct tcp_conn *c)
{
	COUNT(c->stack, tcp_delayed_acks);
	c->flags |= TCPF_ACK_NOW;
	tcp_mark_dirty(c);
}

/* When the state that `c` is in has lasted too long, or a keepalive is due; TCP_NEVER. */
static uint64_t life_deadline(const struct tcp_conn *c)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	bool orphan = (c->flags & TCPF_ORPHAN) != 0;
	uint64_t now_ns = c->stack->now_ns, progress_ns = now_ns - tcp_since_ns(c, c->progress_ms);

	switch (c->state) {
	case TCP_SYN_SENT:
	case TCP_SYN_RECEIVED:
		if ((c->flags & TCPF_PASSIVE) == 0 && c->opening.connect_ns != 0)
			return progress_ns + c->opening.connect_ns;
		return progress_ns + t->half_open_ns;
	case TCP_ESTABLISHED:
	case TCP_CLOSE_WAIT:
		break;
	case TCP_FIN_WAIT_2:
		if (orphan)
			return now_ns + t->fin_wait_2_ns;
		break;
	case TCP_FIN_WAIT_1:
	case TCP_CLOSING:
	case TCP_LAST_ACK:
		return orphan ? progress_ns + t->orphan_ns : TCP_NEVER;
	default:
		return TCP_NEVER;
	}
	if (c->keepalive_ms == 0)
		return TCP_NEVER;
	return now_ns - tcp_since_ns(c, c->received_ms) + c->keepalive_ms * MSEC_NS +
	       c->keepalive_sent * t->keepalive_interval_ns;
}

void tcp_life_update(struct tcp_conn *c)
{
	uint64_t deadline = life_deadline(c);

	if (deadline == TCP_NEVER)
		due_clear(c, &c->life_due_ns);
	else
		due_set(c, &c->life_due_ns, deadline);
}

static void life_fire(struct tcp_conn *c, uint64_t now_ns)
{
	bool orphan = (c->flags & TCPF_ORPHAN) != 0;
	uint64_t deadline;

	if (c->state < TCP_ESTABLISHED || (c->state == TCP_FIN_WAIT_2 && orphan)) {
		conn_timeout(c);
		return;
	}
	/* Progress and segments that came meanwhile moved the deadline without touching the timer.
	 */
	deadline = life_deadline(c);
	if (deadline == TCP_NEVER)
		return;
	if (orphan) { /* FIN_WAIT_1, CLOSING or LAST_ACK: closing leaves no other state */
		if (now_ns >= deadline)
			conn_timeout(c);
		else
			due_set(c, &c->life_due_ns, deadline);
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
		deadline = now_ns +
			   c->keepalive_ms * MSEC_NS; /* retransmission watches over the peer */
	}
	due_set(c, &c->life_due_ns, deadline);
}

static bool due_take(uint64_t *due_ns, uint64_t now_ns)
{
	if (*due_ns > now_ns)
		return false;
	*due_ns = TCP_NEVER;
	return true;
}

static void timer_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct tcp_conn *c = container_of(t, struct tcp_conn, timer);
	uint64_t next_ns;

	if (due_take(&c->ack_due_ns, now_ns))
		ack_fire(c);
	if (c->flight != NULL && due_take(&c->flight->pace_due_ns, now_ns))
		tcp_mark_dirty(c);
	if (due_take(&c->rto_due_ns, now_ns))
		rto_fire(c);
	if ((c->flags & TCPF_DEAD) == 0 && due_take(&c->life_due_ns, now_ns))
		life_fire(c, now_ns);
	if (c->flags & TCPF_DEAD)
		return;
	next_ns = earliest(c);
	if (next_ns != TCP_NEVER &&
	    (!wheel_timer_armed(&c->timer) || next_ns < c->timer.deadline_ns))
		wheel_arm(&c->stack->wheel, &c->timer, next_ns);
}

void tcp_timers_init(struct tcp_conn *c)
{
	wheel_timer_init(&c->timer, timer_fire);
	c->rto_due_ns = c->ack_due_ns = c->life_due_ns = TCP_NEVER;
}

void tcp_timers_stop(struct tcp_conn *c)
{
	c->rto_due_ns = c->ack_due_ns = c->life_due_ns = TCP_NEVER;
	wheel_cancel(&c->stack->wheel, &c->timer);
}
