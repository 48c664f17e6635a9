/* TCP connections: their life, and the calls of the layer above.
 *
 * A connection ends in two steps. tcp_conn_kill() takes it out of the table, stops its timers and
 * drops its queues; the memory goes back to the pool in tcp_reap(), at the end of net_rx(),
 * net_timers_run() or net_flush(), when no function up the stack can still hold the pointer. So a
 * callback may abort any connection, also the one whose segment is being handled: whoever called
 * it looks for TCPF_DEAD before going on.
 */
#include "daemon/net/net_internal.h"

#include <stdlib.h>
#include <string.h>

/* RFC 6335 s6: the dynamic ports. */
#define PORT_FIRST 49152u
#define PORT_COUNT 16384u

/* The send queue may pin this many times its payload, and at least so much that a small buffer is
 * not full of a few small mbufs. */
#define PINNED_FACTOR 2u
#define PINNED_MIN    (64u << 10)

/* Records of what is under way: each flight has one, and this many more are there for as many
 * connections as may be repairing losses at once. */
#define SENT_RECORDS 16u
#define SENT_CONNS   4096u

/* A flight's payload holds an mbuf at least, so there are seldom more than mbufs. */
static uint32_t flights_max(const struct net_stack *s, uint32_t conns)
{
	uint32_t max = s->config.tcp.flights_max;

	if (max == 0)
		max = s->pool->size;
	return max < conns ? max : conns;
}

static uint32_t pinned_max(const struct tcp_conn *c)
{
	uint32_t max = PINNED_FACTOR * c->stack->config.tcp.send_buffer;

	return max > PINNED_MIN ? max : PINNED_MIN;
}

int tcp_init(struct net_stack *s)
{
	const struct tcp_config *t = &s->config.tcp;
	uint32_t conns = t->connections_max + t->backlog_max;
	uint64_t ranges = (uint64_t)conns * t->ooo_ranges_max;
	uint64_t buckets = pow2_up(conns > t->time_wait_max ? conns : t->time_wait_max);
	int error;

	if (ranges > t->ooo_mbufs_max)
		ranges = t->ooo_mbufs_max; /* each range holds at least one mbuf */
	list_init(&s->dirty);
	list_init(&s->dead);
	list_init(&s->listeners);
	list_init(&s->half_open);
	list_init(&s->time_wait);
	wheel_timer_init(&s->time_wait_timer, tcp_time_wait_fire);
	s->table_mask = (uint32_t)buckets - 1;
	s->conns = calloc(buckets, sizeof(struct tcp_conn *));
	s->time_waits = calloc(buckets, sizeof(struct tcp_time_wait *));
	if (s->conns == NULL || s->time_waits == NULL)
		return -SPLIT_E_BASE_NOMEM;
	error = tcp_source_init(s, conns);
	if (error == 0)
		error = pool_init(&s->conn_pool, sizeof(struct tcp_conn), conns, NULL);
	if (error == 0)
		error = pool_init(&s->listener_pool, sizeof(struct tcp_listener), t->listeners_max,
				  NULL);
	if (error == 0)
		error = pool_init(&s->time_wait_pool, sizeof(struct tcp_time_wait),
				  t->time_wait_max, NULL);
	if (error == 0)
		error = pool_init(&s->range_pool, sizeof(struct tcp_range), (uint32_t)ranges, NULL);
	if (error == 0)
		error = pool_init(&s->sent_pool, sizeof(struct tcp_sent),
				  SENT_RECORDS * (conns < SENT_CONNS ? conns : SENT_CONNS), NULL);
	if (error == 0)
		error = pool_init(&s->flight_pool, sizeof(struct tcp_flight), flights_max(s, conns),
				  NULL);
	/* Each holds at least one mbuf of ooo_mbufs_max. */
	if (error == 0)
		error = pool_init(&s->ooo_pool, sizeof(struct tcp_ooo),
				  conns < t->ooo_mbufs_max ? conns : t->ooo_mbufs_max, NULL);
	return error;
}

