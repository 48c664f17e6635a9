/* What was sent and is not acknowledged: RFC 2018's scoreboard and RFC 8985's transmission times in
 * one, for connections that speak SACK.
 *
 * Most flights left at one time and arrive whole: of them a connection remembers when (sent_tick),
 * and nothing else. When more is to be known (something leaves later, a block arrives, something is
 * lost) the stack lends a struct tcp_flight with a sorted list of records that cover [snd_una,
 * snd_max) without gaps, until all is acknowledged. A record is a run of bytes that left at one
 * time and share a fate: under way, selectively acknowledged, or lost. Runs are cut where a SACK
 * block or a retransmission ends, so there are as many as the last round trip's bursts and holes
 * make, not one for each segment.
 *
 * Where no struct tcp_flight is left, this flight is repaired as if there were no SACK
 * (TCPM_BLIND). Each has room for one record; beyond that as many as are left in the stack's pool,
 * so that none takes all. Without one nothing new is sent (as without an mbuf), a block is
 * forgotten (which costs a needless retransmission), a cut is made too wide. All is well again with
 * the next acknowledgement or timeout, which leaves one record.
 */
#include "daemon/net/net_internal.h"

/* Of the stack's flights this part is kept for repairs: what only wants pacing goes without. */
#define SPARE_PART 4u

/* A peer may cut what is under way into as many pieces as there are bytes, and each ACK looks at
 * all records: so many bursts and holes of one flight are told apart, not more. */
#define RECORDS_MAX 1024u

static struct tcp_sent *first(const struct tcp_flight *f)
{
	return list_empty(&f->sent) ? NULL
				    : list_entry(list_first(&f->sent), struct tcp_sent, link);
}

static struct tcp_sent *last(const struct tcp_flight *f)
{
	return list_empty(&f->sent) ? NULL : list_entry(list_last(&f->sent), struct tcp_sent, link);
}

static bool may_have(const struct tcp_conn *c)
{
	uint32_t left = c->stack->sent_pool.free_count;

	return !c->flight->own_used ||
	       (left > 0 && c->flight->sent_n <= left && c->flight->sent_n < RECORDS_MAX);
}

/* A record before `next`. NULL if there is none to be had. */
static struct tcp_sent *record_new(struct tcp_conn *c, struct list *next, uint32_t start,
				   uint32_t end)
{
	struct tcp_flight *f = c->flight;
	struct tcp_sent *r;

	if (!may_have(c))
		return NULL;
	r = f->own_used ? pool_get(&c->stack->sent_pool) : &f->own;
	if (r == &f->own)
		f->own_used = true;
	*r = (struct tcp_sent){.start = start, .end = end};
	list_insert(&r->link, next->prev, next);
	f->sent_n++;
	return r;
}

static void record_free(struct tcp_conn *c, struct tcp_sent *r)
{
	struct tcp_flight *f = c->flight;

	list_del(&r->link);
	f->sent_n--;
	if (r == &f->own)
		f->own_used = false;
	else
		pool_put(&c->stack->sent_pool, r);
}

bool tcp_flight_borrow(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;
	struct tcp_flight *f = c->flight;
	struct tcp_sent *r;

	if (f != NULL)
		return true;
	f = pool_get_zero(&s->flight_pool);
	if (f == NULL) {
		COUNT(s, tcp_flights_blind);
		c->marks |= TCPM_BLIND;
		c->dupacks = 0;
		return false;
	}
	list_init(&f->sent);
	f->pace_due_ns = TCP_NEVER;
	f->again = (struct tcp_cursor){c->sq_head, c->sq_seq};
	c->flight = f;
	if (c->snd_una != c->snd_max) {
		r = record_new(c, &f->sent, c->snd_una, c->snd_max);
		r->xmit_ns = s->now_ns - tcp_ticks_ns(s->now_tick - c->sent_tick);
	}
	return true;
}

bool tcp_flight_spare(const struct tcp_conn *c)
{
	const struct pool *p = &c->stack->flight_pool;

	return c->flight != NULL || p->free_count > pool_size(p) / SPARE_PART;
}

void tcp_flight_end(struct tcp_conn *c)
{
	struct tcp_sent *r;

	c->marks &= (uint8_t)~TCPM_BLIND;
	if (c->flight == NULL)
		return;
	while ((r = first(c->flight)) != NULL)
		record_free(c, r);
	pool_put(&c->stack->flight_pool, c->flight);
	c->flight = NULL;
}

