/* Ports: everything that is DPDK's underneath the stack: the EAL, the ethernet devices, a queue
 * pair on each port for each worker, the mbuf pools, and what the device does for us.
 *
 * Threads. The control thread (EAL main lcore) starts, watches and stops. A `struct port_queue` is
 * one worker's end of one port: only that worker calls the burst functions on it; nothing is
 * shared with another worker but the rings of the hand-over below.
 *
 * Call protocol, control thread:
 *     port_eal_start → port_set_create → port_set_start → (workers run) → port_set_stop →
 *     port_set_destroy → port_eal_stop
 * Workers must have left their loops before port_set_stop, and have freed all mbufs they hold
 * before port_set_destroy.
 *
 * Hand-over. Where a port has fewer queues than workers, or no RSS (AF_PACKET, AF_XDP), the worker
 * that owns a queue spreads arriving frames to the workers in software, inside port_rx_burst, by
 * the function given to port_set_steer (net_steer's rule: ARP goes to everybody, a flow to worker
 * hash % workers). A worker without a TX queue of its own hands frames to the owner of TX queue 0
 * through a ring. All of that is invisible to the caller and costs nothing with one worker.
 *
 * Chains. Where the device can't send a chain of mbufs, port_tx_burst copies the chain into one
 * mbuf (counter tx_linearized). The same goes for AF_XDP and cloned or external mbufs, which that
 * driver would misread.
 *
 * Large TCP segments (ports[].tso, ports[].gro). Where PORT_TX_TSO is set port_tx_burst takes
 * segments of several times the link's size and cuts them for a device that can't. With
 * ports[].gro port_rx_burst joins segments that follow each other in its burst into one
 * (RTE_MBUF_F_RX_LRO, checksums verified and called good); rx_frames counts what the device gave.
 *
 * docs/PORTS.md: the settings that work for each driver, and their limits.
 */
#ifndef SPLITD_DAEMON_PORT_PORT_H
#define SPLITD_DAEMON_PORT_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_ether.h>
#include <rte_mbuf.h>

#include "base/counter.h"
#include "base/error.h"

struct config;
struct port_set;   /* all ports of this daemon */
struct port_queue; /* one worker's end of one port */

/* Largest bursts the two wrappers accept in one call. */
#define PORT_BURST_MAX 64

/* Into so many a large TCP segment is cut at most. */
#define PORT_CUT_MAX 64

/* One line of text for each failure goes here; always NUL-terminated, empty when all went well. */
struct port_error {
	char text[240];
};

/* ---- EAL ------------------------------------------------------------------------------------ */

/* Start the EAL from cfg's "eal" and "workers". The calling thread becomes the main lcore
 * (lcore 0, the control thread) on eal.main_core; worker i becomes lcore i + 1, pinned to
 * workers[i].core. Several lcores may share a core. Memory is private to the process (--in-memory):
 * nothing is left in /dev/hugepages and instances do not meet. Where hugepages are asked for and
 * can't be had, falls back to normal pages when cfg allows that, and says so through the log;
 * else fails.
 * Once in a process: DPDK can't start twice. 0, -SPLIT_E_PORT_EAL, -SPLIT_E_PORT_HUGEPAGES. */
int port_eal_start(const struct config *cfg, const char *program,
		   struct port_error *err) SPLIT_MUST_USE;
void port_eal_stop(void);

/* The lcore of worker `worker`, for rte_eal_remote_launch. */
unsigned port_worker_lcore(unsigned worker);

/* The directory that holds this instance's telemetry socket; valid after port_eal_start. */
const char *port_runtime_dir(void);

/* True when the EAL's memory (all pools) is on hugepages. */
bool port_eal_hugepages(void);

/* ---- Ports ---------------------------------------------------------------------------------- */

/* Create and configure every port in cfg (devices, pools, queues), stopped. On failure nothing is
 * left and *out is NULL. 0, -SPLIT_E_PORT_DEVICE, -SPLIT_E_PORT_MEMORY. */
int port_set_create(const struct config *cfg, struct port_set **out,
		    struct port_error *err) SPLIT_MUST_USE;
int port_set_start(struct port_set *set, struct port_error *err) SPLIT_MUST_USE;
void port_set_stop(struct port_set *set);
void port_set_destroy(struct port_set *set);
unsigned port_set_count(const struct port_set *set);

/* Whose frame is it? true: worker *hash_out % workers; false: every worker gets a copy. Pure;
 * called on the data path of any worker. */
typedef bool (*port_steer_fn)(const struct rte_mbuf *pkt, uint32_t *hash_out);

/* Before the workers run. Needed where workers_n > 1; without it worker 0 gets all frames of queues
 * that the device doesn't spread itself. */
void port_set_steer(struct port_set *set, port_steer_fn steer);

/* What the device does. Whatever is not set here, net/ does in software. */
#define PORT_RX_IP_CHECKED (1u << 0) /* ol_flags tell of the IPv4 header checksum */
#define PORT_RX_L4_CHECKED (1u << 1) /* ol_flags tell of the TCP/UDP checksum */
#define PORT_TX_IP_CKSUM                                                                           \
	(1u << 2) /* fills the IPv4 checksum when RTE_MBUF_F_TX_IP_CKSUM is set                    \
		   */
#define PORT_TX_TCP_CKSUM                                                                          \
	(1u << 3) /* fills TCP's, from the pseudo header's (l2_len, l3_len set)                    \
		   */