void tcp_fini(struct net_stack *s)
{
	if (s->conns != NULL && s->conn_pool.mem != NULL) {
		for (uint32_t i = 0; i <= s->table_mask; i++) {
			while (s->conns[i] != NULL)
				tcp_conn_kill(s->conns[i]);
		}
		tcp_reap(s);
	}
	tcp_source_fini(s);
	free(s->conns);
	free(s->time_waits);
	pool_fini(&s->conn_pool);
	pool_fini(&s->listener_pool);
	pool_fini(&s->time_wait_pool);
	pool_fini(&s->range_pool);
	pool_fini(&s->sent_pool);
	pool_fini(&s->flight_pool);
	pool_fini(&s->ooo_pool);
}

/* ---- life ----------------------------------------------------------------------------------- */

struct tcp_conn *tcp_conn_new(struct net_stack *s, const struct net_addr *local,
			      const struct net_addr *remote)
{
	const struct tcp_config *t = &s->config.tcp;
	struct tcp_conn *c = pool_get_zero(&s->conn_pool);

	if (c == NULL)
		return NULL;
	flow_key_make(&c->key, local, remote);
	c->stack = s;
	c->path_mss = (uint16_t)(tcp_mss_limit(s, local) - (s->config.mtu - pmtu_of(s, remote)));
	c->mss = c->path_mss < 536 ? c->path_mss : 536; /* RFC 9293 s3.7.1 */
	c->keepalive_ms = tcp_limit_ms(t->keepalive_idle_ns);
	c->user_timeout_ms = tcp_limit_ms(t->user_timeout_ns);
	c->received_ms = s->now_ms;
	c->progress_ms = s->now_ms;
	c->sent_ms = s->now_ms;
	c->congestion = t->congestion;
	if (t->nagle)
		c->flags |= TCPF_NAGLE;
	c->opening.iss = tcp_isn(s, &c->key);
	c->ts_offset = tcp_ts_offset(s, &c->key);
	c->snd_una = c->opening.iss;
	c->snd_nxt = c->opening.iss;
	c->snd_max = c->opening.iss;
	c->snd_end = c->opening.iss + 1;
	c->sq_seq = c->opening.iss + 1;
	list_init(&c->dirty_link);
	tcp_timers_init(c);
	if (t->window_scaling)
		c->receive_wscale = tcp_receive_wscale(t);
	s->conns_n++;
	tcp_table_add(s, c);
	return c;
}

static void listener_free_unused(struct tcp_listener *l)
{
	if (l->closed && l->connections + l->half_open == 0)
		pool_put(&l->stack->listener_pool, l);
}

static void listener_leave(struct tcp_conn *c)
{
	struct tcp_listener *l = tcp_listener_of(c);
	bool half_open = (c->flags & TCPF_HALF_OPEN) != 0;

	tcp_source_leave(c, half_open);
	if (l == NULL)
		return;
	c->listener = 0;
	if (half_open)
		counter_set(&l->counters->half_open, --l->half_open);
	else
		counter_set(&l->counters->connections, --l->connections);
	listener_free_unused(l);
}

void tcp_conn_kill(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;

	if (c->flags & TCPF_DEAD)
		return;
	listener_leave(c);
	tcp_half_open_remove(c);
	tcp_table_del(s, c);
	tcp_timers_stop(c);
	tcp_queue_free(c);
	tcp_ranges_free(c);
	tcp_flight_end(c);
	list_del(&c->dirty_link);
	c->flags = (c->flags & ~TCPF_DIRTY) | TCPF_DEAD;
	c->state = TCP_CLOSED;
	s->conns_n--;
	list_add_tail(&s->dead, &c->dirty_link);
}

void tcp_conn_end(struct tcp_conn *c, int reason)
{
	bool tell = tcp_has_owner(c);

	tcp_conn_kill(c);
	if (tell && c->events->closed != NULL)
		c->events->closed(c->context, reason);
}

void tcp_reap(struct net_stack *s)
{
	struct list *node;

	while ((node = list_pop_head(&s->dead)) != NULL)
		pool_put(&s->conn_pool, list_entry(node, struct tcp_conn, dirty_link));
}

