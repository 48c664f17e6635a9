/* Received bytes: in order to the layer above, out of order into intervals. RFC 9293 s3.10.7.4,
 * RFC 5681 s4.2 (ACKs of data out of order), RFC 2018 (SACK blocks).
 *
 * Memory: a received segment pins its whole mbuf. What the layer above has not consumed counts with
 * what it pins and closes the window early. Out-of-order bytes are bounded for each connection by
 * intervals and by pinned memory, for the stack by mbufs; contiguous small segments are copied into
 * the mbuf before them.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

/* What out-of-order bytes may pin, in receive buffers. */
#define RANGES_PINNED_FACTOR 2u

/* What bytes in the layer above may pin. The window stops growing at half of it, so only a sender
 * of tiny segments into a window promised before gets here. */
#define UNREAD_PINNED_FACTOR 4u

/* Copying is worth it for payloads of at most this part of an mbuf's room. */
#define COMPACT_PART 4u

/* Full segments are at least as large as those of a peer that says nothing: RFC 9293 s3.7.1. */
#define FULL_LEAST 536u

/* Give back what was lent, once nothing is in it. */
static void ooo_release(struct tcp_conn *c)
{
	if (c->ooo == NULL || c->ooo->ranges_n != 0)
		return;
	pool_put(&c->stack->ooo_pool, c->ooo);
	c->ooo = NULL;
}

static void range_remove(struct tcp_conn *c, struct tcp_range *r, bool free_bytes)
{
	struct tcp_ooo *o = c->ooo;

	list_del(&r->link);
	o->pinned -= r->pinned;
	o->mbufs -= r->mbufs;
	c->stack->ooo_mbufs -= r->mbufs;
	if (free_bytes)
		rte_pktmbuf_free(r->head);
	pool_put(&c->stack->range_pool, r);
	o->ranges_n--;
}

static struct tcp_range *first_range(const struct tcp_conn *c)
{
	struct list *node = c->ooo == NULL ? NULL : list_first(&c->ooo->ranges);

	return node == NULL ? NULL : list_entry(node, struct tcp_range, link);
}

void tcp_ranges_free(struct tcp_conn *c)
{
	struct tcp_range *r;

	while ((r = first_range(c)) != NULL)
		range_remove(c, r, true);
	ooo_release(c);
}

void tcp_deliver(struct tcp_conn *c, struct rte_mbuf *chain, uint32_t len)
{
	c->bytes_received += len;
	c->unconsumed += len;
	c->delivered_pinned += tcp_mbuf_pinned(chain);
	c->events->data(c->context, chain);
}

/* Give what has become in order. False if the connection ended. */
static bool ranges_deliver(struct tcp_conn *c)
{
	struct tcp_range *r;

	while ((r = first_range(c)) != NULL) {
		struct rte_mbuf *chain = r->head;
		uint32_t start = r->start, end = r->end;

		if (seq_gt(start, c->rcv_nxt))
			break;
		if (seq_le(end, c->rcv_nxt)) {
			range_remove(c, r, true);
			ooo_release(c);
			continue;
		}
		chain->pkt_len = end - start;
		chain->nb_segs = (uint16_t)r->mbufs;
		range_remove(c, r, false);
		ooo_release(c);
		if (start != c->rcv_nxt)
			chain = net_mbuf_skip(chain, c->rcv_nxt - start);
		start = c->rcv_nxt;
		c->rcv_nxt = end;
		c->ack_due += end - start;
		c->flags |= TCPF_ACK_NOW; /* RFC 5681 s4.2: at once when a gap is filled */
		tcp_deliver(c, chain, end - start);
		if (c->flags & TCPF_DEAD)
			return false;
	}
	return true;
}

/* Short, and not the end of a write: the peer's full segments have become smaller (its path's MTU),
 * and every second of them is to be acknowledged: RFC 9293 s3.8.6.3. */
static bool full_now(const struct tcp_segment *seg)
{
	return (seg->flags & TCP_PSH) == 0 && seg->len >= FULL_LEAST;
}

