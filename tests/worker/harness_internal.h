/* What the parts of the harness share. */
#ifndef SPLITD_TESTS_WORKER_HARNESS_INTERNAL_H
#define SPLITD_TESTS_WORKER_HARNESS_INTERNAL_H

#include <rte_mempool.h>
#include <rte_ring.h>

#include "base/random.h"
#include "daemon/net/net.h"
#include "tests/worker/harness.h"

struct harness {
	struct config *config;
	struct port_set *ports;
	struct services_board *board;
	struct worker *worker;
	struct rte_ring *to_worker, *to_client;
	struct rte_mempool *pool;
	struct net_stack *stack;
	struct random random;
	int wake_fd;
};

extern struct harness harness;

void client_turn(void);
void clients_send(void);
void clients_close(void);
void hosts_remove(void);

/* host_stream.c: the streaming half of a fake host; its thread. */
struct host_lane;
struct slot;
/* False: the slot is not about a stream. */
bool host_stream_take(struct fake_host *h, struct host_lane *lane, const struct slot *slot);
void host_streams_run(struct fake_host *h);
/* The request was taken back, or there is no place for it. */
void host_refuse(struct fake_host *h, struct host_lane *lane, const struct slot *slot);

#endif