void tcp_mark_dirty(struct tcp_conn *c)
{
	if (c->flags & (TCPF_DIRTY | TCPF_DEAD))
		return;
	c->flags |= TCPF_DIRTY;
	list_add_tail(&c->stack->dirty, &c->dirty_link);
}

/* ---- listeners ------------------------------------------------------------------------------ */

struct tcp_listener *tcp_listener_find(struct net_stack *s, const struct net_addr *local)
{
	struct tcp_listener *any = NULL;

	list_for_each (node, &s->listeners) {
		struct tcp_listener *l = list_entry(node, struct tcp_listener, link);

		if (l->local.family != local->family || l->local.port != local->port)
			continue;
		if (net_addr_equal(&l->local, local))
			return l;
		if (net_addr_is_any(&l->local))
			any = l;
	}
	return any;
}

int tcp_listen(struct net_stack *s, const struct net_addr *local, const struct tcp_events *events,
	       void *listen_ctx, struct tcp_listener **out)
{
	struct tcp_listener *l;

	*out = NULL;
	if (local->port == 0 || local->family == NET_FAMILY_NONE || events->accept == NULL ||
	    events->data == NULL || events->eof == NULL || events->writable == NULL ||
	    events->closed == NULL)
		return -SPLIT_E_BASE_INVALID;
	if (!net_addr_is_any(local) && !net_addr_is_ours(s, local) &&
	    (local->family != NET_FAMILY_IPV6 || ndp_address_find(s, local) == NULL))
		return -SPLIT_E_BASE_INVALID;
	list_for_each (node, &s->listeners) {
		if (net_addr_equal(&list_entry(node, struct tcp_listener, link)->local, local))
			return -SPLIT_E_NET_IN_USE;
	}
	l = pool_get_zero(&s->listener_pool);
	if (l == NULL)
		return -SPLIT_E_BASE_LIMIT;
	l->stack = s;
	l->local = *local;
	l->events = events;
	l->context = listen_ctx;
	l->counters = &l->own;
	list_add_tail(&s->listeners, &l->link);
	*out = l;
	return 0;
}

void tcp_listener_close(struct tcp_listener *l)
{
	struct net_stack *s = l->stack;

	list_for_each_safe (node, &s->half_open) {
		struct tcp_conn *c = list_entry(node, struct tcp_conn, opening.half_link);

		if (tcp_listener_of(c) == l) {
			tcp_rst_send(c);
			tcp_conn_kill(c);
		}
	}
	list_del(&l->link);
	l->closed = true;
	listener_free_unused(l);
}

void tcp_listener_limit(struct tcp_listener *l, uint32_t half_open_max, uint32_t connections_max,
			struct listener_counters *counters)
{
	l->half_open_max = half_open_max;
	l->connections_max = connections_max;
	if (counters != NULL)
		l->counters = counters;
}

/* ---- active open ---------------------------------------------------------------------------- */

static bool flow_in_use(struct net_stack *s, const struct net_addr *local,
			const struct net_addr *remote)
{
	struct flow_key k;

	flow_key_make(&k, local, remote);
	return tcp_table_find(s, &k) != NULL || tcp_time_wait_find(s, &k) != NULL;
}

/* Do the answers come here? */
static bool flow_reaches(struct net_stack *s, const struct net_addr *local,
			 const struct net_addr *remote)
{
	return s->ops.reached == NULL || s->ops.reached(s->ops.ctx, local, remote);
}

/* RFC 6056 s3.3.1, simple port randomisation. */
static bool port_choose(struct net_stack *s, struct net_addr *local, const struct net_addr *remote)
{
	uint32_t start = (uint32_t)s->ops.random(s->ops.ctx);

	for (uint32_t i = 0; i < PORT_COUNT; i++) {
		local->port = (uint16_t)(PORT_FIRST + (start + i) % PORT_COUNT);
		if (flow_reaches(s, local, remote) && !flow_in_use(s, local, remote))
			return true;
	}
	return false;
}

