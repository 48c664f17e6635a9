/* split-perf rpc: what its two ways to a server share. */
#ifndef SPLITD_BENCH_RPC_H
#define SPLITD_BENCH_RPC_H

#include "bench/load.h"
#include "bench/perf.h"
#include "bench/rig.h"

#define RPC_RUNS_MAX 101

struct rpc_options {
	const struct perf_options *perf;
	unsigned connections, streams;
	uint32_t bytes;
	double rate;
	unsigned core_host;
	uint64_t host_spin_ns;
	bool adaptive;
	const char *port;  /* NULL: net_ring in process */
	const char *build; /* of splitd and echo, with a port */
};

/* One measured run. */
struct rpc_run {
	struct load_window window;
	bool stages; /* stage counting was on */
	double calls_per_s;
	double daemon_ns;                  /* useful CPU of the daemon, a call */
	double host_ns;                    /* CPU of the host, a call */
	double busy;                       /* share of time that the daemon spent on work */
	double cycles[WORKER_STAGE_COUNT]; /* a call */
};

/* Fill runs[0..n): pairs of on and off where stages can be switched, n = 2 × perf->runs, else n =
 * perf->runs. `lost`: calls never answered. */
int rpc_ring(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out,
	     uint64_t *lost_out) SPLIT_MUST_USE;
int rpc_port(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out,
	     uint64_t *lost_out) SPLIT_MUST_USE;

#endif
