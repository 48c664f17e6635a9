/* Opening: LISTEN, SYN_SENT, SYN_RECEIVED. RFC 9293 s3.5, s3.10.7.2 to s3.10.7.4. */
#include "daemon/net/net_internal.h"

/* A peer must not make us send a flood of tiny segments. */
#define PEER_MSS_MIN 64

static void options_take(struct tcp_conn *c, const struct tcp_segment *seg)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	const struct tcp_options *o = &seg->opt;
	uint32_t mss = o->has_mss ? o->mss : 536; /* RFC 9293 s3.7.1 */

	if (mss < PEER_MSS_MIN)
		mss = PEER_MSS_MIN;
	c->peer_mss = (uint16_t)mss;
	c->mss = (uint16_t)(mss < c->path_mss ? mss : c->path_mss);
	if (o->has_timestamp && t->timestamps) {
		c->flags |= TCPF_TIMESTAMPS;
		c->ts_recent = o->ts_value;
		c->ts_recent_s = c->stack->now_s;
		c->mss =
			(uint16_t)(c->mss - 12); /* RFC 6691: options come off the segment's data */
	}
	if (o->sack_permitted && t->sack)
		c->flags |= TCPF_SACK;
	if (o->has_wscale && t->window_scaling) {
		c->flags |= TCPF_WSCALE;
		c->send_wscale = o->wscale & 15u;
	} else {
		c->receive_wscale = 0;
	}
	c->receive_mss = 536 < c->mss ? 536 : c->mss;
	c->opening.irs = seg->seq;
	c->rcv_nxt = seg->seq + 1;
	c->rcv_adv = c->rcv_nxt + (c->stack->config.tcp.receive_buffer < UINT16_MAX
					   ? c->stack->config.tcp.receive_buffer
					   : UINT16_MAX);
	c->snd_wnd = seg->window; /* a SYN's window is not scaled */
	c->snd_wnd_max = seg->window;
	c->snd_wl1 = seg->seq;
	c->snd_wl2 = seg->ack;
}

void tcp_half_open_remove(struct tcp_conn *c)
{
	if ((c->flags & TCPF_HALF_OPEN) == 0)
		return;
	list_del(&c->opening.half_link);
	c->flags &= ~TCPF_HALF_OPEN;
	c->stack->half_open_n--;
}

/* A handshake is over: it counts as a connection from here on. */
static void half_open_done(struct tcp_conn *c)
{
	struct tcp_listener *l = tcp_listener_of(c);

	if ((c->flags & TCPF_HALF_OPEN) == 0)
		return;
	tcp_half_open_remove(c);
	tcp_source_established(c);
	if (l == NULL)
		return;
	counter_set(&l->counters->half_open, --l->half_open);
	counter_set(&l->counters->connections, ++l->connections);
}

/* ---- LISTEN --------------------------------------------------------------------------------- */

enum admission { ADMIT, ADMIT_COOKIE, ADMIT_NOT };

static enum admission drop(struct tcp_listener *l, uint64_t *counter)
{
	counter_inc(counter);
	counter_inc(&l->counters->dropped);
	return ADMIT_NOT;
}

/* Is there room for the connection that a SYN asks for? */
static enum admission admission(struct net_stack *s, struct tcp_listener *l,
				const struct net_addr *remote, bool cookies)
{
	enum tcp_source_verdict source = tcp_source_ask(s, remote);

	if (s->conns_n - s->half_open_n >= s->config.tcp.connections_max)
		return drop(l, &s->counters.tcp_drop_connections);
	if (l->connections_max != 0 && l->connections >= l->connections_max)
		return drop(l, &s->counters.tcp_drop_listener);
	if (source == TCP_SOURCE_FULL)
		return drop(l, &s->counters.tcp_drop_source_connections);
	if (source == TCP_SOURCE_CROWDED)
		return cookies ? ADMIT_COOKIE : drop(l, &s->counters.tcp_drop_source_half_open);
	if (l->half_open_max != 0 && l->half_open >= l->half_open_max)
		return cookies ? ADMIT_COOKIE : drop(l, &s->counters.tcp_drop_listener);
	if (s->half_open_n >= s->config.tcp.backlog_max && cookies)
		return ADMIT_COOKIE;
	return ADMIT;
}

