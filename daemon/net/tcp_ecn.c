/* Explicit congestion notification: RFC 3168 s6.1, and DCTCP's exact echo, RFC 8257 s3.2.
 *
 * As receiver: a packet that a router marked (CE) makes every ACK say ECE, until the peer says CWR.
 * With DCTCP ECE says what the newest packet said; when that changes while an ACK waits, the ACK
 * goes out at once with the old word.
 *
 * As sender: the first ECE of a window reduces cwnd as a loss would, without sending anything
 * again; the next new segment says CWR. Only segments of new data are marked as ECN-capable: RFC
 * 3168 s6.1.4, s6.1.5.
 */
#include "daemon/net/net_internal.h"

static bool dctcp(const struct tcp_conn *c)
{
	return c->congestion == TCP_CONGESTION_DCTCP;
}

static void echo_exactly(struct tcp_conn *c, bool mark)
{
	if (mark == ((c->flags & TCPF_ECE) != 0))
		return;
	if (c->ack_due > 0)
		tcp_ack_send(c);
	c->flags ^= TCPF_ECE;
}

void tcp_ecn_in(struct tcp_conn *c, const struct tcp_segment *seg)
{
	bool mark = seg->ecn == IP_ECN_CE;

	if (mark)
		COUNT(c->stack, tcp_ecn_marks_received);
	if (dctcp(c)) {
		if (seg->len > 0)
			echo_exactly(c, mark);
		return;
	}
	if (seg->flags & TCP_CWR)
		c->flags &= ~TCPF_ECE;
	if (mark)
		c->flags |= TCPF_ECE;
}

void tcp_ecn_ack(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t acked)
{
	bool marks = (seg->flags & TCP_ECE) != 0;

	if (tcp_cc(c)->echo != NULL)
		tcp_cc(c)->echo(c, acked, marks);
	if ((c->flags & TCPF_ECN_REDUCED) != 0 && seq_gt(c->snd_una, c->ecn_recover))
		c->flags &= ~TCPF_ECN_REDUCED;
	/* A window that lost something is reduced already; what says ECE about nothing that was
	 * sent since says it again. */
	if (!marks || (c->flags & (TCPF_ECN_REDUCED | TCPF_RECOVERY)) != 0 ||
	    (acked == 0 && c->snd_una == c->snd_max))
		return;
	COUNT(c->stack, tcp_ecn_reductions);
	tcp_cc(c)->marked(c, c->stack->now_ns);
	c->ecn_recover = c->snd_max;
	c->flags |= TCPF_ECN_REDUCED | TCPF_CWR;
}

uint8_t tcp_ecn_out(struct tcp_conn *c, uint32_t len, bool again, enum ip_ecn *ecn_out)
{
	uint8_t flags = c->flags & TCPF_ECE ? TCP_ECE : 0;

	*ecn_out = IP_ECN_NOT;
	if (len == 0 || again)
		return flags;
	*ecn_out = IP_ECN_ECT0;
	if (c->flags & TCPF_CWR) {
		c->flags &= ~TCPF_CWR;
		flags |= TCP_CWR;
	}
	return flags;
}
