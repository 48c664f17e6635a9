/* What split-perf ring compares the lane with: 64-byte messages between the same two cores. */
#ifndef SPLITD_BENCH_RING_H
#define SPLITD_BENCH_RING_H

#include "bench/perf.h"

enum ring_peer { RING_PEER_UNIX_SOCKET, RING_PEER_PIPE_EVENTFD, RING_PEER_RTE_RING, RING_PEERS };

struct ring_peer_row {
	double rtt[101], rate[101];
};

/* Nanoseconds for one bare cache line there and back, averaged over about `seconds`; 0 on failure.
 */
double ring_line_rtt(const struct perf_options *options, double seconds);

const char *ring_peer_name(int peer);
/* Nanoseconds of one round trip; 0 when the peer could not be run (a line said why). */
double ring_peer_rtt(const struct perf_options *options, int peer, double seconds);
/* One-way messages a second, the sender as fast as it can. */
double ring_peer_rate(const struct perf_options *options, int peer, double seconds);

#endif