int tcp_connect(struct net_stack *s, const struct net_addr *local, const struct net_addr *remote,
		const struct tcp_events *events, void *conn_ctx, struct tcp_conn **out)
{
	struct net_addr from = {0};
	struct tcp_conn *c;

	*out = NULL;
	if (remote->port == 0 || net_addr_is_any(remote) || events == NULL)
		return -SPLIT_E_BASE_INVALID;
	if (!net_source_for(s, remote, &from))
		return -SPLIT_E_NET_NO_ROUTE;
	if (local != NULL) {
		from.port = local->port;
		if (!net_addr_is_any(local)) {
			if (!net_addr_is_ours(s, local) || local->family != remote->family)
				return -SPLIT_E_BASE_INVALID;
			from = *local;
		}
	}
	if (s->conns_n - s->half_open_n >= s->config.tcp.connections_max)
		return -SPLIT_E_NET_LIMIT;
	if (from.port == 0 ? !port_choose(s, &from, remote) : flow_in_use(s, &from, remote))
		return -SPLIT_E_NET_IN_USE;
	c = tcp_conn_new(s, &from, remote);
	if (c == NULL)
		return -SPLIT_E_NET_LIMIT;
	c->events = events;
	c->context = conn_ctx;
	c->flags |= TCPF_ACCEPTED;
	c->state = TCP_SYN_SENT;
	COUNT(s, tcp_opens_active);
	tcp_mark_dirty(c);
	tcp_life_update(c);
	*out = c;
	return 0;
}

void tcp_set_connect_timeout(struct tcp_conn *c, uint64_t timeout_ns)
{
	if (c->state != TCP_SYN_SENT || (c->flags & TCPF_DEAD) != 0)
		return;
	c->opening.connect_ns = tcp_since_ns(c, c->progress_ms) + timeout_ns;
	tcp_life_update(c);
}

/* ---- sending -------------------------------------------------------------------------------- */

uint32_t tcp_mbuf_pinned(const struct rte_mbuf *chain)
{
	uint32_t pinned = 0;

	for (const struct rte_mbuf *m = chain; m != NULL; m = m->next)
		pinned += m->buf_len + (uint32_t)sizeof(*m);
	return pinned;
}

/* What a connection may queue however short mbufs are. */
#define SEND_LEAST (16u << 10)

/* Bytes that a connection may queue now: its send buffer, and less once the queues of all hold half
 * of the mbufs that are theirs, so that peers who take nothing leave room for the others. */
static uint32_t send_limit(const struct tcp_conn *c)
{
	const struct tcp_config *t = &c->stack->config.tcp;
	uint32_t max = t->send_mbufs_max, used = c->stack->sq_mbufs;
	uint32_t least = t->send_buffer < SEND_LEAST ? t->send_buffer : SEND_LEAST;
	uint64_t limit;

	if (max == 0 || used <= max / 2)
		return t->send_buffer;
	limit = used < max ? (uint64_t)t->send_buffer * 2 * (max - used) / max : 0;
	return limit < least ? least : (uint32_t)limit;
}

size_t tcp_send_room(const struct tcp_conn *c)
{
	uint32_t queued = tcp_queued(c), limit = send_limit(c);

	if ((c->flags & (TCPF_FIN_QUEUED | TCPF_DEAD | TCPF_ORPHAN)) || queued >= limit ||
	    c->sq_pinned >= pinned_max(c))
		return 0;
	return limit - queued;
}

/* Small payloads pin whole mbufs: put them behind the queue's last bytes, where only we refer to
 * that mbuf and there is room. */
static bool queue_compact(struct tcp_conn *c, struct rte_mbuf *m)
{
	struct rte_mbuf *tail = c->sq_tail;

	if (tail == NULL || m->data_len > c->stack->config.tcp.copy_bytes_max ||
	    !RTE_MBUF_DIRECT(tail) || rte_mbuf_refcnt_read(tail) != 1 ||
	    rte_pktmbuf_tailroom(tail) < m->data_len)
		return false;
	memcpy(rte_pktmbuf_mtod_offset(tail, char *, tail->data_len), rte_pktmbuf_mtod(m, char *),
	       m->data_len);
	tail->data_len = (uint16_t)(tail->data_len + m->data_len);
	COUNT(c->stack, tcp_compactions);
	return true;
}

