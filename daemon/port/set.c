/* Ports: devices, pools and queues, made from the configuration and taken down again. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_malloc.h>

#include "base/log.h"
#include "config/config.h"
#include "daemon/port/port_internal.h"

/* Mbufs that a pool keeps for each lcore beside the ring they share. A divisor of usual sizes. */
#define MBUF_CACHE 256

/* net_af_xdp fills its rings of 2,048 descriptors from the receive pool, and sends from it too. */
#define AF_XDP_MBUFS_MIN 8192

/* What "tso": "auto" means where the device cuts nothing; docs/PORTS.md has the figures. */
#define TSO_AUTO_SOFTWARE false

#define RX_CHECKSUMS                                                                               \
	(RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM |                            \
	 RTE_ETH_RX_OFFLOAD_UDP_CKSUM)
#define TX_CHECKSUMS                                                                               \
	(RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM |                            \
	 RTE_ETH_TX_OFFLOAD_UDP_CKSUM)

static bool driver_is(const struct port_dev *dev, const char *driver)
{
	return strcmp(dev->driver, driver) == 0;
}

static int dev_find(const struct config_port *cp, struct port_dev *dev,
		    struct rte_eth_dev_info *info, struct port_error *err)
{
	const char *why = port_eal_log_why();
	int result;

	if (rte_eth_dev_get_port_by_name(cp->device, &dev->port_id) != 0) {
		port_error_set(err, "port %s: no device %s%s%s%s", cp->name, cp->device,
			       why[0] != '\0' ? ": " : "", why,
			       geteuid() == 0 ? ""
					      : " (not started by root: which privileges a device "
						"needs is in docs/PORTS.md)");
		return -SPLIT_E_PORT_DEVICE;
	}
	result = rte_eth_dev_info_get(dev->port_id, info);
	if (result != 0) {
		port_error_set(err, "port %s: %s: %s", cp->name, cp->device, rte_strerror(-result));
		return -SPLIT_E_PORT_DEVICE;
	}
	snprintf(dev->name, sizeof(dev->name), "%s", cp->name);
	snprintf(dev->device, sizeof(dev->device), "%s", cp->device);
	snprintf(dev->driver, sizeof(dev->driver), "%s", info->driver_name);
	dev->rx_queues = (uint16_t)cp->rx_queues;
	dev->tx_queues = (uint16_t)cp->tx_queues;
	dev->mtu = (uint16_t)cp->mtu;
	dev->numa_node =
		cp->numa_node != CONFIG_NONE ? cp->numa_node : rte_eth_dev_socket_id(dev->port_id);
	if (cp->rx_queues > info->max_rx_queues || cp->tx_queues > info->max_tx_queues) {
		port_error_set(err, "port %s: %s has %u rx and %u tx queues, configured are %u/%u",
			       cp->name, dev->driver, info->max_rx_queues, info->max_tx_queues,
			       cp->rx_queues, cp->tx_queues);
		return -SPLIT_E_PORT_DEVICE;
	}
	return 0;
}

/* What is worth giving to the device. TAP's "offloads" are software of the driver on this very
 * core: net/ does the same in the pass it makes anyway. */
static int dev_checksums(const struct config_port *cp, struct port_dev *dev,
			 const struct rte_eth_dev_info *info, struct rte_eth_conf *conf,
			 struct port_error *err)
{
	uint64_t rx = info->rx_offload_capa & RX_CHECKSUMS;
	uint64_t tx = info->tx_offload_capa & TX_CHECKSUMS;

