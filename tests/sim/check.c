/* What always holds of a connection, and of a stack, between two events. */
#include "tests/sim/check.h"

static const char *ranges_wrong(const struct tcp_conn *c, uint32_t *mbufs)
{
	uint32_t from = c->rcv_nxt, n = 0, held = 0;

	if (c->ooo == NULL)
		return NULL;
	if (list_empty(&c->ooo->ranges))
		return "room for out-of-order data is held for nothing";
	list_for_each (node, &c->ooo->ranges) {
		const struct tcp_range *r = list_entry(node, struct tcp_range, link);

		if (!seq_lt(from, r->start) || !seq_lt(r->start, r->end))
			return "out-of-order intervals overlap, touch or are old";
		from = r->end;
		held += r->mbufs;
		n++;
	}
	*mbufs += held;
	if (n != c->ooo->ranges_n || held != c->ooo->mbufs)
		return "out-of-order intervals are miscounted";
	return NULL;
}

static const char *numbers_wrong(const struct tcp_conn *c)
{
	if (seq_gt(c->snd_una, c->snd_nxt) || seq_gt(c->snd_nxt, c->snd_max) ||
	    seq_gt(c->snd_max, c->snd_end + 1))
		return "send numbers out of order";
	if (c->state >= TCP_ESTABLISHED && seq_gt(c->rcv_nxt, c->rcv_adv))
		return "more received than promised";
	if (c->state >= TCP_ESTABLISHED && c->cwnd < c->mss)
		return "congestion window below a segment";
	return NULL;
}

/* With SACK every byte under way stands in one record. */
static const char *records_wrong(const struct tcp_conn *c)
{
	uint32_t at = c->snd_una, n = 0, sacked = 0, lost = 0;

	if (c->flight == NULL)
		return NULL;
	if (c->snd_una == c->snd_max)
		return "a record of what is under way is held for nothing";
	list_for_each (node, &c->flight->sent) {
		const struct tcp_sent *r = list_entry(node, struct tcp_sent, link);

		if (r->start != at || !seq_lt(r->start, r->end))
			return "records of what was sent have a gap, overlap or are empty";
		if (r->flags & TCP_SENT_SACKED)
			sacked += r->end - r->start;
		else if (r->flags & TCP_SENT_LOST)
			lost += r->end - r->start;
		at = r->end;
		n++;
	}
	if (c->state < TCP_ESTABLISHED || at != c->snd_max)
		return "records of what was sent do not end at snd_max";
	if (n != c->flight->sent_n || sacked != c->flight->sacked_bytes ||
	    lost != c->flight->lost_bytes)
		return "records of what was sent are miscounted";
	return NULL;
}

/* After a flush: whatever waits has a timer, or stands on the list for the next flush. */
static const char *timers_wrong(const struct tcp_conn *c)
{
	bool rto = tcp_rto_armed(c), dirty = (c->flags & TCPF_DIRTY) != 0;
	bool life = c->life_due_ns != TCP_NEVER, ack = c->ack_due_ns != TCP_NEVER;
	bool armed = wheel_timer_armed(&c->timer);
	uint64_t pace_ns = c->flight != NULL ? c->flight->pace_due_ns : TCP_NEVER;
	bool opening = c->state <= TCP_SYN_RECEIVED;

	if ((opening || (c->flags & TCPF_ORPHAN) != 0) && !life)
		return "a handshake or an orphan without end";
	if (c->snd_una != c->snd_max && !rto)
		return "something unacked, no retransmission timer";
	if (!dirty && !rto && (opening || tcp_send_pending(c)))
		return "something to send, no timer";
	if (rto && !opening && c->snd_una == c->snd_max && (c->flags & TCPF_PERSIST) == 0)
		return "a retransmission timer for nothing";
	if (!dirty && c->ack_due > 0 && !ack)
		return "something to ack, no timer";
	if (ack && c->ack_due == 0)
		return "an ACK timer for nothing";
	if (!dirty && (c->flags & TCPF_ACK_NOW) != 0)
		return "an ACK that is due was not sent";
	if (pace_ns != TCP_NEVER && !tcp_send_pending(c))
		return "a pace for nothing";
	if (!dirty && armed != (rto || ack || life || pace_ns != TCP_NEVER))
		return armed ? "a timer runs for nothing" : "a deadline without a timer";
	if (armed &&
	    (c->timer.deadline_ns > c->rto_due_ns || c->timer.deadline_ns > c->ack_due_ns ||
	     c->timer.deadline_ns > c->life_due_ns || c->timer.deadline_ns > pace_ns))
		return "the timer comes too late";
	return NULL;
}

/* Bounds of what a connection may make the stack hold. */
static const char *memory_wrong(const struct tcp_conn *c)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	uint32_t pinned = 0, queued = 0;

	for (const struct rte_mbuf *m = c->sq_head; m != NULL; m = m->next) {
		pinned += m->buf_len + (uint32_t)sizeof(*m);
		queued += m->data_len;
	}
	if (pinned != c->sq_pinned)
		return "what the send queue pins is miscounted";
	if (tcp_queued(c) > t->send_buffer || queued < tcp_queued(c))
		return "the send queue holds too much or too little";
	if (c->ooo != NULL && c->ooo->pinned > 2 * t->receive_buffer)
		return "out-of-order bytes pin too much";
	/* tcp_data.c: four buffers stop it, and what was out of order (two) may come in one go; and
	 * an mbuf past each. */
	if (c->delivered_pinned > 6 * t->receive_buffer + (16u << 10) ||
	    c->unconsumed > c->delivered_pinned)
		return "the reader is given more than its bound";
	return NULL;
}

const char *sim_conn_wrong(const struct tcp_conn *c, uint32_t *ooo_mbufs)
{
	const char *wrong = numbers_wrong(c);

	if (wrong == NULL)
		wrong = records_wrong(c);
	if (wrong == NULL)
		wrong = timers_wrong(c);
	if (wrong == NULL)
		wrong = memory_wrong(c);
	if (wrong == NULL)
		wrong = ranges_wrong(c, ooo_mbufs);
	if (wrong == NULL && (c->flags & TCPF_DEAD) != 0)
		wrong = "dead in the table";
	return wrong;
}

const char *sim_stack_wrong(const struct net_stack *s, uint32_t connections)
{
	const struct tcp_config *t = &s->config.tcp;

	if (!list_empty(&s->dead))
		return "dead connections after a flush";
	if (connections != s->conns_n || connections != pool_in_use(&s->conn_pool))
		return "connections are miscounted";
	if (s->half_open_n > t->backlog_max + 1 || s->ooo_mbufs > t->ooo_mbufs_max)
		return "more half-open connections or out-of-order mbufs than allowed";
	if (s->txq_n > NET_TX_QUEUE)
		return "more frames queued than there is room for";
	return NULL;
}