static void in_order(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct rte_mbuf *chain = seg->payload;

	seg->payload = NULL;
	if (seg->len > c->receive_mss || full_now(seg))
		c->receive_mss = (uint16_t)(seg->len < NET_MTU_MAX ? seg->len : NET_MTU_MAX);
	c->rcv_nxt += seg->len;
	c->ack_due += seg->len;
	if (c->ooo != NULL)
		c->flags |= TCPF_ACK_NOW;
	tcp_mark_dirty(c);
	tcp_deliver(c, chain, seg->len);
	if (unlikely((c->flags & TCPF_DEAD) == 0 && c->ooo != NULL))
		ranges_deliver(c);
}

/* ---- out of order --------------------------------------------------------------------------- */

/* Put a small payload behind the bytes of `r`. */
static bool range_compact(struct tcp_conn *c, struct tcp_range *r, const struct rte_mbuf *m)
{
	struct rte_mbuf *tail = r->tail;

	if (m->nb_segs != 1 || !RTE_MBUF_DIRECT(tail) || rte_mbuf_refcnt_read(tail) != 1 ||
	    m->data_len > tail->buf_len / COMPACT_PART || rte_pktmbuf_tailroom(tail) < m->data_len)
		return false;
	memcpy(rte_pktmbuf_mtod_offset(tail, char *, tail->data_len),
	       rte_pktmbuf_mtod(m, const char *), m->data_len);
	tail->data_len = (uint16_t)(tail->data_len + m->data_len);
	r->end += m->data_len;
	COUNT(c->stack, tcp_compactions);
	return true;
}

/* Join `next` to the end of `r`, which it touches. */
static void range_join(struct tcp_conn *c, struct tcp_range *r, struct tcp_range *next)
{
	r->tail->next = next->head;
	r->tail = next->tail;
	r->end = next->end;
	r->mbufs += next->mbufs;
	r->pinned += next->pinned;
	if (seq_gt(next->stamp, r->stamp))
		r->stamp = next->stamp;
	c->ooo->ranges_n--;
	list_del(&next->link);
	pool_put(&c->stack->range_pool, next);
}

/* A connection may have as many of the stack's mbufs as are left: one that takes all it gets leaves
 * half of them, two leave a third, and the next always finds as much as each of them has. */
static bool range_room(struct tcp_conn *c, const struct rte_mbuf *m, uint32_t pinned)
{
	struct net_stack *s = c->stack;
	uint32_t max = s->config.tcp.ooo_mbufs_max;
	uint32_t left = s->ooo_mbufs < max ? max - s->ooo_mbufs : 0;

	if (c->ooo->pinned + pinned > RANGES_PINNED_FACTOR * s->config.tcp.receive_buffer ||
	    m->nb_segs > left || c->ooo->mbufs >= left) {
		COUNT(s, rx_drop_tcp_memory);
		return false;
	}
	return true;
}

static struct tcp_range *range_new(struct tcp_conn *c, struct list *before)
{
	struct tcp_range *r = NULL;

	if (c->ooo->ranges_n < c->stack->config.tcp.ooo_ranges_max)
		r = pool_get_zero(&c->stack->range_pool);
	if (r == NULL) {
		COUNT(c->stack, rx_drop_tcp_ooo_ranges);
		return NULL;
	}
	list_insert(&r->link, before->prev, before);
	c->ooo->ranges_n++;
	return r;
}

/* Where [*start, *end) goes: cut off what is held already, drop intervals it covers. Returns the
 * node that it goes before; *start == *end if nothing is left. */
static struct list *range_place(struct tcp_conn *c, uint32_t *start, uint32_t *end)
{
	struct list *head = &c->ooo->ranges, *next = head->next;

