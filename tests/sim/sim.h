/* Two network stacks, a bad link between them, and applications on both, under a virtual clock.
 *
 * Everything is drawn from one seed. sim_run() first runs under faults (loss, reordering,
 * duplication, corruption, queue limits, ECN marks, a link that goes down, a path whose MTU changes
 * (with errors that say so, or none), a clock that leaps, mbuf
 * shortage, large segments cut and small ones joined on the way, backlogs so small that SYN cookies
 * come), then heals the link and demands that all ends. After every event the state of each
 * connection must make sense: numbers in their order, a timer for whatever waits, counts that
 * agree.
 */
#ifndef SPLITD_TESTS_SIM_SIM_H
#define SPLITD_TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_mbuf.h>

#include "base/random.h"
#include "daemon/net/net.h"

#define SIM_CONNS_MAX 8
#define SIM_LINK_MAX  4096
#define SIM_BURST_MAX 32

struct sim;

/* A frame on its way: the sender's mbufs, held as a device would hold them. */
struct sim_frame {
	struct rte_mbuf *m;
	uint64_t due_ns, order;
	int corrupt_bit; /* -1: intact */
};

/* One direction of the link: delay, jitter (which reorders), loss, duplication, corruption, queue
 * limit, MTU, ECN marks, times without link. */
struct sim_link {
	struct sim *sim;
	int to; /* which stack hears it */
	uint64_t delay_ns, jitter_ns;
	double loss, duplicate, corrupt, mark; /* mark: what is ECN-capable becomes CE */
	uint64_t down_until_ns;                /* nothing passes before that */
	uint64_t byte_ns;                      /* serialisation; 0: none */
	uint64_t busy_until_ns;
	uint32_t queue_max;
	uint32_t mtu;   /* larger packets do not pass ... */
	double too_big; /* ... and so often the sender is told */
	uint32_t frames_n;
	struct sim_frame frames[SIM_LINK_MAX]; /* heap by due_ns, order */
};

/* One end of a connection: an application that sends and checks patterned bytes. */
struct sim_end {
	struct sim *sim;
	int side; /* 0: client */
	uint32_t id;
	struct tcp_conn *conn;
	struct sim_end *other;
	uint64_t send_total, sent;
	uint64_t received;
	uint64_t unread, read_at_ns; /* bytes not consumed yet, and when they will be */
	uint64_t read_delay_ns;
	uint32_t chunk_max, mbuf_max;
	bool waits_eof;    /* shuts down only after the peer did */
	bool closes;       /* tcp_close() at the end instead of waiting for `closed` */
	uint64_t abort_at; /* after so many bytes received; UINT64_MAX: never */
	bool opened, shut, eof, gone, blocked;
	bool edge_known; /* rcv_adv when last seen */
	uint32_t edge;
	int reason;
};

struct sim {
	uint64_t seed, now_ns, order;
	struct random random;
	struct net_stack *stacks[2];
	struct sim_link links[2];
	struct rte_mempool *pool;
	uint64_t cut, joined; /* segments, over all seeds */
	uint64_t *totals; /* counters of both stacks over all seeds, in net_counter_desc's order */
	struct rte_mbuf **hoard; /* the shortage */
	uint32_t hoard_n;
	struct sim_end ends[2][SIM_CONNS_MAX];
	uint64_t open_at_ns[SIM_CONNS_MAX];
	bool both_open[SIM_CONNS_MAX]; /* simultaneous open */
	uint32_t conns;
	uint8_t family; /* enum net_family */
	bool joins;     /* segments that follow each other come up as one */
	bool aborts, healed;
	bool cookies;                 /* a late ACK may make a connection that was there already */
	double down_p, jump_p, mtu_p; /* in each step: the link goes down, the clock leaps, the
					 path's MTU changes */
	char failure[256];
};

/* Notes the first failure of a seed. */
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool sim_chance(struct sim *sim, double p);
uint64_t sim_between(struct sim *sim, uint64_t lo, uint64_t hi);

/* link.c */
/* The device's end: owns `m`. */
void sim_link_send(struct sim_link *l, struct rte_mbuf *m);
/* The next frame that is due; there is one. */
struct sim_frame sim_link_take(struct sim_link *l);
/* As a router marks it, if it is ECN-capable: RFC 3168 s5. */
void sim_frame_mark(struct rte_mbuf *m);
/* NULL if there is no mbuf. */
struct rte_mbuf *sim_frame_copy(struct sim *sim, const struct rte_mbuf *from);

/* Pools; after rte_eal_init(). */
bool sim_init(void);
/* One seed. True if it passed; else sim->failure says why. */
bool sim_run(struct sim *sim, uint64_t seed);

#endif