	if (cp->checksum == CONFIG_CHECKSUM_DEVICE && (rx != RX_CHECKSUMS || tx != TX_CHECKSUMS)) {
		port_error_set(err,
			       "port %s: checksum is \"device\", but %s computes none or not all",
			       cp->name, dev->driver);
		return -SPLIT_E_PORT_DEVICE;
	}
	if (cp->checksum == CONFIG_CHECKSUM_SOFTWARE ||
	    (cp->checksum != CONFIG_CHECKSUM_DEVICE && driver_is(dev, "net_tap")))
		rx = tx = 0;
	if (cp->checksum == CONFIG_CHECKSUM_UNVERIFIED) {
		rx = 0;
		dev->flags |= PORT_RX_NO_CKSUM;
	}
	if (rx & RTE_ETH_RX_OFFLOAD_IPV4_CKSUM)
		dev->flags |= PORT_RX_IP_CHECKED;
	if ((rx & RTE_ETH_RX_OFFLOAD_TCP_CKSUM) && (rx & RTE_ETH_RX_OFFLOAD_UDP_CKSUM))
		dev->flags |= PORT_RX_L4_CHECKED;
	if (tx & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM)
		dev->flags |= PORT_TX_IP_CKSUM;
	if (tx & RTE_ETH_TX_OFFLOAD_TCP_CKSUM)
		dev->flags |= PORT_TX_TCP_CKSUM;
	if (tx & RTE_ETH_TX_OFFLOAD_UDP_CKSUM)
		dev->flags |= PORT_TX_UDP_CKSUM;
	conf->rxmode.offloads |= rx;
	conf->txmode.offloads |= tx;
	return 0;
}

/* Who cuts large TCP segments. TAP's "TSO" is rte_gso inside the driver, for IPv4 alone and with
 * 128 mbufs, past which it stands still or loses what it cut: never used. */
static int dev_tso(const struct config_port *cp, struct port_dev *dev,
		   const struct rte_eth_dev_info *info, struct rte_eth_conf *conf,
		   struct port_error *err)
{
	bool able = (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO) != 0 &&
		    (dev->flags & PORT_TX_TCP_CKSUM) != 0 && !driver_is(dev, "net_tap");

	if (cp->tso == CONFIG_TSO_DEVICE && !able) {
		port_error_set(err,
			       "port %s: tso is \"device\", but %s cuts no segments (with checksum "
			       "as it is)",
			       cp->name, dev->driver);
		return -SPLIT_E_PORT_DEVICE;
	}
	if (cp->tso == CONFIG_TSO_OFF ||
	    (cp->tso == CONFIG_TSO_AUTO && !TSO_AUTO_SOFTWARE && !able))
		return 0;
	dev->flags |= PORT_TX_TSO;
	dev->cuts4 = dev->cuts6 = true;
	if (able && cp->tso != CONFIG_TSO_SOFTWARE) {
		conf->txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO;
		dev->cuts4 = dev->cuts6 = false;
	}
	return 0;
}

/* A frame that needs several mbufs: where the driver fills chains, or (ring) passes on what it is
 * given. */
static int dev_scatter(const struct config_port *cp, const struct port_dev *dev,
		       const struct rte_eth_dev_info *info, struct rte_eth_conf *conf,
		       struct port_error *err)
{
	if (cp->mtu + RTE_ETHER_HDR_LEN + RTE_PKTMBUF_HEADROOM <= cp->mbuf_room)
		return 0;
	if (info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER) {
		conf->rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
		return 0;
	}
	if (driver_is(dev, "net_ring"))
		return 0;
	port_error_set(err,
		       "port %s: mtu %u needs more than mbuf_room, and %s takes no chains of mbufs",
		       cp->name, cp->mtu, dev->driver);
	return -SPLIT_E_PORT_DEVICE;
}

static void dev_other_offloads(struct port_dev *dev, const struct rte_eth_dev_info *info,
			       struct rte_eth_conf *conf)
{
	uint64_t rss =
		info->flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
	const struct rte_bus *bus = rte_bus_find_by_device(info->device);
	bool software = bus != NULL && strcmp(rte_bus_name(bus), "vdev") == 0;

	if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) {
		conf->txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
		dev->flags |= PORT_TX_MULTI_SEGS;
	}
	/* Software drivers claim RSS that they don't have on this kernel (TAP needs rte_flow). */
	if (!software && dev->rx_queues > 1 && rss != 0) {
		conf->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf->rx_adv_conf.rss_conf.rss_hf = rss;
		dev->spreads = true;
		port_rss_request(dev, info, conf);
	}
	if (driver_is(dev, "net_tap"))
		conf->intr_conf.rxq = 1;
}

