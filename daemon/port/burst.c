/* The two burst functions: what every frame passes. */
#include "daemon/port/port_internal.h"

COUNTER_DEFINE(port, PORT_COUNTERS);

static inline uint64_t frames_bytes(struct rte_mbuf *const *pkts, uint16_t n)
{
	uint64_t bytes = 0;

	for (uint16_t i = 0; i < n; i++)
		bytes += pkts[i]->pkt_len;
	return bytes;
}

uint16_t port_rx_burst(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	uint16_t got;

	if (n > PORT_BURST_MAX)
		n = PORT_BURST_MAX;
	if (__builtin_expect(q->steers, 0))
		got = port_steer_rx(q, pkts, n);
	else
		got = rte_eth_rx_burst(q->port_id, q->rx_queue, pkts, n);
	if (got == 0) {
		counter_inc(&q->counters.rx_polls_empty);
		return 0;
	}
	counter_add(&q->counters.rx_frames, got);
	counter_add(&q->counters.rx_bytes, frames_bytes(pkts, got));
	if (q->joins && got > 1)
		got = port_join(q, pkts, got);
	return got;
}

static inline bool must_copy(const struct port_queue *q, const struct rte_mbuf *pkt)
{
	return (q->copies_chains && pkt->nb_segs > 1) ||
	       (q->copies_clones && !RTE_MBUF_DIRECT(pkt));
}

/* A chain of mbufs with bytes of their own, for a device that takes chains but no clones. */
static struct rte_mbuf *copy_chain(struct rte_mempool *pool, struct rte_mbuf *pkt)
{
	struct rte_mbuf *copy = rte_pktmbuf_copy(pkt, pool, 0, UINT32_MAX);

	rte_pktmbuf_free(pkt);
	return copy;
}

bool port_shape_frame(struct port_queue *q, struct rte_mbuf **pkt)
{
	if (!must_copy(q, *pkt))
		return true;
	if (!q->copies_chains &&
	    (*pkt)->pkt_len + RTE_PKTMBUF_HEADROOM > rte_pktmbuf_data_room_size(q->linear_pool))
		*pkt = copy_chain(q->linear_pool, *pkt);
	else
		*pkt = port_linearize(q->linear_pool, *pkt);
	if (*pkt == NULL) {
		counter_inc(&q->counters.tx_linearize_drops);
		return false;
	}
	counter_inc(&q->counters.tx_linearized);
	return true;
}

/* Shapes the frames in place, closing the gaps of those that are gone; returns how many are left.
 */
static uint16_t shape_burst(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	uint16_t kept = 0;

	for (uint16_t i = 0; i < n; i++) {
		struct rte_mbuf *pkt = pkts[i];

		if (port_shape_frame(q, &pkt))
			pkts[kept++] = pkt;
	}
	return kept;
}

/* Bursts in a row of which a device takes nothing: then the first frame is what it will not take.
 */
#define TX_STUCK_MAX 2000

uint16_t port_device_tx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	struct rte_mbuf *frames[PORT_BURST_MAX];
	uint64_t bytes[PORT_BURST_MAX];
	uint16_t sent = 0;

	/* The device may free what it takes at once: lengths are read before. */
	for (uint16_t i = 0; i < n; i++) {
		frames[i] = pkts[i];
		bytes[i] = pkts[i]->pkt_len;
	}
	while (sent < n) {
		uint16_t ready = n - sent, took;

		if (q->prepares)
			ready = rte_eth_tx_prepare(q->port_id, q->tx_queue, frames + sent, ready);
		took = ready == 0 ? 0
				  : rte_eth_tx_burst(q->port_id, q->tx_queue, frames + sent, ready);
		for (uint16_t i = sent; i < sent + took; i++)
			counter_add(&q->counters.tx_bytes, bytes[i]);
		counter_add(&q->counters.tx_frames, took);
		sent += took;
		if (took < ready) {
			counter_inc(&q->counters.tx_full);
			/* net_tap takes nothing behind a frame that the kernel refuses, for ever.
			 */
			q->tx_stuck = took == 0 ? q->tx_stuck + 1 : 0;
			if (unlikely(q->tx_stuck > TX_STUCK_MAX)) {
				q->tx_stuck = 0;
				rte_pktmbuf_free(frames[sent++]);
				counter_inc(&q->counters.tx_stuck_drops);
			}
			break;
		}
		q->tx_stuck = 0;
		if (sent < n) { /* prepare stopped here: no later try would be better */
			rte_pktmbuf_free(frames[sent++]);
			counter_inc(&q->counters.tx_prepare_drops);
		}
	}
	return sent;
}

/* Frames in the shape that the device takes: to it, or to the worker that has its queue. */
static uint16_t shaped_tx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	if (__builtin_expect(q->tx_queue == PORT_QUEUE_NONE, 0))
		return port_steer_tx(q, pkts, n);
	return port_device_tx(q, pkts, n);
}

/* As port_tx_burst, with nothing to cut. */
static uint16_t whole_tx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	uint16_t kept = n, gone, sent;

	if (q->copies_chains || q->copies_clones)
		kept = shape_burst(q, pkts, n);
	gone = n - kept;
	sent = shaped_tx(q, pkts, kept);
	/* Frames that are gone count as taken: move what is left to the array's end, so that the
	 * caller finds it behind the number returned. */
	if (gone != 0)
		for (uint16_t i = kept; i > sent; i--)
			pkts[i - 1 + gone] = pkts[i - 1];
	return sent + gone;
}

static inline bool must_cut(const struct port_queue *q, const struct rte_mbuf *pkt)
{
	if ((pkt->ol_flags & RTE_MBUF_F_TX_TCP_SEG) == 0)
		return false;
	return pkt->ol_flags & RTE_MBUF_F_TX_IPV4 ? q->cuts4 : q->cuts6;
}

/* One large segment. True: taken, all of it. */
static bool cut_tx(struct port_queue *q, struct rte_mbuf *pkt)
{
	if (q->cut_of != pkt) {
		q->cut_n = port_cut(q, pkt, q->cut);
		q->cut_at = 0;
		q->cut_of = pkt;
		if (q->cut_n == 0)
			counter_inc(&q->counters.tx_cut_drops);
	}
	if (q->cut_at < q->cut_n)
		q->cut_at += shaped_tx(q, q->cut + q->cut_at, q->cut_n - q->cut_at);
	if (q->cut_at < q->cut_n)
		return false;
	q->cut_of = NULL;
	rte_pktmbuf_free(pkt);
	return true;
}

uint16_t port_tx_burst(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	uint16_t done = 0;

	if (n > PORT_BURST_MAX)
		n = PORT_BURST_MAX;
	if (!q->cuts4 && !q->cuts6)
		return n == 0 ? 0 : whole_tx(q, pkts, n);
	while (done < n) {
		uint16_t run = 0, sent;

		if (must_cut(q, pkts[done])) {
			if (!cut_tx(q, pkts[done]))
				break;
			done++;
			continue;
		}
		while (done + run < n && !must_cut(q, pkts[done + run]))
			run++;
		sent = whole_tx(q, pkts + done, run);
		done += sent;
		if (sent < run)
			break;
	}
	return done;
}
