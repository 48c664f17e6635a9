/* split-perf dispatch: what it costs to bring a decoded request to its handler.
 *
 * Four hosts, one after the other, each a process with the real libsplit-host: one that never
 * parks (polling_ns, host_cycles_per_call), a pool that parks at once (parked_ns, wakes, its idle
 * CPU), a pool that looks for a while and then parks, under calls that come at random (mixed), and
 * the echo host of a whole splitd that sleeps adaptively (idle_cpu_daemon). The daemon's
 * half of the first three runs on this thread; publications are stamped just before the slot is
 * made visible, entries as the first thing a handler does, both with the cycle counter.
 */
#include <stdlib.h>
#include <string.h>

#include <math.h>

#include "base/clock.h"
#include "base/random.h"
#include "bench/echo_host.h"
#include "bench/host_pair.h"
#include "bench/perf.h"
#include "bench/rig.h"
#include "bench/ring.h"

#define BATCH        32u /* calls in the ring when a batch begins; at most its slots */
#define POOL_WORKERS 4u
#define SAMPLES_MAX  200000u
#define PARKED_MAX   2000u
/* A waking thread needs so long to be back in its futex; twice the spin of the pool. */
#define PARK_WAIT_NS (50 * CLOCK_NS_PER_US)
#define PAYLOAD      64u
/* Mixed: how long a worker looks, and the mean of the pauses between calls (exponential): some are
 * shorter than a look, some longer. */
#define MIXED_SPIN_NS  (50 * CLOCK_NS_PER_US)
#define MIXED_PAUSE_NS (30 * CLOCK_NS_PER_US)

/* One run. */
struct dispatch {
	const struct perf_options *perf;
	double seconds;
	double *samples;
	double polling_ns, parked_ns, idle_cpu_host;
	double batched, single; /* host cycles a call */
	double polling_syscalls;
	uint64_t polling_calls, parked_calls, wakes, parks;
	double wake_ns; /* of the daemon, for one wake */
	double mixed_ns, mixed_p99_ns;
	uint64_t mixed_calls, mixed_polling, mixed_wakes;
};

static void pause_s(double seconds)
{
	const struct timespec ts = {
		.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9),
	};

	(void)nanosleep(&ts, NULL);
}

static double cycles_ns(uint64_t cycles)
{
	return (double)cycles * 1e9 / (double)clock_cycles_hz();
}

/* One call, in nanoseconds. */
struct timed {
	double there; /* from publication to the handler */
	double whole; /* until the answer was seen */
	double bell;  /* the doorbell: a fence and a look, and a system call if it sleeps */
};

static int one_call(struct host_pair *p, unsigned lane, struct timed *t)
{
	int err = host_pair_submit(p, lane);
	uint64_t begin;

	if (err != 0)
		return err;
	begin = clock_cycles();
	host_pair_flush(p);
	t->bell = cycles_ns(clock_cycles() - begin);
	err = host_pair_wait(p);
	t->there = cycles_ns(p->page->entered - p->published_at);
	t->whole = cycles_ns(p->answered_at - p->published_at);
	return err;
}

/* ---- a host that polls ---------------------------------------------------------------------- */

/* Publication to handler. And, of the same calls, what the host spends on one that comes alone:
 * from publication until its answer is seen, less a bare line's way there and back. The daemon's
 * last steps of publishing and first of seeing are in it, so it is an upper bound. */
static int polling_single(struct dispatch *d, struct host_pair *p)
{
	double *there = d->samples, *whole = there + SAMPLES_MAX / 3,
	       *bell = whole + SAMPLES_MAX / 3;
	double line_ns = ring_line_rtt(d->perf, d->seconds / 8);
	uint64_t n = 0, end_ns = clock_ns() + (uint64_t)(d->seconds * 1e9 / 2);

	while (n < SAMPLES_MAX / 3 && (n == 0 || clock_ns() < end_ns)) {
		struct timed t;
		int err = one_call(p, 0, &t);

		if (err != 0)
			return err;
		there[n] = t.there;
		whole[n] = t.whole;
		bell[n] = t.bell;
		n++;
	}
	d->polling_ns = perf_median(there, n);
	d->single = (perf_median(whole, n) - line_ns) / 1e9 * (double)clock_cycles_hz();
	d->wake_ns = -perf_median(bell, n); /* parked_calls adds what it is with a wake */
	d->polling_calls = n;
	return 0;
}

/* The first handler of a batch waits until the others are all in the ring; from then on the host
 * has nothing to wait for. */