static int dev_fail(const struct port_dev *dev, const char *what, int result,
		    struct port_error *err)
{
	const char *why = port_eal_log_why();

	port_error_set(err, "port %s (%s): %s: %s%s%s", dev->name, dev->driver, what,
		       rte_strerror(-result), why[0] != '\0' ? ": " : "", why);
	return -SPLIT_E_PORT_DEVICE;
}

/* MTU: vdevs without mtu_set (ring, null) carry any frame that fits an mbuf. */
static int dev_mtu(struct port_dev *dev, const struct rte_eth_dev_info *info,
		   struct port_error *err)
{
	uint16_t now;
	int result;

	if (info->max_mtu != 0 && dev->mtu > info->max_mtu) {
		port_error_set(err, "port %s: mtu %u, but %s allows at most %u", dev->name,
			       dev->mtu, dev->driver, info->max_mtu);
		return -SPLIT_E_PORT_DEVICE;
	}
	/* These two say a largest frame and do not keep to the MTU they accept. */
	if ((driver_is(dev, "net_tap") || driver_is(dev, "net_af_packet")) &&
	    (uint32_t)dev->mtu + RTE_ETHER_HDR_LEN > info->max_rx_pktlen) {
		port_error_set(err, "port %s: mtu %u, but %s receives frames of at most %u bytes",
			       dev->name, dev->mtu, dev->driver, info->max_rx_pktlen);
		return -SPLIT_E_PORT_DEVICE;
	}
	if (rte_eth_dev_get_mtu(dev->port_id, &now) == 0 && now == dev->mtu)
		return 0;
	result = rte_eth_dev_set_mtu(dev->port_id, dev->mtu);
	if (result != 0 && result != -ENOTSUP)
		return dev_fail(dev, "can't set the MTU", result, err);
	return 0;
}

static int dev_mac(struct port_dev *dev, const struct config_port *cp, struct port_error *err)
{
	int result;

	if (cp->mac_given) {
		memcpy(dev->mac.addr_bytes, cp->mac, sizeof(cp->mac));
		result = rte_eth_dev_default_mac_addr_set(dev->port_id, &dev->mac);
		if (result != 0 && result != -ENOTSUP)
			return dev_fail(dev, "can't set the MAC address", result, err);
		/* A device that keeps its own address shows us ours only in promiscuous mode. */
		if (result == -ENOTSUP && rte_eth_promiscuous_enable(dev->port_id) != 0)
			log_warn("port %s: %s can't take the MAC address given; frames to it may "
				 "not arrive",
				 dev->name, dev->driver);
		return 0;
	}
	result = rte_eth_macaddr_get(dev->port_id, &dev->mac);
	if (result != 0)
		return dev_fail(dev, "has no MAC address", result, err);
	/* net_ring has none. A locally administered one of its number keeps two rings apart. */
	if (!rte_is_valid_assigned_ether_addr(&dev->mac)) {
		const uint8_t made[6] = {
			0x02, 's', 'p', 'l', (uint8_t)(dev->port_id >> 8), (uint8_t)dev->port_id};

		memcpy(dev->mac.addr_bytes, made, sizeof(made));
	}
	return 0;
}

