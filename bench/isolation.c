/* split-perf isolation: the experiment of Split gRPC (APSys '24, s5, Figure 2).
 *
 * bench.exchange.Exchange/Settle on plain grpc++ and behind splitd, at the same offered load (open
 * loop), while the handler's busy loop grows until the host's core is full and beyond; with that
 * core alone, and with an antagonist process on it. What parts the systems is where the host's core
 * is full: grpc++ pays transport, HTTP/2 and protobuf there, splitd's host pays none of it.
 *
 * Who has which core: core A belongs to the service (all of grpc++; splitd's host) and to the
 * antagonist; core B to splitd's daemon, which stands for the IPU, and to the load.
 *
 * The paper's third system, with a protobuf accelerator, is modelled from splitd's own runs and
 * says so: the cycles of the daemon's decode and encode stages are taken off its utilisation and
 * off each latency. What queues behind the codec is not modelled, so it is a lower bound on the
 * gain.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rte_common.h>

#include "base/bits.h"
#include "base/clock.h"
#include "bench/exchange/exchange.h"
#include "bench/load.h"
#include "bench/perf.h"
#include "bench/served.h"

#define SIZES_MAX   8
#define POINTS_MAX  16
#define RUNS_MAX    51
#define CONNECT_NS  (20 * CLOCK_NS_PER_SEC)
#define DRAIN_NS    (20 * CLOCK_NS_PER_SEC)
#define SMALL_BYTES 16384 /* above it fewer calls under way */

enum system { GRPCPP, SPLIT, SPLIT_MODELLED, SYSTEMS };
static const char *const system_names[] = {
	[GRPCPP] = "grpc++", [SPLIT] = "split", [SPLIT_MODELLED] = "split-modelled"};

struct isolation {
	struct perf_options perf;
	uint64_t sizes[SIZES_MAX], busy[POINTS_MAX];
	size_t sizes_n, busy_n; /* busy_n 0: shares of the time between two calls */
	unsigned connections, streams;
	double load; /* of what the slower system can do without a busy loop */
	double rate; /* not 0: instead of that */
	const char *port, *build;
	bool antagonist_only, alone_only;
	struct served served[2]; /* by enum system */
	pid_t antagonist;
};

/* Shares of the time between two calls that the handler is busy for. */
static const double shares[] = {0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0};

struct point {
	enum system system;
	uint32_t bytes, busy_ns;
	bool antagonist;
};

/* One run of one point. Shares of a core; the codec's CPU for a call in the daemon. */
struct run {
	struct load_window window;
	double calls_per_s, host_util, host_core_util, daemon_util, codec_ns;
};

/* ---- antagonist ----------------------------------------------------------------------------- */

static void antagonist_stop(struct isolation *o)
{
	if (o->antagonist <= 0)
		return;
	(void)kill(o->antagonist, SIGKILL);
	(void)waitpid(o->antagonist, NULL, 0);
	o->antagonist = 0;
}

