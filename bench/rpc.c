/* split-perf rpc: whole gRPC calls through splitd, from a load generator that checks every answer.
 */
#include "bench/rpc.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"

static unsigned default_host_core(const struct perf_options *perf)
{
	cpu_set_t set;

	/* A third core where there is one; else it shares the generator's. */
	if (sched_getaffinity(0, sizeof(set), &set) == 0) {
		for (unsigned i = 0; i < CPU_SETSIZE; i++) {
			if (CPU_ISSET(i, &set) && i != perf->core_a && i != perf->core_b)
				return i;
		}
	}
	return perf->core_b;
}

static const char *const kinds[] = {
	[H2_UNARY] = "unary", [H2_CLIENT] = "client", [H2_SERVER] = "server", [H2_BIDI] = "bidi"};

const char *rpc_path(const struct rpc_options *o)
{
	static const char *const paths[] = {
		[H2_UNARY] = "/split.examples.Echo/Unary",
		[H2_CLIENT] = "/split.examples.Echo/Client",
		[H2_SERVER] = "/split.examples.Echo/Server",
		[H2_BIDI] = "/split.examples.Echo/Bidi",
	};

	return paths[o->kind];
}

static int kind_take(struct perf_options *perf, struct rpc_options *o)
{
	const char *kind = perf_option(perf, "--kind");

	o->messages = (uint32_t)perf_number("--messages", perf_option(perf, "--messages"), 1,
					    1000000, 16);
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		if (kind == NULL || strcmp(kind, kinds[i]) == 0) {
			o->kind = (enum h2_kind)i;
			return 0;
		}
	}
	perf_warn("--kind: expected unary, client, server or bidi, not '%s'", kind);
	return -SPLIT_E_BASE_INVALID;
}

/* Who decodes, or encodes. */
static int side_take(struct perf_options *perf, const char *name, bool *host_out)
{
	const char *side = perf_option(perf, name);

	*host_out = side != NULL && strcmp(side, "host") == 0;
	if (side == NULL || *host_out || strcmp(side, "daemon") == 0)
		return 0;
	perf_warn("%s: expected daemon or host, not '%s'", name, side);
	return -SPLIT_E_BASE_INVALID;
}

/* How the host comes to splitd. */
static int attach_take(struct perf_options *perf, struct rpc_options *o)
{
	const char *attach = perf_option(perf, "--attach");

	o->attach_tcp = attach != NULL && strcmp(attach, "tcp") == 0;
	if (attach == NULL || o->attach_tcp || strcmp(attach, "shm") == 0)
		return 0;
	perf_warn("--attach: expected shm or tcp, not '%s'", attach);
	return -SPLIT_E_BASE_INVALID;
}

static int options_take(struct perf_options *perf, struct rpc_options *o)
{
	const char *rate = perf_option(perf, "--rate"), *idle = perf_option(perf, "--idle");
	const char *stages = perf_option(perf, "--stages");
	char *end = NULL;

	*o = (struct rpc_options){.perf = perf};
	o->connections = (unsigned)perf_number("--connections", perf_option(perf, "--connections"),
					       1, 100000, 8);
	o->streams =
		(unsigned)perf_number("--streams", perf_option(perf, "--streams"), 1, 1024, 16);
	o->bytes =
		(uint32_t)perf_number("--size", perf_option(perf, "--size"), 0, 4194304 - 64, 64);
	if (kind_take(perf, o) != 0 || side_take(perf, "--decode", &o->decode_at_host) != 0 ||
	    side_take(perf, "--encode", &o->encode_at_host) != 0 || attach_take(perf, o) != 0)
		return -SPLIT_E_BASE_INVALID;
	o->alias_min = perf_number("--alias-min", perf_option(perf, "--alias-min"), 0, 1u << 30,
				   RIG_ALIAS_DEFAULT);
	o->tls = perf_flag(perf, "--tls");
	o->port = perf_option(perf, "--port");
	if (o->port != NULL && strcmp(o->port, "ring") == 0)
		o->port = NULL;
	if (o->port != NULL && strcmp(o->port, "tap") != 0 && strcmp(o->port, "af_packet") != 0 &&
	    strcmp(o->port, "af_xdp") != 0) {
		perf_warn("--port: expected ring, tap, af_packet or af_xdp, not '%s'", o->port);
		return -SPLIT_E_BASE_INVALID;
	}
	o->core_host =
		(unsigned)perf_number("--host-core", perf_option(perf, "--host-core"), 0, 1023,
				      o->port != NULL ? perf->core_a : default_host_core(perf));
	o->host_spin_ns =
		perf_number("--host-spin", perf_option(perf, "--host-spin"), 1, UINT64_MAX, 0);
	o->build = perf_option(perf, "--build");
	o->adaptive = idle != NULL && strcmp(idle, "adaptive") == 0;
	o->poll = idle != NULL && strcmp(idle, "poll") == 0;
	if (idle != NULL && !o->adaptive && !o->poll) {
		perf_warn("--idle: expected poll or adaptive, not '%s'", idle);
		return -SPLIT_E_BASE_INVALID;
	}
	o->stages_on = stages != NULL && strcmp(stages, "on") == 0;
	o->stages_off = stages != NULL && strcmp(stages, "off") == 0;
	if (stages != NULL && !o->stages_on && !o->stages_off) {
		perf_warn("--stages: expected on or off, not '%s'", stages);
		return -SPLIT_E_BASE_INVALID;
	}
	if (o->port != NULL && (o->decode_at_host || o->encode_at_host || o->attach_tcp ||
				o->alias_min != RIG_ALIAS_DEFAULT)) {
		perf_warn("--attach, --decode, --encode and --alias-min: with a port its "
			  "configuration says");
		return -SPLIT_E_BASE_INVALID;
	}
	if (rate != NULL)
		o->rate = strtod(rate, &end);
	if (rate != NULL && (*end != '\0' || !(o->rate >= 1 && o->rate <= 1e8))) {
		perf_warn("--rate: expected calls a second from 1 to 1e8, not '%s'", rate);
		return -SPLIT_E_BASE_INVALID;
	}
	return perf_options_done(perf);
}

