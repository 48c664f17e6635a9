/* Chains for devices that take none. */
#include <string.h>

#include "daemon/port/port_internal.h"

struct rte_mbuf *port_linearize(struct rte_mempool *pool, struct rte_mbuf *pkt)
{
	uint32_t bytes = pkt->pkt_len;
	struct rte_mbuf *copy = rte_pktmbuf_alloc(pool);
	char *to;

	if (copy == NULL || bytes > rte_pktmbuf_tailroom(copy))
		goto drop;
	to = rte_pktmbuf_append(copy, (uint16_t)bytes);
	for (const struct rte_mbuf *seg = pkt; seg != NULL; seg = seg->next) {
		/* pkt_len is the sum by contract; a chain that breaks it must not write past. */
		uint32_t part = seg->data_len < bytes ? seg->data_len : bytes;

		memcpy(to, rte_pktmbuf_mtod(seg, const void *), part);
		to += part;
		bytes -= part;
	}
	if (bytes != 0)
		goto drop;
	copy->ol_flags = pkt->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK;
	copy->tx_offload = pkt->tx_offload;
	copy->vlan_tci = pkt->vlan_tci;
	rte_pktmbuf_free(pkt);
	return copy;
drop:
	rte_pktmbuf_free(copy);
	rte_pktmbuf_free(pkt);
	return NULL;
}
