/* A daemon side and a host side attached to each other in this process, by the real protocol. */
#ifndef SPLITD_BENCH_PAIR_H
#define SPLITD_BENCH_PAIR_H

#include "shepherd/shepherd.h"

struct pair {
	struct attach_server *server;
	struct endpoint *endpoint;
	struct endpoint_port *port; /* daemon worker 0 */
	struct attachment *attachment;
	struct host_lane *lane; /* (0, 0) */
	struct shepherd_counters counters;
};

/* One daemon worker, one host worker, rings of `slots`. Hugepages when there are some. 0 or a
 * negative code after one line on standard error. */
int pair_open(struct pair *pair, unsigned slots) SPLIT_MUST_USE;
void pair_close(struct pair *pair);

#endif