/* What rte_pktmbuf_pool_create does, with flags and operations of our choice. */
static struct rte_mempool *pool_create_by(const char *name, uint32_t mbufs, unsigned cache,
					  uint16_t room, int node, unsigned flags, const char *ops)
{
	struct rte_pktmbuf_pool_private private = {.mbuf_data_room_size = room};
	struct rte_mempool *pool = rte_mempool_create_empty(
		name, mbufs, sizeof(struct rte_mbuf) + room, cache, sizeof(private), node, flags);
	int result;

	if (pool == NULL)
		return NULL;
	result = rte_mempool_set_ops_byname(pool, ops, NULL);
	if (result == 0) {
		rte_pktmbuf_pool_init(pool, &private);
		result = rte_mempool_populate_default(pool);
	}
	if (result < 0) {
		rte_mempool_free(pool);
		rte_errno = -result;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	port_poison_begin(pool);
	return pool;
}

static struct rte_mempool *pool_create(const struct port_dev *dev, const char *kind, unsigned index,
				       uint32_t mbufs, const struct config_port *cp, int node,
				       struct port_error *err)
{
	char name[RTE_MEMPOOL_NAMESIZE];
	struct rte_mempool *pool;
	uint16_t room = (uint16_t)cp->mbuf_room;
	/* The cache may hold 1.5 times its size at each lcore; a small pool must not drown in it.
	 */
	unsigned cache = RTE_MIN(mbufs / 16, (unsigned)MBUF_CACHE), flags = 0;
	const char *ops = rte_mbuf_best_mempool_ops();

	/* On normal pages an mbuf would get a page of its own, nearly twice the memory, for DMA
	 * that no software driver does; and there is one memory node only. */
	if (!port_eal_hugepages()) {
		flags = RTE_MEMPOOL_F_NO_IOVA_CONTIG;
		node = SOCKET_ID_ANY;
	}
	if (port_poison_ops() != NULL) {
		ops = port_poison_ops();
		cache = 0;
	}
	snprintf(name, sizeof(name), "p%u_%s%u", dev->port_id, kind, index);
	pool = pool_create_by(name, mbufs, cache, room, node, flags, ops);
	if (pool == NULL)
		port_error_set(err,
			       "port %s: no memory for %u mbufs of %u bytes (%s): raise eal.memory "
			       "or lower the port's mbufs",
			       dev->name, mbufs, (unsigned)room, rte_strerror(rte_errno));
	return pool;
}

static struct rte_ring *ring_create(const struct port_dev *dev, const char *kind, unsigned index,
				    struct port_error *err)
{
	char name[RTE_RING_NAMESIZE];
	struct rte_ring *ring;

	snprintf(name, sizeof(name), "p%u_%s%u", dev->port_id, kind, index);
	ring = rte_ring_create(name, PORT_HANDOVER_SLOTS, SOCKET_ID_ANY, RING_F_SC_DEQ);
	if (ring == NULL)
		port_error_set(err, "port %s: no memory for a ring", dev->name);
	return ring;
}

/* One worker's end, with its pools and rings but not yet the device's queues. */
static int queue_create(struct port_dev *dev, const struct config *cfg,
			const struct config_port *cp, unsigned worker, struct port_error *err)
{
	int node = cfg->workers[worker].numa_node != CONFIG_NONE ? cfg->workers[worker].numa_node
								 : SOCKET_ID_ANY;
	struct port_queue *q =
		rte_zmalloc_socket("port_queue", sizeof(*q), RTE_CACHE_LINE_SIZE, node);
	uint32_t rx_mbufs = cp->mbufs;

	if (q == NULL) {
		port_error_set(err, "port %s: no memory for its queues", dev->name);
		return -SPLIT_E_PORT_MEMORY;
	}
	dev->queues[worker] = q;
	q->dev = dev;
	q->worker = (uint16_t)worker;
	q->port_id = dev->port_id;
	q->rx_queue = q->tx_queue = PORT_QUEUE_NONE;
	q->rx_fd = q->socket_fd = -1;
	for (uint32_t i = 0; i < cp->rx_queues; i++)
		if (cp->queue_workers[i] == worker)
			q->rx_queue = (uint16_t)i;
	/* TX queue i goes with RX queue i; a worker without one takes what is left over. */
	if (q->rx_queue < cp->tx_queues)
		q->tx_queue = q->rx_queue;
	q->tx_pool = pool_create(dev, "tx", worker, cp->mbufs, cp, node, err);
	if (q->tx_pool == NULL)
		return -SPLIT_E_PORT_MEMORY;
	q->linear_pool = q->tx_pool;
	if (driver_is(dev, "net_af_xdp") && rx_mbufs < AF_XDP_MBUFS_MIN)
		rx_mbufs = AF_XDP_MBUFS_MIN;
	if (q->rx_queue != PORT_QUEUE_NONE) {
		q->rx_pool = pool_create(dev, "rx", worker, rx_mbufs, cp, node, err);
		if (q->rx_pool == NULL)
			return -SPLIT_E_PORT_MEMORY;
	}
	/* From its own pool this driver sends without a copy of its own. */
	if (driver_is(dev, "net_af_xdp") && q->rx_pool != NULL)
		q->linear_pool = q->rx_pool;
	q->copies_chains = !(dev->flags & PORT_TX_MULTI_SEGS);
	q->copies_clones = driver_is(dev, "net_af_xdp") || driver_is(dev, "net_ring");
	q->cuts4 = dev->cuts4;
	q->cuts6 = dev->cuts6;
	q->joins = cp->gro;
	q->prepares = dev->flags & (PORT_TX_IP_CKSUM | PORT_TX_TCP_CKSUM | PORT_TX_UDP_CKSUM);
	q->steers = dev->workers_n > 1;
	if (q->steers) {
		q->rx_ring = ring_create(dev, "in", worker, err);
		if (q->rx_ring == NULL)
			return -SPLIT_E_PORT_MEMORY;
	}
	return 0;
}

/* TX queues that no RX queue claimed go to workers without one; the rest share queue 0's owner. */
static int queues_join_tx(struct port_dev *dev, struct port_error *err)
{
	uint16_t next = RTE_MIN(dev->rx_queues, dev->tx_queues);
	bool shared = false;

	for (unsigned w = 0; w < dev->workers_n; w++) {
		struct port_queue *q = dev->queues[w];

		if (q->tx_queue == PORT_QUEUE_NONE && next < dev->tx_queues)
			q->tx_queue = next++;
		shared |= q->tx_queue == PORT_QUEUE_NONE;
	}
	if (!shared)
		return 0;
	dev->tx_ring = ring_create(dev, "out", 0, err);
	if (dev->tx_ring == NULL)
		return -SPLIT_E_PORT_MEMORY;
	for (unsigned w = 0; w < dev->workers_n; w++)
		dev->queues[w]->tx_ring = dev->tx_ring;
	return 0;
}

static int queues_setup(struct port_dev *dev, const struct config_port *cp,
			const struct rte_eth_dev_info *info, const struct rte_eth_conf *conf,
			struct port_error *err)
{
	uint16_t rx_descriptors = (uint16_t)cp->rx_descriptors;
	uint16_t tx_descriptors = (uint16_t)cp->tx_descriptors;
	struct rte_eth_rxconf rx_conf = info->default_rxconf;
	struct rte_eth_txconf tx_conf = info->default_txconf;
	int result;

	rte_eth_dev_adjust_nb_rx_tx_desc(dev->port_id, &rx_descriptors, &tx_descriptors);
	rx_conf.offloads = conf->rxmode.offloads & info->rx_queue_offload_capa;
	tx_conf.offloads = conf->txmode.offloads & info->tx_queue_offload_capa;
	for (uint16_t i = 0; i < dev->rx_queues; i++) {
		struct port_queue *q = dev->queues[cp->queue_workers[i]];
		int before[PORT_SOCKETS_MAX];
		size_t n = 0;

		if (driver_is(dev, "net_af_xdp"))
			n = port_sockets(AF_XDP, 0, before, PORT_SOCKETS_MAX);
		result = rte_eth_rx_queue_setup(dev->port_id, i, rx_descriptors,
						(unsigned)dev->numa_node, &rx_conf, q->rx_pool);
		if (result != 0)
			return dev_fail(dev, "can't set up a receive queue", result, err);
		if (driver_is(dev, "net_af_xdp"))
			q->socket_fd = port_socket_new(AF_XDP, before, n);
	}
	for (uint16_t i = 0; i < dev->tx_queues; i++) {
		result = rte_eth_tx_queue_setup(dev->port_id, i, tx_descriptors,
						(unsigned)dev->numa_node, &tx_conf);
		if (result != 0)
			return dev_fail(dev, "can't set up a transmit queue", result, err);
	}
	return 0;
}

static int dev_create(struct port_dev *dev, const struct config *cfg, const struct config_port *cp,
		      struct port_error *err)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf = {0};
	bool multicast = cp->slaac;
	int result;

	dev->workers_n = cfg->workers_n;
	dev->data_room = (uint16_t)(cp->mbuf_room - RTE_PKTMBUF_HEADROOM);
	result = dev_find(cp, dev, &info, err);
	if (result == 0)
		result = dev_checksums(cp, dev, &info, &conf, err);
	if (result == 0)
		result = dev_tso(cp, dev, &info, &conf, err);
	if (result == 0)
		result = dev_scatter(cp, dev, &info, &conf, err);
	if (result != 0)
		return result;
	if (driver_is(dev, "net_tap") || driver_is(dev, "net_af_packet") ||
	    driver_is(dev, "net_af_xdp"))
		dev->flags |= PORT_TX_SYSCALL;
	dev_other_offloads(dev, &info, &conf);
	dev->queues = calloc(cfg->workers_n, sizeof(struct port_queue *));
	if (dev->queues == NULL)
		return -SPLIT_E_PORT_MEMORY;
	for (unsigned w = 0; w < cfg->workers_n; w++) {
		result = queue_create(dev, cfg, cp, w, err);
		if (result != 0)
			return result;
	}
	result = queues_join_tx(dev, err);
	if (result != 0)
		return result;
	dev->configured = true;
	result = rte_eth_dev_configure(dev->port_id, dev->rx_queues, dev->tx_queues, &conf);
	if (result != 0)
		return dev_fail(dev, "can't be configured", result, err);
	result = dev_mtu(dev, &info, err);
	if (result == 0)
		result = queues_setup(dev, cp, &info, &conf, err);
	if (result == 0)
		result = dev_mac(dev, cp, err);
	/* Neighbour discovery speaks to groups. Devices without filters say that they cannot. */
	for (uint32_t i = 0; i < cp->addresses_n; i++)
		multicast |= cp->addresses[i].family == 6;
	if (result == 0 && multicast)
		rte_eth_allmulticast_enable(dev->port_id);
	if (result == 0 && cp->promiscuous && rte_eth_promiscuous_enable(dev->port_id) != 0)
		log_warn("port %s: %s has no promiscuous mode", dev->name, dev->driver);
	return result;
}

