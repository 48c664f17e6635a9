/* The sender's scoreboard: which bytes above snd_una the peer says it has. RFC 2018, RFC 6675.
 *
 * A short sorted list of disjoint intervals; what does not fit is forgotten, which costs at most a
 * needless retransmission. Blocks come from the peer: only those within (snd_una, snd_max] count.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

#define DUP_THRESH 3 /* RFC 6675 s2 */

/* Add [start, end). True if it covers anything new. */
static bool board_add(struct tcp_scoreboard *b, uint32_t start, uint32_t end)
{
	uint32_t first = 0, last;

	while (first < b->n && seq_lt(b->sacked[first].end, start))
		first++;
	last = first; /* one past the intervals that touch the new one */
	while (last < b->n && seq_le(b->sacked[last].start, end))
		last++;
	if (last == first) {
		if (b->n == TCP_SACKED_MAX)
			return false;
		memmove(&b->sacked[first + 1], &b->sacked[first],
			(b->n - first) * sizeof(b->sacked[0]));
		b->sacked[first] = (struct tcp_sack_block){start, end};
		b->n++;
		return true;
	}
	if (last == first + 1 && seq_le(b->sacked[first].start, start) &&
	    seq_ge(b->sacked[first].end, end))
		return false;
	start = seq_min(start, b->sacked[first].start);
	end = seq_max(end, b->sacked[last - 1].end);
	b->sacked[first] = (struct tcp_sack_block){start, end};
	memmove(&b->sacked[first + 1], &b->sacked[last], (b->n - last) * sizeof(b->sacked[0]));
	b->n -= last - first - 1;
	return true;
}

bool tcp_sack_update(struct tcp_conn *c, const struct tcp_segment *seg)
{
	uint32_t una = seq_max(c->snd_una, seg->ack);
	bool news = false;

	for (unsigned i = 0; i < seg->opt.sack_n; i++) {
		struct tcp_sack_block b = seg->opt.sack[i];

		/* A block at or below the cumulative ACK is a DSACK (RFC 2883): no news. */
		if (i == 0 && seq_lt(b.start, b.end) && seq_le(b.end, seg->ack) &&
		    seg->ack - b.start <= c->snd_wnd_max)
			COUNT(c->stack, tcp_dsack_received);
		if (seq_ge(b.start, b.end) || seq_gt(b.end, c->snd_max) || seq_le(b.start, una))
			continue;
		news |= board_add(&c->board, b.start, b.end);
	}
	return news;
}

void tcp_sack_trim(struct tcp_conn *c)
{
	struct tcp_scoreboard *b = &c->board;
	uint32_t gone = 0;

	while (gone < b->n && seq_le(b->sacked[gone].end, c->snd_una))
		gone++;
	if (gone > 0) {
		b->n -= gone;
		memmove(&b->sacked[0], &b->sacked[gone], b->n * sizeof(b->sacked[0]));
	}
	/* The peer acked into an interval it had: it is all acked soon; keep the rest. */
	if (b->n > 0 && seq_lt(b->sacked[0].start, c->snd_una))
		b->sacked[0].start = c->snd_una;
}

void tcp_sack_reset(struct tcp_conn *c)
{
	c->board.n = 0;
}

uint32_t tcp_sack_bytes_below(const struct tcp_conn *c, uint32_t seq)
{
	uint32_t bytes = 0;

	for (uint32_t i = 0; i < c->board.n && seq_lt(c->board.sacked[i].start, seq); i++)
		bytes += seq_min(c->board.sacked[i].end, seq) - c->board.sacked[i].start;
	return bytes;
}

uint32_t tcp_sack_skip(const struct tcp_conn *c, uint32_t seq)
{
	for (uint32_t i = 0; i < c->board.n; i++) {
		const struct tcp_sack_block *b = &c->board.sacked[i];

		if (seq_le(b->start, seq) && seq_lt(seq, b->end))
			return b->end;
	}
	return seq;
}

/* IsLost() for the hole below interval `i`: DupThresh intervals, or more than DupThresh - 1 full
 * segments, are sacked above it. */
static bool hole_lost(const struct tcp_conn *c, uint32_t i)
{
	uint32_t bytes = 0;

	if (c->board.n - i >= DUP_THRESH)
		return true;
	for (; i < c->board.n; i++)
		bytes += c->board.sacked[i].end - c->board.sacked[i].start;
	return bytes > (DUP_THRESH - 1) * c->mss;
}

bool tcp_sack_lost_hole(const struct tcp_conn *c, uint32_t from, struct tcp_sack_block *hole_out)
{
	uint32_t start = c->snd_una;

	for (uint32_t i = 0; i < c->board.n; i++) {
		const struct tcp_sack_block *b = &c->board.sacked[i];

		if (seq_lt(from, b->start) && seq_lt(start, b->start)) {
			if (!hole_lost(c, i))
				return false; /* nor is any above it */
			hole_out->start = seq_max(from, start);
			hole_out->end = b->start;
			return true;
		}
		start = b->end;
	}
	return false;
}

uint32_t tcp_sack_pipe(const struct tcp_conn *c)
{
	uint32_t start = c->snd_una;
	uint32_t pipe = 0;

	for (uint32_t i = 0; i < c->board.n; i++) {
		const struct tcp_sack_block *b = &c->board.sacked[i];
		uint32_t again_end = seq_min(c->again_nxt, b->start);

		if (seq_lt(start, b->start) && !hole_lost(c, i))
			pipe += b->start - start;
		if (seq_gt(again_end, start))
			pipe += again_end - start; /* sent once more */
		start = b->end;
	}
	if (seq_gt(c->snd_max, start)) {
		pipe += c->snd_max - start;
		if (seq_gt(c->again_nxt, start))
			pipe += c->again_nxt - start;
	}
	return pipe;
}