void rpc_run_fill(struct rpc_run *run, const struct rig_sample *a, const struct rig_sample *b)
{
	double calls = run->window.calls != 0 ? (double)run->window.calls : 1;
	double seconds = (double)(run->window.end_ns - run->window.begin_ns) / 1e9;
	double busy = (double)(b->busy_ns - a->busy_ns);
	double idle = (double)(b->idle_poll_ns - a->idle_poll_ns);
	double cpu = (double)(b->daemon_cpu_ns - a->daemon_cpu_ns);
	double useful = cpu > idle ? cpu - idle : 0;

	run->calls_per_s = (double)run->window.calls / seconds;
	run->daemon_ns = useful / calls;
	run->relay_ns = (double)(b->relay_cpu_ns - a->relay_cpu_ns) / calls;
	run->host_ns = (double)(b->host_cpu_ns - a->host_cpu_ns) / calls;
	run->busy = useful / (double)(b->ns - a->ns);
	for (unsigned i = 0; i < WORKER_STAGE_COUNT; i++) {
		run->cycles[i] = (double)(b->stages[i] - a->stages[i]) / calls;
		/* The cycle counter runs on while somebody else has the core. */
		if (i != WORKER_STAGE_idle && busy > 0)
			run->cycles[i] *= useful / busy;
	}
}

typedef double (*run_value)(const struct rpc_run *run, unsigned which);

static double value_calls(const struct rpc_run *r, unsigned which)
{
	(void)which;
	return r->calls_per_s;
}

static double value_cpu(const struct rpc_run *r, unsigned which)
{
	(void)which;
	return r->core_ns != 0 ? r->core_ns : r->daemon_ns + r->host_ns + r->relay_ns;
}

static double value_daemon(const struct rpc_run *r, unsigned which)
{
	(void)which;
	return r->daemon_ns;
}

static double value_host(const struct rpc_run *r, unsigned which)
{
	(void)which;
	return r->host_ns;
}

static double value_relay(const struct rpc_run *r, unsigned which)
{
	(void)which;
	return r->relay_ns;
}

static double value_busy(const struct rpc_run *r, unsigned which)
{
	(void)which;
	return r->busy;
}

static double value_cycles(const struct rpc_run *r, unsigned which)
{
	return r->cycles[which];
}

enum which_runs { RUNS_ALL, RUNS_ON, RUNS_OFF };

static bool selected(const struct rpc_run *run, enum which_runs which)
{
	return which == RUNS_ALL || run->stages == (which == RUNS_ON);
}

static double median_of(const struct rpc_run *runs, unsigned n, enum which_runs which,
			run_value value, unsigned index)
{
	double values[2 * RPC_RUNS_MAX];
	size_t found = 0;

	for (unsigned i = 0; i < n; i++) {
		if (selected(&runs[i], which))
			values[found++] = value(&runs[i], index);
	}
	return found != 0 ? perf_median(values, found) : 0;
}

/* How much dearer the daemon's part of a call is with stages counted: the median over neighbours of
 * on / off - 1. */
