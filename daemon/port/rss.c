/* Which worker a device's RSS sends a flow to: the Toeplitz hash, the key, the indirection table.
 *
 * Who opens a connection needs to know it: the source port is chosen so that the answers arrive at
 * the worker that opened. The key asked for is symmetric (0x6d5a over and over: Woo and Park,
 * 2012), so a flow's two directions have one hash. What the device really does is read back once it
 * is started; a device that does not tell spreads nothing for us, and the hand-over of steer.c
 * does.
 */
#include <string.h>

#include <rte_thash.h>

#include "base/log.h"
#include "daemon/port/port_internal.h"

#define RSS_TCP (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP)

void port_rss_request(struct port_dev *dev, const struct rte_eth_dev_info *info,
		      struct rte_eth_conf *conf)
{
	struct rte_eth_rss_conf *rss = &conf->rx_adv_conf.rss_conf;

	if (info->hash_key_size < RTE_THASH_V6_L4_LEN * 4 ||
	    info->hash_key_size > sizeof(dev->rss.key))
		return; /* the driver's own */
	for (size_t i = 0; i < sizeof(dev->rss.key); i++)
		dev->rss.key[i] = i % 2 == 0 ? 0x6d : 0x5a;
	rss->rss_key = dev->rss.key;
	rss->rss_key_len = info->hash_key_size;
}

static bool table_read(struct port_dev *dev, uint16_t entries)
{
	struct rte_eth_rss_reta_entry64 table[PORT_RETA_MAX / RTE_ETH_RETA_GROUP_SIZE];

	if (entries == 0 || entries > PORT_RETA_MAX)
		return false;
	memset(table, 0, sizeof(table));
	for (uint16_t i = 0; i < entries; i++)
		table[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1)
							   << (i % RTE_ETH_RETA_GROUP_SIZE);
	if (rte_eth_dev_rss_reta_query(dev->port_id, table, entries) != 0)
		return false;
	for (uint16_t i = 0; i < entries; i++)
		dev->rss.table[i] =
			table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	dev->rss.entries = entries;
	return true;
}

void port_rss_learn(struct port_dev *dev)
{
	struct rte_eth_rss_conf rss = {.rss_key = dev->rss.key,
				       .rss_key_len = sizeof(dev->rss.key)};
	struct rte_eth_dev_info info;

	if (!dev->spreads)
		return;
	if (rte_eth_dev_info_get(dev->port_id, &info) == 0 &&
	    rte_eth_dev_rss_hash_conf_get(dev->port_id, &rss) == 0 &&
	    rss.rss_key_len >= RTE_THASH_V6_L4_LEN * 4 && table_read(dev, info.reta_size)) {
		dev->rss.ports = (rss.rss_hf & RSS_TCP) == RSS_TCP;
		return;
	}
	log_info("port %s: %s does not tell how it spreads flows; the workers do it", dev->name,
		 dev->driver);
	dev->spreads = false;
}

uint32_t port_rss_hash(const uint8_t *key, const struct port_flow *flow, bool ports)
{
	uint32_t words[RTE_THASH_V6_L4_LEN];
	size_t each = flow->ipv6 ? 16 : 4;
	uint8_t bytes[40];
	uint32_t n = 0;

	memcpy(bytes, flow->src, each);
	memcpy(bytes + each, flow->dst, each);
	for (; n < 2 * each / 4; n++)
		words[n] = (uint32_t)bytes[4 * n] << 24 | (uint32_t)bytes[4 * n + 1] << 16 |
			   (uint32_t)bytes[4 * n + 2] << 8 | bytes[4 * n + 3];
	if (ports)
		words[n++] = (uint32_t)flow->src_port << 16 | flow->dst_port;
	return rte_softrss(words, n, key);
}

bool port_queue_gets(const struct port_queue *q, const struct port_flow *flow, uint32_t steer_hash)
{
	const struct port_dev *dev = q->dev;
	uint32_t hash;

	if (dev->workers_n == 1)
		return true;
	if (!dev->spreads)
		return dev->steer == NULL ? q->worker == 0
					  : steer_hash % dev->workers_n == q->worker;
	hash = port_rss_hash(dev->rss.key, flow, dev->rss.ports);
	return dev->rss.table[hash % dev->rss.entries] == q->rx_queue;
}