	while (next != head) {
		struct tcp_range *r = list_entry(next, struct tcp_range, link);

		if (seq_ge(r->start, *end))
			break;
		next = next->next;
		if (seq_le(r->end, *start))
			continue;
		if (seq_le(r->start, *start)) { /* holds our front */
			*start = seq_min(r->end, *end);
			if (*start == *end)
				r->stamp = ++c->ooo->stamp; /* the newest SACK block nevertheless */
		} else if (seq_ge(*end, r->end)) {
			range_remove(c, r, true); /* covered */
		} else {
			*end = r->start;
			return &r->link;
		}
		if (*start == *end)
			break;
	}
	return next;
}

/* With c->ooo there. */
static void range_take(struct tcp_conn *c, struct tcp_segment *seg)
{
	uint32_t start = seg->seq, end = seg->seq + seg->len;
	struct rte_mbuf *m = seg->payload;
	struct tcp_range *prev = NULL, *next = NULL;
	struct list *before;
	uint32_t pinned;

	before = range_place(c, &start, &end);
	if (start == end) {
		COUNT(c->stack, tcp_duplicate_segments);
		tcp_dsack_note(c, seg->seq, seg->seq + seg->len);
		return;
	}
	if (before->prev != &c->ooo->ranges)
		prev = list_entry(before->prev, struct tcp_range, link);
	if (before != &c->ooo->ranges)
		next = list_entry(before, struct tcp_range, link);
	/* Last failures first: from here on the payload is ours. */
	pinned = tcp_mbuf_pinned(m);
	if (!range_room(c, m, pinned))
		return;
	if (prev != NULL && prev->end != start)
		prev = NULL;
	if (prev == NULL) {
		prev = range_new(c, before);
		if (prev == NULL)
			return;
		prev->start = start;
		prev->end = start;
	}
	prev->stamp = ++c->ooo->stamp;
	seg->payload = NULL;
	if (end != seg->seq + seg->len)
		net_mbuf_cut(m, end - seg->seq);
	if (start != seg->seq)
		m = net_mbuf_skip(m, start - seg->seq);
	if (prev->head != NULL && range_compact(c, prev, m)) {
		rte_pktmbuf_free(m);
	} else {
		pinned = tcp_mbuf_pinned(m);
		if (prev->head == NULL)
			prev->head = m;
		else
			prev->tail->next = m;
		prev->tail = rte_pktmbuf_lastseg(m);
		prev->mbufs += m->nb_segs;
		prev->pinned += pinned;
		prev->end = end;
		c->ooo->pinned += pinned;
		c->ooo->mbufs += m->nb_segs;
		c->stack->ooo_mbufs += m->nb_segs;
	}
	if (next != NULL && prev->end == next->start)
		range_join(c, prev, next);
}

static void out_of_order(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;

	COUNT(s, tcp_ooo_segments);
	if (c->ooo == NULL) {
		c->ooo = pool_get_zero(&s->ooo_pool);
		if (c->ooo == NULL) { /* as many as mbufs may be held: ooo_mbufs_max */
			COUNT(s, rx_drop_tcp_memory);
			return;
		}
		list_init(&c->ooo->ranges);
	}
	range_take(c, seg);
	ooo_release(c); /* nothing came of it */
}

unsigned tcp_sack_blocks(const struct tcp_conn *c, struct tcp_sack_block *out, unsigned max)
{
	uint32_t below = 0;
	unsigned n = 0, first;

	if (c->dsack_start != c->dsack_end && max > 0)
		out[n++] = (struct tcp_sack_block){c->dsack_start, c->dsack_end};
	first = n;
	/* RFC 2018 s4: the interval of the newest segment first, then those reported most recently.
	 */
	while (n < max && c->ooo != NULL && n - first < c->ooo->ranges_n) {
		const struct tcp_range *best = NULL;

		list_for_each (node, &c->ooo->ranges) {
			const struct tcp_range *r = list_entry(node, struct tcp_range, link);

			if ((n == first || seq_lt(r->stamp, below)) &&
			    (best == NULL || seq_gt(r->stamp, best->stamp)))
				best = r;
		}
		if (best == NULL)
			break;
		below = best->stamp;
		out[n++] = (struct tcp_sack_block){best->start, best->end};
	}
	return n;
}