/* The bytes of `r` change from its fate to another one, or go (`flags` -1). */
static void account(struct tcp_conn *c, const struct tcp_sent *r, int sign)
{
	uint32_t bytes = r->end - r->start;

	if (r->flags & TCP_SENT_SACKED)
		c->flight->sacked_bytes += sign > 0 ? bytes : -bytes;
	else if (r->flags & TCP_SENT_LOST)
		c->flight->lost_bytes += sign > 0 ? bytes : -bytes;
}

static void fate_set(struct tcp_conn *c, struct tcp_sent *r, uint8_t flags)
{
	account(c, r, -1);
	r->flags = flags;
	account(c, r, 1);
}

/* Cut `r` so that a record begins at `seq`; the part behind is returned, NULL if it cannot be. */
static struct tcp_sent *cut(struct tcp_conn *c, struct tcp_sent *r, uint32_t seq)
{
	struct tcp_sent *behind = record_new(c, r->link.next, seq, r->end);

	if (behind == NULL)
		return NULL;
	behind->xmit_ns = r->xmit_ns;
	behind->flags = r->flags;
	r->end = seq;
	return behind;
}

bool tcp_sent_room(const struct tcp_conn *c, uint32_t seq)
{
	const struct tcp_sent *tail;

	if (c->flight == NULL || seq_lt(seq, c->snd_max))
		return true;
	tail = last(c->flight);
	return may_have(c) ||
	       (tail != NULL && (tail->flags & (TCP_SENT_SACKED | TCP_SENT_LOST)) == 0);
}

/* [start, end) of what was sent before is on its way again. */
static void sent_again(struct tcp_conn *c, uint32_t start, uint32_t end)
{
	list_for_each_safe (node, &c->flight->sent) {
		struct tcp_sent *r = list_entry(node, struct tcp_sent, link), *behind;

		if (seq_le(r->end, start))
			continue;
		if (seq_ge(r->start, end))
			break;
		if (r->flags & TCP_SENT_SACKED)
			continue;
		if (seq_lt(r->start, start)) {
			behind = cut(c, r, start);
			if (behind != NULL)
				r = behind;
		}
		if (seq_gt(r->end, end))
			cut(c, r, end);
		fate_set(c, r, TCP_SENT_AGAIN);
		r->xmit_ns = c->stack->now_ns;
	}
}

/* With many records in a flight a burst joins the last one, up to a part of the flight, so that
 * there is room for cuts where something is lost. */
static bool coarse(const struct tcp_conn *c, uint32_t bytes)
{
	return c->flight->sent_n >= RECORDS_MAX / 2 &&
	       bytes < (c->snd_max - c->snd_una) / (RECORDS_MAX / 4);
}

void tcp_sent_note(struct tcp_conn *c, uint32_t start, uint32_t end)
{
	uint64_t now_ns = c->stack->now_ns;
	struct tcp_sent *tail;

	if (!tcp_scored(c) || start == end)
		return;
	if (c->flight == NULL) {
		uint32_t tick = c->stack->now_tick;

		if (start == c->snd_max && (c->snd_una == c->snd_max || c->sent_tick == tick)) {
			c->sent_tick = tick;
			return;
		}
		if (!tcp_flight_borrow(c))
			return;
	}
	if (seq_lt(start, c->snd_max)) {
		sent_again(c, start, seq_min(end, c->snd_max));
		start = seq_min(end, c->snd_max);
	}
	if (start == end)
		return;
	tail = last(c->flight);
	if (tail != NULL && tail->flags == 0 &&
	    (tail->xmit_ns == now_ns || coarse(c, tail->end - tail->start))) {
		tail->end = end;
		tail->xmit_ns = now_ns;
		return;
	}
	tail = record_new(c, &c->flight->sent, start, end);
	if (tail == NULL) { /* tcp_sent_room() has looked: the last one takes it */
		tail = last(c->flight);
		tail->end = end;
	}
	tail->xmit_ns = now_ns;
}

/* RFC 2018 s8: after a timeout nothing selectively acknowledged is relied on. All in one record. */
void tcp_sent_lose_all(struct tcp_conn *c)
{
	struct tcp_flight *f;
	struct tcp_sent *r;

	if (!tcp_scored(c) || c->snd_una == c->snd_max || !tcp_flight_borrow(c))
		return;
	f = c->flight;
	r = first(f);
	while (last(f) != r)
		record_free(c, last(f));
	r->end = c->snd_max;
	r->flags = TCP_SENT_LOST;
	f->sacked_bytes = 0;
	f->lost_bytes = r->end - r->start;
}