#define PORT_TX_UDP_CKSUM  (1u << 4)
#define PORT_TX_MULTI_SEGS (1u << 5) /* takes chains; else port_tx_burst copies them together */
#define PORT_TX_TSO                                                                                \
	(1u << 6) /* large TCP segments (RTE_MBUF_F_TX_TCP_SEG, l2_len, l3_len, l4_len,            \
		   * tso_segsz, at most PORT_CUT_MAX of these) are cut, by device or here */
#define PORT_RX_NO_CKSUM                                                                           \
	(1u << 7)                 /* config says: don't verify (kernel peers' partial checksums)   \
				   */
#define PORT_TX_SYSCALL (1u << 8) /* each burst sent is a system call (TAP, AF_PACKET, AF_XDP) */

struct port_info {
	const char *name;   /* from the config */
	const char *device; /* DPDK's name */
	const char *driver; /* e.g. "net_tap" */
	uint16_t port_id;
	struct rte_ether_addr mac;
	uint16_t mtu;
	uint16_t rx_queues, tx_queues;
	int numa_node;      /* -1 when it has none */
	uint32_t flags;     /* PORT_* above */
	uint16_t data_room; /* bytes of payload room in an mbuf of port_pool, without headroom */
};

/* Any thread, after create. The strings live as long as the set. index < port_set_count(). */
void port_info_get(const struct port_set *set, unsigned index, struct port_info *out);

struct port_link {
	bool up;
	bool full_duplex;
	uint32_t speed_mbps; /* 0 where the driver knows none */
};

/* Control thread. Doesn't wait. */
void port_link_get(const struct port_set *set, unsigned index, struct port_link *out);

/* ---- The worker's end ----------------------------------------------------------------------- */

#define PORT_COUNTERS(X)                                                                           \
	X(rx_frames, "frames received")                                                            \
	X(rx_bytes, "bytes received")                                                              \
	X(rx_polls_empty, "receive polls that found nothing")                                      \
	X(rx_joined, "TCP segments joined to the one before them (ports[].gro)")                   \
	X(rx_handed_over, "frames passed to the worker that owns their flow")                      \
	X(rx_handover_drops, "frames dropped because another worker's ring was full")              \
	X(tx_frames, "frames sent")                                                                \
	X(tx_bytes, "bytes sent")                                                                  \
	X(tx_full, "bursts the device took only in part")                                          \
	X(tx_linearized, "chains copied into one mbuf for a device that takes none")               \
	X(tx_linearize_drops, "chains dropped: larger than one mbuf, or no mbuf")                  \
	X(tx_prepare_drops, "frames the driver refused to prepare")                                \
	X(tx_cut, "TCP segments cut from larger ones for the device (ports[].tso)")                \
	X(tx_cut_drops, "large TCP segments dropped: no mbufs to cut them")                        \
	X(tx_stuck_drops, "frames dropped because the device would not take them for long")        \
	X(tx_handed_over, "frames passed to the worker that has the transmit queue")

COUNTER_DECLARE(port, PORT_COUNTERS);

/* Never NULL for index < port_set_count and worker < number of workers: a worker without a queue
 * of its own gets an end that works by hand-over. Belongs to the set. */
struct port_queue *port_queue_of(struct port_set *set, unsigned index, unsigned worker);

/* Receive up to n (<= PORT_BURST_MAX) frames of this worker's flows; ownership passes to the
 * caller. Also moves along what other workers handed over. Returns how many. That worker only. */
uint16_t port_rx_burst(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n);

/* Send up to n (<= PORT_BURST_MAX) frames, in order. Returns how many were taken: those belong to
 * the port now; the rest stay the caller's, who may try again. Frames that can never be sent
 * (a chain too large to linearize) are freed and count as taken. Entries of pkts may be replaced by
 * linearized copies, also those that are not taken. That worker only.
 * Note: a taken mbuf may be read by the device until it is freed; don't write into it. */
uint16_t port_tx_burst(struct port_queue *q, struct rte_mbuf **pkts, uint16_t n);

/* A TCP flow as its arriving frames show it. IPv4 addresses take the first four bytes. */
struct port_flow {
	bool ipv6;
	uint8_t src[16], dst[16];    /* network order */
	uint16_t src_port, dst_port; /* host order */
};

/* Whether such frames come to this end: by the device's RSS, or else by `steer_hash`, which is what
 * the function of port_set_steer gives for them. Of a started port; that worker only. */
bool port_queue_gets(const struct port_queue *q, const struct port_flow *flow, uint32_t steer_hash);

/* The pool for frames and payload this worker makes: on the worker's NUMA node, separate from the
 * receive pool, so that unacknowledged data can't starve reception. data_room as in port_info. */
struct rte_mempool *port_queue_pool(const struct port_queue *q);

/* A descriptor that polls readable when the queue has frames, or -1 where none is known (TAP,
 * AF_PACKET and AF_XDP have one) or the worker has no queue here. For epoll only, never read it. An
 * error that it reports (EPOLLERR) stays until SO_ERROR is asked for. */
int port_queue_fd(const struct port_queue *q);
/* Whether that descriptor announces every frame of this worker: it has one, and no other worker
 * hands frames over to it. */
bool port_queue_announces(const struct port_queue *q);

/* Single writer (the worker), relaxed; any thread may read each word. */
const struct port_counters *port_queue_counters(const struct port_queue *q);

/* Mbufs in use now / in all, of the receive pool and of port_queue_pool. Any thread; slow (walks
 * per-lcore caches), for telemetry. */
struct port_pool_usage {
	uint32_t rx_used, rx_size, tx_used, tx_size;
};
void port_queue_pool_usage(const struct port_queue *q, struct port_pool_usage *out);

#endif