static int polling_batched(struct dispatch *d, struct host_pair *p)
{
	uint64_t n = 0, end_ns = clock_ns() + (uint64_t)(d->seconds * 1e9 / 2);

	while (n < SAMPLES_MAX && (n == 0 || clock_ns() < end_ns)) {
		uint64_t first = atomic_load(&p->page->calls) + 1;
		int err = 0;

		atomic_store(&p->page->gate, first - 1);
		for (unsigned i = 0; i < BATCH && err == 0; i++)
			err = host_pair_submit(p, 0);
		host_pair_flush(p);
		/* Slots are visible at once; the gate keeps the first handler in until here. */
		atomic_store(&p->page->gate, UINT64_MAX);
		if (err == 0)
			err = host_pair_wait(p);
		if (err != 0)
			return err;
		if (p->page->first == 0)
			continue; /* the host was quicker than the gate: no sample */
		d->samples[n++] = (double)(p->page->entered - p->page->first) / (BATCH - 1);
		p->page->first = 0;
	}
	d->batched = perf_median(d->samples, n);
	return 0;
}

static int polling(struct dispatch *d)
{
	const struct host_pair_options options = {
		.workers = 1, .core = d->perf->core_b, .spin_ns = UINT64_MAX, .payload = PAYLOAD};
	struct host_pair p;
	int err = host_pair_open(&p, &options);

	if (err != 0)
		return err;
	err = polling_single(d, &p);
	d->polling_syscalls =
		d->polling_calls != 0 ? (double)p.counters.wakes / (double)d->polling_calls : 0;
	if (err == 0)
		err = polling_batched(d, &p);
	host_pair_close(&p);
	return err;
}

/* ---- a pool that parks ---------------------------------------------------------------------- */

static int parked_wait(struct host_pair *p)
{
	uint64_t end_ns = clock_ns() + CLOCK_NS_PER_SEC, parked_ns = 0;

	for (;;) {
		struct endpoint_lane_state state;
		uint64_t now = clock_ns();

		endpoint_lane_state(p->port, 0, &state);
		if (state.state != HOST_PARKED)
			parked_ns = 0;
		else if (parked_ns == 0)
			parked_ns = now;
		else if (now - parked_ns >= PARK_WAIT_NS)
			return 0;
		if (now > end_ns) {
			perf_warn("the host does not park");
			return -SPLIT_E_BASE_INTERNAL;
		}
	}
}

static int parked_calls(struct dispatch *d, struct host_pair *p)
{
	double *there = d->samples, *bell = d->samples + PARKED_MAX;
	uint64_t n = 0, end_ns = clock_ns() + (uint64_t)(d->seconds * 1e9 / 2);
	uint64_t wakes = p->counters.wakes;

	while (n < PARKED_MAX && (n == 0 || clock_ns() < end_ns)) {
		struct timed t;
		int err = parked_wait(p);

		if (err == 0)
			err = one_call(p, 0, &t);
		if (err != 0)
			return err;
		there[n] = t.there;
		bell[n] = t.bell;
		n++;
	}
	d->parked_ns = perf_median(there, n);
	d->wake_ns += perf_median(bell, n);
	d->parked_calls = n;
	d->wakes = p->counters.wakes - wakes;
	return 0;
}

static int parked(struct dispatch *d)
{
	const struct host_pair_options options = {
		.workers = POOL_WORKERS, .core = d->perf->core_b, .spin_ns = 1, .payload = PAYLOAD};
	struct host_pair_page last;
	struct host_pair p;
	uint64_t cpu, ns;
	int err = host_pair_open(&p, &options);

	if (err != 0)
		return err;
	err = parked_wait(&p);
	cpu = process_cpu_ns(p.pid);
	ns = clock_ns();
	pause_s(d->seconds * 2);
	cpu = process_cpu_ns(p.pid) - cpu;
	d->idle_cpu_host = (double)cpu / (double)(clock_ns() - ns);
	if (err == 0)
		err = parked_calls(d, &p);
	/* The page outlives the host: it says how often it parked when it ends. */
	echo_host_end(p.pid);
	p.pid = 0;
	memcpy(&last, p.page, sizeof(last));
	d->parks = atomic_load(&last.parks);
	host_pair_close(&p);
	return err;
}

/* ---- a pool of which some look and some sleep ------------------------------------------------ */

/* As balance chooses: one that looks, else a parked one; here none is running. */
static unsigned mixed_lane(struct host_pair *p, bool *polling_out)
{
	*polling_out = false;
	for (unsigned lane = 0; lane < POOL_WORKERS; lane++) {
		struct endpoint_lane_state state;

		endpoint_lane_state(p->port, lane, &state);
		if (state.state == HOST_POLLING) {
			*polling_out = true;
			return lane;
		}
	}
	return 0;
}

