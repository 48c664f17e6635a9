/* Inside daemon/port only. */
#ifndef SPLITD_DAEMON_PORT_PORT_INTERNAL_H
#define SPLITD_DAEMON_PORT_PORT_INTERNAL_H

#include <rte_ethdev.h>
#include <rte_mempool.h>
#include <rte_ring.h>

#include "daemon/port/port.h"

#define PORT_QUEUE_NONE UINT16_MAX

/* Frames a worker may be behind in taking what others hand over to it. Power of two. */
#define PORT_HANDOVER_SLOTS 1024

#define PORT_RSS_KEY_MAX 52
#define PORT_RETA_MAX    RTE_ETH_RSS_RETA_SIZE_512

/* How the device spreads flows, as it was read back from it. */
struct port_rss {
	uint8_t key[PORT_RSS_KEY_MAX];
	bool ports;       /* TCP's ports count too */
	uint16_t entries; /* of the table: hash % entries is the index */
	uint16_t table[PORT_RETA_MAX];
};

struct port_dev;

/* One worker's end. Grouped by use: the first lines are all that a burst touches. */
struct port_queue {
	uint16_t port_id;
	uint16_t rx_queue; /* or PORT_QUEUE_NONE */
	uint16_t tx_queue; /* or PORT_QUEUE_NONE: frames go by tx_ring */
	uint16_t worker;
	bool steers;        /* this port spreads in software: not the plain way */
	bool prepares;      /* the driver must see frames before they are sent (checksums) */
	bool copies_chains; /* the driver takes one segment only */
	bool cuts4, cuts6;  /* large segments are cut here, not by the device */
	bool joins;         /* received segments are joined here */
	bool copies_clones; /* the driver takes only mbufs that hold their own data */
	struct port_dev *dev;
	struct rte_mempool *tx_pool;
	struct rte_mempool *linear_pool; /* where linearized copies come from */
	struct rte_ring *rx_ring; /* many producers (queue owners), one consumer: this worker */
	struct rte_ring
		*tx_ring; /* many producers (workers without a queue), one consumer: its owner */
	struct port_counters counters;

	unsigned tx_stuck; /* bursts in a row of which the device took nothing */
	struct rte_mbuf *tx_held[PORT_BURST_MAX]; /* owner: taken from tx_ring, not yet sent */
	uint16_t tx_held_n;

	/* The pieces of cut_of, of which the device has taken the first cut_at. */
	struct rte_mbuf *cut_of; /* NULL: none */
	struct rte_mbuf *cut[PORT_CUT_MAX];
	uint16_t cut_n, cut_at;

	struct rte_mempool *rx_pool; /* NULL without an rx queue */
	int rx_fd;                   /* started and the driver has one; else -1 */
	int socket_fd;               /* AF_XDP: found at the queue's set-up; else -1 */
};

struct port_dev {
	uint16_t port_id;
	uint16_t rx_queues, tx_queues, mtu, data_room;
	uint32_t flags;
	int numa_node;
	uint64_t link_timeout_ns;
	bool configured; /* has to be closed */
	bool started;
	bool spreads;        /* the device spreads flows over its queues itself (RSS) */
	struct port_rss rss; /* when it does */
	bool cuts4, cuts6;   /* as in struct port_queue */
	struct rte_ether_addr mac;
	char name[64];
	char device[256];
	char driver[32];
	port_steer_fn steer;
	unsigned workers_n;
	struct port_queue **queues; /* [workers_n] */
	struct rte_ring *tx_ring;   /* NULL when each worker has a tx queue */
};

struct port_set {
	unsigned count, workers_n;
	struct port_dev *devs;
};

/* linear.c: one mbuf with pkt's bytes and offload flags; frees pkt. NULL (pkt freed too) when it
 * doesn't fit or there is no mbuf. */
struct rte_mbuf *port_linearize(struct rte_mempool *pool, struct rte_mbuf *pkt);

/* steer.c: the hand-over, called from the burst functions of ports that need it. */
uint16_t port_steer_rx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n);
uint16_t port_steer_tx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n);
void port_steer_tx_drain(struct port_queue *q);

/* rss.c. Ask for a symmetric key; then, of a started device, what it does. A device that does not
 * tell has `spreads` taken away. */
void port_rss_request(struct port_dev *dev, const struct rte_eth_dev_info *info,
		      struct rte_eth_conf *conf);
void port_rss_learn(struct port_dev *dev);
/* Toeplitz of the addresses, and of the ports. `key` has 40 bytes at least. */
uint32_t port_rss_hash(const uint8_t *key, const struct port_flow *flow, bool ports);

/* gso.c: cut a large segment, which stays the caller's, into out[PORT_CUT_MAX]; how many, in the
 * shape the device takes. 0: it can't be. */
uint16_t port_cut(struct port_queue *q, struct rte_mbuf *pkt, struct rte_mbuf **out);

/* gso.c: the sum that a right TCP or UDP checksum makes 0xffff, pseudo header of `ip` included. */
uint16_t port_l4_sum(const struct rte_mbuf *m, const void *ip, bool ipv4, uint32_t l4_off);

/* gro.c: join what follows each other, closing the gaps; how many are left. */
uint16_t port_join(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n);

/* burst.c: put one frame into a shape the device takes. False: it can't be sent, and is gone. */
bool port_shape_frame(struct port_queue *q, struct rte_mbuf **pkt);
/* burst.c: straight to the device, with its counters. */
uint16_t port_device_tx(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n);

/* wait_fd.c: this process's sockets of a family (AF_PACKET: those bound to the interface), in the
 * order of their numbers; and the one that is not among `before`, -1 if not exactly one is. */
#define PORT_SOCKETS_MAX 64
size_t port_sockets(int family, unsigned if_index, int *fds_out, size_t max);
int port_socket_new(int family, const int *before, size_t before_n);

/* poison.c: the mempool operations of sanitizer builds, NULL in others. Begin with a populated pool
 * of which nothing is in use; forget before it is freed, so that the heap gets its memory usable.
 */
const char *port_poison_ops(void);
void port_poison_begin(struct rte_mempool *pool);
void port_poison_forget(struct rte_mempool *pool);

/* error text, printf-like, always terminated */
void port_error_set(struct port_error *err, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* eal_log.c: DPDK's log goes through base/log; its first complaint since the last reset, "" when it
 * had none. */
int port_eal_log_open(void);
void port_eal_log_close(void);
void port_eal_log_reset(void);
const char *port_eal_log_why(void);

#endif
