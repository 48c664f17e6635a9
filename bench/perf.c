/* What the modes share: options, printing, pinning, statistics. */
#include "bench/perf.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void perf_say(const struct perf_options *options, const char *format, ...)
{
	va_list args;

	if (options->json)
		return;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fflush(stdout);
}

static bool warned;

bool perf_warned(void)
{
	return warned;
}

void perf_warn(const char *format, ...)
{
	va_list args;

	warned = true;
	va_start(args, format);
	fputs("split-perf: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

void perf_progress(const char *format, ...)
{
	bool terminal = isatty(STDERR_FILENO) == 1;
	va_list args;

	va_start(args, format);
	if (terminal)
		fputs("\r\033[K", stderr);
	vfprintf(stderr, format, args);
	if (!terminal)
		fputc('\n', stderr);
	fflush(stderr);
	va_end(args);
}

static void option_remove(struct perf_options *options, int at, int n)
{
	memmove(&options->argv[at], &options->argv[at + n],
		(size_t)(options->argc - at - n) * sizeof(char *));
	options->argc -= n;
}

const char *perf_option(struct perf_options *options, const char *name)
{
	for (int i = 1; i < options->argc; i++) {
		if (strcmp(options->argv[i], name) != 0)
			continue;
		if (i + 1 >= options->argc) {
			perf_warn("%s needs a value", name);
			exit(2);
		}
		const char *value = options->argv[i + 1];

		option_remove(options, i, 2);
		return value;
	}
	return NULL;
}

bool perf_flag(struct perf_options *options, const char *name)
{
	for (int i = 1; i < options->argc; i++) {
		if (strcmp(options->argv[i], name) == 0) {
			option_remove(options, i, 1);
			return true;
		}
	}
	return false;
}

/* "64", "1KiB", "4MiB"; false when it is none of these. */
static bool size_parse(const char *text, char **end, uint64_t *out)
{
	errno = 0;
	uint64_t value = strtoull(text, end, 10);

	if (*end == text || errno != 0 || text[0] == '-')
		return false;
	if (strncmp(*end, "KiB", 3) == 0) {
		value <<= 10;
		*end += 3;
	} else if (strncmp(*end, "MiB", 3) == 0) {
		value <<= 20;
		*end += 3;
	}
	*out = value;
	return true;
}

int perf_list(const char *name, const char *text, uint64_t *out, size_t max)
{
	size_t n = 0;
	char *end;

	for (;; text = end + 1) {
		if (n == max || !size_parse(text, &end, &out[n]) || (*end != ',' && *end != '\0')) {
			perf_warn("%s: expected at most %zu numbers or sizes like 64,1KiB,4MiB, "
				  "not '%s'",
				  name, max, text);
			return -SPLIT_E_BASE_INVALID;
		}
		n++;
		if (*end == '\0')
			return (int)n;
	}
}

uint64_t perf_number(const char *name, const char *text, uint64_t min, uint64_t max,
		     uint64_t otherwise)
{
	uint64_t value;
	char *end;

	if (!text)
		return otherwise;
	if (!size_parse(text, &end, &value) || *end != '\0' || value < min || value > max) {
		perf_warn("%s: expected a whole number from %llu to %llu, not '%s'", name,
			  (unsigned long long)min, (unsigned long long)max, text);
		exit(2);
	}
	return value;
}

int perf_options_done(const struct perf_options *options)
{
	if (options->argc <= 1)
		return 0;
	perf_warn("%s: unknown option '%s' (split-perf %s --help lists them)", options->argv[0],
		  options->argv[1], options->argv[0]);
	return -SPLIT_E_BASE_INVALID;
}

int perf_pin(unsigned core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (core < CPU_SETSIZE)
		CPU_SET(core, &set);
	if (core >= CPU_SETSIZE || pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0) {
		perf_warn("cannot run on core %u: not there, or not allowed", core);
		return -SPLIT_E_BASE_SYSTEM;
	}
	return 0;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double perf_median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), compare_double);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* 64 buckets for each power of two from 2^6 on; below it one for each value. */
static size_t bucket_of(uint64_t ns)
{
	if (ns < 64)
		return ns;
	unsigned log = 63U - (unsigned)__builtin_clzll(ns);
	size_t b = (size_t)(log - 5) * 64 + ((ns >> (log - 6)) & 63);
	size_t last = sizeof(((struct perf_histogram *)0)->buckets) / sizeof(uint64_t) - 1;

	return b < last ? b : last;
}

static uint64_t bucket_edge(size_t b)
{
	if (b < 64)
		return b;
	return ((UINT64_C(64) + b % 64 + 1) << (b / 64 - 1)) - 1;
}

void perf_histogram_add(struct perf_histogram *h, uint64_t ns)
{
	h->buckets[bucket_of(ns)]++;
	h->count++;
	if (ns > h->max)
		h->max = ns;
}

void perf_histogram_merge(struct perf_histogram *into, const struct perf_histogram *from)
{
	for (size_t i = 0; i < sizeof(into->buckets) / sizeof(into->buckets[0]); i++)
		into->buckets[i] += from->buckets[i];
	into->count += from->count;
	if (from->max > into->max)
		into->max = from->max;
}

uint64_t perf_histogram_at(const struct perf_histogram *h, double q)
{
	uint64_t want = (uint64_t)ceil(q * (double)h->count), seen = 0;

	for (size_t i = 0; i < sizeof(h->buckets) / sizeof(h->buckets[0]); i++) {
		seen += h->buckets[i];
		if (seen >= want && seen > 0) {
			uint64_t edge = bucket_edge(i);

			return edge < h->max ? edge : h->max;
		}
	}
	return 0;
}

json_t *perf_histogram_json(const struct perf_histogram *h)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "p50", (json_int_t)perf_histogram_at(h, 0.5),
			 "p90", (json_int_t)perf_histogram_at(h, 0.9), "p99",
			 (json_int_t)perf_histogram_at(h, 0.99), "p999",
			 (json_int_t)perf_histogram_at(h, 0.999), "max", (json_int_t)h->max);
}
