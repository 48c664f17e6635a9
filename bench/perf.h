/* split-perf: testpmd-style benches, one mode for each thing that is claimed.
 *
 * A mode fills a JSON object (keys as documented in bench/README.md) and prints its table to
 * standard output through perf_say, which is silent with --json. Live lines and warnings go to
 * standard error. Modes run one at a time on the main thread and may start threads of their own.
 */
#ifndef SPLITD_BENCH_PERF_H
#define SPLITD_BENCH_PERF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define PERF_LIST_MAX 32

/* What the command line said. Modes reject what they do not know by perf_option_*'s leftovers. */
struct perf_options {
	bool json;
	unsigned core_a; /* the daemon's side, or the server */
	unsigned core_b; /* the host's side, or the client */
	unsigned runs;   /* interleaved repetitions; medians are reported */
	double seconds;  /* aimed length of one measured run */
	int argc;        /* what is left for the mode, argv[0] is its name */
	char **argv;
};

struct perf_mode {
	const char *name;
	const char *purpose; /* one line */
	const char *usage;   /* its own options, one a line; may be "" */
	/* 0, or a negative code after one line on standard error. Adds its keys to `out`. */
	int (*run)(const struct perf_options *options, json_t *out);
};

extern const struct perf_mode perf_mode_ring;
extern const struct perf_mode perf_mode_codec;
extern const struct perf_mode perf_mode_rpc;
extern const struct perf_mode perf_mode_dispatch;
extern const struct perf_mode perf_mode_host;
extern const struct perf_mode perf_mode_tcp;
extern const struct perf_mode perf_mode_isolation;

/* Table output: printf to standard output, nothing with --json. */
void perf_say(const struct perf_options *options, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* One line to standard error, "split-perf: " before it. */
void perf_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether there was one. */
bool perf_warned(void);
/* Progress: overwritten in place on a terminal, a line each time otherwise. */
void perf_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Options of a mode: the value after `name` ("--bytes"), or NULL; taken out of argv. */
const char *perf_option(struct perf_options *options, const char *name);
bool perf_flag(struct perf_options *options, const char *name);
/* "64,1KiB,48KiB" -> numbers; how many, or negative with a line on standard error. */
int perf_list(const char *name, const char *text, uint64_t *out, size_t max);
/* A whole number in [min, max] or `otherwise` when text is NULL; exits with 2 and a line if bad. */
uint64_t perf_number(const char *name, const char *text, uint64_t min, uint64_t max,
		     uint64_t otherwise);
/* After a mode took its options: anything left is an error (one line). */
int perf_options_done(const struct perf_options *options);

/* Pin the calling thread. A core that is not there is an error with one line. */
int perf_pin(unsigned core);

/* Median; sorts `values`. n >= 1. */
double perf_median(double *values, size_t n);

/* Latencies: log-linear buckets, 1/64 relative error, 1 ns to 18 min, fixed memory. */
struct perf_histogram {
	uint64_t count, max;
	uint64_t buckets[64 * 42];
};
void perf_histogram_add(struct perf_histogram *h, uint64_t ns);
void perf_histogram_merge(struct perf_histogram *into, const struct perf_histogram *from);
/* The value below which `q` (0..1) of all lie, upper edge of its bucket; 0 when empty. */
uint64_t perf_histogram_at(const struct perf_histogram *h, double q);
/* {"p50","p90","p99","p999","max"} */
json_t *perf_histogram_json(const struct perf_histogram *h);

#endif