static struct tcp_conn *passive_new(struct tcp_listener *l, const struct net_addr *local,
				    const struct net_addr *remote, const struct tcp_segment *syn,
				    bool half_open)
{
	struct tcp_conn *c = tcp_conn_new(l->stack, local, remote);

	if (c == NULL)
		return NULL;
	c->flags |= TCPF_PASSIVE;
	c->state = TCP_SYN_RECEIVED;
	c->listener = (uint16_t)(pool_index(&l->stack->listener_pool, l) + 1);
	c->events = l->events;
	options_take(c, syn);
	tcp_source_enter(c, half_open);
	if (half_open)
		counter_set(&l->counters->half_open, ++l->half_open);
	else
		counter_set(&l->counters->connections, ++l->connections);
	return c;
}

static void iss_set(struct tcp_conn *c, uint32_t iss)
{
	c->opening.iss = iss;
	c->snd_una = c->snd_nxt = c->snd_max = iss;
	c->snd_end = c->sq_seq = iss + 1;
}

/* The ACK of a SYN-ACK that nobody remembers. */
static struct tcp_conn *cookie_open(struct tcp_listener *l, const struct net_addr *local,
				    const struct net_addr *remote, const struct tcp_segment *seg)
{
	struct net_stack *s = l->stack;
	struct tcp_segment syn = {.seq = seg->seq - 1, .ack = seg->ack, .window = seg->window};
	struct tcp_cookie cookie;
	struct tcp_conn *c;

	if (!tcp_cookie_check(s, local, remote, seg, &cookie) ||
	    admission(s, l, remote, true) == ADMIT_NOT)
		return NULL;
	syn.opt = cookie.opt;
	c = passive_new(l, local, remote, &syn, false);
	if (c == NULL) {
		COUNT(s, rx_drop_tcp_backlog);
		return NULL;
	}
	COUNT(s, tcp_cookies_accepted);
	iss_set(c, cookie.iss);
	c->snd_nxt = c->snd_max = cookie.iss + 1;
	if (cookie.ecn)
		c->flags |= TCPF_ECN;
	tcp_rto_start(c);
	tcp_life_update(c);
	return c;
}

static void syn_take(struct tcp_listener *l, const struct net_addr *local,
		     const struct net_addr *remote, const struct tcp_segment *seg,
		     const struct tcp_time_wait *tw)
{
	struct net_stack *s = l->stack;
	/* A number beyond those of the connection's former life has no room for a cookie. */
	bool cookies = s->config.tcp.syn_cookies && tw == NULL;
	enum admission verdict = admission(s, l, remote, cookies);
	struct tcp_conn *c;

	if (verdict == ADMIT_NOT)
		return;
	if (verdict == ADMIT_COOKIE) {
		counter_inc(&l->counters->cookies);
		tcp_cookie_send(s, local, remote, seg);
		return;
	}
	if (s->half_open_n >= s->config.tcp.backlog_max) {
		COUNT(s, tcp_backlog_evictions);
		tcp_conn_kill(
			list_entry(list_first(&s->half_open), struct tcp_conn, opening.half_link));
	}
	c = passive_new(l, local, remote, seg, true);
	if (c == NULL) { /* what gave way is not free before the end of the poll */
		COUNT(s, rx_drop_tcp_backlog);
		return;
	}
	if (tw != NULL && !seq_gt(c->opening.iss, tw->snd_nxt)) /* RFC 9293 s3.4.3 */
		iss_set(c, tw->snd_nxt + UINT16_MAX);
	if (tcp_ecn_asked(s, seg->flags))
		c->flags |= TCPF_ECN;
	list_add_tail(&s->half_open, &c->opening.half_link);
	c->flags |= TCPF_HALF_OPEN;
	s->half_open_n++;
	tcp_life_update(c);
	tcp_mark_dirty(c);
}

struct tcp_conn *tcp_in_listen(struct net_stack *s, const struct net_addr *local,
			       const struct net_addr *remote, struct tcp_segment *seg,
			       const struct tcp_time_wait *tw)
{
	uint8_t flags = seg->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN);
	struct tcp_listener *l = tcp_listener_find(s, local);
	struct tcp_conn *c;

	if (l != NULL && flags == TCP_SYN) {
		syn_take(l, local, remote, seg, tw);
		return NULL;
	}
	if (l != NULL && (flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_ACK &&
	    (c = cookie_open(l, local, remote, seg)) != NULL)
		return c;
	if (l != NULL && (flags & (TCP_ACK | TCP_RST)) == 0) { /* RFC 9293 s3.10.7.2, fourth */
		COUNT(s, rx_drop_tcp_flags);
		return NULL;
	}
	COUNT(s, rx_drop_tcp_no_conn);
	/* While cookies are about, this may be of a connection that nobody remembers yet, because
	 * its first bytes were lost: they come again, and then it opens. */
	if (l == NULL || !tcp_cookie_fresh(s))
		tcp_rst_reply(s, local, remote, seg);
	return NULL;
}