void tcp_sent_acked(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t una)
{
	struct tcp_sent *r;

	if (c->flight == NULL)
		return;
	while ((r = first(c->flight)) != NULL && seq_lt(r->start, una)) {
		uint32_t end = seq_min(r->end, una);

		if ((r->flags & TCP_SENT_SACKED) == 0)
			tcp_rack_delivered(c, seg, r, end);
		account(c, r, -1);
		if (end == r->end) {
			record_free(c, r);
			continue;
		}
		r->start = una;
		account(c, r, 1);
	}
}

/* What the peer has is one run, whenever its parts left. Returns the record that holds `r` now. */
static struct tcp_sent *sacked_join(struct tcp_conn *c, struct tcp_sent *r)
{
	struct tcp_sent *near;

	if (r->link.prev != &c->flight->sent) {
		near = list_entry(r->link.prev, struct tcp_sent, link);
		if (near->flags & TCP_SENT_SACKED) {
			near->end = r->end;
			record_free(c, r);
			r = near;
		}
	}
	if (r->link.next != &c->flight->sent) {
		near = list_entry(r->link.next, struct tcp_sent, link);
		if (near->flags & TCP_SENT_SACKED) {
			r->end = near->end;
			record_free(c, near);
		}
	}
	return r;
}

/* One block. True if it covers anything new. */
static bool block_take(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t start,
		       uint32_t end)
{
	struct list *head = &c->flight->sent, *next;
	bool news = false;

	for (struct list *node = head->next; node != head; node = next) {
		struct tcp_sent *r = list_entry(node, struct tcp_sent, link);

		next = node->next;
		if (seq_le(r->end, start) || (r->flags & TCP_SENT_SACKED) != 0)
			continue;
		if (seq_ge(r->start, end))
			break;
		if (seq_lt(r->start, start)) {
			r = cut(c, r, start);
			if (r == NULL)
				continue;
		}
		if (seq_gt(r->end, end) && cut(c, r, end) == NULL)
			continue;
		tcp_rack_delivered(c, seg, r, r->end);
		fate_set(c, r, TCP_SENT_SACKED);
		next = sacked_join(c, r)->link.next;
		news = true;
	}
	return news;
}

/* RFC 2883 s4: the first block tells of a duplicate if it lies at or below the ACK, or within the
 * second. */
static bool dsack(const struct tcp_conn *c, const struct tcp_segment *seg)
{
	const struct tcp_sack_block *b = seg->opt.sack;

	if (seq_ge(b->start, b->end))
		return false;
	if (seq_le(b->end, seg->ack))
		return seg->ack - b->start <= c->snd_wnd_max;
	return seg->opt.sack_n > 1 && seq_ge(b->start, seg->ack) && seq_le(b->end, c->snd_max) &&
	       seq_ge(b->start, b[1].start) && seq_le(b->end, b[1].end);
}

bool tcp_sack_update(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint32_t una = seq_max(c->snd_una, seg->ack);
	bool news = false;

	for (unsigned i = 0; i < seg->opt.sack_n; i++) {
		struct tcp_sack_block b = seg->opt.sack[i];

		if (i == 0 && dsack(c, seg)) {
			COUNT(c->stack, tcp_dsack_received);
			tcp_rack_dsack(c);
		}
		if (seq_ge(b.start, b.end) || seq_gt(b.end, c->snd_max) || seq_le(b.start, una))
			continue;
		if (!tcp_flight_borrow(c))
			return false;
		news |= block_take(c, seg, b.start, b.end);
	}
	return news;
}

uint32_t tcp_sack_skip(const struct tcp_conn *c, uint32_t seq)
{
	if (tcp_sacked(c) == 0)
		return seq;
	list_for_each (node, &c->flight->sent) {
		const struct tcp_sent *r = list_entry(node, struct tcp_sent, link);

		if (seq_le(r->start, seq) && seq_lt(seq, r->end)) {
			if ((r->flags & TCP_SENT_SACKED) == 0)
				return seq;
			seq = r->end;
		}
	}
	return seq;
}

bool tcp_sent_first_lost(const struct tcp_conn *c, uint32_t below, struct tcp_sack_block *hole_out)
{
	if (tcp_lost(c) == 0)
		return false;
	list_for_each (node, &c->flight->sent) {
		const struct tcp_sent *r = list_entry(node, struct tcp_sent, link);

		if (seq_ge(r->start, below))
			return false;
		if ((r->flags & (TCP_SENT_LOST | TCP_SENT_SACKED)) == TCP_SENT_LOST) {
			hole_out->start = r->start;
			hole_out->end = seq_min(r->end, below);
			return true;
		}
	}
	return false;
}
