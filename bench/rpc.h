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
	bool tls;
	enum h2_kind kind;
	uint32_t messages; /* of a call, each way that streams */
	double rate;
	unsigned core_host;
	uint64_t host_spin_ns;
	bool adaptive, poll;                 /* as asked; neither: the default */
	bool decode_at_host, encode_at_host; /* ring */
	uint64_t alias_min;                  /* ring: linearize.alias_min, or RIG_ALIAS_DEFAULT */
	bool attach_tcp;                     /* ring: the host comes by tcp:// */
	bool stages_on, stages_off;          /* ring: in every run; neither: in turns */
	const char *port;                    /* NULL: net_ring in process */
	const char *build;                   /* of splitd and echo, with a port */
};

/* One measured run. */
struct rpc_run {
	struct load_window window;
	bool stages; /* stage counting was on */
	double calls_per_s;
	double daemon_ns; /* useful CPU of the daemon, a call */
	double host_ns;   /* CPU of the host, a call */
	double relay_ns;  /* CPU of splitd's relay, a call */
	double core_ns; /* ports: busy time of the server cores less empty polls, a call; 0: none */
	double busy;    /* share of time that the daemon spent on work */
	double cycles[WORKER_STAGE_COUNT]; /* a call */
};

/* What lies between two samples. The worker knows which turns were empty; what its thread had of
 * the CPU beyond those is work, however often the core was taken from it. */
void rpc_run_fill(struct rpc_run *run, const struct rig_sample *a, const struct rig_sample *b);

/* Path of the method of examples/echo that is called. */
const char *rpc_path(const struct rpc_options *o);

/* Fill runs[0..n): pairs of on and off where stages can be switched, n = 2 × perf->runs, else n =
 * perf->runs. `lost`: calls never answered. */
int rpc_ring(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out,
	     uint64_t *lost_out) SPLIT_MUST_USE;
int rpc_port(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out,
	     uint64_t *lost_out) SPLIT_MUST_USE;

#endif