static void queue_append(struct tcp_conn *c, struct rte_mbuf *m)
{
	uint32_t len = m->data_len;

	m->next = NULL;
	m->nb_segs = 1;
	if (len == 0 || queue_compact(c, m)) {
		rte_pktmbuf_free_seg(m);
		c->snd_end += len;
		return;
	}
	c->sq_pinned += tcp_mbuf_pinned(m);
	c->stack->sq_mbufs++;
	if (c->sq_head == NULL) {
		c->sq_head = m;
		c->sq_seq = c->snd_end;
		c->cursor = m;
		c->cursor_seq = c->snd_end;
	} else {
		c->sq_tail->next = m;
	}
	c->sq_tail = m;
	c->snd_end += len;
}

/* `writable` when there is room for `bytes`, and for half the buffer. net_flush() looks too, for
 * there may be no ACK to come. */
static void want_room(struct tcp_conn *c, uint32_t bytes)
{
	uint32_t room = bytes > c->stack->config.tcp.send_buffer / 2
				? bytes
				: c->stack->config.tcp.send_buffer / 2;

	if ((c->flags & TCPF_WANT_WRITE) == 0 || c->write_room < room)
		c->write_room = room;
	c->flags |= TCPF_WANT_WRITE;
	tcp_mark_dirty(c);
}

void tcp_writable_check(struct tcp_conn *c)
{
	uint32_t wanted = c->write_room, limit;

	if ((c->flags & TCPF_WANT_WRITE) == 0 || !tcp_has_owner(c) || c->state < TCP_ESTABLISHED)
		return;
	limit = send_limit(c);
	if (tcp_send_room(c) < (wanted <= limit ? wanted : limit / 2))
		return;
	c->flags &= ~TCPF_WANT_WRITE;
	if (c->events->writable != NULL)
		c->events->writable(c->context);
}

int tcp_send(struct tcp_conn *c, struct rte_mbuf *chain)
{
	uint64_t bytes = 0;

	if (chain == NULL)
		return -SPLIT_E_BASE_INVALID;
	if (c->flags & (TCPF_FIN_QUEUED | TCPF_DEAD | TCPF_ORPHAN))
		return -SPLIT_E_NET_CLOSED;
	for (const struct rte_mbuf *m = chain; m != NULL; m = m->next)
		bytes += m->data_len;
	if (bytes > c->stack->config.tcp.send_buffer)
		return -SPLIT_E_BASE_INVALID;
	if (bytes > tcp_send_room(c)) {
		want_room(c, (uint32_t)bytes);
		return -SPLIT_E_NET_FULL;
	}
	if (tcp_queued(c) == 0)
		c->progress_ms = c->stack->now_ms;
	while (chain != NULL) {
		struct rte_mbuf *next = chain->next;

		queue_append(c, chain);
		chain = next;
	}
	tcp_mark_dirty(c);
	return 0;
}

void tcp_want_writable(struct tcp_conn *c)
{
	want_room(c, 0);
}

void tcp_consumed(struct tcp_conn *c, size_t bytes)
{
	if (c->flags & TCPF_DEAD)
		return;
	if (bytes >= c->unconsumed) {
		c->unconsumed = 0;
		c->delivered_pinned = 0;
	} else {
		c->delivered_pinned -=
			(uint32_t)((uint64_t)c->delivered_pinned * bytes / c->unconsumed);
		c->unconsumed -= (uint32_t)bytes;
	}
	if (tcp_window_update_due(c)) {
		c->flags |= TCPF_ACK_NOW;
		tcp_mark_dirty(c);
	}
}

/* ---- closing -------------------------------------------------------------------------------- */

void tcp_shutdown(struct tcp_conn *c)
{
	if (c->flags & (TCPF_FIN_QUEUED | TCPF_DEAD))
		return;
	if (tcp_queued(c) == 0)
		c->progress_ms = c->stack->now_ms;
	c->flags |= TCPF_FIN_QUEUED;
	switch (c->state) {
	case TCP_ESTABLISHED:
		c->state = TCP_FIN_WAIT_1;
		break;
	case TCP_CLOSE_WAIT:
		c->state = TCP_LAST_ACK;
		break;
	default: /* SYN_SENT, SYN_RECEIVED: when established */
		break;
	}
	tcp_mark_dirty(c);
}