int port_set_create(const struct config *cfg, struct port_set **out, struct port_error *err)
{
	struct port_set *set = calloc(1, sizeof(*set));
	int result = 0;

	err->text[0] = '\0';
	*out = NULL;
	if (set == NULL)
		return -SPLIT_E_PORT_MEMORY;
	set->workers_n = cfg->workers_n;
	set->devs = calloc(cfg->ports_n, sizeof(*set->devs));
	if (set->devs == NULL)
		result = -SPLIT_E_PORT_MEMORY;
	for (uint32_t i = 0; i < cfg->ports_n && result == 0; i++) {
		set->count = i + 1;
		set->devs[i].link_timeout_ns = cfg->ports[i].link_timeout_ns;
		result = dev_create(&set->devs[i], cfg, &cfg->ports[i], err);
		port_eal_log_reset();
	}
	if (result != 0) {
		if (err->text[0] == '\0')
			port_error_set(err, "ports: out of memory");
		port_set_destroy(set);
		return result;
	}
	*out = set;
	return 0;
}

void port_set_steer(struct port_set *set, port_steer_fn steer)
{
	for (unsigned i = 0; i < set->count; i++)
		set->devs[i].steer = steer;
}

/* What a worker may wait on for its queue of a started device. */
static int queue_fd(const struct port_dev *dev, const struct port_queue *q)
{
	int fds[PORT_SOCKETS_MAX];
	struct rte_eth_dev_info info;
	size_t n;

	if (q->rx_queue == PORT_QUEUE_NONE)
		return -1;
	if (driver_is(dev, "net_tap"))
		return rte_eth_dev_rx_intr_ctl_q_get_fd(q->port_id, q->rx_queue);
	if (driver_is(dev, "net_af_packet") && rte_eth_dev_info_get(q->port_id, &info) == 0) {
		/* One bound socket for each queue, opened in their order. */
		n = port_sockets(AF_PACKET, info.if_index, fds, PORT_SOCKETS_MAX);
		return n == info.max_rx_queues ? fds[q->rx_queue] : -1;
	}
	return q->socket_fd;
}

