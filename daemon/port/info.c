/* What can be asked of ports. */
#include "daemon/port/port_internal.h"

unsigned port_set_count(const struct port_set *set)
{
	return set->count;
}

void port_info_get(const struct port_set *set, unsigned index, struct port_info *out)
{
	const struct port_dev *dev = &set->devs[index];

	*out = (struct port_info){
		.name = dev->name,
		.device = dev->device,
		.driver = dev->driver,
		.port_id = dev->port_id,
		.mac = dev->mac,
		.mtu = dev->mtu,
		.rx_queues = dev->rx_queues,
		.tx_queues = dev->tx_queues,
		.numa_node = dev->numa_node,
		.flags = dev->flags,
		.data_room = dev->data_room,
	};
}

void port_link_get(const struct port_set *set, unsigned index, struct port_link *out)
{
	struct rte_eth_link link;

	*out = (struct port_link){0};
	if (rte_eth_link_get_nowait(set->devs[index].port_id, &link) != 0)
		return;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	out->speed_mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
}

struct port_queue *port_queue_of(struct port_set *set, unsigned index, unsigned worker)
{
	return set->devs[index].queues[worker];
}

struct rte_mempool *port_queue_pool(const struct port_queue *q)
{
	return q->tx_pool;
}

int port_queue_fd(const struct port_queue *q)
{
	return q->rx_fd;
}

bool port_queue_announces(const struct port_queue *q)
{
	return q->rx_fd >= 0 && !q->steers;
}

const struct port_counters *port_queue_counters(const struct port_queue *q)
{
	return &q->counters;
}

void port_queue_pool_usage(const struct port_queue *q, struct port_pool_usage *out)
{
	*out = (struct port_pool_usage){
		.tx_used = rte_mempool_in_use_count(q->tx_pool),
		.tx_size = q->tx_pool->size,
	};
	if (q->rx_pool != NULL) {
		out->rx_used = rte_mempool_in_use_count(q->rx_pool);
		out->rx_size = q->rx_pool->size;
	}
}
