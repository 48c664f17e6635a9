/* rpc in one machine without a device: splitd's worker on one core, the load on the other, frames
 * over a pair of rings. The host is a process of its own. */
#include <string.h>

#include <rte_lcore.h>

#include "base/clock.h"
#include "bench/rpc.h"

#define CONNECT_NS (10 * CLOCK_NS_PER_SEC)
#define DRAIN_NS   (5 * CLOCK_NS_PER_SEC)
#define SETTLE_NS  (20 * CLOCK_NS_PER_MS)

static bool stopped(void *ctx)
{
	return !rig_running(ctx);
}

static int measure(struct rig *rig, struct load *load, const struct rpc_options *o, bool stages,
		   struct rpc_run *run)
{
	struct rig_sample before, after;
	int err;

	run->stages = stages;
	worker_stages_enable(rig_worker(rig), stages);
	err = load_run(load, SETTLE_NS, NULL); /* the switch takes effect with a turn */
	if (err != 0)
		return err;
	rig_sample(rig, &before);
	err = load_run(load, (uint64_t)(o->perf->seconds * 1e9), &run->window);
	rig_sample(rig, &after);
	rpc_run_fill(run, &before, &after);
	return err;
}

static int bench(struct rig *rig, struct load *load, const struct rpc_options *o,
		 struct rpc_run *runs, unsigned *n_out, uint64_t *lost_out)
{
	int err = load_connect(load, CONNECT_NS);

	if (err == 0)
		err = load_run(load, (uint64_t)(o->perf->seconds * 1e9 / 4), NULL);
	for (unsigned i = 0; i < 2 * o->perf->runs && err == 0; i++) {
		/* on off, off on, on off, … : a drift of the machine favours neither */
		bool stages = (i & 1) == ((i >> 1) & 1);

		stages = (stages || o->stages_on) && !o->stages_off;
		err = measure(rig, load, o, stages, &runs[i]);
		*n_out = i + 1;
	}
	*lost_out = load_drain(load, DRAIN_NS);
	return err;
}

int rpc_ring(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out, uint64_t *lost_out)
{
	const struct rig_options rig_options = {
		.core_daemon = o->perf->core_a,
		.core_load = o->perf->core_b,
		.core_host = o->core_host,
		.adaptive = o->adaptive,
		.host_spin_ns = o->host_spin_ns,
		.connections_max = o->connections + 16,
		.message_bytes = o->bytes,
		.calls = o->connections * o->streams,
		.tls = o->tls,
		.decode_at_host = o->decode_at_host,
		.encode_at_host = o->encode_at_host,
		.alias_min = o->alias_min,
		.attach_tcp = o->attach_tcp,
	};
	struct load_params params = {
		.connections = o->connections,
		.streams = o->streams,
		.bytes = o->bytes,
		.rate = o->rate,
		.kind = o->kind,
		.messages = o->messages,
		.path = rpc_path(o),
		.authority = RIG_ADDRESS,
		.seed = 1,
		.stopped = stopped,
	};
	struct link_set *set = NULL;
	struct load *load = NULL;
	struct rig *rig = NULL;
	int err = rig_start(&rig_options, &rig);

	*n_out = 0;
	if (err != 0)
		return err;
	struct link_ring link = rig_link(rig);

	params.ctx = rig;
	err = link_ring_create(&link, o->tls ? link_tls_below() : &load_link_events, &set);
	if (err == 0 && o->tls)
		err = link_tls_create(set, &load_link_events, &set);
	if (err == 0)
		err = load_create(&params, set, &load);
	if (err == 0)
		err = bench(rig, load, o, runs, n_out, lost_out);
	load_destroy(load);
	/* Let the farewells reach the worker, so that it has nothing to wait for. */
	for (unsigned i = 0; set != NULL && i < 1000; i++) {
		(void)links_poll(set, clock_ns(), 1);
		links_flush(set, clock_ns());
	}
	links_destroy(set);
	rig_stop(rig);
	return err;
}