/* The link of a TAP or veth comes up with the start; a real one takes seconds. */
static void link_wait(const struct port_dev *dev)
{
	struct rte_eth_link link;

	for (uint64_t waited_ns = 0;; waited_ns += 10000000) {
		if (rte_eth_link_get_nowait(dev->port_id, &link) != 0 || link.link_status)
			return;
		if (waited_ns >= dev->link_timeout_ns)
			break;
		usleep(10000);
	}
	log_warn("port %s: no link yet", dev->name);
}

int port_set_start(struct port_set *set, struct port_error *err)
{
	err->text[0] = '\0';
	for (unsigned i = 0; i < set->count; i++) {
		struct port_dev *dev = &set->devs[i];
		int result;

		port_eal_log_reset();
		result = rte_eth_dev_start(dev->port_id);
		if (result != 0) {
			result = dev_fail(dev, "can't be started", result, err);
			port_set_stop(set);
			return result;
		}
		dev->started = true;
		port_rss_learn(dev);
		for (unsigned w = 0; w < dev->workers_n; w++) {
			struct port_queue *q = dev->queues[w];

			q->rx_fd = queue_fd(dev, q);
		}
	}
	for (unsigned i = 0; i < set->count; i++)
		link_wait(&set->devs[i]);
	return 0;
}