static json_t *stages_cost(const struct rpc_run *runs, unsigned n)
{
	double ratios[RPC_RUNS_MAX];
	size_t found = 0;

	for (unsigned i = 0; i + 1 < n; i += 2) {
		const struct rpc_run *on = runs[i].stages ? &runs[i] : &runs[i + 1];
		const struct rpc_run *off = runs[i].stages ? &runs[i + 1] : &runs[i];

		if (on->stages && !off->stages && off->daemon_ns > 0 && on->daemon_ns > 0)
			ratios[found++] = on->daemon_ns / off->daemon_ns - 1;
	}
	return found != 0 ? json_real(perf_median(ratios, found)) : json_null();
}

static json_t *cycles_json(const struct rpc_run *runs, unsigned n, double host_ns)
{
	json_t *cycles = json_object();

	for (unsigned i = 0; i < WORKER_STAGE_COUNT; i++)
		json_object_set_new(cycles, worker_stage_name((enum worker_stage)i),
				    json_real(median_of(runs, n, RUNS_ON, value_cycles, i)));
	json_object_set_new(cycles, "host", json_real(host_ns * (double)clock_cycles_hz() / 1e9));
	return cycles;
}

struct totals {
	uint64_t calls, errors, behind;
	struct perf_histogram latency;
};

static void totals_add(struct totals *t, const struct rpc_run *runs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		t->calls += runs[i].window.calls;
		t->errors += runs[i].window.errors;
		if (runs[i].window.behind > t->behind)
			t->behind = runs[i].window.behind;
		perf_histogram_merge(&t->latency, &runs[i].window.latency);
	}
}

static void report(const struct rpc_options *o, const struct rpc_run *runs, unsigned n,
		   uint64_t lost, json_t *out)
{
	struct totals *t = calloc(1, sizeof(*t));
	double calls = median_of(runs, n, RUNS_ALL, value_calls, 0);
	double host = median_of(runs, n, RUNS_ALL, value_host, 0);
	double relay = median_of(runs, n, RUNS_ALL, value_relay, 0);
	/* Of a call, in the direction that has most. */
	uint32_t messages = o->kind == H2_UNARY ? 1 : o->messages;
	json_t *cycles = cycles_json(runs, n, host), *value;
	const char *name;
	uint64_t errors;

	if (t == NULL)
		return;
	totals_add(t, runs, n);
	errors = t->errors + lost;
	json_object_set_new(out, "load", json_string(o->rate != 0 ? "open" : "closed"));
	json_object_set_new(out, "port", json_string(o->port != NULL ? o->port : "net_ring"));
	json_object_set_new(out, "connections", json_integer(o->connections));
	json_object_set_new(out, "streams", json_integer(o->streams));
	json_object_set_new(out, "bytes", json_integer(o->bytes));
	json_object_set_new(out, "kind", json_string(kinds[o->kind]));
	json_object_set_new(out, "decode", json_string(o->decode_at_host ? "host" : "daemon"));
	json_object_set_new(out, "encode", json_string(o->encode_at_host ? "host" : "daemon"));
	if (o->alias_min != RIG_ALIAS_DEFAULT)
		json_object_set_new(out, "alias_min", json_integer((json_int_t)o->alias_min));
	json_object_set_new(out, "messages", json_integer(messages));
	json_object_set_new(out, "messages_per_s", json_real(calls * messages));
	json_object_set_new(out, "rate", o->rate != 0 ? json_real(o->rate) : json_null());
	json_object_set_new(out, "calls", json_integer((json_int_t)t->calls));
	json_object_set_new(out, "calls_per_s", json_real(calls));
	json_object_set_new(out, "cpu_ns_per_call",
			    json_real(median_of(runs, n, RUNS_ALL, value_cpu, 0)));
	json_object_set_new(out, "daemon_ns_per_call",
			    json_real(median_of(runs, n, RUNS_ALL, value_daemon, 0)));
	json_object_set_new(out, "host_ns_per_call", json_real(host));
	json_object_set_new(out, "attach", json_string(o->attach_tcp ? "tcp" : "shm"));
	json_object_set_new(out, "relay_ns_per_call", json_real(relay));
	json_object_set_new(out, "daemon_busy",
			    json_real(median_of(runs, n, RUNS_ALL, value_busy, 0)));
	json_object_set_new(out, "cycles", cycles);
	json_object_set_new(out, "cycles_hz", json_integer((json_int_t)clock_cycles_hz()));
	json_object_set_new(out, "stages_cost", stages_cost(runs, n));
	json_object_set_new(out, "latency_ns", perf_histogram_json(&t->latency));
	json_object_set_new(out, "errors", json_integer((json_int_t)errors));
	json_object_set_new(out, "behind", json_integer((json_int_t)t->behind));
	perf_say(o->perf, "%s, %s load, %s x %u, %u x %u, %u bytes, %llu calls\n\n",
		 o->port != NULL ? o->port : "net_ring", o->rate != 0 ? "open" : "closed",
		 kinds[o->kind], messages, o->connections, o->streams, o->bytes,
		 (unsigned long long)t->calls);
	if (messages != 1)
		perf_say(o->perf, "%-22s %12.0f\n", "messages/s", calls * messages);
	perf_say(o->perf, "%-22s %12.0f\n%-22s %12.0f\n", "calls/s", calls, "CPU ns/call",
		 json_real_value(json_object_get(out, "cpu_ns_per_call")));
	perf_say(o->perf, "%-22s %12.0f\n%-22s %12.0f\n%-22s %11.0f%%\n", "  daemon, useful",
		 json_real_value(json_object_get(out, "daemon_ns_per_call")), "  host", host,
		 "daemon busy", 100 * json_real_value(json_object_get(out, "daemon_busy")));
	if (o->attach_tcp)
		perf_say(o->perf, "%-22s %12.0f\n", "  relay", relay);
	json_object_foreach(json_object_get(out, "latency_ns"), name, value)
		perf_say(o->perf, "latency %-14s %10.1f us\n", name,
			 (double)json_integer_value(value) / 1e3);
	perf_say(o->perf, "%-22s %12llu\n", "errors", (unsigned long long)errors);
	if (o->rate != 0)
		perf_say(o->perf, "%-22s %12llu\n", "behind (open load)",
			 (unsigned long long)t->behind);
	perf_say(o->perf, "\ncycles a call, by stage\n");
	json_object_foreach(cycles, name, value)
		perf_say(o->perf, "  %-10s %10.0f\n", name, json_real_value(value));
	value = json_object_get(out, "stages_cost");
	if (json_is_real(value))
		perf_say(o->perf, "counting them costs the daemon %+.1f%%\n",
			 100 * json_real_value(value));
	free(t);
}