static int mixed_calls(struct dispatch *d, struct host_pair *p)
{
	uint64_t n = 0, now = clock_ns(), end_ns = now + (uint64_t)(d->seconds * 1e9 / 2),
		 next = now;
	uint64_t wakes = p->counters.wakes;
	struct random random;

	random_seed(&random, 1);
	while (n < SAMPLES_MAX && (n == 0 || now < end_ns)) {
		double u = ((double)(random_next(&random) >> 11) + 1) * 0x1p-53;
		bool polling;
		struct timed t;
		unsigned lane;
		int err;

		next = now + (uint64_t)(-log(u) * (double)MIXED_PAUSE_NS);
		while (now < next)
			now = clock_ns();
		lane = mixed_lane(p, &polling);
		d->mixed_polling += polling;
		err = one_call(p, lane, &t);
		if (err != 0)
			return err;
		d->samples[n++] = t.there;
		now = clock_ns();
	}
	d->mixed_ns = perf_median(d->samples, n); /* sorts them */
	d->mixed_p99_ns = d->samples[(n - 1) * 99 / 100];
	d->mixed_calls = n;
	d->mixed_wakes = p->counters.wakes - wakes;
	return 0;
}

static int mixed(struct dispatch *d)
{
	const struct host_pair_options options = {.workers = POOL_WORKERS,
						  .core = d->perf->core_b,
						  .spin_ns = MIXED_SPIN_NS,
						  .payload = PAYLOAD};
	struct host_pair p;
	int err = host_pair_open(&p, &options);

	if (err != 0)
		return err;
	err = mixed_calls(d, &p);
	host_pair_close(&p);
	return err;
}

/* ---- a whole splitd, asleep ----------------------------------------------------------------- */

static int asleep(const struct perf_options *perf, double *cpu_out)
{
	const struct rig_options options = {.alias_min = RIG_ALIAS_DEFAULT,
					    .core_daemon = perf->core_a,
					    .core_host = perf->core_b,
					    .core_load = perf->core_b,
					    .adaptive = true,
					    .connections_max = 16,
					    .calls = 16};
	struct rig_sample a, b;
	struct rig *rig = NULL;
	int err = rig_start(&options, &rig);

	if (err != 0)
		return err;
	pause_s(0.1);
	rig_sample(rig, &a);
	pause_s(perf->seconds * 2);
	rig_sample(rig, &b);
	*cpu_out = (double)(b.daemon_cpu_ns - a.daemon_cpu_ns) / (double)(b.ns - a.ns);
	rig_stop(rig);
	return 0;
}

/* ---- the mode ------------------------------------------------------------------------------- */

/* Median over the runs of the double at `offset`. */
static double median_of(const struct dispatch *runs, unsigned n, size_t offset)
{
	double values[101];

	for (unsigned i = 0; i < n; i++)
		memcpy(&values[i], (const char *)&runs[i] + offset, sizeof(double));
	return perf_median(values, n);
}
#define MEDIAN(member) median_of(runs, n, offsetof(struct dispatch, member))

