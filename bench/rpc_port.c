#include "bench/rpc.h"

int rpc_port(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out, uint64_t *lost_out)
{
	(void)runs;
	*n_out = 0;
	*lost_out = 0;
	perf_warn("--port %s: not yet", o->port);
	return -SPLIT_E_BASE_INVALID;
}
