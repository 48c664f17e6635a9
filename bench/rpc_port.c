/* rpc through a real port: splitd and examples/echo as their users start them, in a namespace of
 * their own; the load over kernel sockets inside it.
 *
 * CPU a call here is the busy time of the server's cores, softirq included, less splitd's empty
 * polls. What the kernel does for a frame on the sender's core (veth delivers there) counts for the
 * load and is not in it; bench/README.md says more. */
#include <string.h>

#include "base/clock.h"
#include "bench/rpc.h"
#include "bench/served.h"

#define CONNECT_NS (10 * CLOCK_NS_PER_SEC)
#define DRAIN_NS   (5 * CLOCK_NS_PER_SEC)

static bool stopped(void *ctx)
{
	return !served_running(ctx);
}

static uint64_t server_busy_ns(const struct served *s, unsigned core_load)
{
	uint64_t busy = core_busy_ns(s->core_daemon);

	if (s->core_host != s->core_daemon && s->core_host != core_load)
		busy += core_busy_ns(s->core_host);
	return busy;
}

static int measure(struct served *s, struct load *load, const struct rpc_options *o,
		   struct rpc_run *run)
{
	struct rig_sample before, after;
	uint64_t busy;
	double calls;
	int err = served_sample(s, &before);

	run->stages = true;
	if (err != 0)
		return err;
	busy = server_busy_ns(s, o->perf->core_b);
	err = load_run(load, (uint64_t)(o->perf->seconds * 1e9), &run->window);
	busy = server_busy_ns(s, o->perf->core_b) - busy;
	if (err == 0)
		err = served_sample(s, &after);
	if (err != 0)
		return err;
	rpc_run_fill(run, &before, &after);
	calls = run->window.calls != 0 ? (double)run->window.calls : 1;
	run->core_ns = ((double)busy - (double)(after.idle_poll_ns - before.idle_poll_ns)) / calls;
	if (s->core_host == o->perf->core_b && s->core_host != s->core_daemon)
		run->core_ns += run->host_ns;
	return 0;
}

static int bench(struct served *s, struct load *load, const struct rpc_options *o,
		 struct rpc_run *runs, unsigned *n_out, uint64_t *lost_out)
{
	int err = load_connect(load, CONNECT_NS);

	if (err == 0)
		err = load_run(load, (uint64_t)(o->perf->seconds * 1e9 / 4), NULL);
	for (unsigned i = 0; i < o->perf->runs && err == 0; i++) {
		err = measure(s, load, o, &runs[i]);
		*n_out = i + 1;
	}
	*lost_out = load_drain(load, DRAIN_NS);
	return err;
}

int rpc_port(const struct rpc_options *o, struct rpc_run *runs, unsigned *n_out, uint64_t *lost_out)
{
	const struct served_options served_options = {.port = o->port,
						      .build = o->build,
						      .core_daemon = o->perf->core_a,
						      .core_host = o->core_host,
						      .poll = o->poll,
						      .tls = o->tls};
	struct load_params params = {
		.connections = o->connections,
		.streams = o->streams,
		.bytes = o->bytes,
		.rate = o->rate,
		.kind = o->kind,
		.messages = o->messages,
		.path = rpc_path(o),
		.seed = 1,
		.stopped = stopped,
	};
	struct link_set *set = NULL;
	struct load *load = NULL;
	struct served served;
	int err = served_start(&served_options, &served);

	*n_out = 0;
	if (err != 0)
		return err;
	params.authority = served.address;
	params.ctx = &served;
	err = perf_pin(o->perf->core_b);
	if (err == 0)
		err = link_socket_create(served.address, (uint16_t)served.port,
					 o->tls ? link_tls_below() : &load_link_events, &set);
	if (err == 0 && o->tls)
		err = link_tls_create(set, &load_link_events, &set);
	if (err == 0)
		err = load_create(&params, set, &load);
	if (err == 0)
		err = bench(&served, load, o, runs, n_out, lost_out);
	load_destroy(load);
	links_destroy(set);
	served_stop(&served);
	return err;
}