static void report(const struct dispatch *runs, unsigned n, double idle_cpu_daemon, json_t *out)
{
	const struct perf_options *perf = runs[0].perf;
	uint64_t wakes = 0, parks = 0, parked_n = 0, polling_n = 0;
	double polling_ns = MEDIAN(polling_ns), parked_ns = MEDIAN(parked_ns);
	double batched = MEDIAN(batched), single = MEDIAN(single);
	double idle_cpu_host = MEDIAN(idle_cpu_host), polling_syscalls = MEDIAN(polling_syscalls);
	double mixed_ns = MEDIAN(mixed_ns), mixed_p99 = MEDIAN(mixed_p99_ns);
	double wake_ns = MEDIAN(wake_ns), parked_syscalls, mixed_syscalls;
	uint64_t mixed_n = 0, mixed_polling = 0, mixed_wakes = 0;

	for (unsigned i = 0; i < n; i++) {
		wakes += runs[i].wakes;
		parks += runs[i].parks;
		parked_n += runs[i].parked_calls;
		polling_n += runs[i].polling_calls;
		mixed_n += runs[i].mixed_calls;
		mixed_polling += runs[i].mixed_polling;
		mixed_wakes += runs[i].mixed_wakes;
	}
	/* A wake is one FUTEX_WAKE; the host goes back to sleep by one FUTEX_WAIT. */
	parked_syscalls = 2 * (double)wakes / (double)parked_n;
	mixed_syscalls = 2 * (double)mixed_wakes / (double)mixed_n;
	json_object_set_new(out, "polling_ns", json_real(polling_ns));
	json_object_set_new(out, "parked_ns", json_real(parked_ns));
	json_object_set_new(out, "wakes", json_integer((json_int_t)wakes));
	json_object_set_new(out, "parks", json_integer((json_int_t)parks));
	json_object_set_new(out, "parked_calls", json_integer((json_int_t)parked_n));
	json_object_set_new(out, "polling_calls", json_integer((json_int_t)polling_n));
	json_object_set_new(out, "syscalls_per_call",
			    json_pack("{s:f, s:f, s:f}", "polling", polling_syscalls, "parked",
				      parked_syscalls, "mixed", mixed_syscalls));
	json_object_set_new(out, "wake_ns", json_real(wake_ns));
	json_object_set_new(out, "mixed_ns", json_real(mixed_ns));
	json_object_set_new(out, "mixed_p99_ns", json_real(mixed_p99));
	json_object_set_new(out, "mixed_calls", json_integer((json_int_t)mixed_n));
	json_object_set_new(out, "mixed_polling", json_integer((json_int_t)mixed_polling));
	json_object_set_new(out, "mixed_wakes", json_integer((json_int_t)mixed_wakes));
	json_object_set_new(out, "host_cycles_per_call",
			    json_pack("{s:f, s:f}", "batched", batched, "single", single));
	json_object_set_new(out, "idle_cpu_host", json_real(idle_cpu_host));
	json_object_set_new(out, "idle_cpu_daemon", json_real(idle_cpu_daemon));
	json_object_set_new(out, "pool_workers", json_integer(POOL_WORKERS));
	json_object_set_new(out, "cycles_hz", json_integer((json_int_t)clock_cycles_hz()));
	perf_say(perf,
		 "publication to handler, host polling    %9.0f ns\n"
		 "publication to handler, host parked     %9.0f ns\n"
		 "the same, mixed: median / P99           %9.0f / %.0f ns\n"
		 "a wake, for the daemon                  %9.0f ns\n"
		 "wakes a parked call / a mixed one       %9.2f / %.2f\n"
		 "mixed calls that found one polling      %9.0f %%\n"
		 "system calls, polling / parked / mixed  %9.2f / %.2f / %.2f\n"
		 "host cycles a call, batched / single    %9.0f / %.0f\n"
		 "CPU of an idle pool of %u                %9.4f %%\n"
		 "CPU of an idle daemon, adaptive         %9.4f %%\n",
		 polling_ns, parked_ns, mixed_ns, mixed_p99, wake_ns,
		 (double)wakes / (double)parked_n, (double)mixed_wakes / (double)mixed_n,
		 100 * (double)mixed_polling / (double)mixed_n, polling_syscalls, parked_syscalls,
		 mixed_syscalls, batched, single, POOL_WORKERS, 100 * idle_cpu_host,
		 100 * idle_cpu_daemon);
}

static int runs_do(const struct perf_options *options, struct dispatch *runs, double *samples)
{
	int err = perf_pin(options->core_a);

	for (unsigned i = 0; i < options->runs && err == 0; i++) {
		runs[i] = (struct dispatch){
			.perf = options, .seconds = options->seconds / 2, .samples = samples};
		perf_progress("run %u of %u: a host that polls", i + 1, options->runs);
		err = polling(&runs[i]);
		perf_progress("run %u of %u: a pool that parks", i + 1, options->runs);
		if (err == 0)
			err = parked(&runs[i]);
		perf_progress("run %u of %u: a pool under random calls", i + 1, options->runs);
		if (err == 0)
			err = mixed(&runs[i]);
	}
	return err;
}

static int dispatch_run(const struct perf_options *options, json_t *out)
{
	struct dispatch *runs = calloc(options->runs, sizeof(*runs));
	double *samples = malloc(SAMPLES_MAX * sizeof(*samples)), idle_cpu_daemon = 0;
	int err = runs != NULL && samples != NULL ? 0 : -SPLIT_E_BASE_NOMEM;

	if (perf_options_done(options) != 0)
		exit(2);
	clock_calibrate();
	if (err == 0)
		err = runs_do(options, runs, samples);
	perf_progress("a splitd that sleeps");
	/* Last: DPDK makes threads, and hosts are forked. */
	if (err == 0)
		err = asleep(options, &idle_cpu_daemon);
	if (err == 0)
		report(runs, options->runs, idle_cpu_daemon, out);
	free(samples);
	free(runs);
	return err;
}

const struct perf_mode perf_mode_dispatch = {
	.name = "dispatch",
	.purpose = "a decoded request to its handler: latency, wakes, host cycles, idle CPU",
	.usage = "",
	.run = dispatch_run,
};