static int rpc_run(const struct perf_options *options, json_t *out)
{
	struct perf_options own = *options;
	struct rpc_options o;
	struct rpc_run *runs;
	uint64_t lost = 0;
	unsigned n = 0;
	int err;

	if (options_take(&own, &o) != 0)
		exit(2);
	runs = calloc(2 * o.perf->runs, sizeof(*runs));
	if (runs == NULL)
		return -SPLIT_E_BASE_NOMEM;
	clock_calibrate();
	err = o.port != NULL ? rpc_port(&o, runs, &n, &lost) : rpc_ring(&o, runs, &n, &lost);
	if (n != 0)
		report(&o, runs, n, lost, out);
	free(runs);
	return err;
}

const struct perf_mode perf_mode_rpc = {
	.name = "rpc",
	.purpose =
		"gRPC calls through splitd: calls a second, CPU a call, latency, cycles by stage",
	.usage =
		"  --rate N            open loop: N calls a second, latency from the intended "
		"time;\n"
		"                      without it closed loop\n"
		"  --connections N     default 8\n"
		"  --streams N         calls under way on each, at most; default 16\n"
		"  --size BYTES        payload; default 64\n"
		"  --kind K            unary (default), client, server, bidi: that method of "
		"examples/echo;\n"
		"                      bidi: each message waits for the answer to the last\n"
		"  --messages N        of a streaming call; default 16\n"
		"  --tls               over TLS 1.3, with a certificate made for the run (RSA "
		"2048)\n"
		"  --port P            ring (in process, default), tap, af_packet, af_xdp\n"
		"  --idle MODE         poll (default) or adaptive; with a port its configuration "
		"says\n"
		"  --host-core N       default: a third core if there is one, else the load's "
		"(ring)\n"
		"                      or the daemon's (ports)\n"
		"  --host-spin NS      how long an idle host looks before it parks (ring)\n"
		"  --decode SIDE       who decodes requests: daemon (default) or host (ring)\n"
		"  --encode SIDE       who encodes answers, likewise\n"
		"  --attach WAY        how the host comes: shm (default) or tcp, over loopback "
		"(ring)\n"
		"  --alias-min BYTES   linearize.alias_min: shorter strings are copied; 0: all "
		"(ring)\n"
		"  --stages on|off     count cycles by stage in every run, or in none; default: in "
		"turns\n"
		"                      (ring)\n"
		"  --build DIR         with a port: where splitd and echo are (default: beside "
		"this)\n",
	.run = rpc_run,
};
