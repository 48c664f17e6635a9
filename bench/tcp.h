/* split-perf tcp: the same client against three servers that do the same: our stack on a port, our
 * stack on a ring (no device), and a plain epoll server on the kernel's TCP.
 *
 * Everything is one process with DPDK started once. A server runs on the daemon's core only while
 * it is measured: ours as an lcore that polls, the kernel's as a thread in its namespace.
 */
#ifndef SPLITD_BENCH_TCP_H
#define SPLITD_BENCH_TCP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "bench/link.h"
#include "bench/perf.h"

#define TCP_PORT_ECHO     7    /* sends back what comes */
#define TCP_PORT_DISCARD  9    /* counts what comes */
#define TCP_SEGMENT_BYTES 1448 /* MTU 1500, timestamps */

struct rte_mempool;
struct rte_ring;
struct port_set;

/* ---- where (tcp_place.c) -------------------------------------------------------------------- */

#define TCP_OUR_ADDRESS    "198.18.0.2" /* on a port, and on the ring */
#define TCP_RING_PEER      "198.18.0.1"
#define TCP_KERNEL_ADDRESS "198.18.1.2"
#define TCP_PLAIN_ADDRESS  "198.18.2.2" /* the kernel's, over a veth without offloads */

/* Connections that one client of the kernel's may have; more only on the ring. */
#define TCP_SOCKETS_MAX 50000u

struct tcp_place {
	char server_ns[48], client_ns[48];
	bool made; /* the namespaces */
	int home_fd, server_fd, client_fd;
	const char *device; /* "af_xdp", "af_packet"; NULL: no port, no kernel peer */
	unsigned core_server, core_client;
	unsigned connections_max;
	unsigned sockets_max; /* of the kernel's clients */
	struct config *config;
	struct port_set *ports; /* 0: the ring; 1: the device */
	struct rte_ring *to_server, *to_client;
	struct rte_mempool *pool;  /* of the client on the ring */
	struct rte_mempool *small; /* the same where connections are many: short packets only */
	bool eal;
};

/* Namespaces with two veth pairs: one for ours, with the checksums that a port needs, one for the
 * kernel, with its offloads on. This thread ends up in the server's. Processes may still be forked.
 * 0, or negative after a line. */
int tcp_place_open(struct tcp_place *place) SPLIT_MUST_USE;
/* DPDK, the ring and the port. This thread becomes the main lcore on core_client, in the client's
 * namespace. */
int tcp_place_start(struct tcp_place *place) SPLIT_MUST_USE;
void tcp_place_close(struct tcp_place *place);

/* ---- servers -------------------------------------------------------------------------------- */

/* Where our server's cycles go, in turns that found work. */
#define TCP_STAGES(X)                                                                              \
	X(port_in, "the device: frames in")                                                        \
	X(net_in, "Ethernet, IP, TCP: segments in")                                                \
	X(app, "the echo itself: tcp_consumed(), tcp_send()")                                      \
	X(timers, "what is due")                                                                   \
	X(net_out, "segments out")                                                                 \
	X(port_out, "the device: frames out")

enum tcp_stage {
#define X(name, text) TCP_STAGE_##name,
	TCP_STAGES(X)
#undef X
		TCP_STAGES_N
};

/* Cumulative; subtract two. */
struct tcp_sample {
	uint64_t ns;
	uint64_t core_busy_ns;         /* of the server's core, softirq included */
	uint64_t client_busy_ns;       /* of the client's core */
	uint64_t idle_poll_ns;         /* of core_busy_ns; 0 for the kernel's server */
	uint64_t thread_cpu_ns;        /* of the server's thread or process */
	uint64_t segments_in;          /* TCP segments received; 0 for the kernel's server */
	uint64_t segments_out;         /* TCP segments sent */
	uint64_t cycles[TCP_STAGES_N]; /* 0 for the kernel's server */
	uint64_t discarded;            /* bytes that came to TCP_PORT_DISCARD */
};

struct tcp_server;

struct tcp_server_ops {
	int (*start)(struct tcp_server *server); /* serves until stop */
	void (*stop)(struct tcp_server *server);
	void (*sample)(struct tcp_server *server, struct tcp_sample *out);
	/* Connections it still knows; a client waits for 0 before the next comes. */
	unsigned (*connections)(const struct tcp_server *server);
	/* What went wrong, as far as it counts it; to standard error. */
	void (*complain)(const struct tcp_server *server);
	void (*destroy)(struct tcp_server *server);
};

struct tcp_server {
	const struct tcp_server_ops *ops;
	const char *name;
	const char *address; /* where clients find it */
	const char *plain;   /* the same without offloads on the way; NULL: there is no other way */
	bool on_ring;        /* clients are on the ring's other end */
	/* Bytes that a connection costs which does nothing; negative: not known. */
	double idle_bytes;
};

/* Our stack over port `index` of the place. */
int tcp_stack_server(struct tcp_place *place, unsigned index, const char *name,
		     struct tcp_server **out) SPLIT_MUST_USE;
/* Before tcp_place_start. */
int tcp_kernel_server(struct tcp_place *place, struct tcp_server **out) SPLIT_MUST_USE;

#endif