void tcp_close(struct tcp_conn *c)
{
	if (c->flags & (TCPF_DEAD | TCPF_ORPHAN))
		return;
	/* RFC 2525 s2.17: the peer must learn that its data was not read. */
	if (c->unconsumed > 0 || c->state == TCP_SYN_SENT) {
		tcp_abort(c);
		return;
	}
	tcp_shutdown(c);
	c->flags |= TCPF_ORPHAN;
	tcp_ranges_free(c);
	tcp_life_update(c);
}

void tcp_abort(struct tcp_conn *c)
{
	if (c->flags & TCPF_DEAD)
		return;
	if (c->state >= TCP_SYN_RECEIVED)
		tcp_rst_send(c);
	tcp_conn_kill(c);
}

/* ---- looking -------------------------------------------------------------------------------- */

void tcp_local(const struct tcp_conn *c, struct net_addr *addr_out)
{
	*addr_out = c->key.local;
}

void tcp_peer(const struct tcp_conn *c, struct net_addr *addr_out)
{
	*addr_out = c->key.remote;
}

void tcp_set_context(struct tcp_conn *c, void *conn_ctx)
{
	c->context = conn_ctx;
}

void *tcp_context(const struct tcp_conn *c)
{
	return c->context;
}

void tcp_set_nagle(struct tcp_conn *c, bool on)
{
	c->flags = on ? c->flags | TCPF_NAGLE : c->flags & ~TCPF_NAGLE;
	tcp_mark_dirty(c);
}

void tcp_set_keepalive(struct tcp_conn *c, uint64_t idle_ns)
{
	c->keepalive_ms = tcp_limit_ms(idle_ns);
	tcp_life_update(c);
}

void tcp_set_user_timeout(struct tcp_conn *c, uint64_t timeout_ns)
{
	c->user_timeout_ms = tcp_limit_ms(timeout_ns);
}

struct tcp_info tcp_info(const struct tcp_conn *c)
{
	return (struct tcp_info){
		.state = c->state,
		.mss = c->mss,
		.cwnd = c->cwnd,
		.ssthresh = c->ssthresh,
		.send_window = c->snd_wnd,
		.receive_window = c->rcv_adv - c->rcv_nxt,
		.srtt_us = (uint32_t)(tcp_ticks_ns(c->srtt_ticks) / 1000),
		.rttvar_us = (uint32_t)(tcp_ticks_ns(c->rttvar_ticks) / 1000),
		.rto_us = (uint32_t)(tcp_rto_backed_off(c) / 1000),
		.bytes_sent = c->bytes_sent,
		.bytes_received = c->bytes_received,
		.segments_retransmitted = c->retransmits,
		.queued = tcp_queued(c),
		.unconsumed = c->unconsumed,
		.timestamps = (c->flags & TCPF_TIMESTAMPS) != 0,
		.sack = (c->flags & TCPF_SACK) != 0,
		.ecn = (c->flags & TCPF_ECN) != 0,
		.congestion = tcp_cc(c)->name,
	};
}

const char *tcp_state_name(enum tcp_state state)
{
	static const char *const names[] = {
		[TCP_CLOSED] = "CLOSED",
		[TCP_SYN_SENT] = "SYN_SENT",
		[TCP_SYN_RECEIVED] = "SYN_RECEIVED",
		[TCP_ESTABLISHED] = "ESTABLISHED",
		[TCP_CLOSE_WAIT] = "CLOSE_WAIT",
		[TCP_FIN_WAIT_1] = "FIN_WAIT_1",
		[TCP_FIN_WAIT_2] = "FIN_WAIT_2",
		[TCP_CLOSING] = "CLOSING",
		[TCP_LAST_ACK] = "LAST_ACK",
		[TCP_TIME_WAIT] = "TIME_WAIT",
	};

	return state <= TCP_TIME_WAIT ? names[state] : "?";
}