/* ---- entry ---------------------------------------------------------------------------------- */

/* Their FIN is known: nothing lies behind it, whatever they say. False if nothing is left. */
static bool fin_cut(struct tcp_conn *c, struct tcp_segment *seg)
{
	if (seq_le(seg->seq + seg->len, c->fin_seq))
		return true;
	COUNT(c->stack, rx_drop_tcp_window);
	if (seq_ge(seg->seq, c->fin_seq))
		return false;
	seg->len = c->fin_seq - seg->seq;
	net_mbuf_cut(seg->payload, seg->len);
	return true;
}

void tcp_in_data(struct tcp_conn *c, struct tcp_segment *seg)
{
	struct net_stack *s = c->stack;

	if (unlikely(c->state != TCP_ESTABLISHED && c->state != TCP_FIN_WAIT_1 &&
		     c->state != TCP_FIN_WAIT_2))
		return; /* after their FIN: nothing can follow */
	if (unlikely(c->flags & TCPF_ORPHAN)) {
		COUNT(s, rx_drop_tcp_closed_data);
		tcp_rst_send(c);
		tcp_conn_kill(c);
		return;
	}
	if (unlikely((c->flags & TCPF_FIN_RECEIVED) != 0 && !fin_cut(c, seg)))
		return;
	if (unlikely(seg->seq != c->rcv_nxt)) {
		out_of_order(c, seg);
		tcp_ack_send(c); /* each at once: the sender counts them */
		return;
	}
	if (unlikely(c->delivered_pinned > UNREAD_PINNED_FACTOR * s->config.tcp.receive_buffer)) {
		COUNT(s, rx_drop_tcp_memory);
		c->flags |= TCPF_ACK_NOW;
		tcp_mark_dirty(c);
		return;
	}
	in_order(c, seg);
}

static void fin_take(struct tcp_conn *c)
{
	c->flags |= TCPF_EOF_GIVEN;
	c->rcv_nxt++;
	c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt);
	switch (c->state) {
	case TCP_ESTABLISHED:
		c->state = TCP_CLOSE_WAIT;
		break;
	case TCP_FIN_WAIT_1:
		c->state = TCP_CLOSING;
		break;
	case TCP_FIN_WAIT_2:
		c->state = TCP_TIME_WAIT;
		break;
	default:
		break;
	}
	if (c->state == TCP_TIME_WAIT) {
		tcp_ack_send(c);
	} else {
		c->flags |= TCPF_ACK_NOW;
		tcp_mark_dirty(c);
		tcp_life_update(c);
	}
	if (tcp_has_owner(c) && c->events->eof != NULL)
		c->events->eof(c->context);
	if (c->state == TCP_TIME_WAIT && (c->flags & TCPF_DEAD) == 0) {
		COUNT(c->stack, tcp_closed);
		tcp_time_wait_enter(c);
		tcp_conn_end(c, 0);
	}
}

void tcp_in_fin(struct tcp_conn *c, struct tcp_segment *seg)
{
	if (c->flags & (TCPF_EOF_GIVEN | TCPF_DEAD))
		return;
	if ((seg->flags & TCP_FIN) != 0 && (c->flags & TCPF_FIN_RECEIVED) == 0) {
		uint32_t fin_seq = seg->seq + seg->len;

		if (c->ooo != NULL &&
		    seq_gt(list_entry(list_last(&c->ooo->ranges), struct tcp_range, link)->end,
			   fin_seq))
			return; /* bytes beyond it are held: not believable */
		c->flags |= TCPF_FIN_RECEIVED;
		c->fin_seq = fin_seq;
	}
	if ((c->flags & TCPF_FIN_RECEIVED) == 0)
		return;
	if (c->rcv_nxt == c->fin_seq) {
		fin_take(c);
	} else if ((seg->flags & TCP_FIN) != 0 && seg->len == 0) { /* its data was answered */
		c->flags |= TCPF_ACK_NOW;
		tcp_mark_dirty(c);
	}
}
