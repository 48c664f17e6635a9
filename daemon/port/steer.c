/* The hand-over between workers, for ports with fewer queues than workers or without RSS.
 *
 * Each worker that shares such a port has one ring (many producers, one consumer) for frames that
 * other workers received for it. A full ring drops: the frame's owner is behind, and TCP will
 * repeat it; waiting here would stall the flows of the worker that waits. Workers without a TX
 * queue put their frames into one ring that the owner of TX queue 0 empties in its own receive
 * poll. */
#include <string.h>

#include "daemon/port/port_internal.h"

static void hand_over(struct port_queue *q, unsigned worker, struct rte_mbuf *pkt)
{
	struct rte_ring *ring = q->dev->queues[worker]->rx_ring;

	if (rte_ring_mp_enqueue(ring, pkt) == 0) {
		counter_inc(&q->counters.rx_handed_over);
		return;
	}
	counter_inc(&q->counters.rx_handover_drops);
	rte_pktmbuf_free(pkt);
}

/* A copy for every other worker. Copies, not clones: two stacks must not write into one buffer. */
static void hand_to_all(struct port_queue *q, struct rte_mbuf *pkt)
{
	for (unsigned w = 0; w < q->dev->workers_n; w++) {
		struct rte_mbuf *copy;

		if (w == q->worker)
			continue;
		copy = rte_pktmbuf_copy(pkt, q->rx_pool, 0, UINT32_MAX);
		if (copy == NULL)
			counter_inc(&q->counters.rx_handover_drops);
		else
			hand_over(q, w, copy);
	}
}

/* The worker whose frame it is; workers_n: everybody's. Where the device spreads by RSS, a flow
 * stays with the worker it came to. */
static unsigned frame_owner(const struct port_queue *q, const struct rte_mbuf *pkt)
{
	const struct port_dev *dev = q->dev;
	uint32_t hash;

	if (dev->steer == NULL)
		return dev->spreads ? q->worker : 0;
	if (!dev->steer(pkt, &hash))
		return dev->workers_n;
	return dev->spreads ? q->worker : hash % dev->workers_n;
}

uint16_t port_steer_rx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	struct rte_mbuf *raw[PORT_BURST_MAX];
	uint16_t kept, got;

	if (q->tx_ring != NULL && q->tx_queue == 0)
		port_steer_tx_drain(q);
	/* At most half from the ring, so that neither source starves the other. */
	kept = (uint16_t)rte_ring_sc_dequeue_burst(
		q->rx_ring, (void **)pkts, q->rx_queue == PORT_QUEUE_NONE ? n : (n + 1u) / 2, NULL);
	if (q->rx_queue == PORT_QUEUE_NONE || kept == n)
		return kept;
	got = rte_eth_rx_burst(q->port_id, q->rx_queue, raw, n - kept);
	for (uint16_t i = 0; i < got; i++) {
		unsigned owner = frame_owner(q, raw[i]);

		if (owner == q->dev->workers_n)
			hand_to_all(q, raw[i]);
		if (owner == q->dev->workers_n || owner == q->worker)
			pkts[kept++] = raw[i];
		else
			hand_over(q, owner, raw[i]);
	}
	return kept;
}

uint16_t port_steer_tx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n)
{
	uint16_t took =
		(uint16_t)rte_ring_mp_enqueue_burst(q->tx_ring, (void *const *)pkts, n, NULL);

	counter_add(&q->counters.tx_handed_over, took);
	if (took < n)
		counter_inc(&q->counters.tx_full);
	return took;
}

void port_steer_tx_drain(struct port_queue *q)
{
	for (unsigned i = 0; i < PORT_HANDOVER_SLOTS / PORT_BURST_MAX; i++) {
		uint16_t sent;

		if (q->tx_held_n == 0)
			q->tx_held_n = (uint16_t)rte_ring_sc_dequeue_burst(
				q->tx_ring, (void **)q->tx_held, PORT_BURST_MAX, NULL);
		if (q->tx_held_n == 0)
			return;
		sent = port_device_tx(q, q->tx_held, q->tx_held_n);
		q->tx_held_n -= sent;
		if (q->tx_held_n != 0) { /* the device is full: keep order, go on next poll */
			memmove(q->tx_held, q->tx_held + sent,
				q->tx_held_n * sizeof(struct rte_mbuf *));
			return;
		}
	}
}