/* ---- ESTABLISHED ---------------------------------------------------------------------------- */

static void established(struct tcp_conn *c)
{
	uint32_t retries = c->backoff;

	c->state = (c->flags & TCPF_FIN_QUEUED) ? TCP_FIN_WAIT_1 : TCP_ESTABLISHED;
	c->snd_una = c->opening.iss + 1;
	c->snd_nxt = c->snd_una;
	c->backoff = 0;
	c->progress_ms = c->stack->now_ms;
	half_open_done(c);
	tcp_cc(c)->init(c); /* where `opening` was */
	if (retries > 0) {
		c->cwnd = c->mss; /* RFC 5681 s3.1: a SYN was lost */
		c->marks |= TCPM_SYN_LOST;
	}
	tcp_rto_restart(c);
	tcp_life_update(c);
	tcp_mark_dirty(c);
}

static void syn_rtt(struct tcp_conn *c)
{
	if (c->flags & TCPF_RTT_TIMED)
		tcp_rtt_sample(c, c->stack->now_tick - c->rtt_sent_tick);
	c->flags &= ~TCPF_RTT_TIMED;
}

bool tcp_in_established(struct tcp_conn *c, const struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;
	struct tcp_listener *l = tcp_listener_of(c);
	void *context = NULL;

	syn_rtt(c);
	established(c);
	c->snd_wnd = (uint32_t)seg->window << c->send_wscale;
	c->snd_wnd_max = c->snd_wnd;
	c->snd_wl1 = seg->seq;
	c->snd_wl2 = seg->ack;
	if ((c->flags & TCPF_PASSIVE) == 0) { /* simultaneous open */
		if (tcp_has_owner(c) && c->events->connected != NULL)
			c->events->connected(c->context, c);
		return (c->flags & TCPF_DEAD) == 0;
	}
	/* Several handshakes may have begun when there was room for one. */
	if (s->conns_n - s->half_open_n > s->config.tcp.connections_max) {
		COUNT(s, tcp_drop_connections);
		tcp_rst_send(c);
		tcp_conn_kill(c);
		return false;
	}
	if (c->events->accept(l->context, c, &context) != 0) {
		COUNT(s, tcp_accept_refused);
		if ((c->flags & TCPF_DEAD) == 0) {
			tcp_rst_send(c);
			tcp_conn_kill(c);
		}
		return false;
	}
	if (c->flags & TCPF_DEAD)
		return false;
	COUNT(s, tcp_opens_passive);
	l = tcp_listener_of(c); /* NULL: closed meanwhile? its connections count until they end */
	if (l != NULL)
		counter_inc(&l->counters->accepted);
	c->flags |= TCPF_ACCEPTED;
	c->context = context;
	return true;
}

/* ---- SYN_SENT ------------------------------------------------------------------------------- */

void tcp_in_syn_sent(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;
	bool acked = (seg->flags & TCP_ACK) != 0;

	/* First: the ACK. */
	if (acked && (seq_le(seg->ack, c->opening.iss) || seq_gt(seg->ack, c->snd_max))) {
		COUNT(s, rx_drop_tcp_ack);
		tcp_rst_reply(s, &c->key.local, &c->key.remote, seg);
		return;
	}
	/* Second: the RST. */
	if (seg->flags & TCP_RST) {
		if (!acked) {
			COUNT(s, rx_drop_tcp_rst);
			return;
		}
		COUNT(s, tcp_resets_received);
		COUNT(s, tcp_connect_failed);
		tcp_conn_end(c, -SPLIT_E_NET_REFUSED);
		return;
	}
	/* Fourth: the SYN. Bytes that came with it are not taken; the peer sends them again. */
	if ((seg->flags & TCP_SYN) == 0) {
		COUNT(s, rx_drop_tcp_flags);
		return;
	}
	options_take(c, seg);
	if (!acked) { /* simultaneous open, RFC 9293 figure 8 */
		c->state = TCP_SYN_RECEIVED;
		c->flags &= ~TCPF_ECN_ASK;
		tcp_syn_send(c);
		return;
	}
	/* RFC 3168 s6.1.1: an answer with ECE alone. */
	if ((c->flags & TCPF_ECN_ASK) != 0 && (seg->flags & (TCP_ECE | TCP_CWR)) == TCP_ECE)
		c->flags |= TCPF_ECN;
	syn_rtt(c);
	established(c);
	c->flags |= TCPF_ACK_NOW;
	if (tcp_has_owner(c) && c->events->connected != NULL)
		c->events->connected(c->context, c);
}