/* A process that wants all of the host's core, as any other tenant's may. */
static int antagonist_start(struct isolation *o)
{
	pid_t parent = getpid();

	o->antagonist = fork();
	if (o->antagonist < 0) {
		perf_warn("fork: %s", strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	if (o->antagonist != 0)
		return 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)prctl(PR_SET_NAME, "split-perf-ant");
	if (getppid() != parent || perf_pin(o->perf.core_a) != 0)
		_exit(1);
	for (;;)
		__asm__ volatile("" ::: "memory");
}

/* ---- one run -------------------------------------------------------------------------------- */

static bool stopped(void *ctx)
{
	return !served_running(ctx);
}

struct bed {
	struct link_set *set;
	struct load *load;
};

static void bed_close(struct bed *bed)
{
	load_destroy(bed->load);
	links_destroy(bed->set);
}

static int bed_open(struct isolation *o, struct served *s, const struct point *p, double rate,
		    struct bed *bed)
{
	struct load_params params = {
		.connections = o->connections,
		.streams = p->bytes > SMALL_BYTES ? (o->streams + 3) / 4 : o->streams,
		.rate = rate,
		.path = "/bench.exchange.Exchange/Settle",
		.authority = s->address,
		.seed = 1,
		.stopped = stopped,
		.ctx = s,
	};
	int err;

	*bed = (struct bed){NULL, NULL};
	if (exchange_bytes(p->bytes, p->busy_ns, &params.request, &params.request_bytes,
			   &params.reply, &params.reply_bytes) != 0)
		return -SPLIT_E_BASE_NOMEM;
	err = served_enter(s);
	if (err == 0)
		err = link_socket_create(s->address, (uint16_t)s->port, &load_link_events,
					 &bed->set);
	if (err != 0) {
		free(params.request);
		free(params.reply);
		served_leave(s);
		return err;
	}
	err = load_create(&params, bed->set, &bed->load);
	if (err == 0)
		err = load_connect(bed->load, CONNECT_NS);
	served_leave(s);
	return err;
}

static void run_fill(struct run *run, const struct rig_sample *a, const struct rig_sample *b,
		     uint64_t core_ns)
{
	double wall = (double)(b->ns - a->ns), calls = (double)run->window.calls;
	double cpu = (double)(b->daemon_cpu_ns - a->daemon_cpu_ns);
	double idle = (double)(b->idle_poll_ns - a->idle_poll_ns);
	double busy = (double)(b->busy_ns - a->busy_ns);
	double useful = cpu > idle ? cpu - idle : 0;
	double codec = (double)(b->stages[WORKER_STAGE_decode] - a->stages[WORKER_STAGE_decode] +
				b->stages[WORKER_STAGE_encode] - a->stages[WORKER_STAGE_encode]);

	run->calls_per_s = calls / ((double)(run->window.end_ns - run->window.begin_ns) / 1e9);
	run->host_util = (double)(b->host_cpu_ns - a->host_cpu_ns) / wall;
	run->host_core_util = (double)core_ns / wall;
	run->daemon_util = useful / wall;
	/* The cycle counter runs on while somebody else has the core. */
	if (busy > 0 && calls > 0)
		run->codec_ns = codec * 1e9 / (double)clock_cycles_hz() * (useful / busy) / calls;
}

/* Load the point's system for `seconds`; rate 0: as much as goes. */
static int run_point(struct isolation *o, const struct point *p, double rate, double seconds,
		     struct run *run)
{
	struct served *s = &o->served[p->system];
	struct rig_sample before, after;
	uint64_t busy = 0;
	struct bed bed;
	int err = bed_open(o, s, p, rate, &bed);

	memset(run, 0, sizeof(*run));
	if (err == 0)
		err = load_run(bed.load, (uint64_t)(seconds * 1e9 / 4), NULL);
	if (err == 0)
		err = served_sample(s, &before);
	if (err == 0) {
		busy = core_busy_ns(o->perf.core_a);
		err = load_run(bed.load, (uint64_t)(seconds * 1e9), &run->window);
		busy = core_busy_ns(o->perf.core_a) - busy;
	}
	if (err == 0)
		err = served_sample(s, &after);
	if (err == 0) {
		run_fill(run, &before, &after, busy);
		run->window.errors += load_drain(bed.load, DRAIN_NS);
	}
	bed_close(&bed);
	return err;
}

/* ---- a point: several runs, interleaved with the other system's ------------------------------ */

static double median(const struct run *runs, unsigned n, size_t offset)
{
	double values[RUNS_MAX];

	for (unsigned i = 0; i < n; i++)
		memcpy(&values[i], (const char *)&runs[i] + offset, sizeof(double));
	return perf_median(values, n);
}
#define MEDIAN(runs, n, field) median(runs, n, offsetof(struct run, field))

/* P75, P90 and P99 of all runs, less `off`. */
static void row_latency(const struct isolation *o, const struct run *runs, double off, json_t *row)
{
	static const struct {
		const char *name;
		double at;
	} quantiles[] = {{"p75_ns", 0.75}, {"p90_ns", 0.90}, {"p99_ns", 0.99}};
	struct perf_histogram *all = calloc(1, sizeof(*all));

	for (unsigned i = 0; i < o->perf.runs && all != NULL; i++)
		perf_histogram_merge(all, &runs[i].window.latency);
	for (unsigned i = 0; i < ARRAY_LEN(quantiles) && all != NULL; i++) {
		double ns = (double)perf_histogram_at(all, quantiles[i].at) - off;

		json_object_set_new(row, quantiles[i].name,
				    json_integer((json_int_t)RTE_MAX(ns, 0.0)));
		perf_say(&o->perf, " %10.0f", RTE_MAX(ns, 0.0) / 1e3);
	}
	free(all);
}

static json_t *row_json(const struct isolation *o, const struct point *p, double rate,
			const struct run *runs)
{
	unsigned n = o->perf.runs;
	double codec = MEDIAN(runs, n, codec_ns), off = p->system == SPLIT_MODELLED ? codec : 0;
	double host = MEDIAN(runs, n, host_util), calls = MEDIAN(runs, n, calls_per_s);
	double daemon = RTE_MAX(MEDIAN(runs, n, daemon_util) - off * calls / 1e9, 0.0);
	uint64_t errors = 0, behind = 0;
	json_t *row;

	for (unsigned i = 0; i < n; i++) {
		errors += runs[i].window.errors;
		behind = RTE_MAX(runs[i].window.behind, behind);
	}
	row = json_pack("{s:s, s:b, s:I, s:I, s:b, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "system",
			system_names[p->system], "modelled", p->system == SPLIT_MODELLED, "bytes",
			(json_int_t)p->bytes, "busy_ns", (json_int_t)p->busy_ns, "antagonist",
			p->antagonist, "offered_per_s", rate, "calls_per_s", calls, "host_util",
			host, "host_core_util", MEDIAN(runs, n, host_core_util),
			"codec_ns_per_call", codec, "errors", (json_int_t)errors, "behind",
			(json_int_t)behind);
	if (row == NULL)
		return NULL;
	json_object_set_new(row, "daemon_util",
			    p->system == GRPCPP ? json_null() : json_real(daemon));
	perf_say(&o->perf, "%-15s %7u B  busy %8.1f us  %-10s  %8.0f of %8.0f calls/s",
		 system_names[p->system], p->bytes, p->busy_ns / 1e3,
		 p->antagonist ? "antagonist" : "alone", calls, rate);
	row_latency(o, runs, off, row);
	perf_say(&o->perf, "   %3.0f%%", 100 * host);
	if (p->system != GRPCPP)
		perf_say(&o->perf, "   %3.0f%%", 100 * daemon);
	perf_say(&o->perf, "%s\n", errors ? "   ERRORS" : "");
	return row;
}

static int point_bench(struct isolation *o, struct point p, double rate, json_t *rows)
{
	struct run *runs = calloc(2 * RUNS_MAX, sizeof(*runs));
	int err = 0;

	if (runs == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned i = 0; i < o->perf.runs && err == 0; i++) {
		for (unsigned k = 0; k < 2 && err == 0; k++) {
			p.system = (i + k) % 2 == 0 ? GRPCPP : SPLIT;
			perf_progress("%u B, busy %u ns, %s: %s, run %u of %u", p.bytes, p.busy_ns,
				      p.antagonist ? "with the antagonist" : "alone",
				      system_names[p.system], i + 1, o->perf.runs);
			err = run_point(o, &p, rate, o->perf.seconds,
					&runs[p.system * RUNS_MAX + i]);
		}
	}
	for (unsigned system = 0; system < SYSTEMS && err == 0; system++) {
		json_t *row;

		p.system = system;
		row = row_json(o, &p, rate, runs + (system == GRPCPP ? GRPCPP : SPLIT) * RUNS_MAX);
		err = row && json_array_append_new(rows, row) == 0 ? 0 : -SPLIT_E_BASE_NOMEM;
	}
	free(runs);
	return err;
}

/* ---- all of it ------------------------------------------------------------------------------ */

/* The load that is offered at this size: a share of what the slower of the two can do when the
 * handler does nothing but its answer. */
static int rate_find(struct isolation *o, uint32_t bytes, double *rate_out)
{
	double least = o->rate;

	for (unsigned system = 0; system < 2 && o->rate == 0; system++) {
		const struct point p = {.system = system, .bytes = bytes};
		struct run *run = calloc(1, sizeof(*run));
		int err = run ? run_point(o, &p, 0, o->perf.seconds, run) : -SPLIT_E_BASE_NOMEM;
		double rate = 0;

		if (err == 0) {
			rate = run->calls_per_s * o->load;
			perf_say(&o->perf, "%-15s %7u B  closed loop %39.0f calls/s%s\n",
				 system_names[system], bytes, run->calls_per_s,
				 run->window.errors ? "   ERRORS" : "");
		}
		free(run);
		if (err != 0)
			return err;
		least = system == 0 ? rate : RTE_MIN(rate, least);
	}
	*rate_out = least;
	if (least >= 1)
		return 0;
	perf_warn("no call of %u bytes is answered", bytes);
	return -SPLIT_E_BASE_SYSTEM;
}

static int size_bench(struct isolation *o, uint32_t bytes, bool antagonist, double rate,
		      json_t *rows)
{
	size_t n = o->busy_n != 0 ? o->busy_n : ARRAY_LEN(shares);
	int err = antagonist ? antagonist_start(o) : 0;

	for (size_t i = 0; i < n && err == 0; i++) {
		struct point p = {.bytes = bytes, .antagonist = antagonist};

		p.busy_ns =
			o->busy_n != 0 ? (uint32_t)o->busy[i] : (uint32_t)(shares[i] * 1e9 / rate);
		err = point_bench(o, p, rate, rows);
	}
	antagonist_stop(o);
	return err;
}

static int bench(struct isolation *o, json_t *out)
{
	json_t *rows = json_array();
	int err = 0;

	json_object_set_new(out, "rows", rows);
	perf_say(&o->perf, "behind the calls: P75, P90, P99 in us from the intended send time; "
			   "host's and daemon's share of a core\n\n");
	for (size_t i = 0; i < o->sizes_n && err == 0; i++) {
		uint32_t bytes = (uint32_t)o->sizes[i];
		double rate = 0;

		err = rate_find(o, bytes, &rate);
		if (err == 0 && !o->antagonist_only)
			err = size_bench(o, bytes, false, rate, rows);
		if (err == 0 && !o->alone_only)
			err = size_bench(o, bytes, true, rate, rows);
	}
	return err;
}

static int servers_start(struct isolation *o)
{
	struct served_options options = {
		.port = o->port,
		.build = o->build,
		.core_daemon = o->perf.core_b,
		.core_host = o->perf.core_a,
		.example = "exchange",
	};
	int err = served_start(&options, &o->served[SPLIT]);

	if (err != 0)
		return err;
	served_leave(&o->served[SPLIT]);
	options.peer = "bench/exchange/grpcpp_exchange";
	options.peer_mtu = strcmp(o->port, "af_xdp") == 0 ? 3400 : 1500;
	err = served_start(&options, &o->served[GRPCPP]);
	if (err == 0)
		served_leave(&o->served[GRPCPP]);
	else
		served_stop(&o->served[SPLIT]);
	return err;
}

/* A number of its own range, with one line when it is not. */
static int real_take(struct perf_options *perf, const char *name, double min, double max,
		     double *value)
{
	const char *text = perf_option(perf, name);
	char *end = NULL;

	if (text == NULL)
		return 0;
	*value = strtod(text, &end);
	if (*end == '\0' && *value >= min && *value <= max)
		return 0;
	perf_warn("%s: expected a number from %g to %g, not '%s'", name, min, max, text);
	return -SPLIT_E_BASE_INVALID;
}

static int lists_take(struct isolation *o)
{
	const char *busy = perf_option(&o->perf, "--busy");
	const char *sizes = perf_option(&o->perf, "--sizes");
	int n = perf_list("--sizes", sizes != NULL ? sizes : "1KiB,48KiB,476KiB", o->sizes,
			  SIZES_MAX);

	if (n <= 0)
		return -SPLIT_E_BASE_INVALID;
	o->sizes_n = (size_t)n;
	for (size_t i = 0; i < o->sizes_n; i++) {
		if (o->sizes[i] < 256 || o->sizes[i] > (3u << 20)) {
			perf_warn("--sizes: expected 256 bytes to 3 MiB");
			return -SPLIT_E_BASE_INVALID;
		}
	}
	n = busy != NULL ? perf_list("--busy", busy, o->busy, POINTS_MAX) : 0;
	o->busy_n = n > 0 ? (size_t)n : 0;
	return n < 0 ? -SPLIT_E_BASE_INVALID : 0;
}

static int options_take(const struct perf_options *options, struct isolation *o)
{
	const char *antagonist;

	*o = (struct isolation){.perf = *options, .load = 0.5};
	antagonist = perf_option(&o->perf, "--antagonist");
	o->port = perf_option(&o->perf, "--port");
	o->port = o->port != NULL ? o->port : "af_xdp";
	o->build = perf_option(&o->perf, "--build");
	o->connections = (unsigned)perf_number("--connections",
					       perf_option(&o->perf, "--connections"), 1, 1000, 8);
	o->streams =
		(unsigned)perf_number("--streams", perf_option(&o->perf, "--streams"), 1, 256, 16);
	if (lists_take(o) != 0 || real_take(&o->perf, "--load", 0.01, 2, &o->load) != 0 ||
	    real_take(&o->perf, "--rate", 1, 1e7, &o->rate) != 0)
		return -SPLIT_E_BASE_INVALID;
	o->antagonist_only = antagonist != NULL && strcmp(antagonist, "yes") == 0;
	o->alone_only = antagonist != NULL && strcmp(antagonist, "no") == 0;
	if (antagonist != NULL && !o->antagonist_only && !o->alone_only) {
		perf_warn("--antagonist: expected yes or no, not '%s'", antagonist);
		return -SPLIT_E_BASE_INVALID;
	}
	return perf_options_done(&o->perf);
}

static int isolation_run(const struct perf_options *options, json_t *out)
{
	struct isolation o;
	int err;

	if (options_take(options, &o) != 0)
		exit(2);
	o.perf.runs = RTE_MIN(o.perf.runs, (unsigned)RUNS_MAX);
	clock_calibrate();
	err = servers_start(&o);
	if (err != 0)
		return err;
	err = perf_pin(o.perf.core_b);
	if (err == 0)
		err = bench(&o, out);
	antagonist_stop(&o);
	served_stop(&o.served[GRPCPP]);
	served_stop(&o.served[SPLIT]);
	return err;
}

const struct perf_mode perf_mode_isolation = {
	.name = "isolation",
	.purpose = "splitd and plain grpc++ as the handler's work grows, alone and beside an "
		   "antagonist (Split gRPC, Figure 2)",
	.usage =
		"  --sizes LIST        bytes of a request; default 1KiB,48KiB,476KiB\n"
		"  --busy LIST         ns of busy loop in the handler; default: shares of the "
		"time\n"
		"                      between two calls, from 0 to 1\n"
		"  --load SHARE        offered load, of what the slower system does in a closed "
		"loop\n"
		"                      without a busy loop; default 0.5\n"
		"  --rate N            offered calls a second instead\n"
		"  --antagonist yes|no only with it, or only without; default: both\n"
		"  --connections N     default 8\n"
		"  --streams N         calls under way on each, at most; default 16, a quarter of\n"
		"                      them above 16 KiB\n"
		"  --port P            of splitd: af_xdp (default), af_packet, tap\n"
		"  --build DIR         where the servers are (default: beside this)\n"
		"Core A is the service's (and the antagonist's), core B the daemon's and the "
		"load's.\n",
	.run = isolation_run,
};