void port_set_stop(struct port_set *set)
{
	for (unsigned i = 0; i < set->count; i++) {
		struct port_dev *dev = &set->devs[i];

		if (!dev->started)
			continue;
		for (unsigned w = 0; w < dev->workers_n; w++)
			dev->queues[w]->rx_fd = -1;
		rte_eth_dev_stop(dev->port_id);
		dev->started = false;
	}
}

static void ring_destroy(struct rte_ring *ring)
{
	void *pkt;

	if (ring == NULL)
		return;
	while (rte_ring_sc_dequeue(ring, &pkt) == 0)
		rte_pktmbuf_free(pkt);
	rte_ring_free(ring);
}

static void queue_destroy(struct port_queue *q)
{
	if (q == NULL)
		return;
	for (uint16_t i = 0; i < q->tx_held_n; i++)
		rte_pktmbuf_free(q->tx_held[i]);
	if (q->cut_of != NULL)
		rte_pktmbuf_free_bulk(q->cut + q->cut_at, q->cut_n - q->cut_at);
	port_poison_forget(q->rx_pool);
	port_poison_forget(q->tx_pool);
	rte_mempool_free(q->rx_pool);
	rte_mempool_free(q->tx_pool);
	rte_free(q);
}

/* Two passes: everything that holds mbufs gives them back, then the pools go. */
void port_set_destroy(struct port_set *set)
{
	if (set == NULL)
		return;
	port_set_stop(set);
	for (unsigned i = 0; i < set->count; i++) {
		struct port_dev *dev = &set->devs[i];

		if (dev->configured)
			rte_eth_dev_close(dev->port_id);
		ring_destroy(dev->tx_ring);
		for (unsigned w = 0; dev->queues != NULL && w < dev->workers_n; w++)
			if (dev->queues[w] != NULL)
				ring_destroy(dev->queues[w]->rx_ring);
	}
	for (unsigned i = 0; i < set->count; i++) {
		struct port_dev *dev = &set->devs[i];

		for (unsigned w = 0; dev->queues != NULL && w < dev->workers_n; w++)
			queue_destroy(dev->queues[w]);
		free(dev->queues);
	}
	free(set->devs);
	free(set);
}
