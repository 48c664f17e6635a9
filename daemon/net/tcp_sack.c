/* What was sent and is not acknowledged: RFC 2018's scoreboard and RFC 8985's transmission times in
 * one.
 *
 * A sorted list of records that cover [snd_una, snd_max) without gaps, for connections that speak
 * SACK. A record is a run of bytes that left at one time and share a fate: under way, selectively
 * acknowledged, or lost. Runs are cut where a SACK block or a retransmission ends, so there are as
 * many as the last round trip's bursts and holes make, not one for each segment.
 *
 * Records come from the stack's pool. Each connection can always have one; beyond that as many as
 * are left, so that none takes all. Without one nothing new is sent (as without an mbuf), a block
 * is forgotten (which costs a needless retransmission), a cut is made too wide. All is well again
 * with the next acknowledgement or timeout, which leaves one record.
 */
#include "daemon/net/net_internal.h"

static struct tcp_sent *first(const struct tcp_conn *c)
{
	return list_empty(&c->sent) ? NULL
				    : list_entry(list_first(&c->sent), struct tcp_sent, link);
}

static struct tcp_sent *last(const struct tcp_conn *c)
{
	return list_empty(&c->sent) ? NULL : list_entry(list_last(&c->sent), struct tcp_sent, link);
}

static bool may_have(const struct tcp_conn *c)
{
	const struct net_stack *s = c->stack;
	uint32_t left = s->sent_pool.free_count, kept = s->conns_n - s->sent_conns;

	if (c->sent_n == 0)
		return left > 0;
	return left > kept && c->sent_n <= left - kept;
}

/* A record before `next`. NULL if there is none to be had. */
static struct tcp_sent *record_new(struct tcp_conn *c, struct list *next, uint32_t start,
				   uint32_t end)
{
	struct tcp_sent *r;

	if (!may_have(c))
		return NULL;
	r = pool_get(&c->stack->sent_pool);
	*r = (struct tcp_sent){.start = start, .end = end};
	list_insert(&r->link, next->prev, next);
	if (c->sent_n++ == 0)
		c->stack->sent_conns++;
	return r;
}

static void record_free(struct tcp_conn *c, struct tcp_sent *r)
{
	list_del(&r->link);
	pool_put(&c->stack->sent_pool, r);
	if (--c->sent_n == 0)
		c->stack->sent_conns--;
}

/* The bytes of `r` change from its fate to another one, or go (`flags` -1). */
static void account(struct tcp_conn *c, const struct tcp_sent *r, int sign)
{
	uint32_t bytes = r->end - r->start;

	if (r->flags & TCP_SENT_SACKED)
		c->sacked_bytes += sign > 0 ? bytes : -bytes;
	else if (r->flags & TCP_SENT_LOST)
		c->lost_bytes += sign > 0 ? bytes : -bytes;
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

	if ((c->flags & TCPF_SACK) == 0 || seq_lt(seq, c->snd_max))
		return true;
	tail = last(c);
	return may_have(c) ||
	       (tail != NULL && (tail->flags & (TCP_SENT_SACKED | TCP_SENT_LOST)) == 0);
}

/* [start, end) of what was sent before is on its way again. */
static void sent_again(struct tcp_conn *c, uint32_t start, uint32_t end)
{
	list_for_each_safe (node, &c->sent) {
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

void tcp_sent_note(struct tcp_conn *c, uint32_t start, uint32_t end)
{
	uint64_t now_ns = c->stack->now_ns;
	struct tcp_sent *tail;

	if ((c->flags & TCPF_SACK) == 0)
		return;
	if (seq_lt(start, c->snd_max)) {
		sent_again(c, start, seq_min(end, c->snd_max));
		start = seq_min(end, c->snd_max);
	}
	if (start == end)
		return;
	tail = last(c);
	if (tail != NULL && tail->flags == 0 && tail->xmit_ns == now_ns) {
		tail->end = end;
		return;
	}
	tail = record_new(c, &c->sent, start, end);
	if (tail == NULL) { /* tcp_sent_room() has looked: the last one takes it */
		tail = last(c);
		tail->end = end;
	}
	tail->xmit_ns = now_ns;
}

void tcp_sent_forget(struct tcp_conn *c)
{
	struct tcp_sent *r;

	while ((r = first(c)) != NULL)
		record_free(c, r);
	c->sacked_bytes = c->lost_bytes = 0;
}

/* RFC 2018 s8: after a timeout nothing selectively acknowledged is relied on. All in one record. */
void tcp_sent_lose_all(struct tcp_conn *c)
{
	struct tcp_sent *r = first(c);

	if (r == NULL)
		return;
	while (last(c) != r)
		record_free(c, last(c));
	r->end = c->snd_max;
	r->flags = TCP_SENT_LOST;
	c->sacked_bytes = 0;
	c->lost_bytes = r->end - r->start;
}

void tcp_sent_acked(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t una)
{
	struct tcp_sent *r;

	while ((r = first(c)) != NULL && seq_lt(r->start, una)) {
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

/* One block. True if it covers anything new. */
static bool block_take(struct tcp_conn *c, const struct tcp_segment *seg, uint32_t start,
		       uint32_t end)
{
	bool news = false;

	list_for_each_safe (node, &c->sent) {
		struct tcp_sent *r = list_entry(node, struct tcp_sent, link);

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
		news = true;
	}
	return news;
}

bool tcp_sack_update(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint32_t una = seq_max(c->snd_una, seg->ack);
	bool news = false;

	for (unsigned i = 0; i < seg->opt.sack_n; i++) {
		struct tcp_sack_block b = seg->opt.sack[i];

		/* RFC 2883 s4: the first, at or below the ACK, tells of a duplicate. */
		if (i == 0 && seq_lt(b.start, b.end) && seq_le(b.end, seg->ack) &&
		    seg->ack - b.start <= c->snd_wnd_max) {
			COUNT(c->stack, tcp_dsack_received);
			tcp_rack_dsack(c);
		}
		if (seq_ge(b.start, b.end) || seq_gt(b.end, c->snd_max) || seq_le(b.start, una))
			continue;
		news |= block_take(c, seg, b.start, b.end);
	}
	return news;
}

uint32_t tcp_sack_skip(const struct tcp_conn *c, uint32_t seq)
{
	if (c->sacked_bytes == 0)
		return seq;
	list_for_each (node, &c->sent) {
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
	if (c->lost_bytes == 0)
		return false;
	list_for_each (node, &c->sent) {
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
